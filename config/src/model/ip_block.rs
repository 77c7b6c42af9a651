//! ipBlock: one network minus exceptions inside it.
//!
//! Networks are kept masked, so two spellings of one network are equal. The exceptions take addresses from this
//! block alone and never veto another peer, rule or policy (NetworkPolicy API, `IPBlock.except`).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// An ipBlock peer. One family: `0.0.0.0/0` says nothing about IPv6.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    cidr: IpNet,
    except: Vec<IpNet>,
}

/// Why an ipBlock is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIpBlock {
    /// An exception is not strictly inside the block (networking validation, `ValidateIPBlock`).
    #[error("{except} is not a strict subset of {cidr}")]
    ExceptOutside {
        /// The exception.
        except: IpNet,
        /// The block.
        cidr: IpNet,
    },
}

impl IpBlock {
    /// Masks all networks, and sorts and dedups the exceptions.
    ///
    /// # Errors
    /// [`InvalidIpBlock`] if an exception is not a strict subset of `cidr`.
    pub fn new(cidr: IpNet, except: impl IntoIterator<Item = IpNet>) -> Result<Self, InvalidIpBlock> {
        let cidr = cidr.trunc();
        let mut except: Vec<IpNet> = except.into_iter().map(|net| net.trunc()).collect();
        for &net in &except {
            // `contains` answers false across families.
            if !cidr.contains(&net) || net.prefix_len() <= cidr.prefix_len() {
                return Err(InvalidIpBlock::ExceptOutside { except: net, cidr });
            }
        }
        except.sort_unstable();
        except.dedup();
        Ok(Self { cidr, except })
    }

    /// The network, masked.
    #[must_use]
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// The exceptions, masked and sorted.
    #[must_use]
    pub fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// In the network and in none of its exceptions.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        if !self.except.is_empty() {
            let list: Vec<String> = self.except.iter().map(IpNet::to_string).collect();
            write!(f, " except {}", list.join(", "))?;
        }
        Ok(())
    }
}

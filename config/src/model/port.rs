//! Protocols and ports of policies and containers.

use std::fmt;
use std::num::NonZeroU16;

use super::name::{InvalidName, name_type};
use std::sync::Arc;

/// The three protocols a policy or container port can name (k8s.io/api/core/v1 `Protocol`; case matters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// IP protocol 6; what a missing `protocol` means.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The API's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The IP protocol number (IANA).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Reads the API's spelling; case matters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == text)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port number, 1 to 65535, host byte order.
pub type PortNumber = NonZeroU16;

name_type!(
    /// A port's name (IANA service name as k8s.io/apimachinery `IsValidPortName` has it).
    PortName,
    is_port_name,
    "a port name (1 to 15 of a-z, 0-9 and '-', at least one letter, no '--', no '-' at either end)"
);

fn is_port_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=15).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !text.contains("--")
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Which destination ports a policy port covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// `port` missing: every port of the protocol.
    All,
    /// A number, or `port` to `endPort` inclusive; `first <= last`.
    Range {
        /// Lowest port.
        first: PortNumber,
        /// Highest port, included.
        last: PortNumber,
    },
    /// A name, resolved on each destination pod.
    Named(PortName),
}

/// Why a port is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// endPort below port.
    #[error("endPort {last} is below port {first}")]
    Reversed {
        /// `port`.
        first: PortNumber,
        /// `endPort`.
        last: PortNumber,
    },
}

/// One entry of a rule's `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    matches: PortMatch,
}

impl PolicyPort {
    /// Every port of `protocol`.
    #[must_use]
    pub fn all(protocol: Protocol) -> Self {
        Self { protocol, matches: PortMatch::All }
    }

    /// Ports `first` to `last`, both included.
    ///
    /// # Errors
    /// [`InvalidPort::Reversed`] if `last < first`.
    pub fn range(protocol: Protocol, first: PortNumber, last: PortNumber) -> Result<Self, InvalidPort> {
        if last < first {
            return Err(InvalidPort::Reversed { first, last });
        }
        Ok(Self { protocol, matches: PortMatch::Range { first, last } })
    }

    /// The port that each destination pod declares under `name` for `protocol`.
    #[must_use]
    pub fn named(protocol: Protocol, name: PortName) -> Self {
        Self { protocol, matches: PortMatch::Named(name) }
    }

    /// Which ports.
    #[must_use]
    pub fn matches(&self) -> &PortMatch {
        &self.matches
    }
}

impl fmt::Display for PolicyPort {
    /// `TCP`, `TCP/80`, `TCP/8000-8999`, `TCP/http`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.matches {
            PortMatch::All => write!(f, "{}", self.protocol),
            PortMatch::Range { first, last } if first == last => write!(f, "{}/{first}", self.protocol),
            PortMatch::Range { first, last } => write!(f, "{}/{first}-{last}", self.protocol),
            PortMatch::Named(name) => write!(f, "{}/{name}", self.protocol),
        }
    }
}

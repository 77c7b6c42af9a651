//! Addresses of links.

use std::net::IpAddr;

use futures::TryStreamExt;
pub use netlink_packet_route::address::AddressScope;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::{Netlink, NetlinkError};

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Of its on-link network.
    pub prefix_length: u8,
    /// Where it is valid.
    pub scope: AddressScope,
}

impl Address {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        // On point-to-point links IFA_ADDRESS is the peer's and IFA_LOCAL ours; IPv6 has IFA_ADDRESS alone.
        let mut local = None;
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(value) => local = Some(*value),
                AddressAttribute::Address(value) => address = Some(*value),
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            address: local.or(address)?,
            prefix_length: message.header.prefix_len,
            scope: message.header.scope,
        })
    }
}

impl Netlink {
    /// Gives a link an address, usable at once: duplicate address detection is skipped, because whoever calls
    /// this knows that nobody else has it.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_address(
        &self,
        index: u32,
        address: IpAddr,
        prefix_length: u8,
    ) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address, prefix_length);
        if address.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.replace().execute().await.map_err(|error| {
            NetlinkError::rtnetlink(
                format_args!("add the address {address}/{prefix_length} to link {index}"),
                &error,
            )
        })
    }

    /// Takes an address from a link; fine if it has none such.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_address(&self, address: &Address) -> Result<(), NetlinkError> {
        let mut addresses = self.handle.address().get().set_link_index_filter(address.index).execute();
        let operation =
            format_args!("delete the address {} of link {}", address.address, address.index).to_string();
        while let Some(message) =
            addresses.try_next().await.map_err(|error| NetlinkError::rtnetlink(&operation, &error))?
        {
            if Address::from_message(&message).as_ref() == Some(address) {
                let result = self.handle.address().del(message).execute().await;
                return match result.map_err(|error| NetlinkError::rtnetlink(&operation, &error)) {
                    Err(error) if !error.is_missing() => Err(error),
                    _ => Ok(()),
                };
            }
        }
        Ok(())
    }

    /// All addresses of all links.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::rtnetlink("list the addresses", &error))?;
        Ok(messages.iter().filter_map(Address::from_message).collect())
    }
}

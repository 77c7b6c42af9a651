//! Neighbours: who has which MAC address on a link.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{MacAddress, Netlink, NetlinkError};

/// How an entry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourKind {
    /// As given, for good, without asking anybody.
    Permanent(MacAddress),
    /// The kernel resolves it and keeps it fresh without traffic (Linux 5.16 and later).
    Managed,
}

/// An entry of the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The link's index.
    pub index: u32,
    /// Who.
    pub address: IpAddr,
    /// Where, if it is known and may be used; `None` while it is being asked for or after that failed.
    pub mac: Option<MacAddress>,
}

impl Neighbour {
    pub(super) fn from_message(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => {
                    address = Some(IpAddr::from(*value));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => {
                    address = Some(IpAddr::from(*value));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let usable = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        );
        Some(Self { index: message.header.ifindex, address: address?, mac: mac.filter(|_| usable) })
    }
}

impl Netlink {
    /// Adds or replaces a neighbour.
    ///
    /// # Errors
    /// The kernel's; EINVAL for a managed one on a kernel without them.
    pub async fn set_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        kind: NeighbourKind,
    ) -> Result<(), NetlinkError> {
        let mut request = self.handle.neighbours().add(index, address).replace();
        request = match kind {
            NeighbourKind::Permanent(mac) => {
                request.state(NeighbourState::Permanent).link_layer_address(&mac)
            }
            NeighbourKind::Managed => {
                let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
                request.message_mut().attributes.push(managed);
                request.state(NeighbourState::None).flags(NeighbourFlags::Use)
            }
        };
        request.execute().await.map_err(|error| {
            NetlinkError::rtnetlink(format_args!("set the neighbour {address} on link {index}"), &error)
        })
    }

    /// Deletes a neighbour; fine if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_neighbour(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
            IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
        };
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let result = self.handle.neighbours().del(message).execute().await;
        let operation = format_args!("delete the neighbour {address} of link {index}").to_string();
        match result.map_err(|error| NetlinkError::rtnetlink(operation, &error)) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// All neighbours of all links, both families.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::rtnetlink("list the neighbours", &error))?;
        Ok(messages.iter().filter_map(Neighbour::from_message).collect())
    }
}

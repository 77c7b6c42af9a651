//! The gateway's own veth pairs, and the kernel's routes to pods.
//!
//! The *host pair* is the way between the gateway and the node's network stack: the kernel's end carries the routes to
//! all pods, the gateway's end has a socket. The *anchor pair* carries nothing; the packet memory is registered on it, so
//! that deleting any other device invalidates nothing. Both are reused if they are there: a gateway that was killed
//! leaves them, and what the kernel routes to pods keeps arriving at a port that drops it until the next one is up.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::netlink::{Link, Netlink, NetlinkError, Route, VethEnd, VethPair};

/// The kernel's end of the host pair.
pub const HOST_KERNEL: &str = "podgate0";
/// The gateway's end of the host pair.
pub const HOST_GATEWAY: &str = "podgate1";
/// The end of the anchor pair that the packet memory is registered on.
pub const ANCHOR: &str = "podgate-anchor0";
/// Its other end.
const ANCHOR_PEER: &str = "podgate-anchor1";

/// Why a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The kernel's answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Somebody else's device has the name.
    #[error(
        "the interface {name} is there and is not the other end of {peer}; remove it, so that podgate can make its own"
    )]
    Foreign {
        /// The name that podgate needs.
        name: String,
        /// The name of its other end.
        peer: String,
    },
}

/// Makes a veth pair, or finds the one that is there. Both ends are up afterwards.
///
/// # Errors
/// [`WireError::Foreign`] if one of the names is taken by something else.
async fn ensure_pair(netlink: &Netlink, near: &str, far: &str, mtu: u32) -> Result<(Link, Link), WireError> {
    let foreign =
        |name: &str, peer: &str| WireError::Foreign { name: name.to_owned(), peer: peer.to_owned() };
    if netlink.link(near).await?.is_none() && netlink.link(far).await?.is_none() {
        let end = |name| VethEnd { name, mac: None, namespace: None };
        netlink.create_veth(&VethPair { mtu, near: end(near), far: end(far) }).await?;
    }
    let first = netlink.link(near).await?.ok_or_else(|| foreign(far, near))?;
    let second = netlink.link(far).await?.ok_or_else(|| foreign(near, far))?;
    if first.peer_index != Some(second.index) || first.peer_namespace.is_some() {
        return Err(foreign(near, far));
    }
    for link in [&first, &second] {
        netlink.set_up(link.index).await?;
    }
    Ok((first, second))
}

/// The host pair: the kernel's end, and the gateway's.
///
/// # Errors
/// [`WireError`].
pub async fn ensure_host_pair(netlink: &Netlink, mtu: u32) -> Result<(Link, Link), WireError> {
    ensure_pair(netlink, HOST_KERNEL, HOST_GATEWAY, mtu).await
}

/// The anchor pair; the memory is registered on [`ANCHOR`].
///
/// # Errors
/// [`WireError`].
pub async fn ensure_anchor_pair(netlink: &Netlink) -> Result<(), WireError> {
    ensure_pair(netlink, ANCHOR, ANCHOR_PEER, 1500).await.map(|_| ())
}

/// Makes the kernel route exactly these addresses to the gateway, and no other single address by the host pair. `present`
/// are the kernel's routes as they are.
///
/// # Errors
/// The kernel's, for the first route that failed; the others are done nevertheless.
pub async fn route_pods(
    netlink: &Netlink,
    host_kernel: u32,
    wanted: &BTreeSet<IpAddr>,
    present: &[Route],
) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    for route in present.iter().filter(|route| !wanted.contains(&route.destination.addr())) {
        result = result.and(netlink.delete_route(route).await);
    }
    for address in wanted {
        let route = Route::host(*address, host_kernel);
        if !present.iter().any(|known| known.destination == route.destination) {
            result = result.and(netlink.add_route(&route).await);
        }
    }
    result
}

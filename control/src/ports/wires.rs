//! The gateway's own veth pairs.
//!
//! The *host pair* is the way between the gateway and the node's network stack: the kernel's end carries the routes to
//! all pods, the gateway's end has a socket. The *anchor pair* carries nothing; the packet memory is registered on it, so
//! that deleting any other device invalidates nothing. Both are reused if they are there: a gateway that was killed
//! leaves them, and what the kernel routes to pods keeps arriving at a port that drops it until the next one is up.

use crate::netlink::{Link, Netlink, NetlinkError, VethEnd, VethPair, write_sysctl};

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
        netlink.create_veth(&VethPair { mtu, queues: 1, near: end(near), far: end(far) }).await?;
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

/// Keeps this namespace's kernel from speaking IPv6 on ends that are not its own, and lets it speak at once on the one
/// that is: nobody else can have its address there. A kernel without IPv6 has nothing to say.
pub fn quiet() {
    for (key, value) in [
        (format!("net/ipv6/conf/{HOST_GATEWAY}/disable_ipv6"), "1"),
        (format!("net/ipv6/conf/{ANCHOR}/disable_ipv6"), "1"),
        (format!("net/ipv6/conf/{ANCHOR_PEER}/disable_ipv6"), "1"),
        // Read when the link-local address is made: once more, now without waiting for a duplicate.
        (format!("net/ipv6/conf/{HOST_KERNEL}/accept_dad"), "0"),
        (format!("net/ipv6/conf/{HOST_KERNEL}/router_solicitations"), "0"),
        (format!("net/ipv6/conf/{HOST_KERNEL}/disable_ipv6"), "1"),
        (format!("net/ipv6/conf/{HOST_KERNEL}/disable_ipv6"), "0"),
    ] {
        if let Err(error) = write_sysctl(&key, value) {
            tracing::debug!(%error, "left as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Namespace;

    /// A namespace of the test's own.
    struct Own(String);

    impl Drop for Own {
        fn drop(&mut self) {
            let _ = Namespace::delete(&self.0);
        }
    }

    #[tokio::test]
    async fn a_pair_is_made_once_and_found_again() {
        let own = Own(format!("pgw-{}", std::process::id()));
        let namespace = Namespace::create(&own.0).unwrap();
        let netlink = Netlink::connect_in(&namespace).unwrap();
        let (kernel, gateway) = ensure_host_pair(&netlink, 1500).await.unwrap();
        assert_eq!(kernel.peer_index, Some(gateway.index));
        let again = ensure_host_pair(&netlink, 1500).await.unwrap();
        assert_eq!((again.0.index, again.1.index), (kernel.index, gateway.index));
        assert!(netlink.link(HOST_KERNEL).await.unwrap().unwrap().up);

        netlink.delete_link(HOST_KERNEL).await.unwrap();
        let end = |name| VethEnd { name, mac: None, namespace: None };
        netlink
            .create_veth(&VethPair { mtu: 1500, queues: 1, near: end(HOST_KERNEL), far: end("other") })
            .await
            .unwrap();
        assert!(matches!(ensure_host_pair(&netlink, 1500).await, Err(WireError::Foreign { .. })));
    }
}

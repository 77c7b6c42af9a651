//! Everything that workers decide by, published as one value.
//!
//! A [`Snapshot`] is made whole by the control side and never changed afterwards. A worker pins one per batch, so all
//! packets of a batch see one generation of policy, ports and neighbours, never a mixture. Its parts refer to ports by
//! [`PortId`]; [`Snapshot::check`] holds that they are there, and the engine publishes nothing that fails it. A pod's
//! delivery may name a port that has gone: its packets are dropped by that name.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::packet::{PortId, PortKind, WorkerId};
use crate::policy::{Delivery, PodSlot, PolicyTables};

/// A MAC address, in the order of the wire.
pub type Mac = [u8; 6];

/// One generation of everything.
pub struct Snapshot {
    /// Counts up from 1 with every publication.
    pub generation: u64,
    /// False until every source has synced once without error: until then whatever is denied is counted so.
    pub synced: bool,
    /// The compiled policies.
    pub policy: PolicyTables,
    /// By [`PortId`].
    pub ports: Box<[Option<PortEntry>]>,
    /// Where everything goes that is no pod of this node and not in `direct`; `None` drops it.
    pub host: Option<PortId>,
    /// Addresses of this node.
    pub node: NodeAddresses,
    /// What an uplink reaches directly.
    pub direct: DirectRoutes,
}

/// A port, as packets see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEntry {
    /// What is behind it.
    pub kind: PortKind,
    /// Who receives from it and sends to it. If its queues are spread, the worker of its first queue, which sends for those
    /// that have none.
    pub worker: WorkerId,
    /// How many workers, from the first on, have queues of it; 0 if `worker` has all.
    pub spread: u8,
    /// The gateway's MAC address on it.
    pub mac: Mac,
    /// MAC address of the other end: the pod's or the host stack's interface; of no meaning for an uplink.
    pub peer_mac: Mac,
    /// Largest IP packet in bytes that may leave by it.
    pub mtu: u16,
    /// Nothing passes but what is exempt from policy, whatever the tables say.
    pub closed: bool,
    /// For a pod port the pod's addresses: the only sources it may use.
    pub addresses: Box<[IpAddr]>,
    /// For a pod port the pod's identity.
    pub identity: u32,
}

impl PortEntry {
    /// Who sends by this port what `worker` has ready: itself if it has queues here, otherwise the worker of the first one.
    /// It follows from the entry alone, so that the packets of a flow, which have one owner, leave by one queue.
    #[inline]
    #[must_use]
    pub fn sender_for(&self, worker: WorkerId) -> WorkerId {
        if worker.0 < self.spread { worker } else { self.worker }
    }
}

/// The node's own addresses, those of its kernel and of its Node object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeAddresses(Box<[IpAddr]>);

impl NodeAddresses {
    /// In any order.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self(addresses.into())
    }

    /// Is it one of them?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.binary_search(&address).is_ok()
    }

    /// The address under which the gateway speaks in this family: the node's first, if it has one.
    #[must_use]
    pub fn speaker(&self, v6: bool) -> Option<IpAddr> {
        self.0.iter().copied().find(|address| address.is_ipv6() == v6)
    }
}

/// A network that an uplink reaches without the host stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectRoute {
    /// The network.
    pub network: IpNet,
    /// The uplink.
    pub port: PortId,
    /// The router behind the uplink; `None` if the network is on its link.
    pub via: Option<IpAddr>,
}

/// All direct networks, and the neighbours that are known.
#[derive(Debug, Clone, Default)]
pub struct DirectRoutes {
    routes: Box<[DirectRoute]>,
    neighbours: HashMap<(PortId, IpAddr), Mac>,
}

/// What [`DirectRoutes::find`] knows of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// Send it by this port to this neighbour.
    Known(PortId, Mac),
    /// Send it by this port, once somebody has found out the MAC address of this neighbour.
    Unresolved(PortId, IpAddr),
}

impl DirectRoutes {
    /// Routes in any order; the longest prefix counts.
    #[must_use]
    pub fn new(
        routes: impl IntoIterator<Item = DirectRoute>,
        neighbours: impl IntoIterator<Item = ((PortId, IpAddr), Mac)>,
    ) -> Self {
        let mut routes: Vec<DirectRoute> = routes.into_iter().collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.network.prefix_len()));
        Self { routes: routes.into(), neighbours: neighbours.into_iter().collect() }
    }

    /// How to reach `address` directly; `None` if no direct network holds it. Walks the routes: for new connections,
    /// not for each packet.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<NextHop> {
        let route = self.routes.iter().find(|route| route.network.contains(&address))?;
        let neighbour = route.via.unwrap_or(address);
        Some(match self.neighbours.get(&(route.port, neighbour)) {
            Some(mac) => NextHop::Known(route.port, *mac),
            None => NextHop::Unresolved(route.port, neighbour),
        })
    }
}

/// Why a snapshot's parts do not fit together: a mistake of whoever built it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// Something refers to a port that is not there.
    #[error("{what} refers to port {port}, which is not there")]
    Port {
        /// What does.
        what: &'static str,
        /// The port.
        port: PortId,
    },
    /// A port belongs to a worker that is not there.
    #[error("port {port} belongs to worker {worker}, but there are {workers}")]
    Worker {
        /// The port.
        port: PortId,
        /// Its worker.
        worker: WorkerId,
        /// How many workers there are.
        workers: usize,
    },
}

impl Snapshot {
    /// A first snapshot for `generation` 1: no pods, no ports, nothing synced, so nothing passes.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            generation: 1,
            synced: false,
            policy: PolicyTables::empty(),
            ports: Box::default(),
            host: None,
            node: NodeAddresses::default(),
            direct: DirectRoutes::default(),
        }
    }

    /// The pod that has `address`, with its place in the tables and its delivery.
    #[inline]
    #[must_use]
    pub fn pod(&self, address: IpAddr) -> Option<(PodSlot, Delivery)> {
        let (index, slot) = self.policy.lookup(address)?;
        Some((slot, self.policy.delivery(index)?))
    }

    /// A port.
    #[inline]
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(port.0))?.as_ref()
    }

    /// Holds that the parts fit together, for `workers` workers.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, workers: usize) -> Result<(), Inconsistent> {
        let there = |what, port| match self.port(port) {
            Some(_) => Ok(()),
            None => Err(Inconsistent::Port { what, port }),
        };
        self.host.into_iter().try_for_each(|port| there("the host", port))?;
        self.direct.routes.iter().try_for_each(|route| there("a direct route", route.port))?;
        for (number, entry) in self.ports.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let last = WorkerId(entry.worker.0.max(entry.spread.saturating_sub(1)));
            if usize::from(last.0) >= workers {
                let port = PortId(number as u16);
                return Err(Inconsistent::Worker { port, worker: last, workers });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("synced", &self.synced)
            .field("ports", &self.ports.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_direct_prefix_counts() {
        let route = |network: &str, port, via: Option<&str>| DirectRoute {
            network: network.parse().unwrap(),
            port: PortId(port),
            via: via.map(ip),
        };
        let mac = [2, 0, 0, 0, 0, 1];
        let direct = DirectRoutes::new(
            [route("10.0.0.0/8", 1, Some("192.0.2.1")), route("10.1.0.0/16", 2, None)],
            [((PortId(1), ip("192.0.2.1")), mac)],
        );
        assert_eq!(direct.find(ip("10.2.0.1")), Some(NextHop::Known(PortId(1), mac)));
        assert_eq!(direct.find(ip("10.1.0.1")), Some(NextHop::Unresolved(PortId(2), ip("10.1.0.1"))));
        assert_eq!(direct.find(ip("192.0.2.1")), None);
    }

    #[test]
    fn what_refers_to_nothing_is_found() {
        let mut snapshot = Snapshot::closed();
        assert_eq!(snapshot.check(1), Ok(()));
        snapshot.host = Some(PortId(3));
        assert_eq!(snapshot.check(1), Err(Inconsistent::Port { what: "the host", port: PortId(3) }));
    }

    #[test]
    fn a_worker_with_queues_sends_itself_and_the_others_by_the_first() {
        let mut entry = PortEntry {
            kind: PortKind::Uplink,
            worker: WorkerId(0),
            spread: 2,
            mac: [2; 6],
            peer_mac: [4; 6],
            mtu: 1500,
            closed: false,
            addresses: Box::default(),
            identity: 0,
        };
        let senders = |entry: &PortEntry| [0, 1, 2, 3].map(|worker| entry.sender_for(WorkerId(worker)).0);
        assert_eq!(senders(&entry), [0, 1, 0, 0]);
        let mut snapshot = Snapshot::closed();
        snapshot.ports = vec![Some(entry.clone())].into();
        assert_eq!(snapshot.check(2), Ok(()));
        let missing = Inconsistent::Worker { port: PortId(0), worker: WorkerId(1), workers: 1 };
        assert_eq!(snapshot.check(1), Err(missing));
        (entry.worker, entry.spread) = (WorkerId(2), 0);
        assert_eq!(senders(&entry), [2; 4]);
    }

    #[test]
    fn node_addresses_speak_per_family() {
        let node = NodeAddresses::new([ip("10.0.0.9"), ip("fd00::9"), ip("10.0.0.1")]);
        assert!(node.contains(ip("fd00::9")) && !node.contains(ip("fd00::1")));
        assert_eq!(node.speaker(false), Some(ip("10.0.0.1")));
        assert_eq!(node.speaker(true), Some(ip("fd00::9")));
    }
}

//! Which worker owns a connection.
//!
//! It follows from the two addresses alone, so that every packet of a connection, in either direction and without ports
//! too, finds the same worker: with one pod of this node, that pod's; with two, a keyed hash of the address pair picks the
//! worker of the lower or of the higher address; with none, that of the host port. A pod's worker never changes while the pod
//! lives, so the owner does not either. An address may pass to another pod while a packet is between two workers, so who takes
//! one over that was given under an older snapshot asks again. Nothing about a packet but its addresses counts: were it the
//! port it came in by, the two directions of a connection between the host and an uplink would have two owners, and each
//! answer be a stray.

use std::net::IpAddr;

use ahash::RandomState;

use crate::flow::pair;
use crate::packet::WorkerId;
use crate::snapshot::Snapshot;

/// The rule, with its key.
pub(super) struct Ownership {
    hasher: RandomState,
}

impl Ownership {
    /// All workers of an engine use the same seed.
    pub fn new([a, b, c, d]: [u64; 4]) -> Self {
        Self { hasher: RandomState::with_seeds(a, b, c, d) }
    }

    /// The owner of connections between two addresses.
    #[inline]
    pub fn of(&self, snapshot: &Snapshot, a: IpAddr, b: IpAddr) -> WorkerId {
        let worker = |address| {
            let (_, delivery) = snapshot.pod(address)?;
            snapshot.port(delivery.port?).map(|port| port.worker)
        };
        match (worker(a), worker(b)) {
            (Some(a_worker), Some(b_worker)) if a_worker != b_worker => {
                let (low, high) = pair(a, b);
                let a_is_low = pair(a, a).0 == low;
                let take_low = self.hasher.hash_one((low, high)) & 1 == 0;
                if take_low == a_is_low { a_worker } else { b_worker }
            }
            (Some(worker), _) | (None, Some(worker)) => worker,
            (None, None) => {
                snapshot.host.and_then(|host| snapshot.port(host)).map_or(WorkerId(0), |port| port.worker)
            }
        }
    }
}

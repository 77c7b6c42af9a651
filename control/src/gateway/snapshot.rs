//! From what is known to what the workers decide by.
//!
//! [`Inputs`] is everything that goes into a snapshot besides the tables, gathered so that two of them can be compared:
//! a kernel event that changes nothing here publishes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_config::model::ObjectName;
use podgate_dataplane::packet::{PortId, PortKind};
use podgate_dataplane::policy::PolicyTables;
use podgate_dataplane::snapshot::{DirectRoute, DirectRoutes, Mac, NodeAddresses, PortEntry, Snapshot};

/// Everything but the tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs {
    /// Whether every source was once without error.
    pub synced: bool,
    /// Attached ports.
    pub ports: BTreeMap<u16, PortEntry>,
    /// Whose the pod ports are.
    pub pods: BTreeMap<ObjectName, u16>,
    /// The node's addresses.
    pub node: BTreeSet<IpAddr>,
    /// Networks that an uplink reaches directly.
    pub routes: Vec<DirectRoute>,
    /// Who is known there.
    pub neighbours: BTreeMap<(u16, IpAddr), Mac>,
}

/// Builds the snapshot of a generation.
#[must_use]
pub fn build(generation: u64, policy: PolicyTables, inputs: &Inputs) -> Snapshot {
    let count = inputs.ports.keys().next_back().map_or(0, |last| usize::from(*last) + 1);
    let mut ports = vec![None; count];
    for (id, entry) in &inputs.ports {
        if let Some(place) = ports.get_mut(usize::from(*id)) {
            *place = Some(entry.clone());
        }
    }
    let host = inputs.ports.iter().find(|(_, entry)| entry.kind == PortKind::Host);
    let neighbours = inputs.neighbours.iter().map(|((port, address), mac)| ((PortId(*port), *address), *mac));
    Snapshot {
        generation,
        synced: inputs.synced,
        policy,
        ports: ports.into(),
        host: host.map(|(id, _)| PortId(*id)),
        node: NodeAddresses::new(inputs.node.iter().copied()),
        direct: DirectRoutes::new(inputs.routes.iter().copied(), neighbours),
    }
}

//! From what is known to what the workers decide by.
//!
//! [`Inputs`] is everything that goes into a snapshot besides the tables, gathered so that two of them can be compared:
//! a kernel event that changes nothing here publishes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_config::model::ObjectName;
use podgate_dataplane::packet::{PortId, PortKind};
use podgate_dataplane::snapshot::{
    Delivery, DirectRoute, DirectRoutes, Mac, NodeAddresses, PortEntry, Snapshot,
};

use super::history::Basis;
use super::identity::Identities;

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
pub fn build(generation: u64, basis: &Basis, identities: &Identities, inputs: &Inputs) -> Snapshot {
    let policy = basis.compiled.tables.clone();
    let mut deliveries = vec![Delivery::default(); policy.slots()];
    for pod in basis.resolved.cluster.pods.values().filter(|pod| pod.is_subject()) {
        let port = inputs.pods.get(&pod.name).copied().map(PortId);
        let identity = identities.get(&pod.name).unwrap_or_default();
        for address in &pod.addresses {
            let place = policy.lookup(*address).and_then(|(index, _)| deliveries.get_mut(index.get()));
            if let Some(delivery) = place {
                *delivery = Delivery { identity, port };
            }
        }
    }
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
        deliveries: deliveries.into(),
        ports: ports.into(),
        host: host.map(|(id, _)| PortId(*id)),
        node: NodeAddresses::new(inputs.node.iter().copied()),
        direct: DirectRoutes::new(inputs.routes.iter().copied(), neighbours),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podgate_dataplane::packet::WorkerId;

    use super::*;
    use crate::compiler::world::{World as Sketch, object};
    use crate::compiler::{Limits, Scope, compile};
    use crate::explain::World;
    use crate::gateway::resolve::resolve;

    #[test]
    fn deliveries_run_parallel_to_the_tables() {
        let sketch = Sketch::default().pod("shop/web", "", &["10.0.0.1", "fd00::1"], &[]).pod(
            "shop/far",
            "",
            &["10.0.1.1"],
            &[],
        );
        let resolved = resolve(sketch.0, &[], true);
        let compiled = Arc::new(compile(&resolved.cluster, Scope::AllPods, &Limits::default()).unwrap());
        let cluster = Arc::new(resolved.cluster.clone());
        let world = World::of_gateway(cluster, compiled.clone(), None, Vec::new(), BTreeSet::new());
        let basis = Basis { resolved, compiled, world, names: BTreeMap::new() };
        let mut identities = Identities::default();
        identities.update(&basis.resolved.cluster);
        let entry = PortEntry {
            kind: PortKind::Pod,
            worker: WorkerId(0),
            spread: 0,
            mac: [2; 6],
            peer_mac: [4; 6],
            mtu: 1500,
            closed: false,
            addresses: Box::default(),
            identity: 1,
        };
        let host = PortEntry { kind: PortKind::Host, ..entry.clone() };
        let inputs = Inputs {
            synced: true,
            ports: [(5, entry), (2, host)].into(),
            pods: [(object("shop/web"), 5)].into(),
            ..Inputs::default()
        };
        let snapshot = build(7, &basis, &identities, &inputs);
        assert_eq!(snapshot.check(1), Ok(()));
        assert_eq!((snapshot.generation, snapshot.host), (7, Some(PortId(2))));
        let (_, v4) = snapshot.pod("10.0.0.1".parse().unwrap()).unwrap();
        let (_, v6) = snapshot.pod("fd00::1".parse().unwrap()).unwrap();
        assert_eq!((v4, v4.port), (v6, Some(PortId(5))));
        let (_, far) = snapshot.pod("10.0.1.1".parse().unwrap()).unwrap();
        assert_eq!(far.port, None);
        assert!(far.identity != 0 && far.identity != v4.identity);
    }
}

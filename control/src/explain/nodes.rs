//! The nodes that pods are on, and whose an address is.
//!
//! A node is there because a Node object says so, because a pod names it, or because pods that name none must be on some: that
//! is the last one, and a gateway's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podgate_config::model::{Cluster, NodeName};

/// Addresses of the lab's node unless a Node object says otherwise.
const DEFAULT_NODE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 255, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xfffe)),
];

struct Node {
    name: Option<NodeName>,
    addresses: Vec<IpAddr>,
}

impl Node {
    fn of(cluster: &Cluster, name: &NodeName) -> Self {
        let addresses = cluster.nodes.get(name).map(|node| node.addresses.clone()).unwrap_or_default();
        Self { name: Some(name.clone()), addresses }
    }

    fn nameless() -> Self {
        Self { name: None, addresses: Vec::new() }
    }
}

/// All nodes, by their places.
pub(super) struct Nodes {
    /// The last one is that of pods that name none. Never empty.
    all: Vec<Node>,
    by_name: BTreeMap<NodeName, usize>,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Default for Nodes {
    /// One that nothing is known of.
    fn default() -> Self {
        Self::new(vec![Node::nameless()])
    }
}

impl Nodes {
    fn new(all: Vec<Node>) -> Self {
        let named = all.iter().enumerate();
        let by_name = named.filter_map(|(place, node)| Some((node.name.clone()?, place))).collect();
        let mut by_address = BTreeMap::new();
        for (place, node) in all.iter().enumerate() {
            for &address in &node.addresses {
                by_address.entry(address).or_insert(place);
            }
        }
        Self { all, by_name, by_address }
    }

    /// Those that documents know; the one that they know, or one more, is that of pods that name none.
    pub fn of_documents(cluster: &Cluster) -> Self {
        let mut names: BTreeSet<&NodeName> = cluster.nodes.keys().collect();
        names.extend(cluster.pods.values().filter_map(|pod| pod.node.as_ref()));
        let mut all: Vec<Node> = names.iter().map(|name| Node::of(cluster, name)).collect();
        if all.len() != 1 {
            all.push(Node::nameless());
        }
        if let Some(node) = all.last_mut().filter(|node| node.addresses.is_empty()) {
            node.addresses.extend(DEFAULT_NODE);
        }
        Self::new(all)
    }

    /// A gateway's own, with its addresses, and the others of the objects.
    pub fn of_gateway(cluster: &Cluster, own: Option<&NodeName>, addresses: &[IpAddr]) -> Self {
        let others = cluster.nodes.keys().filter(|&name| Some(name) != own);
        let mut all: Vec<Node> = others.map(|name| Node::of(cluster, name)).collect();
        all.push(Node { name: own.cloned(), addresses: addresses.to_vec() });
        Self::new(all)
    }

    /// That of pods that name none, and of those that a gateway serves.
    pub fn own(&self) -> usize {
        self.all.len().saturating_sub(1)
    }

    /// That of a pod that names it, or names none.
    pub fn named(&self, name: Option<&NodeName>) -> usize {
        name.and_then(|name| self.by_name.get(name)).copied().unwrap_or_else(|| self.own())
    }

    /// The first that has an address.
    pub fn at(&self, address: IpAddr) -> Option<usize> {
        self.by_address.get(&address).copied()
    }

    /// Its name, if it has one.
    pub fn name(&self, node: usize) -> Option<&NodeName> {
        self.all.get(node)?.name.as_ref()
    }

    /// Its addresses.
    pub fn addresses(&self, node: usize) -> &[IpAddr] {
        self.all.get(node).map_or(&[], |node| &node.addresses)
    }
}

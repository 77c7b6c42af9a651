//! Addresses for pods that have none: in a lab, and wherever manifests are looked at without a cluster.
//!
//! The assignment depends on the names of the pods alone, so `podgate lab up` and `podgate explain -f` agree about it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Cluster, Node, NodeName};

/// A node's addresses if nothing says otherwise.
pub const NODE_ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 255, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xfffe)),
];

/// Gives every live pod that has a network of its own and no address one of 10.244.0.0/16 and one of
/// fd00:10:244::/64, in the order of names, without what others have. Pods get none when the range is used up. If
/// `node` is named and its Node object says no addresses, it has [`NODE_ADDRESSES`] afterwards.
pub fn assign_addresses(cluster: &mut Cluster, node: Option<&NodeName>) {
    if let Some(name) = node {
        let entry = cluster.nodes.entry(name.clone());
        let node = entry.or_insert_with(|| Node { name: name.clone(), addresses: Vec::new() });
        if node.addresses.is_empty() {
            node.addresses = NODE_ADDRESSES.to_vec();
        }
    }
    let mut taken: BTreeSet<IpAddr> = NODE_ADDRESSES.into_iter().collect();
    taken.extend(cluster.nodes.values().flat_map(|node| &node.addresses));
    taken.extend(cluster.pods.values().filter(|pod| pod.is_subject()).flat_map(|pod| &pod.addresses));
    // The network's own address and its broadcast address are nobody's.
    let mut free = (1..=0xfffe_u16)
        .map(lab_addresses)
        .filter(|pair| pair.iter().all(|address| !taken.contains(address)));
    for pod in cluster.pods.values_mut().filter(|pod| pod.is_subject() && pod.addresses.is_empty()) {
        match free.next() {
            Some(pair) => pod.addresses = pair.to_vec(),
            None => return,
        }
    }
}

/// The pair of addresses with this number, from 10.244.0.0/16 and fd00:10:244::/64. 0 and 65535 are nobody's.
#[must_use]
pub fn lab_addresses(number: u16) -> [IpAddr; 2] {
    let [high, low] = number.to_be_bytes();
    [Ipv4Addr::new(10, 244, high, low).into(), Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number).into()]
}

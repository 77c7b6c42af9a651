//! Routes: the kernel's to the pods, and the gateway's own by its uplinks.
//!
//! The kernel leads what is for a pod to the host pair, and nowhere else, also while the pod's port is shut. The gateway leads
//! what is for the `direct` networks straight out of an uplink, where the kernel has the way; everything else that is no pod's
//! goes to the host stack.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_config::manifest::ObjectValue;
use podgate_dataplane::packet::{PortId, PortKind};
use podgate_dataplane::snapshot::{DirectRoute, Mac};

use super::Gateway;
use super::kernel::{KernelView, NextHop};
use super::options::Options;
use super::ports::{Open, PortTable, Purpose};
use crate::netlink::{NetlinkError, Nexthop, Route};
use crate::ports::wires::HOST_KERNEL;
use crate::store::{Key, Store};

impl Gateway {
    /// Makes the kernel route the pods' addresses to the gateway, and uplinks bring what is for them. Addresses whose port
    /// is closed or down lead nowhere: the kernel must not look for them elsewhere. What failed is tried again.
    pub(super) async fn steer(&mut self) {
        let mut wanted: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for (_, port) in self.ports.iter() {
            let Purpose::Pod { port: pod, .. } = &port.purpose else { continue };
            let reachable = port.state.is_ok() && !self.closed.contains_key(&pod.pod);
            wanted.extend(pod.addresses.iter().map(|address| (*address, reachable)));
        }
        if wanted == self.steered {
            return;
        }
        // Asked for, not taken from what the kernel has reported so far: that may still be the pair before this one.
        let result = match self.netlink.link(HOST_KERNEL).await {
            Ok(Some(link)) => self.route(link.index, &wanted).await,
            Ok(None) => {
                tracing::warn!(
                    "{HOST_KERNEL} is gone: nothing reaches the pods from this node until it is back"
                );
                return;
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::error!(%error, "the kernel does not route to all pods");
            return;
        }
        let reachable: Vec<IpAddr> =
            wanted.iter().filter(|(_, reachable)| **reachable).map(|(address, _)| *address).collect();
        let mut all = true;
        for (interface, purpose, open) in self.ports.open() {
            if purpose.kind() == PortKind::Uplink
                && let Err(error) = open.attachment.set_addresses(&reachable)
            {
                tracing::error!(interface, %error, "the uplink does not bring what is for all pods");
                all = false;
            }
        }
        if all {
            self.steered = wanted;
        }
    }

    async fn route(&self, host: u32, wanted: &BTreeMap<IpAddr, bool>) -> Result<(), NetlinkError> {
        let mut result = Ok(());
        for route in self.netlink.routes().await? {
            let address = route.destination.addr();
            let single = route.destination.prefix_len() == route.destination.max_prefix_len();
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let ours = route.nexthop == Nexthop::Link { index: host }
                || (route.nexthop == Nexthop::Unreachable && self.steered.contains_key(&address));
            if single && ours && !link_local && !wanted.contains_key(&address) {
                result = result.and(self.netlink.delete_route(&route).await);
            }
        }
        for (address, reachable) in wanted {
            if self.steered.get(address) != Some(reachable) {
                let to_gateway = Route::host(*address, host);
                let route = if *reachable {
                    to_gateway
                } else {
                    Route { nexthop: Nexthop::Unreachable, ..to_gateway }
                };
                result = result.and(self.netlink.add_route(&route).await);
            }
        }
        result
    }
}

/// The node's own addresses: those of its kernel, and those of its Node object.
pub(super) fn node_addresses(kernel: &KernelView, options: &Options, store: &Store) -> BTreeSet<IpAddr> {
    let mut addresses = kernel.local_addresses();
    if let Some(name) = &options.node
        && let Some(ObjectValue::Node(node)) = store.get(&Key::Node(name.clone()))
    {
        addresses.extend(node.addresses.iter().copied());
    }
    addresses
}

/// The direct networks with the uplinks that reach them, and who is known there.
pub(super) fn direct(
    kernel: &KernelView,
    options: &Options,
    ports: &PortTable,
) -> (Vec<DirectRoute>, BTreeMap<(u16, IpAddr), Mac>) {
    let uplinks: Vec<&Open> = ports
        .open()
        .filter(|(_, purpose, _)| purpose.kind() == PortKind::Uplink)
        .map(|(_, _, open)| open)
        .collect();
    let mut routes = Vec::new();
    for network in &options.direct {
        if let Some((open, hop)) = uplink_to(kernel, &uplinks, *network) {
            let via = match hop {
                NextHop::Via(gateway) => Some(gateway),
                NextHop::OnLink => None,
            };
            routes.push(DirectRoute { network: *network, port: PortId(open.id), via });
        }
    }
    let mut neighbours = BTreeMap::new();
    for open in uplinks {
        neighbours.extend(kernel.neighbours(open.index).map(|(address, mac)| ((open.id, address), mac)));
    }
    (routes, neighbours)
}

/// The uplink by which the kernel reaches a network; if it has no route by any, the only one there is.
fn uplink_to<'a>(kernel: &KernelView, uplinks: &[&'a Open], network: IpNet) -> Option<(&'a Open, NextHop)> {
    let routed = uplinks
        .iter()
        .filter_map(|open| kernel.next_hop(network, open.index).map(|(hop, length)| (*open, hop, length)))
        .max_by_key(|(_, _, length)| *length);
    match (routed, uplinks) {
        (Some((open, hop, _)), _) => Some((open, hop)),
        (None, [only]) => Some((only, NextHop::OnLink)),
        (None, _) => None,
    }
}

//! What a denied connection lacked.
//!
//! Looks at the rules of the isolating policies one by one, as they stand in the manifests: slow, plain, and only
//! for words. That none of them admits is the tables' verdict.

use podgate_config::model::policy::{Peer, Rule};
use podgate_config::model::port::PortMatch;
use podgate_config::model::{Cluster, NetworkPolicy, Pod};
use podgate_dataplane::policy::Direction;
use std::net::IpAddr;

use super::answer::{MissingPart, Nearest};
use super::end::IpProtocol;
use super::words;

/// The connection, seen from the pod that denies.
pub(super) struct Denied<'a> {
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) peer_pod: Option<&'a Pod>,
    /// Where named ports are looked up.
    pub(super) destination_pod: Option<&'a Pod>,
    pub(super) protocol: IpProtocol,
    pub(super) port: Option<u16>,
}

/// Not more than these are worth reading.
const SHOWN: usize = 6;

/// The rules of `policies` of which one half matches, those whose peer matches first.
pub(super) fn nearest<'a>(
    cluster: &Cluster,
    policies: impl Iterator<Item = &'a NetworkPolicy>,
    denied: &Denied<'_>,
) -> Vec<Nearest> {
    let mut found: Vec<Nearest> = policies
        .flat_map(|policy| {
            words::rules(policy, denied.direction).iter().enumerate().map(move |rule| (policy, rule))
        })
        .filter_map(|(policy, (number, rule))| near_miss(cluster, policy, number, rule, denied))
        .collect();
    found.sort_by_key(|miss| miss.missing == MissingPart::Peer);
    found.truncate(SHOWN);
    found
}

fn near_miss(
    cluster: &Cluster,
    policy: &NetworkPolicy,
    number: usize,
    rule: &Rule,
    denied: &Denied<'_>,
) -> Option<Nearest> {
    let peer = rule.peers.iter().position(|peer| peer_matches(cluster, policy, peer, denied));
    let peer_matches = rule.peers.is_empty() || peer.is_some();
    let (missing, what) = match (peer_matches, port_matches(rule, denied)) {
        (true, false) => {
            let matching = peer.and_then(|peer| rule.peers.get(peer)).map_or("any peer".into(), words::peer);
            let ports = words::ports(rule, denied.destination_pod);
            (MissingPart::Port, format!("{matching} matches, the port is not in {ports}"))
        }
        (false, true) => {
            let ports = words::ports(rule, denied.destination_pod);
            (MissingPart::Peer, format!("{ports} matches, the peer is not {}", words::peers(rule)))
        }
        // Neither is not near; both is a rule that admits, of which there is none.
        _ => return None,
    };
    let path = words::path(denied.direction, number, peer);
    let reason = format!("{} {path}: {what}", policy.name);
    Some(Nearest { policy: policy.name.to_string(), rule: number, peer, missing, reason })
}

fn peer_matches(cluster: &Cluster, policy: &NetworkPolicy, peer: &Peer, denied: &Denied<'_>) -> bool {
    match (peer, denied.peer_pod) {
        (Peer::IpBlock(block), _) => block.contains(denied.peer),
        (Peer::Pods { .. }, None) => false,
        (Peer::Pods { namespaces, pods }, Some(pod)) => {
            let namespace = match namespaces {
                None => pod.name.namespace == policy.name.namespace,
                Some(selector) => selector.matches(&cluster.namespace_labels(&pod.name.namespace)),
            };
            namespace && pods.matches(&pod.labels)
        }
    }
}

fn port_matches(rule: &Rule, denied: &Denied<'_>) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().filter(|port| port.protocol.number() == denied.protocol.0).any(|port| match port
            .matches()
        {
            PortMatch::All => true,
            PortMatch::Range { first, last } => {
                denied.port.is_some_and(|number| (first.get()..=last.get()).contains(&number))
            }
            PortMatch::Named(name) => denied
                .destination_pod
                .and_then(|pod| pod.named_port(port.protocol, name))
                .is_some_and(|number| denied.port == Some(number.get())),
        })
}

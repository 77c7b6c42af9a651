//! Rules, peers and ports in the words of the manifest.

use podgate_config::model::policy::{Peer, Rule};
use podgate_config::model::port::{PolicyPort, PortMatch};
use podgate_config::model::{NetworkPolicy, Pod};
use podgate_dataplane::policy::Direction;

/// A policy's rules in one direction.
pub(super) fn rules(policy: &NetworkPolicy, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
    .unwrap_or(&[])
}

/// `ingress` or `egress`.
pub(crate) fn section(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// `ingress of shop/db is isolated by shop/db, shop/deny; no rule admits this`.
pub(crate) fn not_admitted(direction: Direction, pod: &str, isolating: &[String]) -> String {
    let by = shortened(isolating.iter().cloned(), ", ");
    format!("{} of {pod} is isolated by {by}; no rule admits this", section(direction))
}

/// `ingress[1].from[0]`, or `ingress[1]` without a peer.
pub(crate) fn path(direction: Direction, rule: usize, peer: Option<usize>) -> String {
    let (section, list) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    match peer {
        Some(peer) => format!("{section}[{rule}].{list}[{peer}]"),
        None => format!("{section}[{rule}]"),
    }
}

/// `namespaceSelector team=blue podSelector app=web`, `ipBlock 10.0.0.0/8 except 10.1.0.0/16`.
pub(super) fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces: None, pods } => format!("podSelector {pods}"),
        Peer::Pods { namespaces: Some(namespaces), pods } if pods.is_everything() => {
            format!("namespaceSelector {namespaces}")
        }
        Peer::Pods { namespaces: Some(namespaces), pods } => {
            format!("namespaceSelector {namespaces} podSelector {pods}")
        }
        Peer::IpBlock(block) => format!("ipBlock {block}"),
    }
}

/// All peers of a rule; `any peer` if it names none.
pub(super) fn peers(rule: &Rule) -> String {
    if rule.peers.is_empty() { "any peer".to_owned() } else { shortened(rule.peers.iter().map(peer), " or ") }
}

/// All ports of a rule, a named one with what it is on `pod` (the destination); `any port` if it names none.
pub(super) fn ports(rule: &Rule, pod: Option<&Pod>) -> String {
    let word = |port: &PolicyPort| match (port.matches(), pod) {
        (PortMatch::Named(name), Some(pod)) => match pod.named_port(port.protocol, name) {
            Some(number) => format!("{port} (= {number})"),
            None => format!("{port} (not declared by {})", pod.name),
        },
        (PortMatch::Named(_), None) => format!("{port} (only pods have named ports)"),
        _ => port.to_string(),
    };
    if rule.ports.is_empty() { "any port".to_owned() } else { shortened(rule.ports.iter().map(word), ", ") }
}

/// A list that stays readable: after eight items, how many more.
pub(crate) fn shortened(items: impl ExactSizeIterator<Item = String>, separator: &str) -> String {
    const SHOWN: usize = 8;
    let more = items.len().saturating_sub(SHOWN);
    let mut text = items.take(SHOWN).collect::<Vec<_>>().join(separator);
    if more > 0 {
        text.push_str(&format!("{separator}and {more} more"));
    }
    text
}

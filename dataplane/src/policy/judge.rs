//! Both directions of one new connection, and what is exempt from policy.
//!
//! The only place that knows the exemptions. A connection passes if every direction that is judged here admits
//! it; a direction that another gateway judges is left out. A direction that must be judged although the tables
//! know nothing about its pod is closed, so a caller that lost a pod closes it and does not open it.

use std::net::IpAddr;

use super::{Direction, PodSlot, PolicyPeer, PolicyTables, Verdict};

/// One new connection, as seen at the pods (after any translation).
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Source address.
    pub source: IpAddr,
    /// The source's slot if it is a pod.
    pub source_pod: Option<PodSlot>,
    /// Destination address.
    pub destination: IpAddr,
    /// The destination's slot if it is a pod.
    pub destination_pod: Option<PodSlot>,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port in host order; 0 where the protocol has none.
    pub port: u16,
    /// The source is a pod whose egress is judged here.
    pub judge_egress: bool,
    /// The destination is a pod whose ingress is judged here.
    pub judge_ingress: bool,
    /// Source and destination are one pod.
    pub same_pod: bool,
    /// The source is the destination pod's own node.
    pub from_own_node: bool,
    /// The destination is the source pod's own node.
    pub to_own_node: bool,
}

/// The answer: one verdict per direction that is judged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The source pod's egress.
    pub egress: Option<Verdict>,
    /// The destination pod's ingress.
    pub ingress: Option<Verdict>,
}

impl Judgement {
    /// Whether no direction denies. "A connection needs the source's egress AND the destination's ingress."
    #[inline]
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.egress.is_none_or(|verdict| verdict.allowed())
            && self.ingress.is_none_or(|verdict| verdict.allowed())
    }

    /// The direction that denies; egress if both do.
    #[must_use]
    pub fn denied_by(&self) -> Option<(Direction, Verdict)> {
        [(Direction::Egress, self.egress), (Direction::Ingress, self.ingress)]
            .into_iter()
            .filter_map(|(direction, verdict)| Some((direction, verdict?)))
            .find(|(_, verdict)| !verdict.allowed())
    }
}

/// Judges a new connection.
#[inline]
#[must_use]
pub fn judge(tables: &PolicyTables, q: &Question) -> Judgement {
    let egress = q.judge_egress.then(|| match q.source_pod {
        // "A Pod cannot block access to itself", and traffic to and from its node is always allowed
        // (kubernetes.io, Network Policies).
        _ if q.same_pod || q.to_own_node => Verdict::EXEMPT,
        Some(pod) => {
            let peer = PolicyPeer { address: q.destination, pod: q.destination_pod };
            tables.egress(pod, peer, q.protocol, q.port)
        }
        None => Verdict::CLOSED,
    });
    let ingress = q.judge_ingress.then(|| match q.destination_pod {
        // "... OR if the traffic source is the pod's local node" (NetworkPolicySpec.ingress).
        _ if q.same_pod || q.from_own_node => Verdict::EXEMPT,
        Some(pod) => {
            let peer = PolicyPeer { address: q.source, pod: q.source_pod };
            tables.ingress(pod, peer, q.protocol, q.port)
        }
        None => Verdict::CLOSED,
    });
    Judgement { egress, ingress }
}

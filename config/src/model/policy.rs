//! networking.k8s.io/v1 NetworkPolicy after defaulting and validation.
//!
//! What the API leaves to defaults is decided here once: `policyTypes` is gone, and a direction is `Some` exactly
//! if the policy isolates in it. A listed direction without rules is `Some(vec![])` and denies everything; a
//! section that `policyTypes` does not name is dropped.

use super::ip_block::IpBlock;
use super::name::ObjectName;
use super::port::PolicyPort;
use super::selector::Selector;

/// A policy. Acts only on pods of its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub name: ObjectName,
    /// `spec.podSelector`: the pods of the namespace that it isolates.
    pub pods: Selector,
    /// The ingress rules if it isolates ingress.
    pub ingress: Option<Vec<Rule>>,
    /// The egress rules if it isolates egress.
    pub egress: Option<Vec<Rule>>,
}

/// One rule: ports AND peers, both of the same rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// ORed. Empty means every port of every protocol, ICMP and others included.
    pub ports: Vec<PolicyPort>,
    /// ORed. Empty means every peer, outside addresses included.
    pub peers: Vec<Peer>,
}

/// One entry of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods, never outside addresses. At least one of the two is there in a manifest.
    Pods {
        /// `namespaceSelector`; `None` means the policy's own namespace only.
        namespaces: Option<Selector>,
        /// `podSelector`; everything where the manifest leaves it out.
        pods: Selector,
    },
    /// Addresses, those of pods included.
    IpBlock(IpBlock),
}

//! Answers, as they are printed in JSON and sent over the admin socket.

use std::net::IpAddr;

use podgate_dataplane::policy::{Tier, Verdict};
use serde::{Deserialize, Serialize};

use super::end::IpProtocol;

/// Allow, deny, or no judgement here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The connection may be opened.
    Allow,
    /// It may not.
    Deny,
    /// Not a pod that is judged here.
    NotJudged,
}

impl Outcome {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::NotJudged => "not judged",
        }
    }
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TierName {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// The NetworkPolicies that isolate the pod.
    NetworkPolicy,
    /// Policy has no say: a pod to itself, from or to the pod's own node.
    Exempt,
    /// The tables in force do not know the pod.
    Closed,
}

impl From<Tier> for TierName {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::NotIsolated => Self::NotIsolated,
            Tier::NetworkPolicy => Self::NetworkPolicy,
            Tier::Exempt => Self::Exempt,
            Tier::Closed => Self::Closed,
        }
    }
}

/// Who an end turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// `namespace/name` of the pod, a hostNetwork pod included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node, if the end is one or a hostNetwork pod on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The address that is judged.
    pub ip: IpAddr,
}

impl Party {
    /// How people call it.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.pod, &self.node) {
            (Some(pod), _) => pod.clone(),
            (None, Some(node)) => format!("node {node}"),
            (None, None) => self.ip.to_string(),
        }
    }
}

/// What a rule that nearly admitted the connection lacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingPart {
    /// A peer matches, no port does.
    Port,
    /// A port matches, no peer does.
    Peer,
}

/// A rule that nearly admitted a denied connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nearest {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// Place of the rule, from 0.
    pub rule: usize,
    /// Place of the peer that matches, from 0; nothing if the rule names no peers or none matches.
    pub peer: Option<usize>,
    /// What did not match.
    pub missing: MissingPart,
    /// All of it in words.
    pub reason: String,
}

/// The answer for one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The verdict of this direction alone.
    pub verdict: Outcome,
    /// Who decided; nothing if not judged.
    pub tier: Option<TierName>,
    /// `namespace/name` of the first policy that admits.
    pub policy: Option<String>,
    /// Place of the first rule that admits, from 0.
    pub rule: Option<usize>,
    /// Place of its first peer that matches, from 0; nothing if the rule names no peers.
    pub peer: Option<usize>,
    /// For a deny, the rules that came nearest.
    pub nearest: Vec<Nearest>,
    /// The policies that isolate the pod in this direction.
    pub isolating: Vec<String>,
    /// All of it but `nearest` in words.
    pub reason: String,
}

impl Side {
    /// A verdict that nothing is said about yet; `None` for a direction that is not judged.
    pub(crate) fn judged(verdict: Option<Verdict>) -> Self {
        Self {
            verdict: match verdict {
                None => Outcome::NotJudged,
                Some(verdict) if verdict.allowed() => Outcome::Allow,
                Some(_) => Outcome::Deny,
            },
            tier: verdict.map(|verdict| verdict.tier.into()),
            policy: None,
            rule: None,
            peer: None,
            nearest: Vec::new(),
            isolating: Vec::new(),
            reason: String::new(),
        }
    }
}

/// The answer to a [`super::Query`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Source.
    pub from: Party,
    /// Destination.
    pub to: Party,
    /// Destination port; nothing for a protocol without ports.
    pub port: Option<u16>,
    /// The protocol.
    pub protocol: IpProtocol,
    /// Allow or deny: deny if either direction denies.
    pub verdict: Outcome,
    /// The source pod's egress.
    pub egress: Side,
    /// The destination pod's ingress.
    pub ingress: Side,
}

impl Explanation {
    /// `TCP/80`, `ICMP`.
    #[must_use]
    pub fn target(&self) -> String {
        target(self.protocol, self.port)
    }
}

/// `TCP/80`, `ICMP`.
pub(super) fn target(protocol: IpProtocol, port: Option<u16>) -> String {
    match port {
        Some(port) if protocol.has_ports() => format!("{protocol}/{port}"),
        _ => protocol.to_string(),
    }
}

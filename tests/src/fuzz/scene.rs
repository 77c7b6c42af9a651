//! Who takes part, and the policies that come into force one after the other.

use std::net::IpAddr;
use std::sync::OnceLock;

use podgate_config::manifest::{ObjectValue, decode};
use podgate_config::model::{Cluster, ObjectName};

/// Somebody who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A pod of this node, on the first worker.
    A,
    /// Another one, on the last worker.
    B,
    /// The node itself.
    Node,
    /// A pod of another node, by way of the host.
    Remote,
    /// Behind the uplink.
    Outside,
}

impl End {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::A, Self::B, Self::Node, Self::Remote, Self::Outside];

    /// Its address of a family.
    ///
    /// # Panics
    /// Never: the addresses are literals.
    #[must_use]
    pub fn address(self, six: bool) -> IpAddr {
        let text = match (self, six) {
            (Self::A, false) => "10.244.0.1",
            (Self::A, true) => "fd00:10:244::1",
            (Self::B, false) => "10.244.0.2",
            (Self::B, true) => "fd00:10:244::2",
            (Self::Node, false) => "10.244.255.254",
            (Self::Node, true) => "fd00:10:244::fffe",
            (Self::Remote, false) => "10.244.9.9",
            (Self::Remote, true) => "fd00:10:244::9:9",
            (Self::Outside, false) => "192.0.2.7",
            (Self::Outside, true) => "2001:db8::7",
        };
        text.parse().expect("an address")
    }

    /// Is it a pod of this node?
    #[must_use]
    pub fn is_local_pod(self) -> bool {
        matches!(self, Self::A | Self::B)
    }

    /// The pod's name, for one of this node.
    ///
    /// # Panics
    /// Never: the names are literals.
    #[must_use]
    pub fn name(self) -> ObjectName {
        ObjectName::parse("shop", if self == Self::A { "a" } else { "b" }).expect("a name")
    }
}

const PODS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {app: a}}, spec: {containers: [{name: c}]},
 status: {podIPs: [{ip: 10.244.0.1}, {ip: "fd00:10:244::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop, labels: {app: b}}, spec: {containers: [{name: c}]},
 status: {podIPs: [{ip: 10.244.0.2}, {ip: "fd00:10:244::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: remote, namespace: shop, labels: {app: r}}, spec: {containers: [{name: c}]},
 status: {podIPs: [{ip: 10.244.9.9}, {ip: "fd00:10:244::9:9"}]}}
"#;

/// What is in force, by number: the specs of policies.
const POLICIES: [&[&str]; 7] = [
    &[],
    &["podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], \
         ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 53}]}]"],
    &["podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]"],
    &["podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]"],
    &["podSelector: {}, policyTypes: [Ingress, Egress]"],
    &[
        "podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}, \
         {ipBlock: {cidr: 2001:db8::/32}}]}]",
        "podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{protocol: TCP, port: 80}, \
         {protocol: SCTP, port: 80}, {protocol: UDP, port: 1000}]}]",
    ],
    &["podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]"],
];

/// The cluster with each of the policies.
pub(super) fn clusters() -> &'static [Cluster] {
    static CLUSTERS: OnceLock<Vec<Cluster>> = OnceLock::new();
    CLUSTERS.get_or_init(|| POLICIES.iter().map(|specs| cluster(specs)).collect())
}

fn cluster(specs: &[&str]) -> Cluster {
    let mut text = PODS.to_owned();
    for (number, spec) in specs.iter().enumerate() {
        text += &format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{name: p{number}, namespace: shop}}, spec: {{{spec}}}}}\n"
        );
    }
    let decoded = decode("world", text.as_bytes());
    assert!(decoded.findings.is_empty(), "{:?}", decoded.findings);
    let mut cluster = Cluster::default();
    for object in decoded.objects {
        match object.value {
            ObjectValue::Pod(pod) => drop(cluster.pods.insert(pod.name.clone(), *pod)),
            ObjectValue::NetworkPolicy(policy) => {
                drop(cluster.policies.insert(policy.name.clone(), *policy));
            }
            other => panic!("{other:?}"),
        }
    }
    cluster
}

/// How many policies there are to change between.
pub const POLICY_COUNT: usize = POLICIES.len();

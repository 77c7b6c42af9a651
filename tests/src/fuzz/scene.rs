//! Who takes part, and the policies that come into force one after the other.

use std::net::IpAddr;
use std::sync::OnceLock;

use podgate_config::manifest::{ObjectValue, decode};
use podgate_config::model::{Cluster, ObjectName};

use crate::cluster::{Addresses, name, pods};

/// Ports that packets come from and go to, some of them named by policies.
pub(super) const PORTS: [u16; 3] = [80, 53, 1000];

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
    #[must_use]
    pub fn address(self, six: bool) -> IpAddr {
        let of = Addresses { six };
        match self {
            Self::A => of.a(),
            Self::B => of.b(),
            Self::Node => of.node(),
            Self::Remote => of.remote(),
            Self::Outside => of.outside(),
        }
    }

    /// Is it a pod of this node?
    #[must_use]
    pub fn is_local_pod(self) -> bool {
        matches!(self, Self::A | Self::B)
    }

    /// The pod's name, for one of this node.
    #[must_use]
    pub fn name(self) -> ObjectName {
        name(if self == Self::A { "shop/a" } else { "shop/b" })
    }
}

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
    let mut text = String::new();
    for (number, spec) in specs.iter().enumerate() {
        text += &format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{name: p{number}, namespace: shop}}, spec: {{{spec}}}}}\n"
        );
    }
    let decoded = decode("world", text.as_bytes());
    assert!(decoded.findings.is_empty(), "{:?}", decoded.findings);
    let mut cluster = Cluster::default();
    cluster.pods.extend(pods().map(|pod| (pod.name.clone(), pod)));
    for object in decoded.objects {
        match object.value {
            ObjectValue::NetworkPolicy(policy) => {
                drop(cluster.policies.insert(policy.name.clone(), policy));
            }
            other => panic!("{other:?}"),
        }
    }
    cluster
}

/// How many policies there are to change between.
pub const POLICY_COUNT: usize = POLICIES.len();

//! What the NetworkPolicy API says about one connection, read off word by word.
//!
//! The compiled tables are compared with this, so it is everything they are not: no preparation, no indexes, one
//! `if` per sentence, and that sentence above it. It shares nothing with the compiler but the validated model's
//! plain data: labels, selectors, networks, ports and node places are looked at here once more, so that a fault in
//! the model's own helpers shows as well. Slow is fine, clever is a fault: whoever reads this beside the API
//! documentation must be able to say that it is right.
//!
//! Sources, by the letters used below:
//! - **T**: comments of k8s.io/api/networking/v1 `types.go`, at the field that is looked at.
//! - **C**: kubernetes.io, concepts, "Network Policies".
//! - **L**: comments of k8s.io/apimachinery/pkg/labels `Requirement.Matches`.
//! - **P**: comments of k8s.io/api/core/v1 `types.go`.
//! - **Podgate**: the API leaves it open, and this is the documented choice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_config::model::pod::Phase;
use podgate_config::model::port::PortMatch;
use podgate_config::model::selector::{Operator, Requirement, Selector};
use podgate_config::model::{
    Cluster, IpBlock, NamespaceName, NetworkPolicy, NodeName, ObjectName, Peer, Pod, PolicyPort, PortName,
    Protocol, Rule,
};

/// Addresses of the node that no Node object describes.
pub const DEFAULT_NODE: [&str; 2] = ["10.244.255.254", "fd00:10:244::fffe"];

/// Who an end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party<'a> {
    /// A live pod with a network namespace of its own.
    Pod(&'a Pod),
    /// A node, or a hostNetwork pod on it; `None` is the node of the pods that name none.
    Node(Option<&'a NodeName>),
    /// Somebody else.
    Outside,
}

impl<'a> Party<'a> {
    /// The pod, if it is one.
    #[must_use]
    pub fn pod(self) -> Option<&'a Pod> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Node(_) | Self::Outside => None,
        }
    }
}

/// One end: who it is, and the address it has here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End<'a> {
    /// Who.
    pub party: Party<'a>,
    /// The address that packets bear.
    pub address: IpAddr,
}

/// The first packet of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Who opens it.
    pub source: End<'a>,
    /// To whom.
    pub destination: End<'a>,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, host order; not looked at for a protocol without ports.
    pub port: u16,
}

/// A direction, seen from the pod that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

/// One peer of one rule that admits the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission<'a> {
    /// The policy.
    pub policy: &'a ObjectName,
    /// Place of the rule in `ingress` or `egress`, from 0.
    pub rule: usize,
    /// Place of the peer, from 0; `None` if the rule names no peers.
    pub peer: Option<usize>,
}

/// The answer for one direction of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side<'a> {
    /// Policy has no say.
    Exempt,
    /// No policy applies to the pod in this direction.
    NotIsolated,
    /// Isolated: allowed if anything admits it.
    Isolated {
        /// The policies that apply, by name.
        by: Vec<&'a ObjectName>,
        /// All that admits the connection, in the order of policy, rule and peer.
        admitted: Vec<Admission<'a>>,
    },
}

impl Side<'_> {
    /// Whether the connection may be opened as far as this direction goes.
    #[must_use]
    pub fn allows(&self) -> bool {
        match self {
            // T ingress: "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod".
            Self::Exempt | Self::NotIsolated => true,
            // C: "the only allowed connections from the pod are those allowed by the `egress` list of some
            // NetworkPolicy that applies to the pod for egress"; the same for ingress.
            Self::Isolated { admitted, .. } => !admitted.is_empty(),
        }
    }
}

/// The answer for a connection: a side for each end that is a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The source pod's egress.
    pub egress: Option<Side<'a>>,
    /// The destination pod's ingress.
    pub ingress: Option<Side<'a>>,
}

impl Answer<'_> {
    /// Whether the connection may be opened.
    #[must_use]
    pub fn allows(&self) -> bool {
        // C: "For a connection from a source pod to a destination pod to be allowed, both the egress policy on
        // the source pod and the ingress policy on the destination pod need to allow the connection. If either
        // side does not allow the connection, it will not happen."
        self.egress.as_ref().is_none_or(Side::allows) && self.ingress.as_ref().is_none_or(Side::allows)
    }
}

/// The pods, nodes and policies of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Oracle<'a> {
    cluster: &'a Cluster,
}

impl<'a> Oracle<'a> {
    /// Of this cluster.
    #[must_use]
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// Who has `address`.
    #[must_use]
    pub fn party_at(&self, address: IpAddr) -> Party<'a> {
        // P podIPs: "podIPs holds the IP addresses allocated to the pod." Every one of them is the pod.
        for pod in self.cluster.pods.values() {
            if is_pod_of_its_own(pod) && pod.addresses.contains(&address) {
                return Party::Pod(pod);
            }
        }
        for (name, node) in &self.cluster.nodes {
            if node.addresses.contains(&address) {
                return Party::Node(Some(name));
            }
        }
        // Podgate: the node that pods without `spec.nodeName` are on has fixed addresses unless a Node object
        // gives it some.
        let the_node = self.the_node();
        let described =
            the_node.and_then(|name| self.cluster.nodes.get(name)).is_some_and(|n| !n.addresses.is_empty());
        if !described && DEFAULT_NODE.iter().any(|text| text.parse() == Ok(address)) {
            return Party::Node(the_node);
        }
        // C, NetworkPolicy and `hostNetwork` pods: "Traffic to/from `hostNetwork` pods is treated the same as all
        // other traffic to/from the node IP."
        for pod in self.cluster.pods.values() {
            if pod.phase == Phase::Live && pod.host_network && pod.addresses.contains(&address) {
                return Party::Node(self.node_of(pod));
            }
        }
        Party::Outside
    }

    /// Who the pod of this name is; nobody if there is none, or none any more.
    #[must_use]
    pub fn party_of(&self, name: &ObjectName) -> Option<Party<'a>> {
        let pod = self.cluster.pods.get(name)?;
        // P PodSucceeded: "all containers in the pod have voluntarily terminated ..., and the system is not going
        // to restart any of these containers"; PodFailed alike. Its addresses may be somebody else's by now.
        if pod.phase == Phase::Finished {
            return None;
        }
        // C: "The network plugin cannot properly distinguish `hostNetwork` pod traffic, and so it ignores
        // `hostNetwork` pods when matching `podSelector` and `namespaceSelector`."
        if pod.host_network {
            return Some(Party::Node(self.node_of(pod)));
        }
        Some(Party::Pod(pod))
    }

    /// The node that pods without `spec.nodeName` are on.
    fn the_node(&self) -> Option<&'a NodeName> {
        // Podgate: without `spec.nodeName` all pods are on one node; it is the one that the documents know, if
        // they know exactly one.
        let mut known: BTreeSet<&NodeName> = self.cluster.nodes.keys().collect();
        known.extend(self.cluster.pods.values().filter_map(|pod| pod.node.as_ref()));
        if known.len() == 1 { known.into_iter().next() } else { None }
    }

    /// The pod's own node.
    #[must_use]
    pub fn node_of(&self, pod: &'a Pod) -> Option<&'a NodeName> {
        pod.node.as_ref().or_else(|| self.the_node())
    }

    /// Whether `node` is the node where `pod` is running.
    #[must_use]
    pub fn is_own_node(&self, node: Party<'a>, pod: &'a Pod) -> bool {
        node == Party::Node(self.node_of(pod))
    }

    /// The answer for the first packet of a new connection.
    #[must_use]
    pub fn judge(&self, c: &Connection<'a>) -> Answer<'a> {
        // C: "NetworkPolicies apply to a connection with a pod on one or both ends, and are not relevant to other
        // connections."
        Answer {
            egress: c.source.party.pod().map(|pod| self.side(Direction::Egress, pod, c.destination, c)),
            ingress: c.destination.party.pod().map(|pod| self.side(Direction::Ingress, pod, c.source, c)),
        }
    }

    fn side(&self, direction: Direction, subject: &'a Pod, other: End<'a>, c: &Connection<'a>) -> Side<'a> {
        // C: "exception: a pod cannot block access to itself".
        if other.party.pod().is_some_and(|pod| pod.name == subject.name) {
            return Side::Exempt;
        }
        // T ingress: "OR if the traffic source is the pod's local node". C, of both directions: "traffic to and
        // from the node where a Pod is running is always allowed, regardless of the IP address of the Pod or the
        // node".
        if self.is_own_node(other.party, subject) {
            return Side::Exempt;
        }

        let mut by = Vec::new();
        let mut admitted = Vec::new();
        for policy in self.cluster.policies.values() {
            // C: "A pod is isolated for egress if there is any NetworkPolicy that both selects the pod and has
            // "Egress" in its `policyTypes`; we say that such a policy applies to the pod for egress." The same
            // for ingress.
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let Some(rules) = rules else { continue };
            if !selects(policy, subject) {
                continue;
            }
            by.push(&policy.name);
            // C: "The effects of those `egress` lists combine additively." T ingress: "if the traffic matches at
            // least one ingress rule across all of the NetworkPolicy objects whose podSelector matches the pod".
            for (place, rule) in rules.iter().enumerate() {
                // T NetworkPolicyIngressRule: "The traffic must match both ports and from."
                if !self.ports_match(rule, c) {
                    continue;
                }
                let peers = self.peers_that_match(policy, rule, other);
                admitted.extend(peers.into_iter().map(|peer| Admission {
                    policy: &policy.name,
                    rule: place,
                    peer,
                }));
            }
        }
        if by.is_empty() {
            // C: "By default, a pod is non-isolated for egress; all outbound connections are allowed." The same
            // for ingress.
            return Side::NotIsolated;
        }
        Side::Isolated { by, admitted }
    }

    /// The two halves of a rule of `policy`, seen from the pod whose `direction` it is about: whether its ports
    /// match, and the places of its peers that do (`None` for a rule that names none).
    #[must_use]
    pub fn halves(
        &self,
        policy: &NetworkPolicy,
        rule: &Rule,
        direction: Direction,
        c: &Connection<'a>,
    ) -> (bool, Vec<Option<usize>>) {
        let other = match direction {
            Direction::Ingress => c.source,
            Direction::Egress => c.destination,
        };
        (self.ports_match(rule, c), self.peers_that_match(policy, rule, other))
    }

    fn ports_match(&self, rule: &Rule, c: &Connection<'a>) -> bool {
        // T ports: "If this field is empty or missing, this rule matches all ports (traffic not restricted by
        // port)." Podgate: of every protocol.
        if rule.ports.is_empty() {
            return true;
        }
        // T ports: "If this field is present and contains at least one item, then this rule allows traffic only if
        // the traffic matches at least one port in the list."
        rule.ports.iter().any(|port| port_matches(port, c))
    }

    /// The places of the peers that match; one `None` for a rule that does not name peers.
    fn peers_that_match(&self, policy: &NetworkPolicy, rule: &Rule, other: End<'a>) -> Vec<Option<usize>> {
        // T from: "If this field is empty or missing, this rule matches all sources (traffic not restricted by
        // source)." T to: the same for destinations.
        if rule.peers.is_empty() {
            return vec![None];
        }
        // T from: "If this field is present and contains at least one item, this rule allows traffic only if the
        // traffic matches at least one item in the from list."
        let mut places = Vec::new();
        for (place, peer) in rule.peers.iter().enumerate() {
            if self.peer_matches(policy, peer, other) {
                places.push(Some(place));
            }
        }
        places
    }

    fn peer_matches(&self, policy: &NetworkPolicy, peer: &Peer, other: End<'a>) -> bool {
        match peer {
            // T IPBlock: "a particular CIDR ... that is allowed". It says addresses, so those of pods too.
            Peer::IpBlock(block) => in_block(block, other.address),
            Peer::Pods { namespaces, pods } => {
                // T podSelector: "This is a label selector which selects pods." Nobody else is one.
                let Some(pod) = other.party.pod() else { return false };
                match namespaces {
                    // T podSelector: "If namespaceSelector is also set, then the NetworkPolicyPeer as a whole
                    // selects the pods matching podSelector in the Namespaces selected by NamespaceSelector."
                    Some(namespaces) => {
                        let namespace = |key: &str| self.namespace_label(&pod.name.namespace, key);
                        labels_match(namespaces, namespace) && labels_match(pods, |key| pod_label(pod, key))
                    }
                    // "Otherwise it selects the pods matching podSelector in the policy's own namespace."
                    None => {
                        pod.name.namespace == policy.name.namespace
                            && labels_match(pods, |key| pod_label(pod, key))
                    }
                }
            }
        }
    }

    fn namespace_label(&self, name: &'a NamespaceName, key: &str) -> Option<&'a str> {
        // C: "The Kubernetes control plane sets an immutable label `kubernetes.io/metadata.name` on all
        // namespaces, the value of the label is the namespace name."
        if key == "kubernetes.io/metadata.name" {
            return Some(name.as_str());
        }
        let namespace = self.cluster.namespaces.get(name)?;
        namespace.labels().iter().find(|(k, _)| k.as_str() == key).map(|(_, value)| value.as_str())
    }
}

/// Whether policies see it as a pod.
fn is_pod_of_its_own(pod: &Pod) -> bool {
    pod.phase == Phase::Live && !pod.host_network
}

fn pod_label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.labels.iter().find(|(k, _)| k.as_str() == key).map(|(_, value)| value.as_str())
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    // T podSelector: "podSelector selects the pods to which this NetworkPolicy object applies. ... An empty selector
    // matches all pods in the policy's namespace."
    policy.name.namespace == pod.name.namespace && labels_match(&policy.pods, |key| pod_label(pod, key))
}

/// `label` gives the value under a key.
fn labels_match<'a>(selector: &Selector, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    // L: "Matches for a internalSelector returns true if all its Requirements match the input Labels. If any
    // Requirement does not match, false is returned."
    for requirement in selector.requirements() {
        if !requirement_matches(requirement, label(requirement.key.as_str())) {
            return false;
        }
    }
    true
}

fn requirement_matches(requirement: &Requirement, value: Option<&str>) -> bool {
    match (&requirement.operator, value) {
        // L: "(1) The operator is Exists and Labels has the Requirement's key."
        (Operator::Exists, Some(_)) => true,
        // L: "(2) The operator is In, Labels has the Requirement's key and Labels' value for that key is in
        // Requirement's value set."
        (Operator::In(values), Some(value)) => values.iter().any(|listed| listed.as_str() == value),
        // L: "(3) The operator is NotIn, Labels has the Requirement's key and Labels' value for that key is not in
        // Requirement's value set."
        (Operator::NotIn(values), Some(value)) => values.iter().all(|listed| listed.as_str() != value),
        // L: "(4) The operator is DoesNotExist or NotIn and Labels does not have the Requirement's key."
        (Operator::DoesNotExist | Operator::NotIn(_), None) => true,
        // "There is a match in the following cases", and this is none of them.
        (Operator::Exists | Operator::In(_), None) | (Operator::DoesNotExist, Some(_)) => false,
    }
}

fn port_matches(port: &PolicyPort, c: &Connection<'_>) -> bool {
    // T protocol: "protocol represents the protocol (TCP, UDP, or SCTP) which traffic must match."
    let number = match port.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    if c.protocol != number {
        return false;
    }
    match port.matches() {
        // T port: "If this field is not provided, this matches all port names and numbers."
        PortMatch::All => true,
        // T endPort: "the range of ports from port to endPort if set, inclusive, should be allowed by the policy".
        // T egress ports: "destination ports for outgoing traffic".
        PortMatch::Range { first, last } => first.get() <= c.port && c.port <= last.get(),
        // T port: "a numerical or named port on a pod". Only a pod has named ports, and the one that the traffic
        // goes to is asked, in both directions.
        PortMatch::Named(name) => c
            .destination
            .party
            .pod()
            .and_then(|pod| declared(pod, port.protocol, name))
            .is_some_and(|number| number == c.port),
    }
}

fn declared(pod: &Pod, protocol: Protocol, name: &PortName) -> Option<u16> {
    for port in &pod.ports {
        // T port: "If present, only traffic on the specified protocol AND port will be matched."
        if port.protocol == protocol && port.name.as_ref().is_some_and(|n| n.as_str() == name.as_str()) {
            // The first one of its name, as the endpoints controllers find it.
            return Some(port.number.get());
        }
    }
    None
}

fn in_block(block: &IpBlock, address: IpAddr) -> bool {
    // T IPBlock: "The except entry describes CIDRs that should not be included within this rule."
    in_network(block.cidr(), address) && !block.except().iter().any(|&except| in_network(except, address))
}

fn in_network(network: IpNet, address: IpAddr) -> bool {
    match (network.addr(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            // Of a prefix of 0 bits nothing is left on either side.
            let shift = 32 - u32::from(network.prefix_len());
            base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(network.prefix_len());
            base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

//! Clusters, changes and probes that know where policy engines go wrong.
//!
//! Everything is drawn from small pools, so that things meet: the same labels in several namespaces, keys that
//! are absent, empty values, "0" beside "00", one port name with several numbers and protocols, port ranges that
//! touch or overlap, networks inside networks with holes that hold pods, host bits, both families, pods that have
//! finished while somebody else has their address, hostNetwork pods, pods without an address, two pods that claim
//! one address, namespaces that are known from their objects alone, stacked policies, directions with no rules,
//! rules without ports or without peers. Probes stand on every boundary: one below and one above each network
//! and port, port 0 and 65535, the first and the last address of a family, protocols that policies cannot name.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podgate_config::model::pod::{ContainerPort, Phase};
use podgate_config::model::port::PortMatch;
use podgate_config::model::selector::{Operator, Requirement, Selector};
use podgate_config::model::{
    Cluster, IpBlock, LabelKey, LabelValue, Labels, Namespace, NamespaceName, NetworkPolicy, Node, NodeName,
    ObjectName, Peer, Pod, PolicyPort, PortName, PortNumber, Protocol, Rule,
};

use crate::choices::Choices;
use crate::oracle::{DEFAULT_NODE, Oracle, Party};

const NAMESPACES: [&str; 4] = ["default", "default", "a", "ghost"];
const PODS: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];
const POLICIES: [&str; 4] = ["q0", "q1", "q2", "q3"];
const NODES: [&str; 2] = ["n0", "n1"];
// What is there twice is drawn more often.
const KEYS: [&str; 6] = ["app", "app", "app", "host", "host", "kubernetes.io/metadata.name"];
const VALUES: [&str; 8] = ["a", "a", "a", "b", "", "0", "00", "default"];
const PORT_NAMES: [&str; 3] = ["web", "dns", "x"];
const PORTS: [u16; 12] = [80, 79, 81, 82, 80, 443, 8080, 1, 80, 65534, 65535, 81];
const EDGES_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(0, 0, 0, 0),
    Ipv4Addr::new(255, 255, 255, 255),
    Ipv4Addr::new(127, 255, 255, 255),
    Ipv4Addr::new(128, 0, 0, 0),
    Ipv4Addr::new(10, 0, 1, 0),
];
const EDGES_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::UNSPECIFIED,
    Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, 1),
    Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0),
    Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0),
];
const PREFIXES_V4: [u8; 14] = [32, 31, 30, 29, 28, 27, 26, 24, 28, 30, 16, 8, 1, 0];
const PREFIXES_V6: [u8; 14] = [128, 127, 126, 125, 124, 123, 122, 120, 124, 126, 64, 96, 1, 0];

fn namespace_name(text: &str) -> NamespaceName {
    NamespaceName::parse(text).expect("namespace name")
}

fn object(namespace: &str, name: &str) -> ObjectName {
    ObjectName::parse(namespace, name).expect("object name")
}

fn key(c: &mut Choices) -> LabelKey {
    LabelKey::parse(c.pick(&KEYS)).expect("label key")
}

fn value(c: &mut Choices) -> LabelValue {
    LabelValue::parse(c.pick(&VALUES)).expect("label value")
}

fn labels(c: &mut Choices) -> Labels {
    (0..c.pick(&[1, 2, 0, 3])).map(|_| (key(c), value(c))).collect()
}

fn port_number(c: &mut Choices) -> PortNumber {
    PortNumber::new(c.pick(&PORTS)).expect("not 0")
}

fn protocol(c: &mut Choices) -> Protocol {
    c.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

/// Most addresses are of a handful, so that networks, pods and probes meet.
fn v4(c: &mut Choices) -> Ipv4Addr {
    if c.chance(5) {
        c.pick(&EDGES_V4)
    } else {
        Ipv4Addr::new(10, 0, 0, u8::try_from(c.below(24)).unwrap_or(0))
    }
}

fn v6(c: &mut Choices) -> Ipv6Addr {
    if c.chance(5) {
        c.pick(&EDGES_V6)
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::try_from(c.below(24)).unwrap_or(0))
    }
}

fn node_name(c: &mut Choices) -> NodeName {
    NodeName::parse(c.pick(&NODES)).expect("node name")
}

fn selector(c: &mut Choices) -> Selector {
    let requirement = |c: &mut Choices| {
        let key = key(c);
        let values = |c: &mut Choices| (0..=c.below(2)).map(|_| value(c)).collect();
        let operator = match c.below(6) {
            0..=2 => Operator::In(values(c)),
            3 => Operator::NotIn(values(c)),
            4 => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        Requirement { key, operator }
    };
    let count = c.pick(&[0, 0, 1, 1, 2]);
    Selector::new((0..count).map(|_| requirement(c))).expect("values are there")
}

fn network(c: &mut Choices, base: IpAddr, longer_than: Option<u8>) -> IpNet {
    let prefixes = if base.is_ipv4() { PREFIXES_V4 } else { PREFIXES_V6 };
    let mut prefix = c.pick(&prefixes);
    let full = if base.is_ipv4() { 32 } else { 128 };
    if let Some(outer) = longer_than
        && prefix <= outer
    {
        prefix = outer + 1 + u8::try_from(c.below(usize::from(full - outer))).unwrap_or(0);
    }
    // The host bits stay: cutting them off is the model's business.
    IpNet::new(base, prefix).expect("prefix within the family")
}

fn ip_block(c: &mut Choices) -> IpBlock {
    let base = if c.chance(35) { IpAddr::V6(v6(c)) } else { IpAddr::V4(v4(c)) };
    let cidr = network(c, base, None);
    let full = cidr.max_prefix_len();
    let mut except = Vec::new();
    if cidr.prefix_len() < full {
        for _ in 0..c.pick(&[0, 0, 1, 2, 3]) {
            let inside = if base.is_ipv4() { IpAddr::V4(v4(c)) } else { IpAddr::V6(v6(c)) };
            let inside = if cidr.contains(&inside) { inside } else { base };
            except.push(network(c, inside, Some(cidr.prefix_len())));
        }
    }
    IpBlock::new(cidr, except).expect("exceptions lie inside")
}

fn peer(c: &mut Choices) -> Peer {
    match c.below(5) {
        0 => Peer::Pods { namespaces: None, pods: selector(c) },
        1 => Peer::Pods { namespaces: Some(selector(c)), pods: Selector::everything() },
        2 => Peer::Pods { namespaces: Some(selector(c)), pods: selector(c) },
        _ => Peer::IpBlock(ip_block(c)),
    }
}

fn policy_port(c: &mut Choices) -> PolicyPort {
    let protocol = protocol(c);
    match c.below(8) {
        0..=2 => {
            let port = port_number(c);
            PolicyPort::range(protocol, port, port).expect("not reversed")
        }
        3..=4 => {
            let (a, b) = (port_number(c), port_number(c));
            PolicyPort::range(protocol, a.min(b), a.max(b)).expect("not reversed")
        }
        5..=6 => PolicyPort::named(protocol, PortName::parse(c.pick(&PORT_NAMES)).expect("port name")),
        _ => PolicyPort::all(protocol),
    }
}

fn rule(c: &mut Choices) -> Rule {
    let ports = (0..c.pick(&[0, 1, 1, 2, 3])).map(|_| policy_port(c)).collect();
    let peers = (0..c.pick(&[0, 1, 1, 2, 3])).map(|_| peer(c)).collect();
    Rule { ports, peers }
}

fn rules(c: &mut Choices) -> Vec<Rule> {
    (0..c.pick(&[0, 1, 1, 2, 3])).map(|_| rule(c)).collect()
}

fn policy(c: &mut Choices) -> NetworkPolicy {
    let name = object(c.pick(&NAMESPACES), c.pick(&POLICIES));
    let pods = selector(c);
    let (ingress, egress) = match c.below(4) {
        0 => (Some(rules(c)), None),
        1 => (None, Some(rules(c))),
        _ => (Some(rules(c)), Some(rules(c))),
    };
    NetworkPolicy { name, pods, ingress, egress }
}

fn container_port(c: &mut Choices) -> ContainerPort {
    let name = (!c.chance(15)).then(|| PortName::parse(c.pick(&PORT_NAMES)).expect("port name"));
    ContainerPort { name, protocol: protocol(c), number: port_number(c) }
}

fn addresses(c: &mut Choices) -> Vec<IpAddr> {
    match c.below(8) {
        0..=2 => vec![IpAddr::V4(v4(c))],
        3..=4 => vec![IpAddr::V4(v4(c)), IpAddr::V6(v6(c))],
        5 => vec![IpAddr::V6(v6(c)), IpAddr::V4(v4(c))],
        6 => vec![IpAddr::V6(v6(c))],
        _ => Vec::new(),
    }
}

fn pod(c: &mut Choices) -> Pod {
    Pod {
        name: object(c.pick(&NAMESPACES), c.pick(&PODS)),
        uid: None,
        labels: labels(c),
        addresses: addresses(c),
        phase: if c.chance(12) { Phase::Finished } else { Phase::Live },
        host_network: c.chance(10),
        node: c.chance(40).then(|| node_name(c)),
        ports: (0..c.below(4)).map(|_| container_port(c)).collect(),
    }
}

fn node(c: &mut Choices) -> Node {
    let mut addresses = Vec::new();
    if c.chance(80) {
        addresses.push(IpAddr::V4(v4(c)));
    }
    if c.chance(40) {
        addresses.push(IpAddr::V6(v6(c)));
    }
    Node { name: node_name(c), addresses }
}

fn namespace(c: &mut Choices, name: &str) -> Namespace {
    Namespace::new(namespace_name(name), labels(c)).expect("namespace")
}

/// Lets `pod` in, or lets it in without the addresses that live pods have: two of them with one address are bad
/// input, and only now and then worth a look.
fn insert_pod(c: &mut Choices, cluster: &mut Cluster, mut pod: Pod) {
    if pod.is_subject() && !c.chance(3) {
        let others = |address: &IpAddr| {
            cluster.pods.values().any(|other| {
                other.is_subject() && other.name != pod.name && other.addresses.contains(address)
            })
        };
        pod.addresses = pod.addresses.iter().copied().filter(|address| !others(address)).collect();
    }
    cluster.pods.insert(pod.name.clone(), pod);
}

/// A cluster of up to 14 pods and 8 policies.
pub fn cluster(c: &mut Choices) -> Cluster {
    let mut cluster = Cluster::default();
    for name in NAMESPACES {
        if c.chance(if name == "ghost" { 10 } else { 85 }) {
            let namespace = namespace(c, name);
            cluster.namespaces.insert(namespace.name().clone(), namespace);
        }
    }
    for _ in 0..c.below(3) {
        let node = node(c);
        cluster.nodes.insert(node.name.clone(), node);
    }
    for _ in 0..3 + c.below(12) {
        let pod = pod(c);
        insert_pod(c, &mut cluster, pod);
    }
    for _ in 0..1 + c.below(8) {
        let policy = policy(c);
        cluster.policies.insert(policy.name.clone(), policy.into());
    }
    cluster
}

/// A [`cluster`] with so many kinds of pods and so many ports besides that bitsets take several words and programs
/// several lines.
pub fn crowd(c: &mut Choices) -> Cluster {
    let mut cluster = cluster(c);
    let rank = LabelKey::parse("rank").expect("label key");
    let ranked = |rank: usize| LabelValue::parse(&rank.to_string()).expect("label value");
    for number in 0..160u8 {
        let mut pod = pod(c);
        pod.name = object("default", &format!("c{number}"));
        pod.labels.insert(rank.clone(), ranked(usize::from(number) % 110));
        pod.addresses = vec![
            IpAddr::V4(Ipv4Addr::new(10, 0, 2, number)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 2, number.into())),
        ];
        cluster.pods.insert(pod.name.clone(), pod);
    }
    for number in 0..30 {
        let mut policy = policy(c);
        policy.name = object("default", &format!("c{number}"));
        policy.pods = Selector::everything();
        let rules = [&mut policy.ingress, &mut policy.egress].into_iter().flatten();
        for rules in rules {
            rules.clear();
            for _ in 0..6 {
                let values = (0..=c.below(12)).map(|_| ranked(c.below(110))).collect();
                let requirement = Requirement { key: rank.clone(), operator: Operator::In(values) };
                let pods = Selector::new([requirement]).expect("values are there");
                let port = PortNumber::new(u16::try_from(1 + c.below(65_535)).unwrap_or(1)).expect("not 0");
                let last = port.saturating_add(u16::try_from(c.below(20_000)).unwrap_or(0));
                let port = PolicyPort::range(protocol(c), port, last).expect("not reversed");
                let peer = Peer::Pods { namespaces: None, pods };
                rules.push(Rule { ports: vec![port], peers: vec![peer] });
            }
        }
        cluster.policies.insert(policy.name.clone(), policy.into());
    }
    cluster
}

/// One thing that happens to a cluster; says what.
pub fn change(c: &mut Choices, cluster: &mut Cluster) -> String {
    let some_pod = (!cluster.pods.is_empty())
        .then(|| cluster.pods.keys().nth(c.below(cluster.pods.len())).cloned())
        .flatten();
    let some_policy = (!cluster.policies.is_empty())
        .then(|| cluster.policies.keys().nth(c.below(cluster.policies.len())).cloned())
        .flatten();
    match (c.below(11), some_pod, some_policy) {
        (0 | 1, Some(name), _) => {
            let labels = labels(c);
            if let Some(pod) = cluster.pods.get_mut(&name) {
                pod.labels = labels;
            }
            format!("relabel pod {name}")
        }
        (2, Some(name), _) => {
            cluster.pods.remove(&name);
            format!("delete pod {name}")
        }
        (3, Some(name), _) => {
            // Its addresses stay in its status, and the next pod may have them.
            if let Some(pod) = cluster.pods.get_mut(&name) {
                pod.phase = Phase::Finished;
            }
            format!("finish pod {name}")
        }
        (4, Some(name), _) => {
            let Some(mut pod) = cluster.pods.remove(&name) else { return String::new() };
            pod.addresses = addresses(c);
            insert_pod(c, cluster, pod);
            format!("readdress pod {name}")
        }
        (10, Some(name), _) => {
            let ports = pod(c).ports;
            if let Some(pod) = cluster.pods.get_mut(&name) {
                pod.ports = ports;
            }
            format!("other ports of pod {name}")
        }
        (5, _, Some(name)) => {
            cluster.policies.remove(&name);
            format!("delete policy {name}")
        }
        (6 | 7, ..) => {
            let policy = policy(c);
            let what = format!("set policy {}", policy.name);
            cluster.policies.insert(policy.name.clone(), policy.into());
            what
        }
        (8, ..) => {
            let name = c.pick(&NAMESPACES);
            if c.chance(25) {
                cluster.namespaces.remove(&namespace_name(name));
                return format!("delete namespace {name}");
            }
            let namespace = namespace(c, name);
            cluster.namespaces.insert(namespace.name().clone(), namespace);
            format!("relabel namespace {name}")
        }
        _ => {
            let pod = pod(c);
            let what = format!("set pod {}", pod.name);
            insert_pod(c, cluster, pod);
            what
        }
    }
}

/// One end of a probe: an address, by itself or as that of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeEnd {
    /// The pod it is asked as.
    pub pod: Option<ObjectName>,
    /// The address.
    pub address: IpAddr,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Who opens the connection.
    pub from: ProbeEnd,
    /// To whom; of the same family.
    pub to: ProbeEnd,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, 0 where the protocol has none.
    pub port: u16,
}

/// What is worth asking about a cluster.
#[derive(Debug)]
pub struct Questions {
    /// By family, IPv4 first: ends that are pods, and all others.
    ends: [(Vec<ProbeEnd>, Vec<ProbeEnd>); 2],
    ports: Vec<u16>,
}

impl Questions {
    /// Collects the ends and boundaries of `cluster`.
    #[must_use]
    pub fn about(cluster: &Cluster) -> Self {
        let oracle = Oracle::new(cluster);
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        let mut pods: Vec<ProbeEnd> = Vec::new();
        for pod in cluster.pods.values() {
            addresses.extend(&pod.addresses);
            for &address in &pod.addresses {
                // The other one of two claimants has no connections.
                let is_its = match oracle.party_of(&pod.name) {
                    Some(Party::Pod(_)) => {
                        oracle.party_at(address).pod().is_some_and(|owner| owner.name == pod.name)
                    }
                    Some(_) => true,
                    None => false,
                };
                if is_its {
                    pods.push(ProbeEnd { pod: Some(pod.name.clone()), address });
                }
            }
        }
        addresses.extend(cluster.nodes.values().flat_map(|node| &node.addresses));
        addresses.extend(DEFAULT_NODE.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
        addresses.extend(EDGES_V4.map(IpAddr::V4));
        addresses.extend(EDGES_V6.map(IpAddr::V6));
        let mut ports: BTreeSet<u16> = BTreeSet::from([0, 80, 65535]);
        let mut around = |port: PortNumber| {
            ports.extend([port.get().wrapping_sub(1), port.get(), port.get().wrapping_add(1)]);
        };
        for port in cluster.pods.values().flat_map(|pod| &pod.ports) {
            around(port.number);
        }
        let rules = cluster.policies.values().flat_map(|policy| [&policy.ingress, &policy.egress]);
        for rule in rules.flatten().flatten() {
            for port in &rule.ports {
                if let PortMatch::Range { first, last } = port.matches() {
                    around(*first);
                    around(*last);
                }
            }
            for peer in &rule.peers {
                if let Peer::IpBlock(block) = peer {
                    addresses.extend(boundaries(block.cidr()));
                    addresses.extend(block.except().iter().flat_map(|&net| boundaries(net)));
                }
            }
        }
        let of = |family: bool| {
            let pods = pods.iter().filter(|end| end.address.is_ipv4() == family).cloned().collect();
            let others = addresses.iter().filter(|address| address.is_ipv4() == family);
            (pods, others.map(|&address| ProbeEnd { pod: None, address }).collect())
        };
        Self { ends: [of(true), of(false)], ports: ports.into_iter().collect() }
    }

    /// One of the questions.
    pub fn probe(&self, c: &mut Choices) -> Probe {
        let [v4, v6] = &self.ends;
        let family = if c.below(100) < 60 { v4 } else { v6 };
        let end = |c: &mut Choices| {
            let (pods, others) = family;
            if !pods.is_empty() && c.below(100) < 75 { c.pick(pods) } else { c.pick(others) }
        };
        let (from, mut to) = (end(c), end(c));
        if from == to {
            // A pod to itself is always the same story.
            to = end(c);
        }
        let protocol = c.pick(&[6, 6, 6, 17, 17, 132, 132, 1, 58, 0, 255, 4, 47]);
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let port = if has_ports { c.pick(&self.ports) } else { 0 };
        Probe { from, to, protocol, port }
    }
}

/// The first and the last address of a network, and their neighbours outside.
fn boundaries(network: IpNet) -> [IpAddr; 4] {
    match network {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// The cluster in few lines, for the message of a failed test.
#[must_use]
pub fn describe(cluster: &Cluster) -> String {
    let mut text = String::new();
    let labels = |labels: &Labels| {
        labels.iter().map(|(k, v)| format!("{k}={:?}", v.as_str())).collect::<Vec<_>>().join(",")
    };
    for namespace in cluster.namespaces.values() {
        let _ = writeln!(text, "namespace {} {{{}}}", namespace.name(), labels(namespace.labels()));
    }
    for node in cluster.nodes.values() {
        let _ = writeln!(text, "node {} {:?}", node.name, node.addresses);
    }
    for pod in cluster.pods.values() {
        let ports: Vec<String> = pod
            .ports
            .iter()
            .map(|p| format!("{}={}/{}", p.name.as_ref().map_or("", PortName::as_str), p.protocol, p.number))
            .collect();
        let _ = writeln!(
            text,
            "pod {} {{{}}} {:?} ports {ports:?} node {:?}{}{}",
            pod.name,
            labels(&pod.labels),
            pod.addresses,
            pod.node,
            if pod.phase == Phase::Finished { " finished" } else { "" },
            if pod.host_network { " hostNetwork" } else { "" },
        );
    }
    for policy in cluster.policies.values() {
        let _ = writeln!(text, "policy {} for {}", policy.name, policy.pods);
        for (section, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
            let Some(rules) = rules else { continue };
            let _ = writeln!(text, "  {section}: {} rules", rules.len());
            for rule in rules {
                let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
                let peers: Vec<String> = rule.peers.iter().map(describe_peer).collect();
                let _ = writeln!(text, "  - ports {ports:?} peers {peers:?}");
            }
        }
    }
    text
}

fn describe_peer(peer: &Peer) -> String {
    match peer {
        Peer::IpBlock(block) => block.to_string(),
        Peer::Pods { namespaces: None, pods } => format!("pods {pods}"),
        Peer::Pods { namespaces: Some(namespaces), pods } => {
            format!("pods {pods} in namespaces {namespaces}")
        }
    }
}

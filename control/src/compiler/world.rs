//! Small clusters written by hand, for unit tests of the compiler and of explain.

use std::net::IpAddr;

use podgate_config::model::labels::{LabelKey, LabelValue, Labels};
use podgate_config::model::pod::{ContainerPort, Phase};
use podgate_config::model::selector::{Operator, Requirement, Selector};
use podgate_config::model::*;
use podgate_dataplane::policy::{Judgement, Question, judge};

use super::{Compiled, Limits, Scope, compile};

/// `namespace/name`.
pub(crate) fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::parse(namespace, name).unwrap()
}

/// `k=v,k=v`.
pub(crate) fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap());
    pairs.map(|(k, v)| (LabelKey::parse(k).unwrap(), LabelValue::parse(v).unwrap())).collect()
}

/// `k=v`, `k`, `!k`, `k in a|b`, `k notin a|b`, joined by commas; empty selects everything.
pub(crate) fn selector(text: &str) -> Selector {
    let values = |list: &str| list.split('|').map(|v| LabelValue::parse(v).unwrap()).collect();
    let requirement = |part: &str| {
        let (key, operator) = if let Some((key, list)) = part.split_once(" notin ") {
            (key, Operator::NotIn(values(list)))
        } else if let Some((key, list)) = part.split_once(" in ") {
            (key, Operator::In(values(list)))
        } else if let Some((key, value)) = part.split_once('=') {
            (key, Operator::In(values(value)))
        } else if let Some(key) = part.strip_prefix('!') {
            (key, Operator::DoesNotExist)
        } else {
            (part, Operator::Exists)
        };
        Requirement { key: LabelKey::parse(key).unwrap(), operator }
    };
    Selector::new(text.split(',').filter(|part| !part.is_empty()).map(requirement)).unwrap()
}

/// `TCP`, `TCP/80`, `UDP/53-60`, `TCP/http`.
pub(crate) fn port(text: &str) -> PolicyPort {
    let (protocol, rest) = text.split_once('/').unwrap_or((text, ""));
    let protocol = Protocol::parse(protocol).unwrap();
    let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
    match (rest, first.parse(), last.parse()) {
        ("", ..) => PolicyPort::all(protocol),
        (_, Ok(first), Ok(last)) => PolicyPort::range(protocol, first, last).unwrap(),
        _ => PolicyPort::named(protocol, PortName::parse(rest).unwrap()),
    }
}

/// podSelector alone.
pub(crate) fn own(pods: &str) -> Peer {
    Peer::Pods { namespaces: None, pods: selector(pods) }
}

/// namespaceSelector and podSelector.
pub(crate) fn across(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Some(selector(namespaces)), pods: selector(pods) }
}

/// ipBlock.
pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::IpBlock(IpBlock::new(cidr.parse().unwrap(), except.iter().map(|net| net.parse().unwrap())).unwrap())
}

pub(crate) fn rule(ports: &[&str], peers: &[Peer]) -> Rule {
    Rule { ports: ports.iter().map(|text| port(text)).collect(), peers: peers.to_vec() }
}

/// A cluster under construction.
#[derive(Default, Clone)]
pub(crate) struct World(pub(crate) Cluster);

impl World {
    pub(crate) fn namespace(mut self, name: &str, with: &str) -> Self {
        let name = NamespaceName::parse(name).unwrap();
        self.0.namespaces.insert(name.clone(), Namespace::new(name, labels(with)).unwrap());
        self
    }

    /// `ports`: `http=TCP/80` or `TCP/80`.
    pub(crate) fn pod(mut self, name: &str, with: &str, addresses: &[&str], ports: &[&str]) -> Self {
        let container_port = |text: &&str| {
            let (name, port) = text.split_once('=').map_or((None, *text), |(name, port)| (Some(name), port));
            let (protocol, number) = port.split_once('/').unwrap();
            ContainerPort {
                name: name.map(|name| PortName::parse(name).unwrap()),
                protocol: Protocol::parse(protocol).unwrap(),
                number: number.parse().unwrap(),
            }
        };
        let pod = Pod {
            name: object(name),
            uid: None,
            labels: labels(with),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            phase: Phase::Live,
            host_network: false,
            node: None,
            ports: ports.iter().map(container_port).collect(),
        };
        self.0.pods.insert(pod.name.clone(), pod);
        self
    }

    pub(crate) fn change(mut self, pod: &str, change: impl FnOnce(&mut Pod)) -> Self {
        change(self.0.pods.get_mut(&object(pod)).unwrap());
        self
    }

    pub(crate) fn node(mut self, name: &str, addresses: &[&str]) -> Self {
        let name = NodeName::parse(name).unwrap();
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        self.0.nodes.insert(name.clone(), Node { name, addresses });
        self
    }

    pub(crate) fn policy(
        mut self,
        name: &str,
        pods: &str,
        ingress: Option<Vec<Rule>>,
        egress: Option<Vec<Rule>>,
    ) -> Self {
        let policy = NetworkPolicy { name: object(name), pods: selector(pods), ingress, egress };
        self.0.policies.insert(policy.name.clone(), policy.into());
        self
    }

    pub(crate) fn compile(&self) -> Compiled {
        compile(&self.0, Scope::AllPods, &Limits::default()).unwrap()
    }

    /// Compiles, and judges connections `from -> to protocol/port`, an end being a pod or an address.
    #[track_caller]
    pub(crate) fn expect(&self, probes: &[(&str, bool)]) {
        let compiled = self.compile();
        for (probe, expected) in probes {
            let judgement = self.judge(&compiled, probe);
            assert_eq!(judgement.allowed(), *expected, "{probe}: {judgement:?}");
        }
    }

    pub(crate) fn judge(&self, compiled: &Compiled, probe: &str) -> Judgement {
        let (ends, target) = probe.rsplit_once(' ').unwrap();
        let (from, to) = ends.split_once(" -> ").unwrap();
        let (protocol, port) = target.split_once('/').unwrap();
        let address = |end: &str| -> IpAddr {
            end.parse().unwrap_or_else(|_| self.0.pods.get(&object(end)).unwrap().addresses[0])
        };
        let (source, destination) = (address(from), address(to));
        let slot = |ip| compiled.tables.lookup(ip).map(|(_, slot)| slot);
        let protocol =
            Protocol::parse(protocol).map_or_else(|| protocol.parse().unwrap(), |named| named.number());
        judge(
            &compiled.tables,
            &Question {
                source,
                source_pod: slot(source),
                destination,
                destination_pod: slot(destination),
                protocol,
                port: port.parse().unwrap(),
                judge_egress: slot(source).is_some(),
                judge_ingress: slot(destination).is_some(),
                same_pod: false,
                from_own_node: false,
                to_own_node: false,
            },
        )
    }
}

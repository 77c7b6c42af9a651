//! A large cluster, always the same one.
//!
//! Shaped like the clusters that network policies are written for: namespaces of teams, each with workloads of a
//! few replicas; policies that select by app or tier and admit by app, tier, team or ipBlock. With
//! [`Shape::LARGE`]: 200 namespaces, 10,000 pods, 10,000 policies, about 5.5 of them selecting a pod in each
//! direction.

use std::net::{IpAddr, Ipv4Addr};

use podgate_config::model::labels::{LabelKey, LabelValue, Labels};
use podgate_config::model::name::{InvalidName, LocalName};
use podgate_config::model::pod::{ContainerPort, Phase};
use podgate_config::model::port::{PortName, PortNumber};
use podgate_config::model::selector::{Operator, Requirement};
use podgate_config::model::{
    Cluster, IpBlock, Namespace, NamespaceName, NetworkPolicy, ObjectName, Peer, Pod, PolicyPort, Protocol,
    Rule, Selector,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How large the cluster is.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Namespaces.
    pub namespaces: u32,
    /// Pods in each, at most 250.
    pub pods: u32,
    /// Policies in each.
    pub policies: u32,
    /// Whether every pod has a label of its own that policies select on: the worst case for sharing.
    pub unique: bool,
}

impl Shape {
    /// 10,000 pods, 10,000 policies.
    pub const LARGE: Self = Self { namespaces: 200, pods: 50, policies: 50, unique: false };
    /// The same with every pod its own class.
    pub const UNIQUE: Self = Self { unique: true, ..Self::LARGE };
}

const APPS: u32 = 10;
const TIERS: [&str; 4] = ["front", "back", "data", "batch"];
const TEAMS: u32 = 20;

/// Makes the cluster of `seed`.
///
/// # Errors
/// Never in practice: all names are made to be valid.
pub fn cluster(shape: Shape, seed: u64) -> Result<Cluster, InvalidName> {
    let mut maker = Maker { random: StdRng::seed_from_u64(seed), shape };
    let mut cluster = Cluster::default();
    for namespace in 0..shape.namespaces {
        maker.namespace(&mut cluster, namespace)?;
    }
    Ok(cluster)
}

struct Maker {
    random: StdRng,
    shape: Shape,
}

fn label(key: &str, value: &str) -> Result<(LabelKey, LabelValue), InvalidName> {
    Ok((LabelKey::parse(key)?, LabelValue::parse(value)?))
}

fn is(key: &str, values: &[String]) -> Result<Requirement, InvalidName> {
    let values = values.iter().map(|value| LabelValue::parse(value)).collect::<Result<_, _>>()?;
    Ok(Requirement { key: LabelKey::parse(key)?, operator: Operator::In(values) })
}

fn all_of(requirements: impl IntoIterator<Item = Requirement>) -> Selector {
    Selector::new(requirements).unwrap_or_default()
}

impl Maker {
    fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound.max(1))
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn namespace(&mut self, cluster: &mut Cluster, number: u32) -> Result<(), InvalidName> {
        let name = NamespaceName::parse(&format!("ns-{number:03}"))?;
        let labels: Labels = [
            label("team", &format!("team-{}", number % TEAMS))?,
            label("stage", if number.is_multiple_of(4) { "prod" } else { "dev" })?,
        ]
        .into_iter()
        .collect();
        cluster.namespaces.insert(name.clone(), Namespace::new(name.clone(), labels)?);
        for pod in 0..self.shape.pods {
            let pod = self.pod(&name, number, pod)?;
            cluster.pods.insert(pod.name.clone(), pod);
        }
        for policy in 0..self.shape.policies {
            let policy = self.policy(&name, policy)?;
            cluster.policies.insert(policy.name.clone(), policy.into());
        }
        Ok(())
    }

    fn pod(&mut self, namespace: &NamespaceName, number: u32, pod: u32) -> Result<Pod, InvalidName> {
        let app = pod % APPS;
        let mut labels: Labels = [
            label("app", &format!("app-{app}"))?,
            label("tier", TIERS[(app % 4) as usize])?,
            label("version", &format!("v{}", pod % 2))?,
            label("pod-template-hash", &format!("{:08x}", number * APPS + app))?,
            label("instance", &format!("{namespace}-{pod}"))?,
        ]
        .into_iter()
        .collect();
        if self.shape.unique {
            let (key, value) = label("unique", &format!("u-{pod}"))?;
            labels.insert(key, value);
        }
        let port = |name: &str, number: u32| -> Result<ContainerPort, InvalidName> {
            let number = u16::try_from(number).ok().and_then(PortNumber::new).unwrap_or(PortNumber::MIN);
            Ok(ContainerPort { name: Some(PortName::parse(name)?), protocol: Protocol::Tcp, number })
        };
        Ok(Pod {
            name: ObjectName {
                namespace: namespace.clone(),
                name: LocalName::parse(&format!("pod-{pod:03}"))?,
            },
            uid: None,
            labels,
            addresses: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number * 256 + pod + 1))],
            phase: Phase::Live,
            host_network: false,
            node: None,
            ports: vec![port("http", 8_000 + app % 3)?, port("metrics", 9_100)?],
        })
    }

    fn policy(&mut self, namespace: &NamespaceName, number: u32) -> Result<NetworkPolicy, InvalidName> {
        // One in fifty selects the whole namespace, as a default deny does; the others a tier or an app.
        let pods = match number {
            0 => Selector::everything(),
            _ => self.pods(10)?,
        };
        let (ingress, egress) = match self.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let name = LocalName::parse(&format!("policy-{number:03}"))?;
        let name = ObjectName { namespace: namespace.clone(), name };
        let ingress = if ingress { Some(self.rules(number)?) } else { None };
        let egress = if egress { Some(self.rules(number)?) } else { None };
        Ok(NetworkPolicy { name, pods, ingress, egress })
    }

    /// A podSelector: mostly one app, else (so many percent each) a tier or two apps; now and then one pod.
    fn pods(&mut self, others: u32) -> Result<Selector, InvalidName> {
        let app = format!("app-{}", self.below(APPS));
        if self.shape.unique && self.chance(30) {
            let pod = self.below(self.shape.pods);
            return Ok(all_of([is("unique", &[format!("u-{pod}")])?]));
        }
        if self.chance(others) {
            let tier = TIERS[self.below(4) as usize].to_owned();
            return Ok(all_of([is("tier", &[tier])?]));
        }
        if self.chance(others) {
            let second = format!("app-{}", self.below(APPS));
            return Ok(all_of([is("app", &[app, second])?]));
        }
        if self.chance(20) {
            let version = format!("v{}", self.below(2));
            return Ok(all_of([is("app", &[app])?, is("version", &[version])?]));
        }
        Ok(all_of([is("app", &[app])?]))
    }

    fn rules(&mut self, number: u32) -> Result<Vec<Rule>, InvalidName> {
        if number == 0 {
            return Ok(Vec::new());
        }
        let count = 1 + self.below(2);
        (0..count).map(|_| Ok(Rule { ports: self.ports()?, peers: self.peers()? })).collect()
    }

    fn ports(&mut self) -> Result<Vec<PolicyPort>, InvalidName> {
        let number =
            |port: u32| u16::try_from(port).ok().and_then(PortNumber::new).unwrap_or(PortNumber::MIN);
        let count = self.below(3);
        (0..count)
            .map(|_| {
                let protocol = if self.chance(80) { Protocol::Tcp } else { Protocol::Udp };
                Ok(match self.below(10) {
                    0 => PolicyPort::named(protocol, PortName::parse("http")?),
                    1 => {
                        let first = 10_000 + self.below(50) * 100;
                        PolicyPort::range(protocol, number(first), number(first + 99))
                            .unwrap_or_else(|_| PolicyPort::all(protocol))
                    }
                    _ => {
                        let port =
                            number([80, 443, 5432, 6379, 8000, 8001, 9100, 53][self.below(8) as usize]);
                        PolicyPort::range(protocol, port, port).unwrap_or_else(|_| PolicyPort::all(protocol))
                    }
                })
            })
            .collect()
    }

    fn peers(&mut self) -> Result<Vec<Peer>, InvalidName> {
        let count = 1 + self.below(3);
        (0..count)
            .map(|_| {
                Ok(match self.below(100) {
                    0..45 => Peer::Pods { namespaces: None, pods: self.pods(15)? },
                    45..65 => {
                        let team = format!("team-{}", self.below(TEAMS));
                        Peer::Pods { namespaces: Some(all_of([is("team", &[team])?])), pods: self.pods(20)? }
                    }
                    65..82 => {
                        let other = format!("ns-{:03}", self.below(self.shape.namespaces));
                        let namespaces = all_of([is("kubernetes.io/metadata.name", &[other])?]);
                        Peer::Pods { namespaces: Some(namespaces), pods: self.pods(20)? }
                    }
                    82..85 => Peer::Pods {
                        namespaces: Some(all_of([is("stage", &["prod".to_owned()])?])),
                        pods: Selector::everything(),
                    },
                    _ => self.block(),
                })
            })
            .collect()
    }

    /// An outside network, now and then with an exception.
    fn block(&mut self) -> Peer {
        let network = Ipv4Addr::from_bits(0xc600_0000 + (self.below(512) << 16));
        let outer = ipnet::IpNet::new_assert(IpAddr::V4(network), 16);
        let inner = Ipv4Addr::from_bits(network.to_bits() + (self.below(256) << 8));
        let except = self.chance(30).then(|| ipnet::IpNet::new_assert(IpAddr::V4(inner), 24));
        match IpBlock::new(outer, except) {
            Ok(block) => Peer::IpBlock(block),
            Err(_) => Peer::Pods { namespaces: None, pods: Selector::everything() },
        }
    }
}

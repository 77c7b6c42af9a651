//! A small cluster that changes all the time: policies come, change and go, pods are labelled anew, leave, and are followed by
//! others with their addresses.
//!
//! Eight pods have eight places, a place being one address of each family. Everything is drawn from small pools, so that a
//! change matters to some connections, and most changes to few. [`World`] is what the oracle says of every connection
//! under one published state.

use std::net::IpAddr;

use podgate_config::model::*;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_tests::choices::Choices;
use podgate_tests::cluster;
use podgate_tests::oracle::{Connection, End, Oracle};

use crate::talk::{Line, Way};

/// How many places there are.
pub const PLACES: usize = 8;
const POLICIES: usize = 5;

/// A pod as it is plugged in: a pod that is opened anew has another port, another pod another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plug {
    pub identity: u32,
    pub port: PortId,
}

/// Who has a place.
#[derive(Debug, Clone)]
pub struct Resident {
    pub name: ObjectName,
    pub plug: Plug,
    pub worker: WorkerId,
}

/// A connection may be opened in either way; what is said of both.
#[derive(Debug, Clone, Copy, Default)]
struct Verdicts {
    there: bool,
    back: bool,
}

/// What is true from one publication to the next.
pub struct World {
    /// The change that led to it.
    pub what: String,
    /// By place.
    pub plugs: [Option<Plug>; PLACES],
    /// By connection.
    verdicts: Vec<Verdicts>,
}

impl World {
    /// May connection `number` be opened this way? Who is not there neither opens nor is reached.
    pub fn allows(&self, number: usize, way: Way) -> bool {
        let verdicts = self.verdicts[number];
        match way {
            Way::There => verdicts.there,
            Way::Back => verdicts.back,
        }
    }
}

/// The address of a place.
pub fn address(place: usize, six: bool) -> IpAddr {
    let place = place as u8 + 1;
    if six {
        IpAddr::from([0xfd00, 0x10, 0x244, 0, 0, 0, 0, place.into()])
    } else {
        [10, 244, 0, place].into()
    }
}

fn label(key: &str, value: &str) -> (LabelKey, LabelValue) {
    (LabelKey::parse(key).unwrap(), LabelValue::parse(value).unwrap())
}

fn labels(c: &mut Choices) -> Labels {
    [label("app", c.pick(&["a", "b", "c"])), label("tier", c.pick(&["x", "y"]))].into_iter().collect()
}

fn selector(c: &mut Choices) -> Selector {
    let (key, value) = match c.below(6) {
        0 => return Selector::everything(),
        1 | 2 => label("tier", c.pick(&["x", "y"])),
        _ => label("app", c.pick(&["a", "b", "c"])),
    };
    Selector::new([Requirement { key, operator: Operator::In([value].into()) }]).unwrap()
}

fn ports(c: &mut Choices) -> Vec<PolicyPort> {
    let port = |protocol, first: u16, last: u16| {
        PolicyPort::range(protocol, first.try_into().unwrap(), last.try_into().unwrap()).unwrap()
    };
    match c.below(8) {
        0..=3 => vec![],
        4 => vec![port(Protocol::Tcp, 80, 80)],
        5 => vec![port(Protocol::Tcp, 1, 443), PolicyPort::all(Protocol::Udp)],
        6 => vec![port(Protocol::Udp, 53, 53), port(Protocol::Tcp, 443, 443)],
        _ => vec![PolicyPort::all(Protocol::Tcp)],
    }
}

fn peers(c: &mut Choices) -> Vec<Peer> {
    let block = |network: &str| Peer::IpBlock(IpBlock::new(network.parse().unwrap(), []).unwrap());
    match c.below(8) {
        0..=1 => vec![],
        2..=5 => vec![Peer::Pods { namespaces: None, pods: selector(c) }],
        6 => vec![block("10.244.0.0/29"), block("fd00:10:244::4/126")],
        _ => vec![block("10.244.0.4/30"), block("fd00:10:244::/125")],
    }
}

fn policy(c: &mut Choices, name: ObjectName) -> NetworkPolicy {
    let count = c.pick(&[1, 2, 1, 2, 3, 0]);
    let rules: Vec<Rule> = (0..count).map(|_| Rule { ports: ports(c), peers: peers(c) }).collect();
    let (ingress, egress) = match c.below(5) {
        0..=2 => (Some(rules), None),
        3 => (None, Some(rules)),
        _ => (Some(rules.clone()), Some(rules)),
    };
    NetworkPolicy { name, pods: selector(c), ingress, egress }
}

/// The cluster, and who has which place.
pub struct Town {
    pub cluster: Cluster,
    pub residents: [Option<Resident>; PLACES],
    workers: u8,
    identities: u32,
    ports: u16,
}

impl Town {
    /// All places taken, by pods on any of so many workers.
    pub fn new(c: &mut Choices, workers: u8) -> Self {
        let mut town = Self {
            cluster: Cluster::default(),
            residents: Default::default(),
            workers,
            identities: 0,
            ports: 0,
        };
        (0..PLACES).for_each(|place| town.settle(c, place));
        town
    }

    /// How many ports there were so far.
    pub fn ports(&self) -> u16 {
        self.ports
    }

    fn new_port(&mut self) -> PortId {
        self.ports += 1;
        PortId(self.ports - 1)
    }

    /// A new pod takes a place.
    fn settle(&mut self, c: &mut Choices, place: usize) {
        self.leave(place);
        self.identities += 1;
        let name = ObjectName::parse("shop", &format!("pod-{}", self.identities)).unwrap();
        let pod = Pod {
            labels: labels(c),
            ..cluster::pod(&name.to_string(), [address(place, false), address(place, true)])
        };
        self.cluster.pods.insert(name.clone(), pod);
        let plug = Plug { identity: self.identities, port: self.new_port() };
        let worker = WorkerId(c.below(self.workers.into()) as u8);
        self.residents[place] = Some(Resident { name, plug, worker });
    }

    fn leave(&mut self, place: usize) {
        if let Some(resident) = self.residents[place].take() {
            self.cluster.pods.remove(&resident.name);
        }
    }

    /// A policy comes, changes or goes, or a pod is labelled anew; a fifth of the changes has nothing to do with anybody.
    pub fn change_policy(&mut self, c: &mut Choices) -> String {
        let name = ObjectName::parse("shop", &format!("policy-{}", c.below(POLICIES))).unwrap();
        match c.below(20) {
            0..=8 => {
                let policy = policy(c, name.clone());
                self.cluster.policies.insert(name.clone(), policy.into());
                format!("{name} set")
            }
            9..=12 => {
                self.cluster.policies.remove(&name);
                format!("{name} removed")
            }
            13..=15 => {
                let place = c.below(PLACES);
                let labels = labels(c);
                let pod = self.residents[place].as_ref().map(|resident| &resident.name);
                if let Some(pod) = pod.and_then(|name| self.cluster.pods.get_mut(name)) {
                    pod.labels = labels;
                }
                format!("the pod at {place} labelled anew")
            }
            16 => "nothing".to_owned(),
            _ => {
                let elsewhere = ObjectName::parse("elsewhere", "policy").unwrap();
                let policy = policy(c, elsewhere.clone());
                self.cluster.policies.insert(elsewhere, policy.into());
                "another namespace's policy set".to_owned()
            }
        }
    }

    /// A pod comes or goes, or is plugged in anew.
    pub fn change_pods(&mut self, c: &mut Choices) -> String {
        let place = c.below(PLACES);
        match self.residents.iter().position(Option::is_none) {
            Some(empty) if c.chance(60) => {
                self.settle(c, empty);
                return format!("another pod at {empty}, which was empty");
            }
            _ => {}
        }
        match (c.below(3), self.residents[place].is_some()) {
            (0, true) => {
                self.leave(place);
                format!("the pod at {place} gone")
            }
            (1, true) => {
                let port = self.new_port();
                if let Some(resident) = &mut self.residents[place] {
                    resident.plug.port = port;
                }
                format!("the pod at {place} plugged in anew")
            }
            _ => {
                self.settle(c, place);
                format!("another pod at {place}")
            }
        }
    }

    /// What the oracle says of these connections now.
    pub fn world(&self, what: String, lines: impl Iterator<Item = Line>) -> World {
        let oracle = Oracle::new(&self.cluster);
        let allows = |source: usize, destination: usize, line: Line, port: u16| {
            let end = |place| {
                let address = address(place, line.six);
                End { party: oracle.party_at(address), address }
            };
            let (source, destination) = (end(source), end(destination));
            let there = source.party.pod().is_some() && destination.party.pod().is_some();
            there && oracle.judge(&Connection { source, destination, protocol: line.protocol, port }).allows()
        };
        let verdicts = lines.map(|line| Verdicts {
            there: allows(line.from, line.to, line, line.to_port),
            back: allows(line.to, line.from, line, line.from_port),
        });
        World {
            what,
            plugs: self.residents.each_ref().map(|resident| resident.as_ref().map(|resident| resident.plug)),
            verdicts: verdicts.collect(),
        }
    }
}

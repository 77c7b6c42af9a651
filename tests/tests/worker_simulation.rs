//! Whole workers under random traffic and random changes, a seed a run.
//!
//! Packets arrive on every port in no order, workers take turns in no order, policies change, ports close, come and go
//! while packets are between two workers, and time jumps. After each run every packet and every frame is accounted for
//! (the rig asserts it), and each packet that came out was one that policy admits: its own direction, or the direction
//! that it answers, was allowed by a snapshot that was published between its arrival and its departure.
//!
//! A failure names its seed; `PODGATE_SIMULATION_SEED=<n>` runs that one alone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use podgate_config::model::pod::Phase;
use podgate_config::model::*;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::policy::{PolicyTables, Question, Tier, judge};
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::choices::Choices;
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, Rig, UPLINK};

const RUNS: u64 = 1500;
const STEPS: usize = 60;
const PODS: [&str; 4] = ["a", "b", "c", "d"];
const PORTS: [u16; 3] = [53, 80, 1000];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(pod: &str) -> ObjectName {
    ObjectName::parse("shop", pod).unwrap()
}

fn addresses(pod: usize) -> [IpAddr; 2] {
    [ip(&format!("10.244.0.{}", pod + 1)), ip(&format!("fd00:10:244::{}", pod + 1))]
}

fn pod(number: usize) -> Pod {
    let label = (LabelKey::parse("app").unwrap(), LabelValue::parse(PODS[number]).unwrap());
    Pod {
        name: name(PODS[number]),
        uid: None,
        labels: [label].into_iter().collect(),
        addresses: addresses(number).to_vec(),
        phase: Phase::Live,
        host_network: false,
        node: None,
        ports: Vec::new(),
    }
}

fn app(value: &str) -> Selector {
    let values = [LabelValue::parse(value).unwrap()].into();
    let requirement = Requirement { key: LabelKey::parse("app").unwrap(), operator: Operator::In(values) };
    Selector::new([requirement]).unwrap()
}

/// What was published under a generation, as far as verdicts need it.
struct Published {
    tables: PolicyTables,
    local: BTreeSet<IpAddr>,
    closed: BTreeSet<IpAddr>,
    node: Vec<IpAddr>,
}

/// What a packet is, read from its bytes by etherparse and not by the code under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

impl Tuple {
    /// With the number that the packet carries in its payload.
    fn read(frame: &[u8]) -> (Self, Option<u64>) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination, protocol): (IpAddr, IpAddr, u8) = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(v4) => {
                let header = v4.header();
                (header.source_addr().into(), header.destination_addr().into(), v4.payload().ip_number.0)
            }
            NetSlice::Ipv6(v6) => {
                let header = v6.header();
                (header.source_addr().into(), header.destination_addr().into(), v6.payload().ip_number.0)
            }
            other => panic!("{other:?}"),
        };
        let (source_port, destination_port, number) = match packet.transport.as_ref().unwrap() {
            TransportSlice::Udp(udp) => {
                let number = udp.payload().first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
                (udp.source_port(), udp.destination_port(), number)
            }
            TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port(), None),
            other => panic!("{other:?}"),
        };
        (Self { source, destination, protocol, source_port, destination_port }, number)
    }

    fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    fn is_allowed(self, by: &Published) -> bool {
        let slot = |address| by.tables.lookup(address).map(|(_, slot)| slot);
        let (source_local, destination_local) =
            (by.local.contains(&self.source), by.local.contains(&self.destination));
        let question = Question {
            source: self.source,
            source_pod: slot(self.source),
            destination: self.destination,
            destination_pod: slot(self.destination),
            protocol: self.protocol,
            port: self.destination_port,
            judge_egress: source_local,
            judge_ingress: destination_local,
            // Each pod has one address a family.
            same_pod: self.source == self.destination,
            from_own_node: by.node.contains(&self.source),
            to_own_node: by.node.contains(&self.destination),
        };
        let judgement = judge(&by.tables, &question);
        let closed = [(self.source, judgement.egress), (self.destination, judgement.ingress)]
            .into_iter()
            .any(|(address, verdict)| {
                by.closed.contains(&address) && verdict.is_some_and(|verdict| verdict.tier != Tier::Exempt)
            });
        judgement.allowed() && !closed
    }
}

struct Simulation {
    choices: Choices,
    workers: u8,
    rig: Rig,
    cluster: Cluster,
    /// By pod number: its port while it has one. A pod's worker never changes.
    ports: BTreeMap<usize, PortId>,
    closed: BTreeSet<usize>,
    history: Vec<Published>,
    /// By the number in a packet: the place in `history` that was newest when it arrived.
    arrivals: HashMap<u64, usize>,
    seen: HashSet<Tuple>,
    passed: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut choices = Choices::seeded(seed);
        let workers = 1 + choices.below(3) as u8;
        // Small tables and rings, so that they are full now and then.
        let settings = WorkerSettings {
            flows: 4 + choices.below(40),
            batch: 1 + choices.below(16),
            established: Established::Recheck,
            seed: [seed, 2, 3, 4],
            ..WorkerSettings::default()
        };
        let mut simulation = Self {
            rig: Rig::new(workers, &settings),
            choices,
            workers,
            cluster: Cluster::default(),
            ports: BTreeMap::new(),
            closed: BTreeSet::new(),
            history: Vec::new(),
            arrivals: HashMap::new(),
            seen: HashSet::new(),
            passed: 0,
        };
        for (number, text) in PODS.into_iter().enumerate() {
            simulation.cluster.pods.insert(name(text), pod(number));
            simulation.plug(number);
        }
        simulation.publish();
        simulation
    }

    fn plug(&mut self, number: usize) {
        let worker = WorkerId(number as u8 % self.workers);
        let port = self.rig.add_pod(&name(PODS[number]), worker);
        self.ports.insert(number, port);
        self.closed.remove(&number);
    }

    fn publish(&mut self) {
        self.rig.publish(&self.cluster);
        let tables = self.rig.compiled.as_ref().unwrap().tables.clone();
        self.history.push(Published {
            tables,
            local: self.ports.keys().flat_map(|number| addresses(*number)).collect(),
            closed: self.closed.iter().flat_map(|number| addresses(*number)).collect(),
            node: self.rig.node.clone(),
        });
    }

    fn change_policies(&mut self) {
        self.cluster.policies.clear();
        for _ in 0..self.choices.below(4) {
            let subject = self.choices.below(PODS.len());
            let peers = vec![Peer::Pods { namespaces: None, pods: app(self.choices.pick(&PODS)) }];
            let number = self.choices.pick(&PORTS).try_into().unwrap();
            let protocol = self.choices.pick(&[Protocol::Udp, Protocol::Tcp]);
            let ports = vec![PolicyPort::range(protocol, number, number).unwrap()];
            let rules = if self.choices.chance(40) { vec![] } else { vec![Rule { ports, peers }] };
            let (ingress, egress) =
                if self.choices.chance(60) { (Some(rules), None) } else { (None, Some(rules)) };
            let policy = NetworkPolicy {
                name: name(&format!("policy-{subject}")),
                pods: app(PODS[subject]),
                ingress,
                egress,
            };
            self.cluster.policies.insert(policy.name.clone(), policy);
        }
        self.publish();
    }

    /// A port and an address that may or may not be behind it.
    fn end(&mut self, family: usize) -> (PortId, IpAddr) {
        match self.choices.below(8) {
            0 => (HOST, self.rig.node[family]),
            1 => (UPLINK, [ip("192.0.2.7"), ip("2001:db8::7")][family]),
            _ => {
                let number = self.choices.below(PODS.len());
                let address = addresses(number)[family];
                // Without a port it is a pod of another node, reached through the host.
                (self.ports.get(&number).copied().unwrap_or(HOST), address)
            }
        }
    }

    fn traffic(&mut self) {
        for _ in 0..self.choices.below(20) {
            let family = self.choices.below(2);
            let ((port, source), (_, destination)) = (self.end(family), self.end(family));
            if source == destination {
                continue;
            }
            let source = if self.choices.chance(5) { addresses(0)[family] } else { source };
            let from = From::new(port, source, destination);
            let (source_port, destination_port) = (self.choices.pick(&PORTS), self.choices.pick(&PORTS));
            let number = self.arrivals.len() as u64;
            let frame = if self.choices.chance(70) {
                from.udp(source_port, destination_port, &number.to_be_bytes())
            } else {
                let flags = self.choices.pick(&["S", "SA", "A", "FA", "R"]);
                from.tcp(source_port, destination_port, flags)
            };
            let (tuple, carried) = Tuple::read(&frame);
            if self.rig.deliver(port, &frame) {
                self.seen.insert(tuple);
                if carried.is_some() {
                    self.arrivals.insert(number, self.history.len() - 1);
                }
            }
        }
    }

    fn check(&mut self, seed: u64, bytes: &[u8]) {
        let (tuple, number) = Tuple::read(bytes);
        // A TCP segment carries no number: it may be as old as the run.
        let since = number.map_or(0, |number| self.arrivals[&number]);
        let allowed = self.history[since..].iter().any(|published| {
            tuple.is_allowed(published)
                || (self.seen.contains(&tuple.reversed()) && tuple.reversed().is_allowed(published))
        });
        assert!(allowed, "seed {seed}: {tuple:?} came out, and no snapshot since its arrival admits it");
        self.passed += 1;
    }

    fn step(&mut self, seed: u64) {
        match self.choices.below(12) {
            0 => self.change_policies(),
            1 => {
                let number = self.choices.below(PODS.len());
                match self.ports.remove(&number) {
                    Some(port) => {
                        // The order is the control side's business: the port or the snapshot may go first.
                        if self.choices.chance(50) {
                            self.rig.remove_pod(port);
                            self.closed.remove(&number);
                            self.publish();
                        } else {
                            self.rig.remove_pod(port);
                            self.closed.remove(&number);
                        }
                    }
                    None => {
                        self.plug(number);
                        self.publish();
                    }
                }
            }
            2 => {
                let number = self.choices.below(PODS.len());
                if let Some(port) = self.ports.get(&number) {
                    let close = self.closed.insert(number);
                    if !close {
                        self.closed.remove(&number);
                    }
                    self.rig.set_closed(*port, close);
                    self.publish();
                }
            }
            3 => self.rig.advance(Duration::from_secs(self.choices.below(200) as u64)),
            _ => self.traffic(),
        }
        for _ in 0..self.choices.below(4) {
            let worker = self.choices.below(usize::from(self.workers));
            self.rig.turn(worker);
        }
        if self.choices.chance(50) {
            for (_, sent) in self.rig.take() {
                self.check(seed, &sent.bytes);
            }
        }
    }

    /// What passed. Ends with a probe: when all is open again, a fresh connection passes.
    fn run(mut self, seed: u64) -> u64 {
        for _ in 0..STEPS {
            self.step(seed);
        }
        for (_, sent) in self.rig.settle() {
            self.check(seed, &sent.bytes);
        }
        self.rig.advance(Duration::from_secs(10 * 24 * 3600));
        self.cluster.policies.clear();
        for number in 0..PODS.len() {
            match self.ports.get(&number) {
                Some(port) => self.rig.set_closed(*port, false),
                None => self.plug(number),
            }
        }
        self.closed.clear();
        self.publish();
        for _ in 0..64 {
            // Old connections age.
            self.rig.settle();
        }
        let [source, destination] = [0, 1].map(|number| addresses(number)[0]);
        let probe = From::new(self.ports[&0], source, destination).udp(7, 7, &u64::MAX.to_be_bytes());
        assert!(self.rig.deliver(self.ports[&0], &probe), "seed {seed}: no frames are left to receive with");
        let sent = self.rig.settle();
        let drops = self.rig.drops();
        assert_eq!(sent.len(), 1, "seed {seed}: the probe did not pass; drops of the run: {drops:?}");
        assert_eq!(sent[0].0, self.ports[&1], "seed {seed}");
        self.rig.finish();
        self.passed
    }
}

#[test]
fn nothing_is_lost_and_nothing_denied_comes_out() {
    if let Some(seed) = std::env::var("PODGATE_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Simulation::new(seed).run(seed);
        return;
    }
    let passed: u64 = (0..RUNS).map(|seed| Simulation::new(seed).run(seed)).sum();
    assert!(passed > 10 * RUNS, "the runs say little: only {passed} packets passed");
}

//! Whole workers under random traffic and random changes, a seed a run.
//!
//! Packets of all kinds arrive on every port in no order, ICMP errors about earlier ones among them; workers take turns in no
//! order, policies change, ports close, come and go while packets are between two workers, and time jumps. After each run
//! every packet and every frame is accounted for (the rig asserts it), and each packet that came out was one that policy
//! admits: its own direction, or the direction that it answers, was allowed by a snapshot that was published between its
//! arrival and its departure; for an ICMP error, either direction of the connection that it quotes. Some datagrams come in
//! fragments, out of order, with copies, gaps and overlaps; each fragment has to be allowed as its datagram.
//!
//! A failure names its seed; `PODGATE_SIMULATION_SEED=<n>` runs that one alone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket};
use podgate_config::model::*;
use podgate_dataplane::fragment::Limits;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::policy::{PolicyTables, Question, Tier, judge};
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::choices::Choices;
use podgate_tests::cluster::{self, app, ip};
use podgate_tests::frames::{From, fragment};
use podgate_tests::rig::{HOST, Rig, UPLINK};

const RUNS: u64 = 1500;
const STEPS: usize = 60;
const PODS: [&str; 4] = ["a", "b", "c", "d"];
const PORTS: [u16; 3] = [53, 80, 1000];

fn name(pod: &str) -> ObjectName {
    ObjectName::parse("shop", pod).unwrap()
}

fn addresses(pod: usize) -> [IpAddr; 2] {
    [ip(&format!("10.244.0.{}", pod + 1)), ip(&format!("fd00:10:244::{}", pod + 1))]
}

fn pod(number: usize) -> Pod {
    cluster::pod(&format!("shop/{}", PODS[number]), addresses(number))
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

/// What a packet is to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It may open one, or belong to one in either direction.
    Any,
    /// It answers one in the other direction: a ping's reply.
    Answer,
    /// It is about one, in either direction: an ICMP error, with the tuple that it quotes.
    About(Tuple),
}

/// A packet as it was read.
struct Read {
    tuple: Tuple,
    part: Part,
    /// The number in its payload, of those that carry one.
    number: Option<u64>,
}

impl Read {
    fn new(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination, protocol, payload) = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(v4) => {
                let (header, payload) = (v4.header(), v4.payload());
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    payload.ip_number,
                    payload.payload,
                )
            }
            NetSlice::Ipv6(v6) => {
                let (header, payload) = (v6.header(), v6.payload());
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    payload.ip_number,
                    payload.payload,
                )
            }
            other => panic!("{other:?}"),
        };
        Self::of(source, destination, protocol.0, payload)
    }

    fn of(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Self {
        let word = |place: usize| u16::from_be_bytes([payload[place], payload[place + 1]]);
        let number =
            || payload.get(8..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
        let (ports, part, number) = match (protocol, payload[0]) {
            (17, _) => ((word(0), word(2)), Part::Any, number()),
            (6 | 132, _) => ((word(0), word(2)), Part::Any, None),
            // A ping has an identifier, and the same one both ways.
            (1, 8) | (58, 128) => ((word(4), word(4)), Part::Any, number()),
            (1, 0) | (58, 129) => ((word(4), word(4)), Part::Answer, number()),
            (1 | 58, _) => ((0, 0), Part::About(quoted(&payload[8..])), None),
            _ => ((0, 0), Part::Any, None),
        };
        let tuple = Tuple { source, destination, protocol, source_port: ports.0, destination_port: ports.1 };
        Self { tuple, part, number }
    }
}

/// The tuple of the packet that an ICMP error quotes, without its Ethernet header.
fn quoted(packet: &[u8]) -> Tuple {
    let mut frame = vec![0; 12];
    frame.extend_from_slice(if packet[0] >> 4 == 4 { &[0x08, 0] } else { &[0x86, 0xdd] });
    frame.extend_from_slice(packet);
    Read::new(&frame).tuple
}

impl Tuple {
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
            port: if matches!(self.protocol, 6 | 17 | 132) { self.destination_port } else { 0 },
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

/// Which fragment a frame is: the identification, and the offset with the flags as the wire has it.
fn piece(frame: &[u8]) -> Option<(u32, u16)> {
    let (id, place) = match (&frame[12..14], frame[20]) {
        ([8, 0], _) => (u32::from(u16::from_be_bytes([frame[18], frame[19]])), &frame[20..22]),
        (_, FRAGMENTS) => (u32::from_be_bytes(frame[58..62].try_into().unwrap()), &frame[56..58]),
        _ => return None,
    };
    let place = u16::from_be_bytes([place[0], place[1]]);
    (place & 0x3fff != 0).then_some((id, place))
}

/// Stands for fragments among IP protocols: the number of IPv6's fragment header.
const FRAGMENTS: u8 = 44;

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
    /// Frames that arrived, with the port that their destination is behind, for errors to quote.
    quotable: Vec<(PortId, Vec<u8>)>,
    /// What came out, by IP protocol; errors are 0.
    passed: BTreeMap<u8, u64>,
    /// Datagrams in fragments, by identification.
    datagrams: Vec<Tuple>,
    /// Fragments that are yet to arrive.
    pending: Vec<(PortId, Vec<u8>)>,
    /// As `arrivals`, by [`piece`].
    piece_arrivals: HashMap<(u32, u16), usize>,
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
            fragments: Limits {
                datagrams: 4 + choices.below(12),
                held: 1 + choices.below(12),
                held_per_source: 1 + choices.below(8),
                ..Limits::default()
            },
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
            quotable: Vec::new(),
            passed: BTreeMap::new(),
            datagrams: Vec::new(),
            pending: Vec::new(),
            piece_arrivals: HashMap::new(),
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
        let tables = self.rig.tables.clone().unwrap();
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
            self.cluster.policies.insert(policy.name.clone(), policy.into());
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
            let ((port, source), (to, destination)) = (self.end(family), self.end(family));
            if source == destination {
                continue;
            }
            let source = if self.choices.chance(5) { addresses(0)[family] } else { source };
            let from = From::new(port, source, destination);
            let ports = (self.choices.pick(&PORTS), self.choices.pick(&PORTS));
            if self.choices.chance(15) {
                self.cut(&from, ports);
                continue;
            }
            let number = (self.arrivals.len() as u64).to_be_bytes();
            let (port, frame) = match self.choices.below(20) {
                0..=8 => (port, from.udp(ports.0, ports.1, &number)),
                // The numbers of all segments fit: so handshakes, data, ends and resets come about, in any order.
                9..=13 => {
                    let flags = self.choices.pick(&["S", "SA", "A", "A", "FA", "R"]);
                    (port, from.tcp(ports.0, ports.1, flags))
                }
                14..=15 => (port, from.echo_with(ports.0, self.choices.chance(50), &number)),
                // INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, DATA, SHUTDOWN.
                16..=17 => {
                    let chunk = self.choices.pick(&[1, 2, 10, 11, 0, 7]);
                    (port, from.sctp(ports.0, ports.1, chunk))
                }
                18 => (port, from.other(47, &number)),
                _ => match self.an_error() {
                    Some(error) => error,
                    None => continue,
                },
            };
            let Read { tuple, number, part } = Read::new(&frame);
            if self.rig.deliver(port, &frame) {
                self.seen.insert(tuple);
                if let Some(number) = number {
                    self.arrivals.insert(number, self.history.len() - 1);
                }
                if part == Part::Any {
                    self.quotable.push((to, frame));
                }
            }
        }
    }

    /// One end of some earlier packet complains about it.
    fn an_error(&mut self) -> Option<(PortId, Vec<u8>)> {
        let place = self.choices.below(self.quotable.len());
        let (port, about) = self.quotable.get(place)?.clone();
        let Tuple { source, destination, .. } = Read::new(&about).tuple;
        // Its port may be gone by now.
        let is_there = port == HOST || port == UPLINK || self.ports.values().any(|there| *there == port);
        is_there.then(|| (port, From::new(port, destination, source).unreachable(&about)))
    }

    /// Makes fragments of a datagram, to arrive in no order and not all.
    fn cut(&mut self, from: &From, ports: (u16, u16)) {
        let whole = from.udp(ports.0, ports.1, &[7; 72]);
        let id = self.datagrams.len() as u32;
        self.datagrams.push(Read::new(&whole).tuple);
        for start in (0..80).step_by(16) {
            let mut bytes = start..start + 16;
            match self.choices.below(30) {
                0 => continue,
                1 if start > 0 => bytes.start -= 8,
                2 => self.pending.push((from.port, fragment(&whole, bytes.clone(), start < 64, id))),
                _ => {}
            }
            self.pending.push((from.port, fragment(&whole, bytes, start < 64, id)));
        }
    }

    /// Some fragments arrive, mostly those that were made first.
    fn fragments(&mut self) {
        for _ in 0..self.choices.below(12) {
            if self.pending.is_empty() {
                return;
            }
            let place =
                if self.choices.chance(60) { 0 } else { self.choices.below(self.pending.len().min(8)) };
            let (port, frame) = self.pending.remove(place);
            let is_there = port == HOST || port == UPLINK || self.ports.values().any(|other| *other == port);
            if is_there && self.rig.deliver(port, &frame) {
                let piece = piece(&frame).unwrap();
                self.seen.insert(self.datagrams[piece.0 as usize]);
                self.piece_arrivals.entry(piece).or_insert(self.history.len() - 1);
            }
        }
    }

    fn check(&mut self, seed: u64, bytes: &[u8]) {
        let piece = piece(bytes);
        let (Read { tuple, part, .. }, since) = match piece {
            Some(piece) => {
                let tuple = self.datagrams[piece.0 as usize];
                (Read { tuple, part: Part::Any, number: None }, self.piece_arrivals[&piece])
            }
            None => {
                let read = Read::new(bytes);
                // What carries no number may be as old as the run.
                let since = read.number.map_or(0, |number| self.arrivals[&number]);
                (read, since)
            }
        };
        let asked = |tuple: Tuple, by| self.seen.contains(&tuple) && tuple.is_allowed(by);
        let allowed = self.history[since..].iter().any(|published| match part {
            Part::Any => tuple.is_allowed(published) || asked(tuple.reversed(), published),
            Part::Answer => asked(tuple.reversed(), published),
            Part::About(quoted) => asked(quoted, published) || asked(quoted.reversed(), published),
        });
        assert!(
            allowed,
            "seed {seed}: {tuple:?} ({part:?}) came out, and no snapshot since its arrival admits it"
        );
        let protocol = match part {
            Part::About(_) => 0,
            _ if piece.is_some() => FRAGMENTS,
            _ => tuple.protocol,
        };
        *self.passed.entry(protocol).or_default() += 1;
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
            3 if self.choices.chance(20) => {
                // As on a node: no packet arrives until all workers know whose the queues are.
                self.rig.set_uplink_queues(1 + self.choices.below(usize::from(self.workers)) as u8);
                self.publish();
            }
            3 => self.rig.advance(Duration::from_secs(self.choices.below(200) as u64)),
            _ => self.traffic(),
        }
        self.fragments();
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
    fn run(mut self, seed: u64) -> BTreeMap<u8, u64> {
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
        assert_eq!((self.rig.datagrams(), self.rig.counts().held), (0, 0), "seed {seed}");
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
    let mut passed: BTreeMap<u8, u64> = BTreeMap::new();
    for seed in 0..RUNS {
        for (protocol, count) in Simulation::new(seed).run(seed) {
            *passed.entry(protocol).or_default() += count;
        }
    }
    for protocol in [0, 1, 6, 17, FRAGMENTS, 47, 58, 132] {
        let count = passed.get(&protocol).copied().unwrap_or(0);
        assert!(
            count > RUNS / 10,
            "the runs say little: of protocol {protocol} (0: errors) only {count} passed"
        );
    }
}

//! A gateway with two pods, and steps that send one frame each and say everything that comes of it.
//!
//! A step fails if anything else comes out, or if any counter moves by anything else: packets and bytes by worker and kind of
//! port, drops by reason, hand-overs, answers, connections, verdicts. Each drop leaves one record, which must say what the
//! test itself reads in the frame. So a step has to say what changes, and nothing of what does not.
//!
//! Who owns a connection between two pods is a hash's choice. It is learned from the first packet that shows it, and must be
//! one of the pods' two workers and the same ever after.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use af_xdp::TxChecksum;
use af_xdp::twin::Sent;
use podgate_config::model::{Cluster, NetworkPolicy, Pod};
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::PodSlot;
use podgate_dataplane::worker::{Established, Unresolved, WorkerSettings};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, Rig, UPLINK, gateway_mac, link_peer};

use crate::cluster::{Addresses, name, pods};
use crate::ledger::{Counter, Ledger};

/// What a frame must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves by this port.
    Passes { to: PortId },
    /// It ends here, and its sender may be told.
    Drops { reason: DropReason, is_told: bool },
    /// It was for the gateway, which may answer.
    Consumed { is_answered: bool },
}

/// What happens to connections besides, and other things that a step may say before its frame.
#[derive(Debug, Clone, Default)]
struct Besides {
    opens: bool,
    cut: i64,
    expired: i64,
    evicted: i64,
    kept_back: i64,
    farewell: Option<PortId>,
    wanted: Vec<(PortId, IpAddr)>,
    split_at: Option<usize>,
    checksum: Option<TxChecksum>,
}

/// A gateway, its pods `shop/a` on the first worker and `shop/b` on the last, and `shop/remote` on another node.
pub struct Case {
    pub rig: Rig,
    pub cluster: Cluster,
    pub a: PortId,
    pub b: PortId,
    pub at: Addresses,
    pub workers: u8,
    /// Each worker has a queue of the uplink, its own number's.
    spread: bool,
    pub homes: BTreeMap<PortId, WorkerId>,
    /// By address, of the pods that have a port here.
    pub local: BTreeMap<IpAddr, PortId>,
    owners: BTreeMap<[IpAddr; 2], WorkerId>,
    pub ledger: Ledger,
    besides: Besides,
}

/// Runs a case in every shape.
pub fn each(case: impl Fn(Case)) {
    each_with(&WorkerSettings::default(), case);
}

/// As [`each`], in both modes of what policy changes mean for open connections.
pub fn each_mode(case: impl Fn(Case, Established)) {
    for established in [Established::Recheck, Established::Keep] {
        each_with(&WorkerSettings { established, ..WorkerSettings::default() }, |shape| {
            case(shape, established);
        });
    }
}

/// As [`each`], with settings.
pub fn each_with(settings: &WorkerSettings, case: impl Fn(Case)) {
    // The uplink's queues with the last worker, or one with each.
    for (workers, spread) in [(1, false), (2, false), (2, true), (3, false), (3, true)] {
        for six in [false, true] {
            let family = if six { 6 } else { 4 };
            eprintln!("workers {workers}, uplink spread: {spread}, IPv{family}, {:?}", settings.established);
            case(Case::with_uplink(workers, spread, six, settings));
        }
    }
}

impl Case {
    pub fn new(workers: u8, six: bool, settings: &WorkerSettings) -> Self {
        Self::with_uplink(workers, false, six, settings)
    }

    fn with_uplink(workers: u8, spread: bool, six: bool, settings: &WorkerSettings) -> Self {
        let mut rig = Rig::new(workers, settings);
        if spread {
            rig.set_uplink_queues(workers);
        }
        let mut case = Self {
            rig,
            spread,
            cluster: Cluster::default(),
            a: HOST,
            b: HOST,
            at: Addresses { six },
            workers,
            homes: BTreeMap::from([(HOST, WorkerId(0)), (UPLINK, WorkerId(workers - 1))]),
            local: BTreeMap::new(),
            owners: BTreeMap::new(),
            ledger: Ledger::default(),
            besides: Besides::default(),
        };
        let [a, b, remote] = pods();
        case.cluster.pods.insert(remote.name.clone(), remote);
        case.a = case.add_pod(a, 0);
        case.b = case.add_pod(b, workers - 1);
        case.publish();
        case
    }

    // What there is.

    /// A pod with a port on a worker. Publish afterwards.
    pub fn add_pod(&mut self, pod: Pod, worker: u8) -> PortId {
        let port = self.rig.add_pod(&pod.name, WorkerId(worker));
        self.homes.insert(port, WorkerId(worker));
        self.local.extend(pod.addresses.iter().map(|address| (*address, port)));
        self.cluster.pods.insert(pod.name.clone(), pod);
        self.owners.clear();
        port
    }

    /// A pod goes, and its port. Returns its addresses. Publish afterwards.
    pub fn remove_pod(&mut self, port: PortId, pod: &str) -> [IpAddr; 2] {
        self.rig.remove_pod(port);
        self.homes.remove(&port);
        self.local.retain(|_, other| *other != port);
        self.owners.clear();
        self.cluster.pods.remove(&name(pod)).unwrap().addresses.try_into().unwrap()
    }

    /// The same pod gets another port on the same worker. Publish afterwards.
    pub fn replug_pod(&mut self, port: PortId) -> PortId {
        let next = self.rig.replug_pod(port);
        let home = self.homes.remove(&port).unwrap();
        self.homes.insert(next, home);
        self.local.values_mut().filter(|other| **other == port).for_each(|other| *other = next);
        next
    }

    /// What has changed comes into force, and nothing else happens by that.
    #[track_caller]
    pub fn publish(&mut self) {
        self.rig.publish(&self.cluster);
        // New tables count from 0.
        self.ledger = Ledger::read(&self.rig, &self.cluster);
        assert_eq!(self.rig.settle(), []);
        self.moved(Ledger::default());
    }

    /// Another policy comes into force.
    #[track_caller]
    pub fn policy(&mut self, policy: NetworkPolicy) {
        self.cluster.policies.insert(policy.name.clone(), policy.into());
        self.publish();
    }

    /// These policies come into force, and no other.
    #[track_caller]
    pub fn policies(&mut self, policies: impl IntoIterator<Item = NetworkPolicy>) {
        self.cluster.policies =
            policies.into_iter().map(|policy| (policy.name.clone(), policy.into())).collect();
        self.publish();
    }

    // Names of things.

    pub fn a_to_b(&self) -> From {
        From::new(self.a, self.at.a(), self.at.b())
    }

    pub fn b_to_a(&self) -> From {
        From::new(self.b, self.at.b(), self.at.a())
    }

    /// From `a` to somebody by each way out of it, and back: another pod, the uplink, and the host stack.
    pub fn ways(&self) -> [(From, From); 3] {
        let a_ip = self.at.a();
        [(self.b, self.at.b()), (UPLINK, self.at.outside()), (HOST, self.at.elsewhere())]
            .map(|(port, peer)| (From::new(self.a, a_ip, peer), From::new(port, peer, a_ip)))
    }

    /// The worker that receives a frame.
    pub fn receiver(&self, from: PortId, frame: &[u8]) -> WorkerId {
        if self.spread && from == UPLINK {
            return WorkerId(self.rig.queue_of(from, frame) as u8);
        }
        self.homes[&from]
    }

    /// The worker that sends by a port what a worker has ready.
    pub fn sender(&self, to: PortId, ready: WorkerId) -> WorkerId {
        if self.spread && to == UPLINK { ready } else { self.homes[&to] }
    }

    /// The owner of the connections between two addresses, if a packet has shown it.
    pub fn owner(&self, one: IpAddr, other: IpAddr) -> Option<WorkerId> {
        match self.owner_by_rule(one, other) {
            Ok(owner) => Some(owner),
            Err(pair) => self.owners.get(&pair).copied(),
        }
    }

    /// The owner, or a pair of which it is the hash's choice.
    fn owner_by_rule(&self, one: IpAddr, other: IpAddr) -> Result<WorkerId, [IpAddr; 2]> {
        let home = |address| self.local.get(address).and_then(|port| self.homes.get(port)).copied();
        match (home(&one), home(&other)) {
            (Some(first), Some(second)) if first != second => Err([one.min(other), one.max(other)]),
            (Some(home), _) | (None, Some(home)) => Ok(home),
            (None, None) => Ok(WorkerId(0)),
        }
    }

    /// A packet shows that this worker owns the connections between two addresses.
    #[track_caller]
    pub fn learn_owner(&mut self, one: IpAddr, other: IpAddr, worker: WorkerId) {
        match self.owner_by_rule(one, other) {
            Ok(owner) => assert_eq!(worker, owner, "the owner"),
            Err(pair) => {
                let homes = pair.map(|address| self.homes[&self.local[&address]]);
                assert!(homes.contains(&worker), "the owner is {worker:?}, neither pod's worker");
                let known = *self.owners.entry(pair).or_insert(worker);
                assert_eq!(known, worker, "the owner has changed");
            }
        }
    }

    // Before a step: what it does besides.

    /// The next step opens a connection, whatever becomes of its frame.
    pub fn opening(&mut self) -> &mut Self {
        self.besides.opens = true;
        self
    }

    /// The next step cuts so many connections.
    pub fn cutting(&mut self, count: i64) -> &mut Self {
        self.besides.cut = count;
        self
    }

    /// The next step finds so many connections whose time is over.
    pub fn expiring(&mut self, count: i64) -> &mut Self {
        self.besides.expired = count;
        self
    }

    /// The next step takes the place of so many connections that are not established.
    pub fn evicting(&mut self, count: i64) -> &mut Self {
        self.besides.evicted = count;
        self
    }

    /// The next step would have answered so often, but there were too many answers already.
    pub fn keeping_back(&mut self, count: i64) -> &mut Self {
        self.besides.kept_back = count;
        self
    }

    /// The next step asks for this neighbour.
    pub fn asking_for(&mut self, port: PortId, neighbour: IpAddr) -> &mut Self {
        self.besides.wanted.push((port, neighbour));
        self
    }

    /// The next step's frame arrives in two buffers, the second one from this byte on.
    pub fn split_at(&mut self, byte: usize) -> &mut Self {
        self.besides.split_at = Some(byte);
        self
    }

    /// The next step's frame leaves with this checksum to complete.
    pub fn completing(&mut self, start: usize, offset: u16) -> &mut Self {
        self.besides.checksum = Some(TxChecksum { start: start as u16, offset });
        self
    }

    // Steps.

    /// The frame opens a connection, and comes out of `to`.
    #[track_caller]
    pub fn opens(&mut self, from: PortId, frame: &[u8], to: PortId) {
        self.opening().step(from, frame, Outcome::Passes { to });
    }

    /// The frame comes out of `to`, along a connection that there is.
    #[track_caller]
    pub fn passes(&mut self, from: PortId, frame: &[u8], to: PortId) {
        self.step(from, frame, Outcome::Passes { to });
    }

    /// A TCP connection to port 80 is opened, and both ends have agreed on it.
    #[track_caller]
    pub fn establish(&mut self, there: From, back: From, port: u16) {
        self.opens(there.port, &there.tcp(port, 80, "S"), back.port);
        self.passes(back.port, &back.tcp(80, port, "SA"), there.port);
        self.passes(there.port, &there.tcp(port, 80, "A"), back.port);
    }

    /// The frame is dropped for this reason, in silence.
    #[track_caller]
    pub fn drops(&mut self, from: PortId, frame: &[u8], reason: DropReason) {
        self.step(from, frame, Outcome::Drops { reason, is_told: false });
    }

    /// The frame is dropped for this reason, and its sender is told: the answer.
    #[track_caller]
    pub fn tells(&mut self, from: PortId, frame: &[u8], reason: DropReason) -> Vec<u8> {
        self.step(from, frame, Outcome::Drops { reason, is_told: true }).remove(0).bytes
    }

    /// As [`Case::tells`], and the end behind `to` is told too. What it is told comes second.
    #[track_caller]
    pub fn tells_both(&mut self, from: PortId, frame: &[u8], reason: DropReason, to: PortId) -> [Vec<u8>; 2] {
        self.besides.farewell = Some(to);
        let sent = self.step(from, frame, Outcome::Drops { reason, is_told: true });
        let [answer, farewell] = &sent[..] else { panic!("{sent:?}") };
        [answer.bytes.clone(), farewell.bytes.clone()]
    }

    /// The frame is for the gateway, which says nothing.
    #[track_caller]
    pub fn consumes(&mut self, from: PortId, frame: &[u8]) {
        self.step(from, frame, Outcome::Consumed { is_answered: false });
    }

    /// The frame is for the gateway, which answers.
    #[track_caller]
    pub fn answers(&mut self, from: PortId, frame: &[u8]) -> Vec<u8> {
        self.step(from, frame, Outcome::Consumed { is_answered: true }).remove(0).bytes
    }

    /// Time passes, and so many connections end by that.
    #[track_caller]
    pub fn time_passes(&mut self, by: Duration, expired: i64) {
        self.rig.advance(by);
        for _ in 0..8 {
            assert_eq!(self.rig.settle(), []);
        }
        let mut expected = Ledger::default();
        expected.add(Counter::Expired, expired);
        expected.add_connections(-expired);
        self.moved(expected);
    }

    /// How many connections there are.
    pub fn connections(&self) -> u64 {
        self.rig.flows()
    }

    /// Sends frames at once: what comes out. Nothing is checked but what the rig checks; for what one frame alone does not do.
    pub fn floods(&mut self, frames: impl IntoIterator<Item = (PortId, Vec<u8>)>) -> (usize, Ledger) {
        for (port, frame) in frames {
            assert!(self.rig.deliver(port, &frame));
        }
        let sent = self.rig.settle().len();
        let ledger = Ledger::read(&self.rig, &self.cluster);
        let moved = ledger.since(&self.ledger);
        self.rig.records();
        self.ledger = ledger;
        (sent, moved)
    }

    /// The end: nothing has moved that no step said, and no frame is lost.
    #[track_caller]
    pub fn finish(mut self) {
        self.moved(Ledger::default());
        self.rig.finish();
    }

    #[track_caller]
    fn moved(&mut self, expected: Ledger) {
        let ledger = Ledger::read(&self.rig, &self.cluster);
        assert_eq!(ledger.since(&self.ledger), expected, "moved, and should have");
        self.ledger = ledger;
        assert_eq!(self.rig.records(), []);
        assert_eq!(self.rig.unresolved(), []);
    }

    #[track_caller]
    fn step(&mut self, from: PortId, frame: &[u8], outcome: Outcome) -> Vec<Sent> {
        let besides = std::mem::take(&mut self.besides);
        let (head, rest) = frame.split_at(besides.split_at.unwrap_or(frame.len()));
        let parts = [head, rest];
        let parts = if besides.split_at.is_some() { &parts[..] } else { &parts[..1] };
        assert!(self.rig.deliver_parts(from, parts), "no room");
        let sent = self.rig.settle();
        let records = self.rig.records();
        let wanted = besides.wanted.iter();
        let wanted: Vec<_> =
            wanted.map(|&(port, neighbour)| Unresolved { port, neighbour, asker: from }).collect();
        assert_eq!(self.rig.unresolved(), wanted, "neighbours asked for");

        let sender = match outcome {
            Outcome::Passes { to } => Some(to),
            Outcome::Drops { is_told: true, .. } | Outcome::Consumed { is_answered: true } => Some(from),
            _ => None,
        };
        let ports = Vec::from_iter(sender.into_iter().chain(besides.farewell));
        let mut sent = sent;
        // What comes first is what the frame itself came to.
        sent.sort_by_key(|(port, _)| besides.farewell == Some(*port));
        assert!(sent.iter().map(|(port, _)| *port).eq(ports.iter().copied()), "{sent:?} {records:?}");
        let worker = match outcome {
            Outcome::Drops { reason, .. } => self.check_record(&records, from, frame, head, reason),
            _ => {
                assert_eq!(records, []);
                self.receiver(from, frame)
            }
        };
        for (port, sent) in &sent {
            if let Outcome::Passes { .. } = outcome {
                self.check_forwarded(frame, sent, *port);
                assert_eq!((sent.frames, sent.checksum), (parts.len(), besides.checksum));
            } else {
                assert_eq!(sent.bytes[..6], link_peer(*port), "to whom it is for");
                assert_eq!(sent.bytes[6..12], gateway_mac(*port));
            }
        }
        let owner = besides.opens.then(|| self.learn_from_opening(frame));
        let mut expected = self.expected(from, frame, outcome, worker, &sent);
        expected.add(Counter::Cut, besides.cut);
        expected.add(Counter::Expired, besides.expired);
        expected.add(Counter::Evicted, besides.evicted);
        expected.add(Counter::EvictedOfPods, besides.evicted);
        expected.add(Counter::ErrorsRefused, besides.kept_back);
        expected.add(Counter::ErrorsRefusedOf(from), besides.kept_back);
        expected.add_connections(-(besides.cut + besides.expired + besides.evicted));
        if let Some(owner) = owner {
            expected.add(Counter::Opened(owner), 1);
            expected.add_connections(1);
            expected.add(Counter::Allowed, self.verdicts(from, frame));
        }
        self.moved(expected);
        sent.into_iter().map(|(_, sent)| sent).collect()
    }

    /// What the tables know of the pod with an address.
    pub fn slot(&self, address: IpAddr) -> Option<PodSlot> {
        self.rig.tables.as_ref().unwrap().lookup(address).map(|(_, slot)| slot)
    }
}

pub fn kind(port: PortId) -> PortKind {
    match port {
        HOST => PortKind::Host,
        UPLINK => PortKind::Uplink,
        _ => PortKind::Pod,
    }
}

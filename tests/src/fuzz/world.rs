//! A small gateway in memory, to which a fuzzer sends packets one at a time.
//!
//! Few ends, few ports, few policies: so tuples collide, tables are full, and what changes concerns somebody. The literal
//! oracle says what policy allows.

use std::collections::BTreeMap;
use std::time::Duration;

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::Limits;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::worker::{Deny, Established, WorkerSettings};

use crate::frames::From;
use crate::oracle::{Connection, End as Party, Oracle};
use crate::rig::{HOST, Rig, UPLINK};

use super::scene::{End, POLICY_COUNT, clusters};

/// What a world is made with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// 1 or 2.
    pub workers: u8,
    /// Connections that one worker remembers.
    pub flows: usize,
    /// How many of them may be charged to one pod.
    pub flows_per_pod: usize,
    /// Whether open connections survive a change of policy.
    pub established: Established,
    /// Whether who is denied is told.
    pub deny: Deny,
    /// How much is remembered of datagrams in fragments.
    pub fragments: Limits,
}

/// What came of a frame that arrived.
#[derive(Debug, Clone)]
pub struct Became {
    /// What came out, and where.
    pub out: Vec<(PortId, Vec<u8>)>,
    /// What was dropped, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Entries that were made.
    pub opened: u64,
    /// Entries that had to go for it.
    pub evicted: u64,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// It came out, at the right port.
    pub passed: bool,
    /// Entries that it made.
    pub opened: u64,
    /// Entries that had to go for it.
    pub evicted: u64,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
}

/// The rig and who is behind its ports.
pub struct World {
    rig: Rig,
    settings: Settings,
    policy: usize,
    /// Ports of both pods.
    ports: [PortId; 2],
    /// How often each pod's address passed to a new pod.
    identities: [u32; 2],
    seconds: u64,
    late: bool,
    was_late: bool,
}

impl Settings {
    /// Connections that one pod may have.
    #[must_use]
    pub fn quota(&self) -> usize {
        self.flows_per_pod.min(self.flows)
    }
}

impl World {
    /// With the first policies.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let of_workers = WorkerSettings {
            flows: settings.flows,
            flows_per_pod: settings.flows_per_pod,
            established: settings.established,
            deny: settings.deny,
            fragments: settings.fragments,
            seed: [1, 2, 3, 4],
            ..WorkerSettings::default()
        };
        let mut rig = Rig::new(settings.workers, &of_workers);
        let ports = [End::A, End::B].map(|pod| rig.add_pod(&pod.name(), worker(pod, settings.workers)));
        let mut world = Self {
            rig,
            settings,
            policy: 0,
            ports,
            identities: [0; 2],
            seconds: 0,
            late: false,
            was_late: false,
        };
        world.set_policy(0);
        world
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Seconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.seconds
    }

    /// Fragments that wait.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.rig.counts().held
    }

    /// Datagrams in fragments.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.rig.datagrams()
    }

    /// Connections in all tables.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.rig.flows()
    }

    /// The port that leads to an end.
    #[must_use]
    pub fn port(&self, end: End) -> PortId {
        match end {
            End::A => self.ports[0],
            End::B => self.ports[1],
            End::Node | End::Remote => HOST,
            End::Outside => UPLINK,
        }
    }

    /// The port of the pod that pays for a connection.
    #[must_use]
    pub fn payer(&self, from: End, to: End) -> PortId {
        self.port(if !from.is_local_pod() && to.is_local_pod() { to } else { from })
    }

    /// A number that changes when another pod has the end's address.
    #[must_use]
    pub fn identity(&self, end: End) -> u32 {
        match end {
            End::A => self.identities[0],
            End::B => self.identities[1],
            End::Node | End::Remote | End::Outside => 0,
        }
    }

    /// May `from` open such a connection to `to`, by the policies in force, and is there a way?
    #[must_use]
    pub fn allows(&self, (from, to): (End, End), six: bool, protocol: u8, port: u16) -> bool {
        let cluster = &clusters()[self.policy];
        let oracle = Oracle::new(cluster);
        let end = |end: End| {
            let address = end.address(six);
            Party { party: oracle.party_at(address), address }
        };
        let connection = Connection { source: end(from), destination: end(to), protocol, port };
        let answer = oracle.judge(&connection);
        // Other nodes judge their own pods.
        let egress = !from.is_local_pod() || answer.egress.is_none_or(|side| side.allows());
        let ingress = !to.is_local_pod() || answer.ingress.is_none_or(|side| side.allows());
        egress && ingress && self.port(from) != self.port(to)
    }

    /// Puts other policies in force.
    pub fn set_policy(&mut self, number: usize) {
        self.policy = number % POLICY_COUNT;
        self.rig.publish(&clusters()[self.policy]);
    }

    /// The pod goes, and a new one with the same name and addresses comes.
    pub fn replace(&mut self, pod: End) {
        let Some(place) = [End::A, End::B].iter().position(|end| *end == pod) else { return };
        self.rig.remove_pod(self.ports[place]);
        self.ports[place] = self.rig.add_pod(&pod.name(), worker(pod, self.settings.workers));
        self.identities[place] += 1;
        self.set_policy(self.policy);
        // Workers find frames for the new port.
        self.rig.settle();
    }

    /// The pod's device is opened anew.
    pub fn replug(&mut self, pod: End) {
        let Some(place) = [End::A, End::B].iter().position(|end| *end == pod) else { return };
        self.ports[place] = self.rig.replug_pod(self.ports[place]);
        self.set_policy(self.policy);
        self.rig.settle();
    }

    /// Time passes, and workers look up now and then, as they do on a node; unless they are `late`: then the next packet comes
    /// before they do.
    ///
    /// # Panics
    /// If anything comes out.
    pub fn wait(&mut self, seconds: u64, late: bool) {
        self.seconds += seconds;
        self.rig.advance(Duration::from_secs(seconds));
        self.late = late;
        if !late {
            self.age();
        }
    }

    /// Have the workers not looked up since time passed?
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Did the latest packet come before the workers had looked up?
    #[must_use]
    pub fn was_late(&self) -> bool {
        self.was_late
    }

    fn age(&mut self) {
        for _ in 0..8 {
            assert!(self.rig.settle().is_empty(), "what was never sent came out");
        }
    }

    /// Where a packet of `from` for `to` starts, in the port of `by`.
    #[must_use]
    pub fn way(&self, by: End, (from, to): (End, End), six: bool) -> From {
        From::new(self.port(by), from.address(six), to.address(six))
    }

    /// Sends one frame and waits until nothing moves any more.
    ///
    /// # Panics
    /// If a packet is not accounted for.
    pub fn exchange(&mut self, by: End, frame: &[u8]) -> Became {
        let ((opened, evicted), before) = (counts(&self.rig), self.rig.drops());
        assert!(self.rig.deliver(self.port(by), frame), "no frame to receive with");
        let out = self.rig.settle().into_iter().map(|(port, sent)| (port, sent.bytes)).collect();
        let news = |(reason, count)| {
            let news: u64 = count - before.get(&reason).copied().unwrap_or(0);
            (news > 0).then_some((reason, news))
        };
        let drops = self.rig.drops().into_iter().filter_map(news).collect();
        let (opened_after, evicted_after) = counts(&self.rig);
        let became = Became { out, drops, opened: opened_after - opened, evicted: evicted_after - evicted };
        self.was_late = std::mem::take(&mut self.late);
        if self.was_late {
            self.age();
        }
        became
    }

    /// As [`World::exchange`], for a packet that nothing else waits for. What comes out is this packet, at the port that leads
    /// to `to`, or an answer to its sender, perhaps with a reset for its receiver; anything else panics.
    ///
    /// # Panics
    /// If anything but that comes out, or a packet is not accounted for.
    pub fn send(&mut self, by: End, to: End, frame: &[u8]) -> Outcome {
        let became = self.exchange(by, frame);
        let mut passed = false;
        let (mut answers, mut resets) = (0, 0);
        for (port, sent) in &became.out {
            let (was, is) = (Ends::of(frame), Ends::of(sent));
            if is_same(frame, sent) {
                assert!(!passed, "it came out twice");
                assert_eq!(*port, self.port(to), "it left by the wrong port");
                passed = true;
            } else if (was.source, was.destination) == (is.source, is.destination) {
                assert!(is.is_reset(), "it was changed");
                assert_eq!(*port, self.port(to), "a reset left by the wrong port");
                resets += 1;
            } else {
                // The one who speaks for the gateway is the node.
                assert_eq!(is.destination, was.source, "an answer to somebody else");
                assert_eq!(*port, self.port(by), "an answer by another way");
                answers += 1;
            }
        }
        let may_tell = u32::from(self.settings.deny == Deny::Reject && !passed);
        assert!(answers <= may_tell && resets <= may_tell, "{answers} answers, {resets} resets");
        let reason = became.drops.keys().next().copied();
        Outcome { passed, opened: became.opened, evicted: became.evicted, reason }
    }

    /// All connections and whatever else waits run out of time, and everything must be given back.
    ///
    /// # Panics
    /// If something is left.
    pub fn finish(mut self) {
        self.wait(10 * 24 * 3600, false);
        for _ in 0..self.settings.flows / 8 {
            self.rig.settle();
        }
        assert_eq!(self.rig.flows(), 0, "connections that never end");
        assert_eq!((self.held(), self.datagrams()), (0, 0), "fragments that wait for ever");
        self.rig.finish();
    }
}

/// Connections that were entered so far, and that had to go for others.
fn counts(rig: &Rig) -> (u64, u64) {
    rig.flow_counts()
        .fold((0, 0), |(opened, evicted), (_, counts)| (opened + counts.opened, evicted + counts.evicted))
}

fn worker(pod: End, workers: u8) -> WorkerId {
    WorkerId(if pod == End::A { 0 } else { workers - 1 })
}

/// Is a frame that came out one that went in, but for the ways that a router changes it?
#[must_use]
pub fn is_same(went_in: &[u8], came_out: &[u8]) -> bool {
    let (was, is) = (Ends::of(went_in), Ends::of(came_out));
    (was.source, was.destination, was.piece, was.body) == (is.source, is.destination, is.piece, is.body)
}

/// The addresses of a frame, as bytes, and what follows the IP header.
struct Ends<'a> {
    protocol: u8,
    /// Identification, flags and offset of IPv4.
    piece: &'a [u8],
    source: &'a [u8],
    destination: &'a [u8],
    body: &'a [u8],
}

impl<'a> Ends<'a> {
    #[allow(clippy::indexing_slicing)]
    fn of(frame: &'a [u8]) -> Self {
        let (start, length, end, protocol) =
            if frame[12..14] == [8, 0] { (26, 4, 34, frame[23]) } else { (22, 16, 54, frame[20]) };
        Self {
            protocol,
            piece: if end == 34 { &frame[18..22] } else { &[] },
            source: &frame[start..start + length],
            destination: &frame[start + length..start + 2 * length],
            body: &frame[end..],
        }
    }
    fn is_reset(&self) -> bool {
        self.protocol == 6 && self.body.get(13).is_some_and(|flags| flags & 4 != 0)
    }
}

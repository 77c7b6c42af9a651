//! A fuzzer's bytes as a story of fragments: a few datagrams whose pieces come in any order, twice, with gaps and overlaps;
//! policies that change, pods that are replaced, and time that passes in between.
//!
//! Two bytes of settings, then four bytes a step.

use std::time::Duration;

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::Limits;
use podgate_dataplane::worker::{Deny, Established};

use crate::frames::piece as piece_of;

use super::LONGEST;
use super::connections::Connections;
use super::datagrams::{Datagrams, Fate, Name, Piece};
use super::scene::{End, PORTS};
use super::talk::{Packet, Protocol, Shape, Tuple};
use super::world::{Outcome, Settings, World, is_same};

const WAITS: [u64; 8] = [1, 2, 3, 1, 2, 4, 31, 121];
const WAYS: [(End, End); 8] = [
    (End::A, End::B),
    (End::B, End::A),
    (End::A, End::Outside),
    (End::Outside, End::A),
    (End::Node, End::B),
    (End::A, End::Remote),
    (End::Outside, End::B),
    (End::Outside, End::Node),
];

/// Plays a story.
///
/// # Panics
/// If the gateway does what it must not.
pub fn play(bytes: &[u8]) {
    let Some((head, steps)) = bytes.split_first_chunk::<2>().filter(|_| bytes.len() <= LONGEST) else {
        return;
    };
    let fragments = Limits {
        datagrams: [64, 8, 16, 4][usize::from(head[1]) % 4],
        held: [24, 4, 8, 1][usize::from(head[1] >> 2) % 4],
        held_per_source: [24, 1, 2, 6][usize::from(head[1] >> 4) % 4],
        timeout: Duration::from_secs(3),
    };
    let settings = Settings {
        workers: 1 + (head[0] & 1),
        established: if head[0] & 2 == 0 { Established::Recheck } else { Established::Keep },
        deny: Deny::Drop,
        flows: 64,
        flows_per_pod: 64,
        fragments,
    };
    let mut story = Story {
        world: World::new(settings),
        connections: Connections::default(),
        datagrams: Datagrams::new(fragments),
        arrived: Vec::new(),
        latest: 0,
    };
    for step in steps.as_chunks::<4>().0 {
        story.step(*step);
        story.connections.hold_count(&story.world);
        let counts = (story.world.datagrams(), story.world.held());
        assert!(
            counts == story.datagrams.counts() || story.world.is_late(),
            "{counts:?} datagrams and pieces that wait, of {:?}",
            story.datagrams
        );
    }
    story.world.finish();
}

struct Story {
    world: World,
    connections: Connections,
    datagrams: Datagrams,
    /// The fragments that arrived.
    arrived: Vec<Vec<u8>>,
    /// The byte that means the datagram of the latest fragment.
    latest: u8,
}

impl Story {
    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        match what % 16 {
            11 => self.whole(a, b & 1 != 0),
            12 => self.world.set_policy(a.into()),
            13 => {
                self.world.wait(WAITS[usize::from(a) % WAITS.len()], b & 1 != 0);
                self.datagrams.forget(self.world.now());
            }
            14 => self.connections.unsettle(&mut self.world, a),
            _ => {
                // Mostly of the same datagram as before, and mostly near its begin.
                self.latest = if what % 16 < 7 { self.latest } else { a };
                let start = match u16::from(b) {
                    b @ 240.. => 8176 + b - 240,
                    b @ 192.. => b - 192,
                    b => b % 8,
                };
                let units = if c & 4 == 0 { 1 } else { 1 + u16::from(c % 4) };
                // Whole units but for the end, and now and then what cannot be.
                let (more, less) = (c & 0x10 == 0, u16::from(c >> 5));
                let cut = if more && c & 8 == 0 { 0 } else { less };
                self.piece(self.latest, Piece { start, length: units * 8 - cut, more });
            }
        }
    }

    /// A whole datagram, or its answer.
    fn whole(&mut self, a: u8, answer: bool) {
        let mut tuple = tuple(a);
        if answer {
            tuple = tuple.reversed();
        }
        let (from, to) = (tuple.from.0, tuple.to.0);
        let way = self.world.way(from, (from, to), tuple.six);
        let (shape, frame) = match tuple.protocol {
            Protocol::Echo if answer => (Shape::Answers, way.echo(tuple.from.1, true)),
            Protocol::Echo => (Shape::Asks, way.echo(tuple.from.1, false)),
            _ => (Shape::Asks, way.udp(tuple.from.1, tuple.to.1, b"whole")),
        };
        let flows = self.world.flows();
        let outcome = self.world.send(from, to, &frame);
        self.connections.hold(&self.world, &Packet { tuple, shape }, &outcome, flows);
    }

    fn piece(&mut self, a: u8, piece: Piece) {
        let tuple = tuple(a);
        let (six, from, to) = (tuple.six, tuple.from.0, tuple.to.0);
        let protocol = tuple.protocol.number(six);
        let identification = 7 + u16::from(a >> 4 & 1);
        let name = Name {
            port: self.world.port(from),
            six,
            ends: (from, to),
            identification,
            protocol: if six { 0 } else { protocol },
        };
        if piece.start == 0 && !piece.more {
            // That is no fragment.
            return;
        }
        let number = self.arrived.len();
        let way = self.world.way(from, (from, to), six);
        let bytes = content(&tuple, piece, number as u16);
        let frame =
            piece_of(&way.other(protocol, &[]), (piece.start * 8, piece.more), identification.into(), &bytes);
        self.arrived.push(frame.clone());

        let flows = self.world.flows();
        let mut became = self.world.exchange(from, &frame);
        if self.world.was_late() {
            // Those of older pieces, whose time is over.
            became.drops.remove(&DropReason::FragmentTimeout);
        }
        let context = || format!("{piece:?} of {name:?}, {tuple:?}: {:?}", became.drops);
        for (port, _) in &became.out {
            assert_eq!(*port, self.world.port(to), "it left by the wrong port: {}", context());
        }
        // What came out, as numbers of what came in; in order, and nothing else.
        let is_out = |numbers: &[usize]| {
            became.out.len() == numbers.len()
                && numbers
                    .iter()
                    .zip(&became.out)
                    .all(|(number, (_, out))| is_same(&self.arrived[*number], out))
        };
        let is_possible = piece.length.is_multiple_of(8) || !piece.more;
        let end = usize::from(piece.start) * 8 + usize::from(piece.length);
        // The headers before it count too: 20 bytes, or in IPv6 those behind the first one.
        let is_short_enough = end <= 65_535 - if six { 0 } else { 20 };
        if !is_possible || !is_short_enough {
            assert!(
                is_out(&[]) && self.world.held() == self.datagrams.counts().1,
                "what cannot be was taken: {}",
                context()
            );
            assert_eq!(became.drops.get(&DropReason::FragmentInvalid), Some(&1), "{}", context());
            return;
        }
        let limit = [DropReason::FragmentTableFull, DropReason::FragmentSourceLimit]
            .into_iter()
            .find(|reason| became.drops.contains_key(reason));
        if let Some(reason) = limit {
            assert!(self.datagrams.is_full(&name, reason), "refused with room left: {}", context());
            assert!(
                is_out(&[]) && self.world.held() == self.datagrams.counts().1,
                "it was refused, and not: {}",
                context()
            );
            return;
        }
        match self.datagrams.arrive(name, piece, number, self.world.now()) {
            Fate::Leads(waiting) => {
                let passed = !became.out.is_empty();
                let reason = became.drops.keys().next().copied();
                let outcome = Outcome { passed, opened: became.opened, evicted: became.evicted, reason };
                self.connections.hold(&self.world, &Packet { tuple, shape: Shape::Asks }, &outcome, flows);
                let all = [vec![number], waiting].concat();
                assert!(
                    is_out(if passed { &all } else { &[] }),
                    "{all:?} did not go together: {}",
                    context()
                );
                self.datagrams.led(&name, passed.then_some(tuple));
            }
            Fate::Follows(tuple) => {
                let passed = !became.out.is_empty();
                assert!(!passed || is_out(&[number]), "something else came out: {}", context());
                assert_eq!(became.opened, 0, "a later piece opened a connection: {}", context());
                self.connections.hold_later(&self.world, &tuple, passed);
            }
            Fate::Waits => {
                assert!(is_out(&[]), "it passed before the first one: {}", context());
                assert!(became.drops.is_empty(), "it did not wait: {}", context());
            }
            Fate::Ends => {
                assert!(is_out(&[]), "it passed and must not: {}", context());
                assert_eq!(became.opened, 0, "it opened a connection: {}", context());
            }
        }
    }
}

/// Of the datagram that a byte means.
fn tuple(a: u8) -> Tuple {
    let (from, to) = WAYS[usize::from(a % 8)];
    let port = PORTS[usize::from(a >> 6) % PORTS.len()];
    let protocol = if a & 0x20 == 0 { Protocol::Udp } else { Protocol::Echo };
    let source = if protocol == Protocol::Udp { 1000 } else { port };
    Tuple { six: a & 8 != 0, protocol, from: (from, source), to: (to, port) }
}

/// The bytes of a piece, which tell it from all others as far as there is room.
fn content(tuple: &Tuple, piece: Piece, number: u16) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().repeat(usize::from(piece.length).div_ceil(2));
    bytes.truncate(piece.length.into());
    let header = match tuple.protocol {
        // Longer than this piece, as it is a datagram in pieces; the number is where the checksum would be.
        Protocol::Udp => [tuple.from.1.to_be_bytes(), tuple.to.1.to_be_bytes(), [1, 0]].concat(),
        _ if tuple.six => [vec![128, 0, 0, 0], tuple.from.1.to_be_bytes().to_vec()].concat(),
        _ => [vec![8, 0, 0, 0], tuple.from.1.to_be_bytes().to_vec()].concat(),
    };
    if piece.start == 0 && bytes.len() >= 8 {
        bytes[..6].copy_from_slice(&header);
    }
    bytes
}

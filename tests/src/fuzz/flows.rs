//! A fuzzer's bytes as a story: packets, changes of policy, pods that are replaced, time that passes.
//!
//! Two bytes of settings, then four bytes a step, so that a changed byte changes one step and the rest goes on as before.

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::Limits;
use podgate_dataplane::worker::{Deny, Established};

use super::LONGEST;
use super::connections::Connections;
use super::scene::{End, PORTS};
use super::talk::{Packet, Protocol, Segment, Shape, Stage, Talk, Tuple};
use super::world::{Settings, World};
use crate::frames::chunk::*;

/// Around every time-out.
const WAITS: [u64; 12] = [1, 9, 10, 29, 31, 59, 61, 64, 66, 119, 211, 431_950];
const FLAGS: [&str; 16] =
    ["A", "S", "SA", "FA", "R", "RA", "PA", "F", "", "SF", "SFA", "SR", "FR", "P", "SRA", "FPA"];
/// How far from the expected number: right, nearly, at the edges of the window, and out of sight.
const OFFSETS: [u32; 8] = [0, 1, u32::MAX, 65_000, 65_001, 70_000, 1 << 30, 3 << 30];
/// First numbers of SYNs.
const FIRSTS: [u32; 3] = [999, 500_000_000, u32::MAX];

/// Plays a story.
///
/// # Panics
/// If the gateway does what it must not.
pub fn play(bytes: &[u8]) {
    let Some((head, steps)) = bytes.split_first_chunk::<2>().filter(|_| bytes.len() <= LONGEST) else {
        return;
    };
    let settings = Settings {
        workers: 1 + (head[0] & 1),
        established: if head[0] & 2 == 0 { Established::Recheck } else { Established::Keep },
        deny: if head[0] & 4 == 0 { Deny::Drop } else { Deny::Reject },
        flows: [8, 1, 2, 3, 5, 64][usize::from(head[1]) % 6],
        fragments: Limits::default(),
        flows_per_pod: [64, 1, 2, 4][usize::from(head[1] >> 4) % 4],
    };
    let mut story =
        Story { world: World::new(settings), connections: Connections::default(), passed: vec![] };
    for step in steps.as_chunks::<4>().0 {
        story.step(*step);
        story.connections.hold_count(&story.world);
    }
    story.world.finish();
}

struct Story {
    world: World,
    connections: Connections,
    /// Packets that passed, and the numbers of the connections of which they are a proper part.
    passed: Vec<(Packet, u64)>,
}

impl Story {
    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        match what % 16 {
            0..=2 => {
                let Some(tuple) = tuple(a, b, c) else { return };
                let first = FIRSTS[usize::from(c / 9) % FIRSTS.len()];
                self.send(Packet { tuple, shape: opening(tuple.protocol, first) });
            }
            3..=7 => self.go_on(a, b, c),
            8 | 9 => self.raw_segment(a, b, c),
            10 => self.raw_chunk(a, b, c),
            11 => self.complain(a, b),
            12 => self.world.set_policy(a.into()),
            13 => self.world.wait(WAITS[usize::from(a) % WAITS.len()], b & 1 != 0),
            14 => self.connections.unsettle(&mut self.world, a),
            _ if a & 1 == 0 => self.spoof(a, b, c),
            _ => {
                // Out of the blue.
                let Some(tuple) = tuple(a >> 1, b, c) else { return };
                let shape = match tuple.protocol {
                    Protocol::Tcp => {
                        let flags = FLAGS[usize::from(c) % FLAGS.len()];
                        Shape::Tcp(Segment { flags, sequence: 1000, acknowledgement: 7001, payload: 0 })
                    }
                    Protocol::Sctp => Shape::Sctp(c % 16, 1),
                    Protocol::Udp => Shape::Asks,
                    Protocol::Echo => Shape::Answers,
                };
                self.send(Packet { tuple, shape });
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        let flows = self.world.flows();
        let Tuple { from: (from, _), to: (to, _), .. } = packet.tuple;
        let frame = self.frame(from, &packet);
        let outcome = self.world.send(from, to, &frame);
        let serial = self.connections.hold(&self.world, &packet, &outcome, flows);
        if outcome.passed {
            self.passed.push((packet, serial));
        }
    }

    fn frame(&self, by: End, packet: &Packet) -> Vec<u8> {
        let Tuple { six, protocol, from, to } = packet.tuple;
        let way = self.world.way(by, (from.0, to.0), six);
        match packet.shape {
            Shape::Tcp(Segment { flags, sequence, acknowledgement, payload }) => {
                let payload = vec![0x5a; payload.into()];
                way.segment_with((from.1, to.1), flags, (sequence, acknowledgement), &payload)
            }
            Shape::Sctp(chunk, tag) => way.sctp_tagged(from.1, to.1, chunk, tag),
            Shape::Asks if protocol == Protocol::Udp => way.udp(from.1, to.1, b"story"),
            Shape::Asks => way.echo(from.1, false),
            Shape::Answers => way.echo(from.1, true),
        }
    }

    /// A connection by number.
    fn connection(&self, number: u8) -> Option<(Tuple, Talk)> {
        let list = self.connections.list();
        let chosen = list.get(usize::from(number).checked_rem(list.len())?)?;
        Some((chosen.original, chosen.talk))
    }

    /// An end says what it would say next.
    fn go_on(&mut self, number: u8, how: u8, more: u8) {
        let Some((original, talk)) = self.connection(number) else { return };
        let (side, how) = (usize::from(how & 1), how >> 1);
        let tuple = if side == 0 { original } else { original.reversed() };
        let shape = match talk {
            Talk::Tcp { stage, next, done, .. } => {
                let (own, other) = (next[side], next[1 - side]);
                let flags = match (stage, side, how % 8) {
                    (Stage::Asked, 0, _) => "S",
                    (Stage::Asked, _, 7) => "RA",
                    (Stage::Asked, ..) | (Stage::Answered, 1, _) => "SA",
                    (Stage::Answered, ..) | (Stage::Over, ..) => "A",
                    (_, _, 5) if !done[side] => "FA",
                    (Stage::Open, _, 6) => "R",
                    (Stage::Open, _, 7) => "RA",
                    _ => "A",
                };
                let sequence = match stage {
                    Stage::Asked if side == 1 => 7000 + u32::from(more),
                    Stage::Asked | Stage::Answered if flags.contains('S') => own.wrapping_sub(1),
                    _ => own,
                };
                let payload = if flags == "A" && !done[side] { more % 4 } else { 0 };
                Shape::Tcp(Segment { flags, sequence, acknowledgement: other, payload })
            }
            Talk::Sctp(step) => match (step, side, how % 4) {
                (0, 0, _) => Shape::Sctp(INIT, 0),
                (0, ..) | (1, 1, _) => Shape::Sctp(INIT_ACK, 1),
                (1, ..) | (2, 0, 0..=1) => Shape::Sctp(COOKIE_ECHO, 1),
                (2, 1, 0..=1) => Shape::Sctp(COOKIE_ACK, 1),
                (3, _, 3) => Shape::Sctp(SHUTDOWN, 1),
                (4, _, 2) => Shape::Sctp(SHUTDOWN_ACK, 1),
                (4, _, 3) => Shape::Sctp(SHUTDOWN_COMPLETE, 1),
                _ => Shape::Sctp(DATA, 1),
            },
            Talk::Plain { .. } if original.protocol == Protocol::Echo && side == 1 => Shape::Answers,
            Talk::Plain { .. } => Shape::Asks,
        };
        self.send(Packet { tuple, shape });
    }

    /// Any segment between the ends of a connection.
    fn raw_segment(&mut self, number: u8, how: u8, offsets: u8) {
        let Some((original, Talk::Tcp { next, .. })) = self.connection(number) else { return };
        let side = usize::from(how & 1);
        let offset = |number: u8| OFFSETS[usize::from(number) % OFFSETS.len()];
        let flags = FLAGS[usize::from(how >> 1) % FLAGS.len()];
        let segment = Segment {
            flags,
            sequence: next[side].wrapping_add(offset(offsets)),
            acknowledgement: next[1 - side].wrapping_add(offset(offsets >> 3)),
            // How much of the data of a SYN is taken is up to its receiver.
            payload: if flags.contains('S') { 0 } else { offsets >> 6 },
        };
        let tuple = if side == 0 { original } else { original.reversed() };
        self.send(Packet { tuple, shape: Shape::Tcp(segment) });
    }

    /// Any SCTP chunk between the ends of an association.
    fn raw_chunk(&mut self, number: u8, how: u8, tag: u8) {
        let Some((original, Talk::Sctp(_))) = self.connection(number) else { return };
        let tuple = if how & 1 == 0 { original } else { original.reversed() };
        self.send(Packet { tuple, shape: Shape::Sctp((how >> 1) % 16, u32::from(tag) % 3) });
    }

    /// An ICMP error about one of the latest packets that passed.
    fn complain(&mut self, number: u8, by: u8) {
        let latest = self.passed.iter().rev().take(8).collect::<Vec<_>>();
        let Some((about, serial)) =
            usize::from(number).checked_rem(latest.len()).and_then(|number| latest.get(number)).copied()
        else {
            return;
        };
        let (about, serial) = (*about, *serial);
        let (Tuple { six, from: (to, _), .. }, by) = (about.tuple, end(by));
        if by == to {
            return;
        }
        let quoted = self.frame(to, &about);
        let frame = self.world.way(by, (by, to), six).unreachable(&quoted);
        let outcome = self.world.send(by, to, &frame);
        self.connections.hold_error(&self.world, by, (&about, serial), &outcome);
    }

    /// Somebody uses another one's address.
    fn spoof(&mut self, a: u8, b: u8, c: u8) {
        let Some(tuple) = tuple(a >> 1, b, c) else { return };
        let by = [End::A, End::B, End::Outside][usize::from(a >> 3) % 3];
        if tuple.from.0 == by || by == End::Outside && tuple.from.0 == End::Remote {
            return;
        }
        let packet = Packet { tuple, shape: opening(tuple.protocol, 999) };
        let frame = self.frame(by, &packet);
        let outcome = self.world.send(by, tuple.to.0, &frame);
        assert_eq!((outcome.passed, outcome.opened), (false, 0), "{by:?} sent {packet:?}");
        assert_eq!(outcome.reason, Some(DropReason::SpoofedSource), "{by:?} sent {packet:?}");
    }
}

fn end(number: u8) -> End {
    End::ALL[usize::from(number) % End::ALL.len()]
}

fn tuple(a: u8, b: u8, c: u8) -> Option<Tuple> {
    let (from, to) = (end(b), end(b / 5));
    let port = |number: u8| PORTS[usize::from(number) % PORTS.len()];
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Echo][usize::from(a & 3)];
    let (source, destination) = match protocol {
        Protocol::Echo => (port(c), port(c)),
        _ => (port(c), port(c / 3)),
    };
    let tuple = Tuple { six: a & 0x80 != 0, protocol, from: (from, source), to: (to, destination) };
    (from != to).then_some(tuple)
}

fn opening(protocol: Protocol, first: u32) -> Shape {
    match protocol {
        Protocol::Tcp => Shape::Tcp(Segment { flags: "S", sequence: first, acknowledgement: 0, payload: 0 }),
        Protocol::Sctp => Shape::Sctp(INIT, 0),
        Protocol::Udp | Protocol::Echo => Shape::Asks,
    }
}

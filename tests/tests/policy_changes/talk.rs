//! Connections, as their two ends keep them: handshakes, data both ways with the right numbers, datagrams and pings.
//!
//! Every packet carries its serial number as its last eight bytes, so that it is known again when it comes out, also a SYN
//! (RFC 9293, 3.4 allows data there). Ends also say what nobody may hear: data of a connection that is cut, answers
//! that nobody asked for.

use podgate_tests::choices::Choices;
use podgate_tests::frames::From;

use crate::town::{PLACES, Plug, address};

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From who opens it.
    There,
    /// To who opens it.
    Back,
}

impl Way {
    pub fn other(self) -> Self {
        match self {
            Self::There => Self::Back,
            Self::Back => Self::There,
        }
    }
}

/// What tells a connection from others: between which places, and how.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub from: usize,
    pub to: usize,
    pub six: bool,
    pub protocol: u8,
    pub from_port: u16,
    pub to_port: u16,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

impl Line {
    /// The connection of this number. Half of them are TCP.
    pub fn choose(c: &mut Choices, number: usize) -> Self {
        let from = c.below(PLACES);
        let to = (from + 1 + c.below(PLACES - 1)) % PLACES;
        let six = c.chance(50);
        let (protocol, to_port) = match number % 4 {
            0 => (UDP, c.pick(&[53, 80])),
            1 => (if six { 58 } else { 1 }, 0),
            _ => (TCP, c.pick(&[80, 443])),
        };
        // A ping has an identifier in the place of both.
        let from_port = if to_port == 0 { 0 } else { 40_000 + number as u16 };
        Self { from, to, six, protocol, from_port, to_port }
    }

    /// The places that a packet goes between.
    pub fn places(&self, way: Way) -> (usize, usize) {
        match way {
            Way::There => (self.from, self.to),
            Way::Back => (self.to, self.from),
        }
    }
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Syn,
    SynAck,
    /// TCP, with how many packets led to it.
    Data(u8),
    /// UDP, the same.
    Datagram(u8),
    Request,
    Reply,
}

impl Kind {
    /// May it open a connection?
    pub fn opens(self) -> bool {
        matches!(self, Self::Syn | Self::Datagram(_) | Self::Request)
    }
}

/// How far the opening end of a TCP connection believes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Asked,
    Open,
}

/// Answers to answers, at most so many.
const DEPTH: u8 = 2;

/// One connection and its ends.
pub struct Talk {
    pub line: Line,
    number: usize,
    stage: Stage,
    /// Its ends know that the gateway has forgotten it.
    is_cut: bool,
    /// By end, the opening one first: its next sequence number, and the next one it expects.
    next: [u32; 2],
    heard: [u32; 2],
}

impl Talk {
    pub fn new(c: &mut Choices, number: usize) -> Self {
        let line = Line::choose(c, number);
        Self { line, number, stage: Stage::Closed, is_cut: true, next: [0; 2], heard: [0; 2] }
    }

    /// What an end says of its own accord.
    pub fn say(&mut self, c: &mut Choices) -> Option<(Way, Kind)> {
        let way = if c.chance(40) { Way::Back } else { Way::There };
        match (self.line.protocol, self.stage) {
            (TCP, Stage::Open) => Some((way, Kind::Data(0))),
            (TCP, Stage::Closed) if c.chance(60) => {
                self.stage = Stage::Asked;
                self.next[0] = (c.below(1 << 20) as u32).wrapping_sub(1 << 19);
                Some((Way::There, Kind::Syn))
            }
            // It goes on as if nothing had happened.
            (TCP, Stage::Closed) if self.is_cut => Some((way, Kind::Data(DEPTH))),
            (TCP, _) => None,
            (UDP, _) => Some((way, Kind::Datagram(0))),
            (_, _) if way == Way::There => Some((way, Kind::Request)),
            (_, _) => c.chance(30).then_some((way, Kind::Reply)),
        }
    }

    /// What an end does about a packet that it got.
    pub fn hear(&mut self, c: &mut Choices, way: Way, kind: Kind, end: u32) -> Option<(Way, Kind)> {
        self.heard[way.other() as usize] = end;
        let answer = match kind {
            Kind::Syn => {
                self.next[1] = c.below(1 << 30) as u32;
                Kind::SynAck
            }
            Kind::SynAck if self.stage == Stage::Asked => {
                self.stage = Stage::Open;
                Kind::Data(0)
            }
            Kind::Data(depth) if depth < DEPTH && c.chance(50) => Kind::Data(depth + 1),
            Kind::Datagram(depth) if depth < DEPTH && c.chance(60) => Kind::Datagram(depth + 1),
            Kind::Request => Kind::Reply,
            _ => return None,
        };
        Some((way.other(), answer))
    }

    /// All packets under way have come or are lost. `is_cut`: the gateway has surely forgotten the connection.
    pub fn rest(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
        if is_cut || self.stage == Stage::Asked {
            self.stage = Stage::Closed;
        }
    }

    /// The frame of a packet, and the sequence number after it.
    pub fn frame(&mut self, way: Way, kind: Kind, sender: Plug, serial: u64) -> (Vec<u8>, u32) {
        let line = self.line;
        let (source, destination) = line.places(way);
        let from = From::new(sender.port, address(source, line.six), address(destination, line.six));
        let mark = serial.to_be_bytes();
        let ports = match way {
            Way::There => (line.from_port, line.to_port),
            Way::Back => (line.to_port, line.from_port),
        };
        let mut segment = |flags: &str| {
            let (sequence, acknowledgement) = (self.next[way as usize], self.heard[way as usize]);
            let syn = u32::from(flags.contains('S'));
            self.next[way as usize] = sequence.wrapping_add(mark.len() as u32 + syn);
            from.segment_with(ports, flags, (sequence, acknowledgement), &mark)
        };
        let frame = match kind {
            Kind::Syn => segment("S"),
            Kind::SynAck => segment("SA"),
            Kind::Data(_) => segment("PA"),
            Kind::Datagram(_) => from.udp(ports.0, ports.1, &mark),
            Kind::Request | Kind::Reply => from.echo_with(self.number as u16, kind == Kind::Reply, &mark),
        };
        (frame, self.next[way as usize])
    }
}

/// The serial number of a packet.
pub fn serial(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.last_chunk().unwrap())
}

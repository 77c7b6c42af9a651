//! What the ends of a connection say to each other, and what a packet means in what was said so far.
//!
//! Only proper talk is followed: what an end that behaves says next. Everything else either means nothing for sure, or may
//! mean whatever; see [`Meaning`].

use super::scene::End;
use super::world::World;
use crate::frames::chunk::*;

/// The protocols that are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Ping.
    Echo,
}

impl Protocol {
    /// Its number in an IP header of a family.
    #[must_use]
    pub fn number(self, six: bool) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Echo => [1, 58][usize::from(six)],
        }
    }

    /// The longest that a connection may be silent, in seconds.
    pub(super) fn longest(self) -> u64 {
        match self {
            Self::Tcp => 432_000,
            Self::Udp => 120,
            Self::Sctp => 210,
            Self::Echo => 30,
        }
    }
}

/// Who says something to whom. For a ping and its answer both numbers are the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// IPv6.
    pub six: bool,
    /// Which protocol.
    pub protocol: Protocol,
    /// Source and its port.
    pub from: (End, u16),
    /// Destination and its port.
    pub to: (End, u16),
}

impl Tuple {
    /// The other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    /// Do the policies in force let it be opened?
    pub(super) fn is_allowed(&self, world: &World) -> bool {
        let port = if self.protocol == Protocol::Echo { 0 } else { self.to.1 };
        world.allows((self.from.0, self.to.0), self.six, self.protocol.number(self.six), port)
    }
}

/// A TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Letters of `SAFRP`.
    pub flags: &'static str,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bytes of data.
    pub payload: u8,
}

impl Segment {
    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn opens(&self) -> bool {
        self.has('S') && !['A', 'F', 'R'].iter().any(|flag| self.has(*flag))
    }

    /// Is there no connection in which it would be right? A reset may be.
    fn is_never_right(&self) -> bool {
        let (syn, fin, ack) = (self.has('S'), self.has('F'), self.has('A'));
        !self.has('R') && (syn && fin || !syn && !ack)
    }

    fn end(&self) -> u32 {
        let flags = u32::from(self.has('S')) + u32::from(self.has('F'));
        self.sequence.wrapping_add(u32::from(self.payload)).wrapping_add(flags)
    }
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In TCP.
    Tcp(Segment),
    /// In SCTP: a chunk's type and the verification tag. Both ends always choose the tag 1.
    Sctp(u8, u32),
    /// A UDP datagram, or a ping.
    Asks,
    /// The answer to a ping.
    Answers,
}

/// A packet on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// From whom to whom.
    pub tuple: Tuple,
    /// What it says.
    pub shape: Shape,
}

impl Packet {
    /// Is it one that opens connections?
    pub(super) fn opens(&self) -> bool {
        match self.shape {
            Shape::Tcp(segment) => segment.opens(),
            Shape::Sctp(chunk, _) => chunk == INIT,
            Shape::Asks => true,
            Shape::Answers => false,
        }
    }

    /// The same for both directions; pings one way and the other are two.
    pub(super) fn key(&self) -> Tuple {
        match (self.tuple.protocol, self.shape) {
            (Protocol::Echo, Shape::Answers) => self.tuple.reversed(),
            (Protocol::Echo, _) => self.tuple,
            _ => self.tuple.min(self.tuple.reversed()),
        }
    }
}

/// How far a TCP connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A SYN.
    Asked,
    /// A SYN-ACK.
    Answered,
    /// Open.
    Open,
    /// Somebody is done.
    Closing,
    /// Reset.
    Over,
}

/// What both ends of a connection said, as far as it was proper. First the opening end, then the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// In TCP.
    Tcp {
        /// How far.
        stage: Stage,
        /// What each will say next.
        next: [u32; 2],
        /// Who is done.
        done: [bool; 2],
        /// Another SYN came while it was open.
        again: bool,
        /// Who said what does not fit at all. If the other one then says what follows from that, the two agree.
        doubted: [bool; 2],
    },
    /// In SCTP: 0 asked, 1 answered, 2 cookie echoed, 3 open, 4 shutting down, 5 over.
    Sctp(u8),
    /// In protocols without connections.
    Plain {
        /// Both spoke.
        answered: bool,
        /// And then the one who asked said more.
        goes_on: bool,
    },
}

impl Talk {
    pub(super) fn opened_by(packet: &Packet) -> Self {
        match packet.shape {
            Shape::Tcp(syn) => Self::Tcp {
                stage: Stage::Asked,
                next: [syn.end(), 0],
                done: [false; 2],
                again: false,
                doubted: [false; 2],
            },
            Shape::Sctp(..) => Self::Sctp(0),
            Shape::Asks | Shape::Answers => Self::Plain { answered: false, goes_on: false },
        }
    }

    /// Seconds that it lives at least and at most from now on.
    pub(super) fn lasts(&self, protocol: Protocol) -> (u64, u64) {
        let exactly = |seconds| (seconds, seconds);
        match self {
            Self::Tcp { stage: Stage::Asked, .. } => exactly(120),
            Self::Tcp { stage: Stage::Answered, .. } => exactly(60),
            Self::Tcp { stage: Stage::Open, .. } => exactly(432_000),
            Self::Tcp { stage: Stage::Closing, done: [true, true], .. } => (0, 120),
            Self::Tcp { stage: Stage::Closing, .. } => (60, 120),
            Self::Tcp { stage: Stage::Over, .. } | Self::Sctp(5..) => (0, 10),
            Self::Sctp(3) => exactly(210),
            Self::Sctp(_) => exactly(65),
            Self::Plain { answered, .. } => match (protocol, answered) {
                (Protocol::Udp, true) => exactly(120),
                _ => exactly(30),
            },
        }
    }

    /// Is it established and not over, so that it must not be evicted?
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Tcp { stage: Stage::Open, .. } | Self::Sctp(3 | 4) | Self::Plain { goes_on: true, .. } => {
                true
            }
            Self::Tcp { stage: Stage::Closing, done, .. } => *done != [true, true],
            _ => false,
        }
    }
}

/// What a packet means in a connection of which all is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An end goes on with the talk.
    Proper(Talk),
    /// It passes, and changes nothing but the talk's side marks.
    Passes(Talk),
    /// It may pass, and changes nothing.
    Nothing,
    /// It may pass and change whatever; or it must pass, at least.
    Doubtful {
        /// The latter.
        must: bool,
    },
    /// It must not pass.
    Wrong,
}

/// Is there no connection in which it would be right?
pub(super) fn is_never_right(packet: &Packet) -> bool {
    match packet.shape {
        Shape::Tcp(segment) => segment.is_never_right(),
        Shape::Sctp(chunk, tag) => (chunk == INIT) != (tag == 0) || tag > 1,
        Shape::Asks | Shape::Answers => false,
    }
}

/// So far from the expected number that only somebody who does not know it says it.
fn is_far(number: u32, expected: u32) -> bool {
    number.wrapping_sub(expected).cast_signed().unsigned_abs() > 1 << 20
}

/// What a segment means that goes the original way (0) or the other one (1).
pub(super) fn tcp(segment: &Segment, side: usize, talk: Talk) -> Meaning {
    let Talk::Tcp { stage, next, done, again, doubted } = talk else { return Meaning::Wrong };
    let talk = |stage, next, done| Talk::Tcp { stage, next, done, again, doubted };
    let doubt = || {
        let doubted = if side == 0 { [true, doubted[1]] } else { [doubted[0], true] };
        match doubted {
            [true, true] => Meaning::Doubtful { must: true },
            _ => Meaning::Passes(Talk::Tcp { stage, next, done, again, doubted }),
        }
    };
    let (own, other) = (next[side], next[1 - side]);
    let said = |end| if side == 0 { [end, next[1]] } else { [next[0], end] };
    let heard = segment.has('A') && segment.acknowledgement == other;
    let fits = segment.sequence == own && heard;
    let far = is_far(segment.sequence, own) || is_far(segment.acknowledgement, other);
    if segment.opens() {
        return match (stage, side) {
            (Stage::Asked, 0) => Meaning::Proper(talk(stage, [segment.end(), 0], done)),
            _ => Meaning::Passes(Talk::Tcp { stage, next, done, again: again || side == 0, doubted }),
        };
    }
    match (stage, side, segment.has('R'), segment.has('S')) {
        _ if segment.is_never_right() => Meaning::Wrong,
        // The answer to a SYN.
        (Stage::Asked, 1, true, _) if heard => Meaning::Proper(talk(Stage::Over, next, done)),
        (Stage::Asked, 1, false, true) if heard => {
            Meaning::Proper(talk(Stage::Answered, said(segment.end()), done))
        }
        (Stage::Asked, 1, true, _) | (Stage::Asked, 1, false, true) => Meaning::Wrong,
        (Stage::Asked, 1, false, false) => Meaning::Nothing,
        (Stage::Asked, _, false, false) => Meaning::Wrong,
        (Stage::Answered, 1, false, true) if heard && segment.end() == own => {
            Meaning::Proper(talk(stage, next, done))
        }
        (Stage::Answered, 0, false, false) | (Stage::Open, _, false, false) if fits => {
            let done = if side == 0 { [segment.has('F'), false] } else { [false, segment.has('F')] };
            let stage = if segment.has('F') { Stage::Closing } else { Stage::Open };
            Meaning::Proper(talk(stage, said(segment.end()), done))
        }
        (Stage::Open, _, false, false) if far => doubt(),
        (Stage::Open, _, false, false) => Meaning::Doubtful { must: true },
        (Stage::Open, 1, false, true) if !again => doubt(),
        (Stage::Open, _, true, _) if segment.sequence == own => {
            Meaning::Proper(talk(Stage::Over, next, done))
        }
        (Stage::Open, _, true, _) if !again && is_far(segment.sequence, own) => Meaning::Wrong,
        (Stage::Closing, _, false, false) if fits && !(done[side] && segment.end() != own) => {
            let mut done = done;
            done[side] |= segment.has('F');
            Meaning::Proper(talk(stage, said(segment.end()), done))
        }
        (Stage::Over, ..) if !again => Meaning::Nothing,
        _ => Meaning::Doubtful { must: false },
    }
}

/// The same for an SCTP chunk with a verification tag.
pub(super) fn sctp(chunk: u8, tag: u32, side: usize, step: u8) -> Meaning {
    let proper = |step| Meaning::Proper(Talk::Sctp(step));
    match (step, side, chunk, tag) {
        (0 | 1, 0, INIT, 0) => proper(step),
        (5.., _, INIT, 0) => Meaning::Nothing,
        (_, _, INIT, 0) => Meaning::Passes(Talk::Sctp(step)),
        (_, _, INIT, _) | (_, _, _, 0) | (_, _, _, 2..) => Meaning::Wrong,
        (0 | 1, 1, INIT_ACK, _) => proper(1),
        (1, 0, COOKIE_ECHO, _) => proper(2),
        (0 | 1, _, ABORT | INIT_ACK | COOKIE_ECHO | SHUTDOWN_COMPLETE, _) => {
            Meaning::Doubtful { must: false }
        }
        (0 | 1, ..) => Meaning::Wrong,
        (2, 0, COOKIE_ECHO, _) => proper(2),
        (2, 1, COOKIE_ACK, _) => proper(3),
        (2..=4, _, DATA | SACK, _) => proper(step),
        (3 | 4, _, SHUTDOWN | SHUTDOWN_ACK, _) => proper(4),
        (3 | 4, _, ABORT | SHUTDOWN_COMPLETE, _) => proper(5),
        (5.., _, DATA | SACK | SHUTDOWN | SHUTDOWN_ACK | ABORT | SHUTDOWN_COMPLETE, _) => Meaning::Nothing,
        _ => Meaning::Doubtful { must: false },
    }
}

//! How far a TCP connection has come, from the segments of both directions.
//!
//! One worker sees both directions of a connection, so its state can be followed exactly: opened by a SYN that policy admits,
//! established by the third segment of the handshake, half-closed by one FIN, closed by both or by a reset.
//!
//! What is guaranteed:
//! - A segment that no state of the connection allows does not pass: an acknowledgement before anybody has answered, a
//!   SYN-ACK for another SYN, a segment without ACK after the handshake.
//! - A reset ends the connection only if the other end will believe it (RFC 5961, 3.2): its sequence number is the next one
//!   expected. One elsewhere in the window passes and changes nothing, because its receiver answers it with a challenge;
//!   one outside the window is dropped. So nobody who cannot see the connection can end it, or shorten its time.
//! - A SYN on an open connection changes nothing either (RFC 5961, 4.2): it passes, and only what the ends then say, a
//!   SYN-ACK or a reset that is believed, starts the connection anew.
//!
//! Data segments are not held against the window, as Linux's `nf_conntrack_tcp_be_liberal`: their receiver does that, and a
//! judge that errs would break a connection. They only move the marks that resets are held against, and keep the connection
//! alive, and both only with a sequence number from within the window and an acknowledgement of what was sent: whoever forges
//! them has to guess both.
//!
//! The marks can be wrong: an answer that was sent twice with different numbers, and the one that passed here last was not the
//! one that arrived first; a restart of which a forged SYN hid the beginning. So what does not fit is remembered, and if the other
//! end then says exactly what follows from it, the two agree with each other and the marks are taken from them. Linux has no such
//! thing: what it calls invalid stays so, and a connection that it has wrong ends there. Whoever can write the address of one end
//! only gains nothing, because the other end would have to confirm it.
//!
//! What breaks if changed: were a mark moved by any segment, one forged packet would be enough to have a reset believed.

use std::num::NonZeroU32;

use crate::drop_reason::DropReason;
use crate::flow::entry::{Class, Side};
use crate::packet::{Headers, TcpFlags};
use crate::wire::array;

/// What tracking needs to know of a segment. Numbers in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its flags.
    pub flags: TcpFlags,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Acknowledgement number; means nothing without the ACK flag.
    pub acknowledgement: u32,
    /// Window, not scaled.
    pub window: u16,
    /// Bytes of payload.
    pub payload: u32,
    /// Shift count of the window scale option (RFC 7323), looked for in segments with SYN only.
    pub scale: Option<u8>,
}

impl Segment {
    /// Of a packet. `head` is its first frame, from the Ethernet header on. `None` if it is not TCP, or its header is not all
    /// there.
    #[must_use]
    pub fn of(head: &[u8], headers: &Headers, flags: TcpFlags) -> Option<Self> {
        let start = usize::from(headers.transport_offset);
        let header: [u8; 16] = array(head, start)?;
        let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, _, w0, w1] = header;
        let header_len = usize::from(offset >> 4) * 4;
        let options = || head.get(start + 20..start + header_len).and_then(window_scale);
        Some(Self {
            flags,
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
            window: u16::from_be_bytes([w0, w1]),
            payload: headers.packet_len.saturating_sub((start + header_len) as u32),
            scale: if flags.has(TcpFlags::SYN) { options() } else { None },
        })
    }

    /// The sequence number after it: SYN and FIN count as a byte each.
    #[must_use]
    pub fn end(&self) -> u32 {
        let flag = |flag| u32::from(self.flags.has(flag));
        self.sequence
            .wrapping_add(self.payload)
            .wrapping_add(flag(TcpFlags::SYN))
            .wrapping_add(flag(TcpFlags::FIN))
    }
}

/// The shift count in a header's options.
fn window_scale(mut options: &[u8]) -> Option<u8> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    loop {
        options = match options {
            [END, ..] | [] => return None,
            [NOP, rest @ ..] => rest,
            // RFC 7323, 2.3: more than 14 counts as 14.
            [WINDOW_SCALE, 3, shift, ..] => return Some((*shift).min(14)),
            [_, length, ..] if *length >= 2 => options.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}

/// Names as Linux's connection tracking has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// A SYN was seen.
    SynSent,
    /// A SYN-ACK that fits it was seen.
    SynReceived,
    /// The SYN-ACK was acknowledged.
    Established,
    /// One end has said that it is done.
    FinWait,
    /// The other one has acknowledged that; it may go on sending.
    CloseWait,
    /// Both ends have said that they are done.
    LastAck,
    /// Both have acknowledged that.
    TimeWait,
    /// It was reset.
    Closed,
}

impl TcpState {
    /// How far that is.
    #[inline]
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            TcpState::SynSent | TcpState::SynReceived => Class::Embryonic,
            TcpState::Established | TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck => {
                Class::Open
            }
            TcpState::TimeWait | TcpState::Closed => Class::Closing,
        }
    }
}

/// What one end has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct End {
    /// The sequence number after its SYN.
    first: u32,
    /// The sequence number after everything it sent, its FIN too.
    next: u32,
    /// The highest acknowledgement it sent; good once `acked`.
    acknowledged: u32,
    /// The largest window it ever offered, in bytes.
    window: u32,
    /// Shift count of its windows, but for those of its SYN (RFC 7323, 2.2).
    scale: u8,
    acked: bool,
    /// What it sent last is a FIN.
    done: bool,
}

/// What is remembered of a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Syn {
    sequence: u32,
    /// How many sequence numbers it takes: one, and its data.
    span: NonZeroU32,
    window: u16,
    scale: u8,
}

impl Syn {
    fn of(segment: &Segment) -> Self {
        Self {
            sequence: segment.sequence,
            span: NonZeroU32::MIN.saturating_add(segment.payload),
            window: segment.window,
            scale: segment.scale.unwrap_or(0),
        }
    }

    /// Is this an answer to it, and to as much of the data that came with it as the other end took (RFC 7413)?
    fn is_acknowledged_by(&self, acknowledgement: u32) -> bool {
        End::opened_by(self).syn_is_acknowledged_by(acknowledgement)
    }
}

/// What an end said last that does not fit the marks: the sequence number after it, and what it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    side: Side,
    end: u32,
    acknowledgement: u32,
}

impl Doubt {
    /// Does the other end say what follows from that, to the number?
    fn is_confirmed_by(&self, side: Side, segment: &Segment) -> bool {
        self.side != side && (self.end, self.acknowledgement) == (segment.acknowledgement, segment.sequence)
    }
}

/// The track of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpTrack {
    state: TcpState,
    original: End,
    reply: End,
    /// Another SYN, which came while the connection was open. The latest: a forged one may hide one that was meant, and then
    /// the ends' agreement starts the connection anew.
    again: Option<Syn>,
    doubt: Option<Doubt>,
}

/// Is `a` not before `b`, in the arithmetic of sequence numbers?
fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

/// Does a number lie from `first` to `last`, both included?
fn is_within(number: u32, first: u32, last: u32) -> bool {
    number.wrapping_sub(first) <= last.wrapping_sub(first)
}

impl End {
    /// Of the one that sends this SYN or SYN-ACK.
    fn opened_by(syn: &Syn) -> Self {
        Self {
            first: syn.sequence.wrapping_add(1),
            next: syn.sequence.wrapping_add(syn.span.get()),
            window: syn.window.into(),
            scale: syn.scale,
            ..Self::default()
        }
    }

    /// Is this an answer to the SYN, and to as much of the data that came with it as the other end took (RFC 7413)?
    fn syn_is_acknowledged_by(&self, acknowledgement: u32) -> bool {
        is_within(acknowledgement, self.first, self.next)
    }

    /// Is a sequence number of the other end's within the window this end offers, or as far before it, as what is sent again is?
    fn expects(&self, sequence: u32) -> bool {
        let distance = sequence.wrapping_sub(self.acknowledged);
        let window = self.window.max(1);
        !self.acked || distance <= window || distance.wrapping_neg() <= window
    }

    /// As [`End::expects`], for a reset: never before the window.
    fn takes_reset(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.acknowledged) <= self.window
    }

    /// May this end acknowledge that, which `other` sent (RFC 5961, 5)? What was acknowledged long ago nobody acknowledges
    /// again, and what was not sent nobody acknowledges at all.
    fn may_acknowledge(&self, acknowledgement: u32, other: &End) -> bool {
        let oldest = if self.acked {
            self.acknowledged.wrapping_sub(self.window.max(other.window))
        } else {
            other.first
        };
        is_within(acknowledgement, oldest, other.next)
    }

    /// Takes note of an acknowledgement and of the window that came with it.
    fn acknowledge(&mut self, segment: &Segment) {
        let acknowledgement = segment.acknowledgement;
        if !self.acked || at_or_after(acknowledgement, self.acknowledged) {
            (self.acknowledged, self.acked) = (acknowledgement, true);
        }
        let scale = if segment.flags.has(TcpFlags::SYN) { 0 } else { self.scale };
        self.window = self.window.max(u32::from(segment.window) << scale);
    }
}

impl TcpTrack {
    /// Of a connection that this SYN opens.
    #[must_use]
    pub fn open(syn: &Segment) -> Self {
        Self::begun_by(&Syn::of(syn))
    }

    fn begun_by(syn: &Syn) -> Self {
        let original = End::opened_by(syn);
        Self { state: TcpState::SynSent, original, reply: End::default(), again: None, doubt: None }
    }

    /// How far it has come.
    #[inline]
    #[must_use]
    pub fn state(&self) -> TcpState {
        self.state
    }

    /// Its class: open from the end of the handshake until nobody has anything to say.
    #[inline]
    #[must_use]
    pub fn class(&self) -> Class {
        self.state.class()
    }

    /// May a SYN that goes this way only be judged for itself, as if there were no connection? Once it is over; and against
    /// its direction before anybody has answered, because then it is unknown who opens what.
    #[inline]
    #[must_use]
    pub fn gives_way_to_syn(&self, side: Side) -> bool {
        match self.state {
            TcpState::TimeWait | TcpState::Closed => true,
            TcpState::SynSent => side == Side::Reply,
            _ => false,
        }
    }

    /// Takes note of a segment that matches the connection. Does it belong to what the two ends say to each other? What only
    /// passes, because its receiver knows better, does not keep the connection alive.
    ///
    /// # Errors
    /// Why it must not pass. Nothing has changed then.
    #[inline]
    pub fn see(&mut self, side: Side, segment: &Segment) -> Result<bool, DropReason> {
        let flags = segment.flags;
        if flags.has(TcpFlags::RST) {
            return self.reset(side, segment).map(|()| false);
        }
        match (flags.has(TcpFlags::SYN), flags.has(TcpFlags::ACK)) {
            // Nobody says hello and goodbye at once, and it would get past the judge, who knows SYNs without FIN.
            (true, _) if flags.has(TcpFlags::FIN) => Err(DropReason::StrayTcp),
            (true, false) => Ok(self.syn(side, segment)),
            (true, true) => self.syn_ack(side, segment),
            (false, true) => self.ack(side, segment),
            // Only a SYN and a reset may come without.
            (false, false) => Err(DropReason::StrayTcp),
        }
    }

    /// The number that the receiver of a side's segments expects next, if everything that passed has reached it. `None` while
    /// there is no open connection.
    #[must_use]
    pub fn expected_of(&self, side: Side) -> Option<u32> {
        let own = match side {
            Side::Original => &self.original,
            Side::Reply => &self.reply,
        };
        (self.class() == Class::Open).then_some(own.next)
    }

    /// May this end have sent a segment with this sequence number, not long ago? What an ICMP error quotes is held against it
    /// (RFC 5927, 4.1).
    #[must_use]
    pub fn may_have_sent(&self, side: Side, sequence: u32) -> bool {
        let (own, other) = match side {
            Side::Original => (&self.original, &self.reply),
            Side::Reply => (&self.reply, &self.original),
        };
        if other.acked {
            at_or_after(own.next, sequence) && other.expects(sequence)
        } else {
            // Nothing but its SYN, and what came with it.
            is_within(sequence, own.first.wrapping_sub(1), own.next)
        }
    }

    fn ends(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Original => (&mut self.original, &mut self.reply),
            Side::Reply => (&mut self.reply, &mut self.original),
        }
    }

    /// Does this refuse a SYN: the first one, which nobody has answered for sure, or one that came later?
    fn is_refusal(&self, segment: &Segment) -> bool {
        let acknowledgement = segment.acknowledgement;
        let is_open = !matches!(self.state, TcpState::SynSent | TcpState::SynReceived) || self.original.acked;
        let again = self.again.is_some_and(|syn| syn.is_acknowledged_by(acknowledgement));
        segment.flags.has(TcpFlags::ACK)
            && (again || !is_open && self.original.syn_is_acknowledged_by(acknowledgement))
    }

    fn reset(&mut self, side: Side, segment: &Segment) -> Result<(), DropReason> {
        let state = self.state;
        let sequence = segment.sequence;
        let is_refusal = side == Side::Reply && self.is_refusal(segment);
        let (own, other) = self.ends(side);
        let believed = match (state, side) {
            // RFC 9293, 3.10.7.3 and .4: the number of the SYN says that it is meant.
            _ if is_refusal => true,
            (TcpState::SynSent, Side::Reply) => return Err(DropReason::TcpReset),
            // The answer to a challenge, or the end of an attempt; the next SYN opens anew in either case.
            (TcpState::SynSent, Side::Original) => false,
            _ if other.acked => {
                if !other.takes_reset(sequence) {
                    return Err(DropReason::TcpReset);
                }
                // What the gateway has seen of the receiver may be behind what the sender of the reset has.
                sequence == other.acknowledged || sequence == own.next
            }
            _ if sequence == own.next => true,
            _ => return Err(DropReason::TcpReset),
        };
        if believed {
            self.state = TcpState::Closed;
        }
        Ok(())
    }

    fn syn(&mut self, side: Side, segment: &Segment) -> bool {
        if side == Side::Reply {
            // It waits for what the other end says to it.
            return false;
        }
        let is_same = segment.sequence.wrapping_add(1) == self.original.first;
        match self.state {
            // Sent again, perhaps with less data.
            TcpState::SynSent if is_same => true,
            // Nobody has answered: it may as well have begun with this one.
            TcpState::SynSent => {
                *self = Self::open(segment);
                true
            }
            _ => {
                if !is_same {
                    self.again = Some(Syn::of(segment));
                }
                false
            }
        }
    }

    fn syn_ack(&mut self, side: Side, segment: &Segment) -> Result<bool, DropReason> {
        let acknowledgement = segment.acknowledgement;
        if side == Side::Original {
            // A simultaneous open (RFC 9293, 3.5): the entry is that of the later SYN, this acknowledges the earlier one.
            return if self.state == TcpState::SynSent { Ok(true) } else { self.ack(side, segment) };
        }
        let answers = self.original.syn_is_acknowledged_by(acknowledgement);
        match self.state {
            TcpState::SynSent if answers => self.answer(segment),
            TcpState::SynSent => return Err(DropReason::StrayTcp),
            // Sent again, perhaps with another number of its own: nobody has acknowledged the one before.
            TcpState::SynReceived if answers && !self.original.acked => self.answer(segment),
            _ => match self.again {
                // The opened end had forgotten the old connection and takes the new SYN.
                Some(syn) if syn.is_acknowledged_by(acknowledgement) => {
                    *self = Self::begun_by(&syn);
                    self.answer(segment);
                }
                // Sent again, or an answer to nothing.
                _ => return Ok(false),
            },
        }
        Ok(true)
    }

    fn answer(&mut self, segment: &Segment) {
        self.reply = End::opened_by(&Syn::of(segment));
        self.reply.acknowledge(segment);
        // Windows are scaled if both ends say so (RFC 7323, 2.2).
        if segment.scale.is_none() {
            self.original.scale = 0;
        }
        self.state = TcpState::SynReceived;
    }

    fn ack(&mut self, side: Side, segment: &Segment) -> Result<bool, DropReason> {
        match (self.state, side) {
            (TcpState::SynSent, Side::Original) => return Err(DropReason::StrayTcp),
            // A challenge: this end believes in an older connection, and will be told.
            (TcpState::SynSent, Side::Reply) | (TcpState::Closed, _) => return Ok(false),
            _ => {}
        }
        let end = segment.end();
        let (own, other) = self.ends(side);
        if !other.expects(segment.sequence) || !own.may_acknowledge(segment.acknowledgement, other) {
            let doubt = Doubt { side, end, acknowledgement: segment.acknowledgement };
            let before = self.doubt.replace(doubt);
            if !before.is_some_and(|before| before.is_confirmed_by(side, segment)) {
                return Ok(false);
            }
            self.agree(side, segment);
        }
        // The marks are right: what did not fit was old, or forged.
        self.doubt = None;
        let (own, _) = self.ends(side);
        let is_further = end != own.next && at_or_after(end, own.next);
        if is_further {
            own.next = end;
        }
        own.acknowledge(segment);
        if end == own.next && segment.flags.has(TcpFlags::FIN) {
            own.done = true;
        } else if is_further {
            // It goes on: what was its FIN was forged.
            own.done = false;
        }
        self.state = self.after_ack();
        Ok(self.state != TcpState::TimeWait)
    }

    /// Takes the marks from a segment that confirms what the other end said.
    fn agree(&mut self, side: Side, segment: &Segment) {
        let (own, other) = self.ends(side);
        for (end, next, acknowledged) in [
            (own, segment.sequence, segment.acknowledgement),
            (other, segment.acknowledgement, segment.sequence),
        ] {
            (end.next, end.acknowledged, end.acked, end.done) = (next, acknowledged, true, false);
        }
    }

    /// The state that the marks say.
    fn after_ack(&self) -> TcpState {
        let is_heard = |own: &End, other: &End| other.acked && at_or_after(other.acknowledged, own.next);
        let (original, reply) = (&self.original, &self.reply);
        if self.state == TcpState::SynReceived && !original.acked {
            return TcpState::SynReceived;
        }
        match (original.done, reply.done) {
            (false, false) => TcpState::Established,
            (true, false) if is_heard(original, reply) => TcpState::CloseWait,
            (false, true) if is_heard(reply, original) => TcpState::CloseWait,
            (true, false) | (false, true) => TcpState::FinWait,
            (true, true) if is_heard(original, reply) && is_heard(reply, original) => TcpState::TimeWait,
            (true, true) => TcpState::LastAck,
        }
    }
}

#[cfg(test)]
mod tests {
    use Side::{Original, Reply};
    use TcpState::*;
    use proptest::prelude::*;

    use super::*;

    const CLIENT: u32 = u32::MAX - 10; // so that the numbers wrap
    const SERVER: u32 = 7000;

    fn segment(letters: &str, sequence: u32, acknowledgement: u32) -> Segment {
        let flag = |letter| match letter {
            'S' => TcpFlags::SYN,
            'A' => TcpFlags::ACK,
            'F' => TcpFlags::FIN,
            'R' => TcpFlags::RST,
            other => panic!("no flag {other}"),
        };
        let flags = TcpFlags(letters.chars().map(flag).fold(0, |all, flag| all | flag));
        let scale = flags.has(TcpFlags::SYN).then_some(0);
        Segment { flags, sequence, acknowledgement, window: 1000, payload: 0, scale }
    }

    /// Segments by the offsets of their numbers from each end's first one.
    fn client(letters: &str, sequence: u32, acknowledgement: u32) -> Segment {
        segment(letters, CLIENT.wrapping_add(sequence), SERVER.wrapping_add(acknowledgement))
    }

    fn server(letters: &str, sequence: u32, acknowledgement: u32) -> Segment {
        segment(letters, SERVER.wrapping_add(sequence), CLIENT.wrapping_add(acknowledgement))
    }

    fn data(segment: Segment, payload: u32) -> Segment {
        Segment { payload, ..segment }
    }

    fn established() -> TcpTrack {
        let mut track = TcpTrack::open(&client("S", 0, 0));
        assert_eq!((track.state(), track.class()), (SynSent, Class::Embryonic));
        assert_eq!(track.see(Reply, &server("SA", 0, 1)), Ok(true));
        assert_eq!((track.state(), track.class()), (SynReceived, Class::Embryonic));
        assert_eq!(track.see(Original, &client("A", 1, 1)), Ok(true));
        assert_eq!((track.state(), track.class()), (Established, Class::Open));
        track
    }

    #[test]
    fn a_life() {
        let mut track = established();
        for (side, segment, state) in [
            (Original, data(client("A", 1, 1), 100), Established),
            (Reply, data(server("A", 1, 101), 50), Established),
            (Original, client("FA", 101, 51), FinWait),
            (Reply, data(server("A", 51, 101), 10), FinWait),
            (Reply, server("A", 61, 102), CloseWait),
            (Reply, data(server("A", 61, 102), 500), CloseWait),
            (Original, client("A", 102, 561), CloseWait),
            (Reply, server("FA", 561, 102), LastAck),
            (Original, client("A", 102, 562), TimeWait),
            // The last acknowledgement was lost behind us.
            (Reply, server("FA", 561, 102), TimeWait),
        ] {
            assert_eq!(track.see(side, &segment), Ok(state != TimeWait), "{segment:?}");
            assert_eq!(track.state(), state, "{segment:?}");
        }
        assert_eq!(track.class(), Class::Closing);
        assert!(track.gives_way_to_syn(Original) && track.gives_way_to_syn(Reply));
    }

    #[test]
    fn what_no_state_allows_does_not_pass() {
        let mut track = TcpTrack::open(&client("S", 0, 0));
        let before = track;
        assert_eq!(track.see(Original, &client("A", 1, 1)), Err(DropReason::StrayTcp), "nobody has answered");
        assert_eq!(track.see(Original, &client("FA", 1, 1)), Err(DropReason::StrayTcp));
        assert_eq!(track.see(Reply, &server("SA", 0, 2)), Err(DropReason::StrayTcp), "for another SYN");
        assert_eq!(track.see(Reply, &server("", 0, 0)), Err(DropReason::StrayTcp));
        assert_eq!(track.see(Reply, &server("F", 0, 0)), Err(DropReason::StrayTcp));
        assert_eq!(track, before, "and changes nothing");
    }

    #[test]
    fn resets_are_believed_by_their_numbers_only() {
        // The answer to a SYN.
        for (reset, state) in
            [(server("RA", 0, 1), Ok(false)), (server("RA", 0, 2), Err(DropReason::TcpReset))]
        {
            let mut track = TcpTrack::open(&client("S", 0, 0));
            assert_eq!(track.see(Reply, &reset), state);
            assert_eq!(track.state() == Closed, state.is_ok());
        }
        let mut track = TcpTrack::open(&client("S", 0, 0));
        assert_eq!(track.see(Reply, &server("R", 0, 0)), Err(DropReason::TcpReset), "without ACK");
        // Of an open connection: (reset, passes, closes).
        for (side, reset, passes, closes) in [
            (Original, client("R", 1, 0), true, true),
            (Original, client("R", 2, 0), true, false),
            (Original, client("R", 1001, 0), true, false),
            (Original, client("R", 1002, 0), false, false),
            (Original, client("R", 0, 0), false, false),
            (Reply, server("RA", 1, 1), true, true),
            (Reply, server("R", 500, 0), true, false),
            (Reply, server("R", 0x8000_0000, 0), false, false),
        ] {
            let mut track = established();
            assert_eq!(track.see(side, &reset).is_ok(), passes, "{reset:?}");
            assert_eq!(track.state() == Closed, closes, "{reset:?}");
        }
        // Behind data that was sent and not yet acknowledged.
        let mut track = established();
        track.see(Original, &data(client("A", 1, 1), 300)).unwrap();
        assert_eq!(track.see(Original, &client("R", 301, 0)), Ok(false));
        assert_eq!(track.state(), Closed);
    }

    #[test]
    fn windows_are_scaled_if_both_ends_say_so() {
        for (ours, theirs, passes) in
            [(Some(4), Some(2), true), (Some(4), None, false), (None, Some(2), false)]
        {
            let mut track = TcpTrack::open(&Segment { scale: ours, ..client("S", 0, 0) });
            track.see(Reply, &Segment { scale: theirs, ..server("SA", 0, 1) }).unwrap();
            track.see(Original, &client("A", 1, 1)).unwrap();
            // The client offers 16,000 bytes if scaled.
            assert_eq!(track.see(Reply, &server("R", 10_000, 0)).is_ok(), passes, "{ours:?} {theirs:?}");
        }
        let options = |bytes: &[u8]| window_scale(bytes);
        assert_eq!(options(&[2, 4, 5, 180, 1, 3, 3, 7]), Some(7));
        assert_eq!(options(&[3, 3, 200]), Some(14));
        for none in [&[][..], &[0, 3, 3, 7], &[2, 0, 3, 3, 7], &[2, 9, 1], &[3], &[3, 3], &[5, 1]] {
            assert_eq!(options(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_syn_on_an_open_connection_changes_nothing_by_itself() {
        let mut track = established();
        let new = segment("S", 55_555, 0);
        assert!(!track.gives_way_to_syn(Original) && !track.gives_way_to_syn(Reply));
        assert_eq!(track.see(Original, &new), Ok(false));
        assert_eq!(track.state(), Established);
        // The end that still has the old connection challenges, and the other one resets it.
        let mut challenged = track;
        challenged.see(Reply, &server("A", 1, 1)).unwrap();
        assert_eq!(challenged.state(), Established);
        challenged.see(Original, &client("R", 1, 0)).unwrap();
        assert_eq!(challenged.state(), Closed);
        assert!(challenged.gives_way_to_syn(Original), "and the SYN, sent again, is a new connection's");
        // The end that has forgotten takes the new one.
        track.see(Reply, &segment("SA", 99_999, 55_556)).unwrap();
        assert_eq!(track.state(), SynReceived);
        track.see(Original, &segment("A", 55_556, 100_000)).unwrap();
        assert_eq!(track.state(), Established);
        // A SYN-ACK that answers no SYN is no restart; nor is the first SYN, sent again.
        let mut track = established();
        track.see(Original, &client("S", 0, 0)).unwrap();
        track.see(Reply, &server("SA", 0, 1)).unwrap();
        assert_eq!(track.state(), Established);
    }

    #[test]
    fn both_ends_may_open_at_once() {
        // The entry is the one of the server's SYN, which came second.
        let mut track = TcpTrack::open(&server("S", 0, 0));
        assert_eq!(track.see(Original, &server("SA", 0, 1)), Ok(true));
        assert_eq!(track.see(Reply, &client("SA", 0, 1)), Ok(true));
        assert_eq!(track.see(Original, &server("A", 1, 1)), Ok(true));
        assert_eq!(track.state(), Established);
    }

    #[test]
    fn a_syn_that_was_not_answered_may_be_another_one_the_next_time() {
        let mut track = TcpTrack::open(&client("S", 0, 0));
        track.see(Original, &segment("S", 42, 0)).unwrap();
        assert_eq!(track.see(Reply, &server("SA", 0, 1)), Err(DropReason::StrayTcp));
        assert_eq!(track.see(Reply, &segment("SA", 1, 43)), Ok(true));
    }

    #[test]
    fn forged_segments_move_nothing() {
        for forged in [
            data(client("A", 5000, 1), 10),     // beyond the window
            data(client("FA", 500_000, 1), 10), // a FIN out of it
            client("FA", 200, 5000),            // within it, but acknowledges what was not sent
            data(client("A", 200, 0x4000_0000), 10),
            client("A", 0x8000_0000, 1),
        ] {
            let mut track = established();
            let before = track;
            track.see(Original, &forged).unwrap();
            track.doubt = None;
            assert_eq!(track, before, "{forged:?}");
        }
        let mut track = established();
        // Acknowledges what was never sent: the next reset of the other end is not held against it.
        track.see(Original, &client("A", 1, 900)).unwrap();
        assert_eq!(track.see(Reply, &server("R", 1, 0)), Ok(false));
        assert_eq!(track.state(), Closed);
        // A forged FIN within the window is found out by what follows.
        let mut track = established();
        track.see(Original, &client("FA", 200, 1)).unwrap();
        assert_eq!(track.state(), FinWait);
        track.see(Original, &data(client("A", 1, 1), 600)).unwrap();
        assert_eq!(track.state(), Established);
    }

    #[test]
    fn a_fin_that_is_behind_what_was_sent_is_forged() {
        let mut track = established();
        track.see(Original, &data(client("A", 1, 1), 600)).unwrap();
        track.see(Reply, &server("A", 1, 601)).unwrap();
        track.see(Original, &client("FA", 200, 1)).unwrap();
        assert_eq!(track.state(), Established);
    }

    #[test]
    fn data_may_come_with_the_syn() {
        // RFC 7413: the server may take the SYN alone, or some of the data.
        for taken in [1, 50, 101] {
            let mut track = TcpTrack::open(&data(client("S", 0, 0), 100));
            assert_eq!(track.see(Original, &client("S", 0, 0)), Ok(true), "sent again without");
            assert_eq!(track.see(Reply, &server("SA", 0, taken)), Ok(true), "{taken}");
            assert_eq!(track.see(Original, &data(client("A", taken, 1), 101 - taken)), Ok(true));
            assert_eq!(track.state(), Established);
        }
        let mut track = TcpTrack::open(&data(client("S", 0, 0), 100));
        assert_eq!(track.see(Reply, &server("SA", 0, 102)), Err(DropReason::StrayTcp));
    }

    #[test]
    fn an_answer_that_was_lost_may_come_back_another_one() {
        // The SYN-ACK with another number, as SYN cookies have it.
        let mut track = TcpTrack::open(&client("S", 0, 0));
        track.see(Reply, &segment("SA", 900_000, CLIENT.wrapping_add(1))).unwrap();
        track.see(Reply, &server("SA", 0, 1)).unwrap();
        assert_eq!(track.see(Original, &client("A", 1, 1)), Ok(true));
        assert_eq!(track.state(), Established);
        // A refusal: nobody listens any more.
        let mut track = TcpTrack::open(&client("S", 0, 0));
        track.see(Reply, &server("SA", 5000, 1)).unwrap();
        assert_eq!(track.see(Reply, &segment("RA", 0, CLIENT.wrapping_add(1))), Ok(false));
        assert_eq!(track.state(), Closed);
        // The same for a later SYN, by an end that has forgotten the connection.
        let mut track = established();
        track.see(Original, &segment("S", 55_555, 0)).unwrap();
        assert_eq!(track.see(Reply, &segment("RA", 0, 55_556)), Ok(false));
        assert_eq!(track.state(), Closed);
    }

    #[test]
    fn a_forged_challenge_does_not_end_an_attempt() {
        let mut track = TcpTrack::open(&client("S", 0, 0));
        assert_eq!(track.see(Reply, &server("A", 777, 999)), Ok(false));
        assert_eq!(track.see(Original, &client("R", 999, 0)), Ok(false));
        assert_eq!(track.see(Reply, &server("SA", 0, 1)), Ok(true));
        assert_eq!(track.see(Original, &client("A", 1, 1)), Ok(true));
        assert_eq!(track.state(), Established);
    }

    #[test]
    fn a_syn_gives_way_only_where_nothing_is_lost() {
        let mut track = TcpTrack::open(&client("S", 0, 0));
        assert!(track.gives_way_to_syn(Reply) && !track.gives_way_to_syn(Original));
        track.see(Reply, &server("SA", 0, 1)).unwrap();
        assert!(!track.gives_way_to_syn(Reply), "the client may be done with the handshake");
        let mut track = established();
        assert_eq!(track.see(Original, &client("SF", 9, 0)), Err(DropReason::StrayTcp));
        assert_eq!(track.see(Reply, &server("SFA", 9, 1)), Err(DropReason::StrayTcp));
        track.see(Original, &client("FA", 1, 1)).unwrap();
        track.see(Reply, &data(server("FA", 1, 1), 700)).unwrap();
        assert_eq!(track.state(), LastAck);
        assert!(!track.gives_way_to_syn(Original), "the last data may have to be sent again");
    }

    #[test]
    fn what_an_icmp_error_may_quote() {
        let mut track = established();
        track.see(Original, &data(client("A", 1, 1), 300)).unwrap();
        assert!(track.may_have_sent(Original, CLIENT.wrapping_add(1)));
        assert!(track.may_have_sent(Original, CLIENT.wrapping_add(300)));
        assert!(!track.may_have_sent(Original, CLIENT.wrapping_add(302)), "not sent yet");
        assert!(!track.may_have_sent(Original, CLIENT.wrapping_sub(100_000)), "long ago");
        assert!(!track.may_have_sent(Reply, SERVER.wrapping_add(400)));
        // Before anybody has answered: the SYN, and nothing else of the half of all numbers before it.
        let track = TcpTrack::open(&data(client("S", 0, 0), 10));
        assert!(
            track.may_have_sent(Original, CLIENT) && track.may_have_sent(Original, CLIENT.wrapping_add(11))
        );
        assert!(!track.may_have_sent(Original, CLIENT.wrapping_sub(1)));
        assert!(!track.may_have_sent(Original, CLIENT.wrapping_add(12)));
    }

    #[test]
    fn an_answer_that_arrived_first_counts_though_another_passed_last() {
        let mut track = TcpTrack::open(&client("S", 0, 0));
        track.see(Reply, &segment("SA", 900_000, CLIENT.wrapping_add(1))).unwrap();
        track.see(Reply, &server("SA", 0, 1)).unwrap();
        // The client has taken the first one, and the server agrees.
        let client = |payload| data(segment("A", CLIENT.wrapping_add(1), 900_001), payload);
        assert_eq!(track.see(Original, &client(0)), Ok(false));
        assert_eq!(track.see(Original, &client(100)), Ok(false));
        assert_eq!(track.see(Reply, &segment("A", 900_001, CLIENT.wrapping_add(101))), Ok(true));
        assert_eq!(track.state(), Established);
        assert_eq!(track.see(Reply, &segment("R", 900_001, 0)), Ok(false));
        assert_eq!(track.state(), Closed);
    }

    #[test]
    fn a_forged_syn_does_not_hide_a_restart_for_long() {
        for forged in [55_000, 0] {
            let mut track = established();
            track.see(Original, &client("FA", 1, 1)).unwrap();
            track.see(Original, &segment("S", 1_000_000, 0)).unwrap();
            track.see(Original, &segment("S", forged, 0)).unwrap();
            assert_eq!(track.see(Reply, &segment("SA", 2_000_000, 1_000_001)), Ok(false));
            assert_eq!(track.see(Original, &segment("A", 1_000_001, 2_000_001)), Ok(false));
            // Whichever speaks first.
            assert_eq!(track.see(Reply, &data(segment("A", 2_000_001, 1_000_001), 9)), Ok(true));
            assert_eq!(track.state(), Established);
            assert_eq!(track.see(Original, &segment("A", 1_000_001, 2_000_010)), Ok(true));
        }
    }

    proptest! {
        /// Two ends that talk properly, through a network that repeats and reorders within a window: nothing of it is dropped once
        /// the handshake is over, and it never closes before a FIN or a reset.
        #[test]
        fn a_proper_conversation_passes(steps in prop::collection::vec((any::<bool>(), 0_u32..800, 0_u8..8), 1..200)) {
            let mut track = established();
            let (mut sent, mut heard) = ([1_u32; 2], [1_u32; 2]);
            let mut old: Vec<(Side, Segment)> = Vec::new();
            for (from_client, payload, kind) in steps {
                let (me, you) = if from_client { (0, 1) } else { (1, 0) };
                let side = if from_client { Original } else { Reply };
                if kind == 7 && !old.is_empty() {
                    let (side, again) = old[old.len() - 1 - payload as usize % old.len().min(64)];
                    prop_assert!(track.see(side, &again).is_ok());
                    continue;
                }
                // Never more than the window is on its way.
                let payload = payload.min(1000 - (sent[me] - heard[you]).min(1000));
                heard[me] = sent[you];
                let make = if from_client { client } else { server };
                let segment = Segment { window: 65_000, ..data(make("A", sent[me], heard[me]), payload) };
                sent[me] += payload;
                old.push((side, segment));
                prop_assert_eq!(track.see(side, &segment), Ok(true));
                prop_assert_eq!(track.state(), Established);
            }
            let last = client("R", sent[0], 0);
            prop_assert_eq!(track.see(Original, &last), Ok(false));
            prop_assert_eq!(track.state(), Closed);
        }

        /// Whatever the marks are, two ends that agree are followed again from the second segment on that they exchange.
        #[test]
        fn ends_that_agree_are_believed(a in any::<u32>(), b in any::<u32>(), asked in 0_u32..1000, answered in 0_u32..1000) {
            let mut track = established();
            let question = data(segment("A", a, b), asked);
            track.see(Original, &question).unwrap();
            let answer = data(segment("A", b, question.end()), answered);
            prop_assert_eq!(track.see(Reply, &answer), Ok(true));
            prop_assert_eq!(track.state(), Established);
            prop_assert_eq!(track.see(Original, &segment("A", question.end(), answer.end())), Ok(true));
            prop_assert_eq!(track.see(Original, &segment("R", question.end(), 0)), Ok(false));
            prop_assert_eq!(track.state(), Closed);
        }

        /// One end alone moves nothing out of the window, however often it tries, and the other one's own words do not help it.
        #[test]
        fn one_end_alone_is_not_believed(forged in prop::collection::vec((2000_u32..0xffff_f000, any::<u32>(), any::<bool>()), 1..50)) {
            let mut track = established();
            let before = track;
            for (sequence, acknowledgement, fin) in forged {
                let letters = if fin { "FA" } else { "A" };
                track.see(Original, &client(letters, sequence, acknowledgement)).unwrap();
                // The challenge that the other end answers it with.
                prop_assert_eq!(track.see(Reply, &server("A", 1, 1)), Ok(true));
                prop_assert_eq!(TcpTrack { doubt: None, ..track }, before);
            }
        }
    }
}

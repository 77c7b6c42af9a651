//! How far an SCTP association has come, from the chunks of both directions (RFC 9260).
//!
//! Every packet carries the verification tag that its receiver chose when the association was opened, so a packet with another
//! tag is not of this association and does not pass: nobody who cannot see it can end it. A restart (RFC 9260, 5.2) chooses new
//! tags while the old ones still count; they change when the cookie comes back.
//!
//! Whoever forges an INIT of an end does not see what it is answered with, so what came first stays beside what came last.
//!
//! Both ends may open at once (RFC 9260, 5.2.1): each answers with the tag of its own INIT, and the first cookie that comes back
//! makes one association of both. So the tags of both ends' INITs count side by side, and an INIT, sent again or the other way,
//! makes nothing of what was said before forgotten.
//!
//! Packets are known by their first chunk, as policy knows them, but that the end of an association may be bundled behind data
//! and acknowledgements (RFC 9260, 6.10) and counts there too, as far as the packet's first frame shows it.

use std::num::NonZeroU32;

use crate::drop_reason::DropReason;
use crate::flow::entry::{Class, Side};
use crate::packet::Headers;
use crate::wire::array;

/// What tracking needs to know of a packet: its first chunk, or the one behind it that ends the association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its type.
    pub kind: u8,
    /// The verification tag of the packet, host order.
    pub tag: u32,
    /// ABORT and SHUTDOWN COMPLETE: the tag is the sender's own, because it knows no other (the T bit).
    pub reflected: bool,
    /// INIT and INIT ACK: the tag that the sender chooses for packets to itself; 0 otherwise.
    pub chosen: u32,
}

impl Chunk {
    const DATA: u8 = 0;
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const SACK: u8 = 3;
    const ABORT: u8 = 6;
    const SHUTDOWN: u8 = 7;
    const SHUTDOWN_ACK: u8 = 8;
    const ERROR: u8 = 9;
    const COOKIE_ECHO: u8 = 10;
    const COOKIE_ACK: u8 = 11;
    const SHUTDOWN_COMPLETE: u8 = 14;

    /// Of a packet. `head` is its first frame, from the Ethernet header on. `None` if it ends too early.
    #[must_use]
    pub fn of(head: &[u8], headers: &Headers) -> Option<Self> {
        let start = usize::from(headers.transport_offset);
        let tag = u32::from_be_bytes(array(head, start + 4)?);
        let [mut kind, mut flags] = array(head, start + 12)?;
        if matches!(kind, Self::DATA | Self::SACK | Self::ERROR) {
            let chunks = head.get(start + 12..head.len().min(headers.packet_len as usize))?;
            (kind, flags) = Self::end_among(chunks).unwrap_or((kind, flags));
        }
        let chosen = match kind {
            Self::INIT | Self::INIT_ACK => u32::from_be_bytes(array(head, start + 16)?),
            _ => 0,
        };
        let reflected = matches!(kind, Self::ABORT | Self::SHUTDOWN_COMPLETE) && flags & 1 != 0;
        Some(Self { kind, tag, reflected, chosen })
    }

    /// Type and flags of the first chunk that ends an association.
    fn end_among(mut chunks: &[u8]) -> Option<(u8, u8)> {
        loop {
            let [kind, flags, length @ ..]: [u8; 4] = array(chunks, 0)?;
            if matches!(kind, Self::ABORT | Self::SHUTDOWN | Self::SHUTDOWN_ACK) {
                return Some((kind, flags));
            }
            // The length counts its header and not the padding to four bytes.
            let length = usize::from(u16::from_be_bytes(length)).max(4);
            chunks = chunks.get(length.next_multiple_of(4)..)?;
        }
    }
}

/// How far an association has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SctpState {
    /// An INIT was seen, perhaps its answer.
    CookieWait,
    /// The cookie went back.
    CookieEchoed,
    /// The cookie was taken.
    Established,
    /// One end ends it.
    Shutdown,
    /// It is over.
    Closed,
}

impl SctpState {
    /// How far that is.
    #[inline]
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            SctpState::CookieWait | SctpState::CookieEchoed => Class::Embryonic,
            SctpState::Established | SctpState::Shutdown => Class::Open,
            SctpState::Closed => Class::Closing,
        }
    }
}

/// The tags of both ends: what packets to them have to carry. 0 for none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tags {
    original: u32,
    reply: u32,
}

impl Tags {
    fn of(&self, side: Side) -> u32 {
        match side {
            Side::Original => self.original,
            Side::Reply => self.reply,
        }
    }

    fn set(&mut self, side: Side, tag: u32) {
        match side {
            Side::Original => self.original = tag,
            Side::Reply => self.reply = tag,
        }
    }
}

/// The first and the latest of something that may come again, or be forged: what came first stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FirstAndLatest<T> {
    first: Option<T>,
    latest: Option<T>,
}

impl<T: Copy + PartialEq> FirstAndLatest<T> {
    const NONE: Self = Self { first: None, latest: None };

    fn add(&mut self, value: T) {
        if self.first.is_none() {
            self.first = Some(value);
        } else if self.first != Some(value) {
            self.latest = Some(value);
        }
    }

    fn find(&self, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        [self.first, self.latest].into_iter().flatten().find(is_wanted)
    }
}

/// Tags chosen by INITs, by the end that sent them: neither can push the other's out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inits {
    original: FirstAndLatest<NonZeroU32>,
    reply: FirstAndLatest<NonZeroU32>,
}

impl Inits {
    const NONE: Self = Self { original: FirstAndLatest::NONE, reply: FirstAndLatest::NONE };

    fn add(&mut self, side: Side, tag: u32) {
        // 0 is no tag.
        let Some(tag) = NonZeroU32::new(tag) else { return };
        match side {
            Side::Original => self.original.add(tag),
            Side::Reply => self.reply.add(tag),
        }
    }

    fn has(&self, side: Side, tag: u32) -> bool {
        let tags = match side {
            Side::Original => &self.original,
            Side::Reply => &self.reply,
        };
        tags.find(|known| known.get() == tag).is_some()
    }
}

/// The track of one association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpTrack {
    state: SctpState,
    tags: Tags,
    /// Of INITs that no association has come of yet.
    inits: Inits,
    /// Such a tag together with the one that an INIT ACK chose for it; they count from the cookie on.
    offers: FirstAndLatest<Tags>,
}

impl SctpTrack {
    /// Of an association that this INIT opens.
    #[must_use]
    pub fn open(init: &Chunk) -> Self {
        let mut inits = Inits::NONE;
        inits.add(Side::Original, init.chosen);
        Self { state: SctpState::CookieWait, tags: Tags::default(), inits, offers: FirstAndLatest::NONE }
    }

    /// How far it has come.
    #[inline]
    #[must_use]
    pub fn state(&self) -> SctpState {
        self.state
    }

    /// Its class.
    #[inline]
    #[must_use]
    pub fn class(&self) -> Class {
        self.state.class()
    }

    /// May an INIT only be judged for itself, as if there were no association? Once it is over. Before, the INIT of the other
    /// end is part of it, and what has come of the first one must not be forgotten: it may be on its way behind us.
    #[inline]
    #[must_use]
    pub fn gives_way_to_init(&self) -> bool {
        self.class() == Class::Closing
    }

    /// Takes note of a packet that matches the association.
    ///
    /// # Errors
    /// Why it must not pass. Nothing has changed then.
    pub fn see(&mut self, side: Side, chunk: &Chunk) -> Result<(), DropReason> {
        let other = match side {
            Side::Original => Side::Reply,
            Side::Reply => Side::Original,
        };
        let tag = chunk.tag;
        let is_current = tag != 0 && tag == self.tags.of(other);
        let is_of_init = self.inits.has(other, tag);
        let offer = self.offers.find(|offer| tag != 0 && offer.of(other) == tag);
        let fits = match chunk.kind {
            // RFC 9260, 8.5.1: the tag of the one who is asked is not known yet.
            Chunk::INIT => tag == 0 && chunk.chosen != 0,
            Chunk::INIT_ACK => is_of_init && chunk.chosen != 0,
            Chunk::COOKIE_ECHO => is_current || offer.is_some(),
            Chunk::COOKIE_ACK => is_current && self.state != SctpState::Closed,
            Chunk::ABORT | Chunk::SHUTDOWN_COMPLETE if chunk.reflected => {
                tag != 0 && tag == self.tags.of(side)
            }
            // Nobody listens, or not any more: the answer to an INIT or to a cookie.
            Chunk::ABORT => is_current || self.tags == Tags::default() && (is_of_init || offer.is_some()),
            _ => is_current,
        };
        if !fits {
            return Err(DropReason::StraySctp);
        }
        match chunk.kind {
            Chunk::INIT => self.inits.add(side, chunk.chosen),
            Chunk::INIT_ACK => {
                let mut offer = Tags::default();
                offer.set(side, chunk.chosen);
                offer.set(other, tag);
                self.offers.add(offer);
            }
            Chunk::COOKIE_ECHO => {
                // With the tag that counts already it is the old cookie, sent again.
                if let Some(offer) = offer.filter(|_| !is_current) {
                    self.tags = offer;
                }
                if matches!(self.state, SctpState::CookieWait | SctpState::Closed) {
                    self.state = SctpState::CookieEchoed;
                }
            }
            Chunk::COOKIE_ACK if self.state == SctpState::CookieEchoed => {
                self.state = SctpState::Established;
                (self.inits, self.offers) = (Inits::NONE, FirstAndLatest::NONE);
            }
            Chunk::SHUTDOWN | Chunk::SHUTDOWN_ACK if self.state == SctpState::Established => {
                self.state = SctpState::Shutdown;
            }
            Chunk::ABORT | Chunk::SHUTDOWN_COMPLETE => self.state = SctpState::Closed,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use Side::{Original, Reply};

    use super::*;

    const DATA: u8 = Chunk::DATA;
    const HEARTBEAT: u8 = 4;

    fn chunk(kind: u8, tag: u32) -> Chunk {
        Chunk { kind, tag, reflected: false, chosen: 0 }
    }

    fn choosing(kind: u8, tag: u32, chosen: u32) -> Chunk {
        Chunk { chosen, ..chunk(kind, tag) }
    }

    /// The client has chosen 11, the server 22.
    fn established() -> SctpTrack {
        let mut track = SctpTrack::open(&choosing(Chunk::INIT, 0, 11));
        for (side, chunk, state) in [
            (Original, choosing(Chunk::INIT, 0, 11), SctpState::CookieWait), // sent again
            (Reply, choosing(Chunk::INIT_ACK, 11, 22), SctpState::CookieWait),
            (Original, chunk(Chunk::COOKIE_ECHO, 22), SctpState::CookieEchoed),
            (Reply, chunk(Chunk::COOKIE_ACK, 11), SctpState::Established),
            (Reply, chunk(HEARTBEAT, 11), SctpState::Established),
            (Original, chunk(DATA, 22), SctpState::Established),
        ] {
            assert_eq!(track.see(side, &chunk), Ok(()), "{chunk:?}");
            assert_eq!(track.state(), state, "{chunk:?}");
        }
        track
    }

    #[test]
    fn a_life() {
        let mut track = established();
        assert_eq!(track.class(), Class::Open);
        for (side, chunk, state) in [
            (Original, chunk(Chunk::SHUTDOWN, 22), SctpState::Shutdown),
            (Reply, chunk(Chunk::SHUTDOWN_ACK, 11), SctpState::Shutdown),
            (Original, chunk(Chunk::SHUTDOWN_COMPLETE, 22), SctpState::Closed),
        ] {
            assert_eq!(track.see(side, &chunk), Ok(()));
            assert_eq!(track.state(), state);
        }
        assert_eq!(track.class(), Class::Closing);
    }

    #[test]
    fn another_tag_does_not_pass_and_changes_nothing() {
        for (side, forged) in [
            (Original, chunk(DATA, 11)),
            (Original, chunk(DATA, 0)),
            (Reply, chunk(Chunk::ABORT, 22)),
            (Reply, chunk(Chunk::ABORT, 0)),
            (Reply, Chunk { reflected: true, ..chunk(Chunk::ABORT, 11) }),
            (Reply, chunk(Chunk::SHUTDOWN, 12)),
            (Reply, choosing(Chunk::INIT, 5, 33)),
            (Reply, choosing(Chunk::INIT, 0, 0)),
            (Reply, choosing(Chunk::INIT_ACK, 12, 33)),
            (Original, chunk(Chunk::COOKIE_ECHO, 23)),
        ] {
            let mut track = established();
            let before = track;
            assert_eq!(track.see(side, &forged), Err(DropReason::StraySctp), "{forged:?}");
            assert_eq!(track, before);
        }
    }

    /// An INIT of either end, sent again at any time and then lost, does not stop an association of which both ends know.
    #[test]
    fn both_ends_may_open_at_once() {
        let life = [
            (Reply, choosing(Chunk::INIT, 0, 22)),
            (Original, choosing(Chunk::INIT_ACK, 22, 11)),
            (Reply, choosing(Chunk::INIT_ACK, 11, 22)),
            (Reply, chunk(Chunk::COOKIE_ECHO, 11)),
            (Original, chunk(Chunk::COOKIE_ECHO, 22)),
            (Original, chunk(Chunk::COOKIE_ACK, 22)),
            (Reply, chunk(Chunk::COOKIE_ACK, 11)),
            (Original, chunk(DATA, 22)),
            (Reply, chunk(DATA, 11)),
        ];
        for place in 0..life.len() {
            for again in [(Original, choosing(Chunk::INIT, 0, 11)), (Reply, choosing(Chunk::INIT, 0, 22))] {
                let mut track = SctpTrack::open(&choosing(Chunk::INIT, 0, 11));
                for (number, (side, said)) in life.into_iter().enumerate() {
                    if number == place {
                        assert!(!track.gives_way_to_init());
                        track.see(again.0, &again.1).unwrap();
                    }
                    assert_eq!(track.see(side, &said), Ok(()), "{place}: {said:?}");
                }
                assert_eq!(track.state(), SctpState::Established);
            }
        }
    }

    #[test]
    fn forged_inits_of_one_end_do_not_push_out_the_others() {
        let mut track = SctpTrack::open(&choosing(Chunk::INIT, 0, 11));
        track.see(Reply, &choosing(Chunk::INIT, 0, 22)).unwrap();
        for forged in 600..610 {
            track.see(Original, &choosing(Chunk::INIT, 0, forged)).unwrap();
        }
        assert_eq!(track.see(Original, &choosing(Chunk::INIT_ACK, 22, 11)), Ok(()));
        assert_eq!(track.see(Reply, &choosing(Chunk::INIT_ACK, 11, 22)), Ok(()));
    }

    #[test]
    fn aborts_of_either_tag_end_it() {
        for (side, abort) in [
            (Reply, chunk(Chunk::ABORT, 11)),
            (Reply, Chunk { reflected: true, ..chunk(Chunk::ABORT, 22) }),
            (Original, chunk(Chunk::ABORT, 22)),
        ] {
            let mut track = established();
            assert_eq!(track.see(side, &abort), Ok(()));
            assert_eq!(track.state(), SctpState::Closed);
        }
        // Nobody listens: the answer to an INIT.
        let mut track = SctpTrack::open(&choosing(Chunk::INIT, 0, 11));
        assert_eq!(track.see(Reply, &chunk(Chunk::ABORT, 11)), Ok(()));
        assert_eq!(track.state(), SctpState::Closed);
    }

    #[test]
    fn nothing_but_the_handshake_passes_before_it_is_over() {
        let mut track = SctpTrack::open(&choosing(Chunk::INIT, 0, 11));
        for (side, early) in
            [(Original, chunk(DATA, 22)), (Reply, chunk(DATA, 11)), (Original, chunk(HEARTBEAT, 22))]
        {
            assert_eq!(track.see(side, &early), Err(DropReason::StraySctp), "{early:?}");
        }
    }

    #[test]
    fn an_end_behind_other_chunks_is_found() {
        let sack = [Chunk::SACK, 0, 0, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0];
        let data = [DATA, 3, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0];
        let shutdown = [Chunk::SHUTDOWN, 0, 0, 8, 0, 0, 0, 1];
        let found = |parts: &[&[u8]]| Chunk::end_among(&parts.concat());
        assert_eq!(found(&[&sack, &shutdown]), Some((Chunk::SHUTDOWN, 0)));
        assert_eq!(found(&[&data, &sack, &[Chunk::ABORT, 1, 0, 4]]), Some((Chunk::ABORT, 1)));
        for none in
            [&[&sack[..], &data][..], &[&data, &shutdown[..3]], &[&[DATA, 0, 255, 255]], &[&[DATA, 0, 0, 0]]]
        {
            assert_eq!(found(none), None);
        }
    }

    #[test]
    fn a_forged_init_changes_nothing() {
        // Before, between and after what the ends say.
        for place in 0..4 {
            let mut track = SctpTrack::open(&choosing(Chunk::INIT, 0, 11));
            let life = [
                (Reply, choosing(Chunk::INIT_ACK, 11, 22)),
                (Original, chunk(Chunk::COOKIE_ECHO, 22)),
                (Reply, chunk(Chunk::COOKIE_ACK, 11)),
                (Original, chunk(DATA, 22)),
                (Reply, chunk(DATA, 11)),
            ];
            for (number, (side, said)) in life.into_iter().enumerate() {
                if number == place {
                    track.see(Original, &choosing(Chunk::INIT, 0, 666)).unwrap();
                    // The server answers it, to the one who is said to have sent it.
                    track.see(Reply, &choosing(Chunk::INIT_ACK, 666, 999)).unwrap();
                }
                assert_eq!(track.see(side, &said), Ok(()), "{place}: {said:?}");
            }
            // A late duplicate of the cookie, and an abort by the forged tag.
            assert_eq!(track.see(Original, &chunk(Chunk::COOKIE_ECHO, 22)), Ok(()));
            let abort = Chunk { reflected: true, ..chunk(Chunk::ABORT, 666) };
            assert_eq!(track.see(Original, &abort), Err(DropReason::StraySctp));
            assert_eq!(track.see(Original, &chunk(DATA, 22)), Ok(()));
            assert_eq!(track.state(), SctpState::Established);
        }
    }

    #[test]
    fn what_is_over_does_not_come_back_by_a_late_chunk() {
        let mut track = established();
        track.see(Original, &chunk(Chunk::SHUTDOWN, 22)).unwrap();
        track.see(Original, &chunk(Chunk::COOKIE_ECHO, 22)).unwrap();
        assert_eq!(track.state(), SctpState::Shutdown);
        track.see(Original, &chunk(Chunk::ABORT, 22)).unwrap();
        assert_eq!(track.see(Reply, &chunk(Chunk::COOKIE_ACK, 11)), Err(DropReason::StraySctp));
        assert_eq!(track.state(), SctpState::Closed);
    }

    #[test]
    fn a_restart_changes_the_tags_with_the_cookie() {
        let mut track = established();
        track.see(Original, &choosing(Chunk::INIT, 0, 33)).unwrap();
        track.see(Reply, &choosing(Chunk::INIT_ACK, 33, 44)).unwrap();
        assert_eq!(track.see(Original, &chunk(DATA, 22)), Ok(()), "the old ones still count");
        track.see(Original, &chunk(Chunk::COOKIE_ECHO, 44)).unwrap();
        assert_eq!(track.see(Original, &chunk(DATA, 22)), Err(DropReason::StraySctp));
        assert_eq!(track.see(Original, &chunk(DATA, 44)), Ok(()));
        assert_eq!(track.see(Reply, &chunk(DATA, 33)), Ok(()));
    }
}

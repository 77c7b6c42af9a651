//! How far an SCTP association has come, from the chunks of both directions (RFC 9260).
//!
//! Every packet carries the verification tag that its receiver chose when the association was opened, so a packet with another
//! tag is not of this association and does not pass: nobody who cannot see it can end it. A restart (RFC 9260, 5.2) chooses new
//! tags while the old ones still count; they change when the cookie comes back.
//!
//! Packets are known by their first chunk, as policy knows them. Those that open and close an association may not be bundled
//! with others (RFC 9260, 6.10), and what is bundled behind a COOKIE ECHO or DATA changes no state here.

use crate::drop_reason::DropReason;
use crate::flow::entry::{Class, Side};
use crate::packet::Headers;
use crate::wire::array;

/// What tracking needs to know of a packet's first chunk.
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
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const ABORT: u8 = 6;
    const SHUTDOWN: u8 = 7;
    const SHUTDOWN_ACK: u8 = 8;
    const COOKIE_ECHO: u8 = 10;
    const COOKIE_ACK: u8 = 11;
    const SHUTDOWN_COMPLETE: u8 = 14;

    /// Of a packet. `head` is its first frame, from the Ethernet header on. `None` if it ends too early.
    #[must_use]
    pub fn of(head: &[u8], headers: &Headers) -> Option<Self> {
        let start = usize::from(headers.transport_offset);
        let tag = u32::from_be_bytes(array(head, start + 4)?);
        let [kind, flags] = array(head, start + 12)?;
        let chosen = match kind {
            Self::INIT | Self::INIT_ACK => u32::from_be_bytes(array(head, start + 16)?),
            _ => 0,
        };
        let reflected = matches!(kind, Self::ABORT | Self::SHUTDOWN_COMPLETE) && flags & 1 != 0;
        Some(Self { kind, tag, reflected, chosen })
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

/// The tags of both ends: what packets to them have to carry. 0 for none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tags {
    original: u32,
    reply: u32,
}

impl Tags {
    fn of(&mut self, side: Side) -> &mut u32 {
        match side {
            Side::Original => &mut self.original,
            Side::Reply => &mut self.reply,
        }
    }
}

/// The track of one association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpTrack {
    state: SctpState,
    tags: Tags,
    /// Those of the INIT and INIT ACK that were seen last; they count from the cookie on.
    offered: Tags,
}

impl SctpTrack {
    /// Of an association that this INIT opens.
    #[must_use]
    pub fn open(init: &Chunk) -> Self {
        let offered = Tags { original: init.chosen, reply: 0 };
        Self { state: SctpState::CookieWait, tags: Tags::default(), offered }
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
        match self.state {
            SctpState::CookieWait | SctpState::CookieEchoed => Class::Embryonic,
            SctpState::Established | SctpState::Shutdown => Class::Open,
            SctpState::Closed => Class::Closing,
        }
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
        let expected = [*self.tags.of(other), *self.offered.of(other)];
        let own = [*self.tags.of(side), *self.offered.of(side)];
        let is_one_of = |tags: [u32; 2]| chunk.tag != 0 && tags.contains(&chunk.tag);
        let fits = match chunk.kind {
            // RFC 9260, 8.5.1: the tag of the one who asks is not known yet.
            Chunk::INIT => chunk.tag == 0 && chunk.chosen != 0,
            Chunk::INIT_ACK => is_one_of([expected[1], expected[1]]) && chunk.chosen != 0,
            Chunk::COOKIE_ECHO => is_one_of(expected),
            Chunk::ABORT | Chunk::SHUTDOWN_COMPLETE if chunk.reflected => is_one_of(own),
            Chunk::ABORT => is_one_of(expected),
            _ => is_one_of([expected[0], expected[0]]),
        };
        if !fits {
            return Err(DropReason::StraySctp);
        }
        match chunk.kind {
            Chunk::INIT | Chunk::INIT_ACK => *self.offered.of(side) = chunk.chosen,
            Chunk::COOKIE_ECHO => {
                // A cookie that is sent again carries tags that count already.
                if self.offered.original != 0 && self.offered.reply != 0 {
                    self.tags = self.offered;
                }
                if self.state != SctpState::Established {
                    self.state = SctpState::CookieEchoed;
                }
            }
            Chunk::COOKIE_ACK => self.state = SctpState::Established,
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

    const DATA: u8 = 0;
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
            (Original, choosing(Chunk::INIT, 0, 11), SctpState::CookieWait),
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

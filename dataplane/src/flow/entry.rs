//! One connection.

use std::time::Duration;

use crate::clock::Instant64;
use crate::drop_reason::DropReason;
use crate::flow::closed::FlowFacts;
use crate::flow::key::{FlowKey, Heading, Tuple};
use crate::flow::sctp::{Chunk, SctpState, SctpTrack};
use crate::flow::tcp::{Segment, TcpState, TcpTrack};
use crate::packet::{Headers, PortId, Transport, protocol};
use crate::parse::Quoted;
use crate::policy::Judgement;
use crate::snapshot::Mac;

/// How far a connection has come. Decides whether it may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// It is not established: nobody has answered yet, or the handshake is not over. In a protocol that knows no connections:
    /// whoever opened it has not gone on after an answer.
    Embryonic = 0,
    /// It is established. In a protocol that knows no connections: an answer came, and then more from whoever opened it. One
    /// packet each way is not enough: forged sources are answered too, by any pod that is pinged, and do not go on.
    Open = 1,
    /// It is over, but for packets that are still on their way.
    Closing = 2,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 3;
}

/// How long a connection may be silent, by protocol and state. Defaults and names after Linux's conntrack
/// (Documentation/networking/nf_conntrack-sysctl.rst, `nf_conntrack_` left out), but for those of SCTP that are shorter there
/// than the time after which an end sends a lost packet again (RFC 9260, 16: RTO.Max is 60 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// [`TcpState::SynSent`].
    pub tcp_timeout_syn_sent: Duration,
    /// [`TcpState::SynReceived`].
    pub tcp_timeout_syn_recv: Duration,
    /// [`TcpState::Established`].
    pub tcp_timeout_established: Duration,
    /// [`TcpState::FinWait`].
    pub tcp_timeout_fin_wait: Duration,
    /// [`TcpState::CloseWait`].
    pub tcp_timeout_close_wait: Duration,
    /// [`TcpState::LastAck`].
    pub tcp_timeout_last_ack: Duration,
    /// [`TcpState::TimeWait`].
    pub tcp_timeout_time_wait: Duration,
    /// [`TcpState::Closed`].
    pub tcp_timeout_close: Duration,
    /// UDP, no answer yet.
    pub udp_timeout: Duration,
    /// UDP, both ways.
    pub udp_timeout_stream: Duration,
    /// [`SctpState::CookieWait`].
    pub sctp_timeout_cookie_wait: Duration,
    /// [`SctpState::CookieEchoed`].
    pub sctp_timeout_cookie_echoed: Duration,
    /// [`SctpState::Established`].
    pub sctp_timeout_established: Duration,
    /// [`SctpState::Shutdown`].
    pub sctp_timeout_shutdown: Duration,
    /// [`SctpState::Closed`].
    pub sctp_timeout_closed: Duration,
    /// ICMP and ICMPv6 queries.
    pub icmp_timeout: Duration,
    /// Every other protocol.
    pub generic_timeout: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            tcp_timeout_syn_sent: seconds(120),
            tcp_timeout_syn_recv: seconds(60),
            tcp_timeout_established: seconds(432_000),
            tcp_timeout_fin_wait: seconds(120),
            tcp_timeout_close_wait: seconds(60),
            tcp_timeout_last_ack: seconds(30),
            tcp_timeout_time_wait: seconds(120),
            tcp_timeout_close: seconds(10),
            udp_timeout: seconds(30),
            udp_timeout_stream: seconds(120),
            sctp_timeout_cookie_wait: seconds(65),
            sctp_timeout_cookie_echoed: seconds(65),
            sctp_timeout_established: seconds(210),
            sctp_timeout_shutdown: seconds(65),
            sctp_timeout_closed: seconds(10),
            icmp_timeout: seconds(30),
            generic_timeout: seconds(600),
        }
    }
}

impl Timeouts {
    /// That of an entry.
    pub(super) fn of(&self, flow: &Flow) -> Duration {
        match flow.progress {
            Progress::Tcp(track) => match track.state() {
                TcpState::SynSent => self.tcp_timeout_syn_sent,
                TcpState::SynReceived => self.tcp_timeout_syn_recv,
                TcpState::Established => self.tcp_timeout_established,
                TcpState::FinWait => self.tcp_timeout_fin_wait,
                TcpState::CloseWait => self.tcp_timeout_close_wait,
                TcpState::LastAck => self.tcp_timeout_last_ack,
                TcpState::TimeWait => self.tcp_timeout_time_wait,
                TcpState::Closed => self.tcp_timeout_close,
            },
            Progress::Sctp(track) => match track.state() {
                SctpState::CookieWait => self.sctp_timeout_cookie_wait,
                SctpState::CookieEchoed => self.sctp_timeout_cookie_echoed,
                SctpState::Established => self.sctp_timeout_established,
                SctpState::Shutdown => self.sctp_timeout_shutdown,
                SctpState::Closed => self.sctp_timeout_closed,
            },
            Progress::Plain { answered, .. } => match (flow.translated.protocol, answered) {
                (protocol::UDP, false) => self.udp_timeout,
                (protocol::UDP, true) => self.udp_timeout_stream,
                (protocol::ICMP | protocol::ICMPV6, _) => self.icmp_timeout,
                _ => self.generic_timeout,
            },
        }
    }
}

/// What a packet tells of its connection's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A TCP segment.
    Tcp(Segment),
    /// The first chunk of an SCTP packet.
    Sctp(Chunk),
    /// Nothing but that it is there.
    Plain,
}

impl Evidence {
    /// Of a packet. `head` is its first frame, from the Ethernet header on. `None` if it ends too early to tell.
    #[inline]
    #[must_use]
    pub fn of(head: &[u8], headers: &Headers) -> Option<Self> {
        match headers.transport {
            Transport::Tcp(flags) => Segment::of(head, headers, flags).map(Self::Tcp),
            Transport::Sctp { .. } => Chunk::of(head, headers).map(Self::Sctp),
            _ => Some(Self::Plain),
        }
    }
}

/// How far a connection has come, by protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// TCP.
    Tcp(TcpTrack),
    /// SCTP.
    Sctp(SctpTrack),
    /// Protocols that know no connections.
    Plain {
        /// A packet of the reply direction was seen.
        answered: bool,
        /// And one of the original direction after it.
        goes_on: bool,
    },
}

impl Progress {
    /// Of a connection that such a packet opens.
    #[must_use]
    pub fn open(evidence: &Evidence) -> Self {
        match evidence {
            Evidence::Tcp(syn) => Self::Tcp(TcpTrack::open(syn)),
            Evidence::Sctp(init) => Self::Sctp(SctpTrack::open(init)),
            Evidence::Plain => Self::Plain { answered: false, goes_on: false },
        }
    }

    /// Its name, without what it takes to follow it.
    #[inline]
    #[must_use]
    pub fn state(&self) -> FlowState {
        match self {
            Self::Tcp(track) => FlowState::Tcp(track.state()),
            Self::Sctp(track) => FlowState::Sctp(track.state()),
            Self::Plain { answered, goes_on } => FlowState::Plain { answered: *answered, goes_on: *goes_on },
        }
    }
}

/// How far a connection has come, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// TCP.
    Tcp(TcpState),
    /// SCTP.
    Sctp(SctpState),
    /// Protocols that know no connections.
    Plain {
        /// A packet of the reply direction was seen.
        answered: bool,
        /// The opener went on after that.
        goes_on: bool,
    },
}

impl FlowState {
    /// How far that is.
    #[inline]
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Tcp(state) => state.class(),
            Self::Sctp(state) => state.class(),
            Self::Plain { goes_on: true, .. } => Class::Open,
            Self::Plain { goes_on: false, .. } => Class::Embryonic,
        }
    }
}

/// Which of a connection's two directions a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// As the packet that opened it.
    Original,
    /// The other way.
    Reply,
}

/// How packets of one direction leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// By this port.
    pub port: PortId,
    /// From the gateway's MAC address on it.
    pub source_mac: Mac,
    /// To this one.
    pub destination_mac: Mac,
    /// Largest IP packet in bytes that may leave.
    pub mtu: u16,
}

/// The entry of a connection: four cache lines, of which the first has what every packet needs.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Flow {
    /// What finds it; never changed.
    pub key: FlowKey,
    /// When a packet of either direction was seen last.
    pub last_seen: Instant64,
    /// The snapshot it was judged under last.
    pub generation: u64,
    /// The port of the pod that it is charged to; never changed.
    pub account: PortId,
    /// The port that the opening packet came in by; replies leave by it.
    pub entry_port: PortId,
    /// The destination port that policy was asked about (0 where the protocol has none), host order.
    pub judged_port: u16,
    /// Which way the original direction goes between the key's ends.
    pub heading: Heading,
    /// How packets leave: original direction, reply direction. Good for `generation`.
    pub hops: [Hop; 2],
    /// How far it has come.
    pub progress: Progress,
    /// Identities of the pods that had the source and the destination address when it was judged; 0 for no pod.
    pub identities: [u32; 2],
    /// The original direction after translation: what is judged. Before translation it is what `key` and `heading` say.
    pub translated: Tuple,
    /// What was said of it under `generation`, or `upheld_for` generations before.
    pub judgement: Judgement,
    /// Where it came from on the link, for replies over an uplink.
    pub entry_mac: Mac,
    /// How many generations ago it was judged, if policy has said no since, and it goes on because it was open; else 0.
    pub upheld_for: u32,
    /// When it was opened.
    pub opened: Instant64,
}

impl Flow {
    /// How far it has come.
    #[inline]
    #[must_use]
    pub fn class(&self) -> Class {
        self.progress.state().class()
    }

    /// Which direction a packet goes that goes `heading` between the key's ends.
    #[inline]
    #[must_use]
    pub fn side(&self, heading: Heading) -> Side {
        if heading == self.heading { Side::Original } else { Side::Reply }
    }

    /// How packets of a direction leave.
    #[inline]
    #[must_use]
    pub fn hop(&self, side: Side) -> Hop {
        let [original, reply] = self.hops;
        match side {
            Side::Original => original,
            Side::Reply => reply,
        }
    }

    /// Takes note of a packet that matches the entry.
    ///
    /// # Errors
    /// Why its connection does not allow it. Nothing has changed then.
    #[inline]
    pub(super) fn see(&mut self, side: Side, evidence: &Evidence, now: Instant64) -> Result<(), DropReason> {
        let was_over = self.class() == Class::Closing;
        let is_alive = match (&mut self.progress, evidence) {
            (Progress::Tcp(track), Evidence::Tcp(segment)) => track.see(side, segment)?,
            (Progress::Sctp(track), Evidence::Sctp(chunk)) => {
                track.see(side, chunk)?;
                track.class() != Class::Closing
            }
            (Progress::Plain { answered, goes_on }, _) => {
                *goes_on |= *answered && side == Side::Original;
                *answered |= side == Side::Reply;
                true
            }
            // Cannot be: the protocol is part of the key.
            _ => false,
        };
        // What its ends do not say to each other does not keep it alive; nor what follows its end.
        if is_alive || self.class() == Class::Closing && !was_over {
            self.last_seen = now;
        }
        Ok(())
    }

    /// How the receiver of a side's packets is told that the connection is over: the sequence number that it expects, and the
    /// way there. `None` if it is no open TCP connection.
    #[must_use]
    pub fn farewell(&self, side: Side) -> Option<(u32, Hop)> {
        match self.progress {
            Progress::Tcp(track) => Some((track.expected_of(side)?, self.hop(side))),
            _ => None,
        }
    }

    /// What is told of it.
    #[must_use]
    pub fn facts(&self) -> FlowFacts {
        FlowFacts {
            tuple: self.translated,
            judged_port: self.judged_port,
            entry_port: self.entry_port,
            identities: self.identities,
            state: self.progress.state(),
            opened: self.opened,
            last_seen: self.last_seen,
            generation: self.generation,
            judgement: self.judgement,
            judged_under: self.generation.saturating_sub(self.upheld_for.into()),
        }
    }

    /// May an end have sent the packet that an ICMP error quotes, as far as the quote tells?
    #[must_use]
    pub fn may_have_sent(&self, side: Side, quoted: &Quoted) -> bool {
        match (self.progress, quoted.sequence) {
            (Progress::Tcp(track), Some(sequence)) => track.may_have_sent(side, sequence),
            _ => true,
        }
    }

    /// A packet that opens connections and goes this way: does it find none here that it could belong to? Then it is judged
    /// for itself, and takes the entry's place if it is admitted.
    #[inline]
    #[must_use]
    pub fn gives_way(&self, side: Side) -> bool {
        match self.progress {
            Progress::Tcp(track) => track.gives_way_to_syn(side),
            Progress::Sctp(track) => track.gives_way_to_init(),
            Progress::Plain { .. } => false,
        }
    }
}

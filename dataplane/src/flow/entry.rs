//! One connection.

use std::time::Duration;

use crate::clock::Instant64;
use crate::flow::key::{FlowKey, Heading, Tuple};
use crate::packet::{Headers, PortId, Role, TcpFlags, Transport, protocol};
use crate::policy::Judgement;
use crate::snapshot::Mac;

/// How far a connection has come. Decides how long it may be silent, and whether it may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Nobody has answered yet.
    Embryonic = 0,
    /// Packets went both ways.
    Open = 1,
    /// One end has said that it is over (FIN, RST, SHUTDOWN or ABORT).
    Closing = 2,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 3;
}

/// How long a connection may be silent, by protocol and class. Defaults and names after Linux's conntrack
/// (Documentation/networking/nf_conntrack-sysctl.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, no answer yet (`nf_conntrack_tcp_timeout_syn_sent`).
    pub tcp_syn_sent: Duration,
    /// TCP, open (`nf_conntrack_tcp_timeout_established`).
    pub tcp_established: Duration,
    /// TCP after FIN or RST (`nf_conntrack_tcp_timeout_fin_wait`).
    pub tcp_closing: Duration,
    /// UDP, no answer yet (`nf_conntrack_udp_timeout`).
    pub udp: Duration,
    /// UDP, both ways (`nf_conntrack_udp_timeout_stream`).
    pub udp_stream: Duration,
    /// SCTP, no answer yet (`nf_conntrack_sctp_timeout_cookie_wait`).
    pub sctp_opening: Duration,
    /// SCTP, open (`nf_conntrack_sctp_timeout_established`).
    pub sctp_established: Duration,
    /// SCTP after SHUTDOWN or ABORT (`nf_conntrack_sctp_timeout_closed`).
    pub sctp_closing: Duration,
    /// ICMP and ICMPv6 queries (`nf_conntrack_icmp_timeout`).
    pub icmp: Duration,
    /// Every other protocol (`nf_conntrack_generic_timeout`).
    pub generic: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            tcp_syn_sent: seconds(120),
            tcp_established: seconds(432_000),
            tcp_closing: seconds(120),
            udp: seconds(30),
            udp_stream: seconds(120),
            sctp_opening: seconds(3),
            sctp_established: seconds(210),
            sctp_closing: seconds(10),
            icmp: seconds(30),
            generic: seconds(600),
        }
    }
}

impl Timeouts {
    /// That of an entry.
    pub(super) fn of(&self, flow: &Flow) -> Duration {
        match (flow.original.protocol, flow.class()) {
            (protocol::TCP, Class::Embryonic) => self.tcp_syn_sent,
            (protocol::TCP, Class::Open) => self.tcp_established,
            (protocol::TCP, Class::Closing) => self.tcp_closing,
            (protocol::UDP, Class::Embryonic) => self.udp,
            (protocol::UDP, _) => self.udp_stream,
            (protocol::SCTP, Class::Embryonic) => self.sctp_opening,
            (protocol::SCTP, Class::Open) => self.sctp_established,
            (protocol::SCTP, Class::Closing) => self.sctp_closing,
            (protocol::ICMP | protocol::ICMPV6, _) => self.icmp,
            _ => self.generic,
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

/// The entry of a connection.
#[derive(Debug, Clone)]
pub struct Flow {
    /// What finds it; never changed.
    pub key: FlowKey,
    /// Which way the original direction goes between the key's ends.
    pub heading: Heading,
    /// The original direction before translation.
    pub original: Tuple,
    /// The original direction after translation: what is judged.
    pub translated: Tuple,
    /// The destination port that policy was asked about (0 where the protocol has none), host order.
    pub judged_port: u16,
    /// Identities of the pods that had the source and the destination address when it was judged; 0 for no pod.
    pub identities: [u32; 2],
    /// The port that the opening packet came in by; replies leave by it.
    pub entry_port: PortId,
    /// Where it came from on the link, for replies over an uplink.
    pub entry_mac: Mac,
    /// The snapshot it was judged under last.
    pub generation: u64,
    /// What was said then.
    pub judgement: Judgement,
    /// How packets leave: original direction, reply direction. Good for `generation`.
    pub hops: [Hop; 2],
    /// When a packet of either direction was seen last.
    pub last_seen: Instant64,
    /// A packet of the reply direction was seen.
    pub answered: bool,
    /// An end said that it is over.
    pub ended: bool,
}

impl Flow {
    /// How far it has come.
    #[inline]
    #[must_use]
    pub fn class(&self) -> Class {
        match (self.ended, self.answered) {
            (true, _) => Class::Closing,
            (false, true) => Class::Open,
            (false, false) => Class::Embryonic,
        }
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

    /// Takes note of a packet that goes through.
    #[inline]
    pub fn see(&mut self, side: Side, headers: &Headers, now: Instant64) {
        self.last_seen = now;
        self.answered |= side == Side::Reply;
        self.ended |= ends(headers);
    }

    /// May this packet, which matches the entry, only be judged for itself? It opens a connection of its own: the other way,
    /// or over one that is closing.
    #[inline]
    #[must_use]
    pub fn is_superseded_by(&self, side: Side, headers: &Headers) -> bool {
        headers.role() == Role::Any
            && matches!(headers.transport, Transport::Tcp(_) | Transport::Sctp { .. })
            && (side == Side::Reply || self.ended)
    }
}

/// Does this packet say that its connection is over?
#[inline]
fn ends(headers: &Headers) -> bool {
    const ABORT: u8 = 6;
    const SHUTDOWN: u8 = 7;
    match headers.transport {
        Transport::Tcp(flags) => flags.0 & (TcpFlags::FIN | TcpFlags::RST) != 0,
        Transport::Sctp { chunk } => matches!(chunk, ABORT | SHUTDOWN),
        _ => false,
    }
}

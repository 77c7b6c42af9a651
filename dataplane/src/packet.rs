//! A packet on its way through a worker: its frames, and what was found out about it.
//!
//! Guarantees: [`Headers`] are written once, by [`crate::parse`], and describe the bytes as they came in;
//! every offset in them was checked to lie inside the head frame. The [`ChecksumState`] is decided once, before
//! anything is rewritten, and travels with the packet. The ingress port belongs to the packet, not to the
//! socket that brought it, so that one socket can bring the packets of several ports.
//!
//! What breaks if changed: `Headers` fill 64 bytes, a cache line, because batches of them are walked stage by
//! stage; a test holds the size.

use crate::address::Address;
use af_xdp::FrameChain;
use std::fmt;
use std::num::NonZeroU16;

/// A port of the gateway: its place in the snapshot's table of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// A worker: its place in the engine's list of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PortKind {
    /// One pod, at the other end of a veth pair.
    Pod,
    /// The node's host stack, at the other end of a veth pair of Podgate's own.
    Host,
    /// The outside, through a network card.
    Uplink,
}

impl PortKind {
    /// Every kind, in the order of [`PortKind::index`].
    pub const ALL: [PortKind; 3] = [PortKind::Pod, PortKind::Host, PortKind::Uplink];
    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in arrays of [`PortKind::COUNT`] elements.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Name in metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            PortKind::Pod => "pod",
            PortKind::Host => "host",
            PortKind::Uplink => "uplink",
        }
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// IP protocol numbers that the fast path knows by name.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// Internet group management, IPv4 only.
    pub const IGMP: u8 = 2;
    /// Transmission control.
    pub const TCP: u8 = 6;
    /// User datagram.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Stream control transmission.
    pub const SCTP: u8 = 132;
}

/// Length of an Ethernet header without VLAN tag; ports are untagged, so the IP header always starts here.
pub const ETHERNET_LEN: usize = 14;

/// The flag byte of a TCP header (CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// Are all flags of `mask` set?
    pub const fn has(self, mask: u8) -> bool {
        self.0 & mask == mask
    }

    /// SYN without ACK, RST and FIN: the only segment that opens a connection.
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What the transport header says beyond protocol and ports. The protocol number alone decides which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP. Sequence and acknowledgement number are at `transport_offset` + 4 and + 8; at least 20 bytes of
    /// header are in the head frame, the options perhaps not.
    Tcp(TcpFlags),
    /// UDP.
    Udp,
    /// SCTP, with the type of its first chunk (1 = INIT, the only one that opens an association).
    Sctp {
        /// Type of the first chunk.
        chunk: u8,
    },
    /// An ICMP message that is asked or answered under an identifier: echo and timestamp.
    IcmpQuery {
        /// Is it the answer?
        reply: bool,
        /// Type of the request (also in the reply): 8 or 13, for ICMPv6 128.
        request: u8,
        /// Identifier, host order.
        identifier: u16,
    },
    /// An ICMP error. [`crate::parse::quoted`] says about which packet; the parser has checked that it does.
    IcmpError,
    /// Any other ICMP message (never neighbour discovery, which is not an ordinary packet here).
    IcmpOther {
        /// Its type.
        kind: u8,
    },
    /// Any other protocol, taken as a whole.
    Other,
    /// A fragment later than the first: it has no transport header, and no ports. What is at `transport_offset` is data.
    Fragment,
}

/// Which piece of its datagram a fragment is. 8 bytes, also as an `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// What tells datagrams of the same two ends apart, host order. 16 bits for IPv4.
    pub identification: u32,
    /// Offset of the first byte, whose lowest bit, as offsets are multiples of 8, says that more fragments follow.
    start_and_more: u16,
    end: NonZeroU16,
}

impl Fragment {
    /// The `length` bytes from `start` on, of a datagram that can have `most` bytes (its headers come before them, and all
    /// together are 65535 at most). `None` if no fragment can be so: it is empty, ends too late or begins at no multiple of 8,
    /// or more fragments follow and the next one could not begin at a multiple of 8.
    pub fn new(identification: u32, start: u16, length: usize, more: bool, most: usize) -> Option<Self> {
        let end = usize::from(start) + length;
        if length == 0 || end > most || !start.is_multiple_of(8) || (more && !end.is_multiple_of(8)) {
            return None;
        }
        let end = u16::try_from(end).ok().and_then(NonZeroU16::new)?;
        Some(Self { identification, start_and_more: start | u16::from(more), end })
    }

    /// Where its first byte is in the datagram, behind the IP header: a multiple of 8.
    pub const fn start(&self) -> u16 {
        self.start_and_more & !7
    }

    /// Where the byte after its last one is.
    pub const fn end(&self) -> u16 {
        self.end.get()
    }

    /// Is it the piece at the end of the datagram?
    pub const fn is_last(&self) -> bool {
        self.start_and_more & 1 == 0
    }

    /// Is it the piece at the begin, which has the transport header?
    pub const fn is_first(&self) -> bool {
        self.start() == 0
    }
}

/// Which part a packet can play in a connection, as far as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It may open a connection or go either way in an open one.
    Any,
    /// It may go either way, but only in a connection that exists (TCP without SYN, SCTP other than INIT).
    Established,
    /// It always is or starts the original direction: a request. Were it to match a connection in its reply
    /// direction, that would be by a chance of identifiers, and it must be judged for itself.
    Request,
    /// It always is an answer: it may never open a connection, nor go in an original direction.
    Reply,
    /// It belongs to no connection of its own but to the one it quotes.
    Related,
}

/// What the parser found in a packet. 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Source address; never unspecified, loopback, multicast or IPv4-mapped.
    pub source: Address,
    /// Destination address; never unspecified, loopback, multicast, 255.255.255.255 or IPv4-mapped.
    pub destination: Address,
    /// Source port, host order; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port, host order; 0 where the protocol has none. This is what a policy asks for.
    pub destination_port: u16,
    /// IP protocol number, for IPv6 after the extension headers.
    pub protocol: u8,
    /// TTL or hop limit as it came in, 0 to 255.
    pub hop_limit: u8,
    /// Where the transport header starts, counted from the start of the frame.
    pub transport_offset: u16,
    /// Length of the packet in bytes from the start of the frame to the end of the IP packet; the frame may
    /// be longer by padding.
    pub packet_len: u32,
    /// What the transport header says.
    pub transport: Transport,
    /// For a fragment, which one it is. The transport header is that of the whole datagram then, and only the first
    /// fragment has it.
    pub fragment: Option<Fragment>,
}

impl Headers {
    /// The two numbers that tell connections between the same addresses apart, as (source side, destination
    /// side), host order: the ports where there are any, for ICMP queries identifier and type, arranged so that
    /// an answer's pair is the reverse of its request's. Never for a policy.
    pub const fn flow_ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::IcmpQuery { reply: false, request, identifier } => (identifier, request as u16),
            Transport::IcmpQuery { reply: true, request, identifier } => (request as u16, identifier),
            Transport::IcmpOther { kind } => (kind as u16, 0),
            _ => (self.source_port, self.destination_port),
        }
    }

    /// Which part the packet can play, as far as it says itself.
    pub const fn role(&self) -> Role {
        match self.transport {
            Transport::Tcp(flags) => {
                if flags.opens() {
                    Role::Any
                } else {
                    Role::Established
                }
            }
            Transport::Sctp { chunk } => {
                if chunk == Self::SCTP_INIT {
                    Role::Any
                } else {
                    Role::Established
                }
            }
            Transport::Udp | Transport::Other => Role::Any,
            Transport::IcmpQuery { reply, .. } => {
                if reply {
                    Role::Reply
                } else {
                    Role::Request
                }
            }
            Transport::IcmpOther { .. } => Role::Request,
            Transport::IcmpError => Role::Related,
            // It opens nothing. Workers go by the datagram's first fragment.
            Transport::Fragment => Role::Established,
        }
    }

    /// Is it a fragment other than the first one of its datagram?
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.transport, Transport::Fragment)
    }

    /// Chunk type that opens an SCTP association.
    pub const SCTP_INIT: u8 = 1;

    /// Is it an IPv6 packet?
    pub const fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }
}

/// What is in the packet's layer-4 checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumState {
    /// Only the pseudo-header's sum (for SCTP: nothing): the sender left the rest to the device, and the
    /// egress must complete it.
    Partial,
    /// A finished checksum, right or wrong. It is neither verified nor repaired.
    Complete,
    /// None: the protocol has no checksum known here, or UDP says it sent none. Or one that is none of the gateway's: a
    /// fragment has at most a part of what the checksum covers, so its sender has finished it.
    Absent,
}

/// A packet in a worker's hands: it owns its frames.
#[derive(Debug)]
pub struct Packet {
    /// The 1 to 18 frames that hold the bytes; the head frame starts with the Ethernet header.
    pub frames: FrameChain,
    /// What was found in them.
    pub headers: Headers,
    /// Whether the layer-4 checksum still has to be completed.
    pub checksum: ChecksumState,
    /// The port it came in by.
    pub ingress: PortId,
    /// What is behind that port.
    pub ingress_kind: PortKind,
    /// The snapshot under which the worker that received it looked at it.
    pub generation: u64,
}

impl Packet {
    /// Cuts off the padding behind the packet (short Ethernet frames are filled up). A device that completes a
    /// checksum sums to the end of the frame, so padding that is not zero would spoil it. A packet of several
    /// buffers has none and stays as it is.
    #[inline]
    pub fn trim_padding(&mut self) {
        let packet_len = self.headers.packet_len as usize;
        let (offset, len) = (self.frames.head().offset(), self.frames.head().len());
        if self.frames.count() == 1 && packet_len < len {
            // Never refused: a window that gets shorter stays in its chunk.
            let _ = self.frames.set_head_window(offset, packet_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocol: u8, transport: Transport) -> Headers {
        Headers {
            source: Address::v4(0x0a00_0001),
            destination: Address::v4(0x0a00_0002),
            source_port: 0,
            destination_port: 0,
            protocol,
            hop_limit: 64,
            transport_offset: 34,
            packet_len: 60,
            transport,
            fragment: None,
        }
    }

    #[test]
    fn headers_fit_a_cache_line() {
        assert!(size_of::<Headers>() <= 64, "{} bytes", size_of::<Headers>());
    }

    #[test]
    fn a_fragment_is_a_piece_that_can_be() {
        assert_eq!(size_of::<Option<Fragment>>(), 8);
        let new = |start, length, more| Fragment::new(7, start, length, more, 65_515);
        let middle = new(1480, 1480, true).unwrap();
        assert_eq!(
            (middle.start(), middle.end(), middle.is_last(), middle.is_first()),
            (1480, 2960, false, false)
        );
        let last = new(2960, 3, false).unwrap();
        assert_eq!((last.start(), last.end(), last.is_last()), (2960, 2963, true));
        assert!(new(0, 8, true).unwrap().is_first());
        assert!(new(65_512, 3, false).is_some());
        for (start, length, more) in [
            (0, 0, true),
            (8, 0, false),
            (0, 9, true),
            (65_512, 4, false),
            (65_528, 100, false),
            (4, 8, true),
        ] {
            assert_eq!(new(start, length, more), None, "{start} {length} {more}");
        }
    }

    #[test]
    fn only_a_pure_syn_opens() {
        assert!(TcpFlags(TcpFlags::SYN).opens());
        assert!(TcpFlags(TcpFlags::SYN | 0xc0 | 0x28).opens(), "ECN, PSH and URG do not matter");
        for bad in [0, TcpFlags::ACK, TcpFlags::RST, TcpFlags::FIN] {
            assert!(!TcpFlags(bad).opens());
            assert!(bad == 0 || !TcpFlags(bad | TcpFlags::SYN).opens());
        }
    }

    #[test]
    fn an_echo_reply_reverses_its_request_and_nothing_else() {
        let request = headers(1, Transport::IcmpQuery { reply: false, request: 8, identifier: 77 });
        let reply = headers(1, Transport::IcmpQuery { reply: true, request: 8, identifier: 77 });
        let (a, b) = request.flow_ports();
        assert_eq!(reply.flow_ports(), (b, a));
        assert_ne!(request.flow_ports(), (b, a), "a request the other way is a connection of its own");
        assert_eq!((request.role(), reply.role()), (Role::Request, Role::Reply));
    }

    #[test]
    fn padding_is_cut_off() {
        let mut pool = af_xdp::Region::new(4).unwrap().1.pool(4);
        for (length, expected) in [(100, 60), (60, 60), (5000, 5000)] {
            let mut packet = Packet {
                frames: pool.copy_in(&vec![7; length]).unwrap(),
                headers: headers(17, Transport::Udp),
                checksum: ChecksumState::Complete,
                ingress: PortId(1),
                ingress_kind: PortKind::Pod,
                generation: 1,
            };
            packet.trim_padding();
            assert_eq!(packet.frames.total_len(), expected);
            pool.put_chain(packet.frames);
        }
    }
}

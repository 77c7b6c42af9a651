//! From bytes to [`Parsed`]: what a frame is, or the named reason why it goes no further.
//!
//! # What it guarantees
//! * Every packet that leaves here as [`Parsed::Ip`] was understood to the end: link header, IP header and
//!   checksum, every option and extension header up to the transport header, and the ports or types a policy
//!   asks for. Whatever could make its receiver see another packet than the one judged here is dropped by name:
//!   source routes, routing headers, home addresses, wrong lengths.
//! * The first fragment of a datagram is understood as far as a whole packet: all headers up to the transport
//!   header are in it, whole (RFC 1858, RFC 7112), or it is dropped. Later ones say that they are
//!   ([`Transport::Fragment`]) and which piece ([`crate::packet::Fragment`]); a piece that cannot be is dropped.
//!   Whether the pieces fit each other is found out where they meet, in [`crate::fragment`].
//! * All headers lie in the head frame, and every offset in [`Headers`] inside it.
//! * No input panics, and the answer depends on the bytes of the packet alone (padding after it is ignored).
//!
//! # How
//! [`general`] reads any frame, with etherparse. [`parse`] first tries [`plain`], a hand-made path for the
//! packets that are nearly all packets: IPv4 without options or IPv6 without extension headers, unicast, TCP or
//! UDP. It only ever answers "this one, and these are its headers" or "not mine", and a fuzz test
//! (`tests/fuzz_parse.rs`) holds that the two paths agree on every input it answers for.
//!
//! # What breaks if changed
//! A looser check here is a hole in the policy: the judge sees only what this module says. The order of checks
//! decides under which name a packet with several faults is counted, nothing else.
//!
//! # Choices
//! AH, ESP, HIP, mobility headers and every tunnel are protocols of their own without ports, so only rules
//! without ports admit them; what is inside is not looked at. 240.0.0.0/4 is unicast, as clouds use it so.
//!
//! An atomic IPv6 fragment (offset 0, no more to come) is a whole packet, as RFC 8200 says, for every receiver takes
//! it alone and puts it together with nothing else (RFC 6946). RFC 8021 tells senders not to make any; translators
//! still do. A fragment inside a fragment is nobody's. ICMP errors are small enough never to be fragmented (RFC 1812,
//! 4.3.2.3; RFC 4443, 2.4(c)): pieces of one are dropped.

#![deny(clippy::indexing_slicing)]

use crate::drop_reason::DropReason;
use crate::packet::{ETHERNET_LEN, Fragment, Headers, TcpFlags, Transport, protocol};
use crate::wire::{array, u16_at};
use etherparse::checksum::Sum16BitWords;
use etherparse::{
    EtherType, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, TcpHeaderSlice, UdpHeaderSlice, err,
};
use plain::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod plain;
pub use plain::plain;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A unicast IP packet that can be judged and forwarded, or is for the gateway itself.
    Ip(Headers),
    /// An ARP frame; [`crate::neighbor::answer_arp`] looks closer.
    Arp,
    /// A neighbour solicitation or advertisement; [`crate::neighbor::answer_nd`] looks closer.
    NeighborDiscovery,
}

/// The packet that an ICMP error is about, as far as the error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source of the quoted packet: also the destination of the error.
    pub source: IpAddr,
    /// Destination of the quoted packet.
    pub destination: IpAddr,
    /// IP protocol number, for IPv6 after the extension headers.
    pub protocol: u8,
    /// What [`Headers::flow_ports`] of the quoted packet says.
    pub flow_ports: (u16, u16),
    /// Sequence number of a TCP segment, host order.
    pub sequence: Option<u32>,
}

/// Most IPv6 extension headers before the transport header. Two are common, four are all that RFC 8200
/// recommends; more than eight is somebody hiding something.
const MAX_EXTENSIONS: usize = 8;

/// Ethernet and IPv6 header together.
const IPV6_END: usize = ETHERNET_LEN + 40;

/// Reads a frame. `head` is its first buffer, `total_len` the length of all its buffers together (the same, for
/// a packet of one buffer). Use the answer where it is: to copy its 64 bytes at once costs as much as parsing.
///
/// # Errors
/// Why the frame goes no further: it is not one to forward, or not well-formed.
#[inline]
pub fn parse(head: &[u8], total_len: usize) -> Result<Parsed, DropReason> {
    if let Some((link, _)) = head.split_first_chunk::<ETHERNET_LEN>() {
        // Written out per family, not through `plain`: so the headers are built in place and not copied.
        match plain::family(link) {
            Some(Family::V4) => {
                if let Some(headers) = plain::v4(head, total_len) {
                    return Ok(Parsed::Ip(headers));
                }
            }
            Some(Family::V6) => {
                if let Some(headers) = plain::v6(head, total_len) {
                    return Ok(Parsed::Ip(headers));
                }
            }
            None => {}
        }
    }
    general(head, total_len)
}

/// The reference: reads any frame, with etherparse. Same arguments and answers as [`parse`].
///
/// # Errors
/// As [`parse`].
pub fn general(head: &[u8], total_len: usize) -> Result<Parsed, DropReason> {
    let total_len = total_len.max(head.len());
    let frame = Frame { head, total_len };
    let link = Ethernet2HeaderSlice::from_slice(head).map_err(|_| DropReason::Truncated)?;
    let [first, ..] = link.source();
    if first & 1 != 0 {
        return Err(DropReason::GroupSource);
    }
    match link.ether_type() {
        EtherType::IPV4 => ipv4(&frame, link.destination()).map(Parsed::Ip),
        EtherType::IPV6 => ipv6(&frame, link.destination()),
        EtherType::ARP => Ok(Parsed::Arp),
        EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
            Err(DropReason::Vlan)
        }
        _ => Err(DropReason::EtherType),
    }
}

/// What may be read: the head's bytes, of a frame that may go on in further buffers.
struct Frame<'a> {
    head: &'a [u8],
    total_len: usize,
}

impl<'a> Frame<'a> {
    /// The head's bytes from `from` to `end` (an offset in the frame), and how many bytes that would be with
    /// all buffers.
    fn part(&self, from: usize, end: usize) -> (&'a [u8], usize) {
        let bytes = self.head.get(from..end.min(self.head.len())).unwrap_or_default();
        (bytes, end.saturating_sub(from))
    }

    /// Why a header is not whole: the packet ends (`short`), or only its first buffer does.
    fn cut(&self, short: DropReason, end: usize) -> DropReason {
        if end > self.head.len() { DropReason::HeadersSplit } else { short }
    }
}

/// What the IP header says.
struct Network {
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    protocol: u8,
    transport_offset: usize,
    packet_len: usize,
    fragment: Option<Fragment>,
}

/// Not for one receiver by its link address?
fn group(destination: [u8; 6]) -> Result<(), DropReason> {
    match destination {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Err(DropReason::Broadcast),
        [first, ..] if first & 1 != 0 => Err(DropReason::Multicast),
        _ => Ok(()),
    }
}

fn ipv4(frame: &Frame<'_>, link_destination: [u8; 6]) -> Result<Headers, DropReason> {
    use err::ipv4::HeaderSliceError::{Content, Len};
    let (bytes, _) = frame.part(ETHERNET_LEN, frame.total_len);
    let ip = Ipv4HeaderSlice::from_slice(bytes).map_err(|error| match error {
        Len(_) => frame.cut(DropReason::Truncated, frame.total_len),
        Content(_) => DropReason::Ipv4Header,
    })?;
    let header_len = ip.slice().len();
    let length = usize::from(ip.total_len());
    if length < header_len {
        return Err(DropReason::Ipv4Length);
    }
    let packet_len = ETHERNET_LEN + length;
    if packet_len > frame.total_len {
        return Err(DropReason::Truncated);
    }
    if Sum16BitWords::new().add_slice(ip.slice()).ones_complement() != 0 {
        return Err(DropReason::Ipv4Checksum);
    }
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    if ip.protocol().0 == protocol::IGMP {
        return Err(DropReason::Igmp);
    }
    if destination.is_broadcast() {
        return Err(DropReason::Broadcast);
    }
    if destination.is_multicast() {
        return Err(DropReason::Multicast);
    }
    group(link_destination)?;
    let martian = |address: Ipv4Addr| {
        let [first, ..] = address.octets();
        first == 0 || first == 127
    };
    if martian(source) || martian(destination) || source.is_multicast() || source.is_broadcast() {
        return Err(DropReason::MartianAddress);
    }
    ipv4_options(ip.options())?;
    let mut fragment = None;
    if ip.is_fragmenting_payload() {
        let piece = Fragment::new(
            u32::from(ip.identification()),
            ip.fragments_offset().byte_offset(),
            length - header_len,
            ip.more_fragments(),
            usize::from(u16::MAX) - header_len,
        );
        fragment = Some(piece.ok_or(DropReason::FragmentInvalid)?);
    }
    transport(
        frame,
        Network {
            source: source.into(),
            destination: destination.into(),
            hop_limit: ip.ttl(),
            protocol: ip.protocol().0,
            transport_offset: ETHERNET_LEN + header_len,
            packet_len,
            fragment,
        },
    )
}

/// Well-formed, and none that routes by the source's wish?
fn ipv4_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    while let Some((&kind, after_kind)) = options.split_first() {
        options = match kind {
            END => return Ok(()),
            NOTHING => after_kind,
            LOOSE_ROUTE | STRICT_ROUTE => return Err(DropReason::Ipv4Options),
            _ => {
                let length = after_kind.first().copied().unwrap_or(0);
                // The length counts kind and itself.
                let rest = if length >= 2 { options.get(usize::from(length)..) } else { None };
                rest.ok_or(DropReason::Ipv4Options)?
            }
        };
    }
    Ok(())
}

fn ipv6(frame: &Frame<'_>, link_destination: [u8; 6]) -> Result<Parsed, DropReason> {
    use err::ipv6::HeaderSliceError::{Content, Len};
    let (bytes, _) = frame.part(ETHERNET_LEN, frame.total_len);
    let ip = Ipv6HeaderSlice::from_slice(bytes).map_err(|error| match error {
        Len(_) => frame.cut(DropReason::Truncated, frame.total_len),
        Content(_) => DropReason::Ipv6Header,
    })?;
    let length = usize::from(ip.payload_length());
    let next = ip.next_header().0;
    if length == 0 && next == HOP_BY_HOP {
        return Err(DropReason::Ipv6Length); // a jumbogram, whose length is in an option
    }
    let packet_len = IPV6_END + length;
    if packet_len > frame.total_len {
        return Err(DropReason::Truncated);
    }
    let Chain { number, transport_offset, fragment } = extensions(frame, next, packet_len)?;
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    if number == protocol::ICMPV6 && fragment.is_none_or(|fragment| fragment.is_first()) {
        let kind = frame.part(transport_offset, packet_len).0.first().copied();
        match kind {
            Some(130 | 131 | 132 | 143) => return Err(DropReason::Mld),
            Some(133) => return Err(DropReason::RouterSolicitation),
            Some(134) => return Err(DropReason::RouterAdvertisement),
            // Neighbour discovery with an extension header is nobody's: the answering code expects none, and with a
            // fragment header it must not be believed (RFC 6980).
            Some(135 | 136) if transport_offset == IPV6_END => return Ok(Parsed::NeighborDiscovery),
            Some(135 | 136) => return Err(DropReason::NdInvalid),
            Some(137) => return Err(DropReason::IcmpRedirect),
            _ => {}
        }
    }
    if destination.is_multicast() {
        return Err(DropReason::Multicast);
    }
    group(link_destination)?;
    let martian = |address: Ipv6Addr| {
        address.is_unspecified() || address.is_loopback() || address.to_ipv4_mapped().is_some()
    };
    if martian(source) || martian(destination) || source.is_multicast() {
        return Err(DropReason::MartianAddress);
    }
    transport(
        frame,
        Network {
            source: source.into(),
            destination: destination.into(),
            hop_limit: ip.hop_limit(),
            protocol: number,
            transport_offset,
            packet_len,
            fragment,
        },
    )
    .map(Parsed::Ip)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What the extension headers lead to.
struct Chain {
    /// The transport header's number.
    number: u8,
    /// Its offset. For a later fragment, where its data begin.
    transport_offset: usize,
    fragment: Option<Fragment>,
}

/// Walks the extension headers that start with number `next`.
fn extensions(frame: &Frame<'_>, mut next: u8, packet_len: usize) -> Result<Chain, DropReason> {
    let mut offset = IPV6_END;
    let mut fragment = None;
    let mut had_fragment_header = false;
    for position in 0..=MAX_EXTENSIONS {
        match next {
            // Allowed directly after the IPv6 header only (RFC 8200, 4.1).
            HOP_BY_HOP if position > 0 => return Err(DropReason::Ipv6Extensions),
            FRAGMENT if had_fragment_header => return Err(DropReason::Ipv6Extensions),
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS if position < MAX_EXTENSIONS => {}
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS => return Err(DropReason::Ipv6Extensions),
            _ => return Ok(Chain { number: next, transport_offset: offset, fragment }),
        }
        let (bytes, _) = frame.part(offset, packet_len);
        if next == FRAGMENT {
            let header = Ipv6FragmentHeaderSlice::from_slice(bytes)
                .map_err(|_| frame.cut(DropReason::Ipv6Extensions, packet_len))?;
            let before = offset - IPV6_END;
            offset += header.slice().len();
            next = header.next_header().0;
            had_fragment_header = true;
            if header.is_fragmenting_payload() {
                let piece = Fragment::new(
                    header.identification(),
                    header.fragment_offset().byte_offset(),
                    packet_len - offset,
                    header.more_fragments(),
                    usize::from(u16::MAX) - before,
                )
                .ok_or(DropReason::FragmentInvalid)?;
                fragment = Some(piece);
                if !piece.is_first() {
                    return Ok(Chain { number: next, transport_offset: offset, fragment });
                }
            }
            continue;
        }
        let short = if fragment.is_some() { DropReason::FragmentTiny } else { DropReason::Ipv6Extensions };
        let header = Ipv6RawExtHeaderSlice::from_slice(bytes).map_err(|_| frame.cut(short, packet_len))?;
        if next == ROUTING {
            // [next header, length, type, segments left]: with segments left, the destination is yet to change.
            if header.slice().get(3).copied() != Some(0) {
                return Err(DropReason::Ipv6Routing);
            }
        } else {
            ipv6_options(header.slice().get(2..).unwrap_or_default())?;
        }
        next = header.next_header().0;
        offset += header.slice().len();
    }
    Err(DropReason::Ipv6Extensions)
}

/// Options of a hop-by-hop or destination header: well-formed, and none that swaps the source address?
fn ipv6_options(mut options: &[u8]) -> Result<(), DropReason> {
    const PAD1: u8 = 0;
    const JUMBO: u8 = 0xc2;
    const HOME_ADDRESS: u8 = 0xc9;
    while let Some((&kind, after_kind)) = options.split_first() {
        options = match kind {
            PAD1 => after_kind,
            JUMBO => return Err(DropReason::Ipv6Length),
            HOME_ADDRESS => return Err(DropReason::Ipv6Routing),
            _ => {
                // The length counts neither kind nor itself.
                let (&length, data) = after_kind.split_first().ok_or(DropReason::Ipv6Extensions)?;
                data.get(usize::from(length)..).ok_or(DropReason::Ipv6Extensions)?
            }
        };
    }
    Ok(())
}

fn transport(frame: &Frame<'_>, ip: Network) -> Result<Headers, DropReason> {
    let (bytes, length) = frame.part(ip.transport_offset, ip.packet_len);
    let is_first = ip.fragment.is_some_and(|fragment| fragment.is_first());
    let short = if is_first { DropReason::FragmentTiny } else { DropReason::TransportHeader };
    let cut = || frame.cut(short, ip.packet_len);
    let (mut source_port, mut destination_port) = (0, 0);
    let transport = match (ip.protocol, ip.source) {
        // It would be put over the flags of the header that the first fragment showed (RFC 3128).
        (protocol::TCP, _) if ip.fragment.is_some_and(|fragment| fragment.start() == 8) => {
            return Err(DropReason::FragmentTiny);
        }
        _ if ip.fragment.is_some() && !is_first => Transport::Fragment,
        (protocol::TCP, _) => {
            use err::tcp::HeaderSliceError::{Content, Len};
            let tcp = TcpHeaderSlice::from_slice(bytes).map_err(|error| match error {
                Len(_) => cut(),
                Content(_) => DropReason::TransportHeader,
            })?;
            (source_port, destination_port) = (tcp.source_port(), tcp.destination_port());
            Transport::Tcp(TcpFlags(tcp.slice().get(13).copied().unwrap_or(0)))
        }
        (protocol::UDP, _) => {
            let udp = UdpHeaderSlice::from_slice(bytes).map_err(|_| cut())?;
            let udp_len = usize::from(udp.length());
            // Shorter than the packet is legal, and receivers ignore the rest. A first fragment has only a part.
            if udp_len < 8 || (udp_len > length && !is_first) {
                return Err(DropReason::TransportHeader);
            }
            (source_port, destination_port) = (udp.source_port(), udp.destination_port());
            Transport::Udp
        }
        (protocol::SCTP, _) => {
            // Common header (ports, tag, CRC32c), then the first chunk's type.
            let header: [u8; 16] = array(bytes, 0).ok_or_else(cut)?;
            (source_port, destination_port) =
                (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
            Transport::Sctp { chunk: header[12] }
        }
        (protocol::ICMP, IpAddr::V4(_)) => {
            let icmp = Icmpv4Slice::from_slice(bytes).map_err(|_| cut())?;
            icmp_v4(icmp.type_u8(), icmp.bytes5to8())?
        }
        (protocol::ICMPV6, IpAddr::V6(_)) => {
            let icmp = Icmpv6Slice::from_slice(bytes).map_err(|_| cut())?;
            icmp_v6(icmp.type_u8(), icmp.bytes5to8())
        }
        _ => Transport::Other,
    };
    let headers = Headers {
        source: ip.source.into(),
        destination: ip.destination.into(),
        source_port,
        destination_port,
        protocol: ip.protocol,
        hop_limit: ip.hop_limit,
        transport_offset: u16::try_from(ip.transport_offset).map_err(|_| DropReason::HeadersSplit)?,
        packet_len: ip.packet_len as u32,
        transport,
        fragment: ip.fragment,
    };
    if transport == Transport::IcmpError {
        if is_first {
            return Err(DropReason::Fragment);
        }
        // An error is told to the one who sent the quoted packet, and to nobody else.
        quoted(frame.head, &headers)
            .filter(|quoted| headers.destination == quoted.source.into())
            .ok_or(DropReason::IcmpQuote)?;
    }
    Ok(headers)
}

fn icmp_v4(kind: u8, rest: [u8; 4]) -> Result<Transport, DropReason> {
    let identifier = u16::from_be_bytes([rest[0], rest[1]]);
    Ok(match kind {
        8 => Transport::IcmpQuery { reply: false, request: 8, identifier },
        0 => Transport::IcmpQuery { reply: true, request: 8, identifier },
        13 => Transport::IcmpQuery { reply: false, request: 13, identifier },
        14 => Transport::IcmpQuery { reply: true, request: 13, identifier },
        // Unreachable, source quench, time exceeded, parameter problem.
        3 | 4 | 11 | 12 => Transport::IcmpError,
        5 => return Err(DropReason::IcmpRedirect),
        kind => Transport::IcmpOther { kind },
    })
}

fn icmp_v6(kind: u8, rest: [u8; 4]) -> Transport {
    let identifier = u16::from_be_bytes([rest[0], rest[1]]);
    match kind {
        128 => Transport::IcmpQuery { reply: false, request: 128, identifier },
        129 => Transport::IcmpQuery { reply: true, request: 128, identifier },
        // RFC 4443, 2.1: errors are those below 128.
        0..=127 => Transport::IcmpError,
        kind => Transport::IcmpOther { kind },
    }
}

/// The packet that an ICMP error quotes. `head` is the head frame, `headers` what [`parse`] said of it; `None`
/// if it is no error, or quotes too little to tell a connection by.
pub fn quoted(head: &[u8], headers: &Headers) -> Option<Quoted> {
    if headers.transport != Transport::IcmpError {
        return None;
    }
    let start = usize::from(headers.transport_offset) + 8;
    let end = head.len().min(headers.packet_len as usize);
    let quote = head.get(start..end)?;
    let (source, destination, number, transport) = if headers.is_ipv6() {
        let ip = Ipv6HeaderSlice::from_slice(quote).ok()?;
        let (number, transport) = quoted_extensions(ip.next_header().0, quote.get(40..)?)?;
        (IpAddr::V6(ip.source_addr()), IpAddr::V6(ip.destination_addr()), number, transport)
    } else {
        let ip = Ipv4HeaderSlice::from_slice(quote).ok()?;
        if ip.fragments_offset().value() != 0 {
            return None; // a later fragment: no ports
        }
        let transport = quote.get(ip.slice().len()..)?;
        (IpAddr::V4(ip.source_addr()), IpAddr::V4(ip.destination_addr()), ip.protocol().0, transport)
    };
    let flow_ports = match number {
        protocol::TCP | protocol::UDP | protocol::SCTP => (u16_at(transport, 0)?, u16_at(transport, 2)?),
        protocol::ICMP | protocol::ICMPV6 if headers.is_ipv6() == (number == protocol::ICMPV6) => {
            let [kind, _, _, _, rest @ ..] = array::<8>(transport, 0)?;
            let transport = if headers.is_ipv6() { icmp_v6(kind, rest) } else { icmp_v4(kind, rest).ok()? };
            if transport == Transport::IcmpError {
                return None; // nobody may send an error about an error
            }
            Headers { transport, ..*headers }.flow_ports()
        }
        _ => (0, 0),
    };
    let sequence =
        if number == protocol::TCP { Some(u32::from_be_bytes(array(transport, 4)?)) } else { None };
    Some(Quoted { source, destination, protocol: number, flow_ports, sequence })
}

/// As [`extensions`], in a quoted packet: it was judged when it was sent, so only its ports are looked for.
fn quoted_extensions(mut next: u8, mut bytes: &[u8]) -> Option<(u8, &[u8])> {
    for _ in 0..=MAX_EXTENSIONS {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let header = Ipv6RawExtHeaderSlice::from_slice(bytes).ok()?;
                next = header.next_header().0;
                header.slice().len()
            }
            FRAGMENT => {
                let header = Ipv6FragmentHeaderSlice::from_slice(bytes).ok()?;
                if header.fragment_offset().value() != 0 {
                    return None;
                }
                next = header.next_header().0;
                header.slice().len()
            }
            _ => return Some((next, bytes)),
        };
        bytes = bytes.get(length..)?;
    }
    None
}

/// Addresses and protocol of a frame that [`parse`] refused, for records only: nothing is checked but that the
/// bytes are there. The protocol is the number in the IP header, before IPv6 extension headers.
pub fn glimpse(head: &[u8]) -> Option<(IpAddr, IpAddr, u8)> {
    let ip = head.get(ETHERNET_LEN..)?;
    match array::<2>(head, 12)? {
        [0x08, 0x00] => {
            let (source, destination): ([u8; 4], [u8; 4]) = (array(ip, 12)?, array(ip, 16)?);
            Some((source.into(), destination.into(), ip.get(9).copied()?))
        }
        [0x86, 0xdd] => {
            let (source, destination): ([u8; 16], [u8; 16]) = (array(ip, 8)?, array(ip, 24)?);
            Some((source.into(), destination.into(), ip.get(6).copied()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

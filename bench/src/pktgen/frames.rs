//! Frames: built once for each size, and rewritten for each packet where packets differ.
//!
//! A [`Template`] is the first bytes of a frame, up to the end of its stamp; the payload behind is zeros, which the links'
//! buffers hold already ([`super::link`]). For each packet addresses, ports and stamp are written into a copy, and checksums
//! come out of a sum of everything else that was taken when the template was built, so no packet is summed up again. SCTP's
//! CRC32c alone goes over the whole packet, by the processor's instruction.
//!
//! Lengths in this module are those of the device, without the check sequence.

use std::str::FromStr;

use super::flows::Flow;
use super::stamp::{LENGTH, Stamp};

/// Room for every template: Ethernet 14, IPv6 40, SCTP INIT 36, stamp 18, and more than that.
pub const PREFIX: usize = 128;

/// What packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP datagrams.
    Udp,
    /// TCP SYNs without options.
    TcpSyn,
    /// ICMP or ICMPv6 echo requests: the source port is their identifier.
    IcmpEcho,
    /// SCTP INITs; the stamp and the payload are a padding parameter (RFC 4820).
    SctpInit,
}

impl Protocol {
    /// Length of the transport header in front of the stamp.
    fn header(self, stamped: bool) -> usize {
        match self {
            Self::Udp | Self::IcmpEcho => 8,
            Self::TcpSyn => 20,
            Self::SctpInit if stamped => 12 + 20 + 4,
            Self::SctpInit => 12 + 20,
        }
    }

    fn number(self, v4: bool) -> u8 {
        match self {
            Self::Udp => 17,
            Self::TcpSyn => 6,
            Self::IcmpEcho => {
                if v4 {
                    1
                } else {
                    58
                }
            }
            Self::SctpInit => 132,
        }
    }

    /// The shortest frame, without check sequence.
    #[must_use]
    pub fn least(self, v4: bool, stamped: bool) -> usize {
        let network = if v4 { 20 } else { 40 };
        14 + network + self.header(stamped) + if stamped { LENGTH } else { 0 }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "udp" => Ok(Self::Udp),
            "tcp-syn" => Ok(Self::TcpSyn),
            "icmp" => Ok(Self::IcmpEcho),
            "sctp-init" => Ok(Self::SctpInit),
            _ => Err("expected udp, tcp-syn, icmp or sctp-init".to_owned()),
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::TcpSyn => "tcp-syn",
            Self::IcmpEcho => "icmp",
            Self::SctpInit => "sctp-init",
        })
    }
}

/// What all frames of a run have in common.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Destination and source MAC address.
    pub macs: [[u8; 6]; 2],
    /// IPv4, or else IPv6.
    pub v4: bool,
    /// Transport.
    pub protocol: Protocol,
    /// Do they carry stamps?
    pub stamped: bool,
}

/// A frame of one length.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: [u8; PREFIX],
    /// How many of `bytes` count.
    prefix: usize,
    length: usize,
    shape: Shape,
    transport: usize,
    /// Bytes of the transport packet, from its header on.
    transport_length: usize,
    /// Of the IPv4 header, but for the addresses.
    network_sum: u64,
    /// Of pseudo header, transport header and payload, but for addresses, ports and stamp.
    transport_sum: u64,
}

impl Template {
    /// A frame of `length` bytes. `None` if that is too short or too long for the protocol.
    #[must_use]
    pub fn new(shape: Shape, length: usize) -> Option<Self> {
        let Shape { macs: [destination, source], v4, protocol, stamped } = shape;
        let transport = if v4 { 34 } else { 54 };
        let least = protocol.least(v4, stamped);
        if length < least || length > 65_535 {
            return None;
        }
        let mut transport_length = length - transport;
        if protocol == Protocol::SctpInit {
            // Chunks come in words; what is left over is padding of the frame.
            transport_length -= transport_length % 4;
        }
        let rest = transport_length - protocol.header(stamped);
        let mut bytes = Vec::with_capacity(PREFIX);
        bytes.extend_from_slice(&destination);
        bytes.extend_from_slice(&source);
        if v4 {
            bytes.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            bytes.extend_from_slice(&((20 + transport_length) as u16).to_be_bytes());
            // No identification, "don't fragment".
            bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol.number(v4), 0, 0]);
            bytes.extend_from_slice(&[0; 8]);
        } else {
            bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend_from_slice(&(transport_length as u16).to_be_bytes());
            bytes.extend_from_slice(&[protocol.number(v4), 64]);
            bytes.extend_from_slice(&[0; 32]);
        }
        bytes.extend_from_slice(&[0; 4]);
        match protocol {
            Protocol::Udp => {
                bytes.extend_from_slice(&(transport_length as u16).to_be_bytes());
                bytes.extend_from_slice(&[0; 2]);
            }
            Protocol::TcpSyn => {
                bytes.extend_from_slice(&[0; 8]);
                bytes.extend_from_slice(&[0x50, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]);
            }
            Protocol::IcmpEcho => {
                let at = bytes.len() - 4;
                bytes.truncate(at);
                bytes.extend_from_slice(&[if v4 { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 0]);
            }
            Protocol::SctpInit => {
                bytes.extend_from_slice(&[0; 8]);
                bytes.extend_from_slice(&[1, 0]);
                bytes.extend_from_slice(&((transport_length - 12) as u16).to_be_bytes());
                // Initiate tag, window, streams out and in, first TSN.
                bytes.extend_from_slice(&[0, 0, 0, 1, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
                if stamped {
                    bytes.extend_from_slice(&0x8005_u16.to_be_bytes());
                    bytes.extend_from_slice(&((rest + 4) as u16).to_be_bytes());
                } else if rest >= 4 {
                    bytes.extend_from_slice(&0x8005_u16.to_be_bytes());
                    bytes.extend_from_slice(&(rest as u16).to_be_bytes());
                }
            }
        }
        let network_sum = if v4 { sum(bytes.get(14..34)?) } else { 0 };
        let pseudo = match (protocol, v4) {
            (Protocol::IcmpEcho, true) => 0,
            _ => u64::from(protocol.number(v4)) + transport_length as u64,
        };
        let transport_sum = pseudo + sum(bytes.get(transport..)?);
        if stamped {
            bytes.extend_from_slice(&[0; LENGTH]);
        }
        let prefix = bytes.len();
        bytes.resize(PREFIX, 0);
        let bytes = *bytes.first_chunk()?;
        Some(Self { bytes, prefix, length, shape, transport, transport_length, network_sum, transport_sum })
    }

    /// Length of the frame.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes the frame of a packet to the start of `buffer`, all but zeros of the payload that are there already, and returns
    /// its length. `random` is the sequence number of a TCP SYN. Nothing is written, and 0 returned, if there is no room.
    #[inline]
    pub fn write(&self, flow: &Flow, stamp: Option<&Stamp>, random: u32, buffer: &mut [u8]) -> usize {
        let Some(out) = buffer.first_chunk_mut::<PREFIX>() else { return 0 };
        let (head, _) = out.split_at_mut(self.prefix);
        let (template, _) = self.bytes.split_at(self.prefix);
        head.copy_from_slice(template);
        let mut addresses = words(flow.source) + words(flow.destination);
        if self.shape.v4 {
            put(out, 26, (flow.source as u32).to_be_bytes());
            put(out, 30, (flow.destination as u32).to_be_bytes());
            put(out, 24, (!fold(self.network_sum + addresses)).to_be_bytes());
        } else {
            put(out, 22, flow.source.to_be_bytes());
            put(out, 38, flow.destination.to_be_bytes());
        }
        let at = self.transport;
        let stamp_sum = match stamp {
            Some(stamp) if self.shape.stamped => {
                put(out, self.prefix - LENGTH, stamp.bytes());
                stamp.sum()
            }
            _ => 0,
        };
        let ports = u64::from(flow.source_port) + u64::from(flow.destination_port);
        match self.shape.protocol {
            Protocol::Udp => {
                put(out, at, flow.source_port.to_be_bytes());
                put(out, at + 2, flow.destination_port.to_be_bytes());
                let checksum = !fold(self.transport_sum + addresses + ports + stamp_sum);
                // 0 means that there is none.
                put(out, at + 6, if checksum == 0 { 0xffff_u16 } else { checksum }.to_be_bytes());
            }
            Protocol::TcpSyn => {
                put(out, at, flow.source_port.to_be_bytes());
                put(out, at + 2, flow.destination_port.to_be_bytes());
                put(out, at + 4, random.to_be_bytes());
                let all = self.transport_sum + addresses + ports + u64::from(random) + stamp_sum;
                put(out, at + 16, (!fold(all)).to_be_bytes());
            }
            Protocol::IcmpEcho => {
                let sequence = stamp.map_or(0, |stamp| stamp.sequence as u16);
                put(out, at + 4, flow.source_port.to_be_bytes());
                put(out, at + 6, sequence.to_be_bytes());
                if self.shape.v4 {
                    addresses = 0;
                }
                let all = self.transport_sum
                    + addresses
                    + u64::from(flow.source_port)
                    + u64::from(sequence)
                    + stamp_sum;
                put(out, at + 2, (!fold(all)).to_be_bytes());
            }
            Protocol::SctpInit => {
                put(out, at, flow.source_port.to_be_bytes());
                put(out, at + 2, flow.destination_port.to_be_bytes());
                put(out, at + 8, [0; 4]);
                let packet =
                    buffer.get(at..).map_or(&[][..], |all| all.get(..self.transport_length).unwrap_or(all));
                // What does not fit the buffer is zeros as well.
                let mut crc = crc32c::crc32c(packet);
                let beyond = self.transport_length.saturating_sub(packet.len());
                if beyond > 0 {
                    crc = crc32c::crc32c_append(crc, &vec![0; beyond]);
                }
                put(buffer, at + 8, crc.to_le_bytes());
            }
        }
        self.length
    }
}

#[inline]
fn put<const N: usize>(buffer: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(to) = buffer.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *to = bytes;
    }
}

/// Sum of 32-bit words, congruent to that of 16-bit words.
#[inline]
fn words(number: u128) -> u64 {
    let low = number as u64;
    let high = (number >> 64) as u64;
    (low & 0xffff_ffff) + (low >> 32) + (high & 0xffff_ffff) + (high >> 32)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| {
            u64::from(pair.first().copied().unwrap_or(0)) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))
        })
        .sum()
}

#[inline]
fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::stamp::locate;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const PROTOCOLS: [Protocol; 4] =
        [Protocol::Udp, Protocol::TcpSyn, Protocol::IcmpEcho, Protocol::SctpInit];

    fn shape(v4: bool, protocol: Protocol, stamped: bool) -> Shape {
        Shape { macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], v4, protocol, stamped }
    }

    proptest! {
        /// Every frame is what it says it is, by etherparse's account, and its checksums are right.
        #[test]
        fn frames_are_valid(
            v4: bool, of in 0usize..4, stamped: bool, more in 0usize..1500, source: u128, destination: u128,
            source_port: u16, destination_port: u16, run: u16, stream: u16, sequence: u32, sent_ns: u64, random: u32,
        ) {
            let protocol = PROTOCOLS[of];
            let length = protocol.least(v4, stamped) + more;
            let template = Template::new(shape(v4, protocol, stamped), length).unwrap();
            let mask = if v4 { u128::from(u32::MAX) } else { u128::MAX };
            let flow = Flow { source: source & mask, destination: destination & mask, source_port, destination_port };
            let stamp = Stamp { run, stream, sequence, sent_ns };
            let mut buffer = vec![0; 2048];
            // A packet before it leaves nothing behind.
            template.write(&Flow { source: mask, destination: mask, source_port: 1, destination_port: 2 }, Some(&stamp), 9, &mut buffer);
            prop_assert_eq!(template.write(&flow, Some(&stamp), random, &mut buffer), length);
            buffer.truncate(length);
            prop_assert_eq!(locate(&buffer), stamped.then_some(stamp));

            let packet = SlicedPacket::from_ethernet(&buffer).unwrap();
            let (transport_payload, pseudo) = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                    prop_assert_eq!(u128::from(u32::from(header.source_addr())), flow.source);
                    prop_assert_eq!(u128::from(u32::from(header.destination_addr())), flow.destination);
                    (ip.payload().payload.to_vec(), sum(&header.source()) + sum(&header.destination()))
                }
                NetSlice::Ipv6(ip) => {
                    let header = ip.header();
                    prop_assert_eq!(u128::from(header.source_addr()), flow.source);
                    prop_assert_eq!(u128::from(header.destination_addr()), flow.destination);
                    (ip.payload().payload.to_vec(), sum(&header.source()) + sum(&header.destination()))
                }
                _ => unreachable!(),
            };
            let len = transport_payload.len();
            let headers = if v4 { 34 } else { 54 };
            prop_assert!(headers + len <= length && length - len - headers < 4);
            let pseudo = pseudo + u64::from(protocol.number(v4)) + len as u64;
            match (protocol, packet.transport.as_ref()) {
                (Protocol::Udp, Some(TransportSlice::Udp(udp))) => {
                    prop_assert_eq!((udp.source_port(), udp.destination_port()), (source_port, destination_port));
                    prop_assert!(udp.checksum() != 0);
                    prop_assert_eq!(fold(pseudo + sum(&transport_payload)), 0xffff);
                    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
                        let header = udp.to_header();
                        prop_assert_eq!(header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap(), udp.checksum());
                    }
                }
                (Protocol::TcpSyn, Some(TransportSlice::Tcp(tcp))) => {
                    prop_assert!(tcp.syn() && !tcp.ack() && tcp.sequence_number() == random);
                    prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (source_port, destination_port));
                    match packet.net.as_ref().unwrap() {
                        NetSlice::Ipv4(ip) => prop_assert_eq!(tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap(), tcp.checksum()),
                        NetSlice::Ipv6(ip) => prop_assert_eq!(tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap(), tcp.checksum()),
                        _ => unreachable!(),
                    }
                }
                (Protocol::IcmpEcho, Some(TransportSlice::Icmpv4(icmp))) => {
                    prop_assert!(matches!(icmp.icmp_type(), etherparse::Icmpv4Type::EchoRequest(echo) if echo.id == source_port));
                    prop_assert_eq!(fold(sum(&transport_payload)), 0xffff);
                }
                (Protocol::IcmpEcho, Some(TransportSlice::Icmpv6(icmp))) => {
                    prop_assert!(matches!(icmp.icmp_type(), etherparse::Icmpv6Type::EchoRequest(echo) if echo.id == source_port));
                    let NetSlice::Ipv6(ip) = packet.net.as_ref().unwrap() else { unreachable!() };
                    prop_assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
                }
                (Protocol::SctpInit, _) => {
                    let mut bytes = transport_payload.clone();
                    prop_assert_eq!(&bytes[..4], &[source_port.to_be_bytes(), destination_port.to_be_bytes()].concat()[..]);
                    let stored = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
                    bytes[8..12].fill(0);
                    prop_assert_eq!(crc32c::crc32c(&bytes), stored);
                    // One INIT chunk that fills the packet, whose parameters fill it.
                    prop_assert_eq!((bytes[12], usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))), (1, len - 12));
                    if len > 32 {
                        prop_assert_eq!(usize::from(u16::from_be_bytes([bytes[34], bytes[35]])), len - 32);
                    }
                }
                other => prop_assert!(false, "{:?}", other.0),
            }
        }
    }

    #[test]
    fn a_checksum_of_0_is_sent_as_all_ones() {
        let template = Template::new(shape(true, Protocol::Udp, false), 60).unwrap();
        let mut buffer = vec![0; 256];
        let seen = (0..=u16::MAX).any(|source_port| {
            let flow = Flow { source: 1, destination: 2, source_port, destination_port: 9 };
            template.write(&flow, None, 0, &mut buffer);
            assert_ne!(&buffer[40..42], &[0, 0]);
            buffer[40..42] == [0xff, 0xff]
        });
        assert!(seen);
    }

    #[test]
    fn the_smallest_ethernet_frame_carries_a_stamp_over_udp_and_icmp() {
        let least = |v4, stamped| PROTOCOLS.map(|protocol| protocol.least(v4, stamped));
        assert_eq!(least(true, true), [60, 72, 60, 88]);
        assert_eq!(least(false, true), [80, 92, 80, 108]);
        assert_eq!(least(true, false), [42, 54, 42, 66]);
        assert!(Template::new(shape(true, Protocol::TcpSyn, true), 71).is_none());
    }

    #[test]
    fn a_stamp_is_found_behind_vlan_tags_and_nowhere_else() {
        let template = Template::new(shape(false, Protocol::Udp, true), 90).unwrap();
        let flow = Flow { source: 1, destination: 2, source_port: 3, destination_port: 4 };
        let stamp = Stamp { run: 1, stream: 2, sequence: 3, sent_ns: 4 };
        let mut buffer = vec![0; 128];
        template.write(&flow, Some(&stamp), 0, &mut buffer);
        buffer.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(locate(&buffer), Some(stamp));
        buffer.splice(12..12, [0x88, 0xa8, 0, 5]);
        assert_eq!(locate(&buffer), Some(stamp));
        buffer[13] = 0;
        assert_eq!(locate(&buffer), None);
    }
}

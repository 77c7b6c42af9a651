//! Ethernet frames for tests, built with etherparse, so that lengths and checksums are somebody else's work.

use std::net::IpAddr;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use podgate_dataplane::packet::PortId;

use crate::rig::{gateway_mac, link_peer};

/// Types of SCTP chunks (RFC 9260 section 3.2).
pub mod chunk {
    #![allow(missing_docs, reason = "the names of the RFC")]
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Where a frame starts: who sends it, over which port.
#[derive(Debug, Clone, Copy)]
pub struct From {
    /// The port it will arrive on.
    pub port: PortId,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

impl From {
    /// With the usual TTL.
    #[must_use]
    pub fn new(port: PortId, source: IpAddr, destination: IpAddr) -> Self {
        Self { port, source, destination, hop_limit: 64 }
    }

    fn ip(&self) -> PacketBuilderStep<IpHeaders> {
        let link = PacketBuilder::ethernet2(link_peer(self.port), gateway_mac(self.port));
        match (self.source, self.destination) {
            (IpAddr::V4(a), IpAddr::V4(b)) => link.ipv4(a.octets(), b.octets(), self.hop_limit),
            (IpAddr::V6(a), IpAddr::V6(b)) => link.ipv6(a.octets(), b.octets(), self.hop_limit),
            _ => panic!("{} and {}: expected one family", self.source, self.destination),
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.ip().udp(source, destination).write(&mut frame, payload).expect("builds");
        frame
    }

    /// A TCP segment with these flags, letters of `SAFRP`, and numbers that fit a connection in which nothing was said yet: a
    /// SYN of either end has 999, and everything else comes after both.
    #[must_use]
    pub fn tcp(&self, source: u16, destination: u16, flags: &str) -> Vec<u8> {
        let sequence = if flags.contains('S') { 999 } else { 1000 };
        self.segment((source, destination), flags, sequence, 1000)
    }

    /// A TCP segment with these ports, flags, sequence and acknowledgement numbers.
    #[must_use]
    pub fn segment(&self, ports: (u16, u16), flags: &str, sequence: u32, acknowledgement: u32) -> Vec<u8> {
        self.segment_with(ports, flags, (sequence, acknowledgement), &[])
    }

    /// As [`From::segment`], with data.
    #[must_use]
    pub fn segment_with(
        &self,
        ports: (u16, u16),
        flags: &str,
        (sequence, acknowledgement): (u32, u32),
        payload: &[u8],
    ) -> Vec<u8> {
        let mut step = self.ip().tcp(ports.0, ports.1, sequence, 65_000);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(acknowledgement),
                'F' => step.fin(),
                'R' => step.rst(),
                'P' => step.psh(),
                other => panic!("no TCP flag {other}"),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, payload).expect("builds");
        frame
    }

    /// A ping or its answer.
    #[must_use]
    pub fn echo(&self, identifier: u16, reply: bool) -> Vec<u8> {
        self.echo_with(identifier, reply, b"ping")
    }

    /// As [`From::echo`], with this data.
    #[must_use]
    pub fn echo_with(&self, identifier: u16, reply: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let step = self.ip();
        match (self.source.is_ipv6(), reply) {
            (false, false) => step.icmpv4_echo_request(identifier, 1).write(&mut frame, payload),
            (false, true) => step.icmpv4_echo_reply(identifier, 1).write(&mut frame, payload),
            (true, false) => step.icmpv6_echo_request(identifier, 1).write(&mut frame, payload),
            (true, true) => step.icmpv6_echo_reply(identifier, 1).write(&mut frame, payload),
        }
        .expect("builds");
        frame
    }

    /// An SCTP packet with one chunk of this type and without data. Both ends choose the verification tag 1.
    #[must_use]
    pub fn sctp(&self, source: u16, destination: u16, chunk: u8) -> Vec<u8> {
        self.sctp_tagged(source, destination, chunk, u32::from(chunk != chunk::INIT))
    }

    /// As [`From::sctp`], with this verification tag.
    #[must_use]
    pub fn sctp_tagged(&self, source: u16, destination: u16, chunk: u8, tag: u32) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&source.to_be_bytes());
        body.extend_from_slice(&destination.to_be_bytes());
        body.extend_from_slice(&tag.to_be_bytes());
        body.extend_from_slice(&[0; 4]);
        match chunk {
            // Tag 1, window, one stream each way, TSN.
            chunk::INIT | chunk::INIT_ACK => {
                body.extend_from_slice(&[chunk, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1])
            }
            _ => body.extend_from_slice(&[chunk, 0, 0, 4]),
        }
        let crc = crc32c::crc32c(&body).to_le_bytes();
        body[8..12].copy_from_slice(&crc);
        self.other(132, &body)
    }

    /// The packet with these bytes appended to its payload, with lengths that fit and checksums that do not.
    ///
    /// # Panics
    /// If it becomes too long.
    #[must_use]
    pub fn with_more(&self, frame: &[u8], more: &[u8]) -> Vec<u8> {
        let (protocol, body) = if self.source.is_ipv6() { (frame[20], 54) } else { (frame[23], 34) };
        self.other(protocol, &[&frame[body..], more].concat())
    }

    /// A UDP datagram with so many bytes of payload, in fragments: each has `each` bytes, a multiple of 8, the last one the
    /// rest.
    #[must_use]
    pub fn udp_fragments(&self, ports: (u16, u16), payload: usize, each: usize, id: u32) -> Vec<Vec<u8>> {
        fragments(&self.udp(ports.0, ports.1, &vec![0x5a; payload]), each, id)
    }

    /// Any protocol, with what follows the IP header.
    #[must_use]
    pub fn other(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.ip().write(&mut frame, protocol.into(), body).expect("builds");
        frame
    }

    /// Destination unreachable (port) about a packet that was sent, given as a frame.
    #[must_use]
    pub fn unreachable(&self, about: &[u8]) -> Vec<u8> {
        let quote = &about[14..];
        let mut body =
            if self.source.is_ipv6() { vec![1, 4, 0, 0, 0, 0, 0, 0] } else { vec![3, 3, 0, 0, 0, 0, 0, 0] };
        body.extend_from_slice(quote);
        let (protocol, sum) = match (self.source, self.destination) {
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let sum = etherparse::checksum::Sum16BitWords::new()
                    .add_16bytes(a.octets())
                    .add_16bytes(b.octets())
                    .add_4bytes((body.len() as u32).to_be_bytes())
                    .add_4bytes([0, 0, 0, 58]);
                (58, sum)
            }
            _ => (1, etherparse::checksum::Sum16BitWords::new()),
        };
        let checksum = sum.add_slice(&body).ones_complement().to_be().to_be_bytes();
        body[2..4].copy_from_slice(&checksum);
        self.other(protocol, &body)
    }
}

/// A packet without options or extension headers, given as a frame, in fragments of `each` bytes (a multiple of 8).
#[must_use]
pub fn fragments(whole: &[u8], each: usize, id: u32) -> Vec<Vec<u8>> {
    let length = whole.len() - if whole[12..14] == [8, 0] { 34 } else { 54 };
    let starts = (0..length).step_by(each);
    starts
        .map(|start| fragment(whole, start..(start + each).min(length), start + each < length, id))
        .collect()
}

/// These bytes of what follows the IP header, as a fragment, with `more` to follow or not.
///
/// # Panics
/// If the packet has no such bytes.
#[must_use]
pub fn fragment(whole: &[u8], bytes: std::ops::Range<usize>, more: bool, id: u32) -> Vec<u8> {
    let body = if whole[12..14] == [8, 0] { 34 } else { 54 };
    piece(whole, (bytes.start as u16, more), id, &whole[body..][bytes])
}

/// Any bytes as a fragment of a packet, of which only the headers count: they begin at a multiple of 8, with `more` to follow
/// or not.
#[must_use]
pub fn piece(whole: &[u8], (start, more): (u16, bool), id: u32, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u16;
    let mut frame;
    if whole[12..14] == [8, 0] {
        frame = whole[..34].to_vec();
        frame[16..18].copy_from_slice(&(20 + length).to_be_bytes());
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&((start / 8) | (u16::from(more) << 13)).to_be_bytes());
        let header = etherparse::Ipv4Header::from_slice(&frame[14..]).expect("a header").0;
        frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        frame = whole[..54].to_vec();
        let next = std::mem::replace(&mut frame[20], 44);
        frame[18..20].copy_from_slice(&(8 + length).to_be_bytes());
        frame.extend_from_slice(&[next, 0]);
        frame.extend_from_slice(&(start | u16::from(more)).to_be_bytes());
        frame.extend_from_slice(&id.to_be_bytes());
    }
    frame.extend_from_slice(bytes);
    frame
}

/// A frame without padding must have been sent by a port as a router does it: with its MAC addresses and a smaller hop limit,
/// and otherwise unchanged.
///
/// # Panics
/// If it was not.
#[track_caller]
pub fn assert_forwarded(frame: &[u8], sent: &[u8], to: PortId) {
    let mut expected = frame.to_vec();
    expected[..6].copy_from_slice(&link_peer(to));
    expected[6..12].copy_from_slice(&gateway_mac(to));
    if frame[12..14] == [8, 0] {
        expected[22] -= 1;
        expected[24..26].copy_from_slice(&sent[24..26]);
        let header = etherparse::Ipv4Header::from_slice(&sent[14..]).expect("a header").0;
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    } else {
        expected[21] -= 1;
    }
    assert_eq!(sent, expected);
}

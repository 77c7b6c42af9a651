//! ICMP that the gateway speaks itself: answers to ping, and errors about packets it could not forward.
//!
//! # What it guarantees
//! * [`echo_reply`] turns a ping into its answer in the same frames, payload untouched. The checksum is updated,
//!   not computed anew: a ping that came in damaged is answered damaged.
//! * [`error`] never answers an ICMP error or a redirect, nor a fragment but the first of its datagram, and what it quotes
//!   is what the sender sent: give it the packet before it is rewritten. Multicasts, broadcasts and packets from nobody,
//!   which must not be answered either (RFC 1122, 3.2.2; RFC 4443, 2.4), never get past [`crate::parse`].
//! * No input panics; nothing is written outside of the frame given.
//!
//! How often errors are sent is the caller's to limit (RFC 4443, 2.4(f)).

#![deny(clippy::indexing_slicing)]

use crate::checksum::{Sum, pseudo_header};
use crate::packet::{ETHERNET_LEN, Headers, Transport, protocol};
use crate::rewrite::{set_macs, updated_checksum};
use crate::wire::{array, put, u16_at};
use std::net::IpAddr;

/// TTL and hop limit of what the gateway sends itself.
const HOP_LIMIT: u8 = 64;

/// Why a packet could not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// It is larger than the next link takes.
    TooBig {
        /// MTU of that link in bytes: the largest IP packet.
        mtu: u16,
    },
    /// Policy denies it, and its sender is to know.
    Prohibited,
}

/// Turns the echo request in `head` (its head frame) into the reply, ready to leave by the port it came in by.
/// False, and nothing changed, if it is no echo request.
pub fn echo_reply(head: &mut [u8], headers: &Headers) -> bool {
    reply_in_place(head, headers).is_some()
}

fn reply_in_place(head: &mut [u8], headers: &Headers) -> Option<()> {
    const REPLY_V4: u8 = 0;
    const REPLY_V6: u8 = 129;
    let six = headers.is_ipv6();
    let Transport::IcmpQuery { reply: false, request: 8 | 128, .. } = headers.transport else { return None };
    let icmp = usize::from(headers.transport_offset);
    let old = u16_at(head, icmp)?;
    let checksum = u16_at(head, icmp + 2)?;
    let (to, from): ([u8; 6], [u8; 6]) = (array(head, 0)?, array(head, 6)?);
    // Swapping the addresses changes neither the header checksum nor the pseudo-header's sum.
    let ip = head.get_mut(ETHERNET_LEN..)?;
    if six {
        let (source, destination): ([u8; 16], [u8; 16]) = (array(ip, 8)?, array(ip, 24)?);
        put(ip, 7, &[HOP_LIMIT])?;
        put(ip, 8, &destination)?;
        put(ip, 24, &source)?;
    } else {
        let (source, destination): ([u8; 4], [u8; 4]) = (array(ip, 12)?, array(ip, 16)?);
        let [ttl, number]: [u8; 2] = array(ip, 8)?;
        let header_checksum = updated_checksum(
            u16_at(ip, 10)?,
            u16::from_be_bytes([ttl, number]),
            u16::from_be_bytes([HOP_LIMIT, number]),
        );
        put(ip, 8, &[HOP_LIMIT])?;
        put(ip, 10, &header_checksum.to_be_bytes())?;
        put(ip, 12, &destination)?;
        put(ip, 16, &source)?;
    }
    let [_, code] = old.to_be_bytes();
    let new = u16::from_be_bytes([if six { REPLY_V6 } else { REPLY_V4 }, code]);
    put(head, icmp, &new.to_be_bytes())?;
    put(head, icmp + 2, &updated_checksum(checksum, old, new).to_be_bytes())?;
    set_macs(head, to, from);
    Some(())
}

/// Most bytes that [`error`] writes: a frame with the smallest IPv6 MTU.
pub const MAX_ERROR: usize = ETHERNET_LEN + 1280;

/// Writes the ICMP error about a packet into `out` (of at least [`MAX_ERROR`] bytes) and says how long the
/// frame is. `offending` is the packet's head frame as it came in, `headers` what the parser said of it, `source`
/// the gateway's address that speaks (of the packet's family). The frame goes back to where the packet came from.
///
/// `None` if the packet must not be answered, the families differ, or `out` is too short.
pub fn error(
    problem: Problem,
    offending: &[u8],
    headers: &Headers,
    source: IpAddr,
    out: &mut [u8],
) -> Option<usize> {
    if matches!(headers.transport, Transport::IcmpError | Transport::Fragment) || out.len() < MAX_ERROR {
        return None;
    }
    let quote = offending.get(ETHERNET_LEN..offending.len().min(headers.packet_len as usize))?;
    let length = match (source, headers.source.into()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // As much as fits into 576 bytes (RFC 1812, 4.3.2.3).
            let quote = quote.get(..quote.len().min(576 - 28))?;
            let length = 28 + quote.len();
            let (kind, code, mtu) = match problem {
                Problem::TimeExceeded => (11, 0, 0),
                Problem::TooBig { mtu } => (3, 4, mtu), // RFC 1191
                Problem::Prohibited => (3, 13, 0),      // RFC 1812, 5.2.7.1
            };
            let ip = out.get_mut(ETHERNET_LEN..ETHERNET_LEN + length)?;
            // Internetwork control (RFC 1812, 4.3.2.5), not to be fragmented.
            put(ip, 0, &[0x45, 0xc0])?;
            put(ip, 2, &(length as u16).to_be_bytes())?;
            put(ip, 4, &[0, 0, 0x40, 0, HOP_LIMIT, protocol::ICMP, 0, 0])?;
            put(ip, 12, &source.octets())?;
            put(ip, 16, &destination.octets())?;
            put(ip, 20, &[kind, code, 0, 0, 0, 0])?;
            put(ip, 26, &mtu.to_be_bytes())?;
            put(ip, 28, quote)?;
            let (header, message) = ip.split_at_checked(20)?;
            let (header_sum, sum) = (sum_of(header), sum_of(message));
            put(ip, 10, &header_sum.checksum().to_be_bytes())?;
            put(ip, 22, &sum.checksum().to_be_bytes())?;
            length
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // As much as fits into the smallest MTU (RFC 4443, 2.4(c)).
            let quote = quote.get(..quote.len().min(1280 - 48))?;
            let length = 48 + quote.len();
            let (kind, code, mtu) = match problem {
                Problem::TimeExceeded => (3, 0, 0),
                Problem::TooBig { mtu } => (2, 0, mtu),
                Problem::Prohibited => (1, 1, 0), // RFC 4443, 3.1
            };
            let ip = out.get_mut(ETHERNET_LEN..ETHERNET_LEN + length)?;
            put(ip, 0, &[0x60, 0, 0, 0])?;
            put(ip, 4, &((length - 40) as u16).to_be_bytes())?;
            put(ip, 6, &[protocol::ICMPV6, HOP_LIMIT])?;
            put(ip, 8, &source.octets())?;
            put(ip, 24, &destination.octets())?;
            put(ip, 40, &[kind, code, 0, 0])?;
            put(ip, 44, &u32::from(mtu).to_be_bytes())?;
            put(ip, 48, quote)?;
            let mut sum =
                pseudo_header(source.into(), destination.into(), protocol::ICMPV6, length as u32 - 40);
            sum.add(ip.get(40..)?);
            put(ip, 42, &sum.checksum().to_be_bytes())?;
            length
        }
        _ => return None,
    };
    // Back to where it came from, by the MAC address it was sent to.
    put(out, 0, &array::<6>(offending, 6)?)?;
    put(out, 6, &array::<6>(offending, 0)?)?;
    put(out, 12, &array::<2>(offending, 12)?)?;
    Some(ETHERNET_LEN + length)
}

fn sum_of(bytes: &[u8]) -> Sum {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, parse, quoted};
    use crate::test_frames::*;
    use etherparse::{Icmpv4Slice, Icmpv6Slice};

    fn headers(frame: &[u8]) -> Headers {
        match parse(frame, frame.len()) {
            Ok(Parsed::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    fn icmp_checksum_is_right(frame: &[u8]) -> bool {
        let found = headers(frame);
        let message = &frame[usize::from(found.transport_offset)..found.packet_len as usize];
        match (found.source.into(), found.destination.into()) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => Icmpv6Slice::from_slice(message)
                .unwrap()
                .is_checksum_valid(source.octets(), destination.octets()),
            _ => {
                Icmpv4Slice::from_slice(message).unwrap();
                sum_of(message).checksum() == 0
            }
        }
    }

    #[test]
    fn a_ping_becomes_its_answer() {
        for six in [false, true] {
            let mut frame = echo(six, false);
            assert!(icmp_checksum_is_right(&frame), "the test's own frame");
            let asked = headers(&frame);
            assert!(echo_reply(&mut frame, &asked));
            let answer = headers(&frame);
            assert_eq!((answer.source, answer.destination), (asked.destination, asked.source));
            let (a, b) = asked.flow_ports();
            assert_eq!(answer.flow_ports(), (b, a));
            assert_eq!(answer.hop_limit, 64);
            assert!(icmp_checksum_is_right(&frame));
            assert_eq!((&frame[..6], &frame[6..12]), (&POD_MAC[..], &GATEWAY_MAC[..]));
            assert!(frame.ends_with(b"ping"));

            let before = frame.clone();
            assert!(!echo_reply(&mut frame, &answer), "a reply is not answered");
            assert_eq!(frame, before);
            let mut frame = udp(six, b"");
            let found = headers(&frame);
            assert!(!echo_reply(&mut frame, &found));
            for length in 0..50 {
                let mut frame = echo(six, false);
                frame.truncate(length);
                echo_reply(&mut frame, &asked);
            }
        }
    }

    #[test]
    fn a_damaged_ping_is_answered_damaged() {
        for six in [false, true] {
            let mut frame = echo(six, false);
            let last = frame.len() - 1;
            frame[last] ^= 0x40;
            let found = headers(&frame);
            assert!(echo_reply(&mut frame, &found));
            assert!(!icmp_checksum_is_right(&frame));
        }
    }

    #[test]
    fn errors_quote_the_packet_and_go_back() {
        for six in [false, true] {
            for (problem, payload) in [
                (Problem::TimeExceeded, 4),
                (Problem::TimeExceeded, 2000),
                (Problem::TooBig { mtu: 1400 }, 2000),
                (Problem::Prohibited, 100),
            ] {
                let packet = udp(six, &vec![9; payload]);
                let found = headers(&packet);
                let source = if six { v6(gateway6()) } else { v4(GATEWAY4) };
                let mut out = vec![0xee; MAX_ERROR];
                let length = error(problem, &packet, &found, source, &mut out).unwrap();
                let frame = &out[..length];
                let told = headers(frame);
                assert_eq!((told.source, told.destination), (source.into(), found.source));
                assert_eq!(told.packet_len as usize, length);
                assert!(icmp_checksum_is_right(frame));
                assert_eq!((&frame[..6], &frame[6..12]), (&POD_MAC[..], &GATEWAY_MAC[..]));
                let about = quoted(frame, &told).unwrap();
                assert_eq!(
                    (about.source, about.destination),
                    (found.source.into(), found.destination.into())
                );
                assert_eq!((about.protocol, about.flow_ports), (17, found.flow_ports()));
                let at = usize::from(told.transport_offset);
                let quote = &frame[at + 8..];
                assert_eq!(quote, &packet[14..14 + quote.len()]);
                let most = if six { 1280 } else { 576 };
                assert_eq!(length - 14, most.min(packet.len() - 14 + at + 8 - 14));
                match problem {
                    Problem::TooBig { mtu } => {
                        assert_eq!(frame[at], if six { 2 } else { 3 });
                        assert_eq!(frame[at + 6..at + 8], mtu.to_be_bytes());
                    }
                    Problem::TimeExceeded => assert_eq!(frame[at..at + 2], [if six { 3 } else { 11 }, 0]),
                    Problem::Prohibited => assert_eq!(frame[at..at + 2], if six { [1, 1] } else { [3, 13] }),
                }
            }
        }
    }

    #[test]
    fn what_gets_no_error() {
        let mut out = [0; MAX_ERROR];
        for six in [false, true] {
            let source = if six { v6(gateway6()) } else { v4(GATEWAY4) };
            let about_error = time_exceeded_about(six, &reverse_udp(six));
            let found = headers(&about_error);
            assert_eq!(error(Problem::TimeExceeded, &about_error, &found, source, &mut out), None);
            // A later fragment; the first one gets it.
            let whole = udp(six, &[7; 64]);
            for (start, length, more) in [(0, 40, true), (40, 32, false)] {
                let piece = fragment(&whole, start, length, more);
                let told = error(Problem::TimeExceeded, &piece, &headers(&piece), source, &mut out);
                assert_eq!(told.is_some(), start == 0);
            }
            let packet = udp(six, b"1234");
            let found = headers(&packet);
            let other = if six { v4(GATEWAY4) } else { v6(gateway6()) };
            assert_eq!(error(Problem::TimeExceeded, &packet, &found, other, &mut out), None, "other family");
            for room in 0..MAX_ERROR {
                assert_eq!(error(Problem::TimeExceeded, &packet, &found, source, &mut out[..room]), None);
            }
            for cut in 0..packet.len() {
                let _ = error(Problem::TimeExceeded, &packet[..cut], &found, source, &mut out);
            }
            assert!(
                error(
                    Problem::TimeExceeded,
                    &echo(six, false),
                    &headers(&echo(six, false)),
                    source,
                    &mut out
                )
                .is_some()
            );
        }
    }

    #[test]
    fn padding_is_not_quoted() {
        let mut packet = udp(false, b"1");
        let found = headers(&packet);
        packet.resize(60, 0x77);
        let mut out = [0; MAX_ERROR];
        let length = error(Problem::TimeExceeded, &packet, &found, v4(GATEWAY4), &mut out).unwrap();
        assert_eq!(length, 14 + 28 + 29);
    }
}

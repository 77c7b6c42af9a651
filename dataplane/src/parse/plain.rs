//! The hand-made path for plain packets: TCP or UDP over IPv4 without options or IPv6 without extension headers,
//! from one host to one host.
//!
//! It answers only when it is sure, and then exactly what [`super::general`] would; a fuzz test holds that. What it
//! leaves out costs nothing but time.

#![deny(clippy::indexing_slicing)]

use super::IPV6_END;
use crate::address::Address;
use crate::packet::{ETHERNET_LEN, Headers, TcpFlags, Transport, protocol};
use crate::wire::array;

/// Ethernet and plain IPv4 header together.
const IPV4_END: usize = ETHERNET_LEN + 20;

/// The fast path: the headers of a plain packet, or `None` if [`super::general`] has to look.
#[inline]
pub fn plain(head: &[u8], total_len: usize) -> Option<Headers> {
    let (link, _) = head.split_first_chunk::<ETHERNET_LEN>()?;
    match family(link)? {
        Family::V4 => v4(head, total_len),
        Family::V6 => v6(head, total_len),
    }
}

/// Which of the two ways a frame goes.
pub(super) enum Family {
    V4,
    V6,
}

/// The family of a frame from one to one, by its link header.
#[inline(always)]
pub(super) fn family(link: &[u8; ETHERNET_LEN]) -> Option<Family> {
    if (link[0] | link[6]) & 1 != 0 {
        return None; // multicast or broadcast
    }
    match [link[12], link[13]] {
        [0x08, 0x00] => Some(Family::V4),
        [0x86, 0xdd] => Some(Family::V6),
        _ => None,
    }
}

#[inline(always)]
pub(super) fn v4(head: &[u8], total_len: usize) -> Option<Headers> {
    let (front, rest) = head.split_first_chunk::<IPV4_END>()?;
    let ip: &[u8; 20] = front.last_chunk::<20>()?;
    // As words: each is loaded once, and the checks below are on registers.
    let words = ip.as_chunks::<4>().0;
    let &[version_length, fragment, ttl_protocol, source, destination] = words else { return None };
    let words = [version_length, fragment, ttl_protocol, source, destination].map(u32::from_ne_bytes);
    let [version_length, fragment, ttl_protocol, source, destination] = words.map(u32::to_be);
    let length = version_length as usize & 0xffff;
    // First bytes 0, 127 and from 224 on: unspecified, loopback, multicast and the like.
    let usual = |address: u32| address.wrapping_sub(1 << 24) < 223 << 24 && address >> 24 != 127;
    if version_length >> 24 != 0x45
        || fragment & 0x3fff != 0
        || !usual(source)
        || !usual(destination)
        || ETHERNET_LEN + length > total_len
        || !v4_header_sum_is_right(words)
    {
        return None;
    }
    let [hop_limit, number, ..] = ttl_protocol.to_be_bytes();
    let (source_port, destination_port, transport) = transport(rest, number, length.checked_sub(20)?)?;
    Some(Headers {
        source: Address::v4(source),
        destination: Address::v4(destination),
        source_port,
        destination_port,
        protocol: number,
        hop_limit,
        transport_offset: IPV4_END as u16,
        packet_len: (ETHERNET_LEN + length) as u32,
        transport,
        fragment: None,
    })
}

#[inline(always)]
pub(super) fn v6(head: &[u8], total_len: usize) -> Option<Headers> {
    let (front, rest) = head.split_first_chunk::<IPV6_END>()?;
    let ip: &[u8; 40] = front.last_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    // First bytes 0 and 255: unspecified, loopback, IPv4-mapped, multicast.
    let usual = |first: u8| first.wrapping_add(1) > 1;
    if ip[0] >> 4 != 6 || !usual(ip[8]) || !usual(ip[24]) || IPV6_END + length > total_len {
        return None;
    }
    let (source_port, destination_port, transport) = transport(rest, ip[6], length)?;
    let source: [u8; 16] = array(ip, 8)?;
    let destination: [u8; 16] = array(ip, 24)?;
    Some(Headers {
        source: Address::v6(source),
        destination: Address::v6(destination),
        source_port,
        destination_port,
        protocol: ip[6],
        hop_limit: ip[7],
        transport_offset: IPV6_END as u16,
        packet_len: (IPV6_END + length) as u32,
        transport,
        fragment: None,
    })
}

/// Ports and flags of TCP or UDP, from the bytes of `length` that the head frame has.
#[inline(always)]
fn transport(rest: &[u8], number: u8, length: usize) -> Option<(u16, u16, Transport)> {
    let transport = match number {
        protocol::TCP => {
            let tcp = rest.first_chunk::<20>()?;
            let header_len = usize::from(tcp[12] >> 4) * 4;
            if header_len < 20 || header_len > length.min(rest.len()) {
                return None;
            }
            Transport::Tcp(TcpFlags(tcp[13]))
        }
        protocol::UDP => {
            let udp = rest.first_chunk::<8>()?;
            let udp_len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            if udp_len < 8 || udp_len > length {
                return None;
            }
            Transport::Udp
        }
        _ => return None,
    };
    let ports = rest.first_chunk::<4>()?;
    Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]), transport))
}

/// Does the ones' complement sum of a header's words come out as all ones?
#[inline(always)]
fn v4_header_sum_is_right(words: [u32; 5]) -> bool {
    // Any byte order does: ones' complement sums commute with swapping (RFC 1071, 2(B)).
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum + u32::from(carry); // no overflow: after a carry the sum is small
    // Both halves added, with their carry, end in the upper half.
    sum.wrapping_add(sum.rotate_left(16)) >> 16 == 0xffff
}

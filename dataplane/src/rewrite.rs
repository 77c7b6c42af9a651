//! What a router changes in a packet that it forwards: the link header and the TTL.
//!
//! Guarantees: nothing but the two MAC addresses, the TTL (hop limit) and, for IPv4, the header checksum is
//! touched. The checksum is updated by RFC 1624, equation 3, not computed anew, so a header that was damaged on
//! its way through memory does not leave with a checksum that says it is sound. Layer-4 checksums do not cover
//! any of this and stay as they are, partial or complete.

#![deny(clippy::indexing_slicing)]

use crate::drop_reason::DropReason;
use crate::packet::{ETHERNET_LEN, Headers};

/// New value of a ones' complement checksum after a 16-bit word under it changed from `old` to `new`.
/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m'). Host order; all three the same.
#[inline]
pub const fn updated_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u32 + !old as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Makes the packet in `head` (its head frame) ready to leave: new MAC addresses, TTL one less.
///
/// # Errors
/// [`DropReason::TtlExpired`], and nothing changed, if the TTL has run out: it is 0 or 1.
#[inline]
pub fn forward(
    head: &mut [u8],
    headers: &Headers,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
) -> Result<(), DropReason> {
    // Read from the bytes: they are what the checksum is about.
    if headers.is_ipv6() {
        let front = head.first_chunk_mut::<{ ETHERNET_LEN + 40 }>().ok_or(DropReason::Truncated)?;
        let hop_limit = &mut front[ETHERNET_LEN + 7];
        *hop_limit = one_less(*hop_limit)?;
    } else {
        let front = head.first_chunk_mut::<{ ETHERNET_LEN + 20 }>().ok_or(DropReason::Truncated)?;
        let [ttl, protocol] = [front[ETHERNET_LEN + 8], front[ETHERNET_LEN + 9]];
        let less = one_less(ttl)?;
        let checksum = updated_checksum(
            u16::from_be_bytes([front[ETHERNET_LEN + 10], front[ETHERNET_LEN + 11]]),
            u16::from_be_bytes([ttl, protocol]),
            u16::from_be_bytes([less, protocol]),
        );
        front[ETHERNET_LEN + 8] = less;
        [front[ETHERNET_LEN + 10], front[ETHERNET_LEN + 11]] = checksum.to_be_bytes();
    }
    set_macs(head, source_mac, destination_mac);
    Ok(())
}

#[inline]
fn one_less(hop_limit: u8) -> Result<u8, DropReason> {
    if hop_limit > 1 { Ok(hop_limit - 1) } else { Err(DropReason::TtlExpired) }
}

/// Writes the MAC addresses of the link header.
#[inline]
pub fn set_macs(head: &mut [u8], source: [u8; 6], destination: [u8; 6]) {
    if let Some(link) = head.first_chunk_mut::<12>() {
        let [d0, d1, d2, d3, d4, d5] = destination;
        let [s0, s1, s2, s3, s4, s5] = source;
        *link = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, parse};
    use crate::test_frames::*;
    use etherparse::{IpHeaders, NetHeaders, PacketHeaders};
    use proptest::prelude::*;

    fn headers(frame: &[u8]) -> Headers {
        match parse(frame, frame.len()) {
            Ok(Parsed::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    /// The same frame after etherparse took it apart, changed it and put it together with all checksums anew.
    fn by_etherparse(frame: &[u8]) -> Vec<u8> {
        let parts = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let mut link = parts.link.unwrap().ethernet2().unwrap();
        (link.source, link.destination) = (GATEWAY_MAC, POD_MAC);
        let mut out = Vec::new();
        link.write(&mut out).unwrap();
        let ip = match parts.net.unwrap() {
            NetHeaders::Ipv4(mut ip, extensions) => {
                ip.time_to_live -= 1;
                ip.header_checksum = ip.calc_header_checksum();
                IpHeaders::Ipv4(ip, extensions)
            }
            NetHeaders::Ipv6(mut ip, extensions) => {
                ip.hop_limit -= 1;
                IpHeaders::Ipv6(ip, extensions)
            }
            NetHeaders::Arp(_) => panic!("not IP"),
        };
        ip.write(&mut out).unwrap();
        out.extend_from_slice(&frame[out.len()..]);
        out
    }

    #[test]
    fn an_expired_ttl_changes_nothing() {
        for six in [false, true] {
            for ttl in [0, 1] {
                let mut frame = udp(six, b"x");
                let found = headers(&frame);
                frame[if six { 21 } else { 22 }] = ttl;
                let before = frame.clone();
                assert_eq!(forward(&mut frame, &found, POD_MAC, POD_MAC), Err(DropReason::TtlExpired));
                assert_eq!(frame, before);
            }
        }
    }

    #[test]
    fn every_checksum_is_updated_right() {
        // All 2^16 identifications: every header checksum there is, both zeros among them.
        for identification in 0..=u16::MAX {
            let mut frame = udp(false, b"");
            frame[18..20].copy_from_slice(&identification.to_be_bytes());
            frame[24..26].fill(0);
            let mut sum = crate::checksum::Sum::new();
            sum.add(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
            let found = headers(&frame);
            forward(&mut frame, &found, GATEWAY_MAC, POD_MAC).unwrap();
            let after = headers(&frame); // verifies the checksum
            assert_eq!(after, Headers { hop_limit: 63, ..found });
        }
    }

    #[test]
    fn too_short_a_frame_is_refused() {
        let frame = udp(false, b"");
        let found = headers(&frame);
        assert_eq!(forward(&mut [0; 20], &found, POD_MAC, POD_MAC), Err(DropReason::Truncated));
        set_macs(&mut [0; 3], POD_MAC, POD_MAC);
    }

    proptest! {
        #[test]
        fn rewriting_in_place_is_rebuilding(
            six: bool,
            is_tcp: bool,
            ttl in 2u8..,
            payload in proptest::collection::vec(any::<u8>(), 0..64),
            dscp: u8,
        ) {
            let mut frame = if is_tcp { tcp(six, &payload) } else { udp(six, &payload) };
            if six {
                frame[21] = ttl;
            } else {
                (frame[15], frame[22]) = (dscp, ttl);
                frame[24..26].fill(0);
                let mut sum = crate::checksum::Sum::new();
                sum.add(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
            }
            let expected = by_etherparse(&frame);
            let found = headers(&frame);
            forward(&mut frame, &found, GATEWAY_MAC, POD_MAC).unwrap();
            prop_assert_eq!(frame, expected);
        }
    }
}

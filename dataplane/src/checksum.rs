//! Layer-4 checksums: is one there, is it finished, and finishing it in software.
//!
//! A pod's kernel leaves the checksum of TCP and UDP to its device (CHECKSUM_PARTIAL): the field then holds the
//! sum of the pseudo-header alone. Nothing marks such a packet, so [`state`] compares: field equal to that sum
//! means partial. A finished checksum that is equal by chance loses nothing: completing it gives a right
//! checksum again. For SCTP an undone CRC32c is 0, for UDP 0 means that there is none.
//!
//! # What it guarantees
//! * [`state`] is asked once, before anything in the packet is rewritten, and its answer travels with it.
//! * Checksums are never verified or repaired: a packet that came in wrong arrives wrong, and its receiver sees
//!   it. Only a partial one is completed, by the device ([`offload`]) or by [`complete`].
//! * A fragment is never touched. No device could complete what it has only a part of, so kernels complete a datagram
//!   before they cut it into fragments; a field that looks partial is chance.
//!
//! # What breaks if changed
//! Asking after a rewrite of addresses or ports finds no partial checksum any more, and TCP through the gateway
//! stops while ping goes on.
//!
//! Not covered: a pod that tunnels by itself with its inner checksum left to the device (the outer UDP field is 0
//! then, and the inner packet is not looked at); such a pod has to turn that offload off.

#![deny(clippy::indexing_slicing)]

use crate::packet::{ChecksumState, ETHERNET_LEN, Headers, Transport};
use crate::wire::{array, put, u16_at};
use af_xdp::{FrameChain, Region, TxChecksum};
use std::net::IpAddr;

/// Where the SCTP checksum is, from the start of the SCTP header.
const SCTP_CRC: usize = 8;

/// A ones' complement sum (RFC 1071) that can be fed piece by piece, also at odd boundaries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Sum {
        Sum { total: 0, odd: false }
    }

    /// Adds the bytes that follow those added so far.
    pub fn add(&mut self, bytes: &[u8]) {
        // Any byte order will do, as long as it is one: RFC 1071, 2(B). Four bytes at a time into eight leaves
        // room for 2^32 additions without a carry, and the compiler uses vectors for it.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(last));
        let sum = fold(sum);
        self.total += u64::from(if self.odd { sum.swap_bytes() } else { sum });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a 16-bit number, at an even position.
    pub fn add_u16(&mut self, number: u16) {
        self.total += u64::from(number.to_be());
    }

    /// The sum in 16 bits, as a number in host order; 0 only if everything added was 0.
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.total))
    }

    /// The checksum: the sum's complement, in host order.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// Adds the four 16-bit digits with end-around carry.
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of the pseudo-header for `length` bytes of `protocol`.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Sum {
    let mut sum = Sum::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    sum.add(&length.to_be_bytes());
    sum.add_u16(u16::from(protocol));
    sum
}

/// Where the ones' complement checksum of this packet is (from the start of the transport header), and how many
/// bytes from there on it covers. `None` for protocols without one.
fn covered(head: &[u8], headers: &Headers) -> Option<(usize, u32)> {
    let start = usize::from(headers.transport_offset);
    match headers.transport {
        Transport::Tcp(_) => Some((16, headers.packet_len.saturating_sub(start as u32))),
        Transport::Udp => Some((6, u32::from(u16_at(head, start + 4)?))),
        _ => None,
    }
}

/// Whether the checksum of the packet is partial, complete or absent. `head` is the head frame, not yet rewritten.
#[inline]
pub fn state(head: &[u8], headers: &Headers) -> ChecksumState {
    if headers.fragment.is_some() {
        return ChecksumState::Absent;
    }
    let start = usize::from(headers.transport_offset);
    if let Transport::Sctp { .. } = headers.transport {
        return match array::<4>(head, start + SCTP_CRC) {
            Some([0, 0, 0, 0]) => ChecksumState::Partial,
            _ => ChecksumState::Complete,
        };
    }
    let Some((field, length)) = covered(head, headers) else {
        return match headers.transport {
            Transport::Other => ChecksumState::Absent,
            _ => ChecksumState::Complete,
        };
    };
    match u16_at(head, start + field) {
        Some(0) if headers.transport == Transport::Udp => ChecksumState::Absent,
        Some(stored) if Some(stored) == pseudo_sum(head, headers, length) => ChecksumState::Partial,
        _ => ChecksumState::Complete,
    }
}

/// The folded sum of [`pseudo_header`], from the addresses as they stand in the packet: asked of every packet,
/// so without a detour over address types.
#[inline]
fn pseudo_sum(head: &[u8], headers: &Headers, length: u32) -> Option<u16> {
    let add = |words: &[[u8; 4]]| words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
    let addresses = if headers.is_ipv6() {
        add(array::<32>(head, ETHERNET_LEN + 8)?.as_chunks().0)
    } else {
        add(array::<8>(head, ETHERNET_LEN + 12)?.as_chunks().0)
    };
    let sum = addresses + u64::from(length.to_be()) + u64::from(u32::from(headers.protocol).to_be());
    Some(u16::from_be(fold(sum)))
}

/// What to ask of an egress device for a [`ChecksumState::Partial`] packet. `None` if no device can complete it
/// (SCTP): then [`complete`] has to.
#[inline]
pub fn offload(headers: &Headers) -> Option<TxChecksum> {
    let offset = match headers.transport {
        Transport::Tcp(_) => 16,
        Transport::Udp => 6,
        _ => return None,
    };
    Some(TxChecksum { start: headers.transport_offset, offset })
}

/// Completes a partial checksum in software, over all buffers of the packet. Call it for
/// [`ChecksumState::Partial`] only; anything without a checksum is left alone.
pub fn complete(region: &Region, frames: &mut FrameChain, headers: &Headers) {
    let start = usize::from(headers.transport_offset);
    if let Transport::Sctp { .. } = headers.transport {
        // The field counts as zero, and is: that is what made it partial.
        let end = headers.packet_len as usize;
        let crc = pieces(region, frames, start, end).fold(0, crc32c::crc32c_append);
        let _ = put(frames.data_mut(region), start + SCTP_CRC, &crc.to_le_bytes()); // RFC 9260, appendix A
        return;
    }
    let Some((field, length)) = covered(frames.data(region), headers) else { return };
    let mut sum = Sum::new();
    // The field holds the pseudo-header's sum, so it takes part as it is.
    pieces(region, frames, start, start + length as usize).for_each(|piece| sum.add(piece));
    let checksum = match (sum.checksum(), headers.transport) {
        (0, Transport::Udp) => 0xffff, // 0 would say that there is none
        (checksum, _) => checksum,
    };
    let _ = put(frames.data_mut(region), start + field, &checksum.to_be_bytes());
}

/// The bytes from `start` to `end` of the packet, buffer by buffer.
fn pieces<'a>(
    region: &'a Region,
    frames: &'a FrameChain,
    start: usize,
    end: usize,
) -> impl Iterator<Item = &'a [u8]> {
    let mut position = 0;
    frames.slices(region).map(move |slice| {
        let from = start.saturating_sub(position).min(slice.len());
        let to = end.saturating_sub(position).min(slice.len());
        position += slice.len();
        slice.get(from..to).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, parse};
    use crate::test_frames::*;
    use af_xdp::FramePool;
    use proptest::prelude::*;

    fn headers(frame: &[u8]) -> Headers {
        match parse(frame, frame.len()) {
            Ok(Parsed::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    fn pool(chunks: u32) -> FramePool {
        Region::new(chunks).unwrap().1.pool(chunks as usize)
    }

    /// The frame as a pod's kernel hands it over: the field holds the folded pseudo-header sum.
    fn made_partial(mut frame: Vec<u8>) -> Vec<u8> {
        let found = headers(&frame);
        let start = usize::from(found.transport_offset);
        let (field, length) = covered(&frame, &found).unwrap();
        let sum =
            pseudo_header(found.source.into(), found.destination.into(), found.protocol, length).folded();
        frame[start + field..start + field + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn kernels_partial_checksum_by_the_book() {
        // csum_tcpudp_magic's sum for 10.244.0.10 -> 10.244.0.11, TCP, 20 bytes, added up by hand:
        // 0af4 + 000a + 0af4 + 000b + 0006 + 0014 = 1617.
        let sum = pseudo_header(v4(A4), v4(B4), 6, 20).folded();
        assert_eq!(sum, 0x1617);
    }

    #[test]
    fn partial_complete_and_absent() {
        for six in [false, true] {
            for frame in [udp(six, b"payload"), tcp(six, b"payload!")] {
                assert_eq!(state(&frame, &headers(&frame)), ChecksumState::Complete);
                // `made_partial` sums with `pseudo_header`, `state` with `pseudo_sum`: they have to agree.
                let mut partial = made_partial(frame.clone());
                assert_eq!(state(&partial, &headers(&partial)), ChecksumState::Partial);
                partial.resize(partial.len() + 9, 0x55);
                assert_eq!(
                    state(&partial, &headers(&partial)),
                    ChecksumState::Partial,
                    "padding is not packet"
                );
            }
            let mut frame = udp(six, b"payload");
            let field = if six { 60 } else { 40 };
            frame[field..field + 2].fill(0);
            assert_eq!(state(&frame, &headers(&frame)), ChecksumState::Absent);
            let mut frame = sctp_init(six);
            assert_eq!(state(&frame, &headers(&frame)), ChecksumState::Partial);
            let start = usize::from(headers(&frame).transport_offset);
            frame[start + 11] = 1;
            assert_eq!(state(&frame, &headers(&frame)), ChecksumState::Complete);
            assert_eq!(state(&echo(six, false), &headers(&echo(six, false))), ChecksumState::Complete);
            // A fragment's is finished, whatever it looks like.
            let partial = made_partial(udp(six, &[7; 64]));
            for (start, length, more) in [(0, 40, true), (40, 32, false)] {
                let piece = fragment(&partial, start, length, more);
                assert_eq!(state(&piece, &headers(&piece)), ChecksumState::Absent);
            }
            let opaque = protocol(six, 50, b"opaque");
            assert_eq!(state(&opaque, &headers(&opaque)), ChecksumState::Absent);
        }
    }

    #[test]
    fn crc32c_of_sctp() {
        // The check value of CRC-32C, and a packet whose receiver (this same polynomial over all) agrees.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let mut pool = pool(8);
        let region = pool.region().clone();
        for six in [false, true] {
            let frame = sctp_init(six);
            let found = headers(&frame);
            let mut chain = pool.copy_in(&frame).unwrap();
            complete(&region, &mut chain, &found);
            let done = chain.to_vec(&region);
            pool.put_chain(chain);
            let start = usize::from(found.transport_offset);
            let mut zeroed = done[start..].to_vec();
            let stored = u32::from_le_bytes(zeroed[8..12].try_into().unwrap());
            zeroed[8..12].fill(0);
            assert_eq!(stored, crc32c::crc32c(&zeroed));
            assert_ne!(stored, 0);
        }
    }

    #[test]
    fn udp_never_gets_a_zero_by_completion() {
        // Choose the payload so that the sum comes out as 0xffff.
        let mut pool = pool(2);
        let region = pool.region().clone();
        let frame = made_partial(udp(false, &[0, 0]));
        let mut sum = Sum::new();
        sum.add(&frame[34..]);
        let mut frame = frame;
        let rest = 0xffff - sum.folded();
        frame[42..44].copy_from_slice(&rest.to_be_bytes());
        let mut chain = pool.copy_in(&frame).unwrap();
        complete(&region, &mut chain, &headers(&frame));
        assert_eq!(&chain.to_vec(&region)[40..42], &[0xff, 0xff]);
        pool.put_chain(chain);
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_where_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut sum = Sum::new();
            cuts.windows(2).for_each(|pair| sum.add(&bytes[pair[0]..pair[1]]));
            let theirs = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes).ones_complement().to_be();
            prop_assert_eq!(sum.checksum(), theirs);
        }

        #[test]
        fn completion_gives_what_etherparse_computes(
            six: bool,
            is_tcp: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..9000),
        ) {
            let mut pool = pool(4);
            let region = pool.region().clone();
            let whole = if is_tcp { tcp(six, &payload) } else { udp(six, &payload) };
            let partial = made_partial(whole.clone());
            let found = headers(&partial);
            prop_assert_eq!(state(&partial, &found), ChecksumState::Partial);
            let mut chain = pool.copy_in(&partial).unwrap();
            prop_assert_eq!(chain.count(), whole.len().div_ceil(af_xdp::CHUNK_ROOM));
            complete(&region, &mut chain, &found);
            prop_assert_eq!(chain.to_vec(&region), whole);
            pool.put_chain(chain);
        }
    }
}

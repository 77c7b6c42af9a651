//! What every packet carries so that the sink can account for it: 18 bytes behind the transport header.
//!
//! | bytes | what |
//! |---|---|
//! | 0-1 | signature |
//! | 2-3 | run: drawn anew for each run, so that stragglers of an earlier one are told apart |
//! | 4-5 | stream: what the sequence numbers count within |
//! | 6-9 | sequence number, from 0; wraps after 2^32 packets of one stream, which the sink unrolls |
//! | 10-17 | when the packet was written, nanoseconds of CLOCK_MONOTONIC |
//!
//! All in network byte order. 18 bytes are what the smallest Ethernet frame (64 bytes with its check sequence) leaves to
//! UDP over IPv4: a longer stamp would take the most important frame size away. The clock is one for all processes of a
//! machine and all its network namespaces; between two machines the latency is meaningless, the counts are exact.
//! The place is found by walking the headers ([`locate`]), so a device may rewrite addresses, ports, lifetimes and VLAN tags.

use nix::time::{ClockId, clock_gettime};

/// Bytes of a stamp.
pub const LENGTH: usize = 18;
const SIGNATURE: u16 = 0x9d47;

/// The accounting fields of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which run.
    pub run: u16,
    /// Which stream of it.
    pub stream: u16,
    /// Which packet of the stream, from 0.
    pub sequence: u32,
    /// When it was written, nanoseconds of CLOCK_MONOTONIC.
    pub sent_ns: u64,
}

impl Stamp {
    /// The bytes of the packet.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> [u8; LENGTH] {
        // In three words: an iterator over fields cost more than all the rest of a packet.
        let first = (u64::from(SIGNATURE) << 48)
            | (u64::from(self.run) << 32)
            | (u64::from(self.stream) << 16)
            | u64::from(self.sequence >> 16);
        let [a, b, c, d, e, f, g, h] = first.to_be_bytes();
        let [i, j] = (self.sequence as u16).to_be_bytes();
        let [k, l, m, n, o, p, q, r] = self.sent_ns.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r]
    }

    /// What these bytes add to an Internet checksum: not folded. They begin at an even offset in every protocol.
    #[must_use]
    pub fn sum(&self) -> u64 {
        // A number of 32 bits is congruent to the sum of its halves modulo 0xffff.
        u64::from(SIGNATURE)
            + u64::from(self.run)
            + u64::from(self.stream)
            + u64::from(self.sequence)
            + (self.sent_ns >> 32)
            + (self.sent_ns & 0xffff_ffff)
    }

    /// Reads a stamp; `None` if the signature is another.
    #[must_use]
    #[inline]
    pub fn read(bytes: &[u8; LENGTH]) -> Option<Self> {
        let [s0, s1, r0, r1, t0, t1, q0, q1, q2, q3, rest @ ..] = *bytes;
        (u16::from_be_bytes([s0, s1]) == SIGNATURE).then(|| Self {
            run: u16::from_be_bytes([r0, r1]),
            stream: u16::from_be_bytes([t0, t1]),
            sequence: u32::from_be_bytes([q0, q1, q2, q3]),
            sent_ns: u64::from_be_bytes(rest),
        })
    }
}

/// Finds the stamp in a frame, with up to two VLAN tags, of UDP, TCP, ICMP echo (or its reply) or SCTP INIT over IPv4 or IPv6.
#[must_use]
#[inline]
pub fn locate(frame: &[u8]) -> Option<Stamp> {
    let mut network = 14;
    let mut ether_type = half(frame, 12)?;
    for _ in 0..2 {
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            break;
        }
        ether_type = half(frame, network + 2)?;
        network += 4;
    }
    let (protocol, transport) = match ether_type {
        0x0800 => {
            let words = usize::from(frame.get(network)? & 0x0f);
            (*frame.get(network + 9)?, network + 4 * words)
        }
        0x86dd => (*frame.get(network + 6)?, network + 40),
        _ => return None,
    };
    let payload = match protocol {
        17 | 1 | 58 => transport + 8,
        6 => transport + 4 * usize::from(frame.get(transport + 12)? >> 4),
        132 => transport + 12 + 20 + 4,
        _ => return None,
    };
    Stamp::read(frame.get(payload..)?.first_chunk()?)
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Now, in nanoseconds of CLOCK_MONOTONIC; a call into the vDSO, not the kernel, where the machine has a usable counter.
#[must_use]
#[inline]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from).unwrap_or_default();
    time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn read_gives_back_what_was_written(run: u16, stream: u16, sequence: u32, sent_ns: u64) {
            let stamp = Stamp { run, stream, sequence, sent_ns };
            let bytes = stamp.bytes();
            prop_assert_eq!(Stamp::read(&bytes), Some(stamp));
            let words: u64 = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            prop_assert_eq!(words % 0xffff, stamp.sum() % 0xffff);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = locate(&bytes);
        }
    }

    #[test]
    fn the_clock_goes_forward() {
        let first = now_ns();
        assert!(first > 0 && now_ns() >= first);
    }
}

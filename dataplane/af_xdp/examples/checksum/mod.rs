//! Partial checksums: what pods with default offloads hand over, and what a forwarder must complete.
//!
//! A sender with checksum offload stores only the sum of the pseudo header and leaves the rest to the device. Nothing in an
//! AF_XDP descriptor says so; but the field then holds exactly that sum, which a complete checksum does only by chance, and
//! then completing it gives the same value again. The whole of it is here for TCP and UDP over IPv4 without options and
//! IPv6 without extension headers; a gateway does more.

use af_xdp::{FrameChain, Region, TxChecksum};

/// Where the checksum of this packet is to be completed, if it is partial.
pub fn partial(packet: &FrameChain, region: &Region) -> Option<TxChecksum> {
    let bytes = packet.data(region);
    let (start, protocol, addresses, length) = match bytes.get(12..14)? {
        [0x08, 0x00] => {
            let total = u16::from_be_bytes(bytes.get(16..18)?.try_into().ok()?);
            (34, *bytes.get(23)?, bytes.get(26..34)?, total.checked_sub(20)?)
        }
        [0x86, 0xdd] => {
            let length = u16::from_be_bytes(bytes.get(18..20)?.try_into().ok()?);
            (54, *bytes.get(20)?, bytes.get(22..54)?, length)
        }
        _ => return None,
    };
    let offset = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let field = usize::from(start + offset);
    let stored = u16::from_be_bytes(bytes.get(field..field + 2)?.try_into().ok()?);
    let pseudo = fold(sum(addresses, 0) + u32::from(protocol) + u32::from(length));
    (stored == pseudo).then_some(TxChecksum { start, offset })
}

/// Completes a checksum in software, as the device would do it.
#[allow(dead_code)] // Some users leave it to the device.
pub fn complete(packet: &mut FrameChain, region: &Region, at: TxChecksum) {
    let mut total = 0;
    let mut odd = false;
    for (n, slice) in packet.slices(region).enumerate() {
        let slice = slice.get(if n == 0 { usize::from(at.start) } else { 0 }..).unwrap_or_default();
        // A frame may begin at an odd byte of the packet: its bytes then count in the other half of the words.
        let part = fold(sum(slice, 0));
        total += u32::from(if odd { part.swap_bytes() } else { part });
        odd ^= slice.len() % 2 == 1;
    }
    let field = usize::from(at.start + at.offset);
    let checksum = !fold(total);
    if let Some(bytes) = packet.data_mut(region).get_mut(field..field + 2) {
        bytes.copy_from_slice(&checksum.to_be_bytes());
    }
}

fn sum(bytes: &[u8], start: u32) -> u32 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    words.fold(start, |total, word| total + word)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

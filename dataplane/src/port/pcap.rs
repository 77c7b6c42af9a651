//! A port that plays a capture file and records what it is sent, for tests and replay.
//!
//! The classic format of libpcap with Ethernet frames (link type 1), both byte orders, microseconds or nanoseconds;
//! pcapng is not read. Time stamps are not honoured: packets arrive as fast as they are asked for.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use af_xdp::{
    Abilities, Frame, FrameChain, FramePool, Kick, Refusal, Refused, Region, Statistics, TxChecksum,
};

use super::Port;

/// Longest packet that is read or written.
const SNAP_LENGTH: u32 = 65_535;
const ETHERNET: u32 = 1;

/// Why a capture cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCapture {
    /// Not a classic pcap file.
    #[error("starts with {0:02x?}, expected a classic pcap file (convert pcapng with `editcap -F pcap`)")]
    Magic(Vec<u8>),
    /// Frames of another link layer.
    #[error("link type {0}, expected 1 (Ethernet)")]
    LinkType(u32),
    /// A record that ends early or is longer than any packet.
    #[error("record {record} at byte {offset} is cut off or longer than {SNAP_LENGTH} bytes")]
    Record {
        /// Counted from 1.
        record: usize,
        /// Where it starts.
        offset: usize,
    },
}

/// Plays packets and records what is sent.
pub struct PcapPort<W> {
    region: Region,
    packets: std::vec::IntoIter<Vec<u8>>,
    /// Frames for packets to come.
    filled: FramePool,
    /// Frames of packets that were sent.
    sent: FramePool,
    record: W,
    failed: Option<io::Error>,
}

impl<W: Write + Send> PcapPort<W> {
    /// Plays `capture`, the bytes of a file, and writes what is sent to `record`, as a file of its own.
    ///
    /// # Errors
    /// [`InvalidCapture`] if anything in `capture` is wrong: nothing is played then.
    pub fn new(region: &Region, capture: &[u8], mut record: W) -> Result<Self, InvalidCapture> {
        let packets = packets(capture)?.into_iter();
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
        header.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        header.extend_from_slice(&SNAP_LENGTH.to_le_bytes());
        header.extend_from_slice(&ETHERNET.to_le_bytes());
        let failed = record.write_all(&header).err();
        let (filled, sent) = (FramePool::empty(region), FramePool::empty(region));
        Ok(Self { region: region.clone(), packets, filled, sent, record, failed })
    }

    /// The first error of writing the record, if there was one.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    fn write(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u32).to_le_bytes();
        let mut result = self.record.write_all(&[0; 8]);
        for part in [&length[..], &length[..], bytes] {
            result = result.and_then(|()| self.record.write_all(part));
        }
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }
}

/// The packets of a capture file.
fn packets(capture: &[u8]) -> Result<Vec<Vec<u8>>, InvalidCapture> {
    let magic = || InvalidCapture::Magic(capture.iter().take(4).copied().collect());
    let (header, mut rest) = capture.split_at_checked(24).ok_or_else(magic)?;
    let big = match header.first_chunk::<4>() {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => false,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => true,
        _ => return Err(magic()),
    };
    let number = |bytes: &[u8]| {
        let bytes = bytes.first_chunk::<4>().copied().unwrap_or_default();
        if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    let link_type = number(header.get(20..).unwrap_or_default()) & 0xffff;
    if link_type != ETHERNET {
        return Err(InvalidCapture::LinkType(link_type));
    }
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let bad = InvalidCapture::Record { record: packets.len() + 1, offset: capture.len() - rest.len() };
        let Some((head, body)) = rest.split_at_checked(16) else { return Err(bad) };
        let length = number(head.get(8..).unwrap_or_default());
        match body.split_at_checked(length as usize) {
            Some((packet, after)) if length <= SNAP_LENGTH => {
                packets.push(packet.to_vec());
                rest = after;
            }
            _ => return Err(bad),
        }
    }
    Ok(packets)
}

impl<W: Write + Send> Port for PcapPort<W> {
    fn receive(&mut self, max: usize, packets: &mut Vec<FrameChain>) {
        for _ in 0..max {
            // Looked at first: a packet is not lost for want of frames.
            let Some(next) = self.packets.as_slice().first() else { return };
            let Some(packet) = self.filled.copy_in(next) else { return };
            self.packets.next();
            packets.push(packet);
        }
    }

    fn refill(&mut self, pool: &mut FramePool) {
        const WANTED: usize = 256;
        let missing = WANTED.saturating_sub(self.filled.len());
        pool.give(&mut self.filled, missing);
    }

    fn transmit(&mut self, packet: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused> {
        if checksum.is_some() {
            return Err(Refused { chain: packet, reason: Refusal::NoChecksumOffload });
        }
        self.write(&packet.to_vec(&self.region.clone()));
        self.sent.put_chain(packet);
        Ok(())
    }

    fn abilities(&self) -> Abilities {
        Abilities::new(false, true)
    }

    fn kick(&mut self) -> Kick {
        Kick::Done
    }

    fn complete(&mut self, pool: &mut FramePool) {
        let sent = self.sent.len();
        self.sent.give(pool, sent);
    }

    fn poll_on<'a>(&'a self, _fds: &mut Vec<BorrowedFd<'a>>) {}

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    fn close(mut self: Box<Self>) -> Vec<Frame> {
        if let Err(error) = self.record.flush() {
            self.failed.get_or_insert(error);
        }
        std::iter::from_fn(|| self.filled.take().or_else(|| self.sent.take())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(packets: &[&[u8]]) -> Vec<u8> {
        let (region, mut ledger) = Region::new(16).unwrap();
        let mut file = Vec::new();
        let mut port = Box::new(PcapPort::new(&region, &EMPTY, &mut file).unwrap());
        let mut pool = ledger.pool(16);
        for packet in packets {
            port.transmit(pool.copy_in(packet).unwrap(), None).unwrap();
        }
        port.complete(&mut pool);
        assert_eq!(pool.len(), 16);
        assert!(port.failure().is_none());
        port.close();
        file
    }

    const EMPTY: [u8; 24] =
        [0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 1];

    #[test]
    fn what_is_recorded_can_be_played() {
        let packets: [&[u8]; 3] = [&[1; 60], &[2; 5000], &[3; 61]];
        let file = capture(&packets);
        let (region, mut ledger) = Region::new(16).unwrap();
        let mut port = PcapPort::new(&region, &file, io::sink()).unwrap();
        let mut pool = ledger.pool(16);
        let mut received = Vec::new();
        port.receive(10, &mut received);
        assert!(received.is_empty(), "no frames yet");
        port.refill(&mut pool);
        port.receive(2, &mut received);
        port.receive(2, &mut received);
        let bytes: Vec<Vec<u8>> = received.iter().map(|packet| packet.to_vec(&region)).collect();
        assert_eq!(bytes, packets.map(<[u8]>::to_vec));
        received.into_iter().for_each(|packet| pool.put_chain(packet));
        assert_eq!(pool.len() + Box::new(port).close().len(), 16, "no frame is lost");
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        let (region, _ledger) = Region::new(1).unwrap();
        let open = |bytes: &[u8]| PcapPort::new(&region, bytes, io::sink()).map(|_| ()).unwrap_err();
        assert_eq!(open(b"\x0a\x0d\x0d\x0a"), InvalidCapture::Magic(vec![0x0a, 0x0d, 0x0d, 0x0a]));
        let mut loopback = EMPTY;
        loopback[23] = 0;
        assert_eq!(open(&loopback), InvalidCapture::LinkType(0));
        let mut cut = capture(&[&[1; 60]]);
        cut.pop();
        assert_eq!(open(&cut), InvalidCapture::Record { record: 1, offset: 24 });
    }
}

//! The kernel's side of a socket, in memory: receive, transmit and all bookkeeping run in a test without a socket.
//!
//! [`pair`] gives [`Queues`] as a socket has them, and a [`Wire`] that holds the other ends. What is put on the wire is
//! received, what is transmitted can be taken off it. It splits packets over chunks as the kernel does.
//!
//! The wire never makes a second owner of a chunk either: it claims a chunk from the socket's name to its own, by
//! compare-exchange in the chunk's record, for as long as it copies. (This crate's own tests let it lie about addresses, on
//! one thread. It must not do so beside a receiving thread, which checks the record without compare-exchange.)

use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::frame::Frame;
use crate::if_xdp::TX_METADATA_LEN;
use crate::queues::{Abilities, Queues, Rings, TxChecksum};
use crate::region::{CHUNK_ROOM, CHUNK_SIZE, HEADROOM, HeldIn, Holder, Region};
use crate::ring::{self, Consumer, Descriptor, Producer};

/// The kernel's ends of the four rings.
pub struct Wire {
    region: Region,
    user: Holder,
    own: Holder,
    abilities: Abilities,
    fill: Consumer<u64>,
    receive: Producer<Descriptor>,
    transmit: Consumer<Descriptor>,
    completion: Producer<u64>,
}

/// A packet taken off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// How many frames it had.
    pub frames: usize,
    /// The checksum that the device was asked to complete. The wire does not do it.
    pub checksum: Option<TxChecksum>,
}

/// Rings of `size` entries each, and the wire at their other ends. The indices begin shortly before they wrap around.
///
/// # Errors
/// [`Error::RingSize`] if `size` is not a power of two.
pub fn pair(region: &Region, size: u32, abilities: Abilities) -> Result<(Queues, Wire), Error> {
    let start = u32::MAX - 5;
    let bad = || Error::RingSize { ring: "in-memory", size };
    let (fill, fill_wire) = ring::pair(size, start).ok_or_else(bad)?;
    let (receive_wire, receive) = ring::pair(size, start).ok_or_else(bad)?;
    let (transmit, transmit_wire) = ring::pair(size, start).ok_or_else(bad)?;
    let (completion_wire, completion) = ring::pair(size, start).ok_or_else(bad)?;
    let (user, own) = (region.new_holder()?, region.new_holder()?);
    let rings = Rings { fill, receive, transmit, completion };
    let wire = Wire {
        region: region.clone(),
        user,
        own,
        abilities,
        fill: fill_wire,
        receive: receive_wire,
        transmit: transmit_wire,
        completion: completion_wire,
    };
    Ok((Queues::new(region, user, rings, abilities), wire))
}

impl Wire {
    /// A packet arrives. False, and it is dropped, if the fill ring has too few frames or the receive ring no room.
    pub fn deliver(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return self.deliver_parts([bytes].into_iter());
        }
        self.deliver_parts(bytes.chunks(CHUNK_ROOM))
    }

    /// As [`Wire::deliver`], of a packet that lies in these buffers. None may be larger than a chunk has room for.
    pub fn deliver_parts<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
        let frames = parts.len() as u32;
        let fits = frames == 1 || self.abilities.multi_buffer;
        if !fits || self.fill.waiting() < frames || self.receive.room(frames) < frames {
            return false;
        }
        for (number, part) in (1..).zip(parts) {
            let options = if number < frames { libc::XDP_PKT_CONTD } else { 0 };
            let Some(address) = self.fill.read() else { return false };
            let address = address / CHUNK_SIZE as u64 * CHUNK_SIZE as u64 + HEADROOM as u64;
            let Some(mut frame) = self.claim(address, part.len() as u32, self.user.fill()) else {
                return false;
            };
            self.region.data_mut(&mut frame).copy_from_slice(part);
            self.hand_back(frame, self.user.fill());
            let descriptor = Descriptor { address, len: part.len() as u32, options };
            if !self.receive.write(descriptor) {
                return false;
            }
        }
        self.fill.release();
        self.receive.publish();
        true
    }

    /// Takes off everything published for transmission, and completes it.
    pub fn take(&mut self) -> Vec<Sent> {
        let sent = self.take_without_completion();
        self.completion.publish();
        sent
    }

    /// Takes off everything published for transmission; the completions are seen only after the next [`Wire::take`].
    pub fn take_without_completion(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut packet = Sent { bytes: Vec::new(), frames: 0, checksum: None };
        self.transmit.waiting();
        while let Some(Descriptor { address, len, options }) = self.transmit.read() {
            let metadata = if options & libc::XDP_TX_METADATA != 0 { TX_METADATA_LEN } else { 0 };
            // As the kernel: the window with the metadata before it must lie in the chunk.
            let begin = address.wrapping_sub(metadata as u64);
            let Some(frame) = self.claim(begin, len + metadata as u32, self.user.transmit()) else {
                continue;
            };
            let (before, bytes) = self.region.data(&frame).split_at(metadata);
            packet.bytes.extend_from_slice(bytes);
            packet.frames += 1;
            if let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = *before {
                let (start, offset) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
                packet.checksum = Some(TxChecksum { start, offset });
            }
            self.hand_back(frame, self.user.transmit());
            let _ = self.completion.write(address);
            if options & libc::XDP_PKT_CONTD == 0 {
                let next = Sent { bytes: Vec::new(), frames: 0, checksum: None };
                sent.push(std::mem::replace(&mut packet, next));
            }
        }
        self.transmit.release();
        sent
    }

    /// Frames in the fill ring.
    pub fn filled(&mut self) -> u32 {
        self.fill.waiting()
    }

    /// Says that a packet has arrived where the caller claims, true or not.
    #[cfg(test)]
    pub(crate) fn lie_received(&mut self, descriptor: Descriptor) -> bool {
        let written = self.receive.write(descriptor);
        self.receive.publish();
        written
    }

    /// Says that a frame was transmitted, true or not.
    #[cfg(test)]
    pub(crate) fn lie_completed(&mut self, address: u64) -> bool {
        let written = self.completion.write(address);
        self.completion.publish();
        written
    }

    /// Asks the user to wake the kernel, for receiving and transmitting.
    pub fn ask_for_wakeup(&mut self, wanted: bool) {
        self.fill.set_needs_wakeup(wanted);
        self.transmit.set_needs_wakeup(wanted);
    }

    /// Makes the wire the owner of a chunk that the user's rings hold.
    fn claim(&self, address: u64, len: u32, from: HeldIn) -> Option<Frame> {
        let record = self.region.record(u32::try_from(address / CHUNK_SIZE as u64).ok()?)?;
        let order = Ordering::AcqRel;
        let own = self.own.fill();
        record.holder.compare_exchange(from.number(), own.number(), order, Ordering::Relaxed).ok()?;
        self.region.take_back(address, len, own)
    }

    fn hand_back(&self, frame: Frame, to: HeldIn) {
        // Never refused: `claim` made it a frame of this region.
        let _ = self.region.hand_over(frame, to);
    }
}

//! The four rings of a socket and the frames in them, without the socket.
//!
//! ```text
//!   pool --refill--> [fill] ----> kernel ----> [receive] --receive--> packets
//!   pool <-complete- [completion] <- kernel <- [transmit] <-transmit- packets
//! ```
//!
//! **What it guarantees.** A frame given to a ring becomes an address, and its chunk's record names this holder and ring.
//! An address that comes back becomes a frame again only if the record says so; anything else the kernel says is counted
//! and ignored. So no answer of the kernel, however wrong, can make a second owner of a chunk, lead outside the region or
//! cause a panic. Packets are transmitted whole or not at all, their frames side by side in the ring.
//!
//! Nothing here is a system call or allocates. The rings may be a socket's or in memory ([`crate::twin`]).

use crate::frame::{Frame, FrameChain, MAX_CHAIN, Untransmittable};
use crate::if_xdp::{TX_METADATA_LEN, tx_checksum_request};
use crate::pool::FramePool;
use crate::region::{Holder, Region};
use crate::ring::{Consumer, Descriptor, Producer};

/// Least number of free fill entries that is worth a refill: single entries cost a cache miss each.
const REFILL_BATCH: u32 = 32;

/// What the device behind the rings can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// It completes a packet's checksum when [`Queues::transmit`] asks for it. If false, do it in software.
    pub tx_checksum: bool,
    /// Packets may have more than one frame, in both directions.
    pub multi_buffer: bool,
    /// Bytes before each transmitted frame that the registration set aside for metadata: 0 or 24.
    pub(crate) metadata: usize,
}

impl Abilities {
    /// What a device that can do everything can do, or nothing but whole frames with complete checksums.
    pub fn new(tx_checksum: bool, multi_buffer: bool) -> Abilities {
        Abilities { tx_checksum, multi_buffer, metadata: if tx_checksum { TX_METADATA_LEN } else { 0 } }
    }
}

/// Asks the device to complete a checksum: the sum over the packet from `start` on is stored at `start + offset`, where the
/// sum of the pseudo header stands already. As `skb->csum_start` and `csum_offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxChecksum {
    /// Bytes from the begin of the packet (its Ethernet header) to the layer-4 header.
    pub start: u16,
    /// Bytes from the layer-4 header to its checksum field: 16 for TCP, 6 for UDP.
    pub offset: u16,
}

/// Why [`Queues::transmit`] did not take a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ring has not enough room now; try again after the kernel has transmitted something.
    RingFull,
    /// A checksum was asked for and [`Abilities::tx_checksum`] is false.
    NoChecksumOffload,
    /// The checksum field would not lie in the first frame.
    ChecksumOutside,
    /// More than one frame and [`Abilities::multi_buffer`] is false.
    TooManyFrames,
    /// A frame has fewer than 24 bytes before its window, which the metadata needs.
    NoHeadroom,
    /// A frame has no bytes: the kernel would never complete it.
    Empty,
    /// The packet's frames are of another region.
    ForeignRegion,
}

/// A packet that was not transmitted, and why. It is still the caller's.
#[derive(Debug)]
pub struct Refused {
    /// The packet, unchanged.
    pub chain: FrameChain,
    /// Why it was refused.
    pub reason: Refusal,
}

/// What went wrong so far. All 0 with a correct kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Descriptors received whose chunk was not in the fill ring, or whose bytes were not inside the chunk.
    pub invalid_descriptors: u64,
    /// Completions of chunks that were not being transmitted.
    pub invalid_completions: u64,
    /// Received packets that were discarded because of an invalid descriptor or more than 18 frames.
    pub broken_packets: u64,
    /// Impossible ring indices.
    pub corrupt_indices: u64,
}

/// The rings as the user of a socket sees them.
pub(crate) struct Rings {
    pub(crate) fill: Producer<u64>,
    pub(crate) receive: Consumer<Descriptor>,
    pub(crate) transmit: Producer<Descriptor>,
    pub(crate) completion: Consumer<u64>,
}

/// The four rings of one device queue, and the account of the frames in them. One thread at a time.
pub struct Queues {
    region: Region,
    holder: Holder,
    rings: Rings,
    abilities: Abilities,
    /// The begin of a packet whose rest the kernel has not shown yet.
    partial: Option<FrameChain>,
    /// The rest of the packet now arriving is to be discarded.
    broken: bool,
    /// Frames of discarded packets, filled again first. Capacity: as many as may be discarded between two refills;
    /// what does not fit stays held and comes back at close.
    spare: Vec<Frame>,
    faults: Faults,
}

impl Queues {
    pub(crate) fn new(region: &Region, holder: Holder, rings: Rings, abilities: Abilities) -> Queues {
        let spare = Vec::with_capacity(rings.receive.size() as usize);
        let region = region.clone();
        let (partial, broken, faults) = (None, false, Faults::default());
        Queues { region, holder, rings, abilities, partial, broken, spare, faults }
    }

    /// The region whose frames circulate here.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// What the device can do.
    #[inline]
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// The kernel turned out not to take packets of several buffers.
    pub(crate) fn lose_multi_buffer(&mut self) {
        self.abilities.multi_buffer = false;
    }

    /// Takes up to `max` received packets out of the ring, in order. Returns how many.
    #[inline]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(FrameChain)) -> usize {
        if self.rings.receive.waiting() == 0 {
            return 0;
        }
        let mut packets = 0;
        while packets < max {
            let Some(descriptor) = self.rings.receive.read() else { break };
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            let (address, len) = (descriptor.address, descriptor.len);
            let frame = self.region.take_back(address, len, self.holder.fill());
            match frame {
                // By far most packets: one frame.
                Some(frame) if !more && self.partial.is_none() && !self.broken => {
                    packets += 1;
                    self.region.prefetch(&frame);
                    sink(FrameChain::single(frame));
                }
                frame => {
                    if let Some(packet) = self.assemble(frame, more) {
                        packets += 1;
                        sink(packet);
                    }
                }
            }
        }
        self.rings.receive.release();
        packets
    }

    /// Adds a frame to the packet that is arriving. Returns the packet when it is complete and sound.
    #[cold]
    fn assemble(&mut self, frame: Option<Frame>, more: bool) -> Option<FrameChain> {
        let left_over = match (frame, self.partial.as_mut()) {
            (None, _) => {
                self.faults.invalid_descriptors += 1;
                self.broken = true;
                None
            }
            (Some(frame), _) if self.broken => Some(frame),
            (Some(frame), None) => {
                self.partial = Some(FrameChain::single(frame));
                None
            }
            // Only fails for a packet of more than MAX_CHAIN frames.
            (Some(frame), Some(chain)) => chain.push(&self.region, frame).err(),
        };
        if let Some(frame) = left_over {
            self.broken = true;
            self.discard(frame);
        }
        if more {
            return None;
        }
        let packet = self.partial.take();
        if !std::mem::take(&mut self.broken) {
            return packet;
        }
        self.faults.broken_packets += 1;
        let mut rest = packet;
        while let Some(chain) = rest {
            let Ok((frame, tail)) = chain.split_head(&self.region) else { break };
            self.discard(frame);
            rest = tail;
        }
        None
    }

    /// Keeps a frame for the next refill.
    fn discard(&mut self, frame: Frame) {
        if self.spare.len() < self.spare.capacity() {
            self.spare.push(frame);
        } else {
            // Noted as held without being in a ring: `close` gives it back.
            let _ = self.region.hand_over(frame, self.holder.fill());
        }
    }

    /// Gives the kernel frames for packets to come, in bulk: nothing happens until a worthwhile number is missing.
    /// Returns how many were given. An empty pool leaves the device without frames: it drops and counts that.
    #[inline]
    pub fn refill(&mut self, pool: &mut FramePool) -> usize {
        let size = self.rings.fill.size();
        let room = self.rings.fill.room(size);
        if room < REFILL_BATCH.min(size / 2).max(1) {
            return 0;
        }
        let mut given = 0;
        while given < room {
            let Some(frame) = self.spare.pop().or_else(|| pool.take()) else { break };
            match self.region.hand_over(frame, self.holder.fill()) {
                // The whole chunk is meant: the kernel leaves its headroom and ignores the offset in the chunk.
                Ok(address) if self.rings.fill.write(address) => given += 1,
                // There is room, see above. Should it happen, the chunk stays held and comes back at close.
                Ok(_) => break,
                // Of another region: the pool counts it.
                Err(foreign) => {
                    pool.put(foreign);
                    break;
                }
            }
        }
        self.rings.fill.publish();
        given as usize
    }

    /// Puts a packet into the transmit ring. The kernel sees it after [`Queues::publish`].
    ///
    /// # Errors
    /// The packet comes back, unchanged, with the reason.
    #[inline]
    pub fn transmit(&mut self, chain: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused> {
        if let Err(reason) = self.admit(&chain, checksum) {
            return Err(Refused { chain, reason });
        }
        let mut options = 0;
        let mut rest = chain;
        if let Some(TxChecksum { start, offset }) = checksum {
            // `admit` made sure of the headroom. The window goes back to where it was.
            if rest.grow_front(TX_METADATA_LEN) {
                if let Some(bytes) = rest.data_mut(&self.region).get_mut(..TX_METADATA_LEN) {
                    bytes.copy_from_slice(&tx_checksum_request(start, offset));
                    options = libc::XDP_TX_METADATA;
                }
                let _ = rest.trim_front(TX_METADATA_LEN);
            }
        }
        loop {
            // Neither refusal can happen after `admit`: all frames are of this region, and there is room for all.
            let Ok((frame, tail)) = rest.split_head(&self.region) else { return Ok(()) };
            if tail.is_some() {
                options |= libc::XDP_PKT_CONTD;
            }
            let len = frame.len() as u32;
            if let Ok(address) = self.region.hand_over(frame, self.holder.transmit()) {
                let written = self.rings.transmit.write(Descriptor { address, len, options });
                debug_assert!(written);
            }
            let Some(tail) = tail else { return Ok(()) };
            rest = tail;
            options = 0;
        }
    }

    /// Would the kernel transmit this, and is there room? What it would refuse it also never completes, or it stops at it
    /// for ever; so it must not get there.
    #[inline]
    fn admit(&mut self, chain: &FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refusal> {
        let count = chain.count();
        if count > 1 && !self.abilities.multi_buffer || count > MAX_CHAIN {
            return Err(Refusal::TooManyFrames);
        }
        if let Some(TxChecksum { start, offset }) = checksum {
            if !self.abilities.tx_checksum {
                return Err(Refusal::NoChecksumOffload);
            }
            if usize::from(start) + usize::from(offset) + 2 > chain.head().len() {
                return Err(Refusal::ChecksumOutside);
            }
        }
        chain.transmittable(&self.region, self.abilities.metadata).map_err(|why| match why {
            Untransmittable::Foreign => Refusal::ForeignRegion,
            Untransmittable::Empty => Refusal::Empty,
            Untransmittable::Headroom => Refusal::NoHeadroom,
        })?;
        if (self.rings.transmit.room(count as u32) as usize) < count {
            return Err(Refusal::RingFull);
        }
        Ok(())
    }

    /// Shows the packets in the transmit ring to the kernel.
    #[inline]
    pub fn publish(&mut self) {
        self.rings.transmit.publish();
    }

    /// Descriptors that the kernel has not taken out of the transmit ring yet.
    #[inline]
    pub fn transmit_pending(&mut self) -> u32 {
        self.rings.transmit.pending()
    }

    /// Takes the frames back that the kernel has transmitted. Returns how many.
    #[inline]
    pub fn complete(&mut self, pool: &mut FramePool) -> usize {
        if self.rings.completion.waiting() == 0 {
            return 0;
        }
        let mut count = 0;
        while let Some(address) = self.rings.completion.read() {
            match self.region.take_back(address, 0, self.holder.transmit()) {
                Some(frame) => {
                    count += 1;
                    pool.put(frame);
                }
                None => self.faults.invalid_completions += 1,
            }
        }
        self.rings.completion.release();
        count
    }

    /// Does the kernel wait for a wake-up before it looks at the fill ring?
    #[inline]
    pub fn receive_needs_wakeup(&self) -> bool {
        self.rings.fill.needs_wakeup()
    }

    /// Does the kernel wait for a wake-up before it looks at the transmit ring?
    #[inline]
    pub fn transmit_needs_wakeup(&self) -> bool {
        self.rings.transmit.needs_wakeup()
    }

    /// What the kernel did wrong so far.
    pub fn faults(&self) -> Faults {
        Faults { corrupt_indices: self.rings.corrupt(), ..self.faults }
    }

    /// Ends the use of the rings. All frames that were in them or on the way come back, each exactly once.
    pub fn close(self) -> Vec<Frame> {
        self.close_with(|| ())
    }

    /// As `close`; `kernel_gone` is called after the rings are unmapped and must end the kernel's use of the memory.
    pub(crate) fn close_with(self, kernel_gone: impl FnOnce()) -> Vec<Frame> {
        let Queues { region, holder, rings, partial, spare, .. } = self;
        drop(rings);
        kernel_gone();
        let mut frames = region.reclaim(holder);
        frames.extend(spare);
        let mut rest = partial;
        while let Some(chain) = rest {
            let Ok((frame, tail)) = chain.split_head(&region) else { break };
            frames.push(frame);
            rest = tail;
        }
        frames
    }
}

impl Rings {
    fn corrupt(&self) -> u64 {
        self.fill.corrupt() + self.receive.corrupt() + self.transmit.corrupt() + self.completion.corrupt()
    }
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").field("abilities", &self.abilities).field("faults", &self.faults()).finish()
    }
}

#[cfg(test)]
mod tests;

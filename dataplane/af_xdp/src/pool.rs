//! Where frames wait: the ledger that owns all frames of a region at first, and the pools that workers take from it.
//!
//! A [`FramePool`] is a worker's own stack of free frames. It has room for every frame of the region from the start, so
//! giving a frame back never allocates and never fails, and the frame used last, still in the cache, is taken first.
//! Nothing here is shared between threads; frames move between them inside chains or whole pools.

use crate::frame::{Frame, FrameChain};
use crate::region::{CHUNK_ROOM, Region};

/// A stack of free frames of one region.
pub struct FramePool {
    region: Region,
    /// Chunk numbers. Each stands for an owned frame: the pool made it by consuming a `Frame`.
    free: Vec<u32>,
    foreign: u64,
}

impl FramePool {
    /// An empty pool with room for every frame of the region.
    pub fn empty(region: &Region) -> FramePool {
        FramePool { region: region.clone(), free: Vec::with_capacity(region.chunks() as usize), foreign: 0 }
    }

    /// The region whose frames these are.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Free frames.
    #[inline]
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Is no frame free?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// A free frame, with an empty window behind [`HEADROOM`](crate::HEADROOM) bytes and whatever bytes its last user left.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop().map(|chunk| Frame::own_empty(self.region.id(), chunk))
    }

    /// Gives a frame back. One of another region is not taken but counted in [`FramePool::foreign`] and lost.
    #[inline]
    pub fn put(&mut self, frame: Frame) {
        if self.region.owns(&frame) {
            // Never grows: the capacity is one entry a chunk, and each chunk has one owner.
            self.free.push(frame.chunk());
        } else {
            self.foreign += 1;
        }
    }

    /// Gives all frames of a packet back.
    #[inline]
    pub fn put_chain(&mut self, chain: FrameChain) {
        let mut rest = Some(chain);
        while let Some(chain) = rest {
            match chain.split_head(&self.region) {
                Ok((frame, tail)) => {
                    self.put(frame);
                    rest = tail;
                }
                Err(chain) => {
                    self.foreign += chain.count() as u64;
                    return;
                }
            }
        }
    }

    /// Moves up to `count` frames into another pool of the same region. Returns how many.
    pub fn give(&mut self, other: &mut FramePool, count: usize) -> usize {
        if self.region.id() != other.region.id() {
            return 0;
        }
        let keep = self.free.len().saturating_sub(count);
        let moved = self.free.len() - keep;
        other.free.extend(self.free.drain(keep..));
        moved
    }

    /// Frames of another region that were put here by mistake and are lost. Always 0 in a correct program.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// A packet with these bytes, in as many frames as it needs. `None`, and nothing taken, if the pool has too few
    /// frames or the packet would need more than [`MAX_CHAIN`](crate::MAX_CHAIN).
    pub fn copy_in(&mut self, bytes: &[u8]) -> Option<FrameChain> {
        let (head, rest) = bytes.split_at(bytes.len().min(CHUNK_ROOM));
        let frames = 1 + rest.len().div_ceil(CHUNK_ROOM);
        if frames > self.len() || frames > crate::MAX_CHAIN {
            return None;
        }
        let mut chain = FrameChain::single(self.take_with(head)?);
        for part in rest.chunks(CHUNK_ROOM) {
            let frame = self.take_with(part)?;
            if let Err(frame) = chain.push(&self.region, frame) {
                // Cannot be: the count was checked above. Still, no frame gets lost.
                self.put(frame);
                self.put_chain(chain);
                return None;
            }
        }
        Some(chain)
    }

    /// A frame that holds `bytes`, at most [`CHUNK_ROOM`] of them.
    fn take_with(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.take()?;
        if !frame.set_len(bytes.len()) {
            self.put(frame);
            return None;
        }
        self.region.data_mut(&mut frame).copy_from_slice(bytes);
        Some(frame)
    }
}

impl std::fmt::Debug for FramePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FramePool").field("region", &self.region.id()).field("free", &self.len()).finish()
    }
}

/// Owner of all frames of a region that nobody was given yet, and of those given back for good.
///
/// Lives on the control side. `total() - free()` frames are with workers, sockets and in packets; when all are
/// closed and given back the two are equal, and a test can assert that no frame was lost.
#[derive(Debug)]
pub struct FrameLedger {
    pool: FramePool,
}

impl FrameLedger {
    /// Called once for each region, by `Region::new`, which makes it the only source of frames.
    pub(crate) fn of_new_region(region: Region) -> FrameLedger {
        let mut pool = FramePool::empty(&region);
        // In reverse, so that the first frames taken are the lowest.
        pool.free.extend((0..region.chunks()).rev());
        FrameLedger { pool }
    }

    /// The region whose frames these are.
    pub fn region(&self) -> &Region {
        self.pool.region()
    }

    /// Frames of the region in all.
    pub fn total(&self) -> usize {
        self.pool.region().chunks() as usize
    }

    /// Frames that are here.
    pub fn free(&self) -> usize {
        self.pool.len()
    }

    /// A pool with `count` frames, or with all that are left if there are fewer: look at its length.
    pub fn pool(&mut self, count: usize) -> FramePool {
        let mut pool = FramePool::empty(self.pool.region());
        self.pool.give(&mut pool, count);
        pool
    }

    /// Moves up to `count` frames into an existing pool. Returns how many.
    pub fn give(&mut self, pool: &mut FramePool, count: usize) -> usize {
        self.pool.give(pool, count)
    }

    /// Takes back frames, for instance those of a closed socket.
    pub fn give_back(&mut self, frames: impl IntoIterator<Item = Frame>) {
        frames.into_iter().for_each(|frame| self.pool.put(frame));
    }

    /// Takes back a pool that is no longer used.
    pub fn give_back_pool(&mut self, mut pool: FramePool) {
        let all = pool.len();
        pool.give(&mut self.pool, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_is_lost_or_doubled() {
        let (region, mut ledger) = Region::new(64).unwrap();
        let mut a = ledger.pool(40);
        let mut b = ledger.pool(40);
        assert_eq!((a.len(), b.len(), ledger.free(), ledger.total()), (40, 24, 0, 64));
        assert_eq!(a.give(&mut b, 100), 40);
        let mut chunks: Vec<u32> = std::iter::from_fn(|| b.take()).map(|frame| frame.chunk()).collect();
        chunks.sort_unstable();
        assert_eq!(chunks, (0..64).collect::<Vec<_>>());
        assert!(b.take().is_none());
        drop(region);
    }

    #[test]
    fn giving_back_never_allocates() {
        let (_, mut ledger) = Region::new(64).unwrap();
        let mut pool = ledger.pool(0);
        let capacity = pool.free.capacity();
        ledger.give(&mut pool, 64);
        let frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        frames.into_iter().for_each(|frame| pool.put(frame));
        assert_eq!((pool.len(), pool.free.capacity()), (64, capacity));
        ledger.give_back_pool(pool);
        assert_eq!(ledger.free(), ledger.total());
    }

    #[test]
    fn foreign_frames_are_refused_and_counted() {
        let (_, mut ours) = Region::new(4).unwrap();
        let (_, mut theirs) = Region::new(4).unwrap();
        let mut pool = ours.pool(4);
        let mut other = theirs.pool(4);
        pool.put(other.take().unwrap());
        assert_eq!((pool.len(), pool.foreign()), (4, 1));
        assert_eq!(pool.give(&mut other, 1), 0);
    }

    #[test]
    fn too_large_packets_take_nothing() {
        let (_, mut ledger) = Region::new(20).unwrap();
        let mut pool = ledger.pool(20);
        assert!(pool.copy_in(&vec![0; crate::MAX_CHAIN * CHUNK_ROOM + 1]).is_none());
        assert_eq!(pool.len(), 20);
        let empty = pool.copy_in(&[]).unwrap();
        assert_eq!((empty.count(), empty.total_len()), (1, 0));
        pool.put_chain(empty);
    }
}

//! Frames: the owners of chunks, and chains of them that are a packet.
//!
//! A [`Frame`] is the right to read and write one chunk of a [`Region`], with a window (offset and length) that says
//! where in the chunk its bytes are. It is small (12 bytes), can be sent to another thread, and can't be copied. Nothing
//! happens when it is dropped but that its chunk is out of use from then on: give it back to a
//! [`FramePool`](crate::FramePool).
//!
//! A [`FrameChain`] is a packet: one to eighteen frames. Only its head lies in the value; the others are linked
//! through the region's chunk records, so a chain is 24 bytes and needs no allocation. The links of a chain are
//! trustworthy because the head can't be exchanged: a chain lends its head's bytes and window, never `&mut Frame`.

use std::sync::atomic::Ordering;

use crate::region::{CHUNK_SIZE, HEADROOM, Region};

/// Most frames in a packet: a head and 17 fragments, what the kernel accepts for transmission (MAX_SKB_FRAGS).
pub const MAX_CHAIN: usize = 18;

/// One owned chunk and a window in it. Invariant: `offset + len <= CHUNK_SIZE`, the chunk exists in its region, and
/// no other `Frame` has the same region and chunk.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost to its region: give it back to a pool"]
pub struct Frame {
    region: u32,
    chunk: u32,
    offset: u16,
    len: u16,
}

const _: () = assert!(size_of::<Frame>() == 12 && size_of::<FrameChain>() == 24);

impl Frame {
    /// Makes the owner of a chunk. Only for the ledger of a new region, pools, chains, and sockets that have just
    /// checked that they hold the chunk: see the invariant in `region`. `None` if the window is not in the chunk.
    pub(crate) fn own(region: u32, chunk: u32, offset: u16, len: u16) -> Option<Frame> {
        let fits = usize::from(offset) + usize::from(len) <= CHUNK_SIZE;
        fits.then_some(Frame { region, chunk, offset, len })
    }

    /// The owner of a chunk with an empty window behind the usual headroom.
    pub(crate) fn own_empty(region: u32, chunk: u32) -> Frame {
        Frame { region, chunk, offset: HEADROOM as u16, len: 0 }
    }

    /// Where the window begins in the chunk, in bytes.
    #[inline]
    pub fn offset(&self) -> usize {
        usize::from(self.offset)
    }

    /// Length of the window in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Bytes in the chunk before the window: how much [`Frame::grow_front`] can take.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset()
    }

    /// Bytes in the chunk behind the window.
    #[inline]
    pub fn tailroom(&self) -> usize {
        CHUNK_SIZE - self.offset() - self.len()
    }

    /// Sets the window. False, and nothing changed, if it does not lie in the chunk. The bytes stay what they were:
    /// a window that grows shows what an earlier packet left there.
    #[inline]
    #[must_use = "false means that the window was not set"]
    pub fn set_window(&mut self, offset: usize, len: usize) -> bool {
        // Compared one by one: the sum of two usize could wrap.
        if offset > CHUNK_SIZE || len > CHUNK_SIZE - offset {
            return false;
        }
        self.offset = offset as u16;
        self.len = len as u16;
        true
    }

    /// Moves the window's begin forward by `count` bytes. False if the window is shorter.
    #[inline]
    #[must_use = "false means that the window was not changed"]
    pub fn trim_front(&mut self, count: usize) -> bool {
        count <= self.len() && self.set_window(self.offset() + count, self.len() - count)
    }

    /// Moves the window's begin back by `count` bytes, into the headroom. False if there is less room.
    #[inline]
    #[must_use = "false means that the window was not changed"]
    pub fn grow_front(&mut self, count: usize) -> bool {
        count <= self.headroom() && self.set_window(self.offset() - count, self.len() + count)
    }

    /// Sets the window's length, keeping its begin. False if the chunk ends before.
    #[inline]
    #[must_use = "false means that the window was not changed"]
    pub fn set_len(&mut self, len: usize) -> bool {
        self.set_window(self.offset(), len)
    }

    #[inline]
    pub(crate) fn region(&self) -> u32 {
        self.region
    }

    #[inline]
    pub(crate) fn chunk(&self) -> u32 {
        self.chunk
    }

    fn pack(&self) -> u64 {
        u64::from(self.chunk) << 32 | u64::from(self.offset) << 16 | u64::from(self.len)
    }

    /// Gives up ownership to a link. Only a chain calls it.
    fn into_link(self) -> u64 {
        self.pack()
    }

    /// Takes ownership back from a link. Only a chain calls it, once for each link it wrote.
    fn from_link(region: u32, link: u64) -> Frame {
        Frame { region, chunk: (link >> 32) as u32, offset: (link >> 16) as u16, len: link as u16 }
    }
}

/// A packet: 1 to [`MAX_CHAIN`] owned frames of one region, in the order of their bytes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a chain that is dropped is lost to its region: give it back to a pool"]
pub struct FrameChain {
    head: Frame,
    /// Chunk of the last frame, whose record gets the link of the next one pushed.
    last: u32,
    /// Bytes in all frames but the head.
    rest: u32,
    count: u8,
}

impl From<Frame> for FrameChain {
    fn from(frame: Frame) -> Self {
        FrameChain::single(frame)
    }
}

impl FrameChain {
    /// A packet of one frame.
    #[inline]
    pub fn single(frame: Frame) -> FrameChain {
        FrameChain { last: frame.chunk, rest: 0, count: 1, head: frame }
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The frame comes back if the chain is full, or if chain and frame are not both of `region`.
    #[inline]
    pub fn push(&mut self, region: &Region, frame: Frame) -> Result<(), Frame> {
        let fits = usize::from(self.count) < MAX_CHAIN && region.owns(&self.head) && region.owns(&frame);
        let Some(record) = region.record(self.last).filter(|_| fits) else { return Err(frame) };
        self.last = frame.chunk;
        self.rest += u32::from(frame.len);
        self.count += 1;
        record.link.store(frame.into_link(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the head off: the head, and the rest if there is any.
    ///
    /// # Errors
    /// The chain comes back unchanged if it is not of `region`.
    #[inline]
    pub fn split_head(self, region: &Region) -> Result<(Frame, Option<FrameChain>), FrameChain> {
        if self.count == 1 {
            return Ok((self.head, None));
        }
        let Some(record) = region.record(self.head.chunk).filter(|_| region.owns(&self.head)) else {
            return Err(self);
        };
        let next = Frame::from_link(self.head.region, record.link.load(Ordering::Relaxed));
        let rest = self.rest - u32::from(next.len);
        let tail = FrameChain { head: next, last: self.last, rest, count: self.count - 1 };
        Ok((self.head, Some(tail)))
    }

    /// The only frame of the chain.
    ///
    /// # Errors
    /// The chain comes back if it has more than one.
    #[inline]
    pub fn into_single(self) -> Result<Frame, FrameChain> {
        if self.count == 1 { Ok(self.head) } else { Err(self) }
    }

    /// The first frame, which holds the headers.
    #[inline]
    pub fn head(&self) -> &Frame {
        &self.head
    }

    /// How many frames: 1 to [`MAX_CHAIN`].
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes of the packet in all its frames.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.head.len() + self.rest as usize
    }

    /// The head's bytes. Empty for a chain of another region.
    #[inline]
    pub fn data<'a>(&'a self, region: &'a Region) -> &'a [u8] {
        region.data(&self.head)
    }

    /// The head's bytes, to write. Empty for a chain of another region.
    #[inline]
    pub fn data_mut<'a>(&'a mut self, region: &'a Region) -> &'a mut [u8] {
        region.data_mut(&mut self.head)
    }

    /// [`Frame::set_window`] of the head.
    #[inline]
    #[must_use = "false means that the window was not set"]
    pub fn set_head_window(&mut self, offset: usize, len: usize) -> bool {
        self.head.set_window(offset, len)
    }

    /// [`Frame::trim_front`] of the head.
    #[inline]
    #[must_use = "false means that the window was not changed"]
    pub fn trim_front(&mut self, count: usize) -> bool {
        self.head.trim_front(count)
    }

    /// [`Frame::grow_front`] of the head.
    #[inline]
    #[must_use = "false means that the window was not changed"]
    pub fn grow_front(&mut self, count: usize) -> bool {
        self.head.grow_front(count)
    }

    /// The bytes of every frame in order. Nothing for a chain of another region.
    pub fn slices<'a>(&'a self, region: &'a Region) -> Slices<'a> {
        let left = if region.owns(&self.head) { self.count } else { 0 };
        let current = Frame::from_link(self.head.region, self.head.pack());
        Slices { region, current, left, chain: std::marker::PhantomData }
    }

    /// May the kernel transmit every frame: none empty, and each with `headroom` bytes before its window?
    #[inline]
    pub(crate) fn transmittable(&self, region: &Region, headroom: usize) -> Result<(), Untransmittable> {
        let fits = |frame: &Frame| match () {
            () if frame.len == 0 => Err(Untransmittable::Empty),
            () if frame.offset() < headroom => Err(Untransmittable::Headroom),
            () => Ok(()),
        };
        if !region.owns(&self.head) {
            return Err(Untransmittable::Foreign);
        }
        fits(&self.head)?;
        let mut chunk = self.head.chunk;
        for _ in 1..self.count {
            let record = region.record(chunk).ok_or(Untransmittable::Foreign)?;
            let next = Frame::from_link(self.head.region, record.link.load(Ordering::Relaxed));
            fits(&next)?;
            chunk = next.chunk;
        }
        Ok(())
    }

    /// Calls `visit` with the bytes of every frame in order, to write. Nothing for a chain of another region.
    pub fn for_each_mut(&mut self, region: &Region, mut visit: impl FnMut(&mut [u8])) {
        if !region.owns(&self.head) {
            return;
        }
        visit(region.data_mut(&mut self.head));
        let mut chunk = self.head.chunk;
        for _ in 1..self.count {
            let Some(record) = region.record(chunk) else { return };
            let mut next = Frame::from_link(self.head.region, record.link.load(Ordering::Relaxed));
            visit(region.data_mut(&mut next));
            chunk = next.chunk;
        }
    }

    /// A copy of all bytes. Allocates: for tests, records and control paths.
    pub fn to_vec(&self, region: &Region) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.total_len());
        self.slices(region).for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }
}

/// Why a chain can't be transmitted as it is.
pub(crate) enum Untransmittable {
    Foreign,
    Empty,
    Headroom,
}

/// The bytes of a chain's frames in order: see [`FrameChain::slices`].
pub struct Slices<'a> {
    region: &'a Region,
    /// An alias of a frame of the borrowed chain: only read through, never given out.
    current: Frame,
    left: u8,
    chain: std::marker::PhantomData<&'a FrameChain>,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let record = self.region.record(self.current.chunk)?;
        // The link of the last frame is meaningless, and not used because `left` is 0 then.
        let next = Frame::from_link(self.current.region, record.link.load(Ordering::Relaxed));
        let frame = std::mem::replace(&mut self.current, next);
        // SAFETY: the chain that owns this frame's chunk is borrowed shared for 'a (`chain`), so its bytes are only
        // read meanwhile; the chain is of this region (`slices` checked it) and so are its links.
        Some(unsafe { self.region.data_of_alias(&frame) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Slices<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::FramePool;

    fn pool(chunks: u32) -> FramePool {
        let (_, mut ledger) = Region::new(chunks).unwrap();
        ledger.pool(chunks as usize)
    }

    #[test]
    fn a_window_never_leaves_its_chunk() {
        let mut frame = pool(1).take().unwrap();
        assert_eq!((frame.offset(), frame.len(), frame.tailroom()), (HEADROOM, 0, CHUNK_SIZE - HEADROOM));
        assert!(frame.set_window(0, CHUNK_SIZE));
        assert!(frame.set_window(CHUNK_SIZE, 0));
        assert!(!frame.set_window(1, CHUNK_SIZE));
        assert!(!frame.set_window(usize::MAX, 2));
        assert!(!frame.set_window(2, usize::MAX));
        assert!(frame.set_window(10, 20));
        assert!(!frame.grow_front(11));
        assert!(frame.grow_front(10));
        assert_eq!((frame.offset(), frame.len()), (0, 30));
        assert!(!frame.trim_front(31));
        assert!(frame.trim_front(30));
        assert_eq!((frame.offset(), frame.len()), (30, 0));
        assert!(!frame.set_len(CHUNK_SIZE - 29));
        assert!(frame.set_len(CHUNK_SIZE - 30));
    }

    #[test]
    fn data_needs_a_frame_of_the_region() {
        let (region, mut ledger) = Region::new(2).unwrap();
        let mut frame = ledger.pool(1).take().unwrap();
        assert!(frame.set_len(3));
        region.data_mut(&mut frame).copy_from_slice(b"abc");
        assert_eq!(region.data(&frame), b"abc");
        let (other, _) = Region::new(2).unwrap();
        assert!(other.data(&frame).is_empty());
        assert!(other.data_mut(&mut frame).is_empty());
        let mut chain = FrameChain::single(frame);
        assert_eq!(chain.slices(&other).count(), 0);
        chain.for_each_mut(&other, |_| panic!("visited a foreign chain"));
    }

    #[test]
    fn a_chain_keeps_the_order_of_its_bytes() {
        let mut pool = pool(MAX_CHAIN as u32 + 1);
        let region = pool.region().clone();
        let bytes: Vec<u8> = (0..MAX_CHAIN * crate::CHUNK_ROOM).map(|i| (i / 7) as u8).collect();
        let mut chain = pool.copy_in(&bytes).unwrap();
        assert_eq!((chain.count(), chain.total_len(), pool.len()), (MAX_CHAIN, bytes.len(), 1));
        assert_eq!(chain.to_vec(&region), bytes);
        assert_eq!(chain.slices(&region).len(), MAX_CHAIN);
        // Full.
        let one_more = pool.take().unwrap();
        let one_more = chain.push(&region, one_more).unwrap_err();
        pool.put(one_more);
        chain.for_each_mut(&region, |slice| slice.iter_mut().for_each(|byte| *byte = !*byte));
        let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        assert_eq!(chain.to_vec(&region), inverted);
        // The head goes, the rest stays whole.
        assert!(chain.trim_front(5));
        let (head, rest) = chain.split_head(&region).unwrap();
        assert_eq!(region.data(&head), &inverted[5..crate::CHUNK_ROOM]);
        let rest = rest.unwrap();
        assert_eq!(rest.to_vec(&region), &inverted[crate::CHUNK_ROOM..]);
        assert_eq!(rest.total_len(), inverted.len() - crate::CHUNK_ROOM);
        pool.put(head);
        pool.put_chain(rest);
        assert_eq!(pool.len(), MAX_CHAIN + 1);
    }

    #[test]
    fn chains_do_not_mix_regions() {
        let (mut ours, mut theirs) = (pool(4), pool(4));
        let region = ours.region().clone();
        let mut chain = FrameChain::single(ours.take().unwrap());
        let foreign = theirs.take().unwrap();
        let foreign = chain.push(&region, foreign).unwrap_err();
        let foreign = chain.push(theirs.region(), foreign).unwrap_err();
        theirs.put(foreign);
        chain.push(&region, ours.take().unwrap()).unwrap();
        let chain = chain.split_head(theirs.region()).unwrap_err();
        let chain = chain.into_single().unwrap_err();
        ours.put_chain(chain);
        assert_eq!((ours.len(), ours.foreign()), (4, 0));
    }

    #[test]
    fn frames_travel_between_threads() {
        let mut pool = pool(2);
        let region = pool.region().clone();
        let chain = pool.copy_in(b"hello").unwrap();
        let chain = std::thread::spawn(move || {
            let mut chain = chain;
            chain.data_mut(&region).make_ascii_uppercase();
            chain
        })
        .join()
        .unwrap();
        assert_eq!(chain.to_vec(pool.region()), b"HELLO");
        pool.put_chain(chain);
    }
}

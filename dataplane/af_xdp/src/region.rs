//! The memory region: all packet memory of a process, in chunks of 4096 bytes.
//!
//! A [`Region`] is one memfd mapped `MAP_SHARED`, so that it can be registered with any number of AF_XDP sockets
//! and handed to a successor process by its descriptor; anonymous memory can do neither. It lies on huge pages
//! where the system has any to give, and on ordinary ones otherwise.
//!
//! **What it guarantees.** Memory is reached only through a [`Frame`], the one owner of a chunk. There is exactly
//! one frame for each chunk, made by [`Region::new`] and put into the [`FrameLedger`]; it cannot be copied; while a
//! socket holds it no `Frame` value for that chunk exists. Therefore two parties can never write to the same chunk
//! and `data_mut` can be safe. A frame of another region is recognised by its region number and gives an empty
//! slice, so it can neither read nor write foreign memory.
//!
//! **What breaks if changed.** Any second way to make a `Frame` out of a chunk number (other than the socket's,
//! which first checks in the chunk's record that it is the holder) makes `data_mut` unsound.
//!
//! Beside the memory lies one 16-byte record a chunk: the link to the next frame of a packet, and the
//! socket that holds the chunk. Both are only touched by the chunk's present owner; they are atomics so that this
//! needs no `unsafe`, with relaxed order because the frame itself travels through something that synchronises.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::Error;
use crate::frame::Frame;
use crate::mmap::Memory;
use crate::pool::FrameLedger;

/// Bytes in a chunk. The kernel accepts no larger chunk (EINVAL), and jumbo packets need the largest.
pub const CHUNK_SIZE: usize = 4096;

/// Bytes the kernel leaves free before a received packet (`XDP_PACKET_HEADROOM` in include/uapi/linux/bpf.h).
/// Room for new headers, and for the 24 bytes of transmit metadata.
pub const HEADROOM: usize = 256;

/// Most bytes of a packet in one chunk behind the usual headroom: 3840.
pub const CHUNK_ROOM: usize = CHUNK_SIZE - HEADROOM;

/// Most chunks in a region: 16 GiB, far more than a gateway needs and far from any overflow.
pub const MAX_CHUNKS: u32 = 1 << 22;

/// What is known about one chunk beside its bytes.
pub(crate) struct ChunkRecord {
    /// The next frame of the same packet: chunk, offset and length packed by `frame::pack`. Meaningless unless
    /// this chunk is in a chain and not its last.
    pub(crate) link: AtomicU64,
    /// The socket that holds the chunk and in which ring, or [`ChunkRecord::FREE`] while a [`Frame`] exists.
    pub(crate) holder: AtomicU32,
}

impl ChunkRecord {
    /// A `Frame` value owns the chunk.
    pub(crate) const FREE: u32 = 0;
}

struct Inner {
    id: u32,
    chunks: u32,
    memory: Memory,
    records: Box<[ChunkRecord]>,
    next_holder: AtomicU32,
}

/// All packet memory of a process. A cheap handle; clones refer to the same memory, which lives as long as the last.
#[derive(Clone)]
pub struct Region {
    inner: Arc<Inner>,
}

impl Region {
    /// Makes a region of `chunks` chunks (1 to [`MAX_CHUNKS`]) and the ledger that owns all its frames.
    ///
    /// # Errors
    /// [`Error::RegionSize`] for an impossible size, [`Error::RegionMemory`] if the system has not enough memory.
    pub fn new(chunks: u32) -> Result<(Region, FrameLedger), Error> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        if chunks == 0 || chunks > MAX_CHUNKS {
            return Err(Error::RegionSize { chunks, max: MAX_CHUNKS });
        }
        // Numbers are never used again: a frame of a dead region must not pass for one of a live region.
        let id = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1))
            .map_err(|_| Error::IdentifiersUsedUp { what: "region" })?;
        let memory = Memory::shared(chunks as usize * CHUNK_SIZE)?;
        let records = (0..chunks)
            .map(|_| ChunkRecord { link: AtomicU64::new(0), holder: AtomicU32::new(ChunkRecord::FREE) })
            .collect();
        let inner = Inner { id, chunks, memory, records, next_holder: AtomicU32::new(2) };
        let region = Region { inner: Arc::new(inner) };
        let ledger = FrameLedger::of_new_region(region.clone());
        Ok((region, ledger))
    }

    /// How many chunks, and so how many frames, the region has.
    pub fn chunks(&self) -> u32 {
        self.inner.chunks
    }

    /// Size of the packet memory in bytes.
    pub fn bytes(&self) -> usize {
        self.inner.chunks as usize * CHUNK_SIZE
    }

    /// Does the memory lie on huge pages?
    pub fn huge_pages(&self) -> bool {
        self.inner.memory.huge_pages()
    }

    /// The memfd, for handing the memory to a successor process. `None` where there is none (under Miri).
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.memory.memfd().map(AsFd::as_fd)
    }

    /// Is this frame one of this region?
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        frame.region() == self.inner.id
    }

    /// The bytes in the frame's window. Empty for a frame of another region.
    #[inline]
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        if !self.owns(frame) {
            return &[];
        }
        // SAFETY: the frame is of this region, so its chunk and window lie inside the mapping (`Frame` keeps
        // offset + len <= CHUNK_SIZE), which `self` keeps alive for 'a. The frame is the chunk's only owner and is
        // borrowed shared for 'a, so nobody writes. The memory came zeroed, so every byte is initialised.
        unsafe { std::slice::from_raw_parts(self.window(frame), frame.len()) }
    }

    /// Has the start of a frame's window brought into the cache while others are looked at: whoever wrote the packet did it
    /// on another core or long ago, and the first look at its headers would wait for memory.
    #[inline]
    pub(crate) fn prefetch(&self, frame: &Frame) {
        #[cfg(target_arch = "x86_64")]
        if self.owns(frame) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint reads nothing and faults on no address; SSE is part of the architecture.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.window(frame).cast_const().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// The bytes in the frame's window, to write. Empty for a frame of another region.
    #[inline]
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        if !self.owns(frame) {
            return &mut [];
        }
        // SAFETY: as in `data`; and the frame, the chunk's only owner, is borrowed exclusively for 'a.
        unsafe { std::slice::from_raw_parts_mut(self.window(frame), frame.len()) }
    }

    /// The bytes in the window of a second value for the same chunk, as iterators over borrowed chains need it.
    ///
    /// # Safety
    /// The frame must be of this region, and its chunk's owner must be borrowed shared for 'a.
    #[inline]
    pub(crate) unsafe fn data_of_alias<'a>(&'a self, frame: &Frame) -> &'a [u8] {
        // SAFETY: as in `data`, by what the caller promises.
        unsafe { std::slice::from_raw_parts(self.window(frame), frame.len()) }
    }

    /// Where the frame's window begins. The frame must be of this region.
    #[inline]
    fn window(&self, frame: &Frame) -> *mut u8 {
        debug_assert!(self.owns(frame) && frame.chunk() < self.inner.chunks);
        // wrapping_add: stays inside the mapping by the frame's invariant, and needs no unsafe to say so.
        self.inner.memory.start().wrapping_add(frame.chunk() as usize * CHUNK_SIZE + frame.offset())
    }

    pub(crate) fn id(&self) -> u32 {
        self.inner.id
    }

    /// First byte of the memory, for registering it with a socket.
    pub(crate) fn start(&self) -> *mut u8 {
        self.inner.memory.start()
    }

    /// The record of a chunk; `None` for a number outside the region.
    #[inline]
    pub(crate) fn record(&self, chunk: u32) -> Option<&ChunkRecord> {
        self.inner.records.get(chunk as usize)
    }

    /// A number that no other holder of chunks of this region has or ever will have.
    pub(crate) fn new_holder(&self) -> Result<Holder, Error> {
        let next = &self.inner.next_holder;
        next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(2))
            .map(Holder)
            .map_err(|_| Error::IdentifiersUsedUp { what: "socket" })
    }

    /// Turns a frame into the address of its first byte and notes who holds the chunk from now on.
    ///
    /// # Errors
    /// The frame comes back if it is of another region.
    #[inline]
    pub(crate) fn hand_over(&self, frame: Frame, ring: HeldIn) -> Result<u64, Frame> {
        match self.record(frame.chunk()).filter(|_| self.owns(&frame)) {
            Some(record) => {
                record.holder.store(ring.0, Ordering::Relaxed);
                Ok(u64::from(frame.chunk()) * CHUNK_SIZE as u64 + frame.offset() as u64)
            }
            None => Err(frame),
        }
    }

    /// Turns an address and length back into a frame, if `ring` holds that chunk and the bytes lie in it.
    #[inline]
    pub(crate) fn take_back(&self, address: u64, len: u32, ring: HeldIn) -> Option<Frame> {
        let chunk = u32::try_from(address / CHUNK_SIZE as u64).ok()?;
        let offset = (address % CHUNK_SIZE as u64) as u16;
        let record = self.record(chunk).filter(|record| record.holder.load(Ordering::Relaxed) == ring.0)?;
        let frame = Frame::own(self.inner.id, chunk, offset, u16::try_from(len).ok()?)?;
        // From here on the chunk has an owner again, and a second such address is refused.
        record.holder.store(ChunkRecord::FREE, Ordering::Relaxed);
        Some(frame)
    }

    /// Every frame that the holder still has. Call it only when nobody can use the holder's rings any more.
    pub(crate) fn reclaim(&self, holder: Holder) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (chunk, record) in (0..self.inner.chunks).zip(self.inner.records.iter()) {
            for ring in [holder.fill(), holder.transmit()] {
                let free = (ChunkRecord::FREE, Ordering::Relaxed);
                if record.holder.compare_exchange(ring.0, free.0, free.1, free.1).is_ok() {
                    frames.push(Frame::own_empty(self.inner.id, chunk));
                }
            }
        }
        frames
    }
}

/// Number of a socket (or of an in-memory twin) that holds chunks. Even, so that one bit is left for the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder(u32);

/// A holder and the ring in which it holds a chunk: what a chunk's record says while no `Frame` for it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldIn(u32);

impl HeldIn {
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

impl Holder {
    /// Given to the kernel for a packet to come.
    pub(crate) fn fill(self) -> HeldIn {
        HeldIn(self.0)
    }

    /// Given to the kernel to be transmitted.
    pub(crate) fn transmit(self) -> HeldIn {
        HeldIn(self.0 | 1)
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("id", &self.inner.id).field("chunks", &self.inner.chunks).finish()
    }
}

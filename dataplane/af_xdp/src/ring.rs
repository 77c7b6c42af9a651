//! Rings in shared memory: single producer, single consumer, one side ours and the other the kernel's.
//!
//! A [`Producer`] or [`Consumer`] puts a [`Cursor`] over memory that holds two indices, a flags word and the entries. The
//! memory is a socket's mapping, or a heap allocation that both sides hold ([`pair`]): then the other side is ours too,
//! and everything above runs in a test without a socket.
//!
//! **What it guarantees.** Entries are reached by slot number only, which is always in the ring. Entries are written before
//! the index that shows them (release), and read after the index that shows them (acquire). Nothing that the other side
//! stores can lead outside the memory; an impossible index counts in [`Producer::corrupt`] and is ignored.

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cursor::Cursor;
use crate::mmap::Memory;

/// What lies in a ring: plain data for which any bytes are valid, because the kernel may store any.
///
/// # Safety
/// Every bit pattern must be a valid value, and the type must have the size and layout of the kernel's entry.
pub unsafe trait Entry: Copy + Send + 'static {
    /// A value that means nothing, for a new ring of our own.
    const ZERO: Self;
}

// SAFETY: a fill or completion entry is a __u64 (if_xdp.h: "UMEM descriptor is __u64").
unsafe impl Entry for u64 {
    const ZERO: Self = 0;
}

/// An entry of a receive or transmit ring: `struct xdp_desc`, include/uapi/linux/if_xdp.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Where the bytes begin, counted from the begin of the region.
    pub address: u64,
    /// How many bytes.
    pub len: u32,
    /// `XDP_PKT_CONTD` (the packet goes on in the next entry), `XDP_TX_METADATA` (metadata lies before the bytes).
    pub options: u32,
}

// SAFETY: integers only, repr(C); the size is checked below.
unsafe impl Entry for Descriptor {
    const ZERO: Self = Descriptor { address: 0, len: 0, options: 0 };
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());

/// Memory of a ring whose both sides are ours.
struct Heap<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    entries: Box<[UnsafeCell<T>]>,
}

/// Keeps a ring's memory alive.
enum Owner<T> {
    /// A socket's ring, unmapped when dropped.
    Mapping { _memory: Memory },
    /// Both sides hold the allocation.
    Heap { _memory: Arc<Heap<T>> },
}

/// Where the parts of a ring lie.
struct Parts<T> {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    entries: *mut T,
    _owner: Owner<T>,
}

// SAFETY: the pointers lead into memory that `_owner` keeps alive; the indices are atomics, and the entries are touched
// only by the one Producer or Consumer of that side, within what the indices give it.
unsafe impl<T: Entry> Send for Parts<T> {}

impl<T: Entry> Parts<T> {
    fn heap(memory: &Arc<Heap<T>>) -> Parts<T> {
        Parts {
            producer: &raw const memory.producer,
            consumer: &raw const memory.consumer,
            flags: &raw const memory.flags,
            // A slice of UnsafeCell<T> lies like a slice of T.
            entries: memory.entries.as_ptr().cast::<T>().cast_mut(),
            _owner: Owner::Heap { _memory: memory.clone() },
        }
    }

    /// Maps a ring of a socket: `page_offset` is one of the XDP_*_PGOFF_* constants, `offsets` what XDP_MMAP_OFFSETS says.
    fn mapping(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Parts<T>> {
        let bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let words = [offsets.producer, offsets.consumer, offsets.flags];
        // Kernels before 5.4 have no flags word and shorter offsets; refuse what would lead outside or be unaligned.
        let usable = |word: &u64| word.is_multiple_of(4) && *word as usize + 4 <= bytes;
        if !words.iter().all(usable) || !offsets.desc.is_multiple_of(8) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel gave unusable ring offsets"));
        }
        let memory = Memory::of_socket(fd, bytes, page_offset)?;
        let at = |offset: u64| memory.start().wrapping_add(offset as usize);
        Ok(Parts {
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            entries: at(offsets.desc).cast(),
            _owner: Owner::Mapping { _memory: memory },
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned, inside the memory that `_owner` keeps, and only ever accessed atomically.
        unsafe { &*self.producer }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { &*self.consumer }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { &*self.flags }
    }
}

/// The writing side of a ring.
pub struct Producer<T> {
    parts: Parts<T>,
    cursor: Cursor,
    corrupt: u64,
}

impl<T: Entry> Producer<T> {
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let parts = Parts::mapping(fd, page_offset, offsets, size)?;
        let cursor = Cursor::producer(size, 0).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Producer { parts, cursor, corrupt: 0 })
    }

    /// Entries in the ring.
    #[inline]
    pub fn size(&self) -> u32 {
        self.cursor.size()
    }

    /// How many entries can be written, looking at the other side's index only if fewer than `wanted` are known to be free.
    #[inline]
    pub fn room(&mut self, wanted: u32) -> u32 {
        if self.cursor.available() < wanted {
            // Acquire: what we write next must not overtake the other side's reading.
            let theirs = self.parts.consumer().load(Ordering::Acquire);
            self.corrupt += u64::from(!self.cursor.refresh(theirs));
        }
        self.cursor.available()
    }

    /// Writes the next entry. It is seen by the other side after [`Producer::publish`]. False if there is no room.
    #[inline]
    #[must_use = "false means that nothing was written"]
    pub fn write(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: slot < size, so inside the entries; the cursor says that this slot is the producer's to write.
        unsafe { self.parts.entries.add(self.cursor.slot(0) as usize).write(entry) };
        self.cursor.advance(1);
        true
    }

    /// Shows everything written to the other side.
    #[inline]
    pub fn publish(&mut self) {
        // Release: the entries, and the packet bytes they point to, come before the index.
        self.parts.producer().store(self.cursor.index(), Ordering::Release);
    }

    /// Entries written, published or not, that the other side has not taken yet.
    #[inline]
    pub fn pending(&mut self) -> u32 {
        let room = self.room(self.cursor.size());
        self.cursor.size() - room
    }

    /// Does the kernel ask to be woken (`XDP_RING_NEED_WAKEUP`)?
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.parts.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// How often the other side's index was impossible. 0 with a correct kernel.
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }
}

/// The reading side of a ring.
pub struct Consumer<T> {
    parts: Parts<T>,
    cursor: Cursor,
    corrupt: u64,
}

impl<T: Entry> Consumer<T> {
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let parts = Parts::mapping(fd, page_offset, offsets, size)?;
        let cursor = Cursor::consumer(size, 0).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Consumer { parts, cursor, corrupt: 0 })
    }

    /// Entries in the ring.
    #[inline]
    pub fn size(&self) -> u32 {
        self.cursor.size()
    }

    /// How many entries can be read now.
    #[inline]
    pub fn waiting(&mut self) -> u32 {
        // Acquire: the entries are read after the index that shows them.
        let theirs = self.parts.producer().load(Ordering::Acquire);
        self.corrupt += u64::from(!self.cursor.refresh(theirs));
        self.cursor.available()
    }

    /// Reads the next of the entries that [`Consumer::waiting`] has seen. The slot stays ours until [`Consumer::release`].
    #[inline]
    pub fn read(&mut self) -> Option<T> {
        if self.cursor.available() == 0 {
            return None;
        }
        // SAFETY: slot < size, so inside the entries; the cursor says that the other side has written it and gave it to us.
        // Any bytes are a valid T.
        let entry = unsafe { self.parts.entries.add(self.cursor.slot(0) as usize).read() };
        self.cursor.advance(1);
        Some(entry)
    }

    /// Gives the slots of everything read back to the other side.
    #[inline]
    pub fn release(&mut self) {
        // Release: our reads come before the index that allows overwriting.
        self.parts.consumer().store(self.cursor.index(), Ordering::Release);
    }

    /// How often the other side's index was impossible. 0 with a correct kernel.
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// Asks the producer to wake us: only the in-memory twin of the kernel does it.
    pub(crate) fn set_needs_wakeup(&self, wanted: bool) {
        let flags = if wanted { libc::XDP_RING_NEED_WAKEUP } else { 0 };
        self.parts.flags().store(flags, Ordering::Relaxed);
    }
}

/// A ring in memory with both its sides. `None` if size is not a power of two up to 2^31. Both indices begin at `start`:
/// a test may let them wrap around at once.
pub fn pair<T: Entry>(size: u32, start: u32) -> Option<(Producer<T>, Consumer<T>)> {
    let (producer, consumer) = (Cursor::producer(size, start)?, Cursor::consumer(size, start)?);
    let memory = Arc::new(Heap {
        producer: AtomicU32::new(start),
        consumer: AtomicU32::new(start),
        flags: AtomicU32::new(0),
        entries: (0..size).map(|_| UnsafeCell::new(T::ZERO)).collect(),
    });
    Some((
        Producer { parts: Parts::heap(&memory), cursor: producer, corrupt: 0 },
        Consumer { parts: Parts::heap(&memory), cursor: consumer, corrupt: 0 },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_seen_only_when_published() {
        let (mut producer, mut consumer) = pair::<u64>(4, u32::MAX - 1).unwrap();
        assert!(producer.write(1) && producer.write(2));
        assert_eq!((consumer.waiting(), consumer.read()), (0, None));
        producer.publish();
        assert_eq!(
            (consumer.waiting(), consumer.read(), consumer.read(), consumer.read()),
            (2, Some(1), Some(2), None)
        );
        assert_eq!(producer.pending(), 2);
        consumer.release();
        assert_eq!((producer.pending(), producer.room(4)), (0, 4));
        for value in 0..4 {
            assert!(producer.write(value));
        }
        assert!(!producer.write(9));
        assert_eq!((producer.corrupt(), consumer.corrupt()), (0, 0));
    }

    #[test]
    fn impossible_indices_are_counted_and_ignored() {
        let (mut producer, mut consumer) = pair::<u64>(4, 0).unwrap();
        producer.parts.consumer().store(77, Ordering::Relaxed);
        assert!(producer.write(1));
        assert_eq!(producer.room(4), 3);
        assert_eq!(producer.corrupt(), 1);
        consumer.parts.producer().store(5, Ordering::Relaxed);
        assert_eq!((consumer.waiting(), consumer.read(), consumer.corrupt()), (0, None, 1));
    }

    #[test]
    fn two_threads_exchange_everything_in_order() {
        let count = if cfg!(miri) { 200u64 } else { 200_000 };
        let (mut producer, mut consumer) = pair::<u64>(64, u32::MAX - 50).unwrap();
        let writer = std::thread::spawn(move || {
            for value in 0..count {
                while !producer.write(value) {
                    std::thread::yield_now();
                }
                if value % 7 == 0 || value + 1 == count || producer.room(1) == 0 {
                    producer.publish();
                }
            }
        });
        let mut expected = 0;
        while expected < count {
            if consumer.waiting() == 0 {
                std::thread::yield_now();
            }
            while let Some(value) = consumer.read() {
                assert_eq!(value, expected);
                expected += 1;
            }
            consumer.release();
        }
        writer.join().unwrap();
    }
}

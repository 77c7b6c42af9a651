//! Mapped memory: the region's memfd and, with `MAP_SHARED` on a socket, its rings. Unmapped when dropped.
//!
//! Unmapping matters: the kernel keeps a queue busy (EBUSY on rebind) until the socket is closed *and* its rings
//! are unmapped.

use std::io;
#[cfg(not(miri))]
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::error::Error;

/// A mapping of whole pages. Owns the address range, and the memfd behind it if there is one.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    huge_pages: bool,
    memfd: Option<OwnedFd>,
}

// SAFETY: a mapping is not bound to a thread. Who may touch which byte is settled by the owners: frames for the
// region, the one owner of a socket for rings.
unsafe impl Send for Memory {}
// SAFETY: as above; `Memory` itself has no interior state that changes.
unsafe impl Sync for Memory {}

#[cfg(not(miri))]
const HUGE_PAGE: usize = 2 << 20;

impl Memory {
    /// Zeroed memory behind a memfd; on huge pages if the system has enough of them free.
    #[cfg(not(miri))]
    pub(crate) fn shared(bytes: usize) -> Result<Memory, Error> {
        let rounded = bytes.next_multiple_of(HUGE_PAGE);
        // Refused where the kernel has no hugetlbfs or not enough free huge pages: then ordinary pages do.
        Self::memfd_mapping(rounded, libc::MFD_HUGETLB).or_else(|_| Self::memfd_mapping(bytes, 0))
    }

    #[cfg(not(miri))]
    fn memfd_mapping(bytes: usize, huge: libc::c_uint) -> Result<Memory, Error> {
        let failed = |call| move |source| Error::RegionMemory { call, bytes, source };
        // SAFETY: the name is a NUL-terminated constant; the call touches no other memory of ours.
        let fd = unsafe {
            libc::memfd_create(c"af_xdp".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge)
        };
        let fd = check(fd).map_err(failed("memfd_create"))?;
        // SAFETY: a descriptor just made and owned by nobody else.
        let memfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let length = libc::off_t::try_from(bytes)
            .map_err(|_| failed("ftruncate")(io::Error::from_raw_os_error(libc::EFBIG)))?;
        // SAFETY: no memory is passed.
        check(unsafe { libc::ftruncate(memfd.as_raw_fd(), length) }).map_err(failed("ftruncate"))?;
        // Whoever is given the memfd cannot shrink it: touching vanished pages would be SIGBUS.
        // SAFETY: no memory is passed.
        check(unsafe {
            libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)
        })
        .map_err(failed("fcntl(F_ADD_SEALS)"))?;
        let start = map(memfd.as_raw_fd(), bytes, 0, 0).map_err(failed("mmap"))?;
        Ok(Memory { start, bytes, huge_pages: huge != 0, memfd: Some(memfd) })
    }

    /// Zeroed heap memory: Miri knows no memfd.
    #[cfg(miri)]
    pub(crate) fn shared(bytes: usize) -> Result<Memory, Error> {
        let failed =
            || Error::RegionMemory { call: "alloc", bytes, source: io::ErrorKind::OutOfMemory.into() };
        let layout = std::alloc::Layout::from_size_align(bytes, 4096).map_err(|_| failed())?;
        // SAFETY: the size is not zero (a region has at least one chunk).
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or_else(failed)?;
        Ok(Memory { start, bytes, huge_pages: false, memfd: None })
    }

    /// A ring of a socket: `offset` is one of the XDP_*_PGOFF_* constants of if_xdp.h.
    #[cfg(not(miri))]
    pub(crate) fn of_socket(fd: BorrowedFd<'_>, bytes: usize, offset: u64) -> io::Result<Memory> {
        // MAP_POPULATE: no page fault on the packet path.
        let start = map(fd.as_raw_fd(), bytes, offset as libc::off_t, libc::MAP_POPULATE)?;
        Ok(Memory { start, bytes, huge_pages: false, memfd: None })
    }

    /// Miri knows no sockets.
    #[cfg(miri)]
    pub(crate) fn of_socket(_: BorrowedFd<'_>, _: usize, _: u64) -> io::Result<Memory> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// First byte of the mapping. Page aligned.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Lies the memory on huge pages?
    pub(crate) fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The memfd behind a region's memory.
    pub(crate) fn memfd(&self) -> Option<&OwnedFd> {
        self.memfd.as_ref()
    }
}

impl Drop for Memory {
    #[cfg(not(miri))]
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped, unmapped once; the borrows handed out ended before this drop.
        // The result is not used: munmap fails only for a range that is no mapping.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }

    #[cfg(miri)]
    fn drop(&mut self) {
        if let Ok(layout) = std::alloc::Layout::from_size_align(self.bytes, 4096) {
            // SAFETY: allocated in `shared` with this layout, freed once.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// `mmap` of a descriptor, readable, writable and shared.
#[cfg(not(miri))]
fn map(fd: libc::c_int, bytes: usize, offset: libc::off_t, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    // SAFETY: address chosen by the kernel, so no mapping of ours is replaced.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | flags,
            fd,
            offset,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// The result of a system call, or `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

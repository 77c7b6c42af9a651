//! The kernel's AF_XDP interface, include/uapi/linux/if_xdp.h: what `libc` lacks, and the typed socket options.
//!
//! The C types used are `libc`'s: `sockaddr_xdp`, `xdp_desc`, `xdp_mmap_offsets`, `xdp_options`, `xdp_ring_offset`,
//! `xdp_statistics`, `xdp_umem_reg` and `xsk_tx_metadata`, all of that header.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::mmap::check;

/// `XDP_MAX_TX_SKB_BUDGET`, if_xdp.h of Linux 6.16: how many frames one `sendto` may transmit in copy mode.
pub(crate) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Bytes of `struct xsk_tx_metadata` (if_xdp.h) without the launch time that newer kernels append.
pub(crate) const TX_METADATA_LEN: usize = 24;

/// `struct xsk_tx_metadata` as a checksum request: flags, then `csum_start` and `csum_offset`, native byte order.
pub(crate) fn tx_checksum_request(start: u16, offset: u16) -> [u8; TX_METADATA_LEN] {
    let mut bytes = [0; TX_METADATA_LEN];
    let words = u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes().into_iter();
    let fields = words.chain(start.to_ne_bytes()).chain(offset.to_ne_bytes());
    bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    bytes
}

/// A new, unbound AF_XDP socket.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a descriptor just made and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` at level `SOL_XDP`. `T` is the C type that the option takes.
pub(crate) fn set_option<T: Copy>(fd: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, (&raw const *value).cast(), len) };
    check(result).map(drop)
}

/// `getsockopt` at level `SOL_XDP`.
///
/// # Safety
/// `T` must be a type for which all bytes zero, and any bytes the kernel stores for this option, are valid.
pub(crate) unsafe fn get_option<T: Copy>(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    // SAFETY: valid by the caller's promise.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, (&raw mut value).cast(), &raw mut len)
    };
    check(result)?;
    // An older kernel fills only the first fields; the others stay zero. The offsets are the exception: they moved.
    Ok(value)
}

/// `getsockopt(XDP_MMAP_OFFSETS)`.
pub(crate) fn mmap_offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: a C struct of integers.
    unsafe { get_option(fd, libc::XDP_MMAP_OFFSETS) }
}

/// `bind` to a queue of a device. `shared_with` is a bound socket whose memory registration is used.
pub(crate) fn bind(
    fd: BorrowedFd<'_>,
    flags: u16,
    interface: u32,
    queue: u32,
    shared_with: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared_with.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`; the kernel only reads it.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_request_lies_as_in_c() {
        use std::mem::offset_of;
        let bytes = tx_checksum_request(34, 16);
        assert_eq!(offset_of!(libc::xsk_tx_metadata, xsk_tx_metadata_union), 8);
        assert_eq!(offset_of!(libc::xsk_tx_metadata_request, csum_offset), 2);
        assert_eq!(bytes[..8], 2u64.to_ne_bytes());
        assert_eq!(bytes[8..12], [34u16.to_ne_bytes(), 16u16.to_ne_bytes()].concat());
        assert_eq!(bytes[12..], [0; 12]);
    }
}

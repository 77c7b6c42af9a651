//! The registration of a region with the kernel, and the socket that anchors it.
//!
//! Packet memory is registered with one socket, and other sockets share that registration when they are bound. The
//! registration is only usable while the first socket's device exists: when it is deleted, later binds fail (EBADF), though
//! sockets already bound go on. So the first socket should not be on a device that comes and goes: [`Umem::register`] binds
//! an anchor that never carries traffic to a device of the caller's own. Make a veth pair for it, which nothing else uses:
//!
//! ```text
//! ip link add anchor0 type veth peer name anchor1
//! ```
//!
//! Sharing sockets inherit the anchor's mode: copy mode, need_wakeup, and multi-buffer where the kernel has it. Asking for
//! zero-copy or multi-buffer in a shared bind is EINVAL. A device in zero-copy mode therefore needs a registration of its
//! own, which [`Socket::open_zero_copy`](crate::Socket::open_zero_copy) makes: any number of registrations of one region
//! may exist, each counting against the limit of locked memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::error::Error;
use crate::features::Features;
use crate::if_xdp::{self, TX_METADATA_LEN};
use crate::interface::Interface;
use crate::queues::Abilities;
use crate::region::{CHUNK_SIZE, Region};
use crate::socket::retry_busy;

/// Entries in the anchor's rings: the kernel wants them to exist, nobody uses them.
const ANCHOR_RING: u32 = 2;

/// A region registered for copy mode. A cheap handle; the registration lives as long as the last one, and as any socket
/// that shares it.
#[derive(Debug, Clone)]
pub struct Umem {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    region: Region,
    anchor: OwnedFd,
    features: Features,
}

impl Umem {
    /// Registers a region, anchored on a queue of a device that no other socket will be bound to.
    ///
    /// What the kernel offers is found out by trying, in the order best first: see [`Umem::features`].
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without CAP_NET_RAW, [`Error::LockedMemory`] if the region is over the limit,
    /// [`Error::QueueBusy`] if another socket is bound there.
    pub fn register(region: &Region, interface: &Interface, queue: u32) -> Result<Umem, Error> {
        let at = |call| At { interface, queue, call };
        let anchor = if_xdp::socket().map_err(|e| at("socket(AF_XDP)").error(e))?;
        let metadata =
            register_memory(anchor.as_fd(), region).map_err(|e| at("XDP_UMEM_REG").memory(e, region))?;
        for (option, call) in [
            (libc::XDP_UMEM_FILL_RING, "XDP_UMEM_FILL_RING"),
            (libc::XDP_UMEM_COMPLETION_RING, "XDP_UMEM_COMPLETION_RING"),
            (libc::XDP_RX_RING, "XDP_RX_RING"),
        ] {
            if_xdp::set_option(anchor.as_fd(), option, &ANCHOR_RING).map_err(|e| at(call).error(e))?;
        }
        let base = libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP;
        let bind = |flags| {
            retry_busy(|| if_xdp::bind(anchor.as_fd(), flags, interface.index(), queue, None))
                .map_err(|e| at("bind").error(e))
        };
        let multi_buffer = match bind(base | libc::XDP_USE_SG) {
            Ok(()) => true,
            // Kernels before 6.6 do not know the flag.
            Err(Error::Socket { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                bind(base)?;
                false
            }
            Err(error) => return Err(error),
        };
        let features = Features::probe(metadata, multi_buffer);
        Ok(Umem { inner: Arc::new(Inner { region: region.clone(), anchor, features }) })
    }

    /// The registered region.
    pub fn region(&self) -> &Region {
        &self.inner.region
    }

    /// What the kernel was found to offer.
    pub fn features(&self) -> Features {
        self.inner.features
    }

    pub(crate) fn anchor(&self) -> BorrowedFd<'_> {
        self.inner.anchor.as_fd()
    }

    /// What a socket that shares this registration can do.
    pub(crate) fn abilities(&self) -> Abilities {
        // In copy mode the kernel completes checksums itself if the device does not: metadata is enough.
        Abilities::new(self.inner.features.tx_metadata, self.inner.features.multi_buffer)
    }
}

/// Registers the region's memory with a socket, with room for transmit metadata if the kernel knows it. True if it does.
pub(crate) fn register_memory(fd: BorrowedFd<'_>, region: &Region) -> io::Result<bool> {
    let plain = libc::xdp_umem_reg {
        addr: region.start() as u64,
        len: region.bytes() as u64,
        chunk_size: CHUNK_SIZE as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    let with_metadata = libc::xdp_umem_reg {
        flags: libc::XDP_UMEM_TX_METADATA_LEN,
        tx_metadata_len: TX_METADATA_LEN as u32,
        ..plain
    };
    // The kernel pins these pages until the last user of the registration is gone; the region's memory may be unmapped
    // before without harm.
    match if_xdp::set_option(fd, libc::XDP_UMEM_REG, &with_metadata) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            if_xdp::set_option(fd, libc::XDP_UMEM_REG, &plain).map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// Where and in which step something failed.
pub(crate) struct At<'a> {
    pub(crate) interface: &'a Interface,
    pub(crate) queue: u32,
    pub(crate) call: &'static str,
}

impl At<'_> {
    /// The typed error for the kernel's answer.
    pub(crate) fn error(&self, source: io::Error) -> Error {
        let (interface, queue, call) = (self.interface.name().to_owned(), self.queue, self.call);
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::NotPermitted {
                action: format!("interface {interface} queue {queue}: {call}"),
                needed: "CAP_NET_RAW",
            },
            Some(libc::EBUSY) => Error::QueueBusy { interface, queue },
            Some(libc::EBADF) if call == "bind" => Error::AnchorGone,
            _ => Error::Socket { interface, queue, call, source },
        }
    }

    /// As `error`, for the registration of memory.
    pub(crate) fn memory(&self, source: io::Error, region: &Region) -> Error {
        match source.raw_os_error() {
            Some(libc::ENOBUFS | libc::ENOMEM) => Error::LockedMemory { bytes: region.bytes() },
            _ => self.error(source),
        }
    }
}

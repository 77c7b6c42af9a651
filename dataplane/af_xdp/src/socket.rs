//! An AF_XDP socket: [`Queues`] over the rings of one queue of one device, and the system calls that go with them.
//!
//! Opening fills the fill ring before the bind: some drivers otherwise receive nothing and never ask for more. A queue that
//! was in use a moment ago stays busy for some milliseconds after its socket was closed; the bind is tried again for about a
//! second before [`Error::QueueBusy`]. So open and close sockets off the packet path.
//!
//! Transmission needs a system call in copy mode, whatever need_wakeup says: [`Socket::kick_tx`], once a batch.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::error::Error;
use crate::frame::{Frame, FrameChain};
use crate::if_xdp;
use crate::interface::Interface;
use crate::pool::FramePool;
use crate::queues::{Abilities, Faults, Queues, Refused, Rings, TxChecksum};
use crate::region::Region;
use crate::ring::{Consumer, Producer};
use crate::umem::{At, Umem, register_memory};

/// Sizes of a socket's rings, and how much one transmit call may send.
///
/// A socket keeps about `fill` + `receive` frames while idle or busy receiving, and up to `transmit` + `completion` while
/// transmitting: with 4096 each, 16 MiB that wait for packets. Rings below 4096 lose large multi-buffer packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketConfig {
    /// Entries of the receive ring. Each size is a power of two from 2 to 32768.
    pub receive: u32,
    /// Entries of the transmit ring.
    pub transmit: u32,
    /// Entries of the fill ring: how many frames wait for packets.
    pub fill: u32,
    /// Entries of the completion ring. Not smaller than the transmit ring, or transmission stalls.
    pub completion: u32,
    /// Frames that one transmit call may send where the kernel lets one choose; 32 to the transmit ring's size.
    pub tx_budget: u32,
}

impl Default for SocketConfig {
    fn default() -> Self {
        SocketConfig { receive: 4096, transmit: 4096, fill: 4096, completion: 4096, tx_budget: 256 }
    }
}

impl SocketConfig {
    fn check(&self) -> Result<(), Error> {
        let rings = [
            ("receive", self.receive),
            ("transmit", self.transmit),
            ("fill", self.fill),
            ("completion", self.completion),
        ];
        match rings.into_iter().find(|(_, size)| !size.is_power_of_two() || !(2..=32768).contains(size)) {
            Some((ring, size)) => Err(Error::RingSize { ring, size }),
            None => Ok(()),
        }
    }
}

/// What a transmit call achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// Nothing waits any more.
    Done,
    /// The kernel took not all now: kick again after the next turn.
    Again,
    /// The device is down: packets wait until it is up.
    Down,
    /// The device was deleted (ENXIO): close the socket.
    Gone,
    /// The kernel refuses with another `errno`.
    Failed(i32),
}

/// Counters of the kernel for one socket: `struct xdp_statistics`, include/uapi/linux/if_xdp.h. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets dropped on receive, also those that found the fill ring empty.
    pub rx_dropped: u64,
    /// Fill entries that were no valid address.
    pub rx_invalid_descriptors: u64,
    /// Transmit entries that were not valid. Their frames come back only at close.
    pub tx_invalid_descriptors: u64,
    /// Packets dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Packets that found the fill ring empty. Part of `rx_dropped`: do not add the two.
    pub rx_fill_ring_empty: u64,
    /// Transmit calls that found nothing to transmit.
    pub tx_ring_empty: u64,
}

impl Statistics {
    /// Adds those of another socket.
    pub fn add(&mut self, other: &Statistics) {
        self.rx_dropped += other.rx_dropped;
        self.rx_invalid_descriptors += other.rx_invalid_descriptors;
        self.tx_invalid_descriptors += other.tx_invalid_descriptors;
        self.rx_ring_full += other.rx_ring_full;
        self.rx_fill_ring_empty += other.rx_fill_ring_empty;
        self.tx_ring_empty += other.tx_ring_empty;
    }
}

/// A bound socket: receive, transmit, and the frames it holds. Used by one thread at a time.
///
/// [`Socket::close`] gives all its frames back. Dropping it instead loses them for the region.
#[derive(Debug)]
#[must_use = "dropping a socket loses its frames: close it"]
pub struct Socket {
    queues: Queues,
    fd: OwnedFd,
    interface: Interface,
    queue: u32,
    zero_copy: bool,
    tx_budget: bool,
}

/// Whose memory registration a new socket uses.
enum Memory<'a> {
    Shared { with: BorrowedFd<'a>, abilities: Abilities },
    Own { zero_copy: bool },
}

impl Socket {
    /// Binds a queue in copy mode, sharing a registration. Takes frames out of the pool to fill the fill ring.
    ///
    /// # Errors
    /// [`Error::QueueBusy`], [`Error::NotPermitted`], [`Error::AnchorGone`], [`Error::RingSize`] and others; the frames are
    /// back in the pool then.
    pub fn open(
        umem: &Umem,
        interface: &Interface,
        queue: u32,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Socket, Error> {
        let memory = Memory::Shared { with: umem.anchor(), abilities: umem.abilities() };
        Self::open_with(umem.region(), memory, interface, queue, config, pool)
    }

    /// Binds a queue in zero-copy mode, registering the region once more for this device. Its further queues are opened with
    /// [`Socket::open_beside`].
    ///
    /// Zero-copy sockets have neither checksum offload nor multi-buffer packets: drivers ignore the metadata silently, and
    /// the kernel refuses the two modes together.
    ///
    /// # Errors
    /// As [`Socket::open`]; and [`Error::Socket`] where the driver has no zero-copy mode, or says it has and refuses it. Fall
    /// back on [`Socket::open`] for every error here; [`open_all`] does.
    pub fn open_zero_copy(
        region: &Region,
        interface: &Interface,
        queue: u32,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Socket, Error> {
        Self::open_with(region, Memory::Own { zero_copy: true }, interface, queue, config, pool)
    }

    /// Binds a queue in copy mode with a registration of its own, so that no anchor is needed: for programs with a single
    /// device, of which several may run in one network namespace. Its further queues are opened with [`Socket::open_beside`].
    /// There is no checksum offload.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open_alone(
        region: &Region,
        interface: &Interface,
        queue: u32,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Socket, Error> {
        Self::open_with(region, Memory::Own { zero_copy: false }, interface, queue, config, pool)
    }

    /// Binds another queue of this socket's device, sharing its registration and mode.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open_beside(
        &self,
        queue: u32,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Socket, Error> {
        let memory = Memory::Shared { with: self.fd.as_fd(), abilities: self.queues.abilities() };
        let mut socket = Self::open_with(self.queues.region(), memory, &self.interface, queue, config, pool)?;
        socket.zero_copy = self.zero_copy;
        Ok(socket)
    }

    fn open_with(
        region: &Region,
        memory: Memory<'_>,
        interface: &Interface,
        queue: u32,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Socket, Error> {
        config.check()?;
        let at = |call| At { interface, queue, call };
        let fd = if_xdp::socket().map_err(|e| at("socket(AF_XDP)").error(e))?;
        if let Memory::Own { .. } = memory {
            register_memory(fd.as_fd(), region).map_err(|e| at("XDP_UMEM_REG").memory(e, region))?;
        }
        let rings = map_rings(fd.as_fd(), config, at)?;
        // Unknown before 6.16: then a batch takes several calls.
        let tx_budget =
            if_xdp::set_option(fd.as_fd(), if_xdp::XDP_MAX_TX_SKB_BUDGET, &config.tx_budget).is_ok();
        let abilities = match memory {
            Memory::Shared { abilities, .. } => abilities,
            // The registration may have set 24 bytes aside, but nobody reads them.
            Memory::Own { zero_copy } => {
                Abilities { metadata: if_xdp::TX_METADATA_LEN, ..Abilities::new(false, !zero_copy) }
            }
        };
        let mut queues = Queues::new(region, region.new_holder()?, rings, abilities);
        queues.refill(pool);
        let bound = retry_busy(|| match memory {
            Memory::Shared { with, .. } => {
                if_xdp::bind(fd.as_fd(), libc::XDP_SHARED_UMEM, interface.index(), queue, Some(with))
            }
            Memory::Own { zero_copy } => {
                let mode = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
                let several = if queues.abilities().multi_buffer { libc::XDP_USE_SG } else { 0 };
                let bind = |flags| if_xdp::bind(fd.as_fd(), flags, interface.index(), queue, None);
                match bind(mode | libc::XDP_USE_NEED_WAKEUP | several) {
                    // Kernels before 6.6 do not know packets of several buffers.
                    Err(error) if several != 0 && error.raw_os_error() == Some(libc::EINVAL) => {
                        queues.lose_multi_buffer();
                        bind(mode | libc::XDP_USE_NEED_WAKEUP)
                    }
                    bound => bound,
                }
            }
        });
        if let Err(error) = bound {
            queues.close_with(|| drop(fd)).into_iter().for_each(|frame| pool.put(frame));
            return Err(at("bind").error(error));
        }
        let zero_copy = matches!(memory, Memory::Own { zero_copy: true });
        Ok(Socket { queues, fd, interface: interface.clone(), queue, zero_copy, tx_budget })
    }

    /// The device.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The queue of the device.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Is the socket in zero-copy mode?
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Did the kernel accept a larger transmit budget?
    pub fn tx_budget(&self) -> bool {
        self.tx_budget
    }

    /// What the device can do, above all whether [`Socket::transmit`] takes checksum requests.
    #[inline]
    pub fn abilities(&self) -> Abilities {
        self.queues.abilities()
    }

    /// Takes up to `max` received packets, in order. Returns how many. No system call.
    #[inline]
    pub fn receive(&mut self, max: usize, sink: impl FnMut(FrameChain)) -> usize {
        self.queues.receive(max, sink)
    }

    /// Gives the kernel frames for packets to come, in bulk: see [`Queues::refill`]. Wakes a zero-copy driver that asks for it.
    #[inline]
    pub fn refill(&mut self, pool: &mut FramePool) -> usize {
        let given = self.queues.refill(pool);
        if given > 0 && self.queues.receive_needs_wakeup() {
            self.wake_receive();
        }
        given
    }

    /// Puts a packet into the transmit ring: see [`Queues::transmit`]. It is sent by the next [`Socket::kick_tx`].
    ///
    /// # Errors
    /// The packet comes back, unchanged, with the reason.
    #[inline]
    pub fn transmit(&mut self, chain: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused> {
        self.queues.transmit(chain, checksum)
    }

    /// Takes the frames back that were transmitted. Returns how many. No system call.
    #[inline]
    pub fn complete(&mut self, pool: &mut FramePool) -> usize {
        self.queues.complete(pool)
    }

    /// Shows the packets in the transmit ring to the kernel and has it send them: one system call, or a few where the
    /// kernel sends only 32 frames a call; none if nothing waits, so an idle socket does not learn here that its device is gone.
    #[inline]
    pub fn kick_tx(&mut self) -> Kick {
        self.queues.publish();
        let mut pending = self.queues.transmit_pending();
        for _ in 0..MAX_SENDS {
            if pending == 0 {
                return Kick::Done;
            }
            match self.send() {
                // In copy mode everything is sent; a zero-copy driver now works on its own.
                Ok(()) => return Kick::Done,
                // The budget is used up, or completions wait to be taken; or (EBUSY) a single packet was dropped, for
                // instance because the other end is down. Go on while there is progress.
                Err(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) => {
                    let left = self.queues.transmit_pending();
                    if left == pending {
                        return Kick::Again;
                    }
                    pending = left;
                }
                Err(libc::EINTR) => {}
                Err(libc::ENETDOWN) => return Kick::Down,
                Err(libc::ENXIO) => return Kick::Gone,
                Err(errno) => return Kick::Failed(errno),
            }
        }
        Kick::Again
    }

    fn send(&self) -> Result<(), i32> {
        let none = std::ptr::null();
        // SAFETY: no memory is passed; packets are in the ring.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), 0) };
        if sent < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(()) }
    }

    #[cold]
    fn wake_receive(&self) {
        let none = std::ptr::null_mut();
        // SAFETY: no memory is passed. The result does not matter: a device that is gone is noticed by `kick_tx`, `is_gone`
        // or by whoever watches links.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                none,
                0,
                libc::MSG_DONTWAIT,
                none.cast(),
                std::ptr::null_mut(),
            )
        };
    }

    /// Was the device deleted? A system call: for control paths.
    pub fn is_gone(&self) -> bool {
        let none = std::ptr::null();
        // SAFETY: no memory is passed.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), 0) };
        sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO)
    }

    /// Descriptors that the kernel has not taken out of the transmit ring yet.
    #[inline]
    pub fn transmit_pending(&mut self) -> u32 {
        self.queues.transmit_pending()
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// The kernel's answer, which a bound socket does not give.
    pub fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: a C struct of integers.
        let raw: libc::xdp_statistics = unsafe { if_xdp::get_option(self.fd.as_fd(), libc::XDP_STATISTICS) }?;
        Ok(Statistics {
            rx_dropped: raw.rx_dropped,
            rx_invalid_descriptors: raw.rx_invalid_descs,
            tx_invalid_descriptors: raw.tx_invalid_descs,
            rx_ring_full: raw.rx_ring_full,
            rx_fill_ring_empty: raw.rx_fill_ring_empty_descs,
            tx_ring_empty: raw.tx_ring_empty_descs,
        })
    }

    /// What the kernel did wrong so far: all 0.
    pub fn faults(&self) -> Faults {
        self.queues.faults()
    }

    /// Unmaps the rings, closes the socket and gives back every frame it held: received ones not taken yet, those waiting for
    /// packets, and those whose transmission was never completed. Takes time in proportion to the region: off the packet path.
    pub fn close(self) -> Vec<Frame> {
        let Socket { queues, fd, zero_copy, .. } = self;
        queues.close_with(|| {
            drop(fd);
            if zero_copy {
                // The kernel takes the queue away from the driver a little after the close; until then the device may write.
                std::thread::sleep(ZERO_COPY_RELEASE);
            }
        })
    }
}

impl AsFd for Socket {
    /// For poll: readable when packets wait to be received.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Most system calls for one kick. Enough for a full ring in steps of 32, where the kernel has no larger budget and nothing
/// else is wrong; a bound on the time that a device which drops everything can take.
const MAX_SENDS: usize = 128;

/// Longer than the kernel's deferred release of a zero-copy queue takes (some 20 ms were observed).
const ZERO_COPY_RELEASE: Duration = Duration::from_millis(200);

/// Opens a socket on every active receive queue of a device, in zero-copy mode if wanted and possible, otherwise in copy
/// mode. All are in the same mode.
///
/// # Errors
/// As [`Socket::open`]; the frames of those already opened are back in the pool then.
pub fn open_all(
    umem: &Umem,
    interface: &Interface,
    zero_copy: bool,
    config: &SocketConfig,
    pool: &mut FramePool,
) -> Result<Vec<Socket>, Error> {
    let count = interface.rx_queues()?;
    if zero_copy {
        // Drivers that advertise it may still refuse it, each with another error: any of them means copy mode.
        if let Ok(first) = Socket::open_zero_copy(umem.region(), interface, 0, config, pool) {
            let sockets =
                complete_set(vec![first], count, pool, |sockets, queue, pool| match sockets.first() {
                    Some(first) => first.open_beside(queue, config, pool),
                    None => Socket::open(umem, interface, queue, config, pool),
                });
            if sockets.is_ok() {
                return sockets;
            }
        }
    }
    complete_set(Vec::new(), count, pool, |_, queue, pool| Socket::open(umem, interface, queue, config, pool))
}

/// Opens the queues that are missing in `sockets`, or closes all.
fn complete_set(
    mut sockets: Vec<Socket>,
    count: u32,
    pool: &mut FramePool,
    mut open: impl FnMut(&[Socket], u32, &mut FramePool) -> Result<Socket, Error>,
) -> Result<Vec<Socket>, Error> {
    for queue in sockets.len() as u32..count {
        match open(&sockets, queue, pool) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                sockets.into_iter().flat_map(Socket::close).for_each(|frame| pool.put(frame));
                return Err(error);
            }
        }
    }
    Ok(sockets)
}

/// Sets the sizes of the four rings and maps them.
fn map_rings<'a>(
    fd: BorrowedFd<'_>,
    config: &SocketConfig,
    at: impl Fn(&'static str) -> At<'a>,
) -> Result<Rings, Error> {
    for (option, size, call) in [
        (libc::XDP_RX_RING, config.receive, "XDP_RX_RING"),
        (libc::XDP_TX_RING, config.transmit, "XDP_TX_RING"),
        (libc::XDP_UMEM_FILL_RING, config.fill, "XDP_UMEM_FILL_RING"),
        (libc::XDP_UMEM_COMPLETION_RING, config.completion, "XDP_UMEM_COMPLETION_RING"),
    ] {
        if_xdp::set_option(fd, option, &size).map_err(|e| at(call).error(e))?;
    }
    let offsets = if_xdp::mmap_offsets(fd).map_err(|e| at("XDP_MMAP_OFFSETS").error(e))?;
    let failed = |e| at("mmap of a ring").error(e);
    let (rx, tx) = (libc::XDP_PGOFF_RX_RING as u64, libc::XDP_PGOFF_TX_RING as u64);
    Ok(Rings {
        fill: Producer::map(fd, libc::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, config.fill).map_err(failed)?,
        receive: Consumer::map(fd, rx, &offsets.rx, config.receive).map_err(failed)?,
        transmit: Producer::map(fd, tx, &offsets.tx, config.transmit).map_err(failed)?,
        completion: Consumer::map(fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, config.completion)
            .map_err(failed)?,
    })
}

/// Repeats a bind while the queue is busy, for about a second: the kernel frees a closed socket's queue some time later.
pub(crate) fn retry_busy(mut bind: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        match bind() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && pause < Duration::from_millis(600) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_checked() {
        let config = SocketConfig { fill: 1000, ..Default::default() };
        assert!(matches!(config.check(), Err(Error::RingSize { ring: "fill", size: 1000 })));
        assert!(SocketConfig { completion: 65536, ..Default::default() }.check().is_err());
        assert!(SocketConfig::default().check().is_ok());
    }

    #[test]
    fn only_busy_is_tried_again() {
        let mut calls = 0;
        let result = retry_busy(|| {
            calls += 1;
            let errno = if calls < 4 { libc::EBUSY } else { libc::EINVAL };
            Err(io::Error::from_raw_os_error(errno))
        });
        assert_eq!((calls, result.unwrap_err().raw_os_error()), (4, Some(libc::EINVAL)));
    }
}

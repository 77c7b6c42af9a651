//! A port whose device is in memory: the rings are those of a socket, the kernel's side is a [`MemoryWire`].
//!
//! Tests and benches put packets on the wire and take off what was sent; workers run over it exactly as over a device.

use std::os::fd::BorrowedFd;

use af_xdp::twin::{self, Sent, Wire};
use af_xdp::{
    Abilities, Error, Frame, FrameChain, FramePool, Kick, Queues, Refused, Region, Statistics, TxChecksum,
};

use super::Port;

/// The worker's end.
pub struct MemoryPort {
    queues: Queues,
}

/// The other end: what a kernel and a device would do.
pub struct MemoryWire {
    wire: Wire,
}

impl MemoryPort {
    /// A port with rings of `size` entries (a power of two) and its wire. Fill it from a pool before packets can arrive.
    ///
    /// # Errors
    /// [`Error::RingSize`].
    pub fn new(region: &Region, size: u32, abilities: Abilities) -> Result<(Self, MemoryWire), Error> {
        let (queues, wire) = twin::pair(region, size, abilities)?;
        Ok((Self { queues }, MemoryWire { wire }))
    }
}

impl MemoryWire {
    /// A packet arrives. False, and it is lost, if the port had no frame or no room for it.
    pub fn deliver(&mut self, bytes: &[u8]) -> bool {
        self.wire.deliver(bytes)
    }

    /// The same, of a packet that lies in these buffers, each no larger than a frame has room for.
    pub fn deliver_parts<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
        self.wire.deliver_parts(parts)
    }

    /// Everything the port has sent since the last call, and completes it.
    pub fn take(&mut self) -> Vec<Sent> {
        self.wire.take()
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, max: usize, packets: &mut Vec<FrameChain>) {
        self.queues.receive(max, |packet| packets.push(packet));
    }

    fn refill(&mut self, pool: &mut FramePool) {
        self.queues.refill(pool);
    }

    fn transmit(&mut self, packet: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused> {
        self.queues.transmit(packet, checksum)
    }

    fn abilities(&self) -> Abilities {
        self.queues.abilities()
    }

    fn kick(&mut self) -> Kick {
        self.queues.publish();
        Kick::Done
    }

    fn complete(&mut self, pool: &mut FramePool) {
        self.queues.complete(pool);
    }

    fn poll_on<'a>(&'a self, _fds: &mut Vec<BorrowedFd<'a>>) {}

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        self.queues.close()
    }
}

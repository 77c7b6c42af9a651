//! Ports: where packets come from and go to.
//!
//! A [`Port`] is one device in the hands of one worker, with all its queues, or with that worker's share of them
//! ([`Shares`]). The worker calls it once a stage and batch, never once a packet but to transmit, so that a virtual call costs
//! nothing that could be measured. Implementations: a device over AF_XDP ([`AfXdpPort`]), rings in memory with a wire at their
//! other end ([`MemoryPort`]), and a capture file ([`PcapPort`]).
//!
//! What every implementation guarantees: it never makes or loses a frame. A frame is in the pool, in a packet, or held by
//! the port, and [`Port::close`] gives back all that it holds.

mod device;
mod memory;
mod pcap;
mod shares;

use std::os::fd::BorrowedFd;

use af_xdp::{Abilities, Frame, FrameChain, FramePool, Kick, Refused, Statistics, TxChecksum};

pub use device::AfXdpPort;
pub use memory::{MemoryPort, MemoryWire};
pub use pcap::{InvalidCapture, PcapPort};
pub use shares::Shares;

/// A device as a worker sees it.
pub trait Port: Send {
    /// Moves up to `max` received packets into `packets`, in order for each queue. No system call.
    fn receive(&mut self, max: usize, packets: &mut Vec<FrameChain>);

    /// Gives the device frames for packets to come, in bulk.
    fn refill(&mut self, pool: &mut FramePool);

    /// Puts a packet into the transmit ring; it leaves with the next [`Port::kick`].
    ///
    /// # Errors
    /// The packet comes back, unchanged, with the reason.
    fn transmit(&mut self, packet: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused>;

    /// What the device can do.
    fn abilities(&self) -> Abilities;

    /// Makes the device send what [`Port::transmit`] took: one system call, none if nothing waits; more only where the kernel
    /// sends part of it a call (without `XDP_MAX_TX_SKB_BUDGET`) and only while it gets on.
    fn kick(&mut self) -> Kick;

    /// Takes frames back that were sent.
    fn complete(&mut self, pool: &mut FramePool);

    /// Appends what to poll for received packets.
    fn poll_on<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>);

    /// The device's own counters, summed over its queues. A system call or more: for control paths.
    fn statistics(&self) -> Statistics;

    /// Ends the use of the device and gives back every frame it held. Takes milliseconds: not on a worker.
    fn close(self: Box<Self>) -> Vec<Frame>;
}

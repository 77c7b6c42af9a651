//! A device over AF_XDP, all its queues together.

use std::os::fd::{AsFd, BorrowedFd};

use af_xdp::{Abilities, Frame, FrameChain, FramePool, Kick, Refused, Socket, Statistics, TxChecksum};

use super::Port;

/// All sockets of one device. Transmits on the first queue: order is kept, and one kick serves a batch.
pub struct AfXdpPort {
    first: Socket,
    others: Vec<Socket>,
}

impl AfXdpPort {
    /// Takes the sockets of one device, as [`af_xdp::open_all`] gives them. `None` if there is none.
    #[must_use]
    pub fn new(sockets: Vec<Socket>) -> Option<Self> {
        let mut sockets = sockets.into_iter();
        Some(Self { first: sockets.next()?, others: sockets.collect() })
    }

    fn sockets(&self) -> impl Iterator<Item = &Socket> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Port for AfXdpPort {
    fn receive(&mut self, max: usize, packets: &mut Vec<FrameChain>) {
        let mut left = max;
        left -= self.first.receive(left, |packet| packets.push(packet));
        for socket in &mut self.others {
            left -= socket.receive(left, |packet| packets.push(packet));
        }
    }

    fn refill(&mut self, pool: &mut FramePool) {
        self.first.refill(pool);
        for socket in &mut self.others {
            socket.refill(pool);
        }
    }

    fn transmit(&mut self, packet: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused> {
        self.first.transmit(packet, checksum)
    }

    fn abilities(&self) -> Abilities {
        self.first.abilities()
    }

    fn kick(&mut self) -> Kick {
        self.first.kick_tx()
    }

    fn complete(&mut self, pool: &mut FramePool) {
        self.first.complete(pool);
    }

    fn poll_on<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        fds.extend(self.sockets().map(AsFd::as_fd));
    }

    fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        // A bound socket answers; one whose device is gone has nothing more to say.
        for one in self.sockets().filter_map(|socket| socket.statistics().ok()) {
            sum.rx_dropped += one.rx_dropped;
            sum.rx_invalid_descriptors += one.rx_invalid_descriptors;
            sum.tx_invalid_descriptors += one.tx_invalid_descriptors;
            sum.rx_ring_full += one.rx_ring_full;
            sum.rx_fill_ring_empty += one.rx_fill_ring_empty;
            sum.tx_ring_empty += one.tx_ring_empty;
        }
        sum
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        let Self { first, others } = *self;
        let mut frames = first.close();
        frames.extend(others.into_iter().flat_map(Socket::close));
        frames
    }
}

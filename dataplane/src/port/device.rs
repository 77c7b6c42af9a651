//! A device over AF_XDP: all its queues together, or one worker's share of them.

use std::os::fd::{AsFd, BorrowedFd};

use af_xdp::{Abilities, Frame, FrameChain, FramePool, Kick, Refused, Socket, Statistics, TxChecksum};

use super::Port;

/// Sockets of one device. Transmits on the first queue: order is kept, and one kick serves a batch.
pub struct AfXdpPort {
    first: Socket,
    others: Vec<Socket>,
    /// Which of the sockets may take of the next batch first: a busy queue must not keep the others from theirs.
    turn: usize,
}

impl AfXdpPort {
    /// Takes sockets of one device, in the order of their queues, as [`af_xdp::open_all`] and [`super::Shares::share_out`] give
    /// them. The first one must be that of a queue that transmits. `None` if there is none.
    #[must_use]
    pub fn new(sockets: Vec<Socket>) -> Option<Self> {
        let mut sockets = sockets.into_iter();
        Some(Self { first: sockets.next()?, others: sockets.collect(), turn: 0 })
    }

    fn sockets(&self) -> impl Iterator<Item = &Socket> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Port for AfXdpPort {
    fn receive(&mut self, max: usize, packets: &mut Vec<FrameChain>) {
        let mut left = max;
        let count = 1 + self.others.len();
        for place in self.turn..self.turn + count {
            let socket = match (place % count).checked_sub(1) {
                None => Some(&mut self.first),
                Some(other) => self.others.get_mut(other),
            };
            left -= socket.map_or(0, |socket| socket.receive(left, |packet| packets.push(packet)));
        }
        self.turn = (self.turn + 1) % count;
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
            sum.add(&one);
        }
        sum
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        let Self { first, others, .. } = *self;
        let mut frames = first.close();
        frames.extend(others.into_iter().flat_map(Socket::close));
        frames
    }
}

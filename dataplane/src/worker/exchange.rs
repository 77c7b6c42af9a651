//! Hand-over between workers: one ring for each ordered pair of them, and the frames that nobody needs.
//!
//! What a worker gives to another is staged during its turn and leaves in one piece at the turn's end, with one wake-up if
//! the other sleeps. Rings keep the order, so the packets of a flow stay in theirs. A packet that finds its ring full is
//! dropped by name: its frame never left.
//!
//! Frames move with packets, so a worker that mostly sends gathers what others lack. It puts what exceeds its share into the
//! [`Commons`], which has room for every frame of the region, so that giving back never fails.

use std::sync::Arc;

use af_xdp::{Frame, FramePool, Region};
use crossbeam::queue::ArrayQueue;

use super::wake::Waker;
use crate::packet::{Packet, PortId, WorkerId};

/// What one worker asks another to do with a packet.
pub(super) enum Handed {
    /// You own its connection.
    Track(Packet),
    /// Admitted and rewritten: send it by this port of yours.
    Send(Packet, PortId),
}

impl Handed {
    pub(super) fn into_packet(self) -> Packet {
        match self {
            Handed::Track(packet) | Handed::Send(packet, _) => packet,
        }
    }
}

/// Frames for whoever lacks some. Lock-free.
pub type Commons = Arc<ArrayQueue<Frame>>;

/// Commons with room for every frame of `region`.
#[must_use]
pub fn commons(region: &Region) -> Commons {
    Arc::new(ArrayQueue::new(region.chunks().max(1) as usize))
}

struct Outbound {
    ring: rtrb::Producer<Handed>,
    staged: Vec<Handed>,
    waker: Waker,
}

/// One worker's ends of all rings.
pub(super) struct Exchange {
    inbound: Vec<rtrb::Consumer<Handed>>,
    /// By worker; none for oneself.
    outbound: Vec<Option<Outbound>>,
    commons: Commons,
    /// Frames that this worker keeps for itself.
    share: usize,
}

/// The exchanges of as many workers as there are wakers, with rings for `room` packets.
pub(super) fn exchanges(wakers: &[Waker], room: usize, commons: &Commons, share: usize) -> Vec<Exchange> {
    let count = wakers.len();
    let mut all: Vec<Exchange> = (0..count)
        .map(|_| Exchange {
            inbound: Vec::with_capacity(count),
            outbound: Vec::with_capacity(count),
            commons: commons.clone(),
            share,
        })
        .collect();
    for from in 0..count {
        for (to, waker) in wakers.iter().enumerate() {
            let mut outbound = None;
            if from != to {
                let (ring, consumer) = rtrb::RingBuffer::new(room);
                outbound = Some(Outbound { ring, staged: Vec::with_capacity(room), waker: waker.clone() });
                if let Some(exchange) = all.get_mut(to) {
                    exchange.inbound.push(consumer);
                }
            }
            if let Some(exchange) = all.get_mut(from) {
                exchange.outbound.push(outbound);
            }
        }
    }
    all
}

impl Exchange {
    /// Is there more than one worker?
    #[inline]
    pub fn has_peers(&self) -> bool {
        !self.inbound.is_empty()
    }

    /// How many other workers there are.
    pub fn peers(&self) -> usize {
        self.inbound.len()
    }

    /// Does something wait to be taken over?
    pub fn is_waiting(&self) -> bool {
        self.inbound.iter().any(|ring| !ring.is_empty())
    }

    /// Stages a packet for a worker.
    ///
    /// # Errors
    /// It comes back if that worker is not there or already gets as many as its ring holds.
    #[inline]
    pub fn stage(&mut self, to: WorkerId, handed: Handed) -> Result<(), Handed> {
        match self.outbound.get_mut(usize::from(to.0)) {
            Some(Some(outbound)) if outbound.staged.len() < outbound.staged.capacity() => {
                outbound.staged.push(handed);
                Ok(())
            }
            _ => Err(handed),
        }
    }

    /// Gives away what is staged, and wakes who sleeps. What does not fit stays staged: [`Exchange::refused`] takes it out.
    pub fn flush(&mut self) {
        for outbound in self.outbound.iter_mut().flatten() {
            if outbound.staged.is_empty() {
                continue;
            }
            let room = outbound.ring.slots().min(outbound.staged.len());
            if let Ok(chunk) = outbound.ring.write_chunk_uninit(room) {
                chunk.fill_from_iter(outbound.staged.drain(..room));
            }
            outbound.waker.wake();
        }
    }

    /// One of the packets that did not fit.
    pub fn refused(&mut self) -> Option<Handed> {
        self.outbound.iter_mut().flatten().find_map(|outbound| outbound.staged.pop())
    }

    /// Takes over up to `max` packets from each worker. True if nothing more waits.
    pub fn take_over(&mut self, max: usize, into: &mut Vec<Handed>) -> bool {
        let mut empty = true;
        for ring in &mut self.inbound {
            let waiting = ring.slots();
            if let Ok(chunk) = ring.read_chunk(waiting.min(max)) {
                into.extend(chunk);
            }
            empty &= waiting <= max;
        }
        empty
    }

    /// Keeps the pool near this worker's share: gives to the commons what is too much, takes from there what is too little.
    pub fn balance(&self, pool: &mut FramePool) {
        const STEP: usize = 256;
        if pool.len() > self.share + STEP {
            for _ in 0..STEP {
                let Some(frame) = pool.take() else { return };
                if let Err(frame) = self.commons.push(frame) {
                    pool.put(frame);
                    return;
                }
            }
        } else if pool.len() < self.share / 2 {
            for _ in 0..STEP {
                let Some(frame) = self.commons.pop() else { return };
                pool.put(frame);
            }
        }
    }
}

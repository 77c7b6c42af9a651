//! Hand-over between workers: one ring for each ordered pair of them.
//!
//! What a worker gives to another is staged during its turn and leaves in one piece at the turn's end, with one wake-up if
//! the other sleeps. Rings keep the order, so the packets of a flow stay in theirs. What finds its ring full comes back, to
//! be dropped by name: it never left.
//!
//! It takes rings and wakers from its parent, so that `tests/model_exchange.rs` compiles this very file over shuttle's
//! atomics, and does not ask what is handed over.

use super::ring::{Consumer, Producer, RingBuffer};
use super::wake::Waker;

struct Outbound<T> {
    ring: Producer<T>,
    staged: Vec<T>,
    waker: Waker,
}

/// One worker's ends of all rings.
pub(super) struct Exchange<T> {
    inbound: Vec<Consumer<T>>,
    /// By worker; none for oneself.
    outbound: Vec<Option<Outbound<T>>>,
}

/// The exchanges of as many workers as there are wakers, with rings for `room` packets.
pub(super) fn exchanges<T>(wakers: &[Waker], room: usize) -> Vec<Exchange<T>> {
    let count = wakers.len();
    let mut all: Vec<Exchange<T>> = (0..count)
        .map(|_| Exchange { inbound: Vec::with_capacity(count), outbound: Vec::with_capacity(count) })
        .collect();
    for from in 0..count {
        for (to, waker) in wakers.iter().enumerate() {
            let mut outbound = None;
            if from != to {
                let (ring, consumer) = RingBuffer::new(room);
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

impl<T> Exchange<T> {
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

    /// Stages a packet for the worker of this number.
    ///
    /// # Errors
    /// It comes back if that worker is not there or already gets as many as its ring holds.
    #[inline]
    pub fn stage(&mut self, to: usize, handed: T) -> Result<(), T> {
        match self.outbound.get_mut(to) {
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
    pub fn refused(&mut self) -> Option<T> {
        self.outbound.iter_mut().flatten().find_map(|outbound| outbound.staged.pop())
    }

    /// Takes over up to `max` packets from each worker. True if nothing more waits.
    pub fn take_over(&mut self, max: usize, into: &mut Vec<T>) -> bool {
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
}

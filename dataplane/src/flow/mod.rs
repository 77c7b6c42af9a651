//! Connections: one entry each, holding both directions.
//!
//! A [`FlowTable`] belongs to one worker, the owner of its connections, and is as large as the settings say from the
//! start: nothing on the packet path allocates. The index is keyed with a secret of this boot, because who sends packets
//! chooses the tuples.
//!
//! What is guaranteed:
//! - Both directions of a connection find one entry ([`FlowKey`]), and say which direction a packet goes.
//! - How far a connection has come is followed exactly ([`TcpTrack`], [`SctpTrack`]), and a packet that its state does not
//!   allow does not pass.
//! - A full table refuses new connections unless an embryonic one (not established yet) can go, the oldest first. An
//!   open connection is never evicted.
//! - Aging costs a fixed number of steps a turn ([`FlowTable::age`]), however many entries there are. So it may come late,
//!   most of all while a worker sleeps, and whoever finds an entry asks whether its time is over ([`FlowTable::is_expired`]).
//!
//! How aging works: each entry waits in exactly one of three queues, one a class. The head of a queue is looked at: has
//! its time passed since it was last seen, it goes; otherwise it goes to the back of the queue of the class it has now.
//! So a packet touches one time stamp and no list.

mod entry;
mod key;
mod sctp;
mod tcp;

pub use entry::{Class, Evidence, Flow, Hop, Progress, Side, Timeouts};
pub use key::{FlowKey, Heading, Tuple, pair};
pub use sctp::{Chunk, SctpState, SctpTrack};
pub use tcp::{Segment, TcpState, TcpTrack};

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::clock::Instant64;

/// An entry's place in its table. Good until the entry is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowId(u32);

/// Why a connection could not be entered: the table is full of open ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What the table did since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Entries made.
    pub opened: u64,
    /// Entries that ended because nothing was seen for their time.
    pub expired: u64,
    /// Embryonic entries that had to go for a new one.
    pub evicted: u64,
    /// Entries ended by a change of policy or of the pod behind an address, or replaced.
    pub cut: u64,
}

/// The connections of one worker.
pub struct FlowTable {
    index: HashTable<u32>,
    slab: Vec<Option<Flow>>,
    free: Vec<u32>,
    waiting: [VecDeque<u32>; Class::COUNT],
    next_class: usize,
    hasher: RandomState,
    counts: FlowCounts,
    timeouts: Timeouts,
}

/// How many embryonic candidates an insertion into a full table looks at.
const EVICTION_LOOKS: usize = 16;

impl FlowTable {
    /// A table for `capacity` connections, keyed with `seed`. All memory is allocated here.
    #[must_use]
    pub fn new(capacity: usize, timeouts: Timeouts, seed: [u64; 4]) -> Self {
        let capacity = capacity.clamp(1, u32::MAX as usize / 2);
        let [a, b, c, d] = seed;
        Self {
            // Twice the room: then a table full of the marks of removed entries is cleaned in place.
            index: HashTable::with_capacity(2 * capacity),
            slab: (0..capacity).map(|_| None).collect(),
            free: (0..capacity as u32).rev().collect(),
            waiting: [(); Class::COUNT].map(|()| VecDeque::with_capacity(capacity)),
            next_class: 0,
            hasher: RandomState::with_seeds(a, b, c, d),
            counts: FlowCounts::default(),
            timeouts,
        }
    }

    /// Entries now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slab.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> FlowCounts {
        self.counts
    }

    /// The keyed hash of a connection's key.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The entry of a connection. `hash` is that of `key`.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: u64, key: &FlowKey) -> Option<FlowId> {
        let same = |id: &u32| self.entry(*id).is_some_and(|flow| flow.key == *key);
        self.index.find(hash, same).map(|id| FlowId(*id))
    }

    /// An entry.
    #[inline]
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.entry(id.0)
    }

    /// An entry, to change. Its key must stay.
    #[inline]
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slab.get_mut(id.0 as usize)?.as_mut()
    }

    fn entry(&self, id: u32) -> Option<&Flow> {
        self.slab.get(id as usize)?.as_ref()
    }

    /// Enters a connection that is not in the table yet.
    ///
    /// # Errors
    /// [`Full`] if there is no room and no embryonic entry among the oldest can go.
    pub fn insert(&mut self, flow: Flow) -> Result<FlowId, Full> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.evict()?;
                self.free.pop().ok_or(Full)?
            }
        };
        let hash = self.hash(&flow.key);
        let class = flow.class();
        let Some(place) = self.slab.get_mut(id as usize) else { return Err(Full) };
        *place = Some(flow);
        let (slab, hasher) = (&self.slab, &self.hasher);
        let rehash = |id: &u32| match slab.get(*id as usize) {
            Some(Some(flow)) => hasher.hash_one(flow.key),
            _ => 0,
        };
        self.index.insert_unique(hash, id, rehash);
        self.wait(class, id);
        self.counts.opened += 1;
        Ok(FlowId(id))
    }

    /// Was a connection silent for longer than its time? Aging may not have come to it yet.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, id: FlowId, now: Instant64) -> bool {
        self.get(id).is_none_or(|flow| now.since(flow.last_seen) >= self.timeouts.of(flow))
    }

    /// Ends a connection that [is expired](Self::is_expired).
    pub fn expire(&mut self, id: FlowId) {
        if self.unlink(id.0) {
            self.counts.expired += 1;
        }
    }

    /// Ends a connection for a reason other than its age.
    pub fn cut(&mut self, id: FlowId) {
        if self.unlink(id.0) {
            self.counts.cut += 1;
        }
    }

    /// Ends connections that were not seen for their time: looks at `steps` entries at most, of all classes in turn.
    pub fn age(&mut self, now: Instant64, steps: usize) {
        for _ in 0..steps {
            self.next_class = (self.next_class + 1) % Class::COUNT;
            self.age_one(self.next_class, now);
        }
    }

    /// Looks at the longest-waiting entry of a class.
    fn age_one(&mut self, class: usize, now: Instant64) {
        let Some(id) = self.waiting.get_mut(class).and_then(VecDeque::pop_front) else { return };
        let Some(flow) = self.entry(id) else {
            // It was removed while it waited, and only now is its place free again.
            self.free.push(id);
            return;
        };
        if now.since(flow.last_seen) < self.timeouts.of(flow) {
            let class = flow.class();
            self.wait(class, id);
        } else {
            self.unlink(id);
            self.free.push(id);
            self.counts.expired += 1;
        }
    }

    /// Makes room for one entry.
    fn evict(&mut self) -> Result<(), Full> {
        for _ in 0..EVICTION_LOOKS {
            let queue = self.waiting.get_mut(Class::Embryonic as usize);
            let Some(id) = queue.and_then(VecDeque::pop_front) else { return Err(Full) };
            match self.entry(id).map(Flow::class) {
                Some(Class::Embryonic) => {
                    self.unlink(id);
                    self.free.push(id);
                    self.counts.evicted += 1;
                    return Ok(());
                }
                Some(class) => self.wait(class, id),
                None => {
                    self.free.push(id);
                    return Ok(());
                }
            }
        }
        Err(Full)
    }

    fn wait(&mut self, class: Class, id: u32) {
        if let Some(queue) = self.waiting.get_mut(class as usize) {
            // Never grows: each place waits in one queue at most, and each queue has room for all.
            queue.push_back(id);
        }
    }

    /// Takes an entry out of index and slab. Its place is not free before it was taken out of its queue too.
    fn unlink(&mut self, id: u32) -> bool {
        let Some(flow) = self.slab.get_mut(id as usize).and_then(Option::take) else { return false };
        let hash = self.hash(&flow.key);
        match self.index.find_entry(hash, |other| *other == id) {
            Ok(found) => {
                found.remove();
                true
            }
            Err(_) => false,
        }
    }
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

#[cfg(test)]
mod tests;

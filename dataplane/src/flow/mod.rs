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
//! - An open connection ([`Class::Open`]) is never evicted. For a new one that finds the table full, a connection that is over goes, or else
//!   the oldest embryonic one (not established yet) of the pod that has most of them. A pod may have only so many
//!   connections; beyond that it makes room from its own. So whoever floods, or is flooded, pays for it alone.
//! - What nobody awaits any more does not keep others out. If only open connections are left, some of them are looked at before
//!   a new one is refused: those end whose time is over or whose pod is gone, as they would with their next packet, which
//!   may never come.
//! - The connections that ended last are remembered, with why they ended (`closed`).
//! - Aging costs a fixed number of steps a turn ([`FlowTable::age`]), however many entries there are. So it may come late,
//!   most of all while a worker sleeps, and whoever finds an entry asks whether its time is over ([`FlowTable::is_expired`]).
//!
//! How aging works: each entry waits in exactly one of three queues, one a class. The head of a queue is looked at: has
//! its time passed since it was last seen, it goes; otherwise it goes to the back of its queue. So a packet touches one time
//! stamp and no list.
//!
//! How a lookup is fast: a batch's keys are hashed first, which finds the places of likely entries in the index
//! ([`FlowTable::prefetch`]) and has their cache lines on the way, many at a time, when the packets are tracked one by one.
//! An entry is four cache lines, what every packet reads first.
//!
//! The index is twice as large as the table, and a removed entry mostly leaves no mark in it; so an insertion, too, costs a few
//! steps, and the index never grows or is rebuilt.

mod account;
mod chain;
mod closed;
mod entry;
mod key;
mod sctp;
mod tcp;

pub use account::{Charge, Charges};
pub use closed::{ClosedFlow, Denial, End, FlowFacts};
pub use entry::{Class, Evidence, Flow, FlowState, Hop, Progress, Side, Timeouts};
pub use key::{FlowKey, Heading, Tuple, pair};
pub use sctp::{Chunk, SctpState, SctpTrack};
pub use tcp::{Segment, TcpState, TcpTrack};

use account::Accounts;
use ahash::RandomState;
use hashbrown::HashTable;

use chain::{Chain, Queue};
use closed::ClosedFlows;

use crate::clock::Instant64;
use crate::drop_reason::DropReason;
use crate::packet::PortId;
use crate::policy::Judgement;
use crate::prefetch::prefetch;

/// An entry's place in its table. Good until the entry is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowId(u32);

/// Why a connection could not be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The table is full of open ones, and those that were looked at are still awaited.
    Table,
    /// The pod that it would be charged to has as many as it may have, all of them open; the same.
    Pod,
}

/// What the table did since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Entries made.
    pub opened: u64,
    /// Entries that ended because nothing was seen for their time.
    pub expired: u64,
    /// Entries that had to go for a new one before their time: embryonic ones, and those that were over.
    pub evicted: u64,
    /// Entries ended by a change of policy or of the pod behind an address, or replaced.
    pub cut: u64,
}

/// Open connections that are looked at for a new one that finds no room without them: few, because whoever floods a full table
/// has it done for each packet.
const OPEN_LOOKS: usize = 8;

/// The connections of one worker.
pub struct FlowTable {
    index: HashTable<u32>,
    slab: Vec<Option<Flow>>,
    free: Vec<u32>,
    /// For aging, by class.
    waiting: [Queue; Class::COUNT],
    waiting_links: Chain,
    next_class: usize,
    accounts: Accounts,
    per_pod: u32,
    hasher: RandomState,
    counts: FlowCounts,
    timeouts: Timeouts,
    closed: ClosedFlows,
}

impl FlowTable {
    /// A table for `capacity` connections, of which at most `per_pod` are charged to one pod, keyed with `seed`, which remembers
    /// the last `history` that are over. All memory is allocated here.
    #[must_use]
    pub fn new(capacity: usize, per_pod: usize, history: usize, timeouts: Timeouts, seed: [u64; 4]) -> Self {
        let capacity = capacity.clamp(1, u32::MAX as usize / 2);
        let [a, b, c, d] = seed;
        Self {
            // Twice the room: then a table full of the marks of removed entries would be cleaned in place.
            index: HashTable::with_capacity(2 * capacity),
            slab: (0..capacity).map(|_| None).collect(),
            free: (0..capacity as u32).rev().collect(),
            waiting: [Queue::EMPTY; Class::COUNT],
            waiting_links: Chain::new(capacity),
            next_class: 0,
            accounts: Accounts::new(capacity),
            per_pod: per_pod.clamp(1, capacity) as u32,
            hasher: RandomState::with_seeds(a, b, c, d),
            counts: FlowCounts::default(),
            timeouts,
            closed: ClosedFlows::new(history),
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

    /// What is charged to each port: the same counters for as long as the table lives, to be read from anywhere.
    #[must_use]
    pub fn charges(&self) -> &Charges {
        self.accounts.charges()
    }

    /// The keyed hash of a connection's key.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Has the entry that likely has this hash on its way into the cache. Changes nothing.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if let Some(entry) = self.index.iter_hash(hash).next().and_then(|id| self.slab.get(*id as usize)) {
            prefetch(entry);
        }
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

    fn entry(&self, id: u32) -> Option<&Flow> {
        self.slab.get(id as usize)?.as_ref()
    }

    fn entry_mut(&mut self, id: u32) -> Option<&mut Flow> {
        self.slab.get_mut(id as usize)?.as_mut()
    }

    /// Takes note of a packet that matches an entry.
    ///
    /// # Errors
    /// Why its connection does not allow it. Nothing has changed then.
    #[inline]
    pub fn see(
        &mut self,
        id: FlowId,
        side: Side,
        evidence: &Evidence,
        now: Instant64,
    ) -> Result<Hop, DropReason> {
        let flow = self.slab.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(DropReason::PortGone)?;
        let before = flow.class();
        flow.see(side, evidence, now)?;
        let (hop, after) = (flow.hop(side), flow.class());
        if before != after {
            self.reclass(id.0, before, after);
        }
        Ok(hop)
    }

    /// Notes what was said of a connection under a newer snapshot. `is_upheld` says that this is what was said before.
    pub fn judged(
        &mut self,
        id: FlowId,
        generation: u64,
        judgement: Judgement,
        is_upheld: bool,
        hops: [Hop; 2],
    ) {
        if let Some(flow) = self.entry_mut(id.0) {
            let passed = u32::try_from(generation.saturating_sub(flow.generation)).unwrap_or(u32::MAX);
            flow.upheld_for = if is_upheld { flow.upheld_for.saturating_add(passed) } else { 0 };
            (flow.generation, flow.judgement, flow.hops) = (generation, judgement, hops);
        }
    }

    fn reclass(&mut self, id: u32, from: Class, to: Class) {
        let Some(account) = self.entry(id).map(|flow| flow.account) else { return };
        self.accounts.reclass(account, id, from, to);
        self.wait_no_more(id, from);
        self.wait(id, to);
    }

    /// Enters a connection that is not in the table yet. `is_gone` says of another one why it may not go on if a pod that
    /// had it is there no more, and it is cut then if there is no room without its place.
    ///
    /// # Errors
    /// [`NoRoom`] if no other one can go for it.
    pub fn insert(
        &mut self,
        flow: Flow,
        now: Instant64,
        is_gone: impl Fn(&Flow) -> Option<Denial>,
    ) -> Result<FlowId, NoRoom> {
        let account = flow.account;
        let id = self.make_room(account, now, is_gone).inspect_err(|_| {
            if let Some(charge) = self.accounts.charge(account) {
                charge.count_refused(now);
            }
        })?;
        let hash = self.hash(&flow.key);
        let class = flow.class();
        let Some(place) = self.slab.get_mut(id as usize) else { return Err(NoRoom::Table) };
        *place = Some(flow);
        let (slab, hasher) = (&self.slab, &self.hasher);
        let rehash = |id: &u32| match slab.get(*id as usize) {
            Some(Some(flow)) => hasher.hash_one(flow.key),
            _ => 0,
        };
        self.index.insert_unique(hash, id, rehash);
        self.wait(id, class);
        self.accounts.open(account, id, class);
        self.counts.opened += 1;
        Ok(FlowId(id))
    }

    /// A free place for a connection that is charged to `account`.
    fn make_room(
        &mut self,
        account: PortId,
        now: Instant64,
        is_gone: impl Fn(&Flow) -> Option<Denial>,
    ) -> Result<u32, NoRoom> {
        let flows = self.accounts.charge(account).map_or(0, Charge::flows);
        if flows >= self.per_pod {
            match self.accounts.dispensable(account) {
                Some(own) => self.evict(own, now),
                None if self.end_unawaited(Some(account), now, &is_gone) => {}
                None => return Err(NoRoom::Pod),
            }
        }
        if self.free.is_empty() {
            // Aging may not have come to what is over.
            self.age(now, Class::COUNT);
        }
        if self.free.is_empty() {
            let over = self.waiting.get(Class::Closing as usize).and_then(Queue::oldest);
            match over.or_else(|| self.accounts.oldest_of_heaviest()) {
                Some(id) => self.evict(id, now),
                None if self.end_unawaited(None, now, &is_gone) => {}
                None => return Err(NoRoom::Table),
            }
        }
        self.free.pop().ok_or(NoRoom::Table)
    }

    /// Ends an open connection that nobody awaits any more, of those that are charged to `account`, or of all. Looks at
    /// [`OPEN_LOOKS`] of them at most, and at others the next time.
    fn end_unawaited(
        &mut self,
        account: Option<PortId>,
        now: Instant64,
        is_gone: &impl Fn(&Flow) -> Option<Denial>,
    ) -> bool {
        for _ in 0..OPEN_LOOKS {
            let next = match account {
                Some(account) => self.accounts.next_open(account),
                None => self.waiting.get(Class::Open as usize).and_then(Queue::oldest),
            };
            let Some(id) = next else { return false };
            if self.is_expired(FlowId(id), now) {
                self.expire(FlowId(id), now);
                return true;
            }
            if let Some(denial) = self.entry(id).and_then(is_gone) {
                self.cut(FlowId(id), End::Cut(denial), now);
                return true;
            }
            match account {
                Some(account) => self.accounts.reclass(account, id, Class::Open, Class::Open),
                None => self.wait_anew(id, Class::Open as usize),
            }
        }
        false
    }

    fn evict(&mut self, id: u32, now: Instant64) {
        // Nobody loses anything by the end of one that is over.
        let account = self.entry(id).filter(|flow| flow.class() != Class::Closing).map(|flow| flow.account);
        if let Some(charge) = account.and_then(|account| self.accounts.charge(account)) {
            charge.count_evicted();
        }
        if self.remove(id, End::Evicted, now) {
            self.counts.evicted += 1;
        }
    }

    /// Was a connection silent for longer than its time? Aging may not have come to it yet.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, id: FlowId, now: Instant64) -> bool {
        self.get(id).is_none_or(|flow| now.since(flow.last_seen) >= self.timeouts.of(flow))
    }

    /// Ends a connection that [is expired](Self::is_expired).
    pub fn expire(&mut self, id: FlowId, now: Instant64) {
        if self.remove(id.0, End::Expired, now) {
            self.counts.expired += 1;
        }
    }

    /// Ends a connection for a reason other than its age.
    pub fn cut(&mut self, id: FlowId, end: End, now: Instant64) {
        if self.remove(id.0, end, now) {
            self.counts.cut += 1;
        }
    }

    /// Ends connections that were not seen for their time: looks at `steps` entries at most, of all classes in turn.
    pub fn age(&mut self, now: Instant64, steps: usize) {
        for _ in 0..steps {
            self.next_class = (self.next_class + 1) % Class::COUNT;
            let Some(id) = self.waiting.get(self.next_class).and_then(Queue::oldest) else { continue };
            if self.is_expired(FlowId(id), now) {
                self.expire(FlowId(id), now);
            } else {
                self.wait_anew(id, self.next_class);
            }
        }
    }

    fn wait_anew(&mut self, id: u32, class: usize) {
        if let Some(queue) = self.waiting.get_mut(class) {
            self.waiting_links.remove(queue, id);
            self.waiting_links.push(queue, id);
        }
    }

    fn wait(&mut self, id: u32, class: Class) {
        if let Some(queue) = self.waiting.get_mut(class as usize) {
            self.waiting_links.push(queue, id);
        }
    }

    fn wait_no_more(&mut self, id: u32, class: Class) {
        if let Some(queue) = self.waiting.get_mut(class as usize) {
            self.waiting_links.remove(queue, id);
        }
    }

    /// Connections between these two ends that are over, as far as they are remembered: the newest `most` of those that were
    /// answered or cut, and as many of the others. `hash` is that of `key`.
    pub fn find_closed<'a>(
        &'a self,
        hash: u64,
        key: &'a FlowKey,
        most: usize,
    ) -> impl Iterator<Item = &'a ClosedFlow> {
        self.closed.find(hash, key, most)
    }

    /// Takes an entry out of everything, and remembers it as one that is over.
    fn remove(&mut self, id: u32, end: End, now: Instant64) -> bool {
        let Some(flow) = self.slab.get_mut(id as usize).and_then(Option::take) else { return false };
        let (class, hash) = (flow.class(), self.hash(&flow.key));
        if let Ok(found) = self.index.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.wait_no_more(id, class);
        self.accounts.close(flow.account, id, class);
        self.closed.push(hash, &flow, end, now);
        // Never grows: there is room for every place.
        self.free.push(id);
        true
    }

    /// Does everything fit together?
    #[cfg(test)]
    fn check(&self) {
        let flows = self.slab.iter().enumerate().filter_map(|(id, flow)| Some((id as u32, flow.as_ref()?)));
        let charged: Vec<_> = flows.map(|(id, flow)| (flow.account, id, flow.class())).collect();
        self.accounts.check(&charged);
        assert_eq!((charged.len(), charged.len() + self.free.len()), (self.len(), self.capacity()));
        for (_, id, class) in &charged {
            assert!(self.waiting_links.walk(&self.waiting[*class as usize]).contains(id));
        }
        let waiting: u32 = self.waiting.iter().map(Queue::len).sum();
        assert_eq!(waiting as usize, self.len());
    }
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

#[cfg(test)]
mod tests;

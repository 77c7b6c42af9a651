//! Connections that are over, for whoever asks what became of one.
//!
//! A [`ClosedFlows`] belongs to one flow table and is as large as the settings say from the start. The newest take the places of
//! the oldest. It is written when an entry ends, which costs the packet path the copy of a record, and read between two turns,
//! when somebody asks: a scan of the hashes, 8 bytes a record, which for the default size is 128 KiB and some ten microseconds.
//!
//! What is guaranteed: a flood does not wash out what is worth knowing. A connection that was not established is remembered in a
//! share of its own, an eighth of all; whoever asks why a SYN was never answered finds it there while there is no flood. All
//! others have had an answer, or policy has cut them.
//!
//! What breaks if changed: were there one ring for all, a scan of ports would make the gateway forget every connection of the
//! past minutes.

use crate::clock::Instant64;
use crate::drop_reason::DropReason;
use crate::flow::entry::{Class, Flow, FlowState};
use crate::flow::key::{FlowKey, Tuple};
use crate::packet::PortId;
use crate::policy::{Direction, Judgement, Verdict};

/// Why an entry is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing was seen for its time. If its state is a closing one, it was over before.
    Expired,
    /// It had to go for a new one.
    Evicted,
    /// A packet opened another connection between the same ends.
    Replaced,
    /// It may not go on.
    Cut(Denial),
}

/// Why a connection may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// The name under which its packets are counted.
    pub reason: DropReason,
    /// The direction that said no, if policy did.
    pub decided_by: Option<(Direction, Verdict)>,
    /// The snapshot that says so.
    pub generation: u64,
}

/// What is told of a connection, whether it is there or over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowFacts {
    /// Its original direction, as it is judged.
    pub tuple: Tuple,
    /// The destination port that policy was asked about (0 where the protocol has none), host order.
    pub judged_port: u16,
    /// The port that the opening packet came in by.
    pub entry_port: PortId,
    /// Identities of the pods that had its source and its destination address when it was judged; 0 for no pod.
    pub identities: [u32; 2],
    /// How far it has come.
    pub state: FlowState,
    /// When it was opened.
    pub opened: Instant64,
    /// When a packet was seen last that kept it alive.
    pub last_seen: Instant64,
    /// The snapshot it was judged under last.
    pub generation: u64,
    /// What was said of it.
    pub judgement: Judgement,
    /// Under which snapshot that was said: an older one than `generation` if it only goes on because it was open.
    pub judged_under: u64,
}

/// A connection that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedFlow {
    key: FlowKey,
    /// As it was at the end.
    pub facts: FlowFacts,
    /// When its entry ended.
    pub ended: Instant64,
    /// Why.
    pub end: End,
}

/// The connections of one table that ended last.
pub struct ClosedFlows {
    /// Those that were established, and those that were cut.
    telling: Ring,
    /// All others.
    embryonic: Ring,
}

struct Ring {
    /// The keys' hashes, apart from what they are of: looking for one reads nothing else.
    hashes: Box<[u64]>,
    flows: Box<[Option<ClosedFlow>]>,
    next: usize,
}

impl ClosedFlows {
    /// The share of those that were not established.
    const EMBRYONIC: usize = 8;

    /// Room for so many. All memory is allocated, and touched, here.
    pub(super) fn new(capacity: usize) -> Self {
        let embryonic = capacity / Self::EMBRYONIC;
        Self { telling: Ring::new(capacity - embryonic), embryonic: Ring::new(embryonic) }
    }

    /// Remembers a connection. `hash` is that of its key.
    pub(super) fn push(&mut self, hash: u64, flow: &Flow, end: End, now: Instant64) {
        let is_telling = flow.class() != Class::Embryonic || matches!(end, End::Cut(_));
        let ring = if is_telling { &mut self.telling } else { &mut self.embryonic };
        ring.push(hash, || ClosedFlow { key: flow.key, facts: flow.facts(), ended: now, end });
    }

    /// Those between these two ends that are remembered: of each share the newest, `most` at most. `hash` is that of `key`.
    pub(super) fn find<'a>(
        &'a self,
        hash: u64,
        key: &'a FlowKey,
        most: usize,
    ) -> impl Iterator<Item = &'a ClosedFlow> {
        self.telling.find(hash, key).take(most).chain(self.embryonic.find(hash, key).take(most))
    }
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { hashes: vec![0; capacity].into(), flows: vec![None; capacity].into(), next: 0 }
    }

    fn push(&mut self, hash: u64, flow: impl FnOnce() -> ClosedFlow) {
        let place = (self.hashes.get_mut(self.next), self.flows.get_mut(self.next));
        let (Some(hash_there), Some(flow_there)) = place else { return };
        (*hash_there, *flow_there) = (hash, Some(flow()));
        self.next += 1;
        if self.next == self.hashes.len() {
            self.next = 0;
        }
    }

    /// From the newest to the oldest.
    fn find<'a>(&'a self, hash: u64, key: &'a FlowKey) -> impl Iterator<Item = &'a ClosedFlow> {
        let (newer, older) = self.hashes.split_at_checked(self.next).unwrap_or_default();
        let newer = newer.iter().enumerate().rev();
        let older = older.iter().enumerate().rev().map(|(place, there)| (place + self.next, there));
        newer
            .chain(older)
            .filter(move |(_, there)| **there == hash)
            .filter_map(|(place, _)| self.flows.get(place)?.as_ref())
            .filter(|flow| flow.key == *key)
    }
}

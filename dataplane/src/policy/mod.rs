//! The compiled policy, as the workers read it.
//!
//! A [`PolicyTables`] gives the same answers for ever: the control side's compiler writes them ([`TablesWriter`]), publishes
//! what stands inside a snapshot, and every worker judges by it without locks, allocation or the possibility of a panic. The
//! next version shares with it whatever is the same. One verdict is four dependent steps:
//!
//! ```text
//! address --hash--> pod slot {atom, ingress program, egress program}       pod_table
//! program + (protocol class, port) --> interval --> row reference          program
//! row reference + peer's atom      --> one bit                             rows
//! row reference + peer's address   --> odd partition point                 rows (ipBlocks only)
//! ```
//!
//! - An **atom** is the class of pods that the compiled policies cannot tell apart as peers. What a row admits is
//!   a set of atoms, so a pod costs one bit test however many policies name it.
//! - A **program** is what one set of selecting policies means in one direction: sorted interval starts over
//!   `protocol class << 16 | destination port`, and one row reference per interval.
//! - A **row** is the union of the peers admitted in an interval: nobody, everybody, or a bitset over atoms and
//!   a set of address ranges.
//!
//! What must hold, and what breaks otherwise:
//! - A [`PodSlot`] is good for the tables that it came from and no others. Slots name atoms and programs by
//!   number; judged by other tables they give an answer about other pods.
//! - Everything out of range denies. The writer checks every reference, so none is; if one were, a program or a
//!   row that is not there admits nobody.
//! - [`judge`] is the only place that combines the two directions and knows the exemptions. The workers and
//!   `explain` both call it; a second implementation would be a second truth.

mod hits;
mod judge;
mod paged;
mod pod_table;
mod program;
mod rows;
mod writer;

use std::net::IpAddr;

use crate::packet::PortId;

pub use judge::{Judgement, Question, judge};
pub use pod_table::{HashSeed, PodIndex};
pub use program::{KEY_END, interval_key, protocol_class};
pub use rows::RowRef;
pub use writer::{RangesRef, TablesWriter, WriteError};

use hits::Hits;
use pod_table::AddressTable;
use program::Programs;
use rows::Rows;

/// Program number of a direction in which no policy selects the pod.
pub const PROGRAM_NONE: u32 = u32::MAX;
/// Program number that denies everything: for a pod that must be isolated although nothing could be compiled for
/// it, and for pods that these tables do not judge.
pub const PROGRAM_CLOSED: u32 = u32::MAX - 1;

/// A direction, seen from the pod that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

/// What happens to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// The NetworkPolicies that isolate the pod.
    NetworkPolicy,
    /// Policy has no say: a pod to itself, from or to the pod's own node.
    Exempt,
    /// Nothing may pass: the tables do not know the pod, or were told to close it.
    Closed,
}

/// The answer for one direction, with what leads back to the policies behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Allow or deny.
    pub action: Action,
    /// Who decided.
    pub tier: Tier,
    /// The program that decided; [`PROGRAM_NONE`] if none did, [`PROGRAM_CLOSED`] for the constant one.
    pub program: u32,
    /// The interval within the program, counted from 0.
    pub interval: u32,
}

impl Verdict {
    /// Allowed because no policy isolates the pod in this direction.
    pub const NOT_ISOLATED: Self =
        Self { action: Action::Allow, tier: Tier::NotIsolated, program: PROGRAM_NONE, interval: 0 };
    /// Allowed because policy has no say.
    pub const EXEMPT: Self =
        Self { action: Action::Allow, tier: Tier::Exempt, program: PROGRAM_NONE, interval: 0 };
    /// Denied whatever the policies say.
    pub const CLOSED: Self =
        Self { action: Action::Deny, tier: Tier::Closed, program: PROGRAM_CLOSED, interval: 0 };

    /// Whether it passes.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.action == Action::Allow
    }
}

/// What the tables know about one pod address: 12 bytes, 16 with the IPv4 address in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSlot {
    /// The pod's class as a peer.
    pub atom: u32,
    /// What judges connections to it: a program, [`PROGRAM_NONE`] or [`PROGRAM_CLOSED`].
    pub ingress_program: u32,
    /// What judges connections from it.
    pub egress_program: u32,
}

/// Who has a pod address, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Tells pods apart that have the same address one after the other: unique for each in the life of the process, never
    /// 0 for a pod.
    pub identity: u32,
    /// The pod's port if it is on this node.
    pub port: Option<PortId>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyPeer {
    /// Its address as seen at the pod. ipBlocks match it, also if it is a pod's.
    pub address: IpAddr,
    /// Its slot if it is a pod.
    pub pod: Option<PodSlot>,
}

/// Compiled policy. Cheap to clone: a clone is the same tables and the same hit counters.
#[derive(Clone)]
pub struct PolicyTables {
    pods_v4: AddressTable<u32>,
    pods_v6: AddressTable<u128>,
    programs: Programs,
    rows: Rows,
    hits: Hits,
}

impl PolicyTables {
    /// Tables that know no pod: whatever is judged by them is closed, except for what is exempt.
    #[must_use]
    pub fn empty() -> Self {
        TablesWriter::new(HashSeed::new(0, 0), 0).tables()
    }

    /// The pod that has `address`, in one probe of an open-addressing table.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<(PodIndex, PodSlot)> {
        let (position, slot) = match address {
            IpAddr::V4(v4) => self.pods_v4.lookup(v4.to_bits())?,
            IpAddr::V6(v6) => self.pods_v6.lookup(v6.to_bits())?,
        };
        let before = if address.is_ipv4() { 0 } else { self.pods_v4.len() };
        Some((PodIndex::new(before + position), slot))
    }

    /// Who is at a position of the pod tables, and how to reach it.
    #[inline]
    #[must_use]
    pub fn delivery(&self, index: PodIndex) -> Option<Delivery> {
        match index.get().checked_sub(self.pods_v4.len()) {
            None => self.pods_v4.delivery(index.get()),
            Some(position) => self.pods_v6.delivery(position),
        }
    }

    /// How many pod addresses there are.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.pods_v4.pods() + self.pods_v6.pods()
    }

    /// Bytes that the tables occupy, hit counters included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.pods_v4.memory_bytes()
            + self.pods_v6.memory_bytes()
            + self.programs.memory_bytes()
            + self.rows.arena.memory_bytes()
            + self.hits.memory_bytes()
    }

    /// Whether `subject`'s egress admits a new connection to `peer`.
    ///
    /// `protocol` is the IP protocol number, `port` the destination port in host order, 0 where the protocol has
    /// none. Knows no exemptions: use [`judge`] for a packet.
    #[inline]
    #[must_use]
    pub fn egress(&self, subject: PodSlot, peer: PolicyPeer, protocol: u8, port: u16) -> Verdict {
        self.verdict(subject.egress_program, &peer, interval_key(protocol, port))
    }

    /// Whether `subject`'s ingress admits a new connection from `peer`. Arguments as for
    /// [`egress`](Self::egress); `port` is the destination port here too.
    #[inline]
    #[must_use]
    pub fn ingress(&self, subject: PodSlot, peer: PolicyPeer, protocol: u8, port: u16) -> Verdict {
        self.verdict(subject.ingress_program, &peer, interval_key(protocol, port))
    }

    #[inline]
    fn verdict(&self, program: u32, peer: &PolicyPeer, key: u32) -> Verdict {
        if program == PROGRAM_NONE {
            return Verdict::NOT_ISOLATED;
        }
        // PROGRAM_CLOSED is no block of the arena either.
        let Some((interval, row)) = self.programs.find(program, key) else {
            return Verdict { program, ..Verdict::CLOSED };
        };
        let action = if self.rows.admits(row, peer) { Action::Allow } else { Action::Deny };
        Verdict { action, tier: Tier::NetworkPolicy, program, interval }
    }

    /// Counts one decided new connection for the interval and action that decided it.
    ///
    /// Relaxed, and exact only with one writer per `worker`. Verdicts that no program gave, and workers beyond
    /// those of the writer, are not counted.
    #[inline]
    pub fn count(&self, worker: usize, verdict: Verdict) {
        if let Some(slot) = Programs::hit_slot(verdict.program, verdict.interval, verdict.action) {
            self.hits.count(worker, slot);
        }
    }

    /// How often `program`'s `interval` decided so, over all workers. Safe from any thread; a count in flight may
    /// be missing.
    #[must_use]
    pub fn hits(&self, program: u32, interval: u32, action: Action) -> u64 {
        Programs::hit_slot(program, interval, action).map_or(0, |slot| self.hits.total(slot))
    }
}

impl std::fmt::Debug for PolicyTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyTables")
            .field("addresses", &self.addresses())
            .field("memory_bytes", &self.memory_bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests;

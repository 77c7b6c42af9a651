//! The compiled policy, as the workers read it.
//!
//! A [`PolicyTables`] is immutable: the control side compiles one ([`TablesBuilder`]), publishes it inside a
//! snapshot, and every worker judges by it without locks, allocation or the possibility of a panic. One verdict
//! is four dependent steps:
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
//! - Everything out of range denies. The builder checks every reference, so none is; if one were, a program or a
//!   row that is not there admits nobody.
//! - [`judge`] is the only place that combines the two directions and knows the exemptions. The workers and
//!   `explain` both call it; a second implementation would be a second truth.

mod build;
mod hits;
mod judge;
mod pod_table;
mod program;
mod rows;

use std::net::IpAddr;
use std::sync::Arc;

pub use build::{BuildError, RangeSpan, TablesBuilder};
pub use judge::{Judgement, Question, judge};
pub use pod_table::{HashSeed, PodIndex};
pub use program::{KEY_END, interval_key, protocol_class};
pub use rows::RowRef;

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
    /// The pod's class as a peer, below [`PolicyTables::atoms`].
    pub atom: u32,
    /// What judges connections to it: a program, [`PROGRAM_NONE`] or [`PROGRAM_CLOSED`].
    pub ingress_program: u32,
    /// What judges connections from it.
    pub egress_program: u32,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyPeer {
    /// Its address as seen at the pod. ipBlocks match it, also if it is a pod's.
    pub address: IpAddr,
    /// Its slot if it is a pod.
    pub pod: Option<PodSlot>,
}

/// Compiled policy. Immutable and cheap to clone: a clone is the same tables and the same hit counters.
#[derive(Clone)]
pub struct PolicyTables {
    tables: Arc<Tables>,
    hits: Arc<Hits>,
}

struct Tables {
    pods_v4: AddressTable<u32>,
    pods_v6: AddressTable<u128>,
    programs: Programs,
    rows: Rows,
    atoms: u32,
}

impl PolicyTables {
    /// Tables that know no pod: whatever is judged by them is closed, except for what is exempt.
    #[must_use]
    pub fn empty() -> Self {
        Self::from_parts(
            AddressTable::empty(),
            AddressTable::empty(),
            Programs::default(),
            Rows::default(),
            0,
        )
    }

    fn from_parts(
        pods_v4: AddressTable<u32>,
        pods_v6: AddressTable<u128>,
        programs: Programs,
        rows: Rows,
        atoms: u32,
    ) -> Self {
        let tables = Tables { pods_v4, pods_v6, programs, rows, atoms };
        Self { tables: Arc::new(tables), hits: Arc::new(Hits::default()) }
    }

    /// The same tables with fresh hit counters for `workers` workers (numbered from 0); 16 bytes per interval
    /// and worker. Without them [`count`](Self::count) counts nothing.
    #[must_use]
    pub fn with_hits(mut self, workers: usize) -> Self {
        self.hits = Arc::new(Hits::new(workers, self.tables.programs.hit_slots()));
        self
    }

    /// The pod that has `address`, in one probe of an open-addressing table.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<(PodIndex, PodSlot)> {
        match address {
            IpAddr::V4(v4) => {
                let (position, slot) = self.tables.pods_v4.lookup(v4.to_bits())?;
                Some((PodIndex::new(position), slot))
            }
            IpAddr::V6(v6) => {
                let (position, slot) = self.tables.pods_v6.lookup(v6.to_bits())?;
                Some((PodIndex::new(position + self.tables.pods_v4.len()), slot))
            }
        }
    }

    /// The length of arrays that run parallel to the pod tables, empty slots included.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.tables.pods_v4.len() + self.tables.pods_v6.len()
    }

    /// How many atoms there are.
    #[must_use]
    pub fn atoms(&self) -> usize {
        self.tables.atoms as usize
    }

    /// How many rows there are besides "nobody" and "everybody".
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tables.rows.len()
    }

    /// Bytes that the tables occupy, hit counters included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Tables>()
            + self.tables.pods_v4.memory_bytes()
            + self.tables.pods_v6.memory_bytes()
            + self.tables.programs.memory_bytes()
            + self.tables.rows.memory_bytes()
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
        let Some((interval, row)) = self.tables.programs.find(program, key) else {
            return Verdict { program, ..Verdict::CLOSED };
        };
        let action = if self.tables.rows.admits(row, peer) { Action::Allow } else { Action::Deny };
        Verdict { action, tier: Tier::NetworkPolicy, program, interval }
    }

    /// Counts one decided new connection for the interval and action that decided it.
    ///
    /// Relaxed, and exact only with one writer per `worker`. Verdicts that no program gave, and workers beyond
    /// those of [`with_hits`](Self::with_hits), are not counted.
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
            .field("slots", &self.slots())
            .field("atoms", &self.atoms())
            .field("rows", &self.rows())
            .field("memory_bytes", &self.memory_bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests;

//! What others have of a worker while it runs: what it counts, and the ends of its rings.
//!
//! The counters are relaxed and have one writer, the worker. What it has done under a generation is seen by whoever sees that
//! generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ErrorCharge;
use super::wake::Waker;
use super::wanted::Unresolved;
use crate::by_port::ByPort;
use crate::counters::WorkerCounters;
use crate::flow::{Charges, FlowCounts};
use crate::fragment;
use crate::record::DropRecords;

/// What others may see of a worker while it runs. Relaxed counters, one writer.
#[derive(Debug, Default)]
pub struct WorkerView {
    /// Packets and drops.
    pub counters: WorkerCounters,
    /// What of its flow table is charged to which port.
    pub charges: Charges,
    /// What of its fragments came by which port.
    pub fragments: fragment::Charges,
    /// Errors and resets about what came by which port.
    pub errors: ByPort<ErrorCharge>,
    pub(super) generation: AtomicU64,
    pub(super) drained: AtomicU64,
    pub(super) flows: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) errors_refused: AtomicU64,
    pub(super) datagrams: AtomicU64,
}

impl WorkerView {
    /// The newest generation under which it has finished a turn; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many turns ended with nothing left in the rings from other workers.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Acquire)
    }

    /// Connections now.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// What happened to connections so far.
    #[must_use]
    pub fn flow_counts(&self) -> FlowCounts {
        FlowCounts {
            opened: self.opened.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            cut: self.cut.load(Ordering::Relaxed),
        }
    }

    /// Errors and resets that were not sent because there had been too many.
    #[must_use]
    pub fn errors_refused(&self) -> u64 {
        self.errors_refused.load(Ordering::Relaxed)
    }

    /// Datagrams in fragments now, of which some are still missing. Those that wait for a first one are
    /// [held](crate::counters::Snapshot::held).
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }
}

/// The control side's ends of one worker.
pub struct WorkerEnds {
    /// What it counts.
    pub view: Arc<WorkerView>,
    /// Records of what it dropped.
    pub drops: DropRecords,
    /// Neighbours to find.
    pub unresolved: rtrb::Consumer<Unresolved>,
    /// To wake it.
    pub waker: Waker,
}

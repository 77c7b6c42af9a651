//! How often each interval decided.
//!
//! One array per worker, written by that worker alone and read by whoever asks: a relaxed load and store, no
//! locked instruction. The arrays belong to one published set of tables; control folds them into totals per
//! policy before it lets the tables go.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Hits {
    workers: Box<[Box<[AtomicU64]>]>,
}

impl Hits {
    pub(super) fn new(workers: usize, slots: usize) -> Self {
        Self { workers: (0..workers).map(|_| (0..slots).map(|_| AtomicU64::new(0)).collect()).collect() }
    }

    #[inline]
    pub(super) fn count(&self, worker: usize, slot: usize) {
        if let Some(counter) = self.workers.get(worker).and_then(|slots| slots.get(slot)) {
            // Single writer: nothing can come between the load and the store.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    pub(super) fn total(&self, slot: usize) -> u64 {
        self.workers
            .iter()
            .filter_map(|slots| slots.get(slot))
            .fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.workers.iter().map(|slots| size_of_val(&**slots)).sum()
    }
}

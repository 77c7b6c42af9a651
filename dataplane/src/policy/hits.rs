//! How often each interval decided.
//!
//! One array per page of programs and worker, written by that worker alone and read by whoever asks: a relaxed load and
//! store, no locked instruction. All snapshots share the counters; before the place of a program is used again, control has
//! taken what was counted there, and no worker judges by it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one page, by worker.
type Page = Arc<[Box<[AtomicU64]>]>;

#[derive(Clone, Default)]
pub(super) struct Hits {
    pages: Arc<[Page]>,
    workers: usize,
}

impl Hits {
    pub(super) fn new(workers: usize) -> Self {
        Self { pages: Arc::default(), workers }
    }

    /// Makes the counters of a page, as many as `slots`.
    pub(super) fn set_page(&mut self, page: usize, slots: usize) {
        let counters = || (0..slots).map(|_| AtomicU64::new(0)).collect();
        let new: Page = (0..self.workers).map(|_| counters()).collect();
        let mut pages = self.pages.to_vec();
        pages.resize(pages.len().max(page + 1), Arc::default());
        if let Some(place) = pages.get_mut(page) {
            *place = new;
        }
        self.pages = pages.into();
    }

    #[inline]
    pub(super) fn count(&self, worker: usize, (page, slot): (usize, usize)) {
        let counter =
            self.pages.get(page).and_then(|page| page.get(worker)).and_then(|slots| slots.get(slot));
        if let Some(counter) = counter {
            // Single writer: nothing can come between the load and the store.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    fn counters(&self, (page, slot): (usize, usize)) -> impl Iterator<Item = &AtomicU64> {
        self.pages.get(page).into_iter().flat_map(|page| page.iter()).filter_map(move |slots| slots.get(slot))
    }

    pub(super) fn total(&self, place: (usize, usize)) -> u64 {
        self.counters(place).fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
    }

    /// Sets counters that no worker counts in any more to zero.
    pub(super) fn clear(&self, (page, first): (usize, usize), slots: usize) {
        let all = (first..first + slots).flat_map(|slot| self.counters((page, slot)));
        all.for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.iter().flat_map(|page| page.iter()).map(|slots| size_of_val(&**slots)).sum()
    }
}

//! The order of publication and retirement under random schedules.
//!
//! A model of the scheme, not the crate itself: crossbeam's epochs do not run on shuttle's atomics. Readers announce a
//! pin, load, look and unpin, as crossbeam's do; the publisher swaps, then defers, and buries what no earlier pin can still
//! see. What is held: a pinned value is never freed, only the publisher's thread frees, and nothing is left over. That the
//! model can fail is shown by deferring before the swap, which the crate's essay warns of.

#![allow(clippy::unwrap_used)]

use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread::{self, ThreadId};

const SCHEDULES: usize = 5000;
const READERS: usize = 2;
const VALUES: usize = 4;
const UNPINNED: usize = usize::MAX;

struct Model {
    current: AtomicUsize,
    /// Counts up with every retirement.
    epoch: AtomicUsize,
    /// By reader: the epoch it is pinned in.
    pins: Vec<AtomicUsize>,
    freed: Vec<AtomicBool>,
    /// Deferred values with the epoch of their retirement.
    deferred: Mutex<Vec<(usize, usize)>>,
    graveyard: Mutex<Vec<usize>>,
    freed_by: Mutex<Vec<ThreadId>>,
}

impl Model {
    fn read(&self, reader: usize) {
        let pin = &self.pins[reader];
        pin.store(self.epoch.load(Ordering::SeqCst), Ordering::SeqCst);
        let value = self.current.load(Ordering::SeqCst);
        thread::yield_now();
        assert!(!self.freed[value].load(Ordering::SeqCst), "a pinned value was freed");
        pin.store(UNPINNED, Ordering::SeqCst);
        // Whoever notices that a grace period is over runs the deferred work: it buries and does not free.
        self.bury();
    }

    fn defer(&self, value: usize) {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        self.deferred.lock().unwrap().push((value, epoch));
    }

    fn bury(&self) {
        let mut deferred = self.deferred.lock().unwrap();
        let oldest = self.pins.iter().map(|pin| pin.load(Ordering::SeqCst)).min().unwrap();
        let (dead, alive) = deferred.iter().partition(|(_, epoch)| oldest > *epoch);
        *deferred = alive;
        let dead: Vec<(usize, usize)> = dead;
        self.graveyard.lock().unwrap().extend(dead.iter().map(|(value, _)| value));
    }

    fn collect(&self) {
        self.bury();
        for value in self.graveyard.lock().unwrap().drain(..) {
            assert!(!self.freed[value].swap(true, Ordering::SeqCst), "freed twice");
            self.freed_by.lock().unwrap().push(thread::current().id());
        }
    }
}

fn run(swap_first: bool) {
    let model = Arc::new(Model {
        current: AtomicUsize::new(0),
        epoch: AtomicUsize::new(0),
        pins: (0..READERS).map(|_| AtomicUsize::new(UNPINNED)).collect(),
        freed: (0..VALUES).map(|_| AtomicBool::new(false)).collect(),
        deferred: Mutex::default(),
        graveyard: Mutex::default(),
        freed_by: Mutex::default(),
    });
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let model = model.clone();
            thread::spawn(move || (0..3).for_each(|_| model.read(reader)))
        })
        .collect();
    for next in 1..VALUES {
        if swap_first {
            let old = model.current.swap(next, Ordering::SeqCst);
            model.defer(old);
        } else {
            model.defer(next - 1);
            model.current.store(next, Ordering::SeqCst);
        }
        model.collect();
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    model.collect();
    let freed_by = model.freed_by.lock().unwrap();
    assert_eq!(freed_by.len(), VALUES - 1, "something was left over");
    assert!(freed_by.iter().all(|id| *id == thread::current().id()), "a reader freed a value");
}

#[test]
fn a_pinned_value_is_never_freed_and_only_the_control_side_frees() {
    shuttle::check_random(|| run(true), SCHEDULES);
}

#[test]
#[should_panic(expected = "a pinned value was freed")]
fn the_model_finds_what_goes_wrong_when_the_value_is_deferred_before_the_swap() {
    shuttle::check_random(|| run(false), SCHEDULES);
}

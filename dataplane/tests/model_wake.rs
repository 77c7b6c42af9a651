//! Sleeping and waking under random schedules: no packet waits for a worker that sleeps.
//!
//! The flag is the real file, compiled over shuttle's atomics; eventfd and poll are a mutex and a condition variable, with
//! no time-out, so a lost wake-up is a deadlock, and shuttle reports it. Shuttle runs everything sequentially consistent:
//! this tries the order of the steps, not the fences, which `flag.rs` argues for.

#![allow(clippy::unwrap_used)]

use shuttle::sync::atomic::AtomicUsize;
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/worker/wake/flag.rs"]
mod flag;

use flag::Flag;
use sync::Ordering;

const SCHEDULES: usize = 5000;

/// A worker's ring, flag and eventfd.
struct Model {
    flag: Flag,
    waiting: AtomicUsize,
    event: Mutex<bool>,
    readable: Condvar,
}

impl Model {
    fn give(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.flag.is_up_for_giver() {
            *self.event.lock().unwrap() = true;
            self.readable.notify_one();
        }
    }

    /// As `Sleeper::sleep`. `look_again` is what makes it right.
    fn sleep(&self, look_again: bool) {
        self.flag.raise();
        if !look_again || self.waiting.load(Ordering::SeqCst) == 0 {
            let mut event = self.event.lock().unwrap();
            while !*event {
                event = self.readable.wait(event).unwrap();
            }
        }
        self.flag.lower();
        *self.event.lock().unwrap() = false;
    }
}

fn run(look_again: bool) {
    const GIVERS: usize = 2;
    const EACH: usize = 2;
    let model = Arc::new(Model {
        flag: Flag::new(),
        waiting: AtomicUsize::new(0),
        event: Mutex::new(false),
        readable: Condvar::new(),
    });
    let givers: Vec<_> = (0..GIVERS)
        .map(|_| {
            let model = model.clone();
            thread::spawn(move || (0..EACH).for_each(|_| model.give()))
        })
        .collect();
    let mut taken = 0;
    while taken < GIVERS * EACH {
        match model.waiting.swap(0, Ordering::SeqCst) {
            0 => model.sleep(look_again),
            some => taken += some,
        }
    }
    givers.into_iter().for_each(|giver| giver.join().unwrap());
}

#[test]
fn no_wake_up_is_lost() {
    shuttle::check_random(|| run(true), SCHEDULES);
}

#[test]
#[should_panic(expected = "deadlock")]
fn the_model_finds_the_wake_up_that_is_lost_without_a_second_look() {
    shuttle::check_random(|| run(false), SCHEDULES);
}

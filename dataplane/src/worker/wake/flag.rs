//! The flag between whoever gives a worker something to do and the worker that may be about to sleep.
//!
//! Both sides do two things: the giver puts the thing where the worker looks and then reads the flag
//! ([`Flag::is_up_for_giver`]); the worker raises the flag ([`Flag::raise`]) and then looks. With a sequentially consistent
//! fence between the two on either side, one of them sees the other. The fences are in here, so neither side can forget
//! its own.
//!
//! It takes its atomics from its parent's `sync`, so that `tests/model_exchange.rs` compiles this very file over shuttle's.

use super::sync::{AtomicBool, Ordering, fence};

/// Up while the worker sleeps or is about to.
#[derive(Debug)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    /// It is down.
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The giver's second step: must the worker be woken?
    #[inline]
    pub(super) fn is_up_for_giver(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }

    /// The worker's first step; it looks once more for something to do afterwards.
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake.
    pub(super) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

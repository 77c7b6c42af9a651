//! Time for the fast path: nanoseconds since a process-wide origin, from a clock that tests can drive.
//!
//! Guarantees: [`Clock::now`] never goes back; all [`MonotonicClock`]s of a process share one origin, so a time
//! taken on one worker can be compared with one taken on another. Workers ask once per turn, not per packet.
//! Subtraction saturates: a time that another core took a moment later never turns into 584 years.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A point in time: nanoseconds since the clock's origin. Wraps after 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant64(u64);

impl Instant64 {
    /// The point `nanoseconds` after the clock's origin.
    pub const fn from_nanos(nanoseconds: u64) -> Instant64 {
        Instant64(nanoseconds)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is in fact later.
    pub const fn since(self, earlier: Instant64) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The point `duration` later, at most the end of time.
    pub const fn after(self, duration: Duration) -> Instant64 {
        let nanos = duration.as_nanos();
        let nanos = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        Instant64(self.0.saturating_add(nanos))
    }
}

/// Where a worker's time comes from.
pub trait Clock: Send {
    /// The time now. Never smaller than an earlier answer on the same thread.
    fn now(&self) -> Instant64;
}

/// The kernel's monotonic clock (read in user space, no system call).
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: Instant,
}

impl MonotonicClock {
    /// A clock with the origin that all of this process share: the first time one was made.
    pub fn new() -> MonotonicClock {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        MonotonicClock { origin: *ORIGIN.get_or_init(Instant::now) }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        MonotonicClock::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant64 {
        Instant64(self.origin.elapsed().as_nanos() as u64)
    }
}

/// A clock that stands still until told. Clones show the same time, also on other threads.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock {
    nanos: Arc<AtomicU64>,
}

impl VirtualClock {
    /// A clock at its origin.
    pub fn new() -> VirtualClock {
        VirtualClock::default()
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant64 {
        Instant64(self.nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_clocks_share_their_origin() {
        let first = MonotonicClock::new();
        let a = first.now();
        let b = MonotonicClock::new().now();
        assert!(b >= a && b.since(a) < Duration::from_secs(10));
    }

    #[test]
    fn virtual_clock_moves_only_when_told() {
        let clock = VirtualClock::new();
        let twin = clock.clone();
        let start = clock.now();
        clock.advance(Duration::from_millis(3));
        assert_eq!(twin.now().since(start), Duration::from_millis(3));
        assert_eq!(start.since(twin.now()), Duration::ZERO, "saturates");
        assert_eq!(start.after(Duration::MAX).as_nanos(), u64::MAX);
    }
}

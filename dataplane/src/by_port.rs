//! What a worker counts for each port, so that whoever fills a limit can be named.
//!
//! The numbers live in one array, made at the start, with a place for every port that there can be. The worker writes, and
//! others read at any time: relaxed counters with one writer, as in [`crate::counters`]. A limit that goes by such a number
//! reads it here too, so that what is shown is what counts.
//!
//! What breaks if changed: a second writer loses counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Instant64;
use crate::packet::PortId;

/// Ports that there can be.
pub(crate) const PORTS: usize = 1 << 16;

/// A `T` for each port. The default has none; clones are the same ones.
#[derive(Debug)]
pub struct ByPort<T>(Arc<[T]>);

impl<T> Clone for ByPort<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for ByPort<T> {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<T: Default> ByPort<T> {
    /// For all ports. Allocates here and never again.
    pub(crate) fn new() -> Self {
        Self((0..PORTS).map(|_| T::default()).collect())
    }
}

impl<T> ByPort<T> {
    /// That of a port.
    #[must_use]
    pub fn of(&self, port: PortId) -> Option<&T> {
        self.0.get(usize::from(port.0))
    }

    /// All of them, in the order of ports.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

/// How much of something a port has now.
#[derive(Debug, Default)]
pub struct Taken(AtomicU32);

impl Taken {
    /// So much.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn change(&self, by: i32) {
        self.set(self.get().saturating_add_signed(by));
    }
}

/// How often something happened to a port, and when it did last.
#[derive(Debug, Default)]
pub struct Events {
    count: AtomicU64,
    latest: AtomicU64,
}

impl Events {
    /// Since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The latest one. A reader that runs beside the writer may see the one before it.
    #[must_use]
    pub fn latest(&self) -> Option<Instant64> {
        (self.count() > 0).then(|| Instant64::from_nanos(self.latest.load(Ordering::Relaxed)))
    }

    pub(crate) fn add(&self, now: Instant64) {
        self.latest.store(now.as_nanos(), Ordering::Relaxed);
        self.count.store(self.count().wrapping_add(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_own() {
        let all = ByPort::<Events>::new();
        assert_eq!(all.of(PortId(3)).unwrap().latest(), None);
        let seen = all.clone();
        all.of(PortId(3)).unwrap().add(Instant64::from_nanos(5));
        all.of(PortId(3)).unwrap().add(Instant64::from_nanos(9));
        all.of(PortId(u16::MAX)).unwrap().add(Instant64::from_nanos(0));
        let of = |port| seen.of(PortId(port)).map(|events| (events.count(), events.latest()));
        assert_eq!(of(3), Some((2, Some(Instant64::from_nanos(9)))));
        assert_eq!(of(u16::MAX), Some((1, Some(Instant64::from_nanos(0)))));
        assert_eq!(of(4), Some((0, None)));
        assert_eq!(seen.iter().map(Events::count).sum::<u64>(), 3);
        assert!(ByPort::<Events>::default().of(PortId(0)).is_none());
    }

    #[test]
    fn nobody_has_less_than_nothing() {
        let taken = Taken::default();
        taken.change(2);
        taken.change(-3);
        assert_eq!(taken.get(), 0);
    }
}

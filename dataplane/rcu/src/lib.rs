//! A published snapshot: readers pin it per batch, and only the control side ever frees one.
//!
//! One [`Publisher`] replaces a value as a whole; any number of [`Reader`]s, one a thread, look at the newest one without
//! locks, and keep what they look at alive while they are pinned. It is crossbeam's epoch scheme with one addition: the
//! value that a publication replaces is not freed by whichever thread happens to notice that nobody reads it any more
//! (that would often be a worker, and freeing a table of some megabytes takes milliseconds), but laid into a graveyard,
//! from which [`Publisher::collect`] takes it on the control side.
//!
//! What is guaranteed:
//! - A reader sees values in the order of their publication, each whole.
//! - A value that a reader has pinned stays until it unpins.
//! - No thread but those that call [`Publisher::publish`], [`Publisher::collect`] or drop the publisher runs `T`'s
//!   destructor, as long as the readers end before the publisher does.
//! - At most [`Publisher::bound`] replaced values wait at a time: [`Publisher::publish`] gives the new value back rather
//!   than let a reader that is stuck pile up memory.
//!
//! What breaks if changed: were the old value deferred before the swap, a reader could pin it after its grace period had
//! begun and outlive it. Were the closure to free instead of to bury, workers would free. A reader must not stay pinned
//! while it sleeps: it would hold back every later value.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::epoch::{Atomic, Collector, Guard, LocalHandle, Owned};
use crossbeam::queue::ArrayQueue;

/// Replaced values that may wait for their readers, unless the publisher was made with another bound.
pub const DEFAULT_BOUND: usize = 16;

struct Shared<T> {
    current: Atomic<T>,
    collector: Collector,
    graveyard: Arc<ArrayQueue<Box<T>>>,
    /// Replaced, and not collected yet.
    retired: AtomicUsize,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let current = std::mem::replace(&mut self.current, Atomic::null());
        // SAFETY: nobody else has a handle on this any more, so nobody is pinned, and `current` is never null before.
        drop(unsafe { current.into_owned() });
    }
}

/// The control side: publishes values and takes back what nobody reads any more. Use it from one thread at a time.
pub struct Publisher<T: Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
}

/// A publication was refused because too many replaced values still wait for a reader.
pub struct Refused<T> {
    /// The value that was not published.
    pub value: T,
    /// How many wait.
    pub waiting: usize,
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Publisher<T> {
    /// Publishes a first value, with the default bound.
    pub fn new(first: T) -> Self {
        Self::with_bound(first, DEFAULT_BOUND)
    }

    /// Publishes a first value; at most `bound` (at least 1) replaced ones may wait.
    pub fn with_bound(first: T, bound: usize) -> Self {
        let shared = Shared {
            current: Atomic::new(first),
            collector: Collector::new(),
            graveyard: Arc::new(ArrayQueue::new(bound.max(1))),
            retired: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes `next` what readers pin from now on, and the value before it wait for those who have it pinned.
    ///
    /// # Errors
    /// [`Refused`] gives `next` back if [`bound`](Self::bound) values wait already: a reader is stuck. Nothing changed.
    pub fn publish(&mut self, next: T) -> Result<(), Refused<T>> {
        let waiting = self.waiting();
        if waiting >= self.bound() {
            return Err(Refused { value: next, waiting });
        }
        let handle = self.shared.collector.register();
        let guard = handle.pin();
        let old = self.shared.current.swap(Owned::new(next), Ordering::AcqRel, &guard);
        self.shared.retired.fetch_add(1, Ordering::Relaxed);
        let graveyard = Arc::clone(&self.shared.graveyard);
        // SAFETY: the swap made `old` unreachable for whoever pins from now on, and the closure runs after all who were
        // pinned have unpinned: it owns the value alone. It is never null. The closure may run on any thread, and `T` is
        // Send. It captures no reference.
        unsafe {
            guard.defer_unchecked(move || {
                // There is room: no more values are deferred than the graveyard holds (`retired`).
                let _ = graveyard.push(old.into_owned().into_box());
            });
        }
        guard.flush();
        Ok(())
    }

    /// Takes back, in any order, the replaced values that no reader has pinned any more. Never blocks.
    pub fn collect(&mut self) -> Vec<T> {
        let handle = self.shared.collector.register();
        // An epoch advances once a pin, and a value is free two epochs after it was replaced.
        for _ in 0..3 {
            handle.pin().flush();
        }
        let dead: Vec<T> = std::iter::from_fn(|| self.shared.graveyard.pop()).map(|value| *value).collect();
        self.shared.retired.fetch_sub(dead.len(), Ordering::Relaxed);
        dead
    }

    /// How many replaced values have not been collected.
    pub fn waiting(&self) -> usize {
        self.shared.retired.load(Ordering::Relaxed)
    }

    /// How many may wait.
    pub fn bound(&self) -> usize {
        self.shared.graveyard.capacity()
    }

    /// What a thread needs to become a reader.
    pub fn reader_handle(&self) -> ReaderHandle<T> {
        ReaderHandle { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

/// Makes a [`Reader`] on the thread that will read. May be sent and cloned.
pub struct ReaderHandle<T: Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + Sync + 'static> Clone for ReaderHandle<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send + Sync + 'static> ReaderHandle<T> {
    /// Registers the calling thread. Allocates: once a thread, at its start.
    pub fn register(self) -> Reader<T> {
        Reader { handle: self.shared.collector.register(), shared: self.shared }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for ReaderHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderHandle").finish_non_exhaustive()
    }
}

/// One thread's access to the newest value. Not Send: it belongs to the thread that registered it.
pub struct Reader<T: Send + Sync + 'static> {
    // Before `shared`, whose last owner may free the collector's state.
    handle: LocalHandle,
    shared: Arc<Shared<T>>,
}

impl<T: Send + Sync + 'static> Reader<T> {
    /// Pins the newest value: once a batch. A few nanoseconds, no lock, no allocation.
    ///
    /// A reader has one pin at a time (`&mut`), so that it cannot mix two values in one batch by mistake.
    #[inline]
    pub fn pin(&mut self) -> Pinned<'_, T> {
        let guard = self.handle.pin();
        let value = self.shared.current.load(Ordering::Acquire, &guard).as_raw();
        Pinned { value, guard, reader: std::marker::PhantomData }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("pinned", &self.handle.is_pinned()).finish_non_exhaustive()
    }
}

/// A pinned value. Drop it before the thread sleeps.
pub struct Pinned<'r, T> {
    value: *const T,
    #[expect(dead_code, reason = "held for its drop, which unpins")]
    guard: Guard,
    reader: std::marker::PhantomData<&'r T>,
}

impl<T> Deref for Pinned<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: it was the current value when `guard` had pinned already, so it is buried only after `guard` is dropped,
        // which is not before `self`; and it is never null.
        unsafe { &*self.value }
    }
}

impl<T: fmt::Debug> fmt::Debug for Pinned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::thread::{self, ThreadId};

    use super::*;

    #[test]
    fn a_pinned_value_outlives_its_replacement() {
        let mut publisher = Publisher::new(1);
        let mut reader = publisher.reader_handle().register();
        let pinned = reader.pin();
        publisher.publish(2).unwrap();
        assert_eq!(publisher.collect(), Vec::<i32>::new(), "1 is pinned");
        assert_eq!(*pinned, 1);
        drop(pinned);
        assert_eq!(publisher.collect(), [1]);
        assert_eq!(*reader.pin(), 2);
        assert_eq!(publisher.waiting(), 0);
    }

    #[test]
    fn a_stuck_reader_stops_publication_at_the_bound_and_no_value_is_lost() {
        let mut publisher = Publisher::with_bound(0, 2);
        let mut reader = publisher.reader_handle().register();
        let pinned = reader.pin();
        publisher.publish(1).unwrap();
        publisher.publish(2).unwrap();
        let refused = publisher.publish(3).unwrap_err();
        assert_eq!((refused.value, refused.waiting), (3, 2));
        drop(pinned);
        let mut dead = publisher.collect();
        dead.sort_unstable();
        assert_eq!(dead, [0, 1]);
        publisher.publish(3).unwrap();
        assert_eq!(*reader.pin(), 3);
    }

    /// Notes on which thread it dies, and makes a use after that visible.
    struct Canary {
        number: u64,
        alive: AtomicBool,
        deaths: Arc<Mutex<Vec<ThreadId>>>,
    }

    impl Drop for Canary {
        fn drop(&mut self) {
            self.alive.store(false, Ordering::SeqCst);
            self.deaths.lock().unwrap().push(thread::current().id());
        }
    }

    #[test]
    fn readers_see_whole_values_in_order_and_never_free_one() {
        const VALUES: u64 = 3000;
        let deaths = Arc::new(Mutex::new(Vec::new()));
        let canary = |number| Canary { number, alive: AtomicBool::new(true), deaths: Arc::clone(&deaths) };
        let mut publisher = Publisher::new(canary(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                let handle = publisher.reader_handle();
                scope.spawn(move || {
                    let mut reader = handle.register();
                    let mut last = 0;
                    while last < VALUES {
                        let pinned = reader.pin();
                        assert!(pinned.alive.load(Ordering::SeqCst), "a pinned value was freed");
                        assert!(pinned.number >= last, "values went backwards");
                        last = pinned.number;
                        thread::yield_now();
                        assert!(pinned.alive.load(Ordering::SeqCst), "freed under the pin");
                    }
                });
            }
            let mut next = canary(1);
            while next.number <= VALUES {
                let number = next.number;
                next = match publisher.publish(next) {
                    Ok(()) => canary(number + 1),
                    Err(refused) => refused.value,
                };
                drop(publisher.collect());
            }
        });
        drop(publisher);
        let deaths = deaths.lock().unwrap();
        // The one that was never published dies here as well.
        assert_eq!(deaths.len() as u64, VALUES + 2);
        assert!(deaths.iter().all(|&id| id == thread::current().id()), "a reader freed a value");
    }
}

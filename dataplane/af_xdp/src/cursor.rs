//! Where one side of a ring stands: arithmetic without memory, so it can be tested against a model.
//!
//! A ring between us and the kernel has two free-running `u32` indices, one written by each side. The slot of an index
//! is its low bits. What a side may touch lies between its own index and a limit that follows from the other's:
//!
//! - a **producer** may write up to the consumer's index plus the size of the ring,
//! - a **consumer** may read up to the producer's index.
//!
//! So one type serves both; they differ by a constant. A [`Cursor`] keeps our index and the limit last seen, so that
//! the shared index (a cache line that the other side writes) is read once a batch, not once an entry.
//!
//! **What it guarantees.** `available() <= size` always, whatever the other side stores: an index that would break it is
//! not taken over and [`Cursor::refresh`] says so. Indices wrap around at 2^32 and nothing happens then.

/// One side's position in a ring of a power-of-two size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Our index: the next entry to write or read.
    next: u32,
    /// First index that is not ours to touch.
    limit: u32,
    /// What is added to the other side's index to get the limit: the size for a producer, 0 for a consumer.
    ahead: u32,
    mask: u32,
}

impl Cursor {
    /// A producer's cursor for an empty ring whose two indices are `start`. `None` if size is not a power of two up to 2^31.
    pub fn producer(size: u32, start: u32) -> Option<Cursor> {
        let cursor = Cursor { next: start, limit: start, ahead: size, mask: size.wrapping_sub(1) };
        size.is_power_of_two().then_some(Cursor { limit: start.wrapping_add(size), ..cursor })
    }

    /// A consumer's cursor for an empty ring whose two indices are `start`. `None` if size is not a power of two up to 2^31.
    pub fn consumer(size: u32, start: u32) -> Option<Cursor> {
        let cursor = Cursor { next: start, limit: start, ahead: 0, mask: size.wrapping_sub(1) };
        size.is_power_of_two().then_some(cursor)
    }

    /// Number of entries in the ring.
    #[inline]
    pub fn size(&self) -> u32 {
        self.mask.wrapping_add(1)
    }

    /// Entries that may be touched without looking at the other side's index again.
    #[inline]
    pub fn available(&self) -> u32 {
        self.limit.wrapping_sub(self.next)
    }

    /// Takes over the other side's index. False, and nothing changed, if it is impossible.
    #[inline]
    pub fn refresh(&mut self, theirs: u32) -> bool {
        let limit = theirs.wrapping_add(self.ahead);
        // The other side only moves forward, so the new limit lies between the old one and a whole ring ahead of us.
        let available = limit.wrapping_sub(self.next);
        let sane = available <= self.size() && available >= self.available();
        if sane {
            self.limit = limit;
        }
        sane
    }

    /// Slot of the entry `ahead` entries from ours: 0 to size - 1, whatever `ahead` is.
    #[inline]
    pub fn slot(&self, ahead: u32) -> u32 {
        self.next.wrapping_add(ahead) & self.mask
    }

    /// Moves on by `count` entries, at most by those available. Returns our new index, which the other side may be told.
    #[inline]
    pub fn advance(&mut self, count: u32) -> u32 {
        self.next = self.next.wrapping_add(count.min(self.available()));
        self.next
    }

    /// Our index.
    #[inline]
    pub fn index(&self) -> u32 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Debug, Clone)]
    enum Step {
        Produce(u32),
        Consume(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![(0..70u32).prop_map(Step::Produce), (0..70u32).prop_map(Step::Consume)];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..Default::default() })]

        /// The ring is a queue: what comes out is what went in, in order, and both sides always know how much room there is.
        #[test]
        fn a_ring_is_a_bounded_queue(
            log_size in 0u32..7,
            start in prop_oneof![any::<u32>(), u32::MAX - 100..=u32::MAX],
            steps in steps(),
        ) {
            let size = 1 << log_size;
            let mut slots = vec![0u32; size as usize];
            let mut producer = Cursor::producer(size, start).unwrap();
            let mut consumer = Cursor::consumer(size, start).unwrap();
            let mut model = VecDeque::new();
            let mut next_value = 0;
            for step in steps {
                match step {
                    Step::Produce(wanted) => {
                        prop_assert!(producer.refresh(consumer.index()));
                        prop_assert_eq!(producer.available() as usize, size as usize - model.len());
                        let count = wanted.min(producer.available());
                        for i in 0..count {
                            slots[producer.slot(i) as usize] = next_value;
                            model.push_back(next_value);
                            next_value += 1;
                        }
                        producer.advance(count);
                    }
                    Step::Consume(wanted) => {
                        prop_assert!(consumer.refresh(producer.index()));
                        prop_assert_eq!(consumer.available() as usize, model.len());
                        let count = wanted.min(consumer.available());
                        for i in 0..count {
                            prop_assert_eq!(Some(slots[consumer.slot(i) as usize]), model.pop_front());
                        }
                        consumer.advance(count);
                    }
                }
            }
        }

        /// Whatever the other side stores, no more than the ring is ever available.
        #[test]
        fn a_lying_peer_gains_nothing(
            producer in any::<bool>(),
            start in any::<u32>(),
            moves in prop::collection::vec((any::<u32>(), any::<u32>()), 0..100),
        ) {
            let size = 64;
            let new = if producer { Cursor::producer } else { Cursor::consumer };
            let mut cursor = new(size, start).unwrap();
            for (theirs, count) in moves {
                let before = cursor;
                if !cursor.refresh(theirs) {
                    prop_assert_eq!(cursor, before);
                }
                prop_assert!(cursor.available() <= size);
                prop_assert!(cursor.slot(count) < size);
                let (index, available) = (cursor.index(), cursor.available());
                prop_assert_eq!(cursor.advance(count).wrapping_sub(index), count.min(available));
            }
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        for size in [0, 3, 4095, u32::MAX] {
            assert!(Cursor::producer(size, 0).is_none() && Cursor::consumer(size, 0).is_none());
        }
        for size in [1, 2, 4096, 1 << 31] {
            assert_eq!(Cursor::producer(size, 5).unwrap().available(), size);
            assert_eq!(Cursor::consumer(size, 5).unwrap().available(), 0);
        }
    }
}

//! Which generations somebody may still judge by, and when those came that changed policies.
//!
//! A generation is in use until its snapshot came back from the workers. What only generations before the oldest one in use
//! needed can be given up. The times are for people: the oldest are forgotten.

use std::collections::{BTreeMap, VecDeque};

/// Published generations, oldest first.
#[derive(Debug, Default)]
pub struct Generations {
    /// With whether its snapshot came back.
    known: VecDeque<(u64, bool)>,
    /// Milliseconds since 1970, by generation.
    times: BTreeMap<u64, u64>,
}

/// Generations whose times are remembered.
const TIMES: usize = 65_536;

impl Generations {
    /// One more, newer than all others.
    pub fn publish(&mut self, number: u64) {
        self.known.push_back((number, false));
    }

    /// Remembers when a generation was published: a moment in milliseconds since 1970.
    pub fn remember(&mut self, number: u64, time_ms: u64) {
        if self.times.len() == TIMES {
            self.times.pop_first();
        }
        self.times.insert(number, time_ms);
    }

    /// When a generation was published, if that was remembered and is not too long ago.
    #[must_use]
    pub fn time_ms(&self, number: u64) -> Option<u64> {
        self.times.get(&number).copied()
    }

    /// No worker judges by this generation any more.
    pub fn reclaim(&mut self, number: u64) {
        if let Some((_, back)) = self.known.iter_mut().find(|(known, _)| *known == number) {
            *back = true;
        }
        while self.known.front().is_some_and(|(_, back)| *back) {
            self.known.pop_front();
        }
    }

    /// The oldest generation in use; `None` before the first publication.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.known.front().map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_sleeps_keeps_what_it_has() {
        let mut generations = Generations::default();
        assert_eq!(generations.oldest(), None);
        (5..9).for_each(|number| generations.publish(number));
        generations.reclaim(6);
        generations.reclaim(7);
        assert_eq!(generations.oldest(), Some(5));
        generations.reclaim(5);
        assert_eq!(generations.oldest(), Some(8));
    }

    #[test]
    fn the_oldest_times_are_forgotten() {
        let mut generations = Generations::default();
        let many = TIMES as u64 + 2;
        (1..=many).for_each(|number| generations.remember(number, number * 1000));
        assert_eq!((generations.time_ms(2), generations.time_ms(3)), (None, Some(3000)));
        assert_eq!(generations.time_ms(many), Some(many * 1000));
    }
}

//! Which generations somebody may still judge by.
//!
//! A generation is in use until its snapshot came back from the workers. What only generations before the oldest one in use
//! needed can be given up.

use std::collections::VecDeque;

/// Published generations, oldest first.
#[derive(Debug, Default)]
pub struct Generations {
    /// With whether its snapshot came back.
    known: VecDeque<(u64, bool)>,
}

impl Generations {
    /// One more, newer than all others.
    pub fn publish(&mut self, number: u64) {
        self.known.push_back((number, false));
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
}

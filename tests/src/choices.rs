//! Where generated worlds get their decisions from.
//!
//! A generator asks for small numbers and nothing else. They come from a seed, for millions of worlds that can each
//! be made again from one number, or from a tape of numbers that a shrinking test runner chose: where the tape is
//! at its end or all zero every decision is 0, and generators are written so that 0 is the simplest one. One
//! generator therefore serves both.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A stream of decisions.
#[derive(Debug)]
pub struct Choices(Source);

#[derive(Debug)]
enum Source {
    Seeded(Box<StdRng>),
    Tape(std::vec::IntoIter<u16>),
}

impl Choices {
    /// The decisions that follow from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Box::new(StdRng::seed_from_u64(seed))))
    }

    /// These decisions, then zeros.
    #[must_use]
    pub fn tape(words: Vec<u16>) -> Self {
        Self(Source::Tape(words.into_iter()))
    }

    /// A number from 0 to `count - 1`; 0 for a `count` of 0.
    pub fn below(&mut self, count: usize) -> usize {
        let word = match &mut self.0 {
            Source::Seeded(random) => random.next_u32() as usize,
            Source::Tape(words) => usize::from(words.next().unwrap_or(0)),
        };
        word.checked_rem(count).unwrap_or(0)
    }

    /// True about `percent` times in a hundred; 0 is false.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) >= 100 - percent.min(100)
    }

    /// One of `options`, the first being the simplest.
    ///
    /// # Panics
    /// If there are none.
    #[allow(clippy::indexing_slicing)]
    pub fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())].clone()
    }
}

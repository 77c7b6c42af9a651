//! How long frames are. Lengths are counted as RFC 1242 and 2544 do, with the four bytes of the check sequence.
//!
//! A mix keeps its proportions exactly in every cycle, its sizes interleaved as evenly as they can be; a range is drawn from evenly.

use std::str::FromStr;

use rand::RngExt;
use rand::rngs::SmallRng;

/// Bytes of the frame check sequence, which devices add and take away.
pub const CHECK_SEQUENCE: usize = 4;
/// The smallest and largest frame, with check sequence.
pub const SMALLEST: usize = 64;
/// See [`SMALLEST`].
pub const LARGEST: usize = 9018;

/// What sizes frames have, with check sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// All between two, evenly.
    Range(usize, usize),
    /// Sizes with their weights. A single one is a fixed size.
    Mix(Vec<(usize, usize)>),
}

impl Sizes {
    /// The Internet mix: 7 of 64, 4 of 594, 1 of 1518 bytes.
    #[must_use]
    pub fn imix() -> Self {
        Self::Mix(vec![(64, 7), (594, 4), (1518, 1)])
    }

    /// The smallest of them.
    #[must_use]
    pub fn smallest(&self) -> usize {
        match self {
            Self::Range(first, _) => *first,
            Self::Mix(mix) => mix.iter().map(|(size, _)| *size).min().unwrap_or(SMALLEST),
        }
    }

    /// The largest of them.
    #[must_use]
    pub fn largest(&self) -> usize {
        match self {
            Self::Range(_, last) => *last,
            Self::Mix(mix) => mix.iter().map(|(size, _)| *size).max().unwrap_or(SMALLEST),
        }
    }

    /// Sizes below `least` become `least`.
    #[must_use]
    pub fn at_least(self, least: usize) -> Self {
        match self {
            Self::Range(first, last) => Self::Range(first.max(least), last.max(least)),
            Self::Mix(mix) => {
                Self::Mix(mix.into_iter().map(|(size, weight)| (size.max(least), weight)).collect())
            }
        }
    }

    /// Mean size.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::Range(first, last) => (first + last) as f64 / 2.0,
            Self::Mix(mix) => {
                let weights: usize = mix.iter().map(|(_, weight)| weight).sum();
                mix.iter().map(|(size, weight)| size * weight).sum::<usize>() as f64 / weights.max(1) as f64
            }
        }
    }

    /// Every size there is, once, and the order in which they come.
    #[must_use]
    pub fn schedule(&self) -> (Vec<usize>, Order) {
        match self {
            Self::Range(first, last) => {
                ((*first..=*last).collect(), Order::Random { count: last - first + 1 })
            }
            Self::Mix(mix) => (
                mix.iter().map(|(size, _)| *size).collect(),
                Order::Cycle { places: interleave(mix), next: 0 },
            ),
        }
    }
}

/// One cycle of a mix: in each step the size that lags most behind its share.
fn interleave(mix: &[(usize, usize)]) -> Vec<usize> {
    let whole: usize = mix.iter().map(|(_, weight)| weight).sum();
    let mut credit = vec![0i64; mix.len()];
    let mut cycle = Vec::with_capacity(whole);
    for _ in 0..whole {
        for (credit, (_, weight)) in credit.iter_mut().zip(mix) {
            *credit += *weight as i64;
        }
        // The first of equals.
        let next = (0..mix.len()).rev().max_by_key(|at| credit.get(*at).copied()).unwrap_or(0);
        if let Some(credit) = credit.get_mut(next) {
            *credit -= whole as i64;
        }
        cycle.push(next);
    }
    cycle
}

/// Which size comes next, as a place in the list of sizes.
#[derive(Debug, Clone)]
pub enum Order {
    /// Drawn evenly.
    Random {
        /// Of so many.
        count: usize,
    },
    /// Again and again the same.
    Cycle {
        /// Places in the list.
        places: Vec<usize>,
        /// The next of them.
        next: usize,
    },
}

impl Order {
    /// The next place.
    #[inline]
    pub fn next(&mut self, random: &mut SmallRng) -> usize {
        match self {
            Self::Random { count } => random.random_range(0..*count),
            Self::Cycle { places, next } => {
                let place = places.get(*next).copied().unwrap_or(0);
                *next = if *next + 1 < places.len() { *next + 1 } else { 0 };
                place
            }
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected imix, a frame size of {SMALLEST} to {LARGEST} bytes with check sequence, a range like 64-1518, or \
                 sizes with weights like 64:7,594:4,1518:1"
            )
        };
        let size = |text: &str| {
            text.parse().ok().filter(|size| (SMALLEST..=LARGEST).contains(size)).ok_or_else(expected)
        };
        if text == "imix" {
            return Ok(Self::imix());
        }
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (size(first)?, size(last)?);
            return if first <= last { Ok(Self::Range(first, last)) } else { Err(expected()) };
        }
        let entry = |entry: &str| match entry.split_once(':') {
            None => Ok((size(entry)?, 1)),
            Some((bytes, weight)) => {
                let weight =
                    weight.parse().ok().filter(|weight| (1..=1000).contains(weight)).ok_or_else(expected)?;
                Ok((size(bytes)?, weight))
            }
        };
        text.split(',').map(entry).collect::<Result<_, String>>().map(Self::Mix)
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range(first, last) => write!(f, "{first} to {last} bytes"),
            Self::Mix(mix) => match mix.as_slice() {
                [(size, _)] => write!(f, "{size} bytes"),
                mix => {
                    let list = |of: fn(&(usize, usize)) -> usize, between: &str| {
                        mix.iter().map(|entry| of(entry).to_string()).collect::<Vec<_>>().join(between)
                    };
                    write!(
                        f,
                        "{} of {} bytes",
                        list(|(_, weight)| *weight, ":"),
                        list(|(size, _)| *size, "/")
                    )
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_internet_mix_is_7_4_1_in_every_cycle_and_interleaved() {
        let (sizes, mut order) = Sizes::imix().schedule();
        assert_eq!(sizes, [64, 594, 1518]);
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..5 {
            let cycle: Vec<usize> = (0..12).map(|_| order.next(&mut random)).collect();
            assert_eq!(
                [0, 1, 2].map(|of| cycle.iter().filter(|at| **at == of).count()),
                [7, 4, 1],
                "{cycle:?}"
            );
            assert!(!cycle.windows(2).any(|pair| pair == [1, 1]), "{cycle:?}");
        }
        assert!((Sizes::imix().mean() - 361.833).abs() < 0.01);
    }

    #[test]
    fn a_range_has_all_its_sizes() {
        let (sizes, mut order) = Sizes::Range(64, 70).schedule();
        assert_eq!(sizes, [64, 65, 66, 67, 68, 69, 70]);
        let mut random = SmallRng::seed_from_u64(1);
        let mut seen = [0; 7];
        (0..7000).for_each(|_| seen[order.next(&mut random)] += 1);
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, written) in [
            ("64", "64 bytes"),
            ("64-1518", "64 to 1518 bytes"),
            ("imix", "7:4:1 of 64/594/1518 bytes"),
            ("64:7,594:4,1518:1", "7:4:1 of 64/594/1518 bytes"),
        ] {
            assert_eq!(text.parse::<Sizes>().map(|sizes| sizes.to_string()), Ok(written.to_owned()));
        }
        for bad in ["", "63", "9019", "100-90", "64:0", "64:1001", "64,", "large", "64-", "1518 "] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
        assert_eq!(Sizes::imix().at_least(100).to_string(), "7:4:1 of 100/594/1518 bytes");
    }
}

//! RFC 2544 throughput: the highest rate at which no more than a given share of the packets is lost.
//!
//! Bisection between what passed and what did not, from the highest rate down. Devices are noisy: one trial without loss proves
//! little. So a rate counts as found once it has passed as many trials as were asked for in a row; if one of these fails, the rate
//! counts as failed and the search goes on below it. A second target (PDR after NDR) begins with what the first one learned.
//!
//! **Honesty.** A pass counts at the rate that was really sent, a failure at the rate that was asked for. If the generator did not reach the rate, the search learns an
//! upper bound that is the generator's, not the device's, and the result says "at least". The same if what was lost was lost by
//! the sending device's queue or the sink's own sockets.

use anyhow::Result;

/// Of the rate that was asked for, a trial must have reached this much.
const REACHED: f64 = 0.99;

/// Whose fault a trial's failure was, if not the tested device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The device lost packets.
    Device,
    /// The generator could not send as fast, or its own device dropped packets.
    Generator,
    /// The sink had no room for what arrived.
    Sink,
    /// Nobody's: the highest rate that was to be tried passed.
    Highest,
}

impl std::fmt::Display for Blame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Generator => "generator",
            Self::Sink => "sink",
            Self::Highest => "highest rate tried",
        })
    }
}

/// What a trial came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Packets a second that were really sent.
    pub sent_rate: f64,
    /// Share that was lost: 0 to 1.
    pub loss: f64,
    /// Where it was lost, as far as known.
    pub blame: Blame,
}

/// A trial in the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Packets a second that were asked for.
    pub rate: f64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Entry {
    /// Did the generator send as fast as it was asked to, near enough?
    #[must_use]
    pub fn reached(&self) -> bool {
        self.outcome.sent_rate >= REACHED * self.rate
    }

    /// The rate at which it was passed, if it was: the one really sent.
    fn passed(&self, target: f64) -> Option<f64> {
        (self.outcome.loss <= target).then(|| self.outcome.sent_rate.min(self.rate))
    }

    /// The rate that was not passed, and whose fault that was.
    fn failed(&self, target: f64) -> Option<(f64, Blame)> {
        match (self.passed(target), self.reached()) {
            (Some(_), true) => None,
            (Some(_), false) => Some((self.rate, Blame::Generator)),
            (None, _) => Some((self.rate, self.outcome.blame)),
        }
    }
}

/// What a search may do.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Highest rate to try, packets a second.
    pub highest: f64,
    /// The search ends when pass and failure are this close, as a share of the highest rate.
    pub resolution: f64,
    /// Trials in a row that the result must pass, at least 1.
    pub confirm: u32,
    /// Most trials for one target.
    pub most_trials: usize,
}

/// The result for one target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Packets a second; `None` if no rate that was tried passed.
    pub rate: Option<f64>,
    /// Whether pass and failure are as close as was asked for; else the trials were used up before.
    pub settled: bool,
    /// Who kept it from being higher.
    pub limit: Blame,
    /// Was it passed as often in a row as was asked for?
    pub confirmed: bool,
}

/// Searches. `trial` sends at a rate; all trials are appended to `log`, and what is there already is used.
///
/// # Errors
/// Those of `trial`.
pub fn search(
    terms: &Terms,
    target: f64,
    log: &mut Vec<Entry>,
    mut trial: impl FnMut(f64) -> Result<Outcome>,
) -> Result<Found> {
    let mut left = terms.most_trials;
    // What the device lost before, it would lose again. That the generator was slow may have been chance.
    let known =
        log.iter().filter_map(|entry| entry.failed(target)).filter(|(_, blame)| *blame != Blame::Generator);
    let mut high = known.fold(None, lower);
    loop {
        let (low, settled) = close_in(terms, target, &mut left, &mut high, log, &mut trial)?;
        let mut limit = high.map_or(Blame::Highest, |(_, blame)| blame);
        if low <= 0.0 {
            return Ok(Found { rate: None, settled, limit, confirmed: false });
        }
        // The trial that found it is the first to confirm it. The result is what the slowest of them really sent.
        let (mut confirmed, mut rate) = (1, low);
        while confirmed < terms.confirm {
            if left == 0 {
                return Ok(Found { rate: Some(rate), settled, limit, confirmed: false });
            }
            left -= 1;
            let entry = Entry { rate: low, outcome: trial(low)? };
            log.push(entry);
            if entry.outcome.loss > target {
                // Trials of this very rate that passed, and were sent a hair slower, are no better proof than those before.
                high = lower(high, (REACHED * low, entry.outcome.blame));
                break;
            }
            rate = rate.min(entry.outcome.sent_rate);
            if !entry.reached() {
                limit = Blame::Generator;
            }
            confirmed += 1;
        }
        if confirmed >= terms.confirm.max(1) {
            return Ok(Found { rate: Some(rate), settled, limit, confirmed: settled });
        }
    }
}

/// Bisects until what passed and what did not are close. The highest rate that passed, 0 if none did; and whether they are.
fn close_in(
    terms: &Terms,
    target: f64,
    left: &mut usize,
    high: &mut Option<(f64, Blame)>,
    log: &mut Vec<Entry>,
    trial: &mut impl FnMut(f64) -> Result<Outcome>,
) -> Result<(f64, bool)> {
    loop {
        let passed = log.iter().filter_map(|entry| entry.passed(target));
        let low = passed.filter(|rate| high.is_none_or(|(high, _)| *rate < high)).fold(0.0, f64::max);
        let next = match *high {
            None if low >= REACHED * terms.highest => return Ok((low, true)),
            None => terms.highest,
            Some((high, _)) if high - low <= terms.resolution * terms.highest => return Ok((low, true)),
            Some((high, _)) => low.midpoint(high),
        };
        let mut entry = None;
        // Whoever was kept from sending gets a second chance.
        for _ in 0..2 {
            if *left == 0 {
                return Ok((low, false));
            }
            *left -= 1;
            let tried = Entry { rate: next, outcome: trial(next)? };
            log.push(tried);
            entry = Some(tried);
            if tried.reached() || tried.passed(target).is_none() {
                break;
            }
        }
        let Some(entry) = entry else { return Ok((low, false)) };
        if let Some(failed) = entry.failed(target) {
            *high = lower(*high, failed);
        } else if entry.passed(target).is_none_or(|rate| rate <= low) {
            // Near enough to the rate that was asked for, but no faster than what is known: the generator has no more.
            *high = lower(*high, (next, Blame::Generator));
        }
    }
}

fn lower(high: Option<(f64, Blame)>, failed: (f64, Blame)) -> Option<(f64, Blame)> {
    match high {
        Some((rate, _)) if rate <= failed.0 => high,
        _ => Some(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    const TERMS: Terms = Terms { highest: 1e6, resolution: 0.005, confirm: 3, most_trials: 80 };

    /// Carries so much and loses the rest; the generator sends so much and no more.
    fn device(capacity: f64, generator: f64) -> impl FnMut(f64) -> Result<Outcome> {
        move |rate| {
            let sent_rate = rate.min(generator);
            let loss = (1.0 - capacity / sent_rate).max(0.0);
            Ok(Outcome { sent_rate, loss, blame: Blame::Device })
        }
    }

    proptest! {
        #[test]
        fn ndr_and_pdr_of_a_device_are_found_to_the_resolution(capacity in 10_000f64..999_000.0) {
            let mut log = Vec::new();
            let ndr = search(&TERMS, 0.0, &mut log, device(capacity, 1e9)).unwrap();
            let trials = log.len();
            let pdr = search(&TERMS, 0.005, &mut log, device(capacity, 1e9)).unwrap();
            let (ndr_rate, pdr_rate) = (ndr.rate.unwrap(), pdr.rate.unwrap());
            prop_assert!(ndr_rate <= capacity && ndr_rate >= capacity - 5000.0, "{ndr_rate} {capacity}");
            let with_loss = capacity / 0.995;
            prop_assert!(pdr_rate <= with_loss + 1e-3 && pdr_rate >= with_loss.min(1e6) - 5000.0, "{pdr_rate} {with_loss}");
            prop_assert!(ndr.confirmed && pdr.confirmed && ndr.limit == Blame::Device);
            // One at the top, eight to halve 200 steps, two to confirm; the second search is shorter.
            prop_assert!(trials <= 12 && log.len() - trials <= 12, "{trials} {}", log.len());
        }

        #[test]
        fn a_generator_at_its_limit_is_named(generator in 100_000f64..900_000.0, more in 1.01f64..3.0) {
            let found = search(&TERMS, 0.0, &mut Vec::new(), device(generator * more, generator)).unwrap();
            prop_assert_eq!((found.limit, found.confirmed), (Blame::Generator, true));
            let rate = found.rate.unwrap();
            prop_assert!(rate <= generator && rate > 0.98 * generator, "{rate} {generator}");
        }

        /// Loss out of the blue makes the result lower, never higher, and what is confirmed was passed three times in a row.
        #[test]
        fn noise_never_makes_a_device_better(capacity in 50_000f64..990_000.0, noise in 0f64..0.3, seed: u64) {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut quiet = device(capacity, 1e9);
            let mut log = Vec::new();
            let found = search(&TERMS, 0.0, &mut log, |rate| {
                let mut outcome = quiet(rate)?;
                if random.random_bool(noise) {
                    outcome.loss = outcome.loss.max(1e-5);
                }
                Ok(outcome)
            }).unwrap();
            prop_assert!(log.len() <= TERMS.most_trials);
            if let Some(rate) = found.rate {
                prop_assert!(rate <= capacity);
                if found.confirmed {
                    let at: Vec<&Entry> = log.iter().filter(|entry| (entry.rate - rate).abs() < 1e-9).collect();
                    prop_assert!(at.len() >= 3 && at.iter().all(|entry| entry.outcome.loss == 0.0));
                }
            }
        }
    }

    proptest! {
        /// A generator that is held up now and then makes the result lower by what it was held up, and never none.
        #[test]
        fn a_generator_that_is_held_up_finds_something(capacity in 100_000f64..900_000.0, often in 0f64..1.0, seed: u64) {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut log = Vec::new();
            let found = search(&TERMS, 0.0, &mut log, |rate| {
                let held_up = if random.random_bool(often) { random.random_range(0.3..1.0) } else { 1.0 };
                let sent_rate = rate * held_up;
                Ok(Outcome { sent_rate, loss: (1.0 - capacity / sent_rate).max(0.0), blame: Blame::Device })
            }).unwrap();
            let rate = found.rate.unwrap();
            prop_assert!(rate <= capacity && rate > 0.05 * capacity, "{rate} {capacity}");
        }
    }

    proptest! {
        /// What is found is no more than any trial that it stands for really sent.
        #[test]
        fn nothing_is_claimed_that_was_not_sent(capacity in 100_000f64..1_500_000.0, seed: u64) {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut log = Vec::new();
            let found = search(&TERMS, 0.0, &mut log, |rate| {
                let sent_rate = rate * random.random_range(0.992..1.0);
                Ok(Outcome { sent_rate, loss: (1.0 - capacity / sent_rate).max(0.0), blame: Blame::Device })
            }).unwrap();
            prop_assert!(found.confirmed && found.settled);
            let last = log.iter().rev().take(TERMS.confirm as usize - 1).map(|entry| entry.outcome.sent_rate);
            let slowest = last.fold(f64::INFINITY, f64::min);
            prop_assert!(found.rate.unwrap() <= slowest, "{:?} {slowest}", found.rate);
        }
    }

    #[test]
    fn a_search_that_had_too_few_trials_says_so() {
        let terms = Terms { most_trials: 1, confirm: 1, ..TERMS };
        let none = search(&terms, 0.0, &mut Vec::new(), device(1e5, 1e9)).unwrap();
        assert_eq!((none.rate, none.settled, none.confirmed), (None, false, false));
        let terms = Terms { most_trials: 5, confirm: 1, ..TERMS };
        let some = search(&terms, 0.0, &mut Vec::new(), device(3e5, 1e9)).unwrap();
        assert_eq!((some.rate, some.settled, some.confirmed), (Some(2.5e5), false, false));
    }

    #[test]
    fn what_passes_at_the_highest_rate_is_at_least_that() {
        let mut log = Vec::new();
        let found = search(&TERMS, 0.0, &mut log, device(2e6, 1e9)).unwrap();
        assert_eq!(found, Found { rate: Some(1e6), settled: true, limit: Blame::Highest, confirmed: true });
        assert_eq!(log.len(), 3);
    }

    #[test]
    fn a_device_that_always_loses_has_no_rate() {
        let mut log = Vec::new();
        let always = |rate| Ok(Outcome { sent_rate: rate, loss: 0.01, blame: Blame::Sink });
        let found = search(&TERMS, 0.005, &mut log, always).unwrap();
        assert_eq!(found, Found { rate: None, settled: true, limit: Blame::Sink, confirmed: false });
        assert!(log.len() < 12);
    }
}

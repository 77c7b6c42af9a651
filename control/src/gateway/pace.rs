//! When what was noted is acted upon.
//!
//! Changes come in bursts (a deployment, a folder of files): the first one waits [`SETTLE`] for the others. And objects may go
//! on changing for hours, in a large cluster a thousand times a second. Workers judge each connection again once for each
//! publication, so what churn costs them is publications a second times connections: for objects' changes, publications
//! are [`APART`]. One that comes alone is not held up by that, nor is a port that is asked for.

use std::time::{Duration, Instant};

/// How long a burst of changes is waited for.
pub const SETTLE: Duration = Duration::from_millis(3);

/// How long after a publication what objects have changed since is waited for.
pub const APART: Duration = Duration::from_millis(20);

/// Between a change and what is made of it.
#[derive(Debug)]
pub struct Pace {
    settle: Duration,
    apart: Duration,
    due: Option<Instant>,
    published: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(SETTLE, APART)
    }
}

impl Pace {
    /// Other times than the gateway's.
    #[must_use]
    pub fn new(settle: Duration, apart: Duration) -> Self {
        Self { settle, apart, due: None, published: None }
    }

    /// Something changed that somebody may be waiting for.
    pub fn note(&mut self, now: Instant) {
        self.again(now + self.settle);
    }

    /// Objects changed.
    pub fn note_objects(&mut self, now: Instant) {
        let free = self.published.map_or(now, |published| published + self.apart);
        self.again(free.max(now + self.settle));
    }

    /// When to act; `None` if nothing was noted.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to act. What is noted from now on is for the next time.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
        }
        due
    }

    /// Something was published.
    pub fn published(&mut self, now: Instant) {
        self.published = Some(now);
    }

    /// To be acted upon at `then` at the latest.
    pub fn again(&mut self, then: Instant) {
        self.due = Some(self.due.map_or(then, |due| due.min(then)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_costs_one_publication_and_churn_fifty_a_second() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut pace = Pace::default();
        let mut acted = Vec::new();
        // A burst of two, one alone, then a change every millisecond; and in the midst of that a port.
        let changes: Vec<u64> = [0, 1, 100].into_iter().chain(200..250).collect();
        for now in 0..300 {
            if changes.contains(&now) {
                pace.note_objects(at(now));
            }
            if now == 230 {
                pace.note(at(now));
            }
            if pace.take(at(now)) {
                pace.published(at(now));
                acted.push(now);
            }
        }
        assert_eq!(acted, [3, 103, 203, 223, 233, 253]);
        assert_eq!(pace.due(), None);
    }
}

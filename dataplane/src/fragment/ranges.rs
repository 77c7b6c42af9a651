//! Which bytes of a datagram have come.
//!
//! A fixed number of runs, in order and never touching each other: fragments that adjoin become one run. Fragments in order,
//! or in reverse order, need one run; any order of the 45 fragments that 64 kB make at the usual MTU needs 23 at most, and
//! hardly ever more than [`RUNS`].

#![deny(clippy::indexing_slicing)]

use crate::packet::Fragment;

/// Runs that a datagram may have, with a gap between any two.
pub const RUNS: usize = 16;

/// Why a fragment does not fit those that came before it. Nothing is taken down then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// All of its bytes have come already.
    Duplicate,
    /// Some of its bytes have come already.
    Overlap,
    /// It says that the datagram has another length than others say, or than they need.
    Length,
    /// It leaves a gap, and there are as many as can be remembered.
    Gaps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Run {
    start: u16,
    end: u16,
}

/// The bytes of one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ranges {
    runs: [Run; RUNS],
    count: u8,
    /// The datagram's length; 0 before its last fragment came.
    total: u16,
}

impl Ranges {
    /// Takes down a fragment's bytes.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn add(&mut self, fragment: &Fragment) -> Result<(), Fault> {
        let (start, end, is_last) = (fragment.start(), fragment.end(), fragment.is_last());
        let count = usize::from(self.count);
        let runs = self.runs.get(..count).unwrap_or_default();
        let furthest = runs.last().map_or(0, |run| run.end);
        let another_total = self.total != 0 && if is_last { end != self.total } else { end > self.total };
        if another_total || (is_last && end < furthest) {
            return Err(Fault::Length);
        }
        // The first run that does not end before the fragment begins, and so the first it can have bytes in common with.
        let place = runs.partition_point(|run| run.end <= start);
        let next = runs.get(place).copied();
        match next {
            Some(run) if run.start <= start && end <= run.end => return Err(Fault::Duplicate),
            Some(run) if run.start < end => return Err(Fault::Overlap),
            _ => {}
        }
        let previous = place.checked_sub(1);
        let adjoins_previous = previous.and_then(|at| runs.get(at)).is_some_and(|run| run.end == start);
        let adjoins_next = next.filter(|run| run.start == end);
        match (previous.filter(|_| adjoins_previous), adjoins_next) {
            (Some(previous), Some(next)) => {
                self.set(previous, |run| run.end = next.end);
                self.runs.copy_within(place + 1..count, place);
                self.count -= 1;
            }
            (Some(previous), None) => self.set(previous, |run| run.end = end),
            (None, Some(_)) => self.set(place, |run| run.start = start),
            (None, None) if count == RUNS => return Err(Fault::Gaps),
            (None, None) => {
                self.runs.copy_within(place..count, place + 1);
                self.set(place, |run| *run = Run { start, end });
                self.count += 1;
            }
        }
        if is_last {
            self.total = end;
        }
        Ok(())
    }

    fn set(&mut self, place: usize, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.runs.get_mut(place) {
            change(run);
        }
    }

    /// Has every byte come?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let whole = Run { start: 0, end: self.total };
        self.total != 0 && self.count == 1 && self.runs.first() == Some(&whole)
    }
}

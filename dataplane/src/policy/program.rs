//! Programs: which row answers for a protocol and port.
//!
//! A program is one contiguous block of an arena of 32-byte lanes: the sorted starts of its intervals, filled up
//! with numbers that no key reaches, then as many lanes of row references. The first interval always starts at
//! key 0, so its place holds the number of intervals instead, complemented: larger than any key, it never counts
//! as a start. Then the interval is the number of words not above the key, which for up to 64 starts is a count
//! without branches over whole lanes; beyond, a binary search picks the lane first.

use super::Action;
use super::rows::RowRef;

/// One past the largest interval key.
pub const KEY_END: u32 = 4 << 16;

/// The class of an IP protocol number that intervals tell apart: TCP 0, UDP 1, SCTP 2, everything else 3.
#[inline]
#[must_use]
pub fn protocol_class(protocol: u8) -> u32 {
    match protocol {
        6 => 0,
        17 => 1,
        132 => 2,
        _ => 3,
    }
}

/// What intervals are ordered by: `protocol class << 16 | port`. The port counts only where policies can name one.
#[inline]
#[must_use]
pub fn interval_key(protocol: u8, port: u16) -> u32 {
    match protocol_class(protocol) {
        3 => 3 << 16,
        class => class << 16 | u32::from(port),
    }
}

pub(super) const LANE: usize = 8;
/// Above this many lanes of starts the lane is searched for.
const COUNTED_LANES: usize = 8;

/// Eight words of the arena, aligned so that they never straddle a cache line.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Lane(pub(super) [u32; LANE]);

impl Lane {
    #[inline]
    fn count_up_to(&self, key: u32) -> u32 {
        self.0.iter().map(|&start| u32::from(start <= key)).sum()
    }
}

#[derive(Default)]
pub(super) struct Programs {
    lanes: Box<[Lane]>,
}

impl Programs {
    pub(super) fn new(lanes: Vec<Lane>) -> Self {
        Self { lanes: lanes.into_boxed_slice() }
    }

    /// Lays a program out; `intervals` are sorted by their starts, the first start is 0, no start reaches
    /// [`KEY_END`].
    pub(super) fn lay_out(intervals: &[(u32, RowRef)], lanes: &mut Vec<Lane>) {
        let words = intervals.len().div_ceil(LANE) * LANE;
        let count = u32::try_from(intervals.len()).unwrap_or(0);
        let mut starts = vec![u32::MAX; words];
        let mut rows = vec![RowRef::NOBODY.0; words];
        for ((start, row), &(key, reference)) in starts.iter_mut().zip(&mut rows).zip(intervals) {
            *start = key;
            *row = reference.0;
        }
        if let Some(first) = starts.first_mut() {
            *first = !count;
        }
        for words in [starts, rows] {
            lanes.extend(words.as_chunks::<LANE>().0.iter().map(|chunk| Lane(*chunk)));
        }
    }

    /// The interval of `program` that holds `key`, and its row. `None` if there is no such program.
    #[inline]
    pub(super) fn find(&self, program: u32, key: u32) -> Option<(u32, RowRef)> {
        let block = self.lanes.get(program as usize..)?;
        let count = !block.first()?.0[0];
        let width = (count as usize).div_ceil(LANE);
        let starts = block.get(..width)?;
        let interval = if width <= COUNTED_LANES {
            starts.iter().map(|lane| lane.count_up_to(key)).sum()
        } else {
            // The header is the first word of the first lane, so that lane is taken as never above the key.
            let rest = starts.get(1..)?;
            let lane = rest.partition_point(|lane| lane.0[0] <= key);
            let before = if lane == 0 { 0 } else { lane * LANE - 1 };
            u32::try_from(before).ok()? + starts.get(lane)?.count_up_to(key)
        };
        let word = interval as usize;
        let row = block.get(width + word / LANE)?.0[word % LANE];
        Some((interval, RowRef(row)))
    }

    /// Where an interval's verdicts are counted. A block of 2k lanes has 16k slots for at most 8k intervals with
    /// two actions each, so they are numbered without a look at the block.
    #[inline]
    pub(super) fn hit_slot(program: u32, interval: u32, action: Action) -> Option<usize> {
        if program >= super::PROGRAM_CLOSED {
            return None;
        }
        Some(program as usize * LANE + interval as usize * 2 + usize::from(action == Action::Deny))
    }

    pub(super) fn hit_slots(&self) -> usize {
        self.lanes.len() * LANE
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every program size around the lane and search limits, every start and its neighbours, against a scan.
    #[test]
    fn finds_the_interval_that_holds_the_key() {
        let mut lanes = Vec::new();
        let mut programs = Vec::new();
        for count in (1u32..=18).chain([63, 64, 65, 66, 71, 72, 73, 200, 1_000]) {
            let intervals: Vec<(u32, RowRef)> =
                (0..count).map(|i| (if i == 0 { 0 } else { i * 257 + 3 }, RowRef(i + 2))).collect();
            programs.push((u32::try_from(lanes.len()).unwrap(), intervals.clone()));
            Programs::lay_out(&intervals, &mut lanes);
        }
        let arena = Programs::new(lanes);
        for (program, intervals) in &programs {
            let probes = intervals.iter().flat_map(|&(start, _)| [start, start + 1, start.saturating_sub(1)]);
            for key in probes.chain([KEY_END - 1]) {
                let expected = intervals.iter().rposition(|&(start, _)| start <= key).unwrap();
                let (interval, row) = arena.find(*program, key).unwrap();
                assert_eq!(interval as usize, expected, "{} intervals, key {key}", intervals.len());
                assert_eq!(row, intervals[expected].1);
            }
        }
        assert!(arena.find(super::super::PROGRAM_CLOSED, 0).is_none());
    }

    #[test]
    fn protocols_without_ports_share_one_key() {
        assert_eq!(interval_key(1, 8), interval_key(58, 0));
        assert_eq!(interval_key(6, 80), 80);
        assert_eq!(interval_key(17, 53), 1 << 16 | 53);
        assert_eq!(interval_key(132, 65_535), 2 << 16 | 65_535);
        assert!(interval_key(255, 65_535) < KEY_END);
    }
}

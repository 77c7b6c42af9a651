//! Programs: which row answers for a protocol and port.
//!
//! A program is one contiguous block of whole cache lines: the sorted starts of its intervals, filled up with
//! numbers that no key reaches, then as many lines of row references. The first interval always starts at key 0, so
//! its place holds the number of lines instead, as a number that no key reaches either. Then the interval is the
//! number of words not above the key: up to 64 starts are counted without a branch but for the number of lines,
//! which is 1, 2 or 4 and mostly 1; beyond, a binary search picks the line first.

use super::Action;
use super::rows::RowRef;

/// One past the largest interval key.
pub const KEY_END: u32 = 4 << 16;

/// [`protocol_class`] by protocol number: a load that is always in the cache instead of a branch on the packet.
static CLASSES: [u8; 256] = {
    let mut classes = [3; 256];
    classes[6] = 0;
    classes[17] = 1;
    classes[132] = 2;
    classes
};

/// The class of an IP protocol number that intervals tell apart: TCP 0, UDP 1, SCTP 2, everything else 3.
#[inline]
#[must_use]
pub fn protocol_class(protocol: u8) -> u32 {
    u32::from(CLASSES[usize::from(protocol)])
}

/// What intervals are ordered by: `protocol class << 16 | port`. The port counts only where policies can name one.
#[inline]
#[must_use]
pub fn interval_key(protocol: u8, port: u16) -> u32 {
    let class = protocol_class(protocol);
    class << 16 | if class == 3 { 0 } else { u32::from(port) }
}

/// Words of a cache line.
pub(super) const LINE: usize = 16;
/// Up to this many lines of starts are counted, above the line is searched for.
const COUNTED_LINES: usize = 4;
/// No key reaches it. Below the sign bit, because x86-64 compares signed words only.
const NEVER: i32 = i32::MAX;

/// One cache line of the arena.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line([i32; LINE]);

impl Line {
    #[inline]
    fn count_up_to(&self, key: i32) -> u32 {
        self.0.iter().map(|&start| u32::from(start <= key)).sum()
    }
}

#[derive(Default)]
pub(super) struct Programs {
    lines: Box<[Line]>,
}

impl Programs {
    pub(super) fn new(lines: Vec<Line>) -> Self {
        Self { lines: lines.into_boxed_slice() }
    }

    /// Lays a program out; `intervals` are sorted by their starts, the first start is 0, no start reaches
    /// [`KEY_END`].
    pub(super) fn lay_out(intervals: &[(u32, RowRef)], lines: &mut Vec<Line>) {
        let needed = intervals.len().div_ceil(LINE);
        let width = if needed <= COUNTED_LINES { needed.next_power_of_two() } else { needed };
        let mut starts = vec![NEVER; width * LINE];
        let mut rows = vec![RowRef::NOBODY.0.cast_signed(); width * LINE];
        for ((start, row), &(key, reference)) in starts.iter_mut().zip(&mut rows).zip(intervals) {
            *start = key.cast_signed();
            *row = reference.0.cast_signed();
        }
        if let (Some(first), Ok(width)) = (starts.first_mut(), i32::try_from(width)) {
            *first = NEVER - width;
        }
        for words in [starts, rows] {
            lines.extend(words.as_chunks::<LINE>().0.iter().map(|chunk| Line(*chunk)));
        }
    }

    /// The interval of `program` that holds `key`, and its row. `None` if there is no such program.
    #[inline]
    pub(super) fn find(&self, program: u32, key: u32) -> Option<(u32, RowRef)> {
        let key = key.cast_signed();
        let block = self.lines.get(program as usize..)?;
        let width = (NEVER - block.first()?.0[0]) as usize;
        let starts = block.get(..width)?;
        let interval = if width <= COUNTED_LINES {
            starts.iter().map(|line| line.count_up_to(key)).sum()
        } else {
            // The first word of the first line is no start, so that line is taken as never above the key.
            let rest = starts.get(1..)?;
            let line = rest.partition_point(|line| line.0[0] <= key);
            let before = if line == 0 { 0 } else { line * LINE - 1 };
            u32::try_from(before).ok()? + starts.get(line)?.count_up_to(key)
        };
        let word = interval as usize;
        let row = block.get(width + word / LINE)?.0[word % LINE];
        Some((interval, RowRef(row.cast_unsigned())))
    }

    /// Where an interval's verdicts are counted. A block of 2k lines has 32k slots for at most 16k intervals with
    /// two actions each, so they are numbered without a look at the block.
    #[inline]
    pub(super) fn hit_slot(program: u32, interval: u32, action: Action) -> Option<usize> {
        if program >= super::PROGRAM_CLOSED {
            return None;
        }
        Some(program as usize * LINE + interval as usize * 2 + usize::from(action == Action::Deny))
    }

    pub(super) fn hit_slots(&self) -> usize {
        self.lines.len() * LINE
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every program size around the line and search limits, every start and its neighbours, against a scan.
    #[test]
    fn finds_the_interval_that_holds_the_key() {
        let mut lines = Vec::new();
        let mut programs = Vec::new();
        for count in (1u32..=34).chain([47, 48, 49, 63, 64, 65, 66, 79, 80, 81, 200, 1_000]) {
            let intervals: Vec<(u32, RowRef)> =
                (0..count).map(|i| (if i == 0 { 0 } else { i * 257 + 3 }, RowRef(i + 2))).collect();
            programs.push((u32::try_from(lines.len()).unwrap(), intervals.clone()));
            Programs::lay_out(&intervals, &mut lines);
        }
        let arena = Programs::new(lines);
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

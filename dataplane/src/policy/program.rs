//! Programs: which row answers for a protocol and port.
//!
//! Programs lie in an arena of pages that a copy of it shares ([`ProgramArena`] is the writer's side), so that a program
//! can be added, and the place of one that nobody uses any more used again, under a published snapshot's feet.
//!
//! A program is one contiguous block of whole cache lines: the sorted starts of its intervals, filled up with
//! numbers that no key reaches, then as many lines of row references. The first interval always starts at key 0, so
//! its place holds the number of lines instead, as a number that no key reaches either. Then the interval is the
//! number of words not above the key: up to 64 starts are counted without a branch but for the number of lines,
//! which is 1, 2 or 4 and mostly 1; beyond, a binary search picks the line first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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

/// Lines of a page of the arena. A program lies within one page; one that is larger has a page of its own size.
const PAGE_LINES: usize = 1 << PAGE_BITS;
const PAGE_BITS: u32 = 8;

/// The arena. A program's number is `page << 8 | first line in it`.
#[derive(Clone, Default)]
pub(super) struct Programs {
    pages: Arc<[Arc<[Line]>]>,
}

/// The page of a program, and its first line there.
#[inline]
fn place(program: u32) -> (usize, usize) {
    ((program >> PAGE_BITS) as usize, program as usize % PAGE_LINES)
}

impl Programs {
    /// Lays a program out; `intervals` are sorted by their starts, the first start is 0, no start reaches
    /// [`KEY_END`].
    fn lay_out(intervals: &[(u32, RowRef)]) -> Vec<Line> {
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
        [starts, rows]
            .iter()
            .flat_map(|words| words.as_chunks::<LINE>().0)
            .map(|chunk| Line(*chunk))
            .collect()
    }

    /// The interval of `program` that holds `key`, and its row. `None` if there is no such program: no other line begins with a
    /// number of lines that its page has.
    #[inline]
    pub(super) fn find(&self, program: u32, key: u32) -> Option<(u32, RowRef)> {
        let key = key.cast_signed();
        let (page, line) = place(program);
        let block = self.pages.get(page)?.get(line..)?;
        let width = NEVER.wrapping_sub(block.first()?.0[0]) as usize;
        let starts = block.get(..width)?;
        let interval = if (1..=COUNTED_LINES).contains(&width) {
            starts.iter().map(|line| line.count_up_to(key)).sum()
        } else {
            // The first word of the first line is no start, so that line is taken as never above the key. There is none if
            // this is no program but a line that was filled up.
            let rest = starts.get(1..)?;
            let line = rest.partition_point(|line| line.0[0] <= key);
            let before = if line == 0 { 0 } else { line * LINE - 1 };
            u32::try_from(before).ok()? + starts.get(line)?.count_up_to(key)
        };
        let word = interval as usize;
        let row = block.get(width + word / LINE)?.0[word % LINE];
        Some((interval, RowRef(row.cast_unsigned())))
    }

    /// Where an interval's verdicts are counted: the page, and the counter in it. A block of 2k lines has 32k counters for
    /// at most 16k intervals with two actions each, so they are numbered without a look at the block.
    #[inline]
    pub(super) fn hit_slot(program: u32, interval: u32, action: Action) -> Option<(usize, usize)> {
        if program >= super::PROGRAM_CLOSED {
            return None;
        }
        let (page, line) = place(program);
        Some((page, line * LINE + interval as usize * 2 + usize::from(action == Action::Deny)))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.iter().map(|page| size_of_val(&**page)).sum()
    }
}

/// The arena with what is free in it.
#[derive(Default)]
pub(super) struct ProgramArena {
    pub(super) programs: Programs,
    /// Blocks given back, by their lines, a power of two.
    free: BTreeMap<usize, Vec<u32>>,
    /// Pages of programs that were too large for one, given back.
    free_pages: Vec<usize>,
    /// The page that is being filled, and how far it is.
    filling: Option<(usize, usize)>,
    /// Lines of each program.
    blocks: HashMap<u32, usize>,
    lines: usize,
}

impl ProgramArena {
    /// Stores a program and gives its number; `None` if numbers run out. Pages that are new are told to `added`, with
    /// their lines.
    pub(super) fn add(
        &mut self,
        intervals: &[(u32, RowRef)],
        mut added: impl FnMut(usize, usize),
    ) -> Option<u32> {
        let lines = Programs::lay_out(intervals);
        let size = lines.len().next_power_of_two();
        let program = if size > PAGE_LINES {
            let page = self.new_page(lines.len(), &mut added);
            number(page, 0)?
        } else if let Some(program) = self.free.get_mut(&size).and_then(Vec::pop) {
            program
        } else {
            let (page, line) = match self.filling.filter(|(_, line)| line + size <= PAGE_LINES) {
                Some(place) => place,
                None => (self.new_page(PAGE_LINES, &mut added), 0),
            };
            self.filling = Some((page, line + size));
            number(page, line)?
        };
        let (page, line) = place(program);
        let pages = Arc::make_mut(&mut self.programs.pages);
        let block = pages.get_mut(page).map(Arc::make_mut).and_then(|page| page.get_mut(line..));
        for (place, line) in block.into_iter().flatten().zip(&lines) {
            *place = *line;
        }
        self.lines += lines.len();
        self.blocks.insert(program, lines.len());
        Some(program)
    }

    fn new_page(&mut self, lines: usize, added: &mut impl FnMut(usize, usize)) -> usize {
        let new: Arc<[Line]> = vec![Line([NEVER; LINE]); lines].into();
        let page = match self.free_pages.pop() {
            Some(page) => {
                if let Some(place) = Arc::make_mut(&mut self.programs.pages).get_mut(page) {
                    *place = new;
                }
                page
            }
            None => {
                self.programs.pages = self.programs.pages.iter().cloned().chain([new]).collect();
                self.programs.pages.len() - 1
            }
        };
        added(page, lines);
        page
    }

    /// Takes the block of a program back.
    pub(super) fn remove(&mut self, program: u32) {
        let Some(lines) = self.blocks.remove(&program) else { return };
        self.lines -= lines;
        let size = lines.next_power_of_two();
        if size > PAGE_LINES {
            let (page, _) = place(program);
            if let Some(place) = Arc::make_mut(&mut self.programs.pages).get_mut(page) {
                *place = Arc::from([]);
            }
            self.free_pages.push(page);
        } else {
            self.free.entry(size).or_default().push(program);
        }
    }

    pub(super) fn contains(&self, program: u32) -> bool {
        self.blocks.contains_key(&program)
    }

    /// Lines of a program.
    pub(super) fn lines_of(&self, program: u32) -> usize {
        self.blocks.get(&program).copied().unwrap_or(0)
    }

    /// 32-bit words of all programs.
    pub(super) fn words(&self) -> usize {
        self.lines * LINE
    }
}

/// The number of a program; numbers keep to 30 bits.
fn number(page: usize, line: usize) -> Option<u32> {
    let program = u32::try_from(page).ok()?.checked_mul(1 << PAGE_BITS)? | u32::try_from(line).ok()?;
    (program < 1 << 30).then_some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every program size around the line and search limits, every start and its neighbours, against a scan.
    #[test]
    fn finds_the_interval_that_holds_the_key() {
        let mut arena = ProgramArena::default();
        let mut programs = Vec::new();
        for count in (1u32..=34).chain([47, 48, 49, 63, 64, 65, 66, 79, 80, 81, 200, 1_000]) {
            let intervals: Vec<(u32, RowRef)> =
                (0..count).map(|i| (if i == 0 { 0 } else { i * 257 + 3 }, RowRef(i + 2))).collect();
            programs.push((arena.add(&intervals, |_, _| {}).unwrap(), intervals));
        }
        let arena = &arena.programs;
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
    fn places_that_no_program_has_admit_nobody() {
        let mut arena = ProgramArena::default();
        let all: Vec<u32> =
            [1, 40, 90].iter().map(|&count| arena.add(&starts(count), |_, _| {}).unwrap()).collect();
        for number in (0..3 << PAGE_BITS).filter(|number| !all.contains(number)) {
            for key in [0, 1, 80, KEY_END - 1] {
                assert_eq!(arena.programs.find(number, key), None, "{number}");
            }
        }
    }

    fn starts(count: u32) -> Vec<(u32, RowRef)> {
        (0..count).map(|i| (i * 3, RowRef::EVERYBODY)).collect()
    }

    /// Blocks and pages are used again, and a copy of the arena keeps the programs that it was made with.
    #[test]
    fn what_is_given_back_is_used_again() {
        let intervals = |count: u32, row: u32| -> Vec<(u32, RowRef)> {
            (0..count).map(|i| (i * 3, RowRef(row + i))).collect()
        };
        let mut arena = ProgramArena::default();
        let mut pages = 0;
        for count in [1, 17, 40, 100, 5_000] {
            let first = arena.add(&intervals(count, 10), |_, _| pages += 1).unwrap();
            let before = arena.programs.clone();
            arena.remove(first);
            let known = pages;
            let second = arena.add(&intervals(count, 20), |_, _| pages += 1).unwrap();
            assert_eq!(second, first, "{count} intervals");
            assert!(count == 5_000 || known == pages);
            assert_eq!(before.find(first, 0), Some((0, RowRef(10))));
            assert_eq!(arena.programs.find(first, 0), Some((0, RowRef(20))));
        }
        assert_eq!(arena.words() % LINE, 0);
        // Most of a page is filled before the next is begun.
        let mut arena = ProgramArena::default();
        let all: Vec<u32> = (0..129).map(|n| arena.add(&intervals(1, n), |_, _| {}).unwrap()).collect();
        assert_eq!(all[128], 1 << PAGE_BITS);
        assert!(
            all.iter()
                .zip(0..)
                .all(|(program, row)| arena.programs.find(*program, 0) == Some((0, RowRef(row))))
        );
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

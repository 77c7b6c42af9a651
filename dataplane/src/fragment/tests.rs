//! Ranges and table against models that are as naive as can be: lists of bytes and lists of datagrams.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::ranges::{Fault, Ranges};
use super::*;
use crate::clock::Instant64;
use crate::drop_reason::DropReason;
use crate::flow::Tuple;

fn piece(start: u16, length: u16, more: bool) -> Fragment {
    Fragment::new(1, start, length.into(), more, 65_515).unwrap()
}

fn added(ranges: &mut Ranges, start: u16, length: u16, more: bool) -> Result<(), Fault> {
    ranges.add(&piece(start, length, more))
}

#[test]
fn bytes_in_any_order_make_a_whole() {
    let pieces = [(0, 16, true), (16, 16, true), (32, 8, true), (40, 3, false)];
    let orders =
        [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [2, 0, 3, 1], [3, 0, 1, 2], [1, 3, 0, 2], [2, 3, 0, 1]];
    for order in orders {
        let mut ranges = Ranges::default();
        for place in order {
            assert!(!ranges.is_complete());
            let (start, length, more) = pieces[place];
            assert_eq!(added(&mut ranges, start, length, more), Ok(()));
        }
        assert!(ranges.is_complete(), "{order:?}");
        for (start, length, more) in pieces {
            assert_eq!(added(&mut ranges, start, length, more), Err(Fault::Duplicate));
        }
    }
}

#[test]
fn what_does_not_fit_is_told_apart() {
    let mut ranges = Ranges::default();
    assert_eq!(added(&mut ranges, 16, 16, true), Ok(()));
    let before = ranges;
    assert_eq!(added(&mut ranges, 8, 16, true), Err(Fault::Overlap));
    assert_eq!(added(&mut ranges, 24, 16, true), Err(Fault::Overlap));
    assert_eq!(added(&mut ranges, 8, 32, true), Err(Fault::Overlap));
    assert_eq!(added(&mut ranges, 24, 8, true), Err(Fault::Duplicate), "a part of what came");
    assert_eq!(added(&mut ranges, 8, 8, false), Err(Fault::Length), "the end, and there is more behind");
    assert_eq!(ranges, before, "a fault leaves no trace");
    assert_eq!(added(&mut ranges, 40, 8, false), Ok(()));
    assert_eq!(added(&mut ranges, 40, 16, false), Err(Fault::Length), "another end");
    assert_eq!(added(&mut ranges, 48, 8, true), Err(Fault::Length), "behind the end");
    assert_eq!(added(&mut ranges, 40, 8, false), Err(Fault::Duplicate));
    assert_eq!(added(&mut ranges, 32, 8, true), Ok(()));
    assert_eq!(added(&mut ranges, 0, 16, true), Ok(()));
    assert!(ranges.is_complete());
}

#[test]
fn gaps_are_bounded() {
    let mut ranges = Ranges::default();
    for run in 0..RUNS as u16 {
        assert_eq!(added(&mut ranges, run * 16, 8, true), Ok(()));
    }
    assert_eq!(added(&mut ranges, RUNS as u16 * 16, 8, true), Err(Fault::Gaps));
    assert_eq!(added(&mut ranges, 8, 8, true), Ok(()), "what fills a gap has room");
    assert_eq!(added(&mut ranges, RUNS as u16 * 16, 8, true), Ok(()), "and makes some");
}

/// What came, byte by byte.
#[derive(Default)]
struct NaiveRanges {
    bytes: BTreeSet<u16>,
    total: Option<u16>,
}

impl NaiveRanges {
    fn runs(bytes: &BTreeSet<u16>) -> usize {
        bytes.iter().filter(|byte| **byte == 0 || !bytes.contains(&(**byte - 1))).count()
    }

    fn add(&mut self, fragment: &Fragment) -> Result<(), Fault> {
        let all: Vec<u16> = (fragment.start()..fragment.end()).collect();
        let furthest = self.bytes.last().map_or(0, |last| last + 1);
        if fragment.is_last()
            && (self.total.is_some_and(|total| total != fragment.end()) || fragment.end() < furthest)
        {
            return Err(Fault::Length);
        }
        if self.total.is_some_and(|total| fragment.end() > total) {
            return Err(Fault::Length);
        }
        let known = all.iter().filter(|byte| self.bytes.contains(byte)).count();
        if known == all.len() {
            return Err(Fault::Duplicate);
        }
        if known > 0 {
            return Err(Fault::Overlap);
        }
        let mut after = self.bytes.clone();
        after.extend(all);
        if Self::runs(&after) > RUNS {
            return Err(Fault::Gaps);
        }
        self.bytes = after;
        if fragment.is_last() {
            self.total = Some(fragment.end());
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.bytes.len() == usize::from(total))
    }
}

/// A fragment of a datagram of some 400 bytes; mostly one that can be.
fn any_piece() -> impl Strategy<Value = Fragment> {
    (0_u16..48, 1_u16..4, prop::bool::weighted(0.08), 0_u16..8).prop_map(|(start, eights, last, less)| {
        piece(start * 8, eights * 8 - if last { less } else { 0 }, !last)
    })
}

fn key(source: u8, identification: u32, port: u16) -> DatagramKey {
    DatagramKey {
        source: std::net::IpAddr::from([10, 0, 0, source]).into(),
        destination: std::net::IpAddr::from([10, 0, 1, 1]).into(),
        identification,
        protocol: 17,
        ingress: PortId(port),
    }
}

fn lead() -> Lead {
    let tuple = Tuple {
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 1, 1].into(),
        source_port: 1000,
        destination_port: 53,
        protocol: 17,
    };
    let (key, heading) = FlowKey::of_tuple(&tuple, crate::packet::Role::Any);
    Lead { key, heading }
}

fn at(milliseconds: u64) -> Instant64 {
    Instant64::from_nanos(milliseconds * 1_000_000)
}

fn table(limits: Limits) -> FragmentTable<u32> {
    FragmentTable::new(limits, [1, 2, 3, 4])
}

#[test]
fn early_ones_wait_and_leave_in_their_order() {
    let mut table = table(Limits::default());
    let key = key(1, 7, 2);
    for (number, start) in [(1, 32), (2, 16), (3, 48)] {
        let Arrival::Early(id) = table.arrive(&key, &piece(start, 16, start != 48), at(0)) else { panic!() };
        table.hold(id, number).unwrap();
    }
    assert_eq!((table.datagrams(), table.held()), (1, 3));
    let Arrival::First(id) = table.arrive(&key, &piece(0, 16, true), at(1)) else { panic!() };
    table.judged(id, Some(lead()));
    let released: Vec<u32> = std::iter::from_fn(|| table.release(id)).collect();
    assert_eq!(released, [1, 2, 3]);
    assert_eq!((table.datagrams(), table.held(), table.holders()), (0, 0, 0), "it was whole");
}

#[test]
fn later_ones_follow_and_the_entry_ends_with_the_last() {
    let mut table = table(Limits::default());
    let key = key(1, 7, 2);
    let Arrival::First(id) = table.arrive(&key, &piece(0, 16, true), at(0)) else { panic!() };
    table.judged(id, Some(lead()));
    assert_eq!(table.release(id), None);
    assert_eq!(table.arrive(&key, &piece(32, 5, false), at(1)), Arrival::Later(lead()));
    assert_eq!(
        table.arrive(&key, &piece(0, 16, true), at(1)),
        Arrival::Drop(DropReason::FragmentOverlap),
        "a copy goes alone"
    );
    assert_eq!(table.arrive(&key, &piece(16, 16, true), at(1)), Arrival::Later(lead()));
    assert_eq!((table.datagrams(), table.holders()), (0, 0));
}

#[test]
fn a_refused_first_one_takes_the_others_along() {
    let mut table = table(Limits::default());
    let key = key(1, 7, 2);
    let Arrival::Early(id) = table.arrive(&key, &piece(32, 5, false), at(0)) else { panic!() };
    table.hold(id, 1).unwrap();
    let Arrival::First(id) = table.arrive(&key, &piece(0, 16, true), at(0)) else { panic!() };
    table.judged(id, None);
    assert_eq!(table.release(id), Some(1));
    assert_eq!(table.release(id), None);
    assert_eq!(table.arrive(&key, &piece(16, 16, true), at(1)), Arrival::Drop(DropReason::Fragment));
    assert_eq!(table.datagrams(), 0);
}

#[test]
fn an_overlap_ends_the_datagram_for_good() {
    let mut table = table(Limits::default());
    let key = key(1, 7, 2);
    let Arrival::Early(id) = table.arrive(&key, &piece(8, 16, true), at(0)) else { panic!() };
    table.hold(id, 1).unwrap();
    let Arrival::End(id, DropReason::FragmentOverlap) = table.arrive(&key, &piece(0, 16, true), at(0)) else {
        panic!()
    };
    assert_eq!(table.release(id), Some(1));
    assert_eq!(table.release(id), None);
    for (start, more) in [(0, true), (24, false), (8, true)] {
        let arrival = table.arrive(&key, &piece(start, 8, more), at(1));
        assert_eq!(arrival, Arrival::Drop(DropReason::FragmentOverlap));
    }
    assert_eq!(table.age(at(3000)), Some(Aged::Datagram));
    assert!(
        matches!(table.arrive(&key, &piece(0, 16, true), at(3000)), Arrival::First(_)),
        "another datagram"
    );
}

#[test]
fn time_runs_from_the_first_that_came_and_the_oldest_goes_first() {
    let mut table = table(Limits::default());
    for (number, begin) in [(1, 0), (2, 1000)] {
        let key = key(1, number, 2);
        let Arrival::Early(id) = table.arrive(&key, &piece(8, 8, true), at(begin)) else { panic!() };
        table.hold(id, number).unwrap();
        let Arrival::Early(id) = table.arrive(&key, &piece(16, 8, true), at(2500)) else { panic!() };
        table.hold(id, number + 10).unwrap();
    }
    assert_eq!(table.age(at(2999)), None);
    let late = table.arrive(&key(1, 1, 2), &piece(0, 8, true), at(3000));
    assert_eq!(late, Arrival::Drop(DropReason::FragmentTimeout), "aging has not come to it");
    assert_eq!(table.age(at(3000)), Some(Aged::Fragment(1)));
    assert_eq!(table.age(at(3000)), Some(Aged::Fragment(11)));
    assert_eq!(table.age(at(3000)), Some(Aged::Datagram));
    assert_eq!(table.age(at(3000)), None);
    assert_eq!((table.datagrams(), table.held()), (1, 2));
    assert_eq!(table.into_held().collect::<BTreeSet<u32>>(), BTreeSet::from([2, 12]));
}

/// Datagrams, fragments that wait, and refused fragments of these ports.
fn charges<const N: usize>(table: &FragmentTable<u32>, ports: [u16; N]) -> [(usize, usize, u64); N] {
    ports.map(|port| {
        let charge = table.charges().of(PortId(port)).unwrap();
        (charge.datagrams() as usize, charge.held() as usize, charge.refused().count())
    })
}

#[test]
fn nobody_takes_it_all() {
    let limits = Limits { datagrams: 16, held: 8, held_per_source: 3, ..Limits::default() };
    let mut table = table(limits);
    let hold = |table: &mut FragmentTable<u32>, source, identification, port, start| match table.arrive(
        &key(source, identification, port),
        &piece(start, 8, true),
        at(0),
    ) {
        Arrival::Early(id) => {
            table.hold(id, 0).unwrap();
            None
        }
        Arrival::Drop(reason) => Some(reason),
        other => panic!("{other:?}"),
    };
    let (source, full) = (Some(DropReason::FragmentSourceLimit), Some(DropReason::FragmentTableFull));
    assert_eq!([1, 2, 3, 4].map(|id| hold(&mut table, 1, id, 5, 8)), [None, None, None, source]);
    assert_eq!(
        [1, 2, 3, 4].map(|id| hold(&mut table, 2, id, 5, 8)),
        [None, None, None, source],
        "port 5 has six"
    );
    assert_eq!(hold(&mut table, 3, 1, 5, 8), source, "three quarters of eight are one port's");
    assert_eq!([1, 2, 3].map(|id| hold(&mut table, 4, id, 6, 8)), [None, None, full]);
    assert_eq!(charges(&table, [5, 6, 8]), [(6, 6, 3), (2, 2, 1), (0, 0, 0)]);
    // First ones need no room among those that wait.
    let first = |table: &mut FragmentTable<u32>, source, id, port| match table.arrive(
        &key(source, id, port),
        &piece(0, 8, true),
        at(0),
    ) {
        Arrival::First(id) => {
            table.judged(id, None);
            None
        }
        Arrival::Drop(reason) => Some(reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [7, 8].map(|id| first(&mut table, 1, id, 5)),
        [None, source],
        "a quarter of sixteen is a source's"
    );
    let rest: Vec<_> = (10..16).map(|other| first(&mut table, other, 1, 5)).collect();
    assert_eq!(rest, [None, None, None, None, None, source], "port 5 has twelve");
    assert_eq!([1, 2, 3].map(|id| first(&mut table, 20, id, 7)), [None, None, full]);
    assert_eq!(table.datagrams(), 16);
    assert_eq!(charges(&table, [5, 6, 7]), [(12, 6, 5), (2, 2, 1), (2, 0, 1)]);
    while table.age(at(3000)).is_some() {}
    assert_eq!(charges(&table, [5, 6, 7]), [(0, 0, 5), (0, 0, 1), (0, 0, 1)]);
    assert_eq!(table.charges().of(PortId(6)).unwrap().refused().latest(), Some(at(0)));
    assert_eq!((table.datagrams(), table.held(), table.holders()), (0, 0, 0));
}

#[test]
fn one_datagram_makes_so_many_wait_and_no_more() {
    let mut table = table(Limits { held_per_source: 1000, held: 1000, ..Limits::default() });
    for number in 0..Limits::HELD_PER_DATAGRAM as u32 {
        let arrival = table.arrive(&key(1, 1, 1), &piece(8 + number as u16 * 8, 8, true), at(0));
        let Arrival::Early(id) = arrival else { panic!("{arrival:?}") };
        table.hold(id, number).unwrap();
    }
    let arrival = table.arrive(&key(1, 1, 1), &piece(8000, 8, true), at(0));
    assert_eq!(arrival, Arrival::Drop(DropReason::FragmentSourceLimit));
}

/// A datagram as a list of what came.
struct NaiveDatagram {
    key: DatagramKey,
    begun: u64,
    ranges: NaiveRanges,
    /// `None` while the first one has not come, then whether it was admitted.
    admitted: Option<bool>,
    ended: Option<DropReason>,
    waiting: Vec<u32>,
}

/// All datagrams, oldest first.
#[derive(Default)]
struct NaiveTable(Vec<NaiveDatagram>);

#[derive(Debug, PartialEq)]
enum Expected {
    First(Vec<u32>),
    Later,
    Early,
    Drop(DropReason),
    End(DropReason, Vec<u32>),
}

impl NaiveTable {
    fn held(&self, of: impl Fn(&DatagramKey) -> bool) -> usize {
        self.0.iter().filter(|datagram| of(&datagram.key)).map(|datagram| datagram.waiting.len()).sum()
    }

    fn arrive(
        &mut self,
        limits: &Limits,
        key: &DatagramKey,
        fragment: &Fragment,
        number: u32,
        admitted: bool,
        now: u64,
    ) -> Expected {
        let mut known = self.0.iter().position(|datagram| datagram.key == *key);
        if let Some(datagram) = known.map(|at| &self.0[at]) {
            if now - datagram.begun >= limits.timeout.as_millis() as u64 {
                return Expected::Drop(DropReason::FragmentTimeout);
            }
            if let Some(reason) = datagram.ended {
                return Expected::Drop(reason);
            }
        }
        let is_early = known.is_none_or(|at| self.0[at].admitted.is_none()) && !fragment.is_first();
        if is_early {
            if known.map_or(0, |at| self.0[at].waiting.len()) >= Limits::HELD_PER_DATAGRAM
                || self.held(|other| (other.ingress, other.source) == (key.ingress, key.source))
                    >= limits.held_per_source
                || self.held(|other| other.ingress == key.ingress) >= limits.held / 4 * 3
            {
                return Expected::Drop(DropReason::FragmentSourceLimit);
            }
            if self.held(|_| true) >= limits.held {
                return Expected::Drop(DropReason::FragmentTableFull);
            }
        }
        if known.is_none() {
            let count = |of: &dyn Fn(&DatagramKey) -> bool| self.0.iter().filter(|d| of(&d.key)).count();
            if count(&|other| (other.ingress, other.source) == (key.ingress, key.source))
                >= limits.datagrams / 4
                || count(&|other| other.ingress == key.ingress) >= limits.datagrams / 4 * 3
            {
                return Expected::Drop(DropReason::FragmentSourceLimit);
            }
            if self.0.len() >= limits.datagrams {
                return Expected::Drop(DropReason::FragmentTableFull);
            }
            known = Some(self.0.len());
            self.0.push(NaiveDatagram {
                key: *key,
                begun: now,
                ranges: NaiveRanges::default(),
                admitted: None,
                ended: None,
                waiting: Vec::new(),
            });
        }
        let at = known.unwrap();
        let datagram = &mut self.0[at];
        let end = |datagram: &mut NaiveDatagram, reason| {
            datagram.ended = Some(reason);
            Expected::End(reason, std::mem::take(&mut datagram.waiting))
        };
        match datagram.ranges.add(fragment) {
            Ok(()) => {}
            Err(Fault::Duplicate) => return Expected::Drop(DropReason::FragmentOverlap),
            Err(Fault::Gaps) => return Expected::Drop(DropReason::FragmentTableFull),
            Err(Fault::Overlap) => return end(datagram, DropReason::FragmentOverlap),
            Err(Fault::Length) => return end(datagram, DropReason::FragmentInvalid),
        }
        let expected = match datagram.admitted {
            None if fragment.is_first() => {
                datagram.admitted = Some(admitted);
                Expected::First(std::mem::take(&mut datagram.waiting))
            }
            None => {
                datagram.waiting.push(number);
                Expected::Early
            }
            Some(true) => Expected::Later,
            Some(false) => Expected::Drop(DropReason::Fragment),
        };
        if datagram.ranges.is_complete() {
            self.0.remove(at);
        }
        expected
    }
}

proptest! {
    #[test]
    fn ranges_are_what_the_bytes_say(pieces in prop::collection::vec(any_piece(), 1..60)) {
        let (mut ranges, mut naive) = (Ranges::default(), NaiveRanges::default());
        for piece in &pieces {
            prop_assert_eq!(ranges.add(piece), naive.add(piece), "{:?}", piece);
            prop_assert_eq!(ranges.is_complete(), naive.is_complete());
        }
    }

    #[test]
    fn the_table_is_what_the_lists_say(
        steps in prop::collection::vec(
            (1_u8..6, 0_u32..4, 0_u16..2, any_piece(), prop::bool::ANY, prop_oneof![4 => Just(0_u64), 1 => 1_u64..900]),
            1..300,
        ),
    ) {
        let limits = Limits { datagrams: 8, held: 12, held_per_source: 5, timeout: Duration::from_secs(1) };
        let (mut table, mut naive) = (table(limits), NaiveTable::default());
        let (mut now, mut refused) = (0, [0; 2]);
        for (number, (source, identification, port, piece, admitted, later)) in (0_u32..).zip(steps) {
            now += later;
            let key = key(source, identification, port);
            let expected = naive.arrive(&limits, &key, &piece, number, admitted, now);
            let all = |table: &mut FragmentTable<u32>, id| std::iter::from_fn(|| table.release(id)).collect();
            let found = match table.arrive(&key, &piece, at(now)) {
                Arrival::First(id) => {
                    table.judged(id, admitted.then(lead));
                    Expected::First(all(&mut table, id))
                }
                Arrival::Later(found) => {
                    prop_assert_eq!(found, lead());
                    Expected::Later
                }
                Arrival::Early(id) => {
                    prop_assert_eq!(table.hold(id, number), Ok(()));
                    Expected::Early
                }
                Arrival::Drop(reason) => Expected::Drop(reason),
                Arrival::End(id, reason) => Expected::End(reason, all(&mut table, id)),
            };
            prop_assert_eq!(&found, &expected, "step {}", number);
            if let Expected::Drop(DropReason::FragmentSourceLimit | DropReason::FragmentTableFull) = found {
                refused[usize::from(port)] += 1;
            }
            prop_assert_eq!(table.datagrams(), naive.0.len());
            prop_assert_eq!(table.held(), naive.held(|_| true));
            let by = |port| move |key: &DatagramKey| key.ingress == PortId(port);
            for port in 0..2 {
                let datagrams = naive.0.iter().filter(|datagram| by(port)(&datagram.key)).count();
                let [(found_datagrams, found_held, found_refused)] = charges(&table, [port]);
                prop_assert_eq!((found_datagrams, found_held), (datagrams, naive.held(by(port))));
                prop_assert_eq!(found_refused, refused[usize::from(port)]);
            }
            // A step of aging now and then, so that some time passes before it comes.
            if number % 3 == 0 {
                let over = naive.0.first().is_some_and(|oldest| now - oldest.begun >= 1000);
                let expected = match over {
                    false => None,
                    true if naive.0[0].waiting.is_empty() => {
                        naive.0.remove(0);
                        Some(Aged::Datagram)
                    }
                    true => Some(Aged::Fragment(naive.0[0].waiting.remove(0))),
                };
                prop_assert_eq!(table.age(at(now)), expected);
            }
        }
        while table.age(at(now + 1000)).is_some() {}
        prop_assert_eq!((table.datagrams(), table.held(), table.holders()), (0, 0, 0));
    }
}

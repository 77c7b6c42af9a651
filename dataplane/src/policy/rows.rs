//! Rows: which peers an interval admits.
//!
//! Every row is a bitset over atoms in one arena, so a pod costs one load and no branch on what kind of row it is: an
//! interval that admits no pod points to the zeros of row 0. What the kind in the reference adds is everybody, or address
//! ranges; which ones stands in the word before the bitset. A range set is a sorted list of boundaries, the first opening:
//! an address is inside if an odd number of boundaries is not above it. A pod is tested against the ranges too when its bit
//! is not set (an ipBlock matches pod addresses), but only where the compiler found the ranges to touch pod addresses.
//!
//! The arena is the one table that is written under the eyes of the workers: a row that no published program refers to, and
//! the bits of an atom that no published pod has, may be set in place. Nobody reads these words before a snapshot that
//! names them is published, and that publication orders the writes before the reads; so relaxed loads are enough, and
//! they cost what plain ones cost.
//!
//! What breaks if changed: a bit of an atom in use that is set in place admits packets under snapshots that deny them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::PolicyPeer;

/// A reference to a row, as it stands in a program: two bits of kind, 30 bits for the row's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef(pub(super) u32);

const KIND: u32 = 30;
pub(super) const PAYLOAD: u32 = (1 << KIND) - 1;
/// Pods of the bitset and nobody else.
const PODS: u32 = 0;
const EVERYBODY: u32 = 1;
/// Address ranges too.
const RANGED: u32 = 2;

impl RowRef {
    /// Admits no peer.
    pub const NOBODY: Self = Self(PODS << KIND);
    /// Admits every peer, outside addresses included.
    pub const EVERYBODY: Self = Self(EVERYBODY << KIND);

    pub(super) fn new(row: u32, ranged: bool) -> Self {
        Self(if ranged { RANGED } else { PODS } << KIND | row)
    }

    /// The number of the row.
    pub(super) fn row(self) -> usize {
        (self.0 & PAYLOAD) as usize
    }
}

/// In a row's first word: pod addresses are in the ranges too.
pub(super) const WITH_PODS: u64 = 1 << 63;

/// Boundaries of one range set. A row's first word names it by its place, flagged or not.
#[derive(Clone)]
pub(super) struct RangeSet {
    pub(super) v4: Arc<[u32]>,
    pub(super) v6: Arc<[u128]>,
}

/// Range sets of a page.
pub(super) const PAGE_RANGES: usize = 64;

/// Range sets by number, in pages that copies share.
#[derive(Clone, Default)]
pub(super) struct Ranges(pub(super) Arc<[Arc<[Option<RangeSet>]>]>);

impl Ranges {
    fn get(&self, set: usize) -> Option<&RangeSet> {
        self.0.get(set / PAGE_RANGES)?.get(set % PAGE_RANGES)?.as_ref()
    }
}

/// Words of all rows. Row 0 admits nobody.
pub(super) struct RowArena {
    words: Vec<AtomicU64>,
    /// Words of a row, the first included.
    stride: usize,
}

impl RowArena {
    /// For `rows` rows of `atoms` atoms.
    pub(super) fn new(rows: usize, atoms: usize) -> Self {
        let stride = 1 + atoms.div_ceil(64);
        Self { words: (0..rows.max(1) * stride).map(|_| AtomicU64::new(0)).collect(), stride }
    }

    pub(super) fn rows(&self) -> usize {
        self.words.len() / self.stride
    }

    pub(super) fn atoms(&self) -> usize {
        (self.stride - 1) * 64
    }

    /// Makes room for so many rows of so many atoms: in its place while nobody else has it, as when everything is compiled
    /// from nothing, or in another arena with the same rows.
    pub(super) fn make_room(arena: &mut Arc<Self>, rows: usize, atoms: usize) {
        match Arc::get_mut(arena) {
            Some(own) if atoms <= own.atoms() => {
                let more = (rows * own.stride).saturating_sub(own.words.len());
                own.words.reserve_exact(more);
                own.words.extend(std::iter::repeat_with(|| AtomicU64::new(0)).take(more));
            }
            _ => *arena = Arc::new(arena.grown(rows, atoms)),
        }
    }

    /// The same rows in a larger arena.
    fn grown(&self, rows: usize, atoms: usize) -> Self {
        let larger = Self::new(rows.max(self.rows()), atoms.max(self.atoms()));
        for (old, new) in self.words.chunks(self.stride).zip(larger.words.chunks(larger.stride)) {
            for (old, new) in old.iter().zip(new) {
                new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        larger
    }

    pub(super) fn row(&self, row: usize) -> &[AtomicU64] {
        self.words.get(row * self.stride..(row + 1) * self.stride).unwrap_or(&[])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.words.as_slice())
    }
}

/// What a verdict needs of rows.
#[derive(Clone)]
pub(super) struct Rows {
    pub(super) arena: Arc<RowArena>,
    pub(super) ranges: Ranges,
}

impl Rows {
    #[inline]
    pub(super) fn admits(&self, row: RowRef, peer: &PolicyPeer) -> bool {
        let (kind, number) = (row.0 >> KIND, row.row());
        let first = number * self.arena.stride;
        let word = |place: usize| self.arena.words.get(place).map_or(0, |word| word.load(Ordering::Relaxed));
        match peer.pod {
            Some(pod) => {
                let bits = word(first + 1 + (pod.atom / 64) as usize);
                // Without a short cut: whether the bit is set is what nobody can predict.
                let admitted = (bits >> (pod.atom % 64) & 1 != 0) | (kind == EVERYBODY);
                if kind != RANGED || admitted {
                    return admitted;
                }
                let ranges = word(first);
                ranges & WITH_PODS != 0 && self.in_ranges(ranges & !WITH_PODS, peer.address)
            }
            None if kind == RANGED => self.in_ranges(word(first) & !WITH_PODS, peer.address),
            None => kind == EVERYBODY,
        }
    }

    fn in_ranges(&self, set: u64, address: IpAddr) -> bool {
        let Some(set) = usize::try_from(set).ok().and_then(|set| self.ranges.get(set)) else { return false };
        match address {
            IpAddr::V4(address) => inside(&set.v4, address.to_bits()),
            IpAddr::V6(address) => inside(&set.v6, address.to_bits()),
        }
    }
}

#[inline]
fn inside<A: Ord + Copy>(boundaries: &[A], address: A) -> bool {
    boundaries.partition_point(|&boundary| boundary <= address) % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_inside_after_an_odd_number_of_boundaries() {
        let boundaries = [10u32, 20, 30, 40, u32::MAX];
        for (address, expected) in
            [(0, false), (9, false), (10, true), (19, true), (20, false), (30, true), (39, true), (40, false)]
        {
            assert_eq!(inside(&boundaries, address), expected, "{address}");
        }
        // A range up to the last address has no closing boundary.
        assert!(inside(&boundaries, u32::MAX));
        assert!(!inside(&[], 15u32));
    }

    #[test]
    fn a_larger_arena_has_the_same_rows() {
        let small = RowArena::new(3, 65);
        small.row(2)[2].store(5, Ordering::Relaxed);
        small.row(2)[0].store(9, Ordering::Relaxed);
        let mut large = Arc::new(small.grown(5, 1_000));
        assert!(large.rows() >= 5 && large.atoms() >= 1_000);
        for other in [None, Some(large.clone())] {
            let rows = large.rows() + 10;
            RowArena::make_room(&mut large, rows, 1_000);
            assert!(large.rows() >= rows && other.is_none_or(|other| other.rows() < rows));
        }
        let words: Vec<u64> = large.row(2).iter().take(4).map(|word| word.load(Ordering::Relaxed)).collect();
        assert_eq!(words, [9, 0, 5, 0]);
        assert!(large.row(large.rows()).is_empty());
    }
}

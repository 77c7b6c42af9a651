//! Rows: which peers an interval admits.
//!
//! A reference says what kind of row it is, so that most verdicts need no look at the row itself: nobody,
//! everybody, or the place of a bitset over atoms. Only rows with ipBlocks have an entry of their own. An address
//! range set is a sorted list of boundaries, the first opening: an address is inside if an odd number of
//! boundaries is not above it. A pod is tested against the ranges too when its bit is not set (an ipBlock matches
//! pod addresses), but only in rows that the compiler found to touch pod addresses.

use std::net::IpAddr;

use super::PolicyPeer;

/// A reference to a row, as it stands in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef(pub(super) u32);

const KIND: u32 = 30;
pub(super) const PAYLOAD: u32 = (1 << KIND) - 1;
/// Payload: 0 admits nobody, 1 everybody.
const CONSTANT: u32 = 0;
/// Payload: the bitset's first word.
const BITS: u32 = 1;
/// Payload: index of a [`RangedRow`] whose ranges hold no pod address.
const RANGED: u32 = 2;
/// Payload: index of a [`RangedRow`] whose ranges hold pod addresses too.
const RANGED_WITH_PODS: u32 = 3;

impl RowRef {
    /// Admits no peer.
    pub const NOBODY: Self = Self(0);
    /// Admits every peer, outside addresses included.
    pub const EVERYBODY: Self = Self(1);

    pub(super) fn bits(word: u32) -> Self {
        Self(BITS << KIND | word)
    }

    pub(super) fn ranged(index: u32, with_pods: bool) -> Self {
        Self((if with_pods { RANGED_WITH_PODS } else { RANGED }) << KIND | index)
    }
}

/// In place of a bitset's first word: no atom at all.
pub(super) const NO_BITS: u32 = u32::MAX;

/// A row with ipBlocks: positions in the arenas of bitsets and of boundaries.
#[derive(Clone, Copy)]
pub(super) struct RangedRow {
    pub(super) bits: u32,
    pub(super) v4_start: u32,
    pub(super) v4_end: u32,
    pub(super) v6_start: u32,
    pub(super) v6_end: u32,
}

#[derive(Default)]
pub(super) struct Rows {
    pub(super) bits: Box<[u64]>,
    pub(super) ranged: Box<[RangedRow]>,
    pub(super) v4: Box<[u32]>,
    pub(super) v6: Box<[u128]>,
    /// Rows of both kinds, for telling.
    pub(super) count: usize,
}

impl Rows {
    #[inline]
    pub(super) fn admits(&self, row: RowRef, peer: &PolicyPeer) -> bool {
        let payload = row.0 & PAYLOAD;
        match (row.0 >> KIND, peer.pod) {
            (CONSTANT, _) => payload == 1,
            (BITS, Some(pod)) => self.bit(payload, pod.atom),
            (BITS, None) => false,
            (kind, pod) => {
                self.ranged_admits(payload, kind == RANGED_WITH_PODS, pod.map(|p| p.atom), peer.address)
            }
        }
    }

    #[inline]
    fn bit(&self, first_word: u32, atom: u32) -> bool {
        let word = first_word as usize + (atom / 64) as usize;
        self.bits.get(word).is_some_and(|bits| bits >> (atom % 64) & 1 == 1)
    }

    fn ranged_admits(&self, index: u32, with_pods: bool, atom: Option<u32>, address: IpAddr) -> bool {
        let Some(row) = self.ranged.get(index as usize) else { return false };
        match atom {
            Some(atom) if row.bits != NO_BITS && self.bit(row.bits, atom) => true,
            Some(_) if !with_pods => false,
            _ => match address {
                IpAddr::V4(v4) => inside(&self.v4, row.v4_start, row.v4_end, v4.to_bits()),
                IpAddr::V6(v6) => inside(&self.v6, row.v6_start, row.v6_end, v6.to_bits()),
            },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.bits)
            + size_of_val(&*self.ranged)
            + size_of_val(&*self.v4)
            + size_of_val(&*self.v6)
    }
}

#[inline]
fn inside<A: Ord + Copy>(arena: &[A], start: u32, end: u32, address: A) -> bool {
    arena
        .get(start as usize..end as usize)
        .is_some_and(|boundaries| boundaries.partition_point(|&boundary| boundary <= address) % 2 == 1)
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
            assert_eq!(inside(&boundaries, 0, 5, address), expected, "{address}");
        }
        // A range up to the last address has no closing boundary.
        assert!(inside(&boundaries, 0, 5, u32::MAX));
        assert!(!inside(&boundaries, 0, 0, 15));
        assert!(!inside(&boundaries, 3, 99, 15), "a span that is not there holds nothing");
    }
}

//! Rows: which peers an interval admits.
//!
//! Every row begins with a bitset over atoms in one arena, so a pod costs one load and no branch on what kind of row
//! it is: an interval that admits no pod points to the zeros at the arena's start. What the kind in the reference
//! adds is everybody, or address ranges; their place stands in the two words before the bitset. A range set is a
//! sorted list of boundaries, the first opening: an address is inside if an odd number of boundaries is not above
//! it. A pod is tested against the ranges too when its bit is not set (an ipBlock matches pod addresses), but only
//! in rows that the compiler found to touch pod addresses.

use std::net::IpAddr;

use super::PolicyPeer;

/// A reference to a row, as it stands in a program: two bits of kind, 30 bits for the bitset's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef(pub(super) u32);

const KIND: u32 = 30;
pub(super) const PAYLOAD: u32 = (1 << KIND) - 1;
/// Pods of the bitset and nobody else.
const PODS: u32 = 0;
const EVERYBODY: u32 = 1;
/// The ranges hold no pod address.
const RANGED: u32 = 2;
/// The ranges hold pod addresses too.
const RANGED_WITH_PODS: u32 = 3;

impl RowRef {
    /// Admits no peer.
    pub const NOBODY: Self = Self(PODS << KIND);
    /// Admits every peer, outside addresses included.
    pub const EVERYBODY: Self = Self(EVERYBODY << KIND);

    pub(super) fn pods(bits: u32) -> Self {
        Self(PODS << KIND | bits)
    }

    pub(super) fn ranged(bits: u32, with_pods: bool) -> Self {
        Self((if with_pods { RANGED_WITH_PODS } else { RANGED }) << KIND | bits)
    }
}

/// Words before a ranged row's bitset: where its IPv4 and its IPv6 boundaries are.
pub(super) const RANGE_WORDS: usize = 2;

/// Start and end of a list of boundaries, as one word.
pub(super) fn pack_span((start, end): (u32, u32)) -> u64 {
    u64::from(start) << 32 | u64::from(end)
}

#[derive(Default)]
pub(super) struct Rows {
    /// Begins with one row of zeros.
    pub(super) bits: Box<[u64]>,
    pub(super) v4: Box<[u32]>,
    pub(super) v6: Box<[u128]>,
    /// Rows besides the constant ones, for telling.
    pub(super) count: usize,
}

impl Rows {
    #[inline]
    pub(super) fn admits(&self, row: RowRef, peer: &PolicyPeer) -> bool {
        let (kind, bits) = (row.0 >> KIND, (row.0 & PAYLOAD) as usize);
        let admitted = match peer.pod {
            Some(pod) => {
                let word = self.bits.get(bits + (pod.atom / 64) as usize).copied().unwrap_or(0);
                // Without a short cut: whether the bit is set is what nobody can predict.
                let admitted = (word >> (pod.atom % 64) & 1 != 0) | (kind == EVERYBODY);
                if kind != RANGED_WITH_PODS {
                    return admitted;
                }
                admitted
            }
            None if kind < RANGED => return kind == EVERYBODY,
            None => false,
        };
        admitted || self.in_ranges(bits, peer.address)
    }

    fn in_ranges(&self, bits: usize, address: IpAddr) -> bool {
        let Some(&[v4, v6]) = bits
            .checked_sub(RANGE_WORDS)
            .and_then(|start| self.bits.get(start..))
            .and_then(|words| words.first_chunk::<RANGE_WORDS>())
        else {
            return false;
        };
        match address {
            IpAddr::V4(address) => inside(&self.v4, v4, address.to_bits()),
            IpAddr::V6(address) => inside(&self.v6, v6, address.to_bits()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.bits) + size_of_val(&*self.v4) + size_of_val(&*self.v6)
    }
}

#[inline]
fn inside<A: Ord + Copy>(arena: &[A], span: u64, address: A) -> bool {
    arena
        .get((span >> 32) as usize..(span & u64::from(u32::MAX)) as usize)
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
            assert_eq!(inside(&boundaries, pack_span((0, 5)), address), expected, "{address}");
        }
        // A range up to the last address has no closing boundary.
        assert!(inside(&boundaries, pack_span((0, 5)), u32::MAX));
        assert!(!inside(&boundaries, pack_span((0, 0)), 15));
        assert!(!inside(&boundaries, pack_span((3, 99)), 15), "a span that is not there holds nothing");
    }
}

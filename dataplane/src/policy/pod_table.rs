//! Address to pod: one open-addressing table per address family.
//!
//! A slot holds the address and everything the verdict needs, so a hit costs one cache line: 16 bytes with an
//! IPv4 address, 32 with an IPv6 one. The load is at most one half and slots are probed in sequence, so a search
//! ends within the line nearly always, and always ends: half of the slots are empty. The hash is keyed, because
//! outside addresses are looked up here too and a flood of chosen ones must not find the long runs.

use std::net::IpAddr;

use super::PodSlot;

/// Key of the tables' hash; secret, per process.
#[derive(Clone, Copy)]
pub struct HashSeed(u64, u64);

impl HashSeed {
    /// Any two numbers make a key.
    #[must_use]
    pub fn new(first: u64, second: u64) -> Self {
        // Odd, so that multiplying by it loses nothing.
        Self(first | 1, second)
    }
}

/// A pod address's position in the tables, IPv4 slots first: the index for arrays of [`super::PolicyTables::slots`]
/// elements. Good for the tables it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIndex(u32);

impl PodIndex {
    pub(super) fn new(position: usize) -> Self {
        // The builder bounds the tables far below.
        Self(u32::try_from(position).unwrap_or(u32::MAX))
    }

    /// The index.
    #[inline]
    #[must_use]
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

/// An address as the tables keep it.
pub(super) trait Address: Copy + Eq {
    const ZERO: Self;
    fn hash(self, seed: HashSeed) -> u64;
    fn to_ip(self) -> IpAddr;
}

impl Address for u32 {
    const ZERO: Self = 0;

    /// Multiply-shift: the top bits of a product with a random odd number, universal over the choice of the number.
    #[inline]
    fn hash(self, seed: HashSeed) -> u64 {
        seed.0.wrapping_mul(u64::from(self)).wrapping_add(seed.1)
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Address for u128 {
    const ZERO: Self = 0;

    /// The halves of the address, keyed, multiplied and folded, then as for IPv4.
    #[inline]
    fn hash(self, seed: HashSeed) -> u64 {
        let product = u128::from(self as u64 ^ seed.1) * u128::from((self >> 64) as u64 ^ seed.0);
        seed.0.wrapping_mul(product as u64 ^ (product >> 64) as u64)
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}

/// Marks an empty slot; no pod has this atom.
pub(super) const NO_ATOM: u32 = u32::MAX;
const EMPTY: PodSlot = PodSlot { atom: NO_ATOM, ingress_program: 0, egress_program: 0 };

#[derive(Clone, Copy)]
struct Entry<A> {
    address: A,
    pod: PodSlot,
}

const _: () = assert!(size_of::<Entry<u32>>() == 16 && size_of::<Entry<u128>>() == 32);

pub(super) struct AddressTable<A> {
    /// A power of two, at least twice the pods.
    entries: Box<[Entry<A>]>,
    seed: HashSeed,
    shift: u32,
}

impl<A: Address> AddressTable<A> {
    pub(super) fn empty() -> Self {
        Self { entries: Box::default(), seed: HashSeed::new(0, 0), shift: 63 }
    }

    /// # Errors
    /// The address that two pods have.
    pub(super) fn build(pods: &[(A, PodSlot)], seed: HashSeed) -> Result<Self, IpAddr> {
        if pods.is_empty() {
            return Ok(Self::empty());
        }
        let len = (pods.len() * 2).next_power_of_two();
        let entries = vec![Entry { address: A::ZERO, pod: EMPTY }; len].into_boxed_slice();
        let mut table = Self { entries, seed, shift: 64 - len.trailing_zeros() };
        for &(address, pod) in pods {
            let mut position = table.first_position(address);
            while let Some(entry) = table.entries.get_mut(position) {
                if entry.pod.atom == NO_ATOM {
                    *entry = Entry { address, pod };
                    break;
                }
                if entry.address == address {
                    return Err(address.to_ip());
                }
                position = (position + 1) & (len - 1);
            }
        }
        Ok(table)
    }

    #[inline]
    fn first_position(&self, address: A) -> usize {
        (address.hash(self.seed) >> self.shift) as usize
    }

    #[inline]
    pub(super) fn lookup(&self, address: A) -> Option<(usize, PodSlot)> {
        let mask = self.entries.len().wrapping_sub(1);
        let mut position = self.first_position(address);
        // Ends: there is an empty slot, and an empty table has no first entry.
        loop {
            let entry = self.entries.get(position & mask)?;
            if entry.pod.atom == NO_ATOM {
                return None;
            }
            if entry.address == address {
                return Some((position & mask, entry.pod));
            }
            position += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(atom: u32) -> PodSlot {
        PodSlot { atom, ingress_program: atom, egress_program: atom }
    }

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        for n in [0u32, 1, 2, 3, 250, 4_096] {
            let pods: Vec<(u32, PodSlot)> = (0..n).map(|i| (0x0af4_0000 + i * 3, slot(i))).collect();
            let table = AddressTable::build(&pods, HashSeed::new(0x9e37_79b9_7f4a_7c15, 7)).unwrap();
            assert!(n == 0 || table.len() >= 2 * n as usize);
            let mut seen = std::collections::BTreeSet::new();
            for &(address, pod) in &pods {
                let (position, found) = table.lookup(address).unwrap();
                assert_eq!(found, pod);
                assert!(position < table.len() && seen.insert(position));
                assert!(table.lookup(address + 1).is_none());
            }
            assert!(table.lookup(0).is_none());
        }
    }

    #[test]
    fn zero_and_all_ones_are_addresses_like_others() {
        let pods = [(0u128, slot(1)), (u128::MAX, slot(2))];
        let table = AddressTable::build(&pods, HashSeed::new(3, 5)).unwrap();
        assert_eq!(table.lookup(0).unwrap().1, slot(1));
        assert_eq!(table.lookup(u128::MAX).unwrap().1, slot(2));
        assert!(table.lookup(1).is_none());
    }

    #[test]
    fn an_address_of_two_pods_is_refused() {
        let pods = [(7u32, slot(1)), (7, slot(2))];
        assert_eq!(AddressTable::build(&pods, HashSeed::new(3, 5)).err(), Some("0.0.0.7".parse().unwrap()));
    }
}

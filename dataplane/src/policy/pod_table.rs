//! Address to pod: one open-addressing table per address family.
//!
//! A slot holds the address and everything the verdict needs, so a hit costs one cache line: 16 bytes with an
//! IPv4 address, 32 with an IPv6 one. Who the pod is and how to reach it lies in a parallel array. The load is at most
//! one half and slots are probed in sequence, so a search ends within the line nearly always, and always ends: half of
//! the slots are empty. A removed entry leaves no mark: those behind it move up. The hash is keyed, because outside
//! addresses are looked up here too and a flood of chosen ones must not find the long runs.

use super::paged::{PAGE, Paged};
use super::{Delivery, PodSlot};

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

/// A pod address's position in the tables, IPv4 slots first. Good for the tables it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIndex(u32);

impl PodIndex {
    pub(super) fn new(position: usize) -> Self {
        // The writer bounds the tables far below.
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
}

impl Address for u32 {
    const ZERO: Self = 0;

    /// Multiply-shift: the top bits of a product with a random odd number, universal over the choice of the number.
    #[inline]
    fn hash(self, seed: HashSeed) -> u64 {
        seed.0.wrapping_mul(u64::from(self)).wrapping_add(seed.1)
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

#[derive(Clone)]
pub(super) struct AddressTable<A> {
    /// A power of two, at least twice the pods.
    entries: Paged<Entry<A>>,
    deliveries: Paged<Delivery>,
    pods: usize,
    seed: HashSeed,
    shift: u32,
}

impl<A: Address> AddressTable<A> {
    /// For up to half of `slots` pods, a power of two of at least one page.
    fn with_slots(slots: usize, seed: HashSeed) -> Self {
        Self {
            entries: Paged::filled(Entry { address: A::ZERO, pod: EMPTY }, slots),
            deliveries: Paged::filled(Delivery::default(), slots),
            pods: 0,
            seed,
            shift: 64 - slots.trailing_zeros(),
        }
    }

    pub(super) fn new(seed: HashSeed) -> Self {
        Self::with_slots(PAGE, seed)
    }

    #[inline]
    fn first_position(&self, address: A) -> usize {
        (address.hash(self.seed) >> self.shift) as usize
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    #[inline]
    pub(super) fn lookup(&self, address: A) -> Option<(usize, PodSlot)> {
        let mask = self.entries.len().wrapping_sub(1);
        let mut position = self.first_position(address);
        // Ends: half of the slots are empty.
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

    #[inline]
    pub(super) fn delivery(&self, position: usize) -> Option<Delivery> {
        self.deliveries.get(position).copied()
    }

    /// Sets what is known of an address; says whether it is new.
    pub(super) fn set(&mut self, address: A, pod: PodSlot, delivery: Delivery) -> bool {
        let mask = self.mask();
        let mut position = self.first_position(address);
        let new = loop {
            match self.entries.get(position) {
                Some(entry) if entry.pod.atom == NO_ATOM => break true,
                Some(entry) if entry.address == address => break false,
                Some(_) => position = (position + 1) & mask,
                // Not reached: the first position and the mask keep to the table.
                None => return false,
            }
        };
        if new && (self.pods + 1) * 2 > self.entries.len() {
            self.grow();
            return self.set(address, pod, delivery);
        }
        // Pages that say so already stay shared.
        let differs = new || self.entries.get(position).is_some_and(|entry| entry.pod != pod);
        if differs && let Some(entry) = self.entries.get_mut(position) {
            *entry = Entry { address, pod };
        }
        self.set_delivery(position, delivery);
        self.pods += usize::from(new);
        new
    }

    pub(super) fn set_delivery(&mut self, position: usize, delivery: Delivery) {
        if self.deliveries.get(position).is_some_and(|before| *before != delivery)
            && let Some(place) = self.deliveries.get_mut(position)
        {
            *place = delivery;
        }
    }

    /// Forgets an address; says whether it was there.
    pub(super) fn remove(&mut self, address: A) -> bool {
        let mask = self.mask();
        let Some((mut hole, _)) = self.lookup(address) else { return false };
        // Whoever stands behind the hole and would be looked for at or before it moves up.
        let mut position = hole;
        loop {
            position = (position + 1) & mask;
            let Some(&entry) = self.entries.get(position) else { return false };
            if entry.pod.atom == NO_ATOM {
                break;
            }
            let first = self.first_position(entry.address);
            if (position.wrapping_sub(first) & mask) >= (position.wrapping_sub(hole) & mask) {
                let delivery = self.delivery(position).unwrap_or_default();
                if let Some(place) = self.entries.get_mut(hole) {
                    *place = entry;
                }
                self.set_delivery(hole, delivery);
                hole = position;
            }
        }
        if let Some(place) = self.entries.get_mut(hole) {
            *place = Entry { address: A::ZERO, pod: EMPTY };
        }
        self.set_delivery(hole, Delivery::default());
        self.pods -= 1;
        true
    }

    fn grow(&mut self) {
        let mut larger = Self::with_slots(self.entries.len() * 2, self.seed);
        for position in 0..self.entries.len() {
            if let Some(entry) = self.entries.get(position)
                && entry.pod.atom != NO_ATOM
            {
                larger.set(entry.address, entry.pod, self.delivery(position).unwrap_or_default());
            }
        }
        *self = larger;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn pods(&self) -> usize {
        self.pods
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes() + self.deliveries.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::packet::PortId;

    fn slot(atom: u32) -> PodSlot {
        PodSlot { atom, ingress_program: atom, egress_program: atom }
    }

    fn delivery(identity: u32) -> Delivery {
        Delivery { identity, port: Some(PortId(7)) }
    }

    /// Pods come, change and go in an order that a small generator gives, against a map; older copies keep what they were.
    #[test]
    fn a_table_is_a_map_at_every_moment() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut table = AddressTable::<u32>::new(HashSeed::new(0x9e37_79b9_7f4a_7c15, 7));
        let mut known = BTreeMap::new();
        let mut copies = Vec::new();
        for step in 0..20_000u32 {
            let range = if step < 10_000 { 4_000 } else { 400 };
            let address = 0x0af4_0000 + next(range) as u32 * 3;
            if next(3) > 0 {
                let new = table.set(address, slot(step), delivery(step));
                assert_eq!(new, known.insert(address, step).is_none());
            } else {
                assert_eq!(table.remove(address), known.remove(&address).is_some());
            }
            if step % 4_000 == 0 {
                copies.push((table.clone(), known.clone()));
            }
        }
        copies.push((table, known));
        for (table, known) in copies {
            assert!(table.len() >= 2 * known.len() && table.pods() == known.len());
            for address in (0..4_000).map(|n| 0x0af4_0000 + n * 3) {
                let found = table.lookup(address);
                assert_eq!(found.map(|(_, pod)| pod), known.get(&address).map(|step| slot(*step)));
                if let Some((position, pod)) = found {
                    assert_eq!(table.delivery(position), Some(delivery(pod.atom)));
                }
                assert!(table.lookup(address + 1).is_none());
            }
        }
    }

    #[test]
    fn zero_and_all_ones_are_addresses_like_others() {
        let mut table = AddressTable::<u128>::new(HashSeed::new(3, 5));
        assert!(table.lookup(0).is_none());
        table.set(0, slot(1), delivery(1));
        table.set(u128::MAX, slot(2), delivery(2));
        assert_eq!(table.lookup(0).unwrap().1, slot(1));
        assert_eq!(table.lookup(u128::MAX).unwrap().1, slot(2));
        assert!(table.lookup(1).is_none());
        assert!(table.remove(0) && !table.remove(0));
    }
}

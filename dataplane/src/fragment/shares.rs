//! How many of something each source and each port has, and how many it may have.
//!
//! A pod sends from its own addresses alone. Behind an uplink anybody writes any source into a packet, so what comes by one
//! port is limited as a whole too: a flood from outside leaves room for what pods send to each other. And a source counts for
//! each port apart: whoever gets packets with a pod's address into the host stack does not use up what is the pod's.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashTable;

use super::DatagramKey;
use crate::packet::PortId;

/// Who is held against a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Source(PortId, IpAddr),
    Port(PortId),
}

/// What everybody has of one thing.
pub(super) struct Shares {
    taken: HashTable<(Holder, u32)>,
    hasher: RandomState,
    per_source: u32,
    per_port: u32,
}

impl Shares {
    /// Of `count` things, of which one source may have `per_source` and one port three quarters. Allocates here and never
    /// again.
    pub fn new(count: usize, per_source: usize, hasher: RandomState) -> Self {
        let most = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX).max(1);
        Self {
            // Two holders each; and twice that, so that a table full of the marks of removed entries is cleaned in place.
            taken: HashTable::with_capacity(4 * count),
            hasher,
            per_source: most(per_source),
            per_port: most(count / 4 * 3 + count % 4),
        }
    }

    fn holders(&self, key: &DatagramKey) -> [(Holder, u32); 2] {
        [
            (Holder::Source(key.ingress, key.source), self.per_source),
            (Holder::Port(key.ingress), self.per_port),
        ]
    }

    /// May the source of these fragments, and their port, have one more?
    pub fn has_room(&self, key: &DatagramKey) -> bool {
        self.holders(key).into_iter().all(|(holder, most)| {
            let found = self.taken.find(self.hasher.hash_one(holder), |(other, _)| *other == holder);
            found.is_none_or(|(_, has)| *has < most)
        })
    }

    /// They have one more.
    pub fn take(&mut self, key: &DatagramKey) {
        for (holder, _) in self.holders(key) {
            let hasher = &self.hasher;
            let rehash = |(other, _): &(Holder, u32)| hasher.hash_one(other);
            let entry = self.taken.entry(hasher.hash_one(holder), |(other, _)| *other == holder, rehash);
            entry.or_insert((holder, 0)).into_mut().1 += 1;
        }
    }

    /// They have one less.
    pub fn give_back(&mut self, key: &DatagramKey) {
        for (holder, _) in self.holders(key) {
            let hash = self.hasher.hash_one(holder);
            let Ok(mut entry) = self.taken.find_entry(hash, |(other, _)| *other == holder) else { continue };
            let has = &mut entry.get_mut().1;
            *has = has.saturating_sub(1);
            if *has == 0 {
                entry.remove();
            }
        }
    }

    /// How many sources and ports have some.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.taken.len()
    }
}

//! How many of something each source and each port has, and how many it may have.
//!
//! A pod sends from its own addresses alone. Behind an uplink anybody writes any source into a packet, so what comes by one
//! port is limited as a whole too: a flood from outside leaves room for what pods send to each other. And a source counts for
//! each port apart: whoever gets packets with a pod's address into the host stack does not use up what is the pod's.

use crate::address::Address;

use ahash::RandomState;
use hashbrown::HashTable;

use super::{DatagramKey, Limits};
use crate::by_port::{ByPort, Events, Taken};
use crate::clock::Instant64;
use crate::packet::PortId;

/// What came by a port and is in one worker's table of fragments, as others may read it at any time.
#[derive(Debug, Default)]
pub struct Charge {
    datagrams: Taken,
    held: Taken,
    refused: Events,
}

impl Charge {
    /// Datagrams of which some fragments are missing, now.
    #[must_use]
    pub fn datagrams(&self) -> u32 {
        self.datagrams.get()
    }

    /// Fragments that wait for the first one of their datagram, now.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held.get()
    }

    /// Fragments that found no room: those dropped as `fragment_source_limit` or `fragment_table_full`.
    #[must_use]
    pub fn refused(&self) -> &Events {
        &self.refused
    }

    pub(super) fn of_datagrams(&self) -> &Taken {
        &self.datagrams
    }

    pub(super) fn of_held(&self) -> &Taken {
        &self.held
    }

    pub(super) fn count_refused(&self, now: Instant64) {
        self.refused.add(now);
    }
}

/// The charges of all ports.
pub type Charges = ByPort<Charge>;

/// Which number of a charge shares are of.
type Of = fn(&Charge) -> &Taken;

/// A source at a port.
type Source = (PortId, Address);

/// What everybody has of one thing.
pub(super) struct Shares {
    sources: HashTable<(Source, u32)>,
    ports: (Charges, Of),
    hasher: RandomState,
    per_source: u32,
    per_port: u32,
}

impl Shares {
    /// Of `count` things, of which one source may have `per_source`. What ports have is written to `ports`. Allocates here
    /// and never again.
    pub fn new(count: usize, per_source: usize, ports: (Charges, Of), hasher: RandomState) -> Self {
        let most = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX).max(1);
        Self {
            // Twice the room: then a table full of the marks of removed entries is cleaned in place.
            sources: HashTable::with_capacity(2 * count),
            ports,
            hasher,
            per_source: most(per_source),
            per_port: most(Limits::per_port(count)),
        }
    }

    fn of_port(&self, port: PortId) -> Option<&Taken> {
        let (charges, of) = &self.ports;
        charges.of(port).map(of)
    }

    /// May the source of these fragments, and their port, have one more?
    pub fn has_room(&self, key: &DatagramKey) -> bool {
        let source = source(key);
        let found = self.sources.find(self.hasher.hash_one(source), |(other, _)| *other == source);
        found.is_none_or(|(_, has)| *has < self.per_source)
            && self.of_port(key.ingress).is_none_or(|has| has.get() < self.per_port)
    }

    /// They have one more.
    pub fn take(&mut self, key: &DatagramKey) {
        let (source, hasher) = (source(key), &self.hasher);
        let rehash = |(other, _): &(Source, u32)| hasher.hash_one(other);
        let entry = self.sources.entry(hasher.hash_one(source), |(other, _)| *other == source, rehash);
        entry.or_insert((source, 0)).into_mut().1 += 1;
        if let Some(has) = self.of_port(key.ingress) {
            has.change(1);
        }
    }

    /// They have one less.
    pub fn give_back(&mut self, key: &DatagramKey) {
        if let Some(has) = self.of_port(key.ingress) {
            has.change(-1);
        }
        let source = source(key);
        let hash = self.hasher.hash_one(source);
        let Ok(mut entry) = self.sources.find_entry(hash, |(other, _)| *other == source) else { return };
        let has = &mut entry.get_mut().1;
        *has = has.saturating_sub(1);
        if *has == 0 {
            entry.remove();
        }
    }

    /// How many sources and ports have some.
    #[cfg(test)]
    pub fn holders(&self) -> usize {
        let (charges, of) = &self.ports;
        self.sources.len() + charges.iter().filter(|charge| of(charge).get() > 0).count()
    }
}

fn source(key: &DatagramKey) -> Source {
    (key.ingress, key.source)
}

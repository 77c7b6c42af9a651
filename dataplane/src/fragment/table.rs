//! The table of datagrams, and of the fragments that wait.

#![deny(clippy::indexing_slicing)]

use ahash::RandomState;
use hashbrown::HashTable;

use super::places::Places;
use super::ranges::{Fault, Ranges};
use super::shares::{Charge, Charges, Shares};
use super::{DatagramKey, Lead, Limits};
use crate::clock::Instant64;
use crate::drop_reason::DropReason;
use crate::packet::Fragment;

/// A datagram's entry. Good until the next fragment arrives or a turn's aging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramId(u32);

/// What is to be done with a fragment that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is the first one: judge it, say so ([`FragmentTable::judged`]), and [release](FragmentTable::release) what waits.
    First(DatagramId),
    /// It goes the way of the first one.
    Later(Lead),
    /// The first one has not come: [hold](FragmentTable::hold) it.
    Early(DatagramId),
    /// Drop it for this reason.
    Drop(DropReason),
    /// Drop it for this reason, and what waits of its datagram, which ends here, too.
    End(DatagramId, DropReason),
}

/// What became of a datagram's first fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not come, or is being judged.
    Waiting,
    /// It was admitted.
    Admitted(Lead),
    /// It was not.
    Refused,
    /// The datagram came to an end because its fragments do not fit each other.
    Ended(DropReason),
}

struct Datagram {
    key: DatagramKey,
    begun: Instant64,
    ranges: Ranges,
    state: State,
    /// Places of those that wait: the first to be released and the last.
    waiting: Option<(u32, u32)>,
    waiting_count: usize,
}

struct Held<P> {
    packet: P,
    /// The next one of the same datagram.
    next: Option<u32>,
}

/// The datagrams in fragments of one worker. `P` is what is held: a packet.
pub struct FragmentTable<P> {
    index: HashTable<u32>,
    datagrams: Places<Datagram>,
    held: Places<Held<P>>,
    datagram_shares: Shares,
    held_shares: Shares,
    charges: Charges,
    hasher: RandomState,
    limits: Limits,
}

impl<P> FragmentTable<P> {
    /// An empty table, keyed with `seed`. All memory is allocated here.
    #[must_use]
    pub fn new(limits: Limits, [a, b, c, d]: [u64; 4]) -> Self {
        let hasher = RandomState::with_seeds(a, b, c, d);
        let charges = Charges::new();
        let shares =
            |count, per_source, of| Shares::new(count, per_source, (charges.clone(), of), hasher.clone());
        Self {
            // Twice the room: then a table full of the marks of removed entries is cleaned in place.
            index: HashTable::with_capacity(2 * limits.datagrams),
            datagrams: Places::new(limits.datagrams),
            held: Places::new(limits.held),
            datagram_shares: shares(limits.datagrams, limits.datagrams_per_source(), Charge::of_datagrams),
            held_shares: shares(limits.held, limits.held_per_source, Charge::of_held),
            charges,
            hasher,
            limits,
        }
    }

    /// Datagrams now.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.datagrams.len()
    }

    /// Fragments that wait now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What each port has in it: the same numbers for as long as the table lives, to be read from anywhere.
    #[must_use]
    pub fn charges(&self) -> &Charges {
        &self.charges
    }

    /// Takes down a fragment, and says what is to be done with it.
    pub fn arrive(&mut self, key: &DatagramKey, fragment: &Fragment, now: Instant64) -> Arrival {
        let arrival = self.take_down(key, fragment, now);
        if let Arrival::Drop(DropReason::FragmentSourceLimit | DropReason::FragmentTableFull) = arrival {
            self.refuse(key, now);
        }
        arrival
    }

    /// Counts a fragment for which there is no room, whatever it would come to.
    pub fn refuse(&self, key: &DatagramKey, now: Instant64) {
        if let Some(charge) = self.charges.of(key.ingress) {
            charge.count_refused(now);
        }
    }

    fn take_down(&mut self, key: &DatagramKey, fragment: &Fragment, now: Instant64) -> Arrival {
        let known = self.find(key);
        let state = match known.and_then(|at| self.datagrams.get(at)) {
            // Aging has not come to it yet.
            Some(datagram) if self.is_over(datagram, now) => {
                return Arrival::Drop(DropReason::FragmentTimeout);
            }
            Some(Datagram { state: State::Ended(reason), .. }) => return Arrival::Drop(*reason),
            Some(datagram) => datagram.state,
            None => State::Waiting,
        };
        // Before anything is taken down: bytes that do not pass have not come.
        if state == State::Waiting
            && !fragment.is_first()
            && let Err(reason) = self.may_hold(key, known)
        {
            return Arrival::Drop(reason);
        }
        let at = match known.map_or_else(|| self.begin(key, now), Ok) {
            Ok(at) => at,
            Err(reason) => return Arrival::Drop(reason),
        };
        let Some(datagram) = self.datagrams.get_mut(at) else {
            return Arrival::Drop(DropReason::FragmentTableFull);
        };
        match datagram.ranges.add(fragment) {
            Ok(()) => {}
            Err(Fault::Duplicate) => return Arrival::Drop(DropReason::FragmentOverlap),
            Err(Fault::Gaps) => return Arrival::Drop(DropReason::FragmentTableFull),
            Err(fault @ (Fault::Overlap | Fault::Length)) => {
                let reason = match fault {
                    Fault::Length => DropReason::FragmentInvalid,
                    _ => DropReason::FragmentOverlap,
                };
                datagram.state = State::Ended(reason);
                return Arrival::End(DatagramId(at), reason);
            }
        }
        let is_complete = datagram.ranges.is_complete();
        match state {
            State::Waiting if fragment.is_first() => return Arrival::First(DatagramId(at)),
            State::Waiting => return Arrival::Early(DatagramId(at)),
            _ => {}
        }
        if is_complete {
            self.end(at);
        }
        match state {
            State::Admitted(lead) => Arrival::Later(lead),
            _ => Arrival::Drop(DropReason::Fragment),
        }
    }

    /// Would a fragment have to wait for the first one of its datagram? Takes nothing down.
    pub fn is_early(&self, key: &DatagramKey, fragment: &Fragment) -> bool {
        let known = self.find(key).and_then(|at| self.datagrams.get(at));
        !fragment.is_first() && known.is_none_or(|datagram| datagram.state == State::Waiting)
    }

    /// Is there room for one more fragment that waits?
    fn may_hold(&self, key: &DatagramKey, known: Option<u32>) -> Result<(), DropReason> {
        let waiting =
            known.and_then(|at| self.datagrams.get(at)).map_or(0, |datagram| datagram.waiting_count);
        if waiting >= Limits::HELD_PER_DATAGRAM || !self.held_shares.has_room(key) {
            return Err(DropReason::FragmentSourceLimit);
        }
        if self.held.is_full() {
            return Err(DropReason::FragmentTableFull);
        }
        Ok(())
    }

    /// Makes the entry of a datagram.
    fn begin(&mut self, key: &DatagramKey, now: Instant64) -> Result<u32, DropReason> {
        if !self.datagram_shares.has_room(key) {
            return Err(DropReason::FragmentSourceLimit);
        }
        let datagram = Datagram {
            key: *key,
            begun: now,
            ranges: Ranges::default(),
            state: State::Waiting,
            waiting: None,
            waiting_count: 0,
        };
        let at = self.datagrams.insert(datagram).map_err(|_| DropReason::FragmentTableFull)?;
        let (datagrams, hasher) = (&self.datagrams, &self.hasher);
        let rehash = |at: &u32| datagrams.get(*at).map_or(0, |datagram| hasher.hash_one(datagram.key));
        self.index.insert_unique(hasher.hash_one(key), at, rehash);
        self.datagram_shares.take(key);
        Ok(at)
    }

    /// Holds an [early](Arrival::Early) fragment.
    ///
    /// # Errors
    /// It comes back if there is no room after all, or no such datagram: never directly after its arrival.
    pub fn hold(&mut self, DatagramId(at): DatagramId, packet: P) -> Result<(), P> {
        let Some(datagram) = self.datagrams.get_mut(at) else { return Err(packet) };
        let place = match self.held.insert(Held { packet, next: None }) {
            Ok(place) => place,
            Err(back) => return Err(back.packet),
        };
        datagram.waiting = match datagram.waiting {
            Some((first, last)) => {
                if let Some(last) = self.held.get_mut(last) {
                    last.next = Some(place);
                }
                Some((first, place))
            }
            None => Some((place, place)),
        };
        datagram.waiting_count += 1;
        self.held_shares.take(&datagram.key);
        Ok(())
    }

    /// Remembers what became of a [first](Arrival::First) fragment: the connection it was admitted to, or nothing.
    pub fn judged(&mut self, DatagramId(at): DatagramId, lead: Option<Lead>) {
        if let Some(datagram) = self.datagrams.get_mut(at) {
            datagram.state = lead.map_or(State::Refused, State::Admitted);
        }
    }

    /// Takes out one of the fragments that wait, in the order in which they came. With the last one a datagram that is
    /// complete ends: call it until there is none.
    pub fn release(&mut self, DatagramId(at): DatagramId) -> Option<P> {
        let datagram = self.datagrams.get_mut(at)?;
        let Some((first, last)) = datagram.waiting else {
            if datagram.ranges.is_complete() && datagram.state != State::Waiting {
                self.end(at);
            }
            return None;
        };
        let Held { packet, next } = self.held.remove(first)?;
        datagram.waiting = next.map(|next| (next, last));
        datagram.waiting_count = datagram.waiting_count.saturating_sub(1);
        self.held_shares.give_back(&datagram.key);
        Some(packet)
    }

    /// A step of aging: if the oldest datagram's time is over, takes out a fragment of it that waits, or, without one, ends
    /// it. `None` if nothing is to be done.
    pub fn age(&mut self, now: Instant64) -> Option<Aged<P>> {
        let at = self.datagrams.oldest()?;
        if !self.is_over(self.datagrams.get(at)?, now) {
            return None;
        }
        match self.release(DatagramId(at)) {
            Some(packet) => Some(Aged::Fragment(packet)),
            None => {
                self.end(at);
                Some(Aged::Datagram)
            }
        }
    }

    /// Ends the table: what waits.
    pub fn into_held(self) -> impl Iterator<Item = P> {
        self.held.into_values().map(|held| held.packet)
    }

    fn is_over(&self, datagram: &Datagram, now: Instant64) -> bool {
        now.since(datagram.begun) >= self.limits.timeout
    }

    fn find(&self, key: &DatagramKey) -> Option<u32> {
        let same = |at: &u32| self.datagrams.get(*at).is_some_and(|datagram| datagram.key == *key);
        self.index.find(self.hasher.hash_one(key), same).copied()
    }

    /// Ends a datagram of which nothing waits.
    fn end(&mut self, at: u32) {
        let Some(datagram) = self.datagrams.remove(at) else { return };
        let hash = self.hasher.hash_one(datagram.key);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        self.datagram_shares.give_back(&datagram.key);
    }

    /// Sources and ports that have a datagram or a fragment that waits: none in an empty table.
    #[cfg(test)]
    pub(super) fn holders(&self) -> usize {
        self.datagram_shares.holders() + self.held_shares.holders()
    }
}

/// What a step of aging did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aged<P> {
    /// Here is a fragment whose time is over.
    Fragment(P),
    /// An entry went.
    Datagram,
}

//! Who fills the table: an account for each port, of the connections that are charged to the pod behind it.
//!
//! A connection is charged to the pod that opened it, or, if that is no pod of this node, to the pod that it goes to: a flood
//! from outside costs the pod that draws it, and nobody else. Each account queues its connections by class, and the account
//! with the most embryonic ones is known at any time: a heap by that number, which changes by one step when the number does.
//! Embryonic ones, and those that are over, may have to go, the oldest first; open ones are looked at in turn, when there is no
//! room without them, for those that have ended unnoticed.
//!
//! What others see of an account is its [`Charge`].

use std::sync::atomic::{AtomicU64, Ordering};

use super::chain::{Chain, Queue};
use super::entry::Class;
use crate::by_port::{ByPort, Events, PORTS, Taken};
use crate::clock::Instant64;
use crate::packet::PortId;

/// What one worker's flow table has charged to a port, as others may read it at any time.
#[derive(Debug, Default)]
pub struct Charge {
    flows: Taken,
    embryonic: Taken,
    evicted: AtomicU64,
    refused: Events,
}

impl Charge {
    /// Connections now.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows.get()
    }

    /// Those of them that are not established.
    #[must_use]
    pub fn embryonic(&self) -> u32 {
        self.embryonic.get()
    }

    /// Connections that had to go before their time, since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Connections that found no room.
    #[must_use]
    pub fn refused(&self) -> &Events {
        &self.refused
    }

    pub(super) fn count_evicted(&self) {
        self.evicted.store(self.evicted().wrapping_add(1), Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self, now: Instant64) {
        self.refused.add(now);
    }
}

/// The charges of all ports.
pub type Charges = ByPort<Charge>;

#[derive(Debug, Clone, Copy)]
struct Account {
    embryonic: Queue,
    open: Queue,
    closing: Queue,
    /// Its place in the heap, while it has embryonic connections.
    place: u32,
}

/// All accounts of one table.
#[derive(Debug)]
pub(super) struct Accounts {
    accounts: Vec<Account>,
    chain: Chain,
    /// Ports with embryonic connections; none has more of them than the one at half its place.
    heap: Vec<u16>,
    charges: Charges,
}

impl Accounts {
    /// Of a table with `places` places.
    pub fn new(places: usize) -> Self {
        let account =
            Account { embryonic: Queue::EMPTY, open: Queue::EMPTY, closing: Queue::EMPTY, place: 0 };
        Self {
            accounts: vec![account; PORTS],
            chain: Chain::new(places),
            heap: Vec::with_capacity(PORTS),
            charges: Charges::new(),
        }
    }

    pub fn charges(&self) -> &Charges {
        &self.charges
    }

    /// A port's charge.
    pub fn charge(&self, port: PortId) -> Option<&Charge> {
        self.charges.of(port)
    }

    /// A connection is entered that is charged to `port`.
    pub fn open(&mut self, port: PortId, place: u32, class: Class) {
        self.change_flows(port, 1);
        self.join(port, place, class);
    }

    /// One is gone.
    pub fn close(&mut self, port: PortId, place: u32, class: Class) {
        self.change_flows(port, -1);
        self.leave(port, place, class);
    }

    /// One has come further, or begins anew.
    pub fn reclass(&mut self, port: PortId, place: u32, from: Class, to: Class) {
        self.leave(port, place, from);
        self.join(port, place, to);
    }

    /// The connection of a port that may go first to make room for another one: one that is over, or else the oldest that is
    /// not established.
    pub fn dispensable(&self, port: PortId) -> Option<u32> {
        let account = self.accounts.get(usize::from(port.0))?;
        account.closing.oldest().or_else(|| account.embryonic.oldest())
    }

    /// The oldest embryonic connection of the port that has most of them.
    pub fn oldest_of_heaviest(&self) -> Option<u32> {
        let port = self.heap.first()?;
        self.accounts.get(usize::from(*port))?.embryonic.oldest()
    }

    /// The open connection of a port that was not looked at for longest.
    pub fn next_open(&self, port: PortId) -> Option<u32> {
        self.accounts.get(usize::from(port.0))?.open.oldest()
    }

    fn change_flows(&self, port: PortId, by: i32) {
        if let Some(charge) = self.charge(port) {
            charge.flows.change(by);
        }
    }

    fn join(&mut self, port: PortId, place: u32, class: Class) {
        let Some(account) = self.accounts.get_mut(usize::from(port.0)) else { return };
        match class {
            Class::Open => self.chain.push(&mut account.open, place),
            Class::Closing => self.chain.push(&mut account.closing, place),
            Class::Embryonic => {
                self.chain.push(&mut account.embryonic, place);
                if account.embryonic.len() == 1 {
                    account.place = self.heap.len() as u32;
                    // Never grows: there is room for every port.
                    self.heap.push(port.0);
                }
                self.tell_embryonic(port);
                self.rise(port);
            }
        }
    }

    fn leave(&mut self, port: PortId, place: u32, class: Class) {
        let Some(account) = self.accounts.get_mut(usize::from(port.0)) else { return };
        match class {
            Class::Open => self.chain.remove(&mut account.open, place),
            Class::Closing => self.chain.remove(&mut account.closing, place),
            Class::Embryonic => {
                self.chain.remove(&mut account.embryonic, place);
                self.tell_embryonic(port);
                self.sink(port);
            }
        }
    }

    fn tell_embryonic(&self, port: PortId) {
        if let Some(charge) = self.charge(port) {
            charge.embryonic.set(self.weight(port.0));
        }
    }

    fn weight(&self, port: u16) -> u32 {
        self.accounts.get(usize::from(port)).map_or(0, |account| account.embryonic.len())
    }

    fn place(&self, port: PortId) -> usize {
        self.accounts.get(usize::from(port.0)).map_or(0, |account| account.place as usize)
    }

    fn weight_at(&self, place: usize) -> Option<u32> {
        self.heap.get(place).map(|port| self.weight(*port))
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a.max(b) >= self.heap.len() {
            return;
        }
        self.heap.swap(a, b);
        for place in [a, b] {
            let port = self.heap.get(place).copied();
            if let Some(account) = port.and_then(|port| self.accounts.get_mut(usize::from(port))) {
                account.place = place as u32;
            }
        }
    }

    /// A port got heavier.
    fn rise(&mut self, port: PortId) {
        let mut place = self.place(port);
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.weight_at(parent) >= self.weight_at(place) {
                return;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    /// A port got lighter; without weight it leaves the heap.
    fn sink(&mut self, port: PortId) {
        let mut place = self.place(port);
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let child = if self.weight_at(right) > self.weight_at(left) { right } else { left };
            if self.weight_at(child) <= self.weight_at(place) {
                break;
            }
            self.swap(place, child);
            place = child;
        }
        if self.weight(port.0) == 0 {
            let last = self.heap.len().saturating_sub(1);
            self.swap(place, last);
            self.heap.pop();
            // What took its place was among the lightest, but perhaps of another branch.
            if let Some(moved) = self.heap.get(place).copied() {
                self.rise(PortId(moved));
            }
        }
    }

    /// Does everything fit together? `charged` says of each entry whom it is charged to, its place and its class.
    #[cfg(test)]
    pub fn check(&self, charged: &[(PortId, u32, Class)]) {
        use std::collections::BTreeMap;
        let mut embryonic: BTreeMap<u16, usize> = BTreeMap::new();
        for (port, place, class) in charged {
            let account = &self.accounts[usize::from(port.0)];
            let queue = match class {
                Class::Open => &account.open,
                Class::Closing => &account.closing,
                Class::Embryonic => {
                    *embryonic.entry(port.0).or_default() += 1;
                    &account.embryonic
                }
            };
            assert!(self.chain.walk(queue).contains(place), "{place} waits in the queue of its class");
        }
        let queues = self.accounts.iter().flat_map(|a| [a.embryonic, a.open, a.closing]);
        assert_eq!(queues.map(|queue| queue.len() as usize).sum::<usize>(), charged.len());
        let in_heap: Vec<u16> = embryonic.keys().copied().collect();
        let mut heap = self.heap.clone();
        heap.sort_unstable();
        assert_eq!(heap, in_heap);
        for (port, count) in &embryonic {
            assert_eq!(self.weight(*port) as usize, *count);
            assert_eq!(self.heap[self.place(PortId(*port))], *port);
            assert!(self.weight_at(0) >= Some(*count as u32), "the heaviest is first");
            assert_eq!(self.charge(PortId(*port)).unwrap().embryonic() as usize, *count);
        }
    }
}

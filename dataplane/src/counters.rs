//! What a worker counts, and how others read it.
//!
//! Guarantees: each worker writes its own [`WorkerCounters`] and nobody else does, so a relaxed load and store
//! (no locked instruction) is enough; anybody may read them at any time. A worker counts a turn into plain
//! integers ([`TurnCounts`]) and adds them once at the turn's end.
//!
//! Conservation, for each worker and so for their sum:
//! `rx + generated + taken over = tx + drops + consumed + handed over + held`. [`Snapshot::imbalance`] tells by
//! how much it is violated; tests assert that it is 0. A reader that runs beside a writer sees a turn half
//! written, so the equation is exact only when the workers rest.
//!
//! What breaks if changed: a second writer loses counts; the cache-line alignment keeps two workers' counters
//! from slowing each other down.

use crate::drop_reason::DropReason;
use crate::packet::PortKind;
use std::sync::atomic::{AtomicU64, Ordering};

/// Packets and bytes by port kind, in the order of [`PortKind::index`].
pub type ByKind = [u64; PortKind::COUNT];

/// The counts of one turn, or of a worker since its start; plain integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCounts {
    /// Packets received, by the kind of the ingress port.
    pub rx_packets: ByKind,
    /// Bytes of these (Ethernet header to end of frame).
    pub rx_bytes: ByKind,
    /// Packets sent: written to a transmit ring, by the kind of the egress port.
    pub tx_packets: ByKind,
    /// Bytes of these.
    pub tx_bytes: ByKind,
    /// Packets the gateway made itself: answers and errors, also where an answer takes the frame of its question
    /// (which then counts as consumed).
    pub generated: u64,
    /// Packets that ended here as they should: ARP, neighbour discovery, pings of the gateway.
    pub consumed: u64,
    /// Packets given to another worker.
    pub handed_over: u64,
    /// Packets got from another worker.
    pub taken_over: u64,
    drops: [[u64; PortKind::COUNT]; DropReason::COUNT],
    dirty: bool,
}

impl Default for TurnCounts {
    fn default() -> Self {
        TurnCounts::new()
    }
}

impl TurnCounts {
    /// All zero.
    pub const fn new() -> TurnCounts {
        TurnCounts {
            rx_packets: [0; PortKind::COUNT],
            rx_bytes: [0; PortKind::COUNT],
            tx_packets: [0; PortKind::COUNT],
            tx_bytes: [0; PortKind::COUNT],
            generated: 0,
            consumed: 0,
            handed_over: 0,
            taken_over: 0,
            drops: [[0; PortKind::COUNT]; DropReason::COUNT],
            dirty: false,
        }
    }

    /// Counts a packet of `bytes` bytes that came in by a port of kind `from`.
    pub fn received(&mut self, from: PortKind, bytes: usize) {
        bump(&mut self.rx_packets, from, 1);
        bump(&mut self.rx_bytes, from, bytes as u64);
    }

    /// Counts a packet of `bytes` bytes that was written to the transmit ring of a port of kind `to`.
    pub fn sent(&mut self, to: PortKind, bytes: usize) {
        bump(&mut self.tx_packets, to, 1);
        bump(&mut self.tx_bytes, to, bytes as u64);
    }

    /// Counts a packet dropped for `reason`, that came in by a port of kind `from`.
    pub fn dropped(&mut self, reason: DropReason, from: PortKind) {
        if let Some(row) = self.drops.get_mut(reason.index()) {
            bump(row, from, 1);
            self.dirty = true;
        }
    }

    /// Packets dropped for `reason`, by the kind of the ingress port.
    pub fn drops(&self, reason: DropReason) -> ByKind {
        self.drops.get(reason.index()).copied().unwrap_or_default()
    }

    /// Packets dropped, all reasons together.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().flatten().sum()
    }

    fn add(&mut self, other: &TurnCounts) {
        for (sum, value) in self.scalars_mut().into_iter().zip(other.scalars()) {
            *sum = sum.wrapping_add(value);
        }
        for (sum, value) in self.drops.iter_mut().flatten().zip(other.drops.iter().flatten()) {
            *sum = sum.wrapping_add(*value);
        }
    }

    fn scalars(&self) -> [u64; SCALARS] {
        let [rp0, rp1, rp2] = self.rx_packets;
        let [rb0, rb1, rb2] = self.rx_bytes;
        let [tp0, tp1, tp2] = self.tx_packets;
        let [tb0, tb1, tb2] = self.tx_bytes;
        [
            rp0,
            rp1,
            rp2,
            rb0,
            rb1,
            rb2,
            tp0,
            tp1,
            tp2,
            tb0,
            tb1,
            tb2,
            self.generated,
            self.consumed,
            self.handed_over,
            self.taken_over,
        ]
    }

    fn scalars_mut(&mut self) -> [&mut u64; SCALARS] {
        let [rp0, rp1, rp2] = &mut self.rx_packets;
        let [rb0, rb1, rb2] = &mut self.rx_bytes;
        let [tp0, tp1, tp2] = &mut self.tx_packets;
        let [tb0, tb1, tb2] = &mut self.tx_bytes;
        [
            rp0,
            rp1,
            rp2,
            rb0,
            rb1,
            rb2,
            tp0,
            tp1,
            tp2,
            tb0,
            tb1,
            tb2,
            &mut self.generated,
            &mut self.consumed,
            &mut self.handed_over,
            &mut self.taken_over,
        ]
    }
}

/// Counters that are not drops: four by port kind and four single ones.
const SCALARS: usize = 4 * PortKind::COUNT + 4;

fn bump(row: &mut ByKind, kind: PortKind, by: u64) {
    if let Some(value) = row.get_mut(kind.index()) {
        *value = value.wrapping_add(by);
    }
}

/// A worker's counters since its start. One writer, any number of readers.
#[derive(Debug)]
#[repr(align(128))] // two lines: the prefetcher fetches lines in pairs
pub struct WorkerCounters {
    scalars: [AtomicU64; SCALARS],
    held: AtomicU64,
    drops: [[AtomicU64; PortKind::COUNT]; DropReason::COUNT],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters::new()
    }
}

impl WorkerCounters {
    /// All zero.
    pub const fn new() -> WorkerCounters {
        WorkerCounters {
            scalars: [const { AtomicU64::new(0) }; SCALARS],
            held: AtomicU64::new(0),
            drops: [const { [const { AtomicU64::new(0) }; PortKind::COUNT] }; DropReason::COUNT],
        }
    }

    /// Adds a turn's counts and empties them; `held` is how many packets the worker holds on to now (staged,
    /// or waiting for something). Only the owning worker may call this.
    pub fn flush(&self, turn: &mut TurnCounts, held: u64) {
        for (counter, value) in self.scalars.iter().zip(turn.scalars_mut()) {
            if *value != 0 {
                add(counter, *value);
                *value = 0;
            }
        }
        if turn.dirty {
            for (counter, value) in self.drops.iter().flatten().zip(turn.drops.iter_mut().flatten()) {
                if *value != 0 {
                    add(counter, *value);
                    *value = 0;
                }
            }
            turn.dirty = false;
        }
        self.held.store(held, Ordering::Relaxed);
    }

    /// What is counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let mut counts = TurnCounts::new();
        for (value, counter) in counts.scalars_mut().into_iter().zip(&self.scalars) {
            *value = counter.load(Ordering::Relaxed);
        }
        for (value, counter) in counts.drops.iter_mut().flatten().zip(self.drops.iter().flatten()) {
            *value = counter.load(Ordering::Relaxed);
        }
        Snapshot { counts, held: self.held.load(Ordering::Relaxed) }
    }
}

/// Single writer: a load and a store do, and cost no locked instruction.
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

/// A worker's counters at one moment, or the sum of several workers'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Since the worker's start.
    pub counts: TurnCounts,
    /// Packets held on to at that moment.
    pub held: u64,
}

impl Snapshot {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Snapshot) {
        self.counts.add(&other.counts);
        self.held += other.held;
    }

    /// Packets that came in minus packets accounted for: 0, or packets were lost (positive) or counted twice
    /// (negative). Exact only when the workers rest.
    pub fn imbalance(&self) -> i64 {
        let counts = &self.counts;
        let came: u64 = counts.rx_packets.iter().sum::<u64>() + counts.generated + counts.taken_over;
        let went: u64 = counts.tx_packets.iter().sum::<u64>()
            + counts.dropped_total()
            + counts.consumed
            + counts.handed_over
            + self.held;
        came.wrapping_sub(went) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_add_up_and_balance() {
        let counters = WorkerCounters::new();
        let mut turn = TurnCounts::new();
        for _ in 0..3 {
            for _ in 0..10 {
                turn.received(PortKind::Pod, 100);
            }
            for _ in 0..6 {
                turn.sent(PortKind::Uplink, 90);
            }
            turn.dropped(DropReason::PolicyIngress, PortKind::Pod);
            turn.consumed += 2;
            turn.handed_over += 1;
            counters.flush(&mut turn, 0);
            assert_eq!(turn, TurnCounts::new(), "a flushed turn is empty");
        }
        let mut snapshot = counters.snapshot();
        assert_eq!(snapshot.counts.rx_packets, [30, 0, 0]);
        assert_eq!(snapshot.counts.rx_bytes, [3000, 0, 0]);
        assert_eq!(snapshot.counts.tx_packets, [0, 0, 18]);
        assert_eq!(snapshot.counts.drops(DropReason::PolicyIngress), [3, 0, 0]);
        assert_eq!(snapshot.counts.dropped_total(), 3);
        assert_eq!(snapshot.imbalance(), 0);

        let other = WorkerCounters::new();
        turn.taken_over += 3;
        turn.sent(PortKind::Host, 1);
        turn.sent(PortKind::Host, 1);
        other.flush(&mut turn, 1);
        snapshot.add(&other.snapshot());
        assert_eq!(snapshot.imbalance(), 0);
        snapshot.held = 0;
        assert_eq!(snapshot.imbalance(), 1, "one packet is missing");
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = WorkerCounters::new();
        let mut turn = TurnCounts::new();
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            for kind in PortKind::ALL {
                for _ in 0..=position {
                    turn.dropped(reason, kind);
                }
            }
        }
        counters.flush(&mut turn, 0);
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.snapshot().counts.drops(reason), [position as u64 + 1; PortKind::COUNT]);
        }
    }
}

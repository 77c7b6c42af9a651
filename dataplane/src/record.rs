//! Records of dropped packets, for `podgate drops`: a bounded ring from each worker to the control thread.
//!
//! Guarantees: writing a record never blocks, allocates or fails loudly. A worker writes at most
//! [`DropRecorder::BUDGET`] records a turn, so that a flood of denied packets costs no more than a trickle; what
//! exceeds that or finds the ring full is counted as lost, so a reader always knows what it does not see.
//! One writer and one reader per ring; the reader may be on any thread.

use crate::clock::Instant64;
use crate::drop_reason::DropReason;
use crate::packet::{Headers, PortId, WorkerId};
use crate::parse::glimpse;
use crate::policy::{Direction, Verdict};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One dropped packet. What is not known (the packet was not understood that far) is `None` or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// When, on the worker's clock.
    pub time: Instant64,
    /// Why.
    pub reason: DropReason,
    /// Who dropped it.
    pub worker: WorkerId,
    /// The port it came in by.
    pub port: PortId,
    /// The snapshot under which it was dropped; the verdict's program and
    /// interval mean something only together with it.
    pub generation: u64,
    /// Source and destination address.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IP protocol number, after extension headers.
    pub protocol: u8,
    /// Source port, host order; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port, host order; 0 where the protocol has none.
    pub destination_port: u16,
    /// Length of the frame in bytes.
    pub length: u32,
    /// For denials by policy: the direction that said no, and its verdict.
    pub decided_by: Option<(Direction, Verdict)>,
}

impl DropRecord {
    /// A record that knows nothing of the packet but its length.
    pub fn new(
        time: Instant64,
        reason: DropReason,
        worker: WorkerId,
        port: PortId,
        length: u32,
    ) -> DropRecord {
        DropRecord {
            time,
            reason,
            worker,
            port,
            generation: 0,
            addresses: None,
            protocol: 0,
            source_port: 0,
            destination_port: 0,
            length,
            decided_by: None,
        }
    }

    /// The same with what the headers say.
    #[must_use]
    pub fn with_headers(mut self, headers: &Headers) -> DropRecord {
        self.addresses = Some((headers.source.into(), headers.destination.into()));
        self.protocol = headers.protocol;
        self.source_port = headers.source_port;
        self.destination_port = headers.destination_port;
        self
    }

    /// The same with what can be seen in a frame that the parser refused; `head` is its head frame.
    #[must_use]
    pub fn with_bytes(mut self, head: &[u8]) -> DropRecord {
        if let Some((source, destination, protocol)) = glimpse(head) {
            self.addresses = Some((source, destination));
            self.protocol = protocol;
        }
        self
    }
}

/// The worker's end of its ring.
#[derive(Debug)]
pub struct DropRecorder {
    ring: rtrb::Producer<DropRecord>,
    lost: Arc<AtomicU64>,
    left: u32,
}

/// The control thread's end.
#[derive(Debug)]
pub struct DropRecords {
    ring: rtrb::Consumer<DropRecord>,
    lost: Arc<AtomicU64>,
}

/// A ring for `capacity` records, and its two ends. Allocates here and never again.
pub fn drop_ring(capacity: usize) -> (DropRecorder, DropRecords) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    (
        DropRecorder { ring: producer, lost: lost.clone(), left: DropRecorder::BUDGET },
        DropRecords { ring: consumer, lost },
    )
}

impl DropRecorder {
    /// Most records that one turn writes.
    pub const BUDGET: u32 = 16;

    /// Starts a turn: the budget is full again.
    pub fn begin_turn(&mut self) {
        self.left = Self::BUDGET;
    }

    /// Writes the record that `make` builds, if budget and ring have room; otherwise counts it as lost without
    /// building it.
    pub fn record(&mut self, make: impl FnOnce() -> DropRecord) {
        if self.left > 0 && !self.ring.is_full() {
            self.left -= 1;
            if self.ring.push(make()).is_ok() {
                return;
            }
        }
        // The only writer of this counter: no read-modify-write needed.
        self.lost.store(self.lost.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

impl DropRecords {
    /// The oldest record not yet taken.
    pub fn pop(&mut self) -> Option<DropRecord> {
        self.ring.pop().ok()
    }

    /// How many records were not written since the start, for want of budget or room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u32) -> DropRecord {
        DropRecord::new(Instant64::from_nanos(7), DropReason::Multicast, WorkerId(1), PortId(2), number)
    }

    #[test]
    fn budget_and_room_bound_the_records_and_the_rest_is_counted() {
        let (mut recorder, mut records) = drop_ring(20);
        for number in 0..DropRecorder::BUDGET + 5 {
            recorder.record(|| sample(number));
        }
        assert_eq!(records.lost(), 5, "over the turn's budget");
        recorder.begin_turn();
        for number in 0..10 {
            recorder.record(|| sample(number));
        }
        assert_eq!(records.lost(), 5 + 6, "the ring holds 20");
        let mut taken = 0;
        while let Some(record) = records.pop() {
            assert_eq!(record.reason, DropReason::Multicast);
            taken += 1;
        }
        assert_eq!(taken, 20);
        recorder.record(|| sample(0));
        assert_eq!(records.pop(), Some(sample(0)));
    }
}

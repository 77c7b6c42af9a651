//! What the sink knows of the packets that arrived.
//!
//! Packets with a stamp are accounted for by their run: lost, duplicate, late, and how long they took. A sink that was told
//! its run counts those of others as stragglers; one that was not keeps an account of each run it meets, so several senders
//! may send to it at once. Everything else that arrives on the device is counted as foreign: it is not an error, devices talk.
//!
//! Latencies go into an HDR histogram of three digits: constant cost and memory, and percentiles that are off by 0.1 % at most.
//! They run from the moment a packet was written to when the sink took the batch out of its ring that it came in.

use hdrhistogram::Histogram;

use super::sequence::{Account, Sequences};
use super::stamp::{Stamp, locate};

/// Most runs of which accounts are kept.
const MAX_RUNS: usize = 64;
/// Longest latency that is told apart, 100 s.
const LONGEST_NS: u64 = 100_000_000_000;

/// Percentiles of the latency in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Packets it is of.
    pub packets: u64,
    /// Least.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Half were at most that late; and so on.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// Most.
    pub max: u64,
}

/// The account of one run.
#[derive(Debug)]
pub struct Run {
    /// Which.
    pub id: u16,
    sequences: Sequences,
    latency: Histogram<u64>,
    first_ns: u64,
    last_ns: u64,
    bytes: u64,
}

impl Run {
    fn new(id: u16) -> Option<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, 3).ok()?;
        Some(Self { id, sequences: Sequences::default(), latency, first_ns: 0, last_ns: 0, bytes: 0 })
    }

    #[inline]
    fn packet(&mut self, stamp: &Stamp, length: usize, now_ns: u64) {
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        self.last_ns = now_ns;
        self.bytes += length as u64;
        self.sequences.observe(stamp.stream, stamp.sequence);
        self.latency.saturating_record(now_ns.saturating_sub(stamp.sent_ns).max(1));
    }

    /// Loss, duplicates, reordering.
    #[must_use]
    pub fn account(&self) -> Account {
        self.sequences.account()
    }

    /// From the first to the last packet, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.last_ns.saturating_sub(self.first_ns) as f64 / 1e9
    }

    /// Bytes of its packets, without check sequences.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `None` if no packet arrived.
    #[must_use]
    pub fn latency(&self) -> Option<Latency> {
        let of = |quantile| self.latency.value_at_quantile(quantile);
        (!self.latency.is_empty()).then(|| Latency {
            packets: self.latency.len(),
            min: self.latency.min(),
            mean: self.latency.mean(),
            p50: of(0.5),
            p90: of(0.9),
            p99: of(0.99),
            p999: of(0.999),
            max: self.latency.max(),
        })
    }
}

/// Everything that arrived.
#[derive(Debug, Default)]
pub struct Sink {
    only: Option<u16>,
    runs: Vec<Run>,
    /// Packets with a stamp of another run than the one that was asked for.
    pub stragglers: u64,
    /// Packets without a stamp.
    pub foreign: u64,
    /// All packets.
    pub packets: u64,
    /// All bytes, without check sequences.
    pub bytes: u64,
}

impl Sink {
    /// For one run, or for all.
    #[must_use]
    pub fn new(only: Option<u16>) -> Self {
        Self { only, ..Self::default() }
    }

    /// A packet arrived: its first bytes (headers and stamp), its length, and when.
    #[inline]
    pub fn packet(&mut self, head: &[u8], length: usize, now_ns: u64) {
        self.packets += 1;
        self.bytes += length as u64;
        let Some(stamp) = locate(head) else {
            self.foreign += 1;
            return;
        };
        match self.runs.first_mut() {
            // By far most.
            Some(run) if run.id == stamp.run => run.packet(&stamp, length, now_ns),
            _ => self.other(&stamp, length, now_ns),
        }
    }

    #[cold]
    fn other(&mut self, stamp: &Stamp, length: usize, now_ns: u64) {
        if self.only.is_some_and(|only| only != stamp.run) {
            self.stragglers += 1;
            return;
        }
        let at = self.runs.iter().position(|run| run.id == stamp.run).or_else(|| {
            let room = self.runs.len() < MAX_RUNS;
            let run = room.then(|| Run::new(stamp.run)).flatten()?;
            self.runs.push(run);
            Some(self.runs.len() - 1)
        });
        match at.and_then(|at| self.runs.get_mut(at)) {
            Some(run) => run.packet(stamp, length, now_ns),
            None => self.stragglers += 1,
        }
    }

    /// How far the one run is that it was told of: different packets that arrived. All packets, if it is for all runs.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        match self.only {
            Some(_) => self.runs.first().map_or(0, |run| run.account().unique),
            None => self.packets,
        }
    }

    /// The accounts, the run met first first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Packets of all runs that arrived, whichever way.
    #[must_use]
    pub fn stamped(&self) -> u64 {
        self.packets - self.foreign - self.stragglers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::flows::Flow;
    use crate::pktgen::frames::{Protocol, Shape, Template};

    fn packet(run: u16, sequence: u32, sent_ns: u64) -> Vec<u8> {
        let shape = Shape { macs: [[2; 6]; 2], v4: true, protocol: Protocol::Udp, stamped: true };
        let flow = Flow { source: 1, destination: 2, source_port: 3, destination_port: 4 };
        let mut bytes = vec![0; 128];
        let stamp = Stamp { run, stream: 0, sequence, sent_ns };
        let length = Template::new(shape, 60).unwrap().write(&flow, Some(&stamp), 0, &mut bytes);
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_run_is_told_from_others_and_from_what_is_foreign() {
        let mut sink = Sink::new(Some(7));
        for (sequence, run) in [(0, 7), (1, 7), (0, 8), (3, 7)] {
            sink.packet(&packet(run, sequence, 1000), 60, 3000);
        }
        sink.packet(&[0; 60], 60, 3000);
        assert_eq!(
            (sink.packets, sink.foreign, sink.stragglers, sink.stamped(), sink.bytes),
            (5, 1, 1, 3, 300)
        );
        let [run] = sink.runs() else { panic!() };
        assert_eq!((run.account().unique, run.account().missing, run.bytes()), (3, 1, 180));
    }

    #[test]
    fn several_senders_have_accounts_of_their_own() {
        let mut sink = Sink::new(None);
        for sequence in 0..10 {
            sink.packet(&packet(1, sequence, 1), 60, 2);
            sink.packet(&packet(2, 9 - sequence, 1), 60, 2);
        }
        let accounts: Vec<Account> = sink.runs().iter().map(Run::account).collect();
        assert_eq!([accounts[0].unique, accounts[0].reordered], [10, 0]);
        assert_eq!([accounts[1].unique, accounts[1].reordered, accounts[1].furthest], [10, 9, 9]);
    }

    #[test]
    fn percentiles_are_those_of_the_latencies() {
        let mut sink = Sink::new(None);
        assert!(sink.runs().is_empty());
        for sequence in 0..10_000 {
            sink.packet(&packet(1, sequence, 1_000_000), 60, 1_000_000 + 1000 * (u64::from(sequence) + 1));
        }
        let latency = sink.runs()[0].latency().unwrap();
        let close = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 900;
        assert!(close(latency.p50, 5_000_000) && close(latency.p90, 9_000_000), "{latency:?}");
        assert!(close(latency.p99, 9_900_000) && close(latency.p999, 9_990_000), "{latency:?}");
        assert!(
            close(latency.max, 10_000_000) && latency.min <= 1000 && latency.packets == 10_000,
            "{latency:?}"
        );
    }
}

//! Everything that a gateway counts, in one map, so that a difference of two maps is everything that moved.

use std::collections::{BTreeMap, BTreeSet};

use podgate_config::model::Cluster;
use podgate_dataplane::counters::Snapshot;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::flow::FlowCounts;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::{Action, PROGRAM_CLOSED};
use podgate_tests::rig::Rig;

/// One counter, of a worker or of all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    RxPackets(WorkerId, PortKind),
    RxBytes(WorkerId, PortKind),
    TxPackets(WorkerId, PortKind),
    TxBytes(WorkerId, PortKind),
    Generated(WorkerId),
    Consumed(WorkerId),
    HandedOver(WorkerId),
    TakenOver(WorkerId),
    Held(WorkerId),
    Drops(WorkerId, DropReason, PortKind),
    /// Connections now.
    Connections,
    Opened(WorkerId),
    Expired,
    Evicted,
    Cut,
    /// Verdicts that programs of policies gave.
    Allowed,
    Denied,
    RecordsLost,
    /// Connections now, and those that had to go or found no room, by the accounts of the pods that they are charged to.
    Charged,
    EvictedOfPods,
    RefusedOfPods,
    /// Errors and resets that were kept back.
    ErrorsRefused,
    /// Those, and those that were sent, by the port of the packet that they are about.
    ErrorsRefusedOf(PortId),
    ErrorsOf(PortId),
    /// Datagrams in fragments now, fragments that wait and those that were refused, by the port that they came by.
    DatagramsOf(PortId),
    HeldOf(PortId),
    FragmentsRefusedOf(PortId),
}

/// Counters that are not 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<Counter, i64>);

/// More intervals than any policy here has, and no more than the smallest block of a program counts.
const INTERVALS: u32 = 16;

impl Ledger {
    pub fn add(&mut self, counter: Counter, by: i64) {
        let sum = self.0.entry(counter).or_default();
        *sum += by;
        if *sum == 0 {
            self.0.remove(&counter);
        }
    }

    /// So many connections more, in the tables and in the accounts.
    pub fn add_connections(&mut self, by: i64) {
        self.add(Counter::Connections, by);
        self.add(Counter::Charged, by);
    }

    pub fn get(&self, counter: Counter) -> i64 {
        self.0.get(&counter).copied().unwrap_or_default()
    }

    /// What has moved since `before`.
    pub fn since(&self, before: &Ledger) -> Ledger {
        let mut moved = self.clone();
        before.0.iter().for_each(|(counter, value)| moved.add(*counter, -value));
        moved
    }

    /// As everything stands now. Verdicts are those of the tables that were published last.
    pub fn read(rig: &Rig, cluster: &Cluster) -> Ledger {
        let mut ledger = Ledger::default();
        for (worker, Snapshot { counts, held }) in rig.counts_by_worker() {
            for kind in PortKind::ALL {
                let place = kind.index();
                ledger.add(Counter::RxPackets(worker, kind), counts.rx_packets[place] as i64);
                ledger.add(Counter::RxBytes(worker, kind), counts.rx_bytes[place] as i64);
                ledger.add(Counter::TxPackets(worker, kind), counts.tx_packets[place] as i64);
                ledger.add(Counter::TxBytes(worker, kind), counts.tx_bytes[place] as i64);
                for reason in DropReason::ALL {
                    let drops = counts.drops(*reason)[place];
                    ledger.add(Counter::Drops(worker, *reason, kind), drops as i64);
                }
            }
            ledger.add(Counter::Generated(worker), counts.generated as i64);
            ledger.add(Counter::Consumed(worker), counts.consumed as i64);
            ledger.add(Counter::HandedOver(worker), counts.handed_over as i64);
            ledger.add(Counter::TakenOver(worker), counts.taken_over as i64);
            ledger.add(Counter::Held(worker), held as i64);
        }
        for (worker, FlowCounts { opened, expired, evicted, cut }) in rig.flow_counts() {
            ledger.add(Counter::Opened(worker), opened as i64);
            ledger.add(Counter::Expired, expired as i64);
            ledger.add(Counter::Evicted, evicted as i64);
            ledger.add(Counter::Cut, cut as i64);
        }
        ledger.add(Counter::Connections, rig.flows() as i64);
        ledger.add(Counter::RecordsLost, rig.records_lost() as i64);
        ledger.add(Counter::ErrorsRefused, rig.errors_refused() as i64);
        for charge in rig.charges() {
            ledger.add(Counter::Charged, charge.flows().into());
            ledger.add(Counter::EvictedOfPods, charge.evicted() as i64);
            ledger.add(Counter::RefusedOfPods, charge.refused().count() as i64);
        }
        for (port, charge) in rig.error_charges() {
            ledger.add(Counter::ErrorsOf(port), charge.sent() as i64);
            ledger.add(Counter::ErrorsRefusedOf(port), charge.refused().count() as i64);
        }
        for (port, charge) in rig.fragment_charges() {
            ledger.add(Counter::DatagramsOf(port), charge.datagrams().into());
            ledger.add(Counter::HeldOf(port), charge.held().into());
            ledger.add(Counter::FragmentsRefusedOf(port), charge.refused().count() as i64);
        }
        ledger.add_verdicts(rig, cluster);
        ledger
    }

    fn add_verdicts(&mut self, rig: &Rig, cluster: &Cluster) {
        let Some(tables) = &rig.tables else { return };
        let addresses = cluster.pods.values().flat_map(|pod| &pod.addresses);
        let slots = addresses.filter_map(|address| tables.lookup(*address));
        let programs: BTreeSet<u32> =
            slots.flat_map(|(_, slot)| [slot.ingress_program, slot.egress_program]).collect();
        for program in programs.into_iter().filter(|program| *program < PROGRAM_CLOSED) {
            for interval in 0..INTERVALS {
                self.add(Counter::Allowed, tables.hits(program, interval, Action::Allow) as i64);
                self.add(Counter::Denied, tables.hits(program, interval, Action::Deny) as i64);
            }
        }
    }
}

/// A counter that is added to a worker's and forgotten here would be one that no case looks at.
#[test]
fn the_ledger_has_every_counter() {
    let shown = format!("{:?}", Snapshot::default());
    let fields: Vec<&str> = shown
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter_map(|word| word.strip_suffix(':'))
        .collect();
    let known = [
        "counts",
        "rx_packets",
        "rx_bytes",
        "tx_packets",
        "tx_bytes",
        "generated",
        "consumed",
        "handed_over",
        "taken_over",
        "drops",
        "dirty", // whether any drop is not 0
        "held",
    ];
    assert_eq!(fields, known);
}

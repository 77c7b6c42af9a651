//! `/metrics`: names, help texts, and how they get their values.
//!
//! Nothing on the packet path knows of metrics: workers count in their arrays, and those are copied here when somebody
//! scrapes, into a registry that lives for that scrape alone. So a removed port or a deleted policy leaves no series
//! behind. Only what has a history of its own (the compile times) is kept. Names carry the prefix `podgate_`, base
//! units, and `_total` on counters; dashboards rely on them.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use podgate_dataplane::counters::Snapshot;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::PortKind;

use crate::status::{PortState, PortStatus, Status};

/// Buckets for compiling, in seconds: from a handful of policies to far beyond the largest cluster.
const COMPILE_SECONDS: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// What is kept between scrapes.
pub struct Metrics {
    history: PrometheusRecorder,
}

impl Metrics {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// Never with the buckets above; the library cannot know that.
    pub fn new() -> Result<Self, BuildError> {
        let history = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("podgate_compile_seconds".to_owned()), &COMPILE_SECONDS)?
            .build_recorder();
        metrics::with_local_recorder(&history, || {
            describe_histogram!("podgate_compile_seconds", Unit::Seconds, "Time to compile a snapshot");
        });
        Ok(Self { history })
    }

    /// A snapshot was compiled.
    pub fn compiled(&self, took: Duration) {
        metrics::with_local_recorder(&self.history, || {
            histogram!("podgate_compile_seconds").record(took.as_secs_f64());
        });
        // Samples wait in a buffer until then, one more with each: nobody may ever scrape.
        self.history.handle().run_upkeep();
    }

    /// Everything in Prometheus' text form, with these values; `workers` by number.
    #[must_use]
    pub fn render(
        &self,
        status: &Status,
        workers: &[Snapshot],
        devices: &[DeviceCounts],
        lost_drop_records: u64,
    ) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            set_status(status);
            set_workers(workers);
            set_devices(devices);
            counter!("podgate_lost_drop_records_total").absolute(lost_drop_records);
        });
        recorder.handle().render() + &self.history.handle().render()
    }
}

/// What the kernel counted for the sockets of one device (`struct xdp_statistics`), all queues together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Its interface.
    pub interface: String,
    /// Name of the counter, and its value.
    pub counters: Vec<(&'static str, u64)>,
}

fn describe() {
    describe_gauge!("podgate_build_info", "Always 1; the label says which version runs");
    describe_gauge!(
        "podgate_dead_workers",
        "Workers that have ended by themselves; podgate must be started again"
    );
    describe_gauge!("podgate_ready", "1 if packets are judged by policy");
    describe_gauge!("podgate_generation_published", "Number of the snapshot handed to the workers last");
    describe_gauge!("podgate_generation_in_force", "Number of the oldest snapshot still judged by");
    describe_gauge!("podgate_retired_snapshots", "Replaced snapshots that a worker has not let go of");
    describe_counter!("podgate_publish_failures_total", "Snapshots that could not be compiled or published");
    describe_gauge!(
        "podgate_policy_limit_used",
        "How much of a limit the policies need, by name of the limit"
    );
    describe_gauge!("podgate_policy_limit_max", "What the settings allow, by name of the limit");
    describe_gauge!("podgate_table_bytes", Unit::Bytes, "Size of the policy tables in force");
    describe_gauge!("podgate_objects", "Objects known, by kind");
    describe_gauge!("podgate_source_synced", "1 if the source was once without error");
    describe_gauge!("podgate_source_errors", "What is wrong with the source now");
    describe_gauge!(
        "podgate_source_bad_files",
        "Files that are bad now, with their last good state in force"
    );
    describe_gauge!(
        "podgate_source_current",
        "1 if the API server tells of changes of this kind now; if not, what it said last is in force"
    );
    describe_gauge!("podgate_source_objects", "Objects that the API server has, by kind");
    describe_counter!("podgate_source_lists_total", "Complete lists of the API server's objects, by kind");
    describe_counter!("podgate_source_failures_total", "Requests and watches that failed, by kind");
    describe_counter!("podgate_source_events_total", "Kubernetes Events that were made or counted up");
    describe_counter!("podgate_source_events_failed_total", "Requests for Kubernetes Events that failed");
    describe_gauge!("podgate_ports", "Ports by kind and state");
    describe_counter!(
        "podgate_received_packets_total",
        "Packets received, by worker and kind of ingress port"
    );
    describe_counter!("podgate_received_bytes_total", Unit::Bytes, "Bytes received");
    describe_counter!("podgate_sent_packets_total", "Packets sent, by worker and kind of egress port");
    describe_counter!("podgate_sent_bytes_total", Unit::Bytes, "Bytes sent");
    describe_counter!(
        "podgate_dropped_packets_total",
        "Packets dropped, by reason, direction and kind of ingress port"
    );
    describe_counter!("podgate_generated_packets_total", "Packets that the gateway made itself");
    describe_counter!(
        "podgate_consumed_packets_total",
        "ARP, neighbour discovery and pings that ended at the gateway"
    );
    describe_counter!("podgate_handed_over_packets_total", "Packets given to another worker");
    describe_counter!("podgate_taken_over_packets_total", "Packets got from another worker");
    describe_gauge!(
        "podgate_held_packets",
        "Fragments that wait inside a worker for the first one of their datagram"
    );
    describe_counter!(
        "podgate_lost_drop_records_total",
        "Drop records that did not fit into the workers' rings"
    );
    describe_gauge!("podgate_flows", "Connections in a worker's flow table");
    describe_gauge!("podgate_flow_capacity", "Connections that a worker's flow table holds at most");
    describe_counter!("podgate_flows_opened_total", "Connections entered into a worker's flow table");
    describe_counter!("podgate_flows_expired_total", "Connections that were silent for too long");
    describe_counter!(
        "podgate_flows_evicted_total",
        "Connections that had to go for new ones before their time: not established yet, or over"
    );
    describe_counter!(
        "podgate_errors_refused_total",
        "ICMP errors and resets that were not sent because there had been too many"
    );
    describe_counter!(
        "podgate_flows_cut_total",
        "Connections that a change of policy or pods ended, or that a new one replaced"
    );
    describe_gauge!(
        "podgate_fragmented_datagrams",
        "Datagrams in fragments of which some are still missing, in a worker's table"
    );
    describe_counter!(
        "podgate_policy_connections_total",
        "New connections decided, by policy, direction and verdict"
    );
    for (name, help) in SOCKET_COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help) in PORT_GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in PORT_COUNTERS {
        describe_counter!(*name, *help);
    }
}

/// What is charged to each port now, by interface and pod: metric name and help.
const PORT_GAUGES: &[(&str, &str)] = &[
    ("podgate_port_flows", "Connections charged to a port"),
    ("podgate_port_flows_embryonic", "Those of them that are not established"),
    ("podgate_port_fragmented_datagrams", "Datagrams in fragments that came by a port, some still missing"),
    ("podgate_port_held_fragments", "Fragments that came by a port and wait for the first of their datagram"),
    ("podgate_port_neighbours_wanted", "Neighbours that packets from a port want and nobody has found yet"),
];

/// What was charged to each port, likewise.
const PORT_COUNTERS: &[(&str, &str)] = &[
    ("podgate_port_flows_evicted_total", "Connections that had to go before their time"),
    ("podgate_port_flows_refused_total", "New connections that found no room"),
    ("podgate_port_fragments_refused_total", "Fragments that found no room"),
    ("podgate_port_errors_total", "ICMP errors and resets made about packets that came by a port"),
    ("podgate_port_errors_refused_total", "Those not made because there had been too many"),
    ("podgate_port_neighbours_refused_total", "Neighbours not looked for because there were too many"),
];

/// The kernel's counters for AF_XDP sockets: metric name and help.
pub const SOCKET_COUNTERS: &[(&str, &str)] = &[
    ("podgate_xdp_rx_dropped_total", "Packets the kernel dropped before the socket, for want of frames too"),
    ("podgate_xdp_rx_invalid_descriptors_total", "Fill entries that the kernel refused"),
    ("podgate_xdp_tx_invalid_descriptors_total", "Transmit entries that the kernel refused"),
    ("podgate_xdp_rx_ring_full_total", "Packets dropped because the receive ring was full"),
    ("podgate_xdp_rx_fill_ring_empty_total", "Packets that found no free frame; part of rx_dropped"),
    ("podgate_xdp_tx_ring_empty_total", "Transmit calls that found nothing to send"),
];

fn set_status(status: &Status) {
    gauge!("podgate_build_info", "version" => status.version.clone()).set(1.0);
    gauge!("podgate_dead_workers").set(status.dead_workers.len() as f64);
    gauge!("podgate_ready").set(f64::from(u8::from(status.ready)));
    gauge!("podgate_generation_published").set(status.generation_published as f64);
    gauge!("podgate_generation_in_force").set(status.generation_in_force as f64);
    gauge!("podgate_retired_snapshots").set(status.policy.retired_snapshots as f64);
    counter!("podgate_publish_failures_total").absolute(status.policy.failed_publishes);
    gauge!("podgate_table_bytes").set(status.policy.table_bytes as f64);
    for limit in &status.policy.limits {
        gauge!("podgate_policy_limit_used", "name" => limit.name.clone()).set(limit.used as f64);
        gauge!("podgate_policy_limit_max", "name" => limit.name.clone()).set(limit.max as f64);
    }
    for (kind, count) in [
        ("Namespace", status.policy.namespaces),
        ("Pod", status.policy.pods),
        ("NetworkPolicy", status.policy.policies),
    ] {
        gauge!("podgate_objects", "kind" => kind).set(count as f64);
    }
    for source in &status.sources {
        let kind = source.kind.clone();
        gauge!("podgate_source_synced", "source" => kind.clone()).set(f64::from(u8::from(source.synced)));
        gauge!("podgate_source_errors", "source" => kind.clone()).set(source.errors.len() as f64);
        gauge!("podgate_source_bad_files", "source" => kind.clone()).set(source.bad_files as f64);
        if let Some(events) = &source.events {
            counter!("podgate_source_events_total", "source" => kind.clone()).absolute(events.told);
            counter!("podgate_source_events_failed_total", "source" => kind).absolute(events.failed);
        }
        for kind in &source.kinds {
            let labels = [("source", source.kind.clone()), ("kind", kind.kind.clone())];
            gauge!("podgate_source_current", &labels).set(f64::from(u8::from(kind.current)));
            gauge!("podgate_source_objects", &labels).set(kind.objects as f64);
            counter!("podgate_source_lists_total", &labels).absolute(kind.lists);
            counter!("podgate_source_failures_total", &labels).absolute(kind.failures);
        }
    }
    for kind in PortKind::ALL {
        for (state, label) in
            [(PortState::Up, "up"), (PortState::Closed, "closed"), (PortState::Down, "down")]
        {
            let count = status.ports.iter().filter(|p| p.kind == kind.name() && p.state == state).count();
            gauge!("podgate_ports", "kind" => kind.name(), "state" => label).set(count as f64);
        }
    }
    // A port that is down has no charges.
    status.ports.iter().filter(|port| port.id.is_some()).for_each(set_port);
    for worker in &status.workers {
        let number = worker.worker.to_string();
        gauge!("podgate_flows", "worker" => number.clone()).set(worker.flows as f64);
        gauge!("podgate_flow_capacity", "worker" => number.clone()).set(worker.flow_capacity as f64);
        for (name, count) in [
            ("podgate_flows_opened_total", worker.flows_opened),
            ("podgate_flows_expired_total", worker.flows_expired),
            ("podgate_flows_evicted_total", worker.flows_evicted),
            ("podgate_flows_cut_total", worker.flows_cut),
            ("podgate_errors_refused_total", worker.errors_refused),
        ] {
            counter!(name, "worker" => number.clone()).absolute(count);
        }
        gauge!("podgate_fragmented_datagrams", "worker" => number).set(worker.fragmented_datagrams as f64);
    }
    for hits in &status.policies {
        for (verdict, count) in [("allow", hits.decisions.allowed), ("deny", hits.decisions.denied)] {
            counter!(
                "podgate_policy_connections_total",
                "policy" => hits.policy.clone(),
                "direction" => hits.direction.clone(),
                "verdict" => verdict
            )
            .absolute(count);
        }
    }
}

fn set_port(port: &PortStatus) {
    let labels = [("interface", port.interface.clone()), ("pod", port.pod.clone().unwrap_or_default())];
    let PortStatus { flows, fragments, errors, neighbours, .. } = port;
    let gauges = [flows.open, flows.embryonic, fragments.datagrams, fragments.held, neighbours.wanted];
    for ((name, _), value) in PORT_GAUGES.iter().zip(gauges) {
        gauge!(*name, &labels).set(value as f64);
    }
    let counters =
        [flows.evicted, flows.refused, fragments.refused, errors.sent, errors.refused, neighbours.refused];
    for ((name, _), value) in PORT_COUNTERS.iter().zip(counters) {
        counter!(*name, &labels).absolute(value);
    }
}

fn set_workers(workers: &[Snapshot]) {
    let mut total = Snapshot::default();
    for (worker, counters) in workers.iter().enumerate() {
        total.add(counters);
        let worker = worker.to_string();
        let counts = &counters.counts;
        for kind in PortKind::ALL {
            for (name, by_kind) in [
                ("podgate_received_packets_total", &counts.rx_packets),
                ("podgate_received_bytes_total", &counts.rx_bytes),
                ("podgate_sent_packets_total", &counts.tx_packets),
                ("podgate_sent_bytes_total", &counts.tx_bytes),
            ] {
                let value = by_kind.get(kind.index()).copied().unwrap_or_default();
                counter!(name, "worker" => worker.clone(), "port_kind" => kind.name()).absolute(value);
            }
        }
        for (name, value) in [
            ("podgate_generated_packets_total", counts.generated),
            ("podgate_consumed_packets_total", counts.consumed),
            ("podgate_handed_over_packets_total", counts.handed_over),
            ("podgate_taken_over_packets_total", counts.taken_over),
        ] {
            counter!(name, "worker" => worker.clone()).absolute(value);
        }
        gauge!("podgate_held_packets", "worker" => worker).set(counters.held as f64);
    }
    for reason in DropReason::ALL {
        for kind in PortKind::ALL {
            let value = total.counts.drops(*reason).get(kind.index()).copied().unwrap_or_default();
            counter!(
                "podgate_dropped_packets_total",
                "reason" => reason.name(),
                "direction" => direction(*reason, kind),
                "port_kind" => kind.name()
            )
            .absolute(value);
        }
    }
}

/// Which way a dropped packet went, seen from the pod: what policy says where it decided, otherwise where it came from.
fn direction(reason: DropReason, ingress_port: PortKind) -> &'static str {
    match (reason, ingress_port) {
        (DropReason::PolicyIngress, _) => "ingress",
        (DropReason::PolicyEgress, _) | (_, PortKind::Pod) => "egress",
        (_, PortKind::Host | PortKind::Uplink) => "ingress",
    }
}

fn set_devices(devices: &[DeviceCounts]) {
    for device in devices {
        for (name, value) in &device.counters {
            counter!(*name, "interface" => device.interface.clone()).absolute(*value);
        }
    }
}

//! Status and metrics of the running gateway.

use std::collections::BTreeMap;
use std::time::SystemTime;

use podgate_config::manifest::server::SERVER;
use podgate_config::manifest::{Finding, Severity};
use podgate_dataplane::af_xdp::Statistics;
use podgate_dataplane::counters::Snapshot;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::policy::Direction;

use super::Gateway;
use crate::compiler::Limits;
use crate::explain::Asked;
use crate::source::kubernetes::events::Counts;
use crate::source::kubernetes::{KindState, Subscription};
use crate::status::{
    EventCounts, KindStatus, LimitStatus, PolicyHits, PolicyStatus, PortState, PortStatus, Problem,
    SourceStatus, Status, WorkerStatus,
};
use crate::telemetry::metrics::DeviceCounts;

impl Gateway {
    /// Everything at this moment.
    pub(super) fn status(&mut self) -> Status {
        let in_force = self.engine.generation_in_force();
        let sources = self.source_status();
        let mut ports = self.ports.status(&self.closed);
        ports.iter_mut().for_each(|port| self.add_charges(port));
        let workers = self.worker_status();
        let published = self.engine.generation_published();
        let synced = sources.iter().all(|source| source.synced);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            node: self.options.node.as_ref().map(ToString::to_string),
            synced,
            ready: self.publisher.open_since.is_some_and(|first| in_force >= first),
            generation_published: published,
            generation_in_force: in_force,
            problems: self.problems(&sources, &ports),
            dead_workers: self.engine.dead_workers().iter().map(|worker| worker.0).collect(),
            sources,
            policy: self.policy_status(),
            ports,
            drops: self.drop_counts(),
            workers,
            policies: self.policy_hits(),
        }
    }

    /// The exposition of all metrics.
    pub(super) fn exposition(&mut self) -> String {
        let workers: Vec<Snapshot> = self.engine.views().map(|view| view.counters.snapshot()).collect();
        let interfaces: BTreeMap<u16, String> =
            self.ports.open().map(|(interface, _, open)| (open.id, interface.clone())).collect();
        // Each worker asks the kernel for its sockets' counters between two turns.
        let statistics = tokio::task::block_in_place(|| self.engine.port_statistics());
        let devices: Vec<DeviceCounts> = statistics
            .iter()
            .filter_map(|(port, counters)| {
                let interface = interfaces.get(&port.0)?.clone();
                Some(DeviceCounts { interface, counters: named(counters) })
            })
            .collect();
        let status = self.status();
        self.metrics.render(&status, &workers, &devices, self.engine.drops_lost())
    }

    fn source_status(&self) -> Vec<SourceStatus> {
        let state = self.source.borrow();
        let api = self.api.as_ref().map(Subscription::state);
        // What does not fit together is wrong with the sources too, though with no single file.
        let together = &self.publisher.findings;
        let mut sources = Vec::new();
        if api.is_none() || !state.roots.is_empty() {
            let findings =
                state.findings.iter().chain(together.iter().filter(|finding| finding.file != SERVER));
            let [errors, warnings] = lines(findings);
            sources.push(SourceStatus {
                kind: "manifests".to_owned(),
                paths: state.roots.iter().map(|path| path.display().to_string()).collect(),
                synced: state.synced,
                files: state.files,
                bad_files: state.bad_files,
                kinds: Vec::new(),
                events: None,
                changed_seconds_ago: seconds_since(state.since),
                errors,
                warnings,
                skipped: state.skipped.clone(),
            });
        }
        if let Some(api) = api {
            let findings =
                api.findings.iter().chain(together.iter().filter(|finding| finding.file == SERVER));
            let [mut errors, warnings] = lines(findings);
            let kinds = api.kinds.iter().map(|state| kind_status(state, self.api_lives));
            let kinds: Vec<KindStatus> = kinds.collect();
            // First of all: it may explain everything else.
            errors.splice(..0, KindStatus::problems(&kinds));
            sources.push(SourceStatus {
                kind: SERVER.to_owned(),
                paths: vec![api.server],
                // Not before the gateway has taken over what there is.
                synced: api.synced && self.api_synced,
                files: 0,
                bad_files: 0,
                kinds,
                events: api.events.map(|Counts { told, failed }| EventCounts { told, failed }),
                changed_seconds_ago: seconds_since(api.since),
                errors,
                warnings,
                skipped: BTreeMap::new(),
            });
        }
        sources
    }

    fn problems(&self, sources: &[SourceStatus], ports: &[PortStatus]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut tell = |error, subject: &str, message: String| {
            problems.push(Problem { error, subject: subject.to_owned(), message });
        };
        for source in sources.iter().filter(|source| !source.synced) {
            let message = format!(
                "{}: not without error yet, so pods take only what comes from their own node",
                source.kind
            );
            tell(true, "source", message);
        }
        if let Some(error) = self.publisher.error() {
            tell(true, "publish", format!("{error}; the last good policies stay in force"));
        }
        for line in sources.iter().flat_map(|source| &source.errors) {
            tell(true, "source", line.clone());
        }
        for worker in self.engine.dead_workers() {
            tell(
                true,
                "worker",
                format!("worker {worker} has ended by itself, its ports drop; start podgate again"),
            );
        }
        for port in ports.iter().filter(|port| port.state != PortState::Up) {
            let word = if port.state == PortState::Down { "down" } else { "closed" };
            let detail = port.detail.as_deref().unwrap_or("no reason known");
            tell(true, "port", format!("{} is {word}: {detail}", port.interface));
        }
        if !self.source_lives {
            tell(true, "source", "manifests are no longer followed; start podgate again".to_owned());
        }
        if !self.api_lives {
            tell(true, "source", "the API server is no longer followed; start podgate again".to_owned());
        }
        for Problem { error, subject, message } in self.limit_problems(ports) {
            tell(error, &subject, message);
        }
        for line in sources.iter().flat_map(|source| &source.warnings) {
            tell(false, "source", line.clone());
        }
        problems
    }

    fn policy_status(&self) -> PolicyStatus {
        let mut status = PolicyStatus {
            compile_seconds: self.publisher.took.as_secs_f64(),
            failed_publishes: self.publisher.failed,
            last_error: self.publisher.error(),
            retired_snapshots: self.engine.snapshots_waiting(),
            ..PolicyStatus::default()
        };
        self.publisher.world().with(|world| {
            let cluster = world.cluster();
            status.namespaces = cluster.namespaces.len();
            status.pods = cluster.pods.len();
            status.policies = cluster.policies.len();
            status.limits = limits(&world.live().compiler().used(), &self.options.limits);
            status.table_bytes = world.live().tables().memory_bytes();
        });
        status
    }

    fn worker_status(&self) -> Vec<WorkerStatus> {
        let cores = self.engine.cores();
        let views = (0u8..).zip(self.engine.views()).zip(cores);
        views
            .map(|((worker, view), core)| {
                let Snapshot { counts, held } = view.counters.snapshot();
                let flows = view.flow_counts();
                WorkerStatus {
                    worker,
                    core,
                    received: counts.rx_packets.iter().sum(),
                    sent: counts.tx_packets.iter().sum(),
                    dropped: counts.dropped_total(),
                    flows: view.flows(),
                    flow_capacity: self.options.flows as u64,
                    flows_opened: flows.opened,
                    flows_expired: flows.expired,
                    flows_evicted: flows.evicted,
                    flows_cut: flows.cut,
                    errors_refused: view.errors_refused(),
                    fragmented_datagrams: view.datagrams(),
                    held,
                }
            })
            .collect()
    }

    fn drop_counts(&self) -> BTreeMap<String, u64> {
        let mut total = Snapshot::default();
        for view in self.engine.views() {
            total.add(&view.counters.snapshot());
        }
        DropReason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), total.counts.drops(*reason).iter().sum()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn policy_hits(&self) -> Vec<PolicyHits> {
        let hits = self.publisher.world().with(|world| world.live().policy_hits());
        hits.into_iter()
            .map(|((policy, direction), hits)| PolicyHits {
                policy: policy.to_string(),
                direction: match direction {
                    Direction::Ingress => "ingress".to_owned(),
                    Direction::Egress => "egress".to_owned(),
                },
                decisions: hits.into(),
            })
            .collect()
    }
}

/// Errors and warnings.
fn lines<'f>(findings: impl Iterator<Item = &'f Finding>) -> [Vec<String>; 2] {
    let mut lines = [Vec::new(), Vec::new()];
    let [errors, warnings] = &mut lines;
    for finding in findings {
        match finding.severity {
            Severity::Error => errors.push(finding.to_string()),
            Severity::Warning => warnings.push(finding.to_string()),
        }
    }
    lines
}

fn seconds_since(time: SystemTime) -> u64 {
    SystemTime::now().duration_since(time).unwrap_or_default().as_secs()
}

fn kind_status(state: &KindState, followed: bool) -> KindStatus {
    KindStatus {
        kind: state.kind.to_owned(),
        synced: state.synced,
        current: state.current && followed,
        objects: state.objects,
        version: state.version.clone(),
        lists: state.lists,
        failures: state.failures,
        error: state.error.clone(),
        away_seconds: state.away_since.map(|since| since.elapsed().as_secs()),
    }
}

fn limits(used: &Limits, max: &Limits) -> Vec<LimitStatus> {
    let limits = [
        ("pods", used.pods, max.pods),
        ("atoms", used.atoms, max.atoms),
        ("rows", used.rows, max.rows),
        ("program_words", used.program_words, max.program_words),
        ("range_boundaries", used.range_boundaries, max.range_boundaries),
    ];
    limits.map(|(name, used, max)| LimitStatus { name: name.to_owned(), used, max }).into()
}

/// The kernel's counters under the names that they are exposed by.
fn named(counters: &Statistics) -> Vec<(&'static str, u64)> {
    vec![
        ("podgate_xdp_rx_dropped_total", counters.rx_dropped),
        ("podgate_xdp_rx_invalid_descriptors_total", counters.rx_invalid_descriptors),
        ("podgate_xdp_tx_invalid_descriptors_total", counters.tx_invalid_descriptors),
        ("podgate_xdp_rx_ring_full_total", counters.rx_ring_full),
        ("podgate_xdp_rx_fill_ring_empty_total", counters.rx_fill_ring_empty),
        ("podgate_xdp_tx_ring_empty_total", counters.tx_ring_empty),
    ]
}

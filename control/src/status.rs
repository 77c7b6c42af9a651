//! How the gateway is, for machines and for people at 3 a.m.
//!
//! [`Status`] is what the admin socket answers and `-o json` prints; its names are an interface. The text form
//! begins with what is wrong, because that is why somebody looks.

mod limits;
mod policies;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cli::{Console, Table, Tone};

pub use limits::{PortErrors, PortFlows, PortFragments, PortNeighbours};
pub use policies::{Decisions, PoliciesStatus, PolicyStanding, Standing};

/// Problems that the text form shows; errors come first.
const PROBLEMS_SHOWN: usize = 20;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The node it serves, if the settings name one.
    pub node: Option<String>,
    /// Whether every source was without error at one moment since the start. Until then pods talk with their own
    /// node alone.
    pub synced: bool,
    /// Whether it is synced and every worker judges by published tables.
    pub ready: bool,
    /// Number of the snapshot handed to the workers last.
    pub generation_published: u64,
    /// Number of the oldest snapshot that a worker may still be judging by.
    pub generation_in_force: u64,
    /// Everything an operator should know of, worst first; empty if all is well.
    pub problems: Vec<Problem>,
    /// Workers that have ended by themselves.
    #[serde(default)]
    pub dead_workers: Vec<u8>,
    /// Where objects come from.
    pub sources: Vec<SourceStatus>,
    /// What is compiled and in force.
    pub policy: PolicyStatus,
    /// Every port, by interface.
    pub ports: Vec<PortStatus>,
    /// Every worker, by number.
    pub workers: Vec<WorkerStatus>,
    /// Packets dropped, by reason; reasons that never happened are left out.
    pub drops: BTreeMap<String, u64>,
    /// New connections decided, by policy.
    pub policies: Vec<PolicyHits>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whether something is kept from working; otherwise it is only suspicious.
    pub error: bool,
    /// What is concerned: `source`, `publish`, `port`, `worker`, or a limit: `flows`, `fragments`, `errors`,
    /// `neighbours`.
    pub subject: String,
    /// One line.
    pub message: String,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// What kind: `manifests` or `kubernetes`.
    pub kind: String,
    /// Its paths, or the API server's address.
    pub paths: Vec<String>,
    /// Whether everything was good at one moment since the start.
    pub synced: bool,
    /// How many files there are.
    pub files: usize,
    /// How many of these are bad now, with their last good state in force.
    pub bad_files: usize,
    /// How each kind of an API server's objects is followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<KindStatus>,
    /// Requests for Kubernetes Events, if some shall be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventCounts>,
    /// Seconds since anything in it changed.
    pub changed_seconds_ago: u64,
    /// What is wrong with it now, one line each.
    pub errors: Vec<String>,
    /// What is suspicious, one line each.
    pub warnings: Vec<String>,
    /// Documents of kinds that are not ours, by kind.
    pub skipped: BTreeMap<String, usize>,
}

/// Requests for Kubernetes Events since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Events that were made or counted up.
    pub told: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// How a kind of an API server's objects is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindStatus {
    /// `kind` of the objects.
    pub kind: String,
    /// Whether all of them were listed once.
    pub synced: bool,
    /// Whether the server tells of changes now. If not, what it said last is in force.
    pub current: bool,
    /// Objects known.
    pub objects: usize,
    /// The server's version (resourceVersion) up to which what it said of this kind is in the generation published last, unless
    /// that failed; empty if there is none. It grows when the server tells of this kind, or sends a bookmark.
    #[serde(default)]
    pub version: String,
    /// How often all of them were listed since the start.
    pub lists: u64,
    /// Requests and watches that failed since the start.
    pub failures: u64,
    /// Why the server does not tell of changes.
    pub error: Option<String>,
    /// For how many seconds it has not.
    pub away_seconds: Option<u64>,
}

impl KindStatus {
    /// What is wrong, in one line for all kinds that have the same.
    pub(crate) fn problems(kinds: &[Self]) -> Vec<String> {
        let mut same: Vec<(&str, bool, Vec<&Self>)> = Vec::new();
        for kind in kinds {
            let Some(error) = kind.error.as_deref() else { continue };
            match same.iter_mut().find(|(known, synced, _)| *known == error && *synced == kind.synced) {
                Some((.., kinds)) => kinds.push(kind),
                None => same.push((error, kind.synced, vec![kind])),
            }
        }
        let line = |(error, synced, kinds): (&str, bool, Vec<&Self>)| {
            let away = kinds.iter().filter_map(|kind| kind.away_seconds).max().unwrap_or_default();
            let names: Vec<&str> = kinds.iter().map(|kind| kind.kind.as_str()).collect();
            let instead = match synced {
                true => "what it said last stays in force",
                false => "it has not said anything yet",
            };
            format!(
                "the API server is not followed for {} ({}): {error}; {instead}",
                duration(away),
                names.join(", ")
            )
        };
        same.into_iter().map(line).collect()
    }
}

/// What is compiled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Namespaces known.
    pub namespaces: usize,
    /// Pods known.
    pub pods: usize,
    /// NetworkPolicies known.
    pub policies: usize,
    /// Bytes of the tables in force.
    pub table_bytes: usize,
    /// How long compiling the last snapshot took.
    pub compile_seconds: f64,
    /// Snapshots that could not be published since the start.
    pub failed_publishes: u64,
    /// Why the last attempt failed; `None` if it did not.
    pub last_error: Option<String>,
    /// Replaced snapshots that a worker has not let go of yet.
    pub retired_snapshots: usize,
    /// How much of each limit is used, as the settings name them.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
}

/// A limit of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// The setting without its `limit_`.
    pub name: String,
    /// How much is used; if it was reached, by the tables that are in force instead.
    pub used: usize,
    /// How much may be.
    pub max: usize,
}

/// Whether a port passes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// Packets are judged by policy.
    Up,
    /// Attached, but everything is dropped; `detail` says why.
    Closed,
    /// Not attached; `detail` says why.
    Down,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its network interface.
    pub interface: String,
    /// `pod`, `host` or `uplink`.
    pub kind: String,
    /// Number in records and metrics; `None` while it is down.
    pub id: Option<u16>,
    /// `namespace/name` for a pod port.
    pub pod: Option<String>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// MAC address on the far side: the pod's own.
    pub mac: Option<String>,
    /// The workers of its queues, in order.
    pub workers: Vec<u8>,
    /// How often the number of its queues has changed while it was open. Each time it was opened anew.
    #[serde(default)]
    pub queue_changes: u32,
    /// Whether it passes packets.
    pub state: PortState,
    /// Why it does not.
    pub detail: Option<String>,
    /// What it costs the flow tables.
    pub flows: PortFlows,
    /// What it costs the tables of fragments.
    #[serde(default)]
    pub fragments: PortFragments,
    /// How much is said about its packets.
    #[serde(default)]
    pub errors: PortErrors,
    /// Neighbours that its packets want.
    #[serde(default)]
    pub neighbours: PortNeighbours,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: u8,
    /// The CPU it is pinned to.
    pub core: usize,
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Connections in its flow table.
    pub flows: u64,
    /// Most connections that this table holds.
    pub flow_capacity: u64,
    /// Connections entered since the start.
    pub flows_opened: u64,
    /// Connections that ended because they were silent for too long.
    pub flows_expired: u64,
    /// Connections that had to go for new ones before their time.
    pub flows_evicted: u64,
    /// Connections that a change of policy or pods ended, or that a new one replaced.
    pub flows_cut: u64,
    /// ICMP errors and resets that were not sent because there had been too many.
    pub errors_refused: u64,
    /// Datagrams in fragments of which some are still missing.
    pub fragmented_datagrams: u64,
    /// Fragments that wait for the first one of their datagram.
    pub held: u64,
}

/// How often a policy decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyHits {
    /// `namespace/name`.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// How often.
    #[serde(flatten)]
    pub decisions: Decisions,
}

impl Status {
    /// The text for people.
    ///
    /// # Errors
    /// The console's.
    pub fn print(&self, console: &mut Console) -> io::Result<()> {
        let (tone, word) = match (self.ready, self.problems.iter().any(|problem| problem.error)) {
            (false, _) => (Tone::Bad, "not ready"),
            (true, true) => (Tone::Warn, "ready, with errors"),
            (true, false) => (Tone::Good, "ready"),
        };
        let node = self.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
        console.line(format!(
            "podgate {}{node}: {}, up {}, pid {}",
            self.version,
            console.paint(tone, word),
            duration(self.uptime_seconds),
            self.pid
        ))?;
        for problem in self.problems.iter().take(PROBLEMS_SHOWN) {
            let mark = if problem.error {
                console.paint(Tone::Bad, "error")
            } else {
                console.paint(Tone::Warn, "warning")
            };
            console.line(format!("  {mark}: {}: {}", problem.subject, problem.message))?;
        }

        if self.problems.len() > PROBLEMS_SHOWN {
            let more = self.problems.len() - PROBLEMS_SHOWN;
            console.line(format!("  and {more} more, all of them with `podgate status -o json`"))?;
        }

        heading(console, "Policy")?;
        let policy = &self.policy;
        console.line(format!(
            "  generation published {}, in force {}; {} namespaces, {} pods, {} policies; {} KiB compiled in {:.1} ms",
            self.generation_published,
            self.generation_in_force,
            policy.namespaces,
            policy.pods,
            policy.policies,
            policy.table_bytes / 1024,
            policy.compile_seconds * 1e3
        ))?;

        heading(console, "Sources")?;
        for source in &self.sources {
            let holds = match source.kinds.as_slice() {
                [] => format!("{} files, {} bad", source.files, source.bad_files),
                kinds => {
                    let kinds: Vec<String> =
                        kinds.iter().map(|kind| format!("{} {}", kind.objects, kind.kind)).collect();
                    kinds.join(", ")
                }
            };
            console.line(format!(
                "  {} {}: {holds}, changed {} ago, {}",
                source.kind,
                source.paths.join(" "),
                duration(source.changed_seconds_ago),
                if source.synced { "synced" } else { "not synced yet" }
            ))?;
            if !source.skipped.is_empty() {
                let skipped: Vec<String> =
                    source.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                console.line(format!("    not ours, skipped: {}", skipped.join(", ")))?;
            }
        }

        heading(console, "Ports")?;
        print_ports(&self.ports, console, "  ")?;

        heading(console, "Workers")?;
        let mut table =
            Table::new(&["worker", "core", "received", "sent", "dropped", "connections", "fragments"]);
        for worker in &self.workers {
            table.row([
                worker.worker.to_string(),
                worker.core.to_string(),
                worker.received.to_string(),
                worker.sent.to_string(),
                worker.dropped.to_string(),
                format!("{} of {}", worker.flows, worker.flow_capacity),
                format!("{} held, {} datagrams", worker.held, worker.fragmented_datagrams),
            ]);
        }
        table.print(console, "  ")?;

        limits::print(&self.ports, console)?;
        if !self.drops.is_empty() {
            heading(console, "Drops")?;
            let mut table = Table::new(&["packets", "reason"]);
            let mut drops: Vec<_> = self.drops.iter().collect();
            drops.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (reason, count) in drops {
                table.row([count.to_string(), reason.clone()]);
            }
            table.print(console, "  ")?;
        }
        if !self.policies.is_empty() {
            heading(console, "New connections by policy")?;
            let mut table = Table::new(&["policy", "direction", "allowed", "denied"]);
            for hits in &self.policies {
                table.row([
                    hits.policy.clone(),
                    hits.direction.clone(),
                    hits.decisions.allowed.to_string(),
                    hits.decisions.denied.to_string(),
                ]);
            }
            table.print(console, "  ")?;
        }
        Ok(())
    }
}

/// Ports as a table.
///
/// # Errors
/// The console's.
pub fn print_ports(ports: &[PortStatus], console: &mut Console, indent: &str) -> io::Result<()> {
    if ports.is_empty() {
        return console.line(format!("{indent}none"));
    }
    let mut table = Table::new(&["interface", "kind", "pod", "addresses", "worker", "queues", "state"]);
    for port in ports {
        let state = match (port.state, &port.detail) {
            (PortState::Up, _) => (with_queue_changes("up", port.queue_changes), Some(Tone::Good)),
            (PortState::Closed, detail) => (with_detail("closed", detail.as_deref()), Some(Tone::Bad)),
            (PortState::Down, detail) => (with_detail("down", detail.as_deref()), Some(Tone::Bad)),
        };
        let plain = |text: String| (if text.is_empty() { "-".to_owned() } else { text }, None);
        let mut workers = port.workers.clone();
        workers.sort_unstable();
        workers.dedup();
        table.toned([
            plain(port.interface.clone()),
            plain(port.kind.clone()),
            plain(port.pod.clone().unwrap_or_default()),
            plain(join(&port.addresses)),
            plain(join(&workers)),
            plain(if port.workers.is_empty() { String::new() } else { port.workers.len().to_string() }),
            state,
        ]);
    }
    table.print(console, indent)
}

fn with_detail(word: &str, detail: Option<&str>) -> String {
    detail.map_or_else(|| word.to_owned(), |detail| format!("{word}: {detail}"))
}

fn with_queue_changes(word: &str, changes: u32) -> String {
    match changes {
        0 => word.to_owned(),
        1 => format!("{word}, queues changed once"),
        times => format!("{word}, queues changed {times} times"),
    }
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn heading(console: &mut Console, text: &str) -> io::Result<()> {
    let text = console.paint(Tone::Strong, text);
    console.line(format!("\n{text}"))
}

/// `42 s`, `3 min`, `5 h`, `2 d`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

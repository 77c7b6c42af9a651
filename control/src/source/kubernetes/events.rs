//! Kubernetes Events on objects that cannot be applied: what, why, and what is in force instead.
//!
//! The gateway says what cannot be applied now, all of it ([`Note`]), and goes on. Events are made of that here, one after the
//! other and at a pace of their own; what fails is counted, told in the log once, and tried again later.
//!
//! Every gateway of a cluster finds the same faults. So an Event's name is made of what it tells, and the server refuses the
//! second one of a name: whoever comes later leaves it at that. The one who made it counts it up while the fault stands, before
//! the server forgets it (an hour, usually). A fault that is mended at once, and one that is the same after a change, makes no
//! Event.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::chance;
use super::client::Server;
use super::error::{chain, line};
use super::state::Shared;
use crate::store::Key;

/// Notes that are looked at; the rest waits until some of these are mended.
pub const MOST_NOTES: usize = 500;
/// Characters of a message: more is refused.
const LONGEST_MESSAGE: usize = 1000;
/// Where Events on objects without a namespace are.
const DEFAULT_NAMESPACE: &str = "default";
/// Who tells.
const COMPONENT: &str = "podgate";

/// An object that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its kind and name.
    pub key: Key,
    /// Its UID, if that is known.
    pub uid: Option<Arc<str>>,
    /// What is the matter.
    pub reason: Reason,
    /// Why, and what is in force instead.
    pub message: String,
}

/// What is the matter with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// What it says cannot be made out.
    NotUnderstood,
    /// It could not be brought into force. Why may be another number in every attempt.
    NotInForce,
    /// Its port takes and sends nothing.
    PortClosed,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::NotUnderstood => "NotUnderstood",
            Self::NotInForce => "NotInForce",
            Self::PortClosed => "PortClosed",
        }
    }
}

/// Who makes Events, and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// The node of this gateway.
    pub node: String,
    /// For how long something is so before it is told.
    pub stands: Duration,
    /// How long after a fault of an object the next one of it is told, at least.
    pub apart: Duration,
    /// How often an Event of ours is counted up.
    pub renew: Duration,
    /// After how long an Event of somebody else's is made again, if it is gone.
    pub others: Duration,
    /// After how long what failed is tried again.
    pub retry: Duration,
    /// Requests that may be made at once.
    pub burst: u32,
    /// How often one more may be made.
    pub every: Duration,
}

impl Reporter {
    /// At the usual pace.
    #[must_use]
    pub fn of(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            stands: Duration::from_secs(3),
            apart: Duration::from_secs(60),
            renew: Duration::from_secs(1800),
            others: Duration::from_secs(2700),
            retry: Duration::from_secs(300),
            burst: 20,
            every: Duration::from_secs(10),
        }
    }
}

/// Requests for Events since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events made or counted up.
    pub told: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// Namespace and name of an Event.
type EventName = (String, String);

struct Entry {
    note: Note,
    due: Instant,
    /// How often it was told by us; 0 if it was not, or by somebody else.
    count: i32,
}

/// What became of a request.
enum Outcome {
    Told,
    /// Somebody has told it already.
    Exists,
    /// The server has forgotten our Event.
    Forgotten,
    Failed(String),
}

/// Makes Events of what the gateway notes. Never ends.
pub(super) async fn tell(server: Arc<Server>, shared: Arc<Shared>, reporter: Reporter) {
    let mut notes = shared.notes();
    // The gateway may have been faster.
    notes.mark_changed();
    let mut teller = Teller {
        server,
        shared,
        reporter,
        entries: BTreeMap::new(),
        lately: BTreeMap::new(),
        charged: Instant::now(),
        warned: false,
    };
    loop {
        let due = teller.due();
        tokio::select! {
            _ = notes.changed() => {
                let now = notes.borrow_and_update().clone();
                teller.take(now);
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                teller.tell_one().await;
            }
        }
    }
}

struct Teller {
    server: Arc<Server>,
    shared: Arc<Shared>,
    reporter: Reporter,
    entries: BTreeMap<EventName, Entry>,
    /// When a fault of each object was told, if that is not long ago.
    lately: BTreeMap<Key, Instant>,
    /// When all requests so far would have been made, one [`Reporter::every`].
    charged: Instant,
    warned: bool,
}

impl Teller {
    /// When to make the next request.
    fn due(&self) -> Option<Instant> {
        let due = self.entries.values().map(|entry| entry.due).min()?;
        let credit = self.reporter.every * self.reporter.burst.saturating_sub(1);
        Some(self.charged.checked_sub(credit).map_or(due, |free| due.max(free)))
    }

    /// What is to be told now; what is not among it is mended.
    fn take(&mut self, notes: Vec<Note>) {
        let mut before = std::mem::take(&mut self.entries);
        let now = Instant::now();
        self.lately.retain(|_, told| *told + self.reporter.apart > now);
        for note in notes {
            let name = name(&note);
            let entry = match before.remove(&name) {
                Some(entry) => Entry { note, ..entry },
                None => {
                    let earliest = self.lately.get(&note.key).map_or(now, |told| *told + self.reporter.apart);
                    Entry { due: earliest.max(now + self.reporter.stands), note, count: 0 }
                }
            };
            self.entries.insert(name, entry);
        }
    }

    async fn tell_one(&mut self) {
        let now = Instant::now();
        let due = |(_, entry): &(&EventName, &mut Entry)| entry.due;
        let Some((name, entry)) = self.entries.iter_mut().min_by_key(due).filter(|(_, e)| e.due <= now)
        else {
            return;
        };
        self.charged = self.charged.max(now) + self.reporter.every;
        let request = async {
            let events: Api<Event> = Api::namespaced(self.server.client(), &name.0);
            match entry.count {
                0 => {
                    let event = event(&self.reporter.node, name, &entry.note);
                    events.create(&PostParams::default(), &event).await.map(drop)
                }
                count => {
                    let change = json!({
                        "count": count.saturating_add(1),
                        "lastTimestamp": Time(Timestamp::now()),
                        "message": message(&entry.note),
                    });
                    events.patch(&name.1, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
                }
            }
        };
        let outcome = match tokio::time::timeout(self.server.patience(), request).await {
            Ok(Ok(())) => Outcome::Told,
            Ok(Err(kube::Error::Api(status))) => match status.code {
                409 if entry.count == 0 => Outcome::Exists,
                404 if entry.count > 0 => Outcome::Forgotten,
                code => Outcome::Failed(format!("it answers {code} {}", status.message)),
            },
            Ok(Err(error)) => Outcome::Failed(chain(&error)),
            Err(_) => Outcome::Failed("it is silent".to_owned()),
        };
        let pause = match &outcome {
            Outcome::Told => self.reporter.renew,
            Outcome::Exists => self.reporter.others,
            Outcome::Forgotten => Duration::ZERO,
            Outcome::Failed(_) => self.reporter.retry,
        };
        // Not all gateways at the same moment.
        entry.due = Instant::now() + pause.mul_f64(0.75 + 0.5 * chance());
        if matches!(outcome, Outcome::Told | Outcome::Exists) {
            self.lately.insert(entry.note.key.clone(), now);
        }
        match outcome {
            Outcome::Told => {
                entry.count = entry.count.saturating_add(1);
                self.shared.count_events(|counts| counts.told += 1);
            }
            Outcome::Exists => {}
            Outcome::Forgotten => entry.count = 0,
            Outcome::Failed(error) => {
                self.shared.count_events(|counts| counts.failed += 1);
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(
                        "Events cannot be made: {}; `podgate config --rbac` prints the rights that they need. This is told \
                         once; podgate_source_events_failed_total counts",
                        line(&error)
                    );
                }
            }
        }
    }
}

fn event(node: &str, (namespace, name): &EventName, note: &Note) -> Event {
    let now = Time(Timestamp::now());
    let (api_version, kind, own_namespace, own_name) = reference(&note.key);
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: own_namespace,
            name: Some(own_name),
            uid: note.uid.as_deref().map(ToOwned::to_owned),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(note.reason.word().to_owned()),
        message: Some(message(note)),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

fn message(note: &Note) -> String {
    note.message.chars().take(LONGEST_MESSAGE).collect()
}

/// `apiVersion`, kind, namespace and name.
fn reference(key: &Key) -> (&'static str, &'static str, Option<String>, String) {
    match key {
        Key::Namespace(name) => ("v1", "Namespace", None, name.to_string()),
        Key::Node(name) => ("v1", "Node", None, name.to_string()),
        Key::Pod(name) => ("v1", "Pod", Some(name.namespace.to_string()), name.name.to_string()),
        Key::Policy(name) => {
            let namespace = Some(name.namespace.to_string());
            ("networking.k8s.io/v1", "NetworkPolicy", namespace, name.name.to_string())
        }
    }
}

/// The same for the same fault, whoever tells it. Gateways of different versions may differ; then there are two.
fn name(note: &Note) -> EventName {
    /// Characters that a name may have, without those of the number.
    const LONGEST: usize = 253 - 17;
    let (_, kind, namespace, object) = reference(&note.key);
    let mut hasher = DefaultHasher::new();
    let message = if note.reason == Reason::NotInForce { "" } else { &note.message };
    (kind, &note.uid, note.reason.word(), message).hash(&mut hasher);
    let object: String = object.chars().take(LONGEST).collect();
    let object = object.trim_end_matches(['.', '-']);
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    (namespace, format!("{object}.{:016x}", hasher.finish()))
}

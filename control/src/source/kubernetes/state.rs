//! Between those who follow the server and whoever enforces what it says.
//!
//! Changes wait here by object until they are taken ([`Subscription::take`]): an object that changes ten times meanwhile is one
//! change, so what waits is bounded by what there is, and taking it costs what has changed. Nothing is given before every
//! kind was listed once: half a cluster's policies would be an open door. The word that this has happened comes with the
//! changes that make it true, never before them.
//!
//! After that nothing is taken back because a server is away. [`Subscription::state`] says so instead.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use podgate_config::manifest::server::Instead;
use podgate_config::manifest::{Finding, ObjectValue, Severity};
use tokio::sync::watch;

use super::Followed;
use super::error::{ApiError, line};
use super::events::{Counts, Note};
use super::mirror::Change;
use crate::store::Key;

/// How following one kind goes.
#[derive(Debug, Clone)]
pub struct KindState {
    /// `kind` of its objects.
    pub kind: &'static str,
    /// Whether it was listed once, or the server has no such kind and need not.
    pub synced: bool,
    /// Objects known.
    pub objects: usize,
    /// The server's version up to which what it said of this kind was taken; empty before that.
    pub version: String,
    /// Whether the server tells of changes now.
    pub current: bool,
    /// Why it does not; `None` at the start and as long as all is well.
    pub error: Option<String>,
    /// Since when it does not.
    pub away_since: Option<Instant>,
    /// Complete lists since the start.
    pub lists: u64,
    /// Failures since the start.
    pub failures: u64,
}

/// How following the server goes.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// Its address.
    pub server: String,
    /// Whether everything was listed once.
    pub synced: bool,
    /// By kind.
    pub kinds: Vec<KindState>,
    /// What is wrong with single objects.
    pub findings: Vec<Finding>,
    /// When an object changed last.
    pub since: SystemTime,
    /// Events that were made of objects that cannot be applied; `None` if none shall be.
    pub events: Option<Counts>,
}

/// What the server says of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// This.
    Is(Arc<ObjectValue>),
    /// It is there, but what it is cannot be made out.
    NotUnderstood,
    /// It is gone.
    Gone,
}

/// An object's name, and what it is now.
pub type Changed = (Key, Said);

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Its UID.
    pub uid: Arc<str>,
    /// What counts of it; `None` if all does.
    pub instead: Option<Instead>,
    /// What is wrong, never empty.
    pub findings: Vec<Finding>,
}

impl Trouble {
    /// What is wrong and what counts instead, in one line; `None` if all of it counts.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let instead = self.instead?.describe();
        let errors = || self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let first = errors().next()?;
        let more = match errors().count() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!("{}: {}{more}; {instead}", first.field, first.message))
    }
}

/// What is wrong with all objects of a server.
pub type Troubles = BTreeMap<Key, Arc<Trouble>>;

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// Whether everything was listed once. If not, there are no changes.
    pub synced: bool,
    /// Objects that are others than when this was asked last.
    pub changes: Vec<Changed>,
    /// What is wrong with single objects; `None` if that is as before.
    pub troubles: Option<Troubles>,
}

struct Inner {
    server: String,
    pending: HashMap<Key, Said>,
    /// With the version up to which what waits here was said.
    kinds: Vec<KindState>,
    /// By kind: the version up to which everything was taken.
    taken: Vec<String>,
    troubles: Troubles,
    troubles_changed: bool,
    since: SystemTime,
    events: Option<Counts>,
}

impl Inner {
    fn synced(&self) -> bool {
        self.kinds.iter().all(|kind| kind.synced)
    }

    /// Nothing that was said so far waits any more.
    fn note_taken(&mut self) {
        for (kind, taken) in self.kinds.iter().zip(&mut self.taken) {
            taken.clone_from(&kind.version);
        }
    }
}

/// What all followers share.
pub(super) struct Shared {
    inner: Arc<Mutex<Inner>>,
    /// Counts what there is to take.
    news: watch::Sender<u64>,
    /// Counts how often the server was found to be another than before.
    restored: watch::Sender<u64>,
    /// What is to be told in Events.
    notes: Arc<watch::Sender<Vec<Note>>>,
}

impl Shared {
    /// Nothing is known yet of these kinds. Events are counted if there shall be some.
    pub fn new(server: &str, kinds: &[Followed], events: bool) -> Arc<Self> {
        let kinds = kinds.iter().map(|followed| KindState {
            kind: followed.kind.name(),
            synced: false,
            objects: 0,
            version: String::new(),
            current: false,
            error: None,
            away_since: None,
            lists: 0,
            failures: 0,
        });
        let inner = Inner {
            server: server.to_owned(),
            pending: HashMap::new(),
            taken: vec![String::new(); kinds.len()],
            kinds: kinds.collect(),
            troubles: Troubles::new(),
            troubles_changed: false,
            since: SystemTime::now(),
            events: events.then(Counts::default),
        };
        let inner = Arc::new(Mutex::new(inner));
        let (news, restored) = (watch::channel(0).0, watch::channel(0).0);
        let notes = Arc::new(watch::channel(Vec::new()).0);
        Arc::new(Self { inner, news, restored, notes })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Somebody to give the changes to: there may be one.
    pub fn subscribe(&self) -> Subscription {
        Subscription { inner: self.inner.clone(), news: self.news.subscribe(), notes: self.notes.clone() }
    }

    /// What the gateway would have told in Events.
    pub fn notes(&self) -> watch::Receiver<Vec<Note>> {
        self.notes.subscribe()
    }

    /// Changes how many Events were made.
    pub fn count_events(&self, change: impl FnOnce(&mut Counts)) {
        if let Some(counts) = &mut self.lock().events {
            change(counts);
        }
    }

    /// One kind shows that the server was restored from a backup.
    pub fn restored(&self) {
        self.restored.send_modify(|count| *count += 1);
    }

    /// The settings name another server than before, to which no version of the old one means anything.
    pub fn moved(&self, server: String) {
        tracing::warn!(%server, "the API server has another address now; everything is listed anew");
        self.lock().server = server;
        self.restored();
    }

    /// Changes when one kind shows that.
    pub fn restores(&self) -> watch::Receiver<u64> {
        self.restored.subscribe()
    }

    /// Ends when nobody asks any more.
    pub async fn abandoned(&self) {
        self.news.closed().await;
    }

    /// A list of a version is complete, or the server has no such kind.
    pub fn listed(&self, followed: &Followed, changes: Vec<Change>, objects: usize, version: &str) {
        self.change(followed, changes, objects, version, true);
    }

    /// The server has told of everything up to a version; nothing of it may be news.
    pub fn told(&self, followed: &Followed, change: Option<Change>, objects: usize, version: &str) {
        self.change(followed, change.into_iter().collect(), objects, version, false);
    }

    fn change(&self, followed: &Followed, changes: Vec<Change>, objects: usize, version: &str, listed: bool) {
        let mut inner = self.lock();
        let was_synced = inner.synced();
        if let Some(kind) = inner.kinds.iter_mut().find(|kind| kind.kind == followed.kind.name()) {
            kind.objects = objects;
            version.clone_into(&mut kind.version);
            if listed {
                kind.synced = true;
                kind.lists += 1;
            }
        }
        let any = !changes.is_empty();
        for Change { key, said, trouble } in changes {
            inner.troubles_changed |= trouble.is_some() || inner.troubles.contains_key(&key);
            match trouble {
                Some(trouble) => drop(inner.troubles.insert(key.clone(), trouble)),
                None => drop(inner.troubles.remove(&key)),
            }
            inner.pending.insert(key, said);
        }
        let synced = inner.synced();
        if any {
            inner.since = SystemTime::now();
        }
        drop(inner);
        if synced && (any || !was_synced) {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// The server tells of changes from now on.
    pub fn current(&self, followed: &Followed) {
        let mut inner = self.lock();
        let Some(kind) = inner.kinds.iter_mut().find(|kind| kind.kind == followed.kind.name()) else {
            return;
        };
        kind.current = true;
        let (away, error) = (kind.away_since.take(), kind.error.take());
        drop(inner);
        if error.is_some() {
            let seconds = away.map(|since| since.elapsed().as_secs()).unwrap_or_default();
            tracing::info!(kind = followed.kind.name(), "the API server is followed again after {seconds} s");
        }
    }

    /// The server does not tell of changes; what it said last stays in force.
    pub fn away(&self, followed: &Followed, error: &ApiError) {
        let text = line(&error.to_string());
        let mut inner = self.lock();
        let Some(kind) = inner.kinds.iter_mut().find(|kind| kind.kind == followed.kind.name()) else {
            return;
        };
        kind.current = false;
        kind.failures += 1;
        kind.away_since.get_or_insert_with(Instant::now);
        let news = kind.error.as_ref() != Some(&text);
        kind.error = Some(text.clone());
        let synced = kind.synced;
        let server = inner.server.clone();
        drop(inner);
        if news {
            let instead =
                if synced { "what it said last stays in force" } else { "nothing was heard of it yet" };
            tracing::warn!(
                kind = followed.kind.name(),
                server,
                "the API server is not followed: {text}; {instead}"
            );
        }
    }
}

/// Nothing is done under the lock that can panic half way.
fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server says, for one who enforces it. Following ends when this is dropped.
pub struct Subscription {
    inner: Arc<Mutex<Inner>>,
    news: watch::Receiver<u64>,
    notes: Arc<watch::Sender<Vec<Note>>>,
}

impl Subscription {
    /// Waits until there is something to take. Says whether more may come: `false` if following has ended by itself.
    pub async fn changed(&mut self) -> bool {
        self.news.changed().await.is_ok()
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.news.has_changed().unwrap_or_default()
    }

    /// What has changed since the last time.
    pub fn take(&mut self) -> Taken {
        self.news.mark_unchanged();
        let mut inner = lock(&self.inner);
        if !inner.synced() {
            return Taken::default();
        }
        let troubles = std::mem::take(&mut inner.troubles_changed).then(|| inner.troubles.clone());
        let pending = std::mem::take(&mut inner.pending);
        inner.note_taken();
        drop(inner);
        Taken { synced: true, changes: pending.into_iter().collect(), troubles }
    }

    /// Whether there shall be Events of what cannot be applied.
    #[must_use]
    pub fn tells_events(&self) -> bool {
        lock(&self.inner).events.is_some()
    }

    /// What cannot be applied now, all of it, to be told in Events. Nothing waits for that.
    pub fn tell(&self, notes: Vec<Note>) {
        self.notes.send_if_modified(|before| {
            let news = *before != notes;
            *before = notes;
            news
        });
    }

    /// How following goes at this moment.
    #[must_use]
    pub fn state(&self) -> ApiState {
        let mut inner = lock(&self.inner);
        if inner.pending.is_empty() && inner.synced() {
            // What was said since then is no news.
            inner.note_taken();
        }
        let mut kinds = inner.kinds.clone();
        for (kind, taken) in kinds.iter_mut().zip(&inner.taken) {
            kind.version.clone_from(taken);
        }
        ApiState {
            server: inner.server.clone(),
            synced: inner.synced(),
            kinds,
            findings: inner.troubles.values().flat_map(|trouble| &trouble.findings).cloned().collect(),
            since: inner.since,
            events: inner.events,
        }
    }
}

//! All objects, one version counter for all of them, and the log of what changed.
//!
//! Every change takes the next version; nothing else does. The log is bounded: a watch that asks for a version from
//! before its beginning is told that it is too old, exactly as a server whose history was compacted says. Lists that
//! are read in pages hold a snapshot, bounded in number, so that all pages show the same moment.
//!
//! Rules of the API (who may write what) are not here but in [`super::write`] and [`super::delete`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::kinds::Resource;
use super::object::Object;

/// Lists in pages that are remembered at the same time.
const SNAPSHOTS: usize = 64;

/// Namespace (empty for cluster-wide kinds) and name.
pub type Key = (String, String);

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// The version it took.
    pub version: u64,
    /// The kind's place in the store.
    pub plural: &'static str,
    /// Before; `None` if it was created.
    pub old: Option<Arc<Object>>,
    /// After; `None` if it was removed.
    pub new: Option<Arc<Object>>,
}

/// The moment that the pages of one list show.
#[derive(Debug)]
pub struct Snapshot {
    /// The version of that moment.
    pub version: u64,
    /// All objects of the kind then, in order.
    pub objects: Vec<Arc<Object>>,
}

/// Everything that a backup holds.
#[derive(Debug, Clone)]
pub struct Backup {
    version: u64,
    objects: HashMap<&'static str, BTreeMap<Key, Arc<Object>>>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    now: Backup,
    log: VecDeque<Arc<Change>>,
    capacity: usize,
    /// Changes up to this version are forgotten.
    compacted: u64,
    snapshots: VecDeque<(u64, Arc<Snapshot>)>,
    next_snapshot: u64,
}

impl Store {
    /// An empty store whose versions begin at `version` and whose log holds `capacity` changes.
    #[must_use]
    pub fn new(version: u64, capacity: usize) -> Self {
        Self {
            now: Backup { version, objects: HashMap::new() },
            log: VecDeque::new(),
            capacity,
            compacted: version,
            snapshots: VecDeque::new(),
            next_snapshot: 1,
        }
    }

    /// The newest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.now.version
    }

    /// One object.
    #[must_use]
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.now.objects.get(resource.plural)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a kind, in one namespace or everywhere, by namespace and name.
    #[must_use]
    pub fn all(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        match namespace {
            None => self
                .now
                .objects
                .get(resource.plural)
                .into_iter()
                .flat_map(BTreeMap::values)
                .cloned()
                .collect(),
            Some(namespace) => self.within(resource, namespace).cloned().collect(),
        }
    }

    fn within(&self, resource: &Resource, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        let first = (namespace.to_owned(), String::new());
        let objects =
            self.now.objects.get(resource.plural).into_iter().flat_map(move |all| all.range(first.clone()..));
        objects.map(|(_, object)| object).take_while(move |object| object.namespace == namespace)
    }

    /// Whether a namespace holds anything of these kinds.
    #[must_use]
    pub fn occupied(&self, namespace: &str, kinds: &[&'static Resource]) -> bool {
        kinds.iter().filter(|kind| kind.namespaced).any(|kind| self.within(kind, namespace).next().is_some())
    }

    /// Creates or replaces an object under the next version.
    pub fn put(&mut self, resource: &Resource, value: Value) -> Arc<Object> {
        self.now.version += 1;
        let object = Arc::new(Object::seal(resource, value, self.now.version));
        let key = (object.namespace.clone(), object.name.clone());
        let old = self.now.objects.entry(resource.plural).or_default().insert(key, object.clone());
        self.record(resource.plural, old, Some(object.clone()));
        object
    }

    /// Removes an object under the next version.
    pub fn take(&mut self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = (namespace.to_owned(), name.to_owned());
        let old = self.now.objects.get_mut(resource.plural)?.remove(&key)?;
        self.now.version += 1;
        self.record(resource.plural, Some(old.clone()), None);
        Some(old)
    }

    fn record(&mut self, plural: &'static str, old: Option<Arc<Object>>, new: Option<Arc<Object>>) {
        self.log.push_back(Arc::new(Change { version: self.now.version, plural, old, new }));
        while self.log.len() > self.capacity {
            if let Some(oldest) = self.log.pop_front() {
                self.compacted = oldest.version;
            }
        }
    }

    /// Whether all changes after `version` are still known.
    #[must_use]
    pub fn remembers(&self, version: u64) -> bool {
        version >= self.compacted
    }

    /// At most `limit` changes after `version`, oldest first.
    #[must_use]
    pub fn since(&self, version: u64, limit: usize) -> Vec<Arc<Change>> {
        let first = self.log.partition_point(|change| change.version <= version);
        self.log.range(first..).take(limit).cloned().collect()
    }

    /// Forgets what was before now: older watches are too old, pages of begun lists are gone.
    pub fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.now.version;
        self.forget_snapshots();
    }

    /// Forgets the moments of begun lists.
    pub fn forget_snapshots(&mut self) {
        self.snapshots.clear();
    }

    /// Keeps this moment of a kind for later pages, and says under which number.
    pub fn keep_snapshot(&mut self, snapshot: Arc<Snapshot>) -> u64 {
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        self.snapshots.push_back((number, snapshot));
        while self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
        number
    }

    /// A kept moment, unless it is forgotten.
    #[must_use]
    pub fn snapshot(&self, number: u64) -> Option<Arc<Snapshot>> {
        self.snapshots.iter().find(|(known, _)| *known == number).map(|(_, snapshot)| snapshot.clone())
    }

    /// All objects and the version as they are now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        self.now.clone()
    }

    /// Goes back to a backup: versions are counted on from there, and the log knows nothing from before.
    pub fn restore(&mut self, backup: Backup) {
        self.now = backup;
        self.compact();
    }
}

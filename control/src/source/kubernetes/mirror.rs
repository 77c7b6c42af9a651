//! What a server said of one kind, and what of that is news.
//!
//! A server tells of an object whenever anything about it changes, and of most changes nothing here is concerned: only an object
//! that is another in the model than before is a [`Change`]. What a list says takes the place of everything at once
//! ([`Listing`]); until its last page is there, nothing of it counts.
//!
//! An object's UID is part of what it is, also where the model does not hold it. A deletion of another object than the one that
//! is known under the name shows that something was missed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use podgate_config::manifest::server::{Served, ServerKind};
use podgate_config::manifest::{Finding, ObjectValue};

use crate::store::Key;

/// An object is another than before, or gone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub key: Key,
    /// `None` if it is gone, or not understood.
    pub value: Option<Arc<ObjectValue>>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

#[derive(Debug)]
struct Known {
    uid: Box<str>,
    value: Option<Arc<ObjectValue>>,
    findings: Box<[Finding]>,
}

/// The objects of a kind.
#[derive(Debug)]
pub(super) struct Mirror {
    kind: ServerKind,
    known: HashMap<Key, Known>,
}

/// A list that is being read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    seen: HashSet<Key>,
    /// Objects that are not known as they are listed.
    news: Vec<(Key, Known)>,
}

impl Mirror {
    pub fn new(kind: ServerKind) -> Self {
        Self { kind, known: HashMap::new() }
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The object is there.
    pub fn apply(&mut self, served: Served) -> Option<Change> {
        let (key, known) = self.read(served)?;
        if self.knows(&key, &known) {
            return None;
        }
        Some(self.take(key, known))
    }

    /// The object is gone.
    ///
    /// # Errors
    /// The name, if it is another's than that of the object that is gone.
    pub fn delete(&mut self, served: &Served) -> Result<Option<Change>, Key> {
        let Some(key) = Key::of_server(self.kind, &served.namespace, &served.name) else { return Ok(None) };
        match self.known.get(&key) {
            Some(known) if *known.uid != *served.uid => Err(key),
            _ => Ok(self.known.remove(&key).map(|_| Change { key, value: None, findings: Vec::new() })),
        }
    }

    /// One object of a list.
    pub fn list(&self, listing: &mut Listing, served: Served) {
        let Some((key, known)) = self.read(served) else { return };
        if !self.knows(&key, &known) {
            listing.news.push((key.clone(), known));
        }
        listing.seen.insert(key);
    }

    /// The list is complete: what it does not have is gone.
    pub fn finish(&mut self, listing: Listing) -> Vec<Change> {
        let Listing { seen, news } = listing;
        let gone: Vec<Key> = self.known.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        let mut changes = Vec::with_capacity(gone.len() + news.len());
        for key in gone {
            self.known.remove(&key);
            changes.push(Change { key, value: None, findings: Vec::new() });
        }
        changes.extend(news.into_iter().map(|(key, known)| self.take(key, known)));
        changes
    }

    fn read(&self, served: Served) -> Option<(Key, Known)> {
        let Some(key) = Key::of_server(self.kind, &served.namespace, &served.name) else {
            // No server has such an object. It can be neither known nor forgotten.
            for finding in &served.findings {
                tracing::error!("left out: {finding}");
            }
            return None;
        };
        let known = Known {
            uid: served.uid.into(),
            value: served.value.map(Arc::new),
            findings: served.findings.into(),
        };
        Some((key, known))
    }

    fn knows(&self, key: &Key, now: &Known) -> bool {
        self.known.get(key).is_some_and(|known| {
            known.uid == now.uid && known.value == now.value && known.findings == now.findings
        })
    }

    fn take(&mut self, key: Key, known: Known) -> Change {
        let change =
            Change { key: key.clone(), value: known.value.clone(), findings: known.findings.to_vec() };
        self.known.insert(key, known);
        change
    }
}

#[cfg(test)]
mod tests {
    use podgate_config::manifest::server;

    use super::*;

    fn pod(name: &str, uid: &str, address: &str) -> Served {
        let text = format!(
            r#"{{"metadata": {{"resourceVersion": "1"}}, "items": [{{
                "metadata": {{"name": "{name}", "namespace": "shop", "uid": "{uid}"}},
                "status": {{"podIP": "{address}"}}}}]}}"#
        );
        server::page(ServerKind::Pod, text.as_bytes()).unwrap().objects.remove(0)
    }

    fn told(changes: impl IntoIterator<Item = Change>) -> Vec<(String, Option<String>)> {
        let mut told: Vec<_> = changes
            .into_iter()
            .map(|change| {
                let Key::Pod(name) = change.key else { panic!("{:?}", change.key) };
                let value = change.value.map(|value| match &*value {
                    ObjectValue::Pod(pod) => format!("{} {:?}", pod.uid.as_ref().unwrap(), pod.addresses),
                    other => panic!("{other:?}"),
                });
                (name.name.to_string(), value)
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn only_what_is_another_than_before_is_news() {
        let mut mirror = Mirror::new(ServerKind::Pod);
        let web = |value: &str| vec![("web".to_owned(), Some(value.to_owned()))];
        assert_eq!(told(mirror.apply(pod("web", "1", "10.0.0.1"))), web("1 [10.0.0.1]"));
        assert_eq!(mirror.apply(pod("web", "1", "10.0.0.1")), None);
        assert_eq!(told(mirror.apply(pod("web", "1", "10.0.0.2"))), web("1 [10.0.0.2]"));
        // Its successor, with the same name and address.
        assert_eq!(told(mirror.apply(pod("web", "2", "10.0.0.2"))), web("2 [10.0.0.2]"));
        // Not understood: as if it were not there; and back again.
        let strange = mirror.apply(pod("web", "2", "10.0.0.x")).unwrap();
        assert_eq!((strange.value, strange.findings.len()), (None, 1));
        assert_eq!(told(mirror.apply(pod("web", "2", "10.0.0.2"))), web("2 [10.0.0.2]"));
        assert!(mirror.delete(&pod("web", "1", "10.0.0.2")).is_err(), "the predecessor's deletion");
        assert_eq!(told(mirror.delete(&pod("web", "2", "10.0.0.2")).unwrap()), [("web".to_owned(), None)]);
        assert_eq!(mirror.delete(&pod("web", "2", "10.0.0.2")), Ok(None));
        assert_eq!(mirror.len(), 0);
    }

    #[test]
    fn a_list_counts_when_it_is_complete() {
        let mut mirror = Mirror::new(ServerKind::Pod);
        for name in ["a", "b", "c"] {
            mirror.apply(pod(name, name, "10.0.0.1"));
        }
        let mut listing = Listing::default();
        for (name, uid) in [("b", "b"), ("c", "new"), ("d", "d")] {
            mirror.list(&mut listing, pod(name, uid, "10.0.0.1"));
        }
        assert_eq!(mirror.len(), 3);
        let value = |uid: &str| Some(format!("{uid} [10.0.0.1]"));
        assert_eq!(
            told(mirror.finish(listing)),
            [("a".to_owned(), None), ("c".to_owned(), value("new")), ("d".to_owned(), value("d"))]
        );
        assert_eq!(told(mirror.finish(Listing::default())).len(), 3, "an empty list has nothing");
        assert_eq!(mirror.len(), 0);
    }
}

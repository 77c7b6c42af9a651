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

use podgate_config::manifest::ObjectValue;
use podgate_config::manifest::server::{Served, ServerKind};

use super::state::{Said, Trouble};
use crate::store::Key;

/// An object is another than before, or gone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub key: Key,
    pub said: Said,
    /// What is wrong with it.
    pub trouble: Option<Arc<Trouble>>,
}

#[derive(Debug, PartialEq)]
struct Known {
    uid: Arc<str>,
    /// `None` if it is not understood.
    value: Option<Arc<ObjectValue>>,
    trouble: Option<Arc<Trouble>>,
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
            _ => Ok(self.known.remove(&key).map(|_| gone(key))),
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
        let missing: Vec<Key> = self.known.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        let mut changes = Vec::with_capacity(missing.len() + news.len());
        for key in missing {
            self.known.remove(&key);
            changes.push(gone(key));
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
        let Served { uid, value, instead, findings, .. } = served;
        let uid: Arc<str> = uid.into();
        let trouble = (!findings.is_empty()).then(|| Trouble { uid: uid.clone(), instead, findings });
        Some((key, Known { uid, value: value.map(Arc::new), trouble: trouble.map(Arc::new) }))
    }

    fn knows(&self, key: &Key, now: &Known) -> bool {
        self.known.get(key) == Some(now)
    }

    fn take(&mut self, key: Key, known: Known) -> Change {
        let said = known.value.clone().map_or(Said::NotUnderstood, Said::Is);
        let change = Change { key: key.clone(), said, trouble: known.trouble.clone() };
        self.known.insert(key, known);
        change
    }
}

fn gone(key: Key) -> Change {
    Change { key, said: Said::Gone, trouble: None }
}

#[cfg(test)]
mod tests {
    use podgate_config::manifest::server::{self, Instead};

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
                let said = match &change.said {
                    Said::Is(value) => match &**value {
                        ObjectValue::Pod(pod) => {
                            Some(format!("{} {:?}", pod.uid.as_ref().unwrap(), pod.addresses))
                        }
                        other => panic!("{other:?}"),
                    },
                    Said::NotUnderstood => panic!("{:?}", change.trouble),
                    Said::Gone => None,
                };
                (name.name.to_string(), said)
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
        // Not understood, and back again.
        let strange = mirror.apply(pod("web", "2", "10.0.0.x")).unwrap();
        assert_eq!(strange.said, Said::NotUnderstood);
        let trouble = strange.trouble.unwrap();
        assert_eq!(
            (&*trouble.uid, trouble.instead, trouble.findings.len()),
            ("2", Some(Instead::Absence), 1)
        );
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

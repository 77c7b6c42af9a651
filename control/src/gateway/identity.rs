//! Numbers that tell one pod from the next that has its name or its address.
//!
//! A flow keeps the numbers of both its ends and is cut when an address belongs to another number. So a number is
//! given once in the life of the process and never again: a pod whose UID changed, or that was away in between, gets a
//! new one. A pod that a source names without a UID is the same as long as it is there.

use std::collections::{HashMap, VecDeque};

use podgate_config::model::{ObjectName, PodUid};

/// How many pods that are gone have their names remembered, for what is told of their connections: as many as a worker
/// remembers connections by default. Where pods come and go all the time that is minutes, and some 150 bytes each.
const REMEMBERED: usize = 16_384;

/// The numbers of all pods that are there now, and the names of those that went last.
#[derive(Debug, Default)]
pub struct Identities {
    pods: HashMap<ObjectName, (Option<PodUid>, u32)>,
    names: HashMap<u32, ObjectName>,
    /// Numbers of pods that are gone, the longest gone first.
    gone: VecDeque<u32>,
    last: u32,
}

impl Identities {
    /// A pod is there; gives its number.
    pub fn set(&mut self, name: &ObjectName, uid: Option<&PodUid>) -> u32 {
        let known = match self.pods.get(name) {
            Some((known, number)) if known.as_ref() == uid => return *number,
            // The source has learned the UID of the pod it knew by name, or lost it.
            Some((known, number)) if known.is_none() || uid.is_none() => {
                (known.clone().or_else(|| uid.cloned()), *number)
            }
            known => {
                if let Some(&(_, number)) = known {
                    self.retire(number);
                }
                // After 4 billion pods the numbers begin anew; a flow of the first would have to live on.
                self.last = self.last.wrapping_add(1).max(1);
                (uid.cloned(), self.last)
            }
        };
        let number = known.1;
        self.pods.insert(name.clone(), known);
        self.names.insert(number, name.clone());
        number
    }

    /// A pod is gone, and with it its number.
    pub fn remove(&mut self, name: &ObjectName) {
        if let Some((_, number)) = self.pods.remove(name) {
            self.retire(number);
        }
    }

    fn retire(&mut self, number: u32) {
        self.gone.push_back(number);
        if self.gone.len() > REMEMBERED
            && let Some(oldest) = self.gone.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    /// The pod that has a number, or had it; `None` if that is forgotten, and for 0.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&ObjectName> {
        self.names.get(&number)
    }

    /// The number of a pod, from 1; `None` for one that is not there.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<u32> {
        self.pods.get(name).map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_belongs_to_one_incarnation() {
        let web = ObjectName::parse("shop", "web").unwrap();
        let mut identities = Identities::default();
        let mut seen = Vec::new();
        for state in [
            vec![("web", None), ("db", None)],
            vec![("web", None)],
            vec![("web", Some("1"))],
            vec![("web", None)],
            vec![("web", Some("2"))],
            vec![],
            vec![("web", Some("2"))],
        ] {
            for name in ["web", "db"] {
                let object = ObjectName::parse("shop", name).unwrap();
                match state.iter().find(|(known, _)| *known == name) {
                    Some((_, uid)) => {
                        let uid = uid.map(|uid| PodUid::parse(uid).unwrap());
                        assert_eq!(Some(identities.set(&object, uid.as_ref())), identities.get(&object));
                    }
                    None => identities.remove(&object),
                }
            }
            seen.push(identities.get(&web));
        }
        let first = seen[0];
        assert!(first.is_some());
        assert_eq!(seen[..4], [first; 4], "the same pod as long as nothing says otherwise");
        assert_ne!(seen[4], first, "another UID");
        assert_eq!(seen[5], None);
        assert!(!seen[..5].contains(&seen[6]), "it was away");
        for number in [seen[0], seen[4], seen[6]] {
            assert_eq!(identities.name(number.unwrap()), Some(&web), "those of before are remembered");
        }
        assert_eq!(identities.name(0), None);
    }

    #[test]
    fn so_many_that_are_gone_are_remembered() {
        let web = ObjectName::parse("shop", "web").unwrap();
        let mut identities = Identities::default();
        for number in 1..=u32::try_from(REMEMBERED).unwrap() + 10 {
            assert_eq!(identities.set(&web, None), number);
            identities.remove(&web);
        }
        assert_eq!((identities.name(10), identities.name(11)), (None, Some(&web)));
        assert_eq!(identities.names.len(), REMEMBERED);
    }
}

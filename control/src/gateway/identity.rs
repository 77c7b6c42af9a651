//! Numbers that tell one pod from the next that has its name or its address.
//!
//! A flow keeps the numbers of both its ends and is cut when an address belongs to another number. So a number is
//! given once in the life of the process and never again: a pod whose UID changed, or that was away in between, gets a
//! new one. A pod that a source names without a UID is the same as long as it is there.

use std::collections::HashMap;

use podgate_config::model::{ObjectName, PodUid};

/// The numbers of all pods that are there now.
#[derive(Debug, Default)]
pub struct Identities {
    pods: HashMap<ObjectName, (Option<PodUid>, u32)>,
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
            _ => {
                // After 4 billion pods the numbers begin anew; a flow of the first would have to live on.
                self.last = self.last.wrapping_add(1).max(1);
                (uid.cloned(), self.last)
            }
        };
        let number = known.1;
        self.pods.insert(name.clone(), known);
        number
    }

    /// A pod is gone, and with it its number.
    pub fn remove(&mut self, name: &ObjectName) {
        self.pods.remove(name);
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
    }
}

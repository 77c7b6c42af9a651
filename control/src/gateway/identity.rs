//! Numbers that tell one pod from the next that has its name or its address.
//!
//! A flow keeps the numbers of both its ends and is cut when an address belongs to another number. So a number is
//! given once in the life of the process and never again: a pod whose UID changed, or that was away in between, gets a
//! new one. A pod that a source names without a UID is the same as long as it is there.

use std::collections::HashMap;

use podgate_config::model::{Cluster, ObjectName, PodUid};

/// The numbers of all pods that are there now.
#[derive(Debug, Default)]
pub struct Identities {
    pods: HashMap<ObjectName, (Option<PodUid>, u32)>,
    last: u32,
}

impl Identities {
    /// Takes over which pods there are: the new get numbers, those that went lose theirs for good.
    pub fn update(&mut self, cluster: &Cluster) {
        self.pods.retain(|name, _| cluster.pods.contains_key(name));
        for (name, pod) in &cluster.pods {
            match self.pods.get(name) {
                Some((uid, _)) if *uid == pod.uid => {}
                // The source has learned the UID of the pod it knew by name, or lost it.
                Some((uid, number)) if uid.is_none() || pod.uid.is_none() => {
                    let known = (uid.clone().or_else(|| pod.uid.clone()), *number);
                    self.pods.insert(name.clone(), known);
                }
                _ => {
                    // After 4 billion pods the numbers begin anew; a flow of the first would have to live on.
                    self.last = self.last.wrapping_add(1).max(1);
                    self.pods.insert(name.clone(), (pod.uid.clone(), self.last));
                }
            }
        }
    }

    /// The number of a pod, from 1; `None` for one that is not there.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<u32> {
        self.pods.get(name).map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use podgate_config::model::{Labels, Phase, Pod};

    use super::*;

    fn cluster(pods: &[(&str, Option<&str>)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, uid) in pods {
            let name = ObjectName::parse("shop", name).unwrap();
            let pod = Pod {
                name: name.clone(),
                uid: uid.map(|uid| PodUid::parse(uid).unwrap()),
                labels: Labels::new(),
                addresses: Vec::new(),
                phase: Phase::Live,
                host_network: false,
                node: None,
                ports: Vec::new(),
            };
            cluster.pods.insert(name, pod);
        }
        cluster
    }

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
            identities.update(&cluster(&state));
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

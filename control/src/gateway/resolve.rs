//! Whose an address is.
//!
//! The sources say which pods there are; ports say which interface leads to which pod and which addresses it has, and
//! they outrank `status.podIPs`, which appears only later. Where the two cannot be brought together, nobody gets the
//! address and the port is closed: a packet judged as the wrong pod would be worse than none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_config::model::{Cluster, Labels, ObjectName, Phase, Pod};

/// A pod port as far as identity goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// Whose it is.
    pub pod: ObjectName,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is handed to the compiler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The sources' objects, with the ports' addresses.
    pub cluster: Cluster,
    /// The pods that have a port here: those whose policies are compiled.
    pub local: BTreeSet<ObjectName>,
    /// Why a pod's port is closed.
    pub closed: BTreeMap<ObjectName, String>,
    /// Addresses that several live pods claim; none of them has it.
    pub disputed: BTreeMap<IpAddr, Vec<ObjectName>>,
    /// Whether the sources were once without error. Until then nothing that they say opens anything.
    pub synced: bool,
}

impl Resolved {
    /// The pods whose policies are compiled. Until the sources have synced there are none, and every pod is closed but to
    /// its own node: a policy that is missing would be an open door.
    #[must_use]
    pub fn judged(&self) -> &BTreeSet<ObjectName> {
        static NOBODY: BTreeSet<ObjectName> = BTreeSet::new();
        if self.synced { &self.local } else { &NOBODY }
    }
}

/// Brings the sources' objects and the ports together.
///
/// A port whose pod no source knows is closed if the sources are `synced`. Before that the port alone says whose an
/// address is, so that the pod's node can reach it.
#[must_use]
pub fn resolve(mut cluster: Cluster, ports: &[PodPort], synced: bool) -> Resolved {
    let mut closed = BTreeMap::new();
    let mut local = BTreeSet::new();
    for PodPort { pod: name, addresses } in ports {
        local.insert(name.clone());
        let reason = match cluster.pods.get_mut(name) {
            Some(pod) if pod.is_subject() => {
                pod.addresses.clone_from(addresses);
                continue;
            }
            Some(pod) if pod.host_network => "is a hostNetwork pod and has no network of its own",
            Some(_) => "is finished",
            None if synced => "is not among the objects of the sources",
            None => {
                cluster.pods.insert(name.clone(), placeholder(name, addresses));
                continue;
            }
        };
        closed.insert(name.clone(), format!("pod {name} {reason}"));
    }

    let disputed = disputed(&cluster);
    for (address, claimants) in &disputed {
        for name in claimants {
            if local.contains(name) {
                let others: Vec<String> =
                    claimants.iter().filter(|other| *other != name).map(ToString::to_string).collect();
                closed.insert(
                    name.clone(),
                    format!("address {address} of pod {name} is claimed by pod {} too", others.join(", ")),
                );
            }
            if let Some(pod) = cluster.pods.get_mut(name) {
                pod.addresses.retain(|other| other != address);
            }
        }
    }
    Resolved { cluster, local, closed, disputed, synced }
}

/// Addresses on more than one live pod with a network of its own.
fn disputed(cluster: &Cluster) -> BTreeMap<IpAddr, Vec<ObjectName>> {
    let mut claims: BTreeMap<IpAddr, Vec<&ObjectName>> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
        for address in &pod.addresses {
            claims.entry(*address).or_default().push(&pod.name);
        }
    }
    claims
        .into_iter()
        .filter(|(_, names)| names.len() > 1)
        .map(|(address, names)| (address, names.into_iter().cloned().collect()))
        .collect()
}

fn placeholder(name: &ObjectName, addresses: &[IpAddr]) -> Pod {
    Pod {
        name: name.clone(),
        uid: None,
        labels: Labels::new(),
        addresses: addresses.to_vec(),
        phase: Phase::Live,
        host_network: false,
        node: None,
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::parse("shop", text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn cluster(pods: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (pod, address) in pods {
            cluster.pods.insert(name(pod), placeholder(&name(pod), &[ip(address)]));
        }
        cluster
    }

    fn port(pod: &str, address: &str) -> PodPort {
        PodPort { pod: name(pod), addresses: vec![ip(address)] }
    }

    #[test]
    fn a_ports_address_outranks_the_status() {
        let resolved = resolve(cluster(&[("web", "10.0.0.1")]), &[port("web", "10.0.0.9")], true);
        assert_eq!(resolved.cluster.pods[&name("web")].addresses, [ip("10.0.0.9")]);
        assert!(resolved.closed.is_empty());
    }

    #[test]
    fn a_port_of_an_unknown_or_finished_pod_is_closed() {
        let mut known = cluster(&[("job", "10.0.0.1")]);
        known.pods.get_mut(&name("job")).unwrap().phase = Phase::Finished;
        let resolved = resolve(known, &[port("job", "10.0.0.1"), port("ghost", "10.0.0.2")], true);
        assert_eq!(resolved.closed.keys().collect::<Vec<_>>(), [&name("ghost"), &name("job")]);
        assert_eq!(resolved.local.len(), 2);
        assert!(!resolved.cluster.pods.contains_key(&name("ghost")));
    }

    #[test]
    fn before_the_sources_have_synced_the_port_alone_says_whose_an_address_is() {
        let resolved = resolve(Cluster::default(), &[port("web", "10.0.0.1")], false);
        assert_eq!(resolved.cluster.pods[&name("web")].addresses, [ip("10.0.0.1")]);
        assert!(resolved.closed.is_empty());
    }

    #[test]
    fn nobody_has_a_disputed_address() {
        let pods = cluster(&[("web", "10.0.0.1"), ("db", "10.0.0.1"), ("a", "10.0.0.3"), ("b", "10.0.0.3")]);
        let resolved = resolve(pods, &[port("web", "10.0.0.1")], true);
        assert_eq!(resolved.closed.keys().collect::<Vec<_>>(), [&name("web")]);
        assert!(resolved.closed[&name("web")].contains("shop/db"));
        assert_eq!(resolved.disputed.len(), 2);
        assert!(resolved.cluster.pods.values().all(|pod| pod.addresses.is_empty()));
    }

    #[test]
    fn a_finished_pod_disputes_nothing() {
        let mut known = cluster(&[("old", "10.0.0.1"), ("new", "10.0.0.1")]);
        known.pods.get_mut(&name("old")).unwrap().phase = Phase::Finished;
        let resolved = resolve(known, &[port("new", "10.0.0.1")], true);
        assert!(resolved.closed.is_empty() && resolved.disputed.is_empty());
    }
}

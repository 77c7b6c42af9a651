//! Whose an address is.
//!
//! The sources say which pods there are; ports say which interface leads to which pod and which addresses it has, and
//! they outrank `status.podIPs`, which appears only later. A port that says which pod it is by UID leads to no other of that
//! name: a pod that is deleted and made again is not behind the interface of the one before. Where the two cannot be brought together, nobody gets the
//! address and the port is closed: a packet judged as the wrong pod would be worse than none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use podgate_config::model::{Labels, ObjectName, Phase, Pod, PodUid};

/// A pod port as far as identity goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// Whose it is.
    pub pod: ObjectName,
    /// Which of all pods that ever have this name; `None` if whoever added the port does not say.
    pub uid: Option<PodUid>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

impl PodPort {
    /// Whether a pod of this name is the one behind the port, as far as both say.
    fn leads_to(&self, pod: &Pod) -> bool {
        self.uid.is_none() || pod.uid.is_none() || self.uid == pod.uid
    }
}

/// Brings the sources' pods and the ports together, change by change.
///
/// A port whose pod no source knows is closed if the sources are synced. Before that the port alone says whose an
/// address is, so that the pod's node can reach it.
#[derive(Debug, Default)]
pub struct Resolver {
    ports: BTreeMap<ObjectName, PodPort>,
    /// What each live pod with a network of its own claims.
    claims: HashMap<ObjectName, Vec<IpAddr>>,
    claimants: HashMap<IpAddr, BTreeSet<ObjectName>>,
    synced: bool,
}

impl Resolver {
    /// The pods that have a port here.
    pub fn served(&self) -> impl Iterator<Item = &ObjectName> {
        self.ports.keys()
    }

    /// Whether a pod's policies are compiled: if it has a port here. Until the sources have synced there are none, and every
    /// pod is closed but to its own node: a policy that is missing would be an open door.
    #[must_use]
    pub fn judged(&self, pod: &ObjectName) -> bool {
        self.synced && self.ports.contains_key(pod)
    }

    /// Takes over the ports, and whether the sources were once without error. Gives the pods for which that may make a
    /// difference.
    pub fn set_ports(&mut self, ports: &[PodPort], synced: bool) -> BTreeSet<ObjectName> {
        let now: BTreeMap<ObjectName, PodPort> =
            ports.iter().map(|port| (port.pod.clone(), port.clone())).collect();
        let before = std::mem::replace(&mut self.ports, now);
        let all = synced != std::mem::replace(&mut self.synced, synced);
        let names = before.keys().chain(self.ports.keys());
        names.filter(|name| all || before.get(*name) != self.ports.get(*name)).cloned().collect()
    }

    /// Looks at pods that changed. `raw` is what the sources say. Gives all pods that may be others now: those, and whoever
    /// claims an address that one of them claims or claimed.
    pub fn update<'a>(
        &mut self,
        changed: BTreeSet<ObjectName>,
        raw: impl Fn(&ObjectName) -> Option<&'a Pod>,
    ) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for name in &changed {
            let claims = self.claimed(name, raw(name));
            let before = self.claims.remove(name).unwrap_or_default();
            for address in before.iter().filter(|address| !claims.contains(address)) {
                if let Some(claimants) = self.claimants.get_mut(address) {
                    claimants.remove(name);
                    touched.extend(claimants.iter().cloned());
                    if claimants.is_empty() {
                        self.claimants.remove(address);
                    }
                }
            }
            for address in claims.iter().filter(|address| !before.contains(address)) {
                let claimants = self.claimants.entry(*address).or_default();
                touched.extend(claimants.iter().cloned());
                claimants.insert(name.clone());
            }
            if !claims.is_empty() {
                self.claims.insert(name.clone(), claims);
            }
        }
        touched.extend(changed);
        touched
    }

    fn claimed(&self, name: &ObjectName, raw: Option<&Pod>) -> Vec<IpAddr> {
        match (raw, self.ports.get(name)) {
            (Some(pod), Some(port)) if pod.is_subject() && port.leads_to(pod) => port.addresses.clone(),
            (Some(pod), _) if pod.is_subject() => pod.addresses.clone(),
            (None, Some(port)) if !self.synced => port.addresses.clone(),
            _ => Vec::new(),
        }
    }

    /// A pod as it is compiled: with the addresses that it has and nobody else claims.
    #[must_use]
    pub fn pod(&self, name: &ObjectName, raw: Option<&Pod>) -> Option<Pod> {
        let mut pod = match (raw, self.ports.get(name)) {
            (Some(pod), _) => pod.clone(),
            (None, Some(_)) if !self.synced => placeholder(name),
            _ => return None,
        };
        if pod.is_subject() {
            let claims = self.claims.get(name).map_or(&[][..], |claims| claims);
            let own = claims.iter().filter(|address| !self.is_disputed(address));
            pod.addresses = own.copied().collect();
        }
        Some(pod)
    }

    fn is_disputed(&self, address: &IpAddr) -> bool {
        self.claimants.get(address).is_some_and(|claimants| claimants.len() > 1)
    }

    /// Why ports are closed, by pod, as far as identity goes.
    #[must_use]
    pub fn closed<'a>(&self, raw: impl Fn(&ObjectName) -> Option<&'a Pod>) -> BTreeMap<ObjectName, String> {
        let mut closed = BTreeMap::new();
        for (name, port) in &self.ports {
            let reason = match raw(name) {
                Some(pod) if !port.leads_to(pod) => {
                    let uid =
                        |uid: &Option<_>| uid.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
                    Some(format!(
                        "is another one now: its UID is {}, the port was added for {}; remove the port and add the new pod's",
                        uid(&pod.uid),
                        uid(&port.uid)
                    ))
                }
                Some(pod) if pod.is_subject() => None,
                Some(pod) if pod.host_network => {
                    Some("is a hostNetwork pod and has no network of its own".to_owned())
                }
                Some(_) => Some("is finished".to_owned()),
                None if self.synced => Some(
                    "is not among the objects of the sources, or not understood there (`podgate status`)"
                        .to_owned(),
                ),
                None => None,
            };
            let disputed = || {
                let claims = self.claims.get(name)?;
                let address = claims.iter().find(|address| self.is_disputed(address))?;
                let others = self.claimants.get(address)?.iter().filter(|other| *other != name);
                let others: Vec<String> = others.map(ToString::to_string).collect();
                Some(format!("address {address} of pod {name} is claimed by pod {} too", others.join(", ")))
            };
            if let Some(reason) = reason.map(|reason| format!("pod {name} {reason}")).or_else(disputed) {
                closed.insert(name.clone(), reason);
            }
        }
        closed
    }
}

fn placeholder(name: &ObjectName) -> Pod {
    Pod {
        name: name.clone(),
        uid: None,
        labels: Labels::new(),
        addresses: Vec::new(),
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

    fn port(pod: &str, address: &str) -> PodPort {
        PodPort { pod: name(pod), uid: None, addresses: vec![ip(address)] }
    }

    /// What sources say, and a resolver that follows it.
    #[derive(Default)]
    struct World {
        raw: BTreeMap<ObjectName, Pod>,
        resolver: Resolver,
    }

    impl World {
        fn pods(&mut self, pods: &[(&str, &str)]) {
            for (pod, address) in pods {
                let pod = Pod { addresses: vec![ip(address)], ..placeholder(&name(pod)) };
                self.raw.insert(pod.name.clone(), pod);
            }
        }

        fn ports(&mut self, ports: &[PodPort], synced: bool) {
            let mut changed = self.resolver.set_ports(ports, synced);
            changed.extend(self.raw.keys().cloned());
            self.resolver.update(changed, |name| self.raw.get(name));
        }

        /// One pod is another, or gone; gives who may be others by that.
        fn change(&mut self, pod: &str, now: Option<&str>) -> Vec<String> {
            match now {
                Some(address) => self.pods(&[(pod, address)]),
                None => drop(self.raw.remove(&name(pod))),
            }
            let touched = self.resolver.update([name(pod)].into(), |name| self.raw.get(name));
            touched.iter().map(|name| name.name.to_string()).collect()
        }

        fn addresses(&self, pod: &str) -> Option<Vec<IpAddr>> {
            self.resolver.pod(&name(pod), self.raw.get(&name(pod))).map(|pod| pod.addresses)
        }

        fn closed(&self) -> BTreeMap<ObjectName, String> {
            self.resolver.closed(|name| self.raw.get(name))
        }
    }

    #[test]
    fn a_ports_address_outranks_the_status() {
        let mut world = World::default();
        world.pods(&[("web", "10.0.0.1")]);
        world.ports(&[port("web", "10.0.0.9")], true);
        assert_eq!(world.addresses("web"), Some(vec![ip("10.0.0.9")]));
        assert!(world.closed().is_empty() && world.resolver.judged(&name("web")));
        world.ports(&[], true);
        assert_eq!(world.addresses("web"), Some(vec![ip("10.0.0.1")]));
        assert!(!world.resolver.judged(&name("web")));
    }

    #[test]
    fn a_port_of_an_unknown_or_finished_pod_is_closed() {
        let mut world = World::default();
        world.pods(&[("job", "10.0.0.1")]);
        world.raw.get_mut(&name("job")).unwrap().phase = Phase::Finished;
        world.ports(&[port("job", "10.0.0.1"), port("ghost", "10.0.0.2")], true);
        assert_eq!(world.closed().keys().collect::<Vec<_>>(), [&name("ghost"), &name("job")]);
        assert_eq!(world.resolver.served().count(), 2);
        assert_eq!(world.addresses("ghost"), None);
    }

    #[test]
    fn before_the_sources_have_synced_the_port_alone_says_whose_an_address_is() {
        let mut world = World::default();
        world.ports(&[port("web", "10.0.0.1")], false);
        assert_eq!(world.addresses("web"), Some(vec![ip("10.0.0.1")]));
        assert!(world.closed().is_empty() && !world.resolver.judged(&name("web")));
        world.ports(&[port("web", "10.0.0.1")], true);
        assert_eq!(world.addresses("web"), None);
        assert_eq!(world.closed().len(), 1);
    }

    #[test]
    fn a_successor_is_not_behind_its_predecessors_port() {
        let uid = |text: &str| PodUid::parse(text).ok();
        let mut world = World::default();
        world.pods(&[("web", "10.0.0.1")]);
        world.ports(&[PodPort { uid: uid("1"), ..port("web", "10.0.0.1") }], true);
        assert!(world.closed().is_empty(), "the source does not say which it is");
        world.raw.get_mut(&name("web")).unwrap().uid = uid("1");
        assert!(world.closed().is_empty());
        let successor = Pod { uid: uid("2"), addresses: vec![ip("10.0.0.2")], ..placeholder(&name("web")) };
        world.raw.insert(name("web"), successor);
        world.resolver.update([name("web")].into(), |name| world.raw.get(name));
        assert_eq!(world.addresses("web"), Some(vec![ip("10.0.0.2")]), "its own, not the port's");
        assert!(world.closed()[&name("web")].contains("UID"));
        // Its own port.
        world.ports(&[PodPort { uid: uid("2"), ..port("web", "10.0.0.3") }], true);
        assert_eq!(world.addresses("web"), Some(vec![ip("10.0.0.3")]));
        assert!(world.closed().is_empty());
    }

    #[test]
    fn nobody_has_a_disputed_address() {
        let mut world = World::default();
        world.pods(&[("web", "10.0.0.1"), ("db", "10.0.0.1"), ("a", "10.0.0.3"), ("b", "10.0.0.3")]);
        world.ports(&[port("web", "10.0.0.1")], true);
        assert_eq!(world.closed().keys().collect::<Vec<_>>(), [&name("web")]);
        assert!(world.closed()[&name("web")].contains("shop/db"));
        assert!(["web", "db", "a", "b"].iter().all(|pod| world.addresses(pod) == Some(vec![])));
        // The dispute ends, and begins anew: the other one is told too.
        assert_eq!(world.change("db", Some("10.0.0.2")), ["db", "web"]);
        assert_eq!(world.addresses("web"), Some(vec![ip("10.0.0.1")]));
        assert!(world.closed().is_empty());
        assert_eq!(world.change("c", Some("10.0.0.1")), ["c", "web"]);
        assert_eq!((world.addresses("web"), world.closed().len()), (Some(vec![]), 1));
        assert_eq!(world.change("c", None), ["c", "web"]);
        assert_eq!((world.addresses("web"), world.addresses("c")), (Some(vec![ip("10.0.0.1")]), None));
    }

    #[test]
    fn a_finished_pod_disputes_nothing() {
        let mut world = World::default();
        world.pods(&[("old", "10.0.0.1"), ("new", "10.0.0.1")]);
        world.raw.get_mut(&name("old")).unwrap().phase = Phase::Finished;
        world.ports(&[port("new", "10.0.0.1")], true);
        assert!(world.closed().is_empty());
        assert_eq!(world.addresses("new"), Some(vec![ip("10.0.0.1")]));
    }
}

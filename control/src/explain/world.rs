//! The cluster, its tables, and whose pods and nodes are whose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use podgate_config::model::pod::Phase;
use podgate_config::model::{Cluster, NodeName, ObjectName, Pod};
use podgate_dataplane::policy::{
    Delivery, Direction, Judgement, PodSlot, PolicyPeer, Question, Tier, Verdict, judge,
};

use super::answer::{Explanation, Outcome, Party, Side};
use super::end::{End, Query, QueryError};
use super::nearest::{Denied, nearest};
use super::nodes::Nodes;
use super::words;
use crate::compiler::{CompileError, Limits};
use crate::live::Live;

/// What questions are answered from.
pub struct World {
    live: Live,
    /// Whose directions are judged here; `None` for every pod's.
    served: Option<BTreeSet<ObjectName>>,
    nodes: Nodes,
    /// Live pods of their node's network, by the addresses that they say they have.
    host_pods: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
}

/// A world that can be asked: one of its own, or one that changes and is shared.
pub trait Asked {
    /// Asks while nothing changes.
    fn with<T>(&self, ask: impl FnOnce(&World) -> T) -> T;
}

impl Asked for World {
    fn with<T>(&self, ask: impl FnOnce(&World) -> T) -> T {
        ask(self)
    }
}

impl Asked for RwLock<World> {
    fn with<T>(&self, ask: impl FnOnce(&World) -> T) -> T {
        ask(&self.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An end, resolved as far as it says.
struct Candidate<'a> {
    kind: Kind<'a>,
    /// The hostNetwork pod that was asked about.
    host_pod: Option<&'a Pod>,
    addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Pod(&'a Pod),
    Node(usize),
    Outside,
}

/// An end with the address that is judged.
struct Resolved<'a> {
    kind: Kind<'a>,
    address: IpAddr,
    slot: Option<PodSlot>,
    party: Party,
}

impl<'a> Resolved<'a> {
    fn pod(&self) -> Option<&'a Pod> {
        match self.kind {
            Kind::Pod(pod) => Some(pod),
            Kind::Node(_) | Kind::Outside => None,
        }
    }
}

impl World {
    /// The world of a set of manifests: both ends are judged, every pod as on its own node. A pod without
    /// `spec.nodeName` is on the one node that the documents know, or on a node of its own if they know several
    /// or none, together with the others like it. Pods that should have addresses by now have been given them.
    ///
    /// # Errors
    /// [`CompileError`] if the policies exceed the default limits.
    pub fn from_cluster(cluster: Cluster) -> Result<Self, CompileError> {
        let mut live = Live::new(Limits::default(), 0);
        cluster.namespaces.iter().for_each(|(name, namespace)| live.set_namespace(name, Some(namespace)));
        cluster.nodes.iter().for_each(|(name, node)| live.set_node(name, Some(node)));
        cluster.policies.iter().for_each(|(name, policy)| live.set_policy(name, Some(policy)));
        let mut world = Self::of_manifests(live);
        let pods = cluster.pods.into_values();
        pods.for_each(|pod| world.set_pod(pod, true, Delivery::default()));
        world.place_pods();
        world.live.settle()?;
        Ok(world)
    }

    /// A world in which every pod is judged, as of manifests, to be told of changes.
    #[must_use]
    pub fn of_manifests(live: Live) -> Self {
        Self::new(live, None)
    }

    /// Places pods on the nodes that the documents know, after nodes or pods have changed: see
    /// [`from_cluster`](Self::from_cluster).
    pub fn place_pods(&mut self) {
        self.nodes = Nodes::of_documents(self.live.cluster());
    }

    /// The world of a gateway that knows nothing yet: only the directions of pods that it serves are judged.
    #[must_use]
    pub fn of_gateway(live: Live) -> Self {
        Self::new(live, Some(BTreeSet::new()))
    }

    fn new(live: Live, served: Option<BTreeSet<ObjectName>>) -> Self {
        Self { live, served, nodes: Nodes::default(), host_pods: BTreeMap::new() }
    }

    /// A gateway's node and its addresses; the other nodes are taken from the objects.
    pub fn set_nodes(&mut self, node: Option<&NodeName>, addresses: &[IpAddr]) {
        self.nodes = Nodes::of_gateway(self.live.cluster(), node, addresses);
    }

    /// Which pods a gateway serves.
    pub fn set_served(&mut self, pods: BTreeSet<ObjectName>) {
        self.served = Some(pods);
    }

    /// Which pods a gateway serves; none in a world of manifests.
    pub fn served(&self) -> impl Iterator<Item = &ObjectName> {
        self.served.iter().flatten()
    }

    /// A pod is there: see [`Live::set_pod`].
    pub fn set_pod(&mut self, pod: Pod, judged: bool, delivery: Delivery) {
        self.forget_host_pod(&pod.name);
        if pod.host_network && pod.phase == Phase::Live {
            for address in &pod.addresses {
                self.host_pods.entry(*address).or_default().insert(pod.name.clone());
            }
        }
        self.live.set_pod(pod, judged, delivery);
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, name: &ObjectName) {
        self.forget_host_pod(name);
        self.live.remove_pod(name);
    }

    fn forget_host_pod(&mut self, name: &ObjectName) {
        let Some(pod) = self.live.cluster().pods.get(name).filter(|pod| pod.host_network) else { return };
        for address in &pod.addresses {
            if let Some(pods) = self.host_pods.get_mut(address) {
                pods.remove(name);
                if pods.is_empty() {
                    self.host_pods.remove(address);
                }
            }
        }
    }

    /// The objects and the tables.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// To tell it of changes, but for pods.
    pub fn live_mut(&mut self) -> &mut Live {
        &mut self.live
    }

    /// What is asked about.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.live.cluster()
    }

    fn node_at(&self, address: IpAddr) -> Option<usize> {
        let known = self.nodes.at(address);
        known.or_else(|| {
            // A hostNetwork pod's address is its node's.
            let pod = self.host_pods.get(&address)?.first()?;
            Some(self.node_of(self.cluster().pods.get(pod)?))
        })
    }

    fn is_judged(&self, pod: &Pod) -> bool {
        self.served.as_ref().is_none_or(|served| served.contains(&pod.name))
    }

    fn node_of(&self, pod: &Pod) -> usize {
        // The gateway's own pods are on its node, whatever the documents say.
        if self.served.as_ref().is_some_and(|served| served.contains(&pod.name)) {
            return self.nodes.own();
        }
        self.nodes.named(pod.node.as_ref())
    }

    /// Answers one question.
    ///
    /// # Errors
    /// [`QueryError`] if an end is unknown, has no address, or the ends share no address family.
    pub fn explain(&self, query: &Query) -> Result<Explanation, QueryError> {
        let port = if query.protocol.has_ports() {
            Some(query.port.ok_or(QueryError::PortMissing(query.protocol))?)
        } else {
            None
        };
        let (from, to) = self.resolve(&query.from, &query.to)?;
        let judgement = self.judge(&from, &to, query, port);
        let egress = self.side(Direction::Egress, &from, &to, judgement.egress, query, port);
        let ingress = self.side(Direction::Ingress, &to, &from, judgement.ingress, query, port);
        let verdict = if judgement.allowed() { Outcome::Allow } else { Outcome::Deny };
        Ok(Explanation {
            from: from.party,
            to: to.party,
            port,
            protocol: query.protocol,
            verdict,
            egress,
            ingress,
        })
    }

    /// The verdict alone.
    ///
    /// # Errors
    /// As [`explain`](Self::explain).
    pub fn verdict(&self, query: &Query) -> Result<Judgement, QueryError> {
        let (from, to) = self.resolve(&query.from, &query.to)?;
        Ok(self.judge(&from, &to, query, query.port))
    }

    /// Every pair of addresses by which the two ends may have spoken with each other.
    ///
    /// # Errors
    /// As [`explain`](Self::explain).
    pub fn address_pairs(&self, query: &Query) -> Result<Vec<(IpAddr, IpAddr)>, QueryError> {
        let (from, to) = (self.candidate(&query.from)?, self.candidate(&query.to)?);
        let of_family = |a: IpAddr| to.addresses.iter().filter(move |b| b.is_ipv4() == a.is_ipv4());
        Ok(from.addresses.iter().flat_map(|a| of_family(*a).map(|b| (*a, *b))).collect())
    }

    fn judge(&self, from: &Resolved<'_>, to: &Resolved<'_>, query: &Query, port: Option<u16>) -> Judgement {
        let own_node = |node: &Resolved<'_>, pod: &Resolved<'_>| match (node.kind, pod.kind) {
            (Kind::Node(node), Kind::Pod(pod)) => self.node_of(pod) == node,
            _ => false,
        };
        let judged = |end: &Resolved<'_>| end.pod().is_some_and(|pod| self.is_judged(pod));
        let question = Question {
            source: from.address,
            source_pod: from.slot,
            destination: to.address,
            destination_pod: to.slot,
            protocol: query.protocol.0,
            port: port.unwrap_or(0),
            judge_egress: judged(from),
            judge_ingress: judged(to),
            same_pod: matches!((from.pod(), to.pod()), (Some(a), Some(b)) if a.name == b.name),
            from_own_node: own_node(from, to),
            to_own_node: own_node(to, from),
        };
        judge(self.live.tables(), &question)
    }

    fn resolve(&self, from: &End, to: &End) -> Result<(Resolved<'_>, Resolved<'_>), QueryError> {
        let (source, destination) = (self.candidate(from)?, self.candidate(to)?);
        let pair = source.addresses.iter().find_map(|&a| {
            let b = destination.addresses.iter().find(|b| a.is_ipv4() == b.is_ipv4())?;
            Some((a, *b))
        });
        let (a, b) =
            pair.ok_or_else(|| QueryError::NoCommonFamily { from: from.to_string(), to: to.to_string() })?;
        Ok((self.settle(source, a)?, self.settle(destination, b)?))
    }

    fn candidate(&self, end: &End) -> Result<Candidate<'_>, QueryError> {
        match end {
            End::Address(address) => {
                let owner =
                    self.live.compiler().pod_at(*address).and_then(|name| self.cluster().pods.get(name));
                let kind = match (owner, self.node_at(*address)) {
                    (Some(pod), _) => Kind::Pod(pod),
                    (None, Some(node)) => Kind::Node(node),
                    (None, None) => Kind::Outside,
                };
                Ok(Candidate { kind, host_pod: None, addresses: vec![*address] })
            }
            End::Pod { name, address } => {
                let pod =
                    self.cluster().pods.get(name).ok_or_else(|| QueryError::UnknownPod(name.clone()))?;
                if pod.phase == Phase::Finished {
                    return Err(QueryError::Finished(name.clone()));
                }
                let (kind, host_pod, mut addresses) = if pod.host_network {
                    let node = self.node_of(pod);
                    let mut addresses = pod.addresses.clone();
                    if addresses.is_empty() {
                        addresses.extend(self.nodes.addresses(node));
                    }
                    (Kind::Node(node), Some(pod), addresses)
                } else {
                    (Kind::Pod(pod), None, pod.addresses.clone())
                };
                if let Some(wanted) = *address {
                    if !addresses.contains(&wanted) {
                        return Err(QueryError::NotItsAddress { name: name.clone(), address: wanted });
                    }
                    addresses = vec![wanted];
                }
                if addresses.is_empty() {
                    return Err(QueryError::NoAddress(name.clone()));
                }
                Ok(Candidate { kind, host_pod, addresses })
            }
        }
    }

    fn settle<'a>(&self, end: Candidate<'a>, address: IpAddr) -> Result<Resolved<'a>, QueryError> {
        let mut party = Party { pod: end.host_pod.map(|pod| pod.name.to_string()), node: None, ip: address };
        let mut slot = None;
        match end.kind {
            Kind::Pod(pod) => {
                let owner = self.live.compiler().pod_at(address);
                if let Some(owner) = owner.filter(|&owner| *owner != pod.name) {
                    let (name, owner) = (pod.name.clone(), owner.clone());
                    return Err(QueryError::TakenAddress { name, address, owner });
                }
                party.pod = Some(pod.name.to_string());
                slot = self.live.tables().lookup(address).map(|(_, slot)| slot);
            }
            Kind::Node(node) => {
                let name = self.nodes.name(node);
                party.node = Some(name.map_or_else(|| "of the pods".to_owned(), NodeName::to_string));
            }
            Kind::Outside => {}
        }
        Ok(Resolved { kind: end.kind, address, slot, party })
    }

    /// One direction in words; `subject` is the end whose direction it is.
    fn side(
        &self,
        direction: Direction,
        subject: &Resolved<'_>,
        peer: &Resolved<'_>,
        verdict: Option<Verdict>,
        query: &Query,
        port: Option<u16>,
    ) -> Side {
        let name = subject.party.name();
        let section = words::section(direction);
        let mut side = Side::judged(verdict);
        let Some(verdict) = verdict else {
            side.reason = match subject.kind {
                Kind::Pod(_) => format!("judged on {name}'s own node"),
                Kind::Node(_) => "a node is not subject to policy".to_owned(),
                Kind::Outside => "an outside address is not subject to policy".to_owned(),
            };
            return side;
        };
        match verdict.tier {
            Tier::NotIsolated => side.reason = format!("no policy isolates {name} for {section}"),
            Tier::Closed => side.reason = format!("{name} is closed: the tables in force do not judge it"),
            Tier::Exempt => {
                side.reason = match (peer.kind, direction) {
                    (Kind::Pod(_), _) => "a pod cannot block access to itself".to_owned(),
                    (_, Direction::Ingress) => format!("traffic from {name}'s own node is always allowed"),
                    (_, Direction::Egress) => format!("traffic to {name}'s own node is always allowed"),
                };
            }
            Tier::NetworkPolicy => {
                let isolating: Vec<&ObjectName> = self.live.compiler().isolating(verdict.program);
                side.isolating = isolating.iter().map(ToString::to_string).collect();
                let destination_pod = match direction {
                    Direction::Ingress => subject.pod(),
                    Direction::Egress => peer.pod(),
                };
                if verdict.allowed() {
                    self.name_origin(&mut side, direction, peer, verdict, destination_pod);
                } else {
                    let policies = isolating
                        .iter()
                        .filter_map(|&name| Some(self.cluster().policies.get(name)?.as_ref()));
                    let denied = Denied {
                        direction,
                        peer: peer.address,
                        peer_pod: peer.pod(),
                        destination_pod,
                        protocol: query.protocol,
                        port,
                    };
                    side.nearest = nearest(self.cluster(), policies, &denied);
                    side.reason = words::not_admitted(direction, &name, &side.isolating);
                }
            }
        }
        side
    }

    /// Fills in the first policy, rule and peer that admit.
    fn name_origin(
        &self,
        side: &mut Side,
        direction: Direction,
        peer: &Resolved<'_>,
        verdict: Verdict,
        destination_pod: Option<&Pod>,
    ) {
        let policy_peer = PolicyPeer { address: peer.address, pod: peer.slot };
        let mut origins =
            self.live.compiler().admitting(verdict.program, verdict.interval, policy_peer).into_iter();
        let Some(origin) = origins.next() else { return };
        let others: BTreeSet<(&ObjectName, usize)> = origins
            .map(|other| (other.policy, other.rule))
            .filter(|&other| other != (origin.policy, origin.rule))
            .collect();
        side.policy = Some(origin.policy.to_string());
        side.rule = Some(origin.rule);
        side.peer = origin.peer;
        let path = words::path(direction, origin.rule, origin.peer);
        side.reason = format!("allowed by {} {path}", origin.policy);
        let rule = self
            .cluster()
            .policies
            .get(origin.policy)
            .and_then(|policy| words::rules(policy, direction).get(origin.rule));
        if let Some(rule) = rule {
            let matching = origin.peer.and_then(|place| rule.peers.get(place));
            let matching = matching.map_or_else(|| "any peer".to_owned(), words::peer);
            side.reason.push_str(&format!(" {matching}, {}", words::ports(rule, destination_pod)));
        }
        if !others.is_empty() {
            let others = others
                .iter()
                .map(|(policy, rule)| format!("{policy} {}", words::path(direction, *rule, None)));
            side.reason.push_str(&format!("; also by {}", words::shortened(others, ", ")));
        }
    }
}

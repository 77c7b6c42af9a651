//! First pass over the policies: everything they mention, numbered.
//!
//! Only after all selectors, port names and ipBlocks are known can pods be reduced to what the policies notice of
//! them, so nothing is compiled here.

use std::collections::BTreeSet;

use podgate_config::model::policy::{NetworkPolicy, Peer, Rule};
use podgate_config::model::port::{PortMatch, PortName, Protocol};
use podgate_config::model::{Cluster, IpBlock, NamespaceName, Pod};

use super::lists::{Interner, Lists, number};
use super::vocabulary::{FeatureIndex, Vocabulary};
use podgate_dataplane::policy::Direction;

/// The pods that a peer means, before any named port cuts them down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Selection {
    /// podSelector alone: pods of the policy's own namespace.
    Own { namespace: u32, pods: u32 },
    /// namespaceSelector, with or without podSelector.
    Across { namespaces: u32, pods: u32 },
    /// No peers given: every pod. Used for named ports, which only pods have.
    AnyPod,
    /// An ipBlock: the pods whose address is in it, where it is one of [`Survey::address_blocks`].
    InBlock(u32),
}

/// A policy with what it selects, by number.
pub(super) struct Surveyed<'a> {
    pub(super) policy: &'a NetworkPolicy,
    /// Its namespace.
    pub(super) namespace: u32,
    /// Its podSelector.
    pub(super) pods: u32,
}

/// What the policies of a cluster mention.
pub(super) struct Survey<'a> {
    /// In the order of their names; a policy's number is its place here.
    pub(super) policies: Vec<Surveyed<'a>>,
    /// The peers of each rule, rules in the order of policies, ingress before egress.
    pub(super) peers: Lists<Selection>,
    /// Every namespace that exists or is named by an object, sorted; numbered by place.
    pub(super) namespaces: Vec<&'a NamespaceName>,
    /// Selectors over pods.
    pub(super) pod_selectors: Vocabulary<'a>,
    /// Selectors over namespaces.
    pub(super) namespace_selectors: Vocabulary<'a>,
    /// Named ports, by protocol and name.
    pub(super) port_names: Interner<(Protocol, &'a PortName)>,
    /// All ipBlocks, numbered by place.
    pub(super) blocks: Vec<&'a IpBlock>,
    block_numbers: Interner<&'a IpBlock>,
    /// ipBlocks that stand in an egress rule with a named port: whether such a rule admits depends on what a pod
    /// declares *and* on which of its addresses is asked for.
    pub(super) address_blocks: BTreeSet<u32>,
}

/// A policy's rules in one direction; `None` if it does not isolate there.
pub(super) fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

impl<'a> Survey<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let pods = cluster.pods.keys().map(|name| &name.namespace);
        let policies = cluster.policies.keys().map(|name| &name.namespace);
        // Both are sorted by namespace first, so runs of one name collapse before the set sees them.
        let mut named: Vec<&NamespaceName> = pods.chain(policies).collect();
        named.dedup();
        let namespaces: BTreeSet<&NamespaceName> = cluster.namespaces.keys().chain(named).collect();
        let mut survey = Self {
            policies: Vec::with_capacity(cluster.policies.len()),
            peers: Lists::default(),
            namespaces: namespaces.into_iter().collect(),
            pod_selectors: Vocabulary::default(),
            namespace_selectors: Vocabulary::default(),
            port_names: Interner::default(),
            blocks: Vec::new(),
            block_numbers: Interner::default(),
            address_blocks: BTreeSet::new(),
        };
        let mut peers = Vec::new();
        for policy in cluster.policies.values() {
            let namespace = survey.namespace(&policy.name.namespace);
            let pods = survey.pod_selectors.add(&policy.pods);
            survey.policies.push(Surveyed { policy, namespace, pods });
            for direction in [Direction::Ingress, Direction::Egress] {
                for rule in rules(policy, direction).unwrap_or(&[]) {
                    survey.add_rule(rule, direction, namespace, &mut peers);
                    survey.peers.push(peers.drain(..));
                }
            }
        }
        survey
    }

    fn add_rule(&mut self, rule: &'a Rule, direction: Direction, namespace: u32, peers: &mut Vec<Selection>) {
        let mut named = false;
        for port in &rule.ports {
            if let PortMatch::Named(name) = port.matches() {
                self.port_names.intern((port.protocol, name));
                named = true;
            }
        }
        for peer in &rule.peers {
            peers.push(match peer {
                // "... the pods matching podSelector in the policy's own namespace".
                Peer::Pods { namespaces: None, pods } => {
                    Selection::Own { namespace, pods: self.pod_selectors.add(pods) }
                }
                Peer::Pods { namespaces: Some(namespaces), pods } => Selection::Across {
                    namespaces: self.namespace_selectors.add(namespaces),
                    pods: self.pod_selectors.add(pods),
                },
                Peer::IpBlock(block) => {
                    let (block_number, new) = self.block_numbers.intern(block);
                    if new {
                        self.blocks.push(block);
                    }
                    if named && direction == Direction::Egress {
                        self.address_blocks.insert(block_number);
                    }
                    Selection::InBlock(block_number)
                }
            });
        }
    }

    /// The number of a namespace.
    pub(super) fn namespace(&self, name: &NamespaceName) -> u32 {
        self.namespaces.binary_search(&name).map_or(u32::MAX, number)
    }

    /// For each namespace selector, the namespaces it selects, ascending.
    pub(super) fn selected_namespaces(&self, cluster: &Cluster) -> Lists<u32> {
        let mut all = Lists::default();
        let mut features = Vec::new();
        for name in &self.namespaces {
            match cluster.namespaces.get(*name) {
                Some(namespace) => self.namespace_selectors.features(namespace.labels(), &mut features),
                None => self.namespace_selectors.features(&cluster.namespace_labels(name), &mut features),
            }
            all.push(features.drain(..));
        }
        let index = FeatureIndex::new(&self.namespace_selectors, all);
        let everywhere = 0..index.len();
        let mut selected = Lists::default();
        for selector in 0..self.namespace_selectors.selectors() {
            selected.push(index.select(
                &self.namespace_selectors,
                selector,
                std::slice::from_ref(&everywhere),
            ));
        }
        selected
    }

    /// What the named ports of the policies resolve to on `pod`: (port name, number), sorted. The first declared
    /// port that has both protocol and name counts.
    pub(super) fn resolved_ports(&self, pod: &Pod, resolved: &mut Vec<(u32, u16)>) {
        for port in &pod.ports {
            let Some(name) = &port.name else { continue };
            let Some(name) = self.port_names.get(&(port.protocol, name)) else { continue };
            if resolved.iter().all(|&(known, _)| known != name) {
                resolved.push((name, port.number.get()));
            }
        }
        resolved.sort_unstable();
    }
}

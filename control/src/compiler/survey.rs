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

/// What the policies of a cluster mention.
pub(super) struct Survey<'a> {
    /// In the order of their names; a policy's number is its place here.
    pub(super) policies: Vec<&'a NetworkPolicy>,
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
            policies: cluster.policies.values().collect(),
            namespaces: namespaces.into_iter().collect(),
            pod_selectors: Vocabulary::default(),
            namespace_selectors: Vocabulary::default(),
            port_names: Interner::default(),
            blocks: Vec::new(),
            block_numbers: Interner::default(),
            address_blocks: BTreeSet::new(),
        };
        for policy in cluster.policies.values() {
            survey.pod_selectors.add(&policy.pods);
            for direction in [Direction::Ingress, Direction::Egress] {
                for rule in rules(policy, direction).unwrap_or(&[]) {
                    survey.add_rule(rule, direction);
                }
            }
        }
        survey
    }

    fn add_rule(&mut self, rule: &'a Rule, direction: Direction) {
        let mut named = false;
        for port in &rule.ports {
            if let PortMatch::Named(name) = port.matches() {
                self.port_names.intern((port.protocol, name));
                named = true;
            }
        }
        for peer in &rule.peers {
            match peer {
                Peer::Pods { namespaces, pods } => {
                    self.pod_selectors.add(pods);
                    if let Some(namespaces) = namespaces {
                        self.namespace_selectors.add(namespaces);
                    }
                }
                Peer::IpBlock(block) => {
                    let (block_number, new) = self.block_numbers.intern(block);
                    if new {
                        self.blocks.push(block);
                    }
                    if named && direction == Direction::Egress {
                        self.address_blocks.insert(block_number);
                    }
                }
            }
        }
    }

    /// The number of an ipBlock that some policy mentions.
    pub(super) fn block(&self, block: &'a IpBlock) -> u32 {
        self.block_numbers.get(&block).unwrap_or(u32::MAX)
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

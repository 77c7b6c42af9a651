//! Policies, their bases, and the pods they select.
//!
//! A policy that changes is a new one that takes the place of the old: whatever was compiled from the old one still says so
//! as long as somebody may ask. So a program is made of immutable clauses, and its key names them by the policies' numbers.

use std::sync::Arc;

use podgate_config::model::policy::{NetworkPolicy, Peer};
use podgate_config::model::port::{PortName, Protocol};
use podgate_config::model::{IpBlock, ObjectName};
use podgate_dataplane::policy::Direction;

use super::Compiler;
use super::clauses::{Clause, Keys, Matcher};
use super::lists::{Map, Set, Slab, insert_sorted, remove_sorted};
use super::terms::Kind;

pub(super) struct Policy {
    pub(super) object: Arc<NetworkPolicy>,
    namespace: u32,
    /// Its podSelector.
    selector: u32,
    /// Ingress, egress.
    pub(super) clauses: [Vec<Clause>; 2],
    families: Vec<u32>,
    /// Named ingress ports of its clauses, in their order.
    pub(super) own_ports: Box<[(Protocol, PortName)]>,
    /// The pods that it selects.
    pub(super) pods: Set<u32>,
    /// Programs made of it.
    pub(super) programs: usize,
    /// It is there, and not only remembered for the sake of programs.
    pub(super) live: bool,
    /// Tells it from one of the same name that was deleted before.
    pub(super) incarnation: u64,
    /// The first generation that holds it, once there is one.
    pub(super) since: Option<u64>,
}

impl Policy {
    pub(super) fn clauses(&self, direction: Direction) -> &[Clause] {
        let [ingress, egress] = &self.clauses;
        match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        }
    }
}

/// ipBlocks by number.
#[derive(Default)]
pub(super) struct Blocks {
    numbers: Map<IpBlock, u32>,
    slab: Slab<(IpBlock, usize)>,
}

impl Blocks {
    /// The number of a block, with one use more.
    pub(super) fn add(&mut self, block: &IpBlock) -> u32 {
        if let Some(&number) = self.numbers.get(block) {
            self.reuse(number);
            return number;
        }
        let number = self.slab.insert((block.clone(), 1));
        self.numbers.insert(block.clone(), number);
        number
    }

    pub(super) fn reuse(&mut self, number: u32) {
        if let Some((_, uses)) = self.slab.get_mut(number) {
            *uses += 1;
        }
    }

    pub(super) fn release(&mut self, number: u32) {
        let Some((_, uses)) = self.slab.get_mut(number) else { return };
        *uses -= 1;
        if *uses == 0
            && let Some((block, _)) = self.slab.remove(number)
        {
            self.numbers.remove(&block);
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&IpBlock> {
        self.slab.get(number).map(|(block, _)| block)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

impl Compiler {
    /// A policy is there, new or changed.
    pub fn set_policy(&mut self, object: Arc<NetworkPolicy>) {
        let old = self.policy_numbers.get(&object.name).copied();
        if old.and_then(|old| self.policies.get(old)).is_some_and(|old| old.object == object) {
            return;
        }
        let incarnation = old.and_then(|old| self.policies.get(old)).map(|old| old.incarnation);
        let incarnation = incarnation.unwrap_or_else(|| {
            self.incarnations += 1;
            self.incarnations
        });
        self.add_policy(object, old, incarnation, None);
    }

    /// The numbers of a policy's named egress ports are others: it gets new clauses.
    pub(super) fn renumber(&mut self, policy: u32) {
        let Some(entry) = self.policies.get(policy).filter(|policy| policy.live) else { return };
        let (object, incarnation, since) = (entry.object.clone(), entry.incarnation, entry.since);
        self.add_policy(object, Some(policy), incarnation, since);
    }

    fn add_policy(
        &mut self,
        object: Arc<NetworkPolicy>,
        old: Option<u32>,
        incarnation: u64,
        since: Option<u64>,
    ) {
        let name = object.name.clone();
        let namespace = self.space(&name.namespace);
        let selector = self.pod_selectors.add(&mut self.pod_labels, &object.pods);
        let mut families = Vec::new();
        let clauses = [Direction::Ingress, Direction::Egress]
            .map(|direction| self.clauses(&object, namespace, direction, &mut families));
        families.sort_unstable();
        families.dedup();
        let same = old.and_then(|old| self.policies.get(old)).filter(|old| old.selector == selector);
        let pods: Set<u32> = match same {
            Some(old) => old.pods.clone(),
            None => self.subjects(namespace, selector).into_iter().collect(),
        };
        let [ingress, _] = &clauses;
        let own_ports = ingress.iter().flat_map(|clause| &clause.keys).filter_map(|keys| match keys {
            Keys::OwnPort { protocol, name } => Some((*protocol, name.clone())),
            Keys::Span(_) => None,
        });
        let own_ports = own_ports.collect();
        let number = self.policies.insert(Policy {
            object,
            namespace,
            selector,
            clauses,
            families: families.clone(),
            own_ports,
            pods: pods.clone(),
            programs: 0,
            live: true,
            incarnation,
            since,
        });
        for family in families {
            if let Some(family) = self.terms.family_mut(family) {
                family.users.insert(number);
            }
        }
        if since.is_none() {
            self.unpublished.push(number);
        }
        for pod in pods {
            if let Some(member) = self.members.get_mut(pod) {
                insert_sorted(&mut member.policies, number);
            }
            self.mark_reprogram(pod);
        }
        if let Some(space) = self.spaces.get_mut(namespace) {
            space.subjects.insert(&self.pod_selectors, selector, number);
        }
        self.policy_numbers.insert(name, number);
        if let Some(old) = old {
            self.end_policy(old);
        }
    }

    /// A policy is gone. Its hits are forgotten: its name may come back with another meaning.
    pub fn remove_policy(&mut self, name: &ObjectName) {
        let Some(number) = self.policy_numbers.remove(name) else { return };
        self.folded.remove(&(name.clone(), Direction::Ingress));
        self.folded.remove(&(name.clone(), Direction::Egress));
        self.end_policy(number);
    }

    /// A policy selects nobody any more.
    fn end_policy(&mut self, number: u32) {
        let Some(policy) = self.policies.get_mut(number) else { return };
        policy.live = false;
        let (namespace, selector) = (policy.namespace, policy.selector);
        let pods = std::mem::take(&mut policy.pods);
        if let Some(space) = self.spaces.get_mut(namespace) {
            space.subjects.remove(&self.pod_selectors, selector, number);
        }
        for pod in pods {
            if let Some(member) = self.members.get_mut(pod) {
                remove_sorted(&mut member.policies, number);
            }
            self.mark_reprogram(pod);
        }
        self.forget_policy(number);
    }

    /// Forgets a policy that is neither there nor part of a program.
    pub(super) fn forget_policy(&mut self, number: u32) {
        if self.policies.get(number).is_none_or(|policy| policy.live || policy.programs > 0) {
            return;
        }
        let Some(gone) = self.policies.remove(number) else { return };
        for (_, matcher) in gone.clauses.iter().flatten().flat_map(|clause| &clause.peers) {
            match *matcher {
                Matcher::Everybody => {}
                Matcher::Term(term) => {
                    let base = self.terms.release_term(term);
                    self.forget_base(base);
                }
                Matcher::Block(block) => self.blocks.release(block),
            }
        }
        for family in gone.families {
            let base = self.terms.release_family(family, number);
            self.forget_base(base);
        }
        self.pod_selectors.release(&mut self.pod_labels, gone.selector);
        self.release_space(gone.namespace);
    }

    /// The base of a pod peer.
    pub(super) fn base_of(&mut self, peer: &Peer, namespace: u32) -> u32 {
        let kind = match peer {
            // "... the pods matching podSelector in the policy's own namespace".
            Peer::Pods { namespaces: None, pods } => {
                let pods = self.pod_selectors.add(&mut self.pod_labels, pods);
                Kind::Own { namespace, pods }
            }
            Peer::Pods { namespaces: Some(namespaces), pods } => {
                let namespaces = self.span(namespaces);
                let pods = self.pod_selectors.add(&mut self.pod_labels, pods);
                Kind::Across { namespaces, pods }
            }
            Peer::IpBlock(block) => Kind::InBlock(self.blocks.add(block)),
        };
        self.add_base(kind)
    }

    /// The number of a base. Takes the uses over that its parts were given with.
    pub(super) fn add_base(&mut self, kind: Kind) -> u32 {
        let (base, new) = self.terms.base(kind);
        if !new {
            self.release_parts(kind);
            return base;
        }
        match kind {
            Kind::Own { namespace, pods } => {
                if let Some(space) = self.spaces.get_mut(namespace) {
                    space.uses += 1;
                    space.bases.insert(&self.pod_selectors, pods, base);
                }
            }
            Kind::Across { namespaces, pods } => {
                let spanning = self.spanning.entry(namespaces).or_default();
                spanning.bases.insert(&self.pod_selectors, pods, base);
            }
            Kind::AnyPod => self.any_pod = Some(base),
            Kind::InBlock(_) => {}
        }
        base
    }

    fn release_parts(&mut self, kind: Kind) {
        match kind {
            Kind::Own { pods, .. } => self.pod_selectors.release(&mut self.pod_labels, pods),
            Kind::Across { namespaces, pods } => {
                self.pod_selectors.release(&mut self.pod_labels, pods);
                self.release_span(namespaces);
            }
            Kind::AnyPod => {}
            Kind::InBlock(block) => self.blocks.release(block),
        }
    }

    /// Nobody needs this base any more, if there is one.
    pub(super) fn forget_base(&mut self, base: Option<u32>) {
        let Some(base) = base else { return };
        let Some(kind) = self.terms.get(base).map(|base| base.kind) else { return };
        match kind {
            Kind::Own { namespace, pods } => {
                if let Some(space) = self.spaces.get_mut(namespace) {
                    space.bases.remove(&self.pod_selectors, pods, base);
                }
                self.release_space(namespace);
            }
            Kind::Across { namespaces, pods } => {
                if let Some(spanning) = self.spanning.get_mut(&namespaces) {
                    spanning.bases.remove(&self.pod_selectors, pods, base);
                }
            }
            Kind::AnyPod => self.any_pod = None,
            Kind::InBlock(_) => {}
        }
        self.release_parts(kind);
        self.terms.remove_base(base);
    }

    /// The term that is the whole of a base, with one use more; its pods get to know it.
    pub(super) fn whole_term(&mut self, base: u32) -> u32 {
        let (term, new) = self.terms.whole(base);
        if new {
            self.fill_term(term, base);
        }
        term
    }

    /// The family of a named port in a base, with all numbers that there are.
    pub(super) fn add_family(&mut self, base: u32, protocol: Protocol, name: &PortName) -> u32 {
        let (family, new) = self.terms.family_of(base, protocol, name);
        if new {
            for pod in self.pods_of(base) {
                let port = self.members.get(pod).and_then(|member| member.port(protocol, name));
                if let Some(port) = port {
                    self.terms.part(family, port);
                    // It belongs to the part from now on.
                    self.mark_dirty(pod);
                }
            }
        }
        family
    }
}

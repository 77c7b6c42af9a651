//! Pods and namespaces, and which policies and peers match them.
//!
//! A pod knows what it carries (labels, named ports, addresses) and what that makes of it (the policies that select it, an
//! atom for each address, a program for each direction). Whatever changes it is noted, and worked off when the changes of a
//! burst are in ([`super::Compiler::settle`]).
//!
//! An address that several pods claim belongs to the first of them by name, as [`podgate_config::model::Cluster::pod_at`]
//! has it.

use std::net::IpAddr;

use podgate_config::model::pod::ContainerPort;
use podgate_config::model::port::{PortName, Protocol};
use podgate_config::model::{Labels, Namespace, NamespaceName, ObjectName, Pod};
use podgate_dataplane::policy::{Delivery, PROGRAM_CLOSED, PodSlot};

use super::labels::Label;
use super::lists::{Map, Set, insert_sorted, remove_sorted};
use super::selectors::{Anchor, Index};
use super::terms::Kind;
use super::{CompileError, Compiler};

/// One address of a pod.
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    /// Unknown until the pod is evaluated.
    pub(super) atom: Option<u32>,
}

/// A pod that policy sees as one: alive, with a network of its own, and with addresses.
pub(super) struct Member {
    pub(super) name: ObjectName,
    pub(super) namespace: u32,
    pub(super) labels: Box<[Label]>,
    /// Those that have names.
    ports: Box<[ContainerPort]>,
    pub(super) endpoints: Vec<Endpoint>,
    judged: bool,
    delivery: Delivery,
    /// The policies that select it, sorted.
    pub(super) policies: Vec<u32>,
    /// Ingress, egress.
    pub(super) programs: [u32; 2],
    /// To be evaluated: labels, ports or addresses are others.
    pub(super) dirty: bool,
    /// Its programs are to be found anew.
    pub(super) reprogram: bool,
}

impl Member {
    /// The port that the pod declares under a name: the first of several.
    pub(super) fn port(&self, protocol: Protocol, name: &PortName) -> Option<u16> {
        let mut declared = self.ports.iter();
        let found = declared.find(|port| port.protocol == protocol && port.name.as_ref() == Some(name));
        found.map(|port| port.number.get())
    }

    pub(super) fn judged(&self) -> bool {
        self.judged
    }
}

/// A namespace that exists or is named by an object.
pub(super) struct Space {
    pub(super) name: NamespaceName,
    labels: Box<[Label]>,
    /// There is an object of it.
    known: bool,
    /// Pods, policies and peers that name it.
    pub(super) uses: usize,
    pub(super) pods: Set<u32>,
    /// The namespace selectors that match it, sorted.
    pub(super) selected_by: Vec<u32>,
    /// Its policies by their podSelectors.
    pub(super) subjects: Index,
    /// Peers that mean pods of this namespace alone.
    pub(super) bases: Index,
}

/// What hangs on a namespace selector.
#[derive(Default)]
pub(super) struct Spanning {
    uses: usize,
    /// Peers that mean pods of the namespaces that it selects.
    pub(super) bases: Index,
}

impl Compiler {
    /// A namespace has these labels; `None` if there is no object of it (any more).
    pub fn set_namespace(&mut self, name: &NamespaceName, namespace: Option<&Namespace>) {
        let Some(&space) = self.space_numbers.get(name) else {
            if let Some(namespace) = namespace {
                let space = self.new_space(name, namespace.labels());
                self.spaces.get_mut(space).into_iter().for_each(|space| space.known = true);
            }
            return;
        };
        match namespace {
            Some(namespace) => self.label_space(space, namespace.labels()),
            None => self.label_space(space, &implied_labels(name)),
        }
        if let Some(entry) = self.spaces.get_mut(space) {
            entry.known = namespace.is_some();
        }
        self.forget_space(space);
    }

    fn new_space(&mut self, name: &NamespaceName, labels: &Labels) -> u32 {
        let space = self.spaces.insert(Space {
            name: name.clone(),
            labels: Box::default(),
            known: false,
            uses: 0,
            pods: Set::default(),
            selected_by: Vec::new(),
            subjects: Index::default(),
            bases: Index::default(),
        });
        self.space_numbers.insert(name.clone(), space);
        self.label_space(space, labels);
        space
    }

    /// The number of a namespace, with one use more.
    pub(super) fn space(&mut self, name: &NamespaceName) -> u32 {
        let space = match self.space_numbers.get(name) {
            Some(&space) => space,
            None => self.new_space(name, &implied_labels(name)),
        };
        if let Some(entry) = self.spaces.get_mut(space) {
            entry.uses += 1;
        }
        space
    }

    pub(super) fn release_space(&mut self, space: u32) {
        if let Some(entry) = self.spaces.get_mut(space) {
            entry.uses -= 1;
        }
        self.forget_space(space);
    }

    fn forget_space(&mut self, space: u32) {
        if self.spaces.get(space).is_some_and(|space| space.uses == 0 && !space.known)
            && let Some(gone) = self.spaces.remove(space)
        {
            self.space_numbers.remove(&gone.name);
            self.space_labels.leave(space, &gone.labels);
        }
    }

    /// Other labels may be matched by other namespace selectors; then all its pods may belong to other peers.
    fn label_space(&mut self, space: u32, labels: &Labels) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        self.space_labels.change(space, &mut entry.labels, labels);
        let mut selected_by: Vec<u32> = self
            .spanning
            .keys()
            .copied()
            .filter(|&selector| self.space_selectors.matches(selector, &entry.labels))
            .collect();
        selected_by.sort_unstable();
        if selected_by != entry.selected_by {
            entry.selected_by = selected_by;
            let pods: Vec<u32> = entry.pods.iter().copied().collect();
            pods.into_iter().for_each(|pod| self.mark_dirty(pod));
        }
    }

    /// The number of a namespace selector, with one use more.
    pub(super) fn span(&mut self, selector: &podgate_config::model::Selector) -> u32 {
        let number = self.space_selectors.add(&mut self.space_labels, selector);
        let spanning = self.spanning.entry(number).or_default();
        spanning.uses += 1;
        if spanning.uses == 1 {
            let spaces: Vec<u32> = self.spaces.iter().map(|(space, _)| space).collect();
            for space in spaces {
                if let Some(space) = self.spaces.get_mut(space)
                    && self.space_selectors.matches(number, &space.labels)
                {
                    insert_sorted(&mut space.selected_by, number);
                }
            }
        }
        number
    }

    pub(super) fn release_span(&mut self, number: u32) {
        if let Some(spanning) = self.spanning.get_mut(&number) {
            spanning.uses -= 1;
            if spanning.uses == 0 {
                self.spanning.remove(&number);
                let spaces: Vec<u32> = self.spaces.iter().map(|(space, _)| space).collect();
                for space in spaces {
                    if let Some(space) = self.spaces.get_mut(space) {
                        remove_sorted(&mut space.selected_by, number);
                    }
                }
            }
        }
        self.space_selectors.release(&mut self.space_labels, number);
    }

    /// A pod is there, new or changed. `judged`: its own directions are judged here. A pod that policy does not see as one
    /// (finished, of the host's network, without address) is as good as removed.
    pub fn set_pod(&mut self, pod: &Pod, judged: bool, delivery: Delivery) {
        if !pod.is_subject() || pod.addresses.is_empty() {
            return self.remove_pod(&pod.name);
        }
        let ports = || pod.ports.iter().filter(|port| port.name.is_some()).cloned();
        let Some(&known) = self.member_numbers.get(&pod.name) else {
            let namespace = self.space(&pod.name.namespace);
            let member = self.members.insert(Member {
                name: pod.name.clone(),
                namespace,
                labels: Box::default(),
                ports: ports().collect(),
                endpoints: Vec::new(),
                judged,
                delivery,
                policies: Vec::new(),
                programs: [PROGRAM_CLOSED; 2],
                dirty: false,
                reprogram: false,
            });
            self.member_numbers.insert(pod.name.clone(), member);
            let labels = self.pod_labels.enter(member, &pod.labels);
            if let Some(entry) = self.members.get_mut(member) {
                entry.labels = labels;
            }
            if let Some(space) = self.spaces.get_mut(namespace) {
                space.pods.insert(member);
            }
            self.set_addresses(member, &pod.addresses);
            self.mark_dirty(member);
            self.mark_reprogram(member);
            return;
        };
        let Some(entry) = self.members.get_mut(known) else { return };
        let mut dirty = self.pod_labels.change(known, &mut entry.labels, &pod.labels);
        if !entry.ports.iter().eq(pod.ports.iter().filter(|port| port.name.is_some())) {
            entry.ports = ports().collect();
            dirty = true;
        }
        let moved =
            !entry.endpoints.iter().map(|endpoint| endpoint.address).eq(pod.addresses.iter().copied());
        let (judged_before, delivery_before) = (entry.judged, entry.delivery);
        (entry.judged, entry.delivery) = (judged, delivery);
        if moved {
            self.set_addresses(known, &pod.addresses);
        }
        if dirty || moved {
            self.mark_dirty(known);
        }
        if dirty || judged_before != judged {
            self.mark_reprogram(known);
        }
        if delivery_before != delivery {
            self.rewrite.push(known);
        }
    }

    /// Another port or number for a pod that is there; nothing that policy sees.
    pub fn set_delivery(&mut self, pod: &ObjectName, delivery: Delivery) {
        let Some(&member) = self.member_numbers.get(pod) else { return };
        if let Some(entry) = self.members.get_mut(member)
            && entry.delivery != delivery
        {
            entry.delivery = delivery;
            self.rewrite.push(member);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, name: &ObjectName) {
        let Some(member) = self.member_numbers.remove(name) else { return };
        self.set_addresses(member, &[]);
        let Some(gone) = self.members.remove(member) else { return };
        self.pod_labels.leave(member, &gone.labels);
        for policy in &gone.policies {
            if let Some(policy) = self.policies.get_mut(*policy) {
                policy.pods.remove(&member);
            }
        }
        gone.programs.into_iter().for_each(|program| self.leave_program(program));
        if let Some(space) = self.spaces.get_mut(gone.namespace) {
            space.pods.remove(&member);
        }
        self.release_space(gone.namespace);
    }

    /// Gives a pod other addresses; whoever claims those that it leaves gets them.
    fn set_addresses(&mut self, member: u32, addresses: &[IpAddr]) {
        let Some(entry) = self.members.get_mut(member) else { return };
        let mut old = std::mem::take(&mut entry.endpoints);
        let mut new = Vec::new();
        for &address in addresses {
            let known = old.iter().position(|endpoint| endpoint.address == address);
            let endpoint = match known {
                Some(place) => old.swap_remove(place),
                None => Endpoint { address, atom: None },
            };
            entry.endpoints.push(endpoint);
            if known.is_none() {
                new.push(address);
            }
        }
        for address in new {
            let claimants = self.claims.entry(address).or_default();
            claimants.push(member);
            if claimants.len() > 1 {
                self.rewrite.extend(claimants.iter());
            }
            self.note_prefix(address);
        }
        for Endpoint { address, atom } in old {
            if let Some(atom) = atom {
                self.terms.leave_atom(atom, self.published);
            }
            if let Some(claimants) = self.claims.get_mut(&address) {
                claimants.retain(|other| *other != member);
                self.rewrite.extend(claimants.iter());
                if claimants.is_empty() {
                    self.claims.remove(&address);
                }
            }
            // Whoever has it now writes it anew.
            self.writer.remove_pod(address);
        }
    }

    /// The pod that has an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<u32> {
        match self.claims.get(&address)?.as_slice() {
            [one] => Some(*one),
            several => {
                let name = |member: &&u32| self.members.get(**member).map(|member| &member.name);
                several.iter().min_by_key(name).copied()
            }
        }
    }

    pub(super) fn mark_dirty(&mut self, member: u32) {
        if let Some(entry) = self.members.get_mut(member)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(member);
        }
    }

    pub(super) fn mark_reprogram(&mut self, member: u32) {
        if let Some(entry) = self.members.get_mut(member)
            && !std::mem::replace(&mut entry.reprogram, true)
        {
            self.reprogram.push(member);
        }
    }

    /// Finds what matches a pod: its policies, and the terms and atoms of its addresses.
    pub(super) fn evaluate(&mut self, number: u32) {
        let Some(member) = self.members.get_mut(number) else { return };
        if !std::mem::replace(&mut member.dirty, false) {
            return;
        }
        let Some(member) = self.members.get(number) else { return };
        let Some(space) = self.spaces.get(member.namespace) else { return };
        let mut policies: Vec<u32> = space.subjects.matching(&self.pod_selectors, &member.labels).collect();
        policies.sort_unstable();
        let mut bases: Vec<u32> = space.bases.matching(&self.pod_selectors, &member.labels).collect();
        for spanning in space.selected_by.iter().filter_map(|selector| self.spanning.get(selector)) {
            bases.extend(spanning.bases.matching(&self.pod_selectors, &member.labels));
        }
        bases.extend(self.any_pod);

        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let mut parts = Vec::new();
        for base in bases.iter().filter_map(|base| self.terms.get(*base)) {
            found.extend(base.whole);
            parts.extend(self.parts_of(&base.families, member));
        }
        let by_address: Vec<Vec<(u32, u16)>> = if self.in_blocks.is_empty() {
            Vec::new()
        } else {
            member.endpoints.iter().map(|endpoint| self.parts_by_block(endpoint.address, member)).collect()
        };
        for (family, port) in parts {
            found.push(self.part(family, port));
        }
        found.sort_unstable();
        found.dedup();

        let addresses = self.members.get(number).map_or(0, |member| member.endpoints.len());
        let mut moved = false;
        for place in 0..addresses {
            let mut own: Vec<u32>;
            let signature = match by_address.get(place) {
                Some(parts) if !parts.is_empty() => {
                    own = found.clone();
                    parts.iter().for_each(|&(family, port)| own.push(self.part(family, port)));
                    own.sort_unstable();
                    own.dedup();
                    &own
                }
                _ => &found,
            };
            let atom = self.terms.take_atom(signature, &mut self.writer);
            let entry = self.members.get_mut(number).and_then(|member| member.endpoints.get_mut(place));
            let before = entry.and_then(|endpoint| endpoint.atom.replace(atom));
            if let Some(before) = before {
                self.terms.leave_atom(before, self.published);
            }
            moved |= before != Some(atom);
        }
        self.found = found;
        if moved {
            self.rewrite.push(number);
        }
        self.select(number, policies);
    }

    /// Notes which policies select a pod.
    fn select(&mut self, number: u32, policies: Vec<u32>) {
        let Some(member) = self.members.get_mut(number) else { return };
        if member.policies == policies {
            return;
        }
        let before = std::mem::replace(&mut member.policies, policies);
        for policy in before.iter().filter(|policy| member.policies.binary_search(policy).is_err()) {
            if let Some(policy) = self.policies.get_mut(*policy) {
                policy.pods.remove(&number);
            }
        }
        for policy in member.policies.iter().filter(|policy| before.binary_search(policy).is_err()) {
            if let Some(policy) = self.policies.get_mut(*policy) {
                policy.pods.insert(number);
            }
        }
        self.mark_reprogram(number);
    }

    /// The parts of some families that a pod belongs to, by what it declares: (family, number).
    fn parts_of<'a>(
        &'a self,
        families: &'a [u32],
        member: &'a Member,
    ) -> impl Iterator<Item = (u32, u16)> + 'a {
        families.iter().filter_map(|&family| {
            let entry = self.terms.family(family)?;
            Some((family, member.port(entry.protocol, &entry.name)?))
        })
    }

    fn parts_by_block(&self, address: IpAddr, member: &Member) -> Vec<(u32, u16)> {
        let inside =
            self.in_blocks.iter().filter_map(|base| self.terms.get(*base)).filter(|base| match base.kind {
                Kind::InBlock(block) => self.blocks.get(block).is_some_and(|block| block.contains(address)),
                _ => false,
            });
        inside.flat_map(|base| self.parts_of(&base.families, member)).collect()
    }

    /// A part of a family; if it is new, the policies that list the family's numbers get new clauses.
    fn part(&mut self, family: u32, port: u16) -> u32 {
        let (term, new) = self.terms.part(family, port);
        if new && let Some(family) = self.terms.family(family) {
            self.renumber.extend(family.users.iter());
        }
        term
    }

    /// The pods of a namespace that a selector matches.
    pub(super) fn subjects(&self, space: u32, selector: u32) -> Vec<u32> {
        let Some(space) = self.spaces.get(space) else { return Vec::new() };
        self.matching(
            selector,
            space.pods.len(),
            |member| space.pods.contains(&member),
            || space.pods.iter().copied().collect(),
        )
    }

    /// The pods of a base.
    pub(super) fn pods_of(&self, base: u32) -> Vec<u32> {
        if self.members.len() == 0 {
            return Vec::new();
        }
        match self.terms.get(base).map(|base| base.kind) {
            Some(Kind::Own { namespace, pods }) => self.subjects(namespace, pods),
            Some(Kind::Across { namespaces, pods }) => {
                let spaces: Vec<u32> = self
                    .spaces
                    .iter()
                    .filter(|(_, space)| space.selected_by.binary_search(&namespaces).is_ok())
                    .map(|(number, _)| number)
                    .collect();
                let entries = || spaces.iter().filter_map(|space| self.spaces.get(*space));
                let count = entries().map(|space| space.pods.len()).sum();
                let inside = |member| {
                    let space = self.members.get(member).map(|member| member.namespace);
                    space.is_some_and(|space| spaces.binary_search(&space).is_ok())
                };
                self.matching(pods, count, inside, || {
                    entries().flat_map(|space| space.pods.iter().copied()).collect()
                })
            }
            Some(Kind::AnyPod) => self.members.iter().map(|(member, _)| member).collect(),
            Some(Kind::InBlock(block)) => {
                let Some(block) = self.blocks.get(block) else { return Vec::new() };
                let inside = self.claims.iter().filter(|(address, _)| block.contains(**address));
                inside.flat_map(|(_, claimants)| claimants.iter().copied()).collect()
            }
            None => Vec::new(),
        }
    }

    /// The pods of a scope of `count` that a selector matches: found by its anchor if that is shorter.
    fn matching(
        &self,
        selector: u32,
        count: usize,
        inside: impl Fn(u32) -> bool,
        scope: impl FnOnce() -> Vec<u32>,
    ) -> Vec<u32> {
        let anchor = self.pod_selectors.anchor(selector);
        let pairs: Vec<u32> = match anchor {
            Anchor::Pairs(pairs) => pairs.to_vec(),
            Anchor::Key(key) => self.pod_labels.pairs_of(key).collect(),
            Anchor::Nothing => Vec::new(),
        };
        let anchored: usize = pairs.iter().map(|&pair| self.pod_labels.members(pair).len()).sum();
        let mut found: Vec<u32> = if matches!(anchor, Anchor::Nothing) || anchored > count {
            scope()
        } else {
            let members = pairs.iter().flat_map(|&pair| self.pod_labels.members(pair));
            members.filter(|&member| inside(member)).collect()
        };
        found.retain(|&member| {
            let labels = self.members.get(member).map(|member| &member.labels);
            labels.is_some_and(|labels| self.pod_selectors.matches(selector, labels))
        });
        found
    }

    /// A term is new: its pods' addresses move to atoms that have it. Atoms all of whose addresses move become those.
    pub(super) fn fill_term(&mut self, term: u32, base: u32) {
        let mut by_atom: Map<u32, Vec<(u32, usize)>> = Map::default();
        for number in self.pods_of(base) {
            let Some(member) = self.members.get(number).filter(|member| !member.dirty) else { continue };
            for (place, endpoint) in member.endpoints.iter().enumerate() {
                if let Some(atom) = endpoint.atom {
                    by_atom.entry(atom).or_default().push((number, place));
                }
            }
        }
        for (atom, endpoints) in by_atom {
            if endpoints.len() == self.terms.addresses(atom) {
                self.terms.extend_atom(atom, term);
                continue;
            }
            let mut signature = self.terms.signature(atom).to_vec();
            insert_sorted(&mut signature, term);
            for (number, place) in endpoints {
                let new = self.terms.take_atom(&signature, &mut self.writer);
                let endpoint =
                    self.members.get_mut(number).and_then(|member| member.endpoints.get_mut(place));
                if let Some(endpoint) = endpoint {
                    endpoint.atom = Some(new);
                }
                self.terms.leave_atom(atom, self.published);
                self.rewrite.push(number);
            }
        }
    }

    /// Writes what is known of a pod's addresses into the tables.
    pub(super) fn write(&mut self, number: u32) -> Result<(), CompileError> {
        let Some(member) = self.members.get(number) else { return Ok(()) };
        let [ingress_program, egress_program] = member.programs;
        for endpoint in &member.endpoints {
            let Some(atom) = endpoint.atom else { continue };
            if self.owner(endpoint.address) == Some(number) {
                let slot = PodSlot { atom, ingress_program, egress_program };
                self.writer.set_pod(endpoint.address, slot, member.delivery)?;
            }
        }
        Ok(())
    }

    /// The address's pod, if it is one, by name.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&ObjectName> {
        self.members.get(self.owner(address)?).map(|member| &member.name)
    }
}

/// "kubernetes.io/metadata.name" is all that is known of a namespace that only its objects name.
fn implied_labels(name: &NamespaceName) -> Labels {
    Namespace::new(name.clone(), Labels::new())
        .map(|namespace| namespace.labels().clone())
        .unwrap_or_default()
}

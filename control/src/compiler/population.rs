//! Pods, and which policies and peers match them.
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
use podgate_config::model::{ObjectName, Pod};
use podgate_dataplane::policy::{Delivery, PROGRAM_CLOSED, PodSlot};

use super::labels::Label;
use super::lists::{Map, insert_sorted};
use super::selectors::Anchor;
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

impl Compiler {
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
        let in_blocks = self.parts_in_blocks(member);
        let inside = |endpoint: &Endpoint| {
            let parts = in_blocks.iter().filter(|(block, _)| {
                self.blocks.get(*block).is_some_and(|block| block.contains(endpoint.address))
            });
            parts.map(|(_, part)| *part).collect()
        };
        let by_address: Vec<Vec<(u32, u16)>> = member.endpoints.iter().map(inside).collect();
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

    /// The parts of ipBlocks that a pod belongs to if its address is in the block: (block, (family, number)).
    fn parts_in_blocks(&self, member: &Member) -> Vec<(u32, (u32, u16))> {
        let mut parts = Vec::new();
        for port in &member.ports {
            let Some(name) = &port.name else { continue };
            // Of several ports of a name the first one counts.
            let Some(number) = member.port(port.protocol, name).filter(|number| *number == port.number.get())
            else {
                continue;
            };
            let families = self.terms.in_blocks(port.protocol, name).iter();
            parts.extend(families.map(|&(family, block)| (block, (family, number))));
        }
        parts
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

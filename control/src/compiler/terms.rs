//! Peer terms and atoms.
//!
//! A **base** is one distinct set of pods that rules refer to: `(policy namespace | namespaceSelector, podSelector)`, or,
//! only under a named egress port, every pod or the pods in an ipBlock. A **term** is what rows unite: a base as a whole, or
//! the part of it in which a named egress port resolves to one number; the parts by one name are a **family**. An **atom**
//! is the class of pod addresses that belong to exactly the same terms: that is all a row needs to know about a peer. Pods
//! that differ only in what selects them as subjects share an atom.
//!
//! What holds between changes: an atom is in a term's set exactly if the term is in the atom's signature, and its bit is set
//! in a row exactly if it is in one of the row's terms. An address whose pod is relabelled *moves* to another atom; the atom
//! stays what it is, for workers may still judge by it. Only a term that is new, which no published row knows, is added to
//! the signature of an atom in use, and then to all of its addresses at once.
//!
//! An atom that lost its last address waits until no worker can meet it ([`super::Compiler::reclaim`]), then its bits are
//! cleared and its number is used again. Until then it is taken up again if its signature comes back.

use std::collections::{BTreeMap, VecDeque};

use podgate_config::model::port::{PortName, Protocol};
use podgate_dataplane::policy::{RowRef, TablesWriter};

use super::lists::{Bits, Map, Set, Slab};

/// The pods that a peer means, before any named port cuts them down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// podSelector alone: pods of the policy's own namespace.
    Own { namespace: u32, pods: u32 },
    /// namespaceSelector, with or without podSelector.
    Across { namespaces: u32, pods: u32 },
    /// No peers given: every pod. Only for named ports, which only pods have.
    AnyPod,
    /// An ipBlock: the pods whose address is in it. Only for named ports.
    InBlock(u32),
}

pub(super) struct Base {
    pub(super) kind: Kind,
    pub(super) whole: Option<u32>,
    pub(super) families: Vec<u32>,
}

/// The parts of a base by one named port.
pub(super) struct Family {
    pub(super) base: u32,
    pub(super) protocol: Protocol,
    pub(super) name: PortName,
    /// Number to term.
    pub(super) numbers: BTreeMap<u16, u32>,
    /// The policies whose clauses list the numbers.
    pub(super) users: Set<u32>,
}

pub(super) struct Term {
    base: u32,
    /// The family and the number, for a part.
    part: Option<(u32, u16)>,
    pub(super) atoms: Bits,
    /// Rows that unite it, by their numbers.
    rows: Set<RowRef>,
    /// Clauses and rows that refer to it.
    uses: usize,
}

struct Atom {
    /// Its terms, sorted.
    signature: Box<[u32]>,
    addresses: usize,
    /// The newest generation that may know it, since it has no address.
    idle: Option<u64>,
}

/// All bases, terms and atoms.
#[derive(Default)]
pub(super) struct Terms {
    numbers: Map<Kind, u32>,
    bases: Slab<Base>,
    families: Slab<Family>,
    /// The families of ipBlocks, each with its block: which pods belong to them depends on their addresses.
    in_blocks: Map<(Protocol, PortName), Vec<(u32, u32)>>,
    terms: Slab<Term>,
    by_signature: Map<Box<[u32]>, u32>,
    atoms: Slab<Atom>,
    idle: VecDeque<(u32, u64)>,
}

impl Terms {
    /// The number of a base, and whether it is new.
    pub(super) fn base(&mut self, kind: Kind) -> (u32, bool) {
        if let Some(&base) = self.numbers.get(&kind) {
            return (base, false);
        }
        let base = self.bases.insert(Base { kind, whole: None, families: Vec::new() });
        self.numbers.insert(kind, base);
        (base, true)
    }

    pub(super) fn get(&self, base: u32) -> Option<&Base> {
        self.bases.get(base)
    }

    pub(super) fn family(&self, family: u32) -> Option<&Family> {
        self.families.get(family)
    }

    /// The families of ipBlocks by a named port, each with its block.
    pub(super) fn in_blocks(&self, protocol: Protocol, name: &PortName) -> &[(u32, u32)] {
        self.in_blocks.get(&(protocol, name.clone())).map_or(&[], Vec::as_slice)
    }

    pub(super) fn family_mut(&mut self, family: u32) -> Option<&mut Family> {
        self.families.get_mut(family)
    }

    /// The term that is the whole of a base, with one use more, and whether it is new.
    pub(super) fn whole(&mut self, base: u32) -> (u32, bool) {
        let known = self.bases.get(base).and_then(|base| base.whole);
        let term = known.unwrap_or_else(|| {
            let term = self.new_term(base, None);
            if let Some(base) = self.bases.get_mut(base) {
                base.whole = Some(term);
            }
            term
        });
        self.use_term(term);
        (term, known.is_none())
    }

    fn new_term(&mut self, base: u32, part: Option<(u32, u16)>) -> u32 {
        self.terms.insert(Term { base, part, atoms: Bits::default(), rows: Set::default(), uses: 0 })
    }

    /// The family of a name in a base, and whether it is new.
    pub(super) fn family_of(&mut self, base: u32, protocol: Protocol, name: &PortName) -> (u32, bool) {
        let Some(entry) = self.bases.get(base) else { return (u32::MAX, false) };
        let same = |family: &&u32| {
            let family = self.families.get(**family);
            family.is_some_and(|family| family.protocol == protocol && family.name == *name)
        };
        if let Some(&family) = entry.families.iter().find(same) {
            return (family, false);
        }
        let family = self.families.insert(Family {
            base,
            protocol,
            name: name.clone(),
            numbers: BTreeMap::new(),
            users: Set::default(),
        });
        if let Some(base) = self.bases.get_mut(base) {
            base.families.push(family);
            if let Kind::InBlock(block) = base.kind {
                self.in_blocks.entry((protocol, name.clone())).or_default().push((family, block));
            }
        }
        (family, true)
    }

    /// The term of one number of a family, and whether it is new. Nobody uses it yet if it is.
    pub(super) fn part(&mut self, family: u32, number: u16) -> (u32, bool) {
        let Some(entry) = self.families.get(family) else { return (u32::MAX, false) };
        if let Some(&term) = entry.numbers.get(&number) {
            return (term, false);
        }
        let term = self.new_term(entry.base, Some((family, number)));
        if let Some(family) = self.families.get_mut(family) {
            family.numbers.insert(number, term);
        }
        (term, true)
    }

    pub(super) fn term(&self, term: u32) -> Option<&Term> {
        self.terms.get(term)
    }

    pub(super) fn use_term(&mut self, term: u32) {
        if let Some(term) = self.terms.get_mut(term) {
            term.uses += 1;
        }
    }

    /// A row unites the term from now on, and uses it.
    pub(super) fn enter_row(&mut self, term: u32, row: RowRef) {
        if let Some(term) = self.terms.get_mut(term) {
            term.rows.insert(row);
            term.uses += 1;
        }
    }

    /// The reverse; gives the base that nobody needs any more, if that was its last use.
    pub(super) fn leave_row(&mut self, term: u32, row: RowRef) -> Option<u32> {
        self.terms.get_mut(term)?.rows.remove(&row);
        self.release_term(term)
    }

    /// One use less. A term without use is forgotten, which parts no atoms and joins none; gives the base that nobody needs
    /// any more, if that was its last use.
    pub(super) fn release_term(&mut self, term: u32) -> Option<u32> {
        let entry = self.terms.get_mut(term)?;
        entry.uses -= 1;
        if entry.uses > 0 {
            return None;
        }
        self.forget_term(term)
    }

    fn forget_term(&mut self, term: u32) -> Option<u32> {
        let Term { base, part, atoms, .. } = self.terms.remove(term)?;
        for atom in atoms.iter() {
            let Some(entry) = self.atoms.get_mut(atom) else { continue };
            let rest: Box<[u32]> = entry.signature.iter().copied().filter(|&other| other != term).collect();
            let before = std::mem::replace(&mut entry.signature, rest.clone());
            self.rename(atom, &before, rest);
        }
        match part {
            None => {
                if let Some(base) = self.bases.get_mut(base) {
                    base.whole = None;
                }
                self.forget_base(base)
            }
            Some((family, number)) => {
                self.families.get_mut(family)?.numbers.remove(&number);
                self.forget_family(family)
            }
        }
    }

    /// Atoms that come to have one signature stay apart: the first keeps the name, the others have none and die out.
    fn rename(&mut self, atom: u32, before: &[u32], now: Box<[u32]>) {
        if self.by_signature.get(before) == Some(&atom) {
            self.by_signature.remove(before);
        }
        self.by_signature.entry(now).or_insert(atom);
    }

    /// A policy's clauses no longer list the numbers of a family; gives the base as [`release_term`](Self::release_term).
    pub(super) fn release_family(&mut self, family: u32, policy: u32) -> Option<u32> {
        let entry = self.families.get_mut(family)?;
        entry.users.remove(&policy);
        if entry.users.is_empty() {
            // Numbers that no clause has listed yet.
            let unused = entry.numbers.values().copied();
            let unused: Vec<u32> =
                unused.filter(|&term| self.terms.get(term).is_some_and(|term| term.uses == 0)).collect();
            for term in unused {
                if let Some(base) = self.forget_term(term) {
                    return Some(base);
                }
            }
        }
        self.forget_family(family)
    }

    fn forget_family(&mut self, family: u32) -> Option<u32> {
        let entry = self.families.get(family)?;
        if !entry.users.is_empty() || !entry.numbers.is_empty() {
            return None;
        }
        let Family { base, protocol, name, .. } = self.families.remove(family)?;
        let key = (protocol, name);
        if let Some(in_blocks) = self.in_blocks.get_mut(&key) {
            in_blocks.retain(|(other, _)| *other != family);
            if in_blocks.is_empty() {
                self.in_blocks.remove(&key);
            }
        }
        if let Some(base) = self.bases.get_mut(base) {
            base.families.retain(|other| *other != family);
        }
        self.forget_base(base)
    }

    fn forget_base(&mut self, base: u32) -> Option<u32> {
        let entry = self.bases.get(base)?;
        (entry.whole.is_none() && entry.families.is_empty()).then_some(base)
    }

    /// Forgets a base that has neither whole nor families.
    pub(super) fn remove_base(&mut self, base: u32) {
        if let Some(base) = self.bases.remove(base) {
            self.numbers.remove(&base.kind);
        }
    }

    /// The atom of a signature, sorted, with one address more. A new one is admitted by the rows of its terms.
    pub(super) fn take_atom(&mut self, signature: &[u32], writer: &mut TablesWriter) -> u32 {
        if let Some(&atom) = self.by_signature.get(signature) {
            if let Some(entry) = self.atoms.get_mut(atom) {
                entry.addresses += 1;
                entry.idle = None;
            }
            return atom;
        }
        let atom = self.atoms.insert(Atom { signature: signature.into(), addresses: 1, idle: None });
        self.by_signature.insert(signature.into(), atom);
        for &term in signature {
            let Some(term) = self.terms.get_mut(term) else { continue };
            term.atoms.insert(atom);
            term.rows.iter().for_each(|&row| writer.admit(row, atom));
        }
        atom
    }

    /// An address leaves an atom, which tables up to `generation` may name.
    pub(super) fn leave_atom(&mut self, atom: u32, generation: u64) {
        let Some(entry) = self.atoms.get_mut(atom) else { return };
        entry.addresses -= 1;
        if entry.addresses == 0 {
            entry.idle = Some(generation);
            self.idle.push_back((atom, generation));
        }
    }

    /// Clears an atom that has been idle since before the oldest generation in use, if there is one, and more than `keep` are
    /// idle. Says whether there was.
    pub(super) fn reap(&mut self, oldest: u64, keep: usize, writer: &mut TablesWriter) -> bool {
        let Some(&(atom, since)) = self.idle.front() else { return false };
        if since >= oldest || self.idle.len() <= keep {
            return false;
        }
        self.idle.pop_front();
        if self.atoms.get(atom).is_none_or(|entry| entry.idle != Some(since)) {
            // Taken up again, or idle anew since.
            return true;
        }
        let Some(Atom { signature, .. }) = self.atoms.remove(atom) else { return true };
        if self.by_signature.get(&signature) == Some(&atom) {
            self.by_signature.remove(&signature);
        }
        for &term in &signature {
            let Some(term) = self.terms.get_mut(term) else { continue };
            term.atoms.remove(atom);
            term.rows.iter().for_each(|&row| writer.withdraw(row, atom));
        }
        true
    }

    /// Every address of an atom belongs to a term that is new.
    pub(super) fn extend_atom(&mut self, atom: u32, term: u32) {
        let Some(entry) = self.atoms.get_mut(atom) else { return };
        let mut signature = entry.signature.to_vec();
        super::lists::insert_sorted(&mut signature, term);
        let now: Box<[u32]> = signature.into();
        let before = std::mem::replace(&mut entry.signature, now.clone());
        self.rename(atom, &before, now);
        if let Some(term) = self.terms.get_mut(term) {
            term.atoms.insert(atom);
        }
    }

    /// How many addresses an atom has.
    pub(super) fn addresses(&self, atom: u32) -> usize {
        self.atoms.get(atom).map_or(0, |atom| atom.addresses)
    }

    /// The terms of an atom, sorted.
    pub(super) fn signature(&self, atom: u32) -> &[u32] {
        self.atoms.get(atom).map_or(&[], |atom| &atom.signature)
    }

    /// How many atoms there are, idle ones included.
    pub(super) fn atoms(&self) -> usize {
        self.atoms.len()
    }

    /// Families of ipBlocks, to see that nothing is left over.
    #[cfg(test)]
    pub(super) fn families_in_blocks(&self) -> usize {
        self.in_blocks.values().map(Vec::len).sum::<usize>() + self.in_blocks.len()
    }

    /// How many atoms, terms and bases there are.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.atoms.len(), self.terms.len(), self.bases.len())
    }
}

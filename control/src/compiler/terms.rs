//! Peer terms and atoms.
//!
//! A **term** is one distinct set of pods that rules refer to: `(policy namespace | namespaceSelector,
//! podSelector)`, or such a set cut down to the pods on which a named egress port resolves to one number. An
//! **atom** is a class of pods that belong to exactly the same terms; that is all a row needs to know about a
//! peer. Two classes that differ only in what selects them as subjects share an atom.

use super::classes::Classes;
use super::lists::{Interner, Lists, Map, number};
use super::survey::{Selection, Survey};

/// The classes of each selection, evaluated once.
pub(super) struct Terms<'a, 's> {
    survey: &'s Survey<'a>,
    classes: &'s Classes,
    namespaces: Lists<u32>,
    selections: Interner<Selection>,
    selected: Lists<u32>,
    terms: Interner<(u32, u32, u16)>,
    /// The classes of each term, ascending.
    members: Lists<u32>,
    resolved: Map<(u32, u32), Vec<(u16, u32)>>,
}

/// In place of a port name: the whole selection.
const WHOLE: u32 = u32::MAX;

impl<'a, 's> Terms<'a, 's> {
    /// `namespaces`: for each namespace selector what it selects.
    pub(super) fn new(survey: &'s Survey<'a>, classes: &'s Classes, namespaces: Lists<u32>) -> Self {
        Self {
            survey,
            classes,
            namespaces,
            selections: Interner::default(),
            selected: Lists::default(),
            terms: Interner::default(),
            members: Lists::default(),
            resolved: Map::default(),
        }
    }

    fn select(&mut self, selection: Selection) -> u32 {
        let (selection_number, new) = self.selections.intern(selection);
        if new {
            let (classes, index) = (self.classes, &self.classes.index);
            let vocabulary = &self.survey.pod_selectors;
            let found = match selection {
                Selection::Own { namespace, pods } => {
                    index.select(vocabulary, pods, &classes.runs_of(&[namespace]))
                }
                Selection::Across { namespaces, pods } => {
                    index.select(vocabulary, pods, &classes.runs_of(self.namespaces.get(namespaces)))
                }
                Selection::AnyPod => (0..classes.len()).collect(),
                Selection::InBlock(block) => classes.by_block.get(block).to_vec(),
            };
            self.selected.push(found);
        }
        selection_number
    }

    /// The term that is the whole of a selection.
    pub(super) fn whole(&mut self, selection: Selection) -> u32 {
        let selection = self.select(selection);
        let (term, new) = self.terms.intern((selection, WHOLE, 0));
        if new {
            self.members.push(self.selected.get(selection).iter().copied());
        }
        term
    }

    /// The terms that a named port cuts out of a selection: "(port number, term)", one per number that the name
    /// resolves to on some pod of it. Pods that do not declare the port are in none.
    pub(super) fn resolved(&mut self, selection: Selection, name: u32) -> Vec<(u16, u32)> {
        let selection = self.select(selection);
        if let Some(known) = self.resolved.get(&(selection, name)) {
            return known.clone();
        }
        let mut pairs: Vec<(u16, u32)> = self
            .selected
            .get(selection)
            .iter()
            .filter_map(|&class| Some((self.classes.port(class, name)?, class)))
            .collect();
        pairs.sort_unstable();
        let mut found = Vec::new();
        for same_number in pairs.chunk_by(|(a, _), (b, _)| a == b) {
            let Some(&(port, _)) = same_number.first() else { continue };
            let (term, new) = self.terms.intern((selection, name, port));
            if new {
                self.members.push(same_number.iter().map(|&(_, class)| class));
            }
            found.push((port, term));
        }
        self.resolved.insert((selection, name), found.clone());
        found
    }

    /// Classes with the same terms become one atom.
    pub(super) fn into_atoms(self) -> Atoms {
        let classes = self.classes.len() as usize;
        let signatures = self.members.inverted(classes);
        let mut numbers = Map::<&[u32], u32>::default();
        let mut of_class = Vec::with_capacity(classes);
        for signature in signatures.iter() {
            let next = number(numbers.len());
            of_class.push(*numbers.entry(signature).or_insert(next));
        }
        let count = numbers.len();
        let mut members = Lists::default();
        let mut atoms = Vec::new();
        for term in self.members.iter() {
            atoms.clear();
            atoms.extend(term.iter().filter_map(|&class| of_class.get(class as usize)));
            atoms.sort_unstable();
            atoms.dedup();
            members.push(atoms.iter().copied());
        }
        Atoms { of_class, count, members }
    }
}

/// The classes' atoms.
pub(super) struct Atoms {
    /// The atom of each class.
    pub(super) of_class: Vec<u32>,
    /// How many there are.
    pub(super) count: usize,
    /// The atoms of each term, ascending.
    pub(super) members: Lists<u32>,
}

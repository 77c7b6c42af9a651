//! Namespaces, and the namespace selectors that span several.
//!
//! A namespace is there as long as an object names it, whether or not there is an object of it: until then all that is known of
//! its labels is its name. A namespace selector is matched with each namespace once, when either comes or changes; whoever
//! asks for pods then goes through the namespaces that match.

use podgate_config::model::{Labels, Namespace, NamespaceName};

use super::Compiler;
use super::labels::Label;
use super::lists::{Set, insert_sorted, remove_sorted};
use super::selectors::Index;

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
}

/// "kubernetes.io/metadata.name" is all that is known of a namespace that only its objects name.
fn implied_labels(name: &NamespaceName) -> Labels {
    Namespace::new(name.clone(), Labels::new())
        .map(|namespace| namespace.labels().clone())
        .unwrap_or_default()
}

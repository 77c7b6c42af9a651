//! Labels by number, and who has them.
//!
//! One [`Dictionary`] for pods and one for namespaces. A (key, value) pair is known as long as a selector mentions it or an
//! object carries it, so pairs come and go with pods without end and nothing is left over. Each pair knows the objects that
//! carry it: that is how a new selector finds its pods without looking at all of them.

use podgate_config::model::labels::{LabelKey, LabelValue, Labels};

use super::lists::{Map, Set, Slab};

/// One label of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) key: u32,
    /// The number of the (key, value) pair.
    pub(super) pair: u32,
}

struct Key {
    name: LabelKey,
    uses: usize,
    pairs: Set<u32>,
}

struct Pair {
    key: u32,
    value: LabelValue,
    uses: usize,
    members: Set<u32>,
}

/// All labels in use.
#[derive(Default)]
pub(super) struct Dictionary {
    key_numbers: Map<LabelKey, u32>,
    keys: Slab<Key>,
    pair_numbers: Map<(u32, LabelValue), u32>,
    pairs: Slab<Pair>,
}

impl Dictionary {
    /// The number of a key, with one use more.
    pub(super) fn key(&mut self, name: &LabelKey) -> u32 {
        let key = match self.key_numbers.get(name) {
            Some(key) => *key,
            None => {
                let key = self.keys.insert(Key { name: name.clone(), uses: 0, pairs: Set::default() });
                self.key_numbers.insert(name.clone(), key);
                key
            }
        };
        if let Some(entry) = self.keys.get_mut(key) {
            entry.uses += 1;
        }
        key
    }

    pub(super) fn release_key(&mut self, key: u32) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        entry.uses -= 1;
        if entry.uses == 0
            && let Some(entry) = self.keys.remove(key)
        {
            self.key_numbers.remove(&entry.name);
        }
    }

    /// The number of a label, with one use more.
    pub(super) fn label(&mut self, name: &LabelKey, value: &LabelValue) -> Label {
        if let Some(&key) = self.key_numbers.get(name)
            && let Some(&pair) = self.pair_numbers.get(&(key, value.clone()))
        {
            if let Some(entry) = self.pairs.get_mut(pair) {
                entry.uses += 1;
            }
            return Label { key, pair };
        }
        // The pair's use of its key.
        let key = self.key(name);
        let pair = self.pairs.insert(Pair { key, value: value.clone(), uses: 1, members: Set::default() });
        self.pair_numbers.insert((key, value.clone()), pair);
        if let Some(entry) = self.keys.get_mut(key) {
            entry.pairs.insert(pair);
        }
        Label { key, pair }
    }

    pub(super) fn release_pair(&mut self, pair: u32) {
        let Some(entry) = self.pairs.get_mut(pair) else { return };
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        if let Some(Pair { key, value, .. }) = self.pairs.remove(pair) {
            self.pair_numbers.remove(&(key, value));
            if let Some(entry) = self.keys.get_mut(key) {
                entry.pairs.remove(&pair);
            }
            self.release_key(key);
        }
    }

    /// The labels of an object, sorted by key, which is found by each of them from now on.
    pub(super) fn enter(&mut self, member: u32, labels: &Labels) -> Box<[Label]> {
        let mut all: Vec<Label> = labels.iter().map(|(key, value)| self.label(key, value)).collect();
        self.join(member, &all);
        all.sort_unstable();
        all.into()
    }

    fn join(&mut self, member: u32, labels: &[Label]) {
        for label in labels {
            if let Some(pair) = self.pairs.get_mut(label.pair) {
                pair.members.insert(member);
            }
        }
    }

    /// An object that carried `labels` carries `now`; says whether that makes a difference.
    pub(super) fn change(&mut self, member: u32, labels: &mut Box<[Label]>, now: &Labels) -> bool {
        // The new ones enter before the old ones leave: what is the same keeps its number, and what is not gets another.
        let now = self.enter(member, now);
        let before = std::mem::replace(labels, now);
        self.leave(member, &before);
        // That took the object from the pairs that it still has.
        self.join(member, labels);
        before != *labels
    }

    /// The reverse.
    pub(super) fn leave(&mut self, member: u32, labels: &[Label]) {
        for label in labels {
            if let Some(pair) = self.pairs.get_mut(label.pair) {
                pair.members.remove(&member);
            }
            self.release_pair(label.pair);
        }
    }

    /// Who carries this pair.
    pub(super) fn members(&self, pair: u32) -> impl ExactSizeIterator<Item = u32> {
        static NOBODY: std::sync::LazyLock<Set<u32>> = std::sync::LazyLock::new(Set::default);
        self.pairs.get(pair).map_or(&*NOBODY, |pair| &pair.members).iter().copied()
    }

    /// The pairs of a key.
    pub(super) fn pairs_of(&self, key: u32) -> impl Iterator<Item = u32> {
        self.keys.get(key).into_iter().flat_map(|key| key.pairs.iter().copied())
    }

    /// How many keys and pairs are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.keys.len(), self.pairs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::labels;
    use super::*;

    #[test]
    fn nothing_is_left_when_everybody_has_gone() {
        let mut dictionary = Dictionary::default();
        let web = dictionary.enter(1, &labels("app=web,tier=front"));
        let db = dictionary.enter(2, &labels("app=db,tier=front"));
        assert!(web.is_sorted() && web.len() == 2);
        let front = web.iter().find(|label| db.contains(label)).unwrap();
        let mut members: Vec<u32> = dictionary.members(front.pair).collect();
        members.sort_unstable();
        assert_eq!(members, [1, 2]);
        let mentioned =
            dictionary.label(&LabelKey::parse("app").unwrap(), &LabelValue::parse("web").unwrap());
        assert!(web.contains(&mentioned));
        assert_eq!(dictionary.pairs_of(mentioned.key).count(), 2);
        dictionary.leave(1, &web);
        dictionary.leave(2, &db);
        assert_eq!(dictionary.len(), (1, 1), "a selector still mentions app=web");
        assert_eq!(dictionary.members(mentioned.pair).len(), 0);
        dictionary.release_pair(mentioned.pair);
        assert_eq!(dictionary.len(), (0, 0));
    }
}

//! Selectors over numbered labels, and finding those that match without trying each.
//!
//! A selector is anchored at one of its positive requirements: an object that it matches carries one of the anchor's pairs,
//! or its key. An [`Index`] keeps users of selectors by anchor, so an object meets only those that it shares a label with;
//! selectors with nothing but negative requirements, or none, are tried each time.

use podgate_config::model::labels::LabelValue;
use podgate_config::model::selector::{Operator, Selector};
use std::collections::BTreeSet;

use super::labels::{Dictionary, Label};
use super::lists::{Map, Slab};

#[derive(Debug)]
struct Requirement {
    key: u32,
    test: Test,
}

/// Values are pairs, sorted.
#[derive(Debug)]
enum Test {
    In(Box<[u32]>),
    NotIn(Box<[u32]>),
    Exists,
    DoesNotExist,
}

impl Requirement {
    /// As `labels.Requirement.Matches` of k8s.io/apimachinery: NotIn holds for an absent key too.
    fn holds(&self, labels: &[Label]) -> bool {
        let value = labels.iter().find(|label| label.key == self.key).map(|label| label.pair);
        match &self.test {
            Test::In(pairs) => value.is_some_and(|pair| pairs.binary_search(&pair).is_ok()),
            Test::NotIn(pairs) => value.is_none_or(|pair| pairs.binary_search(&pair).is_err()),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

/// What every object carries that a selector matches.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor<'a> {
    /// One of these pairs.
    Pairs(&'a [u32]),
    /// This key.
    Key(u32),
    /// Nothing that is known.
    Nothing,
}

struct Interned {
    selector: Selector,
    requirements: Box<[Requirement]>,
    /// The place of the positive requirement that names the fewest values.
    anchor: Option<usize>,
    uses: usize,
}

/// The selectors of one kind of object, by number.
#[derive(Default)]
pub(super) struct Selectors {
    numbers: Map<Selector, u32>,
    slab: Slab<Interned>,
}

impl Selectors {
    /// The number of a selector, with one use more.
    pub(super) fn add(&mut self, dictionary: &mut Dictionary, selector: &Selector) -> u32 {
        if let Some(&number) = self.numbers.get(selector) {
            if let Some(known) = self.slab.get_mut(number) {
                known.uses += 1;
            }
            return number;
        }
        let requirements: Box<[Requirement]> = selector
            .requirements()
            .map(|requirement| {
                let key = dictionary.key(&requirement.key);
                let mut pairs = |values: &BTreeSet<LabelValue>| {
                    let all = values.iter().map(|value| dictionary.label(&requirement.key, value).pair);
                    let mut all: Vec<u32> = all.collect();
                    all.sort_unstable();
                    all.into_boxed_slice()
                };
                let test = match &requirement.operator {
                    Operator::In(values) => Test::In(pairs(values)),
                    Operator::NotIn(values) => Test::NotIn(pairs(values)),
                    Operator::Exists => Test::Exists,
                    Operator::DoesNotExist => Test::DoesNotExist,
                };
                Requirement { key, test }
            })
            .collect();
        let anchor = requirements
            .iter()
            .enumerate()
            .filter_map(|(place, requirement)| match &requirement.test {
                Test::In(pairs) => Some((pairs.len(), place)),
                Test::Exists => Some((usize::MAX, place)),
                Test::NotIn(_) | Test::DoesNotExist => None,
            })
            .min()
            .map(|(_, place)| place);
        let number = self.slab.insert(Interned { selector: selector.clone(), requirements, anchor, uses: 1 });
        self.numbers.insert(selector.clone(), number);
        number
    }

    /// The reverse.
    pub(super) fn release(&mut self, dictionary: &mut Dictionary, number: u32) {
        let Some(known) = self.slab.get_mut(number) else { return };
        known.uses -= 1;
        if known.uses > 0 {
            return;
        }
        let Some(gone) = self.slab.remove(number) else { return };
        self.numbers.remove(&gone.selector);
        for requirement in &gone.requirements {
            if let Test::In(pairs) | Test::NotIn(pairs) = &requirement.test {
                pairs.iter().for_each(|&pair| dictionary.release_pair(pair));
            }
            dictionary.release_key(requirement.key);
        }
    }

    /// Whether a selector matches an object with these labels.
    pub(super) fn matches(&self, number: u32, labels: &[Label]) -> bool {
        let known = self.slab.get(number);
        known.is_some_and(|known| known.requirements.iter().all(|requirement| requirement.holds(labels)))
    }

    pub(super) fn anchor(&self, number: u32) -> Anchor<'_> {
        let Some(known) = self.slab.get(number) else { return Anchor::Pairs(&[]) };
        match known.anchor.and_then(|place| known.requirements.get(place)) {
            Some(Requirement { test: Test::In(pairs), .. }) => Anchor::Pairs(pairs),
            Some(requirement) => Anchor::Key(requirement.key),
            None => Anchor::Nothing,
        }
    }
}

/// Users of selectors, by what the selectors are anchored at.
#[derive(Default)]
pub(super) struct Index {
    by_pair: Map<u32, Vec<(u32, u32)>>,
    by_key: Map<u32, Vec<(u32, u32)>>,
    rest: Vec<(u32, u32)>,
}

impl Index {
    pub(super) fn insert(&mut self, selectors: &Selectors, selector: u32, user: u32) {
        let entry = (selector, user);
        match selectors.anchor(selector) {
            Anchor::Pairs(pairs) => {
                pairs.iter().for_each(|pair| self.by_pair.entry(*pair).or_default().push(entry));
            }
            Anchor::Key(key) => self.by_key.entry(key).or_default().push(entry),
            Anchor::Nothing => self.rest.push(entry),
        }
    }

    /// While the selector is still known.
    pub(super) fn remove(&mut self, selectors: &Selectors, selector: u32, user: u32) {
        let gone = |list: &mut Vec<(u32, u32)>| {
            list.iter().position(|entry| *entry == (selector, user)).map(|place| list.swap_remove(place));
            list.is_empty()
        };
        let forget = |map: &mut Map<u32, Vec<(u32, u32)>>, anchor: &u32| {
            if map.get_mut(anchor).is_some_and(gone) {
                map.remove(anchor);
            }
        };
        match selectors.anchor(selector) {
            Anchor::Pairs(pairs) => pairs.iter().for_each(|pair| forget(&mut self.by_pair, pair)),
            Anchor::Key(key) => forget(&mut self.by_key, &key),
            Anchor::Nothing => {
                gone(&mut self.rest);
            }
        }
    }

    /// The users whose selectors match an object with these labels. An object has one value per key, so it meets no user
    /// twice.
    pub(super) fn matching<'a>(
        &'a self,
        selectors: &'a Selectors,
        labels: &'a [Label],
    ) -> impl Iterator<Item = u32> + 'a {
        let by_label = labels.iter().flat_map(|label| {
            let by_pair = self.by_pair.get(&label.pair).into_iter().flatten();
            by_pair.chain(self.by_key.get(&label.key).into_iter().flatten())
        });
        let matching = by_label.chain(&self.rest);
        matching.filter(|(selector, _)| selectors.matches(*selector, labels)).map(|&(_, user)| user)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_pair.is_empty() && self.by_key.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::{labels, selector};
    use super::*;

    /// Every selector of a list against every set of labels, as the API says it.
    #[test]
    fn an_index_finds_what_matches() {
        let texts = ["", "a=1", "a in 1|2,b", "b", "!b", "a notin 1,!c", "c in 3|4,b=x", "a=1,b=x,c=3"];
        let sets = ["", "a=1", "a=2", "a=3,b=x", "b=y", "c=3,b=x", "a=1,b=x,c=3", "c=4"];
        let (mut dictionary, mut selectors, mut index) =
            (Dictionary::default(), Selectors::default(), Index::default());
        let known: Vec<u32> =
            texts.iter().map(|text| selectors.add(&mut dictionary, &selector(text))).collect();
        for (user, number) in (0u32..).zip(&known) {
            index.insert(&selectors, *number, user);
        }
        for (member, set) in (0u32..).zip(sets) {
            let numbered = dictionary.enter(member, &labels(set));
            let mut found: Vec<u32> = index.matching(&selectors, &numbered).collect();
            found.sort_unstable();
            let expected: Vec<u32> = (0u32..)
                .zip(texts)
                .filter(|(_, text)| selector(text).matches(&labels(set)))
                .map(|(user, _)| user)
                .collect();
            assert_eq!(found, expected, "{set}");
            dictionary.leave(member, &numbered);
        }
        for (user, number) in (0u32..).zip(known) {
            index.remove(&selectors, number, user);
            selectors.release(&mut dictionary, number);
        }
        assert!(index.is_empty());
        assert_eq!(dictionary.len(), (0, 0));
    }
}

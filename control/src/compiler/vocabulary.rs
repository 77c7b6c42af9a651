//! What the policies can tell apart in labels.
//!
//! Every selector is taken apart once into requirements over numbered (key, value) pairs. A label that no
//! selector can notice is left out of a pod's features: its value is mentioned nowhere and its key is asked for
//! nowhere. So labels that nobody selects on never split a class of pods, however many values they have.

use podgate_config::model::labels::{LabelKey, LabelValue, Labels};
use podgate_config::model::selector::{Operator, Selector};

use super::lists::{Interner, Lists, Map, number, within};
use std::ops::Range;

/// The value of a label whose key matters and whose value no selector mentions.
const OTHER: u32 = u32::MAX;

/// One label as far as the selectors can notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Feature {
    key: u32,
    pair: u32,
}

impl Feature {
    /// Two words that hold all of it, for keys of maps.
    pub(super) fn words(self) -> [u32; 2] {
        [self.key, self.pair]
    }
}

#[derive(Debug)]
struct Requirement {
    key: u32,
    test: Test,
}

/// Values are pair numbers, sorted.
#[derive(Debug)]
enum Test {
    In(Vec<u32>),
    NotIn(Vec<u32>),
    Exists,
    DoesNotExist,
}

impl Requirement {
    /// As `labels.Requirement.Matches` of k8s.io/apimachinery: NotIn holds for an absent key too. A value that
    /// no selector mentions can be listed by none, so leaving it out of the features changes no answer.
    fn holds(&self, features: &[Feature]) -> bool {
        let value = features.iter().find(|feature| feature.key == self.key).map(|feature| feature.pair);
        match &self.test {
            Test::In(pairs) => value.is_some_and(|pair| pairs.binary_search(&pair).is_ok()),
            Test::NotIn(pairs) => value.is_none_or(|pair| pairs.binary_search(&pair).is_err()),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

struct Key<'a> {
    number: u32,
    values: Map<&'a LabelValue, u32>,
    /// Some selector asks whether the key is there at all.
    presence: bool,
}

/// The selectors of one kind of object, numbered, with the keys and values that they mention.
#[derive(Default)]
pub(super) struct Vocabulary<'a> {
    keys: Map<&'a LabelKey, Key<'a>>,
    pairs: usize,
    selectors: Interner<&'a Selector>,
    requirements: Lists<Requirement>,
}

impl<'a> Vocabulary<'a> {
    /// The selector's number. All selectors are added before the first call of [`features`](Self::features).
    pub(super) fn add(&mut self, selector: &'a Selector) -> u32 {
        let (selector_number, new) = self.selectors.intern(selector);
        if new {
            let mut requirements = Vec::with_capacity(selector.requirements().len());
            for requirement in selector.requirements() {
                let keys = number(self.keys.len());
                let key = self.keys.entry(&requirement.key).or_insert_with(|| Key {
                    number: keys,
                    values: Map::default(),
                    presence: false,
                });
                let mut pairs = |values: &'a std::collections::BTreeSet<LabelValue>| {
                    let mut list: Vec<u32> = values
                        .iter()
                        .map(|value| {
                            *key.values.entry(value).or_insert_with(|| {
                                self.pairs += 1;
                                number(self.pairs - 1)
                            })
                        })
                        .collect();
                    list.sort_unstable();
                    list
                };
                let test = match &requirement.operator {
                    Operator::In(values) => Test::In(pairs(values)),
                    Operator::NotIn(values) => Test::NotIn(pairs(values)),
                    Operator::Exists => Test::Exists,
                    Operator::DoesNotExist => Test::DoesNotExist,
                };
                key.presence |= matches!(test, Test::Exists | Test::DoesNotExist);
                requirements.push(Requirement { key: key.number, test });
            }
            self.requirements.push(requirements);
        }
        selector_number
    }

    /// How many selectors there are.
    pub(super) fn selectors(&self) -> u32 {
        number(self.selectors.len())
    }

    /// Appends what the selectors can notice of `labels`, sorted by key number.
    pub(super) fn features(&self, labels: &Labels, features: &mut Vec<Feature>) {
        let start = features.len();
        for (key, value) in labels.iter() {
            let Some(key) = self.keys.get(key) else { continue };
            match key.values.get(value) {
                Some(&pair) => features.push(Feature { key: key.number, pair }),
                None if key.presence => features.push(Feature { key: key.number, pair: OTHER }),
                None => {}
            }
        }
        if let Some(added) = features.get_mut(start..) {
            added.sort_unstable();
        }
    }
}

/// Finds the objects that a selector selects without trying each.
pub(super) struct FeatureIndex {
    features: Lists<Feature>,
    /// Pair to objects, ascending.
    by_pair: Lists<u32>,
    /// Key to objects that have it, ascending.
    by_key: Lists<u32>,
}

impl FeatureIndex {
    pub(super) fn new(vocabulary: &Vocabulary<'_>, features: Lists<Feature>) -> Self {
        let all = (0..number(features.len()))
            .flat_map(|object| features.get(object).iter().map(move |&feature| (feature, object)));
        let by_pair =
            Lists::group(vocabulary.pairs, all.clone().map(|(feature, object)| (feature.pair, object)));
        let by_key = Lists::group(vocabulary.keys.len(), all.map(|(feature, object)| (feature.key, object)));
        Self { features, by_pair, by_key }
    }

    pub(super) fn len(&self) -> u32 {
        number(self.features.len())
    }

    /// The objects within `runs` (ascending, disjoint) that `selector` selects, ascending.
    ///
    /// Starts from the requirement that fewest objects meet, then checks the others. A selector with nothing but
    /// negative requirements tries every object of the runs.
    pub(super) fn select(&self, vocabulary: &Vocabulary<'_>, selector: u32, runs: &[Range<u32>]) -> Vec<u32> {
        let requirements = vocabulary.requirements.get(selector);
        let mut found = Vec::new();
        let Some((first, lists)) = self.narrowest(requirements) else {
            let all = runs.iter().cloned().flatten();
            found.extend(all.filter(|&object| self.holds(requirements, None, object)));
            return found;
        };
        for list in &lists {
            let mut take = |objects: &[u32]| {
                found.extend(objects.iter().filter(|&&object| self.holds(requirements, Some(first), object)));
            };
            if runs.len() > list.len() {
                for object in *list {
                    let run = runs.partition_point(|run| run.end <= *object);
                    if runs.get(run).is_some_and(|run| run.contains(object)) {
                        take(std::slice::from_ref(object));
                    }
                }
            } else {
                for run in runs {
                    take(within(list, run));
                }
            }
        }
        if lists.len() > 1 {
            found.sort_unstable();
        }
        found
    }

    /// The position of the positive requirement that fewest objects meet, and the lists of these objects. An
    /// object has one value per key, so the lists of one requirement are disjoint.
    fn narrowest(&self, requirements: &[Requirement]) -> Option<(usize, Vec<&[u32]>)> {
        requirements
            .iter()
            .enumerate()
            .filter_map(|(position, requirement)| {
                let lists: Vec<&[u32]> = match &requirement.test {
                    Test::In(pairs) => pairs.iter().map(|&pair| self.by_pair.get(pair)).collect(),
                    Test::Exists => vec![self.by_key.get(requirement.key)],
                    Test::NotIn(_) | Test::DoesNotExist => return None,
                };
                Some((position, lists))
            })
            .min_by_key(|(_, lists)| lists.iter().map(|list| list.len()).sum::<usize>())
    }

    fn holds(&self, requirements: &[Requirement], known: Option<usize>, object: u32) -> bool {
        let features = self.features.get(object);
        requirements
            .iter()
            .enumerate()
            .all(|(position, requirement)| Some(position) == known || requirement.holds(features))
    }
}

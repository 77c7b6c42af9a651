//! Label selectors, exactly as k8s.io/apimachinery `labels.Requirement.Matches` evaluates them.
//!
//! A selector is the conjunction of its requirements; the empty one selects everything. It is kept sorted and
//! without repetition, so that two spellings of the same selector are equal, hash alike and are compiled once.
//! `matchLabels: {k: v}` is `k In (v)`.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::labels::{LabelKey, LabelValue, Labels};

/// What a requirement asks of the value under its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The key is there and its value is one of these (never empty).
    In(BTreeSet<LabelValue>),
    /// The key is absent, or its value is none of these (never empty).
    NotIn(BTreeSet<LabelValue>),
    /// The key is there, with whatever value.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// One requirement on one label key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: LabelKey,
    /// What is asked of it.
    pub operator: Operator,
}

impl Requirement {
    /// Whether `labels` meet this requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// Why a requirement is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// In and NotIn need at least one value.
    #[error("operator {0} needs at least one value")]
    ValuesMissing(&'static str),
}

/// A label selector: all of its requirements must hold. Sorted, each requirement once. Cheap to clone and to hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(Arc<Requirements>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Requirements {
    all: BTreeSet<Requirement>,
    /// Of `all`: who compiles policies looks each selector up several times.
    hash: u64,
}

impl From<BTreeSet<Requirement>> for Selector {
    fn from(all: BTreeSet<Requirement>) -> Self {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&all);
        Self(Arc::new(Requirements { all, hash }))
    }
}

impl Default for Selector {
    fn default() -> Self {
        BTreeSet::new().into()
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl Selector {
    /// The empty selector, which selects everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// The conjunction of `requirements`.
    ///
    /// # Errors
    /// [`InvalidSelector`] if In or NotIn comes without values.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Result<Self, InvalidSelector> {
        let requirements: BTreeSet<Requirement> = requirements.into_iter().collect();
        for requirement in &requirements {
            match &requirement.operator {
                Operator::In(values) if values.is_empty() => {
                    return Err(InvalidSelector::ValuesMissing("In"));
                }
                Operator::NotIn(values) if values.is_empty() => {
                    return Err(InvalidSelector::ValuesMissing("NotIn"));
                }
                _ => {}
            }
        }
        Ok(requirements.into())
    }

    /// Whether `labels` meet every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.all.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether this selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.all.is_empty()
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> impl ExactSizeIterator<Item = &Requirement> {
        self.0.all.iter()
    }
}

impl fmt::Display for Selector {
    /// In the notation of `kubectl -l`: `app in (a,b),!legacy`; `{}` for everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.all.is_empty() {
            return f.write_str("{}");
        }
        for (i, Requirement { key, operator }) in self.0.all.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let list = |values: &BTreeSet<LabelValue>| {
                values.iter().map(LabelValue::as_str).collect::<Vec<_>>().join(",")
            };
            match operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values))?,
                Operator::In(values) => write!(f, "{key} in ({})", list(values))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

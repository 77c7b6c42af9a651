//! Labels: opaque strings under checked keys.
//!
//! Values are compared as text and nothing else ("00000" is not "0"). The map is ordered, so two label sets
//! that are equal print and hash the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::name::{InvalidName, is_dns_subdomain, name_type};

name_type!(
    /// A label key: an optional DNS subdomain and '/', then 1 to 63 characters (k8s.io/apimachinery
    /// `IsQualifiedName`).
    LabelKey,
    is_qualified_name,
    "a label key ([DNS subdomain '/'] then 1 to 63 of A-Z, a-z, 0-9, '-', '_', '.', a letter or digit at both ends)"
);
name_type!(
    /// A label value: empty, or 1 to 63 characters (k8s.io/apimachinery `IsValidLabelValue`).
    LabelValue,
    is_label_value,
    "a label value (at most 63 of A-Z, a-z, 0-9, '-', '_', '.', a letter or digit at both ends)"
);

/// The labels of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(BTreeMap<LabelKey, LabelValue>);

impl Labels {
    /// No labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one label; the later value of a key counts.
    pub fn insert(&mut self, key: LabelKey, value: LabelValue) {
        self.0.insert(key, value);
    }

    /// Takes one label away.
    pub fn remove(&mut self, key: &LabelKey) -> Option<LabelValue> {
        self.0.remove(key)
    }

    /// The value under `key`, if there is one.
    #[must_use]
    pub fn get(&self, key: &LabelKey) -> Option<&LabelValue> {
        self.0.get(key)
    }

    /// All labels, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&LabelKey, &LabelValue)> {
        self.0.iter()
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(LabelKey, LabelValue)> for Labels {
    fn from_iter<I: IntoIterator<Item = (LabelKey, LabelValue)>>(labels: I) -> Self {
        Self(labels.into_iter().collect())
    }
}

fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.is_empty()
        || (bytes.len() <= 63 && bytes.iter().all(inner) && ends(bytes.first()) && ends(bytes.last()))
}

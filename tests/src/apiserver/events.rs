//! Event is served twice, as `v1` and as `events.k8s.io/v1`; the store keeps the first form, and this turns one into
//! the other. The fields are the same under other names.

use serde_json::Value;

use super::kinds::Resource;

/// Name in the core group, name in `events.k8s.io`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Whether a row of the table of kinds is the newer Event.
#[must_use]
pub fn is_new(resource: &Resource) -> bool {
    resource.group == "events.k8s.io"
}

fn rename(mut value: Value, names: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    if let Some(map) = value.as_object_mut() {
        for (from, to) in names {
            if let Some(moved) = map.remove(from) {
                map.insert(to.into(), moved);
            }
        }
    }
    value
}

/// The stored form from the newer one.
#[must_use]
pub fn to_core(value: Value) -> Value {
    rename(value, NAMES.iter().map(|(core, new)| (*new, *core)))
}

/// The newer form from the stored one.
#[must_use]
pub fn to_new(value: Value) -> Value {
    rename(value, NAMES.iter().map(|(core, new)| (*core, *new)))
}

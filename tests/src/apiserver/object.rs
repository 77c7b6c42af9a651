//! One stored object: its JSON text, and what selectors look at beside it.
//!
//! The text is kept, not a tree: a list of many thousand objects is then their texts one after the other, and costs
//! neither memory nor time. `kind` and `apiVersion` are not in it, because items of a list have neither, as a real
//! server answers; a single object gets them in front.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::kinds::Resource;

/// An object at one version; never changed, only followed by another.
#[derive(Debug)]
pub struct Object {
    /// Namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// Labels, for selectors.
    pub labels: Vec<(String, String)>,
    /// The values of the kind's selectable fields, in the order of its table.
    pub fields: Vec<String>,
    text: Bytes,
}

impl Object {
    /// Stamps `value` with `version` and keeps it.
    #[must_use]
    pub fn seal(resource: &Resource, mut value: Value, version: u64) -> Self {
        metadata(&mut value).insert("resourceVersion".into(), version.to_string().into());
        if let Some(map) = value.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let labels =
            labels.into_iter().flatten().map(|(key, label)| (key.clone(), plain(Some(label)))).collect();
        Self {
            namespace: text(&value, "/metadata/namespace").to_owned(),
            name: text(&value, "/metadata/name").to_owned(),
            version,
            labels,
            fields: resource.fields.iter().map(|(_, pointer)| field(&value, pointer)).collect(),
            text: Bytes::from(value.to_string()),
        }
    }

    /// The document, with kind and version.
    #[must_use]
    pub fn value(&self, resource: &Resource) -> Value {
        let mut value: Value = serde_json::from_slice(&self.text).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("kind".into(), resource.kind.into());
            map.insert("apiVersion".into(), resource.api_version().into());
        }
        value
    }

    /// The text of a list item.
    #[must_use]
    pub fn item(&self) -> &[u8] {
        &self.text
    }

    /// The text of the whole document.
    #[must_use]
    pub fn document(&self, resource: &Resource) -> Vec<u8> {
        let mut out =
            format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\"", resource.kind, resource.api_version());
        out.push(',');
        let mut out = out.into_bytes();
        out.extend_from_slice(self.text.get(1..).unwrap_or_default());
        out
    }
}

fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

fn field(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        // The two fields that are truths are false where they are left out.
        None if pointer.ends_with("/hostNetwork") || pointer.ends_with("/unschedulable") => "false".into(),
        found => plain(found),
    }
}

/// The text at a JSON pointer, empty if there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A map inside `value`, made if it is missing. `value` must be a map.
pub fn section<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    let slot = &mut value[name];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made a map just now"),
    }
}

/// `metadata`, made if it is missing.
pub fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    section(value, "metadata")
}

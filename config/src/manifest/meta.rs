//! What all objects have, and the two kinds that have little else: namespaces and nodes.

use std::net::IpAddr;

use super::Severity;
use super::reader::{Reader, join};
use super::yaml::{Map, Value};
use crate::model::name::LocalName;
use crate::model::{
    LabelKey, LabelValue, Labels, Namespace, NamespaceName, Node, NodeName, ObjectName, PodUid,
};

/// Fields of ObjectMeta.
const META: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];

/// metadata of an object.
pub struct Meta {
    /// `labels`.
    pub labels: Labels,
    /// `uid`.
    pub uid: Option<PodUid>,
}

/// metadata without the name, which the callers read first so that findings can say it.
pub fn metadata(reader: &mut Reader<'_>, map: &Map, path: &str, unknown: Severity) -> Meta {
    reader.unknown(map, path, META, unknown);
    let labels = labels(reader, map, path);
    let uid = reader.optional_text(map, "uid", path).and_then(|uid| PodUid::parse(uid).ok());
    if let Some(annotations) = reader.optional_map(map, "annotations", path) {
        let path = join(path, "annotations");
        for (name, value) in &annotations.fields {
            if *value != Value::Null {
                reader.text(value, &join(&path, name));
            }
        }
    }
    Meta { labels, uid }
}

/// `metadata.labels`.
fn labels(reader: &mut Reader<'_>, map: &Map, path: &str) -> Labels {
    let Some(map) = reader.optional_map(map, "labels", path) else { return Labels::new() };
    label_pairs(reader, map, &join(path, "labels")).into_iter().collect()
}

/// Keys and values of labels, those that are valid.
pub fn label_pairs(reader: &mut Reader<'_>, map: &Map, path: &str) -> Vec<(LabelKey, LabelValue)> {
    let mut pairs = Vec::new();
    for (name, value) in &map.fields {
        let field = join(path, name);
        let key = label_key(reader, name, &field);
        // An empty value is one, and YAML writes it as nothing.
        let text = if *value == Value::Null { Some("") } else { reader.text(value, &field) };
        let value = text.and_then(|text| label_value(reader, text, &field));
        pairs.extend(key.zip(value));
    }
    pairs
}

/// A label's key.
pub fn label_key(reader: &mut Reader<'_>, text: &str, field: &str) -> Option<LabelKey> {
    LabelKey::parse(text).map_err(|error| reader.error(field, is(&error))).ok()
}

/// A label's value.
pub fn label_value(reader: &mut Reader<'_>, text: &str, field: &str) -> Option<LabelValue> {
    LabelValue::parse(text).map_err(|error| reader.error(field, is(&error))).ok()
}

/// What an invalid name is, and what is expected.
pub fn is(error: &crate::model::InvalidName) -> String {
    format!("is {:?}, expected {}", error.value, error.expected)
}

/// `metadata` of a namespaced object with its name.
pub fn named<'v>(reader: &mut Reader<'_>, object: &'v Map) -> Option<(ObjectName, &'v Map)> {
    let (metadata, name) = metadata_and_name(reader, object)?;
    let namespace = reader.optional_text(metadata, "namespace", "metadata").filter(|text| !text.is_empty());
    let namespace = namespace.unwrap_or("default");
    reader.name = format!("{namespace}/{name}");
    let namespace =
        NamespaceName::parse(namespace).map_err(|error| reader.error("metadata.namespace", is(&error)));
    let name = LocalName::parse(name).map_err(|error| reader.error("metadata.name", is(&error)));
    Some((ObjectName { namespace: namespace.ok()?, name: name.ok()? }, metadata))
}

fn metadata_and_name<'v>(reader: &mut Reader<'_>, object: &'v Map) -> Option<(&'v Map, &'v str)> {
    let Some(metadata) = object.get("metadata") else {
        reader.error("metadata", "is missing, expected an object with a name");
        return None;
    };
    let metadata = reader.map(metadata, "metadata")?;
    match reader.optional_text(metadata, "name", "metadata") {
        Some(name) if !name.is_empty() => Some((metadata, name)),
        _ => {
            if !reader.failed() {
                reader.error("metadata.name", "is missing, expected a name");
            }
            None
        }
    }
}

/// v1 Namespace.
pub fn namespace(reader: &mut Reader<'_>, object: &Map) -> Option<Namespace> {
    reader.unknown(object, "", &["apiVersion", "kind", "metadata", "spec", "status"], Severity::Warning);
    let (meta, name) = metadata_and_name(reader, object)?;
    reader.name = name.to_owned();
    let labels = metadata(reader, meta, "metadata", Severity::Warning).labels;
    let name = NamespaceName::parse(name).map_err(|error| reader.error("metadata.name", is(&error))).ok()?;
    if reader.failed() {
        return None;
    }
    Namespace::new(name, labels).map_err(|error| reader.error("metadata.name", is(&error))).ok()
}

/// v1 Node.
pub fn node(reader: &mut Reader<'_>, object: &Map) -> Option<Node> {
    reader.unknown(object, "", &["apiVersion", "kind", "metadata", "spec", "status"], Severity::Warning);
    let (meta, name) = metadata_and_name(reader, object)?;
    reader.name = name.to_owned();
    metadata(reader, meta, "metadata", Severity::Warning);
    let name = NodeName::parse(name).map_err(|error| reader.error("metadata.name", is(&error))).ok()?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    if let Some(status) = reader.optional_map(object, "status", "") {
        for (i, item) in reader.optional_list(status, "addresses", "status").iter().enumerate() {
            let path = format!("status.addresses[{i}]");
            let Some(item) = reader.map(item, &path) else { continue };
            let kind = reader.optional_text(item, "type", &path);
            let Some(text) = reader.optional_text(item, "address", &path) else { continue };
            if matches!(kind, Some("InternalIP" | "ExternalIP"))
                && let Some(address) = address(reader, text, &join(&path, "address"))
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
    }
    (!reader.failed()).then_some(Node { name, addresses })
}

/// An IP address.
pub fn address(reader: &mut Reader<'_>, text: &str, field: &str) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        reader.error(field, format!("is {text:?}, expected an IPv4 or IPv6 address"));
    }
    address
}

//! Kubernetes manifests into model objects, as strictly as the API server takes them.
//!
//! [`decode`] turns the bytes of one file into [`Object`]s and [`Finding`]s. It never panics and does no I/O. What the
//! API server would refuse is an error finding; a file with an error is bad as a whole, and the caller keeps that file's last
//! good state. Unknown fields are errors in policies, where a misspelt `ingres` means something else than its author
//! thinks, and warnings elsewhere. Kinds that are not ours are counted and skipped, so that the output of
//! `kubectl get ... -o yaml` is valid as it is.
//!
//! Workloads are expanded to pods by their templates here, so nobody behind this module knows of them. A workload
//! that came from a server (it has a uid) is skipped instead: its pods come along as pods.
//!
//! [`server`] reads the same objects as an API server sends them, [`raw`] hands manifests on as they are. [`review()`] looks at all objects together, [`assign_addresses`] gives pods without an address one.

mod addresses;
mod kinds;
mod meta;
mod pod;
mod policy;
pub mod raw;
mod reader;
mod review;
pub mod server;
#[cfg(test)]
mod tests;
pub(crate) mod yaml;

use std::sync::Arc;

use std::collections::BTreeMap;
use std::fmt;

pub use addresses::{NODE_ADDRESSES, assign_addresses, lab_addresses};
pub use review::review;

use crate::model::{Namespace, NetworkPolicy, Node, Pod};
use reader::Reader;
use yaml::Value;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The API server would refuse it.
    Error,
    /// Legal, but probably not what was meant.
    Warning,
}

/// Something to tell the author of a manifest. Its text is
/// `file:document: kind namespace/name: field: what is wrong, what is expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file as the caller named it; empty if it is about objects of unknown place.
    pub file: String,
    /// 1 for the first document of the file; 0 if unknown.
    pub document: usize,
    /// `kind` of the object; empty if the document has none.
    pub kind: String,
    /// `namespace/name`, or `name` of what has no namespace.
    pub name: String,
    /// Path of the field, as `spec.ingress[0].ports[1].endPort`; empty if it is about the whole.
    pub field: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.as_str() {
            // What a server has stands in no document.
            server::SERVER => write!(f, "{}: ", self.file)?,
            file => write!(f, "{file}:{}: ", self.document)?,
        }
        match (self.kind.as_str(), self.name.as_str()) {
            ("", "") => {}
            ("", name) => write!(f, "{name}: ")?,
            (kind, "") => write!(f, "{kind}: ")?,
            (kind, name) => write!(f, "{kind} {name}: ")?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectValue {
    /// v1 Namespace.
    Namespace(Namespace),
    /// v1 Pod, or one made from a workload's template.
    Pod(Box<Pod>),
    /// v1 Node.
    Node(Node),
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
}

/// A valid object and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// 1 for the first document of the file.
    pub document: usize,
    /// The object.
    pub value: ObjectValue,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Its valid objects, in order.
    pub objects: Vec<Object>,
    /// What is wrong with it, in order; of very many, the first ones and one that stands for the rest.
    pub findings: Vec<Finding>,
    /// Documents and list items of kinds that are not ours, by kind.
    pub skipped: BTreeMap<String, usize>,
}

/// Bytes of a file; more are refused. `kubectl get pods -A -o yaml` of 10,000 pods stays below.
pub const MAX_BYTES: usize = 256 << 20;

/// Decodes a file of YAML or JSON documents. `file` is only for findings.
#[must_use]
pub fn decode(file: &str, bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    if bytes.len() > MAX_BYTES {
        let message = format!("has {} bytes, expected at most {MAX_BYTES}", bytes.len());
        Reader::new(file, 1, &mut decoded.findings).error("", message);
        return decoded;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.trim_start_matches('\u{feff}'),
        Err(error) => {
            let message = format!("is not UTF-8 at byte {}, expected text", error.valid_up_to());
            Reader::new(file, 1, &mut decoded.findings).error("", message);
            return decoded;
        }
    };
    for (document, value) in yaml::documents(text) {
        match value {
            Ok(value) => decode_object(file, document, &value, None, &mut decoded),
            Err(message) => Reader::new(file, document, &mut decoded.findings).error("", message),
        }
    }
    decoded
}

/// One object, or the items of a list.
fn decode_object(
    file: &str,
    document: usize,
    value: &Value,
    assumed: Option<(&str, &str)>,
    decoded: &mut Decoded,
) {
    let mut reader = Reader::new(file, document, &mut decoded.findings);
    let Some(object) = reader.map(value, "") else { return };
    let text = |field: &str| object.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (assumed_version, assumed_kind) = assumed.unzip();
    let Some(kind) = text("kind").or(assumed_kind) else {
        reader.error("kind", "is missing, expected the kind of a Kubernetes object");
        return;
    };
    reader.kind = kind.to_owned();
    let Some(version) = text("apiVersion").or(assumed_version) else {
        reader.error("apiVersion", "is missing, expected for example v1");
        return;
    };
    if let Some(item_kind) = kind.strip_suffix("List")
        && let Some(items) = object.get("items")
    {
        let Some(items) = reader.list(items, "items") else { return };
        let assumed = (!item_kind.is_empty()).then_some((version, item_kind));
        for item in items {
            decode_object(file, document, item, assumed, decoded);
        }
        return;
    }
    let values = match (version, kind) {
        ("v1", "Namespace") => {
            meta::namespace(&mut reader, object).map(ObjectValue::Namespace).into_iter().collect()
        }
        ("v1", "Node") => meta::node(&mut reader, object).map(ObjectValue::Node).into_iter().collect(),
        ("v1", "Pod") => {
            pod::pod(&mut reader, object).map(|pod| ObjectValue::Pod(Box::new(pod))).into_iter().collect()
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => policy::policy(&mut reader, object)
            .map(|policy| ObjectValue::NetworkPolicy(policy.into()))
            .into_iter()
            .collect(),
        ("apps/v1", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch/v1", "Job") => {
            match pod::workload(&mut reader, kind, object) {
                pod::Workload::Pods(pods) => {
                    pods.into_iter().map(|pod| ObjectValue::Pod(Box::new(pod))).collect()
                }
                pod::Workload::OfServer => {
                    *decoded.skipped.entry(kind.to_owned()).or_default() += 1;
                    return;
                }
            }
        }
        _ => {
            match kinds::misspelt(version, kind) {
                Some((field, message)) => reader.error(field, message),
                None => *decoded.skipped.entry(kind.to_owned()).or_default() += 1,
            }
            return;
        }
    };
    let values: Vec<ObjectValue> = values;
    decoded.objects.extend(values.into_iter().map(|value| Object { document, value }));
}

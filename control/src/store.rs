//! One cluster out of many files.
//!
//! Objects are taken in the order of sources; of two with the same kind and name the first is kept and the other
//! reported, so that the answer does not depend on which file was changed last and is the same after a restart.
//! Everything is merged anew on every change: that is a fraction of what compiling costs, and nothing can be left
//! over from an earlier state.

use std::collections::BTreeMap;
use std::sync::Arc;

use podgate_config::manifest::{self, Finding, ObjectValue, Severity};
use podgate_config::model::Cluster;

use crate::source::FileObjects;

/// What all sources say together.
#[derive(Debug, Default)]
pub struct Merged {
    /// The objects.
    pub cluster: Cluster,
    /// Objects that are there twice, and what does not fit together (`review`).
    pub findings: Vec<Finding>,
}

/// What there is, as manifests call it.
const KINDS: [&str; 4] = [NAMESPACE, POD, NODE, NETWORK_POLICY];
const NAMESPACE: &str = "Namespace";
const POD: &str = "Pod";
const NODE: &str = "Node";
const NETWORK_POLICY: &str = "NetworkPolicy";

/// Where an object stands: file and document.
type Places = BTreeMap<(&'static str, String), (Arc<str>, usize)>;

/// Merges the files' objects. Pods without addresses keep none.
#[must_use]
pub fn merge(files: &[FileObjects]) -> Merged {
    let mut cluster = Cluster::default();
    let mut findings = Vec::new();
    let mut places = Places::new();
    for file in files {
        for object in file.objects.iter() {
            let (kind, name) = identify(&object.value);
            let place = (file.file.clone(), object.document);
            if let Some((first, document)) = places.get(&(kind, name.clone())) {
                findings.push(Finding {
                    severity: Severity::Error,
                    file: file.file.to_string(),
                    document: object.document,
                    kind: kind.to_owned(),
                    name,
                    field: "metadata.name".to_owned(),
                    message: format!("there already, expected once; the one in {first}:{document} is kept"),
                });
                continue;
            }
            places.insert((kind, name), place);
            insert(&mut cluster, &object.value);
        }
    }
    findings.extend(manifest::review(&cluster).into_iter().map(|finding| locate(finding, &places)));
    Merged { cluster, findings }
}

fn identify(value: &ObjectValue) -> (&'static str, String) {
    match value {
        ObjectValue::Namespace(namespace) => (NAMESPACE, namespace.name().to_string()),
        ObjectValue::Pod(pod) => (POD, pod.name.to_string()),
        ObjectValue::Node(node) => (NODE, node.name.to_string()),
        ObjectValue::NetworkPolicy(policy) => (NETWORK_POLICY, policy.name.to_string()),
    }
}

fn insert(cluster: &mut Cluster, value: &ObjectValue) {
    match value {
        ObjectValue::Namespace(namespace) => {
            cluster.namespaces.insert(namespace.name().clone(), namespace.clone());
        }
        ObjectValue::Pod(pod) => {
            cluster.pods.insert(pod.name.clone(), pod.as_ref().clone());
        }
        ObjectValue::Node(node) => {
            cluster.nodes.insert(node.name.clone(), node.clone());
        }
        ObjectValue::NetworkPolicy(policy) => {
            cluster.policies.insert(policy.name.clone(), policy.as_ref().clone());
        }
    }
}

/// What is found by looking at all objects together still names the file to mend.
fn locate(mut finding: Finding, places: &Places) -> Finding {
    let kind = KINDS.into_iter().find(|kind| *kind == finding.kind);
    if finding.file.is_empty()
        && let Some(kind) = kind
        && let Some((file, document)) = places.get(&(kind, finding.name.clone()))
    {
        finding.file = file.to_string();
        finding.document = *document;
    }
    finding
}

#[cfg(test)]
mod tests {
    use podgate_config::manifest::decode;

    use super::*;

    #[test]
    fn findings_about_all_objects_name_the_file_to_mend() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {}\n";
        let objects = decode("a.yaml", text.as_bytes()).objects;
        let merged = merge(&[FileObjects { file: Arc::from("a.yaml"), objects: objects.into() }]);
        let lines: Vec<String> = merged.findings.iter().map(ToString::to_string).collect();
        assert!(
            lines.iter().any(|line| line.starts_with("a.yaml:1: NetworkPolicy default/p: ")),
            "{lines:?}"
        );
    }
}

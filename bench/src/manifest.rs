//! Objects as Kubernetes manifests, for a gateway that reads files.

use std::fmt::Write;

use podgate_config::model::labels::Labels;
use podgate_config::model::port::PortMatch;
use podgate_config::model::selector::Operator;
use podgate_config::model::{
    Cluster, Namespace, NamespaceName, NetworkPolicy, ObjectName, Peer, Pod, PolicyPort, Rule, Selector,
};
use serde_json::{Map, Value, json};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One document a file: a List.
    Json,
    /// A document an object, in block style.
    Yaml,
}

impl Format {
    /// What the names of its files end in, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }

    /// A file of these objects.
    #[must_use]
    pub fn write(self, objects: &[Value]) -> String {
        match self {
            Self::Json => {
                let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
                serde_json::to_string_pretty(&list).unwrap_or_default()
            }
            Self::Yaml => {
                let mut text = String::new();
                for object in objects {
                    text.push_str("---\n");
                    block(object, 0, &mut text);
                }
                text
            }
        }
    }
}

/// A namespace with its pods and policies.
#[must_use]
pub fn objects_of(cluster: &Cluster, name: &NamespaceName) -> Vec<Value> {
    let pods = cluster.pods.values().filter(|of| of.name.namespace == *name).map(pod);
    let policies = cluster.policies.values().filter(|of| of.name.namespace == *name).map(|of| policy(of));
    cluster.namespaces.get(name).map(namespace).into_iter().chain(pods).chain(policies).collect()
}

/// The object as a server would have it: with much that is none of our business.
#[must_use]
pub fn padded(mut object: Value, version: usize) -> Value {
    let words = "f:metadata f:labels f:spec f:containers f:status f:conditions f:podIPs".repeat(20);
    object["metadata"]["uid"] = format!("6d1f0a52-8f7a-4c55-9d0f-{version:012}").into();
    object["metadata"]["resourceVersion"] = version.to_string().into();
    object["metadata"]["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": {"f:a": words}}]);
    if object["kind"] == "Pod" {
        let environment: Vec<Value> = (0..30)
            .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "some text of a usual length"}))
            .collect();
        object["spec"]["tolerations"] = environment.into();
        object["status"]["conditions"] =
            (0..5).map(|n| json!({"type": format!("Condition{n}"), "status": "True"})).collect();
    }
    object
}

fn labels(labels: &Labels) -> Value {
    labels
        .iter()
        .map(|(key, value)| (key.as_str().to_owned(), json!(value.as_str())))
        .collect::<Map<_, _>>()
        .into()
}

fn metadata(name: &ObjectName) -> Value {
    json!({"name": name.name.as_str(), "namespace": name.namespace.as_str()})
}

fn namespace(namespace: &Namespace) -> Value {
    let mut of = labels(namespace.labels());
    if let Some(of) = of.as_object_mut() {
        // The API server sets it.
        of.remove("kubernetes.io/metadata.name");
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name().as_str(), "labels": of}})
}

fn pod(pod: &Pod) -> Value {
    let mut metadata = metadata(&pod.name);
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("labels".to_owned(), labels(&pod.labels));
    }
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|port| {
            let name = port.name.as_ref().map(|name| name.as_str());
            json!({"name": name, "protocol": port.protocol.as_str(), "containerPort": port.number})
        })
        .collect();
    let addresses: Vec<Value> =
        pod.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "main", "ports": ports}]},
        "status": {"podIPs": addresses},
    })
}

/// A policy, with both sections as they are in force.
#[must_use]
pub fn policy(policy: &NetworkPolicy) -> Value {
    let mut spec = Map::new();
    let mut types = Vec::new();
    spec.insert("podSelector".to_owned(), selector(&policy.pods));
    for (kind, section, peers, of) in
        [("Ingress", "ingress", "from", &policy.ingress), ("Egress", "egress", "to", &policy.egress)]
    {
        if let Some(of) = of {
            types.push(kind);
            spec.insert(section.to_owned(), of.iter().map(|of| rule(of, peers)).collect());
        }
    }
    spec.insert("policyTypes".to_owned(), json!(types));
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(&policy.name),
        "spec": spec,
    })
}

fn rule(rule: &Rule, peers: &str) -> Value {
    let mut of = Map::new();
    if !rule.ports.is_empty() {
        of.insert("ports".to_owned(), rule.ports.iter().map(port).collect());
    }
    if !rule.peers.is_empty() {
        of.insert(peers.to_owned(), rule.peers.iter().map(peer).collect());
    }
    of.into()
}

fn port(port: &PolicyPort) -> Value {
    let protocol = port.protocol.as_str();
    match port.matches() {
        PortMatch::All => json!({"protocol": protocol}),
        PortMatch::Range { first, last } => json!({"protocol": protocol, "port": first, "endPort": last}),
        PortMatch::Named(name) => json!({"protocol": protocol, "port": name.as_str()}),
    }
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Pods { namespaces: None, pods } => json!({"podSelector": selector(pods)}),
        Peer::Pods { namespaces: Some(namespaces), pods } => {
            json!({"namespaceSelector": selector(namespaces), "podSelector": selector(pods)})
        }
        Peer::IpBlock(block) => {
            let except: Vec<String> = block.except().iter().map(ToString::to_string).collect();
            json!({"ipBlock": {"cidr": block.cidr().to_string(), "except": except}})
        }
    }
}

fn selector(selector: &Selector) -> Value {
    if selector.is_everything() {
        return json!({});
    }
    let requirement = |(key, operator): (&str, &Operator)| match operator {
        Operator::In(values) => json!({"key": key, "operator": "In", "values": texts(values)}),
        Operator::NotIn(values) => json!({"key": key, "operator": "NotIn", "values": texts(values)}),
        Operator::Exists => json!({"key": key, "operator": "Exists"}),
        Operator::DoesNotExist => json!({"key": key, "operator": "DoesNotExist"}),
    };
    let all: Vec<Value> =
        selector.requirements().map(|of| requirement((of.key.as_str(), &of.operator))).collect();
    json!({"matchExpressions": all})
}

fn texts<'a>(
    values: impl IntoIterator<Item = &'a podgate_config::model::labels::LabelValue>,
) -> Vec<&'a str> {
    values.into_iter().map(|value| value.as_str()).collect()
}

/// Block style as people write it; scalars as JSON has them, which is YAML too.
fn block(value: &Value, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(text, "{pad}{}:", json!(key));
                nested(value, depth, text);
            }
        }
        Value::Array(values) => {
            for value in values {
                let _ = write!(text, "{pad}-");
                nested(value, depth, text);
            }
        }
        scalar => {
            let _ = writeln!(text, "{pad}{scalar}");
        }
    }
}

fn nested(value: &Value, depth: usize, text: &mut String) {
    let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    if empty || !(value.is_object() || value.is_array()) {
        let _ = writeln!(text, " {value}");
    } else {
        text.push('\n');
        block(value, depth + 1, text);
    }
}

#[cfg(test)]
mod tests {
    use podgate_config::manifest::{ObjectValue, Severity, decode};

    use super::*;
    use crate::world::{Shape, cluster};

    /// What is written is read as the same objects, in either format.
    #[test]
    fn manifests_say_what_the_objects_are() {
        let shape = Shape { namespaces: 3, pods: 20, policies: 20, unique: true };
        let cluster = cluster(shape, 1).unwrap();
        for format in [Format::Json, Format::Yaml] {
            let mut read = Cluster::default();
            for name in cluster.namespaces.keys() {
                let text = format.write(&objects_of(&cluster, name));
                let decoded = decode("file", text.as_bytes());
                let errors: Vec<_> =
                    decoded.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
                assert!(errors.is_empty(), "{errors:?}");
                for object in decoded.objects {
                    match object.value {
                        ObjectValue::Namespace(of) => drop(read.namespaces.insert(of.name().clone(), of)),
                        ObjectValue::Pod(of) => drop(read.pods.insert(of.name.clone(), *of)),
                        ObjectValue::NetworkPolicy(of) => drop(read.policies.insert(of.name.clone(), of)),
                        ObjectValue::Node(of) => panic!("a node {:?}", of.name),
                    }
                }
            }
            assert_eq!(read.namespaces, cluster.namespaces);
            assert_eq!(read.policies, cluster.policies);
            assert_eq!(read.pods, cluster.pods);
        }
    }
}

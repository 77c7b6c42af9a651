//! v1 Pod, and the workloads whose templates stand for pods.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Severity;
use super::meta::{Meta, address, is, metadata, named};
use super::policy::{number, protocol};
use super::reader::{Reader, join};
use super::yaml::Map;
use crate::model::name::LocalName;
use crate::model::{ContainerPort, NodeName, ObjectName, Phase, Pod, PortName, Protocol};

/// More pods than this in one workload are refused: the API server would take them, a lab or a review would not.
const MAX_REPLICAS: i64 = 1000;

/// Fields of PodSpec.
const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
    "workloadRef",
];
/// Fields of Container.
const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// What a PodSpec says of what matters here.
struct Spec {
    host_network: bool,
    node: Option<NodeName>,
    ports: Vec<ContainerPort>,
}

/// A pod.
pub fn pod(reader: &mut Reader<'_>, object: &Map) -> Option<Pod> {
    let name = named(reader, object);
    reader.unknown(object, "", &["apiVersion", "kind", "metadata", "spec", "status"], Severity::Warning);
    let Meta { labels, uid } = match &name {
        Some((_, meta)) => metadata(reader, meta, "metadata", Severity::Warning),
        None => Meta { labels: crate::model::Labels::new(), uid: None },
    };
    let empty = Map::default();
    let spec_map = reader.optional_map(object, "spec", "").unwrap_or(&empty);
    let spec = spec(reader, spec_map, "spec");
    let status = reader.optional_map(object, "status", "").unwrap_or(&empty);
    let phase = match reader.optional_text(status, "phase", "status") {
        Some("Succeeded" | "Failed") => Phase::Finished,
        Some("Pending" | "Running" | "Unknown" | "") | None => Phase::Live,
        Some(other) => {
            let message = format!("is {other:?}, expected Pending, Running, Succeeded, Failed or Unknown");
            reader.error("status.phase", message);
            Phase::Live
        }
    };
    let addresses = addresses(reader, status);
    if reader.failed() {
        return None;
    }
    let (name, _) = name?;
    let Spec { host_network, node, ports } = spec;
    Some(Pod { name, uid, labels, addresses, phase, host_network, node, ports })
}

fn spec(reader: &mut Reader<'_>, map: &Map, path: &str) -> Spec {
    reader.unknown(map, path, SPEC, Severity::Warning);
    let field = join(path, "hostNetwork");
    let host_network =
        map.get("hostNetwork").and_then(|value| reader.boolean(value, &field)).unwrap_or(false);
    let node = reader.optional_text(map, "nodeName", path).filter(|name| !name.is_empty());
    let field = join(path, "nodeName");
    let node =
        node.and_then(|name| NodeName::parse(name).map_err(|error| reader.error(&field, is(&error))).ok());
    let mut ports = Vec::new();
    for (list, init) in [("containers", false), ("initContainers", true)] {
        for (i, value) in reader.optional_list(map, list, path).iter().enumerate() {
            let path = format!("{path}.{list}[{i}]");
            let Some(container) = reader.map(value, &path) else { continue };
            reader.unknown(container, &path, CONTAINER, Severity::Warning);
            let found = container_ports(reader, container, &path);
            // An init container that restarts always is a sidecar: it lives as long as the pod.
            let lives = !init || reader.optional_text(container, "restartPolicy", &path) == Some("Always");
            if lives {
                ports.extend(found);
            }
        }
    }
    Spec { host_network, node, ports }
}

fn container_ports(reader: &mut Reader<'_>, container: &Map, path: &str) -> Vec<ContainerPort> {
    let (mut ports, mut names) = (Vec::new(), HashSet::new());
    for (i, value) in reader.optional_list(container, "ports", path).iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let Some(map) = reader.map(value, &path) else { continue };
        reader.unknown(
            map,
            &path,
            &["containerPort", "hostIP", "hostPort", "name", "protocol"],
            Severity::Warning,
        );
        let field = join(&path, "containerPort");
        let number = match map.get("containerPort") {
            Some(value) => number(reader, value, &field),
            None => {
                reader.error(&field, "is missing, expected a port number from 1 to 65535");
                None
            }
        };
        let protocol = match reader.optional_text(map, "protocol", &path) {
            Some(text) => protocol(reader, text, &join(&path, "protocol")),
            None => Some(Protocol::Tcp),
        };
        let field = join(&path, "name");
        let name = reader.optional_text(map, "name", &path).filter(|name| !name.is_empty());
        let name = name
            .and_then(|name| PortName::parse(name).map_err(|error| reader.error(&field, is(&error))).ok());
        // Whatever the protocols are; another container of the pod may have the name again.
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            reader.error(
                &field,
                format!("is {:?} again, expected each name once in a container", name.as_str()),
            );
        }
        if let Some((number, protocol)) = number.zip(protocol) {
            ports.push(ContainerPort { name, protocol, number });
        }
    }
    ports
}

/// `status.podIPs`, or `status.podIP` where that alone is there.
fn addresses(reader: &mut Reader<'_>, status: &Map) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (i, value) in reader.optional_list(status, "podIPs", "status").iter().enumerate() {
        let path = format!("status.podIPs[{i}]");
        let Some(map) = reader.map(value, &path) else { continue };
        let Some(text) = reader.optional_text(map, "ip", &path).filter(|text| !text.is_empty()) else {
            continue;
        };
        let field = join(&path, "ip");
        let Some(address) = address(reader, text, &field) else { continue };
        if addresses.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            reader.error(
                &field,
                format!("is {address}, the second of its family, expected one IPv4 and one IPv6"),
            );
            continue;
        }
        unlikely(reader, address, &field);
        addresses.push(address);
    }
    let single = reader.optional_text(status, "podIP", "status").filter(|text| !text.is_empty());
    if let Some(single) = single.and_then(|text| address(reader, text, "status.podIP")) {
        match addresses.first() {
            None => {
                unlikely(reader, single, "status.podIP");
                addresses.push(single);
            }
            Some(first) if *first != single => {
                reader.error("status.podIP", format!("is {single}, expected {first}, the first of podIPs"));
            }
            Some(_) => {}
        }
    }
    addresses
}

/// Warns of an address that no pod's packet bears on a wire.
fn unlikely(reader: &mut Reader<'_>, address: IpAddr, field: &str) {
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    let what = if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address.is_unspecified() {
        "no address of anybody"
    } else if mapped {
        "an IPv4 address written as IPv6"
    } else {
        return;
    };
    reader.warning(field, format!("is {address}, {what}, expected one that a pod sends from"));
}

/// What a workload comes to.
pub enum Workload {
    /// Its pods; none if it is not valid.
    Pods(Vec<Pod>),
    /// It comes from a server, whose pods are listed as pods.
    OfServer,
}

/// The pods of a workload's template: `NAME` if there is one, else `NAME-0`, `NAME-1`, ...; those of a StatefulSet are
/// always numbered. A DaemonSet stands for one pod.
pub fn workload(reader: &mut Reader<'_>, kind: &str, object: &Map) -> Workload {
    let named = named(reader, object);
    reader.unknown(object, "", &["apiVersion", "kind", "metadata", "spec", "status"], Severity::Warning);
    if let Some((_, meta)) = &named
        && metadata(reader, meta, "metadata", Severity::Warning).uid.is_some()
    {
        return Workload::OfServer;
    }
    let Some(map) = object.get("spec").and_then(|value| reader.map(value, "spec")) else {
        reader.error("spec.template", "is missing, expected a pod template");
        return Workload::Pods(Vec::new());
    };
    let Some(template) = reader.optional_map(map, "template", "spec") else {
        reader.error("spec.template", "is missing, expected a pod template");
        return Workload::Pods(Vec::new());
    };
    reader.unknown(template, "spec.template", &["metadata", "spec"], Severity::Warning);
    let empty = Map::default();
    let meta = reader.optional_map(template, "metadata", "spec.template").unwrap_or(&empty);
    let labels = metadata(reader, meta, "spec.template.metadata", Severity::Warning).labels;
    let pod_spec = reader.optional_map(template, "spec", "spec.template").unwrap_or(&empty);
    let pod_spec = spec(reader, pod_spec, "spec.template.spec");
    let count = match kind {
        "DaemonSet" => 1,
        "Job" => count(reader, map, "parallelism"),
        _ => count(reader, map, "replicas"),
    };
    if reader.failed() {
        return Workload::Pods(Vec::new());
    }
    let Some((name, _)) = named else { return Workload::Pods(Vec::new()) };
    let mut pods = Vec::new();
    for i in 0..count {
        let own = if count == 1 && kind != "StatefulSet" {
            name.name.clone()
        } else {
            match LocalName::parse(&format!("{}-{i}", name.name)) {
                Ok(own) => own,
                Err(error) => {
                    reader.error("metadata.name", is(&error));
                    return Workload::Pods(Vec::new());
                }
            }
        };
        pods.push(Pod {
            name: ObjectName { namespace: name.namespace.clone(), name: own },
            uid: None,
            labels: labels.clone(),
            addresses: Vec::new(),
            phase: Phase::Live,
            host_network: pod_spec.host_network,
            node: pod_spec.node.clone(),
            ports: pod_spec.ports.clone(),
        });
    }
    Workload::Pods(pods)
}

fn count(reader: &mut Reader<'_>, map: &Map, name: &str) -> i64 {
    let Some(value) = map.get(name) else { return 1 };
    value.integer().filter(|count| (0..=MAX_REPLICAS).contains(count)).unwrap_or_else(|| {
        let message = format!("is {}, expected a number from 0 to {MAX_REPLICAS}", value.describe());
        reader.error(&join("spec", name), message);
        0
    })
}

//! What a server fills in and refuses on every write, as far as readers of these kinds see it.
//!
//! Filled in: what Podgate and `kubectl` read and documents leave out. Refused: names that cannot be, labels that are
//! no texts, pods without containers, and changes of a pod's spec beyond the few that a running pod takes.

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Resource;
use super::object::{metadata, section, text};

/// Who schedules a pod that does not say.
pub const SCHEDULER: &str = "default-scheduler";

fn default(value: &mut Value, pointer: &str, name: &str, filling: Value) {
    if let Some(map) = value.pointer_mut(pointer).and_then(Value::as_object_mut) {
        map.entry(name).or_insert(filling);
    }
}

fn each<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Fills in defaults; `version` makes what must differ between objects.
pub fn fill(resource: &Resource, value: &mut Value, version: u64) {
    match resource.kind {
        "Namespace" => {
            let name = text(value, "/metadata/name").to_owned();
            let labels = metadata(value).entry("labels").or_insert_with(|| json!({}));
            if labels.is_object() {
                labels["kubernetes.io/metadata.name"] = name.into();
            }
            section(value, "spec").entry("finalizers").or_insert_with(|| json!(["kubernetes"]));
            section(value, "status").entry("phase").or_insert_with(|| "Active".into());
        }
        "Pod" => pod(value),
        "NetworkPolicy" => network_policy(value),
        "Service" => service(value, version),
        "EndpointSlice" => each(value, "/ports").for_each(|port| default(port, "", "protocol", "TCP".into())),
        _ => {}
    }
}

fn pod(value: &mut Value) {
    for (name, filling) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("schedulerName", json!(SCHEDULER)),
        ("securityContext", json!({})),
    ] {
        section(value, "spec").entry(name).or_insert(filling);
    }
    section(value, "status").entry("phase").or_insert_with(|| "Pending".into());
    let host = value.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or_default();
    for list in ["/spec/containers", "/spec/initContainers"] {
        for port in each(value, list).flat_map(|container| each(container, "/ports")) {
            default(port, "", "protocol", "TCP".into());
            if let (true, Some(number)) = (host, port.get("containerPort").cloned()) {
                default(port, "", "hostPort", number);
            }
        }
    }
}

fn network_policy(value: &mut Value) {
    let egress =
        value.pointer("/spec/egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    let spec = section(value, "spec");
    spec.entry("podSelector").or_insert_with(|| json!({}));
    spec.entry("policyTypes").or_insert(types);
    for rules in ["/spec/ingress", "/spec/egress"] {
        for port in each(value, rules).flat_map(|rule| each(rule, "/ports")) {
            default(port, "", "protocol", "TCP".into());
        }
    }
}

fn service(value: &mut Value, version: u64) {
    let spec = section(value, "spec");
    spec.entry("type").or_insert_with(|| "ClusterIP".into());
    spec.entry("sessionAffinity").or_insert_with(|| "None".into());
    section(value, "status").entry("loadBalancer").or_insert_with(|| json!({}));
    for port in each(value, "/spec/ports") {
        default(port, "", "protocol", "TCP".into());
        if let Some(number) = port.get("port").cloned() {
            default(port, "", "targetPort", number);
        }
    }
    if text(value, "/spec/type") == "ExternalName" {
        return;
    }
    // Versions never repeat, so neither do these among the last 65,000 changes.
    let address = json!(format!("10.96.{}.{}", version >> 8 & 0xff, version & 0xff));
    let spec = section(value, "spec");
    if spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().is_empty() {
        spec.insert("clusterIP".into(), address);
    }
    let address = spec.get("clusterIP").cloned().unwrap_or_default();
    spec.entry("clusterIPs").or_insert_with(|| json!([address]));
}

/// Refuses what cannot be; `before` is the object that is changed.
///
/// # Errors
/// [`Failure`] 422, or 400 for a value of the wrong type.
pub fn validate(resource: &Resource, before: Option<&Value>, value: &Value) -> Result<(), Failure> {
    let name = text(value, "/metadata/name");
    let invalid = |field: &str, why: String| Err(Failure::invalid(resource, name, field, &why));
    let longest = if matches!(resource.kind, "Namespace" | "Service") { 63 } else { 253 };
    let letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(letter) && part.ends_with(letter) && part.chars().all(|c| letter(c) || c == '-')
    };
    if name.len() > longest || !name.split('.').all(part) || (longest == 63 && name.contains('.')) {
        return invalid(
            "metadata.name",
            format!("Invalid value: {name:?}: a lowercase RFC 1123 name is expected"),
        );
    }
    for (key, label) in value.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        let Some(label) = label.as_str() else {
            return Err(Failure::bad_request(format!(
                "metadata.labels[{key}]: cannot be anything but a text"
            )));
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let ends = |c: char| c.is_ascii_alphanumeric();
        let ended = label.is_empty() || (label.starts_with(ends) && label.ends_with(ends));
        if label.len() > 63 || !label.chars().all(good) || !ended {
            return invalid("metadata.labels", format!("Invalid value: {label:?}: not a label value"));
        }
    }
    if resource.kind == "Pod" {
        let containers = value.pointer("/spec/containers").and_then(Value::as_array);
        if containers.is_none_or(Vec::is_empty) {
            return invalid("spec.containers", "Required value".into());
        }
        if before.is_some_and(|before| fixed(before) != fixed(value)) {
            let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, \
                       `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` and \
                       `spec.terminationGracePeriodSeconds`";
            return invalid("spec", why.into());
        }
    }
    Ok(())
}

/// What of a pod's spec never changes.
fn fixed(value: &Value) -> Value {
    let mut spec = value.get("spec").cloned().unwrap_or_default();
    for name in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        spec.as_object_mut().map(|spec| spec.remove(name));
    }
    for list in ["/containers", "/initContainers"] {
        for container in each(&mut spec, list) {
            container.as_object_mut().map(|container| container.remove("image"));
        }
    }
    spec
}

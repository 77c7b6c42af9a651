//! The columns of `kubectl get`, per kind. The last column is an age on most; `kubectl` adds the namespace itself.

use serde_json::{Value, json};

use super::clock;
use super::kinds::Resource;
use super::object::text;

/// Names of the columns; those behind the bar are for `-o wide` alone.
fn names(resource: &Resource) -> (&'static [&'static str], &'static [&'static str]) {
    match resource.kind {
        "Namespace" => (&["Name", "Status", "Age"], &[]),
        "Pod" => (&["Name", "Ready", "Status", "Restarts", "Age"], &["IP", "Node"]),
        "Node" => (&["Name", "Status", "Roles", "Age", "Version"], &["Internal-IP"]),
        "Service" => (&["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"], &["Selector"]),
        "Event" => (&["Last Seen", "Type", "Reason", "Object", "Message"], &["Name"]),
        "NetworkPolicy" => (&["Name", "Pod-Selector", "Age"], &[]),
        "EndpointSlice" => (&["Name", "AddressType", "Ports", "Endpoints", "Age"], &[]),
        "Lease" => (&["Name", "Holder", "Age"], &[]),
        "ClusterNetworkPolicy" => (&["Name", "Tier", "Priority", "Age"], &[]),
        _ => (&["Name", "Age"], &[]),
    }
}

/// The column definitions.
#[must_use]
pub fn columns(resource: &Resource) -> Value {
    let (narrow, wide) = names(resource);
    let column = |name: &str, priority: u8| {
        let format = if name == "Name" { "name" } else { "" };
        json!({ "name": name, "type": "string", "format": format, "description": "", "priority": priority })
    };
    let narrow = narrow.iter().map(|name| column(name, 0));
    narrow.chain(wide.iter().map(|name| column(name, 1))).collect::<Vec<_>>().into()
}

/// One row.
#[must_use]
pub fn cells(resource: &Resource, value: &Value) -> Value {
    let (narrow, wide) = names(resource);
    narrow.iter().chain(wide).map(|name| Value::from(cell(resource, value, name))).collect::<Vec<_>>().into()
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

fn number(value: &Value, name: &str) -> String {
    value.get(name).map(ToString::to_string).unwrap_or_default()
}

fn labels(value: &Value, pointer: &str) -> String {
    let map = value.pointer(pointer).and_then(Value::as_object);
    joined(
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())),
    )
}

fn cell(resource: &Resource, value: &Value, column: &str) -> String {
    match column {
        "Name" => text(value, "/metadata/name").to_owned(),
        "Age" => clock::age(text(value, "/metadata/creationTimestamp")),
        "Status" => status(resource, value),
        "Ready" => ready(value),
        "Restarts" => items(value, "/status/containerStatuses")
            .iter()
            .filter_map(|container| container.get("restartCount")?.as_u64())
            .sum::<u64>()
            .to_string(),
        "IP" => or(text(value, "/status/podIP"), "<none>").to_owned(),
        "Node" => or(text(value, "/spec/nodeName"), "<none>").to_owned(),
        "Roles" => "<none>".into(),
        "Version" => text(value, "/status/nodeInfo/kubeletVersion").to_owned(),
        "Internal-IP" => items(value, "/status/addresses")
            .iter()
            .find(|address| text(address, "/type") == "InternalIP")
            .map_or("<none>", |address| text(address, "/address"))
            .to_owned(),
        "Cluster-IP" => or(text(value, "/spec/clusterIP"), "<none>").to_owned(),
        "External-IP" => "<none>".into(),
        "Port(s)" => joined(
            items(value, "/spec/ports")
                .iter()
                .map(|port| format!("{}/{}", number(port, "port"), text(port, "/protocol"))),
        ),
        "Selector" => labels(value, "/spec/selector"),
        "Pod-Selector" => pod_selector(value),
        "AddressType" => text(value, "/addressType").to_owned(),
        "Ports" => joined(items(value, "/ports").iter().map(|port| number(port, "port"))),
        "Endpoints" => joined(
            items(value, "/endpoints")
                .iter()
                .flat_map(|endpoint| items(endpoint, "/addresses"))
                .filter_map(|address| address.as_str().map(str::to_owned)),
        ),
        "Holder" => text(value, "/spec/holderIdentity").to_owned(),
        "Tier" => text(value, "/spec/tier").to_owned(),
        "Priority" => value.get("spec").map(|spec| number(spec, "priority")).unwrap_or_default(),
        _ => event(value, column),
    }
}

fn event(value: &Value, column: &str) -> String {
    // Both forms of Event come by here.
    let either = |core: &str, new: &str| or(text(value, core), text(value, new)).to_owned();
    match column {
        "Last Seen" => clock::age(or(
            &either("/lastTimestamp", "/deprecatedLastTimestamp"),
            or(text(value, "/eventTime"), text(value, "/metadata/creationTimestamp")),
        )),
        "Type" => or(text(value, "/type"), text(value, "/spec/type")).to_owned(),
        "Reason" => text(value, "/reason").to_owned(),
        "Object" => {
            let kind = either("/involvedObject/kind", "/regarding/kind").to_lowercase();
            format!("{kind}/{}", either("/involvedObject/name", "/regarding/name"))
        }
        "Message" => either("/message", "/note"),
        _ => String::new(),
    }
}

fn status(resource: &Resource, value: &Value) -> String {
    match resource.kind {
        "Node" => {
            let ready = items(value, "/status/conditions")
                .iter()
                .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True");
            if ready { "Ready".into() } else { "NotReady".into() }
        }
        "Pod" if !text(value, "/metadata/deletionTimestamp").is_empty() => "Terminating".into(),
        _ => or(text(value, "/status/reason"), or(text(value, "/status/phase"), "Unknown")).to_owned(),
    }
}

fn ready(value: &Value) -> String {
    let statuses = items(value, "/status/containerStatuses");
    let ready =
        statuses.iter().filter(|status| status.get("ready").is_some_and(|ready| *ready == true)).count();
    format!("{ready}/{}", items(value, "/spec/containers").len())
}

fn pod_selector(value: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (key, label) in
        value.pointer("/spec/podSelector/matchLabels").and_then(Value::as_object).into_iter().flatten()
    {
        parts.push(format!("{key}={}", label.as_str().unwrap_or_default()));
    }
    for expression in items(value, "/spec/podSelector/matchExpressions") {
        let values: Vec<&str> = items(expression, "/values").iter().filter_map(Value::as_str).collect();
        let (key, operator) = (text(expression, "/key"), text(expression, "/operator"));
        parts.push(match operator {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

//! Types and unknown fields: what a server that knows its kinds refuses or drops.
//!
//! A document is read into the kind's type and written again. What cannot be read has a value of the wrong type; what
//! does not come back is a field that the kind does not have. Kinds of a CRD are taken as they are.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::Failure;
use super::kinds::Resource;

fn again<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, serde_json::Error> {
    let mut value = value.clone();
    // An Event comes under two versions; which one was meant is decided before.
    value.as_object_mut().map(|value| value.remove("apiVersion"));
    serde_json::to_value(serde_json::from_value::<T>(value)?)
}

/// Takes unknown fields off `value`, or refuses them if `strict`.
///
/// # Errors
/// [`Failure`] 400 for a value of the wrong type, and for unknown fields if they are not allowed.
pub fn check(resource: &Resource, value: &mut Value, strict: bool) -> Result<(), Failure> {
    let known = match resource.kind {
        "Namespace" => again::<Namespace>(value),
        "Pod" => again::<Pod>(value),
        "Node" => again::<Node>(value),
        "Service" => again::<Service>(value),
        "Event" => again::<Event>(value),
        "NetworkPolicy" => again::<NetworkPolicy>(value),
        "EndpointSlice" => again::<EndpointSlice>(value),
        "Lease" => again::<Lease>(value),
        _ => return Ok(()),
    };
    let known = known.map_err(|error| {
        let kind = resource.kind;
        Failure::bad_request(format!("{kind} in version {:?} cannot be handled: {error}", resource.version))
    })?;
    let mut unknown = Vec::new();
    prune("", value, &known, &mut unknown);
    if strict && !unknown.is_empty() {
        let unknown: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        return Err(Failure::bad_request(format!("strict decoding error: {}", unknown.join(", "))));
    }
    Ok(())
}

/// Takes off what `known` does not have; nulls are left-out fields and go silently.
fn prune(path: &str, value: &mut Value, known: &Value, unknown: &mut Vec<String>) {
    match (value, known) {
        (Value::Object(map), Value::Object(known)) => map.retain(|name, value| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.get(name) {
                Some(known) => prune(&path, value, known, unknown),
                None if !value.is_null() => unknown.push(path),
                None => {}
            }
            known.contains_key(name)
        }),
        (Value::Array(items), Value::Array(known)) => {
            for (place, (item, known)) in items.iter_mut().zip(known).enumerate() {
                prune(&format!("{path}[{place}]"), item, known, unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds::PODS;
    use super::check;

    #[test]
    fn unknown_fields_and_wrong_types() {
        let pod = json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "a", "colour": 1, "labels": { "x": "y" } },
            "spec": { "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "prot": "TCP" }] }], "z": null },
        });
        let refused = check(&PODS, &mut pod.clone(), true).unwrap_err();
        assert_eq!(refused.code, 400);
        for field in ["\"metadata.colour\"", "\"spec.containers[0].ports[0].prot\""] {
            assert!(refused.message.contains(field), "{}", refused.message);
        }
        let mut pruned = pod.clone();
        check(&PODS, &mut pruned, false).unwrap();
        assert_eq!(pruned["metadata"], json!({ "name": "a", "labels": { "x": "y" } }));
        assert_eq!(
            pruned["spec"],
            json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 80 }] }] })
        );
        let mut wrong = pod;
        wrong["spec"]["containers"][0]["ports"][0]["containerPort"] = json!("eighty");
        assert_eq!(check(&PODS, &mut wrong, false).unwrap_err().code, 400);
    }
}

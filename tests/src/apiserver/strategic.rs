//! Strategic merge patch: a merge patch that knows which lists are keyed.
//!
//! The directives of `kubectl` are understood: `$patch` (merge, replace, delete), `$retainKeys`,
//! `$deleteFromPrimitiveList` and `$setElementOrder`. Which list has which key is in [`super::kinds`].

use serde_json::{Map, Value};

use super::failure::Failure;
use super::kinds::Resource;

/// Merges `patch` into `value`.
///
/// # Errors
/// [`Failure`] 400 for a patch that makes no sense.
pub fn merge(resource: &Resource, value: &mut Value, patch: &Value) -> Result<(), Failure> {
    let patch =
        patch.as_object().ok_or_else(|| Failure::bad_request("a strategic merge patch is an object"))?;
    merge_map(resource, "", value, patch)
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn merge_map(
    resource: &Resource,
    path: &str,
    value: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), Failure> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(current) = value else { return Ok(()) };
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("delete") => {
            current.clear();
            return Ok(());
        }
        Some("replace") => current.clear(),
        Some(other) => return Err(Failure::bad_request(format!("unknown patch directive {other:?}"))),
    }
    if let Some(retained) = patch.get("$retainKeys").and_then(Value::as_array) {
        current.retain(|key, _| retained.iter().any(|kept| kept == key));
    }
    for (name, change) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = current.get_mut(list).and_then(Value::as_array_mut) {
                list.retain(|item| !gone.contains(item));
            }
        }
    }
    for (name, change) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let path = below(path, name);
        match change {
            Value::Null => {
                current.remove(name);
            }
            Value::Object(change) => {
                let slot = current.entry(name.clone()).or_insert(Value::Null);
                merge_map(resource, &path, slot, change)?;
                if change.get("$patch").is_some_and(|patch| patch == "delete") {
                    current.remove(name);
                }
            }
            Value::Array(change) => {
                let slot = current.entry(name.clone()).or_insert(Value::Null);
                merge_list(resource, &path, slot, change)?;
            }
            other => {
                current.insert(name.clone(), other.clone());
            }
        }
    }
    // Last, because an order speaks of what the merge left there; it may also come alone.
    for (name, order) in patch {
        if let Some(list) = name.strip_prefix("$setElementOrder/")
            && let Some(Value::Array(items)) = current.get_mut(list)
            && let Some(order) = order.as_array()
        {
            sort(items, resource.list_keys(&below(path, list)).unwrap_or_default(), order);
        }
    }
    Ok(())
}

fn merge_list(resource: &Resource, path: &str, slot: &mut Value, change: &[Value]) -> Result<(), Failure> {
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    let replaces = |item: &Value| {
        directive(item).as_deref() == Some("replace") && item.as_object().is_some_and(|item| item.len() == 1)
    };
    let keys = resource.list_keys(path);
    let (Some(keys), false) = (keys, change.iter().any(replaces)) else {
        *slot = Value::Array(change.iter().filter(|item| !replaces(item)).cloned().collect());
        return Ok(());
    };
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    let Value::Array(items) = slot else { return Ok(()) };
    for item in change {
        let Some(key) = keys.first() else {
            if !items.contains(item) {
                items.push(item.clone());
            }
            continue;
        };
        let Some(wanted) = item.get(key) else {
            return Err(Failure::bad_request(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let place = items.iter().position(|known| known.get(key) == Some(wanted));
        if directive(item).as_deref() == Some("delete") {
            items.retain(|known| known.get(key) != Some(wanted));
            continue;
        }
        let Some(fields) = item.as_object() else { continue };
        match place.and_then(|place| items.get_mut(place)) {
            Some(known) => merge_map(resource, path, known, fields)?,
            None => {
                let mut new = Value::Null;
                merge_map(resource, path, &mut new, fields)?;
                items.push(new);
            }
        }
    }
    Ok(())
}

/// Puts the items that `order` names into its order, in the places they have; the others stay where they are.
fn sort(items: &mut [Value], keys: &[&str], order: &[Value]) {
    let rank = |item: &Value| {
        order.iter().position(|wanted| match keys.first() {
            Some(key) => wanted.get(key).is_some() && wanted.get(key) == item.get(key),
            None => wanted == item,
        })
    };
    let places: Vec<usize> =
        (0..items.len()).filter(|place| items.get(*place).and_then(rank).is_some()).collect();
    let mut named: Vec<Value> = places.iter().filter_map(|place| items.get(*place).cloned()).collect();
    named.sort_by_key(rank);
    for (place, item) in places.into_iter().zip(named) {
        if let Some(slot) = items.get_mut(place) {
            *slot = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds::PODS;
    use super::merge;

    #[test]
    fn keyed_lists_merge_by_key_and_others_are_replaced() {
        let mut pod = json!({
            "metadata": { "labels": { "a": "1", "b": "2" }, "finalizers": ["x"] },
            "spec": {
                "containers": [{ "name": "web", "image": "old", "args": ["a"] }, { "name": "log", "image": "l" }],
                "tolerations": [{ "key": "k" }],
            },
        });
        let patch = json!({
            "metadata": { "labels": { "a": null, "c": "3" }, "finalizers": ["y"] },
            "spec": {
                "containers": [
                    { "name": "web", "image": "new", "args": ["b"] },
                    { "name": "log", "$patch": "delete" },
                    { "name": "side" },
                ],
                "tolerations": [{ "key": "other" }],
            },
        });
        merge(&PODS, &mut pod, &patch).unwrap();
        assert_eq!(
            pod,
            json!({
                "metadata": { "labels": { "b": "2", "c": "3" }, "finalizers": ["x", "y"] },
                "spec": {
                    "containers": [{ "name": "web", "image": "new", "args": ["b"] }, { "name": "side" }],
                    "tolerations": [{ "key": "other" }],
                },
            })
        );
    }

    #[test]
    fn directives() {
        let mut pod = json!({
            "metadata": { "finalizers": ["a", "b"], "labels": { "x": "1" }, "annotations": { "y": "1", "z": "1" } },
            "spec": { "containers": [{ "name": "a" }, { "name": "server" }, { "name": "b" }] },
        });
        let patch = json!({
            "metadata": {
                "$deleteFromPrimitiveList/finalizers": ["a"],
                "labels": { "$patch": "replace", "w": "2" },
                "annotations": { "$retainKeys": ["z"] },
            },
            "spec": { "$setElementOrder/containers": [{ "name": "b" }, { "name": "a" }] },
        });
        merge(&PODS, &mut pod, &patch).unwrap();
        assert_eq!(
            pod,
            json!({
                "metadata": { "finalizers": ["b"], "labels": { "w": "2" }, "annotations": { "z": "1" } },
                "spec": { "containers": [{ "name": "b" }, { "name": "server" }, { "name": "a" }] },
            })
        );
        let replace = json!({ "spec": { "containers": [{ "$patch": "replace" }, { "name": "only" }] } });
        merge(&PODS, &mut pod, &replace).unwrap();
        assert_eq!(pod["spec"], json!({ "containers": [{ "name": "only" }] }));
        for wrong in
            [json!([]), json!({ "spec": { "containers": [{ "image": "x" }] } }), json!({ "$patch": "?" })]
        {
            assert_eq!(merge(&PODS, &mut pod, &wrong).unwrap_err().code, 400, "{wrong}");
        }
    }
}

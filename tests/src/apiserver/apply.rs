//! Server-side apply: each manager says what it wants, and owns what it said.
//!
//! Ownership is kept in `metadata.managedFields` in the API's own form (FieldsV1), for managers that apply. A field
//! that a manager no longer mentions goes, unless another one owns it too; a field that another one owns with another
//! value is a conflict, unless forced. Plain writes (PUT, other patches) own nothing here, so they never conflict:
//! a real server is stricter.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::clock;
use super::failure::Failure;
use super::kinds::Resource;
use super::object::{metadata, text};

/// The way to a field: `f:name` into a map, `k:{keys}` into a keyed list, `v:value` into a set.
type Path = Vec<String>;

/// Who applies, and how.
pub(crate) struct Manager<'a> {
    /// `fieldManager` of the request.
    pub name: &'a str,
    /// Whether conflicts are won.
    pub force: bool,
    /// The subresource, whose fields are owned apart.
    pub part: Option<&'a str>,
}

struct Entry {
    rest: Value,
    fields: BTreeSet<Path>,
}

/// Metadata that says which object is meant, and is owned by nobody.
const IDENTITY: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "generateName",
    "selfLink",
];

/// The object after an apply; `before` is `None` if there is none yet.
///
/// # Errors
/// [`Failure`] 409 for conflicts, 400 for a configuration that carries managed fields.
pub(crate) fn apply(
    resource: &Resource,
    before: Option<Value>,
    mut config: Value,
    manager: &Manager<'_>,
) -> Result<Value, Failure> {
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    if let Some(map) = config.as_object_mut() {
        match manager.part {
            Some(part) => {
                map.retain(|name, _| ["kind", "apiVersion", "metadata", part].contains(&name.as_str()))
            }
            None if resource.status => drop(map.remove("status")),
            None => {}
        }
    }
    let wanted = fields(resource, &config);
    let mut value = before.unwrap_or_else(|| json!({}));
    let (own, mut others) = entries(&value, manager);

    let mut conflicts = Vec::new();
    for other in &mut others {
        let disputed: Vec<Path> = other
            .fields
            .intersection(&wanted)
            .filter(|path| path.last().is_some_and(|last| last.starts_with("f:")))
            .filter(|path| find(&value, path) != find(&config, path))
            .cloned()
            .collect();
        for path in disputed {
            conflicts.push((text(&other.rest, "/manager").to_owned(), path.clone()));
            other.fields.remove(&path);
        }
    }
    if !conflicts.is_empty() && !manager.force {
        return Err(refusal(&conflicts));
    }

    overlay(resource, "", &mut value, &config);
    let dropped = own.as_ref().map(|own| own.fields.difference(&wanted).cloned().collect::<Vec<_>>());
    let owned =
        |path: &Path| others.iter().any(|other| other.fields.iter().any(|known| known.starts_with(path)));
    let mut dropped: Vec<Path> = dropped.unwrap_or_default();
    dropped.retain(|path| !owned(path) && !wanted.iter().any(|known| known.starts_with(path)));
    // In the order of the set: an item goes before its fields, by which it is known.
    for path in &dropped {
        remove(&mut value, path);
    }

    let same = own.as_ref().is_some_and(|own| own.fields == wanted);
    let mine = match own {
        Some(own) if same => own,
        _ => Entry {
            rest: json!({
                "manager": manager.name, "operation": "Apply", "apiVersion": resource.api_version(),
                "time": clock::text(clock::now()), "fieldsType": "FieldsV1", "subresource": manager.part,
            }),
            fields: wanted,
        },
    };
    others.push(mine);
    others.sort_by(|left, right| text(&left.rest, "/manager").cmp(text(&right.rest, "/manager")));
    let managed: Vec<Value> = others.into_iter().filter_map(Entry::into_value).collect();
    metadata(&mut value).insert("managedFields".into(), managed.into());
    Ok(value)
}

fn refusal(conflicts: &[(String, Path)]) -> Failure {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, path)| {
            let field =
                path.iter().map(|step| format!(".{}", step.get(2..).unwrap_or_default())).collect::<String>();
            let message = format!("conflict with {manager:?}");
            json!({ "reason": "FieldManagerConflict", "message": message, "field": field })
        })
        .collect();
    let message = format!("Apply failed with {} conflicts: {}", causes.len(), json!(causes));
    let mut failure = Failure::new(409, "Conflict", message);
    failure.details = json!({ "causes": causes });
    failure
}

impl Entry {
    fn into_value(self) -> Option<Value> {
        // Entries of plain writes come in documents and are passed on as they are.
        if self.rest.get("operation").is_some_and(|operation| operation != "Apply") {
            return Some(self.rest);
        }
        let mut value = self.rest;
        value["fieldsV1"] = encode(&self.fields);
        if value["subresource"].is_null() {
            value.as_object_mut().map(|value| value.remove("subresource"));
        }
        (!self.fields.is_empty()).then_some(value)
    }
}

/// The manager's own entry, and all others.
fn entries(value: &Value, manager: &Manager<'_>) -> (Option<Entry>, Vec<Entry>) {
    let managed = value.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mut own = None;
    let mut others = Vec::new();
    for rest in managed.into_iter().flatten().cloned() {
        let applied = text(&rest, "/operation") == "Apply";
        let part = rest.get("subresource").and_then(Value::as_str);
        let mine = applied && text(&rest, "/manager") == manager.name && part == manager.part;
        let mut fields = BTreeSet::new();
        if let (true, Some(encoded)) = (applied, rest.get("fieldsV1")) {
            decode(encoded, &mut Vec::new(), &mut fields);
        }
        let entry = Entry { rest, fields };
        if mine {
            own = Some(entry);
        } else {
            others.push(entry);
        }
    }
    (own, others)
}

fn encode(fields: &BTreeSet<Path>) -> Value {
    let mut root = json!({});
    for path in fields {
        let mut node = &mut root;
        for step in path {
            if !node[step.as_str()].is_object() {
                node[step.as_str()] = json!({});
            }
            node = &mut node[step.as_str()];
        }
        if path.last().is_some_and(|last| last.starts_with("k:")) {
            node["."] = json!({});
        }
    }
    root
}

fn decode(node: &Value, at: &mut Path, fields: &mut BTreeSet<Path>) {
    let Some(map) = node.as_object() else { return };
    if (map.is_empty() || map.contains_key(".")) && !at.is_empty() {
        fields.insert(at.clone());
    }
    for (step, child) in map.iter().filter(|(step, _)| *step != ".") {
        at.push(step.clone());
        decode(child, at, fields);
        at.pop();
    }
}

/// All that a configuration speaks of.
fn fields(resource: &Resource, config: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    collect(resource, "", config, &mut Vec::new(), &mut found);
    found
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn is_identity(path: &str, name: &str) -> bool {
    match path {
        "" => matches!(name, "kind" | "apiVersion"),
        "metadata" => IDENTITY.contains(&name),
        _ => false,
    }
}

fn collect(resource: &Resource, path: &str, value: &Value, at: &mut Path, found: &mut BTreeSet<Path>) {
    match (value, resource.list_keys(path)) {
        (Value::Null, _) => {}
        (Value::Object(map), _) if at.is_empty() || (!map.is_empty() && !resource.atomic.contains(&path)) => {
            for (name, child) in map.iter().filter(|(name, _)| !is_identity(path, name)) {
                at.push(format!("f:{name}"));
                collect(resource, &below(path, name), child, at, found);
                at.pop();
            }
        }
        (Value::Array(items), Some(keys)) if !items.is_empty() => {
            for item in items {
                at.push(step(keys, item));
                found.insert(at.clone());
                if let (false, Some(map)) = (keys.is_empty(), item.as_object()) {
                    for (name, child) in map {
                        at.push(format!("f:{name}"));
                        collect(resource, &below(path, name), child, at, found);
                        at.pop();
                    }
                }
                at.pop();
            }
        }
        _ => {
            found.insert(at.clone());
        }
    }
}

/// The step into a list: what tells the item from all others. The one key with a default is a port's protocol.
fn step(keys: &[&str], item: &Value) -> String {
    if keys.is_empty() {
        return format!("v:{item}");
    }
    let filled = |key: &&str| match item.get(*key) {
        None if *key == "protocol" => json!("TCP"),
        found => found.cloned().unwrap_or_default(),
    };
    let keys: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), filled(key))).collect();
    format!("k:{}", Value::Object(keys))
}

/// Whether an item of a list is the one that a step leads to.
fn is_at(step_text: &str, item: &Value) -> bool {
    if let Some(value) = step_text.strip_prefix("v:") {
        return serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item);
    }
    let keys: Map<String, Value> =
        step_text.strip_prefix("k:").and_then(|keys| serde_json::from_str(keys).ok()).unwrap_or_default();
    step(&keys.keys().map(String::as_str).collect::<Vec<_>>(), item) == step_text
}

fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => value.as_array()?.iter().find(|item| is_at(step, item)),
    })
}

fn overlay(resource: &Resource, path: &str, value: &mut Value, config: &Value) {
    match (config, resource.list_keys(path)) {
        (Value::Null, _) => {}
        (Value::Object(wanted), _) if path.is_empty() || !resource.atomic.contains(&path) => {
            if !value.is_object() {
                *value = json!({});
            }
            for (name, child) in wanted.iter().filter(|(_, child)| !child.is_null()) {
                overlay(resource, &below(path, name), &mut value[name.as_str()], child);
            }
        }
        (Value::Array(wanted), Some(keys)) => {
            if !value.is_array() {
                *value = json!([]);
            }
            let Some(items) = value.as_array_mut() else { return };
            for item in wanted {
                let at = step(keys, item);
                match items.iter_mut().find(|known| is_at(&at, known)) {
                    Some(known) if !keys.is_empty() => overlay_item(resource, path, known, item),
                    Some(_) => {}
                    None => items.push(item.clone()),
                }
            }
        }
        _ => *value = config.clone(),
    }
}

fn overlay_item(resource: &Resource, path: &str, value: &mut Value, config: &Value) {
    for (name, child) in config.as_object().into_iter().flatten() {
        overlay(resource, &below(path, name), &mut value[name.as_str()], child);
    }
}

/// Takes away what a path leads to, and the maps that are empty because of it.
fn remove(value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    match (first.strip_prefix("f:"), value) {
        (Some(name), Value::Object(map)) => {
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(child) = map.get_mut(name) {
                let before = child.as_object().is_some_and(|child| !child.is_empty());
                remove(child, rest);
                if before && child.as_object().is_some_and(Map::is_empty) {
                    map.remove(name);
                }
            }
        }
        (None, Value::Array(items)) if rest.is_empty() => items.retain(|item| !is_at(first, item)),
        (None, Value::Array(items)) => {
            if let Some(item) = items.iter_mut().find(|item| is_at(first, item)) {
                remove(item, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::kinds::PODS;
    use super::{Manager, apply};

    fn by(name: &str) -> Manager<'_> {
        Manager { name, force: false, part: None }
    }

    fn config(labels: Value, ports: Value) -> Value {
        json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "web", "labels": labels },
                "spec": { "containers": [{ "name": "web", "image": "i", "ports": ports }] } })
    }

    #[test]
    fn what_is_no_longer_said_goes() {
        let first =
            config(json!({ "a": "1", "b": "2" }), json!([{ "containerPort": 80 }, { "containerPort": 81 }]));
        let value = apply(&PODS, None, first.clone(), &by("one")).unwrap();
        assert_eq!(
            apply(&PODS, Some(value.clone()), first, &by("one")).unwrap(),
            value,
            "the same changes nothing"
        );
        let second = config(json!({ "a": "3" }), json!([{ "containerPort": 81, "protocol": "TCP" }]));
        let value = apply(&PODS, Some(value), second, &by("one")).unwrap();
        assert_eq!(value["metadata"]["labels"], json!({ "a": "3" }));
        let ports = &value["spec"]["containers"][0]["ports"];
        assert_eq!(*ports, json!([{ "containerPort": 81, "protocol": "TCP" }]));
    }

    #[test]
    fn fields_of_others_conflict_and_stay() {
        let spec = json!([{ "containerPort": 80 }]);
        let value =
            apply(&PODS, None, config(json!({ "a": "1", "b": "1" }), spec.clone()), &by("one")).unwrap();
        let other = config(json!({ "a": "2" }), spec.clone());
        let refused = apply(&PODS, Some(value.clone()), other.clone(), &by("two")).unwrap_err();
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        assert_eq!(refused.details["causes"][0]["field"], ".metadata.labels.a");
        let forced = Manager { force: true, ..by("two") };
        let value = apply(&PODS, Some(value), other, &forced).unwrap();
        assert_eq!(value["metadata"]["labels"], json!({ "a": "2", "b": "1" }));
        // The first manager lost `a`, so leaving it out does not remove it; `b` is still its own.
        let value = apply(&PODS, Some(value), config(json!({}), spec), &by("one")).unwrap();
        assert_eq!(value["metadata"]["labels"], json!({ "a": "2" }));
        assert_eq!(value["spec"]["containers"][0]["ports"].as_array().unwrap().len(), 1);
    }
}

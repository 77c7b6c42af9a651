//! DELETE: at once for most kinds, in two steps for pods, with everything inside for namespaces.
//!
//! A pod that runs on a node gets a time to die (`deletionTimestamp`, `deletionGracePeriodSeconds`) and stays until
//! who acts as its kubelet deletes it with grace 0. A namespace turns Terminating, takes nothing new, and goes when
//! the last thing in it has gone. Anything with finalizers stays until they are taken off.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::clock;
use super::failure::Failure;
use super::form;
use super::http::Answer;
use super::kinds::Resource;
use super::object::{Object, metadata, section, text};
use super::read::selector;
use super::request::{Form, Request, Target};
use super::store::Store;

#[derive(Debug, Default)]
struct Wish {
    grace: Option<i64>,
    uid: String,
    version: String,
    dry_run: bool,
}

impl Wish {
    fn parse(request: &Request) -> Result<Self, Failure> {
        let body: Value = match request.content_type.as_str() {
            _ if request.body.is_empty() => Value::Null,
            "" | "application/json" => serde_json::from_slice(&request.body)
                .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))?,
            other => return Err(Failure::media_type(other, "application/json")),
        };
        let query = request.query.get("gracePeriodSeconds").parse().ok();
        Ok(Self {
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64).or(query),
            uid: text(&body, "/preconditions/uid").to_owned(),
            version: text(&body, "/preconditions/resourceVersion").to_owned(),
            dry_run: !request.query.get("dryRun").is_empty()
                || body.get("dryRun").and_then(Value::as_array).is_some_and(|all| !all.is_empty()),
        })
    }
}

/// One object.
pub(crate) fn one(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let wish = Wish::parse(request)?;
    let (resource, name) = (target.resource, target.object());
    let answer = shared.write(|store| {
        let object = store.get(resource, target.space(), name);
        let object = object.ok_or_else(|| Failure::not_found(resource, name))?;
        let value = object.value(resource);
        let precondition = |wanted: &str, found: &str, what: &str| {
            if wanted.is_empty() || wanted == found {
                return Ok(());
            }
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object \
                 might have been deleted and then recreated"
            );
            Err(Failure::conflict(resource, name, &why))
        };
        precondition(&wish.uid, text(&value, "/metadata/uid"), "UID")?;
        precondition(&wish.version, text(&value, "/metadata/resourceVersion"), "ResourceVersion")?;
        Ok(if wish.dry_run { success(resource, &value) } else { delete(store, shared, resource, &object, &wish) })
    })?;
    Ok(Answer::json(200, answer.to_string()))
}

/// All objects of a kind in a namespace, or of a cluster-wide kind, that the selectors match.
pub(crate) fn all(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let wish = Wish::parse(request)?;
    let selector = selector(&request.query, target)?;
    let (version, mut gone) = shared.write(|store| {
        let mut gone = store.all(target.resource, target.namespace.as_deref());
        gone.retain(|object| selector.matches(object));
        for object in gone.iter().filter(|_| !wish.dry_run) {
            delete(store, shared, target.resource, object, &wish);
        }
        (store.version(), gone)
    });
    gone.sort_by(|left, right| (&left.namespace, &left.name).cmp(&(&right.namespace, &right.name)));
    let metadata = json!({ "resourceVersion": version.to_string() });
    let gone: Vec<&Arc<Object>> = gone.iter().collect();
    Ok(Answer::json(200, form::list(Form::Full, target.resource, &metadata, &gone)))
}

/// Deletes what is there, as far as it may go at once, and says what is answered.
fn delete(
    store: &mut Store,
    shared: &Shared,
    resource: &'static Resource,
    old: &Object,
    wish: &Wish,
) -> Value {
    let mut value = old.value(resource);
    let pending = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let grace = if resource.kind == "Pod" { grace(&value, wish) } else { 0 };
    // What is dying already dies no later for being told again.
    if pending.is_some_and(|pending| pending <= grace) && (grace > 0 || held(&value)) {
        return value;
    }
    let asked_at = match (clock::parse(text(&value, "/metadata/deletionTimestamp")), pending) {
        (Some(until), Some(pending)) => until - pending,
        _ => clock::now(),
    };
    let mark = |value: &mut Value| {
        let metadata = metadata(value);
        metadata.insert("deletionTimestamp".into(), clock::text(asked_at + grace).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    };
    if resource.kind == "Namespace" {
        let name = old.name.clone();
        if text(&value, "/metadata/deletionTimestamp").is_empty() {
            mark(&mut value);
            metadata(&mut value).remove("deletionGracePeriodSeconds");
            section(&mut value, "status").insert("phase".into(), "Terminating".into());
            value = store.put(resource, value).value(resource);
            empty(store, shared, &name);
        }
        settle(store, &shared.kinds, &name);
        return value;
    }
    if grace > 0 || held(&value) {
        mark(&mut value);
        return store.put(resource, value).value(resource);
    }
    remove(store, &shared.kinds, resource, &old.namespace, &old.name);
    if resource.kind == "Pod" { value } else { success(resource, &value) }
}

/// Seconds that a pod has to die: none without a node, or when it has ended already.
fn grace(pod: &Value, wish: &Wish) -> i64 {
    if text(pod, "/spec/nodeName").is_empty() || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
    {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    match wish.grace.or(own).unwrap_or(30) {
        ..0 => 1,
        grace => grace,
    }
}

/// Whether finalizers hold an object.
#[must_use]
pub fn held(value: &Value) -> bool {
    value.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
}

fn success(resource: &Resource, value: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": text(value, "/metadata/name"), "group": resource.group, "kind": resource.plural,
            "uid": text(value, "/metadata/uid"),
        },
    })
}

fn empty(store: &mut Store, shared: &Shared, namespace: &str) {
    for kind in shared.kinds.iter().filter(|kind| kind.namespaced) {
        for object in store.all(kind, Some(namespace)) {
            delete(store, shared, kind, &object, &Wish::default());
        }
    }
}

/// Removes an object for good, and its namespace if that only waited for it.
pub fn remove(
    store: &mut Store,
    kinds: &[&'static Resource],
    resource: &'static Resource,
    namespace: &str,
    name: &str,
) -> Option<Arc<Object>> {
    let gone = store.take(resource, namespace, name)?;
    if resource.namespaced {
        settle(store, kinds, namespace);
    }
    Some(gone)
}

/// Lets a terminating namespace go once nothing holds it.
fn settle(store: &mut Store, kinds: &[&'static Resource], name: &str) {
    let resource = &super::kinds::NAMESPACES;
    let Some(namespace) = store.get(resource, "", name) else { return };
    let value = namespace.value(resource);
    let dying = !text(&value, "/metadata/deletionTimestamp").is_empty();
    if dying && !held(&value) && !store.occupied(name, kinds) {
        store.take(resource, "", name);
    }
}

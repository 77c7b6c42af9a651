//! POST, PUT and PATCH: what a write may change, and what the server keeps to itself.
//!
//! Every write ends in [`replace`] or [`insert`], under one hold of the store, so a patch is never computed on an
//! object that changed meanwhile. A write that changes nothing takes no version and wakes no watch, as on a real
//! server. Metadata that the server owns (uid, times, generation) is taken from the stored object whatever the client
//! sends; a write of the object leaves its status alone and a write of `/status` leaves all else alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::apply;
use super::clock;
use super::defaults::{fill, validate};
use super::delete;
use super::events;
use super::failure::Failure;
use super::form;
use super::http::Answer;
use super::kinds::{NAMESPACES, Resource};
use super::object::{Object, metadata, text};
use super::patch;
use super::protobuf;
use super::request::{Request, Target};
use super::scheduler;
use super::store::Store;
use super::typed;

/// Metadata that a client cannot change.
const OWNED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];

/// Reads a JSON body as a document of the target's kind.
fn document(request: &Request, target: &Target) -> Result<Value, Failure> {
    let refused = || Failure::media_type(&request.content_type, "application/json");
    let value: Value = match request.content_type.as_str() {
        "" | "application/json" | "application/apply-patch+yaml" => serde_json::from_slice(&request.body)
            .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))?,
        protobuf::TYPE => protobuf::read(&request.body).ok_or_else(refused)?,
        _ => return Err(refused()),
    };
    if !value.is_object() {
        return Err(Failure::bad_request("the body is not an object"));
    }
    let resource = target.resource;
    let (kind, version) = (text(&value, "/kind"), text(&value, "/apiVersion"));
    if !(kind.is_empty() || kind == resource.kind)
        || !(version.is_empty() || version == resource.api_version())
    {
        let why = format!("{kind} in version {version:?} cannot be handled as a {}", resource.kind);
        return Err(Failure::bad_request(why));
    }
    let space = text(&value, "/metadata/namespace");
    if !space.is_empty() && space != target.space() {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::bad_request(why));
    }
    let name = text(&value, "/metadata/name");
    if target.name.is_some() && !name.is_empty() && name != target.object() {
        let why = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.object()
        );
        return Err(Failure::bad_request(why));
    }
    Ok(if events::is_new(resource) { events::to_core(value) } else { value })
}

fn answer(code: u16, request: &Request, target: &Target, object: &Object) -> Result<Answer, Failure> {
    Ok(Answer::json(code, form::document(request.form()?, target.resource, object)))
}

/// How a write is meant.
#[derive(Debug, Clone, Copy)]
struct How {
    /// Only to see what would come of it.
    dry: bool,
    /// Unknown fields are errors, not dropped.
    strict: bool,
}

impl How {
    fn new(request: &Request) -> Self {
        let query = &request.query;
        Self { dry: !query.get("dryRun").is_empty(), strict: query.get("fieldValidation") == "Strict" }
    }
}

/// POST of an object.
pub(crate) fn create(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let value = document(request, target)?;
    let how = How::new(request);
    let object = shared.write(|store| {
        let object = insert(store, target, value, how)?;
        scheduler::place(store, shared, &object, target, how.dry);
        Ok(object)
    })?;
    answer(201, request, target, &object)
}

/// Makes a new object.
fn insert(store: &mut Store, target: &Target, mut value: Value, how: How) -> Result<Arc<Object>, Failure> {
    let resource = target.resource;
    let mut name = text(&value, "/metadata/name").to_owned();
    let base = text(&value, "/metadata/generateName");
    if name.is_empty() && !base.is_empty() {
        name = format!("{}{}", base.get(..58).unwrap_or(base), suffix());
    }
    if name.is_empty() {
        let why = "Required value: name or generateName is required";
        return Err(Failure::invalid(resource, "", "metadata.name", why));
    }
    if resource.namespaced {
        let space = target.space();
        let namespace =
            store.get(&NAMESPACES, "", space).ok_or_else(|| Failure::not_found(&NAMESPACES, space))?;
        if !text(&namespace.value(&NAMESPACES), "/metadata/deletionTimestamp").is_empty() {
            return Err(Failure::terminating(resource, &name, space));
        }
    }
    if store.get(resource, target.space(), &name).is_some() {
        return Err(Failure::already_exists(resource, &name));
    }
    typed::check(resource, &mut value, how.strict)?;
    // A node's status comes with it, from its kubelet; other kinds begin without one.
    if resource.status && resource.kind != "Node" {
        value.as_object_mut().map(|value| value.remove("status"));
    }
    let meta = metadata(&mut value);
    for owned in OWNED.iter().chain(&["resourceVersion"]) {
        meta.remove(*owned);
    }
    meta.insert("name".into(), name.into());
    stamp(resource, target.space(), &mut value);
    fill(resource, &mut value, store.version());
    validate(resource, None, &value)?;
    Ok(commit(store, resource, value, how.dry))
}

/// What every new object gets.
fn stamp(resource: &Resource, namespace: &str, value: &mut Value) {
    let meta = metadata(value);
    if resource.namespaced {
        meta.insert("namespace".into(), namespace.into());
    }
    meta.insert("uid".into(), uid().into());
    meta.insert("creationTimestamp".into(), clock::text(clock::now()).into());
    if resource.generation {
        meta.insert("generation".into(), 1.into());
    }
}

fn uid() -> String {
    // A random UUID: version 4, variant 1.
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bits = rand::random::<u64>();
    let mut letter = || {
        let count = LETTERS.len() as u64;
        let place = usize::try_from(bits % count).unwrap_or_default();
        bits /= count;
        LETTERS.get(place).copied().map_or('x', char::from)
    };
    (0..5).map(|_| letter()).collect()
}

fn commit(store: &mut Store, resource: &Resource, value: Value, dry: bool) -> Arc<Object> {
    if dry { Arc::new(Object::seal(resource, value, store.version())) } else { store.put(resource, value) }
}

pub(super) fn present(store: &Store, target: &Target) -> Result<Arc<Object>, Failure> {
    let found = store.get(target.resource, target.space(), target.object());
    found.ok_or_else(|| Failure::not_found(target.resource, target.object()))
}

/// PUT of an object or its status.
pub(crate) fn update(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let value = document(request, target)?;
    let object = shared.write(|store| {
        let old = present(store, target)?;
        replace(store, shared, target, &old, value, How::new(request))
    })?;
    answer(200, request, target, &object)
}

/// PATCH of every type.
pub(crate) fn patch(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    if matches!(
        request.content_type.as_str(),
        "application/apply-patch+yaml" | "application/apply-patch+json"
    ) {
        return server_side_apply(shared, request, target);
    }
    let object = shared.write(|store| {
        let old = present(store, target)?;
        // Events are patched in the form in which they are asked for.
        let new_event = events::is_new(target.resource);
        let mut before = old.value(target.resource);
        if new_event {
            before = events::to_new(before);
        }
        let mut after = patch::patched(target.resource, &request.content_type, before, &request.body)?;
        if new_event {
            after = events::to_core(after);
        }
        replace(store, shared, target, &old, after, How::new(request))
    })?;
    answer(200, request, target, &object)
}

fn server_side_apply(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let manager = request.query.get("fieldManager");
    if manager.is_empty() {
        let why = "fieldManager: Required value: is required for apply patch";
        return Err(Failure::new(422, "Invalid", format!("PatchOptions.meta.k8s.io \"\" is invalid: {why}")));
    }
    let config = document(request, target)?;
    let force = request.query.is("force");
    let part = target.part.as_deref();
    let (code, object) = shared.write(|store| {
        let old = store.get(target.resource, target.space(), target.object());
        let before = old.as_ref().map(|old| old.value(target.resource));
        if before.is_none() && part.is_some() {
            return Err(Failure::not_found(target.resource, target.object()));
        }
        let after =
            apply::apply(target.resource, before, config, &apply::Manager { name: manager, force, part })?;
        Ok(match old {
            Some(old) => (200, replace(store, shared, target, &old, after, How::new(request))?),
            None => {
                let (mut after, how) = (after, How::new(request));
                metadata(&mut after).insert("name".into(), target.object().into());
                let object = insert(store, target, after, how)?;
                scheduler::place(store, shared, &object, target, how.dry);
                (201, object)
            }
        })
    })?;
    answer(code, request, target, &object)
}

/// Puts `next` in the place of `old`, as far as it may.
fn replace(
    store: &mut Store,
    shared: &Shared,
    target: &Target,
    old: &Object,
    mut next: Value,
    how: How,
) -> Result<Arc<Object>, Failure> {
    let resource = target.resource;
    let before = old.value(resource);
    let version = text(&next, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(&before, "/metadata/resourceVersion") {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Failure::conflict(resource, &old.name, why));
    }
    let uid = text(&next, "/metadata/uid");
    if !uid.is_empty() && uid != text(&before, "/metadata/uid") {
        let why = "Precondition failed: UID in precondition does not match UID in object meta";
        return Err(Failure::conflict(resource, &old.name, why));
    }
    typed::check(resource, &mut next, how.strict)?;
    if target.part.as_deref() == Some("status") {
        let mut whole = before.clone();
        whole["status"] = next.get("status").cloned().unwrap_or_else(|| json!({}));
        let managed = next.pointer("/metadata/managedFields").cloned();
        keep(metadata(&mut whole), "managedFields", managed);
        next = whole;
    } else if resource.status {
        keep_at(&mut next, "status", before.get("status").cloned());
    }
    let managed = before.pointer("/metadata/managedFields").cloned();
    let meta = metadata(&mut next);
    for owned in OWNED.iter().chain(&["resourceVersion"]) {
        keep(meta, owned, before.pointer(&format!("/metadata/{owned}")).cloned());
    }
    if let (None, Some(managed)) = (meta.get("managedFields"), managed) {
        meta.insert("managedFields".into(), managed);
    }
    keep_at(&mut next, "kind", before.get("kind").cloned());
    keep_at(&mut next, "apiVersion", before.get("apiVersion").cloned());
    fill(resource, &mut next, store.version());
    validate(resource, Some(&before), &next)?;
    if resource.generation && next.get("spec") != before.get("spec") {
        let generation = before.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default();
        metadata(&mut next).insert("generation".into(), (generation + 1).into());
    }
    if next == before {
        return Ok(Arc::new(Object::seal(resource, next, old.version)));
    }
    if !how.dry && released(&before, &next) {
        let last = Object::seal(resource, next, store.version() + 1);
        delete::remove(store, &shared.kinds, resource, &old.namespace, &old.name);
        return Ok(Arc::new(last));
    }
    Ok(commit(store, resource, next, how.dry))
}

/// Whether this write takes the last finalizer off something that only waited for it.
fn released(before: &Value, next: &Value) -> bool {
    let dying = !text(before, "/metadata/deletionTimestamp").is_empty();
    let grace = before.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    dying && grace == 0 && delete::held(before) && !delete::held(next)
}

fn keep(map: &mut serde_json::Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(name.to_owned(), value),
        None => map.remove(name),
    };
}

fn keep_at(value: &mut Value, name: &str, kept: Option<Value>) {
    if let Some(map) = value.as_object_mut() {
        keep(map, name, kept);
    }
}

/// Puts a whole document in place beside all rules.
pub(crate) fn put(shared: &Shared, mut value: Value) -> Result<Value, Failure> {
    let (kind, version) = (text(&value, "/kind"), text(&value, "/apiVersion"));
    let resource =
        shared.kinds.iter().copied().find(|resource| {
            resource.kind == kind && (version.is_empty() || resource.api_version() == version)
        });
    let resource = resource.ok_or_else(Failure::no_path)?;
    let name = text(&value, "/metadata/name").to_owned();
    if name.is_empty() {
        return Err(Failure::invalid(resource, "", "metadata.name", "Required value"));
    }
    if resource.namespaced && text(&value, "/metadata/namespace").is_empty() {
        metadata(&mut value).insert("namespace".into(), "default".into());
    }
    if events::is_new(resource) {
        value = events::to_core(value);
    }
    let space = text(&value, "/metadata/namespace").to_owned();
    let object = shared.write(|store| {
        let given = metadata(&mut value).clone();
        match store.get(resource, &space, &name) {
            Some(old) => {
                let old = old.value(resource);
                for owned in ["uid", "creationTimestamp", "generation"] {
                    keep(metadata(&mut value), owned, old.pointer(&format!("/metadata/{owned}")).cloned());
                }
            }
            None => stamp(resource, &space, &mut value),
        }
        metadata(&mut value).extend(given);
        fill(resource, &mut value, store.version());
        store.put(resource, value)
    });
    Ok(object.value(resource))
}

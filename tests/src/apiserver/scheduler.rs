//! How pods come onto nodes: by whoever binds them, or by the server itself if it is told a node.

use serde_json::{Value, json};

use super::Shared;
use super::clock;
use super::defaults::SCHEDULER;
use super::failure::Failure;
use super::http::Answer;
use super::kinds::PODS;
use super::object::{Object, section, text};
use super::request::{Request, Target};
use super::store::Store;
use super::write::present;

/// Binds a new pod, as a scheduler would if this server has one: by a change of its own, after the creation.
pub(crate) fn place(store: &mut Store, shared: &Shared, object: &Object, target: &Target, dry: bool) {
    let Some(node) = shared.options.bind_to.as_deref().filter(|_| !dry) else { return };
    if target.resource.kind != "Pod" {
        return;
    }
    let pod = object.value(&PODS);
    if text(&pod, "/spec/nodeName").is_empty() && text(&pod, "/spec/schedulerName") == SCHEDULER {
        store.put(&PODS, bound(pod, node));
    }
}

/// A pod on a node.
fn bound(mut pod: Value, node: &str) -> Value {
    section(&mut pod, "spec").insert("nodeName".into(), node.into());
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": clock::text(clock::now()),
    });
    let conditions = section(&mut pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|known| known.get("type") != condition.get("type"));
        conditions.push(condition);
    }
    pod
}

/// POST of `pods/NAME/binding`, as a scheduler says on which node a pod runs.
pub(crate) fn bind(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let body: Value = serde_json::from_slice(&request.body)
        .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))?;
    let node = text(&body, "/target/name").to_owned();
    if node.is_empty() {
        return Err(Failure::invalid(&PODS, target.object(), "target.name", "Required value"));
    }
    shared.write(|store| {
        let old = present(store, target)?;
        let pod = old.value(&PODS);
        let before = text(&pod, "/spec/nodeName");
        if !before.is_empty() {
            let why = format!("pod {} is already assigned to node {before:?}", old.name);
            return Err(Failure::conflict(&PODS, &old.name, &why));
        }
        if request.query.get("dryRun").is_empty() {
            store.put(&PODS, bound(pod, &node));
        }
        Ok(())
    })?;
    let done =
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok(Answer::json(201, done.to_string()))
}

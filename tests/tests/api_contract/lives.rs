//! Lives: how pods come onto nodes, and how pods, namespaces and what has finalizers go.

use podgate_tests::api_client::version;
use serde_json::{Value, json};

use super::{Space, names, pod, policy};

/// A policy that a finalizer holds when it is deleted.
fn held_policy(name: &str) -> Value {
    let mut held = policy(name);
    held["metadata"]["finalizers"] = json!(["podgate.example/hold"]);
    held
}

#[tokio::test]
async fn pods_are_bound_once() {
    let space = Space::new().await;
    let client = &space.client;
    space.pod(&pod("web", None)).await;
    let binding = json!({
        "kind": "Binding", "apiVersion": "v1", "metadata": { "name": "web" },
        "target": { "kind": "Node", "name": "podgate-contract-no-such-node" },
    });
    client.post(&space.path("pods/web/binding"), &binding).await.expect(201);
    let bound =
        client.get(&space.path("pods?fieldSelector=spec.nodeName%3Dpodgate-contract-no-such-node")).await;
    assert_eq!(names(&bound.expect(200)), ["web"]);
    assert_eq!(client.post(&space.path("pods/web/binding"), &binding).await.refused(409), "Conflict");
    space.done().await;
}

#[tokio::test]
async fn pods_on_a_node_die_in_two_steps() {
    let space = Space::new().await;
    let client = &space.client;
    let made = space.pod(&pod("web", Some("podgate-contract-no-such-node"))).await;
    let path = space.path("pods/web");
    let query = format!("pods?resourceVersion={}", version(&made));
    let mut watch = client.watch(&space.path(&query)).await;
    let dying = client.delete(&path, None).await.expect(200);
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 600, "the pod's own period");
    assert!(dying["metadata"]["deletionTimestamp"].is_string());
    let shorter = client.delete(&path, Some(&json!({ "gracePeriodSeconds": 500 }))).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 500);
    let longer = client.delete(&path, Some(&json!({ "gracePeriodSeconds": 550 }))).await.expect(200);
    assert_eq!(
        longer["metadata"]["deletionGracePeriodSeconds"], 500,
        "nobody lives longer for being told again"
    );
    client.get(&path).await.expect(200);
    let options = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": made["metadata"]["uid"] } });
    client.delete(&path, Some(&options)).await.expect(200);
    assert_eq!(client.get(&path).await.refused(404), "NotFound");
    let mut last = version(&made);
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "DELETED") {
        let (kind, _, version) = watch.told().await;
        assert!(version > last);
        last = version;
        kinds.push(kind);
    }
    assert!(kinds.len() >= 2 && kinds.iter().rev().skip(1).all(|kind| kind == "MODIFIED"), "{kinds:?}");
    let again = space.pod(&pod("web", None)).await;
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
    // One without a node has nobody to wait for.
    client.delete(&path, None).await.expect(200);
    assert_eq!(client.get(&path).await.refused(404), "NotFound");
    space.done().await;
}

#[tokio::test]
async fn deleting_a_collection() {
    let space = Space::new().await;
    for (name, tier) in [("a", "1"), ("b", "2"), ("c", "1")] {
        space.lease(name, json!({ "tier": tier })).await;
    }
    let path = space.path("leases");
    space.client.delete(&format!("{path}?labelSelector=tier%3D1"), None).await.expect(200);
    assert_eq!(names(&space.client.get(&path).await.expect(200)), ["b"]);
    space.done().await;
}

#[tokio::test]
async fn finalizers_hold_what_is_deleted() {
    let space = Space::new().await;
    let client = &space.client;
    client.post(&space.path("networkpolicies"), &held_policy("a")).await.expect(201);
    let path = space.path("networkpolicies/a");
    client.delete(&path, None).await.expect(200);
    assert!(client.get(&path).await.expect(200)["metadata"]["deletionTimestamp"].is_string());
    client.patch("merge-patch", &path, &json!({ "metadata": { "finalizers": null } })).await.expect(200);
    assert_eq!(client.get(&path).await.refused(404), "NotFound");
    space.done().await;
}

#[tokio::test]
async fn namespaces_take_all_with_them() {
    let space = Space::new().await;
    let client = &space.client;
    client.post(&space.path("networkpolicies"), &held_policy("held")).await.expect(201);
    client.post(&space.path("networkpolicies"), &policy("a")).await.expect(201);
    space.pod(&pod("web", None)).await;
    let namespace = format!("/api/v1/namespaces/{}", space.name);
    let dying = client.delete(&namespace, None).await.expect(200);
    assert_eq!(dying["status"]["phase"], "Terminating");
    let refused = client.post(&space.path("networkpolicies"), &policy("late")).await;
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(refused.refused(403), "Forbidden");
    space.gone(&space.path("networkpolicies/a")).await;
    space.gone(&space.path("pods/web")).await;
    client.get(&namespace).await.expect(200);
    let path = space.path("networkpolicies/held");
    client.patch("merge-patch", &path, &json!({ "metadata": { "finalizers": [] } })).await.expect(200);
    space.gone(&namespace).await;
}

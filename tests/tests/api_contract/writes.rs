//! Writes: what comes of POST, PUT and every type of PATCH, and what is refused.

use podgate_tests::api_client::version;
use serde_json::{Value, json};

use super::{Space, names, pod, policy};

#[tokio::test]
async fn create_read_replace_delete() {
    let space = Space::new().await;
    let (client, path) = (&space.client, space.path("networkpolicies"));
    let mut bare = policy("a");
    bare["spec"]["ingress"][0]["ports"] = json!([{ "port": 80 }]);
    let made = client.post(&path, &bare).await.expect(201);
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made["metadata"][field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {made}");
    }
    assert_eq!(made["metadata"]["namespace"], *space.name);
    assert_eq!(made["spec"]["policyTypes"], json!(["Ingress"]), "what is left out is filled in");
    assert_eq!(made["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(client.post(&path, &policy("a")).await.refused(409), "AlreadyExists");

    let one = format!("{path}/a");
    let read = client.get(&one).await.expect(200);
    assert_eq!(
        (&read["kind"], &read["metadata"]["uid"]),
        (&json!("NetworkPolicy"), &made["metadata"]["uid"])
    );
    assert_eq!(client.get(&format!("{path}/none")).await.refused(404), "NotFound");

    // What changes nothing takes no version.
    let same = client.put(&one, &read).await.expect(200);
    assert_eq!(version(&same), version(&read));
    let mut next = read.clone();
    next["spec"]["podSelector"] = json!({});
    next["metadata"]["uid"] = made["metadata"]["uid"].clone();
    let changed = client.put(&one, &next).await.expect(200);
    assert!(version(&changed) > version(&read));
    assert_eq!(changed["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(client.put(&one, &next).await.refused(409), "Conflict");

    let options = json!({ "preconditions": { "uid": "00000000-0000-4000-8000-000000000000" } });
    assert_eq!(client.delete(&one, Some(&options)).await.refused(409), "Conflict");
    client.delete(&one, None).await.expect(200);
    assert_eq!(client.get(&one).await.refused(404), "NotFound");
    assert_eq!(client.delete(&one, None).await.refused(404), "NotFound");
    let again = client.post(&path, &policy("a")).await.expect(201);
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"], "the same name is another object");
    space.done().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let space = Space::new().await;
    let (client, path) = (&space.client, space.path("networkpolicies"));
    assert_eq!(client.post(&path, &policy("Not_A_Name")).await.refused(422), "Invalid");
    assert_eq!(client.post(&path, &pod("a", None)).await.refused(400), "BadRequest");
    let mut elsewhere = policy("a");
    elsewhere["metadata"]["namespace"] = "default".into();
    assert_eq!(client.post(&path, &elsewhere).await.refused(400), "BadRequest");
    let mut typo = policy("a");
    typo["spec"]["podSelectr"] = json!({});
    let strict = format!("{path}?fieldValidation=Strict&dryRun=All");
    assert_eq!(client.post(&strict, &typo).await.refused(400), "BadRequest");
    let dropped = client.post(&strict.replace("Strict", "Ignore"), &typo).await.expect(201);
    assert_eq!(dropped["spec"]["podSelectr"], Value::Null);
    typo["spec"]["podSelector"] = json!("all");
    assert_eq!(client.post(&path, &typo).await.refused(400), "BadRequest");
    let nowhere = "/apis/networking.k8s.io/v1/namespaces/podgate-contract-none/networkpolicies";
    assert_eq!(client.post(nowhere, &policy("a")).await.refused(404), "NotFound");
    let mut label = policy("a");
    label["metadata"]["labels"] = json!({ "app": "not a value" });
    assert_eq!(client.post(&path, &label).await.refused(422), "Invalid");
    assert_eq!(client.get(&format!("{path}?labelSelector=a+b")).await.refused(400), "BadRequest");
    assert_eq!(
        client.get(&format!("{path}?fieldSelector=spec.color%3Dred")).await.refused(400),
        "BadRequest"
    );
    assert_eq!(client.get("/apis/networking.k8s.io/v1/nothings").await.code, 404);
    assert_eq!(client.with_token("nobody-has-this").get(&path).await.refused(401), "Unauthorized");
    let protobuf = "application/vnd.kubernetes.protobuf;as=Nothing";
    let answer = client.send("GET", &path, protobuf, "", None).await.unwrap();
    assert_eq!(answer.code, 406, "{}", answer.body);
    space.done().await;
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let space = Space::new().await;
    let path = space.path("networkpolicies");
    let answer = space.client.post(&format!("{path}?dryRun=All"), &policy("a")).await.expect(201);
    assert_eq!(answer["metadata"]["name"], "a");
    assert_eq!(names(&space.client.get(&path).await.expect(200)).len(), 0);
    space.done().await;
}

#[tokio::test]
async fn patches_of_every_type() {
    let space = Space::new().await;
    let client = &space.client;
    space.pod(&pod("web", None)).await;
    let path = space.path("pods/web");
    let labels = |pod: &Value| pod["metadata"]["labels"].clone();

    let patch = json!({ "metadata": { "labels": { "app": null, "tier": "1" } } });
    let merged = client.patch("merge-patch", &path, &patch).await.expect(200);
    assert_eq!(labels(&merged), json!({ "tier": "1" }));
    let patch = json!([
        { "op": "test", "path": "/metadata/labels/tier", "value": "1" },
        { "op": "add", "path": "/metadata/labels/a~1b", "value": "2" },
        { "op": "remove", "path": "/metadata/labels/tier" },
    ]);
    let patched = client.patch("json-patch", &path, &patch).await.expect(200);
    assert_eq!(labels(&patched), json!({ "a/b": "2" }));
    assert_eq!(client.patch("json-patch", &path, &patch).await.refused(422), "Invalid");
    let patch = json!({ "spec": { "containers": [{ "name": "web", "image": "example.invalid/web:2" }] } });
    let strategic = client.patch("strategic-merge-patch", &path, &patch).await.expect(200);
    let container = &strategic["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["ports"][0]["containerPort"]),
        (&json!("example.invalid/web:2"), &json!(80))
    );
    assert_eq!(client.patch("unknown-patch", &path, &patch).await.refused(415), "UnsupportedMediaType");

    let stale = json!({ "metadata": { "resourceVersion": merged["metadata"]["resourceVersion"], "labels": { "x": "y" } } });
    assert_eq!(client.patch("merge-patch", &path, &stale).await.refused(409), "Conflict");
    let moved = json!({ "spec": { "hostNetwork": true } });
    assert_eq!(client.patch("merge-patch", &path, &moved).await.refused(422), "Invalid");
    assert_eq!(client.patch("merge-patch", &space.path("pods/none"), &patch).await.refused(404), "NotFound");
    space.done().await;
}

#[tokio::test]
async fn server_side_apply() {
    let space = Space::new().await;
    let client = &space.client;
    let path = |query: &str| space.path(&format!("networkpolicies/a?{query}"));
    let config = |labels: Value| {
        let mut policy = policy("a");
        policy["metadata"]["labels"] = labels;
        policy
    };
    let first = config(json!({ "x": "1", "y": "1" }));
    let made = client.patch("apply-patch", &path("fieldManager=one"), &first).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let same = client.patch("apply-patch", &path("fieldManager=one"), &first).await.expect(200);
    assert_eq!(version(&same), version(&made));
    let second = config(json!({ "x": "2" }));
    let refused = client.patch("apply-patch", &path("fieldManager=two"), &second).await;
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(refused.refused(409), "Conflict");
    let forced = client.patch("apply-patch", &path("fieldManager=two&force=true"), &second).await.expect(200);
    assert_eq!(forced["metadata"]["labels"], json!({ "x": "2", "y": "1" }));
    // What only the first manager owned goes when it no longer says so.
    let rest = client.patch("apply-patch", &path("fieldManager=one"), &config(json!({}))).await.expect(200);
    assert_eq!(rest["metadata"]["labels"], json!({ "x": "2" }));
    assert_eq!(client.patch("apply-patch", &path(""), &second).await.code, 422, "a manager is needed");
    space.done().await;
}

#[tokio::test]
async fn status_is_apart() {
    let space = Space::new().await;
    let client = &space.client;
    let mut bold = pod("web", None);
    bold["status"] = json!({ "podIP": "192.0.2.1" });
    let made = space.pod(&bold).await;
    assert_eq!((&made["status"]["phase"], &made["status"]["podIP"]), (&json!("Pending"), &Value::Null));
    let (path, status) = (space.path("pods/web"), space.path("pods/web/status"));
    let patch = json!({ "status": { "podIP": "192.0.2.1", "podIPs": [{ "ip": "192.0.2.1" }] }, "spec": { "nodeName": "x" } });
    let patch_alone = json!({ "status": patch["status"] });
    let ignored = client.patch("merge-patch", &path, &patch_alone).await.expect(200);
    assert_eq!(ignored["status"]["podIP"], Value::Null);
    let patched = client.patch("strategic-merge-patch", &status, &patch).await.expect(200);
    assert_eq!(
        (&patched["status"]["podIP"], &patched["spec"]["nodeName"]),
        (&json!("192.0.2.1"), &Value::Null)
    );
    let mut of_another = patch_alone.clone();
    of_another["metadata"] = json!({ "uid": "00000000-0000-4000-8000-000000000000" });
    let refused = client.patch("merge-patch", &status, &of_another).await;
    assert!(
        [409, 422].contains(&refused.code),
        "nobody's status is written for another one: {}",
        refused.body
    );
    let by_phase = client.get(&space.path("pods?fieldSelector=status.phase%3DPending")).await.expect(200);
    assert_eq!(names(&by_phase), ["web"]);
    assert_eq!(client.get(&status).await.expect(200)["status"]["podIP"], "192.0.2.1");
    space.done().await;
}

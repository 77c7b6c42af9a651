//! Reads: lists in pages, watches, versions that are no longer or not yet there, and the other forms of answers.

use podgate_tests::api_client::{Answer, End, version};
use serde_json::json;

use super::{Space, names, policy};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn lists_select_and_come_in_pages() {
    let space = Space::new().await;
    let (client, path) = (&space.client, space.path("leases"));
    for (name, tier) in [("a", "1"), ("b", "2"), ("c", "1"), ("d", "1"), ("e", "2")] {
        space.lease(name, json!({ "tier": tier })).await;
    }
    let list = client.get(&path).await.expect(200);
    assert_eq!((&list["kind"], names(&list)), (&json!("LeaseList"), vec!["a", "b", "c", "d", "e"]));
    assert!(version(&list) > 0);
    for (query, expected) in [
        ("labelSelector=tier%3D1", vec!["a", "c", "d"]),
        ("labelSelector=tier+notin+(1),tier", vec!["b", "e"]),
        ("labelSelector=!tier", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db&labelSelector=tier%3D2", vec!["e"]),
    ] {
        let list = client.get(&format!("{path}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    }

    // All pages show the moment of the first.
    let page = client.get(&format!("{path}?&limit=2")).await.expect(200);
    assert_eq!(names(&page), ["a", "b"]);
    assert!(page["metadata"]["remainingItemCount"].as_u64().is_none_or(|rest| rest == 3), "{page}");
    space.lease("ca", json!({})).await;
    client.delete(&format!("{path}/d"), None).await.expect(200);
    let mut next = page["metadata"]["continue"].as_str().unwrap().to_owned();
    let mut seen = Vec::new();
    while !next.is_empty() {
        let rest = client.get(&format!("{path}?limit=2&continue={next}")).await.expect(200);
        assert_eq!(version(&rest), version(&page));
        seen.extend(names(&rest).into_iter().map(str::to_owned));
        next = rest["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ["c", "d", "e"]);
    assert_eq!(client.get(&format!("{path}?limit=2&continue=broken")).await.refused(400), "BadRequest");
    space.done().await;
}

#[tokio::test]
async fn watches_tell_what_changed_since() {
    let space = Space::new().await;
    let (client, path) = (&space.client, space.path("leases"));
    space.lease("before", json!({})).await;
    let listed = version(&client.get(&path).await.expect(200));
    let mut watch = client.watch(&format!("{path}?resourceVersion={listed}&allowWatchBookmarks=true")).await;
    space.lease("a", json!({})).await;
    client
        .patch("merge-patch", &format!("{path}/a"), &json!({ "spec": { "holderIdentity": "you" } }))
        .await
        .expect(200);
    client.delete(&format!("{path}/a"), None).await.expect(200);
    let mut last = listed;
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        let (kind, name, version) = watch.told().await;
        assert_eq!((kind.as_str(), name.as_str()), (expected, "a"));
        assert!(version > last, "every event has a newer version, the last one too");
        last = version;
    }
    // Another watch of the same version hears the same, and one that names no version begins with what there is.
    let mut again = client.watch(&format!("{path}?resourceVersion={listed}")).await;
    assert_eq!(again.told().await.0, "ADDED");
    assert_eq!(again.told().await.0, "MODIFIED");
    let mut all = client.watch(&path).await;
    let (kind, name, _) = all.told().await;
    assert_eq!((kind.as_str(), name.as_str()), ("ADDED", "before"));
    // Everywhere, not only in one namespace.
    let everywhere = format!("/apis/coordination.k8s.io/v1/leases?resourceVersion={listed}");
    let mut everywhere = client.watch(&everywhere).await;
    loop {
        let event = everywhere.next().await;
        assert_eq!(event["object"]["kind"], "Lease", "{event}");
        if event["object"]["metadata"]["namespace"] == *space.name {
            break;
        }
    }
    space.done().await;
}

#[tokio::test]
async fn what_leaves_a_selector_is_deleted_for_that_watch() {
    let space = Space::new().await;
    let (client, path) = (&space.client, space.path("leases"));
    let made = version(&space.lease("a", json!({ "tier": "1" })).await);
    let mut watch = client.watch(&format!("{path}?resourceVersion={made}&labelSelector=tier%3D1")).await;
    let label = |tier: &str| json!({ "metadata": { "labels": { "tier": tier } } });
    client.patch("merge-patch", &format!("{path}/a"), &label("2")).await.expect(200);
    client.patch("merge-patch", &format!("{path}/a"), &label("1")).await.expect(200);
    let left = watch.next().await;
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["tier"]),
        (&json!("DELETED"), &json!("1"))
    );
    assert!(version(&left["object"]) > made);
    let (kind, _, back) = watch.told().await;
    assert!(kind == "ADDED" && back > version(&left["object"]));
    space.done().await;
}

#[tokio::test]
async fn versions_that_are_too_old_or_in_the_future() {
    let space = Space::new().await;
    let (client, path) = (&space.client, space.path("leases"));
    // Too old: HTTP 200, and an ERROR event in the stream.
    let error = client.watch(&format!("{path}?resourceVersion=1")).await.next().await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));

    let future = version(&client.get(&path).await.expect(200)) + 100_000_000;
    let refused: Answer = client.get(&format!("{path}?resourceVersion={future}")).await;
    let cause = refused.body["details"]["causes"][0]["reason"].clone();
    assert_eq!((refused.refused(504), cause), ("Timeout".to_owned(), json!("ResourceVersionTooLarge")));
    // A watch from the future is silent until its time is up.
    let mut watch = client.watch(&format!("{path}?resourceVersion={future}&timeoutSeconds=2")).await;
    space.lease("unheard", json!({})).await;
    assert_eq!(watch.end().await, End::Clean);
    space.done().await;
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    let space = Space::new().await;
    let event = json!({
        "kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": { "name": "a.1" },
        "eventTime": "2025-01-01T00:00:00.000000Z", "reportingController": "podgate.example/gateway",
        "reportingInstance": "one", "action": "Apply", "reason": "Refused", "type": "Warning",
        "regarding": { "kind": "NetworkPolicy", "name": "a", "namespace": space.name }, "note": "why",
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", space.name);
    let made = space.client.post(&path, &event).await.expect(201);
    assert_eq!((&made["note"], &made["apiVersion"]), (&json!("why"), &json!("events.k8s.io/v1")));
    let query = space.path("events?fieldSelector=involvedObject.name%3Da,reason%3DRefused");
    let core = space.client.get(&query).await.expect(200);
    assert_eq!((names(&core), &core["items"][0]["message"]), (vec!["a.1"], &json!("why")));
    assert_eq!(core["items"][0]["reportingComponent"], "podgate.example/gateway");
    space.done().await;
}

#[tokio::test]
async fn tables_for_people() {
    let space = Space::new().await;
    space.client.post(&space.path("networkpolicies"), &policy("a")).await.expect(201);
    let answer = space.client.send("GET", &space.path("networkpolicies"), TABLE, "", None).await.unwrap();
    let table = answer.expect(200);
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Pod-Selector", "Age"]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("a"), &json!("app=web")));
    assert_eq!(row["object"]["metadata"]["namespace"], *space.name);
    space.done().await;
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let space = Space::new().await;
    let client = &space.client;
    let list = client.get("/apis/networking.k8s.io/v1").await.expect(200);
    let found = list["resources"].as_array().unwrap().iter().find(|kind| kind["name"] == "networkpolicies");
    let found = found.unwrap();
    assert_eq!((&found["kind"], &found["namespaced"]), (&json!("NetworkPolicy"), &json!(true)));
    assert_eq!(found["shortNames"], json!(["netpol"]));
    let groups = client.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "discovery.k8s.io"));
    assert_eq!(client.get("/api").await.expect(200)["versions"], json!(["v1"]));

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    for (path, group, plural) in
        [("/api", None, "pods"), ("/apis", Some("networking.k8s.io"), "networkpolicies")]
    {
        let answer = client.send("GET", path, accept, "", None).await.unwrap();
        assert!(answer.kind.contains("as=APIGroupDiscoveryList"), "{}", answer.kind);
        let list = answer.expect(200);
        let items = list["items"].as_array().unwrap().iter();
        let item = items.clone().find(|item| item["metadata"]["name"].as_str() == group).expect(path);
        let resources = item["versions"][0]["resources"].as_array().unwrap();
        assert!(resources.iter().any(|resource| resource["resource"] == plural), "{plural}");
    }
    let info = client.get("/version").await.expect(200);
    assert_eq!(info["major"], "1");
    space.done().await;
}

//! The test API server's faults do what they say, and what is its own beside the contract works: tokens, bookmarks,
//! a bounded history, a handle for tests.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use podgate_tests::api_client::{Client, End, PATIENCE, version};
use podgate_tests::apiserver::{Access, ApiServer, Options, Rule, User};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn server() -> (ApiServer, Client) {
    with(Options::default())
}

fn with(options: Options) -> (ApiServer, Client) {
    let server = ApiServer::start(options).unwrap();
    let client = Client::fake(&server, None);
    (server, client)
}

fn pod(name: &str) -> Value {
    json!({ "kind": "Pod", "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

async fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "it never came to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn expired_watches_hear_410_in_the_stream() {
    let (server, client) = server();
    let listed = version(&client.get(PODS).await.expect(200));
    server.put(pod("a")).unwrap();
    let path = format!("{PODS}?resourceVersion={listed}");
    let mut watch = client.watch(&path).await;
    assert_eq!(watch.told().await.1, "a");
    server.expire_watches();
    let error = watch.next().await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(watch.end().await, End::Clean);

    // It comes back with what it knew: too old as well, again with HTTP 200.
    let error = client.watch(&path).await.next().await;
    assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    // With the newest version it goes on.
    let mut watch = client.watch(&format!("{PODS}?resourceVersion={}", server.version())).await;
    server.put(pod("b")).unwrap();
    assert_eq!(watch.told().await.1, "b");
}

#[tokio::test]
async fn history_is_bounded() {
    let (server, client) = with(Options { history: 3, ..Options::default() });
    let first = server.version();
    for name in ["a", "b", "c"] {
        server.put(pod(name)).unwrap();
    }
    let path = format!("{PODS}?resourceVersion={first}");
    assert_eq!(client.watch(&path).await.told().await.1, "a");
    server.put(pod("d")).unwrap();
    assert_eq!(client.watch(&path).await.next().await["object"]["code"], 410);
}

#[tokio::test]
async fn expired_continue_tokens_are_410() {
    let (server, client) = server();
    for name in ["a", "b", "c"] {
        server.put(pod(name)).unwrap();
    }
    let page = client.get(&format!("{PODS}?limit=2")).await.expect(200);
    let next = format!("{PODS}?limit=2&continue={}", page["metadata"]["continue"].as_str().unwrap());
    assert_eq!(client.get(&next).await.expect(200)["items"][0]["metadata"]["name"], "c");
    server.expire_continue_tokens();
    assert_eq!(client.get(&next).await.refused(410), "Expired");
}

#[tokio::test]
async fn cut_connections_break_off() {
    let (server, client) = server();
    let mut watch = client.watch(&format!("{PODS}?resourceVersion={}", server.version())).await;
    server.cut_connections();
    assert_eq!(watch.end().await, End::Broken);
    until(|| server.open_watches() == 0).await;
    client.get(PODS).await.expect(200);
}

#[tokio::test]
async fn hanging_watches_are_silent_for_ever_and_new_ones_are_well_afterwards() {
    let (server, client) = server();
    let path =
        format!("{PODS}?resourceVersion={}&timeoutSeconds=1&allowWatchBookmarks=true", server.version());
    let mut old = client.watch(&path.replace("timeoutSeconds=1", "timeoutSeconds=600")).await;
    server.put(pod("before")).unwrap();
    assert_eq!(old.told().await.1, "before");
    server.hang_watches(true);
    let mut hung = client.watch(&path).await;
    server.put(pod("a")).unwrap();
    // Beyond its own timeout there is neither an event nor an end.
    let silence = tokio::time::timeout(Duration::from_millis(1_500), hung.next_or_end()).await;
    assert!(silence.is_err(), "{silence:?}");
    server.hang_watches(false);
    let mut watch = client.watch(&path).await;
    assert_eq!(watch.told().await.1, "before");
    assert_eq!(watch.told().await.1, "a");
    for hung in [&mut old, &mut hung] {
        let silence = tokio::time::timeout(Duration::from_millis(50), hung.next_or_end()).await;
        assert!(silence.is_err(), "{silence:?}");
    }
}

#[tokio::test]
async fn a_restored_backup_goes_back_in_versions() {
    let (server, client) = server();
    server.put(pod("kept")).unwrap();
    let backup = server.backup();
    let then = server.version();
    let mut watch = client.watch(&format!("{PODS}?resourceVersion={then}")).await;
    server.put(pod("lost")).unwrap();
    let (_, name, future) = watch.told().await;
    assert_eq!(name, "lost");
    server.restore(backup);
    assert_eq!(watch.end().await, End::Broken);
    let list = client.get(PODS).await.expect(200);
    assert_eq!((version(&list), list["items"].as_array().unwrap().len()), (then, 1));
    assert_eq!(client.get(&format!("{PODS}?resourceVersion={future}")).await.refused(504), "Timeout");

    // A watch from the future hears nothing of what happens until the versions have caught up.
    let mut watch = client.watch(&format!("{PODS}?resourceVersion={future}")).await;
    server.put(pod("silent")).unwrap();
    assert_eq!(server.version(), future);
    server.put(pod("heard")).unwrap();
    assert_eq!(watch.told().await.1, "heard");
}

#[tokio::test]
async fn stop_and_resume_on_the_same_port() {
    let (server, client) = server();
    let listed = server.version();
    let path = format!("{PODS}?resourceVersion={listed}");
    let mut watch = client.watch(&path).await;
    server.stop();
    assert_eq!(watch.end().await, End::Broken);
    assert!(client.send("GET", PODS, "", "", None).await.is_err(), "the port is closed");
    server.put(pod("meanwhile")).unwrap();
    server.resume().unwrap();
    assert_eq!(client.watch(&path).await.told().await.1, "meanwhile");
    server.resume().unwrap();
}

#[tokio::test]
async fn slow_answers_are_late() {
    let (server, client) = server();
    server.slow_answers(Duration::from_millis(300));
    let began = Instant::now();
    client.get(PODS).await.expect(200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    server.slow_answers(Duration::ZERO);
    client.get(PODS).await.expect(200);
}

#[tokio::test]
async fn tokens_and_rules() {
    let reader = User {
        token: "reads".into(),
        name: "reader".into(),
        rules: vec![Rule::new(&[""], &["pods"], &["get", "list", "watch"])],
    };
    let root = User { token: "all".into(), name: "root".into(), rules: vec![Rule::everything()] };
    let (server, nobody) = with(Options { access: Access::Users(vec![reader, root]), ..Options::default() });
    server.put(pod("a")).unwrap();
    let (reader, root) = (Client::fake(&server, Some("reads")), Client::fake(&server, Some("all")));
    assert_eq!(nobody.get(PODS).await.refused(401), "Unauthorized");
    nobody.get("/version").await.expect(200);
    reader.get(PODS).await.expect(200);
    reader.get("/apis").await.expect(200);
    assert_eq!(reader.get("/api/v1/nodes").await.refused(403), "Forbidden");
    assert_eq!(reader.delete(&format!("{PODS}/a"), None).await.refused(403), "Forbidden");
    let status = json!({ "status": { "phase": "Running" } });
    assert_eq!(
        reader.patch("merge-patch", &format!("{PODS}/a/status"), &status).await.refused(403),
        "Forbidden"
    );
    root.patch("merge-patch", &format!("{PODS}/a/status"), &status).await.expect(200);
    server.set_access(Access::Users(Vec::new()));
    assert_eq!(root.get(PODS).await.refused(401), "Unauthorized");
}

#[tokio::test]
async fn a_token_may_stand_in_the_path() {
    let root = User { token: "all".into(), name: "root".into(), rules: vec![Rule::everything()] };
    let (server, nobody) = with(Options { access: Access::Users(vec![root]), ..Options::default() });
    nobody.get(&format!("/as/all{PODS}")).await.expect(200);
    nobody.get("/as/all/apis").await.expect(200);
    assert_eq!(nobody.get(&format!("/as/other{PODS}")).await.refused(401), "Unauthorized");
    let wrong = Client::fake(&server, Some("other"));
    assert_eq!(
        wrong.get(&format!("/as/all{PODS}")).await.refused(401),
        "Unauthorized",
        "a header counts first"
    );
    assert!(server.kubeconfig(Some("all")).contains(&format!("{}/as/all", server.url())));
}

#[tokio::test]
async fn new_pods_are_bound_if_a_node_is_named() {
    let (server, client) = with(Options { bind_to: Some("one".into()), ..Options::default() });
    let mut watch = client.watch(&format!("{PODS}?resourceVersion={}", server.version())).await;
    client.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(watch.next().await["object"]["spec"]["nodeName"], Value::Null);
    let event = watch.next().await;
    assert_eq!((&event["type"], &event["object"]["spec"]["nodeName"]), (&json!("MODIFIED"), &json!("one")));
    assert_eq!(event["object"]["status"]["conditions"][0]["type"], "PodScheduled");
    let mut others = pod("b");
    others["spec"]["schedulerName"] = "somebody".into();
    client.post(PODS, &others).await.expect(201);
    let mut placed = pod("c");
    placed["spec"]["nodeName"] = "two".into();
    client.post(PODS, &placed).await.expect(201);
    let applied = format!("{PODS}/d?fieldManager=test");
    client.patch("apply-patch", &applied, &pod("d")).await.expect(201);
    for (name, node) in [("b", Value::Null), ("c", json!("two")), ("d", json!("one"))] {
        assert_eq!(server.get("Pod", "default", name).unwrap()["spec"]["nodeName"], node, "{name}");
    }
}

#[tokio::test]
async fn bookmarks_carry_the_newest_version() {
    let (server, client) = with(Options { bookmark_every: Duration::from_millis(50), ..Options::default() });
    let path = format!("{PODS}?resourceVersion={}&allowWatchBookmarks=true", server.version());
    let mut watch = client.watch(&path).await;
    let mut without = client.watch(&path.replace("allowWatchBookmarks=true", "timeoutSeconds=1")).await;
    server.put(json!({ "kind": "Node", "metadata": { "name": "n" } })).unwrap();
    loop {
        let bookmark = watch.next_or_end().await.unwrap();
        assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
        if version(&bookmark["object"]) == server.version() {
            break;
        }
    }
    assert_eq!(without.end().await, End::Clean);
}

#[tokio::test]
async fn streaming_lists_are_refused() {
    let (_server, client) = server();
    let path = format!("{PODS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    assert_eq!(client.get(&path).await.refused(422), "Invalid");
}

#[tokio::test]
async fn kinds_of_a_crd_are_there_if_asked_for() {
    const PATH: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
    let (_server, client) = server();
    assert_eq!(client.get(PATH).await.refused(404), "NotFound");
    let (server, client) = with(Options { cluster_network_policies: true, ..Options::default() });
    let policy = json!({ "metadata": { "name": "p" }, "spec": { "tier": "Admin", "priority": 1 } });
    client.post(PATH, &policy).await.expect(201);
    assert_eq!(server.list("ClusterNetworkPolicy").len(), 1);
    let patch = json!({ "spec": { "priority": 2 } });
    assert_eq!(
        client.patch("strategic-merge-patch", &format!("{PATH}/p"), &patch).await.refused(415),
        "UnsupportedMediaType"
    );
    let patched = client.patch("merge-patch", &format!("{PATH}/p"), &patch).await.expect(200);
    assert_eq!((&patched["metadata"]["generation"], &patched["spec"]["tier"]), (&json!(2), &json!("Admin")));
}

#[tokio::test]
async fn the_handle_counts_what_was_asked() {
    let (server, client) = server();
    let before = (server.asked("list", "pods"), server.asked("watch", "pods"));
    client.get(PODS).await.expect(200);
    let watch = client.watch(PODS).await;
    assert_eq!((server.asked("list", "pods"), server.asked("watch", "pods")), (before.0 + 1, before.1 + 1));
    until(|| server.open_watches() == 1).await;
    drop(watch);
    until(|| server.open_watches() == 0).await;
    server.put(pod("a")).unwrap();
    assert!(server.get("Pod", "default", "a").is_some());
    assert!(server.remove("Pod", "default", "a") && !server.remove("Pod", "default", "a"));
}

//! A cluster for those who have none: the test API server beside the lab, filled from manifests.
//!
//! `podgate-test-api` is a program of its own, found beside this one. It ends when the supervisor does, however that ends.
//! Manifests are made objects as `kubectl apply` would make them, but in an order in which no pod ever runs before the
//! policies that select it; workloads come as the pods of their templates, since no controllers run here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::Client;
use podgate_config::manifest::raw;
use podgate_config::model::{Cluster, ObjectName, Phase, Pod};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{kubelet, state};
use crate::{source, store};

/// The program.
pub const PROGRAM: &str = "podgate-test-api";
/// The node of a lab whose manifests and options name none.
pub const NODE: &str = "lab";
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);
/// What `kubectl apply` compares with; without it, it would complain of objects that it did not make.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The kubeconfig for people.
#[must_use]
pub fn kubeconfig_path() -> PathBuf {
    state::file("kubeconfig")
}

pub(super) fn log_path() -> PathBuf {
    state::file("test-api.log")
}

/// Where the program must be.
///
/// # Errors
/// If it is not there, with how it is built.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(PROGRAM);
    anyhow::ensure!(
        path.is_file(),
        "--with-test-api: {} is not there; build it by: cargo build --release -p podgate-tests --bin {PROGRAM}",
        path.display()
    );
    Ok(path)
}

/// Starts it, and waits until it listens.
///
/// # Errors
/// If it does not, with its last words.
pub async fn start(node: &str) -> anyhow::Result<Child> {
    let log = File::create(log_path())?;
    let mut child = Command::new(program()?)
        .arg("--kubeconfig")
        .arg(kubeconfig_path())
        .args(["--bind-to", node])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context(PROGRAM)?;
    let end = Instant::now() + PATIENCE;
    while !kubeconfig_path().exists() {
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(log_path()).unwrap_or_default();
            anyhow::bail!("{PROGRAM} ended at once ({status}): {}", said.trim());
        }
        anyhow::ensure!(Instant::now() < end, "{PROGRAM} does not listen after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(child)
}

/// Makes objects.
///
/// # Errors
/// The first one that the server refuses.
pub async fn fill(client: &Client, objects: Vec<Value>) -> anyhow::Result<()> {
    for object in objects {
        let name = format!("{} {}", text(&object, "/kind"), text(&object, "/metadata/name"));
        create(client, object).await.with_context(|| format!("the test API server refuses {name}"))?;
    }
    Ok(())
}

/// A kind that is handed on: its version, its name in paths, and whether it lives in namespaces. In the order in which
/// objects are made.
const KINDS: [(&str, &str, &str, bool); 7] = [
    ("Namespace", "v1", "namespaces", false),
    ("Node", "v1", "nodes", false),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", false),
    ("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", true),
    ("Service", "v1", "services", true),
    ("EndpointSlice", "discovery.k8s.io/v1", "endpointslices", true),
    ("Pod", "v1", "pods", true),
];

async fn create(client: &Client, mut object: Value) -> anyhow::Result<()> {
    // Nobody creates an object with a status.
    let status = object.as_object_mut().and_then(|map| map.remove("status"));
    let addresses = status.map_or(Value::Null, |status| status["addresses"].clone());
    let kind = KINDS.iter().find(|(kind, ..)| *kind == text(&object, "/kind"));
    let (_, version, plural, namespaced) = kind.context("an unknown kind")?;
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let space = match namespaced {
        true => format!("/namespaces/{}", text(&object, "/metadata/namespace")),
        false => String::new(),
    };
    let request = axum::http::Request::post(format!("{root}/{version}{space}/{plural}"))
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())?;
    match kubelet::in_time(client.request::<Value>(request)).await {
        // Every cluster has some namespaces of its own, but not with these labels.
        Err(error) if *plural == "namespaces" && kubelet::has_code(&error, 409) => {
            let metadata = &object["metadata"];
            let said = json!({ "labels": metadata["labels"], "annotations": metadata["annotations"] });
            patch(client, &object, "/api/v1/namespaces", "", &json!({ "metadata": said })).await
        }
        Ok(_) if *plural == "nodes" && !addresses.is_null() => {
            let status = json!({ "status": { "addresses": addresses } });
            patch(client, &object, "/api/v1/nodes", "/status", &status).await
        }
        other => other.map(drop),
    }
}

/// Changes an object of a server.
async fn patch(
    client: &Client,
    object: &Value,
    path: &str,
    part: &str,
    change: &Value,
) -> anyhow::Result<()> {
    let name = text(object, "/metadata/name");
    let request = axum::http::Request::patch(format!("{path}/{name}{part}"))
        .header("content-type", "application/merge-patch+json")
        .body(change.to_string().into_bytes())?;
    kubelet::in_time(client.request::<Value>(request)).await.map(drop)
}

/// What a test API server begins with.
pub struct Manifests {
    /// As they stand there.
    documents: Vec<Value>,
    /// As they are understood.
    pub cluster: Cluster,
}

impl Manifests {
    /// Reads them.
    ///
    /// # Errors
    /// The file system's; what is wrong with their content was found out before.
    pub fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut documents = Vec::new();
        for (file, _) in source::scan::scan(files).files {
            let bytes = fs::read(&file.path).with_context(|| file.path.display().to_string())?;
            documents.extend(raw::objects(&bytes));
        }
        Ok(Self { documents, cluster: store::merge(&source::load(files)?.objects).cluster })
    }

    /// What they come to on a server, in the order in which it is made.
    #[must_use]
    pub fn objects(self) -> Vec<Value> {
        arrange(self.documents, self.cluster.pods.values())
    }
}

fn arrange<'a>(documents: Vec<Value>, pods: impl Iterator<Item = &'a Pod>) -> Vec<Value> {
    let mut objects: Vec<Value> = documents.into_iter().filter_map(prepare).collect();
    let names: BTreeSet<(String, String)> =
        objects.iter().filter(|object| is(object, "Pod")).map(full_name).collect();
    let named = |name: &ObjectName| (name.namespace.to_string(), name.name.to_string());
    let of_workloads = pods.filter(|pod| pod.phase == Phase::Live && !names.contains(&named(&pod.name)));
    objects.extend(of_workloads.map(document));
    let known: BTreeSet<String> =
        objects.iter().filter(|object| is(object, "Namespace")).map(|object| full_name(object).1).collect();
    let used: BTreeSet<String> = objects.iter().map(|object| full_name(object).0).collect();
    // What lives in a namespace that nothing describes lives in one without labels.
    let missing = used.iter().filter(|space| !space.is_empty() && !known.contains(*space));
    objects.extend(
        missing.map(|name| json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": name } })),
    );
    objects.sort_by_key(|object| KINDS.iter().position(|(kind, ..)| is(object, kind)));
    objects
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is(object: &Value, kind: &str) -> bool {
    text(object, "/kind") == kind
}

fn full_name(object: &Value) -> (String, String) {
    (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
}

/// A document as somebody would create it; `None` for kinds that are not handed on and pods that have ended.
fn prepare(mut object: Value) -> Option<Value> {
    let (_, version, _, namespaced) = KINDS.iter().find(|(kind, ..)| is(&object, kind))?;
    let ended = matches!(text(&object, "/status/phase"), "Succeeded" | "Failed");
    if text(&object, "/apiVersion") != *version || (ended && is(&object, "Pod")) {
        return None;
    }
    // What only a server says of an object; but who else should say where a node of manifests is?
    let is_node = is(&object, "Node");
    let map = object.as_object_mut()?;
    if !is_node {
        map.remove("status");
    }
    let metadata = map.get_mut("metadata")?.as_object_mut()?;
    for name in
        ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences"]
    {
        metadata.remove(name);
    }
    if *namespaced && !metadata.get("namespace").is_some_and(Value::is_string) {
        metadata.insert("namespace".into(), "default".into());
    }
    // As kubectl writes it, to the letter: it compares texts.
    if !metadata.get("annotations").is_some_and(Value::is_object) {
        metadata.insert("annotations".into(), json!({}));
    }
    let applied = format!("{object}\n");
    object["metadata"]["annotations"][LAST_APPLIED] = applied.into();
    Some(object)
}

/// A pod of a workload.
fn document(pod: &Pod) -> Value {
    let ports = pod.ports.iter().map(|port| {
        let mut document =
            json!({ "containerPort": port.number.get(), "protocol": port.protocol.to_string() });
        if let Some(name) = &port.name {
            document["name"] = name.as_str().into();
        }
        document
    });
    let labels: serde_json::Map<String, Value> =
        pod.labels.iter().map(|(key, value)| (key.to_string(), value.to_string().into())).collect();
    let mut document = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": pod.name.name.as_str(), "namespace": pod.name.namespace.as_str(), "labels": labels },
        "spec": {
            "hostNetwork": pod.host_network,
            "containers": [{ "name": "main", "image": "none", "ports": ports.collect::<Vec<_>>() }],
        },
    });
    if let Some(node) = &pod.node {
        document["spec"]["nodeName"] = node.as_str().into();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_become_objects_in_an_order_that_leaves_no_pod_open() {
        let text = "\
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: data, uid: x, labels: {app: db}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: old}
status: {phase: Failed}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tier: front}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
";
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all.yaml"), text).unwrap();
        let objects = Manifests::read(&[folder.path().to_owned()]).unwrap().objects();
        let names: Vec<String> = objects
            .iter()
            .map(|object| {
                let (space, name) = full_name(object);
                format!("{} {space}/{name}", super::text(object, "/kind"))
            })
            .collect();
        assert_eq!(
            names,
            [
                "Namespace /shop",
                "Namespace /data",
                "Namespace /default",
                "NetworkPolicy default/deny",
                "Pod data/db",
                "Pod shop/web-0",
                "Pod shop/web-1",
            ]
        );
        assert_eq!(objects[0]["metadata"]["labels"]["tier"], "front");
        let db = &objects[4];
        assert_eq!((&db["status"], &db["metadata"]["uid"]), (&Value::Null, &Value::Null));
        let applied: Value =
            serde_json::from_str(db["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap()).unwrap();
        assert_eq!(
            (&applied["spec"], &applied["metadata"]["labels"]),
            (&db["spec"], &db["metadata"]["labels"])
        );
        let port = &objects[5]["spec"]["containers"][0]["ports"][0];
        assert_eq!(*port, json!({ "containerPort": 80, "protocol": "TCP", "name": "http" }));
    }
}

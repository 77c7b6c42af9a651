//! What an API server promises, held against the test server, or against any real one (1.33 or newer) that
//! `PODGATE_TEST_KUBECONFIG` names.
//!
//! Nothing here relies on what the test server does by accident: no exact versions, no exact messages, no order that
//! is not promised, and waiting for what a real server's controllers do later. Each test works in a namespace of its
//! own and removes it. Its pods are for a scheduler and a node that do not exist, so no kubelet touches them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod lives;
mod reads;
mod writes;

use std::time::Duration;

use podgate_tests::api_client::{Client, PATIENCE};
use podgate_tests::apiserver::{Access, ApiServer, Options, Rule, User};
use serde_json::{Value, json};

/// A namespace on the server under test.
struct Space {
    client: Client,
    name: String,
    _server: Option<ApiServer>,
}

impl Space {
    async fn new() -> Self {
        let (client, server) = match std::env::var("PODGATE_TEST_KUBECONFIG") {
            Ok(path) => (Client::from_kubeconfig(&path).await, None),
            Err(_) => {
                let root =
                    User { token: "root".into(), name: "root".into(), rules: vec![Rule::everything()] };
                let options = Options { access: Access::Users(vec![root]), ..Options::default() };
                let server = ApiServer::start(options).unwrap();
                (Client::fake(&server, Some("root")), Some(server))
            }
        };
        let namespace = json!({
            "kind": "Namespace", "apiVersion": "v1", "metadata": { "generateName": "podgate-contract-" },
        });
        let made = client.post("/api/v1/namespaces", &namespace).await.expect(201);
        let name = made["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.len() > "podgate-contract-".len(), "{name}");
        assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], *name);
        assert_eq!(made["status"]["phase"], "Active");
        Self { client, name, _server: server }
    }

    fn path(&self, rest: &str) -> String {
        let (group, rest) = match rest.split('/').next().unwrap().split('?').next().unwrap() {
            "networkpolicies" => ("apis/networking.k8s.io/v1", rest),
            "leases" => ("apis/coordination.k8s.io/v1", rest),
            "endpointslices" => ("apis/discovery.k8s.io/v1", rest),
            _ => ("api/v1", rest),
        };
        format!("/{group}/namespaces/{}/{rest}", self.name)
    }

    /// A real server takes pods only once a controller has made the namespace's service account.
    async fn pod(&self, pod: &Value) -> Value {
        for _ in 0..PATIENCE.as_secs() {
            let answer = self.client.post(&self.path("pods"), pod).await;
            if answer.code != 403 {
                return answer.expect(201);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("no pod can be made");
    }

    async fn lease(&self, name: &str, labels: Value) -> Value {
        let lease = json!({
            "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
            "metadata": { "name": name, "labels": labels }, "spec": { "holderIdentity": "me" },
        });
        self.client.post(&self.path("leases"), &lease).await.expect(201)
    }

    /// Waits until GET of a path is 404.
    async fn gone(&self, path: &str) {
        for _ in 0..PATIENCE.as_millis() / 50 {
            if self.client.get(path).await.code == 404 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} does not go");
    }

    /// Removes the namespace; not waited for.
    async fn done(self) {
        let pods = self.client.get(&self.path("pods")).await.expect(200);
        for pod in pods["items"].as_array().unwrap() {
            let path = self.path(&format!("pods/{}", pod["metadata"]["name"].as_str().unwrap()));
            self.client.delete(&path, Some(&json!({ "gracePeriodSeconds": 0 }))).await;
        }
        self.client.delete(&format!("/api/v1/namespaces/{}", self.name), None).await.expect(200);
    }
}

fn pod(name: &str, node: Option<&str>) -> Value {
    let mut pod = json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "schedulerName": "podgate-contract-nobody", "terminationGracePeriodSeconds": 600,
            "automountServiceAccountToken": false,
            "containers": [{ "name": "web", "image": "example.invalid/web:1", "ports": [{ "containerPort": 80 }] }],
        },
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

fn policy(name: &str) -> Value {
    json!({
        "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": { "name": name },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [{ "ports": [{ "port": 80, "protocol": "TCP" }] }] },
    })
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

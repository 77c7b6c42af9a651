//! Labs that an API server drives, on real packets: what is said to the server is what passes.
//!
//! Everything is asserted twice, before a change and after it, on new connections over both families. How long a change takes
//! is not asserted here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::state::{DIRECTORY, SOCKET};
use podgate_control::netlink::Namespace;
use podgate_tests::api_client::Client;
use podgate_tests::apiserver::{Access, ApiServer, Options, Rule, User};
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod, podgate, run_podgate};
use serde_json::{Value, json};

const HTTP: AnswerPort = AnswerPort::Tcp(80);
const KUBECONFIG: &str = "/run/podgate/lab/kubeconfig";

/// A lab with a test API server, and a client of it.
struct Driven {
    lab: Lab,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Driven {
    fn up(manifests: &str) -> Self {
        // Labs look for it beside `podgate`.
        let program = Path::new(env!("CARGO_BIN_EXE_podgate-test-api"));
        assert_eq!(program.parent(), podgate().parent(), "one folder for both");
        let lab = Lab::up(&[("all.yaml", manifests)], &["--with-test-api"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::from_kubeconfig(KUBECONFIG));
        Self { lab, client, runtime }
    }

    fn get(&self, path: &str) -> Value {
        self.runtime.block_on(self.client.get(path)).expect(200)
    }

    fn is_gone(&self, path: &str) -> bool {
        self.runtime.block_on(self.client.get(path)).code == 404
    }

    fn post(&self, path: &str, body: &Value) {
        self.runtime.block_on(self.client.post(path, body)).expect(201);
    }

    fn label(&self, path: &str, name: &str, value: Value) {
        let patch = json!({ "metadata": { "labels": { name: value } } });
        self.runtime.block_on(self.client.patch("merge-patch", path, &patch)).expect(200);
    }

    fn delete(&self, path: &str) {
        self.runtime.block_on(self.client.delete(path, None)).expect(200);
    }

    /// Waits until new connections are answered, and then insists on it.
    fn allowed(&self, from: &str, to: &str) {
        eventually(&format!("{from} reaches {to}"), || self.connects(from, to));
        self.lab.expect(&[(from, to, HTTP, true)]);
    }

    /// Waits until they are not, and then insists on silence.
    fn denied(&self, from: &str, to: &str) {
        eventually(&format!("{from} does not reach {to}"), || !self.connects(from, to));
        self.lab.expect(&[(from, to, HTTP, false)]);
    }

    fn connects(&self, from: &str, to: &str) -> bool {
        self.is_there(from) && self.is_there(to) && self.lab.connects(from, to, HTTP)
    }

    fn is_there(&self, netns: &str) -> bool {
        self.lab.state().namespaces.iter().any(|namespace| namespace.name == netns)
    }

    /// The addresses that the server says a pod has; empty until it runs.
    fn addresses(&self, path: &str) -> Vec<IpAddr> {
        let pod = self.get(path);
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        if pod["status"]["phase"] != "Running"
            || !pod["status"]["conditions"].as_array().unwrap().iter().any(ready)
        {
            return Vec::new();
        }
        pod["status"]["podIPs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["ip"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    fn runs(&self, path: &str) -> Vec<IpAddr> {
        eventually(&format!("{path} runs"), || !self.addresses(path).is_empty());
        self.addresses(path)
    }
}

fn document(namespace: &str, name: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "main", "image": "none", "ports": [{ "containerPort": 80 }] }] },
    })
}

#[test]
fn what_is_said_to_the_server_is_what_passes() {
    if !enabled() {
        return;
    }
    let manifests = [
        namespace("shop"),
        namespace("other"),
        pod("shop", "web", &["80"]),
        pod("shop", "api", &["80"]),
        pod("other", "client", &["80"]),
    ];
    let world = Driven::up(&manifests.concat());
    assert_eq!(fs::metadata(KUBECONFIG).unwrap().permissions().mode() & 0o777, 0o600);
    let (web, api, client) = (
        "/api/v1/namespaces/shop/pods/web",
        "/api/v1/namespaces/shop/pods/api",
        "/api/v1/namespaces/other/pods/client",
    );
    let first = world.runs(api);
    assert_eq!((first.len(), first[0].is_ipv4(), first[1].is_ipv6()), (2, true, true));
    let mut wired = world.lab.addresses("api.shop");
    wired.sort_by_key(IpAddr::is_ipv6);
    assert_eq!(first, wired);
    let node = world.get("/api/v1/nodes/lab");
    assert!(
        node["status"]["conditions"].as_array().unwrap().iter().any(|condition| condition["type"] == "Ready")
    );
    world.allowed("web.shop", "api.shop");
    world.allowed("client.other", "api.shop");

    // A policy.
    let policy = json!({
        "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": { "name": "api" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "api" } },
            "ingress": [{ "from": [
                { "podSelector": { "matchLabels": { "role": "friend" } } },
                { "namespaceSelector": { "matchLabels": { "team": "blue" } } },
            ] }],
        },
    });
    world.post("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies", &policy);
    world.denied("web.shop", "api.shop");
    world.denied("client.other", "api.shop");

    // A pod's label, there and back.
    world.label(web, "role", json!("friend"));
    world.allowed("web.shop", "api.shop");
    world.denied("client.other", "api.shop");
    world.label(web, "role", Value::Null);
    world.denied("web.shop", "api.shop");

    // A namespace's label.
    world.label("/api/v1/namespaces/other", "team", json!("blue"));
    world.allowed("client.other", "api.shop");
    world.denied("web.shop", "api.shop");

    // A pod of the same name is another pod, with other addresses, and the policy is for both.
    world.delete(api);
    eventually("the pod is gone", || world.is_gone(api) && !Namespace::path("api.shop").exists());
    world.post("/api/v1/namespaces/shop/pods", &document("shop", "api"));
    let second = world.runs(api);
    assert!(second.iter().all(|address| !first.contains(address)), "{first:?} again at once: {second:?}");
    world.allowed("client.other", "api.shop");
    world.denied("web.shop", "api.shop");

    // A namespace takes its pods along; what has its name afterwards has not its labels.
    world.delete("/api/v1/namespaces/other");
    eventually("the namespace is gone", || world.is_gone("/api/v1/namespaces/other"));
    assert!(world.is_gone(client));
    eventually("its pod's network is gone", || !Namespace::path("client.other").exists());
    world.post("/api/v1/namespaces", &json!({ "metadata": { "name": "other" } }));
    world.post("/api/v1/namespaces/other/pods", &document("other", "client"));
    let _ = world.runs(client);
    world.allowed("client.other", "web.shop");
    world.denied("client.other", "api.shop");

    // Without the policy everybody may again.
    world.delete("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/api");
    world.allowed("client.other", "api.shop");
    world.allowed("web.shop", "api.shop");

    let names: Vec<String> =
        world.lab.state().namespaces.into_iter().map(|namespace| namespace.name).collect();
    let _ = run_podgate(&["lab", "down"]).expect("lab down");
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        assert!(!Namespace::path(&name).exists(), "{name} is left");
    }
    assert!(!Path::new(DIRECTORY).exists() && !Path::new(SOCKET).exists());
    assert_eq!(test_servers(), [0; 0]);
}

/// Processes of the lab's test API server.
fn test_servers() -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let said = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.split('\0').next().is_some_and(|program| program.ends_with("podgate-test-api"))
            && said.contains(KUBECONFIG)
    })
    .collect()
}

#[test]
fn nothing_is_left_of_a_killed_lab() {
    if !enabled() {
        return;
    }
    let world = Driven::up(&[namespace("shop"), pod("shop", "web", &["80"])].concat());
    assert_eq!(test_servers().len(), 1);
    let supervisor = world.lab.state().supervisor;
    kill(Pid::from_raw(i32::try_from(supervisor).unwrap()), Signal::SIGKILL).unwrap();
    eventually("the test API server ends with its parent", || test_servers().is_empty());
    let _ = run_podgate(&["lab", "down"]).expect("lab down");
    assert!(!Namespace::path("web.shop").exists() && !Namespace::path("podgate-node").exists());
    assert!(!Path::new(DIRECTORY).exists());
}

#[test]
fn a_lab_is_one_node_of_a_server() {
    if !enabled() {
        return;
    }
    let root = User { token: "secret".into(), name: "root".into(), rules: vec![Rule::everything()] };
    let server =
        ApiServer::start(Options { access: Access::Users(vec![root]), ..Options::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig(Some("secret"))).unwrap();
    for name in ["kube-node-lease", "shop"] {
        server.put(json!({ "kind": "Namespace", "metadata": { "name": name } })).unwrap();
    }
    for (name, node, host_network) in [("here", "one", false), ("host", "one", true), ("there", "two", false)]
    {
        let mut pod = document("shop", name);
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["hostNetwork"] = host_network.into();
        pod["spec"]["containers"][0]["ports"][0]["containerPort"] =
            if host_network { json!(9100) } else { json!(80) };
        server.put(pod).unwrap();
    }

    // A kubelet is at work.
    let lease = |holder: &str, renewed: &str| {
        json!({
            "kind": "Lease", "metadata": { "name": "one", "namespace": "kube-node-lease" },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 2_000_000_000, "renewTime": renewed },
        })
    };
    server.put(lease("one", "2026-01-01T00:00:00.000000Z")).unwrap();
    let lab = Lab::prepare(&[], &["--kubeconfig", kubeconfig.to_str().unwrap(), "--node", "one"]);
    let said = lab.try_start();
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("a kubelet is at work there"), "{said:?}");
    assert!(!Namespace::path("podgate-node").exists());
    assert!(server.get("Node", "", "one").is_none(), "nothing was touched");

    // It was, long ago.
    server.put(lease("one", "1937-01-01T00:00:00.000000Z")).unwrap();
    lab.start();
    let names: Vec<String> = lab.state().namespaces.iter().map(|namespace| namespace.name.clone()).collect();
    assert_eq!(names, ["podgate-node", "here.shop"]);
    lab.expect(&[("podgate-node", "here.shop", HTTP, true)]);
    let status = |name: &str| server.get("Pod", "shop", name).unwrap()["status"].clone();
    assert_eq!(status("here")["phase"], "Running");
    assert_eq!(status("host")["podIP"], status("here")["hostIP"]);
    assert_eq!(status("there")["phase"], "Pending");
    let said = lab.exec("here.shop", 5, &["curl", "-sS", "http://podgate-node:9100"]);
    assert_eq!(said.out, "shop/host\n", "{said:?}");
    let holder = |server: &ApiServer| {
        let lease = server.get("Lease", "kube-node-lease", "one");
        lease.map(|lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    assert!(holder(&server).is_some_and(|holder| holder.starts_with("podgate-lab@")));

    let _ = run_podgate(&["lab", "down"]).expect("lab down");
    assert_eq!(holder(&server), None, "the node is given back");
    assert_eq!(status("here")["phase"], "Running", "what the server has is its own");
    assert!(server.get("Node", "", "one").is_some());
}

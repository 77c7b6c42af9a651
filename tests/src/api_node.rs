//! A `podgate run` that follows a test API server; both live in one network namespace, where nobody else is.
//!
//! [`ApiNode::start`] wires nobody: ports are asked for by interfaces that never come ([`crate::gateway`]). Whoever has wired
//! pods uses [`ApiNode::start_in`].
//!
//! Objects are changed by requests ([`ApiNode::post`] and the others), which keep book of the version that the last change of
//! each kind took. [`ApiNode::settle`] waits until the gateway has all of that in force, by the versions in its status: no
//! test has to guess how long something takes.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use podgate_config::manifest::NODE_ADDRESSES;
use podgate_control::netlink::Namespace;
use podgate_control::status::{KindStatus, SourceStatus};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::api_client::{Answer, Client, version};
use crate::apiserver::{ApiServer, Options};
use crate::gateway::Gateway;
use crate::netns::{Nest, run};

/// Settings of a small gateway without pods.
const SMALL: [&str; 6] =
    ["workers=1", "frames=16384", "ring_size=64", "flows=1024", "flows_per_pod=512", "flow_history=0"];

/// Where metrics are, inside the namespace.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9469);

/// The node; everything ends with it.
pub struct ApiNode {
    /// The gateway.
    pub gateway: Gateway,
    /// The server. What opens a socket of it has to be done by [`ApiNode::inside`].
    pub server: ApiServer,
    client: Client,
    runtime: Runtime,
    space: Namespace,
    /// By plural name: the version that the last change took.
    changed: BTreeMap<String, u64>,
    _kubeconfig: TempDir,
    _nest: Option<Nest>,
}

/// The path of an object, or of all of a kind if the name is empty.
///
/// # Panics
/// If it is of a kind that is not used in these tests.
#[must_use]
pub fn path(kind: &str, namespace: &str, name: &str) -> String {
    let (root, plural) = match kind {
        "Namespace" => ("/api/v1", "namespaces"),
        "Node" => ("/api/v1", "nodes"),
        "Pod" => ("/api/v1", "pods"),
        "NetworkPolicy" => ("/apis/networking.k8s.io/v1", "networkpolicies"),
        other => panic!("{other}: not of these tests"),
    };
    let within = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("{root}{within}/{plural}{name}")
}

impl ApiNode {
    /// Starts one without pods, with these settings besides those of a small gateway.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let mut nest = Nest::new();
        let name = nest.add("node");
        for address in NODE_ADDRESSES {
            run(&format!("ip -n {name} addr add {address} dev lo"));
        }
        let mut node = Self::start_in(&nest, &name, &[&SMALL[..], settings].concat(), |_| {});
        node._nest = Some(nest);
        node
    }

    /// Starts one inside a namespace. What `prepare` does to the server is done before anybody asks it.
    ///
    /// # Panics
    /// If server or gateway do not start.
    #[must_use]
    pub fn start_in(nest: &Nest, name: &str, settings: &[&str], prepare: impl FnOnce(&ApiServer)) -> Self {
        let space = nest.open(name);
        // Threads are where the one is that starts them, and so are their sockets.
        let (server, runtime) = space
            .run(|| {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                let runtime = builder.worker_threads(1).thread_name("test-client").enable_all().build();
                (ApiServer::start(Options::default()).expect("a server"), runtime.expect("a runtime"))
            })
            .expect("inside the namespace");
        prepare(&server);
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("kubeconfig");
        fs::write(&file, server.kubeconfig(None)).expect("a kubeconfig");
        let follow = format!("kubernetes={}", file.display());
        let metrics = format!("metrics_bind_address={METRICS}");
        let gateway = Gateway::start_in(nest, name, &[settings, &[&follow, &metrics]].concat(), |_| {});
        let client = {
            let _inside = runtime.enter();
            Client::fake(&server, None)
        };
        let (changed, _kubeconfig) = (BTreeMap::new(), folder);
        Self { gateway, server, client, runtime, space, changed, _kubeconfig, _nest: None }
    }

    /// Does something inside the namespace.
    ///
    /// # Panics
    /// If `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce(&ApiServer) -> T + Send) -> T {
        self.space.run(|| work(&self.server)).expect("inside the namespace")
    }

    /// Asks the server something, by a client inside the namespace.
    ///
    /// # Panics
    /// If `ask` does.
    pub fn ask<F>(&self, ask: impl FnOnce(Client) -> F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let asked = self.runtime.spawn(ask(self.client.clone()));
        self.runtime.block_on(asked).expect("an answer")
    }

    /// Keeps book of a change of what is at a path.
    fn note(&mut self, path: &str, version: u64) {
        let segments: Vec<&str> = path.split(['/', '?']).filter(|segment| !segment.is_empty()).collect();
        // /api/v1/... or /apis/GROUP/v1/..., then perhaps namespaces/NAME/
        let rest = segments.get(if path.starts_with("/api/") { 2 } else { 3 }..).unwrap_or_default();
        let plural = match rest {
            ["namespaces", _, plural, ..] if *plural != "status" => plural,
            [plural, ..] => plural,
            [] => panic!("{path}: no kind"),
        };
        self.changed.insert((*plural).to_owned(), version);
    }

    fn write(&mut self, path: &str, code: u16, answer: Answer) -> Value {
        let body = answer.expect(code);
        self.note(path, version(&body));
        body
    }

    /// Makes an object.
    #[allow(clippy::must_use_candidate, reason = "what was made is seldom of interest")]
    pub fn post(&mut self, path: &str, body: &Value) -> Value {
        let (at, body) = (path.to_owned(), body.clone());
        let answer = self.ask(|client| async move { client.post(&at, &body).await });
        self.write(path, 201, answer)
    }

    /// Replaces an object, or its status.
    #[allow(clippy::must_use_candidate, reason = "as above")]
    pub fn put(&mut self, path: &str, body: &Value) -> Value {
        let (at, body) = (path.to_owned(), body.clone());
        let answer = self.ask(|client| async move { client.put(&at, &body).await });
        self.write(path, 200, answer)
    }

    /// Patches an object; `kind` as [`Client::patch`] has it.
    #[allow(clippy::must_use_candidate, reason = "as above")]
    pub fn patch(&mut self, kind: &'static str, path: &str, body: &Value) -> Value {
        let (at, body) = (path.to_owned(), body.clone());
        let answer = self.ask(|client| async move { client.patch(kind, &at, &body).await });
        self.write(path, 200, answer)
    }

    /// Deletes an object at once.
    pub fn delete(&mut self, path: &str) {
        let at = path.to_owned();
        let answer = self
            .ask(|client| async move { client.delete(&at, Some(&json!({ "gracePeriodSeconds": 0 }))).await });
        let _ = answer.expect(200);
        // The answer does not say under which version it went.
        self.note(path, self.server.version());
    }

    /// Makes a pod and then its status, as its kubelet would. Gives its UID.
    pub fn add_pod(&mut self, pod: &Value) -> String {
        let of = |field: &str| pod["metadata"][field].as_str().unwrap_or("default").to_owned();
        let (namespace, name) = (of("namespace"), of("name"));
        let made = self.post(&path("Pod", &namespace, ""), pod);
        if pod["status"].is_object() {
            self.put(&(path("Pod", &namespace, &name) + "/status"), pod);
        }
        made["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    }

    /// What the gateway says of the server.
    ///
    /// # Panics
    /// If it does not say anything.
    #[must_use]
    pub fn source(&mut self) -> SourceStatus {
        let sources = self.gateway.status().sources;
        sources.into_iter().find(|source| source.kind == "kubernetes").expect("an API server")
    }

    /// What the gateway says of a kind.
    ///
    /// # Panics
    /// If it does not say anything.
    #[must_use]
    pub fn kind(&mut self, kind: &str) -> KindStatus {
        self.source().kinds.into_iter().find(|of| of.kind == kind).expect(kind)
    }

    /// Waits until everything that was changed by requests is in force.
    pub fn settle(&mut self, what: &str) {
        let changed = self.changed.clone();
        self.gateway.wait(&format!("{what} is in force"), |gateway| {
            let status = gateway.status();
            let Some(source) = status.sources.iter().find(|source| source.kind == "kubernetes") else {
                return false;
            };
            let at = |plural: &str| {
                let kind = source.kinds.iter().find(|kind| path(&kind.kind, "", "").ends_with(plural))?;
                kind.version.parse::<u64>().ok()
            };
            status.ready
                && status.generation_in_force == status.generation_published
                && changed.iter().all(|(plural, version)| at(plural).is_some_and(|at| at >= *version))
        });
    }

    /// What the gateway's HTTP server says at a path: status and body.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn http(&self, path: &str) -> (u16, String) {
        let answer = self.inside(|_| {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        let answer: String = answer.unwrap_or_else(|error: std::io::Error| panic!("{path}: {error}"));
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (code, answer)
    }

    /// The value of a series of `/metrics`, named with its labels.
    ///
    /// # Panics
    /// If there is none, or it is no whole number.
    #[must_use]
    pub fn metric(&self, series: &str) -> u64 {
        let (_, text) = self.http("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{series} is not in {text}"))
    }
}

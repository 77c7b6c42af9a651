//! A Kubernetes API server for tests: in-process, plain HTTP/1.1, no etcd, and faults at the test's word.
//!
//! It serves what Podgate's source, the `kube` client and `kubectl` use: list and watch with selectors, pages and
//! bookmarks, every patch type, server-side apply, graceful pod deletion, cascading namespace deletion, discovery and
//! Table output. It stands in for the namespace controller, and for the scheduler if it is told a node
//! ([`Options::bind_to`]); the kubelet is whoever writes `pods/status` and a DELETE with grace 0.
//! `tests/tests/api_contract/` holds it against what real servers promise. `podgate-test-api` serves it to people.
//!
//! What it does not do: values are checked for their types but hardly beyond, so an invalid policy can be put before a
//! client; owner references are not followed; server-side apply sees conflicts between appliers only; bodies and
//! answers are JSON, but for `kubectl create namespace`; there is no TLS. `kubectl` sends no token over plain HTTP, so
//! a token may stand in front of the path as well: `http://ADDRESS/as/TOKEN` is a server's URL like any other.
//!
//! One mutex holds the [`store`]; handlers take it for the time of one decision, so every write is atomic. Watches
//! run on their own. The server has a runtime of its own: its handle works from synchronous and asynchronous tests.

pub mod access;
mod apply;
mod clock;
mod defaults;
mod delete;
mod discovery;
mod events;
pub mod failure;
mod faults;
mod form;
mod http;
pub mod kinds;
mod object;
mod patch;
mod protobuf;
mod read;
mod request;
mod scheduler;
mod selector;
mod store;
mod strategic;
mod table;
mod typed;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch as cell};

pub use access::{Access, Rule, User};
pub use failure::Failure;
pub use store::Backup;

use faults::Faults;
use kinds::Resource;
use request::{Request, Target};
use store::Store;

/// How a server begins.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Who is let in.
    pub access: Access,
    /// Whether it has the CRD of ClusterNetworkPolicy.
    pub cluster_network_policies: bool,
    /// Changes that are remembered for watches.
    pub history: usize,
    /// The version before the first change.
    pub first_version: u64,
    /// How often a watch that wants bookmarks gets one.
    pub bookmark_every: Duration,
    /// The node that new pods are bound to; without one they wait for somebody who binds them.
    pub bind_to: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            access: Access::Open,
            cluster_network_policies: false,
            history: 100_000,
            first_version: 1_000,
            bookmark_every: Duration::from_secs(60),
            bind_to: None,
        }
    }
}

/// What all handlers share.
pub(crate) struct Shared {
    options: Options,
    kinds: Vec<&'static Resource>,
    store: Mutex<Store>,
    access: Mutex<Access>,
    /// How often each verb on each kind was asked for.
    asked: Mutex<BTreeMap<(String, String), u64>>,
    /// The newest version, for watches to wait on.
    head: cell::Sender<u64>,
    faults: cell::Sender<Faults>,
    /// Open watches.
    watches: cell::Sender<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Changes the store and wakes the watches.
    fn write<R>(&self, change: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = self.store();
        let result = change(&mut store);
        self.head.send_replace(store.version());
        result
    }

    fn check(&self, request: &Request, verb: &str, target: Option<&Target>) -> Result<(), Failure> {
        lock(&self.access).check(request.token.as_deref(), verb, target)
    }

    fn note(&self, verb: &str, target: &Target) {
        let key = (verb.to_owned(), target.resource.plural.to_owned());
        *lock(&self.asked).entry(key).or_default() += 1;
    }
}

struct Listening {
    stop: oneshot::Sender<()>,
    closed: std::sync::mpsc::Receiver<()>,
}

/// A running server; dropping it ends it.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Mutex<Option<Listening>>,
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// Starts a server with the namespace `default` and nothing else.
    ///
    /// # Errors
    /// If the address cannot be had, or no threads.
    pub fn start(options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-api")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared {
            kinds: kinds::all(options.cluster_network_policies),
            store: Mutex::new(Store::new(options.first_version, options.history)),
            access: Mutex::new(options.access.clone()),
            asked: Mutex::default(),
            head: cell::Sender::new(options.first_version),
            faults: cell::Sender::new(Faults::default()),
            watches: cell::Sender::new(0),
            options,
        });
        let mut server = Self {
            address: shared.options.address,
            shared,
            listening: Mutex::new(None),
            runtime: Some(runtime),
        };
        server.address = server.open()?;
        let _ = server.put(json!({ "kind": "Namespace", "metadata": { "name": "default" } }));
        Ok(server)
    }

    /// Opens the port.
    fn open(&self) -> io::Result<SocketAddr> {
        let Some(runtime) = &self.runtime else { return Err(io::ErrorKind::NotConnected.into()) };
        let _inside = runtime.enter();
        let listener = std::net::TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (closing, closed) = std::sync::mpsc::channel();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(http::listen(self.shared.clone(), listener, stopped, closing));
        *lock(&self.listening) = Some(Listening { stop, closed });
        Ok(address)
    }

    /// Where it listens, also while it is stopped.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for `kubectl` and `kube`, in JSON, which is YAML too; with a token if one is given, as a credential and
    /// in the URL.
    #[must_use]
    pub fn kubeconfig(&self, token: Option<&str>) -> String {
        let user = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
        let url = token.map_or_else(|| self.url(), |token| format!("{}/{}/{token}", self.url(), request::AS));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": url } }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        format!("{config:#}\n")
    }

    /// Closes the port and cuts all connections; objects and history stay.
    pub fn stop(&self) {
        let listening = lock(&self.listening).take();
        if let Some(listening) = listening {
            let _ = listening.stop.send(());
            // The port is free once the listener is dropped.
            let _ = listening.closed.recv();
        }
        self.cut_connections();
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// If somebody else has it by now.
    pub fn resume(&self) -> io::Result<()> {
        if lock(&self.listening).is_none() {
            self.open()?;
        }
        Ok(())
    }

    /// Changes who is let in; open connections are asked again with their next request.
    pub fn set_access(&self, access: Access) {
        *lock(&self.shared.access) = access;
    }

    /// Puts a whole document in place, status and all, beside all rules: for building a world quickly. What every
    /// object has (uid, time of creation) is filled in, and kept if the object was there.
    ///
    /// # Errors
    /// [`Failure`] for an unknown kind or a document without a name.
    pub fn put(&self, document: Value) -> Result<Value, Failure> {
        write::put(&self.shared, document)
    }

    /// One object by its kind, namespace (empty for cluster-wide kinds) and name.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = self.kind(kind)?;
        Some(self.shared.store().get(resource, namespace, name)?.value(resource))
    }

    /// All objects of a kind.
    #[must_use]
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let Some(resource) = self.kind(kind) else { return Vec::new() };
        self.shared.store().all(resource, None).iter().map(|object| object.value(resource)).collect()
    }

    /// Removes an object at once, beside all rules. Whether it was there.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let Some(resource) = self.kind(kind) else { return false };
        self.shared
            .write(|store| delete::remove(store, &self.shared.kinds, resource, namespace, name))
            .is_some()
    }

    fn kind(&self, kind: &str) -> Option<&'static Resource> {
        self.shared.kinds.iter().copied().find(|resource| resource.kind == kind)
    }

    /// The newest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.store().version()
    }

    /// How often a verb was asked for on a kind, by its plural name, since the start.
    #[must_use]
    pub fn asked(&self, verb: &str, plural: &str) -> u64 {
        lock(&self.shared.asked).get(&(verb.to_owned(), plural.to_owned())).copied().unwrap_or_default()
    }

    /// Watches that are open now.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        *self.shared.watches.borrow()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Not waited for: this may be dropped inside another runtime, where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

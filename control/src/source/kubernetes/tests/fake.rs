//! As much of an API server as is needed to break it: lists in pages, watches, tokens, and what goes wrong with them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::Access;

/// What there is, and what is wrong.
pub struct Inner {
    pub version: u64,
    /// By path of the kind, namespace and name.
    pub objects: BTreeMap<(String, String), Value>,
    /// Version, path of the kind, and line of each event.
    log: Vec<(u64, String, String)>,
    /// Watches from before this version are told so in their stream.
    pub oldest: u64,
    /// All running watches are cut in the midst of a line when this grows.
    pub cuts: u64,
    /// Lines that all watches send as they are, once.
    pub lines: Vec<String>,
    /// Watches answer and say nothing more.
    pub silent_watches: bool,
    /// Nothing is answered.
    pub silent: bool,
    /// Status of every answer for paths that end like this.
    pub refused: HashMap<&'static str, u16>,
    /// Status of every watch's answer.
    pub refused_watches: Option<u16>,
    /// So many more `continue` are expired.
    pub expired: u32,
    /// So many more pages, but for first ones, are refused.
    pub refused_pages: u32,
    /// Every page but the first is followed by itself.
    pub endless: bool,
    /// Lists never stop to come, and never come to an end.
    pub trickles: bool,
    /// All watches end at once, with this line.
    pub failing_watches: Option<String>,
    /// The Events, by namespace and name.
    pub events: BTreeMap<(String, String), Value>,
    /// Status of every answer to requests for Events; 0 for none at all.
    pub refused_events: Option<u16>,
    pub token: &'static str,
    /// Of all requests.
    pub requests: Vec<String>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

pub struct Fake {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    address: SocketAddr,
    folder: TempDir,
    tls: Option<TlsAcceptor>,
}

impl Fake {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// With TLS, if there is something to do it with.
    pub fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let inner = Inner {
            version: 1000,
            objects: BTreeMap::new(),
            log: Vec::new(),
            oldest: 0,
            cuts: 0,
            lines: Vec::new(),
            silent_watches: false,
            silent: false,
            refused: HashMap::new(),
            refused_watches: None,
            expired: 0,
            refused_pages: 0,
            endless: false,
            trickles: false,
            failing_watches: None,
            events: BTreeMap::new(),
            refused_events: None,
            token: "secret",
            requests: Vec::new(),
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: watch::channel(()).0 });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut fake = Self { shared, runtime: None, address, folder: tempfile::tempdir().unwrap(), tls };
        fake.resume();
        fake.write_kubeconfig("secret");
        fake
    }

    /// Listens, at the same address as before.
    pub fn resume(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        self.address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.shared.clone());
        match self.tls.clone() {
            Some(acceptor) => {
                let listener = TlsListener { listener, acceptor };
                runtime.spawn(async move { axum::serve(listener, router).await });
            }
            None => drop(runtime.spawn(async move { axum::serve(listener, router).await })),
        }
        self.runtime = Some(runtime);
    }

    /// Is gone, with all connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.shared.inner.lock().unwrap());
        self.shared.changed.send_replace(());
        result
    }

    /// The object is there, or another than before.
    pub fn set(&self, path: &str, mut object: Value) {
        self.with(|inner| {
            inner.version += 1;
            object["metadata"]["resourceVersion"] = inner.version.to_string().into();
            let before = inner.objects.insert((path.to_owned(), name_of(&object)), object.clone());
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            inner.log.push((
                inner.version,
                path.to_owned(),
                json!({"type": kind, "object": object}).to_string(),
            ));
        });
    }

    pub fn delete(&self, path: &str, name: &str) {
        self.with(|inner| {
            let mut object = inner.objects.remove(&(path.to_owned(), name.to_owned())).unwrap();
            inner.version += 1;
            object["metadata"]["resourceVersion"] = inner.version.to_string().into();
            inner.log.push((
                inner.version,
                path.to_owned(),
                json!({"type": "DELETED", "object": object}).to_string(),
            ));
        });
    }

    /// The server of a backup: what it had then, at that version, and nobody is told.
    pub fn restore(&self, version: u64, objects: BTreeMap<(String, String), Value>) {
        self.with(|inner| {
            (inner.version, inner.objects) = (version, objects);
            inner.log.clear();
        });
    }

    pub fn write_kubeconfig(&self, token: &str) {
        self.write_kubeconfig_with(&format!("server: 'http://{}'", self.address), &format!("token: {token}"));
    }

    /// With these fields of the cluster and of the user.
    pub fn write_kubeconfig_with(&self, cluster: &str, user: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(self.kubeconfig(), text).unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A file beside the kubeconfig.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub fn access(&self) -> Access {
        Access::Kubeconfig(self.kubeconfig())
    }
}

/// Whoever does not shake hands is not heard.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", metadata["name"].as_str().unwrap()),
        None => metadata["name"].as_str().unwrap().to_owned(),
    }
}

fn status(code: u16, message: &str) -> Response {
    let body =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response()
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::GET {
        let refused = shared.inner.lock().unwrap().refused_events;
        return match refused {
            Some(0) => std::future::pending().await,
            Some(code) => status(code, "refused"),
            None => tell(&mut shared.inner.lock().unwrap(), &method, uri.path(), &body),
        };
    }
    let is_watch = query.get("watch").is_some_and(|watch| watch == "true");
    let refusal = {
        let mut inner = shared.inner.lock().unwrap();
        inner.requests.push(uri.to_string());
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let refused = inner.refused.iter().find(|(end, _)| uri.path().ends_with(*end)).map(|(_, code)| *code);
        match (inner.silent, token == Some(&format!("Bearer {}", inner.token)), refused) {
            (true, ..) => None,
            (_, false, _) => Some(status(401, "Unauthorized")),
            (.., Some(code)) => Some(status(code, "refused")),
            _ if is_watch && inner.refused_watches.is_some() => {
                Some(status(inner.refused_watches.unwrap_or_default(), "no watch"))
            }
            _ if is_watch => None,
            _ if inner.trickles => Some(trickle()),
            _ => Some(list(&mut inner, uri.path(), &query)),
        }
    };
    match refusal {
        Some(answer) => answer,
        None if shared.inner.lock().unwrap().silent => std::future::pending().await,
        None => events(shared, uri.path().to_owned(), &query),
    }
}

/// Makes an Event, or changes one.
fn tell(inner: &mut Inner, method: &Method, path: &str, body: &[u8]) -> Response {
    inner.requests.push(format!("{method} {path}"));
    let body: Value = serde_json::from_slice(body).unwrap();
    let parts: Vec<&str> = path.trim_start_matches("/api/v1/namespaces/").split('/').collect();
    let event = match (method, parts.as_slice()) {
        (&Method::POST, [namespace, "events"]) => {
            assert_eq!(body["metadata"]["namespace"], *namespace);
            let name = body["metadata"]["name"].as_str().unwrap().to_owned();
            let key = ((*namespace).to_owned(), name);
            if inner.events.contains_key(&key) {
                return status(409, "it exists");
            }
            inner.events.entry(key).or_insert(body)
        }
        (&Method::PATCH, [namespace, "events", name]) => {
            let key = ((*namespace).to_owned(), (*name).to_owned());
            let Some(event) = inner.events.get_mut(&key) else { return status(404, "there is none") };
            for (field, value) in body.as_object().unwrap() {
                event[field] = value.clone();
            }
            event
        }
        other => panic!("{other:?}"),
    };
    event.to_string().into_response()
}

fn list(inner: &mut Inner, path: &str, query: &HashMap<String, String>) -> Response {
    let limit: usize = query["limit"].parse().unwrap();
    let mut begin = 0;
    if let Some(after) = query.get("continue") {
        if inner.expired > 0 {
            inner.expired -= 1;
            return status(410, "The provided continue parameter is too old");
        }
        if inner.refused_pages > 0 {
            inner.refused_pages -= 1;
            return status(503, "too many requests");
        }
        begin = after.strip_prefix("after ").unwrap().parse().unwrap();
    }
    let all: Vec<&Value> =
        inner.objects.iter().filter(|((kind, _), _)| kind == path).map(|(_, v)| v).collect();
    let end = all.len().min(begin + limit);
    let mut metadata = json!({"resourceVersion": inner.version.to_string()});
    if end < all.len() {
        let next = if inner.endless && begin > 0 { begin } else { end };
        metadata["continue"] = format!("after {next}").into();
    }
    json!({"kind": "List", "metadata": metadata, "items": &all[begin..end]}).to_string().into_response()
}

fn trickle() -> Response {
    let stream = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    Body::from_stream(stream).into_response()
}

/// One running watch.
struct Running {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    path: String,
    version: u64,
    lines: usize,
    cuts: u64,
    end: Instant,
    over: bool,
}

fn events(shared: Arc<Shared>, path: String, query: &HashMap<String, String>) -> Response {
    let number = |name: &str| query[name].parse::<u64>().unwrap();
    let (lines, cuts) = {
        let inner = shared.inner.lock().unwrap();
        (inner.lines.len(), inner.cuts)
    };
    let running = Running {
        changed: shared.changed.subscribe(),
        shared,
        path,
        version: number("resourceVersion"),
        lines,
        cuts,
        end: Instant::now() + Duration::from_secs(number("timeoutSeconds")),
        over: false,
    };
    let stream = futures::stream::unfold(running, |mut running| async move {
        loop {
            if running.over {
                return None;
            }
            match running.next() {
                Step::Send(text) => return Some((Ok::<_, std::io::Error>(text), running)),
                Step::Cut => {
                    running.over = true;
                    return Some((Err(std::io::Error::other("cut")), running));
                }
                Step::End => return None,
                Step::Wait => {
                    let end = tokio::time::Instant::from_std(running.end);
                    let _ = tokio::time::timeout_at(end, running.changed.changed()).await;
                }
                Step::Forever => {
                    let _ = running.changed.changed().await;
                }
            }
        }
    });
    Body::from_stream(stream).into_response()
}

enum Step {
    Send(String),
    Wait,
    Forever,
    Cut,
    End,
}

impl Running {
    fn next(&mut self) -> Step {
        self.changed.mark_unchanged();
        let inner = self.shared.inner.lock().unwrap();
        if inner.cuts > self.cuts {
            return Step::Cut;
        }
        if inner.silent_watches {
            return Step::Forever;
        }
        if let Some(line) = &inner.failing_watches {
            self.over = true;
            return Step::Send(format!("{line}\n"));
        }
        if self.version < inner.oldest {
            self.over = true;
            let gone =
                json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}});
            return Step::Send(format!("{gone}\n"));
        }
        if let Some(line) = inner.lines.get(self.lines) {
            self.lines += 1;
            return Step::Send(format!("{line}\n"));
        }
        let next = inner.log.iter().find(|(version, path, _)| *version > self.version && *path == self.path);
        if let Some((version, _, line)) = next {
            self.version = *version;
            return Step::Send(format!("{line}\n"));
        }
        if Instant::now() >= self.end { Step::End } else { Step::Wait }
    }
}

//! Asking an API server: one page of a list, or the lines of a watch.
//!
//! kube knows how servers are found and convinced (kubeconfig, service accounts, TLS); what they say is read here. Nothing is
//! waited for without an end: not a connection, not an answer, not the rest of one. kube's own retries and timeouts are
//! off, because whoever asks has to know that a server is away.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use kube::{Client, Config};
use podgate_config::manifest::server::{self, Page, ServerEvent, ServerKind};

use super::error::{AccessError, ApiError, chain};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A longer page is refused: etcd holds no object beyond 1.5 MiB, and pages have some hundred.
const LONGEST_PAGE: usize = 1 << 30;
/// A longer line is refused.
const LONGEST_LINE: usize = 1 << 26;
/// How many times as long as an answer may take to begin a page may take altogether.
const WHOLE_PAGE: u32 = 4;
/// How long after a new connection was made another one is not.
const RECONNECT: Duration = Duration::from_secs(1);

/// How to find a server and what to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// By a kubeconfig file's current context.
    Kubeconfig(PathBuf),
    /// As a pod's service account.
    InCluster,
}

impl Access {
    /// Where this is written down, for messages.
    fn describe(&self) -> String {
        match self {
            Self::Kubeconfig(file) => file.display().to_string(),
            Self::InCluster => "the service account".to_owned(),
        }
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let mut config = match self {
            Self::InCluster => Config::incluster()?,
            Self::Kubeconfig(file) => {
                let wrong = |error| AccessError::Kubeconfig { file: file.clone(), error };
                let kubeconfig = Kubeconfig::read_from(file).map_err(wrong)?;
                let names_proxy = names_proxy(&kubeconfig);
                let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .map_err(wrong)?;
                if !names_proxy {
                    // The environment's is for other things than the server that this node belongs to.
                    config.proxy_url = None;
                }
                let user = &config.auth_info;
                for (field, there) in
                    [("exec", user.exec.is_some()), ("auth-provider", user.auth_provider.is_some())]
                {
                    if there {
                        return Err(AccessError::Plugin { file: file.clone(), field });
                    }
                }
                config
            }
        };
        trim_token(&mut config.auth_info);
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(CONNECT);
        config.read_timeout = None;
        config.default_retry = false;
        Ok(config)
    }

    /// A client of the server, and its address. Nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with what says how.
    pub(crate) async fn connect(&self) -> Result<(Client, String), AccessError> {
        let config = self.config().await?;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| AccessError::Client { access: self.describe(), error })?;
        Ok((client, url))
    }
}

/// Whether the current context's cluster is behind a proxy of its own.
fn names_proxy(kubeconfig: &Kubeconfig) -> bool {
    let current = kubeconfig.current_context.as_ref();
    let context = kubeconfig.contexts.iter().find(|context| Some(&context.name) == current);
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| &context.cluster);
    let cluster = kubeconfig.clusters.iter().find(|named| Some(&named.name) == cluster);
    cluster.and_then(|named| named.cluster.as_ref()).is_some_and(|cluster| cluster.proxy_url.is_some())
}

/// kube takes a token's file as it is, and cannot send the end of a line that most of them have.
fn trim_token(user: &mut AuthInfo) {
    let Some(text) = user.token_file.as_ref().and_then(|file| fs::read_to_string(file).ok()) else { return };
    let token = text.trim();
    if token != text {
        user.token = Some(token.to_owned().into());
        user.token_file = None;
    }
}

/// How a server is reached now.
struct Connected {
    client: Client,
    since: Instant,
    url: String,
}

/// A server that may be asked.
pub(super) struct Server {
    access: Access,
    described: String,
    connected: Mutex<Connected>,
    /// Why the settings could not be read again the last time, as told in the log.
    unreadable: Mutex<Option<String>>,
    /// How long an answer may take to begin, and each next part of a list.
    patience: Duration,
}

impl Server {
    /// Reads what there is to know about the server. Nothing is sent yet.
    pub async fn new(access: Access, patience: Duration) -> Result<Self, AccessError> {
        let (client, url) = access.connect().await?;
        let described = access.describe();
        let connected = Mutex::new(Connected { client, since: Instant::now(), url });
        Ok(Self { access, described, connected, unreadable: Mutex::new(None), patience })
    }

    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.connected().url.clone()
    }

    /// Makes another connection for what is asked from now on, with the credentials that there are now: tokens and
    /// certificates are replaced, and the one before may lead nowhere. Gives the server's address if that is another one now.
    pub async fn reconnect(&self) -> Option<String> {
        if self.connected().since.elapsed() < RECONNECT {
            return None;
        }
        let (why_not, moved) = match self.access.connect().await {
            Ok((client, url)) => {
                let now = Connected { client, since: Instant::now(), url: url.clone() };
                let before = std::mem::replace(&mut *self.connected(), now);
                (None, (before.url != url).then_some(url))
            }
            Err(error) => (Some(error.to_string()), None),
        };
        let mut told = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = why_not.as_ref().filter(|_| *told != why_not) {
            tracing::warn!("what was read before is used to reach the API server: {error}");
        }
        *told = why_not;
        moved
    }

    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The connection of this moment.
    pub fn client(&self) -> Client {
        self.connected().client.clone()
    }

    /// One page of the list of all objects as they are now: at most `limit`, from `after` on.
    pub async fn page(&self, kind: ServerKind, limit: u32, after: Option<&str>) -> Result<Page, ApiError> {
        let longest = self.patience * WHOLE_PAGE;
        let page = tokio::time::timeout(longest, self.read_page(kind, limit, after));
        page.await.unwrap_or(Err(ApiError::Silent(longest)))
    }

    async fn read_page(&self, kind: ServerKind, limit: u32, after: Option<&str>) -> Result<Page, ApiError> {
        let params = ListParams {
            limit: Some(limit),
            continue_token: after.map(ToOwned::to_owned),
            ..ListParams::default()
        };
        let request = Request::new(kind.path()).list(&params);
        let mut answer = self.send(kind, request).await?;
        let mut bytes = Vec::new();
        loop {
            let part = in_time(self.patience, answer.fill_buf()).await?;
            if part.is_empty() {
                break;
            }
            take(&mut bytes, part, LONGEST_PAGE)?;
            let length = part.len();
            answer.consume_unpin(length);
        }
        Ok(server::page(kind, &bytes)?)
    }

    /// Watches all objects from a version on, for about so many seconds.
    pub async fn watch(
        &self,
        kind: ServerKind,
        version: &str,
        seconds: u32,
    ) -> Result<Events<impl AsyncBufRead + Unpin + use<>>, ApiError> {
        let params = WatchParams { timeout: Some(seconds), bookmarks: true, ..WatchParams::default() };
        let request = Request::new(kind.path()).watch(&params, version).map(|mut request| {
            // Compressed streams come with a delay, and in many parts.
            let identity = axum::http::HeaderValue::from_static("identity");
            request.headers_mut().insert(axum::http::header::ACCEPT_ENCODING, identity);
            request
        });
        let answer = self.send(kind, request).await?;
        Ok(Events { kind, answer, line: Vec::new(), complete: Instant::now() })
    }

    async fn send(
        &self,
        kind: ServerKind,
        request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<impl AsyncBufRead + Unpin + use<>, ApiError> {
        let request = request.map_err(|error| ApiError::Connection(chain(&error)))?;
        match tokio::time::timeout(self.patience, self.client().request_stream(request)).await {
            Ok(Ok(answer)) => Ok(Box::pin(answer)),
            Ok(Err(error)) => Err(ApiError::of(error, kind, &self.described)),
            Err(_) => Err(ApiError::Silent(self.patience)),
        }
    }
}

/// What a watch says.
pub(super) struct Events<R> {
    kind: ServerKind,
    answer: R,
    line: Vec<u8>,
    /// When the last line was complete.
    complete: Instant,
}

impl<R: AsyncBufRead + Unpin> Events<R> {
    /// How long ago the last event was here, unread.
    pub fn since_line(&self) -> Duration {
        self.complete.elapsed()
    }

    /// The next event; `None` if the server has ended the watch. What was read of an event when the future is dropped is
    /// not lost.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ApiError> {
        loop {
            let part = self.answer.fill_buf().await.map_err(|error| ApiError::Connection(chain(&error)))?;
            if part.is_empty() {
                // A line without an end is none: the server was cut off in the midst of it.
                return Ok(None);
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let (text, length) = match end {
                Some(end) => (part.get(..end).unwrap_or_default(), end + 1),
                None => (part, part.len()),
            };
            take(&mut self.line, text, LONGEST_LINE)?;
            self.answer.consume_unpin(length);
            if end.is_some() {
                self.complete = Instant::now();
                let line = std::mem::take(&mut self.line);
                if !line.iter().all(u8::is_ascii_whitespace) {
                    return Ok(Some(server::event(self.kind, &line)?));
                }
            }
        }
    }
}

/// Adds what was read, up to a bound.
fn take(bytes: &mut Vec<u8>, part: &[u8], most: usize) -> Result<(), ApiError> {
    if bytes.len() + part.len() > most {
        return Err(ApiError::Connection(format!("an answer has more than {most} bytes")));
    }
    bytes.extend_from_slice(part);
    Ok(())
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done.map_err(|error| ApiError::Connection(chain(&error))),
        Err(_) => Err(ApiError::Silent(patience)),
    }
}

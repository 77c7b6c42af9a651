//! A plain client of an API server: requests and answers as they are, nothing retried, nothing hidden.
//!
//! [`Client::fake`] speaks to a test server, [`Client::from_kubeconfig`] to any. TLS and credentials are `kube`'s.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::http::Request;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client as KubeClient, Config};
use serde_json::Value;

use crate::apiserver::ApiServer;

/// So long an answer may take, or an event: a failure comes that late, a success never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Content type.
    pub kind: String,
    /// The body, null if it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The body, if the status is the one expected.
    ///
    /// # Panics
    /// If it is not.
    #[allow(clippy::must_use_candidate, reason = "often only the status matters")]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }

    /// The reason of a refusal, if the status is the one expected.
    ///
    /// # Panics
    /// If it is not, or if the body is no Status that says the same.
    #[must_use]
    pub fn refused(self, code: u16) -> String {
        let body = self.expect(code);
        assert_eq!((&body["kind"], &body["code"]), (&Value::from("Status"), &Value::from(code)), "{body}");
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// A client.
#[derive(Clone)]
pub struct Client {
    inner: KubeClient,
    config: Config,
}

impl Client {
    /// Of a test server, with a token or without.
    ///
    /// # Panics
    /// If there is no TLS library.
    #[must_use]
    pub fn fake(server: &ApiServer, token: Option<&str>) -> Self {
        let client = Self::new(Config::new(server.url().parse().expect("a URL")));
        token.map_or(client.clone(), |token| client.with_token(token))
    }

    /// Of the server that a kubeconfig names.
    ///
    /// # Panics
    /// If it cannot be read.
    pub async fn from_kubeconfig(path: &str) -> Self {
        let file = Kubeconfig::read_from(path).expect("PODGATE_TEST_KUBECONFIG");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Self::new(config.expect("PODGATE_TEST_KUBECONFIG"))
    }

    fn new(mut config: Config) -> Self {
        // Left alone, `kube` repeats what was answered 429, 503 or 504.
        config.default_retry = false;
        Self { inner: KubeClient::try_from(config.clone()).expect("a client"), config }
    }

    /// The same server with this token and no other credentials.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        let mut config = self.config.clone();
        config.auth_info =
            serde_json::from_value(serde_json::json!({ "token": token })).expect("credentials");
        Self::new(config)
    }

    /// One request. `accept` and `kind` (of the body) may be empty: JSON.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Answer, kube::Error> {
        let response = self.inner.send(request(method, path, accept, kind, body)).await?;
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let (code, kind) = (response.status().as_u16(), kind.unwrap_or_default().to_owned());
        let body = response.into_body().collect_bytes().await?;
        Ok(Answer { code, kind, body: serde_json::from_slice(&body).unwrap_or_default() })
    }

    async fn must(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Answer {
        let sent = tokio::time::timeout(PATIENCE, self.send(method, path, "", kind, body)).await;
        sent.unwrap_or_else(|_| panic!("{method} {path}: no answer"))
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.must("GET", path, "", None).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.must("POST", path, "", Some(body)).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.must("PUT", path, "", Some(body)).await
    }

    /// PATCH of a type: `json-patch`, `merge-patch`, `strategic-merge-patch`, or `apply-patch` for YAML.
    pub async fn patch(&self, kind: &str, path: &str, body: &Value) -> Answer {
        let kind = if kind == "apply-patch" { "apply-patch+yaml".to_owned() } else { format!("{kind}+json") };
        self.must("PATCH", path, &format!("application/{kind}"), Some(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str, options: Option<&Value>) -> Answer {
        self.must("DELETE", path, "", options).await
    }

    /// A watch; `path` has the query without `watch=true`.
    ///
    /// # Panics
    /// If it does not begin.
    pub async fn watch(&self, path: &str) -> Watch {
        let joint = if path.contains('?') { '&' } else { '?' };
        let request = request("GET", &format!("{path}{joint}watch=true"), "", "", None);
        let sent = tokio::time::timeout(PATIENCE, self.inner.send(request)).await.expect("an answer");
        let response = sent.expect("a watch");
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

fn request(method: &str, path: &str, accept: &str, kind: &str, body: Option<&Value>) -> Request<Body> {
    let or_json = |text: &str| if text.is_empty() { "application/json".to_owned() } else { text.to_owned() };
    let mut request = Request::builder().method(method).uri(path).header("accept", or_json(accept));
    if body.is_some() {
        request = request.header("content-type", or_json(kind));
    }
    request
        .body(Body::from(body.map(|body| body.to_string().into_bytes()).unwrap_or_default()))
        .expect("a request")
}

/// An open watch.
pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

/// How a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As HTTP ends a body.
    Clean,
    /// In the middle.
    Broken,
}

impl Watch {
    /// The next event, or how the watch ended. It waits for as long as that takes.
    pub async fn next_or_end(&mut self) -> Result<Value, End> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            match self.body.frame().await {
                None => return Err(End::Clean),
                Some(Err(_)) => return Err(End::Broken),
                Some(Ok(frame)) => self.rest.extend(frame.into_data().unwrap_or_else(|_| Bytes::new())),
            }
        }
    }

    /// The next event that is no bookmark.
    ///
    /// # Panics
    /// If none comes.
    pub async fn next(&mut self) -> Value {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.next_or_end()).await.expect("no event came");
            let event = event.expect("the watch ended");
            if event["type"] != "BOOKMARK" {
                return event;
            }
        }
    }

    /// The next event's type, name and version.
    ///
    /// # Panics
    /// If none comes.
    pub async fn told(&mut self) -> (String, String, u64) {
        let event = self.next().await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &event["object"]["metadata"];
        (text(&event["type"]), text(&metadata["name"]), version(&event["object"]))
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If an event comes instead, or nothing.
    pub async fn end(&mut self) -> End {
        let end = tokio::time::timeout(PATIENCE, self.next_or_end()).await.expect("the watch does not end");
        end.expect_err("an event came instead of the end")
    }
}

/// The version of an object or a list.
///
/// # Panics
/// If it has none.
#[must_use]
pub fn version(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    version.parse().unwrap_or_else(|_| panic!("a version: {object}"))
}

//! HTTP/1.1: connections, and which handler a request goes to.
//!
//! Connections are tasks that end when they are cut ([`super::faults`]), wherever they are; dropping one drops its
//! answers, and the watch behind an answer ends with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Method;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::failure::Failure;
use super::request::{Request, Target};
use super::{Shared, delete, discovery, read, scheduler, watch, write};

/// Bodies are at most so long, as on a real server.
const MAX_BODY: usize = 3 << 20;

/// What is sent back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A status, a content type and a body.
    Whole(u16, String, Bytes),
    /// Lines as they come.
    Stream(mpsc::Receiver<Bytes>),
}

impl Answer {
    /// A JSON document.
    pub fn json(code: u16, body: impl Into<Bytes>) -> Self {
        Self::Whole(code, "application/json".into(), body.into())
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self::json(failure.code, failure.status().to_string())
    }
}

/// The body of an answer.
enum Content {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(lines) => {
                lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(
                bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            ),
            Self::Stream(_) => hyper::body::SizeHint::new(),
        }
    }
}

/// Accepts connections until `stop` fires or is dropped; the port is closed when `closed` fires.
pub(crate) async fn listen(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stop: oneshot::Receiver<()>,
    closed: std::sync::mpsc::Sender<()>,
) {
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => {
                // A failed accept (too many open files, say) is that client's misfortune.
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(connection(shared.clone(), stream, shared.faults.borrow().cut));
                }
            }
        }
    }
    drop(listener);
    let _ = closed.send(());
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, cuts: u64) {
    let _ = stream.set_nodelay(true);
    let mut faults = shared.faults.subscribe();
    let service = service_fn(move |request| answer(shared.clone(), request));
    tokio::select! {
        _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
        _ = faults.wait_for(|faults| faults.cut != cuts) => {}
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Content>, Infallible> {
    let (parts, body) = request.into_parts();
    let delay = shared.faults.borrow().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let answer = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => dispatch(&shared, &Request::new(&parts, body.to_bytes())).unwrap_or_else(Answer::from),
        Err(_) => Failure::new(413, "RequestEntityTooLarge", "the body is too long or broke off").into(),
    };
    let (code, kind, content) = match answer {
        Answer::Whole(code, kind, bytes) => (code, kind, Content::Whole(Some(bytes))),
        Answer::Stream(lines) => (200, "application/json".to_owned(), Content::Stream(lines)),
    };
    let response = hyper::Response::builder().status(code).header(CONTENT_TYPE, kind).body(content);
    Ok(response.unwrap_or_else(|_| hyper::Response::new(Content::Whole(None))))
}

fn dispatch(shared: &Arc<Shared>, request: &Request) -> Result<Answer, Failure> {
    let segments: Vec<&str> = request.path.split('/').filter(|segment| !segment.is_empty()).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["version" | "healthz" | "livez" | "readyz", ..] => return discovery::open(&segments),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => ("", "", segments.as_slice()),
    };
    if version.is_empty() || rest.is_empty() {
        shared.check(request, "get", None)?;
        return discovery::answer(shared, request, &segments);
    }
    let target = Target::parse(&shared.kinds, group, version, rest).ok_or_else(Failure::no_path)?;
    let verb = verb(request, &target)?;
    shared.note(verb, &target);
    shared.check(request, verb, Some(&target))?;
    match (verb, target.part.as_deref()) {
        ("get", None | Some("status")) => read::get(shared, request, &target),
        ("list", None) => read::list(shared, request, &target),
        ("watch", None) => watch::start(shared, request, &target),
        ("create", None) => write::create(shared, request, &target),
        ("create", Some("binding")) => scheduler::bind(shared, request, &target),
        ("update", None | Some("status")) => write::update(shared, request, &target),
        ("patch", None | Some("status")) => write::patch(shared, request, &target),
        ("delete", None) => delete::one(shared, request, &target),
        ("deletecollection", None) => delete::all(shared, request, &target),
        _ => Err(Failure::method()),
    }
}

/// The API's verb, after checking that the part exists.
fn verb(request: &Request, target: &Target) -> Result<&'static str, Failure> {
    match target.part.as_deref() {
        None => {}
        Some("status") if target.resource.status => {}
        Some("binding") if target.resource.plural == "pods" => {}
        Some(_) => return Err(Failure::no_path()),
    }
    let named = target.name.is_some();
    // Only reads go across namespaces.
    let placed = !target.resource.namespaced || target.namespace.is_some();
    Ok(match request.method {
        Method::GET if request.query.is("watch") => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST if placed && (!named || target.part.is_some()) => "create",
        Method::PUT if named => "update",
        Method::PATCH if named => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE if placed => "deletecollection",
        _ => return Err(Failure::method()),
    })
}

//! Watches: what changed after a version, one JSON document a line, until somebody ends it.
//!
//! A watch is a task that follows the log by its own place in it, so no slow reader holds up another or the store; one
//! that falls behind the log's beginning is ended, and its client hears 410 when it comes back. What an object's
//! change means is decided per watch: one that leaves the selectors is DELETED here and MODIFIED elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::failure::Failure;
use super::form;
use super::http::Answer;
use super::kinds::Resource;
use super::object::Object;
use super::read::selector;
use super::request::{Form, Request, Target};
use super::selector::Selector;
use super::store::Change;

/// Changes taken from the log at a time.
const BATCH: usize = 256;
/// Lines that wait for a slow reader.
const WAITING: usize = 64;
/// How long a watch lasts that names no timeout. Real servers take 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// No watch lasts longer, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// So long before its timeout a watch gets a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

struct Watch {
    resource: &'static Resource,
    namespace: Option<String>,
    selector: Selector,
    form: Form,
    bookmarks: bool,
    at: u64,
    lines: mpsc::Sender<Bytes>,
}

/// Begins a watch.
pub(crate) fn start(shared: &Arc<Shared>, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let query = &request.query;
    if query.is("sendInitialEvents") {
        // As a server without the feature answers, so that clients fall back to list and watch.
        let why = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(Failure::new(
            422,
            "Invalid",
            format!("ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: {why}"),
        ));
    }
    let timeout = query.number("timeoutSeconds")?.map_or(DEFAULT_TIMEOUT, Duration::from_secs).min(LONGEST);
    let asked = query.number("resourceVersion")?.unwrap_or(0);
    let (lines, answer) = mpsc::channel(WAITING);
    let mut watch = Watch {
        resource: target.resource,
        namespace: target.namespace.clone(),
        selector: selector(query, target)?,
        form: request.form()?,
        bookmarks: query.is("allowWatchBookmarks"),
        at: asked,
        lines,
    };
    let shared = shared.clone();
    // Without a version a watch begins with all there is.
    let mut present = Vec::new();
    if asked == 0 {
        let store = shared.store();
        watch.at = store.version();
        present = store.all(watch.resource, watch.namespace.as_deref());
    }
    tokio::spawn(async move {
        shared.watches.send_modify(|open| *open += 1);
        watch.run(&shared, present, timeout).await;
        shared.watches.send_modify(|open| *open -= 1);
    });
    Ok(Answer::Stream(answer))
}

impl Watch {
    async fn run(mut self, shared: &Shared, present: Vec<Arc<Object>>, timeout: Duration) {
        let lines = self.lines.clone();
        tokio::select! {
            () = lines.closed() => {}
            _ = self.follow(shared, present, timeout) => {}
        }
    }

    /// Ends with `None` when the client is gone.
    async fn follow(&mut self, shared: &Shared, present: Vec<Arc<Object>>, timeout: Duration) -> Option<()> {
        let mut head = shared.head.subscribe();
        let mut faults = shared.faults.subscribe();
        let expired = faults.borrow_and_update().expired;
        let end = Instant::now() + timeout;
        let mut bookmark = Instant::now() + shared.options.bookmark_every;
        let mut last = timeout > LAST_BOOKMARK * 2;
        for object in present.iter().filter(|object| self.selector.matches(object)) {
            self.send("ADDED", &form::document(self.form, self.resource, object)).await?;
        }
        loop {
            head.borrow_and_update();
            let (changes, version, known) = {
                let store = shared.store();
                (store.since(self.at, BATCH), store.version(), store.remembers(self.at))
            };
            // Looked at after the log: what was changed under a fault is never told as if there was none.
            let now = *faults.borrow_and_update();
            if now.hang {
                std::future::pending::<()>().await;
            }
            if !known || now.expired != expired {
                return self.too_old(shared).await;
            }
            for change in &changes {
                self.tell(change).await?;
                self.at = change.version;
            }
            if !changes.is_empty() {
                continue;
            }
            // Nothing is left to tell, so all up to here was told; a future version stays where it is.
            self.at = self.at.max(version);
            let next = if last { bookmark.min(end - LAST_BOOKMARK) } else { bookmark };
            tokio::select! {
                _ = head.changed() => {}
                _ = faults.changed() => {}
                () = tokio::time::sleep_until(end) => return Some(()),
                () = tokio::time::sleep_until(next), if self.bookmarks => {
                    last &= Instant::now() < end - LAST_BOOKMARK;
                    bookmark = Instant::now() + shared.options.bookmark_every;
                    let text = form::bookmark(self.form, self.resource, self.at);
                    self.send("BOOKMARK", &text).await?;
                }
            }
        }
    }

    async fn tell(&self, change: &Change) -> Option<()> {
        if change.plural != self.resource.plural {
            return Some(());
        }
        let mine = |object: &&Arc<Object>| {
            self.namespace.as_ref().is_none_or(|namespace| *namespace == object.namespace)
                && self.selector.matches(object)
        };
        let (old, new) = (change.old.as_ref().filter(mine), change.new.as_ref().filter(mine));
        match (old, new) {
            (None, None) => Some(()),
            (None, Some(new)) => self.send("ADDED", &form::document(self.form, self.resource, new)).await,
            (Some(_), Some(new)) => {
                self.send("MODIFIED", &form::document(self.form, self.resource, new)).await
            }
            // What it was, under the version at which it went.
            (Some(old), None) => {
                let gone = Object::seal(self.resource, old.value(self.resource), change.version);
                self.send("DELETED", &form::document(self.form, self.resource, &gone)).await
            }
        }
    }

    async fn too_old(&self, shared: &Shared) -> Option<()> {
        let version = shared.store().version();
        let failure = Failure::expired(format!("too old resource version: {} ({version})", self.at));
        let status: Value = json!(failure.status());
        self.send("ERROR", status.to_string().as_bytes()).await
    }

    async fn send(&self, kind: &str, object: &[u8]) -> Option<()> {
        let mut line = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
        line.extend_from_slice(object);
        line.extend_from_slice(b"}\n");
        self.lines.send(Bytes::from(line)).await.ok()
    }
}

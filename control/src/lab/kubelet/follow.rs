//! The pods that are bound to the node, as the API server has them.
//!
//! List, watch for half a minute, list again: the pods of one node are few, and so nothing that goes wrong with a watch (a
//! connection that is dead without a word, a server that was restored) is believed for longer than that. What was known
//! stays until a list is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;

use super::{ANSWER, name_of};

/// How long a watch lasts, in seconds.
const WATCH: u32 = 30;
/// How long is waited after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// By `namespace/name`; `None` before the first list.
pub(super) type Pods = Option<Arc<BTreeMap<String, Arc<Pod>>>>;

/// Follows the pods of a node until the receiver is dropped.
pub(super) fn follow(client: Client, node: &str) -> watch::Receiver<Pods> {
    let (sender, receiver) = watch::channel(None);
    let follower = Follower { pods: Api::all(client), fields: format!("spec.nodeName={node}"), sender };
    tokio::spawn(follower.run());
    receiver
}

struct Follower {
    pods: Api<Pod>,
    fields: String,
    sender: watch::Sender<Pods>,
}

impl Follower {
    async fn run(self) {
        let mut failed = false;
        while !self.sender.is_closed() {
            match self.round().await {
                Ok(()) => failed = false,
                Err(error) => {
                    // Once is enough for a log.
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!("the API server does not tell of pods: {error:#}");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn round(&self) -> anyhow::Result<()> {
        let params = ListParams::default().fields(&self.fields);
        let list = tokio::time::timeout(ANSWER, self.pods.list(&params)).await??;
        let version = list.metadata.resource_version.unwrap_or_default();
        let mut known: BTreeMap<String, Arc<Pod>> =
            list.items.into_iter().map(|pod| (name_of(&pod), Arc::new(pod))).collect();
        self.sender.send_replace(Some(Arc::new(known.clone())));
        let params = WatchParams::default().fields(&self.fields).timeout(WATCH);
        let events = tokio::time::timeout(ANSWER, self.pods.watch(&params, &version)).await??;
        let mut events = events.boxed();
        let end = tokio::time::Instant::now() + Duration::from_secs(WATCH.into()) + ANSWER;
        // A watch that says nothing any more is over as well: everything is listed anyway.
        while let Ok(event) = tokio::time::timeout_at(end, events.try_next()).await {
            match event? {
                None | Some(WatchEvent::Error(_)) => break,
                Some(WatchEvent::Bookmark(_)) => continue,
                Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                    known.insert(name_of(&pod), Arc::new(pod));
                }
                Some(WatchEvent::Deleted(pod)) => drop(known.remove(&name_of(&pod))),
            }
            self.sender.send_replace(Some(Arc::new(known.clone())));
        }
        Ok(())
    }
}

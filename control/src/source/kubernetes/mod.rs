//! An API server as a source of objects.
//!
//! One thread of its own lists and watches each of the [`FOLLOWED`] kinds ([`follow`](mod@follow)), keeps what counts of each
//! object ([`mirror`]), and lays what has changed where the gateway takes it ([`state`]). [`client`] asks the server,
//! [`error`] says what may be wrong and what to do about it. The model and its checks are those of manifests
//! (`podgate_config::manifest::server`).
//!
//! What is guaranteed:
//! - Nothing is given to the gateway before every kind was listed once. After that, what the server said last stays in
//!   force whatever happens to it, and the status says that it is so and why.
//! - A list takes the place of what was known at once, when its last page is there.
//! - A change costs what has changed: nothing here looks at all objects but a list.
//! - Only list and watch are asked for, and if that is wanted Events of what cannot be applied ([`events`]). [`rbac`] has the
//!   rights for these and no other.
//!
//! kube's own watcher is not used: it has no way to list everything again from time to time, nor to look where the server is
//! before it watches, and takes a server that was restored for one where nothing happens.

pub mod client;
pub mod error;
pub mod events;
mod follow;
mod mirror;
pub mod rbac;
pub mod state;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use podgate_config::manifest::server::ServerKind;

pub use client::Access;
use client::Server;
pub use error::{AccessError, ApiError};
use events::Reporter;
use follow::Follower;
use state::Shared;
pub use state::{ApiState, Changed, KindState, Said, Subscription, Taken, Trouble, Troubles};

/// A kind that is followed.
#[derive(Debug)]
struct Followed {
    kind: ServerKind,
    /// Whether a server must have it. One that does not, and is not asked to, has no objects of it.
    required: bool,
}

/// All kinds that are followed.
static FOLLOWED: &[Followed] = &[
    Followed { kind: ServerKind::Namespace, required: true },
    Followed { kind: ServerKind::Node, required: true },
    Followed { kind: ServerKind::Pod, required: true },
    Followed { kind: ServerKind::NetworkPolicy, required: true },
];

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a watch lasts before the next one begins, give or take a tenth; 1 to 290 s.
    pub watch: Duration,
    /// How often everything is listed again, give or take a tenth; rarer if that takes long.
    pub relist: Duration,
    /// How long an answer may take to begin, and each next part of a list.
    pub answer: Duration,
    /// The longest pause between attempts.
    pub longest_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(45),
            relist: Duration::from_secs(900),
            answer: Duration::from_secs(15),
            longest_pause: Duration::from_secs(3),
        }
    }
}

/// Follows a server on a thread of its own until the subscription is dropped. Returns when it is known how to reach the server;
/// whether that succeeds is in the subscription's state. Events are made if there is somebody to make them.
///
/// # Errors
/// [`AccessError`] if it is not known how to reach it.
pub fn follow(access: Access, timing: Timing, events: Option<Reporter>) -> Result<Subscription, AccessError> {
    follow_kinds(FOLLOWED, access, timing, events)
}

fn follow_kinds(
    kinds: &'static [Followed],
    access: Access,
    timing: Timing,
    events: Option<Reporter>,
) -> Result<Subscription, AccessError> {
    let (begun, result) = mpsc::sync_channel(1);
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(begun.send(Err(AccessError::Thread(error)))),
        };
        runtime.block_on(async {
            let server = match Server::new(access, timing.answer).await {
                Ok(server) => Arc::new(server),
                Err(error) => return drop(begun.send(Err(error))),
            };
            let shared = Shared::new(&server.url(), kinds, events.is_some());
            let mut followers = tokio::task::JoinSet::new();
            for followed in kinds {
                followers.spawn(Follower::new(followed, server.clone(), shared.clone(), timing).run());
            }
            if let Some(reporter) = events {
                followers.spawn(events::tell(server, shared.clone(), reporter));
            }
            if begun.send(Ok(shared.subscribe())).is_err() {
                return;
            }
            tokio::select! {
                () = shared.abandoned() => {}
                // They never end by themselves: one that did would leave its kind behind without a word.
                _ = followers.join_next() => tracing::error!("following the API server has ended"),
            }
        });
    };
    thread::Builder::new().name("kubernetes".to_owned()).spawn(run).map_err(AccessError::Thread)?;
    let ended = |_| AccessError::Thread(std::io::Error::other("it ended at once"));
    result.recv().map_err(ended)?
}

/// From 0 to 1, another one each time.
fn chance() -> f64 {
    RandomState::new().hash_one(Instant::now()) as f64 / u64::MAX as f64
}

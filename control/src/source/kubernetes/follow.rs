//! Following one kind: list, watch, look again, and what to do when that fails.
//!
//! ```text
//! list all pages ──> watch from there for some 45 s ──> look which version the server is at ──> watch on
//!       ^                        │ too old, something missed          │ earlier than ours, or long not listed
//!       └────────────────────────┴────────────────────────────────────┘
//! ```
//!
//! What each part is for:
//! - **A watch has an end of ours.** A connection that is dead without a word is noticed when that has passed and nothing came.
//! - **A look before every watch.** A server that was restored from a backup answers a watch from a version that it has not
//!   reached yet with 200 and silence. It cannot be at an earlier version than one that it has told us; if it is, everything is
//!   listed anew. The kind that changed last shows it, and the others are told: what they know may be wrong below a version that
//!   the server has again.
//! - **A list from time to time**, for a restored server may have come past our version before we looked, and because a list is
//!   the truth and events are hearsay. It costs the server most, so it is the rarer the longer it takes.
//! - **Own back-off, capped at a few seconds**: a server that comes back is found soon, and by each node at another moment.
//!
//! A failure never takes anything back: until a list is complete, what was known stays ([`super::mirror`]). An error of the
//! watch is followed by a look and a watch from the last version, unless it says that this is too old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_config::manifest::server::{Page, ServerEvent};
use tokio::sync::watch;

use super::client::Server;
use super::error::{ApiError, line};
use super::mirror::{Listing, Mirror};
use super::state::Shared;
use super::{Followed, Timing, chance};

/// Objects on a page of a list.
const PAGE: u32 = 500;
/// A list whose place the server forgets before it is complete is begun anew with pages so many times as large.
const LARGER: u32 = 4;
/// Beyond that the server is asked no more: it forgets faster than it tells.
const LARGEST_PAGE: u32 = 32_000;
/// The server ends a watch by itself; if it does not, it is given at most so much longer.
const MARGIN: Duration = Duration::from_secs(5);
/// A watch that ends earlier is no watch: the next one waits as after a failure.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// How many times as long as a list took is waited until the next one, at least.
const RARE: u32 = 50;
/// How often a page is asked for again: hundreds of them shall not be in vain because one was.
const TRIES: u32 = 3;

/// What to do next.
enum Next {
    List,
    /// Look at which version the server is; ours is this.
    Look(String),
    Watch(String),
}

/// Follows one kind.
pub(super) struct Follower {
    followed: &'static Followed,
    server: Arc<Server>,
    shared: Arc<Shared>,
    timing: Timing,
    mirror: Mirror,
    backoff: Backoff,
    /// How long the last list took.
    took: Duration,
    /// When everything is to be listed again.
    relist: Instant,
    /// Whether another kind has shown that the server was restored.
    restores: watch::Receiver<u64>,
}

impl Follower {
    pub fn new(
        followed: &'static Followed,
        server: Arc<Server>,
        shared: Arc<Shared>,
        timing: Timing,
    ) -> Self {
        let mirror = Mirror::new(followed.kind);
        let backoff = Backoff::new(timing.longest_pause);
        let restores = shared.restores();
        let (took, relist) = (Duration::ZERO, Instant::now());
        Self { followed, server, shared, timing, mirror, backoff, took, relist, restores }
    }

    /// Never ends.
    pub async fn run(mut self) {
        let mut next = Next::List;
        loop {
            let (then, failed) = match next {
                Next::List => match self.list().await {
                    Ok(next) => (next, None),
                    Err(error) => (Next::List, Some(error)),
                },
                Next::Look(version) => match self.look(&version).await {
                    Ok(next) => (next, None),
                    Err(error) => (Next::Look(version), Some(error)),
                },
                Next::Watch(version) => self.watch(version).await,
            };
            next = then;
            if let Some(error) = failed {
                self.fail(error).await;
            }
        }
    }

    /// Tells of it and waits.
    async fn fail(&mut self, error: ApiError) {
        self.shared.away(self.followed, &error);
        let asked = match &error {
            ApiError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let pause = self.backoff.next().max(asked.min(self.timing.longest_pause));
        tokio::time::sleep(pause).await;
        if error.is_about_the_connection() {
            self.reconnect().await;
        }
    }

    async fn reconnect(&self) {
        if let Some(server) = self.server.reconnect().await {
            self.shared.moved(server);
        }
    }

    /// Lists everything.
    async fn list(&mut self) -> Result<Next, ApiError> {
        let begin = Instant::now();
        self.restores.mark_unchanged();
        let mut size = PAGE;
        let (listing, version) = loop {
            match self.pages(size).await {
                Err(ApiError::Gone(_)) if size < LARGEST_PAGE => size *= LARGER,
                Err(error) if self.may_be_absent(&error) => {
                    let changes = self.mirror.finish(Listing::default());
                    self.shared.listed(self.followed, changes, 0, "");
                    self.shared.current(self.followed);
                    tokio::time::sleep(self.timing.watch).await;
                    return Ok(Next::List);
                }
                other => break other?,
            }
        };
        let changes = self.mirror.finish(listing);
        self.took = begin.elapsed();
        tracing::debug!(
            kind = self.followed.kind.name(),
            objects = self.mirror.len(),
            changes = changes.len(),
            version,
            took_us = self.took.as_micros() as u64,
            "listed"
        );
        self.shared.listed(self.followed, changes, self.mirror.len(), &version);
        // Not all kinds and nodes at the same moment.
        let pause = self.timing.relist.max(self.took * RARE);
        self.relist = Instant::now() + pause.mul_f64(0.9 + 0.2 * chance());
        Ok(Next::Watch(version))
    }

    /// Whether it says no more than that the server has no such kind, and need not.
    fn may_be_absent(&self, error: &ApiError) -> bool {
        !self.followed.required && matches!(error, ApiError::Absent { .. })
    }

    async fn pages(&self, size: u32) -> Result<(Listing, String), ApiError> {
        let (mut listing, mut after) = (Listing::default(), None);
        let (mut backoff, mut tries) = (Backoff::new(self.timing.longest_pause), 1);
        loop {
            let page = match self.server.page(self.followed.kind, size, after.as_deref()).await {
                Err(error) if after.is_some() && error.may_pass() && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(backoff.next()).await;
                    if error.is_about_the_connection() {
                        self.reconnect().await;
                    }
                    continue;
                }
                page => page?,
            };
            tries = 1;
            let Page { resource_version, next, objects } = page;
            for served in objects {
                self.mirror.list(&mut listing, served);
            }
            if next.is_none() {
                return Ok((listing, resource_version));
            }
            if next == after {
                return Err(ApiError::Endless);
            }
            after = next;
        }
    }

    /// Finds out whether the server is where it must be, and whether it is time for a list.
    async fn look(&self, version: &str) -> Result<Next, ApiError> {
        if self.relist <= Instant::now() || self.restores.has_changed().unwrap_or_default() {
            return Ok(Next::List);
        }
        let now = match self.server.page(self.followed.kind, 1, None).await {
            Err(error) if self.may_be_absent(&error) => return Ok(Next::List),
            page => page?.resource_version,
        };
        if went_back(version, &now) {
            tracing::warn!(
                kind = self.followed.kind.name(),
                before = version,
                now,
                "the API server is at an earlier version than it was, as after a restore; everything is listed anew"
            );
            self.shared.restored();
            return Ok(Next::List);
        }
        Ok(Next::Watch(version.to_owned()))
    }

    /// Watches from a version on, until the watch ends.
    async fn watch(&mut self, mut version: String) -> (Next, Option<ApiError>) {
        let begin = Instant::now();
        let time = self.timing.watch.mul_f64(0.9 + 0.2 * chance());
        let ended = self.events(&mut version, time).await;
        let brief = begin.elapsed() < shortest(time);
        if !brief {
            self.backoff.reset();
        }
        match ended {
            Ok(()) if brief => {
                tokio::time::sleep(self.backoff.next()).await;
                (Next::Look(version), None)
            }
            Ok(()) => (Next::Look(version), None),
            Err(error @ (ApiError::Gone(_) | ApiError::Missed(_))) => {
                tracing::info!(kind = self.followed.kind.name(), %error, "everything is listed anew");
                // A server that goes on like this is not asked for everything without a pause.
                let least = if brief { self.took } else { Duration::ZERO };
                tokio::time::sleep(self.backoff.next().max(least)).await;
                (Next::List, None)
            }
            // Another server may be there now, to which our version means nothing; and what is not understood would be sent again.
            Err(error @ (ApiError::Status { code: 400 | 422, .. } | ApiError::Answer(_))) => {
                (Next::List, Some(error))
            }
            Err(error) => (Next::Look(version), Some(error)),
        }
    }

    async fn events(&mut self, version: &mut String, time: Duration) -> Result<(), ApiError> {
        let seconds = time.as_secs().max(1) as u32;
        let mut events = self.server.watch(self.followed.kind, version, seconds).await?;
        let begin = tokio::time::Instant::now();
        let end = begin + Duration::from_secs(seconds.into());
        let margin = self.timing.answer.min(MARGIN);
        let (mut heard, mut current) = (false, false);
        loop {
            if !current && (heard || self.backoff.failures == 0 || begin.elapsed() >= shortest(time)) {
                current = true;
                self.shared.current(self.followed);
            }
            let event = tokio::select! {
                event = events.next() => event?,
                _ = self.restores.changed() => {
                    return Err(ApiError::Gone("another kind shows that the server was restored".to_owned()));
                }
                // After a failure an answer alone does not show that things go well again.
                () = tokio::time::sleep_until(begin + shortest(time)), if !current => continue,
                () = tokio::time::sleep_until(end + margin) => {
                    return if heard { Ok(()) } else { Err(ApiError::Silent(self.timing.watch + margin)) };
                }
            };
            let change = match event {
                None => return Ok(()),
                Some(ServerEvent::Bookmark(at)) => {
                    *version = at;
                    None
                }
                Some(ServerEvent::Applied(served)) => {
                    version.clone_from(&served.resource_version);
                    self.mirror.apply(served)
                }
                Some(ServerEvent::Deleted(served)) => {
                    let change = self.mirror.delete(&served);
                    let change = change.map_err(|key| ApiError::Missed(key.to_string()))?;
                    *version = served.resource_version;
                    change
                }
                Some(ServerEvent::Failed { code: 410, message }) => {
                    return Err(ApiError::Gone(line(&message)));
                }
                Some(ServerEvent::Failed { code, message }) => {
                    return Err(ApiError::Status { code, message: line(&message), retry_after: None });
                }
            };
            heard = true;
            let news = change.is_some();
            self.shared.told(self.followed, change, self.mirror.len(), version);
            if news {
                let took_us = events.since_line().as_micros() as u64;
                tracing::debug!(kind = self.followed.kind.name(), version, took_us, "told");
            }
        }
    }
}

/// A watch of so much time that ends earlier than this is no watch.
fn shortest(time: Duration) -> Duration {
    SHORTEST_WATCH.min(time / 2)
}

/// Whether a server that was at `before` cannot be at `now`. Versions of other servers than etcd's may be no numbers; then
/// nobody can tell.
fn went_back(before: &str, now: &str) -> bool {
    match (before.parse::<u64>(), now.parse::<u64>()) {
        (Ok(before), Ok(now)) => now < before,
        _ => false,
    }
}

/// How long to wait after a failure: twice as long after each, with chance, up to a bound.
struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);

    fn new(longest: Duration) -> Self {
        Self { failures: 0, longest }
    }

    fn next(&mut self) -> Duration {
        let pause = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures += 1;
        pause.mul_f64(0.5 + 0.5 * chance())
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_anew() {
        let longest = Duration::from_secs(3);
        let mut backoff = Backoff::new(longest);
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= Backoff::FIRST / 2 && pauses[0] <= Backoff::FIRST, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
        assert!(pauses[30..].iter().all(|pause| *pause >= longest / 2), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next() <= Backoff::FIRST);
    }

    #[test]
    fn versions_that_are_numbers_do_not_go_back() {
        assert!(went_back("100", "99") && went_back("100", "9"));
        assert!(!went_back("100", "100") && !went_back("99", "100") && !went_back("a", "9"));
    }
}

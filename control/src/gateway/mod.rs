//! The gateway's control loop: from sources, ports and the kernel to what the workers judge by.
//!
//! One task owns everything that changes: the ports, the store's last word, the kernel's tables, the engine. Whatever
//! happens (a manifest was saved, a port was asked for, a link went away) is noted first and acted upon a few
//! milliseconds later, so that a burst costs one compilation; objects that go on changing, every 20 ms. Then:
//!
//! ```text
//! sources' objects + ports --resolve--> changes --compile--> tables --build--> snapshot --publish--> workers
//! ```
//!
//! A step that fails leaves the last good snapshot in force and is told in the log, the status and the metrics; nothing
//! is ever half applied. A kernel event that changes nothing that packets depend on publishes nothing.
//!
//! [`resolve`](mod@resolve) says whose an address is, [`identity`] tells a pod from its successor, [`kernel`] follows what
//! the node's kernel knows, [`neighbours`] whom it is asked to find, [`ports`] what is wanted and open, [`survey`] what has
//! changed about it, [`routes`] what leads where, [`publish`] compiles and publishes, [`generations`] knows which are in use,
//! [`pace`] when to act. [`review`] says what does not fit together, [`limits`] who comes close to one, [`standing`] how each
//! policy is, [`notes`] what its owners are told, [`flows`] what became of a connection, and [`handle`] is how others ask.

pub mod devices;
pub mod drops;
pub mod flows;
pub mod generations;
pub mod handle;
pub mod identity;
pub mod kernel;
mod limits;
mod neighbours;
mod notes;
pub mod options;
pub mod pace;
pub mod ports;
pub mod publish;
pub mod report;
pub mod resolve;
mod review;
mod routes;
pub mod snapshot;
mod standing;
mod survey;
mod wiring;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_config::model::ObjectName;
use podgate_dataplane::clock::{Clock, MonotonicClock};
use podgate_dataplane::engine::{Engine, EngineError};
use podgate_dataplane::record::DropRecord;
use podgate_dataplane::worker::Unresolved;
use tokio::sync::{mpsc, oneshot, watch};

use crate::explain::Asked;
use crate::netlink::{Event, NeighbourKind, Netlink, Watch};
use crate::ports::file::PortFile;
use crate::ports::wires::HOST_KERNEL;
use crate::source::SourceState;
use crate::source::kubernetes::Subscription;
use crate::status::PortStatus;
use crate::telemetry::metrics::Metrics;

use devices::Devices;
pub use handle::GatewayHandle;
use handle::{Ask, DropFeed, InForce};
use kernel::KernelView;
use neighbours::Neighbours;
use options::Options;
use pace::Pace;
use ports::PortTable;
use publish::{PublishError, Publisher};
use review::Review;
use snapshot::Inputs;
pub use wiring::StartError;

/// How long after a refused publication the next attempt is.
const AGAIN: Duration = Duration::from_millis(50);

/// How often retired snapshots and drop records are collected.
const TICK: Duration = Duration::from_millis(100);

/// How often workers are looked at until what was published is in force, and for how long so often.
const POLL_IN_FORCE: Duration = Duration::from_millis(1);
const PATIENCE_IN_FORCE: Duration = Duration::from_secs(1);

/// How often ports that could not be opened are tried again, and neighbours forgotten that were not found.
const RETRY: Duration = Duration::from_secs(5);

/// Drop records taken from each worker at once.
const DROPS_AT_ONCE: usize = 1024;

/// Waits for news of the API server, for ever if there is none. Says whether more may come.
async fn api_news(api: &mut Option<Subscription>) -> bool {
    match api {
        Some(api) => api.changed().await,
        None => std::future::pending().await,
    }
}

/// Somebody who waits until a generation is in force.
struct Waiting {
    interface: String,
    /// Unknown until it is published.
    generation: Option<u64>,
    reply: oneshot::Sender<Result<PortStatus, String>>,
}

/// The control loop.
pub struct Gateway {
    options: Options,
    netlink: Netlink,
    events: Watch,
    kernel: KernelView,
    source: watch::Receiver<SourceState>,
    api: Option<Subscription>,
    /// Everything that the API server has was taken over once; so it is from the start if there is none.
    api_synced: bool,
    devices: Devices,
    engine: Engine,
    ports: PortTable,
    port_file: PortFile,
    publisher: Publisher,
    review: Review,
    /// Pods whose ports are closed, and why, as published last.
    closed: BTreeMap<ObjectName, String>,
    metrics: Metrics,
    asks: mpsc::Receiver<Ask>,
    in_force: watch::Sender<InForce>,
    drops: Arc<DropFeed>,
    lost_drops: u64,
    waiting: Vec<Waiting>,
    /// Workers that have ended by themselves, as told in the log.
    told_dead: usize,
    /// The kernel's tables are not known, and must be listed.
    unlisted: bool,
    /// When what was noted is acted upon.
    pace: Pace,
    next_tick: Instant,
    next_retry: Instant,
    next_survey: Instant,
    /// Ports whose ends have been looked at, counted on.
    surveyed: usize,
    /// When something was published last.
    published: Instant,
    /// The sources' objects changed, or the ports' identities.
    recompile: bool,
    source_lives: bool,
    api_lives: bool,
    neighbours: Neighbours,
    /// Pod addresses that the kernel knows the way to, and whether they can be reached.
    steered: BTreeMap<IpAddr, bool>,
    started: Instant,
}

impl Gateway {
    /// Runs until `stop` is ready, then stops the workers and leaves the devices as the settings say.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let wake = self.next_wake();
            if wake <= Instant::now() {
                self.wake().await;
                continue;
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                event = self.events.next() => self.kernel_event(event).await,
                Some(ask) = self.asks.recv() => self.answer(ask).await,
                changed = self.source.changed(), if self.source_lives => {
                    self.source_lives = changed.is_ok();
                    self.review.wanted = true;
                    self.recompile = true;
                    self.pace.note_objects(Instant::now());
                }
                lives = api_news(&mut self.api), if self.api_lives => {
                    self.api_lives = lives;
                    self.review.wanted = true;
                    self.recompile = true;
                    self.pace.note_objects(Instant::now());
                }
                Some(found) = self.review.found.recv() => self.reviewed(found),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        self.stop().await;
    }

    fn next_wake(&self) -> Instant {
        self.pace.due().map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// Something changed: act upon it soon.
    fn note(&mut self, recompile: bool) {
        self.recompile |= recompile;
        self.pace.note(Instant::now());
    }

    async fn wake(&mut self) {
        if self.pace.take(Instant::now()) {
            self.publish().await;
        }
        if self.next_retry <= Instant::now() {
            self.next_retry = Instant::now() + RETRY;
            if self.unlisted {
                self.relist().await;
            }
            self.open_missing().await;
            self.steer().await;
            self.forget_neighbours().await;
        }
        if self.next_survey <= Instant::now() {
            self.survey().await;
            self.next_survey = Instant::now() + survey::INTERVAL;
        }
        self.begin_review();
        self.collect();
        let in_force = self.engine.generation_in_force();
        self.answer_waiting(in_force);
        self.read_drops().await;
        // Somebody may be waiting for it; but a worker that is stuck must not keep this loop busy.
        let soon =
            in_force < self.engine.generation_published() && self.published.elapsed() < PATIENCE_IN_FORCE;
        self.next_tick = Instant::now() + if soon { POLL_IN_FORCE } else { TICK };
    }

    /// Compiles if need be, and publishes if that makes a difference.
    async fn publish(&mut self) {
        let begin = Instant::now();
        let state = self.newest_of_sources();
        let pods = self.ports.pods();
        if std::mem::take(&mut self.recompile) {
            let api = self.api.as_mut().map(Subscription::take).unwrap_or_default();
            // Never before the objects that make it true are taken.
            self.api_synced |= api.synced;
            let synced = state.synced && self.api_synced;
            let (options, metrics, kernel) = (&self.options, &self.metrics, &self.kernel);
            let publisher = &mut self.publisher;
            // Compiling everything may take a tenth of a second: the other tasks of this thread go elsewhere meanwhile.
            let compiled = tokio::task::block_in_place(|| {
                let changed = publisher.take(&state, api);
                let node = routes::node_addresses(kernel, options, publisher.store()).into_iter().collect();
                publisher.compile(changed, synced, &pods, options, node, metrics)
            });
            if let Err(error) = compiled {
                tracing::error!(%error, "the last good policies stay in force");
            }
        }
        let synced = state.synced && self.api_synced;
        let closed = self.publisher.closed(&pods);
        let (ports, pods) = self.ports.entries(&closed, |pod| self.publisher.identity(pod));
        let (routes, neighbours) = routes::direct(&self.kernel, &self.options, &self.ports);
        let node = routes::node_addresses(&self.kernel, &self.options, self.publisher.store());
        let inputs = Inputs { synced, ports, pods, node, routes, neighbours };
        match tokio::task::block_in_place(|| self.publisher.publish(&mut self.engine, inputs)) {
            Ok(true) => {
                self.published = Instant::now();
                self.pace.published(self.published);
                tracing::debug!(
                    generation = self.engine.generation_published(),
                    took_us = begin.elapsed().as_micros() as u64,
                    compiled_us = self.publisher.took.as_micros() as u64,
                    "published"
                );
                self.next_tick = self.next_tick.min(self.published + POLL_IN_FORCE);
                let open = || InForce::Open(self.publisher.world().clone());
                self.in_force.send_replace(if synced { open() } else { InForce::Closed });
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the last good snapshot stays in force");
                self.in_force.send_replace(InForce::Refused(error.to_string()));
                if matches!(error, PublishError::Engine(EngineError::Stuck { .. })) {
                    // The worker lets go sooner or later; then this must not wait for the next change.
                    self.pace.again(Instant::now() + AGAIN);
                }
            }
        }
        self.closed = closed;
        self.tell_events();
        self.steer().await;
        let generation = self.engine.generation_published();
        for waiting in &mut self.waiting {
            waiting.generation.get_or_insert(generation);
        }
    }

    /// What the files say now. It counts whatever this was asked for, as does what the API server says: nobody tells of it
    /// again.
    fn newest_of_sources(&mut self) -> SourceState {
        let state = self.source.borrow_and_update();
        if state.has_changed() || self.api.as_ref().is_some_and(Subscription::has_news) {
            self.recompile = true;
            self.review.wanted = true;
        }
        state.clone()
    }

    /// Takes back what no worker uses any more.
    fn collect(&mut self) {
        for snapshot in self.engine.collect() {
            self.publisher.reclaim(snapshot.generation);
        }
        if self.publisher.tidy() {
            self.next_tick = self.next_tick.min(Instant::now() + POLL_IN_FORCE);
        }
    }

    fn answer_waiting(&mut self, in_force: u64) {
        let dead = self.engine.dead_workers();
        if dead.len() > self.told_dead {
            let workers: Vec<u8> = dead.iter().map(|worker| worker.0).collect();
            tracing::error!(
                ?workers,
                "workers have ended by themselves, their ports drop; start podgate again"
            );
            self.told_dead = dead.len();
        }
        if !dead.is_empty() {
            // Nothing comes into force any more, for they never say so.
            for waiting in self.waiting.drain(..) {
                let _ =
                    waiting.reply.send(Err("a worker has ended by itself; start podgate again".to_owned()));
            }
        }
        let ready = |waiting: &Waiting| waiting.generation.is_some_and(|generation| generation <= in_force);
        for waiting in self.waiting.extract_if(.., |waiting| ready(waiting)) {
            let answer = match self.ports.get(&waiting.interface) {
                Some(wanted) => Ok(ports::status_of(&waiting.interface, wanted, &self.closed)),
                None => Err(format!("the port {} was removed meanwhile", waiting.interface)),
            };
            // Whoever asked may be gone; the port is there all the same.
            let _ = waiting.reply.send(answer);
        }
    }

    /// Turns drop records into lines, and has the kernel find the neighbours that were missing.
    async fn read_drops(&mut self) {
        let mut records: Vec<DropRecord> = Vec::new();
        self.engine.take_drops(DROPS_AT_ONCE, |record| records.push(record));
        for unresolved in self.engine.take_unresolved() {
            self.resolve_neighbour(unresolved).await;
        }
        if records.is_empty() {
            return;
        }
        let lost = self.engine.drops_lost();
        let new_lost = lost.saturating_sub(self.lost_drops);
        self.lost_drops = lost;
        let interfaces: BTreeMap<u16, String> =
            self.ports.open().map(|(interface, _, open)| (open.id, interface.clone())).collect();
        let now = MonotonicClock::new().now();
        for (place, record) in records.iter().enumerate() {
            let lost = if place == 0 { new_lost } else { 0 };
            self.drops.push(drops::line(record, now, &interfaces, &self.publisher, lost));
        }
    }

    /// Asks the kernel to find out who has an address of a direct network.
    async fn resolve_neighbour(&mut self, Unresolved { port, neighbour, asker }: Unresolved) {
        let Some(index) =
            self.ports.open().find(|(_, _, open)| open.id == port.0).map(|(_, _, open)| open.index)
        else {
            return;
        };
        if !self.neighbours.want((index, neighbour), asker, Instant::now()) {
            return;
        }
        if let Err(error) = self.netlink.set_neighbour(index, neighbour, NeighbourKind::Managed).await {
            tracing::warn!(%neighbour, %error, "the kernel cannot be asked for this neighbour");
        }
    }

    /// Lets go of neighbours that the kernel has found, or has not found in time.
    async fn forget_neighbours(&mut self) {
        let is_known = |(index, address): &(u32, IpAddr)| self.kernel.knows(*index, *address);
        for (index, address) in self.neighbours.sweep(Instant::now(), is_known) {
            if let Err(error) = self.netlink.delete_neighbour(index, address).await {
                tracing::warn!(%address, %error, "the kernel cannot be told to forget this neighbour");
            }
        }
    }

    async fn kernel_event(&mut self, event: Option<Event>) {
        let applied = match event {
            Some(event) => self.kernel.apply(event),
            None => {
                // The subscription ended; without it a dead port would go unnoticed.
                tracing::error!("the kernel's reports have ended; listening again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                match Watch::subscribe() {
                    Ok(events) => self.events = events,
                    Err(error) => tracing::error!(%error, "cannot listen to the kernel"),
                }
                kernel::Applied { relist: true, ..kernel::Applied::default() }
            }
        };
        if applied.relist {
            self.relist().await;
            return;
        }
        if let Some(index) = applied.gone {
            self.device_gone(index);
            self.mend_host_pair().await;
        }
        if applied.appeared.as_deref() == Some(HOST_KERNEL) {
            // Routes went with the one before.
            self.steered.clear();
            self.note(true);
        }
        if let Some(name) = applied.appeared
            && self.ports.get(&name).is_some_and(|wanted| wanted.state.is_err())
        {
            self.open(&name).await;
            self.note(true);
        }
        if applied.changed {
            // Whose a node address is is part of what is compiled; the publisher notices if it is the same.
            self.note(applied.addresses);
        }
    }

    /// Lists the kernel's tables anew and finds the ports whose devices went unnoticed.
    async fn relist(&mut self) {
        match KernelView::list(&self.netlink).await {
            Ok(view) => self.kernel = view,
            Err(error) => {
                tracing::error!(%error, "the kernel's tables cannot be listed; it is tried again");
                self.unlisted = true;
                return;
            }
        }
        self.unlisted = false;
        let open: Vec<(String, u32)> =
            self.ports.open().map(|(interface, _, open)| (interface.clone(), open.index)).collect();
        for (interface, index) in open {
            if self.kernel.link(&interface).is_none_or(|link| link.index != index) {
                self.device_gone(index);
            }
        }
        self.open_missing().await;
        self.note(true);
    }

    /// Tries the ports again that are not open although their interfaces are there.
    async fn open_missing(&mut self) {
        let down = self.ports.iter().filter(|(_, wanted)| wanted.state.is_err());
        let down: Vec<String> = down
            .map(|(interface, _)| interface.clone())
            .filter(|interface| self.kernel.link(interface).is_some())
            .collect();
        for interface in down {
            self.open(&interface).await;
            if self.ports.get(&interface).is_some_and(|wanted| wanted.state.is_ok()) {
                self.note(true);
            }
        }
    }

    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Ask::Policies(reply) => {
                // Everything is looked at: the other tasks of this thread go elsewhere meanwhile.
                let _ = reply.send(tokio::task::block_in_place(|| self.policies()));
            }
            Ask::Metrics(reply) => {
                let _ = reply.send(self.exposition());
            }
            Ask::Flows(tuples, reply) => {
                // Each worker looks between two turns.
                let found = tokio::task::block_in_place(|| {
                    tuples.iter().flat_map(|tuple| self.engine.find_flows(tuple)).collect::<Vec<_>>()
                });
                let (now, publisher) = (MonotonicClock::new().now(), &self.publisher);
                let told = publisher.world().with(|world| {
                    let name = |identity| publisher.pod(identity);
                    found.iter().map(|flow| flows::tell(flow, now, world.live(), &name)).collect()
                });
                let _ = reply.send(told);
            }
            Ask::PortAdd(spec, reply) => {
                let purpose = match ports::parse(&spec, false) {
                    Ok(purpose) => purpose,
                    Err(error) => return drop(reply.send(Err(error.to_string()))),
                };
                match self.ports.want(&spec.interface, purpose) {
                    Ok(_) => {}
                    Err(error) => return drop(reply.send(Err(error.to_string()))),
                }
                self.save_ports();
                self.open(&spec.interface).await;
                self.note(true);
                self.waiting.push(Waiting { interface: spec.interface, generation: None, reply });
            }
            Ask::PortRemove(interface, reply) => {
                let answer = match self.ports.get(&interface).map(|wanted| &wanted.purpose) {
                    None => {
                        Err(format!("no port has the interface {interface}; `podgate port list` shows all"))
                    }
                    Some(ports::Purpose::Pod { configured: false, .. }) => {
                        self.close_port(&interface).await;
                        self.save_ports();
                        self.note(true);
                        Ok(())
                    }
                    Some(_) => {
                        Err(format!("the port {interface} is named by the settings; change them instead"))
                    }
                };
                let _ = reply.send(answer);
            }
        }
    }

    fn save_ports(&mut self) {
        if let Err(error) = self.port_file.save(&self.ports.to_keep()) {
            tracing::error!(%error, "ports are not kept over a restart");
        }
    }
}

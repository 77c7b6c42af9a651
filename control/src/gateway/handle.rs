//! What the admin socket and the HTTP endpoints may ask of the gateway's loop.
//!
//! The loop owns ports, store and engine alone, so that no lock orders them; everybody else sends it an [`Ask`] with a
//! place for the answer. Questions about policy do not go there: they are asked of what was compiled last under a lock, one at
//! a time, so that a long list of probes keeps nobody waiting; not at all while the workers do not have that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use podgate_dataplane::flow::Tuple;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::admin::protocol::{DropLine, PortSpec, ProbeAnswers, Request};
use crate::explain::{Asked, FlowAnswer, FlowExplanation, FlowQuery, IpProtocol, World, matrix, probes};
use crate::status::{PoliciesStatus, PortStatus, Status};

/// Drop lines kept for those who ask what was dropped lately.
const RECENT_DROPS: usize = 256;

/// Drop lines a slow follower may lag behind before it loses some.
const DROPS_AHEAD: usize = 4096;

/// A question to the gateway's loop.
#[derive(Debug)]
pub enum Ask {
    /// How are you?
    Status(oneshot::Sender<Status>),
    /// How is each policy?
    Policies(oneshot::Sender<PoliciesStatus>),
    /// The exposition of all metrics.
    Metrics(oneshot::Sender<String>),
    /// The connections between these ends that are there or were of late.
    Flows(Vec<Tuple>, oneshot::Sender<Vec<FlowAnswer>>),
    /// Attach a pod's interface; answered when its table is in force.
    PortAdd(PortSpec, oneshot::Sender<Result<PortStatus, String>>),
    /// Detach it.
    PortRemove(String, oneshot::Sender<Result<(), String>>),
}

/// What is in force, for questions about policy.
#[derive(Clone)]
pub enum InForce {
    /// Nothing is published yet, or the sources have not synced.
    Closed,
    /// What was compiled last is not in force, and why; what was before is.
    Refused(String),
    /// It may be asked.
    Open(Arc<RwLock<World>>),
}

/// Drops of late and to come.
pub struct DropFeed {
    recent: Mutex<VecDeque<DropLine>>,
    sender: broadcast::Sender<DropLine>,
}

impl Default for DropFeed {
    fn default() -> Self {
        Self { recent: Mutex::new(VecDeque::new()), sender: broadcast::channel(DROPS_AHEAD).0 }
    }
}

impl DropFeed {
    /// One more drop.
    pub fn push(&self, line: DropLine) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_DROPS {
            recent.pop_front();
        }
        recent.push_back(line.clone());
        // Sent under the lock, so that a follower gets each line once: either as recent or as coming. That nobody
        // follows is no failure.
        let _ = self.sender.send(line);
    }

    fn subscribe(&self) -> (Vec<DropLine>, broadcast::Receiver<DropLine>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.sender.subscribe())
    }
}

/// A way to ask. Cheap to clone.
#[derive(Clone)]
pub struct GatewayHandle {
    asks: mpsc::Sender<Ask>,
    in_force: watch::Receiver<InForce>,
    drops: Arc<DropFeed>,
}

impl GatewayHandle {
    /// A handle on a loop that receives from the other end of `asks`.
    #[must_use]
    pub fn new(asks: mpsc::Sender<Ask>, in_force: watch::Receiver<InForce>, drops: Arc<DropFeed>) -> Self {
        Self { asks, in_force, drops }
    }

    /// `None` if the loop has ended.
    pub async fn status(&self) -> Option<Status> {
        self.ask(Ask::Status).await
    }

    /// The exposition of all metrics; `None` if the loop has ended.
    pub async fn metrics(&self) -> Option<String> {
        self.ask(Ask::Metrics).await
    }

    /// Drops of late, and those to come.
    #[must_use]
    pub fn drops(&self) -> (Vec<DropLine>, broadcast::Receiver<DropLine>) {
        self.drops.subscribe()
    }

    /// Answers a request of the admin protocol, or says why not.
    ///
    /// # Errors
    /// One line for the person who asked.
    pub async fn answer(&self, request: Request) -> Result<Value, String> {
        match request {
            Request::Status => json(self.status().await.ok_or_else(stopping)?),
            Request::StatusPolicies => json(self.ask(Ask::Policies).await.ok_or_else(stopping)?),
            Request::PortList => json(self.status().await.ok_or_else(stopping)?.ports),
            Request::PortAdd(spec) => {
                json(self.ask(|reply| Ask::PortAdd(spec, reply)).await.ok_or_else(stopping)??)
            }
            Request::PortRemove { interface } => {
                json(self.ask(|reply| Ask::PortRemove(interface, reply)).await.ok_or_else(stopping)??)
            }
            Request::Explain(query) => {
                let world = self.in_force()?;
                json(world.with(|world| world.explain(&query)).map_err(|error| error.to_string())?)
            }
            Request::ExplainFlow(query) => json(self.explain_flow(&query).await?),
            Request::Matrix { protocol, port } => {
                let world = self.in_force()?;
                blocking(move || reachability(&world, protocol, port)).await?
            }
            Request::Probes { lines } => {
                let world = self.in_force()?;
                blocking(move || {
                    let mut bytes = Vec::new();
                    let failed = probes(&*world, lines.as_bytes(), &mut bytes)
                        .map_err(|error| format!("reading the probes: {error}"))?;
                    let lines = String::from_utf8(bytes).map_err(|error| error.to_string())?;
                    json(ProbeAnswers { lines, failed })
                })
                .await?
            }
            Request::Drops { .. } => Err("drops are a stream of their own".to_owned()),
        }
    }

    async fn explain_flow(&self, query: &FlowQuery) -> Result<FlowExplanation, String> {
        let world = self.in_force()?;
        let tuples = world.with(|world| query.tuples(world)).map_err(|error| error.to_string())?;
        let mut flows = self.ask(|reply| Ask::Flows(tuples, reply)).await.ok_or_else(stopping)?;
        // What is in force by now.
        self.in_force()?.with(|world| {
            flows.iter_mut().for_each(|flow| flow.compare(world));
            let now = world.explain(&query.query).map_err(|error| error.to_string())?;
            Ok(FlowExplanation { source_port: query.source_port, flows, now })
        })
    }

    fn in_force(&self) -> Result<Arc<RwLock<World>>, String> {
        match &*self.in_force.borrow() {
            InForce::Open(world) => Ok(world.clone()),
            InForce::Refused(error) => Err(format!(
                "the newest policies are compiled but not in force, so nothing can be said of those that are: {error}; \
                                    it is tried again all the time"
            )),
            InForce::Closed => {
                Err("the gateway is closed until its sources were once without error: pods take only \
                                    what comes from their own node; `podgate status` says what is wrong"
                    .to_owned())
            }
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(make(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn reachability(world: &RwLock<World>, protocol: IpProtocol, port: Option<u16>) -> Result<Value, String> {
    json(matrix(world, protocol, port, &[]).map_err(|error| error.to_string())?)
}

/// Long questions must not keep a thread of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("answering failed: {error}"))
}

fn json(value: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| format!("the answer cannot be written: {error}"))
}

fn stopping() -> String {
    "the gateway is stopping".to_owned()
}

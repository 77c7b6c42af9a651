//! The control side's handle on all workers.
//!
//! An [`Engine`] starts one pinned thread a core, publishes snapshots to them, moves ports in and out while they run, and
//! reads what they count. It owns no device and opens no socket: ports come ready made, and go back to whoever closes them,
//! because both take milliseconds.
//!
//! What is guaranteed:
//! - A snapshot whose parts do not fit, or that comes while too many old ones are still pinned, is refused, and the one
//!   before stays in force, whole.
//! - [`Engine::generation_in_force`] is the newest generation that every packet sent from now on obeys: all workers have
//!   finished a turn under it, and after that each has emptied the rings that may have held packets judged before.
//! - Old snapshots are freed by [`Engine::collect`], here, never on a worker.
//! - A worker that ended by itself is reported ([`Engine::dead_workers`]); its ports drop from then on.
//!
//! Not thread-safe: one control thread has it.

mod in_force;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use af_xdp::{FrameLedger, FramePool, Region, Statistics};
use core_affinity::CoreId;
use crossbeam::queue::ArrayQueue;
use nix::sched::CpuSet;
use podgate_rcu::{Publisher, ReaderHandle};

use crate::clock::MonotonicClock;
use crate::flow::Tuple;
use crate::packet::{PortId, PortKind, WorkerId};
use crate::port::Port;
use crate::record::DropRecord;
use crate::snapshot::{Inconsistent, Snapshot};
use crate::worker::wake::Waker;
use crate::worker::{
    Activity, Commons, FoundFlow, Unresolved, Worker, WorkerEnds, WorkerSettings, WorkerView, commons,
    workers,
};

use in_force::InForce;

/// What a worker does when nothing is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idle {
    /// It sleeps in poll after some empty turns. Costs some microseconds for the packet that wakes it.
    #[default]
    Sleep,
    /// It goes on looking, and has its core for itself.
    Spin,
}

/// How to start.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The cores to pin to, one worker each; their order is that of the workers' numbers. At most 255.
    pub cores: Vec<usize>,
    /// What idle workers do.
    pub idle: Idle,
    /// What all workers have in common.
    pub worker: WorkerSettings,
    /// Replaced snapshots that may wait for a worker to let go of them, at least 1.
    pub retired: usize,
}

/// Why the engine did not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No core, or more than there can be workers.
    #[error("{0} cores for workers: expected 1 to 255")]
    Cores(usize),
    /// A worker could not be pinned.
    #[error(
        "can't pin worker {worker} to core {core}: expected one of the cores that this process may use: {usable:?}"
    )]
    Pin {
        /// The worker.
        worker: usize,
        /// The core.
        core: usize,
        /// The cores in this process's affinity mask.
        usable: Vec<usize>,
    },
    /// The region has too few frames.
    #[error("the region has {have} free frames, {workers} workers with {each} each need {}: raise the setting `frames`",
            workers * each)]
    Frames {
        /// Free frames.
        have: usize,
        /// Workers.
        workers: usize,
        /// Frames for each.
        each: usize,
    },
    /// A thread or an eventfd could not be made.
    #[error("starting worker {worker}: {source}")]
    Start {
        /// The worker.
        worker: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The snapshot's parts do not fit together.
    #[error("snapshot refused: {0}")]
    Inconsistent(#[from] Inconsistent),
    /// The snapshot is not newer than the one before.
    #[error("snapshot refused: generation {offered} after {published}")]
    NotNewer {
        /// Its generation.
        offered: u64,
        /// The one published last.
        published: u64,
    },
    /// A worker holds on to old snapshots.
    #[error("snapshot refused: {waiting} old ones wait for a worker that does not let go of them")]
    Stuck {
        /// How many.
        waiting: usize,
    },
    /// A worker is dead or takes no messages.
    #[error("worker {} has ended, or has not answered in time; if it has ended, start podgate again", .0.0)]
    WorkerGone(WorkerId),
}

enum Command {
    Attach(PortId, PortKind, Box<dyn Port>),
    Detach(PortId, mpsc::Sender<Option<Box<dyn Port>>>),
    Statistics(mpsc::Sender<Vec<(PortId, Statistics)>>),
    FindFlows(Tuple, mpsc::Sender<Vec<FoundFlow>>),
    Stop,
}

/// What a thread leaves: its worker, whole. It is taken apart when all threads have ended, for until then another worker may
/// still put packets into the rings that lead here.
type Stopped = Worker<MonotonicClock>;

/// What a stopped worker leaves: its ports, to be closed, and its frames.
type Remains = (Vec<Box<dyn Port>>, FramePool);

struct Running {
    mailbox: Arc<ArrayQueue<Command>>,
    ends: WorkerEnds,
    core: usize,
    thread: Option<JoinHandle<Stopped>>,
}

/// All workers.
pub struct Engine {
    publisher: Publisher<Snapshot>,
    published: Arc<AtomicU64>,
    in_force: InForce,
    running: Vec<Running>,
    commons: Commons,
}

/// Messages that may wait for a worker.
const MAILBOX: usize = 256;
/// How long an answer from a worker may take; a turn takes microseconds.
const ANSWER: Duration = Duration::from_secs(2);
/// Empty turns before a worker sleeps.
const PATIENCE: u32 = 64;
/// Longest sleep: aging goes on.
const NAP_MILLISECONDS: u16 = 100;

impl Engine {
    /// Starts one pinned worker for each core, with `first` in force. Takes [`WorkerSettings::frames`] frames for each.
    ///
    /// # Errors
    /// [`EngineError`]; nothing runs then, and the frames are back in the ledger.
    pub fn start(
        config: &EngineConfig,
        region: &Region,
        ledger: &mut FrameLedger,
        first: Snapshot,
    ) -> Result<Self, EngineError> {
        let count = config.cores.len();
        if !(1..=255).contains(&count) {
            return Err(EngineError::Cores(count));
        }
        first.check(count)?;
        let each = config.worker.frames;
        if ledger.free() < count * each {
            return Err(EngineError::Frames { have: ledger.free(), workers: count, each });
        }
        let pools: Vec<FramePool> = config.cores.iter().map(|_| ledger.pool(each)).collect();
        let commons = commons(region);
        let clock = MonotonicClock::new();
        let (made, ends) = workers(region, pools, &commons, &config.worker, &clock)
            .map_err(|source| EngineError::Start { worker: 0, source })?;
        let generation = first.generation;
        let mut engine = Self {
            publisher: Publisher::with_bound(first, config.retired),
            published: Arc::new(AtomicU64::new(generation)),
            in_force: InForce::new(generation),
            running: Vec::with_capacity(count),
            commons,
        };
        let mut made = made.into_iter().zip(ends).enumerate();
        while let Some((number, (worker, ends))) = made.next() {
            let core = config.cores.get(number).copied().unwrap_or_default();
            let mailbox = Arc::new(ArrayQueue::new(MAILBOX));
            let (pinned, was_pinned) = mpsc::channel();
            let work = Work {
                worker,
                mailbox: mailbox.clone(),
                snapshots: engine.publisher.reader_handle(),
                published: engine.published.clone(),
                view: ends.view.clone(),
                idle: config.idle,
            };
            let thread = thread::Builder::new().name(format!("podgate-{number}")).spawn(move || {
                let done = pin(core);
                let _ = pinned.send(done);
                if done { work.run() } else { work.worker }
            });
            let failed = match thread {
                Ok(thread) => {
                    let thread = Some(thread);
                    engine.running.push(Running { mailbox, ends, core, thread });
                    let done = was_pinned.recv().unwrap_or(false);
                    let usable = || {
                        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect()
                    };
                    (!done).then(|| EngineError::Pin { worker: number, core, usable: usable() })
                }
                Err(source) => Some(EngineError::Start { worker: number, source }),
            };
            if let Some(error) = failed {
                engine.stop_into(ledger);
                for (_, (worker, _)) in made {
                    ledger.give_back_pool(worker.into_parts().1);
                }
                return Err(error);
            }
        }
        Ok(engine)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.running.len()
    }

    /// The core of each worker.
    pub fn cores(&self) -> Vec<usize> {
        self.running.iter().map(|running| running.core).collect()
    }

    /// Puts a snapshot in force: workers see it with their next turn.
    ///
    /// # Errors
    /// [`EngineError::Inconsistent`], [`EngineError::NotNewer`], [`EngineError::Stuck`]. The one before stays in force.
    pub fn publish(&mut self, snapshot: Snapshot) -> Result<(), EngineError> {
        snapshot.check(self.workers())?;
        let (offered, published) = (snapshot.generation, self.generation_published());
        if offered <= published {
            return Err(EngineError::NotNewer { offered, published });
        }
        self.publisher
            .publish(snapshot)
            .map_err(|refused| EngineError::Stuck { waiting: refused.waiting })?;
        self.published.store(offered, Ordering::SeqCst);
        self.wake_all();
        Ok(())
    }

    /// The newest published generation.
    pub fn generation_published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// The newest generation that every packet sent from now on obeys. Ask again after a moment: it follows
    /// [`generation_published`](Self::generation_published) within some turns of all workers.
    pub fn generation_in_force(&mut self) -> u64 {
        let running = &self.running;
        let view = |worker: usize| running.get(worker).map(|running| &running.ends.view);
        let generation = |worker| view(worker).map_or(0, |view| view.generation());
        let drained = |worker| view(worker).map_or(0, |view| view.drained());
        let in_force = self.in_force.look(running.len(), generation, drained);
        if self.in_force.is_behind(self.generation_published()) {
            self.wake_all();
        }
        in_force
    }

    /// Old snapshots that no worker looks at any more. Drop them here.
    pub fn collect(&mut self) -> Vec<Snapshot> {
        self.publisher.collect()
    }

    /// Old snapshots that wait for a worker.
    pub fn snapshots_waiting(&self) -> usize {
        self.publisher.waiting()
    }

    /// Gives a port, or a share of its queues, to a worker. A snapshot with its entry may be published before or after: without
    /// one its packets are dropped. A port that is attached again in other shares must wait until the snapshot that says so is
    /// in force: [`crate::port::Shares`] says why.
    ///
    /// # Errors
    /// [`EngineError::WorkerGone`]; the port is lost with its frames then, as is the worker.
    pub fn attach(
        &mut self,
        id: PortId,
        kind: PortKind,
        worker: WorkerId,
        port: Box<dyn Port>,
    ) -> Result<(), EngineError> {
        self.tell(worker, Command::Attach(id, kind, port))
    }

    /// Takes a port, or its share of one, back from a worker, to be closed. `None` if the worker did not have it. Publish a
    /// snapshot without the port first, unless it comes back: until then its packets are dropped as `port_gone`.
    ///
    /// # Errors
    /// [`EngineError::WorkerGone`].
    pub fn detach(&mut self, id: PortId, worker: WorkerId) -> Result<Option<Box<dyn Port>>, EngineError> {
        let (reply, answer) = mpsc::channel();
        self.tell(worker, Command::Detach(id, reply))?;
        answer.recv_timeout(ANSWER).map_err(|_| EngineError::WorkerGone(worker))
    }

    /// The devices' own counters, by port. Costs each worker a system call a socket.
    pub fn port_statistics(&mut self) -> BTreeMap<PortId, Statistics> {
        let (reply, answer) = mpsc::channel();
        for number in 0..self.running.len() {
            // A dead worker's ports have nothing more to say.
            let _ = self.tell(WorkerId(number as u8), Command::Statistics(reply.clone()));
        }
        drop(reply);
        let mut all: BTreeMap<PortId, Statistics> = BTreeMap::new();
        while let Ok(shares) = answer.recv_timeout(ANSWER) {
            shares.iter().for_each(|(port, share)| all.entry(*port).or_default().add(share));
        }
        all
    }

    /// The connections between these two ends, whichever of them opened one, that are there or were of late: those that are
    /// there first, then the newest. Costs each worker some ten microseconds between two turns.
    pub fn find_flows(&mut self, tuple: &Tuple) -> Vec<FoundFlow> {
        let (reply, answer) = mpsc::channel();
        for number in 0..self.running.len() {
            // A dead worker's connections are dead too.
            let _ = self.tell(WorkerId(number as u8), Command::FindFlows(*tuple, reply.clone()));
        }
        drop(reply);
        let mut all = Vec::new();
        while let Ok(found) = answer.recv_timeout(ANSWER) {
            all.extend(found);
        }
        all.sort_by_key(|flow: &FoundFlow| flow.fate.order());
        all
    }

    /// What each worker counts.
    pub fn views(&self) -> impl ExactSizeIterator<Item = &Arc<WorkerView>> {
        self.running.iter().map(|running| &running.ends.view)
    }

    /// Takes waiting drop records, at most `max` of each worker.
    pub fn take_drops(&mut self, max: usize, mut take: impl FnMut(DropRecord)) {
        for running in &mut self.running {
            for _ in 0..max {
                match running.ends.drops.pop() {
                    Some(record) => take(record),
                    None => break,
                }
            }
        }
    }

    /// Drop records that were lost since the start because nobody took them in time, or too many came at once.
    pub fn drops_lost(&self) -> u64 {
        self.running.iter().map(|running| running.ends.drops.lost()).sum()
    }

    /// Neighbours on uplinks that packets wanted and whose MAC addresses are not known.
    pub fn take_unresolved(&mut self) -> Vec<Unresolved> {
        let mut all: Vec<Unresolved> = Vec::new();
        for running in &mut self.running {
            while let Ok(one) = running.ends.unresolved.pop() {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }

    /// Workers whose threads ended by themselves.
    pub fn dead_workers(&self) -> Vec<WorkerId> {
        let dead = |running: &Running| running.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let numbers = self.running.iter().enumerate().filter(|(_, running)| dead(running));
        numbers.map(|(number, _)| WorkerId(number as u8)).collect()
    }

    /// Moves frames that no worker needs into the ledger, to open sockets with. At most `max`.
    pub fn reclaim_frames(&mut self, ledger: &mut FrameLedger, max: usize) {
        ledger.give_back(std::iter::from_fn(|| self.commons.pop()).take(max));
    }

    /// Frames in no worker's pool, ring or packet.
    pub fn frames_in_commons(&self) -> usize {
        self.commons.len()
    }

    /// Stops all workers, closes their ports, and gives all frames to the ledger.
    pub fn stop(mut self, ledger: &mut FrameLedger) {
        self.stop_into(ledger);
    }

    fn stop_into(&mut self, ledger: &mut FrameLedger) {
        for (ports, pool) in self.end() {
            ledger.give_back_pool(pool);
            ports.into_iter().for_each(|port| ledger.give_back(port.close()));
        }
        self.reclaim_frames(ledger, usize::MAX);
    }

    fn end(&mut self) -> Vec<Remains> {
        for number in 0..self.running.len() {
            // One that is gone has stopped already.
            let _ = self.tell(WorkerId(number as u8), Command::Stop);
        }
        let threads = self.running.iter_mut().filter_map(|running| running.thread.take());
        // A worker that panicked has lost its ports and frames: nothing is left to give back.
        let stopped: Vec<Stopped> = threads.filter_map(|thread| thread.join().ok()).collect();
        stopped.into_iter().map(Worker::into_parts).collect()
    }

    fn tell(&mut self, worker: WorkerId, mut command: Command) -> Result<(), EngineError> {
        let gone = || EngineError::WorkerGone(worker);
        let running = self.running.get(usize::from(worker.0)).ok_or_else(gone)?;
        let begin = std::time::Instant::now();
        loop {
            if running.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(gone());
            }
            match running.mailbox.push(command) {
                Ok(()) => {
                    running.ends.waker.wake();
                    return Ok(());
                }
                Err(_) if begin.elapsed() > ANSWER => return Err(gone()),
                Err(back) => command = back,
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn wake_all(&self) {
        self.wakers().for_each(Waker::wake);
    }

    fn wakers(&self) -> impl Iterator<Item = &Waker> {
        self.running.iter().map(|running| &running.ends.waker)
    }
}

impl Drop for Engine {
    /// Stops the threads. Ports and frames are lost: use [`Engine::stop`].
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// Pins the calling thread. A number that no set of cores can hold would abort the process in core_affinity.
fn pin(core: usize) -> bool {
    core < CpuSet::count() && core_affinity::set_for_current(CoreId { id: core })
}

/// A worker's thread.
struct Work {
    worker: Worker<MonotonicClock>,
    mailbox: Arc<ArrayQueue<Command>>,
    snapshots: ReaderHandle<Snapshot>,
    published: Arc<AtomicU64>,
    view: Arc<WorkerView>,
    idle: Idle,
}

impl Work {
    fn run(self) -> Stopped {
        let Self { mut worker, mailbox, snapshots, published, view, idle } = self;
        let mut reader = snapshots.register();
        let mut idle_turns = 0;
        loop {
            while let Some(command) = mailbox.pop() {
                match command {
                    Command::Attach(id, kind, port) => worker.attach(id, kind, port),
                    // Who asked may have given up; then the port is dropped here.
                    Command::Detach(id, reply) => drop(reply.send(worker.detach(id))),
                    Command::Statistics(reply) => drop(reply.send(worker.port_statistics())),
                    Command::FindFlows(tuple, reply) => {
                        drop(reply.send(worker.find_flows(&reader.pin(), &tuple)));
                    }
                    Command::Stop => return worker,
                }
            }
            match worker.turn(&mut reader) {
                Activity::Busy => idle_turns = 0,
                Activity::Idle if idle == Idle::Sleep && idle_turns >= PATIENCE => {
                    worker.sleep(NAP_MILLISECONDS, || {
                        !mailbox.is_empty() || published.load(Ordering::SeqCst) > view.generation()
                    });
                }
                Activity::Idle => {
                    idle_turns = idle_turns.saturating_add(1);
                    std::hint::spin_loop();
                }
            }
        }
    }
}

//! A worker: one thread on one core, the only owner of its queues and its connections.
//!
//! [`Worker::turn`] is the way of a packet, a stage a line, over a batch. It pins one snapshot, so that a batch sees one
//! generation of everything, and leaves nothing behind: every packet it took is sent, dropped by name, consumed, or with
//! another worker when the turn ends; only a fragment may wait for the first one of its datagram.
//!
//! The batch comes first and the pin after it. So the snapshot is one that was current after each of its packets had been
//! received: a policy that was published before a packet came decides on it, however long ago the turn began.
//!
//! What is guaranteed:
//! - A packet leaves only along the entry of a connection that the policy in force admits, or as an answer of the
//!   gateway's own. What is unknown is dropped.
//! - Nothing here locks, allocates or makes a system call, but for one kick a port and one wake-up a worker and turn.
//! - A connection's packets stay in order: one owner sees them all and sends them by one queue, and rings between workers
//!   keep the order. [`crate::port::Shares`] says whose a queue is, and why the order holds.
//!
//! What breaks if changed: were a packet looked up at the worker that received it rather than at its owner, a reply could
//! overtake the request that opens its connection, and be dropped as a stray.

mod commons;
mod errors;
mod exchange;
mod find;
mod forward;
mod fragments;
mod owner;
mod receive;
mod route;
mod settings;
mod track;
mod view;
pub mod wake;
mod wanted;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use af_xdp::{FrameChain, FramePool, Kick, Region, Statistics};
use podgate_rcu::Reader;

use crate::clock::{Clock, Instant64};
use crate::counters::TurnCounts;
use crate::drop_reason::DropReason;
use crate::flow::{FlowTable, Hop};
use crate::fragment::FragmentTable;
use crate::packet::{Packet, PortId, PortKind, WorkerId};
use crate::port::Port;
use crate::record::{DropRecord, DropRecorder, drop_ring};
use crate::snapshot::Snapshot;

use commons::balance;
use errors::ErrorBudget;
use exchange::{Exchange, exchanges};
use owner::Ownership;
use route::Refusal;
use track::Probe;
use wake::{Sleeper, Waker};
use wanted::Wanted;

pub use commons::{Commons, commons};
pub use errors::ErrorCharge;
pub use find::{Fate, FoundFlow};
pub use settings::{Deny, Established, WorkerSettings};
pub use view::{WorkerEnds, WorkerView};
pub use wanted::Unresolved;

/// What [`exchange`] is made of; the model puts rings of its own in its place.
mod ring {
    pub(super) use rtrb::{Consumer, Producer, RingBuffer};
}

/// What a turn did, for whoever decides whether to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Packets moved.
    Busy,
    /// Nothing to do.
    Idle,
}

/// What one worker asks another to do with a packet.
enum Handed {
    /// You own its connection.
    Track(Packet),
    /// Admitted and rewritten: send it by this port of yours.
    Send(Packet, PortId),
}

impl Handed {
    fn into_packet(self) -> Packet {
        match self {
            Handed::Track(packet) | Handed::Send(packet, _) => packet,
        }
    }
}

struct Attached {
    id: PortId,
    kind: PortKind,
    port: Box<dyn Port>,
    /// How many of the received packets are its own.
    received: usize,
    /// Something is in the transmit ring, or the kernel did not take all at the last kick.
    to_kick: bool,
}

/// A worker. Made by [`workers`], on any thread; runs on one.
pub struct Worker<C> {
    id: WorkerId,
    settings: WorkerSettings,
    clock: C,
    region: Region,
    pool: FramePool,
    ports: Vec<Attached>,
    /// By port: its place in `ports`.
    places: Vec<Option<usize>>,
    flows: FlowTable,
    fragments: FragmentTable<Packet>,
    ownership: Ownership,
    exchange: Exchange<Handed>,
    commons: Commons,
    counts: TurnCounts,
    view: Arc<WorkerView>,
    recorder: DropRecorder,
    unresolved: Wanted,
    errors: ErrorBudget,
    sleeper: Sleeper,
    /// By port, in the order of `ports`.
    received: Vec<FrameChain>,
    taken: Vec<Handed>,
    batch: Vec<Packet>,
    /// Of the packets of the batch that come next.
    probes: Vec<Probe>,
}

/// As many workers as there are pools, with rings between them, and the control side's ends.
///
/// `commons` takes the frames that a worker does not need and must have room for all of the region.
///
/// # Errors
/// The kernel's, if it has no file descriptors left.
pub fn workers<C: Clock + Clone>(
    region: &Region,
    pools: Vec<FramePool>,
    commons: &Commons,
    settings: &WorkerSettings,
    clock: &C,
) -> std::io::Result<(Vec<Worker<C>>, Vec<WorkerEnds>)> {
    let pairs: Vec<(Waker, Sleeper)> = pools.iter().map(|_| wake::pair()).collect::<Result<_, _>>()?;
    let (wakers, sleepers): (Vec<Waker>, Vec<Sleeper>) = pairs.into_iter().unzip();
    let exchanges = exchanges(&wakers, settings.hand_over);
    let mut workers = Vec::new();
    let mut ends = Vec::new();
    let parts = pools.into_iter().zip(sleepers).zip(exchanges).zip(wakers);
    for (number, (((pool, sleeper), exchange), waker)) in parts.enumerate() {
        // A worker without ports is handed packets too. Room for its ports' comes with them.
        let from_others = settings.batch.saturating_mul(exchange.peers());
        let id = WorkerId(number as u8);
        let (recorder, drops) = drop_ring(settings.records.max(1));
        let (unresolved, wanted) = wanted::ring();
        let [a, b, c, d] = settings.seed;
        // A key of its own for each table: colliding in one says nothing about another.
        let seed = [a ^ number as u64, b, c, d.rotate_left(17)];
        let WorkerSettings { flow_history, timeouts, .. } = *settings;
        let flows = FlowTable::new(settings.flows, settings.flows_per_pod, flow_history, timeouts, seed);
        let fragments = FragmentTable::new(settings.fragments, [a, b ^ number as u64, c.rotate_left(23), d]);
        let errors = ErrorBudget::new();
        let view = Arc::new(WorkerView {
            charges: flows.charges().clone(),
            fragments: fragments.charges().clone(),
            errors: errors.charges().clone(),
            ..WorkerView::default()
        });
        workers.push(Worker {
            id,
            clock: clock.clone(),
            region: region.clone(),
            pool,
            ports: Vec::new(),
            places: Vec::new(),
            flows,
            fragments,
            ownership: Ownership::new(settings.seed),
            exchange,
            commons: commons.clone(),
            counts: TurnCounts::new(),
            view: view.clone(),
            recorder,
            unresolved,
            errors,
            sleeper,
            received: Vec::new(),
            taken: Vec::with_capacity(from_others),
            batch: Vec::with_capacity(from_others),
            probes: Vec::with_capacity(LOOK_AHEAD),
            settings: settings.clone(),
        });
        ends.push(WorkerEnds { view, drops, unresolved: wanted, waker });
    }
    Ok((workers, ends))
}

impl<C: Clock> Worker<C> {
    /// Which one it is.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// One batch, from every port and from every other worker, from reception to transmission.
    pub fn turn(&mut self, reader: &mut Reader<Snapshot>) -> Activity {
        let now = self.begin();
        self.complete();
        let drained = self.take_over();
        self.receive();
        let snapshot = reader.pin();
        self.accept(&snapshot, now);
        self.admit(&snapshot, now);
        self.age_fragments(now);
        self.track_and_forward(&snapshot, now);
        self.hand_over(now);
        self.kick();
        self.refill();
        self.flows.age(now, AGING_STEPS);
        self.publish_counts(snapshot.generation, drained)
    }

    fn begin(&mut self) -> Instant64 {
        self.recorder.begin_turn();
        self.clock.now()
    }

    /// Frames that were sent come back.
    fn complete(&mut self) {
        for attached in &mut self.ports {
            attached.port.complete(&mut self.pool);
        }
    }

    /// Looks up, judges and forwards every packet whose connection is owned here.
    fn track_and_forward(&mut self, snapshot: &Snapshot, now: Instant64) {
        let (mut batch, mut probes) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.probes));
        let mut rest = batch.drain(..);
        while !rest.as_slice().is_empty() {
            self.look_ahead(rest.as_slice(), &mut probes);
            // The probes first: they end before a packet is taken for which there is none.
            for (probe, packet) in probes.iter().zip(rest.by_ref()) {
                self.track_one(snapshot, packet, probe, now);
            }
        }
        drop(rest);
        (self.batch, self.probes) = (batch, probes);
    }

    #[inline]
    fn track_one(&mut self, snapshot: &Snapshot, packet: Packet, probe: &Probe, now: Instant64) {
        if let Some(fragment) = packet.headers.fragment {
            return self.track_fragment(snapshot, packet, fragment, now);
        }
        let way = self.track(snapshot, &packet, probe, now);
        self.go(snapshot, packet, way, now);
    }

    /// Forwards a packet if there is a way for it, and ends it if not.
    #[inline]
    fn go(&mut self, snapshot: &Snapshot, packet: Packet, way: Result<Hop, Refusal>, now: Instant64) {
        match way {
            Ok(hop) => self.forward(snapshot, packet, hop, now),
            Err(refusal) => {
                if let Some((port, neighbour)) = refusal.unresolved {
                    self.unresolved.ask(Unresolved { port, neighbour, asker: packet.ingress });
                }
                if self.settings.deny == Deny::Reject && refusal.is_by_policy() {
                    self.reject(snapshot, &packet, now);
                    if let Some(farewell) = refusal.farewell {
                        self.say_farewell(snapshot, &packet, farewell, now);
                    }
                }
                self.drop_packet(packet, refusal.reason, refusal.decided_by, now);
            }
        }
    }

    /// One system call for each port that has something to send.
    fn kick(&mut self) {
        for attached in &mut self.ports {
            if attached.to_kick {
                attached.to_kick = attached.port.kick() == Kick::Again;
            }
        }
    }

    fn refill(&mut self) {
        if self.exchange.has_peers() || self.pool.len() < self.settings.frames / 2 {
            balance(&self.commons, &mut self.pool, self.settings.frames);
        }
        for attached in &mut self.ports {
            attached.port.refill(&mut self.pool);
        }
    }

    fn publish_counts(&mut self, generation: u64, drained: bool) -> Activity {
        let busy = self.counts != IDLE;
        let view = &*self.view;
        if busy {
            view.counters.flush(&mut self.counts, self.fragments.held() as u64);
        }
        let flows = self.flows.counts();
        view.flows.store(self.flows.len() as u64, Ordering::Relaxed);
        view.opened.store(flows.opened, Ordering::Relaxed);
        view.expired.store(flows.expired, Ordering::Relaxed);
        view.evicted.store(flows.evicted, Ordering::Relaxed);
        view.cut.store(flows.cut, Ordering::Relaxed);
        view.errors_refused.store(self.errors.refused(), Ordering::Relaxed);
        view.datagrams.store(self.fragments.datagrams() as u64, Ordering::Relaxed);
        view.generation.store(generation, Ordering::Release);
        if drained {
            view.drained.store(view.drained.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
        if busy || !drained { Activity::Busy } else { Activity::Idle }
    }

    /// Takes a port over, or a share of its queues. It receives from the next turn on.
    pub fn attach(&mut self, id: PortId, kind: PortKind, mut port: Box<dyn Port>) {
        port.refill(&mut self.pool);
        let place = usize::from(id.0);
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        self.ports.push(Attached { id, kind, port, received: 0, to_kick: false });
        self.index_ports();
        self.received.reserve(self.settings.batch.saturating_mul(self.ports.len()));
        self.batch.reserve(self.settings.batch.saturating_mul(self.ports.len() + self.exchange.peers()));
    }

    /// Gives a port or its share of one back. What it still held comes with it; packets on their way to it are dropped as `port_gone`.
    pub fn detach(&mut self, id: PortId) -> Option<Box<dyn Port>> {
        let place = self.ports.iter().position(|attached| attached.id == id)?;
        let attached = self.ports.swap_remove(place);
        self.index_ports();
        Some(attached.port)
    }

    fn index_ports(&mut self) {
        self.places.fill(None);
        for (place, attached) in self.ports.iter().enumerate() {
            if let Some(entry) = self.places.get_mut(usize::from(attached.id.0)) {
                *entry = Some(place);
            }
        }
    }

    fn attached(&mut self, id: PortId) -> Option<&mut Attached> {
        let place = (*self.places.get(usize::from(id.0))?)?;
        self.ports.get_mut(place)
    }

    /// The devices' own counters: a system call a socket.
    pub fn port_statistics(&self) -> Vec<(PortId, Statistics)> {
        self.ports.iter().map(|attached| (attached.id, attached.port.statistics())).collect()
    }

    /// Sleeps until a packet, a hand-over or a message comes; `milliseconds` at most. Never while a snapshot is pinned.
    pub fn sleep(&mut self, milliseconds: u16, is_busy: impl FnOnce() -> bool) {
        let mut fds = Vec::with_capacity(self.ports.len());
        for attached in &self.ports {
            attached.port.poll_on(&mut fds);
        }
        // Nothing wakes it when the kernel can take what it refused: it has to ask again soon.
        let milliseconds = if self.ports.iter().any(|port| port.to_kick) { 1 } else { milliseconds };
        let exchange = &self.exchange;
        self.sleeper.sleep(&fds, milliseconds, || exchange.is_waiting() || is_busy());
    }

    /// Ends a packet: counts, records, and takes its frames back.
    fn drop_packet(
        &mut self,
        packet: Packet,
        reason: DropReason,
        decided_by: Option<(crate::policy::Direction, crate::policy::Verdict)>,
        now: Instant64,
    ) {
        let (id, generation) = (self.id, packet.generation);
        self.counts.dropped(reason, packet.ingress_kind);
        self.recorder.record(|| DropRecord {
            generation,
            decided_by,
            ..DropRecord::new(now, reason, id, packet.ingress, packet.frames.total_len() as u32)
                .with_headers(&packet.headers)
        });
        self.pool.put_chain(packet.frames);
    }

    /// Ends the worker: its ports, to be closed, and its frames.
    pub fn into_parts(self) -> (Vec<Box<dyn Port>>, FramePool) {
        let mut pool = self.pool;
        self.batch.into_iter().for_each(|packet| pool.put_chain(packet.frames));
        self.taken.into_iter().for_each(|handed| pool.put_chain(handed.into_packet().frames));
        self.fragments.into_held().for_each(|packet| pool.put_chain(packet.frames));
        let mut exchange = self.exchange;
        let mut rest = Vec::new();
        while !exchange.take_over(usize::MAX, &mut rest) {}
        rest.into_iter().for_each(|handed| pool.put_chain(handed.into_packet().frames));
        (self.ports.into_iter().map(|attached| attached.port).collect(), pool)
    }
}

/// Packets whose entries are asked for together: as many as the processor's first cache holds the entries of, with room for
/// the packets themselves.
const LOOK_AHEAD: usize = 32;

/// Entries of the flow table that a turn looks at for age.
const AGING_STEPS: usize = 8;

/// What a turn counts in which nothing happened.
const IDLE: TurnCounts = TurnCounts::new();

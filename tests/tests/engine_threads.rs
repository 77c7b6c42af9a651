//! The engine on real threads, over ports in memory: what the one-threaded rig cannot show.
//!
//! Traffic flows both ways all the time while snapshots are published by the hundred, a third pod's port comes and goes, and
//! an uplink's queues are one worker's or spread over all by turns. Nothing may be lost but what is dropped by name: packets
//! of a flow arrive in order, a published generation gets in force, counters balance when the traffic pauses, and after a
//! stop in the middle of traffic every frame is back.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use af_xdp::{
    Abilities, ActiveQueues, Frame, FrameChain, FrameLedger, FramePool, Kick, Refused, Region, Statistics,
    TxChecksum,
};
use podgate_config::model::*;
use podgate_control::compiler::{Limits, Scope, compile_for};
use podgate_dataplane::counters::Snapshot as Counts;
use podgate_dataplane::engine::{Engine, EngineConfig, EngineError, Idle};
use podgate_dataplane::flow::Tuple;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_dataplane::port::{MemoryPort, MemoryWire, Port, Shares};
use podgate_dataplane::snapshot::{DirectRoute, DirectRoutes, NodeAddresses, PortEntry, Snapshot};
use podgate_dataplane::worker::{Fate, FoundFlow, WorkerSettings, WorkerView};
use podgate_tests::cluster::pod;
use podgate_tests::frames::From;
use podgate_tests::rig::{ROUTER_MAC, gateway_mac, peer_mac};

const FRAMES: u32 = 4096;
const GENERATIONS: u64 = 1000;
/// A turn takes microseconds; a machine that runs other tests beside this one takes its time to give a worker its core.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of what is behind the uplink, beside the pods' 0 to 2.
const OUTSIDE: usize = 3;
/// The uplink's port, which keeps its number.
const UPLINK: PortId = PortId(0);

fn address(end: usize) -> IpAddr {
    if end == OUTSIDE { IpAddr::from([192, 0, 2, 7]) } else { IpAddr::from([10, 244, 0, end as u8 + 1]) }
}

fn tables(delivery: impl Fn(usize) -> Delivery) -> PolicyTables {
    let mut cluster = Cluster::default();
    for number in 0..3 {
        let pod = pod(&format!("shop/pod-{number}"), [address(number)]);
        cluster.pods.insert(pod.name.clone(), pod);
    }
    let delivery = |pod: &Pod| delivery((0..3).find(|number| pod.addresses == [address(*number)]).unwrap());
    compile_for(&cluster, Scope::AllPods, &Limits::default(), 0, delivery).unwrap().tables
}

fn config(cores: Vec<usize>, idle: Idle) -> EngineConfig {
    let worker = WorkerSettings { frames: 512, flows: 64, ..WorkerSettings::default() };
    EngineConfig { cores, idle, worker, retired: 16 }
}

/// The cores that this process may use: the error says so.
fn usable_cores() -> Vec<usize> {
    let (region, mut ledger) = Region::new(FRAMES).unwrap();
    let refused = Engine::start(&config(vec![4096], Idle::Sleep), &region, &mut ledger, Snapshot::closed());
    match refused.err() {
        Some(EngineError::Pin { usable, .. }) => usable,
        other => panic!("{other:?}"),
    }
}

/// A pod's port while it is attached.
struct Plugged {
    id: PortId,
    wire: MemoryWire,
    identity: u32,
}

struct Bench {
    engine: Engine,
    region: Region,
    ledger: FrameLedger,
    workers: u8,
    pods: [Option<Plugged>; 3],
    /// The uplink's queues, and whose they are.
    uplink: Vec<MemoryWire>,
    shares: Shares,
    next_port: u16,
    generation: u64,
    /// By sender: the number of the next packet.
    next: [u64; 4],
    /// By receiver and sender: the number of the last packet that came.
    last: [[u64; 4]; 4],
    arrived: u64,
    /// Of these, by the uplink.
    arrived_outside: u64,
}

impl Bench {
    fn start(workers: u8, idle: Idle) -> Self {
        let (region, mut ledger) = Region::new(FRAMES).unwrap();
        let usable = usable_cores();
        let cores = (0..usize::from(workers)).map(|worker| usable[worker % usable.len()]).collect();
        let engine = Engine::start(&config(cores, idle), &region, &mut ledger, Snapshot::closed()).unwrap();
        let mut bench = Self {
            engine,
            region,
            ledger,
            workers,
            pods: [None, None, None],
            uplink: Vec::new(),
            shares: Shares::whole(WorkerId(0)),
            next_port: UPLINK.0 + 1,
            generation: 1,
            next: [1; 4],
            last: [[0; 4]; 4],
            arrived: 0,
            arrived_outside: 0,
        };
        (0..3).for_each(|pod| bench.plug(pod));
        bench.publish();
        bench.requeue(workers);
        bench
    }

    /// Attaches the uplink with this many queues, one a worker, after taking it back if it is there: the way in which the
    /// control side does it.
    fn requeue(&mut self, queues: u8) {
        if !self.uplink.is_empty() {
            for worker in self.shares.workers() {
                let port = self.engine.detach(UPLINK, worker).unwrap().unwrap();
                self.ledger.give_back(port.close());
            }
            self.uplink.clear();
        }
        let count = u32::from(queues);
        let queues = ActiveQueues { receive: count, transmit: count };
        self.shares = Shares::spread_over(queues, self.workers.into(), WorkerId(self.workers - 1));
        self.publish();
        self.until("the new shares are in force", |bench| {
            bench.engine.generation_in_force() == bench.engine.generation_published()
        });
        let (mut ports, mut wires) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (port, wire) = MemoryPort::new(&self.region, 64, Abilities::new(true, true)).unwrap();
            ports.push(port);
            wires.push(wire);
        }
        for (worker, share) in self.shares.share_out(ports) {
            for port in share {
                self.engine.attach(UPLINK, PortKind::Uplink, worker, Box::new(port)).unwrap();
            }
        }
        self.uplink = wires;
    }

    fn worker_of(&self, pod: usize) -> WorkerId {
        WorkerId(pod as u8 % self.workers)
    }

    fn plug(&mut self, pod: usize) {
        let id = PortId(self.next_port);
        self.next_port += 1;
        let (port, wire) = MemoryPort::new(&self.region, 64, Abilities::new(true, true)).unwrap();
        self.engine.attach(id, PortKind::Pod, self.worker_of(pod), Box::new(port)).unwrap();
        self.pods[pod] = Some(Plugged { id, wire, identity: u32::from(id.0) + 1 });
    }

    fn unplug(&mut self, pod: usize) {
        let plugged = self.pods[pod].take().unwrap();
        self.publish();
        let port = self.engine.detach(plugged.id, self.worker_of(pod)).unwrap().unwrap();
        self.ledger.give_back(port.close());
    }

    fn snapshot(&self) -> Snapshot {
        let tables = tables(|pod| match &self.pods[pod] {
            Some(Plugged { id, identity, .. }) => Delivery { identity: *identity, port: Some(*id) },
            None => Delivery { identity: 1_000_000, port: None },
        });
        let mut ports = vec![None; usize::from(self.next_port)];
        for (pod, plugged) in self.pods.iter().enumerate() {
            let Some(Plugged { id, identity, .. }) = plugged else { continue };
            ports[usize::from(id.0)] = Some(PortEntry {
                kind: PortKind::Pod,
                worker: self.worker_of(pod),
                spread: 0,
                mac: gateway_mac(*id),
                peer_mac: peer_mac(*id),
                mtu: 1500,
                closed: false,
                addresses: [address(pod)].into(),
                identity: *identity,
            });
        }
        let entry = PortEntry {
            kind: PortKind::Uplink,
            worker: self.shares.home(),
            spread: self.shares.spread(),
            mac: gateway_mac(UPLINK),
            peer_mac: [0; 6],
            mtu: 1500,
            closed: false,
            addresses: Box::default(),
            identity: 0,
        };
        ports[usize::from(UPLINK.0)] = Some(entry);
        let outside = address(OUTSIDE);
        let route = DirectRoute { network: outside.into(), port: UPLINK, via: None };
        Snapshot {
            generation: self.generation,
            synced: true,
            policy: tables,
            ports: ports.into(),
            host: None,
            node: NodeAddresses::default(),
            direct: DirectRoutes::new([route], [((UPLINK, outside), ROUTER_MAC)]),
        }
    }

    fn publish(&mut self) {
        self.generation += 1;
        let begin = Instant::now();
        loop {
            self.engine.collect();
            match self.engine.publish(self.snapshot()) {
                Ok(()) => return,
                Err(EngineError::Stuck { .. }) if begin.elapsed() < PATIENCE => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Each pod sends some packets to each other pod and to the outside, which answers, and what came is looked at.
    fn traffic(&mut self) {
        for (from, to) in
            [(0, 1), (1, 0), (0, 2), (2, 1), (0, OUTSIDE), (1, OUTSIDE), (OUTSIDE, 0), (OUTSIDE, 1)]
        {
            let (port, wire) = match self.pods.get_mut(from) {
                Some(Some(plugged)) => (plugged.id, &mut plugged.wire),
                Some(None) => continue,
                None => {
                    // As a card does, all of a flow by one queue.
                    let queue = to % self.uplink.len();
                    (UPLINK, &mut self.uplink[queue])
                }
            };
            for _ in 0..4 {
                let number = self.next[from];
                let sender = From::new(port, address(from), address(to));
                let mut payload = [0; 9];
                payload[0] = from as u8;
                payload[1..].copy_from_slice(&number.to_be_bytes());
                if wire.deliver(&sender.udp(1000, 1000, &payload)) {
                    self.next[from] += 1;
                }
            }
        }
        self.take();
    }

    fn take(&mut self) {
        let pods = self.pods.iter_mut().enumerate();
        let pods = pods.filter_map(|(number, plugged)| Some((number, &mut plugged.as_mut()?.wire)));
        for (receiver, wire) in pods.chain(self.uplink.iter_mut().map(|wire| (OUTSIDE, wire))) {
            for sent in wire.take() {
                let payload = &sent.bytes[42..];
                let sender = usize::from(payload[0]);
                let number = u64::from_be_bytes(payload[1..9].try_into().unwrap());
                let last = &mut self.last[receiver][sender];
                assert!(number > *last, "{receiver} got {number} of {sender} after {last}");
                *last = number;
                self.arrived += 1;
                self.arrived_outside += u64::from(receiver == OUTSIDE);
            }
        }
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !so(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
            self.take();
            std::thread::yield_now();
        }
    }

    fn views(&self) -> Vec<Arc<WorkerView>> {
        self.engine.views().cloned().collect()
    }
}

fn counts(views: &[Arc<WorkerView>]) -> Counts {
    let mut sum = Counts::default();
    views.iter().for_each(|view| sum.add(&view.counters.snapshot()));
    sum
}

fn run(workers: u8, idle: Idle) {
    let mut bench = Bench::start(workers, idle);
    while bench.generation < GENERATIONS {
        bench.traffic();
        bench.publish();
        match bench.generation % 50 {
            20 => bench.unplug(2),
            30 => bench.requeue(1),
            10 => bench.requeue(workers),
            40 => {
                bench.plug(2);
                bench.publish();
            }
            0 => bench.until("the newest generation is in force", |bench| {
                bench.traffic();
                bench.engine.generation_in_force() == bench.engine.generation_published()
            }),
            _ => {}
        }
    }
    // At rest all is accounted for.
    let views = bench.views();
    bench.until("the packets under way arrive", |_| {
        let (before, received) = (counts(&views), |counts: &Counts| counts.counts.rx_packets);
        std::thread::sleep(Duration::from_millis(250));
        let now = counts(&views);
        received(&before) == received(&now) && now.imbalance() == 0
    });
    assert!(bench.arrived > GENERATIONS, "only {} packets arrived", bench.arrived);
    assert!(bench.arrived_outside > GENERATIONS / 4, "only {} arrived outside", bench.arrived_outside);
    assert!(bench.engine.dead_workers().is_empty());
    bench.until("old snapshots come back", |bench| {
        bench.engine.collect();
        bench.engine.snapshots_waiting() == 0
    });
    // Who asks in the middle of it finds the one connection, whichever way, with its owner.
    bench.traffic();
    for (one, other) in [(0, 1), (1, 0)] {
        let tuple = Tuple {
            source: address(one),
            destination: address(other),
            source_port: 1000,
            destination_port: 1000,
            protocol: 17,
        };
        let found = bench.engine.find_flows(&tuple);
        assert!(matches!(&found[..], [FoundFlow { fate: Fate::Live { .. }, .. }]), "{found:?}");
        assert!(found[0].worker.0 < workers);
        let nobody = Tuple { source_port: 999, ..tuple };
        assert_eq!(bench.engine.find_flows(&nobody), []);
    }
    // And a stop in the middle of traffic loses no frame, also not those between two workers.
    for _ in 0..20 {
        bench.traffic();
    }
    let Bench { engine, mut ledger, .. } = bench;
    engine.stop(&mut ledger);
    assert_eq!(ledger.free(), ledger.total(), "frames are lost");
}

#[test]
fn one_sleeping_worker() {
    run(1, Idle::Sleep);
}

#[test]
fn one_spinning_worker() {
    run(1, Idle::Spin);
}

#[test]
fn two_sleeping_workers() {
    run(2, Idle::Sleep);
}

#[test]
fn two_spinning_workers() {
    run(2, Idle::Spin);
}

#[test]
fn a_stop_in_the_middle_of_a_hand_over_loses_no_frame() {
    for _ in 0..50 {
        let mut bench = Bench::start(2, Idle::Spin);
        for _ in 0..10 {
            bench.traffic();
        }
        let Bench { engine, mut ledger, .. } = bench;
        engine.stop(&mut ledger);
        assert_eq!(ledger.free(), ledger.total(), "frames are lost");
    }
}

/// A port at which a worker waits, inside a turn, while the gate is locked.
struct Gated {
    port: MemoryPort,
    gate: Arc<Mutex<()>>,
}

impl Port for Gated {
    fn receive(&mut self, max: usize, packets: &mut Vec<FrameChain>) {
        self.port.receive(max, packets);
    }

    fn refill(&mut self, pool: &mut FramePool) {
        // The end of a turn, which still has its snapshot. A test that failed is no reason to fail here.
        drop(self.gate.lock());
        self.port.refill(pool);
    }

    fn transmit(&mut self, packet: FrameChain, checksum: Option<TxChecksum>) -> Result<(), Refused> {
        self.port.transmit(packet, checksum)
    }

    fn abilities(&self) -> Abilities {
        self.port.abilities()
    }

    fn kick(&mut self) -> Kick {
        self.port.kick()
    }

    fn complete(&mut self, pool: &mut FramePool) {
        self.port.complete(pool);
    }

    fn poll_on<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        self.port.poll_on(fds);
    }

    fn statistics(&self) -> Statistics {
        self.port.statistics()
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        Box::new(self.port).close()
    }
}

/// A worker that does not get on holds back what it judges by, and everything after. That is bounded, and over when it goes on.
#[test]
fn a_stuck_worker_stops_publication_at_the_bound_and_nothing_is_lost() {
    let (region, mut ledger) = Region::new(FRAMES).unwrap();
    let config = EngineConfig { retired: 3, ..config(vec![usable_cores()[0]], Idle::Spin) };
    let mut engine = Engine::start(&config, &region, &mut ledger, Snapshot::closed()).unwrap();
    let gate = Arc::new(Mutex::new(()));
    let (port, _wire) = MemoryPort::new(&region, 64, Abilities::new(true, true)).unwrap();
    let gated = Gated { port, gate: gate.clone() };
    let number = PortId(0);
    engine.attach(number, PortKind::Pod, WorkerId(0), Box::new(gated)).unwrap();
    let snapshot = |generation| Snapshot { generation, ..Snapshot::closed() };
    let mut generation = engine.generation_published();

    // It answers in turn: the port is attached by then.
    assert_eq!(engine.port_statistics().len(), 1);
    let closed = gate.lock().unwrap();
    let begin = Instant::now();
    let waiting = loop {
        assert!(begin.elapsed() < PATIENCE, "{} wait", engine.snapshots_waiting());
        engine.collect();
        match engine.publish(snapshot(generation + 1)) {
            Ok(()) => generation += 1,
            Err(EngineError::Stuck { waiting }) => break waiting,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((waiting, engine.snapshots_waiting()), (3, 3));
    assert_eq!(engine.generation_published(), generation, "what was refused is not published");
    assert!(engine.generation_in_force() < generation);

    drop(closed);
    let begin = Instant::now();
    while engine.publish(snapshot(generation + 1)).is_err() {
        assert!(begin.elapsed() < PATIENCE, "it does not get on");
        engine.collect();
        std::thread::yield_now();
    }
    while engine.generation_in_force() < generation + 1 {
        assert!(begin.elapsed() < PATIENCE, "it is not in force");
        std::thread::yield_now();
    }
    let port = engine.detach(number, WorkerId(0)).unwrap().unwrap();
    ledger.give_back(port.close());
    engine.stop(&mut ledger);
    assert_eq!(ledger.free(), ledger.total(), "frames are lost");
}

#[test]
fn a_core_that_is_not_there_is_named_and_no_frame_is_lost() {
    let usable = usable_cores();
    // One that a set of cores can hold, and one that it cannot.
    let (high, beyond) = (1023, 4096);
    for cores in [vec![high], vec![usable[0], beyond], vec![beyond, usable[0]]] {
        let (region, mut ledger) = Region::new(FRAMES).unwrap();
        let place = cores.iter().position(|core| *core >= high).unwrap();
        let bad = cores[place];
        match Engine::start(&config(cores, Idle::Sleep), &region, &mut ledger, Snapshot::closed()) {
            Err(error @ EngineError::Pin { worker, core, .. }) => {
                assert_eq!((worker, core), (place, bad));
                let text = error.to_string();
                assert!(
                    text.contains(&format!("core {bad}")) && text.contains(&format!("{usable:?}")),
                    "{text}"
                );
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("started"),
        }
        assert_eq!(ledger.free(), ledger.total(), "frames are lost");
    }
}

#[test]
fn a_start_that_lacks_cores_or_frames_says_what_it_lacks() {
    let (region, mut ledger) = Region::new(256).unwrap();
    let start = |cores: Vec<usize>, ledger: &mut FrameLedger| {
        Engine::start(&config(cores, Idle::Sleep), &region, ledger, Snapshot::closed()).err()
    };
    assert!(matches!(start(vec![], &mut ledger), Some(EngineError::Cores(0))));
    let refused = start(vec![0], &mut ledger);
    assert!(matches!(refused, Some(EngineError::Frames { have: 256, workers: 1, each: 512 })), "{refused:?}");
    assert_eq!(ledger.free(), 256);
}

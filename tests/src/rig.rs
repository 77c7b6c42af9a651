//! A gateway in memory: real workers over in-memory ports and a virtual clock, in one thread.
//!
//! Everything between a port's receive ring and its transmit ring is the code that runs on a node; only the devices and
//! the time are the test's. So a run is the same each time, and what a test sees is what a pod would see. Workers take
//! their turns when [`Rig::settle`] says so, until none has anything left to do.
//!
//! Two promises are checked after each step: every packet is accounted for, and no frame is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use af_xdp::twin::Sent;
use af_xdp::{Abilities, ActiveQueues, FramePool, Region};
use podgate_config::model::{Cluster, ObjectName, Pod};
use podgate_control::compiler::Limits;
use podgate_control::gateway::generations::Generations;
use podgate_dataplane::clock::{Clock, Instant64, VirtualClock};
use podgate_dataplane::counters::Snapshot as Counts;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::flow::{Charge, FlowCounts, Tuple};
use podgate_dataplane::fragment;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_dataplane::port::{MemoryPort, MemoryWire, Shares};
use podgate_dataplane::record::DropRecord;
use podgate_dataplane::snapshot::{DirectRoute, DirectRoutes, Mac, NodeAddresses, PortEntry, Snapshot};
use podgate_dataplane::worker::{
    Activity, Commons, ErrorCharge, FoundFlow, Unresolved, Worker, WorkerEnds, WorkerSettings, WorkerView,
    commons, workers,
};
use podgate_rcu::{Publisher, Reader};

use crate::follow::Follower;

/// Frames of a rig's region.
const FRAMES: u32 = 2048;
/// Frames of each worker at the start.
const SHARE: usize = 512;
/// Entries of each ring.
const RING: u32 = 64;
/// Every port's MTU.
pub const MTU: u16 = 1500;
/// Networks behind the uplink.
pub const OUTSIDE: &str = "192.0.2.0/24";
/// The same for IPv6.
pub const OUTSIDE_V6: &str = "2001:db8::/32";

struct Wired {
    kind: PortKind,
    shares: Shares,
    /// By queue.
    wires: Vec<MemoryWire>,
    /// For a pod port.
    pod: Option<(ObjectName, u32)>,
    closed: bool,
}

/// The gateway and the ends of its wires.
pub struct Rig {
    region: Region,
    clock: VirtualClock,
    workers: Vec<Worker<VirtualClock>>,
    readers: Vec<Reader<Snapshot>>,
    publisher: Publisher<Snapshot>,
    ends: Vec<WorkerEnds>,
    commons: Commons,
    ports: BTreeMap<PortId, Wired>,
    spare: FramePool,
    generation: u64,
    identities: u32,
    /// The last number that a port was given.
    port_numbers: u16,
    /// What the last publication judges by.
    pub tables: Option<PolicyTables>,
    /// What is compiled.
    pub follower: Follower,
    generations: Generations,
    /// Whether the sources have synced.
    pub synced: bool,
    /// The node's addresses.
    pub node: Vec<IpAddr>,
}

/// The host stack's port.
pub const HOST: PortId = PortId(0);
/// The uplink.
pub const UPLINK: PortId = PortId(1);

/// The gateway's MAC address on a port.
#[must_use]
pub fn gateway_mac(port: PortId) -> Mac {
    [2, 0xaa, 0, 0, (port.0 >> 8) as u8, port.0 as u8]
}

/// The MAC address of what is behind a port.
#[must_use]
pub fn peer_mac(port: PortId) -> Mac {
    [2, 0xbb, 0, 0, (port.0 >> 8) as u8, port.0 as u8]
}

/// The MAC address of every neighbour on the uplink.
pub const ROUTER_MAC: Mac = [2, 0xcc, 0, 0, 0, 1];

/// The MAC address of whoever is behind a port.
#[must_use]
pub fn link_peer(port: PortId) -> Mac {
    if port == UPLINK { ROUTER_MAC } else { peer_mac(port) }
}

impl Rig {
    /// A gateway of `count` workers with a host port and an uplink, and no pods. Nothing is published yet but the closed
    /// snapshot.
    ///
    /// # Panics
    /// If memory or file descriptors are used up.
    #[must_use]
    pub fn new(count: u8, settings: &WorkerSettings) -> Self {
        let (region, mut ledger) = Region::new(FRAMES).expect("a region");
        let settings = WorkerSettings { frames: SHARE, hand_over: 128, ..settings.clone() };
        let pools = (0..count).map(|_| ledger.pool(SHARE)).collect();
        let commons = commons(&region);
        let clock = VirtualClock::new();
        let (workers, ends) = workers(&region, pools, &commons, &settings, &clock).expect("workers");
        let publisher = Publisher::new(Snapshot::closed());
        let readers = workers.iter().map(|_| publisher.reader_handle().register()).collect();
        let mut rig = Self {
            spare: ledger.pool(FRAMES as usize),
            region,
            clock,
            workers,
            readers,
            publisher,
            ends,
            commons,
            ports: BTreeMap::new(),
            generation: 1,
            identities: 0,
            port_numbers: UPLINK.0,
            tables: None,
            follower: Follower::new(Limits::default(), count.into()),
            generations: Generations::default(),
            synced: true,
            node: ["10.244.255.254", "fd00:10:244::fffe"]
                .map(|text| text.parse().expect("an address"))
                .to_vec(),
        };
        rig.wire(HOST, PortKind::Host, Shares::whole(WorkerId(0)), None);
        rig.wire(UPLINK, PortKind::Uplink, Shares::whole(WorkerId(count - 1)), None);
        rig
    }

    /// Wires a port with one queue for each worker that has a share of it.
    fn wire(&mut self, id: PortId, kind: PortKind, shares: Shares, pod: Option<(ObjectName, u32)>) {
        let mut wires = Vec::new();
        for worker in shares.workers() {
            let (port, wire) =
                MemoryPort::new(&self.region, RING, Abilities::new(true, true)).expect("a port");
            self.workers[usize::from(worker.0)].attach(id, kind, Box::new(port));
            wires.push(wire);
        }
        self.ports.insert(id, Wired { kind, shares, wires, pod, closed: false });
    }

    fn unwire(&mut self, id: PortId) -> Wired {
        let wired = self.ports.remove(&id).expect("a port");
        for worker in wired.shares.workers() {
            let port = self.workers[usize::from(worker.0)].detach(id).expect("the worker has it");
            for frame in port.close() {
                // The next port is filled from a worker's pool: as on a node, nothing gets less by coming and going.
                self.commons.push(frame).expect("the commons have room for all");
            }
        }
        wired
    }

    /// Gives the uplink this many queues, spread over the workers, one for each at most. What was in its rings is lost.
    /// Publish before packets arrive, as on a node.
    ///
    /// # Panics
    /// If the uplink is away.
    pub fn set_uplink_queues(&mut self, count: u8) {
        let count = u32::from(count).min(self.workers.len() as u32);
        let queues = ActiveQueues { receive: count, transmit: count };
        let last = WorkerId(self.workers.len() as u8 - 1);
        let shares = Shares::spread_over(queues, self.workers.len(), last);
        self.unwire(UPLINK);
        self.wire(UPLINK, PortKind::Uplink, shares, None);
    }

    /// How many queues a port has.
    ///
    /// # Panics
    /// If there is no such port.
    #[must_use]
    pub fn queues(&self, port: PortId) -> usize {
        self.ports.get(&port).expect("a port").wires.len()
    }

    /// The queue that the device puts a frame into: the same for all of a flow. It hashes addresses and ports, as far as they
    /// are there.
    #[must_use]
    pub fn queue_of(&self, port: PortId, frame: &[u8]) -> usize {
        let hashed = if frame.get(12) == Some(&8) { 26..38 } else { 22..58 };
        let sum = frame
            .iter()
            .take(hashed.end)
            .skip(hashed.start)
            .fold(17usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        sum % self.queues(port)
    }

    /// Never the number of a port that was.
    fn next_port(&mut self) -> PortId {
        self.port_numbers += 1;
        PortId(self.port_numbers)
    }

    /// Gives a pod a port on a worker. Publish afterwards.
    pub fn add_pod(&mut self, pod: &ObjectName, worker: WorkerId) -> PortId {
        self.identities += 1;
        let id = self.next_port();
        self.wire(id, PortKind::Pod, Shares::whole(worker), Some((pod.clone(), self.identities)));
        id
    }

    /// Takes a pod's port away. Publish before or afterwards.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn remove_pod(&mut self, id: PortId) {
        self.unwire(id);
    }

    /// Takes a pod's port away and gives it another one on the same worker: the same pod, whose device was opened anew.
    /// Publish afterwards.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn replug_pod(&mut self, id: PortId) -> PortId {
        let next = self.next_port();
        let Wired { shares, pod, .. } = self.unwire(id);
        self.wire(next, PortKind::Pod, shares, pod);
        next
    }

    /// Sets or clears a port's flag. Publish afterwards.
    pub fn set_closed(&mut self, id: PortId, closed: bool) {
        if let Some(wired) = self.ports.get_mut(&id) {
            wired.closed = closed;
        }
    }

    /// Compiles a cluster and publishes it with the ports there are. The pods' addresses are those of the cluster.
    ///
    /// # Panics
    /// If the compiler refuses.
    pub fn publish(&mut self, cluster: &Cluster) {
        let numbers: BTreeMap<&ObjectName, u32> = cluster.pods.keys().zip(1_000_000..).collect();
        let deliveries: BTreeMap<ObjectName, Delivery> = self
            .ports
            .iter()
            .filter_map(|(id, wired)| {
                let (name, identity) = wired.pod.as_ref()?;
                Some((name.clone(), Delivery { identity: *identity, port: Some(*id) }))
            })
            .collect();
        // Remote unless a port says otherwise.
        let remote = |pod: &Pod| Delivery { identity: numbers[&pod.name], port: None };
        let delivery = |pod: &Pod| deliveries.get(&pod.name).copied().unwrap_or_else(|| remote(pod));
        let tables = self.follower.follow(cluster, |_| true, delivery).expect("compiles");
        let snapshot = self.snapshot(cluster, &tables);
        snapshot.check(self.workers.len()).expect("consistent");
        self.tables = Some(tables);
        while self.publisher.publish(self.clone_of(&snapshot)).is_err() {
            self.collect();
        }
        self.generations.publish(self.generation);
        self.follower.published(self.generation, self.generations.oldest().unwrap_or(self.generation));
        self.collect();
    }

    /// Takes snapshots back that no worker has.
    fn collect(&mut self) {
        for snapshot in self.publisher.collect() {
            self.generations.reclaim(snapshot.generation);
        }
    }

    /// Publishing may be refused, which gives nothing back: make it anew.
    fn clone_of(&self, snapshot: &Snapshot) -> Snapshot {
        Snapshot {
            generation: snapshot.generation,
            synced: snapshot.synced,
            policy: snapshot.policy.clone(),
            ports: snapshot.ports.clone(),
            host: snapshot.host,
            node: snapshot.node.clone(),
            direct: snapshot.direct.clone(),
        }
    }

    fn snapshot(&mut self, cluster: &Cluster, tables: &PolicyTables) -> Snapshot {
        self.generation += 1;
        let mut ports = vec![None; usize::from(self.ports.keys().last().map_or(0, |id| id.0 + 1))];
        for (id, wired) in &self.ports {
            let addresses = match &wired.pod {
                Some((name, _)) => {
                    let pod = cluster.pods.get(name);
                    pod.filter(|pod| pod.is_subject()).map_or(&[][..], |pod| &pod.addresses)
                }
                None => &[],
            };
            ports[usize::from(id.0)] = Some(PortEntry {
                kind: wired.kind,
                worker: wired.shares.home(),
                spread: wired.shares.spread(),
                mac: gateway_mac(*id),
                peer_mac: peer_mac(*id),
                mtu: MTU,
                closed: wired.closed,
                addresses: addresses.into(),
                identity: wired.pod.as_ref().map_or(0, |(_, identity)| *identity),
            });
        }
        let route = |network: &str, via: &str| DirectRoute {
            network: network.parse().expect("a network"),
            port: UPLINK,
            via: Some(via.parse().expect("an address")),
        };
        let (router, router_v6) = ("203.0.113.1", "2001:db8:ffff::1");
        let neighbour = |address: &str| ((UPLINK, address.parse().expect("an address")), ROUTER_MAC);
        Snapshot {
            generation: self.generation,
            synced: self.synced,
            policy: tables.clone(),
            ports: ports.into(),
            host: Some(HOST),
            node: NodeAddresses::new(self.node.iter().copied()),
            direct: DirectRoutes::new(
                [
                    route(OUTSIDE, router),
                    route(OUTSIDE_V6, router_v6),
                    route("198.51.100.0/24", "203.0.113.99"),
                ],
                [neighbour(router), neighbour(router_v6)],
            ),
        }
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// A frame arrives on a port, by the queue that its flow has. False if there was no room.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn deliver(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.deliver_by(port, self.queue_of(port, frame), frame)
    }

    /// A frame arrives on a port by this queue. False if there was no room.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn deliver_by(&mut self, port: PortId, queue: usize, frame: &[u8]) -> bool {
        self.ports.get_mut(&port).expect("a port").wires[queue].deliver(frame)
    }

    /// The same, of a frame that lies in these buffers.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn deliver_parts(&mut self, port: PortId, parts: &[&[u8]]) -> bool {
        let queue = self.queue_of(port, &parts.concat());
        self.ports.get_mut(&port).expect("a port").wires[queue].deliver_parts(parts.iter().copied())
    }

    /// Has one worker take one turn.
    pub fn turn(&mut self, worker: usize) -> Activity {
        self.workers[worker].turn(&mut self.readers[worker])
    }

    /// Has all workers take turns until nothing is left to do, and returns what came out of the ports, with the checks
    /// of the module.
    ///
    /// # Panics
    /// If a packet or frame is not accounted for.
    pub fn settle(&mut self) -> Vec<(PortId, Sent)> {
        let mut idle = 0;
        let mut turns = 0;
        while idle < 3 {
            let mut busy = false;
            for worker in 0..self.workers.len() {
                busy |= self.turn(worker) == Activity::Busy;
            }
            idle = if busy { 0 } else { idle + 1 };
            turns += 1;
            assert!(turns < 10_000, "the workers do not come to rest");
        }
        let sent = self.take();
        assert_eq!(self.counts().imbalance(), 0, "a packet is not accounted for: {:?}", self.counts());
        sent
    }

    /// What came out of the ports since the last call.
    pub fn take(&mut self) -> Vec<(PortId, Sent)> {
        let ports: Vec<PortId> = self.ports.keys().copied().collect();
        ports
            .into_iter()
            .flat_map(|id| self.take_by_queue(id).into_iter().flatten().map(move |sent| (id, sent)))
            .collect()
    }

    /// What came out of each queue of a port since the last call.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn take_by_queue(&mut self, port: PortId) -> Vec<Vec<Sent>> {
        self.ports.get_mut(&port).expect("a port").wires.iter_mut().map(MemoryWire::take).collect()
    }

    /// Counters of all workers together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.ends.iter().for_each(|ends| sum.add(&ends.view.counters.snapshot()));
        sum
    }

    /// Counters of each worker.
    pub fn counts_by_worker(&self) -> impl Iterator<Item = (WorkerId, Counts)> {
        let all = self.ends.iter().enumerate();
        all.map(|(number, ends)| (WorkerId(number as u8), ends.view.counters.snapshot()))
    }

    /// Drops by reason, those that are not 0.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<DropReason, u64> {
        let counts = self.counts().counts;
        let all = DropReason::ALL.iter().map(|reason| (*reason, counts.drops(*reason).iter().sum()));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Records of drops since the last call.
    pub fn records(&mut self) -> Vec<DropRecord> {
        self.ends.iter_mut().flat_map(|ends| std::iter::from_fn(|| ends.drops.pop())).collect()
    }

    /// Drops that were not recorded.
    #[must_use]
    pub fn records_lost(&self) -> u64 {
        self.ends.iter().map(|ends| ends.drops.lost()).sum()
    }

    /// Neighbours that packets wanted.
    pub fn unresolved(&mut self) -> Vec<Unresolved> {
        self.ends.iter_mut().flat_map(|ends| std::iter::from_fn(|| ends.unresolved.pop().ok())).collect()
    }

    /// Connections in all tables.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.ends.iter().map(|ends| ends.view.flows()).sum()
    }

    /// Errors and resets that were kept back because there had been too many.
    #[must_use]
    pub fn errors_refused(&self) -> u64 {
        self.ends.iter().map(|ends| ends.view.errors_refused()).sum()
    }

    /// Connections charged to the ports that are there or were, in each worker's table.
    pub fn charges(&self) -> impl Iterator<Item = &Charge> {
        self.by_port(|view, port| view.charges.of(port)).map(|(_, charge)| charge)
    }

    /// Fragments by the ports that are there or were, in each worker's table.
    pub fn fragment_charges(&self) -> impl Iterator<Item = (PortId, &fragment::Charge)> {
        self.by_port(|view, port| view.fragments.of(port))
    }

    /// Errors and resets about what came by the ports that are there or were, for each worker.
    pub fn error_charges(&self) -> impl Iterator<Item = (PortId, &ErrorCharge)> {
        self.by_port(|view, port| view.errors.of(port))
    }

    fn by_port<'a, T: 'a>(
        &'a self,
        of: impl Fn(&'a WorkerView, PortId) -> Option<&'a T> + Copy + 'a,
    ) -> impl Iterator<Item = (PortId, &'a T)> {
        let last = self.port_numbers;
        let ports = move || (0..=last).map(PortId);
        self.ends
            .iter()
            .flat_map(move |ends| ports().filter_map(move |port| Some((port, of(&ends.view, port)?))))
    }

    /// What came by a port and is in all workers' tables of fragments: datagrams, fragments that wait, and those refused.
    #[must_use]
    pub fn fragments_of(&self, port: PortId) -> (u32, u32, u64) {
        let all = self.fragment_charges().filter(|(of, _)| *of == port);
        all.fold((0, 0, 0), |(datagrams, held, refused), (_, charge)| {
            (datagrams + charge.datagrams(), held + charge.held(), refused + charge.refused().count())
        })
    }

    /// What happened to connections, in each worker's table.
    pub fn flow_counts(&self) -> impl Iterator<Item = (WorkerId, FlowCounts)> {
        let all = self.ends.iter().enumerate();
        all.map(|(number, ends)| (WorkerId(number as u8), ends.view.flow_counts()))
    }

    /// What the workers know of the connections between two ends.
    pub fn find_flows(&mut self, tuple: &Tuple) -> Vec<FoundFlow> {
        let workers = self.workers.iter_mut().zip(&mut self.readers);
        workers.flat_map(|(worker, reader)| worker.find_flows(&reader.pin(), tuple)).collect()
    }

    /// The generation that was published last.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What time the workers' clock shows.
    #[must_use]
    pub fn now(&self) -> Instant64 {
        self.clock.now()
    }

    /// Datagrams in fragments that all workers remember.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.ends.iter().map(|ends| ends.view.datagrams()).sum()
    }

    /// Ends everything.
    ///
    /// # Panics
    /// If a frame is missing.
    pub fn finish(self) {
        let Self { workers, mut spare, commons, ports, .. } = self;
        drop(ports);
        for worker in workers {
            let (ports, mut pool) = worker.into_parts();
            ports.into_iter().flat_map(|port| port.close()).for_each(|frame| pool.put(frame));
            let all = pool.len();
            pool.give(&mut spare, all);
        }
        while let Some(frame) = commons.pop() {
            spare.put(frame);
        }
        assert_eq!(spare.len(), FRAMES as usize, "frames are lost");
    }
}

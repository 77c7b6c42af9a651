//! A worker, and packets of established and new connections between some pods of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use podgate_bench::one_worker::OneWorker;
use podgate_config::model::{Cluster, ObjectName};
use podgate_control::gateway::snapshot::Inputs;
use podgate_dataplane::clock::MonotonicClock;
use podgate_dataplane::counters::Snapshot as Counts;
use podgate_dataplane::flow::FlowCounts;
use podgate_dataplane::packet::{PortKind, WorkerId};
use podgate_dataplane::policy::{PolicyTables, Question, judge};
use podgate_dataplane::port::MemoryWire;
use podgate_dataplane::snapshot::{Mac, PortEntry, Snapshot};
use podgate_dataplane::worker::{Worker, WorkerEnds};
use podgate_rcu::Reader;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Packets of a turn.
const BATCH: usize = 128;
/// No turn takes so long unless somebody else has the core meanwhile: every packet judged would be a tenth of it.
const WAITED: Duration = Duration::from_micros(300);
/// One packet in so many opens a connection.
const NEW: usize = 100;
/// Entries of each ring.
const RING: u32 = 128;
/// Pods with ports, and the namespaces that they are in.
const PODS: usize = 32;
const NAMESPACES: usize = 4;

/// Pods with ports here.
pub struct Node {
    pub pods: BTreeMap<ObjectName, (u16, IpAddr)>,
}

impl Node {
    /// Some pods of some namespaces.
    pub fn of(cluster: &Cluster) -> Self {
        let namespaces: BTreeSet<_> = cluster.pods.keys().map(|name| &name.namespace).collect();
        let step = (namespaces.len() / NAMESPACES).max(1);
        let chosen = namespaces.into_iter().step_by(step).take(NAMESPACES);
        let pods = chosen.flat_map(|namespace| {
            let pods = cluster.pods.values().filter(move |pod| pod.name.namespace == *namespace);
            pods.take(PODS / NAMESPACES)
        });
        let numbered = (0..).zip(pods);
        let pods = numbered.filter_map(|(id, pod)| Some((pod.name.clone(), (id, *pod.addresses.first()?))));
        Self { pods: pods.collect() }
    }

    /// What the snapshots say besides policy. `identity` is what the tables say.
    pub fn inputs(&self, identity: impl Fn(&ObjectName) -> u32) -> Inputs {
        let entry = |name: &ObjectName, id: u16, address: IpAddr| PortEntry {
            kind: PortKind::Pod,
            worker: WorkerId(0),
            spread: 0,
            mac: mac(0xaa, id),
            peer_mac: mac(0xbb, id),
            mtu: 1500,
            closed: false,
            addresses: [address].into(),
            identity: identity(name),
        };
        let ports = self.pods.iter().map(|(name, (id, address))| (*id, entry(name, *id, *address)));
        let pods = self.pods.iter().map(|(name, (id, _))| (name.clone(), *id));
        Inputs { synced: true, ports: ports.collect(), pods: pods.collect(), ..Inputs::default() }
    }
}

fn mac(side: u8, id: u16) -> Mac {
    let [high, low] = id.to_be_bytes();
    [2, side, 0, 0, high, low]
}

struct Connection {
    port: usize,
    frame: Vec<u8>,
    /// Of its last packet.
    generation: u64,
}

/// What happened in an interval.
#[derive(Default)]
pub struct Interval {
    pub packets: u64,
    pub turns: u64,
    /// Packets of established connections that were the first under their generation.
    pub judged_again: u64,
    /// Processor time of the worker's thread, wires included.
    pub processor: Duration,
    /// In turns alone, those left out in which the thread had to wait for its core.
    pub in_turns: Duration,
    /// Packets of the turns that were not left out.
    pub in_turns_packets: u64,
    pub passed: u64,
    pub opened: u64,
    pub cut: u64,
}

/// The worker and its wires. Belongs to one thread.
pub struct Traffic {
    worker: Worker<MonotonicClock>,
    reader: Reader<Snapshot>,
    wires: Vec<MemoryWire>,
    ends: Vec<WorkerEnds>,
    established: Vec<Connection>,
    random: StdRng,
    next: u32,
}

impl Traffic {
    /// `connections` established ones, all of which `tables` admit.
    pub fn new(
        node: &Node,
        tables: &PolicyTables,
        reader: Reader<Snapshot>,
        connections: usize,
    ) -> Result<Self> {
        let made = OneWorker::new(u16::try_from(node.pods.len())?, RING, BATCH, connections + 16_384)?;
        let OneWorker { worker, wires, ends } = made;
        let random = StdRng::seed_from_u64(5);
        let mut traffic = Self { worker, reader, wires, ends, established: Vec::new(), random, next: 0 };
        let admitted = admitted(node, tables);
        ensure!(!admitted.is_empty(), "no connection between the pods is admitted");
        let pairs: BTreeSet<_> =
            admitted.iter().map(|(source, destination, _)| (source.0, destination.0)).collect();
        println!("connections between {} pairs of {} pods", pairs.len(), node.pods.len());
        for number in 0..connections {
            let place = traffic.random.random_range(0..admitted.len());
            let Some((source, destination, port)) = admitted.get(place) else { continue };
            let mut frame = Vec::new();
            let (IpAddr::V4(from), IpAddr::V4(to)) = (source.1, destination.1) else { continue };
            PacketBuilder::ethernet2(mac(0xbb, source.0), mac(0xaa, source.0))
                .ipv4(from.octets(), to.octets(), 64)
                .udp(1024 + (number % 16_384) as u16, *port)
                .write(&mut frame, &[0; 18])?;
            traffic.established.push(Connection { port: source.0.into(), frame, generation: 0 });
        }
        Ok(traffic)
    }

    /// Sends packets for so long.
    pub fn run(&mut self, time: Duration) -> Result<Interval> {
        let before = (self.counts(), self.flows(), processor_time()?);
        let mut interval = Interval::default();
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.turn(&mut interval);
        }
        let (counts, flows) = (self.counts(), self.flows());
        let sum = |counts: &Counts| counts.counts.tx_packets.iter().sum::<u64>();
        interval.processor = processor_time()?.saturating_sub(before.2);
        interval.passed = sum(&counts) - sum(&before.0);
        interval.opened = flows.opened - before.1.opened;
        interval.cut = flows.cut - before.1.cut;
        Ok(interval)
    }

    fn turn(&mut self, interval: &mut Interval) {
        let packets_before = interval.packets;
        let mut batch = [usize::MAX; BATCH];
        for (number, place) in batch.iter_mut().enumerate() {
            let chosen = self.random.random_range(0..self.established.len());
            let Some(connection) = self.established.get_mut(chosen) else { continue };
            let Some(wire) = self.wires.get_mut(connection.port) else { continue };
            let new = (interval.turns as usize * BATCH + number).is_multiple_of(NEW);
            let delivered = if new {
                // Source ports that no established connection has.
                self.next = (self.next + 1) % 32_768;
                let mut frame = connection.frame.clone();
                if let Some(port) = frame.get_mut(34..36) {
                    port.copy_from_slice(&(32_768 + self.next as u16).to_be_bytes());
                }
                wire.deliver(&frame)
            } else {
                *place = chosen;
                wire.deliver(&connection.frame)
            };
            interval.packets += u64::from(delivered);
        }
        let begin = Instant::now();
        black_box(self.worker.turn(&mut self.reader));
        let taken = begin.elapsed();
        interval.turns += 1;
        if taken < WAITED {
            interval.in_turns += taken;
            interval.in_turns_packets += interval.packets - packets_before;
        }
        let generation = self.ends.first().map_or(0, |ends| ends.view.generation());
        for place in batch {
            if let Some(connection) = self.established.get_mut(place)
                && connection.generation != generation
            {
                connection.generation = generation;
                interval.judged_again += 1;
            }
        }
        for wire in &mut self.wires {
            black_box(wire.take());
        }
    }

    fn counts(&self) -> Counts {
        self.ends.first().map(|ends| ends.view.counters.snapshot()).unwrap_or_default()
    }

    fn flows(&self) -> FlowCounts {
        self.ends.first().map(|ends| ends.view.flow_counts()).unwrap_or_default()
    }
}

fn processor_time() -> Result<Duration> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(Duration::from(time))
}

type End = (u16, IpAddr);

/// UDP connections between the node's pods that the policies admit.
fn admitted(node: &Node, tables: &PolicyTables) -> Vec<(End, End, u16)> {
    let mut admitted = Vec::new();
    for &source in node.pods.values() {
        for &destination in node.pods.values().filter(|other| other.0 != source.0) {
            for port in [53, 443, 8000, 9100, 10_050, 20_000] {
                let slot = |(_, address): End| tables.lookup(address).map(|(_, slot)| slot);
                let question = Question {
                    source: source.1,
                    source_pod: slot(source),
                    destination: destination.1,
                    destination_pod: slot(destination),
                    protocol: 17,
                    port,
                    judge_egress: true,
                    judge_ingress: true,
                    same_pod: false,
                    from_own_node: false,
                    to_own_node: false,
                };
                if judge(tables, &question).allowed() {
                    admitted.push((source, destination, port));
                }
            }
        }
    }
    admitted
}

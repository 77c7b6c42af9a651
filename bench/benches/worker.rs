//! What a packet costs a worker: whole turns over in-memory ports, from reception to transmission.
//!
//! Only the turn is timed; the wire at the other end of the rings is not. `hit` sends packets of that many live
//! connections in random order, `miss` one packet of a new connection each, judged and entered. The same turn with
//! everything in it (aging, counters, ring work), so compare it with TARGETS' whole turns, not with bare lookups.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use podgate_bench::one_worker::OneWorker;
use podgate_config::model::pod::Phase;
use podgate_config::model::{Cluster, ObjectName, Pod};
use podgate_control::compiler::{Limits, Scope, compile_for};
use podgate_dataplane::clock::MonotonicClock;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::Delivery;
use podgate_dataplane::port::MemoryWire;
use podgate_dataplane::snapshot::{DirectRoutes, NodeAddresses, PortEntry, Snapshot};
use podgate_dataplane::worker::{Worker, WorkerEnds};
use podgate_rcu::{Publisher, Reader};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const BATCH: usize = 64;
const MAC: [[u8; 6]; 2] = [[2, 0xaa, 0, 0, 0, 0], [2, 0xaa, 0, 0, 0, 1]];

/// Two pods on one worker, without policies: what is measured is the way, not the verdict.
struct Gateway {
    worker: Worker<MonotonicClock>,
    reader: Reader<Snapshot>,
    wires: Vec<MemoryWire>,
    ends: Vec<WorkerEnds>,
    frame: Vec<u8>,
    _publisher: Publisher<Snapshot>,
}

impl Gateway {
    fn new(flows: usize) -> Result<Self> {
        let OneWorker { worker, wires, ends } = OneWorker::new(2, 256, BATCH, flows)?;

        let mut cluster = Cluster::default();
        let addresses: [IpAddr; 2] = ["10.244.0.1".parse()?, "10.244.0.2".parse()?];
        for (text, address) in ["a", "b"].into_iter().zip(addresses) {
            let name = ObjectName::parse("shop", text)?;
            let pod = Pod {
                name: name.clone(),
                uid: None,
                labels: Default::default(),
                addresses: vec![address],
                phase: Phase::Live,
                host_network: false,
                node: None,
                ports: Vec::new(),
            };
            cluster.pods.insert(name, pod);
        }
        let delivery = |pod: &Pod| {
            let number = u16::from(pod.addresses.first() == addresses.last());
            Delivery { identity: u32::from(number) + 1, port: Some(PortId(number)) }
        };
        let tables = compile_for(&cluster, Scope::AllPods, &Limits::default(), 1, delivery)?.tables;
        let mut ports = Vec::new();
        for ((number, address), mac) in (0_u16..).zip(addresses).zip(MAC) {
            let identity = u32::from(number) + 1;
            ports.push(Some(PortEntry {
                kind: PortKind::Pod,
                worker: WorkerId(0),
                spread: 0,
                mac,
                peer_mac: [2, 0xbb, 0, 0, 0, number as u8],
                mtu: 1500,
                closed: false,
                addresses: [address].into(),
                identity,
            }));
        }
        let publisher = Publisher::new(Snapshot {
            generation: 2,
            synced: true,
            policy: tables,
            ports: ports.into(),
            host: None,
            node: NodeAddresses::default(),
            direct: DirectRoutes::default(),
        });
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0xbb, 0, 0, 0, 0], MAC[0])
            .ipv4([10, 244, 0, 1], [10, 244, 0, 2], 64)
            .udp(0, 0)
            .write(&mut frame, &[0; 18])?;
        let reader = publisher.reader_handle().register();
        Ok(Self { worker, reader, wires, ends, frame, _publisher: publisher })
    }

    /// One turn over a batch of packets, one of each connection in `flows`.
    fn turn(&mut self, flows: impl Iterator<Item = u32>) -> Duration {
        let [from, to] = self.wires.as_mut_slice() else { return Duration::ZERO };
        for flow in flows {
            // The number of the connection is its pair of ports.
            if let Some(ports) = self.frame.get_mut(34..38) {
                ports.copy_from_slice(&flow.to_be_bytes());
            }
            from.deliver(&self.frame);
        }
        let start = Instant::now();
        black_box(self.worker.turn(&mut self.reader));
        let taken = start.elapsed();
        black_box(to.take());
        taken
    }

    fn sent(&self) -> u64 {
        let counts = self.ends.iter().map(|ends| ends.view.counters.snapshot().counts);
        counts.map(|counts| counts.tx_packets.iter().sum::<u64>()).sum()
    }
}

fn hit(criterion: &mut Criterion, flows: u32) -> Result<()> {
    let mut gateway = Gateway::new(flows as usize + 1)?;
    let mut next = 0..flows;
    while !next.is_empty() {
        gateway.turn(next.by_ref().take(BATCH));
    }
    anyhow::ensure!(gateway.sent() == u64::from(flows), "{} of {flows} passed", gateway.sent());
    let mut random = StdRng::seed_from_u64(1);
    criterion.bench_function(&format!("turn/hit, {flows} connections"), |bencher| {
        bencher.iter_custom(|packets| {
            let batches = packets.div_ceil(BATCH as u64);
            let taken: Duration =
                (0..batches).map(|_| gateway.turn((0..BATCH).map(|_| random.next_u32() % flows))).sum();
            taken.mul_f64(packets as f64 / (batches * BATCH as u64) as f64)
        });
    });
    let opened = gateway.ends.iter().map(|ends| ends.view.flow_counts().opened).sum::<u64>();
    anyhow::ensure!(opened == u64::from(flows), "{} of the packets were no hits", opened - u64::from(flows));
    Ok(())
}

fn miss(criterion: &mut Criterion) -> Result<()> {
    const ROOM: usize = 100_000;
    let mut gateway = Gateway::new(ROOM)?;
    let mut next = 0_u32;
    criterion.bench_function("turn/miss, the oldest of 100000 evicted", |bencher| {
        bencher.iter_custom(|packets| {
            let batches = packets.div_ceil(BATCH as u64);
            let mut taken = Duration::ZERO;
            for _ in 0..batches {
                taken += gateway.turn(next..next.wrapping_add(BATCH as u32));
                next = next.wrapping_add(BATCH as u32) & 0x7fff_ffff;
            }
            taken.mul_f64(packets as f64 / (batches * BATCH as u64) as f64)
        });
    });
    Ok(())
}

fn idle(criterion: &mut Criterion) -> Result<()> {
    let mut gateway = Gateway::new(1000)?;
    criterion.bench_function("turn/nothing to do", |bencher| {
        bencher.iter(|| gateway.worker.turn(&mut gateway.reader));
    });
    Ok(())
}

fn benches(criterion: &mut Criterion) {
    let mut all = || -> Result<()> {
        idle(criterion)?;
        for flows in [1_000, 100_000, 1_000_000, 4_000_000] {
            hit(criterion, flows)?;
        }
        miss(criterion)
    };
    if let Err(error) = all() {
        eprintln!("{error:#}");
        std::process::exit(2);
    }
}

criterion_group!(worker, benches);
criterion_main!(worker);

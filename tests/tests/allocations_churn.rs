//! A worker has no part in what a change of policy costs in memory: while tables come and go under it, its turns allocate
//! none and free none.
//!
//! What may happen there is known by size: the epoch scheme keeps what is to be buried in bags, and those who publish in
//! entries of a list, and a worker that passes by gives a bag or an entry back, or makes a bag when it has given back
//! sixty-four. All others come from the allocator of whoever publishes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr};

use af_xdp::{Abilities, Region};
use podgate_config::model::labels::{LabelKey, LabelValue};
use podgate_config::model::selector::{Operator, Requirement};
use podgate_config::model::*;
use podgate_control::compiler::Limits;
use podgate_control::gateway::generations::Generations;
use podgate_dataplane::clock::MonotonicClock;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_dataplane::port::MemoryPort;
use podgate_dataplane::snapshot::{DirectRoutes, NodeAddresses, PortEntry, Snapshot};
use podgate_dataplane::worker::{WorkerSettings, WorkerView, commons, workers};
use podgate_rcu::Publisher;
use podgate_tests::cluster;
use podgate_tests::follow::Follower;
use podgate_tests::frames::From;
use podgate_tests::rig::{gateway_mac, peer_mac};

const PODS: u32 = 120;
const POLICIES: u32 = 60;
const PUBLICATIONS: u64 = 1500;
/// Turns before anything is counted: buffers and the flow table fill.
const WARM: u32 = 500;

fn label(key: &str, number: u32) -> (LabelKey, LabelValue) {
    (LabelKey::parse(key).unwrap(), LabelValue::parse(&format!("v{number}")).unwrap())
}

fn is(key: &str, number: u32) -> Selector {
    let (key, value) = label(key, number);
    Selector::new([Requirement { key, operator: Operator::In([value].into_iter().collect()) }]).unwrap()
}

fn pod(number: u32) -> Pod {
    Pod {
        labels: [label("app", number % 12), label("own", number)].into_iter().collect(),
        ..cluster::pod(
            &format!("shop/pod-{number:04}"),
            [IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + number))],
        )
    }
}

/// Isolates an app, and admits another one and one pod. `port` is what changes.
fn policy(number: u32, port: u16) -> NetworkPolicy {
    let peer = |pods| Peer::Pods { namespaces: None, pods };
    let port = std::num::NonZero::new(port).unwrap();
    let rule = |ports, peers| Rule { ports, peers };
    NetworkPolicy {
        name: ObjectName::parse("shop", &format!("policy-{number:04}")).unwrap(),
        pods: is("app", number % 12),
        ingress: Some(vec![
            rule(vec![PolicyPort::range(Protocol::Tcp, port, port).unwrap()], vec![peer(is("own", number))]),
            rule(vec![PolicyPort::all(Protocol::Udp)], vec![peer(Selector::everything())]),
        ]),
        egress: None,
    }
}

fn first_cluster() -> Cluster {
    let mut cluster = Cluster::default();
    (1..=PODS).map(pod).for_each(|pod| drop(cluster.pods.insert(pod.name.clone(), pod)));
    for policy in (0..POLICIES).map(|number| policy(number, 80)) {
        cluster.policies.insert(policy.name.clone(), policy.into());
    }
    cluster
}

/// One change: a pod relabelled, gone or back, or a policy changed.
fn change(cluster: &mut Cluster, number: u64) {
    let place = (number as u32 * 7) % PODS + 1;
    let mut some = pod(place);
    match number % 4 {
        // The pods with ports stay.
        0 if place > 2 => {
            if cluster.pods.remove(&some.name).is_none() {
                cluster.pods.insert(some.name.clone(), some);
            }
        }
        1 => {
            let (key, value) = label("app", number as u32 % 12);
            some.labels.insert(key, value);
            cluster.pods.insert(some.name.clone(), some);
        }
        _ => {
            let policy = policy(place % POLICIES, 1000 + number as u16);
            cluster.policies.insert(policy.name.clone(), policy.into());
        }
    }
}

fn delivery(pod: &Pod) -> Delivery {
    let Some(IpAddr::V4(address)) = pod.addresses.first() else { panic!("an IPv4 pod") };
    let number = address.to_bits() - 0x0af4_0000;
    // The first two pods have a port.
    Delivery { identity: number, port: (number <= 2).then_some(PortId(number as u16 - 1)) }
}

fn snapshot(generation: u64, policy: PolicyTables) -> Snapshot {
    let entry = |number: u16| PortEntry {
        kind: PortKind::Pod,
        worker: WorkerId(0),
        spread: 0,
        mac: gateway_mac(PortId(number)),
        peer_mac: peer_mac(PortId(number)),
        mtu: 1500,
        closed: false,
        addresses: pod(u32::from(number) + 1).addresses.into(),
        identity: u32::from(number) + 1,
    };
    Snapshot {
        generation,
        synced: true,
        policy,
        ports: [0, 1].map(|number| Some(entry(number))).into(),
        host: None,
        node: NodeAddresses::default(),
        direct: DirectRoutes::default(),
    }
}

/// Makes changes as fast as the worker sees them, and takes old tables back as a gateway does.
fn churn(mut publisher: Publisher<Snapshot>, mut follower: Follower, view: &WorkerView) {
    let mut cluster = first_cluster();
    let mut generations = Generations::default();
    generations.publish(2);
    for generation in 3..PUBLICATIONS + 3 {
        change(&mut cluster, generation);
        let tables = follower.follow(&cluster, |_| true, delivery).unwrap();
        while publisher.publish(snapshot(generation, tables.clone())).is_err() {
            publisher.collect().iter().for_each(|old| generations.reclaim(old.generation));
            std::thread::yield_now();
        }
        generations.publish(generation);
        while view.generation() < generation {
            std::thread::yield_now();
        }
        // Not always at once, so that what is left over meets the worker too.
        if generation % 5 == 0 {
            publisher.collect().iter().for_each(|old| generations.reclaim(old.generation));
        }
        follower.published(generation, generations.oldest().unwrap());
    }
}

/// What the epoch scheme allocates: a bag, and an entry of its list of threads.
fn epoch_sizes() -> (u64, u64) {
    let mut publisher = Publisher::new(0_u64);
    let mut reader = None;
    let entry = allocation_counter::measure(|| reader = Some(publisher.reader_handle().register()));
    let publication = allocation_counter::measure(|| publisher.publish(1).unwrap_or_default());
    assert!(reader.is_some() && publisher.waiting() == 1);
    // The value, an entry, a bag with the one before, and an empty one when the entry is given up.
    assert_eq!((entry.count_total, publication.count_total), (1, 4));
    let bags = publication.bytes_total - entry.bytes_total - 8;
    assert_eq!(bags % 2, 0);
    (bags / 2, entry.bytes_total)
}

#[test]
fn a_worker_neither_makes_nor_frees_tables_while_they_change() {
    let (bag, entry) = epoch_sizes();
    // `count` blocks of together `bytes` are bags and entries, and nothing else.
    let known = |count: u64, bytes: u64| {
        let by_bags = |bags| bags * bag + (count - bags) * entry;
        (0..=count).any(|bags| by_bags(bags) == bytes)
    };

    let (region, mut ledger) = Region::new(1024).unwrap();
    let settings = WorkerSettings { flows: 256, flows_per_pod: 256, ..WorkerSettings::default() };
    let pools = vec![ledger.pool(1024)];
    let (mut made, ends) =
        workers(&region, pools, &commons(&region), &settings, &MonotonicClock::new()).unwrap();
    let mut worker = made.pop().unwrap();
    let mut wires = [0, 1].map(|number| {
        let (port, wire) = MemoryPort::new(&region, 64, Abilities::new(true, true)).unwrap();
        worker.attach(PortId(number), PortKind::Pod, Box::new(port));
        wire
    });
    let mut follower = Follower::new(Limits::default(), 1);
    let tables = follower.follow(&first_cluster(), |_| true, delivery).unwrap();
    let size = tables.memory_bytes() as u64;
    assert!(size > 20 * bag.max(entry), "{size} bytes of tables are too small to tell");
    let publisher = Publisher::new(snapshot(2, tables));
    follower.published(2, 2);
    let mut reader = publisher.reader_handle().register();
    let address = |number| *pod(number).addresses.first().unwrap();
    let there = From::new(PortId(0), address(1), address(2));

    let (mut made, mut freed, mut turns) = ((0, 0), (0, 0), 0_u64);
    // Told when all is over: the other thread waits for this one.
    let mut strange = Vec::new();
    let view = ends.first().unwrap().view.clone();
    let mut turn = |counts: bool| {
        turns += 1;
        // Old connections, and every now and then a new one; and one that is denied.
        let new = turns / 16 % 1000;
        for port in [1000, 1001, 1002, 2000 + new as u16] {
            assert!(wires[0].deliver(&there.udp(port, 53, b"data")));
        }
        assert!(wires[0].deliver(&there.tcp(4000, 81, "S")));
        let info = allocation_counter::measure(|| {
            worker.turn(&mut reader);
        });
        wires.iter_mut().for_each(|wire| drop(wire.take()));
        if !counts {
            return;
        }
        let frees = (
            info.count_total.checked_add_signed(-info.count_current).unwrap(),
            info.bytes_total.checked_add_signed(-info.bytes_current).unwrap(),
        );
        if !known(info.count_total, info.bytes_total) || !known(frees.0, frees.1) {
            strange.push((info, frees));
        }
        made = (made.0 + info.count_total, made.1 + info.bytes_total);
        freed = (freed.0 + frees.0, freed.1 + frees.1);
    };
    for _ in 0..WARM {
        turn(false);
    }
    std::thread::scope(|scope| {
        let control = scope.spawn(|| churn(publisher, follower, &view));
        while !control.is_finished() {
            turn(true);
        }
        control.join().unwrap();
    });
    println!(
        "{turns} turns made {made:?} and freed {freed:?} (blocks, bytes); a bag has {bag}, an entry {entry}"
    );
    assert!(strange.is_empty(), "turns made or freed what is neither bag nor entry: {strange:?}");
    assert!(view.generation() == PUBLICATIONS + 2);
    assert!(made.0 <= PUBLICATIONS / 8, "{} blocks for {PUBLICATIONS} publications", made.0);
    let sent = view.counters.snapshot().counts.tx_packets.iter().sum::<u64>();
    assert!(sent > turns * 2, "{sent} packets passed");
}

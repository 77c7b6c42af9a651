//! An uplink whose queues are spread over the workers: who receives, who sends, and that a flow stays in order.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use podgate_config::model::*;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::worker::WorkerSettings;
use podgate_tests::choices::Choices;
use podgate_tests::cluster::{Addresses, ip, pod};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, Rig, UPLINK};

fn outside() -> IpAddr {
    Addresses { six: false }.outside()
}

fn address(pod: usize) -> IpAddr {
    ip(&format!("10.244.0.{}", pod + 1))
}

/// One pod a worker, and an uplink with `queues` queues.
fn gateway(workers: u8, queues: u8) -> (Rig, Cluster, Vec<PortId>) {
    let mut rig = Rig::new(workers, &WorkerSettings::default());
    let mut cluster = Cluster::default();
    let mut ports = Vec::new();
    for number in 0..workers {
        let pod = pod(&format!("shop/pod-{number}"), [address(number.into())]);
        ports.push(rig.add_pod(&pod.name, WorkerId(number)));
        cluster.pods.insert(pod.name.clone(), pod);
    }
    rig.set_uplink_queues(queues);
    rig.publish(&cluster);
    (rig, cluster, ports)
}

/// How many packets came out of each queue of the uplink.
fn sent(rig: &mut Rig) -> Vec<usize> {
    rig.take_by_queue(UPLINK).iter().map(Vec::len).collect()
}

/// Has all workers take some turns, without looking at what comes out.
fn turns(rig: &mut Rig, workers: u8) {
    for _ in 0..4 {
        for worker in 0..workers {
            rig.turn(worker.into());
        }
    }
}

#[test]
fn an_owner_sends_by_its_own_queue_whatever_queue_the_flow_came_in_by() {
    let (mut rig, _, ports) = gateway(2, 2);
    assert_eq!(rig.queues(UPLINK), 2);
    for queue in [0, 1] {
        for (pod, port) in ports.iter().enumerate() {
            let client = 1000 + queue as u16;
            let request = From::new(UPLINK, outside(), address(pod)).udp(client, 53, b"query");
            assert!(rig.deliver_by(UPLINK, queue, &request));
            let came = rig.settle();
            assert_eq!(came.len(), 1);
            assert_eq!(came[0].0, *port, "by queue {queue}");
            let answer = From::new(*port, address(pod), outside()).udp(53, client, b"answer");
            assert!(rig.deliver(*port, &answer));
            turns(&mut rig, 2);
            let mut expected = [0; 2];
            expected[pod] = 1;
            assert_eq!(sent(&mut rig), expected, "pod {pod} is at worker {pod}");
        }
    }
    // The host port is at worker 0, which owns what is between the host and the outside.
    assert!(rig.deliver(HOST, &From::new(HOST, rig.node[0], outside()).udp(1, 2, b"x")));
    turns(&mut rig, 2);
    assert_eq!(sent(&mut rig), [1, 0]);
    assert_eq!(rig.drops(), BTreeMap::new());
    rig.finish();
}

#[test]
fn an_owner_without_queue_sends_by_way_of_the_first() {
    let (mut rig, _, ports) = gateway(3, 2);
    for (pod, expected) in [(0, [1, 0]), (1, [0, 1]), (2, [1, 0])] {
        assert!(rig.deliver(ports[pod], &From::new(ports[pod], address(pod), outside()).udp(1, 2, b"x")));
        turns(&mut rig, 3);
        assert_eq!(sent(&mut rig), expected, "pod {pod}");
    }
    rig.finish();
}

#[test]
fn answers_of_the_gateways_own_leave_by_the_uplink_too() {
    let (mut rig, _, ports) = gateway(2, 2);
    // Expired on its way to a pod of the other worker: the owner answers.
    let mut expired = From::new(UPLINK, outside(), address(1)).udp(1, 2, b"x");
    expired[22] = 1;
    let sum = etherparse::Ipv4Header::from_slice(&expired[14..]).unwrap().0.calc_header_checksum();
    expired[24..26].copy_from_slice(&sum.to_be_bytes());
    assert!(rig.deliver_by(UPLINK, 0, &expired));
    turns(&mut rig, 2);
    assert_eq!(sent(&mut rig), [0, 1]);
    assert!(rig.take().iter().all(|(port, _)| *port != ports[1]));
    assert_eq!(rig.drops(), [(DropReason::TtlExpired, 1)].into());
    rig.settle();
    rig.finish();
}

/// Flows both ways with numbered packets, workers that take turns in no order, and queues that change meanwhile.
#[test]
fn a_flow_stays_in_order() {
    const FLOWS: u64 = 8;
    for seed in 0..200 {
        let mut choices = Choices::seeded(seed);
        let workers = 2 + (seed % 2) as u8;
        let (mut rig, cluster, ports) = gateway(workers, workers);
        // By direction and flow.
        let mut next = [[0u64; FLOWS as usize]; 2];
        let mut last = [[None; FLOWS as usize]; 2];
        let mut arrived = 0;
        for step in 0..60 {
            for _ in 0..choices.below(12) {
                let flow = choices.below(FLOWS as usize);
                let pod = flow % usize::from(workers);
                let inward = choices.chance(50);
                let (port, from) = if inward {
                    (UPLINK, From::new(UPLINK, outside(), address(pod)))
                } else {
                    (ports[pod], From::new(ports[pod], address(pod), outside()))
                };
                let number = &mut next[usize::from(inward)][flow];
                let mut payload = [0; 10];
                payload[0] = u8::from(inward);
                payload[1] = flow as u8;
                payload[2..].copy_from_slice(&number.to_be_bytes());
                let (client, server) = (4000 + flow as u16, 53);
                let frame = if inward {
                    from.udp(client, server, &payload)
                } else {
                    from.udp(server, client, &payload)
                };
                if rig.deliver(port, &frame) {
                    *number += 1;
                }
            }
            for _ in 0..choices.below(6) {
                rig.turn(choices.below(usize::from(workers)));
            }
            if step % 20 == 19 {
                // While the port is away nothing is under way by it; it comes back when all workers know of it.
                rig.settle().into_iter().for_each(|(_, sent)| check(&sent.bytes, &mut last, &mut arrived));
                rig.set_uplink_queues(1 + choices.below(usize::from(workers)) as u8);
                rig.publish(&cluster);
            }
            if choices.chance(30) {
                rig.take().into_iter().for_each(|(_, sent)| check(&sent.bytes, &mut last, &mut arrived));
            }
        }
        rig.settle().into_iter().for_each(|(_, sent)| check(&sent.bytes, &mut last, &mut arrived));
        assert!(arrived > 200, "seed {seed}: only {arrived} packets arrived");
        rig.finish();
    }

    fn check(bytes: &[u8], last: &mut [[Option<u64>; 8]; 2], arrived: &mut u64) {
        let payload = &bytes[42..];
        let (inward, flow) = (usize::from(payload[0]), usize::from(payload[1]));
        let number = u64::from_be_bytes(payload[2..10].try_into().unwrap());
        let last = &mut last[inward][flow];
        assert!(last.is_none_or(|last| last < number), "flow {flow}: {number} after {last:?}");
        *last = Some(number);
        *arrived += 1;
    }
}

#[test]
fn connections_go_on_when_the_queues_change() {
    let (mut rig, cluster, ports) = gateway(2, 1);
    let (there, back) =
        (From::new(UPLINK, outside(), address(0)), From::new(ports[0], address(0), outside()));
    for (flags, inward) in [("S", true), ("SA", false), ("A", true)] {
        let (port, frame) =
            if inward { (UPLINK, there.tcp(1000, 80, flags)) } else { (ports[0], back.tcp(80, 1000, flags)) };
        assert!(rig.deliver(port, &frame));
        assert_eq!(rig.settle().len(), 1);
    }
    for queues in [2, 1, 2] {
        rig.set_uplink_queues(queues);
        // The old snapshot is still in force: the connection is known, and only its way is not there.
        assert!(rig.deliver(ports[0], &back.tcp(80, 1000, "A")));
        rig.settle();
        rig.publish(&cluster);
        for queue in 0..usize::from(queues) {
            assert!(rig.deliver_by(UPLINK, queue, &there.tcp(1000, 80, "A")));
            let came = rig.settle();
            assert_eq!(came.len(), 1, "{:?}", rig.drops());
            assert_eq!(came[0].0, ports[0]);
        }
        assert!(rig.deliver(ports[0], &back.tcp(80, 1000, "A")));
        let came = rig.settle();
        assert_eq!((came.len(), came[0].0), (1, UPLINK), "{:?}", rig.drops());
    }
    assert!(rig.drops().keys().all(|reason| *reason == DropReason::PortGone), "{:?}", rig.drops());
    assert_eq!(rig.flows(), 1);
    rig.finish();
}

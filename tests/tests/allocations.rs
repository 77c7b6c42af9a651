//! Nothing on the packet path allocates: once the workers are warm, turns over hits, new connections, denials, answers and
//! malformed packets take no memory; nor do fragments, whatever becomes of them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;
use std::time::Duration;

use podgate_config::model::*;
use podgate_dataplane::packet::WorkerId;
use podgate_dataplane::worker::{Activity, WorkerSettings};
use podgate_tests::cluster::{ip, name, pod};
use podgate_tests::frames::{From, fragment};
use podgate_tests::rig::{HOST, Rig};

/// Has all workers take turns until they rest, and says how much they allocated.
fn allocations(rig: &mut Rig, workers: usize) -> u64 {
    let mut total = 0;
    let mut idle = 0;
    while idle < 3 {
        let mut busy = false;
        for worker in 0..workers {
            let info = allocation_counter::measure(|| busy |= rig.turn(worker) == Activity::Busy);
            total += info.count_total;
        }
        idle = if busy { 0 } else { idle + 1 };
    }
    total
}

#[test]
fn a_warm_worker_allocates_nothing() {
    for workers in [1_u8, 2] {
        let mut rig = Rig::new(workers, &WorkerSettings { flows: 64, ..WorkerSettings::default() });
        let mut cluster = Cluster::default();
        for (name, address) in [("shop/a", "10.244.0.1"), ("shop/b", "10.244.0.2"), ("shop/c", "10.244.0.3")]
        {
            let pod = pod(name, [ip(address)]);
            cluster.pods.insert(pod.name.clone(), pod);
        }
        let ports = ["shop/a", "shop/b", "shop/c"].map(|text| {
            let worker = WorkerId(if text == "shop/a" { 0 } else { workers - 1 });
            rig.add_pod(&name(text), worker)
        });
        let deny = NetworkPolicy {
            name: name("shop/deny"),
            pods: Selector::everything(),
            ingress: Some(vec![Rule { ports: vec![PolicyPort::all(Protocol::Udp)], peers: vec![] }]),
            egress: None,
        };
        cluster.policies.insert(deny.name.clone(), deny.into());
        rig.publish(&cluster);
        let [a, b, _] = ports;
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let there = From::new(a, ip("10.244.0.1"), ip("10.244.0.2"));
        let back = From::new(b, ip("10.244.0.2"), ip("10.244.0.1"));
        let gateway = From::new(a, ip("10.244.0.1"), ip("169.254.1.1"));
        let node = From::new(HOST, ip("10.244.255.254"), ip("10.244.0.1"));

        let mut counted = 0;
        for round in 0..40_u16 {
            for step in 0..8 {
                let source = 1000 + round * 8 + step;
                // A new connection, its answer, a packet of an old one; a denied, a malformed, a spoofed one; an answer of
                // the gateway's own; and its node.
                let frames = [
                    (a, there.udp(source, 53, b"new")),
                    (b, back.udp(53, source, b"answer")),
                    (a, there.udp(1000 + round * 8, 53, b"old")),
                    (a, there.tcp(source, 80, "S")),
                    (a, there.udp(source, 53, b"short")[..30].to_vec()),
                    (a, From { source: ip("10.9.9.9"), ..there }.udp(1, 2, b"spoofed")),
                    (a, gateway.echo(source, false)),
                    (a, From { hop_limit: 1, ..there }.udp(source, 53, b"trace")),
                    (HOST, node.udp(source, 9, b"probe")),
                ];
                // Fragments: in order, before their first one, denied, copied, overlapping, and one that waits in vain.
                let id = u32::from(source) * 8;
                // Either way in turn, so that frames gather at neither worker.
                let from = if step % 2 == 0 { there } else { back };
                let udp = from.udp(source, 53, &[1; 3000]);
                let tcp = from.with_more(&from.tcp(source, 80, "S"), &[1; 3000]);
                let fragments = [
                    fragment(&udp, 0..1000, true, id),
                    fragment(&udp, 1000..2000, true, id),
                    fragment(&udp, 2000..2100, false, id),
                    fragment(&udp, 2000..2100, false, id + 1),
                    fragment(&udp, 1000..2000, true, id + 1),
                    fragment(&udp, 0..1000, true, id + 1),
                    fragment(&tcp, 1000..2000, false, id + 2),
                    fragment(&tcp, 0..1000, true, id + 2),
                    fragment(&udp, 0..1000, true, id + 3),
                    fragment(&udp, 0..1000, true, id + 3),
                    fragment(&udp, 800..1600, true, id + 3),
                    fragment(&udp, 800..1600, true, id + 4),
                ];
                let fragments = fragments.into_iter().map(|frame| (from.port, frame));
                for (port, frame) in frames.into_iter().chain(fragments) {
                    assert!(rig.deliver(port, &frame));
                }
                let count = allocations(&mut rig, workers.into());
                rig.take();
                // The first rounds fill buffers and, with 64 places, the flow table.
                if round >= 10 {
                    counted += count;
                }
            }
            rig.advance(Duration::from_secs(60));
        }
        assert_eq!(counted, 0, "{workers} workers allocated in turns that were warm");
        assert!(rig.counts().counts.tx_packets.iter().sum::<u64>() > 1000);
        rig.finish();
    }
}

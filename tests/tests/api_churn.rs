//! A gateway while pods come and go for a long time: what it knows is what there is, and its memory does not grow.
//!
//! 50 pods a second are made and 50 deleted by requests, under names, labels and addresses that partly were there before and
//! partly never; policies select some of them as peers of the pods that are judged here. Short by default;
//! `PODGATE_CHURN_SECONDS=1800` and a release build of podgate (`PODGATE_BIN`) are the measurement in `bench/README.md`.
//! `PODGATE_CHURN_RATE` is another number than 50.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use podgate_tests::api_node::{ApiNode, path};
use podgate_tests::netns::skipped;
use serde_json::{Value, json};

/// Pods that are there at the same time.
const POPULATION: u32 = 500;
/// Pods that have a port here, and a policy each.
const JUDGED: u8 = 8;
/// Namespaces.
const SPACES: u32 = 5;
/// What the process may gain after the first quarter of the time.
const GROWTH: u64 = 24 << 20;

fn space(number: u32) -> String {
    format!("team-{}", number % SPACES)
}

fn pod(number: u32) -> Value {
    // Names and addresses come again after minutes, labels of deployments sooner, those of instances never.
    let [_, _, high, low] = (number % 10_000).to_be_bytes();
    let address = Ipv4Addr::new(10, 50, high, low).to_string();
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": format!("pod-{}", number % 7_000), "namespace": space(number),
            "labels": {
                "app": format!("app-{}", number % 20), "hash": format!("h{}", number / 500),
                "instance": format!("i{number}"),
            },
        },
        "spec": { "containers": [{ "name": "c", "image": "i", "ports": [{ "name": "http", "containerPort": 80 }] }] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
    })
}

fn populate(node: &mut ApiNode) {
    for number in 0..SPACES {
        node.post("/api/v1/namespaces", &json!({ "metadata": { "name": space(number) } }));
    }
    let mut ports: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for number in 0..JUDGED {
        let (name, space) = (format!("judged-{number}"), space(number.into()));
        let address = Ipv4Addr::new(10, 244, 0, number + 1);
        let mut own = pod(number.into());
        own["metadata"] = json!({ "name": name, "namespace": space, "labels": { "judged": name } });
        own["status"] = json!({ "phase": "Running", "podIP": address.to_string() });
        node.add_pod(&own);
        ports.insert(format!("{space}/{name}"), vec![address.into()]);
        let peers = json!([{
            "namespaceSelector": {},
            "podSelector": { "matchLabels": { "app": format!("app-{number}") } },
        }]);
        let policy = json!({
            "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": { "name": name },
            "spec": {
                "podSelector": { "matchLabels": { "judged": name } },
                "ingress": [{ "from": peers, "ports": [{ "port": "http" }] }, { "from": peers }],
            },
        });
        node.post(&path("NetworkPolicy", &space, ""), &policy);
    }
    node.gateway.serve(&ports);
}

#[test]
fn memory_does_not_grow_while_pods_come_and_go() {
    if skipped() {
        return;
    }
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let seconds = number("PODGATE_CHURN_SECONDS", 20);
    // Pods made, and as many deleted, in a second.
    let rate = number("PODGATE_CHURN_RATE", 50);
    let mut node = ApiNode::start(&[]);
    populate(&mut node);
    let mut living = VecDeque::new();
    let (mut made, begin) = (0_u32, Instant::now());
    let mut add = |node: &mut ApiNode, living: &mut VecDeque<u32>| {
        node.add_pod(&pod(made));
        living.push_back(made);
        made += 1;
    };
    for _ in 0..POPULATION {
        add(&mut node, &mut living);
    }
    node.settle("the first pods");
    let objects = (POPULATION + u32::from(JUDGED)) as usize;
    assert_eq!(node.kind("Pod").objects, objects);

    let start = Instant::now();
    let mut samples: Vec<(u32, u64)> = Vec::new();
    for second in 0..seconds {
        for turn in 0..rate {
            let due = start + Duration::from_secs(second.into()) + Duration::from_secs(1) * turn / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            add(&mut node, &mut living);
            let oldest = living.pop_front().unwrap();
            node.delete(&path("Pod", &space(oldest), &format!("pod-{}", oldest % 7_000)));
        }
        samples.push((second + 1, node.gateway.resident()));
        if (second + 1) % 60 == 0 {
            eprintln!("{:>5} s: {:>6} KiB resident", second + 1, node.gateway.resident() / 1024);
        }
    }
    let took = start.elapsed();
    node.settle("the last change");
    assert_eq!(node.kind("Pod").objects, objects, "what it knows is what there is");
    let status = node.gateway.status();
    assert_eq!(status.policy.pods, objects);
    assert_eq!(node.source().kinds.iter().map(|kind| kind.failures).sum::<u64>(), 0);
    let limit = |name: &str| status.policy.limits.iter().find(|limit| limit.name == name).unwrap().used;
    eprintln!(
        "{} pods made and deleted in {:.0} s ({:.0} s before); {} generations, {} atoms, {} rows",
        rate * seconds,
        took.as_secs_f64(),
        (start - begin).as_secs_f64(),
        status.generation_published,
        limit("atoms"),
        limit("rows"),
    );

    // A probe of one who has just come.
    let newest = *living.iter().rev().find(|number| *number % 20 < JUDGED.into()).unwrap();
    let app = newest % 20;
    let to = format!("{}/judged-{app}", space(app));
    let probe = json!({
        "from": { "pod": format!("{}/pod-{}", space(newest), newest % 7_000) }, "to": { "pod": to },
        "port": 80, "protocol": "TCP",
    });
    let answer = node.gateway.explain(&format!("{probe}\n")).out;
    assert!(answer.contains("\"verdict\":\"allow\""), "{answer}");

    let quarter = samples[samples.len() / 4].1;
    let (_, last) = *samples.last().unwrap();
    let at = |second: usize| samples.get(second.min(samples.len()) - 1).unwrap().1 / 1024;
    eprintln!(
        "resident: {} KiB after a quarter, after 300 s (or all) {} KiB, at the end {} KiB",
        quarter / 1024,
        at(300),
        last / 1024
    );
    assert!(last < quarter + GROWTH, "{quarter} bytes after a quarter of the time, {last} at the end");
}

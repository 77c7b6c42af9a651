//! What `config/examples/shop/expectations.txt` says by hand, against the oracle, the compiled tables and `explain`.
//!
//! `podgate lab demo` compares the same file with real connections, which needs root and a lab. Here every source
//! meets every port that answers, in both families and without a packet, so that a slip of the pen in the example or
//! a wrong verdict shows at once, and the demo's mismatches can only come from the way of the packets.

#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use podgate_config::manifest::{ObjectValue, assign_addresses, decode, review};
use podgate_config::model::{Cluster, Protocol};
use podgate_control::explain::World;
use podgate_control::lab::expectations::{Expectations, NODE};
use podgate_control::lab::plan::AnswerPort;
use podgate_tests::compare::Subject;
use podgate_tests::generate::{Probe, ProbeEnd};
use podgate_tests::oracle::DEFAULT_NODE;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples/shop");

fn shop() -> Cluster {
    let mut cluster = Cluster::default();
    for entry in fs::read_dir(SHOP).expect("folder of the example") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let decoded = decode(&path.display().to_string(), &fs::read(&path).expect("a file to read"));
        assert_eq!(decoded.findings, []);
        for object in decoded.objects {
            match object.value {
                ObjectValue::Namespace(namespace) => {
                    cluster.namespaces.insert(namespace.name().clone(), namespace);
                }
                ObjectValue::Pod(pod) => {
                    cluster.pods.insert(pod.name.clone(), *pod);
                }
                ObjectValue::Node(node) => {
                    cluster.nodes.insert(node.name.clone(), node);
                }
                ObjectValue::NetworkPolicy(policy) => {
                    cluster.policies.insert(policy.name.clone(), policy);
                }
            }
        }
    }
    assign_addresses(&mut cluster, None);
    assert_eq!(review(&cluster), []);
    cluster
}

#[test]
fn the_shop_does_what_is_written_beside_it() {
    let cluster = shop();
    let expectations = Expectations::read(Path::new(SHOP)).expect("expectations");
    let subject = Subject::new(&cluster).expect("tables");
    let world = World::from_cluster(cluster.clone()).expect("a world");

    let mut ends: BTreeMap<String, Vec<ProbeEnd>> = BTreeMap::new();
    let mut targets = BTreeSet::new();
    for pod in cluster.pods.values() {
        let end = |address: &IpAddr| ProbeEnd { pod: Some(pod.name.clone()), address: *address };
        ends.insert(pod.name.to_string(), pod.addresses.iter().map(end).collect());
        for port in &pod.ports {
            let port = match port.protocol {
                Protocol::Tcp => AnswerPort::Tcp(port.number.get()),
                Protocol::Udp => AnswerPort::Udp(port.number.get()),
                Protocol::Sctp => continue,
            };
            targets.insert((pod.name.to_string(), port));
        }
    }
    let outside = |address: IpAddr| ProbeEnd { pod: None, address };
    for external in &expectations.externals {
        let addresses = [Some(IpAddr::V4(external.v4)), external.v6.map(IpAddr::V6)];
        ends.insert(external.namespace(), addresses.into_iter().flatten().map(outside).collect());
        for port in [AnswerPort::Tcp(80), AnswerPort::Tcp(443), AnswerPort::Udp(53)] {
            targets.insert((external.namespace(), port));
        }
    }
    let node = DEFAULT_NODE.map(|address| outside(address.parse().expect("an address")));
    ends.insert(NODE.to_owned(), node.to_vec());
    let sources: BTreeSet<String> = ends.keys().cloned().collect();
    assert_eq!(expectations.unknown(&sources, &targets), Vec::<String>::new());

    let (mut wrong, mut allowed, mut denied) = (Vec::new(), 0, 0);
    for (source, from) in &ends {
        for (target, port) in &targets {
            // No packet between an end and itself, or between two that are not pods, meets the gateway's policy.
            if source == target || (from.iter().all(|end| end.pod.is_none()) && !target.contains('/')) {
                continue;
            }
            let (protocol, number) = match port {
                AnswerPort::Tcp(number) => (Protocol::Tcp.number(), *number),
                AnswerPort::Udp(number) => (Protocol::Udp.number(), *number),
            };
            let expected = expectations.allows(source, target, *port);
            let mut families = 0;
            for from in from {
                for to in ends[target].iter().filter(|to| to.address.is_ipv4() == from.address.is_ipv4()) {
                    let probe = Probe { from: from.clone(), to: to.clone(), protocol, port: number };
                    let connection = subject.connection(&probe).expect("both ends are there");
                    let oracle = subject.expected(&connection).allows();
                    if oracle != expected {
                        wrong.push(format!(
                            "{source} -> {target} {port} ({}): expected {expected}, the API says {oracle}",
                            to.address
                        ));
                    }
                    wrong.extend(subject.difference(&probe));
                    wrong.extend(subject.misexplained(&world, &probe));
                    *(if expected { &mut allowed } else { &mut denied }) += 1;
                    families += 1;
                }
            }
            assert_eq!(families, 2, "{source} -> {target}: one question a family");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(allowed >= 60 && denied >= 120, "{allowed} allowed, {denied} denied");
}

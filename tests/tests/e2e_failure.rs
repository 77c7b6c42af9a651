//! What happens when the gateway dies, and when it is told nonsense.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use podgate_control::lab::gateway::pins_path;
use podgate_control::lab::plan::AnswerPort;
use podgate_control::netlink::{Namespace, write_sysctl};
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod};
use serde_json::Value;

const HTTP: AnswerPort = AnswerPort::Tcp(80);

fn pods() -> String {
    [namespace("shop"), pod("shop", "web", &["80"]), pod("shop", "db", &["80"]), pod("shop", "spy", &["80"])]
        .concat()
}

const DB_TAKES_WEB: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: db, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: db}}\n  ingress:\n  \
    - from: [{podSelector: {matchLabels: {app: web}}}]\n";

#[test]
fn a_killed_gateway_closes_and_a_new_one_serves() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(
        &[("pods.yaml", &pods()), ("policy.yaml", DB_TAKES_WEB)],
        &["--external", "internet=198.51.100.7,2001:db8::7"],
    );
    lab.expect(&[("web.shop", "db.shop", HTTP, true)]);
    let closed = [
        ("web.shop", "db.shop", HTTP, false),
        ("spy.shop", "db.shop", HTTP, false),
        ("db.shop", "spy.shop", HTTP, false),
        ("ext-internet", "web.shop", HTTP, false),
        ("web.shop", "ext-internet", HTTP, false),
    ];
    lab.kill_gateway();
    lab.expect(&closed);

    forward_by_kernel(&lab, true);
    lab.expect(&closed);
    forward_by_kernel(&lab, false);

    // The same node, nothing cleaned up by hand.
    lab.restart_gateway();
    eventually("traffic flows again", || lab.connects("web.shop", "db.shop", HTTP));
    lab.expect(&[("spy.shop", "db.shop", HTTP, false), ("db.shop", "spy.shop", HTTP, true)]);

    // It is the pinned programs that keep a dead gateway closed, and nothing else: without them the kernel forwards.
    lab.kill_gateway();
    forward_by_kernel(&lab, true);
    lab.expect(&closed);
    unpin(&pins_path());
    eventually("the kernel forwards what nobody shuts out", || lab.connects("spy.shop", "db.shop", HTTP));
}

const PODS: [&str; 3] = ["web.shop", "db.shop", "spy.shop"];

/// The worst that a node can do: forward, and know the way to the pods. Or not any more.
fn forward_by_kernel(lab: &Lab, on: bool) {
    let state = lab.state();
    let interface = |netns: &str| {
        let found = state.namespaces.iter().find(|namespace| namespace.name == netns);
        found.and_then(|namespace| namespace.interface.clone()).expect(netns)
    };
    let node = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec("podgate-node", 5, &words)
    };
    if !on {
        for netns in PODS {
            let _ = node(&format!("ip addr del 169.254.1.1/32 dev {}", interface(netns)));
            let _ = node(&format!("ip addr del fe80::1/64 dev {}", interface(netns)));
        }
        return;
    }
    let switch = || {
        write_sysctl("net/ipv4/ip_forward", "1").unwrap();
        write_sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
        for netns in PODS {
            write_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", interface(netns)), "0").unwrap();
        }
    };
    Namespace::open("podgate-node").unwrap().run(switch).unwrap();
    for netns in PODS {
        let interface = interface(netns);
        for address in lab.addresses(netns) {
            let _ = node(&format!("ip route replace {address} dev {interface}")).expect("a route");
        }
        let _ = node(&format!("ip addr add 169.254.1.1/32 dev {interface}"));
        let _ = node(&format!("ip addr add fe80::1/64 dev {interface} nodad"));
    }
}

/// Removes every pin below a folder of the bpf file system.
fn unpin(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The kernel's own, which stay: maps.debug, progs.debug.
        if path.extension().is_some_and(|extension| extension == "debug") {
            continue;
        }
        if path.is_dir() { unpin(&path) } else { fs::remove_file(path).unwrap() }
    }
}

#[test]
fn a_gateway_that_starts_with_a_bad_file_is_closed_until_it_is_mended() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", DB_TAKES_WEB)], &[]);
    lab.kill_gateway();
    lab.write("policy.yaml", "kind: NetworkPolicy\nspec: {podSelector: {}, ingres: []}\n");
    lab.spawn_gateway();
    eventually("it says what is wrong", || {
        lab.status().is_some_and(|status| {
            status["ready"] == Value::Bool(false) && status["sources"].to_string().contains("policy.yaml")
        })
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    // Not synced: nothing between pods, but the node's own probes.
    lab.expect(&[("db.shop", "spy.shop", HTTP, false), ("podgate-node", "db.shop", HTTP, true)]);
    lab.write("policy.yaml", DB_TAKES_WEB);
    eventually("it serves", || lab.is_settled());
    lab.expect(&[("web.shop", "db.shop", HTTP, true)]);
    lab.expect(&[("spy.shop", "db.shop", HTTP, false)]);
}

//! What happens when the gateway dies, and when it is told nonsense.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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

    // The worst that a node can do: forward, and know the way to the pods.
    let interface = |netns: &str| {
        let state = lab.state();
        let found = state.namespaces.into_iter().find(|namespace| namespace.name == netns);
        found.and_then(|namespace| namespace.interface).expect(netns)
    };
    Namespace::open("podgate-node")
        .unwrap()
        .run(|| {
            write_sysctl("net/ipv4/ip_forward", "1").unwrap();
            write_sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
            for netns in ["web.shop", "db.shop", "spy.shop"] {
                write_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", interface(netns)), "0").unwrap();
            }
        })
        .unwrap();
    for netns in ["web.shop", "db.shop", "spy.shop"] {
        for address in lab.addresses(netns) {
            let (address, interface) = (address.to_string(), interface(netns));
            let said = lab.exec("podgate-node", 5, &["ip", "route", "replace", &address, "dev", &interface]);
            assert!(said.fine(), "{said:?}");
        }
        let _ =
            lab.exec("podgate-node", 5, &["ip", "addr", "add", "169.254.1.1/32", "dev", &interface(netns)]);
    }
    lab.expect(&closed);
    for netns in ["web.shop", "db.shop", "spy.shop"] {
        let _ =
            lab.exec("podgate-node", 5, &["ip", "addr", "del", "169.254.1.1/32", "dev", &interface(netns)]);
    }

    // The same node, nothing cleaned up by hand.
    lab.restart_gateway();
    eventually("traffic flows again", || lab.connects("web.shop", "db.shop", HTTP));
    lab.expect(&[("spy.shop", "db.shop", HTTP, false), ("db.shop", "spy.shop", HTTP, true)]);
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
    eventually("it serves", || lab.is_ready());
    lab.expect(&[("web.shop", "db.shop", HTTP, true)]);
    lab.expect(&[("spy.shop", "db.shop", HTTP, false)]);
}

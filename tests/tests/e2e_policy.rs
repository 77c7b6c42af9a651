//! Policy on real packets: edits, errors, the node's privilege, the outside, and who decided.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::state::SOCKET;
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod, podgate};
use serde_json::Value;

const HTTP: AnswerPort = AnswerPort::Tcp(80);
const DNS: AnswerPort = AnswerPort::Udp(53);

fn pods() -> String {
    let ports = ["80/TCP", "81/TCP", "53/UDP"];
    [namespace("shop"), pod("shop", "web", &ports), pod("shop", "db", &ports), pod("shop", "spy", &ports)]
        .concat()
}

/// `db` takes TCP 80 from `app`, and nothing else.
fn db_takes(app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: db, namespace: shop}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: db}}}}\n  ingress:\n  - from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]\n    \
         ports: [{{port: 80}}]\n"
    )
}

fn edits(workers: &str) {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", &db_takes("web"))], &["--workers", workers]);
    lab.expect(&[
        ("web.shop", "db.shop", HTTP, true),
        ("web.shop", "db.shop", AnswerPort::Tcp(81), false),
        ("web.shop", "db.shop", DNS, false),
        ("spy.shop", "db.shop", HTTP, false),
        ("podgate-node", "db.shop", HTTP, true),
        ("podgate-node", "db.shop", DNS, true),
        // What is isolated one way goes the other way, and the answers come back.
        ("db.shop", "spy.shop", HTTP, true),
        ("db.shop", "spy.shop", DNS, true),
    ]);

    lab.write("policy.yaml", &db_takes("spy"));
    eventually("the edit is in force", || lab.connects("spy.shop", "db.shop", HTTP));
    lab.expect(&[("web.shop", "db.shop", HTTP, false)]);

    lab.write("policy.yaml", &db_takes("[web"));
    eventually("status tells of the error", || {
        let errors = lab.status().and_then(|status| status.pointer("/sources/0/errors").cloned());
        errors.is_some_and(|errors| errors.to_string().contains("policy.yaml:1"))
    });
    assert!(lab.is_ready(), "an error in a file must not make a synced gateway unready");
    lab.expect(&[("spy.shop", "db.shop", HTTP, true)]);
    lab.expect(&[("web.shop", "db.shop", HTTP, false)]);

    lab.delete("policy.yaml");
    eventually("the policy is gone", || lab.connects("web.shop", "db.shop", HTTP));
}

#[test]
fn an_edit_counts_for_the_next_connection_one_worker() {
    edits("1");
}

#[test]
fn an_edit_counts_for_the_next_connection_two_workers() {
    edits("2");
}

#[test]
fn an_external_is_judged_as_outside() {
    if !enabled() {
        return;
    }
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec:\n  \
        podSelector: {matchLabels: {app: db}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  \
        - from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/32]}}]\n  egress:\n  \
        - to: [{ipBlock: {cidr: '2001:db8::7/128'}}]\n";
    let externals =
        ["--external", "good=198.51.100.7,2001:db8::7", "--external", "bad=198.51.100.8,2001:db8::8"];
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", policy)], &externals);
    let (db, good, bad) = (lab.addresses("db.shop"), lab.addresses("ext-good"), lab.addresses("ext-bad"));
    for (from, address, to, allowed) in [
        ("ext-good", db[0], "db.shop", true),
        ("ext-good", db[1], "db.shop", false),
        ("ext-bad", db[0], "db.shop", false),
        ("ext-bad", db[1], "db.shop", false),
        ("db.shop", good[0], "ext-good", false),
        ("db.shop", good[1], "ext-good", true),
        ("db.shop", bad[0], "ext-bad", false),
        ("web.shop", bad[0], "ext-bad", true),
        ("web.shop", bad[1], "ext-bad", true),
    ] {
        assert_eq!(lab.connects_to(from, address, to, HTTP), allowed, "{from} -> {to} at {address}");
    }
}

#[test]
fn drops_follow_tells_who_decided() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", &db_takes("web"))], &[]);
    let follow = lab.background(
        "podgate-node",
        &[podgate().to_str().unwrap(), "drops", "--follow", "-o", "json", "--socket", SOCKET],
    );
    std::thread::sleep(std::time::Duration::from_millis(300));
    lab.expect(&[("spy.shop", "db.shop", HTTP, false)]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let said = follow.finish();
    let seen = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|line| {
        line["source"] == "shop/spy"
            && line["destination"] == "shop/db"
            && line["destination_port"] == 80
            && line["policies"].to_string().contains("shop/db")
    });
    assert!(seen, "{said}");
}

//! What became of a connection: `podgate explain --sport` on real packets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::net::TcpStream;

use podgate_control::lab::state::SOCKET;
use podgate_control::netlink::Namespace;
use podgate_tests::harness::{Lab, Said, enabled, eventually, namespace, pod, run_podgate};
use serde_json::Value;

fn pods() -> String {
    [namespace("shop"), pod("shop", "web", &["80/TCP"]), pod("shop", "db", &["80/TCP"])].concat()
}

/// `db` takes TCP 80 from `app`, and nothing else.
fn db_takes(app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: db, namespace: shop}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: db}}}}\n  ingress:\n  - from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]\n    \
         ports: [{{port: 80}}]\n"
    )
}

fn explain(arguments: &[&str]) -> Said {
    run_podgate(&[&["explain", "--socket", SOCKET], arguments].concat())
}

/// What is told of TCP connections from `web` to `db`.
fn flows(source_port: &str) -> Vec<Value> {
    let arguments =
        ["--from", "shop/web", "--to", "shop/db", "--port", "80", "--sport", source_port, "-o", "json"];
    let said = explain(&arguments).expect("explain --sport");
    let answer: Value = serde_json::from_str(&said).unwrap();
    answer["flows"].as_array().unwrap().clone()
}

#[track_caller]
fn only(flows: Vec<Value>) -> Value {
    let [flow] = &flows[..] else { panic!("{flows:#?}") };
    flow.clone()
}

/// A connection that is open, cut by a policy change, and told of afterwards.
#[test]
fn a_connection_is_told_of_while_it_is_there_and_when_policy_has_cut_it() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", &db_takes("web"))], &["--workers", "2"]);
    let db = (lab.addresses("db.shop")[0], 80);
    let talk = Namespace::open("web.shop").unwrap().run(|| TcpStream::connect(db)).unwrap().unwrap();
    let port = talk.local_addr().unwrap().port().to_string();
    eventually("the handshake is over", || only(flows(&port))["state"] == "established");
    let flow = only(flows(&port));
    assert_eq!((&flow["live"], &flow["ended"], &flow["next"]), (&true.into(), &Value::Null, &Value::Null));
    assert_eq!(flow["from"]["pod"], "shop/web");
    assert_eq!(flow["ingress"]["policy"], "shop/db");
    assert_eq!((&flow["ingress"]["rule"], &flow["ingress"]["peer"]), (&0.into(), &0.into()));
    assert_eq!(flow["egress"]["tier"], "not-isolated");
    let text = explain(&["--from", "shop/db", "--to", "shop/web", "--port", &port, "--sport", "80"]);
    let text = text.expect("asked from the other end");
    assert!(text.starts_with("live: shop/web ("), "{text}");
    assert!(text.contains("allowed by shop/db ingress[0].from[0]"), "{text}");

    lab.write("policy.yaml", &db_takes("nobody"));
    eventually("the connection is cut", || {
        // Whatever it says next is judged by the new policy. The kernel sends it again by itself.
        let _ = (&talk).write(b"x");
        !only(flows(&port))["live"].as_bool().unwrap()
    });
    let flow = only(flows(&port));
    assert_eq!(flow["state"], "established");
    let ended = &flow["ended"];
    assert_eq!((&ended["how"], &ended["denial"]["direction"]), (&"policy_revoked".into(), &"ingress".into()));
    assert_eq!(ended["denial"]["side"]["isolating"][0], "shop/db");
    assert!(ended["denial"]["generation"].as_u64() > flow["generation"].as_u64(), "{flow:#}");
    // It was admitted by what the policy said then.
    assert_eq!(flow["ingress"]["policy"], "shop/db");
    assert_eq!(flow["now"]["verdict"], "deny");
}

/// Connections that ended by themselves, pings, and such that never were.
#[test]
fn what_is_closed_or_was_never_there_is_told_of_too() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", &db_takes("web"))], &[]);
    let said = lab.exec("web.shop", 5, &["curl", "-sS", "--local-port", "40002", "http://db.shop"]);
    assert_eq!(said.out, "shop/db\n", "{said:?}");
    eventually("both ends have closed it", || only(flows("40002"))["ended"]["how"] == "closed");
    assert_eq!(only(flows("40002"))["ingress"]["policy"], "shop/db");

    let node = lab.addresses("podgate-node")[0].to_string();
    let said = lab.exec("web.shop", 5, &["ping", "-c", "1", "-W", "1", "-e", "777", &node]);
    assert!(said.fine(), "{said:?}");
    let ping = ["--from", "shop/web", "--to", &node, "--protocol", "ICMP", "--sport"];
    let text = explain(&[&ping[..], &["777"]].concat()).expect("a ping");
    assert!(text.contains("identifier 777 ->") && text.contains(" answered on worker "), "{text}");

    let text = explain(&[&ping[..], &["778"]].concat()).expect("another");
    assert!(text.starts_with("unknown: no worker remembers"), "{text}");
    assert!(text.contains("\nallow: shop/web"), "{text}");
    assert_eq!(flows("40003"), Vec::<Value>::new());

    for (arguments, fault) in [
        (
            &["--from", "shop/gone", "--to", "shop/db", "--port", "80", "--sport", "1"][..],
            "pod shop/gone is not known",
        ),
        (&["--from", "shop/web", "--to", "shop/db", "--sport", "1"], "TCP needs a destination port"),
        (
            &["--from", "shop/web", "--to", "shop/db", "--protocol", "47", "--sport", "1"],
            "protocol 47 has no ports",
        ),
        (&["--from", "shop/web", "--to", "shop/db", "--port", "80", "--sport", "65536"], "65536"),
        (&["--probes", "-", "--sport", "1"], "--sport"),
    ] {
        let said = explain(arguments);
        assert!(said.code == Some(2) && said.err.contains(fault), "{arguments:?}: {said:?}");
    }
}

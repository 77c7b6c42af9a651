//! The lab itself: names, addresses, pods that come and go, and what is left of one that was killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::state::{DIRECTORY, ETC_NETNS, SOCKET, State};
use podgate_control::netlink::Namespace;
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod, run_podgate};
use serde_json::Value;

const HTTP: AnswerPort = AnswerPort::Tcp(80);

fn two_pods() -> String {
    [namespace("shop"), pod("shop", "web", &["80/TCP", "53/UDP"]), pod("shop", "api", &["80/TCP"])].concat()
}

#[test]
fn people_find_their_way() {
    if !enabled() {
        return;
    }
    let finished = pod("shop", "old", &["80"]) + "status: {phase: Succeeded, podIP: 10.244.9.9}\n";
    let host = pod("shop", "agent", &["9100"]).replace("spec:\n", "spec:\n  hostNetwork: true\n");
    let manifests = [two_pods(), finished, host].concat();
    let lab = Lab::up(&[("pods.yaml", &manifests)], &["--external", "internet=198.51.100.7,2001:db8::7"]);

    let names: Vec<String> = lab.state().namespaces.iter().map(|namespace| namespace.name.clone()).collect();
    assert_eq!(names, ["podgate-node", "ext-internet", "api.shop", "web.shop"]);
    for (from, url) in [
        ("api.shop", "http://web.shop"),
        ("api.shop", "http://web"),
        ("podgate-node", "http://web.shop"),
        ("ext-internet", "http://web.shop"),
    ] {
        for family in ["-4", "-6"] {
            let said = lab.exec(from, 5, &["curl", "-sS", family, url]);
            assert_eq!(said.out, "shop/web\n", "{from} {url} {family}: {said:?}");
        }
    }
    let said = lab.exec("web.shop", 5, &["curl", "-sS", "http://podgate-node:9100"]);
    assert_eq!(said.out, "shop/agent\n", "{said:?}");
    let said = lab.exec("web.shop", 5, &["curl", "-sS", "http://ext-internet"]);
    assert_eq!(said.out, "ext-internet\n", "{said:?}");
    let said = lab.exec("api.shop", 5, &["sh", "-c", "echo hello | nc -u -w 1 web.shop 53"]);
    assert_eq!(said.out, "shop/web hello\n", "{said:?}");
    let said = lab.exec("api.shop", 5, &["ping", "-c", "1", "-W", "1", "web.shop"]);
    assert!(said.fine(), "{said:?}");

    let node = lab.addresses("podgate-node");
    assert_eq!(
        node,
        ["10.244.255.254".parse::<std::net::IpAddr>().unwrap(), "fd00:10:244::fffe".parse().unwrap()]
    );
    let again = run_podgate(&["lab", "up", "-f", lab.folder().to_str().unwrap()]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.err.contains("a lab is up already"), "{again:?}");
    assert!(run_podgate(&["lab", "status"]).fine());

    let _ = run_podgate(&["lab", "down"]).expect("lab down");
    for name in names {
        assert!(!Namespace::path(&name).exists(), "{name} is left");
        assert!(!Path::new(ETC_NETNS).join(&name).exists(), "/etc/netns/{name} is left");
    }
    assert!(!Path::new(DIRECTORY).exists());
    assert!(!Path::new(SOCKET).exists());
    assert!(run_podgate(&["lab", "down"]).fine());
}

#[test]
fn far_ends_receive_in_portions() {
    if !enabled() {
        return;
    }
    let lab =
        Lab::up(&[("pods.yaml", &two_pods())], &["--workers", "1", "--external", "internet=198.51.100.7"]);
    let has = |netns: &str, interface: &str, line: &str| {
        let said = lab.exec(netns, 5, &["ethtool", "-k", interface]).expect("ethtool");
        assert!(said.lines().any(|found| found == line), "{netns} {interface}: expected {line:?} in\n{said}");
    };
    for namespace in lab.state().namespaces {
        let Some(near) = &namespace.interface else { continue };
        has(&namespace.name, "eth0", "generic-receive-offload: on");
        has("podgate-node", near, "\ttx-tcp-segmentation: off");
        let said = lab.exec(&namespace.name, 5, &["cat", "/sys/class/net/eth0/threaded"]).expect("threaded");
        assert_eq!(said, "1\n", "{}", namespace.name);
    }
    // The pods' own offloads are what they were: checksums and segmentation stay with the gateway and the kernel.
    has("web.shop", "eth0", "tx-checksumming: on");
    has("web.shop", "eth0", "generic-segmentation-offload: on");
}

#[test]
fn workers_share_an_uplink() {
    if !enabled() {
        return;
    }
    let cpus = std::thread::available_parallelism().unwrap().get();
    for workers in 1..=2.min(cpus) {
        let arguments = ["--workers", &workers.to_string(), "--external", "internet=198.51.100.7"];
        let lab = Lab::up(&[("pods.yaml", &two_pods())], &arguments);
        let status = lab.status().unwrap();
        let ports = status.get("ports").and_then(Value::as_array).unwrap();
        let uplink = ports.iter().find(|port| port.get("kind") == Some(&Value::from("uplink"))).unwrap();
        let owners = uplink.get("workers").cloned().unwrap_or_default();
        assert_eq!(owners, Value::from((0..workers).collect::<Vec<_>>()), "a queue for each worker");
        // The kernel chooses a queue for each connection, by its ports.
        let script = "for n in $(seq 48); do curl -sS http://web.shop; done";
        let said = lab.exec("ext-internet", 60, &["sh", "-c", script]).expect("48 answers");
        assert_eq!(said, "shop/web\n".repeat(48));
        for worker in 0..workers {
            let packets = lab.metric(&format!(
                "podgate_received_packets_total{{worker=\"{worker}\",port_kind=\"uplink\"}}"
            ));
            assert!(packets > 0, "worker {worker} of {workers} has received nothing by the uplink");
        }
    }
}

#[test]
fn pods_come_and_go() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &two_pods())], &[]);
    let before = lab.addresses("web.shop");
    // Sorted before the others: an assignment from nothing would give it their addresses.
    lab.write("more.yaml", &pod("shop", "aaa", &["80"]));
    eventually("the new pod answers", || {
        Namespace::path("aaa.shop").exists() && lab.is_settled() && {
            let known = lab.state().namespaces.iter().any(|namespace| namespace.name == "aaa.shop");
            known && lab.connects("web.shop", "aaa.shop", HTTP)
        }
    });
    assert_eq!(lab.addresses("web.shop"), before);
    assert!(lab.exec("web.shop", 5, &["curl", "-sS", "http://aaa"]).fine());
    lab.delete("more.yaml");
    eventually("the pod is gone", || !Namespace::path("aaa.shop").exists());
    eventually("its port is gone", || lab.is_settled());
    lab.expect(&[("web.shop", "api.shop", HTTP, true)]);
}

#[test]
fn a_killed_lab_is_removed_by_the_next() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &two_pods())], &[]);
    let supervisor = lab.state().supervisor;
    kill(Pid::from_raw(i32::try_from(supervisor).unwrap()), Signal::SIGKILL).unwrap();
    kill(lab.gateway(), Signal::SIGKILL).unwrap();
    eventually("the gateway is dead", || lab.status().is_none());
    assert_eq!(run_podgate(&["lab", "status"]).code, Some(1));
    lab.start();
    lab.expect(&[("web.shop", "api.shop", HTTP, true)]);

    // Only the supervisor this time; the gateway still serves.
    let supervisor = lab.state().supervisor;
    kill(Pid::from_raw(i32::try_from(supervisor).unwrap()), Signal::SIGKILL).unwrap();
    let _ = run_podgate(&["lab", "down"]).expect("lab down");
    assert!(State::read().unwrap().is_none());
    assert!(!Namespace::path("web.shop").exists());
}

#[test]
fn documents_that_make_no_lab() {
    if !enabled() {
        return;
    }
    let lab = Lab::prepare(&[("pods.yaml", "kind: Pod\n")], &[]);
    let said = lab.try_start();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("pods.yaml:1:"), "{said:?}");
    let on = |name: &str, node: &str| {
        pod("shop", name, &["80"]).replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"))
    };
    lab.write("pods.yaml", &[namespace("shop"), on("a", "one"), on("b", "two")].concat());
    let said = lab.try_start();
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("--node"), "{said:?}");
    let _ =
        run_podgate(&["lab", "up", "-f", lab.folder().to_str().unwrap(), "--node", "two"]).expect("lab up");
    let names: Vec<String> = lab.state().namespaces.into_iter().map(|namespace| namespace.name).collect();
    assert_eq!(names, ["podgate-node", "b.shop"]);
}

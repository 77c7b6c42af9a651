//! Datagrams larger than the MTU, as pods' kernels cut them and put them together again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use etherparse::PacketBuilder;
use podgate_control::lab::state::SOCKET;
use podgate_control::netlink::Namespace;
use podgate_tests::frames::fragments;
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod, run_podgate};
use podgate_tests::wire::Wire;
use serde_json::Value;

fn pods() -> String {
    [namespace("shop"), pod("shop", "web", &["80"]), pod("shop", "db", &["80"])].concat()
}

/// `db` takes UDP 5000 from everybody, and nothing else.
const UDP_5000: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n\
    spec:\n  podSelector: {matchLabels: {app: db}}\n  ingress:\n  - ports: [{protocol: UDP, port: 5000}]\n";

/// A socket inside a namespace.
fn udp(netns: &str, address: IpAddr, port: u16) -> UdpSocket {
    let bound = Namespace::open(netns).expect(netns).run(|| UdpSocket::bind((address, port)));
    let socket = bound.expect(netns).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
    socket
}

/// Nine kilobytes that are nobody else's.
fn payload(tag: u8) -> Vec<u8> {
    (0..9000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ tag).collect()
}

/// What a socket gets, and from whom.
fn received(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    buffer.truncate(length);
    Some((buffer, from))
}

#[test]
fn large_datagrams_pass_whole_or_not_at_all() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods())], &[]);
    let (own, target) = (lab.addresses("web.shop"), lab.addresses("db.shop"));
    let ping = |address: &IpAddr| {
        let address = address.to_string();
        lab.exec("web.shop", 6, &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-s", "4000", &address])
    };
    for address in &target {
        let said = ping(address).expect("a ping of 4000 bytes");
        assert!(said.contains("4008 bytes from"), "{said}");
    }
    lab.write("policy.yaml", UDP_5000);
    eventually("pings are denied", || !ping(&target[0]).fine());
    assert!(!ping(&target[1]).fine());
    for (tag, (own, target)) in (0_u8..).zip(own.iter().zip(&target)) {
        let client = udp("web.shop", *own, 0);
        let (allowed, denied) = (udp("db.shop", *target, 5000), udp("db.shop", *target, 5001));
        client.send_to(&payload(tag), (*target, 5000)).expect("send");
        let (question, from) = received(&allowed).expect("nine kilobytes at port 5000");
        assert!(question == payload(tag) && from == client.local_addr().unwrap(), "{target}");
        allowed.send_to(&payload(!tag), from).expect("send");
        let (answer, _) = received(&client).expect("nine kilobytes of answer");
        assert!(answer == payload(!tag), "{target}");

        let (first, later) = (lab.drops("policy_ingress"), lab.drops("fragment"));
        client.send_to(&payload(tag), (*target, 5001)).expect("send");
        assert_eq!(received(&denied), None, "{target}");
        // 9008 bytes are seven fragments.
        eventually("each fragment is counted", || {
            lab.drops("policy_ingress") > first && lab.drops("fragment") >= later + 6
        });
    }
}

#[test]
fn fragments_in_reverse_order_wait_for_the_first() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods())], &[]);
    let (web, db) = (Wire::open("web.shop"), Wire::open("db.shop"));
    let gateway = lab.gateway_mac("web.shop");
    let (own, target) = (lab.addresses("web.shop"), lab.addresses("db.shop"));
    let held = || {
        let status = lab.status().unwrap_or_default();
        let workers = status.get("workers").and_then(Value::as_array).cloned().unwrap_or_default();
        workers.iter().filter_map(|worker| worker.get("held")?.as_u64()).sum::<u64>()
    };
    for (own, target) in own.iter().zip(&target) {
        let ethernet = PacketBuilder::ethernet2(web.mac, gateway);
        let ip = match (own, target) {
            (IpAddr::V4(own), IpAddr::V4(target)) => ethernet.ipv4(own.octets(), target.octets(), 64),
            (IpAddr::V6(own), IpAddr::V6(target)) => ethernet.ipv6(own.octets(), target.octets(), 64),
            _ => panic!("families"),
        };
        let mut whole = Vec::new();
        ip.udp(4000, 5000).write(&mut whole, &payload(3)[..4000]).unwrap();
        let pieces = fragments(&whole, 1400, 77);
        for late in [false, true] {
            let dropped = lab.drops("fragment_timeout");
            for piece in pieces[1..].iter().rev() {
                web.send(piece);
            }
            if late {
                eventually("their time is over", || lab.drops("fragment_timeout") >= dropped + 2);
                assert_eq!(held(), 0);
                continue;
            }
            web.send(&pieces[0]);
            // The first one, then the others as they were sent; everything behind the IP header is untouched.
            for place in [0, 2, 1] {
                let tail = &pieces[place][if own.is_ipv4() { 34 } else { 54 }..];
                assert!(
                    db.sees(Duration::from_secs(2), |frame| frame.ends_with(tail)),
                    "fragment {place} to {target} did not come in its turn"
                );
            }
            assert_eq!(held(), 0);
        }
    }
}

/// Fragments that are never followed by their first one. Each datagram's wait until its time is over, and so many wait that
/// there is no room for more; the status says whose they are.
#[test]
fn who_fills_the_table_is_named() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods())], &[]);
    let (web, gateway) = (Wire::open("web.shop"), lab.gateway_mac("web.shop"));
    let v4 = |netns| {
        lab.addresses(netns).into_iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        })
    };
    let (own, target) = (v4("web.shop").unwrap(), v4("db.shop").unwrap());
    let mut whole = Vec::new();
    let builder = PacketBuilder::ethernet2(web.mac, gateway).ipv4(own, target, 64).udp(4000, 5000);
    builder.write(&mut whole, &payload(5)[..4000]).unwrap();
    for identification in 0..2000 {
        web.send(&fragments(&whole, 1400, identification)[1]);
    }
    let of = |pod: &str, field: &str| {
        let status = lab.status().unwrap_or_default();
        let ports = status.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let port = ports.iter().find(|port| port.get("pod") == Some(&Value::from(pod))).cloned();
        port.unwrap_or_default().pointer(&format!("/fragments/{field}")).and_then(Value::as_u64)
    };
    eventually("each fragment without room counts as its own", || {
        let refused = of("shop/web", "refused");
        refused > Some(0) && refused == Some(lab.drops("fragment_source_limit"))
    });
    assert_eq!(of("shop/db", "refused"), Some(0));
    let said = run_podgate(&["status", "--socket", SOCKET]);
    assert!(said.out.contains("warning: fragments: shop/web has "), "{}", said.out);
    let heaviest = said.out.split("Most fragments").nth(1).expect("a table of who has most fragments");
    let first = heaviest.lines().nth(2).and_then(|line| line.split_whitespace().next());
    assert_eq!(first, Some("shop/web"), "{heaviest}");
    eventually("nothing waits for ever", || {
        of("shop/web", "datagrams") == Some(0) && of("shop/web", "held") == Some(0)
    });
}

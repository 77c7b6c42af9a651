//! Packets that ordinary clients send every day without telling anybody, and packets that they never send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use etherparse::PacketBuilder;
use podgate_control::netlink::Namespace;
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod};
use podgate_tests::wire::{Wire, sctp_init};
use serde_json::Value;

fn pods() -> String {
    [namespace("shop"), pod("shop", "web", &["80"]), pod("shop", "db", &["80"])].concat()
}

/// `db` takes SCTP 38412 from everybody.
const SCTP_ONLY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n\
    spec:\n  podSelector: {matchLabels: {app: db}}\n  ingress:\n  - ports: [{protocol: SCTP, port: 38412}]\n";

fn v4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("{address} is not IPv4"),
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(_) => panic!("{address} is not IPv6"),
    }
}

#[test]
fn the_gateway_answers_its_neighbours() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods())], &[]);
    let _ =
        lab.exec("web.shop", 5, &["ping", "-c", "2", "-i", "0.2", "-W", "1", "169.254.1.1"]).expect("ping");
    let _ = lab
        .exec("web.shop", 5, &["ping", "-c", "2", "-i", "0.2", "-W", "1", "fe80::1%eth0"])
        .expect("ping -6");
    let neighbours = lab.exec("web.shop", 5, &["ip", "neighbour"]).expect("neighbours");
    for gateway in ["169.254.1.1 dev eth0 lladdr", "fe80::1 dev eth0 lladdr"] {
        assert!(neighbours.contains(gateway), "{neighbours}");
    }
    // One hop from the pod the time has run out, and the gateway says so; traceroute is made of this.
    for (address, node) in lab.addresses("db.shop").iter().zip(lab.addresses("podgate-node")) {
        let address = address.to_string();
        let said = lab.exec("web.shop", 5, &["ping", "-n", "-c", "1", "-W", "1", "-t", "1", &address]);
        let first_hop = |hop: &str| said.out.contains(&format!("From {hop}"));
        assert!(first_hop(&node.to_string()) || first_hop("169.254.1.1") || first_hop("fe80::1"), "{said:?}");
        assert!(said.out.contains("Time to live exceeded") || said.out.contains("Hop limit"), "{said:?}");
        let said = lab.exec("web.shop", 5, &["ping", "-n", "-c", "1", "-W", "1", "-t", "2", &address]);
        assert!(said.fine(), "{said:?}");
    }
}

#[test]
fn a_source_that_is_not_its_own_is_dropped_and_counted() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods())], &[]);
    let (web, db) = (Wire::open("web.shop"), Wire::open("db.shop"));
    let gateway = lab.gateway_mac("web.shop");
    let target = lab.addresses("db.shop");
    let own = lab.addresses("web.shop");
    let packet = |source: IpAddr, tag: &[u8]| {
        let ethernet = PacketBuilder::ethernet2(web.mac, gateway);
        let mut frame = Vec::new();
        match source {
            IpAddr::V4(_) => ethernet.ipv4(v4(source), v4(target[0]), 64),
            IpAddr::V6(_) => ethernet.ipv6(v6(source), v6(target[1]), 64),
        }
        .udp(4000, 80)
        .write(&mut frame, tag)
        .unwrap();
        frame
    };
    let arrives = |tag: &'static [u8]| move |frame: &[u8]| frame.ends_with(tag);
    for (i, source) in own.iter().enumerate() {
        let tag: &[u8] = [&b"honest four"[..], b"honest six"][i];
        web.send(&packet(*source, tag));
        assert!(db.sees(Duration::from_secs(2), arrives(tag)), "{source}");
    }
    let before = lab.drops("spoofed_source");
    for (i, source) in ["10.244.200.200", "fd00:10:244::dead"].iter().enumerate() {
        let tag: &[u8] = [&b"lying four"[..], b"lying six"][i];
        web.send(&packet(source.parse().unwrap(), tag));
        assert!(!db.sees(Duration::from_millis(500), arrives(tag)), "{source}");
    }
    eventually("both are counted", || lab.drops("spoofed_source") >= before + 2);
}

#[test]
fn sctp_is_judged_by_its_ports() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", SCTP_ONLY)], &[]);
    let (web, db) = (Wire::open("web.shop"), Wire::open("db.shop"));
    let gateway = lab.gateway_mac("web.shop");
    let (own, target) = (lab.addresses("web.shop"), lab.addresses("db.shop"));
    for family in [0, 1] {
        for (port, allowed) in [(38_412, true), (38_413, false)] {
            let init = sctp_init(5000 + family, port);
            let ethernet = PacketBuilder::ethernet2(web.mac, gateway);
            let mut frame = Vec::new();
            let sctp = etherparse::IpNumber::SCTP;
            if family == 0 {
                ethernet.ipv4(v4(own[0]), v4(target[0]), 64).write(&mut frame, sctp, &init).unwrap();
            } else {
                ethernet.ipv6(v6(own[1]), v6(target[1]), 64).write(&mut frame, sctp, &init).unwrap();
            }
            web.send(&frame);
            // Unchanged to the last byte, checksum included.
            let seen = db.sees(Duration::from_millis(800), |frame| frame.ends_with(&init));
            assert_eq!(seen, allowed, "family {family} port {port}");
        }
    }
}

#[test]
fn a_narrower_way_is_found_out() {
    if !enabled() {
        return;
    }
    const BYTES: usize = 2_000_000;
    let external = ["--mtu", "9000", "--external", "internet=198.51.100.7,2001:db8::7"];
    let lab = Lab::up(&[("pods.yaml", &pods())], &external);
    let status = lab.status().unwrap();
    let ports = status.get("ports").and_then(Value::as_array).unwrap();
    let uplink = ports.iter().find(|port| port.get("kind") == Some(&Value::from("uplink"))).unwrap();
    let uplink = uplink.get("interface").and_then(Value::as_str).unwrap();
    let _ = lab.exec("podgate-node", 5, &["ip", "link", "set", uplink, "mtu", "1400"]).expect("a lower MTU");
    lab.kill_gateway();
    lab.restart_gateway();
    for (number, address) in lab.addresses("ext-internet").into_iter().enumerate() {
        // What both ends agree on is 9000 bytes: only the gateway's word makes the sender send less.
        let listener = Namespace::open("ext-internet")
            .unwrap()
            .run(|| TcpListener::bind((address, 7000)))
            .unwrap()
            .unwrap();
        let sink = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink())
        });
        let connect = || TcpStream::connect_timeout(&(address, 7000).into(), Duration::from_secs(10));
        let mut stream = Namespace::open("web.shop").unwrap().run(connect).unwrap().unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&vec![7; BYTES]).unwrap();
        drop(stream);
        assert_eq!(sink.join().unwrap().unwrap(), BYTES as u64);
        let route = lab.exec("web.shop", 5, &["ip", "route", "get", &address.to_string()]).expect("a route");
        assert!(route.contains("mtu 1400"), "{route}");
        eventually("it is counted", || lab.drops("packet_too_big") > number as u64);
    }
}

#[test]
fn throughput_is_measured() {
    if !enabled() {
        return;
    }
    let lab = Lab::up(&[("pods.yaml", &pods())], &[]);
    let server = lab.background("db.shop", &["iperf3", "-s"]);
    for (i, address) in lab.addresses("db.shop").iter().enumerate() {
        let address = address.to_string();
        let mut rate = None;
        eventually("iperf3 gives a figure", || {
            let said = lab.exec("web.shop", 20, &["iperf3", "-c", &address, "-t", "3", "-J"]);
            let report = serde_json::from_str::<Value>(&said.out).unwrap_or_default();
            rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
            rate.is_some_and(|rate| rate > 0.0)
        });
        let rate = rate.unwrap_or_default();
        println!("iperf3 over IPv{}: {:.2} Gb/s at MTU 1500", [4, 6][i], rate / 1e9);
    }
    drop(server);
}

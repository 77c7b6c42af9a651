//! What is known of those at the other ends of the wires: MTU and MAC address of a pod, which may change, and neighbours on the
//! uplink, which have to be found.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use podgate_control::status::Status;
use podgate_tests::netns::{run, skipped, try_run};

use crate::node::{Node, OUTSIDE, PODS, SINK, UNTOLD, socket_in};

#[test]
fn a_pods_mtu_and_mac_address_are_followed() {
    if skipped() {
        return;
    }
    let mut node = Node::new();
    let (space, address) = (&node.pods[1], PODS[1].1);
    let ping = |size: u32| {
        let command = format!(
            "ip netns exec {} ping -c 1 -W 1 -M do -s {} {address}",
            node.outside,
            // Headers of IP and ICMP.
            size - 28
        );
        try_run(&command).status.success()
    };
    node.gateway.wait("the pod is reached", |_| ping(1500));

    run(&format!("ip -n {space} link set eth0 address 02:00:00:00:77:01"));
    node.gateway.wait("the new MAC address is known", |gateway| {
        gateway.port("vb").mac.as_deref() == Some("02:00:00:00:77:01")
    });
    node.gateway.wait("the pod is reached by it", |_| ping(1500));

    // A larger packet would be dropped without a word by the kernel; the gateway answers with the new MTU.
    run(&format!("ip -n {space} link set eth0 mtu 1400"));
    node.gateway.wait("too large a packet is answered", |gateway| {
        assert!(!ping(1450), "a packet larger than the pod's MTU cannot be answered");
        gateway.status().drops.contains_key("packet_too_big")
    });
    node.gateway.wait("what is not too large passes", |_| ping(1400));

    run(&format!("ip -n {} link set eth0 mtu 3000", node.outside));
    run(&format!("ip -n {} link set up0 mtu 3000", node.space));
    run(&format!("ip -n {space} link set eth0 mtu 3000"));
    // The path's MTU is remembered outside.
    run(&format!("ip -n {} route flush cache", node.outside));
    node.gateway.wait("a larger packet passes both ways", |_| {
        run(&format!("ip -n {} route flush cache", node.outside));
        ping(3000)
    });
}

/// A pod tries every address of a network. It is told from others by the status, which find their neighbours meanwhile, and
/// what it wanted is forgotten.
#[test]
fn neighbours_are_found_beside_a_scan() {
    if skipped() {
        return;
    }
    let mut node = Node::new();
    run(&format!("ip -n {} addr add {UNTOLD}/32 dev eth0", node.outside));
    let scanner = socket_in(&node.nest, &node.pods[0], 0);
    let scan = || {
        for number in 1..1000_u32 {
            let address = Ipv4Addr::from_bits(OUTSIDE.to_bits() + 1 + number);
            let _ = scanner.send_to(b"anybody?", (address, SINK));
            if number.is_multiple_of(16) {
                // The workers tell of so many wanted neighbours at a time.
                thread::sleep(Duration::from_millis(5));
            }
        }
    };
    node.gateway.wait("the scan meets the limit", |gateway| {
        scan();
        gateway.port("va").neighbours.refused > 0
    });
    let named = |status: &Status| {
        let mut of = status.problems.iter().filter(|problem| problem.subject == "neighbours");
        of.any(|problem| problem.message.starts_with("shop/a has sent to "))
    };
    let status = node.gateway.status();
    assert!(named(&status), "{:?}", status.problems);
    let ping = format!("ip netns exec {} ping -c 1 -W 1 {UNTOLD}", node.pods[1]);
    node.gateway.wait("another pod finds its neighbour", |_| try_run(&ping).status.success());
    assert_eq!(node.gateway.port("vb").neighbours.refused, 0);
    // Each is looked for ten seconds and more.
    let end = Instant::now() + Duration::from_secs(60);
    while node.gateway.port("va").neighbours.wanted > 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(node.gateway.port("va").neighbours.wanted, 0, "what nobody has found is forgotten");
    let listed = run(&format!("ip -n {} neigh show dev up0", node.space));
    assert!(listed.lines().count() < 10 && listed.contains(&UNTOLD.to_string()), "{listed}");
}

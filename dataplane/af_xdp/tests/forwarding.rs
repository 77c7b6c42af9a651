//! Packets between pods through real sockets on real veth pairs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Checksums, Forwarder, Lab, SMALL, Veth, run, tcp, within};
use std::time::Duration;

/// Pods with default offloads hand over partial checksums; the kernel completes them when asked by metadata.
#[test]
fn tcp_with_default_offloads_and_transmit_metadata() {
    let lab = Lab::new(2, Veth::default());
    let forwarder = Forwarder::start(&lab, SMALL, Checksums::Metadata);
    assert!(lab.ping(0, 1));
    tcp(&lab, 0, 1, 20_000_000, false);
    tcp(&lab, 1, 0, 2_000_000, true);
    let report = forwarder.stop();
    assert!(report.partial > 1000 && report.multi_buffer == 0, "{report:?}");
}

/// The same with checksums completed in software, as on kernels without metadata.
#[test]
fn tcp_with_default_offloads_and_software_checksums() {
    let lab = Lab::new(2, Veth::default());
    let forwarder = Forwarder::start(&lab, SMALL, Checksums::Software);
    tcp(&lab, 0, 1, 20_000_000, false);
    tcp(&lab, 1, 0, 2_000_000, true);
    assert!(forwarder.stop().partial > 1000);
}

/// What the two above are for: without either, ping works and TCP does not.
#[test]
fn partial_checksums_left_alone_do_not_arrive() {
    let lab = Lab::new(2, Veth::default());
    let forwarder = Forwarder::start(&lab, SMALL, Checksums::Ignore);
    assert!(lab.ping(0, 1));
    let listener =
        within(&lab.pod(1), || std::net::TcpListener::bind("10.99.0.2:7000").unwrap()).join().unwrap();
    let connected = within(&lab.pod(0), || {
        let target = "10.99.0.2:7000".parse().unwrap();
        std::net::TcpStream::connect_timeout(&target, Duration::from_millis(700)).is_ok()
    });
    assert!(!connected.join().unwrap());
    drop(listener);
    forwarder.stop();
}

/// An MTU of 9000: three buffers a packet.
#[test]
fn jumbo_packets_take_several_buffers() {
    for checksums in [Checksums::Metadata, Checksums::Software] {
        let lab = Lab::new(2, Veth { mtu: 9000, ..Default::default() });
        let forwarder = Forwarder::start(&lab, SMALL, checksums);
        run(&format!("ip netns exec {} ping -c3 -i0.05 -W1 -q -s 8900 -M do 10.99.0.2", lab.pod(0)));
        tcp(&lab, 0, 1, 20_000_000, false);
        let report = forwarder.stop();
        assert!(report.multi_buffer > 1000, "{report:?}");
    }
}

/// The largest packets there are: 18 buffers each.
#[test]
fn packets_of_64_kilobytes() {
    let lab = Lab::new(2, Veth { mtu: 65535, ..Default::default() });
    let config = af_xdp::SocketConfig { tx_budget: 256, ..Default::default() };
    // 4096 fill entries a port, so that a window of large packets fits.
    let config = af_xdp::SocketConfig { fill: 2048, ..config };
    let forwarder = Forwarder::start(&lab, config, Checksums::Metadata);
    run(&format!("ip netns exec {} ping -c3 -i0.05 -W1 -q -s 65000 -M do 10.99.0.2", lab.pod(0)));
    tcp(&lab, 0, 1, 50_000_000, false);
    let report = forwarder.stop();
    assert!(report.multi_buffer > 500, "{report:?}");
}

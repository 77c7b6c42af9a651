//! What a Linux pod with default offloads really sends, as taken from the gateway's end of a veth pair (kernel 6.18;
//! the pod is 10.244.0.10 and fd00:10:244::a with default routes by 169.254.1.1 and fe80::1).

#![allow(clippy::unwrap_used, clippy::panic)] // tests

use podgate_dataplane::checksum::state;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::neighbor::{Outcome, answer_arp, answer_nd};
use podgate_dataplane::packet::{ChecksumState, Role, Transport};
use podgate_dataplane::parse::{Parsed, parse, plain};
use std::net::IpAddr;

fn frame(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/corpus/frames/kernel-{name}.bin", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn tcp_and_udp_leave_their_checksums_to_the_device() {
    for name in ["udp-v4", "udp-v6", "tcp-v4", "tcp-v6"] {
        let frame = frame(name);
        let headers = plain(&frame, frame.len()).unwrap_or_else(|| panic!("{name} is not plain"));
        assert_eq!(state(&frame, &headers), ChecksumState::Partial, "{name}");
        assert_eq!(headers.role(), Role::Any, "{name}");
        assert_eq!(headers.destination_port, if name.starts_with("tcp") { 80 } else { 53 });
    }
}

#[test]
fn pings_are_complete() {
    for name in ["echo-v4", "echo-v6"] {
        let frame = frame(name);
        let Ok(Parsed::Ip(headers)) = parse(&frame, frame.len()) else { panic!("{name}") };
        assert!(matches!(headers.transport, Transport::IcmpQuery { reply: false, .. }));
        assert_eq!(state(&frame, &headers), ChecksumState::Complete);
    }
}

#[test]
fn what_is_not_forwarded_has_its_name() {
    for (name, reason) in [
        ("mld", DropReason::Mld),
        ("igmp", DropReason::Igmp),
        ("router-solicitation", DropReason::RouterSolicitation),
    ] {
        let frame = frame(name);
        assert_eq!(parse(&frame, frame.len()), Err(reason), "{name}");
    }
}

#[test]
fn fragments_have_no_checksum_to_complete() {
    for (name, offset) in [("fragment-v4", 34), ("fragment-v6", 62)] {
        let frame = frame(name);
        let Ok(Parsed::Ip(headers)) = parse(&frame, frame.len()) else { panic!("{name}") };
        let fragment = headers.fragment.unwrap();
        assert!(!fragment.is_first() && fragment.is_last(), "{name}");
        assert_eq!(headers.transport_offset, offset, "{name}");
        assert_eq!(state(&frame, &headers), ChecksumState::Absent, "{name}");
    }
}

#[test]
fn questions_for_the_gateway_are_answered_and_probes_of_its_own_are_not() {
    let own = |address: IpAddr| match address {
        IpAddr::V4(four) => four.octets() == [10, 244, 0, 10],
        // Its link-local address, made from its MAC, is its own.
        IpAddr::V6(six) => six.octets().starts_with(&[0xfd]) || six.octets()[8..] != [0, 0, 0, 0, 0, 0, 0, 1],
    };
    let gateway_mac = [2, 0, 0, 0, 0, 1];
    for (name, answered) in [("arp", true), ("solicitation", true), ("dad", false)] {
        let frame = frame(name);
        let outcome = match parse(&frame, frame.len()) {
            Ok(Parsed::Arp) => answer_arp(&frame, gateway_mac, own, |_| false),
            Ok(Parsed::NeighborDiscovery) => answer_nd(&frame, gateway_mac, own, |_| false),
            other => panic!("{name}: {other:?}"),
        };
        let outcome = outcome.unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(matches!(outcome, Outcome::Answer(_)), answered, "{name}");
    }
}

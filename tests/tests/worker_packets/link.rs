//! The link layer: what the gateway answers there, and what is not for it at all.

use podgate_dataplane::drop_reason::DropReason;
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, UPLINK, gateway_mac, peer_mac};

use crate::case::each;
use crate::cluster::*;
use crate::craft::{arp, icmp, repair_length, repair_v4, solicitation, with_extensions};

#[test]
fn the_gateway_answers_ping() {
    each(|mut case| {
        let (a, a_ip) = (case.a, case.at.a());
        let gateway = case.at.of("169.254.1.1", "fe80::1");
        // Policy has no say in it.
        case.policies([deny_all(podgate_config::model::Selector::everything())]);
        let own = if case.at.six { ip("fe80::aa") } else { a_ip };
        for source in [a_ip, own] {
            let answer = case.answers(a, &From::new(a, source, gateway).echo(7, false));
            let expected = From::new(a, gateway, source).echo(7, true);
            assert_eq!(answer[14..], expected[14..]);
        }
        let host = From::new(HOST, case.at.node(), gateway);
        case.answers(HOST, &host.echo(7, false));
        // Nothing else is listened to.
        let from = From::new(a, a_ip, gateway);
        for frame in [
            from.echo(7, true),
            from.udp(1, 2, b"x"),
            from.tcp(1000, 80, "S"),
            from.sctp(1000, 9, 1),
            from.other(47, b"x"),
            from.unreachable(&From::new(a, gateway, a_ip).udp(1, 2, b"x")),
        ] {
            case.drops(a, &frame, DropReason::NoRoute);
        }
        // Other link-local addresses are nobody's here.
        let other = From::new(a, a_ip, case.at.of("169.254.7.7", "fe80::7"));
        case.drops(a, &other.echo(7, false), DropReason::NoRoute);
        case.finish();
    });
}

#[test]
fn address_resolution_is_answered_for_what_the_gateway_forwards_to() {
    each(|mut case| {
        let (a, a_ip) = (case.a, case.at.a());
        let known = if case.at.six {
            ["fe80::1", "fd00:10:244::2", "fd00:10:244::9:9", "fd00:10:244::fffe"]
        } else {
            ["169.254.1.1", "10.244.0.2", "10.244.9.9", "10.244.255.254"]
        };
        let unknown = if case.at.six { ["fd00:10:244::1", "fd00::9"] } else { ["10.244.0.1", "10.9.9.9"] };
        let own = if case.at.six { ip("fe80::aa") } else { a_ip };
        let from = From::new(a, own, own);
        let ask = |target| match target {
            target if from.source.is_ipv6() => solicitation(&from, target),
            target => arp(&from, 1, own, target),
        };
        for target in known.map(ip) {
            let answer = case.answers(a, &ask(target));
            let mac = if case.at.six { &answer[80..86] } else { &answer[22..28] };
            assert_eq!(mac, gateway_mac(a), "{target}");
        }
        for target in unknown.map(ip) {
            case.consumes(a, &ask(target));
        }
        if case.at.six {
            case.consumes(a, &ask(ip("fe80::aa")));
        }
        case.finish();
    });
}

#[test]
fn arp_that_lies_or_is_no_arp_is_dropped() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        let (a, a_ip, gateway) = (case.a, case.at.a(), ip("169.254.1.1"));
        let from = From::new(a, a_ip, gateway);
        for sender in [case.at.b(), case.at.node(), gateway] {
            case.drops(a, &arp(&from, 1, sender, gateway), DropReason::ArpSpoofed);
            case.drops(a, &arp(&from, 2, sender, sender), DropReason::ArpSpoofed);
        }
        let good = arp(&from, 1, a_ip, gateway);
        let changed = |at: usize, to: u8| {
            let mut frame = good.clone();
            frame[at] = to;
            frame
        };
        case.drops(a, &changed(11, 9), DropReason::ArpSpoofed);
        case.drops(a, &changed(27, 9), DropReason::ArpSpoofed);
        for (at, to) in [(15, 6), (17, 1), (18, 5), (19, 16), (21, 3), (21, 0)] {
            case.drops(a, &changed(at, to), DropReason::ArpInvalid);
        }
        // An answer that nobody asked for, and a probe (RFC 5227).
        case.consumes(a, &arp(&from, 2, a_ip, gateway));
        case.answers(a, &arp(&from, 1, ip("0.0.0.0"), gateway));
        case.consumes(a, &arp(&from, 1, ip("0.0.0.0"), a_ip));
        // The other ports' own addresses.
        let host = From::new(HOST, case.at.node(), gateway);
        case.answers(HOST, &arp(&host, 1, case.at.node(), a_ip));
        case.drops(HOST, &arp(&host, 1, a_ip, case.at.node()), DropReason::ArpSpoofed);
        case.finish();
    });
}

#[test]
fn neighbour_discovery_that_lies_or_is_malformed_is_dropped() {
    each(|mut case| {
        if !case.at.six {
            return case.finish();
        }
        let (a, gateway) = (case.a, ip("fe80::1"));
        let from = From::new(a, case.at.a(), gateway);
        case.answers(a, &solicitation(&from, gateway));
        let b = From { source: case.at.b(), ..from };
        // A question is no claim of an address; an advertisement is.
        let advertise = |from: &From, target: std::net::IpAddr| {
            let std::net::IpAddr::V6(target) = target else { panic!() };
            let mut body = target.octets().to_vec();
            body.extend_from_slice(&[2, 1]);
            body.extend_from_slice(&peer_mac(a));
            icmp(&From { hop_limit: 255, ..*from }, 136, 0, [0x40, 0, 0, 0], &body)
        };
        case.consumes(a, &advertise(&from, case.at.a()));
        case.drops(a, &advertise(&from, case.at.b()), DropReason::NdSpoofed);
        case.drops(a, &advertise(&b, case.at.b()), DropReason::NdSpoofed);
        case.drops(a, &solicitation(&b, gateway), DropReason::NdSpoofed);
        let good = solicitation(&from, gateway);
        // Forwarded by somebody, damaged, with another code.
        for (at, to) in [(21, 254), (57, 0x55), (55, 1)] {
            let mut frame = good.clone();
            frame[at] = to;
            case.drops(a, &frame, DropReason::NdInvalid);
        }
        let extended = with_extensions(&good, &[(60, &[1, 4, 0, 0, 0, 0])]);
        case.drops(a, &extended, DropReason::NdInvalid);
        for (kind, reason) in [
            (133, DropReason::RouterSolicitation),
            (134, DropReason::RouterAdvertisement),
            (137, DropReason::IcmpRedirect),
            (130, DropReason::Mld),
            (131, DropReason::Mld),
            (132, DropReason::Mld),
            (143, DropReason::Mld),
        ] {
            let all = From { destination: ip("ff02::2"), hop_limit: 255, ..from };
            let mut frame = icmp(&all, kind, 0, [0; 4], &[0; 16]);
            case.drops(a, &frame, reason);
            frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 2]);
            case.drops(a, &frame, reason);
        }
        case.finish();
    });
}

/// Frames that are not for a router, or that nobody can have sent, on every kind of port.
#[test]
fn what_is_not_for_a_router_is_dropped_by_name() {
    each(|mut case| {
        for (there, back) in case.ways() {
            for from in [there, back] {
                let port = from.port;
                let good = from.udp(1, 2, b"payload");
                let changed = |at: usize, to: &[u8]| {
                    let mut frame = good.clone();
                    frame[at..at + to.len()].copy_from_slice(to);
                    if frame[12..14] == [8, 0] {
                        repair_v4(&mut frame);
                    }
                    frame
                };
                case.drops(port, &changed(5, &[0x77]), DropReason::ForeignMac);
                case.drops(port, &changed(0, &[0xff; 6]), DropReason::Broadcast);
                case.drops(port, &changed(0, &[0x01, 0, 0x5e, 0, 0, 1]), DropReason::Multicast);
                case.drops(port, &changed(6, &[3]), DropReason::GroupSource);
                for tag in [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]] {
                    case.drops(port, &changed(12, &tag), DropReason::Vlan);
                }
                for other in [[0x88, 0x47], [0x88, 0xcc], [0, 46], [0xff, 0xff]] {
                    case.drops(port, &changed(12, &other), DropReason::EtherType);
                }
                let (source, destination) = if case.at.six { (22, 38) } else { (26, 30) };
                let address = |text: &str| match ip(text) {
                    std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                    std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                let martians = if case.at.six {
                    &["::", "::1", "::ffff:10.0.0.1"][..]
                } else {
                    &["0.0.0.0", "127.0.0.1"]
                };
                for martian in martians {
                    case.drops(port, &changed(source, &address(martian)), DropReason::MartianAddress);
                    case.drops(port, &changed(destination, &address(martian)), DropReason::MartianAddress);
                }
                let group = address(if case.at.six { "ff0e::1" } else { "239.1.2.3" });
                case.drops(port, &changed(source, &group), DropReason::MartianAddress);
                case.drops(port, &changed(destination, &group), DropReason::Multicast);
                if !case.at.six {
                    let all = address("255.255.255.255");
                    case.drops(port, &changed(destination, &all), DropReason::Broadcast);
                    case.drops(port, &changed(source, &all), DropReason::MartianAddress);
                    case.drops(port, &from.other(2, &[0x16, 0, 0, 0, 224, 0, 0, 1]), DropReason::Igmp);
                }
            }
        }
        case.finish();
    });
}

/// Short frames are filled up on the wire. What is behind the packet is not part of it, and does not leave.
#[test]
fn padding_is_not_forwarded() {
    each(|mut case| {
        for (there, back) in case.ways() {
            let mut padded = there.udp(1, 2, b"x");
            padded.extend_from_slice(b"old secrets of a neighbour");
            case.opens(there.port, &padded, back.port);
            let mut padded = back.udp(2, 1, b"");
            padded.resize(1514, 0xee);
            case.passes(back.port, &padded, there.port);
            // A packet that claims a part of it is another packet.
            let mut longer = there.udp(1, 2, b"x");
            longer.extend_from_slice(b"data");
            repair_length(&mut longer);
            case.passes(there.port, &longer, back.port);
        }
        case.finish();
    });
}

#[test]
fn the_uplink_answers_for_nobody_but_the_node() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        // A router asks for the node's address; who answers there is the gateway.
        let mut question =
            arp(&From::new(UPLINK, case.at.outside(), case.at.node()), 1, case.at.node(), case.at.a());
        case.answers(UPLINK, &question);
        question[28..32].copy_from_slice(&[192, 0, 2, 7]);
        case.drops(UPLINK, &question, DropReason::ArpSpoofed);
        case.finish();
    });
}

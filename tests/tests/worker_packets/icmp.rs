//! ICMP: errors about connections, questions and their answers, and what the gateway says itself.

use std::time::Duration;

use podgate_config::model::Protocol;
use podgate_dataplane::drop_reason::DropReason;
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, UPLINK};

use crate::case::{Case, each};
use crate::cluster::*;
use crate::craft::{icmp, segment_with, with_extensions, with_options};

/// An IP header without what is an option in it.
fn header_len(case: &Case) -> usize {
    if case.at.six { 40 } else { 20 }
}

/// Every kind of error about a packet: unreachable, too big, time exceeded, parameter problem.
fn errors(from: &From, about: &[u8]) -> Vec<Vec<u8>> {
    let kinds: &[(u8, u8, [u8; 4])] = if from.source.is_ipv6() {
        &[(1, 0, [0; 4]), (1, 4, [0; 4]), (2, 0, [0, 0, 5, 0]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 6])]
    } else {
        &[(3, 1, [0; 4]), (3, 3, [0; 4]), (3, 4, [0, 0, 5, 0]), (11, 0, [0; 4]), (12, 0, [9, 0, 0, 0])]
    };
    kinds.iter().map(|(kind, code, rest)| icmp(from, *kind, *code, *rest, &about[14..])).collect()
}

/// From the one whom the connection is with, about each protocol, either direction.
#[test]
fn an_error_passes_if_it_quotes_a_live_connection_and_only_then() {
    each(|mut case| {
        case.policy(only("a", "b", &[(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Sctp, 9)]));
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            let packets = [there.tcp(1000, 80, "S"), there.udp(1000, 53, b"query"), there.sctp(1000, 9, 1)];
            for packet in &packets {
                for error in errors(&back, packet) {
                    case.drops(b, &error, DropReason::IcmpErrorNoFlow);
                }
                case.opens(a, packet, b);
                for error in errors(&back, packet) {
                    case.passes(b, &error, a);
                }
            }
            // Other numbers between the same two.
            for stranger in [
                there.udp(1001, 53, b"query"),
                there.udp(1000, 54, b"query"),
                there.tcp(1000, 53, "S"),
                there.sctp(1000, 53, 1),
                there.other(47, b"query"),
                there.echo(1000, false),
            ] {
                for error in errors(&back, &stranger) {
                    case.drops(b, &error, DropReason::IcmpErrorNoFlow);
                }
            }
            // The client complains about an answer.
            let answer = back.udp(53, 1000, b"answer");
            case.passes(b, &answer, a);
            for error in errors(&there, &answer) {
                case.passes(a, &error, b);
            }
        }
        case.finish();
    });
}

#[test]
fn errors_about_protocols_without_ports() {
    each(|mut case| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            for packet in [there.echo(7, false), there.other(47, b"tunnel")] {
                case.drops(b, &back.unreachable(&packet), DropReason::IcmpErrorNoFlow);
                case.opens(a, &packet, b);
                case.passes(b, &back.unreachable(&packet), a);
            }
            case.drops(b, &back.unreachable(&there.echo(8, false)), DropReason::IcmpErrorNoFlow);
            case.drops(b, &back.unreachable(&there.other(48, b"tunnel")), DropReason::IcmpErrorNoFlow);
            // About the answer to a ping; and about one that was never given.
            let answer = back.echo(7, true);
            case.passes(b, &answer, a);
            case.passes(a, &there.unreachable(&answer), b);
            case.drops(a, &there.unreachable(&back.echo(9, true)), DropReason::IcmpErrorNoFlow);
        }
        case.finish();
    });
}

/// A router on the way may complain about a connection to the outside; a pod may not complain for another one.
#[test]
fn an_error_comes_from_the_way_of_its_connection() {
    each(|mut case| {
        let c = case.add_pod(pod("shop/c", [ip("10.244.0.3"), ip("fd00:10:244::3")]), 0);
        case.publish();
        let (a, b, a_ip) = (case.a, case.b, case.at.a());
        let c_ip = case.at.of("10.244.0.3", "fd00:10:244::3");
        let [(to_b, b_back), (out, _), (away, _)] = case.ways();
        let packets = [to_b.udp(1000, 9, b"to b"), out.udp(1000, 9, b"out"), away.udp(1000, 9, b"away")];
        for (packet, to) in packets.iter().zip([b, UPLINK, HOST]) {
            case.opens(a, packet, to);
        }
        // Nobody outside is on the way between two pods of this node.
        let local = case.a_to_b().udp(3000, 53, b"query");
        let b = case.b;
        case.opens(a, &local, b);
        let router = case.at.of("192.0.2.254", "2001:db8::fe");
        for port in [UPLINK, HOST] {
            case.drops(port, &From::new(port, router, a_ip).unreachable(&local), DropReason::IcmpErrorNoFlow);
        }
        case.passes(UPLINK, &From::new(UPLINK, router, a_ip).unreachable(&packets[1]), a);
        let router = case.at.of("198.18.0.1", "2001:dbf::fe");
        case.passes(HOST, &From::new(HOST, router, a_ip).unreachable(&packets[2]), a);
        for packet in &packets {
            case.drops(c, &From::new(c, c_ip, a_ip).unreachable(packet), DropReason::IcmpErrorNoFlow);
        }
        case.drops(b, &b_back.unreachable(&packets[1]), DropReason::IcmpErrorNoFlow);
        case.drops(b, &b_back.unreachable(&packets[2]), DropReason::IcmpErrorNoFlow);
        case.passes(b, &b_back.unreachable(&packets[0]), a);
        // To somebody else than the one who sent the packet: nothing that a stack would believe.
        for (from, to) in [(b, c_ip), (b, case.at.outside()), (c, case.at.b())] {
            let source = if from == b { case.at.b() } else { c_ip };
            let error = From::new(from, source, to).unreachable(&packets[0]);
            case.drops(from, &error, DropReason::IcmpQuote);
        }
        case.drops(a, &to_b.unreachable(&packets[0]), DropReason::IcmpQuote);
        case.finish();
    });
}

#[test]
fn an_error_must_quote_what_was_sent() {
    each(|mut case| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            let syn = there.tcp(1000, 80, "S");
            case.opens(a, &syn, b);
            for sequence in [0, 123_456, 1000 + 65_000, u32::MAX] {
                let forged = there.segment((1000, 80), "S", sequence, 0);
                case.drops(b, &back.unreachable(&forged), DropReason::IcmpErrorNoFlow);
            }
            case.passes(b, &back.unreachable(&syn), a);
            case.passes(b, &back.tcp(80, 1000, "SA"), a);
            case.passes(a, &there.tcp(1000, 80, "A"), b);
            case.passes(a, &segment_with(&there, (1000, 80), "A", (1000, 1000), &[], &[0; 500]), b);
            for (sequence, passes) in
                [(1000, true), (1499, true), (1500, true), (1501, false), (66_001, false)]
            {
                let quoted = there.segment((1000, 80), "A", sequence, 1000);
                match passes {
                    true => case.passes(b, &back.unreachable(&quoted), a),
                    false => case.drops(b, &back.unreachable(&quoted), DropReason::IcmpErrorNoFlow),
                }
            }
            // What the other end has not sent.
            let quoted = back.segment((80, 1000), "A", 2000, 1000);
            case.drops(a, &there.unreachable(&quoted), DropReason::IcmpErrorNoFlow);
        }
        case.finish();
    });
}

/// As much of the packet as routers quote: the IP header and eight bytes. With less nobody knows what it is about.
#[test]
fn a_quote_may_be_short_but_not_shorter_than_it_takes() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let start = 14 + header_len(&case);
        for (packet, needed) in [
            (there.tcp(1000, 80, "S"), 8),
            (there.udp(1000, 53, b"query"), 4),
            (there.sctp(1000, 9, 1), 4),
            (there.echo(7, false), 8),
            (there.other(47, b"tunnel"), 0),
        ] {
            case.opens(a, &packet, b);
            for length in 14..=packet.len() {
                let error = back.unreachable(&packet[..length]);
                if length < start + needed {
                    case.drops(b, &error, DropReason::IcmpQuote);
                } else {
                    case.passes(b, &error, a);
                }
            }
        }
        case.finish();
    });
}

#[test]
fn a_quote_with_options_and_extension_headers_is_understood() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let plain = there.udp(1000, 53, b"query");
        let packet = if case.at.six {
            with_extensions(&plain, &[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 4, 0, 0, 0, 0])])
        } else {
            with_options(&plain, &[1, 1, 1, 148, 4, 0, 0])
        };
        case.opens(a, &packet, b);
        case.passes(b, &back.unreachable(&packet), a);
        case.passes(b, &back.unreachable(&plain), a);
        case.finish();
    });
}

#[test]
fn nobody_complains_about_a_complaint() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let query = there.udp(1000, 53, b"query");
        case.opens(a, &query, b);
        let error = back.unreachable(&query);
        case.passes(b, &error, a);
        case.drops(a, &there.unreachable(&error), DropReason::IcmpQuote);
        // Nor does the gateway.
        let last = From { hop_limit: 1, ..back }.unreachable(&query);
        case.drops(b, &last, DropReason::TtlExpired);
        // Routes are not learned from anybody.
        let redirect = icmp(&back, if case.at.six { 137 } else { 5 }, 1, [0; 4], &query[14..]);
        case.drops(b, &redirect, DropReason::IcmpRedirect);
        case.finish();
    });
}

#[test]
fn errors_do_not_keep_a_connection_alive() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let query = there.udp(1000, 53, b"query");
        case.opens(a, &query, b);
        case.time_passes(Duration::from_secs(20), 0);
        case.passes(b, &back.unreachable(&query), a);
        case.time_passes(Duration::from_secs(10), 1);
        case.drops(b, &back.unreachable(&query), DropReason::IcmpErrorNoFlow);
        case.finish();
    });
}

#[test]
fn an_error_about_a_connection_that_policy_revokes_is_dropped_with_it() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let query = there.udp(1000, 53, b"query");
        case.opens(a, &query, b);
        case.policies([deny_ingress(app("b"))]);
        case.cutting(1).drops(b, &back.unreachable(&query), DropReason::PolicyRevoked);
        case.drops(b, &back.unreachable(&query), DropReason::IcmpErrorNoFlow);
        case.finish();
    });
}

#[test]
fn pings_are_told_apart_by_their_identifier_and_direction() {
    each(|mut case| {
        case.policies([]);
        let kind = if case.at.six { 128 } else { 8 };
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            // The type's own number as an identifier: then both directions' numbers are the same.
            for identifier in [0, 7, kind, u16::MAX] {
                case.opens(a, &there.echo(identifier, false), b);
                case.passes(a, &there.echo(identifier, false), b);
                case.drops(b, &back.echo(identifier ^ 1, true), DropReason::StrayIcmpReply);
                case.drops(a, &there.echo(identifier, true), DropReason::StrayIcmpReply);
                case.passes(b, &back.echo(identifier, true), a);
                case.passes(b, &back.echo(identifier, true), a);
                // The other way is another one.
                case.opens(b, &back.echo(identifier, false), a);
                case.passes(a, &there.echo(identifier, true), b);
            }
            if !case.at.six {
                let timestamp = |from: &From, kind| icmp(from, kind, 0, [0, 7, 0, 1], &[0; 12]);
                case.drops(b, &timestamp(&back, 14), DropReason::StrayIcmpReply);
                case.opens(a, &timestamp(&there, 13), b);
                case.passes(b, &timestamp(&back, 14), a);
            }
        }
        case.finish();
    });
}

/// Whatever is neither error nor question: judged by protocol, one direction at a time.
#[test]
fn other_types_are_judged_each_way() {
    each(|mut case| {
        let types: Vec<u8> = if case.at.six {
            vec![138, 139, 140, 144, 145, 155, 160, 200, 255]
        } else {
            vec![1, 2, 7, 9, 10, 15, 16, 17, 18, 30, 40, 42, 43, 255]
        };
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            for kind in &types {
                let [from_a, from_b] = [there, back].map(|from| icmp(&from, *kind, 0, [0, 7, 0, 1], b"body"));
                case.policies([deny_ingress(app("a"))]);
                case.drops(b, &from_b, DropReason::PolicyIngress);
                case.opens(a, &from_a, b);
                case.passes(a, &from_a, b);
                // No answer to the one before: nothing says so.
                case.drops(b, &from_b, DropReason::PolicyIngress);
                case.policies([]);
                case.opens(b, &from_b, a);
            }
        }
        case.policies([only_a_to_b()]);
        let (there, a) = (case.a_to_b(), case.a);
        for kind in types {
            let frame = icmp(&there, kind, 0, [0; 4], b"");
            case.cutting(1).drops(a, &frame, DropReason::PolicyRevoked);
            case.drops(a, &frame, DropReason::PolicyIngress);
        }
        case.finish();
    });
}

#[test]
fn unknown_errors_need_a_quote_too() {
    each(|mut case| {
        if !case.at.six {
            return case.finish();
        }
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let query = there.udp(1000, 53, b"query");
        for kind in [0, 5, 100, 101, 127] {
            case.drops(b, &icmp(&back, kind, 0, [0; 4], b"no packet"), DropReason::IcmpQuote);
            case.drops(b, &icmp(&back, kind, 0, [0; 4], &query[14..]), DropReason::IcmpErrorNoFlow);
        }
        case.opens(a, &query, b);
        case.passes(b, &icmp(&back, 100, 0, [0; 4], &query[14..]), a);
        case.finish();
    });
}

/// Type and code of an ICMP answer, and who says it.
fn said(case: &Case, answer: &[u8]) -> ([u8; 2], std::net::IpAddr) {
    let kind = answer[14 + header_len(case)..][..2].try_into().unwrap();
    let source = if case.at.six {
        <[u8; 16]>::try_from(&answer[22..38]).unwrap().into()
    } else {
        <[u8; 4]>::try_from(&answer[26..30]).unwrap().into()
    };
    (kind, source)
}

#[test]
fn an_expired_hop_limit_is_answered() {
    each(|mut case| {
        let node = case.at.node();
        for (there, back) in case.ways() {
            for hop_limit in [1, 0] {
                let frame = From { hop_limit, ..there }.udp(1000, 33_434, b"trace");
                if hop_limit == 1 {
                    case.opening();
                }
                let answer = case.tells(there.port, &frame, DropReason::TtlExpired);
                assert_eq!(said(&case, &answer), (if case.at.six { [3, 0] } else { [11, 0] }, node));
                assert!(answer.ends_with(&frame[14..]), "what was sent is quoted as it was");
            }
            let frame = From { hop_limit: 1, ..back }.udp(33_434, 1000, b"back");
            case.tells(back.port, &frame, DropReason::TtlExpired);
        }
        case.finish();
    });
}

#[test]
fn what_is_too_large_for_the_way_out_is_answered() {
    each(|mut case| {
        let node = case.at.node();
        let most = 1500 - header_len(&case) - 8;
        for (there, back) in case.ways() {
            let frame = there.udp(1000, 9, &vec![0; most + 1]);
            let answer = case.opening().tells(there.port, &frame, DropReason::PacketTooBig);
            assert_eq!(said(&case, &answer), (if case.at.six { [2, 0] } else { [3, 4] }, node));
            let mtu = &answer[14 + header_len(&case) + 6..][..2];
            assert_eq!(mtu, 1500_u16.to_be_bytes());
            case.passes(there.port, &there.udp(1000, 9, &vec![0; most]), back.port);
            case.tells(back.port, &back.udp(9, 1000, &vec![0; most + 1]), DropReason::PacketTooBig);
            // Time is up before size is asked.
            let both = From { hop_limit: 1, ..there }.udp(1000, 9, &vec![0; most + 1]);
            let answer = case.tells(there.port, &both, DropReason::TtlExpired);
            assert_eq!(said(&case, &answer).0, if case.at.six { [3, 0] } else { [11, 0] });
        }
        case.finish();
    });
}

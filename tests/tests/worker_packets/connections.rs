//! What opens a connection, what belongs to one, and what to none; and by which ways they go.

use std::time::Duration;

use podgate_config::model::Selector;
use podgate_dataplane::drop_reason::DropReason;
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, UPLINK};

use crate::case::each;
use crate::cluster::*;
use crate::craft::{icmp, segment_with};

#[test]
fn without_policies_everything_passes_and_every_connection_has_one_entry() {
    each(|mut case| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            case.opens(a, &there.tcp(1000, 80, "S"), b);
            case.passes(b, &back.tcp(80, 1000, "SA"), a);
            case.passes(a, &there.tcp(1000, 80, "A"), b);
            case.passes(a, &segment_with(&there, (1000, 80), "PA", (1000, 1000), &[], b"GET /"), b);
            case.opens(a, &there.udp(1000, 53, b"query"), b);
            case.passes(b, &back.udp(53, 1000, b"answer"), a);
            case.opens(a, &there.echo(7, false), b);
            case.passes(b, &back.echo(7, true), a);
            case.opens(a, &there.sctp(1000, 9, 1), b);
            case.passes(b, &back.sctp(9, 1000, 2), a);
            case.opens(a, &there.other(47, b"tunnel"), b);
            case.passes(b, &back.other(47, b"tunnel"), a);
        }
        assert_eq!(case.connections(), 15);
        case.finish();
    });
}

#[test]
fn an_isolated_pod_takes_what_a_rule_admits_and_its_answers_pass() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.drops(a, &there.tcp(1000, 81, "S"), DropReason::PolicyIngress);
        case.drops(a, &there.udp(1000, 80, b"x"), DropReason::PolicyIngress);
        case.drops(a, &there.echo(7, false), DropReason::PolicyIngress);
        case.drops(a, &there.sctp(1000, 80, 1), DropReason::PolicyIngress);
        case.drops(a, &there.other(47, b"tunnel"), DropReason::PolicyIngress);
        case.opens(a, &there.udp(1000, 53, b"query"), b);
        case.passes(b, &back.udp(53, 1000, b"answer"), a);
        // The same from anybody else.
        for (port, source) in [(UPLINK, case.at.outside()), (HOST, case.at.remote())] {
            let from = From::new(port, source, case.at.b());
            case.drops(port, &from.tcp(1000, 80, "S"), DropReason::PolicyIngress);
            case.drops(port, &from.udp(1000, 53, b"query"), DropReason::PolicyIngress);
        }
        assert_eq!(case.connections(), 2, "what is denied leaves no state");
        case.finish();
    });
}

/// Nobody may open to `a`, but whom `a` asks may answer, by every way and in every protocol.
#[test]
fn replies_reach_an_isolated_client_and_nothing_else_does() {
    each(|mut case| {
        case.policy(deny_ingress(app("a")));
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            // Unasked.
            case.drops(b, &back.udp(53, 1000, b"answer"), DropReason::PolicyIngress);
            case.drops(b, &back.other(47, b"tunnel"), DropReason::PolicyIngress);
            case.drops(b, &back.echo(7, true), DropReason::StrayIcmpReply);
            case.drops(b, &back.tcp(80, 1000, "SA"), DropReason::StrayTcp);
            case.drops(b, &back.sctp(9, 1000, 2), DropReason::StraySctp);

            case.opens(a, &there.tcp(1000, 80, "S"), b);
            case.passes(b, &back.tcp(80, 1000, "SA"), a);
            case.passes(a, &there.tcp(1000, 80, "A"), b);
            case.passes(b, &segment_with(&back, (80, 1000), "PA", (1000, 1000), &[], b"hello"), a);
            case.opens(a, &there.udp(1000, 53, b"query"), b);
            case.passes(b, &back.udp(53, 1000, b"answer"), a);
            case.passes(b, &back.udp(53, 1000, b"and more"), a);
            case.opens(a, &there.echo(7, false), b);
            case.passes(b, &back.echo(7, true), a);
            case.opens(a, &there.sctp(1000, 9, 1), b);
            case.passes(b, &back.sctp(9, 1000, 2), a);
            case.passes(a, &there.sctp(1000, 9, 10), b);
            case.passes(b, &back.sctp(9, 1000, 11), a);
            case.opens(a, &there.other(47, b"tunnel"), b);
            case.passes(b, &back.other(47, b"tunnel"), a);

            // Asked for something else.
            case.drops(b, &back.tcp(80, 1001, "S"), DropReason::PolicyIngress);
            case.drops(b, &back.tcp(81, 1000, "A"), DropReason::StrayTcp);
            case.drops(b, &back.udp(54, 1000, b"answer"), DropReason::PolicyIngress);
            case.drops(b, &back.udp(53, 1001, b"answer"), DropReason::PolicyIngress);
            case.drops(b, &back.echo(8, true), DropReason::StrayIcmpReply);
            case.drops(b, &back.echo(7, false), DropReason::PolicyIngress);
            case.drops(b, &back.sctp(9, 1001, 1), DropReason::PolicyIngress);
            case.drops(b, &back.other(4, b"tunnel"), DropReason::PolicyIngress);
        }
        // Somebody who was not asked, with the numbers of an answer.
        let remote = From::new(HOST, case.at.remote(), case.at.a());
        case.drops(HOST, &remote.udp(53, 1000, b"answer"), DropReason::PolicyIngress);
        case.drops(HOST, &remote.tcp(80, 1000, "SA"), DropReason::StrayTcp);
        case.drops(HOST, &remote.echo(7, true), DropReason::StrayIcmpReply);
        case.drops(HOST, &remote.other(47, b"tunnel"), DropReason::PolicyIngress);
        case.drops(HOST, &remote.sctp(9, 1000, 2), DropReason::StraySctp);
        case.finish();
    });
}

#[test]
fn a_new_connection_the_other_way_is_no_reply() {
    each(|mut case| {
        case.policy(deny_all(app("a")));
        // `a` is isolated: b may not open to it, whatever it opened itself before.
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.drops(b, &back.tcp(80, 1000, "S"), DropReason::PolicyIngress);
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::PolicyEgress);
        case.policies([deny_ingress(app("a"))]);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        // The same tuple, reversed, as a connection of its own.
        case.drops(b, &back.tcp(80, 1000, "S"), DropReason::PolicyIngress);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.opens(a, &there.sctp(1000, 80, 1), b);
        case.passes(b, &back.sctp(80, 1000, 2), a);
        case.drops(b, &back.sctp(80, 1000, 1), DropReason::PolicyIngress);
        case.passes(a, &there.sctp(1000, 80, 10), b);
        case.opens(a, &there.echo(7, false), b);
        case.drops(b, &back.echo(7, false), DropReason::PolicyIngress);
        case.passes(b, &back.echo(7, true), a);
        case.finish();
    });
}

#[test]
fn strays_are_dropped_by_name() {
    each(|mut case| {
        for (there, back) in case.ways() {
            for from in [there, back] {
                for flags in ["A", "SA", "F", "R", "RA", "FA", "PA", "SR", "SF", "SFA", "SRA", "", "P"] {
                    case.drops(from.port, &from.tcp(1000, 80, flags), DropReason::StrayTcp);
                }
                for number in [0, 1, u32::MAX] {
                    let middle = segment_with(&from, (1000, 80), "PA", (number, number), &[], b"data");
                    case.drops(from.port, &middle, DropReason::StrayTcp);
                }
                for chunk in (0..=255).filter(|chunk| *chunk != 1) {
                    case.drops(from.port, &from.sctp(1000, 80, chunk), DropReason::StraySctp);
                }
                case.drops(from.port, &from.echo(7, true), DropReason::StrayIcmpReply);
                if !case.at.six {
                    let timestamp = icmp(&from, 14, 0, [0, 7, 0, 1], &[0; 12]);
                    case.drops(from.port, &timestamp, DropReason::StrayIcmpReply);
                }
            }
        }
        assert_eq!(case.connections(), 0);
        case.finish();
    });
}

#[test]
fn protocols_without_ports_go_by_their_pair_of_addresses() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.policy(deny_ingress(app("a")));
        // GRE, ESP, AH, IP in IP, and one that nobody has.
        for protocol in [47, 50, 51, 4, 253] {
            case.drops(b, &back.other(protocol, b"first"), DropReason::PolicyIngress);
            // What looks like ports or flags is payload.
            case.opens(a, &there.other(protocol, &[0, 80, 0, 81]), b);
            case.passes(b, &back.other(protocol, &[1, 2, 3, 4, 5]), a);
            case.passes(a, &there.other(protocol, b""), b);
            let remote = From::new(HOST, case.at.remote(), case.at.a());
            case.drops(HOST, &remote.other(protocol, b"x"), DropReason::PolicyIngress);
        }
        // A rule with ports admits none of them, nor does one that has a port 0.
        case.policies([only_a_to_b()]);
        for protocol in [47, 50, 51, 4, 253] {
            case.cutting(1).drops(a, &there.other(protocol, b"x"), DropReason::PolicyRevoked);
            case.drops(a, &there.other(protocol, b"x"), DropReason::PolicyIngress);
        }
        // The other family's ICMP is none: nobody answers it, and each way is judged for itself.
        let foreign = if case.at.six { 1 } else { 58 };
        case.policies([deny_ingress(app("a"))]);
        case.opens(a, &there.other(foreign, &[8, 0, 0, 0, 0, 7, 0, 1]), b);
        case.drops(b, &back.other(foreign, &[0, 0, 0, 0, 0, 9, 0, 1]), DropReason::PolicyIngress);
        case.finish();
    });
}

#[test]
fn a_pod_reaches_itself_whatever_policy_says() {
    each(|mut case| {
        case.policy(deny_all(Selector::everything()));
        let (a, own) = (case.a, case.at.a());
        let itself = From::new(a, own, own);
        case.opens(a, &itself.tcp(1000, 80, "S"), a);
        case.passes(a, &itself.tcp(80, 1000, "SA"), a);
        case.passes(a, &itself.tcp(1000, 80, "A"), a);
        case.opens(a, &itself.udp(1000, 1000, b"one port"), a);
        case.passes(a, &itself.udp(1000, 1000, b"one port"), a);
        case.opens(a, &itself.echo(7, false), a);
        case.passes(a, &itself.echo(7, true), a);
        case.finish();
    });
}

#[test]
fn the_own_node_always_reaches_its_pods_and_nobody_else_by_that_way() {
    each(|mut case| {
        case.policy(deny_all(Selector::everything()));
        let (a, node, a_ip) = (case.a, case.at.node(), case.at.a());
        case.opens(HOST, &From::new(HOST, node, a_ip).tcp(1000, 80, "S"), a);
        case.passes(a, &From::new(a, a_ip, node).tcp(80, 1000, "SA"), HOST);
        case.opens(a, &From::new(a, a_ip, node).udp(1000, 53, b"to the node"), HOST);
        case.passes(HOST, &From::new(HOST, node, a_ip).udp(53, 1000, b"from the node"), a);
        // Routed by the host from elsewhere, and from a pod of another node.
        for source in [case.at.outside(), case.at.remote(), case.at.b()] {
            let from = From::new(HOST, source, a_ip);
            // b's own egress is judged first.
            let reason =
                if source == case.at.b() { DropReason::PolicyEgress } else { DropReason::PolicyIngress };
            case.drops(HOST, &from.tcp(1000, 80, "S"), reason);
            case.drops(HOST, &from.udp(1000, 53, b"x"), reason);
        }
        case.drops(UPLINK, &From::new(UPLINK, node, a_ip).tcp(1000, 80, "S"), DropReason::SpoofedSource);
        case.finish();
    });
}

#[test]
fn ways_out_are_the_uplink_for_direct_networks_and_the_host_for_the_rest() {
    each(|mut case| {
        let (a, a_ip, outside) = (case.a, case.at.a(), case.at.outside());
        case.opens(a, &From::new(a, a_ip, outside).udp(1, 2, b"out"), UPLINK);
        case.passes(UPLINK, &From::new(UPLINK, outside, a_ip).udp(2, 1, b"back"), a);
        let elsewhere = case.at.elsewhere();
        case.opens(a, &From::new(a, a_ip, elsewhere).udp(1, 2, b"out"), HOST);
        // A pod of another node is reached by the host.
        let remote = case.at.remote();
        case.opens(a, &From::new(a, a_ip, remote).udp(1, 2, b"out"), HOST);
        // What comes from the host for nobody here does not go back there, nor what comes from the uplink.
        case.drops(HOST, &From::new(HOST, outside, elsewhere).udp(1, 2, b"x"), DropReason::NoRoute);
        case.drops(UPLINK, &From::new(UPLINK, elsewhere, outside).udp(1, 2, b"x"), DropReason::NoRoute);
        if !case.at.six {
            let unknown = From::new(a, a_ip, ip("198.51.100.1"));
            for _ in 0..2 {
                case.asking_for(UPLINK, ip("203.0.113.99"));
                case.drops(a, &unknown.udp(1, 2, b"x"), DropReason::NextHopUnresolved);
            }
        }
        // Opened from outside: the answer goes back where it came from.
        case.opens(UPLINK, &From::new(UPLINK, outside, a_ip).tcp(1000, 80, "S"), a);
        case.passes(a, &From::new(a, a_ip, outside).tcp(80, 1000, "SA"), UPLINK);
        case.opens(HOST, &From::new(HOST, outside, a_ip).tcp(1001, 80, "S"), a);
        case.passes(a, &From::new(a, a_ip, outside).tcp(80, 1001, "SA"), HOST);
        case.finish();
    });
}

#[test]
fn a_connection_between_host_and_uplink_has_one_owner_for_both_directions() {
    each(|mut case| {
        let (node, outside) = (case.at.node(), case.at.outside());
        let (there, back) = (From::new(HOST, node, outside), From::new(UPLINK, outside, node));
        case.opens(HOST, &there.tcp(1000, 80, "S"), UPLINK);
        case.passes(UPLINK, &back.tcp(80, 1000, "SA"), HOST);
        case.passes(HOST, &there.tcp(1000, 80, "A"), UPLINK);
        // And opened from outside. No policy has a say in either.
        case.policy(deny_all(Selector::everything()));
        case.opens(UPLINK, &back.tcp(2000, 22, "S"), HOST);
        case.passes(HOST, &there.tcp(22, 2000, "SA"), UPLINK);
        case.passes(HOST, &there.tcp(1000, 80, "A"), UPLINK);
        case.finish();
    });
}

#[test]
fn what_comes_after_its_connection_has_timed_out_is_a_stray_even_before_aging() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.rig.advance(Duration::from_secs(121));
        // Aging comes at a turn's end, after this packet.
        case.expiring(1).drops(b, &back.tcp(80, 1000, "SA"), DropReason::StrayTcp);
        case.opens(a, &there.echo(7, false), b);
        case.rig.advance(Duration::from_secs(31));
        case.expiring(1).drops(b, &back.echo(7, true), DropReason::StrayIcmpReply);
        let query = there.udp(1000, 53, b"query");
        case.opens(a, &query, b);
        case.rig.advance(Duration::from_secs(31));
        case.expiring(1).drops(b, &back.unreachable(&query), DropReason::IcmpErrorNoFlow);
        // A late answer is a packet that nobody asked for.
        case.policy(deny_ingress(app("a")));
        case.opens(a, &query, b);
        case.rig.advance(Duration::from_secs(31));
        case.expiring(1).drops(b, &back.udp(53, 1000, b"answer"), DropReason::PolicyIngress);
        case.finish();
    });
}

#[test]
fn answers_keep_a_connection_alive_and_its_silence_ends_it() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.udp(1000, 53, b"query"), b);
        case.time_passes(Duration::from_secs(29), 0);
        case.passes(b, &back.udp(53, 1000, b"answer"), a);
        // Both ways now: it lives longer.
        for _ in 0..5 {
            case.time_passes(Duration::from_secs(119), 0);
            case.passes(b, &back.udp(53, 1000, b"answer"), a);
        }
        case.time_passes(Duration::from_secs(120), 1);
        case.opens(a, &there.other(47, b"x"), b);
        case.time_passes(Duration::from_secs(599), 0);
        case.passes(a, &there.other(47, b"x"), b);
        case.time_passes(Duration::from_secs(600), 1);
        case.finish();
    });
}

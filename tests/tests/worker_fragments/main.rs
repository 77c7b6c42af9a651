//! Datagrams in fragments through real workers: what passes, what waits, what is dropped by which name.
//!
//! Each case runs with one worker and with several, over both families; after each packet, everything is accounted for.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod case;

use std::time::Duration;

use af_xdp::twin::Sent;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::Limits;
use podgate_dataplane::packet::PortId;
use podgate_dataplane::worker::{Deny, Established, WorkerSettings};
use podgate_tests::cluster::{app, deny_all, name, only_a_to_b};
use podgate_tests::frames::{From, fragment, fragments};
use podgate_tests::rig::{HOST, UPLINK, peer_mac};

use case::{Case, each, each_with};

/// Bytes of a fragment.
const EACH: usize = 1000;

#[test]
fn in_order_they_pass_as_they_came() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        for id in 0..3 {
            for piece in there.udp_fragments((1000, 53), 3500, EACH, id) {
                case.passes(a, &piece, b);
            }
            case.at_rest();
        }
        // Answers find the same connection.
        for piece in back.udp_fragments((53, 1000), 3500, EACH, 1) {
            case.passes(b, &piece, a);
        }
        assert_eq!(case.rig.flows(), 1);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn every_protocol_is_judged_by_its_first_fragment() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        let echo = |from: From, reply| from.with_more(&from.echo(7, reply), &[1; 3000]);
        for (from, to, whole) in [
            (there, b, there.with_more(&there.tcp(1000, 80, "A"), &[1; 3000])),
            (back, a, back.with_more(&back.tcp(80, 1000, "A"), &[1; 3000])),
            (there, b, echo(there, false)),
            (back, a, echo(back, true)),
            (there, b, there.with_more(&there.sctp(1000, 9, 1), &[1; 3000])),
            (there, b, there.other(47, &[1; 3000])),
        ] {
            for piece in fragments(&whole, EACH, 9) {
                case.passes(from.port, &piece, to);
            }
            case.at_rest();
        }
        // A stray is dropped, and its rest with it; also where there is a connection.
        for (port, flags) in [(1001, "A"), (1000, "SAF")] {
            let pieces = fragments(&there.with_more(&there.tcp(port, 80, flags), &[1; 1500]), EACH, 9);
            case.drops(a, &pieces[0], DropReason::StrayTcp);
            case.drops(a, &pieces[1], DropReason::Fragment);
        }
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn those_before_the_first_wait_and_leave_in_the_order_they_came() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let pieces = there.udp_fragments((1000, 53), 4500, EACH, 7);
        for order in [[4, 3, 2, 1], [1, 2, 3, 4], [2, 4, 1, 3]] {
            for piece in order {
                case.waits(a, &pieces[piece]);
            }
            let mut out = vec![0];
            out.extend(order);
            let out: Vec<&[u8]> = out.into_iter().map(|piece| pieces[piece].as_slice()).collect();
            case.releases(a, &pieces[0], &out, b);
            case.at_rest();
        }
        // Some before it, some after.
        case.waits(a, &pieces[2]);
        case.releases(a, &pieces[0], &[&pieces[0], &pieces[2]], b);
        for later in [4, 1, 3] {
            case.passes(a, &pieces[later], b);
        }
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn datagrams_between_each_other_stay_apart() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let one = there.udp_fragments((1000, 53), 2500, EACH, 1);
        let two = there.udp_fragments((1000, 53), 2500, EACH, 2);
        let denied = there.udp_fragments((1000, 54), 2500, EACH, 3);
        case.waits(a, &two[2]);
        case.passes(a, &one[0], b);
        case.waits(a, &denied[1]);
        case.passes(a, &one[2], b);
        case.taking_along(1, DropReason::Fragment).drops(a, &denied[0], DropReason::PolicyIngress);
        case.releases(a, &two[0], &[&two[0], &two[2]], b);
        case.passes(a, &one[1], b);
        case.drops(a, &denied[2], DropReason::Fragment);
        case.passes(a, &two[1], b);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn the_same_identification_of_others_is_another_datagram() {
    each(|mut case| {
        let (a, b, a_ip, b_ip) = (case.a, case.b, case.at.a(), case.at.b());
        let outside = case.at.outside();
        let first = case.a_to_b().udp_fragments((1000, 53), 1500, EACH, 7);
        case.passes(a, &first[0], b);
        // Another source, another destination, another port: each waits for a first one of its own.
        let other = From::new(UPLINK, outside, b_ip).udp_fragments((1000, 53), 1500, EACH, 7);
        case.waits(UPLINK, &other[1]);
        let other = From::new(a, a_ip, outside).udp_fragments((1000, 53), 1500, EACH, 7);
        case.waits(a, &other[1]);
        // The host stack may send from any address, and still puts nothing into what a port sent.
        let other = From::new(HOST, a_ip, b_ip).udp_fragments((1000, 53), 1500, EACH, 7);
        case.waits(HOST, &other[1]);
        // For IPv4 another protocol too; for IPv6 it does not count.
        if !case.at.six {
            let other = fragments(&case.a_to_b().other(47, &[1; 1500]), EACH, 7);
            case.waits(a, &other[1]);
        }
        // From the wrong place altogether.
        let lie = From::new(b, a_ip, b_ip).udp_fragments((1000, 53), 1500, EACH, 7);
        case.drops(b, &lie[1], DropReason::SpoofedSource);
        case.passes(a, &first[1], b);
        case.rig.advance(Duration::from_secs(3));
        let count = case.held();
        case.gone(count, DropReason::FragmentTimeout);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn overlaps_end_the_datagram_and_copies_do_not() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let whole = there.udp(1000, 53, &[1; 3000]);
        let pieces = fragments(&whole, EACH, 7);
        case.passes(a, &pieces[0], b);
        case.drops(a, &pieces[0], DropReason::FragmentOverlap);
        case.passes(a, &pieces[2], b);
        case.drops(a, &pieces[2], DropReason::FragmentOverlap);
        case.passes(a, &pieces[1], b);
        case.passes(a, &pieces[3], b);
        case.at_rest();

        // Over the end of one that passed.
        let pieces = fragments(&whole, EACH, 8);
        case.passes(a, &pieces[0], b);
        case.drops(a, &fragment(&whole, 992..2000, true, 8), DropReason::FragmentOverlap);
        for piece in [&pieces[1], &pieces[0], &pieces[3]] {
            case.drops(a, piece, DropReason::FragmentOverlap);
        }
        // Over the header of one that is to come: both go, and what waits with them.
        let pieces = fragments(&whole, EACH, 9);
        case.waits(a, &fragment(&whole, 8..1000, true, 9));
        case.waits(a, &pieces[3]);
        case.taking_along(2, DropReason::FragmentOverlap).drops(a, &pieces[0], DropReason::FragmentOverlap);
        assert_eq!(case.held(), 0);
        case.drops(a, &pieces[1], DropReason::FragmentOverlap);
        // A second header for the same datagram, which policy would admit by itself.
        let other = fragments(&there.udp(1000, 9999, &[1; 3000]), EACH, 10);
        case.passes(a, &fragments(&whole, EACH, 10)[0], b);
        case.drops(a, &other[0], DropReason::FragmentOverlap);
        case.rig.advance(Duration::from_secs(3));
        case.rig.settle();
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn what_cannot_be_is_dropped_by_name() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let udp = there.udp(1000, 53, &[1; 3000]);
        let tcp = there.with_more(&there.tcp(1000, 80, "S"), &[1; 3000]);
        // Without the whole header, or put over one.
        case.drops(a, &fragment(&tcp, 0..8, true, 1), DropReason::FragmentTiny);
        case.drops(a, &fragment(&tcp, 0..16, true, 1), DropReason::FragmentTiny);
        case.drops(a, &fragment(&tcp, 8..800, true, 1), DropReason::FragmentTiny);
        // Not a multiple of 8, or empty.
        case.drops(a, &fragment(&udp, 0..1001, true, 1), DropReason::FragmentInvalid);
        case.drops(a, &fragment(&udp, 800..800, false, 1), DropReason::FragmentInvalid);
        assert_eq!(case.rig.datagrams(), 0);
        // Another length than was said, which ends the datagram.
        case.waits(a, &fragment(&udp, 1600..2400, false, 2));
        case.taking_along(1, DropReason::FragmentInvalid).drops(
            a,
            &fragment(&udp, 2400..3008, false, 2),
            DropReason::FragmentInvalid,
        );
        case.drops(a, &fragment(&udp, 0..800, true, 2), DropReason::FragmentInvalid);
        // The smallest that can be passes.
        case.passes(a, &fragment(&udp, 0..8, true, 3), b);
        case.passes(a, &fragment(&tcp, 0..24, true, 4), b);
        // More gaps than are remembered.
        for gap in 1..=15 {
            case.passes(a, &fragment(&udp, gap * 16..gap * 16 + 8, true, 3), b);
        }
        case.drops(a, &fragment(&udp, 800..808, true, 3), DropReason::FragmentTableFull);
        // For the gateway itself.
        let gateway = case.at.of("169.254.1.1", "fe80::1");
        let from = From::new(a, case.at.a(), gateway);
        for piece in fragments(&from.with_more(&from.echo(7, false), &[1; 1500]), EACH, 1) {
            case.drops(a, &piece, DropReason::Fragment);
        }
        case.rig.advance(Duration::from_secs(3));
        case.rig.settle();
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn what_does_not_become_whole_in_time_goes() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let pieces = there.udp_fragments((1000, 53), 3500, EACH, 7);
        case.waits(a, &pieces[2]);
        case.rig.advance(Duration::from_millis(2900));
        case.waits(a, &pieces[1]);
        case.rig.advance(Duration::from_millis(100));
        case.gone(2, DropReason::FragmentTimeout);
        case.at_rest();
        // The same identification again, and its last one comes too late.
        case.passes(a, &pieces[0], b);
        case.passes(a, &pieces[1], b);
        assert_eq!(case.rig.datagrams(), 1);
        case.rig.advance(Duration::from_secs(3));
        case.waits(a, &pieces[2]);
        case.rig.advance(Duration::from_secs(3));
        case.gone(1, DropReason::FragmentTimeout);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn a_policy_that_changes_counts_from_the_next_fragment_on() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let pieces = there.udp_fragments((1000, 53), 3500, EACH, 7);
        case.passes(a, &pieces[0], b);
        case.passes(a, &pieces[1], b);
        case.policy(deny_all(app("b")));
        case.drops(a, &pieces[2], DropReason::PolicyRevoked);
        // The connection is no more, whatever is allowed by now.
        case.cluster.policies.clear();
        case.policy(only_a_to_b());
        case.drops(a, &pieces[3], DropReason::Fragment);
        case.at_rest();
        // One that still holds, under a newer policy.
        let pieces = there.udp_fragments((1000, 53), 1500, EACH, 8);
        case.passes(a, &pieces[0], b);
        case.rig.publish(&case.cluster);
        case.passes(a, &pieces[1], b);
        // Revoked while some wait: the first one is judged by what is in force when it comes.
        let pieces = there.udp_fragments((2000, 53), 2500, EACH, 9);
        case.waits(a, &pieces[1]);
        case.waits(a, &pieces[2]);
        case.cluster.policies.clear();
        case.policy(deny_all(app("b")));
        case.rig.records();
        case.taking_along(2, DropReason::Fragment).drops(a, &pieces[0], DropReason::PolicyIngress);
        case.at_rest();
        // Those that waited were dropped under this snapshot, whatever was in force when they came.
        let records = case.rig.records();
        assert_eq!(records.len(), 3);
        assert!(records.iter().all(|record| record.generation == case.rig.generation()), "{records:?}");
        case.rig.finish();
    });
}

#[test]
fn a_kept_connection_keeps_its_fragments() {
    each_with(Established::Keep, |mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let pieces = there.udp_fragments((1000, 53), 1500, EACH, 7);
        case.passes(a, &pieces[0], b);
        case.policy(deny_all(app("b")));
        case.passes(a, &pieces[1], b);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn an_address_that_moved_ends_its_datagrams() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let pieces = there.udp_fragments((1000, 53), 2500, EACH, 7);
        case.passes(a, &pieces[0], b);
        // Another pod gets b's address, and a port for it.
        case.rig.remove_pod(b);
        let mut pod = case.cluster.pods.remove(&name("shop/b")).unwrap();
        pod.name = name("shop/c");
        case.cluster.pods.insert(pod.name.clone(), pod);
        case.rig.add_pod(&name("shop/c"), podgate_dataplane::packet::WorkerId(case.workers - 1));
        case.rig.publish(&case.cluster);
        case.drops(a, &pieces[1], DropReason::AddressMoved);
        case.drops(a, &pieces[2], DropReason::Fragment);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn a_denied_first_fragment_takes_the_others_along() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, a) = (case.a_to_b(), case.a);
        let pieces = there.udp_fragments((1000, 54), 3500, EACH, 7);
        case.waits(a, &pieces[3]);
        case.taking_along(1, DropReason::Fragment).drops(a, &pieces[0], DropReason::PolicyIngress);
        case.drops(a, &pieces[1], DropReason::Fragment);
        case.drops(a, &pieces[2], DropReason::Fragment);
        assert_eq!(case.rig.flows(), 0);
        case.at_rest();
        let denied: Vec<_> =
            case.rig.records().into_iter().filter(|record| record.decided_by.is_some()).collect();
        assert_eq!(denied.len(), 1);
        assert_eq!(denied[0].destination_port, 54);
        case.rig.finish();
    });
}

#[test]
fn only_the_first_fragment_is_answered() {
    for (workers, six) in [(1, false), (1, true), (2, false), (2, true)] {
        let settings = WorkerSettings { deny: Deny::Reject, ..WorkerSettings::default() };
        let mut case = Case::with(workers, six, &settings);
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let icmp = if six { 54 } else { 34 };
        let answered = |case: &mut Case, frame: &[u8], reason| {
            let sent = case.send(a, frame);
            let [(port, answer)] = &sent[..] else { panic!("expected one answer, got {sent:?}") };
            assert_eq!((*port, &answer.bytes[..6]), (a, &peer_mac(a)[..]));
            *case.drops.entry(reason).or_default() += 1;
            case.holds();
            answer.bytes[icmp..icmp + 2].to_vec()
        };
        // Established, then revoked between two fragments: the later one is not answered.
        let pieces = there.udp_fragments((1000, 53), 2500, EACH, 7);
        case.passes(a, &pieces[0], b);
        case.policy(deny_all(app("b")));
        case.drops(a, &pieces[1], DropReason::PolicyRevoked);
        let pieces = there.udp_fragments((1000, 53), 1500, EACH, 8);
        let kind = answered(&mut case, &pieces[0], DropReason::PolicyIngress);
        assert_eq!(kind, if six { [1, 1] } else { [3, 13] });
        case.drops(a, &pieces[1], DropReason::Fragment);
        case.cluster.policies.clear();
        case.rig.publish(&case.cluster);
        // No time left, and no room on the way out.
        for id in [9, 11] {
            let pieces = From { hop_limit: 1, ..there }.udp_fragments((1000, 53), 1500, 8, id);
            let kind = answered(&mut case, &pieces[0], DropReason::TtlExpired);
            assert_eq!(kind[0], if six { 3 } else { 11 });
            // More than errors may be sent at once: later ones do not count.
            for piece in &pieces[1..] {
                case.drops(a, piece, DropReason::TtlExpired);
            }
        }
        let pieces = there.udp_fragments((1000, 53), 4000, 1600, 10);
        let kind = answered(&mut case, &pieces[0], DropReason::PacketTooBig);
        assert_eq!(kind[0], if six { 2 } else { 3 });
        case.drops(a, &pieces[1], DropReason::PacketTooBig);
        case.rig.advance(Duration::from_secs(3));
        case.rig.settle();
        case.at_rest();
        case.rig.finish();
    }
}

/// A case with small tables: 16 datagrams (4 for each source), 16 fragments that wait (5 for each source, 12 for each port).
fn small(workers: u8, six: bool) -> Case {
    let fragments = Limits { datagrams: 16, held: 16, held_per_source: 5, ..Limits::default() };
    Case::with(workers, six, &WorkerSettings { fragments, ..WorkerSettings::default() })
}

#[test]
fn a_flood_takes_its_share_and_no_more() {
    for (workers, six) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut case = small(workers, six);
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let patient = back.udp_fragments((1000, 53), 3500, EACH, 7);
        case.waits(b, &patient[1]);
        // Fragments without a first one, each of another datagram.
        for id in 0..4 {
            case.waits(a, &there.udp_fragments((1000, 53), 3500, EACH, id)[1]);
        }
        for id in 4..20 {
            let piece = &there.udp_fragments((1000, 53), 3500, EACH, id)[1];
            case.drops(a, piece, DropReason::FragmentSourceLimit);
        }
        // Of datagrams that are known, as many as a source may have.
        case.waits(a, &there.udp_fragments((1000, 53), 3500, EACH, 0)[2]);
        case.drops(a, &there.udp_fragments((1000, 53), 3500, EACH, 0)[3], DropReason::FragmentSourceLimit);
        // First ones of new datagrams either.
        let piece = &there.udp_fragments((1000, 53), 3500, EACH, 20)[0];
        case.drops(a, piece, DropReason::FragmentSourceLimit);
        // It is told by its port, and the other one from it, which does not notice.
        assert_eq!(case.rig.fragments_of(a), (4, 5, 18));
        assert_eq!(case.rig.fragments_of(b), (1, 1, 0));
        case.waits(b, &patient[3]);
        case.releases(b, &patient[0], &[&patient[0], &patient[1], &patient[3]], a);
        case.passes(b, &patient[2], a);
        // Nor does the flooder itself, but for its share: what is not fragmented passes.
        case.passes(a, &there.udp(1000, 53, b"whole"), b);
        case.rig.advance(Duration::from_secs(3));
        case.gone(5, DropReason::FragmentTimeout);
        case.at_rest();
        case.rig.finish();
    }
}

#[test]
fn a_flood_from_outside_leaves_room_for_pods() {
    for (workers, six) in [(1, false), (1, true)] {
        let mut case = small(workers, six);
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let flood = |case: &mut Case, place: usize, expected: [usize; 2]| {
            let mut counted = [0, 0];
            for number in 0..64_u32 {
                let source =
                    if six { format!("2001:db8::{number:x}:1") } else { format!("192.0.2.{number}") };
                let from = From::new(UPLINK, source.parse().unwrap(), case.at.a());
                let before = case.rig.drops();
                let sent = case.send(UPLINK, &from.udp_fragments((1000, 53), 3500, EACH, number)[place]);
                let is_limited = case.rig.drops() != before;
                assert!(!is_limited || sent.is_empty());
                counted[usize::from(is_limited)] += 1;
            }
            assert_eq!(counted, expected);
            *case.drops.entry(DropReason::FragmentSourceLimit).or_default() += expected[1] as u64;
            case.holds();
        };
        // Twelve of sixteen wait, each from a source of its own; then there is room for four datagrams of the pods'.
        flood(&mut case, 1, [12, 52]);
        flood(&mut case, 0, [12, 52]);
        assert_eq!((case.rig.fragments_of(UPLINK), case.rig.fragments_of(a)), ((12, 0, 104), (0, 0, 0)));
        let pieces = there.udp_fragments((1000, 53), 3500, EACH, 7);
        case.waits(a, &pieces[1]);
        case.releases(a, &pieces[0], &[&pieces[0], &pieces[1]], b);
        case.passes(a, &pieces[2], b);
        case.passes(a, &pieces[3], b);
        case.rig.advance(Duration::from_secs(3));
        case.rig.settle();
        case.holds();
        case.at_rest();
        case.rig.finish();
    }
}

/// The host stack may have packets of anybody, with whatever source its senders wrote into them.
#[test]
fn whoever_lies_to_the_host_stack_uses_up_no_pods_share() {
    for (workers, six) in [(1, false), (1, true)] {
        let mut case = small(workers, six);
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let lie = From::new(HOST, case.at.a(), case.at.b());
        for id in 0..4 {
            case.waits(HOST, &lie.udp_fragments((1000, 53), 3500, EACH, id)[1]);
        }
        case.waits(HOST, &lie.udp_fragments((1000, 53), 3500, EACH, 0)[2]);
        let piece = &lie.udp_fragments((1000, 53), 3500, EACH, 4)[1];
        case.drops(HOST, piece, DropReason::FragmentSourceLimit);
        let pieces = there.udp_fragments((1000, 53), 2500, EACH, 7);
        case.waits(a, &pieces[1]);
        case.releases(a, &pieces[0], &[&pieces[0], &pieces[1]], b);
        case.passes(a, &pieces[2], b);
        case.rig.advance(Duration::from_secs(3));
        case.gone(5, DropReason::FragmentTimeout);
        case.at_rest();
        case.rig.finish();
    }
}

/// Padded behind the end of the datagram, so that it is in more buffers than it has bytes for.
#[test]
fn a_fragment_of_many_buffers_is_not_held() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let pieces = there.udp_fragments((1000, 53), 1500, EACH, 7);
        let padding = [0; 1000];
        let parts = |count| {
            let mut parts: Vec<&[u8]> = vec![&padding; count];
            parts[0] = &pieces[1];
            parts
        };
        assert!(case.rig.deliver_parts(a, &parts(5)));
        case.gone(1, DropReason::FragmentTableFull);
        assert_eq!((case.held(), case.rig.datagrams()), (0, 0));
        assert!(case.rig.deliver_parts(a, &parts(4)));
        case.gone(0, DropReason::FragmentTableFull);
        assert_eq!(case.held(), 1);
        let ports = |sent: &[(PortId, Sent)]| sent.iter().map(|(port, _)| *port).collect::<Vec<PortId>>();
        assert_eq!(ports(&case.send(a, &pieces[0])), [b, b]);
        case.at_rest();
        // After the first one it has nothing to wait for.
        case.passes(a, &pieces[0], b);
        assert!(case.rig.deliver_parts(a, &parts(5)));
        assert_eq!(ports(&case.rig.settle()), [b]);
        case.at_rest();
        case.rig.finish();
    });
}

#[test]
fn a_full_table_says_so() {
    for (workers, six) in [(1, false), (1, true)] {
        let fragments = Limits { datagrams: 64, held: 4, held_per_source: 3, ..Limits::default() };
        let mut case = Case::with(workers, six, &WorkerSettings { fragments, ..WorkerSettings::default() });
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let (one, two) =
            (there.udp_fragments((1000, 53), 4500, EACH, 1), back.udp_fragments((1000, 53), 4500, EACH, 1));
        for piece in &one[1..4] {
            case.waits(a, piece);
        }
        case.waits(b, &two[1]);
        case.drops(b, &two[2], DropReason::FragmentTableFull);
        case.releases(a, &one[0], &[&one[0], &one[1], &one[2], &one[3]], b);
        case.waits(b, &two[2]);
        case.rig.advance(Duration::from_secs(3));
        case.gone(2, DropReason::FragmentTimeout);
        case.rig.finish();
    }
}

#[test]
fn a_port_that_goes_while_its_fragments_wait_loses_no_frame() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let (one, two) =
            (there.udp_fragments((1000, 53), 3500, EACH, 1), back.udp_fragments((1000, 53), 3500, EACH, 1));
        case.waits(a, &one[1]);
        case.waits(a, &one[2]);
        case.waits(b, &two[1]);
        case.rig.remove_pod(a);
        case.rig.publish(&case.cluster);
        case.rig.settle();
        assert_eq!(case.held(), 3);
        // The other pod's first one comes: there is no way to a port that is gone.
        let sent = case.send(b, &two[0]);
        assert!(sent.iter().all(|(port, _)| *port == HOST || *port == UPLINK), "{sent:?}");
        case.rig.advance(Duration::from_secs(3));
        case.rig.settle();
        case.at_rest();
        case.rig.finish();
    });
    // And none is lost if workers stop while fragments wait.
    each(|mut case| {
        let (there, a) = (case.a_to_b(), case.a);
        case.waits(a, &there.udp_fragments((1000, 53), 3500, EACH, 1)[1]);
        case.rig.finish();
    });
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    each(|mut case| {
        if !case.at.six {
            return;
        }
        case.policy(only_a_to_b());
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        // Between the fragments of a datagram with the same identification: they have nothing to do with it.
        let pieces = there.udp_fragments((1000, 53), 1500, EACH, 7);
        let atomic = |port| fragment(&there.udp(1000, port, b"whole"), 0..13, false, 7);
        case.passes(a, &pieces[0], b);
        case.passes(a, &atomic(53), b);
        case.drops(a, &atomic(54), DropReason::PolicyIngress);
        case.passes(a, &pieces[1], b);
        assert_eq!(case.rig.flows(), 1);
        case.at_rest();
        case.rig.finish();
    });
}

//! Where room ends: full tables and rings, and how often the gateway answers.

use std::time::Duration;

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortKind, WorkerId};
use podgate_dataplane::worker::{Deny, WorkerSettings};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, UPLINK};

use crate::case::{Case, each_with};
use crate::cluster::*;
use crate::craft::segment_with;
use crate::facts::Facts;
use crate::ledger::Counter;

fn rejecting() -> WorkerSettings {
    WorkerSettings { deny: Deny::Reject, ..WorkerSettings::default() }
}

#[test]
fn denied_packets_are_rejected_if_asked_for() {
    each_with(&rejecting(), |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let ip_len = if case.at.six { 40 } else { 20 };
        case.opens(a, &there.tcp(999, 80, "S"), b);
        case.opens(a, &there.udp(999, 53, b"query"), b);
        case.policy(deny_all(app("b")));
        // The reset comes as from the one who was asked: RST and ACK, of the SYN's number and one.
        let answer = case.tells(a, &there.tcp(1000, 80, "S"), DropReason::PolicyIngress);
        let tcp = &answer[14 + ip_len..];
        assert_eq!(tcp[..14], [0, 80, 3, 232, 0, 0, 0, 0, 0, 0, 3, 232, 5 << 4, 0x14]);
        // Whoever speaks next on what policy has revoked.
        case.cutting(1);
        let answer = case.tells(b, &back.tcp(80, 999, "SA"), DropReason::PolicyRevoked);
        assert_eq!(answer[14 + ip_len + 13], 4);
        case.cutting(1);
        case.tells(a, &there.udp(999, 53, b"query"), DropReason::PolicyRevoked);
        for frame in [
            there.udp(1000, 53, b"query"),
            there.sctp(1000, 9, 1),
            there.echo(7, false),
            there.other(47, b"tunnel"),
        ] {
            let answer = case.tells(a, &frame, DropReason::PolicyIngress);
            assert_eq!(answer[14 + ip_len..][..2], if case.at.six { [1, 1] } else { [3, 13] });
            assert!(answer.ends_with(&frame[14..]));
        }
        let own = From::new(b, case.at.b(), case.at.outside());
        case.tells(b, &own.udp(1, 2, b"out"), DropReason::PolicyEgress);
        let outside = From::new(UPLINK, case.at.outside(), case.at.b());
        case.tells(UPLINK, &outside.tcp(1, 2, "S"), DropReason::PolicyIngress);
        let remote = From::new(HOST, case.at.remote(), case.at.b());
        case.tells(HOST, &remote.udp(1, 2, b"x"), DropReason::PolicyIngress);
        // What policy has not denied is dropped in silence.
        case.drops(a, &there.tcp(1000, 80, "RA"), DropReason::StrayTcp);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.drops(a, &From::new(a, case.at.b(), case.at.node()).udp(1, 2, b"x"), DropReason::SpoofedSource);
        case.finish();
    });
}

#[test]
fn answers_come_in_bursts_and_not_without_end() {
    for six in [false, true] {
        let mut case = Case::new(1, six, &rejecting());
        case.policy(deny_ingress(app("b")));
        let (there, a) = (case.a_to_b(), case.a);
        for port in 0..100 {
            case.tells(a, &there.udp(2000 + port, 53, b"query"), DropReason::PolicyIngress);
        }
        for port in 100..130 {
            case.keeping_back(1);
            case.drops(a, &there.udp(2000 + port, 53, b"query"), DropReason::PolicyIngress);
        }
        // What others must learn, they are told.
        let late = From { hop_limit: 1, ..From::new(case.b, case.at.b(), case.at.a()) };
        case.opening();
        case.tells(case.b, &late.udp(1, 2, b"late"), DropReason::TtlExpired);
        // One a millisecond from then on.
        case.rig.advance(Duration::from_millis(2));
        for _ in 0..2 {
            case.tells(a, &there.tcp(2000, 80, "S"), DropReason::PolicyIngress);
        }
        case.keeping_back(1);
        case.drops(a, &there.tcp(2000, 80, "S"), DropReason::PolicyIngress);
        case.finish();
    }
}

/// The sender is answered with what it acknowledged, its receiver told with what it expects: here the next byte.
#[test]
fn both_ends_of_a_revoked_connection_are_told_if_asked_for() {
    each_with(&rejecting(), |mut case| {
        let tcp = if case.at.six { 54 } else { 34 };
        let number = |frame: &[u8], at: usize| u32::from_be_bytes(frame[tcp + at..][..4].try_into().unwrap());
        for (there, back) in case.ways() {
            for (from, to, ports) in [(there, back, (1000, 80)), (back, there, (80, 1000))] {
                case.policies([]);
                case.establish(there, back, 1000);
                case.policies([deny_all(app("a"))]);
                let said = segment_with(&from, ports, "PA", (1000, 1000), &[], b"not sent on");
                case.cutting(1);
                let answers = case.tells_both(from.port, &said, DropReason::PolicyRevoked, to.port);
                for (answer, ends) in answers.iter().zip([(to, from), (from, to)]) {
                    let facts = Facts::of(answer).unwrap();
                    assert_eq!((facts.source, facts.destination), (ends.0.source, ends.1.source));
                    assert_eq!((number(answer, 4), answer[tcp + 13]), (1000, 4), "a reset");
                }
                // Both know now, and nothing is left to tell.
                case.drops(to.port, &to.tcp(ports.1, ports.0, "A"), DropReason::StrayTcp);
            }
        }
        case.finish();
    });
}

/// All places are taken by open connections from `a` to `b`; and another pod's way out, so that it is not the quota which
/// refuses.
fn full_of_open(six: bool) -> (Case, From) {
    let settings = WorkerSettings { flows: 4, flows_per_pod: 4, ..WorkerSettings::default() };
    let mut case = Case::new(1, six, &settings);
    let (there, back) = (case.a_to_b(), case.b_to_a());
    for port in 0..4 {
        case.establish(there, back, 1000 + port);
    }
    let other = From::new(case.b, case.at.b(), case.at.outside());
    case.drops(case.b, &other.tcp(2000, 80, "S"), DropReason::FlowTableFull);
    (case, other)
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_open_ones() {
    for six in [false, true] {
        let (mut case, other) = full_of_open(six);
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(a, &there.tcp(1001, 80, "FA"), b);
        case.time_passes(Duration::from_secs(121), 1);
        case.opens(b, &other.tcp(2000, 80, "S"), UPLINK);
        // What nobody has answered yet makes room.
        case.evicting(1).opens(b, &other.tcp(2001, 80, "S"), UPLINK);
        let answer = From::new(UPLINK, case.at.outside(), case.at.b());
        case.drops(UPLINK, &answer.tcp(80, 2000, "SA"), DropReason::StrayTcp);
        case.passes(UPLINK, &answer.tcp(80, 2001, "SA"), b);
        case.finish();
    }
}

/// Sources that are forged are answered too, by any pod to a ping, but they do not go on.
#[test]
fn what_is_answered_once_keeps_nobody_out() {
    let settings = WorkerSettings { flows: 64, flows_per_pod: 3, ..WorkerSettings::default() };
    each_with(&settings, |mut case| {
        let (b, outside) = (case.b, case.at.outside());
        let (there, back) = (From::new(UPLINK, outside, case.at.b()), From::new(b, case.at.b(), outside));
        // One that goes on, and one by datagrams.
        case.opens(UPLINK, &there.echo(1, false), b);
        case.passes(b, &back.echo(1, true), UPLINK);
        case.passes(UPLINK, &there.echo(1, false), b);
        case.opens(UPLINK, &there.udp(53, 53, b"query"), b);
        case.passes(b, &back.udp(53, 53, b"answer"), UPLINK);
        case.passes(UPLINK, &there.udp(53, 53, b"query"), b);
        for number in 2..10 {
            case.evicting(i64::from(number > 2)).opens(UPLINK, &there.echo(number, false), b);
            case.passes(b, &back.echo(number, true), UPLINK);
        }
        case.passes(b, &back.echo(1, true), UPLINK);
        case.passes(b, &back.udp(53, 53, b"answer"), UPLINK);
        case.drops(b, &back.echo(2, true), DropReason::StrayIcmpReply);
        case.finish();
    });
}

/// Nobody speaks in them any more, so nothing would end them before their five days are over.
#[test]
fn open_connections_of_a_pod_that_is_gone_keep_nobody_out() {
    for six in [false, true] {
        let (mut case, other) = full_of_open(six);
        let (a, b) = (case.a, case.b);
        case.rig.remove_pod(a);
        case.cluster.pods.remove(&name("shop/a")).unwrap();
        case.rig.publish(&case.cluster);
        let answer = From::new(UPLINK, case.at.outside(), case.at.b());
        for port in 2000..2004 {
            case.cutting(1).establish(other, answer, port);
        }
        case.drops(b, &other.tcp(2004, 80, "S"), DropReason::PodFlows);
        case.finish();
    }
}

#[test]
fn a_pod_beyond_its_quota_pays_with_its_own_embryonic_connections() {
    let settings = WorkerSettings { flows: 64, flows_per_pod: 3, ..WorkerSettings::default() };
    each_with(&settings, |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.establish(there, back, 1000);
        for port in 0..20 {
            case.evicting(i64::from(port >= 2)).opens(a, &there.tcp(2000 + port, 80, "S"), b);
        }
        assert_eq!(case.connections(), 3);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.drops(b, &back.tcp(80, 2000, "SA"), DropReason::StrayTcp);
        // The other pod's are not charged to this one.
        case.opens(b, &back.tcp(80, 3000, "S"), a);
        for port in [1001, 1002] {
            case.evicting(1).establish(there, back, port);
        }
        case.drops(a, &there.tcp(1003, 80, "S"), DropReason::PodFlows);
        case.finish();
    });
}

/// More than a ring holds, to one port, in one turn.
#[test]
fn a_full_transmit_ring_drops_what_does_not_fit() {
    for six in [false, true] {
        let mut case = Case::new(1, six, &WorkerSettings::default());
        let (there, a) = (case.a_to_b(), case.a);
        let host = From::new(HOST, case.at.node(), case.at.b());
        let from = |from: From, count: u16| (0..count).map(move |port| (from.port, from.udp(port, 53, b"x")));
        let (sent, moved) = case.floods(from(there, 60).chain(from(host, 40)));
        assert_eq!(sent, 64);
        let dropped = |kind| moved.get(Counter::Drops(WorkerId(0), DropReason::TxRingFull, kind));
        assert_eq!(dropped(PortKind::Pod) + dropped(PortKind::Host), 36);
        assert_eq!(moved.get(Counter::TxPackets(WorkerId(0), PortKind::Pod)), 64);
        // They have connections all the same; and a turn records so many drops and no more.
        assert_eq!((moved.get(Counter::Connections), moved.get(Counter::RecordsLost)), (100, 20));
        case.passes(a, &there.udp(1, 53, b"x"), case.b);
        case.finish();
    }
}

#[test]
fn the_kinds_of_ports_are_counted_apart() {
    let mut case = Case::new(2, false, &WorkerSettings::default());
    let (a, a_ip, outside) = (case.a, case.at.a(), case.at.outside());
    let frame = From::new(a, a_ip, outside).udp(1, 2, b"out");
    case.opens(a, &frame, UPLINK);
    let counts = case.rig.counts().counts;
    assert_eq!((counts.rx_packets, counts.tx_packets), ([1, 0, 0], [0, 0, 1]));
    assert_eq!(counts.rx_bytes, [frame.len() as u64, 0, 0]);
    assert_eq!((counts.handed_over, counts.taken_over), (1, 1));
    case.finish();
}

/// A pod's port that goes while its worker has not heard of it: what is on its way to it is dropped by name.
#[test]
fn a_port_that_goes_takes_what_was_on_its_way_along() {
    for six in [false, true] {
        let mut case = Case::new(1, six, &WorkerSettings::default());
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        case.opens(a, &there.udp(1, 53, b"x"), b);
        case.rig.remove_pod(b);
        case.drops(a, &there.udp(1, 53, b"x"), DropReason::PortGone);
        case.opening().drops(a, &there.udp(2, 53, b"x"), DropReason::PortGone);
        case.finish();
    }
}

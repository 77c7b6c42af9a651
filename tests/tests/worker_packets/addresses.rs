//! Whose an address is: sources that are not their sender's, and addresses that pass from one pod to another.

use podgate_config::model::Selector;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, UPLINK};

use crate::case::{Case, each, each_mode, each_with};
use crate::cluster::*;
use crate::craft::segment_with;

#[test]
fn a_source_that_is_not_the_senders_own_is_dropped() {
    each(|mut case| {
        let (a, a_ip, b_ip) = (case.a, case.at.a(), case.at.b());
        let (node, remote, outside) = (case.at.node(), case.at.remote(), case.at.outside());
        let link_local = case.at.of("169.254.3.4", "fe80::77");
        let gateway = case.at.of("169.254.1.1", "fe80::1");
        for source in [b_ip, node, remote, outside, link_local, gateway] {
            for destination in [a_ip, b_ip, node, outside] {
                let from = From::new(a, source, destination);
                for frame in [
                    from.udp(1, 2, b"x"),
                    from.tcp(1000, 80, "S"),
                    from.tcp(1000, 80, "RA"),
                    from.sctp(1000, 9, 1),
                    from.echo(7, false),
                    from.echo(7, true),
                    from.other(47, b"x"),
                    from.unreachable(&From::new(a, destination, b_ip).udp(1, 2, b"x")),
                ] {
                    case.drops(a, &frame, DropReason::SpoofedSource);
                }
            }
        }
        // Nor by the uplink, where the outside is, and pods of other nodes may be.
        for source in [a_ip, b_ip, node] {
            let from = From::new(UPLINK, source, a_ip);
            case.drops(UPLINK, &from.udp(1, 2, b"x"), DropReason::SpoofedSource);
            case.drops(UPLINK, &from.tcp(1000, 80, "S"), DropReason::SpoofedSource);
        }
        case.opens(UPLINK, &From::new(UPLINK, remote, a_ip).udp(1, 2, b"x"), a);
        // By the host: it may have translated or routed it.
        case.opens(HOST, &From::new(HOST, b_ip, a_ip).udp(1, 2, b"x"), a);
        case.finish();
    });
}

/// The numbers of a live connection do not help.
#[test]
fn a_spoofed_source_does_not_get_into_a_live_connection() {
    each(|mut case| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            case.opens(a, &there.tcp(1000, 80, "S"), b);
            case.passes(b, &back.tcp(80, 1000, "SA"), a);
            let spoofers = [case.a, case.b, UPLINK].into_iter().filter(|port| *port != b && *port != a);
            for spoofer in spoofers.chain([a]) {
                let spoofed = From { port: spoofer, ..back };
                if spoofer == UPLINK && back.port == HOST {
                    continue; // the outside is behind both
                }
                case.drops(spoofer, &spoofed.tcp(80, 1000, "A"), DropReason::SpoofedSource);
                case.drops(spoofer, &spoofed.tcp(80, 1000, "R"), DropReason::SpoofedSource);
            }
            if b != case.b {
                let spoofed = From { port: case.b, ..there };
                case.drops(case.b, &spoofed.tcp(1000, 80, "R"), DropReason::SpoofedSource);
            }
            case.passes(a, &there.tcp(1000, 80, "A"), b);
        }
        case.finish();
    });
}

#[test]
fn a_kept_connection_follows_its_pod_to_a_new_port() {
    each_mode(|mut case, established| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        let c = case.replug_pod(b);
        if established == Established::Keep {
            case.policy(deny_all(app("b")));
        } else {
            case.publish();
        }
        case.passes(a, &there.tcp(1000, 80, "A"), c);
        case.passes(c, &From { port: c, ..back }.tcp(80, 1000, "A"), a);
        case.policy(deny_all(app("b")));
        case.drops(a, &there.tcp(1001, 80, "S"), DropReason::PolicyIngress);
        case.finish();
    });
}

/// Which of the two ends of a connection another pod takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Client,
    Server,
}

/// Runs a case in which `shop/a` has opened something with `open` to `shop/b`, and then one of them is gone and its address is
/// another pod's, on this worker or that. The case is given the connection's two directions as they are then, and whether the
/// worker that has the old entry still owns what goes between these addresses; where it does not, the entry is out of reach.
fn moved(open: impl Fn(&mut Case, From, From), then: impl Fn(&mut Case, From, From, i64)) {
    for established in [Established::Recheck, Established::Keep] {
        let settings = WorkerSettings { established, ..WorkerSettings::default() };
        for (who, name) in [
            (Moved::Client, "shop/c"),
            (Moved::Server, "shop/c"),
            // The same pod by its name, and another one all the same.
            (Moved::Server, "shop/b"),
        ] {
            each_home(&settings, |mut case, home| {
                eprintln!("{who:?} {name} {home}");
                let (there, back) = (case.a_to_b(), case.b_to_a());
                open(&mut case, there, back);
                let owner = case.owner(there.source, there.destination).unwrap();
                let (port, old, other_home) = match who {
                    Moved::Client => (case.a, "shop/a", case.workers - 1),
                    Moved::Server => (case.b, "shop/b", 0),
                };
                let old_home = if who == Moved::Client { 0 } else { case.workers - 1 };
                let addresses = case.remove_pod(port, old);
                let new = case.add_pod(pod(name, addresses), home);
                case.publish();
                let (there, back) = match who {
                    Moved::Client => (From { port: new, ..there }, back),
                    Moved::Server => (there, From { port: new, ..back }),
                };
                // With both on one worker it is that one; on two, the hash says the same as before.
                let is_found = home == old_home || owner == WorkerId(other_home);
                then(&mut case, there, back, i64::from(is_found));
                case.finish();
            });
        }
    }
}

/// As [`each_with`], with the first worker and the last as the new pod's.
fn each_home(settings: &WorkerSettings, case: impl Fn(Case, u8)) {
    for home in [0, 1] {
        each_with(settings, |shape| {
            let last = shape.workers - 1;
            case(shape, home * last);
        });
    }
}

fn opens_tcp(case: &mut Case, there: From, back: From) {
    case.establish(there, back, 1000);
}

fn opens_udp(case: &mut Case, there: From, back: From) {
    case.opens(there.port, &there.udp(1000, 53, b"query"), back.port);
    case.passes(back.port, &back.udp(53, 1000, b"answer"), there.port);
}

fn moved_or(stray: DropReason, is_found: i64) -> DropReason {
    if is_found == 1 { DropReason::AddressMoved } else { stray }
}

/// A segment of the old connection, from whichever end, reaches nobody; the next SYN opens a new one.
#[test]
fn an_address_that_moves_ends_its_tcp_connections() {
    let data = |from: &From, ports| segment_with(from, ports, "PA", (1000, 1000), &[], b"data");
    moved(opens_tcp, |case, there, back, is_found| {
        let reason = moved_or(DropReason::StrayTcp, is_found);
        case.cutting(is_found).drops(there.port, &data(&there, (1000, 80)), reason);
        case.drops(there.port, &data(&there, (1000, 80)), DropReason::StrayTcp);
        case.drops(back.port, &data(&back, (80, 1000)), DropReason::StrayTcp);
        opens_tcp(case, there, back);
    });
    moved(opens_tcp, |case, there, back, is_found| {
        let reason = moved_or(DropReason::StrayTcp, is_found);
        case.cutting(is_found).drops(back.port, &data(&back, (80, 1000)), reason);
        case.drops(there.port, &data(&there, (1000, 80)), DropReason::StrayTcp);
    });
    moved(opens_tcp, |case, _, back, is_found| {
        let reason = moved_or(DropReason::StrayTcp, is_found);
        case.cutting(is_found).drops(back.port, &back.segment((80, 1000), "R", 1000, 0), reason);
    });
}

/// The same if policy, at the same time, denies it: an open connection may be kept, but not for another pod.
#[test]
fn an_address_that_moves_ends_a_connection_that_could_be_kept() {
    moved(opens_tcp, |case, there, _, is_found| {
        case.policies([deny_all(Selector::everything())]);
        let reason = moved_or(DropReason::StrayTcp, is_found);
        case.cutting(is_found).drops(there.port, &there.tcp(1000, 80, "A"), reason);
        case.drops(there.port, &there.tcp(1000, 80, "S"), DropReason::PolicyEgress);
    });
}

/// The first packet after the move is a SYN of the same tuple, either way: it is judged for itself and not lost with the old
/// connection.
#[test]
fn the_same_tuple_may_be_opened_anew_by_whoever_has_the_address() {
    moved(opens_tcp, |case, there, back, is_found| {
        case.cutting(is_found).opens(there.port, &there.segment((1000, 80), "S", 5, 0), back.port);
        case.passes(back.port, &back.segment((80, 1000), "SA", 6, 6), there.port);
    });
    moved(opens_tcp, |case, there, back, is_found| {
        case.cutting(is_found).opens(back.port, &back.segment((80, 1000), "S", 5, 0), there.port);
        case.passes(there.port, &there.segment((1000, 80), "SA", 6, 6), back.port);
    });
    for from_client in [true, false] {
        // Nobody may open to any of them: not the new pod's either, by the tuple of the old one.
        moved(opens_tcp, |case, there, back, is_found| {
            case.policies([deny_ingress(Selector::everything())]);
            let (from, ports) = if from_client { (there, (1000, 80)) } else { (back, (80, 1000)) };
            case.cutting(is_found).drops(
                from.port,
                &from.segment(ports, "S", 5, 0),
                DropReason::PolicyIngress,
            );
            case.drops(from.port, &from.segment(ports, "A", 5, 0), DropReason::StrayTcp);
        });
    }
}

/// What has no handshake is a connection of its own at once, judged as that.
#[test]
fn an_address_that_moves_ends_its_other_connections() {
    moved(opens_udp, |case, there, back, is_found| {
        case.cutting(is_found).opens(there.port, &there.udp(1000, 53, b"query"), back.port);
    });
    moved(opens_udp, |case, there, back, is_found| {
        case.cutting(is_found).opens(back.port, &back.udp(53, 1000, b"answer"), there.port);
    });
    moved(opens_udp, |case, there, back, is_found| {
        case.policies([deny_ingress(Selector::everything())]);
        case.cutting(is_found).drops(back.port, &back.udp(53, 1000, b"answer"), DropReason::PolicyIngress);
        case.drops(there.port, &there.udp(1000, 53, b"query"), DropReason::PolicyIngress);
    });
    let opens_echo = |case: &mut Case, there: From, back: From| {
        case.opens(there.port, &there.echo(7, false), back.port);
    };
    moved(opens_echo, |case, there, back, is_found| {
        let reason = moved_or(DropReason::StrayIcmpReply, is_found);
        case.cutting(is_found).drops(back.port, &back.echo(7, true), reason);
        case.opens(there.port, &there.echo(7, false), back.port);
    });
    let opens_sctp = |case: &mut Case, there: From, back: From| {
        case.opens(there.port, &there.sctp(1000, 9, 1), back.port);
        case.passes(back.port, &back.sctp(9, 1000, 2), there.port);
    };
    moved(opens_sctp, |case, there, back, is_found| {
        let reason = moved_or(DropReason::StraySctp, is_found);
        case.cutting(is_found).drops(there.port, &there.sctp(1000, 9, 10), reason);
        case.opens(there.port, &there.sctp(1000, 9, 1), back.port);
    });
    let opens_tunnel = |case: &mut Case, there: From, back: From| {
        case.opens(there.port, &there.other(47, b"x"), back.port);
    };
    moved(opens_tunnel, |case, _, back, is_found| {
        case.policies([deny_ingress(Selector::everything())]);
        case.cutting(is_found).drops(back.port, &back.other(47, b"x"), DropReason::PolicyIngress);
    });
}

/// An ICMP error about the old connection tells the new pod nothing.
#[test]
fn an_icmp_error_about_a_connection_of_the_pod_before_is_dropped() {
    moved(opens_udp, |case, there, back, is_found| {
        let error = back.unreachable(&there.udp(1000, 53, b"query"));
        let reason = moved_or(DropReason::IcmpErrorNoFlow, is_found);
        case.cutting(is_found).drops(back.port, &error, reason);
        case.drops(back.port, &error, DropReason::IcmpErrorNoFlow);
    });
}

/// A pod that is gone without a successor: its connections end by the same name.
#[test]
fn a_pod_that_is_gone_takes_its_connections_along() {
    each_mode(|mut case, _| {
        let (there, back) = (case.a_to_b(), case.b_to_a());
        opens_tcp(&mut case, there, back);
        let owner = case.owner(there.source, there.destination).unwrap();
        case.remove_pod(case.b, "shop/b");
        case.publish();
        // What is left of the pair is owned by `a`'s worker.
        let is_found = i64::from(owner == WorkerId(0));
        let reason = moved_or(DropReason::StrayTcp, is_found);
        case.cutting(is_found).drops(there.port, &there.tcp(1000, 80, "A"), reason);
        // Its address is the host's business now.
        case.opens(there.port, &there.tcp(1000, 80, "S"), HOST);
        case.finish();
    });
}

/// A port that is gone in the snapshot, though a worker still has it.
#[test]
fn what_comes_by_a_port_that_nobody_knows_is_dropped() {
    let mut rig = podgate_tests::rig::Rig::new(1, &WorkerSettings::default());
    let a: PortId = rig.add_pod(&name("shop/a"), WorkerId(0));
    let frame = From::new(a, ip("10.244.0.1"), ip("10.244.0.2")).tcp(1000, 80, "S");
    // Before the first snapshot.
    assert!(rig.deliver(a, &frame));
    assert_eq!(rig.settle(), []);
    assert_eq!(rig.drops(), [(DropReason::PortGone, 1)].into());
    let records = rig.records();
    assert_eq!(
        records.iter().map(|record| (record.reason, record.port)).collect::<Vec<_>>(),
        [(DropReason::PortGone, a)]
    );
    rig.finish();
}

#[test]
fn a_packet_between_workers_opens_its_connection_where_the_address_is_by_now() {
    let mut found = 0;
    // A hash of the addresses says which end's worker owns the connection: some seeds, so that it says both.
    for seed in 0..16 {
        let settings = WorkerSettings { seed: [seed, 2, 3, 4], ..WorkerSettings::default() };
        let mut case = Case::new(2, false, &settings);
        let (a, b) = (case.a, case.b);
        // Between the steps of a case, so by hand.
        assert!(case.rig.deliver(a, &case.a_to_b().tcp(1000, 80, "S")));
        case.rig.turn(0);
        // The address passes to a pod of the first worker, where both directions arrive from now on.
        let next = case.rig.add_pod(&name("shop/b"), WorkerId(0));
        case.rig.publish(&case.cluster);
        let sent = case.rig.settle();
        assert_eq!(sent.len(), 1);
        if sent[0].0 == next {
            found += 1;
            let back = From { port: next, ..case.b_to_a() };
            assert!(case.rig.deliver(next, &back.tcp(80, 1000, "SA")));
            assert_eq!(case.rig.settle().len(), 1, "seed {seed}: {:?}", case.rig.drops());
        } else {
            // It was judged before, and is on its way to the pod that was there then.
            assert_eq!(sent[0].0, b);
        }
        case.rig.finish();
    }
    assert!((1..16).contains(&found), "the hash says always the same");
}

//! Policy changes while connections are open, and ports and sources that are closed.

use podgate_config::model::{Protocol, Selector};
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::PortId;
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::frames::From;
use podgate_tests::rig::HOST;

use crate::case::{Case, each, each_mode, each_with};
use crate::cluster::*;
use crate::craft::segment_with;

const KEEP: Established = Established::Keep;

fn keeping() -> WorkerSettings {
    WorkerSettings { established: KEEP, ..WorkerSettings::default() }
}

/// The packets of one connection: what opens it, what else is said until it is open, and what then goes either way. `reopens`
/// says whether the reply, alone, is judged as something new rather than dropped as a stray.
struct Talk {
    opening: Vec<u8>,
    rest: Vec<(PortId, Vec<u8>, PortId)>,
    on: Vec<u8>,
    reply: Vec<u8>,
    reply_opens: bool,
    stray: DropReason,
}

/// One of every protocol.
fn talks(there: &From, back: &From) -> Vec<Talk> {
    let (a, b) = (there.port, back.port);
    vec![
        Talk {
            opening: there.tcp(1000, 80, "S"),
            rest: vec![(b, back.tcp(80, 1000, "SA"), a), (a, there.tcp(1000, 80, "A"), b)],
            on: segment_with(there, (1000, 80), "PA", (1000, 1000), &[], b"on"),
            reply: segment_with(back, (80, 1000), "PA", (1000, 1000), &[], b"back"),
            reply_opens: false,
            stray: DropReason::StrayTcp,
        },
        Talk {
            opening: there.udp(1000, 53, b"query"),
            rest: vec![(b, back.udp(53, 1000, b"answer"), a)],
            on: there.udp(1000, 53, b"on"),
            reply: back.udp(53, 1000, b"back"),
            reply_opens: true,
            stray: DropReason::PolicyIngress,
        },
        Talk {
            opening: there.sctp(1000, 9, 1),
            rest: vec![
                (b, back.sctp(9, 1000, 2), a),
                (a, there.sctp(1000, 9, 10), b),
                (b, back.sctp(9, 1000, 11), a),
            ],
            on: there.sctp(1000, 9, 0),
            reply: back.sctp(9, 1000, 0),
            reply_opens: false,
            stray: DropReason::StraySctp,
        },
        Talk {
            opening: there.echo(7, false),
            rest: vec![(b, back.echo(7, true), a)],
            on: there.echo(7, false),
            reply: back.echo(7, true),
            reply_opens: false,
            stray: DropReason::StrayIcmpReply,
        },
        Talk {
            opening: there.other(47, b"tunnel"),
            rest: vec![(b, back.other(47, b"tunnel"), a)],
            on: there.other(47, b"on"),
            reply: back.other(47, b"back"),
            reply_opens: true,
            stray: DropReason::PolicyIngress,
        },
    ]
}

impl Talk {
    #[track_caller]
    fn open(&self, case: &mut Case, from: PortId, to: PortId) {
        case.opens(from, &self.opening, to);
        for (from, frame, to) in &self.rest {
            case.passes(*from, frame, *to);
        }
    }
}

/// By every way, in every protocol, whichever end speaks first after the change.
#[test]
fn a_tightened_policy_cuts_what_is_open() {
    each(|mut case| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            for talk in talks(&there, &back) {
                case.policies([]);
                talk.open(&mut case, a, b);
                case.policies([deny_egress(app("a"))]);
                case.cutting(1).drops(a, &talk.on, DropReason::PolicyRevoked);
                match talk.reply_opens {
                    // Nobody isolates the other way.
                    true => {
                        case.opens(b, &talk.reply, a);
                        case.passes(a, &talk.on, b);
                        case.policies([deny_all(app("a"))]);
                        case.cutting(1).drops(b, &talk.reply, DropReason::PolicyRevoked);
                    }
                    false => case.drops(b, &talk.reply, talk.stray),
                }

                case.policies([]);
                talk.open(&mut case, a, b);
                case.policies([deny_all(app("a"))]);
                match talk.reply_opens {
                    // The reply's own word: a request of its own, and denied as that.
                    true => case.cutting(1).drops(b, &talk.reply, DropReason::PolicyIngress),
                    false => case.cutting(1).drops(b, &talk.reply, DropReason::PolicyRevoked),
                }
                match talk.stray {
                    DropReason::StrayTcp | DropReason::StraySctp => case.drops(a, &talk.on, talk.stray),
                    _ => case.drops(a, &talk.on, DropReason::PolicyEgress),
                }
                case.drops(a, &talk.opening, DropReason::PolicyEgress);
            }
        }
        assert_eq!(case.connections(), 0);
        case.finish();
    });
}

/// Asked to keep them, in the same situations.
#[test]
fn a_tightened_policy_leaves_what_is_open_if_asked_for() {
    each_with(&keeping(), |mut case| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            for talk in talks(&there, &back) {
                case.policies([]);
                talk.open(&mut case, a, b);
                case.policies([deny_all(app("a"))]);
                case.passes(a, &talk.on, b);
                case.passes(b, &talk.reply, a);
                case.policies([deny_all(Selector::everything())]);
                case.passes(b, &talk.reply, a);
                case.passes(a, &talk.on, b);
                let another = From { destination: case.at.node(), ..there };
                case.opens(a, &another.udp(1, 2, b"the node is exempt"), HOST);
                case.drops(a, &there.tcp(4000, 80, "S"), DropReason::PolicyEgress);
                case.rig.advance(std::time::Duration::from_secs(999_999));
                let open = case.connections() as i64;
                case.time_passes(std::time::Duration::ZERO, open);
            }
        }
        case.finish();
    });
}

/// In either mode, an open connection notices nothing; what was denied before is admitted from then on.
#[test]
fn a_relaxed_policy_leaves_open_connections_alone() {
    each_mode(|mut case, _| {
        for (there, back) in case.ways() {
            let (a, b) = (there.port, back.port);
            for talk in talks(&there, &back) {
                case.policies([deny_all(app("a"))]);
                case.drops(a, &talk.opening, DropReason::PolicyEgress);
                case.policies([deny_ingress(app("a"))]);
                talk.open(&mut case, a, b);
                case.policies([]);
                case.passes(a, &talk.on, b);
                case.passes(b, &talk.reply, a);
                case.policies([deny_ingress(app("a"))]);
                case.passes(b, &talk.reply, a);
                case.passes(a, &talk.on, b);
                case.policies([]);
            }
        }
        assert_eq!(case.connections(), 15);
        case.finish();
    });
}

#[test]
fn policies_add_up_and_the_last_to_admit_a_connection_counts() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.policy(only_a_to_b());
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(b, &back.tcp(80, 1000, "PA"), a);
        case.policy(deny_all(app("b")));
        // Union: the first policy still admits it.
        case.passes(b, &back.tcp(80, 1000, "PA"), a);
        case.policies([deny_all(app("b")), only("a", "b", &[(Protocol::Tcp, 81)])]);
        case.cutting(1).drops(b, &back.tcp(80, 1000, "PA"), DropReason::PolicyRevoked);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::PolicyIngress);
        case.opens(a, &there.tcp(1000, 81, "S"), b);
        case.finish();
    });
}

/// Cut once, and not again when policy comes back: a connection that was cut stays cut, its next SYN opens a new one.
#[test]
fn what_was_cut_stays_cut() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.policies([deny_all(app("b"))]);
        case.cutting(1).drops(a, &there.tcp(1000, 80, "A"), DropReason::PolicyRevoked);
        case.policies([]);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.drops(b, &back.tcp(80, 1000, "PA"), DropReason::StrayTcp);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        // Denied and admitted again while nobody spoke: nothing was cut.
        case.policies([deny_all(app("b"))]);
        case.policies([]);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.finish();
    });
}

#[test]
fn a_syn_on_a_kept_connection_is_judged_for_itself() {
    each_with(&keeping(), |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.opens(a, &there.sctp(1000, 9, 1), b);
        case.passes(b, &back.sctp(9, 1000, 2), a);
        case.passes(a, &there.sctp(1000, 9, 10), b);
        case.passes(b, &back.sctp(9, 1000, 11), a);
        case.policy(deny_all(app("b")));
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.drops(a, &there.segment((1000, 80), "S", 5_000_000, 0), DropReason::PolicyIngress);
        case.drops(b, &back.segment((80, 1000), "S", 5_000_000, 0), DropReason::PolicyEgress);
        case.passes(b, &back.tcp(80, 1000, "A"), a);
        case.passes(a, &there.sctp(1000, 9, 0), b);
        case.drops(a, &there.sctp(1000, 9, 1), DropReason::PolicyIngress);
        case.drops(b, &back.sctp(9, 1000, 1), DropReason::PolicyEgress);
        case.passes(b, &back.sctp(9, 1000, 0), a);
        case.finish();
    });
}

#[test]
fn what_is_closed_stops_kept_connections_too() {
    each_with(&keeping(), |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        for talk in talks(&there, &back) {
            talk.open(&mut case, a, b);
            case.rig.set_closed(b, true);
            case.publish();
            case.cutting(1).drops(a, &talk.on, DropReason::PolicyRevoked);
            let reply = if talk.reply_opens { DropReason::PortClosed } else { talk.stray };
            case.drops(b, &talk.reply, reply);
            case.drops(a, &talk.opening, DropReason::PortClosed);
            case.rig.set_closed(b, false);
            case.publish();
        }
        // The other one of both ends.
        let talk = talks(&there, &back).remove(0);
        talk.open(&mut case, a, b);
        case.rig.set_closed(a, true);
        case.publish();
        case.cutting(1).drops(b, &talk.reply, DropReason::PolicyRevoked);
        case.finish();
    });
}

#[test]
fn a_closed_port_lets_only_the_own_node_through() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.rig.set_closed(b, true);
        case.publish();
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::PortClosed);
        case.drops(b, &back.tcp(1000, 80, "S"), DropReason::PortClosed);
        let (node, b_ip) = (case.at.node(), case.at.b());
        case.opens(HOST, &From::new(HOST, node, b_ip).tcp(1000, 80, "S"), b);
        case.opens(b, &From::new(b, b_ip, node).udp(1, 2, b"x"), HOST);
        case.finish();
    });
}

/// Sources that have not synced say nothing, and nobody knows what policy says. As the control side has it: every pod's tables
/// are closed.
#[test]
fn unsynced_sources_close_ports_by_another_name() {
    each_mode(|mut case, _| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.rig.synced = false;
        case.rig.set_closed(a, true);
        case.rig.set_closed(b, true);
        case.publish();
        case.cutting(1).drops(b, &back.tcp(80, 1000, "SA"), DropReason::PolicyRevoked);
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::NotSynced);
        case.drops(b, &back.udp(1000, 80, b"x"), DropReason::NotSynced);
        let (node, b_ip) = (case.at.node(), case.at.b());
        case.opens(HOST, &From::new(HOST, node, b_ip).tcp(1000, 80, "S"), b);
        case.rig.synced = true;
        case.rig.set_closed(a, false);
        case.rig.set_closed(b, false);
        case.publish();
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &From::new(b, b_ip, node).tcp(80, 1000, "SA"), HOST);
        case.finish();
    });
}

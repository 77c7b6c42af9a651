//! What is told of one connection when somebody asks: where it is, who admitted it, and how it ended.

use std::time::Duration;

use podgate_config::model::Protocol;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::flow::{Denial, End, FlowState, TcpState, Tuple};
use podgate_dataplane::policy::{Action, Direction, Judgement, PolicyPeer, Tier};
use podgate_dataplane::worker::{Established, Fate, FoundFlow, WorkerSettings};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, UPLINK};

use crate::case::{Case, each, each_with};
use crate::cluster::*;
use crate::ledger::Counter;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn tuple(from: &From, source_port: u16, destination_port: u16, protocol: u8) -> Tuple {
    Tuple { source: from.source, destination: from.destination, source_port, destination_port, protocol }
}

/// What is told of the one connection there is or was, the same whichever end is named first.
#[track_caller]
fn only_one(case: &mut Case, tuple: &Tuple) -> FoundFlow {
    let found = case.rig.find_flows(tuple);
    assert_eq!(found, case.rig.find_flows(&tuple.reversed()));
    let [found] = found[..] else { panic!("{found:?}") };
    assert_eq!(found.facts.tuple, *tuple);
    found
}

/// The rules that admitted the connection, of the policies in force.
fn admitted_by(case: &Case, judgement: &Judgement) -> Vec<String> {
    let verdict = judgement.ingress.unwrap();
    let peer = PolicyPeer { address: case.at.a(), pod: case.slot(case.at.a()) };
    let compiler = case.rig.follower.world.live().compiler();
    let rules = compiler.admitting(verdict.program, verdict.interval, peer);
    rules.iter().map(|rule| format!("{} {} {:?}", rule.policy, rule.rule, rule.peer)).collect()
}

#[track_caller]
fn next(found: &FoundFlow) -> Result<Judgement, Denial> {
    let Fate::Live { next, .. } = found.fate else { panic!("{found:?}") };
    next
}

#[track_caller]
fn end(found: &FoundFlow) -> End {
    let Fate::Over { end, .. } = found.fate else { panic!("{found:?}") };
    end
}

fn state(found: &FoundFlow) -> FlowState {
    found.facts.state
}

const ESTABLISHED: FlowState = FlowState::Tcp(TcpState::Established);

/// Opens a TCP connection of `a` to `b`.
fn connect(case: &mut Case, source_port: u16) -> (From, From, Tuple) {
    let (there, back) = (case.a_to_b(), case.b_to_a());
    case.establish(there, back, source_port);
    (there, back, tuple(&there, source_port, 80, TCP))
}

#[test]
fn an_open_connection_leads_to_the_rule_that_admitted_it() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let begin = case.rig.now();
        let (there, back, tuple) = connect(&mut case, 1000);
        case.time_passes(Duration::from_secs(5), 0);
        let found = only_one(&mut case, &tuple);
        assert_eq!(Some(found.worker), case.owner(there.source, there.destination));
        let facts = found.facts;
        assert_eq!((facts.opened, facts.last_seen), (begin, begin));
        assert_eq!((facts.state, facts.entry_port, facts.judged_port), (ESTABLISHED, case.a, 80));
        assert_eq!((facts.generation, facts.judged_under), (case.rig.generation(), case.rig.generation()));
        assert_eq!(facts.judgement.egress.unwrap().tier, Tier::NotIsolated);
        assert_eq!(admitted_by(&case, &facts.judgement), ["shop/b-takes-a 0 Some(0)"]);
        assert_eq!(next(&found), Ok(facts.judgement));

        // Another policy admits it by now, and says so before the next packet comes.
        case.policies([only("a", "b", &[(Protocol::Tcp, 80)]), deny_ingress(app("b"))]);
        let found = only_one(&mut case, &tuple);
        assert_eq!(found.facts, facts);
        assert_eq!(admitted_by(&case, &next(&found).unwrap()), ["shop/b-takes-a 0 Some(0)"]);
        case.passes(case.b, &back.tcp(80, 1000, "PA"), case.a);
        let found = only_one(&mut case, &tuple);
        assert_eq!(found.facts.generation, case.rig.generation());
        assert_eq!(found.facts.opened, begin);

        for nobody in [
            Tuple { source_port: 1001, ..tuple },
            Tuple { destination_port: 81, ..tuple },
            Tuple { protocol: UDP, ..tuple },
            Tuple { source: case.at.outside(), ..tuple },
            Tuple { source_port: 80, destination_port: 1000, ..tuple },
        ] {
            assert_eq!(case.rig.find_flows(&nobody), []);
        }
        case.finish();
    });
}

#[test]
fn a_connection_that_policy_cuts_says_who_denied_it() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, _, tuple) = connect(&mut case, 1000);
        let admitted = only_one(&mut case, &tuple).facts;
        case.policies([deny_ingress(app("b"))]);
        // Nothing has happened to it, and what will is known.
        let denial = next(&only_one(&mut case, &tuple)).unwrap_err();
        assert_eq!((denial.reason, denial.generation), (DropReason::PolicyRevoked, case.rig.generation()));
        let (direction, verdict) = denial.decided_by.unwrap();
        assert_eq!((direction, verdict.action), (Direction::Ingress, Action::Deny));
        let isolating = case.rig.follower.world.live().compiler().isolating(verdict.program);
        assert_eq!(isolating.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/deny"]);

        case.rig.advance(Duration::from_secs(3));
        let a = case.a;
        case.cutting(1).drops(a, &there.tcp(1000, 80, "PA"), DropReason::PolicyRevoked);
        let found = only_one(&mut case, &tuple);
        assert_eq!(found.fate, Fate::Over { ended: case.rig.now(), end: End::Cut(denial) });
        assert_eq!(found.facts, admitted, "as it was judged last");

        // A new one with the same ends comes first.
        case.policies([]);
        connect(&mut case, 1000);
        let found = case.rig.find_flows(&tuple);
        assert_eq!(found.len(), 2);
        assert!(next(&found[0]).is_ok());
        assert_eq!(end(&found[1]), End::Cut(denial));
        case.finish();
    });
}

#[test]
fn how_connections_end_is_remembered() {
    each(|mut case| {
        let (a, b) = (case.a, case.b);
        // Closed by both ends.
        let (there, back, closed) = connect(&mut case, 1000);
        case.passes(a, &there.tcp(1000, 80, "FA"), b);
        case.passes(b, &back.segment((80, 1000), "FA", 1000, 1001), a);
        case.passes(a, &there.segment((1000, 80), "A", 1001, 1001), b);
        assert_eq!(state(&only_one(&mut case, &closed)), FlowState::Tcp(TcpState::TimeWait));
        // Reset.
        let (_, back, reset) = connect(&mut case, 1001);
        case.passes(b, &back.tcp(80, 1001, "R"), a);
        // Nobody answered.
        case.opens(a, &there.udp(1002, 53, b"query"), b);
        let unanswered = tuple(&there, 1002, 53, UDP);
        assert!(next(&only_one(&mut case, &unanswered)).is_ok());
        let begin = case.rig.now();
        case.time_passes(Duration::from_secs(120), 3);
        for (tuple, expected) in [
            (closed, FlowState::Tcp(TcpState::TimeWait)),
            (reset, FlowState::Tcp(TcpState::Closed)),
            (unanswered, FlowState::Plain { answered: false, goes_on: false }),
        ] {
            let found = only_one(&mut case, &tuple);
            assert_eq!((end(&found), state(&found)), (End::Expired, expected));
            assert_eq!(found.facts.last_seen, begin);
        }

        // Another one by the same ports.
        let (there, back, tuple) = connect(&mut case, 1003);
        case.passes(b, &back.tcp(80, 1003, "R"), a);
        case.cutting(1).opens(a, &there.segment((1003, 80), "S", 70_000, 0), b);
        let found = case.rig.find_flows(&tuple);
        assert_eq!(found.len(), 2);
        assert_eq!((state(&found[0]), end(&found[1])), (FlowState::Tcp(TcpState::SynSent), End::Replaced));
        case.finish();
    });
}

/// Whoever asks is told what is so, also where aging has not come to an entry.
#[test]
fn a_connection_whose_time_is_over_is_over() {
    let mut case = Case::new(1, false, &WorkerSettings::default());
    let there = case.a_to_b();
    case.opens(case.a, &there.udp(1000, 53, b"query"), case.b);
    case.rig.advance(Duration::from_secs(30));
    let found = only_one(&mut case, &tuple(&there, 1000, 53, UDP));
    assert_eq!(end(&found), End::Expired);
    case.time_passes(Duration::ZERO, 1);
    case.finish();
}

#[test]
fn a_pod_that_is_gone_ends_its_connections() {
    each(|mut case| {
        let (there, _, tuple) = connect(&mut case, 1000);
        case.remove_pod(case.b, "shop/b");
        case.publish();
        let denial = next(&only_one(&mut case, &tuple)).unwrap_err();
        let generation = case.rig.generation();
        assert_eq!(denial, Denial { reason: DropReason::AddressMoved, decided_by: None, generation });
        // The next packet ends it, if it still goes to the worker that had it: another one has never heard of it.
        let (_, moved) = case.floods([(case.a, there.tcp(1000, 80, "PA"))]);
        let found = only_one(&mut case, &tuple);
        match moved.get(Counter::Cut) {
            1 => assert_eq!(end(&found), End::Cut(denial)),
            _ => assert_eq!(next(&found), Err(denial)),
        }
        case.finish();
    });
}

#[test]
fn what_is_kept_open_says_under_which_policies_it_was_admitted() {
    let settings = WorkerSettings { established: Established::Keep, ..WorkerSettings::default() };
    each_with(&settings, |mut case| {
        case.policy(only_a_to_b());
        let (there, back, tuple) = connect(&mut case, 1000);
        let admitted = only_one(&mut case, &tuple).facts;
        case.policies([deny_all(app("b"))]);
        let found = only_one(&mut case, &tuple);
        assert_eq!(next(&found), Ok(admitted.judgement), "it may go on");
        case.passes(case.a, &there.tcp(1000, 80, "A"), case.b);
        case.policies([deny_all(app("a"))]);
        case.passes(case.b, &back.tcp(80, 1000, "A"), case.a);
        let facts = only_one(&mut case, &tuple).facts;
        assert_eq!((facts.judgement, facts.judged_under), (admitted.judgement, admitted.generation));
        assert_eq!(facts.generation, case.rig.generation());
        case.policies([]);
        case.passes(case.a, &there.tcp(1000, 80, "A"), case.b);
        assert_eq!(only_one(&mut case, &tuple).facts.judged_under, case.rig.generation());
        case.finish();
    });
}

#[test]
fn pings_are_told_apart_by_identifier_and_by_who_asks() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.echo(7, false), b);
        case.passes(b, &back.echo(7, true), a);
        let (protocol, kind) = if case.at.six { (58, 128) } else { (1, 8) };
        let ping = tuple(&there, 7, kind, protocol);
        let found = only_one(&mut case, &ping);
        assert_eq!(
            (state(&found), found.facts.judged_port),
            (FlowState::Plain { answered: true, goes_on: false }, 0)
        );
        let pong = tuple(&back, 7, kind, protocol);
        assert_eq!(case.rig.find_flows(&pong), []);
        assert_eq!(case.rig.find_flows(&tuple(&there, 8, kind, protocol)), []);
        case.opens(b, &back.echo(7, false), a);
        only_one(&mut case, &ping);
        only_one(&mut case, &pong);
        case.finish();
    });
}

/// A flood of connections that nobody answers, by the outside, while somebody asks about one of before.
#[test]
fn a_flood_washes_out_no_answered_connection() {
    let settings =
        WorkerSettings { flows: 64, flows_per_pod: 64, flow_history: 64, ..WorkerSettings::default() };
    each_with(&settings, |mut case| {
        let (_, back, of_before) = connect(&mut case, 1000);
        case.passes(case.b, &back.tcp(80, 1000, "R"), case.a);
        case.time_passes(Duration::from_secs(10), 1);
        let flood = From::new(UPLINK, case.at.outside(), case.at.b());
        for batch in 0..20 {
            case.floods((0..50).map(|number| (UPLINK, flood.tcp(2000 + 50 * batch + number, 80, "S"))));
        }
        let found = only_one(&mut case, &of_before);
        assert_eq!(state(&found), FlowState::Tcp(TcpState::Closed));
        // The table is full of the flood, and so is its share of what is over.
        let known =
            (2000..3000).filter(|port| !case.rig.find_flows(&tuple(&flood, *port, 80, TCP)).is_empty());
        assert_eq!(known.count(), 64 + 8);
        case.finish();
    });
}

#[test]
fn no_answer_grows_beyond_bounds_and_no_history_is_none() {
    let shape = |flow_history| WorkerSettings { flow_history, ..WorkerSettings::default() };
    for (history, told) in [(4096, 16), (8, 7), (1, 1), (0, 0)] {
        let mut case = Case::new(1, false, &shape(history));
        let (there, back) =
            (From::new(HOST, case.at.node(), case.at.b()), From::new(case.b, case.at.b(), case.at.node()));
        for _ in 0..40 {
            case.opens(HOST, &there.udp(123, 123, b"time?"), case.b);
            case.passes(case.b, &back.udp(123, 123, b"late"), HOST);
            case.passes(HOST, &there.udp(123, 123, b"how late?"), case.b);
            case.time_passes(Duration::from_secs(121), 1);
        }
        let found = case.rig.find_flows(&tuple(&there, 123, 123, UDP));
        assert_eq!(found.len(), told, "of a history of {history}");
        assert!(found.windows(2).all(|pair| pair[0].facts.opened > pair[1].facts.opened), "the newest first");
        case.finish();
    }
}

//! TCP, state by state: handshakes, SYNs where none belongs, resets, and ends that go their own way.

use std::time::Duration;

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::PortId;
use podgate_tests::frames::From;

use crate::case::{Case, each};
use crate::cluster::*;
use crate::craft::segment_with;

const PORTS: (u16, u16) = (1000, 80);
const BACK: (u16, u16) = (80, 1000);

/// Is it the client's, and what is in it: flags, sequence and acknowledgement number.
type Said = (bool, &'static str, u32, u32);

/// How far a connection has come, and the segments from one to the next.
const LIFE: [(&str, Option<Said>); 7] = [
    ("SynSent", None),
    ("SynReceived", Some((false, "SA", 999, 1000))),
    ("Established", Some((true, "A", 1000, 1000))),
    ("FinWait", Some((true, "FA", 1000, 1000))),
    ("CloseWait", Some((false, "A", 1000, 1001))),
    ("LastAck", Some((false, "FA", 1000, 1001))),
    ("TimeWait", Some((true, "A", 1001, 1001))),
];

/// A connection in one of these states, by its place in `LIFE`; 7 is one that was reset.
#[track_caller]
fn reach(case: &mut Case, state: usize) {
    let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
    case.opens(a, &there.tcp(1000, 80, "S"), b);
    let steps = if state == 7 { &LIFE[..3] } else { &LIFE[..=state] };
    for (is_client, flags, sequence, acknowledgement) in steps.iter().filter_map(|(_, step)| *step) {
        match is_client {
            true => case.passes(a, &there.segment(PORTS, flags, sequence, acknowledgement), b),
            false => case.passes(b, &back.segment(BACK, flags, sequence, acknowledgement), a),
        }
    }
    if state == 7 {
        case.passes(a, &there.segment(PORTS, "R", 1000, 0), b);
    }
}

/// What the two ends say next in that state.
#[track_caller]
fn goes_on(case: &mut Case, state: usize) {
    let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
    match LIFE.get(state + 1) {
        Some((_, Some((true, flags, sequence, acknowledgement)))) => {
            case.passes(a, &there.segment(PORTS, flags, *sequence, *acknowledgement), b);
        }
        Some((_, Some((false, flags, sequence, acknowledgement)))) => {
            case.passes(b, &back.segment(BACK, flags, *sequence, *acknowledgement), a);
        }
        // Over, but for what is still on its way.
        _ => case.passes(b, &back.segment(BACK, "FA", 1000, 1001), a),
    }
}

fn states() -> impl Iterator<Item = usize> {
    0..=LIFE.len()
}

/// Before anybody has answered, and once it is over, a SYN the other way is a connection of its own.
fn gives_way(state: usize) -> bool {
    matches!(state, 0 | 6 | 7)
}

#[test]
fn a_handshake_is_followed_step_by_step() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.drops(b, &back.segment(BACK, "SA", 999, 5), DropReason::StrayTcp);
        case.drops(b, &back.segment(BACK, "RA", 0, 5), DropReason::TcpReset);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        for flags in ["F", "", "P", "FP"] {
            case.drops(b, &back.tcp(80, 1000, flags), DropReason::StrayTcp);
            case.drops(a, &there.tcp(1000, 80, flags), DropReason::StrayTcp);
        }
        case.finish();
    });
}

#[test]
fn a_syn_the_other_way_that_policy_denies_disturbs_no_state() {
    each(|mut case| {
        case.policies([deny_ingress(app("a"))]);
        for state in states() {
            reach(&mut case, state);
            let (back, b) = (case.b_to_a(), case.b);
            for sequence in [999, 77, 1000, 1001, 4_000_000_000] {
                case.drops(b, &back.segment(BACK, "S", sequence, 0), DropReason::PolicyIngress);
            }
            goes_on(&mut case, state);
            ends(&mut case);
        }
        case.finish();
    });
}

#[test]
fn a_syn_the_other_way_that_policy_admits_replaces_only_what_is_not_open() {
    each(|mut case| {
        for state in states() {
            reach(&mut case, state);
            let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
            let syn = back.segment(BACK, "S", 77, 0);
            if gives_way(state) {
                case.cutting(1).opens(b, &syn, a);
                // The entry is the new connection's.
                case.passes(a, &there.segment(PORTS, "SA", 5, 78), b);
                case.passes(b, &back.segment(BACK, "A", 78, 6), a);
            } else {
                case.passes(b, &syn, a);
                goes_on(&mut case, state);
            }
            ends(&mut case);
        }
        case.finish();
    });
}

#[test]
fn a_syn_the_same_way_is_judged_in_every_state() {
    each(|mut case| {
        for state in states() {
            case.policies([]);
            reach(&mut case, state);
            let (there, a, b) = (case.a_to_b(), case.a, case.b);
            let syn = there.segment(PORTS, "S", 77, 0);
            if matches!(state, 6 | 7) {
                case.cutting(1).opens(a, &syn, b);
            } else {
                // In the first state it may as well have begun with this one; in the others their ends know better.
                case.passes(a, &syn, b);
            }
            case.policies([deny_egress(app("a"))]);
            // What it would open is denied, and so is what is open.
            case.cutting(1).drops(a, &syn, DropReason::PolicyRevoked);
        }
        case.finish();
    });
}

/// Whatever a state does with them: no SYN with data or FIN gets past the judge, or makes more of itself than a SYN.
#[test]
fn a_syn_may_carry_data_and_nothing_else() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.policies([deny_ingress(app("a"))]);
        let with_data = |from: &From, ports, flags| segment_with(from, ports, flags, (999, 0), &[], b"early");
        case.drops(b, &with_data(&back, BACK, "S"), DropReason::PolicyIngress);
        for flags in ["SF", "SFP", "SR", "SFR"] {
            case.drops(a, &with_data(&there, PORTS, flags), DropReason::StrayTcp);
        }
        case.opens(a, &with_data(&there, PORTS, "S"), b);
        // Taken, all of it or none (RFC 7413).
        case.drops(b, &back.segment(BACK, "SA", 999, 1006), DropReason::StrayTcp);
        case.passes(b, &back.segment(BACK, "SA", 999, 1005), a);
        case.passes(a, &there.segment(PORTS, "A", 1005, 1000), b);
        for state in 2..6 {
            let (from, ports) = if state % 2 == 0 { (there, PORTS) } else { (back, BACK) };
            case.drops(from.port, &with_data(&from, ports, "SF"), DropReason::StrayTcp);
            case.drops(from.port, &with_data(&from, ports, "SFA"), DropReason::StrayTcp);
            case.drops(from.port, &with_data(&from, ports, "SFR"), DropReason::TcpReset);
        }
        case.passes(b, &back.segment(BACK, "A", 1000, 1005), a);
        // Urgent, ECN and push do not make it another thing.
        case.opens(a, &segment_with(&there, (1001, 80), "SPU", (999, 0), &[], b""), b);
        case.finish();
    });
}

#[test]
fn both_ends_may_open_at_once() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.cutting(1).opens(b, &back.tcp(80, 1000, "S"), a);
        case.passes(b, &back.segment(BACK, "SA", 999, 1000), a);
        case.passes(a, &there.segment(PORTS, "SA", 999, 1000), b);
        case.passes(b, &back.segment(BACK, "A", 1000, 1000), a);
        case.passes(a, &segment_with(&there, PORTS, "PA", (1000, 1000), &[], b"data"), b);
        case.finish();
    });
}

/// Each end's resets against its own numbers: what is believed, what only passes, and what is dropped. The window is 65,000.
#[test]
fn a_reset_ends_a_connection_only_with_its_numbers() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        for (from, ports, to) in [(there, PORTS, b), (back, BACK, a)] {
            for sequence in [0, 900, 999, 66_001, 200_000, u32::MAX] {
                reach(&mut case, 2);
                case.drops(from.port, &from.segment(ports, "R", sequence, 0), DropReason::TcpReset);
                case.drops(from.port, &from.segment(ports, "RA", sequence, 1000), DropReason::TcpReset);
                goes_on(&mut case, 2);
                ends(&mut case);
            }
            for sequence in [1001, 2000, 66_000] {
                reach(&mut case, 2);
                // Within the window: its receiver will challenge it, and nothing ends here.
                case.passes(from.port, &from.segment(ports, "R", sequence, 0), to);
                case.time_passes(Duration::from_secs(60), 0);
                goes_on(&mut case, 2);
                ends(&mut case);
            }
            for flags in ["R", "RA", "RP"] {
                reach(&mut case, 2);
                case.passes(from.port, &from.segment(ports, flags, 1000, 1000), to);
                case.time_passes(Duration::from_secs(11), 1);
                case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
                case.drops(from.port, &from.segment(ports, "R", 1000, 0), DropReason::StrayTcp);
            }
        }
        case.finish();
    });
}

/// Of the answers to a SYN, the refusal counts if it acknowledges it; the client may end its own attempt.
#[test]
fn a_reset_during_the_handshake_must_be_an_answer() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        reach(&mut case, 0);
        for (flags, sequence, acknowledgement) in
            [("R", 0, 0), ("R", 1000, 0), ("RA", 0, 999), ("RA", 0, 1001)]
        {
            case.drops(b, &back.segment(BACK, flags, sequence, acknowledgement), DropReason::TcpReset);
        }
        // Who can write the client's address could end it thus, so it ends nothing: the next SYN opens anew in any case.
        case.passes(a, &there.segment(PORTS, "R", 1000, 0), b);
        case.passes(b, &back.segment(BACK, "RA", 0, 1000), a);
        case.time_passes(Duration::from_secs(10), 1);
        for (is_client, sequence, passes) in
            [(true, 1000, true), (true, 5, false), (false, 1000, true), (false, 5, false)]
        {
            reach(&mut case, 1);
            let (from, ports, to) = if is_client { (there, PORTS, b) } else { (back, BACK, a) };
            let reset = from.segment(ports, "R", sequence, 0);
            if passes {
                case.passes(from.port, &reset, to);
                case.time_passes(Duration::from_secs(10), 1);
            } else {
                case.drops(from.port, &reset, DropReason::TcpReset);
                ends(&mut case);
            }
        }
        case.finish();
    });
}

/// One end is done and the other one is not: as long as it sends, the connection lives, however long that is.
#[test]
fn a_half_closed_connection_lives_as_long_as_the_other_end_sends() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        reach(&mut case, 4);
        let mut sent = 1000;
        for _ in 0..30 {
            case.time_passes(Duration::from_secs(59), 0);
            case.passes(b, &segment_with(&back, BACK, "PA", (sent, 1001), &[], &[7; 1000]), a);
            sent += 1000;
            case.passes(a, &there.segment(PORTS, "A", 1001, sent), b);
        }
        // Asking whether the other one is still there is as good as data.
        case.time_passes(Duration::from_secs(59), 0);
        case.passes(b, &back.segment(BACK, "A", sent - 1, 1001), a);
        case.time_passes(Duration::from_secs(59), 0);
        case.passes(a, &there.segment(PORTS, "A", 1001, sent), b);
        case.time_passes(Duration::from_secs(60), 1);
        case.drops(b, &segment_with(&back, BACK, "PA", (sent, 1001), &[], b"late"), DropReason::StrayTcp);
        case.finish();
    });
}

/// A server may answer a SYN twice with different numbers (SYN cookies), and the client takes the answer that reaches it
/// first, which is not always the one that passes here last.
#[test]
fn a_connection_whose_ends_agree_goes_on_whatever_passed_here_last() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.segment(BACK, "SA", 500_000, 1000), a);
        case.passes(b, &back.segment(BACK, "SA", 999, 1000), a);
        case.passes(a, &there.segment(PORTS, "A", 1000, 500_001), b);
        talks_and_resets(&mut case, (1000, 500_001));
        case.finish();
    });
}

/// A connection is started anew while somebody forges SYNs of its client.
#[test]
fn a_restart_survives_a_forged_syn() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        for state in 2..6 {
            reach(&mut case, state);
            case.passes(a, &there.segment(PORTS, "S", 70_000_000, 0), b);
            case.passes(a, &there.segment(PORTS, "S", 66_666_666, 0), b);
            case.passes(b, &back.segment(BACK, "SA", 800_000_000, 70_000_001), a);
            case.passes(a, &there.segment(PORTS, "A", 70_000_001, 800_000_001), b);
            talks_and_resets(&mut case, (70_000_001, 800_000_001));
        }
        case.finish();
    });
}

/// Two ends that go on from these numbers for longer than any time but that of an open connection. What ICMP errors and
/// resets are held against then is theirs.
#[track_caller]
fn talks_and_resets(case: &mut Case, (mut client, mut server): (u32, u32)) {
    let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
    for _ in 0..5 {
        let question = segment_with(&there, PORTS, "PA", (client, server), &[], b"question");
        case.passes(a, &question, b);
        client += 8;
        case.passes(b, &segment_with(&back, BACK, "PA", (server, client), &[], b"answer"), a);
        server += 6;
        case.passes(a, &there.segment(PORTS, "A", client, server), b);
        case.passes(b, &back.unreachable(&question), a);
        case.time_passes(Duration::from_secs(100), 0);
    }
    case.drops(b, &back.segment(BACK, "R", server.wrapping_sub(1), 0), DropReason::TcpReset);
    case.passes(b, &back.segment(BACK, "R", server, 0), a);
    case.time_passes(Duration::from_secs(10), 1);
}

/// The connection ends by its age, whatever its state is.
#[track_caller]
fn ends(case: &mut Case) {
    let open = case.connections() as i64;
    case.time_passes(Duration::from_secs(432_000), open);
    let (there, a) = (case.a_to_b(), case.a);
    case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
}

#[test]
fn every_way_has_its_own_connection() {
    each(|mut case| {
        // The same numbers to three peers; a reset of one says nothing about the others.
        let ways = case.ways();
        let say =
            |case: &mut Case, from: &From, frame: Vec<u8>, to: PortId| case.passes(from.port, &frame, to);
        for (there, back) in ways {
            case.opens(there.port, &there.tcp(1000, 80, "S"), back.port);
            say(&mut case, &back, back.tcp(80, 1000, "SA"), there.port);
            say(&mut case, &there, there.tcp(1000, 80, "A"), back.port);
        }
        let [(_, first), (second, other), _] = ways;
        say(&mut case, &first, first.segment(BACK, "R", 1000, 0), second.port);
        case.time_passes(Duration::from_secs(10), 1);
        say(&mut case, &second, second.tcp(1000, 80, "A"), other.port);
        say(&mut case, &other, other.tcp(80, 1000, "A"), second.port);
        case.finish();
    });
}

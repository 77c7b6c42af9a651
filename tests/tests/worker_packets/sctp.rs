//! SCTP: associations, their tags, and both ends opening at once.

use std::time::Duration;

use podgate_dataplane::drop_reason::DropReason;
use podgate_tests::frames::chunk::*;

use crate::case::{Case, each};
use crate::cluster::*;
use crate::craft::{sctp_chunks, sctp_init};

const PORTS: (u16, u16) = (1000, 38_412);
const BACK: (u16, u16) = (38_412, 1000);

/// `a` has chosen this tag.
const A: u32 = 0xaaaa;
/// And `b` this one.
const B: u32 = 0xbbbb;

/// A chunk without a body, from `a` with the tag that `b` chose.
fn from_a(case: &Case, chunk: u8) -> Vec<u8> {
    sctp_chunks(&case.a_to_b(), PORTS, B, &[chunk, 0, 0, 4])
}

fn from_b(case: &Case, chunk: u8) -> Vec<u8> {
    sctp_chunks(&case.b_to_a(), BACK, A, &[chunk, 0, 0, 4])
}

fn init_of_a(case: &Case) -> Vec<u8> {
    sctp_init(&case.a_to_b(), PORTS, INIT, 0, A)
}

fn init_of_b(case: &Case) -> Vec<u8> {
    sctp_init(&case.b_to_a(), BACK, INIT, 0, B)
}

fn init_ack_of_a(case: &Case) -> Vec<u8> {
    sctp_init(&case.a_to_b(), PORTS, INIT_ACK, B, A)
}

fn init_ack_of_b(case: &Case) -> Vec<u8> {
    sctp_init(&case.b_to_a(), BACK, INIT_ACK, A, B)
}

#[track_caller]
fn opens(case: &mut Case) {
    let (a, b) = (case.a, case.b);
    case.opens(a, &init_of_a(case), b);
    case.passes(b, &init_ack_of_b(case), a);
    case.passes(a, &from_a(case, COOKIE_ECHO), b);
    case.passes(b, &from_b(case, COOKIE_ACK), a);
    talks(case);
}

#[track_caller]
fn talks(case: &mut Case) {
    let (a, b) = (case.a, case.b);
    case.passes(a, &from_a(case, DATA), b);
    case.passes(b, &from_b(case, DATA), a);
    // It is open: it outlives the time of one that is not.
    case.time_passes(Duration::from_secs(200), 0);
    case.passes(a, &from_a(case, DATA), b);
    case.passes(b, &from_b(case, DATA), a);
}

#[test]
fn an_association_from_init_to_shutdown() {
    each(|mut case| {
        case.policies([deny_ingress(app("a"))]);
        opens(&mut case);
        let (a, b) = (case.a, case.b);
        case.passes(a, &from_a(&case, SHUTDOWN), b);
        case.passes(b, &from_b(&case, SHUTDOWN_ACK), a);
        case.passes(a, &from_a(&case, SHUTDOWN_COMPLETE), b);
        case.time_passes(Duration::from_secs(10), 1);
        case.drops(b, &from_b(&case, DATA), DropReason::StraySctp);
        case.finish();
    });
}

#[test]
fn packets_bear_the_tag_of_their_association() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.opens(a, &init_of_a(&case), b);
        case.drops(a, &from_a(&case, DATA), DropReason::StraySctp);
        case.drops(b, &sctp_init(&back, BACK, INIT_ACK, 0, B), DropReason::StraySctp);
        case.drops(b, &sctp_init(&back, BACK, INIT_ACK, B, B), DropReason::StraySctp);
        case.passes(b, &init_ack_of_b(&case), a);
        case.drops(a, &sctp_chunks(&there, PORTS, A, &[COOKIE_ECHO, 0, 0, 4]), DropReason::StraySctp);
        case.passes(a, &from_a(&case, COOKIE_ECHO), b);
        case.passes(b, &from_b(&case, COOKIE_ACK), a);
        for chunk in (0..=15).filter(|chunk| *chunk != INIT) {
            for tag in [0, 1, A] {
                let frame = sctp_chunks(&there, PORTS, tag, &[chunk, 0, 0, 4, 0, 0, 0, 0]);
                case.drops(a, &frame, DropReason::StraySctp);
            }
            let frame = sctp_chunks(&back, BACK, B, &[chunk, 0, 0, 4, 0, 0, 0, 0]);
            case.drops(b, &frame, DropReason::StraySctp);
        }
        // An INIT with a tag, and one that chooses none (RFC 9260, 8.5.1 and 3.3.2).
        case.drops(a, &sctp_init(&there, PORTS, INIT, B, A), DropReason::StraySctp);
        case.drops(a, &sctp_init(&there, PORTS, INIT, 0, 0), DropReason::StraySctp);
        talks(&mut case);
        case.finish();
    });
}

#[test]
fn aborts_end_an_association_by_either_tag() {
    each(|mut case| {
        let (back, a, b) = (case.b_to_a(), case.a, case.b);
        // Nobody listens.
        case.opens(a, &init_of_a(&case), b);
        case.drops(b, &sctp_chunks(&back, BACK, B, &[ABORT, 0, 0, 4]), DropReason::StraySctp);
        case.passes(b, &from_b(&case, ABORT), a);
        case.time_passes(Duration::from_secs(10), 1);
        // The receiver's tag; the sender's own with the T bit; behind data.
        for (tag, chunks) in [
            (A, &[ABORT, 0, 0, 4][..]),
            (B, &[ABORT, 1, 0, 4]),
            (A, &[DATA, 3, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, ABORT, 0, 0, 4]),
        ] {
            opens(&mut case);
            case.passes(b, &sctp_chunks(&back, BACK, tag, chunks), a);
            case.time_passes(Duration::from_secs(10), 1);
            case.drops(a, &from_a(&case, DATA), DropReason::StraySctp);
        }
        opens(&mut case);
        case.drops(b, &sctp_chunks(&back, BACK, A, &[ABORT, 1, 0, 4]), DropReason::StraySctp);
        talks(&mut case);
        case.finish();
    });
}

#[test]
fn an_init_the_other_way_is_judged_and_ends_nothing() {
    each(|mut case| {
        case.policies([deny_ingress(app("a"))]);
        let (back, a, b) = (case.b_to_a(), case.a, case.b);
        case.drops(b, &init_of_b(&case), DropReason::PolicyIngress);
        case.opens(a, &init_of_a(&case), b);
        case.drops(b, &init_of_b(&case), DropReason::PolicyIngress);
        case.passes(b, &init_ack_of_b(&case), a);
        case.drops(b, &init_of_b(&case), DropReason::PolicyIngress);
        case.passes(a, &from_a(&case, COOKIE_ECHO), b);
        case.drops(b, &init_of_b(&case), DropReason::PolicyIngress);
        case.passes(b, &from_b(&case, COOKIE_ACK), a);
        case.drops(b, &init_of_b(&case), DropReason::PolicyIngress);
        case.policies([]);
        case.passes(b, &init_of_b(&case), a);
        case.passes(b, &sctp_init(&back, BACK, INIT, 0, 0xcccc), a);
        talks(&mut case);
        case.finish();
    });
}

/// RFC 9260, 5.2.1: each end answers the other's INIT with the tag of its own, and whichever cookie comes back first opens the
/// association. Whatever is lost on the way, behind the gateway, is sent again as it was.
#[test]
fn both_ends_may_open_at_once_whatever_is_sent_again() {
    // What is sent again after each of the five packets that it takes.
    for again in 0..2_u32.pow(5) {
        let has = |bit: u32| again & 1 << bit != 0;
        let mut case = Case::new(2, again % 2 == 1, &podgate_dataplane::worker::WorkerSettings::default());
        let (a, b) = (case.a, case.b);
        case.opens(a, &init_of_a(&case), b);
        // Not reached by it, the other end opens too.
        case.passes(b, &init_of_b(&case), a);
        for bit in 0..5 {
            if has(bit) {
                case.passes(a, &init_of_a(&case), b);
            }
            match bit {
                0 => case.passes(a, &init_ack_of_a(&case), b),
                1 => case.passes(b, &from_b(&case, COOKIE_ECHO), a),
                // Lost behind the gateway, and so sent again.
                2 => case.passes(b, &from_b(&case, COOKIE_ECHO), a),
                3 => case.passes(a, &from_a(&case, COOKIE_ACK), b),
                _ => talks(&mut case),
            }
        }
        case.finish();
    }
}

/// Both INITs are answered, and both cookies come back.
#[test]
fn both_ends_may_open_at_once_and_both_finish() {
    each(|mut case| {
        let (a, b) = (case.a, case.b);
        case.opens(a, &init_of_a(&case), b);
        case.passes(b, &init_of_b(&case), a);
        case.passes(a, &init_ack_of_a(&case), b);
        case.passes(b, &init_ack_of_b(&case), a);
        case.passes(a, &from_a(&case, COOKIE_ECHO), b);
        case.passes(b, &from_b(&case, COOKIE_ECHO), a);
        case.passes(a, &from_a(&case, COOKIE_ACK), b);
        case.passes(b, &from_b(&case, COOKIE_ACK), a);
        talks(&mut case);
        assert_eq!(case.connections(), 1);
        case.finish();
    });
}

/// An INIT that nobody answered does not stand in the way of one that comes from the other end.
#[test]
fn an_attempt_that_failed_does_not_stop_the_other_end() {
    each(|mut case| {
        let (a, b) = (case.a, case.b);
        case.opens(a, &sctp_init(&case.a_to_b(), PORTS, INIT, 0, 0xdead), b);
        case.time_passes(Duration::from_secs(60), 0);
        case.passes(b, &init_of_b(&case), a);
        case.passes(a, &init_ack_of_a(&case), b);
        case.passes(b, &from_b(&case, COOKIE_ECHO), a);
        case.passes(a, &from_a(&case, COOKIE_ACK), b);
        talks(&mut case);
        case.finish();
    });
}

#[test]
fn a_restart_takes_new_tags() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        opens(&mut case);
        case.passes(a, &sctp_init(&there, PORTS, INIT, 0, 0x33), b);
        case.passes(b, &sctp_init(&back, BACK, INIT_ACK, 0x33, 0x44), a);
        case.passes(a, &from_a(&case, DATA), b);
        case.passes(a, &sctp_chunks(&there, PORTS, 0x44, &[COOKIE_ECHO, 0, 0, 4]), b);
        case.drops(a, &from_a(&case, DATA), DropReason::StraySctp);
        case.passes(b, &sctp_chunks(&back, BACK, 0x33, &[COOKIE_ACK, 0, 0, 4]), a);
        case.passes(a, &sctp_chunks(&there, PORTS, 0x44, &[DATA, 0, 0, 4]), b);
        case.finish();
    });
}

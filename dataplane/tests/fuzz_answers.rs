//! Fuzz targets of everything that writes packets: answers to ARP, neighbour discovery and ping, ICMP errors,
//! forwarding, checksum completion. What goes out must be understood by the parser, or by etherparse, and say what it
//! should; and nothing panics.

#![allow(clippy::unwrap_used, clippy::panic)] // tests

mod corpus;

use af_xdp::{FramePool, Region};
use bolero::check;
use podgate_dataplane::checksum::{self, complete};
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::flow::Evidence;
use podgate_dataplane::icmp::{MAX_ERROR, Problem, echo_reply, error};
use podgate_dataplane::neighbor::{GATEWAY_V4, GATEWAY_V6, Outcome, answer_arp, answer_nd};
use podgate_dataplane::packet::{ChecksumState, Headers};
use podgate_dataplane::parse::{Parsed, parse, quoted};
use podgate_dataplane::reset::{MAX_RESET, reset};
use podgate_dataplane::rewrite::forward;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

fn pod_a() -> [IpAddr; 2] {
    [IpAddr::from([10, 244, 0, 10]), IpAddr::from([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xa])]
}

fn headers(frame: &[u8]) -> Option<Headers> {
    match parse(frame, frame.len()) {
        Ok(Parsed::Ip(headers)) => Some(headers),
        _ => None,
    }
}

/// Both resolvers get every frame, whatever the parser thinks it is.
fn resolve(frame: &[u8]) {
    let own = |address| pod_a().contains(&address);
    let arp = answer_arp(frame, GATEWAY_MAC, own, |_| true);
    let nd = answer_nd(frame, GATEWAY_MAC, own, |_| true);
    assert!(arp.is_err() || nd.is_err(), "a frame is one or the other");
    for (outcome, length) in [(arp, 42), (nd, 86)] {
        if let Ok(Outcome::Answer(answer)) = outcome {
            let answer = answer.as_bytes();
            assert_eq!((answer.len(), &answer[6..12]), (length, &GATEWAY_MAC[..]));
            etherparse::SlicedPacket::from_ethernet(answer).unwrap();
            // The answer claims an address that is not the asker's.
            let claimed = if length == 42 {
                IpAddr::from(<[u8; 4]>::try_from(&answer[28..32]).unwrap())
            } else {
                IpAddr::from(<[u8; 16]>::try_from(&answer[62..78]).unwrap())
            };
            assert!(!own(claimed));
        }
    }
}

/// What the gateway does with an IP packet.
fn handle(frame: &[u8], pool: &mut FramePool) {
    let Some(before) = headers(frame) else { return };

    let mut answer = frame.to_vec();
    if echo_reply(&mut answer, &before) {
        let reply = headers(&answer).unwrap_or_else(|| panic!("unreadable reply to {frame:02x?}"));
        assert_eq!((reply.source, reply.destination), (before.destination, before.source));
    } else {
        assert_eq!(answer, frame);
    }

    let _ = Evidence::of(frame, &before);
    let mut out = [0; MAX_RESET];
    if let Some(length) = reset(frame, &before, &mut out) {
        let told = headers(&out[..length]).unwrap_or_else(|| panic!("unreadable reset to {frame:02x?}"));
        assert_eq!((told.source, told.destination), (before.destination, before.source));
        assert_eq!(reset(&out[..length], &told, &mut [0; MAX_RESET]), None, "a reset is not answered");
    }

    for problem in [Problem::TimeExceeded, Problem::TooBig { mtu: 1280 }, Problem::Prohibited] {
        let source = if before.is_ipv6() { GATEWAY_V6.into() } else { GATEWAY_V4.into() };
        let mut out = [0; MAX_ERROR];
        if let Some(length) = error(problem, frame, &before, source, &mut out) {
            match parse(&out[..length], length) {
                Ok(Parsed::Ip(told)) => {
                    assert_eq!((told.source, told.destination), (source.into(), before.source));
                    let about = quoted(&out, &told).unwrap();
                    assert_eq!(
                        (about.source, about.destination),
                        (before.source.into(), before.destination.into())
                    );
                }
                // A quote without ports says too little for us: what we quote may be any protocol.
                other => assert_eq!(other, Err(DropReason::IcmpQuote), "about {frame:02x?}"),
            }
        }
    }

    let state = checksum::state(frame, &before);
    let mut sent = frame.to_vec();
    match forward(&mut sent, &before, GATEWAY_MAC, POD_MAC) {
        Err(reason) => {
            assert_eq!((reason, sent.as_slice()), (DropReason::TtlExpired, frame));
            return;
        }
        Ok(()) => {
            let after = headers(&sent).unwrap_or_else(|| panic!("unreadable after rewriting {frame:02x?}"));
            assert_eq!(after, Headers { hop_limit: before.hop_limit - 1, ..before });
            assert_eq!(checksum::state(&sent, &after), state);
        }
    }
    if state == ChecksumState::Partial {
        let region = pool.region().clone();
        let mut chain = pool.copy_in(&sent).unwrap();
        complete(&region, &mut chain, &before);
        let done = chain.to_vec(&region);
        pool.put_chain(chain);
        let changed = done.iter().zip(&sent).filter(|(a, b)| a != b).count();
        assert!(done.len() == sent.len() && changed <= 4);
    }
}

#[test]
fn corpus_of_the_answers() {
    let mut pool = Region::new(4).unwrap().1.pool(4);
    for frame in corpus::frames() {
        for length in 0..=frame.len() {
            resolve(&frame[..length]);
            handle(&frame[..length], &mut pool);
        }
    }
}

#[test]
fn fuzz_answers_bytes() {
    check!().with_iterations(200_000).for_each(resolve);
}

#[test]
fn fuzz_answers_near_misses() {
    let pool = Mutex::new(Region::new(4).unwrap().1.pool(4));
    check!().with_iterations(300_000).with_type::<corpus::Mutation>().for_each(|mutation| {
        let frame = corpus::mutate(mutation);
        resolve(&frame);
        handle(&frame, &mut pool.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

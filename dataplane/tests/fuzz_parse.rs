//! Fuzz targets of the parser: the hand-made path against etherparse, and what every answer promises.
//!
//! Under `cargo test` each target runs the corpus and a bounded number of random inputs; under `cargo bolero`
//! it runs for as long as one likes.

mod corpus;

use bolero::check;
use podgate_dataplane::packet::{Headers, Transport};
use podgate_dataplane::parse::{Parsed, general, glimpse, parse, plain, quoted};
use std::net::IpAddr;

/// Everything that must hold of any frame.
fn examine(frame: &[u8], total_len: usize) {
    let reference = general(frame, total_len);
    if let Some(headers) = plain(frame, total_len) {
        assert_eq!(reference, Ok(Parsed::Ip(headers)), "the fast path saw something else in {frame:02x?}");
    }
    assert_eq!(parse(frame, total_len), reference);
    let _ = glimpse(frame);
    if let Ok(Parsed::Ip(headers)) = reference {
        promises(frame, total_len.max(frame.len()), &headers);
    }
}

fn promises(frame: &[u8], total_len: usize, headers: &Headers) {
    let offset = usize::from(headers.transport_offset);
    assert!(offset <= frame.len() && offset <= headers.packet_len as usize);
    assert!(headers.packet_len as usize <= total_len);
    // An IPv4-mapped IPv6 address would be taken for an IPv4 one.
    let is_v6 = frame[12..14] == [0x86, 0xdd];
    for address in [headers.source, headers.destination] {
        assert_eq!(address.is_ipv6(), is_v6);
        let address = IpAddr::from(address);
        assert!(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast());
    }
    let header_len = match headers.transport {
        Transport::Tcp(_) => 20,
        Transport::Sctp { .. } => 16,
        Transport::Other | Transport::Fragment => 0,
        _ => 8,
    };
    let is_later = headers.fragment.is_some_and(|fragment| !fragment.is_first());
    assert_eq!(is_later, headers.transport == Transport::Fragment);
    if let Some(fragment) = headers.fragment {
        let length = usize::from(fragment.end() - fragment.start());
        let behind = headers.packet_len as usize - offset;
        assert!(fragment.start() % 8 == 0 && length > 0 && (fragment.is_last() || length % 8 == 0));
        assert!(!fragment.is_first() || !fragment.is_last(), "a whole packet is no fragment");
        assert!(if is_later { length == behind } else { length >= behind });
        assert_ne!(headers.transport, Transport::IcmpError);
    }
    assert!(offset + header_len <= frame.len().min(headers.packet_len as usize));
    if matches!(headers.transport, Transport::Tcp(_) | Transport::Udp | Transport::Sctp { .. }) {
        let ports = (
            u16::from_be_bytes([frame[offset], frame[offset + 1]]),
            u16::from_be_bytes([frame[offset + 2], frame[offset + 3]]),
        );
        assert_eq!((headers.source_port, headers.destination_port), ports);
    }
    let about = quoted(frame, headers);
    assert_eq!(about.is_some(), headers.transport == Transport::IcmpError);
    if let Some(about) = about {
        assert_eq!(headers.destination, about.source.into());
    }
}

#[test]
fn corpus_of_the_parser() {
    for frame in corpus::frames() {
        for length in 0..=frame.len() {
            examine(&frame[..length], length);
            examine(&frame[..length], frame.len());
        }
    }
}

#[test]
fn fuzz_parse_bytes() {
    check!().with_iterations(200_000).for_each(|bytes: &[u8]| examine(bytes, bytes.len()));
}

#[test]
fn fuzz_parse_near_misses() {
    check!().with_iterations(1_000_000).with_type::<(corpus::Mutation, u8)>().for_each(|(mutation, more)| {
        let frame = corpus::mutate(mutation);
        examine(&frame, frame.len());
        examine(&frame, frame.len() + usize::from(*more) * 16);
    });
}

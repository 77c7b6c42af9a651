//! IPv4 options and IPv6 extension headers: whatever stands between, the ports that are judged are those that the receiver will
//! see, and what could make it see others is dropped.

use podgate_config::model::{Protocol, Selector};
use podgate_dataplane::drop_reason::DropReason;
use podgate_tests::frames::From;

use crate::case::{Case, each};
use crate::cluster::*;
use crate::craft::{repair_v4, segment_with, with_extensions, with_options};

/// Nobody may send to the port that options or a payload look like, and everybody to the one that is meant.
fn guarded(case: &mut Case) -> (From, From) {
    case.policies([only("a", "b", &[(Protocol::Tcp, 80), (Protocol::Udp, 80), (Protocol::Sctp, 80)])]);
    (case.a_to_b(), case.b_to_a())
}

/// A packet of each protocol with ports, to this one.
fn packets(from: &From, source: u16, port: u16) -> [Vec<u8>; 3] {
    [from.tcp(source, port, "S"), from.udp(source, port, &[0, 80, 0, 80]), from.sctp(source, port, 1)]
}

/// A transport header with the port that is allowed, as options.
const LURE: [u8; 8] = [0x94, 8, 0, 80, 0, 80, 0, 80];

#[test]
fn options_of_every_length_do_not_shift_the_ports() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        let (there, back) = guarded(&mut case);
        let (a, b) = (case.a, case.b);
        for words in 1..=10 {
            let nothing = vec![1; 4 * words];
            let end_at_once = vec![0; 4 * words];
            // The allowed port wherever a parser looks that takes the header for shorter than it is.
            let lure = LURE.repeat(words / 2);
            for options in
                [nothing, end_at_once, lure].into_iter().filter(|options| options.len() == 4 * words)
            {
                for (number, protocol) in packets(&there, 1000, 81).iter().enumerate() {
                    let frame = with_options(protocol, &options);
                    assert_eq!(frame[14], 0x45 + words as u8);
                    case.drops(a, &frame, DropReason::PolicyIngress);
                    let source = 1000 + (words * 10 + number) as u16;
                    if options[0] == 1 {
                        let frame = with_options(&packets(&there, source, 80)[number], &options);
                        case.opens(a, &frame, b);
                        // The answer finds it, with options of its own or without.
                        let answer = match number {
                            0 => back.tcp(80, source, "SA"),
                            1 => back.udp(80, source, b"x"),
                            _ => back.sctp(80, source, 2),
                        };
                        case.passes(b, &with_options(&answer, &options), a);
                        case.passes(b, &answer, a);
                    }
                }
            }
        }
        case.finish();
    });
}

#[test]
fn options_that_route_are_dropped_and_others_pass_as_they_are() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        let (there, back) = guarded(&mut case);
        let (a, b) = (case.a, case.b);
        let route = [3, 7, 4, 10, 9, 9, 9];
        let timestamp = [68, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let harmless: [&[u8]; 8] = [
            &[7, 7, 4, 0, 0, 0, 0],                // record route
            &timestamp,                            // timestamp
            &[148, 4, 0, 0],                       // router alert
            &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0], // security
            &[136, 4, 0, 9],                       // stream
            &[1, 1, 148, 4, 0, 0, 0, 131],         // a route behind the end is none
            &[25, 2],                              // unknown, empty
            &[
                158, 40, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80,
                0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80, 0, 80,
            ],
        ];
        for (number, options) in harmless.into_iter().enumerate() {
            case.drops(a, &with_options(&there.udp(1000, 81, b"x"), options), DropReason::PolicyIngress);
            case.opens(a, &with_options(&there.udp(2000 + number as u16, 80, b"x"), options), b);
        }
        for kind in [131, 137] {
            let mut routed = route.to_vec();
            routed[0] = kind;
            routed[1] = 7;
            let nops = [&[1, 1][..], &routed].concat();
            for options in [&routed, &nops, &vec![kind], &vec![kind, 3, 4]] {
                for from in [there, back] {
                    for frame in packets(&from, 1000, 80) {
                        case.drops(from.port, &with_options(&frame, options), DropReason::Ipv4Options);
                    }
                }
            }
        }
        // Longer than what is there, or than nothing.
        let malformed: [&[u8]; 6] =
            [&[7], &[7, 0, 0, 0], &[7, 1, 0, 0], &[7, 5, 0, 0], &[1, 1, 1, 148], &[68, 255, 5, 0]];
        for options in malformed {
            let options = if options.len() == 1 { &[1, 1, 1, 7] } else { options };
            case.drops(a, &with_options(&there.udp(1000, 80, b"x"), options), DropReason::Ipv4Options);
        }
        case.finish();
    });
}

#[test]
fn a_header_length_that_lies_is_dropped() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        let (there, _) = guarded(&mut case);
        let a = case.a;
        for frame in packets(&there, 1000, 80) {
            for words in 0..5 {
                let mut shorter = frame.clone();
                shorter[14] = 0x40 | words;
                case.drops(a, &shorter, DropReason::Ipv4Header);
            }
            for version in [0x05, 0x15, 0x55, 0x65, 0xf5] {
                let mut other = frame.clone();
                other[14] = version;
                case.drops(a, &other, DropReason::Ipv4Header);
            }
            // Longer than it is: the transport header would be taken for options, what is behind it for ports. The checksum
            // does not fit unless somebody means it.
            for words in 6..=15 {
                let mut longer = frame.clone();
                longer[14] = 0x40 | words;
                let reason = if 14 + 4 * usize::from(words) > frame.len() {
                    DropReason::Truncated
                } else {
                    DropReason::Ipv4Checksum
                };
                case.drops(a, &longer, reason);
            }
        }
        // Meant: ports 80 stand where a parser that knows no options would look, and 81 where they are.
        let mut lure =
            there.udp(1000, 80, &[1000_u16.to_be_bytes(), 81_u16.to_be_bytes(), [0, 8], [0, 0]].concat());
        lure[14] = 0x47;
        lure[34..42].fill(1);
        lure[34..38].copy_from_slice(&[148, 4, 0, 80]);
        repair_v4(&mut lure);
        case.drops(a, &lure, DropReason::PolicyIngress);
        case.finish();
    });
}

/// The device is asked to complete the checksum of the transport header where it really is.
#[test]
fn a_checksum_that_is_left_to_the_device_is_found_behind_options_and_extensions() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let longer: Vec<u8> = if case.at.six {
            with_extensions(&there.udp(1000, 53, b"query"), &[(60, &[1, 4, 0, 0, 0, 0])])
        } else {
            with_options(&there.udp(1000, 53, b"query"), &[148, 4, 0, 0])
        };
        let start = if case.at.six { 14 + 48 } else { 14 + 24 };
        let mut frame = longer;
        // The sum of the pseudo-header alone, as a kernel leaves it.
        let mut sum: u32 = frame[if case.at.six { 22..54 } else { 26..34 }]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        sum += 17 + 13;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[start + 6..start + 8].copy_from_slice(&(sum as u16).to_be_bytes());
        case.completing(start, 6);
        case.opens(a, &frame, b);
        case.finish();
    });
}

/// An extension header, as [`with_extensions`] takes it.
type Extension<'a> = (u8, &'a [u8]);

/// An option that fills a header up.
const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];

#[test]
fn extension_headers_do_not_shift_the_ports() {
    each(|mut case| {
        if !case.at.six {
            return case.finish();
        }
        let (there, back) = guarded(&mut case);
        let (a, b) = (case.a, case.b);
        // Routed to the end already: segments left is 0.
        let routed: [u8; 6] = [0, 0, 0, 0, 0, 0];
        // A destination option with ports in it, as long as can be.
        let mut long = vec![0x1e, 255];
        long.extend_from_slice(&[0, 80].repeat(127));
        long.push(0);
        long.extend_from_slice(&[1, 3, 0, 0, 0]);
        long.resize(262, 0);
        let chains: [&[Extension<'_>]; 8] = [
            &[(0, &PAD)],
            &[(60, &PAD)],
            &[(43, &routed)],
            &[(0, &PAD), (60, &PAD), (43, &routed), (60, &PAD)],
            &[(60, &long)],
            &[(60, &[0; 6])],
            &[(60, &PAD), (60, &PAD), (60, &PAD), (60, &PAD), (60, &PAD), (60, &PAD), (60, &PAD), (60, &PAD)],
            &[(0, &[5, 2, 0, 0, 1, 0])], // router alert
        ];
        for (chain_number, chain) in chains.into_iter().enumerate() {
            for number in 0..3 {
                let source = 1000 + (chain_number * 10 + number) as u16;
                let denied = with_extensions(&packets(&there, source, 81)[number], chain);
                case.drops(a, &denied, DropReason::PolicyIngress);
                let frame = with_extensions(&packets(&there, source, 80)[number], chain);
                case.opens(a, &frame, b);
                let answer = match number {
                    0 => back.tcp(80, source, "SA"),
                    1 => back.udp(80, source, b"x"),
                    _ => back.sctp(80, source, 2),
                };
                case.passes(b, &with_extensions(&answer, chain), a);
                case.passes(b, &answer, a);
            }
            // What has no ports has none there either.
            case.drops(
                a,
                &with_extensions(&there.other(47, &[0, 80, 0, 80]), chain),
                DropReason::PolicyIngress,
            );
            case.drops(a, &with_extensions(&there.echo(80, false), chain), DropReason::PolicyIngress);
        }
        case.finish();
    });
}

#[test]
fn extension_headers_that_hide_something_are_dropped_by_name() {
    each(|mut case| {
        if !case.at.six {
            return case.finish();
        }
        case.policies([]);
        let (there, a) = (case.a_to_b(), case.a);
        let home = {
            let mut option = vec![0xc9, 16];
            option.extend_from_slice(&[0x20; 16]);
            option.extend_from_slice(&[1, 2, 0, 0]);
            option
        };
        let nine: Vec<Extension<'_>> = vec![(60, &PAD); 9];
        let cases: [(&[Extension<'_>], DropReason); 13] = [
            // Yet to go elsewhere: loose, segment and home routing.
            (&[(43, &[0, 1, 0, 0, 0, 0])], DropReason::Ipv6Routing),
            (&[(43, &[2, 1, 0, 0, 0, 0])], DropReason::Ipv6Routing),
            (&[(43, &[4, 255, 0, 0, 0, 0])], DropReason::Ipv6Routing),
            (&[(60, &PAD), (43, &[0, 1, 0, 0, 0, 0])], DropReason::Ipv6Routing),
            (&[(60, &home)], DropReason::Ipv6Routing),
            // Not first, or twice.
            (&[(60, &PAD), (0, &PAD)], DropReason::Ipv6Extensions),
            (&[(0, &PAD), (0, &PAD)], DropReason::Ipv6Extensions),
            (&[(43, &[0; 6]), (0, &PAD)], DropReason::Ipv6Extensions),
            (&nine, DropReason::Ipv6Extensions),
            // An option longer than its header, and one without a length.
            (&[(60, &[1, 5, 0, 0, 0, 0])], DropReason::Ipv6Extensions),
            (&[(0, &[5, 255, 0, 0, 0, 0])], DropReason::Ipv6Extensions),
            (&[(60, &[1, 3, 0, 0, 0, 5])], DropReason::Ipv6Extensions),
            // A jumbogram.
            (&[(0, &[0xc2, 4, 0, 1, 0, 0])], DropReason::Ipv6Length),
        ];
        for (chain, reason) in cases {
            for frame in
                packets(&there, 1000, 80).iter().chain([&there.echo(7, false), &there.other(47, b"x")])
            {
                case.drops(a, &with_extensions(frame, chain), reason);
            }
        }
        // No next header is a protocol like any other that nobody speaks; so is one that only looks like an extension.
        for number in [59, 135, 139, 140, 51, 50, 253] {
            case.policies([]);
            let frame = there.other(number, &[6, 0, 0, 80, 0, 80, 0, 0]);
            case.opens(a, &frame, case.b);
            case.policies([only("a", "b", &[(Protocol::Tcp, 80)])]);
            case.cutting(1).drops(a, &frame, DropReason::PolicyRevoked);
        }
        case.finish();
    });
}

/// What stands in TCP's own options is not looked at by the judge.
#[test]
fn tcp_options_are_left_alone() {
    each(|mut case| {
        case.policies([deny_ingress(Selector::everything())]);
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let options: [&[u8]; 5] = [
            &[2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0],
            &[0; 40],
            &[1; 40],
            &[3, 0, 0, 0],
            &[255, 255, 255, 255],
        ];
        for options in options {
            let syn = segment_with(&there, (1000, 80), "S", (999, 0), options, b"");
            case.drops(a, &syn, DropReason::PolicyIngress);
        }
        case.policies([]);
        for (number, options) in options.into_iter().enumerate() {
            let ports = (2000 + number as u16, 80);
            case.opens(a, &segment_with(&there, ports, "S", (999, 0), options, b""), b);
        }
        case.finish();
    });
}

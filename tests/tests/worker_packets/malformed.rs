//! Frames that end too early, at every byte: one drop by name each, and nothing of them is forwarded.

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::PortId;
use podgate_dataplane::worker::WorkerSettings;
use podgate_tests::frames::From;

use crate::case::{Case, each};
use crate::craft::{
    arp, icmp, repair_length, repair_v4, segment_with, solicitation, with_extensions, with_options,
};
use crate::facts::Facts;

/// A good frame, and how much of it the gateway has to see to know what it is: up to the end of its headers.
struct Good {
    what: &'static str,
    frame: Vec<u8>,
    headers: usize,
}

/// One of every kind that opens a connection, all from `a` to `b`, and an error about one of them from `b`.
fn good_frames(there: &From, back: &From) -> Vec<Good> {
    let tcp_options = [2, 4, 5, 180, 1, 3, 3, 7];
    let mut frames = vec![
        ("TCP", there.tcp(1000, 80, "S"), 20),
        ("TCP with options", segment_with(there, (1001, 80), "S", (999, 0), &tcp_options, b"early"), 28),
        ("UDP", there.udp(1000, 53, b"query"), 8),
        ("SCTP", there.sctp(1000, 9, 1), 20),
        ("ping", there.echo(7, false), 8),
        (
            "another ICMP type",
            icmp(there, if there.source.is_ipv6() { 139 } else { 17 }, 0, [0; 4], b"body"),
            8,
        ),
        ("another protocol", there.other(47, b"tunnel"), 0),
    ];
    let plain: Vec<_> = frames.iter().map(|(what, frame, length)| (*what, frame.clone(), *length)).collect();
    for (what, frame, length) in plain {
        let longer = if there.source.is_ipv6() {
            with_extensions(
                &frame,
                &[
                    (0, &[1, 4, 0, 0, 0, 0]),
                    (43, &[0; 6]),
                    (60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                ],
            )
        } else {
            with_options(&frame, &[148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0])
        };
        frames.push((what, longer, length));
    }
    let error = back.unreachable(&there.udp(1000, 53, b"query"));
    let quote = Facts::of(&there.udp(1000, 53, b"")).unwrap().transport - 14;
    frames.push(("an ICMP error", error, 8 + quote + 4));
    let good = |(what, frame, length): (_, Vec<u8>, usize)| {
        let headers = Facts::of(&frame).unwrap().transport + length;
        Good { what, frame, headers }
    };
    frames.into_iter().map(good).collect()
}

fn sender(case: &Case, good: &Good) -> PortId {
    if good.what == "an ICMP error" { case.b } else { case.a }
}

/// The packet goes on behind the end of the frame.
#[test]
fn a_frame_that_ends_before_its_packet_is_truncated() {
    each(|mut case| {
        for good in good_frames(&case.a_to_b(), &case.b_to_a()) {
            let port = sender(&case, &good);
            for length in 1..good.frame.len() {
                case.drops(port, &good.frame[..length], DropReason::Truncated);
            }
        }
        assert_eq!(case.connections(), 0);
        case.finish();
    });
}

/// The packet ends where the frame ends, and says so: then a header is missing, or everything is there but data.
#[test]
fn a_packet_that_ends_within_its_headers_is_dropped_by_the_headers_name() {
    each(|mut case| {
        let live = case.a_to_b().udp(1000, 53, b"query");
        case.opens(case.a, &live, case.b);
        for good in good_frames(&case.a_to_b(), &case.b_to_a()) {
            let (port, facts) = (sender(&case, &good), Facts::of(&good.frame).unwrap());
            let first = if case.at.six { 54 } else { facts.transport };
            for length in first..good.frame.len() {
                let mut frame = good.frame[..length].to_vec();
                repair_length(&mut frame);
                let reason = if length < facts.transport {
                    // An IPv6 header alone that announces a hop-by-hop header is what a jumbogram looks like.
                    if length == first { DropReason::Ipv6Length } else { DropReason::Ipv6Extensions }
                } else if good.what == "an ICMP error" && length >= facts.transport + 8 {
                    DropReason::IcmpQuote
                } else {
                    DropReason::TransportHeader
                };
                // UDP has a length of its own.
                if length < good.headers || good.what == "UDP" {
                    case.drops(port, &frame, reason);
                }
            }
        }
        case.finish();
    });
}

/// IPv4: the packet ends within its own header.
#[test]
fn a_packet_shorter_than_its_own_header_is_dropped() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        for good in good_frames(&case.a_to_b(), &case.b_to_a()) {
            let (port, header) = (sender(&case, &good), usize::from(good.frame[14] & 15) * 4);
            for length in 0..header {
                let mut frame = good.frame.clone();
                frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
                repair_v4(&mut frame);
                case.drops(port, &frame, DropReason::Ipv4Length);
            }
        }
        case.finish();
    });
}

/// A good packet in two buffers, the second one from any byte on: it passes whole if all headers are in the first.
#[test]
fn headers_must_be_in_the_first_buffer() {
    each(|mut case| {
        for good in good_frames(&case.a_to_b(), &case.b_to_a()) {
            let port = sender(&case, &good);
            let to = if port == case.a { case.b } else { case.a };
            let mut is_open = good.what == "an ICMP error" || case.connections() >= 7;
            for byte in 1..good.frame.len() {
                eprintln!("{} in two at {byte}", good.what);
                case.split_at(byte);
                if byte < 14 {
                    case.drops(port, &good.frame, DropReason::Truncated);
                } else if byte < good.headers {
                    let reason = split_reason(&good, byte);
                    case.drops(port, &good.frame, reason);
                } else if is_open {
                    case.passes(port, &good.frame, to);
                } else {
                    case.opens(port, &good.frame, to);
                    is_open = true;
                }
            }
            if !is_open {
                case.opens(port, &good.frame, to);
            }
        }
        case.finish();
    });
}

/// By which name a packet is dropped whose headers go on in the second buffer.
fn split_reason(good: &Good, byte: usize) -> DropReason {
    let facts = Facts::of(&good.frame).unwrap();
    match good.what {
        "an ICMP error" if byte >= facts.transport + 8 => DropReason::IcmpQuote,
        // Tracking asks for more than the parser, and finds it missing.
        "SCTP" if byte >= facts.transport + 16 => DropReason::TransportHeader,
        _ => DropReason::HeadersSplit,
    }
}

/// Both at once: every prefix of a packet, in two buffers at every byte.
#[test]
fn a_frame_that_ends_too_early_in_two_buffers_is_dropped_once() {
    for six in [false, true] {
        let mut case = Case::new(1, six, &WorkerSettings::default());
        for good in good_frames(&case.a_to_b(), &case.b_to_a()) {
            let port = sender(&case, &good);
            let header = if six { 54 } else { 14 + usize::from(good.frame[14] & 15) * 4 };
            for length in 2..good.frame.len() {
                for byte in 1..length {
                    // What the first buffer cuts off in the IP header nobody can know to be missing.
                    let is_split = (14..header).contains(&byte) && length > byte;
                    let reason = if is_split { DropReason::HeadersSplit } else { DropReason::Truncated };
                    case.split_at(byte).drops(port, &good.frame[..length], reason);
                }
            }
        }
        assert_eq!(case.connections(), 0);
        case.finish();
    }
}

#[test]
fn address_resolution_that_ends_too_early_is_dropped() {
    each(|mut case| {
        let a = case.a;
        let from = From::new(a, case.at.a(), case.at.a());
        let gateway = case.at.of("169.254.1.1", "fe80::1");
        let (question, name) = if case.at.six {
            (solicitation(&from, gateway), DropReason::Truncated)
        } else {
            (arp(&from, 1, case.at.a(), gateway), DropReason::ArpInvalid)
        };
        for length in 1..question.len() {
            let reason = if length < 14 { DropReason::Truncated } else { name };
            case.drops(a, &question[..length], reason);
        }
        for byte in 1..question.len() {
            let reason = match byte {
                ..14 => DropReason::Truncated,
                _ if !case.at.six => DropReason::ArpInvalid,
                // Its type is in the second buffer: a packet to a group like any other.
                14..54 => DropReason::HeadersSplit,
                54 => DropReason::Multicast,
                _ => DropReason::NdInvalid,
            };
            case.split_at(byte).drops(a, &question, reason);
        }
        case.answers(a, &question);
        case.finish();
    });
}

#[test]
fn a_damaged_ipv4_header_is_dropped() {
    each(|mut case| {
        if case.at.six {
            return case.finish();
        }
        let (there, a) = (case.a_to_b(), case.a);
        for frame in
            [there.udp(1000, 53, b"query"), with_options(&there.udp(1000, 53, b"query"), &[148, 4, 0, 0])]
        {
            let end = 14 + usize::from(frame[14] & 15) * 4;
            for bit in 8 * 18..8 * end {
                let mut damaged = frame.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                case.drops(a, &damaged, DropReason::Ipv4Checksum);
            }
        }
        case.finish();
    });
}

#[test]
fn a_transport_header_that_contradicts_itself_is_dropped() {
    each(|mut case| {
        let (there, a, b) = (case.a_to_b(), case.a, case.b);
        let changed = |frame: &[u8], at: usize, to: &[u8]| {
            let mut frame = frame.to_vec();
            let start = Facts::of(&frame).unwrap().transport + at;
            frame[start..start + to.len()].copy_from_slice(to);
            frame
        };
        let udp = there.udp(1000, 53, b"query");
        for length in [0_u16, 1, 7, 14, 255, 65_535] {
            case.drops(a, &changed(&udp, 4, &length.to_be_bytes()), DropReason::TransportHeader);
        }
        // Shorter than the packet is legal: receivers ignore the rest.
        case.opens(a, &changed(&udp, 4, &8_u16.to_be_bytes()), b);
        let tcp = there.tcp(1000, 80, "S");
        for words in (0..16_u8).filter(|words| *words != 5) {
            case.drops(a, &changed(&tcp, 12, &[words << 4]), DropReason::TransportHeader);
        }
        case.finish();
    });
}

/// Bytes of no meaning at all, of every length up to that of the longest header, from every kind of port.
#[test]
fn noise_is_dropped() {
    each(|mut case| {
        for (there, back) in case.ways() {
            for port in [there.port, back.port] {
                for length in 1..120 {
                    for byte in [0, 0xff, 0x45, 0x60] {
                        let reason = match (length, byte) {
                            (..14, _) => DropReason::Truncated,
                            (_, 0xff | 0x45) => DropReason::GroupSource,
                            _ => DropReason::EtherType,
                        };
                        case.drops(port, &vec![byte; length], reason);
                    }
                }
            }
        }
        case.finish();
    });
}

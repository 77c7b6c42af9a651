use super::*;
use crate::packet::Role;
use crate::test_frames::*;
use etherparse::{ArpOperation, IpNumber, Ipv4Header};

fn one(frame: &[u8]) -> Result<Parsed, DropReason> {
    let answer = parse(frame, frame.len());
    assert_eq!(answer, general(frame, frame.len()), "the two paths disagree");
    answer
}

fn headers(frame: &[u8]) -> Headers {
    match one(frame) {
        Ok(Parsed::Ip(headers)) => headers,
        other => panic!("expected an IP packet, got {other:?}"),
    }
}

fn dropped(frame: &[u8]) -> DropReason {
    match one(frame) {
        Err(reason) => reason,
        other => panic!("expected a drop, got {other:?}"),
    }
}

/// Sets bytes, and makes the IPv4 header checksum right again.
fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    if frame[12..14] == [8, 0] && at != 24 {
        let length = usize::from(frame[14] & 0xf) * 4;
        if (20..=frame.len() - 14).contains(&length) {
            frame[24..26].fill(0);
            let sum = Sum16BitWords::new().add_slice(&frame[14..14 + length]).ones_complement();
            frame[24..26].copy_from_slice(&sum.to_be().to_be_bytes());
        }
    }
    frame
}

#[test]
fn udp_and_tcp_of_both_families_take_the_plain_path() {
    for six in [false, true] {
        let (source, destination) = if six { (v6(a6()), v6(b6())) } else { (v4(A4), v4(B4)) };
        let ip_len = if six { 40 } else { 20 };
        let frame = udp(six, b"payload");
        assert!(plain(&frame, frame.len()).is_some());
        let expected = Headers {
            source: source.into(),
            destination: destination.into(),
            source_port: 4000,
            destination_port: 53,
            protocol: 17,
            hop_limit: 64,
            transport_offset: 14 + ip_len,
            packet_len: frame.len() as u32,
            transport: Transport::Udp,
            fragment: None,
        };
        assert_eq!(headers(&frame), expected);

        let frame = tcp(six, b"data");
        assert!(plain(&frame, frame.len()).is_some());
        let found = headers(&frame);
        assert_eq!((found.source_port, found.destination_port, found.protocol), (4001, 80, 6));
        assert_eq!(found.transport, Transport::Tcp(TcpFlags(TcpFlags::SYN)));
        assert_eq!(found.role(), Role::Any);
    }
}

#[test]
fn padding_is_not_packet_and_missing_bytes_are_truncation() {
    for six in [false, true] {
        let frame = udp(six, b"x");
        let mut padded = frame.clone();
        padded.resize(frame.len() + 30, 0xee);
        assert_eq!(headers(&padded), headers(&frame));
        for length in 0..frame.len() {
            assert_eq!(dropped(&frame[..length]), DropReason::Truncated, "cut to {length}");
        }
    }
}

#[test]
fn every_frame_cut_anywhere_gives_a_reason_and_no_more() {
    for (name, frame) in all() {
        let whole = one(&frame);
        for length in 0..frame.len() {
            let cut = one(&frame[..length]);
            // ARP is looked at later; everything else says itself how long it is.
            assert!(
                cut.is_err() || cut == Ok(Parsed::Arp),
                "{name} cut to {length}: {cut:?}, whole {whole:?}"
            );
        }
    }
}

#[test]
fn a_packet_in_several_buffers_needs_its_headers_in_the_first() {
    for six in [false, true] {
        let frame = tcp(six, &[7; 3000]);
        let whole = parse(&frame, frame.len());
        let ends = if six { 74 } else { 54 };
        for head in [ends, ends + 1, 1000] {
            assert_eq!(parse(&frame[..head], frame.len()), whole);
            assert_eq!(general(&frame[..head], frame.len()), whole);
        }
        for head in 14..ends {
            assert_eq!(parse(&frame[..head], frame.len()), Err(DropReason::HeadersSplit), "{head}");
        }
        assert_eq!(parse(&frame[..200], frame.len() - 1), Err(DropReason::Truncated));
    }
}

#[test]
fn link_layer_by_name() {
    let frame = udp(false, b"");
    assert_eq!(dropped(&patched(frame.clone(), 12, &[0x81, 0x00])), DropReason::Vlan);
    assert_eq!(dropped(&patched(frame.clone(), 12, &[0x88, 0xa8])), DropReason::Vlan);
    assert_eq!(dropped(&patched(frame.clone(), 12, &[0x88, 0xcc])), DropReason::EtherType);
    assert_eq!(dropped(&patched(frame.clone(), 12, &[0x00, 0x26])), DropReason::EtherType, "802.3 length");
    assert_eq!(dropped(&patched(frame.clone(), 0, &[0xff; 6])), DropReason::Broadcast);
    assert_eq!(dropped(&patched(frame.clone(), 6, &[3])), DropReason::GroupSource);
    assert_eq!(dropped(&patched(frame, 0, &[1, 0, 0x5e, 0, 0, 1])), DropReason::Multicast);
    assert_eq!(one(&arp(ArpOperation::REQUEST, POD_MAC, A4, B4)), Ok(Parsed::Arp));
}

#[test]
fn ipv4_header_faults_by_name() {
    let frame = udp(false, b"1234");
    assert_eq!(dropped(&patched(frame.clone(), 24, &[1, 2])), DropReason::Ipv4Checksum);
    assert_eq!(dropped(&patched(frame.clone(), 14, &[0x65])), DropReason::Ipv4Header);
    assert_eq!(dropped(&patched(frame.clone(), 14, &[0x44])), DropReason::Ipv4Header);
    assert_eq!(
        dropped(&patched(frame.clone(), 14, &[0x4f])),
        DropReason::Truncated,
        "options beyond the frame"
    );
    assert_eq!(dropped(&patched(frame.clone(), 16, &[0, 19])), DropReason::Ipv4Length);
    assert_eq!(dropped(&patched(frame.clone(), 16, &[0, 20])), DropReason::TransportHeader);
    assert_eq!(dropped(&patched(frame.clone(), 16, &[4, 0])), DropReason::Truncated);
    for (flags, offset) in [(0x20, 0), (0x20, 5), (0x1f, 0xff), (0x60, 0)] {
        assert_eq!(dropped(&patched(frame.clone(), 20, &[flags, offset])), DropReason::FragmentInvalid);
    }
    assert!(one(&patched(frame.clone(), 20, &[0x40, 0])).is_ok(), "don't fragment");
    assert!(one(&patched(frame, 20, &[0x80, 0])).is_ok(), "the reserved bit has no meaning");
}

#[test]
fn a_header_sum_of_either_zero_is_right() {
    // Two spellings of zero: find a packet whose checksum is 0x0000, and give it 0xffff too.
    for identification in 0..=u16::MAX {
        let mut header = Ipv4Header::new(8, 64, IpNumber::UDP, A4, B4).unwrap();
        header.identification = identification;
        if header.calc_header_checksum() == 0 {
            let mut frame = udp(false, b"");
            frame[18..20].copy_from_slice(&identification.to_be_bytes());
            frame[20..22].copy_from_slice(&header.to_bytes()[6..8]);
            for sum in [[0, 0], [0xff, 0xff]] {
                frame[24..26].copy_from_slice(&sum);
                assert!(one(&frame).is_ok(), "{sum:?}");
            }
            return;
        }
    }
    panic!("no such packet");
}

#[test]
fn ipv4_options_never_shift_the_ports() {
    let plain_ports = [1, 148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0];
    let found = headers(&udp_with_options(&plain_ports));
    assert_eq!((found.source_port, found.destination_port, found.transport_offset), (4000, 53, 14 + 32));
    for bad in [
        [131, 7, 4, 10, 0, 0, 1, 0],
        [137, 7, 4, 10, 0, 0, 1, 0],
        [1, 1, 131, 3, 4, 0, 0, 0],
        [7, 0, 0, 0, 0, 0, 0, 0],
        [7, 1, 0, 0, 0, 0, 0, 0],
        [7, 9, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 7],
    ] {
        assert_eq!(dropped(&udp_with_options(&bad)), DropReason::Ipv4Options, "{bad:?}");
    }
    assert!(one(&udp_with_options(&[0, 131, 7, 4, 10, 0, 0, 1])).is_ok(), "behind the end of options");
}

#[test]
fn addresses_that_may_not_be_on_a_wire() {
    let frame = udp(false, b"");
    for bad in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
        assert_eq!(dropped(&patched(frame.clone(), 26, &bad)), DropReason::MartianAddress, "source {bad:?}");
    }
    for bad in [[0, 0, 0, 0], [127, 0, 0, 1]] {
        assert_eq!(dropped(&patched(frame.clone(), 30, &bad)), DropReason::MartianAddress, "to {bad:?}");
    }
    assert_eq!(dropped(&patched(frame.clone(), 30, &[224, 0, 0, 251])), DropReason::Multicast);
    assert_eq!(dropped(&patched(frame.clone(), 30, &[255; 4])), DropReason::Broadcast);
    for good in [[1, 1, 1, 1], [126, 0, 0, 1], [128, 0, 0, 1], [223, 1, 1, 1], [240, 0, 0, 1]] {
        assert!(one(&patched(frame.clone(), 26, &good)).is_ok());
        assert!(one(&patched(frame.clone(), 30, &good)).is_ok());
    }

    let frame = udp(true, b"");
    for bad in ["::", "::1", "::ffff:10.0.0.1"] {
        let bad = bad.parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(dropped(&patched(frame.clone(), 22, &bad)), DropReason::MartianAddress);
        assert_eq!(dropped(&patched(frame.clone(), 38, &bad)), DropReason::MartianAddress);
    }
    let group = "ff02::fb".parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(dropped(&patched(frame.clone(), 22, &group)), DropReason::MartianAddress);
    assert_eq!(dropped(&patched(frame.clone(), 38, &group)), DropReason::Multicast);
    for good in ["64:ff9b::1", "fe80::1", "2001:db8::1"] {
        let good = good.parse::<Ipv6Addr>().unwrap().octets();
        assert!(one(&patched(frame.clone(), 22, &good)).is_ok());
        assert!(one(&patched(frame.clone(), 38, &good)).is_ok());
    }
}

#[test]
fn ipv6_extension_headers() {
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let found = headers(&udp_behind(&[(0, pad), (60, pad)]));
    assert_eq!((found.protocol, found.destination_port, found.transport_offset), (17, 53, 14 + 40 + 16));
    let at_most = [(60, pad); MAX_EXTENSIONS];
    assert!(one(&udp_behind(&at_most)).is_ok());
    let too_many = [(60, pad); MAX_EXTENSIONS + 1];
    assert_eq!(dropped(&udp_behind(&too_many)), DropReason::Ipv6Extensions);
    assert_eq!(dropped(&udp_behind(&[(60, pad), (0, pad)])), DropReason::Ipv6Extensions, "misplaced");
    assert_eq!(dropped(&udp_behind(&[(60, &[9, 1, 4, 0, 0, 0, 0])])), DropReason::Ipv6Extensions, "too long");
    assert_eq!(
        dropped(&udp_behind(&[(60, &[0, 1, 5, 0, 0, 0, 0])])),
        DropReason::Ipv6Extensions,
        "bad option"
    );
    let home: &[u8] = &[2, 1, 2, 0, 0, 201, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    assert_eq!(dropped(&udp_behind(&[(60, home)])), DropReason::Ipv6Routing);
    assert_eq!(dropped(&udp_behind(&[(43, &[0, 0, 1, 0, 0, 0, 0])])), DropReason::Ipv6Routing);
    assert!(one(&udp_behind(&[(43, &[0, 4, 0, 0, 0, 0, 0])])).is_ok(), "no segments left");
    let frame = udp(true, b"");
    assert_eq!(dropped(&patched(frame.clone(), 18, &[0, 0])), DropReason::TransportHeader);
    let jumbo = udp_behind(&[(0, &[0, 0xc2, 4, 0, 1, 0, 0])]);
    assert_eq!(dropped(&patched(jumbo, 18, &[0, 0])), DropReason::Ipv6Length);
    assert_eq!(dropped(&patched(frame.clone(), 14, &[0x40])), DropReason::Ipv6Header);
    assert_eq!(dropped(&udp_behind(&[(0, &[0, 0xc2, 4, 0, 1, 0, 0])])), DropReason::Ipv6Length, "jumbogram");
    assert_eq!(headers(&protocol(true, 59, b"")).protocol, 59, "no next header");
}

#[test]
fn fragments_say_which_piece_they_are() {
    for six in [false, true] {
        let whole = udp(six, &[7; 100]);
        let offset = if six { 14 + 40 + 8 } else { 14 + 20 };
        let first = fragment(&whole, 0, 64, true);
        assert_eq!(plain(&first, first.len()), None);
        let found = headers(&first);
        assert_eq!((found.transport, found.source_port, found.destination_port), (Transport::Udp, 4000, 53));
        assert_eq!((found.transport_offset, found.packet_len as usize), (offset, first.len()));
        let piece = found.fragment.unwrap();
        assert_eq!((piece.start(), piece.end(), piece.is_last()), (0, 64, false));
        assert_eq!(piece.identification, if six { 0x0007_0007 } else { 7 });
        assert_eq!(found.role(), Role::Any);

        let found = headers(&fragment(&whole, 64, 44, false));
        assert_eq!((found.transport, found.protocol), (Transport::Fragment, 17));
        assert_eq!((found.source_port, found.destination_port, found.flow_ports()), (0, 0, (0, 0)));
        assert_eq!(found.transport_offset, offset);
        let piece = found.fragment.unwrap();
        assert_eq!((piece.start(), piece.end(), piece.is_last()), (64, 108, true));
        assert_eq!(found.role(), Role::Established, "it opens nothing");

        // Padding is no part of it.
        let mut padded = fragment(&whole, 104, 4, false);
        padded.resize(padded.len() + 20, 0xee);
        assert_eq!(headers(&padded).fragment.map(|piece| piece.end()), Some(108));
        assert_eq!(headers(&whole).fragment, None);
    }
    let mut dont = fragment(&udp(false, &[7; 100]), 0, 64, true);
    dont[20] |= 0x40;
    assert!(
        headers(&patched(dont, 18, &[1, 2])).fragment.is_some(),
        "don't fragment says nothing about fragments"
    );
}

#[test]
fn a_first_fragment_has_the_whole_transport_header() {
    for six in [false, true] {
        for (whole, least) in [
            (udp(six, &[7; 100]), 8),
            (tcp(six, &[7; 100]), 24),
            (ping_of(six, 100), 8),
            (protocol(six, 132, &[1; 100]), 16),
            (protocol(six, 50, &[1; 100]), 8),
        ] {
            for length in (8..=64).step_by(8) {
                let found = one(&fragment(&whole, 0, length, true));
                if length < least {
                    assert_eq!(found, Err(DropReason::FragmentTiny), "{length} of {least}");
                } else {
                    assert!(matches!(found, Ok(Parsed::Ip(_))), "{length} of {least}: {found:?}");
                }
            }
        }
        // The flags of a TCP header, put over those that were judged (RFC 3128).
        assert_eq!(dropped(&fragment(&tcp(six, &[7; 100]), 8, 16, true)), DropReason::FragmentTiny);
        assert!(one(&fragment(&tcp(six, &[7; 100]), 16, 16, true)).is_ok());
        assert!(one(&fragment(&udp(six, &[7; 100]), 8, 16, true)).is_ok());
        // TCP options are part of the header.
        let mut optioned = tcp(six, &[7; 100]);
        let at = if six { 54 } else { 34 };
        optioned[at + 12] = 0xf0;
        assert_eq!(dropped(&fragment(&optioned, 0, 56, true)), DropReason::FragmentTiny);
        assert!(one(&fragment(&optioned, 0, 64, true)).is_ok());
        let error = time_exceeded_about(six, &reverse_udp(six));
        assert_eq!(dropped(&fragment(&error, 0, 40, true)), DropReason::Fragment);
    }
}

#[test]
fn fragments_that_cannot_be() {
    for six in [false, true] {
        let whole = udp(six, &[7; 100]);
        assert_eq!(dropped(&fragment(&whole, 0, 60, true)), DropReason::FragmentInvalid, "no multiple of 8");
        assert_eq!(dropped(&fragment(&whole, 16, 0, false)), DropReason::FragmentInvalid, "empty");
        assert_eq!(dropped(&fragment(&whole, 0, 0, true)), DropReason::FragmentInvalid, "empty");
        // The longest datagrams end at 65535, headers and all; not extension headers before the fragment header, though.
        let at_end = |start: u16, length| {
            let mut frame = fragment(&whole, 8, length, false);
            if six {
                frame[56..58].copy_from_slice(&start.to_be_bytes());
                one(&frame)
            } else {
                one(&patched(frame, 20, &(start / 8).to_be_bytes()))
            }
        };
        let most = if six { 7 } else { 3 };
        let start = if six { 65_528 } else { 65_512 };
        assert!(at_end(start, most).is_ok());
        assert_eq!(at_end(start, most + 1), Err(DropReason::FragmentInvalid));
    }
}

#[test]
fn extension_headers_of_ipv6_fragments() {
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let first: &[u8] = &[0, 0, 1, 0, 0, 0, 9];
    let later: &[u8] = &[0, 0, 8, 0, 0, 0, 9];
    let atomic: &[u8] = &[0, 0, 0, 0, 0, 0, 9];
    // An atomic fragment is a whole packet, but for neighbour discovery (RFC 6980).
    let found = headers(&udp_behind(&[(0, pad), (44, atomic)]));
    assert_eq!((found.transport, found.fragment, found.destination_port), (Transport::Udp, None, 53));
    assert_eq!(found.transport_offset, 14 + 40 + 16);
    for kind in [135, 136] {
        let mut behind = vec![58, 0, 0, 0, 0, 0, 0, 9];
        behind.extend_from_slice(&[kind; 24]);
        for more in [0, 1] {
            behind[3] = more;
            assert_eq!(dropped(&protocol(true, 44, &behind)), DropReason::NdInvalid);
        }
        // A later fragment has no type.
        behind[3] = 8;
        assert!(headers(&protocol(true, 44, &behind)).is_later_fragment());
    }
    // 12 bytes of UDP are no multiple of 8.
    assert_eq!(dropped(&udp_behind(&[(44, first)])), DropReason::FragmentInvalid);
    // Headers before the fragment header count, and shorten what a datagram can have.
    let found = headers(&udp_behind(&[(0, pad), (44, later)]));
    assert_eq!(found.fragment.map(|piece| (piece.start(), piece.end())), Some((8, 20)));
    assert!(one(&udp_behind(&[(44, &[0, 0xff, 0xe8, 0, 0, 0, 9])])).is_ok());
    assert_eq!(
        dropped(&udp_behind(&[(0, pad), (44, &[0, 0xff, 0xf0, 0, 0, 0, 9])])),
        DropReason::FragmentInvalid
    );
    // Behind it, in a first fragment, they are all there (RFC 7112), and not looked for in a later one.
    let chained = |more: u8, length: usize| {
        let mut payload = vec![60, 0, 0, more, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0];
        payload.extend_from_slice(&[0x0f, 0xa0, 0, 53, 0, 200, 0x12, 0x34]);
        payload.extend_from_slice(&[5; 64]);
        one(&protocol(true, 44, &payload[..8 + length]))
    };
    assert_eq!(chained(1, 8), Err(DropReason::FragmentTiny));
    let Ok(Parsed::Ip(found)) = chained(1, 16) else { panic!() };
    assert_eq!((found.destination_port, found.transport_offset), (53, 14 + 40 + 16));
    assert_eq!(
        found.fragment.map(|piece| piece.end()),
        Some(16),
        "the option header is a part of the datagram"
    );
    assert!(chained(8, 3).is_ok());
    let mut long = vec![60, 0, 0, 1, 0, 0, 0, 9, 17, 3, 1, 4];
    long.resize(8 + 16, 0);
    assert_eq!(
        dropped(&protocol(true, 44, &long)),
        DropReason::FragmentTiny,
        "an extension header that is cut"
    );
    // A fragment of a fragment.
    for inner in [first, atomic] {
        assert_eq!(dropped(&udp_behind(&[(44, atomic), (44, inner)])), DropReason::Ipv6Extensions);
    }
    assert_eq!(dropped(&udp_behind(&[(44, atomic), (0, pad)])), DropReason::Ipv6Extensions);
}

#[test]
fn transport_faults_by_name() {
    for six in [false, true] {
        let at = if six { 54 } else { 34 };
        for offset in [0x00, 0x40, 0x60] {
            assert_eq!(dropped(&patched(tcp(six, b""), at + 12, &[offset])), DropReason::TransportHeader);
        }
        for length in [0u16, 7, 12] {
            let frame = patched(udp(six, b"123"), at + 4, &length.to_be_bytes());
            assert_eq!(dropped(&frame), DropReason::TransportHeader);
        }
        assert!(one(&patched(udp(six, b"123"), at + 4, &[0, 9])).is_ok(), "shorter than the packet is legal");
        assert_eq!(dropped(&protocol(six, 132, &[0; 15])), DropReason::TransportHeader);
        assert_eq!(headers(&sctp_init(six)).transport, Transport::Sctp { chunk: 1 });
        assert_eq!(headers(&sctp_init(six)).destination_port, 2905);
        let opaque = headers(&protocol(six, 50, b""));
        assert_eq!((opaque.transport, opaque.destination_port), (Transport::Other, 0));
        // The other family's ICMP is just a protocol.
        assert_eq!(headers(&protocol(six, if six { 1 } else { 58 }, &[5; 40])).transport, Transport::Other);
    }
}

#[test]
fn icmp_types() {
    for six in [false, true] {
        let request_type = if six { 128 } else { 8 };
        for reply in [false, true] {
            let found = headers(&echo(six, reply));
            let expected = Transport::IcmpQuery { reply, request: request_type, identifier: 77 };
            assert_eq!((found.transport, found.source_port, found.destination_port), (expected, 0, 0));
        }
    }
    assert_eq!(dropped(&protocol(false, 1, &[5; 40])), DropReason::IcmpRedirect);
    assert_eq!(dropped(&protocol(false, 1, &[8; 7])), DropReason::TransportHeader);
    assert_eq!(headers(&protocol(false, 1, &[42; 12])).role(), Role::Request);
    for (kind, reason) in [
        (130, DropReason::Mld),
        (131, DropReason::Mld),
        (132, DropReason::Mld),
        (143, DropReason::Mld),
        (133, DropReason::RouterSolicitation),
        (134, DropReason::RouterAdvertisement),
        (137, DropReason::IcmpRedirect),
    ] {
        assert_eq!(dropped(&protocol(true, 58, &[kind; 24])), reason);
    }
    for kind in [135, 136] {
        assert_eq!(one(&protocol(true, 58, &[kind; 24])), Ok(Parsed::NeighborDiscovery));
        let mut behind = vec![58, 0, 1, 4, 0, 0, 0, 0];
        behind.extend_from_slice(&[kind; 24]);
        assert_eq!(dropped(&protocol(true, 60, &behind)), DropReason::NdInvalid);
    }
    // An MLD report as Linux sends it: router alert before it, to a group, from anybody.
    let mut report = vec![58, 0, 5, 2, 0, 0, 1, 0];
    report.extend_from_slice(&[143; 28]);
    let frame = patched(protocol(true, 0, &report), 22, &[0; 16]);
    assert_eq!(dropped(&frame), DropReason::Mld);
    assert_eq!(dropped(&protocol(false, 2, &[0x16; 8])), DropReason::Igmp);
}

#[test]
fn icmp_errors_lead_to_what_they_quote() {
    for six in [false, true] {
        let quoted_frame = reverse_udp(six);
        let error = time_exceeded_about(six, &quoted_frame);
        let found = headers(&error);
        assert_eq!((found.transport, found.role()), (Transport::IcmpError, Role::Related));
        let about = quoted(&error, &found).unwrap();
        assert_eq!((about.source, about.destination), (found.destination.into(), found.source.into()));
        assert_eq!((about.protocol, about.flow_ports), (17, (5000, 33434)));

        // About an echo request.
        let mut ping = echo(six, false);
        let (address, length) = if six { (22, 16) } else { (26, 4) };
        let (front, back) = ping.split_at_mut(address + length);
        front[address..].swap_with_slice(&mut back[..length]);
        let error = time_exceeded_about(six, &ping);
        let about = quoted(&error, &headers(&error)).unwrap();
        assert_eq!(about.flow_ports, headers(&ping).flow_ports());

        // Told to somebody who did not send it.
        assert_eq!(dropped(&time_exceeded_about(six, &udp(six, b"mine"))), DropReason::IcmpQuote);
        // About an error.
        assert_eq!(dropped(&time_exceeded_about(six, &error)), DropReason::IcmpQuote);
        // Cut off anywhere before the ports are whole.
        let ip_len = if six { 40 } else { 20 };
        for length in 14..14 + ip_len + 4 {
            let error = time_exceeded_about(six, &quoted_frame[..length]);
            assert_eq!(dropped(&error), DropReason::IcmpQuote, "quote of {} bytes", length - 14);
        }
        assert!(one(&time_exceeded_about(six, &quoted_frame[..14 + ip_len + 4])).is_ok());
        // No error: nothing quoted.
        let frame = udp(six, b"");
        assert_eq!(quoted(&frame, &headers(&frame)), None);
    }
    // Behind extension headers, a first fragment too.
    let reversed = |extensions: &[(u8, &[u8])]| {
        let mut frame = udp_behind(extensions);
        let (front, back) = frame.split_at_mut(38);
        front[22..].swap_with_slice(&mut back[..16]);
        time_exceeded_about(true, &frame)
    };
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    for extensions in [&[(0, pad), (60, pad)][..], &[(60, pad), (44, &[0, 0, 1, 0, 0, 0, 9])]] {
        let error = reversed(extensions);
        let about = quoted(&error, &headers(&error)).unwrap();
        assert_eq!((about.protocol, about.flow_ports), (17, (4000, 53)));
    }
    assert_eq!(dropped(&reversed(&[(60, pad); MAX_EXTENSIONS + 1])), DropReason::IcmpQuote);
    // About a later fragment, which has no ports.
    assert_eq!(dropped(&reversed(&[(44, &[0, 0, 8, 0, 0, 0, 9])])), DropReason::IcmpQuote);
    let mut fragment = reverse_udp(false);
    fragment[20..22].copy_from_slice(&[0, 5]);
    assert_eq!(dropped(&time_exceeded_about(false, &fragment)), DropReason::IcmpQuote);
}

#[test]
fn a_glimpse_for_records() {
    assert_eq!(glimpse(&udp(false, b"")), Some((v4(A4), v4(B4), 17)));
    assert_eq!(glimpse(&udp_behind(&[(44, &[0, 0, 1, 0, 0, 0, 9])])), Some((v6(a6()), v6(b6()), 44)));
    for (_, frame) in all() {
        for length in 0..frame.len() {
            let _ = glimpse(&frame[..length]);
        }
    }
}

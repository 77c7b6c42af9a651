//! Frames for tests, built with etherparse so that their checksums and lengths are somebody else's work.
//! [`all`] gives one of each kind; they are also the seeds of the fuzz targets (`tests/corpus/frames`).

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header,
    Ipv4Options, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep, ether_type, icmpv4, icmpv6,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const A4: [u8; 4] = [10, 244, 0, 10];
pub const B4: [u8; 4] = [10, 244, 0, 11];
pub const GATEWAY4: [u8; 4] = [169, 254, 1, 1];

pub fn a6() -> [u8; 16] {
    "fd00:10:244::a".parse::<Ipv6Addr>().unwrap().octets()
}

pub fn b6() -> [u8; 16] {
    "fd00:10:244::b".parse::<Ipv6Addr>().unwrap().octets()
}

pub fn gateway6() -> [u8; 16] {
    "fe80::1".parse::<Ipv6Addr>().unwrap().octets()
}

pub fn v4(address: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(address))
}

pub fn v6(address: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(address))
}

/// Link and IP header from pod A to pod B.
pub fn ip(six: bool) -> PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2(POD_MAC, GATEWAY_MAC);
    if six { link.ipv6(a6(), b6(), 64) } else { link.ipv4(A4, B4, 64) }
}

pub fn udp(six: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(six).udp(4000, 53).write(&mut frame, payload).unwrap();
    frame
}

pub fn tcp(six: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(six).tcp(4001, 80, 1, 1000).syn().write(&mut frame, payload).unwrap();
    frame
}

pub fn echo(six: bool, reply: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(six);
    let header = IcmpEchoHeader { id: 77, seq: 3 };
    match (six, reply) {
        (false, false) => step.icmpv4(Icmpv4Type::EchoRequest(header)).write(&mut frame, b"ping"),
        (false, true) => step.icmpv4(Icmpv4Type::EchoReply(header)).write(&mut frame, b"ping"),
        (true, false) => step.icmpv6(Icmpv6Type::EchoRequest(header)).write(&mut frame, b"ping"),
        (true, true) => step.icmpv6(Icmpv6Type::EchoReply(header)).write(&mut frame, b"ping"),
    }
    .unwrap();
    frame
}

/// A ping with so many bytes.
pub fn ping_of(six: bool, length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let header = IcmpEchoHeader { id: 77, seq: 3 };
    let step = ip(six);
    if six {
        step.icmpv6(Icmpv6Type::EchoRequest(header)).write(&mut frame, &vec![5; length])
    } else {
        step.icmpv4(Icmpv4Type::EchoRequest(header)).write(&mut frame, &vec![5; length])
    }
    .unwrap();
    frame
}

/// Any IP protocol with these bytes behind the IP header.
pub fn protocol(six: bool, number: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    // `write` wants a transport header, `add_data`-like is not there: build link and IP by hand.
    frame.extend_from_slice(&GATEWAY_MAC);
    frame.extend_from_slice(&POD_MAC);
    if six {
        frame.extend_from_slice(&0x86ddu16.to_be_bytes());
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: payload.len() as u16,
            next_header: IpNumber(number),
            hop_limit: 64,
            source: a6(),
            destination: b6(),
        };
        frame.extend_from_slice(&header.to_bytes());
    } else {
        frame.extend_from_slice(&0x0800u16.to_be_bytes());
        let mut header = Ipv4Header::new(payload.len() as u16, 64, IpNumber(number), A4, B4).unwrap();
        header.header_checksum = header.calc_header_checksum();
        frame.extend_from_slice(&header.to_bytes());
    }
    frame.extend_from_slice(payload);
    frame
}

/// A UDP packet with these IPv4 options (a multiple of four bytes).
pub fn udp_with_options(options: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(12, 64, IpNumber::UDP, A4, B4).unwrap();
    header.options = Ipv4Options::try_from(options).unwrap();
    header.set_payload_len(12).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut frame = udp(false, b"")[..14].to_vec();
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(&[0x0f, 0xa0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

/// A UDP packet behind IPv6 extension headers, each given as (its number, its bytes from the length field on).
pub fn udp_behind(extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (position, (_, body)) in extensions.iter().enumerate() {
        payload.push(extensions.get(position + 1).map_or(17, |next| next.0));
        payload.extend_from_slice(body);
    }
    payload.extend_from_slice(&[0x0f, 0xa0, 0, 53, 0, 12, 0x12, 0x34, 1, 2, 3, 4]);
    protocol(true, extensions.first().map_or(17, |first| first.0), &payload)
}

pub fn sctp_init(six: bool) -> Vec<u8> {
    let mut payload = vec![0x0f, 0xa2, 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0];
    payload.extend_from_slice(&[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    protocol(six, 132, &payload)
}

/// An ICMP "time exceeded" from A to B about the packet that is in `frame`.
pub fn time_exceeded_about(six: bool, frame: &[u8]) -> Vec<u8> {
    let quote = &frame[14..frame.len().min(14 + 200)];
    let mut error = Vec::new();
    let step = ip(six);
    if six {
        step.icmpv6(Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded))
            .write(&mut error, quote)
    } else {
        step.icmpv4(Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit))
            .write(&mut error, quote)
    }
    .unwrap();
    error
}

/// A packet from B to A (the reverse of [`ip`]), to be quoted by errors from A to B.
pub fn reverse_udp(six: bool) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(POD_MAC, GATEWAY_MAC);
    let step = if six { link.ipv6(b6(), a6(), 1) } else { link.ipv4(B4, A4, 1) };
    let mut frame = Vec::new();
    step.udp(5000, 33434).write(&mut frame, b"traceroute").unwrap();
    frame
}

pub fn arp(operation: ArpOperation, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac,
        sender_ipv4: sender,
        target_mac: [0; 6],
        target_ipv4: target,
    };
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&POD_MAC);
    frame.extend_from_slice(&ether_type::ARP.0.to_be_bytes());
    frame.extend_from_slice(&packet.to_bytes());
    frame
}

/// The `length` bytes from `start` on of what follows the IP header of a frame without options and extension headers, as a
/// fragment.
pub fn fragment(whole: &[u8], start: u16, length: usize, more: bool) -> Vec<u8> {
    let six = whole[12..14] == [0x86, 0xdd];
    let (number, ip_len) = if six { (whole[20], 40) } else { (whole[23], 20) };
    let from = 14 + ip_len + usize::from(start);
    let piece = &whole[from..from + length];
    let mut frame = if six {
        let mut payload = vec![number, 0];
        payload.extend_from_slice(&(start | u16::from(more)).to_be_bytes());
        payload.extend_from_slice(&[0, 7, 0, 7]);
        payload.extend_from_slice(piece);
        protocol(six, 44, &payload)
    } else {
        protocol(six, number, piece)
    };
    if !six {
        frame[18..20].copy_from_slice(&[0, 7]);
        frame[20..22].copy_from_slice(&((start / 8) | (u16::from(more) << 13)).to_be_bytes());
        let mut header = Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        frame[14..34].copy_from_slice(&header.to_bytes());
    }
    frame
}

/// The solicited-node multicast address of `target`.
pub fn solicited_node(target: [u8; 16]) -> [u8; 16] {
    let [.., a, b, c] = target;
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]
}

/// A neighbour solicitation with the given parts; `options` follow the target.
pub fn solicitation(source: [u8; 16], destination: [u8; 16], target: [u8; 16], options: &[u8]) -> Vec<u8> {
    let [.., a, b, c, d] = destination;
    let link_destination = if destination[0] == 0xff { [0x33, 0x33, a, b, c, d] } else { GATEWAY_MAC };
    let mut body = target.to_vec();
    body.extend_from_slice(options);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(POD_MAC, link_destination)
        .ipv6(source, destination, 255)
        .icmpv6(Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] })
        .write(&mut frame, &body)
        .unwrap();
    frame
}

/// Source link-layer address option with the pod's MAC.
pub fn source_link_option() -> [u8; 8] {
    let [a, b, c, d, e, f] = POD_MAC;
    [1, 1, a, b, c, d, e, f]
}

/// One of each kind of frame, with a name.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut frames: Vec<(String, Vec<u8>)> = Vec::new();
    for (family, six) in [("v4", false), ("v6", true)] {
        let mut add = |name: &str, frame: Vec<u8>| frames.push((format!("{family}-{name}"), frame));
        add("udp", udp(six, b"payload"));
        add("tcp", tcp(six, b""));
        add("tcp-data", tcp(six, &[7; 300]));
        add("echo-request", echo(six, false));
        add("echo-reply", echo(six, true));
        add("sctp-init", sctp_init(six));
        add("protocol-50", protocol(six, 50, b"opaque"));
        add("time-exceeded-udp", time_exceeded_about(six, &reverse_udp(six)));
        add("first-fragment", fragment(&udp(six, &[9; 64]), 0, 40, true));
        add("later-fragment", fragment(&udp(six, &[9; 64]), 40, 32, false));
        add("first-fragment-tcp", fragment(&tcp(six, &[9; 64]), 0, 24, true));
        add("first-fragment-ping", fragment(&ping_of(six, 40), 0, 24, true));
    }
    frames.push(("v4-options".into(), udp_with_options(&[1, 148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0])));
    frames.push(("v4-source-route".into(), udp_with_options(&[131, 7, 4, 10, 0, 0, 1, 0])));
    frames.push(("v4-igmp".into(), protocol(false, 2, &[0x16, 0, 9, 4, 224, 0, 0, 251])));
    frames.push(("v6-hop-by-hop".into(), udp_behind(&[(0, &[0, 5, 2, 0, 0, 1, 0])])));
    frames.push((
        "v6-extensions".into(),
        udp_behind(&[
            (0, &[0, 1, 4, 0, 0, 0, 0]),
            (60, &[0, 0, 0, 0, 0, 0, 0]),
            (43, &[0, 4, 0, 0, 0, 0, 0]),
        ]),
    ));
    frames.push((
        "v6-routing".into(),
        udp_behind(&[(43, &[2, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8])]),
    ));
    frames.push(("v6-fragment".into(), udp_behind(&[(44, &[0, 0, 1, 0, 0, 0, 9])])));
    frames.push(("v6-atomic-fragment".into(), udp_behind(&[(44, &[0, 0, 0, 0, 0, 0, 9])])));
    frames.push(("arp-request".into(), arp(ArpOperation::REQUEST, POD_MAC, A4, GATEWAY4)));
    frames.push(("arp-reply".into(), arp(ArpOperation::REPLY, POD_MAC, A4, GATEWAY4)));
    let group = solicited_node(gateway6());
    frames.push(("nd-solicitation".into(), solicitation(a6(), group, gateway6(), &source_link_option())));
    frames.push(("nd-dad".into(), solicitation([0; 16], solicited_node(b6()), b6(), &[])));
    // Found by fuzzing: an error about it would have gone to a group.
    let mut group_source = echo(false, true);
    group_source[6] = 1;
    frames.push(("group-source".into(), group_source));
    frames
}

/// The corpus of the fuzz targets holds these frames, each in a file. To write them after a change:
/// `PODGATE_WRITE_CORPUS=1 cargo test -p podgate-dataplane corpus`.
#[test]
fn corpus_holds_one_of_each() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/frames");
    for (name, frame) in all() {
        let file = folder.join(format!("{name}.bin"));
        if std::env::var_os("PODGATE_WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &frame).unwrap();
        }
        let held = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(held, frame, "{}: write the corpus anew", file.display());
    }
}

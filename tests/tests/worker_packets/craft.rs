//! Frames that no ordinary stack sends, made out of ordinary ones.

use std::net::IpAddr;

use etherparse::TcpHeader;
use etherparse::checksum::Sum16BitWords;
use podgate_tests::frames::From;
use podgate_tests::rig::{ROUTER_MAC, UPLINK, peer_mac};

const IP: usize = 14;

/// Writes an IPv4 header's checksum anew.
pub fn repair_v4(frame: &mut [u8]) {
    let header_len = usize::from(frame[IP] & 15) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let sum = Sum16BitWords::new().add_slice(&frame[IP..IP + header_len]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

/// Writes the length of the packet into its IP header, as if it always had ended where the frame ends.
pub fn repair_length(frame: &mut [u8]) {
    let length = frame.len() - IP;
    if frame[IP] >> 4 == 4 {
        frame[IP + 2..IP + 4].copy_from_slice(&(length as u16).to_be_bytes());
        repair_v4(frame);
    } else {
        frame[IP + 4..IP + 6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    }
}

/// An IPv4 frame with these options, filled up with their end to whole words.
pub fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    assert_eq!(frame[IP], 0x45);
    let words = options.len().div_ceil(4);
    let mut longer = frame[..IP + 20].to_vec();
    longer.extend_from_slice(options);
    longer.resize(IP + 20 + 4 * words, 0);
    longer.extend_from_slice(&frame[IP + 20..]);
    longer[IP] += words as u8;
    repair_length(&mut longer);
    longer
}

/// An IPv6 frame with these extension headers before its payload. Each is its number and what comes after its length, which
/// must make a multiple of eight bytes with the two before it.
pub fn with_extensions(frame: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut longer = frame[..IP + 40].to_vec();
    let mut next_at = IP + 6;
    let last = longer[next_at];
    for (number, body) in extensions {
        assert_eq!(body.len() % 8, 6);
        longer[next_at] = *number;
        next_at = longer.len();
        longer.extend_from_slice(&[last, ((body.len() - 6) / 8) as u8]);
        longer.extend_from_slice(body);
    }
    longer.extend_from_slice(&frame[IP + 40..]);
    repair_length(&mut longer);
    longer
}

/// A TCP segment with everything that one can say: (sequence, acknowledgement), options in whole words, and data.
pub fn segment_with(
    from: &From,
    ports: (u16, u16),
    flags: &str,
    numbers: (u32, u32),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = TcpHeader::new(ports.0, ports.1, numbers.0, 65_000);
    (tcp.syn, tcp.fin, tcp.rst) = (flags.contains('S'), flags.contains('F'), flags.contains('R'));
    (tcp.ack, tcp.psh, tcp.urg) = (flags.contains('A'), flags.contains('P'), flags.contains('U'));
    if tcp.ack {
        tcp.acknowledgment_number = numbers.1;
    }
    tcp.set_options_raw(options).unwrap();
    tcp.checksum = match (from.source, from.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            tcp.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload).unwrap()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            tcp.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload).unwrap()
        }
        _ => panic!("two families"),
    };
    let mut body = tcp.to_bytes().to_vec();
    body.extend_from_slice(payload);
    from.other(6, &body)
}

/// An SCTP packet with these chunks, each padded to four bytes by its maker.
pub fn sctp_chunks(from: &From, ports: (u16, u16), tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&ports.0.to_be_bytes());
    body.extend_from_slice(&ports.1.to_be_bytes());
    body.extend_from_slice(&tag.to_be_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(chunks);
    let crc = crc32c::crc32c(&body).to_le_bytes();
    body[8..12].copy_from_slice(&crc);
    from.other(132, &body)
}

/// An INIT (1) or INIT ACK (2) that chooses a tag.
pub fn sctp_init(from: &From, ports: (u16, u16), kind: u8, tag: u32, chosen: u32) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 20];
    chunk.extend_from_slice(&chosen.to_be_bytes());
    chunk.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    sctp_chunks(from, ports, tag, &chunk)
}

/// An ICMP message of the sender's family: type, code, the four bytes behind the checksum, and the rest.
pub fn icmp(from: &From, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend_from_slice(&rest);
    body.extend_from_slice(payload);
    let (protocol, sum) = match (from.source, from.destination) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mut sum = Sum16BitWords::new().add_16bytes(a.octets()).add_16bytes(b.octets());
            (58, sum.add_4bytes((body.len() as u32).to_be_bytes()).add_4bytes([0, 0, 0, 58]))
        }
        _ => (1, Sum16BitWords::new()),
    };
    let checksum = sum.add_slice(&body).ones_complement();
    body[2..4].copy_from_slice(&checksum.to_ne_bytes());
    from.other(protocol, &body)
}

/// ARP from whoever is behind the sender's port.
pub fn arp(from: &From, operation: u16, sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let [sender, target] = [sender, target].map(|address| match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("ARP is IPv4's"),
    });
    let mac = if from.port == UPLINK { ROUTER_MAC } else { peer_mac(from.port) };
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4]);
    frame.extend_from_slice(&operation.to_be_bytes());
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&sender);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target);
    frame
}

/// A neighbour solicitation for `target` with the sender's MAC address, to the group of all nodes.
pub fn solicitation(from: &From, target: IpAddr) -> Vec<u8> {
    let IpAddr::V6(target) = target else { panic!("neighbour discovery is IPv6's") };
    let group: IpAddr = "ff02::1:ff00:1".parse().unwrap();
    let mut body = target.octets().to_vec();
    body.extend_from_slice(&[1, 1]);
    body.extend_from_slice(&peer_mac(from.port));
    let to_group = From { destination: group, hop_limit: 255, ..*from };
    let mut frame = icmp(&to_group, 135, 0, [0; 4], &body);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
    frame
}

//! Answers to "who has this address?", so that a router under test finds the sink without static entries.
//!
//! A sink over AF_XDP takes everything off its device, the questions of ARP and neighbour discovery included, so nobody else
//! would answer. It answers for the destinations of the traffic and no other address: claiming those of a stranger
//! would draw its traffic here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flows::Addresses;

/// The answer to a frame, if it asks for one of these addresses.
#[must_use]
pub fn answer(frame: &[u8], ours: [u8; 6], addresses: &Addresses) -> Option<Vec<u8>> {
    let asker: [u8; 6] = frame.get(6..)?.first_chunk().copied()?;
    match frame.get(12..14)? {
        [0x08, 0x06] => arp(frame.get(14..42)?, asker, ours, addresses),
        [0x86, 0xdd] => neighbour(frame, asker, ours, addresses),
        _ => None,
    }
}

fn arp(request: &[u8], asker: [u8; 6], ours: [u8; 6], addresses: &Addresses) -> Option<Vec<u8>> {
    // Ethernet, IPv4, six and four bytes, a request.
    if request.get(..8)? != [0, 1, 8, 0, 6, 4, 0, 1] {
        return None;
    }
    let target: [u8; 4] = request.get(24..28)?.try_into().ok()?;
    if !addresses.contains(IpAddr::V4(Ipv4Addr::from(target))) {
        return None;
    }
    let answer = [
        &asker[..],
        &ours,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        &ours,
        &target,
        // To whom: hardware and protocol address of the asker.
        request.get(8..18)?,
    ];
    Some(answer.concat())
}

fn neighbour(frame: &[u8], asker: [u8; 6], ours: [u8; 6], addresses: &Addresses) -> Option<Vec<u8>> {
    // ICMPv6 from a neighbour: a hop limit of 255; a solicitation.
    if frame.get(20..22)? != [58, 255] || frame.get(54..56)? != [135, 0] {
        return None;
    }
    let source: [u8; 16] = frame.get(22..38)?.try_into().ok()?;
    let target: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
    // Who has no address yet asks whether somebody else has it: for those we don't speak.
    if source == [0; 16] || !addresses.contains(IpAddr::V6(Ipv6Addr::from(target))) {
        return None;
    }
    let builder = etherparse::PacketBuilder::ethernet2(ours, asker).ipv6(target, source, 255);
    // Solicited and overriding, with our hardware address.
    let flags = [0x60, 0, 0, 0];
    let payload = [&target[..], &[2, 1], &ours].concat();
    let mut answer = Vec::new();
    builder.icmpv6_raw(136, 0, flags).write(&mut answer, &payload).ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn request(target: [u8; 4]) -> Vec<u8> {
        [&[0xff; 6][..], &ASKER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &ASKER, &[10, 0, 0, 254], &[0; 6], &target]
            .concat()
    }

    #[test]
    fn arp_is_answered_for_destinations_alone() {
        let addresses = "10.0.0.0/30".parse().unwrap();
        let said = answer(&request([10, 0, 0, 2]), OURS, &addresses).unwrap();
        let expected = [
            &ASKER[..],
            &OURS,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &OURS,
            &[10, 0, 0, 2],
            &ASKER,
            &[10, 0, 0, 254],
        ]
        .concat();
        assert_eq!(said, expected);
        assert_eq!(answer(&request([10, 0, 0, 4]), OURS, &addresses), None);
        assert_eq!(answer(&said, OURS, &addresses), None, "answers are not answered");
    }

    #[test]
    fn neighbour_solicitations_are_answered_with_a_valid_advertisement() {
        let addresses = "2001:db8::/126".parse().unwrap();
        let ask = |target: &str, source: &str| {
            let [target, source]: [Ipv6Addr; 2] = [target, source].map(|text| text.parse().unwrap());
            let mut frame = Vec::new();
            let payload = [&target.octets()[..], &[1, 1], &ASKER].concat();
            let builder = etherparse::PacketBuilder::ethernet2(ASKER, [0x33; 6]);
            let builder = builder.ipv6(source.octets(), [0xff; 16], 255).icmpv6_raw(135, 0, [0; 4]);
            builder.write(&mut frame, &payload).unwrap();
            answer(&frame, OURS, &addresses)
        };
        let said = ask("2001:db8::2", "2001:db8::ff").unwrap();
        let packet = SlicedPacket::from_ethernet(&said).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (&packet.net, &packet.transport)
        else {
            panic!()
        };
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        assert_eq!((icmp.type_u8(), ip.header().hop_limit()), (136, 255));
        assert_eq!(&said[said.len() - 6..], &OURS);
        assert_eq!(ask("2001:db8::9", "2001:db8::ff"), None);
        assert_eq!(ask("2001:db8::2", "::"), None);
    }

    #[test]
    fn short_frames_are_not_answered() {
        let addresses = "0.0.0.0-255.255.255.255".parse().unwrap();
        let whole = request([10, 0, 0, 2]);
        assert!((0..whole.len()).all(|length| answer(&whole[..length], OURS, &addresses).is_none()));
    }
}

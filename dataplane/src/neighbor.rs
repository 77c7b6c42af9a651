//! Address resolution: what the gateway answers to ARP requests and neighbour solicitations.
//!
//! A pod has one route, to the gateway, and asks for the gateway's address, 169.254.1.1 or fe80::1. Pods that
//! believe their neighbours to be on the same link ask for these; they too get the gateway's MAC, so that
//! everything comes through it.
//!
//! # What it guarantees
//! * An answer goes out for the gateway's addresses and every address that the caller knows, except the asker's
//!   own: who probes its own address (duplicate address detection) hears nothing and may keep it, who probes
//!   somebody else's is told that it is taken.
//! * A message is believed only if its sender fields (ARP's sender addresses; the IPv6 source, the target of an
//!   advertisement, link-layer address options) are the asker's own. Nothing is learnt from any message: who has
//!   which address comes from the control side alone.
//! * Malformed messages are dropped as RFC 4861, 7.1 says. No input panics.
//!
//! All functions are pure: bytes in, an answer or a reason out. The caller puts the answer into the frame that
//! brought the question.

#![deny(clippy::indexing_slicing)]

use crate::address::Address;
use crate::checksum::pseudo_header;
use crate::drop_reason::DropReason;
use crate::packet::{ETHERNET_LEN, protocol};
use crate::wire::{array, put, u16_at};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacketSlice, EtherType, Ethernet2HeaderSlice, Icmpv6Slice,
    Ipv6HeaderSlice,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The gateway's IPv4 address on every pod port.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway's IPv6 address on every pod port.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Is it one of the gateway's own addresses?
pub fn is_gateway(address: Address) -> bool {
    address == Address::v4(GATEWAY_V4.to_bits()) || address == Address::v6(GATEWAY_V6.octets())
}

/// What is to be done with a well-formed message of an honest sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this back by the port it came from.
    Answer(Answer),
    /// Nothing; it counts as consumed.
    Consumed,
}

/// A frame to send back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    bytes: [u8; ND_LEN],
    len: usize,
}

impl Answer {
    /// The frame, from its Ethernet header on: 42 or 86 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

const ARP_LEN: usize = ETHERNET_LEN + 28;
/// An advertisement with a link-layer address option.
const ND_LEN: usize = ETHERNET_LEN + 40 + 32;
const ICMP_AT: usize = ETHERNET_LEN + 40;

/// Answers an ARP frame ([`crate::parse::Parsed::Arp`]).
///
/// `is_own` says whether an address is one of those behind the port it came in by; `is_known`, whether the
/// gateway forwards to an address. `gateway_mac` is the gateway's on this port.
///
/// # Errors
/// [`DropReason::ArpInvalid`] and [`DropReason::ArpSpoofed`].
pub fn answer_arp(
    frame: &[u8],
    gateway_mac: [u8; 6],
    is_own: impl Fn(IpAddr) -> bool,
    is_known: impl Fn(IpAddr) -> bool,
) -> Result<Outcome, DropReason> {
    let invalid = || DropReason::ArpInvalid;
    let link = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| invalid())?;
    let body = frame.get(ETHERNET_LEN..).ok_or_else(invalid)?;
    let arp = ArpPacketSlice::from_slice(body).map_err(|_| invalid())?;
    let ethernet_and_ipv4 =
        arp.hw_addr_type() == ArpHardwareId::ETHERNET && arp.proto_addr_type() == EtherType::IPV4;
    // Their lengths are 6 and 4 if these conversions succeed.
    let sender_mac: [u8; 6] = arp.sender_hw_addr().try_into().map_err(|_| invalid())?;
    let sender: [u8; 4] = arp.sender_protocol_addr().try_into().map_err(|_| invalid())?;
    let target: [u8; 4] = arp.target_protocol_addr().try_into().map_err(|_| invalid())?;
    let request = arp.operation() == ArpOperation::REQUEST;
    if !ethernet_and_ipv4 || !(request || arp.operation() == ArpOperation::REPLY) {
        return Err(DropReason::ArpInvalid);
    }
    let (sender, target) = (Ipv4Addr::from(sender), Ipv4Addr::from(target));
    // 0.0.0.0 asks without claiming an address (RFC 5227).
    let probe = request && sender.is_unspecified();
    if sender_mac != link.source() || !(probe || is_own(sender.into())) {
        return Err(DropReason::ArpSpoofed);
    }
    if !request || !answers_for(target.into(), is_own, is_known) {
        return Ok(Outcome::Consumed);
    }
    let mut answer = Answer { bytes: [0; ND_LEN], len: ARP_LEN };
    write_all(
        &mut answer.bytes,
        &[
            &sender_mac,
            &gateway_mac,
            &[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2],
            &gateway_mac,
            &target.octets(),
            &sender_mac,
            &sender.octets(),
        ],
    );
    Ok(Outcome::Answer(answer))
}

/// Answers a neighbour solicitation or takes note of an advertisement
/// ([`crate::parse::Parsed::NeighborDiscovery`]). Arguments as for [`answer_arp`]; `frame` is the head frame.
///
/// # Errors
/// [`DropReason::NdInvalid`] and [`DropReason::NdSpoofed`].
pub fn answer_nd(
    frame: &[u8],
    gateway_mac: [u8; 6],
    is_own: impl Fn(IpAddr) -> bool,
    is_known: impl Fn(IpAddr) -> bool,
) -> Result<Outcome, DropReason> {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    const SOURCE_LINK_ADDRESS: u8 = 1;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let invalid = || DropReason::NdInvalid;
    let link = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| invalid())?;
    let ip = frame.get(ETHERNET_LEN..).and_then(|bytes| Ipv6HeaderSlice::from_slice(bytes).ok());
    let ip = ip.filter(|ip| ip.next_header().0 == protocol::ICMPV6).ok_or_else(invalid)?;
    let end = ICMP_AT + usize::from(ip.payload_length());
    let message = frame.get(ICMP_AT..end).ok_or_else(invalid)?;
    let icmp = Icmpv6Slice::from_slice(message).map_err(|_| invalid())?;
    // RFC 4861, 7.1.1 and 7.1.2, point by point.
    if ip.hop_limit() != 255
        || !icmp.is_checksum_valid(ip.source(), ip.destination())
        || icmp.code_u8() != 0
        || message.len() < 24
    {
        return Err(DropReason::NdInvalid);
    }
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    let target = Ipv6Addr::from(array::<16>(message, 8).ok_or_else(invalid)?);
    if target.is_multicast() || source.is_multicast() {
        return Err(DropReason::NdInvalid);
    }
    let options = message.get(24..).unwrap_or_default();
    // A probe names no address, so it may not name a link-layer address for it either.
    let (wanted, unnamed) = match icmp.type_u8() {
        SOLICITATION => (SOURCE_LINK_ADDRESS, source.is_unspecified()),
        ADVERTISEMENT => (TARGET_LINK_ADDRESS, false),
        _ => return Err(DropReason::NdInvalid),
    };
    if let Some(mac) = link_address_option(options, wanted)? {
        if unnamed {
            return Err(DropReason::NdInvalid);
        }
        if mac != link.source() {
            return Err(DropReason::NdSpoofed);
        }
    }
    if icmp.type_u8() == ADVERTISEMENT {
        let [flags, ..] = icmp.bytes5to8();
        if destination.is_multicast() && flags & SOLICITED != 0 {
            return Err(DropReason::NdInvalid);
        }
        return if is_own(source.into()) && is_own(target.into()) {
            Ok(Outcome::Consumed)
        } else {
            Err(DropReason::NdSpoofed)
        };
    }
    let probe = source.is_unspecified();
    if probe && !is_solicited_node(destination) {
        return Err(DropReason::NdInvalid);
    }
    if !probe && !is_own(source.into()) {
        return Err(DropReason::NdSpoofed);
    }
    if !answers_for(target.into(), is_own, is_known) {
        return Ok(Outcome::Consumed);
    }
    Ok(Outcome::Answer(advertisement(gateway_mac, link.source(), target, (!probe).then_some(source))))
}

fn answers_for(target: IpAddr, is_own: impl Fn(IpAddr) -> bool, is_known: impl Fn(IpAddr) -> bool) -> bool {
    !is_own(target) && (is_gateway(target.into()) || is_known(target))
}

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// "`target` is at `gateway_mac`", told to `asker`, or to all nodes if somebody probed (RFC 4861, 7.2.4).
fn advertisement(
    gateway_mac: [u8; 6],
    asker_mac: [u8; 6],
    target: Ipv6Addr,
    asker: Option<Ipv6Addr>,
) -> Answer {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to_mac = if asker.is_some() { asker_mac } else { [0x33, 0x33, 0, 0, 0, 1] };
    let to = asker.unwrap_or(ALL_NODES);
    let flags = ROUTER | OVERRIDE | if asker.is_some() { SOLICITED } else { 0 };
    let mut answer = Answer { bytes: [0; ND_LEN], len: ND_LEN };
    write_all(
        &mut answer.bytes,
        &[
            &to_mac,
            &gateway_mac,
            &[0x86, 0xdd],
            &[0x60, 0, 0, 0, 0, 32, protocol::ICMPV6, 255],
            &target.octets(),
            &to.octets(),
            &[136, 0, 0, 0, flags, 0, 0, 0],
            &target.octets(),
            &[2, 1],
            &gateway_mac,
        ],
    );
    let mut sum = pseudo_header(target.into(), to.into(), protocol::ICMPV6, 32);
    sum.add(answer.bytes.get(ICMP_AT..).unwrap_or_default());
    let _ = put(&mut answer.bytes, ICMP_AT + 2, &sum.checksum().to_be_bytes());
    answer
}

/// Writes the parts one after the other from the start; what does not fit is left out.
fn write_all(bytes: &mut [u8], parts: &[&[u8]]) {
    let mut at = 0;
    for part in parts {
        let _ = put(bytes, at, part);
        at += part.len();
    }
}

/// The link-layer address in the options, if there is an option of kind `wanted`; every option must be well-formed.
fn link_address_option(mut options: &[u8], wanted: u8) -> Result<Option<[u8; 6]>, DropReason> {
    let mut found = None;
    while !options.is_empty() {
        let [kind, length] = u16_at(options, 0).ok_or(DropReason::NdInvalid)?.to_be_bytes();
        // In units of eight bytes; "all included options have a length that is greater than zero".
        let length = usize::from(length) * 8;
        if length == 0 || length > options.len() {
            return Err(DropReason::NdInvalid);
        }
        if kind == wanted {
            let mac = array::<6>(options, 2).filter(|_| length == 8).ok_or(DropReason::NdInvalid)?;
            if found.is_some_and(|earlier| earlier != mac) {
                return Err(DropReason::NdInvalid);
            }
            found = Some(mac);
        }
        options = options.get(length..).unwrap_or_default();
    }
    Ok(found)
}

/// ff02::1:ffXX:XXXX
fn is_solicited_node(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_frames::*;
    use etherparse::{NetSlice, SlicedPacket};

    fn is_a(address: IpAddr) -> bool {
        address == v4(A4) || address == v6(a6())
    }

    fn is_b(address: IpAddr) -> bool {
        address == v4(B4) || address == v6(b6())
    }

    /// What pod A's port says to this frame, when A and B are known.
    fn asked(frame: &[u8]) -> Result<Outcome, DropReason> {
        let known = |address| is_a(address) || is_b(address);
        if frame[12..14] == [8, 6] {
            answer_arp(frame, GATEWAY_MAC, is_a, known)
        } else {
            answer_nd(frame, GATEWAY_MAC, is_a, known)
        }
    }

    fn answered(frame: &[u8]) -> Vec<u8> {
        match asked(frame) {
            Ok(Outcome::Answer(answer)) => answer.as_bytes().to_vec(),
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    #[test]
    fn arp_for_the_gateway_and_for_neighbours() {
        for target in [GATEWAY4, B4] {
            let reply = answered(&arp(ArpOperation::REQUEST, POD_MAC, A4, target));
            assert_eq!((&reply[..6], &reply[6..12]), (&POD_MAC[..], &GATEWAY_MAC[..]));
            let parsed = SlicedPacket::from_ethernet(&reply).unwrap();
            let Some(NetSlice::Arp(arp)) = parsed.net else { panic!("not ARP") };
            assert_eq!(arp.operation(), ArpOperation::REPLY);
            assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&GATEWAY_MAC[..], &target[..]));
            assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&POD_MAC[..], &A4[..]));
        }
        // A probe of somebody else's address is told that it is taken.
        answered(&arp(ArpOperation::REQUEST, POD_MAC, [0; 4], B4));
    }

    #[test]
    fn arp_that_needs_no_answer() {
        for (operation, sender, target) in [
            (ArpOperation::REQUEST, [0; 4], A4),         // probe of its own
            (ArpOperation::REQUEST, A4, A4),             // announcement
            (ArpOperation::REQUEST, A4, [192, 0, 2, 1]), // nobody we know
            (ArpOperation::REPLY, A4, GATEWAY4),
        ] {
            assert_eq!(asked(&arp(operation, POD_MAC, sender, target)), Ok(Outcome::Consumed));
        }
    }

    #[test]
    fn arp_lies() {
        for (operation, mac, sender) in [
            (ArpOperation::REQUEST, POD_MAC, B4),
            (ArpOperation::REPLY, POD_MAC, B4),
            (ArpOperation::REPLY, POD_MAC, [0; 4]),
            (ArpOperation::REQUEST, GATEWAY_MAC, A4),
        ] {
            assert_eq!(asked(&arp(operation, mac, sender, GATEWAY4)), Err(DropReason::ArpSpoofed));
        }
    }

    #[test]
    fn malformed_arp() {
        let good = arp(ArpOperation::REQUEST, POD_MAC, A4, GATEWAY4);
        for length in 14..good.len() {
            assert_eq!(asked(&good[..length]), Err(DropReason::ArpInvalid), "cut to {length}");
        }
        for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3), (21, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            bad.resize(100, 0);
            assert_eq!(asked(&bad), Err(DropReason::ArpInvalid), "byte {at}");
        }
    }

    #[test]
    fn solicitations_for_the_gateway_and_for_neighbours() {
        let multicast = |target| solicitation(a6(), solicited_node(target), target, &source_link_option());
        for (question, target, unicast) in [
            (multicast(gateway6()), gateway6(), true),
            (multicast(b6()), b6(), true),
            (solicitation(a6(), gateway6(), gateway6(), &[]), gateway6(), true),
            (solicitation([0; 16], solicited_node(b6()), b6(), &[]), b6(), false),
        ] {
            let reply = answered(&question);
            assert_eq!(reply[6..12], GATEWAY_MAC);
            assert_eq!(reply[..6], if unicast { POD_MAC } else { [0x33, 0x33, 0, 0, 0, 1] });
            let parsed = SlicedPacket::from_ethernet(&reply).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!("not IPv6") };
            let to: Ipv6Addr = if unicast { a6().into() } else { "ff02::1".parse().unwrap() };
            assert_eq!((ip.header().source(), ip.header().destination_addr()), (target, to));
            assert_eq!(ip.header().hop_limit(), 255);
            let icmp = Icmpv6Slice::from_slice(&reply[54..]).unwrap();
            assert!(icmp.is_checksum_valid(target, to.octets()));
            assert_eq!((icmp.type_u8(), icmp.bytes5to8()[0]), (136, if unicast { 0xe0 } else { 0xa0 }));
            assert_eq!(reply[62..78], target);
            assert_eq!(reply[78..80], [2, 1]);
            assert_eq!(reply[80..86], GATEWAY_MAC);
        }
    }

    #[test]
    fn nd_that_needs_no_answer() {
        let elsewhere = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        for frame in [
            solicitation([0; 16], solicited_node(a6()), a6(), &[]),
            solicitation(a6(), solicited_node(elsewhere), elsewhere, &source_link_option()),
            with_type(solicitation(a6(), gateway6(), a6(), &target_link_option(POD_MAC)), 136),
        ] {
            assert_eq!(asked(&frame), Ok(Outcome::Consumed));
        }
    }

    fn target_link_option(mac: [u8; 6]) -> Vec<u8> {
        let mut option = vec![2, 1];
        option.extend_from_slice(&mac);
        option
    }

    /// Another ICMPv6 type, and the checksum right for it.
    fn with_type(mut frame: Vec<u8>, kind: u8) -> Vec<u8> {
        frame[54] = kind;
        mend(&mut frame);
        frame
    }

    fn mend(frame: &mut [u8]) {
        frame[56..58].fill(0);
        let ip = Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap();
        let length = u32::from(ip.payload_length());
        let mut sum = pseudo_header(ip.source_addr().into(), ip.destination_addr().into(), 58, length);
        sum.add(&frame[54..]);
        frame[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
    }

    #[test]
    fn nd_lies() {
        let group = solicited_node(gateway6());
        let mut foreign_mac = source_link_option();
        foreign_mac[7] ^= 1;
        for frame in [
            solicitation(b6(), group, gateway6(), &[]),
            solicitation(a6(), group, gateway6(), &foreign_mac),
            with_type(solicitation(a6(), gateway6(), b6(), &target_link_option(POD_MAC)), 136),
            with_type(solicitation(b6(), gateway6(), a6(), &target_link_option(POD_MAC)), 136),
            with_type(solicitation(a6(), gateway6(), a6(), &target_link_option(GATEWAY_MAC)), 136),
        ] {
            assert_eq!(asked(&frame), Err(DropReason::NdSpoofed));
        }
    }

    #[test]
    fn malformed_nd() {
        let group = solicited_node(gateway6());
        let good = solicitation(a6(), group, gateway6(), &source_link_option());
        answered(&good);
        for length in 14..good.len() {
            assert_eq!(asked(&good[..length]), Err(DropReason::NdInvalid), "cut to {length}");
        }
        let patched = |at: usize, value: u8, mended: bool| {
            let mut frame = good.clone();
            frame[at] = value;
            if mended {
                mend(&mut frame);
            }
            frame
        };
        let source_option = source_link_option();
        for (why, frame) in [
            ("hop limit 254", patched(21, 254, true)),
            ("checksum", patched(60, 1, false)),
            ("code 1", patched(55, 1, true)),
            ("multicast target", patched(62, 0xff, true)),
            ("option of length 0", patched(79, 0, true)),
            ("option longer than the message", patched(79, 2, true)),
            ("too short", solicitation(a6(), group, gateway6(), &[1, 1, 0, 0])),
            ("probe with link address", solicitation([0; 16], group, gateway6(), &source_option)),
            ("probe to one", solicitation([0; 16], gateway6(), gateway6(), &[])),
            ("not neighbour discovery", patched(54, 134, true)),
        ] {
            assert_eq!(asked(&frame), Err(DropReason::NdInvalid), "{why}");
        }
        let mut to_all = solicitation(a6(), "ff02::1".parse::<Ipv6Addr>().unwrap().octets(), a6(), &[]);
        to_all[58] = SOLICITED;
        assert_eq!(asked(&with_type(to_all, 136)), Err(DropReason::NdInvalid), "solicited to all");
    }
}

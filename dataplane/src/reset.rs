//! The TCP resets that end a denied connection, if those are to be rejected rather than left in silence.
//!
//! [`farewell`] tells the other end of a connection that was open until now. [`reset`] answers the segment itself; it never answers a reset, and its numbers are those that the segment's sender will believe (RFC 9293, 3.10.7.1): what
//! the segment acknowledged, or, without an acknowledgement, an acknowledgement of all that the segment was. It is written as
//! if the segment's receiver had sent it, whom nobody asked. How often is the caller's to limit.

#![deny(clippy::indexing_slicing)]

use std::net::IpAddr;

use crate::checksum::{Sum, pseudo_header};
use crate::flow::Hop;
use crate::flow::Segment;
use crate::packet::{ETHERNET_LEN, Headers, TcpFlags, Transport, protocol};
use crate::wire::{array, put};

/// TTL and hop limit of what the gateway sends itself.
const HOP_LIMIT: u8 = 64;
const TCP_LEN: usize = 20;

/// Most bytes that either writes.
pub const MAX_RESET: usize = ETHERNET_LEN + 40 + TCP_LEN;

/// Writes the reset that answers a segment into `out` (of at least [`MAX_RESET`] bytes) and says how long the frame is.
/// `denied` is the segment's head frame as it came in, `headers` what the parser said of it. The frame goes back to where the
/// segment came from.
///
/// `None` if it is no TCP, or must not be answered, or `out` is too short.
pub fn reset(denied: &[u8], headers: &Headers, out: &mut [u8]) -> Option<usize> {
    let Transport::Tcp(flags) = headers.transport else { return None };
    if flags.has(TcpFlags::RST) || out.len() < MAX_RESET {
        return None;
    }
    let segment = Segment::of(denied, headers, flags)?;
    let (sequence, acknowledgement, answer) = if flags.has(TcpFlags::ACK) {
        (segment.acknowledgement, 0, TcpFlags::RST)
    } else {
        (0, segment.end(), TcpFlags::RST | TcpFlags::ACK)
    };
    // As from the one that the segment was for, back to where it came from, by the MAC address it was sent to.
    let from = (headers.destination.into(), headers.destination_port);
    let to = (headers.source.into(), headers.source_port);
    let length = write(from, to, (sequence, acknowledgement, answer), out)?;
    put(out, 0, &array::<6>(denied, 6)?)?;
    put(out, 6, &array::<6>(denied, 0)?)?;
    Some(length)
}

/// Writes the reset that the receiver of a segment is told with that its connection is over, as if the segment's sender had
/// sent it, into `out` (of at least [`MAX_RESET`] bytes), and says how long the frame is. `headers` are the segment's,
/// `sequence` is the number that its receiver expects next, `hop` the way there.
///
/// `None` if `out` is too short.
pub fn farewell(headers: &Headers, sequence: u32, hop: &Hop, out: &mut [u8]) -> Option<usize> {
    let from = (headers.source.into(), headers.source_port);
    let to = (headers.destination.into(), headers.destination_port);
    let length = write(from, to, (sequence, 0, TcpFlags::RST), out)?;
    put(out, 0, &hop.destination_mac)?;
    put(out, 6, &hop.source_mac)?;
    Some(length)
}

/// All but the MAC addresses.
fn write(
    (source, source_port): (IpAddr, u16),
    (destination, destination_port): (IpAddr, u16),
    (sequence, acknowledgement, flags): (u32, u32, u8),
    out: &mut [u8],
) -> Option<usize> {
    let (ether_type, ip_len) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let ip = out.get_mut(ETHERNET_LEN..)?;
            put(ip, 0, &[0x45, 0, 0, 20 + TCP_LEN as u8, 0, 0, 0x40, 0, HOP_LIMIT, protocol::TCP, 0, 0])?;
            put(ip, 12, &source.octets())?;
            put(ip, 16, &destination.octets())?;
            let mut sum = Sum::new();
            sum.add(ip.get(..20)?);
            put(ip, 10, &sum.checksum().to_be_bytes())?;
            ([0x08, 0x00], 20)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = out.get_mut(ETHERNET_LEN..)?;
            put(ip, 0, &[0x60, 0, 0, 0, 0, TCP_LEN as u8, protocol::TCP, HOP_LIMIT])?;
            put(ip, 8, &source.octets())?;
            put(ip, 24, &destination.octets())?;
            ([0x86, 0xdd], 40)
        }
        _ => return None,
    };
    put(out, 12, &ether_type)?;
    let tcp = out.get_mut(ETHERNET_LEN + ip_len..ETHERNET_LEN + ip_len + TCP_LEN)?;
    put(tcp, 0, &source_port.to_be_bytes())?;
    put(tcp, 2, &destination_port.to_be_bytes())?;
    put(tcp, 4, &sequence.to_be_bytes())?;
    put(tcp, 8, &acknowledgement.to_be_bytes())?;
    // Five words of header, the flags, no window, no urgent data.
    put(tcp, 12, &[5 << 4, flags, 0, 0, 0, 0, 0, 0])?;
    let mut sum = pseudo_header(source, destination, protocol::TCP, TCP_LEN as u32);
    sum.add(tcp);
    put(tcp, 16, &sum.checksum().to_be_bytes())?;
    Some(ETHERNET_LEN + ip_len + TCP_LEN)
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;
    use crate::parse::{Parsed, parse};

    fn segment(six: bool, flags: &str, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip =
            if six { link.ipv6([1; 16], [2; 16], 9) } else { link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9) };
        let mut step = ip.tcp(1000, 80, u32::MAX, 500);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(7777),
                'F' => step.fin(),
                _ => step.rst(),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, payload).unwrap();
        frame
    }

    fn headers(frame: &[u8]) -> Headers {
        match parse(frame, frame.len()) {
            Ok(Parsed::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_sender_will_believe() {
        for six in [false, true] {
            for (flags, payload, sequence, acknowledgement) in [
                ("S", &b""[..], 0, Some(0_u32)),
                ("S", b"data", 0, Some(4)),
                ("SA", b"", 7777, None),
                ("A", b"xyz", 7777, None),
                ("FA", b"", 7777, None),
            ] {
                let denied = segment(six, flags, payload);
                let mut out = [0xaa; MAX_RESET];
                let length = reset(&denied, &headers(&denied), &mut out).unwrap();
                let frame = &out[..length];
                let answer = headers(frame);
                assert_eq!(answer.packet_len as usize, length);
                assert_eq!(
                    (answer.source, answer.destination),
                    (headers(&denied).destination, headers(&denied).source)
                );
                assert_eq!((&frame[..6], &frame[6..12]), (&denied[6..12], &denied[..6]));
                let sliced = SlicedPacket::from_ethernet(frame).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{frame:?}") };
                assert!(tcp.rst() && !tcp.syn() && tcp.ack() == acknowledgement.is_some());
                assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 1000));
                assert_eq!(
                    (tcp.sequence_number(), tcp.acknowledgment_number()),
                    (sequence, acknowledgement.unwrap_or(0))
                );
                let checksum = match (answer.source.into(), answer.destination.into()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => {
                        tcp.to_header().calc_checksum_ipv4_raw(a.octets(), b.octets(), &[])
                    }
                    (IpAddr::V6(a), IpAddr::V6(b)) => {
                        tcp.to_header().calc_checksum_ipv6_raw(a.octets(), b.octets(), &[])
                    }
                    _ => panic!("families"),
                };
                assert_eq!(checksum.unwrap(), tcp.checksum());
            }
            for flags in ["R", "RA"] {
                let denied = segment(six, flags, b"");
                assert_eq!(reset(&denied, &headers(&denied), &mut [0; MAX_RESET]), None);
            }
            let denied = segment(six, "S", b"");
            assert_eq!(reset(&denied, &headers(&denied), &mut [0; MAX_RESET - 1]), None);
        }
    }
}

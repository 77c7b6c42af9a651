//! What tells connections apart, the same for both directions.

use std::net::IpAddr;

use crate::packet::{Headers, Role, protocol};
use crate::parse::Quoted;

/// Addresses and ports of one direction of a connection, as they are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Who sends.
    pub source: IpAddr,
    /// Who receives.
    pub destination: IpAddr,
    /// Source port or what stands for it ([`Headers::flow_ports`]), host order.
    pub source_port: u16,
    /// Destination port or what stands for it, host order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// Of a packet.
    #[inline]
    #[must_use]
    pub fn of(headers: &Headers) -> Self {
        let (source_port, destination_port) = headers.flow_ports();
        Self {
            source: headers.source,
            destination: headers.destination,
            source_port,
            destination_port,
            protocol: headers.protocol,
        }
    }

    /// Of the packet that an ICMP error quotes.
    #[must_use]
    pub fn of_quoted(quoted: &Quoted) -> Self {
        let (source_port, destination_port) = quoted.flow_ports;
        Self {
            source: quoted.source,
            destination: quoted.destination,
            source_port,
            destination_port,
            protocol: quoted.protocol,
        }
    }

    /// The other direction's.
    #[inline]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// Does the protocol itself say which direction is the original one? Then a request one way and a request the other
    /// way are two connections, whatever their identifiers.
    fn is_oriented(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }
}

/// The same for both directions of a connection: the lower end first, or, where packets themselves say which direction they
/// go (ICMP), the one that asks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Words rather than a u128 each: that would be aligned to 16 bytes, and fill the key up to 48.
    first: [u64; 2],
    second: [u64; 2],
    /// Both ports and the protocol: one word to hash and compare.
    rest: u64,
}

/// Which way a packet goes between the two ends of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// From the key's first end to its second.
    Forward,
    /// From its second to its first.
    Backward,
}

impl FlowKey {
    /// The key of a packet's connection, and which way the packet goes.
    #[inline]
    #[must_use]
    pub fn of(tuple: &Tuple, role: Role) -> (Self, Heading) {
        let forward = if tuple.is_oriented() {
            role != Role::Reply
        } else {
            (bits(tuple.source), tuple.source_port) <= (bits(tuple.destination), tuple.destination_port)
        };
        if forward {
            (Self::directed(tuple), Heading::Forward)
        } else {
            (Self::directed(&tuple.reversed()), Heading::Backward)
        }
    }

    #[inline]
    fn directed(tuple: &Tuple) -> Self {
        let ports = u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port);
        Self {
            first: words(tuple.source),
            second: words(tuple.destination),
            rest: ports << 8 | u64::from(tuple.protocol),
        }
    }
}

/// IPv4 addresses as IPv4-mapped: no packet has such an IPv6 address (the parser drops them), so families never mix.
#[inline]
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => 0xffff_0000_0000 | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[inline]
fn words(address: IpAddr) -> [u64; 2] {
    let bits = bits(address);
    [(bits >> 64) as u64, bits as u64]
}

/// Two addresses in one order whichever way a packet goes between them, as numbers (IPv4 as IPv4-mapped).
#[inline]
#[must_use]
pub fn pair(a: IpAddr, b: IpAddr) -> (u128, u128) {
    let (a, b) = (bits(a), bits(b));
    if a <= b { (a, b) } else { (b, a) }
}

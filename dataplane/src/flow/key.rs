//! What tells connections apart, the same for both directions.

use std::net::IpAddr;

use crate::address::Address;
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
            source: headers.source.into(),
            destination: headers.destination.into(),
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
}

/// The same for both directions of a connection: the lower end first, or, where packets themselves say which direction they
/// go (ICMP), the one that asks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    first: Address,
    second: Address,
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
    pub fn of(headers: &Headers) -> (Self, Heading) {
        let (source_port, destination_port) = headers.flow_ports();
        let (source, destination) = ((headers.source, source_port), (headers.destination, destination_port));
        Self::between(source, destination, headers.protocol, headers.role())
    }

    /// The same by the packet's addresses and ports, if it plays this part in its connection.
    #[inline]
    #[must_use]
    pub fn of_tuple(tuple: &Tuple, role: Role) -> (Self, Heading) {
        let source = (tuple.source.into(), tuple.source_port);
        let destination = (tuple.destination.into(), tuple.destination_port);
        Self::between(source, destination, tuple.protocol, role)
    }

    #[inline(always)]
    fn between(
        source: (Address, u16),
        destination: (Address, u16),
        protocol: u8,
        role: Role,
    ) -> (Self, Heading) {
        // Does the protocol itself say which direction is the original one? Then a request one way and a request the other
        // way are two connections, whatever their identifiers.
        let is_oriented = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
        let forward = if is_oriented { role != Role::Reply } else { source <= destination };
        let (first, second, heading) = if forward {
            (source, destination, Heading::Forward)
        } else {
            (destination, source, Heading::Backward)
        };
        let ports = u64::from(first.1) << 16 | u64::from(second.1);
        let rest = ports << 8 | u64::from(protocol);
        (Self { first: first.0, second: second.0, rest }, heading)
    }
}

/// Two addresses in one order whichever way a packet goes between them.
#[inline]
#[must_use]
pub fn pair(a: IpAddr, b: IpAddr) -> (Address, Address) {
    let (a, b) = (a.into(), b.into());
    if a <= b { (a, b) } else { (b, a) }
}

//! Datagrams that come in fragments: what later fragments, which carry no ports, have to go by.
//!
//! A [`FragmentTable`] belongs to one worker. All fragments of a datagram reach the same one, because the owner of a
//! connection follows from the two addresses alone. Nothing is put together here: fragments are forwarded as they came.
//! The table remembers, for each datagram, which bytes have come, and what became of its first fragment, which is judged
//! like a whole packet. Fragments that come before it are held until then.
//!
//! What is guaranteed:
//! - A later fragment never passes on a verdict that is remembered here. What is remembered is the connection ([`Lead`]) of
//!   the first one, and each later fragment is looked up in the flow table by it, as any packet of that connection; so a
//!   policy that changed, or an address that moved, counts from the next fragment on.
//! - No two fragments that pass have a byte in common (RFC 5722, for IPv4 too), so all receivers put together the same
//!   datagram, with the transport header that was judged. A fragment whose bytes have all come already is dropped alone, as
//!   Linux does: networks duplicate. Any other overlap, and any doubt about the datagram's length, ends the datagram: none of
//!   its fragments passes any more, held ones included.
//! - A datagram is told by addresses, identification, for IPv4 the protocol, and the port it came in by: who is behind
//!   another port cannot put a fragment into it.
//! - All memory is taken at the start. A datagram's time counts from its first-seen fragment and is not prolonged, so that the
//!   oldest is the next to go, and aging costs a fixed number of steps a turn. Its entry ends when its last missing byte has
//!   come.
//! - Nobody takes it all: neither one source, nor one port whatever sources it writes into its packets ([`shares`]). What each
//!   port has, and what it was refused, is there to be read ([`Charge`]).
//!
//! What breaks if changed: the index is keyed with a secret of this boot, because who sends fragments chooses the keys. Were
//! bytes taken down for a fragment that is then not held for want of room, its datagram would look complete without it.

mod places;
mod ranges;
mod shares;
mod table;

use std::time::Duration;

pub use ranges::RUNS;
pub use shares::{Charge, Charges};
pub use table::{Aged, Arrival, DatagramId, FragmentTable};

use crate::address::Address;
use crate::flow::{FlowKey, Heading};
use crate::packet::{Fragment, Headers, PortId};

/// How much a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams. One source at one port has [a quarter](Limits::datagrams_per_source) of them at most, one port
    /// [more](Limits::per_port).
    pub datagrams: usize,
    /// Fragments that wait for their first one. Of these too one port has [not all](Limits::per_port).
    pub held: usize,
    /// Those of them that one source may have at one port.
    pub held_per_source: usize,
    /// How long a datagram may take from the first of its fragments that comes to the last.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { datagrams: 1024, held: 512, held_per_source: 128, timeout: Duration::from_secs(3) }
    }
}

impl Limits {
    /// Those of them that one datagram may have: enough for 64 kB in reverse order at the smallest MTU of IPv6.
    pub const HELD_PER_DATAGRAM: usize = 64;
    /// Buffers that a fragment may fill to be held: those of the largest MTU that links have. Veth pairs have larger ones, and a
    /// packet may be padded; were such ones held, a few hundred of them would have all of a worker's memory.
    pub const HELD_BUFFERS: usize = 4;

    /// Datagrams that one source may have.
    #[must_use]
    pub fn datagrams_per_source(&self) -> usize {
        (self.datagrams / 4).max(1)
    }

    /// How many of `count` datagrams or fragments one port may have: three quarters.
    #[must_use]
    pub fn per_port(count: usize) -> usize {
        (count / 4 * 3 + count % 4).max(1)
    }
}

/// What tells datagrams apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
    /// The identification of the fragments, host order.
    pub identification: u32,
    /// IP protocol number; 0 for IPv6, where it does not count (RFC 8200, 4.5).
    pub protocol: u8,
    /// The port the fragments come in by.
    pub ingress: PortId,
}

impl DatagramKey {
    /// That of a packet that is this fragment.
    #[must_use]
    pub fn of(headers: &Headers, fragment: &Fragment, ingress: PortId) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            identification: fragment.identification,
            protocol: if headers.is_ipv6() { 0 } else { headers.protocol },
            ingress,
        }
    }
}

/// The connection of an admitted first fragment, and which way it goes there: what its later ones are looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// The connection's key.
    pub key: FlowKey,
    /// The way.
    pub heading: Heading,
}

impl Lead {
    /// That of a first fragment.
    #[must_use]
    pub fn of(headers: &Headers) -> Self {
        let (key, heading) = FlowKey::of(headers);
        Self { key, heading }
    }
}

#[cfg(test)]
mod tests;

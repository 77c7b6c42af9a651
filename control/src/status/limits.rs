//! Who fills what is limited: connections, datagrams in fragments, answers to what is dropped, by the port that they are
//! charged to.

use std::cmp::Reverse;
use std::io;

use serde::{Deserialize, Serialize};

use super::{PortStatus, heading};
use crate::cli::{Console, Table};

/// Ports that each table of the text form shows.
const HEAVIEST_SHOWN: usize = 5;

/// Connections charged to a port: those that its pod opened, and those from outside to it. All workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFlows {
    /// Connections now.
    pub open: u64,
    /// Those of them that are not established.
    pub embryonic: u64,
    /// Connections that had to go before their time, because a table was full or the pod had too many.
    pub evicted: u64,
    /// New connections that found no room.
    pub refused: u64,
    /// Seconds since the last one of these.
    #[serde(default)]
    pub refused_seconds_ago: Option<u64>,
}

/// What came by a port and is in the workers' tables of fragments. All workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFragments {
    /// Datagrams of which some fragments are missing, now.
    pub datagrams: u64,
    /// Fragments that wait for the first one of their datagram, now.
    pub held: u64,
    /// Which part that is of what the port may have in one worker, in percent: the largest of all workers.
    pub share_percent: u64,
    /// Fragments that found no room.
    pub refused: u64,
    /// Seconds since the last one of these.
    pub refused_seconds_ago: Option<u64>,
}

/// ICMP errors and resets about what came by a port. All workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortErrors {
    /// Those that were made.
    pub sent: u64,
    /// Those that were not, because there had been too many.
    pub refused: u64,
    /// Seconds since the last one of these.
    pub refused_seconds_ago: Option<u64>,
}

/// Neighbours of direct networks that packets that came by a port want, and whose MAC addresses are not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNeighbours {
    /// Those that the kernel is looking for now.
    pub wanted: u64,
    /// How often another one was wanted while there were too many.
    pub refused: u64,
    /// Seconds since that was so last.
    pub refused_seconds_ago: Option<u64>,
}

impl PortStatus {
    /// The pod behind it, or else its kind and interface.
    #[must_use]
    pub fn whose(&self) -> String {
        self.pod.clone().unwrap_or_else(|| format!("{} {}", self.kind, self.interface))
    }
}

/// The tables of who has most of something: who met a limit comes first.
pub(super) fn print(ports: &[PortStatus], console: &mut Console) -> io::Result<()> {
    let flows = |port: &PortStatus| {
        let PortFlows { open, embryonic, evicted, refused, .. } = port.flows;
        let weight = (evicted + refused, open);
        (port.flows != PortFlows::default()).then_some((weight, [open, embryonic, evicted, refused]))
    };
    print_heaviest(
        ports,
        ("Most connections", &["of", "connections", "not established", "evicted", "refused"]),
        flows,
        console,
    )?;
    let fragments = |port: &PortStatus| {
        let PortFragments { datagrams, held, share_percent, refused, .. } = port.fragments;
        let weight = (share_percent, refused);
        (port.fragments != PortFragments::default())
            .then_some((weight, [datagrams, held, share_percent, refused]))
    };
    print_heaviest(
        ports,
        ("Most fragments", &["of", "datagrams", "waiting", "percent of its share", "refused"]),
        fragments,
        console,
    )?;
    if ports.iter().all(|port| port.errors.refused == 0) {
        return Ok(());
    }
    let errors = |port: &PortStatus| {
        let PortErrors { sent, refused, .. } = port.errors;
        (sent + refused > 0).then_some(((sent + refused, 0), [sent, refused]))
    };
    print_heaviest(ports, ("Most errors and resets", &["of", "sent", "kept back"]), errors, console)
}

/// A table of the ports that `of` says something about, the heaviest first; nothing without any.
fn print_heaviest<const N: usize>(
    ports: &[PortStatus],
    (title, columns): (&str, &[&str]),
    of: impl Fn(&PortStatus) -> Option<((u64, u64), [u64; N])>,
    console: &mut Console,
) -> io::Result<()> {
    let mut rows: Vec<_> = ports.iter().filter_map(|port| Some((port, of(port)?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_by_key(|(_, (weight, _))| Reverse(*weight));
    heading(console, title)?;
    let mut table = Table::new(columns);
    for (port, (_, numbers)) in rows.into_iter().take(HEAVIEST_SHOWN) {
        table.row(std::iter::once(port.whose()).chain(numbers.map(|number| number.to_string())));
    }
    table.print(console, "  ")
}

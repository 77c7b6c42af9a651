//! Can what was seen of a connection's packets be explained?
//!
//! [`handle`] is all that a gateway may do with a packet under one published state, read off the rules and not off the
//! gateway: it passes along an entry that this state still allows, or opens one if this state allows that; otherwise it
//! does not pass, and an entry that is no longer allowed is gone. The worker that receives a packet looks at its port, and
//! may hand it over to another one, which looks at its connection under the same state or a later one. Which states these
//! were, the observer does not know: any that were in force between the packet's reception and its transmission, or, if it
//! never came out, the time at which it was surely lost. Nor does it know in which order packets of the two directions were
//! handled, unless one was sent after the other had come out. [`explain`] tries all of it. What remains is an exact check of
//! three promises:
//!
//! - what passed was allowed by a state in force meanwhile, in the direction in which its connection was opened;
//! - what did not pass, nor anything later of its connection, was denied by a state in force meanwhile: a connection that
//!   all of them allow is never cut;
//! - a connection that was cut is opened again only by a packet that may open one.

use std::collections::BTreeSet;

use crate::talk::{Kind, Line, Way};
use crate::town::{Plug, World};

/// What the gateway remembers of a connection, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The way in which it was opened.
    way: Way,
    /// Who opened it.
    from: Plug,
    /// The identity of whoever it was opened to.
    to: u32,
}

/// What it may remember.
pub type Memory = BTreeSet<Option<Entry>>;

/// A packet under observation. Times are those of the observer's clock, and never the same twice.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub way: Way,
    pub kind: Kind,
    /// Where it came from.
    pub sender: Plug,
    /// The sequence number after it.
    pub end: u32,
    /// When it was put on the wire, and the generation then.
    pub put: (u64, u64),
    /// When it was taken off another one, and the generation then.
    pub out: Option<(u64, u64)>,
}

/// The states that were in force since the gateway rested last.
pub struct Worlds {
    /// The generation of the first.
    pub first: u64,
    pub all: Vec<World>,
}

impl Worlds {
    /// The newest generation.
    pub fn newest(&self) -> u64 {
        self.first + self.all.len() as u64 - 1
    }

    /// The state of a generation.
    pub fn at(&self, generation: u64) -> &World {
        &self.all[(generation - self.first) as usize]
    }

    /// Whatever was in force while a packet was under way.
    pub fn during<'a>(&'a self, packet: &Seen) -> impl Iterator<Item = &'a World> + use<'a> {
        let last = packet.out.map_or(self.newest(), |out| out.1);
        (packet.put.1..=last).map(|generation| self.at(generation))
    }
}

/// A connection, and how the gateway treats established ones.
#[derive(Clone, Copy)]
pub struct Rules {
    pub number: usize,
    pub line: Line,
    /// They go on whatever policy says by now.
    pub keep: bool,
}

/// What a gateway does with a packet that was received under one state and judged under another: whether it passes, and what
/// is remembered afterwards.
fn handle(
    entry: Option<Entry>,
    packet: &Seen,
    received: &World,
    world: &World,
    rules: Rules,
) -> (bool, Option<Entry>) {
    let plugs = |way| {
        let (source, destination) = rules.line.places(way);
        (world.plugs[source], world.plugs[destination])
    };
    if received.plugs[rules.line.places(packet.way).0] != Some(packet.sender) {
        // The port it came by is gone.
        return (false, entry);
    }
    let (sender, receiver) = plugs(packet.way);
    if let Some(known) = entry {
        let (from, to) = plugs(known.way);
        let is_same = from == Some(known.from) && to.is_some_and(|plug| plug.identity == known.to);
        if is_same && (rules.keep || world.allows(rules.number, known.way)) {
            // A SYN asks for another connection, whatever this one may do.
            let passes = packet.kind != Kind::Syn || world.allows(rules.number, packet.way);
            return (passes, entry);
        }
    }
    match receiver {
        // By a port that is gone meanwhile nothing is opened.
        Some(receiver)
            if packet.kind.opens()
                && sender == Some(packet.sender)
                && world.allows(rules.number, packet.way) =>
        {
            (true, Some(Entry { way: packet.way, from: packet.sender, to: receiver.identity }))
        }
        _ => (false, None),
    }
}

/// What the gateway may remember after these packets, in the order in which they were put on the wire, if it may have
/// remembered `before`. Nothing at all if no order and no states explain what was seen.
pub fn explain(before: &Memory, packets: &[Seen], worlds: &Worlds, rules: Rules) -> Memory {
    let of = |way| packets.iter().filter(|packet| packet.way == way).collect::<Vec<_>>();
    let (there, back) = (of(Way::There), of(Way::Back));
    // `memories[i][j]`: after the first `i` packets there and the first `j` back.
    let mut memories = vec![vec![Memory::new(); back.len() + 1]; there.len() + 1];
    memories[0][0] = before.clone();
    for i in 0..=there.len() {
        for j in 0..=back.len() {
            let memory = std::mem::take(&mut memories[i][j]);
            let (next_there, next_back) = (there.get(i).copied(), back.get(j).copied());
            if let Some(packet) = next_there.filter(|packet| !is_after(packet, next_back)) {
                memories[i + 1][j].extend(after(&memory, packet, worlds, rules));
            }
            if let Some(packet) = next_back.filter(|packet| !is_after(packet, next_there)) {
                memories[i][j + 1].extend(after(&memory, packet, worlds, rules));
            }
            memories[i][j] = memory;
        }
    }
    memories.pop().and_then(|mut last| last.pop()).unwrap_or_default()
}

/// Was it sent when the other one had come out already?
fn is_after(packet: &Seen, other: Option<&Seen>) -> bool {
    other.and_then(|other| other.out).is_some_and(|out| out.0 < packet.put.0)
}

/// What may be remembered after a packet, under any states that explain what became of it.
fn after(memory: &Memory, packet: &Seen, worlds: &Worlds, rules: Rules) -> Memory {
    let mut next = Memory::new();
    let during: Vec<&World> = worlds.during(packet).collect();
    for (place, received) in during.iter().enumerate() {
        for world in &during[place..] {
            for entry in memory {
                let (passes, entry) = handle(*entry, packet, received, world, rules);
                if passes == packet.out.is_some() {
                    next.insert(entry);
                }
            }
        }
    }
    next
}

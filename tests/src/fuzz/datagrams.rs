//! What becomes of fragments: a naive map of the bytes of each datagram, as a receiver would hold them.
//!
//! A datagram lives from its first-seen piece until its time is over or its last byte has come. It knows which units of 8
//! bytes have come, one by one, and in which order pieces wait. Whether the first one passes is asked of
//! [`Connections`](super::connections::Connections), and so is each later one.

use std::collections::{BTreeMap, BTreeSet};

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::{Limits, RUNS};
use podgate_dataplane::packet::PortId;

use super::scene::End;
use super::talk::Tuple;

/// What tells datagrams apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The port that it comes in by.
    pub port: PortId,
    /// IPv6.
    pub six: bool,
    /// Source and destination.
    pub ends: (End, End),
    /// The identification of its fragments.
    pub identification: u16,
    /// Its protocol; 0 for IPv6, where it does not count.
    pub protocol: u8,
}

/// A piece of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in units of 8 bytes.
    pub start: u16,
    /// Its length in bytes.
    pub length: u16,
    /// More follow.
    pub more: bool,
}

impl Piece {
    fn end(&self) -> u32 {
        u32::from(self.start) * 8 + u32::from(self.length)
    }

    /// The units that it fills, the last one perhaps in part.
    fn units(&self) -> BTreeSet<u16> {
        (self.start..self.start + self.length.div_ceil(8)).collect()
    }
}

/// What must be done with a piece, and with those that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is judged; if it passes these follow, in this order, and otherwise they end with it.
    Leads(Vec<usize>),
    /// It follows the datagram's first piece, which was of this connection.
    Follows(Tuple),
    /// It waits.
    Waits,
    /// It ends, and what waits for it perhaps too.
    Ends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// For the first piece.
    Waiting,
    /// It passed, in this connection.
    Led(Tuple),
    /// It did not pass.
    Refused,
    /// Its pieces do not fit each other.
    Broken,
}

#[derive(Debug, Clone)]
struct Datagram {
    begun: u64,
    come: BTreeSet<u16>,
    /// Where it ends, in bytes, once that is known.
    total: Option<u32>,
    state: State,
    waiting: Vec<usize>,
}

/// All datagrams.
#[derive(Debug)]
pub struct Datagrams {
    all: BTreeMap<Name, Datagram>,
    limits: Limits,
}

impl Datagrams {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { all: BTreeMap::new(), limits }
    }

    /// How many there are, and how many pieces wait.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.all.len() as u64, self.all.values().map(|datagram| datagram.waiting.len() as u64).sum())
    }

    /// Ends those whose time is over.
    pub fn forget(&mut self, now: u64) {
        self.all.retain(|_, datagram| datagram.begun + self.limits.timeout.as_secs() > now);
    }

    /// A piece arrives, `number` of all that did.
    pub fn arrive(&mut self, name: Name, piece: Piece, number: usize, now: u64) -> Fate {
        let datagram = self.all.entry(name).or_insert_with(|| Datagram {
            begun: now,
            come: BTreeSet::new(),
            total: None,
            state: State::Waiting,
            waiting: Vec::new(),
        });
        if datagram.state == State::Broken {
            return Fate::Ends;
        }
        // Before the end is known only whole units have come.
        let furthest = datagram.come.last().map_or(0, |unit| (u32::from(*unit) + 1) * 8);
        let fits = match datagram.total {
            Some(total) => piece.end() == total || piece.more && piece.end() < total,
            None => piece.more || piece.end() >= furthest,
        };
        let units = piece.units();
        if fits && units.is_subset(&datagram.come) {
            return Fate::Ends;
        }
        if !fits || !units.is_disjoint(&datagram.come) {
            datagram.state = State::Broken;
            datagram.waiting.clear();
            return Fate::Ends;
        }
        datagram.come.extend(units);
        if !piece.more {
            datagram.total = Some(piece.end());
        }
        let is_whole = datagram.total.is_some_and(|total| datagram.come.len() as u32 == total.div_ceil(8));
        let fate = match datagram.state {
            State::Waiting if piece.start == 0 => Fate::Leads(std::mem::take(&mut datagram.waiting)),
            State::Waiting => {
                datagram.waiting.push(number);
                Fate::Waits
            }
            State::Led(tuple) => Fate::Follows(tuple),
            State::Refused | State::Broken => Fate::Ends,
        };
        if is_whole {
            self.all.remove(&name);
        }
        fate
    }

    /// The first piece of a datagram passed, in this connection, or did not.
    pub fn led(&mut self, name: &Name, tuple: Option<Tuple>) {
        if let Some(datagram) = self.all.get_mut(name) {
            datagram.state = tuple.map_or(State::Refused, State::Led);
        }
    }

    /// May a piece be refused for such a reason, because somebody has enough already?
    #[must_use]
    pub fn is_full(&self, name: &Name, reason: DropReason) -> bool {
        let Limits { datagrams, held, held_per_source, .. } = self.limits;
        let count = |are: &dyn Fn(&Name) -> bool| {
            let those = self.all.iter().filter(|(name, _)| are(name));
            those.fold((0, 0), |(all, waiting), (_, datagram)| (all + 1, waiting + datagram.waiting.len()))
        };
        let (all, all_held) = count(&|_| true);
        let (of_port, port_held) = count(&|other| other.port == name.port);
        let source = |name: &Name| (name.port, name.six, name.ends.0);
        let (of_source, source_held) = count(&|other| source(other) == source(name));
        let own = self.all.get(name);
        match reason {
            DropReason::FragmentTableFull => {
                let runs =
                    |come: &BTreeSet<u16>| come.iter().filter(|unit| !come.contains(&(*unit + 1))).count();
                all >= datagrams || all_held >= held || own.is_some_and(|own| runs(&own.come) >= RUNS)
            }
            DropReason::FragmentSourceLimit => {
                of_source >= datagrams / 4
                    || of_port >= datagrams / 4 * 3
                    || source_held >= held_per_source
                    || port_held >= held / 4 * 3
                    || own.is_some_and(|own| own.waiting.len() >= Limits::HELD_PER_DATAGRAM)
            }
            _ => false,
        }
    }
}

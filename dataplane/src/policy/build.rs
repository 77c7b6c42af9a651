//! The only way to make [`PolicyTables`].
//!
//! The control side's compiler adds ranges, rows, programs and pods in this order, each by reference to what is
//! there already. Every reference is checked here, once, so that the read side can treat one that is out of range
//! as a deny and nothing ever does. Sizes are checked before they could wrap.

use std::net::IpAddr;

use super::pod_table::{AddressTable, HashSeed, NO_ATOM};
use super::program::{KEY_END, LINE, Line, Programs};
use super::rows::{PAYLOAD, RowRef, Rows, pack_span};
use super::{PROGRAM_CLOSED, PROGRAM_NONE, PodSlot, PolicyTables};

/// Why tables cannot be built. Either the cluster is larger than the tables can address, or the compiler is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// An arena would outgrow its 30-bit or 32-bit positions.
    #[error("the policy tables cannot address that many {0}: use fewer pods or policies")]
    TooLarge(&'static str),
    /// Two pods have one address.
    #[error("address {0} is added for two pods")]
    DuplicateAddress(IpAddr),
    /// A reference to something that was not added, or a list that is not in order.
    #[error("inconsistent policy tables: {0}")]
    Inconsistent(&'static str),
}

/// A set of address ranges in the boundary arenas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeSpan {
    v4: (u32, u32),
    v6: (u32, u32),
}

/// Collects the parts of [`PolicyTables`].
pub struct TablesBuilder {
    atoms: u32,
    words_per_row: usize,
    bits: Vec<u64>,
    v4: Vec<u32>,
    v6: Vec<u128>,
    rows: usize,
    lines: Vec<Line>,
    /// First lines of the programs, ascending.
    programs: Vec<u32>,
    pods_v4: Vec<(u32, PodSlot)>,
    pods_v6: Vec<(u128, PodSlot)>,
}

impl TablesBuilder {
    /// For `atoms` atoms, numbered from 0.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`] for more atoms than slots can name.
    pub fn new(atoms: usize) -> Result<Self, BuildError> {
        let atoms =
            u32::try_from(atoms).ok().filter(|&n| n < NO_ATOM).ok_or(BuildError::TooLarge("atoms"))?;
        let words_per_row = (atoms as usize).div_ceil(64);
        Ok(Self {
            atoms,
            words_per_row,
            // The row of nobody.
            bits: vec![0; words_per_row],
            v4: Vec::new(),
            v6: Vec::new(),
            rows: 0,
            lines: Vec::new(),
            programs: Vec::new(),
            pods_v4: Vec::new(),
            pods_v6: Vec::new(),
        })
    }

    /// Words of a row's bitset: atom `a` is bit `a % 64` of word `a / 64`.
    #[must_use]
    pub fn words_per_row(&self) -> usize {
        self.words_per_row
    }

    /// Adds a set of address ranges: per family the boundaries of disjoint ranges in ascending order, opening
    /// (first address inside) and closing (first address outside) in turn; a range up to the last address has no
    /// closing one.
    ///
    /// # Errors
    /// [`BuildError::Inconsistent`] if boundaries are not strictly ascending, [`BuildError::TooLarge`].
    pub fn add_ranges(&mut self, v4: &[u32], v6: &[u128]) -> Result<RangeSpan, BuildError> {
        if !v4.is_sorted_by(|a, b| a < b) || !v6.is_sorted_by(|a, b| a < b) {
            return Err(BuildError::Inconsistent("range boundaries out of order"));
        }
        let v4 = append(&mut self.v4, v4)?;
        let v6 = append(&mut self.v6, v6)?;
        Ok(RangeSpan { v4, v6 })
    }

    /// Adds a row that admits the atoms of `bits` (of [`words_per_row`](Self::words_per_row) words; empty for
    /// none) and the addresses of `ranges`. `pods_in_ranges`: some pod's address is in them; if it is false, pods
    /// are not looked for there.
    ///
    /// # Errors
    /// [`BuildError::Inconsistent`] for a bitset of another length, [`BuildError::TooLarge`].
    pub fn add_row(
        &mut self,
        bits: &[u64],
        ranges: Option<RangeSpan>,
        pods_in_ranges: bool,
    ) -> Result<RowRef, BuildError> {
        if !bits.is_empty() && bits.len() != self.words_per_row {
            return Err(BuildError::Inconsistent("bitset of another length than the atoms"));
        }
        if bits.is_empty() && ranges.is_none() {
            return Ok(RowRef::NOBODY);
        }
        if let Some(RangeSpan { v4, v6 }) = ranges {
            self.bits.extend([pack_span(v4), pack_span(v6)]);
        }
        let first_word = payload(self.bits.len(), "bitset words")?;
        if bits.is_empty() {
            self.bits.resize(self.bits.len() + self.words_per_row, 0);
        } else {
            self.bits.extend_from_slice(bits);
        }
        let row = match ranges {
            None => RowRef::pods(first_word),
            Some(_) => RowRef::ranged(first_word, pods_in_ranges),
        };
        self.rows += 1;
        Ok(row)
    }

    /// Adds a program and returns its number. `intervals` are (start key, row), in ascending order; the first
    /// starts at 0 and each reaches to the next start, the last to [`KEY_END`].
    ///
    /// # Errors
    /// [`BuildError::Inconsistent`] if the starts are not like that, [`BuildError::TooLarge`].
    pub fn add_program(&mut self, intervals: &[(u32, RowRef)]) -> Result<u32, BuildError> {
        let first_is_zero = intervals.first().is_some_and(|&(start, _)| start == 0);
        let in_order = intervals.is_sorted_by(|(a, _), (b, _)| a < b);
        if !first_is_zero || !in_order || intervals.last().is_some_and(|&(start, _)| start >= KEY_END) {
            return Err(BuildError::Inconsistent("program intervals out of order"));
        }
        let program = payload(self.lines.len(), "program words")?;
        Programs::lay_out(intervals, &mut self.lines);
        self.programs.push(program);
        Ok(program)
    }

    /// 32-bit words that the programs take so far.
    #[must_use]
    pub fn program_words(&self) -> usize {
        self.lines.len() * LINE
    }

    /// Adds one address of a pod.
    ///
    /// # Errors
    /// [`BuildError::Inconsistent`] for an atom or program that was not added.
    pub fn add_pod(&mut self, address: IpAddr, slot: PodSlot) -> Result<(), BuildError> {
        let known = |program| {
            program == PROGRAM_NONE
                || program == PROGRAM_CLOSED
                || self.programs.binary_search(&program).is_ok()
        };
        if slot.atom >= self.atoms || !known(slot.ingress_program) || !known(slot.egress_program) {
            return Err(BuildError::Inconsistent("pod slot with an unknown atom or program"));
        }
        match address {
            IpAddr::V4(v4) => self.pods_v4.push((v4.to_bits(), slot)),
            IpAddr::V6(v6) => self.pods_v6.push((v6.to_bits(), slot)),
        }
        Ok(())
    }

    /// The tables, without hit counters (see [`PolicyTables::with_hits`]).
    ///
    /// # Errors
    /// [`BuildError::DuplicateAddress`], [`BuildError::TooLarge`].
    pub fn finish(self, seed: HashSeed) -> Result<PolicyTables, BuildError> {
        payload(4 * (self.pods_v4.len() + self.pods_v6.len()), "pod addresses")?;
        let pods_v4 = AddressTable::build(&self.pods_v4, seed).map_err(BuildError::DuplicateAddress)?;
        let pods_v6 = AddressTable::build(&self.pods_v6, seed).map_err(BuildError::DuplicateAddress)?;
        let rows = Rows {
            bits: self.bits.into_boxed_slice(),
            v4: self.v4.into_boxed_slice(),
            v6: self.v6.into_boxed_slice(),
            count: self.rows,
        };
        Ok(PolicyTables::from_parts(pods_v4, pods_v6, Programs::new(self.lines), rows, self.atoms))
    }
}

/// A position that fits the payload of a row reference (program numbers keep to the same bound).
fn payload(position: usize, what: &'static str) -> Result<u32, BuildError> {
    u32::try_from(position).ok().filter(|&p| p <= PAYLOAD).ok_or(BuildError::TooLarge(what))
}

fn append<A: Copy>(arena: &mut Vec<A>, boundaries: &[A]) -> Result<(u32, u32), BuildError> {
    let start = payload(arena.len(), "range boundaries")?;
    arena.extend_from_slice(boundaries);
    Ok((start, payload(arena.len(), "range boundaries")?))
}

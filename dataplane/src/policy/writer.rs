//! The only way to make [`PolicyTables`], and to change them.
//!
//! The control side's compiler has one [`TablesWriter`]. It adds, changes and removes ranges, rows, programs and pods, each
//! by reference to what is there already, and [`TablesWriter::tables`] gives what stands at that moment, to be published:
//! a few shared pointers, whatever the size. Every reference is checked here, once, so that the read side can treat one
//! that is out of range as a deny and nothing ever does. Sizes are checked before they could wrap.
//!
//! What the caller must hold, for tables that workers have:
//! - [`admit`](TablesWriter::admit) and [`withdraw`](TablesWriter::withdraw) only for atoms that none of these tables' pods
//!   has, or in rows that none of these tables' programs refers to;
//! - [`remove_row`](TablesWriter::remove_row) and [`remove_program`](TablesWriter::remove_program) only for what none of
//!   these tables refers to: its place is used again.
//!
//! Rows that grow beyond the arena's size are copied into a larger one; everything else changes page by page.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hits::Hits;
use super::pod_table::{AddressTable, HashSeed, NO_ATOM};
use super::program::{KEY_END, LINE, ProgramArena, Programs};
use super::rows::{PAGE_RANGES, PAYLOAD, RangeSet, Ranges, RowArena, RowRef, Rows, WITH_PODS};
use super::{Action, Delivery, PROGRAM_CLOSED, PROGRAM_NONE, PodSlot, PolicyTables};

/// Why tables cannot be written. Either the cluster is larger than the tables can address, or the compiler is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// An arena would outgrow its 30-bit or 32-bit positions.
    #[error("the policy tables cannot address that many {0}: use fewer pods or policies")]
    TooLarge(&'static str),
    /// A reference to something that was not added, or a list that is not in order.
    #[error("inconsistent policy tables: {0}")]
    Inconsistent(&'static str),
}

/// A set of address ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangesRef(u32);

/// Makes and changes tables.
pub struct TablesWriter {
    pods_v4: AddressTable<u32>,
    pods_v6: AddressTable<u128>,
    programs: ProgramArena,
    hits: Hits,
    rows: Arc<RowArena>,
    /// Rows that were given out, row 0 included.
    used_rows: usize,
    free_rows: Vec<u32>,
    ranges: Ranges,
    free_ranges: Vec<u32>,
    boundaries: usize,
}

impl TablesWriter {
    /// Tables that know no pod, with hit counters for `workers` workers (numbered from 0): 16 bytes per interval and
    /// worker.
    #[must_use]
    pub fn new(seed: HashSeed, workers: usize) -> Self {
        Self {
            pods_v4: AddressTable::new(seed),
            pods_v6: AddressTable::new(seed),
            programs: ProgramArena::default(),
            hits: Hits::new(workers),
            rows: Arc::new(RowArena::new(1, 0)),
            used_rows: 1,
            free_rows: Vec::new(),
            ranges: Ranges::default(),
            free_ranges: Vec::new(),
            boundaries: 0,
        }
    }

    /// What stands now. What is changed later does not change it, but for rows, as the module says.
    #[must_use]
    pub fn tables(&self) -> PolicyTables {
        PolicyTables {
            pods_v4: self.pods_v4.clone(),
            pods_v6: self.pods_v6.clone(),
            programs: self.programs.programs.clone(),
            rows: Rows { arena: self.rows.clone(), ranges: self.ranges.clone() },
            hits: self.hits.clone(),
        }
    }

    /// Makes room for `atoms` atoms and `rows` rows more than there are, so that adding them one by one copies nothing.
    pub fn reserve(&mut self, atoms: usize, rows: usize) {
        let rows = (self.used_rows - self.free_rows.len()) + rows;
        if atoms > self.rows.atoms() || rows > self.rows.rows() {
            RowArena::make_room(&mut self.rows, rows, atoms);
        }
    }

    /// Adds a set of address ranges: per family the boundaries of disjoint ranges in ascending order, opening
    /// (first address inside) and closing (first address outside) in turn; a range up to the last address has no
    /// closing one.
    ///
    /// # Errors
    /// [`WriteError::Inconsistent`] if boundaries are not strictly ascending, [`WriteError::TooLarge`].
    pub fn add_ranges(&mut self, v4: &[u32], v6: &[u128]) -> Result<RangesRef, WriteError> {
        if !v4.is_sorted_by(|a, b| a < b) || !v6.is_sorted_by(|a, b| a < b) {
            return Err(WriteError::Inconsistent("range boundaries out of order"));
        }
        let number = match self.free_ranges.pop() {
            Some(number) => number,
            None => {
                // All of a new page is free but its first.
                let pages = self.ranges.0.len();
                let first = payload(pages * PAGE_RANGES, "range sets")?;
                let page: Arc<[Option<RangeSet>]> = vec![None; PAGE_RANGES].into();
                self.ranges.0 = self.ranges.0.iter().cloned().chain([page]).collect();
                self.free_ranges.extend((1..PAGE_RANGES as u32).rev().map(|place| first + place));
                first
            }
        };
        self.boundaries += v4.len() + v6.len();
        self.set_ranges(number, Some(RangeSet { v4: v4.into(), v6: v6.into() }));
        Ok(RangesRef(number))
    }

    /// Forgets a set of ranges that no row in use refers to.
    pub fn remove_ranges(&mut self, ranges: RangesRef) {
        let place = ranges.0 as usize;
        let page = self.ranges.0.get(place / PAGE_RANGES);
        let Some(Some(set)) = page.and_then(|page| page.get(place % PAGE_RANGES)) else { return };
        self.boundaries -= set.v4.len() + set.v6.len();
        self.set_ranges(ranges.0, None);
        self.free_ranges.push(ranges.0);
    }

    fn set_ranges(&mut self, number: u32, set: Option<RangeSet>) {
        let (page, place) = (number as usize / PAGE_RANGES, number as usize % PAGE_RANGES);
        let page = Arc::make_mut(&mut self.ranges.0).get_mut(page).map(Arc::make_mut);
        if let Some(entry) = page.and_then(|page| page.get_mut(place)) {
            *entry = set;
        }
    }

    /// Adds a row that admits the atoms of `bits` (atom `a` is bit `a % 64` of word `a / 64`; zeros at the end may be left
    /// out) and the addresses of `ranges`. `pods_in_ranges`: some pod's address is in them; if it is false, pods are not
    /// looked for there.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`].
    pub fn add_row(
        &mut self,
        bits: &[u64],
        ranges: Option<RangesRef>,
        pods_in_ranges: bool,
    ) -> Result<RowRef, WriteError> {
        let number = match self.free_rows.pop() {
            Some(number) => number,
            None => {
                let number = payload(self.used_rows, "rows")?;
                self.used_rows += 1;
                number
            }
        };
        let (rows, atoms) = (self.rows.rows(), self.rows.atoms());
        if number as usize >= rows || bits.len() * 64 > atoms {
            // A part more than needed, so that growing costs little on average.
            let rows = if number as usize >= rows { rows + rows / 8 + 64 } else { rows };
            RowArena::make_room(&mut self.rows, rows, (bits.len() * 64).max(atoms));
        }
        let first =
            ranges.map_or(0, |RangesRef(set)| u64::from(set) | if pods_in_ranges { WITH_PODS } else { 0 });
        let zeros = std::iter::repeat(&0);
        for (word, value) in
            self.rows.row(number as usize).iter().zip([&first].into_iter().chain(bits).chain(zeros))
        {
            word.store(*value, Ordering::Relaxed);
        }
        Ok(RowRef::new(number, ranges.is_some()))
    }

    /// Gives the place of a row back, which nothing that workers have refers to.
    pub fn remove_row(&mut self, row: RowRef) {
        if row.row() > 0 {
            self.free_rows.push(row.row() as u32);
        }
    }

    /// Lets a row admit an atom that no pod of tables that workers have belongs to.
    pub fn admit(&mut self, row: RowRef, atom: u32) {
        self.make_room_for(atom);
        if let Some(word) = self.rows.row(row.row()).get(1 + (atom / 64) as usize) {
            word.fetch_or(1 << (atom % 64), Ordering::Relaxed);
        }
    }

    /// Has every row be long enough for an atom.
    fn make_room_for(&mut self, atom: u32) {
        if atom as usize >= self.rows.atoms() {
            let atoms = atom as usize + atom as usize / 8 + 64;
            RowArena::make_room(&mut self.rows, 0, atoms);
        }
    }

    /// Takes an atom out of a row; the same holds for it.
    pub fn withdraw(&mut self, row: RowRef, atom: u32) {
        if let Some(word) = self.rows.row(row.row()).get(1 + (atom / 64) as usize) {
            word.fetch_and(!(1 << (atom % 64)), Ordering::Relaxed);
        }
    }

    /// Has pods looked for in the ranges of a row from now on. That is always right, and dearer where none is there; so it
    /// may be said of rows in use.
    pub fn look_for_pods(&mut self, row: RowRef) {
        if let Some(word) = self.rows.row(row.row()).first() {
            word.fetch_or(WITH_PODS, Ordering::Relaxed);
        }
    }

    /// Adds a program and returns its number. `intervals` are (start key, row), in ascending order; the first
    /// starts at 0 and each reaches to the next start, the last to [`KEY_END`].
    ///
    /// # Errors
    /// [`WriteError::Inconsistent`] if the starts are not like that, [`WriteError::TooLarge`].
    pub fn add_program(&mut self, intervals: &[(u32, RowRef)]) -> Result<u32, WriteError> {
        let first_is_zero = intervals.first().is_some_and(|&(start, _)| start == 0);
        let in_order = intervals.is_sorted_by(|(a, _), (b, _)| a < b);
        if !first_is_zero || !in_order || intervals.last().is_some_and(|&(start, _)| start >= KEY_END) {
            return Err(WriteError::Inconsistent("program intervals out of order"));
        }
        let hits = &mut self.hits;
        let added = |page, lines| hits.set_page(page, lines * LINE);
        self.programs.add(intervals, added).ok_or(WriteError::TooLarge("program words"))
    }

    /// Gives the place of a program back, which no pod of tables that workers have refers to. What was counted for it is
    /// forgotten.
    pub fn remove_program(&mut self, program: u32) {
        let slots = self.programs.lines_of(program) * LINE;
        if let Some(place) = Programs::hit_slot(program, 0, Action::Allow) {
            self.hits.clear(place, slots);
        }
        self.programs.remove(program);
    }

    /// 32-bit words that the programs take.
    #[must_use]
    pub fn program_words(&self) -> usize {
        self.programs.words()
    }

    /// Rows there are, besides "nobody".
    #[must_use]
    pub fn rows(&self) -> usize {
        self.used_rows - self.free_rows.len() - 1
    }

    /// Boundaries of all range sets.
    #[must_use]
    pub fn range_boundaries(&self) -> usize {
        self.boundaries
    }

    /// How often `program`'s `interval` decided so, over all workers.
    #[must_use]
    pub fn hits(&self, program: u32, interval: u32, action: Action) -> u64 {
        Programs::hit_slot(program, interval, action).map_or(0, |slot| self.hits.total(slot))
    }

    /// Sets what is known of one address of a pod, new or known.
    ///
    /// # Errors
    /// [`WriteError::Inconsistent`] for a program that was not added or no atom, [`WriteError::TooLarge`].
    pub fn set_pod(&mut self, address: IpAddr, slot: PodSlot, delivery: Delivery) -> Result<(), WriteError> {
        let known =
            |program| program == PROGRAM_NONE || program == PROGRAM_CLOSED || self.programs.contains(program);
        if slot.atom == NO_ATOM || !known(slot.ingress_program) || !known(slot.egress_program) {
            return Err(WriteError::Inconsistent("pod slot with an unknown atom or program"));
        }
        payload(8 * (self.pods_v4.pods() + self.pods_v6.pods() + 1), "pod addresses")?;
        // Beyond its row a worker would read another one's bits.
        self.make_room_for(slot.atom);
        match address {
            IpAddr::V4(v4) => self.pods_v4.set(v4.to_bits(), slot, delivery),
            IpAddr::V6(v6) => self.pods_v6.set(v6.to_bits(), slot, delivery),
        };
        Ok(())
    }

    /// Forgets an address; says whether it was known.
    pub fn remove_pod(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.pods_v4.remove(v4.to_bits()),
            IpAddr::V6(v6) => self.pods_v6.remove(v6.to_bits()),
        }
    }

    /// What is known of an address.
    #[must_use]
    pub fn slot(&self, address: IpAddr) -> Option<PodSlot> {
        let (_, slot) = match address {
            IpAddr::V4(v4) => self.pods_v4.lookup(v4.to_bits())?,
            IpAddr::V6(v6) => self.pods_v6.lookup(v6.to_bits())?,
        };
        Some(slot)
    }
}

/// A position that fits the payload of a row reference (program numbers keep to the same bound).
fn payload(position: usize, what: &'static str) -> Result<u32, WriteError> {
    u32::try_from(position).ok().filter(|&p| p <= PAYLOAD).ok_or(WriteError::TooLarge(what))
}

//! Programs and rows.
//!
//! What selects a class in one direction, and what that class's named ports resolve to, is the key of a program:
//! classes with the same key share it. A program is swept once over the sorted edges of its clauses' keys; each
//! piece between two edges is a set of clauses. Sets are numbered, so that the same set is turned into a row once,
//! and rows are numbered by the terms and ipBlocks that they unite, so that the same union is stored once. Never
//! by their bits: rows that are equal today part at the next pod.

use podgate_dataplane::policy::{
    Direction, KEY_END, PROGRAM_NONE, RangeSpan, RowRef, TablesBuilder, protocol_class,
};

use super::classes::Classes;
use super::clauses::{Clauses, Keys, Matcher};
use super::lists::{Interner, Lists};
use super::survey::{Survey, rules};
use super::terms::Atoms;
use super::{CompileError, Limits, ranges};

/// Where the programs came from; moves into [`super::Origins`].
#[derive(Default)]
pub(super) struct ProgramOrigins {
    /// Program numbers, ascending; the lists below run parallel.
    pub(super) programs: Vec<(u32, Direction)>,
    /// The isolating policies.
    pub(super) policies: Lists<u32>,
    /// The clause set of each interval.
    pub(super) intervals: Lists<u32>,
    /// The clauses of each clause set, ascending.
    pub(super) clause_sets: Lists<u32>,
}

pub(super) struct Composer<'a, 's> {
    survey: &'s Survey<'a>,
    classes: &'s Classes,
    clauses: &'s Clauses,
    atoms: &'s Atoms,
    limits: &'s Limits,
    pub(super) builder: TablesBuilder,
    pub(super) origins: ProgramOrigins,
    programs: Interner<Vec<u32>>,
    clause_sets: Interner<Vec<u32>>,
    clause_set_rows: Vec<RowRef>,
    rows: Interner<Vec<u32>>,
    row_refs: Vec<RowRef>,
    range_sets: Interner<Vec<u32>>,
    /// The ranges, and whether pod addresses are among them.
    range_spans: Vec<(RangeSpan, bool)>,
    range_boundaries: usize,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    key: Vec<u32>,
    isolating: Vec<u32>,
    edges: Vec<(u32, bool, u32)>,
    terms: Vec<u32>,
    blocks: Vec<u32>,
    bits: Vec<u64>,
}

impl<'a, 's> Composer<'a, 's> {
    pub(super) fn new(
        survey: &'s Survey<'a>,
        classes: &'s Classes,
        clauses: &'s Clauses,
        atoms: &'s Atoms,
        limits: &'s Limits,
    ) -> Result<Self, CompileError> {
        Ok(Self {
            survey,
            classes,
            clauses,
            atoms,
            limits,
            builder: TablesBuilder::new(atoms.count)?,
            origins: ProgramOrigins::default(),
            programs: Interner::default(),
            clause_sets: Interner::default(),
            clause_set_rows: Vec::new(),
            rows: Interner::default(),
            row_refs: Vec::new(),
            range_sets: Interner::default(),
            range_spans: Vec::new(),
            range_boundaries: 0,
            scratch: Scratch::default(),
        })
    }

    /// The program of `class` in `direction`, `selecting` being the policies that select it;
    /// [`PROGRAM_NONE`] if none of them isolates in that direction.
    pub(super) fn program(
        &mut self,
        direction: Direction,
        class: u32,
        selecting: &[u32],
    ) -> Result<u32, CompileError> {
        let policies = &self.survey.policies;
        let isolates = |policy: &u32| {
            policies.get(*policy as usize).is_some_and(|found| rules(found.policy, direction).is_some())
        };
        let mut isolating = std::mem::take(&mut self.scratch.isolating);
        isolating.clear();
        isolating.extend(selecting.iter().copied().filter(isolates));
        let program = if isolating.is_empty() {
            Ok(PROGRAM_NONE)
        } else {
            self.program_of(direction, class, &isolating)
        };
        self.scratch.isolating = isolating;
        program
    }

    fn program_of(
        &mut self,
        direction: Direction,
        class: u32,
        isolating: &[u32],
    ) -> Result<u32, CompileError> {
        let clauses = self.clauses;
        let key = &mut self.scratch.key;
        key.clear();
        key.extend([u32::from(direction == Direction::Egress), super::lists::number(isolating.len())]);
        key.extend(isolating);
        if direction == Direction::Ingress {
            for clause in isolating.iter().flat_map(|&policy| clauses.of(policy, direction)) {
                key.extend(clauses.keys.get(clause).iter().filter_map(|keys| match keys {
                    Keys::OwnPort { name, .. } => Some(self.classes.port(class, *name).map_or(0, u32::from)),
                    Keys::Span(_) => None,
                }));
            }
        }
        let (known, new) = self.programs.intern_slice(key);
        if !new {
            return Ok(self
                .origins
                .programs
                .get(known as usize)
                .map_or(PROGRAM_NONE, |&(program, _)| program));
        }

        let intervals = self.sweep(direction, class, isolating)?;
        let rows: Vec<(u32, RowRef)> = intervals
            .iter()
            .map(|&(start, set)| {
                (start, self.clause_set_rows.get(set as usize).copied().unwrap_or(RowRef::NOBODY))
            })
            .collect();
        let program = self.builder.add_program(&rows)?;
        self.limits.check("policy program words", self.builder.program_words(), self.limits.program_words)?;
        self.origins.programs.push((program, direction));
        self.origins.policies.push(isolating.iter().copied());
        self.origins.intervals.push(intervals.iter().map(|&(_, set)| set));
        Ok(program)
    }

    /// The intervals of a program: start keys and clause sets, neighbours with the same set joined.
    fn sweep(
        &mut self,
        direction: Direction,
        class: u32,
        isolating: &[u32],
    ) -> Result<Vec<(u32, u32)>, CompileError> {
        let mut edges = std::mem::take(&mut self.scratch.edges);
        edges.clear();
        for clause in isolating.iter().flat_map(|&policy| self.clauses.of(policy, direction)) {
            for keys in self.clauses.keys.get(clause) {
                let span = match keys {
                    Keys::Span(span) => span.clone(),
                    Keys::OwnPort { protocol, name } => {
                        // The selected pod does not declare the port: the clause covers nothing by it.
                        let Some(port) = self.classes.port(class, *name) else { continue };
                        let key = protocol_class(protocol.number()) << 16 | u32::from(port);
                        key..key + 1
                    }
                };
                edges.push((span.start, true, clause));
                edges.push((span.end, false, clause));
            }
        }
        edges.sort_unstable();

        // The clauses that cover the current key, ascending, each with how often.
        let mut active: Vec<(u32, u32)> = Vec::new();
        let mut set_key: Vec<u32> = Vec::new();
        let mut intervals: Vec<(u32, u32)> = Vec::new();
        let mut rest = edges.as_slice();
        let mut start = 0;
        loop {
            let here = rest.partition_point(|&(key, ..)| key <= start);
            let (now, later) = rest.split_at_checked(here).unwrap_or((rest, &[]));
            for &(_, opens, clause) in now {
                match (active.binary_search_by_key(&clause, |&(clause, _)| clause), opens) {
                    (Ok(place), _) => {
                        if let Some((_, count)) = active.get_mut(place) {
                            *count = if opens { *count + 1 } else { count.saturating_sub(1) };
                        }
                    }
                    (Err(place), true) => active.insert(place, (clause, 1)),
                    // Not reached: spans are not empty, so an opening edge lies at a smaller key.
                    (Err(_), false) => {}
                }
            }
            active.retain(|&(_, count)| count > 0);
            set_key.clear();
            set_key.extend(active.iter().map(|&(clause, _)| clause));
            let set = self.clause_set(&set_key)?;
            if intervals.last().is_none_or(|&(_, last)| last != set) {
                intervals.push((start, set));
            }
            rest = later;
            match rest.first() {
                Some(&(next, ..)) if next < KEY_END => start = next,
                _ => break,
            }
        }
        self.scratch.edges = edges;
        Ok(intervals)
    }

    fn clause_set(&mut self, clauses: &[u32]) -> Result<u32, CompileError> {
        let (set, new) = self.clause_sets.intern_slice(clauses);
        if new {
            let row = self.row(clauses)?;
            self.clause_set_rows.push(row);
            self.origins.clause_sets.push(clauses.iter().copied());
        }
        Ok(set)
    }

    /// The row that unites the peers of `clauses`.
    fn row(&mut self, clauses: &[u32]) -> Result<RowRef, CompileError> {
        let Scratch { key, terms, blocks, .. } = &mut self.scratch;
        terms.clear();
        blocks.clear();
        for (_, matcher) in clauses.iter().flat_map(|&clause| self.clauses.peers.get(clause)) {
            match *matcher {
                Matcher::Everybody => return Ok(RowRef::EVERYBODY),
                // A term that nobody is in admits nobody; leaving it out can make rows equal.
                Matcher::Term(term) if self.atoms.members.get(term).is_empty() => {}
                Matcher::Term(term) => terms.push(term),
                Matcher::Block(block) => blocks.push(block),
            }
        }
        for list in [&mut *terms, &mut *blocks] {
            list.sort_unstable();
            list.dedup();
        }
        if terms.is_empty() && blocks.is_empty() {
            return Ok(RowRef::NOBODY);
        }
        key.clear();
        key.push(super::lists::number(terms.len()));
        key.extend_from_slice(terms);
        key.extend_from_slice(blocks);
        let (row, new) = self.rows.intern_slice(key);
        if new {
            let row = self.add_row()?;
            self.row_refs.push(row);
        }
        Ok(self.row_refs.get(row as usize).copied().unwrap_or(RowRef::NOBODY))
    }

    /// Adds the row of the terms and blocks in the scratch lists.
    fn add_row(&mut self) -> Result<RowRef, CompileError> {
        self.limits.check("policy rows", self.row_refs.len() + 1, self.limits.rows)?;
        let ranges = self.ranges()?;
        let Scratch { terms, bits, .. } = &mut self.scratch;
        bits.clear();
        if !terms.is_empty() {
            bits.resize(self.builder.words_per_row(), 0);
        }
        for &atom in terms.iter().flat_map(|&term| self.atoms.members.get(term)) {
            if let Some(word) = bits.get_mut((atom / 64) as usize) {
                *word |= 1 << (atom % 64);
            }
        }
        let (span, touches_pods) = ranges.map_or((None, false), |(span, touches)| (Some(span), touches));
        Ok(self.builder.add_row(bits, span, touches_pods)?)
    }

    /// The ranges of the blocks in the scratch list.
    fn ranges(&mut self) -> Result<Option<(RangeSpan, bool)>, CompileError> {
        let blocks = &self.scratch.blocks;
        if blocks.is_empty() {
            return Ok(None);
        }
        let (set, new) = self.range_sets.intern_slice(blocks);
        if new {
            let list = blocks.iter().filter_map(|&block| self.survey.blocks.get(block as usize).copied());
            let boundaries = ranges::union(list);
            self.range_boundaries += boundaries.v4.len() + boundaries.v6.len();
            self.limits.check(
                "ipBlock range boundaries",
                self.range_boundaries,
                self.limits.range_boundaries,
            )?;
            let span = self.builder.add_ranges(&boundaries.v4, &boundaries.v6)?;
            self.range_spans.push((span, self.classes.addresses.touches(&boundaries)));
        }
        Ok(self.range_spans.get(set as usize).copied())
    }
}

//! Programs and rows.
//!
//! What selects a pod in one direction, and what the pod's named ports resolve to, is the key of a program: pods with the
//! same key share it. A program is swept once over the sorted edges of its clauses' keys; each piece between two edges is a
//! set of clauses, and becomes a row. Rows are known by the terms and ipBlocks that they unite, so that the same union is
//! stored once. Never by their bits: rows that are equal today part at the next pod.
//!
//! A program that lost its last pod waits until no worker can judge by it, then what was counted is added to its policies'
//! totals, and its place, and those of its rows, are used again. Until then it is taken up again if its key comes back.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_config::model::IpBlock;
use podgate_dataplane::policy::{
    Direction, KEY_END, PROGRAM_CLOSED, PROGRAM_NONE, RangesRef, RowRef, protocol_class,
};

use super::clauses::{Keys, Matcher, rules};
use super::lists::{Bits, Map, Set};
use super::ranges::{self, Boundaries};
use super::{CompileError, Compiler, Limits};

/// A clause: the policy's number, and its place among the policy's clauses of the program's direction.
pub(super) type ClauseRef = (u32, u32);

pub(super) struct Program {
    pub(super) direction: Direction,
    /// The isolating policies, sorted.
    pub(super) policies: Box<[u32]>,
    /// The clauses of each interval.
    pub(super) intervals: Box<[Box<[ClauseRef]>]>,
    rows: Box<[RowRef]>,
    key: Arc<[u32]>,
    pods: usize,
    idle: Option<u64>,
    /// The first generation that may hold it.
    pub(super) since: u64,
}

struct Row {
    key: Arc<[u32]>,
    terms: Box<[u32]>,
    ranges: Option<u32>,
    uses: usize,
}

struct RangeSet {
    blocks: Box<[u32]>,
    boundaries: Boundaries,
    reference: RangesRef,
    rows: Set<RowRef>,
    /// Pods are looked for in it.
    with_pods: bool,
}

/// All programs and rows.
#[derive(Default)]
pub(super) struct Programs {
    pub(super) by_number: Map<u32, Program>,
    by_key: Map<Arc<[u32]>, u32>,
    idle: std::collections::VecDeque<(u32, u64)>,
    rows: Map<RowRef, Row>,
    rows_by_key: Map<Arc<[u32]>, RowRef>,
    range_sets: super::lists::Slab<RangeSet>,
    ranges_by_blocks: Map<Box<[u32]>, u32>,
    /// Networks of 4096 IPv4 or 2^64 IPv6 addresses that had a pod.
    prefixes: Set<(bool, u64)>,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    key: Vec<u32>,
    terms: Vec<u32>,
    blocks: Vec<u32>,
    bits: Bits,
    edges: Vec<(u32, bool, ClauseRef)>,
}

fn prefix(address: IpAddr) -> (bool, u64) {
    match address {
        IpAddr::V4(v4) => (false, u64::from(v4.to_bits() >> 12)),
        IpAddr::V6(v6) => (true, (v6.to_bits() >> 64) as u64),
    }
}

/// Whether some address of these networks is inside the boundaries.
fn touches(boundaries: &Boundaries, (v6, prefix): (bool, u64)) -> bool {
    if v6 {
        let first = u128::from(prefix) << 64;
        ranges::overlaps(&boundaries.v6, first, first | u128::from(u64::MAX))
    } else {
        let first = (prefix as u32) << 12;
        ranges::overlaps(&boundaries.v4, first, first | 0xfff)
    }
}

impl Compiler {
    /// A pod has this address: where its network is new, ranges that hold part of it are searched for pods from now on.
    pub(super) fn note_prefix(&mut self, address: IpAddr) {
        let prefix = prefix(address);
        if !self.programs.prefixes.insert(prefix) {
            return;
        }
        let numbers: Vec<u32> = self.programs.range_sets.iter().map(|(number, _)| number).collect();
        for number in numbers {
            if let Some(set) = self.programs.range_sets.get_mut(number)
                && !set.with_pods
                && touches(&set.boundaries, prefix)
            {
                set.with_pods = true;
                set.rows.iter().for_each(|&row| self.writer.look_for_pods(row));
            }
        }
    }

    /// Finds the programs of a pod.
    pub(super) fn reprogram(&mut self, number: u32) -> Result<(), CompileError> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        if !std::mem::replace(&mut member.reprogram, false) {
            return Ok(());
        }
        let before = member.programs;
        let mut programs = [PROGRAM_CLOSED; 2];
        if member.judged() {
            for (place, direction) in programs.iter_mut().zip([Direction::Ingress, Direction::Egress]) {
                *place = self.program(direction, number)?;
            }
        }
        if let Some(member) = self.members.get_mut(number) {
            member.programs = programs;
        }
        // Those that stay were taken once more.
        before.into_iter().for_each(|program| self.leave_program(program));
        if before != programs {
            self.rewrite.push(number);
        }
        Ok(())
    }

    /// The program of a pod in one direction, with one pod more; [`PROGRAM_NONE`] if nothing isolates it.
    fn program(&mut self, direction: Direction, number: u32) -> Result<u32, CompileError> {
        let Some(member) = self.members.get(number) else { return Ok(PROGRAM_CLOSED) };
        let isolates = |policy: &&u32| {
            let policy = self.policies.get(**policy);
            policy.is_some_and(|policy| rules(&policy.object, direction).is_some())
        };
        let isolating: Vec<u32> = member.policies.iter().filter(isolates).copied().collect();
        if isolating.is_empty() {
            return Ok(PROGRAM_NONE);
        }
        let mut key = std::mem::take(&mut self.programs.scratch.key);
        key.clear();
        key.extend([u32::from(direction == Direction::Egress), super::lists::number(isolating.len())]);
        key.extend(&isolating);
        if direction == Direction::Ingress {
            for policy in isolating.iter().filter_map(|&policy| self.policies.get(policy)) {
                let ports = policy.own_ports.iter();
                key.extend(ports.map(|(protocol, name)| member.port(*protocol, name).map_or(0, u32::from)));
            }
        }
        let program = match self.programs.by_key.get(key.as_slice()) {
            Some(&known) => Ok(known),
            None => self.compose(direction, number, &isolating, key.as_slice().into()),
        };
        self.programs.scratch.key = key;
        let program = program?;
        if let Some(entry) = self.programs.by_number.get_mut(&program) {
            entry.pods += 1;
            entry.idle = None;
        }
        Ok(program)
    }

    /// A pod leaves a program, which tables that are published may name.
    pub(super) fn leave_program(&mut self, program: u32) {
        let Some(entry) = self.programs.by_number.get_mut(&program) else { return };
        entry.pods -= 1;
        if entry.pods == 0 {
            entry.idle = Some(self.published);
            self.programs.idle.push_back((program, self.published));
        }
    }

    fn compose(
        &mut self,
        direction: Direction,
        member: u32,
        isolating: &[u32],
        key: Arc<[u32]>,
    ) -> Result<u32, CompileError> {
        let swept = self.sweep(direction, member, isolating);
        let mut intervals = Vec::with_capacity(swept.len());
        for (start, clauses) in &swept {
            intervals.push((*start, self.row(direction, clauses)?));
        }
        let program = self.writer.add_program(&intervals)?;
        Limits::check(
            ("policy program words", "program_words"),
            self.writer.program_words(),
            self.limits.program_words,
        )?;
        for policy in isolating {
            if let Some(policy) = self.policies.get_mut(*policy) {
                policy.programs += 1;
            }
        }
        let entry = Program {
            direction,
            policies: isolating.into(),
            intervals: swept.into_iter().map(|(_, clauses)| clauses).collect(),
            rows: intervals.into_iter().map(|(_, row)| row).collect(),
            key: key.clone(),
            pods: 0,
            idle: None,
            since: self.published + 1,
        };
        self.programs.by_number.insert(program, entry);
        self.programs.by_key.insert(key, program);
        Ok(program)
    }

    /// The intervals of a program: start keys and clauses, neighbours with the same clauses joined.
    fn sweep(
        &mut self,
        direction: Direction,
        member: u32,
        isolating: &[u32],
    ) -> Vec<(u32, Box<[ClauseRef]>)> {
        let mut edges = std::mem::take(&mut self.programs.scratch.edges);
        edges.clear();
        let member = self.members.get(member);
        for &number in isolating {
            let Some(policy) = self.policies.get(number) else { continue };
            for (place, clause) in (0u32..).zip(policy.clauses(direction)) {
                for keys in &clause.keys {
                    let span = match keys {
                        Keys::Span(span) => span.clone(),
                        Keys::OwnPort { protocol, name } => {
                            // The selected pod does not declare the port: the clause covers nothing by it.
                            let Some(port) = member.and_then(|member| member.port(*protocol, name)) else {
                                continue;
                            };
                            let key = protocol_class(protocol.number()) << 16 | u32::from(port);
                            key..key + 1
                        }
                    };
                    edges.push((span.start, true, (number, place)));
                    edges.push((span.end, false, (number, place)));
                }
            }
        }
        edges.sort_unstable();

        // The clauses that cover the current key, ascending, each with how often.
        let mut active: Vec<(ClauseRef, u32)> = Vec::new();
        let mut intervals: Vec<(u32, Box<[ClauseRef]>)> = Vec::new();
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
            let same =
                |last: &(u32, Box<[ClauseRef]>)| last.1.iter().eq(active.iter().map(|(clause, _)| clause));
            if !intervals.last().is_some_and(same) {
                intervals.push((start, active.iter().map(|&(clause, _)| clause).collect()));
            }
            rest = later;
            match rest.first() {
                Some(&(next, ..)) if next < KEY_END => start = next,
                _ => break,
            }
        }
        self.programs.scratch.edges = edges;
        intervals
    }

    /// The row that unites the peers of some clauses, with one use more.
    fn row(&mut self, direction: Direction, clauses: &[ClauseRef]) -> Result<RowRef, CompileError> {
        let Scratch { key, terms, blocks, .. } = &mut self.programs.scratch;
        terms.clear();
        blocks.clear();
        for &(policy, place) in clauses {
            let policy = self.policies.get(policy);
            let Some(clause) = policy.and_then(|policy| policy.clauses(direction).get(place as usize)) else {
                continue;
            };
            for (_, matcher) in &clause.peers {
                match *matcher {
                    Matcher::Everybody => return Ok(RowRef::EVERYBODY),
                    Matcher::Term(term) => terms.push(term),
                    Matcher::Block(block) => blocks.push(block),
                }
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
        let row = match self.programs.rows_by_key.get(key.as_slice()) {
            Some(&row) => row,
            None => self.add_row()?,
        };
        if let Some(entry) = self.programs.rows.get_mut(&row) {
            entry.uses += 1;
        }
        Ok(row)
    }

    /// Adds the row of the key, terms and blocks in the scratch lists.
    fn add_row(&mut self) -> Result<RowRef, CompileError> {
        Limits::check(("policy rows", "rows"), self.writer.rows() + 1, self.limits.rows)?;
        let ranges = self.ranges()?;
        let Scratch { key, terms, bits, .. } = &mut self.programs.scratch;
        bits.clear();
        terms.iter().filter_map(|&term| self.terms.term(term)).for_each(|term| bits.unite(&term.atoms));
        let set = ranges.and_then(|set| self.programs.range_sets.get_mut(set));
        let (reference, with_pods) =
            set.as_ref().map_or((None, false), |set| (Some(set.reference), set.with_pods));
        let row = self.writer.add_row(bits.words(), reference, with_pods)?;
        if let Some(set) = set {
            set.rows.insert(row);
        }
        let terms: Box<[u32]> = terms.as_slice().into();
        terms.iter().for_each(|&term| self.terms.enter_row(term, row));
        let key: Arc<[u32]> = key.as_slice().into();
        self.programs.rows_by_key.insert(key.clone(), row);
        self.programs.rows.insert(row, Row { key, terms, ranges, uses: 0 });
        Ok(row)
    }

    /// The range set of the blocks in the scratch list.
    fn ranges(&mut self) -> Result<Option<u32>, CompileError> {
        let blocks = &self.programs.scratch.blocks;
        if blocks.is_empty() {
            return Ok(None);
        }
        if let Some(&known) = self.programs.ranges_by_blocks.get(blocks.as_slice()) {
            return Ok(Some(known));
        }
        let list: Vec<&IpBlock> = blocks.iter().filter_map(|&block| self.blocks.get(block)).collect();
        let boundaries = ranges::union(list);
        let count = self.writer.range_boundaries() + boundaries.v4.len() + boundaries.v6.len();
        Limits::check(("ipBlock range boundaries", "range_boundaries"), count, self.limits.range_boundaries)?;
        let reference = self.writer.add_ranges(&boundaries.v4, &boundaries.v6)?;
        let with_pods = self.programs.prefixes.iter().any(|&prefix| touches(&boundaries, prefix));
        let blocks: Box<[u32]> = blocks.as_slice().into();
        blocks.iter().for_each(|&block| self.blocks.reuse(block));
        let set = self.programs.range_sets.insert(RangeSet {
            blocks: blocks.clone(),
            boundaries,
            reference,
            rows: Set::default(),
            with_pods,
        });
        self.programs.ranges_by_blocks.insert(blocks, set);
        Ok(Some(set))
    }

    fn release_row(&mut self, row: RowRef) {
        let Some(entry) = self.programs.rows.get_mut(&row) else { return };
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let Some(Row { key, terms, ranges, .. }) = self.programs.rows.remove(&row) else { return };
        self.programs.rows_by_key.remove(&key);
        for term in terms {
            let base = self.terms.leave_row(term, row);
            self.forget_base(base);
        }
        if let Some(number) = ranges
            && let Some(set) = self.programs.range_sets.get_mut(number)
        {
            set.rows.remove(&row);
            if set.rows.is_empty()
                && let Some(set) = self.programs.range_sets.remove(number)
            {
                self.programs.ranges_by_blocks.remove(&set.blocks);
                set.blocks.iter().for_each(|&block| self.blocks.release(block));
                self.writer.remove_ranges(set.reference);
            }
        }
        self.writer.remove_row(row);
    }

    /// Forgets a program that has been idle since before `oldest`, the oldest generation in use, if there is one, and more
    /// than `keep` are idle. Says whether there was.
    pub(super) fn reap_program(&mut self, oldest: u64, keep: usize) -> bool {
        let Some(&(number, since)) = self.programs.idle.front() else { return false };
        if since >= oldest || self.programs.idle.len() <= keep {
            return false;
        }
        self.programs.idle.pop_front();
        if self.programs.by_number.get(&number).is_none_or(|program| program.idle != Some(since)) {
            // Taken up again, or idle anew since.
            return true;
        }
        self.retire(number, since);
        let Some(gone) = self.programs.by_number.remove(&number) else { return true };
        self.programs.by_key.remove(&gone.key);
        self.writer.remove_program(number);
        gone.rows.iter().for_each(|&row| self.release_row(row));
        for policy in &gone.policies {
            if let Some(policy) = self.policies.get_mut(*policy) {
                policy.programs -= 1;
            }
            self.forget_policy(*policy);
        }
        true
    }

    /// How many programs there are, idle ones included.
    #[must_use]
    pub fn programs(&self) -> usize {
        self.programs.by_number.len()
    }

    /// Sizes of everything that comes and goes, to see that nothing is left over.
    #[cfg(test)]
    pub(super) fn row_counts(&self) -> (usize, usize) {
        (self.programs.rows.len(), self.programs.range_sets.len())
    }
}

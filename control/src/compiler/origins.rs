//! From a verdict back to the policies behind it.
//!
//! The tables know programs and intervals; this remembers which clauses of which policies each interval was made
//! of. It is made together with its tables, by the same compilation, and answers only for them: a program number
//! of other tables would name other policies.

use std::collections::BTreeMap;

use podgate_config::model::{IpBlock, ObjectName};
use podgate_dataplane::policy::{Action, Direction, PolicyPeer, PolicyTables};

use super::clauses::{Clause, Clauses, Matcher};
use super::compose::ProgramOrigins;
use super::lists::{Lists, number};
use super::survey::Survey;
use super::terms::Atoms;

/// One peer of one rule that admits a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The policy.
    pub policy: &'a ObjectName,
    /// The list the rule stands in.
    pub direction: Direction,
    /// Place of the rule in `ingress` or `egress`, from 0.
    pub rule: usize,
    /// Place of the peer in `from` or `to`, from 0; `None` if the rule names no peers.
    pub peer: Option<usize>,
}

/// What was counted for one policy in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyHits {
    /// New connections admitted in an interval that one of its rules takes part in.
    pub allowed: u64,
    /// New connections of pods that it isolates, denied.
    pub denied: u64,
}

/// The policies, rules and peers behind every (program, interval) of one set of tables. Immutable, shared freely.
pub struct Origins {
    policies: Vec<ObjectName>,
    clauses: Clauses,
    /// The atoms of each term.
    members: Lists<u32>,
    blocks: Vec<IpBlock>,
    programs: ProgramOrigins,
}

impl Origins {
    pub(super) fn new(survey: &Survey<'_>, clauses: Clauses, atoms: Atoms, programs: ProgramOrigins) -> Self {
        Self {
            policies: survey.policies.iter().map(|surveyed| surveyed.policy.name.clone()).collect(),
            clauses,
            members: atoms.members,
            blocks: survey.blocks.iter().map(|&block| block.clone()).collect(),
            programs,
        }
    }

    /// How many programs there are.
    #[must_use]
    pub fn programs(&self) -> usize {
        self.programs.programs.len()
    }

    fn find(&self, program: u32) -> Option<(u32, Direction)> {
        let programs = &self.programs.programs;
        let place = programs.binary_search_by_key(&program, |&(number, _)| number).ok()?;
        Some((number(place), programs.get(place)?.1))
    }

    /// The policies that isolate the pods of `program`, in the order of their names. Empty for a constant program.
    pub fn isolating(&self, program: u32) -> impl Iterator<Item = &ObjectName> {
        let list = self.find(program).map_or(&[][..], |(place, _)| self.programs.policies.get(place));
        list.iter().filter_map(|&policy| self.policies.get(policy as usize))
    }

    fn interval_clauses(&self, program: u32, interval: u32) -> impl Iterator<Item = (u32, &Clause)> {
        let set = self
            .find(program)
            .and_then(|(place, _)| self.programs.intervals.get(place).get(interval as usize));
        let clauses = set.map_or(&[][..], |&set| self.programs.clause_sets.get(set));
        clauses.iter().filter_map(|&clause| Some((clause, self.clauses.clauses.get(clause as usize)?)))
    }

    /// Every peer of every rule that admits `peer` in this interval, in the order of policy, rule and peer. Not
    /// empty exactly if the tables allow it.
    pub fn admitting(
        &self,
        program: u32,
        interval: u32,
        peer: PolicyPeer,
    ) -> impl Iterator<Item = Origin<'_>> {
        self.interval_clauses(program, interval).flat_map(move |(number, clause)| {
            let peers = self.clauses.peers.get(number).iter();
            peers.filter(move |(_, matcher)| self.matches(*matcher, peer)).filter_map(move |&(place, _)| {
                Some(Origin {
                    policy: self.policies.get(clause.policy as usize)?,
                    direction: clause.direction,
                    rule: clause.rule as usize,
                    peer: place.map(|place| place as usize),
                })
            })
        })
    }

    fn matches(&self, matcher: Matcher, peer: PolicyPeer) -> bool {
        match matcher {
            Matcher::Everybody => true,
            Matcher::Term(term) => {
                peer.pod.is_some_and(|pod| self.members.get(term).binary_search(&pod.atom).is_ok())
            }
            Matcher::Block(block) => {
                self.blocks.get(block as usize).is_some_and(|block| block.contains(peer.address))
            }
        }
    }

    /// What `tables` (those of the same compilation) counted, by policy and direction. Several policies can share
    /// a connection: it counts for each.
    #[must_use]
    pub fn policy_hits(&self, tables: &PolicyTables) -> BTreeMap<(&ObjectName, Direction), PolicyHits> {
        let mut totals: BTreeMap<(&ObjectName, Direction), PolicyHits> = BTreeMap::new();
        for (place, &(program, direction)) in (0u32..).zip(&self.programs.programs) {
            for interval in 0..number(self.programs.intervals.get(place).len()) {
                let allowed = tables.hits(program, interval, Action::Allow);
                let denied = tables.hits(program, interval, Action::Deny);
                if denied > 0 {
                    for policy in self.isolating(program) {
                        totals.entry((policy, direction)).or_default().denied += denied;
                    }
                }
                if allowed > 0 {
                    let mut last = None;
                    for (_, clause) in self.interval_clauses(program, interval) {
                        // Clauses of one policy are neighbours.
                        if last != Some(clause.policy) {
                            last = Some(clause.policy);
                            if let Some(policy) = self.policies.get(clause.policy as usize) {
                                totals.entry((policy, direction)).or_default().allowed += allowed;
                            }
                        }
                    }
                }
            }
        }
        totals
    }
}

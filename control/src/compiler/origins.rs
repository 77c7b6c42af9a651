//! From a verdict back to the policies behind it.
//!
//! The tables know programs and intervals; the compiler knows which clauses of which policies each interval was made of. A
//! program's number is used again after its time, so whoever asks says of which generation the verdict is. Programs that
//! were given up are remembered a while (as much of them as [`REMEMBERED`] says): their policies by name, and the rules of
//! each interval.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podgate_config::model::ObjectName;
use podgate_dataplane::policy::{Action, Direction, PolicyPeer};

use super::Compiler;
use super::clauses::Matcher;
use super::lists::number;

/// How much is remembered of programs although nothing judges by them any more: programs, their policies and intervals, and
/// the rules of these, all together. Some 30 bytes each, less than 64 MiB in all.
pub const REMEMBERED: usize = 2 << 20;

/// One peer of one rule that admits a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin<'a> {
    /// The policy.
    pub policy: &'a ObjectName,
    /// Place of the rule in `ingress` or `egress`, from 0.
    pub rule: usize,
    /// Place of the peer in `from` or `to`, from 0; `None` if the rule names no peers.
    pub peer: Option<usize>,
}

/// Who admitted a connection once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted<'a> {
    /// Each of these, in the order of policy, rule and peer; not empty.
    By(Vec<Origin<'a>>),
    /// One of these rules at least: which peers they had is forgotten, or the peer is another than it was then.
    OneOf(Vec<Origin<'a>>),
}

/// What was counted for one policy in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyHits {
    /// New connections admitted in an interval that one of its rules takes part in.
    pub allowed: u64,
    /// New connections of pods that it isolates, denied.
    pub denied: u64,
}

/// What was counted, by policy and direction.
pub type HitTotals = BTreeMap<(ObjectName, Direction), PolicyHits>;

/// Rules: a policy's place in a list, and the rule's among its own.
type Rules = Box<[(u32, u32)]>;

/// A program that nobody is judged by any more.
pub(super) struct Retired {
    program: u32,
    /// The first and the last generation that may have held it.
    generations: (u64, u64),
    isolating: Box<[ObjectName]>,
    /// Policy (its place in `isolating`) and rule, by interval.
    intervals: Box<[Rules]>,
}

impl Retired {
    /// What it takes of [`REMEMBERED`].
    fn size(&self) -> usize {
        let rules: usize = self.intervals.iter().map(|rules| rules.len()).sum();
        1 + self.isolating.len() + self.intervals.len() + rules
    }
}

impl Compiler {
    /// The policies that isolate the pods of `program`, in the order of their names. Empty for a constant program.
    #[must_use]
    pub fn isolating(&self, program: u32) -> Vec<&ObjectName> {
        let policies = self.programs.by_number.get(&program).map_or(&[][..], |program| &program.policies);
        let mut names: Vec<&ObjectName> = policies
            .iter()
            .filter_map(|&policy| self.policies.get(policy))
            .map(|policy| &policy.object.name)
            .collect();
        names.sort_unstable();
        names
    }

    /// The same for a verdict of an earlier generation; `None` if that is no longer known.
    #[must_use]
    pub fn isolating_then(&self, program: u32, generation: u64) -> Option<Vec<&ObjectName>> {
        if self.programs.by_number.get(&program).is_some_and(|known| known.since <= generation) {
            return Some(self.isolating(program));
        }
        Some(self.retired(program, generation)?.isolating.iter().collect())
    }

    fn retired(&self, program: u32, generation: u64) -> Option<&Retired> {
        let held = |retired: &&Retired| {
            let (first, last) = retired.generations;
            retired.program == program && (first..=last).contains(&generation)
        };
        self.retired.iter().rev().find(held)
    }

    /// Every peer of every rule that admits `peer` in this interval, in the order of policy, rule and peer. Not
    /// empty exactly if the tables allow it.
    #[must_use]
    pub fn admitting(&self, program: u32, interval: u32, peer: PolicyPeer) -> Vec<Origin<'_>> {
        let Some(entry) = self.programs.by_number.get(&program) else { return Vec::new() };
        let clauses = entry.intervals.get(interval as usize).map_or(&[][..], |clauses| clauses);
        let mut found = Vec::new();
        for &(policy, place) in clauses {
            let Some(policy) = self.policies.get(policy) else { continue };
            let Some(clause) = policy.clauses(entry.direction).get(place as usize) else { continue };
            let matching = clause.peers.iter().filter(|(_, matcher)| self.matches(*matcher, peer));
            found.extend(matching.map(|(place, _)| Origin {
                policy: &policy.object.name,
                rule: clause.rule as usize,
                peer: place.map(|place| place as usize),
            }));
        }
        // One rule can be several clauses.
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What admitted a connection with `peer` in an interval of an earlier generation: of today's programs the rules and peers
    /// that admit whoever has the address today, otherwise some of the rules that the interval was made of. `None` if
    /// that is no longer known.
    #[must_use]
    pub fn admitting_then(
        &self,
        program: u32,
        interval: u32,
        peer: IpAddr,
        generation: u64,
    ) -> Option<Admitted<'_>> {
        let of_rule = |(policy, rule)| Origin { policy, rule, peer: None };
        if let Some(entry) = self.programs.by_number.get(&program).filter(|known| known.since <= generation) {
            // Atoms are this compiler's own: those of other tables mean nothing here.
            let peer = PolicyPeer { address: peer, pod: self.writer.slot(peer) };
            let admitting = self.admitting(program, interval, peer);
            if !admitting.is_empty() {
                return Some(Admitted::By(admitting));
            }
            let clauses = entry.intervals.get(interval as usize).map_or(&[][..], |clauses| clauses);
            let mut rules: Vec<Origin<'_>> = clauses
                .iter()
                .filter_map(|&(policy, place)| {
                    let policy = self.policies.get(policy)?;
                    let clause = policy.clauses(entry.direction).get(place as usize)?;
                    Some(of_rule((&policy.object.name, clause.rule as usize)))
                })
                .collect();
            rules.sort_unstable();
            rules.dedup();
            return Some(Admitted::OneOf(rules));
        }
        let retired = self.retired(program, generation)?;
        let rules = retired.intervals.get(interval as usize).map_or(&[][..], |rules| rules);
        let named =
            |&(policy, rule): &(u32, u32)| Some((retired.isolating.get(policy as usize)?, rule as usize));
        Some(Admitted::OneOf(rules.iter().filter_map(named).map(of_rule).collect()))
    }

    fn matches(&self, matcher: Matcher, peer: PolicyPeer) -> bool {
        match matcher {
            Matcher::Everybody => true,
            Matcher::Term(term) => {
                peer.pod.is_some_and(|pod| self.terms.signature(pod.atom).binary_search(&term).is_ok())
            }
            Matcher::Block(block) => self.blocks.get(block).is_some_and(|block| block.contains(peer.address)),
        }
    }

    /// Remembers a program that is given up, and what was counted for it.
    pub(super) fn retire(&mut self, number: u32, last: u64) {
        let mut totals = HitTotals::new();
        self.add_hits(number, &mut totals);
        for (key, hits) in totals {
            let total = self.folded.entry(key).or_default();
            total.allowed += hits.allowed;
            total.denied += hits.denied;
        }
        let Some(program) = self.programs.by_number.get(&number) else { return };
        // Nobody can ask about one that no generation held.
        if last < program.since {
            return;
        }
        let isolating: Box<[ObjectName]> = self.isolating(number).into_iter().cloned().collect();
        let named = |&(policy, place): &(u32, u32)| {
            let policy = self.policies.get(policy)?;
            let clause = policy.clauses(program.direction).get(place as usize)?;
            let name = isolating.iter().position(|name| *name == policy.object.name)?;
            Some((super::lists::number(name), clause.rule))
        };
        let intervals = program.intervals.iter().map(|clauses| {
            let mut rules: Vec<(u32, u32)> = clauses.iter().filter_map(named).collect();
            rules.sort_unstable();
            rules.dedup();
            rules.into_boxed_slice()
        });
        let intervals = intervals.collect();
        let generations = (program.since, last);
        let retired = Retired { program: number, generations, isolating, intervals };
        self.retired_size += retired.size();
        self.retired.push_back(retired);
        while self.retired_size > REMEMBERED
            && let Some(oldest) = self.retired.pop_front()
        {
            self.retired_size -= oldest.size();
        }
    }

    /// Adds what was counted for a program, for each of its policies that was not deleted since.
    fn add_hits(&self, program_number: u32, totals: &mut HitTotals) {
        let Some(program) = self.programs.by_number.get(&program_number) else { return };
        let known = |policy: &u32| {
            let policy = self.policies.get(*policy)?;
            let today =
                self.policy_numbers.get(&policy.object.name).and_then(|today| self.policies.get(*today))?;
            (today.incarnation == policy.incarnation).then_some(&policy.object.name)
        };
        for (interval, clauses) in (0u32..).zip(&program.intervals) {
            let allowed = self.writer.hits(program_number, interval, Action::Allow);
            let denied = self.writer.hits(program_number, interval, Action::Deny);
            if denied > 0 {
                for name in program.policies.iter().filter_map(known) {
                    totals.entry((name.clone(), program.direction)).or_default().denied += denied;
                }
            }
            if allowed > 0 {
                let mut last = None;
                // Clauses of one policy are neighbours.
                for policy in clauses
                    .iter()
                    .map(|(policy, _)| policy)
                    .filter(|policy| last.replace(**policy) != Some(**policy))
                {
                    if let Some(name) = known(policy) {
                        totals.entry((name.clone(), program.direction)).or_default().allowed += allowed;
                    }
                }
            }
        }
    }

    /// New connections decided by each policy since it is there, those without any included. Several policies can share a
    /// connection: it counts for each.
    #[must_use]
    pub fn policy_hits(&self) -> HitTotals {
        let mut totals = self.folded.clone();
        for (_, policy) in self.policies.iter().filter(|(_, policy)| policy.live) {
            for direction in [Direction::Ingress, Direction::Egress] {
                if super::clauses::rules(&policy.object, direction).is_some() {
                    totals.entry((policy.object.name.clone(), direction)).or_default();
                }
            }
        }
        for &program in self.programs.by_number.keys() {
            self.add_hits(program, &mut totals);
        }
        totals
    }

    /// The policies that select a pod.
    pub fn selecting(&self, pod: &ObjectName) -> impl Iterator<Item = &ObjectName> {
        let member = self.member_numbers.get(pod).and_then(|number| self.members.get(*number));
        let policies = member.map_or(&[][..], |member| &member.policies);
        policies.iter().filter_map(|policy| Some(&self.policies.get(*policy)?.object.name))
    }

    /// How many pods a policy selects, and the first generation that held it as it is, if there was one.
    #[must_use]
    pub fn policy_state(&self, name: &ObjectName) -> Option<(u32, Option<u64>)> {
        let policy = self.policies.get(*self.policy_numbers.get(name)?)?;
        Some((number(policy.pods.len()), policy.since))
    }
}

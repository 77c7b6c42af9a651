//! Rules as clauses: which keys, which peers.
//!
//! A clause is one rule of one policy, or what one number of one of its named egress ports makes of it. Everything
//! about it is resolved except the named *ingress* ports, which depend on the selected pod. An interval of a
//! program is then a set of clauses, and that set is also the answer to "who decided".

use podgate_config::model::policy::Rule;
use podgate_config::model::port::{PortMatch, Protocol};
use podgate_dataplane::policy::{Direction, KEY_END, protocol_class};

use super::lists::{Lists, number};
use super::survey::{Selection, Survey, rules};
use super::terms::Terms;
use std::ops::Range;

/// Where a clause comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clause {
    /// The policy's number.
    pub(super) policy: u32,
    pub(super) direction: Direction,
    /// Place of the rule in its list, from 0.
    pub(super) rule: u32,
}

/// One peer of a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matcher {
    /// The rule names no peers.
    Everybody,
    /// Pods of a term.
    Term(u32),
    /// Addresses of an ipBlock.
    Block(u32),
}

/// A peer of a clause and its place in `from` or `to`, from 0; nothing for [`Matcher::Everybody`].
pub(super) type ClausePeer = (Option<u32>, Matcher);

/// The keys that a clause covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// Interval keys.
    Span(Range<u32>),
    /// The port that the selected pod declares under a name.
    OwnPort { protocol: Protocol, name: u32 },
}

/// All clauses, in the order of policy, direction and rule.
#[derive(Default)]
pub(super) struct Clauses {
    pub(super) clauses: Vec<Clause>,
    /// Per clause, in the order of the manifest.
    pub(super) peers: Lists<ClausePeer>,
    /// Per clause.
    pub(super) keys: Lists<Keys>,
    /// Per policy: its ingress clauses, its egress clauses.
    by_policy: Vec<[Range<u32>; 2]>,
}

impl Clauses {
    pub(super) fn new<'a>(survey: &Survey<'a>, terms: &mut Terms<'a, '_>) -> Self {
        let mut all = Self::default();
        // The survey went over the rules in the same order.
        let mut peers = survey.peers.iter();
        for (policy_number, surveyed) in (0u32..).zip(&survey.policies) {
            let mut ranges = [0..0, 0..0];
            for (range, direction) in ranges.iter_mut().zip([Direction::Ingress, Direction::Egress]) {
                let start = number(all.clauses.len());
                for (rule_number, rule) in (0u32..).zip(rules(surveyed.policy, direction).unwrap_or(&[])) {
                    let clause = Clause { policy: policy_number, direction, rule: rule_number };
                    all.add_rule(survey, terms, clause, rule, peers.next().unwrap_or(&[]));
                }
                *range = start..number(all.clauses.len());
            }
            all.by_policy.push(ranges);
        }
        all
    }

    /// The clauses of a policy in one direction.
    pub(super) fn of(&self, policy: u32, direction: Direction) -> Range<u32> {
        let ranges = self.by_policy.get(policy as usize);
        ranges.map_or(0..0, |[ingress, egress]| match direction {
            Direction::Ingress => ingress.clone(),
            Direction::Egress => egress.clone(),
        })
    }

    fn add(
        &mut self,
        clause: Clause,
        keys: impl IntoIterator<Item = Keys>,
        peers: impl IntoIterator<Item = ClausePeer>,
    ) {
        self.clauses.push(clause);
        self.keys.push(keys);
        self.peers.push(peers);
    }

    fn add_rule<'a>(
        &mut self,
        survey: &Survey<'a>,
        terms: &mut Terms<'a, '_>,
        clause: Clause,
        rule: &'a Rule,
        selections: &[Selection],
    ) {
        let mut keys = Vec::with_capacity(rule.ports.len());
        let mut egress_names = Vec::new();
        if rule.ports.is_empty() {
            // "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)":
            // also what has no ports, such as ICMP.
            keys.push(Keys::Span(0..KEY_END));
        }
        for port in &rule.ports {
            let class = protocol_class(port.protocol.number()) << 16;
            match port.matches() {
                PortMatch::All => keys.push(Keys::Span(class..class + (1 << 16))),
                PortMatch::Range { first, last } => {
                    let end = class + u32::from(last.get()) + 1;
                    keys.push(Keys::Span(class + u32::from(first.get())..end));
                }
                PortMatch::Named(name) => {
                    let Some(name) = survey.port_names.get(&(port.protocol, name)) else { continue };
                    match clause.direction {
                        Direction::Ingress => keys.push(Keys::OwnPort { protocol: port.protocol, name }),
                        Direction::Egress => egress_names.push((class, name)),
                    }
                }
            }
        }
        if !keys.is_empty() {
            let everybody = selections.is_empty().then_some((None, Matcher::Everybody));
            let peers = (0u32..).map(Some).zip(selections.iter().map(|&selection| match selection {
                Selection::InBlock(block) => Matcher::Block(block),
                pods => Matcher::Term(terms.whole(pods)),
            }));
            self.add(clause, keys, everybody.into_iter().chain(peers));
        }
        for (class, name) in egress_names {
            self.add_named(terms, clause, selections, class, name);
        }
    }

    /// One clause per number that a named egress port has among the rule's peers. The name is looked up on each
    /// destination pod, so outside addresses never match, ipBlock or no peers at all notwithstanding.
    fn add_named(
        &mut self,
        terms: &mut Terms<'_, '_>,
        clause: Clause,
        selections: &[Selection],
        class: u32,
        name: u32,
    ) {
        let mut found: Vec<(u16, ClausePeer)> = Vec::new();
        let mut resolve = |peer: Option<u32>, selection| {
            let resolved = terms.resolved(selection, name).into_iter();
            found.extend(resolved.map(|(port, term)| (port, (peer, Matcher::Term(term)))));
        };
        if selections.is_empty() {
            resolve(None, Selection::AnyPod);
        }
        for (peer, &selection) in (0u32..).zip(selections) {
            resolve(Some(peer), selection);
        }
        // Stable: the peers of one number keep the manifest's order.
        found.sort_by_key(|&(port, _)| port);
        for same_number in found.chunk_by(|(a, _), (b, _)| a == b) {
            let Some(&(port, _)) = same_number.first() else { continue };
            let key = class + u32::from(port);
            self.add(clause, [Keys::Span(key..key + 1)], same_number.iter().map(|&(_, peer)| peer));
        }
    }
}

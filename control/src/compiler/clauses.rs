//! Rules as clauses: which keys, which peers.
//!
//! A clause is one rule of one policy, or what one number of one of its named egress ports makes of it. Everything
//! about it is resolved except the named *ingress* ports, which depend on the selected pod. An interval of a
//! program is then a set of clauses, and that set is also the answer to "who decided".
//!
//! A named egress port resolves on each destination pod, so what numbers there are depends on the pods: when a family
//! gains a number, the policies that list it get new clauses ([`super::Compiler::renumber`]).

use std::ops::Range;

use podgate_config::model::policy::{NetworkPolicy, Peer, Rule};
use podgate_config::model::port::{PortMatch, PortName, Protocol};
use podgate_dataplane::policy::{Direction, KEY_END, protocol_class};

use super::Compiler;
use super::terms::Kind;

/// One rule, or one number of it.
pub(super) struct Clause {
    /// Place of the rule in its list, from 0.
    pub(super) rule: u32,
    pub(super) keys: Box<[Keys]>,
    /// In the order of the manifest.
    pub(super) peers: Box<[ClausePeer]>,
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
    OwnPort { protocol: Protocol, name: PortName },
}

/// A policy's rules in one direction; `None` if it does not isolate there.
pub(super) fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

impl Compiler {
    /// The clauses of a policy in one direction; `families` gets those that they list. Every peer counts as used.
    pub(super) fn clauses(
        &mut self,
        policy: &NetworkPolicy,
        namespace: u32,
        direction: Direction,
        families: &mut Vec<u32>,
    ) -> Vec<Clause> {
        let mut clauses = Vec::new();
        for (number, rule) in (0u32..).zip(rules(policy, direction).unwrap_or(&[])) {
            let mut keys = Vec::with_capacity(rule.ports.len());
            let mut egress_names: Vec<(Protocol, &PortName)> = Vec::new();
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
                    PortMatch::Named(name) => match direction {
                        Direction::Ingress => {
                            keys.push(Keys::OwnPort { protocol: port.protocol, name: name.clone() });
                        }
                        Direction::Egress => egress_names.push((port.protocol, name)),
                    },
                }
            }
            if !keys.is_empty() {
                let peers = self.whole_peers(rule, namespace);
                clauses.push(Clause { rule: number, keys: keys.into(), peers });
            }
            egress_names.dedup();
            for (protocol, name) in egress_names {
                self.named_clauses(rule, number, namespace, protocol, name, families, &mut clauses);
            }
        }
        clauses
    }

    fn whole_peers(&mut self, rule: &Rule, namespace: u32) -> Box<[ClausePeer]> {
        if rule.peers.is_empty() {
            return [(None, Matcher::Everybody)].into();
        }
        let peers = (0u32..).map(Some).zip(&rule.peers);
        peers
            .map(|(place, peer)| {
                let matcher = match peer {
                    Peer::IpBlock(block) => Matcher::Block(self.blocks.add(block)),
                    Peer::Pods { .. } => {
                        let base = self.base_of(peer, namespace);
                        Matcher::Term(self.whole_term(base))
                    }
                };
                (place, matcher)
            })
            .collect()
    }

    /// One clause per number that a named egress port has among the rule's peers. The name is looked up on each
    /// destination pod, so outside addresses never match, ipBlock or no peers at all notwithstanding.
    #[expect(clippy::too_many_arguments, reason = "a part of clauses()")]
    fn named_clauses(
        &mut self,
        rule: &Rule,
        number: u32,
        namespace: u32,
        protocol: Protocol,
        name: &PortName,
        families: &mut Vec<u32>,
        clauses: &mut Vec<Clause>,
    ) {
        let mut bases = Vec::new();
        if rule.peers.is_empty() {
            bases.push((None, self.add_base(Kind::AnyPod)));
        }
        for (place, peer) in (0u32..).zip(&rule.peers) {
            let base = match peer {
                Peer::IpBlock(block) => {
                    let block = self.blocks.add(block);
                    self.add_base(Kind::InBlock(block))
                }
                Peer::Pods { .. } => self.base_of(peer, namespace),
            };
            bases.push((Some(place), base));
        }
        let mut found: Vec<(u16, ClausePeer)> = Vec::new();
        for (place, base) in bases {
            let family = self.add_family(base, protocol, name);
            families.push(family);
            let numbers = self.terms.family(family).map(|family| family.numbers.clone()).unwrap_or_default();
            for (port, term) in numbers {
                self.terms.use_term(term);
                found.push((port, (place, Matcher::Term(term))));
            }
        }
        // Stable: the peers of one number keep the manifest's order.
        found.sort_by_key(|&(port, _)| port);
        for same_number in found.chunk_by(|(a, _), (b, _)| a == b) {
            let Some(&(port, _)) = same_number.first() else { continue };
            let key = (protocol_class(protocol.number()) << 16) + u32::from(port);
            let peers = same_number.iter().map(|&(_, peer)| peer).collect();
            clauses.push(Clause { rule: number, keys: [Keys::Span(key..key + 1)].into(), peers });
        }
    }
}

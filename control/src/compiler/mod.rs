//! Compiles a cluster's policies into the tables that workers judge by.
//!
//! [`compile`] is a function of its input: the same cluster gives the same verdicts, and it either gives complete
//! tables or an error and no tables. One pass after the other, each over numbers that the pass before gave out:
//!
//! ```text
//! survey      what selectors, port names and ipBlocks the policies mention
//! classes     pods that they cannot tell apart, found by what the survey says can be noticed
//! terms       the sets of pods that rules refer to; atoms = classes with the same terms
//! clauses     rules, resolved: keys x peers
//! compose     per class and direction the program; rows, ranges
//! origins     the way back from (program, interval) to policy, rule and peer
//! ```
//!
//! The meaning is the NetworkPolicy API's, literally; `tests/` holds an oracle that quotes it sentence by sentence
//! and is compared with this on generated clusters. What the API leaves open is decided like this: a rule without
//! ports matches every protocol, ICMP included, and nothing else matches protocols that have no ports; an ipBlock
//! matches pod addresses too, and together with a named egress port those pods in it that declare the port.

mod classes;
mod clauses;
mod compose;
mod lists;
mod origins;
mod ranges;
mod survey;
mod terms;
mod vocabulary;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use podgate_config::model::{Cluster, NodeName, ObjectName, Pod};
use podgate_dataplane::policy::{BuildError, Direction, HashSeed, PROGRAM_CLOSED, PodSlot, PolicyTables};

use classes::Classes;
use clauses::Clauses;
use compose::Composer;
use lists::Lists;
pub use origins::{Origin, Origins, PolicyHits};
use survey::Survey;
use terms::Terms;

/// Whose programs are compiled. Every pod is known as a peer; one that is not in scope is closed if it is judged
/// all the same.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Every pod.
    AllPods,
    /// The pods whose `spec.nodeName` is this.
    Node(&'a NodeName),
    /// These pods.
    Pods(&'a BTreeSet<ObjectName>),
}

impl Scope<'_> {
    /// Whether `pod` is judged here.
    #[must_use]
    pub fn holds(&self, pod: &Pod) -> bool {
        match self {
            Self::AllPods => true,
            Self::Node(node) => pod.node.as_ref() == Some(node),
            Self::Pods(pods) => pods.contains(&pod.name),
        }
    }
}

/// How large the tables may get. Exceeding one fails the compilation; nothing is ever cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Live pods with an address.
    pub pods: usize,
    /// Classes of pods that rules tell apart; each costs one bit per row.
    pub atoms: usize,
    /// Distinct peer sets.
    pub rows: usize,
    /// 32-bit words of all programs.
    pub program_words: usize,
    /// Boundaries of all ipBlock ranges.
    pub range_boundaries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pods: 1 << 17,
            atoms: 1 << 16,
            rows: 1 << 17,
            program_words: 1 << 25,
            range_boundaries: 1 << 22,
        }
    }
}

impl Limits {
    fn check(&self, what: &'static str, value: usize, limit: usize) -> Result<(), CompileError> {
        if value > limit { Err(CompileError::LimitExceeded { what, value, limit }) } else { Ok(()) }
    }
}

/// Why there are no tables. The last good ones stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The policies need more than the settings allow.
    #[error(
        "{what}: {value} or more needed, the limit is {limit}; raise the limit in the settings or simplify the policies"
    )]
    LimitExceeded {
        /// What there is too much of.
        what: &'static str,
        /// How many were needed when the limit was hit.
        value: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The tables cannot be laid out.
    #[error(transparent)]
    Tables(#[from] BuildError),
}

/// Tables and the way back from their verdicts.
pub struct Compiled {
    /// For the workers.
    pub tables: PolicyTables,
    /// For people.
    pub origins: Origins,
}

/// Compiles everything from nothing.
///
/// # Errors
/// [`CompileError`] if a limit is exceeded.
pub fn compile(cluster: &Cluster, scope: Scope<'_>, limits: &Limits) -> Result<Compiled, CompileError> {
    let pods = cluster.pods.values().filter(|pod| pod.is_subject() && !pod.addresses.is_empty()).count();
    limits.check("pods", pods, limits.pods)?;
    let survey = Survey::new(cluster);
    let classes = Classes::new(cluster, &survey, scope);
    let mut terms = Terms::new(&survey, &classes, survey.selected_namespaces(cluster));
    let clauses = Clauses::new(&survey, &mut terms);
    let atoms = terms.into_atoms();
    limits.check("policy atoms", atoms.count, limits.atoms)?;

    let selecting = selecting_policies(&survey, &classes);
    let mut composer = Composer::new(&survey, &classes, &clauses, &atoms, limits)?;
    let mut slots = Vec::with_capacity(classes.len() as usize);
    for (class, &atom) in (0u32..).zip(&atoms.of_class) {
        let mut slot = PodSlot { atom, ingress_program: PROGRAM_CLOSED, egress_program: PROGRAM_CLOSED };
        if classes.in_scope.get(class as usize) == Some(&true) {
            slot.ingress_program = composer.program(Direction::Ingress, class, selecting.get(class))?;
            slot.egress_program = composer.program(Direction::Egress, class, selecting.get(class))?;
        }
        slots.push(slot);
    }
    let Composer { mut builder, origins, .. } = composer;
    for endpoint in &classes.endpoints {
        let Some(&slot) = slots.get(endpoint.class as usize) else { continue };
        let closed = PodSlot { ingress_program: PROGRAM_CLOSED, egress_program: PROGRAM_CLOSED, ..slot };
        builder.add_pod(endpoint.address, if endpoint.in_scope { slot } else { closed })?;
    }
    let tables = builder.finish(hash_seed())?;
    let origins = Origins::new(&survey, clauses, atoms, origins);
    Ok(Compiled { tables, origins })
}

/// For each class, the policies that select it, ascending. "A policy selects pods of its own namespace."
fn selecting_policies(survey: &Survey<'_>, classes: &Classes) -> Lists<u32> {
    let mut subjects = Lists::default();
    for surveyed in &survey.policies {
        let runs = classes.runs_of(&[surveyed.namespace]);
        subjects.push(classes.index.select(&survey.pod_selectors, surveyed.pods, &runs));
    }
    subjects.inverted(classes.len() as usize)
}

/// A fresh key: outside addresses are looked up in the same tables, and their senders choose them.
fn hash_seed() -> HashSeed {
    let random = RandomState::new();
    HashSeed::new(random.hash_one(0), random.hash_one(1))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

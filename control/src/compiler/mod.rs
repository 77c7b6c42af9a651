//! Compiles a cluster's policies into the tables that workers judge by, and follows the cluster's changes.
//!
//! A [`Compiler`] is told what there is, change by change; [`settle`](Compiler::settle) works off what a burst of changes
//! makes of it, and gives the tables to publish. A change costs what it touches: a pod that is relabelled is looked at by
//! itself, and the tables of before and after share all pages but a few. [`compile`] tells a new compiler everything.
//!
//! ```text
//! labels, selectors   what objects carry, what selects them, and which of them match
//! population          pods: what a pod's labels make of it
//! spaces              namespaces, and selectors that span several
//! policies, clauses   rules, resolved: keys x peers
//! terms               the sets of pods that rules refer to; atoms = addresses with the same terms
//! programs, ranges    per set of policies and direction the program; rows; ipBlocks
//! origins             the way back from (program, interval) to policy, rule and peer
//! ```
//!
//! What is guaranteed:
//! - After every [`settle`](Compiler::settle) the tables give the verdicts, and [`origins`] the explanations, that a new
//!   compiler gives for the same objects. Numbers (atoms, programs, rows) differ.
//! - Tables that were given away stay good until [`reclaim`](Compiler::reclaim) says that no worker has them: what they
//!   refer to is neither changed nor used again before.
//! - When a limit is reached there are no new tables, and the compiler is of no use any more but for questions about the
//!   tables that it gave before: whoever has it tells a new one everything. Those tables may be published again and again
//!   meanwhile, so nothing that they refer to is given up any more.
//!
//! The meaning is the NetworkPolicy API's, literally; `tests/` holds an oracle that quotes it sentence by sentence
//! and is compared with this on generated clusters and histories. What the API leaves open is decided like this: a rule
//! without ports matches every protocol, ICMP included, and nothing else matches protocols that have no ports; an ipBlock
//! matches pod addresses too, and together with a named egress port those pods in it that declare the port.

mod clauses;
mod labels;
mod lists;
mod origins;
mod policies;
mod population;
mod programs;
mod ranges;
mod selectors;
mod spaces;
mod terms;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use podgate_config::model::{Cluster, NamespaceName, NodeName, ObjectName, Pod};
use podgate_dataplane::policy::{Delivery, Direction, HashSeed, PolicyTables, TablesWriter, WriteError};

use labels::Dictionary;
use lists::{Map, Slab};
pub use origins::{Admitted, HitTotals, Origin, PolicyHits};
use policies::{Blocks, Policy};
use population::Member;
use programs::Programs;
use selectors::Selectors;
use spaces::{Space, Spanning};
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
    /// Programs, and classes, that may stay although nobody has them, in case they come back; an eighth of all may in any case.
    /// They count as what there is. Unlike the others this is no error to exceed: they go when no worker needs them.
    pub idle: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pods: 1 << 17,
            atoms: 1 << 16,
            rows: 1 << 17,
            program_words: 1 << 25,
            range_boundaries: 1 << 22,
            idle: 256,
        }
    }
}

impl Limits {
    fn check(
        (what, setting): (&'static str, &'static str),
        value: usize,
        limit: usize,
    ) -> Result<(), CompileError> {
        if value > limit { Err(CompileError::LimitExceeded { what, setting, value, limit }) } else { Ok(()) }
    }
}

/// Why there are no tables. The last good ones stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The policies need more than the settings allow.
    #[error(
        "{what}: {value} or more needed, the limit is {limit}; raise the setting `limit_{setting}` or simplify the policies"
    )]
    LimitExceeded {
        /// What there is too much of.
        what: &'static str,
        /// The setting, without its `limit_`.
        setting: &'static str,
        /// How many were needed when the limit was hit.
        value: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The tables cannot be laid out.
    #[error(transparent)]
    Tables(#[from] WriteError),
}

/// Tables and the way back from their verdicts.
pub struct Compiled {
    /// For the workers.
    pub tables: PolicyTables,
    /// For people, and for the next change.
    pub compiler: Compiler,
}

/// Compiles everything from nothing. Nobody counts hits, nobody is delivered to.
///
/// # Errors
/// [`CompileError`] if a limit is exceeded.
pub fn compile(cluster: &Cluster, scope: Scope<'_>, limits: &Limits) -> Result<Compiled, CompileError> {
    compile_for(cluster, scope, limits, 0, |_| Delivery::default())
}

/// Compiles everything from nothing, for `workers` workers that count hits.
///
/// # Errors
/// [`CompileError`] if a limit is exceeded.
pub fn compile_for(
    cluster: &Cluster,
    scope: Scope<'_>,
    limits: &Limits,
    workers: usize,
    delivery: impl Fn(&Pod) -> Delivery,
) -> Result<Compiled, CompileError> {
    let mut compiler = Compiler::new(limits, workers);
    compiler.load(cluster, |pod| scope.holds(pod), delivery);
    let tables = compiler.settle()?;
    Ok(Compiled { tables, compiler })
}

/// A cluster's policies, and the tables made of them.
pub struct Compiler {
    limits: Limits,
    writer: TablesWriter,
    pod_labels: Dictionary,
    space_labels: Dictionary,
    pod_selectors: Selectors,
    space_selectors: Selectors,

    space_numbers: Map<NamespaceName, u32>,
    spaces: Slab<Space>,
    /// By namespace selector.
    spanning: Map<u32, Spanning>,
    member_numbers: Map<ObjectName, u32>,
    members: Slab<Member>,
    /// Who claims an address.
    claims: Map<IpAddr, Vec<u32>>,

    policy_numbers: Map<ObjectName, u32>,
    policies: Slab<Policy>,
    incarnations: u64,
    blocks: Blocks,

    terms: Terms,
    any_pod: Option<u32>,

    programs: Programs,
    /// What was counted for programs that are no longer there.
    folded: HitTotals,
    retired: VecDeque<origins::Retired>,
    retired_size: usize,

    /// Pods to be looked at anew, and policies that need other clauses.
    dirty: Vec<u32>,
    renumber: Vec<u32>,
    /// Pods whose programs are to be found, and those whose slots are to be written.
    reprogram: Vec<u32>,
    rewrite: Vec<u32>,
    /// Policies that no published generation holds yet.
    unpublished: Vec<u32>,
    /// Terms of the pod at hand.
    found: Vec<u32>,

    /// The newest generation that was published.
    published: u64,
    failed: Option<CompileError>,
}

impl Compiler {
    /// Knows nothing yet. `workers` workers will count hits.
    #[must_use]
    pub fn new(limits: &Limits, workers: usize) -> Self {
        Self {
            limits: limits.clone(),
            writer: TablesWriter::new(hash_seed(), workers),
            pod_labels: Dictionary::default(),
            space_labels: Dictionary::default(),
            pod_selectors: Selectors::default(),
            space_selectors: Selectors::default(),
            space_numbers: Map::default(),
            spaces: Slab::default(),
            spanning: Map::default(),
            member_numbers: Map::default(),
            members: Slab::default(),
            claims: Map::default(),
            policy_numbers: Map::default(),
            policies: Slab::default(),
            incarnations: 0,
            blocks: Blocks::default(),
            terms: Terms::default(),
            any_pod: None,
            programs: Programs::default(),
            folded: HitTotals::new(),
            retired: VecDeque::new(),
            retired_size: 0,
            dirty: Vec::new(),
            renumber: Vec::new(),
            reprogram: Vec::new(),
            rewrite: Vec::new(),
            unpublished: Vec::new(),
            found: Vec::new(),
            published: 0,
            failed: None,
        }
    }

    /// Tells it everything there is. Policies before pods: a pod is then looked at once.
    pub fn load(
        &mut self,
        cluster: &Cluster,
        judged: impl Fn(&Pod) -> bool,
        delivery: impl Fn(&Pod) -> Delivery,
    ) {
        for (name, namespace) in &cluster.namespaces {
            self.set_namespace(name, Some(namespace));
        }
        for policy in cluster.policies.values() {
            self.set_policy(policy.clone());
        }
        for pod in cluster.pods.values() {
            self.set_pod(pod, judged(pod), delivery(pod));
        }
    }

    /// Works off what has changed, and gives the tables to publish.
    ///
    /// # Errors
    /// [`CompileError`], from now on always the same; tables given before stay good.
    pub fn settle(&mut self) -> Result<PolicyTables, CompileError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.work_off() {
            Ok(()) => Ok(self.writer.tables()),
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn work_off(&mut self) -> Result<(), CompileError> {
        Limits::check(("pods", "pods"), self.members.len(), self.limits.pods)?;
        while !self.dirty.is_empty() || !self.renumber.is_empty() {
            for pod in std::mem::take(&mut self.dirty) {
                self.evaluate(pod);
            }
            let mut policies = std::mem::take(&mut self.renumber);
            policies.sort_unstable();
            policies.dedup();
            policies.into_iter().for_each(|policy| self.renumber(policy));
        }
        Limits::check(("policy atoms", "atoms"), self.terms.atoms(), self.limits.atoms)?;
        let mut pods = std::mem::take(&mut self.reprogram);
        if pods.len() * 2 > self.members.len() {
            // Most of the rows are still to come: once is enough for making room.
            self.writer.reserve(self.terms.atoms() + self.terms.atoms() / 8, pods.len());
        }
        pods.drain(..).try_for_each(|pod| self.reprogram(pod))?;
        self.reprogram = pods;
        let mut pods = std::mem::take(&mut self.rewrite);
        pods.drain(..).try_for_each(|pod| self.write(pod))?;
        self.rewrite = pods;
        Ok(())
    }

    /// The tables that were given last are in force as this generation. It is at least one more than the one before.
    pub fn published(&mut self, generation: u64) {
        self.published = generation;
        if self.failed.is_some() {
            // Not even these tables hold what came last.
            return;
        }
        for policy in std::mem::take(&mut self.unpublished) {
            if let Some(policy) = self.policies.get_mut(policy) {
                policy.since.get_or_insert(generation);
            }
        }
    }

    /// No worker judges by a generation before `oldest` any more. Gives back what only they needed, at most `most` things at
    /// a time; a part stays, for it often comes back. Says whether there is more to do.
    pub fn reclaim(&mut self, oldest: u64, most: usize) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let programs = self.limits.idle.max(self.programs.by_number.len() / 8);
        let atoms = self.limits.idle.max(self.terms.atoms() / 8);
        let mut done = 0;
        while done < most && self.reap_program(oldest, programs) {
            done += 1;
        }
        while done < most && self.terms.reap(oldest, atoms, &mut self.writer) {
            done += 1;
        }
        done == most
    }

    /// Takes the place of another compiler that was told the same, after `published`: policies are in force since then.
    pub fn succeed(&mut self, other: &Self, published: u64) {
        self.published = published;
        // Before, its programs' numbers were the other's.
        self.programs.by_number.values_mut().for_each(|program| program.since = published + 1);
        for (_, policy) in self.policies.iter_mut() {
            let before =
                other.policy_numbers.get(&policy.object.name).and_then(|number| other.policies.get(*number));
            policy.since =
                before.filter(|before| before.object == policy.object).and_then(|before| before.since);
        }
    }

    /// Takes over what another compiler counted for policies that are still there.
    pub fn inherit(&mut self, totals: HitTotals) {
        for (key, hits) in totals {
            if self.policy_numbers.contains_key(&key.0) {
                let total = self.folded.entry(key).or_default();
                total.allowed += hits.allowed;
                total.denied += hits.denied;
            }
        }
    }

    /// A policy is gone from the tables of another compiler, which took this one's place.
    pub fn forget_hits(&mut self, policy: &ObjectName) {
        self.policy_numbers.remove(policy);
        self.folded.remove(&(policy.clone(), Direction::Ingress));
        self.folded.remove(&(policy.clone(), Direction::Egress));
    }

    /// How much of each limit is used.
    #[must_use]
    pub fn used(&self) -> Limits {
        Limits {
            pods: self.members.len(),
            atoms: self.terms.atoms(),
            rows: self.writer.rows(),
            program_words: self.writer.program_words(),
            range_boundaries: self.writer.range_boundaries(),
            ..self.limits.clone()
        }
    }

    /// How many atoms there are, idle ones included.
    #[must_use]
    pub fn atoms(&self) -> usize {
        self.terms.atoms()
    }

    /// How many rows there are besides "nobody" and "everybody".
    #[must_use]
    pub fn rows(&self) -> usize {
        self.writer.rows()
    }

    /// Why there are no tables any more; `None` if all is well.
    #[must_use]
    pub fn failed(&self) -> Option<&CompileError> {
        self.failed.as_ref()
    }
}

/// A fresh key: outside addresses are looked up in the same tables, and their senders choose them.
fn hash_seed() -> HashSeed {
    let random = RandomState::new();
    HashSeed::new(random.hash_one(0), random.hash_one(1))
}

#[cfg(test)]
mod following;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

//! What each generation was compiled from, as long as somebody may ask.
//!
//! A drop record or a flow names a generation and a place in its tables; only the origins of the same compilation lead
//! back from there to a policy. So a generation is remembered until its snapshot came back from the workers and its hit
//! counters are folded into the totals; the last few are kept longer, because records wait in rings.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use podgate_config::model::ObjectName;
use podgate_dataplane::policy::Direction;

use super::resolve::Resolved;
use crate::compiler::{Compiled, PolicyHits};
use crate::explain::World;

/// Generations that are remembered although their snapshots came back.
const KEPT: usize = 4;

/// One compilation, which may serve several generations.
pub struct Basis {
    /// What was compiled.
    pub resolved: Resolved,
    /// What came out.
    pub compiled: Arc<Compiled>,
    /// For questions.
    pub world: World,
    /// Whose an address is.
    pub names: BTreeMap<IpAddr, ObjectName>,
}

struct Generation {
    number: u64,
    basis: Arc<Basis>,
    reclaimed: bool,
}

/// All generations that somebody may ask about.
#[derive(Default)]
pub struct History {
    generations: VecDeque<Generation>,
    /// Hits of compilations that are no longer there.
    folded: BTreeMap<(ObjectName, Direction), PolicyHits>,
}

impl History {
    /// Remembers what a generation was made of.
    pub fn publish(&mut self, number: u64, basis: Arc<Basis>) {
        self.generations.push_back(Generation { number, basis, reclaimed: false });
    }

    /// What the newest generation was made of.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<Basis>> {
        self.generations.back().map(|generation| &generation.basis)
    }

    /// What this generation was made of; `None` if that is forgotten.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Basis> {
        let found = self.generations.iter().find(|generation| generation.number == number);
        found.map(|generation| &*generation.basis)
    }

    /// Notes that no worker judges by this generation any more, and forgets what nobody asks about.
    pub fn reclaim(&mut self, number: u64) {
        if let Some(generation) = self.generations.iter_mut().find(|generation| generation.number == number) {
            generation.reclaimed = true;
        }
        while self.generations.len() > KEPT && self.generations.front().is_some_and(|first| first.reclaimed) {
            let Some(gone) = self.generations.pop_front() else { return };
            let used = self.generations.iter().any(|other| Arc::ptr_eq(&other.basis, &gone.basis));
            if !used {
                add(&mut self.folded, &gone.basis.compiled);
            }
        }
    }

    /// New connections decided by each policy since the start, those of the current policies without any included.
    #[must_use]
    pub fn hits(&self) -> BTreeMap<(ObjectName, Direction), PolicyHits> {
        let mut hits = self.folded.clone();
        let mut last: Option<&Arc<Basis>> = None;
        for generation in &self.generations {
            // Generations of one compilation are neighbours.
            if last.is_none_or(|last| !Arc::ptr_eq(last, &generation.basis)) {
                add(&mut hits, &generation.basis.compiled);
                last = Some(&generation.basis);
            }
        }
        if let Some(basis) = self.current() {
            for policy in basis.resolved.cluster.policies.values() {
                for (direction, section) in
                    [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
                {
                    if section.is_some() {
                        hits.entry((policy.name.clone(), direction)).or_default();
                    }
                }
            }
            // Deleted policies leave: their names may come back with another meaning.
            hits.retain(|(policy, _), _| basis.resolved.cluster.policies.contains_key(policy));
        }
        hits
    }
}

fn add(hits: &mut BTreeMap<(ObjectName, Direction), PolicyHits>, compiled: &Compiled) {
    for ((policy, direction), counted) in compiled.origins.policy_hits(&compiled.tables) {
        let total = hits.entry((policy.clone(), direction)).or_default();
        total.allowed += counted.allowed;
        total.denied += counted.denied;
    }
}

#[cfg(test)]
mod tests {
    use podgate_dataplane::policy::Verdict;

    use super::*;
    use crate::compiler::world::World as Sketch;
    use crate::compiler::{Limits, Scope, compile};
    use crate::gateway::resolve::resolve;

    fn basis(sketch: &Sketch) -> Arc<Basis> {
        let resolved = resolve(sketch.0.clone(), &[], true);
        let mut compiled = compile(&resolved.cluster, Scope::AllPods, &Limits::default()).unwrap();
        compiled.tables = compiled.tables.with_hits(1);
        let cluster = Arc::new(resolved.cluster.clone());
        let compiled = Arc::new(compiled);
        let world = World::of_gateway(cluster, compiled.clone(), None, Vec::new(), Default::default());
        Arc::new(Basis { resolved, compiled, world, names: BTreeMap::new() })
    }

    fn deny(basis: &Basis) {
        let (_, slot) = basis.compiled.tables.lookup("10.0.0.1".parse().unwrap()).unwrap();
        let verdict = Verdict { program: slot.ingress_program, interval: 0, ..Verdict::CLOSED };
        basis.compiled.tables.count(0, verdict);
    }

    #[test]
    fn hits_outlive_their_tables_and_are_counted_once() {
        let sketch = Sketch::default().namespace("shop", "").pod("shop/web", "", &["10.0.0.1"], &[]);
        let sketch = sketch.policy("shop/deny", "", Some(vec![]), None);
        let policy = sketch.0.policies.keys().next().unwrap().clone();
        let denied = |history: &History| history.hits()[&(policy.clone(), Direction::Ingress)].denied;
        let mut history = History::default();
        let first = basis(&sketch);
        // Two generations of one compilation: the second only has other neighbours.
        history.publish(1, first.clone());
        history.publish(2, first.clone());
        deny(&first);
        assert_eq!(denied(&history), 1);
        for number in 3..20 {
            history.publish(number, basis(&sketch));
            history.reclaim(number - 1);
            deny(history.current().unwrap());
            // The first is still with a worker that sleeps.
            assert_eq!(denied(&history), number - 1);
        }
        assert!(history.get(1).is_some());
        history.reclaim(1);
        assert!(history.get(1).is_none());
        assert_eq!(denied(&history), 18);
        history.publish(20, basis(&Sketch::default()));
        assert!(history.hits().is_empty(), "the policy was deleted");
    }
}

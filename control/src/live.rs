//! The cluster as it is now, and what is compiled from it.
//!
//! [`Live`] takes changes one by one, to the objects and to the compiler alike, so that whatever is asked about the tables
//! is answered from the objects that they were made of. [`Live::settle`] gives the tables to publish, or fails and changes
//! nothing that is published.
//!
//! A compiler that failed is asked about its tables as long as workers judge by them. It is told nothing more: each
//! [`Live::settle`] tries a new one, which is told everything.

use std::collections::HashMap;
use std::sync::Arc;

use podgate_config::model::policy::NetworkPolicy;
use podgate_config::model::{Cluster, Namespace, NamespaceName, Node, NodeName, ObjectName, Pod};
use podgate_dataplane::policy::{Delivery, PolicyTables};

use crate::compiler::{CompileError, Compiler, HitTotals, Limits};

/// What may be undone at once of what only old generations needed.
const RECLAIM_AT_ONCE: usize = 512;

/// Objects and tables.
pub struct Live {
    cluster: Cluster,
    /// Whether a pod's own directions are judged here, and where it is delivered.
    placed: HashMap<ObjectName, (bool, Delivery)>,
    compiler: Compiler,
    /// Compilers of tables in use, each with the last generation that it made.
    before: Vec<(Compiler, u64)>,
    tables: PolicyTables,
    published: u64,
    limits: Limits,
    workers: usize,
    rebuilt: u64,
}

impl Live {
    /// Nothing is known yet. `workers` workers will count hits.
    #[must_use]
    pub fn new(limits: Limits, workers: usize) -> Self {
        Self {
            cluster: Cluster::default(),
            placed: HashMap::new(),
            compiler: Compiler::new(&limits, workers),
            before: Vec::new(),
            tables: PolicyTables::empty(),
            published: 0,
            limits,
            workers,
            rebuilt: 0,
        }
    }

    /// The objects.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The compiler of the tables that were given last.
    #[must_use]
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The tables that were given last.
    #[must_use]
    pub fn tables(&self) -> &PolicyTables {
        &self.tables
    }

    /// How often everything was compiled anew because a change could not be followed.
    #[must_use]
    pub fn rebuilt(&self) -> u64 {
        self.rebuilt
    }

    /// Who is told of changes, if anybody is.
    fn told(&mut self) -> Option<&mut Compiler> {
        self.compiler.failed().is_none().then_some(&mut self.compiler)
    }

    /// A namespace is there, or gone.
    pub fn set_namespace(&mut self, name: &NamespaceName, namespace: Option<&Namespace>) {
        match namespace {
            Some(namespace) => drop(self.cluster.namespaces.insert(name.clone(), namespace.clone())),
            None => drop(self.cluster.namespaces.remove(name)),
        }
        if let Some(compiler) = self.told() {
            compiler.set_namespace(name, namespace);
        }
    }

    /// A node is there, or gone. Policy does not depend on it.
    pub fn set_node(&mut self, name: &NodeName, node: Option<&Node>) {
        match node {
            Some(node) => drop(self.cluster.nodes.insert(name.clone(), node.clone())),
            None => drop(self.cluster.nodes.remove(name)),
        }
    }

    /// A policy is there, or gone.
    pub fn set_policy(&mut self, name: &ObjectName, policy: Option<&Arc<NetworkPolicy>>) {
        match policy {
            Some(policy) => {
                self.cluster.policies.insert(name.clone(), policy.clone());
                if let Some(compiler) = self.told() {
                    compiler.set_policy(policy.clone());
                }
            }
            None => {
                self.cluster.policies.remove(name);
                self.before.iter_mut().for_each(|(before, _)| before.forget_hits(name));
                match self.told() {
                    Some(compiler) => compiler.remove_policy(name),
                    None => self.compiler.forget_hits(name),
                }
            }
        }
    }

    /// A pod is there. `judged`: its own directions are judged here.
    pub fn set_pod(&mut self, pod: Pod, judged: bool, delivery: Delivery) {
        if let Some(compiler) = self.told() {
            compiler.set_pod(&pod, judged, delivery);
        }
        self.placed.insert(pod.name.clone(), (judged, delivery));
        self.cluster.pods.insert(pod.name.clone(), pod);
    }

    /// A pod is delivered otherwise.
    pub fn set_delivery(&mut self, name: &ObjectName, delivery: Delivery) {
        let Some((_, known)) = self.placed.get_mut(name) else { return };
        *known = delivery;
        if let Some(compiler) = self.told() {
            compiler.set_delivery(name, delivery);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, name: &ObjectName) {
        if let Some(compiler) = self.told() {
            compiler.remove_pod(name);
        }
        self.placed.remove(name);
        self.cluster.pods.remove(name);
    }

    /// The tables to publish. What cannot be followed is compiled anew: a change may meet a limit only because what it
    /// replaces is still remembered.
    ///
    /// # Errors
    /// [`CompileError`]: those that were given last stay good. The next attempt compiles everything anew.
    pub fn settle(&mut self) -> Result<PolicyTables, CompileError> {
        let tables = match self.compiler.settle() {
            Ok(tables) => tables,
            Err(_) => self.rebuild()?,
        };
        self.tables = tables;
        Ok(self.tables.clone())
    }

    fn rebuild(&mut self) -> Result<PolicyTables, CompileError> {
        let mut anew = Compiler::new(&self.limits, self.workers);
        let judged = |pod: &Pod| self.placed.get(&pod.name).is_some_and(|(judged, _)| *judged);
        let delivery = |pod: &Pod| self.placed.get(&pod.name).map(|(_, at)| *at).unwrap_or_default();
        anew.load(&self.cluster, judged, delivery);
        let tables = anew.settle()?;
        anew.succeed(&self.compiler, self.published);
        self.before.push((std::mem::replace(&mut self.compiler, anew), self.published));
        self.rebuilt += 1;
        Ok(tables)
    }

    /// What was given last is in force as this generation.
    pub fn published(&mut self, generation: u64) {
        self.published = generation;
        self.compiler.published(generation);
    }

    /// No worker judges by a generation before `oldest` any more. Says whether there is more to do.
    pub fn reclaim(&mut self, oldest: u64) -> bool {
        let compiler = &mut self.compiler;
        self.before.retain(|(before, last)| {
            let used = *last >= oldest;
            if !used {
                compiler.inherit(before.policy_hits());
            }
            used
        });
        self.compiler.reclaim(oldest, RECLAIM_AT_ONCE)
    }

    /// New connections decided by each policy since it is there.
    #[must_use]
    pub fn policy_hits(&self) -> HitTotals {
        let mut totals = self.compiler.policy_hits();
        for (before, _) in &self.before {
            for (key, hits) in before.policy_hits() {
                if let Some(total) = totals.get_mut(&key) {
                    total.allowed += hits.allowed;
                    total.denied += hits.denied;
                }
            }
        }
        totals
    }

    /// Who made the tables of a generation, and so knows what its programs mean.
    #[must_use]
    pub fn compiler_of(&self, generation: u64) -> &Compiler {
        let before = self.before.iter().find(|(_, last)| generation <= *last);
        before.map_or(&self.compiler, |(compiler, _)| compiler)
    }
}

#[cfg(test)]
mod tests;

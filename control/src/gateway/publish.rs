//! From the sources' objects to a published generation.
//!
//! A compilation is made when objects, ports or the sources' sync change; a snapshot, when that or anything else that
//! packets depend on changes. Both are all or nothing: the engine keeps the last good snapshot if anything fails, and
//! the failure stays in the status until something is published.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_config::manifest::Finding;
use podgate_config::model::ObjectName;
use podgate_dataplane::engine::{Engine, EngineError};

use super::history::{Basis, History};
use super::identity::Identities;
use super::options::Options;
use super::resolve::{PodPort, resolve};
use super::snapshot::{Inputs, build};
use crate::compiler::{CompileError, Scope, compile};
use crate::explain::World;
use crate::source::SourceState;
use crate::store;
use crate::telemetry::metrics::Metrics;

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The policies do not compile.
    #[error("compiling: {0}")]
    Compile(#[from] CompileError),
    /// The workers' side refuses it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What was compiled and published last, and how that went.
#[derive(Default)]
pub struct Publisher {
    /// What each generation was made of.
    pub history: History,
    /// What does not fit together among the objects in force, with file and document.
    pub findings: Vec<Finding>,
    /// How long the last compilation took.
    pub took: Duration,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// Why the last attempt failed; `None` if it did not.
    pub error: Option<String>,
    /// The first generation made of sources without error.
    pub open_since: Option<u64>,
    identities: Identities,
    basis: Option<Arc<Basis>>,
    published: Option<(Arc<Basis>, Inputs)>,
    node: Vec<IpAddr>,
}

impl Publisher {
    /// Compiles what the sources and the ports say now, if it differs from what was compiled last. `node` are the
    /// addresses of this node.
    ///
    /// # Errors
    /// [`PublishError::Compile`]; what was compiled last stays.
    pub fn compile(
        &mut self,
        state: &SourceState,
        pods: &[PodPort],
        options: &Options,
        node: Vec<IpAddr>,
        metrics: &Metrics,
    ) -> Result<(), PublishError> {
        let merged = store::merge(&state.objects);
        self.findings = merged.findings;
        let resolved = resolve(merged.cluster, pods, state.synced);
        if self.basis.as_ref().is_some_and(|basis| basis.resolved == resolved) && self.node == node {
            return Ok(());
        }
        let begin = Instant::now();
        let compiled = compile(&resolved.cluster, Scope::Pods(resolved.judged()), &options.limits);
        let mut compiled = self.noted(compiled.map_err(PublishError::from))?;
        self.took = begin.elapsed();
        metrics.compiled(self.took);
        compiled.tables = compiled.tables.with_hits(options.cores.len());
        let compiled = Arc::new(compiled);
        self.identities.update(&resolved.cluster);
        let subjects = resolved.cluster.pods.values().filter(|pod| pod.is_subject());
        let names = subjects
            .flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod.name.clone())))
            .collect();
        let cluster = Arc::new(resolved.cluster.clone());
        let world = World::of_gateway(
            cluster,
            compiled.clone(),
            options.node.clone(),
            node.clone(),
            resolved.local.clone(),
        );
        self.basis = Some(Arc::new(Basis { resolved, compiled, world, names }));
        self.node = node;
        Ok(())
    }

    /// Publishes what was compiled last with these inputs, if that differs from what is published. Gives the basis of a
    /// new generation.
    ///
    /// # Errors
    /// [`PublishError::Engine`]; what was published stays.
    pub fn publish(
        &mut self,
        engine: &mut Engine,
        inputs: Inputs,
    ) -> Result<Option<Arc<Basis>>, PublishError> {
        let Some(basis) = self.basis.clone() else { return Ok(None) };
        if self.published.as_ref().is_some_and(|(old, before)| Arc::ptr_eq(old, &basis) && *before == inputs)
        {
            return Ok(None);
        }
        let generation = engine.generation_published() + 1;
        let snapshot = build(generation, &basis, &self.identities, &inputs);
        self.noted(engine.publish(snapshot).map_err(PublishError::from))?;
        self.history.publish(generation, basis.clone());
        if inputs.synced {
            self.open_since.get_or_insert(generation);
        }
        self.published = Some((basis.clone(), inputs));
        Ok(Some(basis))
    }

    /// A success ends the last failure, a failure is kept for the status.
    fn noted<T>(&mut self, result: Result<T, PublishError>) -> Result<T, PublishError> {
        match &result {
            Ok(_) => self.error = None,
            Err(error) => {
                self.failed += 1;
                self.error = Some(error.to_string());
            }
        }
        result
    }

    /// The pods whose ports must be closed, and why. A port that the tables do not know yet, or know with other addresses,
    /// is one of them: its packets would be judged as somebody else's.
    #[must_use]
    pub fn closed(&self, pods: &[PodPort]) -> BTreeMap<ObjectName, String> {
        let Some(basis) = &self.basis else {
            return pods
                .iter()
                .map(|port| (port.pod.clone(), "nothing is compiled yet".to_owned()))
                .collect();
        };
        let mut closed = basis.resolved.closed.clone();
        for PodPort { pod, addresses } in pods {
            let known = basis.resolved.cluster.pods.get(pod);
            let compiled = basis.resolved.local.contains(pod)
                && known
                    .is_some_and(|known| addresses.iter().all(|address| known.addresses.contains(address)));
            if !compiled {
                closed.entry(pod.clone()).or_insert_with(|| match &self.error {
                    Some(error) => format!("its policies could not be compiled: {error}"),
                    None => "its policies are not compiled yet".to_owned(),
                });
            }
        }
        closed
    }

    /// The number of a pod, 0 for one that is not known.
    #[must_use]
    pub fn identity(&self, pod: &ObjectName) -> u32 {
        self.identities.get(pod).unwrap_or_default()
    }

    /// What was compiled last.
    #[must_use]
    pub fn basis(&self) -> Option<&Arc<Basis>> {
        self.basis.as_ref()
    }
}

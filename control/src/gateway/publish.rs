//! From the sources' objects to a published generation.
//!
//! What changed is told to the compiler when objects, ports or the sources' sync change; a snapshot is made when that or
//! anything else that packets depend on changes. Both are all or nothing: the engine keeps the last good snapshot if
//! anything fails, and the failure stays in the status until something is published.
//!
//! Others ask about policy while this goes on ([`Publisher::world`]): the lock is held for writing while the changes of a
//! burst are taken in, which is microseconds to a few milliseconds but for the first time and after a failure. They are
//! answered by what was compiled last, and told if the workers' side refused that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use podgate_config::manifest::{Finding, ObjectValue};
use podgate_config::model::ObjectName;
use podgate_dataplane::engine::{Engine, EngineError};
use podgate_dataplane::packet::PortId;
use podgate_dataplane::policy::{Delivery, PolicyTables};

use super::drops::wall_clock_ms;
use super::generations::Generations;
use super::identity::Identities;
use super::options::Options;
use super::resolve::{PodPort, Resolver};
use super::snapshot::{Inputs, build};
use crate::compiler::CompileError;
use crate::explain::World;
use crate::live::Live;
use crate::source::SourceState;
use crate::source::kubernetes::{Taken, Troubles};
use crate::store::{Key, Store};
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

/// How long names of pods that went are remembered, for drops that were recorded before.
const REMEMBERED: Duration = Duration::from_secs(10);

/// What was compiled and published last, and how that went.
pub struct Publisher {
    /// Which generations are in use.
    pub generations: Generations,
    /// What does not fit together among the objects in force, with file and document.
    pub findings: Vec<Finding>,
    /// What is wrong with the files that these objects are of.
    pub file_findings: Vec<Finding>,
    /// What is wrong with the API server's objects.
    pub troubles: Troubles,
    /// How long the last change took to compile.
    pub took: Duration,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// The first generation made of sources without error.
    pub open_since: Option<u64>,
    compile_error: Option<String>,
    publish_error: Option<String>,
    store: Store,
    resolver: Resolver,
    identities: Identities,
    world: Arc<RwLock<World>>,
    node: Vec<IpAddr>,
    /// Ports by pod, as the tables have them.
    delivered: BTreeMap<ObjectName, u16>,
    /// Pods with ports, and the addresses and the number that the tables know them by.
    compiled: BTreeMap<ObjectName, (Vec<IpAddr>, u32)>,
    /// Policies that are others than in the tables that were published last, or gone, and since which generation what they
    /// were before is in force.
    unpublished: BTreeMap<ObjectName, Option<u64>>,
    tables: Option<PolicyTables>,
    /// The tables are not those of the last snapshot.
    fresh: bool,
    published: Option<Inputs>,
    /// Addresses of pods that went lately.
    gone: BTreeMap<IpAddr, (ObjectName, Instant)>,
}

impl Publisher {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let live = Live::new(options.limits.clone(), options.cores.len());
        Self {
            generations: Generations::default(),
            findings: Vec::new(),
            file_findings: Vec::new(),
            troubles: Troubles::new(),
            took: Duration::ZERO,
            failed: 0,
            open_since: None,
            compile_error: None,
            publish_error: None,
            store: Store::default(),
            resolver: Resolver::default(),
            identities: Identities::default(),
            world: Arc::new(RwLock::new(World::of_gateway(live))),
            node: Vec::new(),
            delivered: BTreeMap::new(),
            compiled: BTreeMap::new(),
            unpublished: BTreeMap::new(),
            tables: None,
            fresh: false,
            published: None,
            gone: BTreeMap::new(),
        }
    }

    /// What was compiled last, for questions. In force as soon as it is published.
    #[must_use]
    pub fn world(&self) -> &Arc<RwLock<World>> {
        &self.world
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Policies that are not in force as the sources have them, and since which generation what they were before is.
    #[must_use]
    pub fn unpublished(&self) -> &BTreeMap<ObjectName, Option<u64>> {
        &self.unpublished
    }

    /// Takes the sources' objects over: [`compile`](Self::compile) tells the compiler.
    pub fn take(&mut self, state: &SourceState, api: Taken) -> BTreeSet<Key> {
        self.file_findings.clone_from(&state.findings);
        if let Some(troubles) = api.troubles {
            self.troubles = troubles;
        }
        let mut changed = self.store.take_api(api.changes);
        changed.extend(self.store.update(&state.objects));
        changed
    }

    /// Compiles what `changed` since the last time, and what the ports say now. `node` are the addresses of this node.
    ///
    /// # Errors
    /// [`PublishError::Compile`]; the tables of before stay.
    pub fn compile(
        &mut self,
        changed: BTreeSet<Key>,
        synced: bool,
        ports: &[PodPort],
        options: &Options,
        node: Vec<IpAddr>,
        metrics: &Metrics,
    ) -> Result<(), PublishError> {
        let begin = Instant::now();
        let mut pods = self.resolver.set_ports(ports, synced);
        let served_changed = !pods.is_empty();
        let store = &self.store;
        let mut nodes_changed = self.node != node || self.tables.is_none();
        let objects_changed = !changed.is_empty();
        let world = self.world.clone();
        let mut world = write(&world);
        for key in changed {
            let value = store.get(&key);
            if let Key::Policy(name) = &key {
                let before = world.live().compiler().policy_state(name).and_then(|(_, since)| since);
                self.unpublished.entry(name.clone()).or_insert(before);
            }
            match (key, value) {
                (Key::Pod(name), _) => drop(pods.insert(name)),
                (Key::Namespace(name), Some(ObjectValue::Namespace(namespace))) => {
                    world.live_mut().set_namespace(&name, Some(namespace));
                }
                (Key::Namespace(name), _) => world.live_mut().set_namespace(&name, None),
                (Key::Policy(name), Some(ObjectValue::NetworkPolicy(policy))) => {
                    world.live_mut().set_policy(&name, Some(policy));
                }
                (Key::Policy(name), _) => world.live_mut().set_policy(&name, None),
                (Key::Node(name), Some(ObjectValue::Node(node))) => {
                    world.live_mut().set_node(&name, Some(node));
                    nodes_changed = true;
                }
                (Key::Node(name), _) => {
                    world.live_mut().set_node(&name, None);
                    nodes_changed = true;
                }
            }
        }
        self.gone.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        let pods = self.resolver.update(pods, |name| store.pod(name));
        let same = !objects_changed && pods.is_empty() && !served_changed && !nodes_changed;
        for name in pods {
            match self.resolver.pod(&name, store.pod(&name)) {
                Some(pod) => {
                    let identity = self.identities.set(&name, pod.uid.as_ref());
                    let delivery =
                        Delivery { identity, port: self.delivered.get(&name).copied().map(PortId) };
                    world.set_pod(pod, self.resolver.judged(&name), delivery);
                }
                None => {
                    if let Some(pod) = world.cluster().pods.get(&name) {
                        let addresses = pod.addresses.iter();
                        self.gone.extend(addresses.map(|address| (*address, (name.clone(), Instant::now()))));
                    }
                    self.identities.remove(&name);
                    world.remove_pod(&name);
                }
            }
        }
        if served_changed {
            world.set_served(self.resolver.served().cloned().collect());
        }
        if nodes_changed {
            world.set_nodes(options.node.as_ref(), &node);
            self.node = node;
        }
        // A file that changed nothing, or nothing but its errors, is no reason to judge every connection again.
        if !same || self.compile_error.is_some() {
            let tables = world.live_mut().settle();
            drop(world);
            self.settled(tables)?;
        }
        let known = |port: &PodPort| (port.addresses.clone(), self.identity(&port.pod));
        self.compiled = ports.iter().map(|port| (port.pod.clone(), known(port))).collect();
        self.took = begin.elapsed();
        metrics.compiled(self.took);
        Ok(())
    }

    fn settled(&mut self, tables: Result<PolicyTables, CompileError>) -> Result<(), PublishError> {
        self.compile_error = tables.as_ref().err().map(ToString::to_string);
        self.failed += u64::from(tables.is_err());
        self.tables = Some(tables?);
        self.fresh = true;
        Ok(())
    }

    /// Publishes what was compiled last with these inputs, if that differs from what is published. Says whether it did.
    ///
    /// # Errors
    /// [`PublishError`]; what was published stays.
    pub fn publish(&mut self, engine: &mut Engine, inputs: Inputs) -> Result<bool, PublishError> {
        if self.delivered != inputs.pods {
            let world = self.world.clone();
            let mut world = write(&world);
            let names: BTreeSet<&ObjectName> = self.delivered.keys().chain(inputs.pods.keys()).collect();
            for name in names.into_iter().filter(|name| self.delivered.get(*name) != inputs.pods.get(*name)) {
                let identity = self.identities.get(name).unwrap_or_default();
                let port = inputs.pods.get(name).copied().map(PortId);
                world.live_mut().set_delivery(name, Delivery { identity, port });
            }
            self.delivered.clone_from(&inputs.pods);
            let tables = world.live_mut().settle();
            drop(world);
            // If policies do not compile, ports and routes are followed all the same, by the tables of before.
            let told = self.compile_error.is_some();
            if let Err(error) = self.settled(tables)
                && !told
            {
                tracing::error!(%error, "the last good policies stay in force");
            }
        }
        let Some(tables) = &self.tables else { return Ok(false) };
        if !self.fresh && self.published.as_ref() == Some(&inputs) {
            return Ok(false);
        }
        let generation = engine.generation_published() + 1;
        let snapshot = build(generation, tables.clone(), &inputs);
        let published = engine.publish(snapshot);
        self.publish_error = published.as_ref().err().map(ToString::to_string);
        self.failed += u64::from(published.is_err());
        published?;
        write(&self.world).live_mut().published(generation);
        self.generations.publish(generation);
        let opens = inputs.synced && self.open_since.is_none();
        if opens {
            self.open_since = Some(generation);
        }
        // While policies do not compile, these are the tables of before.
        let changed = self.compile_error.is_none() && !std::mem::take(&mut self.unpublished).is_empty();
        if opens || changed {
            self.generations.remember(generation, wall_clock_ms(Duration::ZERO));
        }
        self.published = Some(inputs);
        self.fresh = false;
        Ok(true)
    }

    /// A snapshot came back from the workers.
    pub fn reclaim(&mut self, generation: u64) {
        self.generations.reclaim(generation);
    }

    /// Gives up what no generation in use needs. Says whether there is more to do.
    pub fn tidy(&mut self) -> bool {
        let Some(oldest) = self.generations.oldest() else { return false };
        write(&self.world).live_mut().reclaim(oldest)
    }

    /// Why what there is now is not in force; `None` if it is. What was last good is in force then.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let compile = self.compile_error.as_ref().map(|error| format!("compiling: {error}"));
        compile.or_else(|| self.publish_error.clone())
    }

    /// The pods whose ports must be closed, and why. A port that the tables do not know yet, or know with other addresses or
    /// as the pod that had the name before, is one of them: its packets would be judged as somebody else's.
    #[must_use]
    pub fn closed(&self, ports: &[PodPort]) -> BTreeMap<ObjectName, String> {
        let mut closed = self.resolver.closed(|name| self.store.pod(name));
        for PodPort { pod, addresses, .. } in ports {
            let known = self.compiled.get(pod).map(|(addresses, identity)| (addresses, *identity));
            if known != Some((addresses, self.identity(pod))) {
                closed.entry(pod.clone()).or_insert_with(|| match &self.compile_error {
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

    /// The pod that has or had a number, if it is one's and not forgotten.
    #[must_use]
    pub fn pod(&self, identity: u32) -> Option<String> {
        self.identities.name(identity).map(ToString::to_string)
    }

    /// Whose an address is, or was a moment ago.
    #[must_use]
    pub fn name_in(&self, live: &Live, address: IpAddr) -> Option<String> {
        let now = live.compiler().pod_at(address).map(ToString::to_string);
        now.or_else(|| self.gone.get(&address).map(|(name, _)| name.to_string()))
    }
}

/// The loop is the only one that writes. A panic of its own ends it, so what a poisoned lock guards was not left half told.
fn write(world: &RwLock<World>) -> RwLockWriteGuard<'_, World> {
    world.write().unwrap_or_else(PoisonError::into_inner)
}

//! A control side without a gateway around it: compiles what it is told of a cluster, publishes it, and gives up what no
//! worker looks at any more.
//!
//! It does so in the gateway's order. What waits to be given up (atoms, rows, programs) is used again only after
//! [`Control::tidy`]; a measurement that leaves it out measures tables that only grow.

use std::num::NonZero;
use std::sync::Arc;

use podgate_config::model::{Cluster, NetworkPolicy, PolicyPort, Protocol};
use podgate_control::compiler::Limits;
use podgate_control::gateway::generations::Generations;
use podgate_control::gateway::snapshot::{Inputs, build};
use podgate_control::live::Live;
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_dataplane::snapshot::Snapshot;
use podgate_rcu::Publisher;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Compiler and publisher, and the dice that changes are chosen by.
pub struct Control {
    /// The objects, and the compiler that follows them.
    pub live: Live,
    /// To whose readers snapshots are published.
    pub publisher: Publisher<Snapshot>,
    generations: Generations,
    /// The one published last; 1 is the closed snapshot before all others.
    generation: u64,
    inputs: Inputs,
    random: StdRng,
}

impl Control {
    /// Is told of the cluster and has published nothing yet. All pods are judged; `deliveries` are theirs, in the order of
    /// their names. `inputs` is what snapshots say besides policy.
    #[must_use]
    pub fn new(
        cluster: &Cluster,
        workers: usize,
        inputs: Inputs,
        deliveries: impl IntoIterator<Item = Delivery>,
    ) -> Self {
        let mut live = Live::new(Limits::default(), workers);
        cluster.namespaces.iter().for_each(|(name, namespace)| live.set_namespace(name, Some(namespace)));
        cluster.policies.iter().for_each(|(name, policy)| live.set_policy(name, Some(policy)));
        for (pod, delivery) in cluster.pods.values().zip(deliveries) {
            live.set_pod(pod.clone(), true, delivery);
        }
        Self {
            live,
            publisher: Publisher::new(Snapshot::closed()),
            generations: Generations::default(),
            generation: 1,
            inputs,
            random: StdRng::seed_from_u64(3),
        }
    }

    /// Publishes tables; `false` if they were refused, for a reader still holds too many earlier ones.
    pub fn publish(&mut self, tables: PolicyTables) -> bool {
        let snapshot = build(self.generation + 1, tables, &self.inputs);
        if self.publisher.publish(snapshot).is_err() {
            return false;
        }
        self.generation += 1;
        self.live.published(self.generation);
        self.generations.publish(self.generation);
        true
    }

    /// Gives up what no reader looks at any more, as the gateway does some time after a publication.
    pub fn tidy(&mut self) {
        for snapshot in self.publisher.collect() {
            self.generations.reclaim(snapshot.generation);
        }
        if let Some(oldest) = self.generations.oldest() {
            self.live.reclaim(oldest);
        }
    }

    /// Any number below this, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound.max(1))
    }
}

/// The policy with another TCP port in its first rule.
#[must_use]
pub fn changed(policy: &NetworkPolicy, port: u16) -> Arc<NetworkPolicy> {
    let mut policy = policy.clone();
    let rule = [&mut policy.ingress, &mut policy.egress].into_iter().flatten().flatten().next();
    if let (Some(rule), Some(port)) = (rule, NonZero::new(port))
        && let Ok(port) = PolicyPort::range(Protocol::Tcp, port, port)
    {
        rule.ports = vec![port];
    }
    policy.into()
}

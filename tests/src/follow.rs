//! A compiler that follows a cluster from one state to the next.
//!
//! Tests think in whole clusters; a gateway thinks in changes. [`Follower::follow`] finds what differs and tells it to a
//! [`World`], one object at a time, so that whatever a test does to its cluster is compiled as a gateway would compile it.

use std::collections::BTreeMap;

use podgate_config::model::{Cluster, ObjectName, Pod};
use podgate_control::compiler::{CompileError, Limits};
use podgate_control::explain::World;
use podgate_control::live::Live;
use podgate_dataplane::policy::{Delivery, PolicyTables};

/// Follows a cluster.
pub struct Follower {
    /// What is compiled. Every pod's directions count as judged.
    pub world: World,
    served: BTreeMap<ObjectName, (bool, Delivery)>,
}

impl Follower {
    /// Knows nothing yet; for `workers` workers.
    #[must_use]
    pub fn new(limits: Limits, workers: usize) -> Self {
        let world = World::of_manifests(Live::new(limits, workers));
        Self { world, served: BTreeMap::new() }
    }

    /// Tells what is another than before. A pod is judged if `judged` says so.
    pub fn tell(
        &mut self,
        now: &Cluster,
        judged: impl Fn(&Pod) -> bool,
        delivery: impl Fn(&Pod) -> Delivery,
    ) {
        let before = self.world.cluster().clone();
        for name in before.namespaces.keys().chain(now.namespaces.keys()) {
            if before.namespaces.get(name) != now.namespaces.get(name) {
                self.world.live_mut().set_namespace(name, now.namespaces.get(name));
            }
        }
        for name in before.nodes.keys().chain(now.nodes.keys()) {
            if before.nodes.get(name) != now.nodes.get(name) {
                self.world.live_mut().set_node(name, now.nodes.get(name));
            }
        }
        for name in before.pods.keys().filter(|name| !now.pods.contains_key(*name)) {
            self.world.remove_pod(name);
            self.served.remove(name);
        }
        for (name, pod) in &now.pods {
            let served = (judged(pod), delivery(pod));
            if before.pods.get(name) != Some(pod) || self.served.get(name) != Some(&served) {
                self.world.set_pod(pod.clone(), served.0, served.1);
                self.served.insert(name.clone(), served);
            }
        }
        for name in before.policies.keys().chain(now.policies.keys()) {
            if before.policies.get(name) != now.policies.get(name) {
                self.world.live_mut().set_policy(name, now.policies.get(name));
            }
        }
    }

    /// Tells it, and gives the tables.
    ///
    /// # Errors
    /// The compiler's.
    pub fn follow(
        &mut self,
        now: &Cluster,
        judged: impl Fn(&Pod) -> bool,
        delivery: impl Fn(&Pod) -> Delivery,
    ) -> Result<PolicyTables, CompileError> {
        self.tell(now, judged, delivery);
        self.world.place_pods();
        self.world.live_mut().settle()
    }

    /// The tables given last are published, and no worker has any of before `oldest`.
    pub fn published(&mut self, generation: u64, oldest: u64) {
        let live = self.world.live_mut();
        live.published(generation);
        while live.reclaim(oldest) {}
    }
}

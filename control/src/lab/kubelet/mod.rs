//! What a kubelet does, for the pods of a lab that follows an API server.
//!
//! It takes the pods that are bound to its node ([`follow`]), gives them addresses ([`addresses`]), says that they run when
//! the lab has wired them ([`status`]), and lets go of pods that are being deleted once their network is gone: the API
//! server keeps such a pod until its kubelet deletes it for good. It registers the node and holds its lease ([`node`]).
//!
//! A pod is its UID, not its name: every write names the UID, so it never meets a successor of the name. Nothing is
//! remembered of what was written: each look compares what the server has with what it should have, so a write that
//! failed is tried again, and twice the same is harmless.

mod addresses;
mod follow;
mod node;
mod status;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use podgate_config::manifest::{self, ObjectValue};
use podgate_config::model::{self, Cluster, Node, NodeName};
use serde_json::json;
use tokio::sync::watch;

use super::plan::LabPod;
use addresses::Addresses;
use follow::Pods;
use node::NodeLease;
pub use node::Taken;

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often the node's lease is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A client of the server that a kubeconfig names.
///
/// # Errors
/// What is wrong with the file.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let named = || kubeconfig.display().to_string();
    let file = Kubeconfig::read_from(kubeconfig).with_context(named)?;
    let mut config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(named)?;
    // The environment's is for other things, and the gateway does not use it either.
    config.proxy_url = None;
    config.connect_timeout = Some(ANSWER);
    // A watch may be silent for as long as it lasts; whoever asks for anything else has a clock of its own.
    config.read_timeout = None;
    config.default_retry = false;
    Client::try_from(config).with_context(named)
}

/// What is asked for, unless it takes too long.
pub(super) async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => anyhow::bail!("the API server does not answer within {ANSWER:?}"),
    }
}

/// `namespace/name`.
fn name_of(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Stands in for the kubelet of a node.
pub struct Kubelet {
    client: Client,
    node: NodeName,
    node_addresses: Vec<IpAddr>,
    lease: NodeLease,
    pods: watch::Receiver<Pods>,
    addresses: Addresses,
    /// Since when a pod runs, by UID.
    since: HashMap<String, Time>,
}

impl Kubelet {
    /// Takes a node over, and waits until its pods are known.
    ///
    /// # Errors
    /// That a kubelet is at work there, or what the server says.
    pub async fn start(client: Client, node: &NodeName) -> anyhow::Result<Self> {
        let lease = NodeLease::new(client.clone(), node.as_str())?;
        lease.renew().await?;
        let node_addresses = node::register(client.clone(), node.as_str()).await?;
        let mut pods = follow::follow(client.clone(), node.as_str());
        let first = tokio::time::timeout(ANSWER, pods.wait_for(Option::is_some)).await;
        drop(first.context("the API server does not say which pods the node has")??);
        pods.mark_changed();
        let (addresses, since) = (Addresses::default(), HashMap::new());
        Ok(Self { client, node: node.clone(), node_addresses, lease, pods, addresses, since })
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Waits until a pod is another than when [`Self::cluster`] looked.
    ///
    /// # Errors
    /// If nobody follows them any more.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        self.pods.changed().await.context("what follows the API server has ended")
    }

    /// The pods that the lab should have, with their addresses, and the node. What cannot be had comes with it, one line each.
    pub fn cluster(&mut self) -> (Cluster, Vec<String>) {
        let pods = self.pods.borrow_and_update().clone().unwrap_or_default();
        let uids: HashSet<&str> = pods.values().map(|pod| uid_of(pod)).collect();
        self.addresses.keep(|uid| uids.contains(uid));
        self.since.retain(|uid, _| uids.contains(uid.as_str()));
        let mut cluster = Cluster::default();
        let mut problems = Vec::new();
        for (name, pod) in pods.iter().filter(|(_, pod)| pod.metadata.deletion_timestamp.is_none()) {
            let Some(mut read) = read(pod) else {
                problems.push(format!("pod {name} has no namespace: it is not understood"));
                continue;
            };
            if read.is_subject() {
                match self.addresses.of(uid_of(pod), &read.addresses) {
                    Some(addresses) => read.addresses = addresses,
                    None => {
                        problems.push(format!("pod {name} has no namespace: no address is left for it"));
                        continue;
                    }
                }
            }
            cluster.pods.insert(read.name.clone(), read);
        }
        let node = Node { name: self.node.clone(), addresses: self.node_addresses.clone() };
        cluster.nodes.insert(self.node.clone(), node);
        (cluster, problems)
    }

    /// Tells the server of the pods that run, and deletes those that were to go and have gone. `wired` are all that the lab
    /// has now.
    ///
    /// # Errors
    /// The first thing that could not be written; the rest waits for the next time.
    pub async fn report<'a>(&mut self, wired: impl Iterator<Item = &'a LabPod>) -> anyhow::Result<()> {
        let wired: HashMap<&str, &LabPod> = wired.map(|pod| (pod.name.as_str(), pod)).collect();
        // What is newer than the look at the cluster stays news.
        let pods = self.pods.borrow().clone().unwrap_or_default();
        for (name, pod) in pods.iter() {
            let wired = wired.get(name.as_str()).filter(|wired| wired.uid.as_deref() == Some(uid_of(pod)));
            let dying = pod.metadata.deletion_timestamp.is_some();
            // With no grace left it is finalizers that hold it, and not its kubelet.
            let released = pod.metadata.deletion_grace_period_seconds == Some(0);
            let done = match wired {
                Some(wired) if !dying => self.say_running(pod, wired).await,
                None if dying && !released => self.delete(pod).await,
                _ => continue,
            };
            match done {
                // It is gone already, or another one has the name; both will be heard of.
                Err(error) if has_code(&error, 404) || has_code(&error, 409) => {}
                other => other.with_context(|| format!("pod {name}"))?,
            }
        }
        Ok(())
    }

    async fn say_running(&mut self, pod: &Pod, wired: &LabPod) -> anyhow::Result<()> {
        if status::is_running(pod, &wired.addresses) {
            return Ok(());
        }
        let now = || Time(Timestamp::now());
        let since = self.since.entry(uid_of(pod).to_owned()).or_insert_with(now).clone();
        let status = status::running(pod, &wired.addresses, &self.node_addresses, &since);
        // Another object of the name has another UID, which nobody can change.
        let patch = json!({ "metadata": { "uid": uid_of(pod) }, "status": status });
        let (pods, name) = self.place(pod);
        in_time(pods.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        Ok(())
    }

    async fn delete(&self, pod: &Pod) -> anyhow::Result<()> {
        let same = Preconditions { uid: Some(uid_of(pod).to_owned()), resource_version: None };
        let (pods, name) = self.place(pod);
        in_time(pods.delete(name, &DeleteParams::default().grace_period(0).preconditions(same))).await?;
        Ok(())
    }

    fn place<'a>(&self, pod: &'a Pod) -> (Api<Pod>, &'a str) {
        let metadata = &pod.metadata;
        let pods = Api::namespaced(self.client.clone(), metadata.namespace.as_deref().unwrap_or_default());
        (pods, metadata.name.as_deref().unwrap_or_default())
    }

    /// Renews the node's lease; to be called every [`RENEW_EVERY`].
    ///
    /// # Errors
    /// [`Taken`] if somebody else has the node, or what the server says.
    pub async fn renew(&self) -> anyhow::Result<()> {
        self.lease.renew().await
    }

    /// Gives the node back, as far as the server lets it.
    pub async fn leave(self) {
        if let Err(error) = self.lease.give_back().await {
            tracing::warn!("the node's lease is not given back, it runs out: {error:#}");
        }
    }
}

/// Whether it is an answer of the server with this HTTP status.
pub(super) fn has_code(error: &anyhow::Error, code: u16) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == code)
}

/// A pod as the gateway understands it, too: by the code that reads manifests.
fn read(pod: &Pod) -> Option<model::Pod> {
    let decoded = manifest::decode("", &serde_json::to_vec(pod).ok()?);
    decoded.objects.into_iter().find_map(|object| match object.value {
        ObjectValue::Pod(pod) => Some(*pod),
        _ => None,
    })
}

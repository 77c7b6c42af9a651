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
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use podgate_config::manifest::{self, ObjectValue};
use podgate_config::model::{self, Cluster, Node, NodeName};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plan::LabPod;
use addresses::Addresses;
use follow::Pods;
use node::NodeLease;

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often the node's lease is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(10);

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
    lease: Arc<NodeLease>,
    /// Renews the lease, and ends with what keeps it from that.
    renewing: JoinHandle<anyhow::Error>,
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
        let lease = Arc::new(NodeLease::new(client.clone(), node.as_str())?);
        lease.renew().await?;
        // Wiring pods, and telling the server of them, may take longer than a lease lasts.
        let renewing = tokio::spawn(keep(lease.clone()));
        let begun = async {
            let node_addresses = node::register(client.clone(), node.as_str()).await?;
            let mut pods = follow::follow(client.clone(), node.as_str());
            let first = tokio::time::timeout(ANSWER, pods.wait_for(Option::is_some)).await;
            drop(first.context("the API server does not say which pods the node has")??);
            pods.mark_changed();
            anyhow::Ok((node_addresses, pods))
        };
        let (node_addresses, pods) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                give_back(&renewing, &lease).await;
                return Err(error);
            }
        };
        let (addresses, since) = (Addresses::default(), HashMap::new());
        Ok(Self { client, node: node.clone(), node_addresses, lease, renewing, pods, addresses, since })
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Waits until a pod is another than when [`Self::cluster`] looked. Not to be called again after an error.
    ///
    /// # Errors
    /// If nobody follows them any more, or somebody else has the node now ([`node::Taken`]).
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            changed = self.pods.changed() => changed.context("what follows the API server has ended"),
            ended = &mut self.renewing => Err(ended?),
        }
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
            let mut read = match read(pod) {
                Ok(read) => read,
                Err(why) => {
                    problems.push(format!("pod {name} gets no network namespace: {why}"));
                    continue;
                }
            };
            if read.is_subject() {
                match self.addresses.of(uid_of(pod), &read.addresses) {
                    Some(addresses) => read.addresses = addresses,
                    None => {
                        problems
                            .push(format!("pod {name} gets no network namespace: no address is left for it"));
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
    /// has now, and whether their packets are judged: a pod of which that is not so does not run.
    ///
    /// # Errors
    /// The first thing that could not be written; the rest waits for the next time.
    pub async fn report<'a>(
        &mut self,
        wired: impl Iterator<Item = (&'a LabPod, bool)>,
    ) -> anyhow::Result<()> {
        let wired: HashMap<&str, (&LabPod, bool)> =
            wired.map(|(pod, judged)| (pod.name.as_str(), (pod, judged))).collect();
        // What is newer than the look at the cluster stays news.
        let pods = self.pods.borrow().clone().unwrap_or_default();
        for (name, pod) in pods.iter() {
            let wired =
                wired.get(name.as_str()).filter(|(wired, _)| wired.uid.as_deref() == Some(uid_of(pod)));
            let dying = pod.metadata.deletion_timestamp.is_some();
            // With no grace left it is finalizers that hold it, and not its kubelet.
            let released = pod.metadata.deletion_grace_period_seconds == Some(0);
            let done = match wired {
                Some((wired, true)) if !dying => self.say_running(pod, wired).await,
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

    /// Gives the node back, as far as the server lets it.
    pub async fn leave(self) {
        give_back(&self.renewing, &self.lease).await;
    }
}

/// Renews the node's lease for good. That the server is away is no reason to give up.
async fn keep(lease: Arc<NodeLease>) -> anyhow::Error {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match lease.renew().await {
            Err(error) if error.is::<node::Taken>() => return error,
            Err(error) => tracing::warn!("{error:#}"),
            Ok(()) => {}
        }
    }
}

async fn give_back(renewing: &JoinHandle<anyhow::Error>, lease: &NodeLease) {
    renewing.abort();
    if let Err(error) = lease.give_back().await {
        tracing::warn!("the node's lease is not given back, it runs out: {error:#}");
    }
}

/// Whether it is an answer of the server with this HTTP status.
pub(super) fn has_code(error: &anyhow::Error, code: u16) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == code)
}

/// A pod as manifests are read, which is no less strict than the gateway is with a server's objects. Or what is wrong.
fn read(pod: &Pod) -> Result<model::Pod, String> {
    let json = serde_json::to_vec(pod).map_err(|error| error.to_string())?;
    let decoded = manifest::decode("", &json);
    let read = decoded.objects.into_iter().find_map(|object| match object.value {
        ObjectValue::Pod(pod) => Some(*pod),
        _ => None,
    });
    read.ok_or_else(|| {
        let first = decoded.findings.first();
        first.map_or_else(
            || "it is no pod".to_owned(),
            |finding| format!("{}: {}", finding.field, finding.message),
        )
    })
}

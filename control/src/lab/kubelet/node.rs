//! The Node object, and the lease by which everybody knows that somebody is at work on the node.
//!
//! A lab must never be a second kubelet: two of them would write over each other's pods. So it takes no node whose lease
//! another one keeps fresh, holds the lease itself as long as it lives (which also keeps a cluster's node controller
//! from evicting its pods), and gives up if somebody else takes it.

use std::net::IpAddr;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use podgate_config::manifest::NODE_ADDRESSES;
use serde_json::{Value, json};

use super::in_time;

/// The namespace of nodes' leases.
const LEASES: &str = "kube-node-lease";
/// Seconds that a lease is good for, as kubelet has it.
const LEASE_SECONDS: i32 = 40;
/// What a lab's node repels pods with that a scheduler places: nothing runs there but names. Pods that name the node, or
/// tolerate this, come all the same.
const TAINT: &str = "podgate-lab";

/// Somebody else is at work on the node.
#[derive(Debug, thiserror::Error)]
#[error("node {node}: {why}; end it, or take another node")]
pub(super) struct Taken {
    node: String,
    why: String,
}

/// Why a lease says that somebody else is at work; `None` if nobody is.
pub(super) fn at_work(lease: &Lease, me: &str, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let MicroTime(renewed) = spec.renew_time.as_ref()?;
    let age = now.as_second() - renewed.as_second();
    let fresh = age <= i64::from(spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS));
    (fresh && holder != me).then(|| {
        format!("its lease was renewed {} s ago by {holder:?}: a kubelet is at work there", age.max(0))
    })
}

/// The lease of a node.
pub(super) struct NodeLease {
    leases: Api<Lease>,
    node: String,
    me: String,
}

impl NodeLease {
    pub fn new(client: Client, node: &str) -> anyhow::Result<Self> {
        let host = crate::host_name()?;
        // There is one lab on a machine at a time, so this is this one's, or that of one that is no more.
        let me = format!("podgate-lab@{}", host);
        Ok(Self { leases: Api::namespaced(client, LEASES), node: node.to_owned(), me })
    }

    /// Takes or renews it.
    ///
    /// # Errors
    /// That somebody else has it, or what the server says.
    pub async fn renew(&self) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let known = in_time(self.leases.get_opt(&self.node)).await.context("look at the node's lease")?;
        if let Some(why) = known.as_ref().and_then(|lease| at_work(lease, &self.me, now)) {
            return Err(Taken { node: self.node.clone(), why }.into());
        }
        let spec = json!({
            "holderIdentity": self.me, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": MicroTime(now),
        });
        match known {
            Some(lease) => {
                // Of two who take it at the same time one is told so.
                let version = lease.metadata.resource_version;
                let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
                let params = PatchParams::default();
                in_time(self.leases.patch(&self.node, &params, &Patch::Merge(patch))).await
            }
            None => {
                let lease =
                    serde_json::from_value(json!({ "metadata": { "name": self.node }, "spec": spec }))?;
                in_time(self.leases.create(&PostParams::default(), &lease)).await
            }
        }
        .context("take the node's lease")?;
        Ok(())
    }

    /// Gives it back, if it is ours.
    pub async fn give_back(&self) -> anyhow::Result<()> {
        let Some(lease) = in_time(self.leases.get_opt(&self.node)).await? else { return Ok(()) };
        if lease.spec.and_then(|spec| spec.holder_identity).as_deref() == Some(&*self.me) {
            in_time(self.leases.delete(&self.node, &DeleteParams::default())).await?;
        }
        Ok(())
    }
}

/// Makes the Node object if there is none, and says that the node is ready. Gives its addresses.
///
/// # Errors
/// What the server says.
pub(super) async fn register(client: Client, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let nodes: Api<Node> = Api::all(client);
    let node = match in_time(nodes.get_opt(name)).await.context("look at the Node object")? {
        Some(node) => node,
        None => {
            let node = serde_json::from_value(json!({
                "metadata": {
                    "name": name, "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" },
                },
                "spec": { "taints": [{ "key": TAINT, "effect": "NoSchedule" }] },
            }))?;
            in_time(nodes.create(&PostParams::default(), &node)).await.context("make the Node object")?
        }
    };
    let known = addresses(&node);
    let patch = json!({ "status": status(&node, known.is_empty(), &Time(Timestamp::now())) });
    let params = PatchParams::default();
    in_time(nodes.patch_status(name, &params, &Patch::Merge(patch)))
        .await
        .context("write the node's status")?;
    Ok(if known.is_empty() { NODE_ADDRESSES.to_vec() } else { known })
}

/// The node's own addresses.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// What is written to the Node's status.
fn status(node: &Node, needs_addresses: bool, now: &Time) -> Value {
    let before = node.status.clone().unwrap_or_default();
    let mut conditions: Vec<Value> = before
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.type_ != "Ready")
        .map(|condition| json!(condition))
        .collect();
    conditions.push(json!({
        "type": "Ready", "status": "True", "reason": "PodgateLab", "message": "podgate lab stands in for a kubelet",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }));
    let mut status = json!({ "conditions": conditions });
    if needs_addresses {
        let addresses = NODE_ADDRESSES.map(|address| json!({ "type": "InternalIP", "address": address }));
        status["addresses"] = json!(addresses);
    }
    if before.capacity.is_none() {
        let capacity = json!({ "cpu": "64", "memory": "64Gi", "pods": "1000" });
        status["capacity"] = capacity.clone();
        status["allocatable"] = capacity;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64, seconds: i32) -> Lease {
        let time = MicroTime(Timestamp::from_second(renewed).unwrap());
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": time });
        serde_json::from_value(json!({ "metadata": { "name": "n" }, "spec": spec })).unwrap()
    }

    #[test]
    fn a_fresh_lease_of_somebody_else_is_a_kubelets() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let says = |lease: &Lease| at_work(lease, "me", now);
        assert!(
            says(&lease("node-1", 999_970, 40)).is_some_and(|why| why.contains("30 s ago by \"node-1\""))
        );
        assert!(says(&lease("node-1", 1_000_005, 40)).is_some(), "its clock goes ahead of ours");
        assert_eq!(says(&lease("node-1", 999_959, 40)), None);
        assert_eq!(says(&lease("me", 999_999, 40)), None);
        assert_eq!(says(&Lease::default()), None);
    }

    #[test]
    fn a_nodes_status_keeps_what_others_said() {
        let node: Node = serde_json::from_value(json!({ "status": {
            "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "192.0.2.1" }],
            "conditions": [{ "type": "Ready", "status": "Unknown" }, { "type": "Other", "status": "True" }],
        } }))
        .unwrap();
        assert_eq!(addresses(&node), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        let status = status(&node, false, &Time(Timestamp::UNIX_EPOCH));
        let conditions = status["conditions"].as_array().unwrap();
        assert_eq!(
            (conditions.len(), &conditions[0]["type"], &conditions[1]["status"]),
            (2, &json!("Other"), &json!("True"))
        );
        assert_eq!(status.get("addresses"), None);
    }
}

//! What a kubelet writes to a pod's status when its containers run.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// Conditions that are ours to write.
const CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// Whether the API server has it that a pod runs, is ready, and has these addresses.
pub(super) fn is_running(pod: &Pod, addresses: &[IpAddr]) -> bool {
    let Some(status) = &pod.status else { return false };
    let ready = |condition: &str| {
        let conditions = status.conditions.iter().flatten();
        conditions.filter(|known| known.type_ == condition).any(|known| known.status == "True")
    };
    let known: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    status.phase.as_deref() == Some("Running")
        && known == addresses
        && CONDITIONS.iter().all(|name| ready(name))
}

/// The status of a pod that has run since `since`. A list in it takes the place of the one that was there.
pub(super) fn running(pod: &Pod, addresses: &[IpAddr], node: &[IpAddr], since: &Time) -> Value {
    let ips = |addresses: &[IpAddr]| addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>();
    let known = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut conditions: Vec<Value> = known
        .filter(|condition| !CONDITIONS.contains(&condition.type_.as_str()))
        .map(|condition| json!(condition))
        .collect();
    if !conditions.iter().any(|condition| condition["type"] == "PodScheduled") {
        conditions.push(met("PodScheduled", since));
    }
    conditions.extend(CONDITIONS.map(|name| met(name, since)));
    let spec = pod.spec.clone().unwrap_or_default();
    let containers: Vec<Value> = spec.containers.iter().map(|container| up(container, since)).collect();
    let initial: Vec<Value> =
        spec.init_containers.iter().flatten().map(|container| started(container, since)).collect();
    json!({
        "phase": "Running", "conditions": conditions, "startTime": since,
        "podIP": addresses.first(), "podIPs": ips(addresses), "hostIP": node.first(), "hostIPs": ips(node),
        "containerStatuses": containers, "initContainerStatuses": initial,
    })
}

fn met(name: &str, since: &Time) -> Value {
    json!({ "type": name, "status": "True", "lastTransitionTime": since })
}

fn up(container: &Container, since: &Time) -> Value {
    json!({
        "name": container.name, "image": container.image.as_deref().unwrap_or_default(), "imageID": "",
        "ready": true, "started": true, "restartCount": 0, "state": { "running": { "startedAt": since } },
    })
}

/// A container that runs before the others: a sidecar goes on, any other is done.
fn started(container: &Container, since: &Time) -> Value {
    let mut status = up(container, since);
    if container.restart_policy.as_deref() != Some("Always") {
        status["started"] = false.into();
        status["state"] = json!({
            "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": since, "finishedAt": since },
        });
    }
    status
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_written_is_what_is_looked_for() {
        let mut document = json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "containers": [{ "name": "c", "image": "i" }],
                "initContainers": [{ "name": "once" }, { "name": "side", "restartPolicy": "Always" }],
            },
            "status": { "phase": "Pending", "conditions": [
                { "type": "PodScheduled", "status": "True", "reason": "kept" }, { "type": "Ready", "status": "False" },
            ] },
        });
        let pod: Pod = serde_json::from_value(document.clone()).unwrap();
        let addresses: Vec<IpAddr> = vec!["10.244.0.1".parse().unwrap(), "fd00:10:244::1".parse().unwrap()];
        assert!(!is_running(&pod, &addresses));
        let status = running(&pod, &addresses, &addresses[..1], &Time(Timestamp::UNIX_EPOCH));
        let conditions = status["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]["reason"]), (5, &json!("kept")));
        assert!(conditions.iter().all(|condition| condition["status"] == "True"), "{conditions:?}");
        assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
        assert!(status["initContainerStatuses"][1]["state"]["running"].is_object());
        document["status"] = status;
        let pod: Pod = serde_json::from_value(document).unwrap();
        assert!(is_running(&pod, &addresses));
        assert!(!is_running(&pod, &addresses[..1]));
    }
}

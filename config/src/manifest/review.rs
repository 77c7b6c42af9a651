//! What is only seen with all objects side by side.
//!
//! One error: an address that two live pods have, because nobody can say whose packets they are. The rest is legal and
//! probably not meant. Findings name the object and leave file and document to the caller, who knows where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Finding, Severity};
use crate::model::{Cluster, NamespaceName, NetworkPolicy, ObjectName, Pod, PolicyPort, PortMatch};

/// Looks at all objects together.
#[must_use]
pub fn review(cluster: &Cluster) -> Vec<Finding> {
    let mut findings = Vec::new();
    addresses(cluster, &mut findings);
    namespaces(cluster, &mut findings);
    for policy in cluster.policies.values() {
        look_at_policy(cluster, policy, &mut findings);
    }
    findings
}

fn finding(severity: Severity, kind: &str, name: &ObjectName, field: &str, message: String) -> Finding {
    Finding {
        severity,
        file: String::new(),
        document: 0,
        kind: kind.to_owned(),
        name: name.to_string(),
        field: field.to_owned(),
        message,
    }
}

fn addresses(cluster: &Cluster, findings: &mut Vec<Finding>) {
    let mut owners: BTreeMap<IpAddr, &ObjectName> = BTreeMap::new();
    for (name, pod) in cluster.pods.iter().filter(|(_, pod)| pod.is_subject()) {
        for address in &pod.addresses {
            match owners.get(address) {
                Some(owner) => {
                    let message = format!("{address} is pod {owner}'s too, expected an address of its own");
                    findings.push(finding(Severity::Error, "Pod", name, "status.podIPs", message));
                }
                None => {
                    owners.insert(*address, name);
                }
            }
        }
    }
}

/// A namespace that is known only from its objects has the metadata.name label alone, so selectors on other labels
/// of it never match. One warning for each.
fn namespaces(cluster: &Cluster, findings: &mut Vec<Finding>) {
    let pods = cluster.pods.keys().map(|name| ("Pod", name));
    let policies = cluster.policies.keys().map(|name| ("NetworkPolicy", name));
    let mut told: BTreeSet<&NamespaceName> = BTreeSet::new();
    for (kind, name) in pods.chain(policies) {
        if !cluster.namespaces.contains_key(&name.namespace) && told.insert(&name.namespace) {
            let message = format!(
                "the namespace {} is not among the documents; it is taken to have no label but its name",
                name.namespace
            );
            findings.push(finding(Severity::Warning, kind, name, "metadata.namespace", message));
        }
    }
}

fn look_at_policy(cluster: &Cluster, policy: &NetworkPolicy, findings: &mut Vec<Finding>) {
    let mut warn = |field: &str, message: String| {
        findings.push(finding(Severity::Warning, "NetworkPolicy", &policy.name, field, message));
    };
    let selected: Vec<&Pod> = cluster
        .pods
        .values()
        .filter(|pod| pod.name.namespace == policy.name.namespace && pod.is_subject())
        .filter(|pod| policy.pods.matches(&pod.labels))
        .collect();
    if selected.is_empty() {
        let message = format!("selects no live pod of the namespace {}", policy.name.namespace);
        warn("spec.podSelector", message);
    }
    // Named ports are the destination's: of the selected pods for ingress, of anybody for egress.
    let has = |pods: &[&Pod], port: &PolicyPort| match port.matches() {
        PortMatch::Named(name) => pods.iter().any(|pod| pod.named_port(port.protocol, name).is_some()),
        PortMatch::All | PortMatch::Range { .. } => true,
    };
    let everybody: Vec<&Pod> = cluster.pods.values().filter(|pod| pod.is_subject()).collect();
    for (section, rules, destinations) in
        [("ingress", policy.ingress.as_ref(), &selected), ("egress", policy.egress.as_ref(), &everybody)]
    {
        if destinations.is_empty() {
            continue;
        }
        for (i, rule) in rules.into_iter().flatten().enumerate() {
            for (j, port) in rule.ports.iter().enumerate().filter(|(_, port)| !has(destinations, port)) {
                let who = if section == "ingress" { "selected pod" } else { "pod" };
                let message = format!("no {who} has a port of this name for {}", port.protocol);
                warn(&format!("spec.{section}[{i}].ports[{j}].port"), message);
            }
        }
    }
}

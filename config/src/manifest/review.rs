//! What is only seen with all objects side by side.
//!
//! One error: an address that two live pods have, because nobody can say whose packets they are. The rest is legal and
//! probably not meant. Findings name the object and leave file and document to the caller, who knows where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Finding, Severity};
use crate::model::{
    Cluster, ContainerPort, NamespaceName, NetworkPolicy, NodeName, ObjectName, Pod, PortMatch, PortName,
    Protocol,
};

/// Looks at all objects together.
#[must_use]
pub fn review(cluster: &Cluster) -> Vec<Finding> {
    let mut findings = Vec::new();
    addresses(cluster, &mut findings);
    namespaces(cluster, &mut findings);
    let survey = Survey::new(cluster);
    for policy in cluster.policies.values() {
        look_at_policy(&survey, policy, &mut findings);
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
    let nodes: BTreeMap<IpAddr, &NodeName> =
        cluster.nodes.values().flat_map(|node| node.addresses.iter().map(|at| (*at, &node.name))).collect();
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
            if let Some(node) = nodes.get(address) {
                let message =
                    format!("{address} is node {node}'s too, expected an address of its own, or hostNetwork");
                findings.push(finding(Severity::Warning, "Pod", name, "status.podIPs", message));
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

/// Live pods with a network of their own, by namespace, and every named port that one of them has. Made once: with 10,000
/// pods and as many policies, looking at every pair would take seconds of each change.
struct Survey<'a> {
    pods: BTreeMap<&'a NamespaceName, Vec<&'a Pod>>,
    ports: BTreeSet<(Protocol, &'a PortName)>,
}

impl<'a> Survey<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let mut survey = Self { pods: BTreeMap::new(), ports: BTreeSet::new() };
        for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
            survey.pods.entry(&pod.name.namespace).or_default().push(pod);
            let named = |port: &'a ContainerPort| Some((port.protocol, port.name.as_ref()?));
            survey.ports.extend(pod.ports.iter().filter_map(named));
        }
        survey
    }
}

fn look_at_policy(survey: &Survey<'_>, policy: &NetworkPolicy, findings: &mut Vec<Finding>) {
    let mut warn = |field: &str, message: String| {
        findings.push(finding(Severity::Warning, "NetworkPolicy", &policy.name, field, message));
    };
    let neighbours = survey.pods.get(&policy.name.namespace).map(Vec::as_slice).unwrap_or_default();
    let mut selected = neighbours.iter().filter(|pod| policy.pods.matches(&pod.labels)).peekable();
    let nobody = selected.peek().is_none();
    if nobody {
        let message = format!("selects no live pod of the namespace {}", policy.name.namespace);
        warn("spec.podSelector", message);
    }
    // Named ports are the destination's: of the selected pods for ingress, of anybody for egress.
    for (section, rules, idle) in [
        ("ingress", policy.ingress.as_ref(), nobody),
        ("egress", policy.egress.as_ref(), survey.pods.is_empty()),
    ] {
        if idle {
            continue;
        }
        for (i, rule) in rules.into_iter().flatten().enumerate() {
            for (j, port) in rule.ports.iter().enumerate() {
                let PortMatch::Named(name) = port.matches() else { continue };
                let found = match section {
                    "ingress" => selected.clone().any(|pod| pod.named_port(port.protocol, name).is_some()),
                    _ => survey.ports.contains(&(port.protocol, name)),
                };
                if !found {
                    let who = if section == "ingress" { "selected pod" } else { "pod" };
                    let message = format!("no {who} has a port of this name for {}", port.protocol);
                    warn(&format!("spec.{section}[{i}].ports[{j}].port"), message);
                }
            }
        }
    }
}

//! Makes a cluster that shows a fault as small as it gets, so that the fault can be read off it.

use podgate_config::model::selector::Selector;
use podgate_config::model::{Cluster, NetworkPolicy, Peer, Pod, Rule};

/// Takes away whatever can be taken away while `fails` still holds.
pub fn minimise(cluster: Cluster, fails: &mut dyn FnMut(&Cluster) -> bool) -> Cluster {
    let mut smallest = cluster;
    loop {
        let Some(smaller) = smaller(&smallest).into_iter().find(|candidate| fails(candidate)) else {
            return smallest;
        };
        smallest = smaller;
    }
}

/// The clusters that lack one thing.
fn smaller(cluster: &Cluster) -> Vec<Cluster> {
    let mut all = Vec::new();
    let mut without = |change: &dyn Fn(&mut Cluster)| {
        let mut candidate = cluster.clone();
        change(&mut candidate);
        all.push(candidate);
    };
    for name in cluster.policies.keys() {
        without(&|c| {
            c.policies.remove(name);
        });
    }
    for name in cluster.pods.keys() {
        without(&|c| {
            c.pods.remove(name);
        });
    }
    for name in cluster.nodes.keys() {
        without(&|c| {
            c.nodes.remove(name);
        });
    }
    for name in cluster.namespaces.keys() {
        without(&|c| {
            c.namespaces.remove(name);
        });
    }
    for (name, policy) in &cluster.policies {
        for policy in smaller_policies(policy) {
            without(&|c| {
                c.policies.insert(name.clone(), policy.clone().into());
            });
        }
    }
    for (name, pod) in &cluster.pods {
        for pod in smaller_pods(pod) {
            without(&|c| {
                c.pods.insert(name.clone(), pod.clone());
            });
        }
    }
    all
}

fn smaller_pods(pod: &Pod) -> Vec<Pod> {
    let mut all = Vec::new();
    for (key, _) in pod.labels.iter() {
        let mut pod = pod.clone();
        pod.labels.remove(key);
        all.push(pod);
    }
    for place in 0..pod.addresses.len() {
        let mut pod = pod.clone();
        pod.addresses.remove(place);
        all.push(pod);
    }
    for place in 0..pod.ports.len() {
        let mut pod = pod.clone();
        pod.ports.remove(place);
        all.push(pod);
    }
    if pod.node.is_some() {
        all.push(Pod { node: None, ..pod.clone() });
    }
    all
}

fn smaller_policies(policy: &NetworkPolicy) -> Vec<NetworkPolicy> {
    let mut all = Vec::new();
    if policy.ingress.is_some() && policy.egress.is_some() {
        all.push(NetworkPolicy { ingress: None, ..policy.clone() });
        all.push(NetworkPolicy { egress: None, ..policy.clone() });
    }
    for pods in smaller_selectors(&policy.pods) {
        all.push(NetworkPolicy { pods, ..policy.clone() });
    }
    for rules in policy.ingress.as_deref().map(smaller_rules).unwrap_or_default() {
        all.push(NetworkPolicy { ingress: Some(rules), ..policy.clone() });
    }
    for rules in policy.egress.as_deref().map(smaller_rules).unwrap_or_default() {
        all.push(NetworkPolicy { egress: Some(rules), ..policy.clone() });
    }
    all
}

fn smaller_rules(rules: &[Rule]) -> Vec<Vec<Rule>> {
    let mut all = Vec::new();
    for (place, rule) in rules.iter().enumerate() {
        let mut without = rules.to_vec();
        without.remove(place);
        all.push(without);
        for smaller in smaller_rule(rule) {
            let mut rules = rules.to_vec();
            if let Some(slot) = rules.get_mut(place) {
                *slot = smaller;
            }
            all.push(rules);
        }
    }
    all
}

fn smaller_rule(rule: &Rule) -> Vec<Rule> {
    let mut all = Vec::new();
    for place in 0..rule.ports.len() {
        let mut rule = rule.clone();
        rule.ports.remove(place);
        all.push(rule);
    }
    for (place, peer) in rule.peers.iter().enumerate() {
        let mut without = rule.clone();
        without.peers.remove(place);
        all.push(without);
        for smaller in smaller_peers(peer) {
            let mut rule = rule.clone();
            if let Some(slot) = rule.peers.get_mut(place) {
                *slot = smaller;
            }
            all.push(rule);
        }
    }
    all
}

fn smaller_peers(peer: &Peer) -> Vec<Peer> {
    match peer {
        Peer::IpBlock(block) => (0..block.except().len())
            .filter_map(|place| {
                let mut except = block.except().to_vec();
                except.remove(place);
                podgate_config::model::IpBlock::new(block.cidr(), except).ok().map(Peer::IpBlock)
            })
            .collect(),
        Peer::Pods { namespaces, pods } => {
            let mut all: Vec<Peer> = smaller_selectors(pods)
                .into_iter()
                .map(|pods| Peer::Pods { namespaces: namespaces.clone(), pods })
                .collect();
            for smaller in namespaces.iter().flat_map(smaller_selectors) {
                all.push(Peer::Pods { namespaces: Some(smaller), pods: pods.clone() });
            }
            all
        }
    }
}

fn smaller_selectors(selector: &Selector) -> Vec<Selector> {
    (0..selector.requirements().len())
        .filter_map(|place| {
            let others = selector.requirements().enumerate().filter(|&(other, _)| other != place);
            Selector::new(others.map(|(_, requirement)| requirement.clone())).ok()
        })
        .collect()
}

//! Conformance cases, step after step: one running gateway whose folder of manifests becomes that of one case after the
//! other, and that is asked every probe over its socket.
//!
//! What `conformance.rs` asks of tables that were made from nothing is asked here of tables that have followed changes: files
//! are renamed into place, written anew where they are, deleted and made again, as people do. The steps of a group have a
//! process of their own; all cases without one are steps of one long history. Each file that changes brings a policy of no pods
//! along whose name says when it was written, so that it is known when all of them are in force.

#![allow(clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use podgate_control::status::Standing;
use podgate_tests::conformance::{Case, CasePod, list, outside_cases, own_cases};
use podgate_tests::gateway::Gateway;
use podgate_tests::netns::skipped;
use serde_json::{Value, json};

/// A gateway and what is in its folder.
struct Followed {
    gateway: Gateway,
    /// By file: what it says, and the mark that it was written with.
    files: BTreeMap<String, (Vec<Value>, String)>,
    written: usize,
}

impl Followed {
    fn start() -> Self {
        Self { gateway: Gateway::start(|_| {}), files: BTreeMap::new(), written: 0 }
    }

    /// Makes the files those of a case, and waits until that is in force.
    fn become_case(&mut self, case: &Case) {
        self.gateway.serve(&ports(case));
        let folder = self.gateway.manifests();
        let wanted = case.files();
        let gone: Vec<String> =
            self.files.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            fs::remove_file(folder.join(format!("{name}.json"))).expect("a file is deleted");
            self.files.remove(&name);
        }
        for (name, items) in wanted {
            if self.files.get(&name).is_some_and(|(known, _)| *known == items) {
                continue;
            }
            self.written += 1;
            let mark = format!("mark/{name}-{}", self.written);
            let content = list(&[&items[..], &[marker(&mark)]].concat());
            save(&folder, &format!("{name}.json"), &content, self.written);
            self.files.insert(name, (items, mark));
        }

        let marks = self.files.values().map(|(_, mark)| mark.clone());
        let expected: BTreeSet<String> = case.policies.iter().map(name).chain(marks).collect();
        self.gateway.wait(&format!("{} is in force", case.id), |gateway| {
            let status = gateway.policies();
            let known: BTreeSet<&String> = status.policies.iter().map(|policy| &policy.policy).collect();
            let in_force = status.policies.iter().all(|policy| policy.state == Standing::InForce);
            let is_newest = status.generation_in_force == status.generation_published;
            known.into_iter().eq(&expected) && in_force && is_newest
        });
        self.gateway.wait(&format!("nothing is wrong with {}", case.id), |gateway| {
            gateway.status().sources.iter().all(|source| source.errors.is_empty())
        });
    }
}

fn marker(mark: &str) -> Value {
    let name = mark.trim_start_matches("mark/");
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "mark"}, "spec": {"podSelector": {}},
    })
}

/// `namespace/name` of a policy.
fn name(policy: &Value) -> String {
    let metadata = |field: &str| policy["metadata"][field].as_str();
    format!("{}/{}", metadata("namespace").unwrap_or("default"), metadata("name").unwrap_or_default())
}

/// Writes a file by one of the ways by which people do, in turn.
fn save(folder: &Path, name: &str, content: &str, turn: usize) {
    let (file, aside) = (folder.join(name), folder.join(format!(".{name}")));
    match turn % 3 {
        0 => fs::write(&file, content).expect("written where it is"),
        way => {
            if way == 1 && file.exists() {
                fs::remove_file(&file).expect("deleted");
            }
            fs::write(&aside, content).expect("written aside");
            fs::rename(&aside, &file).expect("renamed into place");
        }
    }
}

/// Pods with a network of their own and the addresses of their ports.
fn ports(case: &Case) -> BTreeMap<String, Vec<IpAddr>> {
    let pods = case.current_pods();
    let living = pods.into_iter().filter(|pod| !pod.host_network && !is_over(pod));
    let ports = living.map(|pod| (format!("{}/{}", pod.ns, pod.name), pod.addresses()));
    ports.filter(|(_, addresses)| !addresses.is_empty()).collect()
}

fn is_over(pod: &CasePod) -> bool {
    matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Whether a gateway of one node can have its pods.
fn fits(case: &Case) -> bool {
    case.nodes.is_empty() && !case.is_of_cluster_network_policy()
}

/// One process that becomes one case after the other. Gives the number of probes, and what was wrong.
fn follow(cases: &[Case]) -> (usize, Vec<String>) {
    let mut followed = Followed::start();
    let mut wrong = Vec::new();
    for case in cases {
        followed.become_case(case);
        wrong.extend(case.disagreements(&followed.gateway.explain(&case.probe_lines())));
    }
    (cases.iter().map(|case| case.probes.len()).sum(), wrong)
}

fn replay(histories: &[Vec<Case>]) {
    let (mut probes, mut wrong) = (0, Vec::new());
    for cases in histories {
        let (asked, bad) = follow(cases);
        probes += asked;
        wrong.extend(bad);
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let steps: usize = histories.iter().map(Vec::len).sum();
    eprintln!("{probes} probes agree in {steps} steps of {} gateways", histories.len());
}

#[test]
fn own_cases_agree_one_after_the_other() {
    if skipped() {
        return;
    }
    let (cases, left): (Vec<Case>, Vec<Case>) = own_cases().into_iter().partition(fits);
    assert!(cases.len() >= 50 && left.len() <= 5, "{} cases, {} of several nodes", cases.len(), left.len());
    replay(&[cases]);
}

#[test]
fn outside_cases_agree_step_after_step() {
    if skipped() {
        return;
    }
    let cases: Vec<Case> = outside_cases().into_iter().filter(fits).collect();
    if cases.is_empty() {
        eprintln!("PODGATE_CONFORMANCE_DIR is not set: the project's own cases alone were followed");
        return;
    }
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    let mut alone = Vec::new();
    for case in cases {
        match case.group.clone() {
            Some(group) => groups.entry(group).or_default().push(case),
            None => alone.push(case),
        }
    }
    let (mut histories, single): (Vec<Vec<Case>>, Vec<Vec<Case>>) =
        groups.into_values().partition(|steps| steps.len() > 1);
    assert!(histories.iter().all(|steps| steps.is_sorted_by_key(|case| case.step)), "steps out of order");
    histories.push(single.into_iter().flatten().chain(alone).collect());
    replay(&histories);
}

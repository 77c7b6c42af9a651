//! Every conformance case through the real program, and through the oracle.

#![allow(clippy::expect_used, clippy::panic)]

use std::fs;

use podgate_control::{source, store};
use podgate_tests::conformance::{Case, Expect, by_the_oracle, outside_cases, own_cases};
use podgate_tests::program::run;
use serde_json::Value;

/// What is wrong with the oracle's answers to a case, on the manifests as they are decoded.
fn ask_the_oracle(case: &Case) -> Vec<String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("case.json");
    fs::write(&file, case.manifests()).expect("manifests written");
    let loaded = source::load(std::slice::from_ref(&file)).expect("file is there");
    let cluster = store::merge(&loaded.objects).cluster;
    let answers = case.probes.iter().map(|probe| (probe, by_the_oracle(&cluster, probe)));
    let wrong = answers.filter(|(probe, answer)| *answer != probe.expect);
    wrong.map(|(probe, answer)| format!("{}: oracle says {answer:?}: {probe:?}", case.id)).collect()
}

/// What is wrong with the program's answers to a case; empty if nothing is.
fn ask_the_program(case: &Case) -> Vec<String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("case.json");
    fs::write(&file, case.manifests()).expect("manifests written");

    let said = run(folder.path(), &["explain", "-f", "case.json", "--probes", "-"], &case.probe_lines());
    let errors = case.probes.iter().any(|probe| probe.expect == Expect::Error);
    if said.code != Some(if errors { 2 } else { 0 }) {
        return vec![format!("{}: exit code {:?}: {}", case.id, said.code, said.err)];
    }
    let lines: Vec<&str> = said.out.lines().collect();
    let mut wrong: Vec<String> = Vec::new();
    if lines.len() != case.probes.len() {
        return vec![format!("{}: {} answers to {} probes", case.id, lines.len(), case.probes.len())];
    }
    for (probe, line) in case.probes.iter().zip(lines) {
        let answer: Value = serde_json::from_str(line).expect("an answer is JSON");
        let verdict = match (answer["verdict"].as_str(), answer["error"].as_str()) {
            (Some("allow"), None) => Expect::Allow,
            (Some("deny"), None) => Expect::Deny,
            (None, Some(_)) => Expect::Error,
            _ => panic!("{}: neither verdict nor error: {line}", case.id),
        };
        if verdict != probe.expect {
            wrong.push(format!("{}: expected {:?} ({}): {line}", case.id, probe.expect, case.source));
        }
    }
    wrong
}

fn replay(cases: &[Case], ask: fn(&Case) -> Vec<String>) {
    let probes: usize = cases.iter().map(|case| case.probes.len()).sum();
    let wrong: Vec<String> = cases.iter().flat_map(ask).collect();
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{} cases, {probes} probes agree", cases.len());
}

#[test]
fn own_cases_agree() {
    let cases = own_cases();
    assert!(!cases.is_empty(), "the project's own cases are gone");
    replay(&cases, ask_the_program);
}

/// Without the program, so that the decoder and the oracle are held to the stated answers by themselves.
#[test]
fn oracle_agrees_with_own_cases() {
    replay(&own_cases(), ask_the_oracle);
}

#[test]
fn outside_cases_agree() {
    let cases: Vec<Case> =
        outside_cases().into_iter().filter(|case| !case.is_of_cluster_network_policy()).collect();
    if cases.is_empty() {
        eprintln!("PODGATE_CONFORMANCE_DIR is not set: the project's own cases alone were replayed");
        return;
    }
    replay(&cases, ask_the_oracle);
    replay(&cases, ask_the_program);
}

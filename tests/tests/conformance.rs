//! Every conformance case through the real program, and through the oracle.

#![allow(clippy::expect_used, clippy::panic)]

use std::fs;

use podgate_control::{source, store};
use podgate_tests::conformance::{Case, by_the_oracle, outside_cases, own_cases};
use podgate_tests::program::run;

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
    case.disagreements(&said)
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

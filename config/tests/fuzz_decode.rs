//! Fuzz target of the decoder: whatever the bytes, it ends, does not panic, and keeps its promises.
//!
//! Under `cargo test` it runs the corpus, near misses of it, and a bounded number of random inputs; under `cargo bolero`
//! it runs for as long as one likes. A file that once broke something is added to `corpus/` with a telling name, and stays.

#![allow(clippy::unwrap_used)] // tests: a missing corpus should fail loudly

use std::path::Path;

use bolero::check;
use podgate_config::manifest::{ObjectValue, decode, review};
use podgate_config::model::Cluster;

/// Everything that must hold of any file.
fn examine(bytes: &[u8]) {
    let decoded = decode("file", bytes);
    for finding in &decoded.findings {
        let line = finding.to_string();
        assert!(!line.contains(char::is_control), "not one line: {line:?}");
        assert!(line.starts_with(&format!("file:{}: ", finding.document)), "{line}");
        assert!(!finding.message.is_empty() && finding.document > 0, "{line}");
    }
    let mut cluster = Cluster::default();
    for object in &decoded.objects {
        assert!(object.document > 0);
        match &object.value {
            ObjectValue::Namespace(namespace) => {
                let label =
                    namespace.labels().iter().find(|(key, _)| key.as_str() == "kubernetes.io/metadata.name");
                assert_eq!(label.unwrap().1.as_str(), namespace.name().as_str());
            }
            ObjectValue::Pod(pod) => {
                assert!(pod.addresses.iter().filter(|address| address.is_ipv4()).count() <= 1);
                assert!(pod.addresses.iter().filter(|address| address.is_ipv6()).count() <= 1);
                cluster.pods.insert(pod.name.clone(), pod.as_ref().clone());
            }
            ObjectValue::Node(_) => {}
            ObjectValue::NetworkPolicy(policy) => {
                assert!(policy.ingress.is_some() || policy.egress.is_some(), "isolates in no direction");
                cluster.policies.insert(policy.name.clone(), policy.clone());
            }
        }
    }
    let _ = review(&cluster);
    assert_eq!(decode("file", bytes), decoded, "the same bytes, another answer");
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [folder.join("tests/corpus"), folder.join("examples/shop")] {
        files.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.sort();
    assert!(files.len() >= 6);
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn corpus_cut_off_anywhere() {
    for file in corpus() {
        examine(&file);
        let step = (file.len() / 200).max(1);
        for length in (0..file.len()).step_by(step) {
            examine(&file[..length]);
        }
    }
}

#[test]
fn corpus_without_a_line() {
    for file in corpus() {
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        for i in 0..lines.len() {
            let rest: Vec<&[u8]> = [&lines[..i], &lines[i + 1..]].concat();
            examine(&rest.concat());
        }
    }
}

#[test]
fn fuzz_decode_bytes() {
    check!().with_iterations(20_000).for_each(examine);
}

/// Random bytes are hardly ever YAML: words of manifests, put together at random, get further.
#[test]
fn fuzz_decode_words() {
    const WORDS: &[&str] = &[
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
        "apiVersion: v1\nkind: List\nitems:\n",
        "spec:\n",
        "status:\n",
        "  podSelector: ",
        "  ingress:\n",
        "  egress: ",
        "  - from:\n",
        "  - ",
        "    - ",
        "ipBlock: ",
        "cidr: ",
        "10.0.0.0/8",
        "except: ",
        "ports: ",
        "port: ",
        "endPort: ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "\n",
        "---\n",
        "...\n",
        "&a ",
        "*a",
        "<<",
        "'",
        "\"",
        "\\",
        "|\n",
        ">-\n",
        "# ",
        "80",
        "-1",
        "65536",
        "yes",
        "null",
        "~",
        "!!str ",
        "!!binary ",
        "\t",
        "\r\n",
        "\u{feff}",
        "matchLabels: ",
        "matchExpressions: ",
        "operator: ",
        "In",
        "values: ",
        "key: ",
        "namespaceSelector: ",
        "policyTypes: ",
        "Ingress",
        "replicas: ",
        "template: ",
        "podIPs: ",
        "ip: ",
        "::1",
        "?",
        "%YAML 1.1\n",
        "\u{0}",
    ];
    check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        let words = bytes.iter().map(|byte| WORDS[usize::from(*byte) % WORDS.len()]);
        examine(words.collect::<String>().as_bytes());
    });
}

//! The command as a user meets it: what it prints where, and its exit codes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
status: {podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

fn podgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podgate")).args(arguments).output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A folder with these files, and its path as text.
fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let path = dir.path().display().to_string();
    (dir, path)
}

#[test]
fn valid_manifests_pass() {
    let (_dir, path) = folder(&[("shop.yaml", SHOP)]);
    let output = podgate(&["check", "-f", &path]);
    assert_eq!((code(&output), err(&output)), (0, ""), "{}", out(&output));
    assert_eq!(out(&output), "1 file: 0 errors, 0 warnings\n");
}

#[test]
fn findings_name_file_document_object_and_field() {
    let bad = SHOP.replace("ingress:\n", "ingres:\n");
    let (_dir, path) = folder(&[("shop.yaml", &bad)]);
    let output = podgate(&["check", "-f", &path]);
    assert_eq!(code(&output), 1);
    let line = out(&output).lines().next().unwrap();
    assert!(line.starts_with(&format!("{path}/shop.yaml:4: NetworkPolicy shop/db: ")), "{line}");
    assert!(line.contains("ingres"), "{line}");

    let output = podgate(&["check", "-o", "json", "-f", &path]);
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 1);
    assert_eq!(report["findings"][0]["document"], 4);
    assert_eq!(report["findings"][0]["severity"], "error");
}

#[test]
fn suspicious_is_not_wrong() {
    let (_dir, path) = folder(&[]);
    let output = podgate(&["check", "-f", &path]);
    assert_eq!(code(&output), 0);
    assert!(out(&output).contains("1 warning"), "{}", out(&output));
}

#[test]
fn the_same_object_twice_is_wrong() {
    let (_dir, path) = folder(&[("a.yaml", SHOP), ("b.yaml", SHOP)]);
    let output = podgate(&["check", "-f", &path]);
    assert_eq!(code(&output), 1);
    let twice = format!("{path}/b.yaml:4: NetworkPolicy shop/db: ");
    assert!(out(&output).lines().any(|line| line.starts_with(&twice)), "{}", out(&output));
}

#[test]
fn usage_and_environment_are_exit_code_2() {
    for arguments in [
        &["check", "-f", "/nonexistent/x.yaml"][..],
        &["check"],
        &["fly"],
        &["status", "--socket", "/nonexistent/podgate.sock"],
        &["explain", "--from", "a/b", "--to", "c/d"],
        &["port", "list", "--socket", "/nonexistent/podgate.sock"],
    ] {
        let output = podgate(arguments);
        assert_eq!((code(&output), out(&output)), (2, ""), "{arguments:?}");
        assert!(!err(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_deny_is_an_answer() {
    let (_dir, path) = folder(&[("shop.yaml", SHOP)]);
    let ask =
        |port| podgate(&["explain", "-f", &path, "--from", "shop/web", "--to", "shop/db", "--port", port]);
    let output = ask("5432");
    assert_eq!(code(&output), 0);
    assert!(out(&output).starts_with("allow: shop/web"), "{}", out(&output));
    let output = ask("22");
    assert_eq!(code(&output), 0);
    assert!(out(&output).starts_with("deny: shop/web"), "{}", out(&output));
    assert!(out(&output).contains("shop/db"), "{}", out(&output));
}

#[test]
fn invalid_manifests_answer_nothing() {
    let (_dir, path) = folder(&[("shop.yaml", "kind: [")]);
    let output = podgate(&["explain", "-f", &path, "--from", "shop/web", "--to", "shop/db", "--port", "1"]);
    assert_eq!((code(&output), out(&output)), (1, ""));
    assert!(err(&output).contains("shop.yaml"), "{}", err(&output));
}

#[test]
fn probes_come_back_in_order_and_the_unanswerable_cost_exit_code_2() {
    let (_dir, path) = folder(&[("shop.yaml", SHOP)]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_podgate"))
        .args(["explain", "-f", &path, "--probes", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let probe = |from: &str, port: u16| {
        format!(
            "{{\"from\":{{\"pod\":\"{from}\"}},\"to\":{{\"pod\":\"shop/db\"}},\"port\":{port},\"protocol\":\"TCP\"}}\n"
        )
    };
    let lines = probe("shop/web", 5432) + &probe("shop/ghost", 1) + &probe("shop/web", 1);
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 2);
    let answers: Vec<Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["verdict"], "allow");
    assert_eq!(answers[0]["ingress"]["policy"], "shop/db");
    assert!(answers[1]["error"].as_str().unwrap().contains("shop/ghost"));
    assert_eq!(answers[2]["verdict"], "deny");
    assert_eq!(answers[2]["from"]["pod"], "shop/web");
}

#[test]
fn the_matrix_shows_everybody() {
    let (_dir, path) = folder(&[("shop.yaml", SHOP)]);
    let output = podgate(&["matrix", "-f", &path, "--port", "5432"]);
    assert_eq!(code(&output), 0);
    assert!(out(&output).contains("shop/web") && out(&output).contains("shop/db"), "{}", out(&output));
    let output = podgate(&["matrix", "-f", &path, "--port", "5432", "-o", "json"]);
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(table["ends"].as_array().unwrap().len(), 2);
}

#[test]
fn a_reader_that_had_enough_ends_it_quietly() {
    let many: String = (0..20_000)
        .map(|n| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: X{n}}}\n"))
        .collect();
    let (_dir, path) = folder(&[("many.yaml", &many)]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_podgate"))
        .args(["check", "-f", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output)), (0, ""));
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let (_dir, path) = folder(&[("shop.yaml", "kind: [")]);
    let output = podgate(&["check", "-f", &path]);
    assert!(!output.stdout.contains(&0x1b));
}

#[test]
fn settings_are_shown_with_their_origin() {
    let (dir, _) = folder(&[("podgate.yaml", "workers: 1\n")]);
    let config = dir.path().join("podgate.yaml");
    let show = |extra: &[&str], config: &Path| {
        let mut arguments = vec!["config", "--config", config.to_str().unwrap()];
        arguments.extend(extra);
        podgate(&arguments)
    };
    let output = show(&[], &config);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).contains("workers") && out(&output).contains("podgate.yaml"), "{}", out(&output));
    let output = show(&["--set", "workers=many"], &config);
    assert_ne!(code(&output), 0);
    assert!(format!("{}{}", out(&output), err(&output)).contains("workers"));
}

#[test]
fn the_rights_are_those_that_the_settings_need() {
    let with = podgate(&["config", "--rbac", "--set", "kubernetes_events=true"]);
    let without = podgate(&["config", "--rbac"]);
    assert_eq!((code(&with), code(&without)), (0, 0));
    let added: Vec<&str> =
        out(&with).lines().filter(|line| !out(&without).lines().any(|l| l == *line)).collect();
    assert_eq!(added, ["  resources: [events]", "  verbs: [create, patch]"]);
    let wrong = podgate(&["config", "--rbac", "--set", "kubernetes_events=perhaps"]);
    assert_eq!((code(&wrong), out(&wrong)), (2, ""));
    assert!(err(&wrong).contains("kubernetes_events"), "{}", err(&wrong));
}

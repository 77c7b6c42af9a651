//! What `podgate` says to bad and to odd input, word for word, and with which exit code.

#![allow(clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;

use podgate_tests::harness::Said;
use podgate_tests::program::run;

/// `podgate ARGUMENTS` in a folder with this file.
fn with_file(name: &str, content: &[u8], arguments: &[&str], input: &str) -> Said {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::create_dir(folder.path().join("empty")).expect("folder");
    fs::write(folder.path().join(name), content).expect("file");
    run(folder.path(), arguments, input)
}

/// The findings of `podgate check`, and its exit code.
fn check(content: &str) -> (Vec<String>, Option<i32>) {
    let said = with_file("f.yaml", content.as_bytes(), &["check", "-f", "f.yaml"], "");
    let mut lines: Vec<String> = said.out.lines().map(str::to_owned).collect();
    // The last line sums up.
    lines.pop();
    (lines, said.code)
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: a}}\nspec: {spec}\n"
    )
}

#[test]
fn each_fault_of_a_policy_is_one_clear_line() {
    for (spec, expected) in [
        ("{ingres: []}", "spec.ingres: is not a field here, did you mean ingress?"),
        ("{ingress: 5}", "spec.ingress: is the number 5, expected a list"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
            "spec.ingress[0].from[0].ipBlock.cidr: is \"10.0.0.0/33\", expected a network as 10.0.0.0/8 or fd00::/64",
        ),
        (
            "{ingress: [{ports: [{port: 80, endPort: 79}]}]}",
            "spec.ingress[0].ports[0].endPort: is 79, expected at least port, which is 80",
        ),
        (
            "{ingress: [{ports: [{protocol: tcp}]}]}",
            "spec.ingress[0].ports[0].protocol: is \"tcp\", expected TCP, UDP or SCTP",
        ),
    ] {
        let (lines, code) = check(&policy(spec));
        let first = format!("f.yaml:1: NetworkPolicy a/p: {expected}");
        assert_eq!((lines.as_slice(), code), ([first].as_slice(), Some(1)), "{spec}");
    }
}

#[test]
fn two_live_pods_with_one_address_are_an_error() {
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a}}\n\
             spec: {{containers: [{{name: c, image: i}}]}}\nstatus: {{podIP: 10.0.0.1}}\n"
        )
    };
    let (lines, code) = check(&format!("{}---\n{}", pod("one"), pod("two")));
    assert_eq!(code, Some(1));
    let errors: Vec<&String> = lines.iter().filter(|line| line.contains("10.0.0.1")).collect();
    assert_eq!(errors.len(), 1, "{lines:?}");
    assert!(errors[0].contains("a/one") && errors[0].contains("a/two"), "{errors:?}");
}

#[test]
fn one_bad_document_among_many_is_found_at_its_place() {
    let mut text = String::new();
    for number in 0..2500 {
        let name = if number == 1200 { "N_1".to_owned() } else { format!("n{number}") };
        let _ = write!(text, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    }
    let (lines, code) = check(&text);
    assert_eq!(code, Some(1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("f.yaml:1201: Namespace N_1: metadata.name: is \"N_1\", expected a DNS label")
    );
}

#[test]
fn what_is_legal_but_odd_is_a_warning() {
    let (lines, code) = check(&policy("{}"));
    assert_eq!(code, Some(0));
    assert_eq!(
        lines,
        [
            "f.yaml:1: NetworkPolicy a/p: metadata.namespace: the namespace a is not among the documents; it is taken \
             to have no label but its name",
            "f.yaml:1: NetworkPolicy a/p: spec.podSelector: selects no live pod of the namespace a",
        ]
    );
    let said = with_file("f.yaml", b"", &["check", "-f", "empty"], "");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("empty:0: no manifest in this folder"), "{said:?}");
}

#[test]
fn garbage_is_an_error_and_no_crash() {
    for garbage in [&b"a: [\n"[..], b"\xff\xfe\x00", b"{\"kind\": ", b"- - - :\n\t"] {
        let said = with_file("f.yaml", garbage, &["check", "-f", "f.yaml"], "");
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.out.starts_with("f.yaml:1: "), "{said:?}");
    }
}

#[test]
fn what_cannot_be_asked_is_exit_code_2_and_the_rest_goes_on() {
    let said = with_file("f.yaml", b"", &["check", "-f", "nowhere.yaml"], "");
    assert_eq!(said.code, Some(2));
    assert_eq!(said.err, "error: nowhere.yaml: No such file or directory (os error 2)\n");
    assert_eq!(with_file("f.yaml", b"", &["explain"], "").code, Some(2));

    let probes = "{\"from\":{\"pod\":\"a/z\"},\"to\":{\"ip\":\"192.0.2.1\"},\"port\":1,\"protocol\":\"TCP\"}\n\
                  {\"from\":{\"ip\":\"192.0.2.2\"},\"to\":{\"ip\":\"192.0.2.1\"},\"port\":1,\"protocol\":\"TCP\"}\n";
    let content = policy("{}");
    let said = with_file("f.yaml", content.as_bytes(), &["explain", "-f", "f.yaml", "--probes", "-"], probes);
    assert_eq!(said.code, Some(2), "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert_eq!(lines[0], "{\"error\":\"pod a/z is not known\"}");
    assert!(lines[1].contains("\"verdict\":\"allow\""), "{said:?}");
}

#[test]
fn manifests_know_no_connections() {
    let arguments =
        ["explain", "-f", "f.yaml", "--from", "a/x", "--to", "a/y", "--port", "1", "--sport", "40000"];
    let said = with_file("f.yaml", policy("{}").as_bytes(), &arguments, "");
    let expected = "error: --sport asks about a connection of a running gateway; name its --socket\n";
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(2), "", expected));
}

#[test]
fn bad_manifests_give_no_answers() {
    let content = policy("{ingres: []}");
    let arguments = ["explain", "-f", "f.yaml", "--from", "a/x", "--to", "a/y", "--port", "1"];
    let said = with_file("f.yaml", content.as_bytes(), &arguments, "");
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.starts_with("f.yaml:1: NetworkPolicy a/p: spec.ingres:"), "{said:?}");
}

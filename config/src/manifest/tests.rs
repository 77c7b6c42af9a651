//! What the API server takes and refuses, and what is said about it.

use super::*;
use crate::model::{Cluster, Labels, Operator, Peer, Phase, PortMatch};

fn texts(decoded: &Decoded) -> Vec<String> {
    decoded.findings.iter().map(ToString::to_string).collect()
}

fn good(text: &str) -> Vec<ObjectValue> {
    let decoded = decode("f.yaml", text.as_bytes());
    assert_eq!(texts(&decoded), Vec::<String>::new());
    decoded.objects.into_iter().map(|object| object.value).collect()
}

/// The only finding about this text.
fn bad(text: &str) -> String {
    let decoded = decode("f.yaml", text.as_bytes());
    let texts = texts(&decoded);
    assert_eq!(texts.len(), 1, "{texts:#?}");
    assert_eq!(decoded.findings[0].severity, Severity::Error);
    assert_eq!(decoded.objects, []);
    texts[0].clone()
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: ns}}\nspec: {spec}\n"
    )
}

fn one_policy(spec: &str) -> crate::model::NetworkPolicy {
    match good(&policy(spec)).remove(0) {
        ObjectValue::NetworkPolicy(policy) => policy.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

fn one_pod(text: &str) -> Pod {
    match good(text).remove(0) {
        ObjectValue::Pod(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn cluster(text: &str) -> Cluster {
    let mut cluster = Cluster::default();
    for value in good(text) {
        match value {
            ObjectValue::Namespace(namespace) => {
                cluster.namespaces.insert(namespace.name().clone(), namespace);
            }
            ObjectValue::Pod(pod) => {
                cluster.pods.insert(pod.name.clone(), *pod);
            }
            ObjectValue::Node(node) => {
                cluster.nodes.insert(node.name.clone(), node);
            }
            ObjectValue::NetworkPolicy(policy) => {
                cluster.policies.insert(policy.name.clone(), policy);
            }
        }
    }
    cluster
}

#[test]
fn policy_types_as_the_server_defaults_them() {
    for (spec, ingress, egress) in [
        ("{podSelector: {}}", Some(0), None),
        ("{podSelector: {}, ingress: [{}]}", Some(1), None),
        ("{podSelector: {}, egress: []}", Some(0), None),
        ("{podSelector: {}, egress: [{}]}", Some(0), Some(1)),
        ("{podSelector: {}, policyTypes: [Egress]}", None, Some(0)),
        ("{podSelector: {}, policyTypes: [Egress], ingress: [{}]}", None, Some(0)),
        ("{podSelector: {}, policyTypes: [Ingress, Egress]}", Some(0), Some(0)),
        ("{}", Some(0), None),
        ("", Some(0), None),
    ] {
        let policy = one_policy(spec);
        let count = |rules: &Option<Vec<crate::model::Rule>>| rules.as_ref().map(Vec::len);
        assert_eq!((count(&policy.ingress), count(&policy.egress)), (ingress, egress), "{spec}");
    }
}

#[test]
fn rules_ports_and_peers() {
    let policy = one_policy(
        "\n  podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [x, z]}]}\n  ingress:\n  \
         - from:\n    - podSelector: {}\n    - namespaceSelector: {matchLabels: {team: ''}}\n    \
         - ipBlock: {cidr: 10.1.2.3/8, except: [10.2.0.0/16]}\n    \
         ports:\n    - port: 80\n    - {port: 8000, endPort: 9000, protocol: UDP}\n    - {port: http}\n    - protocol: SCTP\n",
    );
    let requirement = policy.pods.requirements().next().unwrap();
    assert!(matches!(&requirement.operator, Operator::NotIn(values) if values.len() == 2));
    let rule = &policy.ingress.as_ref().unwrap()[0];
    let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["TCP/80", "UDP/8000-9000", "TCP/http", "SCTP"]);
    assert!(matches!(rule.ports[3].matches(), PortMatch::All));
    assert!(matches!(&rule.peers[0], Peer::Pods { namespaces: None, pods } if pods.is_everything()));
    assert!(matches!(&rule.peers[1], Peer::Pods { namespaces: Some(_), pods } if pods.is_everything()));
    assert!(
        matches!(&rule.peers[2], Peer::IpBlock(block) if block.to_string() == "10.0.0.0/8 except 10.2.0.0/16")
    );
}

#[test]
fn a_number_that_is_an_integer_is_one() {
    let port = |port: &str| policy(&format!("{{ingress: [{{ports: [{{port: {port}}}]}}]}}"));
    for (text, expected) in [
        ("80", "TCP/80"),
        ("80.0", "TCP/80"),
        ("1e3", "TCP/1000"),
        ("8.08E+3", "TCP/8080"),
        ("6_5.", "TCP/65"),
    ] {
        let ObjectValue::NetworkPolicy(policy) = good(&port(text)).remove(0) else { panic!("{text}") };
        assert_eq!(policy.ingress.as_ref().unwrap()[0].ports[0].to_string(), expected, "{text}");
    }
    for text in ["80.5", "1e9", "1e-3", "-80.0", "0.0", ".inf", ".nan", "1e400"] {
        assert!(bad(&port(text)).contains("expected a port number from 1 to 65535"), "{text}");
    }
}

#[test]
fn what_the_server_refuses_in_policies() {
    let port = |port: &str| format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}");
    let peer = |peer: &str| format!("{{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}");
    let expression = |inner: &str| format!("{{podSelector: {{matchExpressions: [{inner}]}}}}");
    for (spec, finding) in [
        (
            port("{endPort: 5}"),
            "spec.ingress[0].ports[0].endPort: is there without port, expected both or neither",
        ),
        (
            port("{port: http, endPort: 5}"),
            "spec.ingress[0].ports[0].endPort: is there beside a named port, expected a number as port",
        ),
        (
            port("{port: 6, endPort: 5}"),
            "spec.ingress[0].ports[0].endPort: is 5, expected at least port, which is 6",
        ),
        (
            port("{port: 0}"),
            "spec.ingress[0].ports[0].port: is the number 0, expected a port number from 1 to 65535",
        ),
        (
            port("{port: 65536}"),
            "spec.ingress[0].ports[0].port: is the number 65536, expected a port number from 1 to 65535",
        ),
        (port("{port: '80'}"), "spec.ingress[0].ports[0].port: is \"80\", expected a port name"),
        (port("{port: HTTP}"), "spec.ingress[0].ports[0].port: is \"HTTP\", expected a port name"),
        (port("{port: a--b}"), "spec.ingress[0].ports[0].port: is \"a--b\", expected a port name"),
        (port("{protocol: tcp}"), "spec.ingress[0].ports[0].protocol: is \"tcp\", expected TCP, UDP or SCTP"),
        (
            port("{prot: TCP}"),
            "spec.ingress[0].ports[0].prot: is not a field here, expected one of protocol, port, endPort",
        ),
        (
            peer("{}"),
            "spec.ingress[0].from[0]: selects nothing, expected podSelector, namespaceSelector or ipBlock",
        ),
        (
            peer("{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}"),
            "spec.ingress[0].from[0]: has an ipBlock beside a selector",
        ),
        (peer("{ipBlock: {}}"), "spec.ingress[0].from[0].ipBlock.cidr: is missing"),
        (
            peer("{ipBlock: {cidr: 10.0.0.0/33}}"),
            "spec.ingress[0].from[0].ipBlock.cidr: is \"10.0.0.0/33\", expected a network",
        ),
        (
            peer("{ipBlock: {cidr: 10.0.0.0}}"),
            "spec.ingress[0].from[0].ipBlock.cidr: is \"10.0.0.0\", expected a network",
        ),
        (
            peer("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}"),
            "spec.ingress[0].from[0].ipBlock.except[0]: 10.0.0.0/8 is not a strict subset of 10.0.0.0/8",
        ),
        (
            peer("{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}"),
            "spec.ingress[0].from[0].ipBlock.except[0]: fd00::/64 is not a strict subset",
        ),
        (expression("{key: a, operator: In}"), "spec.podSelector.matchExpressions[0].values: is empty"),
        (
            expression("{key: a, operator: Exists, values: [b]}"),
            "spec.podSelector.matchExpressions[0].values: is there, expected none for Exists",
        ),
        (
            expression("{key: a, operator: in, values: [b]}"),
            "spec.podSelector.matchExpressions[0].operator: is \"in\", expected In, NotIn",
        ),
        (
            expression("{key: a, operator: In, values: [true]}"),
            "spec.podSelector.matchExpressions[0].values[0]: is the boolean true, expected text; put it in quotes",
        ),
        (expression("{operator: Exists}"), "spec.podSelector.matchExpressions[0].key: is missing"),
        (
            "{podSelector: {matchLabels: {a: 1}}}".to_owned(),
            "spec.podSelector.matchLabels.a: is the number 1, expected text; put it in quotes",
        ),
        (
            "{podSelector: {matchLabels: {a: yes}}}".to_owned(),
            "spec.podSelector.matchLabels.a: is the boolean true",
        ),
        (
            "{podSelector: {matchLabels: {'a b': c}}}".to_owned(),
            "spec.podSelector.matchLabels.a b: is \"a b\", expected a label key",
        ),
        ("{podSelector: {a: b}}".to_owned(), "spec.podSelector.a: is not a field here"),
        ("{podSelector: []}".to_owned(), "spec.podSelector: is a list, expected an object"),
        (
            "{podSelector: {}, ingres: []}".to_owned(),
            "spec.ingres: is not a field here, did you mean ingress?",
        ),
        ("{podSelector: {}, egress: [{from: []}]}".to_owned(), "spec.egress[0].from: is not a field here"),
        (
            "{podSelector: {}, policyTypes: [ingress]}".to_owned(),
            "spec.policyTypes[0]: is \"ingress\", expected Ingress or Egress",
        ),
        (
            "{podSelector: {}, policyTypes: [Ingress, Egress, Ingress]}".to_owned(),
            "spec.policyTypes: has 3 entries",
        ),
    ] {
        let said = bad(&policy(&spec));
        let expected = format!("f.yaml:1: NetworkPolicy ns/p: {finding}");
        assert!(said.starts_with(&expected), "\n{said}\n{expected}");
    }
}

#[test]
fn whole_documents() {
    assert!(bad("kind: Pod\n").contains("Pod: apiVersion: is missing"));
    assert!(bad("apiVersion: v1\n").contains("f.yaml:1: kind: is missing"));
    assert!(bad("just text\n").contains("is the text \"just text\", expected an object"));
    assert!(bad("a: b\na: c\n").contains("line 2: the field \"a\" is there twice"));
    assert!(bad("a: [b\n").starts_with("f.yaml:1: line"));
    assert!(bad("apiVersion: v1\nkind: Pod\nmetadata: {}\n").contains("metadata.name: is missing"));
    assert!(
        bad("apiVersion: v1\nkind: Pod\nmetadata: {name: A}\n")
            .contains("Pod default/A: metadata.name: is \"A\"")
    );
    assert!(bad("apiVersion: extensions/v1beta1\nkind: NetworkPolicy\n").contains("networking.k8s.io/v1"));
    let decoded = decode("f", b"\xff\xfe");
    assert!(decoded.findings[0].to_string().contains("not UTF-8"), "{decoded:?}");
    assert_eq!(good(""), []);
    assert_eq!(good("# nothing\n---\n---\n# more\n"), []);
}

#[test]
fn a_syntax_error_spoils_its_own_document() {
    let text = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Namespace\n\
        metadata: {name: b}\n";
    let decoded = decode("f.yaml", text.as_bytes());
    assert_eq!(decoded.objects.iter().map(|object| object.document).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(decoded.findings.len(), 1);
    assert!(decoded.findings[0].to_string().starts_with("f.yaml:2: line "), "{}", decoded.findings[0]);
}

#[test]
fn lists_and_foreign_kinds() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
	{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "\ud83d"}}},
	{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}]}"#;
    assert_eq!(decode("f.json", text.as_bytes()).findings.len(), 1);
    let decoded = decode("f.json", text.replace(", \"labels\": {\"x\": \"\\ud83d\"}", "").as_bytes());
    assert_eq!(texts(&decoded), Vec::<String>::new());
    assert_eq!((decoded.objects.len(), decoded.skipped["ConfigMap"]), (1, 1));
    let typed =
        "apiVersion: v1\nkind: NamespaceList\nitems: [{metadata: {name: a}}, {metadata: {name: b}}]\n";
    assert_eq!(good(typed).len(), 2);
    let foreign = decode("f", b"apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy\n");
    assert_eq!((foreign.skipped["NetworkPolicy"], foreign.findings.len()), (1, 0));
}

#[test]
fn json_that_is_not_yaml_obeys_the_same_rules() {
    // Only the first comes past the YAML parser on its own: a surrogate pair.
    let pair = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "annotations": {"x": "\ud83d\ude00"}}}"#;
    assert_eq!(good(pair).len(), 1);
    for text in
        [r#"{"kind": "Pod", "kind": "Node"}"#, r#"{"a": "\ud83d\ude00", "kind": "Pod", "kind": "Node"}"#]
    {
        assert!(bad(text).contains("the field \"kind\" is there twice, expected once"), "{}", bad(text));
    }
}

#[test]
fn a_misspelt_kind_is_not_skipped() {
    for (version, kind, finding) in [
        ("networking/v1", "NetworkPolicy", "apiVersion: is \"networking/v1\", expected networking.k8s.io/v1"),
        ("v1", "NetworkPolicy", "apiVersion: is \"v1\", expected networking.k8s.io/v1 for a NetworkPolicy"),
        ("networking.k8s.io/v1beta1", "NetworkPolicy", "apiVersion: is"),
        ("network.k8s.io/v1", "NetworkPolicy", "apiVersion: is"),
        ("networking.k8s/v1", "NetworkPolicy", "apiVersion: is"),
        ("networking.k8s.io/v1", "networkpolicy", "kind: is \"networkpolicy\", expected NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPolicies", "kind: is \"NetworkPolicies\", expected NetworkPolicy"),
        ("networking.k8s.io/v1", "Networkpolicy", "kind: is \"Networkpolicy\", expected NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPoilcy", "kind: is \"NetworkPoilcy\", expected NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPolicys", "kind: is \"NetworkPolicys\", expected NetworkPolicy"),
        ("networking.k8s.io/v1", "network-policy", "kind: is \"network-policy\", expected NetworkPolicy"),
        ("networking.k8s.io/v1", "NetPol", "kind: is \"NetPol\", expected NetworkPolicy"),
        ("apps/v1beta1", "Deployment", "apiVersion: is \"apps/v1beta1\", expected apps/v1"),
        ("v1", "pod", "kind: is \"pod\", expected Pod"),
    ] {
        let said = bad(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"));
        assert!(said.contains(finding), "{said}");
    }
    for (version, kind) in [
        ("networking.k8s.io/v1", "Ingress"),
        ("networking.k8s.io/v1", "IngressClass"),
        ("networking.k8s.io/v1beta1", "ServiceCIDR"),
        ("networking.k8s.io/v1", "IPAddressList"),
        ("networking.k8s.io/v2", "WhateverComesNext"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("v1", "Service"),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        assert_eq!(good(&text), [], "{kind}");
        assert_eq!(decode("f", text.as_bytes()).skipped.get(kind), Some(&1), "{kind}");
    }
}

#[test]
fn a_finding_is_one_line_whatever_the_manifest_holds() {
    let long = "x".repeat(5000);
    for text in [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\n\\e[31mb\"}\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {\"a\\nb\": c}}\n".to_owned(),
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {long}}}\n"),
    ] {
        let said = bad(&text);
        assert!(!said.contains(char::is_control) && said.len() < 2500, "{said}");
    }
}

#[test]
fn scalars_mean_what_they_mean_to_kubectl() {
    let label =
        |value: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{k: {value}}}}}\n");
    for value in ["yes", "No", "on", "OFF", "y", "true", "1", "0x10", "017", "1e3", "1_000", ".5", "-1"] {
        assert!(bad(&label(value)).contains("put it in quotes"), "{value}");
        if value.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            assert_eq!(one_pod(&label(&format!("'{value}'"))).labels.len(), 1, "{value}");
        }
    }
    for (value, text) in [
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("", ""),
        ("~", ""),
        ("!!str 1", "1"),
        ("yEs", "yEs"),
    ] {
        assert_eq!(one_pod(&label(value)).labels.iter().next().unwrap().1.as_str(), text, "{value}");
    }
    assert!(bad(&label("!!binary YQ==")).contains("the tag \"binary\" is not understood"));
    // `on` as a field's name is the text `true`, as everywhere in YAML 1.1.
    assert!(bad("apiVersion: v1\nkind: Pod\non: 1\ntrue: 2\n").contains("\"true\" is there twice"));
}

#[test]
fn line_ends_marks_and_separators() {
    let namespace =
        |name: &str| format!("apiVersion: v1\r\nkind: Namespace\r\nmetadata: {{name: {name}}}\r\n");
    let text =
        format!("\u{feff}# file\r\n---\r\n{}--- # next\r\n{}...\r\n---\r\n", namespace("a"), namespace("b"));
    assert_eq!(good(&text).len(), 2);
}

#[test]
fn what_a_server_prints_is_taken_without_a_word() {
    for text in [
        include_str!("../../tests/corpus/server-pods.yaml"),
        include_str!("../../tests/corpus/server-nodes.yaml"),
    ] {
        assert!(!good(text).is_empty());
    }
}

#[test]
fn pods() {
    let pod = one_pod(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u1, labels: {app: web}}\nspec:\n  \
         nodeName: n1\n  containers:\n  - name: c\n    image: i\n    ports: [{containerPort: 80, name: http}, \
         {containerPort: 53, protocol: UDP}]\n  initContainers:\n  - {name: once, ports: [{containerPort: 1}]}\n  \
         - {name: side, restartPolicy: Always, ports: [{containerPort: 2}]}\n\
         status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n",
    );
    assert_eq!(pod.name.to_string(), "shop/web");
    assert_eq!(pod.uid.as_ref().map(ToString::to_string).as_deref(), Some("u1"));
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(pod.ports.iter().map(|port| port.number.get()).collect::<Vec<_>>(), [80, 53, 2]);
    assert_eq!(pod.node.as_ref().map(ToString::to_string).as_deref(), Some("n1"));
    let finished = one_pod("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {phase: Failed}\n");
    assert_eq!((finished.phase, finished.labels), (Phase::Finished, Labels::new()));
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    for (rest, finding) in [
        ("status: {podIP: 10.0.0}", "status.podIP: is \"10.0.0\", expected an IPv4 or IPv6 address"),
        (
            "status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}",
            "status.podIPs[1].ip: is 10.0.0.2, the second of its family",
        ),
        (
            "status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.1}]}",
            "status.podIP: is 10.0.0.2, expected 10.0.0.1",
        ),
        ("status: {phase: Done}", "status.phase: is \"Done\""),
        ("spec: {hostNetwork: 'true'}", "spec.hostNetwork: is the text \"true\", expected true or false"),
        (
            "spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}",
            "spec.containers[0].ports[0].containerPort: is the number 0",
        ),
        (
            "spec: {containers: [{name: c, ports: [{protocol: TCP}]}]}",
            "spec.containers[0].ports[0].containerPort: is missing",
        ),
        (
            "spec: {containers: [{name: c, ports: [{containerPort: 1, name: dns}, {containerPort: 2, name: dns, protocol: UDP}]}]}",
            "f.yaml:1: Pod default/a: spec.containers[0].ports[1].name: is \"dns\" again, expected each name once",
        ),
        ("spec: []", "spec: is a list, expected an object"),
    ] {
        let said = bad(&format!("{head}{rest}\n"));
        assert!(said.contains(finding), "{said}");
    }
    let two = "spec: {containers: [{name: c, ports: [{containerPort: 1, name: http}, {containerPort: 3}, {containerPort: 4}]}, \
               {name: d, ports: [{containerPort: 2, name: http}]}]}";
    assert_eq!(one_pod(&format!("{head}{two}\n")).ports.len(), 4);
    let decoded = decode("f", format!("{head}spec: {{hostnetwork: true}}\n").as_bytes());
    assert_eq!(decoded.findings[0].severity, Severity::Warning);
    assert!(decoded.findings[0].message.contains("did you mean hostNetwork?"), "{:?}", decoded.findings);
    assert_eq!(decoded.objects.len(), 1);
}

#[test]
fn workloads_stand_for_pods() {
    let workload = |version: &str, kind: &str, spec: &str| {
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: w, namespace: ns}}\nspec: {{{spec}template: {{metadata: \
             {{labels: {{app: w}}}}, spec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}}}}}\n"
        )
    };
    for (version, kind, spec, names) in [
        ("apps/v1", "Deployment", "", &["ns/w"][..]),
        ("apps/v1", "Deployment", "replicas: 2, ", &["ns/w-0", "ns/w-1"]),
        ("apps/v1", "Deployment", "replicas: 0, ", &[]),
        ("apps/v1", "StatefulSet", "", &["ns/w-0"]),
        ("apps/v1", "DaemonSet", "", &["ns/w"]),
        ("batch/v1", "Job", "parallelism: 2, ", &["ns/w-0", "ns/w-1"]),
    ] {
        let found: Vec<String> = good(&workload(version, kind, spec))
            .iter()
            .map(|value| match value {
                ObjectValue::Pod(pod) => {
                    assert_eq!((pod.labels.len(), pod.ports.len()), (1, 1));
                    pod.name.to_string()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found, names, "{kind} {spec}");
    }
    let server = workload("apps/v1", "Deployment", "").replace("namespace: ns", "namespace: ns, uid: u");
    let decoded = decode("f", server.as_bytes());
    assert_eq!((decoded.objects.len(), decoded.skipped["Deployment"]), (0, 1));
    assert!(
        bad("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {}\n")
            .contains("spec.template: is missing")
    );
}

#[test]
fn merge_keys() {
    let pod = |labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: &a {{x: '1', v: '1'}}\n  labels: {labels}\n"
        )
    };
    for (labels, expected) in [
        ("{<<: *a}", "v=1,x=1"),
        ("{<<: *a, v: '2', z: '2'}", "v=2,x=1,z=2"),
        ("{<<: {x: '3'}, z: '2'}", "x=3,z=2"),
        ("{<<: [{v: '4', w: '4'}, *a], z: '2'}", "v=4,w=4,x=1,z=2"),
        ("{z: '2', <<: {<<: *a, x: '5'}}", "v=1,x=5,z=2"),
        ("{<<: [], z: '2'}", "z=2"),
    ] {
        let found: Vec<String> =
            one_pod(&pod(labels)).labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(found.join(","), expected, "{labels}");
    }
    for (labels, finding) in [
        ("{x: '2', <<: *a}", "line 6: the field \"x\" is before << and in it, expected << first"),
        ("{<<: 1}", "line 6: << is the number 1, expected an object or a list of objects"),
        ("{<<: [[*a]]}", "line 6: << is a list, expected an object or a list of objects"),
        ("{<<: *a, <<: *a}", "line 6: the field \"<<\" is there twice"),
        ("&b {<<: *b}", "line 6: an alias of something that is not complete yet"),
    ] {
        let said = bad(&pod(labels));
        assert!(said.contains(finding), "{said}");
    }
    // What is merged counts as what aliases repeat.
    let mut text = String::from("a0: &a0 {x: [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n");
    for i in 1..30 {
        text.push_str(&format!("a{i}: &a{i} {{<<: *a{}, x{i}: *a{}}}\n", i - 1, i - 1));
    }
    assert!(bad(&text).contains("anchors and aliases repeat too much"));
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{list}]\n"));
    }
    let refused = |text: &str| {
        let said = bad(text);
        assert!(said.contains("line") && said.contains("expected at most 100000 values"), "{said}");
    };
    refused(&text);
    // Few values, but long: texts, and names of fields.
    let (long, aliases) = ("x".repeat(1 << 20), vec!["*a"; 3000].join(", "));
    refused(&format!("a: &a \"{long}\"\nb: [{aliases}]\n"));
    refused(&format!("a: &a {{\"{long}\": 1}}\nb: [{aliases}]\n"));
    refused(&format!("a: &a 1{}\nb: [{aliases}]\n", "0".repeat(1 << 20)));
    // An anchor keeps a copy even if nobody uses it.
    refused(&format!("a: [&a \"{long}\", &b \"{long}\", &c \"{long}\", &d \"{long}\"]\n"));
    // Many documents may not do what one may not.
    let one = format!("a: &a \"{}\"\nb: [{}]\n---\n", "x".repeat(1 << 16), ["*a"; 20].join(", "));
    let decoded = decode("f", one.repeat(10).as_bytes());
    assert!(decoded.findings[9].message.contains("anchors and aliases repeat too much"));
    // Each level nests a little in its text and all of the level before by its alias.
    let mut text = String::from("a0: &a0 [x]\n");
    for i in 1..30 {
        text.push_str(&format!("a{i}: &a{i} {}*a{}{}\n", "[".repeat(90), i - 1, "]".repeat(90)));
    }
    let decoded = decode("f", text.as_bytes());
    assert!(decoded.findings[0].message.contains("deeper than 100 by aliases"), "{:?}", decoded.findings);
    let deep = "[".repeat(5000);
    assert_eq!(decode("f", deep.as_bytes()).findings.len(), 1);
}

#[test]
fn addresses_in_the_order_of_names() {
    let pod = |name: &str, more: &str| {
        format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: ns}}\n{more}")
    };
    let text = [
        pod("c", ""),
        pod("a", ""),
        pod("taken", "status: {podIP: 10.244.0.1}\n"),
        pod("old", "status: {phase: Succeeded}\n"),
        pod("host", "spec: {hostNetwork: true}\n"),
    ]
    .concat();
    let mut cluster = cluster(&text);
    let node = crate::model::NodeName::parse("one").unwrap();
    assign_addresses(&mut cluster, Some(&node));
    let of = |name: &str| {
        let pod = cluster.pods.values().find(|pod| pod.name.name.as_str() == name).unwrap();
        pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), ["10.244.0.2", "fd00:10:244::2"]);
    assert_eq!(of("c"), ["10.244.0.3", "fd00:10:244::3"]);
    assert_eq!(of("taken"), ["10.244.0.1"]);
    assert_eq!(of("old"), [""; 0]);
    assert_eq!(of("host"), [""; 0]);
    assert_eq!(cluster.nodes[&node].addresses, NODE_ADDRESSES);
}

#[test]
fn objects_side_by_side() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ns, labels: {app: a}}\nstatus: {podIP: 10.0.0.1}\n\
        ---\napiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: ns}\nstatus: {podIP: 10.0.0.1}\n---\n"
        .to_owned()
        + &policy("{podSelector: {matchLabels: {app: nobody}}}")
        + "---\n"
        + &policy("{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: http}]}]}").replace("name: p", "name: q");
    let findings: Vec<String> = review(&cluster(&text)).iter().map(ToString::to_string).collect();
    assert_eq!(findings.len(), 4, "{findings:#?}");
    assert!(findings[0].contains("Pod ns/b: status.podIPs: 10.0.0.1 is pod ns/a's too"));
    assert!(findings[1].contains("the namespace ns is not among the documents"));
    assert!(findings[2].contains("NetworkPolicy ns/p: spec.podSelector: selects no live pod"));
    assert!(findings[3].contains("spec.ingress[0].ports[0].port: no selected pod has a port of this name"));
}

/// The only finding about this text, which is a warning.
fn warned(text: &str) -> String {
    let decoded = decode("f.yaml", text.as_bytes());
    let texts = texts(&decoded);
    assert_eq!((texts.len(), decoded.objects.len()), (1, 1), "{texts:#?}");
    assert_eq!(decoded.findings[0].severity, Severity::Warning);
    texts[0].clone()
}

#[test]
fn addresses_and_networks_that_no_packet_has() {
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: ";
    for (address, what) in [
        ("127.0.0.1", "a loopback address"),
        ("::1", "a loopback address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("0.0.0.0", "no address of anybody"),
        ("::", "no address of anybody"),
        ("::ffff:10.0.0.1", "an IPv4 address written as IPv6"),
    ] {
        let expected = format!("is {address}, {what}, expected one that a pod sends from");
        let said = warned(&format!("{head}{{podIP: '{address}'}}\n"));
        assert_eq!(said, format!("f.yaml:1: Pod default/a: status.podIP: {expected}"));
        let said = warned(&format!("{head}{{podIP: '{address}', podIPs: [{{ip: '{address}'}}]}}\n"));
        assert_eq!(said, format!("f.yaml:1: Pod default/a: status.podIPs[0].ip: {expected}"));
    }
    let block = |block: &str| policy(&format!("{{ingress: [{{from: [{{ipBlock: {block}}}]}}]}}"));
    assert_eq!(
        warned(&block("{cidr: '::ffff:10.0.0.0/104'}")),
        "f.yaml:1: NetworkPolicy ns/p: spec.ingress[0].from[0].ipBlock.cidr: is \"::ffff:10.0.0.0/104\", IPv4 written \
         as IPv6, and matches nothing, expected 10.0.0.0/8"
    );
    assert!(warned(&block("{cidr: '::/0', except: ['::ffff:0.0.0.0/96']}")).contains("except[0]: is"));
    for fine in ["{cidr: '::ffff:0:0/95'}", "{cidr: '::/0'}", "{cidr: '::fffe:10.0.0.0/104'}"] {
        assert_eq!(good(&block(fine)).len(), 1, "{fine}");
    }
}

#[test]
fn a_pod_with_an_address_of_a_node() {
    let text = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns}}\n---\napiVersion: v1\nkind: Node\n\
             metadata: {{name: one}}\nstatus: {{addresses: [{{type: InternalIP, address: 10.0.0.1}}]}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: ns}}\n{spec}status: {{podIP: 10.0.0.1}}\n"
        )
    };
    let findings = review(&cluster(&text("")));
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].severity, Severity::Warning);
    assert_eq!(
        findings[0].to_string(),
        ":0: Pod ns/a: status.podIPs: 10.0.0.1 is node one's too, expected an address of its own, or hostNetwork"
    );
    assert_eq!(review(&cluster(&text("spec: {hostNetwork: true}\n"))), []);
}

#[test]
fn the_example_is_valid_and_says_nothing_suspicious() {
    let mut all = String::new();
    for text in
        [include_str!("../../examples/shop/pods.yaml"), include_str!("../../examples/shop/policies.yaml")]
    {
        all.push_str("---\n");
        all.push_str(text);
    }
    let cluster = cluster(&all);
    assert_eq!((cluster.namespaces.len(), cluster.pods.len(), cluster.policies.len()), (3, 6, 12));
    assert_eq!(review(&cluster), []);
}

#[test]
fn what_is_found_beyond_a_thousand_is_one_finding() {
    let warnings = "- {apiVersion: v1, kind: Namespace, metadata: {name: a, b: c}}\n".repeat(2000);
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{warnings}");
    let decoded = decode("f", text.as_bytes());
    assert_eq!(decoded.findings.len(), 1001);
    assert!(decoded.findings.iter().all(|finding| finding.severity == Severity::Warning), "{decoded:?}");
    // An error behind them all still spoils the file.
    let decoded = decode("f", format!("{text}- {{apiVersion: v1, kind: Namespace}}\n").as_bytes());
    assert_eq!(decoded.findings.len(), 1001);
    assert_eq!(decoded.findings[1000].severity, Severity::Error);
}

/// JSON values without numbers that are no integers: those are the same number, written otherwise.
fn any_json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
    use proptest::prelude::*;
    let text = "[a-zA-Z0-9 _.~/\"\\\\:{}#&*!|>%@`'\n\té€<-]{0,8}";
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        text.prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(text, inner, 0..5)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    /// What begins like JSON is read as such, what begins otherwise as YAML, of which it is a part.
    #[test]
    fn json_is_the_same_either_way(value in any_json(), pretty in proptest::prelude::any::<bool>()) {
        let value = serde_json::json!({ "value": value });
        let text = if pretty { format!("{value:#}") } else { value.to_string() };
        let all = |text: &str| yaml::documents(text).collect::<Vec<_>>();
        let json = all(&text);
        proptest::prop_assert!(json.len() == 1 && json[0].1.is_ok(), "{json:?}");
        let yaml = all(&format!("# not JSON\n{text}"));
        // A field of that name means something else there.
        if !text.contains("<<") {
            proptest::prop_assert_eq!(json, yaml);
        }
    }
}

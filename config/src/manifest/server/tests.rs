//! What servers send, and what newer ones may.

use super::*;
use crate::model::{NetworkPolicy, Pod};

fn list(items: &str) -> String {
    format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"7"}},"items":[{items}]}}"#)
}

fn one(kind: ServerKind, item: &str) -> Served {
    let page = page(kind, list(item).as_bytes()).unwrap();
    assert_eq!(page.objects.len(), 1);
    page.objects.into_iter().next().unwrap()
}

fn errors(served: &Served) -> Vec<String> {
    served.findings.iter().map(|finding| format!("{}: {}", finding.field, finding.message)).collect()
}

fn policy(spec: &str) -> (NetworkPolicy, Vec<String>) {
    let item = format!(r#"{{"metadata":{{"name":"p","namespace":"shop","uid":"u"}},"spec":{spec}}}"#);
    let served = one(ServerKind::NetworkPolicy, &item);
    let errors = errors(&served);
    assert_eq!(served.instead.is_none(), errors.is_empty(), "{errors:?}");
    match served.value {
        Some(ObjectValue::NetworkPolicy(policy)) => (policy.as_ref().clone(), errors),
        other => panic!("{other:?}"),
    }
}

fn pod(item: &str) -> Option<Pod> {
    match one(ServerKind::Pod, item).value {
        Some(ObjectValue::Pod(pod)) => Some(*pod),
        _ => None,
    }
}

const WEB: &str = r#"{
  "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "resourceVersion": "5", "futureField": {"x": 1},
    "labels": {"app": "web", "": "no, this is in annotations"},
    "managedFields": [{"manager": "kubelet"}], "annotations": {"a": "b"}},
  "spec": {"nodeName": "node-1", "newField": [1, 2], "volumes": [{"name": "v"}],
    "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": 1}},
      "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP", "newer": true}]}],
    "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 9000}]}]},
  "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1", "more": 1}, {"ip": "fd00::1"}],
    "conditions": [{"type": "Ready"}]}}"#;

#[test]
fn what_counts_of_a_pod_is_taken_and_the_rest_passed_over() {
    let text = WEB.replace(r#", "": "no, this is in annotations""#, "");
    let served = one(ServerKind::Pod, &text);
    assert!(served.findings.is_empty(), "{:?}", served.findings);
    assert_eq!(
        (served.namespace.as_str(), served.name.as_str(), served.uid.as_str()),
        ("shop", "web-0", "u1")
    );
    assert_eq!(served.resource_version, "5");
    let pod = pod(&text).unwrap();
    assert_eq!(pod.uid.as_ref().map(|uid| uid.as_str()), Some("u1"));
    assert_eq!((pod.labels.len(), pod.addresses.len(), pod.ports.len()), (1, 2, 2));
    assert_eq!(pod.node.as_ref().map(|node| node.as_str()), Some("node-1"));
}

#[test]
fn what_is_no_pod_counts_as_not_there_and_is_told() {
    let served = one(ServerKind::Pod, WEB);
    assert_eq!(served.value, None);
    assert!(errors(&served)[0].starts_with("metadata.labels."), "{:?}", errors(&served));
    assert_eq!(served.findings[0].to_string().split(": ").nth(1), Some("Pod shop/web-0"));
    for (from, to) in [("Running", "Sleeping"), ("fd00::1", "10.0.0.2"), (r#""10.0.0.1", "more": 1"#, r#"7"#)]
    {
        assert_eq!(
            pod(&WEB.replace(r#", "": "no, this is in annotations""#, "").replace(from, to)),
            None,
            "{to}"
        );
    }
    // The others of its page are.
    let page =
        page(ServerKind::Pod, list(&format!(r#"7, {{"metadata": {{"name": "b"}}}}, {WEB}"#)).as_bytes());
    let there: Vec<bool> = page.unwrap().objects.iter().map(|served| served.value.is_some()).collect();
    assert_eq!(there, [false, true, false]);
}

#[test]
fn namespaces_and_nodes() {
    let item =
        r#"{"metadata": {"name": "shop", "labels": {"a": "b"}}, "spec": {"finalizers": ["kubernetes"]}}"#;
    let Some(ObjectValue::Namespace(namespace)) = one(ServerKind::Namespace, item).value else { panic!() };
    assert_eq!(namespace.labels().len(), 2);
    let item = r#"{"metadata": {"name": "n"}, "status": {"images": [{"names": ["x"]}],
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}]}}"#;
    let Some(ObjectValue::Node(node)) = one(ServerKind::Node, item).value else { panic!() };
    assert_eq!(node.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_policy_that_is_understood_is_that_of_a_manifest() {
    let spec = r#"{"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}], "egress": [{}]}"#;
    let (served, errors) = policy(spec);
    assert_eq!(errors, [""; 0]);
    let manifest = format!(
        r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {{"name": "p", "namespace": "shop"}}, "spec": {spec}}}"#
    );
    let decoded = crate::manifest::decode("f", manifest.as_bytes());
    assert_eq!(decoded.objects[0].value, ObjectValue::NetworkPolicy(served.into()));
}

#[test]
fn a_rule_that_is_not_understood_allows_nothing_and_the_others_stay() {
    let good = r#"{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}]}"#;
    let (alone, _) = policy(&format!(r#"{{"ingress": [{good}]}}"#));
    for bad in [
        r#"{"from": [{"fqdn": "example.com"}]}"#,
        r#"{"from": [{"podSelector": {}}], "unless": []}"#,
        r#"{"from": [{"podSelector": {}, "newer": 1}]}"#,
        r#"{"ports": [{"port": 80, "window": "night"}]}"#,
        r#"{"ports": [{"protocol": "QUIC"}]}"#,
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}"#,
        r#"{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}}]}"#,
        r#"{"from": [{"podSelector": {"matchLabels": {"not a key": "b"}}}]}"#,
        r#"7"#,
    ] {
        // Before it and after it: what is wrong with one rule must not widen another.
        let (policy, errors) = policy(&format!(r#"{{"ingress": [{bad}, {good}, {bad}]}}"#));
        assert!(!errors.is_empty(), "{bad}");
        assert_eq!(policy, alone, "{bad}");
    }
}

#[test]
fn what_is_not_understood_around_the_rules_closes_the_namespace() {
    let rules = r#""ingress": [{}], "egress": [{}]"#;
    let selector = r#""podSelector": {"matchLabels": {"a": "b"}}"#;
    for spec in [
        format!(r#"{{{selector}, {rules}, "policyTypes": ["Ingress"], "action": "Deny"}}"#),
        format!(r#"{{{selector}, {rules}, "policyTypes": ["Ingress", "Forward"]}}"#),
        format!(r#"{{{selector}, {rules}, "policyTypes": "Ingress"}}"#),
        format!(r#"{{{selector}, "ingress": {{}}, "policyTypes": ["Ingress"]}}"#),
        format!(r#"{{"podSelector": {{"matchLabels": {{"a": "b"}}, "matchNames": ["x"]}}, {rules}}}"#),
        format!(r#"{{"podSelector": {{"matchLabels": {{"a": 7}}}}, {rules}}}"#),
        "7".to_owned(),
    ] {
        let (policy, errors) = policy(&spec);
        assert_eq!(errors.len(), 1, "{spec}: {errors:?}");
        assert_eq!(policy.pods, crate::model::Selector::everything(), "{spec}");
        assert_eq!((policy.ingress, policy.egress), (Some(vec![]), Some(vec![])), "{spec}");
    }
}

#[test]
fn pages() {
    let text = r#"{"metadata": {"resourceVersion": "9", "continue": "abc", "remainingItemCount": 3}, "items": null}"#;
    let read = page(ServerKind::Pod, text.as_bytes()).unwrap();
    assert_eq!(
        (read.resource_version.as_str(), read.next.as_deref(), read.objects.len()),
        ("9", Some("abc"), 0)
    );
    assert_eq!(page(ServerKind::Pod, list("").as_bytes()).unwrap().next, None);
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"metadata": {}}"#,
        r#"{"metadata": {"resourceVersion": "1"}, "items": 7}"#,
        "<html>",
    ] {
        assert!(page(ServerKind::Pod, bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn events() {
    let read = |text: &str| event(ServerKind::Pod, text.as_bytes());
    let line = |kind: &str| format!(r#"{{"type":"{kind}","object":{}}}"#, WEB.replace("\n", ""));
    assert!(matches!(read(&line("ADDED")), Ok(ServerEvent::Applied(served)) if served.name == "web-0"));
    assert!(matches!(read(&line("MODIFIED")), Ok(ServerEvent::Applied(_))));
    assert!(matches!(read(&line("DELETED")), Ok(ServerEvent::Deleted(served)) if served.uid == "u1"));
    let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"12"}}}"#;
    assert_eq!(read(bookmark), Ok(ServerEvent::Bookmark("12".to_owned())));
    let gone =
        r#"{"type":"ERROR","object":{"kind":"Status","message":"too old","reason":"Expired","code":410}}"#;
    assert_eq!(read(gone), Ok(ServerEvent::Failed { code: 410, message: "too old".to_owned() }));
    for bad in [
        line("RENAMED"),
        line("ADDED").replace(r#""resourceVersion": "5","#, ""),
        r#"{"type":"BOOKMARK","object":{"metadata":{}}}"#.to_owned(),
        r#"{"object":{}}"#.to_owned(),
        r#"{"type":"ADDED""#.to_owned(),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
}

#[test]
fn what_counts_instead_is_said() {
    let instead = |kind, item: &str| one(kind, item).instead;
    let policy = |spec: &str| {
        let item = format!(r#"{{"metadata":{{"name":"p","namespace":"shop"}},"spec":{spec}}}"#);
        instead(ServerKind::NetworkPolicy, &item)
    };
    assert_eq!(policy(r#"{"podSelector": {}, "ingress": [{}]}"#), None);
    assert_eq!(policy(r#"{"ingress": [{}, {"from": [{"fqdn": "a"}]}]}"#), Some(Instead::OtherRules));
    assert_eq!(policy(r#"{"action": "Deny", "ingress": [{}]}"#), Some(Instead::Isolation));
    // Whatever else there is: the worst counts.
    let both = r#"{"action": "Deny", "ingress": [{"from": [{"fqdn": "a"}]}]}"#;
    assert_eq!(policy(both), Some(Instead::Isolation));
    assert_eq!(instead(ServerKind::Pod, WEB), Some(Instead::Absence));
    // A warning is no reason.
    let odd = r#"{"metadata": {"name": "a"}, "status": {"podIP": "127.0.0.1"}}"#;
    let served = one(ServerKind::Pod, odd);
    assert_eq!((served.instead, served.findings.len()), (None, 1));
}

//! Conformance cases, step after step, in one running gateway that follows an API server: what a person would do with `kubectl`
//! is done by requests, and after each step every probe is asked over the gateway's socket.
//!
//! `e2e_steps.rs` asks the same of a gateway that follows files. Here objects come one by one, by four watches that know nothing
//! of each other, and with names and addresses that others had before: the steps of a group change one cluster, and between
//! groups everything is deleted. Nothing is listed twice, so what is known at the end has all come by events. When a step
//! is in force is known by the versions in the gateway's status.
//!
//! `PODGATE_CASES=<text>` takes the cases whose id has the text.

#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use podgate_tests::api_node::{ApiNode, path};
use podgate_tests::conformance::{Case, CasePod, outside_cases, own_cases};
use podgate_tests::netns::skipped;
use serde_json::{Value, json};

/// Kind, namespace and name.
type Key = (&'static str, String, String);

/// In the order in which they are made; they are deleted in the other.
const KINDS: [&str; 3] = ["Namespace", "Pod", "NetworkPolicy"];

/// A gateway and what the server has.
struct Followed {
    node: ApiNode,
    objects: BTreeMap<Key, Value>,
    turn: usize,
}

impl Followed {
    fn start() -> Self {
        // Long enough that no watch is looked after: everything is to come by events.
        let node = ApiNode::start(&["kubernetes_watch=260", "kubernetes_relist=86400"]);
        Self { node, objects: BTreeMap::new(), turn: 0 }
    }

    /// Makes the server's objects those of a case, and waits until that is in force.
    fn become_case(&mut self, case: &Case) {
        self.node.gateway.serve(&ports(case));
        self.become_objects(&objects(case));
        self.node.settle(&case.id);
    }

    fn become_objects(&mut self, wanted: &BTreeMap<Key, Value>) {
        for kind in KINDS.iter().rev() {
            let gone = self.objects.keys().filter(|key| key.0 == *kind && !wanted.contains_key(*key));
            for key in gone.cloned().collect::<Vec<Key>>() {
                self.delete(&key);
            }
        }
        for kind in KINDS {
            for (key, object) in wanted.iter().filter(|(key, _)| key.0 == kind) {
                match self.objects.get(key).cloned() {
                    Some(known) if known == *object => {}
                    Some(known) => self.change(key, &known, object),
                    None => self.create(key, object),
                }
                self.objects.insert(key.clone(), object.clone());
            }
        }
    }

    fn create(&mut self, (kind, namespace, name): &Key, object: &Value) {
        match *kind {
            "Pod" => drop(self.node.add_pod(object)),
            // Every server has it from the start.
            "Namespace" if name == "default" => drop(self.node.put(&path(kind, "", name), object)),
            _ => drop(self.node.post(&path(kind, namespace, ""), object)),
        }
    }

    fn delete(&mut self, key: &Key) {
        let (kind, namespace, name) = key;
        if *kind == "Namespace" && name == "default" {
            self.node.put(&path(kind, "", name), &namespace_object(name, &json!({})));
        } else {
            self.node.delete(&path(kind, namespace, name));
        }
        self.objects.remove(key);
    }

    /// Changes an object by one of the ways by which people do, in turn.
    fn change(&mut self, key: &Key, known: &Value, object: &Value) {
        let (kind, namespace, name) = key;
        let path = path(kind, namespace, name);
        self.turn += 1;
        if *kind == "Pod" && known["spec"] != object["spec"] {
            self.delete(key);
            return self.create(key, object);
        }
        if *kind == "Pod" && known["status"] != object["status"] {
            self.node.put(&format!("{path}/status"), object);
        }
        let changed = |part: &str| known[part] != object[part];
        match self.turn % 3 {
            0 if changed("spec") => {
                self.delete(key);
                self.create(key, object);
            }
            1 => {
                let mut operations = Vec::new();
                for (part, place) in
                    [(&object["spec"], "/spec"), (&object["metadata"]["labels"], "/metadata/labels")]
                {
                    if *kind != "Pod" && *kind != "Namespace" || place != "/spec" {
                        let part = if part.is_null() { json!({}) } else { part.clone() };
                        operations.push(json!({ "op": "add", "path": place, "value": part }));
                    }
                }
                self.node.patch("json-patch", &path, &operations.into());
            }
            _ => drop(self.node.put(&path, object)),
        }
    }
}

fn namespace_object(name: &str, labels: &Value) -> Value {
    json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": name, "labels": labels } })
}

/// The case's objects. A namespace that it only mentions is one without labels: no server has a pod without its namespace.
fn objects(case: &Case) -> BTreeMap<Key, Value> {
    let mut objects = BTreeMap::new();
    for object in case.files().into_values().flatten() {
        let text = |field: &str| object["metadata"][field].as_str().map(ToOwned::to_owned);
        let kind = KINDS.into_iter().find(|kind| object["kind"] == *kind).expect("a kind");
        let namespace = match kind {
            "Namespace" => String::new(),
            _ => text("namespace").unwrap_or_else(|| "default".to_owned()),
        };
        if kind != "Namespace" {
            let key = ("Namespace", String::new(), namespace.clone());
            let labels = case.namespaces.get(&namespace).map_or_else(|| json!({}), |labels| json!(labels));
            objects.entry(key).or_insert_with(|| namespace_object(&namespace, &labels));
        }
        objects.insert((kind, namespace, text("name").expect("a name")), object);
    }
    objects
}

/// Pods with a network of their own and the addresses of their ports.
fn ports(case: &Case) -> BTreeMap<String, Vec<IpAddr>> {
    let living = case.current_pods().into_iter().filter(|pod| !pod.host_network && !is_over(pod));
    let ports = living.map(|pod| (format!("{}/{}", pod.ns, pod.name), pod.addresses()));
    ports.filter(|(_, addresses)| !addresses.is_empty()).collect()
}

fn is_over(pod: &CasePod) -> bool {
    matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Whether a gateway of one node can have its pods.
fn fits(case: &Case) -> bool {
    let wanted = std::env::var("PODGATE_CASES").unwrap_or_default();
    case.nodes.is_empty() && !case.is_of_cluster_network_policy() && case.id.contains(&wanted)
}

/// The cases, those of a group one after the other; each list begins with nothing.
fn histories(cases: Vec<Case>) -> Vec<Vec<Case>> {
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in cases {
        groups.entry(case.group.clone().unwrap_or_else(|| case.id.clone())).or_default().push(case);
    }
    let mut histories: Vec<Vec<Case>> = groups.into_values().collect();
    for steps in &mut histories {
        steps.sort_by_key(|case| case.step);
    }
    histories
}

/// One process that becomes all cases.
fn replay(cases: Vec<Case>) {
    let mut followed = Followed::start();
    let (mut probes, mut steps, mut wrong) = (0, 0, Vec::new());
    for cases in histories(cases) {
        for case in &cases {
            followed.become_case(case);
            wrong.extend(case.disagreements(&followed.node.gateway.explain(&case.probe_lines())));
            probes += case.probes.len();
            steps += 1;
        }
        followed.become_objects(&BTreeMap::new());
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));

    followed.node.gateway.serve(&BTreeMap::new());
    followed.node.settle("nothing");
    let status = followed.node.gateway.status();
    assert_eq!((status.policy.pods, status.policy.policies), (0, 0), "all were deleted");
    for kind in followed.node.source().kinds {
        assert_eq!((kind.lists, kind.failures), (1, 0), "everything came by events: {kind:?}");
    }
    eprintln!(
        "{probes} probes agree in {steps} steps and {} changes of the server",
        followed.node.server.version()
    );
}

#[test]
fn own_cases_agree_one_after_the_other() {
    if skipped() {
        return;
    }
    replay(own_cases().into_iter().filter(fits).collect());
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
    replay(cases);
}

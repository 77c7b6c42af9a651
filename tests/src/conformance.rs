//! Conformance cases: clusters with probes whose answers a published suite, or the API's own text, states.
//!
//! One JSON object a line. A case becomes ordinary manifests and the probes become lines of `explain --probes`, so
//! nothing but the real way in is used. The project's own cases stand in `tests/cases`; a folder of more in the same
//! form is taken from `PODGATE_CONFORMANCE_DIR`.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use podgate_config::model::{Cluster, ObjectName};
use podgate_control::explain::IpProtocol;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::Said;
use crate::oracle::{Connection, End, Oracle, Party};

/// A cluster and what is asked about it.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Unique.
    pub id: String,
    /// The cases of a group follow one another as changes of one cluster.
    #[serde(default)]
    pub group: Option<String>,
    /// Its place in the group.
    #[serde(default)]
    pub step: Option<u32>,
    /// Where the expectations come from.
    #[serde(default)]
    pub source: String,
    /// Labels by namespace.
    #[serde(default)]
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Nodes.
    #[serde(default)]
    pub nodes: Vec<CaseNode>,
    /// Pods; of two with one name the later counts.
    #[serde(default)]
    pub pods: Vec<CasePod>,
    /// Manifests.
    #[serde(default)]
    pub policies: Vec<Value>,
    /// Questions and answers.
    pub probes: Vec<CaseProbe>,
}

/// A node.
#[derive(Debug, Clone, Deserialize)]
pub struct CaseNode {
    /// Name.
    pub name: String,
    /// InternalIP addresses.
    pub ips: Vec<IpAddr>,
}

/// A pod.
#[derive(Debug, Clone, Deserialize)]
pub struct CasePod {
    /// Namespace.
    pub ns: String,
    /// Name.
    pub name: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// First address.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// All addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// spec.nodeName.
    #[serde(default)]
    pub node: Option<String>,
    /// status.phase.
    #[serde(default)]
    pub phase: Option<String>,
    /// spec.hostNetwork.
    #[serde(default, rename = "hostNetwork")]
    pub host_network: bool,
    /// Container ports.
    #[serde(default)]
    pub ports: Vec<CasePort>,
}

/// A container port.
#[derive(Debug, Clone, Deserialize)]
pub struct CasePort {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Number.
    pub port: u16,
    /// TCP unless it says otherwise.
    #[serde(default)]
    pub protocol: Option<String>,
}

/// An end of a probe: a pod, an address, or that address of the pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseEnd {
    /// `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

/// The answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The connection may be opened.
    Allow,
    /// It may not.
    Deny,
    /// There is no such connection: an end has no address.
    Error,
}

/// What a line of `explain --probes` says; `None` if it is neither verdict nor error.
fn verdict(line: &str) -> Option<Expect> {
    let answer: Value = serde_json::from_str(line).expect("an answer is JSON");
    match (answer["verdict"].as_str(), answer["error"].as_str()) {
        (Some("allow"), None) => Some(Expect::Allow),
        (Some("deny"), None) => Some(Expect::Deny),
        (None, Some(_)) => Some(Expect::Error),
        _ => None,
    }
}

/// One question with its answer.
#[derive(Debug, Clone, Deserialize)]
pub struct CaseProbe {
    /// Who opens the connection.
    pub from: CaseEnd,
    /// To whom.
    pub to: CaseEnd,
    /// Destination port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Name or number.
    pub protocol: Value,
    /// The answer.
    pub expect: Expect,
}

/// The cases of all `*.jsonl` files of a folder, by file name.
///
/// # Panics
/// If the folder cannot be read or a line is no case.
#[must_use]
pub fn read_folder(folder: &Path) -> Vec<Case> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("folder entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let case = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}:{}: {error}", file.display(), number + 1));
            cases.push(case);
        }
    }
    cases
}

/// The project's own cases.
#[must_use]
pub fn own_cases() -> Vec<Case> {
    read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"))
}

/// The cases of `PODGATE_CONFORMANCE_DIR`, if it is set.
#[must_use]
pub fn outside_cases() -> Vec<Case> {
    std::env::var_os("PODGATE_CONFORMANCE_DIR")
        .map(|folder| read_folder(Path::new(&folder)))
        .unwrap_or_default()
}

impl Case {
    /// Whether it is about ClusterNetworkPolicy, which is not served.
    #[must_use]
    pub fn is_of_cluster_network_policy(&self) -> bool {
        self.suite() == "cnp"
    }

    /// The first part of its id: the suite that it comes from.
    #[must_use]
    pub fn suite(&self) -> &str {
        self.id.split('/').next().unwrap_or_default()
    }

    /// The pods that count.
    #[must_use]
    pub fn current_pods(&self) -> Vec<&CasePod> {
        let mut pods: BTreeMap<(&str, &str), &CasePod> = BTreeMap::new();
        for pod in &self.pods {
            pods.insert((&pod.ns, &pod.name), pod);
        }
        pods.into_values().collect()
    }

    /// The case as manifests: one `kind: List` in JSON.
    #[must_use]
    pub fn manifests(&self) -> String {
        list(&self.files().into_values().flatten().collect::<Vec<Value>>())
    }

    /// The case's objects in several files, as somebody would keep them: the cluster, the pods of each namespace, and
    /// each policy. By name, without an ending.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<Value>> {
        let mut files: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let cluster = files.entry("cluster".to_owned()).or_default();
        for (name, labels) in &self.namespaces {
            cluster.push(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
            }));
        }
        for node in &self.nodes {
            let addresses: Vec<Value> =
                node.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
            cluster.push(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name},
                "status": {"addresses": addresses},
            }));
        }
        for pod in self.current_pods() {
            files.entry(format!("pods-{}", pod.ns)).or_default().push(pod.manifest());
        }
        for (number, policy) in self.policies.iter().enumerate() {
            files.insert(format!("policy-{number}"), vec![policy.clone()]);
        }
        files
    }

    /// What is wrong with what `explain --probes` said to them; empty if nothing is.
    ///
    /// # Panics
    /// If an answer is not JSON.
    #[must_use]
    pub fn disagreements(&self, said: &Said) -> Vec<String> {
        let errors = self.probes.iter().any(|probe| probe.expect == Expect::Error);
        if said.code != Some(if errors { 2 } else { 0 }) {
            return vec![format!("{}: exit code {:?}: {}", self.id, said.code, said.err)];
        }
        let lines: Vec<&str> = said.out.lines().collect();
        if lines.len() != self.probes.len() {
            return vec![format!("{}: {} answers to {} probes", self.id, lines.len(), self.probes.len())];
        }
        let answers = self.probes.iter().zip(lines);
        let wrong = answers.filter(|(probe, line)| verdict(line) != Some(probe.expect));
        wrong
            .map(|(probe, line)| {
                format!("{}: expected {:?} ({}): {line}", self.id, probe.expect, self.source)
            })
            .collect()
    }

    /// The probes as `explain --probes` reads them.
    #[must_use]
    pub fn probe_lines(&self) -> String {
        let lines = self.probes.iter().map(|probe| {
            let mut line = json!({"from": probe.from, "to": probe.to, "protocol": probe.protocol});
            if let (Some(port), Some(line)) = (probe.port, line.as_object_mut()) {
                line.insert("port".to_owned(), port.into());
            }
            line.to_string() + "\n"
        });
        lines.collect()
    }
}

/// Manifests as one `kind: List` in JSON.
#[must_use]
pub fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

impl CasePod {
    /// Its addresses, the first one first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.ip.into_iter().collect();
        addresses.extend(self.ips.iter().filter(|&ip| Some(*ip) != self.ip));
        addresses
    }

    fn manifest(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let mut value = json!({"containerPort": port.port});
                if let Some(value) = value.as_object_mut() {
                    value.extend(port.name.as_ref().map(|name| ("name".to_owned(), name.as_str().into())));
                    value.extend(
                        port.protocol.as_ref().map(|name| ("protocol".to_owned(), name.as_str().into())),
                    );
                }
                value
            })
            .collect();
        // Each port in a container of its own, beside one without: within one, the API server refuses a name that comes
        // twice, and cases ask for a name under two protocols.
        let image = "registry.k8s.io/pause:3.10";
        let mut containers = vec![json!({"name": "c", "image": image})];
        for (i, port) in ports.into_iter().enumerate() {
            containers.push(json!({"name": format!("c{i}"), "image": image, "ports": [port]}));
        }
        let mut spec = json!({"containers": containers});
        if let Some(spec) = spec.as_object_mut() {
            spec.extend(self.node.as_ref().map(|node| ("nodeName".to_owned(), node.as_str().into())));
            if self.host_network {
                spec.insert("hostNetwork".to_owned(), true.into());
            }
        }
        let addresses = self.addresses();
        let mut status = json!({"phase": self.phase.as_deref().unwrap_or("Running")});
        if let (Some(status), Some(first)) = (status.as_object_mut(), addresses.first()) {
            status.insert("podIP".to_owned(), first.to_string().into());
            let all: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            status.insert("podIPs".to_owned(), all.into());
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": self.ns, "name": self.name, "labels": self.labels},
            "spec": spec, "status": status,
        })
    }
}

/// What the oracle says to a probe.
#[must_use]
pub fn by_the_oracle(cluster: &Cluster, probe: &CaseProbe) -> Expect {
    let oracle = Oracle::new(cluster);
    let ends = |end: &CaseEnd| -> Option<Vec<End<'_>>> {
        let Some(name) = &end.pod else {
            let address = end.ip?;
            return Some(vec![End { party: oracle.party_at(address), address }]);
        };
        let (namespace, name) = name.split_once('/')?;
        let pod = cluster.pods.get(&ObjectName::parse(namespace, name).ok()?)?;
        let party: Party<'_> = oracle.party_of(&pod.name)?;
        let addresses = pod.addresses.iter().filter(|&address| end.ip.is_none_or(|ip| ip == *address));
        Some(addresses.map(|&address| End { party, address }).collect())
    };
    let protocol = match &probe.protocol {
        Value::String(name) => IpProtocol::parse(name).ok().map(|protocol| protocol.0),
        number => number.as_u64().and_then(|number| u8::try_from(number).ok()),
    };
    let (Some(from), Some(to), Some(protocol)) = (ends(&probe.from), ends(&probe.to), protocol) else {
        return Expect::Error;
    };
    // "Its first address of a family both ends have."
    let pair = from.iter().find_map(|&source| {
        let destination = to.iter().find(|to| to.address.is_ipv4() == source.address.is_ipv4())?;
        Some((source, *destination))
    });
    let Some((source, destination)) = pair else { return Expect::Error };
    let connection = Connection { source, destination, protocol, port: probe.port.unwrap_or(0) };
    if oracle.judge(&connection).allows() { Expect::Allow } else { Expect::Deny }
}

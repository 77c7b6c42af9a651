//! What a lab should consist of, made from the documents alone: no system call, no side effect.
//!
//! The supervisor compares a plan with what there is and changes the difference. So everything that must not
//! depend on order or history is decided here, by sorted names; only addresses that the lab assigned itself are
//! remembered from the plan before, because running pods keep them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use podgate_config::manifest::{self, NODE_ADDRESSES};
use podgate_config::model::name::is_dns_label;
use podgate_config::model::{Cluster, NodeName, ObjectName, Phase, Pod, Protocol};
use serde::{Deserialize, Serialize};

/// The namespace that the gateway runs in: the node's own network.
pub const NODE_NAMESPACE: &str = "podgate-node";
/// Names of externals' namespaces begin so.
pub const EXTERNAL_PREFIX: &str = "ext-";
/// The gateway's IPv4 address in every pod.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway's IPv6 address in every pod, and the node's on the wire to every external.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// First line of every hosts file of a lab; files without it are not ours.
pub const HOSTS_MARK: &str = "# written by podgate lab";

/// Why documents or options make no lab.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// `--external` is not understood.
    #[error(
        "--external {value}: {problem}, expected NAME=IPv4[,IPv6], for example internet=198.51.100.7,2001:db8::7"
    )]
    External {
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Several nodes, none chosen.
    #[error("the documents know the nodes {}; say with --node whose pods shall live in the lab", .0.join(", "))]
    WhichNode(Vec<String>),
    /// A node that nothing speaks of.
    #[error("--node {0}: no such node in the documents, which know {known}", known = if .1.is_empty() { "none".to_owned() } else { .1.join(", ") })]
    UnknownNode(String, Vec<String>),
}

/// A host outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Its name without `ext-`.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub v6: Option<Ipv6Addr>,
}

impl External {
    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("{EXTERNAL_PREFIX}{}", self.name)
    }

    /// The node's end of its wire: an uplink port.
    #[must_use]
    pub fn interface(&self) -> String {
        format!("up-{}", self.name)
    }

    /// All its addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.v4.into()).chain(self.v6.map(IpAddr::from)).collect()
    }
}

impl FromStr for External {
    type Err = PlanError;

    fn from_str(value: &str) -> Result<Self, PlanError> {
        let fail = |problem: String| PlanError::External { value: value.to_owned(), problem };
        let (name, addresses) = value.split_once('=').ok_or_else(|| fail("no '='".to_owned()))?;
        // The node's end is named up-NAME, and interface names end at 15 bytes.
        if !is_dns_label(name) || name.len() > 12 {
            return Err(fail(format!("{name:?} is not a DNS label of at most 12 characters")));
        }
        let (v4, v6) = match addresses.split_once(',') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (addresses, None),
        };
        let v4 = v4.parse().map_err(|_| fail(format!("{v4:?} is not an IPv4 address")))?;
        let v6 = match v6 {
            Some(v6) => Some(v6.parse().map_err(|_| fail(format!("{v6:?} is not an IPv6 address")))?),
            None => None,
        };
        Ok(Self { name: name.to_owned(), v4, v6 })
    }
}

/// A port on which a pod answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AnswerPort {
    /// TCP.
    Tcp(u16),
    /// UDP.
    Udp(u16),
}

impl fmt::Display for AnswerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(number) => write!(f, "{number}/TCP"),
            Self::Udp(number) => write!(f, "{number}/UDP"),
        }
    }
}

/// A pod that lives in the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabPod {
    /// `namespace/name`.
    pub name: String,
    /// `metadata.uid`, if it has one: a pod that is made again under its name is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its network namespace; [`NODE_NAMESPACE`] for hostNetwork.
    pub netns: String,
    /// The node's end of its wire; empty for hostNetwork.
    pub interface: String,
    /// At most one IPv4 and one IPv6 address; the node's for hostNetwork.
    pub addresses: Vec<IpAddr>,
    /// Where it answers.
    pub ports: BTreeSet<AnswerPort>,
    /// Whether it shares the node's network.
    pub host_network: bool,
}

/// A whole lab.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The node's name, if the documents name one.
    pub node: Option<String>,
    /// The node's addresses.
    pub node_addresses: Vec<IpAddr>,
    /// By `namespace/name`.
    pub pods: BTreeMap<String, LabPod>,
    /// All of the lab's names and addresses, for hosts files: `(name, namespace or "", address)`.
    pub names: Vec<(String, String, IpAddr)>,
    /// Pods that cannot have a namespace, and why; one line each.
    pub warnings: Vec<String>,
}

/// The node whose pods live in the lab.
///
/// # Errors
/// [`PlanError::WhichNode`] if there are several and `wanted` names none, [`PlanError::UnknownNode`] if it names one
/// that the documents do not have.
pub fn choose_node(cluster: &Cluster, wanted: Option<&str>) -> Result<Option<NodeName>, PlanError> {
    let mut nodes: BTreeSet<&NodeName> = cluster.nodes.keys().collect();
    nodes.extend(cluster.pods.values().filter_map(|pod| pod.node.as_ref()));
    let names = || nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    match wanted {
        Some(wanted) => match nodes.iter().find(|node| node.as_str() == wanted) {
            Some(node) => Ok(Some((*node).clone())),
            None => Err(PlanError::UnknownNode(wanted.to_owned(), names())),
        },
        None if nodes.len() > 1 => Err(PlanError::WhichNode(names())),
        None => Ok(nodes.first().map(|node| (*node).clone())),
    }
}

/// The lab of these documents.
///
/// `kept` are the addresses of pods that are running now: they win over new assignments, not over what documents say.
#[must_use]
pub fn plan(
    mut cluster: Cluster,
    node: Option<&NodeName>,
    externals: &[External],
    kept: &HashMap<String, Vec<IpAddr>>,
) -> Plan {
    let live = cluster.pods.values().filter(|pod| pod.is_subject());
    let stated: BTreeSet<IpAddr> = live.flat_map(|pod| pod.addresses.iter().copied()).collect();
    for (name, pod) in cluster.pods.iter_mut().filter(|(_, pod)| pod.is_subject() && pod.addresses.is_empty())
    {
        let running = kept.get(&name.to_string()).into_iter().flatten();
        pod.addresses.extend(running.filter(|address| !stated.contains(address)));
    }
    manifest::assign_addresses(&mut cluster, node);
    let node_addresses = node
        .and_then(|name| cluster.nodes.get(name))
        .map(|node| node.addresses.clone())
        .filter(|addresses| !addresses.is_empty())
        .unwrap_or_else(|| NODE_ADDRESSES.to_vec());

    let mut plan = Plan { node: node.map(ToString::to_string), node_addresses, ..Plan::default() };
    let here = |pod: &Pod| match (&pod.node, node) {
        (Some(its), Some(ours)) => its == ours,
        _ => true,
    };
    for (name, pod) in cluster.pods.iter().filter(|(_, pod)| pod.phase == Phase::Live && here(pod)) {
        let netns = if pod.host_network { NODE_NAMESPACE.to_owned() } else { netns_of(name) };
        if netns.len() > 255 {
            plan.warnings
                .push(format!("pod {name} gets no network namespace: {netns} is too long for a file name"));
            continue;
        }
        let addresses = if pod.host_network { plan.node_addresses.clone() } else { pod.addresses.clone() };
        if addresses.is_empty() {
            plan.warnings.push(format!("pod {name} gets no network namespace: no address is left for it"));
            continue;
        }
        for address in &addresses {
            plan.names.push((name.name.as_str().to_owned(), name.namespace.as_str().to_owned(), *address));
        }
        let uid = pod.uid.as_ref().map(ToString::to_string);
        let interface = if pod.host_network {
            String::new()
        } else {
            interface_of(name, uid.as_deref().unwrap_or_default())
        };
        let ports = answer_ports(pod);
        let name = name.to_string();
        plan.pods.insert(
            name.clone(),
            LabPod { name, uid, netns, interface, addresses, ports, host_network: pod.host_network },
        );
    }
    for address in &plan.node_addresses {
        plan.names.push((NODE_NAMESPACE.to_owned(), String::new(), *address));
    }
    for external in externals {
        for address in external.addresses() {
            plan.names.push((external.namespace(), String::new(), address));
        }
    }
    plan
}

/// `<pod>.<namespace>`. No two pods share one: a namespace has no dot.
#[must_use]
pub fn netns_of(pod: &ObjectName) -> String {
    format!("{}.{}", pod.name, pod.namespace)
}

/// The node's end of a pod's wire: `pod` and twelve digits of a hash of its name and UID, because interface names end at
/// 15 bytes. FNV-1a, so that it is the same in every build.
#[must_use]
pub fn interface_of(pod: &ObjectName, uid: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in pod.to_string().bytes().chain(uid.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("pod{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff)
}

fn answer_ports(pod: &Pod) -> BTreeSet<AnswerPort> {
    pod.ports
        .iter()
        .filter_map(|port| match port.protocol {
            Protocol::Tcp => Some(AnswerPort::Tcp(port.number.get())),
            Protocol::Udp => Some(AnswerPort::Udp(port.number.get())),
            Protocol::Sctp => None,
        })
        .collect()
}

impl Plan {
    /// The hosts file seen from one namespace: `<pod>.<namespace>` of all pods, plain names of those of the same
    /// Kubernetes namespace, and of others where nobody else has the name.
    #[must_use]
    pub fn hosts(&self, kubernetes_namespace: &str) -> String {
        let mut owners: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, namespace, _) in &self.names {
            owners.entry(name).or_default().insert(namespace);
        }
        let mut text =
            format!("{HOSTS_MARK}\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        for (name, namespace, address) in &self.names {
            let namespaces = owners.get(name.as_str());
            let unique = namespaces.is_none_or(|namespaces| namespaces.len() == 1);
            // Writing to a String cannot fail.
            let _ = match (namespace.as_str(), namespace == kubernetes_namespace || unique) {
                ("", _) => writeln!(text, "{address} {name}"),
                (namespace, true) => writeln!(text, "{address} {name}.{namespace} {name}"),
                (namespace, false) => writeln!(text, "{address} {name}.{namespace}"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn externals_are_read_strictly() {
        let external: External = "internet=198.51.100.7,2001:db8::7".parse().unwrap();
        assert_eq!(external.namespace(), "ext-internet");
        assert_eq!(external.interface(), "up-internet");
        assert_eq!(external.addresses().len(), 2);
        assert_eq!("a=192.0.2.1".parse::<External>().unwrap().v6, None);
        for wrong in [
            "",
            "a",
            "a=",
            "=192.0.2.1",
            "a=::1",
            "a=192.0.2.1,192.0.2.2",
            "A=192.0.2.1",
            "thirteen-long=192.0.2.1",
        ] {
            assert!(wrong.parse::<External>().is_err(), "{wrong}");
        }
    }

    fn pod(name: &str, last: u8) -> Pod {
        Pod {
            name: ObjectName::parse("shop", name).unwrap(),
            uid: None,
            labels: podgate_config::model::Labels::new(),
            addresses: vec![IpAddr::from([10, 0, 0, last])],
            phase: Phase::Live,
            host_network: false,
            node: None,
            ports: Vec::new(),
        }
    }

    fn cluster(pods: impl IntoIterator<Item = Pod>) -> Cluster {
        Cluster { pods: pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect(), ..Cluster::default() }
    }

    fn on(node: &str, pod: Pod) -> Pod {
        Pod { node: Some(NodeName::parse(node).unwrap()), ..pod }
    }

    #[test]
    fn one_node_is_ours_and_of_several_one_must_be_named() {
        assert_eq!(choose_node(&cluster([pod("a", 1)]), None), Ok(None));
        let one = cluster([on("one", pod("a", 1)), pod("b", 2)]);
        let name = NodeName::parse("one").unwrap();
        assert_eq!(choose_node(&one, None), Ok(Some(name.clone())));
        let two = cluster([on("one", pod("a", 1)), on("two", pod("b", 2))]);
        assert!(
            matches!(choose_node(&two, None), Err(PlanError::WhichNode(names)) if names == ["one", "two"])
        );
        assert_eq!(choose_node(&two, Some("one")), Ok(Some(name)));
        assert!(matches!(choose_node(&two, Some("three")), Err(PlanError::UnknownNode(..))));
    }

    #[test]
    fn who_lives_in_the_lab() {
        let finished = Pod { phase: Phase::Finished, ..pod("finished", 2) };
        let host = Pod { host_network: true, addresses: Vec::new(), ..pod("host", 0) };
        let elsewhere = on("two", pod("elsewhere", 3));
        let here = on("one", pod("here", 4));
        let node = NodeName::parse("one").unwrap();
        let cluster = cluster([pod("a", 1), finished, host, elsewhere, here]);
        let plan = plan(cluster, Some(&node), &[], &HashMap::new());
        let wires: Vec<(&str, bool)> =
            plan.pods.values().map(|pod| (pod.netns.as_str(), pod.host_network)).collect();
        assert_eq!(wires, [("a.shop", false), ("here.shop", false), (NODE_NAMESPACE, true)]);
        assert_eq!(plan.pods["shop/host"].addresses, NODE_ADDRESSES);
        assert_eq!(plan.pods["shop/here"].addresses, [IpAddr::from([10, 0, 0, 4])]);
    }

    #[test]
    fn running_pods_keep_what_was_assigned() {
        let nameless = Pod { addresses: Vec::new(), ..pod("a", 0) };
        let kept = HashMap::from([("shop/a".to_owned(), vec![IpAddr::from([10, 244, 3, 3])])]);
        let plan = plan(cluster([nameless]), None, &[], &kept);
        assert_eq!(plan.pods["shop/a"].addresses.first(), Some(&IpAddr::from([10, 244, 3, 3])));
    }

    #[test]
    fn what_documents_say_of_addresses_wins_over_what_was() {
        let nameless = Pod { addresses: Vec::new(), ..pod("b", 0) };
        let kept = HashMap::from([
            ("shop/a".to_owned(), vec![IpAddr::from([10, 0, 0, 9]), "fd00::9".parse().unwrap()]),
            ("shop/b".to_owned(), vec![IpAddr::from([10, 0, 0, 1])]),
        ]);
        let plan = plan(cluster([pod("a", 1), nameless]), None, &[], &kept);
        assert_eq!(plan.pods["shop/a"].addresses, [IpAddr::from([10, 0, 0, 1])]);
        assert!(!plan.pods["shop/b"].addresses.is_empty());
        assert!(!plan.pods["shop/b"].addresses.contains(&IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn interfaces_have_short_stable_names() {
        let name = ObjectName::parse("shop", "web").unwrap();
        assert_eq!(interface_of(&name, "1"), interface_of(&name, "1"));
        assert_eq!(interface_of(&name, "").len(), 15);
        assert_ne!(interface_of(&name, ""), interface_of(&ObjectName::parse("shop", "api").unwrap(), ""));
        assert_ne!(interface_of(&name, "1"), interface_of(&name, "2"), "another one of its name");
    }

    #[test]
    fn plain_names_resolve_where_they_are_clear() {
        let address = IpAddr::from([10, 244, 0, 1]);
        let plan = Plan {
            names: vec![
                ("web".to_owned(), "a".to_owned(), address),
                ("web".to_owned(), "b".to_owned(), address),
                ("db".to_owned(), "b".to_owned(), address),
                (NODE_NAMESPACE.to_owned(), String::new(), address),
            ],
            ..Plan::default()
        };
        let hosts = plan.hosts("a");
        assert!(hosts.starts_with(HOSTS_MARK));
        assert!(hosts.contains("10.244.0.1 web.a web\n"));
        assert!(hosts.contains("10.244.0.1 web.b\n"));
        assert!(hosts.contains("10.244.0.1 db.b db\n"));
        assert!(hosts.contains("10.244.0.1 podgate-node\n"));
    }
}

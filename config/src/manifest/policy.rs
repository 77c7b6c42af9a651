//! networking.k8s.io/v1 NetworkPolicy: every check of the API server, and the defaults that it fills in.
//!
//! Sources: k8s.io/kubernetes pkg/apis/networking/validation and pkg/apis/networking/v1/defaults.go.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Severity;
use super::meta::{is, label_key, label_pairs, label_value, metadata, named};
use super::reader::{Reader, join};
use super::yaml::{Map, Value};
use crate::model::{
    IpBlock, NetworkPolicy, Operator, Peer, PolicyPort, PortName, PortNumber, Protocol, Requirement, Rule,
    Selector,
};

/// A direction's words.
struct Direction {
    section: &'static str,
    peers: &'static str,
}

const INGRESS: Direction = Direction { section: "ingress", peers: "from" };
const EGRESS: Direction = Direction { section: "egress", peers: "to" };

/// A policy, with unknown fields as errors.
pub fn policy(reader: &mut Reader<'_>, object: &Map) -> Option<NetworkPolicy> {
    let name = named(reader, object);
    reader.unknown(object, "", &["apiVersion", "kind", "metadata", "spec", "status"], Severity::Error);
    if let Some((_, meta)) = &name {
        metadata(reader, meta, "metadata", Severity::Error);
    }
    let Spec { pods, ingress, egress, understood: _ } = spec(reader, object);
    if reader.failed() {
        return None;
    }
    Some(NetworkPolicy { name: name?.0, pods: pods?, ingress, egress })
}

/// A policy that a server holds: never refused if its name is understood. A rule that is not understood allows nothing. What
/// is not understood around the rules may mean anything, so every pod of the namespace is isolated and nothing is allowed;
/// the second value is `false` then.
pub fn policy_of_server(reader: &mut Reader<'_>, object: &Map) -> Option<(NetworkPolicy, bool)> {
    let (name, _) = named(reader, object)?;
    if reader.failed() {
        return None;
    }
    Some(match spec(reader, object) {
        Spec { pods: Some(pods), ingress, egress, understood: true } => {
            (NetworkPolicy { name, pods, ingress, egress }, true)
        }
        _ => {
            let nothing = || Some(Vec::new());
            let pods = Selector::everything();
            (NetworkPolicy { name, pods, ingress: nothing(), egress: nothing() }, false)
        }
    })
}

/// `spec` of a policy.
struct Spec {
    /// `None` if there is none to be had of it.
    pods: Option<Selector>,
    /// The rules that are understood; `None` if it does not isolate in that direction.
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
    /// Whether everything besides single rules is.
    understood: bool,
}

fn spec(reader: &mut Reader<'_>, object: &Map) -> Spec {
    let empty = Map::default();
    let begin = reader.errors();
    let spec = match object.get("spec") {
        Some(spec) => reader.map(spec, "spec").unwrap_or(&empty),
        None => &empty,
    };
    reader.unknown(spec, "spec", &["podSelector", "ingress", "egress", "policyTypes"], Severity::Error);
    let ingress = reader.optional_list(spec, INGRESS.section, "spec");
    let egress = reader.optional_list(spec, EGRESS.section, "spec");
    let pods = match spec.get("podSelector") {
        Some(value) => selector(reader, value, "spec.podSelector"),
        None => Some(Selector::everything()),
    };
    let understood = reader.errors() == begin;

    let ingress_rules = rules(reader, ingress, &INGRESS);
    let egress_rules = rules(reader, egress, &EGRESS);

    let begin = reader.errors();
    let (in_ingress, in_egress) = policy_types(reader, spec, !egress.is_empty());
    Spec {
        pods,
        ingress: in_ingress.then_some(ingress_rules),
        egress: in_egress.then_some(egress_rules),
        understood: understood && reader.errors() == begin,
    }
}

/// In which directions it isolates. Left out: ingress, and egress if there are egress rules.
fn policy_types(reader: &mut Reader<'_>, spec: &Map, egress_rules: bool) -> (bool, bool) {
    let types = reader.optional_list(spec, "policyTypes", "spec");
    if types.is_empty() {
        return (true, egress_rules);
    }
    if types.len() > 2 {
        reader.error("spec.policyTypes", format!("has {} entries, expected at most two", types.len()));
    }
    let (mut ingress, mut egress) = (false, false);
    for (i, value) in types.iter().enumerate() {
        let field = format!("spec.policyTypes[{i}]");
        match reader.text(value, &field) {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            Some(other) => reader.error(&field, format!("is {other:?}, expected Ingress or Egress")),
            None => {}
        }
    }
    (ingress, egress)
}

/// The rules that are understood, each as a whole.
fn rules(reader: &mut Reader<'_>, list: &[Value], direction: &Direction) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let path = format!("spec.{}[{i}]", direction.section);
        // `- {}` and `-` are the same rule: everything.
        let empty = Map::default();
        let begin = reader.errors();
        let map = if *value == Value::Null { Some(&empty) } else { reader.map(value, &path) };
        let Some(map) = map else { continue };
        reader.unknown(map, &path, &[direction.peers, "ports"], Severity::Error);
        let mut rule = Rule::default();
        for (j, value) in reader.optional_list(map, "ports", &path).iter().enumerate() {
            rule.ports.extend(port(reader, value, &format!("{path}.ports[{j}]")));
        }
        for (j, value) in reader.optional_list(map, direction.peers, &path).iter().enumerate() {
            rule.peers.extend(peer(reader, value, &format!("{path}.{}[{j}]", direction.peers)));
        }
        if reader.errors() == begin {
            rules.push(rule);
        }
    }
    rules
}

fn port(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<PolicyPort> {
    let empty = Map::default();
    let map = if *value == Value::Null { &empty } else { reader.map(value, path)? };
    reader.unknown(map, path, &["protocol", "port", "endPort"], Severity::Error);
    let protocol = match reader.optional_text(map, "protocol", path) {
        Some(text) => protocol(reader, text, &join(path, "protocol")),
        None => Some(Protocol::Tcp),
    };
    let end_field = join(path, "endPort");
    let end = map.get("endPort").map(|value| number(reader, value, &end_field));
    let field = join(path, "port");
    match (map.get("port"), end) {
        (None, None) => Some(PolicyPort::all(protocol?)),
        (None, Some(_)) => {
            reader.error(&end_field, "is there without port, expected both or neither");
            None
        }
        (Some(Value::Str(name)), end) => {
            if end.is_some() {
                reader.error(&end_field, "is there beside a named port, expected a number as port");
            }
            let name = PortName::parse(name).map_err(|error| reader.error(&field, is(&error))).ok()?;
            Some(PolicyPort::named(protocol?, name))
        }
        (Some(value), end) => {
            let first = number(reader, value, &field)?;
            let last = match end {
                Some(last) => last?,
                None => first,
            };
            PolicyPort::range(protocol?, first, last)
                .map_err(|_| {
                    reader.error(&end_field, format!("is {last}, expected at least port, which is {first}"))
                })
                .ok()
        }
    }
}

/// `protocol` of a policy's or container's port.
pub fn protocol(reader: &mut Reader<'_>, text: &str, field: &str) -> Option<Protocol> {
    let protocol = Protocol::parse(text);
    if protocol.is_none() {
        reader.error(field, format!("is {text:?}, expected TCP, UDP or SCTP"));
    }
    protocol
}

/// A port number.
pub fn number(reader: &mut Reader<'_>, value: &Value, field: &str) -> Option<PortNumber> {
    let number = value.integer().and_then(|number| u16::try_from(number).ok()).and_then(PortNumber::new);
    if number.is_none() {
        reader.error(field, format!("is {}, expected a port number from 1 to 65535", value.describe()));
    }
    number
}

fn peer(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<Peer> {
    let empty = Map::default();
    let map = if *value == Value::Null { &empty } else { reader.map(value, path)? };
    reader.unknown(map, path, &["podSelector", "namespaceSelector", "ipBlock"], Severity::Error);
    let selectors = (map.get("podSelector"), map.get("namespaceSelector"));
    match (map.get("ipBlock"), selectors) {
        (None, (None, None)) => {
            reader.error(path, "selects nothing, expected podSelector, namespaceSelector or ipBlock");
            None
        }
        (Some(_), (Some(_), _) | (_, Some(_))) => {
            reader.error(path, "has an ipBlock beside a selector, expected one or the other");
            None
        }
        (Some(block), (None, None)) => ip_block(reader, block, &join(path, "ipBlock")).map(Peer::IpBlock),
        (None, (pods, namespaces)) => {
            let pods = match pods {
                Some(value) => selector(reader, value, &join(path, "podSelector"))?,
                None => Selector::everything(),
            };
            let namespaces = match namespaces {
                Some(value) => Some(selector(reader, value, &join(path, "namespaceSelector"))?),
                None => None,
            };
            Some(Peer::Pods { namespaces, pods })
        }
    }
}

fn ip_block(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<IpBlock> {
    let map = reader.map(value, path)?;
    reader.unknown(map, path, &["cidr", "except"], Severity::Error);
    let field = join(path, "cidr");
    let Some(text) = reader.optional_text(map, "cidr", path) else {
        if map.get("cidr").is_none() {
            reader.error(&field, "is missing, expected a network as 10.0.0.0/8");
        }
        return None;
    };
    let cidr = network(reader, text, &field)?;
    let mut except = Vec::new();
    for (i, value) in reader.optional_list(map, "except", path).iter().enumerate() {
        let field = format!("{path}.except[{i}]");
        let Some(text) = reader.text(value, &field) else { continue };
        let Some(network) = network(reader, text, &field) else { continue };
        match IpBlock::new(cidr, [network]) {
            Ok(_) => except.push(network),
            Err(error) => reader.error(&field, format!("{error}, expected a smaller network inside of it")),
        }
    }
    IpBlock::new(cidr, except).ok()
}

fn network(reader: &mut Reader<'_>, text: &str, field: &str) -> Option<IpNet> {
    let network = text.parse().ok();
    match network {
        None => reader.error(field, format!("is {text:?}, expected a network as 10.0.0.0/8 or fd00::/64")),
        // The API server warns of these too: they look like IPv4 and are not.
        Some(IpNet::V6(net)) if net.prefix_len() >= 96 => {
            if let Some(four) = net.addr().to_ipv4_mapped() {
                let length = net.prefix_len() - 96;
                let message = format!(
                    "is {text:?}, IPv4 written as IPv6, and matches nothing, expected {four}/{length}"
                );
                reader.warning(field, message);
            }
        }
        Some(_) => {}
    }
    network
}

fn selector(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<Selector> {
    let map = reader.map(value, path)?;
    reader.unknown(map, path, &["matchLabels", "matchExpressions"], Severity::Error);
    let mut requirements = Vec::new();
    if let Some(labels) = reader.optional_map(map, "matchLabels", path) {
        for (key, value) in label_pairs(reader, labels, &join(path, "matchLabels")) {
            requirements.push(Requirement { key, operator: Operator::In(BTreeSet::from([value])) });
        }
    }
    for (i, value) in reader.optional_list(map, "matchExpressions", path).iter().enumerate() {
        requirements.extend(expression(reader, value, &format!("{path}.matchExpressions[{i}]")));
    }
    Selector::new(requirements).map_err(|error| reader.error(path, error.to_string())).ok()
}

fn expression(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<Requirement> {
    let begin = reader.errors();
    let map = reader.map(value, path)?;
    reader.unknown(map, path, &["key", "operator", "values"], Severity::Error);
    let field = join(path, "key");
    let key = match map.get("key") {
        Some(value) => reader.text(value, &field).and_then(|text| label_key(reader, text, &field)),
        None => {
            reader.error(&field, "is missing, expected a label key");
            None
        }
    };
    let mut values = BTreeSet::new();
    let list = reader.optional_list(map, "values", path);
    for (i, value) in list.iter().enumerate() {
        let field = format!("{path}.values[{i}]");
        values.extend(reader.text(value, &field).and_then(|text| label_value(reader, text, &field)));
    }
    let values_field = join(path, "values");
    let operator_field = join(path, "operator");
    let operator = match reader.optional_text(map, "operator", path) {
        Some(word @ ("In" | "NotIn")) => {
            if list.is_empty() {
                reader.error(&values_field, format!("is empty, expected at least one value for {word}"));
                return None;
            }
            if word == "In" { Operator::In(values) } else { Operator::NotIn(values) }
        }
        Some(word @ ("Exists" | "DoesNotExist")) => {
            if !list.is_empty() {
                reader.error(&values_field, format!("is there, expected none for {word}"));
                return None;
            }
            if word == "Exists" { Operator::Exists } else { Operator::DoesNotExist }
        }
        Some(other) => {
            reader
                .error(&operator_field, format!("is {other:?}, expected In, NotIn, Exists or DoesNotExist"));
            return None;
        }
        None => {
            if map.get("operator").is_none() {
                reader.error(&operator_field, "is missing, expected In, NotIn, Exists or DoesNotExist");
            }
            return None;
        }
    };
    // An invalid value has been reported; a set without it may be empty.
    (reader.errors() == begin).then_some(())?;
    Some(Requirement { key: key?, operator })
}

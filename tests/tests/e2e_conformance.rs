//! Conformance cases on real packets: one running lab whose manifests become those of one case after the other.
//!
//! The steps of a case's group so are live changes, as the suites mean them, and pods come and go between groups. A probe is a
//! connection that a real socket inside the pod's namespace opens; for SCTP, which this kernel may not speak, an INIT chunk on
//! the pod's wire. Allowed is what is answered, be it by a reset or an ICMP error: that somebody said no proves that the
//! packet arrived. Denied is silence, and the gateway's own counters have to account for every denied probe.
//!
//! The suites beyond `e2e` are sampled: all of their cases are compared through the compiled tables in `conformance.rs`, and
//! here it is the way from files to wires that is tried. Cases with nodes, hostNetwork, finished pods or addresses of no pod
//! are left to their own tests; a lab of one node knows no such end.

#![allow(clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use etherparse::{IpNumber, PacketBuilder};
use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::probe::{Observed, Probe, connect_all};
use podgate_tests::conformance::{Case, CaseEnd, CasePod, CaseProbe, Expect, outside_cases, own_cases};
use podgate_tests::harness::{Lab, enabled, eventually};
use podgate_tests::wire::{Wire, sctp_init};
use serde_json::{Value, json};

/// How long silence has to last. What should have been answered and was not is tried again, with more of it.
const PATIENCE: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(2500)];
/// Of the other suites' cases, one in so many.
const SAMPLE: usize = 16;

#[test]
fn own_cases_agree_on_real_packets() {
    if !enabled() {
        return;
    }
    let cases: Vec<Case> = own_cases().into_iter().filter(fits_a_lab).step_by(2).collect();
    assert!(cases.len() >= 10, "{} of the project's own cases fit", cases.len());
    replay(&cases);
}

#[test]
fn outside_cases_agree_on_real_packets() {
    if !enabled() {
        return;
    }
    let all = outside_cases();
    if all.is_empty() {
        eprintln!("PODGATE_CONFORMANCE_DIR is not set: the project's own cases alone were replayed");
        return;
    }
    let (e2e, others): (Vec<Case>, Vec<Case>) = all.into_iter().partition(|case| case.suite() == "e2e");
    assert!(e2e.iter().all(fits_a_lab), "an e2e case that a lab cannot show");
    let others = others.into_iter().filter(|case| !case.is_of_cluster_network_policy() && fits_a_lab(case));
    replay(&e2e.into_iter().chain(others.step_by(SAMPLE)).collect::<Vec<Case>>());
}

/// Whether all its ends can be had as pods of one lab.
fn fits_a_lab(case: &Case) -> bool {
    let pods = case.current_pods();
    let is_plain = |pod: &&CasePod| !pod.host_network && pod.phase.is_none() && !pod.addresses().is_empty();
    let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses()).collect();
    let is_transport = |probe: &CaseProbe| matches!(transport(probe), Some("TCP" | "UDP" | "SCTP"));
    case.nodes.is_empty()
        && pods.iter().all(is_plain)
        && pods.iter().all(|pod| pod.node.is_none())
        && addresses.len() == pods.iter().map(|pod| pod.addresses().len()).sum::<usize>()
        && case.probes.iter().all(|probe| {
            probe.port.is_some_and(|port| port > 0)
                && is_transport(probe)
                && probe.expect != Expect::Error
                && netns(case, &probe.from) != netns(case, &probe.to)
                && [&probe.from, &probe.to].iter().all(|end| netns(case, end).is_some())
        })
}

fn transport(probe: &CaseProbe) -> Option<&str> {
    probe.protocol.as_str()
}

fn pod_of<'a>(case: &'a Case, end: &CaseEnd) -> Option<&'a CasePod> {
    case.current_pods().into_iter().find(|pod| match (&end.pod, end.ip) {
        (Some(name), _) => *name == format!("{}/{}", pod.ns, pod.name),
        (None, Some(ip)) => pod.addresses().contains(&ip),
        (None, None) => false,
    })
}

fn netns(case: &Case, end: &CaseEnd) -> Option<String> {
    pod_of(case, end).map(|pod| format!("{}.{}", pod.name, pod.ns))
}

/// A probe with its ends resolved.
struct Question<'a> {
    asked: &'a CaseProbe,
    from: String,
    to: String,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

fn questions(case: &Case) -> Vec<Question<'_>> {
    fn resolve<'a>(case: &Case, asked: &'a CaseProbe) -> Option<Question<'a>> {
        let CaseProbe { from, to, port, .. } = asked;
        let of = |end: &CaseEnd| {
            end.ip.map_or_else(|| pod_of(case, end).map(CasePod::addresses), |ip| Some(vec![ip]))
        };
        let (sources, destinations) = (of(from)?, of(to)?);
        // "Its first address of a family both ends have."
        let (source, destination) = sources.iter().find_map(|source| {
            let destination = destinations.iter().find(|other| other.is_ipv4() == source.is_ipv4())?;
            Some((*source, *destination))
        })?;
        let port = (*port)?;
        Some(Question { asked, from: netns(case, from)?, to: netns(case, to)?, source, destination, port })
    }
    case.probes
        .iter()
        .map(|probe| resolve(case, probe).unwrap_or_else(|| panic!("{}: {probe:?}", case.id)))
        .collect()
}

fn replay(cases: &[Case]) {
    let lab = Lab::up(&[("empty.yaml", "")], &[]);
    let mut wrong = Vec::new();
    let mut probes = 0;
    let mut source_ports = 20_000..;
    for (number, case) in cases.iter().enumerate() {
        change_to(&lab, case, number);
        let questions = questions(case);
        probes += questions.len();
        let denied_before = denied(&lab);
        let mut arrived = ask(&lab, &questions, PATIENCE[0], &mut source_ports);
        // A busy machine may be late, and nothing else: what is denied stays denied however long one waits.
        let late: Vec<usize> = (0..questions.len())
            .filter(|&i| questions[i].asked.expect == Expect::Allow && arrived[i] == Ok(false))
            .collect();
        if !late.is_empty() {
            let again: Vec<Question<'_>> = late.iter().map(|&i| questions_at(case, i)).collect();
            for (i, answer) in late.into_iter().zip(ask(&lab, &again, PATIENCE[1], &mut source_ports)) {
                arrived[i] = answer;
            }
        }
        for (question, arrived) in questions.iter().zip(arrived) {
            if arrived != Ok(question.asked.expect == Expect::Allow) {
                let Question { asked, from, to, destination, .. } = question;
                wrong.push(format!(
                    "{}: {from} -> {to} ({destination}) {}/{}: expected {:?}, arrived: {arrived:?}",
                    case.id, asked.protocol, question.port, asked.expect
                ));
            }
        }
        let expected =
            questions.iter().filter(|question| question.asked.expect == Expect::Deny).count() as u64;
        eventually(&format!("{}: {expected} denied probes are counted as denied", case.id), || {
            denied(&lab) >= denied_before + expected
        });
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(probes >= cases.len(), "{probes} probes of {} cases", cases.len());
    eprintln!("{} cases, {probes} probes agree on real packets", cases.len());
}

fn questions_at(case: &Case, place: usize) -> Question<'_> {
    questions(case).swap_remove(place)
}

/// Makes the lab's cluster that of a case, and waits until it is so on every wire.
fn change_to(lab: &Lab, case: &Case, number: usize) {
    let file = lab.folder().join("case.json");
    let temporary = lab.folder().join(".case");
    // A policy of no pods: it tells that what the gateway enforces was made of this file and not of the one before.
    let mut marked = case.clone();
    marked.policies.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("case-{number}"), "namespace": "mark"}, "spec": {"podSelector": {}},
    }));
    let mark = format!("mark/case-{number}");
    fs::write(&temporary, marked.manifests()).expect("manifests written");
    fs::rename(&temporary, &file).expect("manifests in place");
    let pods = case.current_pods();
    let wanted: BTreeMap<String, BTreeSet<IpAddr>> = pods
        .iter()
        .map(|pod| (format!("{}/{}", pod.ns, pod.name), pod.addresses().into_iter().collect()))
        .collect();
    eventually(&format!("{}: the lab is that of the case", case.id), || {
        let policies =
            lab.status().and_then(|status| status["policies"].as_array().cloned()).unwrap_or_default();
        let is_marked = policies.iter().any(|policy| policy["policy"] == mark.as_str());
        is_marked && ports_that_are_up(lab) == wanted && lab.is_settled()
    });
}

/// Pods whose port passes packets, with their addresses.
fn ports_that_are_up(lab: &Lab) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let status = lab.status().unwrap_or_default();
    let ports = status.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let up = ports.iter().filter(|port| port["kind"] == "pod" && port["state"] == "up");
    up.filter_map(|port| {
        let addresses = port["addresses"].as_array()?.iter().filter_map(|ip| ip.as_str()?.parse().ok());
        Some((port["pod"].as_str()?.to_owned(), addresses.collect()))
    })
    .collect()
}

/// Packets that policy has dropped so far.
fn denied(lab: &Lab) -> u64 {
    lab.drops("policy_egress") + lab.drops("policy_ingress")
}

/// Which of the probes arrive, all tried at the same time.
fn ask(
    lab: &Lab,
    questions: &[Question<'_>],
    patience: Duration,
    source_ports: &mut impl Iterator<Item = u16>,
) -> Vec<Result<bool, String>> {
    let by_socket = |question: &Question<'_>| {
        let port = match transport(question.asked)? {
            "TCP" => AnswerPort::Tcp(question.port),
            "UDP" => AnswerPort::Udp(question.port),
            _ => return None,
        };
        Some(Probe { netns: question.from.clone(), address: question.destination, port })
    };
    let probes: Vec<Probe> = questions.iter().filter_map(by_socket).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut observed = runtime.block_on(connect_all(&probes, patience)).into_iter();
    let inits: Vec<&Question<'_>> =
        questions.iter().filter(|question| by_socket(question).is_none()).collect();
    let mut seen = send_inits(lab, &inits, patience, source_ports).into_iter();
    questions
        .iter()
        .map(|question| match by_socket(question) {
            None => Ok(seen.next().unwrap_or(false)),
            Some(_) => match observed.next() {
                Some(Observed::Answered(_)) => Ok(true),
                Some(Observed::Failed(problem)) if problem.contains("refused") => Ok(true),
                Some(Observed::Silence) => Ok(false),
                Some(Observed::Failed(problem)) => Err(problem),
                None => Err("not tried".to_owned()),
            },
        })
        .collect()
}

/// Puts an INIT chunk on the wire for each, and says which come out at the other pod. Each has a source port that none had
/// before in this lab: an association of an earlier case must not answer for it.
fn send_inits(
    lab: &Lab,
    questions: &[&Question<'_>],
    patience: Duration,
    source_ports: &mut impl Iterator<Item = u16>,
) -> Vec<bool> {
    let names: BTreeSet<&str> =
        questions.iter().flat_map(|question| [question.from.as_str(), question.to.as_str()]).collect();
    let wires: BTreeMap<&str, Wire> = names.iter().map(|name| (*name, Wire::open(name))).collect();
    let sources: BTreeSet<&str> = questions.iter().map(|question| question.from.as_str()).collect();
    let gateways: BTreeMap<&str, [u8; 6]> =
        sources.iter().map(|name| (*name, lab.gateway_mac(name))).collect();
    let packets: Vec<Vec<u8>> =
        source_ports.zip(questions).map(|(source, question)| sctp_init(source, question.port)).collect();
    for (question, packet) in questions.iter().zip(&packets) {
        let (wire, gateway) = (&wires[question.from.as_str()], gateways[question.from.as_str()]);
        let ethernet = PacketBuilder::ethernet2(wire.mac, gateway);
        let mut frame = Vec::new();
        match (question.source, question.destination) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                ethernet.ipv4(a.octets(), b.octets(), 64).write(&mut frame, IpNumber::SCTP, packet)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                ethernet.ipv6(a.octets(), b.octets(), 64).write(&mut frame, IpNumber::SCTP, packet)
            }
            _ => panic!("{} and {}", question.source, question.destination),
        }
        .expect("a frame");
        wire.send(&frame);
    }
    let end = Instant::now() + patience;
    let mut seen = vec![false; questions.len()];
    for name in names {
        let waits_for: Vec<usize> = (0..questions.len()).filter(|&i| questions[i].to == name).collect();
        if waits_for.is_empty() {
            continue;
        }
        wires[name].sees(end.saturating_duration_since(Instant::now()), |frame| {
            for &i in &waits_for {
                seen[i] |= frame.ends_with(&packets[i]);
            }
            waits_for.iter().all(|&i| seen[i])
        });
    }
    seen
}

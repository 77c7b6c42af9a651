//! One packet in, one packet out, and every counter that moved.
//!
//! Each case runs with one worker and with two (the pods then are on different ones), over both families. A case says what
//! must come out and what must be counted; everything that it does not say must not have happened.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use af_xdp::twin::Sent;
use podgate_config::model::pod::Phase;
use podgate_config::model::*;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::snapshot::Mac;
use podgate_dataplane::worker::{Deny, Established, WorkerSettings};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, ROUTER_MAC, Rig, UPLINK, gateway_mac, peer_mac};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::parse(namespace, name).unwrap()
}

fn pod(text: &str, v4: &str, v6: &str) -> Pod {
    let label = (LabelKey::parse("app").unwrap(), LabelValue::parse(name(text).name.as_str()).unwrap());
    Pod {
        name: name(text),
        uid: None,
        labels: [label].into_iter().collect(),
        addresses: vec![ip(v4), ip(v6)],
        phase: Phase::Live,
        host_network: false,
        node: None,
        ports: Vec::new(),
    }
}

fn app(value: &str) -> Selector {
    let values = [LabelValue::parse(value).unwrap()].into();
    let requirement = Requirement { key: LabelKey::parse("app").unwrap(), operator: Operator::In(values) };
    Selector::new([requirement]).unwrap()
}

/// `b` takes TCP 80 and UDP 53 from `a`, and nothing else.
fn only_a_to_b() -> NetworkPolicy {
    let number = |n: u16| n.try_into().unwrap();
    let port = |protocol, n| PolicyPort::range(protocol, number(n), number(n)).unwrap();
    let rule = Rule {
        ports: vec![port(Protocol::Tcp, 80), port(Protocol::Udp, 53)],
        peers: vec![Peer::Pods { namespaces: None, pods: app("a") }],
    };
    NetworkPolicy { name: name("shop/only-a"), pods: app("b"), ingress: Some(vec![rule]), egress: None }
}

fn deny_all(pods: Selector) -> NetworkPolicy {
    NetworkPolicy { name: name("shop/deny"), pods, ingress: Some(vec![]), egress: Some(vec![]) }
}

/// A rig with three pods, and what to expect of it.
struct Case {
    rig: Rig,
    cluster: Cluster,
    a: PortId,
    b: PortId,
    six: bool,
    workers: u8,
    drops: BTreeMap<DropReason, u64>,
}

impl Case {
    fn new(workers: u8, six: bool, established: Established) -> Self {
        Self::with(workers, six, &WorkerSettings { established, ..WorkerSettings::default() })
    }

    fn with(workers: u8, six: bool, settings: &WorkerSettings) -> Self {
        let mut rig = Rig::new(workers, settings);
        let mut cluster = Cluster::default();
        for pod in [
            pod("shop/a", "10.244.0.1", "fd00:10:244::1"),
            pod("shop/b", "10.244.0.2", "fd00:10:244::2"),
            pod("shop/remote", "10.244.9.9", "fd00:10:244::9:9"),
        ] {
            cluster.pods.insert(pod.name.clone(), pod);
        }
        let a = rig.add_pod(&name("shop/a"), WorkerId(0));
        let b = rig.add_pod(&name("shop/b"), WorkerId(workers - 1));
        rig.publish(&cluster);
        Self { rig, cluster, a, b, six, workers, drops: BTreeMap::new() }
    }

    fn policy(&mut self, policy: NetworkPolicy) {
        self.cluster.policies.insert(policy.name.clone(), policy);
        self.rig.publish(&self.cluster);
    }

    fn address(&self, v4: &str, v6: &str) -> IpAddr {
        ip(if self.six { v6 } else { v4 })
    }

    fn a_ip(&self) -> IpAddr {
        self.address("10.244.0.1", "fd00:10:244::1")
    }

    fn b_ip(&self) -> IpAddr {
        self.address("10.244.0.2", "fd00:10:244::2")
    }

    fn node_ip(&self) -> IpAddr {
        self.address("10.244.255.254", "fd00:10:244::fffe")
    }

    fn outside_ip(&self) -> IpAddr {
        self.address("192.0.2.7", "2001:db8::7")
    }

    fn a_to_b(&self) -> From {
        From::new(self.a, self.a_ip(), self.b_ip())
    }

    fn b_to_a(&self) -> From {
        From::new(self.b, self.b_ip(), self.a_ip())
    }

    /// Sends a frame; what comes out of which port.
    fn send(&mut self, port: PortId, frame: &[u8]) -> Vec<(PortId, Sent)> {
        assert!(self.rig.deliver(port, frame));
        self.rig.settle()
    }

    /// The frame must come out of `to`, rewritten as a router does and otherwise unchanged.
    #[track_caller]
    fn passes(&mut self, from: PortId, frame: &[u8], to: PortId) {
        let sent = self.send(from, frame);
        let [(port, sent)] = &sent[..] else { panic!("expected one packet at {to}, got {sent:?}") };
        assert_eq!(*port, to);
        let destination: Mac = if to == UPLINK { ROUTER_MAC } else { peer_mac(to) };
        assert_eq!(sent.bytes[..6], destination);
        assert_eq!(sent.bytes[6..12], gateway_mac(to));
        let mut expected = frame.to_vec();
        expected[..12].copy_from_slice(&sent.bytes[..12]);
        if self.six {
            expected[21] -= 1;
        } else {
            expected[22] -= 1;
            expected[24..26].copy_from_slice(&sent.bytes[24..26]);
            let header = etherparse::Ipv4Header::from_slice(&sent.bytes[14..]).unwrap().0;
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        assert_eq!(sent.bytes, expected);
        self.holds();
    }

    /// The frame must be dropped for this reason and for no other.
    #[track_caller]
    fn drops(&mut self, from: PortId, frame: &[u8], reason: DropReason) {
        let sent = self.send(from, frame);
        assert!(sent.is_empty(), "{sent:?}");
        *self.drops.entry(reason).or_default() += 1;
        self.holds();
    }

    #[track_caller]
    fn holds(&self) {
        assert_eq!(self.rig.drops(), self.drops);
    }
}

/// Runs a case in every shape.
fn each(case: impl Fn(Case)) {
    each_with(Established::Recheck, case);
}

fn each_with(established: Established, case: impl Fn(Case)) {
    for workers in [1, 2, 3] {
        for six in [false, true] {
            eprintln!("workers {workers}, IPv{}", if six { 6 } else { 4 });
            case(Case::new(workers, six, established));
        }
    }
}

#[test]
fn without_policies_everything_passes_and_every_connection_has_one_entry() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(a, &there.udp(1000, 53, b"query"), b);
        case.passes(b, &back.udp(53, 1000, b"answer"), a);
        case.passes(a, &there.echo(7, false), b);
        case.passes(b, &back.echo(7, true), a);
        case.passes(a, &there.sctp(1000, 9, 1), b);
        case.passes(b, &back.sctp(9, 1000, 2), a);
        case.passes(a, &there.other(47, b"tunnel"), b);
        assert_eq!(case.rig.flows(), 5);
        case.rig.finish();
    });
}

#[test]
fn an_isolated_pod_takes_what_a_rule_admits_and_its_answers_pass() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.drops(a, &there.tcp(1000, 81, "S"), DropReason::PolicyIngress);
        case.drops(a, &there.echo(7, false), DropReason::PolicyIngress);
        case.drops(a, &there.sctp(1000, 80, 1), DropReason::PolicyIngress);
        case.drops(a, &there.other(47, b"tunnel"), DropReason::PolicyIngress);
        case.passes(a, &there.udp(1000, 53, b"query"), b);
        assert_eq!(case.rig.flows(), 2, "what is denied leaves no state");
        let records = case.rig.records();
        assert_eq!(records.len(), 4);
        assert!(
            records.iter().all(|record| record.decided_by.is_some_and(|(_, verdict)| !verdict.allowed()))
        );
        case.rig.finish();
    });
}

#[test]
fn a_new_connection_the_other_way_is_no_reply() {
    each(|mut case| {
        case.policy(deny_all(app("a")));
        // `a` is isolated: b may not open to it, whatever it opened itself before.
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.drops(b, &back.tcp(80, 1000, "S"), DropReason::PolicyIngress);
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::PolicyEgress);
        case.cluster.policies.clear();
        case.policy(NetworkPolicy { egress: None, ..deny_all(app("a")) });
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        // The same tuple, reversed, as a connection of its own.
        case.drops(b, &back.tcp(80, 1000, "S"), DropReason::PolicyIngress);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(a, &there.echo(7, false), b);
        case.drops(b, &back.echo(7, false), DropReason::PolicyIngress);
        case.passes(b, &back.echo(7, true), a);
        case.rig.finish();
    });
}

#[test]
fn strays_are_dropped_by_name() {
    each(|mut case| {
        let (there, a) = (case.a_to_b(), case.a);
        for flags in ["A", "SA", "F", "R", "RA", "FA", "PA", "SR", "SF"] {
            case.drops(a, &there.tcp(1000, 80, flags), DropReason::StrayTcp);
        }
        case.drops(a, &there.sctp(1000, 80, 2), DropReason::StraySctp);
        case.drops(a, &there.echo(7, true), DropReason::StrayIcmpReply);
        assert_eq!(case.rig.flows(), 0);
        case.rig.finish();
    });
}

#[test]
fn an_icmp_error_passes_only_if_it_quotes_a_live_connection() {
    each(|mut case| {
        case.policy(only_a_to_b());
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let query = there.udp(1000, 53, b"query");
        let stranger = there.udp(1001, 53, b"query");
        case.drops(b, &back.unreachable(&query), DropReason::IcmpErrorNoFlow);
        case.passes(a, &query, b);
        case.passes(b, &back.unreachable(&query), a);
        case.drops(b, &back.unreachable(&stranger), DropReason::IcmpErrorNoFlow);
        // A router on the way may complain about a connection to the outside; a pod may not complain for another.
        let outside = case.outside_ip();
        let out = From::new(a, case.a_ip(), outside).udp(1000, 9, b"out");
        case.passes(a, &out, UPLINK);
        let router = case.address("192.0.2.254", "2001:db8::fe");
        case.passes(UPLINK, &From::new(UPLINK, router, case.a_ip()).unreachable(&out), a);
        case.drops(b, &back.unreachable(&out), DropReason::IcmpErrorNoFlow);
        case.rig.finish();
    });
}

#[test]
fn the_own_node_always_reaches_its_pods_and_nobody_else_by_that_way() {
    each(|mut case| {
        case.policy(deny_all(Selector::everything()));
        let (a, node, a_ip) = (case.a, case.node_ip(), case.a_ip());
        case.passes(HOST, &From::new(HOST, node, a_ip).tcp(1000, 80, "S"), a);
        case.passes(a, &From::new(a, a_ip, node).tcp(80, 1000, "SA"), HOST);
        case.passes(a, &From::new(a, a_ip, node).udp(1000, 53, b"to the node"), HOST);
        // Routed by the host from elsewhere, and from a pod of another node.
        let outside = case.outside_ip();
        case.drops(HOST, &From::new(HOST, outside, a_ip).tcp(1000, 80, "S"), DropReason::PolicyIngress);
        let remote = case.address("10.244.9.9", "fd00:10:244::9:9");
        case.drops(HOST, &From::new(HOST, remote, a_ip).tcp(1000, 80, "S"), DropReason::PolicyIngress);
        case.drops(UPLINK, &From::new(UPLINK, node, a_ip).tcp(1000, 80, "S"), DropReason::SpoofedSource);
        case.rig.finish();
    });
}

#[test]
fn ways_out_are_the_uplink_for_direct_networks_and_the_host_for_the_rest() {
    each(|mut case| {
        let (a, a_ip, outside) = (case.a, case.a_ip(), case.outside_ip());
        case.passes(a, &From::new(a, a_ip, outside).udp(1, 2, b"out"), UPLINK);
        case.passes(UPLINK, &From::new(UPLINK, outside, a_ip).udp(2, 1, b"back"), a);
        let elsewhere = case.address("203.0.113.200", "2001:dbf::1");
        case.passes(a, &From::new(a, a_ip, elsewhere).udp(1, 2, b"out"), HOST);
        // What comes from the host for nobody here does not go back there.
        case.drops(HOST, &From::new(HOST, outside, elsewhere).udp(1, 2, b"x"), DropReason::NoRoute);
        if !case.six {
            case.drops(
                a,
                &From::new(a, a_ip, ip("198.51.100.1")).udp(1, 2, b"x"),
                DropReason::NextHopUnresolved,
            );
            assert_eq!(case.rig.unresolved(), [(UPLINK, ip("203.0.113.99"))]);
        }
        // Opened from outside: the answer goes back where it came from.
        case.passes(UPLINK, &From::new(UPLINK, outside, a_ip).tcp(1000, 80, "S"), a);
        case.passes(a, &From::new(a, a_ip, outside).tcp(80, 1000, "SA"), UPLINK);
        case.rig.finish();
    });
}

#[test]
fn a_connection_between_host_and_uplink_has_one_owner_for_both_directions() {
    each(|mut case| {
        let (node, outside) = (case.node_ip(), case.outside_ip());
        case.passes(HOST, &From::new(HOST, node, outside).tcp(1000, 80, "S"), UPLINK);
        case.passes(UPLINK, &From::new(UPLINK, outside, node).tcp(80, 1000, "SA"), HOST);
        case.passes(HOST, &From::new(HOST, node, outside).tcp(1000, 80, "A"), UPLINK);
        case.rig.finish();
    });
}

#[test]
fn what_comes_after_its_connection_has_timed_out_is_a_stray_even_before_aging() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.rig.advance(Duration::from_secs(121));
        // Aging comes at a turn's end, after this packet.
        case.drops(b, &back.tcp(80, 1000, "SA"), DropReason::StrayTcp);
        case.passes(a, &there.echo(7, false), b);
        case.rig.advance(Duration::from_secs(31));
        case.drops(b, &back.echo(7, true), DropReason::StrayIcmpReply);
        let query = there.udp(1000, 53, b"query");
        case.passes(a, &query, b);
        case.rig.advance(Duration::from_secs(31));
        case.drops(b, &back.unreachable(&query), DropReason::IcmpErrorNoFlow);
        case.rig.finish();
    });
}

#[test]
fn a_kept_connection_follows_its_pod_to_a_new_port() {
    each_with(Established::Keep, |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        let c = case.rig.replug_pod(b);
        case.policy(deny_all(app("b")));
        case.passes(a, &there.tcp(1000, 80, "A"), c);
        case.passes(c, &From { port: c, ..back }.tcp(80, 1000, "A"), a);
        case.drops(a, &there.tcp(1001, 80, "S"), DropReason::PolicyIngress);
        case.rig.finish();
    });
}

#[test]
fn a_source_that_is_not_the_pods_own_is_dropped() {
    each(|mut case| {
        let (a, b_ip, a_ip) = (case.a, case.b_ip(), case.a_ip());
        for source in [b_ip, case.node_ip(), case.outside_ip()] {
            case.drops(a, &From::new(a, source, a_ip).udp(1, 2, b"x"), DropReason::SpoofedSource);
        }
        let mut frame = case.a_to_b().udp(1, 2, b"x");
        frame[5] ^= 1;
        case.drops(a, &frame, DropReason::ForeignMac);
        case.drops(UPLINK, &From::new(UPLINK, b_ip, a_ip).udp(1, 2, b"x"), DropReason::SpoofedSource);
        // By the host: it may have translated or routed it.
        case.passes(HOST, &From::new(HOST, b_ip, a_ip).udp(1, 2, b"x"), a);
        case.rig.finish();
    });
}

#[test]
fn a_tightened_policy_cuts_and_a_relaxed_one_leaves_alone() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.policy(only_a_to_b());
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(b, &back.tcp(80, 1000, "PA"), a);
        case.policy(deny_all(app("b")));
        // Union: the first policy still admits it.
        case.passes(b, &back.tcp(80, 1000, "PA"), a);
        case.cluster.policies.clear();
        case.policy(deny_all(app("b")));
        case.drops(b, &back.tcp(80, 1000, "PA"), DropReason::PolicyRevoked);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::PolicyIngress);
        assert_eq!(case.rig.flows(), 0);
        case.rig.finish();
    });
}

#[test]
fn an_established_connection_goes_on_if_asked_for_but_not_to_another_pod() {
    each_with(Established::Keep, |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.policy(deny_all(app("b")));
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.drops(a, &there.tcp(1001, 80, "S"), DropReason::PolicyIngress);
        // b goes, and another pod gets its address.
        case.cluster.policies.clear();
        let addresses = case.cluster.pods.remove(&name("shop/b")).unwrap().addresses;
        let next = Pod { addresses, ..pod("shop/c", "10.0.0.1", "fd00::1") };
        case.cluster.pods.insert(next.name.clone(), next);
        case.rig.remove_pod(b);
        // On b's worker, which owns the connection or is not its owner for either pod.
        let c = case.rig.add_pod(&name("shop/c"), WorkerId(case.workers - 1));
        case.rig.publish(&case.cluster);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::AddressMoved);
        case.passes(a, &there.tcp(1002, 80, "S"), c);
        case.rig.finish();
    });
}

#[test]
fn a_handshake_is_followed_step_by_step() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.drops(b, &back.segment((80, 1000), "SA", 999, 5), DropReason::StrayTcp);
        case.drops(b, &back.segment((80, 1000), "RA", 0, 5), DropReason::TcpReset);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.drops(b, &back.tcp(80, 1000, "F"), DropReason::StrayTcp);
        case.rig.finish();
    });
}

#[test]
fn a_reset_ends_a_connection_only_with_its_numbers() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        for (from, frame, to) in [
            (a, there.tcp(1000, 80, "S"), b),
            (b, back.tcp(80, 1000, "SA"), a),
            (a, there.tcp(1000, 80, "A"), b),
        ] {
            case.passes(from, &frame, to);
        }
        case.drops(b, &back.segment((80, 1000), "R", 900, 0), DropReason::TcpReset);
        case.drops(b, &back.segment((80, 1000), "R", 200_000, 0), DropReason::TcpReset);
        // Within the window: its receiver will challenge it, and nothing ends here.
        case.passes(b, &back.segment((80, 1000), "R", 2000, 0), a);
        case.rig.advance(Duration::from_secs(60));
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(b, &back.segment((80, 1000), "R", 1000, 0), a);
        case.rig.advance(Duration::from_secs(11));
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::StrayTcp);
        case.rig.finish();
    });
}

#[test]
fn a_syn_against_the_direction_of_an_open_connection_is_judged_and_ends_nothing() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.policy(only_a_to_b());
        for (from, frame, to) in [
            (a, there.tcp(1000, 80, "S"), b),
            (b, back.tcp(80, 1000, "SA"), a),
            (a, there.tcp(1000, 80, "A"), b),
        ] {
            case.passes(from, &frame, to);
        }
        // a takes whatever comes, and its own stack will say that it has this connection.
        case.passes(b, &back.segment((80, 1000), "S", 77, 0), a);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.passes(b, &back.tcp(80, 1000, "A"), a);
        assert_eq!(case.rig.flows(), 1);
        case.policy(NetworkPolicy { egress: None, ..deny_all(app("a")) });
        case.drops(b, &back.segment((80, 1000), "S", 77, 0), DropReason::PolicyIngress);
        case.passes(b, &back.tcp(80, 1000, "A"), a);
        assert_eq!(case.rig.flows(), 1);
        case.rig.finish();
    });
}

#[test]
fn a_syn_on_a_kept_connection_is_judged_for_itself() {
    each_with(Established::Keep, |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        for (from, frame, to) in [
            (a, there.tcp(1000, 80, "S"), b),
            (b, back.tcp(80, 1000, "SA"), a),
            (a, there.tcp(1000, 80, "A"), b),
        ] {
            case.passes(from, &frame, to);
        }
        case.policy(deny_all(app("b")));
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.drops(a, &there.segment((1000, 80), "S", 5_000_000, 0), DropReason::PolicyIngress);
        case.passes(b, &back.tcp(80, 1000, "A"), a);
        case.rig.finish();
    });
}

#[test]
fn an_icmp_error_must_quote_what_was_sent() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        let syn = there.tcp(1000, 80, "S");
        case.passes(a, &syn, b);
        let forged = there.segment((1000, 80), "S", 123_456, 0);
        case.drops(b, &back.unreachable(&forged), DropReason::IcmpErrorNoFlow);
        case.passes(b, &back.unreachable(&syn), a);
        case.rig.finish();
    });
}

#[test]
fn sctp_packets_bear_the_tag_of_their_association() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.sctp(1000, 38_412, 1), b);
        case.drops(a, &there.sctp(1000, 38_412, 0), DropReason::StraySctp);
        case.passes(b, &back.sctp(38_412, 1000, 2), a);
        case.passes(a, &there.sctp(1000, 38_412, 10), b);
        case.passes(b, &back.sctp(38_412, 1000, 11), a);
        for chunk in [0, 4, 6, 7] {
            case.drops(b, &back.sctp_tagged(38_412, 1000, chunk, 2), DropReason::StraySctp);
        }
        // A heartbeat and its answer, then the end.
        case.passes(b, &back.sctp(38_412, 1000, 4), a);
        case.passes(a, &there.sctp(1000, 38_412, 5), b);
        case.passes(b, &back.sctp(38_412, 1000, 6), a);
        case.rig.advance(Duration::from_secs(11));
        case.drops(a, &there.sctp(1000, 38_412, 0), DropReason::StraySctp);
        case.rig.finish();
    });
}

#[test]
fn what_is_closed_stops_kept_connections_too() {
    each_with(Established::Keep, |mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(1000, 80, "S"), b);
        case.passes(b, &back.tcp(80, 1000, "SA"), a);
        case.rig.set_closed(b, true);
        case.rig.publish(&case.cluster);
        case.drops(a, &there.tcp(1000, 80, "A"), DropReason::PolicyRevoked);
        case.drops(b, &back.tcp(80, 1000, "A"), DropReason::StrayTcp);
        case.rig.finish();
    });
}

#[test]
fn a_closed_port_and_unsynced_sources_let_only_the_own_node_through() {
    each(|mut case| {
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.rig.set_closed(b, true);
        case.rig.publish(&case.cluster);
        case.drops(a, &there.tcp(1000, 80, "S"), DropReason::PortClosed);
        case.drops(b, &back.tcp(1000, 80, "S"), DropReason::PortClosed);
        let (node, b_ip) = (case.node_ip(), case.b_ip());
        case.passes(HOST, &From::new(HOST, node, b_ip).tcp(1000, 80, "S"), b);
        case.passes(b, &From::new(b, b_ip, node).udp(1, 2, b"x"), HOST);
        case.rig.finish();
    });
}

#[test]
fn before_the_first_snapshot_nothing_passes() {
    each(|mut case| {
        let settings = WorkerSettings::default();
        let mut rig = Rig::new(1, &settings);
        let a = rig.add_pod(&name("shop/a"), WorkerId(0));
        let frame = From { port: a, ..case.a_to_b() }.tcp(1000, 80, "S");
        assert!(rig.deliver(a, &frame));
        assert!(rig.settle().is_empty());
        assert_eq!(rig.drops(), BTreeMap::from([(DropReason::PortGone, 1)]));
        rig.finish();
        case.drops.clear();
        case.rig.finish();
    });
}

#[test]
fn an_expired_hop_limit_is_answered() {
    each(|mut case| {
        let a = case.a;
        let frame = From { hop_limit: 1, ..case.a_to_b() }.udp(1000, 33434, b"trace");
        let sent = case.send(a, &frame);
        let [(port, error)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(*port, a);
        let kind = if case.six { error.bytes[54] } else { error.bytes[34] };
        assert_eq!(kind, if case.six { 3 } else { 11 });
        let speaker = if case.six { ip("fd00:10:244::fffe") } else { ip("10.244.255.254") };
        let source = if case.six {
            IpAddr::from(<[u8; 16]>::try_from(&error.bytes[22..38]).unwrap())
        } else {
            IpAddr::from(<[u8; 4]>::try_from(&error.bytes[26..30]).unwrap())
        };
        assert_eq!(source, speaker);
        assert_eq!(case.rig.drops(), BTreeMap::from([(DropReason::TtlExpired, 1)]));
        assert_eq!(case.rig.counts().counts.generated, 1);
        case.rig.finish();
    });
}

#[test]
fn what_is_too_large_for_the_way_out_is_answered() {
    each(|mut case| {
        let a = case.a;
        let frame = case.a_to_b().udp(1000, 9, &[0; 1600]);
        let sent = case.send(a, &frame);
        let [(port, error)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(*port, a);
        let kind = if case.six { error.bytes[54] } else { error.bytes[34] };
        assert_eq!(kind, if case.six { 2 } else { 3 });
        assert_eq!(case.rig.drops(), BTreeMap::from([(DropReason::PacketTooBig, 1)]));
        case.rig.finish();
    });
}

#[test]
fn the_gateway_answers_ping_and_address_resolution() {
    each(|mut case| {
        let a = case.a;
        let gateway = case.address("169.254.1.1", "fe80::1");
        let sent = case.send(a, &From::new(a, case.a_ip(), gateway).echo(7, false));
        assert!(matches!(&sent[..], [(port, _)] if *port == a), "{sent:?}");
        let own = if case.six { ip("fe80::aa") } else { case.a_ip() };
        let sent = case.send(a, &From::new(a, own, gateway).echo(7, false));
        assert!(matches!(&sent[..], [(port, _)] if *port == a), "{sent:?}");
        let counts = case.rig.counts().counts;
        assert_eq!((counts.consumed, counts.generated), (2, 2));
        case.drops(a, &From::new(a, case.a_ip(), gateway).udp(1, 2, b"x"), DropReason::NoRoute);
        if case.six {
            let solicit = |target: &str| {
                let own: std::net::Ipv6Addr = "fe80::aa".parse().unwrap();
                let target: std::net::Ipv6Addr = target.parse().unwrap();
                let group: std::net::Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
                let mut body = vec![0; 4];
                body.extend_from_slice(&target.octets());
                body.extend_from_slice(&[1, 1]);
                body.extend_from_slice(&peer_mac(a));
                let kind = etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
                let mut frame = Vec::new();
                etherparse::PacketBuilder::ethernet2(peer_mac(a), [0x33, 0x33, 0xff, 0, 0, 1])
                    .ipv6(own.octets(), group.octets(), 255)
                    .icmpv6(kind)
                    .write(&mut frame, &body[4..])
                    .unwrap();
                frame
            };
            for target in ["fe80::1", "fd00:10:244::2", "fd00:10:244::9:9", "fd00:10:244::fffe"] {
                let sent = case.send(a, &solicit(target));
                let [(port, answer)] = &sent[..] else { panic!("{target}: {sent:?}") };
                assert_eq!((*port, answer.bytes[54]), (a, 136), "{target}");
                assert_eq!(answer.bytes[80..86], gateway_mac(a), "{target}");
            }
            for silent in ["fd00:10:244::1", "fe80::aa", "fd00::9"] {
                assert!(case.send(a, &solicit(silent)).is_empty(), "{silent}");
            }
        } else {
            let arp = |sender: &str, target: &str| {
                let packet = etherparse::ArpPacket::new(
                    etherparse::ArpHardwareId::ETHERNET,
                    etherparse::EtherType::IPV4,
                    etherparse::ArpOperation::REQUEST,
                    &peer_mac(a),
                    &sender.parse::<std::net::Ipv4Addr>().unwrap().octets(),
                    &[0; 6],
                    &target.parse::<std::net::Ipv4Addr>().unwrap().octets(),
                )
                .unwrap();
                let mut frame = Vec::new();
                etherparse::PacketBuilder::ethernet2(peer_mac(a), [0xff; 6])
                    .arp(packet)
                    .write(&mut frame)
                    .unwrap();
                frame
            };
            for target in ["169.254.1.1", "10.244.0.2", "10.244.9.9", "10.244.255.254"] {
                let sent = case.send(a, &arp("10.244.0.1", target));
                let [(port, answer)] = &sent[..] else { panic!("{target}: {sent:?}") };
                assert_eq!((*port, &answer.bytes[22..28]), (a, &gateway_mac(a)[..]), "{target}");
            }
            for silent in ["10.244.0.1", "10.9.9.9"] {
                assert!(case.send(a, &arp("10.244.0.1", silent)).is_empty(), "{silent}");
            }
            case.drops(a, &arp("10.244.0.2", "169.254.1.1"), DropReason::ArpSpoofed);
        }
        case.rig.finish();
    });
}

#[test]
fn fragments_and_garbage_are_dropped_by_name() {
    each(|mut case| {
        let a = case.a;
        let frame = case.a_to_b().udp(1000, 53, b"payload");
        for length in 1..frame.len() {
            let sent = case.send(a, &frame[..length]);
            assert!(sent.is_empty(), "{length} bytes passed");
        }
        assert_eq!(case.rig.drops().values().sum::<u64>(), frame.len() as u64 - 1);
        assert_eq!(case.rig.flows(), 0);
        if !case.six {
            let mut fragment = frame.clone();
            fragment[20] |= 0x20;
            let mut header = etherparse::Ipv4Header::from_slice(&fragment[14..]).unwrap().0;
            header.header_checksum = header.calc_header_checksum();
            fragment[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
            let before = case.rig.drops().get(&DropReason::Fragment).copied().unwrap_or_default();
            assert!(case.send(a, &fragment).is_empty());
            assert_eq!(case.rig.drops()[&DropReason::Fragment], before + 1);
            let mut broken = frame.clone();
            broken[24] ^= 1;
            assert!(case.send(a, &broken).is_empty());
            assert_eq!(case.rig.drops()[&DropReason::Ipv4Checksum], 1);
        }
        case.rig.finish();
    });
}

#[test]
fn denied_packets_are_rejected_if_asked_for() {
    for (workers, six) in [(1, false), (1, true), (2, false), (2, true)] {
        let settings = WorkerSettings { deny: Deny::Reject, ..WorkerSettings::default() };
        let mut case = Case::with(workers, six, &settings);
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        case.passes(a, &there.tcp(999, 80, "S"), b);
        case.policy(deny_all(app("b")));
        let rejected = |case: &mut Case, from, frame: &[u8], reason| {
            let sent = case.send(from, frame);
            let [(port, answer)] = &sent[..] else { panic!("expected one answer, got {sent:?}") };
            assert_eq!((*port, &answer.bytes[..6]), (from, &peer_mac(from)[..]));
            *case.drops.entry(reason).or_default() += 1;
            case.holds();
            answer.bytes[14..].to_vec()
        };
        let tcp = if six { 40 } else { 20 };
        // The reset comes as from the one who was asked: RST and ACK, of the SYN's number and one.
        let answer = rejected(&mut case, a, &there.tcp(1000, 80, "S"), DropReason::PolicyIngress);
        assert_eq!(answer[tcp..tcp + 14], [0, 80, 3, 232, 0, 0, 0, 0, 0, 0, 3, 232, 5 << 4, 0x14]);
        let answer = rejected(&mut case, b, &back.tcp(80, 999, "SA"), DropReason::PolicyRevoked);
        assert_eq!(answer[tcp + 13], 4);
        let answer = rejected(&mut case, a, &there.udp(1000, 53, b"query"), DropReason::PolicyIngress);
        assert_eq!(answer[tcp..tcp + 2], if six { [1, 1] } else { [3, 13] });
        case.drops(a, &there.tcp(1000, 80, "RA"), DropReason::StrayTcp);
        // Not more often than errors are sent at all.
        let mut answers = 0;
        for port in 0..300 {
            answers += case.send(a, &there.udp(2000 + port, 53, b"query")).len();
        }
        assert!((90..=110).contains(&answers), "{answers} answers at once");
        assert_eq!(case.rig.errors_refused(), 300 - answers as u64);
        case.rig.finish();
    }
}

#[test]
fn both_ends_of_a_revoked_connection_are_told_if_asked_for() {
    for (workers, six) in [(1, false), (1, true), (2, false), (2, true)] {
        let settings = WorkerSettings { deny: Deny::Reject, ..WorkerSettings::default() };
        let mut case = Case::with(workers, six, &settings);
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        establish(&mut case, 1000);
        let reset = |sent: &[(PortId, Sent)], to: PortId| {
            let (_, frame) = sent.iter().find(|(port, _)| *port == to).unwrap();
            assert_eq!(frame.bytes[..6], peer_mac(to));
            assert_eq!(frame.bytes[6..12], gateway_mac(to));
            let tcp = if six { 54 } else { 34 };
            let number =
                |at: usize| u32::from_be_bytes(frame.bytes[tcp + at..tcp + at + 4].try_into().unwrap());
            assert_eq!(frame.bytes[tcp + 13], 4, "a reset");
            number(4)
        };
        case.policy(deny_all(app("b")));
        // The sender is answered with what it acknowledged, its receiver with what it expects: here the next byte.
        let sent = case.send(a, &there.tcp(1000, 80, "A"));
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert_eq!((reset(&sent, a), reset(&sent, b)), (1000, 1000));
        *case.drops.entry(DropReason::PolicyRevoked).or_default() += 1;
        case.holds();
        // Both know now, and nothing is left to tell.
        case.drops(b, &back.tcp(80, 1000, "A"), DropReason::StrayTcp);
        case.rig.finish();
    }
}

/// A connection that both ends have agreed on.
fn establish(case: &mut Case, port: u16) {
    let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
    case.passes(a, &there.tcp(port, 80, "S"), b);
    case.passes(b, &back.tcp(80, port, "SA"), a);
    case.passes(a, &there.tcp(port, 80, "A"), b);
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_open_ones() {
    let settings = WorkerSettings { flows: 4, flows_per_pod: 4, ..WorkerSettings::default() };
    let mut case = Case::with(1, false, &settings);
    let (there, a, b, outside) = (case.a_to_b(), case.a, case.b, case.outside_ip());
    for port in 0..4 {
        establish(&mut case, 1000 + port);
    }
    // Another pod's, so that it is not the quota which refuses.
    let other = From::new(b, case.b_ip(), outside);
    case.drops(b, &other.tcp(2000, 80, "S"), DropReason::FlowTableFull);
    case.passes(a, &there.tcp(1000, 80, "A"), b);
    case.passes(a, &there.tcp(1001, 80, "FA"), b);
    case.rig.advance(Duration::from_secs(121));
    for _ in 0..8 {
        case.rig.settle();
    }
    case.passes(b, &other.tcp(2000, 80, "S"), UPLINK);
    case.rig.finish();
}

#[test]
fn a_pod_beyond_its_quota_pays_with_its_own_embryonic_connections() {
    for (workers, six) in [(1, false), (1, true), (2, false), (2, true)] {
        let settings = WorkerSettings { flows: 64, flows_per_pod: 3, ..WorkerSettings::default() };
        let mut case = Case::with(workers, six, &settings);
        let (there, back, a, b) = (case.a_to_b(), case.b_to_a(), case.a, case.b);
        establish(&mut case, 1000);
        for port in 0..20 {
            case.passes(a, &there.tcp(2000 + port, 80, "S"), b);
        }
        assert_eq!(case.rig.flows(), 3);
        case.passes(a, &there.tcp(1000, 80, "A"), b);
        case.drops(b, &back.tcp(80, 2000, "SA"), DropReason::StrayTcp);
        // The other pod's are not charged to this one.
        case.passes(b, &back.tcp(80, 3000, "S"), a);
        establish(&mut case, 1001);
        establish(&mut case, 1002);
        case.drops(a, &there.tcp(1003, 80, "S"), DropReason::PodFlows);
        case.rig.finish();
    }
}

#[test]
fn the_kinds_of_ports_are_counted_apart() {
    let mut case = Case::new(2, false, Established::Recheck);
    let (a, a_ip, outside) = (case.a, case.a_ip(), case.outside_ip());
    let frame = From::new(a, a_ip, outside).udp(1, 2, b"out");
    case.passes(a, &frame, UPLINK);
    let counts = case.rig.counts().counts;
    assert_eq!(counts.rx_packets[PortKind::Pod.index()], 1);
    assert_eq!(counts.rx_bytes[PortKind::Pod.index()], frame.len() as u64);
    assert_eq!(counts.tx_packets, [0, 0, 1]);
    assert_eq!(counts.handed_over, counts.taken_over);
    case.rig.finish();
}

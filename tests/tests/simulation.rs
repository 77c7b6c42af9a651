//! Thousands of short runs of whole workers, each from a seed, with everything happening at once: packets of both families,
//! valid, stray, spoofed and broken; policies changing under open connections; pods coming and going; time passing; one to
//! three workers taking turns in any order.
//!
//! What must hold after every step: what came out was allowed by the policy in force, in the direction in which its
//! connection was opened; what may open a connection and is allowed did come out; every packet is accounted for. And at the
//! end no frame is missing. A failure names its seed; `PODGATE_SEED=N` runs that one alone.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use podgate_config::model::*;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::policy::{Question, judge};
use podgate_dataplane::worker::WorkerSettings;
use podgate_tests::cluster::{self, app};
use podgate_tests::frames::From;
use podgate_tests::rig::{HOST, Rig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PODS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Source and destination with their ports, and the protocol.
type Tuple = (IpAddr, u16, IpAddr, u16, u8);

fn reversed((a, p, b, q, protocol): Tuple) -> Tuple {
    (b, q, a, p, protocol)
}

struct World {
    random: StdRng,
    rig: Rig,
    cluster: Cluster,
    ports: BTreeMap<&'static str, PortId>,
    workers: u8,
    /// Connections that came out once, in the direction in which they were opened, with who had their addresses then.
    opened: BTreeSet<(Tuple, [PortId; 2])>,
    identification: u32,
}

fn address(pod: &str, six: bool) -> IpAddr {
    let number = PODS.iter().position(|name| *name == pod).unwrap() + 1;
    let text = if six { format!("fd00:10:244::{number}") } else { format!("10.244.0.{number}") };
    text.parse().unwrap()
}

fn name(pod: &str) -> ObjectName {
    ObjectName::parse("shop", pod).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let workers = random.random_range(1..=3);
        let settings = WorkerSettings { seed: [seed, 1, 2, 3], ..WorkerSettings::default() };
        let rig = Rig::new(workers, &settings);
        let (cluster, ports, opened) = (Cluster::default(), BTreeMap::new(), BTreeSet::new());
        let mut world = Self { random, rig, cluster, ports, workers, opened, identification: 0 };
        for pod in PODS {
            world.add(pod);
        }
        world.publish();
        world
    }

    fn add(&mut self, pod: &'static str) {
        let object = cluster::pod(&format!("shop/{pod}"), [address(pod, false), address(pod, true)]);
        self.cluster.pods.insert(object.name.clone(), object);
        let worker = WorkerId(self.random.random_range(0..self.workers));
        let port = self.rig.add_pod(&name(pod), worker);
        self.ports.insert(pod, port);
    }

    fn publish(&mut self) {
        self.rig.publish(&self.cluster);
    }

    fn pick(&mut self) -> &'static str {
        PODS[self.random.random_range(0..PODS.len())]
    }

    /// A policy of a few shapes, put in the place of whatever had its name; or one taken away.
    fn change_policy(&mut self) {
        let policy =
            ObjectName::parse("shop", &format!("policy-{}", self.random.random_range(0..3))).unwrap();
        if self.random.random_bool(0.4) {
            self.cluster.policies.remove(&policy);
        } else {
            let (target, peer) = (self.pick(), self.pick());
            let low = self.random.random_range(1..4_u16).try_into().unwrap();
            let high = self.random.random_range(4..6_u16).try_into().unwrap();
            let ports = [
                vec![],
                vec![PolicyPort::range(Protocol::Tcp, low, high).unwrap()],
                vec![PolicyPort::all(Protocol::Udp)],
            ];
            let ports = ports[self.random.random_range(0..3)].clone();
            let rule = Rule { ports, peers: vec![Peer::Pods { namespaces: None, pods: app(peer) }] };
            let rules = if self.random.random_bool(0.3) { vec![] } else { vec![rule] };
            let ingress = self.random.random_bool(0.6).then(|| rules.clone());
            let egress = (ingress.is_none() || self.random.random_bool(0.3)).then_some(rules);
            let object = NetworkPolicy { name: policy.clone(), pods: app(target), ingress, egress };
            self.cluster.policies.insert(policy, object.into());
        }
        self.publish();
    }

    /// A pod leaves, or one that had left comes back: a new pod with an old address.
    fn change_pods(&mut self) {
        let pod = self.pick();
        match self.ports.remove(pod) {
            Some(port) => {
                self.cluster.pods.remove(&name(pod));
                self.rig.remove_pod(port);
            }
            None => self.add(pod),
        }
        self.publish();
    }

    /// The pods behind both addresses: ports are never used again, so they tell a pod from the next with its address.
    fn ends(&self, (source, _, destination, ..): Tuple) -> [PortId; 2] {
        [source, destination].map(|end| {
            let pod = PODS.iter().find(|pod| [address(pod, false), address(pod, true)].contains(&end));
            pod.and_then(|pod| self.ports.get(pod)).copied().unwrap_or(HOST)
        })
    }

    /// Does the policy in force allow a new connection?
    fn allowed(&self, (source, _, destination, port, protocol): Tuple) -> bool {
        let tables = self.rig.tables.as_ref().unwrap();
        let pod = |address| tables.lookup(address).map(|(_, slot)| slot);
        let port = if matches!(protocol, 6 | 17 | 132) { port } else { 0 };
        let question = Question {
            source,
            source_pod: pod(source),
            destination,
            destination_pod: pod(destination),
            protocol,
            port,
            judge_egress: true,
            judge_ingress: pod(destination).is_some(),
            same_pod: source == destination,
            from_own_node: false,
            to_own_node: false,
        };
        judge(tables, &question).allowed()
    }

    fn packet(&mut self) {
        let (from, to) = (self.pick(), self.pick());
        let six = self.random.random_bool(0.5);
        let Some(port) = self.ports.get(from).copied() else { return };
        if from == to {
            return;
        }
        let (source, destination) = (address(from, six), address(to, six));
        let mut line = From::new(port, source, destination);
        let spoofed = self.random.random_bool(0.05);
        if spoofed {
            line.source = address(PODS[(PODS.iter().position(|pod| *pod == from).unwrap() + 1) % 5], six);
        }
        let (mine, theirs) = (self.random.random_range(1..6_u16), self.random.random_range(1..6_u16));
        self.identification += 1;
        let mark = self.identification.to_be_bytes();
        let (frame, tuple, opens) = match self.random.random_range(0..6) {
            0 | 1 => (line.udp(mine, theirs, &mark), (source, mine, destination, theirs, 17), true),
            2 => (line.tcp(mine, theirs, "S"), (source, mine, destination, theirs, 6), true),
            3 => {
                let flags = ["SA", "A", "PA"][self.random.random_range(0..3)];
                (line.tcp(mine, theirs, flags), (source, mine, destination, theirs, 6), false)
            }
            4 => (line.other(47, &mark), (source, 0, destination, 0, 47), true),
            _ => {
                let frame = line.udp(mine, theirs, &mark);
                let length = self.random.random_range(1..frame.len());
                let cut = frame[..length].to_vec();
                assert!(self.rig.deliver(port, &cut));
                assert!(self.settle().is_empty(), "a broken packet came out");
                return;
            }
        };
        assert!(self.rig.deliver(port, &frame));
        let sent = self.settle();
        if spoofed {
            assert!(sent.is_empty(), "a spoofed packet came out");
            return;
        }
        let new = self.allowed(tuple);
        let known = |tuple: &Tuple| self.opened.contains(&(*tuple, self.ends(*tuple)));
        let reply = known(&reversed(tuple)) && self.allowed(reversed(tuple));
        let again = known(&tuple) && new;
        match sent.as_slice() {
            [] => {
                assert!(!(opens && new), "{tuple:?} may open and did not come out: {:?}", self.rig.drops());
            }
            [(out, packet)] => {
                // To somebody who is no pod any more: by the host.
                let expected = self.ports.get(to).copied().unwrap_or(HOST);
                assert_eq!(*out, expected, "{tuple:?} came out of the wrong port");
                assert_eq!(packet.bytes[34..], frame[34..], "{tuple:?} was changed");
                let fair = if opens { new || reply } else { reply || again };
                assert!(
                    fair,
                    "{tuple:?} came out, but the policy in force denies it (opens {opens}, new {new}, known {}, \
                     reverse known {} and allowed {})",
                    known(&tuple),
                    known(&reversed(tuple)),
                    self.allowed(reversed(tuple))
                );
                // Perhaps as an answer, perhaps as a connection of its own: a new SYN replaces what was there.
                if opens && new {
                    let ends = self.ends(tuple);
                    self.opened.insert((tuple, ends));
                }
            }
            more => panic!("{tuple:?} came out {} times", more.len()),
        }
    }

    /// Some turns in any order, then until all rest.
    fn settle(&mut self) -> Vec<(PortId, af_xdp::twin::Sent)> {
        for _ in 0..self.random.random_range(0..4) {
            let worker = self.random.random_range(0..self.workers);
            self.rig.turn(worker.into());
        }
        self.rig.settle()
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            match self.random.random_range(0..100) {
                0..=4 => self.change_policy(),
                5..=6 => self.change_pods(),
                7..=8 => {
                    self.rig.advance(Duration::from_millis(self.random.random_range(1..2000)));
                }
                _ => self.packet(),
            }
        }
        self.rig.finish();
    }
}

#[test]
fn what_comes_out_is_what_the_policy_in_force_allows() {
    let only = std::env::var("PODGATE_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = only.map_or(0..1500, |seed| seed..seed + 1);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed).run(150));
        assert!(run.is_ok(), "PODGATE_SEED={seed} fails");
    }
}

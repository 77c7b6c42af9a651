//! What the gateway's control loop does while changes come, without a gateway around it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_config::model::{Cluster, NetworkPolicy, ObjectName, Pod, PolicyPort, Protocol};
use podgate_control::compiler::Limits;
use podgate_control::gateway::history::Generations;
use podgate_control::gateway::pace::Pace;
use podgate_control::gateway::snapshot::{Inputs, build};
use podgate_control::live::Live;
use podgate_dataplane::packet::PortId;
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_dataplane::snapshot::Snapshot;
use podgate_rcu::Publisher;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::traffic::Node;

/// Changes that are made before the first of them is taken back.
const STANDING: usize = 100;
/// How often the gateway looks until a publication is in force.
const POLL: Duration = Duration::from_millis(1);

/// What a round of changes is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    Rest,
    /// Changes, compiled and published.
    Changes,
    /// As many publications of the same tables: every connection is judged again, and nothing else happens.
    Generations,
}

/// What a round came to.
#[derive(Default)]
pub struct Done {
    pub changes: u64,
    pub publications: u64,
    pub refused: u64,
    /// Of each publication: compiled and published.
    pub took: Vec<Duration>,
    pub elapsed: Duration,
}

enum Undo {
    Pod(usize),
    Remove(ObjectName),
    Policy(usize),
}

/// The control side.
pub struct Control {
    live: Live,
    publisher: Publisher<Snapshot>,
    generations: Generations,
    generation: u64,
    inputs: Inputs,
    pods: Vec<Pod>,
    policies: Vec<NetworkPolicy>,
    /// By place in `pods`.
    deliveries: Vec<Delivery>,
    undo: VecDeque<Undo>,
    random: StdRng,
    number: u32,
    pace: (Duration, Duration),
}

impl Control {
    /// Compiles the cluster and publishes it. `pace`: the settling time, and how far apart publications are at least.
    pub fn new(cluster: &Cluster, node: &Node, pace: (Duration, Duration)) -> Result<Self> {
        let mut live = Live::new(Limits::default(), 1);
        cluster.namespaces.iter().for_each(|(name, namespace)| live.set_namespace(name, Some(namespace)));
        cluster.policies.iter().for_each(|(name, policy)| live.set_policy(name, Some(policy)));
        let port = |name: &ObjectName| node.pods.get(name).map(|(id, _)| PortId(*id));
        let deliveries: Vec<Delivery> = (1..)
            .zip(cluster.pods.keys())
            .map(|(identity, name)| Delivery { identity, port: port(name) })
            .collect();
        for (pod, delivery) in cluster.pods.values().zip(&deliveries) {
            live.set_pod(pod.clone(), true, *delivery);
        }
        let identity = |name: &ObjectName| {
            let place = cluster.pods.keys().position(|known| known == name);
            place.and_then(|place| deliveries.get(place)).map_or(0, |delivery| delivery.identity)
        };
        let mut control = Self {
            live,
            publisher: Publisher::new(Snapshot::closed()),
            generations: Generations::default(),
            generation: 1,
            inputs: node.inputs(identity),
            pods: cluster.pods.values().cloned().collect(),
            policies: cluster.policies.values().cloned().collect(),
            deliveries,
            undo: VecDeque::new(),
            random: StdRng::seed_from_u64(3),
            number: 0,
            pace,
        };
        let tables = control.live.settle()?;
        anyhow::ensure!(control.publish(tables), "refused");
        Ok(control)
    }

    pub fn publisher(&self) -> &Publisher<Snapshot> {
        &self.publisher
    }

    pub fn tables(&self) -> &PolicyTables {
        self.live.tables()
    }

    /// Works for so long, with `rate` changes a second, and leaves the cluster as it was.
    pub fn run(&mut self, work: Work, rate: u32, time: Duration) -> Result<Done> {
        let mut done = Done::default();
        let begin = Instant::now();
        if work == Work::Rest {
            std::thread::sleep(time);
            return Ok(done);
        }
        let mut pace = Pace::new(self.pace.0, self.pace.1);
        let (mut told, mut tick) = (0, begin);
        while begin.elapsed() < time {
            let now = Instant::now();
            // Changes come one by one, whatever this thread is at.
            let come = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            if come > told {
                pace.note_objects(now);
            }
            if pace.take(now) {
                let count = come - told;
                told = come;
                let published = match work {
                    Work::Changes => {
                        (0..count).for_each(|_| self.change());
                        let tables = self.live.settle()?;
                        self.publish(tables)
                    }
                    _ => self.publish(self.live.tables().clone()),
                };
                done.changes += count;
                done.took.push(now.elapsed());
                if published {
                    pace.published(Instant::now());
                    done.publications += 1;
                } else {
                    // What was compiled is published with the next changes.
                    done.refused += 1;
                }
                self.tidy();
                tick = Instant::now() + POLL;
            } else if tick <= now {
                self.tidy();
                tick = now + POLL;
            }
            let next_change = begin + Duration::from_secs_f64((told + 1) as f64 / f64::from(rate));
            let next = pace.due().unwrap_or(next_change).min(tick);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        done.elapsed = begin.elapsed();
        while self.take_back() {}
        let tables = self.live.settle()?;
        while !self.publish(tables.clone()) {
            self.tidy();
        }
        self.tidy();
        Ok(done)
    }

    fn publish(&mut self, tables: PolicyTables) -> bool {
        let snapshot = build(self.generation + 1, tables, &self.inputs);
        if self.publisher.publish(snapshot).is_err() {
            return false;
        }
        self.generation += 1;
        self.live.published(self.generation);
        self.generations.publish(self.generation);
        true
    }

    fn tidy(&mut self) {
        for snapshot in self.publisher.collect() {
            self.generations.reclaim(snapshot.generation);
        }
        if let Some(oldest) = self.generations.oldest() {
            self.live.reclaim(oldest);
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound.max(1))
    }

    /// A pod is relabelled or added, or a policy changed; every other time, an earlier one of these is taken back.
    fn change(&mut self) {
        self.number = self.number.wrapping_add(1);
        if self.undo.len() >= STANDING && self.number.is_multiple_of(2) {
            self.take_back();
            return;
        }
        let place = self.below(self.pods.len());
        match self.below(3) {
            0 => self.relabel(place),
            1 => self.add_like(place),
            _ => {
                let place = self.below(self.policies.len());
                self.change_policy(place);
            }
        }
    }

    /// A pod has the labels of another one of its namespace.
    fn relabel(&mut self, place: usize) {
        let namespace = |place: usize| self.pods.get(place).map(|pod| &pod.name.namespace);
        let other = place ^ 1;
        if namespace(place) == namespace(other)
            && let (Some(pod), Some(other), Some(delivery)) =
                (self.pods.get(place), self.pods.get(other), self.deliveries.get(place))
        {
            self.live.set_pod(Pod { labels: other.labels.clone(), ..pod.clone() }, true, *delivery);
            self.undo.push_back(Undo::Pod(place));
        }
    }

    fn add_like(&mut self, place: usize) {
        let number = self.number % (1 << 20);
        let Some(like) = self.pods.get(place) else { return };
        let Ok(name) = ObjectName::parse(like.name.namespace.as_str(), &format!("new-{number}")) else {
            return;
        };
        let addresses = vec![IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + number))];
        let delivery = Delivery { identity: 100_000 + self.number, port: None };
        self.live.set_pod(Pod { name: name.clone(), addresses, ..like.clone() }, true, delivery);
        self.undo.push_back(Undo::Remove(name));
    }

    /// A policy has another port in its first rule.
    fn change_policy(&mut self, place: usize) {
        let Some(policy) = self.policies.get(place) else { return };
        let mut policy = policy.clone();
        let port = std::num::NonZero::new(20_000 + (self.number % 40_000) as u16);
        let rule = [&mut policy.ingress, &mut policy.egress].into_iter().flatten().flatten().next();
        if let (Some(rule), Some(port)) = (rule, port)
            && let Ok(port) = PolicyPort::range(Protocol::Tcp, port, port)
        {
            rule.ports = vec![port];
        }
        self.live.set_policy(&policy.name.clone(), Some(&policy));
        self.undo.push_back(Undo::Policy(place));
    }

    fn take_back(&mut self) -> bool {
        match self.undo.pop_front() {
            Some(Undo::Pod(place)) => {
                if let (Some(pod), Some(delivery)) = (self.pods.get(place), self.deliveries.get(place)) {
                    self.live.set_pod(pod.clone(), true, *delivery);
                }
            }
            Some(Undo::Remove(name)) => self.live.remove_pod(&name),
            Some(Undo::Policy(place)) => {
                if let Some(policy) = self.policies.get(place) {
                    self.live.set_policy(&policy.name, Some(policy));
                }
            }
            None => return false,
        }
        true
    }
}

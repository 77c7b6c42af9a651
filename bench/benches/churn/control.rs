//! What the gateway's control loop does while changes come, on a control side without a gateway around it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_bench::control::{Control, changed};
use podgate_config::model::{Cluster, NetworkPolicy, ObjectName, Pod};
use podgate_control::gateway::pace::Pace;
use podgate_dataplane::packet::PortId;
use podgate_dataplane::policy::Delivery;

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

/// A control side that makes changes, and takes them back.
pub struct Churn {
    pub control: Control,
    pods: Vec<Pod>,
    policies: Vec<Arc<NetworkPolicy>>,
    /// By place in `pods`.
    deliveries: Vec<Delivery>,
    undo: VecDeque<Undo>,
    number: u32,
    pace: (Duration, Duration),
}

impl Churn {
    /// Compiles the cluster and publishes it. `pace`: the settling time, and how far apart publications are at least.
    pub fn new(cluster: &Cluster, node: &Node, pace: (Duration, Duration)) -> Result<Self> {
        let port = |name: &ObjectName| node.pods.get(name).map(|(id, _)| PortId(*id));
        let deliveries: Vec<Delivery> = (1..)
            .zip(cluster.pods.keys())
            .map(|(identity, name)| Delivery { identity, port: port(name) })
            .collect();
        let identity = |name: &ObjectName| {
            let place = cluster.pods.keys().position(|known| known == name);
            place.and_then(|place| deliveries.get(place)).map_or(0, |delivery| delivery.identity)
        };
        let mut control = Control::new(cluster, 1, node.inputs(identity), deliveries.iter().copied());
        let tables = control.live.settle()?;
        anyhow::ensure!(control.publish(tables), "refused");
        Ok(Self {
            control,
            pods: cluster.pods.values().cloned().collect(),
            policies: cluster.policies.values().cloned().collect(),
            deliveries,
            undo: VecDeque::new(),
            number: 0,
            pace,
        })
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
                        let tables = self.control.live.settle()?;
                        self.control.publish(tables)
                    }
                    _ => self.control.publish(self.control.live.tables().clone()),
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
                self.control.tidy();
                tick = Instant::now() + POLL;
            } else if tick <= now {
                self.control.tidy();
                tick = now + POLL;
            }
            let next_change = begin + Duration::from_secs_f64((told + 1) as f64 / f64::from(rate));
            let next = pace.due().unwrap_or(next_change).min(tick);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        done.elapsed = begin.elapsed();
        while self.take_back() {}
        let tables = self.control.live.settle()?;
        while !self.control.publish(tables.clone()) {
            self.control.tidy();
        }
        self.control.tidy();
        Ok(done)
    }

    /// A pod is relabelled or added, or a policy changed; every other time, an earlier one of these is taken back.
    fn change(&mut self) {
        self.number = self.number.wrapping_add(1);
        if self.undo.len() >= STANDING && self.number.is_multiple_of(2) {
            self.take_back();
            return;
        }
        let place = self.control.below(self.pods.len());
        match self.control.below(3) {
            0 => self.relabel(place),
            1 => self.add_like(place),
            _ => {
                let place = self.control.below(self.policies.len());
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
            self.control.live.set_pod(Pod { labels: other.labels.clone(), ..pod.clone() }, true, *delivery);
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
        self.control.live.set_pod(Pod { name: name.clone(), addresses, ..like.clone() }, true, delivery);
        self.undo.push_back(Undo::Remove(name));
    }

    /// A policy has another port in its first rule.
    fn change_policy(&mut self, place: usize) {
        let Some(policy) = self.policies.get(place) else { return };
        let policy = changed(policy, 20_000 + (self.number % 40_000) as u16);
        self.control.live.set_policy(&policy.name, Some(&policy));
        self.undo.push_back(Undo::Policy(place));
    }

    fn take_back(&mut self) -> bool {
        match self.undo.pop_front() {
            Some(Undo::Pod(place)) => {
                if let (Some(pod), Some(delivery)) = (self.pods.get(place), self.deliveries.get(place)) {
                    self.control.live.set_pod(pod.clone(), true, *delivery);
                }
            }
            Some(Undo::Remove(name)) => self.control.live.remove_pod(&name),
            Some(Undo::Policy(place)) => {
                if let Some(policy) = self.policies.get(place) {
                    self.control.live.set_policy(&policy.name, Some(policy));
                }
            }
            None => return false,
        }
        true
    }
}

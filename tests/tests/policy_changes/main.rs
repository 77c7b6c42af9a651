//! An observer of an engine on real threads, under thousands of changes with connections open.
//!
//! Workers take turns when they like, so that each publication meets packets on their way: in a ring, between two workers,
//! in the middle of a batch. The observer puts marked packets on the wires, publishes, takes off what comes out, and notes
//! when it did what. Whenever all packets of a round have come out or are lost, it asks of each connection whether what
//! happened to its packets can be explained by the oracle's verdicts on the states that were in force meanwhile:
//! `explain.rs` says what that promises. `town.rs` is what changes, `talk.rs` are the connections.
//!
//! What is sent and published follows from the seed, which a failure names (`PODGATE_SEED=<n>` runs that one alone); when
//! the workers take their turns does not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod explain;
mod talk;
mod town;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use af_xdp::{Abilities, FrameLedger, Region};
use podgate_config::model::{ObjectName, Pod};
use podgate_control::compiler::Limits;
use podgate_control::gateway::generations::Generations;
use podgate_dataplane::counters::Snapshot as Counts;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::engine::{Engine, EngineConfig, EngineError, Idle};
use podgate_dataplane::flow::Timeouts;
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_dataplane::port::{MemoryPort, MemoryWire, Port};
use podgate_dataplane::snapshot::{DirectRoutes, NodeAddresses, PortEntry, Snapshot};
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::choices::Choices;
use podgate_tests::follow::Follower;
use podgate_tests::rig::{MTU, gateway_mac, peer_mac};

use explain::{Memory, Rules, Seen, Worlds, explain};
use talk::{Kind, Talk, Way, serial};
use town::{Plug, Town, address};

const FRAMES: u32 = 8192;
/// Entries of each ring: more than a round has packets, so that none is full.
const RING: u32 = 256;
const TALKS: usize = 48;
/// A round takes some milliseconds; a machine that runs other tests beside this one takes its time to give a worker its core.
const PATIENCE: Duration = Duration::from_secs(30);

/// One way to run an engine.
#[derive(Debug, Clone, Copy)]
struct Kit {
    workers: u8,
    idle: Idle,
    established: Established,
}

/// A pod's port and who it belongs to.
struct Wired {
    wire: MemoryWire,
    worker: WorkerId,
    plug: Plug,
}

/// What the runs say, to hold that they say something.
#[derive(Debug, Default)]
struct Tally {
    policy_changes: usize,
    pod_changes: usize,
    passed: usize,
    lost: usize,
    /// Connections that were surely open before a round in which something changed, and after.
    survived: usize,
    /// Connections that were surely open, and surely are not any more.
    cut: usize,
}

struct Observer {
    seed: u64,
    kit: Kit,
    choices: Choices,
    engine: Engine,
    region: Region,
    ledger: FrameLedger,
    town: Town,
    wires: BTreeMap<PortId, Wired>,
    worlds: Worlds,
    follower: Follower,
    generations: Generations,
    talks: Vec<Talk>,
    /// By connection: what the gateway may remember of it, and its packets since the workers rested last.
    memories: Vec<Memory>,
    seen: Vec<Vec<Seen>>,
    /// Which packet of which connection has which serial number, counted from `first_serial`.
    serials: Vec<(usize, usize)>,
    first_serial: u64,
    clock: u64,
    came_out: u64,
    tally: Tally,
}

fn usable_cores() -> Vec<usize> {
    let (region, mut ledger) = Region::new(64).unwrap();
    let worker = WorkerSettings { frames: 1, ..WorkerSettings::default() };
    let config = EngineConfig { cores: vec![4096], idle: Idle::Sleep, worker, retired: 16 };
    match Engine::start(&config, &region, &mut ledger, Snapshot::closed()).err() {
        Some(EngineError::Pin { usable, .. }) => usable,
        other => panic!("{other:?}"),
    }
}

impl Observer {
    fn new(seed: u64, kit: Kit) -> Self {
        let (region, mut ledger) = Region::new(FRAMES).unwrap();
        // Nothing ends because of its age, however slow the machine is.
        let day = Duration::from_secs(86_400);
        let timeouts = Timeouts {
            tcp_timeout_syn_sent: day,
            tcp_timeout_syn_recv: day,
            udp_timeout: day,
            udp_timeout_stream: day,
            icmp_timeout: day,
            ..Timeouts::default()
        };
        let worker = WorkerSettings {
            frames: 1024,
            flows: 1024,
            batch: 8,
            timeouts,
            established: kit.established,
            seed: [seed, 1, 2, 3],
            ..WorkerSettings::default()
        };
        let usable = usable_cores();
        let cores = (0..usize::from(kit.workers)).map(|worker| usable[worker % usable.len()]).collect();
        let config = EngineConfig { cores, idle: kit.idle, worker, retired: 16 };
        let engine = Engine::start(&config, &region, &mut ledger, Snapshot::closed()).unwrap();
        let mut choices = Choices::seeded(seed);
        let town = Town::new(&mut choices, kit.workers);
        let talks: Vec<Talk> = (0..TALKS).map(|number| Talk::new(&mut choices, number)).collect();
        let first = town.world("the start".to_owned(), talks.iter().map(|talk| talk.line));
        let mut observer = Self {
            seed,
            kit,
            choices,
            engine,
            region,
            ledger,
            town,
            wires: BTreeMap::new(),
            // The closed snapshot is number 1.
            worlds: Worlds { first: 1, all: vec![first] },
            follower: Follower::new(Limits::default(), kit.workers.into()),
            generations: Generations::default(),
            talks,
            memories: vec![[None].into(); TALKS],
            seen: vec![Vec::new(); TALKS],
            serials: Vec::new(),
            first_serial: 0,
            clock: 0,
            came_out: 0,
            tally: Tally::default(),
        };
        observer.publish("the start".to_owned());
        observer.worlds.all.remove(0);
        observer.worlds.first += 1;
        observer
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn change(&mut self) {
        let what = if self.choices.chance(8) {
            self.tally.pod_changes += 1;
            self.town.change_pods(&mut self.choices)
        } else {
            self.tally.policy_changes += 1;
            self.town.change_policy(&mut self.choices)
        };
        self.publish(what);
    }

    fn publish(&mut self, what: String) {
        self.plug_in();
        let begin = Instant::now();
        let generation = self.worlds.newest() + 1;
        let world = self.town.world(what, self.talks.iter().map(|talk| talk.line));
        // The tables of before are in the workers' hands while the next ones are made of them.
        let plugs: BTreeMap<&ObjectName, Plug> =
            self.town.residents.iter().flatten().map(|resident| (&resident.name, resident.plug)).collect();
        let delivery = |pod: &Pod| {
            let Plug { identity, port } = plugs[&pod.name];
            Delivery { identity, port: Some(port) }
        };
        let tables = self.follower.follow(&self.town.cluster, |_| true, delivery).unwrap();
        loop {
            for snapshot in self.engine.collect() {
                self.generations.reclaim(snapshot.generation);
            }
            match self.engine.publish(self.snapshot(generation, &tables)) {
                Ok(()) => break,
                Err(EngineError::Stuck { .. }) if begin.elapsed() < PATIENCE => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        self.generations.publish(generation);
        let oldest = self.generations.oldest().unwrap_or(generation);
        self.follower.published(generation, oldest);
        self.worlds.all.push(world);
    }

    fn snapshot(&self, generation: u64, tables: &PolicyTables) -> Snapshot {
        let mut ports = vec![None; usize::from(self.town.ports())];
        for (place, resident) in self.town.residents.iter().enumerate() {
            let Some(resident) = resident else { continue };
            let Plug { identity, port } = resident.plug;
            let addresses = [false, true].map(|six| address(place, six));
            ports[usize::from(port.0)] = Some(PortEntry {
                kind: PortKind::Pod,
                worker: resident.worker,
                spread: 0,
                mac: gateway_mac(port),
                peer_mac: peer_mac(port),
                mtu: MTU,
                closed: false,
                addresses: addresses.into(),
                identity,
            });
        }
        Snapshot {
            generation,
            synced: true,
            policy: tables.clone(),
            ports: ports.into(),
            host: None,
            node: NodeAddresses::default(),
            direct: DirectRoutes::default(),
        }
    }

    /// Some ends say something.
    fn speak(&mut self) {
        for _ in 0..self.choices.below(16) {
            let number = self.choices.below(TALKS);
            if let Some((way, kind)) = self.talks[number].say(&mut self.choices) {
                self.send(number, way, kind);
            }
        }
    }

    fn send(&mut self, number: usize, way: Way, kind: Kind) {
        let (source, _) = self.talks[number].line.places(way);
        let Some(sender) = self.town.residents[source].as_ref().map(|resident| resident.plug) else { return };
        let serial = self.first_serial + self.serials.len() as u64;
        let (frame, end) = self.talks[number].frame(way, kind, sender, serial);
        let put = (self.tick(), self.worlds.newest());
        let wired = self.wires.get_mut(&sender.port).unwrap();
        assert!(wired.wire.deliver(&frame), "seed {}: no frame to receive with on {sender:?}", self.seed);
        self.serials.push((number, self.seen[number].len()));
        self.seen[number].push(Seen { way, kind, sender, end, put, out: None });
    }

    /// Takes off what came out, and has the ends answer.
    fn take(&mut self) {
        let wires = self.wires.iter_mut();
        let came: Vec<(Plug, u64)> = wires
            .flat_map(|(_, wired)| {
                let plug = wired.plug;
                wired.wire.take().into_iter().map(move |sent| (plug, serial(&sent.bytes)))
            })
            .collect();
        for (plug, serial) in came {
            let (number, place) = self.serials[(serial - self.first_serial) as usize];
            let now = (self.tick(), self.worlds.newest());
            let seen = &mut self.seen[number][place];
            assert!(seen.out.is_none(), "seed {}: {seen:?} came out twice", self.seed);
            seen.out = Some(now);
            self.came_out += 1;
            let (seen, talk) = (*seen, &mut self.talks[number]);
            let Seen { way, kind, end, .. } = seen;
            let (_, destination) = talk.line.places(way);
            let fits = self.worlds.during(&seen).any(|world| world.plugs[destination] == Some(plug));
            assert!(fits, "seed {}: {seen:?} came out at {plug:?}, where nobody had its address", self.seed);
            // A pod that is gone does not answer; one whose device was opened anew does.
            let is_there = self.town.residents[destination]
                .as_ref()
                .is_some_and(|resident| resident.plug.identity == plug.identity);
            if is_there && let Some((way, kind)) = talk.hear(&mut self.choices, way, kind, end) {
                self.send(number, way, kind);
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.engine.views().for_each(|view| sum.add(&view.counters.snapshot()));
        sum
    }

    /// Until every packet has come out or was dropped: both counts only rise, so they are exact when they add up.
    fn rest(&mut self) {
        let begin = Instant::now();
        for look in 1_u64.. {
            let dropped = self.counts().counts.dropped_total();
            self.take();
            if self.came_out + dropped == self.first_serial + self.serials.len() as u64 {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "seed {}: the workers do not come to rest; {} of {} came out, {dropped} were dropped",
                self.seed,
                self.came_out,
                self.first_serial + self.serials.len() as u64
            );
            if look % 16 == 0 {
                // A packet on a wire in memory wakes nobody, a command does.
                self.engine.port_statistics();
            }
            std::thread::yield_now();
        }
    }

    /// Looks for explanations, and forgets what is explained.
    fn judge(&mut self) {
        for number in 0..TALKS {
            let seen = std::mem::take(&mut self.seen[number]);
            let keep = self.kit.established == Established::Keep;
            let rules = Rules { number, line: self.talks[number].line, keep };
            let memory = explain(&self.memories[number], &seen, &self.worlds, rules);
            if memory.is_empty() {
                panic!("{}", self.unexplained(rules, &seen));
            }
            let passed = seen.iter().filter(|seen| seen.out.is_some()).count();
            self.tally.passed += passed;
            self.tally.lost += seen.len() - passed;
            let none = Memory::from([None]);
            let was_open = !self.memories[number].contains(&None);
            self.tally.survived += usize::from(was_open && !memory.contains(&None));
            self.tally.cut += usize::from(was_open && memory == none);
            self.talks[number].rest(memory == none);
            self.memories[number] = memory;
        }
        let worlds = self.worlds.all.len() as u64 - 1;
        self.worlds.first += worlds;
        self.worlds.all.drain(..worlds as usize);
        self.first_serial += self.serials.len() as u64;
        self.serials.clear();
    }

    fn unexplained(&self, rules: Rules, seen: &[Seen]) -> String {
        use std::fmt::Write as _;
        let mut text = format!("seed {}, {:?}: no explanation for {:?}\n", self.seed, self.kit, rules.line);
        let _ = writeln!(text, "remembered: {:?}", self.memories[rules.number]);
        for generation in self.worlds.first..=self.worlds.newest() {
            let world = self.worlds.at(generation);
            let _ = writeln!(
                text,
                "generation {generation} ({}): there {}, back {}, from {:?} to {:?}",
                world.what,
                world.allows(rules.number, Way::There),
                world.allows(rules.number, Way::Back),
                world.plugs[rules.line.from],
                world.plugs[rules.line.to],
            );
        }
        for packet in seen {
            let Seen { way, kind, sender, put, out, .. } = packet;
            let _ = writeln!(text, "{way:?} {kind:?} by {sender:?}: put at {put:?}, out at {out:?}");
        }
        text
    }

    /// Ports of pods that have just come. A worker takes one over when it looks at its messages: what is sent there before
    /// is lost.
    fn plug_in(&mut self) {
        let before = self.wires.len();
        for resident in self.town.residents.iter().flatten() {
            let port = resident.plug.port;
            if self.wires.contains_key(&port) {
                continue;
            }
            let (mut device, wire) = MemoryPort::new(&self.region, RING, Abilities::new(true, true)).unwrap();
            let mut pool = self.ledger.pool(RING as usize);
            device.refill(&mut pool);
            self.ledger.give_back_pool(pool);
            self.engine.attach(port, PortKind::Pod, resident.worker, Box::new(device)).unwrap();
            self.wires.insert(port, Wired { wire, worker: resident.worker, plug: resident.plug });
        }
        if self.wires.len() > before {
            // Answered after what was told before.
            self.engine.port_statistics();
        }
    }

    /// Ports that no snapshot has any more.
    fn unplug(&mut self) {
        let there = |plug: Plug| self.town.residents.iter().flatten().any(|resident| resident.plug == plug);
        let gone: Vec<PortId> =
            self.wires.iter().filter(|(_, wired)| !there(wired.plug)).map(|(port, _)| *port).collect();
        for port in gone {
            let wired = self.wires.remove(&port).unwrap();
            let device = self.engine.detach(port, wired.worker).unwrap().unwrap();
            self.ledger.give_back(device.close());
        }
    }

    /// Changes while packets are under way, then a rest.
    fn round(&mut self) {
        for _ in 0..1 + self.choices.below(3) {
            self.speak();
            self.change();
            self.speak();
            self.take();
        }
        self.rest();
        self.judge();
        self.unplug();
    }

    fn run(mut self, policy_changes: usize) -> Tally {
        while self.tally.policy_changes < policy_changes {
            self.round();
        }
        // Nothing was lost for another reason than those that `explain` knows.
        let explained = [
            DropReason::PolicyEgress,
            DropReason::PolicyIngress,
            DropReason::PolicyRevoked,
            DropReason::AddressMoved,
            DropReason::StrayTcp,
            DropReason::StrayIcmpReply,
            DropReason::NoRoute,
            DropReason::PortGone,
        ];
        let counts = self.counts().counts;
        for reason in DropReason::ALL {
            let dropped: u64 = counts.drops(*reason).iter().sum();
            assert!(dropped == 0 || explained.contains(reason), "seed {}: {dropped} {reason:?}", self.seed);
        }
        assert!(self.engine.dead_workers().is_empty());
        let Self { engine, mut ledger, tally, .. } = self;
        engine.stop(&mut ledger);
        assert_eq!(ledger.free(), ledger.total(), "frames are lost");
        tally
    }
}

/// A run of so many policy changes for each seed.
fn run(seeds: std::ops::Range<u64>, changes: usize, kit: Kit) {
    let only = std::env::var("PODGATE_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    for seed in only.map_or(seeds, |seed| seed..seed + 1) {
        let tally = Observer::new(seed, kit).run(changes);
        // Else the run says little.
        assert!(tally.pod_changes > changes / 40, "seed {seed}: {tally:?}");
        assert!(tally.passed > 5 * changes && tally.lost > changes, "seed {seed}: {tally:?}");
        assert!(tally.survived > changes && tally.cut > changes / 10, "seed {seed}: {tally:?}");
    }
}

const RECHECK: Established = Established::Recheck;

#[test]
fn ten_thousand_changes_on_one_worker() {
    run(0..10, 1000, Kit { workers: 1, idle: Idle::Sleep, established: RECHECK });
}

#[test]
fn ten_thousand_changes_on_two_workers() {
    run(0..10, 1000, Kit { workers: 2, idle: Idle::Sleep, established: RECHECK });
}

#[test]
fn two_workers_that_never_sleep() {
    // They leave the observer little of two cores.
    run(0..2, 100, Kit { workers: 2, idle: Idle::Spin, established: RECHECK });
}

#[test]
fn kept_connections_are_cut_by_no_policy() {
    for workers in [1, 2] {
        run(0..2, 1000, Kit { workers, idle: Idle::Sleep, established: Established::Keep });
    }
}

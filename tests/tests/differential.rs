//! The compiled tables and `explain` against the oracle, on generated clusters.
//!
//! Half of the clusters are the same in every run, the other half are new. A difference is printed with the seed of
//! its cluster and the cluster cut down to what shows it; `PODGATE_SEED=<seed>` runs that one again (name the test
//! too: each makes something else of a seed), and `PODGATE_WORLDS=<count>` searches longer.

#![allow(clippy::expect_used, clippy::panic)]

use std::hash::{BuildHasher, RandomState};

use podgate_config::model::Cluster;
use podgate_control::compiler::{Limits, Scope, compile};
use podgate_control::explain::World;
use podgate_dataplane::policy::{Tier, Verdict};
use podgate_tests::choices::Choices;
use podgate_tests::compare::Subject;
use podgate_tests::generate::{self, Probe, Questions, describe};
use podgate_tests::minimise::minimise;
use podgate_tests::oracle::{Answer, Oracle, Side};
use proptest::prelude::*;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// The seeds of this run.
fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = number("PODGATE_SEED") {
        return vec![seed];
    }
    let count = number("PODGATE_WORLDS").unwrap_or(count);
    let fresh = RandomState::new().hash_one(0) >> 16;
    (0..count).map(|n| if n % 2 == 0 { n } else { fresh + n }).collect()
}

/// What the probes met, so that agreement about nothing does not pass for agreement.
#[derive(Debug, Default)]
struct Tally {
    probes: u64,
    exempt: u64,
    open: u64,
    admitted: u64,
    denied: u64,
}

impl Tally {
    fn count(&mut self, answer: &Answer<'_>) {
        self.probes += 1;
        for side in [&answer.egress, &answer.ingress].into_iter().flatten() {
            match side {
                Side::Exempt => self.exempt += 1,
                Side::NotIsolated => self.open += 1,
                Side::Isolated { admitted, .. } if admitted.is_empty() => self.denied += 1,
                Side::Isolated { .. } => self.admitted += 1,
            }
        }
    }

    fn must_be_worth_it(&self, probes: u64) {
        if number("PODGATE_SEED").is_none() && number("PODGATE_WORLDS").is_none() {
            assert!(self.probes >= probes, "too few probes: {self:?}");
            for part in [self.exempt, self.open, self.admitted, self.denied] {
                assert!(part >= probes / 50, "some kind of answer hardly occurs: {self:?}");
            }
        }
        eprintln!("{self:?}");
    }
}

/// Everything that the two implementations may disagree on, for one cluster.
fn hold_against_oracle(
    cluster: &Cluster,
    c: &mut Choices,
    probes: usize,
    tally: &mut Tally,
) -> Result<(), Box<Fault>> {
    let subject = Subject::new(cluster).expect("within limits");
    // Explaining takes words, so it is asked less often.
    let world = c.chance(25).then(|| World::from_cluster(cluster.clone()).expect("within limits"));
    let questions = Questions::about(cluster);
    for _ in 0..probes {
        let probe = questions.probe(c);
        let connection = subject.connection(&probe).expect("probes are about what is there");
        let expected = subject.expected(&connection);
        tally.count(&expected);
        let fault = subject.differs_from(&connection, &expected);
        let fault = fault.or_else(|| subject.misexplained(world.as_ref()?, &probe));
        if let Some(what) = fault {
            return Err(Box::new(Fault { what, probe }));
        }
    }
    Ok(())
}

struct Fault {
    what: String,
    probe: Probe,
}

/// Cuts the cluster down to what shows the fault, and fails.
fn fail(fault: &Fault, seed: u64, history: &[String], cluster: &Cluster) -> ! {
    let mut what = fault.what.clone();
    let smallest = minimise(cluster.clone(), &mut |candidate| {
        let Ok(subject) = Subject::new(candidate) else { return false };
        let fault = subject
            .difference(&fault.probe)
            .or_else(|| subject.misexplained(&World::from_cluster(candidate.clone()).ok()?, &fault.probe));
        fault.inspect(|fault| what.clone_from(fault)).is_some()
    });
    panic!(
        "PODGATE_SEED={seed}: after {history:?}\n{:?}\n{what}\nin this cluster:\n{}",
        fault.probe,
        describe(&smallest)
    );
}

#[test]
fn tables_and_oracle_agree() {
    let mut tally = Tally::default();
    for seed in seeds(10_000) {
        let mut c = Choices::seeded(seed);
        let cluster = generate::cluster(&mut c);
        if let Err(fault) = hold_against_oracle(&cluster, &mut c, 200, &mut tally) {
            fail(&fault, seed, &[], &cluster);
        }
    }
    tally.must_be_worth_it(2_000_000);
}

#[test]
fn tables_and_oracle_agree_after_every_change() {
    let mut tally = Tally::default();
    for seed in seeds(400) {
        let mut c = Choices::seeded(seed);
        let mut cluster = generate::cluster(&mut c);
        let mut history = Vec::new();
        for _ in 0..12 {
            history.push(generate::change(&mut c, &mut cluster));
            if let Err(fault) = hold_against_oracle(&cluster, &mut c, 80, &mut tally) {
                fail(&fault, seed, &history, &cluster);
            }
        }
    }
    tally.must_be_worth_it(300_000);
}

/// Bitsets of several words, programs of several lines.
#[test]
fn tables_and_oracle_agree_in_a_crowd() {
    let mut tally = Tally::default();
    for seed in seeds(24) {
        let mut c = Choices::seeded(seed);
        let cluster = generate::crowd(&mut c);
        if let Err(fault) = hold_against_oracle(&cluster, &mut c, 1500, &mut tally) {
            fail(&fault, seed, &[], &cluster);
        }
    }
    eprintln!("{tally:?}");
}

/// Pods that are judged elsewhere are peers like all others, and closed if they are judged here all the same.
#[test]
fn a_part_of_the_pods_compiles_to_the_same_verdicts() {
    for seed in seeds(400) {
        let mut c = Choices::seeded(seed);
        let cluster = generate::cluster(&mut c);
        let half = cluster.pods.keys().filter(|_| c.chance(50)).cloned().collect();
        let whole = compile(&cluster, Scope::AllPods, &Limits::default()).expect("within limits");
        let part = compile(&cluster, Scope::Pods(&half), &Limits::default()).expect("within limits");
        let questions = Questions::about(&cluster);
        let oracle = Oracle::new(&cluster);
        for _ in 0..100 {
            let probe = questions.probe(&mut c);
            let peer =
                |tables: &podgate_dataplane::policy::PolicyTables| podgate_dataplane::policy::PolicyPeer {
                    address: probe.to.address,
                    pod: tables.lookup(probe.to.address).map(|(_, slot)| slot),
                };
            let Some(pod) = oracle.party_at(probe.from.address).pod() else { continue };
            let ask = |tables: &podgate_dataplane::policy::PolicyTables| {
                let (_, slot) = tables.lookup(probe.from.address).expect("a pod");
                let (protocol, port) = (probe.protocol, probe.port);
                [
                    tables.egress(slot, peer(tables), protocol, port),
                    tables.ingress(slot, peer(tables), protocol, port),
                ]
            };
            let (whole, part) = (ask(&whole.tables), ask(&part.tables));
            let kind = |verdicts: [Verdict; 2]| verdicts.map(|v| (v.action, v.tier));
            if half.contains(&pod.name) {
                assert_eq!(kind(whole), kind(part), "PODGATE_SEED={seed}: {probe:?}\n{}", describe(&cluster));
            } else {
                assert_eq!(part.map(|v| v.tier), [Tier::Closed; 2], "PODGATE_SEED={seed}: {probe:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same on tapes of decisions, which the test runner shortens to the simplest that fails.
    #[test]
    fn tables_and_oracle_agree_on_tapes(
        tape in prop::collection::vec(any::<u16>(), 0..500),
        asked in prop::collection::vec(any::<u16>(), 0..200),
    ) {
        let cluster = generate::cluster(&mut Choices::tape(tape));
        let mut tally = Tally::default();
        let result = hold_against_oracle(&cluster, &mut Choices::tape(asked), 40, &mut tally);
        if let Err(fault) = result {
            return Err(TestCaseError::fail(format!("{:?}\n{}\n{}", fault.probe, fault.what, describe(&cluster))));
        }
    }
}

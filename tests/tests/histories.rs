//! A compiler that follows changes, against the oracle, along long random histories.
//!
//! After every burst of changes the tables must give the oracle's verdicts and explanations for the objects as they are
//! then. Tables of earlier moments are held for a while, as workers hold them, and must go on giving the verdicts of their
//! moment, whatever was changed, given up and used again since. Half of the histories are the same in every run, the other
//! half are new; `PODGATE_SEED=<seed>` runs one again, and `PODGATE_CHANGES=<count>` makes more changes.

#![allow(clippy::expect_used, clippy::panic)]

use std::hash::{BuildHasher, RandomState};

use podgate_config::model::Cluster;
use podgate_control::compiler::Limits;
use podgate_dataplane::policy::{Delivery, PolicyTables};
use podgate_tests::choices::Choices;
use podgate_tests::compare::Subject;
use podgate_tests::follow::Follower;
use podgate_tests::generate::{self, Questions, describe};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Tables that somebody still judges by.
struct Held {
    generation: u64,
    cluster: Cluster,
    tables: PolicyTables,
}

#[derive(Debug, Default)]
struct Tally {
    changes: u64,
    probes: u64,
    of_held: u64,
    allowed: u64,
    explained: u64,
}

/// Asks about one moment. What differs from the oracle's word, if anything does.
fn ask(
    cluster: &Cluster,
    tables: &PolicyTables,
    follower: Option<&Follower>,
    probes: usize,
    c: &mut Choices,
    tally: &mut Tally,
) -> Option<String> {
    let subject = Subject::compiled(cluster, tables.clone());
    let questions = Questions::about(cluster);
    (0..probes).find_map(|_| {
        let probe = questions.probe(c);
        let connection = subject.connection(&probe)?;
        let expected = subject.expected(&connection);
        tally.probes += 1;
        tally.allowed += u64::from(expected.allows());
        let fault = subject.differs_from(&connection, &expected).or_else(|| {
            let follower = follower.filter(|_| c.chance(20))?;
            tally.explained += 1;
            subject.misexplained(&follower.world, &probe)
        });
        fault.map(|what| format!("{probe:?}\n{what}"))
    })
}

fn history(seed: u64, changes: u64, mut cluster: Cluster, mut c: Choices, tally: &mut Tally) {
    // Some compilers keep what nobody has, and meet it again; others give it up as soon as they may.
    let limits = Limits { idle: if seed % 4 < 2 { 0 } else { 64 }, ..Limits::default() };
    let mut follower = Follower::new(limits, 0);
    let mut held: Vec<Held> = Vec::new();
    let mut done = Vec::new();
    let mut generation = 0;
    let mut told = 0;
    while told < changes {
        let tables = follower.follow(&cluster, |_| true, |_| Delivery::default()).expect("within limits");
        let fault = ask(&cluster, &tables, Some(&follower), 5, &mut c, tally);
        let fault = fault.or_else(|| {
            tally.of_held += 1;
            let Held { generation, cluster, tables } = held.get(c.below(held.len().max(1)))?;
            let fault = ask(cluster, tables, None, 5, &mut c, tally)?;
            Some(format!("tables of generation {generation}: {fault}"))
        });
        if let Some(fault) = fault {
            let start = done.len().saturating_sub(40);
            panic!(
                "PODGATE_SEED={seed}, generation {generation}: {fault}\nafter {:#?}\n{}",
                done.get(start..),
                describe(&cluster)
            );
        }
        // Some generations are never published: the next change comes first.
        if c.chance(80) {
            generation += 1;
            held.push(Held { generation, cluster: cluster.clone(), tables });
            while held.len() > 1 && c.chance(50) {
                held.swap_remove(c.below(held.len() - 1));
            }
            let oldest = held.iter().map(|held| held.generation).min();
            follower.published(generation, oldest.unwrap_or(generation));
        }
        for _ in 0..1 + c.below(3) {
            done.push(format!("{generation}: {}", generate::change(&mut c, &mut cluster)));
            told += 1;
        }
    }
    tally.changes += told;
    assert_eq!(follower.world.live().rebuilt(), 0);
}

fn run(each: u64, cluster: impl Fn(&mut Choices) -> Cluster) -> Tally {
    let mut tally = Tally::default();
    let changes = number("PODGATE_CHANGES").unwrap_or(50_000);
    let fresh = RandomState::new().hash_one(0) >> 16;
    let seeds: Vec<u64> = match number("PODGATE_SEED") {
        Some(seed) => vec![seed],
        None => (0..changes.div_ceil(each)).map(|n| if n % 2 == 0 { n } else { fresh + n }).collect(),
    };
    for seed in seeds {
        let mut c = Choices::seeded(seed);
        let cluster = cluster(&mut c);
        history(seed, each, cluster, c, &mut tally);
    }
    eprintln!("{tally:?}");
    if number("PODGATE_SEED").is_none() && number("PODGATE_CHANGES").is_none() {
        assert!(
            tally.changes >= changes && tally.probes > changes * 2 && tally.of_held > changes / 5,
            "{tally:?}"
        );
        assert!(tally.allowed > tally.probes / 10 && tally.explained > tally.probes / 20, "{tally:?}");
    }
    tally
}

/// Small clusters, in which everything meets everything.
#[test]
fn tables_follow_long_histories() {
    run(1_000, generate::cluster);
}

/// Bitsets of several words, programs of several lines.
#[test]
fn tables_follow_the_history_of_a_crowd() {
    run(5_000, generate::crowd);
}

//! What outlives a compilation of everything anew, and a failure.

use podgate_config::model::policy::NetworkPolicy;
use podgate_dataplane::packet::PortId;
use podgate_dataplane::policy::{Direction, PROGRAM_CLOSED, PolicyPeer, PolicyTables, Verdict};

use super::*;
use crate::compiler::PolicyHits;
use crate::compiler::world::{World, object, own, rule};

/// Room for one program: every other one has everything compiled anew, for the one that it replaces is still remembered.
fn one_program() -> Live {
    Live::new(Limits { program_words: 32, ..Limits::default() }, 1)
}

fn policy(name: &str, port: &str) -> Arc<NetworkPolicy> {
    let world = World::default().policy(name, "pod=a", Some(vec![rule(&[port], &[own("pod=b")])]), None);
    world.0.policies[&object(name)].clone()
}

fn set_policy(live: &mut Live, name: &str, port: &str) {
    live.set_policy(&object(name), Some(&policy(name, port)));
}

fn at(identity: u32) -> Delivery {
    Delivery { identity, port: Some(PortId(identity as u16)) }
}

/// x/a is judged here, x/b is not.
fn set_pods(live: &mut Live) {
    let world =
        World::default().pod("x/a", "pod=a", &["10.0.0.1"], &[]).pod("x/b", "pod=b", &["10.0.0.2"], &[]);
    for (identity, pod) in (1..).zip(world.0.pods.into_values()) {
        live.set_pod(pod, identity == 1, at(identity));
    }
}

/// From a pod to 10.0.0.1.
fn verdict(tables: &PolicyTables, from: &str, port: u16) -> Verdict {
    let address = from.parse().unwrap();
    let slot = |ip| tables.lookup(ip).map(|(_, slot)| slot);
    let subject = slot("10.0.0.1".parse().unwrap()).unwrap();
    tables.ingress(subject, PolicyPeer { address, pod: slot(address) }, 6, port)
}

#[test]
fn a_rebuild_knows_what_was_served() {
    let mut live = one_program();
    set_pods(&mut live);
    set_policy(&mut live, "x/web", "TCP/80");
    live.settle().unwrap();
    live.published(1);
    set_policy(&mut live, "x/web", "TCP/81");
    let tables = live.settle().unwrap();
    assert_eq!(live.rebuilt(), 1);
    assert!(verdict(&tables, "10.0.0.2", 81).allowed() && !verdict(&tables, "10.0.0.2", 80).allowed());
    let found = |tables: &PolicyTables, ip: &str| {
        let (index, slot) = tables.lookup(ip.parse().unwrap()).unwrap();
        (slot.ingress_program == PROGRAM_CLOSED, tables.delivery(index).unwrap())
    };
    assert_eq!(found(&tables, "10.0.0.1"), (false, at(1)));
    assert_eq!(found(&tables, "10.0.0.2"), (true, at(2)));
    live.set_delivery(&object("x/b"), at(3));
    assert_eq!(found(&live.settle().unwrap(), "10.0.0.2"), (true, at(3)));
    assert_eq!(live.rebuilt(), 1);
}

#[test]
fn hits_outlive_a_rebuild() {
    let mut live = one_program();
    set_pods(&mut live);
    set_policy(&mut live, "x/web", "TCP/80");
    let tables = live.settle().unwrap();
    live.published(1);
    tables.count(0, verdict(&tables, "10.0.0.2", 80));
    set_policy(&mut live, "x/web", "TCP/81");
    let tables = live.settle().unwrap();
    live.published(2);
    tables.count(0, verdict(&tables, "10.0.0.2", 81));
    let hits = |live: &Live| live.policy_hits()[&(object("x/web"), Direction::Ingress)];
    assert_eq!(hits(&live), PolicyHits { allowed: 2, denied: 0 }, "while the old tables are in use");
    assert!(!live.reclaim(2));
    assert_eq!((live.rebuilt(), hits(&live)), (1, PolicyHits { allowed: 2, denied: 0 }));
    // A policy that goes takes its hits along, those that another compiler counted too.
    set_policy(&mut live, "x/web", "TCP/82");
    live.settle().unwrap();
    live.published(3);
    live.set_policy(&object("x/web"), None);
    set_policy(&mut live, "x/web", "TCP/82");
    live.settle().unwrap();
    live.published(4);
    assert_eq!(hits(&live), PolicyHits::default(), "another one of that name");
    assert!(!live.reclaim(4));
    assert_eq!(hits(&live), PolicyHits::default());
    // Also while nothing compiles.
    live.tables().count(0, verdict(live.tables(), "10.0.0.2", 82));
    assert_eq!(hits(&live), PolicyHits { allowed: 1, denied: 0 });
    let other = World::default().policy("x/other", "pod=a", Some(vec![]), Some(vec![]));
    live.set_policy(&object("x/other"), other.0.policies.get(&object("x/other")));
    assert!(live.settle().is_err());
    live.set_policy(&object("x/web"), None);
    set_policy(&mut live, "x/web", "TCP/82");
    live.set_policy(&object("x/other"), None);
    live.settle().unwrap();
    live.published(5);
    assert_eq!(hits(&live), PolicyHits::default());
}

/// Numbers of programs begin anew with each compiler.
#[test]
fn nobody_speaks_for_the_generations_of_another_compiler() {
    let mut live = one_program();
    set_pods(&mut live);
    set_policy(&mut live, "x/first", "TCP/80");
    let tables = live.settle().unwrap();
    live.published(1);
    let said = verdict(&tables, "10.0.0.2", 80);
    live.set_policy(&object("x/first"), None);
    set_policy(&mut live, "x/second", "TCP/80");
    let tables = live.settle().unwrap();
    live.published(2);
    assert_eq!((live.rebuilt(), verdict(&tables, "10.0.0.2", 80).program), (1, said.program));
    assert_eq!(live.compiler_of(1).isolating_then(said.program, 1).unwrap(), [&object("x/first")]);
    assert_eq!(live.compiler_of(2).isolating_then(said.program, 2).unwrap(), [&object("x/second")]);
    live.reclaim(2);
    let ip = "10.0.0.2".parse().unwrap();
    assert_eq!(live.compiler_of(1).isolating_then(said.program, 1), None, "nobody knows any more");
    assert_eq!(live.compiler_of(1).admitting_then(said.program, said.interval, ip, 1), None);
    assert_eq!(live.compiler_of(2).isolating_then(said.program, 2).unwrap(), [&object("x/second")]);
}

/// The tables of before a failure are published again when something else changes: then they are of a new generation, and
/// what they refer to is in use although the pods that had it are gone.
#[test]
fn tables_given_before_a_failure_stay_good() {
    const PEERS: u16 = 40;
    let mut live = Live::new(Limits { pods: usize::from(PEERS) + 10, idle: 0, ..Limits::default() }, 1);
    let pod = |name: &str, labels: &str, address: String| {
        World::default().pod(name, labels, &[&address], &[]).0.pods.remove(&object(name)).unwrap()
    };
    let address = |n: u16| format!("10.1.{}.{}", n / 256, n % 256);
    let add = |live: &mut Live, kind: &str, n: u16| {
        let pod = pod(&format!("x/{kind}-{n}"), &format!("id={kind}-{n}"), address(n));
        live.set_pod(pod, true, Delivery::default());
    };
    set_pods(&mut live);
    let peers: Vec<_> = (0..PEERS).map(|n| rule(&["TCP"], &[own(&format!("id=peer-{n}"))])).collect();
    let world = World::default().policy("x/web", "pod=a", Some(peers), None);
    live.set_policy(&object("x/web"), world.0.policies.get(&object("x/web")));
    (0..PEERS).for_each(|n| add(&mut live, "peer", n));
    let tables = live.settle().unwrap();
    live.published(1);
    let good = |tables: &PolicyTables| (0..PEERS).all(|n| verdict(tables, &address(n), 80).allowed());
    assert!(good(&tables));

    (0..PEERS).for_each(|n| live.remove_pod(&object(&format!("x/peer-{n}"))));
    set_policy(&mut live, "x/late", "TCP/9");
    (0..PEERS + 20).for_each(|n| add(&mut live, "other", n));
    assert!(live.settle().is_err() && live.compiler().failed().is_some());
    for generation in 2..5 {
        live.published(generation);
        while live.reclaim(generation) {}
        assert!(good(&tables), "generation {generation}");
        assert_eq!(live.policy_hits().len(), 2);
        assert_eq!(live.compiler().policy_state(&object("x/late")), Some((1, None)), "in no generation yet");
        // What is told meanwhile is not lost.
        live.remove_pod(&object(&format!("x/other-{generation}")));
        assert!(live.settle().is_err());
    }
    (10..PEERS + 20).for_each(|n| live.remove_pod(&object(&format!("x/other-{n}"))));
    let tables = live.settle().unwrap();
    live.published(5);
    assert_eq!((live.rebuilt(), tables.addresses()), (1, 2 + 10 - 3));
    assert!(!verdict(&tables, &address(9), 80).allowed() && verdict(&tables, "10.0.0.2", 9).allowed());
    assert_eq!(live.compiler().policy_state(&object("x/late")), Some((1, Some(5))));
    assert_eq!(live.compiler().policy_state(&object("x/web")), Some((1, Some(1))));
}

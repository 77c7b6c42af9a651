use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packet::{PortId, Role, protocol};
use crate::policy::Judgement;

fn tuple(number: u32) -> Tuple {
    Tuple {
        source: IpAddr::from([10, 0, (number >> 8) as u8, number as u8]),
        destination: IpAddr::from([10, 1, 0, 1]),
        source_port: 1000,
        destination_port: 80,
        protocol: protocol::UDP,
    }
}

fn flow(tuple: Tuple, now: u64) -> Flow {
    let (key, heading) = FlowKey::of(&tuple, Role::Any);
    let hop = Hop { port: PortId(0), source_mac: [0; 6], destination_mac: [0; 6], mtu: 1500 };
    Flow {
        key,
        heading,
        original: tuple,
        translated: tuple,
        judged_port: tuple.destination_port,
        identities: [1, 2],
        entry_port: PortId(0),
        entry_mac: [0; 6],
        generation: 1,
        judgement: Judgement { egress: None, ingress: None },
        hops: [hop, hop],
        last_seen: Instant64::from_nanos(now),
        progress: Progress::Plain { answered: false },
    }
}

fn table(capacity: usize) -> FlowTable {
    FlowTable::new(capacity, Timeouts::default(), [1, 2, 3, 4])
}

fn seconds(seconds: u64) -> Instant64 {
    Instant64::from_nanos(seconds * 1_000_000_000)
}

fn answer(table: &mut FlowTable, id: FlowId) {
    table.get_mut(id).unwrap().progress = Progress::Plain { answered: true };
}

fn find(table: &FlowTable, tuple: &Tuple) -> Option<FlowId> {
    let (key, _) = FlowKey::of(tuple, Role::Any);
    table.find(table.hash(&key), &key)
}

#[test]
fn an_entry_is_expired_from_its_time_on_and_its_place_comes_back() {
    let mut table = table(1);
    let id = table.insert(flow(tuple(1), 0)).unwrap();
    assert!(!table.is_expired(id, seconds(29)));
    assert!(table.is_expired(id, seconds(30)));
    table.expire(id);
    table.expire(id);
    assert_eq!((find(&table, &tuple(1)), table.len(), table.counts().expired), (None, 0, 1));
    table.insert(flow(tuple(2), 0)).unwrap();
    assert_eq!(table.counts().evicted, 0);
}

#[test]
fn both_directions_find_one_entry() {
    let mut table = table(4);
    let id = table.insert(flow(tuple(1), 0)).unwrap();
    let (key, heading) = FlowKey::of(&tuple(1).reversed(), Role::Any);
    assert_eq!(table.find(table.hash(&key), &key), Some(id));
    assert_eq!(table.get(id).unwrap().side(heading), Side::Reply);
    assert_eq!(find(&table, &tuple(2)), None);
}

#[test]
fn pings_both_ways_with_one_identifier_are_two_connections() {
    // The identifier equals the type, the one case in which the reversed numbers are the same.
    let ping = Tuple { source_port: 8, destination_port: 8, protocol: protocol::ICMP, ..tuple(1) };
    let (there, heading) = FlowKey::of(&ping, Role::Request);
    let (answer, back) = FlowKey::of(&ping.reversed(), Role::Reply);
    let (here, _) = FlowKey::of(&ping.reversed(), Role::Request);
    assert_eq!(there, answer);
    assert_ne!(heading, back);
    assert_ne!(there, here);
}

#[test]
fn families_do_not_mix() {
    let mapped = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = Tuple { source: mapped("10.0.0.1"), destination: mapped("10.0.0.2"), ..tuple(1) };
    let v6 = Tuple { source: mapped("::a00:1"), destination: mapped("::a00:2"), ..tuple(1) };
    assert_ne!(FlowKey::of(&v4, Role::Any).0, FlowKey::of(&v6, Role::Any).0);
}

#[test]
fn the_oldest_embryonic_connection_goes_and_an_open_one_never() {
    let mut table = table(3);
    let ids: Vec<FlowId> = (0..3).map(|n| table.insert(flow(tuple(n), 0)).unwrap()).collect();
    answer(&mut table, ids[0]);
    table.insert(flow(tuple(3), 0)).unwrap();
    assert!(find(&table, &tuple(0)).is_some(), "open");
    assert!(find(&table, &tuple(1)).is_none(), "the oldest embryonic one");
    for n in [2, 3] {
        let id = find(&table, &tuple(n)).unwrap();
        answer(&mut table, id);
    }
    assert_eq!(table.insert(flow(tuple(4), 0)), Err(Full));
    assert_eq!(table.len(), 3);
    assert_eq!(table.counts().evicted, 1);
}

#[test]
fn silence_ends_a_connection_by_the_time_of_its_class() {
    let mut table = table(8);
    let embryonic = tuple(1);
    table.insert(flow(embryonic, 0)).unwrap();
    let open = tuple(2);
    let id = table.insert(flow(open, 0)).unwrap();
    answer(&mut table, id);
    table.age(seconds(29), 12);
    assert_eq!(table.len(), 2);
    table.age(seconds(31), 12);
    assert!(find(&table, &embryonic).is_none(), "UDP without answer: 30 s");
    assert!(find(&table, &open).is_some(), "UDP both ways: 120 s");
    table.age(seconds(121), 12);
    assert!(table.is_empty());
    assert_eq!(table.counts().expired, 2);
}

proptest! {
    /// Against a map: whatever is inserted, cut, seen and aged, the table holds what the map holds.
    #[test]
    fn the_table_agrees_with_a_map(steps in prop::collection::vec((0u8..5, 0u32..40), 1..400)) {
        let mut table = table(16);
        let mut model: BTreeMap<u32, (u64, bool)> = BTreeMap::new();
        let mut now = 0;
        for (step, number) in steps {
            let tuple = tuple(number);
            match (step, find(&table, &tuple)) {
                (0 | 1, None) => {
                    let before = table.counts().evicted;
                    if table.insert(flow(tuple, now)).is_ok() {
                        model.insert(number, (now, false));
                    }
                    if table.counts().evicted > before {
                        model.retain(|n, _| find(&table, &super::tests::tuple(*n)).is_some());
                    }
                }
                (2, Some(id)) => {
                    table.cut(id);
                    model.remove(&number);
                }
                (3, Some(id)) => {
                    let entry = table.get_mut(id).unwrap();
                    entry.last_seen = Instant64::from_nanos(now);
                    entry.progress = Progress::Plain { answered: true };
                    model.insert(number, (now, true));
                }
                (4, _) => {
                    now += Duration::from_secs(10).as_nanos() as u64;
                    table.age(Instant64::from_nanos(now), 3 * 40);
                    model.retain(|_, (seen, answered)| now - *seen < if *answered { 120 } else { 30 } * 1_000_000_000);
                }
                _ => {}
            }
            prop_assert_eq!(model.len(), (0..40).filter(|n| find(&table, &super::tests::tuple(*n)).is_some()).count());
            prop_assert!(model.keys().all(|n| find(&table, &super::tests::tuple(*n)).is_some()));
        }
    }
}

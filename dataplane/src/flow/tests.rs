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

/// A connection that is charged to the port of pod `account`.
fn flow_of(account: u16, tuple: Tuple, now: u64) -> Flow {
    let (key, heading) = FlowKey::of_tuple(&tuple, Role::Any);
    let hop = Hop { port: PortId(0), source_mac: [0; 6], destination_mac: [0; 6], mtu: 1500 };
    Flow {
        key,
        last_seen: Instant64::from_nanos(now),
        generation: 1,
        account: PortId(account),
        entry_port: PortId(0),
        judged_port: tuple.destination_port,
        heading,
        hops: [hop, hop],
        progress: Progress::open(&Evidence::Plain),
        identities: [1, 2],
        translated: tuple,
        judgement: Judgement { egress: None, ingress: None },
        entry_mac: [0; 6],
        upheld_for: 0,
        opened: Instant64::from_nanos(now),
    }
}

fn table(capacity: usize) -> FlowTable {
    FlowTable::new(capacity, capacity, 16, Timeouts::default(), [1, 2, 3, 4])
}

const START: Instant64 = Instant64::from_nanos(0);

/// Enters a connection at time 0.
fn enter(table: &mut FlowTable, account: u16, number: u32) -> Result<FlowId, NoRoom> {
    insert(table, flow_of(account, tuple(number), 0), START)
}

/// Enters a connection while all pods are there.
fn insert(table: &mut FlowTable, flow: Flow, now: Instant64) -> Result<FlowId, NoRoom> {
    table.insert(flow, now, |_| None)
}

fn seconds(seconds: u64) -> Instant64 {
    Instant64::from_nanos(seconds * 1_000_000_000)
}

/// There and back and there again at time 0: then it is open.
fn answer(table: &mut FlowTable, id: FlowId) {
    for side in [Side::Reply, Side::Original] {
        assert_eq!(table.get(id).unwrap().class(), Class::Embryonic);
        table.see(id, side, &Evidence::Plain, START).unwrap();
    }
    assert_eq!(table.get(id).unwrap().class(), Class::Open);
}

fn find(table: &FlowTable, tuple: &Tuple) -> Option<FlowId> {
    let (key, _) = FlowKey::of_tuple(tuple, Role::Any);
    table.find(table.hash(&key), &key)
}

#[test]
fn an_entry_is_expired_from_its_time_on_and_its_place_comes_back() {
    let mut table = table(1);
    let id = enter(&mut table, 0, 1).unwrap();
    assert!(!table.is_expired(id, seconds(29)));
    assert!(table.is_expired(id, seconds(30)));
    table.expire(id, seconds(30));
    table.expire(id, seconds(30));
    assert_eq!((find(&table, &tuple(1)), table.len(), table.counts().expired), (None, 0, 1));
    enter(&mut table, 0, 2).unwrap();
    assert_eq!(table.counts().evicted, 0);
}

#[test]
fn both_directions_find_one_entry() {
    let mut table = table(4);
    let id = enter(&mut table, 0, 1).unwrap();
    let (key, heading) = FlowKey::of_tuple(&tuple(1).reversed(), Role::Any);
    assert_eq!(table.find(table.hash(&key), &key), Some(id));
    assert_eq!(table.get(id).unwrap().side(heading), Side::Reply);
    assert_eq!(find(&table, &tuple(2)), None);
}

#[test]
fn pings_both_ways_with_one_identifier_are_two_connections() {
    // The identifier equals the type, the one case in which the reversed numbers are the same.
    let ping = Tuple { source_port: 8, destination_port: 8, protocol: protocol::ICMP, ..tuple(1) };
    let (there, heading) = FlowKey::of_tuple(&ping, Role::Request);
    let (answer, back) = FlowKey::of_tuple(&ping.reversed(), Role::Reply);
    let (here, _) = FlowKey::of_tuple(&ping.reversed(), Role::Request);
    assert_eq!(there, answer);
    assert_ne!(heading, back);
    assert_ne!(there, here);
}

#[test]
fn families_do_not_mix() {
    let mapped = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = Tuple { source: mapped("10.0.0.1"), destination: mapped("10.0.0.2"), ..tuple(1) };
    let v6 = Tuple { source: mapped("::a00:1"), destination: mapped("::a00:2"), ..tuple(1) };
    assert_ne!(FlowKey::of_tuple(&v4, Role::Any).0, FlowKey::of_tuple(&v6, Role::Any).0);
}

#[test]
fn the_oldest_embryonic_connection_goes_and_an_open_one_never() {
    let mut table = table(3);
    let first = enter(&mut table, 0, 0).unwrap();
    enter(&mut table, 0, 1).unwrap();
    enter(&mut table, 0, 2).unwrap();
    answer(&mut table, first);
    enter(&mut table, 0, 3).unwrap();
    assert!(find(&table, &tuple(0)).is_some(), "open");
    assert!(find(&table, &tuple(1)).is_none(), "the oldest embryonic one");
    for n in [2, 3] {
        let id = find(&table, &tuple(n)).unwrap();
        answer(&mut table, id);
    }
    assert_eq!(enter(&mut table, 1, 4), Err(NoRoom::Table));
    assert_eq!(table.len(), 3);
    assert_eq!(table.counts().evicted, 1);
    let charge = table.charges().of(PortId(0)).unwrap();
    assert_eq!(
        (charge.flows(), charge.embryonic(), charge.evicted(), charge.refused().count()),
        (3, 0, 1, 0)
    );
    assert_eq!(table.charges().of(PortId(1)).unwrap().refused().count(), 1);
}

#[test]
fn the_pod_with_the_most_embryonic_connections_makes_room() {
    let mut table = table(6);
    enter(&mut table, 1, 10).unwrap();
    for n in 20..23 {
        enter(&mut table, 2, n).unwrap();
    }
    for n in 30..32 {
        enter(&mut table, 3, n).unwrap();
    }
    // The third pod has fewer of them than the second, though more connections in all.
    enter(&mut table, 3, 32).unwrap();
    assert!(find(&table, &tuple(20)).is_none(), "the oldest of the second pod");
    for n in [30, 31] {
        let open = find(&table, &tuple(n)).unwrap();
        answer(&mut table, open);
    }
    enter(&mut table, 1, 11).unwrap();
    assert!(find(&table, &tuple(21)).is_none(), "open ones don't count");
    assert!([10, 11, 22, 30, 31, 32].iter().all(|n| find(&table, &tuple(*n)).is_some()));
    table.check();
    let evicted = |port| table.charges().of(PortId(port)).unwrap().evicted();
    assert_eq!([evicted(1), evicted(2), evicted(3)], [0, 2, 0]);
}

#[test]
fn a_pod_beyond_its_quota_makes_room_from_its_own() {
    let mut table = FlowTable::new(10, 2, 0, Timeouts::default(), [1, 2, 3, 4]);
    enter(&mut table, 1, 10).unwrap();
    for n in 20..24 {
        enter(&mut table, 2, n).unwrap();
    }
    assert!([10, 22, 23].iter().all(|n| find(&table, &tuple(*n)).is_some()));
    for n in [22, 23] {
        let id = find(&table, &tuple(n)).unwrap();
        answer(&mut table, id);
    }
    assert_eq!(enter(&mut table, 2, 24), Err(NoRoom::Pod));
    enter(&mut table, 1, 11).unwrap();
    table.check();
    let of = |port| table.charges().of(PortId(port)).unwrap();
    assert_eq!([of(1).flows(), of(2).flows()], [2, 2]);
    assert_eq!([of(1).refused().count(), of(2).evicted(), of(2).refused().count()], [0, 2, 1]);
}

/// Aging may not have come to them: it takes a fixed number of steps, and a worker that sleeps takes few.
#[test]
fn open_connections_whose_time_is_over_keep_nobody_out() {
    for (capacity, per_pod, full) in [(64, 4, NoRoom::Pod), (4, 4, NoRoom::Table)] {
        let mut table = FlowTable::new(capacity, per_pod, 0, Timeouts::default(), [1, 2, 3, 4]);
        for n in 0..4 {
            let id = enter(&mut table, 1, n).unwrap();
            answer(&mut table, id);
        }
        let pod = if full == NoRoom::Pod { 1 } else { 2 };
        // The one that came first was seen last.
        let id = find(&table, &tuple(0)).unwrap();
        table.see(id, Side::Original, &Evidence::Plain, seconds(60)).unwrap();
        assert_eq!(insert(&mut table, flow_of(pod, tuple(9), 0), seconds(119)), Err(full));
        insert(&mut table, flow_of(pod, tuple(9), 0), seconds(120)).unwrap();
        assert!(find(&table, &tuple(0)).is_some());
        assert_eq!((table.counts().expired, table.counts().evicted, table.len()), (1, 0, 4));
        table.check();
    }
}

#[test]
fn open_connections_of_pods_that_are_gone_keep_nobody_out() {
    let mut table = FlowTable::new(32, 20, 0, Timeouts::default(), [1, 2, 3, 4]);
    for n in 0..32 {
        let id = enter(&mut table, 1 + (n / 20) as u16, n).unwrap();
        answer(&mut table, id);
    }
    let denial = Denial { reason: DropReason::AddressMoved, decided_by: None, generation: 2 };
    let gone = |flow: &Flow| [tuple(15), tuple(25)].contains(&flow.translated).then_some(denial);
    // Only so many are looked at for one: the others have their turn the next time.
    let attempts = |table: &mut FlowTable, account, number| {
        let mut attempts = 1;
        while table.insert(flow_of(account, tuple(number), 0), START, gone).is_err() {
            attempts += 1;
            assert!(attempts < 10);
        }
        table.check();
        attempts
    };
    assert_eq!(attempts(&mut table, 1, 40), 2, "the sixteenth of the first pod's");
    let id = find(&table, &tuple(40)).unwrap();
    answer(&mut table, id);
    attempts(&mut table, 3, 41);
    assert!(find(&table, &tuple(15)).is_none() && find(&table, &tuple(25)).is_none());
    assert_eq!((table.counts().cut, table.counts().evicted, table.len()), (2, 0, 32));
}

#[test]
fn what_is_over_or_expired_goes_before_what_is_beginning() {
    use crate::packet::TcpFlags;
    let mut table = table(3);
    let segment = |flags, sequence, acknowledgement| Segment {
        flags: TcpFlags(flags),
        sequence,
        acknowledgement,
        window: 1000,
        payload: 0,
        scale: None,
    };
    enter(&mut table, 1, 1).unwrap();
    let tcp = Tuple { protocol: protocol::TCP, ..tuple(2) };
    let syn = Evidence::Tcp(segment(TcpFlags::SYN, 99, 0));
    let id =
        insert(&mut table, Flow { progress: Progress::open(&syn), ..flow_of(1, tcp, 0) }, START).unwrap();
    let refused = Evidence::Tcp(segment(TcpFlags::RST | TcpFlags::ACK, 0, 100));
    table.see(id, Side::Reply, &refused, START).unwrap();
    assert_eq!(table.get(id).unwrap().class(), Class::Closing);
    enter(&mut table, 1, 3).unwrap();
    enter(&mut table, 2, 4).unwrap();
    assert_eq!(find(&table, &tcp), None, "it is over");
    assert!([1, 3, 4].iter().all(|n| find(&table, &tuple(*n)).is_some()));
    // A minute later nothing of this is awaited any more, and no pod pays.
    insert(&mut table, flow_of(2, tuple(5), 0), seconds(60)).unwrap();
    assert_eq!((table.counts().expired, table.counts().evicted), (1, 1));
    table.check();
}

#[test]
fn a_sweep_takes_no_more_steps_than_it_is_given() {
    let mut table = table(1000);
    for n in 0..1000 {
        enter(&mut table, 0, n).unwrap();
    }
    for turn in 1..=10 {
        table.age(seconds(3600), 3 * 7);
        assert_eq!(table.len(), 1000 - 7 * turn, "one class in three has entries");
    }
    table.check();
}

#[test]
fn the_first_cache_line_has_what_every_packet_needs() {
    use std::mem::offset_of;
    assert_eq!((align_of::<Flow>(), size_of::<Option<Flow>>()), (64, 256));
    for offset in [
        offset_of!(Flow, key),
        offset_of!(Flow, last_seen),
        offset_of!(Flow, generation),
        offset_of!(Flow, account),
        offset_of!(Flow, heading),
    ] {
        assert!(offset < 64);
    }
    assert!(offset_of!(Flow, hops) + size_of::<[Hop; 2]>() <= 128);
}

#[test]
fn silence_ends_a_connection_by_the_time_of_its_class() {
    let mut table = table(8);
    let embryonic = tuple(1);
    enter(&mut table, 0, 1).unwrap();
    let open = tuple(2);
    let id = enter(&mut table, 0, 2).unwrap();
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
            let at = Instant64::from_nanos(now);
            match (step, find(&table, &tuple)) {
                (0 | 1, None) => {
                    let before = table.counts();
                    if insert(&mut table, flow_of((number % 3) as u16, tuple, now), at).is_ok() {
                        model.insert(number, (now, false));
                    }
                    if table.counts().evicted > before.evicted {
                        // The heaviest pod has lost one, the oldest that was not answered.
                        let lost: Vec<u32> =
                            model.keys().copied().filter(|n| find(&table, &super::tests::tuple(*n)).is_none()).collect();
                        prop_assert_eq!(lost.len(), 1);
                        let embryonic = |pod| model.iter().filter(|(n, (_, answered))| **n % 3 == pod && !answered && **n != number).count();
                        prop_assert!(!model[&lost[0]].1);
                        prop_assert_eq!(embryonic(lost[0] % 3), (0..3).map(embryonic).max().unwrap());
                        model.remove(&lost[0]);
                    }
                    model.retain(|n, (seen, answered)| now - *seen < silence(*answered) || find(&table, &super::tests::tuple(*n)).is_some());
                }
                (2, Some(id)) => {
                    table.cut(id, End::Replaced, Instant64::from_nanos(now));
                    model.remove(&number);
                }
                (3, Some(id)) => {
                    for side in [Side::Reply, Side::Original] {
                        table.see(id, side, &Evidence::Plain, at).unwrap();
                    }
                    model.insert(number, (now, true));
                }
                (4, _) => {
                    now += Duration::from_secs(10).as_nanos() as u64;
                    table.age(Instant64::from_nanos(now), 3 * 40);
                    model.retain(|_, (seen, answered)| now - *seen < silence(*answered));
                }
                _ => {}
            }
            table.check();
            prop_assert_eq!(model.len(), (0..40).filter(|n| find(&table, &super::tests::tuple(*n)).is_some()).count());
            prop_assert!(model.keys().all(|n| find(&table, &super::tests::tuple(*n)).is_some()));
        }
    }
}

fn silence(answered: bool) -> u64 {
    if answered { 120_000_000_000 } else { 30_000_000_000 }
}

fn closed(table: &FlowTable, number: u32) -> Vec<(u64, End)> {
    let (key, _) = FlowKey::of_tuple(&tuple(number), Role::Any);
    let found = table.find_closed(table.hash(&key), &key, 3);
    found.map(|flow| (flow.ended.as_nanos() / 1_000_000_000, flow.end)).collect()
}

#[test]
fn a_flood_does_not_wash_out_what_was_answered_or_cut() {
    let mut table = table(4);
    let answered = enter(&mut table, 0, 1).unwrap();
    answer(&mut table, answered);
    table.expire(answered, seconds(1));
    let denial = Denial { reason: DropReason::PolicyRevoked, decided_by: None, generation: 2 };
    let cut = enter(&mut table, 0, 2).unwrap();
    table.cut(cut, End::Cut(denial), seconds(2));
    for number in 3..1000 {
        enter(&mut table, 0, number).unwrap();
    }
    assert_eq!(closed(&table, 1), [(1, End::Expired)]);
    assert_eq!(closed(&table, 2), [(2, End::Cut(denial))]);
    // The last 4 are there still. Of the others the last 2 are remembered, an eighth of 16.
    let remembered: Vec<u32> = (3..1000).filter(|number| !closed(&table, *number).is_empty()).collect();
    assert_eq!(remembered, [994, 995]);
    assert_eq!(closed(&table, 995), [(0, End::Evicted)]);
}

/// As the setting's help says.
#[test]
fn a_connection_that_is_over_takes_200_bytes() {
    assert!((180..=210).contains(&(size_of::<Option<ClosedFlow>>() + size_of::<u64>())));
}

#[test]
fn the_newest_connections_that_ended_take_the_places_of_the_oldest() {
    let mut table = table(4);
    let mut end = |number, at| {
        let id = enter(&mut table, 0, number).unwrap();
        answer(&mut table, id);
        table.cut(id, End::Replaced, seconds(at));
    };
    // Round and round: 14 places.
    (0..30).for_each(|at| end(1, at));
    (30..35).for_each(|at| end(2, at));
    let ends = |number| closed(&table, number).iter().map(|(at, _)| *at).collect::<Vec<_>>();
    assert_eq!((ends(1), ends(2)), (vec![29, 28, 27], vec![34, 33, 32]), "the newest first, so many at most");
    (40..53).for_each(|at| {
        let id = enter(&mut table, 0, 3).unwrap();
        answer(&mut table, id);
        table.cut(id, End::Replaced, seconds(at));
    });
    let ends = |number| closed(&table, number).iter().map(|(at, _)| *at).collect::<Vec<_>>();
    assert_eq!((ends(1), ends(2), ends(3)), (vec![], vec![34], vec![52, 51, 50]));
}

#[test]
fn what_is_upheld_says_when_it_was_judged() {
    let mut table = table(1);
    let id = enter(&mut table, 0, 1).unwrap();
    let mut judged = |generation, is_upheld| {
        let Flow { judgement, hops, .. } = table.get(id).unwrap().clone();
        table.judged(id, generation, judgement, is_upheld, hops);
        let facts = table.get(id).unwrap().facts();
        (facts.generation, facts.judged_under)
    };
    assert_eq!(judged(3, false), (3, 3));
    assert_eq!(judged(5, true), (5, 3));
    assert_eq!(judged(9, true), (9, 3));
    assert_eq!(judged(10, false), (10, 10));
}

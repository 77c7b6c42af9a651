//! The read side as a whole, on tables made by hand.

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Three pods: atom 0 is isolated in ingress by a program that admits atom 1 on TCP 80 and 203.0.113.0/24 plus
/// pods in 10.0.0.0/30 on UDP; atom 2 is closed.
fn tables() -> PolicyTables {
    let mut builder = TablesBuilder::new(3).unwrap();
    let ranges = builder.add_ranges(&[0x0a00_0000, 0x0a00_0004, 0xcb00_7100, 0xcb00_7200], &[]).unwrap();
    let atom_1 = builder.add_row(&[0b010], None, false).unwrap();
    let blocks = builder.add_row(&[], Some(ranges), true).unwrap();
    let program = builder
        .add_program(&[
            (0, RowRef::NOBODY),
            (80, atom_1),
            (81, RowRef::NOBODY),
            (1 << 16, blocks),
            (2 << 16, RowRef::NOBODY),
        ])
        .unwrap();
    let open = PROGRAM_NONE;
    for (ip, atom, ingress_program, egress_program) in [
        ("10.0.0.1", 0, program, open),
        ("fd00::1", 0, program, open),
        ("10.0.0.2", 1, open, open),
        ("10.0.9.9", 2, PROGRAM_CLOSED, PROGRAM_CLOSED),
    ] {
        builder.add_pod(address(ip), PodSlot { atom, ingress_program, egress_program }).unwrap();
    }
    builder.finish(HashSeed::new(11, 13)).unwrap()
}

fn question(tables: &PolicyTables, from: &str, to: &str, protocol: u8, port: u16) -> Question {
    let (source, destination) = (address(from), address(to));
    let slot = |ip| tables.lookup(ip).map(|(_, slot)| slot);
    Question {
        source,
        source_pod: slot(source),
        destination,
        destination_pod: slot(destination),
        protocol,
        port,
        judge_egress: slot(source).is_some(),
        judge_ingress: slot(destination).is_some(),
        same_pod: false,
        from_own_node: false,
        to_own_node: false,
    }
}

#[test]
fn rows_answer_by_atom_and_by_address() {
    let tables = tables();
    for (from, to, protocol, port, expected) in [
        ("10.0.0.2", "10.0.0.1", 6, 80, true),
        ("10.0.0.2", "10.0.0.1", 6, 81, false),
        ("10.0.0.2", "10.0.0.1", 17, 9, true), // by its address
        ("10.0.0.2", "10.0.0.1", 132, 80, false),
        ("10.0.0.2", "10.0.0.1", 1, 0, false),
        ("203.0.113.255", "10.0.0.1", 17, 9, true),
        ("203.0.114.0", "10.0.0.1", 17, 9, false),
        ("203.0.113.1", "10.0.0.1", 6, 80, false),
        ("10.0.0.2", "fd00::1", 6, 80, true), // every address of the pod
        ("fd00::2", "fd00::1", 17, 9, false), // the ranges are IPv4
        ("10.0.0.1", "10.0.0.2", 1, 0, true), // not isolated
        ("10.0.9.9", "10.0.0.2", 6, 80, false),
        ("10.0.0.2", "10.0.9.9", 6, 80, false),
    ] {
        let judgement = judge(&tables, &question(&tables, from, to, protocol, port));
        assert_eq!(judgement.allowed(), expected, "{from} -> {to} {protocol}/{port}: {judgement:?}");
        assert_eq!(judgement.denied_by().is_none(), expected);
    }
}

#[test]
fn pods_not_flagged_are_not_looked_for_in_ranges() {
    let mut builder = TablesBuilder::new(1).unwrap();
    let ranges = builder.add_ranges(&[0], &[0]).unwrap();
    let row = builder.add_row(&[0], Some(ranges), false).unwrap();
    let program = builder.add_program(&[(0, row)]).unwrap();
    let slot = PodSlot { atom: 0, ingress_program: program, egress_program: program };
    let tables = builder.finish(HashSeed::new(1, 1)).unwrap();
    for (ip, pod, expected) in [
        ("0.0.0.0", None, true),
        ("255.255.255.255", None, true),
        ("ffff::", None, true),
        ("::", Some(slot), false),
    ] {
        let verdict = tables.ingress(slot, PolicyPeer { address: address(ip), pod }, 6, 1);
        assert_eq!(verdict.allowed(), expected, "{ip}");
    }
}

/// F31, F32: the exemptions hold for closed and for unknown pods too, and for nothing else.
#[test]
fn exemptions() {
    let tables = tables();
    let closed = question(&tables, "10.0.9.9", "10.0.0.1", 6, 443);
    assert!(!judge(&tables, &closed).allowed());

    let itself = Question { same_pod: true, ..closed };
    let verdicts = judge(&tables, &itself);
    assert_eq!((verdicts.egress, verdicts.ingress), (Some(Verdict::EXEMPT), Some(Verdict::EXEMPT)));

    let from_node = Question { judge_egress: false, source_pod: None, from_own_node: true, ..closed };
    assert_eq!(judge(&tables, &from_node).ingress, Some(Verdict::EXEMPT));
    let to_node = Question { judge_ingress: false, destination_pod: None, to_own_node: true, ..closed };
    assert_eq!(judge(&tables, &to_node).egress, Some(Verdict::EXEMPT));

    let nothing_known = PolicyTables::empty();
    assert_eq!(nothing_known.slots(), 0);
    let lost = Question { source_pod: None, destination_pod: None, ..closed };
    let verdicts = judge(&nothing_known, &lost);
    assert_eq!(verdicts.denied_by(), Some((Direction::Egress, Verdict::CLOSED)));
    assert_eq!(verdicts.ingress, Some(Verdict::CLOSED));
    assert!(judge(&nothing_known, &Question { from_own_node: true, to_own_node: true, ..lost }).allowed());
}

#[test]
fn directions_judged_elsewhere_have_no_verdict() {
    let tables = tables();
    let q = question(&tables, "10.0.9.9", "10.0.0.1", 6, 443);
    let judgement = judge(&tables, &Question { judge_egress: false, judge_ingress: false, ..q });
    assert_eq!(judgement, Judgement { egress: None, ingress: None });
    assert!(judgement.allowed());
}

#[test]
fn indexes_are_distinct_and_below_slots() {
    let tables = tables();
    let mut seen = std::collections::BTreeSet::new();
    for ip in ["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.9.9"] {
        let (index, _) = tables.lookup(address(ip)).unwrap();
        assert!(index.get() < tables.slots() && seen.insert(index));
    }
    assert!(tables.lookup(address("10.0.0.3")).is_none());
    assert!(tables.lookup(address("::ffff:10.0.0.1")).is_none());
}

#[test]
fn hits_add_up_over_workers() {
    let tables = tables().with_hits(2);
    let (_, subject) = tables.lookup(address("10.0.0.1")).unwrap();
    let (_, peer) = tables.lookup(address("10.0.0.2")).unwrap();
    let peer = PolicyPeer { address: address("10.0.0.2"), pod: Some(peer) };
    let (on_80, on_81) = (tables.ingress(subject, peer, 6, 80), tables.ingress(subject, peer, 6, 81));
    tables.count(0, on_80);
    tables.count(1, on_80);
    tables.count(1, on_81);
    tables.count(7, on_81);
    tables.count(0, Verdict::CLOSED);
    tables.count(0, Verdict::NOT_ISOLATED);
    assert_eq!(tables.clone().hits(on_80.program, on_80.interval, Action::Allow), 2);
    assert_eq!(tables.hits(on_80.program, on_80.interval, Action::Deny), 0);
    assert_eq!(tables.hits(on_81.program, on_81.interval, Action::Deny), 1);
    assert_eq!(tables.hits(on_81.program, 0, Action::Deny), 0);
}

#[test]
fn the_builder_refuses_what_does_not_fit() {
    let mut builder = TablesBuilder::new(65).unwrap();
    assert_eq!(builder.words_per_row(), 2);
    assert!(builder.add_row(&[1], None, false).is_err());
    assert!(builder.add_ranges(&[2, 2], &[]).is_err());
    assert!(builder.add_ranges(&[], &[3, 1]).is_err());
    assert_eq!(builder.add_row(&[], None, false), Ok(RowRef::NOBODY));
    for bad in [
        &[][..],
        &[(1, RowRef::NOBODY)],
        &[(0, RowRef::NOBODY); 2],
        &[(0, RowRef::NOBODY), (KEY_END, RowRef::NOBODY)],
    ] {
        assert!(builder.add_program(bad).is_err());
    }
    let slot = PodSlot { atom: 64, ingress_program: PROGRAM_NONE, egress_program: PROGRAM_CLOSED };
    assert!(builder.add_pod(address("10.0.0.1"), PodSlot { atom: 65, ..slot }).is_err());
    assert!(builder.add_pod(address("10.0.0.1"), PodSlot { ingress_program: 0, ..slot }).is_err());
    builder.add_pod(address("10.0.0.1"), slot).unwrap();
    builder.add_pod(address("10.0.0.1"), slot).unwrap();
    assert_eq!(
        builder.finish(HashSeed::new(1, 2)).err(),
        Some(BuildError::DuplicateAddress(address("10.0.0.1")))
    );
}

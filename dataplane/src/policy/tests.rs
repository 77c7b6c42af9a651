//! The read side as a whole, on tables made by hand.

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Three pods: atom 0 is isolated in ingress by a program that admits atom 1 on TCP 80 and 203.0.113.0/24 plus
/// pods in 10.0.0.0/30 on UDP; atom 2 is closed.
fn writer() -> TablesWriter {
    let mut writer = TablesWriter::new(HashSeed::new(11, 13), 2);
    let ranges = writer.add_ranges(&[0x0a00_0000, 0x0a00_0004, 0xcb00_7100, 0xcb00_7200], &[]).unwrap();
    let atom_1 = writer.add_row(&[0b010], None, false).unwrap();
    let blocks = writer.add_row(&[], Some(ranges), true).unwrap();
    let program = writer
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
        let slot = PodSlot { atom, ingress_program, egress_program };
        let identity = Delivery { identity: atom + 1, port: None };
        writer.set_pod(address(ip), slot, identity).unwrap();
    }
    writer
}

fn tables() -> PolicyTables {
    writer().tables()
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

/// No row names it, so nothing but its pod can have told that rows have to be longer.
#[test]
fn an_atom_that_no_row_admits_is_in_none() {
    let mut writer = TablesWriter::new(HashSeed::new(11, 13), 0);
    let rows = [[0], [u64::MAX], [u64::MAX]].map(|bits| writer.add_row(&bits, None, false).unwrap());
    let program = writer.add_program(&[(0, rows[0])]).unwrap();
    let peers = [63, 64, 65, 127, 128, 191, 1000];
    for (ip, atom) in (1u8..).zip(peers) {
        let slot = PodSlot { atom, ingress_program: program, egress_program: PROGRAM_NONE };
        writer.set_pod([10, 0, 0, ip].into(), slot, Delivery::default()).unwrap();
    }
    let tables = writer.tables();
    for (ip, atom) in (1u8..).zip(peers) {
        let from = format!("10.0.0.{ip}");
        let to = if ip == 1 { "10.0.0.2" } else { "10.0.0.1" };
        assert!(!judge(&tables, &question(&tables, &from, to, 6, 80)).allowed(), "atom {atom}");
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
    let mut writer = TablesWriter::new(HashSeed::new(1, 1), 0);
    let ranges = writer.add_ranges(&[0], &[0]).unwrap();
    let row = writer.add_row(&[0], Some(ranges), false).unwrap();
    let program = writer.add_program(&[(0, row)]).unwrap();
    let slot = PodSlot { atom: 0, ingress_program: program, egress_program: program };
    let tables = writer.tables();
    for (ip, pod, expected) in [
        ("0.0.0.0", None, true),
        ("255.255.255.255", None, true),
        ("ffff::", None, true),
        ("::", Some(slot), false),
    ] {
        let verdict = tables.ingress(slot, PolicyPeer { address: address(ip), pod }, 6, 1);
        assert_eq!(verdict.allowed(), expected, "{ip}");
    }
    writer.look_for_pods(row);
    let verdict = tables.ingress(slot, PolicyPeer { address: address("::"), pod: Some(slot) }, 6, 1);
    assert!(verdict.allowed(), "from now on");
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
    assert_eq!(nothing_known.addresses(), 0);
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
fn every_address_has_a_delivery_of_its_own() {
    let tables = tables();
    for (ip, identity) in [("10.0.0.1", 1), ("fd00::1", 1), ("10.0.0.2", 2), ("10.0.9.9", 3)] {
        let (index, _) = tables.lookup(address(ip)).unwrap();
        assert_eq!(tables.delivery(index), Some(Delivery { identity, port: None }));
    }
    assert!(tables.lookup(address("10.0.0.3")).is_none());
    assert!(tables.lookup(address("::ffff:10.0.0.1")).is_none());
    assert_eq!(tables.addresses(), 4);
}

/// What workers hold answers as before while the next version is written.
#[test]
fn tables_stay_what_they_were() {
    let mut writer = writer();
    let before = writer.tables();
    let ask = |tables: &PolicyTables, from: &str, port| {
        judge(tables, &question(tables, from, "10.0.0.1", 6, port)).allowed()
    };
    assert!(ask(&before, "10.0.0.2", 80) && !ask(&before, "10.0.0.2", 443));
    let old = before.lookup(address("10.0.0.1")).unwrap().1;
    // A new pod of a new atom, admitted in place by a row that is in use; and a new program for the old pod.
    let (_, row) = before.programs.find(old.ingress_program, interval_key(6, 80)).unwrap();
    writer.admit(row, 1_000);
    let pod = PodSlot { atom: 1_000, ingress_program: PROGRAM_NONE, egress_program: PROGRAM_NONE };
    writer.set_pod(address("10.0.0.3"), pod, Delivery::default()).unwrap();
    let middle = writer.tables();
    let program =
        writer.add_program(&[(0, RowRef::NOBODY), (443, RowRef::EVERYBODY), (444, RowRef::NOBODY)]).unwrap();
    writer
        .set_pod(address("10.0.0.1"), PodSlot { ingress_program: program, ..old }, Delivery::default())
        .unwrap();
    assert!(writer.remove_pod(address("10.0.0.2")) && !writer.remove_pod(address("10.0.0.2")));
    let after = writer.tables();
    assert!(ask(&before, "10.0.0.2", 80) && !ask(&before, "10.0.0.2", 443));
    assert!(before.lookup(address("10.0.0.3")).is_none());
    assert!(ask(&middle, "10.0.0.3", 80) && ask(&middle, "10.0.0.2", 80) && !ask(&middle, "10.0.0.3", 443));
    assert!(!ask(&after, "10.0.0.3", 80) && ask(&after, "10.0.0.3", 443));
    assert!(after.lookup(address("10.0.0.2")).is_none());
    // The atom is given up: its bit goes, in place, before another one gets its number.
    writer.withdraw(row, 1_000);
    assert!(!ask(&middle, "10.0.0.3", 80));
}

#[test]
fn hits_add_up_over_workers() {
    let mut writer = writer();
    let tables = writer.tables();
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
    assert_eq!(writer.hits(on_80.program, on_80.interval, Action::Allow), 2);
    // Whoever gets its place begins at nothing.
    writer.remove_program(on_80.program);
    let next = writer.add_program(&[(0, RowRef::EVERYBODY)]).unwrap();
    assert_eq!(next, on_80.program);
    assert_eq!(writer.hits(next, on_80.interval, Action::Allow), 0);
}

#[test]
fn the_writer_refuses_what_does_not_fit() {
    let mut writer = TablesWriter::new(HashSeed::new(1, 2), 0);
    assert!(writer.add_ranges(&[2, 2], &[]).is_err());
    assert!(writer.add_ranges(&[], &[3, 1]).is_err());
    for bad in [
        &[][..],
        &[(1, RowRef::NOBODY)],
        &[(0, RowRef::NOBODY); 2],
        &[(0, RowRef::NOBODY), (KEY_END, RowRef::NOBODY)],
    ] {
        assert!(writer.add_program(bad).is_err());
    }
    let slot = PodSlot { atom: 64, ingress_program: PROGRAM_NONE, egress_program: PROGRAM_CLOSED };
    let nobody = Delivery::default();
    let mut set = |slot| writer.set_pod(address("10.0.0.1"), slot, nobody);
    assert!(set(PodSlot { atom: u32::MAX, ..slot }).is_err());
    assert!(set(PodSlot { ingress_program: 0, ..slot }).is_err());
    assert_eq!((set(slot), set(slot)), (Ok(()), Ok(())));
}

/// Rows and ranges come and go; what is there keeps its content, whoever had its place before.
#[test]
fn places_of_rows_and_ranges_are_used_again() {
    let mut writer = TablesWriter::new(HashSeed::new(1, 2), 0);
    let mut rows = Vec::new();
    for n in 0..300u32 {
        let ranges = writer.add_ranges(&[n, n + 1], &[]).unwrap();
        rows.push((writer.add_row(&[1 << (n % 64), u64::from(n)], Some(ranges), false).unwrap(), ranges));
    }
    assert_eq!((writer.rows(), writer.range_boundaries()), (300, 600));
    for (row, ranges) in rows.drain(..).step_by(2) {
        writer.remove_row(row);
        writer.remove_ranges(ranges);
    }
    assert_eq!((writer.rows(), writer.range_boundaries()), (150, 300));
    for n in 0..150u32 {
        let ranges = writer.add_ranges(&[1_000 + n], &[]).unwrap();
        let row = writer.add_row(&[2], Some(ranges), false).unwrap();
        let program = writer.add_program(&[(0, row)]).unwrap();
        let tables = writer.tables();
        let subject = PodSlot { atom: 0, ingress_program: program, egress_program: PROGRAM_NONE };
        let admits = |ip: u32, atom: Option<u32>| {
            let slot = |atom| PodSlot { atom, ..subject };
            let peer = PolicyPeer { address: std::net::Ipv4Addr::from_bits(ip).into(), pod: atom.map(slot) };
            tables.ingress(subject, peer, 6, 1).allowed()
        };
        assert!(admits(1_000 + n, None) && !admits(999 + n, None));
        assert!(admits(0, Some(1)) && !admits(0, Some(0)) && !admits(0, Some(64 + n % 64)));
    }
    assert_eq!(writer.rows(), 300);
}

//! The compiler against small clusters, by the sections of the semantics it implements. The comparison with an
//! independent oracle on generated clusters lives in the `tests` crate.

use std::collections::BTreeSet;

use podgate_config::model::pod::Phase;
use podgate_dataplane::policy::{Direction, PROGRAM_CLOSED, PROGRAM_NONE, PolicyPeer, Tier};

use super::world::{World, across, block, object, own, rule};
use super::{Admitted, CompileError, Compiler, Limits, PolicyHits, Scope, compile};

/// x/a, x/b, y/a, y/b, each with a TCP port `http`: 80 on a, 8080 on b.
fn four_pods() -> World {
    let (a, b) = (&["http=TCP/80", "dns=UDP/53"][..], &["http=TCP/8080"][..]);
    World::default()
        .namespace("x", "team=red")
        .namespace("y", "team=blue")
        .pod("x/a", "pod=a,tier=web", &["10.0.0.1", "fd00::1"], a)
        .pod("x/b", "pod=b", &["10.0.0.2", "fd00::2"], b)
        .pod("y/a", "pod=a", &["10.0.1.1", "fd00::11"], a)
        .pod("y/b", "pod=b", &["10.0.1.2", "fd00::12"], b)
}

/// Section A.
mod isolation {
    use super::*;

    #[test]
    fn a1_unselected_pods_take_everything() {
        four_pods().policy("x/deny", "pod=a", Some(vec![]), None).expect(&[
            ("x/b -> x/a TCP/80", false),
            ("y/a -> x/a 1/0", false),
            ("x/a -> x/b TCP/80", true),
            ("x/b -> y/a 47/0", true),
            ("192.0.2.1 -> x/b SCTP/5", true),
        ]);
    }

    #[test]
    fn a2_directions_are_separate() {
        four_pods().policy("x/egress", "", None, Some(vec![])).expect(&[
            ("y/a -> x/a TCP/80", true),
            ("x/a -> y/a TCP/80", false),
            ("x/a -> 192.0.2.1 TCP/80", false),
        ]);
    }

    #[test]
    fn a3_policies_add_up() {
        four_pods()
            .policy("x/deny", "", Some(vec![]), None)
            .policy("x/from-b", "pod=a", Some(vec![rule(&["TCP/80"], &[own("pod=b")])]), None)
            .policy("x/from-y", "pod=a", Some(vec![rule(&["TCP/81"], &[across("team=blue", "")])]), None)
            .expect(&[
                ("x/b -> x/a TCP/80", true),
                ("x/b -> x/a TCP/81", false),
                ("y/a -> x/a TCP/81", true),
                ("y/a -> x/a TCP/80", false),
                ("x/a -> x/b TCP/80", false),
            ]);
    }

    #[test]
    fn a4_both_ends_must_agree() {
        let world = four_pods().policy("x/out", "pod=a", None, Some(vec![rule(&[], &[own("pod=b")])]));
        world.clone().expect(&[("x/a -> x/b TCP/80", true), ("x/a -> y/b TCP/80", false)]);
        let world = world.policy("x/in", "pod=b", Some(vec![]), None);
        world.expect(&[("x/a -> x/b TCP/80", false)]);
    }

    #[test]
    fn a5_a6_a_policy_selects_in_its_own_namespace() {
        four_pods().policy("x/deny", "", Some(vec![]), None).expect(&[
            ("y/a -> x/a TCP/80", false),
            ("y/a -> x/b TCP/80", false),
            ("x/a -> y/a TCP/80", true),
            ("y/b -> y/a TCP/80", true),
        ]);
    }
}

/// Section C.
mod rules {
    use super::*;

    #[test]
    fn c10_ports_and_peers_of_one_rule() {
        let rules = vec![rule(&["TCP/80"], &[own("pod=b")]), rule(&["TCP/81"], &[across("team=blue", "")])];
        four_pods().policy("x/p", "pod=a", Some(rules), None).expect(&[
            ("x/b -> x/a TCP/80", true),
            ("x/b -> x/a TCP/81", false),
            ("y/b -> x/a TCP/80", false),
            ("y/b -> x/a TCP/81", true),
        ]);
    }

    #[test]
    fn c11_nothing_given_is_everything() {
        four_pods()
            .policy("x/any-peer", "pod=a", Some(vec![rule(&["TCP/80"], &[])]), None)
            .policy("x/any-port", "pod=b", Some(vec![rule(&[], &[own("pod=a")])]), None)
            .policy("y/all", "pod=a", Some(vec![rule(&[], &[])]), Some(vec![rule(&[], &[])]))
            .expect(&[
                ("y/a -> x/a TCP/80", true),
                ("192.0.2.1 -> x/a TCP/80", true),
                ("2001:db8::1 -> fd00::1 TCP/80", true),
                ("y/a -> x/a TCP/81", false),
                ("y/a -> x/a 1/0", false),
                ("x/a -> x/b UDP/9", true),
                ("x/a -> x/b 1/0", true),
                ("x/a -> x/b 255/0", true),
                ("y/b -> x/b 1/0", false),
                ("192.0.2.1 -> y/a 1/0", true),
                ("y/a -> 192.0.2.1 SCTP/1", true),
            ]);
    }

    #[test]
    fn c12_selectors_in_one_peer_and_in_two() {
        let and = vec![rule(&[], &[across("team=blue", "pod=a")])];
        four_pods().policy("x/and", "pod=b", Some(and), None).expect(&[
            ("y/a -> x/b TCP/1", true),
            ("y/b -> x/b TCP/1", false),
            ("x/a -> x/b TCP/1", false),
        ]);
        let or = vec![rule(&[], &[across("team=blue", ""), own("pod=a")])];
        four_pods().policy("x/or", "pod=b", Some(or), None).expect(&[
            ("y/a -> x/b TCP/1", true),
            ("y/b -> x/b TCP/1", true),
            ("x/a -> x/b TCP/1", true),
        ]);
    }

    #[test]
    fn c13_c14_selectors_select_pods_only() {
        four_pods()
            .policy("x/own", "pod=a", Some(vec![rule(&[], &[own("")])]), None)
            .policy("x/all", "pod=b", Some(vec![rule(&[], &[across("", "")])]), None)
            .expect(&[
                ("x/b -> x/a TCP/1", true),
                ("y/b -> x/a TCP/1", false),
                ("y/b -> x/b TCP/1", true),
                ("192.0.2.1 -> x/b TCP/1", false),
                ("192.0.2.1 -> x/a TCP/1", false),
            ]);
    }

    #[test]
    fn c15_nobody_is_not_everybody() {
        four_pods()
            .policy("x/p", "pod=a", Some(vec![rule(&[], &[own("pod=none"), across("team=none", "")])]), None)
            .expect(&[
                ("x/b -> x/a TCP/1", false),
                ("y/b -> x/a TCP/1", false),
                ("192.0.2.1 -> x/a TCP/1", false),
            ]);
    }

    #[test]
    fn c16_operators() {
        let world = World::default()
            .pod("x/target", "role=target", &["10.0.0.1"], &[])
            .pod("x/a", "app=a", &["10.0.0.2"], &[])
            .pod("x/b", "app=b", &["10.0.0.3"], &[])
            .pod("x/empty", "app=", &["10.0.0.4"], &[])
            .pod("x/none", "", &["10.0.0.5"], &[]);
        for (peer, a, b, empty, none) in [
            ("app in a|b", true, true, false, false),
            ("app=", false, false, true, false),
            ("app notin a", false, true, true, true),
            ("app notin a|b", false, false, true, true),
            ("app notin z", true, true, true, true),
            ("app", true, true, true, false),
            ("!app", false, false, false, true),
            ("app,app notin b", true, false, true, false),
            ("app in a|b,app notin b", true, false, false, false),
            ("app=a,app=b", false, false, false, false),
            ("app,!app", false, false, false, false),
        ] {
            let world = world.clone().policy("x/p", "role=target", Some(vec![rule(&[], &[own(peer)])]), None);
            world.expect(&[
                ("x/a -> x/target TCP/1", a),
                ("x/b -> x/target TCP/1", b),
                ("x/empty -> x/target TCP/1", empty),
                ("x/none -> x/target TCP/1", none),
            ]);
            // The same as a subject: selected means isolated.
            let world = world.policy("x/p", peer, Some(vec![]), None);
            world.expect(&[("x/target -> x/a TCP/1", !a), ("x/target -> x/none TCP/1", !none)]);
        }
    }

    #[test]
    fn c17_labels_are_opaque() {
        World::default()
            .pod("x/t", "t=t", &["10.0.0.1"], &[])
            .pod("x/zero", "n=0", &["10.0.0.2"], &[])
            .pod("x/zeros", "n=00000", &["10.0.0.3"], &[])
            .policy("x/p", "t", Some(vec![rule(&[], &[own("n=00000")])]), None)
            .expect(&[("x/zero -> x/t TCP/1", false), ("x/zeros -> x/t TCP/1", true)]);
    }

    #[test]
    fn c18_namespaces_have_their_name_as_a_label_even_undeclared() {
        World::default()
            .namespace("y", "kubernetes.io/metadata.name=x")
            .pod("x/t", "", &["10.0.0.1"], &[])
            .pod("y/a", "", &["10.0.0.2"], &[])
            .pod("z/a", "", &["10.0.0.3"], &[])
            .policy(
                "x/p",
                "",
                Some(vec![rule(&["TCP/1"], &[across("kubernetes.io/metadata.name in y|z", "")])]),
                None,
            )
            .policy("x/q", "", Some(vec![rule(&["TCP/2"], &[across("!team", "")])]), None)
            .expect(&[
                ("y/a -> x/t TCP/1", true),
                ("z/a -> x/t TCP/1", true),
                ("x/t -> x/t TCP/1", false),
                ("z/a -> x/t TCP/2", true),
            ]);
    }
}

/// Section D.
mod ip_blocks {
    use super::*;

    #[test]
    fn d19_d20_exceptions() {
        let peers = [block("10.0.0.0/16", &["10.0.1.0/24"]), own("pod=b")];
        four_pods()
            .policy("x/p", "pod=a", Some(vec![rule(&[], &peers)]), None)
            .policy("x/q", "pod=a", Some(vec![rule(&["TCP/80"], &[block("10.0.1.2/32", &[])])]), None)
            .expect(&[
                ("10.0.2.1 -> x/a TCP/1", true),
                ("10.0.1.77 -> x/a TCP/1", false),
                ("10.1.0.1 -> x/a TCP/1", false),
                ("y/a -> x/a TCP/1", false),
                ("y/b -> x/a TCP/80", true),
                ("y/b -> x/a TCP/81", false),
            ]);
    }

    #[test]
    fn d21_pod_addresses_are_addresses() {
        four_pods().policy("x/p", "pod=a", None, Some(vec![rule(&[], &[block("10.0.1.2/32", &[])])])).expect(
            &[("x/a -> y/b TCP/1", true), ("fd00::1 -> fd00::12 TCP/1", false), ("x/a -> y/a TCP/1", false)],
        );
    }

    #[test]
    fn d22_nested_blocks_with_different_ports_add_up() {
        let rules = vec![
            rule(&["TCP/80"], &[block("198.51.0.0/16", &[])]),
            rule(&["TCP/443"], &[block("198.51.100.0/24", &[])]),
        ];
        four_pods().policy("x/p", "pod=a", None, Some(rules)).expect(&[
            ("x/a -> 198.51.100.1 TCP/80", true),
            ("x/a -> 198.51.100.1 TCP/443", true),
            ("x/a -> 198.51.1.1 TCP/443", false),
        ]);
    }

    #[test]
    fn d24_one_family_per_block() {
        let rules = vec![rule(&[], &[block("0.0.0.0/0", &[])])];
        four_pods().policy("x/p", "pod=a", Some(rules), None).expect(&[
            ("192.0.2.1 -> 10.0.0.1 TCP/1", true),
            ("10.0.1.1 -> 10.0.0.1 TCP/1", true),
            ("2001:db8::1 -> fd00::1 TCP/1", false),
            ("fd00::11 -> fd00::1 TCP/1", false),
        ]);
    }
}

/// Section E.
mod ports {
    use super::*;

    #[test]
    fn e25_to_e27_numbers() {
        let rules = vec![rule(&["TCP"], &[own("pod=b")]), rule(&["UDP/53"], &[])];
        four_pods().policy("x/p", "pod=a", Some(rules), None).expect(&[
            ("x/b -> x/a TCP/1", true),
            ("x/b -> x/a TCP/65535", true),
            ("x/b -> x/a TCP/0", true),
            ("x/b -> x/a UDP/52", false),
            ("x/b -> x/a UDP/53", true),
            ("x/b -> x/a UDP/54", false),
            ("x/b -> x/a SCTP/53", false),
            ("x/b -> x/a 1/0", false),
        ]);
        let rules = vec![rule(&["TCP/80"], &[])];
        four_pods().policy("x/p", "pod=a", None, Some(rules)).expect(&[
            ("x/a -> y/b TCP/80", true),
            ("x/a -> y/b TCP/8080", false),
            ("x/a -> 192.0.2.1 TCP/80", true),
        ]);
    }

    #[test]
    fn e28_named_ingress_ports_are_those_of_the_selected_pod() {
        let rules = vec![rule(&["TCP/http"], &[])];
        let world = four_pods().pod("x/c", "", &["10.0.0.3"], &["http=UDP/80"]);
        world.policy("x/p", "", Some(rules), None).expect(&[
            ("y/a -> x/a TCP/80", true),
            ("y/a -> x/a TCP/8080", false),
            ("y/a -> x/b TCP/8080", true),
            ("y/a -> x/b TCP/80", false),
            ("192.0.2.1 -> x/a TCP/80", true),
            ("192.0.2.1 -> x/a UDP/80", false),
            ("y/a -> x/c TCP/80", false),
            ("y/a -> x/c UDP/80", false),
        ]);
    }

    #[test]
    fn e28_named_egress_ports_are_those_of_each_destination() {
        let rules = vec![rule(&["TCP/http"], &[across("", "")])];
        let world = four_pods().pod("y/c", "", &["10.0.1.3"], &[]);
        world.clone().policy("x/p", "pod=a", None, Some(rules)).expect(&[
            ("x/a -> y/a TCP/80", true),
            ("x/a -> y/a TCP/8080", false),
            ("x/a -> y/b TCP/8080", true),
            ("x/a -> y/b TCP/80", false),
            ("fd00::1 -> fd00::12 TCP/8080", true),
            ("x/a -> y/c TCP/80", false),
            ("x/a -> 192.0.2.1 TCP/80", false),
        ]);
        // No peers: every destination, but only pods have named ports.
        let rules = vec![rule(&["TCP/http", "TCP/9"], &[])];
        world.clone().policy("x/p", "pod=a", None, Some(rules)).expect(&[
            ("x/a -> y/b TCP/8080", true),
            ("x/a -> y/a TCP/8080", false),
            ("x/a -> 192.0.2.1 TCP/80", false),
            ("x/a -> 192.0.2.1 TCP/9", true),
            ("x/a -> y/c TCP/9", true),
        ]);
        // A name that nobody has.
        let rules = vec![rule(&["TCP/nobody"], &[])];
        world.policy("x/p", "pod=a", None, Some(rules)).expect(&[("x/a -> y/b TCP/8080", false)]);
    }

    #[test]
    fn e28_named_egress_port_with_ip_block_asks_for_address_and_declaration() {
        let rules = vec![rule(&["TCP/http"], &[block("10.0.1.0/24", &["10.0.1.2/32"])])];
        let world = four_pods().pod("y/c", "pod=a", &["10.0.1.3", "fd00::13"], &["http=TCP/80"]);
        world.policy("x/p", "pod=a", None, Some(rules)).expect(&[
            ("x/a -> y/a TCP/80", true),
            ("x/a -> y/c TCP/80", true),
            ("x/a -> y/c TCP/81", false),
            ("x/a -> y/b TCP/8080", false),
            ("x/a -> x/b TCP/8080", false),
            ("fd00::1 -> fd00::13 TCP/80", false),
            ("x/a -> 10.0.1.99 TCP/80", false),
        ]);
    }

    #[test]
    fn e29_end_port_is_included() {
        let rules = vec![rule(&["TCP/8000-8002", "TCP/8002-8005", "UDP/65535"], &[])];
        four_pods().policy("x/p", "pod=a", Some(rules), None).expect(&[
            ("y/a -> x/a TCP/7999", false),
            ("y/a -> x/a TCP/8000", true),
            ("y/a -> x/a TCP/8003", true),
            ("y/a -> x/a TCP/8005", true),
            ("y/a -> x/a TCP/8006", false),
            ("y/a -> x/a UDP/65535", true),
            ("y/a -> x/a SCTP/0", false),
        ]);
    }

    #[test]
    fn e30_sctp_isolates_tcp() {
        let rules = vec![rule(&["SCTP/80"], &[])];
        four_pods().policy("x/p", "pod=a", Some(rules), None).expect(&[
            ("y/a -> x/a SCTP/80", true),
            ("y/a -> x/a TCP/80", false),
            ("y/a -> x/a UDP/80", false),
        ]);
    }

    /// More than eight lanes of interval starts: the search instead of the count.
    #[test]
    fn many_ports_in_one_rule() {
        let ports: Vec<String> = (1..400).map(|i| format!("TCP/{}", i * 10)).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let world = four_pods().policy("x/p", "pod=a", Some(vec![rule(&ports, &[own("pod=b")])]), None);
        let compiled = world.compile();
        for port in 0..4_100u32 {
            let expected = port % 10 == 0 && (10..4_000).contains(&port);
            let judgement = world.judge(&compiled, &format!("x/b -> x/a TCP/{port}"));
            assert_eq!(judgement.allowed(), expected, "{port}");
        }
    }
}

/// Section F.
mod who_is_a_pod {
    use super::*;

    #[test]
    fn f33_host_network_pods_are_no_targets_and_no_peers() {
        let world = four_pods()
            .pod("x/host", "pod=b", &["172.16.0.1"], &[])
            .change("x/host", |pod| pod.host_network = true)
            .policy("x/p", "", Some(vec![rule(&[], &[own("pod=b")])]), None);
        world.expect(&[
            ("x/b -> x/a TCP/1", true),
            ("172.16.0.1 -> x/a TCP/1", false),
            ("y/a -> 172.16.0.1 TCP/1", true),
        ]);
        assert!(world.compile().tables.lookup("172.16.0.1".parse().unwrap()).is_none());
    }

    #[test]
    fn f34_finished_pods_own_no_address() {
        let world = four_pods()
            .pod("x/a-job", "job=yes", &["10.0.0.2"], &[])
            .change("x/a-job", |pod| pod.phase = Phase::Finished)
            .policy("x/p", "pod=a", Some(vec![rule(&[], &[own("job")])]), None)
            .policy("x/q", "job", Some(vec![]), None);
        // 10.0.0.2 is x/b's by now.
        world.expect(&[("10.0.0.2 -> x/a TCP/1", false), ("x/a -> 10.0.0.2 TCP/1", true)]);
    }

    #[test]
    fn f35_pods_without_address_are_no_obstacle() {
        four_pods()
            .pod("x/new", "pod=b", &[], &[])
            .policy("x/p", "", Some(vec![]), None)
            .expect(&[("x/b -> x/a TCP/1", false), ("x/a -> y/a TCP/1", true)]);
    }

    #[test]
    fn f36_every_address_counts() {
        four_pods()
            .policy("x/deny", "", Some(vec![]), None)
            .policy("x/p", "pod=a", Some(vec![rule(&["TCP/80"], &[across("team=blue", "")])]), None)
            .expect(&[
                ("fd00::11 -> fd00::1 TCP/80", true),
                ("fd00::11 -> fd00::1 TCP/81", false),
                ("fd00::11 -> fd00::2 TCP/80", false),
                ("2001:db8::1 -> fd00::1 TCP/80", false),
            ]);
    }

    #[test]
    fn f39_protocols_without_ports_need_a_rule_without_ports() {
        four_pods()
            .policy("x/p", "pod=a", Some(vec![rule(&["TCP", "UDP", "SCTP"], &[])]), None)
            .policy("x/q", "pod=b", Some(vec![rule(&[], &[])]), None)
            .expect(&[("y/a -> x/a 1/0", false), ("y/a -> x/a 58/0", false), ("y/a -> x/b 1/0", true)]);
    }
}

/// Labels that no policy can notice split nothing; replicas share atoms and programs.
#[test]
fn atoms_and_programs_are_shared() {
    let mut world = World::default().pod("x/db", "app=db", &["10.9.0.1"], &["pg=TCP/5432"]);
    for i in 0..100 {
        let labels = format!("app=web,hash=h{i},zone=z{}", i % 3);
        world = world.pod(&format!("x/web-{i}"), &labels, &[&format!("10.0.0.{i}")], &[]);
    }
    let world = world
        .policy("x/db", "app=db", Some(vec![rule(&["TCP/pg"], &[own("app=web")])]), None)
        .policy("x/web", "app=web", Some(vec![]), Some(vec![rule(&["TCP/pg"], &[own("app=db")])]));
    let compiled = world.compile();
    assert_eq!(compiled.compiler.atoms(), 2);
    assert_eq!(compiled.compiler.programs(), 3);
    world.expect(&[("x/web-7 -> x/db TCP/5432", true), ("x/db -> x/web-7 TCP/5432", false)]);
}

#[test]
fn two_pods_with_one_address_are_the_first_by_name() {
    let world = four_pods().pod("x/aa", "pod=z", &["10.0.0.1"], &[]).policy(
        "y/p",
        "",
        Some(vec![rule(&[], &[across("", "pod=a")])]),
        None,
    );
    world.expect(&[("10.0.0.1 -> y/b TCP/1", true)]);
}

#[test]
fn pods_out_of_scope_are_peers_and_closed() {
    let world = four_pods().policy("x/p", "pod=a", Some(vec![rule(&[], &[own("pod=b")])]), None);
    let scope: BTreeSet<_> = [object("x/a")].into();
    let compiled = compile(&world.0, Scope::Pods(&scope), &Limits::default()).unwrap();
    let slot = |ip: &str| compiled.tables.lookup(ip.parse().unwrap()).unwrap().1;
    assert_eq!(
        (slot("10.0.0.2").ingress_program, slot("10.0.0.2").egress_program),
        (PROGRAM_CLOSED, PROGRAM_CLOSED)
    );
    assert_eq!(slot("10.0.0.1").egress_program, PROGRAM_NONE);
    let peer = |ip: &str| PolicyPeer { address: ip.parse().unwrap(), pod: Some(slot(ip)) };
    assert!(compiled.tables.ingress(slot("10.0.0.1"), peer("10.0.0.2"), 6, 1).allowed());
    let closed = compiled.tables.ingress(slot("10.0.0.2"), peer("10.0.0.1"), 6, 1);
    assert_eq!((closed.allowed(), closed.tier), (false, Tier::Closed));
}

#[test]
fn limits_fail_the_compilation() {
    let world = four_pods().policy(
        "x/p",
        "pod=a",
        Some(vec![rule(&["TCP/1"], &[own("pod=b"), block("10.0.0.0/8", &[])])]),
        None,
    );
    let limits = Limits { pods: 4, atoms: 2, rows: 1, program_words: 32, range_boundaries: 2, idle: 0 };
    assert!(compile(&world.0, Scope::AllPods, &limits).is_ok());
    for (broken, what) in [
        (Limits { pods: 3, ..limits.clone() }, "pods"),
        (Limits { atoms: 1, ..limits.clone() }, "policy atoms"),
        (Limits { rows: 0, ..limits.clone() }, "policy rows"),
        (Limits { program_words: 31, ..limits.clone() }, "policy program words"),
        (Limits { range_boundaries: 1, ..limits.clone() }, "ipBlock range boundaries"),
    ] {
        let error = compile(&world.0, Scope::AllPods, &broken).err();
        assert!(
            matches!(&error, Some(CompileError::LimitExceeded { what: found, .. }) if *found == what),
            "{what}: {error:?}"
        );
    }
}

#[test]
fn origins_name_policy_rule_and_peer() {
    let world = four_pods().policy("x/deny", "", Some(vec![]), None).policy(
        "x/web",
        "pod=a",
        Some(vec![
            rule(&["TCP/443"], &[]),
            rule(&["TCP/http"], &[across("team=blue", "pod=a"), block("10.0.0.0/8", &[]), own("pod=b")]),
        ]),
        None,
    );
    let compiled = world.compile();
    let origins = |probe: &str| {
        let verdict = world.judge(&compiled, probe).ingress.unwrap();
        let address = match probe.split_once(" -> ").unwrap().0 {
            end if end.contains('/') => world.0.pods[&object(end)].addresses[0],
            end => end.parse().unwrap(),
        };
        let pod = compiled.tables.lookup(address).map(|(_, slot)| slot);
        let peer = PolicyPeer { address, pod };
        let list: Vec<_> = compiled
            .compiler
            .admitting(verdict.program, verdict.interval, peer)
            .iter()
            .map(|origin| (origin.policy.to_string(), origin.rule, origin.peer))
            .collect();
        assert_eq!(verdict.allowed(), !list.is_empty());
        let isolating: Vec<_> =
            compiled.compiler.isolating(verdict.program).iter().map(ToString::to_string).collect();
        assert_eq!(isolating, ["x/deny", "x/web"]);
        list
    };
    assert_eq!(origins("y/a -> x/a TCP/443"), [("x/web".to_owned(), 0, None)]);
    assert_eq!(
        origins("y/a -> x/a TCP/80"),
        [("x/web".to_owned(), 1, Some(0)), ("x/web".to_owned(), 1, Some(1))]
    );
    assert_eq!(
        origins("x/b -> x/a TCP/80"),
        [("x/web".to_owned(), 1, Some(1)), ("x/web".to_owned(), 1, Some(2))]
    );
    assert_eq!(origins("10.9.9.9 -> x/a TCP/80"), [("x/web".to_owned(), 1, Some(1))]);
    assert!(origins("192.0.2.1 -> x/a TCP/80").is_empty());
}

#[test]
fn hits_are_folded_by_policy() {
    let world = four_pods().policy("x/deny", "", Some(vec![]), None).policy(
        "x/web",
        "pod=a",
        Some(vec![rule(&["TCP/80"], &[own("pod=b")])]),
        None,
    );
    let compiled =
        super::compile_for(&world.0, Scope::AllPods, &Limits::default(), 2, |_| super::Delivery::default())
            .unwrap();
    for (worker, probe) in ["x/b -> x/a TCP/80", "y/b -> x/a TCP/80", "x/b -> x/a TCP/81"].iter().enumerate()
    {
        let judgement = world.judge(&compiled, probe);
        compiled.tables.count(worker % 2, judgement.ingress.unwrap());
    }
    let hits: Vec<_> = compiled
        .compiler
        .policy_hits()
        .into_iter()
        .map(|((policy, _), hits)| (policy.to_string(), hits.allowed, hits.denied))
        .collect();
    assert_eq!(hits, [("x/deny".to_owned(), 0, 2), ("x/web".to_owned(), 1, 2)]);
}

#[test]
fn an_empty_cluster_compiles() {
    let compiled = World::default().compile();
    assert_eq!((compiled.tables.addresses(), compiled.compiler.atoms()), (0, 0));
}

/// Everything comes, changes and goes, with all kinds of peers and ports; then nothing is left over.
#[test]
fn nothing_is_left_over() {
    let world = four_pods()
        .policy("x/own", "pod=a", Some(vec![rule(&["TCP/http"], &[own("pod in a|b"), own("!gone")])]), None)
        .policy(
            "x/cut",
            "",
            None,
            Some(vec![rule(&["TCP/http"], &[block("10.0.0.0/8", &[]), across("", "")])]),
        )
        .policy("y/all", "", Some(vec![rule(&["UDP/dns"], &[])]), Some(vec![rule(&["UDP/dns"], &[])]))
        .policy("y/blocks", "", Some(vec![rule(&[], &[block("10.0.0.0/8", &["10.1.0.0/16"])])]), None);
    let mut compiler = Compiler::new(&Limits::default(), 1);
    for generation in 1..4 {
        compiler.load(&world.0, |_| true, |_| super::Delivery::default());
        compiler.settle().unwrap();
        compiler.published(generation);
        for name in world.0.policies.keys() {
            compiler.remove_policy(name);
        }
        for name in world.0.pods.keys() {
            compiler.remove_pod(name);
        }
        for name in world.0.namespaces.keys() {
            compiler.set_namespace(name, None);
        }
        let tables = compiler.settle().unwrap();
        assert_eq!(tables.addresses(), 0);
    }
    compiler.published(4);
    while compiler.reap_program(4, 0) || compiler.terms.reap(4, 0, &mut compiler.writer) {}
    assert_eq!(compiler.programs(), 0);
    assert_eq!(compiler.row_counts(), (0, 0));
    assert_eq!(compiler.terms.counts(), (0, 0, 0));
    assert_eq!((compiler.pod_labels.len(), compiler.space_labels.len()), ((0, 0), (0, 0)));
    assert_eq!((compiler.blocks.len(), compiler.spaces.len(), compiler.policies.len()), (0, 0, 0));
    assert_eq!(
        (compiler.rows(), compiler.writer.program_words(), compiler.writer.range_boundaries()),
        (0, 0, 0)
    );
    assert!(compiler.any_pod.is_none() && compiler.terms.families_in_blocks() == 0);
    assert!(compiler.spanning.is_empty() && compiler.claims.is_empty());
}

/// What was counted outlives the program it was counted for, as long as the policy is there; verdicts of then are explained.
#[test]
fn hits_and_origins_outlive_their_programs() {
    let policy = |port: &str| {
        let world = four_pods().policy("x/web", "pod=a", Some(vec![rule(&[port], &[own("pod=b")])]), None);
        world.0.policies[&object("x/web")].clone()
    };
    let mut world = four_pods();
    world.0.policies.insert(object("x/web"), policy("TCP/80"));
    let mut compiler = Compiler::new(&Limits::default(), 1);
    compiler.load(&world.0, |_| true, |_| super::Delivery::default());
    let tables = compiler.settle().unwrap();
    compiler.published(1);
    let peer = PolicyPeer {
        address: "10.0.0.2".parse().unwrap(),
        pod: tables.lookup("10.0.0.2".parse().unwrap()).map(|(_, slot)| slot),
    };
    let subject = tables.lookup("10.0.0.1".parse().unwrap()).unwrap().1;
    let verdict = tables.ingress(subject, peer, 6, 80);
    assert!(verdict.allowed());
    tables.count(0, verdict);
    for generation in 2..10 {
        compiler.set_policy(policy(&format!("TCP/{generation}")));
        compiler.settle().unwrap();
        compiler.published(generation);
        while compiler.reap_program(generation, 0) {}
        // A worker that still has the first tables counts on: its program is there no longer, or another one's by now.
        let hits = compiler.policy_hits();
        assert_eq!(hits[&(object("x/web"), Direction::Ingress)], PolicyHits { allowed: 1, denied: 0 });
        let then = compiler.admitting_then(verdict.program, verdict.interval, peer.address, 1).unwrap();
        let Admitted::OneOf(then) = then else { panic!("{then:?}") };
        let names: Vec<_> = then.iter().map(|origin| (origin.policy.to_string(), origin.rule)).collect();
        assert_eq!(names, [("x/web".to_owned(), 0)]);
        assert_eq!(compiler.isolating_then(verdict.program, 1).unwrap(), [&object("x/web")]);
    }
    assert_eq!(compiler.isolating_then(verdict.program, 0), None, "before all");
    assert_eq!(compiler.policy_state(&object("x/web")), Some((1, Some(9))));
    compiler.remove_policy(&object("x/web"));
    compiler.set_policy(policy("TCP/80"));
    compiler.settle().unwrap();
    let hits = compiler.policy_hits();
    assert_eq!(
        hits[&(object("x/web"), Direction::Ingress)],
        PolicyHits::default(),
        "another one of that name"
    );
}

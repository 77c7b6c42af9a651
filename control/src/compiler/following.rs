//! What tables that were given away rely on, at the moments at which numbers are given up and used again. Random histories
//! meet these moments too, but seldom: idle atoms and programs wait in long queues.

use podgate_dataplane::policy::{Delivery, PolicyPeer, PolicyTables};

use super::world::{World, across, block, object, own, rule};
use super::{Compiler, Limits};

/// A compiler, and the generation that it is at.
struct Followed {
    compiler: Compiler,
    generation: u64,
}

impl Followed {
    /// Knows this world.
    fn new(world: &World) -> (Self, PolicyTables) {
        let mut followed = Self { compiler: Compiler::new(&Limits::default(), 1), generation: 0 };
        let tables = followed.tell(world);
        (followed, tables)
    }

    /// What is new or other, as one more generation.
    fn tell(&mut self, world: &World) -> PolicyTables {
        self.compiler.load(&world.0, |_| true, |_| Delivery::default());
        let tables = self.compiler.settle().unwrap();
        self.generation += 1;
        self.compiler.published(self.generation);
        tables
    }

    /// Keeps nothing that no generation from `oldest` on needs.
    fn give_up(&mut self, oldest: u64) {
        let compiler = &mut self.compiler;
        while compiler.reap_program(oldest, 0) || compiler.terms.reap(oldest, 0, &mut compiler.writer) {}
    }
}

/// Whether 10.0.0.`to` takes TCP from 10.0.0.`from`.
fn admits(tables: &PolicyTables, from: u8, to: u8) -> bool {
    let address = |n: u8| std::net::IpAddr::from([10, 0, 0, n]);
    let slot = |n| tables.lookup(address(n)).map(|(_, slot)| slot);
    let peer = PolicyPeer { address: address(from), pod: slot(from) };
    tables.ingress(slot(to).unwrap(), peer, 6, 80).allowed()
}

/// x/s takes from pods labelled `pod=a`.
fn world() -> World {
    World::default().pod("x/s", "is=subject", &["10.0.0.1"], &[]).policy(
        "x/s",
        "is=subject",
        Some(vec![rule(&[], &[own("pod=a")])]),
        None,
    )
}

fn peer(world: World, n: u8, labels: &str) -> World {
    world.pod(&format!("x/{n}"), labels, &[&format!("10.0.0.{n}")], &[])
}

#[test]
fn an_atom_is_what_it_was_for_all_who_judge_by_it() {
    let (mut followed, first) = Followed::new(&peer(peer(world(), 2, "pod=a"), 3, "pod=b"));
    assert!(admits(&first, 2, 1) && !admits(&first, 3, 1));
    let second = followed.tell(&peer(peer(world(), 2, "pod=b"), 3, "pod=a"));
    assert!(!admits(&second, 2, 1) && admits(&second, 3, 1));
    // Nobody has the first atom any more, but in the first tables.
    let third = followed.tell(&peer(peer(world(), 2, "pod=b"), 3, "pod=b"));
    followed.give_up(1);
    assert!(admits(&first, 2, 1) && !admits(&first, 3, 1));
    assert!(!admits(&second, 2, 1) && admits(&second, 3, 1));
    assert!(!admits(&third, 2, 1) && !admits(&third, 3, 1));
}

#[test]
fn the_number_of_an_atom_is_used_again_without_its_bits() {
    let (mut followed, _) = Followed::new(&peer(world(), 2, "pod=a"));
    let atoms = |tables: &PolicyTables| tables.lookup([10, 0, 0, 2].into()).unwrap().1.atom;
    let first = followed.tell(&peer(world(), 2, "pod=a"));
    followed.tell(&peer(world(), 2, "pod=b"));
    followed.give_up(followed.generation);
    // Another class of pods: those that y/t takes from.
    let other = world().policy("x/t", "is=other", Some(vec![rule(&[], &[own("pod=b")])]), None);
    let other = other.pod("x/t", "is=other", &["10.0.0.9"], &[]);
    let tables = followed.tell(&peer(peer(other, 2, "pod=b"), 3, "pod=c"));
    assert_eq!(atoms(&tables), atoms(&first), "otherwise this test tests nothing");
    assert!(!admits(&tables, 2, 1) && admits(&tables, 2, 9) && !admits(&tables, 3, 1));
}

#[test]
fn an_atom_that_is_taken_up_again_is_in_use() {
    let (mut followed, _) = Followed::new(&peer(world(), 2, "pod=a"));
    followed.tell(&peer(world(), 2, "pod=b"));
    let tables = followed.tell(&peer(world(), 2, "pod=a"));
    followed.give_up(followed.generation);
    assert!(admits(&tables, 2, 1));
    let tables = followed.tell(&peer(peer(world(), 2, "pod=a"), 3, "pod=a"));
    assert!(admits(&tables, 2, 1) && admits(&tables, 3, 1));
}

#[test]
fn a_row_is_what_it_was_for_all_who_judge_by_it() {
    let pods = |world| peer(peer(peer(world, 2, "pod=a"), 3, "pod=b"), 4, "pod=c");
    let edited =
        |of: &str| pods(world().policy("x/s", "is=subject", Some(vec![rule(&[], &[own(of)])]), None));
    let (mut followed, first) = Followed::new(&pods(world()));
    let second = followed.tell(&edited("pod=b"));
    followed.give_up(1);
    let third = followed.tell(&edited("pod=c"));
    for (tables, peer) in [(&first, 2), (&second, 3), (&third, 4)] {
        assert_eq!([2, 3, 4].map(|n| admits(tables, n, 1)), [2, 3, 4].map(|n| n == peer));
    }
    assert_eq!(followed.compiler.programs(), 3);
    followed.give_up(3);
    assert_eq!((followed.compiler.programs(), followed.compiler.rows()), (1, 1));
    assert!(admits(&third, 4, 1) && !admits(&third, 2, 1));
}

#[test]
fn a_program_that_is_taken_up_again_is_in_use() {
    let subject = |labels: &str| peer(world().pod("x/s", labels, &["10.0.0.1"], &[]), 2, "pod=a");
    let (mut followed, _) = Followed::new(&subject("is=subject"));
    let free = followed.tell(&subject("is=free"));
    assert!(admits(&free, 3, 1));
    followed.tell(&subject("is=subject"));
    followed.give_up(followed.generation);
    // Whoever comes next gets another place.
    let next = subject("is=subject").pod("x/t", "is=other", &["10.0.0.9"], &[]);
    let next = next.policy("x/t", "is=other", Some(vec![]), None);
    let tables = followed.tell(&next);
    assert!(admits(&tables, 2, 1) && !admits(&tables, 3, 1) && !admits(&tables, 2, 9));
    let names = [object("x/s"), object("x/t")];
    for (n, name) in [1, 9].into_iter().zip(&names) {
        let program = tables.lookup([10, 0, 0, n].into()).unwrap().1.ingress_program;
        assert_eq!(followed.compiler.isolating(program), [name]);
    }
}

/// Whether `from` may open TCP to `to`: both ends judged.
fn passes(tables: &PolicyTables, from: &str, to: &str, port: u16) -> bool {
    let end = |text: &str| {
        let address = text.parse().unwrap();
        PolicyPeer { address, pod: tables.lookup(address).map(|(_, slot)| slot) }
    };
    let (from, to) = (end(from), end(to));
    from.pod.is_none_or(|pod| tables.egress(pod, to, 6, port).allowed())
        && to.pod.is_none_or(|pod| tables.ingress(pod, from, 6, port).allowed())
}

#[test]
fn a_new_port_name_finds_who_declares_it() {
    let pods = World::default().pod("x/s", "is=subject", &["10.0.0.1"], &[]);
    let pods = pods.pod("x/80", "pod=a", &["10.0.0.2"], &["http=TCP/80"]);
    let pods = pods.pod("x/81", "pod=a", &["10.0.0.3"], &["http=TCP/81"]);
    let cases = [
        vec![],
        vec![own("pod=a")],
        vec![across("", "pod")],
        vec![across("", "!none")],
        vec![block("10.0.0.0/24", &[])],
    ];
    for peers in cases {
        let (mut followed, before) = Followed::new(&pods);
        assert!(passes(&before, "10.0.0.1", "10.0.0.2", 81));
        let rules = vec![rule(&["TCP/http"], &peers)];
        let tables = followed.tell(&pods.clone().policy("x/s", "is=subject", None, Some(rules)));
        for (to, port) in [("10.0.0.2", 80), ("10.0.0.3", 81)] {
            assert!(passes(&tables, "10.0.0.1", to, port), "{to}:{port} of {peers:?}");
            assert!(!passes(&tables, "10.0.0.1", to, 161 - port), "{to}, not {port} of {peers:?}");
        }
    }
}

#[test]
fn a_pod_with_other_ports_has_other_programs() {
    let declares = |port: &str| {
        let world = World::default().pod("x/s", "is=subject", &["10.0.0.1"], &[port]);
        world.policy("x/s", "is=subject", Some(vec![rule(&["TCP/http"], &[])]), None)
    };
    let (mut followed, before) = Followed::new(&declares("http=TCP/80"));
    let after = followed.tell(&declares("http=TCP/81"));
    let none = followed.tell(&declares("dns=TCP/81"));
    let ports = |tables: &PolicyTables| [80, 81].map(|port| passes(tables, "192.0.2.1", "10.0.0.1", port));
    assert_eq!([&before, &after, &none].map(ports), [[true, false], [false, true], [false, false]]);
}

#[test]
fn ranges_find_pods_that_come_where_there_were_none() {
    let peers = [block("10.9.0.0/16", &["10.9.8.0/24"]), block("fd09::/32", &[])];
    let world = World::default().pod("x/s", "is=subject", &["10.0.0.1", "fd00::1"], &[]);
    let world = world.policy("x/s", "is=subject", Some(vec![rule(&[], &peers)]), None);
    let (mut followed, _) = Followed::new(&world);
    let world = world.pod("x/2", "", &["10.9.0.1", "fd09::1"], &[]).pod("x/3", "", &["10.9.8.1"], &[]);
    let tables = followed.tell(&world);
    assert!(passes(&tables, "10.9.0.1", "10.0.0.1", 80) && passes(&tables, "fd09::1", "fd00::1", 80));
    assert!(!passes(&tables, "10.9.8.1", "10.0.0.1", 80));
}

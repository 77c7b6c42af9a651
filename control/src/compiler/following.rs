//! What tables that were given away rely on, at the moments at which numbers are given up and used again. Random histories
//! meet these moments too, but seldom: idle atoms and programs wait in long queues.

use podgate_dataplane::policy::{Delivery, PolicyPeer, PolicyTables};

use super::world::{World, object, own, rule};
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
        self.compiler.oldest = oldest;
        while self.compiler.reap_program(0)
            || self.compiler.terms.reap(oldest, 0, &mut self.compiler.writer)
        {}
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
    let edited = |of: &str| pods(world().policy("x/s", "is=subject", Some(vec![rule(&[], &[own(of)])]), None));
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

//! What may and what must become of a packet, by what is known of its connection.
//!
//! This is no second flow table: it knows how long a connection surely lives and from when on it is surely gone, and says
//! nothing in between. Ends that speak properly keep the two at one; whatever might mean something or not (a segment whose
//! numbers are nearly right) drives them apart.
//!
//! - What **may** pass: what opens a connection that policy allows, and what belongs to a connection that may be alive.
//! - What **must** pass: what opens a connection that policy allows; whatever an end that speaks properly says in a
//!   connection that surely lives; and data in an open TCP connection, whatever its numbers.
//! - What may **not** change anything: what is dropped, and whatever is sent by somebody who cannot know the numbers.

use std::collections::BTreeMap;

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::worker::Established;

use super::scene::End;
use super::talk::{Meaning, Packet, Protocol, Shape, Stage, Talk, Tuple, is_never_right, sctp, tcp};
use super::world::{Outcome, World};

/// A connection that may be alive.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The direction in which it was opened.
    pub original: Tuple,
    /// What was said.
    pub talk: Talk,
    /// Another number for each.
    serial: u64,
    /// Is `talk` what the gateway has seen?
    known: bool,
    identities: [u32; 2],
    lives_until: u64,
    gone_from: u64,
}

impl Connection {
    /// Is a packet of this tuple one of its reply direction?
    fn side(&self, tuple: &Tuple) -> usize {
        usize::from(*tuple != self.original)
    }

    fn surely_lives(&self, world: &World) -> bool {
        self.lives_until > world.now()
    }

    /// Would the next packet find that it may go on?
    fn is_in_force(&self, world: &World) -> bool {
        self.identities == identities(world, &self.original)
            && (world.settings().established == Established::Keep || self.original.is_allowed(world))
    }

    fn meaning(&self, packet: &Packet) -> Meaning {
        let side = self.side(&packet.tuple);
        let meaning = match (packet.shape, self.talk) {
            (Shape::Tcp(segment), Talk::Tcp { .. }) => tcp(&segment, side, self.talk),
            (Shape::Sctp(chunk, tag), Talk::Sctp(step)) => sctp(chunk, tag, side, step),
            (Shape::Asks | Shape::Answers, Talk::Plain { answered, goes_on }) => {
                let goes_on = goes_on || answered && side == 0;
                Meaning::Proper(Talk::Plain { answered: answered || side == 1, goes_on })
            }
            other => panic!("{other:?}"),
        };
        match meaning {
            _ if self.known => meaning,
            // Wrong is wrong only with numbers that are known, but for what never is right.
            Meaning::Wrong if is_never_right(packet) => Meaning::Wrong,
            _ => Meaning::Doubtful { must: false },
        }
    }
}

fn identities(world: &World, tuple: &Tuple) -> [u32; 2] {
    [tuple.from, tuple.to].map(|(end, _)| world.identity(end))
}

/// What is known of all connections.
#[derive(Debug, Default)]
pub struct Connections {
    all: BTreeMap<Tuple, Connection>,
    serials: u64,
}

impl Connections {
    /// Those that may be alive, in some order.
    #[must_use]
    pub fn list(&self) -> Vec<&Connection> {
        self.all.values().collect()
    }

    /// Holds what became of a packet against what is known, and learns from it. Returns the number of the connection of which it
    /// is a proper part, or 0.
    ///
    /// # Panics
    /// If the two do not go together.
    pub fn hold(&mut self, world: &World, packet: &Packet, outcome: &Outcome, flows_before: u64) -> u64 {
        let now = world.now();
        let key = packet.key();
        self.forget(world);
        let opens = packet.opens();
        let allowed = opens && packet.tuple.is_allowed(world);
        let old = self.all.get(&key).cloned();
        let in_force = old.as_ref().is_some_and(|old| old.is_in_force(world));
        let lives = in_force && old.as_ref().is_some_and(|old| old.surely_lives(world));
        let meaning = old.as_ref().map_or(Meaning::Wrong, |old| old.meaning(packet));
        let plain = matches!(packet.shape, Shape::Asks | Shape::Answers);
        let (may, must) = match (opens, plain) {
            (true, true) => (allowed || in_force, allowed || lives),
            (true, false) => {
                let well_formed = !is_never_right(packet);
                (allowed, allowed && well_formed)
            }
            (false, _) => {
                let speaks = matches!(
                    meaning,
                    Meaning::Proper(_) | Meaning::Passes(_) | Meaning::Doubtful { must: true }
                );
                (in_force && meaning != Meaning::Wrong, lives && speaks)
            }
        };
        let context = || format!("{packet:?} of {old:?}, which means {meaning:?}: {outcome:?} at {now}");
        assert!(may || !outcome.passed, "passed and must not: {}", context());
        assert!(outcome.opened <= u64::from(outcome.passed && allowed), "made an entry: {}", context());
        assert!(outcome.evicted <= outcome.opened, "evicted for nothing: {}", context());
        if must && !outcome.passed {
            let refused = opens && self.has_no_room(world, &packet.tuple, outcome.reason);
            assert!(refused, "did not pass and must: {}", context());
        }
        let is_over = |old: &Connection| {
            old.known && matches!(old.talk, Talk::Tcp { stage: Stage::Over, .. } | Talk::Sctp(5..))
        };
        if opens && outcome.passed && old.as_ref().is_none_or(is_over) {
            assert_eq!(outcome.opened, 1, "passed without an entry of its own: {}", context());
        }
        let is_open = |old: &Connection| old.known && (plain || old.talk.is_open());
        if lives && old.as_ref().is_some_and(is_open) {
            assert_eq!(outcome.opened, 0, "an open connection was replaced: {}", context());
        }

        let is_full = world.was_late()
            || flows_before >= world.settings().flows as u64
            || self.payers(world, |_| true, &packet.tuple) >= world.settings().quota();
        if opens && is_full {
            // Open connections of pods that are gone may have made room.
            for flow in self.all.values_mut() {
                if flow.identities != identities(world, &flow.original) {
                    flow.lives_until = 0;
                }
            }
        }
        if outcome.evicted > 0 {
            assert!(is_full, "evicted with room left: {}", context());
            for flow in self.all.values_mut() {
                if !flow.talk.is_open() {
                    flow.lives_until = 0;
                }
            }
        }
        if outcome.opened > 0 {
            self.serials += 1;
            let talk = Talk::opened_by(packet);
            let until = now + talk.lasts(packet.tuple.protocol).0;
            let new = Connection {
                original: packet.tuple,
                talk,
                serial: self.serials,
                known: true,
                identities: identities(world, &packet.tuple),
                lives_until: until,
                gone_from: until,
            };
            self.all.insert(key, new);
        } else if outcome.passed {
            self.learn(now, packet, meaning);
        } else if !in_force && (plain || !opens) {
            // It was judged again, and cut.
            self.all.remove(&key);
        } else if !in_force
            || matches!(outcome.reason, Some(DropReason::FlowTableFull | DropReason::PodFlows))
        {
            // It gave way and was cut for a new one that was refused; or it is still there.
            self.all.entry(key).and_modify(|flow| flow.lives_until = 0);
        }
        let is_part = outcome.opened > 0 || outcome.passed && matches!(meaning, Meaning::Proper(_));
        self.all.get(&key).filter(|_| is_part).map_or(0, |flow| flow.serial)
    }

    /// Connections that the one pays for who pays for `tuple`, of those that `are`.
    fn payers(&self, world: &World, are: impl Fn(&Connection) -> bool, tuple: &Tuple) -> usize {
        let payer = |tuple: &Tuple| world.payer(tuple.from.0, tuple.to.0);
        let flows = self.all.values().filter(|flow| are(flow) && payer(&flow.original) == payer(tuple));
        flows.count()
    }

    /// Is there reason to refuse a new connection: may all places be taken by open ones?
    fn has_no_room(&self, world: &World, tuple: &Tuple, reason: Option<DropReason>) -> bool {
        // Connections whose time is over may still be there.
        let late = world.was_late();
        let may_be_open = |flow: &Connection| {
            !flow.known || flow.talk.is_open() || matches!(flow.talk, Talk::Tcp { stage: Stage::Closing, .. })
        };
        match reason {
            Some(DropReason::FlowTableFull | DropReason::PodFlows) if late => true,
            Some(DropReason::FlowTableFull) => {
                self.all.values().filter(|flow| may_be_open(flow)).count() >= world.settings().flows
            }
            Some(DropReason::PodFlows) => self.payers(world, may_be_open, tuple) >= world.settings().quota(),
            _ => false,
        }
    }

    /// Learns from a packet that passed in the connection that there was.
    fn learn(&mut self, now: u64, packet: &Packet, meaning: Meaning) {
        let serial = self.serials + 1;
        let Some(flow) = self.all.get_mut(&packet.key()) else { return };
        let protocol = packet.tuple.protocol;
        match meaning {
            Meaning::Proper(talk) => {
                if matches!((packet.opens(), talk), (true, Talk::Tcp { .. })) {
                    // It begins with other numbers.
                    (flow.serial, self.serials) = (serial, serial);
                }
                flow.talk = talk;
                let (least, most) = talk.lasts(protocol);
                (flow.lives_until, flow.gone_from) = (now + least, now + most);
            }
            Meaning::Passes(talk) => {
                flow.talk = talk;
                if protocol == Protocol::Sctp {
                    // An INIT is proper even from somebody who has forgotten all.
                    flow.gone_from = flow.gone_from.max(now + protocol.longest());
                }
            }
            Meaning::Nothing => {}
            Meaning::Doubtful { .. } | Meaning::Wrong => {
                flow.known = false;
                flow.lives_until = 0;
                flow.gone_from = now + protocol.longest();
            }
        }
    }

    /// Holds what became of an ICMP error about a packet that had passed, in the connection of this number.
    ///
    /// # Panics
    /// If the two do not go together.
    pub fn hold_error(&mut self, world: &World, by: End, (about, serial): (&Packet, u64), outcome: &Outcome) {
        self.forget(world);
        let old = self.all.get(&about.key()).cloned();
        let in_force = old.as_ref().is_some_and(|old| old.is_in_force(world));
        let is_addressee = by == about.tuple.to.0;
        let is_pod = matches!(by, End::A | End::B);
        let may = in_force && (is_addressee || !is_pod);
        let must = may
            && is_addressee
            && old.as_ref().is_some_and(|old| old.known && old.surely_lives(world) && old.serial == serial);
        let context =
            || format!("an error by {by:?} about {about:?} of {old:?}: {outcome:?} at {}", world.now());
        assert!(may || !outcome.passed, "passed and must not: {}", context());
        assert!(!must || outcome.passed, "did not pass and must: {}", context());
        assert_eq!((outcome.opened, outcome.evicted), (0, 0), "made an entry: {}", context());
        if !in_force && !outcome.passed {
            // It was judged again and cut, if the error was looked at so far.
            self.all.entry(about.key()).and_modify(|flow| flow.lives_until = 0);
        }
    }

    /// Holds whether a later fragment passed, of a datagram whose first one passed in this connection.
    ///
    /// # Panics
    /// If the two do not go together.
    pub fn hold_later(&mut self, world: &World, tuple: &Tuple, passed: bool) {
        self.forget(world);
        let key = Packet { tuple: *tuple, shape: Shape::Asks }.key();
        let old = self.all.get(&key);
        let in_force = old.is_some_and(|old| old.is_in_force(world));
        let lives = in_force && old.is_some_and(|old| old.surely_lives(world));
        assert!(in_force || !passed, "a later fragment of {old:?} passed and must not at {}", world.now());
        assert!(!lives || passed, "a later fragment of {old:?} did not pass and must at {}", world.now());
        if !in_force {
            // It was judged again, and cut.
            self.all.remove(&key);
        }
    }

    /// By a fuzzer's byte, a pod of this node is replaced by another one, or its device is opened anew: then what goes to the pod
    /// goes on, what it opened itself perhaps not.
    pub fn unsettle(&mut self, world: &mut World, byte: u8) {
        let pod = [End::A, End::B][usize::from(byte & 1)];
        if byte & 2 == 0 {
            world.replace(pod);
            return;
        }
        world.replug(pod);
        for flow in self.all.values_mut().filter(|flow| flow.original.from.0 == pod) {
            flow.lives_until = 0;
        }
    }

    /// Holds the number of entries against what is known.
    ///
    /// # Panics
    /// If there are too few or too many.
    pub fn hold_count(&mut self, world: &World) {
        self.forget(world);
        let settings = world.settings();
        let flows = world.flows() as usize;
        let sure = self.all.values().filter(|flow| flow.surely_lives(world)).count();
        assert!(flows <= settings.flows * usize::from(settings.workers), "{flows} entries");
        assert!(flows >= sure, "{flows} entries, and {sure} connections that must be there: {:?}", self.all);
        assert!(
            flows <= self.all.len() || world.is_late(),
            "{flows} entries, and {} connections: {:?}",
            self.all.len(),
            self.all
        );
    }

    /// Drops what is surely gone.
    fn forget(&mut self, world: &World) {
        self.all.retain(|_, flow| flow.gone_from > world.now());
    }
}

//! What a step must come to, worked out by the tests themselves: every counter, and the bytes of what is forwarded.

use af_xdp::twin::Sent;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::policy::{PROGRAM_NONE, PodSlot};
use podgate_tests::frames::assert_forwarded;
use podgate_tests::rig::HOST;

use crate::case::{Case, Outcome, kind};
use crate::facts::Facts;
use crate::ledger::{Counter, Ledger};

impl Case {
    /// Everything that this outcome counts. `worker` is the one that dropped the packet or answered it, `sent` what left by
    /// which port.
    pub fn expected(
        &self,
        from: PortId,
        frame: &[u8],
        outcome: Outcome,
        worker: WorkerId,
        sent: &[(PortId, Sent)],
    ) -> Ledger {
        let mut ledger = Ledger::default();
        let (home, from_kind) = (self.receiver(from, frame), kind(from));
        let hands_over = |ledger: &mut Ledger, from: WorkerId, to: WorkerId| {
            if from != to {
                ledger.add(Counter::HandedOver(from), 1);
                ledger.add(Counter::TakenOver(to), 1);
            }
        };
        ledger.add(Counter::RxPackets(home, from_kind), 1);
        ledger.add(Counter::RxBytes(home, from_kind), frame.len() as i64);
        let ready = match outcome {
            Outcome::Passes { to } => {
                // The first packets of two pods may not have shown the owner yet; it is one of both ends then.
                let owner = Facts::of(frame).and_then(|facts| {
                    let pair = facts.quoted(frame).unwrap_or(facts);
                    self.owner(pair.source, pair.destination)
                });
                owner.unwrap_or(self.homes[&to])
            }
            _ => worker,
        };
        for (to, sent) in sent {
            let there = self.sender(*to, ready);
            ledger.add(Counter::TxPackets(there, kind(*to)), 1);
            ledger.add(Counter::TxBytes(there, kind(*to)), sent.bytes.len() as i64);
        }
        match outcome {
            Outcome::Passes { to } => {
                hands_over(&mut ledger, home, ready);
                hands_over(&mut ledger, ready, self.sender(to, ready));
                return ledger;
            }
            Outcome::Drops { reason, .. } => {
                hands_over(&mut ledger, home, worker);
                ledger.add(Counter::Drops(worker, reason, from_kind), 1);
                ledger.add(Counter::ErrorsOf(from), sent.len() as i64);
                if matches!(reason, DropReason::PolicyEgress | DropReason::PolicyIngress) {
                    ledger.add(Counter::Denied, 1);
                }
                if matches!(reason, DropReason::FlowTableFull | DropReason::PodFlows) {
                    ledger.add(Counter::RefusedOfPods, 1);
                }
            }
            Outcome::Consumed { .. } => ledger.add(Counter::Consumed(home), 1),
        }
        for (to, _) in sent {
            ledger.add(Counter::Generated(worker), 1);
            hands_over(&mut ledger, worker, self.sender(*to, worker));
        }
        ledger
    }

    /// How many programs of policies have a say in an admitted connection: one for each direction that isolates a pod.
    pub fn verdicts(&self, from: PortId, frame: &[u8]) -> i64 {
        let Some(facts) = Facts::of(frame) else { return 0 };
        let program = |address, of: fn(&PodSlot) -> u32| {
            let is_judged = self.local.contains_key(&address);
            is_judged && self.slot(address).is_some_and(|slot| of(&slot) != PROGRAM_NONE)
        };
        let is_node = |address| self.rig.node.contains(&address);
        let is_same = self
            .local
            .get(&facts.source)
            .is_some_and(|port| self.local.get(&facts.destination) == Some(port));
        let egress =
            !is_same && !is_node(facts.destination) && program(facts.source, |slot| slot.egress_program);
        let from_node = from == HOST && is_node(facts.source);
        let ingress = !is_same && !from_node && program(facts.destination, |slot| slot.ingress_program);
        i64::from(egress) + i64::from(ingress)
    }

    /// The worker in whose table a connection was made is its owner.
    #[track_caller]
    pub fn learn_from_opening(&mut self, frame: &[u8]) -> WorkerId {
        let moved = Ledger::read(&self.rig, &self.cluster).since(&self.ledger);
        let mut tables = (0..self.workers).map(WorkerId);
        let owner = tables.find(|worker| moved.get(Counter::Opened(*worker)) == 1);
        let (Some(owner), Some(facts)) = (owner, Facts::of(frame)) else {
            panic!("no connection was opened: {moved:?}")
        };
        self.learn_owner(facts.source, facts.destination, owner);
        owner
    }

    /// The frame must have left as a router forwards it: the link header and the TTL are new, and nothing else.
    #[track_caller]
    pub fn check_forwarded(&self, frame: &[u8], sent: &Sent, to: PortId) {
        let facts = Facts::of(frame).unwrap();
        // Padding of short frames stays behind; a packet of several buffers has none.
        assert_forwarded(&frame[..facts.length], &sent.bytes, to);
    }
}

//! Fragments: the first one of a datagram is judged like a whole packet, later ones go its way, and those that come before
//! it wait.

use super::Worker;
use super::route::Refusal;
use crate::clock::{Clock, Instant64};
use crate::drop_reason::DropReason;
use crate::flow::Hop;
use crate::fragment::{Aged, Arrival, DatagramId, DatagramKey, Lead, Limits};
use crate::packet::{Fragment, Packet};
use crate::snapshot::Snapshot;

/// Fragments and datagrams whose time is over that a turn ends at most.
const AGING_STEPS: usize = 64;

impl<C: Clock> Worker<C> {
    /// Ends datagrams that did not come whole in time, before fragments of others with the same identification come.
    pub(super) fn age_fragments(&mut self, now: Instant64) {
        for _ in 0..AGING_STEPS {
            match self.fragments.age(now) {
                Some(Aged::Fragment(packet)) => {
                    self.drop_packet(packet, DropReason::FragmentTimeout, None, now);
                }
                Some(Aged::Datagram) => {}
                None => return,
            }
        }
    }

    /// As [`Worker::track`] and what follows it, for a fragment.
    pub(super) fn track_fragment(
        &mut self,
        snapshot: &Snapshot,
        packet: Packet,
        fragment: Fragment,
        now: Instant64,
    ) {
        let key = DatagramKey::of(&packet.headers, &fragment, packet.ingress);
        // Before anything is taken down: bytes that do not pass have not come.
        if packet.frames.count() > Limits::HELD_BUFFERS && self.fragments.is_early(&key, &fragment) {
            self.fragments.refuse(&key, now);
            return self.drop_packet(packet, DropReason::FragmentTableFull, None, now);
        }
        match self.fragments.arrive(&key, &fragment, now) {
            Arrival::First(datagram) => self.lead(snapshot, packet, datagram, now),
            Arrival::Later(lead) => self.follow(snapshot, packet, &lead, now),
            Arrival::Early(datagram) => {
                if let Err(packet) = self.fragments.hold(datagram, packet) {
                    self.drop_packet(packet, DropReason::FragmentTableFull, None, now);
                }
            }
            Arrival::Drop(reason) => self.drop_packet(packet, reason, None, now),
            Arrival::End(datagram, reason) => {
                self.drop_packet(packet, reason, None, now);
                while let Some(held) = self.fragments.release(datagram) {
                    self.drop_packet(held, reason, None, now);
                }
            }
        }
    }

    /// A first fragment, and those that waited for it.
    fn lead(&mut self, snapshot: &Snapshot, packet: Packet, datagram: DatagramId, now: Instant64) {
        let lead = Lead::of(&packet.headers);
        let probe = self.probe(&packet.headers);
        let way = self.track(snapshot, &packet, &probe, now);
        let is_admitted = way.is_ok();
        self.go(snapshot, packet, way, now);
        self.fragments.judged(datagram, is_admitted.then_some(lead));
        while let Some(mut held) = self.fragments.release(datagram) {
            // What is said of it now is said under this snapshot.
            held.generation = snapshot.generation;
            if is_admitted {
                self.follow(snapshot, held, &lead, now);
            } else {
                self.drop_packet(held, DropReason::Fragment, None, now);
            }
        }
    }

    /// A later fragment of an admitted one.
    fn follow(&mut self, snapshot: &Snapshot, packet: Packet, lead: &Lead, now: Instant64) {
        let way = self.way_of(snapshot, lead, now);
        self.go(snapshot, packet, way, now);
    }

    /// How packets of a connection leave that say nothing of its state: it must be there, and allowed by now.
    fn way_of(&mut self, snapshot: &Snapshot, lead: &Lead, now: Instant64) -> Result<Hop, Refusal> {
        let gone = || Refusal::from(DropReason::Fragment);
        let id = self.find_live(self.flows.hash(&lead.key), &lead.key, now).ok_or_else(gone)?;
        self.revalidate(snapshot, id, None, now)?;
        let flow = self.flows.get(id).ok_or_else(gone)?;
        Ok(flow.hop(flow.side(lead.heading)))
    }
}

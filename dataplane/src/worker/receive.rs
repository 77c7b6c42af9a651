//! The first stages: take packets from ports and other workers, parse, check their source, answer what is for the gateway
//! itself, and give every other packet to the owner of its connection.

use std::net::IpAddr;

use af_xdp::FrameChain;

use super::{Handed, Worker};
use crate::address::Address;
use crate::checksum;
use crate::clock::{Clock, Instant64};
use crate::drop_reason::DropReason;
use crate::icmp;
use crate::neighbor::{self, Outcome};
use crate::packet::{Headers, Packet, PortId, PortKind, Role, WorkerId};
use crate::parse::{Parsed, parse, quoted};
use crate::record::DropRecord;
use crate::snapshot::{PortEntry, Snapshot};

impl<C: Clock> Worker<C> {
    /// Packets that other workers give to this one. True if none is left.
    pub(super) fn take_over(&mut self) -> bool {
        self.exchange.take_over(self.settings.batch, &mut self.taken)
    }

    /// A batch from every port.
    pub(super) fn receive(&mut self) {
        for attached in &mut self.ports {
            let before = self.received.len();
            attached.port.receive(self.settings.batch, &mut self.received);
            attached.received = self.received.len() - before;
        }
    }

    /// Every packet that was taken over.
    pub(super) fn accept(&mut self, snapshot: &Snapshot, now: Instant64) {
        let mut taken = std::mem::take(&mut self.taken);
        self.counts.taken_over += taken.len() as u64;
        for handed in taken.drain(..) {
            match handed {
                Handed::Track(packet) if packet.generation == snapshot.generation => self.batch.push(packet),
                Handed::Track(mut packet) => {
                    // An address may belong to a pod of another worker by now, and with it the connection.
                    packet.generation = snapshot.generation;
                    self.keep_or_hand_over(snapshot, packet, now);
                }
                Handed::Send(packet, port) => self.send(packet, port, now),
            }
        }
        self.taken = taken;
    }

    /// Every received packet.
    pub(super) fn admit(&mut self, snapshot: &Snapshot, now: Instant64) {
        let mut received = std::mem::take(&mut self.received);
        let mut rest = received.drain(..);
        for place in 0..self.ports.len() {
            let Some(attached) = self.ports.get(place) else { break };
            let (id, kind) = (attached.id, attached.kind);
            for frames in rest.by_ref().take(attached.received) {
                self.counts.received(kind, frames.total_len());
                self.admit_one(snapshot, frames, id, kind, now);
            }
        }
        drop(rest);
        self.received = received;
    }

    /// One received packet.
    fn admit_one(
        &mut self,
        snapshot: &Snapshot,
        frames: FrameChain,
        id: PortId,
        kind: PortKind,
        now: Instant64,
    ) {
        let Some(entry) = snapshot.port(id) else {
            return self.drop_frames(frames, DropReason::PortGone, id, kind, now);
        };
        let head = frames.data(&self.region);
        let headers = match parse(head, frames.total_len()) {
            Ok(Parsed::Ip(headers)) => headers,
            Ok(Parsed::Arp) => return self.answer(snapshot, frames, id, kind, entry, true, now),
            Ok(Parsed::NeighborDiscovery) => {
                return self.answer(snapshot, frames, id, kind, entry, false, now);
            }
            Err(reason) => return self.drop_frames(frames, reason, id, kind, now),
        };
        let checksum = checksum::state(head, &headers);
        let verdict = check_source(snapshot, entry, head, &headers);
        let packet = Packet {
            frames,
            headers,
            checksum,
            ingress: id,
            ingress_kind: kind,
            generation: snapshot.generation,
        };
        match verdict {
            Err(reason) => self.drop_packet(packet, reason, None, now),
            Ok(()) if neighbor::is_gateway(packet.headers.destination) => self.for_gateway(packet, kind, now),
            Ok(()) if packet.headers.destination.is_link_local() => {
                self.drop_packet(packet, DropReason::NoRoute, None, now);
            }
            Ok(()) if self.exchange.has_peers() => self.keep_or_hand_over(snapshot, packet, now),
            Ok(()) => self.batch.push(packet),
        }
    }

    /// Keeps a packet whose connection is owned here, and gives every other one to its owner.
    fn keep_or_hand_over(&mut self, snapshot: &Snapshot, packet: Packet, now: Instant64) {
        let owner = self.owner_of(snapshot, &packet);
        if owner == self.id {
            return self.batch.push(packet);
        }
        match self.exchange.stage(owner.0.into(), Handed::Track(packet)) {
            Ok(()) => self.counts.handed_over += 1,
            Err(handed) => self.drop_packet(handed.into_packet(), DropReason::HandOverFull, None, now),
        }
    }

    fn owner_of(&self, snapshot: &Snapshot, packet: &Packet) -> WorkerId {
        let headers = &packet.headers;
        // An error belongs to the connection it is about.
        let (a, b) = match headers.role() {
            Role::Related => match quoted(packet.frames.data(&self.region), headers) {
                Some(quoted) => (quoted.source, quoted.destination),
                None => (headers.source.into(), headers.destination.into()),
            },
            _ => (headers.source.into(), headers.destination.into()),
        };
        self.ownership.of(snapshot, a, b)
    }

    /// ARP and neighbour discovery: answered in the frame of the question.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one question; a struct would only rename them"
    )]
    fn answer(
        &mut self,
        snapshot: &Snapshot,
        mut frames: FrameChain,
        id: PortId,
        kind: PortKind,
        entry: &PortEntry,
        arp: bool,
        now: Instant64,
    ) {
        let is_own = |address: IpAddr| {
            let listed = match kind {
                PortKind::Pod => entry.addresses.contains(&address),
                PortKind::Host | PortKind::Uplink => snapshot.node.contains(address),
            };
            // Whatever link-local address it gives itself is its own, but for the gateway's.
            let address = Address::from(address);
            listed || (address.is_ipv6_link_local() && !neighbor::is_gateway(address))
        };
        let is_known = |address| snapshot.pod(address).is_some() || snapshot.node.contains(address);
        let bytes = frames.data(&self.region);
        let outcome = if arp {
            neighbor::answer_arp(bytes, entry.mac, is_own, is_known)
        } else {
            neighbor::answer_nd(bytes, entry.mac, is_own, is_known)
        };
        let answer = match outcome {
            Ok(Outcome::Answer(answer)) => answer,
            Ok(Outcome::Consumed) => {
                self.counts.consumed += 1;
                return self.pool.put_chain(frames);
            }
            Err(reason) => return self.drop_frames(frames, reason, id, kind, now),
        };
        self.counts.consumed += 1;
        let offset = frames.head().offset();
        let fits = frames.count() == 1 && frames.set_head_window(offset, answer.as_bytes().len());
        if fits && let Some(to) = frames.data_mut(&self.region).get_mut(..answer.as_bytes().len()) {
            to.copy_from_slice(answer.as_bytes());
            self.counts.generated += 1;
            return self.send_frames(frames, None, id, kind, now);
        }
        self.pool.put_chain(frames);
    }

    /// A packet for one of the gateway's own addresses: ping is answered, nothing else is listened to.
    fn for_gateway(&mut self, mut packet: Packet, kind: PortKind, now: Instant64) {
        if packet.headers.fragment.is_some() {
            return self.drop_packet(packet, DropReason::Fragment, None, now);
        }
        packet.trim_padding();
        if !icmp::echo_reply(packet.frames.data_mut(&self.region), &packet.headers) {
            return self.drop_packet(packet, DropReason::NoRoute, None, now);
        }
        self.counts.consumed += 1;
        self.counts.generated += 1;
        self.send_frames(packet.frames, None, packet.ingress, kind, now);
    }

    /// As [`Worker::drop_packet`], for what was not understood.
    pub(super) fn drop_frames(
        &mut self,
        frames: FrameChain,
        reason: DropReason,
        id: PortId,
        kind: PortKind,
        now: Instant64,
    ) {
        let worker = self.id;
        let region = &self.region;
        self.counts.dropped(reason, kind);
        self.recorder.record(|| {
            DropRecord::new(now, reason, worker, id, frames.total_len() as u32)
                .with_bytes(frames.data(region))
        });
        self.pool.put_chain(frames);
    }
}

/// May a packet with this source come in by this port, and is it meant for the gateway?
fn check_source(
    snapshot: &Snapshot,
    entry: &PortEntry,
    head: &[u8],
    headers: &Headers,
) -> Result<(), DropReason> {
    if head.first_chunk::<6>() != Some(&entry.mac) {
        return Err(DropReason::ForeignMac);
    }
    let source = headers.source;
    let fits = match entry.kind {
        // Its link-local address is its own, to talk with the gateway and nobody else.
        PortKind::Pod => {
            entry.addresses.iter().any(|own| source == (*own).into())
                || (source.is_ipv6_link_local() && neighbor::is_gateway(headers.destination))
        }
        // Whatever the host stack routes here, that of pods included: it may have translated it.
        PortKind::Host => true,
        PortKind::Uplink => {
            !snapshot.node.contains(source.into())
                && snapshot.pod(source.into()).is_none_or(|(_, delivery)| delivery.port.is_none())
        }
    };
    if fits { Ok(()) } else { Err(DropReason::SpoofedSource) }
}

//! The last stages: rewrite, send, or say why not.

use af_xdp::{FrameChain, Refusal, TxChecksum};

use super::route::Farewell;
use super::{Handed, Worker};
use crate::checksum;
use crate::clock::{Clock, Instant64};
use crate::drop_reason::DropReason;
use crate::flow::Hop;
use crate::icmp::{self, Problem};
use crate::neighbor::{GATEWAY_V4, GATEWAY_V6};
use crate::packet::{ChecksumState, ETHERNET_LEN, Packet, PortId, PortKind, Transport, WorkerId};
use crate::reset;
use crate::rewrite;
use crate::snapshot::Snapshot;

impl<C: Clock> Worker<C> {
    /// Sends an admitted packet along its way.
    #[inline]
    pub(super) fn forward(&mut self, snapshot: &Snapshot, mut packet: Packet, hop: Hop, now: Instant64) {
        packet.trim_padding();
        let length = (packet.headers.packet_len as usize).saturating_sub(ETHERNET_LEN);
        if packet.headers.hop_limit > 1 && length > usize::from(hop.mtu) {
            let problem = Problem::TooBig { mtu: hop.mtu };
            return self.complain(snapshot, packet, (problem, DropReason::PacketTooBig), now);
        }
        let head = packet.frames.data_mut(&self.region);
        match rewrite::forward(head, &packet.headers, hop.source_mac, hop.destination_mac) {
            Ok(()) => self.dispatch(snapshot, packet, hop.port, now),
            Err(reason @ DropReason::TtlExpired) => {
                self.complain(snapshot, packet, (Problem::TimeExceeded, reason), now);
            }
            Err(reason) => self.drop_packet(packet, reason, None, now),
        }
    }

    /// Sends a finished packet by a port, whosever it is.
    #[inline]
    fn dispatch(&mut self, snapshot: &Snapshot, packet: Packet, port: PortId, now: Instant64) {
        let worker = snapshot.port(port).map_or(self.id, |entry| entry.sender_for(self.id));
        if worker == self.id {
            return self.send(packet, port, now);
        }
        self.give(worker, packet, port, now);
    }

    fn give(&mut self, worker: WorkerId, packet: Packet, port: PortId, now: Instant64) {
        match self.exchange.stage(worker.0.into(), Handed::Send(packet, port)) {
            Ok(()) => self.counts.handed_over += 1,
            Err(handed) => self.drop_packet(handed.into_packet(), DropReason::HandOverFull, None, now),
        }
    }

    /// What is staged for other workers leaves.
    pub(super) fn hand_over(&mut self, now: Instant64) {
        if !self.exchange.has_peers() {
            return;
        }
        self.exchange.flush();
        while let Some(handed) = self.exchange.refused() {
            self.counts.handed_over -= 1;
            self.drop_packet(handed.into_packet(), DropReason::HandOverFull, None, now);
        }
    }

    /// Sends a finished packet by a port of this worker.
    #[inline]
    pub(super) fn send(&mut self, mut packet: Packet, port: PortId, now: Instant64) {
        let place = self.places.get(usize::from(port.0)).copied().flatten();
        let Some(attached) = place.and_then(|place| self.ports.get_mut(place)) else {
            return self.drop_packet(packet, DropReason::PortGone, None, now);
        };
        let kind = attached.kind;
        let mut request = None;
        if packet.checksum == ChecksumState::Partial {
            let able = attached.port.abilities().tx_checksum;
            request = checksum::offload(&packet.headers).filter(|_| able);
            if request.is_none() {
                checksum::complete(&self.region, &mut packet.frames, &packet.headers);
            }
        }
        let bytes = packet.frames.total_len();
        match attached.port.transmit(packet.frames, request) {
            Ok(()) => {
                attached.to_kick = true;
                self.counts.sent(kind, bytes);
            }
            Err(refused) => {
                let packet = Packet { frames: refused.chain, ..packet };
                self.drop_packet(packet, reason(refused.reason), None, now);
            }
        }
    }

    /// Sends an answer of the gateway's own, which has no connection, by the port of this worker that it answers to.
    pub(super) fn send_frames(
        &mut self,
        frames: FrameChain,
        request: Option<TxChecksum>,
        port: PortId,
        kind: PortKind,
        now: Instant64,
    ) {
        let bytes = frames.total_len();
        let Some(attached) = self.attached(port) else {
            return self.drop_frames(frames, DropReason::PortGone, port, kind, now);
        };
        match attached.port.transmit(frames, request) {
            Ok(()) => {
                attached.to_kick = true;
                self.counts.sent(kind, bytes);
            }
            Err(refused) => self.drop_frames(refused.chain, reason(refused.reason), port, kind, now),
        }
    }

    /// Drops a packet that cannot be forwarded and tells its sender, at most so often.
    fn complain(
        &mut self,
        snapshot: &Snapshot,
        packet: Packet,
        (problem, reason): (Problem, DropReason),
        now: Instant64,
    ) {
        // Nobody is told about a later fragment (RFC 1812, 4.3.2.7).
        if !packet.headers.is_later_fragment() && self.errors.take(packet.ingress, now) {
            self.send_error(snapshot, &packet, problem, now);
        }
        self.drop_packet(packet, reason, None, now);
    }

    /// Tells the sender of a packet that policy denies it, at most so often: by a reset for TCP, by an ICMP error for the rest.
    pub(super) fn reject(&mut self, snapshot: &Snapshot, packet: &Packet, now: Instant64) {
        if packet.headers.is_later_fragment() || !self.errors.take(packet.ingress, now) {
            return;
        }
        match packet.headers.transport {
            Transport::Tcp(_) => {
                let back = packet.ingress;
                self.generate(snapshot, packet, (back, reset::MAX_RESET), now, |denied, out| {
                    reset::reset(denied, &packet.headers, out)
                });
            }
            _ => self.send_error(snapshot, packet, Problem::Prohibited, now),
        }
    }

    /// Tells the receiver of a packet that the open connection it belongs to is over, at most so often.
    pub(super) fn say_farewell(
        &mut self,
        snapshot: &Snapshot,
        packet: &Packet,
        farewell: Farewell,
        now: Instant64,
    ) {
        if self.errors.take(packet.ingress, now) {
            let Farewell { hop, sequence } = farewell;
            self.generate(snapshot, packet, (hop.port, reset::MAX_RESET), now, |_, out| {
                reset::farewell(&packet.headers, sequence, &hop, out)
            });
        }
    }

    fn send_error(&mut self, snapshot: &Snapshot, packet: &Packet, problem: Problem, now: Instant64) {
        let v6 = packet.headers.is_ipv6();
        let own = if v6 { GATEWAY_V6.into() } else { GATEWAY_V4.into() };
        let speaker = snapshot.node.speaker(v6).unwrap_or(own);
        self.generate(snapshot, packet, (packet.ingress, icmp::MAX_ERROR), now, |offending, out| {
            icmp::error(problem, offending, &packet.headers, speaker, out)
        });
    }

    /// Sends a packet of the gateway's own by `port`, of at most `room` bytes, because of another one. `write` is given that
    /// one's head frame and where to write to, and says how long the new one became.
    fn generate(
        &mut self,
        snapshot: &Snapshot,
        packet: &Packet,
        (port, room): (PortId, usize),
        now: Instant64,
        write: impl FnOnce(&[u8], &mut [u8]) -> Option<usize>,
    ) {
        let Some(mut frame) = self.pool.take() else { return };
        if !frame.set_len(room) {
            return self.pool.put(frame);
        }
        let length = write(packet.frames.data(&self.region), self.region.data_mut(&mut frame));
        match length {
            Some(length) if frame.set_len(length) => {
                self.counts.generated += 1;
                self.errors.count_sent(packet.ingress);
                let error = Packet {
                    frames: FrameChain::single(frame),
                    headers: packet.headers,
                    checksum: ChecksumState::Complete,
                    ingress: packet.ingress,
                    ingress_kind: packet.ingress_kind,
                    generation: packet.generation,
                };
                self.dispatch(snapshot, error, port, now);
            }
            _ => self.pool.put(frame),
        }
    }
}

fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::RingFull => DropReason::TxRingFull,
        // The device takes fewer frames than the packet has.
        Refusal::TooManyFrames => DropReason::PacketTooBig,
        Refusal::NoChecksumOffload
        | Refusal::ChecksumOutside
        | Refusal::NoHeadroom
        | Refusal::Empty
        | Refusal::ForeignRegion => DropReason::TxRefused,
    }
}

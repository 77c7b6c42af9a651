//! From a packet to how it leaves: the entry of its connection, or a verdict that makes one.

use super::route::{Farewell, Known, Opening, Refusal, Way, decide, identities};
use super::{Established, LOOK_AHEAD, Worker};
use crate::clock::{Clock, Instant64};
use crate::drop_reason::DropReason;
use crate::flow::{End, Evidence, Flow, FlowId, FlowKey, Heading, Hop, NoRoom, Progress, Side, Tuple};
use crate::packet::{Headers, Packet, PortKind, Role, Transport};
use crate::parse::quoted;
use crate::policy::Judgement;
use crate::snapshot::{Mac, Snapshot};

/// What a packet's connection is found by: worked out once, before the packet's turn comes.
pub(super) struct Probe {
    key: FlowKey,
    heading: Heading,
    /// Of the key.
    hash: u64,
}

impl<C: Clock> Worker<C> {
    /// What a packet's connection is found by.
    #[inline]
    pub(super) fn probe(&self, headers: &Headers) -> Probe {
        let (key, heading) = FlowKey::of(headers);
        Probe { key, heading, hash: self.flows.hash(&key) }
    }

    /// The probes of the next packets; their entries are on their way into the cache then.
    pub(super) fn look_ahead(&self, packets: &[Packet], probes: &mut Vec<Probe>) {
        probes.clear();
        for packet in packets.iter().take(LOOK_AHEAD) {
            let probe = self.probe(&packet.headers);
            self.flows.prefetch(probe.hash);
            probes.push(probe);
        }
    }

    /// How a packet leaves.
    pub(super) fn track(
        &mut self,
        snapshot: &Snapshot,
        packet: &Packet,
        probe: &Probe,
        now: Instant64,
    ) -> Result<Hop, Refusal> {
        let headers = &packet.headers;
        let role = headers.role();
        if role == Role::Related {
            return self.related(snapshot, packet, now);
        }
        let evidence =
            Evidence::of(packet.frames.data(&self.region), headers).ok_or(DropReason::TransportHeader)?;
        let known = self.find_live(probe.hash, &probe.key, now);
        let side = known.and_then(|id| self.flows.get(id)).map(|flow| flow.side(probe.heading));
        // A SYN or an INIT, which may be another connection's than the one it finds.
        let opens = role == Role::Any && evidence != Evidence::Plain;
        match (known, side) {
            (Some(id), Some(side)) if !(opens && self.gives_way(id, side)) => {
                match self.revalidate(snapshot, id, Some(side), now) {
                    Ok(()) => {}
                    // The old connection is over. What may open one is judged for itself, rather than lost with it; in the
                    // original direction of what policy has revoked that would say no again.
                    Err(refusal)
                        if matches!(role, Role::Any | Role::Request)
                            && self.flows.get(id).is_none()
                            && (refusal.reason != DropReason::PolicyRevoked || side == Side::Reply) =>
                    {
                        return self.open(snapshot, packet, evidence, probe, None, now);
                    }
                    Err(refusal) => return Err(refusal),
                }
                if opens {
                    // Whatever the connection may do: this asks for another one.
                    self.judge_opening(snapshot, packet, &Tuple::of(headers))?;
                }
                Ok(self.flows.see(id, side, &evidence, now)?)
            }
            _ => match role {
                Role::Established if matches!(headers.transport, Transport::Sctp { .. }) => {
                    Err(DropReason::StraySctp.into())
                }
                Role::Established => Err(DropReason::StrayTcp.into()),
                Role::Reply => Err(DropReason::StrayIcmpReply.into()),
                Role::Any | Role::Request | Role::Related => {
                    self.open(snapshot, packet, evidence, probe, known, now)
                }
            },
        }
    }

    /// The entry of a connection, unless its time is over: then it ends here, and what comes is judged for itself.
    #[inline]
    pub(super) fn find_live(&mut self, hash: u64, key: &FlowKey, now: Instant64) -> Option<FlowId> {
        let id = self.flows.find(hash, key)?;
        if self.flows.is_expired(id, now) {
            self.flows.expire(id, now);
            return None;
        }
        Some(id)
    }

    fn gives_way(&self, id: FlowId, side: Side) -> bool {
        self.flows.get(id).is_none_or(|flow| flow.gives_way(side))
    }

    /// Policy's word on a packet that asks for a connection, and the way that one would have.
    fn judge_opening(&self, snapshot: &Snapshot, packet: &Packet, tuple: &Tuple) -> Result<Way, Refusal> {
        let entry_mac = source_mac(packet.frames.data(&self.region));
        let port = packet.headers.destination_port;
        let opening = Opening { tuple, port, entry_port: packet.ingress, entry_mac };
        decide(snapshot, &opening, None).inspect_err(|refusal| {
            if let Some((_, verdict)) = refusal.decided_by {
                snapshot.policy.count(usize::from(self.id.0), verdict);
            }
        })
    }

    /// Judges the first packet of a connection, and enters it if it is admitted. `old` is an entry that it replaces then.
    fn open(
        &mut self,
        snapshot: &Snapshot,
        packet: &Packet,
        evidence: Evidence,
        probe: &Probe,
        old: Option<FlowId>,
        now: Instant64,
    ) -> Result<Hop, Refusal> {
        let tuple = Tuple::of(&packet.headers);
        let way = self.judge_opening(snapshot, packet, &tuple)?;
        if let Some(old) = old {
            self.flows.cut(old, End::Replaced, now);
        }
        let flow = Flow {
            key: probe.key,
            heading: probe.heading,
            translated: tuple,
            judged_port: packet.headers.destination_port,
            identities: way.identities,
            account: way.account,
            entry_port: packet.ingress,
            entry_mac: source_mac(packet.frames.data(&self.region)),
            generation: snapshot.generation,
            judgement: way.judgement,
            hops: way.hops,
            last_seen: now,
            progress: Progress::open(&evidence),
            upheld_for: 0,
            opened: now,
        };
        let hop = flow.hop(Side::Original);
        let entered = self.flows.insert(flow, now, |other| {
            let gone = other.generation != snapshot.generation
                && identities(snapshot, &other.translated) != other.identities;
            gone.then(|| Refusal::from(DropReason::AddressMoved).denial(snapshot))
        });
        entered.map_err(|no_room| match no_room {
            NoRoom::Table => DropReason::FlowTableFull,
            NoRoom::Pod => DropReason::PodFlows,
        })?;
        self.count_verdicts(snapshot, &way.judgement);
        Ok(hop)
    }

    fn count_verdicts(&self, snapshot: &Snapshot, judgement: &Judgement) {
        for verdict in [judgement.egress, judgement.ingress].into_iter().flatten() {
            snapshot.policy.count(usize::from(self.id.0), verdict);
        }
    }

    /// Judges a connection again, in its original direction, once for each generation. An error ends its packet, and mostly
    /// the connection too. `side` is the direction of a packet of its own, whose receiver may have to be told.
    pub(super) fn revalidate(
        &mut self,
        snapshot: &Snapshot,
        id: FlowId,
        side: Option<Side>,
        now: Instant64,
    ) -> Result<(), Refusal> {
        let Some(flow) = self.flows.get(id) else { return Err(DropReason::PortGone.into()) };
        if flow.generation == snapshot.generation {
            return Ok(());
        }
        let refusal = match self.judge_again(snapshot, flow) {
            Ok(Way { judgement, is_upheld, hops, .. }) => {
                self.flows.judged(id, snapshot.generation, judgement, is_upheld, hops);
                return Ok(());
            }
            // The way may come back, the connection is still allowed.
            Err(refusal) if refusal.reason == DropReason::NextHopUnresolved => return Err(refusal),
            Err(refusal) => refusal,
        };
        let farewell = side.filter(|_| refusal.decided_by.is_some()).and_then(|side| flow.farewell(side));
        let farewell = farewell.map(|(sequence, hop)| Farewell { hop, sequence });
        self.flows.cut(id, End::Cut(refusal.denial(snapshot)), now);
        Err(Refusal { farewell, ..refusal })
    }

    /// What the snapshot says of a connection that was judged under an older one. Changes nothing.
    pub(super) fn judge_again(&self, snapshot: &Snapshot, flow: &Flow) -> Result<Way, Refusal> {
        let opening = Opening {
            tuple: &flow.translated,
            port: flow.judged_port,
            entry_port: flow.entry_port,
            entry_mac: flow.entry_mac,
        };
        // Asked for by name: the verdict does not count. Its way does: ports may have changed.
        let kept = (self.settings.established == Established::Keep).then_some(flow.judgement);
        let known = Known { identities: flow.identities, kept };
        decide(snapshot, &opening, Some(known)).map_err(|refusal| match refusal.decided_by {
            Some(_) => Refusal { decided_by: refusal.decided_by, ..DropReason::PolicyRevoked.into() },
            None => refusal,
        })
    }

    /// An ICMP error passes if it quotes a packet of a live connection, to the one who sent that packet.
    fn related(&mut self, snapshot: &Snapshot, packet: &Packet, now: Instant64) -> Result<Hop, Refusal> {
        let no_flow = || Refusal::from(DropReason::IcmpErrorNoFlow);
        let quoted = quoted(packet.frames.data(&self.region), &packet.headers).ok_or_else(no_flow)?;
        // A pod is no router: it complains about what was sent to itself, or not at all.
        if packet.ingress_kind == PortKind::Pod && packet.headers.source != quoted.destination.into() {
            return Err(no_flow());
        }
        // Nor is anybody outside on the way between two pods of this node.
        let leaves = |hop: &Hop| snapshot.port(hop.port).is_some_and(|entry| entry.kind != PortKind::Pod);
        let may_complain = |flow: &Flow| packet.ingress_kind == PortKind::Pod || flow.hops.iter().any(leaves);
        let tuple = Tuple::of_quoted(&quoted);
        let (id, side) = [Role::Request, Role::Reply]
            .into_iter()
            .find_map(|role| {
                let (key, heading) = FlowKey::of_tuple(&tuple, role);
                let id = self.find_live(self.flows.hash(&key), &key, now)?;
                let flow = self.flows.get(id)?;
                let side = flow.side(heading);
                (may_complain(flow) && flow.may_have_sent(side, &quoted)).then_some((id, side))
            })
            .ok_or_else(no_flow)?;
        self.revalidate(snapshot, id, None, now)?;
        // It goes against the packet that it quotes.
        let back = match side {
            Side::Original => Side::Reply,
            Side::Reply => Side::Original,
        };
        Ok(self.flows.get(id).ok_or_else(no_flow)?.hop(back))
    }
}

fn source_mac(head: &[u8]) -> Mac {
    head.get(6..).and_then(|bytes| bytes.first_chunk::<6>()).copied().unwrap_or_default()
}

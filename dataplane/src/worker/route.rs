//! Where a new connection goes, and what policy says of it: the slow path, once per connection and generation.
//!
//! [`decide`] is called for the first packet of a connection, and again in the original direction when a newer snapshot
//! is pinned. It finds out who both ends are, asks [`judge`], and says how packets of both directions leave. It reads the
//! snapshot and nothing else, so that asking again under the same snapshot gives the same answer.

use std::net::IpAddr;

use crate::drop_reason::DropReason;
use crate::flow::{Denial, Hop, Tuple};
use crate::packet::{PortId, PortKind};
use crate::policy::{Delivery, Direction, Judgement, Question, Tier, Verdict, judge};
use crate::snapshot::{Mac, NextHop, PortEntry, Snapshot};

/// What is asked: the original direction of a connection, after translation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening<'a> {
    /// Addresses and what tells connections apart.
    pub tuple: &'a Tuple,
    /// Destination port for policy, 0 where the protocol has none.
    pub port: u16,
    /// The port that the opening packet came in by.
    pub entry_port: PortId,
    /// The MAC address it came from there.
    pub entry_mac: Mac,
}

/// An admitted connection's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// What was said, direction by direction.
    pub judgement: Judgement,
    /// It was said before: policy says no by now, and what is open may go on.
    pub is_upheld: bool,
    /// Who has the source and the destination address; 0 for no pod.
    pub identities: [u32; 2],
    /// How packets of the original and of the reply direction leave.
    pub hops: [Hop; 2],
    /// The port of the pod that it is charged to: of the one that opens it, or else of the one it goes to; where no pod of this
    /// node takes part, the port that it came in by.
    pub account: PortId,
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The name under which its packets are counted.
    pub reason: DropReason,
    /// The direction that said no, if policy did.
    pub decided_by: Option<(Direction, Verdict)>,
    /// A neighbour whose MAC address somebody should find out.
    pub unresolved: Option<(PortId, IpAddr)>,
    /// What the packet's receiver can be told with that an open TCP connection is over.
    pub farewell: Option<Farewell>,
}

/// How the other end of a connection is reached for the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Farewell {
    /// The way there.
    pub hop: Hop,
    /// The sequence number that it expects.
    pub sequence: u32,
}

impl Refusal {
    /// Did policy say no, rather than circumstances?
    pub fn is_by_policy(&self) -> bool {
        matches!(
            self.reason,
            DropReason::PolicyEgress | DropReason::PolicyIngress | DropReason::PolicyRevoked
        )
    }

    /// The same, for whoever asks later.
    pub fn denial(&self, snapshot: &Snapshot) -> Denial {
        Denial { reason: self.reason, decided_by: self.decided_by, generation: snapshot.generation }
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, decided_by: None, unresolved: None, farewell: None }
    }
}

/// Who has both addresses of a connection: the pods' identities, 0 for no pod. Cheaper than [`decide`], and the same.
pub(super) fn identities(snapshot: &Snapshot, tuple: &Tuple) -> [u32; 2] {
    [tuple.source, tuple.destination]
        .map(|address| snapshot.pod(address).map_or(0, |(_, delivery)| delivery.identity))
}

/// What is known of a connection that is judged again.
pub(super) struct Known {
    /// The pods that it belongs to, as [`Way::identities`].
    pub identities: [u32; 2],
    /// Its judgement, if it may go on whatever policy says by now; only what is closed because nobody knows what policy
    /// says stays closed.
    pub kept: Option<Judgement>,
}

/// Judges a connection and finds its way.
///
/// # Errors
/// [`Refusal`]: the connection is not admitted, its pods are others, or there is no way.
pub(super) fn decide(
    snapshot: &Snapshot,
    opening: &Opening<'_>,
    known: Option<Known>,
) -> Result<Way, Refusal> {
    let Tuple { source, destination, protocol, .. } = *opening.tuple;
    let source_pod = snapshot.pod(source);
    let destination_pod = snapshot.pod(destination);
    let identity = |pod: Option<(_, Delivery)>| pod.map_or(0, |(_, delivery)| delivery.identity);
    let identities = [identity(source_pod), identity(destination_pod)];
    if known.as_ref().is_some_and(|known| known.identities != identities) {
        return Err(DropReason::AddressMoved.into());
    }
    let entry = snapshot.port(opening.entry_port).ok_or(DropReason::PortGone)?;
    let source_local = source_pod.and_then(|(_, delivery)| delivery.port);
    let destination_local = destination_pod.and_then(|(_, delivery)| delivery.port);
    let to_node = snapshot.node.contains(destination);
    let from_node = entry.kind == PortKind::Host && snapshot.node.contains(source);

    let out = egress(snapshot, destination, destination_local, to_node)?;
    if out.port == opening.entry_port && entry.kind != PortKind::Pod {
        // It would go back to where it came from: nobody here has that address.
        return Err(DropReason::NoRoute.into());
    }
    let question = Question {
        source,
        source_pod: source_pod.map(|(slot, _)| slot),
        destination,
        destination_pod: destination_pod.map(|(slot, _)| slot),
        protocol,
        port: opening.port,
        // A pod's packets are judged where it is, also when the host stack has translated them and sends them back.
        judge_egress: entry.kind == PortKind::Pod || source_local.is_some(),
        judge_ingress: destination_local.is_some(),
        same_pod: identities[0] != 0 && identities[0] == identities[1],
        from_own_node: from_node,
        to_own_node: to_node && out.kind == PortKind::Host,
    };
    let mut judgement =
        close(snapshot, judge(&snapshot.policy, &question), source_local, destination_local, entry);
    let mut is_upheld = false;
    let kept = known.and_then(|known| known.kept);
    if let (Some(kept), Some((_, verdict))) = (kept, judgement.denied_by())
        && verdict.tier != Tier::Closed
    {
        (judgement, is_upheld) = (kept, true);
    }
    if let Some((direction, verdict)) = judgement.denied_by() {
        let reason = match (verdict.tier, direction) {
            (Tier::Closed, _) if !snapshot.synced => DropReason::NotSynced,
            (Tier::Closed, _) => DropReason::PortClosed,
            (_, Direction::Egress) => DropReason::PolicyEgress,
            (_, Direction::Ingress) => DropReason::PolicyIngress,
        };
        return Err(Refusal { decided_by: Some((direction, verdict)), ..reason.into() });
    }
    // After the verdict: what is denied is counted as denied, whether or not it could have been sent.
    let destination_mac = match out.next_hop {
        Ok(mac) => mac,
        Err(neighbour) => {
            let unresolved = Some((out.port, neighbour));
            return Err(Refusal { unresolved, ..DropReason::NextHopUnresolved.into() });
        }
    };
    let back = match entry.kind {
        PortKind::Uplink => opening.entry_mac,
        PortKind::Pod | PortKind::Host => entry.peer_mac,
    };
    let hop = |port, entry: &PortEntry, destination_mac| Hop {
        port,
        source_mac: entry.mac,
        destination_mac,
        mtu: entry.mtu,
    };
    let hops = [hop(out.port, out.entry, destination_mac), hop(opening.entry_port, entry, back)];
    let account = source_local.or(destination_local).unwrap_or(opening.entry_port);
    Ok(Way { judgement, is_upheld, identities, hops, account })
}

struct Out<'a> {
    port: PortId,
    entry: &'a PortEntry,
    kind: PortKind,
    next_hop: Result<Mac, IpAddr>,
}

/// The port that leads to an address: a pod's own, an uplink that reaches it directly, or else the host stack.
fn egress<'a>(
    snapshot: &'a Snapshot,
    destination: IpAddr,
    local: Option<PortId>,
    to_node: bool,
) -> Result<Out<'a>, Refusal> {
    let there = |port| snapshot.port(port).ok_or(DropReason::NoRoute);
    if let Some(port) = local {
        let entry = there(port)?;
        return Ok(Out { port, entry, kind: entry.kind, next_hop: Ok(entry.peer_mac) });
    }
    if !to_node && let Some(next) = snapshot.direct.find(destination) {
        let (port, next_hop) = match next {
            NextHop::Known(port, mac) => (port, Ok(mac)),
            NextHop::Unresolved(port, neighbour) => (port, Err(neighbour)),
        };
        let entry = there(port)?;
        return Ok(Out { port, entry, kind: entry.kind, next_hop });
    }
    let port = snapshot.host.ok_or(DropReason::NoRoute)?;
    let entry = there(port)?;
    Ok(Out { port, entry, kind: entry.kind, next_hop: Ok(entry.peer_mac) })
}

/// The flag of a port outweighs the tables: what is not exempt is closed.
fn close(
    snapshot: &Snapshot,
    mut judgement: Judgement,
    source: Option<PortId>,
    destination: Option<PortId>,
    entry: &PortEntry,
) -> Judgement {
    let closed =
        |port: Option<PortId>| port.and_then(|port| snapshot.port(port)).is_some_and(|port| port.closed);
    let shut = |verdict: Verdict| if verdict.tier == Tier::Exempt { verdict } else { Verdict::CLOSED };
    if closed(source) || (entry.kind == PortKind::Pod && entry.closed) {
        judgement.egress = judgement.egress.map(shut);
    }
    if closed(destination) {
        judgement.ingress = judgement.ingress.map(shut);
    }
    judgement
}

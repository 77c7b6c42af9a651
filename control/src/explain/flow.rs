//! Answers about one connection that is there, or was a while ago.
//!
//! Another question than that of [`super::Query`]: not what the tables say now, but what was said of a connection's packets, and
//! what became of it. So the answer is what its worker remembers; what a new connection would come to now stands beside it.

use std::net::IpAddr;

use podgate_dataplane::flow::Tuple;
use podgate_dataplane::packet::protocol;
use serde::{Deserialize, Serialize};

use super::answer::{Explanation, Outcome, Side, TierName};
use super::end::{End, IpProtocol, Query, QueryError};
use super::world::World;

/// What became of this connection, whichever of its ends opened it?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuery {
    /// Its ends.
    pub query: Query,
    /// Source port; the identifier of an ICMP echo; 0 for any other protocol.
    pub source_port: u16,
}

/// The answer to a [`FlowQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowExplanation {
    /// As asked.
    pub source_port: u16,
    /// What is there first, then what ended last. Empty if no worker knows of any.
    pub flows: Vec<FlowAnswer>,
    /// What a new connection as asked for would come to now.
    pub now: Explanation,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnd {
    /// `namespace/name` of the pod that had the address when the connection was judged.
    pub pod: Option<String>,
    /// The address.
    pub ip: IpAddr,
}

impl FlowEnd {
    /// How people call it.
    #[must_use]
    pub fn name(&self) -> String {
        self.pod.clone().unwrap_or_else(|| self.ip.to_string())
    }
}

/// A connection that a worker has, or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowAnswer {
    /// Whether its worker has it still.
    pub live: bool,
    /// Who opened it.
    pub from: FlowEnd,
    /// To whom.
    pub to: FlowEnd,
    /// The protocol.
    pub protocol: IpProtocol,
    /// Source port; the identifier of an ICMP echo; 0 for any other protocol.
    pub source_port: u16,
    /// Destination port; nothing for a protocol without ports.
    pub port: Option<u16>,
    /// The worker that owns it.
    pub worker: u8,
    /// How far it has come: for TCP and SCTP by the names of Linux's connection tracking, else `answered` or `unanswered`.
    pub state: String,
    /// When its first packet passed, in milliseconds since 1970.
    pub opened_ms: u64,
    /// When a packet passed last that kept it alive.
    pub last_seen_ms: u64,
    /// The generation it was judged by last.
    pub generation: u64,
    /// The generation that `egress` and `ingress` were said by: an older one if policy has said no since, and the connection only
    /// goes on because open ones may (`established: keep`).
    pub judged_under: u64,
    /// What admitted it: the source pod's egress.
    pub egress: Side,
    /// The destination pod's ingress.
    pub ingress: Side,
    /// How it ended, if it did. A connection that is closed waits for late packets for a while, and is `live` as long.
    pub ended: Option<HowEnded>,
    /// What its next packet comes to, if it is live and its generation is not in force any more.
    pub next: Option<NextPacket>,
    /// What a new connection of its ends would come to now, if that is another verdict, or by another rule.
    pub now: Option<Explanation>,
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HowEnded {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// `closed` or `reset` by its ends; `timeout`; `evicted` or `replaced` by another connection; else the name of a drop reason,
    /// as `policy_revoked` and `address_moved`.
    pub how: String,
    /// Who denied it, if somebody did.
    pub denial: Option<FlowDenial>,
}

/// Why a connection may not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowDenial {
    /// Name of the drop reason.
    pub reason: String,
    /// The generation that says so.
    pub generation: u64,
    /// `egress` or `ingress`, if policy denies it.
    pub direction: Option<String>,
    /// What that direction says.
    pub side: Option<Side>,
}

/// What the next packet of a connection comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextPacket {
    /// The generation it will be judged by.
    pub generation: u64,
    /// Whether it passes.
    pub verdict: Outcome,
    /// If not, why.
    pub denial: Option<FlowDenial>,
}

impl FlowQuery {
    /// What to look for: one for each pair of addresses that the two ends have.
    ///
    /// # Errors
    /// [`QueryError`] if an end is unknown or has no address, or the ports do not fit the protocol.
    pub fn tuples(&self, world: &World) -> Result<Vec<Tuple>, QueryError> {
        let IpProtocol(number) = self.query.protocol;
        let is_icmp = matches!(number, protocol::ICMP | protocol::ICMPV6);
        let port = match self.query.port {
            Some(port) if self.query.protocol.has_ports() => port,
            None if self.query.protocol.has_ports() => {
                return Err(QueryError::PortMissing(self.query.protocol));
            }
            _ if !is_icmp && self.source_port != 0 => {
                return Err(QueryError::NoSourcePort(self.query.protocol));
            }
            _ => 0,
        };
        let tuple = |(source, destination): (IpAddr, IpAddr)| {
            // Workers keep an echo request's type where others have the destination port.
            let (protocol, port) = match (is_icmp, source) {
                (false, _) => (number, port),
                (true, IpAddr::V4(_)) => (protocol::ICMP, 8),
                (true, IpAddr::V6(_)) => (protocol::ICMPV6, 128),
            };
            Tuple { source, destination, source_port: self.source_port, destination_port: port, protocol }
        };
        Ok(world.address_pairs(&self.query)?.into_iter().map(tuple).collect())
    }
}

impl FlowAnswer {
    /// Fills in what a new connection would come to now, if that differs.
    pub fn compare(&mut self, world: &World) {
        let (from, to) = (End::Address(self.from.ip), End::Address(self.to.ip));
        let query = Query { from, to, port: self.port, protocol: self.protocol };
        self.now = world
            .explain(&query)
            .ok()
            .filter(|now| is_other(&self.egress, &now.egress) || is_other(&self.ingress, &now.ingress));
    }
}

fn is_other(then: &Side, now: &Side) -> bool {
    // Who admitted it may be forgotten.
    let is_known = then.policy.is_some() || then.tier != Some(TierName::NetworkPolicy);
    let rule = |side: &Side| (side.policy.clone(), side.rule, side.peer);
    (then.verdict, then.tier) != (now.verdict, now.tier) || is_known && rule(then) != rule(now)
}

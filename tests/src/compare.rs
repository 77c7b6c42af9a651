//! The compiled tables against the oracle.
//!
//! [`Subject`] is one cluster with everything that was compiled from it; [`Subject::difference`] asks one question
//! of the tables, as a worker asks it, and [`Subject::misexplained`] asks it of `explain`, and both hold the answer
//! against the oracle's, direction by direction, with who decided and by which policy, rule and peer.

use podgate_config::model::Cluster;
use podgate_control::compiler::{CompileError, Limits, Scope, compile};
use podgate_control::explain::{
    End as ExplainEnd, Explanation, IpProtocol, MissingPart, Nearest, Outcome, Query, Side as ExplainSide,
    TierName, World,
};
use podgate_dataplane::policy::{PolicyTables, Question, Tier, Verdict, judge};

use crate::generate::{Probe, ProbeEnd};
use crate::oracle::{Answer, Connection, Direction, End, Oracle, Side};

/// A cluster, and what was compiled from it.
pub struct Subject<'a> {
    cluster: &'a Cluster,
    oracle: Oracle<'a>,
    tables: PolicyTables,
}

impl<'a> Subject<'a> {
    /// Compiles `cluster`.
    ///
    /// # Errors
    /// The compiler's.
    pub fn new(cluster: &'a Cluster) -> Result<Self, CompileError> {
        Ok(Self::compiled(cluster, compile(cluster, Scope::AllPods, &Limits::default())?.tables))
    }

    /// With tables that somebody else has compiled from it.
    #[must_use]
    pub fn compiled(cluster: &'a Cluster, tables: PolicyTables) -> Self {
        Self { cluster, oracle: Oracle::new(cluster), tables }
    }

    /// What the oracle is asked; nothing if the probe names a pod that is not there.
    #[must_use]
    pub fn connection(&self, probe: &Probe) -> Option<Connection<'a>> {
        let end = |end: &ProbeEnd| {
            let party = match &end.pod {
                Some(name) => self.oracle.party_of(name)?,
                None => self.oracle.party_at(end.address),
            };
            Some(End { party, address: end.address })
        };
        let (source, destination) = (end(&probe.from)?, end(&probe.to)?);
        Some(Connection { source, destination, protocol: probe.protocol, port: probe.port })
    }

    /// The oracle's answer.
    #[must_use]
    pub fn expected(&self, connection: &Connection<'a>) -> Answer<'a> {
        self.oracle.judge(connection)
    }

    /// How the tables differ from the oracle, if they do.
    #[must_use]
    pub fn difference(&self, probe: &Probe) -> Option<String> {
        let c = self.connection(probe)?;
        let expected = self.oracle.judge(&c);
        self.differs_from(&c, &expected)
    }

    /// How the tables differ from this answer, if they do.
    #[must_use]
    pub fn differs_from(&self, c: &Connection<'a>, expected: &Answer<'a>) -> Option<String> {
        let tables = &self.tables;
        for end in [&c.source, &c.destination] {
            let known = tables.lookup(end.address).is_some();
            let owner = self.oracle.party_at(end.address).pod();
            if known != owner.is_some() {
                return Some(format!(
                    "{}: in the tables {known}, owner {:?}",
                    end.address,
                    owner.map(|p| &p.name)
                ));
            }
        }
        let (source, destination) = (c.source.party.pod(), c.destination.party.pod());
        let slot = |end: &End<'_>| tables.lookup(end.address).map(|(_, slot)| slot);
        let question = Question {
            source: c.source.address,
            source_pod: source.and_then(|_| slot(&c.source)),
            destination: c.destination.address,
            destination_pod: destination.and_then(|_| slot(&c.destination)),
            protocol: c.protocol,
            port: c.port,
            judge_egress: source.is_some(),
            judge_ingress: destination.is_some(),
            same_pod: source.is_some() && source.map(|p| &p.name) == destination.map(|p| &p.name),
            from_own_node: destination.is_some_and(|pod| self.oracle.is_own_node(c.source.party, pod)),
            to_own_node: source.is_some_and(|pod| self.oracle.is_own_node(c.destination.party, pod)),
        };
        let judgement = judge(tables, &question);
        let same = |side: Option<&Side<'_>>, verdict: Option<Verdict>| {
            side.map(|side| (side.allows(), tier(side))) == verdict.map(|v| (v.allowed(), v.tier))
        };
        let agree = same(expected.egress.as_ref(), judgement.egress)
            && same(expected.ingress.as_ref(), judgement.ingress)
            && expected.allows() == judgement.allowed();
        (!agree).then(|| format!("oracle {expected:?}\ntables {judgement:?}"))
    }

    /// How `explain`'s answer differs from the oracle's or contradicts it, if it does.
    #[must_use]
    pub fn misexplained(&self, world: &World, probe: &Probe) -> Option<String> {
        let c = self.connection(probe)?;
        let expected = self.oracle.judge(&c);
        let answer = match world.explain(&query(probe)) {
            Ok(answer) => answer,
            Err(error) => return Some(format!("explain refuses: {error}")),
        };
        let wrong = self.explains_wrongly(&c, &expected, &answer);
        wrong.map(|what| format!("{what}\noracle {expected:?}\nexplain {answer:#?}"))
    }

    fn explains_wrongly(
        &self,
        c: &Connection<'a>,
        expected: &Answer<'a>,
        answer: &Explanation,
    ) -> Option<String> {
        if expected.allows() != (answer.verdict == Outcome::Allow) {
            return Some("verdict".to_owned());
        }
        for (direction, expected, side) in [
            (Direction::Egress, &expected.egress, &answer.egress),
            (Direction::Ingress, &expected.ingress, &answer.ingress),
        ] {
            if let Some(what) = self.side_is_wrong(direction, c, expected.as_ref(), side) {
                return Some(format!("{direction:?}: {what}"));
            }
        }
        None
    }

    fn side_is_wrong(
        &self,
        direction: Direction,
        c: &Connection<'a>,
        expected: Option<&Side<'a>>,
        side: &ExplainSide,
    ) -> Option<String> {
        let Some(expected) = expected else {
            return (side.verdict != Outcome::NotJudged).then(|| "judged, but it is no pod".to_owned());
        };
        let verdict = if expected.allows() { Outcome::Allow } else { Outcome::Deny };
        if (side.verdict, side.tier) != (verdict, Some(TierName::from(tier(expected)))) {
            return Some("verdict or tier".to_owned());
        }
        let Side::Isolated { by, admitted } = expected else { return None };
        let names: Vec<String> = by.iter().map(ToString::to_string).collect();
        if side.isolating != names {
            return Some(format!("isolated by {names:?}"));
        }
        // "The first policy that admits", its first rule, that one's first peer.
        let named = side.policy.clone().zip(side.rule).map(|(policy, rule)| (policy, rule, side.peer));
        let first = admitted.first().map(|first| (first.policy.to_string(), first.rule, first.peer));
        if named != first {
            return Some(format!("names {named:?}, the first that admits is {first:?}"));
        }
        side.nearest
            .iter()
            .find(|near| !by.iter().any(|name| self.is_near(direction, c, name, near)))
            .map(|near| format!("{near:?} is not a near miss"))
    }

    fn is_near(
        &self,
        direction: Direction,
        c: &Connection<'a>,
        policy: &podgate_config::model::ObjectName,
        near: &Nearest,
    ) -> bool {
        if policy.to_string() != near.policy {
            return false;
        }
        let Some(policy) = self.cluster.policies.get(policy) else { return false };
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let Some(rule) = rules.as_ref().and_then(|rules| rules.get(near.rule)) else { return false };
        let (ports, peers) = self.oracle.halves(policy, rule, direction, c);
        match near.missing {
            MissingPart::Port => !ports && peers.contains(&near.peer),
            MissingPart::Peer => ports && peers.is_empty() && near.peer.is_none(),
        }
    }
}

/// The probe as `explain` takes it.
#[must_use]
pub fn query(probe: &Probe) -> Query {
    let end = |end: &ProbeEnd| match &end.pod {
        Some(name) => ExplainEnd::Pod { name: name.clone(), address: Some(end.address) },
        None => ExplainEnd::Address(end.address),
    };
    let protocol = IpProtocol(probe.protocol);
    let port = protocol.has_ports().then_some(probe.port);
    Query { from: end(&probe.from), to: end(&probe.to), port, protocol }
}

fn tier(side: &Side<'_>) -> Tier {
    match side {
        Side::Exempt => Tier::Exempt,
        Side::NotIsolated => Tier::NotIsolated,
        Side::Isolated { .. } => Tier::NetworkPolicy,
    }
}

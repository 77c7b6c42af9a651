//! From what a worker remembers of a connection to words.
//!
//! Program and interval of a verdict mean something only in their own generation. Where that is forgotten, the answer says so:
//! those of another one would name other policies.

use std::net::IpAddr;
use std::time::Duration;

use podgate_dataplane::clock::Instant64;
use podgate_dataplane::flow::{Class, Denial, End, FlowState, SctpState, TcpState};
use podgate_dataplane::policy::{Direction, Tier, Verdict};
use podgate_dataplane::worker::{Fate, FoundFlow};

use super::drops::wall_clock_ms;
use crate::compiler::{Admitted, Origin};
use crate::explain::{
    FlowAnswer, FlowDenial, FlowEnd, HowEnded, IpProtocol, NextPacket, Outcome, Side, words,
};
use crate::live::Live;

/// The pod that has or had an identity.
type Names<'a> = &'a dyn Fn(u32) -> Option<String>;

/// Names what the worker has numbers for. `now` is this moment on its clock.
#[must_use]
pub fn tell(found: &FoundFlow, now: Instant64, live: &Live, names: Names<'_>) -> FlowAnswer {
    let facts = &found.facts;
    let ends = [(facts.tuple.source, facts.identities[0]), (facts.tuple.destination, facts.identities[1])];
    let ends = ends.map(|(ip, identity)| FlowEnd { pod: names(identity), ip });
    let then = Teller { live, generation: facts.judged_under, ends: &ends };
    let protocol = IpProtocol(facts.tuple.protocol);
    // The clock is read once, so that what happened a second later is told as a second later.
    let wall = wall_clock_ms(Duration::ZERO);
    let time = |at| wall.saturating_sub(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
    let class = facts.state.class();
    let next = match found.fate {
        Fate::Live { generation, next } if generation != facts.generation => Some(NextPacket {
            generation,
            verdict: if next.is_ok() { Outcome::Allow } else { Outcome::Deny },
            denial: next.err().map(|denial| then.denial(&denial)),
        }),
        _ => None,
    };
    let ended = match found.fate {
        // It was over before its entry went.
        _ if class == Class::Closing => {
            let is_reset = facts.state == FlowState::Tcp(TcpState::Closed);
            Some(ended(time(facts.last_seen), if is_reset { "reset" } else { "closed" }))
        }
        Fate::Live { .. } => None,
        Fate::Over { ended: at, end } => Some(match end {
            End::Expired => ended(time(at), "timeout"),
            End::Evicted => ended(time(at), "evicted"),
            End::Replaced => ended(time(at), "replaced"),
            End::Cut(denial) => {
                HowEnded { denial: Some(then.denial(&denial)), ..ended(time(at), denial.reason.name()) }
            }
        }),
    };
    let (egress, ingress) = (
        then.side(Direction::Egress, facts.judgement.egress),
        then.side(Direction::Ingress, facts.judgement.ingress),
    );
    let [from, to] = ends;
    FlowAnswer {
        live: matches!(found.fate, Fate::Live { .. }),
        protocol,
        source_port: facts.tuple.source_port,
        port: protocol.has_ports().then_some(facts.judged_port),
        worker: found.worker.0,
        state: state(facts.state).to_owned(),
        opened_ms: time(facts.opened),
        last_seen_ms: time(facts.last_seen),
        generation: facts.generation,
        judged_under: facts.judged_under,
        egress,
        ingress,
        ended,
        next,
        now: None,
        from,
        to,
    }
}

fn ended(time_ms: u64, how: &str) -> HowEnded {
    HowEnded { time_ms, how: how.to_owned(), denial: None }
}

/// Has the names of one generation for one connection.
struct Teller<'a> {
    live: &'a Live,
    generation: u64,
    /// Source and destination.
    ends: &'a [FlowEnd; 2],
}

impl Teller<'_> {
    fn denial(&self, denial: &Denial) -> FlowDenial {
        let teller = Self { generation: denial.generation, ..*self };
        FlowDenial {
            reason: denial.reason.name().to_owned(),
            generation: denial.generation,
            direction: denial.decided_by.map(|(direction, _)| words::section(direction).to_owned()),
            side: denial.decided_by.map(|(direction, verdict)| teller.side(direction, Some(verdict))),
        }
    }

    /// One direction in words.
    fn side(&self, direction: Direction, verdict: Option<Verdict>) -> Side {
        let [source, destination] = self.ends;
        let (subject, peer) = match direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        };
        let (name, section) = (subject.name(), words::section(direction));
        let mut side = Side::judged(verdict);
        side.reason = match verdict {
            None if subject.pod.is_some() => format!("judged on {name}'s own node"),
            None => format!("{name} is no pod"),
            Some(Verdict { tier: Tier::NotIsolated, .. }) => {
                format!("no policy isolates {name} for {section}")
            }
            Some(Verdict { tier: Tier::Exempt, .. }) => {
                "a pod to itself, or its own node: policy has no say".to_owned()
            }
            Some(Verdict { tier: Tier::Closed, .. }) => format!("{name} is closed: no tables judge it"),
            Some(verdict @ Verdict { tier: Tier::NetworkPolicy, .. }) => {
                let told = self.policies(&mut side, (&name, direction), verdict, peer.ip);
                told.unwrap_or_else(|| {
                    format!(
                        "by NetworkPolicies of generation {}, whose names are no longer remembered",
                        self.generation
                    )
                })
            }
        };
        side
    }

    /// Fills in the policies behind a verdict, and says it.
    fn policies(
        &self,
        side: &mut Side,
        (name, direction): (&str, Direction),
        verdict: Verdict,
        peer: IpAddr,
    ) -> Option<String> {
        let (program, compiler) = (verdict.program, self.live.compiler_of(self.generation));
        let isolating = compiler.isolating_then(program, self.generation)?;
        side.isolating = isolating.into_iter().map(ToString::to_string).collect();
        if !verdict.allowed() {
            return Some(words::not_admitted(direction, name, &side.isolating));
        }
        let said = |origin: &Origin<'_>| {
            format!("{} {}", origin.policy, words::path(direction, origin.rule, origin.peer))
        };
        let admitting = match compiler.admitting_then(program, verdict.interval, peer, self.generation)? {
            Admitted::By(admitting) => admitting,
            Admitted::OneOf(rules) => {
                let rules = words::shortened(rules.iter().map(said), ", ");
                return Some(format!(
                    "allowed by at least one of {rules}; which peer matched is not remembered"
                ));
            }
        };
        let (first, others) = admitting.split_first()?;
        side.policy = Some(first.policy.to_string());
        (side.rule, side.peer) = (Some(first.rule), first.peer);
        let others: Vec<String> = others
            .iter()
            .filter(|other| (other.policy, other.rule) != (first.policy, first.rule))
            .map(said)
            .collect();
        let mut text = format!("allowed by {}", said(first));
        if !others.is_empty() {
            text.push_str(&format!("; also by {}", words::shortened(others.into_iter(), ", ")));
        }
        Some(text)
    }
}

fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::Tcp(TcpState::SynSent) => "syn_sent",
        FlowState::Tcp(TcpState::SynReceived) => "syn_recv",
        FlowState::Tcp(TcpState::Established) | FlowState::Sctp(SctpState::Established) => "established",
        FlowState::Tcp(TcpState::FinWait) => "fin_wait",
        FlowState::Tcp(TcpState::CloseWait) => "close_wait",
        FlowState::Tcp(TcpState::LastAck) => "last_ack",
        FlowState::Tcp(TcpState::TimeWait) => "time_wait",
        FlowState::Tcp(TcpState::Closed) => "close",
        FlowState::Sctp(SctpState::CookieWait) => "cookie_wait",
        FlowState::Sctp(SctpState::CookieEchoed) => "cookie_echoed",
        FlowState::Sctp(SctpState::Shutdown) => "shutdown",
        FlowState::Sctp(SctpState::Closed) => "closed",
        FlowState::Plain { answered: true, .. } => "answered",
        FlowState::Plain { answered: false, .. } => "unanswered",
    }
}

#[cfg(test)]
mod tests {
    use podgate_config::model::Cluster;
    use podgate_dataplane::drop_reason::DropReason;
    use podgate_dataplane::flow::{FlowFacts, Tuple};
    use podgate_dataplane::packet::{PortId, WorkerId};
    use podgate_dataplane::policy::{Delivery, Judgement, Question};

    use super::*;
    use crate::compiler::Limits;
    use crate::compiler::world::{World as Sketch, own, rule};

    fn sketch() -> Sketch {
        let pods = Sketch::default().namespace("shop", "");
        pods.pod("shop/web", "app=web", &["10.0.0.1"], &[]).pod("shop/db", "app=db", &["10.0.0.2"], &[])
    }

    /// Publishes a cluster as the next generation; what only older ones needed is given up at once.
    fn publish(live: &mut Live, sketch: &Sketch, generation: u64) {
        let Cluster { namespaces, pods, policies, .. } = &sketch.0;
        namespaces.iter().for_each(|(name, namespace)| live.set_namespace(name, Some(namespace)));
        pods.values().for_each(|pod| live.set_pod(pod.clone(), true, Delivery::default()));
        let gone: Vec<_> =
            live.cluster().policies.keys().filter(|name| !policies.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| live.set_policy(name, None));
        policies.iter().for_each(|(name, policy)| live.set_policy(name, Some(policy)));
        live.settle().unwrap();
        live.published(generation);
        while live.reclaim(generation) {}
    }

    fn judge(live: &Live) -> Judgement {
        let [source, destination]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let slot = |ip| live.tables().lookup(ip).map(|(_, slot)| slot);
        let question = Question {
            source,
            source_pod: slot(source),
            destination,
            destination_pod: slot(destination),
            protocol: 6,
            port: 80,
            judge_egress: true,
            judge_ingress: true,
            same_pod: false,
            from_own_node: false,
            to_own_node: false,
        };
        podgate_dataplane::policy::judge(live.tables(), &question)
    }

    fn name(identity: u32) -> Option<String> {
        [None, Some("shop/web"), Some("shop/db")][identity as usize].map(str::to_owned)
    }

    /// `web` to `db`, admitted by generation 1, of `admitting`.
    fn found(judgement: Judgement, state: FlowState, fate: Fate) -> FoundFlow {
        let tuple = Tuple {
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            source_port: 40_000,
            destination_port: 80,
            protocol: 6,
        };
        let facts = FlowFacts {
            tuple,
            judged_port: 80,
            entry_port: PortId(3),
            identities: [1, 2],
            state,
            opened: Instant64::from_nanos(0),
            last_seen: Instant64::from_nanos(5_000_000_000),
            generation: 1,
            judgement,
            judged_under: 1,
        };
        FoundFlow { worker: WorkerId(1), facts, fate }
    }

    const NOW: Instant64 = Instant64::from_nanos(60_000_000_000);

    #[test]
    fn each_generation_is_named_by_its_own_policies() {
        let admitting =
            sketch().policy("shop/b", "app=db", Some(vec![rule(&["TCP/80"], &[own("app=web")])]), None);
        let admitting = admitting.policy("shop/c", "app=db", Some(vec![rule(&[], &[own("app")])]), None);
        let denying = sketch().policy("shop/deny", "app=db", Some(vec![]), None);
        let mut world = Live::new(Limits::default(), 0);
        publish(&mut world, &admitting, 1);
        let admitted = judge(&world);
        publish(&mut world, &denying, 2);
        let denied = judge(&world);
        let denial =
            Denial { reason: DropReason::PolicyRevoked, decided_by: denied.denied_by(), generation: 2 };
        let open = FlowState::Tcp(TcpState::Established);
        let live = Fate::Live { generation: 2, next: Err(denial) };
        let answer = tell(&found(admitted, open, live), NOW, &world, &name);
        assert!(answer.live && answer.ended.is_none());
        assert_eq!(
            (answer.state.as_str(), answer.from.name(), answer.worker),
            ("established", "shop/web".into(), 1)
        );
        assert_eq!(answer.last_seen_ms - answer.opened_ms, 5000);
        assert_eq!(answer.egress.reason, "no policy isolates shop/web for egress");
        let by = "allowed by shop/b ingress[0].from[0]; also by shop/c ingress[0].from[0]";
        assert_eq!(answer.ingress.reason, by);
        assert_eq!(answer.ingress.isolating, ["shop/b", "shop/c"]);
        let told = answer.next.unwrap().denial.unwrap();
        assert_eq!((told.reason.as_str(), told.direction.as_deref()), ("policy_revoked", Some("ingress")));
        let why = "ingress of shop/db is isolated by shop/deny; no rule admits this";
        assert_eq!(told.side.as_ref().unwrap().reason, why);

        let over = Fate::Over { ended: NOW, end: End::Cut(denial) };
        let answer = tell(&found(admitted, open, over), NOW, &world, &name);
        let ended = answer.ended.unwrap();
        assert_eq!(
            (answer.live, ended.how.as_str(), ended.time_ms - answer.opened_ms),
            (false, "policy_revoked", 60_000)
        );
        assert_eq!(ended.denial, Some(told));

        // Its program is given up: which peer it was is not known.
        let mut world = Live::new(Limits { idle: 0, ..Limits::default() }, 0);
        publish(&mut world, &admitting, 1);
        publish(&mut world, &denying, 2);
        let answer = tell(&found(admitted, open, over), NOW, &world, &name);
        assert_eq!((answer.ingress.policy, answer.ingress.rule), (None, None));
        let by = "allowed by at least one of shop/b ingress[0], shop/c ingress[0]; which peer matched is not remembered";
        assert_eq!(answer.ingress.reason, by);

        // Forgotten: no other generation's policies are named instead.
        let mut world = Live::new(Limits::default(), 0);
        publish(&mut world, &sketch(), 1);
        publish(&mut world, &denying, 2);
        let answer = tell(&found(admitted, open, over), NOW, &world, &name);
        assert_eq!((answer.ingress.verdict, answer.ingress.policy), (Outcome::Allow, None));
        assert!(answer.ingress.reason.contains("generation 1"), "{}", answer.ingress.reason);
    }

    #[test]
    fn ends_have_the_names_of_what_happened() {
        let mut world = Live::new(Limits::default(), 0);
        publish(&mut world, &sketch(), 1);
        let judgement = judge(&world);
        let tcp = |state| FlowState::Tcp(state);
        for (state, end, how, after) in [
            (tcp(TcpState::TimeWait), End::Expired, "closed", 5),
            (tcp(TcpState::TimeWait), End::Replaced, "closed", 5),
            (tcp(TcpState::Closed), End::Evicted, "reset", 5),
            (tcp(TcpState::Established), End::Expired, "timeout", 30),
            (tcp(TcpState::SynSent), End::Evicted, "evicted", 30),
            (tcp(TcpState::SynSent), End::Replaced, "replaced", 30),
        ] {
            let ended = Instant64::from_nanos(0).after(Duration::from_secs(30));
            let answer = tell(&found(judgement, state, Fate::Over { ended, end }), NOW, &world, &name);
            let told = answer.ended.unwrap();
            assert_eq!((told.how.as_str(), (told.time_ms - answer.opened_ms) / 1000), (how, after));
        }
    }
}

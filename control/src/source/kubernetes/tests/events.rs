//! What a server is told of objects that cannot be applied.

use std::time::Duration;

use podgate_config::manifest::server::ServerKind;
use serde_json::{Value, json};

use super::super::events::{Note, Reason, Reporter};
use super::fake::Fake;
use super::{PODS, Seen, pod};
use crate::store::Key;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(20);

/// At once, and nothing twice.
fn reporter(node: &str) -> Reporter {
    let reporter = Reporter::of(node);
    Reporter { stands: SHORT, apart: SHORT, renew: LONG, others: LONG, retry: SHORT, burst: 100, ..reporter }
}

fn note(policy: &str, message: &str) -> Note {
    let key = Key::of_server(ServerKind::NetworkPolicy, "shop", policy).unwrap();
    Note { key, uid: Some("u-1".into()), reason: Reason::NotUnderstood, message: message.to_owned() }
}

fn told(fake: &Fake) -> Vec<Value> {
    fake.with(|inner| inner.events.values().cloned().collect())
}

fn counts(seen: &Seen) -> (u64, u64) {
    let counts = seen.state().events.unwrap();
    (counts.told, counts.failed)
}

#[test]
fn an_event_says_what_and_why_and_is_made_once() {
    let fake = Fake::start();
    let mut seen = Seen::telling(&fake, reporter("node-1"));
    assert!(seen.subscription.tells_events());
    let node = Key::of_server(ServerKind::Node, "", "n").unwrap();
    seen.subscription.tell(vec![
        note("p", "spec.ingress[0].from[0].fqdn: is not a field here"),
        Note { key: node, uid: None, reason: Reason::NotUnderstood, message: "x".repeat(2000) },
    ]);
    seen.until("two events", |seen| counts(seen) == (2, 0));
    let [of_node, of_policy] = <[Value; 2]>::try_from(told(&fake)).unwrap();
    assert_eq!(of_node["metadata"]["namespace"], "default");
    assert_eq!(of_node["involvedObject"], json!({"apiVersion": "v1", "kind": "Node", "name": "n"}));
    assert_eq!(of_node["message"].as_str().map(str::len), Some(1000));
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop",
        "name": "p", "uid": "u-1"});
    assert_eq!(of_policy["involvedObject"], object);
    let name = of_policy["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("p.") && name.len() == 18, "{name}");
    assert_eq!(of_policy["lastTimestamp"], of_policy["firstTimestamp"]);
    for (field, value) in [
        ("type", json!("Warning")),
        ("reason", json!("NotUnderstood")),
        ("message", json!("spec.ingress[0].from[0].fqdn: is not a field here")),
        ("count", json!(1)),
        ("source", json!({"component": "podgate", "host": "node-1"})),
        ("reportingComponent", json!("podgate")),
        ("reportingInstance", json!("node-1")),
    ] {
        assert_eq!(of_policy[field], value, "{field}");
    }
    // The same again, another one for it, and another message.
    seen.subscription
        .tell(vec![note("p", "spec.ingress[0].from[0].fqdn: is not a field here"), note("q", "odd")]);
    seen.until("the other one", |seen| counts(seen) == (3, 0));
    seen.subscription.tell(vec![note("q", "odder")]);
    seen.until("the other message", |seen| counts(seen) == (4, 0));
    assert_eq!(told(&fake).len(), 4);
    assert!(told(&fake).iter().all(|event| event["count"] == 1));
}

#[test]
fn an_event_is_counted_up_while_the_fault_stands_and_made_again_when_it_is_forgotten() {
    let fake = Fake::start();
    let mut seen = Seen::telling(&fake, Reporter { renew: SHORT, every: SHORT, ..reporter("node-1") });
    seen.subscription.tell(vec![note("p", "odd")]);
    let count =
        |fake: &Fake| told(fake).first().and_then(|event| event["count"].as_u64()).unwrap_or_default();
    seen.until("it is counted up", |_| count(&fake) >= 3);
    fake.with(|inner| inner.events.clear());
    seen.until("it is made again", |_| count(&fake) >= 1);
    assert_eq!(counts(&seen).1, 0);
    // Mended: what is left of it is the server's to forget.
    seen.subscription.tell(vec![note("q", "odd")]);
    seen.until("the other one", |_| told(&fake).len() == 2);
    let before = count(&fake);
    seen.until("more of the other one", |_| told(&fake)[1]["count"].as_u64() >= Some(3));
    assert_eq!(count(&fake), before);
}

#[test]
fn what_one_gateway_tells_no_other_repeats() {
    let fake = Fake::start();
    let first = Seen::telling(&fake, reporter("node-1"));
    first.subscription.tell(vec![note("p", "odd")]);
    let mut second = Seen::telling(&fake, Reporter { others: SHORT, ..reporter("node-2") });
    second.until("the first one's", |_| counts(&first) == (1, 0));
    second.subscription.tell(vec![note("p", "odd")]);
    let asked = |fake: &Fake| {
        fake.with(|inner| inner.requests.iter().filter(|line| line.starts_with("POST")).count())
    };
    second.until("the second one's", |_| asked(&fake) >= 3);
    assert_eq!((told(&fake).len(), counts(&second)), (1, (0, 0)));
    assert_eq!(told(&fake)[0]["source"]["host"], "node-1");
    // The first one is gone, and so is what it told.
    drop(first);
    fake.with(|inner| inner.events.clear());
    second.until("it is told again", |second| counts(second) == (1, 0));
    assert_eq!(told(&fake)[0]["source"]["host"], "node-2");
}

#[test]
fn refusals_and_silence_are_counted_and_keep_nobody() {
    for refusal in [403, 0] {
        let fake = Fake::start();
        fake.with(|inner| inner.refused_events = Some(refusal));
        let mut seen = Seen::telling(&fake, reporter("node-1"));
        seen.subscription.tell(vec![note("p", "odd")]);
        seen.until("the refusals", |seen| counts(seen).1 >= 2);
        fake.set(PODS, pod("web", "1", "10.0.0.1"));
        seen.until("a pod all the same", |seen| seen.has("web", "1", "10.0.0.1"));
        assert!(seen.state().kinds.iter().all(|kind| kind.error.is_none()), "{refusal}");
        fake.with(|inner| inner.refused_events = None);
        seen.until("the event", |seen| counts(seen).0 == 1);
    }
}

#[test]
fn a_flood_of_faults_is_told_slowly() {
    let fake = Fake::start();
    let mut seen = Seen::telling(&fake, Reporter { burst: 3, every: LONG, ..reporter("node-1") });
    seen.subscription.tell((0..100).map(|number| note(&format!("p{number}"), "odd")).collect());
    seen.until("the first ones", |seen| counts(seen) == (3, 0));
    fake.set(PODS, pod("web", "1", "10.0.0.1"));
    seen.until("something later", |seen| seen.has("web", "1", "10.0.0.1"));
    assert_eq!(told(&fake).len(), 3);
}

#[test]
fn an_object_that_is_wrong_in_a_new_way_all_the_time_is_told_of_once() {
    let fake = Fake::start();
    let mut seen = Seen::telling(&fake, Reporter { apart: LONG, ..reporter("node-1") });
    seen.subscription.tell(vec![note("p", "odd")]);
    seen.until("the first one", |seen| counts(seen) == (1, 0));
    for number in 0..5 {
        seen.subscription.tell(vec![note("p", &format!("odd {number}")), note(&format!("q{number}"), "odd")]);
        seen.until("another object", |seen| counts(seen) == (2 + number, 0));
    }
    let of_p = told(&fake).iter().filter(|event| event["involvedObject"]["name"] == "p").count();
    assert_eq!(of_p, 1);

    // Why something is not in force has other numbers in every attempt.
    let failed = |rows: usize| Note { reason: Reason::NotInForce, ..note("r", &format!("{rows} rows")) };
    seen.subscription.tell(vec![failed(7)]);
    seen.until("the failure", |seen| counts(seen) == (7, 0));
    seen.subscription.tell(vec![failed(8), note("last", "odd")]);
    seen.until("the last one", |seen| counts(seen) == (8, 0));
    assert_eq!(told(&fake).iter().filter(|event| event["reason"] == "NotInForce").count(), 1);
}

#[test]
fn nobody_is_told_unless_it_is_wanted() {
    let fake = Fake::start();
    let seen = Seen::of(&fake, super::TIMING);
    assert!(!seen.subscription.tells_events() && seen.state().events.is_none());
}

//! A server that does what servers do, and how following it goes. Nothing is measured here but that it arrives at all.

mod events;
mod fake;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_config::manifest::ObjectValue;
use podgate_config::manifest::server::ServerKind;
use serde_json::{Value, json};

use super::events::Reporter;
use super::{AccessError, ApiState, Followed, Said, Subscription, Timing, follow, follow_kinds};
use crate::store::Key;
use fake::Fake;

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

/// Short, so that what is waited for comes soon; lists only where a test says so.
const TIMING: Timing = Timing {
    watch: Duration::from_secs(1),
    relist: Duration::from_secs(3600),
    answer: Duration::from_millis(500),
    longest_pause: Duration::from_millis(100),
};

fn pod(name: &str, uid: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "managedFields": [{"manager": "kubelet"}]},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// What was given to the gateway.
struct Seen {
    subscription: Subscription,
    objects: HashMap<Key, Arc<ObjectValue>>,
    synced: bool,
    findings: Vec<String>,
    /// Changes taken.
    changes: usize,
}

impl Seen {
    fn of(fake: &Fake, timing: Timing) -> Self {
        Self::by(follow(fake.access(), timing, None).unwrap())
    }

    fn telling(fake: &Fake, reporter: Reporter) -> Self {
        Self::by(follow(fake.access(), TIMING, Some(reporter)).unwrap())
    }

    fn by(subscription: Subscription) -> Self {
        Self { subscription, objects: HashMap::new(), synced: false, findings: Vec::new(), changes: 0 }
    }

    fn look(&mut self) {
        let taken = self.subscription.take();
        assert!(taken.synced || taken.changes.is_empty(), "before everything was listed");
        self.synced |= taken.synced;
        self.changes += taken.changes.len();
        for (key, said) in taken.changes {
            match said {
                Said::Is(value) => drop(self.objects.insert(key, value)),
                Said::NotUnderstood | Said::Gone => drop(self.objects.remove(&key)),
            }
        }
        if let Some(troubles) = taken.troubles {
            let findings = troubles.values().flat_map(|trouble| &trouble.findings);
            self.findings = findings.map(ToString::to_string).collect();
        }
    }

    /// Waits for it. How long is not what is asked.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        loop {
            self.look();
            if is_so(self) {
                return;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{what}: {:?} {:?}",
                self.pods(),
                self.state()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn state(&self) -> ApiState {
        self.subscription.state()
    }

    /// Name, UID and address of each pod.
    fn pods(&self) -> Vec<(String, String, String)> {
        let mut pods: Vec<_> = self
            .objects
            .values()
            .filter_map(|value| match &**value {
                ObjectValue::Pod(pod) => {
                    let address = pod.addresses.first().map(ToString::to_string).unwrap_or_default();
                    let uid = pod.uid.as_ref().map(|uid| uid.as_str().to_owned()).unwrap_or_default();
                    Some((pod.name.name.to_string(), uid, address))
                }
                _ => None,
            })
            .collect();
        pods.sort();
        pods
    }

    fn has(&self, name: &str, uid: &str, address: &str) -> bool {
        self.pods().contains(&(name.to_owned(), uid.to_owned(), address.to_owned()))
    }

    fn all_current(&self) -> bool {
        self.state().kinds.iter().all(|kind| kind.current)
    }

    /// What is wrong with a kind now.
    fn error(&self, kind: ServerKind) -> String {
        let state = self.state().kinds.into_iter().find(|state| state.kind == kind.name()).unwrap();
        state.error.unwrap_or_default()
    }
}

#[test]
fn changes_arrive_and_a_successor_is_not_its_predecessor() {
    let fake = Fake::start();
    fake.set(NAMESPACES, json!({"metadata": {"name": "shop", "labels": {"a": "b"}}}));
    fake.set(PODS, pod("web", "1", "10.0.0.1"));
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced);
    assert!(seen.has("web", "1", "10.0.0.1"));
    assert_eq!(seen.objects.len(), 2);
    fake.set(PODS, pod("db", "2", "10.0.0.2"));
    seen.until("a new pod", |seen| seen.has("db", "2", "10.0.0.2"));
    fake.set(PODS, pod("db", "2", "10.0.0.3"));
    seen.until("another address", |seen| seen.has("db", "2", "10.0.0.3"));
    fake.delete(PODS, "shop/db");
    seen.until("a deletion", |seen| seen.pods().len() == 1);
    fake.delete(PODS, "shop/web");
    fake.set(PODS, pod("web", "9", "10.0.0.1"));
    seen.until("a successor", |seen| seen.has("web", "9", "10.0.0.1"));
    // What changes nothing here is no change: the next one that is comes alone.
    let changes = seen.changes;
    let mut ready = pod("web", "9", "10.0.0.1");
    ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    fake.set(PODS, ready);
    fake.set(PODS, pod("last", "10", "10.0.0.4"));
    seen.until("the last one", |seen| seen.has("last", "10", "10.0.0.4"));
    assert_eq!(seen.changes, changes + 1);
    for request in fake.with(|inner| inner.requests.clone()) {
        assert!(request.contains("limit=") || request.contains("watch=true"), "{request}");
    }
}

#[test]
fn the_version_in_the_state_is_that_of_what_was_taken() {
    let fake = Fake::start();
    fake.set(NAMESPACES, json!({"metadata": {"name": "shop"}}));
    fake.set(PODS, pod("web", "1", "10.0.0.1"));
    let newest = |fake: &Fake| fake.with(|inner| inner.version);
    let version = |seen: &Seen| {
        let kinds = seen.state().kinds;
        let pods = kinds.iter().find(|kind| kind.kind == ServerKind::Pod.name()).unwrap();
        pods.version.parse::<u64>().unwrap_or_default()
    };
    let mut seen = Seen::of(&fake, TIMING);
    assert_eq!(version(&seen), 0, "nothing was taken");
    seen.until("the first lists", |seen| seen.synced);
    assert_eq!(version(&seen), newest(&fake));

    fake.set(PODS, pod("web", "1", "10.0.0.2"));
    while !seen.subscription.has_news() {
        std::thread::yield_now();
    }
    assert!(version(&seen) < newest(&fake), "it waits to be taken");
    seen.look();
    assert_eq!(version(&seen), newest(&fake));

    // What is no news need not be taken.
    let changes = seen.changes;
    let mut ready = pod("web", "1", "10.0.0.2");
    ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    fake.set(PODS, ready);
    seen.until("no news", |seen| version(seen) == newest(&fake));
    assert_eq!(seen.changes, changes);
}

#[test]
fn lists_come_in_pages_and_nothing_is_given_before_all_of_them() {
    let fake = Fake::start();
    for number in 0..1203 {
        fake.set(PODS, pod(&format!("pod-{number}"), "1", "10.0.0.1"));
    }
    fake.with(|inner| {
        inner.refused.insert("networkpolicies", 403);
        // The second page of the first attempt: it is begun anew, with larger pages.
        inner.expired = 1;
    });
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("all pods", |seen| seen.state().kinds.iter().any(|kind| kind.objects == 1203));
    seen.until("the refusal", |seen| !seen.error(ServerKind::NetworkPolicy).is_empty());
    assert!(!seen.synced && !seen.state().synced && seen.objects.is_empty());
    let error = seen.error(ServerKind::NetworkPolicy);
    assert!(error.contains("403") && error.contains("list and watch on networkpolicies"), "{error}");
    fake.with(|inner| inner.refused.clear());
    seen.until("everything", |seen| seen.synced && seen.all_current());
    assert_eq!(seen.objects.len(), 1203);
    assert_eq!(seen.error(ServerKind::NetworkPolicy), "");
    let pages = fake.with(|inner| inner.requests.iter().filter(|uri| uri.contains("continue=")).count());
    assert!(pages >= 1);
}

#[test]
fn a_page_that_is_refused_is_asked_for_again() {
    let fake = Fake::start();
    for number in 0..1203 {
        fake.set(PODS, pod(&format!("pod-{number}"), "1", "10.0.0.1"));
    }
    fake.with(|inner| inner.refused_pages = 2);
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("everything", |seen| seen.synced);
    assert_eq!(seen.objects.len(), 1203);
    let first_pages = fake.with(|inner| {
        let first = |uri: &&String| uri.contains("pods?&limit=500") && !uri.contains("continue=");
        inner.requests.iter().filter(first).count()
    });
    assert_eq!(first_pages, 1, "not begun anew");
}

#[test]
fn a_list_without_an_end_is_refused() {
    let fake = Fake::start();
    for number in 0..1203 {
        fake.set(PODS, pod(&format!("pod-{number}"), "1", "10.0.0.1"));
    }
    fake.with(|inner| inner.endless = true);
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the refusal", |seen| seen.error(ServerKind::Pod).contains("its list has no end"));
    assert!(!seen.state().synced);
    fake.with(|inner| inner.endless = false);
    seen.until("everything", |seen| seen.synced && seen.objects.len() == 1203);
}

#[test]
fn a_list_that_trickles_is_no_answer() {
    let fake = Fake::start();
    fake.set(PODS, pod("web", "1", "10.0.0.1"));
    fake.with(|inner| inner.trickles = true);
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the end of patience", |seen| seen.error(ServerKind::Pod).contains("it was silent for"));
    fake.with(|inner| inner.trickles = false);
    seen.until("everything", |seen| seen.synced);
}

/// Otherwise nobody would see for how long.
#[test]
fn watches_that_fail_at_once_do_not_pass_for_following() {
    let fake = Fake::start();
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    let line = json!({"type": "ERROR", "object": {"code": 500, "message": "etcd\nis\u{1b}[31m away"}});
    fake.with(|inner| {
        inner.failing_watches = Some(line.to_string());
        inner.cuts += 1;
    });
    let pods = |seen: &Seen| seen.state().kinds.into_iter().find(|kind| kind.kind == "Pod").unwrap();
    seen.until("a failure", |seen| !pods(seen).current);
    let since = pods(&seen).away_since;
    seen.until("more failures", |seen| {
        let state = pods(seen);
        assert!(!state.current && state.away_since == since);
        state.failures > 10
    });
    assert_eq!(seen.error(ServerKind::Pod), "it answers 500 etcd is [31m away", "one line");
    fake.with(|inner| inner.failing_watches = None);
    seen.until("the end of it", Seen::all_current);
}

/// As for a kind whose definition somebody may install, or remove.
#[test]
fn a_kind_that_need_not_be_there_may_come_and_go() {
    static KINDS: &[Followed] = &[
        Followed { kind: ServerKind::Pod, required: true },
        Followed { kind: ServerKind::NetworkPolicy, required: false },
    ];
    let fake = Fake::start();
    let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {}}});
    fake.set(PODS, pod("web", "1", "10.0.0.1"));
    fake.set(POLICIES, policy);
    let absent = |fake: &Fake| {
        fake.with(|inner| {
            inner.refused.insert("networkpolicies", 404);
            inner.cuts += 1;
        });
    };
    absent(&fake);
    let mut seen = Seen::by(follow_kinds(KINDS, fake.access(), TIMING, None).unwrap());
    seen.until("the pods", |seen| seen.synced && seen.all_current());
    assert_eq!(seen.objects.len(), 1);
    assert_eq!(seen.error(ServerKind::NetworkPolicy), "");
    fake.with(|inner| inner.refused.clear());
    seen.until("the policy", |seen| seen.objects.len() == 2 && seen.all_current());
    absent(&fake);
    seen.until("it is gone", |seen| seen.objects.len() == 1 && seen.all_current());
    fake.with(|inner| inner.refused.clear());
    seen.until("it is back", |seen| seen.objects.len() == 2 && seen.all_current());

    // A kind that must be there is missed.
    fake.with(|inner| {
        inner.refused.insert("pods", 404);
        inner.cuts += 1;
    });
    seen.until("the refusal", |seen| seen.error(ServerKind::Pod).contains("404"));
    assert_eq!(seen.objects.len(), 2, "the last state stays");
}

/// What may happen to a server, and how it ends. Each time the pod `lost` changes while nobody is told.
#[test]
fn every_fault_is_survived() {
    type Change = fn(&mut Fake);
    let faults: &[(&str, Change, Change)] = &[
        ("cut", |fake| fake.with(|inner| inner.cuts += 1), |_| {}),
        ("stopped", Fake::stop, Fake::resume),
        (
            "silent watches",
            |fake| fake.with(|inner| inner.silent_watches = true),
            |fake| fake.with(|inner| inner.silent_watches = false),
        ),
        (
            "silent",
            |fake| {
                fake.with(|inner| {
                    inner.silent = true;
                    inner.cuts += 1;
                })
            },
            |fake| fake.with(|inner| inner.silent = false),
        ),
        (
            "watches too old, told in their streams",
            |fake| {
                fake.with(|inner| {
                    inner.version += 10;
                    inner.oldest = inner.version;
                    inner.cuts += 1;
                })
            },
            |_| {},
        ),
        (
            "watches too old, told at once",
            |fake| {
                fake.with(|inner| {
                    inner.refused_watches = Some(410);
                    inner.cuts += 1;
                })
            },
            |fake| fake.with(|inner| inner.refused_watches = None),
        ),
        (
            "versions that mean nothing to the server",
            |fake| {
                fake.with(|inner| {
                    inner.refused_watches = Some(400);
                    inner.cuts += 1;
                })
            },
            |fake| fake.with(|inner| inner.refused_watches = None),
        ),
        (
            "internal errors",
            |fake| {
                fake.with(|inner| {
                    inner.refused.insert("", 500);
                    inner.cuts += 1;
                })
            },
            |fake| fake.with(|inner| inner.refused.clear()),
        ),
        ("nonsense", |fake| fake.with(|inner| inner.lines.push("<html>".to_owned())), |_| {}),
        (
            "an error in the streams",
            |fake| {
                let line =
                    json!({"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}});
                fake.with(|inner| inner.lines.push(line.to_string()));
            },
            |_| {},
        ),
    ];
    let mut fake = Fake::start();
    fake.set(PODS, pod("kept", "k", "10.0.0.1"));
    fake.set(PODS, pod("lost", "0", "10.0.1.0"));
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    for (number, (name, begin, end)) in faults.iter().enumerate() {
        let failures: u64 = seen.state().kinds.iter().map(|kind| kind.failures).sum();
        let lists: u64 = seen.state().kinds.iter().map(|kind| kind.lists).sum();
        begin(&mut fake);
        seen.until(name, |seen| {
            let state = seen.state();
            state.kinds.iter().map(|kind| kind.failures).sum::<u64>() > failures
                || state.kinds.iter().map(|kind| kind.lists).sum::<u64>() > lists
        });
        assert!(seen.has("kept", "k", "10.0.0.1"), "{name}: the last state stays");
        assert!(seen.state().synced, "{name}");
        let (uid, address) = (format!("{}", number + 1), format!("10.0.1.{}", number + 1));
        fake.delete(PODS, "shop/lost");
        fake.set(PODS, pod("lost", &uid, &address));
        end(&mut fake);
        seen.until(name, |seen| seen.has("lost", &uid, &address) && seen.all_current());
        assert_eq!(seen.pods().len(), 2, "{name}");
    }
}

#[test]
fn a_server_that_was_restored_is_noticed() {
    let fake = Fake::start();
    fake.set(PODS, pod("kept", "k", "10.0.0.1"));
    fake.set(PODS, pod("old", "1", "10.0.0.2"));
    let backup = fake.with(|inner| (inner.version, inner.objects.clone()));
    fake.delete(PODS, "shop/old");
    fake.set(PODS, pod("new", "2", "10.0.0.2"));
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    assert!(seen.has("new", "2", "10.0.0.2"));
    // Watches go on, from a version that the server has not reached: 200 and silence.
    fake.restore(backup.0, backup.1);
    seen.until("what the backup has", |seen| seen.has("old", "1", "10.0.0.2"));
    assert_eq!(seen.pods().len(), 2);
    fake.set(PODS, pod("next", "3", "10.0.0.3"));
    seen.until("what comes after it", |seen| seen.has("next", "3", "10.0.0.3"));
}

/// Of the namespaces nothing was heard since a version that the restored server has passed: by theirs nobody could tell.
#[test]
fn one_kind_shows_for_all_that_a_server_was_restored() {
    let fake = Fake::start();
    fake.set(PODS, pod("kept", "k", "10.0.0.1"));
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    let version = fake.with(|inner| inner.version);
    for address in 1..20 {
        fake.set(PODS, pod("busy", "b", &format!("10.0.1.{address}")));
    }
    seen.until("what happened to pods", |seen| seen.has("busy", "b", "10.0.1.19"));
    let mut objects = fake.with(|inner| inner.objects.clone());
    let namespace = json!({"metadata": {"name": "shop", "resourceVersion": "5", "labels": {"a": "b"}}});
    objects.insert((NAMESPACES.to_owned(), "shop".to_owned()), namespace);
    fake.restore(version + 5, objects);
    seen.until("the namespace", |seen| seen.objects.len() == 3);
}

#[test]
fn a_list_from_time_to_time_finds_what_no_event_told() {
    let fake = Fake::start();
    fake.set(PODS, pod("gone", "1", "10.0.0.1"));
    let mut seen = Seen::of(&fake, Timing { relist: Duration::from_millis(1500), ..TIMING });
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    // Restored, and past our version before anybody looks.
    let version = fake.with(|inner| inner.version);
    let other = [((PODS.to_owned(), "shop/other".to_owned()), {
        let mut other = pod("other", "2", "10.0.0.1");
        other["metadata"]["resourceVersion"] = "5".into();
        other
    })];
    fake.restore(version + 100, other.into());
    seen.until("what is there", |seen| seen.pods().len() == 1 && seen.has("other", "2", "10.0.0.1"));
}

#[test]
fn credentials_are_read_again() {
    let fake = Fake::start();
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    fake.with(|inner| {
        inner.token = "rotated";
        inner.cuts += 1;
    });
    seen.until("the refusal", |seen| seen.error(ServerKind::Pod).contains("401"));
    let error = seen.error(ServerKind::Pod);
    assert!(error.contains(&fake.kubeconfig().display().to_string()), "{error}");
    fake.write_kubeconfig("rotated");
    seen.until("the new token", Seen::all_current);
}

#[test]
fn what_is_not_understood_is_told_and_mended() {
    let fake = Fake::start();
    let policy = |rule: Value| {
        let metadata = json!({"name": "p", "namespace": "shop", "uid": "1"});
        json!({"metadata": metadata, "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}})
    };
    let rules = |seen: &Seen| {
        seen.objects.values().find_map(|value| match &**value {
            ObjectValue::NetworkPolicy(policy) => Some(policy.ingress.as_ref().map(Vec::len)),
            _ => None,
        })
    };
    fake.set(POLICIES, policy(json!({"from": [{"fqdn": "example.com"}]})));
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced);
    assert_eq!(rules(&seen), Some(Some(0)), "isolated, and nothing allowed");
    assert!(
        seen.findings[0].contains("NetworkPolicy shop/p: spec.ingress[0].from[0].fqdn"),
        "{:?}",
        seen.findings
    );
    fake.set(POLICIES, policy(json!({})));
    seen.until("the mended one", |seen| rules(seen) == Some(Some(1)));
    assert!(seen.findings.is_empty(), "{:?}", seen.findings);
}

#[test]
fn following_ends_with_the_subscription() {
    let fake = Fake::start();
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("the first lists", |seen| seen.synced && seen.all_current());
    drop(seen);
    // Watches last a second: without new ones there are no requests.
    let begin = Instant::now();
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_millis(1500));
        let now = fake.with(|inner| inner.requests.len());
        if now == before {
            break;
        }
        before = now;
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn what_cannot_be_used_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |text: Option<&str>| {
        let file = folder.path().join("kubeconfig");
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => drop(std::fs::remove_file(&file)),
        }
        match follow(super::Access::Kubeconfig(file), TIMING, None) {
            Err(error) => error,
            Ok(_) => panic!("{text:?}"),
        }
    };
    let config = |server: &str, user: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: u, user: {user}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        )
    };
    assert!(matches!(refused(None), AccessError::Kubeconfig { .. }));
    assert!(matches!(refused(Some("{")), AccessError::Kubeconfig { .. }));
    assert!(matches!(refused(Some("apiVersion: v1\nkind: Config\n")), AccessError::Kubeconfig { .. }));
    let exec =
        config("https://127.0.0.1:1", "{exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}}");
    let error = refused(Some(&exec));
    assert!(matches!(error, AccessError::Plugin { field: "exec", .. }), "{error}");
}

//! How each policy is: in force as its file says, or not, and why not.
//!
//! The compiler knows the first generation that held a policy as it is. What is not in any yet, or no longer said by any
//! source, is looked up among what the publisher could not publish; what never got that far, among the findings: a file with
//! an error counts for nothing, and what it said before goes on.

use std::collections::BTreeMap;
use std::path::Path;

use podgate_config::manifest::server::Instead;
use podgate_config::manifest::{Finding, Severity};
use podgate_config::model::ObjectName;
use podgate_dataplane::policy::Direction;

use super::Gateway;
use super::generations::Generations;
use crate::compiler::HitTotals;
use crate::explain::{Asked, World};
use crate::source::kubernetes::Troubles;
use crate::status::{Decisions, PoliciesStatus, PolicyStanding, Standing};
use crate::store::NETWORK_POLICY;
use crate::store::{Key, Store};

impl Gateway {
    /// Every policy at this moment.
    pub(super) fn policies(&mut self) -> PoliciesStatus {
        let generation_in_force = self.engine.generation_in_force();
        let policies = self.publisher.world().with(|world| {
            let known = Known {
                world,
                store: self.publisher.store(),
                unpublished: self.publisher.unpublished(),
                generations: &self.publisher.generations,
                // Not the newest: what the files say now may not have been looked at yet.
                findings: &self.publisher.file_findings,
                troubles: &self.publisher.troubles,
                error: self.publisher.error(),
                open_since: self.publisher.open_since,
                in_force: generation_in_force,
            };
            known.standings()
        });
        let generation_published = self.engine.generation_published();
        PoliciesStatus { generation_published, generation_in_force, policies }
    }
}

/// What there is to know about policies.
struct Known<'a> {
    world: &'a World,
    store: &'a Store,
    /// See [`super::publish::Publisher::unpublished`].
    unpublished: &'a BTreeMap<ObjectName, Option<u64>>,
    generations: &'a Generations,
    /// What is wrong with the files.
    findings: &'a [Finding],
    /// What is wrong with the API server's objects.
    troubles: &'a Troubles,
    /// Why the last attempt to publish failed.
    error: Option<String>,
    /// The first generation that judges pods at all.
    open_since: Option<u64>,
    in_force: u64,
}

impl Known<'_> {
    fn standings(&self) -> Vec<PolicyStanding> {
        let live = self.world.live();
        let hits = live.policy_hits();
        let mut here: BTreeMap<&ObjectName, usize> = BTreeMap::new();
        for policy in self.world.served().flat_map(|pod| live.compiler().selecting(pod)) {
            *here.entry(policy).or_default() += 1;
        }
        let mut bad: BTreeMap<&Path, &Finding> = BTreeMap::new();
        let errors = || self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        for finding in errors() {
            bad.entry(Path::new(&finding.file)).or_insert(finding);
        }

        let mut standings: BTreeMap<String, PolicyStanding> = BTreeMap::new();
        for name in live.cluster().policies.keys() {
            let here = here.get(name).copied().unwrap_or_default();
            standings.insert(name.to_string(), self.standing(name, here, &hits, &bad));
        }
        for (name, before) in self.unpublished {
            // Deleted, and that is not in force.
            if let Some(since) = before.filter(|_| !live.cluster().policies.contains_key(name)) {
                let reason = format!("it is deleted, and still in force: {}", self.delay());
                standings.insert(name.to_string(), self.of(name, Standing::Earlier, reason, Some(since)));
            }
        }
        for finding in errors().filter(|finding| finding.kind == NETWORK_POLICY && !finding.name.is_empty()) {
            standings.entry(finding.name.clone()).or_insert_with(|| {
                let reason = format!("its file was never without error: {finding}");
                self.of(&finding.name, Standing::NotInForce, reason, None)
            });
        }
        standings.into_values().collect()
    }

    /// Of a policy that the sources know. `here` pods of this node are selected.
    fn standing(
        &self,
        name: &ObjectName,
        here: usize,
        hits: &HitTotals,
        bad: &BTreeMap<&Path, &Finding>,
    ) -> PolicyStanding {
        let (pods, since) = self.world.live().compiler().policy_state(name).unwrap_or_default();
        let before = self.unpublished.get(name).copied().flatten();
        // After a failure the compiler is told nothing more, and knows what was before.
        let since = since.filter(|_| !self.unpublished.contains_key(name));
        // Wherever a folder or the file itself cannot be read or is wrong.
        let file = self.store.file(&Key::Policy(name.clone()));
        let error = file.and_then(|file| file.ancestors().find_map(|path| bad.get(path)));
        let (state, reason, generation) = match (self.open_since, since) {
            (None, _) => {
                let reason = "the sources have not been without error yet, so pods take only what comes from \
                              their own node";
                (Standing::NotInForce, Some(reason.to_owned()), None)
            }
            (_, None) if before.is_some() => (Standing::Earlier, Some(self.delay()), before),
            (_, None) => (Standing::NotInForce, Some(self.delay()), None),
            (Some(first), Some(since)) => {
                let since = since.max(first);
                match error {
                    Some(error) => {
                        let reason = format!("its file is bad now: {error}");
                        (Standing::Earlier, Some(reason), Some(since))
                    }
                    None if since > self.in_force => {
                        let reason = format!("a worker still judges by generation {}", self.in_force);
                        (Standing::OnItsWay, Some(reason), Some(since))
                    }
                    None => match self.not_understood(name) {
                        Some((state, reason)) => (state, Some(reason), Some(since)),
                        None => (Standing::InForce, None, Some(since)),
                    },
                }
            }
        };
        let decisions = |direction| hits.get(&(name.clone(), direction)).copied().map(Decisions::from);
        PolicyStanding {
            reason,
            pods_here: here,
            pods: pods as usize,
            ingress: decisions(Direction::Ingress),
            egress: decisions(Direction::Egress),
            ..self.of(name, state, String::new(), generation)
        }
    }

    fn of(
        &self,
        policy: impl ToString,
        state: Standing,
        reason: String,
        generation: Option<u64>,
    ) -> PolicyStanding {
        PolicyStanding {
            policy: policy.to_string(),
            state,
            reason: Some(reason),
            generation,
            since_ms: generation.and_then(|generation| self.generations.time_ms(generation)),
            pods_here: 0,
            pods: 0,
            ingress: None,
            egress: None,
        }
    }

    /// What is not understood of a policy of the API server, and what counts instead.
    fn not_understood(&self, name: &ObjectName) -> Option<(Standing, String)> {
        let trouble = self.troubles.get(&Key::Policy(name.clone()))?;
        let state = match trouble.instead? {
            Instead::OtherRules => Standing::InPart,
            Instead::Isolation | Instead::Absence => Standing::NotInForce,
        };
        Some((state, trouble.describe()?))
    }

    /// Why what is known is not published.
    fn delay(&self) -> String {
        self.error.clone().unwrap_or_else(|| "it is about to be published".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use podgate_config::manifest::server::{self, Served, ServerKind};
    use podgate_config::manifest::{ObjectValue, decode};
    use podgate_config::model::Pod;
    use podgate_dataplane::policy::Delivery;

    use super::*;
    use crate::compiler::Limits;
    use crate::live::Live;
    use crate::source::kubernetes::{Said, Trouble};
    use crate::source::{FileId, FileObjects};

    /// A gateway without an engine: files, what is compiled of them, and what of that is published.
    struct Scene {
        world: World,
        store: Store,
        files: BTreeMap<String, FileObjects>,
        findings: Vec<Finding>,
        troubles: Troubles,
        unpublished: BTreeMap<ObjectName, Option<u64>>,
        generations: Generations,
        error: Option<String>,
        published: u64,
        in_force: u64,
    }

    impl Scene {
        fn new(pods: usize) -> Self {
            let limits = Limits { pods, ..Limits::default() };
            Self {
                world: World::of_gateway(Live::new(limits, 1)),
                store: Store::default(),
                files: BTreeMap::new(),
                findings: Vec::new(),
                troubles: Troubles::new(),
                unpublished: BTreeMap::new(),
                generations: Generations::default(),
                error: None,
                published: 0,
                in_force: 0,
            }
        }

        /// A file is another, or gone; then what the sources say is published if that is possible.
        fn change(&mut self, file: &str, text: Option<&str>) {
            self.findings.retain(|finding| finding.file != file);
            match text.map(|text| decode(file, text.as_bytes())) {
                None => drop(self.files.remove(file)),
                Some(decoded) if decoded.findings.is_empty() => {
                    let id = FileId { root: 0, path: file.into() }.into();
                    let objects = FileObjects { id, file: file.into(), objects: decoded.objects.into() };
                    self.files.insert(file.to_owned(), objects);
                }
                Some(decoded) => self.findings.extend(decoded.findings),
            }
            let files: Vec<FileObjects> = self.files.values().cloned().collect();
            let changed = self.store.update(&files);
            self.compile(changed);
        }

        /// The API server says this of a policy.
        fn serve(&mut self, policy: &str) {
            let page = format!(r#"{{"metadata": {{"resourceVersion": "1"}}, "items": [{policy}]}}"#);
            let kind = ServerKind::NetworkPolicy;
            let served = server::page(kind, page.as_bytes()).unwrap().objects.remove(0);
            let key = Key::of_server(kind, &served.namespace, &served.name).unwrap();
            let Served { uid, value, instead, findings, .. } = served;
            let trouble = Trouble { uid: uid.into(), instead, findings };
            self.troubles = [(key.clone(), Arc::new(trouble))].into();
            let said = value.map_or(Said::NotUnderstood, |value| Said::Is(Arc::new(value)));
            let changed = self.store.take_api(vec![(key, said)]);
            self.compile(changed);
        }

        fn compile(&mut self, changed: BTreeSet<Key>) {
            for key in changed {
                match (&key, self.store.get(&key)) {
                    (Key::Policy(name), value) => {
                        let state = self.world.live().compiler().policy_state(name);
                        self.unpublished.entry(name.clone()).or_insert(state.and_then(|(_, since)| since));
                        let policy = value.and_then(|value| match value {
                            ObjectValue::NetworkPolicy(policy) => Some(policy),
                            _ => None,
                        });
                        self.world.live_mut().set_policy(name, policy);
                    }
                    (Key::Pod(_), Some(ObjectValue::Pod(pod))) => {
                        self.world.set_pod(Pod::clone(pod), true, Delivery::default());
                    }
                    (Key::Pod(name), _) => self.world.remove_pod(name),
                    _ => {}
                }
            }
            self.error = self.world.live_mut().settle().err().map(|error| error.to_string());
            if self.error.is_none() {
                self.published += 1;
                self.world.live_mut().published(self.published);
                self.generations.remember(self.published, self.published * 1000);
                self.unpublished.clear();
            }
        }

        fn standings(&self) -> Vec<PolicyStanding> {
            Known {
                world: &self.world,
                store: &self.store,
                unpublished: &self.unpublished,
                generations: &self.generations,
                findings: &self.findings,
                troubles: &self.troubles,
                error: self.error.clone(),
                open_since: (self.published > 0).then_some(1),
                in_force: self.in_force,
            }
            .standings()
        }

        /// Name, state and generation of each, and their reasons.
        fn told(&self) -> (Vec<(String, Standing, Option<u64>)>, String) {
            let standings = self.standings();
            let reasons: Vec<String> =
                standings.iter().filter_map(|standing| standing.reason.clone()).collect();
            let told = standings.into_iter();
            let told = told.map(|standing| (standing.policy, standing.state, standing.generation)).collect();
            (told, reasons.join("\n"))
        }
    }

    fn pod(name: &str, address: u8) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
             spec: {{containers: [{{name: c, image: i}}]}}\nstatus: {{podIP: 10.0.0.{address}}}\n"
        )
    }

    fn policy(name: &str, app: &str) -> String {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress]}}\n"
        )
    }

    fn entry(name: &str, state: Standing, generation: Option<u64>) -> (String, Standing, Option<u64>) {
        (format!("default/{name}"), state, generation)
    }

    #[test]
    fn it_says_since_when_and_whom_a_policy_selects() {
        let mut scene = Scene::new(10);
        scene.change("pods.yaml", Some(&[pod("web", 1), pod("db", 2)].concat()));
        scene.change("a.yaml", Some(&policy("a", "web")));
        scene.in_force = 1;
        let (told, reasons) = scene.told();
        assert_eq!(told, [entry("a", Standing::OnItsWay, Some(2))]);
        assert!(reasons.contains("generation 1"), "{reasons}");
        scene.change("b.yaml", Some(&policy("b", "db")));
        scene.in_force = 3;
        let (told, reasons) = scene.told();
        assert_eq!(
            told,
            [entry("a", Standing::InForce, Some(2)), entry("b", Standing::InForce, Some(3))],
            "a change of b is none of a"
        );
        assert_eq!(reasons, "");
        scene.world.set_served([ObjectName::parse("default", "web").unwrap()].into());
        let standings = scene.standings();
        let selected: Vec<_> = standings.iter().map(|policy| (policy.pods_here, policy.pods)).collect();
        assert_eq!(selected, [(1, 1), (0, 1)]);
        assert_eq!(standings[0].since_ms, Some(2000));
        assert_eq!((standings[0].ingress, standings[0].egress), (Some(Decisions::default()), None));
    }

    #[test]
    fn a_bad_file_keeps_what_was_and_a_new_bad_one_has_never_been() {
        let mut scene = Scene::new(10);
        scene.change("a.yaml", Some(&policy("a", "web")));
        scene.in_force = 1;
        scene.change("a.yaml", Some("kind: ["));
        scene.change("b.yaml", Some(&policy("b", "db").replace("podSelector", "podSelektor")));
        scene.in_force = 3;
        let (told, reasons) = scene.told();
        assert_eq!(told, [entry("a", Standing::Earlier, Some(1)), entry("b", Standing::NotInForce, None)]);
        assert!(reasons.contains("bad now: a.yaml:1: "), "{reasons}");
        assert!(reasons.contains("never without error: b.yaml:1: "), "{reasons}");
        scene.change("a.yaml", Some(&policy("a", "web")));
        scene.change("b.yaml", None);
        scene.in_force = 5;
        assert_eq!(scene.told().0, [entry("a", Standing::InForce, Some(1))], "it was in force all the time");
    }

    #[test]
    fn a_limit_keeps_new_changed_and_deleted_policies_from_counting() {
        let mut scene = Scene::new(1);
        scene.change("pods.yaml", Some(&pod("web", 1)));
        for name in ["a", "b", "c"] {
            scene.change(&format!("{name}.yaml"), Some(&policy(name, "web")));
        }
        scene.in_force = 4;
        scene.change("more.yaml", Some(&pod("db", 2)));
        scene.change("b.yaml", Some(&policy("b", "db")));
        scene.change("c.yaml", None);
        scene.change("d.yaml", Some(&policy("d", "web")));
        // Something that is no policy is published, by the tables of before.
        scene.published += 1;
        scene.world.live_mut().published(scene.published);
        scene.in_force = scene.published;
        let (told, reasons) = scene.told();
        let expected = [
            entry("a", Standing::InForce, Some(2)),
            entry("b", Standing::Earlier, Some(3)),
            entry("c", Standing::Earlier, Some(4)),
            entry("d", Standing::NotInForce, None),
        ];
        assert_eq!(told, expected);
        assert_eq!(reasons.matches("pods: 2 or more needed, the limit is 1").count(), 3, "{reasons}");
        assert!(reasons.contains("deleted"), "{reasons}");
        scene.change("more.yaml", None);
        scene.in_force = 6;
        let expected = [
            entry("a", Standing::InForce, Some(2)),
            entry("b", Standing::InForce, Some(6)),
            entry("d", Standing::InForce, Some(6)),
        ];
        assert_eq!(scene.told(), (expected.to_vec(), String::new()));
    }

    #[test]
    fn what_is_not_understood_of_an_api_servers_policy_is_said() {
        let mut scene = Scene::new(10);
        let served = |peer: &str| {
            let metadata = r#"{"name": "a", "namespace": "default", "uid": "1"}"#;
            format!(
                r#"{{"metadata": {metadata}, "spec": {{"podSelector": {{}}, "ingress": [{{"from": [{peer}]}}]}}}}"#
            )
        };
        scene.serve(&served(r#"{"fqdn": "example.com"}"#));
        scene.in_force = 1;
        let (told, reasons) = scene.told();
        assert_eq!(told, [entry("a", Standing::InPart, Some(1))]);
        assert!(
            reasons.contains("spec.ingress[0].from[0].fqdn: ") && reasons.contains("allow nothing"),
            "{reasons}"
        );
        // A file of the same name says nothing about it, however bad.
        scene.change("a.yaml", Some(&policy("a", "web").replace("podSelector", "podSelektor")));
        assert_eq!(scene.told().0, [entry("a", Standing::InPart, Some(1))]);
        scene.serve(&served(r#"{"podSelector": {}}"#));
        scene.in_force = 3;
        assert_eq!(scene.told(), (vec![entry("a", Standing::InForce, Some(3))], String::new()));
        scene.serve(
            &served(r#"{"podSelector": {}}"#).replace(r#""spec": {"#, r#""spec": {"action": "Deny", "#),
        );
        scene.in_force = 4;
        let (told, reasons) = scene.told();
        assert_eq!(told, [entry("a", Standing::NotInForce, Some(4))]);
        assert!(reasons.contains("spec.action: ") && reasons.contains("is isolated"), "{reasons}");
    }

    #[test]
    fn nothing_is_in_force_before_the_sources_were_without_error() {
        let mut scene = Scene::new(10);
        scene.change("a.yaml", Some(&policy("a", "web")));
        scene.published = 0;
        let (told, reasons) = scene.told();
        assert_eq!(told, [entry("a", Standing::NotInForce, None)]);
        assert!(reasons.contains("not been without error"), "{reasons}");
    }
}

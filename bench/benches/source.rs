//! What following an API server costs before anything is compiled, at 10,000 pods and 10,000 policies: reading an event, taking
//! it over, and what a list and a look at everything cost.
//!
//! Objects are as large as servers send them: managedFields, an environment, conditions. `changes` has what comes after
//! this.

use std::time::{Duration, Instant};

use podgate_bench::manifest::{objects_of, padded};
use podgate_bench::spread::quantile;
use podgate_bench::world::{Shape, cluster};
use podgate_config::manifest::server::{self, Served, ServerEvent, ServerKind};
use podgate_control::source::kubernetes::{Changed, Said};
use podgate_control::store::{Key, Store, merge_with};
use serde_json::{Value, json};

const EVENTS: usize = 20_000;
/// Objects on a page.
const PAGE: usize = 500;

fn line(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| quantile(&times, share).unwrap_or_default().as_secs_f64() * 1e6;
    println!("| {what} | {:.1} | {:.1} | {:.1} | {} |", at(0.5), at(0.99), at(1.0), times.len());
}

fn changed(kind: ServerKind, served: Served) -> Option<Changed> {
    let key = Key::of_server(kind, &served.namespace, &served.name)?;
    Some((key, served.value.map_or(Said::NotUnderstood, |value| Said::Is(value.into()))))
}

fn main() -> anyhow::Result<()> {
    let shape = Shape { namespaces: 50, pods: 200, policies: 200, unique: false };
    let cluster = cluster(shape, 1)?;
    let objects: Vec<Value> = cluster.namespaces.keys().flat_map(|name| objects_of(&cluster, name)).collect();
    let of = |kind: ServerKind| objects.iter().filter(move |object| object["kind"] == kind.name());
    println!("| microseconds | p50 | p99 | max | times |\n|---|---|---|---|---|");

    let mut store = Store::default();
    for kind in [ServerKind::Namespace, ServerKind::NetworkPolicy, ServerKind::Pod] {
        let (mut read, mut bytes) = (Vec::new(), 0);
        let all: Vec<Value> =
            of(kind).cloned().enumerate().map(|(n, object)| padded(object, n + 1)).collect();
        for items in all.chunks(PAGE) {
            let text = json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
            bytes += text.len();
            let begin = Instant::now();
            let page = server::page(kind, text.as_bytes())?;
            read.push(begin.elapsed());
            store.take_api(page.objects.into_iter().filter_map(|served| changed(kind, served)).collect());
        }
        let kibibytes = bytes / 1024 / all.len().max(1);
        line(&format!("a page of {} {}, {kibibytes} KiB each", PAGE.min(all.len()), kind.name()), read);
    }

    let kind = ServerKind::Pod;
    let pods: Vec<&Value> = of(kind).collect();
    let (mut read, mut take) = (Vec::new(), Vec::new());
    for number in 0..EVENTS {
        let mut pod = padded(pods[number * 37 % pods.len()].clone(), number + 100_000);
        pod["metadata"]["labels"]["turn"] = format!("t{}", number % 10).into();
        let text = json!({"type": "MODIFIED", "object": pod}).to_string();
        let begin = Instant::now();
        let event = server::event(kind, text.as_bytes())?;
        read.push(begin.elapsed());
        let ServerEvent::Applied(served) = event else { anyhow::bail!("no object") };
        let changes = changed(kind, served).into_iter().collect();
        let begin = Instant::now();
        let keys = store.take_api(changes);
        take.push(begin.elapsed());
        anyhow::ensure!(keys.len() == 1, "the pod was changed");
    }
    line("an event of a pod, read", read);
    line("an event of a pod, taken over", take);

    let (mut look, mut review) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let begin = Instant::now();
        let all = store.api_objects();
        look.push(begin.elapsed());
        let begin = Instant::now();
        let merged = merge_with(&all, &[]);
        review.push(begin.elapsed());
        anyhow::ensure!(merged.cluster.pods.len() == pods.len(), "all are there");
    }
    line("all objects, for the review", look);
    line("the review, aside", review);
    Ok(())
}

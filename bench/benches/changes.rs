//! What a change costs: from the event to the published snapshot, at 10,000 pods and 10,000 policies.
//!
//! The aims are: a pod relabelled, added or deleted, p99 below 1 ms; a policy added, changed or deleted, p50 below 0.2 ms
//! and p99 below 3 ms; a namespace of 200 pods relabelled below 10 ms; everything compiled from nothing below 150 ms. The
//! clusters are those of the `policy` bench. Each kind of change is made thousands of times, on objects spread over the
//! cluster, one publication each; a reader registered with the publisher holds each snapshot for a while, as a worker that
//! takes its time would, so that nothing can be changed in place that somebody may judge by.
//!
//! Not a criterion bench: what is asked for is the tail, not the mean.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_bench::control::{Control, changed};
use podgate_bench::spread::quantile;
use podgate_bench::world::{Shape, cluster};
use podgate_config::model::labels::{LabelKey, LabelValue};
use podgate_config::model::{Cluster, Namespace, NetworkPolicy, ObjectName, Pod};
use podgate_control::gateway::snapshot::Inputs;
use podgate_dataplane::policy::Delivery;

/// Changes of each kind.
const CHANGES: usize = 3_000;

/// How long changes took.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn line(&mut self, what: &str, aim: &str) {
        self.0.sort_unstable();
        let at = |share: f64| quantile(&self.0, share).unwrap_or_default().as_secs_f64() * 1e3;
        println!("| {what} | {:.3} | {:.3} | {:.3} | {} | {aim} |", at(0.5), at(0.99), at(1.0), self.0.len());
    }
}

/// A control side that knows the cluster, whose pods have no ports.
fn control(cluster: &Cluster) -> Control {
    let inputs = Inputs { synced: true, ..Inputs::default() };
    Control::new(cluster, 2, inputs, (1..).map(|identity| Delivery { identity, port: None }))
}

/// Compiles what was told and publishes it.
fn publish(control: &mut Control) -> anyhow::Result<()> {
    let tables = control.live.settle()?;
    anyhow::ensure!(control.publish(tables), "too many snapshots wait");
    Ok(())
}

/// Times a kind of change.
fn time(
    control: &mut Control,
    count: usize,
    mut change: impl FnMut(&mut Control, usize) -> anyhow::Result<()>,
) -> anyhow::Result<Times> {
    let reader = control.publisher.reader_handle();
    let mut reader = reader.register();
    let mut times = Times::default();
    for number in 0..count {
        let held = reader.pin();
        let begin = Instant::now();
        change(control, number)?;
        publish(control)?;
        times.0.push(begin.elapsed());
        drop(held);
        // After the publication, as in the gateway.
        control.tidy();
    }
    Ok(times)
}

fn pods(cluster: &Cluster) -> Vec<Pod> {
    cluster.pods.values().cloned().collect()
}

/// The pod with the labels of another one of its namespace: what a new version of it would have.
fn relabelled(pods: &[Pod], place: usize, other: usize) -> Option<Pod> {
    let pod = pods.get(place)?;
    let mut same = pods.iter().filter(|like| like.name.namespace == pod.name.namespace);
    let labels = same.nth(other % 50)?.labels.clone();
    Some(Pod { labels, ..pod.clone() })
}

fn bench(name: &str, shape: Shape) -> anyhow::Result<()> {
    let cluster = cluster(shape, 1)?;
    let all = pods(&cluster);
    let policies: Vec<Arc<NetworkPolicy>> = cluster.policies.values().cloned().collect();
    println!("\n### {name}: {} pods, {} policies\n", all.len(), policies.len());
    println!("| milliseconds | p50 | p99 | max | times | aim |\n|---|---|---|---|---|---|");

    let mut full = Times::default();
    let objects = resident_mebibytes();
    let mut control = self::control(&Cluster::default());
    let mut resident = 0;
    for _ in 0..7 {
        let begin = Instant::now();
        let mut next = self::control(&cluster);
        publish(&mut next)?;
        full.0.push(begin.elapsed());
        if resident == 0 {
            resident = resident_mebibytes().saturating_sub(objects);
        }
        control = next;
    }
    full.line("everything from nothing", "150");
    control.tidy();

    let mut times = time(&mut control, CHANGES, |control, _| {
        let (place, other) = (control.below(all.len()), control.below(50));
        if let Some(pod) = relabelled(&all, place, other) {
            control.live.set_pod(pod, true, Delivery { identity: place as u32 + 1, port: None });
        }
        Ok(())
    })?;
    times.line("pod relabelled", "p99 1");

    let label = |number: usize| {
        Some((LabelKey::parse("app").ok()?, LabelValue::parse(&format!("app-x{number}")).ok()?))
    };
    let mut times = time(&mut control, CHANGES, |control, number| {
        let place = control.below(all.len());
        if let (Some(pod), Some((key, value))) = (all.get(place), label(number)) {
            let mut pod = pod.clone();
            pod.labels.insert(key, value);
            control.live.set_pod(pod, true, Delivery { identity: place as u32 + 1, port: None });
        }
        Ok(())
    })?;
    times.line("pod relabelled, with a label that nobody had", "p99 1");

    let added = |number: usize| -> Option<Pod> {
        let like = all.get(number * 37 % all.len())?;
        let name = ObjectName::parse(like.name.namespace.as_str(), &format!("new-{number}")).ok()?;
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0ac8_0000 + number as u32));
        Some(Pod { name, addresses: vec![address], ..like.clone() })
    };
    let mut times = time(&mut control, CHANGES, |control, number| {
        if let Some(pod) = added(number) {
            control.live.set_pod(pod, true, Delivery { identity: 100_000 + number as u32, port: None });
        }
        Ok(())
    })?;
    times.line("pod added", "p99 1");
    let mut times = time(&mut control, CHANGES, |control, number| {
        if let Some(pod) = added(number) {
            control.live.remove_pod(&pod.name);
        }
        Ok(())
    })?;
    times.line("pod deleted", "p99 1");

    let mut times = time(&mut control, CHANGES, |control, number| {
        if let Some(policy) = policies.get(number * 31 % policies.len()) {
            let policy = changed(policy, 10_000 + (number % 50_000) as u16);
            control.live.set_policy(&policy.name.clone(), Some(&policy));
        }
        Ok(())
    })?;
    times.line("policy changed", "p50 0.2, p99 3");
    let copy = |number: usize| -> Option<Arc<NetworkPolicy>> {
        let like = policies.get(number * 31 % policies.len())?;
        let name = ObjectName::parse(like.name.namespace.as_str(), &format!("new-{number}")).ok()?;
        // Its peers are those of another policy of the namespace: mostly known, sometimes new.
        let other = policies.get((number * 31 + 1) % policies.len())?;
        let same = other.name.namespace == like.name.namespace;
        let egress = if same { other.egress.clone() } else { like.egress.clone() };
        Some(NetworkPolicy { name, egress, ..like.as_ref().clone() }.into())
    };
    let mut times = time(&mut control, CHANGES, |control, number| {
        if let Some(policy) = copy(number) {
            control.live.set_policy(&policy.name, Some(&policy));
        }
        Ok(())
    })?;
    times.line("policy added", "p50 0.2, p99 3");
    let mut times = time(&mut control, CHANGES, |control, number| {
        if let Some(policy) = copy(number) {
            control.live.set_policy(&policy.name, None);
        }
        Ok(())
    })?;
    times.line("policy deleted", "p50 0.2, p99 3");

    let namespaces: Vec<Namespace> = cluster.namespaces.values().cloned().collect();
    let mut times = time(&mut control, 500, |control, number| {
        let (place, other) = (number % namespaces.len(), control.below(namespaces.len()));
        if let (Some(namespace), Some(other)) = (namespaces.get(place), namespaces.get(other)) {
            let namespace = Namespace::new(namespace.name().clone(), other.labels().clone())?;
            control.live.set_namespace(&namespace.name().clone(), Some(&namespace));
        }
        Ok(())
    })?;
    times.line(&format!("namespace of {} pods relabelled", shape.pods), "10 with 200 pods");

    let compiler = control.live.compiler();
    println!(
        "\n{:.1} MiB of tables, {} atoms, {} rows, {} programs; compiled anew {} times; compiler, tables and a copy of the objects: {resident} MiB",
        control.live.tables().memory_bytes() as f64 / f64::from(1 << 20),
        compiler.atoms(),
        compiler.rows(),
        compiler.programs(),
        control.live.rebuilt(),
    );
    Ok(())
}

fn resident_mebibytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) / 1024
}

/// 100,000 pods: that it compiles, and in how much memory.
fn large() -> anyhow::Result<()> {
    let shape = Shape { namespaces: 400, pods: 250, policies: 25, unique: false };
    let cluster = cluster(shape, 1)?;
    let before = resident_mebibytes();
    let begin = Instant::now();
    let mut control = control(&cluster);
    publish(&mut control)?;
    println!(
        "\n### {} pods, {} policies\n\ncompiled from nothing in {:.0} ms; {:.1} MiB of tables; {} MiB more resident than the objects alone",
        cluster.pods.len(),
        cluster.policies.len(),
        begin.elapsed().as_secs_f64() * 1e3,
        control.live.tables().memory_bytes() as f64 / f64::from(1 << 20),
        resident_mebibytes().saturating_sub(before),
    );
    Ok(())
}

fn main() -> anyhow::Result<()> {
    println!("{}", podgate_bench::machine::Machine::observe().describe());
    bench("shared labels", Shape::LARGE)?;
    bench("every pod unique", Shape::UNIQUE)?;
    bench("namespaces of 200 pods", Shape { namespaces: 50, pods: 200, policies: 200, unique: false })?;
    large()
}

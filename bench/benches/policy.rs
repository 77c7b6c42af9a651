//! What policy costs: a verdict, and making the tables. The aims are 24 to 47 ns for a verdict, 50 ns for both
//! directions, 200 ms for a full compilation, and 64 MiB of tables.
//!
//! The cluster is [`podgate_bench::world`]'s: 10,000 pods, 10,000 policies, about five of them selecting a pod in
//! each direction. A verdict is everything from two addresses to allow or deny: both look-ups in the pod tables and
//! `judge`, with 15 % of the peers outside the cluster. Questions come from a list of 16,384, so neither the
//! branch predictor nor the caches see one of them alone. The locality of a figure is part of it: with 250 local
//! pods their programs and rows are warm, with all 10,000 local hardly anything is. "unique" is the worst case, in
//! which policies tell every single pod apart.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use podgate_bench::world::{Shape, cluster};
use podgate_config::model::{Cluster, ObjectName};
use podgate_control::compiler::{Compiled, Limits, Scope, compile};
use podgate_dataplane::policy::{PolicyTables, Question, judge};
use podgate_rcu::Publisher;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;

const QUESTIONS: usize = 1 << 14;

struct Asked {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: u16,
    egress: bool,
    ingress: bool,
}

/// Connections of `local` pods: half outgoing, half incoming, the other end any pod or (15 %) outside.
fn questions(cluster: &Cluster, local: &[IpAddr], both: bool) -> Vec<Asked> {
    let mut random = StdRng::seed_from_u64(7);
    let pods: Vec<IpAddr> = cluster.pods.values().flat_map(|pod| pod.addresses.clone()).collect();
    (0..QUESTIONS)
        .map(|_| {
            let subject = local[random.random_range(0..local.len())];
            let outgoing = random.random_range(0..2) == 0;
            let peer = if both {
                local[random.random_range(0..local.len())]
            } else if random.random_range(0..100) < 15 {
                IpAddr::V4(Ipv4Addr::from_bits(0xc600_0000 + random.random_range(0..1 << 25)))
            } else {
                pods[random.random_range(0..pods.len())]
            };
            let (source, destination) = if outgoing { (subject, peer) } else { (peer, subject) };
            Asked {
                source,
                destination,
                protocol: if random.random_range(0..100) < 85 { 6 } else { 17 },
                port: [80, 443, 5432, 6379, 8000, 8001, 8002, 9100, 53, 10_050][random.random_range(0..10)],
                egress: both || outgoing,
                ingress: both || !outgoing,
            }
        })
        .collect()
}

#[inline(always)]
fn verdict(tables: &PolicyTables, asked: &Asked) -> bool {
    let question = Question {
        source: asked.source,
        source_pod: tables.lookup(asked.source).map(|(_, slot)| slot),
        destination: asked.destination,
        destination_pod: tables.lookup(asked.destination).map(|(_, slot)| slot),
        protocol: asked.protocol,
        port: asked.port,
        judge_egress: asked.egress,
        judge_ingress: asked.ingress,
        same_pod: false,
        from_own_node: false,
        to_own_node: false,
    };
    judge(tables, &question).allowed()
}

fn describe(name: &str, cluster: &Cluster, compiled: &Compiled) {
    let tables = &compiled.tables;
    let isolated = |direction: fn(podgate_dataplane::policy::PodSlot) -> u32| {
        let slots = cluster.pods.values().flat_map(|pod| &pod.addresses);
        let counts: Vec<usize> = slots
            .filter_map(|address| tables.lookup(*address))
            .map(|(_, slot)| compiled.compiler.isolating(direction(slot)).len())
            .collect();
        counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64
    };
    println!(
        "{name}: {:.1} MiB of tables, {} atoms, {} rows, {} programs; policies per pod: {:.1} ingress, {:.1} egress",
        tables.memory_bytes() as f64 / f64::from(1 << 20),
        compiled.compiler.atoms(),
        compiled.compiler.rows(),
        compiled.compiler.programs(),
        isolated(|slot| slot.ingress_program),
        isolated(|slot| slot.egress_program),
    );
}

fn benches(criterion: &mut Criterion) {
    println!("{}", podgate_bench::machine::Machine::observe().describe());
    for (name, shape) in [("shared", Shape::LARGE), ("unique", Shape::UNIQUE)] {
        let Ok(cluster) = cluster(shape, 1) else { return };
        let limits = Limits::default();
        let names: Vec<&ObjectName> = cluster.pods.keys().collect();
        // Spread over the namespaces, as a scheduler does it.
        let local_names: BTreeSet<ObjectName> =
            names.iter().step_by(names.len() / 250).map(|&name| name.clone()).collect();
        let addresses = |names: &mut dyn Iterator<Item = &ObjectName>| -> Vec<IpAddr> {
            names.filter_map(|name| cluster.pods.get(name)).flat_map(|pod| pod.addresses.clone()).collect()
        };
        let local = addresses(&mut local_names.iter());
        let few = local.get(..64).unwrap_or(&local);
        let all = addresses(&mut cluster.pods.keys());
        let (Ok(node), Ok(whole)) = (
            compile(&cluster, Scope::Pods(&local_names), &limits),
            compile(&cluster, Scope::AllPods, &limits),
        ) else {
            return;
        };
        describe(&format!("{name}, 250 local"), &cluster, &node);
        describe(&format!("{name}, all local"), &cluster, &whole);

        let mut group = criterion.benchmark_group(format!("verdict/{name}"));
        for (locality, tables, pods, both) in [
            ("64 local, both directions", &node.tables, few, true),
            ("250 local, one direction", &node.tables, &local[..], false),
            ("250 local, both directions", &node.tables, &local, true),
            ("10000 local, one direction", &whole.tables, &all, false),
            ("10000 local, both directions", &whole.tables, &all, true),
        ] {
            let asked = questions(&cluster, pods, both);
            let allowed = asked.iter().filter(|asked| verdict(tables, asked)).count();
            println!("{locality}: {} % allowed", allowed * 100 / asked.len());
            group.bench_function(locality, |bencher| {
                bencher.iter_custom(|verdicts| {
                    let start = Instant::now();
                    for asked in asked.iter().cycle().take(usize::try_from(verdicts).unwrap_or(usize::MAX)) {
                        black_box(verdict(tables, black_box(asked)));
                    }
                    start.elapsed()
                });
            });
        }
        group.finish();

        let mut group = criterion.benchmark_group(format!("compile/{name}"));
        group.sample_size(10).measurement_time(Duration::from_secs(5));
        group.bench_function("250 local", |bencher| {
            bencher
                .iter(|| compile(&cluster, Scope::Pods(&local_names), &limits).map(|c| c.compiler.atoms()));
        });
        let mut publisher = Publisher::new(PolicyTables::empty());
        group.bench_function("10000 local, and publish", |bencher| {
            bencher.iter(|| {
                if let Ok(compiled) = compile(&cluster, Scope::AllPods, &limits) {
                    let _ = black_box(publisher.publish(compiled.tables));
                }
                publisher.collect().len()
            });
        });
        group.finish();
    }
}

criterion_group!(policy, benches);
criterion_main!(policy);

//! From a file that is replaced, or an object of an API server, to the first packet that obeys.
//!
//! `write` describes a large cluster in manifest files, one a namespace; two pods of the first one are those that packets go
//! between. `measure` sends small packets from the one to the other, replaces that namespace's file by one whose policy
//! denies or admits them, and notes when the last packet passed, or the first. What the gateway's log says of the time in
//! between is told apart. `bench/change-latency` wires the pods, starts the gateway and runs both.
//!
//! `serve` is a test API server that has the same objects, as large as servers have them; `measure --server` changes the
//! policy there, by a request. Its time begins when that is sent: what the server does with it counts.

mod place;
mod report;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Parser, Subcommand};
use podgate_bench::machine::Machine;
use podgate_bench::manifest::{Format, objects_of, padded};
use podgate_bench::world::{Shape, cluster};
use podgate_control::netlink::Namespace;
use podgate_tests::apiserver::{ApiServer, Options};
use rand::RngExt;
use serde_json::{Value, json};

use place::Place;
use report::{Line, line, micros_of_day, shares_of_files, shares_of_server, totals};

/// Measures how long a policy in a file takes to rule over packets.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Writes the manifests of 10,000 pods and 10,000 policies.
    Write(Files),
    /// Replaces the file again and again while packets are sent.
    Measure(Measure),
    /// Serves 10,000 pods and 10,000 policies until this is ended.
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// Where.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the kubeconfig is written when all objects are there.
    #[arg(long)]
    kubeconfig: PathBuf,
}

#[derive(Args)]
struct Files {
    /// Where the manifests are.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// How they are written.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// The policy has a file of its own, instead of one with the namespace's 50 pods and 50 other policies.
    #[arg(long)]
    alone: bool,
}

#[derive(Args)]
struct Measure {
    #[command(flatten)]
    files: Files,
    /// Where files are written before they are renamed: a folder of the same file system that nobody watches.
    #[arg(long, required_unless_present = "server")]
    staging: Option<PathBuf>,
    /// The address of an API server that has the policy; no files then.
    #[arg(long)]
    server: Option<SocketAddr>,
    /// Network namespace of the pod that sends.
    #[arg(long)]
    from: String,
    /// Network namespace of the pod that receives.
    #[arg(long)]
    to: String,
    /// The gateway's log: JSON, with debug lines of podgate_control.
    #[arg(long)]
    log: PathBuf,
    /// Denials, and as many admissions.
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// Microseconds between packets; the kernel's timer adds some 50.
    #[arg(long, default_value_t = 50)]
    interval: u64,
}

/// The namespace of the pods and the policy.
const FIRST: &str = "ns-000";
/// The two pods and their ports.
const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 0, 1), 4000);
const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 0, 2), PORT);
const PORT: u16 = 9;
/// No packet for so long: none passes any more.
const SILENCE: Duration = Duration::from_millis(150);
/// Within this a change must be in force.
const PATIENCE: Duration = Duration::from_secs(10);

impl Files {
    /// The files and what they say while packets are admitted, the one that changes last.
    fn all(&self, admitted: bool) -> Result<Vec<(PathBuf, String)>> {
        let cluster = cluster(Shape::LARGE, 1)?;
        let mut files = Vec::new();
        for name in cluster.namespaces.keys().rev() {
            files.push((name.as_str().to_owned(), objects_of(&cluster, name)));
        }
        // The first namespace's is the last file.
        let (name, mut objects) = files.pop().context("no namespace")?;
        objects.extend([pod(&name, "bench-from", FROM), pod(&name, "bench-to", TO)]);
        if self.alone {
            files.push((name.clone(), objects));
            files.push((format!("{name}-gate"), vec![gate(&name, admitted)]));
        } else {
            objects.push(gate(&name, admitted));
            files.push((name, objects));
        }
        let place = |name: &str| self.folder.join(format!("{name}.{}", self.format.extension()));
        Ok(files.iter().map(|(name, objects)| (place(name), self.format.write(objects))).collect())
    }

    fn changing(&self, admitted: bool) -> Result<(PathBuf, String)> {
        self.all(admitted)?.pop().context("no file")
    }

    fn write(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let files = self.all(true)?;
        for (path, text) in &files {
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
        let changing = files.last().map_or(0, |(_, text)| text.len());
        println!("{} files, {} KiB, the one that changes {changing} bytes", files.len(), bytes / 1024);
        Ok(())
    }
}

fn pod(namespace: &str, name: &str, address: SocketAddrV4) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"bench": name}},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"podIPs": [{"ip": address.ip().to_string()}]},
    })
}

/// Isolates both pods, and lets packets pass between them: to the port that they are sent to, or to another one.
fn gate(namespace: &str, admitted: bool) -> Value {
    let port = if admitted { PORT } else { PORT + 1 };
    let pods = json!({"matchExpressions": [{"key": "bench", "operator": "Exists"}]});
    let ports = json!([{"protocol": "UDP", "port": port}]);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bench-gate", "namespace": namespace},
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": pods}], "ports": ports}],
            "egress": [{"to": [{"podSelector": pods}], "ports": ports}],
        },
    })
}

/// What an API server has in the place of the files.
fn serve(serve: &Serve) -> Result<()> {
    let server = ApiServer::start(Options { address: serve.listen, ..Options::default() })?;
    let cluster = cluster(Shape::LARGE, 1)?;
    let objects = cluster.namespaces.keys().flat_map(|name| objects_of(&cluster, name));
    let own = [pod(FIRST, "bench-from", FROM), pod(FIRST, "bench-to", TO), gate(FIRST, true)];
    for (number, object) in objects.chain(own).enumerate() {
        server.put(padded(object, number)).map_err(|error| anyhow!("{error}"))?;
    }
    fs::write(&serve.kubeconfig, server.kubeconfig(None))?;
    println!("{} objects are served on {}", server.version(), server.url());
    loop {
        thread::park();
    }
}

/// What the receiver has seen, in nanoseconds since the start; 0 for nothing.
#[derive(Default)]
struct Seen {
    /// The first packet since this was made 0.
    first: AtomicU64,
    last: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    stop: AtomicBool,
}

/// A change that was made.
struct Change {
    admitted: bool,
    /// On the clock of the log, in microseconds of the day.
    at: u64,
    /// From the rename to the last packet that passed, or the first.
    took: Duration,
}

fn measure(measure: &Measure) -> Result<()> {
    println!("{}", Machine::observe().describe());
    let socket = |namespace: &str, address: SocketAddrV4| -> Result<UdpSocket> {
        let space = Namespace::open(namespace)?;
        space.run(|| UdpSocket::bind(address))?.with_context(|| address.to_string())
    };
    let (sender, receiver) = (socket(&measure.from, FROM)?, socket(&measure.to, TO)?);
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let begin = Instant::now();
    let seen = Seen::default();
    let changes = thread::scope(|scope| {
        scope.spawn(|| {
            while !seen.stop.load(Ordering::Relaxed) {
                // What the kernel refuses for a moment is sent with the next one.
                seen.sent.fetch_add(u64::from(sender.send_to(b"obey", TO).is_ok()), Ordering::Relaxed);
                thread::sleep(Duration::from_micros(measure.interval));
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !seen.stop.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    let now = begin.elapsed().as_nanos() as u64;
                    seen.last.store(now, Ordering::SeqCst);
                    let _ = seen.first.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
                    seen.received.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let changes = change(measure, &seen, begin);
        seen.stop.store(true, Ordering::Relaxed);
        changes
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let rate = seen.sent.load(Ordering::Relaxed) as f64 / seconds;
    println!("{} changes of either kind; {rate:.0} packets sent a second\n", measure.rounds);
    let log = fs::read_to_string(&measure.log).with_context(|| measure.log.display().to_string())?;
    let lines: Vec<Line> = log.lines().filter_map(line).collect();
    println!("| milliseconds | p50 | p99 | max | times |\n|---|---|---|---|---|");
    totals(&changes);
    match measure.server {
        Some(_) => shares_of_server(&changes, &lines),
        None => shares_of_files(&changes, &lines),
    }
    Ok(())
}

/// Makes the changes, one after the other.
fn change(measure: &Measure, seen: &Seen, begin: Instant) -> Result<Vec<Change>> {
    let texts = [measure.files.changing(false)?, measure.files.changing(true)?];
    let mut place = Place::of(measure)?;
    wait(seen, "packets pass before the first change", || seen.last.load(Ordering::SeqCst) != 0)?;
    let mut random = rand::rng();
    let mut changes = Vec::new();
    for round in 0..measure.rounds * 2 {
        let admitted = round % 2 == 1;
        let Some((path, text)) = texts.get(usize::from(admitted)) else { continue };
        let request = place.prepare(path, text, admitted)?;
        // At any moment of whatever the gateway does at its own times.
        thread::sleep(Duration::from_micros(random.random_range(20_000..60_000)));
        if admitted {
            seen.first.store(0, Ordering::SeqCst);
        }
        let at = micros_of_day(SystemTime::now());
        let start = begin.elapsed();
        place.change(path, &request)?;
        let end = if admitted {
            wait(seen, "a packet passes again", || seen.first.load(Ordering::SeqCst) != 0)?;
            seen.first.load(Ordering::SeqCst)
        } else {
            let last = || Duration::from_nanos(seen.last.load(Ordering::SeqCst)).max(start);
            wait(seen, "no packet passes any more", || begin.elapsed() > last() + SILENCE)?;
            seen.last.load(Ordering::SeqCst)
        };
        place.answer()?;
        changes.push(Change { admitted, at, took: Duration::from_nanos(end).saturating_sub(start) });
    }
    Ok(changes)
}

fn wait(seen: &Seen, what: &str, done: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > PATIENCE {
            let (sent, received) = (seen.sent.load(Ordering::Relaxed), seen.received.load(Ordering::Relaxed));
            bail!("after {} s still not: {what} ({sent} sent, {received} received)", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn main() -> Result<()> {
    match Command::parse().action {
        Action::Write(files) => files.write(),
        Action::Serve(of) => serve(&of),
        Action::Measure(of) => {
            ensure!(of.rounds > 0, "no rounds");
            measure(&of)
        }
    }
}

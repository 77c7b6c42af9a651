//! From a file that is replaced to the first packet that obeys.
//!
//! `write` describes a large cluster in manifest files, one a namespace; two pods of the first one are those that packets go
//! between. `measure` sends small packets from the one to the other, replaces that namespace's file by one whose policy
//! denies or admits them, and notes when the last packet passed, or the first. What the gateway's log says of the time in
//! between is told apart. `bench/change-latency` wires the pods, starts the gateway and runs both.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use podgate_bench::machine::Machine;
use podgate_bench::manifest::{Format, objects_of};
use podgate_bench::spread::quantile;
use podgate_bench::world::{Shape, cluster};
use podgate_control::netlink::Namespace;
use rand::RngExt;
use serde_json::{Value, json};

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
}

#[derive(Args)]
struct Files {
    /// Where the manifests are.
    #[arg(long)]
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
    #[arg(long)]
    staging: PathBuf,
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
    report(&changes, &log);
    Ok(())
}

/// Makes the changes, one after the other.
fn change(measure: &Measure, seen: &Seen, begin: Instant) -> Result<Vec<Change>> {
    let texts = [measure.files.changing(false)?, measure.files.changing(true)?];
    fs::create_dir_all(&measure.staging)?;
    let staged = measure.staging.join("next");
    wait(seen, "packets pass before the first change", || seen.last.load(Ordering::SeqCst) != 0)?;
    let mut random = rand::rng();
    let mut changes = Vec::new();
    for round in 0..measure.rounds * 2 {
        let admitted = round % 2 == 1;
        let Some((path, text)) = texts.get(usize::from(admitted)) else { continue };
        fs::write(&staged, text)?;
        // At any moment of whatever the gateway does at its own times.
        thread::sleep(Duration::from_micros(random.random_range(20_000..60_000)));
        if admitted {
            seen.first.store(0, Ordering::SeqCst);
        }
        let at = micros_of_day(SystemTime::now());
        let start = begin.elapsed();
        fs::rename(&staged, path)?;
        let end = if admitted {
            wait(seen, "a packet passes again", || seen.first.load(Ordering::SeqCst) != 0)?;
            seen.first.load(Ordering::SeqCst)
        } else {
            let last = || Duration::from_nanos(seen.last.load(Ordering::SeqCst)).max(start);
            wait(seen, "no packet passes any more", || begin.elapsed() > last() + SILENCE)?;
            seen.last.load(Ordering::SeqCst)
        };
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

const DAY: u64 = 24 * 3600 * 1_000_000;

fn micros_of_day(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64) % DAY
}

/// A line of the log that says how long something took.
struct Line {
    at: u64,
    took: u64,
    compiled: u64,
    message: String,
}

fn line(text: &str) -> Option<Line> {
    let value: Value = serde_json::from_str(text).ok()?;
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let took = number("took_us")?;
    let time = value.get("timestamp")?.as_str()?.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = time.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    let at = (hours * 60 + minutes) * 60_000_000 + (seconds * 1e6).round() as u64;
    let message = value.get("message")?.as_str()?.to_owned();
    Some(Line { at, took, compiled: number("compiled_us").unwrap_or(0), message })
}

/// Milliseconds of one share, of all changes.
#[derive(Default)]
struct Share(Vec<f64>);

impl Share {
    fn tell(mut self, name: &str) {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&self.0, share).unwrap_or(f64::NAN);
        println!("| {name} | {:.2} | {:.2} | {:.2} | {} |", at(0.5), at(0.99), at(1.0), self.0.len());
    }
}

fn report(changes: &[Change], log: &str) {
    let lines: Vec<Line> = log.lines().filter_map(line).collect();
    let milliseconds = |from: u64, to: u64| (to as f64 - from as f64) / 1e3;
    println!("| milliseconds | p50 | p99 | max | times |\n|---|---|---|---|---|");
    for admitted in [false, true] {
        let of = changes.iter().filter(|change| change.admitted == admitted);
        let total = Share(of.map(|change| change.took.as_secs_f64() * 1e3).collect());
        total.tell(if admitted {
            "**to the first packet that passes**"
        } else {
            "**to the last packet that passes**"
        });
    }
    let [mut noticed, mut files, mut decode, mut settle, mut compile, mut rest, mut force] =
        std::array::from_fn(|_| Share::default());
    for change in changes {
        let after =
            |message: &str, since: u64| lines.iter().find(|line| line.at >= since && line.message == message);
        let Some(changed) = after("files changed", change.at) else { continue };
        let Some(decoded) = after("decoded", change.at) else { continue };
        let Some(published) = after("published", changed.at) else { continue };
        noticed.0.push(milliseconds(change.at + changed.took, changed.at));
        files.0.push((changed.took.saturating_sub(decoded.took)) as f64 / 1e3);
        decode.0.push(decoded.took as f64 / 1e3);
        settle.0.push(milliseconds(changed.at + published.took, published.at));
        compile.0.push(published.compiled as f64 / 1e3);
        rest.0.push(published.took.saturating_sub(published.compiled) as f64 / 1e3);
        force.0.push(milliseconds(published.at, change.at + change.took.as_micros() as u64));
    }
    noticed.tell("the kernel tells of the file");
    files.tell("all files looked at, the one read");
    decode.tell("it is decoded");
    settle.tell("others are waited for");
    compile.tell("what changed is compiled");
    rest.tell("the rest of a publication");
    force.tell("workers obey, the packet arrives");
}

fn main() -> Result<()> {
    match Command::parse().action {
        Action::Write(files) => files.write(),
        Action::Measure(of) => {
            ensure!(of.rounds > 0, "no rounds");
            measure(&of)
        }
    }
}

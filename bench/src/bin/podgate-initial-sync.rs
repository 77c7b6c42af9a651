//! From the start of a gateway to the moment when all that a large API server has is in force, and the memory that takes.
//!
//! The test API server is in this process, with 100,000 pods and 10,000 policies that are as large as servers have them; the
//! gateway is a process of its own, started anew for each round, and lists everything in pages of 500. A hundred of the pods
//! have ports here, by interfaces that never come: their policies are compiled as if they were there. `bench/initial-sync`
//! runs this in namespaces of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use podgate_bench::machine::Machine;
use podgate_bench::manifest::{objects_of, padded};
use podgate_bench::spread::Spread;
use podgate_bench::world::{Shape, cluster};
use podgate_control::admin::client::Client;
use podgate_control::admin::protocol::Request;
use podgate_control::status::Status;
use podgate_tests::apiserver::{ApiServer, Options};
use serde_json::{Value, json};

/// 100,000 pods, 10,000 policies.
const SHAPE: Shape = Shape { namespaces: 400, pods: 250, policies: 25, unique: false };
const PORTS: usize = 100;
/// Within this everything must be known.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures how long a gateway takes to know 100,000 pods and 10,000 policies of an API server, and its memory.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The gateway's program.
    #[arg(long)]
    podgate: PathBuf,
    /// A folder for its files.
    #[arg(long)]
    folder: PathBuf,
    /// How often it is started.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// What one start came to.
struct Round {
    seconds: f64,
    /// Most memory that was resident, in MiB.
    peak: f64,
    /// Memory that is resident 5 seconds after that.
    resident: f64,
    compile: f64,
    /// Seconds that the longest list took.
    listed: f64,
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Gateway {
    /// A line of its /proc/PID/status, in MiB.
    fn memory(&self, line: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let value = status.lines().find_map(|of| of.strip_prefix(line)).context("no such line")?;
        Ok(value.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("{}", Machine::observe().describe());
    let server = ApiServer::start(Options::default())?;
    let cluster = cluster(SHAPE, 1)?;
    let mut bytes = 0;
    for (number, object) in cluster.namespaces.keys().flat_map(|name| objects_of(&cluster, name)).enumerate()
    {
        let object = padded(object, number + 1);
        bytes += object.to_string().len();
        server.put(object).map_err(|error| anyhow!("{error}"))?;
    }
    let (pods, policies) = (cluster.pods.len(), cluster.policies.len());
    println!("{pods} pods and {policies} policies, {} MiB of JSON, pages of 500", bytes >> 20);
    let ports: Vec<Value> = cluster
        .pods
        .values()
        .step_by(pods / PORTS)
        .enumerate()
        .filter_map(|(n, pod)| Some(json!(format!("never{n} {} {}", pod.name, pod.addresses.first()?))))
        .collect();
    ensure!(ports.len() >= PORTS, "{} ports", ports.len());
    fs::create_dir_all(&arguments.folder)?;
    fs::write(arguments.folder.join("kubeconfig"), server.kubeconfig(None))?;
    fs::write(arguments.folder.join("settings.yaml"), json!({ "ports": ports }).to_string())?;
    drop(cluster);

    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        rounds.push(round(&arguments, pods, policies)?);
    }
    println!("\n| | median | lowest | highest |\n|---|---|---|---|");
    let tell = |name: &str, of: fn(&Round) -> f64| {
        if let Some(spread) = Spread::of(&rounds.iter().map(of).collect::<Vec<f64>>()) {
            println!("| {name} | {:.2} | {:.2} | {:.2} |", spread.median, spread.min, spread.max);
        }
    };
    tell("seconds from the start until all is in force", |round| round.seconds);
    tell("seconds until the longest list was complete", |round| round.listed);
    tell("seconds to compile it", |round| round.compile);
    tell("most memory resident, MiB", |round| round.peak);
    tell("memory resident 5 s later, MiB", |round| round.resident);
    Ok(())
}

fn round(arguments: &Arguments, pods: usize, policies: usize) -> Result<Round> {
    let folder = &arguments.folder;
    let (socket, log) = (folder.join("socket"), folder.join("log"));
    let set = |key: &str, name: &str| format!("--set={key}={}", folder.join(name).display());
    let begin = Instant::now();
    let child = Command::new(&arguments.podgate)
        .args(["run", "--config"])
        .arg(folder.join("settings.yaml"))
        .args([set("kubernetes", "kubeconfig"), set("socket", "socket"), set("bpffs", "bpf")])
        .args([set("ports_file", "ports.json"), "--set=workers=1".to_owned()])
        .args(["--set=metrics_bind_address=none", "--set=log_format=json"])
        .arg("--set=log_levels=warn,podgate_control::source=debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| arguments.podgate.display().to_string())?;
    let gateway = Gateway(child);
    let (seconds, compile) = loop {
        if begin.elapsed() > PATIENCE {
            bail!("not within {} s; {}", PATIENCE.as_secs(), fs::read_to_string(&log)?);
        }
        if let Some(status) = status(&socket)
            && status.ready
            && status.generation_in_force == status.generation_published
            && (status.policy.pods, status.policy.policies) == (pods, policies)
        {
            break (begin.elapsed().as_secs_f64(), status.policy.compile_seconds);
        }
        thread::sleep(Duration::from_millis(20));
    };
    thread::sleep(Duration::from_secs(5));
    let (peak, resident) = (gateway.memory("VmHWM:")?, gateway.memory("VmRSS:")?);
    let took = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line.get("message")? == "listed").then(|| line.get("took_us")?.as_f64())?
    };
    let log = fs::read_to_string(&log)?;
    let listed = log.lines().filter_map(took).fold(0.0, f64::max) / 1e6;
    println!("{seconds:.2} s, {peak:.0} MiB at most");
    Ok(Round { seconds, peak, resident, compile, listed })
}

fn status(socket: &Path) -> Option<Status> {
    Client::connect(socket).ok()?.ask(Request::Status).ok()
}

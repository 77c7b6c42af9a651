//! `podgate lab demo`: an example's whole matrix with real connections, beside what a person expects of it.
//!
//! For somebody who sees Podgate for the first time: every step says what it does and what is to be seen. It is
//! also an acceptance test: anything that is not as expected makes the exit code 1. It works on a copy of the
//! example, so that the edit that it shows changes nobody's files.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use podgate_config::model::{Cluster, ObjectName, Pod};

use super::commands::{self, note};
use super::expectations::{Expectations, NODE};
use super::gateway;
use super::plan::AnswerPort;
use super::probe::{self, Observed, PATIENCE, Probe};
use super::state::{Role, SOCKET, State};
use crate::admin::protocol::Request;
use crate::cli::{Console, LabDemoArgs, Outcome, Table, Tone};
use crate::explain::{End, Explanation, IpProtocol, Query, explain_text};
use crate::source;
use crate::store;

/// The example that is shown if none is named.
const EXAMPLE: &str = "config/examples/shop";
/// The file that the live edit writes.
const EDIT: &str = "demo-edit.yaml";
/// How long throughput is measured.
const MEASURE: Duration = Duration::from_secs(3);

/// Who opens connections.
struct Source {
    /// As expectations name it.
    name: String,
    netns: String,
    role: Role,
}

/// Who is connected to, on one port.
struct Target {
    /// As expectations name it, and as it answers.
    name: String,
    role: Role,
    addresses: Vec<IpAddr>,
    port: AnswerPort,
}

/// One source and one target over all families that both have.
struct Cell {
    source: usize,
    target: usize,
    expected: bool,
    observed: Vec<(IpAddr, Observed)>,
}

impl Cell {
    fn is_as_expected(&self, target: &Target) -> bool {
        self.observed.iter().all(|(_, observed)| match observed {
            Observed::Answered(name) => self.expected && *name == target.name,
            Observed::Silence => !self.expected,
            Observed::Failed(_) => false,
        })
    }
}

/// `podgate lab demo`.
pub async fn run(arguments: &LabDemoArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let example = match arguments.files.as_slice() {
        [] => default_example()?,
        [folder] if folder.is_dir() => folder.clone(),
        _ => anyhow::bail!("a demo needs one folder with manifests and expectations.txt"),
    };
    let expectations = Expectations::read(&example)?;
    let copy = Copy::of(&example)?;
    let mut options = commands::options(std::slice::from_ref(&copy.path), &arguments.shape, None, true)?;
    for external in &expectations.externals {
        if !options.externals.iter().any(|other| other.name == external.name) {
            options.externals.push(external.clone());
        }
    }
    if !commands::documents_are_good(&options, console)? {
        return Ok(Outcome::BadNews);
    }
    let cluster = store::merge(&source::load(&options.files)?.objects).cluster;

    step(console, &format!("1. A lab of {}", example.display()))?;
    note(console, "Every pod gets a network namespace; its only way out is a veth pair into the gateway.")?;
    let started = commands::start(&options, console).await?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let shown = tokio::select! {
        shown = show(&expectations, &cluster, &copy, console) => shown,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    drop(started);
    let removed = commands::take_down().await;
    let good = shown?;
    removed?;
    step(
        console,
        if good {
            "Everything was as expected; the lab is removed."
        } else {
            "NOT everything was as expected; the lab is removed."
        },
    )?;
    Ok(if good { Outcome::Fine } else { Outcome::BadNews })
}

async fn show(
    expectations: &Expectations,
    cluster: &Cluster,
    copy: &Copy,
    console: &mut Console,
) -> anyhow::Result<bool> {
    let state = State::read()?.context("the lab is gone")?;
    let (sources, targets) = ends(&state);
    let names = sources.iter().map(|source| source.name.clone()).collect();
    let ports = targets.iter().map(|target| (target.name.clone(), target.port)).collect();
    let unknown = expectations.unknown(&names, &ports);
    if !unknown.is_empty() {
        anyhow::bail!("expectations.txt: {}", unknown.join("; "));
    }

    step(console, "2. Everybody connects to everybody")?;
    let begin = Instant::now();
    let cells = try_all(&sources, &targets, expectations).await;
    let mut good = print_matrix(&sources, &targets, &cells, begin.elapsed(), console)?;

    step(console, "3. Who decided")?;
    let find = |wanted: bool| {
        cells.iter().find(|cell| {
            let pair = (&sources.get(cell.source), &targets.get(cell.target));
            let (Some(source), Some(target)) = pair else { return false };
            source.role == Role::Pod
                && target.role == Role::Pod
                && cell.expected == wanted
                && is_tcp(target.port)
        })
    };
    let (denied, allowed) = (find(false), find(true));
    for cell in [denied, allowed].into_iter().flatten() {
        let (Some(source), Some(target)) = (sources.get(cell.source), targets.get(cell.target)) else {
            continue;
        };
        explain(source, target, console).await?;
    }

    step(console, "4. A policy is written, broken, and taken away while the gateway runs")?;
    match denied.and_then(|cell| Some((sources.get(cell.source)?, targets.get(cell.target)?))) {
        Some((source, target)) => good &= edit(source, target, cluster, copy, console).await?,
        None => note(console, "(this example denies nothing between pods)")?,
    }

    step(console, "5. How fast")?;
    match allowed.and_then(|cell| Some((sources.get(cell.source)?, targets.get(cell.target)?))) {
        Some((source, target)) => measure(source, target, &state, console).await?,
        None => note(console, "(this example allows nothing between pods)")?,
    }
    Ok(good)
}

fn step(console: &mut Console, title: &str) -> anyhow::Result<()> {
    note(console, "")?;
    let title = console.paint(Tone::Strong, title);
    note(console, &title)
}

/// All ends of connections, pods first, by name.
fn ends(state: &State) -> (Vec<Source>, Vec<Target>) {
    let mut sources = Vec::new();
    let mut targets = Vec::new();
    for namespace in &state.namespaces {
        let name = match (namespace.role, &namespace.pod) {
            (Role::Node, _) => NODE.to_owned(),
            (_, Some(pod)) => pod.clone(),
            (_, None) => namespace.name.clone(),
        };
        for port in &namespace.ports {
            targets.push(Target {
                name: name.clone(),
                role: namespace.role,
                addresses: namespace.addresses.clone(),
                port: *port,
            });
        }
        sources.push(Source { name, netns: namespace.name.clone(), role: namespace.role });
    }
    let rank = |role: Role| match role {
        Role::Pod => 0,
        Role::Node => 1,
        Role::External => 2,
    };
    sources.sort_by(|a, b| (rank(a.role), &a.name).cmp(&(rank(b.role), &b.name)));
    targets.sort_by(|a, b| (rank(a.role), &a.name, a.port).cmp(&(rank(b.role), &b.name, b.port)));
    (sources, targets)
}

/// Whether the gateway is between the two.
fn is_tried(source: &Source, target: &Target) -> bool {
    source.name != target.name && (source.role == Role::Pod || target.role == Role::Pod)
}

async fn try_all(sources: &[Source], targets: &[Target], expectations: &Expectations) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut probes = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        for (j, target) in targets.iter().enumerate() {
            if !is_tried(source, target) {
                continue;
            }
            for address in &target.addresses {
                let probe = Probe { netns: source.netns.clone(), address: *address, port: target.port };
                probes.push((cells.len(), probe));
            }
            let expected = expectations.allows(&source.name, &target.name, target.port);
            cells.push(Cell { source: i, target: j, expected, observed: Vec::new() });
        }
    }
    let only: Vec<Probe> = probes.iter().map(|(_, probe)| probe.clone()).collect();
    let observed = probe::connect_all(&only, PATIENCE).await;
    for ((cell, probe), observed) in probes.into_iter().zip(observed) {
        if let Some(cell) = cells.get_mut(cell) {
            cell.observed.push((probe.address, observed));
        }
    }
    cells
}

fn print_matrix(
    sources: &[Source],
    targets: &[Target],
    cells: &[Cell],
    took: Duration,
    console: &mut Console,
) -> anyhow::Result<bool> {
    let tried: usize = cells.iter().map(|cell| cell.observed.len()).sum();
    note(
        console,
        &format!(
            "{tried} real TCP and UDP connections from {} network namespaces over IPv4 and IPv6, in {:.1} s.",
            sources.len(),
            took.as_secs_f64()
        ),
    )?;
    note(
        console,
        "Expected is what a person wrote into expectations.txt; observed is who answered, by name.",
    )?;
    note(
        console,
        "allow, deny: expected and observed alike.  ALLOW!, DENY!: observed, but not expected.  -: not tried.",
    )?;
    note(console, "")?;

    // Two lines of headings: who connects, and from which Kubernetes namespace.
    let split = |name: &str| match name.split_once('/') {
        Some((namespace, name)) => (name.to_owned(), namespace.to_owned()),
        None => (name.to_owned(), String::new()),
    };
    let mut names = vec![String::new(), "from:".to_owned()];
    let mut namespaces = vec![("to:".to_owned(), None), ("port".to_owned(), None)];
    for source in sources {
        let (name, namespace) = split(&source.name);
        names.push(name);
        namespaces.push((namespace, Some(Tone::Faint)));
    }
    let mut table = Table::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    table.toned(namespaces);
    let by_place: BTreeMap<(usize, usize), &Cell> =
        cells.iter().map(|cell| ((cell.target, cell.source), cell)).collect();
    let mut wrong = Vec::new();
    let mut last = "";
    for (j, target) in targets.iter().enumerate() {
        let shown = if target.name == last { String::new() } else { target.name.clone() };
        last = &target.name;
        let mut row = vec![(shown, None), (target.port.to_string(), Some(Tone::Faint))];
        for (i, source) in sources.iter().enumerate() {
            row.push(match by_place.get(&(j, i)) {
                None => ("-".to_owned(), Some(Tone::Faint)),
                Some(cell) if cell.is_as_expected(target) && cell.expected => {
                    ("allow".to_owned(), Some(Tone::Good))
                }
                Some(cell) if cell.is_as_expected(target) => ("deny".to_owned(), None),
                Some(cell) => {
                    wrong.push((source, target, *cell));
                    (if cell.expected { "DENY!" } else { "ALLOW!" }.to_owned(), Some(Tone::Bad))
                }
            });
        }
        table.toned(row);
    }
    if !console.json() {
        table.print(console, "  ")?;
    }
    let mut bad = 0usize;
    for (source, target, cell) in &wrong {
        for (address, observed) in &cell.observed {
            let fine = Cell { observed: vec![(*address, observed.clone())], ..**cell }.is_as_expected(target);
            if fine {
                continue;
            }
            bad += 1;
            let expected = if cell.expected { "an answer" } else { "silence" };
            let observed = match observed {
                Observed::Answered(name) => format!("{name} answered"),
                Observed::Silence => "nobody answered".to_owned(),
                Observed::Failed(error) => format!("it failed: {error}"),
            };
            let (from, to, port) = (&source.name, &target.name, target.port);
            note(
                console,
                &format!("  {from} -> {to} ({address}) {port}: expected {expected}, but {observed}"),
            )?;
        }
    }
    let allowed = cells.iter().filter(|cell| cell.expected).map(|cell| cell.observed.len()).sum::<usize>();
    note(console, "")?;
    let summary = format!(
        "{} of {tried} as expected ({allowed} to be allowed, {} to be denied)",
        tried - bad,
        tried - allowed
    );
    let tone = if bad == 0 { Tone::Good } else { Tone::Bad };
    let summary = console.paint(tone, summary);
    note(console, &summary)?;
    if console.json() {
        let connections: Vec<serde_json::Value> = cells
            .iter()
            .flat_map(|cell| cell.observed.iter().map(move |(address, observed)| (cell, address, observed)))
            .filter_map(|(cell, address, observed)| {
                let (source, target) = (sources.get(cell.source)?, targets.get(cell.target)?);
                Some(serde_json::json!({
                    "from": source.name, "to": target.name, "address": address, "port": target.port.to_string(),
                    "expected": if cell.expected { "allow" } else { "deny" },
                    "observed": match observed {
                        Observed::Answered(name) => format!("answered by {name}"),
                        Observed::Silence => "deny".to_owned(),
                        Observed::Failed(error) => error.clone(),
                    },
                }))
            })
            .collect();
        console.document(
            &serde_json::json!({ "as_expected": tried - bad, "tried": tried, "connections": connections }),
        )?;
    }
    Ok(bad == 0)
}

async fn explain(source: &Source, target: &Target, console: &mut Console) -> anyhow::Result<()> {
    let (number, protocol) = match target.port {
        AnswerPort::Tcp(number) => (number, "TCP"),
        AnswerPort::Udp(number) => (number, "UDP"),
    };
    let (from, to) = (&source.name, &target.name);
    let command = format!(
        "podgate explain --socket {SOCKET} --from {from} --to {to} --port {number} --protocol {protocol}"
    );
    let command = console.paint(Tone::Faint, format!("$ {command}"));
    note(console, &command)?;
    let query = Query {
        from: End::parse(from)?,
        to: End::parse(to)?,
        port: Some(number),
        protocol: IpProtocol::parse(protocol)?,
    };
    let explanation: Explanation = gateway::ask(Request::Explain(query)).await?;
    for line in explain_text(&explanation).lines() {
        note(console, line)?;
    }
    Ok(())
}

/// Writes a policy that allows what is denied, breaks its file, and removes it; each time with new connections.
async fn edit(
    source: &Source,
    target: &Target,
    cluster: &Cluster,
    copy: &Copy,
    console: &mut Console,
) -> anyhow::Result<bool> {
    let Some(text) = policy_for(source, target, cluster) else {
        note(console, "(the pods have no labels to select them by)")?;
        return Ok(true);
    };
    let Some(address) = target.addresses.first().copied() else { return Ok(true) };
    let probe = Probe { netns: source.netns.clone(), address, port: target.port };
    let what = format!("{} -> {} {}", source.name, target.name, target.port);
    let path = copy.path.join(EDIT);
    let mut good = true;

    let verdict = |answered: bool| if answered { "answered" } else { "silence" };
    let mut report = |console: &mut Console, did: &str, wanted: bool, took: Option<Duration>, more: &str| {
        good &= took.is_some();
        let (tone, text) = match took {
            Some(took) => {
                (Tone::Good, format!("{} after {:.0} ms", verdict(wanted), took.as_secs_f64() * 1e3))
            }
            None => (Tone::Bad, format!("STILL {}", verdict(!wanted))),
        };
        let text = console.paint(tone, text);
        note(console, &format!("  {did:<44} {what}: {text}{more}"))
    };

    let before = wait_for(&probe, false, Duration::from_secs(1)).await;
    report(console, "before", false, before, "")?;
    fs::write(&path, &text)?;
    let allowed = wait_for(&probe, true, Duration::from_secs(5)).await;
    report(console, "a policy that allows it is written", true, allowed, "")?;

    fs::write(&path, format!("{text}---\nkind: [not YAML\n"))?;
    let error = wait_for_error(Duration::from_secs(5)).await;
    let more = error
        .as_ref()
        .map_or_else(|| "; and status says NOTHING".to_owned(), |error| format!("\n      status: {error}"));
    let kept = wait_for(&probe, true, Duration::from_secs(1)).await.filter(|_| error.is_some());
    report(console, "its file is broken: nothing changes", true, kept, &more)?;

    fs::remove_file(&path)?;
    let denied = wait_for(&probe, false, Duration::from_secs(5)).await;
    report(console, "the file is deleted", false, denied, "")?;
    Ok(good)
}

/// How long until a new connection is answered (or no more); `None` if that does not happen within `patience`.
async fn wait_for(probe: &Probe, answered: bool, patience: Duration) -> Option<Duration> {
    let begin = Instant::now();
    loop {
        let tried = Instant::now();
        let observed = probe::connect_all(std::slice::from_ref(probe), Duration::from_millis(150)).await;
        if matches!(observed.as_slice(), [Observed::Answered(_)]) == answered {
            // Silence is known at the end of waiting, but was so from its beginning.
            return Some(if answered { begin.elapsed() } else { tried.duration_since(begin) });
        }
        if begin.elapsed() > patience {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for_error(patience: Duration) -> Option<String> {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        if let Ok(status) = gateway::status().await
            && let Some(error) = status.sources.iter().flat_map(|source| &source.errors).next()
        {
            return Some(error.clone());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Policies for both directions between the two pods, selected by their labels.
fn policy_for(source: &Source, target: &Target, cluster: &Cluster) -> Option<String> {
    let pod = |name: &str| -> Option<&Pod> {
        let (namespace, name) = name.split_once('/')?;
        cluster.pods.get(&ObjectName::parse(namespace, name).ok()?)
    };
    let labels = |pod: &Pod| {
        let pairs: Vec<String> = pod
            .labels
            .iter()
            .map(|(key, value)| format!("{:?}: {:?}", key.as_str(), value.as_str()))
            .collect();
        (!pairs.is_empty()).then(|| format!("{{matchLabels: {{{}}}}}", pairs.join(", ")))
    };
    let (from, to) = (pod(&source.name)?, pod(&target.name)?);
    let (from_labels, to_labels) = (labels(from)?, labels(to)?);
    let (number, protocol) = match target.port {
        AnswerPort::Tcp(number) => (number, "TCP"),
        AnswerPort::Udp(number) => (number, "UDP"),
    };
    let policy = |subject: &Pod, subject_labels: &str, direction: &str, peer: &Pod, peer_labels: &str| {
        let (rules, peers) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: demo-edit-{rules}\n  \
             namespace: {}\nspec:\n  podSelector: {subject_labels}\n  policyTypes: [{direction}]\n  {rules}:\n  \
             - {peers}:\n    - namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}\n      \
             podSelector: {peer_labels}\n    ports: [{{protocol: {protocol}, port: {number}}}]\n",
            subject.name.namespace, peer.name.namespace
        )
    };
    let ingress = policy(to, &to_labels, "Ingress", from, &from_labels);
    let egress = policy(from, &from_labels, "Egress", to, &to_labels);
    Some(format!("{ingress}---\n{egress}"))
}

async fn measure(
    source: &Source,
    target: &Target,
    state: &State,
    console: &mut Console,
) -> anyhow::Result<()> {
    for address in &target.addresses {
        let probe = Probe { netns: source.netns.clone(), address: *address, port: target.port };
        let (from, to) = (&source.name, &target.name);
        let text = match probe::throughput(&probe, MEASURE).await {
            Ok(bytes) => format!("{:.2} Gb/s", bytes * 8.0 / 1e9),
            Err(error) => format!("no figure: {error:#}"),
        };
        let text = console.paint(Tone::Strong, text);
        let mtu = state.mtu;
        note(
            console,
            &format!(
                "  one TCP connection {from} -> {to} ({address}), MTU {mtu}, {} s: {text}",
                MEASURE.as_secs()
            ),
        )?;
    }
    note(console, "Client, server, gateway and kernel share this machine's CPUs.")
}

fn is_tcp(port: AnswerPort) -> bool {
    matches!(port, AnswerPort::Tcp(_))
}

fn default_example() -> anyhow::Result<PathBuf> {
    let here = PathBuf::from(EXAMPLE);
    // target/release/podgate of a source tree.
    let beside = std::env::current_exe()?.ancestors().nth(3).map(|root| root.join(EXAMPLE));
    [Some(here), beside].into_iter().flatten().find(|folder| folder.is_dir()).with_context(|| {
        format!("no {EXAMPLE} here; run this in Podgate's source folder, or name a folder with -f")
    })
}

/// A copy of an example that goes away again.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn of(example: &Path) -> anyhow::Result<Self> {
        let parent = Path::new("/run/podgate/demo");
        // Copies of demos that were killed.
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let alive = entry.file_name().to_str().is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if !alive {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let copy = Self { path: parent.join(std::process::id().to_string()) };
        fs::create_dir_all(&copy.path)?;
        for entry in fs::read_dir(example).with_context(|| example.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), copy.path.join(entry.file_name()))?;
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The next demo removes what stays.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_dir("/run/podgate/demo");
    }
}

//! `podgate lab up`, `down` and `status`: the side at the terminal.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::origin::ApiServer;
use super::plan::{NODE_NAMESPACE, choose_node};
use super::state::{self, Lock, Phase, Role, SOCKET, State};
use super::supervisor::{FAILED_LOG, LabOptions, Word, log_path, supervise as run_supervisor};
use super::{cleanup, gateway, test_api};
use crate::cli::{Console, LabShape, LabSuperviseArgs, LabUpArgs, Outcome, Table, Tone};
use crate::source;
use crate::store;

/// MTU of the pods' interfaces if nothing is said.
pub const DEFAULT_MTU: u16 = 1500;

/// `podgate lab up`.
pub async fn up(arguments: &LabUpArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let mut options = options(&arguments.files, &arguments.shape, arguments.node.clone(), false)?;
    options.api = match &arguments.kubeconfig {
        Some(path) => Some(ApiServer::Kubeconfig(std::path::absolute(path)?)),
        None if arguments.with_test_api => {
            // Before anything is made.
            test_api::program()?;
            Some(ApiServer::Test)
        }
        None => None,
    };
    if !documents_are_good(&options, console)? {
        return Ok(Outcome::BadNews);
    }
    drop(start(&options, console).await?);
    let state = State::read()?.context("the lab is gone already")?;
    print_state(&state, console)?;
    let example = state.namespaces.iter().find(|namespace| namespace.role == Role::Pod);
    let name = example.map_or(NODE_NAMESPACE, |namespace| &namespace.name);
    console.line(format!("\nTry:  ip netns exec {name} ping -c 1 169.254.1.1"))?;
    console.line(format!("      podgate drops --follow --socket {SOCKET}"))?;
    if let Some(kubeconfig) = &state.kubeconfig {
        console.line(format!("      export KUBECONFIG={}", kubeconfig.display()))?;
        console.line("      kubectl get pods -A -o wide")?;
    }
    console.line("      podgate lab down")?;
    Ok(Outcome::Fine)
}

/// `podgate lab down`.
pub async fn down(console: &mut Console) -> anyhow::Result<Outcome> {
    need_root()?;
    let found = take_down().await?;
    console.line(if found { "lab removed" } else { "no lab is up" })?;
    Ok(Outcome::Fine)
}

/// Ends the supervisor if there is one, and removes whatever is left. Whether there was anything.
pub(super) async fn take_down() -> anyhow::Result<bool> {
    let mut found = false;
    for pid in cleanup::supervisors() {
        found = true;
        // It ends its gateway and removes everything itself, which takes a moment.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid)?),
            nix::sys::signal::SIGTERM,
        );
    }
    let end = Instant::now() + Duration::from_secs(20);
    let _lock = loop {
        match Lock::take()? {
            Some(lock) => break lock,
            None if Instant::now() > end => {
                // It hangs; what it holds is removed without it.
                for pid in cleanup::supervisors() {
                    cleanup::end_process(pid).await;
                }
                anyhow::bail!(
                    "the lab's supervisor did not end; it has been killed, run `podgate lab down` again"
                );
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    found |= cleanup::remove_everything().await?;
    cleanup::remove_folder()?;
    Ok(found)
}

/// `podgate lab status`.
pub async fn status(console: &mut Console) -> anyhow::Result<Outcome> {
    let Some(state) = State::read()? else {
        if console.json() {
            console.document(&serde_json::Value::Null)?;
        } else {
            console.line("no lab is up")?;
        }
        return Ok(Outcome::BadNews);
    };
    let alive = cleanup::supervisors().contains(&state.supervisor);
    let gateway = gateway::status().await;
    if console.json() {
        let gateway = gateway.as_ref().ok();
        console
            .document(&serde_json::json!({ "supervisor_alive": alive, "lab": state, "gateway": gateway }))?;
    } else {
        print_state(&state, console)?;
        if !alive {
            let word = console.paint(Tone::Bad, "dead");
            console.line(format!("supervisor: {word}; `podgate lab down` removes the rest"))?;
        }
        console.line("")?;
        match &gateway {
            Ok(status) => status.print(console)?,
            Err(error) => {
                let word = console.paint(Tone::Bad, "nothing passes");
                console.line(format!("gateway: {word}: {error:#}"))?;
                console.line(format!(
                    "start it again:  nsenter --net=/run/netns/{NODE_NAMESPACE} {} >> {} 2>&1 &",
                    state.gateway.join(" "),
                    gateway::log_path().display()
                ))?;
            }
        }
    }
    let healthy = alive && gateway.is_ok_and(|status| status.ready);
    Ok(if healthy { Outcome::Fine } else { Outcome::BadNews })
}

/// `podgate lab supervise`, which nobody types.
pub async fn supervise(arguments: &LabSuperviseArgs) -> anyhow::Result<Outcome> {
    // A session of its own: Ctrl-C at the terminal is not meant for it. It fails for a process group's leader,
    // which is out of Ctrl-C's reach already.
    let _ = nix::unistd::setsid();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let options: LabOptions = serde_json::from_str(&arguments.options).context("the supervisor's options")?;
    run_supervisor(options).await?;
    Ok(Outcome::Fine)
}

/// What the arguments ask for.
pub(super) fn options(
    files: &[PathBuf],
    shape: &LabShape,
    node: Option<String>,
    owned: bool,
) -> anyhow::Result<LabOptions> {
    need_root()?;
    let files = files
        .iter()
        .map(|path| {
            let path = std::path::absolute(path)?;
            path.metadata().with_context(|| path.display().to_string())?;
            Ok(path)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let externals =
        shape.externals.iter().map(|text| text.parse()).collect::<Result<Vec<super::plan::External>, _>>()?;
    for (i, external) in externals.iter().enumerate() {
        let others = externals.get(..i).unwrap_or_default();
        if others.iter().any(|other| {
            other.name == external.name || other.addresses().iter().any(|a| external.addresses().contains(a))
        }) {
            anyhow::bail!("--external {}: name or address is taken by another one", external.name);
        }
    }
    let mtu = shape.mtu.unwrap_or(DEFAULT_MTU);
    if mtu < 1280 {
        anyhow::bail!("--mtu {mtu}: IPv6 needs at least 1280");
    }
    let (workers, set) = (shape.workers, shape.set.clone());
    Ok(LabOptions { files, api: None, workers, externals, mtu, set, node, owned })
}

fn need_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!("a lab needs root: it makes network namespaces and attaches XDP programs");
}

/// A line for people; with `-o json` it goes to standard error, where progress belongs then.
pub(super) fn note(console: &mut Console, text: &str) -> anyhow::Result<()> {
    if console.json() {
        eprintln!("{text}");
    } else {
        console.line(text)?;
        console.flush()?;
    }
    Ok(())
}

/// Whether the documents are valid and make a lab; prints what is wrong with them.
pub(super) fn documents_are_good(options: &LabOptions, console: &mut Console) -> anyhow::Result<bool> {
    let loaded = source::load(&options.files)?;
    let merged = store::merge(&loaded.objects);
    let mut bad = false;
    for finding in loaded.findings.iter().chain(&merged.findings) {
        bad |= finding.severity == podgate_config::manifest::Severity::Error;
        console.line(finding)?;
    }
    if bad {
        return Ok(false);
    }
    // With an API server there may be nodes that no document knows.
    if options.api.is_none() || options.node.is_none() {
        choose_node(&merged.cluster, options.node.as_deref())?;
    }
    Ok(true)
}

/// A lab that came up. It goes with this if it is owned, and lives on if it is not.
pub(super) struct Started {
    supervisor: Child,
}

impl Drop for Started {
    fn drop(&mut self) {
        // An owned one notices that its standard input has ended.
        drop(self.supervisor.stdin.take());
    }
}

/// Starts a supervisor and waits until the first generation is in force. Ctrl-C takes down what is there so far.
pub(super) async fn start(options: &LabOptions, console: &mut Console) -> anyhow::Result<Started> {
    let begin = Instant::now();
    refuse_second(options.owned).await?;
    state::create_directory()?;
    let log = File::create(log_path())?;
    let mut supervisor = Command::new(std::env::current_exe()?)
        .args(["lab", "supervise", &serde_json::to_string(options)?])
        .stdin(if options.owned { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir(Path::new("/"))
        .spawn()
        .context("start the lab's supervisor")?;
    let mut words = listen(&mut supervisor)?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        let word = tokio::select! {
            word = words.recv() => word,
            _ = interrupt.recv() => {
                note(console, "interrupted; removing the lab")?;
                take_down().await?;
                anyhow::bail!("interrupted");
            }
        };
        match word {
            Some(Word::Progress(text)) => {
                let seconds = begin.elapsed().as_secs_f64();
                let text = console.paint(Tone::Faint, format!("[{seconds:4.1} s] {text}"));
                note(console, &text)?;
            }
            Some(Word::Ready) => return Ok(Started { supervisor }),
            Some(Word::Failed(reason)) => {
                // Until it has removed everything.
                let _ = supervisor.wait();
                let kept = if Path::new(FAILED_LOG).exists() {
                    format!(" (the gateway's log: {FAILED_LOG})")
                } else {
                    String::new()
                };
                anyhow::bail!("{reason}{kept}");
            }
            None => {
                let status = supervisor.wait()?;
                anyhow::bail!("the lab's supervisor ended ({status}); see {}", log_path().display());
            }
        }
    }
}

/// An error if a lab is up. One that is being removed is waited for.
async fn refuse_second(owned: bool) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if Lock::take()?.is_some() {
            return Ok(());
        }
        let state = State::read().ok().flatten();
        let going = state.as_ref().is_some_and(|state| state.phase == Phase::Stopping);
        let orphan = state.as_ref().is_none_or(|state| state.owned);
        // The lab of a demo that was killed needs a moment to notice.
        let patience = if going || (owned && orphan) { end } else { Instant::now() };
        if Instant::now() >= patience {
            anyhow::bail!(
                "a lab is up already; `podgate lab status` shows it, `podgate lab down` removes it"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn listen(supervisor: &mut Child) -> anyhow::Result<mpsc::UnboundedReceiver<Word>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let output = supervisor.stdout.take().context("the supervisor's output")?;
    std::thread::Builder::new().name("lab-words".to_owned()).spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Ok(word) = serde_json::from_str(&line)
                && sender.send(word).is_err()
            {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn print_state(state: &State, console: &mut Console) -> anyhow::Result<()> {
    let phase = match state.phase {
        Phase::Ready => console.paint(Tone::Good, "up"),
        Phase::Starting => console.paint(Tone::Warn, "starting"),
        Phase::Stopping => console.paint(Tone::Warn, "going down"),
    };
    let sources: Vec<String> = state.sources.iter().map(|path| path.display().to_string()).collect();
    let source = match &state.kubeconfig {
        Some(kubeconfig) => {
            let node = state.node.as_deref().unwrap_or_default();
            format!("node {node} of the API server of {}", kubeconfig.display())
        }
        None => format!("documents {}", sources.join(" ")),
    };
    console.line(format!("lab {phase}: {source}, gateway socket {SOCKET}"))?;
    let mut table = Table::new(&["network namespace", "what", "addresses", "answers on"]);
    for namespace in &state.namespaces {
        let what = match (namespace.role, &namespace.pod) {
            (Role::Node, _) => "the node".to_owned(),
            (Role::External, _) => "outside".to_owned(),
            (Role::Pod, pod) => format!("pod {}", pod.as_deref().unwrap_or_default()),
        };
        let join = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
        let addresses = namespace.addresses.iter().map(ToString::to_string).collect();
        table.row([
            namespace.name.clone(),
            what,
            join(addresses),
            join(namespace.ports.iter().map(ToString::to_string).collect()),
        ]);
    }
    table.print(console, "  ")?;
    Ok(())
}

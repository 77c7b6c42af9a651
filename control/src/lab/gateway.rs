//! The lab's gateway: a `podgate run` like any other, inside `podgate-node`.
//!
//! It is a process of its own, so that it can be killed and started again while the pods stay: that is what a lab
//! is for. It is told of its ports over its admin socket as a container runtime's plugin would tell it, and keeps
//! them itself over a restart.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use tokio::process::{Child, Command};

use super::plan::{External, LabPod};
use super::state::{self, SOCKET};
use crate::admin::client::{Client, ClientError};
use crate::admin::protocol::{PortSpec, Request};
use crate::gateway::options::usable_cpus;
use crate::netlink::Namespace;
use crate::status::{PortState, Status};

/// Queues of an external's wire at most: each takes a socket's rings and frames of the packet memory.
const MOST_UPLINK_QUEUES: usize = 4;

/// What the gateway of a lab is started with, besides its namespace.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// The `-f` paths, absolute.
    pub files: Vec<PathBuf>,
    /// Workers; its own default if left out.
    pub workers: Option<u8>,
    /// The node's name, if the documents name one.
    pub node: Option<String>,
    /// The kubeconfig of the API server to follow; it need not be there yet.
    pub kubeconfig: Option<PathBuf>,
    /// Hosts behind uplink ports.
    pub externals: Vec<External>,
    /// More settings, `KEY=VALUE` each.
    pub set: Vec<String>,
}

/// The gateway's log.
#[must_use]
pub fn log_path() -> PathBuf {
    state::file("gateway.log")
}

/// Where its pins are: a bpffs of the lab's own, so that they go with the lab.
#[must_use]
pub fn pins_path() -> PathBuf {
    state::file("bpf")
}

/// The command line that starts it.
///
/// # Errors
/// If this program's own path is unknown.
pub fn command_line(options: &GatewayOptions) -> io::Result<Vec<String>> {
    let mut argv = vec![std::env::current_exe()?.display().to_string(), "run".to_owned()];
    argv.extend(["--config".to_owned(), state::file("gateway.yaml").display().to_string()]);
    argv.extend(options.set.iter().map(|setting| format!("--set={setting}")));
    for file in &options.files {
        argv.extend(["-f".to_owned(), file.display().to_string()]);
    }
    if let Some(kubeconfig) = &options.kubeconfig {
        argv.extend(["--kubeconfig".to_owned(), kubeconfig.display().to_string()]);
    }
    Ok(argv)
}

/// Writes its settings file.
///
/// # Errors
/// The file system's.
pub fn write_settings(options: &GatewayOptions) -> io::Result<()> {
    let mut text = String::from("# The gateway of this lab; written by podgate lab\n");
    let mut line = |key: &str, value: String| text.push_str(&format!("{key}: {value}\n"));
    line("socket", quote(SOCKET));
    line("bpffs", quote(&pins_path().display().to_string()));
    line("ports_file", quote(&state::file("ports.json").display().to_string()));
    if let Some(workers) = options.workers {
        line("workers", workers.to_string());
    }
    if let Some(node) = &options.node {
        line("node", quote(node));
    }
    if !options.externals.is_empty() {
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let interfaces = options.externals.iter().map(|external| quote(&external.interface())).collect();
        line("uplinks", list(interfaces));
        let networks = options.externals.iter().flat_map(External::addresses);
        let networks = networks.map(|address| quote(&ipnet::IpNet::from(address).to_string())).collect();
        line("direct", list(networks));
    }
    state::replace(&state::file("gateway.yaml"), text.as_bytes())
}

/// Queues of an external's wire with so many workers: one for each, so that they share an uplink as they share a network card.
pub fn uplink_queues(workers: Option<u8>) -> u32 {
    let workers = workers.map_or_else(|| usable_cpus().map_or(1, |cpus| cpus.len()), usize::from);
    workers.clamp(1, MOST_UPLINK_QUEUES) as u32
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Mounts the bpffs of the lab.
///
/// # Errors
/// The kernel's; EPERM without CAP_SYS_ADMIN.
pub fn mount_pins() -> io::Result<()> {
    let path = pins_path();
    fs::create_dir_all(&path)?;
    mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
    Ok(())
}

/// Starts it inside `node`; its output goes to [`log_path`].
///
/// # Errors
/// If the namespace cannot be entered or the program not be started.
pub fn spawn(node: &Namespace, argv: &[String]) -> anyhow::Result<Child> {
    let (program, arguments) = argv.split_first().ok_or_else(|| anyhow::anyhow!("no command line"))?;
    let log = File::options().create(true).append(true).open(log_path())?;
    let errors = log.try_clone()?;
    let runtime = tokio::runtime::Handle::current();
    let child = node.run(move || {
        let _inside = runtime.enter();
        // A process begins in the namespace of the thread that starts it.
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
    })??;
    Ok(child)
}

/// Asks the gateway, off the runtime's threads.
///
/// # Errors
/// [`ClientError`], or that the thread ended early.
pub async fn ask<T: serde::de::DeserializeOwned + Send + 'static>(request: Request) -> anyhow::Result<T> {
    let answer = tokio::task::spawn_blocking(move || Client::connect(Path::new(SOCKET))?.ask(request));
    Ok(answer.await??)
}

/// Its status now.
///
/// # Errors
/// [`ClientError`].
pub async fn status() -> anyhow::Result<Status> {
    ask(Request::Status).await
}

/// Waits until it listens.
///
/// # Errors
/// If it does not within `patience`, or `child` ends.
pub async fn wait_listening(child: &mut Child, patience: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("the gateway ended at once ({status}); its last words: {}", last_words());
        }
        match status().await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Tells it of a pod's port and waits until packets are judged there.
///
/// # Errors
/// What the gateway says against it.
pub async fn add_port(pod: &LabPod) -> anyhow::Result<()> {
    let port = PortSpec {
        interface: pod.interface.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        addresses: pod.addresses.clone(),
        mac: None,
    };
    ask::<serde_json::Value>(Request::PortAdd(port)).await?;
    Ok(())
}

/// Tells it that a port goes.
///
/// # Errors
/// What the gateway says against it.
pub async fn remove_port(interface: &str) -> anyhow::Result<()> {
    ask::<serde_json::Value>(Request::PortRemove { interface: interface.to_owned() }).await?;
    Ok(())
}

/// Waits until what is published is in force on every worker, and all these interfaces pass packets.
///
/// # Errors
/// What still keeps it after `patience`.
pub async fn wait_in_force(interfaces: &[String], patience: Duration) -> anyhow::Result<Status> {
    let end = Instant::now() + patience;
    loop {
        let now = status().await;
        let missing = match &now {
            Ok(status) => missing(status, interfaces),
            Err(error) => Some(format!("{error:#}")),
        };
        match (now, missing) {
            (Ok(status), None) => return Ok(status),
            (_, missing) if Instant::now() > end => {
                anyhow::bail!("the gateway is not ready after {patience:?}: {}", missing.unwrap_or_default());
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn missing(status: &Status, interfaces: &[String]) -> Option<String> {
    if !status.ready {
        let errors = status.problems.iter().filter(|problem| problem.error);
        let problems: Vec<String> =
            errors.map(|problem| format!("{}: {}", problem.subject, problem.message)).collect();
        return Some(if problems.is_empty() { "not ready".to_owned() } else { problems.join("; ") });
    }
    if status.generation_in_force < status.generation_published {
        let (published, in_force) = (status.generation_published, status.generation_in_force);
        return Some(format!("generation {published} is published, {in_force} in force"));
    }
    interfaces.iter().find_map(|interface| {
        match status.ports.iter().find(|port| port.interface == *interface) {
            Some(port) if port.state == PortState::Up => None,
            Some(port) => Some(format!("port {interface}: {}", port.detail.as_deref().unwrap_or("not up"))),
            None => Some(format!("port {interface} is not there")),
        }
    })
}

/// The last lines of its log, for error messages.
#[must_use]
pub fn last_words() -> String {
    let text = fs::read_to_string(log_path()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    if lines.is_empty() {
        return "none".to_owned();
    }
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Whether the error is that nobody listens.
#[must_use]
pub fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ClientError>(), Some(ClientError::Connect { .. }))
}

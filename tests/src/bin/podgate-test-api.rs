//! `podgate-test-api`: the test API server as a program, for hands at `kubectl` and for labs without a cluster.
//!
//! It writes a kubeconfig that nobody else can read when it listens, prints its path, and ends on SIGTERM, SIGINT, and
//! when the process that started it is gone. Nothing is kept: the next start begins with the namespaces that every
//! cluster has.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::unistd::getppid;
use podgate_tests::apiserver::{Access, ApiServer, Options, Rule, User};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// How often the parent is looked for. A signal at its death would come when the thread that started this ends.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A Kubernetes API server for tests and labs: real API, no cluster behind it.
#[derive(Debug, Parser)]
#[command(
    name = "podgate-test-api",
    version,
    after_help = "Example:\n  podgate-test-api --kubeconfig /tmp/kubeconfig --bind-to node-1 &\n  \
        KUBECONFIG=/tmp/kubeconfig kubectl get namespaces"
)]
struct Arguments {
    /// Where it listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the kubeconfig is written, with a token that this start alone knows
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Bind new pods to this node, as a scheduler would
    #[arg(long, value_name = "NODE")]
    bind_to: Option<String>,
}

fn main() -> ExitCode {
    let parent = getppid();
    match run(&Arguments::parse(), parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podgate-test-api: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments, parent: nix::unistd::Pid) -> Result<(), String> {
    let token = format!("{:032x}", rand::random::<u128>());
    let user = User { token: token.clone(), name: "admin".to_owned(), rules: vec![Rule::everything()] };
    let server = ApiServer::start(Options {
        address: arguments.listen,
        access: Access::Users(vec![user]),
        cluster_network_policies: true,
        bind_to: arguments.bind_to.clone(),
        ..Options::default()
    })
    .map_err(|error| format!("{}: {error}", arguments.listen))?;
    for name in ["kube-node-lease", "kube-public", "kube-system"] {
        let namespace = json!({ "kind": "Namespace", "metadata": { "name": name } });
        server.put(namespace).map_err(|error| error.to_string())?;
    }
    let path = &arguments.kubeconfig;
    write(path, &server.kubeconfig(Some(&token))).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("listening on {}, kubeconfig {}", server.address(), path.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(end(parent)));
    // It names a server that is no more.
    let _ = fs::remove_file(path);
    ended.map_err(|error| error.to_string())
}

/// Replaces a file by one that only its owner can read.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let _ = fs::remove_file(&new);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

/// Waits for a signal, or for the parent's end.
async fn end(parent: nix::unistd::Pid) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = look.tick() => if getppid() != parent { return Ok(()) },
        }
    }
}

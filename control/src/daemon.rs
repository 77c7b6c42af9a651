//! `podgate run`: the process around the gateway.
//!
//! The order of the start is the order of what may fail without having touched anything: rights, the admin socket's lock
//! (a second daemon ends here, before it takes a port from the first), the metrics' address, the manifests, how to reach the
//! API server; only then the devices. The admin socket answers from the moment the ports are open; manifests with errors
//! and an API server that is away do not keep the daemon from starting, they keep it closed.

use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::server::{AdminSocket, BindError};
use crate::gateway::options::Options;
use crate::gateway::{Gateway, StartError};
use crate::source::kubernetes::events::Reporter;
use crate::source::kubernetes::{self, Access, AccessError, Timing};
use crate::source::{self, WatchError};
use crate::telemetry::http::{self, HttpError};

/// What the daemon is told besides the gateway's own options.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// The gateway's.
    pub gateway: Options,
    /// The API server to follow, if one shall be, and who makes Events there, if somebody shall.
    pub kubernetes: Option<(Access, Timing, Option<Reporter>)>,
    /// The admin socket.
    pub socket: PathBuf,
    /// Where metrics and health are served; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
}

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Capabilities.
    #[error("missing rights: {}; run as root, or grant them (AmbientCapabilities= of the service)", .0.join(", "))]
    Rights(Vec<&'static str>),
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The HTTP port.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Following files.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Following an API server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Devices and workers.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Signals, threads.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
}

/// As many file descriptors as may be: every queue of a port is some, and a port that finds none cannot be opened.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // The soft limit stays then; small nodes fit into it.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`DaemonError`] if it cannot start.
pub fn run(options: DaemonOptions) -> Result<(), DaemonError> {
    let failed = |what| move |error| DaemonError::System { what, error };
    let missing =
        missing_rights(&std::fs::read_to_string("/proc/self/status").map_err(failed("reading own rights"))?);
    if !missing.is_empty() {
        return Err(DaemonError::Rights(missing));
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(failed("starting the control threads"))?;
    runtime.block_on(serve(options))
}

async fn serve(options: DaemonOptions) -> Result<(), DaemonError> {
    let failed = |error| DaemonError::System { what: "waiting for signals", error };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let socket = AdminSocket::bind(&options.socket)?;
    let listener = match options.metrics {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let files = options.gateway.files.clone();
    let source = tokio::task::block_in_place(|| source::follow(files))?;
    let api = match options.kubernetes {
        Some((access, timing, events)) => {
            Some(tokio::task::block_in_place(|| kubernetes::follow(access, timing, events))?)
        }
        None => None,
    };
    let (gateway, handle) = Gateway::start(options.gateway, source, api).await?;
    if let Some(listener) = listener {
        tokio::spawn(http::serve(listener, handle.clone()));
    }
    let admin = tokio::spawn(socket.serve(handle));
    tracing::info!(socket = %options.socket.display(), "podgate {} runs", env!("CARGO_PKG_VERSION"));
    gateway
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            }
        })
        .await;
    // Dropping the socket removes its file.
    admin.abort();
    let _ = admin.await;
    Ok(())
}

/// Capabilities that this process lacks, with what each is for (`CapEff` of proc_pid_status(5)).
fn missing_rights(status: &str) -> Vec<&'static str> {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_BPF: u32 = 39;
    const NEEDED: [(u32, &str); 3] = [
        (12, "CAP_NET_ADMIN (links, routes, attaching programs)"),
        (13, "CAP_NET_RAW (AF_XDP sockets)"),
        (CAP_BPF, "CAP_BPF (programs and maps)"),
    ];
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        // Unknown rights are found out by trying.
        .unwrap_or(u64::MAX);
    let has = |bit: u32| effective >> bit & 1 == 1;
    NEEDED
        .iter()
        .filter(|(bit, _)| !has(*bit) && (*bit != CAP_BPF || !has(CAP_SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_named() {
        assert_eq!(missing_rights("CapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(missing_rights("Name:\tx\nCapEff:\t0000000000000000\n").len(), 3);
        // CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN, which holds CAP_BPF.
        assert_eq!(missing_rights("CapEff:\t0000000000203000\n"), [""; 0]);
        let raw_missing = missing_rights("CapEff:\t0000008000001000\n");
        assert_eq!(raw_missing.len(), 1);
        assert!(raw_missing[0].contains("CAP_NET_RAW"));
    }
}

//! Removing a lab, whole or in ruins.
//!
//! Works from what is there, not from what should be: the namespaces that the state file lists, those with a hosts
//! file of ours, and the node's; the processes that run in the node's namespace and look like our gateway, or like
//! a supervisor, or like the lab's test API server. So it does not matter who was killed when, and it may be run twice. Processes that people started in a
//! pod (a shell, iperf3) are left alone; they sit in a namespace without interfaces then.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::gateway::pins_path;
use super::plan::NODE_NAMESPACE;
use super::state::{self, DIRECTORY, SOCKET, State};
use super::supervisor::log_path;
use super::test_api;
use super::topology::{marked_namespaces, remove_hosts};
use crate::netlink::{Namespace, Netlink};

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes everything that a lab may have left but its supervisor's log. The caller holds the lab's lock. Returns
/// whether there was anything.
///
/// # Errors
/// The first thing that could not be removed, after trying all.
pub async fn remove_everything() -> anyhow::Result<bool> {
    let me = std::process::id();
    let mut found = false;
    for pid in supervisors().into_iter().filter(|pid| *pid != me) {
        found = true;
        end_process(pid).await;
    }
    for pid in gateways().into_iter().chain(test_servers()) {
        found = true;
        end_process(pid).await;
    }

    let mut first_error = None;
    let mut keep = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            first_error.get_or_insert(error);
        }
    };
    // A state file that is not understood is that of another version; the marks lead to the rest.
    let state = State::read().ok().flatten();
    let mut namespaces: BTreeSet<String> = marked_namespaces().into_iter().collect();
    namespaces
        .extend(state.iter().flat_map(|state| &state.namespaces).map(|namespace| namespace.name.clone()));
    namespaces.insert(NODE_NAMESPACE.to_owned());

    // Wires first: with them gone, nothing that still holds the node's namespace holds the pods together.
    if let Ok(node) = Namespace::open(NODE_NAMESPACE) {
        keep(delete_wires(&node).await);
    }
    for name in namespaces {
        match Namespace::delete(&name) {
            Ok(there) => found |= there,
            Err(error) => keep(Err(error.into())),
        }
        remove_hosts(&name);
    }
    match umount2(&pins_path(), MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => keep(Err(anyhow::Error::new(error).context("unmount the lab's bpffs"))),
    }
    keep(remove(Path::new(SOCKET), fs::remove_file(SOCKET)));
    found |= state::file("state.json").exists();
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == log_path() {
            continue;
        }
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        keep(remove(&path, if folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }));
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

/// Removes the rest of the lab's folder.
///
/// # Errors
/// The file system's.
pub fn remove_folder() -> io::Result<()> {
    match fs::remove_dir_all(DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn delete_wires(node: &Namespace) -> anyhow::Result<()> {
    let netlink = Netlink::connect_in(node)?;
    for link in netlink.links().await? {
        if link.kind.as_deref() == Some("veth") {
            netlink.delete_link(&link.name).await?;
        }
    }
    Ok(())
}

fn remove(path: &Path, result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(anyhow::Error::new(error).context(format!("remove {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Supervisors of labs, this process among them if it is one.
#[must_use]
pub fn supervisors() -> Vec<u32> {
    processes(
        "podgate",
        |_, argv| matches!(argv, [_, lab, supervise, ..] if lab == "lab" && supervise == "supervise"),
    )
}

/// Gateways that run in the node's namespace.
#[must_use]
pub fn gateways() -> Vec<u32> {
    let Ok(node) = fs::metadata(Namespace::path(NODE_NAMESPACE)) else { return Vec::new() };
    processes("podgate", |pid, argv| {
        let run = matches!(argv, [_, run, ..] if run == "run");
        run && fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|its| (its.dev(), its.ino()) == (node.dev(), node.ino()))
    })
}

/// Test API servers of labs: those that write a lab's kubeconfig.
fn test_servers() -> Vec<u32> {
    let kubeconfig = test_api::kubeconfig_path().display().to_string();
    processes(test_api::PROGRAM, |_, argv| argv.contains(&kubeconfig))
}

/// Processes of a program of ours that `wanted` says yes to.
fn processes(name: &str, wanted: impl Fn(u32, &[String]) -> bool) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
            let argv: Vec<String> = cmdline
                .split(|byte| *byte == 0)
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect();
            let ours = argv.first().is_some_and(|program| {
                Path::new(program.trim_end_matches(" (deleted)"))
                    .file_name()
                    .is_some_and(|found| found == name)
            });
            ours && wanted(*pid, &argv)
        })
        .collect()
}

/// Asks a process to end, and makes it.
pub async fn end_process(pid: u32) {
    let Ok(raw) = i32::try_from(pid) else { return };
    let pid = Pid::from_raw(raw);
    let end = Instant::now() + PATIENCE;
    if kill(pid, Signal::SIGTERM).is_err() {
        return;
    }
    while Instant::now() < end {
        if gone(raw) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It may have ended in between; nothing else can be done anyway.
    let _ = kill(pid, Signal::SIGKILL);
    while !gone(raw) && Instant::now() < end + PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ended, be it that its parent has not taken notice yet.
fn gone(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

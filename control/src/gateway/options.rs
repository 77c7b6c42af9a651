//! What the gateway is told once, at its start.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use podgate_config::model::NodeName;
use podgate_dataplane::flow::Timeouts;
use podgate_dataplane::fragment;

use crate::admin::protocol::PortSpec;
use crate::compiler::Limits;

/// The settings in the gateway's terms.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node it serves; its Node object's addresses count as the node's own.
    pub node: Option<NodeName>,
    /// Manifest files and folders.
    pub files: Vec<PathBuf>,
    /// Where ports that were added over the admin socket are kept.
    pub ports_file: PathBuf,
    /// The bpf file system, or the folder to mount one at, for pins.
    pub bpffs: PathBuf,
    /// Ports that the settings name.
    pub ports: Vec<PortSpec>,
    /// Interfaces to the outside.
    pub uplinks: BTreeSet<String>,
    /// Networks that are reached by an uplink and not by the host stack.
    pub direct: Vec<IpNet>,
    /// MTU of the host pair.
    pub host_mtu: u32,
    /// CPUs of the workers, one each.
    pub cores: Vec<usize>,
    /// Idle workers spin rather than sleep.
    pub spin: bool,
    /// Connections that the policies no longer allow go on.
    pub keep_established: bool,
    /// Senders of denied packets are told.
    pub reject: bool,
    /// Connections that a worker can hold.
    pub flows: usize,
    /// Those of them that may be charged to one pod.
    pub flows_per_pod: usize,
    /// Connections that are over that a worker remembers.
    pub flow_history: usize,
    /// How long those may be silent.
    pub timeouts: Timeouts,
    /// Datagrams in fragments that a worker can hold.
    pub fragments: fragment::Limits,
    /// Frames of the packet memory, 4096 bytes each.
    pub frames: u32,
    /// Entries of each ring of a socket.
    pub ring_size: u32,
    /// How large the tables may get.
    pub limits: Limits,
    /// Replaced snapshots that may wait for a worker.
    pub retired: usize,
    /// Detach the programs on a clean exit, so that packets pass by without judgement.
    pub open_on_exit: bool,
}

/// The CPUs that this process may use, in ascending order: those that workers run on unless the settings name others.
///
/// # Errors
/// The kernel's, of sched_getaffinity(2).
pub fn usable_cpus() -> nix::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::this())?;
    Ok((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect())
}

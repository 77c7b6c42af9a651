//! What is written down about a lab, so that anybody can remove it: /run/podgate/lab/.
//!
//! The supervisor holds a lock on `lock` as long as it lives, however it ends; so "a lab is up" is never a guess.
//! A network namespace is written into `state.json` *before* it is made and taken out after it is gone: what a
//! killed lab leaves is always on the list. Each file is replaced by rename, so a reader never sees half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::plan::AnswerPort;

/// State, settings, logs and pins of the lab.
pub const DIRECTORY: &str = "/run/podgate/lab";
/// The gateway's admin socket.
pub const SOCKET: &str = "/run/podgate/lab.sock";
/// Where `ip netns exec` takes files of /etc from.
pub const ETC_NETNS: &str = "/etc/netns";

/// A path inside [`DIRECTORY`].
#[must_use]
pub fn file(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes [`DIRECTORY`], for root alone: credentials are in there, and logs that may speak of them.
///
/// # Errors
/// The file system's.
pub fn create_directory() -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY)
}

/// How far a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being built.
    Starting,
    /// The first generation is in force.
    Ready,
    /// Being removed.
    Stopping,
}

/// What lives in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The gateway and hostNetwork pods.
    Node,
    /// A pod.
    Pod,
    /// A host outside of the cluster.
    External,
}

/// A network namespace of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceState {
    /// As `ip netns` knows it.
    pub name: String,
    /// What lives there.
    pub role: Role,
    /// `namespace/name` of a pod that is the only one in there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node's end of its wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Ports that answer.
    pub ports: Vec<AnswerPort>,
}

/// The whole lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How far it is.
    pub phase: Phase,
    /// Process id of the supervisor.
    pub supervisor: u32,
    /// Whether it belongs to a `lab demo` and goes with it.
    pub owned: bool,
    /// The `-f` paths.
    pub sources: Vec<PathBuf>,
    /// The kubeconfig of the API server that the lab follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The node's name, if the documents name one.
    pub node: Option<String>,
    /// MTU of the pods' interfaces.
    pub mtu: u16,
    /// How the gateway was started; run inside `podgate-node` this starts it again.
    pub gateway: Vec<String>,
    /// All network namespaces.
    pub namespaces: Vec<NamespaceState>,
}

impl State {
    /// What is written down now; `None` if nothing is.
    ///
    /// # Errors
    /// The file system's; a file that is not understood is `InvalidData`.
    pub fn read() -> io::Result<Option<Self>> {
        let bytes = match fs::read(file("state.json")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self) -> io::Result<()> {
        replace(&file("state.json"), &serde_json::to_vec_pretty(self)?)
    }
}

/// Replaces a file by rename.
///
/// # Errors
/// The file system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut written = File::create(&new)?;
    written.write_all(bytes)?;
    drop(written);
    fs::rename(&new, path)
}

/// The right to be the lab. The kernel takes it back when its holder dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<File>);

impl Lock {
    /// Takes it; `None` if a lab is up.
    ///
    /// # Errors
    /// The file system's.
    pub fn take() -> io::Result<Option<Self>> {
        create_directory()?;
        // The file stays when a lab ends: removing it would let two labs lock two files.
        let lock = File::options().create(true).truncate(false).write(true).open(lock_path())?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }
}

fn lock_path() -> PathBuf {
    Path::new("/run/podgate").join("lab.lock")
}

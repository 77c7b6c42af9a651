//! Network namespaces, named as iproute2 names them.
//!
//! A named namespace is a file in /run/netns with the namespace mounted over it, so that `ip netns` lists, enters
//! and deletes what is made here and the other way round. Files of /etc/netns/NAME are put over /etc by
//! `ip netns exec`, by nobody else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::NetlinkError;

/// Where named namespaces are.
pub const NAMESPACE_DIRECTORY: &str = "/run/netns";

/// An open network namespace. It lives as long as this, also if its name goes.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If /proc is not there.
    pub fn current() -> Result<Self, NetlinkError> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// A named one, that must exist.
    ///
    /// # Errors
    /// ENOENT if it does not exist.
    pub fn open(name: &str) -> Result<Self, NetlinkError> {
        Self::open_path(&Self::path(name))
    }

    /// One by a path: of /run/netns, /proc/PID/ns/net, ...
    ///
    /// # Errors
    /// If there is no such file. A file that is not a namespace is found out on entering.
    pub fn open_path(path: &Path) -> Result<Self, NetlinkError> {
        let file = File::open(path)
            .map_err(|error| NetlinkError::new(format!("open the namespace {}", path.display()), error))?;
        Ok(Self { file })
    }

    /// Where the namespace of this name is mounted.
    #[must_use]
    pub fn path(name: &str) -> PathBuf {
        Path::new(NAMESPACE_DIRECTORY).join(name)
    }

    /// Makes a named one, with its loopback interface down.
    ///
    /// # Errors
    /// EEXIST if the name is taken, and whatever the kernel says to unshare and mount.
    pub fn create(name: &str) -> Result<Self, NetlinkError> {
        let path = Self::path(name);
        let fail = |error: io::Error| NetlinkError::new(format!("create the namespace {name}"), error);
        prepare_directory().map_err(fail)?;
        OpenOptions::new().write(true).create_new(true).open(&path).map_err(fail)?;
        let made = thread::scope(|scope| {
            let made = scope.spawn(|| -> Result<(), Errno> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            made.join()
        });
        match made {
            Ok(Ok(())) => Self::open(name),
            Ok(Err(error)) => {
                let _ = fs::remove_file(&path);
                Err(fail(error.into()))
            }
            Err(_) => Err(fail(io::Error::other("the thread that should make it ended early"))),
        }
    }

    /// Takes a name away; the namespace ends when nothing else holds it. `false` if there was none of this name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete(name: &str) -> Result<bool, NetlinkError> {
        let path = Self::path(name);
        let fail = |error: io::Error| NetlinkError::new(format!("delete the namespace {name}"), error);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: a file without a mount, left by somebody who was killed between the two.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(Errno::ENOENT) => return Ok(false),
            Err(error) => return Err(fail(error.into())),
        }
        fs::remove_file(&path).map_err(fail)?;
        Ok(true)
    }

    /// The names of all named ones, sorted.
    ///
    /// # Errors
    /// If the directory cannot be read; that it does not exist is an empty list.
    pub fn names() -> Result<Vec<String>, NetlinkError> {
        let fail = |error| NetlinkError::new(format!("list {NAMESPACE_DIRECTORY}"), error);
        let entries = match fs::read_dir(NAMESPACE_DIRECTORY) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Moves the calling thread into this namespace, for good. For threads and processes whose whole life is
    /// there; never on a thread of an async runtime.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; EINVAL if this is not a network namespace.
    pub fn enter(&self) -> Result<(), NetlinkError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetlinkError::new("enter a network namespace", error))
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Sockets that it opens stay in the namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetlinkError> {
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("in-netns".to_owned())
                .spawn_scoped(scope, || {
                    self.enter()?;
                    Ok(work())
                })
                .map_err(|error| NetlinkError::new("start a thread for a network namespace", error))?;
            worker.join().unwrap_or_else(|_| {
                let source = io::Error::other("the thread ended early");
                Err(NetlinkError::new("run inside a network namespace", source))
            })
        })
    }

    /// Writes an attribute of a device of this namespace, as /sys/class/net has it.
    ///
    /// # Errors
    /// ENOENT if there is no such device or attribute, EINVAL if the kernel refuses the value, EPERM without CAP_SYS_ADMIN.
    pub fn write_device_attribute(
        &self,
        interface: &str,
        attribute: &str,
        value: &str,
    ) -> Result<(), NetlinkError> {
        let write = || -> io::Result<()> {
            // sysfs shows the network namespace of whoever mounted it. This thread, which ends afterwards, gets one of its own.
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
            fs::write(Path::new("/sys/class/net").join(interface).join(attribute), value)
        };
        self.run(write)?.map_err(|error| {
            NetlinkError::new(format!("set {attribute} of the interface {interface} to {value}"), error)
        })
    }

    /// Another handle to the same namespace.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn duplicate(&self) -> Result<Self, NetlinkError> {
        let file =
            self.file.try_clone().map_err(|error| NetlinkError::new("duplicate a namespace", error))?;
        Ok(Self { file })
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Writes a network sysctl (`net/ipv4/ip_forward`) of the calling thread's namespace: call it in
/// [`Namespace::run`].
///
/// # Errors
/// ENOENT if the kernel has no such setting, EINVAL if it refuses the value.
pub fn write_sysctl(key: &str, value: &str) -> Result<(), NetlinkError> {
    fs::write(Path::new("/proc/sys").join(key), value)
        .map_err(|error| NetlinkError::new(format!("set the sysctl {key} to {value}"), error))
}

/// Makes /run/netns what iproute2 wants it to be: a shared mount of its own, so that names made in one mount
/// namespace are seen, and go, in all.
fn prepare_directory() -> io::Result<()> {
    fs::create_dir_all(NAMESPACE_DIRECTORY)?;
    let share = || {
        mount(
            None::<&str>,
            NAMESPACE_DIRECTORY,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        Err(Errno::EINVAL) => {
            let onto_itself = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NAMESPACE_DIRECTORY), NAMESPACE_DIRECTORY, None::<&str>, onto_itself, None::<&str>)?;
            share()?;
            Ok(())
        }
        other => Ok(other?),
    }
}

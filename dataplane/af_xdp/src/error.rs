//! Everything that can go wrong, said so that the reader knows what to do next.

use std::io;
use std::path::PathBuf;

use crate::interface::Offload;

/// Why an operation of this crate failed. The text names the thing, the value and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A region was asked for with a size that cannot exist.
    #[error("memory region of {chunks} chunks of 4096 bytes: expected 1 to {max} chunks")]
    RegionSize {
        /// Chunks that were asked for.
        chunks: u32,
        /// The most that fits.
        max: u32,
    },
    /// The kernel refused memory for a region.
    #[error(
        "cannot {call} for a memory region of {bytes} bytes: {source}; ask for fewer frames or give the process more memory"
    )]
    RegionMemory {
        /// System call that failed.
        call: &'static str,
        /// Size of the region.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More regions or sockets were made in one process than there are identifiers for.
    #[error("no identifiers left for a further {what} in this process: restart it")]
    IdentifiersUsedUp {
        /// `region` or `socket`.
        what: &'static str,
    },
    /// A ring was asked for with a size that cannot exist.
    #[error("{ring} ring of {size} entries: expected a power of two from 2 to 32768")]
    RingSize {
        /// Which ring.
        ring: &'static str,
        /// Entries that were asked for.
        size: u32,
    },
    /// There is no such network device in this network namespace.
    #[error("interface {interface:?}: {source}; look at `ip link` in the same network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither ethtool nor sysfs says how many receive queues a device has.
    #[error(
        "interface {interface}: cannot find out how many receive queues are active (ETHTOOL_GCHANNELS: {source}); \
         without that traffic could bypass the sockets, so nothing is attached"
    )]
    QueuesUnknown {
        /// The device.
        interface: String,
        /// ethtool's answer.
        source: io::Error,
    },
    /// An offload could not be switched.
    #[error("interface {interface}: cannot switch {offload} {}: {source}", if *.on { "on" } else { "off" })]
    Offload {
        /// The device.
        interface: String,
        /// Which.
        offload: Offload,
        /// Whether it should have been on.
        on: bool,
        /// ethtool's answer.
        source: io::Error,
    },
    /// Some active receive queues have no socket: their traffic would not be seen.
    #[error(
        "interface {interface} has {active} active receive queues, and no socket is bound to {}; bind one to each, or reduce \
         the queues (ethtool -L {interface} rx {bound} or combined {bound})",
        queue_list(.missing)
    )]
    QueuesUnbound {
        /// The device.
        interface: String,
        /// Its active receive queues: 0 to `active` - 1.
        active: u32,
        /// How many of them have a socket.
        bound: u32,
        /// The queues without one.
        missing: Vec<u32>,
    },
    /// A right is missing.
    #[error("{action}: not permitted; the process needs {needed}")]
    NotPermitted {
        /// What was tried.
        action: String,
        /// Capabilities that allow it.
        needed: &'static str,
    },
    /// The region cannot be locked in memory.
    #[error(
        "registering {bytes} bytes of packet memory: over the limit of locked memory; raise RLIMIT_MEMLOCK (ulimit -l, or \
         LimitMEMLOCK= of the service) or grant CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// Size of the region.
        bytes: usize,
    },
    /// Another socket is bound to this queue.
    #[error(
        "interface {interface} queue {queue} is busy: another AF_XDP socket is bound to it, of this process or another \
         (`ss --xdp -p` shows whose)"
    )]
    QueueBusy {
        /// The device.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The memory registration's own socket is gone because its device was deleted.
    #[error(
        "the device that anchors the packet memory is gone: no further socket can share it; recreate it and register again"
    )]
    AnchorGone,
    /// A step of making a socket failed for another reason.
    #[error("interface {interface} queue {queue}: {call}: {source}")]
    Socket {
        /// The device.
        interface: String,
        /// The queue.
        queue: u32,
        /// The step that failed.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The driver has no native XDP.
    #[error(
        "interface {interface}: its driver has no native XDP ({source}); generic mode is not used, because there packets can \
         pass around the program"
    )]
    NoNativeXdp {
        /// The device.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The MTU does not fit a program, or a kernel, without multi-buffer support.
    #[error(
        "interface {interface}: its MTU is too large for XDP without multi-buffer support; lower it to 3498 or less"
    )]
    MtuTooLarge {
        /// The device.
        interface: String,
    },
    /// Some other XDP program is attached.
    #[error(
        "interface {interface}: another XDP program is attached, and this one does not replace it; see `ip link show {interface}` \
         and pins of other programs"
    )]
    OtherProgram {
        /// The device.
        interface: String,
    },
    /// The kernel has no bpf_link for XDP: a program could not outlive the process by its pin.
    #[error("this kernel cannot attach XDP programs by bpf_link: Linux 5.9 or later is needed")]
    NoXdpLink,
    /// The kernel refused a steering program or a barrier.
    #[error("the kernel refused the program {program}: {source}; the verifier says: {log}")]
    Program {
        /// Which program.
        program: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// Last lines of the verifier's log.
        log: String,
    },
    /// A bpf(2) call failed.
    #[error("{action}: {source}")]
    Bpf {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pin, or the folder of pins, could not be made, opened or removed.
    #[error("{path}: cannot {action}: {source}; pins need a bpf file system (mount -t bpf) and a folder writable for this user", path = .path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The steering program's address table is full.
    #[error(
        "no room for {address} in the uplink's table of {capacity} pod addresses: attach again with a larger capacity"
    )]
    AddressesFull {
        /// The address.
        address: std::net::IpAddr,
        /// Entries in the table.
        capacity: u32,
    },
}

/// "queue 1" or "queues 1, 3".
fn queue_list(queues: &[u32]) -> String {
    let numbers: Vec<String> = queues.iter().map(u32::to_string).collect();
    format!("queue{} {}", if queues.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// Makes an error out of the kernel's answer to a bpf(2) call.
pub(crate) fn bpf_error(action: impl Into<String>, source: io::Error) -> Error {
    let action = action.into();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Error::NotPermitted { action, needed: "CAP_BPF and CAP_NET_ADMIN" }
        }
        _ => Error::Bpf { action, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbound_queues_are_named() {
        let interface = "eth7".to_owned();
        let error = Error::QueuesUnbound { interface, active: 4, bound: 2, missing: vec![1, 3] };
        let text = error.to_string();
        assert!(text.contains("eth7 has 4 active receive queues") && text.contains("queues 1, 3"), "{text}");
        assert!(text.contains("ethtool -L eth7 rx 2"), "{text}");
    }
}

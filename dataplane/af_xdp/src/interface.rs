//! Network devices: name, index, the number of active queues, and offloads that decide how fast packets are received.
//!
//! Everything is looked up in the network namespace of the calling thread.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::Error;
use crate::mmap::check;

/// A network device of the calling thread's network namespace. The index stays what it was if the device is renamed or
/// deleted; a new device of the same name has another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    name: String,
    index: u32,
}

/// How many queues of a device are active now: queues 0 to n - 1 of each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveQueues {
    /// Queues that may receive packets, each of which needs a socket. At least 1.
    pub receive: u32,
    /// Queues that may transmit: the socket of a queue beyond these receives alone, its transmit calls fail with ENXIO.
    /// At least 1.
    pub transmit: u32,
}

impl std::fmt::Display for ActiveQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to receive, {} to transmit", self.receive, self.transmit)
    }
}

/// `ETHTOOL_GCHANNELS`, include/uapi/linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `ETHTOOL_STSO`, include/uapi/linux/ethtool.h.
const ETHTOOL_STSO: u32 = 0x1f;
/// `ETHTOOL_SGRO`, include/uapi/linux/ethtool.h.
const ETHTOOL_SGRO: u32 = 0x2c;
/// `SIOCETHTOOL`, include/uapi/linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// What a device may do in place of the protocol stack, as `ethtool -K` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// `gro`: received TCP segments that follow one another are put together before the stack sees them.
    GenericReceive,
    /// `tso`: the device takes TCP segments larger than its MTU.
    TcpSegmentation,
}

impl std::fmt::Display for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Offload::GenericReceive => "gro",
            Offload::TcpSegmentation => "tso",
        })
    }
}

/// `struct ethtool_value`, include/uapi/linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// `struct ethtool_channels`, include/uapi/linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// Structs that the kernel may read and write for an ethtool command.
///
/// # Safety
/// They are of integers alone and have the kernel's layout for every command that their first field is set to.
unsafe trait EthtoolCommand {}
// SAFETY: `repr(C)`, two integers, used for the commands that read and write one value.
unsafe impl EthtoolCommand for EthtoolValue {}
// SAFETY: `repr(C)`, the kernel's nine integers, used for `ETHTOOL_GCHANNELS` alone.
unsafe impl EthtoolCommand for EthtoolChannels {}

impl Interface {
    /// Looks a device up.
    ///
    /// # Errors
    /// [`Error::NoInterface`] if there is none of this name here.
    pub fn by_name(name: &str) -> Result<Interface, Error> {
        let missing = |source| Error::NoInterface { interface: name.to_owned(), source };
        let c_name = CString::new(name).map_err(|_| missing(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: a NUL-terminated string that outlives the call.
        match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
            0 => Err(missing(io::Error::last_os_error())),
            index => Ok(Interface { name: name.to_owned(), index }),
        }
    }

    /// The name it had when it was looked up.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index in its network namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many receive queues are active now: queues 0 to n - 1 may receive packets. At least 1.
    ///
    /// # Errors
    /// As [`Interface::active_queues`].
    pub fn rx_queues(&self) -> Result<u32, Error> {
        self.active_queues().map(|queues| queues.receive)
    }

    /// How many queues are active now, in each direction. It may change at any time (`ethtool -L`); asking takes
    /// microseconds.
    ///
    /// Asks ethtool, and sysfs for drivers that do not answer it.
    ///
    /// # Errors
    /// [`Error::QueuesUnknown`] if neither says it.
    pub fn active_queues(&self) -> Result<ActiveQueues, Error> {
        let queues = match self.channels() {
            // Drivers count a pair of queues as combined, single ones as rx and tx; both may be used at once.
            Ok(channels) => Ok(ActiveQueues {
                receive: channels.rx_count.saturating_add(channels.combined_count),
                transmit: channels.tx_count.saturating_add(channels.combined_count),
            }),
            Err(source) => self.queues_in_sysfs().ok_or(source),
        };
        match queues {
            Ok(queues) if queues.receive > 0 && queues.transmit > 0 => Ok(queues),
            Ok(_) => Err(self.queues_unknown(io::ErrorKind::InvalidData.into())),
            Err(source) => Err(self.queues_unknown(source)),
        }
    }

    fn queues_unknown(&self, source: io::Error) -> Error {
        Error::QueuesUnknown { interface: self.name.clone(), source }
    }

    /// Switches an offload on or off, as `ethtool -K` does.
    ///
    /// # Errors
    /// [`Error::Offload`]: EPERM without CAP_NET_ADMIN, EOPNOTSUPP if the driver has it fixed.
    pub fn set_offload(&self, offload: Offload, on: bool) -> Result<(), Error> {
        let cmd = match offload {
            Offload::GenericReceive => ETHTOOL_SGRO,
            Offload::TcpSegmentation => ETHTOOL_STSO,
        };
        self.ethtool(&mut EthtoolValue { cmd, data: u32::from(on) }).map_err(|source| Error::Offload {
            interface: self.name.clone(),
            offload,
            on,
            source,
        })
    }

    fn channels(&self) -> io::Result<EthtoolChannels> {
        let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..Default::default() };
        self.ethtool(&mut channels)?;
        Ok(channels)
    }

    fn ethtool<T: EthtoolCommand>(&self, command: &mut T) -> io::Result<()> {
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: a descriptor just made and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a C struct of integers, arrays and a union of such; all zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // One byte stays 0: names have at most 15 bytes.
        let last = request.ifr_name.len() - 1;
        let name = request.ifr_name.iter_mut().take(last);
        name.zip(self.name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
        request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
        // SAFETY: `request` and the `command` it points to outlive the call. It is an `EthtoolCommand`, so the
        // kernel writes within it, and integers alone.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })?;
        Ok(())
    }

    fn queues_in_sysfs(&self) -> Option<ActiveQueues> {
        let folder = format!("/sys/class/net/{}", self.name);
        // sysfs shows the namespace in which it was mounted: another device of this name must not answer.
        let index = std::fs::read_to_string(format!("{folder}/ifindex")).ok()?;
        if index.trim().parse() != Ok(self.index) {
            return None;
        }
        let entries = std::fs::read_dir(format!("{folder}/queues")).ok()?;
        let names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let count = |prefix| u32::try_from(names.iter().filter(|name| name.starts_with(prefix)).count()).ok();
        Some(ActiveQueues { receive: count("rx-")?, transmit: count("tx-")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn unknown_devices_are_refused() {
        for name in ["no-such-device-here", "", "nul\0byte"] {
            assert!(matches!(Interface::by_name(name), Err(Error::NoInterface { .. })), "{name:?}");
        }
    }
}

//! The two ends of a test: a device to send on and a device to receive from, over AF_XDP or AF_PACKET.
//!
//! **AF_XDP** ([`xdp`]) where it can be: for sending in copy mode, which every driver has; for receiving by a program in native
//! mode on all receive queues, which takes *everything* that arrives on the device, so the kernel sees none of it.
//! **AF_PACKET** ([`packet`]) otherwise: a copy of each packet, by sendmmsg and recvmmsg. There the kernel sees the packets as
//! well and may answer them. Which one it is is part of every report, and so is why, if AF_XDP was not possible.
//!
//! Buffers that are filled for sending hold zeros behind what the caller wrote into them before: a generator writes headers and
//! stamps alone.
//!
//! Devices are looked up in a network namespace, by name; sockets stay there wherever the thread goes.

pub mod packet;
pub mod xdp;

use std::io;

use af_xdp::Interface;
use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::ifaddrs::getifaddrs;
use podgate_control::netlink::Namespace;

use packet::{PacketReceiver, PacketTransmitter};
use xdp::{XdpReceiver, XdpTransmitter};

/// Bytes of the longest packet that is sent.
pub const LONGEST: usize = 9216;

/// Which sockets to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Means {
    /// AF_XDP, or AF_PACKET where a device has no native XDP.
    Auto,
    /// AF_XDP or nothing.
    Xdp,
    /// AF_PACKET.
    Packet,
}

/// A device in a network namespace.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The namespace's name, path or nothing for the one we are in.
    pub netns: Option<String>,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "{} in {netns}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What the kernel counted for a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Packets received, those dropped by a program included.
    pub received: u64,
    /// Packets that were to be sent and were dropped.
    pub transmit_dropped: u64,
}

impl Device {
    /// Runs `work` in the device's namespace.
    ///
    /// # Errors
    /// If there is no such namespace, and those of `work`.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.netns {
            None => work(),
            Some(name) if name.contains('/') => Namespace::open_path(name.as_ref())?.run(work)?,
            Some(name) => Namespace::open(name)?.run(work)?,
        }
    }

    /// Its MAC address.
    ///
    /// # Errors
    /// If there is no such device, or it has none.
    pub fn mac(&self) -> Result<[u8; 6]> {
        let address = self.inside(|| Ok(self.link_address()?.addr()))?;
        address.with_context(|| format!("interface {}: it has no MAC address", self.name))
    }

    /// Must be called inside the namespace.
    fn link_address(&self) -> Result<nix::sys::socket::LinkAddr> {
        Interface::by_name(&self.name)?;
        let of_name = getifaddrs()?.filter(|one| one.interface_name == self.name);
        let mut links = of_name.filter_map(|one| one.address?.as_link_addr().copied());
        links.next().with_context(|| format!("interface {}: it has no link layer address", self.name))
    }

    /// What the kernel counted so far.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn counters(&self) -> Result<DeviceCounters> {
        // Not from /sys, which shows the namespace it was mounted in.
        let table = self.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line =
            table.lines().find_map(|line| line.trim_start().strip_prefix(&self.name)?.strip_prefix(':'));
        let line = line.with_context(|| format!("interface {}: not in /proc/net/dev", self.name))?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |place: usize| numbers.get(place).copied().unwrap_or(0);
        Ok(DeviceCounters { received: at(1), transmit_dropped: at(11) })
    }
}

/// Did packets go?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Yes, or they will with the next call.
    Fine,
    /// The device is down; they wait.
    Down,
}

/// The sending end.
pub enum Transmitter {
    /// Over AF_XDP.
    Xdp(Box<XdpTransmitter>),
    /// Over AF_PACKET, with the reason.
    Packet(Box<PacketTransmitter>, String),
}

impl Transmitter {
    /// Opens it.
    ///
    /// # Errors
    /// If there is no such device, it is busy, or a right is missing.
    pub fn open(device: &Device, means: Means) -> Result<Self> {
        device.inside(|| {
            let interface = Interface::by_name(&device.name)?;
            if means == Means::Packet {
                let packet = PacketTransmitter::open(device.link_address()?)?;
                return Ok(Self::Packet(Box::new(packet), "as asked for".to_owned()));
            }
            match XdpTransmitter::open(&interface) {
                Ok(xdp) => Ok(Self::Xdp(Box::new(xdp))),
                Err(error @ af_xdp::Error::Socket { .. }) if means == Means::Auto => Ok(Self::Packet(
                    Box::new(PacketTransmitter::open(device.link_address()?)?),
                    error.to_string(),
                )),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Puts up to `want` packets on their way. `fill` writes each into its buffer and returns its length, which may be longer
    /// than the buffer if the rest is zeros; 0 ends the burst. Returns how many.
    #[inline]
    pub fn burst(&mut self, want: usize, fill: impl FnMut(&mut [u8]) -> usize) -> Result<usize> {
        match self {
            Self::Xdp(link) => Ok(link.burst(want, fill)),
            Self::Packet(link, _) => link.burst(want, fill),
        }
    }

    /// Has the kernel send them.
    ///
    /// # Errors
    /// If the device is gone.
    #[inline]
    pub fn flush(&mut self) -> Result<Flushed> {
        match self {
            Self::Xdp(link) => link.flush(),
            Self::Packet(link, _) => link.burst(0, |_| 0).map(|_| Flushed::Fine),
        }
    }

    /// Packets that the kernel has not taken yet; each buffer of a packet of several counts.
    pub fn pending(&mut self) -> u64 {
        match self {
            Self::Xdp(link) => link.pending(),
            Self::Packet(link, _) => link.pending(),
        }
    }

    /// Longest packet that it sends.
    #[must_use]
    pub fn longest(&self) -> usize {
        match self {
            Self::Xdp(link) => link.longest(),
            Self::Packet(..) => LONGEST,
        }
    }

    /// How it works, for reports.
    #[must_use]
    pub fn means(&self) -> String {
        match self {
            Self::Xdp(_) => "AF_XDP, copy mode".to_owned(),
            Self::Packet(_, why) => format!("AF_PACKET, {why}"),
        }
    }
}

/// The receiving end.
pub enum Receiver {
    /// Over AF_XDP.
    Xdp(Box<XdpReceiver>),
    /// Over AF_PACKET, with the reason.
    Packet(Box<PacketReceiver>, String),
}

impl Receiver {
    /// Opens it.
    ///
    /// # Errors
    /// If there is no such device, it is busy, or a right is missing.
    pub fn open(device: &Device, means: Means) -> Result<Self> {
        device.inside(|| {
            let interface = Interface::by_name(&device.name)?;
            let packet = |why: String| -> Result<Self> {
                Ok(Self::Packet(Box::new(PacketReceiver::open(device.link_address()?)?), why))
            };
            if means == Means::Packet {
                return packet("as asked for".to_owned());
            }
            match XdpReceiver::open(&interface) {
                Ok(xdp) => Ok(Self::Xdp(Box::new(xdp))),
                // Devices that do not say how many queues they have are bridges, VLANs and the like.
                Err(
                    error @ (af_xdp::Error::NoNativeXdp { .. }
                    | af_xdp::Error::QueuesUnknown { .. }
                    | af_xdp::Error::Socket { .. }),
                ) if means == Means::Auto => {
                    let said = error.to_string();
                    let why = said.split_once("; ").map_or(said.as_str(), |(first, _)| first);
                    packet(why.to_owned())
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Takes what has arrived: when it was taken (nanoseconds of the monotonic clock), first bytes and length of each packet.
    /// Returns how many.
    ///
    /// # Errors
    /// If the device is gone.
    #[inline]
    pub fn receive(&mut self, sink: impl FnMut(u64, &[u8], usize)) -> Result<usize> {
        match self {
            Self::Xdp(link) => Ok(link.receive(sink)),
            Self::Packet(link, _) => link.receive(sink),
        }
    }

    /// Waits until something arrives or the time is over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, milliseconds: u16) -> Result<()> {
        match self {
            Self::Xdp(link) => link.wait(milliseconds),
            Self::Packet(link, _) => link.wait(milliseconds),
        }
    }

    /// Sends an answer. Whether it goes does not matter: who asked will ask again.
    pub fn answer(&mut self, frame: &[u8]) {
        match self {
            Self::Xdp(link) => link.answer(frame),
            Self::Packet(link, _) => link.answer(frame),
        }
    }

    /// Packets that arrived at the sockets and were lost there since they were opened, because the sink was too slow.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lost(&self) -> Result<u64> {
        match self {
            Self::Xdp(link) => link.lost(),
            Self::Packet(link, _) => Ok(link.lost()),
        }
    }

    /// How it works, for reports.
    #[must_use]
    pub fn means(&self) -> String {
        match self {
            Self::Xdp(link) => format!("AF_XDP, native, {} queue(s)", link.queues()),
            Self::Packet(_, why) => format!("AF_PACKET, {why}"),
        }
    }
}

/// What a system call said of a device that is no longer there, in words.
fn gone(error: io::Error, what: &str) -> anyhow::Error {
    match error.raw_os_error() {
        Some(code) if code == nix::errno::Errno::ENXIO as i32 || code == nix::errno::Errno::ENODEV as i32 => {
            anyhow::anyhow!("{what}: the device was deleted")
        }
        _ => anyhow::Error::new(error).context(what.to_owned()),
    }
}

//! Opening and closing devices: sockets on every queue, the steering program, and the frames they hold.
//!
//! All of it blocks for milliseconds and needs rights that workers do not have. A device is opened whole or not at all;
//! what was opened before a failure is closed again and its frames are back in the ledger. Pins keep a device shut while
//! no gateway runs; they are taken over at the next start.

use std::net::IpAddr;
use std::path::PathBuf;

use podgate_dataplane::af_xdp::{
    self, ActiveQueues, Attachment, FrameLedger, Interface, Pins, Region, Socket, SocketConfig, Steering,
    Umem,
};

use crate::ports::wires::ANCHOR;

/// Addresses that an uplink's table holds at most.
const UPLINK_ADDRESSES: u32 = 4096;

/// The packet memory and what it takes to open devices on it.
pub struct Devices {
    umem: Umem,
    ledger: FrameLedger,
    pins: PathBuf,
    config: SocketConfig,
}

/// Whose packets a device brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steer {
    /// All: a pod's or the host pair's.
    Everything,
    /// Those to these addresses: an uplink's.
    Addresses(Vec<IpAddr>),
}

/// An open device.
pub struct Device {
    /// For the workers, one for each receive queue, in order.
    pub sockets: Vec<Socket>,
    /// Keeps the program attached; dropped without detaching, the device stays shut.
    pub attachment: Attachment,
    /// The queues that were active when it was opened.
    pub queues: ActiveQueues,
}

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The frames are used up.
    #[error(
        "interface {interface} needs {needed} frames of the packet memory, {free} are free; raise the setting `frames`"
    )]
    Memory {
        /// The device.
        interface: String,
        /// For its fill rings.
        needed: usize,
        /// With nobody.
        free: usize,
    },
    /// Everything else.
    #[error(transparent)]
    AfXdp(#[from] af_xdp::Error),
}

impl Devices {
    /// Makes the packet memory and registers it on the anchor pair, which must be there.
    ///
    /// # Errors
    /// [`af_xdp::Error`], which names what is missing.
    pub fn new(frames: u32, ring_size: u32, pins: PathBuf) -> Result<Self, af_xdp::Error> {
        af_xdp::bpf::bpffs::ensure(&pins)?;
        let (region, ledger) = Region::new(frames)?;
        let umem = Umem::register(&region, &Interface::by_name(ANCHOR)?, 0)?;
        tracing::info!(
            frames, mebibytes = region.bytes() >> 20, huge_pages = region.huge_pages(), kernel = %umem.features(),
            "packet memory is registered"
        );
        let config = SocketConfig {
            receive: ring_size,
            transmit: ring_size,
            fill: ring_size,
            completion: ring_size,
            ..SocketConfig::default()
        };
        Ok(Self { umem, ledger, pins, config })
    }

    /// The packet memory.
    #[must_use]
    pub fn region(&self) -> Region {
        self.umem.region().clone()
    }

    /// The frames that opening a device takes at most.
    ///
    /// # Errors
    /// [`af_xdp::Error::NoInterface`] and others.
    pub fn frames_for(&self, interface: &str) -> Result<usize, af_xdp::Error> {
        Ok(self.config.fill as usize * Interface::by_name(interface)?.rx_queues()? as usize)
    }

    /// The owner of all frames that nobody holds.
    pub fn ledger(&mut self) -> &mut FrameLedger {
        &mut self.ledger
    }

    /// Opens every queue of a device and attaches the steering program, or takes over the one that is pinned.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing is open then, and what was pinned stays.
    pub fn open(&mut self, interface: &str, steer: &Steer, zero_copy: bool) -> Result<Device, DeviceError> {
        let device = Interface::by_name(interface)?;
        let needed = self.frames_for(interface)?;
        if self.ledger.free() < needed {
            return Err(DeviceError::Memory {
                interface: interface.to_owned(),
                needed,
                free: self.ledger.free(),
            });
        }
        let mut pool = self.ledger.pool(needed);
        let opened = self.open_with(&device, steer, zero_copy, &mut pool);
        self.ledger.give_back_pool(pool);
        Ok(opened?)
    }

    fn open_with(
        &mut self,
        device: &Interface,
        steer: &Steer,
        zero_copy: bool,
        pool: &mut af_xdp::FramePool,
    ) -> Result<Device, af_xdp::Error> {
        // Asked first: if there are more by the time that the sockets are there, this is what is noticed later.
        let queues = device.active_queues()?;
        let sockets = af_xdp::open_all(&self.umem, device, zero_copy, &self.config, pool)?;
        let steering = match steer {
            Steer::Everything => Steering::Everything,
            Steer::Addresses(addresses) => Steering::Addresses { addresses, capacity: UPLINK_ADDRESSES },
        };
        let pins = Pins::new(&self.pins, device.name());
        match Attachment::attach(device, steering, &sockets, Some(&pins)) {
            Ok(attachment) => Ok(Device { sockets, attachment, queues }),
            Err(error) => {
                for socket in sockets {
                    self.ledger.give_back(socket.close());
                }
                Err(error)
            }
        }
    }

    /// The devices that have pins, by name.
    #[must_use]
    pub fn pinned(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.pins) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| decode(name.strip_suffix("-link")?)).collect()
    }

    /// Removes the pins of a device that does not exist any more.
    pub fn forget(&self, interface: &str) {
        if let Err(error) = Pins::new(&self.pins, interface).remove() {
            tracing::warn!(interface, %error, "pins of a device that is gone are left");
        }
    }
}

/// A device's name out of its pin's: [`Pins`] writes bytes that a bpf file system refuses as `%` and two digits.
fn decode(pin: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = pin;
    while let Some((plain, coded)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(coded.get(..2)?, 16).ok()?);
        rest = coded.get(2..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_pins() {
        for name in ["veth0", "eth0.100", "a-b_c", "50%"] {
            let pins = format!("{:?}", Pins::new("/x", name));
            let coded = pins.split('"').nth_back(1).unwrap();
            assert_eq!(decode(coded).as_deref(), Some(name), "{pins}");
        }
        assert_eq!(decode("a%2"), None);
    }
}

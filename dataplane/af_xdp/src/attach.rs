//! Attaching a steering program to a device whose every active queue has a socket.
//!
//! **What it guarantees.** The program is attached in native mode, by a bpf_link, or not at all. It is attached only when
//! each active receive queue has a socket in the map: a queue without one would be a hole (or, with the fallback of these
//! programs, a silent loss). With [`Pins`], link and maps outlive the process: packets are dropped, not passed, until the
//! next start takes the link over from its pin, without a gap. Objects are only reached by their pins, never by their
//! identifiers, which would need CAP_SYS_ADMIN.
//!
//! Behind the program stands a barrier: what the program should have taken, and did not see, is dropped before it reaches the
//! kernel. veth does not run its program on queues that are activated while it is attached. Before Linux 6.6 there is no
//! barrier: then such queues pass their packets to the kernel until somebody notices ([`Attachment::renew`]).
//!
//! Taking over: the pinned maps are used again if they have the right shape, the new sockets are put in, and a freshly
//! loaded program replaces the attached one in the same link. A pinned link to a device that is gone (even if one of the
//! same name exists now) is removed.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use crate::bpf::link::{self, Link};
use crate::bpf::map::{HASH, XSKMAP};
use crate::bpf::steering::{self, AddressMap, SocketMap, Steering};
use crate::bpf::{Pin, Pins};
use crate::error::{Error, bpf_error};
use crate::interface::Interface;
use crate::socket::Socket;

/// Least size of the table of sockets: enough queues for any usual device, so that a pinned table still fits when a device
/// got more queues.
const MIN_QUEUES: u32 = 64;

/// A steering program attached to a device.
///
/// Dropping it leaves a pinned program attached: it drops packets as soon as the sockets are gone (closed). Without pins
/// dropping detaches. [`Attachment::detach`] detaches and removes the pins (open).
#[derive(Debug)]
pub struct Attachment {
    interface: Interface,
    link: Link,
    barrier: Option<Link>,
    sockets: SocketMap,
    addresses: Option<AddressMap>,
    pins: Option<Pins>,
    taken_over: bool,
}

impl Attachment {
    /// Attaches a program to `interface`, or takes the one over that is pinned. `sockets` must be bound to that interface.
    ///
    /// # Errors
    /// [`Error::QueuesUnbound`] names the active queues without socket. [`Error::OtherProgram`],
    /// [`Error::NoNativeXdp`], [`Error::MtuTooLarge`], [`Error::NoXdpLink`], [`Error::NotPermitted`] and others. Nothing new
    /// is attached then; what was pinned stays.
    pub fn attach(
        interface: &Interface,
        steering: Steering<'_>,
        sockets: &[Socket],
        pins: Option<&Pins>,
    ) -> Result<Attachment, Error> {
        let active = all_queues_bound(interface, sockets)?;
        if let Some(pins) = pins {
            pins.create_folder()?;
        }
        let old = adopt_link(interface, pins)?;
        let taken_over = old.is_some();
        // Maps without their link are left over from something that failed: begin anew.
        let usable = if taken_over { pins } else { None };
        let (socket_map, new_socket_map) =
            open_map(usable.map(Pins::sockets), XSKMAP, active.max(MIN_QUEUES), "sockets")?;
        for socket in sockets {
            set_socket(&socket_map, socket)?;
        }
        let mut new_address_map = false;
        let address_map = match steering {
            Steering::Everything => None,
            Steering::Addresses { addresses, capacity } => {
                let (map, new) = open_map(usable.map(Pins::addresses), HASH, capacity.max(1), "addresses")?;
                new_address_map = new;
                addresses.iter().try_for_each(|address| insert(&map, *address))?;
                Some(map)
            }
        };
        let program = steering::load(&socket_map, address_map.as_ref())?;
        let (barrier, new_barrier) = raise_barrier(interface, address_map.as_ref(), pins)?;
        let link = match old {
            Some(link) => {
                link.update(program.as_fd()).map_err(|e| bpf_error("replacing the attached program", e))?;
                link
            }
            None => {
                Link::create(program.as_fd(), interface.index()).map_err(|e| attach_error(interface, e))?
            }
        };
        if let Some(pins) = pins {
            // Maps first: a pinned link without pinned maps could not be taken over.
            if new_socket_map {
                repin(pins.sockets(), socket_map.as_fd())?;
            }
            match &address_map {
                Some(map) if new_address_map => repin(pins.addresses(), map.as_fd())?,
                Some(_) => {}
                None => pins.addresses().remove()?,
            }
            if !taken_over {
                repin(pins.link(), link.as_fd())?;
            }
            match &barrier {
                Some(barrier) if new_barrier => repin(pins.barrier(), barrier.as_fd())?,
                _ => {}
            }
        }
        let attachment = Attachment {
            interface: interface.clone(),
            link,
            barrier,
            sockets: socket_map,
            addresses: address_map,
            pins: pins.cloned(),
            taken_over,
        };
        // The number of queues may have been changed meanwhile; the kernel offers no way to hold it.
        if let Err(error) = all_queues_bound(interface, sockets) {
            // What was pinned stays, and drops: only what is new is undone.
            if !attachment.taken_over {
                attachment.detach()?;
            }
            return Err(error);
        }
        Ok(attachment)
    }

    /// The device.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Was a pinned link taken over, rather than a new one made?
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// Is what the program does not see kept from the kernel? False before Linux 6.6.
    pub fn barred(&self) -> bool {
        self.barrier.is_some()
    }

    /// Puts the program on the device's queues once more. To be called when queues were activated: the program of a veth is
    /// not run on these. Afterwards it is, and drops what they bring until they have sockets.
    ///
    /// # Errors
    /// [`Error::Bpf`] with the kernel's answer.
    pub fn renew(&self) -> Result<(), Error> {
        // The same program again would be nothing to do for the kernel, so it is loaded anew.
        let program = steering::load(&self.sockets, self.addresses.as_ref())?;
        self.link.update(program.as_fd()).map_err(|e| bpf_error("renewing the attached program", e))
    }

    /// Steers packets to this address to the sockets. Nothing to do, and fine, with [`Steering::Everything`].
    ///
    /// # Errors
    /// [`Error::AddressesFull`]; [`Error::Bpf`] with the kernel's answer.
    pub fn add_address(&self, address: IpAddr) -> Result<(), Error> {
        self.addresses.as_ref().map_or(Ok(()), |map| insert(map, address))
    }

    /// Lets packets to this address pass to the kernel again. Fine if it is not in the table.
    ///
    /// # Errors
    /// [`Error::Bpf`] with the kernel's answer.
    pub fn remove_address(&self, address: IpAddr) -> Result<(), Error> {
        let Some(map) = &self.addresses else { return Ok(()) };
        map.remove(steering::key(address))
            .map_err(|e| bpf_error(format!("removing {address} from the uplink's table"), e))
    }

    /// The addresses steered to the sockets, sorted; also those that an earlier process left in a table taken over.
    ///
    /// # Errors
    /// [`Error::Bpf`] with the kernel's answer.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let Some(map) = &self.addresses else { return Ok(Vec::new()) };
        let keys = map.keys().map_err(|e| bpf_error("reading the uplink's table of addresses", e))?;
        let mut addresses: Vec<IpAddr> = keys.into_iter().map(steering::address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    /// Makes the table hold exactly these addresses: adds first, then removes, so that those in both never leave it.
    ///
    /// # Errors
    /// As [`Attachment::add_address`]; part of the change may be done then.
    pub fn set_addresses(&self, wanted: &[IpAddr]) -> Result<(), Error> {
        wanted.iter().try_for_each(|address| self.add_address(*address))?;
        let old = self.addresses()?;
        old.iter()
            .filter(|address| !wanted.contains(address))
            .try_for_each(|address| self.remove_address(*address))
    }

    /// Detaches the program and removes its pins: from now on the device's packets go to the kernel.
    ///
    /// # Errors
    /// [`Error::Pin`] or [`Error::Bpf`] if that failed; the rest is done nevertheless. A device that is gone is no error.
    pub fn detach(self) -> Result<(), Error> {
        let name = self.interface.name();
        let gone = |error: &std::io::Error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV));
        let detach = |link: Link| match link.detach() {
            // The device is gone, and the link with it.
            Err(error) if gone(&error) => Ok(()),
            result => result.map_err(|e| bpf_error(format!("detaching a program of {name}"), e)),
        };
        let detached = detach(self.link).and(self.barrier.map_or(Ok(()), detach));
        let removed = self.pins.as_ref().map_or(Ok(()), Pins::remove);
        detached.and(removed)
    }
}

/// Attaches the barrier, or puts a fresh one in the place of that which is pinned. True if its link is new; none where the
/// kernel has no tcx hooks.
fn raise_barrier(
    interface: &Interface,
    addresses: Option<&AddressMap>,
    pins: Option<&Pins>,
) -> Result<(Option<Link>, bool), Error> {
    let failed =
        |e| bpf_error(format!("attaching the barrier behind the program of {}", interface.name()), e);
    let program = steering::load_barrier(addresses)?;
    let pinned = pins.map_or(Ok(None), |pins| pins.barrier().open())?;
    if let Some(link) = pinned.and_then(|fd| Link::adopt_tcx(fd, interface.index())) {
        link.update(program.as_fd()).map_err(failed)?;
        return Ok((Some(link), false));
    }
    match Link::create_tcx(program.as_fd(), interface.index()) {
        Ok(link) => Ok((Some(link), true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((None, false)),
        Err(error) => Err(failed(error)),
    }
}

/// Does each active receive queue have a socket? The number of active queues if so.
fn all_queues_bound(interface: &Interface, sockets: &[Socket]) -> Result<u32, Error> {
    let active = interface.rx_queues()?;
    let here =
        |queue| sockets.iter().any(|s| s.interface().index() == interface.index() && s.queue() == queue);
    let missing: Vec<u32> = (0..active).filter(|queue| !here(*queue)).collect();
    if missing.is_empty() {
        return Ok(active);
    }
    let bound = active - missing.len() as u32;
    Err(Error::QueuesUnbound { interface: interface.name().to_owned(), active, bound, missing })
}

/// The link pinned for this device. Pins that belong to a device that is gone are removed.
fn adopt_link(interface: &Interface, pins: Option<&Pins>) -> Result<Option<Link>, Error> {
    let Some(pins) = pins else { return Ok(None) };
    let Some(fd) = pins.link().open()? else { return Ok(None) };
    let link = Link::adopt(fd, interface.index());
    if link.is_none() {
        pins.remove()?;
    }
    Ok(link)
}

/// Opens the map pinned here if it has the right shape, otherwise makes one. True if it is new.
fn open_map<K: Copy + Default, V: Copy>(
    pin: Option<Pin>,
    kind: u32,
    entries: u32,
    name: &str,
) -> Result<(crate::bpf::map::Map<K, V>, bool), Error> {
    use crate::bpf::map::Map;
    let pinned = pin.map_or(Ok(None), |pin| pin.open())?;
    if let Some(map) = pinned.and_then(|fd| Map::adopt(fd, kind, entries)) {
        return Ok((map, false));
    }
    let map =
        Map::create(kind, entries, name).map_err(|e| bpf_error(format!("creating the map of {name}"), e))?;
    Ok((map, true))
}

fn set_socket(map: &SocketMap, socket: &Socket) -> Result<(), Error> {
    let (queue, name) = (socket.queue(), socket.interface().name());
    map.insert(queue, socket.as_fd().as_raw_fd() as u32)
        .map_err(|e| bpf_error(format!("putting the socket of {name} queue {queue} into the map"), e))
}

fn insert(map: &AddressMap, address: IpAddr) -> Result<(), Error> {
    map.insert(steering::key(address), 1).map_err(|error| match error.raw_os_error() {
        Some(libc::E2BIG) => Error::AddressesFull { address, capacity: map.max_entries() },
        _ => bpf_error(format!("adding {address} to the uplink's table"), error),
    })
}

/// Pins an object where something else may be pinned.
fn repin(pin: Pin, object: std::os::fd::BorrowedFd<'_>) -> Result<(), Error> {
    pin.remove()?;
    pin.create(object)
}

fn attach_error(interface: &Interface, source: std::io::Error) -> Error {
    let name = interface.name().to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => Error::OtherProgram { interface: name },
        Some(libc::EOPNOTSUPP) => Error::NoNativeXdp { interface: name, source },
        Some(libc::ERANGE) => Error::MtuTooLarge { interface: name },
        Some(libc::ENODEV) => Error::NoInterface { interface: name, source },
        Some(libc::EINVAL) if !link::is_known() => Error::NoXdpLink,
        _ => bpf_error(format!("attaching the steering program to {name}"), source),
    }
}

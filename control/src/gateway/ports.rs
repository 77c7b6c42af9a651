//! The ports that there should be, and those that there are.
//!
//! A port is wanted from the moment it is asked for until it is removed, whether its interface exists or not: what is
//! wanted and cannot be opened is told, and opened as soon as its interface appears. What says whose an address is does
//! not depend on the interface either.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use podgate_config::model::{ObjectName, PodUid};
use podgate_dataplane::af_xdp::{ActiveQueues, Attachment};
use podgate_dataplane::packet::{PortKind, WorkerId};
use podgate_dataplane::port::Shares;
use podgate_dataplane::snapshot::{Mac, PortEntry};

use super::resolve::PodPort;
use crate::admin::protocol::PortSpec;
use crate::netlink::{format_mac, parse_mac};
use crate::status::{PortErrors, PortFlows, PortFragments, PortNeighbours, PortState, PortStatus};

/// Port numbers go up to this; the snapshot's table is as long as the largest.
const MAX_PORTS: u16 = 4096;

/// What a port is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A pod's.
    Pod {
        /// Whose.
        port: PodPort,
        /// The pod's MAC address, if it was told.
        mac: Option<Mac>,
        /// Named by the settings, so not kept in the file.
        configured: bool,
    },
    /// Into the host stack.
    Host,
    /// To the outside.
    Uplink,
}

impl Purpose {
    /// The kind of port.
    #[must_use]
    pub fn kind(&self) -> PortKind {
        match self {
            Self::Pod { .. } => PortKind::Pod,
            Self::Host => PortKind::Host,
            Self::Uplink => PortKind::Uplink,
        }
    }
}

/// An open port.
pub struct Open {
    /// Its number.
    pub id: u16,
    /// Index of its interface.
    pub index: u32,
    /// Its queues, each with a socket.
    pub queues: ActiveQueues,
    /// Who serves them.
    pub shares: Shares,
    /// What the kernel says of the device.
    pub ends: Ends,
    /// Its steering program.
    pub attachment: Attachment,
}

/// What is known of the two ends of a device, and may change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The gateway's MAC address on it.
    pub mac: Mac,
    /// That of the other end; of no meaning for an uplink.
    pub peer_mac: Mac,
    /// Largest IP packet that may leave by it.
    pub mtu: u16,
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mac, peer) = (format_mac(self.mac), format_mac(self.peer_mac));
        write!(f, "MAC address {mac}, the other end's {peer}, MTU {}", self.mtu)
    }
}

/// What a port keeps when its device is opened anew: connections refer to its number, and follow from its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its number.
    pub id: u16,
    /// Who had its queues.
    pub shares: Shares,
}

/// A port that is wanted.
pub struct Wanted {
    /// What for.
    pub purpose: Purpose,
    /// Open, or why not.
    pub state: Result<Open, String>,
    /// Its place while it is not open for a moment.
    pub seat: Option<Seat>,
    /// How often the number of its queues has changed while it was open.
    pub queue_changes: u32,
}

/// Why a port cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// Not an interface name.
    #[error("interface {0:?} is no name of an interface, expected 1 to 15 characters without '/' and spaces")]
    Interface(String),
    /// Not `namespace/name`.
    #[error("pod {0:?}: expected namespace/name")]
    Pod(String),
    /// None, or two of one family, or one that no pod can have.
    #[error("addresses {0:?}: expected one IPv4 address, one IPv6 address, or one of each, all unicast")]
    Addresses(Vec<IpAddr>),
    /// An empty UID.
    #[error("uid: is empty, expected the pod's metadata.uid, or none at all")]
    Uid,
    /// Not a MAC address.
    #[error("mac {0:?}: expected six pairs of hexadecimal digits, as in 02:00:00:00:00:01")]
    Mac(String),
    /// The interface is in use.
    #[error("interface {0} is a port already; remove it first: podgate port remove --interface {0}")]
    InterfaceTaken(String),
    /// The pod has another port.
    #[error(
        "pod {pod} has the port {interface} already; remove it first: podgate port remove --interface {interface}"
    )]
    PodTaken {
        /// The pod.
        pod: ObjectName,
        /// Its port.
        interface: String,
    },
    /// The address is another pod's.
    #[error("address {address} belongs to the port {interface} of pod {pod}; remove that first")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Whose port has it.
        interface: String,
        /// Whose that is.
        pod: ObjectName,
    },
}

/// All ports that are wanted, by interface.
#[derive(Default)]
pub struct PortTable {
    ports: BTreeMap<String, Wanted>,
    next: u16,
}

/// Checks a request and puts it into the gateway's terms.
///
/// # Errors
/// [`InvalidPort`].
pub fn parse(spec: &PortSpec, configured: bool) -> Result<Purpose, InvalidPort> {
    let name = &spec.interface;
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if name.is_empty() || name.len() > 15 || !name.chars().all(plain) || name == "." || name == ".." {
        return Err(InvalidPort::Interface(name.clone()));
    }
    let pod = spec
        .pod
        .split_once('/')
        .and_then(|(namespace, name)| ObjectName::parse(namespace, name).ok())
        .ok_or_else(|| InvalidPort::Pod(spec.pod.clone()))?;
    let families: BTreeSet<bool> = spec.addresses.iter().map(IpAddr::is_ipv4).collect();
    if spec.addresses.is_empty()
        || families.len() != spec.addresses.len()
        || !spec.addresses.iter().all(is_unicast)
    {
        return Err(InvalidPort::Addresses(spec.addresses.clone()));
    }
    let mac = match &spec.mac {
        Some(text) => Some(parse_mac(text).ok_or_else(|| InvalidPort::Mac(text.clone()))?),
        None => None,
    };
    let uid = spec.uid.as_deref().map(PodUid::parse).transpose().map_err(|_| InvalidPort::Uid)?;
    Ok(Purpose::Pod { port: PodPort { pod, uid, addresses: spec.addresses.clone() }, mac, configured })
}

fn is_unicast(address: &IpAddr) -> bool {
    let broadcast = IpAddr::from_str("255.255.255.255").is_ok_and(|all| all == *address);
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !broadcast
}

impl PortTable {
    /// Wants one more port, not open yet. `true` if it is new; the same port again is fine.
    ///
    /// # Errors
    /// [`InvalidPort`] if it does not fit with those that there are.
    pub fn want(&mut self, interface: &str, purpose: Purpose) -> Result<bool, InvalidPort> {
        if let Some(known) = self.ports.get(interface) {
            let same = match (&known.purpose, &purpose) {
                (Purpose::Pod { port, .. }, Purpose::Pod { port: other, .. }) => port == other,
                (known, purpose) => known == purpose,
            };
            return if same { Ok(false) } else { Err(InvalidPort::InterfaceTaken(interface.to_owned())) };
        }
        if let Purpose::Pod { port: new, .. } = &purpose {
            for (interface, wanted) in &self.ports {
                let Purpose::Pod { port, .. } = &wanted.purpose else { continue };
                if port.pod == new.pod {
                    return Err(InvalidPort::PodTaken {
                        pod: port.pod.clone(),
                        interface: interface.clone(),
                    });
                }
                if let Some(address) = new.addresses.iter().find(|address| port.addresses.contains(address)) {
                    let (interface, pod) = (interface.clone(), port.pod.clone());
                    return Err(InvalidPort::AddressTaken { address: *address, interface, pod });
                }
            }
        }
        let state = Err("not opened yet".to_owned());
        self.ports.insert(interface.to_owned(), Wanted { purpose, state, seat: None, queue_changes: 0 });
        Ok(true)
    }

    /// No longer wants a port.
    pub fn remove(&mut self, interface: &str) -> Option<Wanted> {
        self.ports.remove(interface)
    }

    /// A port.
    #[must_use]
    pub fn get(&self, interface: &str) -> Option<&Wanted> {
        self.ports.get(interface)
    }

    /// A port, to change its state.
    pub fn get_mut(&mut self, interface: &str) -> Option<&mut Wanted> {
        self.ports.get_mut(interface)
    }

    /// All of them, by interface.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Wanted)> {
        self.ports.iter()
    }

    /// All of them, given away.
    pub fn into_all(self) -> impl Iterator<Item = (String, Wanted)> {
        self.ports.into_iter()
    }

    /// The open ones.
    pub fn open(&self) -> impl Iterator<Item = (&String, &Purpose, &Open)> {
        self.ports.iter().filter_map(|(interface, wanted)| {
            wanted.state.as_ref().ok().map(|open| (interface, &wanted.purpose, open))
        })
    }

    /// The pods' ports, open or not, as far as identity goes.
    #[must_use]
    pub fn pods(&self) -> Vec<PodPort> {
        self.ports
            .values()
            .filter_map(|wanted| match &wanted.purpose {
                Purpose::Pod { port, .. } => Some(port.clone()),
                _ => None,
            })
            .collect()
    }

    /// What has to be kept over a restart.
    #[must_use]
    pub fn to_keep(&self) -> Vec<PortSpec> {
        self.ports
            .iter()
            .filter_map(|(interface, wanted)| match &wanted.purpose {
                Purpose::Pod { port, mac, configured: false } => Some(PortSpec {
                    interface: interface.clone(),
                    pod: port.pod.to_string(),
                    uid: port.uid.as_ref().map(|uid| uid.as_str().to_owned()),
                    addresses: port.addresses.clone(),
                    mac: mac.map(format_mac),
                }),
                _ => None,
            })
            .collect()
    }

    /// A number that no port has, and that was not used lately: packets under way still carry the old ones. If possible none
    /// of those that `is_charged`: connections may outlive the port that they are charged to, and whoever has its number
    /// would pay for them. `None` if all are in use.
    pub fn free_id(&mut self, is_charged: impl Fn(u16) -> bool) -> Option<u16> {
        let kept = self.ports.values().filter_map(|wanted| wanted.seat.map(|seat| seat.id));
        let used: BTreeSet<u16> = self.open().map(|(_, _, open)| open.id).chain(kept).collect();
        let in_turn = (self.next..MAX_PORTS).chain(0..self.next).filter(|id| !used.contains(id));
        let id = in_turn.clone().find(|id| !is_charged(*id)).or_else(|| in_turn.clone().next())?;
        self.next = (id + 1) % MAX_PORTS;
        Some(id)
    }

    /// The worker with the fewest ports, or shares of them. The host port counts like any: what it carries is not known, and were it to count for
    /// more, two pods could share one worker while another has the idle host port alone.
    #[must_use]
    pub fn least_loaded(&self, workers: usize) -> WorkerId {
        let mut load = vec![0usize; workers.max(1)];
        for (_, _, open) in self.open() {
            for worker in open.shares.workers() {
                if let Some(load) = load.get_mut(usize::from(worker.0)) {
                    *load += 1;
                }
            }
        }
        let least = load.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(worker, _)| worker);
        WorkerId(u8::try_from(least).unwrap_or_default())
    }

    /// The entries of a snapshot, and the ports of pods. `closed` are the pods whose port is closed, `identity` gives
    /// their numbers.
    pub fn entries(
        &self,
        closed: &BTreeMap<ObjectName, String>,
        identity: impl Fn(&ObjectName) -> u32,
    ) -> (BTreeMap<u16, PortEntry>, BTreeMap<ObjectName, u16>) {
        let mut entries = BTreeMap::new();
        let mut pods = BTreeMap::new();
        for (_, purpose, open) in self.open() {
            let mut entry = PortEntry {
                kind: purpose.kind(),
                worker: open.shares.home(),
                spread: open.shares.spread(),
                mac: open.ends.mac,
                peer_mac: open.ends.peer_mac,
                mtu: open.ends.mtu,
                closed: false,
                addresses: Box::default(),
                identity: 0,
            };
            if let Purpose::Pod { port, .. } = purpose {
                entry.closed = closed.contains_key(&port.pod);
                entry.addresses = port.addresses.clone().into();
                entry.identity = identity(&port.pod);
                pods.insert(port.pod.clone(), open.id);
            }
            entries.insert(open.id, entry);
        }
        (entries, pods)
    }

    /// For `podgate status`.
    #[must_use]
    pub fn status(&self, closed: &BTreeMap<ObjectName, String>) -> Vec<PortStatus> {
        let mut ports: Vec<PortStatus> =
            self.ports.iter().map(|(interface, wanted)| status_of(interface, wanted, closed)).collect();
        // The few that everything depends on first.
        ports.sort_by_key(|port| port.pod.is_some());
        ports
    }
}

/// One port for `podgate status`.
#[must_use]
pub fn status_of(interface: &str, wanted: &Wanted, closed: &BTreeMap<ObjectName, String>) -> PortStatus {
    let (pod, addresses) = match &wanted.purpose {
        Purpose::Pod { port, .. } => (Some(&port.pod), port.addresses.clone()),
        _ => (None, Vec::new()),
    };
    let open = wanted.state.as_ref().ok();
    let (state, detail) = match (&wanted.state, pod.and_then(|pod| closed.get(pod))) {
        (Err(reason), _) => (PortState::Down, Some(reason.clone())),
        (Ok(_), Some(reason)) => (PortState::Closed, Some(reason.clone())),
        (Ok(_), None) => (PortState::Up, None),
    };
    PortStatus {
        interface: interface.to_owned(),
        kind: wanted.purpose.kind().name().to_owned(),
        id: open.map(|open| open.id),
        pod: pod.map(ToString::to_string),
        addresses,
        mac: open.map(|open| format_mac(open.ends.peer_mac)),
        workers: open
            .map(|open| (0..open.queues.receive).map(|queue| open.shares.owner(queue).0).collect())
            .unwrap_or_default(),
        queue_changes: wanted.queue_changes,
        state,
        detail,
        flows: PortFlows::default(),
        fragments: PortFragments::default(),
        errors: PortErrors::default(),
        neighbours: PortNeighbours::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(interface: &str, pod: &str, addresses: &[&str]) -> PortSpec {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        PortSpec { interface: interface.into(), pod: pod.into(), uid: None, addresses, mac: None }
    }

    fn want(table: &mut PortTable, spec: &PortSpec) -> Result<bool, InvalidPort> {
        table.want(&spec.interface, parse(spec, false)?)
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |spec: &PortSpec| parse(spec, false).unwrap_err().to_string();
        assert!(refused(&spec("a/b", "shop/web", &["10.0.0.1"])).contains("interface"));
        assert!(refused(&spec("veth0", "web", &["10.0.0.1"])).contains("namespace/name"));
        for addresses in [&[][..], &["10.0.0.1", "10.0.0.2"], &["224.0.0.1"], &["::"]] {
            assert!(refused(&spec("veth0", "shop/web", addresses)).contains("addresses"), "{addresses:?}");
        }
        let bad_mac = PortSpec { mac: Some("02:00".into()), ..spec("veth0", "shop/web", &["10.0.0.1"]) };
        assert!(refused(&bad_mac).contains("02:00"));
    }

    #[test]
    fn interfaces_pods_and_addresses_belong_to_one_port() {
        let mut table = PortTable::default();
        let web = spec("veth0", "shop/web", &["10.0.0.1", "fd00::1"]);
        assert_eq!(want(&mut table, &web), Ok(true));
        assert_eq!(want(&mut table, &web), Ok(false), "asked for twice is asked for once");
        let error = |table: &mut PortTable, spec| want(table, &spec).unwrap_err();
        assert!(matches!(
            error(&mut table, spec("veth0", "shop/db", &["10.0.0.2"])),
            InvalidPort::InterfaceTaken(_)
        ));
        assert!(matches!(
            error(&mut table, spec("veth1", "shop/web", &["10.0.0.2"])),
            InvalidPort::PodTaken { .. }
        ));
        assert!(matches!(
            error(&mut table, spec("veth1", "shop/db", &["fd00::1"])),
            InvalidPort::AddressTaken { .. }
        ));
        assert_eq!(table.to_keep(), [web]);
        assert!(table.remove("veth0").is_some());
        assert!(table.to_keep().is_empty());
    }

    #[test]
    fn numbers_are_not_used_again_at_once() {
        let mut table = PortTable::default();
        let free = |table: &mut PortTable| table.free_id(|_| false);
        assert_eq!((free(&mut table), free(&mut table)), (Some(0), Some(1)));
    }

    #[test]
    fn numbers_that_connections_are_charged_to_are_used_last() {
        let mut table = PortTable::default();
        let charged = |id| (1..MAX_PORTS - 1).contains(&id);
        let free = |table: &mut PortTable| table.free_id(charged);
        assert_eq!((free(&mut table), free(&mut table)), (Some(0), Some(MAX_PORTS - 1)));
        assert_eq!((free(&mut table), free(&mut table)), (Some(0), Some(MAX_PORTS - 1)));
        assert_eq!(table.free_id(|_| true), Some(0), "rather than none");
        assert_eq!(table.free_id(|_| true), Some(1));
    }
}

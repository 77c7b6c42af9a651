//! What the node's kernel knows, followed over netlink: links, addresses, neighbours, routes.
//!
//! Listed once after the subscription has begun, then kept up to date event by event, and listed again when the kernel
//! had more to say than was read. Everything here is by interface index: a name may go to another device.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{Event, Link, MacAddress, Neighbour, Netlink, NetlinkError, Nexthop, Route};

/// The kernel's tables as of the last event.
#[derive(Debug, Default)]
pub struct KernelView {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr)>,
    neighbours: BTreeMap<(u32, IpAddr), MacAddress>,
    routes: Vec<Route>,
}

/// What an event means for the gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The snapshot has to be built anew: addresses, neighbours or routes are others.
    pub changed: bool,
    /// Addresses of this kernel are.
    pub addresses: bool,
    /// This link is gone.
    pub gone: Option<u32>,
    /// This link is new, or was renamed.
    pub appeared: Option<String>,
    /// Events were lost: list again.
    pub relist: bool,
}

/// How to reach an address by a link of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// It is a neighbour itself.
    OnLink,
    /// By this neighbour.
    Via(IpAddr),
}

impl KernelView {
    /// Lists everything.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn list(netlink: &Netlink) -> Result<Self, NetlinkError> {
        let mut view = Self::default();
        for link in netlink.links().await? {
            view.links.insert(link.index, link);
        }
        for address in netlink.addresses().await? {
            view.addresses.insert((address.index, address.address));
        }
        for neighbour in netlink.neighbours().await? {
            view.set_neighbour(&neighbour);
        }
        view.routes = netlink.routes().await?;
        Ok(view)
    }

    /// Takes an event over.
    pub fn apply(&mut self, event: Event) -> Applied {
        let mut applied = Applied::default();
        match event {
            Event::Link(link) => {
                let known = self.links.insert(link.index, link.clone());
                if known.as_ref().is_none_or(|known| known.name != link.name) {
                    applied.appeared = Some(link.name);
                }
            }
            Event::LinkGone(link) => {
                self.links.remove(&link.index);
                self.addresses.retain(|(index, _)| *index != link.index);
                self.neighbours.retain(|(index, _), _| *index != link.index);
                applied.gone = Some(link.index);
            }
            Event::Address(address) => {
                applied.addresses = self.addresses.insert((address.index, address.address));
            }
            Event::AddressGone(address) => {
                applied.addresses = self.addresses.remove(&(address.index, address.address));
            }
            Event::Neighbour(neighbour) => applied.changed = self.set_neighbour(&neighbour),
            Event::NeighbourGone(neighbour) => {
                applied.changed = self.neighbours.remove(&(neighbour.index, neighbour.address)).is_some();
            }
            Event::Route(route) => {
                if !self.routes.contains(&route) {
                    self.routes.push(route);
                    applied.changed = true;
                }
            }
            Event::RouteGone(route) => {
                let before = self.routes.len();
                self.routes.retain(|other| *other != route);
                applied.changed = self.routes.len() != before;
            }
            Event::Overrun => applied.relist = true,
        }
        applied.changed |= applied.addresses;
        applied
    }

    /// True if that is news.
    fn set_neighbour(&mut self, neighbour: &Neighbour) -> bool {
        let key = (neighbour.index, neighbour.address);
        match neighbour.mac {
            Some(mac) => self.neighbours.insert(key, mac) != Some(mac),
            None => self.neighbours.remove(&key).is_some(),
        }
    }

    /// The link of this name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The addresses of this kernel that may be the source of something that comes by the host port: not those of
    /// loopback, which are on no wire, nor link-local ones, which the kernel does not use towards a pod.
    #[must_use]
    pub fn local_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses
            .iter()
            .map(|(_, address)| *address)
            .filter(|address| {
                let link_local = match address {
                    IpAddr::V4(v4) => v4.is_link_local(),
                    IpAddr::V6(v6) => v6.is_unicast_link_local(),
                };
                !address.is_loopback() && !address.is_unspecified() && !link_local
            })
            .collect()
    }

    /// Is this neighbour known?
    pub fn knows(&self, index: u32, address: IpAddr) -> bool {
        self.neighbours.contains_key(&(index, address))
    }

    /// Who is known on this link.
    pub fn neighbours(&self, index: u32) -> impl Iterator<Item = (IpAddr, MacAddress)> {
        self.neighbours
            .iter()
            .filter(move |((link, _), _)| *link == index)
            .map(|((_, address), mac)| (*address, *mac))
    }

    /// How the kernel reaches `network` by this link, and the prefix length of the route that says so: the most specific
    /// one that holds all of it. `None` if it has none by this link.
    #[must_use]
    pub fn next_hop(&self, network: IpNet, index: u32) -> Option<(NextHop, u8)> {
        self.routes
            .iter()
            .filter(|route| route.destination.contains(&network))
            .filter_map(|route| {
                let length = route.destination.prefix_len();
                match route.nexthop {
                    Nexthop::Link { index: by } if by == index => Some((NextHop::OnLink, length)),
                    Nexthop::Gateway { index: by, address } if by == index => {
                        Some((NextHop::Via(address), length))
                    }
                    _ => None,
                }
            })
            .max_by_key(|(_, length)| *length)
    }
}

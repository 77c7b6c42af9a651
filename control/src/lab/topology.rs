//! The lab's wires: network namespaces and veth pairs of the node, the pods and the externals.
//!
//! The node's ends have IPv6 switched off and no address: whatever comes in there belongs to the gateway, and the
//! kernel must neither answer nor chatter on a pod's wire. Nothing here routes to a pod; the only way to one is
//! through the gateway. The pods' ends have the offloads that a container runtime leaves them, and receive in larger portions:
//! see `receive_in_portions`.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use podgate_dataplane::af_xdp::{self, Interface, Offload};

use super::plan::{External, GATEWAY_V4, GATEWAY_V6, HOSTS_MARK, LabPod, NODE_NAMESPACE};
use super::state::ETC_NETNS;
use crate::netlink::{
    Link, Namespace, NeighbourKind, Netlink, NetlinkError, Route, VethEnd, VethPair, write_sysctl,
};

/// The interface of pods and externals.
pub const POD_INTERFACE: &str = "eth0";

/// The node's side of everything.
pub struct Node {
    namespace: Namespace,
    netlink: Netlink,
    mtu: u16,
    uplink_queues: u32,
}

impl Node {
    /// Makes the node's namespace with its addresses. `uplink_queues`: those of an external's wire each way; a pod's has one.
    ///
    /// # Errors
    /// The kernel's; EEXIST if the namespace exists.
    pub async fn create(addresses: &[IpAddr], mtu: u16, uplink_queues: u32) -> Result<Self, NetlinkError> {
        let namespace = Namespace::create(NODE_NAMESPACE)?;
        prepare_ipv6(&namespace)?;
        let netlink = Netlink::connect_in(&namespace)?;
        let loopback = loopback_up(&netlink).await?;
        for address in addresses {
            netlink.add_address(loopback.index, *address, full_length(*address)).await?;
        }
        Ok(Self { namespace, netlink, mtu, uplink_queues })
    }

    /// The node's namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Makes a pod's namespace and wire, ready for the gateway to attach to.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn create_pod(&self, pod: &LabPod) -> Result<Namespace, NetlinkError> {
        let namespace = Namespace::create(&pod.netns)?;
        self.wire(&namespace, &pod.interface, &pod.addresses).await?;
        Ok(namespace)
    }

    /// Makes an external's namespace and wire. Its neighbours are told to both sides, so nobody has to ask.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn create_external(
        &self,
        external: &External,
        node: &[IpAddr],
    ) -> Result<Namespace, NetlinkError> {
        let namespace = Namespace::create(&external.namespace())?;
        let addresses = external.addresses();
        let (near, far) = self.wire(&namespace, &external.interface(), &addresses).await?;
        let inside = Netlink::connect_in(&namespace)?;
        if let Some(mac) = near.mac {
            for gateway in [GATEWAY_V4.into(), GATEWAY_V6.into()] {
                inside.set_neighbour(far.index, gateway, NeighbourKind::Permanent(mac)).await?;
            }
        }
        for address in addresses {
            if let Some(mac) = far.mac {
                self.netlink.set_neighbour(near.index, address, NeighbourKind::Permanent(mac)).await?;
            }
            let source = node.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4());
            self.netlink.add_route(&Route { source, ..Route::host(address, near.index) }).await?;
        }
        Ok(namespace)
    }

    /// Takes a pod's wire and namespace away. What runs in there keeps a namespace without interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_pod(&self, pod: &LabPod) -> Result<(), NetlinkError> {
        self.netlink.delete_link(&pod.interface).await?;
        Namespace::delete(&pod.netns)?;
        Ok(())
    }

    /// A veth pair from `interface` in the node to [`POD_INTERFACE`] in `namespace`, both up, with addresses and
    /// default routes at the far end.
    async fn wire(
        &self,
        namespace: &Namespace,
        interface: &str,
        addresses: &[IpAddr],
    ) -> Result<(Link, Link), NetlinkError> {
        prepare_ipv6(namespace)?;
        let inside = Netlink::connect_in(namespace)?;
        loopback_up(&inside).await?;
        let uplink = interface.starts_with("up-");
        let pair = VethPair {
            mtu: self.mtu.into(),
            queues: if uplink { self.uplink_queues } else { 1 },
            near: VethEnd { name: interface, mac: None, namespace: None },
            far: VethEnd { name: POD_INTERFACE, mac: None, namespace: Some(namespace) },
        };
        self.netlink.create_veth(&pair).await?;
        self.namespace.run(|| {
            // The kernel answers on an uplink: it is the node's own network card.
            let value = if uplink { "0" } else { "1" };
            write_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), value)
        })??;
        let near = expect(&self.netlink, interface).await?;
        let far = expect(&inside, POD_INTERFACE).await?;
        if uplink {
            self.netlink.add_address(near.index, GATEWAY_V6.into(), 64).await?;
        }
        for address in addresses {
            inside.add_address(far.index, *address, full_length(*address)).await?;
        }
        if uplink {
            self.netlink.set_up(near.index).await?;
        }
        inside.set_up(far.index).await?;
        if let Err(error) = self.receive_in_portions(namespace, interface) {
            tracing::warn!(interface, "{error}; TCP into this namespace will be slower than it could be");
        }
        for gateway in [IpAddr::from(GATEWAY_V4), IpAddr::from(GATEWAY_V6)] {
            if addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
                inside.add_route(&Route::default_by(gateway, far.index)).await?;
            }
        }
        Ok((near, far))
    }

    /// Has the far end put TCP segments together before its stack sees them (GRO), in a kernel thread of its own, so that
    /// there is more than one at a time. Otherwise each packet goes through the stack alone, on the worker's core, inside the
    /// system call by which the worker sent it, and every second one is acknowledged by a packet back through the gateway.
    /// A veth end does so only for packets of a device that does not segment itself, so that goes off at the near end; the
    /// gateway never has it do so. The far end must be up: it has nothing to make a thread for otherwise.
    fn receive_in_portions(&self, namespace: &Namespace, interface: &str) -> Result<(), PortionsError> {
        self.namespace
            .run(|| Interface::by_name(interface)?.set_offload(Offload::TcpSegmentation, false))??;
        namespace.run(|| Interface::by_name(POD_INTERFACE)?.set_offload(Offload::GenericReceive, true))??;
        namespace.write_device_attribute(POD_INTERFACE, "threaded", "1")?;
        Ok(())
    }
}

/// Why a wire's far end receives packet by packet.
#[derive(Debug, thiserror::Error)]
enum PortionsError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Offload(#[from] af_xdp::Error),
}

/// Addresses must be usable at once: nobody else can have one that a lab assigned.
fn prepare_ipv6(namespace: &Namespace) -> Result<(), NetlinkError> {
    namespace.run(|| {
        for scope in ["all", "default"] {
            write_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        Ok(())
    })?
}

async fn loopback_up(netlink: &Netlink) -> Result<Link, NetlinkError> {
    let loopback = expect(netlink, "lo").await?;
    netlink.set_up(loopback.index).await?;
    Ok(loopback)
}

async fn expect(netlink: &Netlink, name: &str) -> Result<Link, NetlinkError> {
    netlink.link(name).await?.ok_or_else(|| NetlinkError {
        operation: format!("look the link {name} up"),
        source: io::Error::from(io::ErrorKind::NotFound),
    })
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Writes the hosts file that `ip netns exec` puts over /etc/hosts in `netns`. Written in place: shells that are
/// in there see the new content.
///
/// # Errors
/// The file system's; `AlreadyExists` for a file that is not a lab's.
pub fn write_hosts(netns: &str, text: &str) -> io::Result<()> {
    let folder = Path::new(ETC_NETNS).join(netns);
    fs::create_dir_all(&folder)?;
    let path = folder.join("hosts");
    match fs::read_to_string(&path) {
        Ok(old) if old == text => return Ok(()),
        Ok(old) if !old.is_empty() && !old.starts_with(HOSTS_MARK) => {
            let message = format!("{} is not a lab's; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        _ => {}
    }
    let mut file = fs::File::options().write(true).create(true).truncate(true).open(&path)?;
    file.write_all(text.as_bytes())
}

/// Removes it, and its folder if nothing else is there.
pub fn remove_hosts(netns: &str) {
    let folder = Path::new(ETC_NETNS).join(netns);
    let path = folder.join("hosts");
    if fs::read_to_string(&path).is_ok_and(|text| text.is_empty() || text.starts_with(HOSTS_MARK)) {
        // What cannot be removed is found again by its mark.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&folder);
        let _ = fs::remove_dir(ETC_NETNS);
    }
}

/// Namespaces that have a hosts file of a lab: what a lab left whose state file is lost.
#[must_use]
pub fn marked_namespaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir(ETC_NETNS) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let path = Path::new(ETC_NETNS).join(name).join("hosts");
            fs::read_to_string(path).is_ok_and(|text| text.starts_with(HOSTS_MARK))
        })
        .collect()
}

//! Links: veth pairs, look-ups, up and down.

use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::time::Duration;

use futures::TryStreamExt;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Namespace, Netlink, NetlinkError};

/// Milliseconds that a link is given to carry packets after both ends are up; it takes less than one.
const PATIENCE_RUNNING: u32 = 100;

/// An Ethernet address, first byte first.
pub type MacAddress = [u8; 6];

/// `02:00:00:00:00:01`.
#[must_use]
pub fn format_mac(mac: MacAddress) -> String {
    let mut text = String::with_capacity(17);
    for (i, byte) in mac.iter().enumerate() {
        let separator = if i == 0 { "" } else { ":" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{byte:02x}");
    }
    text
}

/// The inverse of [`format_mac`]: six pairs of hexadecimal digits between colons.
#[must_use]
pub fn parse_mac(text: &str) -> Option<MacAddress> {
    let mut mac = MacAddress::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// What the kernel says of a link, as far as a gateway cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Its own address, if it has an Ethernet one.
    pub mac: Option<MacAddress>,
    /// Bytes after the Ethernet header.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Both ends are up.
    pub carrier: bool,
    /// The kernel's queues have heard of that: what is sent is not lost any more. A moment later than `carrier`.
    pub running: bool,
    /// RX queues allocated; the active ones may be fewer.
    pub rx_queues: u32,
    /// TX queues allocated; the active ones may be fewer.
    pub tx_queues: u32,
    /// `veth`, `dummy`, ...; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the link that this one belongs to; of a veth, the other end.
    pub peer_index: Option<u32>,
    /// This namespace's number for the namespace that the peer lives in; `None` if it is the same.
    pub peer_namespace: Option<i32>,
}

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            running: false,
            rx_queues: 1,
            tx_queues: 1,
            kind: None,
            peer_index: None,
            peer_namespace: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::NumRxQueues(count) => link.rx_queues = *count,
                LinkAttribute::NumTxQueues(count) => link.tx_queues = *count,
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(*id),
                LinkAttribute::OperState(State::Up) => link.running = true,
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Interface name, at most 15 bytes.
    pub name: &'a str,
    /// Its address; the kernel chooses one if left out.
    pub mac: Option<MacAddress>,
    /// Where it is put; the connection's namespace if left out.
    pub namespace: Option<&'a Namespace>,
}

/// A veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    /// Bytes after the Ethernet header, both ends.
    pub mtu: u32,
    /// Queues each way of both ends, all of them active. With one, one socket sees everything that comes in.
    pub queues: u32,
    /// This end.
    pub near: VethEnd<'a>,
    /// The other end.
    pub far: VethEnd<'a>,
}

/// What to change on a link; what is `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkSettings {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Bytes after the Ethernet header.
    pub mtu: Option<u32>,
    /// Its own address.
    pub mac: Option<MacAddress>,
}

impl std::fmt::Display for LinkSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up = self.up.map(|up| if up { "up".to_owned() } else { "down".to_owned() });
        let mtu = self.mtu.map(|mtu| format!("MTU {mtu} of"));
        let mac = self.mac.map(|mac| format!("MAC address {} of", format_mac(mac)));
        let all: Vec<String> = [up, mtu, mac].into_iter().flatten().collect();
        f.write_str(&all.join(", "))
    }
}

impl Netlink {
    /// Makes a veth pair, both ends down.
    ///
    /// # Errors
    /// The kernel's; EEXIST if a name is taken.
    pub async fn create_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        fn end<T>(
            mut builder: LinkMessageBuilder<T>,
            end: &VethEnd<'_>,
            pair: &VethPair<'_>,
        ) -> LinkMessageBuilder<T> {
            builder = builder
                .name(end.name)
                .mtu(pair.mtu)
                .append_extra_attribute(LinkAttribute::NumRxQueues(pair.queues))
                .append_extra_attribute(LinkAttribute::NumTxQueues(pair.queues));
            if let Some(mac) = end.mac {
                builder = builder.address(mac.to_vec());
            }
            if let Some(namespace) = end.namespace {
                builder = builder.setns_by_fd(namespace.as_raw_fd());
            }
            builder
        }
        let far = end(LinkMessageBuilder::<LinkUnspec>::default(), &pair.far, pair).build();
        let near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
        let near = end(near, &pair.near, pair).build();
        self.handle.link().add(near).execute().await.map_err(|error| {
            let (near, far) = (pair.near.name, pair.far.name);
            NetlinkError::rtnetlink(format_args!("create the veth pair {near} - {far}"), &error)
        })
    }

    /// Deletes a link, and with a veth its other end. `false` if there is none of this name.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_link(&self, name: &str) -> Result<bool, NetlinkError> {
        let Some(link) = self.link(name).await? else { return Ok(false) };
        match self.handle.link().del(link.index).execute().await {
            Ok(()) => Ok(true),
            Err(error) => {
                let error = NetlinkError::rtnetlink(format_args!("delete the link {name}"), &error);
                if error.is_missing() { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Changes a link.
    ///
    /// # Errors
    /// The kernel's; ENODEV if the link is gone.
    pub async fn set_link(&self, index: u32, settings: LinkSettings) -> Result<(), NetlinkError> {
        let mut builder = LinkUnspec::new_with_index(index);
        if let Some(mtu) = settings.mtu {
            builder = builder.mtu(mtu);
        }
        if let Some(mac) = settings.mac {
            builder = builder.address(mac.to_vec());
        }
        builder = match settings.up {
            Some(true) => builder.up(),
            Some(false) => builder.down(),
            None => builder,
        };
        self.handle
            .link()
            .set(builder.build())
            .execute()
            .await
            .map_err(|error| NetlinkError::rtnetlink(format_args!("set {settings} link {index}"), &error))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// The kernel's; ENODEV if the link is gone.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.set_link(index, LinkSettings { up: Some(true), ..LinkSettings::default() }).await
    }

    /// Sets a link up, and waits until it carries packets if its other end is up: the kernel drops without a word what is sent
    /// by either end before.
    ///
    /// # Errors
    /// The kernel's; ENODEV if the link is gone.
    pub async fn bring_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.set_up(index).await?;
        for _ in 0..PATIENCE_RUNNING {
            match self.link_by_index(index).await? {
                Some(link) if link.carrier && !link.running => {
                    tokio::time::sleep(Duration::from_millis(1)).await
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let links = self.handle.link().get().match_name(name).execute();
        first(links, format_args!("look the link {name} up")).await
    }

    /// The link of this index, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let links = self.handle.link().get().match_index(index).execute();
        first(links, format_args!("look link {index} up")).await
    }

    /// All links.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(|message| Link::from_message(&message))
            .try_collect()
            .await
            .map_err(|error| NetlinkError::rtnetlink("list the links", &error))
    }

    /// The other end of a veth pair, wherever it lives; `None` if the link has none (any more).
    ///
    /// Needs CAP_NET_ADMIN over the other namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn veth_peer(&self, link: &Link) -> Result<Option<Link>, NetlinkError> {
        let Some(index) = link.peer_index.filter(|index| *index != 0) else { return Ok(None) };
        let mut request = self.handle.link().get().match_index(index);
        if let Some(namespace) = link.peer_namespace {
            request.message_mut().attributes.push(LinkAttribute::IfNetnsId(namespace));
        }
        first(request.execute(), format_args!("look the other end of {} up", link.name)).await
    }
}

async fn first(
    links: impl futures::Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
    operation: std::fmt::Arguments<'_>,
) -> Result<Option<Link>, NetlinkError> {
    let mut links = std::pin::pin!(links);
    match links.try_next().await {
        Ok(message) => Ok(message.map(|message| Link::from_message(&message))),
        Err(error) => {
            let error = NetlinkError::rtnetlink(operation, &error);
            if error.is_missing() { Ok(None) } else { Err(error) }
        }
    }
}

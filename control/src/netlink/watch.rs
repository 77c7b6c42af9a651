//! What changes: links, addresses, neighbours and routes as the kernel reports them.

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;

use super::{Address, Link, Namespace, Neighbour, NetlinkError, Route};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or different.
    Link(Link),
    /// A link is gone, or was moved to another namespace.
    LinkGone(Link),
    /// An address is new.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A neighbour is new or different.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// A route of the main table is new.
    Route(Route),
    /// A route of the main table is gone.
    RouteGone(Route),
    /// The kernel had more to say than was read in time: list everything again.
    Overrun,
}

/// Changes of one namespace, from the moment of subscription. Subscribe first, list then: so nothing is missed.
pub struct Watch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    // Keeps the connection's request side open; without it the connection's task ends.
    _handle: rtnetlink::Handle,
}

impl Watch {
    /// Of the calling thread's namespace. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Whatever the kernel says to the subscription.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|error| NetlinkError::new("subscribe to changes of links", error))?;
        tokio::spawn(connection);
        Ok(Self { messages, _handle: handle })
    }

    /// Of another namespace. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the namespace cannot be entered, and as [`Watch::subscribe`].
    pub fn subscribe_in(namespace: &Namespace) -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Handle::current();
        namespace.run(|| {
            let _inside = runtime.enter();
            Self::subscribe()
        })?
    }

    /// The next change; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let (message, _) = self.messages.next().await?;
            let event = match message.payload {
                NetlinkPayload::InnerMessage(message) => translate(&message),
                NetlinkPayload::Overrun(_) => Some(Event::Overrun),
                _ => None,
            };
            if event.is_some() {
                return event;
            }
        }
    }
}

fn translate(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Event::Link(Link::from_message(link))),
        RouteNetlinkMessage::DelLink(link) => Some(Event::LinkGone(Link::from_message(link))),
        RouteNetlinkMessage::NewAddress(address) => Address::from_message(address).map(Event::Address),
        RouteNetlinkMessage::DelAddress(address) => Address::from_message(address).map(Event::AddressGone),
        RouteNetlinkMessage::NewNeighbour(entry) => Neighbour::from_message(entry).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(entry) => Neighbour::from_message(entry).map(Event::NeighbourGone),
        RouteNetlinkMessage::NewRoute(route) => Route::from_message(route).map(Event::Route),
        RouteNetlinkMessage::DelRoute(route) => Route::from_message(route).map(Event::RouteGone),
        _ => None,
    }
}

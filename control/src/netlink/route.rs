//! Routes of the main table.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError};

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nexthop {
    /// The destination itself is a neighbour on this link.
    Link {
        /// The link's index.
        index: u32,
    },
    /// A gateway that is a neighbour on this link, whatever the link's own networks are ("onlink").
    Gateway {
        /// The link's index.
        index: u32,
        /// The gateway, of the destination's family.
        address: IpAddr,
    },
    /// Nowhere: the sender is told that the destination is unreachable.
    Unreachable,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; prefix length 0 is the default route.
    pub destination: IpNet,
    /// By what.
    pub nexthop: Nexthop,
    /// The address that connections of this host get by this route.
    pub source: Option<IpAddr>,
    /// Largest packet by this route, if it is less than the link's.
    pub mtu: Option<u32>,
}

impl Route {
    /// To one address as a neighbour on a link.
    #[must_use]
    pub fn host(address: IpAddr, index: u32) -> Self {
        Self { destination: address.into(), nexthop: Nexthop::Link { index }, source: None, mtu: None }
    }

    /// Everything by a gateway.
    #[must_use]
    pub fn default_by(gateway: IpAddr, index: u32) -> Self {
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        let nexthop = Nexthop::Gateway { index, address: gateway };
        Self { destination: everything, nexthop, source: None, mtu: None }
    }

    fn message(&self) -> Result<RouteMessage, NetlinkError> {
        let invalid = |error| {
            NetlinkError::new(self.operation("describe"), std::io::Error::other(format!("{error:?}")))
        };
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(self.destination.network(), self.destination.prefix_len())
            .map_err(invalid)?;
        builder = match self.nexthop {
            Nexthop::Link { index } => builder.output_interface(index).scope(RouteScope::Link),
            Nexthop::Gateway { index, address } => {
                builder.output_interface(index).gateway(address).map_err(invalid)?.onlink()
            }
            Nexthop::Unreachable => builder.kind(RouteType::Unreachable),
        };
        if let Some(source) = self.source {
            builder = builder.pref_source(source).map_err(invalid)?;
        }
        let mut message = builder.build();
        if self.destination.prefix_len() == 0 {
            // A default route is one without a destination.
            message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        Ok(message)
    }

    fn operation(&self, verb: &str) -> String {
        let by = match self.nexthop {
            Nexthop::Link { index } => format!("by link {index}"),
            Nexthop::Gateway { index, address } => format!("by {address}, link {index}"),
            Nexthop::Unreachable => "that says unreachable".to_owned(),
        };
        format!("{verb} the route to {} {by}", self.destination)
    }

    pub(super) fn from_message(message: &RouteMessage) -> Option<Self> {
        if message.header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let mut destination = match message.header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let (mut gateway, mut index, mut source, mut mtu) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(value) => destination = ip(value)?,
                RouteAttribute::Gateway(value) => gateway = ip(value),
                RouteAttribute::PrefSource(value) => source = ip(value),
                RouteAttribute::Oif(value) => index = Some(*value),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let nexthop = match (message.header.kind, index, gateway) {
            (RouteType::Unicast, Some(index), Some(address)) => Nexthop::Gateway { index, address },
            (RouteType::Unicast, Some(index), None) => Nexthop::Link { index },
            (RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit, ..) => Nexthop::Unreachable,
            _ => return None,
        };
        let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
        Some(Self { destination, nexthop, source, mtu })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl Netlink {
    /// Adds a route or replaces the one to the same destination.
    ///
    /// # Errors
    /// The kernel's; ENETUNREACH or EINVAL for a gateway that cannot be a neighbour.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let request = self.handle.route().add(route.message()?).replace();
        request.execute().await.map_err(|error| NetlinkError::rtnetlink(route.operation("add"), &error))
    }

    /// Deletes a route; fine if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let result = self.handle.route().del(route.message()?).execute().await;
        match result.map_err(|error| NetlinkError::rtnetlink(route.operation("delete"), &error)) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// The unicast and unreachable routes of the main table, both families. Multipath routes are left out.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let mut query = RouteMessage::default();
            query.header.address_family =
                if any.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let mut messages = self.handle.route().get(query).execute();
            while let Some(message) = messages
                .try_next()
                .await
                .map_err(|error| NetlinkError::rtnetlink("list the routes", &error))?
            {
                routes.extend(Route::from_message(&message));
            }
        }
        Ok(routes)
    }
}

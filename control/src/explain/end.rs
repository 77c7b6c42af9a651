//! Questions: two ends, a protocol, a port.

use std::fmt;
use std::net::IpAddr;

use podgate_config::model::ObjectName;
use serde::{Deserialize, Serialize};

/// One end of a connection, as asked. In JSON `{"pod": "namespace/name"}`, `{"ip": "..."}`, or both for that
/// address of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawEnd", into = "RawEnd")]
pub enum End {
    /// A pod, by one of its addresses or by whichever suits the other end.
    Pod {
        /// Its name.
        name: ObjectName,
        /// One of its addresses.
        address: Option<IpAddr>,
    },
    /// An address: a live pod's means the pod, a node's the node, anything else the outside.
    Address(IpAddr),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
}

impl TryFrom<RawEnd> for End {
    type Error = QueryError;

    fn try_from(raw: RawEnd) -> Result<Self, QueryError> {
        match (raw.pod, raw.ip) {
            (Some(pod), address) => match Self::parse(&pod)? {
                Self::Pod { name, .. } => Ok(Self::Pod { name, address }),
                Self::Address(_) => Err(QueryError::BadEnd(pod)),
            },
            (None, Some(address)) => Ok(Self::Address(address)),
            (None, None) => Err(QueryError::EmptyEnd),
        }
    }
}

impl From<End> for RawEnd {
    fn from(end: End) -> Self {
        match end {
            End::Pod { name, address } => Self { pod: Some(name.to_string()), ip: address },
            End::Address(address) => Self { pod: None, ip: Some(address) },
        }
    }
}

impl End {
    /// Reads `namespace/pod` or an address.
    ///
    /// # Errors
    /// [`QueryError::Service`] for `svc/namespace/name`, [`QueryError::BadEnd`] for anything else.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some(("svc", service)) if service.contains('/') => Err(QueryError::Service(text.to_owned())),
            Some((namespace, name)) => match ObjectName::parse(namespace, name) {
                Ok(name) => Ok(Self::Pod { name, address: None }),
                Err(_) => Err(QueryError::BadEnd(text.to_owned())),
            },
            None => Err(QueryError::BadEnd(text.to_owned())),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { name, address: None } => write!(f, "{name}"),
            Self::Pod { name, address: Some(address) } => write!(f, "{name} ({address})"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// An IP protocol number. Written as its name where it has a well-known one; in JSON a name or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawProtocol", into = "String")]
pub struct IpProtocol(pub u8);

#[derive(Deserialize)]
#[serde(untagged)]
enum RawProtocol {
    Number(u64),
    Name(String),
}

impl TryFrom<RawProtocol> for IpProtocol {
    type Error = QueryError;

    fn try_from(raw: RawProtocol) -> Result<Self, QueryError> {
        match raw {
            RawProtocol::Number(number) => Self::parse(&number.to_string()),
            RawProtocol::Name(name) => Self::parse(&name),
        }
    }
}

impl From<IpProtocol> for String {
    fn from(protocol: IpProtocol) -> Self {
        protocol.to_string()
    }
}

/// The names that [`IpProtocol`] knows.
const PROTOCOLS: [(&str, u8); 5] = [("TCP", 6), ("UDP", 17), ("SCTP", 132), ("ICMP", 1), ("ICMPv6", 58)];

impl IpProtocol {
    /// TCP.
    pub const TCP: Self = Self(6);

    /// Reads a name (TCP, UDP, SCTP, ICMP, ICMPv6, in any case) or a number up to 255.
    ///
    /// # Errors
    /// [`QueryError::BadProtocol`].
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        PROTOCOLS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|&(_, number)| number)
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| QueryError::BadProtocol(text.to_owned()))
    }

    /// Whether its packets have ports that policies can name.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17 | 132)
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// May a new connection from `from` to `to` be opened? About its first packet, at the pods' own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Who opens it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// Destination port; needed exactly for TCP, UDP and SCTP, not looked at otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The protocol; TCP if a probe does not say.
    #[serde(default = "tcp")]
    pub protocol: IpProtocol,
}

fn tcp() -> IpProtocol {
    IpProtocol::TCP
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not the form of an end.
    #[error("{0:?} is neither namespace/pod nor an IP address")]
    BadEnd(String),
    /// JSON end without content.
    #[error("an end needs \"pod\", \"ip\" or both")]
    EmptyEnd,
    /// Services are not known yet.
    #[error("{0}: Services are not known; ask about one of its pods, with the pod's own port")]
    Service(String),
    /// Not a protocol.
    #[error("{0:?} is no protocol; expected TCP, UDP, SCTP, ICMP or a number from 0 to 255")]
    BadProtocol(String),
    /// A protocol with ports, asked without one.
    #[error("{0} needs a destination port")]
    PortMissing(IpProtocol),
    /// A protocol without ports, asked with a source port.
    #[error("protocol {0} has no ports: ask with source port 0")]
    NoSourcePort(IpProtocol),
    /// No such pod.
    #[error("pod {0} is not known")]
    UnknownPod(ObjectName),
    /// Succeeded or Failed.
    #[error("pod {0} has finished and owns no address")]
    Finished(ObjectName),
    /// Not yet given an address.
    #[error("pod {0} has no address")]
    NoAddress(ObjectName),
    /// The address asked for is not one of the pod's.
    #[error("pod {name} does not have the address {address}")]
    NotItsAddress {
        /// The pod.
        name: ObjectName,
        /// The address.
        address: IpAddr,
    },
    /// Two live pods claim the address, and the other one has it.
    #[error("the address {address} of pod {name} belongs to pod {owner}")]
    TakenAddress {
        /// The pod asked about.
        name: ObjectName,
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: ObjectName,
    },
    /// One end has IPv4 only, the other IPv6 only.
    #[error("{from} and {to} have no address family in common")]
    NoCommonFamily {
        /// Source.
        from: String,
        /// Destination.
        to: String,
    },
}

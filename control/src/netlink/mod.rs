//! Links, addresses, routes and neighbours of the kernel, over rtnetlink; and network namespaces.
//!
//! The daemon changes the kernel's tables through this module and through nothing else: no `ip`, no shell. It is a
//! thin layer that speaks in the gateway's terms (a veth pair, a host route, a permanent neighbour) and turns the
//! kernel's numbers into errors that say what was tried on which object.
//!
//! A [`Netlink`] speaks to one network namespace for its whole life: the one its socket was made in. So a lab or a
//! node agent holds one connection for each namespace that it has to see instead of moving threads about. What
//! must run *inside* a namespace (sockets, sysctls) goes through [`Namespace::run`], on a thread of its own that
//! ends afterwards; a thread of the async runtime never changes its namespace, or unrelated tasks would wake up
//! in the wrong one.
//!
//! "Add" is idempotent where the kernel lets it be (addresses, routes, neighbours are replaced), "delete" of what is not
//! there is not an error: both are run again after a crash.

mod address;
mod link;
mod namespace;
mod neighbour;
mod route;
mod watch;

use std::fmt;
use std::io;

pub use address::{Address, AddressScope};
pub use link::{Link, LinkSettings, MacAddress, VethEnd, VethPair, format_mac, parse_mac};
pub use namespace::{NAMESPACE_DIRECTORY, Namespace, write_sysctl};
pub use neighbour::{Neighbour, NeighbourKind};
pub use route::{Nexthop, Route};
pub use watch::{Event, Watch};

/// What was tried, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct NetlinkError {
    /// What was tried, with the object's name.
    pub operation: String,
    /// The kernel's answer.
    pub source: io::Error,
}

impl NetlinkError {
    pub(crate) fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { operation: operation.into(), source: source.into() }
    }

    fn rtnetlink(operation: impl fmt::Display, error: &rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self { operation: operation.to_string(), source }
    }

    /// Whether the object did not exist (ENODEV, ENOENT, ESRCH or EADDRNOTAVAIL, as the table may be).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        use nix::errno::Errno;
        self.source.raw_os_error().is_some_and(|code| {
            matches!(
                Errno::from_raw(code),
                Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO
            )
        })
    }

    /// Whether the object was there already.
    #[must_use]
    pub fn is_existing(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// One netlink socket of one network namespace. Clones share it; it closes with the last clone.
#[derive(Clone)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Netlink")
    }
}

impl Netlink {
    /// To the namespace that this thread is in. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Whatever the kernel says to a netlink socket.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| NetlinkError::new("open a netlink socket", error))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// To another namespace. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the namespace cannot be entered or gives no netlink socket.
    pub fn connect_in(namespace: &Namespace) -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Handle::current();
        namespace.run(|| {
            // The socket belongs to this thread's namespace for good; its tasks run wherever the runtime likes.
            let _inside = runtime.enter();
            Self::connect()
        })?
    }
}

#[cfg(test)]
mod tests;

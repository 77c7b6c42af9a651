//! Pods, as far as policy and forwarding care.

use std::net::IpAddr;

use super::labels::Labels;
use super::name::{NodeName, ObjectName, PodUid};
use super::port::{PortName, PortNumber, Protocol};

/// `status.phase` as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Pending, Running or Unknown: the pod owns its addresses.
    #[default]
    Live,
    /// Succeeded or Failed: it owns no address, even if `status.podIPs` still lists some that another pod may
    /// have by now.
    Finished,
}

/// A declared container port; what named ports resolve to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// `name`, if given.
    pub name: Option<PortName>,
    /// `protocol`, TCP if left out.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: PortNumber,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`; `None` in manifests that do not say.
    pub uid: Option<PodUid>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.podIPs`: at most one IPv4 and one IPv6 address; may be empty.
    pub addresses: Vec<IpAddr>,
    /// Whether it still owns its addresses.
    pub phase: Phase,
    /// `spec.hostNetwork`: not a target of policy, seen as node traffic as a peer.
    pub host_network: bool,
    /// `spec.nodeName`.
    pub node: Option<NodeName>,
    /// Declared ports of all containers, sidecars (init containers that restart always) included, in order.
    pub ports: Vec<ContainerPort>,
}

impl Pod {
    /// Whether policy sees it as a pod: live, and with a network namespace of its own.
    #[must_use]
    pub fn is_subject(&self) -> bool {
        self.phase == Phase::Live && !self.host_network
    }

    /// The number that `name` resolves to on this pod for `protocol`: the first declared port that matches both
    /// (a name is unique within a container, not within a pod).
    #[must_use]
    pub fn named_port(&self, protocol: Protocol, name: &PortName) -> Option<PortNumber> {
        self.ports
            .iter()
            .find(|port| port.protocol == protocol && port.name.as_ref() == Some(name))
            .map(|port| port.number)
    }
}

//! The validated model.
//!
//! Every type here can only hold what the Kubernetes API server would accept: names and labels are checked
//! where they are made, a port range cannot be reversed, an ipBlock's exceptions lie strictly inside it. Values
//! are cheap to clone (names are shared) and ordered, so that everything made from them is made in one order.

pub mod cluster;
pub mod ip_block;
pub mod labels;
pub mod name;
pub mod node;
pub mod pod;
pub mod policy;
pub mod port;
pub mod selector;

pub use cluster::Cluster;
pub use ip_block::{InvalidIpBlock, IpBlock};
pub use labels::{LabelKey, LabelValue, Labels};
pub use name::{InvalidName, NamespaceName, NodeName, ObjectName, PodUid};
pub use node::{Namespace, Node};
pub use pod::{ContainerPort, Phase, Pod};
pub use policy::{NetworkPolicy, Peer, Rule};
pub use port::{InvalidPort, PolicyPort, PortMatch, PortName, PortNumber, Protocol};
pub use selector::{InvalidSelector, Operator, Requirement, Selector};

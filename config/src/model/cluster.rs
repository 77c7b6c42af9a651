//! Everything known at one moment: the compiler's and the oracle's whole input.
//!
//! A plain value without behaviour beyond look-ups. A pod's namespace need not be among the namespaces: one that
//! is known only from its objects has the metadata.name label alone (see [`Cluster::namespace_labels`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::labels::Labels;
use super::name::{NamespaceName, NodeName, ObjectName};
use super::node::{Namespace, Node};
use super::pod::Pod;
use super::policy::NetworkPolicy;

/// The cluster's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// By name.
    pub namespaces: BTreeMap<NamespaceName, Namespace>,
    /// By namespace and name.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// By name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// By namespace and name. Shared with whoever compiles them.
    pub policies: BTreeMap<ObjectName, Arc<NetworkPolicy>>,
}

impl Cluster {
    /// The labels of a namespace, known or not.
    #[must_use]
    pub fn namespace_labels(&self, name: &NamespaceName) -> Labels {
        match self.namespaces.get(name) {
            Some(namespace) => namespace.labels().clone(),
            None => Namespace::new(name.clone(), Labels::new())
                .map(|namespace| namespace.labels().clone())
                .unwrap_or_default(),
        }
    }

    /// The live pod with a network namespace of its own that has `address`; the first by name if several claim it.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.is_subject() && pod.addresses.contains(&address))
    }
}

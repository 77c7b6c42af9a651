//! Namespaces and nodes.

use std::net::IpAddr;

use super::labels::{LabelKey, LabelValue, Labels};
use super::name::{InvalidName, NamespaceName, NodeName};

/// A namespace. Its labels always hold `kubernetes.io/metadata.name=<name>`, whatever the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: NamespaceName,
    labels: Labels,
}

impl Namespace {
    /// Adds the metadata.name label, over any other value.
    ///
    /// # Errors
    /// Never in practice: every namespace name is a valid label value.
    pub fn new(name: NamespaceName, mut labels: Labels) -> Result<Self, InvalidName> {
        labels.insert(LabelKey::parse("kubernetes.io/metadata.name")?, LabelValue::parse(name.as_str())?);
        Ok(Self { name, labels })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NamespaceName {
        &self.name
    }

    /// Its labels, the metadata.name label included.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `status.addresses` of type InternalIP and ExternalIP.
    pub addresses: Vec<IpAddr>,
}

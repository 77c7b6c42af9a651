//! Names of Kubernetes objects.
//!
//! A name is checked once, where it enters, and shared afterwards: cloning one copies a pointer. The checks are
//! those of k8s.io/apimachinery `validation` (DNS-1123 label and subdomain).

use std::fmt;
use std::sync::Arc;

/// Why a string is not a valid name; says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct InvalidName {
    /// The offending text.
    pub value: String,
    /// What a valid one looks like.
    pub expected: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $check:ident, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`InvalidName`] if the API server would refuse it.
            pub fn parse(value: &str) -> Result<Self, InvalidName> {
                if $check(value) {
                    Ok(Self(Arc::from(value)))
                } else {
                    Err(InvalidName { value: value.to_owned(), expected: $expected })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use name_type;

name_type!(
    /// A namespace's name (DNS-1123 label, at most 63 characters).
    NamespaceName,
    is_dns_label,
    "a DNS label (1 to 63 characters of a-z, 0-9 and '-', not at either end)"
);
name_type!(
    /// A node's name (DNS-1123 subdomain, at most 253 characters).
    NodeName,
    is_dns_subdomain,
    "a DNS subdomain (1 to 253 characters of a-z, 0-9, '-' and '.')"
);
name_type!(
    /// A pod's `metadata.uid`: opaque, tells a recreated pod from its predecessor of the same name.
    PodUid,
    is_not_empty,
    "a non-empty text"
);
name_type!(
    /// The `metadata.name` of a namespaced object (DNS-1123 subdomain, at most 253 characters).
    LocalName,
    is_dns_subdomain,
    "a DNS subdomain (1 to 253 characters of a-z, 0-9, '-' and '.')"
);

/// Namespace and name of a namespaced object, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// `metadata.namespace`; "default" where a manifest leaves it out.
    pub namespace: NamespaceName,
    /// `metadata.name`.
    pub name: LocalName,
}

impl ObjectName {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`InvalidName`] for the first part that the API server would refuse.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        Ok(Self { namespace: NamespaceName::parse(namespace)?, name: LocalName::parse(name)? })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// DNS-1123 label, as k8s.io/apimachinery `IsDNS1123Label` has it.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// DNS-1123 subdomain, as k8s.io/apimachinery `IsDNS1123Subdomain` has it: labels joined by dots, 253 characters
/// in all; a single label may be longer than 63 there.
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        })
}

fn is_not_empty(text: &str) -> bool {
    !text.is_empty()
}

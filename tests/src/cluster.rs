//! Pods and policies that the tests of whole workers have in common.

use std::net::IpAddr;

use podgate_config::model::pod::Phase;
use podgate_config::model::*;

/// An address.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("valid")
}

/// A name as `namespace/name`.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("valid");
    ObjectName::parse(namespace, name).expect("valid")
}

/// Whose address is which, in one family.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// IPv6?
    pub six: bool,
}

impl Addresses {
    /// The one of the family.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn of(self, v4: &str, v6: &str) -> IpAddr {
        ip(if self.six { v6 } else { v4 })
    }

    /// The pod `shop/a`.
    #[must_use]
    pub fn a(self) -> IpAddr {
        self.of("10.244.0.1", "fd00:10:244::1")
    }

    /// The pod `shop/b`.
    #[must_use]
    pub fn b(self) -> IpAddr {
        self.of("10.244.0.2", "fd00:10:244::2")
    }

    /// The pod `shop/remote`, on another node.
    #[must_use]
    pub fn remote(self) -> IpAddr {
        self.of("10.244.9.9", "fd00:10:244::9:9")
    }

    /// The node itself.
    #[must_use]
    pub fn node(self) -> IpAddr {
        self.of("10.244.255.254", "fd00:10:244::fffe")
    }

    /// Somebody behind the uplink.
    #[must_use]
    pub fn outside(self) -> IpAddr {
        self.of("192.0.2.7", "2001:db8::7")
    }

    /// Somebody to whom the host stack leads.
    #[must_use]
    pub fn elsewhere(self) -> IpAddr {
        self.of("203.0.113.200", "2001:dbf::1")
    }
}

/// The pods of [`Addresses`], with both families: `shop/a`, `shop/b` and `shop/remote`.
#[must_use]
pub fn pods() -> [Pod; 3] {
    let (v4, v6) = (Addresses { six: false }, Addresses { six: true });
    [
        pod("shop/a", [v4.a(), v6.a()]),
        pod("shop/b", [v4.b(), v6.b()]),
        pod("shop/remote", [v4.remote(), v6.remote()]),
    ]
}

/// A pod with its name as the label `app`.
///
/// # Panics
/// If that can be no name or label.
#[must_use]
pub fn pod(text: &str, addresses: impl Into<Vec<IpAddr>>) -> Pod {
    let label =
        (LabelKey::parse("app").expect("valid"), LabelValue::parse(name(text).name.as_str()).expect("valid"));
    Pod {
        name: name(text),
        uid: None,
        labels: [label].into_iter().collect(),
        addresses: addresses.into(),
        phase: Phase::Live,
        host_network: false,
        node: None,
        ports: Vec::new(),
    }
}

/// The pods with this label `app`.
///
/// # Panics
/// If that can be no label.
#[must_use]
pub fn app(value: &str) -> Selector {
    let values = [LabelValue::parse(value).expect("valid")].into();
    let requirement =
        Requirement { key: LabelKey::parse("app").expect("valid"), operator: Operator::In(values) };
    Selector::new([requirement]).expect("valid")
}

/// Pods of this label `to` take these ports from those of the label `from`, and nothing else.
///
/// # Panics
/// If a port or a label can be none.
#[must_use]
pub fn only(from: &str, to: &str, ports: &[(Protocol, u16)]) -> NetworkPolicy {
    let number = |n: u16| n.try_into().expect("valid");
    let ports = ports
        .iter()
        .map(|(protocol, n)| PolicyPort::range(*protocol, number(*n), number(*n)).expect("valid"));
    let rule = Rule { ports: ports.collect(), peers: vec![Peer::Pods { namespaces: None, pods: app(from) }] };
    let name = name(&format!("shop/{to}-takes-{from}"));
    NetworkPolicy { name, pods: app(to), ingress: Some(vec![rule]), egress: None }
}

/// `b` takes TCP 80 and UDP 53 from `a`, and nothing else.
#[must_use]
pub fn only_a_to_b() -> NetworkPolicy {
    only("a", "b", &[(Protocol::Tcp, 80), (Protocol::Udp, 53)])
}

/// Nothing to these pods and nothing from them.
#[must_use]
pub fn deny_all(pods: Selector) -> NetworkPolicy {
    NetworkPolicy { name: name("shop/deny"), pods, ingress: Some(vec![]), egress: Some(vec![]) }
}

/// Nothing to these pods.
#[must_use]
pub fn deny_ingress(pods: Selector) -> NetworkPolicy {
    NetworkPolicy { egress: None, ..deny_all(pods) }
}

/// Nothing from these pods.
#[must_use]
pub fn deny_egress(pods: Selector) -> NetworkPolicy {
    NetworkPolicy { ingress: None, ..deny_all(pods) }
}

//! Properties of the model's types: what may be made, and what two spellings of one thing have in common.

#![allow(clippy::unwrap_used)] // tests

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use podgate_config::model::name::{is_dns_label, is_dns_subdomain};
use podgate_config::model::*;
use proptest::prelude::*;

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[ab]", "[xy]?", 0..3).prop_map(|pairs| {
        pairs.iter().map(|(k, v)| (LabelKey::parse(k).unwrap(), LabelValue::parse(v).unwrap())).collect()
    })
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = prop::collection::btree_set("[xy]?", 1..3)
        .prop_map(|set| set.iter().map(|v| LabelValue::parse(v).unwrap()).collect::<BTreeSet<_>>());
    ("[ab]", 0..4_u8, values).prop_map(|(key, operator, values)| Requirement {
        key: LabelKey::parse(&key).unwrap(),
        operator: match operator {
            0 => Operator::In(values),
            1 => Operator::NotIn(values),
            2 => Operator::Exists,
            _ => Operator::DoesNotExist,
        },
    })
}

fn network() -> impl Strategy<Value = Ipv4Net> {
    (0..16_u32, 24..=32_u8)
        .prop_map(|(low, prefix)| Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | (low << 2)), prefix).unwrap())
}

proptest! {
    #[test]
    fn selectors_are_conjunctions_in_any_order(list in prop::collection::vec(requirement(), 0..5), labels in labels()) {
        let selector = Selector::new(list.clone()).unwrap();
        let turned = Selector::new(list.iter().rev().chain(&list).cloned()).unwrap();
        prop_assert_eq!(&selector, &turned);
        prop_assert_eq!(selector.matches(&labels), list.iter().all(|requirement| requirement.matches(&labels)));
    }

    #[test]
    fn an_operator_and_its_opposite_never_agree(requirement in requirement(), labels in labels()) {
        let opposite = match requirement.operator.clone() {
            Operator::In(values) => Operator::NotIn(values),
            Operator::NotIn(values) => Operator::In(values),
            Operator::Exists => Operator::DoesNotExist,
            Operator::DoesNotExist => Operator::Exists,
        };
        let opposite = Requirement { key: requirement.key.clone(), operator: opposite };
        prop_assert_ne!(requirement.matches(&labels), opposite.matches(&labels));
    }

    #[test]
    fn ip_blocks_are_their_network_without_the_exceptions(
        cidr in network(), except in prop::collection::vec(network(), 0..3), low in 0..256_u32,
    ) {
        let inside = |net: &Ipv4Net| cidr.trunc().contains(&net.trunc()) && net.prefix_len() > cidr.prefix_len();
        let block = IpBlock::new(cidr.into(), except.iter().copied().map(IpNet::from));
        prop_assert_eq!(block.is_ok(), except.iter().all(inside));
        if let Ok(block) = block {
            let address = Ipv4Addr::from(0x0a00_0000 | low);
            let expected = cidr.contains(&address) && !except.iter().any(|net| net.contains(&address));
            prop_assert_eq!(block.contains(IpAddr::V4(address)), expected);
            let respelt = IpBlock::new(cidr.trunc().into(), except.iter().rev().map(|net| net.trunc().into()));
            prop_assert_eq!(Ok(block), respelt);
        }
    }

    #[test]
    fn port_ranges_are_never_reversed(first in 1..=u16::MAX, last in 1..=u16::MAX) {
        let number = |port| PortNumber::new(port).unwrap();
        let port = PolicyPort::range(Protocol::Tcp, number(first), number(last));
        prop_assert_eq!(port.is_ok(), first <= last);
    }

    #[test]
    fn names_are_what_the_patterns_of_the_api_say(text in "[a-zA-Z0-9.\\-]{0,8}|[a-z0-9]{60,66}|\\PC{0,5}") {
        // The regular expressions of k8s.io/apimachinery, by hand: parts of letters and digits, dashes between.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let part = |part: &str| part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || c == '-');
        prop_assert_eq!(is_dns_label(&text), part(&text) && text.len() <= 63);
        prop_assert_eq!(is_dns_subdomain(&text), text.split('.').all(part));
        prop_assert_eq!(NamespaceName::parse(&text).is_ok(), is_dns_label(&text));
        if let Ok(name) = NamespaceName::parse(&text) {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(LabelValue::parse(&text).is_ok(), "every namespace's name is a label value");
        }
    }
}

#[test]
fn limits_of_names() {
    let of = |length| "a".repeat(length);
    assert!(LabelValue::parse(&of(63)).is_ok() && LabelValue::parse(&of(64)).is_err());
    assert!(LabelKey::parse(&of(63)).is_ok() && LabelKey::parse(&of(64)).is_err());
    assert!(
        LabelKey::parse(&format!("{}/a", of(253))).is_ok()
            && LabelKey::parse(&format!("{}/a", of(254))).is_err()
    );
    for key in ["", "/a", "a/", "a/b/c", "-a", "a-", "A/b", "a b"] {
        assert!(LabelKey::parse(key).is_err(), "{key:?}");
    }
    assert!(PortName::parse(&of(15)).is_ok() && PortName::parse(&of(16)).is_err());
    for name in ["", "80", "-a", "a-", "a--b", "A", "a_b"] {
        assert!(PortName::parse(name).is_err(), "{name:?}");
    }
    let none = Requirement { key: LabelKey::parse("a").unwrap(), operator: Operator::In(BTreeSet::new()) };
    assert!(Selector::new([none]).is_err());
}

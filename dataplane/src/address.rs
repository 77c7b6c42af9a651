//! IP addresses as the packet path keeps them: two words, whichever family.
//!
//! An [`IpAddr`] is a tag and bytes at odd places. To take one apart, compare it or hash it costs branches, and to load as words
//! what was just stored as bytes costs a packet dozens of cycles. So headers and keys of connections have an [`Address`], and
//! everybody else an `IpAddr`, which it turns into.
//!
//! An IPv4 address is kept as the IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2). No packet has such an IPv6 address, for the
//! parser drops them ([`crate::parse`]), so families never mix.

use std::fmt;
use std::net::IpAddr;

/// An IP address. Ordered as a number: IPv4 as IPv4-mapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The more significant half, host order. First, so that the derived order is the number's.
    high: u64,
    low: u64,
}

/// What the lower half of an IPv4-mapped address has above the IPv4 address; the upper half is 0.
const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// An IPv4 address, as a number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(bits: u32) -> Self {
        Self { high: 0, low: MAPPED | bits as u64 }
    }

    /// An IPv6 address, as it is on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [u8; 16]) -> Self {
        Self {
            high: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            low: u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// Is it an IPv6 address?
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        self.high != 0 || self.low & !0xffff_ffff != MAPPED
    }

    /// Of 169.254.0.0/16 or fe80::/10?
    #[inline]
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        self.is_ipv6_link_local() || self.high == 0 && self.low >> 16 == (MAPPED | 0xa9fe_0000) >> 16
    }

    /// Of fe80::/10?
    #[inline]
    #[must_use]
    pub const fn is_ipv6_link_local(self) -> bool {
        self.high >> 54 == 0xfe80 >> 6
    }

    /// As two words of a number, the more significant one first.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        [self.high, self.low]
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.to_bits()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    #[inline]
    fn from(address: Address) -> Self {
        if address.is_ipv6() {
            let bits = u128::from(address.high) << 64 | u128::from(address.low);
            Self::V6(bits.into())
        } else {
            Self::V4((address.low as u32).into())
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost(v4: u32, v6: u128) {
            let v4 = IpAddr::V4(v4.into());
            prop_assert_eq!(IpAddr::from(Address::from(v4)), v4);
            prop_assert!(!Address::from(v4).is_ipv6());
            // No packet has a mapped one.
            prop_assume!(v6 >> 32 != 0xffff);
            let v6 = IpAddr::V6(v6.into());
            prop_assert_eq!(IpAddr::from(Address::from(v6)), v6);
            prop_assert!(Address::from(v6).is_ipv6());
        }

        #[test]
        fn the_order_is_the_numbers(a: u128, b: u128) {
            let [x, y] = [a, b].map(|bits| Address::from(IpAddr::V6(bits.into())));
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }
    }

    #[test]
    fn link_local_is_what_the_standard_library_says() {
        for text in [
            "169.254.0.0",
            "169.254.255.255",
            "169.253.255.255",
            "169.255.0.0",
            "10.0.0.1",
            "fe80::",
            "febf:ffff::1",
            "fec0::",
            "fe7f:ffff::",
            "fd00::1",
            "::a9fe:0:0",
            "1::ffff:a9fe:1",
        ] {
            let address: IpAddr = text.parse().unwrap();
            let (all, v6) = match address {
                IpAddr::V4(v4) => (v4.is_link_local(), false),
                IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_unicast_link_local()),
            };
            assert_eq!(Address::from(address).is_link_local(), all, "{text}");
            assert_eq!(Address::from(address).is_ipv6_link_local(), v6, "{text}");
        }
    }
}

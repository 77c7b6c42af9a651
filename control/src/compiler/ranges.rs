//! ipBlocks as sorted boundaries.
//!
//! A block is its network minus its own exceptions; a row's ranges are the union of such blocks, so an exception
//! never vetoes another block and nested networks add up. Boundaries open and close in turn; a range that reaches
//! the last address has no closing one.

use std::net::IpAddr;

use ipnet::IpNet;
use podgate_config::model::IpBlock;

/// Boundaries of disjoint ranges, ascending, per address family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Boundaries {
    pub(super) v4: Vec<u32>,
    pub(super) v6: Vec<u128>,
}

/// First and last address of a network as numbers in its family's width.
fn span(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

/// The union of `blocks`.
pub(super) fn union<'a>(blocks: impl IntoIterator<Item = &'a IpBlock>) -> Boundaries {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for block in blocks {
        let ranges = if matches!(block.cidr(), IpNet::V4(_)) { &mut v4 } else { &mut v6 };
        push_block(block, ranges);
    }
    let v4 = merge(v4, u32::MAX.into()).into_iter().map(|boundary| boundary as u32).collect();
    Boundaries { v4, v6: merge(v6, u128::MAX) }
}

/// Appends the block's ranges as (first, last): the network with its exceptions cut out.
fn push_block(block: &IpBlock, ranges: &mut Vec<(u128, u128)>) {
    let (mut first, last) = span(block.cidr());
    // Sorted by address; one inside another is skipped, for it ends before the cursor.
    for &except in block.except() {
        let (from, to) = span(except);
        if from > first {
            ranges.push((first, from - 1));
        }
        if to >= last {
            return;
        }
        first = first.max(to + 1);
    }
    ranges.push((first, last));
}

/// Sorts and joins ranges that overlap or touch.
fn merge(mut ranges: Vec<(u128, u128)>, highest: u128) -> Vec<u128> {
    ranges.sort_unstable();
    let mut boundaries: Vec<u128> = Vec::with_capacity(ranges.len() * 2);
    let mut end: Option<u128> = None;
    for (first, last) in ranges {
        match end {
            Some(reached) if first <= reached || first == reached + 1 => {
                end = Some(reached.max(last));
                continue;
            }
            Some(reached) => boundaries.push(reached + 1),
            None => {}
        }
        boundaries.push(first);
        end = Some(last);
    }
    if let Some(reached) = end.filter(|&reached| reached < highest) {
        boundaries.push(reached + 1);
    }
    boundaries
}

/// The pods' addresses, sorted, to be searched by network.
#[derive(Debug, Default)]
pub(super) struct AddressIndex {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u32)>,
}

impl AddressIndex {
    /// Numbers the addresses in the order given.
    pub(super) fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut index = Self::default();
        for (position, address) in (0u32..).zip(addresses) {
            match address {
                IpAddr::V4(v4) => index.v4.push((v4.to_bits(), position)),
                IpAddr::V6(v6) => index.v6.push((v6.to_bits(), position)),
            }
        }
        index.v4.sort_unstable();
        index.v6.sort_unstable();
        index
    }

    /// The numbers of the addresses in `block`.
    pub(super) fn inside(&self, block: &IpBlock) -> impl Iterator<Item = u32> {
        let boundaries = union([block]);
        let v4 = covered(&self.v4, &boundaries.v4).flatten().map(|&(_, position)| position);
        let positions: Vec<u32> =
            v4.chain(covered(&self.v6, &boundaries.v6).flatten().map(|&(_, position)| position)).collect();
        positions.into_iter()
    }

    /// Whether any address is inside the ranges.
    pub(super) fn touches(&self, boundaries: &Boundaries) -> bool {
        covered(&self.v4, &boundaries.v4).any(|part| !part.is_empty())
            || covered(&self.v6, &boundaries.v6).any(|part| !part.is_empty())
    }
}

/// For each range of `boundaries`, the part of the sorted `addresses` in it.
fn covered<'a, A: Ord + Copy>(
    addresses: &'a [(A, u32)],
    boundaries: &'a [A],
) -> impl Iterator<Item = &'a [(A, u32)]> {
    boundaries.chunks(2).map(move |range| {
        let before = |bound: Option<&A>| {
            bound.map_or(addresses.len(), |bound| addresses.partition_point(|(address, _)| address < bound))
        };
        addresses.get(before(range.first())..before(range.get(1))).unwrap_or(&[])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock::new(cidr.parse().unwrap(), except.iter().map(|net| net.parse().unwrap())).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn holds(boundaries: &Boundaries, address: &str) -> bool {
        match ip(address) {
            IpAddr::V4(v4) => boundaries.v4.partition_point(|&b| b <= v4.to_bits()) % 2 == 1,
            IpAddr::V6(v6) => boundaries.v6.partition_point(|&b| b <= v6.to_bits()) % 2 == 1,
        }
    }

    /// D19, and the ends of the address space.
    #[test]
    fn exceptions_are_cut_out_of_their_own_block() {
        let everything = union([&block("0.0.0.0/0", &[])]);
        assert_eq!(everything, Boundaries { v4: vec![0], v6: vec![] });
        let upper = union([&block("0.0.0.0/0", &["0.0.0.0/1"])]);
        assert_eq!(upper.v4, [1 << 31]);
        let lower = union([&block("0.0.0.0/0", &["128.0.0.0/1"])]);
        assert_eq!(lower.v4, [0, 1 << 31]);
        let nothing = union([&block("10.0.0.0/8", &["10.0.0.0/9", "10.128.0.0/9"])]);
        assert!(nothing.v4.is_empty());
        // One exception inside another, and one at the very end.
        let cut = union([&block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24", "10.255.0.0/16"])]);
        for (address, expected) in [
            ("10.0.255.255", true),
            ("10.1.0.0", false),
            ("10.1.2.3", false),
            ("10.1.255.255", false),
            ("10.2.0.0", true),
            ("10.254.255.255", true),
            ("10.255.0.0", false),
            ("11.0.0.0", false),
        ] {
            assert_eq!(holds(&cut, address), expected, "{address}");
        }
    }

    /// D20, D22: an exception vetoes nothing but its own block; nested networks add up. D24: one family per block.
    #[test]
    fn blocks_add_up() {
        let both = union([&block("10.0.0.0/8", &["10.1.0.0/16"]), &block("10.1.2.0/24", &[])]);
        assert!(holds(&both, "10.1.2.3") && !holds(&both, "10.1.3.3") && holds(&both, "10.2.0.1"));
        let touching =
            union([&block("10.0.0.0/9", &[]), &block("10.128.0.0/9", &[]), &block("10.4.0.0/16", &[])]);
        assert_eq!(touching.v4, [0x0a00_0000, 0x0b00_0000]);
        let families = union([&block("0.0.0.0/0", &[]), &block("fd00::/8", &["fd00::/16"])]);
        assert!(holds(&families, "1.2.3.4") && holds(&families, "fd01::1"));
        assert!(!holds(&families, "fd00::1") && !holds(&families, "2001:db8::1"));
        assert_eq!(union([&block("ff00::/8", &[])]).v6.len(), 1, "up to the last address");
    }

    #[test]
    fn addresses_are_found_by_network() {
        let index = AddressIndex::new(["10.0.0.5", "fd00::5", "10.0.1.5", "255.255.255.255"].map(ip));
        let inside = |block: &IpBlock| {
            let mut found: Vec<u32> = index.inside(block).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(inside(&block("10.0.0.0/16", &[])), [0, 2]);
        assert_eq!(inside(&block("10.0.0.0/16", &["10.0.1.0/24"])), [0]);
        assert_eq!(inside(&block("0.0.0.0/0", &[])), [0, 2, 3]);
        assert_eq!(inside(&block("::/0", &[])), [1]);
        assert!(!index.touches(&union([&block("192.168.0.0/16", &[])])));
        assert!(index.touches(&union([&block("192.168.0.0/16", &[]), &block("fd00::/64", &[])])));
    }
}

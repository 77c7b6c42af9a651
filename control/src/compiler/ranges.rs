//! ipBlocks as sorted boundaries.
//!
//! A block is its network minus its own exceptions; a row's ranges are the union of such blocks, so an exception
//! never vetoes another block and nested networks add up. Boundaries open and close in turn; a range that reaches
//! the last address has no closing one.

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

/// Whether some number from `first` to `last` is inside.
pub(super) fn overlaps<A: Ord + Copy>(boundaries: &[A], first: A, last: A) -> bool {
    let before = boundaries.partition_point(|&boundary| boundary <= first);
    before % 2 == 1 || boundaries.get(before).is_some_and(|&opening| opening <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock::new(cidr.parse().unwrap(), except.iter().map(|net| net.parse().unwrap())).unwrap()
    }

    fn ip(text: &str) -> std::net::IpAddr {
        text.parse().unwrap()
    }

    fn holds(boundaries: &Boundaries, address: &str) -> bool {
        match ip(address) {
            std::net::IpAddr::V4(v4) => boundaries.v4.partition_point(|&b| b <= v4.to_bits()) % 2 == 1,
            std::net::IpAddr::V6(v6) => boundaries.v6.partition_point(|&b| b <= v6.to_bits()) % 2 == 1,
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
    fn an_overlap_is_inside_or_opens_inside() {
        let boundaries = [10u32, 20, 30];
        for (first, last, expected) in [
            (0, 9, false),
            (0, 10, true),
            (15, 16, true),
            (19, 40, true),
            (20, 29, false),
            (20, 30, true),
            (31, 31, true),
        ] {
            assert_eq!(overlaps(&boundaries, first, last), expected, "{first} to {last}");
        }
        assert!(!overlaps(&[], 0u32, u32::MAX));
    }
}

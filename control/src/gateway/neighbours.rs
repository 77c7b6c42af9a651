//! Neighbours of direct networks that packets want, and that the kernel is asked to find.
//!
//! A pod may send to every address of a network, and most are nobody's. So what is looked for at a time is limited, in all and
//! for each port by which packets want it; and who is not found is forgotten after a while, with the kernel's entry, and may
//! be asked for again. Who is found counts no more: the kernel keeps that entry fresh.
//!
//! What breaks if changed: were those that are not found kept, the first pod that tries enough addresses would leave the node
//! without new neighbours for good.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use podgate_dataplane::packet::PortId;

use crate::status::PortNeighbours;

/// Neighbours that are looked for at a time, and those of them that packets of one port want.
const MOST: usize = 1024;
const MOST_PER_PORT: usize = MOST / 4;

/// How long a neighbour is looked for at least. The kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(10);

/// A link's index, and an address behind it.
pub(super) type Neighbour = (u32, IpAddr);

struct Search {
    asker: PortId,
    begun: Instant,
}

/// What is looked for, and what was refused.
#[derive(Default)]
pub(super) struct Neighbours {
    searches: BTreeMap<Neighbour, Search>,
    refused: BTreeMap<PortId, (u64, Instant)>,
}

impl Neighbours {
    /// A packet that came by `asker` wants this neighbour: shall the kernel be asked for it?
    pub fn want(&mut self, neighbour: Neighbour, asker: PortId, now: Instant) -> bool {
        if self.searches.contains_key(&neighbour) {
            return false;
        }
        if self.searches.len() >= MOST || self.of(asker) >= MOST_PER_PORT {
            let (count, latest) = self.refused.entry(asker).or_insert((0, now));
            (*count, *latest) = (*count + 1, now);
            return false;
        }
        self.searches.insert(neighbour, Search { asker, begun: now });
        true
    }

    fn of(&self, asker: PortId) -> usize {
        self.searches.values().filter(|search| search.asker == asker).count()
    }

    /// Ends the searches for neighbours that are known by now, and those that were in vain: these are returned.
    pub fn sweep(&mut self, now: Instant, is_known: impl Fn(&Neighbour) -> bool) -> Vec<Neighbour> {
        self.searches.retain(|neighbour, _| !is_known(neighbour));
        let is_over = |search: &Search| now.saturating_duration_since(search.begun) >= PATIENCE;
        let over = self.searches.iter().filter(|(_, search)| is_over(search));
        let over: Vec<Neighbour> = over.map(|(neighbour, _)| *neighbour).collect();
        self.searches.retain(|_, search| !is_over(search));
        over
    }

    /// A port is gone for good: another one may have its number later.
    pub fn forget(&mut self, asker: PortId) {
        self.refused.remove(&asker);
    }

    /// What a port has to do with it.
    pub fn status(&self, asker: PortId, now: Instant) -> PortNeighbours {
        let refused = self.refused.get(&asker);
        PortNeighbours {
            wanted: self.of(asker) as u64,
            refused: refused.map_or(0, |(count, _)| *count),
            refused_seconds_ago: refused.map(|(_, latest)| now.saturating_duration_since(*latest).as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn neighbour(number: usize) -> Neighbour {
        (7, Ipv4Addr::from_bits(0x0a00_0000 + number as u32).into())
    }

    #[test]
    fn who_tries_every_address_leaves_room_for_others() {
        let (mut all, now) = (Neighbours::default(), Instant::now());
        let asked = (0..2000).filter(|number| all.want(neighbour(*number), PortId(1), now)).count();
        assert_eq!(asked, MOST_PER_PORT);
        assert!(!all.want(neighbour(0), PortId(2), now), "it is looked for already");
        assert!(all.want(neighbour(5000), PortId(2), now));
        let scan = all.status(PortId(1), now + Duration::from_secs(3));
        let expected = PortNeighbours { wanted: 256, refused: 2000 - 256, refused_seconds_ago: Some(3) };
        assert_eq!(scan, expected);
        let other = PortNeighbours { wanted: 1, ..PortNeighbours::default() };
        assert_eq!(all.status(PortId(2), now), other);
        for port in 3..6 {
            (0..300).for_each(|number| {
                all.want(neighbour(usize::from(port) * 1000 + number), PortId(port), now);
            });
        }
        assert_eq!(all.searches.len(), MOST);
        assert!(!all.want(neighbour(9000), PortId(9), now), "four of them leave none");
        assert_eq!(all.status(PortId(9), now).refused, 1);
        all.forget(PortId(9));
        assert_eq!(all.status(PortId(9), now), PortNeighbours::default(), "the next one of that number");
    }

    #[test]
    fn found_ones_count_no_more_and_others_are_forgotten() {
        let (mut all, now) = (Neighbours::default(), Instant::now());
        for number in 0..10 {
            assert!(all.want(neighbour(number), PortId(1), now));
        }
        let is_known = |found: &Neighbour| *found == neighbour(3);
        assert_eq!(all.sweep(now + PATIENCE / 2, is_known), []);
        assert_eq!(all.status(PortId(1), now).wanted, 9);
        assert!(all.want(neighbour(3), PortId(1), now + PATIENCE / 2), "it was lost again");
        let over: Vec<Neighbour> = (0..10).filter(|number| *number != 3).map(neighbour).collect();
        assert_eq!(all.sweep(now + PATIENCE, |_| false), over);
        assert_eq!(all.status(PortId(1), now).wanted, 1);
        assert!(all.want(neighbour(0), PortId(1), now + PATIENCE));
    }
}

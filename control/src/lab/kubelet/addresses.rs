//! Addresses for the pods of a lab's node.
//!
//! A pair (one of each family) belongs to a pod's UID from the first look at the pod until the API server has no such pod any
//! more. Pairs are given in turn, so one that has become free is the last to be given again: what still remembers the
//! pod that had it (connections, caches, people) meets nobody else there.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use podgate_config::manifest::lab_addresses;

/// The last number that is a pod's; the one behind it is the node's.
const LAST: u16 = 0xfffd;

/// Who has which pair.
#[derive(Debug)]
pub(super) struct Addresses {
    /// By UID.
    held: HashMap<String, u16>,
    numbers: HashSet<u16>,
    next: u16,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { held: HashMap::new(), numbers: HashSet::new(), next: 1 }
    }
}

impl Addresses {
    /// The pair of a pod: the one that it has, the one that its status says it has, or the next one. `None` if all are taken.
    pub fn of(&mut self, uid: &str, stated: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let number = match self.held.get(uid) {
            Some(number) => *number,
            None => {
                let number = match number_of(stated).filter(|number| !self.numbers.contains(number)) {
                    Some(number) => {
                        self.next = self.next.max(after(number));
                        number
                    }
                    None => {
                        let number = self.free()?;
                        self.next = after(number);
                        number
                    }
                };
                self.held.insert(uid.to_owned(), number);
                self.numbers.insert(number);
                number
            }
        };
        Some(lab_addresses(number).to_vec())
    }

    /// Takes back what no pod that is there has.
    pub fn keep(&mut self, alive: impl Fn(&str) -> bool) {
        self.held.retain(|uid, _| alive(uid));
        self.numbers = self.held.values().copied().collect();
    }

    fn free(&self) -> Option<u16> {
        let mut number = self.next;
        for _ in 0..LAST {
            if !self.numbers.contains(&number) {
                return Some(number);
            }
            number = after(number);
        }
        None
    }
}

fn after(number: u16) -> u16 {
    if number >= LAST { 1 } else { number + 1 }
}

/// The number of which these are the pair.
fn number_of(stated: &[IpAddr]) -> Option<u16> {
    let number = stated.iter().find_map(|address| match address {
        IpAddr::V4(address) => {
            let [_, _, high, low] = address.octets();
            Some(u16::from_be_bytes([high, low]))
        }
        IpAddr::V6(_) => None,
    })?;
    let pair = lab_addresses(number);
    let same = stated.len() == pair.len() && pair.iter().all(|address| stated.contains(address));
    (same && (1..=LAST).contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_held_until_its_pod_is_gone_and_then_given_last() {
        let mut addresses = Addresses::default();
        let first = addresses.of("a", &[]).unwrap();
        assert_eq!(first, lab_addresses(1));
        assert_eq!(addresses.of("b", &[]).unwrap(), lab_addresses(2));
        assert_eq!(addresses.of("a", &lab_addresses(9)).unwrap(), first, "it keeps what it has");
        addresses.keep(|uid| uid == "b");
        assert_eq!(addresses.of("c", &[]).unwrap(), lab_addresses(3), "not at once after its predecessor");
        for number in 4..=LAST {
            assert_eq!(addresses.of(&number.to_string(), &[]).unwrap(), lab_addresses(number));
        }
        assert_eq!(addresses.of("last", &[]).unwrap(), first);
        assert_eq!(addresses.of("too many", &[]), None);
    }

    #[test]
    fn what_a_status_says_is_kept_if_it_can_be() {
        let mut addresses = Addresses::default();
        assert_eq!(addresses.of("a", &lab_addresses(700)).unwrap(), lab_addresses(700));
        assert_eq!(addresses.of("b", &lab_addresses(700)).unwrap(), lab_addresses(701), "taken");
        for strange in [vec!["10.244.3.3".parse().unwrap()], vec!["192.0.2.1".parse().unwrap()]] {
            let given = addresses.of(&format!("{strange:?}"), &strange).unwrap();
            assert!(!given.contains(&strange[0]), "{given:?}");
        }
        assert_eq!(addresses.of("node", &lab_addresses(0xfffe)).unwrap(), lab_addresses(704));
    }
}

//! Small building blocks of the compiler: many short lists in one vector, and maps from keys to dense numbers.
//!
//! Everything the compiler names gets a dense `u32` in the order of first sight, so the same cluster always gives
//! the same numbers. A number that was never given has an empty list: look-ups cannot fail.

use std::hash::Hash;
use std::ops::Range;

/// A hash map for the control side: fast on short keys, keyed per process.
pub(super) type Map<K, V> = hashbrown::HashMap<K, V, ahash::RandomState>;

/// Lists numbered from 0, one after the other in one vector.
#[derive(Debug, Clone)]
pub(super) struct Lists<T> {
    data: Vec<T>,
    ends: Vec<usize>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { data: Vec::new(), ends: Vec::new() }
    }
}

impl<T> Lists<T> {
    pub(super) fn push(&mut self, list: impl IntoIterator<Item = T>) -> u32 {
        self.data.extend(list);
        self.ends.push(self.data.len());
        number(self.ends.len() - 1)
    }

    pub(super) fn get(&self, list: u32) -> &[T] {
        let list = list as usize;
        let start = if list == 0 { 0 } else { self.ends.get(list - 1).copied().unwrap_or(usize::MAX) };
        let end = self.ends.get(list).copied().unwrap_or(0);
        self.data.get(start..end).unwrap_or(&[])
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[T]> {
        (0..number(self.len())).map(|list| self.get(list))
    }
}

impl Lists<u32> {
    /// Groups `pairs` (list, value) into `lists` lists, keeping their order within a list.
    pub(super) fn group(lists: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut ends = vec![0usize; lists];
        for (list, _) in pairs.clone() {
            if let Some(count) = ends.get_mut(list as usize) {
                *count += 1;
            }
        }
        let mut total = 0;
        for end in &mut ends {
            // For now where the list starts; filling it moves that to its end.
            total += std::mem::replace(end, total);
        }
        let mut data = vec![0; total];
        for (list, value) in pairs {
            if let Some(end) = ends.get_mut(list as usize) {
                if let Some(place) = data.get_mut(*end) {
                    *place = value;
                }
                *end += 1;
            }
        }
        Self { data, ends }
    }

    /// For each value below `values`, the lists that hold it, ascending.
    pub(super) fn inverted(&self, values: usize) -> Self {
        Self::group(
            values,
            (0..number(self.len())).flat_map(|list| self.get(list).iter().map(move |&value| (value, list))),
        )
    }
}

/// Numbers keys in the order of first sight.
pub(super) struct Interner<K> {
    numbers: Map<K, u32>,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self { numbers: Map::default() }
    }
}

impl<K: Hash + Eq> Interner<K> {
    /// The key's number, and whether it is new.
    pub(super) fn intern(&mut self, key: K) -> (u32, bool) {
        let next = number(self.numbers.len());
        let number = *self.numbers.entry(key).or_insert(next);
        (number, number == next)
    }

    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

impl Interner<Vec<u32>> {
    /// As [`intern`](Self::intern), copying the key only if it is new.
    pub(super) fn intern_slice(&mut self, key: &[u32]) -> (u32, bool) {
        let next = number(self.numbers.len());
        let number = *self.numbers.entry_ref(key).or_insert(next);
        (number, number == next)
    }
}

/// A length or position as a dense number. What the compiler counts is bounded far below by the limits and by
/// memory; beyond, everything gets the number that no list has.
pub(super) fn number(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// The part of a sorted list that lies in `range`.
pub(super) fn within<'a>(sorted: &'a [u32], range: &Range<u32>) -> &'a [u32] {
    let start = sorted.partition_point(|&value| value < range.start);
    let end = sorted.partition_point(|&value| value < range.end);
    sorted.get(start..end).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_group_and_invert() {
        let mut lists = Lists::default();
        for list in [&[2u32, 0][..], &[], &[2]] {
            lists.push(list.iter().copied());
        }
        assert_eq!(lists.iter().collect::<Vec<_>>(), [&[2, 0][..], &[], &[2]]);
        let inverted = lists.inverted(3);
        assert_eq!(inverted.iter().collect::<Vec<_>>(), [&[0][..], &[], &[0, 2]]);
        assert!(lists.get(3).is_empty() && lists.get(u32::MAX).is_empty());
        assert!(Lists::<u8>::default().get(0).is_empty());
    }

    #[test]
    fn interned_keys_are_numbered_in_order() {
        let mut interner = Interner::default();
        assert_eq!(interner.intern_slice(&[7, 8]), (0, true));
        assert_eq!(interner.intern_slice(&[7]), (1, true));
        assert_eq!(interner.intern_slice(&[7, 8]), (0, false));
    }
}

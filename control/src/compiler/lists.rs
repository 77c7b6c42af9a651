//! Small building blocks of the compiler: things by number, and sets of numbers.
//!
//! Everything the compiler names gets a `u32`, given back when nobody uses the thing any more. A number that nobody has
//! is nothing and belongs to no set: look-ups cannot fail.

/// A hash map for the control side: fast on short keys, keyed per process.
pub(super) type Map<K, V> = hashbrown::HashMap<K, V, ahash::RandomState>;

/// A set likewise.
pub(super) type Set<K> = hashbrown::HashSet<K, ahash::RandomState>;

/// Things by number; numbers are used again.
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.entries.get_mut(number as usize)
        {
            *place = Some(value);
            return number;
        }
        self.entries.push(Some(value));
        number(self.entries.len() - 1)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.entries.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(value)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.entries.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..).zip(&self.entries).filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0u32..).zip(&mut self.entries).filter_map(|(number, entry)| Some((number, entry.as_mut()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

/// A set of small numbers, one bit each.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn insert(&mut self, number: u32) {
        let word = (number / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (number % 64);
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(word) = self.0.get_mut((number / 64) as usize) {
            *word &= !(1 << (number % 64));
        }
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// Adds all of another set.
    pub(super) fn unite(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.0).flat_map(|(place, &word)| {
            let first = place * 64;
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| first + bit)
        })
    }
}

/// A length or position as a number. What the compiler counts is bounded far below by the limits and by
/// memory; beyond, everything gets the number that nothing has.
pub(super) fn number(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Adds a value to a sorted list, if it does not hold it yet.
pub(super) fn insert_sorted(list: &mut Vec<u32>, value: u32) {
    if let Err(place) = list.binary_search(&value) {
        list.insert(place, value);
    }
}

/// Takes a value out of a sorted list, if it is there.
pub(super) fn remove_sorted(list: &mut Vec<u32>, value: u32) {
    if let Ok(place) = list.binary_search(&value) {
        list.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut slab = Slab::default();
        let [a, b, c] = ["a", "b", "c"].map(|value| slab.insert(value));
        assert_eq!((slab.remove(b), slab.remove(b), slab.len()), (Some("b"), None, 2));
        assert_eq!((slab.insert("d"), slab.get(b)), (b, Some(&"d")));
        let all: Vec<(u32, &str)> = slab.iter().map(|(number, value)| (number, *value)).collect();
        assert_eq!(all, [(a, "a"), (b, "d"), (c, "c")]);
        assert!(slab.get(u32::MAX).is_none() && slab.get_mut(3).is_none());
    }

    #[test]
    fn bits_are_a_set() {
        let mut set = Bits::default();
        [3, 64, 200, 64].iter().for_each(|number| set.insert(*number));
        set.remove(64);
        set.remove(10_000);
        let mut other = Bits::default();
        other.insert(65);
        other.unite(&set);
        assert_eq!(other.iter().collect::<Vec<_>>(), [3, 65, 200]);
        assert_eq!(set.words().len(), 4);
    }

    #[test]
    fn sorted_lists_hold_a_value_once() {
        let mut list = vec![2, 5];
        for value in [3, 5] {
            insert_sorted(&mut list, value);
        }
        assert_eq!(list, [2, 3, 5]);
        for value in [2, 2, 4] {
            remove_sorted(&mut list, value);
        }
        assert_eq!(list, [3, 5]);
    }
}

//! A fixed number of places, the taken ones linked in the order in which they were taken: any can be left at any time, and
//! the oldest is known.

#![deny(clippy::indexing_slicing)]

/// Stands for no place.
const NONE: u32 = u32::MAX;

struct Place<T> {
    value: Option<T>,
    older: u32,
    newer: u32,
}

/// The places.
pub(super) struct Places<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl<T> Places<T> {
    /// So many, all free. Allocates here and never again.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(NONE as usize) as u32;
        let free_place = |_| Place { value: None, older: NONE, newer: NONE };
        Self {
            places: (0..capacity).map(free_place).collect(),
            free: (0..capacity).rev().collect(),
            oldest: NONE,
            newest: NONE,
        }
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Are all taken?
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// What is there.
    pub fn get(&self, at: u32) -> Option<&T> {
        self.places.get(at as usize)?.value.as_ref()
    }

    /// What is there, to change.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.places.get_mut(at as usize)?.value.as_mut()
    }

    /// The one that was taken before all others.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// All that is there.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.places.into_iter().filter_map(|place| place.value)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// The value comes back if all are taken.
    pub fn insert(&mut self, value: T) -> Result<u32, T> {
        let Some(at) = self.free.pop() else { return Err(value) };
        let older = self.newest;
        match self.places.get_mut(at as usize) {
            Some(place) => *place = Place { value: Some(value), older, newer: NONE },
            None => return Err(value),
        }
        self.newest = at;
        match self.places.get_mut(older as usize) {
            Some(place) => place.newer = at,
            None => self.oldest = at,
        }
        Ok(at)
    }

    /// Leaves a place.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let place = self.places.get_mut(at as usize)?;
        let value = place.value.take()?;
        let (older, newer) = (place.older, place.newer);
        match self.places.get_mut(older as usize) {
            Some(place) => place.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer as usize) {
            Some(place) => place.older = older,
            None => self.newest = older,
        }
        self.free.push(at);
        Some(value)
    }
}

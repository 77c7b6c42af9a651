//! Arrays that are cheap to copy and to change a little.
//!
//! A [`Paged`] array is a list of pages. A copy of it shares all pages; changing an element of an array that shares its
//! page copies that page first. So a published snapshot holds its own version of every table for the price of the pages
//! that differ from the next version's, and readers follow one pointer more than in a plain array.
//!
//! What breaks if changed: pages that are changed in place while a snapshot shares them would let a worker see half of
//! a change. [`Arc::make_mut`] decides that, not we.

use std::sync::Arc;

/// Elements of a page.
pub(super) const PAGE: usize = 512;

/// An array of pages of `PAGE` elements each.
pub(super) struct Paged<T> {
    pages: Arc<[Arc<[T; PAGE]>]>,
}

impl<T> Clone for Paged<T> {
    fn clone(&self) -> Self {
        Self { pages: self.pages.clone() }
    }
}

impl<T: Copy> Paged<T> {
    /// At least `len` times `value`; the pages are one and the same until they are written to.
    pub(super) fn filled(value: T, len: usize) -> Self {
        let page = Arc::new([value; PAGE]);
        Self { pages: (0..len.div_ceil(PAGE)).map(|_| page.clone()).collect() }
    }

    #[inline]
    pub(super) fn get(&self, position: usize) -> Option<&T> {
        self.pages.get(position / PAGE)?.get(position % PAGE)
    }

    /// Copies what is shared.
    pub(super) fn get_mut(&mut self, position: usize) -> Option<&mut T> {
        let page = Arc::make_mut(&mut self.pages).get_mut(position / PAGE)?;
        Arc::make_mut(page).get_mut(position % PAGE)
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len() * PAGE
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.len() * size_of::<T>() + size_of_val(&*self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_it_was() {
        let mut array = Paged::filled(0u32, 3 * PAGE - 1);
        assert_eq!(array.len(), 3 * PAGE);
        *array.get_mut(5).unwrap() = 7;
        let before = array.clone();
        *array.get_mut(5).unwrap() = 8;
        *array.get_mut(2 * PAGE).unwrap() = 9;
        assert_eq!((before.get(5), before.get(2 * PAGE)), (Some(&7), Some(&0)));
        assert_eq!((array.get(5), array.get(2 * PAGE)), (Some(&8), Some(&9)));
        assert!(Arc::ptr_eq(&array.pages[1], &before.pages[1]), "untouched pages are shared");
        assert_eq!(array.get(3 * PAGE), None);
    }
}

//! Queues of entries: doubly linked through the slab's places, so that any entry leaves in a few steps.
//!
//! A [`Chain`] holds the links of all places; each [`Queue`] is a head and a tail in it. A place is in at most one queue of a
//! chain. Nothing allocates after [`Chain::new`].
//!
//! What breaks if changed: a place put into two queues of one chain, or taken out of one that it is not in, ties them
//! together; the table's tests walk all queues to hold that it does not happen.

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// The links of as many places as a table has.
#[derive(Debug)]
pub(super) struct Chain {
    links: Vec<Link>,
}

/// One queue, oldest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
    length: u32,
}

impl Queue {
    pub const EMPTY: Self = Self { head: NONE, tail: NONE, length: 0 };

    /// Places in it.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// The place that has waited longest.
    pub fn oldest(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }
}

impl Chain {
    /// For `places` places, in no queue yet.
    pub fn new(places: usize) -> Self {
        Self { links: vec![Link { before: NONE, after: NONE }; places] }
    }

    /// Puts a place at a queue's end. It must be in none.
    pub fn push(&mut self, queue: &mut Queue, place: u32) {
        let before = queue.tail;
        let Some(link) = self.links.get_mut(place as usize) else { return };
        *link = Link { before, after: NONE };
        match self.links.get_mut(before as usize) {
            Some(last) => last.after = place,
            None => queue.head = place,
        }
        queue.tail = place;
        queue.length += 1;
    }

    /// Takes a place out of the queue that it is in.
    pub fn remove(&mut self, queue: &mut Queue, place: u32) {
        let Some(Link { before, after }) = self.links.get(place as usize).copied() else { return };
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = after,
            None => queue.head = after,
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None => queue.tail = before,
        }
        queue.length = queue.length.saturating_sub(1);
    }

    /// Places of a queue, oldest first.
    #[cfg(test)]
    pub fn walk(&self, queue: &Queue) -> Vec<u32> {
        let mut places = Vec::new();
        let mut next = queue.head;
        while let Some(link) = self.links.get(next as usize) {
            places.push(next);
            next = link.after;
        }
        places
    }
}

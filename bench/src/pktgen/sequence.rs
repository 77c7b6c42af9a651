//! Exact loss, duplicates and reordering from sequence numbers, whatever their order.
//!
//! For each stream: the number expected next, and the gaps below it. A packet with the expected number costs one comparison.
//! One beyond leaves a gap behind; one below either fills a place in a gap (it came late: reordered, as RFC 4737 has it) or
//! was there before (a duplicate). So there is no window within which alone the answer would be right. What is bounded is the
//! memory: beyond [`MAX_GAPS`] gaps of all streams together the oldest of the stream at hand are forgotten, their packets lost
//! for good, and what still comes from there is counted as *uncertain*, late or duplicate.

use std::collections::VecDeque;

/// Most gaps of all streams together: 16 MiB.
pub const MAX_GAPS: usize = 1 << 20;

/// Account of the packets of a run. Numbers of a stream begin at 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Different packets that arrived.
    pub unique: u64,
    /// Packets that had arrived before.
    pub duplicates: u64,
    /// Packets that arrived after one of their stream with a higher number.
    pub reordered: u64,
    /// By how many numbers a reordered packet was behind at most.
    pub furthest: u64,
    /// Packets of which it is not known any more whether they came late or twice. Not in the others.
    pub uncertain: u64,
    /// Numbers below the highest of their stream that are missing.
    pub missing: u64,
}

#[derive(Debug, Default, Clone)]
struct Stream {
    /// One more than the highest number so far.
    next: u64,
    /// Missing numbers, each gap from one number to before another, in order.
    gaps: VecDeque<(u64, u64)>,
    /// Of what lies below, nothing is known any more.
    forgotten: u64,
}

/// Keeps the account.
#[derive(Debug)]
pub struct Sequences {
    streams: Vec<Stream>,
    account: Account,
    gaps: usize,
    max_gaps: usize,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { streams: Vec::new(), account: Account::default(), gaps: 0, max_gaps: MAX_GAPS }
    }
}

impl Sequences {
    /// A packet arrived.
    #[inline]
    pub fn observe(&mut self, stream: u16, sequence: u32) {
        let at = usize::from(stream);
        if at >= self.streams.len() {
            self.streams.resize_with(at + 1, Stream::default);
        }
        let Some(stream) = self.streams.get_mut(at) else { return };
        // The number nearest to the expected one that ends in these 32 bits.
        let ahead = sequence.wrapping_sub(stream.next as u32) as i32;
        let number = stream.next.checked_add_signed(i64::from(ahead)).unwrap_or(u64::from(sequence));
        if number == stream.next {
            stream.next += 1;
            self.account.unique += 1;
        } else {
            self.out_of_order(at, number);
        }
    }

    fn out_of_order(&mut self, at: usize, number: u64) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        if number > stream.next {
            if self.gaps >= self.max_gaps
                && let Some((_, end)) = stream.gaps.pop_front()
            {
                stream.forgotten = end;
                self.gaps -= 1;
            }
            if self.gaps < self.max_gaps {
                stream.gaps.push_back((stream.next, number));
                self.gaps += 1;
            } else {
                // All gaps are other streams'.
                stream.forgotten = number;
            }
            self.account.missing += number - stream.next;
            self.account.unique += 1;
            stream.next = number + 1;
            return;
        }
        let after = stream.gaps.partition_point(|(begin, _)| *begin <= number);
        let gap = after.checked_sub(1).and_then(|before| Some((before, *stream.gaps.get(before)?)));
        match gap {
            Some((before, (begin, end))) if number < end => {
                self.account.unique += 1;
                self.account.reordered += 1;
                self.account.missing -= 1;
                self.account.furthest = self.account.furthest.max(stream.next - 1 - number);
                match (number == begin, number + 1 == end) {
                    (true, true) => {
                        stream.gaps.remove(before);
                        self.gaps -= 1;
                    }
                    (true, false) => set(&mut stream.gaps, before, (number + 1, end)),
                    (false, true) => set(&mut stream.gaps, before, (begin, number)),
                    (false, false) => {
                        set(&mut stream.gaps, before, (begin, number));
                        stream.gaps.insert(before + 1, (number + 1, end));
                        self.gaps += 1;
                        if self.gaps > self.max_gaps
                            && let Some((_, end)) = stream.gaps.pop_front()
                        {
                            stream.forgotten = end;
                            self.gaps -= 1;
                        }
                    }
                }
            }
            _ if number < stream.forgotten => self.account.uncertain += 1,
            _ => self.account.duplicates += 1,
        }
    }

    /// The account so far.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account
    }

    /// How many streams were seen: one more than the highest.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }
}

fn set(gaps: &mut VecDeque<(u64, u64)>, at: usize, gap: (u64, u64)) {
    if let Some(place) = gaps.get_mut(at) {
        *place = gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Remembers everything.
    #[derive(Default)]
    struct Naive {
        seen: HashSet<(u16, u64)>,
        highest: std::collections::HashMap<u16, u64>,
        account: Account,
    }

    impl Naive {
        fn observe(&mut self, stream: u16, number: u64) {
            if !self.seen.insert((stream, number)) {
                self.account.duplicates += 1;
                return;
            }
            self.account.unique += 1;
            let highest = self.highest.entry(stream).or_insert(number);
            if number < *highest {
                self.account.reordered += 1;
                self.account.furthest = self.account.furthest.max(*highest - number);
            }
            *highest = number.max(*highest);
            let below: u64 = self.highest.values().map(|highest| highest + 1).sum();
            self.account.missing = below - self.account.unique;
        }
    }

    /// What a device may do to a run of packets: for each packet how often it arrives, and how much later.
    fn fates() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
        let copies = prop_oneof![8 => Just(1u8), 2 => Just(0), 1 => 2u8..4];
        let delay = prop_oneof![6 => Just(0u8), 1 => any::<u8>()];
        proptest::collection::vec((copies, delay, 0u8..3), 0..600)
    }

    proptest! {
        #[test]
        fn the_account_is_that_of_one_who_remembers_everything(fates in fates()) {
            let mut next = [0u64; 3];
            let mut arrivals = Vec::new();
            for (at, (copies, delay, stream)) in fates.into_iter().enumerate() {
                let number = next[usize::from(stream)];
                next[usize::from(stream)] += 1;
                for copy in 0..copies {
                    arrivals.push((at + usize::from(delay) + 3 * usize::from(copy), u16::from(stream), number));
                }
            }
            arrivals.sort_by_key(|(when, ..)| *when);
            let (mut ours, mut naive) = (Sequences::default(), Naive::default());
            for (_, stream, number) in &arrivals {
                ours.observe(*stream, *number as u32);
                naive.observe(*stream, *number);
                prop_assert_eq!(ours.account(), naive.account);
            }
            prop_assert_eq!(ours.gaps, ours.streams.iter().map(|stream| stream.gaps.len()).sum::<usize>());
        }

        /// With little memory the sum stays right, and what is not known is said.
        #[test]
        fn what_was_forgotten_is_uncertain(fates in fates(), max_gaps in 0usize..4) {
            let mut ours = Sequences { max_gaps, ..Sequences::default() };
            let mut arrivals: Vec<(usize, u16, u32)> = fates.iter().enumerate().flat_map(|(at, (copies, delay, stream))| {
                (0..*copies).map(move |copy| (at + usize::from(*delay) + usize::from(copy), u16::from(*stream), at as u32))
            }).collect();
            arrivals.sort_by_key(|(when, ..)| *when);
            let mut naive = Naive::default();
            for (_, stream, number) in &arrivals {
                ours.observe(*stream, *number);
                naive.observe(*stream, u64::from(*number));
            }
            let Account { unique, duplicates, uncertain, .. } = ours.account();
            prop_assert_eq!(unique + duplicates + uncertain, arrivals.len() as u64);
            prop_assert!(unique <= naive.account.unique && duplicates <= naive.account.duplicates);
            prop_assert!(ours.gaps <= max_gaps);
        }
    }

    #[test]
    fn numbers_wrap() {
        let mut sequences = Sequences::default();
        sequences.streams.push(Stream { next: (1 << 32) - 2, ..Stream::default() });
        for sequence in [u32::MAX - 1, 0, u32::MAX, 1, 0] {
            sequences.observe(0, sequence);
        }
        let expected = Account { unique: 4, duplicates: 1, reordered: 1, furthest: 1, ..Account::default() };
        assert_eq!(sequences.account(), expected);
        assert_eq!(sequences.streams[0].next, (1 << 32) + 2);
    }
}

//! How the queues of a port are shared out among workers.
//!
//! A pod's port, and the host's, belong to one worker with all their queues: the worker of a pod is what the ownership of
//! connections follows from. An uplink's queues are spread, queue q to worker q mod n, so that no worker has to receive for
//! all. Every queue has exactly one owner, for both directions.
//!
//! Order within a flow, while its packets cross several workers: the sender's card or the device's hash puts a flow into one
//! receive queue, which has one owner. That one gives every packet to the owner of the flow's connection, by a ring that
//! keeps the order, or keeps it. The owner of the connection alone sends the flow, always by the first of its own queues of
//! that port, or always by way of the worker of queue 0 if it has none ([`crate::snapshot::PortEntry::sender_for`]). So there
//! is one way for all packets of a flow as long as the entry of the port does not change; whoever changes it does so while
//! the port is detached, and attaches it once all workers obey, when nothing is under way by the old one. What the device
//! itself puts into two queues (fragments that are hashed without ports, a hash that is set anew) comes in whatever order it
//! would on any host.
//!
//! What breaks if changed: a worker with a share must be able to send by it, or its answers are stuck. So a queue beyond the
//! transmit queues goes where a queue goes that can send.

use af_xdp::ActiveQueues;

use crate::packet::WorkerId;

/// Who has which queue of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// The owner of queue 0.
    home: WorkerId,
    /// How many workers have queues, from the first on; 0 if `home` has all.
    spread: u8,
    /// Queues that can send.
    transmit: u32,
}

impl Shares {
    /// All queues for one worker.
    #[must_use]
    pub fn whole(worker: WorkerId) -> Self {
        Self { home: worker, spread: 0, transmit: 1 }
    }

    /// Queue q for worker q mod `workers`, if there are at least two of both; otherwise all for `single`.
    #[must_use]
    pub fn spread_over(queues: ActiveQueues, workers: usize, single: WorkerId) -> Self {
        let transmit = queues.transmit.min(queues.receive);
        let spread = usize::try_from(transmit).unwrap_or(usize::MAX).min(workers);
        match u8::try_from(spread) {
            Ok(spread) if spread > 1 => Self { home: WorkerId(0), spread, transmit },
            _ => Self::whole(single),
        }
    }

    /// The worker of queue 0, which sends for those that have no queue.
    #[must_use]
    pub fn home(&self) -> WorkerId {
        self.home
    }

    /// How many workers have queues, from the first on; 0 if [`Shares::home`] has all.
    #[must_use]
    pub fn spread(&self) -> u8 {
        self.spread
    }

    /// Whose a queue is.
    #[must_use]
    pub fn owner(&self, queue: u32) -> WorkerId {
        // With nobody to spread over it is home's.
        let place = (queue % self.transmit.max(1)).checked_rem(u32::from(self.spread));
        place.and_then(|place| u8::try_from(place).ok()).map_or(self.home, WorkerId)
    }

    /// Everyone who has queues.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + use<> {
        let single = (self.spread == 0).then_some(self.home);
        (0..self.spread).map(WorkerId).chain(single)
    }

    /// Shares out what there is for each queue, from queue 0 on: for each worker its own, in the order of the queues.
    pub fn share_out<T>(&self, queues: impl IntoIterator<Item = T>) -> Vec<(WorkerId, Vec<T>)> {
        let mut shares: Vec<(WorkerId, Vec<T>)> = self.workers().map(|worker| (worker, Vec::new())).collect();
        for (number, queue) in (0..).zip(queues) {
            let owner = self.owner(number);
            if let Some((_, share)) = shares.iter_mut().find(|(worker, _)| *worker == owner) {
                share.push(queue);
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(receive: u32, transmit: u32, workers: usize) -> Vec<u8> {
        let shares = Shares::spread_over(ActiveQueues { receive, transmit }, workers, WorkerId(1));
        (0..receive).map(|queue| shares.owner(queue).0).collect()
    }

    #[test]
    fn queues_go_round_the_workers() {
        assert_eq!(owners(4, 4, 2), [0, 1, 0, 1]);
        assert_eq!(owners(4, 4, 3), [0, 1, 2, 0]);
        assert_eq!(owners(2, 2, 8), [0, 1]);
        assert_eq!(owners(4, 4, 1), [1; 4], "one worker");
        assert_eq!(owners(1, 1, 2), [1], "one queue stays where the port is put");
    }

    #[test]
    fn who_receives_can_send() {
        assert_eq!(owners(4, 1, 2), [1; 4], "one queue can send, so one worker has all");
        assert_eq!(owners(4, 2, 2), [0, 1, 0, 1]);
        assert_eq!(owners(6, 3, 2), [0, 1, 0, 0, 1, 0]);
        for (receive, transmit, workers) in [(1, 1, 1), (4, 4, 2), (8, 3, 5), (3, 8, 2), (64, 64, 255)] {
            let shares = Shares::spread_over(ActiveQueues { receive, transmit }, workers, WorkerId(0));
            let out = shares.share_out(0..receive);
            let mut all: Vec<u32> = out.iter().flat_map(|(_, queues)| queues.clone()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..receive).collect::<Vec<_>>(), "each queue once");
            for (worker, queues) in &out {
                assert!(usize::from(worker.0) < workers);
                assert!(queues.first().is_some_and(|first| *first < transmit), "{shares:?}: {worker}");
                assert!(queues.iter().all(|queue| shares.owner(*queue) == *worker));
            }
            assert_eq!(shares.owner(0), shares.home());
        }
    }
}

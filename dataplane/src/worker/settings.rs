//! What all workers of an engine have in common.

use crate::flow::Timeouts;
use crate::fragment;

/// What happens to an established connection that the policies in force no longer allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Established {
    /// It is cut with its next packet.
    #[default]
    Recheck,
    /// It may go on; only new connections obey. A port that is closed, and sources that are not synced, stop it all the same:
    /// what is allowed is not known then.
    Keep,
}

/// What the sender of a packet learns when policy denies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deny {
    /// Nothing: the packet is dropped.
    #[default]
    Drop,
    /// It is told, by a TCP reset or an ICMP error; not more often than errors are sent at all.
    Reject,
}

/// What all workers of an engine have in common.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Packets from a port, and from another worker, that a turn takes at most.
    pub batch: usize,
    /// Connections that one worker can hold.
    pub flows: usize,
    /// Those of them that may be charged to one pod.
    pub flows_per_pod: usize,
    /// Connections that are over that it remembers, for whoever asks about one.
    pub flow_history: usize,
    /// How long they may be silent.
    pub timeouts: Timeouts,
    /// What a change of policy does to them.
    pub established: Established,
    /// What becomes of denied packets.
    pub deny: Deny,
    /// How many datagrams in fragments one worker remembers, how many fragments it holds, and for how long.
    pub fragments: fragment::Limits,
    /// Keys of the flow tables' and the ownership's hashes: new for each boot, and secret.
    pub seed: [u64; 4],
    /// Packets that may wait between two workers, in each direction.
    pub hand_over: usize,
    /// Drop records that may wait to be read, for each worker.
    pub records: usize,
    /// Frames that a worker keeps for itself, beyond those in rings.
    pub frames: usize,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            batch: 64,
            flows: 65_536,
            flows_per_pod: 32_768,
            flow_history: 4096,
            timeouts: Timeouts::default(),
            established: Established::Recheck,
            deny: Deny::Drop,
            fragments: fragment::Limits::default(),
            seed: [0; 4],
            hand_over: 4096,
            records: 1024,
            frames: 1024,
        }
    }
}

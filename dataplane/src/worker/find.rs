//! What a worker knows of one connection, for whoever asks: between two turns, so that nothing of the packet path is shared.
//!
//! Of a connection that is there it also says what its next packet would come to under the snapshot in force, by the same
//! function that will judge that packet. It costs two lookups, two scans of the hashes of what is over (some ten
//! microseconds for the default size), and at most [`MOST`] records.

use std::cmp::Reverse;

use super::Worker;
use crate::clock::{Clock, Instant64};
use crate::flow::{Denial, End, FlowFacts, FlowKey, Tuple};
use crate::packet::{Role, WorkerId};
use crate::policy::Judgement;
use crate::snapshot::Snapshot;

/// Connections that are over and that one worker tells of, the newest: a client that always sends from one port may have had
/// any number.
const MOST: usize = 16;

/// A connection that a worker has, or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundFlow {
    /// Its owner.
    pub worker: WorkerId,
    /// What is known of it.
    pub facts: FlowFacts,
    /// Whether it is there.
    pub fate: Fate,
}

/// Whether a connection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is. `next` says under which snapshot its next packet will be judged, and what will be said.
    Live {
        /// Newest generation that this worker knows.
        generation: u64,
        /// What that says; an error if the next packet does not pass.
        next: Result<Judgement, Denial>,
    },
    /// It is over.
    Over {
        /// When its entry ended.
        ended: Instant64,
        /// Why.
        end: End,
    },
}

impl Fate {
    /// What is there comes first, then what ended last.
    pub(crate) fn order(&self) -> impl Ord + use<> {
        match self {
            Self::Live { .. } => None,
            Self::Over { ended, .. } => Some(Reverse(*ended)),
        }
    }
}

impl<C: Clock> Worker<C> {
    /// The connections between these two ends, whichever of them opened one: first the one that is there, then those that are
    /// over, the newest first.
    pub fn find_flows(&mut self, snapshot: &Snapshot, tuple: &Tuple) -> Vec<FoundFlow> {
        let now = self.clock.now();
        // The same key, but for protocols that say who asks and who answers.
        let (there, _) = FlowKey::of_tuple(tuple, Role::Request);
        let (back, _) = FlowKey::of_tuple(&tuple.reversed(), Role::Request);
        let mut found = self.find_by_key(snapshot, &there, now);
        if back != there {
            found.extend(self.find_by_key(snapshot, &back, now));
        }
        found.sort_by_key(|flow| flow.fate.order());
        found.truncate(MOST);
        found
    }

    fn find_by_key(&mut self, snapshot: &Snapshot, key: &FlowKey, now: Instant64) -> Vec<FoundFlow> {
        let (worker, hash) = (self.id, self.flows.hash(key));
        // One whose time is over ends here, as it would with its next packet.
        let live = self.find_live(hash, key, now).and_then(|id| self.flows.get(id)).map(|flow| {
            let next = if flow.generation == snapshot.generation {
                Ok(flow.judgement)
            } else {
                let again = self.judge_again(snapshot, flow);
                again.map(|way| way.judgement).map_err(|refusal| refusal.denial(snapshot))
            };
            let fate = Fate::Live { generation: snapshot.generation, next };
            FoundFlow { worker, facts: flow.facts(), fate }
        });
        let over = self.flows.find_closed(hash, key, MOST).map(|closed| {
            let fate = Fate::Over { ended: closed.ended, end: closed.end };
            FoundFlow { worker, facts: closed.facts, fate }
        });
        live.into_iter().chain(over).collect()
    }
}

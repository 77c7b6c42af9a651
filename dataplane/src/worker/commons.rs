//! Frames that nobody needs now.
//!
//! Frames move with packets between workers, so a worker that mostly sends gathers what others lack. It puts what exceeds
//! its share into the [`Commons`], which has room for every frame of the region, so that giving back never fails.

use std::sync::Arc;

use af_xdp::{Frame, FramePool, Region};
use crossbeam::queue::ArrayQueue;

/// Frames for whoever lacks some. Lock-free.
pub type Commons = Arc<ArrayQueue<Frame>>;

/// Commons with room for every frame of `region`.
#[must_use]
pub fn commons(region: &Region) -> Commons {
    Arc::new(ArrayQueue::new(region.chunks().max(1) as usize))
}

/// Keeps a pool near a worker's `share`: gives to the commons what is too much, takes from there what is too little.
pub(super) fn balance(commons: &Commons, pool: &mut FramePool, share: usize) {
    const STEP: usize = 256;
    if pool.len() > share + STEP {
        for _ in 0..STEP {
            let Some(frame) = pool.take() else { return };
            if let Err(frame) = commons.push(frame) {
                pool.put(frame);
                return;
            }
        }
    } else if pool.len() < share / 2 {
        for _ in 0..STEP {
            let Some(frame) = commons.pop() else { return };
            pool.put(frame);
        }
    }
}

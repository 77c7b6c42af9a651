//! A gateway with an uplink, on real packets: queues that both workers serve and that change while traffic runs (`queues.rs`),
//! and what is known of those at the other ends of its wires, or has to be found (`neighbours.rs`). `node.rs` is what they
//! stand on.
//!
//! The node's kernel is given every chance to forward by itself: it may, and it knows the way to the pod that policy shuts
//! off. So a packet that got around the gateway would arrive, and the last step of a test shows that it would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod neighbours;
mod node;
mod queues;

//! Podgate's fast path: packets between pods, the node's host stack and the outside, judged and forwarded
//! on pinned workers.
//!
//! # The way of a packet
//! A worker takes a batch of frames from its ports ([`packet`]), finds out what they are ([`parse`]), looks up
//! or opens their connection, asks the policy, rewrites the link header and the TTL ([`rewrite`]) and sends
//! them. Fragments go the way of the first one of their datagram ([`fragment`]). What is for the gateway itself (ARP, neighbour discovery, ping) it answers ([`neighbor`], [`icmp`]).
//! Everything else ends in a [`drop_reason::DropReason`], counted in [`counters`] and sampled in [`record`].
//!
//! # What holds everywhere here
//! * **No packet passes unjudged.** Bytes that this crate does not understand to the end are dropped by name;
//!   there is no "pass what is unknown".
//! * **No panic is reachable from bytes.** Bytes are read through checked accessors only; clippy denies
//!   `unwrap`, `expect`, `panic` and, in the modules that touch packet bytes, indexing and slicing. Each of
//!   these modules has a fuzz target under `tests/`.
//! * **Nothing on the packet path locks, allocates, logs or asks the kernel**, except ring kicks and one
//!   wake-up per batch.
//! * Every packet is accounted for: received and generated ones equal sent, dropped, consumed and held ones.
//!
//! No tokio, no kube, no serde: this crate can run in a process that has nothing but memory and sockets.

/// Sockets, packet memory and steering programs: what it takes to make a [`port::Port`] of a device.
pub use af_xdp;

pub mod address;
pub mod by_port;
pub mod checksum;
pub mod clock;
pub mod counters;
pub mod drop_reason;
pub mod engine;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod neighbor;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod port;
mod prefetch;
pub mod record;
pub mod reset;
pub mod rewrite;
pub mod snapshot;
#[cfg(test)]
mod test_frames;
mod wire;
pub mod worker;

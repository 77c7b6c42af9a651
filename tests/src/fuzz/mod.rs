//! What the fuzz targets of the gateway in memory are made of.
//!
//! [`world`] is a rig and a way to send one packet and see what became of it; [`scene`] says who takes part, and which policies
//! there are. [`connections`] is what must and what may become of a packet, as simple as it can be said, by what its ends said
//! before ([`talk`]); [`datagrams`] is the same for fragments. [`flows`] and [`fragments`] play a fuzzer's bytes on both and
//! hold them against each other.

pub mod connections;
pub mod datagrams;
pub mod flows;
pub mod fragments;
pub mod scene;
pub mod talk;
pub mod world;

/// Bytes that a story has at most, of either kind; a longer one is not played.
pub const LONGEST: usize = 2 + 4 * 64;

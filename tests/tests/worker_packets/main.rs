//! One packet in, one packet out, and every counter that moved.
//!
//! Workers as on a node, over in-memory ports, are driven with frames that are put together byte by byte. Each case runs with
//! one worker, with two and with three (the pods then are on different ones, and the uplink's queues with one or with all),
//! over both families. [`case::Case`] compares everything that is counted before and after each frame with what the step says,
//! so what a step does not say must not have happened.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod case;
mod craft;
mod expect;
mod facts;
mod ledger;
mod records;

mod addresses;
mod connections;
mod found;
mod icmp;
mod limits;
mod link;
mod malformed;
mod options;
mod policy;
mod sctp;
mod tcp;

use podgate_tests::cluster;

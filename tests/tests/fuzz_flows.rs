//! Fuzz target of connections: whole workers against a simple model, packet by packet.
//!
//! Under `cargo test` it plays the kept corpus and a bounded number of random stories; under `scripts/fuzz` it runs, guided
//! by coverage, for as long as one likes.

use bolero::check;
use podgate_tests::fuzz::LONGEST;
use podgate_tests::fuzz::flows::play;

#[test]
fn fuzz_flows() {
    check!().with_iterations(1000).with_max_len(LONGEST).for_each(play);
}

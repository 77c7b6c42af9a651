//! What is kept for `/metrics` does not grow if nobody ever scrapes.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use podgate_control::telemetry::metrics::Metrics;

#[test]
fn compile_times_of_a_gateway_that_nobody_scrapes_keep_nothing() {
    let metrics = Metrics::new().unwrap();
    let compile = |times: u32| (0..times).for_each(|_| metrics.compiled(Duration::from_micros(300)));
    // Names and buckets are made once.
    compile(1000);
    let info = allocation_counter::measure(|| compile(50_000));
    // A sample has 24 bytes: a million in all.
    assert!(info.bytes_current < 16 << 10, "{} bytes are kept", info.bytes_current);
}

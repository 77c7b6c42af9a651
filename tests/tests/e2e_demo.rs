//! `podgate lab demo`: the example's whole matrix over both families, live edits, who decided; by one worker and by
//! two.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use podgate_tests::harness::{Lab, enabled, run_podgate, source_folder};

fn demo(workers: &str) {
    if !enabled() {
        return;
    }
    let _turn = Lab::prepare(&[], &[]);
    let example = source_folder().join("config/examples/shop");
    let said = run_podgate(&["lab", "demo", "--workers", workers, "-f", example.to_str().unwrap()]);
    println!("{}", said.out);
    assert!(said.fine(), "{said:?}");
}

#[test]
fn with_one_worker() {
    demo("1");
}

#[test]
fn with_two_workers() {
    demo("2");
}

//! Podgate's measurements.
//!
//! Criterion benches of the parts in memory (`benches/`), and a sender and sink over AF_XDP for whole paths between
//! network namespaces (`src/bin/podgate-pktgen.rs`). No figure without its machine ([`machine`]) and its spread
//! ([`spread`]).

pub mod machine;
pub mod manifest;
pub mod spread;
pub mod world;

//! Podgate's measurements.
//!
//! Benches of the parts in memory (`benches/`): with criterion where a mean is asked for, by themselves where it is the tail
//! (`changes`) or what one part costs another (`churn`). For whole paths between network namespaces, a packet generator and
//! sink ([`pktgen`], the program `podgate-pktgen`) and the time from a file to the packets that obey it (`podgate-latency`), both run by the scripts
//! beside README.md. [`world`] is the cluster that they measure with, [`manifest`] its manifests; [`control`] and
//! [`one_worker`] are the two sides of a gateway without the rest. No figure without its machine ([`machine`]) and its spread
//! ([`spread`]).

pub mod control;
pub mod machine;
pub mod manifest;
pub mod one_worker;
pub mod pktgen;
pub mod spread;
pub mod world;

//! The whole product under test.
//!
//! [`oracle`] is what the NetworkPolicy API says, [`generate`] makes the clusters on which the compiled tables must
//! agree with it, and [`compare`] holds the two against each other. [`rig`] is a gateway in memory: real workers over
//! in-memory ports, fed with [`frames`], for the pods and policies of [`cluster`]; [`fuzz`] plays what fuzzers think of on it.
//! [`harness`] is the whole product between real namespaces, [`gateway`] a process without pods that follows a folder, and
//! [`wire`] puts frames on a pod's wire by hand.
//! [`apiserver`] is a Kubernetes API server that fails when it is told to, and [`api_client`] speaks to it or to a real one;
//! [`api_node`] is a gateway that follows it.
//! [`conformance`] holds cases with stated answers, and [`program`] asks `podgate` about them.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "this crate is tests: a failed expectation is a failed test"
)]

pub mod api_client;
pub mod api_node;
pub mod apiserver;
pub mod choices;
pub mod cluster;
pub mod compare;
pub mod conformance;
pub mod follow;
pub mod frames;
pub mod fuzz;
pub mod gateway;
pub mod generate;
pub mod harness;
pub mod minimise;
pub mod netns;
pub mod oracle;
pub mod program;
pub mod rig;
pub mod wire;

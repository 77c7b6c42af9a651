//! The whole product under test.
//!
//! [`oracle`] is what the NetworkPolicy API says, [`generate`] makes the clusters on which the compiled tables must
//! agree with it, and [`compare`] holds the two against each other.

pub mod choices;
pub mod compare;
#[allow(clippy::expect_used)]
pub mod generate;
pub mod minimise;
pub mod oracle;

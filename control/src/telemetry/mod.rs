//! What the gateway tells about itself: logs, metrics, health.
//!
//! All of it is on the control side. Workers count in arrays of their own and write drop records into bounded
//! rings; both are read here when somebody asks. If a worker ever logged or touched a metrics registry, one busy
//! scrape could stop packets.

pub mod http;
pub mod logs;
pub mod metrics;

#[cfg(test)]
mod tests;

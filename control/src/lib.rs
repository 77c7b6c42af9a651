//! The control side of Podgate: everything that may wait, allocate and fail.
//!
//! What the sources say becomes one validated [`podgate_config::model::Cluster`], the compiler makes policy tables
//! of it and follows its changes ([`live`]), the publisher hands snapshots of them to the workers, and telemetry and the admin socket tell people
//! what is in force. Nothing here runs on a worker's thread; the data plane never calls back into this crate. If
//! that broke, a slow disk could stop packets.

pub mod admin;
pub mod cli;
pub mod compiler;
pub mod daemon;
pub mod explain;
pub mod gateway;
pub mod lab;
pub mod live;
pub mod netlink;
pub mod ports;
pub mod source;
pub mod status;
pub mod store;
pub mod telemetry;

/// The host's name, without which nobody knows which node this is.
///
/// # Errors
/// `/proc` is not there.
fn host_name() -> anyhow::Result<String> {
    use anyhow::Context as _;
    const HOST_NAME: &str = "/proc/sys/kernel/hostname";
    Ok(std::fs::read_to_string(HOST_NAME).context(HOST_NAME)?.trim().to_owned())
}

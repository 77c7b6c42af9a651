//! Labs of pods on this machine: network namespaces wired to one gateway.

use crate::cli::{Console, LabCommand, Outcome};

/// Runs one `podgate lab` command.
///
/// # Errors
/// Whatever kept the lab from being set up or removed, in words for the person at the terminal.
pub fn run(command: &LabCommand, console: &mut Console) -> anyhow::Result<Outcome> {
    let _ = (command, console);
    anyhow::bail!("this build has no lab")
}

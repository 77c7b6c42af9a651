//! Labs: pods on this machine, wired to one gateway.
//!
//! `podgate lab up` gives every live pod of the documents a network namespace of its own and puts the real gateway
//! between them, in a namespace that stands for the node. Nothing in the gateway knows that it is in a lab: it gets
//! its ports over the admin socket, its policies from watched files, and its packets from veth pairs, as on a real
//! node. So what a lab shows is what a cluster would do.
//!
//! An API server may take the place of the documents ([`origin`]): then the lab is one of its nodes, [`kubelet`] does there what a
//! kubelet would, and the gateway follows the same server through a [`door`]. [`test_api`] is the server for those who
//! have none.
//!
//! [`plan`] says what there should be, [`topology`] makes it, [`agent`] answers in the pods, [`gateway`] runs the
//! gateway, [`supervisor`] holds it all together, [`cleanup`] removes it, also in ruins, and [`probe`] and [`demo`]
//! connect everyone with everyone and compare.

pub mod agent;
pub mod cleanup;
mod commands;
pub mod demo;
pub mod door;
pub mod expectations;
pub mod gateway;
pub mod kubelet;
pub mod origin;
pub mod plan;
pub mod probe;
pub mod state;
pub mod supervisor;
pub mod test_api;
pub mod topology;

use crate::cli::{Console, LabCommand, Outcome};

/// Runs one `podgate lab` command.
///
/// # Errors
/// Whatever kept the lab from being set up or removed, in words for the person at the terminal.
pub fn run(command: &LabCommand, console: &mut Console) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            LabCommand::Up(arguments) => commands::up(arguments, console).await,
            LabCommand::Down => commands::down(console).await,
            LabCommand::Status => commands::status(console).await,
            LabCommand::Demo(arguments) => demo::run(arguments, console).await,
            LabCommand::Supervise(arguments) => commands::supervise(arguments).await,
        }
    })
}

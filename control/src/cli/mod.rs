//! The `podgate` command: arguments, dispatch, and the exit code.
//!
//! Exit code 0 means fine, 1 that the answer is bad news, 2 that the command could not be carried out. Every
//! command returns an [`Outcome`] or an error; only [`main`] prints errors, to standard error and as one line
//! with its causes, and only [`main`] chooses the code.

mod args;
mod check;
mod console;
mod explain;
mod flow;
mod remote;
mod run;

use std::io;
use std::process::ExitCode;

use clap::Parser;

pub use args::{
    Cli, Command, ConfigArgs, DEFAULT_SOCKET, DropsArgs, ExplainArgs, FilesArgs, LabCommand, LabDemoArgs,
    LabShape, LabSuperviseArgs, LabUpArgs, MatrixArgs, PortAddArgs, PortCommand, PortRemoveArgs, RunArgs,
    SettingsArgs, SocketArgs, StatusArgs, StatusPart, WorldArgs,
};
pub use console::{Console, Format, Outcome, Table, Tone};

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut console = Console::stdout(cli.output);
    let result = dispatch(&cli.command, &mut console).and_then(|outcome| {
        console.flush()?;
        Ok(outcome)
    });
    match result {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::BadNews) => ExitCode::from(1),
        Ok(Outcome::Unusable) => ExitCode::from(2),
        // Whoever read our output has enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // What was found before the failure comes first; if it cannot be written the error still can.
            let _ = console.flush();
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command.
///
/// # Errors
/// Whatever kept it from being carried out: exit code 2.
pub fn dispatch(command: &Command, console: &mut Console) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Config(args) => run::config(args, console),
        Command::Check(args) => check::check(args, console),
        Command::Explain(args) => explain::explain(args, console),
        Command::Matrix(args) => explain::reachability(args, console),
        Command::Status(args) => remote::status(args, console),
        Command::Drops(args) => remote::drops(args, console),
        Command::Port(command) => remote::port(command, console),
        Command::Lab(command) => crate::lab::run(command, console),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn visit(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(path.trim()), "{path} --help shows no example");
            }
            for subcommand in command.get_subcommands() {
                visit(subcommand, &path);
            }
        }
        visit(&Cli::command(), "");
    }
}

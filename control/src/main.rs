//! The `podgate` command. All of it is in [`podgate_control::cli`]; this is the way from the process's arguments
//! to its exit code: 0 fine, 1 bad news, 2 usage or environment.

use std::process::ExitCode;

fn main() -> ExitCode {
    podgate_control::cli::main()
}

//! The packet generator and sink, whose essay is that of [`podgate_bench::pktgen`].

use std::process::ExitCode;

fn main() -> ExitCode {
    podgate_bench::pktgen::cli::main()
}

//! The `podgate` program with something on its standard input.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Said, podgate};

/// Runs it in `folder` with `input` on its standard input.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run(folder: &Path, arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new(podgate())
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("podgate starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // It may answer before it has read everything.
    let writer = std::thread::spawn(move || {
        // It may also end without reading: then what it says counts.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("podgate ends");
    writer.join().expect("writer");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

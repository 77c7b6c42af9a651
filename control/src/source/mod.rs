//! Where objects come from: manifest files and folders, and an API server ([`kubernetes`]).
//!
//! Of files, [`scan`](mod@scan) finds the files, [`files`] keeps the last good state of each, [`watch`] follows them on a
//! thread of its own, and [`load`] reads them once for commands that answer and end. All of them read the same
//! files in the same order; otherwise `podgate check` would vouch for something else than `podgate run` enforces.

pub mod files;
pub mod kubernetes;
pub mod scan;
pub mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use podgate_config::manifest::Finding;

pub use files::{FileObjects, FileSet};
pub use scan::FileId;
pub use watch::{SourceState, WatchError, follow};

/// What a set of manifests says, read once.
#[derive(Debug)]
pub struct Loaded {
    /// The objects of the good files.
    pub objects: Vec<FileObjects>,
    /// What is wrong with the files.
    pub findings: Vec<Finding>,
    /// Documents of kinds that are not ours.
    pub skipped: BTreeMap<String, usize>,
    /// How many files were read.
    pub files: usize,
}

/// A path on the command line that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct MissingPath {
    /// The path as given.
    pub path: String,
    /// Why it cannot be used.
    pub error: io::Error,
}

/// Reads all manifests under these paths once.
///
/// # Errors
/// [`MissingPath`] for the first path that does not exist; what is wrong inside of it is in the findings.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, MissingPath> {
    for path in paths {
        if let Err(error) = path.metadata() {
            return Err(MissingPath { path: path.display().to_string(), error });
        }
    }
    let mut files = FileSet::new(paths.iter().cloned());
    files.refresh(Instant::now(), &mut files::Events::default(), &mut |_| {});
    Ok(Loaded {
        objects: files.objects(),
        findings: files.findings(),
        skipped: files.skipped(),
        files: files.counts_of_files().0,
    })
}

#[cfg(test)]
mod tests;

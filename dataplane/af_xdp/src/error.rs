//! Everything that can go wrong, said so that the reader knows what to do next.

use std::io;

/// Why an operation of this crate failed. The text of each variant names the thing, the value and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A region was asked for with a size that cannot exist.
    #[error("memory region of {chunks} chunks of 4096 bytes: expected 1 to {max} chunks")]
    RegionSize {
        /// Chunks that were asked for.
        chunks: u32,
        /// The most that fits.
        max: u32,
    },
    /// The kernel refused memory for a region.
    #[error(
        "cannot {call} for a memory region of {bytes} bytes: {source}; ask for fewer frames or give the process more memory"
    )]
    RegionMemory {
        /// System call that failed.
        call: &'static str,
        /// Size of the region.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More regions or sockets were made in one process than there are identifiers for.
    #[error("no identifiers left for a further {what} in this process: restart it")]
    IdentifiersUsedUp {
        /// `region` or `socket`.
        what: &'static str,
    },
}

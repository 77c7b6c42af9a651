//! Structured logs on standard error, as text or JSON, with levels by module.
//!
//! Only the control side logs, and never per packet. A repeated failure is logged when it changes, not each time it is
//! met again; that is up to those who log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The levels make no sense.
    #[error(
        "log levels {levels:?}: {reason}; expected LEVEL or MODULE=LEVEL, joined by commas, as in \
             `info,podgate_control::source=debug`"
    )]
    Levels {
        /// As given.
        levels: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else logs already.
    #[error("logging was set up twice in this process")]
    Twice,
}

/// What others log for us to tell in our own words, each time it is met. The settings may have it all the same.
const QUIET: &str = "kube_client=off";

/// Begins to log. `levels` is a level, or `module=level` pairs joined by commas.
///
/// # Errors
/// [`LogError`].
pub fn start(json: bool, levels: &str) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{levels}"))
        .map_err(|error| LogError::Levels { levels: levels.to_owned(), reason: error.to_string() })?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let result = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    result.map_err(|_| LogError::Twice)
}

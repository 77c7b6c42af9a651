//! What a test can make go wrong while the server runs.
//!
//! - **Expired watches**: history is forgotten; every open watch gets an ERROR event of code 410 and ends, and so does
//!   every later watch of an older version. Never an HTTP 410 at the start of a watch: real servers answer 200.
//! - **Expired continue tokens**: the next page of a begun list is answered 410.
//! - **Cut connections**: all of them, at once, in the middle of what they send.
//! - **Hanging watches**: open ones fall silent for ever, beyond their own timeout, as a connection through a dead
//!   box in between does; new ones get 200 and silence until the fault is lifted.
//! - **A restored backup**: versions go backwards, connections are cut, and a watch from what is now the future is
//!   answered 200 and hears nothing until the versions have caught up.
//! - **Stop and start**: the port closes and opens again, with connections cut; history stays unless it is compacted.
//! - **Slow answers**: each answer begins that much later.

use std::time::Duration;

use super::ApiServer;
use super::store::Backup;

/// The faults in force; watched by all that is open.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Counts how often connections were cut.
    pub cut: u64,
    /// Counts how often watches were expired.
    pub expired: u64,
    /// Whether watches are silent.
    pub hang: bool,
    /// How much later answers begin.
    pub delay: Duration,
}

impl ApiServer {
    /// Forgets the history: open watches get an ERROR event of code 410 and end.
    pub fn expire_watches(&self) {
        self.shared.store().compact();
        self.shared.faults.send_modify(|faults| faults.expired += 1);
    }

    /// Forgets the history without a word to open watches: one that comes back with an older version gets the 410.
    pub fn compact(&self) {
        self.shared.store().compact();
    }

    /// Forgets the begun lists: their next page is a 410.
    pub fn expire_continue_tokens(&self) {
        self.shared.store().forget_snapshots();
    }

    /// Cuts every open connection.
    pub fn cut_connections(&self) {
        self.shared.faults.send_modify(|faults| faults.cut += 1);
    }

    /// Lets open watches fall silent for ever, and new ones until this is called with `false`.
    pub fn hang_watches(&self, hang: bool) {
        self.shared.faults.send_modify(|faults| faults.hang = hang);
    }

    /// Lets every answer begin so much later.
    pub fn slow_answers(&self, delay: Duration) {
        self.shared.faults.send_modify(|faults| faults.delay = delay);
    }

    /// All objects and the version as they are now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        self.shared.store().backup()
    }

    /// Goes back to a backup and cuts all connections, as the restart after a restore does.
    pub fn restore(&self, backup: Backup) {
        self.shared.write(|store| store.restore(backup));
        self.cut_connections();
    }
}

//! The admin socket: how the `podgate` command talks with the running gateway.
//!
//! [`protocol`] says what may be said, [`server`] is the daemon's side, [`client`] the command's. The socket
//! belongs to the user who runs the daemon (mode 0600): whoever may open it may attach ports.

pub mod client;
pub mod protocol;
pub mod server;

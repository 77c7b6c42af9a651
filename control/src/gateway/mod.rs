//! The gateway's control loop and what it decides by.
//!
//! [`resolve`](mod@resolve) says whose an address is, [`identity`] tells a pod from its successor, [`kernel`] follows what
//! the node's kernel knows, [`history`] remembers what each generation was made of, and [`handle`] is how others ask.

pub mod handle;
pub mod history;
pub mod identity;
pub mod kernel;
pub mod resolve;

pub use handle::GatewayHandle;

//! Ports: which interface leads where, and what it takes to move packets through it.

pub mod file;
pub mod wires;

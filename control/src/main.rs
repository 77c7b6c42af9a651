//! The podgate command.
fn main() {}

//! What is true and valid.
//!
//! This crate holds the validated model of everything Podgate decides about (namespaces, pods, nodes,
//! policies) and the only ways to make one: decoding a manifest and reading the settings. A value of the
//! model is valid by construction, so nobody behind this crate checks a port range or a label again; if a
//! check moved out of here, the compiler and the data plane would silently decide about nonsense.
//!
//! The model alone is what the data plane may see; decoding (feature `decode`) brings the parsers along.
//! No I/O: callers hand in bytes.

#[cfg(feature = "decode")]
pub mod manifest;
pub mod model;
#[cfg(feature = "decode")]
pub mod settings;

//! dataplane

pub mod policy;

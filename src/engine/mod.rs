//! The LSM engine.

pub mod memtable;

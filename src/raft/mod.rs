//! L2: the Raft algorithm.
mod log;
mod types;

pub use log::{DurableGroup, LogOutcome, LogStats, LogStore, LogView, MemLog, ReadEntries};
pub use types::{Entry, HardState, IoId, Persist};

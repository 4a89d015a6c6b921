//! When a node may stop itself, or refuse to start: after a failure that the world injected, and for that reason.
//!
//! | its disk | excused |
//! |---|---|
//! | crashed just now | every error of a part that uses it |
//! | failed with EIO | an error that names it; once |
//! | is full | a refusal to start that names it |
//! | has a flipped bit | an error that names damage, until it is rebuilt |
//!
//! Never excused: what raft calls fatal (two leaders in one term, a difference below the commit index), an entry or a row
//! that cannot be understood, and an engine and a log that do not fit together. Checksums stand between every one of those
//! and the disk. An excuse is not for *some* stop but for this one: what the node gives as its reason is looked at.

use super::slot::{Health, Slot};
use beachdb::node::{FatalError, OpenError};

/// The parts of a node that use its disk, as [`FatalError::what`] names them.
const USE_THE_DISK: [&str; 3] = ["the log", "the engine", "replay of the log"];
/// What an injected failure of an operation is called.
const FAILED: [&str; 3] = ["Input/output error", "EIO", "injected"];
/// What a full disk is called.
const FULL: [&str; 2] = ["No space left", "ENOSPC"];
/// What damage is called.
const DAMAGED: [&str; 4] = ["corrupt", "damage", "checksum", "is missing"];

/// Whether any of `words` is in what an error says; every layer repeats the one below.
fn names(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Whether a node may have stopped itself like this.
#[must_use]
pub fn may_stop(slot: &Slot, fatal: &FatalError) -> bool {
    if !USE_THE_DISK.contains(&fatal.what) {
        return false;
    }
    let text = fatal.to_string();
    slot.disk.is_down()
        || (slot.excused && names(&text, &FAILED))
        || (slot.health == Health::Rotten && names(&text, &DAMAGED))
}

/// Whether a node whose disk did something wrong may refuse to start like this, and will start when it is asked again.
#[must_use]
pub fn may_refuse(slot: &Slot, error: &OpenError) -> bool {
    let text = error.to_string();
    let fits = !matches!(error, OpenError::Unfit { .. } | OpenError::Damaged { .. });
    fits && ((slot.excused && names(&text, &FAILED)) || (slot.cramped && names(&text, &FULL)))
}

/// Whether it is refused because of damage, and will be refused again: such a node must rejoin.
#[must_use]
pub fn is_damage(error: &OpenError) -> bool {
    match error {
        OpenError::Damaged { .. } => true,
        OpenError::Unfit { .. } => false,
        other => names(&other.to_string(), &DAMAGED),
    }
}

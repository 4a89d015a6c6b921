//! What the conditions of a batch are judged by, where blocking on the disk is allowed: the replay of [`Db`](super::Db)'s log
//! at open, and its writers before they log a conditional batch.
//!
//! The daemon never blocks: its node asks [`Engine::get`] and makes a job of what memory cannot tell (`node::conditions`).
//! Both judge by [`first_failed`], so an entry comes to the same in either.

use super::{Engine, EngineError, Get};
use crate::base::SequenceNumber;
use crate::base::batch::BatchRef;
use crate::base::conditions::{FailedCondition, first_failed};

impl Get {
    /// The sequence number that wrote the value that this get finds. Blocks on the disk if it needs it.
    pub(super) fn seq_blocking(self) -> Result<Option<SequenceNumber>, EngineError> {
        match self {
            Self::Found { seq, .. } => Ok(Some(seq)),
            Self::Missing => Ok(None),
            Self::NeedsDisk(job) => Ok(job.run()?.map(|(seq, _)| seq)),
        }
    }
}

impl Engine {
    /// The first condition of `batch` that does not hold now. Blocks on the disk if memory cannot tell.
    pub(super) fn judge_blocking(
        &self,
        batch: &BatchRef<'_>,
    ) -> Result<Option<FailedCondition>, EngineError> {
        first_failed(batch, |key| self.get(key, None)?.seq_blocking())
    }
}

//! What a failed call means for the caller.

use crate::base::batch::BatchError;
use crate::base::conditions::FailedCondition;
use crate::proto::{Effect, ErrorCode, ErrorReply};
use std::time::Duration;

/// Why a call failed. [`ClientError::effect`] says what happened to the data.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request cannot be made: a key, value, or batch breaks the limits. Nothing was sent.
    #[error("invalid request: {0}")]
    Invalid(#[from] BatchError),
    /// No endpoint took the request before the deadline. It was never sent completely, so it was not applied.
    #[error("cannot reach the server: {cause}")]
    NotSent {
        /// What each attempt met, the last one last.
        cause: String,
    },
    /// The server answered with an error.
    #[error("{endpoint}: {reply}")]
    Refused {
        /// Who answered.
        endpoint: String,
        /// Its answer; the effect is never [`Effect::Unknown`] here.
        reply: ErrorReply,
    },
    /// A write was sent and its outcome is not known: it may have been applied, or may still be. It was not sent
    /// again. Read before writing again.
    #[error("outcome unknown, the write may or may not have been applied: {endpoint}: {cause}")]
    Unknown {
        /// Who got the write.
        endpoint: String,
        /// Why there is no answer.
        cause: String,
        /// The server's code, when it said itself that it does not know.
        code: Option<ErrorCode>,
    },
    /// A read got no answer before the deadline.
    #[error("no answer: {endpoint}: {cause}")]
    NoAnswer {
        /// Who was asked last.
        endpoint: String,
        /// Why there is no answer.
        cause: String,
    },
    /// The server's bytes are not this protocol. For a write the outcome is unknown.
    #[error("{endpoint} does not speak this protocol: {cause}")]
    Protocol {
        /// Who answered.
        endpoint: String,
        /// What was wrong with its bytes.
        cause: String,
        /// What this means for the data.
        effect: Effect,
    },
}

impl ClientError {
    /// When nothing was written because of a condition: which, and what its key has.
    #[must_use]
    pub fn failed_condition(&self) -> Option<FailedCondition> {
        match self {
            Self::Refused { reply, .. } => reply.condition.as_ref().map(|at| at.failed),
            _ => None,
        }
    }

    /// What happened to the data: [`Effect::None`] for reads, else whether the write was applied.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Invalid(_) | Self::NotSent { .. } => Effect::NotApplied,
            Self::Refused { reply, .. } => reply.effect,
            Self::Unknown { .. } => Effect::Unknown,
            Self::NoAnswer { .. } => Effect::None,
            Self::Protocol { effect, .. } => *effect,
        }
    }

    /// The server's code, when it gave one.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { reply, .. } => Some(reply.code),
            Self::Unknown { code, .. } => *code,
            _ => None,
        }
    }

    /// How long the server asks to wait before the next try; zero when it does not say.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { reply, .. } => Duration::from_millis(reply.retry_after_ms as u64),
            _ => Duration::ZERO,
        }
    }

    /// Whether the same call may be made again without applying anything twice, and with some hope.
    #[must_use]
    pub const fn safe_to_retry(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::NoAnswer { .. } => true,
            Self::Refused { reply, .. } => reply.safe_to_retry(),
            Self::Invalid(_) | Self::Unknown { .. } | Self::Protocol { .. } => false,
        }
    }
}

//! [`Trace`]: what happened in a replica, for people (text) and checkers (JSON lines).

use super::Role;
use crate::base::{ReplicaId, Term};

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Trace {
    /// Role, term, or leader changed.
    Role {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// Who leads.
        leader: Option<ReplicaId>,
        /// Why.
        reason: &'static str,
    },
}

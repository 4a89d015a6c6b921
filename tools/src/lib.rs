//! What the tools share.

pub mod ctl;

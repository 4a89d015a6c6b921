//! What the tools share.

pub mod crash;
pub mod ctl;
pub mod sim;

//! `beach-sim`: whole clusters of real nodes in a world that is made up from one seed.

pub mod check;
pub mod hooks;

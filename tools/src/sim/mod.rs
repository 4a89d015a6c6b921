//! `beach-sim`: whole clusters of real nodes in a world that is made up from one seed.

pub mod api;
pub mod artifact;
pub mod check;
pub mod child;
pub mod ending;
pub mod faults;
pub mod hooks;
pub mod net;
pub mod operator;
#[cfg(beach_planted)]
pub mod planted;
pub mod run;
pub mod shape;
pub mod shrink;
pub mod slot;
pub mod steady;
pub mod strike;
pub mod swarm;
pub mod trace;
pub mod world;

//! `beach-sim`: whole clusters of real nodes in a world that is made up from one seed.

pub mod api;
pub mod check;
pub mod ending;
pub mod faults;
pub mod hooks;
pub mod net;
pub mod operator;
pub mod run;
pub mod shape;
pub mod slot;
pub mod steady;
pub mod strike;
pub mod trace;
pub mod world;

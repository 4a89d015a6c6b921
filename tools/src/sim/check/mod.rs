//! What judges a simulated run, and what gives it something to do.
pub mod register;

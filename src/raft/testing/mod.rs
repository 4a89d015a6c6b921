//! What tests of raft run in: a cluster in memory where every sync, delivery, tick, and crash is a call.
//!
//! | file | what |
//! |---|---|
//! | `disk.rs` | a log whose writes are durable when the test says so |
//! | `machine.rs` | the state machine and both ends of a snapshot |
//! | `doubles.rs` | stand-ins that the unit tests of raft share, too |
//! | `cluster.rs` | replicas, disks, and the wire |
//! | `check.rs`, `check_tests.rs` | what must hold at every step; that each check can fail |
//! | `show.rs`, `script.rs` | the scripts of `../testscripts` and how they read |
//! | `paper.rs`, `pitfalls.rs` | the rules of the Raft paper and the pitfalls, a named test each |
//! | `random.rs`, `garbage.rs` | random schedules; messages that make no sense |

mod check;
mod check_tests;
mod cluster;
mod disk;
pub mod doubles;
mod garbage;
mod machine;
mod paper;
mod pitfalls;
mod random;
mod script;
mod show;

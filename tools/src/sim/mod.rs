//! `beach-sim`: whole clusters of real nodes in a world that is made up from one seed.
//!
//! | module | what |
//! |---|---|
//! | [`shape`], [`faults`] | what follows from the seed before the run begins: timings, limits, the schedule of faults |
//! | [`world`], [`slot`], [`net`] | the world: events in virtual time, machines with nodes on them, the links between them |
//! | [`links`], [`recover`] | connections, where a cluster forms itself; a node that becomes a cluster of its own |
//! | [`strike`], [`rot`], [`operator`] | faults carried out within what the cluster can survive; flipped bits and rebuilt nodes; who changes the membership |
//! | [`copies`] | checkpoints, each restored and compared |
//! | [`excuses`] | when a node may stop itself |
//! | [`hooks`], [`check`] | who watches and who uses: the interfaces, and the real ones |
//! | [`ending`] | the end of a run: is it alive, is everybody equal? |
//! | [`mod@run`], [`trace`], [`api`] | one run, its report, its hash, and its text |
//! | [`child`], [`swarm`], [`shrink`], [`artifact`] | many runs in processes of their own, and what is kept of a failure |
//!
//! Invariant: a run follows from its options and plan. Nothing here looks at a clock of the machine, at threads, or at the order of a hash
//! map, but for [`child`] and [`swarm`], which are outside of the runs.
//!
//! What it does not simulate: bandwidth, sockets, the bytes of peer messages, and damage behind the log's last
//! watermark, which one node cannot tell from a torn write (design.md 6).

pub mod api;
pub mod artifact;
pub mod check;
pub mod child;
pub mod copies;
pub mod ending;
pub mod excuses;
pub mod faults;
mod goodbyes;
pub mod hooks;
pub mod links;
pub mod net;
pub mod operator;
#[cfg(beach_planted)]
pub mod planted;
pub mod recover;
pub mod rot;
pub mod run;
pub mod shape;
pub mod shrink;
pub mod slot;
pub mod steady;
pub mod strike;
pub mod swarm;
pub mod trace;
pub mod world;

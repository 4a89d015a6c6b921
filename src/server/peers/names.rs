//! Names of nodes, resolved in a lane of their own: a resolver may take many seconds, and the loop does not wait for it.
//!
//! ```text
//!  waiting: member, member, an operator's, a stranger's ─▶ at most two jobs ─▶ addresses ─▶ the first one is dialed
//!                                                          (one of them not a member's)
//! ```
//!
//! Invariants:
//! - Members come first, and one of the two threads is never taken by anybody else: whoever makes up names that take long to resolve
//!   does not keep this node from its members.
//! - Bounded: one place for each lane of a peer and for each introduction, both of which are bounded; two jobs at work. What was
//!   given up leaves no job behind but those two.
//!
//! What it does not do: remember addresses; each attempt asks anew, so that a node that moved is found.

use super::Peers;
use super::dialing::{Dial, Purpose};
use crate::base::Nanos;
use crate::env::{Completion, JobId, JobOutput, Lane};
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};

/// A lane waits this long for the addresses of a name, then it tries again like after any other failure.
pub(super) const RESOLVE_NS: u64 = 5_000_000_000;
/// Jobs at work; the lane has as many threads.
const AT_WORK: usize = 2;

/// A name, and for what.
#[derive(Debug)]
struct Wanted {
    purpose: Purpose,
    name: String,
    /// Whether a member is reached under it.
    member: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    waiting: VecDeque<Wanted>,
    at_work: BTreeMap<JobId, Wanted>,
}

impl Names {
    /// Nobody waits for it any more.
    pub fn forget(&mut self, purpose: Purpose) {
        self.waiting.retain(|wanted| wanted.purpose != purpose);
    }

    /// What comes next, if a job may begin.
    fn next(&mut self) -> Option<Wanted> {
        if self.at_work.len() >= AT_WORK {
            return None;
        }
        let others = self.at_work.values().any(|wanted| !wanted.member);
        let member = self.waiting.iter().position(|wanted| wanted.member);
        let asked = |wanted: &Wanted| matches!(wanted.purpose, Purpose::Introduction(_));
        let at = member
            .or_else(|| self.waiting.iter().position(asked).filter(|_| !others))
            .or_else(|| (!others && !self.waiting.is_empty()).then_some(0))?;
        self.waiting.remove(at)
    }
}

impl Peers {
    /// Whether a resolver is at work; the process must not wait for it when it ends.
    pub fn is_resolving(&self) -> bool {
        !self.names.at_work.is_empty()
    }

    /// The addresses of this name are wanted.
    pub(super) fn resolve(&mut self, purpose: Purpose, name: &str) {
        self.names.forget(purpose);
        let mut at_work = self.names.at_work.values();
        if !at_work.any(|wanted| wanted.purpose == purpose && wanted.name == name) {
            let member = match purpose {
                Purpose::Lane(node, _) => self.peers.get(&node).is_some_and(|p| p.is_stated()),
                Purpose::Introduction(_) => false,
            };
            self.names.waiting.push_back(Wanted { purpose, name: name.to_owned(), member });
        }
        self.start_resolving();
    }

    fn start_resolving(&mut self) {
        while let Some(wanted) = self.names.next() {
            let name = wanted.name.clone();
            let job = Box::new(move || -> JobOutput {
                let found = name.to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
                Box::new(match found {
                    Ok(found) if found.is_empty() => Err("it has no address".to_owned()),
                    found => found.map_err(|e| e.to_string()),
                })
            });
            let job = self.jobs.submit(Lane::Names, job);
            self.names.at_work.insert(job, wanted);
        }
    }

    /// It took too long.
    pub(super) fn stop_resolving(&mut self, now: Nanos, purpose: Purpose) {
        self.names.forget(purpose);
        let why = "the name is not resolved within 5 s";
        self.dial_ended(now, purpose, why, 0);
    }

    /// Takes the completion of a name's resolution, and passes on any other.
    pub fn job_done(&mut self, now: Nanos, done: Completion) -> Option<Completion> {
        let Some(Wanted { purpose, name, .. }) = self.names.at_work.remove(&done.id) else {
            return Some(done);
        };
        self.start_resolving();
        let slot = match purpose {
            Purpose::Lane(node, lane) => self
                .peers
                .get_mut(&node)
                .filter(|peer| peer.address() == name)
                .map(|peer| peer.slot_mut(lane))
                .filter(|slot| matches!(slot.dial, Dial::Resolving(_)))
                .map(|slot| &mut slot.addresses),
            Purpose::Introduction(id) => {
                self.introductions.get_mut(&id).map(|introduction| &mut introduction.addresses)
            }
        };
        // Else nobody waits for it any more.
        let slot = slot?;
        let found = done.output.downcast::<Result<Vec<SocketAddr>, String>>();
        match found.map_or_else(|_| Err("no addresses".to_owned()), |found| *found) {
            Ok(addresses) => {
                *slot = VecDeque::from(addresses);
                self.dial_next(now, purpose);
            }
            Err(why) => {
                self.dial_ended(now, purpose, &format!("the name cannot be resolved: {why}"), 0);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;
    use crate::proto::peer::Lane as PeerLane;

    fn want(names: &mut Names, node: u64, member: bool) {
        let purpose = Purpose::Lane(NodeId(node), PeerLane::Raft);
        names.waiting.push_back(Wanted { purpose, name: format!("n{node}:1"), member });
    }

    /// Begins what may begin; the nodes, in order.
    fn begun(names: &mut Names, next_job: &mut u64) -> Vec<u64> {
        let mut nodes = Vec::new();
        while let Some(wanted) = names.next() {
            let Purpose::Lane(node, _) = wanted.purpose else { panic!("{wanted:?}") };
            nodes.push(node.0);
            *next_job += 1;
            names.at_work.insert(JobId(*next_job), wanted);
        }
        nodes
    }

    #[test]
    fn strangers_never_keep_a_member_waiting() {
        let (mut names, mut job) = (Names::default(), 0);
        for stranger in 10..40 {
            want(&mut names, stranger, false);
        }
        assert_eq!(begun(&mut names, &mut job), [10], "one of them, though two could");
        want(&mut names, 1, true);
        assert_eq!(begun(&mut names, &mut job), [1], "at once");
        want(&mut names, 2, true);
        assert_eq!(begun(&mut names, &mut job), [0; 0], "both threads are busy");
        names.at_work.remove(&JobId(2));
        assert_eq!(begun(&mut names, &mut job), [2]);
        names.at_work.remove(&JobId(1));
        assert_eq!(begun(&mut names, &mut job), [11]);
        names.forget(Purpose::Lane(NodeId(12), PeerLane::Raft));
        names.at_work.clear();
        assert_eq!(begun(&mut names, &mut job), [13]);
    }
}

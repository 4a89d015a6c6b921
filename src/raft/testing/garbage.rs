//! Whatever a peer says, raft does not panic, asks for no impossible persist, and never goes back in term or commit:
//! a peer may be of another version, or damaged. (A lying peer can break safety; it cannot stop the process.)

use super::disk::{Contents, DiskLog};
use super::doubles::replica;
use crate::base::batch::WriteBatch;
use crate::base::{LogIndex, Member, MemberRole, Membership, Nanos, NodeId, ReplicaId, Term};
use crate::env::Random;
use crate::env::sim::SimRandom;
use crate::raft::message::{
    Append, AppendOutcome, AppendReply, Body, Message, SnapshotChunk, SnapshotMeta,
    SnapshotOutcome, SnapshotReply,
};
use crate::raft::{
    Change, Config, Effect, Entry, Event, HardState, LogView, Raft, ReadId, Role, Start,
};
use bytes::Bytes;
use std::sync::Arc;

/// Numbers that make sense, numbers near them, and extremes.
struct Junk(SimRandom);

impl Junk {
    fn number(&mut self, near: u64) -> u64 {
        match self.0.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - self.0.below(3),
            3 => self.0.next_u64(),
            4 => near.wrapping_sub(1 + self.0.below(3)),
            5..8 => near.wrapping_add(self.0.below(4)),
            _ => near,
        }
    }

    fn index(&mut self, raft: &Raft, log: &DiskLog) -> LogIndex {
        let near = [raft.commit(), log.last().0, log.first_index()][self.0.below(3) as usize];
        LogIndex(self.number(near.0))
    }

    fn term(&mut self, raft: &Raft) -> Term {
        // Rarely extreme, or nothing else happens afterwards.
        let near = raft.term().0;
        if self.0.chance(1, 200) { Term(self.number(near)) } else { Term(near + self.0.below(3)) }
    }

    fn id(&mut self) -> ReplicaId {
        let incarnation = u64::from(self.0.chance(1, 20));
        ReplicaId { node: NodeId(self.0.below(6)), incarnation }
    }

    fn member(&mut self) -> Member {
        let role = if self.0.chance(1, 2) { MemberRole::Voter } else { MemberRole::Learner };
        let mut replica = self.id();
        replica.node.0 += 1;
        Member { replica, role, peer_address: "a:1".into(), client_address: String::new() }
    }

    fn membership(&mut self) -> Membership {
        let mut membership = Membership::new();
        for _ in 0..self.0.below(4) {
            membership.insert(self.member());
        }
        membership
    }

    fn payload(&mut self) -> Bytes {
        match self.0.below(6) {
            0 => self.membership().to_entry(),
            1 => {
                let mut bytes = self.membership().to_entry().to_vec();
                let at = self.0.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.0.below(8);
                bytes.truncate(at + self.0.below(9) as usize);
                Bytes::from(bytes)
            }
            2 => Bytes::from(WriteBatch::no_op().into_bytes()),
            _ => Bytes::from_static(b"x"),
        }
    }

    fn append(&mut self, raft: &Raft, log: &DiskLog) -> Append {
        let at = self.index(raft, log);
        let known = log.term(at).unwrap_or_else(|| self.term(raft));
        let prev = (at, if self.0.chance(4, 5) { known } else { self.term(raft) });
        let mut next = at.0.wrapping_add(1);
        let entries = (0..self.0.below(4)).map(|_| {
            let index = if self.0.chance(1, 30) { self.number(next) } else { next };
            next = next.wrapping_add(1);
            let entry = log.term(LogIndex(index)).filter(|_| self.0.chance(1, 2));
            let term = entry.unwrap_or_else(|| self.term(raft));
            Entry { index: LogIndex(index), term, payload: self.payload() }
        });
        let entries = entries.collect();
        Append {
            session: self.number(1),
            round: self.number(3),
            prev,
            entries,
            commit: self.index(raft, log),
        }
    }

    fn chunk(&mut self, raft: &Raft, log: &DiskLog) -> SnapshotChunk {
        let meta = self.0.chance(3, 4).then(|| {
            Arc::new(SnapshotMeta {
                index: self.index(raft, log),
                term: self.term(raft),
                membership: (self.index(raft, log), self.membership()),
                bytes: self.number(2),
                body: Bytes::from_static(b"12345678"),
            })
        });
        SnapshotChunk {
            session: self.number(1),
            transfer: self.number(1),
            meta,
            offset: self.number(0),
            data: Bytes::from_static(b"zz"),
            crc: 0,
        }
    }

    fn body(&mut self, raft: &Raft, log: &DiskLog) -> Body {
        let granted = self.0.chance(2, 3);
        let last = (self.index(raft, log), self.term(raft));
        match self.0.below(14) {
            0 => Body::PreVote { last },
            1 => Body::PreVoteReply { granted },
            2 => Body::Vote { last, transfer: self.0.chance(1, 2) },
            3 => Body::VoteReply { granted },
            4 => Body::AppendReply(AppendReply {
                session: self.number(1),
                round: self.number(3),
                outcome: AppendOutcome::Accepted { matched: last.0 },
            }),
            5 => {
                let term = self.0.chance(1, 2).then_some(last.1);
                let conflict = (term, self.index(raft, log));
                let outcome = AppendOutcome::Rejected { prev: last.0, conflict };
                let (session, round) = (self.number(1), self.number(3));
                Body::AppendReply(AppendReply { session, round, outcome })
            }
            6 => Body::ReadIndex { read: ReadId(self.number(1)) },
            7 => {
                let index = self.0.chance(1, 2).then_some(last.0);
                Body::ReadIndexReply { read: ReadId(self.number(1)), index }
            }
            8 => Body::Snapshot(self.chunk(raft, log)),
            9 => {
                let outcome = match self.0.below(3) {
                    0 => SnapshotOutcome::Next { offset: self.number(0) },
                    1 => SnapshotOutcome::Installed { index: last.0 },
                    _ => SnapshotOutcome::Refused { reason: "no".into() },
                };
                let (session, transfer) = (self.number(1), self.number(1));
                Body::SnapshotReply(SnapshotReply { session, transfer, outcome })
            }
            10 => Body::TransferNow,
            _ => Body::Append(self.append(raft, log)),
        }
    }

    /// Mostly what a peer says, sometimes what the driver does.
    fn event(&mut self, raft: &Raft, log: &DiskLog) -> Event {
        match self.0.below(40) {
            0..4 => Event::Tick,
            4 => Event::Propose(vec![self.payload_of_a_client()]),
            5 => Event::ProposeChange(match self.0.below(3) {
                0 => {
                    let replica = self.id();
                    Change::AddLearner(Member { replica, ..self.member() })
                }
                1 => Change::Promote(self.id()),
                _ => Change::Remove(self.id()),
            }),
            6 => Event::Transfer(self.0.chance(1, 2).then(|| self.id().node)),
            7 => Event::Read(ReadId(self.0.next_u64())),
            8 => Event::PeerUnreachable(self.id()),
            9 => Event::SendChunk { to: self.id(), chunk: self.chunk(raft, log) },
            10 => Event::SnapshotFailed { to: self.id(), session: self.number(1) },
            _ => {
                let message = Message {
                    from: self.id(),
                    to: raft.id(),
                    term: self.term(raft),
                    body: self.body(raft, log),
                };
                Event::Message(message)
            }
        }
    }

    fn payload_of_a_client(&mut self) -> Bytes {
        Bytes::from_static(b"a client's write")
    }
}

fn one_life(seed: u64) -> u64 {
    let mut junk = Junk(SimRandom::new(seed));
    let voters = 1 + junk.0.below(5);
    let membership = (LogIndex::ZERO, Membership::of_voters((1..=voters).map(replica)));
    let entries = (1..=junk.0.below(6)).map(|index| Entry {
        index: LogIndex(index),
        term: Term(1),
        payload: Bytes::from_static(b"x"),
    });
    let hard_state = HardState { term: Term(1), vote: None };
    let entries = entries.collect();
    let mut log = DiskLog::of(Contents { hard_state, membership, entries, ..Contents::default() });
    let mut config = Config::new(replica(1), seed);
    config.trace = true;
    config.settings.lease_drift_ppm = junk.0.chance(1, 2).then_some(500);
    let memberships = log.view.memberships();
    let start = Start { hard_state, applied: LogIndex::ZERO, memberships };
    let mut raft = Raft::new(&config, start, &log);
    let mut now = Nanos::ZERO;
    let mut persists = 0;
    for _ in 0..150 {
        now = now.plus(junk.0.below(config.settings.election_timeout_ns / 2));
        let event = if junk.0.chance(1, 4)
            && let Some(io) = log.pending().first()
        {
            log.sync_to(*io);
            Event::Persisted(*io)
        } else {
            junk.event(&raft, &log)
        };
        let before = (raft.term(), raft.commit());
        let mut effects = Vec::new();
        raft.step(now, event, &log, &mut effects);
        let after = (raft.term(), raft.commit());
        assert!(after.0 >= before.0 && after.1 >= before.1, "{before:?} {after:?}");
        for effect in effects {
            match effect {
                Effect::Persist(persist) => {
                    persists += 1;
                    assert!(persist.truncate_from.is_none_or(|from| from > before.1));
                    log.submit(persist);
                }
                // The node stops: two leaders in one term.
                Effect::Fatal { .. } => return persists,
                _ => {}
            }
        }
        assert!(raft.commit() <= log.last().0, "{} of {:?}", raft.commit(), log.last());
        assert!(raft.role() != Role::Leader || raft.leader() == Some(raft.id()));
    }
    persists
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn garbage_from_peers_never_panics() {
    let mut persists = 0;
    for seed in 0..4000 {
        let _seed = Seed(seed);
        persists += one_life(seed);
    }
    assert!(persists > 8000, "only {persists} persists: the garbage does nothing");
}

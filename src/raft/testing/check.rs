//! [`Checker`]: what must hold in every cluster at every step, whatever the schedule.
//!
//! | invariant | how it is checked |
//! |---|---|
//! | election safety (§5.2) | one leader per term, for ever |
//! | leader append-only (§5.3) | a leader's persist never truncates |
//! | log matching (§5.3) | an (index, term) has one payload and one predecessor in all logs that ever were |
//! | leader completeness (§5.4) | a leader holds all that was committed in lower terms, when it is elected and later |
//! | state machine safety (§5.4.3) | one committed entry per index; one digest of the state per applied index |
//! | commit needs a durable majority | a leader's commit index stands on the disks of a majority of its voters |
//! | monotonic | no replica's term or commit index goes back; `commit <= last` |
//! | one vote per term | of each replica, over all its restarts |
//! | persist before send | a vote or an acknowledgement leaves after what it says is on its sender's disk |
//! | persist before apply | a replica applies what is on its own disk, so that its state is never newer than its log |
//! | membership in force (§6) | it is the newest one in the log |
//! | an acknowledgement is true | what a follower calls matched equals the log of the leader of that term |
//! | one change at a time (§6) | a change is appended when all before it, and something of the term, are committed |
//! | linearizable reads (§8) | a read's index covers all that any replica called committed before it began |
//!
//! The checker never looks inside [`Raft`](crate::raft::Raft): it sees the public state, the effects, the logs, and the
//! disks. Every violation is a panic that names the invariant; `check_tests.rs` shows that each can be found.

use super::disk::DiskLog;
use crate::base::{LogIndex, Membership, ReplicaId, Term};
use crate::raft::message::{AppendOutcome, Body, Message, SnapshotOutcome};
use crate::raft::{LogView, Persist, ReadId, Role};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What the checker may know about a replica.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub id: ReplicaId,
    /// `None`: it is down.
    pub up: Option<Up<'a>>,
    pub log: &'a DiskLog,
    /// The applied index of the state on its disk.
    pub flushed: LogIndex,
}

/// What a running replica says of itself.
#[derive(Clone, Copy)]
pub struct Up<'a> {
    pub role: Role,
    pub term: Term,
    pub commit: LogIndex,
    pub membership: &'a Membership,
}

impl Seen<'_> {
    /// Whether a restart would still have this entry.
    fn has_durably(&self, index: LogIndex, term: Term) -> bool {
        self.flushed >= index || self.log.holds_durably(index, term)
    }

    fn leads(&self) -> Option<Term> {
        self.up.filter(|up| up.role == Role::Leader).map(|up| up.term)
    }
}

/// A committed entry: its term, and the term of the leader that committed it.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    by: Term,
}

/// See the module.
#[derive(Default)]
pub struct Checker {
    leaders: BTreeMap<Term, ReplicaId>,
    /// Every entry that ever stood in a log: the term before it, and its payload.
    entries: BTreeMap<(LogIndex, Term), (Term, Bytes)>,
    /// Index 1 first.
    committed: Vec<Committed>,
    digests: BTreeMap<LogIndex, u64>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    /// Term and commit index at the last look.
    lives: BTreeMap<ReplicaId, (Term, LogIndex)>,
    /// What was committed when a read began.
    reads: BTreeMap<(ReplicaId, ReadId), LogIndex>,
    answered: u64,
}

impl Checker {
    /// The highest index that any replica called committed.
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// How many terms had a leader.
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    fn committed_at(&self, index: LogIndex) -> Option<Committed> {
        self.committed.get(usize::try_from(index.0.checked_sub(1)?).ok()?).copied()
    }

    /// A replica comes up: its volatile state may lie behind what it was.
    pub fn started(&mut self, seen: Seen<'_>) {
        let Some(up) = seen.up else { return };
        assert!(up.term >= seen.log.durable.hard_state.term, "{}: the term went back", seen.id);
        self.lives.insert(seen.id, (up.term, up.commit));
        self.logged(seen.log, seen.log.first_index());
    }

    /// Log matching, by induction over (index, term): all entries from `from` on.
    pub fn logged(&mut self, log: &DiskLog, from: LogIndex) {
        for entry in log.view.entries.iter().filter(|e| e.index >= from) {
            let Some(before) = log.term(entry.index.prev()) else { continue };
            let known = self.entries.entry((entry.index, entry.term));
            let known = known.or_insert_with(|| (before, entry.payload.clone()));
            assert!(
                *known == (before, entry.payload.clone()),
                "log matching: entry {}@{} follows term {before}, elsewhere term {}, or differs",
                entry.index,
                entry.term,
                known.0,
            );
            assert!(entry.term >= before, "terms go down at entry {}", entry.index);
        }
    }

    /// A persist was taken by the log of `seen`.
    pub fn persisted(&mut self, seen: Seen<'_>, persist: &Persist) {
        let id = seen.id;
        let commit = self.lives.get(&id).map_or(LogIndex::ZERO, |(_, commit)| *commit);
        if let Some(from) = persist.truncate_from {
            assert!(from > commit, "{id}: entry {from} is committed and truncated");
            assert!(seen.leads().is_none(), "leader append-only: {id} truncates from {from}");
        }
        self.logged(seen.log, persist.entries.first().map_or(LogIndex(u64::MAX), |e| e.index));
    }

    /// `seen` became the leader.
    pub fn elected(&mut self, seen: Seen<'_>) {
        let Some(term) = seen.leads() else { panic!("{} says it leads, and does not", seen.id) };
        let leader = *self.leaders.entry(term).or_insert(seen.id);
        assert!(leader == seen.id, "election safety: {leader} and {} lead term {term}", seen.id);
        self.complete(seen, LogIndex(1));
    }

    /// Leader completeness from `from` on.
    fn complete(&self, seen: Seen<'_>, from: LogIndex) {
        let Some(term) = seen.leads() else { return };
        for index in from.0.max(seen.log.view.baseline.0.0 + 1)..=self.committed().0 {
            let index = LogIndex(index);
            let Some(entry) = self.committed_at(index).filter(|e| e.by < term) else { continue };
            let held = seen.log.term(index);
            assert!(
                held == Some(entry.term),
                "leader completeness: {} leads term {term} without {index}@{}, which was committed in term {}; it has {held:?}",
                seen.id,
                entry.term,
                entry.by,
            );
        }
    }

    /// After each step of a replica, with everybody for the quorum.
    pub fn stepped(&mut self, seen: Seen<'_>, all: &[Seen<'_>]) {
        let (id, Some(up)) = (seen.id, seen.up) else { return };
        let (term, commit) = *self.lives.get(&id).unwrap_or(&(Term::ZERO, LogIndex::ZERO));
        assert!(up.term >= term, "monotonic: {id}'s term went from {term} to {}", up.term);
        assert!(up.commit >= commit, "monotonic: {id}'s commit {commit} went to {}", up.commit);
        let last = seen.log.last().0;
        assert!(up.commit <= last, "{id}: commit {} is above its last entry {last}", up.commit);
        let in_log = seen.log.view.memberships().pop().unwrap_or_default().1;
        assert!(*up.membership == in_log, "{id}: the membership in force is not the log's newest");
        self.lives.insert(id, (up.term, up.commit));
        if up.commit > commit {
            self.commit_moved(seen, up, commit, all);
        }
    }

    fn commit_moved(&mut self, seen: Seen<'_>, up: Up<'_>, before: LogIndex, all: &[Seen<'_>]) {
        if let Some(term) = seen.leads() {
            self.stands_on_a_majority(seen, up, term, all);
        }
        let known = self.committed();
        for index in before.0 + 1..=up.commit.0 {
            let index = LogIndex(index);
            let Some(term) = seen.log.term(index) else { continue };
            match self.committed_at(index) {
                Some(entry) => assert!(
                    entry.term == term,
                    "state machine safety: {} commits {index}@{term}, it was {index}@{}",
                    seen.id,
                    entry.term,
                ),
                None if index == self.committed().next() => {
                    self.committed.push(Committed { term, by: up.term });
                }
                None => panic!("{} commits {index} before anybody had what is below", seen.id),
            }
        }
        for other in all {
            self.complete(*other, known.next());
        }
    }

    fn stands_on_a_majority(&self, seen: Seen<'_>, up: Up<'_>, term: Term, all: &[Seen<'_>]) {
        let at = up.commit;
        let Some(held) = seen.log.term(at) else { return };
        assert!(held == term, "§5.4.2: {} commits {at}@{held} by counting in {term}", seen.id);
        let voters: Vec<ReplicaId> = up.membership.voters().collect();
        let has = |r: &&Seen<'_>| voters.contains(&r.id) && r.has_durably(at, held);
        let having: Vec<ReplicaId> = all.iter().filter(has).map(|r| r.id).collect();
        assert!(
            having.len() > voters.len() / 2,
            "commit without a durable majority: {} commits {at}@{held}, which is on the disks of {having:?} of {voters:?}",
            seen.id,
        );
    }

    /// A replica was told to apply up to `through`.
    pub fn handed_out(&self, seen: Seen<'_>, through: LogIndex) {
        let (id, held) = (seen.id, seen.log.term(through));
        let durable = held.is_none_or(|term| seen.has_durably(through, term));
        assert!(durable, "persist before apply: {id} applies {through} before its sync");
    }

    /// The state machine of `id` stands at `index`.
    pub fn applied(&mut self, id: ReplicaId, index: LogIndex, digest: u64) {
        assert!(index <= self.committed(), "{id} applied {index}, which nobody committed");
        let known = *self.digests.entry(index).or_insert(digest);
        assert!(known == digest, "state machine safety: {id}'s state at {index} is another one");
    }

    /// A message goes on the wire.
    pub fn sent(&mut self, seen: Seen<'_>, message: &Message, all: &[Seen<'_>]) {
        let Message { from, to, term, body } = message;
        let durable = seen.log.durable.hard_state;
        let voted = |vote: ReplicaId| {
            let known = durable.term == *term && durable.vote == Some(vote);
            assert!(
                known,
                "persist before send: {from} votes for {vote} in {term}, on its disk is {durable:?}"
            );
        };
        match body {
            Body::VoteReply { granted: true } => {
                voted(*to);
                self.voted(*from, *term, *to);
            }
            Body::Vote { .. } => {
                voted(*from);
                self.voted(*from, *term, *from);
            }
            Body::AppendReply(reply) => {
                let known = durable.term >= *term;
                assert!(
                    known,
                    "persist before send: {from} answers in {term}, on its disk is {durable:?}"
                );
                if let AppendOutcome::Accepted { matched } = reply.outcome {
                    Self::acknowledged(seen, *term, matched, all);
                }
            }
            Body::SnapshotReply(reply) => {
                if let SnapshotOutcome::Installed { index } = reply.outcome {
                    Self::acknowledged(seen, *term, index, all);
                }
            }
            _ => {}
        }
    }

    fn voted(&mut self, voter: ReplicaId, term: Term, vote: ReplicaId) {
        let known = *self.votes.entry((voter, term)).or_insert(vote);
        assert!(known == vote, "one vote per term: {voter} votes for {known} and {vote} in {term}");
    }

    fn acknowledged(seen: Seen<'_>, term: Term, matched: LogIndex, all: &[Seen<'_>]) {
        let held = seen.log.term(matched);
        let durable = held.is_some_and(|held| seen.has_durably(matched, held))
            || matched <= seen.flushed
            || matched < seen.log.view.baseline.0;
        assert!(durable, "persist before send: {} acknowledges {matched} before its sync", seen.id);
        let leader = all.iter().find(|r| r.leads() == Some(term));
        let theirs = leader.and_then(|l| l.log.term(matched));
        if let (Some(theirs), Some(held)) = (theirs, held) {
            assert!(held == theirs, "{} matches {matched}@{theirs} with its {held}", seen.id);
        }
        if let Some(last) = leader.map(|l| l.log.last().0) {
            assert!(matched <= last, "{} matches {matched}, the leader ends at {last}", seen.id);
        }
    }

    /// A read was given to a replica.
    pub fn read_began(&mut self, id: ReplicaId, read: ReadId) {
        self.reads.insert((id, read), self.committed());
    }

    /// A read may be answered at `index`.
    pub fn read_ready(&mut self, id: ReplicaId, read: ReadId, index: LogIndex) {
        let began = self.reads.remove(&(id, read));
        let began = began.unwrap_or_else(|| panic!("{id} answers {read:?} twice or unasked"));
        assert!(index >= began, "stale read: {id} at {index}, but {began} was committed before");
        assert!(index <= self.committed(), "{id} reads at {index}, which nobody committed");
        self.answered += 1;
    }

    /// How many reads were answered.
    pub fn reads_answered(&self) -> u64 {
        self.answered
    }

    /// A read was refused.
    pub fn read_refused(&mut self, id: ReplicaId, read: ReadId) {
        let known = self.reads.remove(&(id, read));
        assert!(known.is_some(), "{id} refuses {read:?} twice or unasked");
    }

    /// Reads that nobody has answered.
    pub fn reads_open(&self) -> usize {
        self.reads.len()
    }

    /// The replica crashed: its reads have no answer.
    pub fn crashed(&mut self, id: ReplicaId) {
        self.reads.retain(|(at, _), _| *at != id);
    }

    /// A leader appended a membership change at `index`.
    pub fn changed(&self, seen: Seen<'_>, index: LogIndex) {
        let term = seen.leads().expect("only a leader changes the membership");
        let own = self.committed.iter().any(|e| e.term == term);
        assert!(own, "§6: {} changes before a commit in its term {term}", seen.id);
        let other = seen.log.view.memberships();
        let other =
            other.iter().map(|(at, _)| *at).find(|at| *at < index && *at > self.committed());
        assert!(other.is_none(), "one change at a time: {other:?} and {index}");
    }
}

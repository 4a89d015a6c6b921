//! Each invariant of the [`Checker`] can be found broken: a lie is planted in a healthy cluster, and the check that is
//! about it panics.

use super::check::{Checker, Seen, Up};
use super::cluster::Cluster;
use super::disk::{Contents, DiskLog};
use super::doubles::replica;
use super::paper::{ONE, THREE, TWO, append, message, three_with_a_leader};
use crate::base::{LogIndex, Membership, ReplicaId, Term};
use crate::raft::message::{AppendOutcome, AppendReply, Body};
use crate::raft::{Entry, Event, HardState, IoId, Persist, ReadId, Role};
use bytes::Bytes;

/// A replica as the checker sees it, made up.
struct Made {
    id: ReplicaId,
    role: Role,
    term: u64,
    commit: u64,
    membership: Membership,
    log: DiskLog,
}

impl Made {
    fn new(id: u64, role: Role, term: u64, commit: u64, terms: &[u64]) -> Self {
        let entries = (1..).zip(terms).map(|(index, term)| Entry {
            index: LogIndex(index),
            term: Term(*term),
            payload: Bytes::from(format!("t{term}")),
        });
        let entries = entries.collect();
        let hard_state = HardState { term: Term(term), vote: None };
        let membership = Membership::of_voters((1..=3).map(replica));
        let in_log = (LogIndex::ZERO, membership.clone());
        let contents = Contents { hard_state, entries, membership: in_log, ..Contents::default() };
        let log = DiskLog::of(contents);
        Self { id: replica(id), role, term, commit, membership, log }
    }

    fn seen(&self) -> Seen<'_> {
        let up = Up {
            role: self.role,
            term: Term(self.term),
            commit: LogIndex(self.commit),
            membership: &self.membership,
        };
        Seen { id: self.id, up: Some(up), log: &self.log, flushed: LogIndex::ZERO }
    }
}

/// Everybody has 1@1, and leader 1 committed it in term 1.
fn committed() -> Checker {
    let all = [1, 2, 3].map(|id| {
        let role = if id == 1 { Role::Leader } else { Role::Follower };
        Made::new(id, role, 1, u64::from(id == 1), &[1])
    });
    let mut checker = Checker::default();
    let seen: Vec<Seen<'_>> = all.iter().map(Made::seen).collect();
    checker.elected(seen[0]);
    checker.stepped(seen[0], &seen);
    assert_eq!(checker.committed(), LogIndex(1));
    checker
}

#[test]
#[should_panic(expected = "election safety: 1 and 2 lead term 1")]
fn two_leaders_of_one_term_are_found() {
    committed().elected(Made::new(2, Role::Leader, 1, 0, &[1]).seen());
}

#[test]
#[should_panic(expected = "leader append-only: 1 truncates from 2")]
fn a_leader_that_truncates_is_found() {
    let leader = Made::new(1, Role::Leader, 1, 1, &[1, 1]);
    let truncate_from = Some(LogIndex(2));
    let persist = Persist { io: IoId(1), hard_state: None, truncate_from, entries: Vec::new() };
    committed().persisted(leader.seen(), &persist);
}

#[test]
#[should_panic(expected = "entry 1 is committed and truncated")]
fn a_truncated_commit_is_found() {
    let follower = Made::new(2, Role::Follower, 1, 1, &[1]);
    let mut checker = committed();
    checker.stepped(follower.seen(), &[follower.seen()]);
    let truncate_from = Some(LogIndex(1));
    let persist = Persist { io: IoId(1), hard_state: None, truncate_from, entries: Vec::new() };
    checker.persisted(follower.seen(), &persist);
}

#[test]
#[should_panic(expected = "log matching: entry 3@3")]
fn an_entry_with_another_predecessor_is_found() {
    let mut checker = Checker::default();
    checker.started(Made::new(1, Role::Follower, 3, 0, &[1, 1, 3]).seen());
    checker.started(Made::new(2, Role::Follower, 3, 0, &[1, 2, 3]).seen());
}

#[test]
#[should_panic(expected = "log matching: entry 2@1")]
fn an_entry_with_another_payload_is_found() {
    let mut checker = Checker::default();
    let mut one = Made::new(1, Role::Follower, 1, 0, &[1, 1]);
    checker.started(one.seen());
    one.log.view.entries[1].payload = Bytes::from_static(b"another");
    checker.started(one.seen());
}

#[test]
#[should_panic(expected = "leader completeness: 2 leads term 2 without 1@1")]
fn a_new_leader_without_a_committed_entry_is_found() {
    committed().elected(Made::new(2, Role::Leader, 2, 0, &[]).seen());
}

#[test]
#[should_panic(expected = "leader completeness: 3 leads term 2 without 1@1")]
fn a_commit_that_a_newer_leader_lacks_is_found() {
    let mut checker = Checker::default();
    let late = Made::new(1, Role::Leader, 1, 1, &[1]);
    let with = Made::new(2, Role::Follower, 1, 0, &[1]);
    let newer = Made::new(3, Role::Leader, 2, 0, &[]);
    checker.elected(late.seen());
    checker.elected(newer.seen());
    checker.stepped(late.seen(), &[late.seen(), with.seen(), newer.seen()]);
}

#[test]
#[should_panic(expected = "state machine safety: 2 commits 1@2, it was 1@1")]
fn another_entry_committed_at_an_index_is_found() {
    let wrong = Made::new(2, Role::Follower, 2, 1, &[2]);
    committed().stepped(wrong.seen(), &[wrong.seen()]);
}

#[test]
#[should_panic(expected = "state machine safety: 2's state at 1 is another one")]
fn another_state_at_an_index_is_found() {
    let mut checker = committed();
    checker.applied(replica(1), LogIndex(1), 7);
    checker.applied(replica(2), LogIndex(1), 8);
}

#[test]
#[should_panic(expected = "3 applied 2, which nobody committed")]
fn an_apply_of_what_is_not_committed_is_found() {
    committed().applied(replica(3), LogIndex(2), 7);
}

#[test]
#[should_panic(expected = "persist before apply: 2 applies 1 before its sync")]
fn an_apply_before_the_sync_is_found() {
    let mut follower = Made::new(2, Role::Follower, 1, 1, &[1]);
    follower.log.durable.entries.clear();
    committed().handed_out(follower.seen(), LogIndex(1));
}

#[test]
#[should_panic(expected = "1: the membership in force is not the log's newest")]
fn a_membership_that_is_not_the_logs_newest_is_found() {
    let mut leader = Made::new(1, Role::Leader, 1, 1, &[1]);
    leader.membership.remove(TWO);
    committed().stepped(leader.seen(), &[leader.seen()]);
}

#[test]
#[should_panic(expected = "§5.4.2: 1 commits 1@1 by counting in 2")]
fn an_old_entry_committed_by_counting_is_found() {
    let leader = Made::new(1, Role::Leader, 2, 1, &[1]);
    Checker::default().stepped(leader.seen(), &[leader.seen()]);
}

#[test]
#[should_panic(expected = "commit without a durable majority: 1 commits 2@1")]
fn a_commit_that_a_follower_lost_from_its_disk_is_found() {
    let mut cluster = three_with_a_leader();
    cluster.crash(THREE, 0);
    cluster.propose(ONE, "x");
    cluster.settle_but(|m| m.to == replica(1));
    cluster.node_mut(TWO).log.durable.entries.pop();
    let acks = cluster.lost.clone();
    acks.into_iter().for_each(|m| cluster.hand_over(m));
}

#[test]
#[should_panic(expected = "monotonic: 1's term went from 1 to 0")]
fn a_term_that_goes_back_is_found() {
    let one = Made::new(1, Role::Follower, 0, 1, &[1]);
    committed().stepped(one.seen(), &[one.seen()]);
}

#[test]
#[should_panic(expected = "monotonic: 1's commit 1 went to 0")]
fn a_commit_that_goes_back_is_found() {
    let one = Made::new(1, Role::Follower, 1, 0, &[1]);
    committed().stepped(one.seen(), &[one.seen()]);
}

#[test]
#[should_panic(expected = "commit 2 is above its last entry 1")]
fn a_commit_above_the_log_is_found() {
    let one = Made::new(1, Role::Follower, 1, 2, &[1]);
    committed().stepped(one.seen(), &[one.seen()]);
}

#[test]
#[should_panic(expected = "one vote per term: 1 votes for 2 and 3 in 2")]
fn a_second_vote_in_a_term_is_found() {
    let mut checker = Checker::default();
    for to in [2, 3] {
        let mut voter = Made::new(1, Role::Follower, 2, 0, &[]);
        voter.log.durable.hard_state.vote = Some(replica(to));
        let reply = message(1, to, 2, Body::VoteReply { granted: true });
        checker.sent(voter.seen(), &reply, &[]);
    }
}

#[test]
#[should_panic(expected = "persist before send: 1 votes for 2 in 2")]
fn a_vote_before_its_sync_is_found() {
    let mut voter = Made::new(1, Role::Follower, 2, 0, &[]);
    voter.log.durable.hard_state = HardState { term: Term(1), vote: Some(replica(2)) };
    let reply = message(1, 2, 2, Body::VoteReply { granted: true });
    Checker::default().sent(voter.seen(), &reply, &[]);
}

fn ack(from: u64, term: u64, matched: u64) -> crate::raft::message::Message {
    let outcome = AppendOutcome::Accepted { matched: LogIndex(matched) };
    message(from, 1, term, Body::AppendReply(AppendReply { session: 1, round: 1, outcome }))
}

#[test]
#[should_panic(expected = "persist before send: 2 acknowledges 1 before its sync")]
fn an_acknowledgement_before_its_sync_is_found() {
    let mut follower = Made::new(2, Role::Follower, 1, 0, &[1]);
    follower.log.durable.entries.clear();
    Checker::default().sent(follower.seen(), &ack(2, 1, 1), &[]);
}

#[test]
#[should_panic(expected = "persist before send: 2 answers in 1")]
fn an_answer_in_a_term_that_is_not_on_the_disk_is_found() {
    let mut follower = Made::new(2, Role::Follower, 1, 0, &[1]);
    follower.log.durable.hard_state.term = Term(0);
    Checker::default().sent(follower.seen(), &ack(2, 1, 1), &[]);
}

#[test]
#[should_panic(expected = "2 matches 2@1 with its 2")]
fn an_acknowledgement_of_another_entry_is_found() {
    let leader = Made::new(1, Role::Leader, 3, 0, &[1, 1]);
    let follower = Made::new(2, Role::Follower, 3, 0, &[1, 2]);
    Checker::default().sent(follower.seen(), &ack(2, 3, 2), &[leader.seen()]);
}

#[test]
#[should_panic(expected = "2 matches 2, the leader ends at 1")]
fn an_acknowledgement_of_more_than_the_leader_has_is_found() {
    let leader = Made::new(1, Role::Leader, 3, 0, &[1]);
    let follower = Made::new(2, Role::Follower, 3, 0, &[1, 2]);
    Checker::default().sent(follower.seen(), &ack(2, 3, 2), &[leader.seen()]);
}

#[test]
#[should_panic(expected = "§6: 1 changes before a commit in its term 2")]
fn a_change_before_a_commit_of_the_term_is_found() {
    let leader = Made::new(1, Role::Leader, 2, 1, &[1, 2]);
    committed().changed(leader.seen(), LogIndex(2));
}

#[test]
#[should_panic(expected = "one change at a time")]
fn a_second_change_is_found() {
    let mut leader = Made::new(1, Role::Leader, 1, 1, &[1, 1, 1]);
    for entry in &mut leader.log.view.entries[1..] {
        entry.payload = leader.membership.to_entry();
    }
    committed().changed(leader.seen(), LogIndex(3));
}

#[test]
#[should_panic(expected = "stale read: 1 at 0, but 1 was committed before")]
fn a_stale_read_is_found() {
    let mut checker = committed();
    checker.read_began(replica(1), ReadId(1));
    checker.read_ready(replica(1), ReadId(1), LogIndex(0));
}

#[test]
#[should_panic(expected = "1 reads at 2, which nobody committed")]
fn a_read_of_what_is_not_committed_is_found() {
    let mut checker = committed();
    checker.read_began(replica(1), ReadId(1));
    checker.read_ready(replica(1), ReadId(1), LogIndex(2));
}

#[test]
#[should_panic(expected = "answers ReadId(1) twice or unasked")]
fn a_read_that_is_answered_twice_is_found() {
    let mut checker = committed();
    checker.read_began(replica(1), ReadId(1));
    checker.read_ready(replica(1), ReadId(1), LogIndex(1));
    checker.read_ready(replica(1), ReadId(1), LogIndex(1));
}

#[test]
#[should_panic(expected = "log matching: entry 2@1")]
fn a_forged_append_in_a_live_cluster_is_found() {
    let mut cluster: Cluster = three_with_a_leader();
    cluster.propose(ONE, "x");
    cluster.step(TWO, Event::Message(append((1, 2, 1), (1, 1), &[1], 1)));
}

//! The rules of the Raft paper (Ongaro and Ousterhout, extended version), one named test each, by section. §6 is the
//! single-server change of chapter 4 of Ongaro's thesis, which this raft implements instead of joint consensus.
//!
//! Whole protocol runs are in `../testscripts`; here a replica is usually asked one question.

use super::cluster::Cluster;
use super::doubles::replica;
use crate::base::batch::WriteBatch;
use crate::base::{LogIndex, MemberRole, NodeId, Term};
use crate::raft::message::{Append, AppendOutcome, AppendReply, Body, Message};
use crate::raft::{Change, Effect, Entry, Event, HardState, LogView, ReadId, Role};
use bytes::Bytes;

pub(super) const ONE: NodeId = NodeId(1);
pub(super) const TWO: NodeId = NodeId(2);
pub(super) const THREE: NodeId = NodeId(3);
pub(super) const FOUR: NodeId = NodeId(4);

/// `terms` are those of the entries after `prev`, written in the order of their indexes.
pub(super) fn append(
    (from, to, term): (u64, u64, u64),
    prev: (u64, u64),
    terms: &[u64],
    commit: u64,
) -> Message {
    let entries = (prev.0 + 1..).zip(terms).map(|(index, term)| Entry {
        index: LogIndex(index),
        term: Term(*term),
        payload: Bytes::from(format!("t{term}")),
    });
    let body = Body::Append(Append {
        session: 1,
        round: 1,
        prev: (LogIndex(prev.0), Term(prev.1)),
        entries: entries.collect(),
        commit: LogIndex(commit),
    });
    message(from, to, term, body)
}

pub(super) fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { from: replica(from), to: replica(to), term: Term(term), body }
}

pub(super) fn vote(from: u64, to: u64, term: u64, last: (u64, u64)) -> Message {
    let last = (LogIndex(last.0), Term(last.1));
    message(from, to, term, Body::Vote { last, transfer: false })
}

pub(super) fn pre_vote(from: u64, to: u64, term: u64, last: (u64, u64)) -> Message {
    message(from, to, term, Body::PreVote { last: (LogIndex(last.0), Term(last.1)) })
}

/// Gives `to` a message, lets it sync, and takes what it answers to the sender.
pub(super) fn answer(cluster: &mut Cluster, message: Message) -> Vec<Message> {
    let (from, to) = (message.from, message.to.node);
    cluster.wire.clear();
    cluster.step(to, Event::Message(message));
    cluster.sync(to, usize::MAX);
    cluster.wire.drain(..).filter(|m| m.to == from).collect()
}

/// The one answer.
pub(super) fn only(answers: Vec<Message>) -> Message {
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.into_iter().next().expect("there is one")
}

pub(super) fn granted(answer: &Message) -> bool {
    match answer.body {
        Body::VoteReply { granted } | Body::PreVoteReply { granted } => granted,
        _ => panic!("{answer:?} is no vote"),
    }
}

pub(super) fn outcome(answer: &Message) -> AppendOutcome {
    match &answer.body {
        Body::AppendReply(AppendReply { outcome, .. }) => *outcome,
        _ => panic!("{answer:?} answers no append"),
    }
}

pub(super) fn accepted(matched: u64) -> AppendOutcome {
    AppendOutcome::Accepted { matched: LogIndex(matched) }
}

/// A cluster whose node has entries of these terms and no vote in the last term.
pub(super) fn with_log(voters: u64, node: NodeId, terms: &[u64]) -> Cluster {
    let mut cluster = Cluster::new(voters);
    let term = Term(terms.last().copied().unwrap_or(0));
    cluster.set_log(node, terms, HardState { term, vote: None });
    cluster
}

pub(super) fn terms(cluster: &Cluster, node: NodeId) -> Vec<u64> {
    cluster.node(node).log.view.entries.iter().map(|e| e.term.0).collect()
}

pub(super) fn role(cluster: &Cluster, node: NodeId) -> (Role, u64) {
    let raft = cluster.node(node).raft();
    (raft.role(), raft.term().0)
}

pub(super) fn commit(cluster: &Cluster, node: NodeId) -> u64 {
    cluster.node(node).raft().commit().0
}

/// The effects of one event, not carried out: for the last step of a test.
pub(super) fn effects(cluster: &mut Cluster, node: NodeId, event: Event) -> Vec<Effect> {
    let replica = cluster.node_mut(node);
    let (now, mut out) = (replica.clock, Vec::new());
    let raft = replica.raft.as_mut().expect("it is up");
    raft.step(now, event, &replica.log, &mut out);
    out
}

/// Node 1 of three leads, and its no-op is committed everywhere.
pub(super) fn three_with_a_leader() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(ONE);
    cluster.tick(ONE);
    cluster.settle();
    assert_eq!([ONE, TWO, THREE].map(|n| commit(&cluster, n)), [1, 1, 1]);
    cluster
}

/// All clocks move on by this many election timeouts, so that no leader counts as heard from.
pub(super) fn silence(cluster: &mut Cluster, timeouts: u64) {
    let ns = cluster.config.settings.election_timeout_ns * timeouts;
    cluster.replicas.values_mut().for_each(|r| r.clock = r.clock.plus(ns));
}

// §5.1: terms.

#[test]
fn section_5_1_a_newer_term_makes_a_leader_a_follower_in_that_term() {
    let mut cluster = three_with_a_leader();
    cluster.step(ONE, Event::Message(append((2, 1, 5), (1, 1), &[], 0)));
    assert_eq!(role(&cluster, ONE), (Role::Follower, 5));
    assert_eq!(cluster.node(ONE).raft().leader(), Some(replica(2)));
}

#[test]
fn section_5_1_a_newer_term_makes_a_candidate_a_follower_and_clears_its_vote() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(ONE);
    cluster.deliver_kind("pre-vote");
    cluster.deliver_kind("pre-vote-reply");
    assert_eq!(role(&cluster, ONE), (Role::Candidate, 1));
    cluster.sync(ONE, usize::MAX);
    let reply = message(2, 1, 7, Body::VoteReply { granted: false });
    cluster.step(ONE, Event::Message(reply));
    cluster.sync(ONE, usize::MAX);
    assert_eq!(role(&cluster, ONE), (Role::Follower, 7));
    let hard_state = cluster.node(ONE).log.durable.hard_state;
    assert_eq!(hard_state, HardState { term: Term(7), vote: None });
}

#[test]
fn section_5_1_an_append_of_an_older_term_is_refused_with_the_newer_one() {
    let mut cluster = with_log(3, ONE, &[1, 4]);
    let answer = only(answer(&mut cluster, append((2, 1, 3), (2, 3), &[3], 3)));
    assert_eq!(answer.term, Term(4));
    assert!(matches!(outcome(&answer), AppendOutcome::Rejected { .. }));
    assert_eq!(terms(&cluster, ONE), [1, 4]);
}

#[test]
fn section_5_1_a_vote_in_an_older_term_is_refused_with_the_newer_one() {
    let mut cluster = with_log(3, ONE, &[1, 4]);
    let answer = only(answer(&mut cluster, vote(2, 1, 3, (9, 2))));
    assert_eq!((answer.term, granted(&answer)), (Term(4), false));
}

// §5.2: election.

#[test]
fn section_5_2_a_replica_comes_up_as_a_follower_and_keeps_its_term() {
    let mut cluster = with_log(3, ONE, &[1, 4]);
    assert_eq!(role(&cluster, ONE), (Role::Follower, 4));
    cluster.crash(ONE, 0);
    cluster.start(ONE);
    assert_eq!(role(&cluster, ONE), (Role::Follower, 4));
}

#[test]
fn section_5_2_a_silent_leader_is_replaced_after_an_election_timeout() {
    let mut cluster = three_with_a_leader();
    cluster.crash(ONE, 0);
    silence(&mut cluster, 1);
    cluster.elect(TWO);
    assert_eq!(role(&cluster, TWO), (Role::Leader, 2));
}

#[test]
fn section_5_2_heartbeats_keep_followers_from_campaigning() {
    let mut cluster = three_with_a_leader();
    for _ in 0..100 {
        cluster.tick(ONE);
        let now = cluster.node(ONE).clock;
        for node in [TWO, THREE] {
            cluster.node_mut(node).clock = now;
            cluster.step(node, Event::Tick);
        }
        cluster.settle();
    }
    assert_eq!(cluster.checker.terms_led(), 1);
    assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
}

#[test]
fn section_5_2_a_candidate_raises_its_term_and_votes_for_itself() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(ONE);
    cluster.deliver_kind("pre-vote");
    cluster.deliver_kind("pre-vote-reply");
    cluster.sync(ONE, usize::MAX);
    let hard_state = cluster.node(ONE).log.durable.hard_state;
    assert_eq!(hard_state, HardState { term: Term(1), vote: Some(replica(1)) });
    let asked: Vec<_> = cluster.wire.iter().map(|m| m.to.node).collect();
    assert_eq!(asked, [TWO, THREE]);
}

#[test]
fn section_5_2_a_majority_elects_and_less_does_not() {
    let mut cluster = Cluster::new(5);
    cluster.campaign(ONE);
    cluster.settle_but(|m| matches!(m.body, Body::Vote { .. }));
    assert_eq!(role(&cluster, ONE), (Role::Candidate, 1));
    let yes = |from| message(from, 1, 1, Body::VoteReply { granted: true });
    cluster.step(ONE, Event::Message(yes(2)));
    cluster.step(ONE, Event::Message(yes(2)));
    assert_eq!(role(&cluster, ONE), (Role::Candidate, 1), "one voter counts once");
    cluster.step(ONE, Event::Message(message(3, 1, 1, Body::VoteReply { granted: false })));
    assert_eq!(role(&cluster, ONE), (Role::Candidate, 1));
    cluster.step(ONE, Event::Message(yes(4)));
    assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
}

#[test]
fn section_5_2_one_vote_per_term_first_come_first_served() {
    let mut cluster = Cluster::new(3);
    assert!(granted(&only(answer(&mut cluster, vote(2, 1, 5, (0, 0))))));
    assert!(!granted(&only(answer(&mut cluster, vote(3, 1, 5, (9, 4))))));
    assert!(granted(&only(answer(&mut cluster, vote(2, 1, 5, (0, 0))))), "its vote, again");
    assert!(granted(&only(answer(&mut cluster, vote(3, 1, 6, (9, 4))))), "a new term");
}

#[test]
fn section_5_2_a_vote_survives_a_crash() {
    let mut cluster = Cluster::new(3);
    assert!(granted(&only(answer(&mut cluster, vote(2, 1, 5, (0, 0))))));
    cluster.crash(ONE, 0);
    cluster.start(ONE);
    silence(&mut cluster, 3);
    assert!(!granted(&only(answer(&mut cluster, vote(3, 1, 5, (0, 0))))));
}

#[test]
fn section_5_2_a_candidate_yields_to_the_leader_of_its_term() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(ONE);
    cluster.settle_but(|m| matches!(m.body, Body::Vote { .. }));
    assert_eq!(role(&cluster, ONE), (Role::Candidate, 1));
    let answer = only(answer(&mut cluster, append((2, 1, 1), (0, 0), &[1], 0)));
    assert_eq!(outcome(&answer), accepted(1));
    assert_eq!(role(&cluster, ONE), (Role::Follower, 1));
    assert_eq!(cluster.node(ONE).raft().leader(), Some(replica(2)));
}

#[test]
fn section_5_2_election_timeouts_differ_between_replicas_and_lie_between_one_and_two() {
    let cluster = Cluster::new(5);
    let mut cluster = cluster;
    let timeout = cluster.config.settings.election_timeout_ns;
    let mut deadlines: Vec<u64> = (1..=5)
        .map(|n| {
            cluster.step(NodeId(n), Event::Tick);
            cluster.node(NodeId(n)).raft().next_deadline().0
        })
        .collect();
    assert!(deadlines.iter().all(|d| (timeout..2 * timeout).contains(d)), "{deadlines:?}");
    deadlines.sort_unstable();
    deadlines.dedup();
    assert_eq!(deadlines.len(), 5);
}

#[test]
fn section_5_2_a_new_leader_speaks_to_everybody_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(ONE);
    cluster.settle_but(|m| matches!(m.body, Body::Append(_)));
    assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
    let told: Vec<_> = cluster.lost.iter().map(|m| m.to.node).collect();
    assert_eq!(told, [TWO, THREE]);
}

// §5.3: replication.

#[test]
fn section_5_3_what_a_majority_has_is_committed_and_followers_learn_it_with_the_next_append() {
    let mut cluster = three_with_a_leader();
    cluster.crash(THREE, 0);
    cluster.propose(ONE, "x");
    cluster.settle();
    assert_eq!(commit(&cluster, ONE), 2);
    cluster.tick(ONE);
    cluster.settle();
    assert_eq!(commit(&cluster, TWO), 2);
}

#[test]
fn section_5_3_what_less_than_a_majority_has_is_not_committed() {
    let mut cluster = three_with_a_leader();
    cluster.crash(TWO, 0);
    cluster.crash(THREE, 0);
    cluster.propose(ONE, "x");
    cluster.settle();
    assert_eq!(commit(&cluster, ONE), 1);
}

#[test]
fn section_5_3_an_append_that_does_not_fit_on_the_log_is_rejected() {
    let mut cluster = with_log(3, ONE, &[1, 1, 2]);
    let missing = only(answer(&mut cluster, append((2, 1, 3), (5, 3), &[3], 0)));
    let conflict = (None, LogIndex(4));
    assert_eq!(outcome(&missing), AppendOutcome::Rejected { prev: LogIndex(5), conflict });
    let differs = only(answer(&mut cluster, append((2, 1, 3), (3, 3), &[3], 0)));
    let conflict = (Some(Term(2)), LogIndex(3));
    assert_eq!(outcome(&differs), AppendOutcome::Rejected { prev: LogIndex(3), conflict });
    assert_eq!(terms(&cluster, ONE), [1, 1, 2], "a rejected append changes nothing");
}

#[test]
fn section_5_3_a_conflicting_entry_and_all_after_it_are_replaced() {
    let mut cluster = with_log(3, ONE, &[1, 1, 2, 2, 2]);
    let fits = only(answer(&mut cluster, append((2, 1, 3), (2, 1), &[3], 0)));
    assert_eq!(outcome(&fits), accepted(3));
    assert_eq!(terms(&cluster, ONE), [1, 1, 3]);
}

#[test]
fn section_5_3_entries_that_are_there_already_stay() {
    let mut cluster = with_log(3, ONE, &[1, 1, 2, 2, 2]);
    let fits = only(answer(&mut cluster, append((2, 1, 2), (1, 1), &[1, 2], 0)));
    assert_eq!(outcome(&fits), accepted(3), "only what this append verified");
    assert_eq!(terms(&cluster, ONE), [1, 1, 2, 2, 2]);
}

#[test]
fn section_5_3_a_leader_never_changes_its_own_log() {
    let mut cluster = Cluster::new(3);
    cluster.set_log(ONE, &[1, 1, 2], HardState { term: Term(2), vote: None });
    cluster.set_log(TWO, &[1, 3], HardState { term: Term(3), vote: None });
    cluster.crash(TWO, 0);
    cluster.elect(ONE);
    let before = terms(&cluster, ONE);
    cluster.start(TWO);
    cluster.tick(ONE);
    cluster.settle();
    assert_eq!(terms(&cluster, ONE)[..before.len()], before);
}

#[test]
fn section_5_3_a_leader_goes_on_trying_until_a_follower_has_everything() {
    let mut cluster = three_with_a_leader();
    for (n, kind) in ["append", "heartbeat", "append-reply", "append"].into_iter().enumerate() {
        cluster.propose(ONE, &format!("x{n}"));
        cluster.drop_kind(TWO, kind);
        cluster.settle();
        cluster.tick(ONE);
        cluster.drop_kind(TWO, kind);
        cluster.settle();
    }
    for _ in 0..30 {
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_eq!(terms(&cluster, TWO), terms(&cluster, ONE));
    assert_eq!(commit(&cluster, TWO), commit(&cluster, ONE));
}

// §5.4: safety.

#[test]
fn section_5_4_1_a_candidate_with_an_older_log_gets_no_vote() {
    let mut cluster = with_log(3, ONE, &[1, 1, 2]);
    let mut ask = |last| granted(&only(answer(&mut cluster, vote(2, 1, 3, last))));
    assert!(!ask((2, 2)), "same last term, shorter");
    assert!(!ask((9, 1)), "longer, older last term");
    assert!(ask((3, 2)), "as good as mine");
}

#[test]
fn section_5_4_1_a_shorter_log_of_a_newer_term_is_the_better_one() {
    let mut cluster = with_log(3, ONE, &[1, 1, 2]);
    assert!(granted(&only(answer(&mut cluster, vote(2, 1, 4, (1, 3))))));
}

#[test]
fn section_5_4_1_the_same_holds_for_a_pre_vote() {
    let mut cluster = with_log(3, ONE, &[1, 1, 2]);
    let mut ask = |last| granted(&only(answer(&mut cluster, pre_vote(2, 1, 4, last))));
    assert!(!ask((2, 2)));
    assert!(!ask((9, 1)));
    assert!(ask((3, 2)));
    assert!(ask((1, 3)));
}

#[test]
fn section_5_4_2_an_entry_of_an_older_term_is_not_committed_by_counting() {
    let mut cluster = Cluster::new(3);
    cluster.set_log(ONE, &[1, 2], HardState { term: Term(2), vote: None });
    cluster.set_log(TWO, &[1, 2], HardState { term: Term(2), vote: None });
    cluster.crash(THREE, 0);
    cluster.campaign(ONE);
    // Node 2 verifies the old entries, and the no-op never reaches it.
    cluster.settle_but(|m| matches!(&m.body, Body::Append(a) if !a.entries.is_empty()));
    cluster.tick(ONE);
    cluster.settle_but(|m| matches!(&m.body, Body::Append(a) if !a.entries.is_empty()));
    assert_eq!(role(&cluster, ONE), (Role::Leader, 3));
    assert_eq!(commit(&cluster, ONE), 0, "a majority has 1 and 2, of older terms");
    for _ in 0..3 {
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_eq!(commit(&cluster, ONE), 3, "with the no-op of its own term all are committed");
}

#[test]
fn section_5_4_3_what_was_committed_is_in_the_log_of_every_later_leader() {
    let mut cluster = Cluster::new(5);
    cluster.elect(ONE);
    for round in 0_u64..6 {
        let leader = cluster.leader().expect("there is one");
        cluster.propose(leader, &format!("x{round}"));
        cluster.settle();
        cluster.crash(leader, 0);
        silence(&mut cluster, 1);
        let next = NodeId(leader.0 % 5 + 1);
        cluster.elect(next);
        // The checker compares the new leader's log with all that was committed.
        cluster.start(leader);
        cluster.settle();
    }
    assert!(cluster.checker.committed() >= LogIndex(12));
}

// §5.5 and §5.6.

#[test]
fn section_5_5_repeated_requests_change_nothing() {
    let mut cluster = with_log(3, ONE, &[1]);
    let request = append((2, 1, 2), (1, 1), &[2, 2], 2);
    let first = only(answer(&mut cluster, request.clone()));
    assert_eq!(first, only(answer(&mut cluster, request.clone())));
    let writes = effects(&mut cluster, ONE, Event::Message(request));
    assert!(!writes.iter().any(|e| matches!(e, Effect::Persist(_))), "{writes:?}");
    assert_eq!((terms(&cluster, ONE), commit(&cluster, ONE)), (vec![1, 2, 2], 2));
}

#[test]
fn section_5_6_a_vote_for_oneself_and_the_new_term_are_durable_before_anybody_is_asked() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(ONE);
    cluster.deliver_kind("pre-vote");
    cluster.deliver_kind("pre-vote-reply");
    assert_eq!(role(&cluster, ONE), (Role::Candidate, 1));
    assert!(cluster.wire.is_empty(), "{:?}", cluster.wire);
    cluster.sync(ONE, usize::MAX);
    assert_eq!(cluster.wire.len(), 2);
}

// §6: membership.

#[test]
fn section_6_a_new_replica_gets_the_log_before_it_counts() {
    let mut cluster = three_with_a_leader();
    cluster.join(FOUR);
    let learner = cluster.learner(FOUR);
    cluster.step(ONE, Event::ProposeChange(Change::AddLearner(learner)));
    cluster.settle();
    cluster.tick(ONE);
    cluster.settle();
    assert_eq!(terms(&cluster, FOUR), terms(&cluster, ONE));
    assert!(!cluster.node(ONE).raft().membership().is_voter(replica(4)));
    cluster.crash(TWO, 0);
    cluster.crash(THREE, 0);
    let before = commit(&cluster, ONE);
    cluster.propose(ONE, "x");
    cluster.settle();
    assert_eq!(commit(&cluster, ONE), before, "a learner is nobody's majority");
}

#[test]
fn section_6_a_membership_is_in_force_from_its_append_on() {
    let mut cluster = three_with_a_leader();
    cluster.join(FOUR);
    let learner = cluster.learner(FOUR);
    cluster.step(ONE, Event::ProposeChange(Change::AddLearner(learner)));
    let raft = cluster.node(ONE).raft();
    assert_eq!(raft.membership_index(), LogIndex(2));
    assert_eq!(raft.membership().member(FOUR).map(|m| m.role), Some(MemberRole::Learner));
    assert_eq!(raft.commit(), LogIndex(1), "long before it is committed");
}

#[test]
fn section_6_a_truncated_membership_is_out_of_force_again() {
    let mut cluster = three_with_a_leader();
    cluster.partition(&[&[ONE], &[TWO, THREE]]);
    cluster.step(ONE, Event::ProposeChange(Change::Remove(replica(3))));
    cluster.settle();
    assert_eq!(cluster.node(ONE).raft().membership().voter_count(), 2);
    silence(&mut cluster, 1);
    cluster.elect(TWO);
    cluster.blocked.clear();
    cluster.tick(TWO);
    cluster.settle();
    assert_eq!(cluster.node(ONE).raft().membership().voter_count(), 3);
    assert_eq!(cluster.node(ONE).raft().membership_index(), LogIndex::ZERO);
}

#[test]
fn section_6_a_removed_replica_does_not_depose_the_leader() {
    let mut cluster = three_with_a_leader();
    cluster.step(ONE, Event::ProposeChange(Change::Remove(replica(3))));
    cluster.settle();
    cluster.tick(ONE);
    cluster.settle();
    for _ in 0..5 {
        // It hears nobody any more; whatever it tries, the others have a leader.
        cluster.tick(THREE);
        cluster.settle();
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
}

// §7: log compaction.

#[test]
fn section_7_a_follower_that_needs_what_is_gone_gets_a_snapshot_with_its_membership() {
    let mut cluster = three_with_a_leader();
    cluster.crash(THREE, 0);
    for n in 0..4 {
        cluster.propose(ONE, &format!("x{n}"));
        cluster.settle();
    }
    assert!(cluster.compact(ONE, LogIndex(4)));
    cluster.start(THREE);
    for _ in 0..4 {
        cluster.tick(ONE);
        cluster.settle();
    }
    let three = cluster.node(THREE);
    assert!(three.log.first_index() >= LogIndex(5), "it began at a snapshot");
    assert_eq!(three.log.last(), cluster.node(ONE).log.last());
    assert_eq!(three.raft().membership().voter_count(), 3);
    assert_eq!(three.machine, cluster.node(ONE).machine);
}

#[test]
fn section_7_a_replica_restarts_from_its_snapshot_and_what_follows_it() {
    let mut cluster = three_with_a_leader();
    for n in 0..4 {
        cluster.propose(ONE, &format!("x{n}"));
        cluster.settle();
    }
    assert!(cluster.compact(ONE, LogIndex(3)));
    cluster.crash(ONE, 0);
    cluster.start(ONE);
    assert_eq!(cluster.node(ONE).log.first_index(), LogIndex(4));
    assert_eq!(commit(&cluster, ONE), 5, "what its state machine held");
    silence(&mut cluster, 1);
    cluster.elect(ONE);
    assert_eq!(commit(&cluster, ONE), 6);
}

// §8: clients.

#[test]
fn section_8_a_new_leader_appends_a_no_op() {
    let mut cluster = three_with_a_leader();
    silence(&mut cluster, 1);
    cluster.crash(ONE, 0);
    cluster.elect(TWO);
    let entry = cluster.node(TWO).log.view.entry(LogIndex(2)).expect("the second entry").clone();
    assert_eq!((entry.term, entry.payload.to_vec()), (Term(2), WriteBatch::no_op().into_bytes()));
}

#[test]
fn section_8_a_follower_names_the_leader() {
    let mut cluster = three_with_a_leader();
    let refused = effects(&mut cluster, TWO, Event::Propose(vec![Bytes::from("x")]));
    let leader = Some(replica(1));
    let expected = crate::raft::ProposeError::NotLeader { leader };
    assert_eq!(refused, [Effect::ProposeRefused(expected)]);
}

#[test]
fn section_8_a_read_waits_until_a_majority_says_who_leads() {
    let mut cluster = three_with_a_leader();
    let read = cluster.read(ONE);
    assert_eq!(cluster.node(ONE).ready, []);
    cluster.settle();
    assert_eq!(cluster.node(ONE).ready, [(read, LogIndex(1))]);
}

#[test]
fn section_8_a_deposed_leader_answers_no_read() {
    let mut cluster = three_with_a_leader();
    cluster.partition(&[&[ONE], &[TWO, THREE]]);
    silence(&mut cluster, 1);
    cluster.elect(TWO);
    let read: ReadId = cluster.read(ONE);
    cluster.settle();
    assert!(!cluster.node(ONE).ready.iter().any(|(r, _)| *r == read));
    cluster.blocked.clear();
    cluster.tick(TWO);
    cluster.settle();
    assert!(!cluster.node(ONE).ready.iter().any(|(r, _)| *r == read), "refused or forgotten");
}

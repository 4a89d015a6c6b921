//! What has broken other Rafts, as named tests at the level of raft: the numbers are those of the table *Pitfalls* in
//! `ARCHITECTURE.md`. Where a rule is also one of the paper, `paper.rs` has more; where it is about order and timing,
//! a script of `../testscripts` shows the whole run.

use super::cluster::Cluster;
use super::doubles::replica;
use super::paper::{
    FOUR, ONE, THREE, TWO, accepted, answer, append, commit, effects, granted, message, only,
    outcome, pre_vote, role, silence, terms, three_with_a_leader, vote, with_log,
};
use crate::base::{LogIndex, NodeId, Term};
use crate::raft::message::{Append, AppendOutcome, AppendReply, Body, Message};
use crate::raft::{Change, Config, Effect, Event, HardState, LogView, ProposeError, ReadId, Role};
use bytes::Bytes;

const FIVE: NodeId = NodeId(5);

fn refused(cluster: &mut Cluster, node: NodeId, change: Change) -> Option<ProposeError> {
    let out = effects(cluster, node, Event::ProposeChange(change));
    out.into_iter().find_map(|e| if let Effect::ProposeRefused(why) = e { Some(why) } else { None })
}

fn appends(messages: &[Message]) -> Vec<&Append> {
    let append = |m: &'_ Message| matches!(m.body, Body::Append(_)).then_some(());
    let all = messages.iter().filter(|m| append(m).is_some());
    all.filter_map(|m| if let Body::Append(a) = &m.body { Some(a) } else { None }).collect()
}

fn is_append(message: &Message) -> bool {
    matches!(&message.body, Body::Append(a) if !a.entries.is_empty())
}

#[test]
fn pitfall_01_figure_8_an_old_entry_on_a_majority_may_still_be_overwritten() {
    let mut cluster = Cluster::new(5);
    // Term 2: node 1 replicates entry 2 to node 2 only. Term 3: node 5 has another entry 2.
    cluster.set_log(ONE, &[1, 2], HardState { term: Term(3), vote: None });
    cluster.set_log(TWO, &[1, 2], HardState { term: Term(2), vote: None });
    for node in [THREE, FOUR] {
        cluster.set_log(node, &[1], HardState { term: Term(3), vote: None });
    }
    cluster.set_log(FIVE, &[1, 3], HardState { term: Term(3), vote: None });
    // Term 4: node 1 leads again and brings entry 2 to node 3; its own entry 3 reaches nobody.
    cluster.crash(FIVE, 0);
    cluster.campaign(ONE);
    let own_term = |m: &Message| matches!(&m.body, Body::Append(a) if a.entries.iter().any(|e| e.term == Term(4)));
    cluster.settle_but(own_term);
    let repair = append((1, 3, 4), (1, 1), &[2], 0);
    cluster.step(THREE, Event::Message(repair));
    cluster.sync(THREE, usize::MAX);
    cluster.settle_but(own_term);
    assert_eq!(role(&cluster, ONE), (Role::Leader, 4));
    assert_eq!(terms(&cluster, THREE), [1, 2], "2@2 is on three of five");
    assert_eq!(commit(&cluster, ONE), 0);
    // Term 5: node 5 wins with the votes of 3 and 4, and entry 2 of term 2 is gone.
    cluster.crash(ONE, 0);
    cluster.crash(TWO, 0);
    cluster.start(FIVE);
    silence(&mut cluster, 2);
    cluster.campaign(FIVE);
    cluster.settle();
    silence(&mut cluster, 2);
    while cluster.node(FIVE).raft().role() != Role::Leader {
        cluster.tick(FIVE);
        cluster.settle();
    }
    assert_eq!(terms(&cluster, THREE)[..2], [1, 3]);
    cluster.start(ONE);
    cluster.start(TWO);
    for _ in 0..3 {
        cluster.tick(FIVE);
        cluster.settle();
    }
    assert_eq!(terms(&cluster, ONE), terms(&cluster, FIVE));
}

#[test]
fn pitfall_02_a_vote_leaves_only_when_term_and_vote_are_durable() {
    let mut cluster = Cluster::new(3);
    cluster.step(ONE, Event::Message(vote(2, 1, 3, (0, 0))));
    assert!(cluster.wire.is_empty(), "{:?}", cluster.wire);
    cluster.sync(ONE, usize::MAX);
    assert!(granted(&cluster.wire[0]));
    assert_eq!(cluster.node(ONE).log.durable.hard_state.vote, Some(replica(2)));
}

#[test]
fn pitfall_02_an_acknowledgement_leaves_only_when_its_entries_and_term_are_durable() {
    let mut cluster = Cluster::new(3);
    cluster.step(ONE, Event::Message(append((2, 1, 3), (0, 0), &[3], 0)));
    assert!(cluster.wire.is_empty(), "{:?}", cluster.wire);
    cluster.sync(ONE, usize::MAX);
    assert_eq!(outcome(&cluster.wire[0]), accepted(1));
    assert_eq!(cluster.node(ONE).log.durable.hard_state.term, Term(3));
}

#[test]
fn pitfall_03_a_term_that_is_raised_from_the_log_has_no_vote() {
    let mut cluster = Cluster::new(3);
    let hard_state = HardState { term: Term(2), vote: Some(replica(3)) };
    cluster.set_log(ONE, &[1, 5], hard_state);
    let status = cluster.node(ONE).raft().status();
    assert_eq!((status.term, status.vote), (Term(5), None));
}

#[test]
fn pitfall_04_logs_are_compared_by_last_term_then_index() {
    for (last, better) in [((2, 3), true), ((9, 1), false), ((2, 2), false), ((3, 2), true)] {
        let mut cluster = with_log(3, ONE, &[1, 1, 2]);
        assert_eq!(granted(&only(answer(&mut cluster, vote(2, 1, 4, last)))), better, "{last:?}");
    }
}

#[test]
fn pitfall_05_a_follower_that_hears_its_leader_gives_nobody_a_vote() {
    let mut cluster = three_with_a_leader();
    assert!(answer(&mut cluster, pre_vote(3, 2, 9, (9, 9))).iter().all(|m| !granted(m)));
    let answers = answer(&mut cluster, vote(3, 2, 9, (9, 9)));
    assert!(answers.iter().all(|m| !granted(m)), "{answers:?}");
    assert_eq!(role(&cluster, TWO), (Role::Follower, 1), "it does not even take the term");
}

#[test]
fn pitfall_05_a_partitioned_replica_does_not_raise_its_term() {
    let mut cluster = three_with_a_leader();
    cluster.partition(&[&[THREE], &[ONE, TWO]]);
    for _ in 0..10 {
        cluster.tick(THREE);
        cluster.settle();
    }
    assert_eq!(role(&cluster, THREE), (Role::PreCandidate, 1));
    cluster.blocked.clear();
    for _ in 0..3 {
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
    assert_eq!(role(&cluster, THREE), (Role::Follower, 1));
}

#[test]
fn pitfall_05_a_leader_that_hears_no_majority_steps_down() {
    let mut cluster = three_with_a_leader();
    cluster.partition(&[&[ONE], &[TWO, THREE]]);
    for _ in 0..30 {
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_ne!(role(&cluster, ONE).0, Role::Leader);
    assert_eq!(cluster.node(ONE).raft().term(), Term(1), "and asks before it raises its term");
}

#[test]
fn pitfall_05_a_transfer_passes_stickiness() {
    let mut cluster = three_with_a_leader();
    cluster.step(ONE, Event::Transfer(Some(TWO)));
    cluster.settle();
    assert_eq!(role(&cluster, TWO), (Role::Leader, 2), "no time has passed");
    assert_eq!(role(&cluster, ONE), (Role::Follower, 2));
}

#[test]
fn pitfall_06_a_refused_pre_vote_carries_the_higher_term_back() {
    let mut cluster = with_log(3, ONE, &[1, 7]);
    let answer = only(answer(&mut cluster, pre_vote(2, 1, 3, (1, 2))));
    assert_eq!((answer.term, granted(&answer)), (Term(7), false));
    let mut cluster = with_log(3, TWO, &[1, 2]);
    cluster.campaign(TWO);
    cluster.step(TWO, Event::Message(message(1, 2, 7, Body::PreVoteReply { granted: false })));
    assert_eq!(role(&cluster, TWO), (Role::Follower, 7), "or the cluster would deadlock");
}

#[test]
fn pitfall_06_stale_pre_vote_grants_change_nothing() {
    let mut cluster = three_with_a_leader();
    for term in [1, 2] {
        let grant = message(3, 1, term, Body::PreVoteReply { granted: true });
        cluster.step(ONE, Event::Message(grant.clone()));
        assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
        let grant = Message { to: replica(2), ..grant };
        cluster.step(TWO, Event::Message(grant));
        assert_eq!(role(&cluster, TWO), (Role::Follower, 1));
    }
}

#[test]
fn pitfall_07_a_second_leader_in_ones_own_term_is_fatal_and_no_panic() {
    let mut cluster = three_with_a_leader();
    let rival = append((2, 1, 1), (0, 0), &[1], 0);
    let out = effects(&mut cluster, ONE, Event::Message(rival));
    assert!(out.iter().any(|e| matches!(e, Effect::Fatal { .. })), "{out:?}");
    assert!(!out.iter().any(|e| matches!(e, Effect::Persist(_) | Effect::Apply { .. })));
}

#[test]
fn pitfall_08_reordered_appends_lose_no_acknowledged_entries() {
    let mut cluster = Cluster::new(3);
    let long = append((2, 1, 2), (0, 0), &[1, 1, 2, 2], 0);
    let short = append((2, 1, 2), (0, 0), &[1, 1], 0);
    assert_eq!(outcome(&only(answer(&mut cluster, long))), accepted(4));
    assert_eq!(outcome(&only(answer(&mut cluster, short))), accepted(2));
    let heartbeat = append((2, 1, 2), (1, 1), &[], 0);
    assert_eq!(outcome(&only(answer(&mut cluster, heartbeat))), accepted(1));
    assert_eq!(terms(&cluster, ONE), [1, 1, 2, 2]);
}

#[test]
fn pitfall_09_a_follower_commits_at_most_what_the_message_verified() {
    let mut cluster = with_log(3, ONE, &[1, 1, 1, 1]);
    answer(&mut cluster, append((2, 1, 2), (2, 1), &[], 4));
    assert_eq!(commit(&cluster, ONE), 2, "3 and 4 may be somebody else's");
    answer(&mut cluster, append((2, 1, 2), (2, 1), &[2], 9));
    assert_eq!(commit(&cluster, ONE), 3);
}

#[test]
fn pitfall_09_a_heartbeat_to_a_follower_that_lags_does_not_commit_its_own_tail() {
    let mut cluster = Cluster::new(3);
    cluster.set_log(ONE, &[], HardState { term: Term(1), vote: None });
    cluster.set_log(THREE, &[1, 1, 1], HardState { term: Term(1), vote: None });
    cluster.crash(THREE, 0);
    cluster.elect(ONE);
    (0..5).for_each(|n| cluster.propose(ONE, &format!("x{n}")));
    cluster.settle();
    cluster.start(THREE);
    cluster.tick(ONE);
    cluster.deliver_kind("heartbeat");
    assert_eq!(commit(&cluster, THREE), 0);
    for _ in 0..4 {
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_eq!(terms(&cluster, THREE), terms(&cluster, ONE));
}

#[test]
fn pitfall_10_old_answers_move_nothing_back() {
    let mut cluster = three_with_a_leader();
    cluster.propose(ONE, "x");
    cluster.sync(ONE, usize::MAX);
    cluster.settle_but(|m| m.to == replica(1) && m.from == replica(3));
    let late: Vec<Message> = cluster.lost.clone();
    (0..3).for_each(|n| cluster.propose(ONE, &format!("y{n}")));
    cluster.settle();
    let before = (commit(&cluster, ONE), super::show::progress(cluster.node(ONE)));
    for message in late.into_iter().rev() {
        if let Body::AppendReply(reply) = &message.body {
            let (prev, conflict) = (LogIndex(1), (None, LogIndex(1)));
            let outcome = AppendOutcome::Rejected { prev, conflict };
            let rejected = Body::AppendReply(AppendReply { outcome, ..reply.clone() });
            cluster.step(ONE, Event::Message(Message { body: rejected, ..message.clone() }));
        }
        cluster.step(ONE, Event::Message(message));
    }
    assert_eq!((commit(&cluster, ONE), super::show::progress(cluster.node(ONE))), before);
}

#[test]
fn pitfall_11_an_ack_from_before_a_removal_does_not_count_after_it() {
    let mut cluster = three_with_a_leader();
    cluster.propose(ONE, "x");
    cluster.settle_but(|m| m.from == replica(3));
    let old: Vec<Message> = cluster.lost.clone();
    assert!(old.iter().any(|m| matches!(m.body, Body::AppendReply(_))));
    // Out, its disk wiped by hand, and in again under the same name, within one term.
    cluster.step(ONE, Event::ProposeChange(Change::Remove(replica(3))));
    cluster.settle_but(|m| m.to == replica(3));
    cluster.crash(THREE, 0);
    cluster.set_log(THREE, &[], HardState { term: Term(1), vote: None });
    let learner = cluster.learner(THREE);
    cluster.step(ONE, Event::ProposeChange(Change::AddLearner(learner)));
    cluster.settle_but(|m| m.to == replica(3));
    let before = super::show::progress(cluster.node(ONE));
    for message in old {
        cluster.step(ONE, Event::Message(message));
    }
    assert_eq!(super::show::progress(cluster.node(ONE)), before, "another session");
}

#[test]
fn pitfall_12_a_full_window_lets_heartbeats_through() {
    let mut config = Config::new(replica(0), 1);
    config.settings.max_inflight_messages = 2;
    let mut cluster = Cluster::with(3, config);
    cluster.elect(ONE);
    for n in 0..6 {
        cluster.propose(ONE, &format!("x{n}"));
    }
    let to_two = |m: &Message| m.to == replica(2);
    assert_eq!(cluster.take(to_two).iter().filter(|m| is_append(m)).count(), 2, "the window");
    cluster.wire.clear();
    cluster.tick(ONE);
    assert!(cluster.take(to_two).iter().any(|m| matches!(m.body, Body::Append(_))));
}

#[test]
fn pitfall_13_a_long_divergence_costs_a_round_trip_per_term() {
    let mut cluster = Cluster::new(3);
    let ours: Vec<u64> = std::iter::repeat_n(1, 10).chain(std::iter::repeat_n(5, 300)).collect();
    let theirs: Vec<u64> = std::iter::repeat_n(1, 10)
        .chain(std::iter::repeat_n(2, 100))
        .chain(std::iter::repeat_n(3, 100))
        .chain(std::iter::repeat_n(4, 100))
        .collect();
    cluster.set_log(ONE, &ours, HardState { term: Term(5), vote: None });
    cluster.set_log(TWO, &ours, HardState { term: Term(5), vote: None });
    cluster.set_log(THREE, &theirs, HardState { term: Term(5), vote: None });
    cluster.campaign(ONE);
    let mut rejections = 0;
    for _ in 0..10_000 {
        let Some(message) = cluster.wire.pop_front() else {
            for node in [ONE, TWO, THREE] {
                cluster.sync(node, usize::MAX);
            }
            if cluster.wire.is_empty() {
                break;
            }
            continue;
        };
        let rejected = matches!(&message.body, Body::AppendReply(r) if r.outcome != accepted(0)
            && matches!(r.outcome, AppendOutcome::Rejected { .. }));
        rejections += usize::from(rejected && message.from == replica(3));
        cluster.hand_over(message);
    }
    cluster.tick(ONE);
    cluster.settle();
    assert_eq!(terms(&cluster, THREE), terms(&cluster, ONE));
    assert!((1..=3).contains(&rejections), "{rejections} for three terms and 300 entries");
}

#[test]
fn pitfall_14_what_waits_for_the_window_leaves_as_one_append() {
    let mut config = Config::new(replica(0), 1);
    config.settings.max_inflight_messages = 1;
    let mut cluster = Cluster::with(3, config);
    cluster.elect(ONE);
    for n in 0..50 {
        cluster.propose(ONE, &format!("x{n}"));
    }
    let mut sent = Vec::new();
    while let Some(message) = cluster.wire.pop_front() {
        if message.to == replica(2) && is_append(&message) {
            sent.push(message.clone());
        }
        let to = message.to.node;
        cluster.hand_over(message);
        cluster.sync(to, usize::MAX);
    }
    let sizes: Vec<usize> = appends(&sent).iter().map(|a| a.entries.len()).collect();
    assert_eq!(sizes, [1, 49]);
}

#[test]
fn pitfall_15_a_leader_alone_waits_for_its_own_sync() {
    let mut cluster = Cluster::new(1);
    cluster.elect(ONE);
    cluster.propose(ONE, "x");
    assert_eq!(commit(&cluster, ONE), 1);
    cluster.sync(ONE, usize::MAX);
    assert_eq!(commit(&cluster, ONE), 2);
}

#[test]
fn pitfall_15_a_leader_counts_itself_only_after_its_own_sync() {
    let mut cluster = three_with_a_leader();
    cluster.crash(THREE, 0);
    cluster.propose(ONE, "x");
    let to_two = cluster.take(|m| m.to == replica(2));
    assert!(!appends(&to_two).is_empty(), "it sends before its sync");
    to_two.into_iter().for_each(|m| cluster.hand_over(m));
    cluster.sync(TWO, usize::MAX);
    cluster.deliver_kind("append-reply");
    assert_eq!(commit(&cluster, ONE), 1, "one disk of three");
    cluster.sync(ONE, usize::MAX);
    assert_eq!(commit(&cluster, ONE), 2);
}

#[test]
fn pitfall_16_an_old_terms_sync_acknowledges_no_newer_entry_at_the_same_index() {
    let mut cluster = Cluster::new(3);
    cluster.step(ONE, Event::Message(append((2, 1, 1), (0, 0), &[1, 1], 0)));
    cluster.step(ONE, Event::Message(append((3, 1, 2), (0, 0), &[2, 2], 0)));
    cluster.sync(ONE, 1);
    assert!(cluster.wire.is_empty(), "{:?}", cluster.wire);
    cluster.sync(ONE, usize::MAX);
    let answers: Vec<_> = cluster.wire.iter().map(|m| (m.to, m.term, outcome(m))).collect();
    assert_eq!(answers, [(replica(3), Term(2), accepted(2))]);
}

#[test]
fn pitfall_20_a_leader_whose_disk_hangs_gives_leadership_up() {
    let mut cluster = three_with_a_leader();
    cluster.propose(ONE, "x");
    for _ in 0..40 {
        cluster.tick(ONE);
        // Its followers' disks are well, and its own never answers.
        for _ in 0..4 {
            while let Some(message) = cluster.wire.pop_front() {
                cluster.hand_over(message);
            }
            [TWO, THREE].into_iter().for_each(|n| cluster.sync(n, usize::MAX));
        }
        let now = cluster.node(ONE).clock;
        [TWO, THREE].into_iter().for_each(|n| cluster.node_mut(n).clock = now);
    }
    assert_ne!(role(&cluster, ONE).0, Role::Leader);
    let leader = cluster.leader().expect("it handed over");
    cluster.settle();
    assert_eq!(cluster.node(leader).raft().role(), Role::Leader);
}

/// Node 3 has entries of `terms` and gets a snapshot at 3@2 of node 1, which leads.
fn snapshot_to_three(terms_of_three: &[u64]) -> Cluster {
    let mut cluster = Cluster::new(3);
    let hard_state = HardState { term: Term(2), vote: None };
    cluster.set_log(ONE, &[1, 1, 2], hard_state);
    cluster.set_log(TWO, &[1, 1, 2], hard_state);
    cluster.set_log(THREE, terms_of_three, hard_state);
    cluster.crash(THREE, 0);
    cluster.elect(ONE);
    assert!(cluster.compact(ONE, LogIndex(4)));
    cluster.start(THREE);
    cluster
}

#[test]
fn pitfall_23_a_snapshot_discards_a_log_that_conflicts_with_it() {
    let mut cluster = snapshot_to_three(&[1, 1, 1, 1, 1, 1]);
    for _ in 0..4 {
        cluster.tick(ONE);
        cluster.settle();
    }
    let three = cluster.node(THREE);
    assert_eq!(three.log.last(), cluster.node(ONE).log.last());
    assert_eq!(three.machine, cluster.node(ONE).machine);
}

#[test]
fn pitfall_23_a_snapshot_that_matches_keeps_what_follows_it() {
    let mut cluster = Cluster::new(3);
    cluster.step(ONE, Event::Message(append((2, 1, 2), (0, 0), &[1, 1, 2, 2], 0)));
    cluster.sync(ONE, usize::MAX);
    let membership = (LogIndex::ZERO, cluster.node(ONE).raft().membership().clone());
    let (index, term) = (LogIndex(3), Term(2));
    cluster.step(ONE, Event::SnapshotInstalled { index, term, membership, reply: None });
    assert_eq!(terms(&cluster, ONE), [1, 1, 2, 2], "raft asks for no truncation");
    assert_eq!(commit(&cluster, ONE), 3);
    let next = append((2, 1, 2), (4, 2), &[2], 4);
    assert_eq!(outcome(&only(answer_unapplied(&mut cluster, next))), accepted(5));
}

/// [`answer`] for a replica whose machine the test does not keep up to date.
fn answer_unapplied(cluster: &mut Cluster, message: Message) -> Vec<Message> {
    cluster.eager = false;
    answer(cluster, message)
}

#[test]
fn pitfall_24_an_older_snapshot_changes_nothing() {
    let mut cluster = three_with_a_leader();
    (0..4).for_each(|n| cluster.propose(ONE, &format!("x{n}")));
    cluster.settle();
    cluster.tick(ONE);
    cluster.settle();
    let before = (commit(&cluster, TWO), cluster.node(TWO).machine.clone());
    let meta = super::machine::Machine {
        applied: (LogIndex(2), Term(1)),
        membership: cluster.node(TWO).machine.membership.clone(),
        digest: 0,
    };
    let chunk = crate::raft::message::SnapshotChunk {
        session: 1,
        transfer: 1,
        meta: Some(meta.meta()),
        offset: 0,
        data: Bytes::from_static(b"z"),
        crc: 0,
    };
    cluster.step(TWO, Event::Message(message(1, 2, 1, Body::Snapshot(chunk))));
    cluster.sync(TWO, usize::MAX);
    assert_eq!((commit(&cluster, TWO), cluster.node(TWO).machine.clone()), before);
    let replies = cluster.take(|m| matches!(m.body, Body::SnapshotReply(_)));
    assert_eq!(replies.len(), 1, "the leader is told that it has all that");
}

/// Counts ticks of the leader until node 3 has what node 1 has.
fn recovers(cluster: &mut Cluster, leader: NodeId) {
    for _ in 0..60 {
        cluster.tick(leader);
        let id = cluster.node(THREE).id;
        cluster.resend(leader, id);
        cluster.settle();
    }
    assert_eq!(cluster.node(THREE).log.last(), cluster.node(leader).log.last());
    assert_eq!(cluster.node(THREE).machine, cluster.node(leader).machine);
}

/// Until node 3 has got the first piece and not the last.
fn in_mid_transfer() -> Cluster {
    let mut cluster = snapshot_to_three(&[1]);
    cluster.tick(ONE);
    for _ in 0..50 {
        if !cluster.node(ONE).sending.is_empty() {
            break;
        }
        cluster.settle_but(|m| matches!(m.body, Body::Snapshot(_)));
        cluster.tick(ONE);
    }
    assert!(!cluster.node(ONE).sending.is_empty());
    cluster.wire.clear();
    let id = cluster.node(THREE).id;
    cluster.resend(ONE, id);
    cluster.deliver_kind("snapshot");
    cluster
}

#[test]
fn pitfall_27_a_lost_piece_of_a_snapshot_is_sent_again() {
    let mut cluster = in_mid_transfer();
    cluster.wire.clear();
    recovers(&mut cluster, ONE);
}

#[test]
fn pitfall_27_a_receiver_that_restarts_in_mid_transfer_begins_again() {
    let mut cluster = in_mid_transfer();
    cluster.crash(THREE, 0);
    cluster.start(THREE);
    recovers(&mut cluster, ONE);
}

#[test]
fn pitfall_27_a_new_leader_in_mid_transfer_sends_its_own() {
    let mut cluster = in_mid_transfer();
    cluster.wire.clear();
    cluster.tick(ONE);
    cluster.settle_but(|m| m.to == replica(3) || m.from == replica(3));
    let applied = cluster.node(TWO).machine.applied.0;
    assert!(cluster.compact(TWO, applied));
    cluster.crash(ONE, 0);
    silence(&mut cluster, 2);
    cluster.campaign(TWO);
    cluster.settle();
    recovers(&mut cluster, TWO);
}

#[test]
fn pitfall_28_a_leader_with_an_empty_log_sends_a_snapshot_to_a_stranger() {
    let mut cluster = three_with_a_leader();
    (0..4).for_each(|n| cluster.propose(ONE, &format!("x{n}")));
    cluster.settle();
    cluster.join(FOUR);
    let learner = cluster.learner(FOUR);
    cluster.step(ONE, Event::ProposeChange(Change::AddLearner(learner)));
    cluster.settle_but(|m| m.to == replica(4));
    let applied = cluster.node(ONE).machine.applied.0;
    assert!(cluster.compact(ONE, applied));
    assert!(cluster.node(ONE).log.view.entries.is_empty());
    for _ in 0..30 {
        cluster.tick(ONE);
        cluster.settle();
    }
    assert_eq!(cluster.node(FOUR).machine, cluster.node(ONE).machine);
    assert_eq!(cluster.node(FOUR).raft().membership(), cluster.node(ONE).raft().membership());
}

#[test]
fn pitfall_29_no_change_before_a_commit_of_the_leaders_own_term() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(ONE);
    cluster.settle_but(is_append);
    assert_eq!(role(&cluster, ONE), (Role::Leader, 1));
    let why = refused(&mut cluster, ONE, Change::Remove(replica(3)));
    assert_eq!(why, Some(ProposeError::NoCommitInTerm));
}

#[test]
fn pitfall_29_one_change_at_a_time() {
    let mut cluster = three_with_a_leader();
    cluster.step(ONE, Event::ProposeChange(Change::Remove(replica(3))));
    let why = refused(&mut cluster, ONE, Change::Remove(replica(2)));
    assert_eq!(why, Some(ProposeError::ChangeInFlight { index: LogIndex(2) }));
    cluster.settle();
    assert_eq!(refused(&mut cluster, ONE, Change::Remove(replica(2))), None);
}

#[test]
fn pitfall_30_a_removed_leader_counts_without_itself_and_then_steps_down() {
    let mut cluster = three_with_a_leader();
    cluster.step(ONE, Event::ProposeChange(Change::Remove(replica(1))));
    cluster.sync(ONE, usize::MAX);
    let from_two = |m: &Message| m.from == replica(2) || m.to == replica(2);
    for _ in 0..3 {
        cluster.take(from_two).into_iter().for_each(|m| cluster.hand_over(m));
        cluster.sync(TWO, usize::MAX);
    }
    assert_eq!(commit(&cluster, ONE), 1, "its own disk and node 2's: one of two voters");
    assert_eq!(role(&cluster, ONE).0, Role::Leader);
    cluster.settle();
    assert_eq!(commit(&cluster, ONE), 2);
    assert_ne!(role(&cluster, ONE).0, Role::Leader);
    silence(&mut cluster, 2);
    cluster.elect(TWO);
}

#[test]
fn pitfall_30_a_removed_replica_never_campaigns() {
    let mut cluster = three_with_a_leader();
    // A leader does not speak to who is removed; here the entry arrived all the same.
    cluster.crash(ONE, 0);
    let without = crate::base::Membership::of_voters([replica(1), replica(2)]);
    let mut removal = append((1, 3, 1), (1, 1), &[1], 2);
    if let Body::Append(append) = &mut removal.body {
        append.entries[0].payload = without.to_entry();
    }
    cluster.eager = false;
    cluster.step(THREE, Event::Message(removal));
    cluster.settle_but(|m| m.from == replica(3));
    for _ in 0..10 {
        cluster.tick(THREE);
        cluster.sync(THREE, usize::MAX);
    }
    assert!(cluster.take(|m| m.from == replica(3)).is_empty());
    assert_eq!(role(&cluster, THREE), (Role::Follower, 1));
}

#[test]
fn pitfall_30_a_learner_that_is_asked_votes() {
    let mut cluster = three_with_a_leader();
    cluster.join(FOUR);
    let learner = cluster.learner(FOUR);
    cluster.step(ONE, Event::ProposeChange(Change::AddLearner(learner)));
    cluster.settle();
    silence(&mut cluster, 3);
    // Node 2 may know that node 4 was promoted when node 4 itself does not yet.
    let last = cluster.node(FOUR).log.last();
    let answer = only(answer(&mut cluster, vote(2, 4, 2, (last.0.0 + 1, 1))));
    assert!(granted(&answer));
}

#[test]
fn pitfall_32_a_new_leader_answers_no_read_before_it_committed_in_its_term() {
    let mut cluster = three_with_a_leader();
    cluster.crash(ONE, 0);
    silence(&mut cluster, 1);
    cluster.campaign(TWO);
    cluster.settle_but(is_append);
    assert_eq!(role(&cluster, TWO), (Role::Leader, 2));
    let read = cluster.read(TWO);
    cluster.settle_but(is_append);
    assert_eq!(cluster.node(TWO).ready, []);
    for _ in 0..3 {
        cluster.tick(TWO);
        cluster.settle();
    }
    assert_eq!(cluster.node(TWO).ready, [(read, LogIndex(2))]);
}

#[test]
fn pitfall_33_a_late_answer_to_an_older_round_confirms_no_newer_read() {
    let mut cluster = three_with_a_leader();
    cluster.tick(ONE);
    cluster.settle_but(|m| matches!(m.body, Body::AppendReply(_)));
    let late = cluster.lost.clone();
    assert!(!late.is_empty());
    // Node 1 is cut off; node 2 leads and commits.
    cluster.partition(&[&[ONE], &[TWO, THREE]]);
    let read: ReadId = cluster.read(ONE);
    silence(&mut cluster, 1);
    cluster.node_mut(ONE).clock = crate::base::Nanos::ZERO;
    cluster.elect(TWO);
    late.into_iter().for_each(|m| cluster.step(ONE, Event::Message(m)));
    assert_eq!(cluster.node(ONE).raft().role(), Role::Leader, "it does not know yet");
    assert!(!cluster.node(ONE).ready.iter().any(|(r, _)| *r == read));
}

#[test]
fn pitfall_34_leases_are_off_by_default_and_every_read_asks() {
    assert_eq!(Config::new(replica(1), 1).settings.lease_drift_ppm, None);
    let mut cluster = three_with_a_leader();
    cluster.tick(ONE);
    cluster.settle();
    cluster.read(ONE);
    assert_eq!(cluster.node(ONE).ready, []);
}

fn with_a_lease() -> Cluster {
    let mut config = Config::new(replica(0), 1);
    config.settings.lease_drift_ppm = Some(500);
    let mut cluster = Cluster::with(3, config);
    [ONE, TWO, THREE].into_iter().for_each(|n| cluster.step(n, Event::Tick));
    silence(&mut cluster, 1);
    cluster.elect(ONE);
    cluster.tick(ONE);
    cluster.settle();
    cluster
}

#[test]
fn pitfall_34_a_lease_is_measured_from_when_its_round_was_sent() {
    let mut cluster = with_a_lease();
    let read = cluster.read(ONE);
    assert!(cluster.node(ONE).ready.iter().any(|(r, _)| *r == read), "within the lease");
    // The answers of a round take almost an election timeout: the lease they give is almost over.
    let timeout = cluster.config.settings.election_timeout_ns;
    cluster.tick(ONE);
    let clock = cluster.node(ONE).clock;
    cluster.node_mut(ONE).clock = clock.plus(timeout * 8 / 10);
    cluster.settle_but(|m| matches!(&m.body, Body::ReadIndex { .. }));
    cluster.node_mut(ONE).clock = clock.plus(timeout * 12 / 10);
    let read = cluster.read(ONE);
    assert!(!cluster.node(ONE).ready.iter().any(|(r, _)| *r == read));
}

#[test]
fn pitfall_34_a_transfer_drops_the_lease() {
    let mut cluster = with_a_lease();
    cluster.step(ONE, Event::Transfer(Some(TWO)));
    let read = cluster.read(ONE);
    assert!(!cluster.node(ONE).ready.iter().any(|(r, _)| *r == read));
    cluster.settle();
    assert_eq!(role(&cluster, TWO).0, Role::Leader);
}

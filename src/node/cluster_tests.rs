//! Several whole nodes in one process, over simulated disks and a network that delivers at once or not at all: what only
//! shows when they work together. Long runs with every fault are the simulator's (`tools`).

mod drain;
mod harness;
mod recover;
mod sessions;
mod space;

use super::*;
use crate::base::{Member, MemberRole, NodeId, Term};
use crate::env::sim::CrashKind;
use crate::proto::{AdminRequest, Effect as Outcome, ErrorReply, Opcode, Staleness};
use harness::Cluster;

fn error(response: Option<Response>) -> ErrorReply {
    match response {
        Some(Response::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn learner(replica: ReplicaId) -> Member {
    let (peer_address, client_address) = (String::new(), format!("node-{}:7400", replica.node));
    Member { replica, role: MemberRole::Learner, peer_address, client_address }
}

#[test]
fn one_leader_is_elected_and_what_it_acknowledges_is_on_every_node() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    cluster.put(leader, "a", "1");
    cluster.pass(300);
    for node in 1..=3 {
        assert_eq!(cluster.get(node, "a").as_deref(), Some("1"), "node {node}, its own read index");
        assert!(cluster.node(node).is_ready());
        assert_eq!(cluster.node(node).raft().leader().map(|l| l.node.0), Some(leader));
    }
    assert_eq!(cluster.leaders(), [leader]);
}

#[test]
fn a_follower_refuses_writes_and_says_who_leads() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let follower = cluster.another(leader);
    let put = cluster.send_put(follower, "a", "1");
    let refused = error(cluster.reply(follower, put));
    assert_eq!((refused.code, refused.effect), (ErrorCode::NotLeader, Outcome::NotApplied));
    assert!(refused.message.contains(&format!("node {leader} leads")), "{}", refused.message);
}

#[test]
fn a_follower_that_restarts_catches_up_from_the_log() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let follower = cluster.another(leader);
    cluster.put(leader, "a", "1");
    cluster.crash(follower, CrashKind::PowerLoss);
    for n in 0..50 {
        cluster.put(leader, &format!("k{n}"), "v");
    }
    cluster.restart(follower);
    cluster.pass(2_000);
    assert_eq!(cluster.get(follower, "k49").as_deref(), Some("v"));
    assert_eq!(cluster.get(follower, "a").as_deref(), Some("1"));
    assert_eq!(cluster.node(leader).status(Nanos(0)).snapshots.sent.started, 0);
}

#[test]
fn a_cluster_goes_on_without_its_leader_and_loses_nothing_acknowledged() {
    let (mut cluster, first) = Cluster::with_leader(3, |_| {});
    cluster.put(first, "a", "1");
    cluster.crash(first, CrashKind::PowerLoss);
    let second = cluster.elect();
    assert_ne!(first, second);
    assert_eq!(cluster.get(second, "a").as_deref(), Some("1"));
    cluster.put(second, "a", "2");
    cluster.restart(first);
    cluster.pass(2_000);
    assert_eq!(cluster.get(first, "a").as_deref(), Some("2"));
}

/// Figure 8's neighbourhood, at the level of what clients are told.
#[test]
fn a_write_of_a_deposed_leader_is_answered_by_what_is_applied_at_its_index() {
    let (mut cluster, old) = Cluster::with_leader(3, |_| {});
    let lost = {
        cluster.cut_off(old);
        cluster.send_put(old, "lost", "1")
    };
    cluster.settle();
    assert_eq!(cluster.reply(old, lost), None, "a minority acknowledges nothing");
    let new = cluster.elect_without(old);
    cluster.put(new, "kept", "1");
    assert_eq!(cluster.reply(old, lost), None, "it cannot know yet");
    cluster.heal();
    cluster.pass(2_000);
    let answer = error(cluster.reply(old, lost));
    assert_eq!((answer.code, answer.effect), (ErrorCode::NotLeader, Outcome::NotApplied));
    assert_eq!(cluster.get(old, "lost"), None);
    assert_eq!(cluster.get(old, "kept").as_deref(), Some("1"));
    for node in 1..=3 {
        assert_eq!(cluster.node(node).status(Nanos(0)).queue.requests, 0);
    }
}

#[test]
fn a_write_that_the_next_leader_commits_is_acknowledged_by_the_deposed_one() {
    let (mut cluster, old) = Cluster::with_leader(3, |_| {});
    let others = cluster.others(old);
    // Its append arrives at one follower, and no answer comes back.
    cluster.cut(others[0], old);
    cluster.cut(others[1], old);
    cluster.cut(old, others[1]);
    let put = cluster.send_put(old, "a", "1");
    cluster.settle();
    assert_eq!(cluster.reply(old, put), None);
    let new = cluster.elect_without(old);
    assert_eq!(new, others[0], "the other one's log is shorter");
    cluster.heal();
    cluster.pass(2_000);
    assert!(matches!(cluster.reply(old, put), Some(Response::Written { .. })));
    assert_eq!(cluster.get(others[1], "a").as_deref(), Some("1"));
}

#[test]
fn a_write_that_nobody_decides_is_unknown_at_its_deadline() {
    let (mut cluster, old) = Cluster::with_leader(3, |_| {});
    cluster.cut_off(old);
    let put = cluster.send_put(old, "a", "1");
    cluster.pass(11_000);
    let answer = error(cluster.reply(old, put));
    assert_eq!((answer.code, answer.effect), (ErrorCode::DeadlineExceeded, Outcome::Unknown));
    assert_ne!(cluster.node(old).role(), Role::Leader, "check-quorum");
    assert_eq!(cluster.node(old).status(Nanos(0)).queue.requests, 0, "it holds no place any more");
    let read = cluster.send_get(old, "a");
    cluster.pass(2_000);
    assert_eq!(error(cluster.reply(old, read)).code, ErrorCode::NotLeader);
}

fn tiny(config: &mut NodeConfig) {
    config.memtable_bytes = 16 << 10;
    config.segment_bytes = 64 << 10;
    config.log_tail_entries = 4;
    config.snapshot_chunk_bytes = 1 << 10;
}

/// Writes until the leader's log has been released below `index`, which it keeps while somebody up lacks it.
fn outgrow(cluster: &mut Cluster, leader: u64, index: LogIndex) {
    cluster.pass(2_500);
    for n in 0..1_000 {
        cluster.put(leader, &format!("key-{:03}", n % 100), &format!("{n}-{}", "x".repeat(400)));
        if cluster.node(leader).log().stats().first_index > index.0 + 1 {
            return;
        }
    }
    panic!("the log was never released: {:?}", cluster.node(leader).log().stats());
}

/// The follower crashes, and when it comes up again it needs a snapshot.
fn crash_and_outgrow(cluster: &mut Cluster, leader: u64, follower: u64) {
    cluster.crash(follower, CrashKind::PowerLoss);
    let stands_at = cluster.node(leader).applied();
    outgrow(cluster, leader, stands_at);
}

/// A follower that is about to come up and needs a snapshot, and the leader.
fn snapshot_wanted() -> (Cluster, u64, u64) {
    let (mut cluster, leader) = Cluster::with_leader(3, tiny);
    let follower = cluster.another(leader);
    crash_and_outgrow(&mut cluster, leader, follower);
    (cluster, leader, follower)
}

#[test]
fn a_follower_whose_entries_are_gone_gets_a_snapshot_and_then_the_log() {
    let (mut cluster, leader) = Cluster::with_leader(3, tiny);
    let follower = cluster.another(leader);
    cluster.put(leader, "before", "1");
    crash_and_outgrow(&mut cluster, leader, follower);
    cluster.restart(follower);
    cluster.pass(3_000);
    cluster.put(leader, "after", "1");
    cluster.pass(500);
    let status = cluster.node(follower).status(Nanos(0));
    assert_eq!(status.snapshots.received.installed, 1, "{:?}", status.snapshots);
    assert_eq!(cluster.get(follower, "before").as_deref(), Some("1"));
    assert_eq!(cluster.get(follower, "after").as_deref(), Some("1"));
    cluster.same_state();
    let sent = cluster.node(leader).status(Nanos(0)).snapshots;
    assert_eq!((sent.sent.completed, sent.sending.len()), (1, 0), "{sent:?}");
    assert!(sent.sent.chunks > 4, "{sent:?}");
    cluster.restart(follower);
    cluster.pass(2_000);
    cluster.same_state();
}

#[test]
fn pitfall_27_a_transfer_goes_on_through_lost_pieces_and_restarts() {
    let (mut cluster, leader, follower) = snapshot_wanted();
    cluster.restart(follower);
    // A third of the messages is lost, and it restarts on the way.
    cluster.lose_one_of(3);
    for _ in 0..2 {
        let installed = |c: &Cluster| c.node(follower).receiver.counters.installed == 1;
        cluster.run_until(20_000, |c| {
            let progress = c.node(follower).receiver.progress(c.now());
            installed(c) || progress.is_some_and(|p| p.written > 0)
        });
        if installed(&cluster) {
            break;
        }
        cluster.crash(follower, CrashKind::Process);
        cluster.restart(follower);
    }
    cluster.run_until(60_000, |c| c.node(follower).receiver.counters.installed == 1);
    cluster.heal();
    cluster.pass(3_000);
    cluster.same_state();
    assert!(cluster.node(leader).status(Nanos(0)).snapshots.sent.rewinds > 0);
}

#[test]
fn members_are_added_as_learners_promoted_and_removed() {
    let (mut cluster, leader) = Cluster::with_leader(1, |_| {});
    cluster.put(leader, "a", "1");
    for node in 2..=3 {
        cluster.join(node, 0);
        let replica = cluster.replica(node);
        cluster.admin(leader, Admin::AddLearner(learner(replica))).unwrap();
        cluster.pass(1_500);
        assert_eq!(cluster.get(node, "a").as_deref(), Some("1"), "a learner reads");
        cluster.admin(leader, Admin::Promote(NodeId(node))).unwrap();
    }
    cluster.pass(500);
    let status = cluster.node(leader).status(Nanos(0));
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|m| m.role == MemberRole::Voter));
    let again = cluster.admin(leader, Admin::AddLearner(learner(cluster.replica(2)))).unwrap_err();
    assert_eq!((again.code, again.effect), (ErrorCode::BadRequest, Outcome::NotApplied));
    let nobody = cluster.admin(leader, Admin::Promote(NodeId(9))).unwrap_err();
    assert_eq!(nobody.code, ErrorCode::BadRequest);
    cluster.admin(leader, Admin::Remove(NodeId(leader))).unwrap();
    cluster.crash(leader, CrashKind::Process);
    let next = cluster.elect_without(leader);
    cluster.put(next, "a", "2");
    assert_eq!(cluster.node(next).raft().membership().voter_count(), 2);
    for node in [2, 3] {
        cluster.restart(node);
    }
    let next = cluster.elect_without(leader);
    assert_eq!(cluster.get(next, "a").as_deref(), Some("2"));
    assert_eq!(cluster.node(next).raft().membership().voter_count(), 2, "it is in the log");
}

/// ADMIN over the wire: its reply, or nothing yet.
fn wire(cluster: &mut Cluster, node: u64, request: AdminRequest<'_>) -> Origin {
    cluster.send(node, Request::Admin(request))
}

fn done(reply: Option<Response>) -> LogIndex {
    match reply {
        Some(Response::Written { index, .. }) => index,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_added_by_its_address_after_it_has_said_who_it_is() {
    let (mut cluster, leader) = Cluster::with_leader(1, |_| {});
    cluster.join(2, 0);
    let add = AdminRequest::Add { node: NodeId(2), peer_address: "b:7401" };
    let asked = wire(&mut cluster, leader, add);
    let (token, node, address) = cluster.driver(leader).introductions.pop().unwrap();
    assert_eq!((node, address.as_str()), (NodeId(2), "b:7401"));
    let busy = wire(&mut cluster, leader, add);
    assert_eq!(error(cluster.reply(leader, busy)).code, ErrorCode::Busy, "one at a time");
    let member = Member { role: MemberRole::Voter, ..learner(cluster.replica(2)) };
    let other = Event::Introduced { token: token + 1, result: Ok(member.clone()) };
    cluster.driver(leader).event(other);
    assert_eq!(cluster.reply(leader, asked), None, "that was another question");
    cluster.driver(leader).event(Event::Introduced { token, result: Ok(member) });
    cluster.pass(1_500);
    let index = done(cluster.reply(leader, asked));
    let members = cluster.node(leader).members();
    assert_eq!((members.index, members.committed), (index.0, true));
    assert_eq!(
        members.members[1].role,
        MemberRole::Learner,
        "it has to catch up, whatever it says"
    );
    assert!(members.members[1].progress.unwrap().caught_up);
    let promoted = wire(&mut cluster, leader, AdminRequest::Promote(NodeId(2)));
    cluster.pass(100);
    done(cluster.reply(leader, promoted));
    let transferred = wire(&mut cluster, leader, AdminRequest::Transfer(Some(NodeId(2))));
    cluster.pass(500);
    done(cluster.reply(leader, transferred));
    // The new member said where clients reach it; whoever asks the old leader is told.
    let put = cluster.send_put(leader, "a", "1");
    assert_eq!(error(cluster.reply(leader, put)).leader, "node-2:7400");
    let elsewhere = wire(&mut cluster, leader, AdminRequest::Remove(NodeId(1)));
    let refused = error(cluster.reply(leader, elsewhere));
    assert_eq!((refused.code, refused.effect), (ErrorCode::NotLeader, Outcome::NotApplied));
    assert_eq!(refused.leader, "node-2:7400");
}

#[test]
fn who_cannot_be_added_is_refused_and_nothing_is_proposed() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let last = cluster.node(leader).raft().status().last;
    let add = |node| AdminRequest::Add { node: NodeId(node), peer_address: "b:7401" };
    let member = wire(&mut cluster, leader, add(2));
    assert!(error(cluster.reply(leader, member)).message.contains("is a member already"));
    assert!(cluster.driver(leader).introductions.is_empty());
    let replica = |node| ReplicaId { node: NodeId(node), incarnation: 7 };
    let bad_address = Member { client_address: "a b".into(), ..learner(replica(9)) };
    for (result, why) in [
        (Err("connection refused".to_owned()), "connection refused"),
        (Ok(learner(replica(8))), "node 8 is there"),
        (Ok(bad_address), "printable ASCII"),
    ] {
        let asked = wire(&mut cluster, leader, add(9));
        let (token, ..) = cluster.driver(leader).introductions.pop().unwrap();
        cluster.driver(leader).event(Event::Introduced { token, result });
        let refused = error(cluster.reply(leader, asked));
        assert_eq!((refused.code, refused.effect), (ErrorCode::BadRequest, Outcome::NotApplied));
        assert!(refused.message.contains(why), "{refused}");
    }
    let asked = wire(&mut cluster, leader, add(9));
    let (token, ..) = cluster.driver(leader).introductions.pop().unwrap();
    cluster.pass(11_000);
    let late = error(cluster.reply(leader, asked));
    assert_eq!((late.code, late.effect), (ErrorCode::DeadlineExceeded, Outcome::NotApplied));
    let result = Ok(learner(replica(9)));
    cluster.driver(leader).event(Event::Introduced { token, result });
    cluster.pass(500);
    assert_eq!(cluster.node(leader).raft().status().last, last, "an answer that came too late");
    let asked = wire(&mut cluster, leader, add(9));
    cluster.driver(leader).event(Event::Drain);
    assert_eq!(error(cluster.reply(leader, asked)).code, ErrorCode::ShuttingDown);
}

#[test]
fn the_last_voter_stays_and_a_leader_may_remove_itself() {
    let (mut cluster, alone) = Cluster::with_leader(1, |_| {});
    let last = wire(&mut cluster, alone, AdminRequest::Remove(NodeId(alone)));
    cluster.settle();
    let refused = error(cluster.reply(alone, last));
    assert_eq!((refused.code, refused.effect), (ErrorCode::BadRequest, Outcome::NotApplied));
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let removed = wire(&mut cluster, leader, AdminRequest::Remove(NodeId(leader)));
    cluster.pass(1_000);
    done(cluster.reply(leader, removed));
    assert_ne!(cluster.node(leader).role(), Role::Leader);
    let next = cluster.elect_without(leader);
    assert_eq!(cluster.node(next).members().members.len(), 2);
    cluster.put(next, "a", "1");
}

/// A stale read: the value, and how old it is.
fn stale_get(cluster: &mut Cluster, node: u64, key: &str) -> (Option<String>, Staleness) {
    let key = key.as_bytes();
    let origin = cluster.send(node, Request::StaleGet { key, snapshot: SequenceNumber::ZERO });
    cluster.settle();
    match cluster.reply(node, origin) {
        Some(Response::Stale { staleness, answer }) => match *answer {
            Response::Value { value, .. } => {
                (Some(String::from_utf8(value.to_vec()).unwrap()), staleness)
            }
            Response::NotFound { .. } => (None, staleness),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stale_read_asks_nobody_and_says_how_old_it_is() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    cluster.put(leader, "a", "1");
    cluster.pass(1_000);
    let heartbeat_ms = cluster.node(leader).config().raft.heartbeat_ns / 1_000_000;
    for node in 1..=3 {
        let (value, staleness) = stale_get(&mut cluster, node, "a");
        assert_eq!(value.as_deref(), Some("1"), "node {node}");
        assert_eq!(staleness.applied_index, cluster.node(node).applied());
        let age_ms = staleness.age_ms.expect("it heard the leader");
        assert!(age_ms <= 2 * heartbeat_ms, "node {node}: {age_ms} ms in an idle cluster");
    }
    let lonely = cluster.another(leader);
    cluster.cut_off(lonely);
    cluster.put(leader, "a", "2");
    cluster.pass(5_000);
    let (value, staleness) = stale_get(&mut cluster, lonely, "a");
    assert_eq!(value.as_deref(), Some("1"), "it does not know better");
    let age_ms = staleness.age_ms.unwrap();
    assert!((5_000..5_500 + 2 * heartbeat_ms).contains(&age_ms), "{age_ms}");
    assert_eq!(cluster.node(lonely).status(cluster.now()).age_ms, Some(age_ms));
    cluster.heal();
    cluster.pass(3_000);
    let (value, staleness) = stale_get(&mut cluster, lonely, "a");
    assert_eq!(value.as_deref(), Some("2"));
    assert!(staleness.age_ms.unwrap() <= 2 * heartbeat_ms);
}

#[test]
fn a_leader_that_is_cut_off_says_that_its_answers_age() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    cluster.put(leader, "a", "1");
    cluster.cut_off(leader);
    cluster.pass(3_000);
    let (value, staleness) = stale_get(&mut cluster, leader, "a");
    assert_eq!(value.as_deref(), Some("1"));
    assert!(staleness.age_ms.unwrap() >= 3_000, "{staleness:?}");
}

#[test]
fn a_node_that_comes_back_alone_reads_what_it_has_and_does_not_say_that_it_is_fresh() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    cluster.put(leader, "a", "1");
    cluster.pass(1_000);
    let lonely = cluster.another(leader);
    cluster.crash(lonely, CrashKind::Process);
    cluster.cut_off(lonely);
    cluster.restart(lonely);
    cluster.pass(1_000);
    let (_, staleness) = stale_get(&mut cluster, lonely, "a");
    assert_eq!(staleness.age_ms, None);
    let get = cluster.send_get(lonely, "a");
    let refused = error(cluster.reply(lonely, get));
    assert_eq!(refused.code, ErrorCode::NotLeader, "any other read needs a leader");
}

#[test]
fn leadership_is_transferred_to_whom_it_was_meant_for() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let heir = cluster.another(leader);
    cluster.admin(leader, Admin::Transfer(Some(NodeId(heir)))).unwrap();
    assert_eq!(cluster.leaders(), [heir]);
    let back = cluster.admin(leader, Admin::Transfer(None)).unwrap_err();
    assert_eq!(back.code, ErrorCode::NotLeader);
    cluster.cut_off(heir);
    let lost = cluster.admin(heir, Admin::Transfer(None)).unwrap_err();
    assert_ne!(lost.effect, Outcome::Applied, "{lost:?}");
}

#[test]
fn a_transfer_that_timed_out_may_still_happen_so_its_effect_is_unknown() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let heir = cluster.another(leader);
    cluster.cut(leader, heir);
    let lost = cluster.admin(leader, Admin::Transfer(Some(NodeId(heir)))).unwrap_err();
    assert_eq!((lost.code, lost.effect), (ErrorCode::DeadlineExceeded, Outcome::Unknown));
    assert_eq!(cluster.leaders(), [leader]);
}

#[test]
fn a_follower_that_has_applied_nothing_yet_is_not_ready() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    for n in 0..20 {
        cluster.put(leader, &format!("key-{n}"), "1");
    }
    cluster.pass(500);
    let applied = cluster.node(leader).applied();
    for node in 1..=3 {
        cluster.restart(node);
    }
    // Node 3 has everything in its log and cannot read it back; it does not lead, but hears who does.
    cluster.hold(3, crate::env::Lane::Read, true);
    cluster.cut(3, 1);
    cluster.cut(3, 2);
    cluster.elect();
    cluster.pass(500);
    let not_ready = |cluster: &Cluster| {
        let node = cluster.node(3);
        assert!(node.applied() < applied && !node.is_ready(), "{:?}", node.status(Nanos(0)).replay);
    };
    not_ready(&cluster);
    cluster.heal();
    cluster.pass(1_000);
    not_ready(&cluster);
    cluster.hold(3, crate::env::Lane::Read, false);
    cluster.run_until(2_000, |c| c.node(3).is_ready());
    assert!(cluster.node(3).applied() >= applied);
}

#[test]
fn old_entries_that_the_leader_cannot_read_back_are_replaced_by_a_snapshot() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let follower = cluster.another(leader);
    cluster.crash(follower, CrashKind::PowerLoss);
    for n in 0..20 {
        cluster.put(leader, &format!("key-{n}"), "1");
    }
    // Nothing of the old entries is in memory after a restart.
    for node in cluster.others(follower) {
        cluster.restart(node);
    }
    let leader = cluster.elect();
    cluster.rot_log(leader);
    cluster.restart(follower);
    cluster.run_until(20_000, |c| c.node(follower).receiver.counters.installed == 1);
    cluster.put(leader, "after", "1");
    cluster.pass(500);
    cluster.same_state();
}

#[test]
fn pitfall_44_nodes_whose_disks_are_all_full_elect_a_leader_that_takes_deletes() {
    let mut cluster = Cluster::of(3, |config| config.segment_bytes = 64 << 10);
    let leader = cluster.elect();
    cluster.put(leader, "a", "1");
    cluster.pass(500);
    for node in 1..=3 {
        cluster.fill_disk(node, true);
    }
    for n in 0..200 {
        cluster.send_put(leader, &format!("key-{n}"), &"x".repeat(1_000));
    }
    assert!((1..=3).any(|node| cluster.node(node).space.log_is_full()));
    cluster.pass(10_000);
    for _ in 0..20 {
        let leader = cluster.leaders().first().copied();
        if let Some(leader) = leader {
            let delete = cluster.send_delete(leader, "a");
            cluster.pass(1_000);
            if let Some(Response::Written { .. }) = cluster.reply(leader, delete) {
                return;
            }
        }
        cluster.pass(500);
    }
    panic!("no delete is taken");
}

#[test]
fn a_node_whose_log_was_removed_after_an_install_does_not_vote_again() {
    let (mut cluster, _, follower) = snapshot_wanted();
    cluster.restart(follower);
    cluster.run_until(20_000, |c| c.node(follower).receiver.counters.installed == 1);
    cluster.crash(follower, CrashKind::PowerLoss);
    let refused = cluster.open_without_log(follower);
    assert!(refused.contains("raft/ is empty") && refused.contains("rejoin"), "{refused}");
    let again = cluster.open_again(follower);
    assert_eq!(again, refused, "also the second time");
}

#[test]
fn pitfall_53_a_leader_that_drains_hands_over_first() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let term = cluster.node(leader).raft().term();
    let put = cluster.send_put(leader, "a", "1");
    cluster.drain(leader);
    cluster.pass(100);
    assert!(matches!(cluster.reply(leader, put), Some(Response::Written { .. })));
    assert!(cluster.is_drained(leader));
    let next = cluster.elect_without(leader);
    assert_eq!(cluster.node(next).raft().term(), Term(term.0 + 1), "no timeout was waited for");
    cluster.restart(leader);
    cluster.pass(1_000);
    assert_eq!(cluster.get(leader, "a").as_deref(), Some("1"));
}

#[test]
fn a_leader_without_followers_drains_in_bounded_time() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    cluster.cut_off(leader);
    cluster.drain(leader);
    cluster.pass(2_500);
    assert!(cluster.is_drained(leader));
}

#[test]
fn pitfall_31_a_wiped_node_is_a_stranger_until_it_is_added_again() {
    let (mut cluster, leader) = Cluster::with_leader(3, tiny);
    let wiped = cluster.another(leader);
    let stands_at = cluster.node(leader).applied();
    outgrow(&mut cluster, leader, stands_at);
    cluster.wipe(wiped);
    cluster.join(wiped, 1);
    cluster.pass(3_000);
    assert_eq!(cluster.node(wiped).applied(), LogIndex(0), "nobody speaks to it");
    cluster.admin(leader, Admin::Remove(NodeId(wiped))).unwrap();
    let replica = cluster.replica(wiped);
    cluster.admin(leader, Admin::AddLearner(learner(replica))).unwrap();
    cluster.pass(5_000);
    cluster.admin(leader, Admin::Promote(NodeId(wiped))).unwrap();
    cluster.put(leader, "after", "1");
    cluster.pass(500);
    assert_eq!(cluster.get(wiped, "after").as_deref(), Some("1"));
    assert_eq!(cluster.node(wiped).status(Nanos(0)).snapshots.received.installed, 1);
    cluster.same_state();
}

#[test]
fn pitfall_36_a_retry_at_the_next_leader_is_not_applied_again() {
    let (mut cluster, old) = Cluster::with_leader(3, |_| {});
    let session = cluster.register(old);
    let first = cluster.put_as(old, session, 1, "a", "1").unwrap();
    cluster.crash(old, CrashKind::PowerLoss);
    let new = cluster.elect();
    cluster.put(new, "a", "2");
    let again = cluster.put_as(new, session, 1, "a", "1").unwrap();
    assert_eq!(first, again, "the same answer");
    assert_eq!(cluster.get(new, "a").as_deref(), Some("2"));
}

#[test]
fn pitfall_26_sessions_and_members_come_with_a_snapshot() {
    let (mut cluster, leader) = Cluster::with_leader(3, tiny);
    let session = cluster.register(leader);
    let first = cluster.put_as(leader, session, 1, "a", "1").unwrap();
    let follower = cluster.another(leader);
    crash_and_outgrow(&mut cluster, leader, follower);
    cluster.wipe(follower);
    cluster.join(follower, 1);
    cluster.admin(leader, Admin::Remove(NodeId(follower))).unwrap();
    cluster.admin(leader, Admin::AddLearner(learner(cluster.replica(follower)))).unwrap();
    cluster.pass(5_000);
    cluster.admin(leader, Admin::Promote(NodeId(follower))).unwrap();
    cluster.pass(500);
    cluster.admin(leader, Admin::Transfer(Some(NodeId(follower)))).unwrap();
    assert_eq!(cluster.node(follower).status(Nanos(0)).snapshots.received.installed, 1);
    assert_eq!(cluster.put_as(follower, session, 1, "a", "1").unwrap(), first);
    assert_eq!(cluster.node(follower).raft().membership().voter_count(), 3);
}

#[test]
fn pitfall_25_a_crash_at_any_write_of_an_install_leaves_the_old_state_or_the_new() {
    let run = |crash: Option<(u64, CrashKind)>| {
        let (mut cluster, leader, follower) = snapshot_wanted();
        cluster.restart(follower);
        let (operations, kind) = crash.unwrap_or((u64::MAX / 2, CrashKind::Process));
        let (done, crashed) = cluster.crash_after_operations(follower, operations, kind, |c| {
            c.run_until(20_000, |c| {
                !c.is_up(follower) || c.node(follower).receiver.counters.installed == 1
            });
        });
        assert_eq!(crashed, crash.is_some());
        cluster.restart(follower);
        cluster.pass(4_000);
        cluster.put(leader, "after", "1");
        cluster.pass(500);
        cluster.same_state();
        done
    };
    let operations = run(None);
    assert!(operations > 20, "{operations}");
    for kind in [CrashKind::Process, CrashKind::PowerLoss] {
        for at in (0..operations).step_by((operations / 16).max(1) as usize) {
            run(Some((at, kind)));
        }
    }
}

/// The manifest that names the snapshot is in the page cache, the log behind it is not reset yet, and the disk is full:
/// giving the log up then would leave nothing after a power loss.
#[test]
fn a_log_is_not_given_up_for_a_snapshot_that_a_full_disk_cannot_keep() {
    let mut refused = 0;
    for at in 0.. {
        let (mut cluster, leader, follower) = snapshot_wanted();
        cluster.restart(follower);
        let (_, crashed) = cluster.crash_after_operations(follower, at, CrashKind::Process, |c| {
            c.run_until(20_000, |c| {
                !c.is_up(follower) || c.node(follower).receiver.counters.installed == 1
            });
        });
        if !crashed {
            break;
        }
        if let Err(OpenError::SnapshotNotDurable { .. }) = cluster.open_on_a_full_disk(follower) {
            refused += 1;
            cluster.restart(follower);
            cluster.pass(4_000);
            cluster.put(leader, "after", "1");
            cluster.pass(500);
            cluster.same_state();
        }
    }
    assert!(refused > 0, "no crash came between the manifest and the reset of the log");
}

#[test]
fn a_follower_out_of_room_stops_taking_entries_at_its_limit_and_goes_on_when_there_is_room() {
    let mut cluster = Cluster::of(3, |config| {
        tiny(config);
        config.max_unapplied_bytes = 64 << 10;
    });
    let leader = cluster.elect();
    let slow = cluster.another(leader);
    cluster.hold(slow, crate::env::Lane::Flush, true);
    for n in 0..1_200 {
        cluster.put(leader, &format!("key-{:03}", n % 100), &"x".repeat(200));
    }
    let status = cluster.node(slow).status(Nanos(0));
    assert!(status.peers.dropped_no_room > 0, "{:?}", status.peers);
    assert!(status.log.live_bytes < 1 << 20, "{:?}", status.log);
    assert_eq!(cluster.leaders(), [leader], "heartbeats pass");
    cluster.hold(slow, crate::env::Lane::Flush, false);
    cluster.pass(5_000);
    cluster.same_state();
}

#[test]
fn pitfall_20_a_leader_whose_disk_hangs_loses_leadership_and_answers_unknown() {
    let (mut cluster, old) = Cluster::with_leader(3, |_| {});
    cluster.hold(old, crate::env::Lane::Log, true);
    let put = cluster.send_put(old, "a", "1");
    cluster.pass(5_000);
    assert_ne!(cluster.leaders(), [old]);
    let new = cluster.elect_without(old);
    cluster.put(new, "b", "1");
    cluster.hold(old, crate::env::Lane::Log, false);
    cluster.pass(2_000);
    assert!(cluster.reply(old, put).is_some());
    assert_eq!(cluster.get(old, "b").as_deref(), Some("1"));
    cluster.same_state();
}

#[test]
fn the_same_seed_gives_the_same_run_of_a_cluster() {
    let run = || {
        let mut cluster = Cluster::of(3, tiny);
        let leader = cluster.elect();
        let follower = cluster.another(leader);
        cluster.crash(follower, CrashKind::PowerLoss);
        let stands_at = cluster.node(leader).applied();
        outgrow(&mut cluster, leader, stands_at);
        cluster.restart(follower);
        cluster.lose_one_of(7);
        cluster.pass(3_000);
        cluster.traces()
    };
    assert_eq!(run(), run());
}

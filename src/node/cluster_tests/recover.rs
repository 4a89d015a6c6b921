//! Two of three voters are lost for ever, and the third becomes a new cluster.

use super::harness::Cluster;
use super::*;

/// Three nodes; the leader has acknowledged what all hold, and holds more that nobody has seen.
fn minority(change: fn(&mut NodeConfig)) -> (Cluster, u64, Vec<u64>) {
    let mut cluster = Cluster::of(3, change);
    let survivor = cluster.elect();
    let lost = cluster.others(survivor);
    for n in 0..20 {
        cluster.put(survivor, &format!("key-{n}"), "1");
    }
    cluster.cut_off(survivor);
    let tail = cluster.send_put(survivor, "tail", "1");
    cluster.settle();
    assert_eq!(cluster.reply(survivor, tail), None, "nobody else has it");
    for node in 1..=3 {
        cluster.crash(node, CrashKind::PowerLoss);
    }
    cluster.heal();
    (cluster, survivor, lost)
}

fn members(cluster: &Cluster, node: u64) -> Vec<ReplicaId> {
    cluster.node(node).raft().membership().voters().collect()
}

#[test]
fn a_survivor_serves_all_that_was_committed_and_members_are_added_again() {
    let (mut cluster, survivor, lost) = minority(|_| {});
    cluster.restart(survivor);
    cluster.pass(5_000);
    assert!(!cluster.node(survivor).is_ready(), "one of three is no quorum");
    cluster.crash(survivor, CrashKind::Process);
    let (plan, _) = cluster.recover(survivor, 5).unwrap();
    let forgotten: Vec<u64> = plan.others.members().map(|m| m.replica.node.0).collect();
    assert_eq!((forgotten, plan.role), (lost.clone(), Some(MemberRole::Voter)));
    cluster.restart(survivor);
    assert_eq!(cluster.elect(), survivor);
    assert_eq!(cluster.replica(survivor), plan.identity.replica());
    assert_eq!(members(&cluster, survivor), [plan.identity.replica()]);
    for n in 0..20 {
        assert_eq!(cluster.get(survivor, &format!("key-{n}")).as_deref(), Some("1"));
    }
    assert_eq!(cluster.get(survivor, "tail").as_deref(), Some("1"), "its log is the truth now");
    for node in lost {
        cluster.wipe(node);
        cluster.join(node, 5);
        let replica = cluster.replica(node);
        cluster.admin(survivor, Admin::AddLearner(learner(replica))).unwrap();
        cluster.pass(1_500);
        cluster.admin(survivor, Admin::Promote(NodeId(node))).unwrap();
    }
    cluster.put(survivor, "after", "1");
    cluster.same_state();
    // What the others learned is the new membership: they go on without the survivor.
    cluster.crash(survivor, CrashKind::PowerLoss);
    let next = cluster.elect_without(survivor);
    assert_eq!(cluster.get(next, "tail").as_deref(), Some("1"));
    assert_eq!(cluster.get(next, "after").as_deref(), Some("1"));
    assert_eq!(members(&cluster, next).len(), 3);
}

#[test]
fn old_members_that_come_back_are_another_cluster_and_do_not_disturb_the_new_one() {
    let (mut cluster, survivor, lost) = minority(|_| {});
    cluster.recover(survivor, 5).unwrap();
    cluster.restart(survivor);
    cluster.elect();
    let term = cluster.node(survivor).raft().term();
    // They were a majority of the old cluster, so they elect a leader, who never has the new one's ear.
    for &node in &lost {
        cluster.restart(node);
    }
    let is_old_leader = |c: &Cluster| {
        lost.iter()
            .copied()
            .find(|node| c.node(*node).role() == Role::Leader && c.node(*node).is_ready())
    };
    cluster.run_until(20_000, |c| is_old_leader(c).is_some());
    let old_leader = is_old_leader(&cluster).unwrap();
    assert!(cluster.node(old_leader).raft().term() < term, "no term is of both");
    cluster.put(old_leader, "old", "1");
    cluster.put(survivor, "new", "1");
    cluster.pass(5_000);
    assert_eq!(cluster.node(survivor).role(), Role::Leader);
    assert_eq!(cluster.node(survivor).raft().term(), term, "nobody raised it");
    assert_eq!(cluster.get(survivor, "old"), None);
    assert_eq!(cluster.get(old_leader, "new"), None);
    assert_eq!(cluster.node(survivor).raft().membership().voter_count(), 1);
    // One alone campaigns for ever, and nobody of the new cluster hears it.
    cluster.crash(old_leader, CrashKind::Process);
    cluster.pass(5_000);
    assert_eq!(cluster.node(survivor).raft().term(), term, "nobody raised it");
    cluster.put(survivor, "new", "2");
    // Wiped, it is welcome.
    cluster.wipe(old_leader);
    cluster.join(old_leader, 5);
    let replica = cluster.replica(old_leader);
    cluster.admin(survivor, Admin::AddLearner(learner(replica))).unwrap();
    cluster.pass(1_500);
    assert_eq!(cluster.get(old_leader, "new").as_deref(), Some("2"));
    assert_eq!(cluster.get(old_leader, "old"), None);
}

#[test]
fn a_survivor_may_have_been_in_the_middle_of_a_snapshot() {
    let run = |crash: Option<(u64, CrashKind)>| {
        let (mut cluster, leader, follower) = snapshot_wanted();
        let lost = cluster.others(follower);
        cluster.restart(follower);
        let (operations, kind) = crash.unwrap_or((u64::MAX / 2, CrashKind::Process));
        let (done, _) = cluster.crash_after_operations(follower, operations, kind, |c| {
            c.run_until(20_000, |c| {
                !c.is_up(follower) || c.node(follower).receiver.counters.installed == 1
            });
        });
        for node in lost {
            cluster.wipe(node);
        }
        let (plan, log_ended) = cluster.recover(follower, 5).unwrap();
        cluster.restart(follower);
        assert_eq!(cluster.elect(), follower, "not {leader}");
        assert_eq!(members(&cluster, follower), [plan.identity.replica()]);
        cluster.put(follower, "after", "1");
        cluster.restart(follower);
        cluster.elect();
        assert_eq!(cluster.get(follower, "after").as_deref(), Some("1"));
        (done, plan.last.0 != log_ended)
    };
    let (operations, _) = run(None);
    let mut began_anew = 0;
    for kind in [CrashKind::Process, CrashKind::PowerLoss] {
        for at in (0..operations).step_by((operations / 24).max(1) as usize).chain([operations - 1])
        {
            began_anew += u32::from(run(Some((at, kind))).1);
        }
    }
    assert!(began_anew > 0, "no crash fell between the install and the log's new beginning");
}

//! Disks that are full on some of the nodes.

use super::*;

/// Anything less than this is low.
fn with_reserve(config: &mut NodeConfig) {
    config.reserve_bytes = 64 << 10;
}

fn is_read_only(cluster: &Cluster, node: u64) -> bool {
    cluster.node(node).status(Nanos(0)).read_only.is_some()
}

#[test]
fn a_leader_without_space_hands_over_to_the_voter_that_has_some() {
    let (mut cluster, old) = Cluster::with_leader(3, with_reserve);
    cluster.put(old, "a", "1");
    // Whoever would be next in turn is full as well.
    let others = cluster.others(old);
    let full = *others.iter().find(|node| **node > old).unwrap_or(&others[0]);
    let roomy = *others.iter().find(|node| **node != full).expect("three nodes");
    cluster.fill_disk(full, true);
    cluster.run_until(2_000, |c| is_read_only(c, full));
    cluster.fill_disk(old, true);
    cluster.run_until(2_000, |c| is_read_only(c, old));
    let refused = cluster.send_put(old, "b", "1");
    let refused = error(cluster.reply(old, refused));
    assert_eq!((refused.code, refused.effect), (ErrorCode::NoSpace, Outcome::NotApplied));
    cluster.run_until(12_000, |c| c.leaders() == [roomy] && c.node(roomy).is_ready());
    cluster.put(roomy, "b", "1");
    // There it stays, and everybody has what is written as long as their logs have room.
    cluster.pass(30_000);
    assert_eq!(cluster.leaders(), [roomy]);
    assert_eq!(cluster.get(old, "b").as_deref(), Some("1"));
    // With space the old one may lead again.
    cluster.fill_disk(old, false);
    cluster.run_until(2_000, |c| !is_read_only(c, old));
    cluster.admin(roomy, Admin::Transfer(Some(NodeId(old)))).expect("it takes the lead");
    assert_eq!(cluster.elect(), old);
    cluster.put(old, "c", "1");
    cluster.same_state();
}

#[test]
fn when_all_disks_are_full_nobody_is_elected_for_it_and_the_first_with_space_leads() {
    let (mut cluster, leader) = Cluster::with_leader(3, with_reserve);
    cluster.put(leader, "a", "1");
    (1..=3).for_each(|node| cluster.fill_disk(node, true));
    cluster.run_until(2_000, |c| (1..=3).all(|node| is_read_only(c, node)));
    let term = cluster.node(leader).raft().term();
    cluster.pass(60_000);
    assert_eq!(cluster.leaders(), [leader]);
    assert_eq!(cluster.node(leader).raft().term(), term, "nobody campaigns");
    let put = cluster.send_put(leader, "b", "1");
    assert_eq!(error(cluster.reply(leader, put)).code, ErrorCode::NoSpace);
    assert_eq!(cluster.get(leader, "a").as_deref(), Some("1"));
    for first in cluster.others(leader) {
        cluster.fill_disk(first, false);
        cluster.run_until(15_000, |c| c.leaders() == [first] && c.node(first).is_ready());
        cluster.put(first, "b", "1");
        cluster.fill_disk(first, true);
        cluster.run_until(2_000, |c| is_read_only(c, first));
    }
    (1..=3).for_each(|node| cluster.fill_disk(node, false));
    cluster.same_state();
}

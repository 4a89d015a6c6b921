//! Leadership that moves, and nodes that are told to stop: what their clients are told.

use super::*;
use crate::env::Lane;
use crate::raft::Message;

/// The two others of three cannot write, so nobody takes over.
fn hold_others(cluster: &mut Cluster, leader: u64, held: bool) {
    for node in cluster.others(leader) {
        cluster.hold(node, Lane::Log, held);
    }
}

#[test]
fn a_write_that_meets_a_hand_over_waits_and_is_sent_to_the_next_leader() {
    for drains in [false, true] {
        let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
        hold_others(&mut cluster, leader, true);
        let admitted = cluster.send_put(leader, "admitted", "1");
        if drains {
            cluster.drain(leader);
        } else {
            wire(&mut cluster, leader, AdminRequest::Transfer(None));
        }
        let put = cluster.send_put(leader, "a", "1");
        assert_eq!(cluster.reply(leader, put), None, "it waits");
        assert_eq!(cluster.reply(leader, admitted), None);
        hold_others(&mut cluster, leader, false);
        let next = cluster.elect_without(leader);
        cluster.pass(100);
        done(cluster.reply(leader, admitted));
        let sent_on = error(cluster.reply(leader, put));
        assert_eq!((sent_on.code, sent_on.effect), (ErrorCode::NotLeader, Outcome::NotApplied));
        assert_eq!(sent_on.leader, format!("node-{next}:7400"));
        assert_eq!(cluster.get(next, "a"), None);
        assert_eq!(cluster.get(next, "admitted").as_deref(), Some("1"));
        assert_eq!(cluster.is_drained(leader), drains);
    }
}

#[test]
fn a_write_that_waited_for_a_successor_that_did_not_come_is_written_or_refused() {
    for drains in [false, true] {
        let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
        let heir = cluster.another(leader);
        cluster.hold(heir, Lane::Log, true);
        if drains {
            hold_others(&mut cluster, leader, true);
            cluster.drain(leader);
        } else {
            wire(&mut cluster, leader, AdminRequest::Transfer(Some(NodeId(heir))));
        }
        let put = cluster.send_put(leader, "a", "1");
        assert_eq!(cluster.reply(leader, put), None);
        // Each of the two is asked for an election timeout.
        cluster.pass(if drains { 2_400 } else { 1_200 });
        if drains {
            let refused = error(cluster.reply(leader, put));
            assert_eq!(refused.code, ErrorCode::ShuttingDown);
            assert_eq!(refused.effect, Outcome::NotApplied);
            assert!(cluster.is_drained(leader));
        } else {
            done(cluster.reply(leader, put));
        }
    }
}

#[test]
fn a_draining_leader_asks_the_next_voter_when_the_first_cannot_lead() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let others = cluster.others(leader);
    // Of two that have the same log the lower is asked first; its own vote never becomes durable.
    cluster.hold(others[0], Lane::Log, true);
    cluster.drain(leader);
    cluster.pass(900);
    assert!(!cluster.is_drained(leader), "the first is still being asked");
    cluster.pass(700);
    assert!(cluster.is_drained(leader));
    assert_eq!(cluster.node(others[1]).status(Nanos(0)).role, "leader");
}

#[test]
fn a_waiting_write_is_answered_at_its_deadline() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    hold_others(&mut cluster, leader, true);
    wire(&mut cluster, leader, AdminRequest::Transfer(None));
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1").unwrap();
    let batch = BatchRef::parse(batch.as_bytes()).unwrap();
    let origin = Origin { conn: 9, request_id: 1 };
    let put = Request::Write { opcode: Opcode::Write, batch };
    cluster.driver(leader).request(origin, put, 100);
    cluster.pass(150);
    let late = error(cluster.reply(leader, origin));
    assert_eq!((late.code, late.effect), (ErrorCode::DeadlineExceeded, Outcome::NotApplied));
}

#[test]
fn reads_wait_out_an_election_at_every_node_and_are_then_answered() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    cluster.put(leader, "a", "1");
    let heirs = cluster.others(leader);
    hold_others(&mut cluster, leader, true);
    cluster.drain(leader);
    cluster.pass(50);
    let reads: Vec<_> = heirs.iter().map(|node| (*node, cluster.send_get(*node, "a"))).collect();
    hold_others(&mut cluster, leader, false);
    cluster.elect_without(leader);
    cluster.pass(100);
    for (node, read) in reads {
        let found = cluster.reply(node, read);
        assert!(matches!(found, Some(Response::Value { .. })), "node {node}: {found:?}");
    }
}

#[test]
fn nobody_waits_longer_than_an_election_timeout_for_a_leader_that_does_not_come() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let alone = cluster.another(leader);
    cluster.cut_off(alone);
    cluster.run_until(5_000, |c| c.node(alone).raft().leader().is_none());
    let (put, read) = (cluster.send_put(alone, "a", "1"), cluster.send_get(alone, "a"));
    assert_eq!(cluster.reply(alone, put), None);
    assert_eq!(cluster.reply(alone, read), None);
    cluster.pass(1_100);
    for asked in [put, read] {
        assert_eq!(error(cluster.reply(alone, asked)).code, ErrorCode::NotLeader);
    }
    let again = cluster.send_put(alone, "a", "1");
    assert_eq!(
        error(cluster.reply(alone, again)).code,
        ErrorCode::NotLeader,
        "at once from now on"
    );
}

#[test]
fn a_follower_that_drains_names_the_leader_to_writes() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let follower = cluster.another(leader);
    cluster.hold(follower, Lane::Log, true);
    cluster.drain(follower);
    let (put, read) = (cluster.send_put(follower, "a", "1"), cluster.send_get(follower, "a"));
    let sent_on = error(cluster.reply(follower, put));
    assert_eq!(
        (sent_on.code, sent_on.leader),
        (ErrorCode::NotLeader, format!("node-{leader}:7400"))
    );
    let refused = error(cluster.reply(follower, read));
    assert_eq!((refused.code, refused.effect), (ErrorCode::ShuttingDown, Outcome::None));
    cluster.hold(follower, Lane::Log, false);
    cluster.pass(100);
    assert!(cluster.is_drained(follower));
}

#[test]
fn a_node_that_is_made_leader_while_it_drains_gives_it_away_again() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let drains = cluster.another(leader);
    // A read that is not answered keeps it from closing.
    cluster.cut(drains, leader);
    let read = cluster.send_get(drains, "a");
    cluster.drain(drains);
    assert!(!cluster.is_drained(drains));
    cluster.heal();
    cluster.admin(leader, Admin::Transfer(Some(NodeId(drains)))).unwrap();
    cluster.pass(2_000);
    assert!(cluster.is_drained(drains));
    assert!(cluster.reply(drains, read).is_some());
    let leads = cluster.elect_without(drains);
    cluster.put(leads, "a", "1");
}

/// L5 of the review of November: a transfer to 2 was answered OK when 3 had become leader.
#[test]
fn a_transfer_that_another_one_won_is_not_answered_as_done() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let [wanted, other] = cluster.others(leader)[..] else { panic!() };
    cluster.cut(leader, wanted);
    let asked = wire(&mut cluster, leader, AdminRequest::Transfer(Some(NodeId(wanted))));
    let (from, to) = (cluster.replica(leader), cluster.replica(other));
    let term = cluster.node(leader).raft().term();
    let body = Body::TransferNow;
    let message = Message { from, to, term, body };
    let (of, after) = (cluster.node(leader).cluster(), cluster.now());
    cluster.driver(other).event(Event::Peer { message, cluster: of, after });
    cluster.settle();
    cluster.heal();
    cluster.pass(500);
    assert_eq!(cluster.leaders(), [other]);
    let lost = error(cluster.reply(leader, asked));
    assert_eq!((lost.code, lost.effect), (ErrorCode::NotLeader, Outcome::Unknown));
    let names = format!("node {other} leads now, and not node {wanted}");
    assert!(lost.message.contains(&names), "{lost}");
}

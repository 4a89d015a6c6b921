//! Sessions among three nodes: a retry goes to another leader than the first try.

use super::*;

fn session_put(id: u64, sequence: u64, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(b"k", value.as_bytes()).unwrap();
    batch.set_client(id, sequence, 1);
    batch
}

fn write(batch: &WriteBatch) -> Request<'_> {
    Request::Write { opcode: Opcode::Write, batch: BatchRef::parse(batch.as_bytes()).unwrap() }
}

fn get(cluster: &mut Cluster, node: u64) -> (u64, Vec<u8>) {
    match cluster.ask(node, Request::Get { key: b"k", snapshot: SequenceNumber::ZERO }) {
        Response::Value { seq, value, .. } => (seq.0, value.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// Three nodes, the leader, and a session.
fn with_session(seed: u64) -> (Cluster, u64, u64) {
    println!("seed {seed}");
    let mut cluster = Cluster::seeded(seed, 3, |config| config.segment_bytes = 64 << 10);
    let leader = cluster.elect();
    let id = cluster.register(leader);
    (cluster, leader, id)
}

#[test]
fn pitfall_36_a_new_leader_answers_the_retry_of_a_write_that_the_old_one_applied() {
    for seed in 0..5 {
        let (mut cluster, old, id) = with_session(seed);
        let batch = session_put(id, 1, "once");
        // Everybody applied it, and the answer does not reach the client.
        let first = cluster.ask(old, write(&batch));
        let Response::Written { last_seq, .. } = first else { panic!("{first:?}") };
        cluster.pass(200);
        cluster.cut_off(old);
        let new = cluster.elect_without(old);
        assert_eq!(cluster.ask(new, write(&batch)), first);
        assert_eq!(get(&mut cluster, new), (last_seq.0, b"once".to_vec()));
    }
}

#[test]
fn pitfall_36_a_try_that_is_still_in_the_log_of_a_deposed_leader_is_not_applied_again() {
    for seed in 0..5 {
        let (mut cluster, old, id) = with_session(seed);
        let (mine, other) = (session_put(id, 1, "mine"), session_put(id, 2, "changed since"));
        // The first try reaches nobody but its leader.
        cluster.cut_off(old);
        let lost = cluster.send(old, write(&mine));
        let new = cluster.elect_without(old);
        let answer = cluster.ask(new, write(&mine));
        assert!(matches!(answer, Response::Written { .. }), "{answer:?}");
        let changed = cluster.ask(new, write(&other));
        assert!(matches!(changed, Response::Written { .. }), "{changed:?}");
        cluster.heal();
        cluster.pass(2_000);
        // Another entry took the place of the lost one: that try was not applied, and the write was, once.
        let lost = error(cluster.reply(old, lost));
        assert_eq!((lost.code, lost.effect), (ErrorCode::NotLeader, Outcome::NotApplied));
        let leader = cluster.elect();
        assert_eq!(cluster.ask(leader, write(&mine)), answer);
        assert_eq!(get(&mut cluster, leader).1, b"changed since");
        cluster.same_state();
    }
}

/// M6 of the review of November: a member that was down could come back with software that does not know sessions.
#[test]
fn sessions_begin_when_every_member_has_said_that_it_knows_them_and_then_for_ever() {
    let (mut cluster, leader) = Cluster::with_leader(3, |_| {});
    let [other, down] = cluster.others(leader)[..] else { panic!() };
    // Known to lack it, also by a learner, also while it is down.
    cluster.link(leader, down, 0);
    cluster.crash(down, CrashKind::PowerLoss);
    let replica = cluster.replica(down);
    cluster.driver(leader).event(Event::PeerUnreachable(replica));
    let asked = cluster.send(leader, Request::Register);
    let lacks = error(cluster.reply(leader, asked));
    assert_eq!((lacks.code, lacks.effect), (ErrorCode::BadRequest, Outcome::NotApplied));
    // Nobody has heard of it since the others started.
    for node in [leader, other] {
        cluster.crash(node, CrashKind::PowerLoss);
    }
    cluster.restart(leader);
    cluster.restart(other);
    let leader = cluster.elect();
    let asked = cluster.send(leader, Request::Register);
    let unknown = error(cluster.reply(leader, asked));
    assert_eq!((unknown.code, unknown.effect), (ErrorCode::Busy, Outcome::NotApplied));
    // It comes, goes, and has been upgraded. A stranger under its number says nothing of it.
    cluster.restart(down);
    cluster.register(leader);
    cluster.crash(down, CrashKind::PowerLoss);
    for node in cluster.others(down) {
        cluster.crash(node, CrashKind::PowerLoss);
    }
    for node in (1..=3).filter(|node| *node != down) {
        cluster.restart(node);
    }
    let leader = cluster.elect();
    cluster.register(leader);
}

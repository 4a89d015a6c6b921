//! Sessions against a cluster that remembers outcomes by the rules, and loses connections and answers.

use super::super::tests::{Peer, serve};
use super::*;
use crate::base::{LogIndex, SequenceNumber};
use crate::client::ClientOptions;
use crate::env::sim::SimRandom;
use std::sync::{Arc, Mutex, MutexGuard};

/// What became of a request.
enum Fate {
    Answered(Response),
    /// The connection breaks instead.
    Lost,
}

/// A cluster that applies writes and remembers sessions.
#[derive(Default)]
struct Cluster {
    last_index: u64,
    sessions: BTreeMap<u64, BTreeMap<u64, Response>>,
    /// Every request as it came: client, sequence, acked below.
    seen: Vec<(u64, u64, u64)>,
    /// Keys, as often as they were applied.
    applied: BTreeMap<Vec<u8>, u32>,
}

impl Cluster {
    fn take(&mut self, opcode: u8, body: &[u8]) -> Response {
        self.last_index += 1;
        let (index, seq) = (LogIndex(self.last_index), SequenceNumber(self.last_index));
        match Request::decode(opcode, body).unwrap() {
            Request::Register => {
                self.sessions.insert(index.0, BTreeMap::new());
                let window = 256;
                Response::Registered(Registered { client_id: index.0, applied: seq, window })
            }
            Request::Write { batch, .. } => {
                let (id, sequence) = (batch.client_id(), batch.client_sequence());
                self.seen.push((id, sequence, batch.acked_below()));
                let Some(outcomes) = self.sessions.get_mut(&id) else {
                    return refusal(ErrorCode::UnknownSession, Effect::Unknown);
                };
                let written = Response::Written { index, first_seq: seq, last_seq: seq };
                if let Some(outcome) = outcomes.get(&sequence) {
                    return outcome.clone();
                }
                outcomes.insert(sequence, written.clone());
                let Some(crate::base::batch::Op::Put { key, .. }) = batch.ops().next() else {
                    panic!("a put");
                };
                *self.applied.entry(key.to_vec()).or_default() += 1;
                written
            }
            other => panic!("{other:?}"),
        }
    }
}

fn refusal(code: ErrorCode, effect: Effect) -> Response {
    Response::Error(ErrorReply::new(code, effect, "scripted"))
}

struct World {
    cluster: Arc<Mutex<Cluster>>,
    endpoint: String,
}

impl World {
    /// `judge(cluster, how many requests there were before, opcode, body)` says what becomes of each request.
    fn new(mut judge: impl FnMut(&mut Cluster, usize, u8, &[u8]) -> Fate + Send + 'static) -> Self {
        let cluster = Arc::new(Mutex::new(Cluster::default()));
        let shared = Arc::clone(&cluster);
        let count = Mutex::new((0, move |cluster: &mut Cluster, n, opcode, body: &[u8]| {
            judge(cluster, n, opcode, body)
        }));
        let (endpoint, _) = serve(move |_, mut peer: Peer| {
            while let Some((opcode, id, body)) = peer.request() {
                let mut count = count.lock().unwrap();
                let n = count.0;
                count.0 += 1;
                match count.1(&mut shared.lock().unwrap(), n, opcode, &body) {
                    Fate::Answered(response) => peer.reply(opcode, id, &response),
                    Fate::Lost => return,
                }
            }
        });
        Self { cluster, endpoint }
    }

    fn client(&self, timeout_ms: u64) -> Client {
        let mut options = ClientOptions::new([&self.endpoint]);
        options.timeout = Duration::from_millis(timeout_ms);
        Client::with_options(options).unwrap()
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }
}

fn put(key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), b"v").unwrap();
    batch
}

#[test]
fn pitfall_36_a_lost_answer_is_asked_for_again_under_the_same_number() {
    // 0 is the registration; the first answer to the write is lost after it was applied.
    let world = World::new(|cluster, n, opcode, body| {
        let response = cluster.take(opcode, body);
        if n == 1 { Fate::Lost } else { Fate::Answered(response) }
    });
    let mut client = world.client(5_000);
    let mut session = client.session().unwrap();
    let id = session.state().client_id();
    let written = session.put(b"k", b"v").unwrap();
    assert_eq!(written.index, LogIndex(2), "the entry that applied it");
    session.put(b"l", b"v").unwrap();
    let cluster = world.cluster();
    assert_eq!(cluster.seen, [(id, 1, 1), (id, 1, 1), (id, 2, 2)]);
    assert!(cluster.applied.values().all(|times| *times == 1), "{:?}", cluster.applied);
}

#[test]
fn a_write_that_the_old_leader_lost_is_found_again_behind_a_redirect() {
    // Two nodes and one cluster. The old leader loses the answer to an applied write and follows from then on; the new one
    // knows the session and its write.
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let node = |name_of_leader: Arc<Mutex<String>>, leads_for: usize| {
        let (shared, count) = (Arc::clone(&cluster), Mutex::new(0));
        let (endpoint, _) = serve(move |_, mut peer: Peer| {
            while let Some((opcode, id, body)) = peer.request() {
                let mut count = count.lock().unwrap();
                *count += 1;
                if *count > leads_for {
                    let follows = Response::Error(ErrorReply {
                        leader: name_of_leader.lock().unwrap().clone(),
                        ..ErrorReply::new(ErrorCode::NotLeader, Effect::NotApplied, "not me")
                    });
                    peer.reply(opcode, id, &follows);
                    continue;
                }
                let response = shared.lock().unwrap().take(opcode, &body);
                if *count == leads_for {
                    return;
                }
                peer.reply(opcode, id, &response);
            }
        });
        endpoint
    };
    let leader = Arc::new(Mutex::new(String::new()));
    let old = node(Arc::clone(&leader), 2);
    let new = node(Arc::clone(&leader), usize::MAX);
    leader.lock().unwrap().clone_from(&new);
    let mut client = Client::with_options(ClientOptions::new([&old])).unwrap();
    let mut session = client.session().unwrap();
    let written = session.put(b"k", b"v").unwrap();
    assert_eq!(written.index, LogIndex(2), "the entry that applied it, in the old leader's time");
    let many: Vec<WriteBatch> = (0..20).map(|i| put(&format!("k{i}"))).collect();
    assert!(session.write_many(&many, 4).iter().all(Result::is_ok));
    assert_eq!(session.client().endpoint(), new);
    let cluster = cluster.lock().unwrap();
    assert!(cluster.applied.values().all(|times| *times == 1), "{:?}", cluster.applied);
}

#[test]
fn a_registration_whose_answer_is_lost_is_made_again() {
    let world = World::new(|cluster, n, opcode, body| {
        let response = cluster.take(opcode, body);
        if n == 0 { Fate::Lost } else { Fate::Answered(response) }
    });
    assert_eq!(world.client(5_000).session().unwrap().state().client_id(), 2);
}

#[test]
fn a_write_that_is_given_up_is_unknown_whatever_its_last_try_was_told() {
    let world = World::new(|cluster, n, opcode, body| match n {
        0 => Fate::Answered(cluster.take(opcode, body)),
        1 => Fate::Lost,
        2..5 => Fate::Answered(refusal(ErrorCode::Busy, Effect::NotApplied)),
        5 => Fate::Answered(Response::Error(ErrorReply {
            retry_after_ms: 60_000,
            ..ErrorReply::new(ErrorCode::Busy, Effect::NotApplied, "for long")
        })),
        _ => Fate::Answered(cluster.take(opcode, body)),
    });
    let mut client = world.client(2_000);
    let mut session = client.session().unwrap();
    let e = session.put(b"k", b"v").unwrap_err();
    assert_eq!((e.code(), e.effect()), (Some(ErrorCode::Busy), Effect::Unknown), "{e}");
    // The next write says that the first is not waited for: from then on it can no longer be applied.
    session.put(b"l", b"v").unwrap();
    let id = session.state().client_id();
    assert_eq!(world.cluster().seen.last(), Some(&(id, 2, 2)));
}

#[test]
fn refusals_alone_leave_a_write_not_applied() {
    let world = World::new(|cluster, n, opcode, body| match n {
        0 => Fate::Answered(cluster.take(opcode, body)),
        _ => Fate::Answered(Response::Error(ErrorReply {
            retry_after_ms: 60_000,
            ..ErrorReply::new(ErrorCode::Busy, Effect::NotApplied, "for long")
        })),
    });
    let mut client = world.client(1_000);
    let e = client.session().unwrap().put(b"k", b"v").unwrap_err();
    assert_eq!(e.effect(), Effect::NotApplied, "{e}");
}

#[test]
fn an_evicted_session_is_replaced_unless_a_try_was_lost() {
    for lost in [false, true] {
        let world = World::new(move |cluster, n, opcode, body| {
            if n == 2 {
                cluster.sessions.clear();
                if lost {
                    return Fate::Lost;
                }
            }
            Fate::Answered(cluster.take(opcode, body))
        });
        let mut client = world.client(5_000);
        let mut session = client.session().unwrap();
        let first = session.state().client_id();
        session.put(b"k", b"v").unwrap();
        match session.put(b"l", b"v") {
            Ok(_) if !lost => {
                let state = session.suspend();
                assert!(state.client_id() > first);
                assert_eq!(world.cluster().seen.last(), Some(&(state.client_id(), 1, 1)));
                client.resume_session(state).put(b"m", b"v").unwrap();
                assert_eq!(world.cluster().seen.last().unwrap().1, 2, "the numbers go on");
            }
            Err(e) if lost => {
                assert_eq!(e.code(), Some(ErrorCode::UnknownSession));
                assert_eq!(e.effect(), Effect::Unknown);
                session.put(b"m", b"v").unwrap();
                assert_ne!(session.state().client_id(), first);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_writes_through_breaking_connections_are_applied_once_each() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = SimRandom::new(seed);
        let world = World::new(move |cluster, n, opcode, body| {
            let evicted = n > 0 && random.chance(1, 800);
            if evicted {
                cluster.sessions.clear();
            }
            match random.below(40) {
                0 => Fate::Lost,
                1 => {
                    cluster.take(opcode, body);
                    Fate::Lost
                }
                2 => Fate::Answered(refusal(ErrorCode::Busy, Effect::NotApplied)),
                3 => {
                    let applied = random.chance(1, 2);
                    if applied {
                        cluster.take(opcode, body);
                    }
                    Fate::Answered(refusal(ErrorCode::DeadlineExceeded, Effect::Unknown))
                }
                _ => Fate::Answered(cluster.take(opcode, body)),
            }
        });
        let mut client = world.client(20_000);
        let batches: Vec<WriteBatch> = (0..300).map(|i| put(&format!("k{i}"))).collect();
        let mut session = client.session().unwrap();
        let outcomes = session.write_many(&batches, 32);
        assert_eq!(outcomes.len(), batches.len());
        let cluster = world.cluster();
        let mut unknown = 0;
        for (i, outcome) in outcomes.iter().enumerate() {
            let times = cluster.applied.get(format!("k{i}").as_bytes()).copied().unwrap_or(0);
            match outcome {
                Ok(_) => assert_eq!(times, 1, "k{i}"),
                Err(e) => {
                    assert_eq!(e.effect(), Effect::Unknown, "k{i}: {e}");
                    assert!(times <= 1, "k{i}");
                    unknown += 1;
                }
            }
        }
        // Only what was in flight when a connection broke and the session went.
        assert!(unknown < 150, "{unknown} unknown outcomes");
        let pairs = cluster.seen.iter().all(|(_, sequence, acked)| sequence - acked < 256);
        assert!(pairs, "the window is kept");
    }
}

#[test]
fn a_window_larger_than_the_sessions_waits_for_answers() {
    let world = World::new(|cluster, _, opcode, body| Fate::Answered(cluster.take(opcode, body)));
    let mut client = world.client(5_000);
    let batches: Vec<WriteBatch> = (0..2_000).map(|i| put(&format!("k{i}"))).collect();
    let outcomes = client.session().unwrap().write_many(&batches, 1_000);
    assert!(outcomes.iter().all(Result::is_ok));
    let none = client.session().unwrap().write_many(&[WriteBatch::new()], 8);
    assert!(matches!(none[..], [Err(ClientError::Invalid(_))]), "{none:?}");
}

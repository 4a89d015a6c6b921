use super::*;
use crate::base::batch::WriteBatch;
use crate::raft::testing::doubles::{NoJobs, replica};
use crate::raft::{LogStore, MemLog, ReadId};
use std::sync::Arc;

const ME: ReplicaId = replica(1);

fn start(hard_state: HardState, applied: u64) -> Start {
    let memberships = vec![(LogIndex::ZERO, Membership::of_voters([ME]))];
    Start { hard_state, applied: LogIndex(applied), memberships }
}

/// A raft over a log in memory; `step` carries out persists in memory and returns all effects.
struct One {
    raft: Raft,
    log: MemLog,
}

impl One {
    fn fresh() -> Self {
        Self::with_log(HardState::default(), &[])
    }

    /// A node that comes up with entries of the given terms in its log.
    fn with_log(hard_state: HardState, terms: &[u64]) -> Self {
        let mut log = MemLog::new(Arc::new(NoJobs));
        let entries = (1..).zip(terms).map(|(index, &term)| Entry {
            index: LogIndex(index),
            term: Term(term),
            payload: Bytes::new(),
        });
        log.submit(Persist {
            io: IoId(0),
            hard_state: Some(hard_state),
            truncate_from: None,
            entries: entries.collect(),
        });
        let raft = Raft::new(&Config::new(ME, 1), start(hard_state, 0), &log);
        Self { raft, log }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.raft.step(Nanos(0), event, &self.log, &mut effects);
        for effect in &effects {
            if let Effect::Persist(persist) = effect {
                self.log.submit(persist.clone());
            }
        }
        effects
    }

    fn propose(&mut self, payloads: &[&'static str]) -> (IoId, Vec<Effect>) {
        let payloads = payloads.iter().map(|p| Bytes::from_static(p.as_bytes())).collect();
        let effects = self.step(Event::Propose(payloads));
        (io_of(&effects), effects)
    }

    /// Elected, with the no-op (index `last`) committed.
    fn lead(&mut self) -> LogIndex {
        let vote = io_of(&self.step(Event::Tick));
        let no_op = io_of(&self.step(Event::Persisted(vote)));
        let effects = self.step(Event::Persisted(no_op));
        let [Effect::Apply { through }] = effects[..] else { panic!("{effects:?}") };
        through
    }
}

fn io_of(effects: &[Effect]) -> IoId {
    let ios: Vec<IoId> = effects
        .iter()
        .filter_map(|e| if let Effect::Persist(p) = e { Some(p.io) } else { None })
        .collect();
    assert_eq!(ios.len(), 1, "one persist in {effects:?}");
    ios[0]
}

fn applies(effects: &[Effect]) -> Vec<u64> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Apply { through } = e { Some(through.0) } else { None })
        .collect()
}

#[test]
fn a_lone_voter_elects_itself_at_its_first_tick_and_commits_a_no_op() {
    let mut one = One::fresh();
    assert_eq!(one.raft.role(), Role::Follower);
    let effects = one.step(Event::Tick);
    assert_eq!(
        effects[0],
        Effect::RoleChange { role: Role::Candidate, term: Term(1), leader: None }
    );
    assert_eq!(one.raft.leader(), None);
    let effects = one.step(Event::Persisted(io_of(&effects)));
    assert_eq!(
        effects[0],
        Effect::RoleChange { role: Role::Leader, term: Term(1), leader: Some(ME) }
    );
    let Effect::Persist(persist) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(persist.entries[0].payload, WriteBatch::no_op().into_bytes());
    assert_eq!((one.raft.leader(), one.raft.commit()), (Some(ME), LogIndex(0)));
    assert_eq!(applies(&one.step(Event::Persisted(persist.io))), [1]);
    assert_eq!(one.step(Event::Tick), [], "a leader has nothing to do at a tick");
}

#[test]
fn pitfall_1_entries_of_old_terms_commit_only_with_one_of_the_current_term() {
    let mut one = One::with_log(HardState { term: Term(4), vote: Some(ME) }, &[1, 1, 3, 4]);
    let vote = io_of(&one.step(Event::Tick));
    // All four old entries are on a majority (this node), but that does not commit them.
    let effects = one.step(Event::Persisted(vote));
    assert!(applies(&effects).is_empty(), "{effects:?}");
    assert_eq!(one.raft.commit(), LogIndex(0));
    assert_eq!(applies(&one.step(Event::Persisted(io_of(&effects)))), [5]);
}

#[test]
fn pitfall_2_no_entry_of_a_term_before_its_hard_state_is_durable() {
    let mut one = One::fresh();
    let effects = one.step(Event::Tick);
    let Effect::Persist(persist) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(persist.hard_state, Some(HardState { term: Term(1), vote: Some(ME) }));
    assert_eq!(persist.entries, []);
    let payload = vec![Bytes::from_static(b"early")];
    assert_eq!(
        one.step(Event::Propose(payload)),
        [Effect::ProposeRefused(ProposeError::NotLeader { leader: None })]
    );
    assert_eq!(one.log.last(), (LogIndex(0), Term(0)));
    let effects = one.step(Event::Persisted(persist.io));
    assert!(matches!(&effects[1], Effect::Persist(p) if p.entries[0].term == Term(1)));
}

#[test]
fn pitfall_3_a_term_raised_from_the_log_clears_the_vote() {
    let one = One::with_log(HardState { term: Term(2), vote: Some(ME) }, &[1, 2, 5]);
    assert_eq!(one.raft.hard_state, HardState { term: Term(5), vote: None });
    let kept = One::with_log(HardState { term: Term(5), vote: Some(ME) }, &[1, 2, 5]);
    assert_eq!(kept.raft.hard_state, HardState { term: Term(5), vote: Some(ME) });
    let mut one = one;
    one.step(Event::Tick);
    assert_eq!(one.raft.term(), Term(6), "a campaign never reuses a term");
}

#[test]
fn pitfall_15_a_quorum_of_one_waits_for_its_own_sync() {
    let mut one = One::fresh();
    let no_op = one.lead();
    let (first, effects) = one.propose(&["a", "b"]);
    assert_eq!(effects[1], Effect::Proposed { first: no_op.next(), term: Term(1) });
    assert!(applies(&effects).is_empty(), "{effects:?}");
    let (second, effects) = one.propose(&["c"]);
    assert!(applies(&effects).is_empty(), "{effects:?}");
    assert_eq!(one.step(Event::Tick), []);
    assert_eq!(one.raft.commit(), no_op);
    assert_eq!(applies(&one.step(Event::Persisted(first))), [no_op.0 + 2]);
    assert_eq!(applies(&one.step(Event::Persisted(second))), [no_op.0 + 3]);
}

#[test]
fn pitfall_16_a_repeated_completion_commits_nothing_newer() {
    let mut one = One::fresh();
    one.lead();
    let (first, _) = one.propose(&["a"]);
    let (second, _) = one.propose(&["b"]);
    assert_eq!(applies(&one.step(Event::Persisted(first))), [2]);
    assert_eq!(one.step(Event::Persisted(first)), []);
    assert_eq!(one.raft.commit(), LogIndex(2));
    assert_eq!(applies(&one.step(Event::Persisted(second))), [3]);
}

#[test]
fn one_completion_may_cover_several_groups() {
    let mut one = One::fresh();
    one.lead();
    one.propose(&["a"]);
    let (second, _) = one.propose(&["b", "c"]);
    assert_eq!(applies(&one.step(Event::Persisted(second))), [4]);
}

#[test]
fn pitfall_32_reads_wait_for_a_commit_of_the_leaders_own_term() {
    let mut one = One::with_log(HardState { term: Term(3), vote: None }, &[1, 3]);
    let read = |n| Event::Read(ReadId(n));
    assert_eq!(one.step(read(1)), [Effect::ReadRefused { read: ReadId(1) }], "a follower");
    let vote = io_of(&one.step(Event::Tick));
    assert_eq!(one.step(read(2)), [Effect::ReadRefused { read: ReadId(2) }], "a candidate");
    let no_op = io_of(&one.step(Event::Persisted(vote)));
    assert_eq!(one.step(read(3)), [], "a leader that has not committed in its term");
    let index = LogIndex(3);
    assert_eq!(
        one.step(Event::Persisted(no_op)),
        [Effect::Apply { through: index }, Effect::ReadReady { read: ReadId(3), index }]
    );
    one.propose(&["not yet durable"]);
    assert_eq!(one.step(read(4)), [Effect::ReadReady { read: ReadId(4), index }]);
}

#[test]
fn a_commit_released_from_the_log_still_answers_reads() {
    let mut one = One::fresh();
    let no_op = one.lead();
    one.log.release_to(no_op);
    let ready = Effect::ReadReady { read: ReadId(1), index: no_op };
    assert_eq!(one.step(Event::Read(ReadId(1))), [ready]);
}

#[test]
fn the_same_events_give_the_same_effects() {
    let run = || {
        let mut one = One::with_log(HardState { term: Term(1), vote: None }, &[1, 1]);
        let mut all = one.step(Event::Tick);
        for io in 1..6 {
            all.extend(one.step(Event::Persisted(IoId(io))));
            all.extend(one.propose(&["x", "y"]).1);
            all.extend(one.step(Event::Read(ReadId(io))));
        }
        all
    };
    assert_eq!(run(), run());
}

//! Right answers are accepted, and each kind of wrong one is refused by the rule that is there for it.

use super::*;
use beachdb::base::NodeId;
use beachdb::base::batch::WriteBatch;

fn replica(node: u64) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: 0 }
}

fn batch(session: (u64, u64), writes: &[(&str, Option<&str>)]) -> Bytes {
    let mut batch = WriteBatch::new();
    if session.0 != 0 {
        batch.set_client(session.0, session.1, session.1);
    }
    for (key, value) in writes {
        match value {
            Some(value) => batch.put(key.as_bytes(), value.as_bytes()).expect("small"),
            None => batch.delete(key.as_bytes()).expect("small"),
        }
    }
    Bytes::from(batch.into_bytes())
}

fn written(first: u64, last: u64) -> EntryOutcome {
    EntryOutcome::Written { first_seq: SequenceNumber(first), last_seq: SequenceNumber(last) }
}

fn apply(
    model: &mut Model,
    node: u64,
    index: u64,
    payload: &Bytes,
    outcome: EntryOutcome,
) -> Result<Option<WriteId>, Violation> {
    let entry = (LogIndex(index), Term(1));
    let id = model.apply(replica(node), Term(1), entry, payload, outcome)?;
    if let EntryOutcome::Written { last_seq, .. } = outcome {
        model.stands_at(replica(node), LogIndex(index), last_seq)?;
    }
    Ok(id)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(verdict: Result<T, Violation>, rule: &str) {
    assert_eq!(verdict.expect_err("it must be refused").rule, rule);
}

/// 1: a=1; 2: batch a=2, b=2; 3: delete a; sequence numbers 1, 2–3, 4.
fn three() -> Model {
    let mut model = Model::default();
    apply(&mut model, 1, 1, &batch((0, 0), &[("a", Some("1"))]), written(1, 1)).expect("right");
    let both = batch((0, 0), &[("a", Some("2")), ("b", Some("2"))]);
    apply(&mut model, 1, 2, &both, written(2, 3)).expect("right");
    apply(&mut model, 1, 3, &batch((0, 0), &[("a", None)]), written(4, 4)).expect("right");
    model
}

fn entry(key: &'static str, seq: u64, value: &'static str) -> ScanEntry {
    ScanEntry {
        key: Bytes::from_static(key.as_bytes()),
        seq: SequenceNumber(seq),
        value: Bytes::from_static(value.as_bytes()),
    }
}

#[test]
fn reads_are_the_state_at_their_place() {
    let model = three();
    let (one, two) = (Bytes::from_static(b"1"), Bytes::from_static(b"2"));
    let get = |seq, found| model.check_get(b"a", SequenceNumber(seq), found);
    assert_eq!(get(0, None), Ok(()));
    assert_eq!(get(1, Some((SequenceNumber(1), &one))), Ok(()));
    assert_eq!(get(2, Some((SequenceNumber(2), &two))), Ok(()));
    assert_eq!(get(4, None), Ok(()));
    let rule = "read-is-the-state-at-its-place";
    refused(get(2, Some((SequenceNumber(1), &one))), rule);
    refused(get(3, None), rule);
    refused(get(4, Some((SequenceNumber(2), &two))), rule);
    refused(get(5, None), "read-from-the-future");
}

#[test]
fn a_torn_scan_and_a_torn_batch_are_refused() {
    let model = three();
    let scan =
        |seq, found: &[ScanEntry]| model.check_scan(b"a", Some(b"c"), SequenceNumber(seq), found);
    assert_eq!(scan(3, &[entry("a", 2, "2"), entry("b", 3, "2")]), Ok(()));
    assert_eq!(scan(4, &[entry("b", 3, "2")]), Ok(()));
    let rule = "scan-is-the-state-at-its-place";
    refused(scan(3, &[entry("a", 2, "2")]), rule);
    refused(scan(3, &[entry("b", 3, "2")]), rule);
    refused(scan(3, &[entry("a", 1, "1"), entry("b", 3, "2")]), rule);
    refused(scan(4, &[entry("a", 2, "2"), entry("b", 3, "2")]), rule);
    refused(scan(1, &[entry("a", 1, "1"), entry("b", 3, "2")]), rule);
    assert_eq!(
        model.check_scan(b"b", Some(b"c"), SequenceNumber(3), &[entry("b", 3, "2")]),
        Ok(())
    );
}

#[test]
fn replicas_that_differ_at_an_index_are_refused() {
    let mut model = three();
    let same = batch((0, 0), &[("a", Some("1"))]);
    assert_eq!(apply(&mut model, 2, 1, &same, written(1, 1)), Ok(None));
    refused(
        apply(&mut model, 2, 1, &batch((0, 0), &[("a", Some("9"))]), written(1, 1)),
        "one-committed-log",
    );
    refused(apply(&mut model, 2, 1, &same, written(2, 2)), "state-machine-safety");
    refused(model.stands_at(replica(2), LogIndex(2), SequenceNumber(4)), "state-machine-safety");
    let other_term = model.commit(replica(2), Term(2), LogIndex(3), Term(2), None);
    refused(other_term, "one-committed-log");
}

#[test]
fn a_reordered_or_skipped_apply_is_refused() {
    let mut model = three();
    let later = batch((0, 0), &[("a", Some("5"))]);
    refused(apply(&mut model, 1, 5, &later, written(5, 5)), "applied-in-order");
    let mut model = three();
    refused(apply(&mut model, 1, 4, &later, written(4, 4)), "sequence-numbers");
    let mut model = three();
    refused(apply(&mut model, 1, 4, &later, written(5, 6)), "sequence-numbers");
}

#[test]
fn a_sessions_write_is_applied_once() {
    let register = Bytes::from(WriteBatch::register().into_bytes());
    let registered = EntryOutcome::Registered { client_id: 4, evicted: None };
    let write = batch((4, 1), &[("a", Some("5"))]);
    let duplicate = EntryOutcome::Duplicate { index: LogIndex(5) };
    let mut model = three();
    assert_eq!(apply(&mut model, 1, 4, &register, registered), Ok(None));
    assert_eq!(apply(&mut model, 1, 5, &write, written(5, 5)), Ok(Some(WriteId::Session(4, 1))));
    assert_eq!(apply(&mut model, 1, 6, &write, duplicate), Ok(None));
    refused(apply(&mut model, 1, 7, &write, written(6, 6)), "exactly-once");
    let mut model = three();
    assert_eq!(apply(&mut model, 1, 4, &register, registered), Ok(None));
    refused(apply(&mut model, 1, 5, &write, duplicate), "exactly-once");
}

#[test]
fn a_write_of_a_session_that_nobody_registered_is_refused_and_no_other() {
    let refusal = EntryOutcome::Refused(beachdb::proto::ErrorCode::UnknownSession);
    let write = batch((7, 1), &[("a", Some("5"))]);
    assert_eq!(apply(&mut three(), 1, 4, &write, refusal), Ok(None));
    refused(apply(&mut three(), 1, 4, &write, written(5, 5)), "session-rules");
    let plain = batch((0, 0), &[("a", Some("5"))]);
    refused(apply(&mut three(), 1, 4, &plain, refusal), "session-rules");
}

#[test]
fn an_acknowledgement_names_the_entry_that_was_applied() {
    let mut model = three();
    let (first, last) = (SequenceNumber(2), SequenceNumber(3));
    let both = batch((0, 0), &[("a", Some("2")), ("b", Some("2"))]);
    let id = WriteId::of(BatchRef::parse(&both).expect("a batch"));
    assert_eq!(model.check_written(id, LogIndex(2), first, last), Ok(()));
    let rule = "acknowledged-is-applied";
    refused(model.check_written(id, LogIndex(3), first, last), rule);
    refused(model.check_written(id, LogIndex(2), first, first), rule);
    refused(model.check_written(id, LogIndex(9), first, last), rule);
    refused(model.check_written(WriteId::Session(1, 1), LogIndex(2), first, last), rule);
    model.commit(replica(1), Term(1), LogIndex(4), Term(1), None).expect("right");
    refused(model.check_written(id, LogIndex(4), first, last), rule);
}

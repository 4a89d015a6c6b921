//! Real time: floors, attempts, and open writes.

use super::*;

fn place(index: u64, seq: u64) -> Floor {
    Floor { index: LogIndex(index), seq: SequenceNumber(seq) }
}

#[test]
fn a_read_behind_what_was_acknowledged_is_stale() {
    let mut history = History::default();
    history.read_at(place(0, 0), SequenceNumber(5));
    let floor = history.floor();
    assert_eq!(floor, place(0, 5));
    history.read_at(floor, SequenceNumber(5));
    assert_eq!(history.verdict(), Ok(()));
    history.read_at(floor, SequenceNumber(4));
    assert_eq!(history.verdict().expect_err("stale").rule, "stale-read");
}

#[test]
fn a_read_that_began_before_the_acknowledgement_may_be_older() {
    let mut history = History::default();
    let floor = history.floor();
    history.read_at(place(0, 0), SequenceNumber(5));
    history.read_at(floor, SequenceNumber(4));
    assert_eq!(history.verdict(), Ok(()));
}

#[test]
fn what_was_refused_is_never_applied() {
    let id = WriteId::Payload(1);
    let mut history = History::default();
    history.sent(id);
    history.refused(id);
    assert_eq!(history.verdict(), Ok(()));
    history.applied(id);
    let rule = "not-applied-is-never-applied";
    assert_eq!(history.verdict().expect_err("refused").rule, rule);
    let mut history = History::default();
    history.sent(id);
    history.sent(id);
    history.refused(id);
    history.applied(id);
    assert_eq!(history.verdict(), Ok(()), "the other attempt");
    history.applied(id);
    assert_eq!(history.verdict().expect_err("twice").rule, rule);
}

#[test]
fn writes_without_an_outcome_are_open_to_the_end() {
    let mut history = History::default();
    let call = history.moment();
    history.begin(1, call, vec![(b"a".to_vec(), Some(7))]);
    let (call, ret) = (history.moment(), history.moment());
    history.record(b"a", call, Some(ret), Action::Read(Some(7)));
    assert_eq!(history.check_registers(), Ok(()));
    let (call, ret) = (history.moment(), history.moment());
    history.record(b"a", call, Some(ret), Action::Read(None));
    assert_eq!(history.check_registers().expect_err("lost").rule, "linearizability");
}

#[test]
fn a_write_that_never_took_effect_must_not_be_read() {
    let mut history = History::default();
    let call = history.moment();
    history.begin(1, call, vec![(b"a".to_vec(), Some(7))]);
    history.end(1, Fate::Never);
    let (call, ret) = (history.moment(), history.moment());
    history.record(b"a", call, Some(ret), Action::Read(Some(7)));
    assert_eq!(history.check_registers().expect_err("lost").rule, "linearizability");
}

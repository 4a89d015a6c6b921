//! What every [`StateMachine`] does, run over the engine and over its twin in a map.

use super::{EngineMachine, Lookup, MapMachine, StateMachine};
use crate::base::batch::{BatchRef, RESERVED_KEY_PREFIX, WriteBatch};
use crate::base::{InternalOp, LogIndex, SequenceNumber, Term};
use crate::engine::{Engine, EngineOptions};
use crate::env::sim;
use bytes::Bytes;

fn on_both(test: impl Fn(&mut dyn StateMachine)) {
    test(&mut MapMachine::new());
    let (env, _sim) = sim::env(1);
    test(&mut EngineMachine::new(Engine::open(&env, EngineOptions::new("db/engine")).unwrap()));
}

fn get(machine: &dyn StateMachine, key: &[u8]) -> Option<(SequenceNumber, Bytes)> {
    match machine.get(key, None).unwrap() {
        Lookup::Ready(found) => found,
        Lookup::Disk(job) => job().unwrap(),
    }
}

#[test]
fn internal_rows_follow_the_batch_of_their_entry() {
    on_both(|machine| {
        let row = |name: &[u8]| [RESERVED_KEY_PREFIX, name].concat();
        let mut batch = WriteBatch::new();
        batch.put(b"a", b"1").unwrap();
        batch.put(b"b", b"2").unwrap();
        let internal = [InternalOp::put(b"s2", &b"two"[..]), InternalOp::put(b"s1", &b"one"[..])];
        let user = BatchRef::parse(batch.as_bytes()).unwrap();
        let applied = machine.apply(LogIndex(1), Term(1), Some(user), &internal);
        assert_eq!((applied.first_seq.0, applied.last_seq.0), (1, 2), "the user's only");
        assert_eq!(machine.last_seq(), SequenceNumber(4));
        assert_eq!(get(machine, &row(b"s1")), Some((SequenceNumber(4), Bytes::from("one"))));
        let rows = machine.internal_rows().unwrap();
        assert_eq!(rows, [(row(b"s1"), Bytes::from("one")), (row(b"s2"), Bytes::from("two"))]);

        let applied = machine.apply(LogIndex(2), Term(1), None, &[InternalOp::delete(b"s1")]);
        assert_eq!((applied.first_seq.0, applied.last_seq.0), (5, 4), "nothing of the user's");
        assert_eq!(machine.last_seq(), SequenceNumber(5));
        machine.apply(LogIndex(3), Term(2), None, &[]);
        assert_eq!(machine.applied(), (LogIndex(3), Term(2)));
        assert_eq!(
            machine.last_seq(),
            SequenceNumber(5),
            "an entry without effect takes no number"
        );
        assert_eq!(machine.internal_rows().unwrap(), [(row(b"s2"), Bytes::from("two"))]);
    });
}

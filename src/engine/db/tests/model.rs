//! Random operations against a `BTreeMap`, with crashes in between.

use super::*;
use crate::base::conditions::Expect;
use crate::env::Random;
use crate::env::sim::SimRandom;

/// A committed batch, in order, and whether it was synced.
struct Written {
    state: Map,
    synced: bool,
}

struct Checker {
    rig: Rig,
    random: SimRandom,
    /// The state after each write, oldest first; `[0]` is the state that the last recovery found.
    history: Vec<Written>,
    snapshots: Vec<(Snapshot, Map)>,
    seed: u64,
    step: usize,
}

impl Checker {
    fn new(seed: u64) -> Self {
        Self {
            rig: Rig::new(seed),
            random: SimRandom::new(seed ^ 0x5eed),
            history: vec![Written { state: Map::new(), synced: true }],
            snapshots: Vec::new(),
            seed,
            step: 0,
        }
    }

    fn now(&self) -> &Map {
        &self.history.last().expect("there is always a state").state
    }

    fn context(&self) -> String {
        format!("seed {}, step {}", self.seed, self.step)
    }

    fn key(&mut self) -> Vec<u8> {
        let id = self.random.below(60);
        // Keys that share long prefixes, and some that are prefixes of others.
        let mut key = b"prefix-of-all/".to_vec();
        key.extend(std::iter::repeat_n(b'x', (id % 5) as usize));
        key.push(id as u8);
        key
    }

    fn write(&mut self) {
        let mut state = self.now().clone();
        let mut batch = WriteBatch::new();
        for _ in 0..=self.random.below(4) {
            let key = self.key();
            if self.random.chance(1, 12) {
                let other = self.key();
                let (start, end) = if key < other { (key, other) } else { (other, key) };
                let end = if self.random.chance(1, 8) { Vec::new() } else { end };
                if batch.delete_range(&start, &end).is_ok() {
                    state.retain(|k, _| *k < start || (!end.is_empty() && *k >= end));
                }
            } else if self.random.chance(1, 3) {
                batch.delete(&key).unwrap();
                state.remove(&key);
            } else {
                let len = if self.random.chance(1, 10) { 6_000 } else { self.random.below(200) };
                let value = vec![self.random.next_u64() as u8; len as usize];
                batch.put(&key, &value).unwrap();
                state.insert(key, value);
            }
        }
        let sync = self.random.chance(1, 2);
        let holds = self.random.chance(2, 3) || self.require(&mut batch);
        let written = self.rig.db().write(batch, WriteOptions { sync });
        if !holds {
            let error = written.expect_err(&self.context());
            assert!(matches!(error, DbError::ConditionFailed(_)), "{}: {error}", self.context());
            return;
        }
        written.unwrap_or_else(|e| panic!("{}: {e}", self.context()));
        if sync {
            self.history.iter_mut().for_each(|w| w.synced = true);
        }
        self.history.push(Written { state, synced: sync });
    }

    /// Adds some conditions to `batch`, and tells whether all hold.
    fn require(&mut self, batch: &mut WriteBatch) -> bool {
        let mut all_hold = true;
        for _ in 0..=self.random.below(2) {
            let key = self.key();
            let present = self.rig.db().get_with_seq(&key).unwrap().map(|(seq, _)| seq);
            assert_eq!(present.is_some(), self.now().contains_key(&key), "{}", self.context());
            let (expect, holds) = match (self.random.below(4), present) {
                (0, _) => (Expect::Absent, present.is_none()),
                (1, _) => (Expect::Exists, present.is_some()),
                (2, Some(seq)) => (Expect::Seq(seq), true),
                _ => (Expect::Seq(SequenceNumber(self.rig.db().last_seq().0 + 1)), false),
            };
            batch.require(&key, expect).unwrap();
            all_hold &= holds;
        }
        all_hold
    }

    fn read(&mut self) {
        let context = self.context();
        let key = self.key();
        let db = self.rig.db();
        assert_eq!(
            db.get(&key).unwrap().map(|v| v.to_vec()),
            self.now().get(&key).cloned(),
            "{context}"
        );
        let (from, to) = (self.key(), self.key());
        let db = self.rig.db();
        let found: Map = db
            .scan(&from, Some(&to))
            .map(|e| e.map(|e| (e.key, e.value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap();
        let range = self.now().iter().filter(|(k, _)| from <= **k && **k < to);
        let expected: Map = range.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(found, expected, "{context}: {from:?}..{to:?}");
        let back: Vec<_> = db
            .scan(&from, Some(&to))
            .backward()
            .map(|e| e.map(|e| (e.key, e.value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap();
        let expected: Vec<_> = expected.into_iter().rev().collect();
        assert_eq!(back, expected, "{context}: {from:?}..{to:?}, backward");
        self.wander();
    }

    /// A cursor goes to and fro.
    fn wander(&mut self) {
        let context = self.context();
        let mut cursor = self.rig.db().cursor(b"", None);
        for _ in 0..8 {
            let key = self.key();
            let moves = self.random.below(7);
            let here = cursor.valid().then(|| cursor.key().to_vec());
            let state = self.now();
            let expected = match (moves, here) {
                (0, _) => {
                    cursor.seek(&key).unwrap();
                    state.range(key..).next()
                }
                (1, _) => {
                    cursor.seek_for_prev(&key).unwrap();
                    state.range(..=key).next_back()
                }
                (2, _) => {
                    cursor.last().unwrap();
                    state.iter().next_back()
                }
                (3 | 4, Some(here)) => {
                    cursor.next().unwrap();
                    state.range(here..).nth(1)
                }
                (5 | 6, Some(here)) => {
                    cursor.prev().unwrap();
                    state.range(..here).next_back()
                }
                (_, None) => {
                    cursor.first().unwrap();
                    state.iter().next()
                }
                _ => unreachable!(),
            };
            let found = cursor.valid().then(|| (cursor.key(), cursor.value()));
            let expected = expected.map(|(k, v)| (k.as_slice(), v.as_slice()));
            assert_eq!(found, expected, "{context}: move {moves}");
        }
    }

    fn check_snapshots(&self) {
        for (snapshot, state) in &self.snapshots {
            let found: Map = snapshot
                .iter()
                .map(|e| e.map(|e| (e.key, e.value.to_vec())))
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(&found, state, "{}: snapshot {}", self.context(), snapshot.seq());
            let back: Vec<_> = snapshot
                .iter()
                .backward()
                .map(|e| e.map(|e| e.key))
                .collect::<Result<_, _>>()
                .unwrap();
            assert!(back.iter().eq(state.keys().rev()), "{}: backward", self.context());
            for (key, value) in state {
                let found = snapshot.get(key).unwrap();
                assert_eq!(found.as_deref(), Some(&value[..]), "{}", self.context());
            }
        }
    }

    fn reopen(&mut self, crash: Option<CrashKind>) {
        let context = self.context();
        self.snapshots.clear();
        match crash {
            None => self.rig.db.take().unwrap().close().unwrap(),
            Some(kind) => self.rig.crash(kind),
        }
        self.rig.open().unwrap_or_else(|e| panic!("{context}: {e}"));
        let found = contents(self.rig.db()).unwrap();
        // Whatever was synced must be there; what was not may be lost from the end, in whole batches.
        let lost_at_most = if crash == Some(CrashKind::PowerLoss) {
            self.history.iter().rev().take_while(|w| !w.synced).count()
        } else {
            0
        };
        let candidates = self.history.iter().rev().take(lost_at_most + 1);
        assert!(
            candidates.into_iter().any(|w| w.state == found),
            "{context}: after {crash:?} the state is none of the last {} + 1",
            lost_at_most
        );
        assert_eq!(contents(self.rig.db()).unwrap(), found);
        self.rig.open().unwrap();
        assert_eq!(contents(self.rig.db()).unwrap(), found, "{context}: a second recovery differs");
        self.history = vec![Written { state: found, synced: true }];
    }

    fn step(&mut self) {
        self.step += 1;
        match self.random.below(100) {
            0..50 => self.write(),
            50..70 => self.read(),
            70..76 => {
                self.rig.sim.jobs.run_one();
            }
            76..80 => {
                self.rig.db().flush().unwrap();
                self.history.iter_mut().for_each(|w| w.synced = true);
            }
            80..86 => {
                let snapshot = self.rig.db().snapshot();
                self.snapshots.push((snapshot, self.now().clone()));
            }
            86..90 => self.check_snapshots(),
            90..93 => drop((!self.snapshots.is_empty()).then(|| self.snapshots.swap_remove(0))),
            93..95 => self.reopen(None),
            95..97 => self.reopen(Some(CrashKind::Process)),
            _ => self.reopen(Some(CrashKind::PowerLoss)),
        }
    }
}

#[test]
fn behaves_like_a_map_through_flushes_reopens_and_crashes() {
    for seed in 0..30 {
        let mut checker = Checker::new(seed);
        for _ in 0..250 {
            checker.step();
        }
        checker.check_snapshots();
    }
}

/// The checker itself must be able to fail: writes that are not synced are lost by some power losses, and a checker
/// that takes them for durable must see it.
#[test]
fn the_checker_sees_a_database_that_acknowledges_before_the_sync() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        let unsynced = WriteOptions { sync: false };
        for i in 0..10_u8 {
            rig.db().write(batch(&[(&[i], Some(b"acknowledged"))]), unsynced).unwrap();
        }
        rig.crash(CrashKind::PowerLoss);
        rig.open().unwrap();
        let found = contents(rig.db()).unwrap();
        assert!(found.keys().map(|k| k[0]).eq(0..found.len() as u8), "seed {seed}: not a prefix");
        lost += usize::from(found.len() < 10);
    }
    assert!(
        lost > 5,
        "only {lost} of 20 power losses lost an unsynced write: the simulated disk is too kind"
    );
}

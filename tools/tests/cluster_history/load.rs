//! The load, and what is asked of it: see the parent module.

use crate::black_box::cluster::Cluster;
use crate::black_box::{PROGRAM, wait_until};
use crate::common;
use beach_tools::sim::check::history::{CHECKED, GAVE_UP, History};
use beach_tools::sim::check::register::{Action, Operation};
use beach_tools::sim::hooks::Verdict;
use beachdb::base::batch::WriteBatch;
use beachdb::client::{Client, ClientError, ClientOptions, Effect, ScanOptions, Session, Written};
use beachdb::env::sim::SimRandom;
use beachdb::limits::MAX_SESSIONS;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Every second one writes in a session.
pub const USERS: usize = 6;
pub const KEYS: u64 = 8;
/// Operations that must succeed under the faults of a test.
const FLOOR: u64 = 200;
/// What the nodes of `black_box::cluster` are set to.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(200);
/// Writes that must succeed between a fault and the next.
const BETWEEN: u64 = 20;

/// What the clients did and were told.
#[derive(Default)]
pub struct Load {
    clock: AtomicU64,
    /// The number of the last write.
    number: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    stop: AtomicBool,
    /// The longest request since [`Load::take_slowest`], in microseconds.
    slowest: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Default)]
pub struct Notes {
    pub history: Vec<(Vec<u8>, Operation)>,
    pub acknowledged: BTreeSet<u64>,
    pub refused: BTreeSet<u64>,
    pub unknown: BTreeSet<u64>,
    /// Errors of reads and of writes in sessions: the client tries these again, so it hides what passes.
    pub unhidden: Vec<String>,
}

/// Ends the load also when the test fails, else its threads would be waited for without end.
struct StopAtEnd<'a>(&'a Load);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// All keys and values.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes once or, in a session, as often as it must.
pub enum Writer<'c> {
    Plain(&'c mut Client),
    Session(Session<'c>),
}

impl Writer<'_> {
    fn write(&mut self, batch: &WriteBatch) -> Result<Written, ClientError> {
        match self {
            Self::Plain(client) => client.write(batch),
            Self::Session(session) => session.write(batch),
        }
    }
}

pub fn client(endpoints: &[String]) -> Client {
    client_for(endpoints, Duration::from_secs(10))
}

/// One that gives up after this time.
pub fn client_for(endpoints: &[String], timeout: Duration) -> Client {
    let mut options = ClientOptions::new(endpoints);
    options.timeout = timeout;
    Client::with_options(options).expect("endpoints")
}

pub fn key(n: u64) -> Vec<u8> {
    format!("key-{n}").into_bytes()
}

fn receipt(number: u64) -> Vec<u8> {
    format!("receipt-{number}").into_bytes()
}

/// What was written there.
pub fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).expect("a value that was written")
}

impl Load {
    /// The next moment: all different, in the order of real time.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().expect("nobody panicked with it")
    }

    /// Reads and writes until it is told to stop.
    fn user(&self, endpoints: &[String], in_session: bool, mut random: SimRandom) {
        // A client that writes goes to the leader; one that only reads stays with its node.
        let (mut reader, mut client) = (client(endpoints), client(endpoints));
        let mut writer = match in_session {
            true => Writer::Session(client.session().expect("a session")),
            false => Writer::Plain(&mut client),
        };
        while !self.stop.load(Ordering::Relaxed) {
            let key = key(random.below(KEYS));
            match random.below(10) {
                0..5 => drop(self.read(&mut reader, &key)),
                5..9 => self.write(&mut writer, &key, true),
                _ => self.write(&mut writer, &key, false),
            }
            thread::sleep(Duration::from_millis(random.below(8)));
        }
    }

    /// Whether it was answered.
    pub fn read(&self, client: &mut Client, key: &[u8]) -> bool {
        let (call, begin) = (self.tick(), Instant::now());
        let outcome = client.get(key);
        self.took(begin);
        let ret = Some(self.tick());
        let answered = outcome.is_ok();
        match outcome {
            Ok(found) => {
                let action = Action::Read(found.map(|found| number(&found.value)));
                self.notes().history.push((key.to_vec(), Operation { call, ret, action }));
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => self.notes().unhidden.push(format!("get: {e}")),
        }
        answered
    }

    /// Writes the next value or a deletion, and its receipt.
    pub fn write(&self, writer: &mut Writer<'_>, key: &[u8], put: bool) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut batch = WriteBatch::new();
        match put {
            true => batch.put(key, number.to_string().as_bytes()).expect("small"),
            false => batch.delete(key).expect("small"),
        }
        batch.put(&receipt(number), b"").expect("small");
        let (call, begin) = (self.tick(), Instant::now());
        let outcome = writer.write(&batch);
        self.took(begin);
        let mut ret = Some(self.tick());
        let mut notes = self.notes();
        if let (Err(e), Writer::Session(_)) = (&outcome, writer) {
            notes.unhidden.push(format!("write {number} in a session: {e}"));
        }
        match outcome.map_err(|e| e.effect()) {
            Ok(_) | Err(Effect::Applied) => {
                notes.acknowledged.insert(number);
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(Effect::NotApplied) => {
                notes.refused.insert(number);
                return;
            }
            Err(Effect::Unknown | Effect::None) => {
                notes.unknown.insert(number);
                ret = None;
            }
        }
        let action = Action::Write(put.then_some(number));
        notes.history.push((key.to_vec(), Operation { call, ret, action }));
    }

    fn took(&self, begin: Instant) {
        self.slowest.fetch_max(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// How long the longest request took that was answered since this was asked last.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed))
    }

    /// Waits until some more writes were acknowledged.
    pub fn goes_on(&self) {
        let until = self.writes.load(Ordering::Relaxed) + BETWEEN;
        wait_until("more acknowledged writes", || self.writes.load(Ordering::Relaxed) >= until);
    }

    /// Waits for a while, and then for a write more; the longest time without an acknowledged write.
    pub fn longest_pause(&self, watched: Duration) -> Duration {
        let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut writes = self.writes.load(Ordering::Relaxed);
        wait_until("a write", || {
            let now = self.writes.load(Ordering::Relaxed);
            longest = longest.max(last.elapsed());
            let news = now > writes;
            if news {
                (writes, last) = (now, Instant::now());
            }
            news && begin.elapsed() >= watched
        });
        longest
    }

    /// Everything that a node has, as reads of the contended keys besides.
    pub fn scan(&self, client: &mut Client) -> Entries {
        let call = self.tick();
        let entries = client.scan(ScanOptions::default()).map(|entry| {
            let entry = entry.expect("a quiet cluster answers");
            (entry.key.to_vec(), entry.value.to_vec())
        });
        let found: Entries = entries.collect();
        let ret = Some(self.tick());
        for key in (0..KEYS).map(key) {
            let action = Action::Read(found.get(&key).map(|value| number(value)));
            self.notes().history.push((key, Operation { call, ret, action }));
        }
        found
    }
}

/// The simulator's verdict on what clients saw.
pub fn judge(history: &[(Vec<u8>, Operation)]) -> Verdict {
    let mut judged = History::new(MAX_SESSIONS);
    for (key, Operation { call, ret, action }) in history {
        judged.record(key, *call, *ret, *action);
    }
    judged.check_registers()?;
    let count = |mark: &str| judged.marks.0.get(mark).copied().unwrap_or_default();
    assert_eq!((count(CHECKED), count(GAVE_UP)), (KEYS, 0), "every key is judged to the end");
    Ok(())
}

/// The same history, but the last read that can be made so returns a value that was overwritten before it began.
fn with_a_stale_read(history: &[(Vec<u8>, Operation)]) -> Option<Vec<(Vec<u8>, Operation)>> {
    let mut planted = history.to_vec();
    planted.sort_by_key(|(_, operation)| operation.call);
    let writes = planted.clone();
    for (key, read) in planted.iter_mut().rev() {
        if !matches!(read.action, Action::Read(_)) {
            continue;
        }
        // Writes of this key that were acknowledged before the read was asked for.
        let before = |limit: u64| {
            let of_key = writes.iter().filter(|(of, _)| of == key).map(|(_, write)| *write);
            let done = of_key.filter(move |write| write.ret.is_some_and(|ret| ret < limit));
            done.filter(|write| matches!(write.action, Action::Write(_)))
        };
        let Some(newer) = before(read.call).max_by_key(|write| write.call) else { continue };
        let older = before(newer.call).filter(|write| write.action != Action::Write(None));
        if let Some(Operation { action: Action::Write(value), .. }) =
            older.max_by_key(|write| write.call)
        {
            read.action = Action::Read(value);
            return Some(planted);
        }
    }
    None
}

/// Runs `faults` under load on a cluster of this many nodes, and judges what came of it.
pub fn run(name: &str, nodes: u64, faults: impl FnOnce(&mut Cluster, &Load)) -> Notes {
    run_on(name, &mut Cluster::prepared(nodes), faults)
}

/// The same, on a cluster that has not been started.
pub fn run_on(
    name: &str,
    cluster: &mut Cluster,
    faults: impl FnOnce(&mut Cluster, &Load),
) -> Notes {
    run_seeded(name, given_seed().unwrap_or_else(any_seed), cluster, faults)
}

/// `BEACH_SEED`.
pub fn given_seed() -> Option<u64> {
    std::env::var("BEACH_SEED").ok().map(|seed| seed.parse().expect("a number"))
}

/// One of the moment.
pub fn any_seed() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_micros() as u64
}

/// The same, whatever `BEACH_SEED` is. A history that is rejected is kept beside the nodes' directories.
pub fn run_seeded(
    name: &str,
    seed: u64,
    cluster: &mut Cluster,
    faults: impl FnOnce(&mut Cluster, &Load),
) -> Notes {
    // Set once for all tests of this binary.
    PROGRAM.get_or_init(|| common::beachd_program().to_owned());
    println!("{name}: BEACH_SEED={seed}");
    cluster.form();
    let load = Load::default();
    let endpoints = cluster.endpoints();
    let nodes = endpoints.len();
    thread::scope(|scope| {
        let stop = StopAtEnd(&load);
        for user in 0..USERS {
            let (mut endpoints, load) = (endpoints.clone(), &load);
            endpoints.rotate_left(user % nodes);
            let random = SimRandom::new(seed.wrapping_add(user as u64));
            scope.spawn(move || load.user(&endpoints, user % 2 == 0, random));
        }
        load.goes_on();
        faults(cluster, &load);
        load.goes_on();
        drop(stop);
    });
    let [reads, writes] = [&load.reads, &load.writes].map(|n| n.load(Ordering::Relaxed));
    assert!(reads + writes >= FLOOR, "only {reads} reads and {writes} writes succeeded");
    check_nodes(cluster, &load);
    let notes = load.notes.into_inner().expect("nobody panicked with it");
    println!(
        "{name}: {reads} reads, {writes} writes, {} refused, {} unknown, {} errors that a retry should hide",
        notes.refused.len(),
        notes.unknown.len(),
        notes.unhidden.len()
    );
    let verdict = judge(&notes.history);
    if verdict.is_err() {
        let lines = notes
            .history
            .iter()
            .map(|(key, operation)| format!("{} {operation:?}\n", key.escape_ascii()));
        let path = cluster.dir.path().join("history");
        std::fs::write(&path, lines.collect::<String>()).expect("a file beside the nodes'");
    }
    assert_eq!(verdict, Ok(()), "BEACH_SEED={seed}");
    let planted = with_a_stale_read(&notes.history).expect("a key that was written twice");
    let verdict = judge(&planted).map_err(|violation| violation.rule);
    assert_eq!(verdict, Err("linearizability".to_owned()), "a stale read goes unnoticed");
    notes
}

/// Every node that runs gives the same answers, and they hold what was acknowledged and nothing that was refused.
fn check_nodes(cluster: &Cluster, load: &Load) {
    let mut first: Option<(u64, Entries)> = None;
    for node in cluster.running() {
        let mut client = client(&[node.listen.to_string()]);
        for key in (0..KEYS).map(key) {
            assert!(load.read(&mut client, &key), "node {} answers no read", node.id);
        }
        let found = load.scan(&mut client);
        let notes = load.notes();
        let there = |write: &&u64| found.contains_key(&receipt(**write));
        let lost: Vec<&u64> = notes.acknowledged.iter().filter(|write| !there(write)).collect();
        assert!(lost.is_empty(), "node {}: acknowledged writes {lost:?} are lost", node.id);
        let risen: Vec<&u64> = notes.refused.iter().filter(there).collect();
        assert!(risen.is_empty(), "node {}: {risen:?} were refused and are there", node.id);
        let torn = (0..KEYS).filter_map(|n| found.get(&key(n)).map(|value| number(value)));
        let torn: Vec<u64> = torn.filter(|write| !there(&write)).collect();
        assert!(torn.is_empty(), "node {}: of the batches {torn:?} only a part is there", node.id);
        let (of, expected) = first.get_or_insert_with(|| (node.id, found.clone()));
        assert!(*expected == found, "nodes {of} and {} differ", node.id);
    }
}

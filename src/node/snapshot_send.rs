//! [`Sender`]: snapshots on their way to followers whose log entries are gone.
//!
//! ```text
//!  raft ─ SnapshotNeeded ─▶ start: machine.file_snapshot, pinned ─▶ read a piece (Lane::Read) ─▶ SendChunk ─▶ follower
//!                                                                     ▲   window: acked … next              │
//!                                                                     └───── SnapshotAck{Next{offset}} ◀────┘
//!  raft ◀─ SnapshotFailed ─ silence, Refused, unreadable      SnapshotOver / Installed ─▶ unpinned
//! ```
//!
//! Invariants:
//! - At most [`MAX_SNAPSHOT_TRANSFERS`] at a time, each with one pinned source and at most [`SNAPSHOT_WINDOW_CHUNKS`] pieces
//!   between what the receiver has written and what was sent; the other followers wait their turn.
//! - No more bytes are read than the [`Pace`] lets through, all transfers together; who has waited longest comes first.
//! - `acked <= next <= bytes`. Pieces leave in order. When nothing was heard for one election timeout, or the connection broke,
//!   the receiver is *asked* how far it is (a piece without bytes), and not sent anything again: a slow one has it all, and
//!   where pieces were lost it goes on at the receiver's offset (go-back-N, once for each position).
//! - The log keeps what is above a source's index (see [`release`](super::release)), also for a while afterwards.
//! - A snapshot never forces a flush, with one exception: there is none that anybody could take, and somebody needs one.
//! - After a failure the follower rests for one election timeout, after the next for two, up to [`MOST_REST_TIMEOUTS`]: one whose
//!   disk is full refuses each time before anything is written, and is helped soon after it has space. STATUS says why.
//!
//! A transfer goes on across replication sessions (the follower restarted, the connection broke): the next piece carries
//! the description again, and the receiver says where to go on, from 0 if it knows nothing of it (pitfall 27).

use super::pace::{Meter, Pace};
use super::state_machine::SnapshotSource;
use super::{Effect, Node, StateMachine};
use crate::base::checksum::crc32c;
use crate::base::{LogIndex, Nanos, ReplicaId, Term};
use crate::env::{Completion, JobId, JobOutput, Lane};
use crate::limits::{MAX_SNAPSHOT_TRANSFERS, SNAPSHOT_WINDOW_CHUNKS};
use crate::raft::message::{SnapshotChunk, SnapshotOutcome, SnapshotReply};
use crate::raft::{self, FollowerStatus, LogStore, ProgressState};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Election timeouts without a word from the receiver after which a transfer is given up.
const GIVE_UP_TIMEOUTS: u64 = 20;
/// Election timeouts for which the log is kept after a transfer, for the follower to catch up.
const HOLD_TIMEOUTS: u64 = 10;
/// Most election timeouts for which a follower rests after transfers that failed.
const MOST_REST_TIMEOUTS: u64 = 8;

/// Transfers since start-up, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct SnapshotSendCounters {
    /// Begun.
    pub started: u64,
    /// Installed by their receiver.
    pub completed: u64,
    /// Given up: silence, a refusal, or an unreadable file.
    pub failed: u64,
    /// Pieces sent.
    pub chunks: u64,
    /// Bytes in them, those that were sent again included.
    pub bytes: u64,
    /// Times that a transfer went back after a loss.
    pub rewinds: u64,
}

/// A transfer, for STATUS.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TransferStatus {
    /// To which node.
    pub to: u64,
    /// The last entry in the snapshot.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
    /// How much of it the receiver has written.
    pub acked: u64,
    /// Bytes sent in the last second, about.
    pub bytes_per_s: u64,
}

/// A follower that needs a snapshot and is not being sent one, for STATUS.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct WaitingStatus {
    /// Which node.
    pub to: u64,
    /// Transfers to it that failed in a row.
    pub failures: u32,
    /// Why the last one did; `null`: it waits for its turn.
    pub reason: Option<String>,
    /// Milliseconds until the next attempt.
    pub retry_ms: u64,
}

struct Transfer {
    session: u64,
    id: u64,
    /// Most bytes between `acked` and `next` with which a piece is begun.
    window: u64,
    source: Box<dyn SnapshotSource>,
    acked: u64,
    next: u64,
    /// The read of the piece at `next`.
    reading: Option<JobId>,
    /// The next piece carries the description.
    tell_meta: bool,
    /// Where it last went back to.
    rewound: Option<u64>,
    /// Where the receiver says it is, though it was further once: true if it says so again.
    doubt: Option<u64>,
    heard_at: Nanos,
    moved_at: Nanos,
    sent: Meter,
    /// The turn in which it last read.
    turn: u64,
}

/// A follower that needs a snapshot and waits for its turn.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    session: u64,
    not_before: Nanos,
}

/// A follower whose transfers failed.
#[derive(Clone, Debug)]
struct Rest {
    until: Nanos,
    failures: u32,
    reason: String,
}

/// See the module.
#[derive(Default)]
pub(super) struct Sender {
    pace: Pace,
    turns: u64,
    transfers: BTreeMap<ReplicaId, Transfer>,
    waiting: BTreeMap<ReplicaId, Waiting>,
    /// Reads on their way, also those that nobody waits for any more.
    reads: BTreeMap<JobId, ReplicaId>,
    /// Followers whose last transfer failed, until one succeeds.
    rests: BTreeMap<ReplicaId, Rest>,
    names: u64,
    /// Somebody needs a snapshot and there is none: a flush would make one.
    pub wants_flush: bool,
    pub counters: SnapshotSendCounters,
}

impl Sender {
    /// At most so many bytes a second, all transfers together.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        Self { pace: Pace::new(bytes_per_s), ..Self::default() }
    }

    /// The bound on bytes a second.
    pub const fn bytes_per_s(&self) -> Option<u64> {
        self.pace.bytes_per_s()
    }

    /// The lowest index of a snapshot that is being sent.
    pub fn lowest_source(&self) -> Option<LogIndex> {
        self.transfers.values().map(|t| t.source.meta().index).min()
    }

    /// The transfers, for STATUS.
    pub fn status(&self, now: Nanos) -> Vec<TransferStatus> {
        let status = |(to, t): (&ReplicaId, &Transfer)| TransferStatus {
            to: to.node.0,
            index: t.source.meta().index.0,
            bytes: t.source.meta().bytes,
            acked: t.acked,
            bytes_per_s: t.sent.bytes_per_s(now),
        };
        self.transfers.iter().map(status).collect()
    }

    /// Who waits, and why, for STATUS.
    pub fn waiting(&self, now: Nanos) -> Vec<WaitingStatus> {
        let ids: BTreeSet<&ReplicaId> = self.waiting.keys().chain(self.rests.keys()).collect();
        let idle = ids.into_iter().filter(|to| !self.transfers.contains_key(to));
        let status = |to: &ReplicaId| {
            let rest = self.rests.get(to);
            WaitingStatus {
                to: to.node.0,
                failures: rest.map_or(0, |rest| rest.failures),
                reason: rest.map(|rest| rest.reason.clone()),
                retry_ms: rest.map_or(0, |rest| rest.until.since(now) / 1_000_000),
            }
        };
        idle.map(status).collect()
    }

    /// A name for a transfer that no other one of this replica's has: terms in which it leads differ from each other.
    fn name(&mut self, term: Term) -> u64 {
        self.names += 1;
        (term.0 << 24) | (self.names & 0xff_ffff)
    }

    /// When something is due if nothing is heard.
    pub fn next_deadline(&self, election_timeout_ns: u64) -> Option<Nanos> {
        let asks = self.transfers.values().filter(|t| t.is_owed_a_word());
        let asks = asks.map(|t| t.moved_at.plus(election_timeout_ns));
        let paced = self.transfers.values().any(Transfer::wants_piece);
        let begin = self.waiting.values().map(|w| w.not_before);
        let may_begin = self.transfers.len() < MAX_SNAPSHOT_TRANSFERS && !self.wants_flush;
        let paced = paced.then(|| self.pace.open_at());
        asks.chain(begin.filter(|_| may_begin)).chain(paced).min()
    }

    /// Leadership ended: every transfer is over.
    pub fn clear(&mut self) {
        self.transfers.clear();
        self.waiting.clear();
        self.rests.clear();
        self.wants_flush = false;
    }
}

impl Transfer {
    /// Nothing of it was sent yet.
    fn new(
        now: Nanos,
        (session, id): (u64, u64),
        window: u64,
        source: Box<dyn SnapshotSource>,
    ) -> Self {
        Self {
            session,
            id,
            window,
            source,
            acked: 0,
            next: 0,
            reading: None,
            tell_meta: true,
            rewound: None,
            doubt: None,
            heard_at: now,
            moved_at: now,
            sent: Meter::new(now),
            turn: 0,
        }
    }

    /// Whether the next piece may be read, if the pace allows.
    fn wants_piece(&self) -> bool {
        self.reading.is_none() && self.next < self.bytes() && self.next - self.acked < self.window
    }

    /// Whether the receiver should say something: pieces are on their way, or all are.
    fn is_owed_a_word(&self) -> bool {
        self.reading.is_some() || self.next > self.acked || self.next == self.bytes()
    }

    fn bytes(&self) -> u64 {
        self.source.meta().bytes
    }

    /// Back to what the receiver has written.
    fn rewind(&mut self, to: u64) {
        (self.acked, self.next) = (to, to);
        self.tell_meta = true;
        self.reading = None;
    }

    /// The receiver has everything before `offset`. Whether a piece was lost, so that it goes back.
    fn receiver_wants(&mut self, now: Nanos, offset: u64) -> bool {
        if offset > self.acked && offset <= self.bytes() {
            self.acked = offset;
            self.moved_at = now;
            (self.rewound, self.doubt) = (None, None);
            if self.next < offset {
                self.rewind(offset);
            }
            return false;
        }
        // It may have restarted and begun again, and a late word from before that have been believed. One word may be
        // late itself; a receiver that waits there says it again and again.
        let restarted = offset < self.acked && self.doubt == Some(offset);
        self.doubt = Some(offset);
        let lost = offset < self.next && (offset == self.acked || offset == 0 || restarted);
        if !lost || self.rewound == Some(offset) {
            return false;
        }
        self.rewind(offset);
        self.rewound = Some(offset);
        true
    }

    fn chunk(&mut self, data: Bytes, crc: u32) -> SnapshotChunk {
        let meta = std::mem::take(&mut self.tell_meta).then(|| self.source.meta().clone());
        let offset = self.next;
        self.next += data.len() as u64;
        SnapshotChunk { session: self.session, transfer: self.id, meta, offset, data, crc }
    }

    /// How far is the receiver? In the middle it need not be told again what this is about: if it does not know, it says 0.
    fn question(&mut self) -> SnapshotChunk {
        self.rewound = None;
        SnapshotChunk {
            session: self.session,
            transfer: self.id,
            meta: (self.next == self.bytes()).then(|| self.source.meta().clone()),
            offset: self.acked,
            data: Bytes::new(),
            crc: crc32c(&[]),
        }
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Raft wants a snapshot for this follower.
    pub(super) fn snapshot_needed(&mut self, now: Nanos, to: ReplicaId, session: u64) {
        if let Some(transfer) = self.sender.transfers.get_mut(&to) {
            if transfer.session != session {
                transfer.session = session;
                transfer.rewind(transfer.acked);
                transfer.rewound = None;
                (transfer.heard_at, transfer.moved_at) = (now, now);
                self.pump_snapshot(now, to);
            }
            return;
        }
        let not_before = self.sender.rests.get(&to).map_or(Nanos::ZERO, |rest| rest.until);
        self.sender.waiting.insert(to, Waiting { session, not_before });
        self.start_snapshots(now);
    }

    /// Begins transfers, as many as may be at once.
    pub(super) fn start_snapshots(&mut self, now: Nanos) {
        while self.sender.transfers.len() < MAX_SNAPSHOT_TRANSFERS {
            let due = self.sender.waiting.iter().find(|(_, w)| w.not_before <= now);
            let Some((&to, &Waiting { session, .. })) = due else { return };
            // A node that joined knows of no members below the entry that added it. A snapshot of there would be refused
            // by everybody; the next flush is behind that entry.
            let membership = self.durable_membership().filter(|(_, m)| !m.is_empty()).cloned();
            let something = self.machine.durable_applied().0 > LogIndex::ZERO;
            let Some(membership) = membership.filter(|_| something) else {
                self.sender.wants_flush = true;
                return;
            };
            let Some(source) = self.machine.file_snapshot(membership) else {
                // There is something, and it cannot be described: a flush would only add to it.
                let not_before = now.plus(self.config.raft.election_timeout_ns);
                self.sender.waiting.insert(to, Waiting { session, not_before });
                continue;
            };
            self.sender.waiting.remove(&to);
            let id = self.sender.name(self.raft.term());
            let meta = source.meta();
            log::info!(
                "snapshot of entry {} ({} bytes) for {to}: transfer {id} begins",
                meta.index,
                meta.bytes
            );
            self.sender.counters.started += 1;
            let window = SNAPSHOT_WINDOW_CHUNKS * self.config.snapshot_chunk_bytes as u64;
            let transfer = Transfer::new(now, (session, id), window, source);
            self.sender.transfers.insert(to, transfer);
            self.pump_snapshot(now, to);
        }
    }

    /// Goes on with a transfer: asks how it ended when all is sent, else reads what may be read.
    fn pump_snapshot(&mut self, now: Nanos, to: ReplicaId) {
        let Some(transfer) = self.sender.transfers.get_mut(&to) else { return };
        if transfer.reading.is_none() && transfer.next == transfer.bytes() && transfer.tell_meta {
            let question = transfer.chunk(Bytes::new(), crc32c(&[]));
            self.ask_receiver(now, to, question);
        }
        self.pump_snapshots(now);
    }

    /// Reads the next pieces, as far as the windows have room and the pace lets them through.
    fn pump_snapshots(&mut self, now: Nanos) {
        let piece = self.sender.pace.piece(self.config.snapshot_chunk_bytes as u64);
        while self.sender.pace.open_at() <= now {
            let wanting = self.sender.transfers.iter_mut().filter(|(_, t)| t.wants_piece());
            let Some((&to, transfer)) = wanting.min_by_key(|(_, t)| t.turn) else { return };
            if transfer.next == transfer.acked {
                // Nobody owed us a word while it waited for the pace.
                (transfer.heard_at, transfer.moved_at) = (now, now);
            }
            let len = piece.min(transfer.bytes() - transfer.next);
            let read = transfer.source.read(transfer.next, len as usize);
            let job = Box::new(move || -> JobOutput { Box::new(read()) });
            let job = self.env.jobs.submit(Lane::Read, job);
            transfer.reading = Some(job);
            self.sender.turns += 1;
            transfer.turn = self.sender.turns;
            self.sender.reads.insert(job, to);
            self.sender.pace.take(now, len);
        }
    }

    /// A piece without bytes: the receiver says how far it is.
    fn ask_receiver(&mut self, now: Nanos, to: ReplicaId, question: SnapshotChunk) {
        let Some(transfer) = self.sender.transfers.get_mut(&to) else { return };
        transfer.moved_at = now;
        self.sender.counters.chunks += 1;
        self.raft_next.push_back(raft::Event::SendChunk { to, chunk: question });
    }

    /// The connection for pieces broke: what was on its way is lost, or is not.
    pub(super) fn snapshot_link_lost(&mut self, now: Nanos, to: ReplicaId, out: &mut Vec<Effect>) {
        let Some(transfer) = self.sender.transfers.get_mut(&to) else { return };
        if transfer.reading.is_none() && transfer.is_owed_a_word() {
            let question = transfer.question();
            self.ask_receiver(now, to, question);
            self.run_raft(now, out);
        }
    }

    /// Takes the completion of a piece's read.
    pub(super) fn snapshot_read_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Option<Completion> {
        let Some(to) = self.sender.reads.remove(&done.id) else { return Some(done) };
        let transfer = self.sender.transfers.get_mut(&to);
        let wanted = transfer.filter(|transfer| transfer.reading == Some(done.id));
        // Nobody waits for it any more: it is taken, and that is all.
        let transfer = wanted?;
        transfer.reading = None;
        let read = done.output.downcast::<io::Result<(Bytes, u32)>>().expect("a piece's output");
        match *read {
            Ok((data, crc)) => {
                transfer.sent.note(now, data.len() as u64);
                self.sender.counters.bytes += data.len() as u64;
                let chunk = transfer.chunk(data, crc);
                transfer.moved_at = now;
                self.sender.counters.chunks += 1;
                self.raft_next.push_back(raft::Event::SendChunk { to, chunk });
                self.pump_snapshot(now, to);
            }
            Err(e) => self.fail_snapshot(now, to, &format!("cannot be read: {e}")),
        }
        self.run_raft(now, out);
        None
    }

    /// The receiver spoke.
    pub(super) fn snapshot_acked(&mut self, now: Nanos, from: ReplicaId, reply: SnapshotReply) {
        let Some(transfer) = self.sender.transfers.get_mut(&from) else { return };
        if (reply.session, reply.transfer) != (transfer.session, transfer.id) {
            return;
        }
        transfer.heard_at = now;
        match reply.outcome {
            SnapshotOutcome::Next { offset } => {
                if transfer.receiver_wants(now, offset) {
                    self.sender.counters.rewinds += 1;
                }
                self.pump_snapshot(now, from);
            }
            SnapshotOutcome::Installed { .. } => self.snapshot_over(now, from),
            SnapshotOutcome::Refused { reason } => {
                self.fail_snapshot(now, from, &format!("was refused: {reason}"));
            }
        }
    }

    /// Raft says that the follower needs no snapshot (any more), or the receiver that it has it.
    pub(super) fn snapshot_over(&mut self, now: Nanos, to: ReplicaId) {
        self.sender.waiting.remove(&to);
        self.sender.rests.remove(&to);
        if let Some(transfer) = self.sender.transfers.remove(&to) {
            let all = transfer.acked == transfer.bytes();
            self.sender.counters.completed += u64::from(all);
            let until = now.plus(HOLD_TIMEOUTS * self.config.raft.election_timeout_ns);
            self.holds.hold(to, transfer.source.meta().index, until);
        }
        self.start_snapshots(now);
    }

    fn fail_snapshot(&mut self, now: Nanos, to: ReplicaId, how: &str) {
        let Some(transfer) = self.sender.transfers.remove(&to) else { return };
        let failures = self.sender.rests.get(&to).map_or(0, |rest| rest.failures) + 1;
        let timeouts = MOST_REST_TIMEOUTS.min(1 << (failures - 1).min(16));
        let until = now.plus(timeouts * self.config.raft.election_timeout_ns);
        log::warn!(
            "snapshot of entry {} for {to} {how}; trying again in {} ms",
            transfer.source.meta().index,
            until.since(now) / 1_000_000
        );
        self.sender.counters.failed += 1;
        let reason = format!("the snapshot of entry {} {how}", transfer.source.meta().index);
        self.sender.rests.insert(to, Rest { until, failures, reason });
        let session = transfer.session;
        self.raft_next.push_back(raft::Event::SnapshotFailed { to, session });
        self.start_snapshots(now);
    }

    /// Called every tick: goes on where the pace held it up, asks who is silent, and gives up what nobody answers.
    pub(super) fn tend_snapshots(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let timeout = self.config.raft.election_timeout_ns;
        let due: Vec<ReplicaId> = self
            .sender
            .transfers
            .iter()
            .filter(|(_, t)| t.is_owed_a_word() && t.moved_at.plus(timeout) <= now)
            .map(|(to, _)| *to)
            .collect();
        for to in due {
            let Some(transfer) = self.sender.transfers.get_mut(&to) else { continue };
            if transfer.heard_at.plus(GIVE_UP_TIMEOUTS * timeout) <= now {
                self.fail_snapshot(now, to, "is not answered");
                continue;
            }
            transfer.moved_at = now;
            if transfer.reading.is_none() {
                let question = transfer.question();
                self.ask_receiver(now, to, question);
            }
        }
        if !self.sender.rests.is_empty() {
            let followers = self.raft.status().followers;
            let needs = |f: &FollowerStatus| f.state != ProgressState::Replicate;
            let in_need = |to| followers.iter().any(|f| f.replica == to && needs(f));
            self.sender.rests.retain(|to, _| in_need(*to));
        }
        self.start_snapshots(now);
        self.pump_snapshots(now);
        if self.holds.expire(now) {
            self.release_log(out);
        }
        self.run_raft(now, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Membership;
    use crate::node::SnapshotRead;
    use crate::raft::message::SnapshotMeta;
    use std::sync::Arc;

    struct Empty(Arc<SnapshotMeta>);

    impl SnapshotSource for Empty {
        fn meta(&self) -> &Arc<SnapshotMeta> {
            &self.0
        }
        fn read(&self, _offset: u64, _len: usize) -> SnapshotRead {
            Box::new(|| Ok((Bytes::new(), 0)))
        }
    }

    fn transfer() -> Transfer {
        let meta = SnapshotMeta {
            index: LogIndex(9),
            term: Term(1),
            membership: (LogIndex::ZERO, Membership::new()),
            bytes: 10_000,
            body: Bytes::new(),
        };
        Transfer::new(Nanos::ZERO, (1, 1), 4_000, Box::new(Empty(Arc::new(meta))))
    }

    /// Found by `beach-sim run --seed 446 --nodes 5`: the receiver restarted, began again from 0, and a late word from before the
    /// restart took the sender to where the receiver never was; both waited for ever.
    #[test]
    fn a_receiver_that_restarted_is_believed_although_a_late_word_put_it_further() {
        let mut t = transfer();
        t.next = 9_000;
        assert!(!t.receiver_wants(Nanos(1), 8_000), "progress");
        assert!(t.receiver_wants(Nanos(2), 0), "it restarted");
        assert!(!t.receiver_wants(Nanos(3), 1_000));
        assert!(!t.receiver_wants(Nanos(4), 8_500), "the late word");
        assert_eq!((t.acked, t.next), (8_500, 8_500));
        t.next = 9_000;
        assert!(!t.receiver_wants(Nanos(5), 1_000), "this one may be late as well");
        assert!(t.receiver_wants(Nanos(6), 1_000), "but it says it again");
        assert_eq!((t.acked, t.next), (1_000, 1_000));
    }

    #[test]
    fn words_that_overtake_each_other_do_not_take_the_sender_back() {
        let mut t = transfer();
        t.next = 4_000;
        for offset in [2_000, 1_000, 3_000, 2_000, 1_000] {
            assert!(!t.receiver_wants(Nanos(1), offset), "{offset}");
        }
        assert_eq!((t.acked, t.next), (3_000, 4_000));
    }
}

//! [`Receiver`]: a snapshot on its way in, and its installation.
//!
//! ```text
//!  leader ─ chunk ─▶ raft ─ SnapshotChunk ─▶ check ─▶ queue ─▶ sink.write (Lane::Maintenance) ─▶ written
//!                     ▲                        │ hole, duplicate, unknown                          │
//!                     └─ ReplyToChunk{Next} ◀──┴───────────────────────────────────────────────────┘
//!  all written ─▶ machine.install ─▶ log.reset, or release if the log goes on behind it ─▶ raft SnapshotInstalled
//! ```
//!
//! Invariants:
//! - One transfer at a time. A newer one (of another leader, or begun again) replaces it; what is left of the old one is
//!   removed by the machine. Nothing of it counts before the machine says *installed*.
//! - `written <= taken <= bytes`, and a piece is taken only at `taken`, with the CRC32C it came with. *Next* is said only of
//!   what is written, so the sender's window bounds what waits here; above [`SNAPSHOT_QUEUE_BYTES`] pieces are dropped.
//! - While the machine installs, nothing is applied (appends are taken; reads are served from the old state).
//! - The log is changed only after the machine stands at the snapshot durably. A crash between the two is found at open
//!   (design.md rule 2).

use super::pace::Meter;
use super::state_machine::{SinkFault, SnapshotSink};
use super::status::ReceiveStatus;
use super::{Effect, FatalError, Node, Observed, StateMachine};
use crate::base::checksum::crc32c;
use crate::base::{LogIndex, Membership, Nanos, ReplicaId, Term};
use crate::env::{Completion, JobId, JobOutput, Lane};
use crate::limits::{MAX_SNAPSHOT_BODY_BYTES, SNAPSHOT_QUEUE_BYTES};
use crate::raft::message::{SnapshotChunk, SnapshotMeta, SnapshotOutcome, SnapshotReply};
use crate::raft::{self, LogStore};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Election timeouts without a piece after which a transfer is forgotten, and its space given back.
const FORGET_TIMEOUTS: u64 = 60;

/// Transfers since start-up, for STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct SnapshotReceiveCounters {
    /// Begun.
    pub started: u64,
    /// Installed.
    pub installed: u64,
    /// Refused or failed: no space, a damaged file, an impossible description.
    pub refused: u64,
    /// Replaced by another one, or forgotten.
    pub abandoned: u64,
    /// Bytes written of all.
    pub bytes: u64,
    /// Bytes that came once more, after something was lost.
    pub repeated_bytes: u64,
    /// Pieces that were damaged, came in the wrong order, or found no room.
    pub dropped_chunks: u64,
}

/// Whose transfer it is. Incarnations make it unique.
type TransferId = (ReplicaId, u64);

struct Incoming {
    id: TransferId,
    session: u64,
    meta: Arc<SnapshotMeta>,
    sink: Box<dyn SnapshotSink>,
    queue: VecDeque<Bytes>,
    taken: u64,
    written: u64,
    writing: Option<(JobId, u64)>,
    /// A piece was lost: say so when the queue is written.
    hole: bool,
    heard_at: Nanos,
    came: Meter,
}

struct Installing {
    id: TransferId,
    session: u64,
    bytes: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Receiver {
    incoming: Option<Incoming>,
    installing: Option<Installing>,
    /// Writes on their way, also those that nobody waits for any more.
    writes: BTreeSet<JobId>,
    /// Why the last snapshot was refused, until one is taken.
    refusal: Option<String>,
    pub counters: SnapshotReceiveCounters,
}

/// What a reply to a chunk says, before it is addressed.
enum Word {
    Next(u64),
    Refused(String),
}

impl Receiver {
    /// Whether the machine is being replaced: nothing may be applied.
    pub const fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// The transfer that is under way.
    pub fn progress(&self, now: Nanos) -> Option<ReceiveStatus> {
        self.incoming.as_ref().map(|incoming| ReceiveStatus {
            index: incoming.meta.index.0,
            bytes: incoming.meta.bytes,
            written: incoming.written,
            bytes_per_s: incoming.came.bytes_per_s(now),
        })
    }

    /// Why the last snapshot was refused; `None` once one was taken.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// When it is forgotten if no piece comes.
    pub fn next_deadline(&self, election_timeout_ns: u64) -> Option<Nanos> {
        self.incoming.as_ref().map(|i| i.heard_at.plus(FORGET_TIMEOUTS * election_timeout_ns))
    }

    /// Gives up what has come so far.
    pub fn abandon(&mut self) {
        if self.incoming.take().is_some() {
            self.counters.abandoned += 1;
        }
    }
}

impl Incoming {
    fn is_complete(&self) -> bool {
        self.written == self.meta.bytes
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// A piece from the leader.
    pub(super) fn snapshot_chunk(&mut self, now: Nanos, from: ReplicaId, chunk: SnapshotChunk) {
        let (session, transfer) = (chunk.session, chunk.transfer);
        if let Some(word) = self.take_chunk(now, from, chunk) {
            self.reply_to_chunk((from, transfer), session, word);
        }
    }

    fn reply_to_chunk(&mut self, (to, transfer): TransferId, session: u64, word: Word) {
        let outcome = match word {
            Word::Next(offset) => SnapshotOutcome::Next { offset },
            Word::Refused(reason) => {
                log::warn!("snapshot of {to} refused: {reason}");
                self.receiver.counters.refused += 1;
                self.receiver.refusal = Some(reason.clone());
                SnapshotOutcome::Refused { reason }
            }
        };
        let reply = SnapshotReply { session, transfer, outcome };
        self.raft_next.push_back(raft::Event::ReplyToChunk { to, reply });
    }

    /// Takes a piece in; what to say at once, if anything.
    fn take_chunk(&mut self, now: Nanos, from: ReplicaId, chunk: SnapshotChunk) -> Option<Word> {
        let id = (from, chunk.transfer);
        if let Some(installing) = &mut self.receiver.installing {
            if installing.id != id {
                return Some(Word::Refused("another snapshot is being installed".to_owned()));
            }
            installing.session = chunk.session;
            return Some(Word::Next(installing.bytes));
        }
        let newest = self.receiver.incoming.as_ref().map(|incoming| incoming.id);
        if newest.is_some_and(|(leader, transfer)| leader == from && chunk.transfer < transfer) {
            // Late: this leader has begun another one since.
            self.receiver.counters.dropped_chunks += 1;
            return None;
        }
        let known = newest == Some(id);
        if !known && let Err(word) = self.begin_receiving(now, id, &chunk) {
            return Some(word);
        }
        let incoming = self.receiver.incoming.as_mut().expect("it has begun");
        (incoming.session, incoming.heard_at) = (chunk.session, now);
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if end > incoming.meta.bytes {
            let bytes = incoming.meta.bytes;
            self.receiver.abandon();
            return Some(Word::Refused(format!("a piece ends at {end}, the snapshot at {bytes}")));
        }
        if chunk.data.is_empty() && !incoming.is_complete() {
            // A question. While something is being written, the word on it comes anyway.
            return incoming.writing.is_none().then_some(Word::Next(incoming.written));
        }
        let waiting = (incoming.taken - incoming.written) as usize;
        let fits = waiting == 0 || waiting + chunk.data.len() <= SNAPSHOT_QUEUE_BYTES;
        if chunk.offset == incoming.taken && fits && crc32c(&chunk.data) == chunk.crc {
            incoming.taken = end;
            if !chunk.data.is_empty() {
                incoming.queue.push_back(chunk.data);
            }
            self.write_next();
            return None;
        }
        self.receiver.counters.dropped_chunks += 1;
        self.receiver.counters.repeated_bytes +=
            incoming.taken.min(end) - incoming.taken.min(chunk.offset);
        incoming.hole |= chunk.offset >= incoming.taken;
        // While something is being written, the word on it comes anyway.
        incoming.writing.is_none().then_some(Word::Next(incoming.written))
    }

    /// A piece of a transfer that is not known here: the first one begins it.
    fn begin_receiving(
        &mut self,
        now: Nanos,
        id: TransferId,
        chunk: &SnapshotChunk,
    ) -> Result<(), Word> {
        let Some(meta) = chunk.meta.as_ref().filter(|_| chunk.offset == 0) else {
            return Err(Word::Next(0));
        };
        if !self.space.has_looked() {
            // This node has just begun: asked again, it knows whether there is room.
            return Err(Word::Next(0));
        }
        self.receiver.abandon();
        self.judge_snapshot(meta).map_err(Word::Refused)?;
        let sink = self.machine.begin_install(meta).map_err(Word::Refused)?;
        log::info!("snapshot of entry {} ({} bytes) from {}", meta.index, meta.bytes, id.0);
        self.receiver.counters.started += 1;
        self.receiver.incoming = Some(Incoming {
            id,
            session: chunk.session,
            meta: meta.clone(),
            sink,
            queue: VecDeque::new(),
            taken: 0,
            written: 0,
            writing: None,
            hole: false,
            heard_at: now,
            came: Meter::new(now),
        });
        self.receiver.refusal = None;
        Ok(())
    }

    /// What can be judged before anything is written.
    fn judge_snapshot(&self, meta: &SnapshotMeta) -> Result<(), String> {
        if meta.body.len() > MAX_SNAPSHOT_BODY_BYTES {
            let len = meta.body.len();
            return Err(format!(
                "its description has {len} bytes, at most {MAX_SNAPSHOT_BODY_BYTES} are taken"
            ));
        }
        if meta.membership.1.is_empty() || meta.membership.0 > meta.index {
            return Err(format!("its membership is of entry {}", meta.membership.0));
        }
        let needed = meta.bytes.saturating_add(self.config.reserve_bytes);
        match self.space.free_bytes() {
            Some(free) if free < needed => Err(format!(
                "{free} bytes are free on the disk, {} and a reserve of {} are needed",
                meta.bytes, self.config.reserve_bytes
            )),
            _ => Ok(()),
        }
    }

    /// Writes the next piece, or installs when there is none left.
    fn write_next(&mut self) {
        let Some(incoming) = &mut self.receiver.incoming else { return };
        if incoming.writing.is_some() {
            return;
        }
        if let Some(data) = incoming.queue.pop_front() {
            let len = data.len() as u64;
            let write = incoming.sink.write(incoming.written, data);
            let job = Box::new(move || -> JobOutput { Box::new(write()) });
            let job = self.env.jobs.submit(Lane::Maintenance, job);
            incoming.writing = Some((job, len));
            self.receiver.writes.insert(job);
        } else if incoming.is_complete() {
            self.install_received();
        }
    }

    /// Takes the completion of a write.
    pub(super) fn snapshot_write_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Option<Completion> {
        if !self.receiver.writes.remove(&done.id) {
            return Some(done);
        }
        let incoming = self.receiver.incoming.as_mut();
        let mine = incoming.and_then(|i| {
            let (_, len) = i.writing.take_if(|(job, _)| *job == done.id)?;
            Some((i, len))
        });
        // Of a transfer that was given up: it is taken, and that is all.
        let (incoming, len) = mine?;
        let (id, session) = (incoming.id, incoming.session);
        match *done.output.downcast::<Result<(), SinkFault>>().expect("a write's output") {
            Ok(()) => {
                incoming.written += len;
                incoming.came.note(now, len);
                self.receiver.counters.bytes += len;
                let written = incoming.written;
                let told_twice = std::mem::take(&mut incoming.hole) && incoming.queue.is_empty();
                self.reply_to_chunk(id, session, Word::Next(written));
                if told_twice {
                    self.reply_to_chunk(id, session, Word::Next(written));
                }
                self.write_next();
            }
            Err(SinkFault::Refused(reason)) => {
                self.receiver.abandon();
                self.reply_to_chunk(id, session, Word::Refused(reason));
            }
            Err(SinkFault::Fatal(error)) => {
                self.receiver.abandon();
                let fatal = FatalError::new("the engine", error);
                self.broken.get_or_insert(fatal);
            }
        }
        self.run_raft(now, out);
        None
    }

    /// The stream is complete.
    fn install_received(&mut self) {
        let Some(incoming) = self.receiver.incoming.take() else { return };
        let Incoming { id, session, meta, sink, .. } = incoming;
        if meta.index <= self.machine.applied().0 {
            // The log brought it meanwhile.
            self.receiver.counters.abandoned += 1;
            self.tell_installed(&meta, id, session);
            return;
        }
        log::info!("snapshot of entry {} from {} is complete: installing", meta.index, id.0);
        self.receiver.installing = Some(Installing { id, session, bytes: meta.bytes });
        self.machine.install(sink);
    }

    fn tell_installed(&mut self, meta: &SnapshotMeta, (to, transfer): TransferId, session: u64) {
        let outcome = SnapshotOutcome::Installed { index: meta.index };
        self.raft_next.push_back(raft::Event::SnapshotInstalled {
            index: meta.index,
            term: meta.term,
            membership: meta.membership.clone(),
            reply: Some((to, SnapshotReply { session, transfer, outcome })),
        });
    }

    /// The machine refused the snapshot after all.
    pub(super) fn install_failed(&mut self, now: Nanos, reason: String, out: &mut Vec<Effect>) {
        if let Some(Installing { id, session, .. }) = self.receiver.installing.take() {
            self.reply_to_chunk(id, session, Word::Refused(reason));
            self.run_raft(now, out);
        }
    }

    /// The machine stands at the snapshot, durably: everything else follows it.
    pub(super) fn installed(
        &mut self,
        now: Nanos,
        (index, term): (LogIndex, Term),
        membership: (LogIndex, Membership),
        rows: &[(Vec<u8>, Bytes)],
        out: &mut Vec<Effect>,
    ) -> Result<(), FatalError> {
        if self.log.term(index) == Some(term) {
            // The log goes on behind the snapshot (pitfall 23).
            self.log.applied_to(index);
        } else {
            self.log.reset((index, term), membership.clone());
            self.durable.reset(index);
        }
        self.replicated
            .installed(membership.clone(), rows)
            .map_err(|e| FatalError::new("an installed snapshot", e))?;
        self.apply.installed(index);
        self.conditions.installed();
        self.writes.installed(now, index, &self.raft, &mut self.desk, out);
        self.receiver.counters.installed += 1;
        self.receiver.refusal = None;
        log::info!("snapshot of entry {index} is installed");
        if self.config.observe {
            out.push(Effect::Observed(Observed::Installed { index, term }));
        }
        self.release_log(out);
        let reply = self.receiver.installing.take().map(|Installing { id, session, .. }| {
            let outcome = SnapshotOutcome::Installed { index };
            (id.0, SnapshotReply { session, transfer: id.1, outcome })
        });
        let event = raft::Event::SnapshotInstalled { index, term, membership, reply };
        self.step_raft(now, event, out);
        self.step_raft(now, raft::Event::Applied(index), out);
        self.kick_log(now);
        self.serve_reads(now, out);
        Ok(())
    }

    /// Called every tick: a transfer that went silent gives its space back.
    pub(super) fn tend_receiver(&mut self, now: Nanos) {
        let deadline = self.receiver.next_deadline(self.config.raft.election_timeout_ns);
        if deadline.is_some_and(|at| at <= now) {
            self.receiver.abandon();
        }
    }
}

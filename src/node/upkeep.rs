//! [`Upkeep`]: what an operator has a node do with its own files while it serves: a checkpoint, a check of every block, and the
//! compaction of a range.
//!
//! ```text
//!  ADMIN checkpoint ─▶ freeze ─▶ (flushes) durable_applied >= the target ─▶ pin ─▶ step, step, … in Lane::Maintenance ─▶ reply
//!  ADMIN verify ─▶ reply; pin ─▶ step ─ pause as the rate wants ─▶ step … ─▶ STATUS says what was found
//! ```
//!
//! All are about this node alone, leader or not. Of checkpoints and checks there is one at a time: another one gets `BUSY`. Every
//! step of those is bounded, so that the log's spare segments, which the same lane makes, and everything else wait for a moment
//! at most. A compaction is the engine's own work: it is asked for here, one that is asked for while another runs is joined to
//! it, and STATS says how it goes.
//!
//! Invariants:
//! - A checkpoint holds everything that was applied when it was asked for. Its membership is the one in force at its last entry.
//! - A failed one is told to whoever asked, and to STATUS; the node goes on. When nobody waits any more (the deadline passed, the
//!   connection closed) it is made all the same.
//! - A check never stops at what it finds: damage is counted and named by file and offset, and logged.
//! - When the node stops, a step that runs ends, and no other one begins: a checkpoint leaves what a crash would.
//!
//! What it does not do: repair. A member whose copy is damaged gives it up (`beachd rejoin`).

use super::admission::{self, Arrival, Ticket};
use super::{Effect, Node, Phase, StateMachine};
use crate::base::{LogIndex, Nanos};
use crate::engine::checkpoint::{
    Checkpoint, CheckpointError, CheckpointStep, CheckpointWork, Origin,
};
use crate::engine::{Scrub, ScrubReport};
use crate::env::{Completion, JobId, JobOutput, Lane};
use crate::limits::SCRUB_STEP_BYTES;
use crate::proto::{self, ErrorCode, Response};
use crate::raft::LogStore;
use serde::Serialize;
use std::path::{Component, Path, PathBuf};

/// When an operator should try again who found another one's work under way.
const RETRY_MS: u32 = 1_000;
/// The node's own files, which no checkpoint may be among.
const OWN_NAMES: [&str; 4] = ["engine", "raft", "IDENTITY", "LOCK"];
const SECOND_NS: u64 = 1_000_000_000;

/// The last checkpoint, for STATUS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckpointStatus {
    /// Where it is, or is to be.
    pub dir: String,
    /// `flushing`, `copying`, `done`, or `failed`.
    pub state: &'static str,
    /// Why it failed.
    pub error: Option<String>,
    /// The last entry in it, when it is done.
    pub applied: Option<u64>,
    /// The last sequence number in it, when it is done.
    pub last_seq: Option<u64>,
    /// Bytes of the tables in it so far.
    pub done_bytes: u64,
    /// Bytes of all its tables; 0 before they are known.
    pub bytes: u64,
    /// Milliseconds it took, so far.
    pub ms: u64,
}

/// The last check of all files, for STATUS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VerifyStatus {
    /// Whether it is over.
    pub done: bool,
    /// Bytes a second that it reads at most; `null`: no bound.
    pub rate: Option<u64>,
    /// Milliseconds it took, so far.
    pub ms: u64,
    /// What it read, and what it found.
    #[serde(flatten)]
    pub report: ScrubReport,
}

/// See the module.
#[derive(Default)]
pub(super) struct Upkeep {
    checkpoint: Option<Checkpointing>,
    verify: Option<Verifying>,
    last_checkpoint: Option<CheckpointStatus>,
    last_verify: Option<VerifyStatus>,
}

struct Checkpointing {
    ticket: Ticket,
    dir: PathBuf,
    began: Nanos,
    stage: Stage,
}

enum Stage {
    /// Until everything up to this entry is durable.
    Flushing(LogIndex),
    Copying(JobId),
}

struct Verifying {
    began: Nanos,
    rate: Option<u64>,
    next: Next,
}

enum Next {
    Step(JobId),
    /// The rate wants a pause.
    Pause(Nanos, Box<Scrub>),
}

/// What a step of a check comes back with.
struct Scrubbed {
    scrub: Box<Scrub>,
    done: bool,
    bytes: u64,
}

impl Upkeep {
    /// When a tick is wanted.
    pub fn next_wakeup(&self) -> Option<Nanos> {
        match &self.verify.as_ref()?.next {
            Next::Step(_) => None,
            Next::Pause(until, _) => Some(*until),
        }
    }

    pub fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        self.last_checkpoint.clone()
    }

    pub fn verify_status(&self) -> Option<VerifyStatus> {
        self.last_verify.clone()
    }
}

/// Where a checkpoint called `dir` goes.
fn target(dir: &str, data_dir: &Path) -> Result<PathBuf, String> {
    let path: PathBuf =
        Path::new(dir).components().filter(|part| *part != Component::CurDir).collect();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{dir}: a checkpoint's path has no .. in it"));
    }
    if path.file_name().is_none() {
        return Err(format!("{dir}: this names no new directory"));
    }
    let target = data_dir.join(path);
    match OWN_NAMES.iter().find(|name| target.starts_with(data_dir.join(name))) {
        Some(name) => Err(format!("{dir}: {name} is the node's own")),
        None => Ok(target),
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// ADMIN checkpoint arrived.
    pub(super) fn checkpoint(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        dir: &str,
        out: &mut Vec<Effect>,
    ) {
        match self.begin_checkpoint(now, arrival, dir) {
            Ok(()) => self.tend_upkeep(now, out),
            Err(refused) => {
                self.desk.reply_unadmitted(arrival.origin, arrival.opcode, refused, out);
            }
        }
    }

    fn begin_checkpoint(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        dir: &str,
    ) -> Result<(), Response> {
        let not_applied = proto::Effect::NotApplied;
        let bad = |why| admission::error(ErrorCode::BadRequest, not_applied, why);
        let dir = target(dir, &self.config.dir).map_err(bad)?;
        if let Some(other) = &self.upkeep.checkpoint {
            let message = format!("the checkpoint {} is being made", other.dir.display());
            return Err(self.desk.busy(not_applied, RETRY_MS, message));
        }
        if self.members_for_checkpoint().is_none() {
            return Err(
                bad("this node belongs to no cluster yet: there is nothing to copy".into()),
            );
        }
        let ticket = self.desk.admit(now, arrival)?;
        self.machine.freeze();
        let through = self.machine.applied().0;
        log::info!("checkpoint {}: everything up to entry {through}", dir.display());
        self.upkeep.last_checkpoint = Some(CheckpointStatus {
            dir: dir.display().to_string(),
            state: "flushing",
            error: None,
            applied: None,
            last_seq: None,
            done_bytes: 0,
            bytes: 0,
            ms: 0,
        });
        let stage = Stage::Flushing(through);
        self.upkeep.checkpoint = Some(Checkpointing { ticket, dir, began: now, stage });
        Ok(())
    }

    fn members_for_checkpoint(&self) -> Option<(LogIndex, crate::base::Membership)> {
        self.durable_membership().filter(|(_, members)| !members.is_empty()).cloned()
    }

    /// Goes on with what waits; called every tick and after every flush.
    pub(super) fn tend_upkeep(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if let Some(Verifying { next: Next::Pause(until, _), .. }) = &self.upkeep.verify
            && *until <= now
        {
            self.go_on_verifying();
        }
        let Some(checkpointing) = &self.upkeep.checkpoint else { return };
        let Stage::Flushing(through) = checkpointing.stage else { return };
        if self.phase != Phase::Running {
            let message = "the server is shutting down".to_owned();
            return self.checkpoint_failed(now, ErrorCode::ShuttingDown, message, out);
        }
        if self.machine.durable_applied().0 >= through {
            return self.start_copying(now, out);
        }
        if let Some(reason) = self.machine.read_only_reason() {
            let message = format!("what is in memory cannot be flushed: {reason}");
            self.checkpoint_failed(now, ErrorCode::NoSpace, message, out);
        }
    }

    fn start_copying(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let dir = self.upkeep.checkpoint.as_ref().map(|c| c.dir.clone()).unwrap_or_default();
        let origin = self.members_for_checkpoint().map(|members| Origin {
            cluster_id: self.identity.cluster_id.clone(),
            cluster: self.cluster,
            replica: self.identity.replica(),
            members,
        });
        match origin.and_then(|origin| self.machine.checkpoint(dir, origin)) {
            Some(work) => self.submit_checkpoint(now, Box::new(work)),
            None => {
                let message = "this node has no files to copy".to_owned();
                self.checkpoint_failed(now, ErrorCode::BadRequest, message, out);
            }
        }
    }

    fn submit_checkpoint(&mut self, now: Nanos, work: Box<CheckpointWork>) {
        let (done, bytes) = work.progress();
        let job = Box::new(move || -> JobOutput { Box::new(work.step()) });
        let job = self.env.jobs.submit(Lane::Maintenance, job);
        let Some(checkpointing) = &mut self.upkeep.checkpoint else { return };
        checkpointing.stage = Stage::Copying(job);
        let ms = now.since(checkpointing.began) / 1_000_000;
        if let Some(status) = &mut self.upkeep.last_checkpoint {
            (status.state, status.done_bytes, status.bytes) = ("copying", done, bytes);
            status.ms = ms;
        }
    }

    fn checkpoint_failed(
        &mut self,
        now: Nanos,
        code: ErrorCode,
        message: String,
        out: &mut Vec<Effect>,
    ) {
        let Some(Checkpointing { ticket, dir, began, .. }) = self.upkeep.checkpoint.take() else {
            return;
        };
        log::warn!("checkpoint {}: {message}", dir.display());
        if let Some(status) = &mut self.upkeep.last_checkpoint {
            (status.state, status.ms) = ("failed", now.since(began) / 1_000_000);
            status.error = Some(message.clone());
        }
        let response = ticket.refusal(code, message);
        self.desk.reply(now, &ticket, response, out);
        self.desk.finish(&ticket);
    }

    fn checkpoint_done(&mut self, now: Nanos, done: &Checkpoint, out: &mut Vec<Effect>) {
        let Some(Checkpointing { ticket, began, .. }) = self.upkeep.checkpoint.take() else {
            return;
        };
        let Checkpoint { dir, description, linked, copied_bytes } = done;
        let (index, seq) = (description.applied.0, description.last_seq);
        log::info!(
            "checkpoint {}: done, up to entry {index}; {linked} tables linked, {copied_bytes} bytes copied",
            dir.display()
        );
        if let Some(status) = &mut self.upkeep.last_checkpoint {
            (status.state, status.ms) = ("done", now.since(began) / 1_000_000);
            (status.done_bytes, status.bytes) = (description.bytes, description.bytes);
            (status.applied, status.last_seq) = (Some(index.0), Some(seq.0));
        }
        let response = Response::Written { index, first_seq: seq, last_seq: seq };
        self.desk.reply(now, &ticket, response, out);
        self.desk.finish(&ticket);
    }

    /// Answers an operator whose deadline passed while a checkpoint was made, which goes on; returns the deadline of one who waits.
    pub(super) fn expire_checkpoint(&mut self, now: Nanos, out: &mut Vec<Effect>) -> Nanos {
        let Some(Checkpointing { ticket, .. }) = &self.upkeep.checkpoint else { return Nanos::MAX };
        if !self.desk.is_open(ticket) {
            return Nanos::MAX;
        }
        if ticket.deadline > now {
            return ticket.deadline;
        }
        let message =
            "the checkpoint takes longer; it is still being made, and STATUS says how it goes";
        let response =
            admission::error(ErrorCode::DeadlineExceeded, proto::Effect::Unknown, message);
        let ticket = ticket.clone();
        self.desk.reply(now, &ticket, response, out);
        Nanos::MAX
    }

    /// ADMIN compact arrived.
    pub(super) fn compact(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        (start, end): (&[u8], &[u8]),
        out: &mut Vec<Effect>,
    ) {
        let not_applied = proto::Effect::NotApplied;
        let response = if self.phase != Phase::Running {
            let message = "the server is shutting down";
            admission::error(ErrorCode::ShuttingDown, not_applied, message)
        } else if !self.machine.compact(start, end) {
            let message = "this node has no files to compact";
            admission::error(ErrorCode::BadRequest, not_applied, message)
        } else {
            log::info!("compaction: asked for by an operator");
            let (index, seq) = (self.machine.applied().0, self.machine.last_seq());
            Response::Written { index, first_seq: seq, last_seq: seq }
        };
        self.desk.reply_unadmitted(arrival.origin, arrival.opcode, response, out);
        self.machine.maintain(now, false);
    }

    /// ADMIN verify arrived.
    pub(super) fn verify(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        rate: u64,
        out: &mut Vec<Effect>,
    ) {
        let response = self.begin_verify(now, rate);
        self.desk.reply_unadmitted(arrival.origin, arrival.opcode, response, out);
    }

    fn begin_verify(&mut self, now: Nanos, rate: u64) -> Response {
        let not_applied = proto::Effect::NotApplied;
        if self.upkeep.verify.is_some() {
            let message = "a check of all files is under way; STATUS says how it goes".to_owned();
            return self.desk.busy(not_applied, RETRY_MS, message);
        }
        let Some(scrub) = self.machine.scrub(self.config.dir.join("raft")) else {
            let message = "this node has no files to check";
            return admission::error(ErrorCode::BadRequest, not_applied, message);
        };
        let rate = (rate > 0).then_some(rate);
        log::info!("verify: {} bytes of tables, and the log", scrub.report().total_bytes);
        let report = scrub.report().clone();
        self.upkeep.last_verify = Some(VerifyStatus { done: false, rate, ms: 0, report });
        let next = Next::Pause(now, Box::new(scrub));
        self.upkeep.verify = Some(Verifying { began: now, rate, next });
        self.go_on_verifying();
        let (index, seq) = (self.machine.applied().0, self.machine.last_seq());
        Response::Written { index, first_seq: seq, last_seq: seq }
    }

    fn go_on_verifying(&mut self) {
        if self.phase != Phase::Running {
            self.upkeep.verify = None;
            return;
        }
        let Some(verifying) = self.upkeep.verify.take() else { return };
        let Verifying { began, rate, next: Next::Pause(_, mut scrub) } = verifying else { return };
        // A tenth of a second's worth at a time, so that a low rate is no row of bursts.
        let slice = rate.map_or(SCRUB_STEP_BYTES, |rate| (rate / 10).clamp(1, SCRUB_STEP_BYTES));
        let job = Box::new(move || -> JobOutput {
            let before = scrub.report().bytes;
            let done = scrub.step(slice);
            let bytes = scrub.report().bytes - before;
            Box::new(Scrubbed { scrub, done, bytes })
        });
        let job = self.env.jobs.submit(Lane::Maintenance, job);
        self.upkeep.verify = Some(Verifying { began, rate, next: Next::Step(job) });
    }

    /// Takes the completion of a step.
    pub(super) fn upkeep_done(
        &mut self,
        now: Nanos,
        done: Completion,
        out: &mut Vec<Effect>,
    ) -> Option<Completion> {
        if let Some(Checkpointing { stage: Stage::Copying(job), .. }) = &self.upkeep.checkpoint
            && *job == done.id
        {
            let step = done.output.downcast::<CheckpointStep>().expect("a checkpoint's step");
            match *step {
                CheckpointStep::More(work) if self.phase == Phase::Running => {
                    self.submit_checkpoint(now, work);
                }
                CheckpointStep::More(_) => {
                    let message = "the server is shutting down".to_owned();
                    self.checkpoint_failed(now, ErrorCode::ShuttingDown, message, out);
                }
                CheckpointStep::Done(made) => self.checkpoint_done(now, &made, out),
                CheckpointStep::Failed(error) => {
                    let code = code_of(&error);
                    self.checkpoint_failed(now, code, error.to_string(), out);
                }
            }
            return None;
        }
        if let Some(Verifying { next: Next::Step(job), began, rate }) = &self.upkeep.verify
            && *job == done.id
        {
            let (began, rate) = (*began, *rate);
            let scrubbed = done.output.downcast::<Scrubbed>().expect("a check's step");
            let Scrubbed { scrub, done, bytes } = *scrubbed;
            let report = scrub.report().clone();
            let ms = now.since(began) / 1_000_000;
            if done {
                match report.damaged {
                    0 => log::info!("verify: {} bytes in {ms} ms, all well", report.bytes),
                    n => log::error!("verify: {n} files are damaged or cannot be read"),
                }
                self.upkeep.verify = None;
            } else {
                let pause = rate.map_or(0, |rate| bytes.saturating_mul(SECOND_NS) / rate.max(1));
                let next = Next::Pause(now.plus(pause), scrub);
                self.upkeep.verify = Some(Verifying { began, rate, next });
                if pause == 0 {
                    self.go_on_verifying();
                }
            }
            self.upkeep.last_verify = Some(VerifyStatus { done, rate, ms, report });
            return None;
        }
        Some(done)
    }
}

fn code_of(error: &CheckpointError) -> ErrorCode {
    if error.is_disk_full() {
        return ErrorCode::NoSpace;
    }
    match error {
        CheckpointError::Engine(_) => ErrorCode::Internal,
        _ => ErrorCode::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_goes_where_it_can_do_no_harm() {
        let to = |dir: &str| target(dir, Path::new("/data"));
        assert_eq!(to("monday").unwrap(), Path::new("/data/monday"));
        assert_eq!(to("./backups/monday/").unwrap(), Path::new("/data/backups/monday"));
        assert_eq!(to("/backups/monday").unwrap(), Path::new("/backups/monday"));
        for bad in ["", ".", "/", "..", "a/../b", "engine", "engine/x", "/data/raft/x", "LOCK"] {
            to(bad).unwrap_err();
        }
        to("engine2").unwrap();
    }
}

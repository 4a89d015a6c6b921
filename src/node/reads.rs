//! The path of a read: turn → read index → applied that far → memory, or a job on the disk lane → reply.
//!
//! It is the same on every role: a follower's read index is the leader's word, which raft asks for. When raft hears none
//! within an election timeout, the round's reads are refused and may be tried again.
//!
//! One round of read index is in flight at a time; what arrives meanwhile is the next round. A scan goes on in
//! slices, round robin with the other scans and a bounded number a turn, so that a long scan delays nobody. It reads
//! one sequence number from its first slice to its last page. Only [`MAX_RUNNING_SCANS`] scans hold entries or have a
//! job; the others wait for one of them to end.
//! Reserved keys are passed over, whatever the range.
//!
//! A stale read takes the same path without the first two steps: it sees what is applied, and its answer says how old that is
//! ([`freshness`](super::freshness)).

use super::admission::Ticket;
use super::snapshots::WireSnapshots;
use super::state_machine::{DiskRead, Lookup, ReadFault, Slice, SliceRange, Versioned};
use super::{Effect, Node, StateMachine};
use crate::base::batch::{RESERVED_KEY_END, RESERVED_KEY_PREFIX};
use crate::base::trace::Stage;
use crate::base::{LogIndex, Nanos, SequenceNumber};
use crate::env::{Completion, JobId, JobOutput, Lane};
use crate::limits::{
    MAX_MULTI_GET_BYTES, MAX_RUNNING_SCANS, READ_TURN_BYTES, SCAN_SLICE_STEPS, SCAN_TURN_STEPS,
};
use crate::proto::{
    ErrorCode, MultiGetReply, MultiGetRequest, Response, ScanEntry, ScanReply, ScanRequest,
    Staleness,
};
use crate::raft::{self, LogStore, ReadId};
use std::collections::{BTreeMap, VecDeque};

/// What a read wants.
#[derive(Debug)]
pub(super) enum ReadWork {
    Get { key: Box<[u8]>, snapshot: SequenceNumber },
    MultiGet { keys: Vec<Box<[u8]>>, snapshot: SequenceNumber },
    Scan(Box<ScanPlan>),
}

impl ReadWork {
    pub fn multi_get(request: &MultiGetRequest<'_>) -> Self {
        let keys = request.keys().map(Box::from).collect();
        Self::MultiGet { keys, snapshot: request.snapshot }
    }

    pub fn scan(request: &ScanRequest<'_>) -> Self {
        Self::Scan(Box::new(ScanPlan {
            start: request.first_key().to_vec(),
            end: request.end_key(),
            snapshot: request.snapshot,
            limit: request.effective_limit(),
            max_bytes: request.effective_max_bytes(),
            keys_only: request.keys_only,
            reverse: request.reverse,
        }))
    }
}

/// A range of keys: its start, and its end, `None` = past the last key.
type KeyRange<'a> = (&'a [u8], Option<&'a [u8]>);

/// What is left of a scan's page.
#[derive(Debug)]
pub(super) struct ScanPlan {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// 0 until the scan starts, if it reads the present.
    snapshot: SequenceNumber,
    limit: usize,
    max_bytes: usize,
    keys_only: bool,
    reverse: bool,
}

impl ScanPlan {
    /// What is left, without the reserved keys: the part before them and the part behind them.
    fn parts(&self) -> [Option<KeyRange<'_>>; 2] {
        let (start, end) = (self.start.as_slice(), self.end.as_deref());
        let before = end.map_or(RESERVED_KEY_PREFIX, |end| end.min(RESERVED_KEY_PREFIX));
        let behind = start.max(RESERVED_KEY_END);
        [
            (start < before).then_some((start, Some(before))),
            end.is_none_or(|end| behind < end).then_some((behind, end)),
        ]
    }

    /// The range of the next slice: the part of what is left that comes first. An empty one when nothing is left.
    fn bounds(&self) -> (&[u8], Option<&[u8]>) {
        let [before, behind] = self.parts();
        let first = if self.reverse { behind.or(before) } else { before.or(behind) };
        first.unwrap_or((RESERVED_KEY_END, Some(RESERVED_KEY_END)))
    }

    /// Where to go on when everything of [`ScanPlan::bounds`] was looked at: on the other side of the reserved keys, if
    /// something of the range is there.
    fn across_reserved(&self) -> Option<Vec<u8>> {
        let [Some(_), Some(_)] = self.parts() else { return None };
        Some(if self.reverse { RESERVED_KEY_PREFIX } else { RESERVED_KEY_END }.to_vec())
    }

    /// Goes on there.
    fn go_on(&mut self, resume: Vec<u8>) {
        if self.reverse { self.end = Some(resume) } else { self.start = resume }
    }
}

/// A scan that has begun.
#[derive(Debug)]
struct Scan {
    ticket: Ticket,
    plan: Box<ScanPlan>,
    pin: Pin,
    applied: SequenceNumber,
    /// How old the state was, if the client wants to know.
    stale: Option<Staleness>,
    entries: Vec<ScanEntry>,
}

/// Who keeps a scan's snapshot readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pin {
    /// The scan itself.
    Own,
    /// The table of wire snapshots, in which the scan is counted as a user.
    Wire,
    /// Nobody: the client named a sequence number that is readable by chance, and may become too old.
    Nobody,
}

/// A round of read index.
#[derive(Debug)]
struct Round {
    id: ReadId,
    answer: Answer,
    reads: Vec<(Ticket, ReadWork)>,
    /// A turn has served a part of it, and the next one goes on; `reads` is in reverse.
    begun: bool,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Waiting,
    Index(LogIndex),
    NotLeader,
}

/// A read that waits for its job.
#[derive(Debug)]
enum Parked {
    Get { ticket: Ticket, applied: SequenceNumber, stale: Option<Staleness> },
    MultiGet { ticket: Ticket, at: SequenceNumber, stale: Option<Staleness> },
    Scan(Scan),
}

impl Parked {
    const fn ticket(&self) -> &Ticket {
        match self {
            Self::Get { ticket, .. }
            | Self::MultiGet { ticket, .. }
            | Self::Scan(Scan { ticket, .. }) => ticket,
        }
    }
}

/// Reads admitted and not yet answered, and the snapshots held for the next pages.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Since the last round began.
    turn: Vec<(Ticket, ReadWork)>,
    /// Those that wait for nothing.
    stale: VecDeque<(Ticket, ReadWork)>,
    round: Option<Round>,
    rounds: u64,
    /// Begun, without a slice yet: the first of them runs when fewer than [`MAX_RUNNING_SCANS`] do.
    fresh: VecDeque<Scan>,
    /// Running, by turns.
    scans: VecDeque<Scan>,
    parked: BTreeMap<JobId, Parked>,
    /// Scans among them, which are running too.
    parked_scans: usize,
    pub wire: WireSnapshots,
}

impl Reads {
    pub fn add(&mut self, ticket: Ticket, work: ReadWork) {
        self.turn.push((ticket, work));
    }

    pub fn add_stale(&mut self, ticket: Ticket, work: ReadWork) {
        self.stale.push_back((ticket, work));
    }

    /// Raft's answer to a round: the index to wait for, or that this node does not lead.
    pub fn ready(&mut self, id: ReadId, index: Option<LogIndex>) {
        if let Some(round) = self.round.as_mut().filter(|round| round.id == id) {
            round.answer = index.map_or(Answer::NotLeader, Answer::Index);
        }
    }

    /// `waits`: there is nobody to ask for an index now.
    pub fn has_runnable(&self, waits: bool) -> bool {
        let round = self.round.as_ref();
        let begun = round.is_some_and(|round| round.begun);
        begun
            || !self.stale.is_empty()
            || !self.scans.is_empty()
            || (!self.fresh.is_empty() && self.may_run_another())
            || (round.is_none() && !self.turn.is_empty() && !waits)
    }

    fn may_run_another(&self) -> bool {
        self.scans.len() + self.parked_scans < MAX_RUNNING_SCANS
    }

    /// The scan whose turn it is.
    fn next_scan(&mut self) -> Option<Scan> {
        if self.may_run_another() {
            self.scans.extend(self.fresh.pop_front());
        }
        self.scans.pop_front()
    }

    /// Jobs on the disk lane now.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Scans that have begun and are not parked.
    pub fn scans(&self) -> usize {
        self.fresh.len() + self.scans.len()
    }
}

/// The bytes of the value that an effect carries.
fn value_bytes(effect: &Effect) -> usize {
    let Effect::Reply { response, .. } = effect else { return 0 };
    let answer = match response {
        Response::Stale { answer, .. } => answer,
        other => other,
    };
    match answer {
        Response::Value { value, .. } => value.len(),
        Response::Values(values) => values.value_bytes(),
        _ => 0,
    }
}

/// The values of a MULTI_GET; `None`: they do not fit in a reply.
type Values = Option<Vec<Option<Versioned>>>;

/// Values on their way into one reply.
#[derive(Default)]
struct Gathered {
    values: Vec<Option<Versioned>>,
    bytes: usize,
    /// Those that are on the disk, with their places.
    reads: Vec<(usize, DiskRead<Option<Versioned>>)>,
}

impl Gathered {
    fn fits(&mut self, found: &Option<Versioned>) -> bool {
        self.bytes += found.as_ref().map_or(0, |(_, value)| value.len());
        self.bytes <= MAX_MULTI_GET_BYTES
    }

    /// Reads what is on the disk.
    fn finish(mut self) -> Result<Values, ReadFault> {
        for (place, read) in std::mem::take(&mut self.reads) {
            let found = read()?;
            if !self.fits(&found) {
                return Ok(None);
            }
            self.values[place] = found;
        }
        Ok(Some(self.values))
    }
}

impl<L: LogStore, S: StateMachine> Node<L, S> {
    /// Serves what can be served: the round whose index is applied, the next one, and a turn's share of scan slices.
    pub(super) fn serve_reads(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        self.serve_stale(now, out);
        self.finish_round(now, out);
        if self.reads.round.is_none() && !self.reads.turn.is_empty() && !self.reads_wait() {
            self.reads.rounds += 1;
            let id = ReadId(self.reads.rounds);
            let reads = std::mem::take(&mut self.reads.turn);
            self.reads.round = Some(Round { id, answer: Answer::Waiting, reads, begun: false });
            self.step_raft(now, raft::Event::Read(id), out);
            self.finish_round(now, out);
        }
        self.run_scans(now, out);
    }

    /// Serves the reads that wait for nothing, as far as the turn's share of reply bytes goes.
    fn serve_stale(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if self.reads.stale.is_empty() {
            return;
        }
        let staleness = Some(self.staleness(now));
        let (mut bytes, mut counted) = (0, out.len());
        while bytes < READ_TURN_BYTES {
            let Some((ticket, work)) = self.reads.stale.pop_front() else { break };
            self.serve(now, ticket, work, staleness, out);
            bytes += out[counted..].iter().map(value_bytes).sum::<usize>();
            counted = out.len();
        }
    }

    /// Serves a read from what is applied now.
    fn serve(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        work: ReadWork,
        stale: Option<Staleness>,
        out: &mut Vec<Effect>,
    ) {
        if ticket.deadline <= now {
            self.expired_in_queue(now, &ticket, out);
            return self.desk.finish(&ticket);
        }
        match work {
            ReadWork::Get { key, snapshot } => self.get(now, ticket, &key, snapshot, stale, out),
            ReadWork::MultiGet { keys, snapshot } => {
                self.multi_get(now, ticket, &keys, snapshot, stale, out);
            }
            ReadWork::Scan(plan) => self.begin_scan(now, ticket, plan, stale, out),
        }
    }

    /// Serves a decided round, as far as the turn's share of reply bytes goes: a thousand pipelined gets of large
    /// values become many turns, between which the replies leave and connections that take none are closed.
    fn finish_round(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let applied = self.machine.applied().0;
        let decided = |round: &mut Round| match round.answer {
            Answer::Waiting => false,
            Answer::Index(index) => index <= applied || planted!(ReadBeforeApplied),
            Answer::NotLeader => true,
        };
        let Some(mut round) = self.reads.round.take_if(decided) else { return };
        if matches!(round.answer, Answer::NotLeader) && !round.begun && self.reads_wait() {
            round.reads.append(&mut self.reads.turn);
            self.reads.turn = round.reads;
            return;
        }
        if !round.begun {
            round.begun = true;
            round.reads.reverse();
        }
        let (mut bytes, mut counted) = (0, out.len());
        while bytes < READ_TURN_BYTES {
            let Some((ticket, work)) = round.reads.pop() else { break };
            if ticket.deadline <= now {
                self.expired_in_queue(now, &ticket, out);
                self.desk.finish(&ticket);
            } else if matches!(round.answer, Answer::NotLeader) {
                let refused = self.no_leader(ticket.opcode);
                self.end_read(now, &ticket, refused, out);
            } else {
                self.serve(now, ticket, work, None, out);
            }
            bytes += out[counted..].iter().map(value_bytes).sum::<usize>();
            counted = out.len();
        }
        if !round.reads.is_empty() {
            self.reads.round = Some(round);
            return;
        }
        if self.reads.turn.capacity() == 0 {
            self.reads.turn = round.reads;
        }
    }

    fn end_read(&mut self, now: Nanos, ticket: &Ticket, response: Response, out: &mut Vec<Effect>) {
        self.desk.reply(now, ticket, response, out);
        self.desk.finish(ticket);
    }

    fn submit_read<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JobId {
        self.env.jobs.submit(Lane::Read, Box::new(move || -> JobOutput { Box::new(job()) }))
    }

    fn get(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        key: &[u8],
        snapshot: SequenceNumber,
        stale: Option<Staleness>,
        out: &mut Vec<Effect>,
    ) {
        let at = match self.check_snapshot(snapshot) {
            Ok(at) => at,
            Err(response) => return self.end_read(now, &ticket, response, out),
        };
        let applied = at.unwrap_or_else(|| self.machine.last_seq());
        match self.machine.get(key, at) {
            Ok(Lookup::Ready(found)) => {
                self.end_read(now, &ticket, aged(stale, value(found, applied)), out);
            }
            Ok(Lookup::Disk(job)) => {
                let id = self.submit_read(job);
                self.reads.parked.insert(id, Parked::Get { ticket, applied, stale });
            }
            Err(fault) => self.end_read(now, &ticket, failed(&ticket, &fault), out),
        }
    }

    /// All keys at one sequence number: what memory has, and one job for the rest.
    fn multi_get(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        keys: &[Box<[u8]>],
        snapshot: SequenceNumber,
        stale: Option<Staleness>,
        out: &mut Vec<Effect>,
    ) {
        let at = match self.check_snapshot(snapshot) {
            Ok(at) => at.unwrap_or_else(|| self.machine.last_seq()),
            Err(response) => return self.end_read(now, &ticket, response, out),
        };
        let mut gathered = Gathered::default();
        for (place, key) in keys.iter().enumerate() {
            let found = match self.machine.get(key, Some(at)) {
                Ok(Lookup::Ready(found)) => found,
                Ok(Lookup::Disk(read)) => {
                    gathered.reads.push((place, read));
                    None
                }
                Err(fault) => return self.end_read(now, &ticket, failed(&ticket, &fault), out),
            };
            if !gathered.fits(&found) {
                return self.end_read(now, &ticket, too_large(&ticket), out);
            }
            gathered.values.push(found);
        }
        if gathered.reads.is_empty() {
            let answer = Response::Values(MultiGetReply { at, values: gathered.values });
            return self.end_read(now, &ticket, aged(stale, answer), out);
        }
        let id = self.submit_read(move || gathered.finish());
        self.reads.parked.insert(id, Parked::MultiGet { ticket, at, stale });
    }

    /// The sequence number to read at, `None` = now; an error when it cannot be read.
    fn check_snapshot(&self, snapshot: SequenceNumber) -> Result<Option<SequenceNumber>, Response> {
        use crate::proto::Effect as E;
        if snapshot == SequenceNumber::ZERO {
            return Ok(None);
        }
        let (oldest, newest) = (self.machine.oldest_readable_seq(), self.machine.last_seq());
        if snapshot > newest {
            let message = format!(
                "snapshot {snapshot} is in the future: the newest sequence number is {newest}"
            );
            return Err(super::admission::error(ErrorCode::BadRequest, E::None, message));
        }
        if snapshot < oldest {
            let fault = ReadFault::SnapshotTooOld { at: snapshot, oldest };
            return Err(super::admission::error(
                ErrorCode::SnapshotTooOld,
                E::None,
                fault.to_string(),
            ));
        }
        Ok(Some(snapshot))
    }

    fn begin_scan(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        mut plan: Box<ScanPlan>,
        stale: Option<Staleness>,
        out: &mut Vec<Effect>,
    ) {
        let pin = match self.check_snapshot(plan.snapshot) {
            Err(response) => return self.end_read(now, &ticket, response, out),
            Ok(None) => {
                plan.snapshot = self.machine.snapshot();
                Pin::Own
            }
            Ok(Some(seq)) if self.reads.wire.begin_use(seq, now) => Pin::Wire,
            Ok(Some(_)) => Pin::Nobody,
        };
        let applied = self.machine.last_seq();
        let entries = Vec::new();
        self.reads.fresh.push_back(Scan { ticket, plan, pin, applied, stale, entries });
    }

    /// This turn's share of slices, round robin.
    fn run_scans(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let mut steps = 0;
        while steps < SCAN_TURN_STEPS {
            let Some(scan) = self.reads.next_scan() else { return };
            if scan.ticket.deadline <= now || !self.desk.is_open(&scan.ticket) {
                self.expired_in_queue(now, &scan.ticket, out);
                self.end_scan(now, scan, false);
                continue;
            }
            match self.machine.scan(&scan.range()) {
                Ok(Lookup::Ready(slice)) => {
                    // A slice that ended early looked at as many entries as a slice may. Large values count more.
                    let ended_early =
                        slice.resume.is_some() && slice.entries.len() < scan.plan.limit;
                    let seen = if ended_early { SCAN_SLICE_STEPS } else { slice.entries.len() + 1 };
                    steps += seen.max(slice.bytes() / (READ_TURN_BYTES / SCAN_TURN_STEPS));
                    self.add_slice(now, scan, slice, out);
                }
                Ok(Lookup::Disk(job)) => {
                    // It may have copied a slice of the active memtable.
                    steps += SCAN_SLICE_STEPS / 4;
                    let id = self.submit_read(job);
                    self.reads.parked.insert(id, Parked::Scan(scan));
                    self.reads.parked_scans += 1;
                }
                Err(fault) => self.fail_scan(now, scan, &fault, out),
            }
        }
    }

    fn add_slice(&mut self, now: Nanos, mut scan: Scan, slice: Slice, out: &mut Vec<Effect>) {
        let bytes = slice.bytes();
        scan.plan.limit = scan.plan.limit.saturating_sub(slice.entries.len());
        scan.plan.max_bytes = scan.plan.max_bytes.saturating_sub(bytes);
        if scan.entries.is_empty() {
            scan.entries = slice.entries;
        } else {
            scan.entries.extend(slice.entries);
        }
        match slice.resume.or_else(|| scan.plan.across_reserved()) {
            Some(next) if scan.plan.limit > 0 && scan.plan.max_bytes > 0 => {
                scan.plan.go_on(next);
                self.reads.scans.push_back(scan);
            }
            resume => {
                let more = resume.is_some();
                let reply = ScanReply {
                    snapshot: scan.plan.snapshot,
                    applied: scan.applied,
                    keys_only: scan.plan.keys_only,
                    entries: std::mem::take(&mut scan.entries),
                    resume,
                };
                let response = aged(scan.stale, Response::Scan(reply));
                self.desk.reply(now, &scan.ticket, response, out);
                self.end_scan(now, scan, more);
            }
        }
    }

    fn fail_scan(&mut self, now: Nanos, scan: Scan, fault: &ReadFault, out: &mut Vec<Effect>) {
        self.desk.reply(now, &scan.ticket, failed(&scan.ticket, fault), out);
        self.end_scan(now, scan, false);
    }

    /// The scan leaves; when there is `more`, its snapshot stays for the next page.
    fn end_scan(&mut self, now: Nanos, scan: Scan, more: bool) {
        let seq = scan.plan.snapshot;
        let release = match scan.pin {
            Pin::Own if more => self.reads.wire.keep(seq, now),
            Pin::Own => Some(seq),
            Pin::Wire => {
                self.reads.wire.end_use(seq, now);
                None
            }
            Pin::Nobody => None,
        };
        if let Some(seq) = release {
            self.machine.release_snapshot(seq);
        }
        self.desk.finish(&scan.ticket);
    }

    /// A read's job is done.
    pub(super) fn read_done(&mut self, now: Nanos, done: Completion, out: &mut Vec<Effect>) {
        let parked = self.reads.parked.remove(&done.id).expect("every job belongs to somebody");
        self.desk.stages.span(Stage::ReadJob, done.submitted_at, done.finished_at);
        match parked {
            Parked::Get { ticket, applied, stale } => {
                let result = done.output.downcast::<Result<Option<Versioned>, ReadFault>>();
                let response = match *result.expect("a get's output") {
                    Ok(found) => aged(stale, value(found, applied)),
                    Err(fault) => failed(&ticket, &fault),
                };
                self.end_read(now, &ticket, response, out);
            }
            Parked::MultiGet { ticket, at, stale } => {
                let result = done.output.downcast::<Result<Values, ReadFault>>();
                let response = match *result.expect("a multi-get's output") {
                    Ok(Some(values)) => aged(stale, Response::Values(MultiGetReply { at, values })),
                    Ok(None) => too_large(&ticket),
                    Err(fault) => failed(&ticket, &fault),
                };
                self.end_read(now, &ticket, response, out);
            }
            Parked::Scan(scan) => {
                self.reads.parked_scans -= 1;
                match *done.output.downcast::<Result<Slice, ReadFault>>().expect("a scan's output")
                {
                    Ok(slice) => self.add_slice(now, scan, slice, out),
                    Err(fault) => self.fail_scan(now, scan, &fault, out),
                }
            }
        }
    }

    /// Answers the reads whose deadline passed and returns the earliest deadline of the others. Those with a job
    /// leave when it is done, running scans at their next slice.
    pub(super) fn expire_reads(&mut self, now: Nanos, out: &mut Vec<Effect>) -> Nanos {
        let (mut earliest, mut expired) = (Nanos::MAX, Vec::new());
        let mut has_passed = |ticket: &Ticket| {
            let passed = ticket.deadline <= now;
            if passed {
                expired.push(ticket.clone());
            } else {
                earliest = earliest.min(ticket.deadline);
            }
            passed
        };
        let mut gone: Vec<Ticket> = Vec::new();
        let round = self.reads.round.as_mut().map(|round| &mut round.reads);
        for waiting in round.into_iter().chain([&mut self.reads.turn]) {
            let passed = waiting.extract_if(.., |(ticket, _)| has_passed(ticket));
            gone.extend(passed.map(|(ticket, _)| ticket));
        }
        // They leave in the next turn, which comes at once.
        for (ticket, _) in &self.reads.stale {
            has_passed(ticket);
        }
        for scan in self.reads.fresh.iter().chain(&self.reads.scans) {
            has_passed(&scan.ticket);
        }
        for parked in self.reads.parked.values() {
            has_passed(parked.ticket());
        }
        for ticket in &expired {
            self.expired_in_queue(now, ticket, out);
        }
        for ticket in &gone {
            self.desk.finish(ticket);
        }
        earliest
    }
}

impl Scan {
    fn range(&self) -> SliceRange<'_> {
        let plan = &self.plan;
        let (start, end) = plan.bounds();
        SliceRange {
            start,
            end,
            limit: plan.limit,
            max_bytes: plan.max_bytes,
            keys_only: plan.keys_only,
            reverse: plan.reverse,
            at: plan.snapshot,
        }
    }
}

/// The answer to a read, with the age of what it saw if that was asked for.
fn aged(stale: Option<Staleness>, answer: Response) -> Response {
    match stale {
        Some(staleness) => Response::Stale { staleness, answer: Box::new(answer) },
        None => answer,
    }
}

fn value(found: Option<Versioned>, applied: SequenceNumber) -> Response {
    match found {
        Some((seq, value)) => Response::Value { seq, applied, value },
        None => Response::NotFound { applied },
    }
}

fn too_large(ticket: &Ticket) -> Response {
    let message = format!(
        "the values have more than {MAX_MULTI_GET_BYTES} bytes together: ask for fewer keys at once, with a snapshot if they must be of \
         one moment"
    );
    ticket.refusal(ErrorCode::ReplyTooLarge, message)
}

fn failed(ticket: &Ticket, fault: &ReadFault) -> Response {
    let code = match fault {
        ReadFault::SnapshotTooOld { .. } => ErrorCode::SnapshotTooOld,
        ReadFault::Failed(_) => ErrorCode::ReadError,
    };
    ticket.refusal(code, fault.to_string())
}

//! Compaction: tables are merged into the level below, so that a read looks at few tables and space comes back.
//!
//! ```text
//!  Engine::start_compaction ─ policy: pick ─┬─ moves ──────────────────────────────┐
//!                                           └─ Lane::Compact: merge, sync, open ───┴─▶ built ─ the manifest is free?
//!      ─▶ Lane::Manifest: one edit (- inputs, + outputs, oldest readable) ─▶ on the loop: new Version, inputs retired
//!      ─▶ their files are removed when the last reader lets go (`snapshot::Holds`)
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`policy`] | what to compact next: levels, targets, scores, debt |
//! | `job` | the merge |
//! | `pressure` | how much writers are slowed down by what waits to be done |
//! | here | one compaction at a time from pick to install, failures, manual compaction |
//!
//! Invariants:
//! - A crash at any moment leaves the inputs or the outputs: inputs are removed after the edit is durable, and outputs that no
//!   edit names are removed at open.
//! - Installs of flush and compaction never overlap: there is one manifest, and who has it brings it back. An edit that a full
//!   disk kept from becoming durable is tried again, that one and no other, before anything else is.
//! - What is replicated does not change: sequence numbers stay, and only `oldest_readable_seq`, which is each replica's own, moves.
//! - An input that cannot be read is left where it is, with everything that must not pass it; it is named in the log and in the
//!   stats, and the rest goes on. A read error is tried again after a minute, damage after the next open.
//! - Where the disk has no room for a compaction, a smaller one is looked for ([`policy`]); when there is none, it waits like after a full disk.
//! - A full disk: outputs are removed, and it is tried again, after 1 s, 2 s, … 64 s. Any other failed write and any failed sync of an
//!   output or of the manifest is final.
//! - The install of a snapshot of another replica replaces all tables: a compaction that runs then is cancelled, and what it
//!   built is not installed.

mod job;
pub mod policy;
mod pressure;

pub(in crate::engine) use job::{CompactJob, Compacted, Fault, Progress};
pub use policy::{CompactionOptions, CompactionPolicy, Leveled, Pick, Reason, Shape};
pub use pressure::{MAX_WRITE_STALL_NS, Pressure};

use super::edit::VersionEdit;
use super::error::EngineError;
use super::manifest::parse_table_file_name;
use super::stats::Work;
use super::version::{LiveTable, Version};
use super::{Change, Engine, EngineOutput, Flush, JobOutcome, RETRY_NS};
use crate::base::{LogIndex, Nanos, SequenceNumber};
use crate::env::{JobId, Lane};
use policy::{BOTTOM, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long a table that could not be read for another reason than damage is left alone.
const AVOID_NS: u64 = 60_000_000_000;
/// After a full disk the time to the next try doubles up to this many times.
const RETRY_DOUBLINGS: u32 = 6;

/// A table that compaction leaves alone.
#[derive(Clone, Debug)]
pub struct Avoided {
    /// Until when; `None` = until the next open.
    until: Option<Nanos>,
    /// Why, for people.
    pub why: String,
}

/// Where the one compaction at a time is.
pub(super) enum Stage {
    Idle,
    /// Its job runs. `wanted` is cleared when the tables were replaced meanwhile.
    Running {
        job: JobId,
        pick: Box<Pick>,
        horizon: SequenceNumber,
        progress: Arc<Progress>,
        wanted: bool,
    },
    /// Its tables are there; somebody else has the manifest.
    Built(Box<Ready>),
    /// The manifest is being written.
    Installing {
        job: JobId,
        ready: Box<Ready>,
        change: Change,
    },
    /// The disk was full.
    Waiting {
        until: Nanos,
        then: Option<(Box<Ready>, Change)>,
    },
    /// A sync or write failed: the engine compacts no more.
    Failed,
}

/// A compaction that has only to be installed.
pub(super) struct Ready {
    pick: Pick,
    /// What comes instead of the inputs.
    tables: Vec<Arc<LiveTable>>,
    horizon: SequenceNumber,
    hidden: u64,
    spent: u64,
    /// Nanoseconds that the job took.
    ns: u64,
}

/// A compaction that somebody asked for.
struct Manual {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// What is applied up to here must be flushed first.
    after: LogIndex,
    /// Tables from here on are younger than the request; known once the flush is done.
    first_number: Option<u64>,
    level: u8,
    /// Keys of `level` before this one are done.
    cursor: Vec<u8>,
}

/// See the module.
pub(super) struct Compaction {
    policy: Box<dyn CompactionPolicy>,
    pub stage: Stage,
    pub shape: Shape,
    pub avoided: BTreeMap<u64, Avoided>,
    manual: Option<Manual>,
    /// There was nothing to pick, and nothing has changed since.
    settled: bool,
    /// Full disks in a row.
    fulls: u32,
    /// What the next one may write, after the disk had no room for the one before.
    room: Option<u64>,
    /// Tables of level 0 and debt that were there at the start, beyond what would be felt: writers are not held up for them.
    old: (usize, u64),
}

impl Compaction {
    pub fn new(policy: Box<dyn CompactionPolicy>) -> Self {
        Self {
            policy,
            stage: Stage::Idle,
            shape: Shape::default(),
            avoided: BTreeMap::new(),
            manual: None,
            settled: false,
            fulls: 0,
            room: None,
            old: (0, 0),
        }
    }

    /// What there is of tables in level 0 and debt, beyond what would be felt.
    fn felt(&self, options: &CompactionOptions) -> (usize, u64) {
        pressure::felt(&self.shape, options)
    }

    /// Whether an edit of a compaction met a full disk: no other may be written before it.
    pub const fn holds_manifest(&self) -> bool {
        matches!(self.stage, Stage::Waiting { then: Some(_), .. })
    }

    /// For the stats.
    pub const fn state_name(&self) -> &'static str {
        match self.stage {
            Stage::Idle => "idle",
            Stage::Running { .. } => "running",
            Stage::Built(_) => "waiting for the manifest",
            Stage::Installing { .. } => "installing",
            Stage::Waiting { .. } => "waiting for space",
            Stage::Failed => "failed",
        }
    }

    /// Whether it works or would find something to do.
    const fn is_busy(&self) -> bool {
        match self.stage {
            Stage::Idle => !self.settled,
            Stage::Running { .. } | Stage::Built(_) | Stage::Installing { .. } => true,
            Stage::Waiting { .. } | Stage::Failed => false,
        }
    }

    pub const fn is_manual(&self) -> bool {
        self.manual.is_some()
    }
}

impl Engine {
    /// Makes `version` the present one.
    pub(super) fn put_version(&mut self, version: Version) {
        self.version = Arc::new(version);
        self.compaction.shape =
            self.compaction.policy.shape(&self.version, &self.options.compaction);
        self.compaction.settled = false;
        let felt = self.compaction.felt(&self.options.compaction);
        let old = &mut self.compaction.old;
        *old = (old.0.min(felt.0), old.1.min(felt.1));
    }

    /// What waits to be compacted now was there before this process, or came with a snapshot: writers are not held up for it.
    pub(super) fn forgive_debt(&mut self) {
        self.compaction.old = self.compaction.felt(&self.options.compaction);
    }

    /// Something that kept versions alive is gone.
    pub(super) const fn look_for_compactions(&mut self) {
        self.compaction.settled = false;
    }

    /// Whether a job of a compaction is under way.
    #[must_use]
    pub const fn is_compacting(&self) -> bool {
        matches!(self.compaction.stage, Stage::Running { .. } | Stage::Installing { .. })
    }

    /// How much writers should be slowed down.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let active = self.active.memory_bytes() as f64 / self.options.memtable_bytes.max(1) as f64;
        let memtables = self.frozen.len() as f64 + active.min(1.0);
        // What cannot be compacted must not hold up writers for ever.
        let mut shape = self.compaction.shape;
        shape.levels[0].tables -= self.compaction.old.0;
        shape.debt -= self.compaction.old.1;
        let shape = self.compaction.is_busy().then_some(&shape);
        Pressure::of(memtables, shape, &self.options.compaction)
    }

    /// Starts the next compaction, if there is something to compact and none is under way. Returns whether one was started.
    pub fn start_compaction(&mut self) -> bool {
        let open = matches!(self.compaction.stage, Stage::Idle)
            && self.incoming.is_none()
            && !matches!(self.flush, Flush::Failed)
            && self.manifest.as_ref().is_none_or(|manifest| manifest.number().is_some());
        if !open || (self.compaction.settled && self.compaction.manual.is_none()) {
            return false;
        }
        let horizon = self.compaction_horizon();
        let Some(pick) = self.pick(horizon) else {
            if self.compaction.room.take().is_some() {
                self.wait_for_room(self.env.clock.now());
            }
            return false;
        };
        if pick.moves {
            let tables = pick.upper.iter().map(|t| Arc::new(t.moved_to(pick.output))).collect();
            let ready = Ready { pick, tables, horizon, hidden: 0, spent: 0, ns: 0 };
            self.compaction.stage = Stage::Built(Box::new(ready));
            self.go_on();
            return true;
        }
        let table_bytes = self.options.compaction.table_bytes.max(1);
        let most_overlap = match self.compaction.room {
            Some(room) => (room / 4).max(1),
            None => policy::MAX_GRANDPARENT_TABLES * table_bytes,
        };
        let spare_bytes = self.spare_bytes();
        // More than come about when outputs end at the borders of grandparents as well.
        let most = 16 + 4 * (pick.bytes() / table_bytes + pick.inputs().count() as u64);
        let numbers = self.next_file..self.next_file + most;
        self.next_file = numbers.end;
        let progress = Arc::<Progress>::default();
        let work = CompactJob {
            disk: Arc::clone(&self.env.disk),
            tables: Arc::clone(&self.tables),
            dir: self.options.dir.clone(),
            build: self.options.build_options(),
            pick: pick.clone(),
            version: Arc::clone(&self.version),
            horizon,
            deletes: Arc::clone(&self.range_deletes),
            numbers,
            table_bytes,
            spare_bytes,
            most_overlap,
            progress: Arc::clone(&progress),
        };
        let job = self.submit(Lane::Compact, move || EngineOutput::Compacted(work.run()));
        let pick = Box::new(pick);
        self.compaction.stage = Stage::Running { job, pick, horizon, progress, wanted: true };
        true
    }

    /// What is hidden at this sequence number no reader can want. Tables hold nothing above the durable last one.
    fn compaction_horizon(&self) -> SequenceNumber {
        let last = self.durable.last_seq;
        if planted!(CompactionIgnoresPins) {
            return last;
        }
        self.oldest_pin().map_or(last, |pin| pin.min(last))
    }

    /// What must stay free beside what a compaction writes: less when it is short.
    fn spare_bytes(&self) -> u64 {
        let table_bytes = self.options.compaction.table_bytes.max(1);
        if self.compaction.room.is_some() { table_bytes / 16 } else { table_bytes }
    }

    /// There is no room on the disk for any compaction.
    fn wait_for_room(&mut self, now: Nanos) {
        let wait = RETRY_NS << self.compaction.fulls.min(RETRY_DOUBLINGS);
        self.compaction.fulls += 1;
        log::warn!(
            "compaction: the disk has no room for any that would help; next try in {} s",
            wait / RETRY_NS
        );
        self.compaction.stage = Stage::Waiting { until: now.plus(wait), then: None };
    }

    fn pick(&mut self, horizon: SequenceNumber) -> Option<Pick> {
        // What was asked for waits until there is room for it.
        if self.compaction.room.is_none()
            && let Some(pick) = self.pick_manual(horizon)
        {
            return Some(pick);
        }
        if !self.options.compaction.automatic {
            self.compaction.settled = true;
            return None;
        }
        let pick = self.compaction.policy.pick(&self.view(horizon));
        self.compaction.settled = pick.is_none();
        pick
    }

    pub(super) fn view(&self, horizon: SequenceNumber) -> View<'_> {
        View {
            version: &self.version,
            shape: &self.compaction.shape,
            options: &self.options.compaction,
            horizon,
            last_seq: self.durable.last_seq,
            range_deletes: &self.durable.range_deletes,
            avoided: &self.compaction.avoided,
            room: self.compaction.room,
        }
    }

    /// Asks for the compaction of what is applied now in `start..end` (`None` = to the last key), down to the bottom, where
    /// it is written anew. It begins when that is flushed (the owner sees to it); [`Engine::is_compacting_range`] says when it is done. One that
    /// is asked for while another runs is joined to it: both ranges, from the beginning.
    pub fn compact(&mut self, start: &[u8], end: Option<&[u8]>) {
        self.freeze();
        let (mut start, mut end) = (start.to_vec(), end.map(<[u8]>::to_vec));
        if let Some(other) = self.compaction.manual.take() {
            start = start.min(other.start);
            end = end.zip(other.end).map(|(a, b)| a.max(b));
        }
        self.compaction.manual = Some(Manual {
            cursor: start.clone(),
            start,
            end,
            after: self.applied.0,
            first_number: None,
            level: 0,
        });
    }

    /// Whether a compaction that was asked for is not done.
    #[must_use]
    pub const fn is_compacting_range(&self) -> bool {
        self.compaction.is_manual()
    }

    /// Why compactions wait, if they do: the disk is full.
    #[must_use]
    pub const fn compaction_waits(&self) -> bool {
        matches!(self.compaction.stage, Stage::Waiting { .. } | Stage::Failed)
    }

    /// The next step of the manual compaction. Level by level: what is in the range goes down; at the last level that has
    /// anything, what was there before is written anew.
    fn pick_manual(&mut self, horizon: SequenceNumber) -> Option<Pick> {
        let mut manual = self.compaction.manual.take()?;
        if self.durable.applied.0 < manual.after {
            self.compaction.manual = Some(manual);
            return None;
        }
        let first_number = *manual.first_number.get_or_insert(self.next_file);
        let view = self.view(horizon);
        let bottom = (1..=BOTTOM).rev().find(|&l| !view.version.level(l).is_empty());
        loop {
            let level = manual.level;
            if level == 0 {
                let old = |t: &Arc<LiveTable>| {
                    t.meta.number < first_number
                        && t.meta.overlaps(&manual.start, manual.end.as_deref())
                };
                let pick = view
                    .version
                    .level(0)
                    .iter()
                    .any(old)
                    .then(|| view.level_0(Reason::Manual, true));
                if let Some(pick) = pick.flatten()
                    && pick.upper.iter().any(old)
                {
                    self.compaction.manual = Some(manual);
                    return Some(pick);
                }
                manual.level = 1;
                continue;
            }
            if bottom.is_none_or(|bottom| level > bottom) {
                log::info!("compaction: the range that was asked for is done");
                return None;
            }
            let range = view.version.overlapping(level, &manual.cursor, manual.end.as_deref());
            let Some(at) = range.clone().next() else {
                manual.level += 1;
                manual.cursor.clone_from(&manual.start);
                continue;
            };
            let meta = &view.version.level(level)[at].meta;
            manual.cursor.clone_from(&meta.largest_key);
            manual.cursor.push(0);
            if view.avoided.contains_key(&meta.number) {
                continue;
            }
            let pick = if Some(level) == bottom {
                (meta.number < first_number).then(|| view.rewrite(level, at, Reason::Manual))
            } else {
                view.can_go_down(level, at).then(|| view.down(level, at, Reason::Manual))
            };
            if let Some(pick) = pick {
                if let Some(last) = pick.upper.last() {
                    manual.cursor.clone_from(&last.meta.largest_key);
                    manual.cursor.push(0);
                }
                self.compaction.manual = Some(manual);
                return Some(pick);
            }
        }
    }

    /// Nobody wants what the running compaction makes. It ends soon, and leaves nothing.
    pub fn cancel_compaction(&mut self) {
        if let Stage::Running { progress, .. } = &self.compaction.stage {
            progress.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Takes a finished step of a compaction; gives it back when it is another engine's.
    pub(super) fn compaction_step(
        &mut self,
        id: JobId,
        output: EngineOutput,
        (started_at, finished_at): (Nanos, Nanos),
    ) -> Result<Result<JobOutcome, EngineOutput>, EngineError> {
        match (output, std::mem::replace(&mut self.compaction.stage, Stage::Failed)) {
            (
                EngineOutput::Compacted(result),
                Stage::Running { job, pick, horizon, wanted, .. },
            ) if job == id => {
                let ns = finished_at.since(started_at);
                self.compacted(result, *pick, horizon, wanted, (ns, finished_at))?;
                Ok(Ok(JobOutcome::Nothing))
            }
            (EngineOutput::Installed(done), Stage::Installing { job, ready, change })
                if job == id =>
            {
                let super::Installed { manifest, result } = *done;
                self.manifest = Some(manifest);
                self.compaction_installed(ready, change, result, finished_at)?;
                Ok(Ok(JobOutcome::Nothing))
            }
            (output, stage) => {
                self.compaction.stage = stage;
                Ok(Err(output))
            }
        }
    }

    fn compacted(
        &mut self,
        result: Result<Compacted, Fault>,
        pick: Pick,
        horizon: SequenceNumber,
        wanted: bool,
        (ns, now): (u64, Nanos),
    ) -> Result<(), EngineError> {
        self.compaction.stage = Stage::Idle;
        match result {
            Ok(Compacted { tables, .. }) if !wanted => {
                self.retire(tables);
                Ok(())
            }
            Ok(Compacted { tables, hidden, spent }) => {
                self.compaction.fulls = 0;
                self.compaction.room = None;
                let ready = Ready { pick, tables, horizon, hidden, spent, ns };
                self.compaction.stage = Stage::Built(Box::new(ready));
                Ok(())
            }
            Err(Fault::Cancelled) => Ok(()),
            Err(Fault::Input(e)) if !e.is_simulated_crash() => {
                self.avoid(&pick, &e, now);
                Ok(())
            }
            Err(Fault::NoRoom { needed, free }) => {
                if pick.level > 0
                    && let Some(manual) = &mut self.compaction.manual
                {
                    // It was not done.
                    let first = pick.upper.iter().map(|t| &t.meta.smallest_key).min();
                    manual.cursor.clone_from(first.expect("a pick has tables"));
                    manual.cursor = std::mem::take(&mut manual.cursor).max(manual.start.clone());
                }
                if self.compaction.room.take().is_some() {
                    // The disk filled up since.
                    self.wait_for_room(now);
                    return Ok(());
                }
                log::info!(
                    "compaction: {needed} bytes of tables may be written and {free} are free: a smaller one is looked for"
                );
                let spare = self.options.compaction.table_bytes / 16;
                self.compaction.room = Some(free.saturating_sub(spare));
                self.compaction.settled = false;
                Ok(())
            }
            Err(Fault::Output(e)) if e.is_disk_full() => {
                let wait = RETRY_NS << self.compaction.fulls.min(RETRY_DOUBLINGS);
                self.compaction.fulls += 1;
                log::warn!(
                    "compaction: {e}; nothing is lost, what was written is removed, next try in {} s",
                    wait / RETRY_NS
                );
                let until = now.plus(wait);
                self.compaction.stage = Stage::Waiting { until, then: None };
                Ok(())
            }
            Err(Fault::Input(e) | Fault::Output(e)) => {
                self.compaction.stage = Stage::Failed;
                Err(e)
            }
        }
    }

    /// An input cannot be read: it stays where it is.
    fn avoid(&mut self, pick: &Pick, error: &EngineError, now: Nanos) {
        let until = (!error.is_corruption()).then(|| now.plus(AVOID_NS));
        let named =
            error.path().and_then(|path| parse_table_file_name(path.file_name()?.to_str()?));
        let all = pick.inputs().map(|t| t.meta.number);
        let all: Vec<u64> = all.collect();
        let numbers = match named {
            Some(number) if all.contains(&number) => vec![number],
            // The inputs contradict each other.
            _ => all,
        };
        log::error!(
            "compaction of level {} into level {}: {error}; nothing was changed, and {} left alone {}; verify the database, \
             and restore the table from a replica or a checkpoint",
            pick.level,
            pick.output,
            if numbers.len() == 1 { "the table is" } else { "its tables are" },
            if until.is_some() { "for a minute" } else { "until the next start" },
        );
        for number in numbers {
            self.compaction.avoided.insert(number, Avoided { until, why: error.to_string() });
        }
        self.compaction.settled = false;
    }

    /// Submits the edit of a compaction that is built, if nobody has the manifest.
    pub(super) fn install_compaction(&mut self) {
        if !self.manifest_is_free() || self.incoming.is_some() {
            return;
        }
        let ready = match std::mem::replace(&mut self.compaction.stage, Stage::Idle) {
            Stage::Built(ready) => ready,
            stage => {
                self.compaction.stage = stage;
                return;
            }
        };
        let mut edit = VersionEdit {
            added: ready.tables.iter().map(|t| t.meta.clone()).collect(),
            removed: ready.pick.inputs().map(|t| (t.meta.level, t.meta.number)).collect(),
            ..VersionEdit::default()
        };
        let raise = !planted!(OldestReadableNotRaised);
        if raise && ready.hidden > 0 && ready.horizon > self.durable.oldest_readable {
            edit.oldest_readable = Some(ready.horizon);
        }
        match self.try_change_of(edit) {
            Ok(change) => self.submit_compaction(ready, change),
            Err(why) => {
                // A mistake of ours or a level that is not what it claims to be: nothing is worth a wrong tree.
                log::error!(
                    "compaction: not installed: {why}; its tables are left alone until the next start"
                );
                for table in ready.pick.inputs() {
                    let avoided = Avoided { until: None, why: why.clone() };
                    self.compaction.avoided.insert(table.meta.number, avoided);
                }
                if !ready.pick.moves {
                    self.retire(ready.tables);
                }
            }
        }
    }

    fn submit_compaction(&mut self, ready: Box<Ready>, change: Change) {
        let job = self.submit_change(&change);
        self.compaction.stage = Stage::Installing { job, ready, change };
    }

    fn compaction_installed(
        &mut self,
        ready: Box<Ready>,
        change: Change,
        result: Result<(), EngineError>,
        now: Nanos,
    ) -> Result<(), EngineError> {
        match result {
            Ok(()) => {}
            Err(e) if e.is_disk_full() => {
                log::warn!("compaction: {e}; the manifest is written again in 1 s");
                self.read_only = Some(format!("the disk is full: {e}"));
                let until = now.plus(RETRY_NS);
                self.compaction.stage = Stage::Waiting { until, then: Some((ready, change)) };
                return Ok(());
            }
            Err(e) => {
                self.compaction.stage = Stage::Failed;
                return Err(e);
            }
        }
        let Change { edit, state, .. } = change;
        self.durable = state;
        self.range_deletes_settled();
        self.compaction.stage = Stage::Idle;
        if !matches!(self.flush, Flush::Waiting { .. }) {
            self.read_only = None;
        }
        let Ready { pick, tables, hidden, spent, ns, .. } = *ready;
        let written = if pick.moves { 0 } else { tables.iter().map(|t| t.meta.bytes).sum() };
        let work = Work {
            reason: Some(pick.reason),
            moved: pick.moves,
            level: pick.level,
            output: pick.output,
            inputs: pick.inputs().count() as u64,
            outputs: tables.len() as u64,
            read_bytes: if pick.moves { 0 } else { pick.bytes() },
            moved_bytes: if pick.moves { pick.bytes() } else { 0 },
            written_bytes: written,
            versions_dropped: hidden,
            tombstones_dropped: spent,
            ms: ns / 1_000_000,
        };
        self.counters.note(work);
        self.put_version(self.version.with(&edit.removed, tables));
        if !pick.moves {
            self.retire(pick.upper.into_iter().chain(pick.lower));
        }
        Ok(())
    }

    /// Goes on when time has passed. See [`Engine::tick`].
    pub(super) fn tick_compaction(&mut self, now: Nanos) {
        let expired = |_: &u64, avoided: &mut Avoided| avoided.until.is_some_and(|at| at <= now);
        if self.compaction.avoided.extract_if(.., expired).count() > 0 {
            self.compaction.settled = false;
        }
        match &self.compaction.stage {
            Stage::Waiting { until, .. } if *until <= now => self.retry_compaction(),
            _ => {}
        }
    }

    /// Tries again at once what a full disk stopped.
    pub(super) fn retry_compaction(&mut self) {
        if self.incoming.is_some() {
            return;
        }
        match std::mem::replace(&mut self.compaction.stage, Stage::Idle) {
            Stage::Waiting { then: Some((ready, mut change)), .. } => {
                // A new number: a file of the old one may have been left behind.
                self.renumber(&mut change);
                self.submit_compaction(ready, change);
            }
            Stage::Waiting { then: None, .. } => self.compaction.settled = false,
            stage => self.compaction.stage = stage,
        }
    }

    /// When a compaction that waits is tried again.
    pub(super) const fn compaction_wakeup(&self) -> Option<Nanos> {
        match &self.compaction.stage {
            Stage::Waiting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// All tables were replaced by those of another replica: what was made of the old ones counts for nothing.
    pub(super) fn forget_compaction(&mut self) {
        self.forgive_debt();
        self.compaction.manual = None;
        self.compaction.avoided.clear();
        match std::mem::replace(&mut self.compaction.stage, Stage::Idle) {
            Stage::Running { job, pick, horizon, progress, .. } => {
                progress.cancelled.store(true, Ordering::Relaxed);
                self.compaction.stage =
                    Stage::Running { job, pick, horizon, progress, wanted: false };
            }
            Stage::Built(ready) | Stage::Waiting { then: Some((ready, _)), .. } => {
                if !ready.pick.moves {
                    self.retire(ready.tables);
                }
            }
            Stage::Failed => self.compaction.stage = Stage::Failed,
            Stage::Idle | Stage::Installing { .. } | Stage::Waiting { then: None, .. } => {}
        }
    }
}

/// For the stats: what runs now.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct RunningCompaction {
    /// Why.
    pub reason: Option<Reason>,
    /// From this level …
    pub level: u8,
    /// … into this one.
    pub output: u8,
    /// Input tables.
    pub inputs: u64,
    /// Their bytes.
    pub input_bytes: u64,
    /// Key and value bytes that are merged.
    pub merged_bytes: u64,
}

impl Compaction {
    /// What runs now.
    pub fn running(&self) -> Option<RunningCompaction> {
        let Stage::Running { pick, progress, .. } = &self.stage else { return None };
        Some(RunningCompaction {
            reason: Some(pick.reason),
            level: pick.level,
            output: pick.output,
            inputs: pick.inputs().count() as u64,
            input_bytes: pick.bytes(),
            merged_bytes: progress.merged_bytes.load(Ordering::Relaxed),
        })
    }
}

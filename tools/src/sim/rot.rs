//! Bits that flip on the medium, and nodes that are built again.
//!
//! A bit may flip anywhere in a table, a manifest, and a log segment that newer ones continue. In the two newest segments
//! of the log it flips only where opening must notice it: below a watermark that is itself durable, since a later group
//! names it. What is behind cannot be told from a torn write (design.md 6).
//!
//! ```text
//!  newest segment:  header ▒ group ▒▒▒▒▒▒▒▒▒▒ group ▒▒▒▒▒▒▒▒▒▒ group ▒▒▒▒▒
//!                          └─ a bit may flip ─┤ says: durable  │ says: durable
//!                                             │ to its start ◀─┘ to its start: the group before stays, too
//! ```
//!
//! A node that refuses to open, and some whose operator wants it so, gives its data up with the real
//! [`rejoin`](fn@beachdb::node::rejoin), which may crash on the way; the others get an empty disk.

use super::hooks::{StopKind, Verdict, Violation};
use super::slot::{CLUSTER, Health, Slot, new_disk};
use super::strike::Undo;
use super::world::{What, World};
use beachdb::base::Nanos;
use beachdb::env::sim::{CrashKind, SimDisk, SimRandom};
use beachdb::env::{Disk, OpenMode, Random};
use beachdb::node::{RejoinError, Stated, rejoin};
use beachdb::wal::segment::{SegmentReader, scan};
use beachdb::wal::{LogKind, LogPos, RecordKind, SEGMENT_HEADER_BYTES};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Marks of what has rotted: a class of faults that finds no file is none.
pub const ROTTEN: [&str; 4] = [
    "bit rot in the log",
    "bit rot in a manifest",
    "bit rot in a table",
    "bit rot in one of the two newest segments",
];
/// The mark of a directory whose data was moved aside.
pub const REJOINED: &str = "rejoined with its data moved aside";
/// The mark of a crash during that.
pub const REJOIN_CRASHED: &str = "crashed while rejoining";
/// Segments at the end of the log in which not every bit may flip.
const NEWEST_SEGMENTS: usize = 2;

/// Where a bit may flip, and what that is called.
#[derive(Clone, Debug)]
struct Target {
    path: PathBuf,
    bytes: Range<u64>,
    mark: &'static str,
}

/// The bytes of a segment at the end of the log that are durable for certain, and that opening must miss.
fn proven(disk: &SimDisk, path: &Path) -> Option<Range<u64>> {
    // To look does not count as an operation, and meets no planned failure.
    let copy = disk.fork(0);
    copy.clear_faults();
    let mut reader =
        SegmentReader::open(copy.open(path, OpenMode::Read).ok()?, Some(LogKind::RaftLog)).ok()?;
    let (id, born) = (reader.header().id, reader.header().born_durable_to);
    let mut groups: Vec<(u64, LogPos)> = Vec::new();
    scan(&mut reader, &mut |record| {
        if record.kind == RecordKind::Group && LogPos(record.aux).segment() == id {
            groups.push((record.pos.offset(), LogPos(record.aux)));
        }
        Ok(())
    })
    .ok()?;
    let durable_to = groups.iter().map(|(_, to)| to.offset()).max()?.max(born);
    let named = groups.iter().filter(|(at, _)| *at < durable_to).map(|(_, to)| to.offset()).max();
    let bytes = SEGMENT_HEADER_BYTES as u64..named.unwrap_or(0).max(born);
    (!bytes.is_empty()).then_some(bytes)
}

/// Where a bit may flip, of the `kind`-th kind of file.
fn targets(disk: &SimDisk, dir: &Path, kind: u64) -> Vec<Target> {
    let files = |name: &str, extension: &str, mark| -> Vec<Target> {
        let path = dir.join(name);
        let entries = disk.list(&path).unwrap_or_default();
        let files = entries.into_iter().filter(|e| !e.is_dir && e.len > 0);
        let all = files.map(|e| Target { path: path.join(e.name), bytes: 0..e.len, mark });
        all.filter(|t| t.path.extension().is_some_and(|e| e == extension)).collect()
    };
    let log = || {
        // Segments are named by rising numbers; spares and the reserve have other names.
        let mut log = files("raft", LogKind::RaftLog.extension(), ROTTEN[0]);
        let newest = log.split_off(log.len().saturating_sub(NEWEST_SEGMENTS));
        let proven =
            |t: Target| proven(disk, &t.path).map(|bytes| Target { bytes, mark: ROTTEN[3], ..t });
        log.extend(newest.into_iter().filter_map(proven));
        log
    };
    let tables = || files("engine", "sst", ROTTEN[2]);
    let manifests = || files("engine", LogKind::Manifest.extension(), ROTTEN[1]);
    match kind {
        0 => log(),
        1 => tables(),
        2 => manifests(),
        _ => [tables(), manifests(), log()].concat(),
    }
}

impl World {
    pub(super) fn rot(&mut self, slot: usize, kind: u64, at: u64, repair_ms: u64) {
        let core = &mut self.core;
        // Before there is a cluster nobody could take it in again after `rejoin`.
        if !core.established || !core.may_lose(slot) || !core.slots[slot].is_up() {
            return;
        }
        let s = &mut core.slots[slot];
        let targets = targets(&s.disk, &s.dir, kind);
        if targets.is_empty() {
            return;
        }
        let Target { path, bytes, mark } = &targets[(at % targets.len() as u64) as usize];
        let offset = bytes.start + (at / 7) % (bytes.end - bytes.start);
        s.disk.flip(path, offset, 1 << (at % 8));
        s.health = Health::Rotten;
        *core.struck.entry(mark).or_default() += 1;
        let incarnation = core.slots[slot].replica.incarnation;
        core.note(format_args!("n{} rots: {} at {offset}", slot + 1, path.display()));
        let repair = Nanos::from_millis(repair_ms).0;
        let restart = core.random.below(repair + 1);
        core.after(restart, What::Undo(Undo::Rot { slot, incarnation }));
        core.after(repair, What::Undo(Undo::Repair { slot, incarnation }));
    }

    /// What was on this slot's disk is given up (with `aside`: moved aside by `rejoin`); another incarnation begins after
    /// `down_ms`, and the operator takes it in.
    pub(super) fn rebuild(&mut self, slot: usize, down_ms: u64, aside: bool) -> Verdict {
        if self.core.slots[slot].is_up() {
            self.stop(slot, StopKind::Wiped, CrashKind::PowerLoss, down_ms)?;
        } else {
            let life = self.core.slots[slot].life;
            self.core.after(Nanos::from_millis(down_ms).0, What::Start { slot, life });
        }
        let mut random = SimRandom::new(self.core.random.next_u64());
        if aside {
            return self.move_aside(slot, &mut random);
        }
        let s = &mut self.core.slots[slot];
        s.replica.incarnation += 1;
        s.disk = new_disk(random.next_u64());
        s.returns();
        if !self.core.established {
            // There is no cluster yet, as far as anybody knows: the operator starts it with the list that it had.
            s.joins = false;
            self.core.lost_early = true;
        }
        Ok(())
    }

    /// The operator runs `beachd rejoin` on the slot's disk, again and again until it is through, and throws the old data
    /// away.
    fn move_aside(&mut self, slot: usize, random: &mut SimRandom) -> Verdict {
        let core = &mut self.core;
        let s = &mut core.slots[slot];
        s.disk.clear_faults();
        s.disk.set_capacity(None);
        s.disk.restart();
        if random.chance(1, 3) {
            s.disk.crash_at(s.disk.op_count() + random.below(40));
        }
        let mut incarnation = s.replica.incarnation;
        let stated = Stated { cluster_id: Some(CLUSTER.to_owned()), node_id: Some(s.replica.node) };
        let (rejoined, crashed) = loop {
            incarnation += 1;
            let rejoined = rejoin(&s.disk, &s.dir, incarnation, &stated);
            if !s.disk.is_down() {
                break (rejoined, incarnation > s.replica.incarnation + 1);
            }
            s.disk.crash(if random.chance(2, 3) {
                CrashKind::PowerLoss
            } else {
                CrashKind::Process
            });
            s.disk.restart();
        };
        let rejoined = match rejoined {
            Ok(rejoined) => rejoined,
            Err(RejoinError::NoData { .. }) => {
                // Its first start was cut short: it begins again.
                s.replica.incarnation = incarnation;
                s.returns();
                return Ok(());
            }
            Err(error) => {
                let what = format!("node {} cannot rejoin: {error}", slot + 1);
                return Err(Violation::new("rejoin-refused", what));
            }
        };
        if random.chance(1, 2) {
            // What it said is done is durable.
            s.disk.crash(CrashKind::PowerLoss);
            s.disk.restart();
        }
        s.replica.incarnation = rejoined.identity.incarnation;
        s.returns();
        if let Some(moved) = &rejoined.moved_to {
            throw_away(&s.disk, moved);
        }
        *core.struck.entry(REJOINED).or_default() += 1;
        *core.struck.entry(REJOIN_CRASHED).or_default() += u64::from(crashed);
        let incarnation = rejoined.identity.incarnation;
        core.note(format_args!("n{} rejoins as incarnation {incarnation}", slot + 1));
        Ok(())
    }
}

impl Slot {
    /// Another incarnation, on its way back.
    fn returns(&mut self) {
        self.health = Health::Returning;
        self.joins = true;
        self.recovered = None;
        self.excused = false;
        self.cramped = false;
        self.crash_on_start = None;
    }
}

/// Removes every file below `dir`, or as many as the disk lets go.
fn throw_away(disk: &SimDisk, dir: &Path) {
    for entry in disk.list(dir).unwrap_or_default() {
        let path = dir.join(entry.name);
        if entry.is_dir {
            throw_away(disk, &path);
        } else if disk.remove(&path).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::shape::RunOptions;
    use crate::sim::steady;

    #[test]
    fn every_kind_of_rot_finds_files_of_a_real_node() {
        let mut found = [0; 4];
        for seed in 0..4 {
            let options = RunOptions::given(seed, 1, 0.5);
            let mut world = World::new(&options, Some(Vec::new()), steady::harness, false);
            assert_eq!(world.run_until(Nanos(options.duration_ns())), Ok(()));
            let slot = &world.core.slots[0];
            for kind in 0..4 {
                let targets = targets(&slot.disk, &slot.dir, kind);
                found[kind as usize] += targets.len();
                let marks: &[&str] = match kind {
                    0 => &[ROTTEN[0], ROTTEN[3]],
                    1 => &ROTTEN[2..3],
                    2 => &ROTTEN[1..2],
                    _ => &ROTTEN,
                };
                assert!(targets.iter().all(|t| marks.contains(&t.mark)), "{targets:?}");
            }
        }
        assert!(found.iter().all(|files| *files > 0), "log, tables, manifest, any: {found:?}");
    }
}

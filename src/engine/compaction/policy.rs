//! What to compact next: [`CompactionPolicy`], and the one there is, [`Leveled`].
//!
//! # Targets, from the bottom
//! Level 6 is as large as it is. Each level above has a target of a tenth of the one below, up to the first whose target is
//! at most [`CompactionOptions::base_bytes`]: that is the *base level*, into which level 0 is compacted, and the levels between
//! 0 and it are empty. So a small database has levels 0 and 6 only, about 90 % of all data is in the bottom level at any
//! size, and what is not live is at most about a tenth.
//!
//! ```text
//!   bottom 200 MiB     0 ──────────────────────────▶ 6
//!   bottom   2 GiB     0 ─────────────────▶ 5 (205 MiB) ▶ 6
//!   bottom 100 GiB     0 ────▶ 3 (102 MiB) ▶ 4 (1 GiB) ▶ 5 (10 GiB) ▶ 6
//! ```
//!
//! # What is picked, in this order
//! 1. The level with the highest *score* of 1 or more: its bytes over its target, for level 0 its tables over
//!    [`CompactionOptions::l0_tables`]. Of a level, the table that overlaps least in the next one, for its size.
//! 2. A table with many tombstones, wherever it is; in the bottom level it is rewritten in place.
//! 3. A table with any tombstone, once as many sequence numbers have passed since its newest version as there are versions in
//!    all tables: so that every tombstone gets to the bottom and vanishes there, for a bounded share of the work, and with
//!    no clock.
//!
//! 4. A table in which a range delete at or below the horizon may hide something, so that the range delete can be forgotten.
//!
//! A compaction of level 0 takes its oldest tables, at most [`MAX_L0_TABLES`] times the number that starts one: a directory with hundreds of
//! them is worked off in bounded steps.
//!
//! # Short of space
//! When the disk has no room for what is picked, picks are bounded by the room there is: rewrites that drop something first, then what
//! fits of the levels that are due. A compaction of level 0 that does not fit, because it overlaps with too much below, goes into the level
//! above, when that is empty: it costs only the room of level 0, and its outputs end where a few tables below end, so that each can
//! go down on its own.
//!
//! Tables that overlap with nothing in the next level are *moved*: an edit, and no I/O.
//!
//! A policy is a function of what it is shown: the same tables, the same pick.

use super::super::edit::{MAX_LEVELS, RangeDelete};
use super::super::version::{LiveTable, Version};
use crate::base::SequenceNumber;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Each level's target over that of the one above.
pub const FAN_OUT: u64 = 10;
/// The level at the bottom.
pub const BOTTOM: u8 = MAX_LEVELS - 1;
/// A table of the next level but one may not be overlapped by more than this many tables' worth, or the compaction of the
/// output would become too large later.
pub const MAX_GRANDPARENT_TABLES: u64 = 10;
/// Most tables of level 0 in one compaction, in units of those that start one.
pub const MAX_L0_TABLES: usize = 4;
/// Share of tombstones, one of so many, at which a table above the bottom is picked for them.
const TOMBSTONE_SHARE: u64 = 2;
/// The same in the bottom level, where it is rewritten.
const BOTTOM_TOMBSTONE_SHARE: u64 = 5;
/// The same in the bottom level once the table is old.
const OLD_BOTTOM_TOMBSTONE_SHARE: u64 = 32;

/// Sizes. The defaults are for use; tests take small ones, so that all levels come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactionOptions {
    /// Whether compaction starts by itself; a manual one works either way.
    pub automatic: bool,
    /// The size at which an output table ends.
    pub table_bytes: u64,
    /// The largest target of the base level.
    pub base_bytes: u64,
    /// Tables of level 0 at which it is compacted.
    pub l0_tables: usize,
    /// The least sequence numbers that must pass before a table counts as old.
    pub min_age: u64,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            automatic: true,
            table_bytes: 64 << 20,
            base_bytes: 256 << 20,
            l0_tables: 4,
            min_age: 1 << 20,
        }
    }
}

/// Why a compaction was picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The level is above its target.
    Score,
    /// Many tombstones.
    Tombstones,
    /// Old tombstones.
    Age,
    /// A range delete may hide something in it.
    RangeDelete,
    /// It was asked for.
    Manual,
}

/// A compaction to do.
#[derive(Clone, Debug)]
pub struct Pick {
    /// Why.
    pub reason: Reason,
    /// The level of `upper`.
    pub level: u8,
    /// The level of `lower` and of the output; `level` itself for a rewrite.
    pub output: u8,
    /// Tables of `level`: all of level 0 that are at or before the newest of them, newest first; neighbours otherwise.
    pub upper: Vec<Arc<LiveTable>>,
    /// All tables of `output` that share keys with `upper`, by key; none for a rewrite.
    pub lower: Vec<Arc<LiveTable>>,
    /// Whether `upper` can go to `output` as it is.
    pub moves: bool,
}

impl Pick {
    /// All tables that it takes.
    pub fn inputs(&self) -> impl Iterator<Item = &Arc<LiveTable>> {
        self.upper.iter().chain(&self.lower)
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inputs().map(|t| t.meta.bytes).sum()
    }
}

/// What a policy is shown.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The tables.
    pub version: &'a Version,
    /// Their sizes and targets.
    pub shape: &'a Shape,
    /// The sizes wanted.
    pub options: &'a CompactionOptions,
    /// What is hidden at this sequence number may go.
    pub horizon: SequenceNumber,
    /// The last sequence number in a table.
    pub last_seq: SequenceNumber,
    /// The range deletes that are live.
    pub range_deletes: &'a BTreeMap<u64, RangeDelete>,
    /// Tables that cannot be read, by number: they are left alone.
    pub avoided: &'a BTreeMap<u64, super::Avoided>,
    /// Most bytes that a compaction may write; `None` = the disk has room for all of them.
    pub room: Option<u64>,
}

/// Decides what is compacted next.
pub trait CompactionPolicy: Send + Sync + fmt::Debug {
    /// Sizes, targets, scores, and debt of `version`.
    fn shape(&self, version: &Version, options: &CompactionOptions) -> Shape;
    /// The next compaction; `None` when all is well.
    fn pick(&self, view: &View<'_>) -> Option<Pick>;
}

/// One level as a policy sees it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct LevelShape {
    /// Tables.
    pub tables: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their bytes when all is well; 0 = the level should be empty. Meaningless for level 0.
    pub target: u64,
    /// From 1 on, the level is to be compacted.
    pub score: f64,
}

/// All levels as a policy sees them.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Shape {
    /// By level.
    pub levels: [LevelShape; MAX_LEVELS as usize],
    /// Where level 0 is compacted into.
    pub base: u8,
    /// Bytes that compactions have yet to read and write, about, until every score is below 1.
    pub debt: u64,
    /// Versions in all tables.
    pub entries: u64,
}

/// Leveled compaction. See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leveled;

impl CompactionPolicy for Leveled {
    fn shape(&self, version: &Version, options: &CompactionOptions) -> Shape {
        let mut shape = Shape::default();
        for (level, of) in (0u8..).zip(&mut shape.levels) {
            let tables = version.level(level);
            of.tables = tables.len();
            of.bytes = tables.iter().map(|t| t.meta.bytes).sum();
            shape.entries += tables.iter().map(|t| t.meta.entries).sum::<u64>();
        }
        let levels = &mut shape.levels;
        let mut target = levels[usize::from(BOTTOM)].bytes.max(1);
        let mut base = BOTTOM;
        levels[usize::from(BOTTOM)].target = target;
        while target > options.base_bytes && base > 1 {
            target /= FAN_OUT;
            base -= 1;
            levels[usize::from(base)].target = target;
        }
        // What is above it still has to come down, and nothing may pass it: versions must stay in order.
        let first_full = (1..base).find(|&level| levels[usize::from(level)].bytes > 0);
        shape.base = first_full.unwrap_or(base);
        for (level, of) in (0u8..).zip(levels.iter_mut()) {
            of.score = match (level, of.target) {
                (0, _) => {
                    let by_bytes = of.bytes as f64 / options.base_bytes.max(1) as f64;
                    let by_tables = of.tables as f64 / options.l0_tables.max(1) as f64;
                    // Few large tables wait until there are two: one alone is often moved for nothing.
                    if of.tables > 1 { by_tables.max(by_bytes) } else { by_tables }
                }
                (BOTTOM, _) => 0.0,
                (_, 0) if of.bytes > 0 => {
                    100.0 + of.bytes as f64 / options.base_bytes.max(1) as f64
                }
                (_, 0) => 0.0,
                (_, target) => of.bytes as f64 / target as f64,
            };
        }
        shape.debt = debt(&shape);
        shape
    }

    fn pick(&self, view: &View<'_>) -> Option<Pick> {
        if view.room.is_some() {
            return view
                .tombstones()
                .or_else(|| view.clearing())
                .or_else(|| self.pick_by_score(view));
        }
        self.pick_by_score(view).or_else(|| view.tombstones()).or_else(|| view.clearing())
    }
}

impl Leveled {
    #[allow(clippy::unused_self, reason = "a part of the policy")]
    fn pick_by_score(&self, view: &View<'_>) -> Option<Pick> {
        let mut levels: Vec<u8> =
            (0..BOTTOM).filter(|&l| view.shape.levels[usize::from(l)].score >= 1.0).collect();
        let score = |level: &u8| view.shape.levels[usize::from(*level)].score;
        levels.sort_by(|a, b| score(b).total_cmp(&score(a)));
        levels.into_iter().find_map(|level| match level {
            0 => view.level_0(Reason::Score, true),
            level => view.least_overlap(level),
        })
    }
}

/// What every compaction that is due reads and writes, and what those read and write that it makes due.
fn debt(shape: &Shape) -> u64 {
    let mut debt = 0;
    let mut carried = 0;
    let top = &shape.levels[0];
    if top.score >= 1.0 {
        carried = top.bytes;
        debt = top
            .bytes
            .saturating_add(shape.levels[usize::from(shape.base)].bytes.min(top.bytes * FAN_OUT));
    }
    for level in 1..BOTTOM {
        let (of, next) = (&shape.levels[usize::from(level)], &shape.levels[usize::from(level) + 1]);
        let bytes = of.bytes + if level >= shape.base { carried } else { 0 };
        let excess = bytes.saturating_sub(of.target);
        if excess == 0 || bytes == 0 {
            if level >= shape.base {
                carried = 0;
            }
            continue;
        }
        let overlap = (next.bytes / bytes.max(1)).min(FAN_OUT);
        debt = debt.saturating_add(excess.saturating_mul(1 + overlap));
        if level >= shape.base {
            carried = excess;
        }
    }
    debt
}

impl View<'_> {
    fn is_avoided(&self, table: &LiveTable) -> bool {
        self.avoided.contains_key(&table.meta.number)
    }

    /// The tables of `level` (below 0) that share keys with `from..=to`.
    fn sharing(&self, level: u8, from: &[u8], to: &[u8]) -> Range<usize> {
        let tables = self.version.level(level);
        let start = tables.partition_point(|t| t.meta.largest_key.as_slice() < from);
        let len = tables[start..].partition_point(|t| t.meta.smallest_key.as_slice() <= to);
        start..start + len
    }

    /// The oldest of level 0, up to the first table that cannot be read: a newer one may not pass it.
    pub(super) fn level_0(&self, reason: Reason, may_move: bool) -> Option<Pick> {
        let most = MAX_L0_TABLES * self.options.l0_tables.max(1);
        let oldest_first = self.version.level(0).iter().rev().take(most);
        let mut upper: Vec<_> = oldest_first.take_while(|t| !self.is_avoided(t)).cloned().collect();
        upper.reverse();
        let from = upper.iter().map(|t| &t.meta.smallest_key).min()?;
        let to = upper.iter().map(|t| &t.meta.largest_key).max()?;
        let output = self.shape.base;
        let range = self.sharing(output, from, to);
        let lower = self.version.level(output)[range].to_vec();
        if lower.iter().any(|t| self.is_avoided(t)) {
            return None;
        }
        let mut by_key: Vec<_> = upper.iter().map(|t| &t.meta).collect();
        by_key.sort_by(|a, b| a.smallest_key.cmp(&b.smallest_key));
        let disjoint = by_key.windows(2).all(|pair| pair[0].largest_key < pair[1].smallest_key);
        let fits = upper.iter().all(|t| self.may_move(t, output));
        let alone = upper
            .iter()
            .all(|t| self.sharing(output, &t.meta.smallest_key, &t.meta.largest_key).is_empty());
        let moves = may_move && disjoint && alone && fits;
        let lower = if moves { Vec::new() } else { lower };
        let pick = Pick { reason, level: 0, output, upper, lower, moves };
        if self.has_room(&pick) { Some(pick) } else { self.level_0_above(pick) }
    }

    /// Instead of `pick`, which the disk has no room for: as many of the oldest tables as there is room for, into the empty level above.
    fn level_0_above(&self, pick: Pick) -> Option<Pick> {
        let output = pick.output.checked_sub(1).filter(|&level| level > 0)?;
        debug_assert!(
            self.version.level(output).is_empty(),
            "the base level is the first that is full"
        );
        let mut bytes = 0;
        let fit = pick.upper.iter().rev().take_while(|t| {
            bytes += t.meta.bytes;
            self.room.is_none_or(|room| bytes <= room)
        });
        let fit = fit.count();
        let upper = pick.upper[pick.upper.len() - fit..].to_vec();
        let none = upper.is_empty();
        let pick = Pick { output, upper, lower: Vec::new(), moves: false, ..pick };
        (!none).then_some(pick)
    }

    /// Whether the disk has room for what it writes.
    pub(super) fn has_room(&self, pick: &Pick) -> bool {
        pick.moves || self.room.is_none_or(|room| pick.bytes() <= room)
    }

    /// Of a level above its target, the tables whose compaction into the next one costs least for what it brings.
    fn least_overlap(&self, level: u8) -> Option<Pick> {
        let of = &self.shape.levels[usize::from(level)];
        let excess = of.bytes.saturating_sub(of.target).max(1);
        let (upper, lower) = (self.version.level(level), self.version.level(level + 1));
        let mut best: Option<(u64, usize)> = None;
        let (mut free, mut free_bytes) = (Vec::new(), 0);
        for (at, table) in upper.iter().enumerate().filter(|(_, t)| !self.is_avoided(t)) {
            let below = self.sharing(level + 1, &table.meta.smallest_key, &table.meta.largest_key);
            if below.is_empty() && self.may_move(table, level + 1) {
                if free_bytes < excess {
                    free_bytes += table.meta.bytes;
                    free.push(Arc::clone(table));
                }
                continue;
            }
            if !free.is_empty() || lower[below.clone()].iter().any(|t| self.is_avoided(t)) {
                continue;
            }
            let overlap: u64 = lower[below].iter().map(|t| t.meta.bytes).sum();
            if self.room.is_some_and(|room| overlap + table.meta.bytes > room) {
                continue;
            }
            let cost = overlap.saturating_mul(1_024) / table.meta.bytes.max(1);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, at));
            }
        }
        if !free.is_empty() {
            let (reason, output) = (Reason::Score, level + 1);
            return Some(Pick {
                reason,
                level,
                output,
                upper: free,
                lower: Vec::new(),
                moves: true,
            });
        }
        best.map(|(_, at)| self.down(level, at, Reason::Score))
    }

    /// Table `at` of `level` (1 to 5) into the next level, with neighbours that cost nothing more.
    pub(super) fn down(&self, level: u8, at: usize, reason: Reason) -> Pick {
        let tables = self.version.level(level);
        let meta = &tables[at].meta;
        let below = self.sharing(level + 1, &meta.smallest_key, &meta.largest_key);
        let mut end = at + 1;
        let mut bytes = meta.bytes;
        while let Some(next) = tables.get(end)
            && !below.is_empty()
            && !self.is_avoided(next)
            && bytes + next.meta.bytes <= 4 * self.options.table_bytes
            && self.room.is_none()
        {
            // Also of the keys between the two: the output will span them.
            let all = self.sharing(level + 1, &meta.smallest_key, &next.meta.largest_key);
            if all != below {
                break;
            }
            bytes += next.meta.bytes;
            end += 1;
        }
        let moves = below.is_empty() && self.may_move(&tables[at], level + 1);
        Pick {
            reason,
            level,
            output: level + 1,
            upper: tables[at..end].to_vec(),
            lower: self.version.level(level + 1)[below].to_vec(),
            moves,
        }
    }

    /// Table `at` of the bottom level, anew.
    pub(super) fn rewrite(&self, level: u8, at: usize, reason: Reason) -> Pick {
        let upper = vec![Arc::clone(&self.version.level(level)[at])];
        Pick { reason, level, output: level, upper, lower: Vec::new(), moves: false }
    }

    /// Whether the table would not overlap with too much below `output`.
    fn may_move(&self, table: &LiveTable, output: u8) -> bool {
        if output >= BOTTOM {
            return true;
        }
        let range = self.sharing(output + 1, &table.meta.smallest_key, &table.meta.largest_key);
        let overlap: u64 = self.version.level(output + 1)[range].iter().map(|t| t.meta.bytes).sum();
        overlap <= MAX_GRANDPARENT_TABLES * self.options.table_bytes.max(table.meta.bytes)
    }

    /// The table with the most to gain from losing its tombstones.
    fn tombstones(&self) -> Option<Pick> {
        let age = self.options.min_age.max(self.shape.entries);
        let mut best: Option<(u64, Reason, u8, usize)> = None;
        for level in 0..=BOTTOM {
            for (at, table) in self.version.level(level).iter().enumerate() {
                let meta = &table.meta;
                // What a reader may still see past them keeps them alive.
                if meta.deletes == 0 || meta.largest_seq > self.horizon.0 || self.is_avoided(table)
                {
                    continue;
                }
                let old = self.last_seq.0.saturating_sub(meta.largest_seq) >= age;
                let is = |share: u64| meta.deletes.saturating_mul(share) >= meta.entries;
                let reason = match level {
                    BOTTOM if is(BOTTOM_TOMBSTONE_SHARE) => Reason::Tombstones,
                    BOTTOM if old && is(OLD_BOTTOM_TOMBSTONE_SHARE) => Reason::Age,
                    BOTTOM => continue,
                    _ if is(TOMBSTONE_SHARE) => Reason::Tombstones,
                    _ if old => Reason::Age,
                    _ => continue,
                };
                let share = meta.deletes.saturating_mul(1_000) / meta.entries;
                if best.is_none_or(|(most, ..)| share > most)
                    && self.can_go_down(level, at)
                    && self.fits(level, at, reason)
                {
                    best = Some((share, reason, level, at));
                }
            }
        }
        let (_, reason, level, at) = best?;
        let pick = match level {
            0 => self.level_0(reason, self.shape.base < BOTTOM)?,
            BOTTOM => self.rewrite(level, at, reason),
            _ => self.down(level, at, reason),
        };
        // At the bottom they vanish, if the table is written anew. (`down` has one table then: nothing lies between.)
        Some(Pick { moves: pick.moves && pick.output < BOTTOM, ..pick })
    }

    /// A table in which a range delete may hide something that nobody may see.
    fn clearing(&self) -> Option<Pick> {
        if self.range_deletes.is_empty() {
            return None;
        }
        let wants = |table: &LiveTable| {
            let meta = &table.meta;
            let from = meta.smallest_seq.max(meta.cleared_to) + 1;
            from <= self.horizon.0
                && self.range_deletes.range(from..=self.horizon.0).any(|(_, delete)| {
                    let end = (!delete.end.is_empty()).then_some(delete.end.as_slice());
                    meta.overlaps(&delete.start, end)
                })
        };
        for level in (0..=BOTTOM).rev() {
            let tables = self.version.level(level);
            let found = tables.iter().enumerate().find(|(at, table)| {
                !self.is_avoided(table)
                    && wants(table)
                    && self.can_go_down(level, *at)
                    && self.fits(level, *at, Reason::RangeDelete)
            });
            let Some((at, _)) = found else { continue };
            let reason = Reason::RangeDelete;
            return match level {
                0 => self.level_0(reason, false),
                BOTTOM => Some(self.rewrite(level, at, reason)),
                _ => Some(Pick { moves: false, ..self.down(level, at, reason) }),
            };
        }
        None
    }

    /// Whether the disk has room for the compaction of this table, written anew.
    fn fits(&self, level: u8, at: usize, reason: Reason) -> bool {
        if self.room.is_none() {
            return true;
        }
        let pick = match level {
            0 => return self.level_0(reason, false).is_some(),
            BOTTOM => self.rewrite(level, at, reason),
            _ => Pick { moves: false, ..self.down(level, at, reason) },
        };
        self.has_room(&pick)
    }

    /// Whether nothing that cannot be read is in the way.
    pub(super) fn can_go_down(&self, level: u8, at: usize) -> bool {
        match level {
            0 => self.level_0(Reason::Score, true).is_some_and(|pick| {
                let table = &self.version.level(0)[at];
                pick.upper.iter().any(|t| t.meta.number == table.meta.number)
            }),
            BOTTOM => true,
            _ => {
                let meta = &self.version.level(level)[at].meta;
                let range = self.sharing(level + 1, &meta.smallest_key, &meta.largest_key);
                !self.version.level(level + 1)[range].iter().any(|t| self.is_avoided(t))
            }
        }
    }
}

//! One file of the simulated disk: what its readers see, what the medium holds, and what lies between.
//!
//! ```text
//!  write_at, set_len ──► view (page cache)          what reads return
//!                   └──► pending [op, op, op …]     not synced: each sector of each op may or may not survive
//!  sync_data ──────────► durable (medium)           what a power loss leaves for certain
//! ```
//!
//! A pending write keeps whole 512-byte sectors, as the page cache would write them: the content of each touched
//! sector right after the write. A sector is written whole or not at all (no tearing inside it). Which sectors of
//! which writes survive is any subset: lost, kept, torn, and reordered are all among them.
//!
//! The length is metadata: it moves through the pending ops in order, and a power loss stops it at one of them.
//! A truncation is applied exactly when the length got that far; bytes that a surviving length covers and no
//! surviving sector gives read as zeros (a file system that shows another file's old bytes there is not modelled).

use super::SimRandom;
use std::collections::BTreeSet;

/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// The unit in which space is allocated.
pub(super) const BLOCK: u64 = 4096;

/// A file's content in its three states.
#[derive(Clone, Debug, Default)]
pub(super) struct SimFileState {
    view: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Sectors whose sync failed: the view shows bytes that no later sync will write.
    phantom: BTreeSet<usize>,
    /// Allocated blocks. `set_len` allocates none: a hole can still run out of space when it is written.
    blocks: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Pending {
    /// Whole sectors from `sector` on, as the page cache held them after the write.
    Write {
        sector: usize,
        bytes: Vec<u8>,
        len_after: usize,
    },
    SetLen {
        len_after: usize,
    },
}

impl Pending {
    const fn len_after(&self) -> usize {
        match self {
            Self::Write { len_after, .. } | Self::SetLen { len_after } => *len_after,
        }
    }
}

impl SimFileState {
    /// A file that is durable with this content.
    pub(super) fn durable_with(content: &[u8]) -> Self {
        let mut file =
            Self { view: content.to_vec(), durable: content.to_vec(), ..Self::default() };
        file.blocks = (0..(content.len() as u64).div_ceil(BLOCK)).collect();
        file
    }

    pub(super) fn view(&self) -> &[u8] {
        &self.view
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// How many of `len` bytes at `offset` fit when only `free` more bytes may be allocated.
    pub(super) fn fits(&self, offset: u64, len: usize, free: u64) -> usize {
        let end = offset + len as u64;
        let mut left = free / BLOCK;
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            if self.blocks.contains(&block) {
                continue;
            }
            if left == 0 {
                return usize::try_from((block * BLOCK).saturating_sub(offset))
                    .unwrap_or(len)
                    .min(len);
            }
            left -= 1;
        }
        len
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let offset = usize::try_from(offset).expect("simulated files fit into memory");
        let end = offset + data.len();
        if end > self.view.len() {
            self.view.resize(end, 0);
        }
        self.view[offset..end].copy_from_slice(data);
        self.blocks.extend(offset as u64 / BLOCK..(end as u64).div_ceil(BLOCK));
        let (first, last) = (offset / SECTOR, end.div_ceil(SECTOR));
        let mut bytes = self.view[first * SECTOR..(last * SECTOR).min(self.view.len())].to_vec();
        bytes.resize((last - first) * SECTOR, 0);
        self.phantom.retain(|s| !(first..last).contains(s));
        self.pending.push(Pending::Write { sector: first, bytes, len_after: self.view.len() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let len = usize::try_from(len).expect("simulated files fit into memory");
        self.view.resize(len, 0);
        self.blocks = self.blocks.split_off_below((len as u64).div_ceil(BLOCK));
        self.phantom.retain(|s| s * SECTOR < len);
        self.pending.push(Pending::SetLen { len_after: len });
    }

    /// All that is pending reaches the medium.
    pub(super) fn sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let len = pending.last().map_or(self.durable.len(), Pending::len_after);
        apply(&mut self.durable, &pending, pending.len(), len, &mut |_, _| true);
    }

    /// A failed sync: the kernel reports the error once and marks the pages clean. The view keeps the bytes, the
    /// medium never gets them, and the next sync succeeds (ATC'20, "Can applications recover from fsync failures?").
    /// The length is metadata and had reached the journal.
    pub(super) fn fail_sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for op in &pending {
            if let Pending::Write { sector, bytes, .. } = op {
                self.phantom.extend(*sector..*sector + bytes.len() / SECTOR);
            }
        }
        let len = pending.last().map_or(self.durable.len(), Pending::len_after);
        apply(&mut self.durable, &pending, pending.len(), len, &mut |_, _| false);
        let end = self.view.len().div_ceil(SECTOR);
        self.phantom.retain(|s| *s < end);
    }

    /// The machine lost power: chooses what of the pending ops survived; the view becomes it.
    pub(super) fn lose_power(&mut self, random: &mut SimRandom) {
        let pending = std::mem::take(&mut self.pending);
        let n = pending.len();
        let scenario = Scenario::choose(random, n);
        let reached = scenario.length_reached(random, n);
        let len = match reached {
            0 => self.durable.len(),
            _ => pending[reached - 1].len_after(),
        };
        let mut keep = |op: usize, sector: usize| scenario.keeps(random, op, sector);
        apply(&mut self.durable, &pending, reached, len, &mut keep);
        self.view.clone_from(&self.durable);
        self.phantom.clear();
        self.blocks = (0..(self.view.len() as u64).div_ceil(BLOCK)).collect();
    }

    /// Clean pages may leave the cache at any time; then phantom bytes show their true face.
    pub(super) fn evict(&mut self) {
        for sector in std::mem::take(&mut self.phantom) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.view.len());
            for at in range {
                self.view[at] = self.durable.get(at).copied().unwrap_or(0);
            }
        }
    }

    pub(super) fn has_phantoms(&self) -> bool {
        !self.phantom.is_empty()
    }

    /// Damage: flips bits in the cache and on the medium. False when the file is not that long.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) -> bool {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(byte) = self.view.get_mut(at) else { return false };
        *byte ^= mask;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= mask;
        }
        for op in &mut self.pending {
            if let Pending::Write { sector, bytes, .. } = op
                && let Some(byte) = at.checked_sub(*sector * SECTOR).and_then(|i| bytes.get_mut(i))
            {
                *byte ^= mask;
            }
        }
        true
    }
}

/// Applies pending ops to the medium: every truncation before op `reached`, every sector that `keep(op, sector of
/// the op)` keeps; then cuts or extends to `len`.
fn apply(
    durable: &mut Vec<u8>,
    pending: &[Pending],
    reached: usize,
    len: usize,
    keep: &mut dyn FnMut(usize, usize) -> bool,
) {
    for (n, op) in pending.iter().enumerate() {
        match op {
            Pending::SetLen { len_after } if n < reached => durable.resize(*len_after, 0),
            Pending::SetLen { .. } => {}
            Pending::Write { sector, bytes, .. } => {
                for (i, content) in bytes.chunks(SECTOR).enumerate() {
                    if !keep(n, i) {
                        continue;
                    }
                    let at = (sector + i) * SECTOR;
                    if durable.len() < at + SECTOR {
                        durable.resize(at + SECTOR, 0);
                    }
                    durable[at..at + SECTOR].copy_from_slice(content);
                }
            }
        }
        // Padding of a last sector never counts as content of the file.
        if n < reached && durable.len() > op.len_after() {
            durable.truncate(op.len_after());
        }
    }
    durable.resize(len, 0);
}

/// What a power loss does to one file's pending ops. The named extremes are chosen more often than chance would.
enum Scenario {
    AllLost,
    AllKept,
    /// Ops before `ops` survive, and `sectors` of that op: written in order, torn at a sector.
    Torn {
        ops: usize,
        sectors: usize,
    },
    /// The later ops survived, the earlier ones did not.
    Reordered {
        from: usize,
    },
    /// Each sector has its own coin, `kept` of 16.
    AnySubset {
        kept: u64,
    },
}

impl Scenario {
    fn choose(random: &mut SimRandom, ops: usize) -> Self {
        let op = random.below(ops as u64) as usize;
        match random.below(8) {
            0 => Self::AllLost,
            1 => Self::AllKept,
            2 | 3 => Self::Torn { ops: op, sectors: random.below(9) as usize },
            4 => Self::Reordered { from: op },
            _ => Self::AnySubset { kept: 1 + random.below(15) },
        }
    }

    /// How many pending ops the length went through.
    fn length_reached(&self, random: &mut SimRandom, ops: usize) -> usize {
        match self {
            Self::AllLost => 0,
            Self::AllKept | Self::Reordered { .. } => ops,
            // The torn op's own length may or may not have been recorded.
            Self::Torn { ops: before, .. } => (before + random.below(2) as usize).min(ops),
            Self::AnySubset { .. } => random.below(ops as u64 + 1) as usize,
        }
    }

    fn keeps(&self, random: &mut SimRandom, op: usize, sector: usize) -> bool {
        match self {
            Self::AllLost => false,
            Self::AllKept => true,
            Self::Torn { ops, sectors } => op < *ops || (op == *ops && sector < *sectors),
            Self::Reordered { from } => op >= *from,
            Self::AnySubset { kept } => random.chance(*kept, 16),
        }
    }
}

trait SplitBelow {
    fn split_off_below(&mut self, end: u64) -> BTreeSet<u64>;
}

impl SplitBelow for BTreeSet<u64> {
    /// The members below `end`.
    fn split_off_below(&mut self, end: u64) -> BTreeSet<u64> {
        let _above = self.split_off(&end);
        std::mem::take(self)
    }
}

//! The directory entries of the simulated disk.
//!
//! Creates, removes, and renames are pending until the `fsync` of a directory they touch. A power loss keeps any
//! subset of the pending ones that respects the order *per name*: an op survives only if every earlier pending op
//! on one of its names did. So a rename is atomic (the file has its old name or its new one, never none and never
//! two), and two files' entries may survive in either order. A new directory's name is as volatile as a file's, and
//! what is in a directory whose name is lost is lost with it, synced or not:
//! [`Disk::create_dir_all`](crate::env::Disk::create_dir_all) promises more, and syncs each parent for it.

use super::SimRandom;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Dir,
    File(u64),
}

#[derive(Clone, Debug)]
enum DirOp {
    Create { path: PathBuf, inode: u64 },
    CreateDir { path: PathBuf },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, inode: u64 },
}

type Tree = BTreeMap<PathBuf, Node>;

/// The names as processes see them, as the medium holds them, and the ops between.
#[derive(Clone, Debug)]
pub(super) struct Names {
    view: Tree,
    durable: Tree,
    pending: Vec<DirOp>,
}

/// One spelling for each path: no `.`, no doubled or trailing slash.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

impl DirOp {
    fn touches(&self, path: &Path) -> bool {
        match self {
            Self::Create { path: p, .. }
            | Self::CreateDir { path: p }
            | Self::Remove { path: p } => p == path,
            Self::Rename { from, to, .. } => from == path || to == path,
        }
    }

    fn shares_a_name_with(&self, other: &Self) -> bool {
        match self {
            Self::Create { path, .. } | Self::CreateDir { path } | Self::Remove { path } => {
                other.touches(path)
            }
            Self::Rename { from, to, .. } => other.touches(from) || other.touches(to),
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Create { path, .. } | Self::CreateDir { path } | Self::Remove { path } => {
                parent(path) == dir
            }
            Self::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
        }
    }

    /// Whether the directory of the name that it gives is there.
    fn has_place(&self, tree: &Tree) -> bool {
        match self {
            Self::Create { path, .. }
            | Self::CreateDir { path }
            | Self::Rename { to: path, .. } => tree.get(&parent(path)) == Some(&Node::Dir),
            Self::Remove { .. } => true,
        }
    }

    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Create { path, inode } => drop(tree.insert(path.clone(), Node::File(*inode))),
            Self::CreateDir { path } => drop(tree.insert(path.clone(), Node::Dir)),
            Self::Remove { path } => drop(tree.remove(path)),
            Self::Rename { from, to, inode } => {
                tree.remove(from);
                tree.insert(to.clone(), Node::File(*inode));
            }
        }
    }
}

impl Names {
    /// The root and the current directory, empty.
    pub(super) fn new() -> Self {
        let roots: Tree = [(PathBuf::from("/"), Node::Dir), (PathBuf::new(), Node::Dir)].into();
        Self { view: roots.clone(), durable: roots, pending: Vec::new() }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.view.get(path).copied()
    }

    pub(super) fn get_durable(&self, path: &Path) -> Option<Node> {
        self.durable.get(path).copied()
    }

    pub(super) fn parent_is_dir(&self, path: &Path) -> bool {
        self.get(&parent(path)) == Some(Node::Dir)
    }

    /// The names inside `dir`, sorted.
    pub(super) fn children(&self, dir: &Path) -> Vec<(String, Node)> {
        self.view
            .range::<PathBuf, _>(dir.to_path_buf()..)
            .take_while(|(path, _)| path.starts_with(dir))
            .filter(|(path, _)| path.parent() == Some(dir))
            .filter_map(|(path, node)| {
                path.file_name().map(|name| (name.to_string_lossy().into_owned(), *node))
            })
            .collect()
    }

    fn push(&mut self, op: DirOp) {
        op.apply(&mut self.view);
        self.pending.push(op);
    }

    pub(super) fn create(&mut self, path: &Path, inode: u64) {
        self.push(DirOp::Create { path: path.to_path_buf(), inode });
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.push(DirOp::Remove { path: path.to_path_buf() });
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, inode: u64) {
        // Renaming a file to itself does nothing.
        if from != to {
            self.push(DirOp::Rename { from: from.to_path_buf(), to: to.to_path_buf(), inode });
        }
    }

    /// Makes `dir`.
    pub(super) fn create_dir(&mut self, dir: &Path) {
        self.push(DirOp::CreateDir { path: dir.to_path_buf() });
    }

    /// Makes `dir`, durable at once, for tests.
    pub(super) fn create_durable_dir(&mut self, dir: &Path) {
        self.pending.retain(|op| !op.touches(dir));
        self.view.insert(dir.to_path_buf(), Node::Dir);
        self.durable.insert(dir.to_path_buf(), Node::Dir);
    }

    /// A file that is durable at once, for tests.
    pub(super) fn create_durable(&mut self, path: &Path, inode: u64) {
        self.pending.retain(|op| !op.touches(path));
        self.view.insert(path.to_path_buf(), Node::File(inode));
        self.durable.insert(path.to_path_buf(), Node::File(inode));
    }

    /// Makes the pending ops of `dir` durable, and the earlier ones of other directories that they build on.
    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let mut wanted: Vec<bool> = self.pending.iter().map(|op| op.is_in(dir)).collect();
        for n in (0..self.pending.len()).rev() {
            let needed = (n + 1..self.pending.len()).any(|later| {
                wanted[later] && self.pending[n].shares_a_name_with(&self.pending[later])
            });
            wanted[n] |= needed;
        }
        let mut wanted = wanted.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|op| {
            let now = wanted.next().unwrap_or(false);
            if now {
                op.apply(durable);
            }
            !now
        });
    }

    /// The machine lost power: chooses which pending ops survived; the view becomes what did.
    pub(super) fn lose_power(&mut self, random: &mut SimRandom) {
        let pending = std::mem::take(&mut self.pending);
        // All lost, all kept, or a coin each, `kept` of 16.
        let kept = match random.below(4) {
            0 => 0,
            1 => 16,
            _ => 1 + random.below(15),
        };
        let mut lost: Vec<DirOp> = Vec::new();
        for op in pending {
            let blocked =
                lost.iter().any(|l| l.shares_a_name_with(&op)) || !op.has_place(&self.durable);
            if !blocked && random.chance(kept, 16) {
                op.apply(&mut self.durable);
            } else {
                lost.push(op);
            }
        }
        self.lose_what_nothing_leads_to();
        self.view.clone_from(&self.durable);
    }

    /// What was in a directory is lost with its name.
    fn lose_what_nothing_leads_to(&mut self) {
        let mut kept = Tree::new();
        // Directories come before what is in them.
        for (path, node) in std::mem::take(&mut self.durable) {
            let is_root = path.parent().is_none();
            if is_root || kept.get(&parent(&path)) == Some(&Node::Dir) {
                kept.insert(path, node);
            }
        }
        self.durable = kept;
    }

    /// Whether anything, now or after a crash, can still lead to `inode`.
    pub(super) fn can_reach(&self, inode: u64) -> bool {
        let node = Node::File(inode);
        self.is_visible(inode)
            || self.durable.values().any(|n| *n == node)
            || self.pending.iter().any(|op| match op {
                DirOp::Create { inode: i, .. } | DirOp::Rename { inode: i, .. } => *i == inode,
                DirOp::CreateDir { .. } | DirOp::Remove { .. } => false,
            })
    }

    /// Whether a name leads to `inode` now.
    pub(super) fn is_visible(&self, inode: u64) -> bool {
        self.view.values().any(|n| *n == Node::File(inode))
    }
}

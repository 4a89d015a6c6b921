//! The directory entries of the simulated disk.
//!
//! Creates, removes, and renames are pending until the `fsync` of a directory they touch. A power loss keeps any
//! subset of the pending ones that respects the order *per name*: an op survives only if every earlier pending op
//! on one of its names did. So a rename is atomic (the file has its old name or its new one, never none and never
//! two), and two files' entries may survive in either order. A new directory's name is as volatile as a file's, and
//! what is in a directory whose name is lost is lost with it, synced or not:
//! [`Disk::create_dir_all`](crate::env::Disk::create_dir_all) promises more, and syncs each parent for it. A hard link is a
//! create of an inode that is there. The rename of a directory can survive without what was created in it before, when that
//! was not synced.

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
    RenameDir { from: PathBuf, to: PathBuf },
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
            Self::Rename { from, to, .. } | Self::RenameDir { from, to } => {
                from == path || to == path
            }
        }
    }

    fn shares_a_name_with(&self, other: &Self) -> bool {
        match self {
            Self::Create { path, .. } | Self::CreateDir { path } | Self::Remove { path } => {
                other.touches(path)
            }
            Self::Rename { from, to, .. } | Self::RenameDir { from, to } => {
                other.touches(from) || other.touches(to)
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Create { path, .. } | Self::CreateDir { path } | Self::Remove { path } => {
                parent(path) == dir
            }
            Self::Rename { from, to, .. } | Self::RenameDir { from, to } => {
                parent(from) == dir || parent(to) == dir
            }
        }
    }

    /// Whether the directory of the name that it gives is there.
    fn has_place(&self, tree: &Tree) -> bool {
        match self {
            Self::Create { path, .. }
            | Self::CreateDir { path }
            | Self::Rename { to: path, .. }
            | Self::RenameDir { to: path, .. } => tree.get(&parent(path)) == Some(&Node::Dir),
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
            Self::RenameDir { from, to } => {
                let moved: Vec<_> =
                    tree.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    if let (Some(node), Some(moved)) = (tree.remove(&path), under(&path, from, to))
                    {
                        tree.insert(moved, node);
                    }
                }
            }
        }
    }

    /// Makes it durable; `earlier` are those before it that are not.
    fn settle(&self, durable: &mut Tree, earlier: &mut [Self]) {
        self.apply(durable);
        if let Self::RenameDir { from, to } = self {
            earlier.iter_mut().for_each(|op| op.follow(from, to));
        }
    }

    /// The directory `from` is called `to` from now on, and so are the names in it that this op, an earlier one, is about.
    fn follow(&mut self, from: &Path, to: &Path) {
        let paths = match self {
            Self::Create { path, .. } | Self::CreateDir { path } | Self::Remove { path } => {
                [Some(path), None]
            }
            Self::Rename { from, to, .. } | Self::RenameDir { from, to } => [Some(from), Some(to)],
        };
        for path in paths.into_iter().flatten() {
            if let Some(moved) = under(path, from, to) {
                *path = moved;
            }
        }
    }
}

/// `path`, which is in `from` or is it, when that is called `to`.
fn under(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) })
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

    /// Renames a directory with all that is in it.
    pub(super) fn rename_dir(&mut self, from: &Path, to: &Path) {
        self.push(DirOp::RenameDir { from: from.to_path_buf(), to: to.to_path_buf() });
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
        // What was done in it before it got its name is done in it too.
        let mut name = dir.to_path_buf();
        let mut wanted = vec![false; self.pending.len()];
        for (n, op) in self.pending.iter().enumerate().rev() {
            wanted[n] = op.is_in(&name);
            if let DirOp::RenameDir { from, to } = op {
                name = under(&name, to, from).unwrap_or(name);
            }
        }
        for n in (0..self.pending.len()).rev() {
            let needed = (n + 1..self.pending.len()).any(|later| {
                wanted[later] && self.pending[n].shares_a_name_with(&self.pending[later])
            });
            wanted[n] |= needed;
        }
        let mut wanted = wanted.into_iter();
        let mut left: Vec<DirOp> = Vec::new();
        for op in std::mem::take(&mut self.pending) {
            if wanted.next().unwrap_or(false) {
                op.settle(&mut self.durable, &mut left);
            } else {
                left.push(op);
            }
        }
        self.pending = left;
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
                op.settle(&mut self.durable, &mut lost);
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
                DirOp::CreateDir { .. } | DirOp::Remove { .. } | DirOp::RenameDir { .. } => false,
            })
    }

    /// Whether a name leads to `inode` now.
    pub(super) fn is_visible(&self, inode: u64) -> bool {
        self.view.values().any(|n| *n == Node::File(inode))
    }
}

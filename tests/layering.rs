//! The house rules that a compiler does not check: who may import whom, and who may touch the outside world.
//!
//! Reads every file under `src/` as tokens (so comments and strings never count), resolves each path that starts
//! with `crate`, `beachdb`, `self`, or `super`, also inside nested `use a::{b, c::d}` trees and macro bodies, and
//! compares it with the layers of `src/lib.rs`:
//!
//! - a room imports only rooms of lower layers: never upward, never a sibling;
//! - only `node` joins `raft`, `engine`, and `proto`;
//! - `mio` and `signal-hook-mio` live in `server`, `std::net` in `server` and `client`;
//! - the file system, clocks, threads, and random sources live in `env::os`; seeded generators also in `env::sim`;
//! - a lint is silenced only where [`LINT_EXCEPTIONS`] says so.
//!
//! Code under `#[cfg(test)]` keeps the first three rules; it may use files, threads, and silence lints.
//!
//! What it does not see: a renamed root (`use std as s`), and macros of other crates that expand to forbidden
//! calls. `clippy.toml` catches the calls themselves from the other side.

#![expect(clippy::disallowed_methods, reason = "a test that reads the source tree")]

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// The rooms and their layers. `limits` is below `base`: it holds numbers only.
const ROOMS: [(&str, u32); 12] = [
    ("limits", 0),
    ("base", 1),
    ("env", 2),
    ("wal", 3),
    ("sstable", 3),
    ("raft", 3),
    ("proto", 3),
    ("engine", 4),
    ("raft_log", 4),
    ("client", 4),
    ("node", 5),
    ("server", 6),
];

/// What belongs to some rooms only: path prefix, rooms (or files) that may name it, what others use instead. The
/// last field says whether the rule holds for test code too.
const WORLD: [(&str, &[&str], &str, bool); 13] = [
    ("mio", &["server"], "only the event loop knows sockets", true),
    ("signal_hook_mio", &["server"], "only the event loop knows signals", true),
    ("std::net", &["server", "client"], "sockets belong to server and client", true),
    ("std::fs", &["env::os"], "use env::Disk", false),
    ("std::os::unix::fs", &["env::os"], "use env::Disk", false),
    ("std::thread", &["env::os"], "use env::Jobs", false),
    ("std::time::Instant", &["env::os"], "use env::Clock", false),
    ("std::time::SystemTime", &["env::os"], "use env::Clock", false),
    ("std::time::UNIX_EPOCH", &["env::os"], "use env::Clock", false),
    ("rand", &["env"], "use env::Random", false),
    ("rand::make_rng", &["env::os"], "seed from the run, not from the OS", false),
    ("rand::rng", &["env::os"], "seed from the run, not from the OS", false),
    ("rand::rngs::SysRng", &["env::os"], "seed from the run, not from the OS", false),
];

/// Imports that would hide one of the above from this test: `use std::time;` and then `time::Instant`.
const HIDING: [&str; 4] = ["std", "std::time", "std::os", "std::os::unix"];

/// Methods without arguments that ask the file system although no `std::fs` is in sight (`Path::exists`, …).
const PATH_METHODS: [&str; 8] = [
    "exists",
    "try_exists",
    "is_file",
    "is_dir",
    "is_symlink",
    "canonicalize",
    "read_dir",
    "metadata",
];

/// Where a clippy lint of `clippy.toml` may be silenced outside test code: lint, room or file, why it is right.
const LINT_EXCEPTIONS: [(&str, &str, &str); 1] =
    [("disallowed_methods", "env::os", "the room that touches the real world")];

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// A token with its line, groups opened up: what a path is found in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Mark(char),
    Open(Delimiter),
    Close(Delimiter),
    Other,
}

fn flatten(stream: TokenStream, out: &mut Vec<(Token, usize)>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Ident(word) => out.push((Token::Word(word.to_string()), line)),
            TokenTree::Punct(mark) => out.push((Token::Mark(mark.as_char()), line)),
            TokenTree::Literal(_) => out.push((Token::Other, line)),
            TokenTree::Group(group) => {
                out.push((Token::Open(group.delimiter()), line));
                flatten(group.stream(), out);
                out.push((Token::Close(group.delimiter()), group.span_close().end().line));
            }
        }
    }
}

/// One file being checked.
struct Source<'a> {
    file: &'a str,
    /// The module path of the file: `["engine", "db"]`.
    module: Vec<String>,
    is_test: bool,
    tokens: Vec<(Token, usize)>,
    violations: Vec<Violation>,
    /// Rooms that the file names.
    rooms: BTreeSet<String>,
    /// Files that `#[cfg(test)] mod name;` declares.
    test_modules: Vec<Vec<String>>,
}

impl<'a> Source<'a> {
    fn new(file: &'a str, text: &str, is_test: bool) -> Self {
        let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        Self {
            file,
            module: module_of(file),
            is_test,
            tokens,
            violations: Vec::new(),
            rooms: BTreeSet::new(),
            test_modules: Vec::new(),
        }
    }

    fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).map(|(token, _)| token)
    }

    fn word(&self, at: usize) -> Option<&str> {
        match self.token(at) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn is_mark(&self, at: usize, mark: char) -> bool {
        self.token(at) == Some(&Token::Mark(mark))
    }

    fn is_path_separator(&self, at: usize) -> bool {
        self.is_mark(at, ':') && self.is_mark(at + 1, ':')
    }

    fn violation(&mut self, at: usize, what: String) {
        let violation = Violation { file: self.file.into(), line: self.tokens[at].1, what };
        // One line in a `use` tree and in the path rule is one mistake.
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    /// Walks all tokens, following inline modules and `#[cfg(test)]`.
    fn check(&mut self) {
        let mut module = self.module.clone();
        let mut test_until = if self.is_test { usize::MAX } else { 0 };
        // (end of the inline module, module path outside of it)
        let mut stack: Vec<(usize, Vec<String>)> = Vec::new();
        for at in 0..self.tokens.len() {
            while let Some((_, outer)) = stack.pop_if(|(end, _)| at >= *end) {
                module = outer;
            }
            if let Some(after) = self.cfg_test_attribute(at) {
                test_until = test_until.max(self.end_of_item(after));
                if let Some(name) = self.declared_module(after) {
                    let mut path = module.clone();
                    path.push(name);
                    self.test_modules.push(path);
                }
            }
            if self.word(at) == Some("mod")
                && let Some(name) = self.word(at + 1).map(String::from)
                && self.token(at + 2) == Some(&Token::Open(Delimiter::Brace))
            {
                stack.push((self.matching_close(at + 2), module.clone()));
                module.push(name);
            }
            let in_test = at < test_until;
            self.check_silenced_lint(at, in_test);
            self.check_path_method(at, in_test);
            if self.starts_a_path(at) {
                self.walk_path(at, Vec::new(), &module, in_test);
            }
        }
        self.check_joining();
    }

    /// The position after `#[cfg(test)]` or `#[cfg(all(test, …))]` at `at`.
    fn cfg_test_attribute(&self, at: usize) -> Option<usize> {
        let attribute = self.is_mark(at, '#')
            && self.token(at + 1) == Some(&Token::Open(Delimiter::Bracket))
            && self.word(at + 2) == Some("cfg");
        let end = attribute.then(|| self.matching_close(at + 1))?;
        let inner = at + 3..end;
        let negated = inner.clone().any(|i| matches!(self.word(i), Some("not" | "any")));
        let test = inner.into_iter().any(|i| self.word(i) == Some("test"));
        (test && !negated).then_some(end + 1)
    }

    /// `mod name;`, after other attributes and a visibility.
    fn declared_module(&self, from: usize) -> Option<String> {
        let end = self.end_of_item(from);
        let at = (from..end).find(|i| self.word(*i) == Some("mod"))?;
        self.is_mark(at + 2, ';').then(|| self.word(at + 1).map(String::from))?
    }

    /// Just after the item that starts at `from`: its `;` or its closing brace.
    fn end_of_item(&self, from: usize) -> usize {
        let mut at = from;
        while at < self.tokens.len() {
            match self.token(at) {
                Some(Token::Mark(';' | ',')) => return at + 1,
                Some(Token::Open(Delimiter::Brace)) => return self.matching_close(at) + 1,
                Some(Token::Open(_)) => at = self.matching_close(at) + 1,
                _ => at += 1,
            }
        }
        at
    }

    fn matching_close(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for at in open..self.tokens.len() {
            match self.token(at) {
                Some(Token::Open(_)) => depth += 1,
                Some(Token::Close(_)) => {
                    depth -= 1;
                    if depth == 0 {
                        return at;
                    }
                }
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// A word that is not a field, a method, or the continuation of a path.
    fn starts_a_path(&self, at: usize) -> bool {
        if self.word(at).is_none() {
            return false;
        }
        let continues = at >= 3 && self.is_path_separator(at - 2) && {
            // `::std::fs` starts a path although `::` is before it; `use` and `(` are before that.
            matches!(self.token(at - 3), Some(Token::Word(w)) if w != "use")
                || self.is_mark(at - 3, '>')
        };
        let is_member = at >= 1 && self.is_mark(at - 1, '.');
        !continues && !is_member
    }

    /// Follows a path and its `use` tree, judging each full path; returns where it stopped.
    fn walk_path(&mut self, mut at: usize, mut path: Vec<String>, module: &[String], test: bool) {
        let start = at;
        loop {
            match self.token(at) {
                Some(Token::Word(word)) => path.push(word.clone()),
                Some(Token::Mark('*')) => path.push("*".into()),
                Some(Token::Open(Delimiter::Brace)) if at > start || !path.is_empty() => {
                    let close = self.matching_close(at);
                    let mut branch = at + 1;
                    while branch < close {
                        self.walk_path(branch, path.clone(), module, test);
                        branch = self.end_of_branch(branch, close);
                    }
                    return;
                }
                _ => break,
            }
            if !self.is_path_separator(at + 1) {
                break;
            }
            at += 3;
        }
        self.judge(start, &path, module, test);
    }

    /// The start of the next branch of a `use` tree.
    fn end_of_branch(&self, mut at: usize, close: usize) -> usize {
        while at < close {
            match self.token(at) {
                Some(Token::Mark(',')) => return at + 1,
                Some(Token::Open(_)) => at = self.matching_close(at) + 1,
                _ => at += 1,
            }
        }
        close
    }

    fn judge(&mut self, at: usize, path: &[String], module: &[String], in_test: bool) {
        match absolute(path, module) {
            Some(inside) => self.judge_room(at, &inside),
            None => self.judge_world(at, &path.join("::"), in_test),
        }
    }

    /// The room of the file; `None` for `lib.rs` and `main.rs`, which stand above all rooms.
    fn own_room(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    fn judge_room(&mut self, at: usize, inside: &[String]) {
        let Some(target) = inside.first() else { return };
        let Some(theirs) = layer(target) else { return };
        self.rooms.insert(target.clone());
        let Some(own) = self.own_room() else { return };
        let ours = layer(own).unwrap_or_else(|| {
            panic!("{}: {own} is not in ROOMS; add it to this test and to lib.rs", self.file)
        });
        if own != target && theirs >= ours {
            let way = if theirs > ours { "upward" } else { "sideways" };
            let what = format!("{own} imports {way}: crate::{}", inside.join("::"));
            self.violation(at, what);
        }
    }

    fn judge_world(&mut self, at: usize, path: &str, in_test: bool) {
        let is_import = at >= 1 && self.word(at - 1) == Some("use");
        let hides = path.strip_suffix("::*").unwrap_or(path);
        let hides = hides.strip_suffix("::self").unwrap_or(hides);
        if !in_test && HIDING.contains(&hides) && (is_import || path != hides) {
            self.violation(at, format!("`{path}` hides what is used from it; import the item"));
        }
        for (prefix, rooms, instead, also_tests) in WORLD {
            let named = hides == prefix
                || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"));
            // A local variable may be called `mio` or `rand`; a crate's name stands before `::` or after `use`.
            let bare = path == prefix && !is_import && !prefix.contains("::");
            let allowed = rooms.iter().any(|room| self.is_in(room)) || (in_test && !also_tests);
            if named && !bare && !allowed {
                let rooms = rooms.join(", ");
                self.violation(at, format!("`{path}` outside {rooms}: {instead}"));
            }
        }
    }

    /// Whether the file belongs to `room` (`env::os` includes its files).
    fn is_in(&self, room: &str) -> bool {
        let room: Vec<&str> = room.split("::").collect();
        self.module.len() >= room.len() && self.module.iter().zip(room).all(|(own, r)| own == r)
    }

    /// `.exists()` and its kin, without arguments: those of `std::path::Path`.
    fn check_path_method(&mut self, at: usize, in_test: bool) {
        let Some(name) = self.word(at) else { return };
        let called = at >= 1
            && self.is_mark(at - 1, '.')
            && self.token(at + 1) == Some(&Token::Open(Delimiter::Parenthesis))
            && self.token(at + 2) == Some(&Token::Close(Delimiter::Parenthesis));
        if called && PATH_METHODS.contains(&name) && !in_test && !self.is_in("env::os") {
            let what = format!("`.{name}()` asks the file system outside env::os: use env::Disk");
            self.violation(at, what);
        }
    }

    /// `expect(clippy::disallowed_methods)` and `allow(...)` of the lints that guard the outside world.
    fn check_silenced_lint(&mut self, at: usize, in_test: bool) {
        let Some(lint @ ("disallowed_methods" | "disallowed_types")) = self.word(at) else {
            return;
        };
        let named =
            at >= 3 && self.is_path_separator(at - 2) && self.word(at - 3) == Some("clippy");
        let excepted = |(of, room, _): &(&str, &str, &str)| *of == lint && self.is_in(room);
        if named && !in_test && !LINT_EXCEPTIONS.iter().any(excepted) {
            let what = format!("clippy::{lint} is silenced here; only LINT_EXCEPTIONS may do that");
            self.violation(at, what);
        }
    }

    fn check_joining(&mut self) {
        let joined = ["raft", "engine", "proto"].iter().all(|room| self.rooms.contains(*room));
        if joined && self.own_room().is_some_and(|own| own != "node") {
            self.violation(0, "only node joins raft, engine, and proto".into());
        }
    }
}

fn layer(room: &str) -> Option<u32> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, layer)| *layer)
}

/// `src/engine/db.rs` is `engine::db`; `lib.rs` and `main.rs` are the empty path.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(String::from).collect();
    if module.last().is_some_and(|last| last == "mod") || ["lib", "main"].contains(&path) {
        module.pop();
    }
    module
}

/// The path from the root of the crate; `None` when it leads elsewhere or starts at a local name.
fn absolute(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut base = match path.first().map(String::as_str)? {
        "crate" | "beachdb" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for (n, step) in path.iter().enumerate() {
        match step.as_str() {
            "crate" | "beachdb" | "self" if n == 0 => {}
            "super" => drop(base.pop()),
            _ => base.push(step.clone()),
        }
    }
    Some(base)
}

fn check_text(file: &str, text: &str, is_test: bool) -> Vec<Violation> {
    let mut source = Source::new(file, text, is_test);
    source.check();
    source.violations
}

/// All `.rs` files under `dir`, relative to the root of the package.
fn rust_files(root: &Path, dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(root.join(dir))
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| dir.join(entry.expect("a directory entry").file_name()))
        .collect();
    entries.sort();
    for path in entries {
        if root.join(&path).is_dir() {
            rust_files(root, &path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_file_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(root, Path::new("src"), &mut files);
    assert!(files.len() > 30, "found only {} files", files.len());
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|path| {
            let name = path.to_str().expect("our names are ASCII").to_string();
            (name, std::fs::read_to_string(root.join(path)).expect("readable"))
        })
        .collect();
    // First who is test code: a file may be declared so by its parent only.
    let mut test_modules: Vec<Vec<String>> = Vec::new();
    for (file, text) in &texts {
        let mut source = Source::new(file, text, false);
        source.check();
        test_modules.append(&mut source.test_modules);
    }
    let mut violations = Vec::new();
    for (file, text) in &texts {
        let module = module_of(file);
        let is_test = test_modules.iter().any(|test| module.starts_with(test));
        violations.extend(check_text(file, text, is_test));
    }
    let report: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(report.is_empty(), "{} house rules broken:\n{}", report.len(), report.join("\n"));
}

#[test]
fn every_room_has_a_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("src")).expect("src") {
        let name = entry.expect("a directory entry").file_name().into_string().expect("ASCII");
        let room = name.trim_end_matches(".rs");
        assert!(layer(room).is_some() || ["lib", "main"].contains(&room), "{room} has no layer");
    }
}

/// Plants `bad` in a file and returns what is said about it.
fn planted(file: &str, bad: &str) -> Vec<String> {
    let text = format!("//! A room.\n\nuse std::sync::Arc;\n{bad}\nfn fine(_: Arc<u8>) {{}}\n");
    check_text(file, &text, false).into_iter().map(|v| format!("{}: {}", v.line, v.what)).collect()
}

#[track_caller]
fn assert_caught(file: &str, bad: &str, wanted: &str) {
    let found = planted(file, bad);
    assert_eq!(found.len(), 1, "{file}: `{bad}` gave {found:?}");
    assert!(found[0].starts_with("4: ") && found[0].contains(wanted), "{found:?}");
}

#[track_caller]
fn assert_fine(file: &str, good: &str) {
    let found = planted(file, good);
    assert!(found.is_empty(), "{file}: `{good}` gave {found:?}");
}

#[test]
fn planted_imports_upward_and_sideways_are_caught() {
    assert_caught(
        "src/wal/mod.rs",
        "use crate::engine::Db;",
        "wal imports upward: crate::engine::Db",
    );
    assert_caught("src/wal/writer.rs", "use crate::sstable::Table;", "sideways");
    assert_caught("src/env/mod.rs", "use crate::{base::Nanos, wal::Writer};", "upward");
    assert_caught(
        "src/proto/mod.rs",
        "use crate::{base::{Term, Nanos}, raft::{Entry}};",
        "sideways",
    );
    assert_caught(
        "src/proto/a.rs",
        "use super::super::raft::Entry;",
        "sideways: crate::raft::Entry",
    );
    assert_caught("src/proto/a.rs", "mod x { use super::super::super::node::Node; }", "upward");
    assert_caught("src/raft/mod.rs", "fn f() { crate::proto::encode() }", "sideways");
    assert_caught("src/raft/mod.rs", "fn f() -> Vec<crate::proto::Frame> { g() }", "sideways");
    assert_caught("src/raft/mod.rs", "fn f() { assert!(x == crate::proto::F); }", "sideways");
    assert_caught("src/base/ids.rs", "pub use crate::env::Clock;", "upward");
    assert_caught("src/limits.rs", "use crate::base::varint;", "upward");
    assert_caught(
        "src/client/mod.rs",
        "#[cfg(test)] mod t { use crate::server::Server; }",
        "upward",
    );
    let joined = planted("src/server/mod.rs", "use crate::{raft, engine, proto};");
    assert_eq!(joined, ["1: only node joins raft, engine, and proto"]);
    assert_fine("src/server/mod.rs", "use crate::{engine, proto};");
}

#[test]
fn planted_uses_of_the_outside_world_are_caught() {
    assert_caught("src/node/mod.rs", "use mio::Poll;", "`mio::Poll` outside server");
    assert_caught("src/client/mod.rs", "fn f() { let p = mio::Poll::new(); }", "outside server");
    assert_caught("src/node/mod.rs", "use std::net::SocketAddr;", "outside server, client");
    assert_caught("src/node/mod.rs", "use ::std::net::SocketAddr;", "outside server, client");
    assert_caught("src/engine/db.rs", "use std::{fs, io};", "use env::Disk");
    assert_caught("src/engine/db.rs", "use std::fs::{self};", "use env::Disk");
    assert_caught("src/engine/db.rs", "fn f() { drop(std::fs::read(x)); }", "use env::Disk");
    assert_caught("src/engine/db.rs", "use std::time::{Duration, Instant};", "use env::Clock");
    assert_caught("src/engine/db.rs", "use std::time;", "hides");
    assert_caught("src/engine/db.rs", "use std::time::*;", "hides");
    assert_caught("src/engine/db.rs", "use std::thread;", "use env::Jobs");
    assert_caught("src/raft/core.rs", "fn f() -> u8 { rand::random() }", "use env::Random");
    assert_caught("src/env/sim/mod.rs", "use rand::make_rng;", "seed from the run");
    assert_caught("src/env/mod.rs", "use std::fs::File;", "use env::Disk");
    assert_caught(
        "src/wal/mod.rs",
        "fn f(p: &Path) -> bool { p.exists() }",
        "asks the file system",
    );
}

#[test]
fn planted_lint_exceptions_are_caught() {
    let bad = "#[expect(clippy::disallowed_methods, reason = \"because\")] fn f() {}";
    assert_caught("src/engine/db.rs", bad, "disallowed_methods is silenced");
    let bad = "#[allow(clippy::disallowed_types)] fn f() {}";
    assert_caught("src/raft/core.rs", bad, "disallowed_types is silenced");
    assert_fine("src/raft/core.rs", "#[allow(clippy::too_many_lines)] fn f() {}");
}

#[test]
fn what_is_allowed_is_not_reported() {
    assert_fine("src/engine/db.rs", "use crate::{wal::Writer, sstable::{Table, filter}};");
    assert_fine("src/engine/db.rs", "use super::memtable::Memtable; use self::version::Version;");
    assert_fine("src/engine/db.rs", "mod tests { use super::super::memtable; }");
    assert_fine("src/node/mod.rs", "use crate::{raft, engine, proto, raft_log};");
    assert_fine("src/engine/db.rs", "use std::time::Duration; use std::sync::Arc;");
    assert_fine(
        "src/engine/db.rs",
        "fn f(disk: &dyn Disk) { disk.exists(path); disk.fs.thread(); }",
    );
    assert_fine(
        "src/engine/db.rs",
        "// use crate::server::X;\n/// crate::node::Y\nfn g() { h(\"std::fs\") }",
    );
    assert_fine("src/env/os/disk.rs", "use std::fs; use std::time::Instant; use std::thread;");
    assert_fine(
        "src/env/sim/mod.rs",
        "use rand::rngs::Xoshiro256PlusPlus; fn f(rand: u64) { g(rand) }",
    );
    assert_fine(
        "src/server/mod.rs",
        "use mio::Poll; use std::net::TcpListener; use crate::node::Node;",
    );
    assert_fine("src/client/mod.rs", "use std::net::TcpStream; use crate::proto::frame;");
    assert_fine(
        "src/wal/mod.rs",
        "#[cfg(test)] mod tests { use std::{fs, thread}; use rand::rng; }",
    );
    assert_fine("src/main.rs", "use beachdb::{server, node, engine, proto, raft};");
}

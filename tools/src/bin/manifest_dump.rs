//! `manifest_dump`: shows which tables an engine counts, and how it came to that. Layout: `proto-spec/manifest.md`.
//!
//! Read-only: it opens files for reading and never changes evidence. On a damaged file it prints what is valid, then
//! the exact fault, and exits 1.

use beachdb::engine::EngineError;
use beachdb::engine::edit::{MAX_LEVELS, RangeDelete, State, TableMeta, VersionEdit};
use beachdb::engine::manifest::{
    CURRENT, FoundEdit, decode_current, parse_table_file_name, read_current, replay,
    table_file_name,
};
use beachdb::env::os::OsDisk;
use beachdb::env::{Disk, OpenMode};
use beachdb::wal::LogKind;
use clap::Parser;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Shows a manifest: every version edit, and the state they add up to. With a directory it also checks that the
/// tables of that state are there. Read-only.
#[derive(Parser)]
#[command(name = "manifest_dump", version = beachdb::VERSION, after_help = "\
Examples:
  manifest_dump beachd-data                            # its engine/CURRENT, and the manifest that it names
  manifest_dump beachd-data/engine/0000000000000003.manifest
  manifest_dump --json beachd-data | jq 'select(.type == \"manifest\") | .state.tables[].number'

JSON, one document a line: with a directory one of \"type\":\"current\" (file, manifest); then for each manifest one of
\"type\":\"edit\" for each valid edit (file, number, offset, bytes, full, applied, last_seq, oldest_readable_seq,
next_file, installed, added, removed, range_deletes, forgotten) and one of \"type\":\"manifest\" (file, valid, edits, state, torn_tail, error); with a directory
last one of \"type\":\"tables\" (missing, wrong_length, unnamed). \"installed\" is the entry (index, term) of the snapshot that an edit or
state came from, or null. Keys are text in which other bytes than printable ASCII are
\\xNN.

Exit code: 0 when all is valid (a torn tail is: a crash cut an edit that was never acknowledged), 1 when something is
damaged or missing, 2 on wrong usage.")]
struct Args {
    /// One JSON document a line instead of text.
    #[arg(long)]
    json: bool,
    /// A data directory, an engine's directory, a manifest, or a CURRENT.
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut dump = Dump {
        disk: OsDisk::new(),
        json: args.json,
        out: BufWriter::new(io::stdout().lock()),
        errors: Vec::new(),
    };
    match dump.path(&args.path).and_then(|()| dump.out.flush()) {
        Ok(()) => {}
        // The reader of our output went away (`| head`): nothing is wrong with the manifest.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("manifest_dump: cannot write the output: {e}");
            return ExitCode::FAILURE;
        }
    }
    for error in &dump.errors {
        eprintln!("manifest_dump: {error}");
    }
    if dump.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Dump<W> {
    disk: OsDisk,
    json: bool,
    out: W,
    errors: Vec<String>,
}

impl<W: Write> Dump<W> {
    fn path(&mut self, path: &Path) -> io::Result<()> {
        if let Ok(entries) = self.disk.list(path) {
            let inner = path.join("engine");
            let is_engine = entries.iter().any(|e| e.name == CURRENT || is_manifest(&e.name));
            let dir =
                if !is_engine && self.disk.list(&inner).is_ok() { inner } else { path.into() };
            return self.dir(&dir);
        }
        if path.file_name().is_some_and(|name| name == CURRENT) {
            return self.current_file(path);
        }
        self.manifest(path, None).map(|_| ())
    }

    /// A directory: `CURRENT`, its manifest, and the tables; without a readable `CURRENT` every manifest there is.
    fn dir(&mut self, dir: &Path) -> io::Result<()> {
        let path = dir.join(CURRENT);
        let files = match self.disk.list(dir) {
            Ok(files) => files,
            Err(e) => return self.fault(&e),
        };
        match read_current(&self.disk, dir) {
            Ok(Some(number)) => {
                self.current(&path, number)?;
                let manifest = dir.join(LogKind::Manifest.file_name(number));
                if let Some(state) = self.manifest(&manifest, Some(number))? {
                    self.tables(dir, &state, &files)?;
                }
            }
            other => {
                match other {
                    Err(e) => self.fault(&e)?,
                    _ => self.fault(&format!("{}: there is none", path.display()))?,
                }
                for file in files.iter().filter(|f| is_manifest(&f.name)) {
                    self.manifest(&dir.join(&file.name), None)?;
                }
            }
        }
        Ok(())
    }

    fn current_file(&mut self, path: &Path) -> io::Result<()> {
        let read = || -> Result<u64, EngineError> {
            let file = self.disk.open(path, OpenMode::Read)?;
            // One byte more than any CURRENT has, so that a longer file is seen to be one.
            let mut bytes = vec![0; 257];
            let len = file.read_at(0, &mut bytes)?;
            decode_current(path, &bytes[..len])
        };
        match read() {
            Ok(number) => self.current(path, number),
            Err(e) => self.fault(&e),
        }
    }

    fn current(&mut self, path: &Path, number: u64) -> io::Result<()> {
        let name = LogKind::Manifest.file_name(number);
        if self.json {
            let doc =
                json!({"type": "current", "file": path.display().to_string(), "manifest": name});
            return writeln!(self.out, "{doc}");
        }
        writeln!(self.out, "{} names {name}", path.display())
    }

    /// Shows one manifest; returns its state when it is valid.
    fn manifest(&mut self, path: &Path, number: Option<u64>) -> io::Result<Option<State>> {
        if !self.json {
            writeln!(self.out, "manifest {}", path.display())?;
        }
        let file = path.display().to_string();
        let (out, json) = (&mut self.out, self.json);
        let mut written = Ok(());
        let mut last = (State::default(), 0);
        let replayed = replay(&self.disk, path, number, &mut |found, state| {
            last = (state.clone(), found.number);
            if written.is_ok() {
                written = if json { edit_json(out, &file, found) } else { edit_text(out, found) };
            }
        });
        written?;
        let (state, edits) = last;
        let error = replayed.as_ref().err().map(ToString::to_string);
        let torn_tail = replayed.ok().and_then(|replay| replay.torn_tail);
        if self.json {
            let doc = json!({
                "type": "manifest",
                "file": file,
                "valid": error.is_none(),
                "edits": edits,
                "state": state_json(&state),
                "torn_tail": torn_tail,
                "error": error,
            });
            writeln!(self.out, "{doc}")?;
        } else {
            self.summary(&state, edits, torn_tail.as_deref(), error.as_deref())?;
        }
        let valid = error.is_none();
        self.errors.extend(error);
        Ok(valid.then_some(state))
    }

    fn summary(
        &mut self,
        state: &State,
        edits: u64,
        torn_tail: Option<&str>,
        error: Option<&str>,
    ) -> io::Result<()> {
        let out = &mut self.out;
        if edits > 0 {
            let State { applied, last_seq, oldest_readable, next_file, installed, .. } = state;
            let tables = &state.tables;
            let bytes: u64 = tables.values().map(|t| t.bytes).sum();
            let entries: u64 = tables.values().map(|t| t.entries).sum();
            let s = if edits == 1 { "" } else { "s" };
            writeln!(out, "  state after {edits} edit{s}")?;
            let origin = if installed.is_some() { ", all of it from a snapshot" } else { "" };
            writeln!(out, "    applied         index {} term {}{origin}", applied.0, applied.1)?;
            writeln!(
                out,
                "    sequence        last {last_seq}, oldest readable {oldest_readable}"
            )?;
            writeln!(out, "    next file       {next_file:016x}")?;
            writeln!(
                out,
                "    tables          {}, {bytes} bytes, {entries} entries",
                tables.len()
            )?;
            for level in 0..MAX_LEVELS {
                let mut of_level: Vec<&TableMeta> = state.level(level).collect();
                if level == 0 {
                    of_level.reverse();
                } else if !of_level.is_empty() {
                    let bytes: u64 = of_level.iter().map(|t| t.bytes).sum();
                    let s = if of_level.len() == 1 { "" } else { "s" };
                    writeln!(
                        out,
                        "      level {level}: {} table{s}, {bytes} bytes",
                        of_level.len()
                    )?;
                }
                for table in of_level {
                    writeln!(out, "      {}", table_text(table))?;
                }
            }
            if !state.range_deletes.is_empty() {
                writeln!(out, "    range deletes   {}", state.range_deletes.len())?;
                for delete in state.range_deletes.values() {
                    writeln!(out, "      {}", range_delete_text(delete))?;
                }
            }
        }
        if let Some(torn) = torn_tail {
            writeln!(out, "  torn tail, cut: {torn}")?;
            writeln!(
                out,
                "    a crash cut an edit that was never acknowledged; this is not damage"
            )?;
        }
        match error {
            None => writeln!(out, "  valid: every edit was checked"),
            Some(error) => writeln!(out, "  NOT VALID after edit {edits}: {error}"),
        }
    }

    /// Whether the tables of the state are there. What is in them is `sst_dump`'s to check.
    fn tables(
        &mut self,
        dir: &Path,
        state: &State,
        files: &[beachdb::env::DirEntry],
    ) -> io::Result<()> {
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        for table in state.tables.values() {
            let name = table_file_name(table.number);
            match files.iter().find(|f| f.name == name) {
                None => missing.push(name),
                Some(file) if file.len != table.bytes => wrong.push((name, table.bytes, file.len)),
                Some(_) => {}
            }
        }
        let unnamed: Vec<&str> = files
            .iter()
            .filter(|f| {
                parse_table_file_name(&f.name).is_some_and(|n| !state.tables.contains_key(&n))
            })
            .map(|f| f.name.as_str())
            .collect();
        for name in &missing {
            self.errors.push(format!(
                "{}: the manifest names it and it is missing",
                dir.join(name).display()
            ));
        }
        for (name, expected, found) in &wrong {
            let path = dir.join(name);
            self.errors.push(format!(
                "{}: its length is {found}, the manifest says {expected}",
                path.display()
            ));
        }
        if self.json {
            let wrong: Vec<Value> = wrong
                .iter()
                .map(|(name, expected, found)| {
                    json!({"file": name, "expected": expected, "found": found})
                })
                .collect();
            let doc = json!({
                "type": "tables", "missing": missing, "wrong_length": wrong, "unnamed": unnamed,
            });
            return writeln!(self.out, "{doc}");
        }
        for name in &missing {
            writeln!(self.out, "  MISSING table {name}")?;
        }
        for (name, expected, found) in &wrong {
            writeln!(
                self.out,
                "  WRONG LENGTH of table {name}: {found}, the manifest says {expected}"
            )?;
        }
        if !unnamed.is_empty() {
            writeln!(
                self.out,
                "  tables that no edit names, removed at the next open: {}",
                unnamed.join(" ")
            )?;
        }
        if missing.is_empty() && wrong.is_empty() {
            writeln!(
                self.out,
                "  tables: all there, with the right length; sst_dump checks what is in them"
            )?;
        }
        Ok(())
    }

    fn fault(&mut self, error: &dyn std::fmt::Display) -> io::Result<()> {
        if self.json {
            let doc = json!({"type": "fault", "error": error.to_string()});
            writeln!(self.out, "{doc}")?;
        } else {
            writeln!(self.out, "NOT VALID: {error}")?;
        }
        self.errors.push(error.to_string());
        Ok(())
    }
}

fn is_manifest(name: &str) -> bool {
    LogKind::Manifest.parse_file_name(name).is_some()
}

fn range_delete_text(delete: &RangeDelete) -> String {
    let bound = |key: &[u8], none: &str| match key {
        [] => none.to_owned(),
        key => format!("\"{}\"", key.escape_ascii()),
    };
    let (start, end) = (bound(&delete.start, "the first key"), bound(&delete.end, "the last key"));
    let before = if delete.end.is_empty() { "through" } else { "up to" };
    format!("range delete {}: from {start} {before} {end}", delete.seq)
}

fn table_text(table: &TableMeta) -> String {
    let cleared = match table.cleared_to {
        0 => String::new(),
        seq => format!(", cleared to {seq}"),
    };
    format!(
        "{} level {}: {} bytes, {} entries ({} tombstones), seq {}..{}, keys \"{}\"..\"{}\"{cleared}",
        table_file_name(table.number),
        table.level,
        table.bytes,
        table.entries,
        table.deletes,
        table.smallest_seq,
        table.largest_seq,
        table.smallest_key.escape_ascii(),
        table.largest_key.escape_ascii(),
    )
}

fn edit_text(out: &mut dyn Write, found: &FoundEdit) -> io::Result<()> {
    let VersionEdit {
        full,
        applied,
        last_seq,
        oldest_readable,
        next_file,
        installed,
        added,
        removed,
        range_deletes,
        forgotten,
    } = &found.edit;
    let mut parts = Vec::new();
    if let Some((index, term)) = applied {
        parts.push(format!("applied {index} term {term}"));
    }
    parts.extend(last_seq.map(|seq| format!("last seq {seq}")));
    parts.extend(oldest_readable.map(|seq| format!("oldest readable {seq}")));
    parts.extend(next_file.map(|number| format!("next file {number:016x}")));
    if let Some((index, term)) = installed {
        parts.push(format!("installed from a snapshot of entry {index} term {term}"));
    }
    let FoundEdit { number, offset, bytes, .. } = found;
    let kind = if *full { "full edit" } else { "edit" };
    writeln!(out, "  {kind} {number} @ {offset} ({bytes} bytes): {}", parts.join(", "))?;
    for (level, number) in removed {
        writeln!(out, "    - {} level {level}", table_file_name(*number))?;
    }
    for table in added {
        writeln!(out, "    + {}", table_text(table))?;
    }
    for seq in forgotten {
        writeln!(out, "    - range delete {seq}")?;
    }
    for delete in range_deletes {
        writeln!(out, "    + {}", range_delete_text(delete))?;
    }
    Ok(())
}

fn edit_json(out: &mut dyn Write, file: &str, found: &FoundEdit) -> io::Result<()> {
    let edit = &found.edit;
    let removed: Vec<Value> = edit
        .removed
        .iter()
        .map(|(level, number)| json!({"level": level, "number": number}))
        .collect();
    let doc = json!({
        "type": "edit",
        "file": file,
        "number": found.number,
        "offset": found.offset,
        "bytes": found.bytes,
        "full": edit.full,
        "applied": edit.applied.map(|(index, term)| json!({"index": index.0, "term": term.0})),
        "last_seq": edit.last_seq.map(|s| s.0),
        "oldest_readable_seq": edit.oldest_readable.map(|s| s.0),
        "next_file": edit.next_file,
        "installed": edit.installed.map(|(index, term)| json!({"index": index.0, "term": term.0})),
        "added": edit.added,
        "removed": removed,
        "range_deletes": edit.range_deletes,
        "forgotten": edit.forgotten,
    });
    writeln!(out, "{doc}")
}

fn state_json(state: &State) -> Value {
    json!({
        "applied": {"index": state.applied.0.0, "term": state.applied.1.0},
        "last_seq": state.last_seq.0,
        "oldest_readable_seq": state.oldest_readable.0,
        "next_file": state.next_file,
        "installed": state.installed.map(|(index, term)| json!({"index": index.0, "term": term.0})),
        "tables": state.tables.values().collect::<Vec<_>>(),
        "range_deletes": state.range_deletes.values().collect::<Vec<_>>(),
    })
}

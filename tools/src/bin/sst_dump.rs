//! `sst_dump`: shows what is in sorted tables. Layout: `proto-spec/sstable.md`.
//!
//! Read-only: it opens files for reading and never changes evidence. Every run reads every block and checks every
//! claim the table makes. On a damaged file it prints what is valid, then each fault with its offset, and exits 1.

use beachdb::base::internal_key::{ValueKind, unpack_trailer};
use beachdb::env::os::OsDisk;
use beachdb::env::{Disk, File, OpenMode};
use beachdb::sstable::format::{BlockType, SEPARATOR_TRAILER};
use beachdb::sstable::{Fault, Table, TableError, filter, verify};
use clap::Parser;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Bytes of a value that the text output shows; `--json` shows all.
const VALUE_SHOWN_BYTES: usize = 64;

/// Shows what is in BeachDB's sorted tables (*.sst), read-only, and checks every byte of them.
#[derive(Parser)]
#[command(name = "sst_dump", version = beachdb::VERSION, after_help = "\
Examples:
  sst_dump beachd-data/engine/0000000000000001.sst
  sst_dump --entries beachd-data/engine/*.sst
  sst_dump --properties 0000000000000001.sst
  sst_dump --json --entries 0000000000000001.sst | jq -c 'select(.type == \"entry\")'

JSON, one document a line: one of \"type\":\"table\" for each file (file, bytes, format_version, compression, filter,
properties, index, blocks, valid, faults, error), followed with --entries by one of \"type\":\"entry\" for each entry
(file, block, key, seq, kind, value). With --properties \"derived\" stands in the place of index. Keys and values are text in which other bytes than printable ASCII are \\xNN.

Exit code: 0 when every file is a valid table, 1 when one is not, 2 on wrong usage.")]
struct Args {
    /// Show every entry: user key, sequence number, kind, value.
    #[arg(long)]
    entries: bool,
    /// Show what the properties add up to instead of the list of blocks: averages, shares, memory of the open table.
    #[arg(long)]
    properties: bool,
    /// One JSON document a line instead of text.
    #[arg(long)]
    json: bool,
    /// Tables.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut valid = true;
    for path in &args.files {
        match Dump::of(path).print(&args, &mut out).and_then(|ok| out.flush().map(|()| ok)) {
            Ok(ok) => valid &= ok,
            // The reader of our output went away (`| head`): nothing is wrong with the table.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("sst_dump: cannot write the output: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A block that is intact, in a file that does not open as a table.
struct FoundBlock {
    block_type: BlockType,
    offset: u64,
    len: u64,
}

/// All that can be said about one file.
struct Dump<'a> {
    path: &'a Path,
    bytes: Option<u64>,
    table: Option<Table>,
    /// Without a table: the intact blocks at the front of the file.
    found: Vec<FoundBlock>,
    /// By data block of the table, whether it is intact.
    intact: Vec<bool>,
    errors: Vec<TableError>,
}

impl<'a> Dump<'a> {
    fn of(path: &'a Path) -> Self {
        let mut dump = Self {
            path,
            bytes: None,
            table: None,
            found: Vec::new(),
            intact: Vec::new(),
            errors: Vec::new(),
        };
        match OsDisk::new().open(path, OpenMode::Read) {
            Ok(file) => dump.read(&file),
            Err(e) => dump.errors.push(e.into()),
        }
        dump
    }

    fn read(&mut self, file: &Arc<dyn File>) {
        self.bytes = file.len().ok();
        match Table::open(Arc::clone(file), 0) {
            Ok(table) => {
                self.check_blocks(&table);
                // Claims across blocks can only be checked when all of them are intact.
                if self.errors.is_empty()
                    && let Err(e) = table.verify()
                {
                    self.errors.push(e);
                }
                self.table = Some(table);
            }
            Err(e) => {
                let damaged = e.is_corruption();
                self.errors.push(e);
                if damaged {
                    self.walk(&**file);
                }
            }
        }
    }

    fn check_blocks(&mut self, table: &Table) {
        for i in 0..table.data_blocks() {
            let checked = table.for_each_in_block(i, &mut |_, _, _| {});
            self.intact.push(checked.is_ok());
            self.errors.extend(checked.err());
        }
    }

    /// Finds the intact blocks at the front of a file whose footer or index is gone.
    fn walk(&mut self, file: &dyn File) {
        let walked = verify::walk(file, &mut |block| {
            self.found.push(FoundBlock {
                block_type: block.block_type,
                offset: block.handle.offset,
                len: block.handle.len,
            });
            true
        });
        match walked {
            Ok(None) => {}
            Ok(Some(fault)) if self.errors.iter().any(|e| e.fault() == Some(&fault)) => {}
            Ok(Some(fault)) => self.errors.push(fault.in_file(self.path)),
            Err(e) => self.errors.push(e),
        }
    }

    fn print(&self, args: &Args, out: &mut dyn Write) -> io::Result<bool> {
        if args.json {
            writeln!(out, "{}", self.json(args.properties))?;
            if args.entries {
                self.json_entries(out)?;
            }
        } else {
            self.text(args, out)?;
        }
        out.flush()?;
        for error in &self.errors {
            match error.fault() {
                Some(fault) => eprintln!("sst_dump: {}: {fault}", self.path.display()),
                None => eprintln!("sst_dump: {error}"),
            }
        }
        Ok(self.errors.is_empty())
    }

    fn text(&self, args: &Args, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "table {}", self.path.display())?;
        if let Some(table) = &self.table {
            text_summary(table, out)?;
            if args.properties {
                text_derived(&Derived::of(table), out)?;
            }
            if args.entries || !args.properties {
                self.text_blocks(table, args.entries, out)?;
            }
        }
        if !self.found.is_empty() {
            writeln!(out, "  intact blocks from the front")?;
            for block in &self.found {
                let FoundBlock { block_type, offset, len } = block;
                writeln!(out, "    @ {offset:<10} {len:>8} bytes  {}", block_type.name())?;
            }
        }
        match self.errors.len() {
            0 => writeln!(out, "  valid: every block, key, and property was checked"),
            n => writeln!(out, "  NOT VALID: {n} {}", if n == 1 { "fault" } else { "faults" }),
        }?;
        for error in &self.errors {
            match error.fault() {
                Some(fault) => writeln!(out, "    {fault}")?,
                None => writeln!(out, "    {error}")?,
            }
        }
        Ok(())
    }

    fn text_blocks(&self, table: &Table, entries: bool, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "  data blocks")?;
        for (i, intact) in self.intact.iter().enumerate() {
            let (key, trailer, handle) = table.index_entry(i);
            writeln!(
                out,
                "    #{i:<4} @ {:<10} {:>8} bytes  keys {}{}",
                handle.offset,
                handle.len,
                separator(key, trailer),
                if *intact { "" } else { "  DAMAGED" },
            )?;
            if entries && *intact {
                let mut written = Ok(());
                let shown = table.for_each_in_block(i, &mut |key, trailer, value| {
                    if written.is_ok() {
                        written = text_entry(out, key, trailer, value);
                    }
                });
                written?;
                debug_assert!(shown.is_ok(), "the block was intact a moment ago");
            }
        }
        Ok(())
    }

    fn json(&self, derived: bool) -> Value {
        let faults: Vec<Value> = self
            .errors
            .iter()
            .map(|e| match e.fault() {
                Some(Fault { offset, what, expected, found }) => json!({
                    "offset": offset, "what": what, "expected": expected, "found": found,
                    "error": e.to_string()
                }),
                None => json!({ "error": e.to_string() }),
            })
            .collect();
        let found: Vec<Value> = self
            .found
            .iter()
            .map(|b| json!({ "type": b.block_type.name(), "offset": b.offset, "bytes": b.len }))
            .collect();
        let mut doc = json!({
            "type": "table",
            "schema": 1,
            "file": self.path.display().to_string(),
            "bytes": self.bytes,
            "valid": self.errors.is_empty(),
            "faults": faults,
        });
        if !found.is_empty() {
            doc["intact_blocks"] = found.into();
        }
        if let Some(table) = &self.table {
            doc["format_version"] = beachdb::sstable::format::FORMAT_VERSION.into();
            doc["compression"] = table.compression().name().into();
            doc["filter"] = json_filter(table);
            doc["properties"] = json_properties(table);
            if derived {
                doc["derived"] = Derived::of(table).json();
            } else {
                doc["index"] = self.json_index(table);
            }
        }
        doc
    }

    fn json_index(&self, table: &Table) -> Value {
        let blocks = self.intact.iter().enumerate().map(|(i, intact)| {
            let (key, trailer, handle) = table.index_entry(i);
            json!({
                "block": i, "intact": intact, "offset": handle.offset, "bytes": handle.len,
                "separator": text(key), "separator_trailer": hex(trailer),
            })
        });
        blocks.collect()
    }

    fn json_entries(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        let file = self.path.display().to_string();
        for i in (0..table.data_blocks()).filter(|i| self.intact[*i]) {
            let mut written = Ok(());
            let shown = table.for_each_in_block(i, &mut |key, trailer, value| {
                let (seq, kind) = seq_and_kind(trailer);
                let entry = json!({
                    "type": "entry", "file": file, "block": i, "key": text(key), "seq": seq,
                    "kind": kind, "value": text(value),
                });
                if written.is_ok() {
                    written = writeln!(out, "{entry}");
                }
            });
            written?;
            debug_assert!(shown.is_ok(), "the block was intact a moment ago");
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A trailer in JSON, whose numbers are not exact above 2^53 in many readers.
fn hex(trailer: u64) -> String {
    format!("{trailer:#x}")
}

fn seq_and_kind(trailer: u64) -> (u64, String) {
    match unpack_trailer(trailer) {
        Some((seq, ValueKind::Put)) => (seq.0, "put".into()),
        Some((seq, ValueKind::Delete)) => (seq.0, "delete".into()),
        None => (trailer >> 8, format!("unknown {}", trailer & 0xff)),
    }
}

fn text_key(key: &[u8], trailer: u64) -> String {
    let (seq, kind) = seq_and_kind(trailer);
    format!("\"{}\" @ {seq} {kind}", text(key))
}

/// What the keys of a block are below.
fn separator(key: &[u8], trailer: u64) -> String {
    if trailer == SEPARATOR_TRAILER {
        format!("< \"{}\"", text(key))
    } else {
        format!("<= {}", text_key(key, trailer))
    }
}

fn text_entry(out: &mut dyn Write, key: &[u8], trailer: u64, value: &[u8]) -> io::Result<()> {
    write!(out, "            {}", text_key(key, trailer))?;
    if trailer as u8 == ValueKind::Delete as u8 && value.is_empty() {
        return writeln!(out);
    }
    let shown = text(&value[..value.len().min(VALUE_SHOWN_BYTES)]);
    let more = value.len().saturating_sub(VALUE_SHOWN_BYTES);
    let more = if more > 0 { format!(" … {more} more bytes") } else { String::new() };
    writeln!(out, " \"{shown}\"{more}")
}

fn text_summary(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    let (p, footer) = (table.properties(), table.footer());
    writeln!(out, "  length       {} bytes", table.bytes())?;
    writeln!(
        out,
        "  format       version {}, compression {}, filter {}",
        beachdb::sstable::format::FORMAT_VERSION,
        table.compression(),
        filter::name(footer.filter_id)
    )?;
    writeln!(
        out,
        "  entries      {} ({} puts, {} deletes) of {} keys",
        p.entries, p.puts, p.deletes, p.user_keys
    )?;
    writeln!(out, "  sequence     {} … {}", p.smallest_seq, p.largest_seq)?;
    writeln!(out, "  first        {}", text_key(&p.smallest_key, p.smallest_trailer))?;
    writeln!(out, "  last         {}", text_key(&p.largest_key, p.largest_trailer))?;
    writeln!(
        out,
        "  raw          {} key bytes, {} value bytes",
        p.raw_key_bytes, p.raw_value_bytes
    )?;
    writeln!(
        out,
        "  data         {} blocks, {} bytes; built for {} bytes a block, a restart point every {} entries",
        p.data_blocks, p.data_bytes, p.block_bytes, p.restart_interval
    )?;
    for (name, value) in &p.unknown {
        writeln!(out, "  {name} (not known to this version) \"{}\"", text(value))?;
    }
    if let Some(filter) = table.filter() {
        let f = filter.summary();
        let percent = 100.0 * f.bits_set as f64 / f.bits as f64;
        writeln!(
            out,
            "  filter       @ {} {} bytes: {}, {} keys, {} probes, {} bits, {} set ({percent:.1} %)",
            footer.filter.offset, footer.filter.len, f.name, f.keys, f.probes, f.bits, f.bits_set,
        )?;
    }
    writeln!(out, "  index        @ {} {} bytes", footer.index.offset, footer.index.len)?;
    writeln!(out, "  properties   @ {} {} bytes", footer.properties.offset, footer.properties.len)
}

/// What the properties add up to.
struct Derived {
    key_bytes_average: f64,
    value_bytes_average: f64,
    versions_per_key: f64,
    delete_percent: f64,
    entries_per_block: f64,
    /// Bytes of blocks of each 100 bytes of keys, trailers, and values.
    data_percent: f64,
    overhead_percent: f64,
    filter_bits_per_key: f64,
    index_bytes_per_block: f64,
    memory_bytes: usize,
}

impl Derived {
    fn of(table: &Table) -> Self {
        let (p, footer) = (table.properties(), table.footer());
        let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
        let raw = p.raw_key_bytes + p.raw_value_bytes + 8 * p.entries;
        Self {
            key_bytes_average: ratio(p.raw_key_bytes, p.entries),
            value_bytes_average: ratio(p.raw_value_bytes, p.puts),
            versions_per_key: ratio(p.entries, p.user_keys),
            delete_percent: 100.0 * ratio(p.deletes, p.entries),
            entries_per_block: ratio(p.entries, p.data_blocks),
            data_percent: 100.0 * ratio(p.data_bytes, raw),
            overhead_percent: 100.0 * ratio(table.bytes() - p.data_bytes, table.bytes()),
            filter_bits_per_key: ratio(8 * footer.filter.len, p.user_keys),
            index_bytes_per_block: ratio(footer.index.len, p.data_blocks),
            memory_bytes: table.memory_bytes(),
        }
    }

    fn json(&self) -> Value {
        let round = |x: f64| (x * 100.0).round() / 100.0;
        json!({
            "key_bytes_average": round(self.key_bytes_average),
            "value_bytes_average": round(self.value_bytes_average),
            "versions_per_key": round(self.versions_per_key),
            "delete_percent": round(self.delete_percent),
            "entries_per_block": round(self.entries_per_block),
            "data_percent_of_raw": round(self.data_percent),
            "overhead_percent_of_file": round(self.overhead_percent),
            "filter_bits_per_key": round(self.filter_bits_per_key),
            "index_bytes_per_block": round(self.index_bytes_per_block),
            "memory_bytes_when_open": self.memory_bytes,
        })
    }
}

fn text_derived(d: &Derived, out: &mut dyn Write) -> io::Result<()> {
    let lines = [
        (
            "average",
            format!(
                "{:.1} key bytes, {:.1} value bytes",
                d.key_bytes_average, d.value_bytes_average
            ),
        ),
        (
            "versions",
            format!("{:.2} a key, {:.1} % of them deletes", d.versions_per_key, d.delete_percent),
        ),
        (
            "blocks",
            format!(
                "{:.1} entries each; {:.1} bytes for each 100 of keys, trailers, and values",
                d.entries_per_block, d.data_percent
            ),
        ),
        (
            "beside data",
            format!(
                "{:.1} % of the file; filter {:.1} bits a key, index {:.1} bytes a block",
                d.overhead_percent, d.filter_bits_per_key, d.index_bytes_per_block
            ),
        ),
        ("in memory", format!("{} bytes while it is open", d.memory_bytes)),
    ];
    for (name, text) in lines {
        writeln!(out, "  {name:<12} {text}")?;
    }
    Ok(())
}

fn json_filter(table: &Table) -> Value {
    let Some(filter) = table.filter() else {
        return json!({ "id": table.footer().filter_id, "name": "none" });
    };
    let f = filter.summary();
    json!({
        "id": table.footer().filter_id, "name": f.name, "keys": f.keys, "probes": f.probes,
        "bits": f.bits, "bits_set": f.bits_set,
    })
}

fn json_properties(table: &Table) -> Value {
    let p = table.properties();
    let unknown: serde_json::Map<String, Value> =
        p.unknown.iter().map(|(name, value)| (name.clone(), text(value).into())).collect();
    json!({
        "entries": p.entries, "puts": p.puts, "deletes": p.deletes, "user_keys": p.user_keys,
        "raw_key_bytes": p.raw_key_bytes, "raw_value_bytes": p.raw_value_bytes,
        "data_blocks": p.data_blocks, "data_bytes": p.data_bytes, "block_bytes": p.block_bytes,
        "restart_interval": p.restart_interval, "smallest_seq": p.smallest_seq,
        "largest_seq": p.largest_seq, "smallest_key": text(&p.smallest_key),
        "smallest_trailer": hex(p.smallest_trailer), "largest_key": text(&p.largest_key),
        "largest_trailer": hex(p.largest_trailer), "unknown": unknown,
    })
}

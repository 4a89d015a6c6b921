//! `wal_dump`: shows what is in the segments of a WAL or a Raft log. Layout: `proto-spec/wal.md`.
//!
//! Read-only: it opens files for reading and never changes evidence. What is valid is printed, then the exact fault.
//! A torn tail, which recovery would cut, is a note and exit code 0; damage, which recovery would refuse, is exit code 1,
//! and the dump goes on at the next valid group behind it.

use beachdb::base::batch::{BatchRef, Op};
use beachdb::base::{Member, Membership, ReplicaId};
use beachdb::env::os::OsDisk;
use beachdb::env::{Disk, OpenMode};
use beachdb::proto::explain::{conditions_json, membership_json};
use beachdb::raft_log::{
    SLOT_BASELINE, SLOT_CLUSTER, SLOT_HARD_STATE, SLOT_MEMBERSHIP, decode_baseline, decode_cluster,
    decode_hard_state, decode_membership,
};
use beachdb::wal::recovery::Chain;
use beachdb::wal::segment::{ScanEnd, SegmentReader, scan};
use beachdb::wal::{LogKind, LogPos, Record, RecordKind, SegmentHeader, VERSION, WalError};
use clap::Parser;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes of a value that the text output shows; `--json` shows all.
const VALUE_SHOWN_BYTES: usize = 64;

/// Shows what is in BeachDB's write-ahead logs (*.wal) and Raft logs (*.rlog), read-only, and checks every record.
#[derive(Parser)]
#[command(name = "wal_dump", version = beachdb::VERSION, after_help = "\
Examples:
  wal_dump beachd-data/raft
  wal_dump --decode beachd-data/raft/0000000000000001.rlog
  wal_dump --json --decode beachd-data/raft | jq -c 'select(.type == \"record\" and .kind == \"data\")'

A directory is read as recovery reads it: which segments count, and up to where. A file alone is read as if it were
the newest segment.

JSON, one document a line: \"type\":\"segment\" (file, kind, segment, first_index, continues, born_durable_to, limit, …),
\"type\":\"record\" (file, offset, kind, bytes, and by kind durable_to, index, term, from, slot; with --decode also ops,
hard_state, or baseline), \"type\":\"end\" (file, offset, records, verdict, durable_to, fault), \"type\":\"note\", and
\"type\":\"fault\" (file, error). Positions are {\"segment\":…,\"offset\":…}. Keys and values are text in which other bytes
than printable ASCII are \\xNN.
Verdicts: continued (a newer segment takes over here), clean, torn (recovery cuts here), stale (the same in a recycled
segment, where it may be what the file held before), damaged.

Exit code: 0 when recovery would accept it, 1 when it would refuse it or a file cannot be read, 2 on wrong usage.")]
struct Args {
    /// Show the operations of batches, and the Raft log's states.
    #[arg(long)]
    decode: bool,
    /// One JSON document a line instead of text.
    #[arg(long)]
    json: bool,
    /// A segment file, or the directory of a log.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut dump = Dump {
        args: &args,
        disk: OsDisk::new(),
        out: BufWriter::new(io::stdout().lock()),
        faults: 0,
    };
    let written = dump.path(&args.path).and_then(|()| dump.out.flush());
    match written {
        Ok(()) if dump.faults == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        // The reader of our output went away (`| head`): nothing is wrong with the log.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wal_dump: cannot write the output: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Dump<'a> {
    args: &'a Args,
    disk: OsDisk,
    out: BufWriter<io::StdoutLock<'static>>,
    faults: u32,
}

impl Dump<'_> {
    fn path(&mut self, path: &Path) -> io::Result<()> {
        if !path.is_dir() {
            return self.file(path, None);
        }
        let entries = match self.disk.list(path) {
            Ok(entries) => entries,
            Err(error) => return self.fault(path, &error.into()),
        };
        let mut found = false;
        for kind in [LogKind::Wal, LogKind::RaftLog] {
            let is_segment = |name: &str| kind.parse_file_name(name).is_some();
            let files: Vec<_> = entries
                .iter()
                .filter(|e| is_segment(&e.name))
                .map(|e| path.join(&e.name))
                .collect();
            if !files.is_empty() {
                found = true;
                self.chain(kind, path, &files)?;
            }
        }
        if !found {
            eprintln!("wal_dump: {}: no *.wal or *.rlog files here", path.display());
            self.faults += 1;
        }
        Ok(())
    }

    /// The segments of a directory, as recovery sees them; one by one when it would see none.
    fn chain(&mut self, kind: LogKind, dir: &Path, files: &[PathBuf]) -> io::Result<()> {
        let chain = match Chain::read(&self.disk, kind, dir) {
            Ok(chain) => chain,
            Err(error) => {
                let before = self.faults;
                files.iter().try_for_each(|file| self.file(file, None))?;
                // A bad header was named in its file's place; a missing segment has no file.
                return if self.faults == before { self.fault(dir, &error) } else { Ok(()) };
            }
        };
        for segment in &chain.segments {
            self.file(&segment.path, segment.limit)?;
        }
        for path in &chain.superseded {
            self.note(path, "superseded: a newer segment took its place; recovery removes it")?;
        }
        for path in &chain.leftovers {
            self.note(path, "a spare or temporary file; recovery removes it")?;
        }
        Ok(())
    }

    /// One segment; `limit` is where the next one takes over.
    fn file(&mut self, path: &Path, limit: Option<u64>) -> io::Result<()> {
        let opened = match self.disk.open(path, OpenMode::Read) {
            Ok(file) => SegmentReader::open(file, None),
            Err(error) => Err(error.into()),
        };
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => return self.fault(path, &error),
        };
        let header = *reader.header();
        if header.kind == LogKind::Manifest {
            let found = "a manifest (use manifest_dump)".to_owned();
            return self.fault(
                path,
                &WalError::WrongKind { path: path.into(), expected: "wal or rlog", found },
            );
        }
        self.header(&reader, limit)?;
        match limit {
            Some(limit) => self.continued(&mut reader, limit),
            None => self.newest(&mut reader),
        }
    }

    fn header(&mut self, reader: &SegmentReader, limit: Option<u64>) -> io::Result<()> {
        let h: &SegmentHeader = reader.header();
        let file = reader.path().display();
        let continues = (h.continues != LogPos::ZERO).then_some(h.continues);
        if self.args.json {
            let doc = json!({
                "type": "segment", "schema": 1, "file": file.to_string(), "kind": h.kind.extension(),
                "format_version": VERSION, "bytes": reader.file_len(), "segment": h.id, "first_index": h.first_index,
                "continues": continues.map(position), "born_durable_to": h.born_durable_to,
                "recycled_from": (h.recycled_from != 0).then_some(h.recycled_from), "limit": limit,
            });
            return writeln!(self.out, "{doc}");
        }
        writeln!(self.out, "segment {file}")?;
        writeln!(self.out, "  kind         {}, format version {VERSION}", h.kind.extension())?;
        writeln!(
            self.out,
            "  segment      {} of {} bytes, first index {}",
            h.id,
            reader.file_len(),
            h.first_index
        )?;
        match continues {
            Some(pos) => writeln!(self.out, "  continues    {pos}")?,
            None => writeln!(self.out, "  continues    nothing, it is the first")?,
        }
        writeln!(self.out, "  born         durable up to offset {}", h.born_durable_to)?;
        if h.recycled_from != 0 {
            writeln!(self.out, "  recycled     from segment {}", h.recycled_from)?;
        }
        Ok(())
    }

    /// A segment that a newer one continues: everything below `limit` must be valid, the rest does not count.
    fn continued(&mut self, reader: &mut SegmentReader, limit: u64) -> io::Result<()> {
        let mut records = 0;
        loop {
            if reader.offset() >= limit {
                break;
            }
            match reader.expect_record() {
                Ok(record) => {
                    records += 1;
                    let shown = self.record_text(&record, None);
                    self.show(reader.path(), shown)?;
                }
                Err(error) => {
                    self.fault(reader.path(), &error)?;
                    if !self.resume(reader, limit)? {
                        break;
                    }
                }
            }
        }
        let (end, path) = (reader.offset(), reader.path().to_path_buf());
        if self.args.json {
            return self.show(&path, json!({
                "type": "end", "offset": end.min(limit), "records": records, "verdict": "continued", "limit": limit,
            }));
        }
        let rest = reader.file_len().saturating_sub(limit);
        let rest =
            if rest > 0 { format!("; {rest} bytes behind it do not count") } else { String::new() };
        writeln!(self.out, "  @ {limit:<10} continued by a newer segment; {records} records{rest}")
    }

    /// The newest segment (or a file alone): its end is judged by the watermarks.
    fn newest(&mut self, reader: &mut SegmentReader) -> io::Result<()> {
        let start = reader.offset();
        let end = match scan(reader, &mut |_| Ok(())) {
            Ok(end) => end,
            Err(error) => return self.fault(reader.path(), &error),
        };
        let damage = end.check(reader.path());
        reader.seek(start);
        let mut records = 0;
        loop {
            match reader.next_record() {
                Ok(Ok(record)) => {
                    records += 1;
                    let mark = (end.watermark.durable_to == record.pos).then_some(end.watermark);
                    let shown = self.record_text(&record, mark.map(|m| m.durable_to));
                    self.show(reader.path(), shown)?;
                }
                Ok(Err(_)) if damage.is_ok() => break,
                Ok(Err(fault)) => {
                    let limit = end.watermark.durable_to.offset();
                    if reader.offset() == end.end {
                        if let Err(error) = &damage {
                            self.fault(reader.path(), error)?;
                        }
                    } else if reader.offset() < limit {
                        let (path, offset) = (reader.path().to_path_buf(), reader.offset());
                        let text =
                            format!("{}: also corrupt at offset {offset}: {fault}", path.display());
                        self.fault_text(&path, &text)?;
                    } else {
                        break;
                    }
                    if !self.resume(reader, u64::MAX)? {
                        break;
                    }
                }
                Err(error) => return self.fault(reader.path(), &error.into()),
            }
        }
        self.end(reader, &end, records)
    }

    /// Goes to the next valid group behind damage; whether there is one below `limit`.
    fn resume(&mut self, reader: &mut SegmentReader, limit: u64) -> io::Result<bool> {
        let from = reader.offset();
        match reader.find_group(from + 8) {
            Ok(Some(found)) if found.group.offset() < limit => {
                let to = found.group.offset();
                reader.seek(to);
                self.note(
                    reader.path(),
                    &format!("skipped {} bytes to the next valid group", to - from),
                )?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => self.fault(reader.path(), &error.into()).map(|()| false),
        }
    }

    fn end(&mut self, reader: &mut SegmentReader, end: &ScanEnd, records: u64) -> io::Result<()> {
        reader.seek(end.end);
        let rest_is_zero = match reader.rest_is_zero() {
            Ok(zero) => zero,
            Err(error) => return self.fault(reader.path(), &error.into()),
        };
        let recycled_from = reader.header().recycled_from;
        let verdict = match (end.is_damage(), rest_is_zero) {
            (true, _) => "damaged",
            (false, true) => "clean",
            (false, false) if recycled_from != 0 => "stale",
            (false, false) => "torn",
        };
        let (offset, durable_to) = (end.end, end.watermark.durable_to.offset());
        if self.args.json {
            let path = reader.path().to_path_buf();
            return self.show(&path, json!({
                "type": "end", "offset": offset, "records": records, "verdict": verdict,
                "durable_to": position(end.watermark.durable_to),
                "fault": (verdict != "clean").then(|| json!({
                    "offset": offset, "expected": end.fault.expected(), "found": end.fault.found(),
                })),
            }));
        }
        match end.fault.is_clean_end() {
            true => {
                writeln!(self.out, "  @ {offset:<10} end of the records: {}", end.fault.found())?
            }
            false => writeln!(self.out, "  @ {offset:<10} end of the records: {}", end.fault)?,
        }
        writeln!(
            self.out,
            "  durable      up to offset {durable_to}, by the group at {}",
            end.watermark.group.offset()
        )?;
        let bytes = reader.file_len().saturating_sub(offset);
        match verdict {
            "damaged" => return writeln!(self.out, "  DAMAGED: recovery refuses this log"),
            "torn" => writeln!(
                self.out,
                "  note: torn: recovery cuts the {bytes} bytes from offset {offset}; none were known to be durable"
            )?,
            "stale" => writeln!(
                self.out,
                "  note: behind the end are {bytes} bytes, stale ones of segment {recycled_from} or a torn write; \
                 recovery cuts them"
            )?,
            _ => {}
        }
        writeln!(self.out, "  valid: {records} records")
    }

    /// Shows a record's line, or its document with the file added.
    fn show(&mut self, path: &Path, mut shown: Value) -> io::Result<()> {
        if let Value::String(text) = &shown {
            return write!(self.out, "{text}");
        }
        shown["file"] = path.display().to_string().into();
        writeln!(self.out, "{shown}")
    }

    /// A record as text lines or as a JSON document. `mark`: everything before this record is known to be durable.
    fn record_text(&self, record: &Record<'_>, mark: Option<LogPos>) -> Value {
        if self.args.json {
            self.record_json(record)
        } else {
            self.record_lines(record, mark).into()
        }
    }

    fn record_lines(&self, record: &Record<'_>, mark: Option<LogPos>) -> String {
        let mut text = String::new();
        if mark.is_some() {
            text += "  ------------ known to be durable up to here\n";
        }
        let at = record.pos.offset();
        let (index, aux, bytes) = (record.index, record.aux, record.payload.len());
        let what = match record.kind {
            RecordKind::Group => format!("durable to {}", LogPos(aux)),
            RecordKind::Data if aux == 0 => format!("index {index}, {bytes} bytes"),
            RecordKind::Data => format!("index {index}, term {aux}, {bytes} bytes"),
            RecordKind::Truncate => format!("from index {index}"),
            RecordKind::State => format!("slot {index}, format {aux}, {bytes} bytes"),
        };
        text += &format!("  @ {at:<10} {:<8} {what}\n", record.kind.name());
        if self.args.decode {
            for line in decoded(record) {
                text += &format!("{:23}{line}\n", "");
            }
        }
        text
    }

    fn record_json(&self, record: &Record<'_>) -> Value {
        let mut doc = json!({
            "type": "record", "offset": record.pos.offset(), "kind": record.kind.name(), "bytes": record.payload.len(),
        });
        match record.kind {
            RecordKind::Group => doc["durable_to"] = position(LogPos(record.aux)),
            RecordKind::Data => {
                doc["index"] = record.index.into();
                doc["term"] = record.aux.into();
            }
            RecordKind::Truncate => doc["from"] = record.index.into(),
            RecordKind::State => {
                doc["slot"] = record.index.into();
                doc["format"] = record.aux.into();
            }
        }
        if self.args.decode {
            decode_json(record, &mut doc);
        }
        doc
    }

    fn note(&mut self, path: &Path, text: &str) -> io::Result<()> {
        if self.args.json {
            return self.show(path, json!({ "type": "note", "note": text }));
        }
        writeln!(self.out, "  note: {}: {text}", path.display())
    }

    fn fault(&mut self, path: &Path, error: &WalError) -> io::Result<()> {
        self.fault_text(path, &error.to_string())
    }

    /// Faults go to stderr, and in their place to stdout.
    fn fault_text(&mut self, path: &Path, text: &str) -> io::Result<()> {
        self.faults += 1;
        if self.args.json {
            self.show(path, json!({ "type": "fault", "error": text }))?;
        } else {
            writeln!(self.out, "  FAULT: {text}")?;
        }
        self.out.flush()?;
        eprintln!("wal_dump: {text}");
        Ok(())
    }
}

fn position(pos: LogPos) -> Value {
    json!({ "segment": pos.segment(), "offset": pos.offset() })
}

/// The payload in words, one line an operation.
fn decoded(record: &Record<'_>) -> Vec<String> {
    match record.kind {
        RecordKind::Data => match BatchRef::parse(record.payload) {
            Ok(batch) => batch_lines(&batch),
            Err(error) => vec![format!("not a batch: {error}")],
        },
        RecordKind::State => vec![state_line(record)],
        RecordKind::Group | RecordKind::Truncate => Vec::new(),
    }
}

fn batch_lines(batch: &BatchRef<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if batch.client_id() != 0 {
        lines.push(format!(
            "client {}, sequence {}, acked below {}",
            batch.client_id(),
            batch.client_sequence(),
            batch.acked_below()
        ));
    }
    lines.extend(batch.conditions().map(|c| format!("if \"{}\" {}", text(c.key), c.expect)));
    lines.extend(batch.ops().map(|op| match op {
        Op::Put { key, value } => {
            let shown = text(&value[..value.len().min(VALUE_SHOWN_BYTES)]);
            let more = value.len().saturating_sub(VALUE_SHOWN_BYTES);
            let more = if more > 0 { format!(" … {more} more bytes") } else { String::new() };
            format!("put \"{}\" = \"{shown}\"{more}", text(key))
        }
        Op::Delete { key } => format!("delete \"{}\"", text(key)),
        Op::DeleteRange { start, end } => {
            format!("delete range \"{}\" to \"{}\"", text(start), text(end))
        }
        Op::NoOp => "no-op".to_owned(),
        Op::Register => "register a session".to_owned(),
        Op::Membership(encoded) => match Membership::decode(encoded) {
            Ok(membership) => format!("membership: {}", members_text(&membership)),
            Err(error) => format!("not a membership: {error}"),
        },
    }));
    lines
}

fn state_line(record: &Record<'_>) -> String {
    let unknown = || format!("\"{}\"", text(record.payload));
    match record.index {
        SLOT_HARD_STATE => match decode_hard_state(record.aux, record.payload) {
            Some(state) => {
                let vote = state.vote.map_or("nobody".to_owned(), |vote| format!("node {vote}"));
                format!("hard state: term {}, voted for {vote}", state.term)
            }
            None => unknown(),
        },
        SLOT_BASELINE => match decode_baseline(record.aux, record.payload) {
            Some((index, term)) => format!("baseline: released up to index {index} of term {term}"),
            None => unknown(),
        },
        SLOT_MEMBERSHIP => match decode_membership(record.aux, record.payload) {
            Some((index, membership)) => {
                format!("membership of index {index}: {}", members_text(&membership))
            }
            None => unknown(),
        },
        SLOT_CLUSTER => match decode_cluster(record.aux, record.payload) {
            Some(cluster) => format!("cluster uid: {cluster}"),
            None => unknown(),
        },
        _ => unknown(),
    }
}

fn decode_json(record: &Record<'_>, doc: &mut Value) {
    match (record.kind, record.index) {
        (RecordKind::Data, _) => match BatchRef::parse(record.payload) {
            Ok(batch) => {
                doc["client"] = batch.client_id().into();
                doc["client_sequence"] = batch.client_sequence().into();
                doc["acked_below"] = batch.acked_below().into();
                if batch.has_conditions() {
                    doc["conditions"] = conditions_json(&batch);
                }
                doc["ops"] = batch.ops().map(op_json).collect();
            }
            Err(error) => doc["not_a_batch"] = error.to_string().into(),
        },
        (RecordKind::State, SLOT_HARD_STATE) => {
            if let Some(state) = decode_hard_state(record.aux, record.payload) {
                let vote = state.vote.map(replica_json);
                doc["hard_state"] = json!({ "term": state.term.0, "vote": vote });
            }
        }
        (RecordKind::State, SLOT_BASELINE) => {
            if let Some((index, term)) = decode_baseline(record.aux, record.payload) {
                doc["baseline"] = json!({ "index": index.0, "term": term.0 });
            }
        }
        (RecordKind::State, SLOT_MEMBERSHIP) => {
            if let Some((index, membership)) = decode_membership(record.aux, record.payload) {
                let members = membership_json(&membership);
                doc["membership"] = json!({ "index": index.0, "members": members });
            }
        }
        (RecordKind::State, SLOT_CLUSTER) => {
            if let Some(cluster) = decode_cluster(record.aux, record.payload) {
                doc["cluster_uid"] = cluster.to_string().into();
            }
        }
        _ => {}
    }
}

fn op_json(op: Op<'_>) -> Value {
    match op {
        Op::Put { key, value } => json!({ "op": "put", "key": text(key), "value": text(value) }),
        Op::Delete { key } => json!({ "op": "delete", "key": text(key) }),
        Op::DeleteRange { start, end } => {
            json!({ "op": "delete_range", "start": text(start), "end": text(end) })
        }
        Op::NoOp => json!({ "op": "no_op" }),
        Op::Register => json!({ "op": "register" }),
        Op::Membership(encoded) => match Membership::decode(encoded) {
            Ok(membership) => {
                json!({ "op": "membership", "members": membership_json(&membership) })
            }
            Err(error) => json!({ "op": "membership", "error": error.to_string() }),
        },
    }
}

fn replica_json(replica: ReplicaId) -> Value {
    json!({ "node": replica.node.0, "incarnation": format!("{:016x}", replica.incarnation) })
}

/// `node 1.… voter "peer" "client"`, with commas between them.
fn members_text(membership: &Membership) -> String {
    let member = |m: &Member| {
        let (peer, client) = (&m.peer_address, &m.client_address);
        format!("node {} {} \"{peer}\" \"{client}\"", m.replica, m.role.name())
    };
    let members: Vec<String> = membership.members().map(member).collect();
    if members.is_empty() { "nobody".to_owned() } else { members.join(", ") }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

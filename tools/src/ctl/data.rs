//! put, get, del, scan, batch, ping.
#![allow(clippy::disallowed_methods, reason = "a tool writes the user's files and times itself")]

use super::Session;
use super::args::{Batch, Conditions, Del, DeleteRange, Get, Mget, Put, Scan};
use super::bytes::{open, parse, read_all, show, show_into};
use super::output::Failure;
use beachdb::base::SequenceNumber;
use beachdb::base::batch::{BatchError, WriteBatch};
use beachdb::base::conditions::Expect;
use beachdb::client::{ScanOptions, Staleness, Written};
use beachdb::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use beachdb::proto::text;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::time::Instant;

/// Longest line of a batch file: every byte of a key and a value as `\xNN`, and the word.
const MAX_BATCH_LINE: usize = 4 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 64;

/// What a write expects of its key.
fn expected(conditions: &Conditions) -> Option<Expect> {
    match conditions {
        Conditions { if_absent: true, .. } => Some(Expect::Absent),
        Conditions { if_seq, .. } => if_seq.map(|seq| Expect::Seq(SequenceNumber(seq))),
    }
}

/// Says why a write with a condition did not happen, in terms of its flags.
fn explain_condition(error: Failure, key: &[u8]) -> Failure {
    let Failure::Client(client_error) = &error else { return error };
    let Some(failed) = client_error.failed_condition() else { return error };
    let key = text::quote(key);
    let has = match failed.present {
        Some(seq) => format!("key {key} has sequence number {seq}"),
        None => format!("key {key} is absent"),
    };
    eprintln!("beachctl: {has}: nothing was written");
    error
}

fn report_written(session: &Session, written: Written, ops: usize) -> Result<(), Failure> {
    let Written { index, first_seq, last_seq } = written;
    let seq = if first_seq == last_seq {
        last_seq.to_string()
    } else {
        format!("{first_seq}..{last_seq}")
    };
    let document = json!({
        "index": index.0, "first_seq": first_seq.0, "last_seq": last_seq.0, "ops": ops,
    });
    Ok(session.out.line(&format!("OK seq={seq} index={index}"), &document)?)
}

/// `put`.
pub fn put(session: &mut Session, put: &Put) -> Result<(), Failure> {
    let key = parse("KEY", &put.key, put.hex)?;
    let value = match (&put.file, &put.value) {
        (Some(file), _) => read_all(file, MAX_VALUE_BYTES)?,
        (None, Some(value)) => parse("VALUE", value, put.hex)?,
        (None, None) => return Err(Failure::Usage("put needs a VALUE or --file".into())),
    };
    let written = match expected(&put.conditions) {
        None => session.write_once(|s| s.put(&key, &value), |c| c.put(&key, &value))?,
        Some(expect) => session
            .write_once(|s| s.put_if(&key, &value, expect), |c| c.put_if(&key, &value, expect))
            .map_err(|e| explain_condition(e.into(), &key))?,
    };
    report_written(session, written, 1)
}

/// `del`.
pub fn del(session: &mut Session, del: &Del) -> Result<(), Failure> {
    let key = parse("KEY", &del.key, del.hex)?;
    let written = match expected(&del.conditions) {
        None => session.write_once(|s| s.delete(&key), |c| c.delete(&key))?,
        Some(expect) => session
            .write_once(|s| s.delete_if(&key, expect), |c| c.delete_if(&key, expect))
            .map_err(|e| explain_condition(e.into(), &key))?,
    };
    report_written(session, written, 1)
}

/// `delete-range`.
pub fn delete_range(session: &mut Session, args: &DeleteRange) -> Result<(), Failure> {
    let start = parse("START", &args.start, args.hex)?;
    let end = parse("END", &args.end, args.hex)?;
    let mut batch = WriteBatch::new();
    batch.delete_range(&start, &end).map_err(|e| Failure::Usage(e.to_string()))?;
    let written = session.write_once(|s| s.write(&batch), |c| c.write(&batch))?;
    report_written(session, written, 1)
}

/// `get`.
pub fn get(session: &mut Session, get: &Get) -> Result<(), Failure> {
    let key = parse("KEY", &get.key, get.hex)?;
    let snapshot = SequenceNumber(get.snapshot.unwrap_or(0));
    let (found, staleness) = if get.stale {
        let (found, staleness) = session.client()?.get_stale(&key)?;
        tell_staleness(session, staleness)?;
        (found, Some(staleness))
    } else {
        (session.client()?.get_at(&key, snapshot)?, None)
    };
    let shown = show(&key, get.hex);
    let Some(found) = found else {
        if session.out.json {
            println!("{}", aged(json!({"key": shown, "found": false}), staleness));
        }
        eprintln!("beachctl: key {} not found", text::quote(&key));
        return Err(Failure::Silent);
    };
    if let Some(file) = get.file.as_ref().filter(|f| f.as_os_str() != "-") {
        std::fs::write(file, &found.value)
            .map_err(|e| Failure::Failed(format!("cannot write {}: {e}", file.display())))?;
        return Ok(());
    }
    let mut out = io::stdout().lock();
    if session.out.json {
        let document = json!({
            "key": shown, "found": true, "value": show(&found.value, get.hex),
            "seq": found.seq.0, "applied": found.applied.0,
        });
        writeln!(out, "{}", aged(document, staleness))?;
        return Ok(());
    }
    if get.with_seq {
        write!(out, "{}\t", found.seq)?;
    }
    if get.hex {
        write!(out, "{}", text::to_hex(&found.value))?;
    } else {
        out.write_all(&found.value)?;
    }
    if get.file.is_none() {
        writeln!(out)?;
    }
    Ok(())
}

/// `mget`.
pub fn mget(session: &mut Session, mget: &Mget) -> Result<(), Failure> {
    let keys: Vec<Vec<u8>> =
        mget.keys.iter().map(|key| parse("KEY", key, mget.hex)).collect::<Result<_, _>>()?;
    let snapshot = SequenceNumber(mget.snapshot.unwrap_or(0));
    let reply = session.client()?.multi_get_at(keys.iter().map(|key| &key[..]), snapshot)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut missing = 0;
    for (key, found) in keys.iter().zip(&reply.values) {
        let shown = show(key, mget.hex);
        match found {
            None => {
                missing += 1;
                if session.out.json {
                    writeln!(out, "{}", json!({"key": shown, "found": false}))?;
                } else {
                    eprintln!("beachctl: key {} not found", text::quote(key));
                }
            }
            Some((seq, value)) if session.out.json => {
                let value = show(value, mget.hex);
                let document = json!({"key": shown, "found": true, "value": value, "seq": seq.0});
                writeln!(out, "{document}")?;
            }
            Some((_, value)) => writeln!(out, "{shown}\t{}", show(value, mget.hex))?,
        }
    }
    if session.out.json {
        let end = json!({"type": "end", "count": keys.len(), "snapshot": reply.at.0});
        writeln!(out, "{end}")?;
    }
    out.flush()?;
    if missing > 0 { Err(Failure::Silent) } else { Ok(()) }
}

/// Says on stderr how old a stale read was.
fn tell_staleness(session: &mut Session, staleness: Staleness) -> Result<(), Failure> {
    let endpoint = session.client()?.endpoint().to_owned();
    let index = staleness.applied_index;
    let age = match staleness.age_ms {
        Some(ms) => format!("{ms} ms ago it had all that its leader had committed"),
        None => "it has not been known to be up to date since it started".to_owned(),
    };
    eprintln!("beachctl: stale: {endpoint} has applied the log up to {index}; {age}");
    Ok(())
}

/// A document with the age of what was read.
fn aged(mut document: Value, staleness: Option<Staleness>) -> Value {
    if let Some(staleness) = staleness {
        document["applied_index"] = staleness.applied_index.0.into();
        document["age_ms"] = staleness.age_ms.into();
    }
    document
}

/// `scan`.
pub fn scan(session: &mut Session, scan: &Scan) -> Result<(), Failure> {
    let bound = |what, text: &Option<String>| match text {
        Some(text) => parse(what, text, scan.hex),
        None => Ok(Vec::new()),
    };
    let options = ScanOptions {
        start: bound("START", &scan.start)?,
        end: bound("END", &scan.end)?,
        prefix: scan.prefix.as_ref().map(|p| parse("PREFIX", p, scan.hex)).transpose()?,
        limit: scan.limit,
        keys_only: scan.keys_only,
        reverse: scan.reverse,
        snapshot: SequenceNumber(scan.snapshot.unwrap_or(0)),
        page_entries: 0,
        stale: scan.stale,
    };
    let json_lines = session.out.json;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut entries = session.client()?.scan(options);
    let (mut count, mut line) = (0u64, Vec::new());
    for entry in entries.by_ref() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                out.flush()?;
                return Err(e.into());
            }
        };
        count += 1;
        if json_lines {
            let mut document =
                json!({"type": "entry", "key": show(&entry.key, scan.hex), "seq": entry.seq.0});
            if !scan.keys_only {
                document["value"] = show(&entry.value, scan.hex).into();
            }
            writeln!(out, "{document}")?;
            continue;
        }
        line.clear();
        let put = |line: &mut Vec<u8>, bytes: &[u8]| match scan.hex {
            true => line.extend_from_slice(text::to_hex(bytes).as_bytes()),
            false => show_into(line, bytes),
        };
        put(&mut line, &entry.key);
        if !scan.keys_only {
            line.push(b'\t');
            put(&mut line, &entry.value);
        }
        line.push(b'\n');
        out.write_all(&line)?;
    }
    let more = entries.resume_key().map(|key| show(key, scan.hex));
    let (snapshot, staleness) = (entries.snapshot(), entries.staleness());
    if json_lines {
        let end = json!({"type": "end", "count": count, "snapshot": snapshot.0, "more": more});
        writeln!(out, "{}", aged(end, staleness))?;
    }
    out.flush()?;
    if let Some(staleness) = staleness {
        tell_staleness(session, staleness)?;
    }
    if let Some(more) = more.filter(|_| !json_lines) {
        let direction =
            if scan.reverse { format!("before {more}") } else { format!("from {more} on") };
        eprintln!(
            "beachctl: {count} entries shown, the limit; there may be more {direction} (snapshot {snapshot})"
        );
    }
    Ok(())
}

/// `batch`.
pub fn batch(session: &mut Session, args: &super::args::Batch) -> Result<(), Failure> {
    let batch = read_batch(args)?;
    if batch.is_empty() {
        return Err(Failure::Failed(format!("{} holds no operation", args.file.display())));
    }
    let written = session.write_once(|s| s.write(&batch), |c| c.write(&batch))?;
    report_written(session, written, batch.len())
}

fn read_batch(args: &Batch) -> Result<WriteBatch, Failure> {
    let mut input = BufReader::new(open(&args.file)?);
    let mut batch = WriteBatch::new();
    let (mut number, mut line) = (0u64, Vec::new());
    loop {
        line.clear();
        number += 1;
        let at = |why: String| {
            Failure::Failed(format!(
                "{} line {number}: {why}; nothing was sent",
                args.file.display()
            ))
        };
        let read = input
            .by_ref()
            .take(MAX_BATCH_LINE as u64)
            .read_until(b'\n', &mut line)
            .map_err(|e| at(e.to_string()))?;
        if read == 0 {
            return Ok(batch);
        }
        if read == MAX_BATCH_LINE && !line.ends_with(b"\n") {
            return Err(at("longer than any key and value".into()));
        }
        add_line(&mut batch, line.trim_ascii_end()).map_err(at)?;
    }
}

fn add_line(batch: &mut WriteBatch, line: &[u8]) -> Result<(), String> {
    if line.trim_ascii_start().starts_with(b"#") {
        return Ok(());
    }
    let tokens = text::tokens(line).map_err(|e| e.to_string())?;
    let refused = |e: BatchError| e.to_string();
    match tokens.as_slice() {
        [] => Ok(()),
        [word, key, value] if word.is_keyword("put") => {
            batch.put(&key.bytes, &value.bytes).map_err(refused)
        }
        [word, key] if word.is_keyword("del") => batch.delete(&key.bytes).map_err(refused),
        [word, start, end] if word.is_keyword("delrange") => {
            batch.delete_range(&start.bytes, &end.bytes).map_err(refused)
        }
        _ => Err("expected \"put KEY VALUE\", \"del KEY\", or \"delrange START END\"".to_owned()),
    }
}

/// `ping`.
pub fn ping(session: &mut Session) -> Result<(), Failure> {
    let client = session.client()?;
    let begun = Instant::now();
    client.ping()?;
    let us = begun.elapsed().as_micros() as u64;
    let endpoint = client.endpoint().to_owned();
    let (server, node, cluster) = match client.server() {
        Some(h) => (h.server.clone(), h.node_id.0, h.cluster.clone()),
        None => Default::default(),
    };
    let text =
        format!("PONG from {endpoint}: {server}, node {node} of cluster {cluster:?}, {us} µs");
    let document = json!({
        "endpoint": endpoint, "server": server, "node": node, "cluster": cluster, "us": us,
    });
    Ok(session.out.line(&text, &document)?)
}

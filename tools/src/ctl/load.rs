//! load: each line of a file becomes a put, in batches, several batches in flight, in the order of the file.
//!
//! Invariants:
//! - *Acknowledged through line N* means that every line up to N was answered OK, so it is durable. Only that is
//!   reported and written to the acknowledgement log.
//! - A batch that was refused and not applied is sent again **together with all batches behind it**, in order, so that
//!   a later line of the same key always wins. A batch with an unknown outcome ends the load.
//! - With `--exactly-once` the client's session sends a batch again, also when its answer was lost, and it is applied once.
//!   One batch is in flight at a time: a retry then overtakes nothing, and the order is kept.
//! - Memory is bounded by the window: a batch holds at most `BATCH_BYTES` and one line.
#![allow(clippy::disallowed_methods, reason = "a tool reads the user's files and times itself")]

use super::Session;
use super::args::Load;
use super::bytes::open;
use super::output::{Failure, error_document};
use beachdb::base::batch::WriteBatch;
use beachdb::client::{self, Client, ClientError, Pipeline, Ticket, Written};
use beachdb::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use beachdb::proto::text;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

/// A batch is closed when it has this many bytes, whatever `--batch-lines` says.
const BATCH_BYTES: usize = 256 << 10;
/// Longest line: a key and a value with every byte escaped, and the tab.
const MAX_LINE_BYTES: usize = 4 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 2;
/// Batches in flight, unless `--pipeline` says otherwise.
const PIPELINE: u32 = 8;
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_millis(500);

/// The lines of a batch that is not acknowledged yet.
struct Chunk {
    batch: WriteBatch,
    first_line: u64,
    last_line: u64,
    /// Bytes of the file up to its end.
    end_byte: u64,
    sent: Sent,
}

enum Sent {
    No,
    InFlight(Ticket),
    Acknowledged(Written),
}

/// Why a load ends before the end of the file.
enum Stop {
    Input(String),
    Client(ClientError),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(why) => f.write_str(why),
            Self::Client(e) => e.fmt(f),
        }
    }
}

/// `load`.
pub fn run(session: &mut Session, args: &Load) -> Result<(), Failure> {
    let json = session.out.json;
    let patience = session.global.timeout;
    let once = session.global.exactly_once;
    if once && args.pipeline.is_some() {
        let why = "load --exactly-once sends one batch at a time, so that retries keep the order";
        return Err(Failure::Usage(format!("{why}: leave out --pipeline")));
    }
    let input = Lines::open(args)?;
    let ack_log = args.ack_log.as_ref().map(|path| {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Failure::Failed(format!("cannot open {}: {e}", path.display())))
    });
    let mut loader = Loader {
        args,
        window: args.pipeline.unwrap_or(PIPELINE) as usize,
        ack_log: ack_log.transpose()?,
        progress: Progress::new(args),
        input,
        chunks: VecDeque::new(),
        tally: Tally { acknowledged: args.resume_from - 1, ..Tally::default() },
        patience,
    };
    let begun = Instant::now();
    let stop = match once {
        true => session.in_session(|s| loader.run_once(s))?,
        false => loader.run(session.client()?),
    };
    loader.progress.finish();
    report(&loader.tally, args, stop.err(), begun.elapsed(), json)
}

/// What is known so far.
#[derive(Default)]
struct Tally {
    /// Every line up to this one is durable.
    acknowledged: u64,
    /// The last line that was ever sent.
    sent: u64,
    lines: u64,
    batches: u64,
    first_seq: u64,
    last_seq: u64,
}

struct Loader<'a> {
    args: &'a Load,
    /// Batches in flight at most.
    window: usize,
    input: Lines,
    ack_log: Option<File>,
    progress: Progress,
    chunks: VecDeque<Chunk>,
    tally: Tally,
    patience: Duration,
}

impl Loader<'_> {
    /// One batch after the other, each written once.
    fn run_once(&mut self, session: &mut client::Session<'_>) -> Result<(), Stop> {
        while let Some(chunk) = self.input.next_chunk(self.args).map_err(Stop::Input)? {
            self.tally.sent = chunk.last_line;
            let written = session.write(&chunk.batch).map_err(Stop::Client)?;
            self.note_acknowledged(&chunk, written)?;
        }
        Ok(())
    }

    fn run(&mut self, client: &mut Client) -> Result<(), Stop> {
        let mut pipeline = client.pipeline(self.window);
        let mut input_error = None;
        let mut more = true;
        let (mut last_progress, mut backoff) = (Instant::now(), FIRST_BACKOFF);
        loop {
            while more && self.chunks.len() < self.window {
                match self.input.next_chunk(self.args) {
                    Ok(Some(chunk)) => self.chunks.push_back(chunk),
                    Ok(None) => more = false,
                    // The lines before the bad one are still worth finishing.
                    Err(why) => (more, input_error) = (false, Some(Stop::Input(why))),
                }
            }
            let outcome = self.send(&mut pipeline).and_then(|()| match pipeline.wait() {
                None => Ok(None),
                Some((ticket, outcome)) => outcome.map(|written| Some((ticket, written))),
            });
            match outcome {
                Ok(None) => return input_error.map_or(Ok(()), Err),
                Ok(Some((ticket, written))) => {
                    if self.acknowledge(ticket, written)? {
                        (last_progress, backoff) = (Instant::now(), FIRST_BACKOFF);
                    }
                }
                Err(e) => {
                    let waited = last_progress.elapsed() + backoff;
                    self.settle(&mut pipeline)?;
                    if !e.safe_to_retry() || waited > self.patience {
                        return Err(Stop::Client(e));
                    }
                    std::thread::sleep(backoff.max(retry_after(&e)));
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                }
            }
        }
    }

    /// Submits every chunk that is not on its way.
    fn send(&mut self, pipeline: &mut Pipeline<'_>) -> Result<(), ClientError> {
        for chunk in &mut self.chunks {
            if matches!(chunk.sent, Sent::No) {
                chunk.sent = Sent::InFlight(pipeline.submit(&chunk.batch)?);
                self.tally.sent = self.tally.sent.max(chunk.last_line);
            }
        }
        Ok(())
    }

    /// Notes an answer; returns whether the acknowledged part grew.
    fn acknowledge(&mut self, ticket: Ticket, written: Written) -> Result<bool, Stop> {
        for chunk in &mut self.chunks {
            if matches!(chunk.sent, Sent::InFlight(t) if t == ticket) {
                chunk.sent = Sent::Acknowledged(written);
            }
        }
        let mut grew = false;
        while let Some(Chunk { sent: Sent::Acknowledged(written), .. }) = self.chunks.front() {
            let written = *written;
            let chunk = self.chunks.pop_front().expect("front was there");
            grew = true;
            self.note_acknowledged(&chunk, written)?;
        }
        Ok(grew)
    }

    /// The acknowledged part grew by this.
    fn note_acknowledged(&mut self, chunk: &Chunk, written: Written) -> Result<(), Stop> {
        let tally = &mut self.tally;
        tally.acknowledged = chunk.last_line;
        tally.lines += chunk.last_line - chunk.first_line + 1;
        tally.batches += 1;
        if tally.first_seq == 0 {
            tally.first_seq = written.first_seq.0;
        }
        tally.last_seq = written.last_seq.0;
        self.progress.advance(chunk.end_byte, chunk.last_line);
        let Some(log) = &mut self.ack_log else {
            return Ok(());
        };
        let line = format!(
            "{}\t{}\t{}\t{}\n",
            chunk.first_line, chunk.last_line, written.first_seq, written.last_seq
        );
        log.write_all(line.as_bytes())
            .map_err(|e| Stop::Input(format!("cannot write the acknowledgement log: {e}")))
    }

    /// After a failure: takes the outcomes of all batches in flight, and marks everything from the first one that
    /// failed as not sent, also what was acknowledged behind it. Ends the load when any outcome is unknown.
    fn settle(&mut self, pipeline: &mut Pipeline<'_>) -> Result<(), Stop> {
        let mut fatal = None;
        while let Some((ticket, outcome)) = pipeline.wait() {
            match outcome {
                Ok(written) => {
                    self.acknowledge(ticket, written)?;
                }
                Err(e) if e.safe_to_retry() => {}
                Err(e) => fatal = fatal.or(Some(e)),
            }
        }
        if let Some(e) = fatal {
            return Err(Stop::Client(e));
        }
        for chunk in &mut self.chunks {
            chunk.sent = Sent::No;
        }
        Ok(())
    }
}

fn retry_after(e: &ClientError) -> Duration {
    match e {
        ClientError::Refused { reply, .. } => Duration::from_millis(reply.retry_after_ms.into()),
        _ => Duration::ZERO,
    }
}

/// The lines of the file as chunks.
struct Lines {
    input: BufReader<Box<dyn Read>>,
    name: String,
    /// The last line read.
    number: u64,
    byte: u64,
    line: Vec<u8>,
}

impl Lines {
    fn open(args: &Load) -> Result<Self, Failure> {
        let input = BufReader::with_capacity(256 << 10, open(&args.file)?);
        let name = args.file.display().to_string();
        Ok(Self { input, name, number: 0, byte: 0, line: Vec::new() })
    }

    /// The next batch; `None` at the end. An error names the line; the lines before it are in earlier chunks.
    fn next_chunk(&mut self, args: &Load) -> Result<Option<Chunk>, String> {
        let mut chunk: Option<Chunk> = None;
        loop {
            if chunk.as_ref().is_some_and(|c| {
                c.batch.len() >= args.batch_lines as usize
                    || c.batch.as_bytes().len() >= BATCH_BYTES
            }) {
                return Ok(chunk);
            }
            // A line that is bad, or not wanted yet, is looked at again with the next chunk.
            if self.line.is_empty() && !self.read_line()? {
                return Ok(chunk);
            }
            if self.number < args.resume_from {
                self.line.clear();
                continue;
            }
            let number = self.number;
            let next = chunk.get_or_insert_with(|| Chunk {
                batch: WriteBatch::new(),
                first_line: number,
                last_line: number,
                end_byte: 0,
                sent: Sent::No,
            });
            if let Err(why) = add_line(&mut next.batch, &self.line, args.escapes) {
                if next.batch.is_empty() {
                    return Err(format!("{} line {number}: {why}", self.name));
                }
                return Ok(chunk);
            }
            (next.last_line, next.end_byte) = (number, self.byte);
            self.line.clear();
        }
    }

    fn read_line(&mut self) -> Result<bool, String> {
        let at = |number: u64, why: &str| format!("{} line {number}: {why}", self.name);
        let read = (&mut self.input)
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut self.line)
            .map_err(|e| at(self.number + 1, &e.to_string()))?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        self.byte += read as u64;
        if read == MAX_LINE_BYTES && !self.line.ends_with(b"\n") {
            return Err(at(self.number, "longer than any key and value"));
        }
        Ok(true)
    }
}

fn add_line(batch: &mut WriteBatch, line: &[u8], escapes: bool) -> Result<(), String> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let Some(tab) = line.iter().position(|b| *b == b'\t') else {
        return Err("no tab: expected KEY<TAB>VALUE".to_owned());
    };
    let (key, value) = (&line[..tab], &line[tab + 1..]);
    if escapes {
        let plain = |bytes| text::unescape(bytes).map_err(|e| e.to_string());
        return batch.put(&plain(key)?, &plain(value)?).map_err(|e| e.to_string());
    }
    batch.put(key, value).map_err(|e| e.to_string())
}

/// A bar on a terminal, a line a second elsewhere; on stderr.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    total: Option<u64>,
    shown: Instant,
}

impl Progress {
    fn new(args: &Load) -> Self {
        let total = std::fs::metadata(&args.file).ok().filter(|m| m.is_file()).map(|m| m.len());
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = match total {
            Some(_) => "{bar:30} {percent}% {bytes}/{total_bytes} {msg} {eta} left",
            None => "{spinner} {bytes} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, plain: !std::io::stderr().is_terminal(), total, shown: Instant::now() }
    }

    fn advance(&mut self, byte: u64, line: u64) {
        self.bar.set_position(byte);
        self.bar.set_message(format!("line {line}"));
        if self.plain && self.shown.elapsed() >= Duration::from_secs(1) {
            self.shown = Instant::now();
            match self.total.filter(|t| *t > 0) {
                Some(total) => {
                    eprintln!("beachctl: load: line {line} acknowledged, {} %", byte * 100 / total);
                }
                None => eprintln!("beachctl: load: line {line} acknowledged"),
            }
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn report(
    tally: &Tally,
    args: &Load,
    stop: Option<Stop>,
    took: Duration,
    json: bool,
) -> Result<(), Failure> {
    let resume_from = tally.acknowledged + 1;
    if json {
        let mut document = json!({
            "lines": tally.lines, "batches": tally.batches, "first_seq": tally.first_seq,
            "last_seq": tally.last_seq, "seconds": took.as_secs_f64(),
            "acknowledged_through": tally.acknowledged, "resume_from": resume_from,
        });
        if let Some(stop) = &stop {
            document["error"] = stop_document(stop);
            document["sent_through"] = tally.sent.max(tally.acknowledged).into();
        }
        writeln!(std::io::stdout(), "{document}")?;
    }
    let Some(stop) = stop else {
        if !json {
            writeln!(
                std::io::stdout(),
                "loaded {} lines in {} batches, sequences {}..{}, {:.2} s",
                tally.lines,
                tally.batches,
                tally.first_seq,
                tally.last_seq,
                took.as_secs_f64()
            )?;
        }
        return Ok(());
    };
    eprintln!("beachctl: load stopped: {stop}");
    if tally.lines > 0 {
        let (from, to) = (args.resume_from, tally.acknowledged);
        eprintln!("beachctl: lines {from} to {to} are acknowledged: they are durable");
    } else {
        eprintln!("beachctl: no line is acknowledged");
    }
    if tally.sent > tally.acknowledged {
        let to = tally.sent;
        eprintln!(
            "beachctl: lines {resume_from} to {to} were sent; they may or may not be applied"
        );
    }
    eprintln!("beachctl: to go on, run it again with --resume-from {resume_from}");
    Err(Failure::Silent)
}

fn stop_document(stop: &Stop) -> Value {
    match stop {
        Stop::Input(why) => json!({"code": "INPUT", "effect": "none", "message": why}),
        Stop::Client(e) => error_document(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines {
        let bytes = text.as_bytes().to_vec();
        let input: Box<dyn Read> = Box::new(std::io::Cursor::new(bytes));
        Lines {
            input: BufReader::new(input),
            name: "test".into(),
            number: 0,
            byte: 0,
            line: Vec::new(),
        }
    }

    fn args(batch_lines: u32, resume_from: u64) -> Load {
        Load {
            file: "-".into(),
            tsv: true,
            escapes: false,
            batch_lines,
            pipeline: Some(1),
            resume_from,
            ack_log: None,
        }
    }

    fn ranges(input: &mut Lines, args: &Load) -> (Vec<(u64, u64)>, Option<String>) {
        let mut out = Vec::new();
        loop {
            match input.next_chunk(args) {
                Ok(Some(c)) => {
                    assert_eq!(c.batch.len() as u64, c.last_line - c.first_line + 1);
                    out.push((c.first_line, c.last_line));
                }
                Ok(None) => return (out, None),
                Err(why) => return (out, Some(why)),
            }
        }
    }

    #[test]
    fn lines_are_cut_into_chunks() {
        let text = "a\t1\nb\t2\nc\t\nd\t4\ne\t5 \t6";
        assert_eq!(ranges(&mut lines(text), &args(2, 1)), (vec![(1, 2), (3, 4), (5, 5)], None));
        assert_eq!(ranges(&mut lines(text), &args(2, 4)), (vec![(4, 5)], None));
        assert_eq!(ranges(&mut lines(text), &args(2, 6)), (vec![], None));
        assert_eq!(ranges(&mut lines(""), &args(2, 1)), (vec![], None));
    }

    #[test]
    fn the_lines_before_a_bad_one_are_kept() {
        let (chunks, why) = ranges(&mut lines("a\t1\nb\t2\nno tab\nd\t4\n"), &args(10, 1));
        assert_eq!(chunks, [(1, 2)]);
        assert_eq!(why.unwrap(), "test line 3: no tab: expected KEY<TAB>VALUE");
        let (chunks, why) = ranges(&mut lines("\tv\n"), &args(10, 1));
        assert_eq!((chunks.len(), why.unwrap().as_str()), (0, "test line 1: empty key"));
    }
}

//! checkpoint, verify, and compact: what the node that is asked does with its own files.
#![allow(clippy::disallowed_methods, reason = "a tool times itself and sleeps")]

use super::Session;
use super::args::{Checkpoint, Compact, Verify};
use super::bytes::parse;
use super::output::Failure;
use beachdb::client::AdminRequest;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two looks at how far it is.
const PAUSE: Duration = Duration::from_millis(100);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(2);

/// The node's STATUS.
fn status(session: &mut Session) -> Result<Value, Failure> {
    let text = session.client()?.status()?;
    serde_json::from_str(&text).map_err(|e| Failure::Failed(format!("STATUS is not JSON: {e}")))
}

/// `checkpoint`.
pub fn checkpoint(session: &mut Session, args: &Checkpoint) -> Result<(), Failure> {
    let timeout = session.global.timeout;
    let client = session.client()?;
    client.set_timeout(args.wait.max(timeout));
    let result = client.admin(&AdminRequest::Checkpoint { dir: &args.dir });
    client.set_timeout(timeout);
    let index = result?;
    let endpoint = session.client()?.endpoint().to_owned();
    let status = status(session)?;
    let dir = status["checkpoint"]["dir"].as_str().unwrap_or(&args.dir).to_owned();
    let (node, seq) = (&status["node"], &status["checkpoint"]["last_seq"]);
    let text = format!(
        "OK {dir} on the machine of node {node} ({endpoint}) holds everything up to log index {index}, sequence number {seq}"
    );
    let bytes = &status["checkpoint"]["bytes"];
    let answer = json!({
        "dir": dir, "node": node, "index": index.0, "last_seq": seq, "bytes": bytes,
    });
    Ok(session.out.line(&text, &answer)?)
}

/// `verify`.
pub fn verify(session: &mut Session, args: &Verify) -> Result<(), Failure> {
    let rate = args.rate.unwrap_or(0);
    session.client()?.admin(&AdminRequest::Verify { rate })?;
    let mut told = Instant::now();
    loop {
        let status = status(session)?;
        let (node, verify) = (&status["node"], &status["verify"]);
        let (bytes, total) = (&verify["bytes"], &verify["total_bytes"]);
        if args.no_wait {
            let text = format!(
                "OK node {node} checks {total} bytes of tables, and its log; status says how it goes"
            );
            return Ok(session.out.line(&text, verify)?);
        }
        if verify["done"] == true {
            let damaged = verify["damaged"].as_u64().unwrap_or_default();
            if damaged == 0 {
                let (tables, segments) = (&verify["tables"], &verify["segments"]);
                let text = format!(
                    "OK node {node}: {tables} tables, {segments} segments of the log, {bytes} bytes, all well"
                );
                return Ok(session.out.line(&text, verify)?);
            }
            if session.out.json {
                session.out.line("", verify)?;
            }
            let faults =
                verify["faults"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let faults: Vec<&str> = faults.collect();
            return Err(Failure::Failed(format!(
                "node {node}: {damaged} files are damaged or cannot be read: {}",
                faults.join("; ")
            )));
        }
        if verify.is_null() {
            return Err(Failure::Failed(format!(
                "node {node} knows of no check: it was started again meanwhile"
            )));
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            eprintln!("beachctl: {bytes} bytes read; the tables have {total}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// The node's STATS.
fn engine_stats(session: &mut Session) -> Result<Value, Failure> {
    let text = session.client()?.stats()?;
    serde_json::from_str(&text).map_err(|e| Failure::Failed(format!("STATS is not JSON: {e}")))
}

/// `compact`.
pub fn compact(session: &mut Session, args: &Compact) -> Result<(), Failure> {
    let key = |name, text: &Option<String>| parse(name, text.as_deref().unwrap_or(""), args.hex);
    let (start, end) = (key("START", &args.start)?, key("END", &args.end)?);
    if !end.is_empty() && end <= start {
        return Err(Failure::Usage("END is not after START: the range holds no key".into()));
    }
    session.client()?.admin(&AdminRequest::Compact { start: &start, end: &end })?;
    let (began, mut told) = (Instant::now(), Instant::now());
    loop {
        let stats = engine_stats(session)?;
        let engine = &stats["engine"];
        let state = engine["compaction_state"].as_str().unwrap_or("unknown");
        let asked = engine["compaction_asked_for"].as_bool().unwrap_or(false);
        let answer = json!({
            "done": !asked, "compaction_state": state, "table_bytes": engine["table_bytes"],
            "ms": began.elapsed().as_millis() as u64,
        });
        if args.no_wait && asked {
            return Ok(session.out.line("OK it has begun; stats says how it goes", &answer)?);
        }
        if !asked {
            let ms = began.elapsed().as_millis();
            return Ok(session.out.line(&format!("OK compacted in {ms} ms"), &answer)?);
        }
        if matches!(state, "failed" | "waiting for space") {
            return Err(Failure::Failed(format!(
                "compaction is {state}: it goes on by itself when there is space, and the node's log says what is wrong"
            )));
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            let merged = &engine["compaction"]["merged_bytes"];
            eprintln!("beachctl: {state}, {merged} bytes of this step merged");
        }
        std::thread::sleep(PAUSE);
    }
}

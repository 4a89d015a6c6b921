//! checkpoint and verify: what the node that is asked does with its own files.
#![allow(clippy::disallowed_methods, reason = "a tool times itself and sleeps")]

use super::Session;
use super::args::{Checkpoint, Verify};
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

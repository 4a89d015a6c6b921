//! The embedded engine as a target: a worker process writes through `beachdb::engine::Db` and reports on its
//! standard output; another one scans. Both are this program under hidden names (`worker`, `dump`).

use super::Plant;
use super::cycle::{Ending, KillPlan, PATIENCE, Target, feed_and_kill};
use super::oracle::{Oracle, Violation};
use super::pipe::Message;
use super::process::{Process, failed};
use super::workload::{Content, Workload, digest};
use super::writer::{Outcome, Writer};
use beachdb::base::batch::WriteBatch;
use beachdb::engine::db::{Db, DbOptions, Effect, WriteOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;

/// The size of a log segment.
const SEGMENT_BYTES: u64 = 1 << 20;

/// The embedded engine over `data`.
#[derive(Clone, Debug)]
pub struct EngineTarget {
    /// What is written.
    pub workload: Workload,
    /// The database's directory.
    pub data: PathBuf,
    /// Where the children's standard error goes.
    pub stderr: PathBuf,
    /// The planted bug.
    pub plant: Option<Plant>,
}

impl EngineTarget {
    fn child(&self, verb: &str) -> Result<Command, Violation> {
        let own = super::process::sibling_program("beach-crash")?;
        let mut command = Command::new(own);
        command.arg(verb).arg("--data").arg(&self.data);
        Ok(command)
    }
}

impl Target for EngineTarget {
    fn write_until_killed(&mut self, oracle: &mut Oracle, plan: KillPlan) -> Result<(), Violation> {
        let mut command = self.child("worker")?;
        let next: Vec<String> = (0..self.workload.writers)
            .map(|writer| oracle.next_operation(writer).to_string())
            .collect();
        command.arg("--seed").arg(self.workload.seed.to_string());
        command.arg("--keys").arg(self.workload.keys_per_writer.to_string());
        command.arg("--next").arg(next.join(","));
        match self.plant {
            Some(Plant::EarlyAck) => drop(command.args(["--plant", "early-ack"])),
            Some(Plant::SplitBatch) => drop(command.args(["--plant", "split-batch"])),
            None => {}
        }
        let mut process = Process::start(command, "the engine's worker", &self.stderr)?;
        let (to, messages) = channel();
        let reader = process.forward_messages(to);
        let outcome = feed_and_kill(&mut process, &messages, oracle, plan);
        drop(process);
        // It ends with the pipe.
        drop(reader.join());
        outcome
    }

    fn recover(&mut self, ending: Ending) -> Result<Content, Violation> {
        let mut command = self.child("dump")?;
        if ending == Ending::Close {
            command.arg("--close");
        }
        let mut process = Process::start(command, "the recovering engine", &self.stderr)?;
        let (to, messages) = channel();
        let reader = process.forward_messages(to);
        let mut content = Content::new();
        loop {
            match messages.recv_timeout(PATIENCE) {
                Ok(Message::Entry { key, value }) => drop(content.insert(key, value)),
                Ok(Message::End { digest: said }) if said == digest(&content) => break,
                Ok(Message::Ready) => {}
                Ok(other) => return Err(failed(format!("the dump said {}", other.to_line()))),
                Err(_) => return Err(process.obituary("while it recovered")),
            }
        }
        if ending == Ending::Close && !process.wait(PATIENCE)?.success() {
            return Err(process.obituary("in its close"));
        }
        drop(process);
        drop(reader.join());
        Ok(content)
    }
}

/// Small, so that a few hundred writes flush and fill segments.
fn open(data: &Path) -> Result<Db, String> {
    let options = DbOptions {
        memtable_bytes: 512 << 10,
        segment_bytes: SEGMENT_BYTES,
        ..DbOptions::default()
    };
    Db::open(data, options).map_err(|e| format!("open {}: {e}", data.display()))
}

/// The worker process: a thread for each number in `next`, until it is killed. Returns only with an error.
pub fn work(
    data: &Path,
    workload: Workload,
    next: &[u64],
    plant: Option<Plant>,
) -> Result<(), String> {
    let db = open(data)?;
    // When nobody listens any more, the controller is gone and the worker goes too.
    let send = |message: Message| message.send(&mut std::io::stdout().lock()).is_ok();
    send(Message::Ready);
    let write = |batch: &WriteBatch| match db.write(batch.clone(), WriteOptions::default()) {
        Ok(_) => Outcome::Done,
        Err(e) if e.effect() == Effect::NotApplied => Outcome::Refused(e.to_string()),
        Err(e) => Outcome::Unknown(e.to_string()),
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..)
            .zip(next)
            .map(|(writer, &next)| Writer { workload, writer, next, plant })
            .map(|task| scope.spawn(move || task.run(send, write)))
            .collect();
        let join = |writer: std::thread::ScopedJoinHandle<'_, Result<(), String>>| {
            writer.join().unwrap_or_else(|_| Err("a writer panicked".into()))
        };
        writers.into_iter().map(join).find(Result::is_err).unwrap_or(Ok(()))
    })
}

/// The reading process: prints everything, then closes the database or waits to be killed.
pub fn dump(data: &Path, close: bool) -> Result<(), String> {
    let db = open(data)?;
    let say = |e: &dyn std::fmt::Display| format!("scan {}: {e}", data.display());
    let mut content = Content::new();
    for entry in db.iter() {
        let entry = entry.map_err(|e| say(&e))?;
        content.insert(entry.key.to_vec(), entry.value.to_vec());
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (key, value) in &content {
        let (key, value) = (key.clone(), value.clone());
        Message::Entry { key, value }.send(&mut out).map_err(|e| say(&e))?;
    }
    if close {
        db.close().map_err(|e| format!("close {}: {e}", data.display()))?;
        return Message::End { digest: digest(&content) }.send(&mut out).map_err(|e| say(&e));
    }
    Message::End { digest: digest(&content) }.send(&mut out).map_err(|e| say(&e))?;
    loop {
        std::thread::park();
    }
}

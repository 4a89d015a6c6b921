//! Runs in a process of its own. A node that panics aborts its process (the release profile says so), and a run
//! that never ends must be killed: both are failures of a seed, not of the swarm.
//!
//! The parent writes one [`Job`] a line to the child's standard input and reads one
//! [`RunReport`] a line from its standard output. A child does any number of jobs.

#![expect(
    clippy::disallowed_methods,
    reason = "the swarm is a program of this machine: it waits for real processes"
)]

use super::faults::TimedFault;
use super::hooks::{Harness, Marks, Setup, Violation};
use super::run::{RunReport, run};
use super::shape::RunOptions;
use beachdb::env::Clock;
use beachdb::env::os::OsClock;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How much of a dead child's standard error a report shows.
const STDERR_TAIL_BYTES: u64 = 3_000;

/// What a child is asked to run.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Job {
    /// The run.
    pub options: RunOptions,
    /// Its faults, where they are not the seed's own.
    pub plan: Option<Vec<TimedFault>>,
}

/// A child process.
#[derive(Debug)]
pub struct Worker {
    process: Option<Process>,
    /// Wall time after which a run counts as hung.
    pub patience: Duration,
    /// The planted bug that is awake in the child, by name.
    planted: Option<&'static str>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    stderr: std::fs::File,
}

impl Worker {
    /// None is started yet.
    #[must_use]
    pub const fn new(patience: Duration) -> Self {
        Self { process: None, patience, planted: None }
    }

    /// One whose children have this bug awake; in a build that carries the planted bugs.
    #[cfg(beach_planted)]
    #[must_use]
    pub const fn with_planted(patience: Duration, bug: &'static str) -> Self {
        Self { process: None, patience, planted: Some(bug) }
    }

    /// Runs a job. A child that dies or hangs is a violation of the run; the next job gets a new child.
    ///
    /// # Errors
    /// No child can be started.
    pub fn run(&mut self, job: &Job) -> io::Result<RunReport> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => Process::start(self.planted)?,
        };
        let mut line = serde_json::to_string(job)?;
        line.push('\n');
        let sent = process.stdin.write_all(line.as_bytes()).and_then(|()| process.stdin.flush());
        let answer = match sent {
            Ok(()) => process.lines.recv_timeout(self.patience),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(line) => {
                let report = serde_json::from_str(&line)?;
                self.process = Some(process);
                Ok(report)
            }
            Err(RecvTimeoutError::Timeout) => {
                let what = format!("no end after {} s", self.patience.as_secs());
                Ok(failed(job, Violation::new("hang", what)))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = process.child.wait()?;
                let text = process.stderr_tail();
                let violation =
                    Violation::new("panic", format!("the process died ({status}): {text}"));
                Ok(failed(job, violation))
            }
        }
    }
}

fn failed(job: &Job, violation: Violation) -> RunReport {
    RunReport {
        options: job.options.clone(),
        violation: Some(violation),
        hash: 0,
        virtual_ns: 0,
        events: 0,
        acknowledged: 0,
        marks: Marks::default(),
        plan: job.plan.clone().unwrap_or_default(),
    }
}

impl Process {
    fn start(planted: Option<&'static str>) -> io::Result<Self> {
        let stderr = tempfile::tempfile()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .args(planted.iter().flat_map(|bug| ["--planted", bug]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone()?)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("a child without pipes"));
        };
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, lines, stderr })
    }

    fn stderr_tail(&mut self) -> String {
        let mut read = || -> io::Result<String> {
            let len = self.stderr.seek(SeekFrom::End(0))?;
            self.stderr.seek(SeekFrom::Start(len.saturating_sub(STDERR_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            self.stderr.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|e| format!("its standard error is lost: {e}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The child's side: jobs from standard input until it ends.
///
/// # Errors
/// A line that is no job; a closed standard output.
pub fn serve(harness: fn(&Setup) -> Harness) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        let mut report = run(&job.options, job.plan, harness, false);
        if report.violation.is_none() {
            report.plan.clear();
        }
        let mut line = serde_json::to_string(&report)?;
        line.push('\n');
        io::stdout().lock().write_all(line.as_bytes())?;
    }
    Ok(())
}

/// Wall time since `clock` was made, for progress and bounds of work.
#[must_use]
pub fn elapsed(clock: &OsClock, since: beachdb::base::Nanos) -> Duration {
    Duration::from_nanos(clock.now().since(since))
}

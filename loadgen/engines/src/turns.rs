//! The run: rounds in which the engines take turns, each step in a child process of its own, so that memory and what the
//! allocator keeps are that step's alone. Before each child all file systems are synced.
//!
//! | step | child does | starts from | leaves |
//! |---|---|---|---|
//! | `fillseq` | fillseq, settled | nothing | nothing |
//! | `sync` | fillsync | nothing | nothing |
//! | `batches` | fillbatchsync | nothing | nothing |
//! | `fill` | fillrandom, settled | nothing | all keys, closed |
//! | `reads` | readrandom, readmissing, readseq, seekrandom (and filteronly, once) | that | that, closed |
//! | `overwrite` | overwrite, settled; only of a large run | that | that, closed |
//! | `exit` | overwrite of a quarter of the keys, at most 250 k; a sync; the process ends without closing | that | that, not closed |
//! | `reopen` | reopen | that | nothing |
//!
//! So a reopen finds the same unflushed writes in every engine. The order of the engines turns with the round.

use crate::Kind;
use beach_loadgen::embedded::process;
use beach_loadgen::embedded::{BenchOptions, BenchResult, BenchWorkload, Leave};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The argument that makes this program a child; the next one is its [`Task`] as JSON.
pub const CHILD: &str = "--child";
/// Unsettled writes before an exit without close; less than a memtable holds.
const UNSETTLED_MAX: u64 = 250_000;

/// A step of a round, in the order of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Step {
    /// Fill in order
    FillSeq,
    /// Puts with a sync each
    Sync,
    /// Batches with a sync each
    Batches,
    /// Fill shuffled; reads, overwrite, exit, and reopen need it
    Fill,
    /// Gets and scans
    Reads,
    /// Overwrites, settled
    Overwrite,
    /// Overwrites and an exit without close
    Exit,
    /// Reopen after that
    Reopen,
}

/// What a child is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The engine.
    pub engine: Kind,
    /// What to run.
    pub options: BenchOptions,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who takes turns.
    pub engines: Vec<Kind>,
    /// How often.
    pub rounds: u32,
    /// What each does in its turn.
    pub steps: Vec<Step>,
    /// Settings of all steps; workloads, `existing`, and `leave` are the step's.
    pub options: BenchOptions,
    /// The program that runs tasks: normally this one.
    pub program: PathBuf,
}

/// One result.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The round, from 1.
    pub round: u32,
    /// The step.
    pub step: Step,
    /// What was measured.
    #[serde(flatten)]
    pub result: BenchResult,
}

/// Runs the plan; calls `each` with every row.
pub fn run(plan: &Plan, mut each: impl FnMut(&Row)) -> Result<(), String> {
    let needs_fill = |s: &Step| matches!(s, Step::Reads | Step::Overwrite | Step::Exit);
    if plan.steps.iter().any(needs_fill) && !plan.steps.contains(&Step::Fill)
        || plan.steps.contains(&Step::Reopen) && !plan.steps.contains(&Step::Exit)
    {
        return Err("reads, overwrite, and exit need the step fill; reopen needs exit".into());
    }
    for round in 1..=plan.rounds {
        for turn in 0..plan.engines.len() {
            let engine = plan.engines[(turn + round as usize - 1) % plan.engines.len()];
            let outcome = plan.steps.iter().try_for_each(|step| {
                let task = task(plan, engine, *step, turn == 0);
                process::sync_disks();
                child(plan, &task, |result| each(&Row { round, step: *step, result })).map_err(
                    |e| format!("{} in step {step:?} of round {round}: {e}", engine.name()),
                )
            });
            process::remove_all(&plan.options.dir)?;
            outcome?;
        }
    }
    Ok(())
}

fn task(plan: &Plan, engine: Kind, step: Step, first: bool) -> Task {
    use BenchWorkload::{
        FillBatchSync, FillRandom, FillSeq, FillSync, FilterOnly, Overwrite, ReadMissing,
        ReadRandom, ReadSeq, Reopen, SeekRandom,
    };
    let num = plan.options.num;
    let mut options = plan.options.clone();
    (options.workloads, options.existing, options.leave) = match step {
        Step::FillSeq => (vec![FillSeq], false, Leave::Nothing),
        Step::Sync => (vec![FillSync], false, Leave::Nothing),
        Step::Batches => (vec![FillBatchSync], false, Leave::Nothing),
        Step::Fill => (vec![FillRandom], false, Leave::Closed),
        Step::Reads => {
            let mut workloads = vec![ReadRandom, ReadMissing, ReadSeq, SeekRandom];
            workloads.extend((first || engine == Kind::Beachdb).then_some(FilterOnly));
            workloads.retain(|w| *w != FilterOnly || engine == Kind::Beachdb);
            (workloads, true, Leave::Closed)
        }
        Step::Overwrite => (vec![Overwrite], true, Leave::Closed),
        Step::Exit => (vec![Overwrite], true, Leave::Open),
        Step::Reopen => (vec![Reopen], true, Leave::Nothing),
    };
    if step == Step::Exit {
        options.writes = Some((num / 4).clamp(1, UNSETTLED_MAX));
        options.settle = false;
    }
    Task { engine, options }
}

/// Runs one task in a process of its own.
fn child(plan: &Plan, task: &Task, mut each: impl FnMut(BenchResult)) -> Result<(), String> {
    let json = serde_json::to_string(task).map_err(|e| e.to_string())?;
    let mut child = Command::new(&plan.program)
        .args([CHILD, &json])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("starting {}: {e}", plan.program.display()))?;
    let stdout = child.stdout.take().ok_or("the child has no output")?;
    let mut read = Ok(());
    for line in BufReader::new(stdout).lines() {
        let parsed = line.map_err(|e| e.to_string()).and_then(|line| {
            serde_json::from_str(&line)
                .map_err(|e| format!("a line that is no result: {line}: {e}"))
        });
        match parsed {
            Ok(result) => each(result),
            Err(e) => read = read.and(Err(e)),
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    read?;
    if status.success() { Ok(()) } else { Err(format!("the child ended with {status}")) }
}

/// What a child does with its task. Does not return: it may have to end without closing anything.
pub fn be_child(task: &str) -> ! {
    let outcome = serde_json::from_str(task).map_err(|e| format!("not a task: {e}")).and_then(
        |task: Task| {
            task.engine.run(&task.options, |result| {
                let mut stdout = std::io::stdout().lock();
                let written =
                    writeln!(stdout, "{}", result.to_json()).and_then(|()| stdout.flush());
                written.expect("the parent reads until its child ends");
            })
        },
    );
    if let Err(e) = &outcome {
        eprintln!("{e}");
    }
    process::exit_at_once(i32::from(outcome.is_err()))
}

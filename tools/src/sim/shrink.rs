//! Makes a failing schedule smaller: first it ends where the failure was, then faults are taken out, many at a
//! time and at last one by one, as long as the same rule is broken (delta debugging, Zeller 1999). Bounded in time; what is
//! left when the time is over still fails.

use super::child::{Job, Worker};
use super::faults::TimedFault;
use super::hooks::Violation;
use super::run::RunReport;
use super::shape::RunOptions;
use std::io;

/// A failure, as small as it got.
#[derive(Clone, PartialEq, Debug)]
pub struct Shrunk {
    /// The run.
    pub options: RunOptions,
    /// Its faults.
    pub plan: Vec<TimedFault>,
    /// What it breaks.
    pub violation: Violation,
    /// How many runs it took.
    pub runs: u64,
}

/// Shrinks the failure of `report`; `plan` is what was run. `goes_on` says whether there is time left.
///
/// # Errors
/// No child process can be started.
pub fn shrink(
    worker: &mut Worker,
    report: &RunReport,
    plan: Vec<TimedFault>,
    violation: Violation,
    goes_on: &mut dyn FnMut() -> bool,
) -> io::Result<Shrunk> {
    let mut best = Shrunk { options: report.options.clone(), plan, violation, runs: 0 };
    let failed_at_ms = report.virtual_ns / 1_000_000;
    if failed_at_ms > 0 {
        let minutes = (failed_at_ms as f64 + 1.0) / 60e3;
        let mut shorter = best.options.clone();
        shorter.minutes = minutes.min(best.options.minutes);
        let mut plan = best.plan.clone();
        plan.retain(|f| f.at_ms <= failed_at_ms);
        attempt(worker, &mut best, shorter, plan)?;
    }
    let mut chunk = best.plan.len().div_ceil(2);
    while chunk > 0 && !best.plan.is_empty() {
        let mut from = 0;
        let mut smaller = false;
        while from < best.plan.len() {
            if !goes_on() {
                return Ok(best);
            }
            let mut plan = best.plan.clone();
            plan.drain(from..(from + chunk).min(plan.len()));
            let options = best.options.clone();
            if attempt(worker, &mut best, options, plan)? {
                smaller = true;
            } else {
                from += chunk;
            }
        }
        if chunk == 1 && !smaller {
            break;
        }
        chunk = if chunk == 1 { 1 } else { chunk / 2 };
    }
    Ok(best)
}

/// Takes the smaller run if it breaks the same rule.
fn attempt(
    worker: &mut Worker,
    best: &mut Shrunk,
    options: RunOptions,
    plan: Vec<TimedFault>,
) -> io::Result<bool> {
    best.runs += 1;
    let job = Job { options, plan: Some(plan) };
    let Some(violation) = worker.run(&job)?.violation else { return Ok(false) };
    if violation.rule != best.violation.rule {
        return Ok(false);
    }
    best.options = job.options;
    best.plan = job.plan.unwrap_or_default();
    best.violation = violation;
    Ok(true)
}

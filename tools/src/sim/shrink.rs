//! Makes a failing schedule smaller: first it ends where the failure was, then faults are taken out, many at a
//! time and at last one by one, as long as the same rule is broken (delta debugging, Zeller 1999). Bounded in time; what is
//! left when the time is over still fails.

use super::child::Job;
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

/// Runs a job and says what it broke.
pub type Runner<'a> = dyn FnMut(&Job) -> io::Result<Option<Violation>> + 'a;

/// Shrinks the failure of `report`; `plan` is what was run. `goes_on` says whether there is time left.
///
/// # Errors
/// The runner's: no child process can be started.
pub fn shrink(
    runner: &mut Runner<'_>,
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
        attempt(runner, &mut best, shorter, plan)?;
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
            if attempt(runner, &mut best, options, plan)? {
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
    runner: &mut Runner<'_>,
    best: &mut Shrunk,
    options: RunOptions,
    plan: Vec<TimedFault>,
) -> io::Result<bool> {
    best.runs += 1;
    let job = Job { options, plan: Some(plan) };
    let Some(violation) = runner(&job)? else { return Ok(false) };
    if violation.rule != best.violation.rule {
        return Ok(false);
    }
    best.options = job.options;
    best.plan = job.plan.unwrap_or_default();
    best.violation = violation;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::faults::Fault;
    use crate::sim::hooks::Marks;

    /// A world that fails when slot 1 crashes and, later, slot 2 is paused; at 5,000 ms.
    fn broken(job: &Job) -> Option<Violation> {
        let plan = job.plan.as_ref()?;
        let at = |wanted: &dyn Fn(&Fault) -> bool| plan.iter().position(|f| wanted(&f.fault));
        let crash = at(&|f| matches!(f, Fault::Crash { slot: 1, .. }))?;
        let pause = at(&|f| matches!(f, Fault::Pause { slot: 2, .. }))?;
        let long = job.options.duration_ns() >= 5_000_000_000;
        (crash < pause && long).then(|| Violation::new("broken", "twice"))
    }

    fn long_plan() -> Vec<TimedFault> {
        let fault = |n: u64| match n {
            17 => Fault::Crash { slot: 1, power: false, down_ms: 1 },
            31 => Fault::Pause { slot: 2, ms: 1 },
            _ => Fault::Disconnect { slot: 0 },
        };
        (0..100).map(|n| TimedFault { at_ms: 100 * n, fault: fault(n) }).collect()
    }

    #[test]
    fn what_is_left_is_what_it_takes_and_still_fails() {
        let report = RunReport {
            options: RunOptions::given(1, 3, 1.0),
            violation: None,
            hash: 0,
            virtual_ns: 5_000_000_000,
            events: 0,
            acknowledged: 0,
            marks: Marks::default(),
            plan: Vec::new(),
        };
        let violation = Violation::new("broken", "twice");
        let mut runner = |job: &Job| Ok(broken(job));
        let small =
            shrink(&mut runner, &report, long_plan(), violation.clone(), &mut || true).unwrap();
        assert_eq!(small.plan.iter().map(|f| f.at_ms).collect::<Vec<_>>(), [1_700, 3_100]);
        assert!(small.options.minutes < 0.1, "{}", small.options.minutes);
        assert_eq!(small.violation.rule, "broken");
        let kept = shrink(&mut runner, &report, long_plan(), violation, &mut || false).unwrap();
        assert!(kept.plan.len() > 2, "without time nothing is taken out one by one");
    }
}

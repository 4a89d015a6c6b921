//! The loop: write, kill, recover, verify, recover again.

use super::artifact::{self, Artifact, Phase};
use super::daemon::DaemonTarget;
use super::engine::EngineTarget;
use super::oracle::{Oracle, Violation};
use super::pipe::Message;
use super::process::{Process, copy_dir, failed, remove_dir};
use super::workload::{Content, Workload, digest};
use super::{Settings, TargetKind};
use beachdb::env::sim::SimRandom;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest time that a target may take to start or to scan.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time that writers write in one cycle.
const LONGEST_RUN: Duration = Duration::from_secs(2);

/// When to kill.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillPlan {
    /// So many microseconds after the start, ready or not.
    WhileStarting {
        /// Microseconds.
        after_us: u64,
    },
    /// After so many acknowledgements and a moment more.
    AfterAcks {
        /// Acknowledgements in this cycle.
        acks: u64,
        /// Microseconds more.
        then_us: u64,
    },
}

impl KillPlan {
    /// The plan of one cycle.
    #[must_use]
    pub fn of_cycle(seed: u64, target: TargetKind, cycle: u64) -> Self {
        let salt = (target as u64 + 1) << 56 | cycle;
        let random = &mut SimRandom::new(seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if cycle > 0 && random.chance(1, 8) {
            return Self::WhileStarting { after_us: random.below(40_000) };
        }
        // Log-uniform: crashes early in a file's life matter as much as late ones.
        let magnitude = random.below(11);
        Self::AfterAcks { acks: 1 + random.below(1 << magnitude), then_us: random.below(3_000) }
    }
}

/// How a recovered database is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Killed.
    Kill,
    /// Closed as a careful user would.
    Close,
}

/// What is written to, killed, and recovered.
pub trait Target {
    /// Starts it and the writers, tells `oracle` all they do, kills it by `plan`. `Err` when it failed before that.
    fn write_until_killed(&mut self, oracle: &mut Oracle, plan: KillPlan) -> Result<(), Violation>;
    /// Starts it, reads everything, and leaves it as `ending` says.
    fn recover(&mut self, ending: Ending) -> Result<Content, Violation>;
}

/// The target of `kind` over the files in `data`; `scratch` takes what it says on standard error.
#[must_use]
pub fn target(
    kind: TargetKind,
    settings: &Settings,
    data: &Path,
    scratch: &Path,
) -> Box<dyn Target> {
    let workload = workload(settings);
    let stderr = scratch.join(format!("{}.stderr", kind.name()));
    match kind {
        TargetKind::Engine => {
            Box::new(EngineTarget { workload, data: data.into(), stderr, plant: settings.plant })
        }
        TargetKind::Daemon => {
            let beachd = settings.beachd.clone();
            Box::new(DaemonTarget {
                workload,
                data: data.into(),
                stderr,
                beachd,
                plant: settings.plant,
            })
        }
    }
}

const fn workload(settings: &Settings) -> Workload {
    let Settings { seed, writers, keys_per_writer, .. } = *settings;
    Workload { seed, writers, keys_per_writer }
}

/// Tells `oracle` what the writers do and kills `process` when `plan` says so; then listens to what was still
/// under way, until nobody talks any more.
pub fn feed_and_kill(
    process: &mut Process,
    messages: &Receiver<Message>,
    oracle: &mut Oracle,
    plan: KillPlan,
) -> Result<(), Violation> {
    let us = Duration::from_micros;
    let mut kill_at = match plan {
        KillPlan::WhileStarting { after_us } => Instant::now() + us(after_us),
        KillPlan::AfterAcks { .. } => Instant::now() + PATIENCE,
    };
    let mut acks = 0;
    loop {
        match messages.recv_timeout(kill_at.saturating_duration_since(Instant::now())) {
            Ok(Message::Ready) if matches!(plan, KillPlan::AfterAcks { .. }) => {
                kill_at = Instant::now() + LONGEST_RUN;
            }
            Ok(message) => {
                acks += u64::from(matches!(message, Message::Ack { .. }));
                tell(oracle, &message)?;
                if let KillPlan::AfterAcks { acks: wanted, then_us } = plan
                    && matches!(message, Message::Ack { .. })
                    && acks == wanted
                {
                    kill_at = kill_at.min(Instant::now() + us(then_us));
                }
            }
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(process.obituary("while it was written to"));
            }
        }
    }
    if process.ended().is_some() {
        return Err(process.obituary("before it was killed"));
    }
    process.kill();
    messages.iter().try_for_each(|message| tell(oracle, &message))
}

fn tell(oracle: &mut Oracle, message: &Message) -> Result<(), Violation> {
    match *message {
        Message::Begin { writer, number } => oracle.begin(writer, number),
        Message::Ack { writer, number } => oracle.ack(writer, number),
        Message::Refused { writer, number, .. } => oracle.refused(writer, number),
        // Stays in flight: the recovered content says what became of it.
        Message::Ready | Message::Unknown { .. } => Ok(()),
        Message::Entry { .. } | Message::End { .. } => {
            Err(failed(format!("a writer said {}", message.to_line())))
        }
    }
}

/// Recovers twice and compares: with the oracle, and with itself.
pub fn verify(
    target: &mut dyn Target,
    oracle: &mut Oracle,
    ending: Ending,
) -> Result<Content, Vec<Violation>> {
    let first = target.recover(Ending::Kill).map_err(|v| vec![v])?;
    oracle.verify(&first)?;
    let second = target.recover(ending).map_err(|v| vec![v])?;
    if first != second {
        let hex = |content| format!("{:016x}", digest(content));
        let mut violations =
            vec![Violation::RecoveriesDiffer { first: hex(&first), second: hex(&second) }];
        // Names the keys, unless the difference is one that the oracle cannot see.
        violations.extend(oracle.verify(&second).err().unwrap_or_default());
        return Err(violations);
    }
    Ok(second)
}

/// What became of a run.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Summary {
    /// Cycles that went well.
    pub passed: u64,
    /// Cycles that did not; a target stops at its first.
    pub failed: u64,
    /// The artifacts of the failures.
    pub artifacts: Vec<PathBuf>,
}

/// Runs all cycles of all targets in `dir`; reports progress on standard error.
pub fn run(settings: &Settings, dir: &Path) -> Result<Summary, Violation> {
    let mut summary = Summary::default();
    for &kind in &settings.targets {
        run_target(settings, kind, dir, &mut summary)?;
    }
    Ok(summary)
}

fn run_target(
    settings: &Settings,
    kind: TargetKind,
    dir: &Path,
    summary: &mut Summary,
) -> Result<(), Violation> {
    let io_failed = |e: std::io::Error| failed(format!("{}: {e}", dir.display()));
    let (data, before) =
        (dir.join(kind.name()), dir.join(format!("{}-before-recovery", kind.name())));
    // The oracle starts from nothing, and so must the files.
    remove_dir(&data).map_err(io_failed)?;
    std::fs::create_dir_all(&data).map_err(io_failed)?;
    let mut target = target(kind, settings, &data, dir);
    let mut oracle = Oracle::new(workload(settings));
    for cycle in 0..settings.cycles {
        let plan = KillPlan::of_cycle(settings.seed, kind, cycle);
        let acked_before = oracle.acknowledged();
        let mut phase = Phase::Run;
        let mut expected = oracle.clone();
        let outcome = target.write_until_killed(&mut oracle, plan).map_err(|v| vec![v]);
        copy_dir(&data, &before).map_err(io_failed)?;
        let in_flight = oracle.in_flight();
        let outcome = outcome.and_then(|()| {
            phase = Phase::Recovery;
            expected = oracle.clone();
            let ending = if cycle % 2 == 0 { Ending::Kill } else { Ending::Close };
            verify(&mut *target, &mut oracle, ending)
        });
        match outcome {
            Ok(content) => {
                summary.passed += 1;
                let acks = oracle.acknowledged() - acked_before;
                eprintln!(
                    "{} cycle {}/{}: {plan:?}, {acks} acknowledged, {in_flight} in flight, {} keys, digest {:016x}",
                    kind.name(),
                    cycle + 1,
                    settings.cycles,
                    content.len(),
                    digest(&content)
                );
            }
            Err(violations) => {
                summary.failed += 1;
                let artifact =
                    Artifact::new(settings, kind, cycle, plan, phase, expected, violations);
                summary.artifacts.push(artifact.save(dir, &before).map_err(io_failed)?);
                break;
            }
        }
    }
    remove_dir(&before).map_err(io_failed)
}

/// Judges an artifact again: its files when the failure was in a recovery, its seed when it was in the run.
pub fn replay(path: &Path, dir: &Path) -> Result<Summary, Violation> {
    let artifact = artifact::load(path)?;
    artifact.print();
    if artifact.phase == Phase::Run {
        eprintln!(
            "the failure came before the kill: running the same cycles again (a race may end differently)"
        );
        let cycles = artifact.cycle + 1;
        let settings = Settings { cycles, targets: vec![artifact.target], ..artifact.settings };
        return run(&settings, dir);
    }
    let data = dir.join("replay");
    let files = path.parent().unwrap_or(Path::new(".")).join(&artifact.files);
    copy_dir(&files, &data).map_err(|e| failed(format!("{}: {e}", files.display())))?;
    let mut target = target(artifact.target, &artifact.settings, &data, dir);
    let mut oracle = artifact.oracle;
    let mut summary = Summary::default();
    match verify(&mut *target, &mut oracle, Ending::Kill) {
        Ok(content) => {
            eprintln!("the saved files recover well now: {} keys", content.len());
            summary.passed = 1;
        }
        Err(violations) => {
            violations.iter().for_each(|v| eprintln!("{v}"));
            summary.failed = 1;
            summary.artifacts.push(path.into());
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 9, writers: 1, keys_per_writer: 10 };

    /// A target whose recoveries show what the test says.
    struct Scripted(Vec<Content>);

    impl Target for Scripted {
        fn write_until_killed(&mut self, _: &mut Oracle, _: KillPlan) -> Result<(), Violation> {
            Ok(())
        }
        fn recover(&mut self, _: Ending) -> Result<Content, Violation> {
            Ok(self.0.remove(0))
        }
    }

    /// The oracle with one operation in flight, and the contents without and with it.
    fn one_in_flight() -> (Oracle, Content, Content) {
        let mut oracle = Oracle::new(WORKLOAD);
        oracle.begin(0, 1).expect("in turn");
        let mut with = Content::new();
        for (key, value) in WORKLOAD.operation(0, 1).changes {
            match value {
                Some(value) => with.insert(key, value),
                None => with.remove(&key),
            };
        }
        assert!(!with.is_empty(), "choose a seed whose first operation puts something");
        (oracle, Content::new(), with)
    }

    #[test]
    fn a_second_recovery_that_differs_is_caught_both_ways() {
        let (oracle, without, with) = one_in_flight();
        for (first, second) in [(&without, &with), (&with, &without)] {
            let mut target = Scripted(vec![first.clone(), second.clone()]);
            let outcome = verify(&mut target, &mut oracle.clone(), Ending::Kill);
            let violations = outcome.expect_err("they differ");
            assert!(matches!(violations[0], Violation::RecoveriesDiffer { .. }), "{violations:?}");
            assert!(violations.len() > 1, "the keys are named");
        }
        let mut target = Scripted(vec![with.clone(), with.clone()]);
        assert_eq!(verify(&mut target, &mut oracle.clone(), Ending::Kill), Ok(with));
    }

    #[test]
    fn plans_follow_from_the_seed_and_cover_starts_and_runs() {
        let plans: Vec<KillPlan> =
            (0..200).map(|cycle| KillPlan::of_cycle(1, TargetKind::Engine, cycle)).collect();
        let again: Vec<KillPlan> =
            (0..200).map(|cycle| KillPlan::of_cycle(1, TargetKind::Engine, cycle)).collect();
        assert_eq!(plans, again);
        let starting = |plan: &&KillPlan| matches!(plan, KillPlan::WhileStarting { .. });
        let early = |plan: &&KillPlan| matches!(plan, KillPlan::AfterAcks { acks: 1..=3, .. });
        let late = |plan: &&KillPlan| matches!(plan, KillPlan::AfterAcks { acks: 400.., .. });
        assert!((10..50).contains(&plans.iter().filter(starting).count()));
        assert!(plans.iter().filter(early).count() > 10);
        assert!(plans.iter().filter(late).count() > 5);
        assert_ne!(
            plans[1..],
            (0..199).map(|c| KillPlan::of_cycle(1, TargetKind::Daemon, c)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_artifact_keeps_the_files_and_the_oracle() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = dir.path().join("before");
        std::fs::create_dir_all(files.join("wal")).expect("mkdir");
        let mut segment = vec![0; 200_000];
        segment[150_000] = 7;
        std::fs::write(files.join("wal/1.wal"), &segment).expect("write");
        let settings = Settings {
            seed: 1,
            cycles: 2,
            targets: vec![TargetKind::Engine],
            writers: 1,
            keys_per_writer: 10,
            plant: None,
            beachd: None,
        };
        let (oracle, ..) = one_in_flight();
        let plan = KillPlan::WhileStarting { after_us: 5 };
        let violations = vec![failed("it broke")];
        let artifact = Artifact::new(
            &settings,
            TargetKind::Engine,
            1,
            plan,
            Phase::Recovery,
            oracle,
            violations,
        );
        let path = artifact.save(dir.path(), &files).expect("saved");
        assert_eq!(artifact::load(&path), Ok(artifact));
        let copy = path.parent().expect("a directory").join("files/wal/1.wal");
        assert_eq!(std::fs::read(copy).expect("copied"), segment, "holes read as zeros");
    }
}

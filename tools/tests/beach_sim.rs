//! `beach-sim` as people and scripts use it: exit codes, hashes, artifacts, and JSON.
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

use std::path::Path;
use std::process::Command;

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

fn sim_in(dir: &Path, args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_beach-sim"))
        .args(args)
        .current_dir(dir)
        .output()
        .expect("beach-sim runs");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn sim(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    sim_in(dir.path(), args)
}

impl Output {
    fn last_line(&self) -> &str {
        self.stdout.lines().last().unwrap_or("")
    }
    fn assert_code(&self, code: i32) {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }
}

fn hash_of(args: &[&str]) -> String {
    let run = sim(args);
    run.assert_code(0);
    let line = run.stdout.lines().rfind(|l| l.starts_with("trace hash "));
    line.expect("a hash").to_owned()
}

#[test]
fn help_has_examples_and_version_says_one() {
    for args in [&["--help"][..], &["run", "--help"], &["swarm", "--help"], &["replay", "--help"]] {
        let help = sim(args);
        help.assert_code(0);
        assert!(help.stdout.contains("Usage: beach-sim"), "{}", help.stdout);
    }
    assert!(sim(&["--help"]).stdout.contains("beach-sim run --seed 7"));
    let version = sim(&["--version"]);
    assert_eq!(version.stdout, format!("beach-sim {}\n", beachdb::VERSION));
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["run"],
        &["run", "--seed", "x"],
        &["run", "--seed", "1", "--nodes", "8"],
        &["run", "--seed", "1", "--minutes", "0"],
        &["swarm"],
        &["swarm", "--seconds", "1", "--jobs", "0"],
        &["replay"],
        &["replay", "no-such-artifact.json"],
    ] {
        sim(args).assert_code(2);
    }
}

#[test]
fn fixed_seeds_pass_and_say_so() {
    let swarm = sim(&["swarm", "--seeds", "4", "--start-seed", "1", "--minutes", "0.2", "--twice"]);
    swarm.assert_code(0);
    assert_eq!(swarm.last_line(), "4 passed, 0 failed");
    let run = sim(&["run", "--seed", "9", "--nodes", "5", "--minutes", "0.2"]);
    run.assert_code(0);
    assert_eq!(run.last_line(), "1 passed, 0 failed");
}

#[test]
fn the_same_seed_leaves_the_same_trace_and_another_one_does_not() {
    let args = |seed| ["run", "--seed", seed, "--minutes", "0.1", "--trace"];
    let (one, again) = (sim(&args("5")), sim(&args("5")));
    one.assert_code(0);
    assert!(one.stdout == again.stdout, "two traces of one seed differ");
    assert!(one.stdout.lines().count() > 500, "{} lines", one.stdout.lines().count());
    assert_ne!(hash_of(&args("5")), hash_of(&args("6")));
}

#[test]
fn json_is_one_document() {
    let swarm = sim(&["swarm", "--seeds", "2", "--minutes", "0.1", "--json"]);
    swarm.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&swarm.stdout).expect("one JSON document");
    assert_eq!(json["schema"], 1);
    assert_eq!((&json["passed"], &json["failed"]), (&2.into(), &0.into()));
    assert!(json["marks"].is_object() && json["virtual_seconds"].as_f64() > Some(5.0), "{json}");
}

/// An artifact with a plan of its own: the faults are taken from it, not from the seed.
#[test]
fn an_artifact_replays_its_own_plan() {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = |down_ms: u64| {
        format!(
            r#"{{"schema":1,"version":"0","git":"","options":{{"seed":3,"nodes":3,"minutes":0.1}},
                 "plan":[{{"at_ms":2000,"fault":{{"crash_many":{{"set":7,"power":true,"down_ms":{down_ms}}}}}}}],
                 "violation":{{"rule":"none","what":"a test"}}}}"#
        )
    };
    std::fs::write(dir.path().join("a.json"), plan(100)).expect("written");
    std::fs::write(dir.path().join("b.json"), plan(200)).expect("written");
    let hash = |name: &str| {
        let replay = sim_in(dir.path(), &["replay", name]);
        replay.assert_code(0);
        assert_eq!(replay.last_line(), "1 passed, 0 failed");
        replay.stdout
    };
    assert_eq!(hash("a.json"), hash("a.json"));
    assert_ne!(hash("a.json"), hash("b.json"));
    let trace = sim_in(dir.path(), &["replay", "a.json", "--trace"]);
    assert!(trace.stdout.contains("*** {\"crash_many\""), "the fault is in the trace");
    std::fs::write(dir.path().join("bad.json"), "{\"schema\":1}").expect("written");
    let bad = sim_in(dir.path(), &["replay", "bad.json"]);
    bad.assert_code(2);
    assert!(bad.stderr.contains("bad.json"), "{}", bad.stderr);
}

/// Artifacts of failures that were found and mended, each named for what it showed.
#[test]
fn failures_of_the_past_pass_now() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sim");
    let entries = std::fs::read_dir(&dir).expect("the artifacts");
    let artifacts: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    assert!(!artifacts.is_empty());
    for path in artifacts {
        let replay = sim(&["replay", path.to_str().expect("a name in UTF-8")]);
        assert_eq!(
            replay.last_line(),
            "1 passed, 0 failed",
            "{}: {}",
            path.display(),
            replay.stdout
        );
    }
}

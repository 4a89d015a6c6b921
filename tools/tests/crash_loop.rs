//! `beach-crash` as people run it: it passes on the real thing, finds planted bugs, and replays what it found.

#![expect(clippy::disallowed_methods, reason = "a test that starts a program and reads its files")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn beach_crash(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_beach-crash")).args(args).output().expect("start beach-crash")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(err), String::from_utf8_lossy(out))
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_string()
}

#[test]
fn the_engine_keeps_its_promises_when_it_is_killed() {
    let output = beach_crash(&["run", "--target", "engine", "--cycles", "12", "--seed", "11"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(last_line(&output), "12 passed, 0 failed");
}

#[test]
fn the_daemon_keeps_its_promises_when_it_is_killed() {
    let beachd = Path::new(env!("CARGO_BIN_EXE_beach-crash")).with_file_name("beachd");
    if !beachd.is_file() {
        println!("skipped: {} is not built; run `cargo test --workspace`", beachd.display());
        return;
    }
    let output = beach_crash(&["run", "--target", "daemon", "--cycles", "5", "--seed", "11"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(last_line(&output), "5 passed, 0 failed");
}

/// Plants a bug, sees it found, and replays the artifact.
fn planted_bug_is_found(bug: &str, wanted: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().to_str().expect("UTF-8");
    let run = [
        "run", "--target", "engine", "--cycles", "40", "--seed", "3", "--dir", dir, "--plant", bug,
    ];
    let output = beach_crash(&run);
    let report = text(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains(wanted), "{report}");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].ends_with(" passed, 1 failed"), "{stdout}");
    let artifact =
        PathBuf::from(lines[1].strip_prefix("beach-crash replay ").expect("the command"));
    let replay = beach_crash(&["replay", artifact.to_str().expect("UTF-8")]);
    assert_eq!(replay.status.code(), Some(1), "{}", text(&replay));
    assert!(text(&replay).contains(wanted), "{}", text(&replay));
    assert!(text(&replay).contains("0 passed, 1 failed"), "{}", text(&replay));
}

#[test]
fn an_acknowledgement_before_the_write_is_found_and_replayed() {
    planted_bug_is_found("early-ack", "which was acknowledged; found");
}

#[test]
fn a_batch_written_in_pieces_is_found_and_replayed() {
    planted_bug_is_found("split-batch", "torn: of operation");
}

#[test]
fn power_mode_says_that_it_does_not_exist_yet() {
    let output = beach_crash(&["run", "--mode", "power"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("not available yet"), "{}", text(&output));
}

#[test]
fn wrong_usage_exits_2_and_help_has_examples() {
    assert_eq!(beach_crash(&["run", "--cycles", "many"]).status.code(), Some(2));
    assert_eq!(beach_crash(&["frobnicate"]).status.code(), Some(2));
    let help = beach_crash(&["--help"]);
    assert!(help.status.success());
    assert!(text(&help).contains("Examples:"), "{}", text(&help));
    assert!(beach_crash(&["--version"]).status.success());
}

#[test]
fn a_bad_artifact_is_refused_with_its_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("artifact.json");
    std::fs::write(&path, b"{\"schema\": 1}").expect("write");
    let output = beach_crash(&["replay", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("artifact.json: missing field"), "{}", text(&output));
}

//! A whole run at a small size, of every engine of the build, as the script does it.
#![expect(clippy::disallowed_methods, reason = "reads what a run wrote")]

use beach_engines::turns::Row;
use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn every_engine_takes_every_step_and_a_crash_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let run = |extra: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_beach-bench-peers"))
            .args(["--rounds", "2", "--num", "2000"])
            .args(["--dir".as_ref(), path("data").as_os_str()])
            .args(["--json".as_ref(), path("rows.json").as_os_str()])
            .args(["--table".as_ref(), path("table.md").as_os_str()])
            .args(extra)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        let rows = std::fs::read_to_string(path("rows.json")).unwrap();
        let rows: Vec<Row> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        (rows, std::fs::read_to_string(path("table.md")).unwrap())
    };

    let (rows, table) = run(&[]);
    let engines: BTreeSet<&str> = rows.iter().map(|r| r.result.engine.as_str()).collect();
    assert_eq!(engines.len(), if cfg!(feature = "rocksdb") { 4 } else { 3 }, "{engines:?}");
    // A reopen reads a key that was there before the exit without close, and checks its value.
    for line in
        ["fill random", "sync put", "batches", "get hit", "full scan", "reopen", "MB on disk"]
    {
        let line = table.lines().find(|l| l.contains(line));
        let line = line.unwrap_or_else(|| panic!("a line is missing: {table}"));
        let figures: Vec<&str> = line.split('|').skip(2).take(engines.len()).collect();
        assert!(!figures.contains(&" – "), "every engine has a figure: {line}");
    }
    // The second round begins with the second engine.
    assert_ne!(rows[0].result.engine, rows.iter().find(|r| r.round == 2).unwrap().result.engine);
    assert!(!path("data").exists());

    let before = path("before.json");
    std::fs::rename(path("rows.json"), &before).unwrap();
    let (_, table) =
        run(&["--large", "--engine", "beachdb,fjall", "--than", before.to_str().unwrap()]);
    assert!(table.contains("overwrite, no sync"), "{table}");
    assert!(table.contains("| now ÷ then | beachdb | fjall |"), "{table}");
}

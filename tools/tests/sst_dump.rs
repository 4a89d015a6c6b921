//! The real `sst_dump` on the table of `proto-spec/vectors/sstable_table.json`, whole and damaged.
//!
//! `BEACH_BLESS=1 cargo test -p beach-tools --test sst_dump` rewrites the golden outputs.
#![expect(clippy::disallowed_methods, reason = "tests read and write files directly")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAME: &str = "0000000000000001.sst";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn vector() -> Vec<u8> {
    vector_in("sstable_table.json")
}

fn vector_in(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(here("../proto-spec/vectors").join(name)).unwrap();
    let vector: Value = serde_json::from_str(&text).unwrap();
    let rows = vector["file_hex"].as_array().unwrap().iter();
    let hex: String = rows.map(|row| row.as_str().unwrap()).collect();
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    (0..hex.len() / 2).map(byte).collect()
}

/// Runs the tool on a file with this content, in a directory of its own.
fn dump(content: &[u8], args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(NAME);
    std::fs::write(&file, content).unwrap();
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sst_dump"))
        .args(args)
        .arg(NAME)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), content, "evidence is not changed");
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    output
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn golden(name: &str, found: &str) {
    let path = here("tests/golden/sst_dump").join(name);
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{}", path.display());
}

/// Output, error output, and exit code in one golden file.
fn transcript(output: &Output) -> String {
    format!(
        "{}--- stderr\n{}--- exit {}\n",
        out(output),
        err(output),
        output.status.code().unwrap()
    )
}

#[test]
fn a_valid_table_is_shown() {
    for (name, args) in [
        ("valid.txt", &[][..]),
        ("valid_entries.txt", &["--entries"]),
        ("valid.json", &["--json"]),
        ("valid_entries.json", &["--json", "--entries"]),
        ("valid_properties.txt", &["--properties"]),
        ("valid_properties.json", &["--json", "--properties"]),
    ] {
        let output = dump(&vector(), args);
        assert!(output.status.success());
        golden(name, &transcript(&output));
        if args.contains(&"--json") {
            for line in out(&output).lines() {
                serde_json::from_str::<Value>(line).unwrap();
            }
        }
    }
}

#[test]
fn a_compressed_table_is_shown() {
    let content = vector_in("sstable_table_lz4.json");
    for (name, args) in
        [("lz4_entries.txt", &["--entries"][..]), ("lz4_properties.txt", &["--properties"])]
    {
        let output = dump(&content, args);
        assert!(output.status.success());
        golden(name, &transcript(&output));
    }
    for at in (0..content.len()).step_by(11) {
        let mut bad = content.clone();
        bad[at] ^= 0x04;
        assert_eq!(dump(&bad, &[]).status.code(), Some(1), "byte {at}");
    }
}

#[test]
fn a_damaged_data_block_is_named_and_the_others_are_shown() {
    let mut content = vector();
    content[0x40] ^= 0x20;
    let output = dump(&content, &["--entries"]);
    assert_eq!(output.status.code(), Some(1));
    golden("damaged_data.txt", &transcript(&output));
    golden("damaged_data.json", &transcript(&dump(&content, &["--json", "--entries"])));
}

#[test]
fn without_a_footer_the_intact_blocks_are_listed() {
    let content = vector();
    golden("truncated.txt", &transcript(&dump(&content[..0x100], &[])));
    let mut content = content;
    content[0x2b1 + 4] ^= 1;
    golden("damaged_footer.txt", &transcript(&dump(&content, &["--entries"])));
}

#[test]
fn every_flipped_byte_is_named_with_file_and_offset() {
    let good = vector();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let output = dump(&bad, &[]);
        assert_eq!(output.status.code(), Some(1), "byte {at}: {}", out(&output));
        let text = err(&output);
        assert!(text.contains(NAME) && text.contains("offset"), "byte {at}: {text}");
    }
}

#[test]
fn files_that_are_not_tables_are_refused() {
    let output = dump(b"BEACHWAL and more than a header of it", &[]);
    golden("not_a_table.txt", &transcript(&output));
    assert_eq!(dump(b"", &[]).status.code(), Some(1));
    let missing =
        Command::new(env!("CARGO_BIN_EXE_sst_dump")).arg("/nowhere/1.sst").output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("/nowhere/1.sst"), "{}", err(&missing));
    let usage = Command::new(env!("CARGO_BIN_EXE_sst_dump")).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

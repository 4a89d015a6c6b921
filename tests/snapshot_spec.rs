//! The page and the vectors of snapshots (`proto-spec/snapshot.md`) against the codec.
//!
//! `BEACH_BLESS=1 cargo test --test snapshot_spec` rewrites `decoded` and `message` of the vectors; their hex was made by a
//! separate encoder with its own CRC32C.

#![allow(clippy::disallowed_methods, reason = "a test that reads the repository's own files")]

use beachdb::engine::snapshot::SnapshotBody;
use beachdb::proto::text::from_hex;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn spec(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto-spec").join(path)
}

fn hex_of(vector: &Value) -> Vec<u8> {
    from_hex(vector["hex"].as_str().unwrap()).unwrap_or_else(|| panic!("{vector}: bad hex"))
}

/// Reads a file of vectors, sets what `judge` says of each, and compares, or rewrites when blessing.
fn run(file: &str, field: &str, judge: impl Fn(&str, &[u8]) -> Value) -> Vec<(String, Vec<u8>)> {
    let path = spec("vectors").join(file);
    let found = std::fs::read_to_string(&path).unwrap();
    let mut document: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(document["schema"], 1);
    let (mut out, mut names) = (Vec::new(), BTreeSet::new());
    for vector in document["snapshots"].as_array_mut().unwrap() {
        let name = vector["name"].as_str().unwrap().to_owned();
        assert!(names.insert(name.clone()), "{file}: {name} occurs twice");
        let bytes = hex_of(vector);
        vector[field] = judge(&name, &bytes);
        out.push((name, bytes));
    }
    let expected = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::write(&path, expected).unwrap();
    } else {
        assert_eq!(found, expected, "{file} (BEACH_BLESS=1 rewrites it)");
    }
    out
}

#[test]
fn snapshot_vectors_decode_as_written_and_have_one_spelling() {
    let vectors = run("snapshots.json", "decoded", |name, bytes| {
        let body = SnapshotBody::decode(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(body.encode(), bytes, "{name}");
        json!({"stream_bytes": body.stream_bytes(), "description": body})
    });
    assert!(vectors.len() > 3);
}

#[test]
fn reject_snapshot_vectors_are_refused() {
    let vectors = run("snapshots-reject.json", "message", |name, bytes| {
        SnapshotBody::decode(bytes).expect_err(name).to_string().into()
    });
    assert!(vectors.len() > 30);
}

#[test]
fn the_worked_example_is_the_vector_of_its_name() {
    let page = std::fs::read_to_string(spec("snapshot.md")).unwrap();
    let open = "<!-- snapshot: two tables -->\n```text\n";
    let start = page.find(open).unwrap() + open.len();
    let block = &page[start..start + page[start..].find("```").unwrap()];
    let mut bytes = Vec::new();
    for line in block.lines() {
        let (offset, rest) = line.split_once("  ").unwrap();
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len(), "{line}");
        let hex = rest.split("  ").next().unwrap().replace(' ', "");
        bytes.extend(from_hex(&hex).unwrap_or_else(|| panic!("{line}")));
    }
    let text = std::fs::read_to_string(spec("vectors/snapshots.json")).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let all = vectors["snapshots"].as_array().unwrap();
    let vector = all.iter().find(|v| v["name"] == "two tables").unwrap();
    assert_eq!(bytes, hex_of(vector));
}

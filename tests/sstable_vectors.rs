//! The vectors of `proto-spec/sstable.md`: this code writes exactly these bytes, and reads them back.
//!
//! `BEACH_BLESS=1 cargo test --test sstable_vectors` rewrites them; a change there is a change of the format.
#![expect(clippy::disallowed_methods, reason = "tests read and write files directly")]

use beachdb::base::SequenceNumber;
use beachdb::base::hash::key_hash;
use beachdb::base::internal_key::{ValueKind, pack_trailer};
use beachdb::env::os::OsDisk;
use beachdb::env::{Disk, OpenMode};
use beachdb::sstable::filter::{self, FILTER_BLOOM};
use beachdb::sstable::{BloomPolicy, BuildOptions, Compression, FilterPolicy, Table, TableBuilder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-spec/vectors").join(name)
}

/// The stored vector, after replacing it with `made` when blessing.
fn stored(name: &str, made: &Value) -> Value {
    let path = vector(name);
    if std::env::var_os("BEACH_BLESS").is_some() {
        std::fs::write(&path, format!("{made:#}\n")).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "hex of whole bytes");
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// Rows of 32 bytes, so that a diff shows where.
fn hex_rows(bytes: &[u8]) -> Value {
    bytes.chunks(32).map(hex).collect::<Vec<_>>().into()
}

fn unhex_rows(rows: &Value) -> Vec<u8> {
    rows.as_array().unwrap().iter().flat_map(|row| unhex(row.as_str().unwrap())).collect()
}

fn bloom_of(keys: &[&[u8]], bits_per_key: u32) -> Value {
    let hashes: Vec<u64> = keys.iter().map(|key| key_hash(key)).collect();
    let payload = BloomPolicy::new(bits_per_key).build(&hashes);
    let keys: Vec<Value> = keys
        .iter()
        .zip(&hashes)
        .map(|(key, hash)| json!({ "key_hex": hex(key), "hash": format!("{hash:016x}") }))
        .collect();
    json!({ "bits_per_key": bits_per_key, "keys": keys, "payload_hex": hex(&payload) })
}

#[test]
fn filters_have_the_bits_of_the_vectors() {
    let one: &[&[u8]] = &[b"beach"];
    let some: &[&[u8]] = &[b"", b"a", b"apple", b"\x00\xff", b"a key of more than sixteen bytes"];
    let made = json!({
        "about": "bloom filter payloads (proto-spec/sstable.md, filter id 1) of key sets; hash is XXH3-64 of the key",
        "seed": hex(&filter::BLOOM_SEED),
        "filters": [bloom_of(one, 10), bloom_of(some, 10), bloom_of(some, 20), bloom_of(one, 1)],
    });
    let stored = stored("sstable_filter.json", &made);
    assert_eq!(made, stored);
    for case in stored["filters"].as_array().unwrap() {
        let payload = unhex(case["payload_hex"].as_str().unwrap());
        let filter = filter::open(FILTER_BLOOM, payload.into(), 0).unwrap().unwrap().unwrap();
        for key in case["keys"].as_array().unwrap() {
            let hash = u64::from_str_radix(key["hash"].as_str().unwrap(), 16).unwrap();
            assert!(filter.may_contain(&filter::Probe::new(hash)), "{key}");
        }
    }
}

/// (key, sequence number, value or tombstone)
const ENTRIES: [(&str, u64, Option<&str>); 5] = [
    ("apple", 5, Some("red")),
    ("apple", 3, Some("green")),
    ("apricot", 4, Some("orange")),
    ("banana", 7, None),
    ("banana", 6, Some("yellow")),
];

fn trailer(seq: u64, value: Option<&str>) -> u64 {
    let kind = if value.is_some() { ValueKind::Put } else { ValueKind::Delete };
    pack_trailer(SequenceNumber(seq), kind)
}

fn build(path: &Path) -> Vec<u8> {
    let file = OsDisk::new().open(path, OpenMode::CreateNew).unwrap();
    let options = BuildOptions { block_bytes: 64, ..BuildOptions::default() };
    let mut builder = TableBuilder::new(file, options);
    for (key, seq, value) in ENTRIES {
        let value_bytes = value.unwrap_or_default().as_bytes();
        builder.add(key.as_bytes(), trailer(seq, value), value_bytes).unwrap();
    }
    builder.finish().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn the_table_has_the_bytes_of_the_vector() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = build(&dir.path().join("a.sst"));
    assert_eq!(bytes, build(&dir.path().join("b.sst")), "the same input twice");
    let entries: Vec<Value> = ENTRIES
        .iter()
        .map(|(key, seq, value)| {
            let kind = if value.is_some() { "put" } else { "delete" };
            json!({ "key": key, "seq": seq, "kind": kind, "value": value })
        })
        .collect();
    let made = json!({
        "about": "the worked example of proto-spec/sstable.md: a whole table, in rows of 32 bytes",
        "options": { "block_bytes": 64, "restart_interval": 16, "filter": "bloom", "bits_per_key": 10 },
        "entries": entries,
        "file_hex": hex_rows(&bytes),
    });
    let stored = stored("sstable_table.json", &made);
    assert_eq!(made, stored);

    let path = dir.path().join("stored.sst");
    std::fs::write(&path, unhex_rows(&stored["file_hex"])).unwrap();
    let file = OsDisk::new().open(&path, OpenMode::Read).unwrap();
    let table = Arc::new(Table::open(file, 1).unwrap());
    table.verify().unwrap();
    let mut iter = table.iter();
    iter.seek_to_first().unwrap();
    for (key, seq, value) in ENTRIES {
        assert_eq!(iter.key(), (key.as_bytes(), trailer(seq, value)));
        assert_eq!(iter.value(), value.unwrap_or_default().as_bytes());
        iter.next().unwrap();
    }
    assert!(!iter.valid());
}

/// Two blocks: one that LZ4 shrinks, and one that it does not.
#[test]
fn the_compressed_table_has_the_bytes_of_the_vector() {
    const ENTRIES: [(&str, &str); 4] = [
        ("beach", "waves waves waves waves waves waves waves waves waves waves"),
        ("castle", "sand sand sand sand sand sand sand sand sand sand sand sand"),
        ("shell", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-+"),
        ("tide", "in, out"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let file = OsDisk::new().open(&dir.path().join(name), OpenMode::CreateNew).unwrap();
        let options = BuildOptions {
            block_bytes: 200,
            compression: Compression::Lz4,
            ..BuildOptions::default()
        };
        let mut builder = TableBuilder::new(file, options);
        for (i, (key, value)) in ENTRIES.iter().enumerate() {
            let trailer = pack_trailer(SequenceNumber(i as u64 + 1), ValueKind::Put);
            builder.add(key.as_bytes(), trailer, value.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        std::fs::read(dir.path().join(name)).unwrap()
    };
    let bytes = build("a.sst");
    assert_eq!(bytes, build("b.sst"), "the same input twice");
    let entries = ENTRIES.iter().enumerate();
    let entries: Vec<Value> = entries
        .map(|(i, (key, value))| json!({ "key": key, "seq": i + 1, "kind": "put", "value": value }))
        .collect();
    let made = json!({
        "about": "a table with compression lz4 (proto-spec/sstable.md): its first data block is compressed, its second one does not shrink. \
                  Other encoders may compress to other bytes; what a reader makes of these is the vector",
        "options": { "block_bytes": 200, "restart_interval": 16, "filter": "bloom", "bits_per_key": 10, "compression": "lz4" },
        "entries": entries,
        "file_hex": hex_rows(&bytes),
    });
    let stored = stored("sstable_table_lz4.json", &made);
    assert_eq!(made, stored);
    let path = dir.path().join("stored.sst");
    std::fs::write(&path, unhex_rows(&stored["file_hex"])).unwrap();
    let file = OsDisk::new().open(&path, OpenMode::Read).unwrap();
    let table = Arc::new(Table::open(file, 1).unwrap());
    table.verify().unwrap();
    let kind = |i: usize| bytes[table.index_entry(i).2.offset as usize + 5];
    assert_eq!((table.data_blocks(), kind(0), kind(1)), (2, 1, 0));
    let mut iter = table.iter();
    iter.seek_to_first().unwrap();
    for (key, value) in ENTRIES {
        assert_eq!((iter.key().0, iter.value()), (key.as_bytes(), value.as_bytes()));
        iter.next().unwrap();
    }
}

#[test]
fn the_worked_example_of_the_spec_is_the_vector() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let spec = std::fs::read_to_string(root.join("proto-spec/sstable.md")).unwrap();
    let text = std::fs::read_to_string(vector("sstable_table.json")).unwrap();
    let file = unhex_rows(&serde_json::from_str::<Value>(&text).unwrap()["file_hex"]);
    let mut shown = 0;
    for line in spec.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let Ok(offset) = usize::from_str_radix(offset, 16) else { continue };
        let is_byte = |word: &&str| word.len() == 2 && u8::from_str_radix(word, 16).is_ok();
        // Bytes, then at least three spaces, then words.
        let bytes = rest.split("   ").next().unwrap();
        let bytes: Vec<u8> = bytes.split_whitespace().take_while(is_byte).flat_map(unhex).collect();
        assert!(!bytes.is_empty(), "{line}");
        assert_eq!(bytes, file[offset..offset + bytes.len()], "{line}");
        shown += bytes.len();
    }
    assert!(shown > 400, "the example shows {shown} of {} bytes", file.len());
}

//! The engine as a library: `cargo run --example embedded [DIRECTORY]`.
//!
//! Writes, reads, takes a snapshot, flushes, closes, and opens again. Run it twice with the same directory: the
//! visits of the first run are still there.

use beachdb::base::batch::WriteBatch;
use beachdb::engine::{Db, DbOptions, WriteOptions};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let path = std::env::args().nth(1).map_or_else(|| scratch.path().join("db"), PathBuf::from);
    let db = Db::open(&path, DbOptions::default())?;
    println!("opened {}: {}", path.display(), db.recovery());

    // A put is on the disk when it returns.
    let visits: u64 = match db.get(b"visits")? {
        Some(count) => std::str::from_utf8(&count)?.parse()?,
        None => 0,
    };
    db.put(b"visits", (visits + 1).to_string().as_bytes())?;

    // A batch is all or nothing, to readers and across crashes.
    let mut batch = WriteBatch::new();
    for (city, country) in [("city/lima", "Peru"), ("city/oslo", "Norway"), ("city/rome", "Italy")]
    {
        batch.put(city.as_bytes(), country.as_bytes())?;
    }
    let written = db.write(batch, WriteOptions::default())?;
    println!("the batch got the sequence numbers {} to {}", written.first_seq, written.last_seq);

    // A snapshot shows one moment, whatever happens later.
    let before = db.snapshot();
    db.delete(b"city/rome")?;
    db.flush()?;
    assert_eq!(before.get(b"city/rome")?.as_deref(), Some(&b"Italy"[..]));
    assert_eq!(db.get(b"city/rome")?, None);
    drop(before);

    // A scan goes by ascending key; `city0` is the first key behind all that begin with `city/`.
    for entry in db.scan(b"city/", Some(b"city0")) {
        let entry = entry?;
        println!(
            "{} = {} (written by operation {})",
            entry.key.escape_ascii(),
            entry.value.escape_ascii(),
            entry.seq
        );
    }

    println!("{}", serde_json::to_string_pretty(&db.stats())?);
    db.close()?;

    let db = Db::open(&path, DbOptions::default())?;
    let visits = db.get(b"visits")?.unwrap_or_default();
    println!("opened again: {} visits, {} keys", visits.escape_ascii(), db.iter().count());
    db.close()?;
    Ok(())
}

//! The blocking client in a minute: `cargo run --example client [ENDPOINT]` beside a running `beachd`.
//!
//! Writes and reads a key, applies a batch, pipelines a thousand writes, scans them at one moment, and deletes them.

use beachdb::base::batch::WriteBatch;
use beachdb::client::{Client, ClientError, Effect, ScanOptions};

fn main() -> Result<(), ClientError> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let mut client = Client::connect(&endpoint)?;
    if let Some(server) = client.server() {
        println!("{} at {endpoint}, node {}", server.server, server.node_id);
    }

    // When a write returns Ok, it is durable and applied.
    let written = client.put(b"example/beach", b"sand")?;
    println!("put:   sequence {}", written.last_seq);
    if let Some(found) = client.get(b"example/beach")? {
        println!("get:   {} (sequence {})", String::from_utf8_lossy(&found.value), found.seq);
    }

    // All or nothing.
    let mut batch = WriteBatch::new();
    batch.put(b"example/a", b"1")?;
    batch.delete(b"example/beach")?;
    client.write(&batch)?;

    // A thousand writes, at most 64 in flight. Each has its own outcome.
    let batches: Vec<WriteBatch> = (0..1000)
        .map(|i| {
            let mut batch = WriteBatch::new();
            batch.put(format!("example/many/{i:04}").as_bytes(), b"x").map(|()| batch)
        })
        .collect::<Result<_, _>>()?;
    for outcome in client.write_many(&batches, 64) {
        match outcome {
            Ok(_) => {}
            Err(e) if e.effect() == Effect::Unknown => println!("may or may not be there: {e}"),
            Err(e) => println!("not there: {e}"),
        }
    }

    // Pages of one snapshot: writes made meanwhile do not show.
    let mut doomed = WriteBatch::new();
    let mut scan = client.scan(ScanOptions { keys_only: true, ..ScanOptions::prefix(b"example/") });
    for entry in scan.by_ref() {
        doomed.delete(&entry?.key)?;
    }
    println!("scan:  {} keys at sequence {}", doomed.len(), scan.snapshot());
    client.write(&doomed)?;
    Ok(())
}

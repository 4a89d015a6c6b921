//! Raw log files, as simple as they can be: what `append + fdatasync` costs on this file system.
#![expect(clippy::disallowed_methods, reason = "a raw probe of the machine, outside the library")]

use crate::clock;
use crate::stats::{self, Percentiles};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the file's blocks come to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileMode {
    /// Each append makes the file longer: every sync also writes metadata.
    Growing,
    /// Written full of zeros and synced before use: a sync writes data only.
    ZeroFilled,
}

/// A log file that begins again at its front when it is full. It has no name from the
/// start: whatever ends the process, nothing is left behind.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    offset: u64,
    capacity: u64,
}

impl LogFile {
    /// A file of `capacity` zero bytes, durable.
    pub fn zero_filled(dir: &Path, capacity: u64) -> io::Result<Self> {
        let log = Self::growing(dir, capacity)?;
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < capacity {
            let n = zeros.len().min((capacity - at) as usize);
            log.file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
        log.file.sync_all()?;
        Ok(log)
    }

    /// An empty file.
    pub fn growing(dir: &Path, capacity: u64) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(dir)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("beach-probe-{}-{number}.log", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self { file, offset: 0, capacity })
    }

    /// Writes `data` behind the last append.
    pub fn append(&mut self, data: &[u8]) -> io::Result<()> {
        if self.offset + data.len() as u64 > self.capacity {
            self.offset = 0;
        }
        self.file.write_all_at(data, self.offset)?;
        self.offset += data.len() as u64;
        Ok(())
    }

    /// `fdatasync`.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// One row of the file probe.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct FileProbe {
    /// How the file was made.
    pub mode: FileMode,
    /// Bytes in each append.
    pub bytes: usize,
    /// Appends with their sync per second.
    pub ops_s: f64,
    /// Latency of append + fdatasync.
    pub latency: Percentiles,
}

/// Appends `bytes` and syncs, over and over, for `duration_ns`.
pub fn probe(dir: &Path, mode: FileMode, bytes: usize, duration_ns: u64) -> io::Result<FileProbe> {
    const CAPACITY: u64 = 64 << 20;
    let mut log = match mode {
        FileMode::Growing => LogFile::growing(dir, u64::MAX)?,
        FileMode::ZeroFilled => LogFile::zero_filled(dir, CAPACITY)?,
    };
    let data = vec![0xb5; bytes];
    let mut latencies = stats::histogram();
    let begin = clock::now();
    let mut before = begin;
    while before - begin < duration_ns {
        log.append(&data)?;
        log.sync()?;
        let after = clock::now();
        latencies.saturating_record(after - before);
        before = after;
    }
    let ops_s = latencies.len() as f64 * 1e9 / (before - begin) as f64;
    Ok(FileProbe { mode, bytes, ops_s, latency: Percentiles::of(&latencies) })
}

//! The log on the simulated disk: what survives crashes, faults, and flipped bytes.

use super::*;
use crate::env::Disk;
use crate::env::sim::{CrashKind, SimDisk};
use std::sync::Arc;

/// What a log holds after its records were replayed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Content {
    data: Vec<(u64, u64, Vec<u8>)>,
    states: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl Content {
    fn apply(&mut self, kind: RecordKind, index: u64, aux: u64, payload: &[u8]) {
        match kind {
            RecordKind::Data => self.data.push((index, aux, payload.to_vec())),
            RecordKind::Truncate => self.data.retain(|(i, ..)| *i < index),
            RecordKind::State => {
                self.states.insert(index, payload.to_vec());
            }
            RecordKind::Group => panic!("groups are not shown to owners"),
        }
    }
}

fn small_options() -> Options {
    Options { segment_bytes: 1024, ..Options::new(LogKind::RaftLog, "/log") }
}

fn open_log(
    disk: &SimDisk,
    options: &Options,
) -> Result<(Writer, RecoveryReport, Content), WalError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut content = Content::default();
    let (writer, report) = open(&disk, options.clone(), &mut |r| {
        content.apply(r.kind, r.index, r.aux, r.payload);
        Ok(())
    })?;
    Ok((writer, report, content))
}

fn put(writer: &mut Writer, index: u64) -> AppendId {
    let payload = vec![index as u8; 10 + index as usize % 90];
    writer.append(RecordKind::Data, index, 3, &payload)
}

fn indexes(content: &Content) -> Vec<u64> {
    content.data.iter().map(|(i, ..)| *i).collect()
}

#[test]
fn what_was_synced_is_there_after_a_power_loss() {
    let disk = SimDisk::new(1);
    let (mut writer, report, content) = open_log(&disk, &small_options()).unwrap();
    assert!(content.data.is_empty() && report.was_clean(), "{report}");
    for index in 1..=100 {
        let id = put(&mut writer, index);
        if index % 7 == 0 {
            assert_eq!(writer.sync_blocking().unwrap(), id);
        }
    }
    writer.sync_blocking().unwrap();
    assert!(writer.segments() > 3);
    disk.crash(CrashKind::PowerLoss);
    disk.restart();
    let (_, report, content) = open_log(&disk, &small_options()).unwrap();
    assert_eq!(indexes(&content), (1..=100).collect::<Vec<_>>(), "{report}");
}

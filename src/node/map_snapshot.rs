//! Snapshots of a [`MapMachine`](super::MapMachine): all of its versions in one stream. Only tests have them, so the layout is
//! nobody's promise; it has no page in `proto-spec`.
//!
//! ```text
//! description  "BMAP" | applied index (8) | term (8) | last seq (8) | oldest readable seq (8) | CRC32C of the stream (4)
//! stream       for each key: varint length, key | varint versions | for each: seq (8) | 0 = tombstone, or 1, varint length, value
//! ```

use super::state_machine::{SinkFault, SinkJob, SnapshotRead, SnapshotSink, SnapshotSource};
use crate::base::{LogIndex, SequenceNumber, Term, checksum, varint};
use crate::raft::message::SnapshotMeta;
use bytes::Bytes;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A key's versions, oldest first; `None` is a tombstone.
pub(super) type Versions = Vec<(SequenceNumber, Option<Bytes>)>;

/// What a machine holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Content {
    pub versions: BTreeMap<Bytes, Versions>,
    pub applied: (LogIndex, Term),
    pub last_seq: SequenceNumber,
    pub oldest_readable: SequenceNumber,
}

const MAGIC: [u8; 4] = *b"BMAP";

impl Content {
    /// Description and stream.
    pub fn encode(&self) -> (Bytes, Bytes) {
        let mut stream = Vec::new();
        for (key, versions) in &self.versions {
            put_slice(&mut stream, key);
            varint::put_u64(&mut stream, versions.len() as u64);
            for (seq, value) in versions {
                stream.extend_from_slice(&seq.0.to_be_bytes());
                stream.push(u8::from(value.is_some()));
                if let Some(value) = value {
                    put_slice(&mut stream, value);
                }
            }
        }
        let mut body = MAGIC.to_vec();
        let (index, term) = self.applied;
        for number in [index.0, term.0, self.last_seq.0, self.oldest_readable.0] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.extend_from_slice(&checksum::crc32c(&stream).to_be_bytes());
        (body.into(), stream.into())
    }

    /// The numbers of a description, without the versions; and the checksum of the stream.
    pub fn decode_body(body: &[u8]) -> Option<(Self, u32)> {
        let mut input = body.strip_prefix(&MAGIC)?;
        let mut number = || take(&mut input).map(u64::from_be_bytes);
        let content = Self {
            versions: BTreeMap::new(),
            applied: (LogIndex(number()?), Term(number()?)),
            last_seq: SequenceNumber(number()?),
            oldest_readable: SequenceNumber(number()?),
        };
        let crc = take(&mut input).map(u32::from_be_bytes)?;
        input.is_empty().then_some((content, crc))
    }

    /// Adds the versions of a stream; `None` when it is none.
    pub fn decode_stream(mut self, mut input: &[u8]) -> Option<Self> {
        while !input.is_empty() {
            let key = take_slice(&mut input)?;
            let mut versions = Vec::new();
            for _ in 0..take_varint(&mut input)? {
                let seq = SequenceNumber(u64::from_be_bytes(take(&mut input)?));
                let value = match take(&mut input)? {
                    [0] => None,
                    [1] => Some(take_slice(&mut input)?),
                    _ => return None,
                };
                versions.push((seq, value));
            }
            self.versions.insert(key, versions);
        }
        Some(self)
    }
}

fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    varint::put_u64(out, slice.len() as u64);
    out.extend_from_slice(slice);
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*taken)
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let (value, len) = varint::get_u64(input)?;
    *input = &input[len..];
    Some(value)
}

fn take_slice(input: &mut &[u8]) -> Option<Bytes> {
    let len = usize::try_from(take_varint(input)?).ok()?;
    let (taken, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(Bytes::copy_from_slice(taken))
}

/// A serialized machine.
pub(super) struct MapSource {
    pub meta: Arc<SnapshotMeta>,
    pub stream: Bytes,
}

impl SnapshotSource for MapSource {
    fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    fn read(&self, offset: u64, len: usize) -> SnapshotRead {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.stream.len());
        let data = self.stream.slice(start..start + len.min(self.stream.len() - start));
        Box::new(move || {
            let crc = checksum::crc32c(&data);
            Ok((data, crc))
        })
    }
}

/// A stream on its way in.
pub(super) struct MapSink {
    pub meta: Arc<SnapshotMeta>,
    pub stream: Vec<u8>,
}

impl SnapshotSink for MapSink {
    fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    fn written(&self) -> u64 {
        self.stream.len() as u64
    }

    fn write(&mut self, offset: u64, data: Bytes) -> SinkJob {
        let fits =
            offset == self.written() && data.len() as u64 <= self.meta.bytes - self.written();
        if !fits {
            let fault = format!(
                "a piece of {} bytes at offset {offset} does not follow on {} of {} bytes",
                data.len(),
                self.written(),
                self.meta.bytes
            );
            return Box::new(move || Err(SinkFault::Refused(fault)));
        }
        self.stream.extend_from_slice(&data);
        Box::new(|| Ok(()))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

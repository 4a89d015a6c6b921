//! Received bytes of one link, cut into frames. A frame's payloads are slices of what was received, not copies.

use crate::base::Nanos;
use crate::limits::MAX_FRAME_BYTES;
use crate::proto::frame::{self, CrcPolicy, Decoded, FrameError};
use bytes::{Bytes, BytesMut};

/// Memory taken at once for small frames.
pub const BLOCK_BYTES: usize = 64 << 10;
/// A frame has this long to be complete, and besides a second for each [`FRAME_RATE`] bytes of it that are here.
const FRAME_NS: u64 = 10_000_000_000;
/// Who sends fewer bytes a second than this for longer does not mean to end the frame.
const FRAME_RATE: u64 = 64 << 10;

/// See the module. Holds at most one incomplete frame.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: BytesMut,
    /// Bytes that the next frame needs, as far as its header says.
    need: usize,
    /// Since when the frame being collected is.
    since: Option<Nanos>,
}

impl Inbox {
    /// Bytes came in. `block`: so much memory is taken at once for small frames.
    pub fn push(&mut self, now: Nanos, fresh: &[u8], block: usize) {
        self.since.get_or_insert(now);
        let wanted = self.need.clamp(fresh.len(), MAX_FRAME_BYTES + fresh.len());
        if self.buffer.capacity() - self.buffer.len() < fresh.len() {
            // As much as the frame being collected needs, never more than it can: its length was checked.
            self.buffer
                .reserve(wanted.saturating_sub(self.buffer.len()).max(block).max(fresh.len()));
        }
        self.buffer.extend_from_slice(fresh);
    }

    /// The next complete frame, its checksum checked.
    pub fn next_frame(&mut self, now: Nanos) -> Result<Option<Bytes>, FrameError> {
        match frame::decode(&self.buffer, CrcPolicy::Required)? {
            Decoded::Frame { consumed, .. } => {
                self.need = 0;
                let frame = self.buffer.split_to(consumed).freeze();
                self.since = (!self.buffer.is_empty()).then_some(now);
                Ok(Some(frame))
            }
            Decoded::Incomplete { need } => {
                self.need = need;
                Ok(None)
            }
        }
    }

    /// Bytes that the frame being collected has, as far as is known.
    pub const fn need(&self) -> usize {
        self.need
    }

    /// Bytes held of the frame being collected, or promised to it.
    pub fn held(&self) -> usize {
        if self.buffer.is_empty() { 0 } else { self.buffer.len().max(self.need) }
    }

    /// When the frame being collected is given up.
    pub fn deadline(&self) -> Nanos {
        let here = self.buffer.len() as u64;
        self.since.map_or(Nanos::MAX, |since| {
            since.plus(FRAME_NS + here.saturating_mul(1_000_000_000) / FRAME_RATE)
        })
    }

    /// The first byte that is not taken yet.
    pub fn first_byte(&self) -> Option<u8> {
        self.buffer.first().copied()
    }
}

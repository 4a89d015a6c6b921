//! Received bytes of one link, cut into frames. A frame's payloads are slices of what was received, not copies.

use crate::limits::MAX_FRAME_BYTES;
use crate::proto::frame::{self, CrcPolicy, Decoded, FrameError};
use bytes::{Bytes, BytesMut};

/// Memory taken at once for small frames.
const BLOCK_BYTES: usize = 64 << 10;

/// See the module. Holds at most one incomplete frame.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: BytesMut,
    /// Bytes that the next frame needs, as far as its header says.
    need: usize,
}

impl Inbox {
    /// Bytes came in.
    pub fn push(&mut self, fresh: &[u8]) {
        let wanted = self.need.clamp(fresh.len(), MAX_FRAME_BYTES + fresh.len());
        if self.buffer.capacity() - self.buffer.len() < fresh.len() {
            // As much as the frame being collected needs, never more than it can: its length was checked.
            self.buffer.reserve(
                wanted.saturating_sub(self.buffer.len()).max(BLOCK_BYTES).max(fresh.len()),
            );
        }
        self.buffer.extend_from_slice(fresh);
    }

    /// The next complete frame, its checksum checked.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match frame::decode(&self.buffer, CrcPolicy::Required)? {
            Decoded::Frame { consumed, .. } => {
                self.need = 0;
                Ok(Some(self.buffer.split_to(consumed).freeze()))
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

    /// The first byte that is not taken yet.
    pub fn first_byte(&self) -> Option<u8> {
        self.buffer.first().copied()
    }
}

//! The unsent replies of one connection.
//!
//! ```text
//! front ─▶ [64 KiB][64 KiB]…[tail being filled]
//!           ▲ sent
//! ```
//!
//! Replies are encoded straight into the tail; a full tail becomes a chunk, so that a large backlog is neither
//! copied to grow nor kept once a part of it is sent. One vectored write sends up to [`MAX_SLICES`] chunks.
//!
//! Invariants: `len` is the number of unsent bytes; `sent` counts inside the front chunk; no empty chunk is queued.
//! It does not know limits: whoever fills it asks [`Output::len`].

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// A tail this long becomes a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks in one vectored write.
const MAX_SLICES: usize = 64;
/// An empty tail keeps at most this much memory for the next reply.
const KEEP_BYTES: usize = 16 << 10;

/// Unsent bytes, in order.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Vec<u8>>,
    tail: Vec<u8>,
    sent: usize,
    len: usize,
}

impl Output {
    /// Unsent bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether everything was sent.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `encode` append to the end. It must not touch what is there already.
    pub fn append<R>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.tail.len();
        let result = encode(&mut self.tail);
        assert!(self.tail.len() >= before, "an encoder took bytes away");
        self.len += self.tail.len() - before;
        if self.tail.len() >= CHUNK_BYTES {
            self.chunks.push_back(std::mem::take(&mut self.tail));
        }
        result
    }

    /// Sends what `to` takes. `Ok(true)`: all of it; `Ok(false)`: it would block.
    pub fn write_to(&mut self, to: &mut impl Write) -> io::Result<bool> {
        while self.len > 0 {
            let wrote = match self.write_once(to) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.advance(wrote);
        }
        Ok(true)
    }

    /// Gives back memory that an idle connection does not need.
    pub fn trim(&mut self) {
        if self.len == 0 {
            *self = Self::default();
        }
    }

    fn write_once(&self, to: &mut impl Write) -> io::Result<usize> {
        if self.chunks.is_empty() {
            return to.write(&self.tail[self.sent..]);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut used = 0;
        for chunk in self.chunks.iter().chain([&self.tail]).take(MAX_SLICES) {
            let skip = if used == 0 { self.sent } else { 0 };
            slices[used] = IoSlice::new(&chunk[skip..]);
            used += 1;
        }
        to.write_vectored(&slices[..used])
    }

    fn advance(&mut self, wrote: usize) {
        self.len -= wrote;
        self.sent += wrote;
        while let Some(front) = self.chunks.front() {
            if self.sent < front.len() {
                return;
            }
            self.sent -= front.len();
            self.chunks.pop_front();
        }
        if self.sent == self.tail.len() {
            self.sent = 0;
            if self.tail.capacity() > KEEP_BYTES {
                self.tail = Vec::new();
            } else {
                self.tail.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `each` bytes a call and would block after `room` bytes.
    struct Narrow {
        each: usize,
        room: usize,
        got: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = data.len().min(self.each).min(self.room);
            self.got.extend_from_slice(&data[..n]);
            self.room -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_byte_is_sent_once_and_in_order_however_narrow_the_socket() {
        for each in [1_000, 65_536, 100_001, 1 << 20] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            let mut to = Narrow { each, room: 0, got: Vec::new() };
            for round in 0..40_u32 {
                let reply: Vec<u8> = (0..round * 997).map(|i| (i ^ round) as u8).collect();
                output.append(|out| out.extend_from_slice(&reply));
                expected.extend_from_slice(&reply);
                to.room = 7_001;
                let all = output.write_to(&mut to).unwrap();
                assert_eq!(all, output.is_empty());
                assert_eq!(expected.len(), to.got.len() + output.len());
            }
            to.room = usize::MAX;
            assert!(output.write_to(&mut to).unwrap());
            assert!(to.got == expected, "each {each}");
        }
    }

    #[test]
    fn memory_of_a_backlog_is_given_back_when_it_is_sent() {
        let mut output = Output::default();
        for _ in 0..100 {
            output.append(|out| out.resize(out.len() + 30_000, 7));
        }
        assert_eq!(output.len(), 3_000_000);
        output.write_to(&mut io::sink()).unwrap();
        assert!(output.is_empty() && output.chunks.is_empty());
        assert!(output.tail.capacity() <= KEEP_BYTES);
        output.trim();
        assert_eq!(output.tail.capacity(), 0);
    }
}

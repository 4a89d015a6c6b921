//! Unsent frames of one link, in two classes.
//!
//! ```text
//!  urgent:  heartbeats, votes, replies, pings ──┐
//!                                               ├─▶ one vectored write a turn
//!  normal:  entries, pieces of snapshots ───────┘   (a frame that is half sent is finished first)
//! ```
//!
//! Invariants:
//! - Bounded: a normal frame is refused when [`PEER_OUTPUT_BYTES`] would be exceeded (one frame may exceed it alone), an urgent
//!   one when [`PEER_URGENT_BYTES`] more would be. Raft tolerates the loss.
//! - A frame is sent whole; between frames the urgent ones go first. Order between frames does not matter to raft: a heartbeat
//!   stands at what the follower is known to have.
//! - `len` is the number of unsent bytes of all chunks.

use crate::limits::{PEER_OUTPUT_BYTES, PEER_URGENT_BYTES};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// Frames are collected in chunks of about this size.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks in one vectored write.
const MAX_SLICES: usize = 64;

/// What goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Small, and somebody waits for it: an election, a lease of life, a commit.
    Urgent,
    /// Data.
    Normal,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// Too many bytes wait already.
    Full,
    /// It is longer than a frame may be.
    TooLarge,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Half sent, up to `sent`.
    current: Vec<u8>,
    sent: usize,
    urgent: VecDeque<Vec<u8>>,
    normal: VecDeque<Vec<u8>>,
    len: usize,
}

impl Outbound {
    /// Unsent bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether everything was sent.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `encode` append one frame of about `weight` bytes. It says whether it fitted in a frame.
    pub fn push(
        &mut self,
        class: Class,
        weight: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Result<(), NotTaken> {
        let most = match class {
            Class::Urgent => PEER_OUTPUT_BYTES + PEER_URGENT_BYTES,
            Class::Normal => PEER_OUTPUT_BYTES,
        };
        if self.len > 0 && self.len + weight > most {
            return Err(NotTaken::Full);
        }
        let queue = match class {
            Class::Urgent => &mut self.urgent,
            Class::Normal => &mut self.normal,
        };
        if queue.back().is_none_or(|chunk| chunk.len() + weight > CHUNK_BYTES) {
            queue.push_back(Vec::with_capacity(weight));
        }
        let chunk = queue.back_mut().expect("it was just made");
        let before = chunk.len();
        let fitted = encode(chunk);
        if !fitted {
            chunk.truncate(before);
        }
        self.len += chunk.len() - before;
        if chunk.is_empty() {
            queue.pop_back();
        }
        if fitted { Ok(()) } else { Err(NotTaken::TooLarge) }
    }

    /// Sends what `to` takes; how many bytes that was. When not everything is sent, it would block.
    pub fn write_to(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let before = self.len;
        while self.len > 0 {
            match self.write_once(to) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(before - self.len)
    }

    fn write_once(&self, to: &mut impl Write) -> io::Result<usize> {
        let rest = &self.current[self.sent..];
        let waiting = self.urgent.iter().chain(&self.normal).map(Vec::as_slice);
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut used = 0;
        let all = std::iter::once(rest).filter(|rest| !rest.is_empty()).chain(waiting);
        for (slot, chunk) in slices.iter_mut().zip(all) {
            *slot = IoSlice::new(chunk);
            used += 1;
        }
        match used {
            1 => to.write(&slices[0]),
            _ => to.write_vectored(&slices[..used]),
        }
    }

    /// `wrote` bytes are gone, in the order of [`Outbound::write_once`]. A chunk that is begun comes first from now on.
    fn advance(&mut self, wrote: usize) {
        self.len -= wrote;
        let rest = self.current.len() - self.sent;
        if wrote < rest {
            self.sent += wrote;
            return;
        }
        let mut wrote = wrote - rest;
        (self.current, self.sent) = (Vec::new(), 0);
        while wrote > 0 {
            let Some(chunk) = self.next_chunk() else { return };
            if wrote < chunk.len() {
                (self.current, self.sent) = (chunk, wrote);
                return;
            }
            wrote -= chunk.len();
        }
    }

    fn next_chunk(&mut self) -> Option<Vec<u8>> {
        self.urgent.pop_front().or_else(|| self.normal.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then would block.
    struct Narrow {
        room: usize,
        got: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = data.len().min(self.room);
            self.got.extend_from_slice(&data[..n]);
            self.room -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn put(out: &mut Outbound, class: Class, byte: u8, len: usize) -> Result<(), NotTaken> {
        out.push(class, len, |bytes| {
            bytes.extend(std::iter::repeat_n(byte, len));
            true
        })
    }

    #[test]
    fn a_heartbeat_overtakes_waiting_entries_but_never_cuts_a_frame() {
        let mut out = Outbound::default();
        for byte in *b"abc" {
            put(&mut out, Class::Normal, byte, CHUNK_BYTES).unwrap();
        }
        let mut to = Narrow { room: 10, got: Vec::new() };
        assert_eq!(out.write_to(&mut to).unwrap(), 10);
        put(&mut out, Class::Urgent, b'!', 5).unwrap();
        to.room = usize::MAX;
        out.write_to(&mut to).unwrap();
        assert!(out.is_empty());
        let mut runs = to.got.clone();
        runs.dedup();
        assert_eq!(runs, b"a!bc", "the frame that was half sent is finished first");
        assert_eq!(to.got.len(), 3 * CHUNK_BYTES + 5);
    }

    #[test]
    fn every_byte_leaves_once_however_narrow_the_socket() {
        for room in [1, 7, 1_000, 65_537] {
            let mut out = Outbound::default();
            let mut to = Narrow { room: 0, got: Vec::new() };
            let mut expected = [0_usize; 256];
            for n in 0..200_usize {
                let class = if n % 3 == 0 { Class::Urgent } else { Class::Normal };
                let (byte, len) = ((n % 251) as u8, (n * 37) % 3_000 + 1);
                put(&mut out, class, byte, len).unwrap();
                expected[byte as usize] += len;
                to.room = room;
                out.write_to(&mut to).unwrap();
            }
            to.room = usize::MAX;
            out.write_to(&mut to).unwrap();
            assert!(out.is_empty());
            let mut found = [0_usize; 256];
            to.got.iter().for_each(|byte| found[*byte as usize] += 1);
            assert_eq!(found, expected, "room {room}");
        }
    }

    #[test]
    fn a_peer_that_reads_nothing_is_bounded_and_urgent_frames_have_room_of_their_own() {
        let mut out = Outbound::default();
        let mut taken = 0;
        while put(&mut out, Class::Normal, 1, 1 << 20).is_ok() {
            taken += 1;
        }
        assert!(out.len() <= PEER_OUTPUT_BYTES && taken >= PEER_OUTPUT_BYTES >> 20);
        put(&mut out, Class::Urgent, 2, 100).unwrap();
        while put(&mut out, Class::Urgent, 2, 1_000).is_ok() {}
        assert!(out.len() <= PEER_OUTPUT_BYTES + PEER_URGENT_BYTES);
        let mut alone = Outbound::default();
        put(&mut alone, Class::Normal, 1, PEER_OUTPUT_BYTES + 1).unwrap();
        assert_eq!(put(&mut alone, Class::Normal, 1, 1), Err(NotTaken::Full));
    }

    #[test]
    fn a_frame_that_does_not_fit_leaves_nothing_behind() {
        let mut out = Outbound::default();
        let refused = out.push(Class::Normal, 10, |bytes| {
            bytes.extend_from_slice(b"half");
            false
        });
        assert_eq!((refused, out.len()), (Err(NotTaken::TooLarge), 0));
        put(&mut out, Class::Normal, 7, 3).unwrap();
        let mut got = Vec::new();
        out.write_to(&mut got).unwrap();
        assert_eq!(got, [7, 7, 7]);
    }
}

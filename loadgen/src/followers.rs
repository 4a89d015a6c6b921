//! The followers of the [`ideal`](crate::ideal) server: each appends what its leader sends to a log of its own, syncs once a
//! read, and says how far it is.
//!
//! ```text
//!   leader ──▶ 4 B length of the rest, 8 B number of the group, its bytes (numbers go up by one)   ──▶ follower
//!   leader ◀── 8 B number of the last group that is on its disk (all before it are as well)        ◀── follower
//! ```
//!
//! They are threads of the leader's process with TCP over loopback between them: for the two cores that all share it is the same
//! as three processes. Nothing is bounded, and nothing is retried: a follower that fails ends its connection, and the leader with it.
#![expect(clippy::disallowed_methods, reason = "a raw probe of the machine, outside the library")]

use crate::files::LogFile;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};

/// Bytes in front of a group: its length and its number.
const PREFIX_BYTES: usize = 12;
const ACK_BYTES: usize = 8;
const READ_BYTES: usize = 256 << 10;

/// The leader's side of all followers.
pub struct Followers {
    all: Vec<Follower>,
    first_token: usize,
    last_sent: u64,
}

struct Follower {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    /// The beginning of an answer whose rest has not arrived.
    tail: Vec<u8>,
    /// The last group that is on its disk.
    stored: u64,
}

impl Followers {
    /// Starts one for each log (`None`: it stores nothing), with the tokens from `first_token` on. They end when this is dropped.
    pub fn start(
        logs: Vec<Option<LogFile>>,
        registry: &Registry,
        first_token: usize,
    ) -> io::Result<Self> {
        let mut all = Vec::new();
        for (i, log) in logs.into_iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let stream = std::net::TcpStream::connect(listener.local_addr()?)?;
            let (accepted, _) = listener.accept()?;
            std::thread::spawn(move || follow(accepted, log));
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut stream, Token(first_token + i), interest)?;
            let (out, tail) = (Vec::new(), Vec::new());
            all.push(Follower { stream, out, written: 0, tail, stored: 0 });
        }
        Ok(Self { all, first_token, last_sent: 0 })
    }

    /// Sends a group to all; returns its number.
    pub fn send(&mut self, group: &[u8]) -> io::Result<u64> {
        self.last_sent += 1;
        let length = u32::try_from(group.len() + PREFIX_BYTES - 4)
            .map_err(|_| io::Error::other("a group of more than 4 GiB"))?;
        for follower in &mut self.all {
            follower.out.extend_from_slice(&length.to_be_bytes());
            follower.out.extend_from_slice(&self.last_sent.to_be_bytes());
            follower.out.extend_from_slice(group);
            follower.flush()?;
        }
        Ok(self.last_sent)
    }

    /// Takes what the follower with this token has said, and sends on; false when it is not one of theirs.
    pub fn turn(&mut self, token: Token) -> io::Result<bool> {
        let at = token.0.checked_sub(self.first_token);
        let Some(follower) = at.and_then(|i| self.all.get_mut(i)) else { return Ok(false) };
        follower.flush()?;
        follower.read()?;
        Ok(true)
    }

    /// The last group that a majority has, counting the leader, which has all of which this is asked.
    #[must_use]
    pub fn majority(&self) -> u64 {
        let mut stored: Vec<u64> = self.all.iter().map(|follower| follower.stored).collect();
        stored.sort_unstable_by(|a, b| b.cmp(a));
        // Of n followers and a leader more than half are the leader and (n + 1) / 2 others.
        match stored.len().div_ceil(2) {
            0 => u64::MAX,
            needed => stored[needed - 1],
        }
    }
}

impl Follower {
    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let got = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("a follower of the ideal server ended")),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.tail.extend_from_slice(&buffer[..got]);
            let whole = self.tail.len() / ACK_BYTES * ACK_BYTES;
            if let Some(last) = self.tail[..whole].last_chunk::<ACK_BYTES>() {
                self.stored = u64::from_be_bytes(*last);
                self.tail.drain(..whole);
            }
        }
    }
}

/// A follower: until its leader closes the connection. An error closes it, which the leader reports.
fn follow(mut leader: std::net::TcpStream, mut log: Option<LogFile>) -> io::Result<()> {
    leader.set_nodelay(true)?;
    let mut input = vec![0; READ_BYTES];
    let mut have = 0;
    loop {
        let got = leader.read(&mut input[have..])?;
        if got == 0 {
            return Ok(());
        }
        have += got;
        let Some((used, last)) = whole_groups(&input[..have]) else {
            if have == input.len() {
                input.resize(have * 2, 0);
            }
            continue;
        };
        if let Some(log) = &mut log {
            log.append(&input[..used])?;
            log.sync()?;
        }
        input.copy_within(used..have, 0);
        have -= used;
        leader.write_all(&last.to_be_bytes())?;
    }
}

/// How many bytes at the front are whole groups, and the number of the last of them.
fn whole_groups(input: &[u8]) -> Option<(usize, u64)> {
    let (mut at, mut last) = (0, None);
    while let Some((length, rest)) = input[at..].split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            break;
        }
        let Some(number) = rest.first_chunk::<8>() else { break };
        at += 4 + length;
        last = Some((at, u64::from_be_bytes(*number)));
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = (8 + bytes.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn only_whole_groups_are_stored() {
        let both = [group(1, b"one"), group(2, b"")].concat();
        assert_eq!(whole_groups(&both[..14]), None);
        assert_eq!(whole_groups(&both[..20]), Some((15, 1)));
        assert_eq!(whole_groups(&both), Some((both.len(), 2)));
    }

    #[test]
    fn a_majority_counts_the_leader() {
        let poll = mio::Poll::new().unwrap();
        for (followers, needed) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)] {
            let logs = (0..followers).map(|_| None).collect();
            let mut all = Followers::start(logs, poll.registry(), 0).unwrap();
            for k in 0..followers {
                all.all[k].stored = 10 - k as u64; // 10, 9, 8 …
            }
            let expected = if needed == 0 { u64::MAX } else { 11 - needed as u64 };
            assert_eq!(all.majority(), expected, "{followers} followers");
        }
    }
}

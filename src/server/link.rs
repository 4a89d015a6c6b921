//! A connection with its socket, and the key by which the loop, mio, and the node name it.

use super::connection::Connection;
use crate::base::Nanos;
use mio::net::TcpStream;
use slotmap::{Key, KeyData};
use std::io::{self, Read};

slotmap::new_key_type! {
    /// Names a connection: slot and generation.
    pub struct LinkKey;
}

impl LinkKey {
    /// As mio's token and the node's connection number; above 2^32.
    pub fn number(self) -> u64 {
        self.data().as_ffi()
    }
    /// The key with this number.
    pub fn of(number: u64) -> Self {
        KeyData::from_ffi(number).into()
    }
}

/// A connection with its socket.
pub struct Link {
    /// Non-blocking.
    pub socket: TcpStream,
    /// What is said on it.
    pub connection: Connection,
    /// The socket may have bytes: an edge was seen and no read has blocked since.
    pub readable: bool,
    /// The client has closed its end; a short read no longer means that the socket is empty.
    pub read_closed: bool,
    /// In `ready`.
    pub queued: bool,
    /// In `dirty`.
    pub dirty: bool,
    /// Over the limit of connections; the node does not know it.
    pub refused: bool,
    /// Our end is closed since then; input is read and dropped.
    pub lingering: Option<Nanos>,
}

impl Link {
    /// One read. `None`: nothing there now.
    pub fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        read_once(&mut self.socket, &mut self.readable, self.read_closed, scratch)
    }
}

/// One read of a socket that mio reports by edges. `readable` says afterwards whether there may be more without another
/// edge; `read_closed` is whether the other end has said that it is done. `None`: nothing there now.
pub fn read_once(
    socket: &mut TcpStream,
    readable: &mut bool,
    read_closed: bool,
    scratch: &mut [u8],
) -> io::Result<Option<usize>> {
    match socket.read(scratch) {
        Ok(n) => {
            // A short read has emptied the socket, and the next byte brings the next edge; but the end of the
            // stream brings none after the edge it came with.
            *readable = n > 0 && (n == scratch.len() || read_closed);
            Ok(Some(n))
        }
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(e) => {
            *readable = false;
            if e.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(e) }
        }
    }
}

//! Accepting clients: so many a turn, up to the limit; those above it are told.

use super::{ACCEPT_PAUSE, ACCEPTS_PER_TURN, EventLoop, MAX_REFUSED};
use crate::base::Nanos;
use crate::proto::{Effect as WriteEffect, ErrorCode, ErrorReply};
use crate::server::connection::Connection;
use crate::server::link::{Link, LinkKey};
use crate::server::service::Service;
use mio::net::TcpStream;
use mio::{Interest, Token};
use std::io;
use std::net::SocketAddr;

impl<S: Service> EventLoop<S> {
    pub(super) fn accept(&mut self, now: Nanos) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            self.accept_ready = true;
        }
        if !self.accept_ready || self.accept_at.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else {
                self.accept_ready = false;
                return;
            };
            match listener.accept() {
                Ok((socket, peer)) => {
                    self.accept_failing = false;
                    self.open(now, socket, peer);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_ready = false;
                    return;
                }
                // The client went away between its connect and our accept.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    if !self.accept_failing {
                        log::warn!("cannot accept connections: {e}; trying again every 100 ms");
                    }
                    self.accept_failing = true;
                    self.counters.accept_failures += 1;
                    self.accept_at = Some(now.plus(ACCEPT_PAUSE));
                    return;
                }
            }
        }
    }

    fn open(&mut self, now: Nanos, mut socket: TcpStream, peer: SocketAddr) {
        let known = self.links.len() - self.refused;
        let refused = known >= self.settings.max_connections;
        if refused {
            self.counters.refused += 1;
            if self.refused >= MAX_REFUSED {
                return;
            }
        } else {
            self.counters.accepted += 1;
        }
        if let Err(e) = socket.set_nodelay(true) {
            log::debug!("{peer}: {e}");
        }
        let registry = self.poll.registry();
        let mut failed = None;
        let key = self.links.insert_with_key(|key: LinkKey| {
            let token = Token(key.number() as usize);
            failed = registry
                .register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)
                .err();
            Link {
                socket,
                connection: Connection::new(now, peer.ip().to_canonical().is_loopback()),
                readable: true,
                read_closed: false,
                queued: true,
                dirty: false,
                refused,
                lingering: None,
            }
        });
        if let Some(e) = failed {
            log::warn!("{peer}: cannot register the connection: {e}");
            self.links.remove(key);
            return;
        }
        if refused {
            self.refused += 1;
            self.turn_away(now, key);
        }
        self.ready.push(key);
        self.plan_sweep(now);
    }

    /// Tells a connection above the limit that there is no room. It has not spoken yet, so nobody knows what it
    /// speaks: a frame whose message is plain text serves both kinds.
    fn turn_away(&mut self, now: Nanos, key: LinkKey) {
        let most = self.settings.max_connections;
        let message = format!("the server has its limit of {most} connections; try again later\n");
        let mut error =
            ErrorReply::new(ErrorCode::TooManyConnections, WriteEffect::NotApplied, message);
        error.retry_after_ms = 1_000;
        let link = &mut self.links[key];
        link.connection.refuse(now, &error);
        self.unsent_bytes += link.connection.output().len();
        self.mark_dirty(key);
    }
}

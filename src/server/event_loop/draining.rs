//! How connections end, one by one and all at once when the server stops.
//!
//! ```text
//!  SIGTERM            leadership is elsewhere      the node has answered everybody
//!  ───────▶ draining ────────────────────────▶ … ──────────────────────────────────▶ goodbye ─────▶ run() ends
//!           new clients are taken               they are refused                      │
//!           until then: followers name          by the system                         ▼ each connection
//!           this node as the leader                    goodbye frame ─▶ replies flushed ─▶ shutdown(Write)
//!                                                         ─▶ read and drop ─▶ the client closes, or silence
//! ```
//!
//! # Invariants
//! - A client learns of every request whether it was taken: it is answered, or the *goodbye* (`SHUTTING_DOWN` about no request
//!   in particular, [`Connection::say_goodbye`](crate::server::connection::Connection::say_goodbye)) says that it was not. That is
//!   true because the node answers everybody before it is drained and looks at nothing afterwards.
//! - A socket is not closed with unread bytes in it while its client may still be sending: the reset that this makes could
//!   destroy replies that are on their way. Our end is closed first, then the client's bytes are read and dropped until it closes
//!   its end.
//! - All of it is bounded: the drain by `drain-timeout`, what follows by [`LINGER`]; a client that neither sends nor closes holds
//!   up the end for [`QUIET`] only.
//!
//! What it does not do: decide what is answered; that is `node::drain`.

use super::EventLoop;
use crate::base::Nanos;
use crate::node::Event;
use crate::server::ServerError;
use crate::server::counters::CloseReason;
use crate::server::link::LinkKey;
use crate::server::service::Service;
use std::net::Shutdown;
use std::time::Duration;

/// How long a connection is kept at most after our end of it was closed, to let the client read its last replies; and all of
/// them after the node is drained.
pub(super) const LINGER: u64 = 1_000_000_000;
/// A client that has sent nothing for this long after the goodbye is not waited for.
const QUIET: u64 = 200_000_000;

/// How far the end has come.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    signals: usize,
    /// Since the first signal.
    asked: Option<Nanos>,
    /// Since the node said that it is drained.
    drained: Option<Nanos>,
    /// When a client last sent something after its goodbye.
    heard: Nanos,
}

impl Stopping {
    /// Whether the server was told to stop.
    pub const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }
}

impl<S: Service> EventLoop<S> {
    pub(super) fn take_signals(&mut self, now: Nanos) -> Result<(), ServerError> {
        self.stopping.signals += self.signals.pending().count();
        if self.stopping.signals > 1 {
            return Err(ServerError::Impatient);
        }
        if self.stopping.signals == 1 && !self.stopping.is_asked() {
            log::info!("signal received: finishing what is queued, then stopping");
            self.stopping.asked = Some(now);
            self.service.step(now, Event::Drain, &mut self.effects);
        }
        Ok(())
    }

    /// New clients are refused as soon as others lead, or nobody else can.
    pub(super) fn stop_accepting(&mut self) {
        if self.listener.is_some() && self.stopping.is_asked() && !self.service.is_handing_over() {
            // Dropping the socket refuses new connections.
            self.listener = None;
            self.accept_ready = false;
            self.accept_at = None;
        }
    }

    /// Everything is said: closes our end, and the whole connection when the client has closed its end.
    pub(super) fn finish(&mut self, now: Nanos, key: LinkKey) {
        let link = &mut self.links[key];
        if link.connection.input_ended() {
            return self.close(now, key, CloseReason::Finished);
        }
        if let Err(e) = link.socket.shutdown(Shutdown::Write) {
            log::debug!("connection {}: {e}", key.number());
            return self.close(now, key, CloseReason::Finished);
        }
        link.lingering = Some(now);
        if link.readable && !link.queued {
            link.queued = true;
            self.ready.push(key);
        }
        self.sweep_at = Some(self.sweep_at.map_or(now.plus(LINGER), |at| at.min(now.plus(LINGER))));
    }

    /// Reads and drops what a client still sends after we have closed our end.
    pub(super) fn drop_input(&mut self, now: Nanos, key: LinkKey) {
        let link = &mut self.links[key];
        match link.read(&mut self.scratch) {
            Ok(Some(n)) if n > 0 => {
                self.stopping.heard = now;
                if link.readable && !link.queued {
                    link.queued = true;
                    self.ready.push(key);
                }
            }
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => self.close(now, key, CloseReason::Finished),
        }
    }

    /// The node has answered everybody: says goodbye on each connection.
    pub(super) fn drained(&mut self, now: Nanos) {
        self.stopping.drained.get_or_insert(now);
        let keys: Vec<LinkKey> = self.links.keys().collect();
        for key in keys {
            let link = &mut self.links[key];
            if link.lingering.is_some() {
                continue;
            }
            let (held, unsent) = (link.connection.held_bytes(), link.connection.output().len());
            link.connection.say_goodbye(now);
            self.held_bytes -= held;
            self.unsent_bytes += link.connection.output().len() - unsent;
            if link.connection.output().is_empty() {
                self.requeue(now, key);
            } else {
                self.mark_dirty(key);
            }
        }
    }

    /// When to look again whether it is over; `None` before anybody asked.
    pub(super) fn stop_deadline(&self, now: Nanos) -> Option<Nanos> {
        match (self.stopping.asked, self.stopping.drained) {
            (_, Some(since)) => {
                let quiet = since.max(self.stopping.heard).plus(QUIET);
                [quiet, since.plus(LINGER)].into_iter().find(|at| *at > now)
            }
            (Some(since), None) => Some(since.plus(self.settings.drain_timeout)),
            (None, None) => None,
        }
    }

    /// Whether the loop may end: clients have read what they were told, as far as they do, or the drain took too long.
    pub(super) fn is_over(&self, now: Nanos) -> Result<bool, ServerError> {
        if let Some(since) = self.stopping.drained {
            let quiet = now.since(since.max(self.stopping.heard)) >= QUIET;
            let done = self.unsent_bytes == 0 && (self.links.is_empty() || quiet);
            return Ok(done || now.since(since) >= LINGER);
        }
        match self.stopping.asked {
            Some(since) if now.since(since) >= self.settings.drain_timeout => {
                Err(ServerError::DrainTimeout(Duration::from_nanos(self.settings.drain_timeout)))
            }
            _ => Ok(false),
        }
    }
}

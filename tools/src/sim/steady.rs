//! The simplest users there are: each puts numbers under a key of its own, one after the other, and looks whether the
//! last one is there. For tests of the world itself; what is run for real is [`super::check`].

use super::hooks::{ClientPort, Clients, Harness, Nobody, Setup};
use beachdb::base::batch::{BatchRef, WriteBatch};
use beachdb::base::{Nanos, SequenceNumber};
use beachdb::env::sim::SimRandom;
use beachdb::node::Origin;
use beachdb::proto::{Opcode, Request, Response};

const CLIENTS: usize = 4;
const THINK_NS: u64 = 20_000_000;
const TIMEOUT_NS: u64 = 2_000_000_000;

#[derive(Default)]
struct User {
    conn: Option<(u64, usize)>,
    request: u64,
    /// When it acts again: its pause, or its patience, is over.
    next_at: Nanos,
    waits: bool,
    writes: u64,
}

/// See the module.
struct Steady {
    random: SimRandom,
    users: Vec<User>,
    acknowledged: u64,
    stopped: bool,
}

/// Users who judge nothing.
#[must_use]
pub fn harness(setup: &Setup) -> Harness {
    let users = (0..CLIENTS).map(|_| User::default()).collect();
    let random = SimRandom::new(setup.seed);
    let clients = Steady { random, users, acknowledged: 0, stopped: false };
    Harness { observer: Box::new(Nobody), clients: Box::new(clients) }
}

impl Steady {
    fn send(&mut self, n: usize, port: &mut dyn ClientPort) {
        let user = &mut self.users[n];
        let conn = match user.conn {
            Some((conn, _)) => conn,
            None => {
                let slot = self.random.below(port.nodes() as u64) as usize;
                let conn = port.connect(slot);
                user.conn = Some((conn, slot));
                conn
            }
        };
        user.request += 1;
        user.waits = true;
        user.next_at = port.now().plus(TIMEOUT_NS);
        let key = format!("user{n}");
        if user.request.is_multiple_of(4) {
            let snapshot = SequenceNumber::ZERO;
            port.send(conn, user.request, &Request::Get { key: key.as_bytes(), snapshot }, 1_000);
            return;
        }
        user.writes += 1;
        let mut batch = WriteBatch::new();
        if batch.put(key.as_bytes(), user.writes.to_string().as_bytes()).is_ok()
            && let Ok(batch) = BatchRef::parse(batch.as_bytes())
        {
            port.send(conn, user.request, &Request::Write { opcode: Opcode::Write, batch }, 1_000);
        }
    }

    fn user_of(&mut self, conn: u64) -> Option<&mut User> {
        self.users.iter_mut().find(|u| u.conn.is_some_and(|(c, _)| c == conn))
    }
}

impl Clients for Steady {
    fn next_at(&self) -> Nanos {
        self.users.iter().map(|u| u.next_at).min().unwrap_or(Nanos::MAX)
    }

    fn act(&mut self, port: &mut dyn ClientPort) {
        for n in 0..self.users.len() {
            if self.users[n].next_at > port.now() {
                continue;
            }
            if self.users[n].waits
                && let Some((conn, _)) = self.users[n].conn.take()
            {
                port.close(conn);
            }
            self.users[n].waits = false;
            if self.stopped {
                self.users[n].next_at = Nanos::MAX;
            } else {
                self.send(n, port);
            }
        }
    }

    fn reply(&mut self, origin: Origin, response: &Response, port: &mut dyn ClientPort) {
        let failed = matches!(response, Response::Error(_));
        let now = port.now();
        let pause = self.random.below(THINK_NS);
        let Some(user) = self.user_of(origin.conn).filter(|u| u.request == origin.request_id)
        else {
            return;
        };
        user.waits = false;
        user.next_at = now.plus(pause);
        if failed {
            user.conn = None;
            port.close(origin.conn);
        } else {
            self.acknowledged += 1;
        }
    }

    fn closed(&mut self, conn: u64, port: &mut dyn ClientPort) {
        let now = port.now();
        if let Some(user) = self.user_of(conn) {
            user.conn = None;
            user.waits = false;
            user.next_at = now.plus(THINK_NS);
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}

//! Which node a connection goes to: round and round the given endpoints, and to the leader when a node names it.
//!
//! Invariants:
//! - Two addresses in a row are followed without a pause; the third refusal waits, so that nodes that name each other are not
//!   asked in a hot loop.
//! - A name is looked up once, in the thread that drives: cluster members are few, and their addresses usually numbers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};

/// Redirects followed without a pause.
const MAX_HOPS: u32 = 2;
/// The pause when nobody is named and the server advises none.
const PAUSE_MS: u32 = 20;

/// Addresses of leaders that were named, by their text; `None` when it leads nowhere.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeMap<String, Option<SocketAddr>>,
}

impl Names {
    fn address(&mut self, name: &str) -> Option<SocketAddr> {
        if name.is_empty() {
            return None;
        }
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let found = name.to_socket_addrs().ok().and_then(|mut all| all.next());
        self.known.insert(name.to_owned(), found);
        found
    }
}

/// Where a connection goes.
#[derive(Debug)]
pub struct Course {
    /// The address in use, or to be connected to next.
    pub endpoint: SocketAddr,
    /// Its place among the given ones, or that of the one before it.
    at: usize,
    hops: u32,
}

impl Course {
    /// Begins with endpoint number `at`, modulo their number.
    #[must_use]
    pub fn new(endpoints: &[SocketAddr], at: usize) -> Self {
        Self { endpoint: endpoints[at % endpoints.len()], at, hops: 0 }
    }

    /// The node did its work.
    pub const fn served(&mut self) {
        self.hops = 0;
    }

    /// The connection broke, or could not be made.
    pub fn broken(&mut self, endpoints: &[SocketAddr]) {
        self.at += 1;
        self.endpoint = endpoints[self.at % endpoints.len()];
    }

    /// The node does not lead and named `leader`, perhaps nobody. Returns after how many ms to connect to the new endpoint.
    pub fn refused(
        &mut self,
        endpoints: &[SocketAddr],
        names: &mut Names,
        leader: &str,
        retry_after_ms: u32,
    ) -> u32 {
        let leader = names.address(leader).filter(|leader| *leader != self.endpoint);
        match leader {
            Some(leader) if self.hops < MAX_HOPS => {
                self.hops += 1;
                self.endpoint = leader;
                0
            }
            _ => {
                self.hops = 0;
                self.broken(endpoints);
                if retry_after_ms == 0 { PAUSE_MS } else { retry_after_ms }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    #[test]
    fn a_named_leader_is_next_without_a_pause_and_nobody_is_the_neighbour_after_one() {
        let all = endpoints(&[1, 2, 3]);
        let (mut course, mut names) = (Course::new(&all, 0), Names::default());
        assert_eq!(course.refused(&all, &mut names, "127.0.0.1:9", 100), 0);
        assert_eq!(course.endpoint.port(), 9);
        course.served();
        assert_eq!(course.refused(&all, &mut names, "", 100), 100);
        assert_eq!(course.endpoint.port(), 2);
        assert_eq!(course.refused(&all, &mut names, "not an address", 0), PAUSE_MS);
        assert_eq!(course.endpoint.port(), 3);
    }

    #[test]
    fn nodes_that_name_each_other_are_left_after_two_hops() {
        let all = endpoints(&[1, 2, 3]);
        let (mut course, mut names) = (Course::new(&all, 0), Names::default());
        let mut seen = Vec::new();
        for _ in 0..4 {
            let other = if course.endpoint.port() == 1 { "127.0.0.1:2" } else { "127.0.0.1:1" };
            let pause = course.refused(&all, &mut names, other, 50);
            seen.push((course.endpoint.port(), pause));
        }
        assert_eq!(seen, [(2, 0), (1, 0), (2, 50), (1, 0)]);
    }
}

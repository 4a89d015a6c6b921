//! The request ids of one connection that have no answer yet.
//!
//! An id may be used again once it was answered; while it is in flight a second request with it is refused
//! (`DUPLICATE_REQUEST_ID`), because two answers with one id could not be told apart. Clients count upwards and
//! answers come mostly in order, so both operations look at one end first; the worst case is one pass over
//! [`MAX_CONNECTION_IN_FLIGHT`](crate::limits::MAX_CONNECTION_IN_FLIGHT) numbers.

use std::collections::VecDeque;

/// A small set of request ids.
#[derive(Debug, Default)]
pub struct InFlight {
    ids: VecDeque<u64>,
    /// No id in the set is larger.
    highest: u64,
}

impl InFlight {
    /// How many.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether every request was answered.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds an id; false when it is there already.
    pub fn insert(&mut self, id: u64) -> bool {
        if !self.ids.is_empty() && id <= self.highest && self.ids.contains(&id) {
            return false;
        }
        self.highest = if self.ids.is_empty() { id } else { self.highest.max(id) };
        self.ids.push_back(id);
        true
    }

    /// Takes an id out; false when it is not there.
    pub fn remove(&mut self, id: u64) -> bool {
        if self.ids.front() == Some(&id) {
            self.ids.pop_front();
            return true;
        }
        match self.ids.iter().position(|have| *have == id) {
            Some(at) => self.ids.remove(at).is_some(),
            None => false,
        }
    }

    /// Gives back memory that an idle connection does not need.
    pub fn trim(&mut self) {
        if self.ids.is_empty() {
            self.ids = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_refused_while_in_flight_and_welcome_after_its_answer() {
        let mut set = InFlight::default();
        for id in [5, 6, 2, u64::MAX, 0] {
            assert!(set.insert(id), "{id}");
        }
        for id in [5, 6, 2, u64::MAX, 0] {
            assert!(!set.insert(id), "{id}");
        }
        assert!(set.remove(2) && set.insert(2));
        assert!(!set.remove(77));
        for id in [u64::MAX, 0, 2, 6, 5] {
            assert!(set.remove(id), "{id}");
        }
        assert!(set.is_empty() && set.insert(5));
    }
}

//! Which node to ask next.
//!
//! The endpoints are those that the caller gave and, behind them, at most [`MAX_LEARNED`] leaders' addresses that nodes named
//! and the caller did not. They form one circle.
//!
//! ```text
//!   NOT_LEADER names X ─► X, at once      SHUTTING_DOWN ─► the next one, at once
//!   NOT_LEADER names nobody, no answer, no connection ─► the next one, after a pause
//! ```
//!
//! Invariant: after [`MAX_HOPS`] of these without an answer or a pause between them, the next one counts as a refusal that
//! names nobody: two nodes that name each other are asked at the rate of the pauses.

/// Moves without a pause: from a follower to the leader, and on to the one that has just taken over.
const MAX_HOPS: u32 = 2;
/// Addresses remembered beside those of the caller; one more takes the place of the oldest.
const MAX_LEARNED: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Route {
    endpoints: Vec<String>,
    /// How many of them the caller gave.
    given: usize,
    /// Where the next learned one goes when all places are taken.
    next_learned: usize,
    /// To be asked next.
    current: usize,
    /// Asked last.
    asked: usize,
    /// Who named `current`, until that one has answered: when it does not, its neighbour is next.
    named_by: Option<usize>,
    hops: u32,
    /// The last refusal named somebody to go to without a pause.
    at_once: bool,
}

impl Route {
    pub fn new(endpoints: Vec<String>) -> Self {
        let given = endpoints.len();
        Self {
            endpoints,
            given,
            next_learned: 0,
            current: 0,
            asked: 0,
            named_by: None,
            hops: 0,
            at_once: false,
        }
    }

    pub const fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn name(&self, at: usize) -> &str {
        self.endpoints.get(at).map_or("(no endpoint)", String::as_str)
    }

    /// To be asked next.
    pub fn next(&self) -> &str {
        self.name(self.current)
    }

    /// Asked last.
    pub fn asked(&self) -> &str {
        self.name(self.asked)
    }

    /// The next one is being asked.
    pub const fn asking(&mut self) {
        self.asked = self.current;
    }

    /// The one asked last gave an answer that another node would not give better.
    pub const fn answered(&mut self) {
        self.hops = 0;
        self.at_once = false;
        self.named_by = None;
    }

    /// On to the next one in the circle.
    pub fn rotate(&mut self) {
        let from = self.named_by.take().unwrap_or(self.current);
        self.current = (from + 1) % self.endpoints.len().max(1);
        self.at_once = false;
    }

    /// The one asked last does not lead and named this address, perhaps an empty one.
    pub fn redirected(&mut self, leader: &str) {
        if leader.is_empty() || leader == self.asked() || self.hops >= MAX_HOPS {
            // From the one that refused on, wherever that was.
            (self.current, self.named_by) = (self.asked, None);
            return self.rotate();
        }
        self.hops += 1;
        self.current = self.place(leader);
        self.named_by = Some(self.asked);
        self.at_once = true;
    }

    /// The one asked last is about to stop and did not take what it was asked: on to its neighbour, at once. Said again of the
    /// same one it changes nothing.
    pub fn goes_away(&mut self) {
        if self.at_once && self.current != self.asked {
            return;
        }
        (self.current, self.named_by) = (self.asked, None);
        self.rotate();
        if self.current != self.asked && self.hops < MAX_HOPS {
            self.hops += 1;
            self.at_once = true;
        }
    }

    fn place(&mut self, address: &str) -> usize {
        if let Some(at) = self.endpoints.iter().position(|known| known == address) {
            return at;
        }
        if self.endpoints.len() < self.given + MAX_LEARNED {
            self.endpoints.push(address.to_owned());
            return self.endpoints.len() - 1;
        }
        let at = self.given + self.next_learned;
        self.next_learned = (self.next_learned + 1) % MAX_LEARNED;
        address.clone_into(&mut self.endpoints[at]);
        at
    }

    /// Whether the next try needs no pause; said once for each refusal.
    pub const fn take_at_once(&mut self) -> bool {
        std::mem::replace(&mut self.at_once, false)
    }

    /// There was a pause.
    pub const fn paused(&mut self) {
        self.hops = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(given: &[&str]) -> Route {
        Route::new(given.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_named_leader_is_next_at_once_in_the_list_or_not() {
        for leader in ["c", "elsewhere"] {
            let mut route = route(&["a", "b", "c"]);
            route.asking();
            route.redirected(leader);
            assert_eq!((route.next(), route.asked()), (leader, "a"));
            assert!(route.take_at_once());
            assert!(!route.take_at_once(), "once");
        }
    }

    #[test]
    fn who_names_nobody_or_itself_is_passed_over_after_a_pause() {
        for leader in ["", "a"] {
            let mut route = route(&["a", "b"]);
            route.asking();
            route.redirected(leader);
            assert_eq!(route.next(), "b");
            assert!(!route.take_at_once());
        }
    }

    #[test]
    fn who_goes_away_is_left_at_once_for_its_neighbour_however_often_it_says_so() {
        let mut route = route(&["a", "b", "c"]);
        route.asking();
        route.rotate();
        for _ in 0..10 {
            route.goes_away();
        }
        assert_eq!(route.next(), "b");
        assert!(route.take_at_once());
        route.asking();
        route.goes_away();
        assert_eq!((route.take_at_once(), route.next()), (true, "c"));
        route.asking();
        route.goes_away();
        assert_eq!((route.take_at_once(), route.next()), (false, "a"), "all of them go away");
    }

    #[test]
    fn two_that_name_each_other_are_left_for_the_third_after_two_hops() {
        let mut route = route(&["a", "b", "c"]);
        let mut asked = Vec::new();
        for _ in 0..8 {
            route.asking();
            asked.push(route.asked().to_owned());
            let other = if route.asked() == "a" { "b" } else { "a" };
            route.redirected(other);
            if !route.take_at_once() {
                asked.push("pause".to_owned());
                route.paused();
            }
        }
        assert_eq!(asked.join(" "), "a b a pause b a b pause c a");
    }

    #[test]
    fn a_named_one_that_does_not_answer_gives_way_to_the_neighbour_of_who_named_it() {
        let mut route = route(&["a", "b", "c"]);
        route.asking();
        route.redirected("elsewhere");
        route.asking();
        route.rotate();
        assert_eq!(route.next(), "b");
    }

    #[test]
    fn learned_addresses_are_bounded_and_never_push_out_given_ones() {
        let mut route = route(&["a"]);
        for i in 0..100 {
            route.asking();
            route.answered();
            route.redirected(&format!("leader{i}"));
            assert_eq!(route.next(), format!("leader{i}"));
        }
        assert_eq!(route.len(), 1 + MAX_LEARNED);
        assert_eq!(route.name(0), "a");
    }

    #[test]
    fn no_endpoint_at_all_has_a_name() {
        let mut route = route(&[]);
        route.rotate();
        assert_eq!(route.next(), "(no endpoint)");
    }
}

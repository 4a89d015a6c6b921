//! The network between the nodes: every message is lost, copied, or delayed on its own.
//!
//! | fault | what a link does |
//! |---|---|
//! | loss, duplication | odds per message |
//! | delay, reordering | a delay per message from a range, now and then a long one; without reordering a link is a queue |
//! | partition, one way or both; bridge; flapping | blocked links lose what is sent on them |
//! | clogging | a clogged link keeps what is sent on it and delivers it all when it is released |
//!
//! What it does not do: bandwidth. A large message arrives as fast as a small one.

use beachdb::base::Nanos;
use beachdb::env::sim::SimRandom;

/// How the links behave when no fault is on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    /// Messages lost, in a million.
    pub loss_ppm: u64,
    /// Messages delivered twice, in a million.
    pub duplicate_ppm: u64,
    /// Messages with a long delay, in a million.
    pub slow_ppm: u64,
    /// The shortest delay.
    pub delay_min: u64,
    /// The longest usual delay.
    pub delay_max: u64,
    /// The longest unusual delay.
    pub delay_slow: u64,
    /// Whether a message may overtake another one of its link.
    pub reorder: bool,
}

#[derive(Clone, Debug, Default)]
struct Link {
    /// How many faults block it.
    blocked: u32,
    /// Nothing arrives before this.
    clogged_until: Nanos,
    last_arrival: Nanos,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Net {
    nodes: usize,
    links: Vec<Link>,
    normal: Quality,
    /// What holds until when, instead of the normal quality.
    storm: Option<(Quality, Nanos)>,
    random: SimRandom,
    /// Messages lost so far.
    pub lost: u64,
}

impl Net {
    /// Links between all of `nodes`.
    #[must_use]
    pub fn new(nodes: usize, normal: Quality, random: SimRandom) -> Self {
        let links = vec![Link::default(); nodes * nodes];
        Self { nodes, links, normal, storm: None, random, lost: 0 }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// When a message sent now arrives: never, once, or twice.
    pub fn route(&mut self, now: Nanos, from: usize, to: usize) -> [Option<Nanos>; 2] {
        let quality = self.quality(now);
        if self.link(from, to).blocked > 0 || self.random.chance(quality.loss_ppm, 1_000_000) {
            self.lost += 1;
            return [None, None];
        }
        let first = self.arrival(now, from, to, quality);
        let again =
            quality.duplicate_ppm > 0 && self.random.chance(quality.duplicate_ppm, 1_000_000);
        [Some(first), again.then(|| self.arrival(now, from, to, quality))]
    }

    fn quality(&mut self, now: Nanos) -> Quality {
        match self.storm {
            Some((quality, until)) if now < until => quality,
            _ => {
                self.storm = None;
                self.normal
            }
        }
    }

    fn arrival(&mut self, now: Nanos, from: usize, to: usize, quality: Quality) -> Nanos {
        let slow = quality.slow_ppm > 0 && self.random.chance(quality.slow_ppm, 1_000_000);
        let longest = if slow { quality.delay_slow } else { quality.delay_max };
        let span = longest.saturating_sub(quality.delay_min) + 1;
        let delay = quality.delay_min + self.random.below(span);
        let link = &mut self.links[from * self.nodes + to];
        let mut at = now.plus(delay).max(link.clogged_until);
        if !quality.reorder {
            at = at.max(link.last_arrival);
            link.last_arrival = at;
        }
        at
    }

    /// One more (or one less) fault blocks this direction.
    pub fn block(&mut self, from: usize, to: usize, blocked: bool) {
        let link = self.link(from, to);
        link.blocked = if blocked { link.blocked + 1 } else { link.blocked.saturating_sub(1) };
    }

    /// Whether this direction is blocked.
    #[must_use]
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].blocked > 0
    }

    /// Whether any link is.
    #[must_use]
    pub fn any_blocked(&self) -> bool {
        self.links.iter().any(|link| link.blocked > 0)
    }

    /// Whatever is sent on this link from now on arrives after `until`.
    pub fn clog(&mut self, from: usize, to: usize, until: Nanos) {
        let link = self.link(from, to);
        link.clogged_until = link.clogged_until.max(until);
    }

    /// Another quality for all links, until then.
    pub const fn storm(&mut self, quality: Quality, until: Nanos) {
        self.storm = Some((quality, until));
    }

    /// The normal quality.
    #[must_use]
    pub const fn normal(&self) -> Quality {
        self.normal
    }

    /// Everything is as it should be from now on: no loss, no copies, short delays, nothing blocked.
    pub fn heal(&mut self) {
        for link in &mut self.links {
            *link = Link { last_arrival: link.last_arrival, ..Link::default() };
        }
        self.storm = None;
        self.normal.loss_ppm = 0;
        self.normal.duplicate_ppm = 0;
        self.normal.slow_ppm = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUALITY: Quality = Quality {
        loss_ppm: 0,
        duplicate_ppm: 0,
        slow_ppm: 0,
        delay_min: 1_000,
        delay_max: 9_000,
        delay_slow: 90_000,
        reorder: false,
    };

    fn net(quality: Quality) -> Net {
        Net::new(3, quality, SimRandom::new(1))
    }

    #[test]
    fn a_link_without_reordering_is_a_queue() {
        let mut net = net(QUALITY);
        let arrivals: Vec<Nanos> =
            (0..100).filter_map(|n| net.route(Nanos(n * 100), 0, 1)[0]).collect();
        assert_eq!(arrivals.len(), 100);
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn a_link_with_reordering_is_not_one() {
        let mut net = net(Quality { reorder: true, ..QUALITY });
        let arrivals: Vec<Nanos> =
            (0..100).filter_map(|n| net.route(Nanos(n * 100), 0, 1)[0]).collect();
        assert!(!arrivals.is_sorted());
    }

    #[test]
    fn a_blocked_link_loses_one_direction_and_a_clogged_one_keeps() {
        let mut net = net(QUALITY);
        net.block(0, 1, true);
        assert_eq!(net.route(Nanos(0), 0, 1), [None, None]);
        assert!(net.route(Nanos(0), 1, 0)[0].is_some());
        net.block(0, 1, false);
        net.clog(0, 1, Nanos(1_000_000));
        assert!(net.route(Nanos(0), 0, 1)[0].is_some_and(|at| at >= Nanos(1_000_000)));
    }

    #[test]
    fn copies_and_losses_come_at_their_odds() {
        let mut net = net(Quality { loss_ppm: 500_000, duplicate_ppm: 500_000, ..QUALITY });
        let routes: Vec<_> = (0..1000).map(|n| net.route(Nanos(n), 0, 1)).collect();
        let lost = routes.iter().filter(|r| r[0].is_none()).count();
        let twice = routes.iter().filter(|r| r[1].is_some()).count();
        assert!((400..600).contains(&lost), "{lost}");
        assert!((200..300).contains(&twice), "{twice}");
        net.heal();
        assert!((0..100).all(|n| matches!(net.route(Nanos(n), 0, 1), [Some(_), None])));
    }
}

//! Says things once: a line that was logged is not logged again for a minute, then with how often it was held back.

use crate::base::Nanos;
use std::collections::BTreeMap;

/// A line is repeated after this long, if it still happens.
const REPEAT_NS: u64 = 60_000_000_000;
/// Lines remembered; strangers can make up new ones.
const MAX_LINES: usize = 64;

/// What was said, and when.
#[derive(Debug, Default)]
pub struct Quiet {
    said: BTreeMap<String, (Nanos, u64)>,
}

impl Quiet {
    /// What to log of `line` now: itself, itself with a count, or nothing.
    pub fn say(&mut self, now: Nanos, line: &str) -> Option<String> {
        if let Some((at, held_back)) = self.said.get_mut(line) {
            if now.since(*at) < REPEAT_NS {
                *held_back += 1;
                return None;
            }
            let times = std::mem::take(held_back);
            *at = now;
            return Some(match times {
                0 => line.to_owned(),
                _ => format!("{line} (and {times} times since this was last logged)"),
            });
        }
        if self.said.len() >= MAX_LINES {
            let oldest = self.said.iter().min_by_key(|(_, (at, _))| *at).map(|(l, _)| l.clone());
            oldest.map(|line| self.said.remove(&line));
        }
        self.said.insert(line.to_owned(), (now, 0));
        Some(line.to_owned())
    }

    /// It is over: the next time is news again.
    pub fn forget(&mut self, line: &str) {
        self.said.remove(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_a_minute_with_how_often_it_was_held_back() {
        let mut quiet = Quiet::default();
        let at = |s: u64| Nanos(s * 1_000_000_000);
        assert_eq!(quiet.say(at(0), "a").as_deref(), Some("a"));
        for s in 1..60 {
            assert_eq!(quiet.say(at(s), "a"), None);
        }
        let again = quiet.say(at(61), "a").unwrap();
        assert!(again.contains("59 times"), "{again}");
        quiet.forget("a");
        assert_eq!(quiet.say(at(62), "a").as_deref(), Some("a"));
    }

    #[test]
    fn a_stranger_with_many_lines_takes_no_memory() {
        let mut quiet = Quiet::default();
        for n in 0..10_000 {
            quiet.say(Nanos(n), &n.to_string());
        }
        assert!(quiet.said.len() <= MAX_LINES);
    }
}

//! [`Progress`]: what a leader knows of one follower.
//!
//! ```text
//!            accepted up to next - 1                  entries below the log's first
//!   ┌───────┐ ──────────────────────► ┌───────────┐ ─────────────────────────────► ┌──────────┐
//!   │ Probe │                         │ Replicate │                                │ Snapshot │
//!   └───────┘ ◄────────────────────── └───────────┘                                └──────────┘
//!     ▲   │    rejected, lost, or unreachable                                        │   ▲
//!     └───┼──────────────────────────────────────────────────────────────────────────┘   │
//!         │            installed, or given up                                            │
//!         └──────────────────────────────────────────────────────────────────────────────┘
//!                      the entries it needs are not in the log any more
//! ```
//! *Probe*: one append at a time (at most one a heartbeat when nobody answers), to find where the logs agree.
//! *Replicate*: `next` runs ahead of the answers, within a window of messages and bytes. *Snapshot*: nothing but
//! heartbeats until the state machine's snapshot is installed.
//!
//! Invariants: `match < next`, and `match` never goes back (pitfall 10); answers of another session change nothing
//! (pitfall 11).

use crate::base::{LogIndex, Nanos};
use std::collections::VecDeque;

/// Where a follower stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressState {
    /// Where the logs agree is being found out.
    Probe,
    /// Appends are streamed.
    Replicate,
    /// It waits for a snapshot.
    Snapshot,
}

impl ProgressState {
    /// The name in traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The appends with entries that were sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// (last index, payload bytes, when sent), oldest first.
    sent: VecDeque<(LogIndex, usize, Nanos)>,
    bytes: usize,
}

impl Window {
    pub fn push(&mut self, last: LogIndex, bytes: usize, now: Nanos) {
        self.sent.push_back((last, bytes, now));
        self.bytes += bytes;
    }

    /// Everything up to `matched` was accepted.
    pub fn answered(&mut self, matched: LogIndex) {
        while let Some((_, bytes, _)) = self.sent.pop_front_if(|(last, ..)| *last <= matched) {
            self.bytes -= bytes;
        }
    }

    pub fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }

    pub fn messages(&self) -> usize {
        self.sent.len()
    }

    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest unanswered one was sent.
    pub fn oldest(&self) -> Option<Nanos> {
        self.sent.front().map(|(.., at)| *at)
    }
}

/// The catching up of a learner in rounds (§4.2.1 of the thesis): a round ends when the learner has what the leader
/// had when the round began. A learner whose last round was shorter than an election timeout may be promoted.
#[derive(Clone, Copy, Debug)]
pub(super) struct CatchUp {
    target: LogIndex,
    began: Nanos,
    fast: bool,
}

impl CatchUp {
    pub const fn begin(now: Nanos, last: LogIndex) -> Self {
        Self { target: last, began: now, fast: false }
    }

    /// The learner has everything up to `matched`; the leader's log ends at `last`.
    pub fn reached(&mut self, now: Nanos, matched: LogIndex, last: LogIndex, timeout_ns: u64) {
        if matched >= self.target {
            let fast = now.since(self.began) < timeout_ns;
            *self = Self { target: last, began: now, fast };
        }
    }

    /// Whether the last round was short, and the present one still is.
    pub fn caught_up(&self, now: Nanos, timeout_ns: u64) -> bool {
        self.fast && now.since(self.began) < timeout_ns
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Progress {
    pub session: u64,
    pub state: ProgressState,
    pub matched: LogIndex,
    pub next: LogIndex,
    pub window: Window,
    /// How often in a row the stream was taken for lost: the next time takes longer, since the follower's disk may only
    /// be slow, and everything in the window is sent again.
    pub losses: u32,
    /// The last append with entries was as large as they get: more are waiting behind it.
    pub sent_full: bool,
    /// Nothing is sent before the next heartbeat or answer: a probe is out, or the last try failed.
    pub paused: bool,
    /// The first entry of a fetch in progress.
    pub fetching: Option<LogIndex>,
    /// When it last answered, in this term and session.
    pub heard: Nanos,
    /// The newest round it answered.
    pub round: u64,
    /// The highest commit index it was sent.
    pub commit_sent: LogIndex,
    pub catch_up: CatchUp,
}

impl Progress {
    /// A follower of which nothing is known: probed just before `next`, while the leader's log ends at `last`.
    pub fn new(session: u64, now: Nanos, next: LogIndex, last: LogIndex) -> Self {
        Self {
            session,
            state: ProgressState::Probe,
            matched: LogIndex::ZERO,
            next,
            window: Window::default(),
            losses: 0,
            sent_full: false,
            paused: false,
            fetching: None,
            heard: now,
            round: 0,
            commit_sent: LogIndex::ZERO,
            catch_up: CatchUp::begin(now, last),
        }
    }

    /// Back to finding out, from behind what is known to match.
    pub fn probe(&mut self, next: LogIndex) {
        self.state = ProgressState::Probe;
        self.next = next.max(self.matched.next());
        self.window.clear();
        self.paused = false;
        self.fetching = None;
    }

    /// On with streaming, after what matches.
    pub fn replicate(&mut self) {
        self.state = ProgressState::Replicate;
        self.next = self.matched.next();
        self.window.clear();
        self.paused = false;
        self.fetching = None;
    }

    /// Waits for a snapshot.
    pub fn snapshot(&mut self) {
        self.state = ProgressState::Snapshot;
        self.window.clear();
        self.paused = false;
        self.fetching = None;
    }

    /// It accepted everything up to `matched`. Returns whether that was news.
    pub fn accepted(&mut self, matched: LogIndex) -> bool {
        self.window.answered(matched);
        let news = matched > self.matched;
        if news {
            self.losses = 0;
        }
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        news
    }

    /// Whether a rejection at `prev` is about what is being asked now, and not an answer to something older (pitfall 10).
    pub fn rejection_is_current(&self, prev: LogIndex) -> bool {
        match self.state {
            ProgressState::Probe => prev.next() == self.next && prev > self.matched,
            ProgressState::Replicate => prev > self.matched,
            ProgressState::Snapshot => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(matched: u64, next: u64, state: ProgressState) -> Progress {
        let mut progress = Progress::new(1, Nanos(0), LogIndex(next), LogIndex(next - 1));
        progress.matched = LogIndex(matched);
        progress.state = state;
        progress
    }

    #[test]
    fn pitfall_10_next_stays_above_match_and_match_never_goes_back() {
        let mut progress = at(5, 9, ProgressState::Replicate);
        assert!(!progress.accepted(LogIndex(4)), "an old answer");
        assert_eq!((progress.matched, progress.next), (LogIndex(5), LogIndex(9)));
        progress.probe(LogIndex(2));
        assert_eq!(progress.next, LogIndex(6));
        assert!(progress.accepted(LogIndex(8)));
        assert_eq!((progress.matched, progress.next), (LogIndex(8), LogIndex(9)));
    }

    #[test]
    fn pitfall_10_stale_rejections_are_told() {
        let probe = at(0, 9, ProgressState::Probe);
        assert!(probe.rejection_is_current(LogIndex(8)));
        assert!(!probe.rejection_is_current(LogIndex(7)));
        assert!(!probe.rejection_is_current(LogIndex(9)));
        let stream = at(5, 9, ProgressState::Replicate);
        assert!(stream.rejection_is_current(LogIndex(6)));
        assert!(!stream.rejection_is_current(LogIndex(5)));
        assert!(!at(0, 9, ProgressState::Snapshot).rejection_is_current(LogIndex(8)));
    }

    #[test]
    fn the_window_counts_messages_and_bytes_until_they_are_answered() {
        let mut window = Window::default();
        window.push(LogIndex(3), 10, Nanos(1));
        window.push(LogIndex(5), 20, Nanos(2));
        window.answered(LogIndex(4));
        assert_eq!((window.messages(), window.bytes(), window.oldest()), (1, 20, Some(Nanos(2))));
        window.answered(LogIndex(5));
        assert_eq!((window.messages(), window.bytes(), window.oldest()), (0, 0, None));
    }

    #[test]
    fn a_learner_has_caught_up_when_its_last_round_was_short() {
        let mut catch_up = CatchUp::begin(Nanos(0), LogIndex(100));
        assert!(!catch_up.caught_up(Nanos(1), 10));
        catch_up.reached(Nanos(5), LogIndex(60), LogIndex(120), 10);
        assert!(!catch_up.caught_up(Nanos(5), 10), "the first round goes to 100");
        catch_up.reached(Nanos(50), LogIndex(100), LogIndex(120), 10);
        assert!(!catch_up.caught_up(Nanos(50), 10), "it was slow");
        catch_up.reached(Nanos(55), LogIndex(120), LogIndex(121), 10);
        assert!(catch_up.caught_up(Nanos(55), 10));
        assert!(!catch_up.caught_up(Nanos(65), 10), "the round after it has lasted too long");
    }
}

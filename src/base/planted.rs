//! Planted bugs: one-line mutants of known kinds that the simulator must find, or the simulator has a hole.
//!
//! A mutant stands in the real code as `if planted!(Name) { wrong } else { right }`. In every normal build
//! `planted!` is the constant `false` and nothing of it is left in the program. A build with
//! `RUSTFLAGS='--cfg beach_planted'` (never a cargo feature: features unify, and one dependent would switch them on for
//! all) carries them all, asleep, and `select` wakes one of them on one thread.
//!
//! Invariants:
//! - without the cfg, [`is`] is a `const fn` that returns `false` (proved at compile time below);
//! - `beachd` cannot be built with the cfg at all (`main.rs`), and `MARKER` is in every binary that has them:
//!   `tests/planted.rs` looks for it in the real `beachd`;
//! - every bug listed here is planted somewhere (`tests/planted.rs`);
//! - the choice belongs to a thread: simulated nodes and their jobs run on one, so that several runs of one
//!   process do not disturb each other.
//!
//! It does not: decide anything at run time in a normal build, or reach code outside this crate.

macro_rules! bugs {
    ($($name:ident: $what:literal,)*) => {
        /// A planted bug, by name.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Bug {
            $(#[doc = $what] $name,)*
        }

        impl Bug {
            /// All of them, in the order of the table in `loadgen/RESULTS.md`.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name, as in `planted!(Name)` and `beach-sim planted --only Name`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What the mutant does wrong.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }
        }
    };
}

bugs! {
    CommitOldTermByCount: "the leader commits an entry of an older term by counting replicas (paper 5.4.2, Figure 8)",
    EvenQuorum: "half of an even number of voters is a majority",
    LeaderCountsUnsynced: "the leader counts itself for entries that it has not synced",
    CommitUnverified: "a follower commits up to the end of its log, not to what the append verified",
    CommitOnAppend: "a follower commits what it appended, whatever the leader's commit index is",
    AckBeforeSync: "a follower acknowledges entries before its sync completed",
    SpeakBeforeSync: "votes and answers leave before term and vote are durable",
    VoteNotPersisted: "a vote for another replica is not written to the log",
    VoteTwice: "a second candidate of the same term gets the vote as well",
    LongerLogWins: "logs are compared by length, not by the term of the last entry first",
    NoPreVote: "a follower campaigns without asking first",
    LeadsWithHungDisk: "a leader whose sync hangs goes on leading",
    TruncateAlways: "entries that the log has already are cut off and written again, with all after them",
    ApplyBeforeDurable: "a committed entry is applied before it is durable here",
    AnyAnswerConfirms: "an answer to an old round confirms the reads of the newest",
    ReadBeforeOwnCommit: "a new leader answers reads before it committed an entry of its own term",
    ReadUnconfirmed: "the leader answers reads without asking a majority",
    LeaseAfterTransfer: "a leader that began a transfer still reads by its lease",
    LearnersCount: "learners vote and count",
    ChangeBeforeOwnCommit: "a new leader changes the membership before it committed an entry of its own term",
    TwoChangesAtOnce: "a membership change begins while another is not committed",
    ChangeSurvivesTruncation: "a membership stays in force when its entry is cut off",
    MembershipNotInstalled: "an installed snapshot leaves the old membership in force",
    OldWriteProvesNew: "the completion of an old write acknowledges newer entries at the same indexes (ABA)",
    FollowerReadsAlone: "a follower answers reads by its own commit index",
    ReadBeforeApplied: "a read does not wait until its index is applied",
    OutboxIgnoresGates: "messages leave before the sync they wait for",
    OrphanTakesAnyEntry: "a write of a lost leadership is answered by whatever entry is applied at its index",
    ExpiredSaysNotApplied: "a write whose deadline passed after it was proposed is told that it is not applied",
    SessionsNotInstalled: "an installed snapshot brings no sessions",
    DuplicateApplied: "a retry that the session remembers is applied again",
    EvictedApplied: "a write that its session refuses is applied",
    ConditionAtPropose: "the conditions of a batch are judged when it is proposed, not when it is applied",
    ConditionIgnoresTables: "a key that is only in tables is absent to a condition",
    FailureForgotten: "a session does not remember that a condition failed: a retry is judged again",
    EvictsTheWrongSession: "the session that was used last makes room for a new one",
    RefusesARegisteredSession: "a write now and then is refused as if its session were not there",
    TrimsOneTooMany: "a session forgets the outcome at acked-below as well",
    ReleaseAboveFlushed: "the log is released up to what is applied, not to what is flushed",
    LogNotSynced: "a group of the log is written and not synced",
    SegmentDirNotSynced: "the directory is not synced after a new log segment got its name",
    StateNotCarried: "a new log segment does not begin with hard state, baseline, and membership",
    RecoveryTrustsCache: "recovery does not sync what it copies from above the watermark",
    DamageIsCut: "damage below the watermark is cut like a torn tail",
    TruncationNotLogged: "the truncation of a suffix is not written to the log",
    ResetLosesHardState: "the reset of the log forgets term and vote",
    TableNotSynced: "the manifest names a table that was not synced",
    TableDirNotSynced: "the directory is not synced after a table was written",
    InstallNotSynced: "the tables of an installed snapshot are not synced",
    FlushClaimsTooMuch: "a flush records everything applied, not what its memtable holds",
    TombstonesDropped: "a flush leaves tombstones out although older tables hold their keys",
    TombstoneDroppedEarly: "a compaction leaves tombstones out although a deeper level holds their keys",
    InputsRemovedEarly: "a compaction removes its inputs before the edit that replaces them is durable",
    CompactionIgnoresPins: "a compaction drops versions that a pinned snapshot sees",
    OldestReadableNotRaised: "versions are dropped and reads of that time are still taken",
    ScanSeesNewer: "the pages of a scan see writes after its snapshot",
    TornScan: "a scan's snapshot ends one operation early, within a batch",
    TornBatch: "the rest of a batch is lost when the memtable is full",
    FormsBesideOthers: "the lowest number forms a cluster although somebody linked belongs to one already",
    ClusterNotPersisted: "the uid of the cluster that a node comes to belong to is not written to the log",
    HearsOtherClusters: "a message of another cluster is heard like one of this cluster",
    BeginByRecovered: "a node that recover made a cluster of its own tells blank ones to begin the old one",
    BlockEdgeSkipped: "an iterator that goes from one block of a table into the next one, either way, skips the entry at the edge",
    CheckpointDirNotSynced: "a checkpoint's directory is not synced before it gets its name",
    CheckpointMissesFlush: "a checkpoint lacks the table of the newest flush",
    RangeDeleteIgnoresSnapshot: "a range delete hides values from readers of older snapshots",
    RangeDeleteTakesItsEnd: "a range delete hides the key at its end as well",
    RangeDeleteForgottenEarly: "a range delete is forgotten when it is flushed, whatever the tables hold",
    SequenceGap: "a sequence number is skipped when a memtable is full: replicas differ",
}

impl Bug {
    /// The bug with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// Whether this build carries the planted bugs.
pub const PRESENT: bool = cfg!(beach_planted);

/// In every binary that carries planted bugs, and in no other.
#[cfg(beach_planted)]
pub static MARKER: &str = "this program carries planted bugs of BeachDB: never run it with data";

#[cfg(beach_planted)]
thread_local! {
    static SELECTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Wakes `bug` on this thread and puts the one before it to sleep; `None`: all sleep.
#[cfg(beach_planted)]
pub fn select(bug: Option<Bug>) {
    std::hint::black_box(MARKER);
    SELECTED.set(bug);
}

/// Whether `bug` is awake on this thread; what `planted!` asks.
#[cfg(beach_planted)]
#[must_use]
pub fn is(bug: Bug) -> bool {
    SELECTED.get() == Some(bug)
}

/// Never, in this build.
#[cfg(not(beach_planted))]
#[must_use]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(not(beach_planted))]
const _: () = {
    let mut at = 0;
    while at < Bug::ALL.len() {
        assert!(!is(Bug::ALL[at]));
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_found_by_its_name() {
        for bug in Bug::ALL {
            assert_eq!(Bug::by_name(bug.name()), Some(*bug));
            assert!(!bug.what().is_empty());
        }
        assert_eq!(Bug::by_name("NoSuchBug"), None);
    }

    #[test]
    #[cfg(not(beach_planted))]
    fn a_normal_build_has_no_planted_bug() {
        const { assert!(!PRESENT) };
        assert!(Bug::ALL.iter().all(|bug| !is(*bug)));
        assert!(!planted!(EvenQuorum));
    }

    #[test]
    #[cfg(beach_planted)]
    fn one_bug_is_awake_at_a_time_and_only_on_its_own_thread() {
        assert!(Bug::ALL.iter().all(|bug| !is(*bug)), "all asleep at first");
        select(Some(Bug::EvenQuorum));
        assert!(planted!(EvenQuorum));
        let elsewhere = std::thread::spawn(|| planted!(EvenQuorum)).join().expect("no panic");
        assert!(!elsewhere);
        select(None);
        assert!(!planted!(EvenQuorum));
    }
}

//! Newtypes for numbers that must not mix.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero: "none yet".
            pub const ZERO: Self = Self(0);
            /// The next one. Panics on overflow, which takes centuries at any real rate.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("id overflow"))
            }
            /// The one before, or zero at zero.
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// The position of an entry in the Raft log. The first entry has index 1; 0 means "before the log".
    LogIndex
}
id! {
    /// A Raft term. Term 0 is "before any election".
    Term
}
id! {
    /// One per applied operation, in log order, equal on every replica. 0 means "before any write".
    SequenceNumber
}
id! {
    /// A member of the cluster, chosen by the operator; never 0 in a running node.
    NodeId
}
id! {
    /// Monotonic time in nanoseconds since an origin that only the [`Clock`](crate::env::Clock) knows.
    Nanos
}

/// One life of a member: the operator's number for it, and the incarnation that its data directory was made with.
/// *This* is what votes and is counted (design.md): a node whose disk was wiped comes back under a new incarnation and
/// is a stranger until the log says otherwise.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct ReplicaId {
    /// The member's number.
    pub node: NodeId,
    /// Drawn at random when its data directory was made.
    pub incarnation: u64,
}

impl fmt::Display for ReplicaId {
    /// `3` for incarnation 0 (tests), else `3.00000000000000ab`, as in file IDENTITY.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            0 => self.node.fmt(f),
            incarnation => write!(f, "{}.{incarnation:016x}", self.node),
        }
    }
}

/// Which cluster it is, whatever its name: drawn at random when a cluster is formed, or made out of what another one left.
///
/// Two clusters may have the same name by mistake; this keeps them apart. [`ClusterUid::NONE`]: no cluster, or one that was
/// formed before clusters had one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterUid(pub u64);

impl ClusterUid {
    /// None.
    pub const NONE: Self = Self(0);

    /// One that a cluster can have, from any 64 random bits.
    #[must_use]
    pub const fn drawn(random: u64) -> Self {
        Self(if random == 0 { 1 } else { random })
    }

    /// Whether it is [`ClusterUid::NONE`].
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ClusterUid {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl SequenceNumber {
    /// The largest sequence number: 56 bits, because an internal key packs it beside an 8-bit kind.
    pub const MAX: Self = Self((1 << 56) - 1);
}

impl Nanos {
    /// The largest time: "never".
    pub const MAX: Self = Self(u64::MAX);
    /// Whole milliseconds as nanoseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
    /// `self + ns`, saturating.
    #[must_use]
    pub const fn plus(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
    /// Nanoseconds from `earlier` to `self`, 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

//! [`NodeConfig`]: what a node must be told.

use crate::base::{ClusterUid, Membership, NodeId, ReplicaId};
use crate::engine::CompactionOptions;
use crate::sstable::Compression;
use crate::{limits, raft};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who belongs to the cluster before its log says so: read once, when the data directory is new.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// A cluster of this node alone.
    Alone,
    /// These; every one of them starts with the same list.
    Members(Membership),
    /// Those of this list, with their peer addresses, as soon as all of them are there; see
    /// `node::formation`. Each is started with the same list, this node is in it, and it has two or more.
    Initial(BTreeMap<NodeId, String>),
    /// A cluster exists: wait until its leader sends a log or a snapshot, and campaign never before.
    Join,
}

/// Settings of a node. [`NodeConfig::new`] has the defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// The data directory; created when missing.
    pub dir: PathBuf,
    /// The cluster's name.
    pub cluster_id: String,
    /// This node's number in it, not 0.
    pub node_id: NodeId,
    /// A random number: the node's incarnation if this open creates the data directory, ignored otherwise.
    pub new_incarnation: u64,
    /// A random number: the uid of the cluster that this node forms, if it forms one; another number for every start.
    pub new_cluster: ClusterUid,
    /// Size at which a memtable is flushed.
    pub memtable_bytes: usize,
    /// Capacity of the block cache; index and filter of open tables count.
    pub cache_bytes: u64,
    /// How new tables are stored. Nodes of a version before compression refuse tables with another one than none.
    pub compression: Compression,
    /// Sizes of levels and tables: no setting of `beachd`, but tests make them small.
    pub compaction: CompactionOptions,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Log bytes above the last flush that force one.
    pub log_bytes_before_flush: u64,
    /// Free disk space below which only deletes are taken, so that a full node can still restart and free space.
    pub reserve_bytes: u64,
    /// The server's idle timeout, as HELLO tells it to clients.
    pub idle_timeout_ms: u32,
    /// Most requests admitted and not yet answered.
    pub max_queued_requests: usize,
    /// Most bytes of requests admitted and not yet answered.
    pub max_queued_bytes: usize,
    /// Election timeouts are drawn from it: another number for every start.
    pub seed: u64,
    /// Who belongs to the cluster, if the data directory is new.
    pub bootstrap: Bootstrap,
    /// Where other members reach this node, as it tells them; may be empty in a cluster of one.
    pub peer_address: String,
    /// Where clients reach this node, as they are told; may be empty.
    pub client_address: String,
    /// Raft's timing and windows.
    pub raft: raft::Settings,
    /// Log entries kept below the last flush, so that a follower a little behind needs no snapshot.
    pub log_tail_entries: u64,
    /// Log bytes that a follower whose apply is paused takes; above, it takes no more until there is room.
    pub max_unapplied_bytes: u64,
    /// Log bytes that are kept for a snapshot on its way to a follower; above, the log is released all the same.
    pub max_held_log_bytes: u64,
    /// Size of the pieces in which a snapshot is sent.
    pub snapshot_chunk_bytes: usize,
    /// Most bytes a second of snapshots sent, all followers together; `None`: no bound.
    pub snapshot_rate: Option<u64>,
    /// Sessions at once; see [`limits::MAX_SESSIONS`]. The same on every node, or they would evict different ones: no
    /// setting of `beachd`, but tests make it small.
    pub max_sessions: usize,
    /// Whether [`Effect::Observed`](super::Effect::Observed) is wanted.
    pub observe: bool,
}

impl NodeConfig {
    /// The defaults of [`limits`] for a node in `dir`, with a uid for a new cluster that follows from `new_incarnation`. The reserve is one segment and one memtable: what a restart
    /// may need.
    #[must_use]
    pub fn new(
        dir: impl Into<PathBuf>,
        cluster_id: impl Into<String>,
        node_id: NodeId,
        new_incarnation: u64,
    ) -> Self {
        Self {
            dir: dir.into(),
            cluster_id: cluster_id.into(),
            node_id,
            new_incarnation,
            new_cluster: ClusterUid::drawn(new_incarnation.rotate_left(32) ^ 0xc1u64),
            memtable_bytes: limits::DEFAULT_MEMTABLE_BYTES,
            cache_bytes: limits::DEFAULT_CACHE_BYTES,
            compression: Compression::None,
            compaction: CompactionOptions::default(),
            segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
            log_bytes_before_flush: limits::DEFAULT_LOG_BYTES_BEFORE_FLUSH,
            reserve_bytes: limits::DEFAULT_SEGMENT_BYTES + limits::DEFAULT_MEMTABLE_BYTES as u64,
            idle_timeout_ms: 0,
            max_queued_requests: limits::MAX_QUEUED_REQUESTS,
            max_queued_bytes: limits::MAX_QUEUED_BYTES,
            seed: new_incarnation,
            bootstrap: Bootstrap::Alone,
            peer_address: String::new(),
            client_address: String::new(),
            raft: raft::Settings::default(),
            log_tail_entries: limits::LOG_TAIL_ENTRIES,
            max_unapplied_bytes: limits::DEFAULT_MAX_UNAPPLIED_BYTES,
            max_held_log_bytes: limits::DEFAULT_MAX_HELD_LOG_BYTES,
            snapshot_chunk_bytes: limits::DEFAULT_SNAPSHOT_CHUNK_BYTES,
            snapshot_rate: None,
            max_sessions: limits::MAX_SESSIONS,
            observe: false,
        }
    }

    /// What raft is told.
    pub(super) const fn raft_config(&self, id: ReplicaId) -> raft::Config {
        raft::Config { id, seed: self.seed, settings: self.raft, trace: self.observe }
    }
}

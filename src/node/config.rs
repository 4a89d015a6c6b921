//! [`NodeConfig`]: what a node must be told.

use crate::base::NodeId;
use crate::limits;
use std::path::PathBuf;

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
    /// Size at which a memtable is flushed.
    pub memtable_bytes: usize,
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
}

impl NodeConfig {
    /// The defaults of [`limits`] for a node in `dir`. The reserve is one segment and one memtable: what a restart
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
            memtable_bytes: limits::DEFAULT_MEMTABLE_BYTES,
            segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
            log_bytes_before_flush: limits::DEFAULT_LOG_BYTES_BEFORE_FLUSH,
            reserve_bytes: limits::DEFAULT_SEGMENT_BYTES + limits::DEFAULT_MEMTABLE_BYTES as u64,
            idle_timeout_ms: 0,
            max_queued_requests: limits::MAX_QUEUED_REQUESTS,
            max_queued_bytes: limits::MAX_QUEUED_BYTES,
        }
    }
}

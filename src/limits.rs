//! Every bound has a name (design.md rule 7). What happens *at* each limit is said beside it.
//!
//! Limits that an operator may tune are defaults here and settings in `server::config`; the others are part of
//! the formats and protocols, and changing them is a format change.

/// Longest key. A longer one is refused with `KEY_TOO_LARGE`; nothing is applied.
pub const MAX_KEY_BYTES: usize = 8 << 10;
/// Longest value. A longer one is refused with `VALUE_TOO_LARGE`; nothing is applied.
pub const MAX_VALUE_BYTES: usize = 8 << 20;
/// Most operations in one batch. More are refused with `BATCH_TOO_LARGE`; nothing is applied.
pub const MAX_BATCH_OPS: usize = 100_000;
/// Most range deletes in one batch. More are refused with `BATCH_TOO_LARGE`; nothing is applied.
pub const MAX_BATCH_RANGE_DELETES: usize = 32;
/// Range deletes that are live at once, in memtables and in the manifest: those that may still hide something in a table. One
/// counts once, and once more for each [`RANGE_DELETE_UNIT_BYTES`] of its bounds: they are all in one record of the manifest, and
/// in memory. At the limit a write that holds one is answered `BUSY` (`Db`: an error that may be tried again) until
/// compaction has applied some. Reads look into one structure of them all, whose size grows with the square of those that overlap.
pub const MAX_RANGE_DELETES: usize = 1_024;
/// See [`MAX_RANGE_DELETES`].
pub const RANGE_DELETE_UNIT_BYTES: usize = 1 << 10;
/// Largest encoded batch. A larger one is refused with `BATCH_TOO_LARGE`; nothing is applied.
pub const MAX_BATCH_BYTES: usize = 12 << 20;
/// Most conditions of one batch; what they ask for is read when it is applied. More are refused with `BATCH_TOO_LARGE`.
pub const MAX_BATCH_CONDITIONS: usize = 256;
/// Keys that are looked up on the disk in one job for the conditions of entries behind the one that apply waits at; those
/// of that entry all are.
pub const MAX_CONDITION_LOOKUPS: usize = 1_024;
/// Writes of one session whose outcomes its client may want at once: it waits when its window is full. A sequence this
/// far above *acked below* is refused with `SESSION_WINDOW_FULL`, and a session keeps at most this many outcomes.
pub const MAX_SESSION_WINDOW: u16 = 256;
/// Most members of a cluster, voters and learners together; adding one more is refused.
pub const MAX_MEMBERS: usize = 32;
/// Longest address of a member; a longer one is refused. A DNS name has at most 253 bytes, `:65535` has 6.
pub const MAX_ADDRESS_BYTES: usize = 260;
/// Largest encoded membership: all members, with the longest addresses.
pub const MAX_MEMBERSHIP_BYTES: usize = 2 + MAX_MEMBERS * (21 + 2 * MAX_ADDRESS_BYTES);
/// Largest frame, header included. It is below 2^24, so the first byte of a binary frame is always 00.
/// A longer one is refused with `FRAME_TOO_LARGE` before any memory is reserved, and the connection is closed.
pub const MAX_FRAME_BYTES: usize = (16 << 20) - 1;
/// Longest inline text command line. A longer one is answered with an error and the connection is closed.
pub const MAX_INLINE_BYTES: usize = 64 << 10;
/// Largest log record payload: a batch with its entry header.
pub const MAX_RECORD_BYTES: usize = MAX_BATCH_BYTES + (1 << 10);

/// Default most client connections; the next one is told `TOO_MANY_CONNECTIONS` and closed.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;
/// Requests admitted and not yet answered, all connections together; above it: `BUSY`.
pub const MAX_QUEUED_REQUESTS: usize = 65_536;
/// Up to this many requests in the queue the loop waits for their log group awake, a little while; above, asleep.
pub const FEW_REQUESTS: u64 = 4;
/// Bytes of admitted and not yet answered requests; above it: `BUSY`.
pub const MAX_QUEUED_BYTES: usize = 128 << 20;
/// Requests in flight on one connection; above it the server stops reading from that connection. A fresh connection
/// begins with 4 and earns one more with every reply; while its replies are large, only as many as fit in
/// [`CONNECTION_OUTPUT_SOFT_BYTES`] together are taken.
pub const MAX_CONNECTION_IN_FLIGHT: usize = 1_024;
/// Unsent reply bytes on one connection above which the server stops reading from it.
pub const CONNECTION_OUTPUT_SOFT_BYTES: usize = 1 << 20;
/// Unsent reply bytes on one connection above which it is closed: the replies of a fresh connection's first window more
/// than the soft limit. A single reply may be larger (a text reply escapes its bytes).
pub const CONNECTION_OUTPUT_HARD_BYTES: usize = CONNECTION_OUTPUT_SOFT_BYTES + 4 * (16 << 20);
/// Bytes read from one connection in one turn of the loop before the next connection has its turn.
pub const READ_BUDGET_BYTES: usize = 256 << 10;
/// Bytes of half-received requests, all connections together; above it a frame is answered `BUSY` and skipped.
pub const MAX_INPUT_BYTES: usize = 256 << 20;
/// Unsent reply bytes, all connections together; above it values and scan pages are answered `BUSY`, and a connection
/// that has not taken its earlier replies is closed.
pub const MAX_OUTPUT_BYTES: usize = 512 << 20;
/// Unsent bytes on one connection to a peer; above it entries and pieces of snapshots are dropped (raft tolerates loss, and
/// sends again). More than raft's window, so that only a peer that does not read meets it. One frame may exceed it alone.
pub const PEER_OUTPUT_BYTES: usize = 24 << 20;
/// Unsent bytes beside those for what must not wait behind data: heartbeats, votes, and replies; above it they are dropped.
pub const PEER_URGENT_BYTES: usize = 1 << 20;
/// Connections from peers at once. The next one is told `TOO_MANY_CONNECTIONS` and closed; but if it is a member's, the oldest one of
/// somebody who is no member is closed instead.
pub const MAX_PEER_CONNECTIONS: usize = 256;
/// Of these, those of nodes that are no members, while this node knows its members; the next one is told `TOO_MANY_CONNECTIONS`.
pub const MAX_STRANGER_CONNECTIONS: usize = 16;
/// Nodes that are dialed only because they have dialed this one; one more is heard, and not dialed. As many as a cluster has
/// members, which are all strangers to a node that waits to be added.
pub const MAX_STRANGERS_DIALED: usize = MAX_MEMBERS;
/// Bytes of half-received frames from peers, all connections together, as their headers announce them; above it the largest one of
/// somebody who is no member is given up, with its connection, else the newest one.
pub const MAX_PEER_INPUT_BYTES: usize = 256 << 20;
/// The same for nodes that are no members, while this node knows its members: two frames of the largest kind.
pub const MAX_STRANGER_INPUT_BYTES: usize = 2 * MAX_FRAME_BYTES;
/// Bytes read from peers in one turn of the loop before clients have theirs.
pub const PEER_TURN_BYTES: usize = 4 << 20;
/// Addresses that the operator asked to look at and that have not answered yet; one more is told to try again.
pub const MAX_INTRODUCTIONS: usize = 16;
/// Connections at once on the HTTP port; the next one is answered 503 and closed.
pub const MAX_HTTP_CONNECTIONS: usize = 64;
/// Longest HTTP request head; a longer one is answered 431.
pub const MAX_HTTP_REQUEST_BYTES: usize = 8 << 10;
/// Most entries in one scan reply; the reply says that there is more.
pub const MAX_SCAN_ENTRIES: usize = 10_000;
/// Most key and value bytes in one scan reply (one entry may exceed it alone); the reply says that there is more.
pub const MAX_SCAN_BYTES: usize = 4 << 20;
/// Most keys of one MULTI_GET; more are refused with `BAD_REQUEST`.
pub const MAX_MULTI_GET_KEYS: usize = 1_024;
/// Most value bytes in the answer to one MULTI_GET; with more it is `REPLY_TOO_LARGE`. The largest value fits.
pub const MAX_MULTI_GET_BYTES: usize = 12 << 20;
/// Value bytes of gets answered in one turn; the others are answered in the next one. A value may exceed it alone.
pub const READ_TURN_BYTES: usize = 4 << 20;
/// Entries that one scan slice looks at before it yields, live or not.
pub const SCAN_SLICE_STEPS: usize = 4_096;
/// Scans that hold entries or have a job on the disk at once, each with at most about three times [`MAX_SCAN_BYTES`];
/// the others wait for their first slice, at most until their deadline.
pub const MAX_RUNNING_SCANS: usize = 32;
/// Snapshots held for paged wire scans; the one unused the longest is released when one more
/// is wanted, as after [`WIRE_SNAPSHOT_TTL_MS`].
pub const MAX_WIRE_SNAPSHOTS: usize = 256;
/// A wire snapshot not used for this long is released. Later pages are still served while nothing they need is gone; once
/// a flush has dropped a version below the snapshot they get `SNAPSHOT_TOO_OLD`.
pub const WIRE_SNAPSHOT_TTL_MS: u64 = 60_000;

/// Bytes in one append group: a group is closed when the next record would exceed it.
pub const MAX_GROUP_BYTES: usize = 16 << 20;
/// Default size of a log segment, zero-filled ahead of use.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;
/// Default size of a log segment of an embedded database. What was written to it without a sync is synced, while a write
/// waits, when the next segment begins: 64 MiB take 30 to 130 ms. And its spares are most of what a small database takes.
pub const DEFAULT_DB_SEGMENT_BYTES: u64 = 8 << 20;
/// After so many bytes of a log that is opened, the process log says how far it is.
pub const RECOVERY_PROGRESS_BYTES: u64 = 256 << 20;
/// Size of a log segment that is made while somebody waits for it (at open, or when no spare is ready).
pub const LOG_SHORT_SEGMENT_BYTES: u64 = 1 << 20;
/// Space held back in a log's directory: a full node can still restart, and delete.
pub const LOG_RESERVE_BYTES: u64 = 2 << 20;
/// Payload bytes of applied Raft entries kept in memory for reading back; older ones are read from the disk.
pub const RAFT_LOG_MEMORY_BYTES: usize = 8 << 20;
/// Reads that wait in a leader for their confirmation; followers that ask for more are told to ask again.
pub const MAX_WAITING_READS: usize = 1 << 16;
/// Default size at which the active memtable is frozen and flushed (all of its memory, not only payload).
pub const DEFAULT_MEMTABLE_BYTES: usize = 64 << 20;
/// Default capacity of the block cache; index and filter of open tables count. At the bound what was not asked for again
/// goes first. 0 = no data block is kept.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
/// Tables that are open at once, each with a file; one more closes the one that was not read for the longest. While all are
/// being read, a further one is opened for its reader alone.
pub const MAX_OPEN_TABLES: usize = 256;
/// Frozen memtables waiting for their flush; at the limit writes stall (`Db`) or are refused `BUSY` (daemon).
pub const MAX_FROZEN_MEMTABLES: usize = 4;
/// Log bytes above the last flush that force a flush even when the memtable is small.
pub const DEFAULT_LOG_BYTES_BEFORE_FLUSH: u64 = 512 << 20;
/// Log entries kept below the last flush (in whole segments), so that a follower a little behind needs no snapshot.
pub const LOG_TAIL_ENTRIES: u64 = 1_024;
/// Default most log bytes that a follower takes while its apply is paused (no room in its memtables); above, appends are
/// dropped until a flush is through, and the leader tries again.
pub const DEFAULT_MAX_UNAPPLIED_BYTES: u64 = 256 << 20;
/// Default most log bytes that are kept for snapshots on their way to followers; above, the log is released all the same
/// and a follower that was too slow needs another snapshot.
pub const DEFAULT_MAX_HELD_LOG_BYTES: u64 = 1 << 30;
/// Default size of the pieces in which a snapshot is sent.
pub const DEFAULT_SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Messages to one replica that wait for a sync of this one's log; above it the oldest is dropped (raft tolerates loss).
pub const MAX_GATED_MESSAGES: usize = 256;
/// Messages to all replicas that wait for a sync; above it the oldest is dropped.
pub const MAX_GATED_MESSAGES_ALL: usize = 4_096;
/// Payload bytes of the entries in one append between nodes; the last entry may exceed it. More do not fit in a frame
/// for sure: it is the default of raft's setting, and the most that a cluster over sockets may set.
pub const MAX_APPEND_BYTES: usize = 1 << 20;
/// Most entries in one append between nodes: those of [`MAX_APPEND_BYTES`], each an empty batch. One with more is
/// refused, and the connection is closed.
pub const MAX_APPEND_ENTRIES: usize = 1 << 16;
/// Snapshots being sent at once, each with its files pinned; other followers wait for their turn.
pub const MAX_SNAPSHOT_TRANSFERS: usize = 2;
/// Pieces of a snapshot that are sent and not yet written by the receiver; no more are read until it has.
pub const SNAPSHOT_WINDOW_CHUNKS: u64 = 4;
/// Bytes of a snapshot that wait to be written by the receiver (one piece may exceed it alone); above it pieces are
/// dropped, and the sender goes back.
pub const SNAPSHOT_QUEUE_BYTES: usize = 16 << 20;
/// After this many bytes of a table that comes with a snapshot, what it has so far is synced, so that a disk never has
/// much to do at once: whoever syncs a log on it waits for as long.
pub const SNAPSHOT_SYNC_BYTES: u64 = 8 << 20;
/// Tables linked in one step of a checkpoint, and bytes copied where links cannot be made: other work of the lane waits for
/// no more than that.
pub const CHECKPOINT_STEP_LINKS: usize = 64;
/// See [`CHECKPOINT_STEP_LINKS`].
pub const CHECKPOINT_COPY_BYTES: u64 = 8 << 20;
/// Longest description of a checkpoint: all members, with the longest addresses. A longer one is refused.
pub const MAX_CHECKPOINT_FILE_BYTES: u64 = 64 << 10;
/// Bytes that one step of a check of all files reads: other work of the lane waits for no more than that.
pub const SCRUB_STEP_BYTES: u64 = 1 << 20;
/// How often a database that is opened to read, beside its writer, begins anew when files change under it; then it is an error.
pub const READ_ONLY_ATTEMPTS: u32 = 50;
/// Faults that such a check tells in words; more are counted.
pub const MAX_SCRUB_FAULTS: usize = 16;
/// Longest path of a checkpoint in a request; a longer one is refused with `BAD_REQUEST`.
pub const MAX_CHECKPOINT_PATH_BYTES: usize = 1 << 10;
/// Smallest bound on the bytes a second of snapshots sent that may be set.
pub const MIN_SNAPSHOT_RATE: u64 = 64 << 10;
/// Payload bytes applied in one step of the node before other work has its turn.
pub const APPLY_SLICE_BYTES: usize = 4 << 20;
/// Entries that the scans of one turn look at, together (at least one slice).
pub const SCAN_TURN_STEPS: usize = 2 * SCAN_SLICE_STEPS;
/// Trace events kept in memory; the oldest is overwritten.
pub const TRACE_EVENTS: usize = 1_024;
/// Size at which the manifest is rotated into a new file with one full edit.
pub const MANIFEST_ROTATE_BYTES: u64 = 4 << 20;
/// Largest description of a snapshot's files: it travels in one frame, with the first piece of the stream. A larger one is
/// refused. An engine with so many tables offers no snapshot, and says so in its log; with keys of 30 bytes that is at
/// 70,000 tables.
pub const MAX_SNAPSHOT_BODY_BYTES: usize = 8 << 20;
/// Range deletes that are believed when they are read from a manifest or a description. Far more than admission lets come
/// about at once.
pub const MAX_STORED_RANGE_DELETES: usize = 4 * MAX_RANGE_DELETES;
/// How far above every term that a node has seen the new cluster of `beachd recover` begins: the others may have gone on
/// without it, and no (index, term) of theirs may mean another entry here. Elections as fast as they can be take days to it.
pub const RECOVERED_TERM_STEP: u64 = 1 << 20;
/// Largest log index and term that is believed when it is read from a file: the next one must fit. A larger one is
/// refused as damage; at ten million entries a second it takes 14,000 years to get there.
pub const MAX_STORED_INDEX: u64 = 1 << 62;
/// Largest last sequence number that is believed when it is read from a manifest: half of the 2^56 there are.
pub const MAX_STORED_SEQ: u64 = 1 << 55;
/// Largest next file number and log segment id that is believed when it is read from a file: they share 64-bit
/// positions with offsets, and the next ones must fit. It takes four billion flushes to get there.
pub const MAX_FILE_NUMBER: u64 = (1 << 32) - (1 << 24);

/// Sessions for exactly-once writes at once. One more makes the session go that was unused the longest; its writes are
/// refused with `UNKNOWN_SESSION` from then on, never applied. Part of the state machine: the same on every node.
pub const MAX_SESSIONS: usize = 4_096;

/// Default deadline of a request that names none.
pub const DEFAULT_DEADLINE_MS: u64 = 10_000;
/// Longest deadline a request may name; a longer one is cut to it.
pub const MAX_DEADLINE_MS: u64 = 300_000;

const _: () = assert!(MAX_BATCH_CONDITIONS <= u16::MAX as usize);
const _: () = assert!(MAX_FRAME_BYTES < 1 << 24);
const _: () = assert!(MAX_KEY_BYTES + MAX_VALUE_BYTES + 1024 <= MAX_BATCH_BYTES);
const _: () = assert!(MAX_BATCH_BYTES + 1024 <= MAX_FRAME_BYTES);
const _: () = assert!(MAX_RECORD_BYTES + 1024 <= MAX_GROUP_BYTES);
const _: () = assert!(MAX_SCAN_BYTES + MAX_KEY_BYTES + MAX_VALUE_BYTES + 1024 <= MAX_FRAME_BYTES);
const _: () = assert!(MAX_MULTI_GET_BYTES >= MAX_VALUE_BYTES);
const _: () = assert!(MAX_MULTI_GET_BYTES + MAX_MULTI_GET_KEYS * 24 + 1024 <= MAX_FRAME_BYTES);
const _: () = assert!(MAX_MULTI_GET_KEYS * (MAX_KEY_BYTES + 2) + 1024 <= MAX_FRAME_BYTES);
// An append: the entries that fit, a last one of the largest size, and 32 bytes at most beside each.
const _: () = assert!(MAX_APPEND_BYTES / 24 < MAX_APPEND_ENTRIES);
const _: () = assert!(
    MAX_APPEND_BYTES + MAX_BATCH_BYTES + 32 * (MAX_APPEND_BYTES / 24 + 1) + 1024 <= MAX_FRAME_BYTES
);
// Every legal batch of range deletes fits when none is live, and all that may be live take a small part of a full edit, and
// of a snapshot's description.
const _: () = assert!(
    MAX_BATCH_RANGE_DELETES * (1 + 2 * MAX_KEY_BYTES / RANGE_DELETE_UNIT_BYTES)
        <= MAX_RANGE_DELETES
);
const _: () =
    assert!(MAX_RANGE_DELETES * (RANGE_DELETE_UNIT_BYTES + 32) <= MAX_SNAPSHOT_BODY_BYTES / 4);
const _: () = assert!(MAX_SNAPSHOT_BODY_BYTES < MAX_RECORD_BYTES);
// The first piece of a snapshot.
const _: () = assert!(
    MAX_SNAPSHOT_BODY_BYTES + MAX_MEMBERSHIP_BYTES + DEFAULT_SNAPSHOT_CHUNK_BYTES + 1024
        <= MAX_FRAME_BYTES
);
const _: () = assert!(MAX_SNAPSHOT_BODY_BYTES + (4 << 20) < MAX_FRAME_BYTES);
const _: () = assert!(MAX_GROUP_BYTES as u64 + 4096 <= DEFAULT_SEGMENT_BYTES);
const _: () = assert!(CONNECTION_OUTPUT_SOFT_BYTES < CONNECTION_OUTPUT_HARD_BYTES);

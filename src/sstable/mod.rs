//! Sorted tables: immutable files of (user key, sequence number, kind) → value, newest version of a key first.
//!
//! Normative byte layout, worked example, and vectors: `proto-spec/sstable.md`. In short:
//!
//! ```text
//! file header  16 bytes    "BEACHSST" | version | reserved
//! data block   …           entries with prefix compression | restart offsets      ┐ each behind a 12-byte
//! …                                                                               │ header: CRC32C seeded with
//! filter block …           filter header | bitmap                                 │ the block's own offset |
//! index block  …           separator → (offset, length) of one data block         │ type | compression |
//! properties   …           name → value, sorted                                   ┘ length
//! footer       64 bytes    where index, filter, properties are | ids | CRC32C | "BEACHSST"
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`format`](mod@format) | constants, block header, footer, properties; shared by builder and reader |
//! | `block` | entries inside a block: writing, binary search, stepping |
//! | [`filter`] | [`filter::FilterPolicy`] and [`filter::FilterReader`]; the default bloom filter |
//! | [`builder`] | [`TableBuilder`] |
//! | [`table`] | [`Table`]: open, get; the one place where data blocks are fetched |
//! | `index` | the index of an open table, laid out for few cache misses |
//! | [`cache`] | [`BlockCache`]: data blocks of all tables within a bound |
//! | [`tables`] | [`TableCache`]: tables that are opened when they are first read, within a bound |
//! | [`iter`] | [`TableIter`] |
//! | [`verify`] | reads everything and checks every claim a table makes; walks damaged files for `sst_dump` |
//!
//! Invariants:
//! - Same input, same bytes: nothing in a file depends on its name, number, time, or process.
//! - Every byte is covered: by an exact comparison (file header) or by a CRC32C that also covers the length,
//!   type, and offset of what it sums. A flipped, missing, or misplaced byte is an error, never other data.
//! - Keys are strictly increasing in the order of [`crate::base::internal_key`], across blocks.
//! - A decoder never panics and never allocates by a length it has not checked against the file's.
//! - A data block is larger than `block_bytes` only when it holds a single entry.
//!
//! What this room does not do: it does not name files, sync directories, or know which tables are live (`engine`);
//! it does not decide what a tombstone hides (the engine's merge does).

mod block;
pub mod builder;
pub mod cache;
pub mod error;
pub mod filter;
pub mod format;
mod index;
pub mod iter;
pub mod table;
pub mod tables;
pub mod verify;

pub use builder::{BuildOptions, TableBuilder, TableSummary};
pub use cache::{BlockCache, CacheStats, Fetch};
pub use error::{Fault, TableError};
pub use filter::{BloomPolicy, FilterPolicy, FilterReader, NoFilter, Probe};
pub use format::{Compression, Properties};
pub use iter::TableIter;
pub use table::Table;
pub use tables::{LazyTable, TableCache, TableCacheStats};

#[cfg(test)]
mod tests;

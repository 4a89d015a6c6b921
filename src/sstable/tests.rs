//! Tests of the room as a whole; formats in `format`, blocks in `block`, filters in `filter` are exercised through
//! the builder and the reader.

use super::*;
use crate::base::SequenceNumber;
use crate::base::hash::key_hash;
use crate::base::internal_key::{ValueKind, pack_trailer, seek_trailer};
use crate::env::sim::{CrashKind, SimDisk};
use crate::env::{Disk, File, IoError, IoResult, OpenMode};
use crate::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A file in memory whose n-th read or write can fail.
#[derive(Debug, Default)]
struct MemFile {
    bytes: Mutex<Vec<u8>>,
    operations: Mutex<u64>,
    fail_at: Option<u64>,
}

impl MemFile {
    fn with(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(bytes), ..Self::default() })
    }

    fn failing(bytes: Vec<u8>, fail_at: u64) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(bytes), fail_at: Some(fail_at), ..Self::default() })
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn operations(&self) -> u64 {
        *self.operations.lock().unwrap()
    }

    fn step(&self, op: &'static str, offset: Option<u64>) -> IoResult<()> {
        let mut n = self.operations.lock().unwrap();
        *n += 1;
        if self.fail_at != Some(*n) {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(libc::EIO);
        Err(IoError { op, path: self.path().into(), offset, source })
    }
}

impl File for MemFile {
    fn path(&self) -> &Path {
        Path::new("mem.sst")
    }
    fn len(&self) -> IoResult<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> IoResult<usize> {
        self.step("read", Some(offset))?;
        let bytes = self.bytes.lock().unwrap();
        let from = (offset as usize).min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> IoResult<()> {
        self.step("write", Some(offset))?;
        let mut bytes = self.bytes.lock().unwrap();
        assert_eq!(bytes.len() as u64, offset, "tables are written front to back");
        bytes.extend_from_slice(data);
        Ok(())
    }
    fn set_len(&self, _len: u64) -> IoResult<()> {
        unreachable!("a table is never resized")
    }
    fn sync_data(&self) -> IoResult<()> {
        self.step("fdatasync", None)
    }
}

/// (user key, reversed trailer) → value: the order of internal keys.
type Model = BTreeMap<(Vec<u8>, std::cmp::Reverse<u64>), Vec<u8>>;

fn put(model: &mut Model, key: &[u8], seq: u64, value: Option<&[u8]>) {
    let kind = if value.is_some() { ValueKind::Put } else { ValueKind::Delete };
    let trailer = pack_trailer(SequenceNumber(seq), kind);
    model.insert((key.to_vec(), std::cmp::Reverse(trailer)), value.unwrap_or_default().to_vec());
}

fn small_options(block_bytes: usize, restart_interval: usize) -> BuildOptions {
    BuildOptions { block_bytes, restart_interval, ..BuildOptions::default() }
}

fn build_into(
    file: Arc<dyn File>,
    model: &Model,
    options: &BuildOptions,
) -> Result<TableSummary, TableError> {
    let mut builder = TableBuilder::new(file, options.clone());
    for ((key, trailer), value) in model {
        builder.add(key, trailer.0, value)?;
    }
    builder.finish()
}

fn build(model: &Model, options: &BuildOptions) -> Vec<u8> {
    let file = Arc::new(MemFile::default());
    let summary = build_into(file.clone(), model, options).unwrap();
    let bytes = file.bytes();
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(summary.properties.entries, model.len() as u64);
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Arc<Table>, TableError> {
    Table::open(MemFile::with(bytes), 7).map(Arc::new)
}

fn model_get(model: &Model, key: &[u8], seq: u64) -> Option<(u64, ValueKind, Vec<u8>)> {
    let from = (key.to_vec(), std::cmp::Reverse(seek_trailer(SequenceNumber(seq))));
    let ((found, trailer), value) = model.range(from..).next()?;
    let kind = ValueKind::from_u8(trailer.0 as u8).unwrap();
    (found == key).then(|| (trailer.0 >> 8, kind, value.clone()))
}

fn table_get(
    table: &Table,
    key: &[u8],
    seq: u64,
) -> Result<Option<(u64, ValueKind, Vec<u8>)>, TableError> {
    let got = table.get(key, SequenceNumber(seq), key_hash(key))?;
    Ok(got.map(|(seq, kind, value)| (seq.0, kind, value.to_vec())))
}

type Listing = Vec<(Vec<u8>, u64, Vec<u8>)>;

fn collect(iter: &mut TableIter) -> Result<Listing, TableError> {
    let mut out = Vec::new();
    while iter.valid() {
        let (key, trailer) = iter.key();
        assert_eq!(iter.value_bytes(), iter.value());
        out.push((key.to_vec(), trailer, iter.value().to_vec()));
        iter.next()?;
    }
    Ok(out)
}

fn collect_back(iter: &mut TableIter) -> Result<Listing, TableError> {
    let mut out = Vec::new();
    while iter.valid() {
        let (key, trailer) = iter.key();
        out.push((key.to_vec(), trailer, iter.value().to_vec()));
        iter.prev()?;
    }
    Ok(out)
}

fn entries(model: &Model) -> Listing {
    model.iter().map(|((k, t), v)| (k.clone(), t.0, v.clone())).collect()
}

/// Keys over a tiny alphabet, so that prefixes, extensions, and equal keys are common.
fn key_strategy() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xff]), 0..6),
        prop::collection::vec(prop::sample::select(vec![b'a', b'b']), 10..14),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

fn model_strategy() -> impl Strategy<Value = Model> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    prop::collection::vec((key_strategy(), 0u64..60, value), 1..150).prop_map(|operations| {
        let mut model = Model::new();
        for (key, seq, value) in operations {
            let seq = if seq == 59 { SequenceNumber::MAX.0 } else { seq };
            put(&mut model, &key, seq, value.as_deref());
        }
        model
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reads_like_the_model(
        model in model_strategy(),
        block_bytes in 64usize..600,
        restart_interval in 1usize..20,
        bits in prop::option::of(1u32..20),
        probes in prop::collection::vec((key_strategy(), 0u64..60), 30),
    ) {
        let filter: Arc<dyn FilterPolicy> = match bits {
            Some(bits) => Arc::new(BloomPolicy::new(bits)),
            None => Arc::new(NoFilter),
        };
        let options = BuildOptions { block_bytes, restart_interval, filter };
        let table = open(build(&model, &options)).unwrap();
        table.verify().unwrap();
        let mut iter = table.iter();
        iter.seek_to_first().unwrap();
        prop_assert_eq!(collect(&mut iter).unwrap(), entries(&model));

        let own = model.keys().flat_map(|(key, trailer)| {
            let seq = trailer.0 >> 8;
            [(key.clone(), seq), (key.clone(), seq.saturating_sub(1)), (key.clone(), u64::MAX >> 8)]
        });
        for (key, seq) in own.chain(probes) {
            let got = table_get(&table, &key, seq).unwrap();
            prop_assert_eq!(got, model_get(&model, &key, seq), "get {:?} @ {}", key, seq);
            let trailer = seek_trailer(SequenceNumber(seq));
            iter.seek(&key, trailer).unwrap();
            let wanted = model.range((key.clone(), std::cmp::Reverse(trailer))..).next();
            let got = iter.valid().then(|| (iter.key().0.to_vec(), iter.key().1));
            prop_assert_eq!(got, wanted.map(|((k, t), _)| (k.clone(), t.0)));
            iter.seek_for_prev(&key, trailer).unwrap();
            let wanted = model.range(..=(key.clone(), std::cmp::Reverse(trailer))).next_back();
            let got = iter.valid().then(|| (iter.key().0.to_vec(), iter.key().1));
            prop_assert_eq!(got, wanted.map(|((k, t), _)| (k.clone(), t.0)));
        }
        iter.seek_to_last().unwrap();
        let mut back = collect_back(&mut iter).unwrap();
        back.reverse();
        prop_assert_eq!(back, entries(&model));
    }

    /// A walk that turns around again and again is where the model is after every step.
    #[test]
    fn walks_both_ways_like_the_model(
        model in model_strategy(),
        block_bytes in 64usize..600,
        restart_interval in 1usize..20,
        start in any::<prop::sample::Index>(),
        seeks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 4),
        runs in prop::collection::vec((any::<bool>(), 1usize..60), 1..40),
    ) {
        let table = open(build(&model, &small_options(block_bytes, restart_interval))).unwrap();
        let all = entries(&model);
        let mut iter = table.iter();
        let mut at = start.index(all.len());
        iter.seek(&all[at].0, all[at].1).unwrap();
        let mut seeks = seeks.iter();
        for (forward, steps) in runs {
            for _ in 0..steps {
                prop_assert_eq!(iter.key(), (&all[at].0[..], all[at].1));
                prop_assert_eq!(iter.value(), &all[at].2[..]);
                if forward { iter.next() } else { iter.prev() }.unwrap();
                match if forward { Some(at + 1) } else { at.checked_sub(1) } {
                    Some(next) if next < all.len() => at = next,
                    _ => {
                        prop_assert!(!iter.valid());
                        let Some((to, exact)) = seeks.next() else { return Ok(()) };
                        at = to.index(all.len());
                        if *exact {
                            iter.seek_for_prev(&all[at].0, all[at].1).unwrap();
                        } else {
                            iter.seek(&all[at].0, all[at].1).unwrap();
                        }
                    }
                }
            }
        }
    }
}

fn sample() -> Model {
    let mut model = Model::new();
    put(&mut model, b"apple", 5, Some(b"red"));
    put(&mut model, b"apple", 3, Some(b"green"));
    put(&mut model, b"apricot", 4, Some(b"orange"));
    put(&mut model, b"banana", 7, None);
    put(&mut model, b"banana", 6, Some(b"yellow"));
    for i in 0..20u64 {
        put(&mut model, format!("cherry{i:02}").as_bytes(), 10 + i, Some(&[b'0' + i as u8; 5]));
    }
    model
}

#[test]
fn building_twice_gives_the_same_bytes() {
    let model = sample();
    let options = small_options(64, 3);
    assert_eq!(build(&model, &options), build(&model, &options));
}

/// Reads everything there is to read; wrong data panics, an error is returned.
fn read_everything(bytes: Vec<u8>, model: &Model) -> Result<(), TableError> {
    let table = open(bytes)?;
    let wanted = entries(model);
    let mut errors = Vec::new();
    for (key, trailer, _) in &wanted {
        for seq in [trailer >> 8, SequenceNumber::MAX.0] {
            match table_get(&table, key, seq) {
                Ok(got) => assert_eq!(got, model_get(model, key, seq)),
                Err(e) => errors.push(e),
            }
        }
        let mut iter = table.iter();
        match iter.seek(key, *trailer) {
            Ok(()) => assert_eq!(iter.key(), (&key[..], *trailer)),
            Err(e) => errors.push(e),
        }
    }
    let mut iter = table.iter();
    iter.seek_to_last().and_then(|()| collect_back(&mut iter)).map(|mut all| {
        all.reverse();
        assert_eq!(all, wanted);
    })?;
    iter.seek_to_first().and_then(|()| collect(&mut iter)).map(|all| assert_eq!(all, wanted))?;
    table.verify()?;
    errors.pop().map_or(Ok(()), Err)
}

#[test]
fn every_flipped_byte_is_an_error_and_never_other_data() {
    let model = sample();
    let good = build(&model, &small_options(128, 4));
    read_everything(good.clone(), &model).unwrap();
    for at in 0..good.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= mask;
            let error = read_everything(bad, &model)
                .expect_err(&format!("byte {at} of {} flipped by {mask:#x}", good.len()));
            let text = error.to_string();
            assert!(text.contains("mem.sst") && text.contains("offset"), "{text}");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_an_error() {
    let model = sample();
    let good = build(&model, &small_options(128, 4));
    for len in 0..good.len() {
        let error = open(good[..len].to_vec()).expect_err(&format!("truncated to {len}"));
        assert!(error.to_string().contains("mem.sst"), "{error}");
    }
    for extra in [1, 64, 4096] {
        let mut bad = good.clone();
        bad.resize(good.len() + extra, 0);
        assert!(open(bad).is_err(), "{extra} more bytes");
    }
    let mut twice = good.clone();
    twice.extend_from_slice(&good);
    assert!(open(twice).unwrap_err().is_corruption(), "a footer at the wrong offset");
}

#[test]
fn a_valid_block_at_the_wrong_place_is_an_error() {
    // Equal lengths, so that only the checksum's offset can tell the two blocks apart.
    let mut model = Model::new();
    for i in 0..4u8 {
        put(&mut model, &[b'a' + i; 30], 1, Some(&[i; 60]));
    }
    let good = build(&model, &small_options(64, 1));
    let table = open(good.clone()).unwrap();
    let (a, b) = (table.handle(0).unwrap(), table.handle(1).unwrap());
    assert_eq!(a.len, b.len);
    let range = |h: format::BlockHandle| h.offset as usize..h.end().unwrap() as usize;
    let mut bad = good.clone();
    bad[range(a)].copy_from_slice(&good[range(b)]);
    let error = read_everything(bad, &model).unwrap_err();
    assert_eq!(error.fault().unwrap().offset, a.offset, "{error}");
}

#[test]
fn every_failing_read_is_an_error_of_that_request_only() {
    let model = sample();
    let good = build(&model, &small_options(128, 4));
    let count = MemFile::with(good.clone());
    let table = Arc::new(Table::open(count.clone(), 1).unwrap());
    let opening = count.operations();
    table_get(&table, b"apple", 5).unwrap();
    assert_eq!(count.operations(), opening + 1, "a get reads one block");
    for n in 1..=opening {
        let error = Table::open(MemFile::failing(good.clone(), n), 1).unwrap_err();
        assert!(matches!(error, TableError::Io(_)), "{error}");
    }
    let failing = MemFile::failing(good, opening + 1);
    let table = Arc::new(Table::open(failing, 1).unwrap());
    assert!(matches!(table_get(&table, b"apple", 5), Err(TableError::Io(_))));
    assert!(table_get(&table, b"apple", 5).unwrap().is_some(), "the next one succeeds");
}

#[test]
fn every_failing_write_or_sync_fails_the_build() {
    let model = sample();
    let file = Arc::new(MemFile::default());
    build_into(file.clone(), &model, &small_options(64, 2)).unwrap();
    for n in 1..=file.operations() {
        let error =
            build_into(MemFile::failing(Vec::new(), n), &model, &small_options(64, 2)).unwrap_err();
        assert!(matches!(error, TableError::Io(_)), "operation {n}: {error}");
    }
}

#[test]
fn many_versions_of_one_key_span_blocks() {
    let mut model = Model::new();
    put(&mut model, b"a", 1, Some(b"before"));
    for seq in 1..=500 {
        let value = [seq as u8; 10];
        put(&mut model, b"key", seq, (seq % 7 != 0).then_some(&value[..]));
    }
    put(&mut model, b"key\0", 3, Some(b"after"));
    let table = open(build(&model, &small_options(128, 4))).unwrap();
    table.verify().unwrap();
    assert!(table.data_blocks() > 50);
    assert_eq!(table.properties().user_keys, 3);
    for seq in 0..=501 {
        for key in [&b"key"[..], b"key\0", b"a", b"kex", b"kez"] {
            assert_eq!(table_get(&table, key, seq).unwrap(), model_get(&model, key, seq), "{seq}");
        }
    }
}

#[test]
fn largest_key_and_value_take_a_block_of_their_own() {
    let mut model = Model::new();
    put(&mut model, b"a", 1, Some(b"small"));
    let key = vec![b'k'; MAX_KEY_BYTES];
    let value: Vec<u8> = (0..MAX_VALUE_BYTES).map(|i| (i % 251) as u8).collect();
    put(&mut model, &key, 2, Some(&value));
    put(&mut model, b"z", 3, Some(b"small"));
    let table = open(build(&model, &BuildOptions::default())).unwrap();
    assert_eq!(table.data_blocks(), 3);
    table.verify().unwrap();
    assert_eq!(table_get(&table, &key, 2).unwrap(), Some((2, ValueKind::Put, value)));
    assert_eq!(table_get(&table, b"z", 9).unwrap(), Some((3, ValueKind::Put, b"small".to_vec())));
}

#[test]
fn only_a_block_with_one_entry_exceeds_the_block_size() {
    let mut model = Model::new();
    for i in 0..300u32 {
        let value = vec![7; (i as usize * 37) % 200];
        put(&mut model, format!("{i:05}").as_bytes(), 1, Some(&value));
    }
    let table = open(build(&model, &small_options(128, 16))).unwrap();
    for i in 0..table.data_blocks() {
        let handle = table.handle(i).unwrap();
        let block = table.fetch_data_block(handle).unwrap();
        let first = block.entry_at(0).unwrap();
        assert!(handle.len <= 128 || first.next == block.entries_end(), "block {i}: {handle:?}");
    }
}

#[test]
fn the_builder_refuses_what_must_not_be_in_a_table() {
    let put_at = |seq| pack_trailer(SequenceNumber(seq), ValueKind::Put);
    let builder = || TableBuilder::new(Arc::new(MemFile::default()), BuildOptions::default());
    assert!(matches!(builder().finish(), Err(TableError::Empty { .. })));
    for (key, seq) in [(&b"b"[..], 2), (b"b", 3), (b"a", 1), (b"", 9)] {
        let mut b = builder();
        b.add(b"b", put_at(2), b"").unwrap();
        assert!(matches!(b.add(key, put_at(seq), b""), Err(TableError::OutOfOrder { .. })));
        assert!(matches!(b.add(b"z", put_at(1), b""), Err(TableError::Poisoned { .. })));
        assert!(matches!(b.finish(), Err(TableError::Poisoned { .. })));
    }
    assert!(matches!(builder().add(b"k", 0x5ff, b""), Err(TableError::UnknownKind { .. })));
    let long = vec![0; MAX_VALUE_BYTES + 1];
    let error = builder().add(b"k", put_at(1), &long).unwrap_err();
    assert!(matches!(error, TableError::EntryTooLarge { .. }), "{error}");
    let error = builder().add(&long[..MAX_KEY_BYTES + 1], put_at(1), b"").unwrap_err();
    assert!(matches!(error, TableError::EntryTooLarge { .. }), "{error}");
}

#[test]
fn foreign_and_newer_files_are_named_as_such() {
    let not = |bytes: &[u8]| match open(bytes.to_vec()).unwrap_err() {
        TableError::NotATable { found, .. } => found,
        other => panic!("{other}"),
    };
    assert_eq!(not(b""), "an empty file");
    assert_eq!(not(b"BEACHWAL and then more"), "\"BEACHWAL\"");
    assert_eq!(not(&[0; 4096]), "\"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\"");
    let good = build(&sample(), &BuildOptions::default());
    let mut newer = good.clone();
    newer[8] = 2;
    let error = open(newer).unwrap_err().to_string();
    assert!(error.contains("format version 2 at offset 8"), "{error}");
}

#[test]
fn bloom_filters_have_no_false_negatives_and_few_false_positives() {
    let hashes: Vec<u64> = (0..100_000u64).map(|i| key_hash(&i.to_be_bytes())).collect();
    let payload = BloomPolicy::default().build(&hashes);
    let filter = filter::open(filter::FILTER_BLOOM, &payload, 0).unwrap().unwrap().unwrap();
    assert!(hashes.iter().all(|&h| filter.may_contain(h)));
    let misses = 100_000..200_000u64;
    let wrong = misses.filter(|i| filter.may_contain(key_hash(&i.to_be_bytes()))).count();
    assert!(wrong < 1_200, "{wrong} false positives in 100,000; 0.82 % are expected");
    let summary = filter.summary();
    assert_eq!((summary.keys, summary.probes, summary.bits), (100_000, 7, 1_000_000));
}

#[test]
fn bloom_payloads_with_senseless_lengths_are_refused() {
    let good = BloomPolicy::default().build(&[1, 2, 3]);
    let open = |bytes: &[u8]| filter::open(filter::FILTER_BLOOM, bytes, 0).unwrap();
    assert!(open(&good).is_ok());
    for len in 0..good.len() {
        assert!(open(&good[..len]).is_err(), "truncated to {len}");
    }
    // Pitfall 47: a bitmap of length zero would make the crate divide by zero.
    let mut empty = good[..filter::BLOOM_HEADER_BYTES].to_vec();
    empty[16..24].fill(0);
    assert!(open(&empty).is_err());
    for (at, byte) in [(3, 0), (3, 31), (0, 1), (4, 1), (23, 16), (16, 0x80)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(open(&bad).is_err(), "byte {at} = {byte}");
    }
    assert!(filter::open(2, &good, 0).is_none());
}

#[test]
fn a_crash_while_building_leaves_an_error_or_the_whole_table() {
    let model = sample();
    let path = Path::new("/t/1.sst");
    let mut whole = 0;
    for seed in 0..200 {
        for kind in [CrashKind::Process, CrashKind::PowerLoss] {
            let disk = SimDisk::new(seed);
            disk.create_dir_all(Path::new("/t")).unwrap();
            disk.crash_at(disk.op_count() + 1 + seed % 5);
            let built = disk
                .open(path, OpenMode::CreateNew)
                .map_err(TableError::from)
                .and_then(|file| build_into(file, &model, &small_options(64, 2)))
                .and_then(|_| Ok(disk.sync_dir(Path::new("/t"))?));
            disk.crash(kind);
            disk.restart();
            let bytes = disk.read_file(path);
            let read = bytes.map(|bytes| read_everything(bytes, &model));
            assert!(built.is_err() || matches!(read, Some(Ok(()))), "seed {seed}: {read:?}");
            whole += u32::from(matches!(read, Some(Ok(()))));
        }
    }
    assert!(whole > 0, "some builds survive");
}

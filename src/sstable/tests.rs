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
    let got = table.get(key, SequenceNumber(seq), &Probe::of(key), Fetch::Point)?;
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
        compression in prop::sample::select(vec![Compression::None, Compression::Lz4]),
        probes in prop::collection::vec((key_strategy(), 0u64..60), 30),
    ) {
        let filter: Arc<dyn FilterPolicy> = match bits {
            Some(bits) => Arc::new(BloomPolicy::new(bits)),
            None => Arc::new(NoFilter),
        };
        let options = BuildOptions {
            block_bytes, restart_interval, filter, compression
        };
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

/// A sample and how it is built: the second one has blocks that shrink, and one that does not.
fn built_both_ways() -> [(Model, Vec<u8>); 2] {
    let mut repeats = sample();
    put(
        &mut repeats,
        b"noise",
        90,
        Some(&(0..200u8).map(|i| i.wrapping_mul(37)).collect::<Vec<u8>>()),
    );
    for i in 0..12u64 {
        put(&mut repeats, format!("repeat{i:02}").as_bytes(), 40 + i, Some(&[b'r'; 60]));
    }
    let options = small_options(128, 4);
    let lz4 = BuildOptions { compression: Compression::Lz4, ..small_options(256, 4) };
    let (plain, packed) = (build(&sample(), &options), build(&repeats, &lz4));
    let table = open(packed.clone()).unwrap();
    let stored = |i| packed[table.index.handle(i).offset as usize + 5];
    let kinds: std::collections::BTreeSet<u8> = (0..table.data_blocks()).map(stored).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0, 1], "some blocks are compressed");
    [(sample(), plain), (repeats, packed)]
}

#[test]
fn every_flipped_byte_is_an_error_and_never_other_data() {
    for (model, good) in built_both_ways() {
        flip_every_byte(&model, &good);
    }
}

fn flip_every_byte(model: &Model, good: &[u8]) {
    read_everything(good.to_vec(), model).unwrap();
    for at in 0..good.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bad = good.to_vec();
            bad[at] ^= mask;
            let error = read_everything(bad, model)
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
    let (a, b) = (table.index.handle(0), table.index.handle(1));
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
        let handle = table.index.handle(i);
        let block = table.fetch_data_block(handle, Fetch::Once).unwrap();
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
    let payload = BloomPolicy::default().build(&hashes).into();
    let filter = filter::open(filter::FILTER_BLOOM, payload, 0).unwrap().unwrap().unwrap();
    assert!(hashes.iter().all(|&h| filter.may_contain(&Probe::new(h))));
    let misses = 100_000..200_000u64;
    let wrong = misses.filter(|i| filter.may_contain(&Probe::of(&i.to_be_bytes()))).count();
    assert!(wrong < 1_200, "{wrong} false positives in 100,000; 0.82 % are expected");
    let summary = filter.summary();
    assert_eq!((summary.keys, summary.probes, summary.bits), (100_000, 7, 1_000_000));
}

#[test]
fn bloom_payloads_with_senseless_lengths_are_refused() {
    let good = BloomPolicy::default().build(&[1, 2, 3]);
    let open = |bytes: &[u8]| {
        filter::open(filter::FILTER_BLOOM, bytes::Bytes::copy_from_slice(bytes), 0).unwrap()
    };
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
    assert!(filter::open(2, good.into(), 0).is_none());
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

#[test]
fn lz4_lengths_that_make_no_sense_are_refused_before_memory_is_reserved() {
    let text = [b'x'; 1000];
    let packed = lz4_flex::block::compress(&text);
    let stored = |len: u32, packed: &[u8]| [&len.to_be_bytes()[..], packed].concat();
    assert_eq!(format::decompress(&stored(1000, &packed), 0).unwrap(), text);
    let most = 255 * packed.len() as u32;
    for len in [0, 999, 1001, most, most + 1, format::MAX_DATA_BYTES as u32 + 1, u32::MAX] {
        let fault = format::decompress(&stored(len, &packed), 100).unwrap_err();
        assert!(fault.offset >= 100 && fault.what == "data block", "{fault}");
    }
    for cut in 0..packed.len() {
        format::decompress(&stored(1000, &packed[..cut]), 0).unwrap_err();
    }
    for len in 0..4 {
        format::decompress(&[0; 4][..len], 0).unwrap_err();
    }
}

#[test]
fn compressed_tables_are_smaller_and_read_the_same() {
    let mut model = Model::new();
    for i in 0..2000u32 {
        put(&mut model, format!("key{i:06}").as_bytes(), 1, Some(format!("{i:>80}").as_bytes()));
    }
    let plain = build(&model, &BuildOptions::default());
    let lz4 = BuildOptions { compression: Compression::Lz4, ..BuildOptions::default() };
    let packed = build(&model, &lz4);
    assert_eq!(packed, build(&model, &lz4), "the same bytes twice");
    assert!(packed.len() * 2 < plain.len(), "{} of {}", packed.len(), plain.len());
    read_everything(packed.clone(), &model).unwrap();
    let mut unknown = packed.clone();
    let at = packed.len() - format::FOOTER_BYTES + 50;
    unknown[at] = 2;
    assert!(open(unknown).is_err());
    let table = open(packed).unwrap();
    assert_eq!(table.compression(), Compression::Lz4);
    let claimed = table.properties();
    assert_eq!(claimed.data_bytes, table.footer().data_end() - format::FILE_HEADER_BYTES as u64);
}

fn open_cached(bytes: Vec<u8>, number: u64, cache: &Arc<BlockCache>) -> (Arc<MemFile>, Arc<Table>) {
    let file = MemFile::with(bytes);
    let table = Table::open_with(file.clone(), number, Some(Arc::clone(cache))).unwrap();
    (file, Arc::new(table))
}

#[test]
fn a_read_from_memory_only_says_what_needs_the_disk_and_never_touches_it() {
    let model = sample();
    let cache = BlockCache::new(1 << 20);
    let (file, table) = open_cached(build(&model, &small_options(64, 2)), 3, &cache);
    let opened = file.operations();
    let get = |key: &[u8], fetch| {
        let got = table.get(key, SequenceNumber(5), &Probe::of(key), fetch);
        got.map(|found| found.map(|(_, _, value)| value))
    };
    assert!(get(b"apple", Fetch::MemoryOnly).unwrap_err().needs_disk());
    assert_eq!(get(b"no such key", Fetch::MemoryOnly).unwrap(), None, "the filter knows");
    assert_eq!(file.operations(), opened);
    assert_eq!(get(b"apple", Fetch::Once).unwrap().unwrap(), "red");
    assert!(get(b"apple", Fetch::MemoryOnly).is_err(), "who reads once leaves nothing");
    assert_eq!(get(b"apple", Fetch::Point).unwrap().unwrap(), "red");
    assert_eq!(file.operations(), opened + 2);
    for fetch in [Fetch::MemoryOnly, Fetch::Once, Fetch::Point, Fetch::Scan] {
        assert_eq!(get(b"apple", fetch).unwrap().unwrap(), "red");
    }
    assert_eq!(file.operations(), opened + 2);

    // An iterator that comes to a block which is not there has no position, and can be sought again.
    let mut iter = table.iter_with(Fetch::MemoryOnly);
    iter.seek(b"apple", u64::MAX).unwrap();
    let mut steps = 0;
    let error = loop {
        assert_eq!(iter.key().0, b"apple");
        steps += 1;
        match iter.next() {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(error.needs_disk() && !iter.valid() && steps < 3);
    let mut scan = table.iter();
    scan.seek_to_first().unwrap();
    collect(&mut scan).unwrap();
    let read = file.operations();
    iter.seek_to_first().unwrap();
    assert_eq!(collect(&mut iter).unwrap(), entries(&model), "a scan leaves its blocks");
    iter.seek_to_last().unwrap();
    assert_eq!(collect_back(&mut iter).unwrap().len(), model.len());
    assert_eq!(file.operations(), read);
    table.verify().unwrap();
    let stats = cache.stats();
    assert_eq!(stats.blocks, table.data_blocks() as u64);
    assert_eq!(stats.charged, table.memory_bytes() as u64);
    // A check is one of the disk, not of what the cache has.
    let at = table.index.handle(0).offset as usize + 20;
    file.bytes.lock().unwrap()[at] ^= 1;
    assert!(table.verify().unwrap_err().is_corruption());
    drop((iter, scan, table));
    assert_eq!(cache.stats().charged, 0);
    cache.forget(3);
    let CacheStats { bytes, blocks, .. } = cache.stats();
    assert_eq!((bytes, blocks), (0, 0));
}

#[test]
fn damage_is_never_put_into_the_cache() {
    let model = sample();
    let cache = BlockCache::new(1 << 20);
    let (file, table) = open_cached(build(&model, &small_options(64, 2)), 1, &cache);
    let at = table.index.handle(0).offset as usize + 20;
    file.bytes.lock().unwrap()[at] ^= 1;
    for _ in 0..2 {
        let error = table.get(b"apple", SequenceNumber(5), &Probe::of(b"apple"), Fetch::Point);
        assert!(error.unwrap_err().is_corruption());
    }
    assert_eq!(cache.stats().blocks, 0);
    file.bytes.lock().unwrap()[at] ^= 1;
    assert!(table_get(&table, b"apple", 5).unwrap().is_some(), "the error was of that read only");
}

const DIR: &str = "/t";

/// `count` tables of ten keys each in files of their own, not open.
fn lazy_tables(
    disk: &Arc<SimDisk>,
    count: u64,
    max_open: usize,
) -> (Arc<TableCache>, Vec<LazyTable>) {
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let cache = TableCache::new(disk.clone(), BlockCache::new(1 << 20), max_open);
    let tables = (0..count)
        .map(|number| {
            let path = Path::new(DIR).join(format!("{number}.sst"));
            let mut model = Model::new();
            for i in 0..10 {
                put(&mut model, format!("{number}-{i}").as_bytes(), 1, Some(&[number as u8; 9]));
            }
            let file = disk.open(&path, OpenMode::CreateNew).unwrap();
            build_into(file, &model, &BuildOptions::default()).unwrap();
            cache.table(number, path)
        })
        .collect();
    (cache, tables)
}

fn open_lazy(table: &LazyTable) -> Result<Arc<Table>, TableError> {
    table.open(|_| Ok(()))
}

#[test]
fn many_tables_are_read_with_few_files_open() {
    let disk = Arc::new(SimDisk::new(1));
    let (cache, tables) = lazy_tables(&disk, 100, 8);
    assert_eq!(cache.stats(), TableCacheStats { max_open: 8, ..TableCacheStats::default() });
    let mut hot = open_lazy(&tables[7]).unwrap();
    for round in 0..3 {
        for (number, lazy) in tables.iter().enumerate() {
            assert_eq!(lazy.if_open(|_| ()).is_some(), number == 7, "round {round}: {number}");
            let table = open_lazy(lazy).unwrap();
            let key = format!("{number}-3");
            assert_eq!(table_get(&table, key.as_bytes(), 1).unwrap().unwrap().2[0], number as u8);
            assert_eq!(lazy.if_open(Table::number), Some(number as u64));
            assert!(cache.stats().open <= 8, "{:?}", cache.stats());
            // One that is read all the time stays open.
            drop(table);
            hot = open_lazy(&tables[7]).unwrap();
        }
    }
    drop(hot);
    // Those in use are not closed, however many they are, and the others are not kept.
    let held: Vec<_> = tables[..20].iter().map(|lazy| open_lazy(lazy).unwrap()).collect();
    assert!(cache.stats().open <= 8, "{:?}", cache.stats());
    for (number, table) in held.iter().enumerate() {
        let key = format!("{number}-0");
        assert!(table_get(table, key.as_bytes(), 1).unwrap().is_some());
    }
    drop(held);
    open_lazy(&tables[50]).unwrap();
    assert!(cache.stats().open <= 8, "{:?}", cache.stats());
    let blocks = Arc::clone(cache.blocks());
    drop((cache, tables));
    assert_eq!(blocks.stats().charged, 0, "nothing is open");
}

#[test]
fn a_table_that_cannot_be_opened_is_an_error_of_that_read_and_tried_again() {
    let disk = Arc::new(SimDisk::new(1));
    let (cache, tables) = lazy_tables(&disk, 2, 8);
    let path = tables[0].path();
    let good = disk.read_file(path).unwrap();
    disk.remove(path).unwrap();
    assert!(matches!(open_lazy(&tables[0]), Err(TableError::Io(_))));
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    disk.write_file(path, &bad);
    assert!(open_lazy(&tables[0]).unwrap_err().is_corruption());
    disk.write_file(path, &good);
    let refused = tables[0].open(|_| Err(TableError::NotInMemory));
    assert!(refused.unwrap_err().needs_disk(), "what the check says");
    assert_eq!(cache.stats().open, 0);
    assert_eq!(cache.blocks().stats().charged, 0);
    open_lazy(&tables[0]).unwrap();
    // An open file is readable although its name is gone.
    disk.remove(path).unwrap();
    assert!(table_get(&open_lazy(&tables[0]).unwrap(), b"0-5", 1).unwrap().is_some());
}

#[test]
fn threads_open_and_read_the_same_few_tables() {
    let disk = Arc::new(SimDisk::new(1));
    let (cache, tables) = lazy_tables(&disk, 12, 3);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let tables = &tables;
            scope.spawn(move || {
                let mut x = thread + 1;
                for _ in 0..400 {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let number = (x >> 33) % 12;
                    let table = open_lazy(&tables[number as usize]).unwrap();
                    let key = format!("{number}-{}", (x >> 40) % 10);
                    let found = table_get(&table, key.as_bytes(), 1).unwrap().unwrap();
                    assert_eq!(found.2, [number as u8; 9]);
                }
            });
        }
    });
    assert!(cache.stats().open <= 3, "{:?}", cache.stats());
    assert_eq!(cache.stats().opened - cache.stats().closed, cache.stats().open);
}

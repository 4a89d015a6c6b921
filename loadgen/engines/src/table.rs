//! What is made of the rows: medians over the rounds, ratios as medians of the ratios *within* a round, and beside each row
//! what issue 5 asks of it. Markdown, for `loadgen/RESULTS.md`.

use crate::Kind;
use crate::turns::{Row, Step};
use beach_loadgen::embedded::{BenchResult, BenchWorkload};
use std::fmt::Write;

/// A line of the table.
struct Line {
    name: &'static str,
    step: Step,
    workload: BenchWorkload,
    value: fn(&BenchResult) -> Option<f64>,
    unit: Unit,
    target: Target,
}

#[derive(Clone, Copy)]
enum Unit {
    /// Thousands or millions per second.
    PerSecond,
    /// With so many decimals.
    Number(usize),
}

#[derive(Clone, Copy)]
enum Target {
    None,
    /// At least so many times the best of these.
    AtLeast(f64, &'static [&'static str]),
    /// At most so many times this.
    AtMost(f64, &'static str),
    /// At least this number.
    Least(f64),
    /// At most this number.
    Most(f64),
}

const MIB: f64 = (1 << 20) as f64;

fn lines() -> Vec<Line> {
    use BenchWorkload as W;
    use Target::{AtLeast, AtMost, Least, Most};
    use Unit::{Number, PerSecond};
    let line = |name, step, workload, value, unit, target| Line {
        name,
        step,
        workload,
        value,
        unit,
        target,
    };
    let fill =
        |name, value, unit, target| line(name, Step::Fill, W::FillRandom, value, unit, target);
    let seq =
        |name, value, unit, target| line(name, Step::FillSeq, W::FillSeq, value, unit, target);
    let sync = |name, value, unit, target| line(name, Step::Sync, W::FillSync, value, unit, target);
    let read = |name, workload, value, unit, target| {
        line(name, Step::Reads, workload, value, unit, target)
    };
    let over =
        |name, value, unit, target| line(name, Step::Overwrite, W::Overwrite, value, unit, target);
    vec![
        fill(
            "fill random, no sync, puts/s",
            |r| Some(r.ops_s),
            PerSecond,
            AtLeast(2.0, &["fjall"]),
        ),
        fill("· CPU µs a put, settling included", |r| Some(r.cpu_us), Number(1), Target::None),
        fill("· worst pause, ms", |r| Some(r.max_us / 1e3), Number(1), Most(20.0)),
        fill("· write amplification, log and all", |r| r.write_amp, Number(2), Target::None),
        fill(
            "· write amplification, tables",
            |r| r.table_write_amp,
            Number(2),
            AtMost(1.0, "rocksdb"),
        ),
        seq(
            "fill sequential, no sync, puts/s",
            |r| Some(r.ops_s),
            PerSecond,
            AtLeast(1.5, &["fjall"]),
        ),
        seq("· worst pause, ms", |r| Some(r.max_us / 1e3), Number(1), Most(20.0)),
        sync("sync put, puts/s", |r| Some(r.ops_s), PerSecond, Target::None),
        sync("· p50, µs", |r| Some(r.p50_us), Number(0), Target::None),
        sync("· p99, µs", |r| Some(r.p99_us), Number(0), Target::None),
        sync("· ÷ raw append + fdatasync, same file mode", over_raw, Number(2), Least(0.95)),
        line(
            "batches of 100, one sync each, puts/s",
            Step::Batches,
            W::FillBatchSync,
            |r| Some(r.ops_s),
            PerSecond,
            AtLeast(1.2, &["fjall"]),
        ),
        read(
            "get hit, settled, gets/s",
            W::ReadRandom,
            |r| Some(r.ops_s),
            PerSecond,
            AtLeast(2.0, &["rocksdb", "fjall"]),
        ),
        read("· p99, µs", W::ReadRandom, |r| Some(r.p99_us), Number(1), Target::None),
        read(
            "get miss, gets/s",
            W::ReadMissing,
            |r| Some(r.ops_s),
            PerSecond,
            AtLeast(1.0, &["fjall"]),
        ),
        read(
            "· the house's filter alone, asks/s",
            W::FilterOnly,
            |r| Some(r.ops_s),
            PerSecond,
            Target::None,
        ),
        read(
            "full scan, keys/s",
            W::ReadSeq,
            |r| Some(r.ops_s),
            PerSecond,
            AtLeast(3.0, &["rocksdb"]),
        ),
        read(
            "100-key scans/s",
            W::SeekRandom,
            |r| Some(r.ops_s * 1.0),
            PerSecond,
            AtLeast(2.5, &["rocksdb"]),
        ),
        over("overwrite, no sync, puts/s", |r| Some(r.ops_s), PerSecond, AtLeast(2.0, &["fjall"])),
        over("· worst pause, ms", |r| Some(r.max_us / 1e3), Number(1), Most(20.0)),
        over("· write amplification, log and all", |r| r.write_amp, Number(2), Target::None),
        over(
            "· write amplification, tables",
            |r| r.table_write_amp,
            Number(2),
            AtMost(1.0, "rocksdb"),
        ),
        over(
            "· MB on disk, settled",
            |r| Some(r.disk_bytes as f64 / 1e6),
            Number(0),
            AtMost(1.05, "rocksdb"),
        ),
        line(
            "reopen after exit without close, ms",
            Step::Reopen,
            W::Reopen,
            |r| Some(r.max_us / 1e3),
            Number(1),
            AtMost(1.0, "rocksdb"),
        ),
        fill(
            "MB on disk, settled",
            |r| Some(r.disk_bytes as f64 / 1e6),
            Number(0),
            AtMost(1.05, "rocksdb"),
        ),
        fill("peak memory of the fill, MiB", peak_mib, Number(0), AtMost(1.1, "rocksdb")),
        read(
            "peak memory of gets, MiB",
            W::ReadRandom,
            peak_mib,
            Number(0),
            AtMost(1.1, "rocksdb"),
        ),
        read("peak memory of scans, MiB", W::ReadSeq, peak_mib, Number(0), AtMost(1.1, "rocksdb")),
        line(
            "memory after a reopen, MiB",
            Step::Reopen,
            W::Reopen,
            |r| Some(r.rss_bytes as f64 / MIB),
            Number(0),
            AtMost(1.1, "rocksdb"),
        ),
    ]
}

fn peak_mib(r: &BenchResult) -> Option<f64> {
    Some(r.peak_rss_bytes as f64 / MIB)
}

/// BeachDB's log is zero-filled, the others' grow.
fn over_raw(r: &BenchResult) -> Option<f64> {
    let raw = if r.engine == Kind::Beachdb.name() {
        r.raw_zero_filled_ops_s
    } else {
        r.raw_growing_ops_s
    };
    Some(r.ops_s / raw?)
}

/// The table of `rows` for `engines`.
#[must_use]
pub fn markdown(rows: &[Row], engines: &[Kind]) -> String {
    let names: Vec<&str> = engines.iter().map(|e| e.name()).collect();
    let house = Kind::Beachdb.name();
    let peers: Vec<&str> = names.iter().copied().filter(|n| *n != house).collect();
    let mut out = String::from("| |");
    for engine in engines {
        write!(out, " {} {} |", engine.name(), engine.version()).expect("a String takes all");
    }
    for peer in &peers {
        write!(out, " ÷ {peer} |").expect("a String takes all");
    }
    out.push_str(" target | reached |\n|---|");
    out.push_str(&"---|".repeat(names.len() + peers.len() + 2));
    out.push('\n');
    for line in lines() {
        let figures: Vec<Vec<(u32, f64)>> = names.iter().map(|n| values(&line, rows, n)).collect();
        if figures.iter().all(Vec::is_empty) {
            continue;
        }
        write!(out, "| {} |", line.name).expect("a String takes all");
        for figure in &figures {
            write!(out, " {} |", show(line.unit, median(figure.iter().map(|(_, v)| *v))))
                .expect("a String takes all");
        }
        for peer in &peers {
            let ratio = median(ratios(&line, rows, &[peer]));
            write!(out, " {} |", ratio.map_or("–".into(), |r| format!("{r:.2}")))
                .expect("a String takes all");
        }
        writeln!(out, " {} |", verdict(&line, rows)).expect("a String takes all");
    }
    out
}

/// What `then` was in an earlier run (with fewer keys, say), for each engine: now ÷ then.
#[must_use]
pub fn growth(rows: &[Row], then: &[Row], engines: &[Kind]) -> String {
    let mut out = String::from("| now ÷ then |");
    for engine in engines {
        write!(out, " {} |", engine.name()).expect("a String takes all");
    }
    writeln!(out, "\n|---|{}", "---|".repeat(engines.len())).expect("a String takes all");
    for line in lines() {
        let ratio = |engine: &Kind| {
            let of = |rows| median(values(&line, rows, engine.name()).into_iter().map(|(_, v)| v));
            Some(of(rows)? / of(then)?)
        };
        let ratios: Vec<Option<f64>> = engines.iter().map(ratio).collect();
        if ratios.iter().all(Option::is_none) {
            continue;
        }
        write!(out, "| {} |", line.name).expect("a String takes all");
        for ratio in ratios {
            write!(out, " {} |", ratio.map_or("–".into(), |r| format!("{r:.2}")))
                .expect("a String takes all");
        }
        out.push('\n');
    }
    out
}

/// The figures of one engine with their rounds.
fn values(line: &Line, rows: &[Row], engine: &str) -> Vec<(u32, f64)> {
    let mine = |r: &&Row| {
        r.step == line.step && r.result.workload == line.workload && r.result.engine == engine
    };
    rows.iter().filter(mine).filter_map(|r| Some((r.round, (line.value)(&r.result)?))).collect()
}

/// BeachDB's figure over the best of `peers`, round by round.
fn ratios(line: &Line, rows: &[Row], peers: &[&str]) -> Vec<f64> {
    let less_is_better = matches!(line.target, Target::AtMost(..));
    let best = |round| {
        let figures = peers.iter().flat_map(|p| values(line, rows, p)).filter(|(r, _)| *r == round);
        let pick = if less_is_better { f64::min } else { f64::max };
        figures.map(|(_, v)| v).reduce(pick)
    };
    let own = values(line, rows, Kind::Beachdb.name());
    own.into_iter().filter_map(|(round, v)| Some(v / best(round)?)).collect()
}

/// "target | reached".
fn verdict(line: &Line, rows: &[Row]) -> String {
    let own = || median(values(line, rows, Kind::Beachdb.name()).into_iter().map(|(_, v)| v));
    let (target, reached) = match line.target {
        Target::None => return " | ".into(),
        Target::AtLeast(factor, peers) => {
            let ratio = median(ratios(line, rows, peers));
            (format!("≥ {factor} × {}", peers.join(" and ")), ratio.map(|r| r >= factor))
        }
        Target::AtMost(factor, peer) => {
            let ratio = median(ratios(line, rows, &[peer]));
            (format!("≤ {factor} × {peer}"), ratio.map(|r| r <= factor))
        }
        Target::Least(limit) => (format!("≥ {limit}"), own().map(|v| v >= limit)),
        Target::Most(limit) => (format!("≤ {limit}"), own().map(|v| v <= limit)),
    };
    let said = reached.map_or("–", |yes| if yes { "yes" } else { "**no**" });
    format!("{target} | {said}")
}

fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn show(unit: Unit, value: Option<f64>) -> String {
    let Some(value) = value else { return "–".into() };
    match unit {
        Unit::PerSecond if value >= 1e6 => format!("{:.2} M", value / 1e6),
        Unit::PerSecond => format!("{:.1} k", value / 1e3),
        Unit::Number(decimals) => format!("{value:.decimals$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u32, engine: &str, ops_s: f64) -> Row {
        let json = format!(
            r#"{{"round":{round},"step":"fill","engine":"{engine}","workload":"fillrandom","ops":10,"ops_s":{ops_s},
            "p50_us":1,"p99_us":1,"p999_us":1,"max_us":30000,"cpu_us":3,"settle_ms":0,"write_amp":2.5,"table_write_amp":null,
            "read_amp":null,"space_amp":1,"disk_bytes":1,"rss_bytes":1,"peak_rss_bytes":1048576,
            "raw_zero_filled_ops_s":null,"raw_growing_ops_s":null}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn ratios_are_those_within_a_round() {
        // The second round is a slow minute for all: the medians of the figures alone would say 3.
        let rows = [
            row(1, "beachdb", 300_000.0),
            row(1, "fjall", 100_000.0),
            row(2, "beachdb", 30_000.0),
            row(2, "fjall", 20_000.0),
            row(3, "beachdb", 500_000.0),
            row(3, "fjall", 200_000.0),
        ];
        let table = markdown(&rows, &[Kind::Beachdb, Kind::Fjall]);
        let line = table.lines().find(|l| l.starts_with("| fill random")).unwrap();
        assert_eq!(
            line,
            "| fill random, no sync, puts/s | 300.0 k | 100.0 k | 2.50 | ≥ 2 × fjall | yes |"
        );
        assert!(
            table.contains("| · worst pause, ms | 30.0 | 30.0 | 1.00 | ≤ 20 | **no** |"),
            "{table}"
        );
        assert!(!table.contains("get hit"), "what was not run has no line: {table}");
        assert!(growth(&rows, &rows[..2], &[Kind::Beachdb]).contains("puts/s | 1.00 |"));
    }

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0]), Some(2.5));
    }
}

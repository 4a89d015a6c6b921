//! `beach-bench-peers`: `beach-bench`'s workloads on BeachDB, RocksDB, fjall, and redb, in turns. See `--help` and the library.

use beach_engines::turns::{self, Plan, Row, Step};
use beach_engines::{Kind, table};
use beach_loadgen::embedded::{BenchOptions, BenchResult, Compression, EngineOptions, Leave};
use beach_loadgen::report::{Environment, write_text};
use beachdb::base::units::parse_bytes;
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Each step of each engine is a process of its own; the engines take turns, in an order that turns with the round. Figures are
medians over the rounds, ratios medians of the ratios within a round.

Examples:
  beach-bench-peers --rounds 5 --table table.md --json rows.json
  beach-bench-peers --large --than rows.json          10 M keys, a cache of 64 MiB; and how cost grew
  beach-bench-peers --engine beachdb,fjall --only fill,reads --rounds 1";

#[derive(Parser)]
#[command(name = "beach-bench-peers", version, about = "Embedded engines in turns", after_help = EXAMPLES)]
struct Args {
    /// Who takes turns [default: all; of a large run all but redb]
    #[arg(long, value_enum, value_delimiter = ',')]
    engine: Vec<Kind>,
    /// How often
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// 10 M keys with a cache of 64 MiB, 1 M reads and overwrites, no sync rows
    #[arg(long)]
    large: bool,
    /// Only these steps [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Step>,
    /// Keys [default: 1000000, 10000000 with --large]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    num: Option<u64>,
    /// Operations of the read workloads [default: 1000000 or --num]
    #[arg(long)]
    reads: Option<u64>,
    /// Memory for blocks of tables [default: 256MiB, 64MiB with --large]
    #[arg(long, value_parser = parse_bytes)]
    cache: Option<u64>,
    /// Memory of a memtable at which it is flushed
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes)]
    memtable: u64,
    /// Compression of tables
    #[arg(long, value_enum, default_value = "none")]
    compression: Compression,
    /// Bytes in a value
    #[arg(long, default_value_t = 100)]
    value_size: usize,
    /// Seed of the orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where databases are made: empty or missing, and removed at the end
    #[arg(long, default_value = "beach-bench-data")]
    dir: PathBuf,
    /// Write each row as a JSON object on a line; - is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table, in Markdown; - is stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    table: PathBuf,
    /// Compare each engine with itself in these rows of an earlier run
    #[arg(long, value_name = "FILE")]
    than: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if let (Some(turns::CHILD), Some(task)) = (arguments.next().as_deref(), arguments.next()) {
        turns::be_child(&task);
    }
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("beach-bench-peers: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), String> {
    let plan = plan(&args)?;
    let than = args.than.as_deref().map(read_rows).transpose()?;
    if plan.options.dir.exists() {
        return Err(format!("{} is there already", plan.options.dir.display()));
    }
    let environment = Environment::read();
    let mut rows: Vec<Row> = Vec::new();
    eprintln!("round engine    {}", BenchResult::text_header());
    let outcome = turns::run(&plan, |row| {
        eprintln!("{:<6}{:<10}{}", row.round, row.result.engine, row.result.to_text());
        rows.push(row.clone());
    });
    // What was measured before a failure is not lost.
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|e| e.to_string())?.into_iter().map(|l| l + "\n");
    args.json.as_deref().map_or(Ok(()), |path| write_text(path, &lines.collect::<String>()))?;
    outcome?;
    let mut text = heading(&args, &plan, &environment);
    text.push_str(&table::markdown(&rows, &plan.engines));
    if let Some(than) = than {
        text.push('\n');
        text.push_str(&table::growth(&rows, &than, &plan.engines));
    }
    write_text(&args.table, &text)
}

fn plan(args: &Args) -> Result<Plan, String> {
    let all = || Kind::value_variants().iter().copied().filter(|k| !args.large || *k != Kind::Redb);
    let steps = || {
        let steps = Step::value_variants().iter().copied();
        steps.filter(|step| match step {
            Step::Overwrite => args.large,
            Step::FillSeq | Step::Sync | Step::Batches => !args.large,
            _ => true,
        })
    };
    let num = args.num.unwrap_or(if args.large { 10_000_000 } else { 1_000_000 });
    let some = num.min(1_000_000);
    Ok(Plan {
        engines: if args.engine.is_empty() { all().collect() } else { args.engine.clone() },
        rounds: args.rounds,
        steps: if args.only.is_empty() {
            steps().collect()
        } else {
            // In the order of a round, whatever the order on the command line.
            Step::value_variants().iter().copied().filter(|s| args.only.contains(s)).collect()
        },
        options: BenchOptions {
            workloads: Vec::new(),
            num,
            reads: Some(args.reads.unwrap_or(some)),
            writes: Some(some),
            key_size: 16,
            value_size: args.value_size,
            dir: args.dir.clone(),
            seed: args.seed,
            engine: EngineOptions {
                memtable_bytes: usize::try_from(args.memtable).map_err(|e| e.to_string())?,
                cache_bytes: args.cache.unwrap_or(if args.large { 64 << 20 } else { 256 << 20 }),
                compression: args.compression,
                ..EngineOptions::default()
            },
            existing: false,
            settle: true,
            leave: Leave::Nothing,
        },
        program: std::env::current_exe().map_err(|e| format!("finding this program: {e}"))?,
    })
}

fn heading(args: &Args, plan: &Plan, environment: &Environment) -> String {
    let e = environment;
    let options = &plan.options;
    format!(
        "`{}`\n\nCommit {}; {} cores, {}, {} MiB, Linux {}, {}; load average at the start {}.\n\
         {} keys of {} bytes, values of {} bytes, one calling thread; memtable {} MiB, cache {} MiB, blocks of {} bytes, \
         {} filter bits a key, compression {:?}; medians of {} round(s).\n\n",
        e.command,
        e.commit,
        e.cores,
        e.cpu,
        e.memory_bytes >> 20,
        e.kernel,
        e.filesystem,
        e.load_average,
        options.num,
        options.key_size,
        options.value_size,
        options.engine.memtable_bytes >> 20,
        options.engine.cache_bytes >> 20,
        options.engine.block_bytes,
        options.engine.bits_per_key,
        options.engine.compression,
        args.rounds
    )
}

fn read_rows(path: &Path) -> Result<Vec<Row>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("reading {}: {e}", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(|e| format!("{}: {e}", path.display())))
        .collect()
}

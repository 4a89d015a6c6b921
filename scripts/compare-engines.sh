#!/usr/bin/env bash
# compare-engines.sh: the engine, embedded, beside RocksDB, fjall, and redb, on this machine, in one run.
#
#   bash scripts/compare-engines.sh          5 rounds of 1 M keys: about 15 minutes on two cores
#   LARGE=yes ROUNDS=3 bash scripts/compare-engines.sh
#                                            10 M keys (1.1 GB) with a cache of 64 MiB, without redb: about 8 minutes a round
#   ENGINES=beachdb,fjall ROUNDS=1 ONLY=fill,reads bash scripts/compare-engines.sh
#
# It first builds `loadgen/engines` with RocksDB's bundled sources for this very machine (-march=native, as RocksDB's own
# makefile does, so that its checksums are not computed in software): half an hour of two cores, once. That needs a C++
# compiler and libclang and is why CI builds it without RocksDB (`--no-default-features`). Then every engine runs the
# workloads of `beach-bench` in turns, with equal settings, each step in a process of its own: see `beach-bench-peers
# --help` and loadgen/engines/src/turns.rs. Durable figures stand beside a raw append + fdatasync probe of the same minute.
# It writes $OUT/table.md (the fragment for loadgen/RESULTS.md, with command and machine) and $OUT/rows.json.
# The large run compares itself with the rows of a run of 1 M keys, if $OUT has them.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

ROUNDS=${ROUNDS:-5}
LARGE=${LARGE:-no}
OUT=${OUT:-target/compare-engines}
TARGET=${TARGET:-target/engines} # where it is built
mkdir -p "$OUT"

if [ "${BUILD:-yes}" != no ]; then
  missing=()
  command -v g++ >/dev/null || missing+=(g++)
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' | grep -qv cpp || missing+=(libclang-dev)
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    sudo=(); [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  fi
  # From its directory: the flags for the C++ are in its .cargo/config.toml.
  (cd loadgen/engines && cargo build --locked --release --target-dir "$(realpath -m --relative-to=. "$root/$TARGET")")
fi

name=rows arguments=()
if [ "$LARGE" = yes ]; then
  name=rows-large arguments+=(--large)
  [ ! -e "$OUT/rows.json" ] || arguments+=(--than "$OUT/rows.json")
fi
[ -z "${ENGINES:-}" ] || arguments+=(--engine "$ENGINES")
[ -z "${ONLY:-}" ] || arguments+=(--only "$ONLY")
table=$OUT/table${name#rows}.md
start=$SECONDS
"$TARGET/release/beach-bench-peers" --rounds "$ROUNDS" --dir "$OUT/data" --json "$OUT/$name.json" --table "$table" "${arguments[@]}"
cat "$table"
echo "took $((SECONDS - start)) s; the table is $table"

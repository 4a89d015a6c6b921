#!/usr/bin/env bash
# catch-up.sh: how fast a node that is far behind catches up by snapshot, and what writers on the leader feel of it.
#
#   bash scripts/catch-up.sh                     1 GiB of data, 3 rounds: about 2 minutes
#   MB=256 ROUNDS=1 bash scripts/catch-up.sh
#
# Three nodes (release build, default settings, scripts/cluster.sh) on one machine and one disk. Node 3 is stopped; MB MiB of values of
# 4 KiB are written, so that the log it would need is gone. Each round measures
#   raw      the disk's rate: the leader's tables through `dd conv=fdatasync` into one file, right before
#   quiet    64 clients that put 100 bytes each, one after the other, at a cluster without node 3: the longest wait of any of them
#   busy     the same while node 3 starts, is sent the snapshot, installs it, and takes what was written since
#   rate     the snapshot's bytes / time from its first piece to installed (checked, synced, in the manifest), by node 3's log
# Each round has a cluster of its own (a voter's disk must not be put back to where it was). With RATE=50MiB the leader is told --snapshot-rate.
# CLIENTS=0 measures the rate without writers. It writes $OUT/rows.tsv and the table on stdout, and stops only what it started.
set -euo pipefail
cd "$(dirname "$0")/.."
MB=${MB:-1024}
ROUNDS=${ROUNDS:-3}
CLIENTS=${CLIENTS:-64}
SECONDS_EACH=${SECONDS_EACH:-8}
OUT=${OUT:-target/catch-up}
BIN=${BIN:-target/release}
PORT=${PORT:-17800}
if [ "${BUILD:-yes}" != no ]; then cargo build --release -p beachdb -p beach-loadgen -p beach-tools --bins; fi
mkdir -p "$OUT"
export BIN DIR=$OUT/cluster BASE_PORT=$PORT BEACHD_FLAGS="${RATE:+--snapshot-rate $RATE }${FLAGS:-}"
cluster() { bash scripts/cluster.sh "$@"; }
trap 'cluster down --wipe > /dev/null 2>&1 || true; rm -f "$OUT/raw"' EXIT
rows=$OUT/rows.tsv
: > "$rows"
load() { # JSON ARGUMENTS…
  local json=$1; shift
  "$BIN/beach-loadgen" --endpoints "$endpoints" --workload put --quiet --json "$json" "$@" > "$OUT/text" 2>&1 \
    || { echo "the load generator failed:"; cat "$OUT/text"; exit 1; }
}
put_field() { sed -E "s/.*\"put\":\{[^}]*\"$1\":([0-9.]+).*/\1/" "$2"; }
# When node 3's log first said something matching PATTERN after its first SKIP lines, in seconds since the epoch.
said_at() { # SKIP PATTERN
  tail -n "+$(($1 + 1))" "$DIR/n3/log" | grep -m1 -E "$2" | sed -E 's/^\[([^ ]+) .*/\1/' | xargs -I{} date -u -d {} +%s.%N
}

for round in $(seq "$ROUNDS"); do
  cluster up > /dev/null
  endpoints=$(cluster endpoints)
  # Node 3 leads nobody, so that stopping it moves nothing.
  cluster ctl transfer-leader 1 > /dev/null 2>&1 || true # it leads already, or it does now
  cluster stop 3
  load "$OUT/preload.json" --preload --keys $((MB << 8)) --value-size 4096 --clients 64 --pipeline 16 --duration 1s --warmup 0s
  sleep 2
  tables=$(ls "$DIR"/n1/data/engine/*.sst | wc -l)
  size=$(cat "$DIR"/n1/data/engine/*.sst | wc -c) # and they are in the page cache, as they are when node 1 has just written them
  sync
  begin=$(date +%s.%N)
  cat "$DIR"/n1/data/engine/*.sst | dd of="$OUT/raw" bs=1M iflag=fullblock conv=fdatasync 2> /dev/null
  raw=$(awk -v a="$begin" -v b="$(date +%s.%N)" -v size="$size" 'BEGIN { printf "%.0f", size / (b - a) / 1e6 }')
  rm -f "$OUT/raw"
  quiet=- busy=- writer=
  if [ "$CLIENTS" != 0 ]; then
    load "$OUT/$round-quiet.json" --keys 100000 --value-size 100 --clients "$CLIENTS" --duration "${SECONDS_EACH}s" --warmup 1s
    load "$OUT/$round-busy.json" --keys 100000 --value-size 100 --clients "$CLIENTS" --duration "${SECONDS_EACH}s" --warmup 1s &
    writer=$!
    sleep 2
  fi
  skip=$(cat "$DIR/n3/log" 2>/dev/null | wc -l)
  cluster start 3
  for _ in $(seq 600); do
    tail -n "+$((skip + 1))" "$DIR/n3/log" | grep -q 'is installed' && break
    sleep 0.1
  done
  [ -z "$writer" ] || wait "$writer"
  line=$(tail -n "+$((skip + 1))" "$DIR/n3/log" | grep -m1 -E 'snapshot of entry [0-9]+ \([0-9]+ bytes\) from')
  bytes=$(sed -E 's/.*\(([0-9]+) bytes\).*/\1/' <<< "$line")
  begun=$(said_at "$skip" 'snapshot of entry [0-9]+ \([0-9]+ bytes\) from')
  complete=$(said_at "$skip" 'is complete: installing')
  installed=$(said_at "$skip" 'snapshot of entry [0-9]+ is installed')
  if [ "$CLIENTS" != 0 ]; then
    quiet=$(put_field max_us "$OUT/$round-quiet.json") busy=$(put_field max_us "$OUT/$round-busy.json")
    puts="$(sed -E 's/.*"throughput_ops_s":([0-9.]+).*/\1/' "$OUT/$round-quiet.json") $(sed -E 's/.*"throughput_ops_s":([0-9.]+).*/\1/' "$OUT/$round-busy.json")"
  else puts="- -"; fi
  cp "$DIR/n3/log" "$OUT/n3.log"; cp "$DIR/n1/log" "$OUT/n1.log"
  awk -v OFS='\t' -v round="$round" -v tables="$tables" -v bytes="$bytes" -v b="$begun" -v c="$complete" -v i="$installed" -v raw="$raw" \
    -v quiet="$quiet" -v busy="$busy" -v puts="$puts" 'BEGIN { split(puts, p, " ")
      print round, tables, bytes, sprintf("%.2f", c - b), sprintf("%.2f", i - b), sprintf("%.0f", bytes / (i - b) / 1e6), raw, quiet, busy, p[1], p[2] }' >> "$rows"
  cluster down --wipe
done
awk -F'\t' '
  BEGIN {
    print "| round | tables | bytes | s to the last piece | s to installed | MB/s | the disk, MB/s | longest write, quiet / busy ms | puts/s, quiet / busy |"
    print "|---|---|---|---|---|---|---|---|---|" }
  function ms(us) { return us == "-" ? "–" : sprintf("%.0f", us / 1000) }
  function k(n) { return n == "-" ? "–" : sprintf("%.1f k", n / 1000) }
  { printf "| %s | %s | %s | %s | %s | %s | %s | %s / %s | %s / %s |\n", $1, $2, $3, $4, $5, $6, $7, ms($8), ms($9), k($10), k($11) }
' "$rows" | tee "$OUT/table.md"

#!/usr/bin/env bash
# demo.sh: three nodes, the Unicode database, a load, and the leader killed in the middle of it; then a look into a log.
#
#   bash scripts/demo.sh            takes about half a minute once things are built; needs curl and unicode-data
#   SECONDS_OF_LOAD=30 CLIENTS=64 bash scripts/demo.sh
#
# It brings up its own cluster with cluster.sh in target/demo and takes it down again. Exit code 1 when anything it loaded is missing
# at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
export DIR=target/demo BASE_PORT=${BASE_PORT:-7500} BIN=${BIN:-target/release}
SECONDS_OF_LOAD=${SECONDS_OF_LOAD:-10} CLIENTS=${CLIENTS:-16}
UNICODE=/usr/share/unicode/UnicodeData.txt
[ -e "$UNICODE" ] || { echo "demo.sh: $UNICODE is missing: apt-get install unicode-data" >&2; exit 1; }
cluster() { bash scripts/cluster.sh "$@"; }
heading() { printf '\n== %s\n' "$*"; }

[ -x "$BIN/beachd" ] || cargo build --release --workspace --bins
rm -rf "$DIR"
trap 'cluster down > /dev/null 2>&1 || true' EXIT
heading "three nodes"
cluster up
cluster status
endpoints=$(cluster endpoints)

heading "UnicodeData.txt, keyed by code point, in exactly-once batches"
awk -F';' '{ printf "u/%s\t%s\n", substr("000000" $1, length($1) + 1), $2 }' "$UNICODE" > "$DIR/unicode.tsv"
cluster ctl load --exactly-once --tsv "$DIR/unicode.tsv" 2> "$DIR/load.log"
cluster ctl get u/01F3D6

heading "$SECONDS_OF_LOAD s of puts by $CLIENTS clients; the leader is killed in the middle"
cluster run "$BIN/beach-loadgen" --endpoints "$endpoints" --workload put --clients "$CLIENTS" --duration "${SECONDS_OF_LOAD}s" --warmup 1s \
  > "$DIR/loadgen.txt" 2> "$DIR/loadgen.log" &
load=$!
sleep $((1 + SECONDS_OF_LOAD / 2))
leader=$(cluster ctl --json status | grep -o '"leader":[0-9]*' | head -1 | cut -d: -f2)
[ -n "$leader" ] || { echo "demo.sh: nobody leads" >&2; exit 1; }
killed=$(date +%s%N)
cluster kill "$leader"
cluster ctl --timeout 10s put demo/after-the-kill yes
echo "node $leader led and was killed; $((($(date +%s%N) - killed) / 1000000)) ms later another write was acknowledged (start of beachctl included)"
wait "$load"
cat "$DIR/loadgen.txt"
cluster status || true

heading "node $leader comes back"
cluster start "$leader"
cluster ctl scan --prefix u/ > "$DIR/after.txt"
expected=$(wc -l < "$DIR/unicode.tsv") found=$(wc -l < "$DIR/after.txt")
echo "$found of $expected code points are there"
[ "$found" = "$expected" ]

heading "what node $leader has in its log: the last records"
cluster down
"$BIN/wal_dump" --decode "$DIR/n$leader/data/raft" > "$DIR/wal.txt"
tail -12 "$DIR/wal.txt"
heading "done; data, logs, and dumps are in $DIR"

#!/usr/bin/env bash
# soak.sh: clusters of real nodes under a long mix of faults, round after round, each with its history judged.
#
#   bash scripts/soak.sh                            five minutes, from a random seed
#   bash scripts/soak.sh --seed 7 --minutes 60
#   bash scripts/soak.sh --seed 7 --rounds 1        one round again: the same faults, met by other messages
#
# Nodes are killed, stopped, restarted one after another, wiped and replaced, left behind until they need a snapshot; leadership is
# moved; and, as root, the network is cut, bridged, slowed, and made to lose packets. Every round ends with what the tests of
# tools/tests/cluster_history end with: every acknowledged write is read back from every node, and the history must be linearizable.
#
# Everything is logged to $OUT/soak.log (target/soak). Exit code 1 when a round fails: the log ends with what is wrong, the command that
# repeats it, and the directory of its nodes, which is kept. BEACHD_BIN=target/release/beachd tests that one.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
SEED=$((RANDOM << 15 | RANDOM)) MINUTES=5 ROUNDS=
OUT=${OUT:-target/soak}
while [ $# -gt 0 ]; do
  case "$1:${2:-}" in
    --seed:[0-9]*) SEED=$2 ;;
    --minutes:[0-9]*) MINUTES=$2 ;;
    --rounds:[0-9]*) ROUNDS=$2 ;;
    *) usage ;;
  esac
  shift 2
done

mkdir -p "$OUT"
TMPDIR=$(realpath "$OUT"); export TMPDIR
export BEACH_SEED=$SEED BEACH_SOAK_SECONDS=$((MINUTES * 60)) BEACH_SOAK_ROUNDS=$ROUNDS
if [ -n "$ROUNDS" ]; then length="$ROUNDS rounds"; else length="$MINUTES minutes"; fi
echo "soak.sh: seed $SEED, $length, log in $OUT/soak.log"
cargo test --package beach-tools --test cluster_history -- --ignored --exact soak::soak --nocapture 2>&1 | tee "$OUT/soak.log" || exit 1

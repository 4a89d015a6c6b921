#!/usr/bin/env bash
# swarm.sh: a long soak of simulated clusters (beach-sim), with a bound in time and a seed to begin with.
#
#   bash scripts/swarm.sh                          one hour from a random seed
#   SECONDS_TOTAL=600 START_SEED=1 bash scripts/swarm.sh
#
# It goes in rounds, so that the length of a run varies: one virtual minute of faults, then five, then a third of one. Everything is
# logged to $OUT/swarm.log; artifacts of failures are in $OUT/artifacts. Exit code 1 when a round fails.
set -euo pipefail
cd "$(dirname "$0")/.."

SECONDS_TOTAL=${SECONDS_TOTAL:-3600}
START_SEED=${START_SEED:-$(( (RANDOM << 15 | RANDOM) * 1000 ))}
JOBS=${JOBS:-2}
OUT=${OUT:-target/swarm}

[ "${BUILD:-yes}" = no ] || cargo build --release --package beach-tools --bin beach-sim
mkdir -p "$OUT"
echo "start seed $START_SEED, $SECONDS_TOTAL s, $JOBS processes, log in $OUT/swarm.log" | tee "$OUT/swarm.log"
verdict=0 seed=$START_SEED share=$((SECONDS_TOTAL / 3))
for minutes in 1 5 0.3; do
  target/release/beach-sim swarm --seconds "$share" --jobs "$JOBS" --start-seed "$seed" --minutes "$minutes" \
    --artifacts "$OUT/artifacts" 2>&1 | tee -a "$OUT/swarm.log" || verdict=1
  seed=$((seed + 1000000))
done
exit $verdict

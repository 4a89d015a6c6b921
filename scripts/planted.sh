#!/usr/bin/env bash
# Hunts every planted bug (src/base/planted.rs) with the simulator, and prints the table of loadgen/RESULTS.md.
#
#   bash scripts/planted.sh                      all of them, at most 300 seconds each (all but one need less than 60)
#   bash scripts/planted.sh --only AckBeforeSync --seconds 60
#
# Exit code 1 when one is not found. The build with the bugs has a target directory of its own; beachd is never built
# with them, and neither the release beachd nor the release beach-sim carries them.
set -euo pipefail
cd "$(dirname "$0")/.."
marker='this program carries planted bugs'
RUSTFLAGS='--cfg beach_planted' cargo build --release --target-dir target/planted -p beach-tools --bin beach-sim
grep -aq "$marker" target/planted/release/beach-sim || { echo "planted.sh: the build carries no planted bugs" >&2; exit 1; }
for program in target/release/beachd target/release/beach-sim; do
    if [ -e "$program" ] && grep -aq "$marker" "$program"; then
        echo "planted.sh: $program carries planted bugs" >&2
        exit 1
    fi
done
case " $* " in *" --seconds"*) ;; *) set -- --seconds 300 "$@" ;; esac
exec target/planted/release/beach-sim planted "$@"

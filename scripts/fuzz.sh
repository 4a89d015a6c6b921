#!/usr/bin/env bash
# Every decoder under coverage-guided fuzzing (tests/fuzz/README.md), one target after the other, for a bounded time each.
#
#   bash scripts/fuzz.sh [--seconds 10] [--seed 1] [TARGET…]      all targets unless named
#
# Needs cargo-fuzz (installs it when it is missing) and no nightly toolchain. Ends with `N passed, N failed`; a finding is a
# file in tests/fuzz/artifacts/TARGET/, and the command that runs it again is printed.
set -u
cd "$(dirname "$0")/.." || exit 1
SECONDS_EACH=10 SEED=1 targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) SECONDS_EACH=${2:?--seconds needs a number}; shift 2 ;;
    --seed) SEED=${2:?--seed needs a number}; shift 2 ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done
case $SECONDS_EACH$SEED in *[!0-9]*) echo "--seconds and --seed are whole numbers" >&2; exit 2 ;; esac
all=()
for file in tests/fuzz/fuzz_targets/*.rs; do all+=("$(basename "$file" .rs)"); done
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")
for target in "${targets[@]}"; do
  [ -e "tests/fuzz/fuzz_targets/$target.rs" ] || { echo "no target $target; there are: ${all[*]}" >&2; exit 2; }
done

command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz || exit 1
export RUSTC_BOOTSTRAP=1 # what cargo-fuzz wants of the compiler works on stable
fuzz() { cargo fuzz "$1" --fuzz-dir tests/fuzz "${@:2}"; }
cargo test --quiet --test decoders -- --ignored write_corpora >/dev/null || { echo "the corpora could not be written"; exit 1; }
fuzz build || exit 1
passed=0 failed=0
for target in "${targets[@]}"; do
  log=$(mktemp)
  if fuzz run "$target" -- -max_total_time="$SECONDS_EACH" -seed="$SEED" -rss_limit_mb=2048 -timeout=10 >"$log" 2>&1; then
    passed=$((passed + 1))
    printf '%-14s %s\n' "$target" "$(grep -E '^Done ' "$log")"
  else
    failed=$((failed + 1))
    printf '%-14s FAILED\n' "$target"
    tail -n 40 "$log"
  fi
  rm -f "$log"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]

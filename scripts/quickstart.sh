#!/usr/bin/env bash
# quickstart.sh: executes the README's walk-through exactly as written, so that it cannot lie.
#
# It takes the code blocks of README.md between `<!-- walk-through -->` and `<!-- end of walk-through -->`:
#   ```sh        runs, in one shell, in order, in the repository; any failing command fails the script
#   ```text      what the sh block before it prints, compared line by line; `…` in a line matches anything,
#                and a line that is only `…` matches any number of lines
# Ports and the data directory are the README's own (127.0.0.1:7400-7402, ./beachd-data): it refuses to run when
# a data directory or a server is already there.
#
#   bash scripts/quickstart.sh           run it
#   bash scripts/quickstart.sh --print   only print the script that would be run
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
clean_up() {
  for pid in $(cat "$work/pids" 2>/dev/null); do kill -9 "$pid" 2>/dev/null || true; done
  rm -rf "$work"
  [ "${owns_data:-no}" = yes ] && rm -rf beachd-data
  return 0
}
trap clean_up EXIT

# Block n becomes $work/n.sh; the text block behind it, if any, $work/n.expected.
awk -v work="$work" '
  /<!-- walk-through -->/ { on = 1 }
  /<!-- end of walk-through -->/ { on = 0 }
  !on { next }
  /^```sh$/   { n++; file = sprintf("%s/%02d.sh", work, n); next }
  /^```text$/ { file = sprintf("%s/%02d.expected", work, n); next }
  /^```/      { if (file != "") close(file); file = ""; next }
  file != ""  { print > file }
' README.md
ls "$work"/*.sh >/dev/null 2>&1 || { echo "README.md has no walk-through"; exit 1; }
if [ "${1:-}" = --print ]; then cat "$work"/*.sh; exit 0; fi

[ ! -e beachd-data ] || { echo "./beachd-data is already there: move it away first"; exit 1; }
if (exec 3<>/dev/tcp/127.0.0.1/7400) 2>/dev/null; then echo "something already listens on 127.0.0.1:7400"; exit 1; fi
owns_data=yes

# One shell runs all blocks, so that variables and background jobs carry over. After each block it notes its
# background processes, so that they can be stopped whatever happens. No `||` or `if` around a block: it would
# switch `set -e` off inside.
{
  echo 'set -euo pipefail; exec 3>&1; now='
  echo "trap 'status=\$?; jobs -p > $work/pids; [ \$status = 0 ] || cat \$now.sh \$now.out \$now.err >&3' EXIT"
  for block in "$work"/*.sh; do
    block=${block%.sh}
    echo "now='$block'; exec > '$block.out' 2> '$block.err'"
    cat "$block.sh"
  done
} > "$work/all"
# The limit is for a daemon that never becomes ready; a cold build takes minutes.
if ! timeout 1500 bash "$work/all"; then echo "the walk-through failed in the block above"; exit 1; fi

matches() { # FILE-WITH-… FILE: every line in order
  awk '
    function like(pattern, line,   part, parts, i, at) {
      parts = split(pattern, part, "…")
      if (parts == 1) return pattern == line
      if (substr(line, 1, length(part[1])) != part[1]) return 0
      line = substr(line, length(part[1]) + 1)
      for (i = 2; i <= parts; i++) {
        if (part[i] == "") continue
        at = index(line, part[i]); if (!at) return 0
        if (i == parts) return length(line) >= length(part[i]) && substr(line, length(line) - length(part[i]) + 1) == part[i]
        line = substr(line, at + length(part[i]))
      }
      return 1
    }
    NR == FNR { want[++wants] = $0; next }
    { got[++gots] = $0 }
    END {
      g = 1
      for (w = 1; w <= wants; w++) {
        if (want[w] == "…") {
          if (w == wants) exit 0
          while (g <= gots && !like(want[w + 1], got[g])) g++
          continue
        }
        if (g > gots || !like(want[w], got[g])) {
          printf "expected: %s\nfound:    %s\n", want[w], (g > gots ? "(the end)" : got[g]); exit 1
        }
        g++
      }
      if (g <= gots) { printf "expected: (the end)\nfound:    %s\n", got[g]; exit 1 }
    }' "$1" "$2"
}
compared=0
for expected in "$work"/*.expected; do
  [ -e "$expected" ] || continue
  out=${expected%.expected}.out
  if ! matches "$expected" "$out"; then
    echo "block $(basename "$expected" .expected) prints something else than the README says; it printed:"; cat "$out"; exit 1
  fi
  compared=$((compared + 1))
done
echo "walk-through: $(ls "$work"/*.sh | wc -l) blocks run, the output of $compared compared"

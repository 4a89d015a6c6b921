#!/usr/bin/env bash
# bench.sh: one node beside the ideal and beside Redis, on this machine, in one run.
#
#   bash scripts/bench.sh                  5 rounds, 5 s a figure: about 12 minutes
#   ROUNDS=1 SECONDS_EACH=2 bash scripts/bench.sh
#
# Each round starts, one after the other and in an order that turns with the round, four servers on fresh data:
#   ideal inline, ideal helper   `beach-bench ideal`: read, append, sync once a wake-up, answer
#   beachd                       release build, default settings
#   redis                        Redis 7, `appendfsync always`
# and drives each with the same `beach-loadgen`: puts, 16-byte keys, 100-byte values, uniform over 1 M keys that
# were written before, at 1 x 1, 64 x 1, 256 x 1, and 64 x 16 (clients x pipeline); beachd's memtable is topped up
# before each, so that a flush falls into every window. Figures are medians over the
# rounds; ratios are medians of the ratios *within* a round. A raw append + fdatasync probe runs in each round.
# It writes $OUT/table.md (the fragment for loadgen/RESULTS.md), $OUT/rows.tsv, and every JSON report.
set -euo pipefail
cd "$(dirname "$0")/.."

ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
KEYS=${KEYS:-1000000}
GET_KEYS=${GET_KEYS:-200000}      # small enough to stay in the memtable
SIDES=${SIDES:-"inline helper beachd redis"}
SHAPES=${SHAPES:-"1x1 64x1 256x1 64x16"}
OUT=${OUT:-target/bench}
PORT=${PORT:-17400}

command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install redis-server"; exit 1; }
[ "${BUILD:-yes}" = no ] || cargo build --release --bins
bin=target/release
mkdir -p "$OUT"
work=$(mktemp -d "$OUT/work.XXXXXX")
server=
stop_server() { [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; server=; }; }
trap 'stop_server; rm -rf "$work"' EXIT
rows=$OUT/rows.tsv
: > "$rows"

is_ready() ( # SIDE
  if [ "$1" = beachd ]; then
    exec 3<>/dev/tcp/127.0.0.1/$((PORT + 2)) && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && head -1 <&3 | grep -q ' 200 '
  else
    exec 3<>/dev/tcp/127.0.0.1/$PORT
  fi
)
start_server() { # SIDE DIR
  mkdir -p "$2"
  case $1 in
    inline|helper) $bin/beach-bench ideal --sync "$1" --dir "$2" --listen 127.0.0.1:$PORT > "$2/log" 2>&1 & ;;
    beachd) $bin/beachd --data-dir "$2/data" --listen 127.0.0.1:$PORT --peer-listen 127.0.0.1:$((PORT + 1)) \
              --http 127.0.0.1:$((PORT + 2)) > "$2/log" 2>&1 & ;;
    redis) redis-server --port $PORT --bind 127.0.0.1 --dir "$2" --appendonly yes --appendfsync always --save '' \
              --maxclients 10000 > "$2/log" 2>&1 & ;;
  esac
  server=$!
  for _ in $(seq 200); do
    if is_ready "$1" 2>/dev/null; then return; fi
    kill -0 $server 2>/dev/null || break
    sleep 0.05
  done
  echo "$1 did not start:"; cat "$2/log"; exit 1
}
target_of() { [ "$1" = redis ] && echo redis || echo beachd; }
field() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/" "$2"; }
op_field() { sed -E "s/.*\"$1\":\{[^}]*\"$2\":([0-9.]+).*/\1/" "$3"; }
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }
peak_kib() { awk '/^VmHWM/ { print $2 }' "/proc/$server/status"; }
engine_figure() { # NAME: of beachd, from its own STATS
  $bin/beachctl --endpoints 127.0.0.1:$PORT --json stats | grep -oE "\"$1\":[0-9]+" | head -1 | cut -d: -f2
}
# Writes until the memtable has only the shape's room left, so that a flush falls into its window: at 4,000 put/s
# a memtable of 64 MiB would last two minutes. Uniform over the same keys, like everything else.
top_up_memtable() { # SHAPE
  local room now puts tries
  case $1 in 1x1) room=2 ;; 64x1) room=20 ;; 256x1) room=24 ;; *) return ;; esac
  for tries in 1 2 3 4 5 6; do
    now=$(engine_figure memtable_bytes)
    puts=$(((((64 - room) << 20) - now) / 150))
    if [ $puts -lt -5000 ]; then puts=$((((64 << 20) - now) / 140 + 10000)); fi # over it: flush, then fill
    if [ $puts -lt 3000 ]; then return; fi
    load beachd "$OUT/top-up.json" put 64x16 --keys "$KEYS" --seed $((1000 + tries)) --rate 100000 \
      --warmup 0s --duration $((puts / 100 + 1))ms
  done
}
load() { # SIDE JSON WORKLOAD CLIENTSxPIPELINE ARGUMENTS…
  local side=$1 json=$2 workload=$3 clients=${4%x*} pipeline=${4#*x}; shift 4
  $bin/beach-loadgen --target "$(target_of "$side")" --endpoints 127.0.0.1:$PORT --workload "$workload" \
    --clients "$clients" --pipeline "$pipeline" --key-size 16 --value-size 100 --quiet --json "$json" "$@" > "$work/text" 2>&1 \
    || grep -q 'fell behind the schedule' "$work/text" || { echo "the load generator failed on $side:"; cat "$work/text"; exit 1; }
}
row() { printf '%s\t' "$@" | sed 's/\t$/\n/' >> "$rows"; }

measure_side() { # ROUND SIDE
  local round=$1 side=$2 dir=$work/$1-$2 shape json before=0 after=0
  start_server "$side" "$dir"
  # Everything is written once, with enough in flight that it does not take long.
  case $side in inline|helper) ;; *)
    load "$side" "$OUT/$round-$side-preload.json" put 64x16 --preload --keys "$KEYS" --duration 1s --warmup 0s ;;
  esac
  for shape in $SHAPES; do
    json=$OUT/$round-$side-$shape.json
    if [ "$side" = beachd ]; then top_up_memtable "$shape"; before=$(engine_figure flushes); fi
    load "$side" "$json" put "$shape" --keys "$KEYS" --seed "$round" --duration "${SECONDS_EACH}s" --warmup 1s
    if [ "$side" = beachd ]; then after=$(engine_figure flushes); fi
    row "$round" "$side" "$shape" "$(field throughput_ops_s "$json")" "$(op_field put p50_us "$json")" \
      "$(op_field put p99_us "$json")" "$(field client_cpu "$json")" "$(rss_kib)" "$((after - before))"
    printf '%-6s %-7s %-6s %9s put/s  p50 %8s  p99 %8s us\n' "$round" "$side" "$shape" \
      "$(field throughput_ops_s "$json")" "$(op_field put p50_us "$json")" "$(op_field put p99_us "$json")"
  done
  [ "$side" != beachd ] || row "$round" beachd peak-rss "$(peak_kib)"
  if [ "$side" = redis ]; then
    local ops
    ops=$(redis-benchmark -p $PORT -c 64 -P 16 -n 1000000 -r "$KEYS" -d 100 -t set --csv | tail -1 | cut -d'"' -f4)
    row "$round" redis-benchmark 64x16 "$ops"
  fi
  stop_server
  rm -rf "$dir"
}
measure_gets() { # ROUND: from memory
  local round=$1 dir=$work/$1-gets json=$OUT/$1-beachd-get.json
  start_server beachd "$dir"
  load beachd "$json" get 64x16 --preload --keys "$GET_KEYS" --duration 1s --warmup 0s
  load beachd "$json" get 64x1 --keys "$GET_KEYS" --duration "${SECONDS_EACH}s" --warmup 1s
  row "$round" beachd get-64x1 "$(field throughput_ops_s "$json")" "$(op_field get p50_us "$json")" \
    "$(op_field get p99_us "$json")" "$(field client_cpu "$json")" "$(rss_kib)" 0
  printf '%-6s %-7s %-6s %9s get/s\n' "$round" beachd get "$(field throughput_ops_s "$json")"
  stop_server
  rm -rf "$dir"
}

for round in $(seq "$ROUNDS"); do
  # The raw probe of this minute: its inline rows are measured again below, so only the file rows matter here.
  $bin/beach-bench probe --files-only --dir "$work" --duration 1s --json "$OUT/$round-probe.json" > "$work/text"
  row "$round" raw zero-filled "$(awk '$1 == "ZeroFilled" { print $3; exit }' "$work/text")"
  row "$round" raw growing "$(awk '$1 == "Growing" { print $3; exit }' "$work/text")"
  # The order turns, so that no side always runs on the same kind of minute.
  read -ra order <<< "$SIDES"
  for i in "${!order[@]}"; do
    measure_side "$round" "${order[$(((i + round) % ${#order[@]}))]}"
  done
  case " $SIDES " in *" beachd "*) measure_gets "$round" ;; esac
done

awk -F'\t' -v shapes="$SHAPES" '
  function median(list,   values, n, i, j, t) {
    n = split(list, values, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && values[j] + 0 < values[j-1] + 0; j--) { t = values[j]; values[j] = values[j-1]; values[j-1] = t }
    return n == 0 ? "" : n % 2 ? values[(n+1)/2] : (values[n/2] + values[n/2+1]) / 2
  }
  function k(value) { return value == "" ? "–" : value >= 1000 ? sprintf("%.1f k", value / 1000) : sprintf("%.0f", value) }
  function ratio(a, b, shape,   r, list) {
    for (r = 1; r <= rounds; r++) if (one[r, a, shape] && one[r, b, shape]) list = list " " one[r, a, shape] / one[r, b, shape]
    return list == "" ? "–" : sprintf("%.2f", median(list))
  }
  { rounds = $1 > rounds ? $1 : rounds; one[$1,$2,$3] = $4; all[$2,$3] = all[$2,$3] " " $4
    p50[$2,$3] = p50[$2,$3] " " $5; p99[$2,$3] = p99[$2,$3] " " $6; rss[$2,$3] = rss[$2,$3] " " $8; flush[$2,$3] = flush[$2,$3] " " $9 }
  END {
    print "| clients × pipeline | ideal inline | ideal helper | beachd put/s | p50 / p99 µs | ÷ ideal inline | ÷ ideal helper | Redis 7 always | ÷ Redis | flushes in the window | RSS MiB |"
    print "|---|---|---|---|---|---|---|---|---|---|---|"
    n = split(shapes, shape, " ")
    for (i = 1; i <= n; i++) { s = shape[i]; label = s; sub(/x/, " × ", label)
      printf "| %s | %s | %s | %s | %.0f / %.0f | %s | %s | %s | %s | %s | %.0f |\n", label, k(median(all["inline",s])), k(median(all["helper",s])),
        k(median(all["beachd",s])), median(p50["beachd",s]), median(p99["beachd",s]), ratio("beachd","inline",s), ratio("beachd","helper",s),
        k(median(all["redis",s])), ratio("beachd","redis",s), median(flush["beachd",s]), median(rss["beachd",s]) / 1024 }
    printf "\nGets from memory, 64 × 1: %s get/s, p50 %.0f µs, p99 %.0f µs. ", k(median(all["beachd","get-64x1"])), median(p50["beachd","get-64x1"]), median(p99["beachd","get-64x1"])
    printf "Peak resident memory of beachd: %.0f MiB. ", median(all["beachd","peak-rss"]) / 1024
    printf "Raw append + fdatasync of 167 bytes: %s/s zero-filled, %s/s growing. ", k(median(all["raw","zero-filled"])), k(median(all["raw","growing"]))
    printf "redis-benchmark -c 64 -P 16: %s/s. Medians of %d rounds of the same run.\n", k(median(all["redis-benchmark","64x16"])), rounds
  }' "$rows" | tee "$OUT/table.md"

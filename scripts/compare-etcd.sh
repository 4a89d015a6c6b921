#!/usr/bin/env bash
# compare-etcd.sh: three nodes of beachd beside three nodes of etcd and beside the ideal of three, in one run.
#
#   bash scripts/compare-etcd.sh                          5 rounds, 5 s a figure: about 15 minutes
#   ROUNDS=1 SECONDS_EACH=2 SIDES="etcd" bash scripts/compare-etcd.sh
#
# Each round starts, one after the other and in an order that turns with the round, on fresh temporary directories of the same
# file system and on loopback ports that the system chose:
#   inline   `beach-bench ideal --followers 2`: appends, sends to two followers, syncs, answers after its own sync and one of theirs
#   helper   the same with its own write + sync on a helper thread; "ideal" in the table is the better of the two in each round
#   beachd   three nodes (release build, --initial-cluster), default settings
#   etcd     three nodes of Debian's etcd-server, default settings
# It writes KEYS keys, then measures each of SHAPES (clients x requests in flight, put or linearizable get): 16-byte keys, 100-byte
# values, uniform. All clients talk to the leader. `beach-loadgen` drives beachd and the ideal, `beach-loadgen-etcd` etcd; operations,
# histograms, and reports are the same code, and what each client costs stands in the table, since it shares the processors.
# Figures are medians over the rounds, ratios medians of the ratios *within* a round; RSS is the peak (VmHWM) of the largest node.
# The raw append + fdatasync probe in each round tells whether the disk was quiet.
#
# It needs `apt-get install etcd-server`; without it that side is left out. It stops only what it started, by process id, and
# writes $OUT/table.md, $OUT/rows.tsv, and every JSON report.
set -euo pipefail
cd "$(dirname "$0")/.."

ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
KEYS=${KEYS:-100000}
SIDES=${SIDES:-"inline helper beachd etcd"}
SHAPES=${SHAPES:-"64x1-put 256x1-put 64x1-get 1x1-put"}
CONNS=${CONNS:-}                  # HTTP/2 connections of etcd's clients; empty: one for every 64
OUT=${OUT:-target/compare-etcd}

case " $SIDES " in *" etcd "*)
  if ! command -v etcd >/dev/null; then
    echo "etcd is missing, so it is left out: apt-get install etcd-server"
    SIDES=$(printf '%s ' $SIDES | sed 's/\betcd\b//')
  fi ;;
esac
[ -n "${SIDES// /}" ] || { echo "nothing is left to measure"; exit 0; }
if [ "${BUILD:-yes}" != no ]; then
  cargo build --release -p beachdb -p beach-loadgen --bins
  case " $SIDES " in *" etcd "*) cargo build --release --manifest-path loadgen/peers/Cargo.toml --target-dir target ;; esac
fi
bin=target/release
mkdir -p "$OUT"
work=$(mktemp -d "$OUT/work.XXXXXX")
pids=()
stop_servers() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
trap 'stop_servers; rm -rf "$work"' EXIT
rows=$OUT/rows.tsv
: > "$rows"

# All are held open at once, so no two are the same.
free_ports() { # COUNT
  perl -MIO::Socket::INET -e '
    my @held = map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die "no free port: $!" } 1..$ARGV[0];
    print join(" ", map { $_->sockport } @held)' "$1"
}
http_get() ( # PORT PATH: the whole answer
  exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3
)
is_ready() { # SIDE PORT
  case $1 in
    inline|helper) (exec 3<>"/dev/tcp/127.0.0.1/$2") ;;
    beachd) http_get "$2" /readyz | head -1 | grep -q ' 200 ' ;;
    etcd) http_get "$2" /health | grep -q '"health":"true"' ;;
  esac
}
start_servers() { # SIDE DIR: sets pids and endpoints
  local side=$1 dir=$2 ports asked i cluster=
  mkdir -p "$dir"
  read -ra ports <<< "$(free_ports 9)" # client, peer, and HTTP port of each node
  case $side in
    inline|helper)
      $bin/beach-bench ideal --sync "$side" --followers 2 --dir "$dir" --listen "127.0.0.1:${ports[0]}" > "$dir/1.log" 2>&1 & pids+=($!)
      endpoints=127.0.0.1:${ports[0]} asked=("${ports[0]}") ;;
    beachd)
      for i in 0 1 2; do cluster+=${cluster:+,}$((i + 1))=127.0.0.1:${ports[$((i + 3))]}; done
      for i in 0 1 2; do
        $bin/beachd --data-dir "$dir/$((i + 1))" --node-id $((i + 1)) --cluster-id compare-etcd --initial-cluster "$cluster" \
          --listen "127.0.0.1:${ports[$i]}" --peer-listen "127.0.0.1:${ports[$((i + 3))]}" --http "127.0.0.1:${ports[$((i + 6))]}" \
          > "$dir/$((i + 1)).log" 2>&1 & pids+=($!)
      done
      endpoints=127.0.0.1:${ports[0]},127.0.0.1:${ports[1]},127.0.0.1:${ports[2]} asked=("${ports[@]:6:3}") ;;
    etcd)
      for i in 0 1 2; do cluster+=${cluster:+,}n$((i + 1))=http://127.0.0.1:${ports[$((i + 3))]}; done
      for i in 0 1 2; do
        etcd --name "n$((i + 1))" --data-dir "$dir/$((i + 1))" --initial-cluster "$cluster" --initial-cluster-token "$dir" \
          --listen-client-urls "http://127.0.0.1:${ports[$i]}" --advertise-client-urls "http://127.0.0.1:${ports[$i]}" \
          --listen-peer-urls "http://127.0.0.1:${ports[$((i + 3))]}" --initial-advertise-peer-urls "http://127.0.0.1:${ports[$((i + 3))]}" \
          > "$dir/$((i + 1)).log" 2>&1 & pids+=($!)
      done
      endpoints=127.0.0.1:${ports[0]},127.0.0.1:${ports[1]},127.0.0.1:${ports[2]} asked=("${ports[@]:0:3}") ;;
    *) echo "SIDES: there are inline, helper, beachd, etcd; not $side"; exit 2 ;;
  esac
  local port pid tries
  for port in "${asked[@]}"; do
    for tries in $(seq 1200); do
      if is_ready "$side" "$port" 2>/dev/null; then continue 2; fi
      for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || break 2; done
      sleep 0.05
    done
    echo "$side did not start (its port $port is not ready); the ends of its logs:"; tail -n 15 "$dir"/*.log; exit 1
  done
}
field() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/" "$2"; }
op_field() { sed -E "s/.*\"$1\":\{[^}]*\"$2\":([0-9.]+).*/\1/" "$3"; }
peak_kib() { # of the largest node
  local pid
  for pid in "${pids[@]}"; do awk '/^VmHWM/ { print $2 }' "/proc/$pid/status"; done | sort -n | tail -1
}
load() { # SIDE JSON WORKLOAD CLIENTSxPIPELINE ARGUMENTS…
  local side=$1 json=$2 workload=$3 clients=${4%x*} pipeline=${4#*x} program; shift 4
  program=("$bin/beach-loadgen")
  if [ "$side" = etcd ]; then
    program=("$bin/beach-loadgen-etcd")
    if [ -n "$CONNS" ]; then program+=(--conns "$((CONNS < clients ? CONNS : clients))"); fi
  fi
  "${program[@]}" --endpoints "$endpoints" --workload "$workload" --clients "$clients" --pipeline "$pipeline" --keys "$KEYS" \
    --key-size 16 --value-size 100 --quiet --json "$json" "$@" > "$work/text" 2>&1 \
    || { echo "the load generator failed on $side:"; cat "$work/text"; tail -n 15 "$work"/*/*.log; exit 1; }
}
row() { printf '%s\t' "$@" | sed 's/\t$/\n/' >> "$rows"; }

measure_side() { # ROUND SIDE
  local round=$1 side=$2 dir=$work/$1-$2 shape json op
  start_servers "$side" "$dir"
  case $side in inline|helper) ;; *) # the ideal keeps nothing
    load "$side" "$OUT/$round-$side-preload.json" put 256x1 --preload --duration 1s --warmup 0s ;;
  esac
  for shape in $SHAPES; do
    op=${shape#*-} json=$OUT/$round-$side-$shape.json
    case $side-$op in inline-get|helper-get) continue ;; esac # it answers only puts
    load "$side" "$json" "$op" "${shape%-*}" --seed "$round" --duration "${SECONDS_EACH}s" --warmup 1s
    row "$round" "$side" "$shape" "$(field throughput_ops_s "$json")" "$(op_field "$op" p50_us "$json")" \
      "$(op_field "$op" p99_us "$json")" "$(field client_cpu "$json")"
    printf '%-3s %-7s %-10s %9s op/s  p50 %9s  p99 %9s us  client cpu %s\n' "$round" "$side" "$shape" \
      "$(field throughput_ops_s "$json")" "$(op_field "$op" p50_us "$json")" "$(op_field "$op" p99_us "$json")" "$(field client_cpu "$json")"
  done
  row "$round" "$side" peak-rss "$(peak_kib)"
  stop_servers
  rm -rf "$dir"
}

for round in $(seq "$ROUNDS"); do
  $bin/beach-bench probe --files-only --dir "$work" --duration 1s --json "$OUT/$round-probe.json" > "$work/text"
  row "$round" raw zero-filled "$(awk '$1 == "ZeroFilled" { print $3; exit }' "$work/text")"
  row "$round" raw growing "$(awk '$1 == "Growing" { print $3; exit }' "$work/text")"
  read -ra order <<< "$SIDES"
  for i in "${!order[@]}"; do
    measure_side "$round" "${order[$(((i + round) % ${#order[@]}))]}"
  done
done

awk -F'\t' -v shapes="$SHAPES" -v load="$(cut -d' ' -f1-3 /proc/loadavg)" '
  function median(list,   values, n, i, j, t) {
    n = split(list, values, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && values[j] + 0 < values[j-1] + 0; j--) { t = values[j]; values[j] = values[j-1]; values[j-1] = t }
    return n == 0 ? "" : n % 2 ? values[(n+1)/2] : (values[n/2] + values[n/2+1]) / 2
  }
  function k(value) { return value == "" ? "–" : value >= 1000 ? sprintf("%.1f k", value / 1000) : sprintf("%.0f", value) }
  function us(side, s) { return p50[side,s] == "" ? "–" : sprintf("%.0f / %.0f", median(p50[side,s]), median(p99[side,s])) }
  function cost(side, s) { return cpu[side,s] == "" ? "–" : sprintf("%.1f", median(cpu[side,s])) }
  function mib(side) { return all[side,"peak-rss"] == "" ? "–" : sprintf("%.0f MiB", median(all[side,"peak-rss"]) / 1024) }
  function ratio(a, b, s,   r, list) {
    for (r = 1; r <= rounds; r++) if (one[r,a,s] && one[r,b,s]) list = list " " one[r,a,s] / one[r,b,s]
    return list == "" ? "–" : sprintf("%.2f", median(list))
  }
  { rounds = $1 > rounds ? $1 : rounds; one[$1,$2,$3] = $4; all[$2,$3] = all[$2,$3] " " $4 }
  NF > 4 { p50[$2,$3] = p50[$2,$3] " " $5; p99[$2,$3] = p99[$2,$3] " " $6; if ($4 > 0) cpu[$2,$3] = cpu[$2,$3] " " $7 * 1e6 / $4 }
  END {
    m = split(shapes, shape, " ")
    for (i = 1; i <= m; i++) for (r = 1; r <= rounds; r++) { s = shape[i]
      best = one[r,"inline",s] + 0 > one[r,"helper",s] + 0 ? one[r,"inline",s] : one[r,"helper",s]
      if (best > 0) { one[r,"ideal",s] = best; all["ideal",s] = all["ideal",s] " " best } }
    print "| clients × pipeline | ideal of 3 | beachd/s | p50 / p99 µs | ÷ ideal | etcd/s | p50 / p99 µs | beachd ÷ etcd | client µs of CPU per request, beachd / etcd |"
    print "|---|---|---|---|---|---|---|---|---|"
    n = split(shapes, shape, " ")
    for (i = 1; i <= n; i++) { s = shape[i]; label = s; sub(/x/, " × ", label); sub(/-/, " ", label)
      printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s / %s |\n", label, k(median(all["ideal",s])), k(median(all["beachd",s])), us("beachd", s),
        ratio("beachd", "ideal", s), k(median(all["etcd",s])), us("etcd", s), ratio("beachd", "etcd", s), cost("beachd", s), cost("etcd", s) }
    printf "\nPeak resident memory of the largest node: beachd %s, etcd %s. ", mib("beachd"), mib("etcd")
    printf "Raw append + fdatasync of 167 bytes: %s/s zero-filled, %s/s growing. ", k(median(all["raw","zero-filled"])), k(median(all["raw","growing"]))
    printf "Medians of %d rounds of the same run; load average at its end: %s.\n", rounds, load
  }' "$rows" | tee "$OUT/table.md"

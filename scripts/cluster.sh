#!/usr/bin/env bash
# cluster.sh: a local cluster of three beachd, to play with and to break.
#
#   bash scripts/cluster.sh up                three nodes on loopback (clients 7410 7420 7430, peers 74x1, http 74x2)
#   bash scripts/cluster.sh status            who leads, who lags
#   bash scripts/cluster.sh ctl put k v       beachctl, told where the nodes are; `run CMD…` runs any program where it reaches them
#   bash scripts/cluster.sh kill N|pause N    kill -9, SIGSTOP
#   bash scripts/cluster.sh start N|resume N  start it again, SIGCONT
#   bash scripts/cluster.sh stop N            SIGTERM, and wait
#   bash scripts/cluster.sh down [--wipe]     stop all; with --wipe remove the data too
#
# With NETNS=1 (root) each node lives in a network namespace of its own, behind a switch in user space (netswitch.py), and then also:
#   bash scripts/cluster.sh partition 1,2 3   no packet passes between the groups (write them `1,2 3` or `1,2|3`)
#   bash scripts/cluster.sh oneway 1 2        no packet passes from 1 to 2; from 2 to 1 they do
#   bash scripts/cluster.sh loss 5 | delay 20 10
#   bash scripts/cluster.sh heal
#
# State, logs, and data are in $DIR (target/cluster). NODES (3), BASE_PORT (7400), BEACHD_FLAGS are taken at `up`. It stops only processes
# it started, by the ids it noted.
set -euo pipefail
cd "$(dirname "$0")/.."
DIR=${DIR:-target/cluster}
BIN=${BIN:-target/release}
NETWORK=10.77.0

say() { echo "cluster.sh: $*" >&2; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
up_already() { [ -e "$DIR/nodes" ]; }
need_cluster() { up_already || { say "no cluster in $DIR: run \`bash scripts/cluster.sh up\` first"; exit 1; }; }
nodes() { seq 1 "$(cat "$DIR/nodes")"; }
netns() { [ "$(cat "$DIR/mode")" = netns ]; }
namespace() { echo "beach-$(cat "$DIR/tag")-$1"; }
need_node() { case "${1:-}" in ''|*[!0-9]*) usage ;; esac; [ -d "$DIR/n$1" ] || { say "there is no node $1"; exit 2; }; }
pid_of() { cat "$DIR/n$1/pid" 2>/dev/null || true; }
# Alive, and ours: a pid may have a new owner by now.
alive() { local pid; pid=$(pid_of "$1"); [ -n "$pid" ] && grep -aq "$DIR/n$1/data" "/proc/$pid/cmdline" 2>/dev/null; }
client_address() { if netns; then echo "$NETWORK.$1:7400"; else echo "127.0.0.1:$(($(cat "$DIR/base") + 10 * $1))"; fi; }
peer_address() { if netns; then echo "$NETWORK.$1:7401"; else echo "127.0.0.1:$(($(cat "$DIR/base") + 10 * $1 + 1))"; fi; }
http_address() { if netns; then echo "$NETWORK.$1:7402"; else echo "127.0.0.1:$(($(cat "$DIR/base") + 10 * $1 + 2))"; fi; }
list() { local n out=; for n in $(nodes); do out+="${out:+,}$($1 "$n")"; done; echo "$out"; }
members() { local n out=; for n in $(nodes); do out+="${out:+,}$n=$(peer_address "$n")"; done; echo "$out"; }
inside() { # NODE CMD…: in the node's namespace; node 0 is the clients'
  local node=$1; shift
  if netns; then ip netns exec "$(namespace "$node")" "$@"; else "$@"; fi
}
become() { # the same, in the place of this shell, so that its pid is the program's
  local node=$1; shift
  if netns; then exec ip netns exec "$(namespace "$node")" "$@"; else exec "$@"; fi
}
start_node() {
  local n=$1
  alive "$n" && { say "node $n is running (pid $(pid_of "$n"))"; return 0; }
  read -r -a flags <<< "$(cat "$DIR/flags")"
  become "$n" "$BIN/beachd" --data-dir "$DIR/n$n/data" --node-id "$n" --cluster-id cluster-sh --initial-cluster "$(members)" \
    --listen "$(client_address "$n")" --peer-listen "$(peer_address "$n")" --http "$(http_address "$n")" \
    ${flags[@]+"${flags[@]}"} >> "$DIR/n$n/out" 2>> "$DIR/n$n/log" < /dev/null &
  echo $! > "$DIR/n$n/pid"
  disown $!
}
signal() { alive "$2" || { say "node $2 is not running"; return 1; }; kill "-$1" "$(pid_of "$2")"; }
wait_gone() {
  local _
  for _ in $(seq 300); do alive "$1" || { rm -f "$DIR/n$1/pid"; return 0; }; sleep 0.1; done
  say "node $1 (pid $(pid_of "$1")) is still there after 30 s"; return 1
}
ready() { inside 0 curl -sf --max-time 2 "http://$(http_address "$1")/readyz" > /dev/null 2>&1; }
wait_ready() {
  local _
  for _ in $(seq 300); do ready "$1" && return 0; alive "$1" || break; sleep 0.1; done
  say "node $1 is not ready; the end of $DIR/n$1/log:"; tail -5 "$DIR/n$1/log" >&2; return 1
}
switch() { # sends one command to the switch, prints the answer
  netns || { say "$1 needs namespaces: down, then NETNS=1 bash scripts/cluster.sh up (as root)"; exit 2; }
  python3 - "$DIR/switch.sock" "$*" <<'PY'
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(""); s.settimeout(5); s.connect(sys.argv[1]); s.send(sys.argv[2].encode())
answer = s.recv(4096).decode(); print(answer); sys.exit(answer.startswith("error"))
PY
}

case "${1:-}" in
  up)
    up_already && { say "a cluster is in $DIR already; \`down\` first, or \`start N\`"; exit 1; }
    [ -x "$BIN/beachd" ] && [ -x "$BIN/beachctl" ] || cargo build --release --workspace --bins
    mkdir -p "$DIR"; DIR=$(realpath "$DIR")
    count=${NODES:-3}
    echo "${BASE_PORT:-7400}" > "$DIR/base"; echo "${BEACHD_FLAGS:-}" > "$DIR/flags"; echo "$$" > "$DIR/tag"
    for n in $(seq 1 "$count"); do mkdir -p "$DIR/n$n"; done
    if [ -n "${NETNS:-}" ]; then
      [ "$(id -u)" = 0 ] || { say "NETNS=1 needs root"; exit 1; }
      echo netns > "$DIR/mode"; echo "$count" > "$DIR/nodes"
      spaces=(); for n in $(seq 1 "$count") 0; do ip netns add "$(namespace "$n")"; spaces+=("$(namespace "$n")"); done
      python3 scripts/netswitch.py "$DIR" "$NETWORK" "${spaces[@]}" > "$DIR/switch.out" 2>&1 < /dev/null &
      echo $! > "$DIR/switch.pid"; disown $!
      for _ in $(seq 100); do [ -S "$DIR/switch.sock" ] && break; sleep 0.1; done
      [ -S "$DIR/switch.sock" ] || { say "the switch did not start:"; cat "$DIR/switch.out" >&2; exit 1; }
    else
      echo loopback > "$DIR/mode"; echo "$count" > "$DIR/nodes"
    fi
    for n in $(nodes); do start_node "$n"; done
    sleep 0.2
    for n in $(nodes); do
      alive "$n" || { say "node $n did not start; the end of $DIR/n$n/log:"; tail -3 "$DIR/n$n/log" >&2; exit 1; }
    done
    for n in $(nodes); do wait_ready "$n"; done
    echo "up: endpoints $(list client_address)" ;;
  start) need_cluster; need_node "${2:-}"; DIR=$(realpath "$DIR"); start_node "$2"; sleep 0.2; wait_ready "$2" ;;
  stop) need_cluster; need_node "${2:-}"; DIR=$(realpath "$DIR"); signal TERM "$2"; wait_gone "$2" ;;
  kill) need_cluster; need_node "${2:-}"; DIR=$(realpath "$DIR"); signal KILL "$2"; wait_gone "$2" ;;
  pause) need_cluster; need_node "${2:-}"; DIR=$(realpath "$DIR"); signal STOP "$2" ;;
  resume) need_cluster; need_node "${2:-}"; DIR=$(realpath "$DIR"); signal CONT "$2" ;;
  status) need_cluster; DIR=$(realpath "$DIR"); inside 0 "$BIN/beachctl" --endpoints "$(list client_address)" status ;;
  ctl) need_cluster; DIR=$(realpath "$DIR"); shift; inside 0 "$BIN/beachctl" --endpoints "$(list client_address)" "$@" ;;
  run) need_cluster; DIR=$(realpath "$DIR"); shift; inside 0 "$@" ;;
  endpoints) need_cluster; DIR=$(realpath "$DIR"); list client_address ;;
  pid) need_cluster; need_node "${2:-}"; DIR=$(realpath "$DIR"); alive "$2" && pid_of "$2" ;;
  partition)
    need_cluster; DIR=$(realpath "$DIR"); shift
    IFS=' |' read -r -a groups <<< "$*"
    [ ${#groups[@]} -ge 2 ] || usage
    for a in "${groups[@]}"; do for b in "${groups[@]}"; do
      [ "$a" = "$b" ] && continue
      for from in ${a//,/ }; do for to in ${b//,/ }; do switch cut "$from" "$to" > /dev/null; done; done
    done; done
    switch show ;;
  oneway) need_cluster; DIR=$(realpath "$DIR"); [ $# = 3 ] || usage; switch cut "$2" "$3" ;;
  loss|delay|heal) need_cluster; DIR=$(realpath "$DIR"); switch "$@" ;;
  down)
    need_cluster; DIR=$(realpath "$DIR")
    for n in $(nodes); do alive "$n" && { kill -CONT "$(pid_of "$n")"; kill -TERM "$(pid_of "$n")"; }; done
    for n in $(nodes); do alive "$n" || continue; wait_gone "$n" || { kill -9 "$(pid_of "$n")"; wait_gone "$n"; }; done
    if netns; then
      switch stop > /dev/null || true
      for n in $(nodes) 0; do ip netns del "$(namespace "$n")" || true; done
    fi
    rm -f "$DIR/nodes" "$DIR/mode" "$DIR/tag" "$DIR/switch.pid"
    if [ "${2:-}" = --wipe ]; then rm -rf "$DIR"; fi ;;
  *) usage ;;
esac

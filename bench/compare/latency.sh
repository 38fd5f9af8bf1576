#!/usr/bin/env bash
# latency.sh [ROUNDS]: what a relay that sleeps when idle adds to an echo's way, against one that never sleeps (Poll = adaptive, busy).
#
#   alice (stock) ==tunnel== relay (wireplane) ==tunnel== bob (stock)       200 echoes a round, 5 ms apart, modes alternating
#
# Prints one JSON line a round and a table of medians over the rounds: latency, and the processor time that the relay took for it.
# Both modes on the same two cores as their peers: `busy` has one of them to itself, which is its point and its price.
set -euo pipefail
# shellcheck source=bench/compare/relay.sh
source "$(dirname "${BASH_SOURCE[0]}")/relay.sh"
rounds=${1:-5}

relay_ticks() { awk '{ print $14 + $15 }' "/proc/$(pgrep -n -x wireplane)/stat"; } # of its processor time, 10 ms each

round() { # NUMBER MODE
  relay_conf "Poll = $2" >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  echoes_pass
  local before after
  before=$(relay_ticks)
  at alice ping -n -i 0.005 -c 200 -W 1 10.77.0.3 >"$lab_dir/ping"
  times "$lab_dir/ping" >"$lab_dir/echoes"
  after=$(relay_ticks)
  printf '{"bench":"latency/relay/%s","round":%d,"echoes":%d,"median_ms":%s,"p99_ms":%s,"relay_cpu_s":%s}\n' "$2" "$1" \
    "$(wc -l <"$lab_dir/echoes")" "$(quantile 0.5 <"$lab_dir/echoes")" "$(quantile 0.99 <"$lab_dir/echoes")" \
    "$(awk -v t=$((after - before)) 'BEGIN { print t / 100 }')" | tee -a "$lab_dir/rows"
  halt relay
}

lab_of_two_ends "$@"
for ((i = 1; i <= rounds; i++)); do
  round "$i" adaptive
  round "$i" busy
done
printf '\n%-10s %12s %12s %14s\n' mode "median ms" "99 % ms" "relay CPU s"
for mode in adaptive busy; do
  of() { jq -r --arg m "latency/relay/$mode" "select(.bench == \$m) | .$1" "$lab_dir/rows" | quantile 0.5; }
  printf '%-10s %12s %12s %14s\n' "$mode" "$(of median_ms)" "$(of p99_ms)" "$(of relay_cpu_s)"
done

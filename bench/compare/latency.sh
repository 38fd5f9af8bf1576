#!/usr/bin/env bash
# latency.sh [ROUNDS]: what a relay that sleeps when idle adds to an echo's way, against one that never sleeps (Poll = adaptive, busy).
#
#   alice (stock) ==tunnel== relay (wireplane) ==tunnel== bob (stock)       200 echoes a round, 5 ms apart, modes alternating
#
# Prints one JSON line a round and a table of medians over the rounds: latency, and the processor time that the relay took for it.
# Both modes on the same two cores as their peers: `busy` has one of them to itself, which is its point and its price.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=deploy/common.sh
source "$root/deploy/common.sh"
# shellcheck source=deploy/lab.sh
source "$root/deploy/lab.sh"
rounds=${1:-5}

peer_conf() { # NAME ADDRESS ENDPOINT
  cat <<EOF
[Interface]
PrivateKey = $(private "$1")
Address = $2/24
[Peer]
PublicKey = $(public relay)
AllowedIPs = 10.77.0.0/24
Endpoint = $3:51820
PersistentKeepalive = 25
EOF
}
relay_conf() { # MODE
  cat <<EOF
[Interface]
PrivateKey = $(private relay)
ListenPort = 51820
Address = 10.77.0.1/24
[Engine]
Workers = 1
Forward = all
Poll = $1
[Peer]
PublicKey = $(public alice)
AllowedIPs = 10.77.0.2/32
[Peer]
PublicKey = $(public bob)
AllowedIPs = 10.77.0.3/32
EOF
}
relay_ticks() { awk '{ print $14 + $15 }' "/proc/$(pgrep -n -x wireplane)/stat"; } # of its processor time, 10 ms each
quantile() { sort -n | awk -v q="$1" '{ v[NR] = $1 } END { i = int(q * NR + 0.999999); print v[i < 1 ? 1 : i] }'; }

round() { # NUMBER MODE
  relay_conf "$2" >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  wait_for 20 at alice ping -q -n -c 1 -W 1 10.77.0.3 || die "no way through the relay"
  local before after
  before=$(relay_ticks)
  at alice ping -n -i 0.005 -c 200 -W 1 10.77.0.3 | sed -n 's/.*time=\([0-9.]*\) ms/\1/p' >"$lab_dir/echoes"
  after=$(relay_ticks)
  printf '{"bench":"latency/relay/%s","round":%d,"echoes":%d,"median_ms":%s,"p99_ms":%s,"relay_cpu_s":%s}\n' "$2" "$1" \
    "$(wc -l <"$lab_dir/echoes")" "$(quantile 0.5 <"$lab_dir/echoes")" "$(quantile 0.99 <"$lab_dir/echoes")" \
    "$(awk -v t=$((after - before)) 'BEGIN { print t / 100 }')" | tee -a "$lab_dir/rows"
  halt relay
}

[[ -n ${WIREPLANE_LAB:-} ]] || build release wireplane
lab_enter "$@"
host alice relay bob
wire relay 192.0.2.1/24 alice 192.0.2.2/24
wire relay 198.51.100.1/24 bob 198.51.100.2/24
peer_conf alice 10.77.0.2 192.0.2.1 >"$lab_dir/alice.conf"
peer_conf bob 10.77.0.3 198.51.100.1 >"$lab_dir/bob.conf"
peer_up alice "$lab_dir/alice.conf"
peer_up bob "$lab_dir/bob.conf"
for ((i = 1; i <= rounds; i++)); do
  round "$i" adaptive
  round "$i" busy
done
printf '\n%-10s %12s %12s %14s\n' mode "median ms" "99 % ms" "relay CPU s"
for mode in adaptive busy; do
  of() { jq -r --arg m "latency/relay/$mode" "select(.bench == \$m) | .$1" "$lab_dir/rows" | quantile 0.5; }
  printf '%-10s %12s %12s %14s\n' "$mode" "$(of median_ms)" "$(of p99_ms)" "$(of relay_cpu_s)"
done

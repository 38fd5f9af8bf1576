#!/usr/bin/env bash
# sudo deploy/run.sh          on a bare Debian 12: installs, builds, shows wireplane at its main job, cleans up
# sudo deploy/run.sh FILE     runs the daemon on a configuration (see deploy/README.md)
#
#   alice, stock WireGuard          relay, wireplane as a hub             bob, stock WireGuard
#     10.77.0.2 fd77::2  ===tunnel===  10.77.0.1 fd77::1  ===tunnel===  10.77.0.3 fd77::3
#     192.0.2.2   ------veth------  192.0.2.1 | 198.51.100.1  ------veth------  198.51.100.2
#
# alice and bob know the relay's key only; each packet between them is decrypted, routed by allowed IPs and encrypted
# again there. All three are network namespaces inside a sandbox of this script's own (lab.sh).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/common.sh
source "$here/common.sh"
# shellcheck source=deploy/lab.sh
source "$here/lab.sh"

seconds=${WIREPLANE_DEMO_SECONDS:-4} # of traffic a measurement

prepare() {
  "$here/install.sh" build run
  is_wireplane || return 0
  [[ -x $repo/build/release/wireplane ]] || say "building wireplane (release); the first time takes a few minutes"
  build release wireplane
}

write_configs() {
  cat >"$lab_dir/alice.conf" <<EOF
[Interface]
PrivateKey = $(private alice)
Address = 10.77.0.2/24, fd77::2/64
[Peer]
PublicKey = $(public relay)
AllowedIPs = 10.77.0.0/24, fd77::/64
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25
EOF
  sed -e "s|^PrivateKey.*|PrivateKey = $(private bob)|" -e 's|77\.0\.2/24|77.0.3/24|' -e 's|fd77::2/|fd77::3/|' \
    -e 's|192\.0\.2\.1:|198.51.100.1:|' "$lab_dir/alice.conf" >"$lab_dir/bob.conf"
  cat >"$lab_dir/relay.conf" <<EOF
[Interface]
PrivateKey = $(private relay)
ListenPort = 51820
Address = 10.77.0.1/24, fd77::1/64
[Engine]
Workers = 1
Forward = all
[Peer]
PublicKey = $(public alice)
AllowedIPs = 10.77.0.2/32, fd77::2/128
[Peer]
PublicKey = $(public bob)
AllowedIPs = 10.77.0.3/32, fd77::3/128
EOF
}

build_world() {
  host alice relay bob
  wire relay 192.0.2.1/24 alice 192.0.2.2/24
  wire relay 198.51.100.1/24 bob 198.51.100.2/24
  write_configs
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
}

# latency LABEL ADDRESS: "min avg max ms" of 200 echoes, and the loss
latency() {
  local out
  out=$(at alice ping -q -n -i 0.005 -c 200 -W 1 "$1" 2>&1) || :
  sed -nE 's/.*received, ([0-9.]+)% packet loss.*/\1/p; s#^rtt min/avg/max/mdev = ([0-9.]+)/([0-9.]+)/([0-9.]+)/.*#\1 \2 \3#p' <<<"$out" | tr '\n' ' '
}

iperf() { at alice iperf3 -J -c 10.77.0.3 -t "$seconds" "$@" >"$lab_dir/iperf.json" 2>"$lab_logs/iperf.err"; }

measure() {
  local loss min avg max rest
  spawn iperf bob iperf3 -s
  wait_for 5 listens bob 5201 || die "iperf3's server did not start"
  rows=()

  progress "[2/5] latency, IPv4, 200 echoes"
  read -r loss min avg max rest <<<"$(latency 10.77.0.3)"
  rows+=("latency IPv4|$min / $avg / $max ms (min/avg/max)|$loss %")
  progress "[2/5] latency, IPv6, 200 echoes"
  read -r loss min avg max rest <<<"$(latency fd77::3)"
  rows+=("latency IPv6|$min / $avg / $max ms (min/avg/max)|$loss %")

  progress "[3/5] TCP alice -> bob, $seconds s"
  iperf || die "iperf3 over TCP failed: $(tail -n 3 "$lab_dir/iperf.json")"
  rows+=("TCP, 1 stream|$(jq -r '.end.sum_received.bits_per_second / 1e6 | floor' "$lab_dir/iperf.json") Mbit/s|$(jq -r '.end.sum_sent.retransmits' "$lab_dir/iperf.json") retransmits")
  progress "[3/5] TCP bob -> alice, $seconds s"
  iperf -R || die "iperf3 over TCP failed: $(tail -n 3 "$lab_dir/iperf.json")"
  rows+=("TCP, 1 stream back|$(jq -r '.end.sum_received.bits_per_second / 1e6 | floor' "$lab_dir/iperf.json") Mbit/s|$(jq -r '.end.sum_sent.retransmits' "$lab_dir/iperf.json") retransmits")
  progress "[4/5] UDP 100 Mbit/s of 1340 B, $seconds s"
  iperf -u -b 100M -l 1340 || die "iperf3 over UDP failed: $(tail -n 3 "$lab_dir/iperf.json")"
  rows+=("UDP, 100 Mbit/s offered|$(jq -r '.end.sum | .bits_per_second * (1 - .lost_percent / 100) / 1e6 | floor' "$lab_dir/iperf.json") Mbit/s|$(jq -r '.end.sum.lost_percent * 100 | round / 100' "$lab_dir/iperf.json") %")
  halt iperf
}

overflows() { # datagrams that HOST's own sockets refused: a peer that gets too little of these two cores
  at "$1" nstat -asz UdpRcvbufErrors Udp6RcvbufErrors 2>/dev/null | awk '/RcvbufErrors/ { n += $2 } END { print n + 0 }'
}

engine_facts() { # what the relay itself can tell
  is_wireplane || return 0
  at relay "$repo/build/release/wireplane" show relay --json >"$lab_dir/show.json" 2>/dev/null || {
    warn "wireplane show relay --json failed"
    return 0
  }
  jq -r '.engine |
    "AEAD kernel      \(.aead)",
    "ports            \([.ports[] | "\(.side) \(.name)"] | unique | join(", "))",
    "workers          \([.workers[] | "\(.received_packets) packets in, \(.sent_packets) out"] | join("; "))",
    "drops            \([.drops | to_entries[] | select(.value > 0) | "\(.key) \(.value)"] | if length == 0 then "none" else join(", ") end)"' \
    "$lab_dir/show.json" || warn "wireplane show relay --json has another shape than expected"
}

demonstrate() {
  progress "[1/5] three namespaces; stock peers: $(stock_wireguard)"
  build_world
  wait_for 15 at alice ping -q -n -c 1 -W 1 10.77.0.3 || {
    at relay wg show relay >&2 || :
    tail -n 20 "$lab_logs"/*.log >&2
    die "alice cannot reach bob through the relay"
  }
  measure
  progress "[5/5] the relay's own account"
  progress_done
  say
  printf '%-26s %-40s %s\n' "alice -> relay -> bob" "result" "loss"
  local row a b c
  for row in "${rows[@]}"; do
    IFS='|' read -r a b c <<<"$row"
    printf '%-26s %-40s %s\n' "$a" "$b" "$c"
  done
  say
  say "lost in sockets  relay $(overflows relay), alice $(overflows alice), bob $(overflows bob) datagrams (the rest of a loss is TCP's own probing)"
  engine_facts
}

next_steps() {
  cat <<'EOF'

Next:
  deploy/run.sh FILE            run the daemon on your own configuration (wg-quick's format; deploy/README.md)
  wg show, wireplane show       what it is doing, while it runs
  deploy/prepare_host.sh        hugepages, socket buffers and locked memory for a real host
  build/release/wireplane-bench what this machine can do (cmake --build --preset release builds it)
  deploy/test.sh                everything this repository claims, tested
EOF
}

if [[ -z ${WIREPLANE_LAB:-} ]]; then
  prepare
  if (($#)); then
    [[ -r $1 ]] || die "cannot read the configuration file $1"
    exec "$repo/build/release/wireplane" run "$@"
  fi
fi
lab_enter "$@"
demonstrate
next_steps

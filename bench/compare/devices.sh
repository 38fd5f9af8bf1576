#!/usr/bin/env bash
# devices.sh [SECONDS]: what a relay takes in over each kind of device, end to end, with its peer on the other core.
#
#   peer: a capture replayed as inner packets -> sealed -> device ====== device -> opened, accepted: relay
#   core 0, one worker                                                   core 1, one worker
#
# Both ends are wireplane: a stock peer would be the limit everywhere. A row's rate is of packets that the relay opened and accepted
# (it then drops them, having no host: "no_inner_port"), by the relay's own counters over SECONDS (3). Sizes are inner packets'.
# `limit`: what the counters say: "peer" (all that it sealed arrived), "device or relay" (the peer had to drop at its device).
# `relay ns`: the relay's processor time a packet, system calls included, which a busy machine does not change much; `cores`, `peer`:
# how much of a core the relay and its peer had.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=deploy/common.sh
source "$root/deploy/common.sh"
# shellcheck source=deploy/lab.sh
source "$root/deploy/lab.sh"
seconds=${1:-3}

capture() { # SIZE FILE: 256 inner packets of SIZE, to the pcap driver's own MAC address
  python3 - "$1" "$2" <<'PY'
import struct, sys
size = int(sys.argv[1])
def checksum(data):
    total = sum(struct.unpack(f"!{len(data)//2}H", data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
with open(sys.argv[2], "wb") as out:
    out.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
    for i in range(256):
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, i, 0, 64, 17, 0, bytes([10, 77, 0, 5]), bytes([10, 77, 0, 1]))
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        frame = bytes.fromhex("027063617000") + bytes.fromhex("020000000002") + b"\x08\x00" + ip
        frame += struct.pack("!4H", 1000 + i, 9, size - 20, 0) + bytes(size - 28)
        out.write(struct.pack("<4I", 0, 0, len(frame), len(frame)) + frame)
PY
}

conf() { # NAME OTHER NUMBER OTHER-NUMBER LISTEN ENDPOINT ENGINE-LINES...
  cat <<CONF
[Interface]
PrivateKey = $(private "$1")
ListenPort = $5
Address = 10.77.0.$3/24
[Engine]
Workers = 1
$(printf '%s\n' "${@:7}")
[Peer]
PublicKey = $(public "$2")
AllowedIPs = 10.77.0.$4/32
${6:+Endpoint = $6}
CONF
}
on_core() { # CORE NAME: the device NAME, all its threads on one core
  spawn "$2" "$2" taskset -c "$1" "$WIREPLANE_RELAY" run "$lab_dir/$2.conf" --name "$2"
  wait_for 15 answers "$2" || { tail -n 5 "$lab_logs/$2.log" && die "wireplane on $2 did not start"; }
}
taken_in() { at relay "$WIREPLANE_RELAY" show relay --json | jq -r '.engine.drops.no_inner_port'; }
left_over() { at peer "$WIREPLANE_RELAY" show peer --json | jq -r '.engine.drops.outer_send'; }
spent_ns() { awk '{ n += $1 } END { printf "%.0f\n", n }' /proc/"${lab_pids[$1]}"/task/*/schedstat; } # of processor time
some_taken_in() { (($(taken_in) > 100)); }

measure() { # KIND SIZE RELAY'S-DEVICE PEER'S-DEVICE
  rm -f "$lab_dir"/*.sock
  capture "$2" "$lab_dir/in.pcap"
  conf relay peer 1 5 51820 "" "Inner = none" "Outer = $3" "OuterAddress = 192.0.2.1/24" >"$lab_dir/relay.conf"
  conf peer relay 5 1 51821 192.0.2.1:51820 "Inner = net_pcap0,rx_pcap=$lab_dir/in.pcap,infinite_rx=1" "Outer = $4" \
    "OuterAddress = 192.0.2.5/24" >"$lab_dir/peer.conf"
  on_core 1 relay
  on_core 0 peer
  wait_for 15 some_taken_in || die "$1: nothing arrives"
  local before after over since until relay_ns peer_ns
  before=$(taken_in) over=$(left_over) since=$(now_ms) relay_ns=$(spent_ns relay) peer_ns=$(spent_ns peer)
  sleep "$seconds"
  after=$(taken_in) over=$(($(left_over) - over)) until=$(now_ms)
  relay_ns=$(($(spent_ns relay) - relay_ns)) peer_ns=$(($(spent_ns peer) - peer_ns))
  halt peer && halt relay
  awk -v kind="$1" -v size="$2" -v n=$((after - before)) -v ms=$((until - since)) -v over="$over" -v relay="$relay_ns" -v peer="$peer_ns" 'BEGIN {
    pps = n / ms * 1000
    printf "{\"bench\":\"devices/%s/%d\",\"Mpps\":%.3f,\"Gbit/s\":%.2f,\"relay_ns\":%.0f,\"relay_cpu\":%.2f,\"peer_cpu\":%.2f,\"limit\":\"%s\"}\n",
      kind, size, pps / 1e6, pps * size * 8 / 1e9, relay / n, relay / ms / 1e6, peer / ms / 1e6,
      (over > n / 100 ? "device or relay" : "peer") }' | tee -a "$lab_dir/rows"
}

lab_enter "$@"
host relay peer
wire relay 192.0.2.1/24 peer 192.0.2.5/24
for name in relay peer; do at "$name" ethtool -K "to-$([[ $name == relay ]] && echo peer || echo relay)" tx off tso off gso off gro off >/dev/null 2>&1 || :; done
memif="net_memif0,id=0,socket=$lab_dir/memif.sock,socket-abstract=no"
ring="blocksz=1048576,framesz=2048,framecnt=4096"
for size in 64 1420; do
  measure memif "$size" "$memif,role=server" "$memif,role=client"
  measure virtio-user/vhost "$size" "net_vhost0,iface=$lab_dir/vhost.sock" "virtio_user0,path=$lab_dir/vhost.sock"
  measure af_xdp/veth "$size" net_af_xdp0,iface=to-peer net_af_xdp0,iface=to-relay
  measure af_packet/veth "$size" "net_af_packet0,iface=to-peer,$ring" "net_af_packet0,iface=to-relay,$ring"
done
say ""
jq -rs '.[] | [.bench, .Mpps, ."Gbit/s", .relay_ns, .relay_cpu, .peer_cpu, .limit] | @tsv' "$lab_dir/rows" |
  awk -F '\t' 'BEGIN { printf "%-30s %7s %7s %9s %6s %6s  %s\n", "", "Mpps", "Gbit/s", "relay ns", "cores", "peer", "limit" }
    { printf "%-30s %7.3f %7.2f %9d %6.2f %6.2f  %s\n", $1, $2, $3, $4, $5, $6, $7 }'

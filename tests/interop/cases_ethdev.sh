# shellcheck shell=bash
# Device ports, the rest of them: several kernel queues, virtual machines' devices, replay, and a link that goes and
# comes. One switched link where several stations share it.
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh

# switched QUEUES: alice, bob and the relay on one link; the relay's interface `lan` has QUEUES queues. With two, what
# processor 0 sends comes in queue 0, and the rest in queue 1: alice sends on the one, bob on the other.
switched() {
  local queues=$1 name number=1
  host alice bob relay switch
  at switch ip link add name lan type bridge
  for name in relay alice bob; do
    ip link add lan netns "$name" numtxqueues "$queues" numrxqueues "$queues" type veth \
      peer name "to-$name" netns switch numtxqueues "$queues" numrxqueues "$queues"
    at switch ip link set "to-$name" master lan up
    at "$name" ip address add "192.0.2.$number/24" dev lan
    at "$name" ip -6 address add "2001:db8::$number/64" dev lan nodad
    at "$name" ip link set lan up
    at "$name" ethtool -K lan tx off tso off gso off gro off >/dev/null 2>&1 || :
    number=$((number + 1))
  done
  at switch ip link set lan up
  ((queues > 1)) || return 0
  at switch sh -c 'echo 1 >/sys/class/net/to-relay/queues/tx-0/xps_cpus; echo 2 >/sys/class/net/to-relay/queues/tx-1/xps_cpus'
}

engine_of() { printf '[Engine]\n' && printf '%s\n' "Workers = $1" "${@:2}"; } # WORKERS LINES...

# switched_hub [WORKERS] ENGINE-LINES...: the configurations of a hub on that link.
switched_hub() {
  local workers=1
  [[ $1 == [0-9]* ]] && workers=$1 && shift
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  { interface bob 3 && peer relay "$everyone" 192.0.2.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/bob.conf"
  {
    interface relay 1 51820
    engine_of "$workers" "Inner = none" "Forward = all" "$@"
    peer alice "10.77.0.2/32, fd77::2/128"
    peer bob "10.77.0.3/32, fd77::3/128"
  } >"$lab_dir/relay.conf"
}
switched_up() {
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
  [[ -z ${lab_pids[alice]:-} ]] || taskset -acp 0 "${lab_pids[alice]}" >/dev/null
  [[ -z ${lab_pids[bob]:-} ]] || taskset -acp 1 "${lab_pids[bob]}" >/dev/null
}
worker_counts() { at relay "$WIREPLANE_RELAY" show relay --json | jq -c '[.engine.workers[] | .received_packets]'; }

# af_xdp, two kernel queues, one worker that serves both: nothing is lost, and the host keeps its own traffic on the link.
limit[ethdev_af_xdp]=120
case_ethdev_af_xdp() {
  needs_ethdev
  switched 2
  switched_hub "Outer = net_af_xdp0,iface=lan"
  switched_up
  check "alice reaches bob through two XDP queues" wait_for 20 echo_from alice 10.77.0.3
  check "300 echoes without loss" no_loss alice 10.77.0.3 300 0.002
  both_ways alice 2 bob 3
  check "20 MB from bob to alice" transfer bob 10.77.0.3 alice
  check "the host's own packets still pass" no_loss alice 192.0.2.1 20 0.02
  check "over IPv6, too" no_loss alice 2001:db8::1 20 0.02
  figure "drops: $(drops_of relay)"
}

# af_xdp with a worker a queue: each receives its own queue's peer.
limit[ethdev_af_xdp_workers]=120
case_ethdev_af_xdp_workers() {
  needs_ethdev
  switched 2
  switched_hub 2 "Outer = net_af_xdp0,iface=lan"
  switched_up
  check "alice reaches bob" wait_for 20 echo_from alice 10.77.0.3
  check "300 echoes without loss" no_loss alice 10.77.0.3 300 0.002
  both_ways alice 2 bob 3
  say "received by worker: $(worker_counts)"
  check "both workers received" at relay sh -c "$WIREPLANE_RELAY show relay --json | jq -e '[.engine.workers[].received_packets] | min > 100' >/dev/null"
}

# One kernel queue, two workers: the second has none and sends through the first.
limit[ethdev_fewer_queues]=120
case_ethdev_fewer_queues() {
  needs_ethdev
  alice_and_relay
  { interface alice 2 51821 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  {
    interface relay 1 51820 # a TUN inside: its packets come to both workers
    engine_of 2 "Outer = net_af_xdp0,iface=to-alice"
    peer alice "10.77.0.2/32, fd77::2/128"
  } >"$lab_dir/relay.conf"
  no_offloads
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  check "first echo" wait_for 15 echo_from alice 10.77.0.1
  both_ways alice 2 relay 1
  check "20 MB from relay to alice" transfer relay 10.77.0.1 alice
  check "it says so" grep -q "1 queues for 2 workers" "$lab_logs/relay.log"
}
drops_of() { at "$1" "$WIREPLANE_RELAY" show "$1" --json | jq -c '.engine.drops | with_entries(select(.value > 0))'; }

# ---- devices of virtual machines and of this machine's kernel

# processor time that a process has used, in ticks of 10 ms
ticks_of() { awk '{ print $14 + $15 }' "/proc/${lab_pids[$1]}/stat"; }
idle_ticks() { # NAME SECONDS
  local before
  before=$(ticks_of "$1")
  sleep "$2"
  say $(($(ticks_of "$1") - before))
}

# virtio-user in one process, vhost in another, as outer devices; idle, both sleep until an interrupt.
limit[ethdev_vhost]=120
case_ethdev_vhost() {
  needs_ethdev
  host relay far
  {
    interface relay 1 51820
    engine "Outer = net_vhost0,iface=$lab_dir/vhost.sock" "OuterAddress = 192.0.2.1/24, 2001:db8::1/64"
    peer far "10.77.0.5/32, fd77::5/128"
  } >"$lab_dir/relay.conf"
  {
    interface far 5 51820
    engine "Outer = virtio_user0,path=$lab_dir/vhost.sock" "OuterAddress = 192.0.2.5/24, 2001:db8::5/64"
    peer relay "$everyone" 192.0.2.1:51820
  } >"$lab_dir/far.conf"
  relay_up relay "$lab_dir/relay.conf"
  relay_up far "$lab_dir/far.conf"
  check "first echo" wait_for 20 echo_from far 10.77.0.1
  check "500 echoes, none lost" no_loss far 10.77.0.1 500 0.002
  both_ways far 5 relay 1
  check "20 MB over TCP" transfer relay 10.77.0.1 far
  local asleep other
  asleep=$(idle_ticks far 2) other=$(idle_ticks relay 2)
  figure "idle for 2 s: virtio-user $asleep ticks of 10 ms, vhost $other"
  check "idle, they sleep" [ $((asleep + other)) -le 20 ] # of 400
  check "at once awake again" no_loss far 10.77.0.1 50 0.01
  check "and for the other side" no_loss relay 10.77.0.5 50 0.01
}

# The same as inner devices: alice and bob have a hub each, and the hubs hand each other plain IP packets.
limit[ethdev_vhost_inner]=120
case_ethdev_vhost_inner() {
  needs_ethdev
  host alice bob relay far
  wire relay 192.0.2.1/24 alice 192.0.2.2/24
  wire far 198.51.100.1/24 bob 198.51.100.2/24
  { interface alice 2 && peer relay "$everyone, 10.78.0.0/24, fd78::/64" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  { interface bob 3 && peer far "$everyone, 10.78.0.0/24, fd78::/64" 198.51.100.1:51820; } |
    sed 's/10.77.0.3/10.78.0.3/; s/fd77::3/fd78::3/' >"$lab_dir/bob.conf"
  say "PersistentKeepalive = 1" | tee -a "$lab_dir/alice.conf" "$lab_dir/bob.conf" >/dev/null
  local name other near_peer
  for name in relay far; do
    other=far near_peer=alice
    {
      if [[ $name == relay ]]; then
        interface relay 1 51820 | sed 's/^Address.*/Address = 10.99.0.1\/24, fd99::1\/64/'
        engine "Inner = net_vhost0,iface=$lab_dir/vhost.sock" "InnerGateway = 10.99.0.2, fd99::2"
        peer alice "10.77.0.2/32, fd77::2/128"
      else
        interface far 1 51820 | sed 's/^Address.*/Address = 10.99.0.2\/24, fd99::2\/64/'
        engine "Inner = virtio_user0,path=$lab_dir/vhost.sock" "InnerGateway = 10.99.0.1, fd99::1"
        peer bob "10.78.0.3/32, fd78::3/128"
      fi
    } >"$lab_dir/$name.conf"
    relay_up "$name" "$lab_dir/$name.conf"
  done
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
  check "alice reaches bob through two hubs" wait_for 20 echo_from alice 10.78.0.3
  check "300 echoes, none lost" no_loss alice 10.78.0.3 300 0.002
  check "full size" no_loss alice 10.78.0.3 20 0.01 -s 1372
  check "over IPv6" no_loss alice fd78::3 20 0.01 -s 1352
  check "20 MB over TCP" transfer bob 10.78.0.3 alice
}

# DPDK's own tap as inner device: the host's kernel is a station on a link with us.
limit[ethdev_tap]=120
case_ethdev_tap() {
  needs_ethdev
  alice_and_relay
  { interface alice 2 && peer relay "$everyone, 10.99.0.0/24, fd99::/64" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  {
    interface relay 1 51820 | sed 's/^Address.*/Address = 10.99.0.1\/24, fd99::1\/64/'
    engine "Inner = net_tap0,iface=wptap" "InnerGateway = 10.99.0.2, fd99::2"
    peer alice "10.77.0.2/32, fd77::2/128"
  } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  at relay ip address add 10.99.0.2/24 dev wptap
  at relay ip address add fd99::2/64 dev wptap nodad
  at relay ip link set wptap up
  at relay ip route add 10.77.0.0/24 via 10.99.0.1
  at relay ip -6 route add fd77::/64 via fd99::1
  peer_up alice "$lab_dir/alice.conf"
  check "alice reaches the host behind the tap" wait_for 20 echo_from alice 10.99.0.2
  check "200 echoes, none lost" no_loss alice 10.99.0.2 200 0.005
  check "full size" no_loss alice 10.99.0.2 20 0.01 -s 1372
  check "over IPv6" no_loss alice fd99::2 20 0.01 -s 1352
  check "the host reaches alice" no_loss relay 10.77.0.2 20 0.01
  check "20 MB over TCP" transfer relay 10.99.0.2 alice
}

# A capture replayed as fast as it goes: junk, damaged frames and packets that look like WireGuard. Each is counted.
limit[ethdev_pcap]=30
case_ethdev_pcap() {
  needs_ethdev
  host relay alice
  {
    interface relay 1 51820
    engine "Outer = net_pcap0,rx_pcap=$lab_dir/in.pcap,infinite_rx=1" "OuterAddress = 192.0.2.1/24" "Inner = none"
    peer alice "10.77.0.2/32"
  } >"$lab_dir/relay.conf"
  python3 - "$lab_dir/in.pcap" <<'PY'
import random, struct, sys
random.seed(1)
def checksum(data):
    total = sum(struct.unpack(f"!{len(data)//2}H", data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def frame(payload, port=51820, mac=bytes.fromhex("ffffffffffff")):
    udp = struct.pack("!4H", 1000, port, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes([198, 51, 100, 7]), bytes([192, 0, 2, 1]))
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return mac + bytes.fromhex("020000000002") + b"\x08\x00" + ip + udp
mac = bytes.fromhex(sys.argv[2]) if len(sys.argv) > 2 else bytes(6)
frames = []
for i in range(256):
    kind = i % 8
    junk = random.randbytes(random.randrange(1, 200))
    data = struct.pack("<IIQ", 4, random.getrandbits(32), i) + random.randbytes(16 * random.randrange(1, 80))
    frames.append({0: frame(junk), 1: frame(data), 2: frame(b"\1\0\0\0" + random.randbytes(144)),
                   3: frame(b"\2\0\0\0" + random.randbytes(88)), 4: random.randbytes(60), 5: frame(data, 1),
                   6: frame(data)[:40], 7: frame(b"")}[kind])
# The device's own MAC address is 02:70:63:61:70:00: DPDK's pcap driver gives its first port that.
own = bytes.fromhex("027063617000")
with open(sys.argv[1], "wb") as out:
    out.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
    for f in frames:
        f = own + f[6:]
        out.write(struct.pack("<4I", 0, 0, len(f), len(f)) + f)
PY
  relay_up relay "$lab_dir/relay.conf"
  grep -o "ethdev net_pcap.*" "$lab_logs/relay.log"
  sleep 1
  say "drops: $(drops_of relay)"
  local reason
  for reason in unknown_type unknown_index bad_mac1 outer_not_ours outer_malformed bad_length; do
    check "$reason is counted" [ "$(drop_count "$reason")" -gt 1000 ]
  done
  halt relay
  check "nothing is unaccounted for" not grep -q packets_unaccounted "$lab_logs/relay.log"
}

# ---- links

# Outer frames with an 802.1Q tag, of two relays on a veth; what has no tag or another one is not ours. One is af_packet,
# the other af_xdp.
limit[ethdev_vlan]=120
case_ethdev_vlan() {
  needs_ethdev
  host relay far
  wire relay 203.0.113.1/24 far 203.0.113.5/24
  local name
  for name in relay far; do # a tag that the kernel keeps beside the frame would not reach an XDP program
    at "$name" ethtool -K "to-$([[ $name == relay ]] && echo far || echo relay)" txvlan off rxvlan off tx off tso off gso off gro off >/dev/null 2>&1 || :
  done
  {
    interface relay 1 51820
    engine "Outer = net_af_packet0,iface=to-far" "OuterAddress = 192.0.2.1/24, 2001:db8::1/64" "OuterVlan = 100"
    peer far "10.77.0.5/32, fd77::5/128"
  } >"$lab_dir/relay.conf"
  {
    interface far 5 51820
    engine "Outer = net_af_xdp0,iface=to-relay" "OuterAddress = 192.0.2.5/24, 2001:db8::5/64" "OuterVlan = 100"
    peer relay "$everyone" 192.0.2.1:51820
  } >"$lab_dir/far.conf"
  spawn tcpdump relay tcpdump -lenni to-far
  relay_up relay "$lab_dir/relay.conf"
  relay_up far "$lab_dir/far.conf"
  check "first echo" wait_for 20 echo_from far 10.77.0.1
  check "200 echoes, none lost" no_loss far 10.77.0.1 200 0.005
  both_ways far 5 relay 1
  check "all in VLAN 100" grep -q "vlan 100.*192.0.2.5.51820 > 192.0.2.1.51820" "$lab_logs/tcpdump.log"
  check "and nothing of it outside" not grep -E "ethertype IPv4.*192.0.2.5" <(grep -v "vlan 100" "$lab_logs/tcpdump.log")
  check "the kernel's own packets, untagged, still pass" no_loss far 203.0.113.1 10 0.02
  check "untagged is not ours" [ "$(drop_count outer_not_ours)" -gt 0 ]
}

# Jumbo frames: the link carries 9000, the tunnel 8900.
limit[ethdev_jumbo]=120
case_ethdev_jumbo() {
  needs_ethdev
  host relay far
  local device="net_memif0,id=0,socket=$lab_dir/memif.sock,socket-abstract=no"
  {
    interface relay 1 51820
    say "MTU = 8900"
    engine "Outer = $device,role=server" "OuterAddress = 192.0.2.1/24, 2001:db8::1/64" "OuterMtu = 9000"
    peer far "10.77.0.5/32, fd77::5/128"
  } >"$lab_dir/relay.conf"
  {
    interface far 5 51820
    say "MTU = 8900"
    engine "Outer = $device,role=client" "OuterAddress = 192.0.2.5/24, 2001:db8::5/64" "OuterMtu = 9000"
    peer relay "$everyone" 192.0.2.1:51820
  } >"$lab_dir/far.conf"
  relay_up relay "$lab_dir/relay.conf"
  relay_up far "$lab_dir/far.conf"
  check "first echo" wait_for 20 echo_from far 10.77.0.1
  local size
  for size in 56 1400 2100 8000 8872; do
    check "echo of $size B in one piece" no_loss far 10.77.0.1 10 0.01 -M "do" -s "$size"
  done
  check "20 MB over TCP" transfer relay 10.77.0.1 far
}


moves_to_v6() { # a late answer over IPv4 may call her back
  at alice wg set alice peer "$(public relay)" endpoint "[2001:db8:1::1]:51820"
  echo_from alice 10.77.0.1 && echo_from alice 10.77.0.1 && [[ $(endpoint_of alice relay) == \[* ]]
}

# Outer datagrams in pieces, of both families, through an XDP filter: put together again.
limit[ethdev_fragments]=120
case_ethdev_fragments() {
  needs_ethdev
  alice_and_relay
  { interface alice 2 51821 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  {
    interface relay 1 51820
    engine "Outer = net_af_xdp0,iface=to-alice"
    peer alice "10.77.0.2/32, fd77::2/128"
  } >"$lab_dir/relay.conf"
  no_offloads
  at alice ip route replace 192.0.2.0/24 dev to-relay src 192.0.2.2 mtu 600
  at alice ip -6 route replace 2001:db8:1::/64 dev to-relay proto kernel metric 256 mtu 1280
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  check "first echo" wait_for 15 echo_from alice 10.77.0.1
  check "datagrams in three pieces, IPv4" no_loss alice 10.77.0.1 100 0.01 -s 1372
  check "they were pieces" [ "$(at alice nstat -asz IpFragCreates | awk '/Frag/ { print $2 }')" -ge 300 ]
  check "alice moves to IPv6" wait_for 10 moves_to_v6
  check "datagrams in two pieces, IPv6" no_loss alice 10.77.0.1 100 0.01 -s 1372
  check "they were pieces" [ "$(at alice nstat -asz Ip6FragCreates | awk '/Frag/ { print $2 }')" -ge 150 ]
  check "none was refused" [ "$(drop_count outer_fragment)" == 0 ]
}

# A link goes down and comes back, and goes altogether and comes back as another, while packets flow. What runs goes on;
# what is lost is counted and told; traffic returns. $1: the device
link_comes_and_goes() {
  needs_ethdev
  switched 1
  local mac
  mac=$(at relay cat /sys/class/net/lan/address)
  switched_hub "Outer = $1,iface=lan"
  switched_up
  check "alice reaches bob" wait_for 20 echo_from alice 10.77.0.3
  spawn flow alice ping -q -n -i 0.005 10.77.0.3
  at relay ip link set lan down
  sleep 0.5
  check "it lives while the link is down" answers relay
  at relay ip link set lan up
  at relay ip -6 address replace 2001:db8::1/64 dev lan nodad # which the kernel took away
  check "traffic returns when the link is up" wait_for 10 echo_from alice 10.77.0.3
  check "and nothing is lost then" no_loss bob 10.77.0.2 50 0.01 # bob's own replies, beside the flow
  local round used=()
  for round in 1 2; do
    at relay ip link del lan
    sleep 0.3
    check "it lives while there is no link" answers relay
    ip link add lan netns relay address "$mac" type veth peer name to-relay netns switch
    at switch ip link set to-relay master lan up
    at relay ip address add 192.0.2.1/24 dev lan
    at relay ip -6 address add 2001:db8::1/64 dev lan nodad
    at relay ethtool -K lan tx off tso off gso off gro off >/dev/null 2>&1 || :
    at relay ip link set lan up
    check "traffic returns over another link of that name, $round" wait_for 15 echo_from alice 10.77.0.3
    used+=("$(at relay "$WIREPLANE_RELAY" show relay --json | jq '.engine.tables[] | select(.name == "buffers").used')")
  done
  say "buffers in use: ${used[*]}"
  check "no buffers are lost with a link" [ "${used[1]}" -lt $((used[0] + 600)) ] # a receive ring has 2048
  check "and nothing is lost then" no_loss bob 10.77.0.2 100 0.01
  halt flow KILL
  check "also at full size" no_loss bob 10.77.0.2 20 0.01 -s 1372
  check "it told that the link went" grep -q "interface lan is gone" "$lab_logs/relay.log"
  check "and that it came back" grep -q "interface lan is there again, and in use" "$lab_logs/relay.log"
  say "drops: $(drops_of relay)"
  check "what could not be sent is counted" [ $(($(drop_count outer_send) + $(drop_count outer_unreachable))) -gt 0 ]
  halt relay
  check "nothing is unaccounted for" not grep -q packets_unaccounted "$lab_logs/relay.log"
}
limit[ethdev_af_packet_unplugged]=120
# The link of an af_packet device goes and comes while packets flow.
case_ethdev_af_packet_unplugged() { link_comes_and_goes net_af_packet0; }
limit[ethdev_af_xdp_unplugged]=120
# The same for af_xdp.
case_ethdev_af_xdp_unplugged() { link_comes_and_goes net_af_xdp0; }

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
limit[ethdev_af_xdp]=60
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
limit[ethdev_af_xdp_workers]=60
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
limit[ethdev_fewer_queues]=60
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

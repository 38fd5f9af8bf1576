# shellcheck shell=bash
# Device ports: the relay drives a link itself through DPDK, the peers notice nothing.
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh

needs_ethdev() {
  needs_wireplane
  lab_patience=30
  [[ -f $(dirname "$WIREPLANE_RELAY")/wireplane_ethdev.so ]] || leave_out "wireplane was built without DPDK"
}

# Outer = af_packet on alice's wire: handshake, echoes of both families and all sizes, TCP unaltered.
limit[af_packet]=120
case_af_packet() {
  needs_ethdev
  alice_and_relay
  { interface alice 2 51821 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  {
    interface relay 1 51820
    engine "Outer = net_af_packet0,iface=to-alice" "OuterAddress = 192.0.2.1/24"
    peer alice "10.77.0.2/32, fd77::2/128"
  } >"$lab_dir/relay.conf"
  no_offloads
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  check "first echo" wait_for 15 echo_from alice 10.77.0.1
  check "200 echoes, none lost" no_loss alice 10.77.0.1 200 0.005
  both_ways alice 2 relay 1
  check "20 MB from relay to alice" transfer relay 10.77.0.1 alice
}
# Through an af_packet link, what leaves a veth must be finished: no checksum or segment left for a NIC to do.
no_offloads() { at alice ethtool -K to-relay tx off tso off gso off gro off >/dev/null 2>&1 || :; }

# Two engines joined by memif, shared memory and nothing else: wireplane to wireplane without a kernel between.
limit[memif]=120
case_memif() {
  needs_ethdev
  host relay far
  local device="net_memif0,id=0,socket=$lab_dir/memif.sock,socket-abstract=no"
  {
    interface relay 1 51820
    engine "Outer = $device,role=server" "OuterAddress = 192.0.2.1/24"
    peer far "10.77.0.5/32, fd77::5/128"
  } >"$lab_dir/relay.conf"
  {
    interface far 5 51820
    engine "Outer = $device,role=client" "OuterAddress = 192.0.2.5/24"
    peer relay "$everyone" 192.0.2.1:51820
  } >"$lab_dir/far.conf"
  relay_up relay "$lab_dir/relay.conf"
  relay_up far "$lab_dir/far.conf"
  check "first echo" wait_for 20 echo_from far 10.77.0.1
  check "500 echoes, none lost" no_loss far 10.77.0.1 500 0.002
  both_ways far 5 relay 1
  check "20 MB over TCP" transfer relay 10.77.0.1 far
}

# A hub with one device port: alice and bob on one switched link, reached through next hops that the relay finds itself.
limit[af_packet_hub]=120
case_af_packet_hub() {
  needs_ethdev
  host alice bob relay switch
  local name number=1
  at switch ip link add name lan type bridge
  for name in relay alice bob; do
    ip link add lan netns "$name" type veth peer name "to-$name" netns switch
    at switch ip link set "to-$name" master lan up
    at "$name" ip address add "192.0.2.$number/24" dev lan
    at "$name" ip link set lan up
    at "$name" ethtool -K lan tx off tso off gso off gro off >/dev/null 2>&1 || :
    number=$((number + 1))
  done
  at switch ip link set lan up
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  { interface bob 3 && peer relay "$everyone" 192.0.2.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/bob.conf"
  {
    interface relay 1 51820
    engine "Outer = net_af_packet0,iface=lan" "OuterAddress = 192.0.2.1/24" "Inner = none" "Forward = all"
    peer alice "10.77.0.2/32, fd77::2/128"
    peer bob "10.77.0.3/32, fd77::3/128"
  } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
  check "alice reaches bob through the device port" wait_for 20 echo_from alice 10.77.0.3
  check "500 echoes without loss" no_loss alice 10.77.0.3 500 0.002
  both_ways alice 2 bob 3
  check "20 MB from bob to alice" transfer bob 10.77.0.3 alice
  # the kernel of the relay's host shares the link: its ICMP and TCP still work beside the port
  check "the host's own packets still pass" no_loss alice 192.0.2.1 20 0.02
}

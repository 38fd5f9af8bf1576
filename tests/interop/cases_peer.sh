# shellcheck shell=bash
# One stock peer and wireplane: who initiates, which family carries it, with and without a preshared key; roaming.
# shellcheck disable=SC2154

# pair OUTER-FAMILY INITIATOR [psk]
pair() {
  local relay_at=192.0.2.1 alice_at=192.0.2.2 psk=${3:+alice} to_relay='' to_alice=''
  if [[ $1 == 6 ]]; then relay_at='[2001:db8:1::1]' alice_at='[2001:db8:1::2]'; fi
  if [[ $2 == alice ]]; then to_relay=$relay_at:51820; else to_alice=$alice_at:51821; fi
  alice_and_relay
  { interface alice 2 51821 && peer relay "$everyone" "$to_relay" "$psk"; } >"$lab_dir/alice.conf"
  { interface relay 1 51820 && engine && peer alice "10.77.0.2/32, fd77::2/128" "$to_alice" "$psk"; } >"$lab_dir/relay.conf"
  export WIREGUARD_GO_LOG=verbose # tells who sent what
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  if [[ $2 == alice ]]; then
    check "first echo, alice to relay" wait_for 10 echo_from alice 10.77.0.1
  else
    check "first echo, relay to alice" wait_for 10 echo_from relay 10.77.0.2
  fi
  if [[ $(stock_wireguard) == wireguard-go ]]; then
    local sent="Sending handshake initiation" received="Received handshake initiation"
    if [[ $2 == relay ]]; then sent="Received handshake initiation" received="Sending handshake initiation"; fi
    check "$2 was the initiator" grep -q "$sent" "$lab_logs/alice.log"
    check "the other side was not" not grep -q "$received" "$lab_logs/alice.log"
  fi
  check "no packet lost in 200" no_loss alice 10.77.0.1 200 0.005
  both_ways alice 2 relay 1
}

# A stock peer initiates over IPv4; both inner families, all sizes, both directions.
case_stock_initiates_v4() { pair 4 alice; check "20 MB from relay to alice" transfer relay 10.77.0.1 alice; }
# wireplane initiates over IPv4.
case_stock_responds_v4() { pair 4 relay; check "20 MB from alice to relay" transfer alice 10.77.0.2 relay; }
# A stock peer initiates over IPv6.
case_stock_initiates_v6() { pair 6 alice; }
# wireplane initiates over IPv6.
case_stock_responds_v6() { pair 6 relay; }
# A stock peer initiates with a preshared key.
case_stock_initiates_psk() { pair 4 alice psk; }
# wireplane initiates with a preshared key, over IPv6.
case_stock_responds_psk() { pair 6 relay psk; }

# A wrong preshared key: no session, ever; the right one: at once.
case_wrong_psk_is_refused() {
  alice_and_relay
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820 alice; } >"$lab_dir/alice.conf"
  { interface relay 1 51820 && engine && peer alice 10.77.0.2/32 '' bob; } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  check "nothing passes with a wrong key" not wait_for 4 echo_from alice 10.77.0.1
  shared_secret alice >"$lab_dir/right"
  at relay wg set relay peer "$(public alice)" preshared-key "$lab_dir/right"
  check "echo after the right key is set" wait_for 12 echo_from alice 10.77.0.1
}

# alice changes her port, her address and her address family; the relay follows what is authentic, hardly a packet is lost.
case_roaming() {
  pair 4 alice
  roam "a new port" 192.0.2.2:51999 wg set alice listen-port 51999
  roam "a new address" 192.0.2.22:51999 to_new_address
  roam "IPv6" '[2001:db8:1::2]:51999' to_ipv6
  roam "back to IPv4" 192.0.2.22:51999 to_new_address
  check "the relay speaks first to where alice went" no_loss relay 10.77.0.2 5 0.01
}
# As a phone that changes networks: the old address goes, a new one comes. wireguard-go of 2022 clings to a source address
# that is gone until its endpoint is set anew; the kernel needs no such help.
to_new_address() {
  ip address flush dev to-relay scope global
  ip address add 192.0.2.22/24 dev to-relay
  wg set alice peer "$alice_knows" endpoint 192.0.2.1:51820
}
to_ipv6() {
  ip address flush dev to-relay scope global
  ip -6 address add 2001:db8:1::2/64 dev to-relay nodad
  wg set alice peer "$alice_knows" endpoint '[2001:db8:1::1]:51820'
}
roam() { # WHAT EXPECTED-ENDPOINT COMMAND...: under 50 echoes a second
  local what=$1 expected=$2 lost seen began took
  shift 2
  echoes alice 10.77.0.1 100 0.02 >"$lab_dir/lost" &
  local pinging=$!
  sleep 0.7
  began=$(now_ms)
  if [[ $(type -t "$1") == function ]]; then
    at alice env alice_knows="$(public relay)" bash -c "set -e; $(declare -f "$1"); $1"
  else
    at alice "$@"
  fi
  took=$(($(now_ms) - began))
  wait "$pinging"
  lost=$(<"$lab_dir/lost")
  figure "roaming to $what lost $lost of 100 echoes, 20 ms apart (the move itself took $took ms)"
  # while alice herself is between two sockets, which a busy machine draws out, nobody can reach her
  check "at most 3 echoes lost on roaming to $what, beside those of the move itself" test "$lost" -le $((3 + took / 20))
  seen=$(endpoint_of relay alice)
  check "the relay sees alice at $expected (it says $seen)" test "$seen" = "$expected"
}

# wireplane changes its port; the stock peer follows.
case_relay_moves() {
  pair 4 relay
  at relay wg set relay listen-port 51900
  check "echo after the relay's port changed" wait_for 5 echo_from relay 10.77.0.2
  check "alice sees the relay at its new port" test "$(endpoint_of alice relay)" = 192.0.2.1:51900
}

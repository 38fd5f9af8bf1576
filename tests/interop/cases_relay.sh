# shellcheck shell=bash
# Two stock peers that meet through the relay: forwarding and its policy, rekeying, a killed relay, a busy administrator.
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh

# Peer to peer through the hub: sizes, families, TCP, the hop is visible to TTL.
case_hub() {
  hub
  both_ways alice 2 bob 3
  check "20 MB from bob to alice" transfer bob 10.77.0.3 alice
  check "500 echoes without loss" no_loss alice 10.77.0.3 500 0.002
  hops=$(at alice ping -n -c 3 -i 0.5 -W 2 -t 1 10.77.0.3 2>&1 || :)
  check "a TTL of 1 ends at the relay, which says so" grep -q 'From 10.77.0.1.*Time to live exceeded' <<<"$hops"
}

# Forward = none, the default: peers reach the relay; what they send each other is the host's to forward, and it does not.
case_forward_none() {
  needs_wireplane
  apart
  check "alice reaches the relay" wait_for 10 echo_from alice 10.77.0.1
  check "bob reaches the relay" wait_for 10 echo_from bob 10.77.0.1
  check "alice does not reach bob" test "$(echoes alice 10.77.0.3 5 0.1)" = 5
}
# The same where there is no host to decide (Inner = none): refused, counted, and told.
case_forward_none_without_host() {
  needs_wireplane
  apart "Inner = none"
  wait_for 10 established || fail "no handshake with both"
  local told
  told=$(at alice ping -n -c 5 -i 0.3 -W 1 10.77.0.3 || :)
  check "alice does not reach bob" grep -q ' 0 received' <<<"$told"
  check "five packets are counted as forwarding_off" test "$(drop_count forwarding_off)" -ge 5
  check "alice is told that it is prohibited" grep -qiE 'filtered|prohibited' <<<"$told"
}
apart() { # [ENGINE-LINES...]: alice and bob at a relay that does not forward
  alice_and_relay
  bob_too
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/alice.conf"
  { interface bob 3 && peer relay "$everyone" 198.51.100.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/bob.conf"
  { interface relay 1 51820 && engine "$@" && peer alice 10.77.0.2/32 && peer bob 10.77.0.3/32; } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
}
established() { [[ $(at relay wg show relay latest-handshakes | awk '$2 > 0' | wc -l) == 2 ]]; }

# Forward = groups: who shares a group reaches each other.
case_forward_groups() {
  needs_wireplane
  alice_and_relay
  bob_too
  host carol
  wire relay 203.0.113.1/24 carol 203.0.113.2/24
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  { interface bob 3 && peer relay "$everyone" 198.51.100.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/bob.conf"
  { interface carol 4 && peer relay "$everyone" 203.0.113.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/carol.conf"
  {
    interface relay 1 51820
    engine "Forward = groups"
    peer alice 10.77.0.2/32 && say "Group = red"
    peer bob 10.77.0.3/32 && say "Group = red"
    peer carol 10.77.0.4/32 && say "Group = blue"
  } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  for name in alice bob carol; do peer_up "$name" "$lab_dir/$name.conf"; done
  check "carol reaches the relay" wait_for 10 echo_from carol 10.77.0.1
  check "alice reaches bob, of her group" wait_for 10 echo_from alice 10.77.0.3
  check "alice does not reach carol, of another" test "$(echoes alice 10.77.0.4 5 0.1)" = 5
  check "nor carol bob" test "$(echoes carol 10.77.0.3 5 0.1)" = 5
}

# Rekeying after 120 s, by us towards bob and by alice towards us: both handshakes change, no echo is lost.
limit[rekey]=200
case_rekey() {
  alice_and_relay
  bob_too
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  { interface bob 3 51821 && peer relay "$everyone"; } >"$lab_dir/bob.conf"
  {
    interface relay 1 51820
    engine "Forward = all"
    peer alice "10.77.0.2/32, fd77::2/128"
    peer bob "10.77.0.3/32, fd77::3/128" 198.51.100.2:51821
  } >"$lab_dir/relay.conf"
  export WIREGUARD_GO_LOG=verbose
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
  check "alice reaches bob" wait_for 15 echo_from alice 10.77.0.3
  local alice_first bob_first
  alice_first=$(handshake_of relay alice) bob_first=$(handshake_of relay bob)
  check "650 echoes over 130 s, none lost" no_loss alice 10.77.0.3 650 0.2
  check "alice rekeyed with us" test "$(handshake_of relay alice)" -ge $((alice_first + 115))
  check "we rekeyed with bob" test "$(handshake_of relay bob)" -ge $((bob_first + 115))
  if [[ $(stock_wireguard) == wireguard-go ]]; then
    check "bob was responder throughout" not grep -q "Sending handshake initiation" "$lab_logs/bob.log"
  fi
}

# kill -9 of the relay under traffic both ways, and a restart: stock peers come back by themselves. (A peer that has only
# keepalives to send notices nothing before its session is 120 s old: that is the protocol.)
limit[relay_is_killed]=90
case_relay_is_killed() {
  hub
  spawn traffic bob ping -q -n -i 0.2 10.77.0.2
  halt relay KILL
  sleep 1
  relay_up relay "$lab_dir/relay.conf"
  local began
  began=$(now_ms)
  check "alice reaches bob again within 45 s" wait_for 45 echo_from alice 10.77.0.3
  figure "after kill -9 and restart, alice reached bob again in $(($(now_ms) - began)) ms"
  halt traffic
  check "100 echoes without loss afterwards" no_loss alice 10.77.0.3 100 0.01
}

# 24 configuration changes a second for 10 s, of other peers: untouched peers lose nothing of 5,000 packets.
case_changes_under_traffic() {
  hub
  local keys=() number=0 key began
  for number in {1..24}; do keys+=("$(wg genkey | wg pubkey)"); done
  echoes alice 10.77.0.3 5000 0.002 >"$lab_dir/lost" &
  local pinging=$!
  number=0 began=$(now_ms)
  while (($(now_ms) < began + 10000)); do
    key=${keys[number % 24]}
    case $((number % 3)) in
      0) at relay wg set relay peer "$key" allowed-ips "10.88.$((number % 250)).0/24" endpoint 203.0.113.9:51820 ;;
      1) at relay wg set relay peer "$key" allowed-ips "10.99.0.$((number % 250))/32,fd99::$((number % 250))/128" ;;
      2) at relay wg set relay peer "${keys[(number - 2) % 24]}" remove ;;
    esac
    number=$((number + 1))
    local ahead=$((began + number * 1000 / 24 - $(now_ms)))
    ((ahead <= 0)) || sleep "$(printf '0.%03d' "$ahead")"
  done
  wait "$pinging"
  figure "$number changes in 10 s, $(<"$lab_dir/lost") of 5000 echoes lost"
  check "at least 10 changes a second were made, on however busy a machine" test "$number" -ge 100
  check "no echo lost" test "$(<"$lab_dir/lost")" = 0
}

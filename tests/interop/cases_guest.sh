# shellcheck shell=bash
# The Linux kernel's own WireGuard, in a guest beside the relay.
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh

# The kernel initiates; echoes both ways, and through the relay from a stock peer.
limit[guest_initiates]=120
case_guest_initiates() {
  guest_world 203.0.113.1:51820 ''
  check "the guest's echo reaches the relay" wait_for 20 echo_from relay 10.77.0.4
  guest_checks
}

# wireplane initiates towards the kernel.
limit[guest_responds]=120
case_guest_responds() {
  guest_world '' 203.0.113.2:51820
  check "the relay's echo reaches the guest" wait_for 20 echo_from relay 10.77.0.4
  guest_checks
}

guest_world() { # ENDPOINT-THE-GUEST-KNOWS ENDPOINT-THE-RELAY-KNOWS
  alice_and_relay
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820 && say "PersistentKeepalive = 5"; } >"$lab_dir/alice.conf"
  {
    interface relay 1 51820
    engine "Forward = all"
    peer alice "10.77.0.2/32, fd77::2/128"
    peer guest "10.77.0.4/32" "$2"
  } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  guest_up relay "$1"
  figure "the guest runs Linux $(<"$guest_dir/version")"
}

guest_checks() {
  check "50 echoes, relay to guest, none lost" no_loss relay 10.77.0.4 50 0.02
  check "20 full-size echoes" no_loss relay 10.77.0.4 20 0.02 -s 1392
  check "20 fragmented echoes" no_loss relay 10.77.0.4 20 0.02 -s 3000
  check "50 echoes, alice through the relay to the guest" no_loss alice 10.77.0.4 50 0.02
  local told
  told=$(in_guest alice 'wg show wg0 latest-handshakes; ping -c 5 -s 1392 10.77.0.2')
  say "$told"
  check "the guest's kernel sees a handshake with us" grep -qE "$(public relay | sed 's/[+/]/\\&/g')[[:space:]]+[1-9]" <<<"$told"
  check "the guest pings alice through the relay" grep -q ' 0% packet loss' <<<"$told"
}

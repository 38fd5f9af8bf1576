# shellcheck shell=bash
# One implementation and wireplane, property by property (words and topology: matrix.sh).
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh
# shellcheck disable=SC2030,SC2031  # what a cell spawns is its own: that is why it is a subshell

initiates() { # FAMILY [PSK]
  meet "$1" peer "${2:-}"
  check "first echo, from the peer" wait_for 20 echo_on alice 10.77.0.1
  check "the peer was the initiator" wait_for 3 seen "$from_peer initiation"
  check "we were not" not seen "$from_us initiation"
  check "echoes of all sizes from the peer" passes alice 1 "${all_sizes[@]}"
  check "and from us" passes relay 2 "${all_sizes[@]}"
}
responds() { # FAMILY [PSK]
  meet "$1" relay "${2:-}"
  check "first echo, from us" wait_for 20 echo_on relay 10.77.0.2
  check "we were the initiator" wait_for 3 seen "$from_us initiation"
  check "the peer was not" not seen "$from_peer initiation"
  check "echoes of all sizes from us" passes relay 2 "${all_sizes[@]}"
  check "and from the peer" passes alice 1 "${all_sizes[@]}"
}
with_psk() { # (as initiator over IPv6, as responder over IPv4)
  initiates 6 psk
  halt alice
  halt relay
  rm -f /run/wireguard/*
  : >"$lab_logs/watch.log"
  responds 4 psk
}

together() { # the tunnel stands, begun by the peer
  meet 4 peer
  check "first echo" wait_for 20 echo_on alice 10.77.0.1
}
peer_is_at() { [[ $(endpoint_of relay alice) == "$1" ]]; }
roams_port() {
  together
  on alice wg set alice listen-port 51899
  check "echo from a new port" wait_for 10 echo_on alice 10.77.0.1
  check "we see it there" peer_is_at 192.0.2.2:51899
  check "echo from us" echo_on relay 10.77.0.2
}
# The old address goes, a new one comes. [COMMAND...] then helps the peer.
roams_address() {
  together
  on alice ip address del 192.0.2.2/24 dev lan
  on alice ip address add 192.0.2.22/24 dev lan
  if (($#)); then
    check "it clings to the address that is gone" not wait_for 2 echo_on alice 10.77.0.1
    "$@"
  fi
  check "echo from a new address" wait_for 10 echo_on alice 10.77.0.1
  check "we see it there" wait_for 3 seen "192.0.2.22$from_peer"
}
home_again() { # (what a cell does to the machines stays; no cell needs it undone before the next)
  on alice ip address flush dev lan scope global
  on alice ip address add 192.0.2.2/24 dev lan
  on alice ip address add 2001:db8:1::2/64 dev lan
}
told_again() { on alice wg set alice peer "$(public relay)" endpoint 192.0.2.1:51820; }
new_socket() { on alice wg set alice listen-port 51899; }
roams_family() {
  together
  on alice wg set alice peer "$(public relay)" endpoint '[2001:db8:1::1]:51820'
  check "echo over IPv6" wait_for 10 echo_on alice 10.77.0.1
  check "we see it there" peer_is_at '[2001:db8:1::2]:51821'
  on alice wg set alice peer "$(public relay)" endpoint 192.0.2.1:51820
  check "echo over IPv4 again" wait_for 10 echo_on alice 10.77.0.1
  check "we see it there" peer_is_at 192.0.2.2:51821
}
# boringtun: "Modifying existing peers is not yet supported. Remove and add again instead."
roams_family_by_new_peer() {
  together
  on alice wg set alice peer "$(public relay)" remove
  on alice wg set alice peer "$(public relay)" endpoint '[2001:db8:1::1]:51820' allowed-ips 10.77.0.0/24,fd77::/64
  check "echo over IPv6" wait_for 10 echo_on alice 10.77.0.1
  check "we see it there" peer_is_at '[2001:db8:1::2]:51821'
}
follows_us() {
  together
  at relay wg set relay listen-port 51830
  check "echo from us at our new port" wait_for 10 echo_on relay 10.77.0.2
  check "the peer answers there" wait_for 3 seen ":51821 192.0.2.1:51830 data"
  check "and speaks first there" passes alice 1 56
}

# flood WHOSE-KEY ADDRESS PORT BURST EVERY-MS: valid mac1, nothing inside, until the cell ends. From our host: towards us it takes lo.
flood() {
  : >"$lab_logs/flood.log"
  spawn flood relay python3 "$here/wire.py" flood "$(public "$1")" "$2" "$3" "$4" "$5" 30
  check "$1 is under load" wait_for 15 grep -q loaded "$lab_logs/flood.log"
}
obeys_cookie() { # (over IPv6; the other way over IPv4)
  { interface relay 1 51820 && engine && peer alice "10.77.0.2/32, fd77::2/128"; } >"$lab_dir/relay.conf"
  { interface alice 2 51821 && peer relay "$everyone" '[2001:db8:1::1]:51820'; } >"$lab_dir/alice.conf"
  relay_up relay "$lab_dir/relay.conf"
  flood relay 2001:db8:1::1 51820 400 50
  peer_start alice "$lab_dir/alice.conf"
  check "echo while we are under load" wait_for 20 echo_on alice 10.77.0.1
  check "we sent it a cookie" wait_for 3 seen "$from_us cookie"
  check "it initiated with a mac2" wait_for 3 seen "$from_peer initiation.*mac2"
  check "we responded" wait_for 3 seen "$from_us response"
}
cookie_obeyed() {
  meet 4 relay
  flood alice 192.0.2.2 51821 "${flood_size:-300}" "${flood_every:-40}"
  at relay python3 "$here/wire.py" lengths "$(public alice)" 192.0.2.2 51821 >"$lab_dir/lengths" # for a cell of its own
  check "echo while it is under load" wait_for 20 echo_on relay 10.77.0.2
  check "it sent us a cookie" wait_for 3 seen "$from_peer cookie"
  check "we initiated with a mac2" wait_for 3 seen "$from_us initiation.*mac2"
  check "it responded" wait_for 3 seen "$from_peer response"
  # The same cookie from another port of ours; with another preshared key, so that there must be a handshake.
  at relay wg set relay listen-port 51830 peer "$(public alice)" preshared-key <(shared_secret other)
  at relay busybox ping -q -c 1 -W 1 10.77.0.2 >/dev/null || :
  check "we initiate from another port with the same cookie" wait_for 12 seen ':51830 [^ ]* initiation.*mac2'
  wait_for 2 seen '[^ ]*:51821 [^ ]*:51830 ' || :
  grep -E ':51821 [^ ]*:51830 ' "$lab_logs/watch.log" | cut -d ' ' -f 4 >"$lab_dir/said-to-cookie"
}
# Under load initiations of 148 octets are answered with cookies, others not at all (P2).
wants_exact_lengths() {
  say "of 3 of each length, answered: $(paste -sd ' ' "$lab_dir/lengths")"
  check "cookies for 148 octets" grep -q '^148 [1-9]' "$lab_dir/lengths"
  check "none for 147" grep -q '^147 0' "$lab_dir/lengths"
  check "none for 149" grep -q '^149 0' "$lab_dir/lengths"
}
said_to_cookie() { [[ $(head -n 1 "$lab_dir/said-to-cookie") == "$1" ]]; }
up_to_three_times() { # a load that came a moment late is tried again
  local try
  for try in 1 2 3; do
    (
      lab_pids=()
      trap 'tidy_cell' EXIT
      set -e
      "$@"
    ) &
    if wait $!; then return 0; fi # (not `if (...)`: there a failed command would not end it)
    say "try $try failed"
  done
  return 1
}

# Both initiate before either hears the other: a wire that holds every frame for a while.
hold_ms=300
opens_simultaneously() {
  local began
  meet 4 both
  check "the machines know each other's place" wait_for 5 at relay busybox ping -q -c 1 -W 1 192.0.2.2
  check "the machines know each other's place" wait_for 5 on alice busybox ping -q -c 1 -W 1 192.0.2.1
  other_wire slow "$hold_ms"
  began=$(now_ms)
  on alice busybox ping -q -c 1 -W 20 10.77.0.1 >"$lab_dir/theirs" &
  local theirs=$!
  at relay busybox ping -q -c 1 -W 20 10.77.0.2 >"$lab_dir/ours" &
  check "our echo" wait $!
  check "their echo" wait "$theirs"
  took=$(($(now_ms) - began))
  check "the initiations crossed" wait_for 2 crossed
  halt wire
  fast_wire
  check "20 echoes more" no_loss relay 10.77.0.2 20 0.02
  figure "${implementation[alice]}: initiations that crossed on a wire of $((2 * hold_ms)) ms: both echoes after $took ms"
  check "both echoes within $1 ms" test "$took" -le "$1"
}
# other_wire KIND ARGUMENT: between relay (left) and alice, in place of the bridge, until fast_wire
other_wire() {
  local device=to-alice
  [[ ${implementation[alice]} != kernel-guest ]] || device=tap0
  at relay ethtool -K lan tx off >/dev/null 2>&1 || : # it carries finished checksums only
  [[ $device == tap0 ]] || at alice ethtool -K lan tx off >/dev/null 2>&1 || :
  at switch ip link set to-relay nomaster
  at switch ip link set "$device" nomaster
  : >"$lab_logs/wire.log"
  spawn wire switch python3 "$here/wire.py" "$1" to-relay "$device" "$2"
  check "the wire is a $1 one" wait_for 15 grep -q ready "$lab_logs/wire.log"
}
fast_wire() {
  local device
  for device in to-relay to-alice tap0; do at switch ip link set "$device" master lan 2>/dev/null || :; done
}
crossed() { # theirs arrived after ours had left, and had left before ours arrived
  awk -v hold="$hold_ms" '$4 == "initiation" && $2 ~ /:51820$/ && !ours { ours = $1 } $4 == "initiation" && $2 ~ /:51821$/ && !theirs { theirs = $1 }
    END { exit !(ours && theirs && theirs > ours && theirs - ours < 2 * hold / 1000) }' "$lab_logs/watch.log"
}

# Every frame twice and out of order: nothing is lost, nothing arrives twice.
survives_a_rough_wire() {
  together
  other_wire rough 12
  local lost asked told
  lost=$(echoes relay 10.77.0.2 200 0.005)
  check "200 echoes of ours, each once ($lost missing)" test "$lost" = 0
  asked=$(requests_to relay)
  told=$(on alice busybox ping -q -c 200 -i 0.005 -W 5 10.77.0.1) || :
  say "$told"
  check "200 echoes of its, each once" wait_for 5 were_asked $((asked + 200))
  check "no answer came twice" not grep -q duplicates <<<"$told"
}
were_asked() { (($(requests_to relay) == $1)); }
requests_to() { at "$1" nstat -asz IcmpInEchos | awk '/IcmpInEchos/ { print $2 }'; }
# One data message comes 1,500 others late: within the window of 8,128.
takes_what_is_late() { one_is_late 0; }
takes_nothing_so_late() { one_is_late 1; }
one_is_late() { # HOW-MANY-ARE-LOST
  together
  check "echo from us" wait_for 5 echo_on relay 10.77.0.2
  other_wire late 1500
  local lost
  lost=$(echoes relay 10.77.0.2 1700 0.001)
  check "$1 of 1700 echoes lost ($lost are)" test "$lost" = "$1"
}

# Nobody answers: it tries again after 5 s and up to $1 ms more, each time as a new one (P43).
retries() {
  { interface relay 1 51820 && engine; } >"$lab_dir/relay.conf" # which does not know it
  { interface alice 2 51821 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_start alice "$lab_dir/alice.conf"
  on alice busybox ping -q -c 1 -W 1 10.77.0.1 >/dev/null || :
  # Linux drops a retry whose timer goes off a tick before 5 s have passed since the last one was sent, and sets none
  # anew (wg_packet_send_queued_handshake_initiation): seen once in 20 runs. The next packet begins again.
  if ! wait_for 25 enough 3 "$from_peer initiation"; then
    say "it has stopped trying; once more"
    : >"$lab_logs/watch.log"
    on alice busybox ping -q -c 1 -W 1 10.77.0.1 >/dev/null || :
  fi
  check "three initiations" wait_for 25 enough 3 "$from_peer initiation"
  grep -E "$from_peer initiation" "$lab_logs/watch.log" |
    awk 'NR > 1 { printf "%d\n", ($1 - before) * 1000 } { before = $1; if (seen[$7]++) print "again" }' >"$lab_dir/gaps"
  say "gaps in ms: $(paste -sd ' ' "$lab_dir/gaps")"
  check "5000 to $1 ms apart, each with an index of its own" gaps_are_within 4950 "$1"
}
gaps_are_within() { awk -v least="$1" -v most="$2" '/again/ || $1 < least || $1 > most { bad = 1 } END { exit bad }' "$lab_dir/gaps"; }

restarts() {
  together
  halt alice KILL
  rm -f /run/wireguard/alice.sock
  peer_start alice "$lab_dir/alice.conf"
  check "echo from it, new born" wait_for 10 echo_on alice 10.77.0.1
  check "echo from us" wait_for 2 echo_on relay 10.77.0.2
}

keeps_alive() {
  local peer_says='PersistentKeepalive = 1'
  together
  : >"$lab_logs/watch.log"
  check "three keepalives of the peer" wait_for 10 enough 3 "$from_peer data 32"
  check "which we do not answer" not seen "$from_us data 32"
}
enough() { (($(times_seen "$2") >= $1)); }
is_kept_alive() {
  local relay_says='PersistentKeepalive = 1'
  together
  : >"$lab_logs/watch.log"
  check "three keepalives of ours" wait_for 10 enough 3 "$from_us data 32"
  check "which the peer does not answer" not seen "$from_peer data 32"
  check "it took them for ours: echo" passes alice 1 56
}

# What a data message looks like outside: padded to 16, with the inner packet's ECN bits; a handshake message with AF41.
pads() {
  together
  check "echoes of odd sizes" passes alice 1 1 2 3 5 8 13
  check "every data message of its is padded to 16" not seen_unpadded "$from_peer"
  check "and of ours" not seen_unpadded "$from_us"
}
does_not_pad() {
  together
  check "echoes of odd sizes" passes alice 1 1 2 3 5 8 13
  check "its data messages have odd sizes" seen_unpadded "$from_peer"
  check "ours have not" not seen_unpadded "$from_us"
}
seen_unpadded() { grep -E "$1 data" "$lab_logs/watch.log" | awk '$5 % 16 { odd = 1 } END { exit !odd }'; }
marked_echo() { # an echo request with ECT(0), whose answer has it too
  together
  : >"$lab_logs/watch.log"
  check "an echo marked ECT(0)" at relay ping -q -n -c 2 -i 0.2 -Q 2 10.77.0.2
  check "we copy the mark to the outside" wait_for 3 seen "$from_us data [0-9]* tos=02"
}
copies_ecn() { marked_echo && check "the peer does too" seen "$from_peer data [0-9]* tos=02"; }
copies_no_ecn() { marked_echo && check "the peer does not" not seen "$from_peer data [0-9]* tos=02"; }
marks_handshakes() { handshakes_are_marked 88; }
marks_no_handshakes() { handshakes_are_marked 00; }
handshakes_are_marked() { # AS
  together
  check "our response is AF41" wait_for 3 seen "$from_us response [0-9]* tos=88"
  check "its initiation is $1" wait_for 3 seen "$from_peer initiation [0-9]* tos=$1"
}

common_cells() {
  cell "initiates, IPv4" initiates 4
  cell "initiates, IPv6" initiates 6
  cell "responds, IPv4" responds 4
  cell "responds, IPv6" responds 6
  cell "preshared key, both roles" with_psk
  cell "roams to a new port" roams_port
  cell "follows us to a new port" follows_us
  cell "obeys our cookie" up_to_three_times obeys_cookie
  cell "we obey its cookie" up_to_three_times cookie_obeyed
  if [[ $row == boringtun ]]; then
    deviates "its cookie binds our port" "MACs only the address into it (P10)" said_to_cookie response
  else
    cell "its cookie binds our port" said_to_cookie cookie
  fi
  cell "reads initiations of 148 octets alone" wants_exact_lengths
  cell "simultaneous open" up_to_three_times opens_simultaneously "${open_ms:-2500}"
  cell "every packet twice, out of order" up_to_three_times survives_a_rough_wire
  if [[ $row == boringtun ]]; then
    deviates "one packet 1,500 others late" "a window of 1,024 (P32)" up_to_three_times takes_nothing_so_late
  else
    cell "one packet 1,500 others late" up_to_three_times takes_what_is_late
  fi
  cell "tries again after 5 s, and a little" retries "${retry_ms:-5500}"
  cell "is restarted" restarts
  cell "persistent keepalive, its" keeps_alive
  cell "persistent keepalive, ours" is_kept_alive
}

# ---- the cases: one for each implementation ----

# wireguard-go of 2022, as Debian 12 has it.
limit[peer_wireguard_go]=200
case_peer_wireguard_go() {
  matrix_world wireguard-go
  common_cells
  deviates "roams to a new address" "clings to a source address that is gone until its endpoint is set anew" roams_address told_again
  home_again
  cell "roams between IPv4 and IPv6" roams_family
  userspace_cells
  cell "pads to 16" pads
  judged
}
userspace_cells() {
  deviates "copies ECN outside" "userspace sockets: no ECN at all (P40)" copies_no_ecn
  deviates "AF41 on handshakes" "userspace sockets: no DSCP (P40)" marks_no_handshakes
}

# The newest wireguard-go, compiled by deploy/install.sh peers.
limit[peer_wireguard_go_new]=200
case_peer_wireguard_go_new() {
  matrix_world wireguard-go-new
  common_cells
  cell "roams to a new address" roams_address
  home_again
  cell "roams between IPv4 and IPv6" roams_family
  userspace_cells
  cell "pads to 16" pads
  judged
}

# boringtun, compiled by deploy/install.sh peers.
limit[peer_boringtun]=200
case_peer_boringtun() {
  matrix_world boringtun
  flood_size=20 flood_every=20 # it calls more than 100 handshakes a second a load
  common_cells
  deviates "roams to a new address" "its connected socket keeps the address that is gone until the port is set anew" roams_address new_socket
  home_again
  deviates "roams between IPv4 and IPv6" "cannot change a peer's endpoint: the peer is removed and added" roams_family_by_new_peer
  userspace_cells
  deviates "pads to 16" "no padding (P34)" does_not_pad
  judged
}

# The Linux kernel, in a guest.
limit[peer_kernel]=220
case_peer_kernel() {
  matrix_world kernel-guest
  hold_ms=800 open_ms=6000 flood_size=600 flood_every=200 retry_ms=6000
  common_cells
  cell "roams to a new address" roams_address
  home_again
  cell "roams between IPv4 and IPv6" roams_family
  cell "copies ECN outside" copies_ecn
  cell "AF41 on handshakes" marks_handshakes
  cell "pads to 16" pads
  judged
}

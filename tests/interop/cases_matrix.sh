# shellcheck shell=bash
# Every implementation times every property: the table that run.sh prints at its end.
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh
# shellcheck disable=SC2030,SC2031  # what a cell spawns is its own: that is why it is a subshell
#
#                             host switch: bridge `lan`
#         +------------------------+----------------+----------- ...
#   host relay: wireplane     host alice       the guest, or          alice is one of the implementations below; the kernel is
#   lan 192.0.2.1             lan 192.0.2.2    more hosts             that of a guest whose tap0 is on the bridge in alice's place
#
# A cell is a function: what the peer should do, asserted. A deviation is a function too: what this peer is known to do
# instead (PROTOCOL.md's evidence, or found here), asserted as it is, so that a release which mends it is noticed.

declare -ga implementations=(wireguard-go wireguard-go-new boringtun kernel-guest)
declare -gA called=([wireguard-go]=go-2022 [wireguard-go-new]=go-new [boringtun]=boringtun [kernel-guest]=kernel) # as hosts and devices
declare -gA implementation=() # NAME -> which of these the device of that name is

# ---- cells ----

# cell PROPERTY FUNCTION...: runs it; the case goes on whatever comes out. Row: $row.
cell() { judge "$1" '' "${@:2}"; }
# deviates PROPERTY REASON FUNCTION...: the function asserts the deviation
deviates() { judge "$@"; }
judge() {
  local property=$1 reason=$2 status=0 verdict=PASS began
  shift 2
  began=$(now_ms)
  say "--- $row: $property"
  # A subshell with errexit of its own; what it spawned ends with it.
  (
    lab_pids=()
    trap '"${cell_end:-:}"' EXIT
    set -e
    "$@"
  ) &
  wait $! || status=$?
  [[ -z $reason ]] || verdict=DEVIATES
  if ((status == 77)); then
    verdict=SKIP reason='not here'
  elif ((status != 0)); then
    [[ $verdict == PASS ]] || reason="no longer as expected: $reason"
    verdict=FAIL
    cells_failed+=("$property")
  fi
  printf '%s|%s|%s|%s\n' "$row" "$property" "$verdict" "$reason" >>"$lab_logs/cells"
  say "--- $verdict in $(($(now_ms) - began)) ms"
}
tidy_cell() {
  local name
  for name in "${!lab_pids[@]}"; do halt "$name"; done
  fast_wire
  rm -f /run/wireguard/*
  : >"$lab_logs/watch.log"
}
judged() { # the case's own verdict
  ((${#cells_failed[@]} == 0)) || fail "${#cells_failed[@]} cell(s) failed: $(printf '%s; ' "${cells_failed[@]}")"
}
needs_peer() { # IMPLEMENTATION
  needs_wireplane
  local program=
  case $1 in
    kernel-guest) [[ -f $guest_dir/initrd.cpio ]] && command -v qemu-system-x86_64 >/dev/null && return ;;
    wireguard-go) command -v wireguard-go >/dev/null && return ;;
    *) program=$(peer_program "$1") && [[ -x $program ]] && return ;;
  esac
  printf '%s|all|SKIP|%s\n' "$1" "not installed: deploy/install.sh test peers" >>"$lab_logs/cells"
  leave_out "$1 is not here (deploy/install.sh test peers)"
}

# ---- a peer of any implementation: its machine is a host or the guest ----

on() { # NAME COMMAND...: on that peer's machine
  local name=$1
  shift
  if [[ ${implementation[$name]:-} == kernel-guest ]]; then guest_do "$(printf '%q ' "$@")"; else at "$name" "$@"; fi
}
peer_start() { # NAME CONF
  if [[ ${implementation[$1]} == kernel-guest ]]; then guest_device "$@"; else peer_up "$1" "$2" "${implementation[$1]}"; fi
}
guest_device() { # NAME CONF
  local address allowed
  guest_do "ip link del $1 2>/dev/null
    set -e
    ip link add $1 type wireguard
    cat >/tmp/$1.conf <<'CONF'
$(wg_part "$2")
CONF
    wg setconf $1 /tmp/$1.conf
    for address in $(conf_value "$2" Address); do ip address add \$address dev $1; done
    ip link set mtu 1420 up dev $1
    for allowed in \$(wg show $1 allowed-ips | cut -f2-); do ip route replace \$allowed dev $1 || :; done" || fail "the guest's device: $(<"$2")"
}
matrix_world() { # IMPLEMENTATION, at the place of alice
  implementation[alice]=$1 row=$1 cells_failed=() cell_end=tidy_cell
  needs_peer "$1"
  if [[ $1 == kernel-guest ]]; then
    lan relay -
    guest_on_lan
    guest_do 'ip address add 192.0.2.2/24 dev lan && ip address add 2001:db8:1::2/64 dev lan' || fail "the guest's addresses"
  else
    lan relay alice
  fi
  watch_lan
  figure "$1: $(version_of "$1")"
}
version_of() {
  case $1 in
    kernel-guest) say "Linux $(<"$guest_dir/version")" ;;
    wireguard-go) dpkg-query -W -f '${Version}, of Debian\n' wireguard-go 2>/dev/null || say "of this host" ;;
    *) basename "$(peer_program "$1")" ;;
  esac
}
watch_lan() {
  spawn watch relay python3 "$here/wire.py" watch lan
  wait_for 5 at relay sh -c 'ss -Hl0 | grep -q .' || fail "nothing watches the wire"
}
seen() { grep -Eq "$1" "$lab_logs/watch.log"; }
times_seen() { grep -Ec "$1" "$lab_logs/watch.log" || :; }
from_peer=':518(21|99) [^ ]*:518[0-9]*' # what the peer says to us, and we to it, as watch.log has it
from_us=':518(20|30) [^ ]*:518[0-9]*'

# meet FAMILY WHO-KNOWS-THE-OTHER [PSK]: both devices up; peer, relay or both know where the other is. $peer_says and
# $relay_says: more lines of their [Peer] sections.
meet() {
  local relay_at=192.0.2.1 peer_at=192.0.2.2 psk=${3:+alice} to_relay='' to_peer=''
  if [[ $1 == 6 ]]; then relay_at='[2001:db8:1::1]' peer_at='[2001:db8:1::2]'; fi
  [[ $2 == relay ]] || to_relay=$relay_at:51820
  [[ $2 == peer ]] || to_peer=$peer_at:51821
  { interface alice 2 51821 && peer relay "$everyone" "$to_relay" "$psk" && say "${peer_says:-}"; } >"$lab_dir/alice.conf"
  { interface relay 1 51820 && engine && peer alice "10.77.0.2/32, fd77::2/128" "$to_peer" "$psk" && say "${relay_says:-}"; } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_start alice "$lab_dir/alice.conf"
}
echo_on() { on "$1" busybox ping -q -c 1 -W 1 "$2" >/dev/null; } # NAME ADDRESS

# passes NAME NUMBER SIZE...: from NAME to 10.77.0.NUMBER and fd77::NUMBER, three echoes of each size, each waited for
passes() {
  # shellcheck disable=SC2016
  on "$1" busybox sh -c 'to=$1; shift
    for address in 10.77.0.$to fd77::$to; do for size in "$@"; do
      busybox ping -q -A -c 3 -W 5 -s $size $address | grep -q " 0% packet loss" || { echo "lost: $size B to $address"; exit 1; }
    done; done' passes "${@:2}"
}
all_sizes=(0 1 56 1000 1372 1392 3000) # 1372 and 1392 fill the MTU of 1420 in IPv6 and IPv4; the next size is of the other's fragments

# ---- properties ----

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
obeys_cookie() {
  { interface relay 1 51820 && engine && peer alice "10.77.0.2/32, fd77::2/128"; } >"$lab_dir/relay.conf"
  { interface alice 2 51821 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  relay_up relay "$lab_dir/relay.conf"
  flood relay 192.0.2.1 51820 400 50
  peer_start alice "$lab_dir/alice.conf"
  check "echo while we are under load" wait_for 20 echo_on alice 10.77.0.1
  check "we sent it a cookie" wait_for 3 seen "$from_us cookie"
  check "it initiated with a mac2" wait_for 3 seen "$from_peer initiation.*mac2"
  check "we responded" wait_for 3 seen "$from_us response"
}
cookie_obeyed() {
  meet 4 relay
  flood alice 192.0.2.2 51821 "${flood_size:-300}" "${flood_every:-40}"
  check "echo while it is under load" wait_for 20 echo_on relay 10.77.0.2
  check "it sent us a cookie" wait_for 3 seen "$from_peer cookie"
  check "we initiated with a mac2" wait_for 3 seen "$from_us initiation.*mac2"
  check "it responded" wait_for 3 seen "$from_peer response"
}
up_to_three_times() { # a load that came a moment late is tried again
  local try
  for try in 1 2 3; do
    if (set -e; lab_pids=(); trap 'tidy_cell' EXIT; "$@") then return 0; fi
    say "try $try failed"
  done
  return 1
}

# Both initiate before either hears the other: a wire that holds every frame for a while.
hold_ms=300
opens_simultaneously() {
  local device=to-alice began
  [[ ${implementation[alice]} != kernel-guest ]] || device=tap0
  meet 4 both
  check "the machines know each other's place" wait_for 5 at relay busybox ping -q -c 1 -W 1 192.0.2.2
  check "the machines know each other's place" wait_for 5 on alice busybox ping -q -c 1 -W 1 192.0.2.1
  at relay ethtool -K lan tx off >/dev/null 2>&1 || : # the wire carries finished checksums only
  [[ $device == tap0 ]] || at alice ethtool -K lan tx off >/dev/null 2>&1 || :
  at switch ip link set to-relay nomaster
  at switch ip link set "$device" nomaster
  : >"$lab_logs/slow.log"
  spawn slow switch python3 "$here/wire.py" slow to-relay "$device" "$hold_ms"
  check "the wire is slow" wait_for 5 grep -q ready "$lab_logs/slow.log"
  began=$(now_ms)
  on alice busybox ping -q -c 1 -W 20 10.77.0.1 >"$lab_dir/theirs" &
  local theirs=$!
  at relay busybox ping -q -c 1 -W 20 10.77.0.2 >"$lab_dir/ours" &
  check "our echo" wait $!
  check "their echo" wait "$theirs"
  took=$(($(now_ms) - began))
  check "the initiations crossed" wait_for 2 crossed
  halt slow
  fast_wire
  check "20 echoes more" no_loss relay 10.77.0.2 20 0.02
  figure "${implementation[alice]}: initiations that crossed on a wire of $((2 * hold_ms)) ms: both echoes after $took ms"
  check "both echoes within $1 ms" test "$took" -le "$1"
}
fast_wire() {
  local device
  for device in to-relay to-alice tap0; do at switch ip link set "$device" master lan 2>/dev/null || :; done
}
crossed() { # theirs arrived after ours had left, and had left before ours arrived
  awk -v hold="$hold_ms" '$4 == "initiation" && $2 ~ /:51820$/ && !ours { ours = $1 } $4 == "initiation" && $2 ~ /:51821$/ && !theirs { theirs = $1 }
    END { exit !(ours && theirs && theirs > ours && theirs - ours < 2 * hold / 1000) }' "$lab_logs/watch.log"
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
  cell "simultaneous open" up_to_three_times opens_simultaneously "${open_ms:-2500}"
  cell "persistent keepalive, its" keeps_alive
  cell "persistent keepalive, ours" is_kept_alive
}

# ---- the cases: one for each implementation ----

# wireguard-go of 2022, as Debian 12 has it.
limit[peer_wireguard_go]=120
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
limit[peer_wireguard_go_new]=120
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
limit[peer_boringtun]=120
case_peer_boringtun() {
  matrix_world boringtun
  flood_size=50 flood_every=20 # it calls more than 100 handshakes a second a load
  common_cells
  deviates "roams to a new address" "its connected socket keeps the address that is gone until the port is set anew" roams_address new_socket
  home_again
  deviates "roams between IPv4 and IPv6" "cannot change a peer's endpoint: the peer is removed and added" roams_family_by_new_peer
  userspace_cells
  deviates "pads to 16" "no padding (P34)" does_not_pad
  judged
}

# The Linux kernel, in a guest.
limit[peer_kernel]=150
case_peer_kernel() {
  matrix_world kernel-guest
  hold_ms=800 open_ms=6000 flood_size=600 flood_every=200
  common_cells
  cell "roams to a new address" roams_address
  home_again
  cell "roams between IPv4 and IPv6" roams_family
  cell "copies ECN outside" copies_ecn
  cell "AF41 on handshakes" marks_handshakes
  cell "pads to 16" pads
  judged
}

# ---- all of them at once ----

# Every 120 s, whoever initiated rekeys: all implementations in both roles beside each other, because it takes its time; then
# the keepalive that answers data which nothing else answers. Initiators are inside IPv4, responders inside IPv6, so that
# the guest can be both.
limit[matrix_rekey]=230
case_matrix_rekey() {
  local name
  rekey_world
  for name in "${everybody[@]}"; do check "first echo, $name" wait_for 20 echo_on relay "${inner[$name]}"; done
  cp "$lab_logs/watch.log" "$lab_logs/watch-first.log"
  : >"$lab_logs/watch.log"
  local -A pings=() first=()
  for name in "${everybody[@]}"; do
    first[$name]=$(handshake_of relay "$name")
    at relay busybox ping -q -c 650 -i 0.2 -W 10 "${inner[$name]}" >"$lab_logs/ping-$name.log" 2>&1 &
    pings[$name]=$!
  done
  for name in "${everybody[@]}"; do wait "${pings[$name]}" || :; done
  for row in "${present[@]}"; do
    cell "rekeys as initiator" rekeyed "${called[$row]}-i" "${place[${called[$row]}-i]}" "$us"
    cell "is rekeyed as responder" rekeyed "${called[$row]}-r" "$us" "${place[${called[$row]}-r]}"
    if [[ $row == boringtun ]]; then
      deviates "draws random indices" "24 bits of it stay, 8 count (P23)" not draws_indices "${place[${called[$row]}-i]}"
    else
      cell "draws random indices" draws_indices "${place[${called[$row]}-i]}"
    fi
  done

  # The last that we heard was data, an answer, and we had nothing to say to it: 10 s later a keepalive. Then the same for them.
  wait_for 14 all_said ours || :
  for name in "${everybody[@]}"; do at relay python3 "$here/wire.py" nudge "${inner[$name]}"; done
  wait_for 14 all_said theirs || :
  for row in "${present[@]}"; do
    cell "passive keepalive, ours" said ours "$row"
    cell "passive keepalive, its" said theirs "$row"
  done
  judged
}
rekey_world() {
  declare -g us='192\.0\.2\.1:51820'
  declare -gA place=() inner=()
  gather
  local hosts=(relay) row name role number=1
  for row in "${present[@]}"; do
    for role in i r; do # initiator, responder
      name=${called[$row]}-$role
      [[ $row == kernel-guest ]] || hosts+=("$name")
      everybody+=("$name")
      implementation[$name]=$row
    done
  done
  lan "${hosts[@]}"
  {
    interface relay 1 51820
    engine
    for name in "${everybody[@]}"; do
      number=$((number + 1))
      place[$name]=192.0.2.$number:518$number
      [[ $name != kernel-r ]] || place[$name]=192.0.2.$((number - 1)):518$number
      case $name in
        *-i) inner[$name]=10.77.0.$number && peer "$name" "10.77.0.$number/32" ;;
        *-r) inner[$name]=fd77::$number && peer "$name" "fd77::$number/128" "${place[$name]}" ;;
      esac
    done
  } >"$lab_dir/relay.conf"
  ! is_present kernel-guest || guest_joins "$((number - 1))"
  watch_lan
  relay_up relay "$lab_dir/relay.conf"
  for name in "${everybody[@]}"; do
    {
      printf '[Interface]\nPrivateKey = %s\nListenPort = %s\n' "$(private "$name")" "${place[$name]#*:}"
      case $name in
        *-i) say "Address = ${inner[$name]}/24" && peer relay 10.77.0.0/24 192.0.2.1:51820 ;;
        *-r) say "Address = ${inner[$name]}/64" && peer relay fd77::/64 ;;
      esac
    } >"$lab_dir/$name.conf"
    place[$name]=${place[$name]//./\\.}
  done
  for name in "${everybody[@]}"; do
    peer_start "$name" "$lab_dir/$name.conf"
    [[ $name != *-i ]] || check "$name begins" wait_for 20 echo_on "$name" 10.77.0.1
  done
}
gather() { # which implementations are here; the others' cells say that they are not
  declare -g cells_failed=() present=() everybody=()
  local name
  for name in "${implementations[@]}"; do
    if (needs_peer "$name"); then present+=("$name"); fi
  done
  ((${#present[@]})) || leave_out "no implementation is here (deploy/install.sh test peers)"
}
is_present() { [[ " ${present[*]} " == *" $1 "* ]]; }
guest_joins() { # NUMBER
  guest_on_lan
  guest_do "ip address add 192.0.2.$1/24 dev lan && ip address add 2001:db8:1::$1/64 dev lan" || fail "the guest's addresses"
}
rekeyed() { # NAME INITIATOR RESPONDER, as watch.log calls them
  grep 'packet loss' "$lab_logs/ping-$1.log"
  check "650 echoes over 130 s, none lost" grep -q ' 0% packet loss' "$lab_logs/ping-$1.log"
  check "the handshake is a new one" test "$(handshake_of relay "$1")" -ge $((first[$1] + 115))
  check "begun by who began the first" seen "$2 $3 initiation"
  check "and by nobody else" not seen "$3 $2 initiation"
}
draws_indices() { # PLACE: of its initiations' indices, the upper 24 bits differ
  local drawn
  drawn=$(cat "$lab_logs/watch-first.log" "$lab_logs/watch.log" | sed -nE "s/.* $1 .* initiation .*sender=(......).*/\1/p")
  say "$drawn"
  (($(wc -l <<<"$drawn") > 1)) || fail "fewer than two initiations were seen"
  (($(sort -u <<<"$drawn" | wc -l) > 1))
}
said() { # ours|theirs IMPLEMENTATION: a keepalive, in both its roles
  local name
  for name in "${called[$2]}-i" "${called[$2]}-r"; do
    if [[ $1 == ours ]]; then seen "$us ${place[$name]} data 32"; else seen "${place[$name]} $us data 32"; fi || return 1
  done
}
all_said() {
  local row
  for row in "${present[@]}"; do said "$1" "$row" || return 1; done
}

# Through the relay from each implementation to each other one: echoes of all sizes, both inner families, and 3 MB over TCP.
limit[matrix_pairs]=150
case_matrix_pairs() {
  gather
  local hosts=(relay) row name number=1
  declare -gA number_of=()
  for row in "${present[@]}"; do
    number=$((number + 1))
    name=${called[$row]}
    number_of[$name]=$number implementation[$name]=$row everybody+=("$name")
    if [[ $row == kernel-guest ]]; then hosts+=(-); else hosts+=("$name"); fi
  done
  lan "${hosts[@]}"
  ! is_present kernel-guest || guest_joins "${number_of[kernel]}"
  {
    interface relay 1 51820
    engine "Forward = all"
    for name in "${everybody[@]}"; do peer "$name" "10.77.0.${number_of[$name]}/32, fd77::${number_of[$name]}/128"; done
  } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  for name in "${everybody[@]}"; do
    { interface "$name" "${number_of[$name]}" && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/$name.conf"
    peer_start "$name" "$lab_dir/$name.conf"
    check "$name reaches the relay" wait_for 20 echo_on "$name" 10.77.0.1
    on "$name" busybox sh -c "head -c 3000000 /dev/urandom >$(scratch "$name")-blob; mkfifo $(scratch "$name")-open"
  done
  for row in "${present[@]}"; do
    for name in "${present[@]}"; do
      [[ $name == "$row" ]] || cell "through us to $name" reaches "${called[$row]}" "${called[$name]}"
    done
  done
  judged
}
scratch() { if [[ ${implementation[$1]} == kernel-guest ]]; then say /tmp/"$1"; else say "$lab_dir/$1"; fi; }
reaches() { # NAME NAME
  check "echoes of all sizes, $1 to $2" passes "$1" "${number_of[$2]}" "${all_sizes[@]}"
  local served fetched
  served=$(on "$2" busybox sha256sum "$(scratch "$2")-blob" | cut -d ' ' -f 1)
  on "$2" busybox sh -c "busybox timeout 40 busybox nc -l -p 9000 <$(scratch "$2")-blob >/dev/null 2>&1 &"
  # (a client whose input ends would end the server: it reads from a pipe that nobody closes)
  fetched=$(on "$1" busybox sh -c "for try in 1 2 3 4 5 6 7 8 9; do
      busybox timeout 30 busybox nc 10.77.0.${number_of[$2]} 9000 <>$(scratch "$1")-open >$(scratch "$1")-copy 2>/dev/null && break
      sleep 0.2
    done; busybox sha256sum $(scratch "$1")-copy" | cut -d ' ' -f 1)
  check "3 MB from $2 to $1, unaltered" test "${#served}:$fetched" = "64:$served"
}

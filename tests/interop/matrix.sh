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
  local status=$? name
  if ((status != 0)); then
    say "the last messages on the wire:"
    tail -n 20 "$lab_logs/watch.log"
  fi
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
    for allowed in \$(wg show $1 allowed-ips | cut -f2-); do ip route replace \$allowed dev $1 || :; done" || fail "the guest's device $1"
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
  wait_for 15 at relay sh -c 'ss -Hl0 | grep -q .' || fail "nothing watches the wire"
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

# passes NAME NUMBER SIZE...: from NAME to 10.77.0.NUMBER and fd77::NUMBER, two echoes of each size. (One at a time: that ping waits
# for in full, but only for twice the usual time for the last of several.)
passes() {
  # shellcheck disable=SC2016
  on "$1" busybox sh -c 'to=$1; shift
    for address in 10.77.0.$to fd77::$to; do for size in "$@"; do for time in 1 2; do
      busybox ping -q -c 1 -W 10 -s $size $address >/dev/null || { echo "lost: $size B to $address"; exit 1; }
    done; done; done' passes "${@:2}"
}
all_sizes=(0 1 56 1000 1372 1392 3000) # 1372 and 1392 fill the MTU of 1420 in IPv6 and IPv4; 3000 comes in fragments

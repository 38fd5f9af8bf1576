# shellcheck shell=bash
# The topology drawn in run.sh, the configurations of its devices, and the words that cases are written in. Sourced.
# shellcheck disable=SC2154  # lab_dir, lab_logs: lab.sh

# check WHAT COMMAND...: the case ends here unless the command succeeds.
check() {
  local what=$1
  shift
  if "$@"; then say "ok: $what"; else fail "$what"; fi
}
not() { ! "$@"; }
fail() {
  account
  say "NOT: $*"
  exit 1
}
account() { # where packets ended, as the relay and the hosts tell it
  local name
  if is_wireplane && [[ -S /run/wireguard/relay.sock ]]; then
    timeout 5 "$WIREPLANE_RELAY" show relay --json | jq -c '.engine | {drops: (.drops | with_entries(select(.value > 0))), workers, ports}' || :
  fi
  for name in $(ip netns list | cut -d ' ' -f 1); do
    say "$name: $(at "$name" nstat -as 2>/dev/null | awk '/Udp|Icmp|Ip6?(In|Out)?(Discards|NoRoutes|ReasmFails)/ && $2 > 0 { printf "%s %s, ", $1, $2 }')"
  done
}
leave_out() { # the case cannot run here
  say "$*"
  exit 77
}
figure() { say "figure: $*"; }
needs_wireplane() { is_wireplane || leave_out "only wireplane does this"; }

alice_and_relay() {
  host alice relay
  wire relay 192.0.2.1/24 alice 192.0.2.2/24 2001:db8:1::1/64 2001:db8:1::2/64
}
bob_too() {
  host bob
  wire relay 198.51.100.1/24 bob 198.51.100.2/24 2001:db8:2::1/64 2001:db8:2::2/64
}

# lan NAME...: hosts on one switched link, device `lan` of each, numbered as they come: 192.0.2.N, 2001:db8:1::N. `-` leaves a
# number free for what joins the bridge `lan` of host switch by itself.
lan() {
  local name number=0
  host switch
  at switch ip link add name lan type bridge mcast_snooping 0
  at switch ip link set lan up
  for name in "$@"; do
    number=$((number + 1))
    [[ $name != - ]] || continue
    host "$name"
    ip link add lan netns "$name" type veth peer name "to-$name" netns switch
    at switch ip link set "to-$name" master lan up
    at "$name" ip address add "192.0.2.$number/24" dev lan
    at "$name" ip -6 address add "2001:db8:1::$number/64" dev lan nodad
    at "$name" ip link set lan up
  done
}

# interface NAME NUMBER [PORT]: [Interface] of device NAME, whose inner addresses end in NUMBER
interface() {
  cat <<EOF
[Interface]
PrivateKey = $(private "$1")
${3:+ListenPort = $3}
Address = 10.77.0.$2/24, fd77::$2/64
EOF
}
# peer NAME ALLOWED [ENDPOINT] [PSK]: a [Peer] section; PSK = the name whose preshared key it is
peer() {
  printf '[Peer]\nPublicKey = %s\nAllowedIPs = %s\n' "$(public "$1")" "$2"
  [[ -z ${3:-} ]] || printf 'Endpoint = %s\n' "$3"
  [[ -z ${4:-} ]] || printf 'PresharedKey = %s\n' "$(shared_secret "$4")"
}
engine() { printf '[Engine]\n' && printf '%s\n' "Workers = 1" "$@"; }
everyone="10.77.0.0/24, fd77::/64"

# The usual world: alice and bob reach each other through the relay, which they alone know. Arguments: more lines of the
# relay's [Engine].
hub() {
  alice_and_relay
  bob_too
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/alice.conf"
  { interface bob 3 && peer relay "$everyone" 198.51.100.1:51820 && say "PersistentKeepalive = 1"; } >"$lab_dir/bob.conf"
  {
    interface relay 1 51820
    engine "Forward = all" "$@"
    peer alice "10.77.0.2/32, fd77::2/128"
    peer bob "10.77.0.3/32, fd77::3/128"
  } >"$lab_dir/relay.conf"
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
  check "alice reaches bob through the relay" wait_for 15 echo_from alice 10.77.0.3
}

echo_from() { at "$1" ping -q -n -c 1 -W 1 "$2" >/dev/null; } # HOST ADDRESS

# echoes HOST ADDRESS COUNT INTERVAL [PING-ARGUMENTS...]: prints how many of COUNT echoes were lost. ping itself waits for the
# last ones no longer than it waited for the others; on a busy machine they come later, so the kernel's count decides.
echoes() {
  local name=$1 address=$2 count=$3 interval=$4 before out
  shift 4
  before=$(replies_to "$name")
  out=$(at "$name" ping -q -n -W 2 -c "$count" -i "$interval" "$@" "$address" 2>&1) || :
  say "$out" >&2
  wait_for 2 has_replies "$name" $((before + count)) || :
  say $((before + count - $(replies_to "$name")))
}
replies_to() { at "$1" nstat -asz IcmpInEchoReps Icmp6InEchoReplies | awk '/EchoRep/ { n += $2 } END { print n }'; }
has_replies() { (($(replies_to "$1") >= $2)); }
no_loss() { [[ $(echoes "$@") == 0 ]]; }

# Inner packets of both families, both directions, tiny to full size and beyond (inner fragments).
both_ways() { # HOST ADDRESS-ENDING HOST ADDRESS-ENDING
  local size
  for size in 0 1 56 1372 4000; do
    check "IPv4 echo of $size B, $1 to $3" no_loss "$1" "10.77.0.$4" 3 0.01 -s "$size"
    check "IPv4 echo of $size B, $3 to $1" no_loss "$3" "10.77.0.$2" 3 0.01 -s "$size"
    check "IPv6 echo of $size B, $1 to $3" no_loss "$1" "fd77::$4" 3 0.01 -s "$size"
    check "IPv6 echo of $size B, $3 to $1" no_loss "$3" "fd77::$2" 3 0.01 -s "$size"
  done
}

# 20 MB over TCP arrive unaltered. HOST-THAT-SERVES ITS-ADDRESS HOST-THAT-FETCHES
transfer() {
  mkdir -p "$lab_dir/files"
  [[ -f $lab_dir/files/blob ]] || head -c 20000000 /dev/urandom >"$lab_dir/files/blob"
  spawn "http-$1" "$1" python3 -m http.server --bind "$2" --directory "$lab_dir/files" 8000
  wait_for 15 listens "$1" 8000 || return 1
  at "$3" timeout 60 python3 -c 'import sys, urllib.request, shutil
shutil.copyfileobj(urllib.request.urlopen(sys.argv[1]), open(sys.argv[2], "wb"))' "http://$2:8000/blob" "$lab_dir/files/copy"
  halt "http-$1"
  cmp "$lab_dir/files/blob" "$lab_dir/files/copy"
}

handshake_of() { at "$1" wg show "$1" latest-handshakes | awk -v key="$(public "$2")" '$1 == key { print $2 }'; } # DEVICE PEER
endpoint_of() { at "$1" wg show "$1" endpoints | awk -v key="$(public "$2")" '$1 == key { print $2 }'; }
drop_count() { at relay "$WIREPLANE_RELAY" show relay --json | jq -r ".engine.drops.$1"; }

# shellcheck shell=bash
# A laboratory: hosts that are network namespaces, joined by veth wires, inside a sandbox that nothing outlives.
# Sourced by run.sh and by the interoperability tests.
#
# lab_enter re-runs the calling script in mount, network and process namespaces of its own. Names of namespaces, sockets
# under /run and processes are therefore private: two laboratories on one machine never meet, the host's network is never
# touched, and when the script ends, is interrupted or killed, the kernel takes everything away with its process 1.
#
#   lab_enter "$@"                          first; what follows runs inside
#   host alice relay                        network namespaces
#   wire relay 192.0.2.1/24 alice 192.0.2.2/24 [relay_v6 alice_v6]      devices are named after the other end
#   at alice ping ...                       a command on a host
#   spawn NAME alice COMMAND...             in the background; its output goes to $lab_logs/NAME.log; halt NAME [SIGNAL]
#   peer_up alice FILE [IMPLEMENTATION]     a stock WireGuard device `alice` on host alice, wg-quick's format; else one of
#                                           kernel, wireguard-go, wireguard-go-new, boringtun
#   relay_up relay FILE                     the device `relay` on host relay: wireplane, or $WIREPLANE_RELAY

: "${WIREPLANE_RELAY:=$repo/build/release/wireplane}"

lab_enter() {
  if [[ -n ${WIREPLANE_LAB:-} ]]; then
    lab_furnish
    return
  fi
  [[ -e /dev/net/tun ]] || modprobe tun 2>/dev/null || die "no /dev/net/tun: load the tun module (modprobe tun)"
  local user=() status=0
  ((EUID == 0)) || user=(--user --map-root-user)
  setpriv --pdeathsig KILL unshare "${user[@]}" --mount --net --pid --fork --kill-child --mount-proc --propagation private \
    env WIREPLANE_LAB=1 bash "$0" "$@" &
  local sandbox=$!
  # Process 1 of a process namespace ignores SIGTERM and SIGINT; killing its parent takes it and all it started along.
  # shellcheck disable=SC2064
  trap "kill -KILL $sandbox 2>/dev/null || :" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  wait "$sandbox" || status=$?
  trap - EXIT
  exit "$status"
}

lab_furnish() {
  mount -t tmpfs -o mode=0755 lab /run || die "cannot mount inside the sandbox"
  mkdir -p /run/netns /run/wireguard /run/lab
  lab_dir=/run/lab
  lab_logs=${WIREPLANE_LAB_LOGS:-/run/lab}
  mkdir -p "$lab_logs"
  ip link set lo up
  declare -gA lab_pids=()
  umask 077
}

host() {
  local name
  for name in "$@"; do
    ip netns add "$name"
    at "$name" ip link set lo up
    # Two tests at a time on two cores: a reassembly or ARP queue that is too small would look like our loss.
    at "$name" sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
  done
}

at() {
  local name=$1
  shift
  ip netns exec "$name" "$@"
}

wire() {
  local a=$1 a4=$2 b=$3 b4=$4 a6=${5:-} b6=${6:-}
  ip link add "to-$b" netns "$a" type veth peer name "to-$a" netns "$b"
  at "$a" ip address add "$a4" dev "to-$b"
  at "$b" ip address add "$b4" dev "to-$a"
  if [[ -n $a6 ]]; then
    at "$a" ip -6 address add "$a6" dev "to-$b" nodad
    at "$b" ip -6 address add "$b6" dev "to-$a" nodad
  fi
  at "$a" ip link set "to-$b" up
  at "$b" ip link set "to-$a" up
}

spawn() {
  local label=$1 name=$2
  shift 2
  ip netns exec "$name" "$@" >>"$lab_logs/$label.log" 2>&1 </dev/null &
  lab_pids[$label]=$!
}

listens() { at "$1" ss -Hltn "sport = :$2" | grep -q .; }
alive() { kill -0 "${lab_pids[$1]}" 2>/dev/null; }

halt() {
  local label=$1 signal=${2:-TERM} pid=${lab_pids[$1]:-}
  [[ -n $pid ]] || return 0
  kill -"$signal" "$pid" 2>/dev/null || :
  wait "$pid" 2>/dev/null || :
  unset "lab_pids[$label]"
}

# private NAME, public NAME: that host's key, made when first asked for. shared_secret NAME: a preshared key.
private() {
  [[ -f $lab_dir/$1.key ]] || wg genkey >"$lab_dir/$1.key"
  cat "$lab_dir/$1.key"
}
public() { private "$1" | wg pubkey; }
shared_secret() {
  [[ -f $lab_dir/$1.psk ]] || wg genpsk >"$lab_dir/$1.psk"
  cat "$lab_dir/$1.psk"
}

# The words of wg-quick's format that `wg setconf` does not know, taken out.
wg_part() {
  awk '{ line = $0; gsub(/[ \t]/, "", line) }
       line ~ /^\[/ { engine = (line == "[Engine]") }
       engine || line ~ /^(Address|MTU|Table|DNS|FwMarkAuto|Group)=/ { next }
       { print }' "$1"
}
conf_value() { sed -n "s/^$2 *= *//p" "$1" | tr ',\n' '  '; }

# What a stock device is here: the kernel's where the host has it, wireguard-go elsewhere.
stock_wireguard() {
  if [[ -z ${lab_stock:-} ]]; then
    lab_stock=wireguard-go
    if [[ ${WIREPLANE_PEER:-} != wireguard-go ]] && ip link add wgprobe type wireguard 2>/dev/null; then
      ip link del wgprobe
      lab_stock=kernel
    fi
  fi
  printf '%s\n' "$lab_stock"
}

peer_up() {
  local name=$1 conf=$2 implementation=${3:-$(stock_wireguard)} program address allowed
  program=$(peer_program "$implementation")
  case $implementation in
    kernel) at "$name" ip link add "$name" type wireguard ;;
    boringtun) spawn "$name" "$name" env WG_LOG_LEVEL="${BORINGTUN_LOG:-error}" "$program" --foreground --disable-drop-privileges "$name" ;;
    *) spawn "$name" "$name" env LOG_LEVEL="${WIREGUARD_GO_LOG:-error}" "${program:-wireguard-go}" -f "$name" ;;
  esac
  [[ $implementation == kernel ]] || wait_for 20 answers "$name" || die "$implementation on $name did not start"
  at "$name" wg setconf "$name" <(wg_part "$conf")
  for address in $(conf_value "$conf" Address); do at "$name" ip address add "$address" dev "$name"; done
  at "$name" ip link set mtu "$(conf_value "$conf" MTU | grep -o '[0-9]*' || echo 1420)" up dev "$name"
  for allowed in $(at "$name" wg show "$name" allowed-ips | cut -f2-); do
    [[ $allowed == '(none)' ]] || at "$name" ip route replace "$allowed" dev "$name"
  done
}

relay_up() {
  local name=$1 conf=$2
  case $WIREPLANE_RELAY in
    wireguard-go) # the stand-in that these scripts were written with; the host's kernel forwards for it
      peer_up "$name" "$conf"
      at "$name" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
      ;;
    *)
      spawn "$name" "$name" "$WIREPLANE_RELAY" run "$conf" --name "$name"
      if ! wait_for "${lab_patience:-10}" answers "$name"; then # DPDK takes longer to start
        tail -n 20 "$lab_logs/$name.log" >&2
        die "wireplane on $name did not start (above: its last words)"
      fi
      ;;
  esac
}
answers() { alive "$1" && at "$1" wg show "$1"; }
is_wireplane() { [[ $WIREPLANE_RELAY != wireguard-go ]]; }

# shellcheck shell=bash
# wg(8) against the relay's UAPI socket: each command does what it does to a stock device.
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh

# The same commands to wireplane and to wireguard-go; after each, `wg show dump` and `wg showconf` must agree.
case_wg_commands() {
  host relay stock
  { interface relay 1 51820 && engine; } >"$lab_dir/relay.conf"
  { interface relay 1 51820; } >"$lab_dir/stock.conf"
  relay_up relay "$lab_dir/relay.conf"
  WIREPLANE_PEER=wireguard-go peer_up stock "$lab_dir/stock.conf"
  local a b c k="$lab_dir/psk"
  a=$(public a) b=$(public b) c=$(public c)
  shared_secret k >"$k"
  private other >"$lab_dir/other.key"

  both set listen-port 51900
  both set fwmark 0x1234
  both set fwmark off
  both set peer "$a" allowed-ips 10.77.0.2/32,fd77::2/128,10.80.0.0/16
  both set peer "$a" endpoint 192.0.2.2:1000
  both set peer "$a" preshared-key "$k"
  both set peer "$b" endpoint '[2001:db8:1::2]:2000' allowed-ips 10.77.0.3/32,0.0.0.0/0,::/0
  both set peer "$b" allowed-ips 10.80.0.0/16             # moves from a, replaces b's others
  both set peer "$a" allowed-ips 10.77.0.99/24            # host bits are cut off
  both set peer "$a" allowed-ips ''
  both set peer "$a" preshared-key /dev/null
  both set peer "$c" remove                               # never was there
  both set peer "$c" allowed-ips 10.90.0.0/16 peer "$b" remove
  both set peer "$(public relay)" allowed-ips 10.91.0.0/16 # our own key is nobody's peer
  cat >"$lab_dir/set.conf" <<EOF
[Interface]
ListenPort = 51901
PrivateKey = $(private relay)
[Peer]
PublicKey = $a
AllowedIPs = 10.77.1.0/24, fd77:1::/64
PresharedKey = $(<"$k")
Endpoint = 192.0.2.77:7
[Peer]
PublicKey = $b
AllowedIPs = 10.77.2.0/24
EOF
  both setconf "$lab_dir/set.conf"                         # c is gone
  printf '[Peer]\nPublicKey = %s\nAllowedIPs = 10.77.3.0/24, 10.77.2.0/25\n' "$c" >"$lab_dir/add.conf"
  both addconf "$lab_dir/add.conf"
  both syncconf "$lab_dir/set.conf"                        # c is gone again, a and b are as they were
  both syncconf "$lab_dir/set.conf"
  both set private-key "$lab_dir/other.key"
  both set peer "$a" persistent-keepalive 25
  both set peer "$a" persistent-keepalive off
  both set peer "$a" peer "$b" allowed-ips 10.77.1.0/24
  refuses_alike "peer=not-hex" "set=1\npublic_key=zz\n\n"
  refuses_alike "an unknown key" "set=1\nno_such_key=1\n\n"
  refuses_alike "a port beyond 65535" "set=1\nlisten_port=70000\n\n"
  refuses_alike "an allowed IP of nonsense" "set=1\npublic_key=$(base64 -d <<<"$a" | od -An -tx1 | tr -d ' \n')\nallowed_ip=10.0.0.0/33\n\n"
  refuses_alike "an unknown operation" "frob=1\n\n"
}
described() { # DEVICE: what wg tells of it, peers sorted, without names and counters
  at "$1" wg show "$1" dump | awk -F '\t' -v OFS='\t' 'NR == 1 { print; next } { n = split($4, ips, ","); asort_join = ""
    for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (ips[j] < ips[i]) { t = ips[i]; ips[i] = ips[j]; ips[j] = t }
    for (i = 1; i <= n; i++) asort_join = asort_join (i > 1 ? "," : "") ips[i]
    print $1, $2, $3, asort_join, $8 }' | sort
  at "$1" wg showconf "$1" | tr -d ' ' | tr ',' '\n' | sort
}
both() { # a wg command without the device's name, to both devices
  local verb=$1 ours=0 theirs=0
  shift
  at relay wg "$verb" relay "$@" >"$lab_dir/ours.out" 2>&1 || ours=$?
  at stock wg "$verb" stock "$@" >"$lab_dir/theirs.out" 2>&1 || theirs=$?
  if [[ $ours != "$theirs" ]]; then
    cat "$lab_dir/ours.out" "$lab_dir/theirs.out"
    fail "wg $verb $*: exit status $ours here, $theirs there"
  fi
  if ! diff -u --label stock --label wireplane <(described stock) <(described relay) >"$lab_dir/diff"; then
    cat "$lab_dir/diff"
    fail "wg $verb $*: the devices differ (above)"
  fi
  say "ok: wg $verb $*"
}
uapi_errno() { # DEVICE TEXT-FOR-PRINTF
  python3 - "$1" "$2" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(5)
s.connect(f"/var/run/wireguard/{sys.argv[1]}.sock")
s.sendall(sys.argv[2].encode().decode("unicode_escape").encode())
reply = b""
while b"errno=" not in reply or not reply.endswith(b"\n\n"):
    part = s.recv(65536)
    if not part:
        break
    reply += part
print([line for line in reply.decode().split("\n") if line.startswith("errno=")][-1:])
PY
}
refuses_alike() { # WHAT TEXT: both say no (the errno itself differs between the kernel and wireguard-go)
  local ours theirs
  ours=$(uapi_errno relay "$2") theirs=$(uapi_errno stock "$2")
  say "ok: $1: $ours, wireguard-go $theirs"
  check "$1 is refused" test "$ours" != "['errno=0']"
  check "and the device is as before" diff <(described stock) <(described relay)
}

# syncconf that changes nothing keeps sessions; a changed preshared key costs one handshake, no more.
case_syncconf_keeps_sessions() {
  hub
  local first
  first=$(handshake_of relay alice)
  at relay wg showconf relay >"$lab_dir/sync.conf"
  sleep 2
  at relay wg syncconf relay "$lab_dir/sync.conf"
  check "no packet lost after a no-op syncconf" no_loss alice 10.77.0.3 50 0.01
  check "no new handshake was needed" test "$(handshake_of relay alice)" = "$first"
  check "counters were kept" test "$(at relay wg show relay transfer | awk '$2 > 5000 { n++ } END { print n + 0 }')" = 2
}

# wg show tells what happened: handshake time, endpoint and octets, on a device with traffic.
case_wg_show() {
  hub
  check "200 echoes" no_loss alice 10.77.0.3 200 0.002
  at relay wg show relay
  check "alice's endpoint is shown" test "$(endpoint_of relay alice | cut -d: -f1)" = 192.0.2.2
  check "her handshake was just now" test $(($(date +%s) - $(handshake_of relay alice))) -le 30
  local sent received
  read -r received sent < <(at relay wg show relay transfer | awk -v key="$(public alice)" '$1 == key { print $2, $3 }')
  figure "alice's octets at the relay: $received received, $sent sent"
  # 200 echoes of 84 B are 96 B padded, 128 B on the wire; the kernel counts whole messages, each way
  check "octets received are counted as the kernel does" test "$received" -ge 25600 -a "$received" -le 40000
  check "octets sent are counted as the kernel does" test "$sent" -ge 25600 -a "$sent" -le 40000
}

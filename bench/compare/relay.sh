#!/usr/bin/env bash
# relay.sh: the lab that benchmarks of a relay share; to be sourced (bash).
#
#   alice (stock) ==tunnel== relay (wireplane) ==tunnel== bob (stock)
#   10.77.0.2                10.77.0.1                    10.77.0.3
#
#   lab_of_two_ends "$@"             builds what is missing, enters the lab, brings alice and bob up
#   relay_conf ENGINE-LINES...       the relay's file, with these lines in [Engine]
#   echoes_pass                      alice reaches bob
#   times FILE                       milliseconds of the echoes that ping(8) wrote to FILE
#   quantile Q                       of the numbers read
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=deploy/common.sh
source "$root/deploy/common.sh"
# shellcheck source=deploy/lab.sh
source "$root/deploy/lab.sh"

end_conf() { # NAME ADDRESS ENDPOINT
  cat <<EOF
[Interface]
PrivateKey = $(private "$1")
Address = $2/24
[Peer]
PublicKey = $(public relay)
AllowedIPs = 10.77.0.0/24
Endpoint = $3:51820
PersistentKeepalive = 25
EOF
}
relay_conf() {
  cat <<EOF
[Interface]
PrivateKey = $(private relay)
ListenPort = 51820
Address = 10.77.0.1/24
[Engine]
Workers = 1
Forward = all
$(printf '%s\n' "$@")
[Peer]
PublicKey = $(public alice)
AllowedIPs = 10.77.0.2/32
[Peer]
PublicKey = $(public bob)
AllowedIPs = 10.77.0.3/32
EOF
}
lab_of_two_ends() {
  [[ -n ${WIREPLANE_LAB:-} ]] || build release wireplane
  lab_enter "$@"
  host alice relay bob
  wire relay 192.0.2.1/24 alice 192.0.2.2/24
  wire relay 198.51.100.1/24 bob 198.51.100.2/24
  end_conf alice 10.77.0.2 192.0.2.1 >"$lab_dir/alice.conf"
  end_conf bob 10.77.0.3 198.51.100.1 >"$lab_dir/bob.conf"
  peer_up alice "$lab_dir/alice.conf"
  peer_up bob "$lab_dir/bob.conf"
}
echoes_pass() { wait_for 20 at alice ping -q -n -c 1 -W 1 10.77.0.3 || die "no way through the relay"; }
times() { sed -n 's/.*time=\([0-9.]*\) ms/\1/p' "$1"; }
quantile() { sort -n | awk -v q="$1" '{ v[NR] = $1 } END { i = int(q * NR + 0.999999); print v[i < 1 ? 1 : i] }'; }

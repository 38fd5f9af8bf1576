#!/usr/bin/env bash
# peers.sh [PEERS]: a relay that is given a million peers by wg(8), and asked for them, while two others talk through it.
#
#   alice (stock) ==tunnel== relay (wireplane) ==tunnel== bob (stock)       an echo every 5 ms all the while
#
# Prints what `wg addconf` and `wg show dump` took, octets of the relay's memory a peer (each with an endpoint, a /32 and
# a /128, no session), and what became of the echoes meanwhile: lost, median, 99 %, longest.
set -euo pipefail
# shellcheck source=bench/compare/relay.sh
source "$(dirname "${BASH_SOURCE[0]}")/relay.sh"
peers=${1:-1000000}

many_conf() { # peers that nobody is
  python3 - "$peers" <<'EOF'
import base64, os, sys
for i in range(int(sys.argv[1])):
    print(f"[Peer]\nPublicKey = {base64.b64encode(os.urandom(32)).decode()}\nEndpoint = 192.0.2.9:{1024 + i % 60000}\n"
          f"AllowedIPs = 10.{128 + (i >> 16)}.{i >> 8 & 255}.{i & 255}/32, fd00::{i >> 16:x}:{i & 65535:x}/128")
EOF
}
resident() { awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$(pgrep -n -x wireplane)/status"; }

while_echoing() { # WHAT COMMAND...: runs it between two seconds of echoes
  local what=$1 begin end pinger sent
  shift
  at alice ping -n -i 0.005 -W 1 10.77.0.3 >"$lab_dir/echoes" &
  pinger=$!
  sleep 1
  begin=$(date +%s.%N)
  "$@" >"$lab_dir/out"
  end=$(date +%s.%N)
  sleep 1
  pkill -INT -x ping # of this sandbox's processes; it says what was lost
  wait "$pinger" || :
  sent=$(sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' "$lab_dir/echoes")
  times "$lab_dir/echoes" >"$lab_dir/times"
  awk -v what="$what" -v s="$(awk "BEGIN { print $end - $begin }")" -v sent="$sent" -v median="$(quantile 0.5 <"$lab_dir/times")" \
    -v high="$(quantile 0.99 <"$lab_dir/times")" -v longest="$(quantile 1 <"$lab_dir/times")" 'BEGIN { split(sent, n, " ")
    printf "%-14s %6.2f s   echoes: %d of %d lost, median %s ms, 99 %% %s ms, longest %s ms\n", what, s, n[1] - n[2], n[1], median, high, longest }'
}

lab_of_two_ends "$@"
relay_conf "Peers = $((peers + 8))" >"$lab_dir/relay.conf"
many_conf >"$lab_dir/many.conf"
relay_up relay "$lab_dir/relay.conf"
echoes_pass
before=$(resident)
while_echoing "nothing" sleep 2
while_echoing "wg addconf" at relay wg addconf relay "$lab_dir/many.conf"
after=$(resident)
while_echoing "wg show dump" at relay wg show relay dump
(($(wc -l <"$lab_dir/out") == peers + 3)) || die "the dump has $(wc -l <"$lab_dir/out") lines, not $((peers + 3))"
printf '%d octets a peer\n' $(((after - before) / peers))

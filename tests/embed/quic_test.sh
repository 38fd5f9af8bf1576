#!/bin/sh
# Goal: a QUIC library's packets go through a node as plain datagrams: octets come back unaltered, ECN marks are carried.
# Method: the example as server and as client, two processes of nobody's (when we are root), each given the other's line.
# Usage: quic_test.sh PROGRAM [MEGABYTES]
set -eu
megabytes=${2:-8}
if [ "$(id -u)" = 0 ] && [ -z "${WP_DROPPED:-}" ]; then
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  [ -z "${WP_LIBRARY:-}" ] || cp -L "$WP_LIBRARY" "$place/libwireplane.so.0"
  cp -L "$1" "$place/quic_echo"
  cp -L "$0" "$place/quic_test.sh"
  chmod -R a+rX "$place"
  cd "$place"
  WP_DROPPED=1 LD_LIBRARY_PATH="$place" setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all sh "$place/quic_test.sh" "$place/quic_echo" "$megabytes"
  exit
fi
[ "$(id -u)" != 0 ] || { echo "still root"; exit 1; }
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
mkfifo "$pipes/a" "$pipes/b"
"$1" server >"$pipes/a" <"$pipes/b" 2>"$pipes/said" & # the order of opening matters: each waits for its other end
server=$!
"$1" client "$megabytes" <"$pipes/a" >"$pipes/b" && client=0 || client=$?
wait $server && served=0 || served=$?
cat "$pipes/said"
[ "$client$served" = 00 ] || { echo "exit $client and $served"; exit 1; }

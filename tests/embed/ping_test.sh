#!/bin/sh
# Goal: any user's program, within 1 GiB of address space, exchanges packets with another over the library.
# Method: two processes of the example, as nobody (when we are root), under ulimit -v, each given the other's line.
# Usage: ping_test.sh PROGRAM...   (an interpreter and its script are two words)
# shellcheck disable=SC3045  # ulimit -v: dash and bash know it
set -eu
if [ "$(id -u)" = 0 ] && [ -z "${WP_DROPPED:-}" ]; then
  # Away from what only root may read: nobody gets a copy of the program and its library, without capabilities.
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  if [ -n "${WP_LIBRARY:-}" ]; then cp -L "$WP_LIBRARY" "$place/libwireplane.so.0"; export WP_LIBRARY="$place/libwireplane.so.0"; fi
  for file in "$@"; do last=$file; done
  cp -L "$last" "$place/"
  program="$place/$(basename "$last")"
  if [ $# -gt 1 ]; then set -- "$1" "$program"; else set -- "$program"; fi
  cp -L "$0" "$place/ping_test.sh"
  chmod -R a+rX "$place"
  cd "$place"
  WP_DROPPED=1 LD_LIBRARY_PATH="$place" setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all sh "$place/ping_test.sh" "$@"
  exit
fi
[ "$(id -u)" != 0 ] || { echo "still root"; exit 1; }
ulimit -v 1048576
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
mkfifo "$pipes/a" "$pipes/b"
"$@" >"$pipes/a" <"$pipes/b" 2>"$pipes/heard_a" &  # the order of opening matters: each waits for its other end
first=$!
"$@" <"$pipes/a" >"$pipes/b" 2>"$pipes/heard_b" && second=0 || second=$?
wait $first && first=0 || first=$?
echo "user $(id -u), address space $(ulimit -v) KiB: exit $first and $second, heard $(grep -c ping "$pipes/heard_a") and $(grep -c ping "$pipes/heard_b")"
if [ "$first" != 0 ] || [ "$second" != 0 ]; then
  cat "$pipes/heard_a" "$pipes/heard_b"
  exit 1
fi

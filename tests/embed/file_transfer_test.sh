#!/bin/sh
# Goal: a file sent by key arrives as it was, also over a wire that loses one datagram in fifty, by users without privileges.
# Method: the example twice, as nobody when we are root; SHA-256 of both ends' files.
# Usage: file_transfer_test.sh PROGRAM LIBRARY MEGABYTES PERCENT_LOST
set -eu
if [ "$(id -u)" = 0 ] && [ -z "${WP_DROPPED:-}" ]; then
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  cp -L "$1" "$place/program"
  cp -L "$2" "$place/libwireplane.so.0"
  cp -L "$0" "$(dirname "$0")/lossy.py" "$place/"
  chmod -R a+rX "$place"
  WP_DROPPED=1 LD_LIBRARY_PATH="$place" setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all sh "$place/$(basename "$0")" "$place/program" "$2" "$3" "$4"
  exit
fi
program=$1 megabytes=$3 lost=$4
here=$(dirname "$0")
place=$(mktemp -d)
children=
trap 'kill $children 2>/dev/null || :; rm -rf "$place"' EXIT
line_of() {  # the first, once all of it is there: standard error is written word by word
  for _ in $(seq 100); do
    [ "$(head -n 1 "$1" 2>/dev/null | wc -l)" = 1 ] && head -n 1 "$1" && return
    sleep 0.05
  done
}
head -c "${megabytes}000000" /dev/urandom >"$place/file"
mkfifo "$place/key"
"$program" receive <"$place/key" >"$place/copy" 2>"$place/receiver" &
receiver=$!
children=$receiver
exec 3>"$place/key"
# shellcheck disable=SC2046  # two words: key and address
set -- $(line_of "$place/receiver")
key=$1 endpoint=$2
if [ "$lost" != 0 ]; then
  python3 "$here/lossy.py" "${endpoint##*:}" "$lost" >"$place/wire" &
  children="$children $!"
  endpoint=127.0.0.1:$(line_of "$place/wire")
fi
"$program" send "$place/file" "$key" "$endpoint" 2>"$place/sender" &
sender=$!
children="$children $sender"
line_of "$place/sender" | cut -d ' ' -f 1 >&3
exec 3>&-
if ! wait $sender || ! wait $receiver; then
  cat "$place/sender" "$place/receiver"
  exit 1
fi
echo "user $(id -u), $megabytes MB, $lost % lost: $(tail -n 1 "$place/sender")"
[ "$(sha256sum <"$place/file")" = "$(sha256sum <"$place/copy")" ] || { echo "another file arrived"; exit 1; }

#!/bin/sh
# Goal: two people who have told each other their keys chat, and are found again under the same key.
# Method: the example twice in its own directory, lines through pipes.
set -eu
chat=$1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir "$place/a" "$place/b"
own_line() { for _ in $(seq 100); do sed -n 's/^\* \(.*\) port \(.*\)/\1 \2/p' "$1" | grep . && return; sleep 0.1; done; }
mkfifo "$place/to_a"
(cd "$place/a" && exec "$chat" 0 >said <"$place/to_a") &
exec 3>"$place/to_a"
# shellcheck disable=SC2046  # two words: key and port
set -- $(own_line "$place/a/said")
key_a=$1 port_a=$2
mkfifo "$place/to_b"
(cd "$place/b" && exec "$chat" 0 "$key_a" "127.0.0.1:$port_a" >said <"$place/to_b") &
exec 4>"$place/to_b"
# shellcheck disable=SC2046  # two words: key and port
set -- $(own_line "$place/b/said")
echo "$1" >&3
sleep 0.3
echo "hello from b" >&4
for _ in $(seq 100); do grep -q "^> hello from b" "$place/a/said" && break; sleep 0.1; done
echo "hello from a" >&3
for _ in $(seq 100); do grep -q "^> hello from a" "$place/b/said" && break; sleep 0.1; done
exec 3>&- 4>&-
wait
cat "$place/a/said" "$place/b/said"
grep -q "^> hello from b" "$place/a/said" && grep -q "^> hello from a" "$place/b/said" && grep -q "connected" "$place/a/said"
again=$(cd "$place/a" && echo | "$chat" 0 2>/dev/null | sed -n 's/^\* \(.*\) port .*/\1/p')
[ "$again" = "$key_a" ] || { echo "another key after a restart"; exit 1; }

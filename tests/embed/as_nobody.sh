#!/bin/sh
# Runs a program without privileges: as nobody and without capabilities, if we are root; else as we are.
# It and those of its arguments that are files are copied, with the libraries, away from what only root may read.
# Usage: as_nobody.sh LIBRARY[:LIBRARY..] PROGRAM ARGUMENT...
# shellcheck disable=SC3045  # ulimit -n: dash and bash know it
set -eu
libraries=$1
shift
if [ "$(id -u)" != 0 ]; then
  LD_LIBRARY_PATH=$(dirname "${libraries%%:*}") exec "$@"
fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for library in $(echo "$libraries" | tr : ' '); do
  cp -L "$library" "$place/$(basename "$library" | sed 's/\.so.*/.so.0/')"
done
for word; do
  shift
  if [ -f "$word" ]; then
    cp -L "$word" "$place/"
    word=$place/$(basename "$word")
  fi
  set -- "$@" "$word"
done
chmod -R a+rX "$place"
cd "$place"
ulimit -n 16384 2>/dev/null || : # a thousand nodes have 5000 descriptors, and nobody may not ask for more
LD_LIBRARY_PATH="$place" setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"

#!/usr/bin/env bash
# Installs what is missing of the named sets of deploy/packages.txt (build, run, test). Where nothing is missing it asks
# only dpkg and needs no root and no network.
set -euo pipefail
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($#)) || die "usage: deploy/install.sh SET... (sets: build run test)"
for set in "$@"; do
  case $set in build | run | test) ;; *) die "no such set of packages: $set (expected build, run or test)" ;; esac
done

mapfile -t wanted < <(awk -v sets="$*" 'BEGIN { split(sets, s); for (i in s) ask[s[i]] } /^[^#]/ && NF == 2 && ($2 in ask) { print $1 }' \
  "$repo/deploy/packages.txt")
installed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' "${wanted[@]}" 2>/dev/null | sed -n 's/^ii *//p' || true)
mapfile -t missing < <(comm -23 <(printf '%s\n' "${wanted[@]}" | sort) <(sort <<<"$installed"))
((${#missing[@]})) || exit 0

((EUID == 0)) || die "these packages are missing and only root can install them: ${missing[*]}"
say "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
  tail -n 20 "$log" >&2
  die "apt-get could not install them (above: its last words)"
fi

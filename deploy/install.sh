#!/usr/bin/env bash
# Installs what is missing of the named sets of deploy/packages.txt (build, run, test; peers: other implementations of
# WireGuard, compiled by cargo and go). Where nothing is missing it asks only dpkg and needs no root and no network.
set -euo pipefail
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Compiled once a version and machine, into a folder outside the clone. Two callers at a time: the second waits for the first.
install_peers() {
  local name from path missing=0 PATH=$PATH:${HOME:-}/.cargo/bin:/usr/local/go/bin
  mkdir -p "$peers_dir"
  exec 9>"$peers_dir/lock"
  flock 9
  rm -rf "$peers_dir"/build.* # of who was interrupted
  while read -r name from; do
    path=$(peer_program "$name")
    [[ ! -x $path ]] || continue
    if ! command -v "${from%%:*}" >/dev/null; then
      warn "$name needs ${from%%:*}, which is not installed: the tests that want $name are left out"
      missing=1
    elif ! { compile_peer "$from" "$path" || { sleep 5 && compile_peer "$from" "$path"; }; } >"$path.log" 2>&1 </dev/null; then # a registry may hiccup
      tail -n 5 "$path.log" >&2
      warn "$name could not be compiled (all of it: $path.log): the tests that want it are left out"
      missing=1
    fi
  done < <(awk '/^[^#]/ && $3 == "peers" { print $1, $2 }' "$repo/deploy/packages.txt")
  exec 9>&-
  return "$missing"
}
compile_peer() { # cargo:NAME@VERSION or go:MODULE@VERSION, PATH
  local what=${1#*:} built made
  built=$(mktemp -d "$peers_dir/build.XXXXXX")
  case $1 in
    # for interoperability, not for speed: the lowest optimisation compiles in half the time
    cargo:*) CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_TARGET_DIR=$built/target \
      nice -n 10 cargo install --quiet --root "$built" --version "${what#*@}" --locked "${what%@*}" ;;
    go:*) GOBIN=$built/bin nice -n 10 go install "$what" ;;
  esac && made=$(find "$built/bin" -type f | head -n 1) && [[ -n $made ]] && mv "$made" "$2"
  local status=$?
  rm -rf "$built"
  return "$status"
}

(($#)) || die "usage: deploy/install.sh SET... (sets: build run test peers)"
sets=()
for set in "$@"; do
  case $set in
    build | run | test) sets+=("$set") ;;
    peers) install_peers ;;
    *) die "no such set of packages: $set (expected build, run, test or peers)" ;;
  esac
done
((${#sets[@]})) || exit 0

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

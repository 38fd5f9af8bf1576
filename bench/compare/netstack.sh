#!/usr/bin/env bash
# netstack.sh [ROUNDS [MEGABYTES]]: TCP between two programs without privileges, over our library and over wireguard-go's
# netstack (the newest module, compiled by go into build/netstack).
#
#   client == WireGuard over the loopback interface == server        two processes on the same cores, the pairs alternate
#
# wireplane: workers = 0, one thread each; wireplane-1: a worker thread each. A transfer, then connects: what is measured
# is told in tests/embed/netstack_end.cpp. Prints one JSON line an end, then medians, and ratios to netstack of the same run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=deploy/common.sh
source "$root/deploy/common.sh"
rounds=${1:-5} megabytes=${2:-200}
ours=${WIREPLANE_END:-$root/build/release/embed_netstack_end}
theirs=$root/build/netstack/end

[[ -n ${WIREPLANE_END:-} ]] || build release embed_netstack_end
command -v go >/dev/null || die "go is needed to compile the other side"
mkdir -p "${theirs%/*}"
(cd "$root/bench/compare/netstack" && go build -mod=readonly -o "$theirs" .)

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkfifo "$place/a" "$place/b"
pair() { # NAME ROUND PROGRAM [ARGUMENTS behind MEGABYTES...]
  local name=$1 round=$2 program=$3 server
  shift 3
  taskset -c 0,1 "$program" server "$megabytes" "$@" >"$place/a" <"$place/b" 2>"$place/server" &
  server=$!
  timeout 120 taskset -c 0,1 "$program" client "$megabytes" "$@" <"$place/a" >"$place/b" 2>"$place/client" || die "$name: $(cat "$place/client")"
  wait "$server" || die "$name: $(cat "$place/server")"
  jq -c --arg name "$name" --argjson round "$round" '{pair: $name, round: $round} + .' "$place/client" "$place/server" | tee -a "$place/rows"
}
for ((i = 1; i <= rounds; i++)); do
  pair netstack "$i" "$theirs"
  pair wireplane "$i" "$ours"
  pair wireplane-1 "$i" "$ours" 1
done

jq -rs --argjson mb "$megabytes" '
  def median: sort | .[(length - 1) / 2 | floor];
  def of(p): map(select(.pair == p));
  def figures: {
    "Mbit/s": ([.[] | select(.bulk_s) | $mb * 8 / .bulk_s] | median),
    "CPU s/GB, both ends": (group_by(.round) | map((map(.cpu_s) | add) * 1000 / $mb) | median),
    "peak MiB, client": ([.[] | select(.bulk_s) | .peak_kib / 1024] | median),
    "peak MiB, server": ([.[] | select(.bulk_s | not) | .peak_kib / 1024] | median),
    "first octet, new tunnel, ms": ([.[] | select(.bulk_s) | .first_cold_ms] | median),
    "first octet, ms": ([.[] | select(.bulk_s) | .first_warm_ms] | median)};
  def round3: . * 1000 | round / 1000;
  (of("netstack") | figures) as $n | (of("wireplane") | figures) as $w | (of("wireplane-1") | figures) as $t |
  (["median of " + (map(.round) | max | tostring), "netstack", "wireplane", "ratio", "wireplane-1", "ratio"],
   ($n | keys_unsorted[] | [., ($n[.] | round3), ($w[.] | round3), ($w[.] / $n[.] | round3), ($t[.] | round3), ($t[.] / $n[.] | round3)])) | @tsv' \
  "$place/rows" | column -t -s $'\t'

#!/usr/bin/env bash
# Interoperability: wireplane against WireGuard's other implementations, over wires of this machine only.
#
#   tests/interop/run.sh                 all cases, several at a time; logs of each in build/interop/CASE/
#   tests/interop/run.sh --list          their names and what they show
#   tests/interop/run.sh --jobs N GLOB.. those that match
#   WIREPLANE_RELAY=wireguard-go ...     the same with wireguard-go in wireplane's place (are the tests right?)
#
# Every case has the part it needs of one topology, in a sandbox of its own (deploy/lab.sh):
#
#    host alice                      host relay                        host bob             guest (qemu, a real kernel)
#   +-----------------+         +----------------------+         +-----------------+         +-----------------+
#   | alice  (stock)  |         | relay   (wireplane)  |         | bob    (stock)  |         | wg0   (Linux)   |
#   | 10.77.0.2       |= tunnel=| 10.77.0.1   fd77::1  |= tunnel=| 10.77.0.3       |= tunnel=| 10.77.0.4       |
#   | fd77::2         |         |                      |         | fd77::3         |         |                 |
#   +-----------------+         +----------------------+         +-----------------+         +-----------------+
#     to-relay                    to-alice      to-bob              to-relay                    eth0
#     192.0.2.2 ------ veth ------ 192.0.2.1   198.51.100.1 - veth - 198.51.100.2     203.0.113.2
#     2001:db8:1::2 - veth - 2001:db8:1::1     2001:db8:2::1 - veth - 2001:db8:2::2      |
#                                  tap0 203.0.113.1 ------------------- tap ------------ +
#
# stock = the kernel's WireGuard where this host has it, else Debian's wireguard-go.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/common.sh
source "$here/../../deploy/common.sh"
# shellcheck source=deploy/lab.sh
source "$repo/deploy/lab.sh"
# shellcheck source=tests/interop/world.sh
source "$here/world.sh"
# shellcheck source=tests/interop/kernel_guest.sh
source "$here/kernel_guest.sh"
# shellcheck source=tests/interop/matrix.sh
source "$here/matrix.sh"
declare -A limit=() # seconds a case may take; 100 where it says nothing
for file in "$here"/cases_*.sh; do
  # shellcheck source=/dev/null
  source "$file"
done

cases() { declare -F | sed -n 's/^declare -f case_//p'; }
summary_of() { grep -h -B 2 "^case_$1()" "$here"/cases_*.sh | sed -n 's/^# //p'; }

# One case, in the sandbox. Its output goes to the log; its last line tells why it failed or was left out.
if [[ ${1:-} == --one ]]; then
  lab_enter "$@"
  "case_$2"
  exit 0
fi

run_case() { # NAME -> one line "PASS|FAIL|SKIP name seconds reason" in the results
  local name=$1 status=0 began verdict reason=
  local logs="$repo/build/interop/$name"
  rm -rf "$logs"
  mkdir -p "$logs"
  began=$(now_ms)
  WIREPLANE_LAB_LOGS=$logs timeout -k 5 "${limit[$name]:-100}" bash "$here/run.sh" --one "$name" >"$logs/case.log" 2>&1 </dev/null || status=$?
  case $status in
    0) verdict=PASS ;;
    77) verdict=SKIP reason=$(tail -n 1 "$logs/case.log") ;;
    124 | 137) verdict=FAIL reason="took more than ${limit[$name]:-100} s" ;;
    *) verdict=FAIL reason=$(tail -n 1 "$logs/case.log") ;;
  esac
  local line
  line=$(printf '%s  interop/%-42s %4d s  %s' "$verdict" "$name" $((($(now_ms) - began + 500) / 1000)) "$reason")
  printf '%s\n' "$line" >>"$results"
  say "$line"
  grep -h '^figure: ' "$logs/case.log" | sed 's/^figure:/      /' || :
  if [[ $verdict == FAIL ]]; then
    say "      its log (build/interop/$name/):"
    tail -n 25 "$logs/case.log" | sed 's/^/      | /'
  fi
}

jobs=4 # some wait for clocks most of their time
globs=()
while (($#)); do
  case $1 in
    --list)
      for name in $(cases); do printf '%-42s %s\n' "$name" "$(summary_of "$name")"; done
      exit 0
      ;;
    --jobs) jobs=$2 && shift ;;
    -*) die "unknown option $1 (expected --list, --jobs N or names of cases)" ;;
    *) globs+=("$1") ;;
  esac
  shift
done
((${#globs[@]})) || globs=('*')

mkdir -p "$repo/build/interop"
results=$(mktemp "$repo/build/interop/results.XXXXXX") # (two runs at a time may share the folder)
chosen=()
for name in $(cases); do
  for glob in "${globs[@]}"; do
    # shellcheck disable=SC2053
    if [[ $name == $glob ]]; then chosen+=("${limit[$name]:-100} $name") && break; fi
  done
done
((${#chosen[@]})) || die "no case is called so (see --list)"

if printf '%s\n' "${chosen[@]}" | grep -qE ' (peer|matrix)_'; then # where cargo or go is absent it says so, and cells are left out
  "$repo/deploy/install.sh" peers || :
fi
if printf '%s\n' "${chosen[@]}" | grep -qE ' (guest|peer|matrix)_'; then # the sandboxes have no network to fetch a kernel from
  "$here/kernel_guest.sh" build >"$repo/build/kernel-guest.log" 2>&1 </dev/null || tail -n 3 "$repo/build/kernel-guest.log"
fi

trap 'exit 130' INT TERM
trap 'kill $(jobs -p) 2>/dev/null || :; rm -f "$results"' EXIT
while read -r _ name; do # the longest first
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n || :; done
  run_case "$name" &
done < <(printf '%s\n' "${chosen[@]}" | sort -k1,1nr -s)
wait

# ---- the matrix: what each implementation did, property by property, as matrix.sh's cells tell it ----
cells=()
for name in $(printf '%s\n' "${chosen[@]#* }" | sort -r); do # peer_* before matrix_*
  if [[ -s $repo/build/interop/$name/cells ]]; then cells+=("$repo/build/interop/$name/cells"); fi
done
if ((${#cells[@]})); then
  say
  # shellcheck disable=SC2154  # implementations: matrix.sh
  awk -F '|' -v names="${implementations[*]}" '
    BEGIN { count = split(names, name, " ") }
    $2 == "all" { absent[$1] = $4; next }
    { if (!($2 in seen)) { seen[$2] = 1; property[++properties] = $2 }
      verdict[$1, $2] = $3 == "DEVIATES" ? "deviates" : $3 == "PASS" ? "pass" : $3; if ($4 != "") remark[++remarks] = $1 ", " $2 ": " $4 }
    END {
      printf "%-36s", "property"; for (i = 1; i <= count; i++) printf " %-16s", name[i]; print ""
      for (p = 1; p <= properties; p++) {
        printf "%-36s", property[p]
        for (i = 1; i <= count; i++) {
          v = verdict[name[i], property[p]]
          printf " %-16s", v != "" ? v : name[i] in absent ? "SKIP" : "-"
        }
        print ""
      }
      for (i = 1; i <= remarks; i++) print "  " remark[i]
      for (a in absent) print "  " a ": " absent[a]
    }' "${cells[@]}" | sed 's/ *$//'
  say
fi

failed=$(grep -c ^FAIL "$results" || :)
say "interop: $(grep -c ^PASS "$results" || :) passed, $failed failed, $(grep -c ^SKIP "$results" || :) skipped"
if [[ ${CI:-} == true ]] && ((${#cells[@]})) && grep -q '|SKIP|' "${cells[@]}"; then
  say "in CI no implementation may be absent"
  failed=$((failed + 1))
fi
((failed == 0))

#!/usr/bin/env bash
# Installs, builds and tests, kind by kind; a summary by kind at the end.
#
#   sudo deploy/test.sh           every day: bounded, about a quarter of an hour on two cores
#   sudo deploy/test.sh --full    also what takes longer: all seeded faults, clang-tidy, longer fuzzing and soak
#   deploy/test.sh --only KIND..  only these kinds: tidy unit soak faults asan tsan fuzz bench interop coverage
#
# Without root it runs what needs none and says what it left out. Where CI=true, a test that is left out is a failure.
# Interoperability waits for clocks most of its time (a rekey takes two minutes): it runs beside the builds.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/common.sh
source "$here/common.sh"
cd "$repo"

all_kinds=(tidy unit soak faults asan tsan fuzz bench interop coverage)
kinds=("${all_kinds[@]}")
full=
while (($#)); do
  case $1 in
    --full)
      full=yes
      ;;
    --only)
      shift
      kinds=("$@")
      break
      ;;
    *) die "unknown option $1 (expected --full or --only KIND...)" ;;
  esac
  shift
done
for kind in "${kinds[@]}"; do
  [[ -z $kind || " ${all_kinds[*]} " == *" $kind "* ]] || die "no such kind of test: $kind (expected: ${all_kinds[*]})"
done
wanted() { [[ " ${kinds[*]} " == *" $1 "* ]]; }

out=$repo/build/test # logs and reports of this run
rm -rf "$out"
mkdir -p "$out"
: >"$out/tally"
: >"$out/left-out"
began=$(now_ms)
cores=$(nproc)
export WG_SHARED=${WG_SHARED:-$repo/../shared}

# tally KIND PASSED FAILED SKIPPED [REMARK]
tally() {
  printf '%s|%s|%s|%s|%s\n' "$@" >>"$out/tally"
  say "$(printf '%5d s  %-8s %4d passed, %d failed, %d skipped  %s' $((($(now_ms) - began) / 1000)) "$1" "$2" "$3" "$4" "${5:-}")"
}
left_out() { # KIND WHY
  printf '%s: %s\n' "$1" "$2" >>"$out/left-out"
  tally "$1" 0 0 1 "left out: $2"
}
step() { say "$(printf '%5d s  %s' $((($(now_ms) - began) / 1000)) "$*")"; }

# ---- formatting, include rules, scripts ----
run_tidy() {
  local passed=0 failed=0
  rule() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@" >"$out/tidy.log" 2>&1 </dev/null; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      say "FAIL tidy: $what"
      head -n 30 "$out/tidy.log" | sed 's/^/      | /'
    fi
  }
  mapfile -t ours < <(git ls-files '*.cpp' '*.h' '*.c')
  mapfile -t scripts < <(git ls-files 'deploy/*.sh' 'tests/*.sh' 'bench/*.sh' .ci/run)
  rule "clang-format" clang-format --dry-run -Werror "${ours[@]}"
  rule "include and file rules" python3 tests/tidy.py check
  grep '^warning' "$out/tidy.log" || :
  rule "shellcheck" shellcheck -x -P "$repo" "${scripts[@]}"
  python3 tests/tidy.py spec >"$out/spec.tsv"
  tally tidy "$passed" "$failed" 0 "$(wc -l <"$out/spec.tsv") places cite the specification"
}

# ---- GoogleTest programs ----
# run_ctest KIND PRESET [CTEST ARGUMENTS...]; RUN_WRAPPER goes before ctest
run_ctest() {
  local kind=$1 preset=$2 reports="$out/$1" counted status=0 remark=
  shift 2
  mkdir -p "$reports"
  GTEST_OUTPUT="json:$reports/" ${RUN_WRAPPER:-} ctest --test-dir "build/$preset" -j "$cores" --output-on-failure --timeout 300 --output-junit "$reports/ctest.xml" "$@" \
    >"$out/$kind.log" 2>&1 </dev/null || status=$?
  counted=$(python3 tests/proof.py count "$reports")
  local passed failed skipped
  read -r passed failed skipped <<<"$(head -n 1 <<<"$counted")"
  tail -n +2 <<<"$counted" | sed -n 's/^skipped: \(.*\)/'"$kind"': \1/p' >>"$out/left-out"
  if ((status != 0)); then
    ((failed > 0)) || failed=1 # crashed, timed out, or nothing to run
    say "FAIL $kind: what ctest says:"
    { tail -n +2 <<<"$counted" | grep '^failed'; sed -n '/The following tests FAILED/,$p' "$out/$kind.log"
      grep -E 'ERROR: |runtime error|WARNING: ThreadSanitizer|SUMMARY' "$out/$kind.log"; } | head -n 40 | sed 's/^/      | /' || :
    remark="all of it: build/test/$kind.log"
  fi
  ((passed + failed + skipped > 0)) || failed=1
  tally "$kind" "$passed" "$failed" "$skipped" "$remark"
}
broken() { tally "$1" 0 1 0 "does not build"; } # KIND
quietly() { nice -n 10 "$@"; }
build_nicely() { (renice -n 10 $BASHPID >/dev/null && build "$@"); }

run_unit() { run_ctest unit release; }

# Real threads, real sockets, faults, churn: what grows, leaks, drifts or does not add up? (tests/soak)
run_soak() {
  local seconds=20 status=0
  [[ -z $full ]] || seconds=240
  WG_SOAK_S=$seconds timeout $((seconds + 120)) build/release/soak >"$out/soak.log" 2>&1 </dev/null || status=1
  sed -n '/^soak:/,/latency/p' "$out/soak.log" | sed 's/^/      /'
  ((status == 0)) || { say "FAIL soak:" && grep -B 1 -A 6 -E 'Failure|broken invariant' "$out/soak.log" | head -n 30 | sed 's/^/      | /'; }
  tally soak $((1 - status)) "$status" 0 "$seconds s; longer by hand: WG_SOAK_S=1200 build/release/soak"
}

# Lines and branches of dataplane and control that unit tests and simulations reach: without DPDK, so without its tests.
run_coverage() {
  local counted status=0 programs
  mapfile -t programs < <(printf '%s\n' tests/unit/*_test.cpp tests/sim/*_test.cpp | xargs -rn 1 basename -s .cpp | grep -vE '^(ethdev|ether_replay|aead_constant_time|shared_lines)')
  step "building coverage"
  build_nicely coverage "${programs[@]}" || { broken coverage && return; }
  rm -rf build/coverage/profiles
  WG_SEEDS=5 LLVM_PROFILE_FILE=$repo/build/coverage/profiles/%m.profraw run_ctest coverage-run coverage -R "^($(IFS='|' && printf '%s' "${programs[*]}"))\$"
  counted=$(python3 tests/coverage.py build/coverage 2>"$out/coverage.log") || status=$?
  ((status == 0)) || say "FAIL coverage: below the floors of tests/coverage.py, or not counted (build/test/coverage.log)"
  printf '%s\n' "$counted" | sed 's/^/      /'
  tally coverage $((status == 0)) $((status != 0)) 0 "$(tail -n 1 <<<"$counted")"
}

run_asan() {
  step "building asan"
  build_nicely asan || { broken asan && return; }
  ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 run_ctest asan asan
}

# The tests that start threads, found by what they include.
concurrent_tests() {
  grep -lE 'std::j?thread|<thread>|worker_threads\.h|daemon\.h|control/embed/' tests/unit/*_test.cpp tests/sim/*_test.cpp tests/model/*_test.cpp 2>/dev/null |
    xargs -rn 1 basename -s .cpp | grep -vx embed_sctp_memory_test # left out of sanitizers' builds: tests/CMakeLists.txt
}
run_tsan() {
  local names
  mapfile -t names < <(concurrent_tests)
  step "building tsan: ${names[*]}"
  build_nicely tsan "${names[@]}" || { broken tsan && return; }
  # TSan's shadow memory does not fit every layout of a randomised address space: setarch -R
  TSAN_OPTIONS="halt_on_error=0 second_deadlock_stack=1" RUN_WRAPPER="setarch -R" run_ctest tsan tsan -R "^($(IFS='|' && printf '%s' "${names[*]}"))\$"
}

run_faults() {
  local programs counted status=0
  mapfile -t programs < <(python3 tests/tidy.py proves | cut -f 2 | sort -u | xargs -rn 1 basename -s .cpp)
  step "building faults: ${#programs[@]} programs"
  build_nicely faults "${programs[@]}" || { broken faults && return; }
  local budget=(--budget 180)
  [[ -z $full ]] || budget=()
  counted=$(python3 tests/proof.py faults build/faults --jobs "$cores" "${budget[@]}") || status=$?
  head -n -1 <<<"$counted" | sed 's/^/      /'
  local passed failed skipped
  read -r passed failed skipped <<<"$(tail -n 1 <<<"$counted")"
  ((status == 0 || failed > 0)) || failed=1
  tally faults "$passed" "$failed" "$skipped" "tests that fail under their row's seeded fault, as they should"
}

run_fuzz() {
  local seconds=12 passed=0 failed=0 target corpus # eleven targets: within 140 s
  [[ -z $full ]] || seconds=300
  compgen -G 'tests/fuzz/*.cpp' >/dev/null || { step "fuzz: no targets yet" && return; }
  step "building fuzz"
  build_nicely fuzz || { broken fuzz && return; }
  for target in build/fuzz/*fuzz*; do
    [[ -f $target && -x $target ]] || continue
    corpus=tests/fuzz/corpus/$(basename "$target" | sed 's/^fuzz_//; s/_fuzz$//')
    mkdir -p "$out/fuzz/$(basename "$target")"
    [[ -d $corpus ]] || corpus=
    if quietly "$target" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -entropic=0 -print_final_stats=1 \
      -artifact_prefix="$out/fuzz/" "$out/fuzz/$(basename "$target")" ${corpus:+"$corpus"} >"$out/fuzz-$(basename "$target").log" 2>&1 </dev/null; then
      passed=$((passed + 1))
      step "fuzz: $(basename "$target") $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/fuzz-$(basename "$target").log") runs"
    else
      failed=$((failed + 1))
      say "FAIL fuzz: $(basename "$target"), in build/test/fuzz-$(basename "$target").log:"
      tail -n 25 "$out/fuzz-$(basename "$target").log" | sed 's/^/      | /'
    fi
  done
  ((passed + failed > 0)) || failed=1
  tally fuzz "$passed" "$failed" 0 "$seconds s each"
}

run_bench() { # does it run at all? The smallest case of each area/case/implementation, no figures: this machine is busy
  local names
  names=$(build/release/wireplane-bench --benchmark_list_tests | grep -v '/1000000' |
    awk -F / '{ key = $1 "/" $2 "/" ($3 ~ /^[0-9]+$/ ? "" : $3) } !seen[key]++' | tr '\n' '|')
  if [[ -n $names ]] && timeout 240 build/release/wireplane-bench --benchmark_min_time=0.001 --benchmark_filter="^(${names%|})\$" \
    >"$out/bench.log" 2>&1 </dev/null && ! grep -q 'ERROR OCCURRED' "$out/bench.log"; then
    tally bench "$(grep -cE '[0-9] (n|u|m)?s +[0-9.e+]+ (n|u|m)?s ' "$out/bench.log" || :)" 0 0 "the smallest case of each, once, for no figures"
  else
    tail -n 10 "$out/bench.log" | sed 's/^/      | /'
    tally bench 0 1 0 "build/test/bench.log"
  fi
}

run_tidy_full() { # clang-tidy over everything: minutes
  local warnings
  quietly run-clang-tidy -quiet -p build/release "$repo/(dataplane|drivers|control)/.*" >"$out/clang-tidy.log" 2>&1 </dev/null || :
  warnings=$(grep -cE 'warning: ' "$out/clang-tidy.log" || :)
  tally clang-tidy 1 0 0 "$warnings remarks, in build/test/clang-tidy.log"
}

start_interop() {
  if ((EUID != 0)) && ! unshare --user --map-root-user --net --mount --pid --fork true 2>/dev/null; then
    left_out interop "needs root, or a kernel that lets users make network namespaces"
    return
  fi
  nice -n -5 true 2>/dev/null && interop_first=(nice -n -5) || interop_first=()
  "${interop_first[@]}" tests/interop/run.sh >"$out/interop.log" 2>&1 </dev/null &
  interop=$!
}
finish_interop() {
  [[ -n ${interop:-} ]] || return 0
  local passed failed skipped status=0
  wait "$interop" || status=$?
  sed 's/^/      /' "$out/interop.log"
  sed -n 's/^SKIP  interop\/\([^ ]*\) .* s  \(.*\)/interop: \1: \2/p' "$out/interop.log" >>"$out/left-out"
  passed=$(grep -c ^PASS "$out/interop.log" || :)
  failed=$(grep -c ^FAIL "$out/interop.log" || :)
  skipped=$(grep -c ^SKIP "$out/interop.log" || :)
  ((failed > 0 || (status == 0 && passed + skipped > 0))) || failed=1
  tally interop "$passed" "$failed" "$skipped"
}

# ---- the run ----
"$here/install.sh" build run test
interop=
trap 'kill $interop $(jobs -p) 2>/dev/null || :' EXIT
if wanted interop; then # a minute of cargo and go, once a machine; interop/run.sh waits for what is not ready by then
  "$here/install.sh" peers >"$out/peers.log" 2>&1 </dev/null &
fi
trap 'exit 130' INT TERM
! wanted tidy || run_tidy
if wanted unit || wanted soak || wanted bench || wanted interop; then
  step "building release"
  build release || {
    broken release
    kinds=("${kinds[@]/unit/}") kinds=("${kinds[@]/soak/}") kinds=("${kinds[@]/bench/}") kinds=("${kinds[@]/interop/}")
  }
fi
! wanted interop || start_interop
! wanted unit || run_unit
! wanted soak || run_soak
! wanted faults || run_faults
! wanted asan || run_asan
! wanted tsan || run_tsan
! wanted fuzz || run_fuzz
! wanted bench || run_bench
! wanted coverage || run_coverage
! wanted tidy || [[ -z $full ]] || run_tidy_full
finish_interop
interop=

say
if wanted unit; then
  say "The protocol, row by row:"
  python3 tests/proof.py table "$out/unit" build/faults/faults.json "$WG_SHARED/PROTOCOL.md"
  say
fi
if [[ -s $out/left-out ]]; then
  say "Left out:"
  sed 's/^/  /' "$out/left-out"
  # A vector file that lies outside this repository may be absent; all else must run in CI.
  unexcused=$(if [[ -d $WG_SHARED ]]; then cat "$out/left-out"; else grep -vi vectors "$out/left-out" || :; fi)
  if [[ ${CI:-} == true && -n $unexcused ]]; then
    say "in CI nothing may be left out"
    tally left-out 0 "$(wc -l <<<"$unexcused")" 0
  fi
  say
fi
printf '%-12s %7s %7s %8s\n' kind passed failed skipped
awk -F '|' '{ printf "%-12s %7d %7d %8d  %s\n", $1, $2, $3, $4, $5; p += $2; f += $3; s += $4 }
  END { printf "\n%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' "$out/tally"

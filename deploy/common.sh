# shellcheck shell=bash
# What run.sh, test.sh and the interoperability tests share: speaking, failing, waiting, building. Sourced, never run.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# progress TEXT: one line that overwrites itself on a terminal, a line each elsewhere. progress_done leaves the line.
progress() { if [[ -t 1 ]]; then printf '\r\033[K%s' "$*"; else printf '%s\n' "$*"; fi; }
progress_done() { if [[ -t 1 ]]; then printf '\r\033[K'; fi; }

now_ms() {
  local us=${EPOCHREALTIME/[.,]/}
  printf '%s\n' "$((us / 1000))"
}

# wait_for SECONDS COMMAND...: until it succeeds; fails after SECONDS.
wait_for() {
  local deadline=$(($(now_ms) + $1 * 1000))
  shift
  until "$@" >/dev/null 2>&1; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.05
  done
}

# build PRESET [TARGET...]: configures when needed, compiles with every core, shows output only when it fails.
build() {
  local preset=$1 log="$repo/build/$1.log" targets=()
  shift
  (($#)) && targets=(--target "$@")
  mkdir -p "$repo/build"
  local launcher=()
  if command -v ccache >/dev/null; then
    launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache)
  fi
  if ! {
    { [[ -f $repo/build/$preset/build.ninja ]] || (cd "$repo" && cmake --preset "$preset" "${launcher[@]}"); } &&
      cmake --build "$repo/build/$preset" --parallel "$(nproc)" "${targets[@]}" -- -k 20
  } >"$log" 2>&1 </dev/null; then
    grep -E 'error|Error|FAILED' -A 5 "$log" | head -n 60 >&2
    printf 'error: build of preset %s failed; all of it is in build/%s.log\n' "$preset" "$preset" >&2
    return 1
  fi
}

# Where deploy/install.sh compiles peers to: a path for each version, so that a changed pin is compiled anew.
: "${peers_dir:=${WIREPLANE_PEERS:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/wireplane/peers}}"
peer_program() { # NAME of a line of packages.txt
  awk -v name="$1" -v folder="$peers_dir" '$1 == name && $3 == "peers" { sub(/.*@/, "", $2); print folder "/" name "-" $2 }' "$repo/deploy/packages.txt"
}

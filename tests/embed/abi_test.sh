#!/bin/sh
# Goal: what the library exports is what was decided; nothing appears or vanishes by accident.
# Method: the dynamic symbols of the C ABI against exported.txt, line by line; those of the C++ API by their version.
# To accept a change: abi_test.sh LIBRARY exported.txt --write
set -eu
exported() { nm -D --defined-only "$1" | awk '{print $3}' | grep -v '^WIREPLANE' | grep '@@WIREPLANE_[0-9]' | sort; }
if [ "${3:-}" = --write ]; then exported "$1" >"$2"; exit; fi
exported "$1" | diff - "$2" || { echo "the C ABI has changed: a symbol that goes breaks programs, one that comes needs a decision"; exit 1; }
strays=$(nm -D --defined-only "$1" | awk '$2 != "A" {print $3}' | grep -v '@@WIREPLANE_' || true)
[ -z "$strays" ] || { echo "exported without a version: $strays"; exit 1; }
echo "$(exported "$1" | wc -l) symbols of C, $(nm -D --defined-only "$1" | grep -c '@@WIREPLANE_.*CXX') of C++"

#!/bin/sh
# Goal: programs with an IP stack, in C++ and in C, are built outside the tree, against the installed package alone, and run.
# Method: install the component "embed" into an empty place; fetch.cpp by c++ and pkg-config wireplane-ip, a mistake is
# told; hello_ip.c and fetch.c by cc. The latter fetches a page in tests/interop (embed_fetch_c).
# Usage: fetch_package_test.sh BUILD_DIRECTORY SOURCE_DIRECTORY
set -eu
build=$1 source=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cmake --install "$build" --component embed --prefix "$place/there" >/dev/null
pc=$(find "$place/there" -name wireplane-ip.pc)
PKG_CONFIG_PATH=$(dirname "$pc") LD_LIBRARY_PATH=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH LD_LIBRARY_PATH
cp "$source/fetch.cpp" "$place/"
# shellcheck disable=SC2046  # flags are words
${CXX:-c++} -std=c++20 -Wall -Wextra -Werror "$place/fetch.cpp" -o "$place/fetch" $(pkg-config --cflags --libs wireplane-ip)
head -c 32 /dev/urandom | base64 | "$place/fetch" nobody 192.0.2.1:1 10.0.0.1 http://10.0.0.2/ - 2>&1 | grep "expected keys in base64"
for program in hello_ip fetch; do
  # shellcheck disable=SC2046
  ${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/$program.c" -o "$place/$program" -pthread $(pkg-config --cflags --libs wireplane-ip wireplane)
done
"$place/hello_ip"
"$place/fetch" a b c </dev/null 2>&1 | grep "expected THEIR_KEY"

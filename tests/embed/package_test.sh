#!/bin/sh
# Goal: a program outside the tree is built against the installed package, with pkg-config and with CMake, and runs: C, C++, streams.
# Method: install the component "embed" into an empty place; hello.c by cc and pkg-config; ping.cpp and file_transfer.cpp by find_package.
# Usage: package_test.sh BUILD_DIRECTORY SOURCE_DIRECTORY
set -eu
build=$1 source=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cmake --install "$build" --component embed --prefix "$place/there" >/dev/null
pc=$(find "$place/there" -name wireplane.pc)
libraries=$(dirname "$(dirname "$pc")")
PKG_CONFIG_PATH=$(dirname "$pc") LD_LIBRARY_PATH=$libraries
export PKG_CONFIG_PATH LD_LIBRARY_PATH
# shellcheck disable=SC2046  # flags are words
${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/hello.c" -o "$place/hello" $(pkg-config --cflags --libs wireplane)
"$place/hello"
mkdir "$place/project"
cp "$source/ping.cpp" "$source/file_transfer.cpp" "$place/project/"
cat >"$place/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.20)
project(outside LANGUAGES CXX)
find_package(wireplane 0.1 REQUIRED)
foreach(program ping file_transfer)
  add_executable(${program} ${program}.cpp)
  target_compile_features(${program} PRIVATE cxx_std_20)
  target_link_libraries(${program} PRIVATE wireplane::wireplane)
endforeach()
END
cmake -S "$place/project" -B "$place/out" -DCMAKE_PREFIX_PATH="$place/there" >/dev/null
cmake --build "$place/out" >/dev/null
echo "nobody nowhere" | "$place/out/ping" 2>&1 | grep "expected 44 characters"
"$source/file_transfer_test.sh" "$place/out/file_transfer" "$(find "$libraries" -name libwireplane.so.0)" 5 0

#!/bin/sh
# Goal: an application that links the library does not get DPDK with it.
# Method: what the library's dynamic section asks for, and what the loader brings in for that.
set -eu
needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
[ -n "$needed" ] || { echo "no dynamic section in $1"; exit 1; }
echo "$needed"
if echo "$needed" | grep librte_; then echo "DPDK is needed"; exit 1; fi
if ldd "$1" | grep librte_; then echo "DPDK is needed by what is needed"; exit 1; fi

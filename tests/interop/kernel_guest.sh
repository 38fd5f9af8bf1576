#!/usr/bin/env bash
# shellcheck disable=SC2154  # repo: common.sh; lab_dir, lab_logs: lab.sh
#
# A peer that is a Linux kernel's own WireGuard: Debian's stock cloud kernel under qemu's software emulation, so that no
# KVM, no module of the host and no image is needed. About 3 s from start to handshake; for interoperability, not speed.
#
#   tests/interop/kernel_guest.sh build    fetch Debian's package, unpack, make build/kernel-guest/{vmlinux,initrd.cpio}
#   (sourced) guest_up HOST ENDPOINT       start it beside HOST: tap0 203.0.113.1 there, 203.0.113.2 in the guest
#   (sourced) in_guest HOST COMMAND        run a command in it, over the tunnel
#   (sourced) guest_on_lan                 start it as a bare machine on the bridge `lan` of host switch
#   (sourced) guest_do SCRIPT              run a script in that one, by its own link; prints its output, has its exit status
set -euo pipefail
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  # shellcheck source=deploy/common.sh
  source "$(dirname "$0")/../../deploy/common.sh"
fi
guest_dir=$repo/build/kernel-guest

guest_fetch() {
  local package
  [[ -n $(apt-cache depends linux-image-cloud-amd64 2>/dev/null) ]] || { ((EUID == 0)) && apt-get -qq update; }
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-6[^ ]*\)/\1/p' | head -n 1)
  [[ -n $package ]] || die "apt knows no linux-image-cloud-amd64"
  # apt's own download user cannot enter a private directory; we only fetch, so root may
  (cd "$guest_dir" && apt-get -qq -o APT::Sandbox::User=root download "$package" && dpkg-deb -x linux-image-*.deb kernel_package && rm -f linux-image-*.deb)
}

guest_initrd() { # modules in dependency order, busybox, wg and its libraries, our init
  local version=$1 tree=$guest_dir/tree name path library
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,dev,proc,sys,mod,tmp}
  depmod -b "$guest_dir/kernel_package" "$version" 2>/dev/null
  for name in virtio_mmio virtio_pci virtio_net wireguard; do
    modprobe -d "$guest_dir/kernel_package" -S "$version" --show-depends "$name"
  done 2>/dev/null | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    name=$(basename "${path%.xz}")
    case $path in *.xz) xz -dc "$path" ;; *) cat "$path" ;; esac >"$tree/mod/$name"
    strip --strip-debug "$tree/mod/$name"
    printf '%s\n' "$name" >>"$tree/mod/order"
  done
  cp /bin/busybox "$tree/bin/"
  for name in sh mount insmod ip ping cat echo sleep dmesg grep nc cut tr uname head rm sha256sum timeout; do ln -s busybox "$tree/bin/$name"; done
  cp /usr/bin/wg "$tree/bin/"
  ldd /usr/bin/wg | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$tree$(dirname "$library")"
    cp -L "$library" "$tree$library"
  done
  install -m 755 "$repo/tests/interop/guest_init.sh" "$tree/init"
  (cd "$tree" && find . | cpio -o -H newc --quiet) >"$guest_dir/initrd.cpio"
}

guest_vmlinux() { # the microvm machine wants the ELF inside bzImage: its place stands in the boot header
  local bz=$1 setup offset length
  setup=$(od -An -tu1 -j 497 -N 1 "$bz")   # 0x1f1 setup_sects
  offset=$(od -An -tu4 -j 584 -N 4 "$bz")  # 0x248 payload_offset
  length=$(od -An -tu4 -j 588 -N 4 "$bz")  # 0x24c payload_length
  # (head closes the pipe early: no pipefail in here)
  (set +o pipefail && tail -c +$(((setup + 1) * 512 + offset + 1)) "$bz" | head -c "$((length))") >"$guest_dir/payload"
  case $(od -An -tx1 -N 4 "$guest_dir/payload" | tr -d ' ') in
    02214c18) lz4 -qdcf "$guest_dir/payload" ;;
    28b52ffd) zstd -qdcf "$guest_dir/payload" ;;
    fd377a58) xz -dc "$guest_dir/payload" ;;
  esac >"$guest_dir/vmlinux.part" 2>/dev/null || : # a size word follows the compressed stream: they complain, having done it
  rm "$guest_dir/payload"
  [[ $(head -c 4 "$guest_dir/vmlinux.part" | tail -c 3) == ELF ]] || die "could not unpack the kernel $bz"
  mv "$guest_dir/vmlinux.part" "$guest_dir/vmlinux"
}

guest_build() {
  mkdir -p "$guest_dir"
  local version
  [[ -d $guest_dir/kernel_package/boot ]] || guest_fetch
  version=$(basename "$guest_dir"/kernel_package/lib/modules/*)
  [[ -f $guest_dir/vmlinux ]] || guest_vmlinux "$guest_dir/kernel_package/boot/vmlinuz-$version"
  if [[ ! -f $guest_dir/initrd.cpio || $repo/tests/interop/guest_init.sh -nt $guest_dir/initrd.cpio ||
    $repo/tests/interop/kernel_guest.sh -nt $guest_dir/initrd.cpio ]]; then guest_initrd "$version"; fi
  say "$version" >"$guest_dir/version"
}

guest_up() { # HOST [ENDPOINT]: with an endpoint the guest initiates
  local name=$1 endpoint=${2:-}
  at "$name" ip tuntap add dev tap0 mode tap
  at "$name" ip address add 203.0.113.1/30 dev tap0
  at "$name" ip link set tap0 up
  guest_boot "$name" "guest.outer=203.0.113.2/30 guest.inner=10.77.0.4/24 guest.endpoint=$endpoint guest.private=$(private guest) guest.peer=$(public relay)"
}

guest_boot() { # HOST WORDS-OF-ITS-COMMAND-LINE [QEMU-ARGUMENTS...]
  local name=$1 words=$2 khz
  shift 2
  [[ -f $guest_dir/vmlinux && -f $guest_dir/initrd.cpio ]] || leave_out "no guest kernel was built (tests/interop/kernel_guest.sh build)"
  # Ticks are lost where the emulation is starved: a watchdog that trusts them more than the TSC would slow the guest's clock. Nor may timers
  # hang on the frequency of a local APIC that it measured meanwhile: it ticks.
  khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)
  spawn qemu "$name" qemu-system-x86_64 -M microvm,x-option-roms=off,rtc=on,auto-kernel-cmdline=off -accel tcg -cpu qemu64,+rdrand \
    -smp 1 -m 128 -nodefaults -no-user-config -display none -no-reboot -kernel "$guest_dir/vmlinux" -initrd "$guest_dir/initrd.cpio" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc_early_khz=$khz tsc=reliable nohz=off highres=off $words" \
    -serial "file:$lab_logs/guest-console.log" -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device virtio-net-device,netdev=n0,csum=off "$@"
  wait_for 90 grep -q 'guest: ready' "$lab_logs/guest-console.log" || {
    tail -n 20 "$lab_logs/guest-console.log" "$lab_logs/qemu.log"
    fail "the guest did not come up"
  }
}

guest_on_lan() {
  at switch ip tuntap add dev tap0 mode tap
  at switch ip link set tap0 master lan up
  at switch ip tuntap add dev manage mode tap
  at switch ip address add 169.254.77.1/30 dev manage
  at switch ip link set manage up
  guest_boot switch guest.manage=169.254.77.2/30 \
    -netdev tap,id=n1,ifname=manage,script=no,downscript=no -device virtio-net-device,netdev=n1,mac=52:54:00:00:00:4d
  wait_for 30 guest_do true || fail "the guest's shell does not answer"
}
guest_do() {
  local out
  out=$(at switch timeout 120 busybox nc 169.254.77.2 2323 <<<"(
$1
) 2>&1
echo \"::\$?\"
exit")
  printf '%s' "${out%::*}"
  [[ $out == *::0 ]]
}

in_guest() { # HOST COMMAND: HOST must reach 10.77.0.4
  at "$1" timeout 20 busybox nc 10.77.0.4 2323 <<<"$2; exit"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  [[ ${1:-} == build ]] || die "usage: tests/interop/kernel_guest.sh build"
  guest_build
fi

#!/usr/bin/env bash
# Prepares a host for wireplane, and prints each thing it changed, as it was and as it is.
#
#   sudo deploy/prepare_host.sh [--hugepages MB] [--dry-run] [--persist]
#
# Sockets: receive and send buffers up to 16 MB (212 KB, the kernel's default, loses bursts: see bench/README.md).
# Memory: hugepages for buffers and tables (default 256 MB; the engine runs without), locked memory for keys.
# --persist writes /etc/sysctl.d/60-wireplane.conf and /etc/security/limits.d/60-wireplane.conf, so that a reboot keeps them.
set -euo pipefail
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

hugepages_mb=256 dry_run='' persist=''
while (($#)); do
  case $1 in
    --hugepages)
      [[ ${2:-} =~ ^[0-9]+$ ]] || die "--hugepages wants a number of megabytes"
      hugepages_mb=$2
      shift
      ;;
    --dry-run) dry_run=yes ;;
    --persist) persist=yes ;;
    *) die "unknown option $1 (expected --hugepages MB, --dry-run or --persist)" ;;
  esac
  shift
done
[[ -n $dry_run ]] || ((EUID == 0)) || die "only root can change these; --dry-run shows what would change"

changed=0
kept=()
at_least() { # SYSCTL VALUE WHY: raises, never lowers
  local name=$1 value=$2 why=$3 now file
  file=/proc/sys/${name//./\/}
  if [[ ! -e $file ]]; then
    say "  --  $name is not on this kernel: left alone ($why)"
    return
  fi
  now=$(<"$file")
  kept+=("$name = $((now > value ? now : value))")
  if ((now >= value)); then
    say "  ok  $name = $now ($why)"
    return
  fi
  [[ -n $dry_run ]] || printf '%s' "$value" >"$file" || die "cannot set $name"
  [[ -n $dry_run ]] || (($(<"$file") >= value)) || warn "$name: asked for $value, the kernel gave $(<"$file")"
  say "  ->  $name: $now, now $value ($why)"
  changed=$((changed + 1))
}

huge_kb=$(awk '/^Hugepagesize:/ { print $2 }' /proc/meminfo)
at_least net.core.rmem_max 16777216 "bursts wait in the socket, not on the floor"
at_least net.core.wmem_max 16777216 "UDP_SEGMENT sends 64 KB at once"
at_least net.core.netdev_max_backlog 5000 "packets between the NIC's interrupt and the socket"
at_least net.core.optmem_max 131072 "control messages of large receive batches"
if [[ -n $huge_kb ]]; then
  at_least vm.nr_hugepages $((hugepages_mb * 1024 / huge_kb)) "$hugepages_mb MB in pages of $huge_kb kB"
fi

if [[ -e /dev/net/tun ]]; then
  say "  ok  /dev/net/tun"
elif [[ -n $dry_run ]]; then
  say "  ->  would load the module tun"
else
  modprobe tun || warn "no TUN device: Inner = tun will not work"
  changed=$((changed + 1))
fi

limit=$(ulimit -l)
if [[ $limit == unlimited ]]; then say "  ok  locked memory: unlimited here"; else
  say "  --  locked memory: $limit kB in this shell; the systemd unit lifts it itself (LimitMEMLOCK), --persist does for log-ins"
fi

if [[ -n $persist && -z $dry_run ]]; then
  printf '%s\n' "# written by wireplane's deploy/prepare_host.sh" "${kept[@]}" >/etc/sysctl.d/60-wireplane.conf
  printf '%s\n' "# written by wireplane's deploy/prepare_host.sh" "root - memlock unlimited" "@wireplane - memlock unlimited" \
    >/etc/security/limits.d/60-wireplane.conf
  say "  ->  wrote /etc/sysctl.d/60-wireplane.conf and /etc/security/limits.d/60-wireplane.conf"
fi
say "$changed thing(s) ${dry_run:+would be }changed"

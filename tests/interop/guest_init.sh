#!/bin/sh
# Process 1 of the kernel guest (kernel_guest.sh): loads the modules, brings up wg0 as the command line says, then serves a
# shell on TCP port 2323 inside the tunnel, by which a case asks the guest to do something. With guest.manage it leaves
# everything to whoever asks by that address: the shell is on a link of its own.
mount -t devtmpfs d /dev 2>/dev/null
mount -t proc p /proc
mount -t sysfs s /sys
# shellcheck disable=SC2013
word() { for w in $(cat /proc/cmdline); do case $w in "$1"=*) echo "${w#*=}" ;; esac; done; }
while read -r module; do insmod "/mod/$module" || echo "guest: insmod $module failed"; done </mod/order
ip link set lo up
if [ -n "$(word guest.manage)" ]; then
  for device in /sys/class/net/eth*; do
    grep -q ':4d$' "$device/address" && ip link set "${device##*/}" name manage # its MAC address says which one it is
  done
  for device in /sys/class/net/eth*; do ip link set "${device##*/}" name lan; done
  echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
  echo 0 >/proc/sys/net/ipv6/conf/lan/accept_dad
  ip addr add "$(word guest.manage)" dev manage
  ip link set manage up
  ip link set lan up
  echo "guest: ready"
  while :; do nc -ll -p 2323 -e /bin/sh; done
fi
ip addr add "$(word guest.outer)" dev eth0
ip link set eth0 up
ip link add wg0 type wireguard || echo "guest: no WireGuard in this kernel"
word guest.private >/tmp/private
endpoint=$(word guest.endpoint)
wg set wg0 listen-port 51820 private-key /tmp/private peer "$(word guest.peer)" ${endpoint:+endpoint "$endpoint" persistent-keepalive 25} \
  allowed-ips 10.77.0.0/24
ip addr add "$(word guest.inner)" dev wg0
ip link set mtu 1420 up dev wg0
echo "guest: ready"
while :; do nc -l -p 2323 -e /bin/sh; done

# shellcheck shell=bash
# What leaves the relay, as others read it.
# shellcheck disable=SC2154,SC2034,SC2317  # lab_dir, lab_logs: lab.sh; limit: run.sh; what wait_for calls

# tshark, given the relay's key log, decrypts both sides of what crosses the wire; without it, nothing.
case_tshark_decrypts() {
  needs_wireplane
  command -v tshark >/dev/null || leave_out "tshark is not installed"
  alice_and_relay
  { interface alice 2 && peer relay "$everyone" 192.0.2.1:51820 alice; } >"$lab_dir/alice.conf"
  { interface relay 1 51820 && engine "Keylog = $lab_dir/keys" && peer alice 10.77.0.2/32 '' alice; } >"$lab_dir/relay.conf"
  spawn tcpdump relay tcpdump -U -s 0 -i to-alice -w "$lab_dir/wire.pcap" udp port 51820
  wait_for 5 test -s "$lab_dir/wire.pcap"
  relay_up relay "$lab_dir/relay.conf"
  peer_up alice "$lab_dir/alice.conf"
  check "first echo" wait_for 10 echo_from alice 10.77.0.1
  check "20 echoes" no_loss alice 10.77.0.1 20 0.02 -s 100
  # tcpdump lags where others work: 40 records of 218 octets, two of 186, a handshake of 206 and 150, its header of 24
  captured() { test "$(stat -c %s "$lab_dir/wire.pcap")" -ge 9472; }
  check "all of it was captured" wait_for 10 captured
  sleep 0.2
  halt tcpdump INT
  check "the key log has keys" grep -q 'LOCAL_EPHEMERAL_PRIVATE_KEY' "$lab_dir/keys"
  check "the key log is the owner's alone" test "$(stat -c %a "$lab_dir/keys")" = 600
  local kind count
  for kind in 8 0; do
    count=$(decrypted -Y "icmp.type == $kind" | wc -l)
    check "tshark reads 20 inner echoes of type $kind (read $count)" test "$count" -ge 20
  done
  check "and no malformed packet" test "$(decrypted -Y _ws.malformed | wc -l)" = 0
  check "without keys it reads none" test "$(tshark -r "$lab_dir/wire.pcap" -Y icmp 2>/dev/null | wc -l)" = 0
  # the padding rule and the reserved bytes, on the wire
  check "every data message is padded to 16" test "$(decrypted -Y 'wg.type == 4' -T fields -e udp.length | awk '($1 - 8) % 16 != 0' | wc -l)" = 0
}
decrypted() { tshark -r "$lab_dir/wire.pcap" -o "wg.keylog_file:$lab_dir/keys" "$@" 2>/dev/null; }

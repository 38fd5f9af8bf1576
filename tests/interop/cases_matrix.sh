# shellcheck shell=bash
# All implementations at once: rekeying, and each to each other through the relay (words and topology: matrix.sh).
# shellcheck disable=SC2154,SC2034  # lab_dir, lab_logs: lab.sh; limit: run.sh

# Who initiated rekeys after 120 s, no echo is lost: all implementations in both roles at once; then their passive keepalives.
limit[matrix_rekey]=280
case_matrix_rekey() { # (initiators are inside IPv4, responders inside IPv6, so that the one guest can be both)
  local name
  rekey_world
  for name in "${everybody[@]}"; do check "first echo, $name" wait_for 20 echo_on relay "${inner[$name]}"; done
  cp "$lab_logs/watch.log" "$lab_logs/watch-first.log"
  : >"$lab_logs/watch.log"
  local -A pings=() first=()
  local answers=$(($(replies_to relay) + 620 * ${#everybody[@]})) # ping gives up on late ones, the kernel counts them
  for name in "${everybody[@]}"; do
    first[$name]=$(handshake_of relay "$name")
    at relay busybox ping -q -c 620 -i 0.2 -W 10 "${inner[$name]}" >"$lab_logs/ping-$name.log" 2>&1 &
    pings[$name]=$!
  done
  for name in "${everybody[@]}"; do wait "${pings[$name]}" || :; done
  if wait_for 10 has_replies relay "$answers"; then answers=all; fi
  for row in "${present[@]}"; do
    cell "rekeys as initiator" rekeyed "${called[$row]}-i" "${place[${called[$row]}-i]}" "$us"
    cell "is rekeyed as responder" rekeyed "${called[$row]}-r" "$us" "${place[${called[$row]}-r]}"
    if [[ $row == boringtun ]]; then
      deviates "draws random indices" "24 bits of it stay, 8 count (P23)" not draws_indices "${place[${called[$row]}-i]}"
    else
      cell "draws random indices" draws_indices "${place[${called[$row]}-i]}"
    fi
  done

  # The last that we heard was data, an answer, and we had nothing to say to it: 10 s later a keepalive. Then the same for them.
  wait_for 25 all_said ours || :
  for row in "${present[@]}"; do cell "passive keepalive, ours" said ours "$row"; done
  at relay python3 "$here/wire.py" nudge "${inner[@]}"
  wait_for 25 all_said theirs || :
  for row in "${present[@]}"; do cell "passive keepalive, its" said theirs "$row"; done
  judged
}
rekey_world() {
  declare -g us='192\.0\.2\.1:51820'
  declare -gA place=() inner=()
  gather
  local hosts=(relay) row name role number=1
  for row in "${present[@]}"; do
    for role in i r; do # initiator, responder
      name=${called[$row]}-$role
      [[ $row == kernel-guest ]] || hosts+=("$name")
      everybody+=("$name")
      implementation["$name"]=$row
    done
  done
  lan "${hosts[@]}"
  {
    interface relay 1 51820
    engine
    for name in "${everybody[@]}"; do
      number=$((number + 1))
      place[$name]=192.0.2.$number:518$number
      [[ $name != kernel-r ]] || place[$name]=192.0.2.$((number - 1)):518$number
      case $name in
        *-i) inner[$name]=10.77.0.$number && peer "$name" "10.77.0.$number/32" ;;
        *-r) inner[$name]=fd77::$number && peer "$name" "fd77::$number/128" "${place[$name]}" ;;
      esac
    done
  } >"$lab_dir/relay.conf"
  ! is_present kernel-guest || guest_joins "$((number - 1))"
  watch_lan
  relay_up relay "$lab_dir/relay.conf"
  for name in "${everybody[@]}"; do
    {
      printf '[Interface]\nPrivateKey = %s\nListenPort = %s\n' "$(private "$name")" "${place[$name]#*:}"
      case $name in
        *-i) say "Address = ${inner[$name]}/24" && peer relay 10.77.0.0/24 192.0.2.1:51820 ;;
        *-r) say "Address = ${inner[$name]}/64" && peer relay fd77::/64 ;;
      esac
    } >"$lab_dir/$name.conf"
    place[$name]=${place[$name]//./\\.}
  done
  for name in "${everybody[@]}"; do
    peer_start "$name" "$lab_dir/$name.conf"
    [[ $name != *-i ]] || check "$name begins" wait_for 20 echo_on "$name" 10.77.0.1
  done
}
gather() { # which implementations are here; the others' cells say that they are not
  declare -g cells_failed=() present=() everybody=()
  local name
  for name in "${implementations[@]}"; do
    if (needs_peer "$name"); then present+=("$name"); fi
  done
  ((${#present[@]})) || leave_out "no implementation is here (deploy/install.sh test peers)"
}
is_present() { [[ " ${present[*]} " == *" $1 "* ]]; }
guest_joins() { # NUMBER
  guest_on_lan
  guest_do "ip address add 192.0.2.$1/24 dev lan && ip address add 2001:db8:1::$1/64 dev lan" || fail "the guest's addresses"
}
rekeyed() { # NAME INITIATOR RESPONDER, as watch.log calls them
  grep 'packet loss' "$lab_logs/ping-$1.log"
  [[ $answers == all ]] || check "620 echoes over 124 s, none lost" grep -q ' 0% packet loss' "$lab_logs/ping-$1.log"
  check "the handshake is a new one" test "$(handshake_of relay "$1")" -ge $((first[$1] + 115))
  check "begun by who began the first" seen "$2 $3 initiation"
  check "and by nobody else" not seen "$3 $2 initiation"
}
draws_indices() { # PLACE: of its initiations' indices, the upper 24 bits differ
  local drawn
  drawn=$(cat "$lab_logs/watch-first.log" "$lab_logs/watch.log" | sed -nE "s/.* $1 .* initiation .*sender=(......).*/\1/p")
  say "$drawn"
  (($(wc -l <<<"$drawn") > 1)) || fail "fewer than two initiations were seen"
  (($(sort -u <<<"$drawn" | wc -l) > 1))
}
said() { # ours|theirs IMPLEMENTATION: in both its roles, a keepalive was said after the last data
  local name
  for name in "${called[$2]}-i" "${called[$2]}-r"; do
    if [[ $1 == ours ]]; then last_was_keepalive "$us" "${place[$name]}"; else last_was_keepalive "${place[$name]}" "$us"; fi || return 1
  done
}
last_was_keepalive() { # FROM TO, of all that the two said to each other
  grep -E "$1 $2 data|$2 $1 data" "$lab_logs/watch.log" | tail -n 1 | grep -Eq "$1 $2 data 32 "
}
all_said() {
  local row
  for row in "${present[@]}"; do said "$1" "$row" || return 1; done
}

# Through the relay from each implementation to each other one: echoes of all sizes, both inner families, and 3 MB over TCP.
limit[matrix_pairs]=200
case_matrix_pairs() {
  gather
  local hosts=(relay) back=() row name number=1
  declare -gA number_of=()
  for row in "${present[@]}"; do
    number=$((number + 1))
    name=${called[$row]}
    number_of[$name]=$number implementation["$name"]=$row everybody+=("$name")
    if [[ $row == kernel-guest ]]; then hosts+=(-); else hosts+=("$name"); fi
  done
  lan "${hosts[@]}"
  ! is_present kernel-guest || guest_joins "${number_of[kernel]}"
  {
    interface relay 1 51820
    engine "Forward = all" "Keylog = $lab_dir/keys"
    for name in "${everybody[@]}"; do peer "$name" "10.77.0.${number_of[$name]}/32, fd77::${number_of[$name]}/128"; done
  } >"$lab_dir/relay.conf"
  spawn tcpdump relay tcpdump --immediate-mode -U -s 0 -i lan -w "$lab_dir/wire.pcap" 'udp[8] == 1'
  check "tcpdump listens" wait_for 5 test -s "$lab_dir/wire.pcap"
  relay_up relay "$lab_dir/relay.conf"
  for name in "${everybody[@]}"; do
    { interface "$name" "${number_of[$name]}" && peer relay "$everyone" 192.0.2.1:51820; } >"$lab_dir/$name.conf"
    peer_start "$name" "$lab_dir/$name.conf"
    check "$name reaches the relay" wait_for 20 echo_on "$name" 10.77.0.1
    on "$name" busybox sh -c "head -c 3000000 /dev/urandom >$(scratch "$name")-blob; mkfifo $(scratch "$name")-open"
  done
  check "an initiation of each was captured" wait_for 5 captured "${#everybody[@]}"
  halt tcpdump INT
  decrypted -Y 'wg.type == 1' -T fields -e ip.src -e wg.timestamp.tai64_label -e wg.timestamp.nanoseconds -e frame.time_epoch >"$lab_logs/timestamps"
  cat "$lab_logs/timestamps"
  for row in "${present[@]}"; do
    if [[ $row == boringtun ]]; then
      deviates "whitened timestamps, TAI - 10 s" "27 s more, and to the nanosecond (P17)" stamped "${called[$row]}" 27 0
    else
      cell "whitened timestamps, TAI - 10 s" stamped "${called[$row]}" 0 1
    fi
    for name in "${present[@]}"; do
      [[ $name == "$row" ]] || cell "through us to $name" reaches "${called[$row]}" "${called[$name]}"
    done
  done
  # Killed and begun anew, we know no session of theirs: whoever sends data asks again after 15 s.
  halt relay KILL
  relay_up relay "$lab_dir/relay.conf"
  for row in "${present[@]}"; do
    { ! wait_for 45 echo_on "${called[$row]}" 10.77.0.1 || : >"$lab_dir/back-$row"; } &
    back+=("$!")
  done
  wait "${back[@]}"
  for row in "${present[@]}"; do cell "comes back after our kill -9" test -e "$lab_dir/back-$row"; done
  judged
}
captured() { (($(tcpdump -n -r "$lab_dir/wire.pcap" 2>/dev/null | awk '{ print $3 }' | sort -u | wc -l) >= $1)); } # (field 3: from)
stamped() { # NAME SECONDS-AHEAD WHITENED(0|1): of its first initiation, against the clock of who captured it
  local label ns seen ahead
  read -r label ns seen < <(sed -n "s/^192\.0\.2\.${number_of[$1]}\t//p" "$lab_logs/timestamps")
  ahead=$((label - (1 << 62) - 10 - ${seen%.*}))
  check "$ahead s ahead of what the kernel does, as expected: $2" test "$((ahead - $2))" -gt -12 -a "$((ahead - $2))" -lt 12 # (a guest's clock is loose)
  check "$ns ns: whitened or not, as expected" test "$((ns % (1 << 24) == 0))" = "$3"
}
scratch() { if [[ ${implementation[$1]} == kernel-guest ]]; then say /tmp/"$1"; else say "$lab_dir/$1"; fi; }
reaches() { # NAME NAME
  check "echoes of all sizes, $1 to $2" passes "$1" "${number_of[$2]}" "${all_sizes[@]}"
  local served fetched
  served=$(on "$2" busybox sha256sum "$(scratch "$2")-blob" | cut -d ' ' -f 1)
  on "$2" busybox sh -c "busybox timeout 40 busybox nc -l -p 9000 <$(scratch "$2")-blob >/dev/null 2>&1 &"
  # (a client whose input ends would end the server: it reads from a pipe that nobody closes)
  fetched=$(on "$1" busybox sh -c "for try in 1 2 3 4 5 6 7 8 9; do
      busybox timeout 30 busybox nc 10.77.0.${number_of[$2]} 9000 <>$(scratch "$1")-open >$(scratch "$1")-copy 2>/dev/null && break
      sleep 0.2
    done; busybox sha256sum $(scratch "$1")-copy" | cut -d ' ' -f 1)
  check "3 MB from $2 to $1, unaltered" test "${#served}:$fetched" = "64:$served"
}

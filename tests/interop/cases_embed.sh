# shellcheck shell=bash
# The library inside an application, without privileges, against a stock peer.
# shellcheck disable=SC2154

#    host relay                    host alice                     host bob
#    embed_fetch, as nobody  ==tunnel==  alice (stock), a router -- a web server
#    10.77.0.9  fd77::9            10.77.0.2  fd77::2             198.51.100.2  2001:db8:2::2
fetching() {
  alice_and_relay
  host bob
  wire alice 198.51.100.1/24 bob 198.51.100.2/24 2001:db8:2::1/64 2001:db8:2::2/64
  at alice sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  at bob ip route add 10.77.0.0/24 via 198.51.100.1
  at bob ip -6 route add fd77::/64 via 2001:db8:2::1
  { interface alice 2 51821 && peer fetcher "10.77.0.9/32, fd77::9/128"; } >"$lab_dir/alice.conf"
  peer_up alice "$lab_dir/alice.conf"
  place=$lab_dir/fetch
  alice_at=192.0.2.2:51821
  mkdir -p "$place"
  chmod a+rx "$lab_dir" "$place" /run
  local release=$repo/build/release file
  [[ $WIREPLANE_RELAY != */* ]] || release=${WIREPLANE_RELAY%/*}
  for file in embed_fetch libwireplane.so.0 libwireplane-ip.so.0; do cp -L "$release/$file" "$place/"; done
  head -c 6000000 /dev/urandom >"$place/blob"
  printf 'a small page\n' >"$place/page"
  install -d -o 65534 -g 65534 "$place/got" 2>/dev/null || mkdir "$place/got" # where users are mapped, nobody may be missing
  chmod -R a+rX "$place"
  spawn web4 bob python3 -m http.server --bind 198.51.100.2 --directory "$place" 80
  spawn web6 bob python3 -m http.server --bind 2001:db8:2::2 --directory "$place" 80
  check "bob serves pages" wait_for 10 listens bob 80
}
fetch() { # OUR-ADDRESS URL NAME: fetches, and compares with what bob has
  local nobody=(setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --reuid=65534 --regid=65534 --clear-groups)
  "${nobody[@]}" true 2>/dev/null || nobody=("${nobody[@]:0:4}") # a sandbox of a user's has no other users
  private fetcher | at relay timeout 40 "${nobody[@]}" env LD_LIBRARY_PATH="$place" "$place/embed_fetch" \
    "$(public alice)" "$alice_at" "$1" "$2/$3" "$place/got/$3" 2>"$place/said" || {
    cat "$place/said"
    return 1
  }
  said=$(<"$place/said")
  say "$said"
  cmp "$place/$3" "$place/got/$3"
}

# A program of nobody's fetches pages by TCP from a server behind a stock peer, over both inner families.
case_embed_fetch() {
  fetching
  check "a small page over IPv4" fetch 10.77.0.9 http://198.51.100.2 page
  figure "fetch of a small page, first contact: $said"
  check "6 MB over IPv4" fetch 10.77.0.9 http://198.51.100.2 blob
  figure "fetch over IPv4: $said"
  check "6 MB over IPv6" fetch fd77::9 'http://[2001:db8:2::2]' blob
  figure "fetch over IPv6: $said"
  check "a page that is not there is told" not fetch 10.77.0.9 http://198.51.100.2 nothing
  check "by its status" grep -q '404' "$place/said"
  check "a refused port is told" not fetch 10.77.0.9 http://198.51.100.2:81 page
  check "in words" grep -q 'refuses' "$place/said"
}
# The same by a program in C, which is built here against the installed package alone.
case_embed_fetch_c() {
  fetching
  local build=$repo/build/release
  [[ $WIREPLANE_RELAY != */* ]] || build=${WIREPLANE_RELAY%/*}
  check "the package is installed" cmake --install "$build" --component embed --prefix "$place/package"
  local pc
  pc=$(dirname "$(find "$place/package" -name wireplane-ip.pc)")
  # shellcheck disable=SC2046 # flags are words
  check "a program in C is built against it" cc -std=c11 -Wall -Wextra -Werror "$repo/tests/embed/fetch.c" \
    -o "$place/fetch_c" $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs wireplane-ip wireplane)
  chmod -R a+rX "$place"
  local nobody=(setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --reuid=65534 --regid=65534 --clear-groups)
  "${nobody[@]}" true 2>/dev/null || nobody=("${nobody[@]:0:4}")
  local address
  for address in 10.77.0.9,198.51.100.2:80 'fd77::9,[2001:db8:2::2]:80'; do
    # shellcheck disable=SC2016 # expanded there
    check "6 MB from ${address#*,}" eval 'private fetcher | at relay timeout 40 "${nobody[@]}" env LD_LIBRARY_PATH="$place" \
      "$place/fetch_c" "$(public alice)" "$alice_at" "${address%,*}" "${address#*,}" /blob >"$place/got/c" && cmp "$place/blob" "$place/got/c"'
  done
}
# The same over a path of 10 ms that loses 1 % and reorders 1 % each way.
case_embed_fetch_lossy() {
  fetching
  mkfifo "$lab_dir/path"
  at relay python3 "$repo/tests/embed/fetch_path.py" 7000 192.0.2.2 51821 1 <"$lab_dir/path" >"$lab_logs/path.log" &
  exec 9>"$lab_dir/path"
  check "the bad path is there" wait_for 5 grep -q ready "$lab_logs/path.log"
  alice_at=127.0.0.1:7000
  check "6 MB over IPv4 under loss" fetch 10.77.0.9 http://198.51.100.2 blob
  exec 9>&-
  check "datagrams were lost" wait_for 5 grep -qE 'lost [1-9]' "$lab_logs/path.log"
  figure "fetch over 10 ms, 1 % lost and 1 % late each way ($(tail -n 1 "$lab_logs/path.log")): $said"
}

// The configuration file: what is taken, what is refused and in which words, and what a reload changes.
#include "control/config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "control/noise/base64.h"
#include "tests/support/fake_device.h"

namespace wireplane {
namespace {

// Base64 of 32 octets whose first is `first`, the rest zero; text keys that a reader can tell apart.
std::string key(std::uint8_t first) {
  PublicKey octets;
  octets.octets[0] = first;
  return std::string{to_base64(octets).view()};
}
PublicKey public_key(std::uint8_t first) {
  PublicKey octets;
  octets.octets[0] = first;
  return octets;
}
const std::string kInterface = "[Interface]\nPrivateKey = " + key(1) + "\n";
std::string peer(std::uint8_t first, const std::string& more = {}) {
  return "[Peer]\nPublicKey = " + key(first) + "\n" + more;
}

Result<Endpoint> knows_one_host(const std::string& host, std::uint16_t port) {
  if (host != "relay.example") return Error{host + ": no such host", 0};
  const std::uint8_t octets[4] = {192, 0, 2, 7};
  return Endpoint{.remote = Address::v4(octets), .local = {}, .interface = 0, .port = port};
}
std::uint32_t knows_eth0(std::string_view name) { return name == "eth0" ? 3 : 0; }

ConfigResult parse(const std::string& text) { return parse_config(text, "wg0.conf", knows_one_host, knows_eth0); }
FileConfig parsed(const std::string& text) {
  auto result = parse(text);
  if (result) return std::move(*result);
  for (const auto& error : result.error()) ADD_FAILURE() << error.text();
  return {};
}
std::string first_error(const std::string& text) {
  auto result = parse(text);
  return result ? "accepted" : result.error().front().text();
}

// Goal: everything that may be said is understood as it was meant.
// Method: one file with every key once, in wg-quick's looser ways of writing.
TEST(Config, AFullFileMeansWhatItSays) {
  const FileConfig config = parsed(
      "\xef\xbb\xbf# a comment\r\n"
      "[interface]\r\n"
      "privatekey=" +
      key(1) +
      "  # secret\r\n"
      "\tListenPort = 51820\r\n"
      "FWMARK = 0xca6c\n"
      "Address = 10.0.0.1/24, fd00::1/64\n"
      "Address = 10.9.0.1\n"
      "MTU = 1420\nTable = 1234\n"
      "[Engine]\n"
      "Workers = 3\nOuter = net_af_xdp0,iface=eth1\nInner = NONE\nForward = groups\nPoll = busy\nPeers = 1000000\n"
      "Sessions = 3000000\nBuffers = 65536\nOuterAddress = 192.0.2.10/24, 2001:db8::10/64\nOuterGateway = 192.0.2.1\n"
      "OuterVlan = 100\nOuterMtu = 9000\nInnerGateway = 10.0.0.254, fd00::fe\n"
      "RouterAddress = 10.9.0.1\nCapture = /tmp/a.pcap\nKeylog = /tmp/keys\nUser = wireplane\n"
      "[Peer]\n"
      "PublicKey = " +
      key(2) + "\nPresharedKey = " + key(3) +
      "\n"
      "AllowedIPs = 10.0.0.2/32, 10.1.0.0/16\nAllowedIPs = fd00::2\nAllowedIPs =\n"
      "Endpoint = [fe80::1%eth0]:51820\nPersistentKeepalive = off\nGroup = 7\n"
      "[Peer]\n"
      "PublicKey = " +
      key(4) + "\nEndpoint = relay.example:1\nPersistentKeepalive = 25\nGroup = crew\n");
  EXPECT_EQ(config.device.private_key->expose()[0], 1);
  EXPECT_EQ(config.device.listen_port, 51820);
  EXPECT_EQ(config.device.fwmark, 0xca6cu);
  EXPECT_TRUE(config.device.replace_peers);
  ASSERT_EQ(config.addresses.size(), 3u);
  EXPECT_EQ(to_text(config.addresses[0]), "10.0.0.1/24");
  EXPECT_EQ(to_text(config.addresses[2]), "10.9.0.1/32");
  EXPECT_EQ(config.mtu, 1420u);
  EXPECT_EQ(config.table_use, TableUse::kNumber);
  EXPECT_EQ(config.table, 1234u);

  const EngineSettings& engine = config.engine;
  EXPECT_EQ(engine.workers, 3u);
  EXPECT_EQ(engine.outer, "net_af_xdp0,iface=eth1");
  EXPECT_EQ(engine.inner, "none");
  EXPECT_EQ(engine.forward, Forward::kGroups);
  EXPECT_EQ(engine.poll, Poll::kBusy);
  EXPECT_EQ(engine.peers, 1000000u);
  EXPECT_EQ(engine.sessions, 3000000u);
  EXPECT_EQ(engine.buffers, 65536u);
  EXPECT_EQ(to_text(engine.outer_addresses.at(1)), "2001:db8::10/64");
  EXPECT_EQ(to_text(engine.outer_gateways.at(0)), "192.0.2.1");
  EXPECT_EQ(engine.outer_vlan, 100u);
  EXPECT_EQ(engine.outer_mtu, 9000u);
  EXPECT_EQ(to_text(engine.inner_gateways.at(1)), "fd00::fe");
  ASSERT_EQ(engine.router_addresses.size(), 2u);  // the given one, and the first IPv6 Address
  EXPECT_EQ(to_text(engine.router_addresses[0]), "10.9.0.1");
  EXPECT_EQ(to_text(engine.router_addresses[1]), "fd00::1");
  EXPECT_EQ(engine.capture, "/tmp/a.pcap");
  EXPECT_EQ(engine.keylog, "/tmp/keys");
  EXPECT_EQ(engine.user, "wireplane");

  ASSERT_EQ(config.device.peers.size(), 2u);
  const PeerChange& first = config.device.peers[0];
  EXPECT_EQ(first.public_key, public_key(2));
  EXPECT_EQ(first.preshared_key->expose()[0], 3);
  ASSERT_EQ(first.allowed_ips.size(), 3u);
  EXPECT_EQ(to_text(first.allowed_ips[2].prefix), "fd00::2/128");
  EXPECT_EQ(to_text(*first.endpoint), "[fe80::1%3]:51820");
  EXPECT_EQ(first.persistent_keepalive_s, 0);
  EXPECT_EQ(first.group, 7u);
  const PeerChange& second = config.device.peers[1];
  EXPECT_EQ(to_text(*second.endpoint), "192.0.2.7:1");
  EXPECT_EQ(second.group, group_number("crew"));
}

// Goal: a minimal file has the documented defaults.
TEST(Config, WhatIsNotSaidHasItsDefault) {
  const FileConfig config = parsed(kInterface);
  EXPECT_FALSE(config.device.listen_port);
  EXPECT_FALSE(config.mtu);
  EXPECT_EQ(config.table_use, TableUse::kAuto);
  EXPECT_EQ(config.engine, EngineSettings{});
  EXPECT_EQ(config.engine.outer, "udp");
  EXPECT_EQ(config.engine.inner, "tun");
  EXPECT_EQ(config.engine.forward, Forward::kNone);
}

struct Refusal {
  std::string text, error;
};
class ConfigRefuses : public testing::TestWithParam<Refusal> {};

const std::string kKeyWanted = "expected a key: 44 letters of base64, as `wg genkey` or `wg pubkey` print them";

// Goal: whoever wrote a wrong line is told which one, which key, and what would have been right.
// Method: the words themselves, for every kind of fault.
TEST_P(ConfigRefuses, InWordsThatHelp) { EXPECT_EQ(first_error(GetParam().text), GetParam().error) << GetParam().text; }

INSTANTIATE_TEST_SUITE_P(
    Table, ConfigRefuses,
    testing::Values(
        // the whole
        Refusal{"", "wg0.conf: [Interface]: expected this section, with a PrivateKey"},
        Refusal{"[Interface]\nListenPort = 1\n", "wg0.conf:1: [Interface]: expected a PrivateKey in this section"},
        Refusal{kInterface + "\n[interface]\n",
                "wg0.conf:4: [interface]: expected one [Interface] section (first given in line 1)"},
        Refusal{kInterface + "[Engine]\n[Engine]\n",
                "wg0.conf:4: [Engine]: expected one [Engine] section (first given in line 3)"},
        Refusal{"[Interfaces]\n", "wg0.conf:1: [Interfaces]: expected [Interface], [Peer] or [Engine]"},
        Refusal{"ListenPort = 1\n",
                "wg0.conf:1: ListenPort: expected a section, such as [Interface], before the first key"},
        Refusal{kInterface + "hello\n", "wg0.conf:3: expected \"Key = value\", \"[Section]\" or \"# comment\""},
        Refusal{std::string("[Interface]\nMTU = 1\0\n", 20), "wg0.conf:2: expected text, but there is a zero octet"},
        Refusal{"\xff\xfe[", "wg0.conf:1: expected UTF-8 or ASCII, but the file is UTF-16"},
        Refusal{kInterface + "[Peer]\nAllowedIPs = 10.0.0.0/8\n",
                "wg0.conf:3: [Peer]: expected a PublicKey in this section"},
        // names
        Refusal{kInterface + "Port = 1\n",
                "wg0.conf:3: Port: no such key in this section; expected one of PrivateKey, ListenPort, FwMark, "
                "Address, MTU, Table"},
        Refusal{kInterface + "AllowedIPs = 10.0.0.0/8\n",
                "wg0.conf:3: AllowedIPs: expected in section [Peer], not in this one"},
        Refusal{kInterface + "[Peer]\nWorkers = 1\n",
                "wg0.conf:4: Workers: expected in section [Engine], not in this one"},
        Refusal{kInterface + "ListenPort = 1\nlistenport = 2\n",
                "wg0.conf:4: listenport: expected once in a section (first given in line 3)"},
        // what wg-quick does with a shell
        Refusal{kInterface + "DNS = 1.1.1.1\n",
                "wg0.conf:3: DNS: no DNS here: wireplane does not change the host's resolver; use resolvectl or "
                "resolvconf, or the unit that starts it"},
        Refusal{kInterface + "PreUp = true\n",
                "wg0.conf:3: PreUp: no PreUp here: wireplane runs no commands; use ExecStartPre= in a systemd drop-in"},
        Refusal{
            kInterface + "postup = true\n",
            "wg0.conf:3: postup: no PostUp here: wireplane runs no commands; use ExecStartPost= in a systemd drop-in"},
        Refusal{kInterface + "PreDown = true\n",
                "wg0.conf:3: PreDown: no PreDown here: wireplane runs no commands; use ExecStop= in a systemd drop-in"},
        Refusal{kInterface + "PostDown = true\n",
                "wg0.conf:3: PostDown: no PostDown here: wireplane runs no commands; use ExecStopPost= in a systemd "
                "drop-in"},
        Refusal{kInterface + "SaveConfig = true\n",
                "wg0.conf:3: SaveConfig: no SaveConfig here: wireplane never writes its configuration; use `wg "
                "showconf NAME > FILE` when wanted"},
        // [Interface]
        Refusal{"[Interface]\nPrivateKey = abc\n", "wg0.conf:2: PrivateKey: " + kKeyWanted},
        Refusal{"[Interface]\nPrivateKey = " + key(1) + "=\n", "wg0.conf:2: PrivateKey: " + kKeyWanted},
        Refusal{"[Interface]\nPrivateKey = " + key(1) + " x\n", "wg0.conf:2: PrivateKey: " + kKeyWanted},
        Refusal{"[Interface]\nPrivateKey = " + key(1).substr(0, 42) + "B=\n", "wg0.conf:2: PrivateKey: " + kKeyWanted},
        Refusal{"[Interface]\nPrivateKey = " + key(0) + "\n",
                "wg0.conf:2: PrivateKey: expected a key that is not all zero"},
        Refusal{kInterface + "ListenPort = 65536\n",
                "wg0.conf:3: ListenPort: expected a port, 0 to 65535 (0: any free one)"},
        Refusal{kInterface + "ListenPort = -1\n",
                "wg0.conf:3: ListenPort: expected a port, 0 to 65535 (0: any free one)"},
        Refusal{kInterface + "ListenPort =\n", "wg0.conf:3: ListenPort: expected a port, 0 to 65535 (0: any free one)"},
        Refusal{kInterface + "ListenPort = 51820;\n",
                "wg0.conf:3: ListenPort: expected a port, 0 to 65535 (0: any free one)"},
        Refusal{kInterface + "FwMark = 0x100000000\n",
                "wg0.conf:3: FwMark: expected off, or a number of 32 bits such as 51820 or 0xca6c"},
        Refusal{kInterface + "FwMark = on\n",
                "wg0.conf:3: FwMark: expected off, or a number of 32 bits such as 51820 or 0xca6c"},
        Refusal{kInterface + "FwMark = 0x\n",
                "wg0.conf:3: FwMark: expected off, or a number of 32 bits such as 51820 or 0xca6c"},
        Refusal{
            kInterface + "Address = 10.0.0.1/33\n",
            "wg0.conf:3: Address: expected an address such as 10.0.0.1/24 or fd00::1/64, but found \"10.0.0.1/33\""},
        Refusal{kInterface + "Address = 10.0.0.1/24,\n", "wg0.conf:3: Address: expected another item after the comma"},
        Refusal{kInterface + "Address = 10.0.0.1/24,,fd00::1\n",
                "wg0.conf:3: Address: expected an address such as 10.0.0.1/24 or fd00::1/64, but found \"\""},
        Refusal{kInterface + "Address = 10.0.0.1, 10.0.0.1\n",
                "wg0.conf:3: Address: expected each address once, but found 10.0.0.1/32 again"},
        Refusal{kInterface + "MTU = 67\n", "wg0.conf:3: MTU: expected a number of octets, 68 to 65535"},
        Refusal{kInterface + "Table = main\n",
                "wg0.conf:3: Table: expected auto, off, or the number of a routing table, 1 to 4294967295"},
        // [Peer]
        Refusal{kInterface + "[Peer]\nPublicKey = x\n", "wg0.conf:4: PublicKey: " + kKeyWanted},
        Refusal{kInterface + peer(2) + peer(2),
                "wg0.conf:6: PublicKey: expected each peer once (first given in line 4)"},
        Refusal{kInterface + peer(2, "PresharedKey = x\n"),
                "wg0.conf:5: PresharedKey: expected a key: 44 letters of base64, as `wg genpsk` prints them"},
        Refusal{kInterface + peer(2, "AllowedIPs = 10.0.0.0/8, 10.0.0/8\n"),
                "wg0.conf:5: AllowedIPs: expected a network such as 10.0.0.0/24 or fd00::/64, but found \"10.0.0/8\""},
        Refusal{
            kInterface + peer(2, "AllowedIPs = +10.0.0.0/8\n"),
            "wg0.conf:5: AllowedIPs: expected a network such as 10.0.0.0/24 or fd00::/64, but found \"+10.0.0.0/8\""},
        Refusal{kInterface + peer(2, "AllowedIPs = 10.0.0.0/8\n") + peer(3, "AllowedIPs = fd00::/8, 10.1.2.3/8\n"),
                "wg0.conf:8: AllowedIPs: expected each network once in all peers, but found 10.0.0.0/8 again (first "
                "given in line 5)"},
        Refusal{kInterface + peer(2, "Endpoint = 192.0.2.1\n"),
                "wg0.conf:5: Endpoint: expected address:port, such as 192.0.2.1:51820, [2001:db8::1]:51820, "
                "[fe80::1%eth0]:51820 or host.example:51820"},
        Refusal{kInterface + peer(2, "Endpoint = 192.0.2.300:1\n"),
                "wg0.conf:5: Endpoint: expected address:port, such as 192.0.2.1:51820, [2001:db8::1]:51820, "
                "[fe80::1%eth0]:51820 or host.example:51820"},
        Refusal{kInterface + peer(2, "Endpoint = 192.0.2.1:0\n"),
                "wg0.conf:5: Endpoint: expected address:port, such as 192.0.2.1:51820, [2001:db8::1]:51820, "
                "[fe80::1%eth0]:51820 or host.example:51820"},
        Refusal{kInterface + peer(2, "Endpoint = 2001:db8::1:51820\n"),
                "wg0.conf:5: Endpoint: expected address:port, such as 192.0.2.1:51820, [2001:db8::1]:51820, "
                "[fe80::1%eth0]:51820 or host.example:51820"},
        Refusal{kInterface + peer(2, "Endpoint = [fe80::1%eth9]:1\n"),
                "wg0.conf:5: Endpoint: expected address:port, such as 192.0.2.1:51820, [2001:db8::1]:51820, "
                "[fe80::1%eth0]:51820 or host.example:51820"},
        Refusal{kInterface + peer(2, "Endpoint = nowhere.example:1\n"),
                "wg0.conf:5: Endpoint: expected a host name that can be resolved: nowhere.example: no such host"},
        Refusal{kInterface + peer(2, "PersistentKeepalive = 65536\n"),
                "wg0.conf:5: PersistentKeepalive: expected off, or seconds, 0 to 65535"},
        Refusal{kInterface + peer(2, "Group = 0\n"),
                "wg0.conf:5: Group: expected a number, 1 to 2147483647, or a name of letters, digits, - _ and ."},
        Refusal{kInterface + peer(2, "Group = a b\n"),
                "wg0.conf:5: Group: expected a number, 1 to 2147483647, or a name of letters, digits, - _ and ."},
        // [Engine]
        Refusal{kInterface + "[Engine]\nWorkers = 65\n", "wg0.conf:4: Workers: expected auto, or a number, 1 to 64"},
        Refusal{kInterface + "[Engine]\nForward = some\n", "wg0.conf:4: Forward: expected none, all or groups"},
        Refusal{kInterface + "[Engine]\nPoll = lazy\n", "wg0.conf:4: Poll: expected adaptive or busy"},
        Refusal{kInterface + "[Engine]\nPeers = 0\n",
                "wg0.conf:4: Peers: expected how many peers there may be, 1 to 16777216"},
        Refusal{
            kInterface + "[Engine]\nSessions = many\n",
            "wg0.conf:4: Sessions: expected how many sessions there may be, 1 to 67108864 (a busy peer has up to 3)"},
        Refusal{kInterface + "[Engine]\nBuffers = 1\n",
                "wg0.conf:4: Buffers: expected how many packet buffers there are, 256 to 16777216"},
        Refusal{kInterface + "[Engine]\nOuter =\n",
                "wg0.conf:4: Outer: expected udp, or a DPDK device such as 0000:01:00.0 or net_af_xdp0,iface=eth0"},
        Refusal{kInterface + "[Engine]\nOuterVlan = 4095\n",
                "wg0.conf:4: OuterVlan: expected off, or the identifier of an 802.1Q VLAN, 1 to 4094"},
        Refusal{kInterface + "[Engine]\nOuterMtu = 10000\n",
                "wg0.conf:4: OuterMtu: expected the MTU of the outer link, 68 to 9702"},
        Refusal{kInterface + "[Engine]\nInnerGateway = there\n",
                "wg0.conf:4: InnerGateway: expected an address such as 192.0.2.1, but found \"there\""},
        Refusal{kInterface + "[Engine]\nOuterGateway = here\n",
                "wg0.conf:4: OuterGateway: expected an address such as 192.0.2.1, but found \"here\""},
        Refusal{kInterface + "[Engine]\nUser = a b\n",
                "wg0.conf:4: User: expected the name of a user to become after start"}));

// Goal: one run tells all that is wrong, but not without end.
TEST(Config, SeveralErrorsAreToldAtOnceUpToTwenty) {
  auto three = parse("[Interface]\nPrivateKey = x\nMTU = y\nBogus = 1\n");
  ASSERT_FALSE(three);
  EXPECT_EQ(three.error().size(), 3u);
  EXPECT_EQ(three.error()[2].line, 4u);
  std::string many = kInterface;
  for (int i = 0; i < 50; ++i) many += "Bogus = 1\n";
  auto capped = parse(many);
  ASSERT_FALSE(capped);
  EXPECT_EQ(capped.error().size(), kMostErrors);
}

// Goal: an error never shows a key, not even one that slipped to where a name belongs.
// Method: a private key in every place it could get to by a slip; none of the errors contains it.
TEST(Config, ErrorsNeverShowKeys) {
  std::string secret(43, 'k');
  secret[42] = 'A';
  secret += '=';
  for (const std::string& text :
       {"[Interface]\nPrivateKey = " + secret + secret + "\n", "[Interface]\nPrivateKey =\n" + secret + "\n",
        "[Interface]\nPrivateKey " + secret + "\n", "[Interface]\nPresharedKey = " + secret + "\n",
        kInterface + peer(2, "PresharedKey = x" + secret + "\n"), "[" + secret + "]\n"}) {
    auto result = parse(text);
    ASSERT_FALSE(result) << text;
    for (const auto& error : result.error()) EXPECT_EQ(error.text().find("kkkk"), std::string::npos) << error.text();
  }
}

// Goal: what is taken but perhaps not meant is told, and is not an error.
TEST(Config, HostBitsInAnAllowedIpAreAWarning) {
  const FileConfig config = parsed(kInterface + peer(2, "AllowedIPs = 10.0.0.7/24\n"));
  ASSERT_EQ(config.warnings.size(), 1u);
  EXPECT_EQ(config.warnings[0].text(), "wg0.conf:5: AllowedIPs: 10.0.0.7/24 has host bits; taken as 10.0.0.0/24");
  EXPECT_EQ(to_text(config.device.peers[0].allowed_ips[0].prefix), "10.0.0.0/24");
}

// Goal: names of groups mean the same number in every file, and numbers mean themselves.
TEST(Config, GroupsByNameAreStable) {
  EXPECT_EQ(group_number("7"), 7u);
  EXPECT_EQ(group_number("crew"), group_number("crew"));
  EXPECT_NE(group_number("crew"), group_number("Crew"));
  EXPECT_GT(*group_number("crew"), 0x7fffffffu);
  EXPECT_FALSE(group_number("2147483648"));
  EXPECT_FALSE(group_number(""));
}

// Goal: a file that cannot be read is an error that names it; one that others may read is a warning.
// Method: a directory, nothing, and a file with two modes.
TEST(Config, LoadingNamesTheFile) {
  std::string directory = testing::TempDir() + "wireplane-config-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const std::string path = directory + "/wg0.conf";
  auto missing = load_config(path, resolve_never);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error()[0].text(), path + ": expected a file that can be read: No such file or directory");
  EXPECT_FALSE(load_config(directory, resolve_never));

  std::ofstream{path} << kInterface;
  chmod(path.c_str(), 0644);
  auto open = load_config(path, resolve_never);
  ASSERT_TRUE(open);
  EXPECT_EQ(open->warnings.size(), 1u);
  chmod(path.c_str(), 0600);
  auto closed = load_config(path, resolve_never);
  ASSERT_TRUE(closed);
  EXPECT_TRUE(closed->warnings.empty());
  EXPECT_EQ(closed->device.private_key->expose()[0], 1);
  unlink(path.c_str());
  rmdir(directory.c_str());
}

// ---- reload ----

// Goal: reloading a file that did not change changes nothing; one changed peer disturbs no other.
TEST(Reload, SaysOnlyWhatTheNewFileSaysOtherwise) {
  const std::string before = kInterface + "ListenPort = 1\n" +
                             peer(2, "AllowedIPs = 10.0.0.2, 10.1.0.0/16\nEndpoint = 192.0.2.1:1\n") +
                             peer(3, "AllowedIPs = 10.0.0.3\n") + peer(4);
  const FileConfig now = parsed(before);
  const DeviceChange none = difference(now, parsed(before));
  EXPECT_FALSE(none.private_key || none.listen_port || none.fwmark || none.replace_peers);
  EXPECT_TRUE(none.peers.empty());

  const FileConfig next =
      parsed("[Interface]\nPrivateKey = " + key(9) + "\n" +
             peer(2, "AllowedIPs = 10.0.0.2, 10.2.0.0/16\nEndpoint = 192.0.2.1:1\nPersistentKeepalive = 5\n") +
             peer(3, "AllowedIPs = 10.0.0.3\n") + peer(5, "PresharedKey = " + key(8) + "\n"));
  const DeviceChange change = difference(now, next);
  EXPECT_EQ(change.private_key->expose()[0], 9);
  EXPECT_EQ(change.listen_port, 0);  // no longer said: any
  EXPECT_FALSE(change.replace_peers);
  ASSERT_EQ(change.peers.size(), 3u);
  EXPECT_EQ(change.peers[0].public_key, public_key(4));
  EXPECT_TRUE(change.peers[0].remove);
  const PeerChange& changed = change.peers[1];
  EXPECT_EQ(changed.public_key, public_key(2));
  EXPECT_FALSE(changed.endpoint || changed.preshared_key || changed.replace_allowed_ips || changed.group);
  EXPECT_EQ(changed.persistent_keepalive_s, 5);
  ASSERT_EQ(changed.allowed_ips.size(), 2u);
  EXPECT_EQ(to_text(changed.allowed_ips[0].prefix), "10.1.0.0/16");
  EXPECT_TRUE(changed.allowed_ips[0].remove);
  EXPECT_EQ(to_text(changed.allowed_ips[1].prefix), "10.2.0.0/16");
  EXPECT_EQ(change.peers[2].public_key, public_key(5));
  EXPECT_EQ(change.peers[2].preshared_key->expose()[0], 8);
}

std::string random_file(std::mt19937_64& random) {
  auto chance = [&](unsigned percent) { return random() % 100 < percent; };
  std::string text = "[Interface]\nPrivateKey = " + key(static_cast<std::uint8_t>(1 + random() % 2)) + "\n";
  if (chance(70)) text += "ListenPort = " + std::to_string(random() % 3) + "\n";
  if (chance(30)) text += "FwMark = " + std::to_string(random() % 3) + "\n";
  std::vector<int> prefixes(12);
  for (int i = 0; i < 12; ++i) prefixes[static_cast<std::size_t>(i)] = i;
  std::shuffle(prefixes.begin(), prefixes.end(), random);
  for (std::uint8_t i = 10; i < 18; ++i) {
    if (chance(30)) continue;
    text += peer(i);
    if (chance(30)) text += "PresharedKey = " + key(static_cast<std::uint8_t>(random() % 3)) + "\n";
    text += "Endpoint = 192.0.2.1:" + std::to_string(1 + random() % 2) + "\n";
    if (chance(30)) text += "PersistentKeepalive = " + std::to_string(random() % 3) + "\n";
    if (chance(30)) text += "Group = " + std::to_string(1 + random() % 3) + "\n";
    for (std::uint64_t n = random() % 3; n > 0 && !prefixes.empty(); --n) {
      text += "AllowedIPs = 10.0." + std::to_string(prefixes.back()) + ".0/24\n";
      prefixes.pop_back();
    }
  }
  return text;
}

// Goal: after a reload the device is as if it had been started with the new file, and peers that stayed were not reset.
// Method: pairs of random files from one seed; the difference is applied to a device that has the first.
TEST(Reload, DifferenceLeadsFromAnyFileToAnyOther) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random{seed};
    const std::string first = random_file(random), second = random_file(random);
    FakeDevice reloaded, fresh;
    ASSERT_TRUE(reloaded.apply(parsed(first).device));
    std::vector<std::pair<PublicKey, unsigned>> before;
    for (const auto& slot : reloaded.slots) before.emplace_back(slot->view.public_key, slot->incarnation);
    ASSERT_TRUE(reloaded.apply(difference(parsed(first), parsed(second))));
    ASSERT_TRUE(fresh.apply(parsed(second).device));
    // A port or mark that the second file does not name is set back, whereas a fresh device never had one.
    ASSERT_EQ(state_of(reloaded), state_of(fresh)) << "seed " << seed << "\n" << first << "---\n" << second;
    for (const auto& [peer_key, incarnation] : before)
      if (fresh.find(peer_key) != nullptr) {
        ASSERT_EQ(reloaded.find(peer_key)->incarnation, incarnation) << "seed " << seed;
      }
  }
}

// Goal: a reload that wants what only a restart can do says which settings these are.
TEST(Reload, NamesTheSettingsThatNeedARestart) {
  const FileConfig now = parsed(kInterface + "MTU = 1400\n[Engine]\nWorkers = 1\n");
  EXPECT_TRUE(unchangeable(now, parsed(kInterface + "MTU = 1400\n[Engine]\nWorkers = 1\nForward = all\n")).empty());
  const auto errors = unchangeable(now, parsed(kInterface + "MTU = 1401\n[Engine]\nWorkers = 2\n"));
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_EQ(errors[0].text(), "wg0.conf: MTU: expected as it was at start: a reload cannot change it, restart instead");
  EXPECT_EQ(errors[1].key, "Workers");
}

}  // namespace
}  // namespace wireplane

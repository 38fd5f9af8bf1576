// The text protocol of wg(8): what is read, what is refused with which errno, and that nothing is lost on the way.
#include "control/uapi.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "control/noise/base64.h"
#include "tests/support/fake_device.h"

namespace wireplane {
namespace {

std::uint32_t knows_eth0(std::string_view name) { return name == "eth0" || name == "3" ? 3 : 0; }

const std::string kKey = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";
const std::string kOtherKey = "ff02030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fff";

// Feeds the whole text; the parser must take all of it and be complete.
void feed(UapiParser& parser, std::string_view text) {
  ASSERT_EQ(parser.feed(text), text.size());
  ASSERT_TRUE(parser.complete()) << text;
}
DeviceChange change_of(const std::string& lines) {
  UapiParser parser{{}, knows_eth0};
  feed(parser, "set=1\n" + lines + "\n");
  EXPECT_EQ(parser.error(), 0) << parser.error_text();
  return parser.take_change();
}

// Goal: every key of the protocol arrives where it belongs.
// proves: PROTOCOL.md 8 (replace_peers, update_only, replace_allowed_ips, "-ip", protocol_version, hex keys)
TEST(Uapi, EveryKeyMeansItsField) {
  const DeviceChange change =
      change_of("private_key=" + kKey +
                "\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true\n"
                "public_key=" +
                kKey + "\nupdate_only=true\npreshared_key=" + kOtherKey +
                "\nendpoint=[fe80::1%eth0]:51820\npersistent_keepalive_interval=65535\nprotocol_version=1\n"
                "replace_allowed_ips=true\nallowed_ip=10.0.0.7/8\nallowed_ip=-fd00::/64\nallowed_ip=+0.0.0.0/0\n"
                "public_key=" +
                kOtherKey +
                "\nremove=true\n"
                "public_key=" +
                kOtherKey + "\nendpoint=192.0.2.1:1\n");
  EXPECT_EQ(change.private_key->expose()[1], 2);
  EXPECT_EQ(change.listen_port, 51820);
  EXPECT_EQ(change.fwmark, 0xffffffffu);
  EXPECT_TRUE(change.replace_peers);
  ASSERT_EQ(change.peers.size(), 3u);
  const PeerChange& first = change.peers[0];
  EXPECT_EQ(to_hex(first.public_key).view(), kKey);
  EXPECT_TRUE(first.update_only);
  EXPECT_FALSE(first.remove);
  EXPECT_EQ(first.preshared_key->expose()[0], 0xff);
  EXPECT_EQ(to_text(*first.endpoint), "[fe80::1%3]:51820");
  EXPECT_EQ(first.persistent_keepalive_s, 65535);
  EXPECT_TRUE(first.replace_allowed_ips);
  ASSERT_EQ(first.allowed_ips.size(), 3u);
  EXPECT_EQ(to_text(first.allowed_ips[0].prefix), "10.0.0.0/8");  // host bits cleared, as the kernel does
  EXPECT_TRUE(first.allowed_ips[1].remove);
  EXPECT_EQ(to_text(first.allowed_ips[1].prefix), "fd00::/64");
  EXPECT_FALSE(first.allowed_ips[2].remove);
  EXPECT_TRUE(change.peers[1].remove);
  EXPECT_EQ(to_text(*change.peers[2].endpoint), "192.0.2.1:1");
}

struct Malformed {
  std::string request;
  int code;
};
class UapiRefuses : public testing::TestWithParam<Malformed> {};

// Goal: each malformed request is refused as a whole, read to its end, and answered with wireguard-go's errno.
// Method: a table; behind each refused request a good one follows, which must be understood.
// proves: PROTOCOL.md 8 (errno values, one blank line ends)
TEST_P(UapiRefuses, WithItsErrno) {
  UapiParser parser{{.line_octets = 300, .peers = 2, .allowed_ips = 2}, knows_eth0};
  const std::string both = GetParam().request + "get=1\n\n";
  const std::size_t taken = parser.feed(both);
  ASSERT_TRUE(parser.complete());
  EXPECT_EQ(taken, GetParam().request.size());
  EXPECT_EQ(parser.error(), GetParam().code) << parser.error_text();
  EXPECT_EQ(parser.error_text().find("0102"), std::string::npos) << "a key in an error text";
  EXPECT_TRUE(parser.take_parts().empty());
  parser.reset();
  EXPECT_EQ(parser.feed(std::string_view{both}.substr(taken)), 7u);
  EXPECT_TRUE(parser.complete());
  EXPECT_EQ(parser.verb(), UapiVerb::kGet);
  EXPECT_EQ(parser.error(), 0);
}

std::string of_device(const std::string& line) { return "set=1\n" + line + "\n\n"; }
std::string of_peer(const std::string& line) { return "set=1\npublic_key=" + kKey + "\n" + line + "\n\n"; }

INSTANTIATE_TEST_SUITE_P(
    Table, UapiRefuses,
    testing::Values(
        Malformed{"nop=1\n\n", EPROTO}, Malformed{"get=2\n\n", EPROTO}, Malformed{"set=1 \n\n", EPROTO},
        Malformed{"GET=1\n\n", EPROTO}, Malformed{"get=1\nkey=value\n\n", EINVAL},
        Malformed{"get=1\nnonsense\n\n", EPROTO}, Malformed{"wireplane=1\na=b\n\n", EINVAL},
        Malformed{of_device("nonsense"), EPROTO}, Malformed{of_device("="), EINVAL},
        Malformed{of_device("bogus=1"), EINVAL}, Malformed{of_device("get=1"), EINVAL},
        Malformed{of_device("protocol_version=1"), EINVAL}, Malformed{of_device("preshared_key=" + kKey), EINVAL},
        Malformed{of_device("remove=true"), EINVAL}, Malformed{of_device("private_key=" + kKey.substr(1)), EINVAL},
        Malformed{of_device("private_key=" + kKey + "0"), EINVAL},
        Malformed{of_device("private_key=" + kKey.substr(1) + "g"), EINVAL},
        Malformed{of_device("private_key= " + kKey.substr(1)), EINVAL}, Malformed{of_device("private_key="), EINVAL},
        Malformed{of_device("listen_port=65536"), EINVAL}, Malformed{of_device("listen_port=-1"), EINVAL},
        Malformed{of_device("listen_port=+1"), EINVAL}, Malformed{of_device("listen_port="), EINVAL},
        Malformed{of_device("listen_port=1 "), EINVAL}, Malformed{of_device("listen_port=0x10"), EINVAL},
        Malformed{of_device("fwmark=4294967296"), EINVAL}, Malformed{of_device("fwmark=0xca6c"), EINVAL},
        Malformed{of_device("replace_peers=false"), EINVAL}, Malformed{of_device("replace_peers=1"), EINVAL},
        Malformed{of_device("public_key=" + kKey.substr(2)), EINVAL}, Malformed{of_peer("private_key=" + kKey), EINVAL},
        Malformed{of_peer("listen_port=1"), EINVAL}, Malformed{of_peer("replace_peers=true"), EINVAL},
        Malformed{of_peer("preshared_key=x"), EINVAL}, Malformed{of_peer("endpoint=192.0.2.1"), EINVAL},
        Malformed{of_peer("endpoint=192.0.2.1:0"), EINVAL}, Malformed{of_peer("endpoint=192.0.2.1:65536"), EINVAL},
        Malformed{of_peer("endpoint=192.0.2.01:1"), EINVAL}, Malformed{of_peer("endpoint=2001:db8::1:1"), EINVAL},
        Malformed{of_peer("endpoint=[192.0.2.1]:1"), EINVAL},
        Malformed{of_peer("endpoint=[2001:db8::1%eth0]:1"), EINVAL},
        Malformed{of_peer("endpoint=[fe80::1%eth9]:1"), EINVAL}, Malformed{of_peer("endpoint=[fe80::1%]:1"), EINVAL},
        Malformed{of_peer("endpoint=[]:1"), EINVAL}, Malformed{of_peer("endpoint=[::1]1"), EINVAL},
        Malformed{of_peer("endpoint=]:1"), EINVAL}, Malformed{of_peer("endpoint=relay.example:1"), EINVAL},
        Malformed{of_peer("endpoint="), EINVAL}, Malformed{of_peer("persistent_keepalive_interval=65536"), EINVAL},
        Malformed{of_peer("persistent_keepalive_interval=off"), EINVAL},
        Malformed{of_peer("replace_allowed_ips=false"), EINVAL}, Malformed{of_peer("remove=yes"), EINVAL},
        Malformed{of_peer("update_only="), EINVAL}, Malformed{of_peer("protocol_version=2"), EINVAL},
        Malformed{of_peer("allowed_ip=10.0.0.0"), EINVAL}, Malformed{of_peer("allowed_ip=10.0.0.0/33"), EINVAL},
        Malformed{of_peer("allowed_ip=fd00::/129"), EINVAL}, Malformed{of_peer("allowed_ip=10.0.0.0/"), EINVAL},
        Malformed{of_peer("allowed_ip=10.0.0.0/08"), EINVAL}, Malformed{of_peer("allowed_ip=--10.0.0.0/8"), EINVAL},
        Malformed{of_peer("allowed_ip=/8"), EINVAL}, Malformed{of_peer("allowed_ip="), EINVAL},
        Malformed{of_peer("allowed_ip=10.0.0.0/8 "), EINVAL}, Malformed{of_peer("rx_bytes=1"), EINVAL},
        Malformed{of_peer(std::string(301, 'x')), EPROTO}, Malformed{std::string(5000, 'x') + "\n\n", EPROTO},
        Malformed{of_peer(std::string("endpoint=1.2.3.4\0:1", 19)), EINVAL},
        Malformed{"set=1\npublic_key=" + kKey + "\npublic_key=" + kKey + "\npublic_key=" + kKey + "\n\n", E2BIG},
        Malformed{of_peer("allowed_ip=1.0.0.0/8\nallowed_ip=2.0.0.0/8\nallowed_ip=3.0.0.0/8"), E2BIG},
        // the fault may stand at the very end: still nothing is left of what came before
        Malformed{"set=1\nlisten_port=1\npublic_key=" + kKey + "\nallowed_ip=10.0.0.0/8\nbogus=1\n\n", EINVAL}));

// Goal: it does not matter in which pieces the octets come.
// Method: a request cut at every place, and octet by octet.
TEST(Uapi, PiecesMakeNoDifference) {
  const std::string request =
      "set=1\nprivate_key=" + kKey + "\npublic_key=" + kOtherKey + "\nallowed_ip=10.0.0.0/8\n\n";
  for (std::size_t cut = 0; cut <= request.size(); ++cut) {
    UapiParser parser;
    ASSERT_EQ(parser.feed(std::string_view{request}.substr(0, cut)), cut);
    ASSERT_EQ(parser.complete(), cut == request.size());
    parser.feed(std::string_view{request}.substr(cut));
    ASSERT_TRUE(parser.complete());
    ASSERT_EQ(parser.error(), 0);
    ASSERT_EQ(parser.take_change().peers.size(), 1u);
  }
  UapiParser parser;
  for (const char& letter : request) parser.feed({&letter, 1});
  EXPECT_EQ(parser.take_change().peers.at(0).allowed_ips.size(), 1u);
}

// Goal: a request of any size comes in parts of bounded size that mean the same as the whole.
// Method: many peers, one of them with very many allowed IPs; parts applied one by one.
TEST(Uapi, LargeRequestsComeInBoundedParts) {
  DeviceChange whole;
  whole.listen_port = 7;
  whole.replace_peers = true;
  for (unsigned i = 0; i < 100; ++i) {
    PeerChange& peer = whole.peers.emplace_back();
    peer.public_key.octets[0] = static_cast<std::uint8_t>(i);
    peer.replace_allowed_ips = true;
    for (unsigned n = 0; n < (i == 50 ? 1000u : 1u); ++n) {
      const std::uint8_t octets[4] = {10, static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(n >> 8),
                                      static_cast<std::uint8_t>(n)};
      peer.allowed_ips.push_back({.prefix = {.address = Address::v4(octets), .length = 32}, .remove = false});
    }
  }
  SecretText text = "set=1\n";
  append_uapi(text, whole);
  text += '\n';
  UapiParser parser{{.peers_a_part = 8, .allowed_ips_a_part = 64}};
  feed(parser, text);
  auto parts = parser.take_parts();
  EXPECT_GT(parts.size(), 20u);
  EXPECT_EQ(parts.front().listen_port, 7);
  FakeDevice in_parts, at_once;
  for (auto part = parts.begin(); part != parts.end(); ++part) {
    EXPECT_EQ(part->replace_peers, part == parts.begin());
    EXPECT_LE(part->peers.size(), 8u);
    std::size_t prefixes = 0;
    for (const auto& peer : part->peers) prefixes += peer.allowed_ips.size();
    EXPECT_LE(prefixes, 64u + 8u);
    ASSERT_TRUE(in_parts.apply(std::move(*part)));
  }
  ASSERT_TRUE(at_once.apply(std::move(whole)));
  EXPECT_EQ(state_of(in_parts), state_of(at_once));
}

Address random_address(std::mt19937_64& random) {
  std::uint8_t octets[16];
  for (auto& octet : octets) octet = random() % 3 == 0 ? std::uint8_t{0} : static_cast<std::uint8_t>(random());
  if (random() % 2 == 0) return Address::v4(octets);
  if (random() % 4 == 0) octets[0] = 0xfe, octets[1] = 0x80;
  return Address::v6(octets);
}

SecretKey random_secret(std::mt19937_64& random) {
  SecretKey key;
  for (auto& octet : key.fill()) octet = static_cast<std::uint8_t>(random());
  return key;
}

PeerChange random_peer(std::mt19937_64& random) {
  auto maybe = [&] { return random() % 2 == 0; };
  PeerChange peer;
  for (auto& octet : peer.public_key.octets) octet = static_cast<std::uint8_t>(random());
  peer.remove = maybe();
  peer.update_only = maybe();
  if (maybe()) peer.preshared_key = random_secret(random);
  if (maybe()) {
    Endpoint& endpoint = peer.endpoint.emplace();
    endpoint.remote = random_address(random);
    endpoint.port = static_cast<std::uint16_t>(1 + random() % 65535);
    if (is_link_local(endpoint.remote)) endpoint.interface = static_cast<std::uint32_t>(random() % 5);
  }
  if (maybe()) peer.persistent_keepalive_s = static_cast<std::uint16_t>(random());
  peer.replace_allowed_ips = maybe();
  for (std::uint64_t n = random() % 5; n > 0; --n) {
    Prefix prefix{.address = random_address(random), .length = 0};
    prefix.length = static_cast<std::uint8_t>(random() % (prefix.address.bits() + 1));
    peer.allowed_ips.push_back({.prefix = masked(prefix), .remove = maybe()});
  }
  return peer;
}

bool same_key(const std::optional<SecretKey>& a, const std::optional<SecretKey>& b) {
  if (a.has_value() != b.has_value()) return false;
  return !a || std::equal(a->expose().begin(), a->expose().end(), b->expose().begin());
}

// Goal: remove, update_only and replace_allowed_ips speak of all of a peer's lines, also where these went on in another
// part. Found by the uapi_server fuzzer: a late update_only created the peer, if its allowed IPs filled a part.
// Method: parts of two allowed IPs, the flags behind the fifth; what the device is told is what it is told in one part.
TEST(Uapi, FlagsBehindAFullPartSpeakOfThePeersEarlierLinesToo) {
  std::string lines = "set=1\npublic_key=" + kOtherKey + "\nallowed_ip=10.9.0.0/16\npublic_key=" + kKey + '\n';
  for (int i = 0; i < 5; ++i) lines += "allowed_ip=10." + std::to_string(i) + ".0.0/16\n";
  for (const std::string flag : {"remove", "update_only", "replace_allowed_ips"}) {
    UapiParser parser{{.allowed_ips_a_part = 2}};
    feed(parser, lines + flag + "=true\n\n");
    ASSERT_EQ(parser.error(), 0);
    FakeDevice device;
    for (DeviceChange& part : parser.take_parts()) ASSERT_TRUE(device.apply(std::move(part)));
    EXPECT_EQ(device.peers(), flag == "replace_allowed_ips" ? 2u : 1u) << flag;
    EXPECT_EQ(device.owners.size(), 1u) << flag;
  }
}

// Goal: what is written is what is read, for any change there is.
// Method: random changes of one seed each, to text and back, field by field.
TEST(Uapi, AnyChangeSurvivesTheText) {
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    std::mt19937_64 random{seed};
    DeviceChange change;
    if (random() % 2) change.private_key = random_secret(random);
    if (random() % 2) change.listen_port = static_cast<std::uint16_t>(random());
    if (random() % 2) change.fwmark = static_cast<std::uint32_t>(random());
    change.replace_peers = random() % 2;
    for (std::uint64_t n = random() % 6; n > 0; --n) change.peers.push_back(random_peer(random));
    SecretText text = "set=1\n";
    append_uapi(text, change);
    text += '\n';
    UapiParser parser;
    feed(parser, text);
    ASSERT_EQ(parser.error(), 0) << "seed " << seed << ": " << parser.error_text();
    const DeviceChange read = parser.take_change();
    ASSERT_TRUE(same_key(read.private_key, change.private_key)) << "seed " << seed;
    ASSERT_EQ(read.listen_port, change.listen_port);
    ASSERT_EQ(read.fwmark, change.fwmark);
    ASSERT_EQ(read.replace_peers, change.replace_peers);
    ASSERT_EQ(read.peers.size(), change.peers.size());
    for (std::size_t i = 0; i < read.peers.size(); ++i) {
      const PeerChange &a = read.peers[i], &b = change.peers[i];
      ASSERT_EQ(a.public_key, b.public_key) << "seed " << seed;
      ASSERT_EQ(a.remove, b.remove);
      ASSERT_EQ(a.update_only, b.update_only);
      ASSERT_TRUE(same_key(a.preshared_key, b.preshared_key));
      ASSERT_EQ(a.endpoint, b.endpoint) << "seed " << seed << ": " << text;
      ASSERT_EQ(a.persistent_keepalive_s, b.persistent_keepalive_s);
      ASSERT_EQ(a.replace_allowed_ips, b.replace_allowed_ips);
      ASSERT_EQ(a.allowed_ips.size(), b.allowed_ips.size());
      for (std::size_t k = 0; k < a.allowed_ips.size(); ++k) {
        ASSERT_EQ(a.allowed_ips[k].prefix, b.allowed_ips[k].prefix) << "seed " << seed << ": " << text;
        ASSERT_EQ(a.allowed_ips[k].remove, b.allowed_ips[k].remove);
      }
    }
  }
}

// Goal: a get reply has the lines that wg(8) reads, in the order it wants.
TEST(Uapi, AGetReplyHasTheLinesOfTheSpecification) {
  DeviceView device;
  device.private_key.fill()[0] = 0xab;
  device.listen_port = 51820;
  device.fwmark = 1;
  PeerView peer;
  peer.public_key = *public_key_from_hex(kKey);
  const std::uint8_t octets[4] = {192, 0, 2, 1};
  peer.endpoint = Endpoint{.remote = Address::v4(octets), .local = {}, .interface = 9, .port = 5};
  peer.persistent_keepalive_s = 25;
  peer.allowed_ips = {*parse_prefix("10.0.0.0/8"), *parse_prefix("fd00::/64")};
  peer.last_handshake = 1'700'000'000s + 7ns;
  peer.received_octets = 3;
  peer.sent_octets = 18446744073709551615u;
  SecretText text;
  append_uapi(text, device);
  append_uapi(text, peer);
  append_uapi_errno(text, 0);
  append_uapi_errno(text, EINVAL);
  EXPECT_EQ(
      std::string_view{text},
      "private_key=ab" + std::string(62, '0') + "\nlisten_port=51820\nfwmark=1\npublic_key=" + kKey +
          "\npreshared_key=" + std::string(64, '0') +
          "\nprotocol_version=1\nendpoint=192.0.2.1:5\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=7\n"
          "tx_bytes=18446744073709551615\nrx_bytes=3\npersistent_keepalive_interval=25\n"
          "allowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\nerrno=0\n\nerrno=-22\n\n");
}

// Goal: no octets whatever bring the parser down or make it hold more than its limits.
// Method: random mixes of true lines and noise.
TEST(Uapi, NoiseIsSurvived) {
  const std::string lines[] = {"set=1\n",
                               "get=1\n",
                               "\n",
                               "public_key=" + kKey + "\n",
                               "allowed_ip=10.0.0.0/8\n",
                               "replace_allowed_ips=true\n",
                               "=",
                               "\0",
                               "\n\n\n",
                               "remove=true\n",
                               "private_key=" + kOtherKey + "\n",
                               std::string(400, 'a')};
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    std::mt19937_64 random{seed};
    UapiParser parser{{.line_octets = 200, .peers = 4, .allowed_ips = 4, .peers_a_part = 1, .allowed_ips_a_part = 1}};
    std::string text;
    for (int i = 0; i < 60; ++i) text += lines[random() % std::size(lines)];
    for (std::size_t at = 0; at < text.size();) {
      at += parser.feed(std::string_view{text}.substr(at, 1 + random() % 50));
      if (!parser.complete()) continue;
      if (parser.error() == 0 && parser.verb() == UapiVerb::kSet) {
        EXPECT_LE(parser.take_change().peers.size(), 8u);
      }
      parser.reset();
    }
  }
}

}  // namespace
}  // namespace wireplane

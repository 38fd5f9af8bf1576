#include "dataplane/wire/fragment.h"

#include <gtest/gtest.h>

#include <map>

#include "dataplane/wire/inner_ip.h"
#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using test::Octets;

std::vector<Octets> cut(const Octets& packet, std::size_t mtu, bool* whole = nullptr) {
  std::vector<Octets> fragments;
  fragment_ipv4(
      packet.data(), packet.size(), mtu, [&](std::size_t length) { return fragments.emplace_back(length).data(); },
      whole);
  return fragments;
}

// Puts payloads together by offset; checks each header on the way.
Octets reassemble(const std::vector<Octets>& fragments, std::size_t mtu, bool last_is_last = true) {
  std::map<std::size_t, Octets> parts;
  bool saw_last = false;
  for (const Octets& f : fragments) {
    EXPECT_LE(f.size(), mtu);
    EXPECT_EQ(inner_length(f.data(), f.size()), f.size());
    const std::size_t header = ip_header_length(f.data());
    EXPECT_EQ(internet_checksum(f.data(), header), 0);
    const std::uint16_t where = load_be16(&f[6]);
    parts[(where & 0x1fff) * 8u] = Octets(f.begin() + static_cast<std::ptrdiff_t>(header), f.end());
    if ((where & 0x2000) == 0)
      saw_last = true;
    else
      EXPECT_EQ((f.size() - header) % 8, 0u);
  }
  EXPECT_EQ(saw_last, last_is_last);
  Octets all;
  for (const auto& [offset, part] : parts) {
    EXPECT_EQ(offset, all.size());
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

// Goal: what is cut comes together again, and no fragment is larger than the MTU.
// Method: random lengths and MTUs, fragments of fragments too.
TEST(Fragment, PiecesMakeTheWholeAgainAlsoWhenCutTwice) {
  const std::uint64_t seed = test::seed_from_env_or(791);
  test::Random random{seed};
  for (int i = 0; i < 300; ++i) {
    Octets payload(1 + test::below(random, 9000));
    for (auto& octet : payload) octet = static_cast<std::uint8_t>(random());
    const Octets packet = test::ip_packet("10.0.0.1", "10.0.0.2", 17, payload);
    const std::size_t mtu = 68 + test::below(random, 1500);
    bool whole = false;
    const std::vector<Octets> fragments = cut(packet, mtu, &whole);
    EXPECT_TRUE(whole);
    EXPECT_EQ(reassemble(fragments, mtu), payload) << "WG_SEED=" << seed;

    std::vector<Octets> again;
    const std::size_t smaller = 28 + test::below(random, mtu);
    for (const Octets& f : fragments)
      for (Octets& piece : cut(f, smaller)) again.push_back(std::move(piece));
    EXPECT_EQ(reassemble(again, smaller), payload) << "WG_SEED=" << seed;
  }
}

// Goal: options are copied into later fragments only if they say so (RFC 791 §3.1).
// Method: a NOP, a loose source route (copied), a timestamp (not copied), an end.
TEST(Fragment, CarriesOnlyTheOptionsThatAreToBeCopied) {
  const Octets options = {1, 0x83, 7, 4, 10, 9, 8, 7, 0x44, 4, 5, 0};  // 12 octets
  Octets packet = test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(1000, 0xaa));
  packet.insert(packet.begin() + 20, options.begin(), options.end());
  packet[0] = 0x48;
  store_be16(&packet[2], static_cast<std::uint16_t>(packet.size()));
  store_be16(&packet[10], 0);
  store_be16(&packet[10], internet_checksum(packet.data(), 32));

  const std::vector<Octets> fragments = cut(packet, 400);
  ASSERT_GE(fragments.size(), 3u);
  EXPECT_EQ(Octets(fragments[0].begin() + 20, fragments[0].begin() + 32), options);
  for (std::size_t i = 1; i < fragments.size(); ++i) {
    EXPECT_EQ(fragments[i][0], 0x47);
    EXPECT_EQ(Octets(fragments[i].begin() + 20, fragments[i].begin() + 28), (Octets{0x83, 7, 4, 10, 9, 8, 7, 0}));
  }
  EXPECT_EQ(reassemble(fragments, 400), Octets(1000, 0xaa));

  for (const int damage : {0, 1, 40, 255}) {  // an option of impossible length: nothing is read outside the header
    Octets damaged = packet;
    damaged[22] = static_cast<std::uint8_t>(damage);
    EXPECT_FALSE(cut(damaged, 400).empty());
  }
}

// Goal: what may not be cut is not: DF, IPv6, an MTU without room, a "fragment" that ends beyond the largest packet.
// Method: one of each.
TEST(Fragment, RefusesWhatMustNotBeCut) {
  bool whole = true;
  EXPECT_TRUE(cut(test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(1000), 64, 0, true), 500, &whole).empty());
  EXPECT_FALSE(whole);
  EXPECT_TRUE(cut(test::ip_packet("2001:db8::1", "2001:db8::2", 17, Octets(2000)), 1280, &whole).empty());
  EXPECT_FALSE(whole);
  EXPECT_TRUE(cut(test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(1000)), 27, &whole).empty());
  EXPECT_FALSE(whole);
  Octets beyond = test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(1000));
  store_be16(&beyond[6], 0x1ff0);
  EXPECT_TRUE(cut(beyond, 500, &whole).empty());
  EXPECT_FALSE(whole);
}

// Goal: a packet that fits passes as it is, a bare header too; and who has no buffers left is told that it is not
// whole.
// Method: fitting packets with and without DF; a place that gives out.
TEST(Fragment, PassesWhatFitsAndSaysWhenItStopped) {
  for (const bool df : {false, true}) {
    const Octets packet = test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(480, 7), 64, 0, df);
    EXPECT_EQ(cut(packet, 500), std::vector<Octets>{packet});
  }
  const Octets bare = test::ip_packet("10.0.0.1", "10.0.0.2", 17, {});
  EXPECT_EQ(cut(bare, 500), std::vector<Octets>{bare});

  const Octets packet = test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(2000));
  Octets buffer(500);
  int buffers = 2;
  bool whole = true;
  EXPECT_EQ(fragment_ipv4(
                packet.data(), packet.size(), 500, [&](std::size_t) { return buffers-- > 0 ? buffer.data() : nullptr; },
                &whole),
            2u);
  EXPECT_FALSE(whole);
}

}  // namespace
}  // namespace wireplane

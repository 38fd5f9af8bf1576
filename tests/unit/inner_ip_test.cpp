#include "dataplane/wire/inner_ip.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using test::address;
using test::ip_packet;
using test::Octets;
using test::udp_packet;

// Goal: the inner packet ends where its header says, and a header that lies is refused.
// Method: both families: exact, padded, too long by one, shorter than the header; each other version; each count
// below a header.
// proves: P35
TEST(InnerIp, LengthIsTheHeadersAndMustFit) {
  for (const Octets& packet :
       {udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 100), udp_packet("2001:db8::1", 1, "2001:db8::2", 2, 100)}) {
    Octets padded = packet;
    EXPECT_EQ(inner_length(packet.data(), packet.size()), packet.size());
    padded.resize(packet.size() + 13);
    EXPECT_EQ(inner_length(padded.data(), padded.size()), packet.size());
    EXPECT_EQ(inner_length(packet.data(), packet.size() - 1), 0u);
    for (std::size_t count = 0; count < (packet[0] >> 4 == 4 ? 20u : 40u); ++count)
      EXPECT_EQ(inner_length(packet.data(), count), 0u);
    for (unsigned version = 0; version < 16; ++version) {
      if (version == 4 || version == 6) continue;
      padded[0] = static_cast<std::uint8_t>(version << 4 | (packet[0] & 0x0f));
      EXPECT_EQ(inner_length(padded.data(), padded.size()), 0u) << version;
    }
  }
  Octets packet = ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(60));
  for (unsigned ihl = 0; ihl < 16; ++ihl) {
    packet[0] = static_cast<std::uint8_t>(0x40 | ihl);
    EXPECT_EQ(inner_length(packet.data(), packet.size()), ihl < 5 ? 0u : 80u) << ihl;
  }
  packet[0] = 0x46;
  store_be16(&packet[2], 23);  // less than the header of 24
  EXPECT_EQ(inner_length(packet.data(), packet.size()), 0u);
  store_be16(&packet[2], 24);
  EXPECT_EQ(inner_length(packet.data(), packet.size()), 24u);
  const Octets bare = ip_packet("::2", "::3", 59, {});
  EXPECT_EQ(inner_length(bare.data(), bare.size()), 40u);
}

// Goal: no octets, however made, make the parser read outside them, and what it accepts fits.
// Method: random octets behind plausible first ones, in blocks of exactly their size (AddressSanitizer watches),
// through every reader.
// proves: P35
TEST(InnerIp, SurvivesAnyOctets) {
  const std::uint64_t seed = test::seed_from_env_or(35);
  test::Random random{seed};
  const std::uint8_t headers[] = {0, 43, 44, 51, 60, 135, 50, 59, 6, 17, 58, 1};
  std::size_t accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    const std::size_t count = test::below(random, 120);
    const auto octets = std::make_unique<std::uint8_t[]>(count);
    for (std::size_t at = 0; at < count; ++at)
      octets[at] = random() % 4 ? headers[random() % std::size(headers)] : static_cast<std::uint8_t>(random());
    if (count > 0) octets[0] = random() % 2 ? 0x45 : 0x60;
    if (count > 5)
      store_be16(&octets[octets[0] == 0x45 ? 2 : 4], static_cast<std::uint16_t>(test::below(random, count + 2)));
    const std::size_t length = inner_length(octets.get(), count);
    ASSERT_LE(length, count);
    if (length == 0) continue;
    ++accepted;
    const Transport t = transport_of(octets.get(), length);
    ASSERT_LE(t.offset + t.octets, length);
    (void)flow_hash(flow_of(octets.get(), length));
    (void)is_own_datagram(octets.get(), length, 1, Endpoint{destination_of(octets.get()), {}, 0, 2});
    (void)is_martian_source(octets.get());
    (void)is_local_destination(octets.get());
    (void)decrement_ttl(octets.get());
  }
  EXPECT_GT(accepted, 10000u);
}

// Goal: a router's change of TTL and class keeps IPv4's checksum right, touches nothing else, and a spent packet
// stays as it is.
// Method: all TTLs; all classes; recomputed checksums.
TEST(InnerIp, TtlAndClassChangeWithTheChecksum) {
  for (unsigned ttl = 0; ttl < 256; ++ttl) {
    for (const char* from : {"10.0.0.1", "2001:db8::1"}) {
      const char* to = address(from).is_v4() ? "10.255.3.4" : "2001:db8::2";
      Octets packet = ip_packet(from, to, 17, Octets(20), static_cast<std::uint8_t>(ttl));
      if (ttl <= 1) {
        const Octets before = packet;
        EXPECT_FALSE(decrement_ttl(packet.data()));
        EXPECT_EQ(packet, before);
      } else {
        EXPECT_TRUE(decrement_ttl(packet.data()));
        EXPECT_EQ(packet, ip_packet(from, to, 17, Octets(20), static_cast<std::uint8_t>(ttl - 1)));
      }
      set_ds_field(packet.data(), static_cast<std::uint8_t>(ttl));
      EXPECT_EQ(ds_field(packet.data()), ttl);
      EXPECT_EQ(packet, ip_packet(from, to, 17, Octets(20), ttl_of(packet.data()), static_cast<std::uint8_t>(ttl)));
    }
  }
}

bool martian(const char* from) {
  const Octets packet = ip_packet(from, address(from).is_v4() ? "8.8.8.8" : "2001:4860::8", 17, {});
  return is_martian_source(packet.data());
}
bool local(const char* to) {
  const Octets packet = ip_packet(address(to).is_v4() ? "8.8.8.8" : "2001:4860::8", to, 17, {});
  return is_local_destination(packet.data());
}

// Goal: the lists of addresses that a router keeps off the road, with their edges.
// Method: first and last address of each, and the neighbours outside.
TEST(InnerIp, MartiansAndLocalDestinationsAreThoseOfTheRfcs) {
  for (const char* a :
       {"0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.0",
        "255.255.255.255", "::", "::1", "::8.8.8.8", "::ffff:10.0.0.1", "ff00::", "ff02::1", "ffff::1"}) {
    EXPECT_TRUE(martian(a)) << a;
    EXPECT_TRUE(local(a)) << a;
  }
  for (const char* a : {"1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "10.0.0.1", "192.168.1.1",
                        "169.253.255.255", "169.255.0.0", "100.64.0.1", "2001:db8::1", "fd00::1", "fec0::1",
                        "64:ff9b::8.8.8.8", "0:0:0:1::", "::1:0:0:0", "::fffe:0:1", "fe00::1"}) {
    EXPECT_FALSE(martian(a)) << a;
    EXPECT_FALSE(local(a)) << a;
  }
  for (const char* a : {"169.254.0.0", "169.254.255.255", "fe80::1", "febf:ffff::1"}) {
    EXPECT_FALSE(martian(a)) << a;
    EXPECT_TRUE(local(a)) << a;
  }
}

// Goal: the transport header is found behind IPv6's extensions, and not found where it is not.
// Method: hop-by-hop, destination options, authentication and fragment headers before UDP; a later fragment; a cut
// header; too many.
TEST(InnerIp, FindsTheTransportBehindExtensions) {
  Octets chain = {60, 0, 1, 4, 0, 0, 0, 0};                                       // hop-by-hop, then
  chain.insert(chain.end(), {51, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});  // destination options of 16 octets
  chain.insert(chain.end(), {44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2});               // authentication, 12 octets
  const std::size_t fragment_at = chain.size();
  chain.insert(chain.end(), {17, 0, 0, 1, 0, 0, 0, 9});  // first fragment, more to come
  const std::size_t udp_at = chain.size();
  chain.insert(chain.end(), {0, 53, 1, 0, 0, 8, 0, 0});
  Octets packet = ip_packet("2001:db8::1", "2001:db8::2", 0, chain);
  Transport t = transport_of(packet.data(), packet.size());
  EXPECT_EQ(t.protocol, 17);
  EXPECT_TRUE(t.fragment);
  EXPECT_TRUE(t.first);
  EXPECT_EQ(t.offset, 40 + udp_at);
  EXPECT_EQ(t.octets, 8u);

  packet[40 + fragment_at + 3] = 0;  // offset 0, no more: an atomic fragment (RFC 6946) is no fragment
  EXPECT_FALSE(transport_of(packet.data(), packet.size()).fragment);
  packet[40 + fragment_at + 3] = 8;
  t = transport_of(packet.data(), packet.size());
  EXPECT_TRUE(t.fragment);
  EXPECT_FALSE(t.first);
  EXPECT_EQ(t.offset, 0u);
  EXPECT_EQ(transport_of(packet.data(), 40 + fragment_at + 4).offset, 0u);

  Octets endless;
  for (int i = 0; i < 20; ++i) endless.insert(endless.end(), {60, 0, 1, 4, 0, 0, 0, 0});
  const Octets long_chain = ip_packet("2001:db8::1", "2001:db8::2", 60, endless);
  EXPECT_EQ(transport_of(long_chain.data(), long_chain.size()).offset, 0u);

  Octets v4 = udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 10);
  EXPECT_EQ(transport_of(v4.data(), v4.size()).offset, 20u);
  v4[6] = 0x20;
  EXPECT_TRUE(transport_of(v4.data(), v4.size()).fragment);
  EXPECT_EQ(transport_of(v4.data(), v4.size()).offset, 20u);
  v4[7] = 1;
  EXPECT_FALSE(transport_of(v4.data(), v4.size()).first);
  EXPECT_EQ(transport_of(v4.data(), v4.size()).offset, 0u);
}

// Goal: a flow is addresses, protocol and ports; all fragments of one packet are one flow; hashes spread.
// Method: fields compared; 4096 flows over 64 places, none with three times its share.
TEST(InnerIp, FlowsAreToldApartAndFragmentsStayTogether) {
  const Octets packet = udp_packet("10.0.0.1", 1000, "10.0.0.2", 2000, 10);
  const Flow flow = flow_of(packet.data(), packet.size());
  EXPECT_EQ(flow, (Flow{address("10.0.0.1"), address("10.0.0.2"), 1000, 2000, 17}));

  Octets first = packet, later = packet;
  first[6] = 0x20;
  later[7] = 10;
  EXPECT_EQ(flow_of(first.data(), first.size()), flow_of(later.data(), later.size()));

  int places[64] = {};
  for (std::uint16_t port = 0; port < 4096; ++port) {
    const Octets p = udp_packet("10.0.0.1", port, "10.0.0.2", 443, 0);
    ++places[flow_hash(flow_of(p.data(), p.size())) % 64];
  }
  for (const int n : places) EXPECT_LT(n, 3 * 64);
}

// Goal: the datagram that carries the tunnel, routed into the tunnel, is recognised; nothing else is.
// Method: the very datagram in both families, and each of its five marks changed.
// proves: P42
TEST(InnerIp, RecognisesTheTunnelsOwnDatagram) {
  for (const bool v4 : {true, false}) {
    const char* us = v4 ? "192.0.2.1" : "2001:db8::1";
    const char* them = v4 ? "198.51.100.7" : "2001:db8:9::7";
    const Endpoint peer{address(them), {}, 0, 51821};
    const auto own = [&](const Octets& p) { return is_own_datagram(p.data(), p.size(), 51820, peer); };
    EXPECT_TRUE(own(udp_packet(us, 51820, them, 51821, 80)));
    EXPECT_FALSE(own(udp_packet(us, 51822, them, 51821, 80)));
    EXPECT_FALSE(own(udp_packet(us, 51820, them, 51822, 80)));
    EXPECT_FALSE(own(udp_packet(us, 51820, v4 ? "198.51.100.8" : "2001:db8:9::8", 51821, 80)));
    Octets tcp = udp_packet(us, 51820, them, 51821, 80);
    tcp[v4 ? 9 : 6] = 6;
    EXPECT_FALSE(own(tcp));
    EXPECT_FALSE(
        own(udp_packet(v4 ? "2001:db8::1" : "192.0.2.1", 51820, v4 ? "2001:db8:9::7" : "198.51.100.7", 51821, 80)));
    EXPECT_FALSE(is_own_datagram(udp_packet(us, 51820, them, 51821, 80).data(), 108, 51820, Endpoint{}));
  }
}

}  // namespace
}  // namespace wireplane

#include "dataplane/wire/icmp.h"

#include <gtest/gtest.h>

#include "dataplane/wire/inner_ip.h"
#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using test::address;
using test::ip_packet;
using test::Octets;
using test::udp_packet;

constexpr const char* kRouter4 = "10.0.0.254";
constexpr const char* kRouter6 = "2001:db8::fe";

Octets error_for(IcmpError kind, const Octets& offending, std::size_t mtu = 0, std::size_t room = 2000) {
  Octets out(room);
  const Address router = address(is_ipv4(offending.data()) ? kRouter4 : kRouter6);
  out.resize(make_icmp_error(kind, offending, router, mtu, out));
  return out;
}
bool silent(const Octets& offending, IcmpError kind = IcmpError::kTimeExceeded) {
  return error_for(kind, offending).empty();
}

// Goal: each kind has its type, code and MTU, in both families, and is a packet that a host accepts.
// Method: every field compared; both checksums; the quote is the offending packet's start.
TEST(Icmp, ErrorsAreWellFormedAndQuoteTheirCause) {
  struct Case {
    IcmpError kind;
    int type4, code4, type6, code6;
    std::size_t mtu;
  };
  const Case cases[] = {{IcmpError::kTimeExceeded, 11, 0, 3, 0, 0},
                        {IcmpError::kUnreachable, 3, 1, 1, 3, 0},
                        {IcmpError::kProhibited, 3, 13, 1, 1, 0},
                        {IcmpError::kTooBig, 3, 4, 2, 0, 1400}};
  for (const Case& c : cases) {
    for (const std::size_t size : {0u, 1u, 100u, 519u, 520u, 521u, 1183u, 1184u, 1185u, 1420u}) {
      Octets payload(8 + size);
      const Octets cause4 = ip_packet("192.168.7.9", "10.9.9.9", 17, payload, 64, 0, true);
      const Octets e4 = error_for(c.kind, cause4, c.mtu);
      ASSERT_EQ(e4.size(), std::min<std::size_t>(576, cause4.size() + 28));
      EXPECT_EQ(inner_length(e4.data(), e4.size()), e4.size());
      EXPECT_EQ(internet_checksum(e4.data(), 20), 0);
      EXPECT_EQ(internet_checksum(e4.data() + 20, e4.size() - 20), 0);
      EXPECT_EQ(source_of(e4.data()), address(kRouter4));
      EXPECT_EQ(destination_of(e4.data()), address("192.168.7.9"));
      EXPECT_EQ(ttl_of(e4.data()), 64);
      EXPECT_EQ(e4[9], 1);
      EXPECT_EQ(e4[20], c.type4);
      EXPECT_EQ(e4[21], c.code4);
      EXPECT_EQ(load_be16(&e4[24]), 0);
      EXPECT_EQ(load_be16(&e4[26]), c.mtu);
      EXPECT_TRUE(std::equal(e4.begin() + 28, e4.end(), cause4.begin()));

      const Octets cause6 = ip_packet("2001:db8:7::9", "2001:db8:9::9", 17, payload);
      const Octets e6 = error_for(c.kind, cause6, c.mtu);
      ASSERT_EQ(e6.size(), std::min<std::size_t>(1280, cause6.size() + 48));
      EXPECT_EQ(inner_length(e6.data(), e6.size()), e6.size());
      ChecksumSum sum = pseudo_header(e6.data(), 58, e6.size() - 40);
      sum.add(e6.data() + 40, e6.size() - 40);
      EXPECT_EQ(sum.finish(), 0);
      EXPECT_EQ(source_of(e6.data()), address(kRouter6));
      EXPECT_EQ(destination_of(e6.data()), address("2001:db8:7::9"));
      EXPECT_EQ(ttl_of(e6.data()), 64);
      EXPECT_EQ(e6[6], 58);
      EXPECT_EQ(e6[40], c.type6);
      EXPECT_EQ(e6[41], c.code6);
      EXPECT_EQ(load_be32(&e6[44]), c.mtu);
      EXPECT_TRUE(std::equal(e6.begin() + 48, e6.end(), cause6.begin()));
    }
  }
}

// Goal: nothing is said about what the RFCs forbid to answer: no error about an error, no storm, no reflection.
// Method: one packet for each rule, beside one that is answered.
TEST(Icmp, IsSilentWhereTheRfcsDemandIt) {
  EXPECT_FALSE(silent(udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 20)));
  EXPECT_FALSE(silent(udp_packet("2001:db8::1", 1, "2001:db8::2", 2, 20)));
  for (const int type : {0, 8, 13, 17})
    EXPECT_FALSE(silent(ip_packet("10.0.0.1", "10.0.0.2", 1, {static_cast<std::uint8_t>(type), 0, 0, 0, 0, 0, 0, 0})))
        << type;
  for (const int type : {3, 4, 5, 11, 12, 41, 255})
    EXPECT_TRUE(silent(ip_packet("10.0.0.1", "10.0.0.2", 1, {static_cast<std::uint8_t>(type), 0, 0, 0, 0, 0, 0, 0})))
        << type;
  for (const int type : {128, 129, 135})
    EXPECT_FALSE(
        silent(ip_packet("2001:db8::1", "2001:db8::2", 58, {static_cast<std::uint8_t>(type), 0, 0, 0, 0, 0, 0, 0})))
        << type;
  for (const int type : {1, 2, 3, 4, 100, 127, 137})
    EXPECT_TRUE(
        silent(ip_packet("2001:db8::1", "2001:db8::2", 58, {static_cast<std::uint8_t>(type), 0, 0, 0, 0, 0, 0, 0})))
        << type;
  EXPECT_TRUE(silent(ip_packet("10.0.0.1", "10.0.0.2", 1, {})));  // its type cannot be seen
  EXPECT_TRUE(silent(ip_packet("2001:db8::1", "2001:db8::2", 58, {})));
  EXPECT_TRUE(silent(ip_packet("2001:db8::1", "2001:db8::2", 60,
                               {58, 0, 1, 4, 0, 0, 0, 0, 1, 3, 0, 0})));  // an error behind an extension

  Octets fragment = udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 20);
  fragment[6] = 0x20;
  EXPECT_FALSE(silent(fragment));  // the first
  fragment[7] = 1;
  EXPECT_TRUE(silent(fragment));
  EXPECT_TRUE(silent(ip_packet("2001:db8::1", "2001:db8::2", 44, {17, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0})));

  for (const char* from : {"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "250.1.2.3"})
    EXPECT_TRUE(silent(udp_packet(from, 1, "10.0.0.2", 2, 20))) << from;
  for (const char* from : {"::", "::1", "ff02::1", "::ffff:10.0.0.1"})
    EXPECT_TRUE(silent(udp_packet(from, 1, "2001:db8::2", 2, 20))) << from;
  for (const char* to : {"224.0.0.1", "255.255.255.255", "169.254.1.1", "127.0.0.1"})
    EXPECT_TRUE(silent(udp_packet("10.0.0.1", 1, to, 2, 20))) << to;
  for (const char* to : {"ff02::1", "fe80::1", "::1"})
    EXPECT_TRUE(silent(udp_packet("2001:db8::1", 1, to, 2, 20), IcmpError::kTooBig)) << to;

  EXPECT_TRUE(
      silent(udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 20), IcmpError::kTooBig));  // without DF it is cut instead
  Octets out(2000);
  EXPECT_EQ(
      make_icmp_error(IcmpError::kUnreachable, udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 20), address(kRouter6), 0, out),
      0u);
  EXPECT_EQ(make_icmp_error(IcmpError::kUnreachable, udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 20), Address{}, 0, out),
            0u);
}

// Goal: the error may be built over the packet it is about, wherever the two overlap.
// Method: all distances from the full headroom to none, compared with the error built apart; a room too small changes
// nothing.
TEST(Icmp, CanBeBuiltInPlace) {
  for (const Octets& cause :
       {udp_packet("10.0.0.1", 1, "10.0.0.2", 2, 700), udp_packet("2001:db8::1", 1, "2001:db8::2", 2, 1300)}) {
    const bool v4 = is_ipv4(cause.data());
    const Octets wanted = error_for(IcmpError::kTimeExceeded, cause);
    for (std::size_t headroom = 0; headroom <= 96; ++headroom) {
      Octets buffer(96 + 2000);
      std::copy(cause.begin(), cause.end(), buffer.begin() + 96);
      const std::span<std::uint8_t> out{buffer.data() + 96 - headroom, 1500};
      const std::size_t length = make_icmp_error(IcmpError::kTimeExceeded, {buffer.data() + 96, cause.size()},
                                                 address(v4 ? kRouter4 : kRouter6), 0, out);
      ASSERT_EQ(Octets(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(length)), wanted) << headroom;
    }
    const std::size_t least = v4 ? 28 + 28 : 48 + 48;
    EXPECT_TRUE(error_for(IcmpError::kTimeExceeded, cause, 0, least - 1).empty());
    EXPECT_EQ(error_for(IcmpError::kTimeExceeded, cause, 0, least).size(), least);
  }
}

// Goal: an MTU that no host may believe is not said.
// Method: zero and tiny MTUs, and one beyond sixteen bits.
TEST(Icmp, SaysOnlyMtusThatTheProtocolsCanUse) {
  const Octets v4 = ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(1400), 64, 0, true);
  EXPECT_EQ(load_be16(&error_for(IcmpError::kTooBig, v4, 0)[26]), 68);
  EXPECT_EQ(load_be16(&error_for(IcmpError::kTooBig, v4, 100000)[26]), 65535);
  const Octets v6 = udp_packet("2001:db8::1", 1, "2001:db8::2", 2, 1400);
  EXPECT_EQ(load_be32(&error_for(IcmpError::kTooBig, v6, 1000)[44]), 1280u);
}

// Goal: over any second no more errors leave than the rate and one burst, and one destination cannot take what is for
// all.
// Method: a steady flood to one address, then to many, on an invented clock that may start anywhere.
TEST(Icmp, LimiterHoldsTheRatesForOneAndForAll) {
  for (const Instant start : {Instant{}, Instant{Duration{-5h}}, Instant{Duration{90000h}}}) {
    IcmpLimiter limiter{{100, 20}, {10, 5}, 7};
    int one = 0;
    for (Duration t{}; t < 10s; t += 1ms) one += limiter.allow(address("10.0.0.1"), start + t);
    EXPECT_GE(one, 10 * 10);
    EXPECT_LE(one, 10 * 10 + 5);

    int all = 0;
    for (Duration t = 20s; t < 30s; t += 1ms)
      for (int i = 0; i < 4; ++i) {
        const std::uint8_t to[4] = {10, 1, static_cast<std::uint8_t>(t.count() / 1000000 % 200),
                                    static_cast<std::uint8_t>(i)};
        all += limiter.allow(Address::v4(to), start + t);
      }
    EXPECT_GE(all, 10 * 100);
    EXPECT_LE(all, 10 * 100 + 20);
    EXPECT_TRUE(limiter.allow(address("2001:db8::1"), start + 60s));
  }
  IcmpLimiter never{{0, 10}, {10, 10}, 7};
  EXPECT_FALSE(never.allow(address("10.0.0.1"), Instant{Duration{1h}}));
}

// Goal: all addresses of an IPv6 /64 are one destination: an attacker owns them all.
// Method: a burst's worth of errors to different addresses of one /64, then one more.
TEST(Icmp, LimiterSeesAnIpv6SubnetAsOne) {
  IcmpLimiter limiter{{1000, 100}, {1, 3}, 7};
  EXPECT_TRUE(limiter.allow(address("2001:db8::1"), Instant{}));
  EXPECT_TRUE(limiter.allow(address("2001:db8::2"), Instant{}));
  EXPECT_TRUE(limiter.allow(address("2001:db8::ffff:1"), Instant{}));
  EXPECT_FALSE(limiter.allow(address("2001:db8::3"), Instant{}));
}

}  // namespace
}  // namespace wireplane

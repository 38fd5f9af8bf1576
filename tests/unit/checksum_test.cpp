#include "dataplane/wire/checksum.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/seed.h"

namespace wireplane {
namespace {

// The definition, two octets at a time (RFC 1071 §1).
std::uint16_t slow_checksum(const std::vector<std::uint8_t>& octets) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < octets.size(); i += 2) {
    sum += static_cast<std::uint32_t>(octets[i]) << 8 | (i + 1 < octets.size() ? octets[i + 1] : 0u);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<std::uint16_t>(~sum);
}

// Goal: the example of RFC 1071 §3, and a header known from practice.
// Method: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
TEST(Checksum, IsThatOfTheRfcsExample) {
  const std::vector<std::uint8_t> example = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(internet_checksum(example.data(), example.size()), static_cast<std::uint16_t>(~0xddf2));
  const std::vector<std::uint8_t> header = {0x45, 0,    0,    0x73, 0, 0, 0x40, 0,    0x40, 0x11,
                                            0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,    0xc7};
  EXPECT_EQ(internet_checksum(header.data(), header.size()), 0);  // right, with its own checksum in it
}

// Goal: any length and any content, also all ones, and any division into even pieces.
// Method: against the definition.
TEST(Checksum, EqualsTheDefinitionForAnyLengthAndPieces) {
  const std::uint64_t seed = test::seed_from_env_or(1071);
  test::Random random{seed};
  for (std::size_t length = 0; length < 300; ++length) {
    std::vector<std::uint8_t> octets(length);
    for (auto& octet : octets) octet = length % 3 == 0 ? 0xff : static_cast<std::uint8_t>(random());
    EXPECT_EQ(internet_checksum(octets.data(), length), slow_checksum(octets)) << length << " WG_SEED=" << seed;
    const std::size_t cut = length == 0 ? 0 : test::below(random, length) / 2 * 2;
    ChecksumSum sum;
    sum.add(octets.data(), cut);
    sum.add(octets.data() + cut, length - cut);
    EXPECT_EQ(sum.finish(), slow_checksum(octets)) << length << " cut at " << cut << " WG_SEED=" << seed;
  }
}

// Goal: a checksum changed by difference is the one computed anew, also where the sum passes zero (RFC 1624 §3).
// Method: random words in random headers, extremes preferred.
TEST(Checksum, ByDifferenceEqualsTheOneComputedAnew) {
  const std::uint64_t seed = test::seed_from_env_or(1624);
  test::Random random{seed};
  const std::uint16_t extremes[] = {0x0000, 0xffff, 0x0001, 0xfffe, 0x8000};
  const auto word = [&] { return random() % 2 ? extremes[random() % 5] : static_cast<std::uint16_t>(random()); };
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::uint8_t> header(20);
    for (std::size_t at = 0; at < 20; at += 2) store_be16(&header[at], word());
    header[0] = 0x45;  // a real header is never all zero: the one case in which both zeros of the ones' complement meet
    store_be16(&header[10], 0);
    store_be16(&header[10], internet_checksum(header.data(), 20));
    const std::size_t at = 12 + 2 * test::below(random, 4);
    const std::uint16_t before = load_be16(&header[at]), after = word();
    store_be16(&header[at], after);
    update_checksum(&header[10], before, after);
    EXPECT_EQ(internet_checksum(header.data(), 20), 0) << "WG_SEED=" << seed;
    std::vector<std::uint8_t> anew = header;
    store_be16(&anew[10], 0);
    EXPECT_EQ(load_be16(&header[10]), internet_checksum(anew.data(), 20))
        << before << "->" << after << " WG_SEED=" << seed;
  }
}

// Goal: pseudo-headers cover what the RFCs say, and folded() is what NEEDS_CSUM wants.
// Method: the pseudo-header is written out and summed by the definition.
TEST(Checksum, PseudoHeadersAreThoseOfTheRfcs) {
  const std::vector<std::uint8_t> v4 = {10, 1, 2, 3, 192, 168, 255, 254, 0, 17, 0x04, 0xd2};
  EXPECT_EQ(pseudo_header_v4(&v4[0], &v4[4], 17, 1234).finish(), slow_checksum(v4));
  std::vector<std::uint8_t> v6(32);
  for (std::size_t i = 0; i < 32; ++i) v6[i] = static_cast<std::uint8_t>(200 + 7 * i);
  std::vector<std::uint8_t> all = v6;
  all.insert(all.end(), {0, 1, 0x86, 0xa0, 0, 0, 0, 58});
  EXPECT_EQ(pseudo_header_v6(&v6[0], &v6[16], 58, 100000).finish(), slow_checksum(all));
  EXPECT_EQ(pseudo_header_v6(&v6[0], &v6[16], 58, 100000).folded(), static_cast<std::uint16_t>(~slow_checksum(all)));
}

}  // namespace
}  // namespace wireplane

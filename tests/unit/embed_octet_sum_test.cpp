// The sum of datagrams, with their copy, against checksum.h's.
#include "control/embed/octet_sum.h"

#include <gtest/gtest.h>

#include <vector>

#include "dataplane/wire/checksum.h"

namespace wireplane {
namespace {

// Goal: every length, at every distance from a word's start, sums to what checksum.h says, and is copied, nothing else.
TEST(OctetSum, AgreesWithTheChecksumAtEveryLength) {
  std::vector<std::uint8_t> octets(1600);
  for (std::size_t i = 0; i < octets.size(); ++i) octets[i] = static_cast<std::uint8_t>(i * 151 + i / 7);
  for (std::size_t count = 0; count < 1500; count += count < 200 ? 1 : 13)
    for (const std::size_t at : {0, 1, 7, 40}) {
      const auto expected = static_cast<std::uint16_t>(~internet_checksum(&octets[at], count));
      std::vector<std::uint8_t> copy(count + 64, 0xee);
      ASSERT_EQ(folded_sum(copy_with_sum(copy.data() + 32, &octets[at], count)), expected) << count;
      for (std::size_t i = 0; i < copy.size(); ++i)
        ASSERT_EQ(copy[i], i < 32 || i >= count + 32 ? 0xee : octets[at + i - 32]) << count << " at " << i;
    }
}

// Goal: sums that carry everywhere do not lose anything: all ones are all ones.
TEST(OctetSum, CarriesEverywhere) {
  const std::vector<std::uint8_t> ones(65536, 0xff);
  std::vector<std::uint8_t> copy(ones.size());
  const std::uint64_t sum = copy_with_sum(copy.data(), ones.data(), ones.size());
  EXPECT_EQ(folded_sum(sum), 0xffff);
  EXPECT_EQ(folded_sum(sum + 3 * word_in_sum(0xffff)), 0xffff);
  EXPECT_EQ(folded_sum(word_in_sum(0x1234)), 0x1234);
}

}  // namespace
}  // namespace wireplane

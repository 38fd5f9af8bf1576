// RecentDestinations: what it says was said to it under this version, whatever the addresses; and when it rests.
#include "dataplane/route/recent_destinations.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <tuple>

namespace wireplane {
namespace {

using Packet40 = std::array<std::uint8_t, 40>;

Packet40 packet_to(bool v4, std::uint64_t high, std::uint64_t low) {
  Packet40 ip{};
  ip[0] = v4 ? 0x45 : 0x60;
  if (v4) {
    store_le(ip.data() + 16, static_cast<std::uint32_t>(low));
  } else {
    store_le(ip.data() + 24, high);
    store_le(ip.data() + 32, low);
  }
  return ip;
}

// Goal: no answer but the last one given for exactly this address, family and version.
// Method: random questions and answers over few addresses, some of which differ in their family alone, or in one half,
// and a version that changes; a map is the oracle. Nothing may be found that it does not know.
TEST(RecentDestinations, SaysWhatItWasToldAndNothingElse) {
  RecentDestinations recent;
  std::mt19937_64 random{1};
  std::map<std::tuple<bool, std::uint64_t, std::uint64_t>, std::uint32_t> told;
  std::uint32_t version = 1;
  std::size_t found = 0;
  for (int i = 0; i < 200'000; ++i) {
    const bool v4 = random() % 2 == 0;
    const std::uint64_t high = v4 ? 0 : random() % 8, low = random() % 16;
    const Packet40 ip = packet_to(v4, high, low);
    if (random() % 1000 == 0) ++version, told.clear();
    if (random() % 4 == 0) {
      const auto slot = static_cast<std::uint32_t>(random() % 100 == 0 ? UINT32_MAX : random());
      recent.remember(ip.data(), version, slot);
      told[{v4, high, low}] = slot;
    }
    const auto answer = recent.find(ip.data(), version);
    if (!answer) continue;
    ++found;
    const auto known = told.find({v4, high, low});
    ASSERT_NE(known, told.end()) << "found what nobody said";
    ASSERT_EQ(*answer, known->second);
  }
  EXPECT_GT(found, 100'000u);
}

// Goal: an empty table knows nothing, not even of addresses of zeros at version zero.
TEST(RecentDestinations, AnEmptyTableKnowsNothing) {
  RecentDestinations recent;
  EXPECT_FALSE(recent.find(packet_to(true, 0, 0).data(), 0));
  EXPECT_FALSE(recent.find(packet_to(false, 0, 0).data(), 0));
}

// Goal: where destinations do not come again it is asked seldom, where they do always, and it finds out which it is.
TEST(RecentDestinations, RestsWhileNothingComesAgain) {
  RecentDestinations recent;
  std::uint64_t next = 0;
  const auto asked = [&](std::size_t bursts, std::uint64_t different) {
    std::size_t times = 0;
    for (std::size_t burst = 0; burst < bursts; ++burst) {
      if (!recent.useful(64)) continue;
      ++times;
      for (int i = 0; i < 64; ++i) {
        const Packet40 ip = packet_to(true, 0, next++ % different);
        if (!recent.find(ip.data(), 1)) recent.remember(ip.data(), 1, 7);
      }
    }
    return times;
  };
  EXPECT_EQ(asked(1000, 10), 1000u);
  EXPECT_LT(asked(10'000, UINT64_MAX), 800u);
  asked(300, 10);
  EXPECT_EQ(asked(1000, 10), 1000u);
}

}  // namespace
}  // namespace wireplane

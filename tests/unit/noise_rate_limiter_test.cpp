// Goal: 20 handshakes a second and 5 at once from each IPv4 address or IPv6 /64, in bounded memory.
// Method: the schedule of the Linux kernel's ratelimiter selftest; an oracle; a flood.
#include "control/noise/rate_limiter.h"

#include <map>

#include "dataplane/base/bytes.h"
#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

Address v4(std::uint32_t octets) { return endpoint(octets, 1).remote; }
Address v6(std::uint64_t high, std::uint64_t low) {
  std::uint8_t octets[16];
  store_be64(octets, high);
  store_be64(octets + 8, low);
  return Address::v6(octets);
}

// The kernel's selftest: a burst, one refused, one more after each wait of a token's time.
// proves: P13
TEST(RateLimiter, FollowsTheKernelsSchedule) {
  struct Step {
    bool allowed;
    Duration since_last;
  };
  std::vector<Step> schedule(RateLimiter::kBurst, Step{true, 0s});
  schedule.push_back({false, 0s});
  schedule.push_back({true, 50ms});
  schedule.push_back({false, 0s});
  schedule.push_back({true, 100ms});
  schedule.push_back({true, 0s});
  schedule.push_back({false, 0s});

  ScriptedEntropy entropy;
  RateLimiter limiter{entropy, 100};
  const auto run = [&](auto&& source, Duration start) {
    Duration now = start;
    for (std::size_t i = 0; i < schedule.size(); ++i) {
      now += schedule[i].since_last;
      EXPECT_EQ(limiter.allow(source(i), at(now)), schedule[i].allowed) << "step " << i;
    }
  };
  run([](std::size_t) { return v4(0x08080808); }, 0s);
  EXPECT_EQ(limiter.size(), 1u);
  run([](std::size_t) { return v4(0x08080809); }, 0s);  // its neighbour is another
  EXPECT_EQ(limiter.size(), 2u);
  // One /64 is one source, whichever of its addresses speaks...
  run([](std::size_t i) { return v6(0x20010db800000001, i); }, 10s);
  EXPECT_EQ(limiter.size(), 1u) << "what rested for a second is forgotten, and a /64 takes one place";
  // ...and the next /64 another.
  run([](std::size_t i) { return v6(0x20010db800000002, i << 32); }, 10s);
  EXPECT_EQ(limiter.size(), 2u);

  // Capacity: with all entries in use the next source is refused, and the known ones go on.
  RateLimiter small{entropy, 50};
  for (std::uint32_t i = 0; i <= small.capacity(); ++i) EXPECT_EQ(small.allow(v4(i), at(20s)), i != small.capacity());
  EXPECT_TRUE(small.allow(v4(0), at(20s)));
  EXPECT_TRUE(small.allow(v4(999), at(21s + 1ns))) << "a second later there is room";
}

TEST(RateLimiter, TellsAnIpv4AddressFromAnIpv6PrefixOfTheSameOctets) {
  ScriptedEntropy entropy;
  RateLimiter limiter{entropy, 4};
  EXPECT_TRUE(limiter.allow(v4(0x20010db8), at(0s)));
  EXPECT_TRUE(limiter.allow(v6(0x20010db800000000, 0), at(0s)));
  EXPECT_EQ(limiter.size(), 2u);
}

// Goal: over any time, each source gets exactly what a bucket of its own would give it.
// Method: random sources and pauses against one plain bucket a source, never forgotten.
TEST(RateLimiter, EqualsABucketPerSource) {
  ScriptedEntropy entropy;
  RateLimiter limiter{entropy, 64};
  struct Bucket {
    Duration used{}, tokens = RateLimiter::kFull;
  };
  std::map<std::uint32_t, Bucket> oracle;
  std::mt19937 random{5};
  Duration now = 0s;
  std::size_t allowed = 0, refused = 0;
  for (int i = 0; i < 200000; ++i) {
    now += Duration{random() % 1500000};
    if (random() % 1000 == 0) now += Duration{random() % 2000000000};
    const std::uint32_t source = random() % 64;
    Bucket& bucket = oracle[source];
    bucket.tokens = std::min(bucket.tokens + (now - bucket.used), RateLimiter::kFull);
    bucket.used = now;
    const bool expected = bucket.tokens >= RateLimiter::kCost;
    if (expected) bucket.tokens -= RateLimiter::kCost;
    ASSERT_EQ(limiter.allow(v4(source), at(now)), expected) << "call " << i;
    ++(expected ? allowed : refused);
  }
  EXPECT_GT(allowed, 1000u);
  EXPECT_GT(refused, 1000u);
}

// Goal: a flood of sources fills the table and no more, refuses newcomers, and has drained a second after it ends;
// nobody who was known before is denied by it.
TEST(RateLimiter, StaysBoundedUnderAFloodAndDrainsAfterIt) {
  ScriptedEntropy entropy;
  RateLimiter limiter{entropy, 1000};
  std::size_t allowed = 0;
  for (std::uint32_t i = 0; i < 100000; ++i) {
    const Instant now = at(Duration{10us} * i);
    allowed += limiter.allow(v6((std::uint64_t{i} << 32) + 1, 1), now);
    if (i % 5000 == 0) {
      EXPECT_TRUE(limiter.allow(v4(0x01020304), now)) << i;
    }
  }
  EXPECT_EQ(allowed, 999u);
  EXPECT_EQ(limiter.size(), 1000u);
  for (int i = 0; i < 250; ++i) (void)limiter.allow(v4(0x01020304), at(5s));
  EXPECT_EQ(limiter.size(), 1u);
}

TEST(RateLimiter, SurvivesAClockThatStandsStill) {
  ScriptedEntropy entropy;
  RateLimiter limiter{entropy, 2};
  EXPECT_TRUE(limiter.allow(v4(1), at(1s)));
  EXPECT_TRUE(limiter.allow(v4(1), at(0s)));  // an instant from before: no token more, none fewer
  EXPECT_TRUE(limiter.allow(v4(1), at(1s)));
  EXPECT_TRUE(limiter.allow(v4(1), at(1s)));
  EXPECT_TRUE(limiter.allow(v4(1), at(1s)));
  EXPECT_FALSE(limiter.allow(v4(1), at(1s)));
}

}  // namespace
}  // namespace wireplane::test

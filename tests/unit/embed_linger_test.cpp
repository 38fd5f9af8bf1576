// When a thread looks on before it sleeps (linger.h).
#include <gtest/gtest.h>

#include "control/linger.h"

namespace wireplane {
namespace {

constexpr Duration kShort = std::chrono::microseconds{60};
const Instant kBegin{};

// Goal: who was woken after a short sleep looks on the next time, for a moment.
TEST(Linger, AShortSleepMakesItLookOnAtMostSoLong) {
  Linger linger;
  EXPECT_FALSE(linger.pays(kBegin, kBegin));
  linger.slept(kBegin, kBegin + kShort);
  EXPECT_TRUE(linger.pays(kBegin, kBegin));
  EXPECT_FALSE(linger.pays(kBegin, kBegin + Linger::kLongest));
}

// Goal: who waits for long, as an idle node, or one that hears a datagram now and then, never looks on.
TEST(Linger, LongSleepsEndIt) {
  Linger linger;
  for (int i = 0; i < 10; ++i) linger.slept(kBegin, kBegin + kShort), linger.found();
  linger.slept(kBegin, kBegin + 10ms);
  EXPECT_FALSE(linger.pays(kBegin, kBegin));
  for (int i = 0; i < 100; ++i) {
    linger.slept(kBegin, kBegin + 10ms);
    EXPECT_FALSE(linger.pays(kBegin, kBegin));
  }
}

// Goal: where work comes a little later than it looks, it looks in vain seldom: once in five sleeps.
TEST(Linger, InVainItIsTriedSeldom) {
  Linger linger;
  int looked = 0;
  for (int i = 0; i < 1000; ++i) {
    looked += linger.pays(kBegin, kBegin);
    linger.slept(kBegin, kBegin + kShort);
  }
  EXPECT_GT(looked, 100);
  EXPECT_LE(looked, 260);
}

}  // namespace
}  // namespace wireplane

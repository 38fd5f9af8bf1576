#include "dataplane/session/replay_window.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "tests/support/seed.h"

namespace wireplane {
namespace {

constexpr std::uint64_t kSpan = 8128;  // as the kernel has it, and not as ReplayWindow says it
constexpr std::uint64_t kReject = UINT64_MAX - kSpan - 1;

struct Step {
  std::uint64_t counter;
  bool accepted;
};

// Goal: the window answers as the Linux module's does.
// Method: the situations of the module's counter self-test: in order, twice, late within the span, at its edge and
// behind it, after a jump of several turns of the ring, and at Reject-After-Messages.
// proves: P32
TEST(ReplayWindow, AnswersAsTheKernelsSelfTestDemands) {
  constexpr std::uint64_t far = 4 * (kSpan + 1);
  const Step steps[] = {
      {0, true},
      {1, true},
      {1, false},
      {9, true},
      {8, true},
      {7, true},
      {7, false},
      {kSpan + 1, true},
      {kSpan, true},
      {kSpan, false},
      {kSpan - 1, true},
      {2, true},
      {2, false},
      {kSpan + 17, true},
      {3, false},
      {kSpan + 17, false},
      {far, true},
      {far - kSpan, true},
      {10, false},
      {far - kSpan - 1, false},
      {far - kSpan - 2, false},
      {far - kSpan + 1, true},
      {far - kSpan, false},
      {0, false},
      {kReject, false},
      {kReject - 1, true},
      {kReject, false},
      {kReject - 1, false},
      {kReject - 2, true},
      {kReject + 1, false},
      {kReject + 2, false},
      {kReject - 2, false},
      {kReject - 3, true},
      {0, false},
      {UINT64_MAX, false},
  };
  ReplayWindow window{};
  int number = 0;
  for (const Step& step : steps) {
    ++number;
    EXPECT_EQ(window.accept(Counter{step.counter}), step.accepted) << "step " << number << ", counter " << step.counter;
  }
}

// Goal: a whole span of counters is taken in any order, and the oldest is lost exactly when the newest leaves it
// behind.
// Method: the module's loops: a full span upwards or downwards, then the one at the edge.
// proves: P32
TEST(ReplayWindow, HoldsAWholeSpanUpwardsAndDownwards) {
  const auto run = [](std::uint64_t first, std::uint64_t last, bool upwards) {
    ReplayWindow window{};
    for (std::uint64_t i = 0; i <= last - first; ++i) {
      const std::uint64_t counter = upwards ? first + i : last - i;
      EXPECT_TRUE(window.accept(Counter{counter})) << counter;
    }
    return window;
  };
  ReplayWindow window = run(1, kSpan, true);
  EXPECT_TRUE(window.accept(Counter{0}));
  EXPECT_FALSE(window.accept(Counter{0}));

  window = run(2, kSpan + 1, true);
  EXPECT_TRUE(window.accept(Counter{1}));
  EXPECT_FALSE(window.accept(Counter{0}));

  window = run(0, kSpan, false);
  EXPECT_FALSE(window.accept(Counter{0}));
  EXPECT_TRUE(window.accept(Counter{kSpan + 1}));

  window = run(1, kSpan + 1, false);
  EXPECT_FALSE(window.accept(Counter{0}));
}

// Goal: each counter is accepted once at most, and never refused while the window could know better.
// Method: a slow oracle that remembers everything; steps ahead, back and repeated, small and of many turns of the
// ring, also close to Reject-After-Messages.
// proves: P32
TEST(ReplayWindow, AcceptsEachCounterOnceInAnyOrder) {
  const std::uint64_t seed = test::seed_from_env_or(20261121);
  test::Random random{seed};
  for (int run = 0; run < 30; ++run) {
    ReplayWindow window{};
    std::set<std::uint64_t> seen;
    std::uint64_t newest = 0;
    std::uint64_t at = run % 3 == 0 ? kReject - 40000 : test::below(random, 3) * 100000;
    for (int i = 0; i < 20000; ++i) {
      const std::uint64_t reach = std::uint64_t{1} << test::below(random, 16);  // up to four turns of the ring
      const bool ahead = test::below(random, 2) == 0;
      std::uint64_t counter = ahead ? at + test::below(random, reach) : at - std::min(at, test::below(random, reach));
      if (test::below(random, 8) == 0 && !seen.empty())
        counter = *seen.rbegin() - std::min(*seen.rbegin(), kSpan - 2 + test::below(random, 4));
      const bool expected =
          counter < kReject && seen.count(counter) == 0 && (seen.empty() || counter + kSpan >= newest);
      ASSERT_EQ(window.accept(Counter{counter}), expected) << counter << " newest " << newest << " WG_SEED=" << seed;
      if (!expected) continue;
      seen.insert(counter);
      newest = std::max(newest, counter);
      at = newest;
    }
    EXPECT_EQ(window.next(), newest + 1);
  }
}

// Goal: only an accepted counter moves the window: not a refused one, however large.
// Method: the window's octets before and after refusals are compared.
// proves: P32, P33
TEST(ReplayWindow, IsMovedByNothingButAnAcceptedCounter) {
  ReplayWindow window{};
  for (std::uint64_t counter : {0u, 5u, 20000u, 20010u}) ASSERT_TRUE(window.accept(Counter{counter}));
  ReplayWindow before = window;
  for (std::uint64_t counter : {std::uint64_t{0}, std::uint64_t{20000}, std::uint64_t{20010},
                                std::uint64_t{20010 - kSpan - 1}, kReject, kReject + 1, UINT64_MAX})
    EXPECT_FALSE(window.accept(Counter{counter})) << counter;
  EXPECT_EQ(std::memcmp(&window, &before, sizeof window), 0);
  EXPECT_TRUE(window.accept(Counter{20010 - kSpan}));
}

// Goal: a window in zeroed memory has seen nothing.
// Method: memory of zeros is used as a window.
TEST(ReplayWindow, IsEmptyWhereMemoryIsZero) {
  alignas(ReplayWindow) std::uint8_t memory[sizeof(ReplayWindow)] = {};
  auto* window = reinterpret_cast<ReplayWindow*>(memory);
  EXPECT_EQ(window->next(), 0u);
  EXPECT_TRUE(window->accept(Counter{0}));
  EXPECT_FALSE(window->accept(Counter{0}));
}

}  // namespace
}  // namespace wireplane

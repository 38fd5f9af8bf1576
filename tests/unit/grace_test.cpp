// A grace period ends when every reader that was there has moved on, and not before.
#include "dataplane/base/grace.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace wireplane {
namespace {

TEST(Grace, SleepersAreNotWaitedForAndReadersAre) {
  Grace grace{3};
  std::uint64_t period = grace.begin();
  EXPECT_TRUE(grace.passed(period));  // nobody is online
  grace.online(0);
  EXPECT_TRUE(grace.passed(period));  // came after
  period = grace.begin();
  EXPECT_FALSE(grace.passed(period));
  grace.online(1);  // came after
  EXPECT_FALSE(grace.passed(period));
  grace.quiescent(0);
  EXPECT_TRUE(grace.passed(period));
  period = grace.begin();
  grace.offline(0);
  EXPECT_FALSE(grace.passed(period));
  grace.offline(1);
  EXPECT_TRUE(grace.passed(period));
}

TEST(Grace, FreesInOrderAndLetsCallbacksRetireMore) {
  Grace grace{1};
  std::vector<int> freed;
  grace.online(0);
  grace.retire([&] {
    freed.push_back(1);
    grace.retire([&] { freed.push_back(3); });
  });
  grace.retire([&] { freed.push_back(2); });
  EXPECT_FALSE(grace.reclaim());
  EXPECT_TRUE(freed.empty());
  grace.quiescent(0);
  EXPECT_FALSE(grace.reclaim());
  EXPECT_EQ(freed, (std::vector<int>{1, 2}));
  grace.offline(0);
  EXPECT_TRUE(grace.reclaim());
  EXPECT_EQ(freed, (std::vector<int>{1, 2, 3}));
}

// Goal: readers never see what was freed. Method: real threads; what is "freed" is marked, and readers look for marks.
TEST(Grace, ReadersNeverSeeWhatWasFreed) {
  struct Thing {
    std::atomic<bool> freed{false};
  };
  constexpr unsigned kReaders = 3;
  Grace grace{kReaders};
  std::vector<std::unique_ptr<Thing>> all;
  all.push_back(std::make_unique<Thing>());
  std::atomic<Thing*> current{all.back().get()};
  std::atomic<bool> stop{false};
  std::atomic<unsigned> seen_freed{0};
  std::vector<std::thread> readers;
  for (unsigned i = 0; i < kReaders; ++i)
    readers.emplace_back([&, i] {
      while (!stop.load(std::memory_order_relaxed)) {
        grace.online(i);
        const Thing* thing = current.load(std::memory_order_acquire);
        for (int look = 0; look < 50; ++look)
          if (thing->freed.load(std::memory_order_relaxed)) ++seen_freed;
        grace.offline(i);
      }
    });
  for (int i = 0; i < 20'000; ++i) {
    all.push_back(std::make_unique<Thing>());
    Thing* before = current.exchange(all.back().get(), std::memory_order_acq_rel);
    grace.retire([before] { before->freed.store(true, std::memory_order_relaxed); });
    grace.reclaim();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(seen_freed, 0u);
  EXPECT_TRUE(grace.reclaim(SIZE_MAX));
}

}  // namespace
}  // namespace wireplane

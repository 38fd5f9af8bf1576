// Rings lose nothing, double nothing, and keep their order.
#include "dataplane/base/ring.h"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>
#include <vector>

#include "tests/support/seed.h"

namespace wireplane {
namespace {

// Goal: a ring is a bounded queue. Method: random pushes and pops, small so that it wraps, against a deque.
TEST(SpscRing, IsABoundedQueue) {
  test::Random random{test::seed_from_env_or(1)};
  SpscRing<int> ring{8};
  std::deque<int> model;
  for (int i = 0; i < 100'000; ++i) {
    if (test::below(random, 2) == 0) {
      ASSERT_EQ(ring.push(i), model.size() < 8);
      if (model.size() < 8) model.push_back(i);
    } else {
      const int* front = ring.front();
      ASSERT_EQ(front != nullptr, !model.empty());
      if (front == nullptr) continue;
      ASSERT_EQ(*front, model.front());
      ring.pop();
      model.pop_front();
    }
    ASSERT_EQ(ring.size(), model.size());
  }
}

// Goal: what a thread pushes another reads whole and in order.
TEST(SpscRing, CarriesBetweenTwoThreads) {
  struct Large {
    std::uint64_t words[8];
  };
  SpscRing<Large> ring{64};
  constexpr std::uint64_t kCount = 200'000;
  std::thread producer{[&] {
    for (std::uint64_t i = 0; i < kCount;) {
      Large* slot = ring.reserve();
      if (slot == nullptr) {
        std::this_thread::yield();
        continue;
      }
      for (std::uint64_t& word : slot->words) word = i;
      ring.commit();
      ++i;
    }
  }};
  for (std::uint64_t i = 0; i < kCount;) {
    const Large* front = ring.front();
    if (front == nullptr) {
      std::this_thread::yield();
      continue;
    }
    for (const std::uint64_t word : front->words) ASSERT_EQ(word, i);
    ring.pop();
    ++i;
  }
  producer.join();
  EXPECT_TRUE(ring.empty());
}

// Goal: between many threads each item arrives once, and each producer's in order at each consumer.
TEST(MpmcRing, CarriesEachItemOnceBetweenManyThreads) {
  constexpr std::uint64_t kEach = 50'000, kProducers = 3, kConsumers = 2;
  MpmcRing<std::uint64_t> ring{32};
  std::vector<std::atomic<std::uint8_t>> seen(kEach * kProducers);
  std::atomic<std::uint64_t> left{kEach * kProducers};
  std::atomic<bool> disorder{false};
  std::vector<std::thread> threads;
  for (std::uint64_t p = 0; p < kProducers; ++p)
    threads.emplace_back([&, p] {
      for (std::uint64_t i = 0; i < kEach; ++i)
        while (!ring.push(p * kEach + i)) std::this_thread::yield();
    });
  for (std::uint64_t c = 0; c < kConsumers; ++c)
    threads.emplace_back([&] {
      std::uint64_t last[kProducers]{};
      for (std::uint64_t item; left.load() != 0;) {
        if (!ring.pop(item)) {
          std::this_thread::yield();
          continue;
        }
        ++seen[item];
        --left;
        std::uint64_t& before = last[item / kEach];
        if (item % kEach + 1 <= before) disorder = true;
        before = item % kEach + 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(disorder);
  for (const auto& count : seen) ASSERT_EQ(count.load(), 1);
}

}  // namespace
}  // namespace wireplane

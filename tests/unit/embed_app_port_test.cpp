// The parts between an application and its node's workers.
#include "control/embed/app_port.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <chrono>
#include <set>
#include <thread>

#include "control/embed/thrifty_pool.h"

namespace wireplane {
namespace {

struct Rig {
  explicit Rig(std::size_t capacity, FileDescriptor wake = {}) : port{capacity, std::move(wake), [this] { ++rung; }} {}
  ThriftyPool pool{512, 1536};
  AppPort port;
  BufferCache cache{pool};
  Counters counters;
  WorkerContext context{cache, counters};
  Burst burst;
  int rung = 0;
};

AppPort::Outbound packet(ThriftyPool& pool, std::uint32_t length) {
  Buffer* buffer = nullptr;
  EXPECT_EQ(pool.take(&buffer, 1), 1u);
  return {buffer, length};
}

// Goal: a worker that sleeps on the port's descriptor is woken by every push that it has not seen.
// Method: a producer that pauses now and then; the worker sleeps whenever it finds nothing, for at most 10 s: one lost
// wake-up is one test that takes as long.
TEST(EmbedAppPort, NoPushIsSleptThrough) {
  constexpr std::uint32_t kPackets = 20000;
  Rig rig{256, FileDescriptor{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}};
  std::thread producer{[&] {
    for (std::uint32_t i = 1; i <= kPackets; ++i) {
      const AppPort::Outbound out = packet(rig.pool, i);
      while (!rig.port.push(out)) std::this_thread::yield();
      rig.port.pushed();
      if (i % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds{50});
      while (rig.pool.available() < 128) std::this_thread::yield();  // the worker's cache holds some
    }
  }};
  std::uint32_t seen = 0;
  while (seen < kPackets) {
    rig.port.receive(rig.burst, rig.context);
    if (rig.burst.empty()) {
      std::vector<int> fds;
      rig.port.wake_fds(fds);
      pollfd polled{fds.at(0), POLLIN, 0};
      ASSERT_EQ(::poll(&polled, 1, 10000), 1) << "slept through a push after " << seen;
    }
    for (Packet& in : rig.burst) {
      ASSERT_EQ(in.length, ++seen) << "in order, each once";
      ASSERT_EQ(in.origin, Origin::kHost);
      rig.context.release(in);
    }
    rig.burst.clear();
  }
  producer.join();
  rig.cache.drain();
  EXPECT_EQ(rig.pool.available(), rig.pool.capacity());
}

// Goal: what the application does not take is dropped, counted, and its buffers come back; two of a
// worker's bursts always have room.
TEST(EmbedAppPort, AFullQueueDropsCountedAndKeepsNoBuffer) {
  Rig rig{16};
  for (std::uint32_t i = 0; i < 140; ++i) {
    Packet& in = rig.burst.add();
    in.buffer = rig.cache.take();
    in.data = in.buffer->memory + kHeadroom;
    in.length = i;
  }
  EXPECT_EQ(rig.port.send(rig.burst, rig.context), 128u);
  EXPECT_TRUE(rig.burst.empty());
  EXPECT_EQ(rig.rung, 1) << "once a burst";
  EXPECT_EQ(rig.counters.drops[static_cast<std::size_t>(Drop::kInnerSend)].get(), 12u);
  AppPort::Inbound in;
  for (std::uint32_t i = 0; i < 128; ++i) {
    ASSERT_TRUE(rig.port.pop(in));
    EXPECT_EQ(in.length, i);
    EXPECT_EQ(in.from, PeerId{}) << "from nobody";
    release(in.buffer);
  }
  EXPECT_FALSE(rig.port.pop(in));
  rig.cache.drain();
  EXPECT_EQ(rig.pool.available(), rig.pool.capacity());
}

// Goal: a port that goes takes nothing with it.
TEST(EmbedAppPort, WhatIsStillInsideGoesBackToThePool) {
  ThriftyPool pool{64, 1536};
  {
    AppPort port{16, {}, {}};
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(port.push(packet(pool, 1)));
    EXPECT_EQ(port.queued_out(), 10u);
    EXPECT_EQ(pool.available(), 54u);
  }
  EXPECT_EQ(pool.available(), 64u);
}

// Goal: light traffic touches few buffers, however large the pool; a heavy burst has them all, each once.
TEST(EmbedThriftyPool, TheLastBufferBackIsTheNextOut) {
  ThriftyPool pool{1024, 1536};
  std::set<Buffer*> touched;
  Buffer* buffers[1024];
  for (int round = 0; round < 1000; ++round) {
    ASSERT_EQ(pool.take(buffers, 64), 64u);
    touched.insert(buffers, buffers + 64);
    pool.give(buffers, 64);
  }
  EXPECT_EQ(touched.size(), 64u);
  EXPECT_EQ(pool.take(buffers, 1024), 1024u);
  EXPECT_EQ((std::set<Buffer*>{buffers, buffers + 1024}.size()), 1024u);
  EXPECT_EQ(pool.take(buffers, 1), 0u);
  EXPECT_EQ(pool.available(), 0u);
  pool.give(buffers, 1024);
}

// Goal: a buffer that two packets share goes back with the second.
TEST(EmbedThriftyPool, ASharedBufferComesBackWithItsLastReference) {
  ThriftyPool pool{1, 1536};
  Buffer* buffer = nullptr;
  ASSERT_EQ(pool.take(&buffer, 1), 1u);
  buffer->references.fetch_add(1);
  release(buffer);
  EXPECT_EQ(pool.available(), 0u);
  release(buffer);
  EXPECT_EQ(pool.available(), 1u);
}

}  // namespace
}  // namespace wireplane

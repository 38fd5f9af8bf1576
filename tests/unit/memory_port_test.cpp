#include "drivers/memory_port.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

Address v4(std::uint8_t last) { return ipv4(10, 0, 0, last); }

// Goal: what one end sends arrives at the other, with its source, its DS field, and the address it was sent to.
// Method: one datagram between two engines with pools of their own.
TEST(MemoryPort, DeliversWithSourceAndDsFieldFromPoolToPool) {
  MemoryNetwork network;
  auto a = network.attach({v4(1)}, 1000), b = network.attach({v4(2)}, 2000);
  TestWorker wa, wb;
  const Endpoint to_b = endpoint_of(v4(2), 2000);
  const std::vector<std::uint8_t> octets{1, 2, 3, 4, 5};
  wa.put(octets, &to_b, 0x88);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 1u);
  EXPECT_TRUE(wa.burst.empty());
  b->queue(0).receive(wb.burst, wb.context);
  ASSERT_EQ(wb.burst.size(), 1u);
  Packet& packet = wb.burst[0];
  EXPECT_TRUE(std::equal(octets.begin(), octets.end(), packet.data, packet.data + packet.length));
  EXPECT_EQ(packet.buffer->pool, &wb.pool);
  EXPECT_EQ(packet.from.remote, v4(1));
  EXPECT_EQ(packet.from.port, 1000);
  EXPECT_EQ(packet.from.local, v4(2));
  EXPECT_EQ(packet.tos, 0x88);
  EXPECT_GE(packet.headroom(), 96u);
  EXPECT_GE(packet.tailroom(), 31u);
  wb.context.release(packet);
}

// Goal: nothing disappears without a count. Method: no such host, no such family, full queue, small buffers.
TEST(MemoryPort, CountsWhatItCannotDeliver) {
  MemoryNetwork network{4};
  auto a = network.attach({v4(1)}), b = network.attach({v4(2)});
  TestWorker wa, wb{64, 100};
  const Endpoint nobody = endpoint_of(v4(9), 1), to_b = endpoint_of(v4(2), b->listen_port());
  const Endpoint other_family = endpoint_of(Address::v6(std::array<std::uint8_t, 16>{0xfe, 0x80}.data()), 1);
  const std::vector<std::uint8_t> small(50), large(101);
  wa.put(small, &nobody);
  wa.put(small, &other_family);
  for (int i = 0; i < 5; ++i) wa.put(i == 0 ? large : small, &to_b);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 4u);
  EXPECT_EQ(wa.drops(Drop::kOuterUnreachable), 2u);
  EXPECT_EQ(wa.drops(Drop::kOuterSend), 1u);
  b->queue(0).receive(wb.burst, wb.context);
  EXPECT_EQ(wb.burst.size(), 3u);
  EXPECT_EQ(wb.drops(Drop::kTruncated), 1u);
  EXPECT_EQ(wb.counters.refused.get(), 1u);
  for (Packet& packet : wb.burst) wb.context.release(packet);
}

// Goal: a device can move, and its sticky source falls back when it is gone. Method: change addresses, look at the
// source.
TEST(MemoryPort, FollowsItsAddressesAndPort) {
  MemoryNetwork network;
  auto a = network.attach({v4(1), v4(3)}, 1000), b = network.attach({v4(2)}, 2000);
  Endpoint to = endpoint_of(v4(2), 2000);
  to.local = v4(3);
  EXPECT_EQ(a->source_for(to).remote, v4(3));
  ASSERT_TRUE(a->set_addresses({v4(7)}));
  EXPECT_EQ(a->source_for(to).remote, v4(7));
  ASSERT_TRUE(a->set_listen_port(0));
  EXPECT_NE(a->listen_port(), 1000);
  ASSERT_TRUE(a->set_addresses({v4(2)}));
  const auto refused = a->set_listen_port(2000);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EADDRINUSE);
}

// Goal: data goes to its owner's queue. Method: receiver indices with every low 6 bits, to a device of three queues.
TEST(MemoryPort, SteersDataByReceiverIndex) {
  MemoryNetwork network;
  auto a = network.attach({v4(1)}), b = network.attach({v4(2)}, 2000, 3);
  TestWorker wa, wb;
  const Endpoint to_b = endpoint_of(v4(2), 2000);
  for (std::uint8_t i = 0; i < 64; ++i) {
    const std::vector<std::uint8_t> data{4, 0, 0, 0, i, 1, 2, 3, 0};
    wa.put(data, &to_b);
  }
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 64u);
  for (unsigned worker = 0; worker < 3; ++worker) {
    b->queue(worker).receive(wb.burst, wb.context);
    EXPECT_EQ(wb.burst.size(), worker == 0 ? 22u : 21u);
    for (Packet& packet : wb.burst) {
      EXPECT_EQ(packet.data[4] % 3u, worker);
      wb.context.release(packet);
    }
    wb.burst.clear();
  }
}

// Goal: an application can be the host. Method: push and pop around a worker that reflects.
TEST(MemoryPort, InnerEndReflectsPackets) {
  MemoryInnerDevice inner{1, 4};
  TestWorker w;
  const std::vector<std::uint8_t> packet{0x45, 1, 2, 3};
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(inner.push(packet));
  EXPECT_FALSE(inner.push(packet));
  inner.queue(0).receive(w.burst, w.context);
  EXPECT_EQ(w.burst.size(), 4u);
  EXPECT_EQ(inner.queue(0).send(w.burst, w.context), 4u);
  std::vector<std::uint8_t> out;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(inner.pop(out));
    EXPECT_EQ(out, packet);
  }
  EXPECT_FALSE(inner.pop(out));
}

// Goal: an empty pool delays, and loses nothing. Method: a pool of one bulk, all of it taken; then given back.
TEST(MemoryPort, AnEmptyPoolLeavesPacketsInTheQueue) {
  MemoryInnerDevice inner;
  TestWorker w{2};
  const std::vector<std::uint8_t> packet{0x45};
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(inner.push(packet));
  inner.queue(0).receive(w.burst, w.context);
  EXPECT_EQ(w.burst.size(), 2u);
  for (Packet& p : w.burst) w.context.release(p);
  w.burst.clear();
  inner.queue(0).receive(w.burst, w.context);
  EXPECT_EQ(w.burst.size(), 1u);
  for (Packet& p : w.burst) w.context.release(p);
}

// Goal: two threads may hold the two ends. Method: numbered packets, one sends, one receives; all arrive in order.
TEST(MemoryPort, CarriesBetweenTwoThreadsInOrder) {
  constexpr std::uint32_t kCount = 20'000;
  MemoryNetwork network;
  auto a = network.attach({v4(1)}), b = network.attach({v4(2)}, 2000);
  const Endpoint to_b = endpoint_of(v4(2), 2000);
  std::atomic<std::uint32_t> got{0};  // paces the sender, so that the bounded queue never overflows
  std::thread receiver{[&] {
    TestWorker w;
    while (got.load() < kCount) {
      b->queue(0).receive(w.burst, w.context);
      for (Packet& packet : w.burst) {
        std::uint32_t number;
        std::memcpy(&number, packet.data, sizeof number);
        EXPECT_EQ(number, got.load());
        got.fetch_add(1);
        w.context.release(packet);
      }
      if (w.burst.empty()) std::this_thread::yield();
      w.burst.clear();
    }
  }};
  TestWorker w;
  for (std::uint32_t i = 0; i < kCount;) {
    if (i - got.load() > 128) {
      std::this_thread::yield();
      continue;
    }
    const std::uint32_t end = std::min(i + 32, kCount);
    for (; i < end; ++i) {
      std::array<std::uint8_t, 4> octets;
      std::memcpy(octets.data(), &i, sizeof i);
      w.put(octets, &to_b);
    }
    EXPECT_GT(a->queue(0).send(w.burst, w.context), 0u);
  }
  receiver.join();
  EXPECT_EQ(got.load(), kCount);
}

// Not a test: what one core carries to another engine, for drivers/README.md.
TEST(MemoryPort, DISABLED_Speed) {
  for (const std::size_t length : {std::size_t{96}, std::size_t{1452}}) {
    MemoryNetwork network;
    auto a = network.attach({v4(1)}), b = network.attach({v4(2)}, 2000);
    TestWorker w;
    const Endpoint to = endpoint_of(v4(2), 2000);
    const double rate = packets_per_second(w, a->queue(0), b->queue(0), length, &to);
    std::printf("memory %4zu octets: %.2f Mpps, %.0f ns a packet, out and in\n", length, rate / 1e6, 1e9 / rate);
  }
}

}  // namespace
}  // namespace wireplane
